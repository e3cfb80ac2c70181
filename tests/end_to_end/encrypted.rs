//! Guests on encrypted disks move on real hosts, and what opens them with them: to be seen by what is in the files, by the
//! secrets of both hosts, and by what nobody ever says.

use std::{io::Read as _, time::Duration};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, Lab, passphrase},
};

/// Each key is derived at the cost of seconds of a processor, as libvirt has it.
const PATIENCE: Duration = Duration::from_secs(120);
const SECRET: &str = "3c7b6b52-5d0e-4a52-9f0c-6a54a2f7c9d1";
const MARK: &str = "brought by evenkeel";

/// A raw, a thin qcow2 and a plain disk; one secret opens the first two.
fn stage() -> Result<(Lab, Fleet)> {
    let spec = GuestSpec::new("g1").on("h1").disks(vec![
        DiskSpec::mib(32, 8).raw().encrypted(SECRET),
        DiskSpec::mib(128, 24).encrypted(SECRET),
        DiskSpec::mib(16, 4),
    ]);
    let lab = Lab::builder().hosts(2).guest(spec).up()?;
    let fleet = Fleet::of(&lab)?;
    go(&fleet, "h2")?;
    Ok((lab, fleet))
}

fn go(fleet: &Fleet, target: &str) -> Result<()> {
    fleet.write(
        "move.yaml",
        &format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: to-{target}}}\n\
             spec: {{guest: g1, target: {target}}}\n"
        ),
    )
}

/// The secret as a host describes it, and its value.
fn secret(host: &Host<'_>) -> Result<(String, String)> {
    let description = host.virsh(&["secret-dumpxml", "--secret", SECRET])?;
    let value = host.virsh(&["secret-get-value", "--secret", SECRET])?;
    Ok((description, value.trim().to_owned()))
}

fn has_secret(host: &Host<'_>) -> bool {
    host.virsh(&["secret-dumpxml", "--secret", SECRET]).is_ok()
}

