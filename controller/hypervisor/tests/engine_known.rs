//! What others got wrong while moves run, by name. What they got wrong in a plan is in the planner's `tests/known.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeSet, time::Duration};

use evenkeel_crds::{MigrationPhase, kinds::placement::Topology, quantity::Span};
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const HOST: &str = "evenkeel.dev/host";

/// These hosts, with so many guests on h1.
async fn crowd(seed: u64, hosts: &[HostPlan], guests: usize) -> (Actor, Vec<Uuid>) {
    let (fleet, desk) = stage(seed, hosts);
    let uuids = (1..=guests)
        .map(|number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}"))))
        .collect();
    let role = Role::new("one").cluster().on_virtual_time();
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    (actor, uuids)
}

async fn is_drained(actor: &Actor, status: &str) {
    actor
        .until(&format!("Drained is {status}"), 600, |_| {
            let found = actor.condition("HostDrain", "d", "Drained");
            found.is_some_and(|found| found.status == status)
        })
        .await;
}

/// Taking the wish back ends the evacuation: nothing is remembered of it but what is copied already.
#[tokio::test(start_paused = true)]
async fn kubevirt_9585_an_uncordoned_host_is_emptied_no_further() {
    let (actor, guests) = crowd(1, &["h1", "h2", "h3"].map(HostPlan::new), 6).await;
    actor.desk.drain("d", &["h1"], |spec| spec.parallel = 2);
    actor
        .until("two copy", 60, |_| actor.fleet.moving() == 2)
        .await;
    actor.desk.undrain("d");
    sleep(Duration::from_secs(600)).await;
    let stayed = guests.iter().filter(|guest| {
        let at = actor.fleet.executing(**guest);
        at == ["h1"]
    });
    assert_eq!(stayed.count(), 4, "{}", actor.picture());
    assert_eq!(actor.fleet.moving(), 0);
}

/// Where no host fits there is no loop of attempts: there is none at all, for as long as nothing changes.
#[tokio::test(start_paused = true)]
async fn harvester_5306_an_evacuation_without_a_target_is_no_endless_loop() {
    let hosts = [
        HostPlan::new("h1").memory(16 * GIB),
        HostPlan::new("h2").memory(2 * GIB),
    ];
    let (fleet, desk) = stage(2, &hosts);
    let big = fleet.add_guest("h1", &GuestPlan::new("big").memory(6 * GIB));
    let role = Role::new("one").cluster().on_virtual_time();
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    desk.drain("d", &["h1"], |_| {});
    actor
        .until("the drain is stalled", 30, |_| {
            let stalled = actor.condition("HostDrain", "d", "Stalled");
            stalled.is_some_and(|stalled| {
                stalled.status == "True" && stalled.message.contains("NoHostFits")
            })
        })
        .await;
    actor.quiet(3600).await;
    assert_eq!(fleet.executing(big), ["h1"]);
    let moves = actor.view().migrations.len();
    assert_eq!(moves, 0, "{}", actor.picture());
}

/// A host is drained as long as it is seen to be empty, not because all moves have ended.
#[tokio::test(start_paused = true)]
async fn harvester_8856_a_host_is_drained_when_it_is_seen_to_be_empty() {
    let (actor, guests) = crowd(3, &["h1", "h2", "h3"].map(HostPlan::new), 2).await;
    actor.desk.drain("d", &["h1"], |_| {});
    is_drained(&actor, "True").await;
    // By somebody who does not know of the drain.
    let late = actor.fleet.add_guest("h1", &GuestPlan::new("late"));
    is_drained(&actor, "False").await;
    is_drained(&actor, "True").await;
    let at: Vec<_> = guests.iter().chain([&late]).collect();
    let at: Vec<_> = at
        .iter()
        .map(|guest| actor.fleet.executing(**guest))
        .collect();
    assert!(at.iter().all(|hosts| hosts.len() == 1 && hosts[0] != "h1"));
}

/// Two moves that each would be right alone do not put guests together that belong apart.
#[tokio::test(start_paused = true)]
async fn nova_1821755_concurrent_moves_keep_apart_what_belongs_apart() {
    let (fleet, desk) = stage(4, &["h1", "h2", "h3"].map(HostPlan::new));
    let guests = [
        fleet.add_guest("h1", &GuestPlan::new("g1")),
        fleet.add_guest("h2", &GuestPlan::new("g2")),
    ];
    desk.placement("apart", &["g1", "g2"], |spec| {
        spec.apart = Some(Topology {
            topology_key: HOST.to_owned(),
        });
    });
    let role = Role::new("one").cluster().on_virtual_time();
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    desk.migrate("m1", "g1", Some("h3"));
    desk.migrate("m2", "g2", Some("h3"));
    sleep(Duration::from_secs(300)).await;
    let at: Vec<_> = guests
        .iter()
        .flat_map(|guest| fleet.executing(*guest))
        .collect();
    assert_eq!(at.len(), 2);
    assert_ne!(at[0], at[1], "{}", actor.picture());
    assert!(at.contains(&"h3".to_owned()));
    let refused = ["m1", "m2"].map(|name| {
        let told = actor
            .condition("GuestMigration", name, "Succeeded")
            .unwrap();
        told.reason == "PlacementForbids"
    });
    assert_eq!(refused.iter().filter(|one| **one).count(), 1);
}

