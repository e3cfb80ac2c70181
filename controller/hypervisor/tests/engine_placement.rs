//! Placements: guests go where they belong, and wishes combine as the API says, each rule by its reason's name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{
    MigrationPhase,
    kinds::placement::{Requirement, Spread, Topology},
    shared::Condition,
};
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const DISK: &str = "/pools/default/g1-vda.qcow2";
const HOST: &str = "evenkeel.dev/host";

fn hosts(count: usize) -> Vec<HostPlan> {
    (1..=count)
        .map(|number| HostPlan::new(&format!("h{number}")))
        .collect()
}

/// So many hosts, these guests on h1, and an engine that has looked at all.
async fn fleet(seed: u64, count: usize, guests: &[&str], role: &Role) -> (Actor, Vec<Uuid>) {
    let (fleet, desk) = stage(seed, &hosts(count));
    let uuids = guests
        .iter()
        .map(|name| fleet.add_guest("h1", &GuestPlan::new(name)))
        .collect();
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    (actor, uuids)
}

fn satisfied(actor: &Actor, name: &str) -> Condition {
    actor
        .condition("GuestPlacement", name, "Satisfied")
        .unwrap_or_else(|| panic!("{}", actor.picture()))
}

async fn is_kept(actor: &Actor, name: &str, seconds: u64) {
    let kept = |view: &View| {
        let shown = view.placements.get(name);
        shown.is_some_and(|shown| {
            shown
                .conditions
                .iter()
                .any(|one| one.type_ == "Satisfied" && one.status == "True")
        })
    };
    actor.until(&format!("{name} is kept"), seconds, kept).await;
}

fn moves(fleet: &Fleet, actor: &Actor) -> usize {
    assert_eq!(fleet.violations(), Vec::<String>::new());
    actor.view().migrations.len()
}

/// Waits until a guest is being copied.
async fn is_under_way(actor: &Actor) {
    let copies = |view: &View| {
        let mut moves = view.migrations.values();
        moves.any(|shown| shown.status.phase == MigrationPhase::Copying)
    };
    actor.until("it is under way", 60, copies).await;
}

/// The libvirtd of the move's target dies; waits until the move rests.
async fn fails_and_rests(actor: &Actor) {
    actor.fleet.kill_libvirtd("h2");
    let rests = |view: &View| {
        let mut moves = view.migrations.values();
        moves.any(|shown| shown.status.phase == MigrationPhase::Pending)
    };
    actor.until("it rests", 60, rests).await;
}

#[tokio::test(start_paused = true)]
async fn guests_go_where_they_belong_and_stay_there() {
    for role in [Role::new("one").cluster(), Role::new("one").files()] {
        let (actor, guests) = fleet(1, 3, &["g1", "g2"], &role).await;
        actor.desk.placement("db", &["g1"], |spec| {
            spec.hosts = Some(named(&["h3"]));
        });
        is_kept(&actor, "db", 120).await;
        let made = moves(&actor.fleet, &actor);
        assert_eq!(made, 1);
        let view = actor.view();
        let (name, shown) = view.migrations.iter().next().unwrap();
        assert!(name.starts_with("g1-"), "{name}");
        let by = &shown.requested_by;
        assert_eq!(
            (by.kind.as_str(), by.name.as_str()),
            ("GuestPlacement", "db")
        );
        let status = &view.placements["db"];
        assert_eq!((status.satisfied, status.total), (1, 1));
        actor.clean(&[(guests[0], "h3"), (guests[1], "h1")]).await;
        sleep(Duration::from_secs(600)).await;
        assert_eq!(moves(&actor.fleet, &actor), made);
    }
}

#[tokio::test(start_paused = true)]
async fn spread_apart_and_together() {
    let names = ["g1", "g2", "g3"];
    let (actor, guests) = fleet(2, 3, &names, &Role::new("one").cluster().on_virtual_time()).await;
    actor.desk.placement("spread", &names, |spec| {
        spec.spread = Some(Spread {
            topology_key: HOST.to_owned(),
            max_skew: 1,
        });
    });
    is_kept(&actor, "spread", 200).await;
    let mut at: Vec<String> = guests
        .iter()
        .flat_map(|guest| actor.fleet.executing(*guest))
        .collect();
    at.sort();
    assert_eq!(at, ["h1", "h2", "h3"]);
    actor.desk.change(|wishes| wishes.placements.clear());
    actor.desk.placement("together", &names, |spec| {
        spec.together = Some(Topology {
            topology_key: HOST.to_owned(),
        });
    });
    is_kept(&actor, "together", 200).await;
    let first = actor.fleet.executing(guests[0]);
    assert!(
        guests
            .iter()
            .all(|guest| actor.fleet.executing(*guest) == first)
    );
}

