//! Full fleets: guests that nobody asked to move leave for those of a drain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;

/// Three full hosts. The guest that is in the way fails at first: it is tried again like any other, and the drain ends.
#[tokio::test(start_paused = true)]
async fn a_drain_of_a_full_fleet_outlives_a_failed_attempt_to_make_way() {
    let hosts = ["h1", "h2", "h3"].map(|name| HostPlan::new(name).memory(8 * GIB));
    let (fleet, desk) = stage(43, &hosts);
    let guest = |name: &str, memory| GuestPlan::new(name).memory(memory);
    let large = fleet.add_guest("h1", &guest("large", 5 * GIB));
    for (name, host) in [("a", "h2"), ("b", "h3")] {
        fleet.add_guest(host, &guest(name, 2 * GIB + GIB / 2));
        fleet.add_guest(host, &guest(&format!("{name}-fixed"), GIB));
    }
    // The ways between h2 and h3 are blocked at first.
    fleet.cut("h2", "h3", true);
    fleet.cut("h3", "h2", true);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    actor.desk.drain("d", &["h1"], |_| {});
    sleep(Duration::from_secs(30)).await;
    let failed = || {
        let view = actor.view();
        let moves = view.migrations.values();
        moves.map(|shown| shown.status.failed_attempts).sum::<i32>()
    };
    assert!(failed() > 0, "{}", actor.picture());
    sleep(Duration::from_secs(30)).await;
    fleet.cut("h2", "h3", false);
    fleet.cut("h3", "h2", false);
    actor
        .until("the drain is done", 1200, |_| {
            let hosts = fleet.executing(large);
            hosts.len() == 1 && hosts[0] != "h1"
        })
        .await;
    sleep(Duration::from_secs(5)).await;
    let drained = actor.condition("HostDrain", "d", "Drained").unwrap();
    assert_eq!(drained.status, "True", "{}", actor.picture());
}

/// Two full hosts trade guests: the smaller one stops over at the third host, and both moves end where they were asked to.
#[tokio::test(start_paused = true)]
async fn guests_of_full_hosts_trade_places() {
    let hosts = ["h1", "h2", "h3"].map(|name| HostPlan::new(name).memory(8 * GIB));
    let (fleet, desk) = stage(44, &hosts);
    let guest = |name: &str, memory| GuestPlan::new(name).memory(memory);
    let large = fleet.add_guest("h1", &guest("large", 5 * GIB));
    let small = fleet.add_guest("h2", &guest("small", 4 * GIB));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    actor.desk.migrate("m1", "large", Some("h2"));
    actor.desk.migration("m2", |spec| {
        spec.guest = "small".to_owned();
        spec.source = Some("h2".to_owned());
        spec.target = Some("h1".to_owned());
    });
    actor
        .until("the smaller one stops over", 600, |_| {
            fleet.executing(small) == ["h3"]
        })
        .await;
    actor.phase("m1", MigrationPhase::Succeeded, 600).await;
    actor.phase("m2", MigrationPhase::Succeeded, 600).await;
    assert_eq!(fleet.executing(large), ["h2"]);
    assert_eq!(fleet.executing(small), ["h1"]);
    sleep(Duration::from_secs(60)).await;
    actor.clean(&[(large, "h2"), (small, "h1")]).await;
}
