//! What stops in the middle: `suspend` of a policy, a placement or a drain, a guest's `hold`, a drain that goes at any
//! moment, a move that a user aborts; and that a GuestMigration is never run twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{
    MigrationPhase,
    kinds::{
        drain::OnRelease,
        guest::{Evacuation, Hold},
    },
    quantity::Bytes,
};
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan, MIB};
use support::{policies::begun, *};
use tokio::time::sleep;
use uuid::Uuid;

fn role() -> Role {
    Role::new("one").cluster().on_virtual_time()
}

/// Three hosts, so many guests on h1, and an engine that has looked at all.
async fn full(seed: u64, guests: usize, role: &Role) -> (Actor, Vec<Uuid>) {
    let (fleet, desk) = stage(seed, &["h1", "h2", "h3"].map(HostPlan::new));
    for host in ["h1", "h2", "h3"] {
        desk.change_host(host, |spec| {
            spec.migration.bandwidth = Some(Bytes(100 * MIB))
        });
    }
    let uuids = (1..=guests)
        .map(|number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}"))))
        .collect();
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    (actor, uuids)
}

/// Something is under way and more is to come: the word is said now. Nothing begins later than a second after it.
async fn stops(actor: &Actor, word: impl FnOnce(&Desk)) -> usize {
    actor.until("it begins", 120, |view| begun(view) > 0).await;
    word(&actor.desk);
    sleep(Duration::from_secs(1)).await;
    let made = begun(&actor.view());
    sleep(Duration::from_secs(300)).await;
    assert_eq!(begun(&actor.view()), made, "{}", actor.picture());
    assert_eq!(actor.fleet.moving(), 0, "what ran has ended");
    assert!(made < 4, "{}", actor.picture());
    made
}

