//! What a host holds is counted while it can't tell of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;

/// A guest that its source has no more, and of which its silent target has not told, still takes its target's memory.
#[tokio::test(start_paused = true)]
async fn a_guest_between_two_hosts_takes_its_room() {
    let small = HostPlan::new("h2").memory(GIB);
    let (fleet, desk) = stage(41, &[HostPlan::new("h1"), small]);
    let guest = |name: &str| GuestPlan::new(name).memory(600 * MIB);
    let first = fleet.add_guest("h1", &guest("g1"));
    fleet.add_guest("h1", &guest("g2"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m1", "g1", Some("h2"));
    while fleet.phase(first).as_deref() != Some("Prepare") {
        sleep(Duration::from_millis(2)).await;
    }
    fleet.cut_client("one", "h2", true);
    desk.migrate("m2", "g2", Some("h2"));
    // The line counts as lost after 15 s of silence only.
    while fleet.domain("h1", first).is_some() {
        sleep(Duration::from_millis(2)).await;
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(
        actor.condition("Host", "h2", "Ready").unwrap().status,
        "True",
        "{}",
        actor.picture()
    );
    fleet.cut_client("one", "h2", false);
    actor.phase("m1", MigrationPhase::Succeeded, 60).await;
    sleep(Duration::from_secs(5)).await;
    let second = actor.status("m2");
    assert_eq!(
        (second.phase, second.attempts.len()),
        (MigrationPhase::Pending, 0),
        "{}",
        actor.picture()
    );
}