/// A move that failed is told as failed, and its guest is where it is seen to run.
#[tokio::test(start_paused = true)]
async fn watcher_2106407_what_has_failed_is_no_success() {
    let (actor, guest) = pair(5, &Role::new("one").cluster()).await;
    actor.fleet.cut("h1", "h2", true);
    actor.desk.migrate("m", "g1", Some("h2"));
    assert_eq!(actor.ends("m", 900).await, MigrationPhase::Failed);
    let told = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
    assert_eq!(told.status, "False", "{told:?}");
    actor.clean(&[(guest, "h1")]).await;
}

/// A policy whose move has failed does not take its guest for moved: it is level when the guests are, and comes there.
#[tokio::test(start_paused = true)]
async fn proxlb_7_a_failed_move_is_not_counted_as_done() {
    let (actor, guests) = crowd(6, &["h1", "h2", "h3"].map(HostPlan::new), 6).await;
    for other in ["h2", "h3"] {
        actor.fleet.cut("h1", other, true);
    }
    actor.desk.policy("level", |spec| {
        spec.cooldown = Span(Duration::from_secs(60));
    });
    sleep(Duration::from_secs(100)).await;
    let balanced = actor.condition("RebalancePolicy", "level", "Balanced");
    assert_eq!(balanced.unwrap().status, "False", "{}", actor.picture());
    assert!(
        guests
            .iter()
            .all(|guest| actor.fleet.executing(*guest) == ["h1"])
    );
    for other in ["h2", "h3"] {
        actor.fleet.cut("h1", other, false);
    }
    actor
        .until("level", 7200, |_| {
            let found = actor.condition("RebalancePolicy", "level", "Balanced");
            found.is_some_and(|found| found.status == "True")
        })
        .await;
    let left = guests.iter().filter(|guest| {
        let at = actor.fleet.executing(**guest);
        at == ["h1"]
    });
    assert_eq!(left.count(), 2, "{}", actor.picture());
}

