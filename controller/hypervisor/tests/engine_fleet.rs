//! What holds for all moves together: `suspend` and `abort`, the fleet's limits, history; and the other words that stop
//! something: `suspend` of a drain, `hold` of a guest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{
    MigrationPhase,
    kinds::{fleet::History, guest::Hold},
    quantity::{Bytes, Span},
    shared::Timestamp,
};
use evenkeel_engine::Clock;
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;

/// Three hosts and six guests on h1, whose moves take about nine seconds each.
async fn six(seed: u64) -> Actor {
    let (fleet, desk) = stage(seed, &["h1", "h2", "h3"].map(HostPlan::new));
    for number in 0..6 {
        fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}")));
    }
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    actor
}

fn started(actor: &Actor) -> usize {
    let view = actor.view();
    let migrations = view.migrations.values();
    migrations
        .filter(|one| one.status.start_time.is_some())
        .count()
}

async fn is_drained(actor: &Actor) {
    actor
        .until("drained", 600, |_| {
            let found = actor.condition("HostDrain", "d", "Drained");
            found.is_some_and(|found| found.status == "True")
        })
        .await;
}

/// Whoever asks: drains and explicit moves. What is under way goes on.
#[tokio::test(start_paused = true)]
async fn suspended_nothing_new_starts() {
    let actor = six(1).await;
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("two copy", 60, |_| actor.fleet.moving() == 2)
        .await;
    actor.desk.fleet(|spec| spec.suspend = true);
    actor.desk.migrate("m", "g5", Some("h3"));
    sleep(Duration::from_millis(100)).await;
    let before = started(&actor);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(started(&actor), before, "{}", actor.picture());
    assert_eq!(actor.fleet.moving(), 0, "they went on to their end");
    assert_eq!(actor.view().drains["d"].guests.left, 4);
    let ready = actor.condition("HostDrain", "d", "Ready").unwrap();
    assert_eq!(ready.reason, "Suspended");
    let own = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
    assert_eq!(own.reason, "Suspended", "{own:?}");
    assert!(actor.heard("Fleet", "default", "Suspended"));
    assert!(actor.fleet.claims().is_empty());
    actor.desk.fleet(|_| {});
    actor
        .until("it goes on within a second", 1, |_| {
            started(&actor) > before
        })
        .await;
    is_drained(&actor).await;
}

/// `abort` takes copies back, gives nothing up and goes on afterwards.
#[tokio::test(start_paused = true)]
async fn an_abort_of_the_fleet_gives_nothing_up() {
    let actor = six(2).await;
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("two copy", 60, |_| actor.fleet.moving() == 2)
        .await;
    sleep(Duration::from_secs(2)).await;
    actor
        .desk
        .fleet(|spec| (spec.suspend, spec.abort) = (true, true));
    actor
        .until("aborted", 20, |_| {
            actor.fleet.moving() == 0 && actor.fleet.journals().is_empty()
        })
        .await;
    sleep(Duration::from_secs(60)).await;
    assert!(actor.fleet.files("h2").is_empty() && actor.fleet.files("h3").is_empty());
    let view = actor.view();
    assert_eq!(view.drains["d"].guests.left, 6, "{}", actor.picture());
    for shown in view.migrations.values() {
        assert_eq!(shown.status.phase, MigrationPhase::Pending);
        assert_eq!(shown.status.failed_attempts, 0);
    }
    actor.desk.fleet(|_| {});
    is_drained(&actor).await;
    let view = actor.view();
    assert_eq!(
        view.migrations.len(),
        6,
        "the same moves: {}",
        actor.picture()
    );
    for shown in view.migrations.values() {
        assert_eq!(shown.status.phase, MigrationPhase::Succeeded);
    }
}

/// A drain's own `suspend`, and a guest's `hold`: within a second, and only what they are about.
#[tokio::test(start_paused = true)]
async fn guest_held_and_a_suspended_drain_start_nothing() {
    let actor = six(3).await;
    actor.desk.guest("g3", |spec| {
        spec.hold = Some(Hold {
            reason: "backup running".into(),
            until: None,
        });
    });
    actor.desk.drain("d", &["h1"], |spec| spec.suspend = true);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(started(&actor), 0);
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("all but one have left", 300, |view| {
            view.drains["d"].guests.left == 1
        })
        .await;
    let view = actor.view();
    let blocked = &view.drains["d"].blocked[0];
    assert_eq!(
        (blocked.guest.as_str(), blocked.reason.as_str()),
        ("g3", "GuestHeld")
    );
    // Nor does it leave because somebody asks for it by name.
    actor.desk.migrate("m", "g3", Some("h2"));
    actor.says("GuestMigration", "m", "GuestHeld", 10).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(actor.view().drains["d"].guests.left, 1);
    actor.desk.guest("g3", |_| {});
    actor
        .until("it starts within a second", 1, |_| started(&actor) == 6)
        .await;
    is_drained(&actor).await;
}