#[tokio::test(start_paused = true)]
async fn placement_forbids() {
    let (actor, guests) = fleet(3, 2, &["g1"], &Role::new("one").cluster().on_virtual_time()).await;
    actor.desk.placement("db", &["g1"], |spec| {
        spec.hosts = Some(named(&["h1"]));
        // What is suspended binds others all the same.
        spec.suspend = true;
    });
    actor.desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "PlacementForbids", 30)
        .await;
    actor.desk.drain("d", &["h1"], |_| {});
    let blocked = |view: &View| {
        let drain = view.drains.get("d");
        drain.is_some_and(|drain| {
            drain.blocked.iter().any(|blocked| {
                blocked
                    .hosts
                    .iter()
                    .any(|count| count.reason == "PlacementForbids")
            })
        })
    };
    actor.until("the drain is bound too", 30, blocked).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h1"]);
    // What is only preferred binds neither.
    actor.desk.placement("db", &["g1"], |spec| {
        spec.hosts = Some(named(&["h1"]));
        spec.requirement = Requirement::Preferred;
    });
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
}

#[tokio::test(start_paused = true)]
async fn conflicts_with_is_said_by_both() {
    let (actor, guests) = fleet(4, 3, &["g1"], &Role::new("one").cluster().on_virtual_time()).await;
    for (name, host) in [("one", "h2"), ("two", "h3")] {
        actor.desk.placement(name, &["g1"], |spec| {
            spec.hosts = Some(named(&[host]));
        });
    }
    for name in ["one", "two"] {
        actor
            .says("GuestPlacement", name, "ConflictsWith", 30)
            .await;
        let stalled = actor.condition("GuestPlacement", name, "Stalled").unwrap();
        assert_eq!(stalled.status, "True");
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h1"]);
}

#[tokio::test(start_paused = true)]
async fn host_not_found_and_guest_not_found() {
    let (actor, _) = fleet(5, 2, &["g1"], &Role::new("one").cluster().on_virtual_time()).await;
    actor.desk.placement("hosts", &["g1"], |spec| {
        spec.hosts = Some(named(&["h1", "nowhere"]));
    });
    actor.desk.placement("guests", &["g1", "nobody"], |spec| {
        spec.hosts = Some(named(&["h1"]));
    });
    actor
        .says("GuestPlacement", "hosts", "HostNotFound", 30)
        .await;
    actor
        .says("GuestPlacement", "guests", "GuestNotFound", 30)
        .await;
    assert!(satisfied(&actor, "hosts").message.contains("nowhere"));
    assert!(satisfied(&actor, "guests").message.contains("nobody"));
    let view = actor.view();
    assert!(view.problems.iter().any(|one| one.name == "guests"));
}

#[tokio::test(start_paused = true)]
async fn suspended_moves_nothing() {
    let (actor, guests) = fleet(6, 2, &["g1"], &Role::new("one").cluster().on_virtual_time()).await;
    actor.desk.placement("db", &["g1"], |spec| {
        spec.hosts = Some(named(&["h2"]));
        spec.suspend = true;
    });
    actor.says("GuestPlacement", "db", "Suspended", 30).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h1"]);
    assert_eq!(moves(&actor.fleet, &actor), 0);
}

#[tokio::test(start_paused = true)]
async fn aborted_by_user_is_left_alone_until_the_wish_changes() {
    let (actor, guests) = fleet(7, 2, &["g1"], &Role::new("one").cluster().on_virtual_time()).await;
    let place = || {
        actor.desk.placement("db", &["g1"], |spec| {
            spec.hosts = Some(named(&["h2"]));
        });
    };
    place();
    is_under_way(&actor).await;
    let name = actor.view().migrations.keys().next().unwrap().to_string();
    actor.desk.abort(&name);
    actor.phase(&name, MigrationPhase::Aborted, 60).await;
    actor
        .says("GuestPlacement", "db", "AbortedByUser", 30)
        .await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h1"]);
    assert_eq!(moves(&actor.fleet, &actor), 1);
    // It binds all the same, and nobody else is kept from moving the guest.
    place();
    is_kept(&actor, "db", 120).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h2"]);
}

#[tokio::test(start_paused = true)]
async fn moved_by_other_is_returned_after_a_quarter_of_an_hour() {
    let (actor, guests) = fleet(8, 3, &["g1"], &Role::new("one").cluster().on_virtual_time()).await;
    actor.desk.placement("db", &["g1"], |spec| {
        spec.hosts = Some(named(&["h1"]));
    });
    is_kept(&actor, "db", 30).await;
    assert!(actor.fleet.migrate_by_hand(guests[0], "h1", "h2"));
    actor
        .says("GuestPlacement", "db", "MovedByOther", 120)
        .await;
    let view = actor.view();
    let last = view.guests["g1"].status.last_move.clone().unwrap();
    assert_eq!((last.from.as_str(), last.by.as_str()), ("h1", "Other"));
    sleep(Duration::from_secs(14 * 60)).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h2"]);
    assert_eq!(moves(&actor.fleet, &actor), 0);
    // Whoever moved it left its disk behind, which nobody but they may remove.
    actor.says("GuestPlacement", "db", "PathClash", 120).await;
    actor.fleet.remove_file("h1", DISK);
    is_kept(&actor, "db", 180).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h1"]);
}

/// What is written on the Guest tells the next process.
#[tokio::test(start_paused = true)]
async fn moved_by_other_outlives_a_restart() {
    let role = Role::new("one").cluster().on_virtual_time();
    let (actor, guests) = fleet(9, 2, &["g1"], &role).await;
    actor.desk.placement("db", &["g1"], |spec| {
        spec.hosts = Some(named(&["h1"]));
    });
    is_kept(&actor, "db", 30).await;
    let note = |actor: &Actor| {
        let status = actor.view().guests["g1"].status.clone();
        actor.desk.change(|wishes| {
            let mut guest = evenkeel_crds::Guest::new("g1", evenkeel_crds::GuestSpec::default());
            guest.status = Some(status);
            wishes.guests.insert("g1".to_owned(), Arc::new(guest));
        });
    };
    note(&actor);
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    // While nobody looks.
    assert!(fleet.migrate_by_hand(guests[0], "h1", "h2"));
    sleep(Duration::from_secs(60)).await;
    let actor = Actor::start(&fleet, &desk, &role);
    actor.says("GuestPlacement", "db", "MovedByOther", 60).await;
    note(&actor);
    sleep(Duration::from_secs(600)).await;
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &role);
    actor.says("GuestPlacement", "db", "MovedByOther", 60).await;
    sleep(Duration::from_secs(200)).await;
    assert_eq!(fleet.executing(guests[0]), ["h2"]);
    fleet.remove_file("h1", DISK);
    is_kept(&actor, "db", 300).await;
    assert_eq!(fleet.executing(guests[0]), ["h1"]);
}

