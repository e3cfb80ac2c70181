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
/// three times. From then on it rests, nothing is sent there, and who wants nothing else is told so. A guest that may go anywhere
/// goes elsewhere meanwhile. Once guests can come again, the same command brings the others.
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
    while !run.has_ended(Duration::from_millis(100))? {
        for (_, qemu) in target.qemus()? {
            qemu.signal("KILL")?;
            killed += 1;
        }
        ensure!(Instant::now() < until, "{}", run.said());
    }
    let said = run.said();
    ensure!(killed >= 3, "{killed} failures are enough\n{said}");
    ensure!(said.contains("CircuitOpen: h2 rests"), "{said}");
    ensure!(lab.guest("g3")?.host()?.name() == "h3", "{said}");
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    for (name, host) in [("g1", "h2"), ("g2", "h2"), ("g3", "h3")] {
        let guest = lab.guest(name)?;
        ensure!(guest.host()?.name() == host, "{name} is not on {host}");
    }
    witness::all_is_well(&lab)?;
    witness::nothing_is_left_within(&lab, Duration::from_secs(30))
}