/// What may be done at once is not overstepped at any time, however many wishes ask.
#[tokio::test(start_paused = true)]
async fn nova_2153425_no_limit_is_overstepped_at_any_time() {
    let hosts = ["h1", "h2", "h3", "h4"].map(HostPlan::new);
    let (actor, guests) = crowd(8, &hosts, 8).await;
    actor.desk.fleet(|spec| spec.parallel = Some(3));
    actor.desk.drain("d", &["h1"], |spec| spec.parallel = 2);
    for guest in ["g1", "g2", "g3"] {
        actor
            .desk
            .migrate(&format!("{guest}-to-h2"), guest, Some("h2"));
    }
    let mut most = 0;
    let left = |guest: &Uuid| actor.fleet.executing(*guest) != ["h1"];
    for _ in 0..200_000 {
        most = most.max(actor.fleet.moving());
        if guests.iter().all(left) {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(guests.iter().all(left), "{}", actor.picture());
    // Two for the drain, and both ways into h2 for those that were asked for by name.
    assert!((2..=3).contains(&most), "{most} at once");
}

/// A move that has failed gives back the room that was kept for it.
#[tokio::test(start_paused = true)]
async fn nova_1715182_a_failed_move_gives_back_its_room() {
    let small = HostPlan::new("h2").memory(GIB);
    let (fleet, desk) = stage(9, &[HostPlan::new("h1"), small, HostPlan::new("h3")]);
    fleet.add_guest("h1", &GuestPlan::new("g1").memory(600 * MIB));
    let second = fleet.add_guest("h3", &GuestPlan::new("g2").memory(600 * MIB));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    fleet.cut("h1", "h2", true);
    desk.migrate("m1", "g1", Some("h2"));
    assert_eq!(actor.ends("m1", 3600).await, MigrationPhase::Failed);
    desk.migrate("m2", "g2", Some("h2"));
    assert_eq!(actor.ends("m2", 600).await, MigrationPhase::Succeeded);
    assert_eq!(fleet.executing(second), ["h2"]);
}

/// Where a guest is to go is asked for by name, looked at, and never replaced by another host.
#[tokio::test(start_paused = true)]
async fn kubevirt_8713_a_named_target_is_taken_or_refused_by_name() {
    let (actor, guests) = crowd(10, &["h1", "h2", "h3"].map(HostPlan::new), 2).await;
    actor
        .desk
        .change_host("h2", |spec| spec.unschedulable = true);
    actor.desk.migrate("full", "g1", Some("h2"));
    actor.desk.migrate("unknown", "g1", Some("h9"));
    actor.desk.migrate("free", "g2", Some("h3"));
    actor
        .says("GuestMigration", "full", "TargetUnschedulable", 60)
        .await;
    actor
        .says("GuestMigration", "unknown", "HostNotFound", 60)
        .await;
    assert_eq!(actor.ends("free", 600).await, MigrationPhase::Succeeded);
    assert_eq!(actor.fleet.executing(guests[0]), ["h1"]);
    assert_eq!(actor.fleet.executing(guests[1]), ["h3"]);
}

/// Guests that somebody has just moved are left where they were put, and the policy says of which and why.
#[tokio::test(start_paused = true)]
async fn descheduler_707_a_guest_that_was_just_moved_stays_and_is_named() {
    let (actor, stay) = crowd(11, &["h1", "h2"].map(HostPlan::new), 1).await;
    let carried = ["g2", "g3", "g4"].map(|name| actor.fleet.add_guest("h2", &GuestPlan::new(name)));
    let on = |guest: &Uuid, host: &str| actor.fleet.executing(*guest) == [host];
    for guest in carried {
        assert!(actor.fleet.migrate_by_hand(guest, "h2", "h1"));
    }
    actor
        .until("all are on h1", 120, |_| {
            carried.iter().all(|guest| on(guest, "h1"))
        })
        .await;
    actor.desk.policy("level", |spec| {
        spec.cooldown = Span(Duration::from_secs(1800));
        spec.threshold.start = 10;
    });
    actor
        .until("three are skipped", 120, |view| {
            let level = view.policies.get("level").into_iter();
            let skipped = level.flat_map(|shown| &shown.skipped);
            let named = skipped.filter(|one| one.reason == "Cooldown");
            let named: BTreeSet<_> = named.map(|one| one.guest.as_str()).collect();
            named.iter().eq(&["g2", "g3", "g4"])
        })
        .await;
    sleep(Duration::from_secs(600)).await;
    let as_due =
        carried.iter().all(|guest| on(guest, "h1")) && stay.iter().all(|guest| on(guest, "h2"));
    assert!(as_due, "{}", actor.picture());
}

/// What a plan was made on changes while it is carried out: no move goes where its room was taken meanwhile.
#[tokio::test(start_paused = true)]
async fn watcher_2138857_a_plan_is_made_anew_from_what_is() {
    let hosts = [
        HostPlan::new("h1"),
        HostPlan::new("h2").memory(3 * GIB),
        HostPlan::new("h3").memory(3 * GIB),
    ];
    let (actor, guests) = crowd(12, &hosts, 4).await;
    actor.desk.drain("d", &["h1"], |spec| spec.parallel = 1);
    actor
        .until("the first copies", 60, |_| actor.fleet.moving() == 1)
        .await;
    // Somebody starts a guest on h2 that leaves no room there for another.
    let big = actor
        .fleet
        .add_guest("h2", &GuestPlan::new("big").memory(2 * GIB));
    is_drained(&actor, "True").await;
    assert_eq!(actor.fleet.executing(big), ["h2"]);
    eprintln!(
        "DEBUG {:#?}",
        actor.view().hosts["h2"]
            .capacity
            .as_ref()
            .map(|c| &c.memory)
    );
    let at: Vec<_> = guests
        .iter()
        .flat_map(|guest| actor.fleet.executing(*guest))
        .collect();
    assert!(
        at.iter().filter(|host| *host == "h2").count() <= 1,
        "{}",
        actor.picture()
    );
}
/// Drains share what may be done at once: the one asked for first does not keep the other from beginning.
#[tokio::test(start_paused = true)]
async fn kubevirt_8701_one_drain_does_not_starve_another() {
    let hosts = ["h1", "h2", "h3", "h4"].map(HostPlan::new);
    let (actor, many) = crowd(7, &hosts, 12).await;
    actor.desk.fleet(|spec| spec.parallel = Some(2));
    let few = ["s1", "s2"].map(|name| actor.fleet.add_guest("h2", &GuestPlan::new(name)));
    actor.desk.drain("first", &["h1"], |_| {});
    actor
        .until("the first has begun", 60, |_| actor.fleet.moving() == 2)
        .await;
    actor.desk.drain("second", &["h2"], |_| {});
    actor
        .until("the second is done", 3600, |_| {
            let drained = actor.condition("HostDrain", "second", "Drained");
            drained.is_some_and(|drained| drained.status == "True")
        })
        .await;
    let waits = many.iter().filter(|guest| {
        let at = actor.fleet.executing(**guest);
        at == ["h1"]
    });
    assert!(waits.count() > 4, "{}", actor.picture());
    assert!(
        few.iter()
            .all(|guest| actor.fleet.executing(*guest) != ["h2"])
    );
}
