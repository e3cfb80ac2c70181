//! Rebalance policies: hosts become level and stay so, plans are run as they were shown, limits are kept, and each reason
//! for standing still has its name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::{
    MigrationPhase, RebalancePolicyStatus,
    kinds::policy::{AtClose, Headroom, LoadKind, Mode},
    quantity::{Bytes, Span},
    shared::{Time, Timestamp},
};
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan};
use support::{policies::window, *};
use tokio::time::sleep;
use uuid::Uuid;

fn role() -> Role {
    Role::new("one").cluster().on_virtual_time()
}

/// Three hosts, so many guests on h1, and an engine that has looked at all.
async fn uneven(seed: u64, guests: usize, role: &Role) -> (Actor, Vec<Uuid>) {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(seed, &hosts);
    for host in ["h1", "h2", "h3"] {
        desk.change_host(host, |spec| {
            spec.migration.bandwidth = Some(Bytes(100 << 20))
        });
    }
    let uuids = (1..=guests)
        .map(|number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}"))))
        .collect();
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    (actor, uuids)
}

fn status(view: &View, name: &str) -> RebalancePolicyStatus {
    view.policies
        .get(name)
        .map(|shown| (**shown).clone())
        .unwrap_or_default()
}

async fn is_level(actor: &Actor, name: &str, seconds: u64) {
    let level = |view: &View| {
        let status = status(view, name);
        let mut all = status.conditions.iter();
        all.any(|one| one.type_ == "Balanced" && one.status == "True")
    };
    actor
        .until(&format!("{name} is level"), seconds, level)
        .await;
}

/// How many guests run on each host.
fn spread(actor: &Actor, guests: &[Uuid]) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for guest in guests {
        for host in actor.fleet.executing(*guest) {
            *spread.entry(host).or_default() += 1;
        }
    }
    spread
}

fn moves(actor: &Actor) -> usize {
    assert_eq!(actor.fleet.violations(), Vec::<String>::new());
    actor.view().migrations.len()
}

async fn plan(actor: &Actor, name: &str) -> String {
    actor
        .until("there is a plan", 60, |view| {
            status(view, name).plan.is_some()
        })
        .await;
    status(&actor.view(), name).plan.unwrap().id
}

