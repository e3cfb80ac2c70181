//! Two engines on the same hosts: one acts, the other waits and says for whom; a dead one is in nobody's way for long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Two hosts, two guests on the first.
fn two_guests(seed: u64) -> (Fleet, Desk, Desk, [Uuid; 2]) {
    let (fleet, desk) = stage(
        seed,
        &[HostPlan::new("h1"), HostPlan::new("h2").bandwidth(50 * MIB)],
    );
    let guests = ["g1", "g2"].map(|name| fleet.add_guest("h1", &GuestPlan::new(name)));
    (fleet, desk, Desk::new(&["h1", "h2"]), guests)
}

#[tokio::test(start_paused = true)]
async fn one_acts_and_the_other_waits() {
    let (fleet, desk, desk_b, [g1, g2]) = two_guests(1);
    let a = Actor::start(&fleet, &desk, &Role::new("alice"));
    let b = Actor::start(&fleet, &desk_b, &Role::new("bob"));
    a.settled().await;
    b.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    a.phase("m", MigrationPhase::Copying, 5).await;
    desk_b.migrate("n", "g2", Some("h2"));
    b.says("GuestMigration", "n", "ClaimedByOther", 3).await;
    b.until("the hosts show it", 3, |_| {
        ["h1", "h2"].iter().any(|host| {
            b.condition("Host", host, "ClaimedByOther")
                .is_some_and(|shown| shown.status == "True" && shown.message.contains("alice"))
        })
    })
    .await;
    assert_eq!(fleet.moving(), 1);
    a.phase("m", MigrationPhase::Succeeded, 90).await;
    b.phase("n", MigrationPhase::Succeeded, 90).await;
    assert!(b.condition("Host", "h1", "ClaimedByOther").is_none());
    b.clean(&[(g1, "h2"), (g2, "h2")]).await;
    assert!(
        b.view().migrations.keys().all(|name| name.as_str() == "n"),
        "{}",
        b.picture()
    );
}

/// Both want the very same, from files: one moves the guest, the other finds it moved.
#[tokio::test(start_paused = true)]
async fn both_want_the_same() {
    for seed in 0..20 {
        let (fleet, desk, _, [g1, g2]) = two_guests(seed);
        let a = Actor::start(&fleet, &desk, &Role::new("alice").files());
        let b = Actor::start(&fleet, &desk, &Role::new("bob").files());
        desk.migrate("m", "g1", Some("h2"));
        desk.migrate("n", "g2", Some("h2"));
        for actor in [&a, &b] {
            actor.phase("m", MigrationPhase::Succeeded, 200).await;
            actor.phase("n", MigrationPhase::Succeeded, 200).await;
        }
        b.clean(&[(g1, "h2"), (g2, "h2")]).await;
        assert!(fleet.files("h1").is_empty());
    }
}

/// An engine that looks while another one acts adopts nothing of it.
#[tokio::test(start_paused = true)]
async fn a_running_move_is_left_to_its_holder() {
    let (fleet, desk, desk_b, [g1, _]) = two_guests(3);
    let a = Actor::start(&fleet, &desk, &Role::new("alice"));
    a.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    a.phase("m", MigrationPhase::Copying, 5).await;
    let b = Actor::start(&fleet, &desk_b, &Role::new("bob"));
    b.settled().await;
    let early = b.view().number;
    while !a.status("m").phase.is_final() {
        sleep(Duration::from_millis(100)).await;
    }
    let rose = b.view().number - early;
    assert!(rose < 60, "{rose} views");
    assert_eq!(a.status("m").phase, MigrationPhase::Succeeded);
    sleep(Duration::from_secs(10)).await;
    b.clean(&[(g1, "h2")]).await;
    assert!(b.view().migrations.is_empty(), "{}", b.picture());
}