#[tokio::test(start_paused = true)]
async fn parallel_limit_of_the_fleet_holds_over_drains_and_moves() {
    let actor = six(4).await;
    actor.desk.fleet(|spec| spec.parallel = Some(1));
    actor.desk.drain("d", &["h1"], |_| {});
    actor.desk.migrate("m", "g5", Some("h3"));
    actor
        .until("it is said", 30, |_| {
            let found = actor.condition("GuestMigration", "m", "Succeeded");
            let waits = found.is_some_and(|found| found.reason == "ParallelLimit");
            waits || actor.status("m").start_time.is_some()
        })
        .await;
    let mut most = 0;
    for _ in 0..3000 {
        most = most.max(running(&actor));
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(most, 1, "{}", actor.picture());
    is_drained(&actor).await;
}

/// Moves that have left Pending and not ended.
fn running(actor: &Actor) -> usize {
    let view = actor.view();
    let phases = view.migrations.values().map(|one| one.status.phase);
    phases
        .filter(|phase| *phase != MigrationPhase::Pending && !phase.is_final())
        .count()
}

/// Each has its share, whatever the links carry, and all together no more than the whole, also where that has shrunk.
#[tokio::test(start_paused = true)]
async fn the_bandwidth_of_the_fleet_is_shared_out() {
    let actor = six(5).await;
    let given = || {
        let view = actor.view();
        let under_way = view.migrations.values().filter(|one| {
            one.status.phase != MigrationPhase::Pending && !one.status.phase.is_final()
        });
        under_way
            .filter_map(|one| one.status.profile.as_ref()?.spec.bandwidth)
            .map(|own| own.0 / MIB)
            .collect::<Vec<_>>()
    };
    actor.desk.fleet(|spec| {
        spec.bandwidth = Some(Bytes(80 * MIB));
        spec.parallel = Some(2);
    });
    actor.desk.drain("d", &["h1"], |_| {});
    actor.until("two", 30, |_| given() == [40, 40]).await;
    // What runs keeps what it has: nothing starts until there is room under the new limit.
    actor.desk.fleet(|spec| {
        spec.bandwidth = Some(Bytes(60 * MIB));
        spec.parallel = Some(3);
    });
    for _ in 0..6000 {
        let sum: u64 = given().iter().sum();
        assert!(sum <= 80, "{:?}", given());
        if given().contains(&20) {
            assert!(sum <= 60, "{:?}\n{}", given(), actor.picture());
        }
        sleep(Duration::from_millis(50)).await;
    }
    is_drained(&actor).await;
}

/// So many for each guest, and no longer than asked for; what a wish still goes by stays.
#[tokio::test(start_paused = true)]
async fn what_is_over_is_outdated_by_number_and_by_age() {
    let (fleet, desk) = stage(6, &["h1", "h2"].map(HostPlan::new));
    let guest = fleet.add_guest("h1", &GuestPlan::new("g"));
    let clock = Clock::simulated(Timestamp::now(), 6);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster().by(&clock));
    actor.settled().await;
    desk.fleet(|spec| {
        spec.history = History {
            per_guest: 2,
            ttl: Span(Duration::from_secs(3600)),
        };
    });
    desk.migrate("mine", "g", Some("h2"));
    actor.phase("mine", MigrationPhase::Succeeded, 60).await;
    for (host, target) in [("h2", "h1"), ("h1", "h2"), ("h2", "h1")] {
        desk.drain("d", &[host], |_| {});
        actor
            .until("it is there", 120, |_| fleet.executing(guest) == [target])
            .await;
        is_drained(&actor).await;
        desk.undrain("d");
        sleep(Duration::from_secs(5)).await;
    }
    let view = actor.view();
    assert_eq!(view.migrations.len(), 4);
    assert_eq!(view.outdated.len(), 1, "the oldest of the drains' own");
    let first = view.outdated.first().unwrap();
    assert!(first.as_str() != "mine", "what a user wrote is the user's");
    sleep(Duration::from_secs(3700)).await;
    desk.fleet(|spec| {
        spec.history.ttl = Span(Duration::from_secs(3600));
    });
    actor
        .until("all of them", 10, |view| view.outdated.len() == 3)
        .await;
    assert!(!actor.view().outdated.contains("mine"));
}

/// Placements and policies too.
#[tokio::test(start_paused = true)]
async fn suspended_placements_and_policies_move_nothing() {
    let (fleet, desk) = stage(7, &["h1", "h2", "h3"].map(HostPlan::new));
    for number in 0..6 {
        fleet.add_guest(
            "h1",
            &GuestPlan::new(&format!("g{number}")).memory(1200 * MIB),
        );
    }
    desk.fleet(|spec| spec.suspend = true);
    desk.policy("level", |spec| spec.limits.parallel = 2);
    desk.placement("away", &["g0"], |spec| {
        spec.hosts = Some(evenkeel_crds::shared::Picker {
            names: Some(vec!["h3".to_owned()]),
            selector: None,
        });
    });
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(started(&actor), 0, "{}", actor.picture());
    desk.fleet(|spec| spec.parallel = Some(1));
    for _ in 0..1200 {
        assert!(running(&actor) <= 1, "{}", actor.picture());
        sleep(Duration::from_millis(100)).await;
    }
    assert!(started(&actor) >= 2, "{}", actor.picture());
}
