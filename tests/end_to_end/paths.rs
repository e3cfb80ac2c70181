//! Disks that are not right in a pool's directory: in one below, and in one that no pool has.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Host, Lab},
    witness,
};

const PATIENCE: Duration = Duration::from_secs(120);
const BELOW: &str = "/var/lib/libvirt/images/g1/disks";
const OUTSIDE: &str = "/srv/data/vms";
const MOVE: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: over}\nspec: {guest: g1, target: h2}\n";

/// Every file under the directories that disks are in.
fn files(host: &Host<'_>) -> Result<BTreeSet<String>> {
    let found = host.exec(&[
        "sh",
        "-c",
        "find /var/lib/libvirt/images /srv/data -type f 2>/dev/null; true",
    ])?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Neither a file of a guest's nor a pool that was opened for a while is on this host.
fn is_bare(host: &Host<'_>) -> Result<()> {
    let files = files(host)?;
    ensure!(files.is_empty(), "{} has {files:?}", host.name());
    no_pool_is_open(host)
}

fn no_pool_is_open(host: &Host<'_>) -> Result<()> {
    let pools = host.virsh(&["pool-list", "--all", "--name"])?;
    ensure!(!pools.contains("evenkeel-"), "{}: {pools}", host.name());
    Ok(())
}

fn lab() -> Result<Lab> {
    // A link on which a copy takes several seconds.
    let lab = Lab::builder()
        .hosts(2)
        .each_host(|host| host.rate(16_000_000))
        .guest(GuestSpec::new("g1").on("h1").disks(vec![
            DiskSpec::mib(64, 32),
            DiskSpec::mib(64, 32).directory(BELOW),
            DiskSpec::mib(48, 16).raw().directory(OUTSIDE),
        ]))
        .up()?;
    lab.host("h2")?.exec(&["mkdir", "-p", OUTSIDE])?;
    Ok(lab)
}

#[test]
fn they_move_and_return() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let before = files(&one)?;
    ensure!(before.len() == 3, "{before:?}");
    for (host, other) in [(&two, &one), (&one, &two)] {
        fleet.run(&["migrate", "g1", host.name()])?.expect(0)?;
        ensure!(lab.guest("g1")?.host()?.name() == host.name());
        ensure!(files(host)? == before, "{:?}", files(host)?);
        is_bare(other)?;
        no_pool_is_open(host)?;
        witness::all_is_well(&lab)?;
    }
    // Stopped, it is carried as files.
    let stopped = lab.guest("g1")?;
    one.virsh(&["destroy", "--domain", stopped.uuid()])?;
    two.exec(&["sh", "-c", "rm -r /var/lib/libvirt/images/g1"])?;
    fleet.run(&["migrate", "g1", "h2"])?.expect(0)?;
    ensure!(files(&two)? == before, "{:?}", files(&two)?);
    is_bare(&one)
}

#[test]
fn an_apply_that_is_interrupted_or_killed_leaves_nothing() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let before = files(&one)?;
    fleet.write("move.yaml", MOVE)?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    run.signal("INT")?;
    std::thread::sleep(Duration::from_millis(1500));
    run.signal("INT")?;
    ensure!(run.end(PATIENCE)?.code() == Some(5), "{}", run.said());
    ensure!(lab.guest("g1")?.host()?.name() == "h1", "{}", run.said());
    is_bare(&two)?;
    let left = two.exec(&["ls", "/var/lib/libvirt/images"])?;
    ensure!(left.trim().is_empty(), "directories of h2: {left}");

    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    std::thread::sleep(Duration::from_millis(1500));
    run.signal("KILL")?;
    run.end(PATIENCE)?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "g1 is not on h2");
    ensure!(files(&two)? == before, "{:?}", files(&two)?);
    is_bare(&one)?;
    no_pool_is_open(&two)?;
    witness::all_is_well(&lab)
}

#[test]
fn a_target_without_the_directory_is_refused_by_name() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let two = lab.host("h2")?;
    two.exec(&["rm", "-r", OUTSIDE])?;
    fleet.write("move.yaml", MOVE)?;
    let plan = fleet.run(&["plan"])?.expect(3)?;
    let said = plan.out + &plan.err;
    ensure!(
        said.contains("PoolMissing") && said.contains(OUTSIDE),
        "{said}"
    );
    // Unless a pool is named for that disk.
    fleet.write(
        "move.yaml",
        &MOVE.replace(
            "target: h2}",
            "target: h2, disks: [{target: vdc, pool: default}]}",
        ),
    )?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "g1 is not on h2");
    ensure!(files(&two)?.contains("/var/lib/libvirt/images/g1-vdc.img"));
    is_bare(&lab.host("h1")?)?;
    witness::all_is_well(&lab)
}