#[tokio::test(start_paused = true)]
async fn proxlb_69_uneven_hosts_become_level_and_stay_still() {
    for role in [role(), Role::new("one").files().on_virtual_time()] {
        let (actor, guests) = uneven(1, 6, &role).await;
        actor.desk.policy("level", |spec| {
            spec.cooldown = Span(Duration::from_secs(60))
        });
        is_level(&actor, "level", 400).await;
        assert_eq!(
            spread(&actor, &guests).into_values().collect::<Vec<_>>(),
            [2, 2, 2]
        );
        let made = moves(&actor);
        assert_eq!(made, 4);
        let status = status(&actor.view(), "level");
        assert!(!status.begun && status.plan.is_none(), "{status:?}");
        let last = status.last_plan.unwrap();
        assert_eq!((last.done, last.total), (4, 4));
        for shown in actor.view().migrations.values() {
            assert_eq!(shown.requested_by.kind, "RebalancePolicy");
        }
        // Ten cycles of everything that could begin anew.
        for _ in 0..10 {
            sleep(Duration::from_secs(300)).await;
            assert_eq!(moves(&actor), made, "{}", actor.picture());
        }
        actor.quiet(120).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_at_once_than_its_limit() {
    let (actor, _) = uneven(2, 9, &role()).await;
    actor.desk.policy("level", |spec| spec.limits.parallel = 1);
    let most = std::cell::Cell::new(0);
    actor
        .until("it is level", 600, |view| {
            let under_way = view.migrations.values().filter(|shown| {
                !shown.status.phase.is_final() && shown.status.phase != MigrationPhase::Pending
            });
            most.set(most.get().max(under_way.count()));
            status(view, "level").last_plan.is_some()
        })
        .await;
    assert_eq!(most.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn below_start_nothing_begins() {
    let (actor, _) = uneven(3, 2, &role()).await;
    actor.desk.policy("level", |spec| {
        spec.threshold.start = 40;
        spec.threshold.stop = 5;
    });
    is_level(&actor, "level", 60).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(moves(&actor), 0);
    // Once begun it goes on to `stop`, though that lies below `start`.
    actor.desk.policy("level", |spec| spec.threshold.start = 6);
    actor
        .until("it moves", 60, |view| !view.migrations.is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn awaiting_approval_and_then_exactly_that_plan() {
    let role = role();
    let (actor, guests) = uneven(4, 6, &role).await;
    actor.desk.policy("level", |spec| spec.mode = Mode::Manual);
    let id = plan(&actor, "level").await;
    actor
        .says("RebalancePolicy", "level", "AwaitingApproval", 30)
        .await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(moves(&actor), 0);
    let shown = status(&actor.view(), "level").plan.unwrap();
    assert_eq!((shown.id.as_str(), shown.total), (id.as_str(), 4));
    // Another process finds the same plan.
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    assert_eq!(plan(&actor, "level").await, id);
    desk.policy("level", |spec| spec.approve = Some(id.clone()));
    let done = |view: &View| {
        let past = status(view, "level").last_plan;
        past.is_some_and(|past| past.id == id && past.done == past.total)
    };
    actor.until("it is run", 400, done).await;
    is_level(&actor, "level", 60).await;
    for step in &shown.moves {
        let number: usize = step.guest[1..].parse().unwrap();
        assert_eq!(fleet.executing(guests[number - 1]), [step.target.as_str()]);
    }
    assert_eq!(moves(&actor), 4);
}

#[tokio::test(start_paused = true)]
async fn plan_superseded() {
    let (actor, _) = uneven(5, 6, &role()).await;
    actor.desk.policy("level", |spec| spec.mode = Mode::Manual);
    let id = plan(&actor, "level").await;
    // One of its guests is moved by somebody before it is approved.
    let first = status(&actor.view(), "level").plan.unwrap().moves[0].clone();
    let elsewhere = if first.target == "h2" { "h3" } else { "h2" };
    actor.desk.migrate("m", &first.guest, Some(elsewhere));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor
        .desk
        .policy("level", |spec| spec.approve = Some(id.clone()));
    actor
        .says("RebalancePolicy", "level", "PlanSuperseded", 60)
        .await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(moves(&actor), 1);
    assert_ne!(plan(&actor, "level").await, id);
}

#[tokio::test(start_paused = true)]
async fn limit_reached() {
    let (actor, _) = uneven(6, 6, &role()).await;
    actor.desk.policy("level", |spec| {
        spec.limits.moves_per_hour = Some(1);
        spec.cooldown = Span(Duration::ZERO);
    });
    actor
        .until("the first is made", 120, |view| {
            view.migrations
                .values()
                .any(|shown| shown.status.phase == MigrationPhase::Succeeded)
        })
        .await;
    for hour in 1..3 {
        sleep(Duration::from_secs(1800)).await;
        assert_eq!(moves(&actor), hour, "{}", actor.picture());
        sleep(Duration::from_secs(1900)).await;
        assert_eq!(moves(&actor), hour + 1, "{}", actor.picture());
    }
}

#[tokio::test(start_paused = true)]
async fn cooldown_after_a_move_by_anybody() {
    let (actor, guests) = uneven(7, 4, &role()).await;
    // A move by hand makes h2 the fullest.
    for guest in &guests {
        assert!(actor.fleet.migrate_by_hand(*guest, "h1", "h2"));
        sleep(Duration::from_secs(60)).await;
    }
    actor.desk.policy("level", |spec| {
        spec.cooldown = Span(Duration::from_secs(1800))
    });
    let skipped = |view: &View| {
        let skipped = status(view, "level").skipped;
        skipped.len() == 4 && skipped.iter().all(|one| one.reason == "Cooldown")
    };
    actor.until("all are left alone", 60, skipped).await;
    sleep(Duration::from_secs(1200)).await;
    assert_eq!(moves(&actor), 0);
    actor
        .until("then they move", 1200, |view| !view.migrations.is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn host_in_another_policy() {
    let (actor, _) = uneven(8, 6, &role()).await;
    let now = Timestamp::now();
    for (name, age) in [("older", 10), ("a-younger", 5)] {
        actor.desk.policy(name, |spec| spec.mode = Mode::Manual);
        actor.desk.change(|wishes| {
            let mut object = (*wishes.policies[name]).clone();
            let created = now - Duration::from_secs(age);
            object.metadata.creation_timestamp = Some(Time(created));
            wishes.policies.insert(name.to_owned(), Arc::new(object));
        });
    }
    actor
        .says("RebalancePolicy", "a-younger", "HostInAnotherPolicy", 30)
        .await;
    let stalled = actor.condition("RebalancePolicy", "a-younger", "Stalled");
    assert_eq!(stalled.unwrap().status, "True");
    plan(&actor, "older").await;
    assert!(status(&actor.view(), "a-younger").plan.is_none());
}

#[tokio::test(start_paused = true)]
async fn suspended_tells_and_moves_nothing() {
    let (actor, _) = uneven(9, 6, &role()).await;
    actor.desk.policy("level", |spec| spec.suspend = true);
    actor
        .says("RebalancePolicy", "level", "Suspended", 30)
        .await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(moves(&actor), 0);
    assert!(status(&actor.view(), "level").imbalance.unwrap().now > 15);
    actor.desk.policy("level", |spec| spec.suspend = false);
    is_level(&actor, "level", 400).await;
}

#[tokio::test(start_paused = true)]
async fn aborted_by_user_is_left_alone() {
    let (actor, _) = uneven(10, 6, &role()).await;
    actor.desk.policy("level", |spec| spec.limits.parallel = 1);
    actor
        .until("it copies", 60, |view| {
            view.migrations
                .values()
                .any(|shown| shown.status.phase == MigrationPhase::Copying)
        })
        .await;
    let name = actor.view().migrations.keys().next().unwrap().to_string();
    let guest = actor.view().migrations[name.as_str()].spec.guest.clone();
    actor.desk.abort(&name);
    actor.phase(&name, MigrationPhase::Aborted, 60).await;
    actor
        .until("the rest is moved", 600, |view| {
            status(view, "level").last_plan.is_some()
        })
        .await;
    sleep(Duration::from_secs(600)).await;
    let again = actor
        .view()
        .migrations
        .iter()
        .filter(|(_, shown)| shown.spec.guest == guest)
        .count();
    assert_eq!(again, 1, "{}", actor.picture());
}

#[tokio::test(start_paused = true)]
async fn window_closed() {
    let (actor, _) = uneven(11, 6, &role()).await;
    actor.desk.policy("level", |spec| {
        spec.windows = vec![window(Timestamp::now(), 60, 120)];
    });
    actor
        .says("RebalancePolicy", "level", "WindowClosed", 60)
        .await;
    sleep(Duration::from_secs(1800)).await;
    assert_eq!(moves(&actor), 0);
    sleep(Duration::from_secs(2400)).await;
    is_level(&actor, "level", 600).await;
}

#[tokio::test(start_paused = true)]
async fn when_a_window_closes_copies_are_aborted_and_begin_again_in_the_next() {
    let (actor, guests) = uneven(12, 6, &role()).await;
    // Told a rate that they do not have, they seem fast enough for the window.
    for host in ["h1", "h2", "h3"] {
        actor
            .desk
            .change_host(host, |spec| spec.migration.bandwidth = Some(Bytes(1 << 40)));
    }
    actor.fleet.dirty(guests[0], 90 << 20);
    let now = Timestamp::now();
    actor.desk.policy("level", |spec| {
        spec.windows = vec![window(now, -5, 1)];
        spec.at_close = AtClose::Abort;
    });
    sleep(Duration::from_secs(120)).await;
    for (name, shown) in &actor.view().migrations {
        assert!(shown.status.phase.is_final(), "{name}\n{}", actor.picture());
    }
    let made = moves(&actor);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(moves(&actor), made);
    actor.desk.policy("level", |spec| spec.windows = Vec::new());
    is_level(&actor, "level", 600).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_comes_first_and_level_follows() {
    let (actor, guests) = uneven(13, 6, &role()).await;
    actor.desk.policy("level", |_| {});
    plan(&actor, "level").await;
    actor.desk.drain("d", &["h2"], |_| {});
    actor
        .until("what is left is level", 900, |view| {
            let status = status(view, "level");
            let level = status
                .conditions
                .iter()
                .any(|one| one.type_ == "Balanced" && one.status == "True");
            level
                && view.drains["d"]
                    .conditions
                    .iter()
                    .any(|one| one.type_ == "Drained" && one.status == "True")
        })
        .await;
    let spread = spread(&actor, &guests);
    assert_eq!(spread.get("h2"), None, "{spread:?}");
    sleep(Duration::from_secs(1200)).await;
    assert_eq!(spread.values().sum::<usize>(), 6);
}

/// The hosts are level, and the large guest of h1 would fit on none of the others.
#[tokio::test(start_paused = true)]
async fn headroom_moves_guests_until_any_host_can_be_emptied() {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(14, &hosts);
    fleet.add_guest("h1", &GuestPlan::new("large").memory(4 * GIB));
    for number in 0..8 {
        let plan = GuestPlan::new(&format!("g{number}")).memory(GIB);
        fleet.add_guest(if number % 2 == 0 { "h2" } else { "h3" }, &plan);
    }
    let actor = Actor::start(&fleet, &desk, &role());
    actor.settled().await;
    // A drain of h1 has others make way; headroom is room without that.
    let crowded = |view: &View| {
        let on = |host: &str| {
            view.hosts[host]
                .guests
                .as_ref()
                .map_or(0, |guests| guests.active)
        };
        on("h2").min(on("h3")) > 3
    };
    assert!(crowded(&actor.view()), "{}", actor.picture());
    desk.policy("level", |spec| {
        spec.threshold.start = 60;
        spec.headroom = Some(Headroom {
            topology_key: "evenkeel.dev/host".to_owned(),
            failures: 1,
        });
    });
    actor
        .until("the large one has room", 400, |view| !crowded(view))
        .await;
    is_level(&actor, "level", 60).await;
    let made = moves(&actor);
    assert!((1..=3).contains(&made), "{}", actor.picture());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(moves(&actor), made);
}

/// Two guests on each of three hosts, by what they were promised all alike, and a policy that levels what they use of CPUs.
async fn alike(seed: u64) -> (Actor, Vec<Uuid>) {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(seed, &hosts);
    let guests = (0..6)
        .map(|number| {
            let plan = GuestPlan::new(&format!("g{number}"));
            fleet.add_guest(["h1", "h2", "h3"][number / 2], &plan)
        })
        .collect();
    desk.policy("level", |spec| {
        spec.load = LoadKind::Measured;
        (spec.resources.memory, spec.resources.cpu) = (0, 100);
        spec.cooldown = Span(Duration::from_secs(60));
    });
    let actor = Actor::start(&fleet, &desk, &role());
    actor.settled().await;
    (actor, guests)
}

#[tokio::test(start_paused = true)]
async fn what_guests_use_becomes_level_and_stays_so() {
    let (actor, guests) = alike(1).await;
    for guest in &guests[..3] {
        actor.fleet.busy(*guest, 3000);
    }
    let waits = |view: &View| {
        let status = status(view, "level");
        let mut all = status.conditions.iter();
        all.any(|one| one.reason == "Waiting" && one.message.contains("load is measured over 5m"))
    };
    actor.until("it says that it measures", 30, waits).await;
    sleep(Duration::from_secs(240)).await;
    assert_eq!(moves(&actor), 0, "{}", actor.picture());
    is_level(&actor, "level", 400).await;
    let made = moves(&actor);
    assert_eq!(made, 1, "{}", actor.picture());
    assert_eq!(spread(&actor, &guests[..3]).len(), 3, "{}", actor.picture());
    for _ in 0..10 {
        sleep(Duration::from_secs(300)).await;
        assert_eq!(moves(&actor), made, "{}", actor.picture());
    }
    actor.quiet(120).await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_moves_nobody() {
    let (actor, guests) = alike(2).await;
    sleep(Duration::from_secs(600)).await;
    for _ in 0..5 {
        for guest in &guests[..2] {
            actor.fleet.busy(*guest, 4000);
        }
        sleep(Duration::from_secs(120)).await;
        for guest in &guests[..2] {
            actor.fleet.busy(*guest, 0);
        }
        sleep(Duration::from_secs(300)).await;
    }
    assert_eq!(moves(&actor), 0, "{}", actor.picture());
}
