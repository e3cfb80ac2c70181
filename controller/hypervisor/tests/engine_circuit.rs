//! A target at which several moves fail rests for everybody, says so, and is tried again by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;

/// Nobody reaches h2 from the other hosts, though it answers us.
#[tokio::test(start_paused = true)]
async fn a_target_that_fails_everybody_rests() {
    let hosts = ["h1", "h2", "h3", "h4", "h5"].map(HostPlan::new);
    let (fleet, desk) = stage(40, &hosts);
    let mut guests = Vec::new();
    for (name, host) in [("g1", "h1"), ("g3", "h3"), ("g4", "h4")] {
        guests.push(fleet.add_guest(host, &GuestPlan::new(name)));
    }
    let drained = fleet.add_guest("h5", &GuestPlan::new("g5"));
    for host in ["h1", "h3", "h4"] {
        fleet.cut(host, "h2", true);
    }
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    actor.desk.migrate("m1", "g1", Some("h2"));
    actor.desk.migrate("m3", "g3", Some("h2"));
    let ready = || actor.condition("Host", "h2", "MigrationReady").unwrap();
    actor
        .until("the circuit is open", 300, |_| {
            let ready = ready();
            (ready.status.as_str(), ready.reason.as_str()) == ("False", "CircuitOpen")
        })
        .await;
    // Nobody else's move has to fail there first.
    actor.desk.migrate("m4", "g4", Some("h2"));
    actor.says("GuestMigration", "m4", "CircuitOpen", 5).await;
    assert_eq!(actor.status("m4").failed_attempts, 0);

    // A drain goes elsewhere meanwhile.
    actor.desk.drain("d", &["h5"], |_| {});
    actor
        .until("the drain is done", 60, |_| {
            let hosts = fleet.executing(drained);
            hosts.len() == 1 && hosts[0] != "h5"
        })
        .await;
    assert_ne!(fleet.executing(drained), ["h2"], "{}", actor.picture());
    actor.desk.undrain("d");

    for host in ["h1", "h3", "h4"] {
        fleet.cut(host, "h2", false);
    }
    for name in ["m1", "m3", "m4"] {
        actor.phase(name, MigrationPhase::Succeeded, 1200).await;
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(ready().reason, "AsExpected", "{}", actor.picture());
    for guest in guests {
        assert_eq!(fleet.executing(guest), ["h2"], "{}", actor.picture());
    }
    assert_eq!(fleet.violations(), Vec::<String>::new());
}