/// Its disks are on this host alone, whole as the guest sees them, and encrypted where they were.
fn is_on(lab: &Lab, guest: &Guest<'_>, here: &str, there: &str) -> Result<()> {
    let (here, there) = (lab.host(here)?, lab.host(there)?);
    // While it writes, QEMU may hold back what says that a cluster of a thin file is empty: read from outside it would be
    // noise. What is paused has been written.
    let runs = here.virsh(&["domstate", guest.name()])?.trim() == "running";
    if runs {
        here.virsh(&["suspend", guest.name()])?;
    }
    let reports: Result<Vec<_>> = guest
        .spec()
        .targets()
        .map(|target| Ok((guest.disk_report(&here, &target)?, target)))
        .collect();
    if runs {
        here.virsh(&["resume", guest.name()])?;
    }
    for (report, target) in reports? {
        ensure!(report.is_intact(), "{report:?}");
        if target == "vdb" {
            ensure!(
                report.allocated < 64 << 20,
                "it is thin no more: {report:?}"
            );
        }
    }
    let mut head = [0; 6];
    let raw = here.outside(&guest.disk_path(&here, "vda")?)?;
    std::fs::File::open(raw)?.read_exact(&mut head)?;
    ensure!(&head == b"LUKS\xba\xbe", "{head:?}");
    let thin = guest.disk_path(&here, "vdb")?;
    let info = here.exec(&["qemu-img", "info", "--force-share", &thin])?;
    ensure!(
        info.contains("encrypted: yes") && info.contains("format: luks"),
        "{info}"
    );
    let left = there.list_files()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Ends a run that moves, or waits, by two interrupts.
fn interrupt(run: &mut evenkeel_tests::evenkeel::Run) -> Result<()> {
    run.signal("INT")?;
    std::thread::sleep(Duration::from_millis(300));
    run.signal("INT")?;
    run.end(PATIENCE)?;
    Ok(())
}

#[test]
fn they_move_with_what_opens_them() -> Result<()> {
    let (lab, fleet) = stage()?;
    let (one, two, guest) = (lab.host("h1")?, lab.host("h2")?, lab.guest("g1")?);
    let before = secret(&one)?;
    ensure!(!has_secret(&two));
    let done = fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(guest.host()?.name() == "h2", "{}\n{}", done.out, done.err);
    guest.wait_for_progress(PATIENCE)?;
    let continuity = guest.continuity()?;
    ensure!(continuity.is_unbroken(), "{continuity:?}");
    is_on(&lab, &guest, "h2", "h1")?;
    // The same at both ends, without our mark; the source's may be needed by others.
    ensure!(secret(&two)? == before && secret(&one)? == before);
    let value = passphrase(SECRET);
    ensure!(!done.out.contains(&value) && !done.err.contains(&value));

    // Back again: it is there, and the same.
    fleet.remove("move.yaml")?;
    go(&fleet, "h1")?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(guest.host()?.name() == "h1");
    is_on(&lab, &guest, "h1", "h2")?;

    // Stopped, its files travel as they are.
    one.virsh(&["destroy", "--domain", guest.uuid()])?;
    two.virsh(&["secret-undefine", "--secret", SECRET])?;
    go(&fleet, "h2")?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    is_on(&lab, &guest, "h2", "h1")?;
    ensure!(secret(&two)? == before);
    two.virsh(&["start", "--domain", guest.uuid()])?;
    guest.wait_for_progress(PATIENCE)?;
    Ok(())
}

#[test]
fn aborted_or_killed_nothing_is_left() -> Result<()> {
    let (lab, fleet) = stage()?;
    let (one, two, guest) = (lab.host("h1")?, lab.host("h2")?, lab.guest("g1")?);
    let before = secret(&one)?;
    two.rate(Some(2_000_000))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    let (brought, value) = secret(&two)?;
    ensure!(brought.contains(MARK) && value == before.1, "{brought}");
    std::thread::sleep(Duration::from_secs(1));
    interrupt(&mut run)?;
    ensure!(guest.host()?.name() == "h1");
    guest.wait_for_progress(PATIENCE)?;
    ensure!(!has_secret(&two), "{:?}", secret(&two));
    is_on(&lab, &guest, "h1", "h2")?;
    ensure!(!run.said().contains(&passphrase(SECRET)));

    // Killed while it copies: libvirt goes on, and the next one finishes it.
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    run.signal("KILL")?;
    run.end(PATIENCE)?;
    two.rate(None)?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(guest.host()?.name() == "h2");
    is_on(&lab, &guest, "h2", "h1")?;
    ensure!(secret(&two)? == before && secret(&one)? == before);
    guest.wait_for_progress(PATIENCE)?;
    ensure!(guest.continuity()?.is_unbroken());
    Ok(())
}

#[test]
fn what_the_target_has_is_never_touched() -> Result<()> {
    let (lab, fleet) = stage()?;
    let (one, two, guest) = (lab.host("h1")?, lab.host("h2")?, lab.guest("g1")?);
    let refused = |reason: &str| -> Result<()> {
        let mut run = fleet.start(&["apply", "--yes"])?;
        run.wait_for(reason, PATIENCE)?;
        interrupt(&mut run)?;
        let left = two.list_files()?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(guest.host()?.name() == "h1");
        Ok(())
    };
    two.define_secret(SECRET, "private='no'", "another")?;
    let other = secret(&two)?;
    refused("SecretDiffers")?;
    ensure!(secret(&two)? == other);

    two.virsh(&["secret-undefine", "--secret", SECRET])?;
    two.define_secret(SECRET, "private='yes'", &passphrase(SECRET))?;
    refused("SecretPrivate")?;
    ensure!(has_secret(&two));

    // Private where it is: said before anybody asks. The guest runs on.
    one.virsh(&["secret-undefine", "--secret", SECRET])?;
    let migratable = || -> Result<String> { Ok(fleet.get("guests", "g1")?.to_string()) };
    ensure!(migratable()?.contains("SecretMissing"), "{}", migratable()?);
    one.define_secret(SECRET, "private='yes'", &passphrase(SECRET))?;
    ensure!(migratable()?.contains("SecretPrivate"), "{}", migratable()?);
    guest.wait_for_progress(PATIENCE)?;

    // Another one there is for the same use.
    one.virsh(&["secret-undefine", "--secret", SECRET])?;
    one.define_secret(SECRET, "private='no'", &passphrase(SECRET))?;
    two.virsh(&["secret-undefine", "--secret", SECRET])?;
    let usage = tempfile::NamedTempFile::new()?;
    let taken = format!(
        "<secret ephemeral='no' private='no'><usage type='volume'><volume>/lab/{SECRET}</volume></usage></secret>"
    );
    std::fs::write(usage.path(), taken)?;
    two.virsh(&["secret-define", "--file", &usage.path().to_string_lossy()])?;
    refused("SecretDiffers")?;
    ensure!(!has_secret(&two));
    Ok(())
}
