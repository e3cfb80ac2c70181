//! Drainable on every Host: could it be emptied now, and if not, which guest is in the way and why; kept fresh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use evenkeel_crds::{MigrationPhase, kinds::guest::Evacuation};
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan};
use support::*;

/// Waits until the host says so.
async fn says(actor: &Actor, host: &str, answer: &str, reason: &str) {
    let said = |view: &View| {
        let mut all = view.hosts[host].conditions.iter();
        all.any(|one| one.type_ == "Drainable" && one.status == answer && one.reason == reason)
    };
    actor
        .until(&format!("{host} is drainable: {answer} {reason}"), 30, said)
        .await;
}

fn message(actor: &Actor, host: &str) -> String {
    actor.condition("Host", host, "Drainable").unwrap().message
}

#[tokio::test(start_paused = true)]
async fn it_is_said_and_kept_fresh() {
    let (actor, guest) = pair(1, &Role::new("one").cluster()).await;
    // Known as soon as anything is.
    for host in ["h1", "h2"] {
        says(&actor, host, "True", "AsExpected").await;
    }
    assert!(
        message(&actor, "h1").contains("1 guests"),
        "{}",
        message(&actor, "h1")
    );
    // A placement binds whoever would empty it.
    actor
        .desk
        .placement("db", &["g1"], |spec| spec.hosts = Some(named(&["h1"])));
    says(&actor, "h1", "False", "NoHostFits").await;
    assert!(
        message(&actor, "h1").contains("g1"),
        "{}",
        message(&actor, "h1")
    );
    actor.desk.change(|wishes| wishes.placements.clear());
    says(&actor, "h1", "True", "AsExpected").await;
    // Nothing goes where nothing may come.
    actor
        .desk
        .change_host("h2", |spec| spec.unschedulable = true);
    says(&actor, "h1", "False", "NoHostFits").await;
    actor
        .desk
        .change_host("h2", |spec| spec.unschedulable = false);
    says(&actor, "h1", "True", "AsExpected").await;
    // It follows the guest.
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor
        .until("h1 is seen empty", 30, |view| {
            let mut all = view.hosts["h1"].conditions.iter();
            all.any(|one| one.type_ == "Drainable" && one.message.contains("no guest runs"))
        })
        .await;
    assert_eq!(actor.fleet.executing(guest), ["h2"]);
    actor.quiet(120).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_too_large_for_any_other_host_is_named() {
    let (fleet, desk) = stage(
        2,
        &[HostPlan::new("h1"), HostPlan::new("h2").memory(4 * GIB)],
    );
    fleet.add_guest("h1", &GuestPlan::new("large").memory(5 * GIB));
    fleet.add_guest("h1", &GuestPlan::new("small"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    says(&actor, "h1", "False", "NoHostFits").await;
    let message = message(&actor, "h1");
    assert!(
        message.starts_with("1 of 2 guests") && message.contains("large"),
        "{message}"
    );
    says(&actor, "h2", "True", "AsExpected").await;
}

#[tokio::test(start_paused = true)]
async fn of_a_host_that_is_silent_nobody_knows() {
    let (actor, _) = pair(3, &Role::new("one")).await;
    actor.fleet.kill_libvirtd("h1");
    says(&actor, "h1", "Unknown", "HostUnreachable").await;
    actor.fleet.start_libvirtd("h1");
    says(&actor, "h1", "True", "AsExpected").await;
    // Where everything would have to go is silent.
    actor.fleet.kill_libvirtd("h2");
    says(&actor, "h1", "False", "NoHostFits").await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_a_drain_shuts_down_is_not_in_the_way() {
    let (actor, _) = pair(1, &Role::new("one").cluster()).await;
    actor
        .desk
        .change_host("h2", |spec| spec.unschedulable = true);
    says(&actor, "h1", "False", "NoHostFits").await;
    actor
        .desk
        .guest("g1", |spec| spec.evacuation = Evacuation::Shutdown);
    says(&actor, "h1", "True", "AsExpected").await;
    let said = message(&actor, "h1");
    assert!(said.ends_with("1 of them by being shut down"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn others_make_way_as_for_a_drain() {
    let hosts = [
        HostPlan::new("h1"),
        HostPlan::new("h2").memory(7 * GIB),
        HostPlan::new("h3").memory(7 * GIB),
    ];
    let (fleet, desk) = stage(5, &hosts);
    fleet.add_guest("h1", &GuestPlan::new("large").memory(5 * GIB));
    fleet.add_guest("h2", &GuestPlan::new("two").memory(2 * GIB));
    fleet.add_guest("h3", &GuestPlan::new("three").memory(2 * GIB));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    says(&actor, "h1", "True", "AsExpected").await;
    let said = message(&actor, "h1");
    assert!(said.ends_with("1 on other hosts would make way"), "{said}");
}
