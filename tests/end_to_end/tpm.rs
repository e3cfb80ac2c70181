//! What a guest's emulated TPM keeps moves with it, on real hosts.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, bail, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, Lab},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The digest of what its TPM keeps on a host; nothing where there is none.
fn state(host: &Host<'_>, guest: &Guest<'_>) -> Result<Option<String>> {
    let file = format!(
        "/var/lib/libvirt/swtpm/{}/tpm2/tpm2-00.permall",
        guest.uuid()
    );
    let file = host.outside(&file)?;
    if !Path::new(&file).exists() {
        return Ok(None);
    }
    let said = Command::new("sha256sum").arg(&file).output()?;
    ensure!(said.status.success(), "{said:?}");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(said.split(' ').next().map(str::to_owned))
}

fn migration(name: &str, target: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {name}}}\n\
         spec: {{guest: g1, target: {target}}}\n"
    )
}

#[test]
fn it_keeps_what_it_kept() -> Result<()> {
    let guest = GuestSpec {
        extra_devices: "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
            .to_owned(),
        ..GuestSpec::new("g1")
            .on("h1")
            .disks(vec![DiskSpec::mib(64, 40)])
    };
    let lab = Lab::builder().hosts(2).guest(guest).up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let guest = lab.guest("g1")?;
    let Some(before) = state(&one, &guest)? else {
        bail!("its TPM keeps nothing");
    };
    let fleet = Fleet::of(&lab)?;

    // Aborted, it is where it was, and nowhere else.
    two.rate(Some(3_000_000))?;
    fleet.write("move.yaml", &migration("aborted", "h2"))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    std::thread::sleep(Duration::from_secs(2));
    run.signal("INT")?;
    run.signal("INT")?;
    run.end(PATIENCE)?;
    two.rate(None)?;
    ensure!(guest.host()?.name() == "h1");
    ensure!(state(&one, &guest)?.as_ref() == Some(&before));
    ensure!(state(&two, &guest)?.is_none());
    guest.wait_for_progress(PATIENCE)?;

    fleet.write("move.yaml", &migration("m", "h2"))?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(guest.host()?.name() == "h2");
    ensure!(state(&two, &guest)? == Some(before));
    ensure!(state(&one, &guest)?.is_none());
    guest.wait_for_progress(PATIENCE)?;
    let continuity = guest.continuity()?;
    ensure!(continuity.is_unbroken(), "{continuity:?}");

    // Not while it is stopped.
    two.virsh(&["destroy", "--domain", guest.uuid()])?;
    let object = fleet.get("guests", "g1")?.to_string();
    ensure!(
        object.contains("DeviceNotMigratable") && object.contains("only while it runs"),
        "{object}"
    );
    ensure!(state(&two, &guest)?.is_some());
    Ok(())
}
