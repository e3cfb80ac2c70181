//! Guests that are not running move too, on real hosts: disks, chain, definition and all; killed, and started meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::{Fleet, Run},
    lab::{DiskSpec, Guest, GuestSpec, Host, Lab},
};

const PATIENCE: Duration = Duration::from_secs(60);
const BASE: &str = "/var/lib/libvirt/images/debian.qcow2";
const NVRAM: &str = "/var/lib/libvirt/qemu/nvram/g1.fd";
const FIRMWARE: &str = "/usr/share/seabios/bios-256k.bin";

/// Two hosts, on the first a stopped guest with an overlay, a raw disk, a variable store and autostart, and its move.
fn stage() -> Result<(Lab, Fleet)> {
    let mut overlay = DiskSpec::mib(128, 48).backing("debian.qcow2");
    if let Some(backing) = &mut overlay.backing {
        backing.everywhere = false;
    }
    let spec = GuestSpec::new("g1")
        .on("h1")
        .disks(vec![overlay, DiskSpec::mib(64, 24).raw()]);
    let lab = Lab::builder().hosts(2).guest(spec.stopped()).up()?;
    {
        let (one, guest) = (lab.host("h1")?, lab.guest("g1")?);
        let make =
            format!("mkdir -p /var/lib/libvirt/qemu/nvram; head -c 131072 /dev/urandom > {NVRAM}");
        one.exec(&["sh", "-ec", &make])?;
        let loader = format!(
            "<loader readonly='yes' type='pflash'>{FIRMWARE}</loader><nvram>{NVRAM}</nvram><kernel>"
        );
        let definition = one
            .virsh(&["dumpxml", "--domain", guest.uuid()])?
            .replace("<kernel>", &loader);
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), definition)?;
        one.virsh(&["define", &file.path().to_string_lossy()])?;
        one.virsh(&[
            "desc",
            "--config",
            "--domain",
            guest.uuid(),
            "--new-desc",
            "kept as it was",
        ])?;
        one.virsh(&["autostart", "--domain", guest.uuid()])?;
    }
    let fleet = Fleet::of(&lab)?;
    fleet.write(
        "move.yaml",
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: m}\nspec: {guest: g1, target: h2}\n",
    )?;
    Ok((lab, fleet))
}

fn own_files(host: &Host<'_>) -> Result<Vec<String>> {
    let all = host.list_files()?.into_iter().map(|file| file.path);
    Ok(all.filter(|path| path != BASE).collect())
}

/// It is defined on this host alone, as it was, its disks whole, and nothing is left of it or of the move elsewhere.
fn is_on(lab: &Lab, guest: &Guest<'_>, here: &str, there: &str) -> Result<()> {
    let (here, there) = (lab.host(here)?, lab.host(there)?);
    let uuid = guest.uuid();
    let info = here.virsh(&["dominfo", "--domain", uuid])?;
    ensure!(info.contains("Autostart:      enable"), "{info}");
    let definition = here.virsh(&["dumpxml", "--inactive", "--domain", uuid])?;
    ensure!(definition.contains("kept as it was"), "{definition}");
    ensure!(there.virsh(&["dominfo", "--domain", uuid]).is_err());
    ensure!(own_files(&there)?.is_empty(), "{:?}", own_files(&there)?);
    ensure!(there.exec(&["test", "-e", NVRAM]).is_err());
    here.exec(&["test", "-e", NVRAM])?;
    for host in [&here, &there] {
        let pools = host.virsh(&["pool-list", "--all", "--name"])?;
        ensure!(pools.trim() == "default", "{pools}");
    }
    for target in guest.spec().targets() {
        let report = guest.disk_report(&here, &target)?;
        ensure!(report.first_difference.is_none(), "{report:?}");
    }
    Ok(())
}

/// Waits until so many bytes of the raw disk are at the target.
fn half_way(two: &Host<'_>, run: &Run) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let file = "/var/lib/libvirt/images/g1-vdb.img";
        let blocks = two.exec(&["stat", "--format=%b", file]).unwrap_or_default();
        if blocks.trim().parse::<u64>().unwrap_or(0) > 8_000 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "nothing is copied: {}", run.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_stopped_guest_moves_and_starts_there() -> Result<()> {
    let (lab, fleet) = stage()?;
    let (two, guest) = (lab.host("h2")?, lab.guest("g1")?);
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    is_on(&lab, &guest, "h2", "h1")?;
    // A second apply has nothing to do.
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    two.virsh(&["start", "--domain", guest.uuid()])?;
    guest.wait_for_progress(PATIENCE)?;
    Ok(())
}

#[test]
fn killed_in_mid_copy() -> Result<()> {
    let (lab, fleet) = stage()?;
    let (two, guest) = (lab.host("h2")?, lab.guest("g1")?);
    two.rate(Some(8_000_000))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    half_way(&two, &run)?;
    run.signal("KILL")?;
    run.end(PATIENCE)?;
    two.rate(None)?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    is_on(&lab, &guest, "h2", "h1")
}

#[test]
fn started_in_mid_copy() -> Result<()> {
    let (lab, fleet) = stage()?;
    let (one, two, guest) = (lab.host("h1")?, lab.host("h2")?, lab.guest("g1")?);
    two.rate(Some(8_000_000))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    half_way(&two, &run)?;
    one.virsh(&["start", "--domain", guest.uuid()])?;
    run.wait_for("GuestStarted", PATIENCE)?;
    two.rate(None)?;
    // Then it moves as what it is by now.
    let ended = run.end(2 * PATIENCE)?;
    ensure!(ended.success(), "{}", run.said());
    ensure!(guest.host()?.name() == "h2");
    guest.wait_for_progress(PATIENCE)?;
    let continuity = guest.continuity()?;
    assert!(continuity.is_unbroken(), "{continuity:?}");
    is_on(&lab, &guest, "h2", "h1")
}
