//! Whoever drives is killed, or two drive at once: one copy of everything, and nothing left over.

use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Lab},
    witness,
};

const PATIENCE: Duration = Duration::from_secs(120);

fn slow_lab() -> Result<Lab> {
    // A link on which a copy takes several seconds.
    Lab::builder()
        .hosts(2)
        .each_host(|host| host.rate(16_000_000))
        .guest(
            GuestSpec::new("g1")
                .on("h1")
                .disks(vec![DiskSpec::mib(128, 96)]),
        )
        .up()
}

const MOVE: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: over}\nspec: {guest: g1, target: h2}\n";

#[test]
fn a_killed_apply_is_taken_over() -> Result<()> {
    let lab = slow_lab()?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("move.yaml", MOVE)?;
    for wait in ["Preparing", "Copying"] {
        let mut run = fleet.start(&["apply", "--yes"])?;
        run.wait_for(wait, PATIENCE)?;
        if wait == "Copying" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        run.signal("KILL")?;
        run.end(PATIENCE)?;
        let again = fleet.run(&["apply", "--yes"])?.expect(0)?;
        ensure!(
            again.took < Duration::from_secs(50),
            "a dead holder's claim was waited for: {:?}",
            again.took
        );
        ensure!(lab.guest("g1")?.host()?.name() == "h2", "{again:?}");
        witness::all_is_well(&lab)?;
        witness::nothing_is_left(&lab)?;
        fleet
            .run(&["migrate", "g1", "h1"])
            .and_then(|answer| answer.expect(0))?;
        ensure!(
            lab.guest("g1")?.host()?.name() == "h1",
            "g1 did not come back"
        );
    }
    Ok(())
}

#[test]
fn of_two_one_acts_and_the_other_says_who() -> Result<()> {
    let lab = slow_lab()?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("move.yaml", MOVE)?;
    let mut first = fleet.start(&["apply", "--yes"])?;
    first.wait_for("Copying", PATIENCE)?;
    let second = fleet.run(&["apply", "--yes"])?.expect(4)?;
    ensure!(
        (second.out.clone() + &second.err).contains(&first.pid().to_string()),
        "the holder is not named: {second:?}"
    );
    let mut waiting = fleet.start(&["apply", "--yes", "--wait"])?;
    ensure!(first.end(PATIENCE)?.code() == Some(0), "{}", first.said());
    ensure!(
        waiting.end(PATIENCE)?.code() == Some(0),
        "{}",
        waiting.said()
    );
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "g1 is not on h2");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}

#[test]
fn interrupted_once_it_finishes_twice_it_takes_back() -> Result<()> {
    let lab = slow_lab()?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("move.yaml", MOVE)?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    run.signal("INT")?;
    std::thread::sleep(Duration::from_millis(1500));
    run.signal("INT")?;
    ensure!(run.end(PATIENCE)?.code() == Some(5), "{}", run.said());
    ensure!(
        lab.guest("g1")?.host()?.name() == "h1",
        "the abort came too late: {}",
        run.said()
    );
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    run.signal("INT")?;
    ensure!(run.end(PATIENCE)?.code() == Some(5), "{}", run.said());
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "{}", run.said());
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}

/// As if a libvirtd had died in a copy just after it had added a device for it: libvirt itself can't move such a guest any more.
#[test]
fn what_a_dead_libvirtd_left_in_a_qemu_is_removed() -> Result<()> {
    let lab = slow_lab()?;
    let fleet = Fleet::of(&lab)?;
    let host = lab.host("h1")?;
    let left = r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "migration-vda-storage"}}"#;
    host.virsh(&["qemu-monitor-command", "--domain", "g1", "--cmd", left])?;
    let answer = fleet.run(&["migrate", "g1", "h2"])?.expect(0)?;
    let said = answer.out.clone() + &answer.err;
    ensure!(
        said.contains("removed: migration-vda-storage"),
        "what was in the way is not named: {answer:?}"
    );
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "{answer:?}");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}
