//! What failed attempts add up to, on real hosts: they are tried again, a target that fails them is avoided, and one that fails
//! everybody rests.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::{Fleet, object},
    lab::{DiskSpec, GuestSpec, HostSpec},
    stage::{PATIENCE, Stage},
    witness,
};

/// A host on which each QEMU dies that guests are to come to: their moves are tried again until the host has failed two guests
/// three times. From then on it rests, and nothing is sent there. A guest that may go anywhere goes elsewhere meanwhile. Once it
/// has rested, it gets those that want nothing else.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_target_that_fails_everybody_rests() -> Result<()> {
    let guest = |name: &str| {
        let disks = vec![DiskSpec::mib(64, 24)];
        GuestSpec::new(name).on("h1").disks(disks)
    };
    let lab = Stage::hosts()
        .host(HostSpec::new("h3"))
        .guest(guest("g1"))
        .guest(guest("g2"))
        .guest(guest("g3"))
        .up()?;
    let fleet = Fleet::of(&lab)?;
    fleet.write(
        "profile.yaml",
        &object("MigrationProfile", "default", "downtime: 1s"),
    )?;
    for (name, spec) in [
        ("m1", "guest: g1, target: h2"),
        ("m2", "guest: g2, target: h2"),
        ("m3", "guest: g3"),
    ] {
        let file = format!("{name}.yaml");
        fleet.write(&file, &object("GuestMigration", name, spec))?;
    }
    let target = lab.host("h2")?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    let until = Instant::now() + PATIENCE;
    let mut killed = 0;
    while !run.said().contains("CircuitOpen") {
        for (_, qemu) in target.qemus()? {
            qemu.signal("KILL")?;
            killed += 1;
        }
        let ended = run.has_ended(Duration::from_millis(100))?;
        ensure!(!ended && Instant::now() < until, "{}", run.said());
    }
    let rests = Instant::now();
    let said = run.said();
    ensure!(killed >= 3, "{killed} failures are enough\n{said}");
    ensure!(said.contains("h2 rests after failed moves"), "{said}");
    let status = run.end(PATIENCE)?;
    ensure!(status.code() == Some(0), "{status}\n{}", run.said());
    ensure!(
        rests.elapsed() > Duration::from_secs(50),
        "it did not rest\n{}",
        run.said()
    );
    for (name, host) in [("g1", "h2"), ("g2", "h2"), ("g3", "h3")] {
        let guest = lab.guest(name)?;
        ensure!(guest.host()?.name() == host, "{name}\n{}", run.said());
    }
    witness::all_is_well(&lab)?;
    witness::nothing_is_left_within(&lab, Duration::from_secs(30))
}