/// A holder without a process identity that dies: its claim is broken after 60 s of silence and not before.
#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_waited_for_a_minute() {
    let (fleet, desk, desk_b, [g1, g2]) = two_guests(4);
    let a = Actor::start(&fleet, &desk, &Role::new("alice"));
    a.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    a.phase("m", MigrationPhase::Copying, 5).await;
    a.kill().await;
    let died = Instant::now();
    desk_b.migrate("n", "g2", Some("h2"));
    let b = Actor::start(&fleet, &desk_b, &Role::new("bob"));
    while fleet.claims().values().any(|claim| claim.holder == "alice") {
        assert!(died.elapsed() < Duration::from_secs(75), "{}", b.picture());
        if died.elapsed() < Duration::from_secs(60) {
            assert_eq!(fleet.claims().len(), 2, "broken after {:?}", died.elapsed());
        }
        sleep(Duration::from_millis(100)).await;
    }
    b.phase("n", MigrationPhase::Succeeded, 120).await;
    b.until("the dead one's move is finished too", 60, |_| {
        fleet.journals().is_empty()
    })
    .await;
    b.clean(&[(g1, "h2"), (g2, "h2")]).await;
    assert!(fleet.files("h1").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_holder_proven_dead_is_not_waited_for() {
    for (holder, next) in [
        (Role::new("alice").process(dead_process()), Role::new("bob")),
        (Role::new("alice").epoch(3), Role::new("bob").epoch(4)),
    ] {
        let (fleet, desk, desk_b, [g1, g2]) = two_guests(5);
        let a = Actor::start(&fleet, &desk, &holder);
        a.settled().await;
        desk.migrate("m", "g1", Some("h2"));
        a.phase("m", MigrationPhase::Copying, 5).await;
        a.kill().await;
        desk_b.migrate("n", "g2", Some("h2"));
        let b = Actor::start(&fleet, &desk_b, &next);
        b.until("it holds the hosts", 10, |_| {
            fleet.claims().values().all(|claim| claim.holder == "bob")
        })
        .await;
        b.phase("n", MigrationPhase::Succeeded, 120).await;
        b.until("the other's move is finished too", 60, |_| {
            fleet.journals().is_empty()
        })
        .await;
        b.clean(&[(g1, "h2"), (g2, "h2")]).await;
    }
}

/// A claim with a lower epoch of the same fleet is broken at once; one of another fleet is not.
#[tokio::test(start_paused = true)]
async fn another_fleets_epoch_means_nothing() {
    let (fleet, desk, desk_b, [g1, _]) = two_guests(6);
    let mut role = Role::new("alice").epoch(1);
    role.fleet = "elsewhere".into();
    let a = Actor::start(&fleet, &desk, &role);
    a.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    a.phase("m", MigrationPhase::Copying, 5).await;
    desk_b.migrate("n", "g2", Some("h2"));
    let b = Actor::start(&fleet, &desk_b, &Role::new("bob").epoch(9));
    b.says("GuestMigration", "n", "ClaimedByOther", 5).await;
    a.phase("m", MigrationPhase::Succeeded, 60).await;
    b.phase("n", MigrationPhase::Succeeded, 60).await;
    a.clean(&[(g1, "h2")]).await;
}

/// A holder that is cut off from its hosts for so long that another takes over finds its move finished, and acts no more.
#[tokio::test(start_paused = true)]
async fn a_holder_that_was_cut_off() {
    for (seed, after) in [(7, 200), (8, 2000), (9, 5000), (10, 9000), (11, 14000)] {
        let (fleet, desk, _, [g1, _]) = two_guests(seed);
        let a = Actor::start(&fleet, &desk, &Role::new("alice").files());
        a.settled().await;
        desk.migrate("m", "g1", Some("h2"));
        sleep(Duration::from_millis(after)).await;
        for host in ["h1", "h2"] {
            fleet.cut_client("alice", host, true);
        }
        let b = Actor::start(&fleet, &desk, &Role::new("bob").files());
        b.phase("m", MigrationPhase::Succeeded, 200).await;
        b.until("it is clean", 100, |_| fleet.journals().is_empty())
            .await;
        for host in ["h1", "h2"] {
            fleet.cut_client("alice", host, false);
        }
        a.phase("m", MigrationPhase::Succeeded, 100).await;
        sleep(Duration::from_secs(30)).await;
        a.clean(&[(g1, "h2")]).await;
        assert!(
            !fleet.files("h1").iter().any(|file| file.contains("g1")),
            "{}",
            a.picture()
        );
    }
}

/// A drain's claims are kept from guest to guest, and given back after the last.
#[tokio::test(start_paused = true)]
async fn claims_are_given_back() {
    let (fleet, desk, _, [g1, g2]) = two_guests(12);
    let a = Actor::start(&fleet, &desk, &Role::new("alice"));
    desk.drain("d", &["h1"], |spec| spec.parallel = 1);
    a.until("drained", 120, |_| {
        a.condition("HostDrain", "d", "Drained")
            .is_some_and(|drained| drained.status == "True")
    })
    .await;
    sleep(Duration::from_secs(5)).await;
    clean(&fleet, &[(g1, "h2"), (g2, "h2")], &a.picture());
}