async fn goes_on(actor: &Actor, made: usize) {
    actor
        .until("it goes on", 60, |view| begun(view) > made)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_suspended_in_mid_plan() {
    let (actor, _) = full(1, 6, &role()).await;
    actor.desk.policy("p", |spec| spec.limits.parallel = 1);
    let made = stops(&actor, |desk| desk.policy("p", |spec| spec.suspend = true)).await;
    actor.says("RebalancePolicy", "p", "Suspended", 5).await;
    actor.desk.policy("p", |spec| spec.suspend = false);
    goes_on(&actor, made).await;
}

#[tokio::test(start_paused = true)]
async fn a_placement_is_suspended_in_mid_plan() {
    let (actor, _) = full(2, 4, &role()).await;
    let all = ["g1", "g2", "g3", "g4"];
    actor
        .desk
        .change_host("h2", |spec| spec.migration.max_inbound = 1);
    let to_h2 = |suspend: bool| {
        move |spec: &mut evenkeel_crds::GuestPlacementSpec| {
            spec.hosts = Some(named(&["h2"]));
            spec.suspend = suspend;
        }
    };
    actor.desk.placement("p", &all, to_h2(false));
    actor
        .says("GuestPlacement", "p", "GuestsMisplaced", 30)
        .await;
    let made = stops(&actor, |desk| desk.placement("p", &all, to_h2(true))).await;
    actor.says("GuestPlacement", "p", "Suspended", 5).await;
    actor.desk.placement("p", &all, to_h2(false));
    goes_on(&actor, made).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_suspended_in_mid_drain() {
    let (actor, _) = full(3, 4, &role()).await;
    let one = |suspend: bool| {
        move |spec: &mut evenkeel_crds::HostDrainSpec| (spec.parallel, spec.suspend) = (1, suspend)
    };
    actor.desk.drain("d", &["h1"], one(false));
    let made = stops(&actor, |desk| desk.drain("d", &["h1"], one(true))).await;
    actor.desk.drain("d", &["h1"], one(false));
    goes_on(&actor, made).await;
}

#[tokio::test(start_paused = true)]
async fn guests_are_held_in_mid_drain() {
    let (actor, _) = full(4, 4, &role()).await;
    let names = ["g1", "g2", "g3", "g4"];
    actor.desk.drain("d", &["h1"], |spec| spec.parallel = 1);
    let made = stops(&actor, |desk| {
        for name in names {
            desk.guest(name, |spec| {
                spec.hold = Some(Hold {
                    reason: "backup running".into(),
                    until: None,
                });
            });
        }
    })
    .await;
    let blocked = actor.view().drains["d"].blocked.clone();
    assert_eq!(blocked.len(), 4 - made);
    assert!(blocked.iter().all(|one| one.reason == "GuestHeld"));
    for name in names {
        actor.desk.guest(name, |_| {});
    }
    goes_on(&actor, made).await;
}

/// Whenever a drain goes, its guest is on one host, whole, and nothing is left on the other.
#[tokio::test(start_paused = true)]
async fn a_drain_that_goes_at_every_moment() {
    for step in 0..80 {
        for how in [OnRelease::Finish, OnRelease::Abort] {
            let (actor, guest) = pair(300 + step, &Role::new("one")).await;
            actor.desk.drain("d", &["h1"], |spec| release(spec, how));
            sleep(Duration::from_millis(step * 160)).await;
            let copies = actor.fleet.phase(guest);
            actor.desk.undrain("d");
            sleep(Duration::from_secs(1)).await;
            actor
                .until("it is over", 90, |view| {
                    let mut all = view.migrations.values();
                    actor.fleet.moving() == 0
                        && actor.fleet.journals().is_empty()
                        && all.all(|one| one.status.phase.is_final())
                })
                .await;
            let host = actor.fleet.executing(guest).concat();
            let other = if host == "h1" { "h2" } else { "h1" };
            actor.clean(&[(guest, &host)]).await;
            assert!(
                actor.fleet.files(other).is_empty(),
                "step {step}\n{}",
                actor.picture()
            );
            assert_eq!(actor.fleet.files(&host).len(), 1);
            let memory = copies.as_deref() == Some("Memory");
            if how == OnRelease::Finish && memory {
                assert_eq!(host, "h2", "step {step}: what copies finishes");
            }
            sleep(Duration::from_secs(30)).await;
            assert_eq!(actor.fleet.executing(guest), [host], "step {step}");
        }
    }
}

/// Aborts the first move that copies for a wish; gives the guest.
async fn aborts_one(actor: &Actor) -> String {
    let copies = |view: &View| {
        let mut all = view.migrations.iter();
        let found = all.find(|(_, one)| one.status.phase == MigrationPhase::Copying);
        found.map(|(name, one)| (name.to_string(), one.spec.guest.clone()))
    };
    actor
        .until("it copies", 60, |view| copies(view).is_some())
        .await;
    let (name, guest) = copies(&actor.view()).unwrap();
    actor.desk.abort(&name);
    actor.phase(&name, MigrationPhase::Aborted, 60).await;
    guest
}

fn host_of(actor: &Actor, guests: &[Uuid], name: &str) -> String {
    let number: usize = name[1..].parse().unwrap();
    actor.fleet.executing(guests[number - 1]).concat()
}

/// Left alone for that wish, and for no other.
#[tokio::test(start_paused = true)]
async fn aborted_by_user_is_left_alone_by_that_drain() {
    let (actor, guests) = full(5, 3, &role()).await;
    actor.desk.drain("d", &["h1"], |spec| spec.parallel = 1);
    let guest = aborts_one(&actor).await;
    let only = |view: &View| {
        let drain = &view.drains["d"];
        drain.guests.left == 1
            && drain.blocked.len() == 1
            && drain.blocked[0].guest == guest
            && drain.blocked[0].reason == "AbortedByUser"
    };
    actor.until("the others have left", 300, only).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(host_of(&actor, &guests, &guest), "h1");
    actor
        .desk
        .placement("p", &[&guest], |spec| spec.hosts = Some(named(&["h3"])));
    actor
        .until("the placement moves it", 120, |_| {
            host_of(&actor, &guests, &guest) == "h3"
        })
        .await;
    actor
        .until("drained", 60, |_| {
            let drained = actor.condition("HostDrain", "d", "Drained");
            drained.is_some_and(|drained| drained.status == "True")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn aborted_by_user_until_the_drain_changes() {
    let (actor, guests) = full(6, 2, &role()).await;
    let declare = |generation: i64| {
        actor
            .desk
            .drain("d", &["h1"], |spec| spec.parallel = generation as i32);
        actor.desk.change(|wishes| {
            let mut drain = (*wishes.drains["d"]).clone();
            drain.metadata.uid = Some("uid-d".into());
            drain.metadata.generation = Some(generation);
            wishes.drains.insert("d".into(), Arc::new(drain));
        });
    };
    declare(1);
    let guest = aborts_one(&actor).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(host_of(&actor, &guests, &guest), "h1");
    declare(2);
    actor
        .until("it leaves", 120, |_| {
            host_of(&actor, &guests, &guest) != "h1"
        })
        .await;
}

/// How a guest is evacuated is about drains: a placement and a policy move it all the same.
#[tokio::test(start_paused = true)]
async fn evacuation_never_is_about_drains_only() {
    let (actor, guests) = full(7, 6, &role()).await;
    for number in 1..=6 {
        actor.desk.guest(&format!("g{number}"), |spec| {
            spec.evacuation = if number % 2 == 0 {
                Evacuation::Never
            } else {
                Evacuation::Shutdown
            };
        });
    }
    actor
        .desk
        .placement("p", &["g2"], |spec| spec.hosts = Some(named(&["h3"])));
    actor
        .until("the placement moves it", 120, |_| {
            host_of(&actor, &guests, "g2") == "h3"
        })
        .await;
    actor.desk.policy("level", |_| {});
    actor
        .until("it is level", 400, |_| {
            let balanced = actor.condition("RebalancePolicy", "level", "Balanced");
            balanced.is_some_and(|balanced| balanced.status == "True")
        })
        .await;
    let on = |host: &str| {
        let names = (1..=6).map(|number| format!("g{number}"));
        let here = names.filter(|name| host_of(&actor, &guests, name) == host);
        here.count()
    };
    assert_eq!((on("h1"), on("h2"), on("h3")), (2, 2, 2));
    assert_eq!(actor.fleet.boots(guests[0]), 1, "none was shut down");
    actor.desk.drain("d", &["h3"], |_| {});
    let never = |view: &View| {
        let mut all = view.drains.get("d").into_iter();
        let never = ("g2", "EvacuationNever");
        all.any(|drain| {
            let mut blocked = drain.blocked.iter();
            blocked.any(|one| (one.guest.as_str(), one.reason.as_str()) == never)
        })
    };
    actor.until("it is said", 30, never).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(host_of(&actor, &guests, "g2"), "h3");
}

/// Done, it is done: not again when the guest is back, nor by the next process.
#[tokio::test(start_paused = true)]
async fn a_guest_migration_is_one_shot() {
    let role = role();
    let (actor, guests) = full(8, 1, &role).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.desk.migrate("back", "g1", Some("h1"));
    actor.phase("back", MigrationPhase::Succeeded, 60).await;
    actor.desk.migrate("gone", "g1", Some("h3"));
    actor.phase("gone", MigrationPhase::Copying, 30).await;
    actor.desk.abort("gone");
    actor.phase("gone", MigrationPhase::Aborted, 60).await;
    actor.desk.migrate("self", "g1", Some("h1"));
    actor.phase("self", MigrationPhase::Failed, 30).await;
    let before = actor.view().migrations.clone();
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    sleep(Duration::from_secs(300)).await;
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    sleep(Duration::from_secs(300)).await;
    for (name, old) in &before {
        let now = actor.status(name);
        assert_eq!(now.phase, old.status.phase, "{name}");
        assert_eq!(now.start_time, old.status.start_time, "{name}");
    }
    assert_eq!(fleet.executing(guests[0]), ["h1"]);
    assert_eq!(fleet.files("h2").len() + fleet.files("h3").len(), 0);
}
