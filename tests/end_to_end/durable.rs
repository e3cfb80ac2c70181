//! What was copied is on stable storage at the target before anything goes from the source: QEMU's own count of flushes says
//! so of a guest that writes, and one that does not is paused for a moment.

use std::time::Duration;

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{GuestSpec, Lab},
    witness,
};

const SOON: Duration = Duration::from_secs(5);

/// How often libvirt at the target told that it paused the guest where it had arrived, and let it go on.
fn pauses(lab: &Lab, fleet: &Fleet, guest: &str) -> Result<usize> {
    let events = lab.host("h2")?.events()?;
    fleet.run(&["migrate", guest, "h2"])?.expect(0)?;
    let mut count = 0;
    while events.wait_for(guest, "Suspended Paused", SOON) {
        ensure!(
            events.wait_for(guest, "Resumed Unpaused", SOON),
            "{guest} was not let go on"
        );
        count += 1;
    }
    Ok(count)
}

#[test]
fn a_guest_that_does_not_write_is_paused_for_a_moment() -> Result<()> {
    let mut idle = GuestSpec::new("idle").on("h1");
    idle.interval = 25.0;
    let lab = Lab::builder()
        .hosts(2)
        .guest(GuestSpec::new("busy").on("h1"))
        .guest(idle)
        .up()?;
    let fleet = Fleet::of(&lab)?;
    ensure!(pauses(&lab, &fleet, "busy")? == 0, "busy was paused");
    ensure!(
        pauses(&lab, &fleet, "idle")? == 1,
        "idle was not paused once"
    );
    for guest in lab.guests() {
        guest.wait_for_progress(Duration::from_secs(60))?;
        let continuity = guest.continuity()?;
        ensure!(continuity.is_unbroken(), "{}: {continuity:?}", guest.name());
        for report in witness::once_and_whole(&guest)? {
            ensure!(report.is_intact(), "{}: {report:?}", guest.name());
        }
    }
    witness::nothing_is_left(&lab)
}