#[tokio::test(start_paused = true)]
async fn wish_gone_ends_what_has_not_begun_and_it_may_come_back() {
    let (actor, guests) = fleet(
        10,
        2,
        &["g1"],
        &Role::new("one").cluster().on_virtual_time(),
    )
    .await;
    let place = || {
        actor.desk.placement("db", &["g1"], |spec| {
            spec.hosts = Some(named(&["h2"]));
        });
    };
    place();
    is_under_way(&actor).await;
    // It fails and rests, then nobody wants it any more.
    fails_and_rests(&actor).await;
    let name = actor.view().migrations.keys().next().unwrap().to_string();
    let spec = actor.desk.0.borrow().placements["db"].clone();
    actor.desk.change(|wishes| wishes.placements.clear());
    actor.fleet.start_libvirtd("h2");
    actor.phase(&name, MigrationPhase::Aborted, 60).await;
    actor.says("GuestMigration", &name, "WishGone", 10).await;
    actor.desk.change(|wishes| {
        wishes.placements.insert("db".to_owned(), spec);
    });
    is_kept(&actor, "db", 300).await;
    assert_eq!(actor.fleet.executing(guests[0]), ["h2"]);
    assert_eq!(moves(&actor.fleet, &actor), 2);
}

#[tokio::test(start_paused = true)]
async fn wish_gone_ends_what_failed_once_the_placement_is_kept_without_it() {
    let (actor, guests) = fleet(
        11,
        2,
        &["g1", "g2"],
        &Role::new("one").cluster().on_virtual_time(),
    )
    .await;
    actor.desk.placement("apart", &["g1", "g2"], |spec| {
        spec.apart = Some(Topology {
            topology_key: HOST.to_owned(),
        });
        spec.requirement = Requirement::Preferred;
    });
    is_under_way(&actor).await;
    fails_and_rests(&actor).await;
    actor.fleet.start_libvirtd("h2");
    let name = actor.view().migrations.keys().next().unwrap().to_string();
    // The other one does not run any more: there is nobody to be kept apart from.
    let other = usize::from(name.starts_with("g1-"));
    actor.fleet.shut_down(guests[other]);
    actor.phase(&name, MigrationPhase::Aborted, 300).await;
    actor.says("GuestMigration", &name, "WishGone", 10).await;
    assert_eq!(moves(&actor.fleet, &actor), 1);
}
