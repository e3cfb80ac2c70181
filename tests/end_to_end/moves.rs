//! Moves and drains from files, on hosts and guests of somebody else's making: odd names, raw and qcow2, several
//! disks and pools.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, HostSpec, Lab, PoolSpec},
    witness,
};

const PATIENCE: Duration = Duration::from_secs(120);

fn lab() -> Result<Lab> {
    let host = |name: &str| HostSpec::new(name).pool(PoolSpec::new("fast"));
    Lab::builder()
        .host(host("node-a"))
        .host(host("node-b.rack7"))
        .host(host("c"))
        .guest(GuestSpec::new("one").on("node-a"))
        .guest(
            GuestSpec::new("raw-two")
                .on("node-a")
                .memory_mib(112)
                .disks(vec![
                    DiskSpec::mib(64, 16).raw(),
                    DiskSpec::mib(48, 4).pool("fast"),
                ]),
        )
        .guest(
            GuestSpec::new("Three_disks")
                .on("node-a")
                .autostart()
                .disks(vec![
                    DiskSpec::mib(64, 8),
                    DiskSpec::mib(32, 2).raw().pool("fast"),
                    DiskSpec::mib(32, 0),
                ]),
        )
        .guest(GuestSpec::new("stays").on("c"))
        .up()
}

/// Bytes that each guest's disks occupy where it runs.
fn allocated(lab: &Lab) -> Result<BTreeMap<(String, String), u64>> {
    let mut all = BTreeMap::new();
    for guest in lab.guests() {
        let host = guest.host()?;
        for target in guest.spec().targets() {
            let report = guest.disk_report(&host, &target)?;
            all.insert((guest.name().to_owned(), target), report.allocated);
        }
    }
    Ok(all)
}

#[test]
fn a_drain_from_files_and_back() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let before = allocated(&lab)?;

    fleet.write("drain.yaml", "apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {name: patch-a}\nspec: {hosts: {names: [node-a]}}\n")?;
    let plan = fleet.run(&["plan", "-o", "json"])?.expect(2)?.json()?;
    ensure!(plan["kind"] == "Plan", "{plan}");
    let apply = fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(apply.took < PATIENCE, "{apply:?}");
    for guest in ["one", "raw-two", "stays"] {
        let host = lab.guest(guest)?.host()?;
        ensure!(host.name() != "node-a", "{guest} is still on node-a");
    }
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;
    for (disk, after) in allocated(&lab)? {
        let limit = before[&disk] as f64 * 1.05 + 512.0 * 1024.0;
        ensure!(
            after as f64 <= limit,
            "{disk:?} grew from {} to {after}",
            before[&disk]
        );
    }
    // The second time there is nothing to do, and the drained host says so.
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    fleet.run(&["plan"])?.expect(0)?;
    let drain = fleet.get("drains", "patch-a")?;
    let drained = drain["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["type"] == "Drained"));
    ensure!(
        drained.is_some_and(|one| one["status"] == "True"),
        "{drain}"
    );
    // Autostart went along.
    let host = lab.guest("Three_disks")?.host()?;
    let info = host.virsh(&["dominfo", "Three_disks"])?;
    ensure!(
        info.lines()
            .any(|line| line.starts_with("Autostart") && line.ends_with("enable")),
        "{info}"
    );

    // Into a drained host nothing moves, and the word says why.
    fleet.write("back.yaml", "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: one-back}\nspec: {guest: one, target: node-a}\n")?;
    let plan = fleet.run(&["plan"])?.expect(3)?;
    ensure!(
        (plan.out + &plan.err).contains("TargetDraining"),
        "no word of TargetDraining"
    );

    // The drain ends, the guest goes back.
    fleet.remove("drain.yaml")?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(
        lab.guest("one")?.host()?.name() == "node-a",
        "one did not come back"
    );
    // One move by its command, with the planner's choice of a host.
    fleet.remove("back.yaml")?;
    fleet.run(&["migrate", "raw-two"])?.expect(0)?;
    fleet.run(&["migrate", "raw-two", "node-a"])?.expect(0)?;
    ensure!(
        lab.guest("raw-two")?.host()?.name() == "node-a",
        "raw-two did not come back"
    );
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}
