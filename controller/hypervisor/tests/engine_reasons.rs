//! Reasons of drains, placements and policies, each by its name; and limits of policies by the word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    MigrationPhase, RebalancePolicySpec,
    kinds::{
        host::PoolSpec,
        policy::{Headroom, Mode, Window},
    },
    quantity::{Bytes, Span},
    shared::{Picker, Selector, Timestamp},
};
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{Fleet, GIB, GuestPlan, HostPlan, MIB};
use support::{
    policies::{begun, window},
    *,
};
use tokio::time::sleep;
use uuid::Uuid;

fn role() -> Role {
    Role::new("one").cluster().on_virtual_time()
}

fn links(desk: &Desk) {
    for host in ["h1", "h2", "h3"] {
        desk.change_host(host, |spec| {
            spec.migration.bandwidth = Some(Bytes(100 * MIB))
        });
    }
}

/// Three hosts, so many guests like this on h1, and an engine that has looked at all.
async fn full(
    seed: u64,
    guests: usize,
    plan: impl Fn(GuestPlan) -> GuestPlan,
    role: &Role,
) -> (Actor, Vec<Uuid>) {
    let hosts = ["h1", "h2", "h3"].map(|name| HostPlan::new(name).pool(100 * GIB));
    let (fleet, desk) = stage(seed, &hosts);
    links(&desk);
    let uuids = (1..=guests)
        .map(|number| fleet.add_guest("h1", &plan(GuestPlan::new(&format!("g{number}")))))
        .collect();
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    (actor, uuids)
}

fn labelled(key: &str) -> Picker {
    Picker {
        names: None,
        selector: Some(Selector {
            match_labels: BTreeMap::from([(key.to_owned(), "x".to_owned())]),
            ..Selector::default()
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_drain() {
    let (actor, guests) = full(1, 1, |plan| plan, &role()).await;
    let reason = |name: &str| {
        let drained = actor.condition("HostDrain", name, "Drained");
        drained.map(|drained| (drained.status, drained.reason))
    };
    let is = |name: &'static str, status: &'static str, word: &'static str| {
        let wanted = Some((status.to_owned(), word.to_owned()));
        actor.until(word, 60, move |_| reason(name) == wanted)
    };
    actor
        .desk
        .drain("none", &[], |spec| spec.hosts = labelled("rack"));
    is("none", "False", "NoHostsMatched").await;
    actor.desk.drain("d", &["h1"], |_| {});
    is("d", "False", "GuestsLeft").await;
    is("d", "False", "MovesInFlight").await;
    is("d", "True", "Completed").await;
    assert_ne!(actor.fleet.executing(guests[0]), ["h1"]);
    actor.fleet.kill_libvirtd("h1");
    is("d", "Unknown", "HostUnreachable").await;
    actor.fleet.start_libvirtd("h1");
    is("d", "True", "Completed").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_placements_and_policies() {
    let (actor, _) = full(2, 6, |plan| plan, &role()).await;
    actor
        .desk
        .placement("nobody", &[], |spec| spec.guests = labelled("app"));
    actor
        .until("NoGuestsMatched", 30, |_| {
            let found = actor.condition("GuestPlacement", "nobody", "Satisfied");
            found.is_some_and(|found| {
                (found.status.as_str(), found.reason.as_str()) == ("True", "NoGuestsMatched")
            })
        })
        .await;
    actor
        .desk
        .policy("nowhere", |spec| spec.hosts = Some(labelled("rack")));
    actor
        .says("RebalancePolicy", "nowhere", "NoHostsMatched", 30)
        .await;
    actor.desk.policy("mars", |spec| {
        spec.windows = vec![Window {
            time_zone: "Mars/Olympus".into(),
            ..window(Timestamp::now(), -5, 5)
        }];
    });
    actor
        .says("RebalancePolicy", "mars", "TimeZoneUnknown", 30)
        .await;
    assert_eq!(begun(&actor.view()), 0);
    actor.desk.change(|wishes| wishes.policies.clear());
    actor.desk.policy("level", |_| {});
    actor
        .says("RebalancePolicy", "level", "Unbalanced", 60)
        .await;
}

/// Two hosts, each with a guest for which the other has no room.
#[tokio::test(start_paused = true)]
async fn headroom_missing() {
    let (fleet, desk) = stage(3, &["h1", "h2"].map(HostPlan::new));
    for (host, guest) in [("h1", "a"), ("h2", "b")] {
        fleet.add_guest(host, &GuestPlan::new(guest).memory(5 * GIB));
    }
    let actor = Actor::start(&fleet, &desk, &role());
    actor.settled().await;
    desk.policy("level", |spec| {
        spec.headroom = Some(Headroom {
            topology_key: "evenkeel.dev/host".into(),
            failures: 1,
        });
    });
    actor
        .says("RebalancePolicy", "level", "HeadroomMissing", 60)
        .await;
    assert_eq!(begun(&actor.view()), 0);
}

/// Each takes about 200 s, and the window is open for less.
#[tokio::test(start_paused = true)]
async fn move_does_not_fit_window() {
    let large = |plan: GuestPlan| plan.memory(GIB).disk(30 * GIB, 20 * GIB);
    let (actor, _) = full(4, 6, large, &role()).await;
    actor.desk.policy("level", |spec| {
        spec.windows = vec![window(Timestamp::now(), -5, 2)];
    });
    actor
        .says("RebalancePolicy", "level", "MoveDoesNotFitWindow", 60)
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(begun(&actor.view()), 0, "{}", actor.picture());
    actor.desk.policy("level", |spec| {
        spec.windows = vec![window(Timestamp::now(), -5, 60)];
    });
    actor.until("it fits", 60, |view| begun(view) > 0).await;
}

/// What a policy carries within an hour: a GiB of disk and one of memory each.
fn two_gib(plan: GuestPlan) -> GuestPlan {
    plan.memory(GIB).disk(2 * GIB, GIB)
}

fn carries_little(spec: &mut RebalancePolicySpec) {
    spec.limits.bytes_per_hour = Some(Bytes(3584 * MIB));
    spec.cooldown = Span(Duration::ZERO);
    (spec.resources.cpu, spec.threshold.start) = (0, 5);
}

async fn is_done(actor: &Actor) {
    let done = |view: &View| {
        let mut all = view.migrations.values();
        all.any(|one| one.status.phase == MigrationPhase::Succeeded)
    };
    actor.until("the first is made", 200, done).await;
}

/// A plan that was approved waits for the next hour before it carries more than it may, not after.
#[tokio::test(start_paused = true)]
async fn limit_reached_by_bytes() {
    let (actor, _) = full(5, 6, two_gib, &role()).await;
    actor.desk.policy("level", |spec| {
        carries_little(spec);
        spec.mode = Mode::Manual;
    });
    actor
        .until("there is a plan", 60, |view| {
            let policy = view.policies.get("level");
            policy.is_some_and(|policy| policy.plan.is_some())
        })
        .await;
    let plan = actor.view().policies["level"].plan.clone().unwrap();
    assert!(plan.total > 1);
    actor
        .desk
        .policy("level", |spec| spec.approve = Some(plan.id.clone()));
    is_done(&actor).await;
    actor
        .says("RebalancePolicy", "level", "LimitReached", 60)
        .await;
    sleep(Duration::from_secs(1800)).await;
    assert_eq!(begun(&actor.view()), 1, "{}", actor.picture());
    // The fleet is another by now: how the plan was found is known all the same, and what is left of it.
    let view = actor.view();
    assert_eq!(view.plan.moves.len() as i64, plan.total - 1);
    assert_eq!(view.question().plan(), *view.plan);
    sleep(Duration::from_secs(1900)).await;
    assert_eq!(begun(&actor.view()), 2, "{}", actor.picture());
}

/// The same by their number: two are not launched at once where one is left.
#[tokio::test(start_paused = true)]
async fn limit_reached_by_moves_of_an_approved_plan() {
    let (actor, _) = full(9, 6, two_gib, &role()).await;
    actor.desk.policy("level", |spec| {
        carries_little(spec);
        spec.limits.bytes_per_hour = None;
        spec.limits.moves_per_hour = Some(1);
        spec.mode = Mode::Manual;
    });
    let plan = |view: &View| view.policies.get("level").and_then(|one| one.plan.clone());
    actor
        .until("there is a plan", 60, |view| plan(view).is_some())
        .await;
    let id = plan(&actor.view()).unwrap().id;
    actor.desk.policy("level", |spec| spec.approve = Some(id));
    is_done(&actor).await;
    sleep(Duration::from_secs(1800)).await;
    assert_eq!(begun(&actor.view()), 1, "{}", actor.picture());
}

/// A process that remembers nothing counts what guests say of their last move: disks and memory.
#[tokio::test(start_paused = true)]
async fn limit_reached_by_bytes_of_the_process_before() {
    let role = Role::new("one").files().on_virtual_time();
    let (actor, _) = full(6, 6, two_gib, &role).await;
    actor.desk.policy("level", carries_little);
    is_done(&actor).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(begun(&actor.view()), 1, "{}", actor.picture());
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    sleep(Duration::from_secs(1200)).await;
    assert_eq!(begun(&actor.view()), 0, "{}", actor.picture());
}

fn pools(desk: &Desk) {
    for host in ["h1", "h2"] {
        desk.change_host(host, |spec| {
            let pool = |name: &str| PoolSpec {
                name: name.to_owned(),
                reserve: 5,
                overcommit: None,
                class: Some("ssd".to_owned()),
                shares: None,
            };
            spec.pools = Some(vec![pool("default"), pool("fast")]);
        });
    }
}

/// A plan that the next process recalls goes into the pools that were shown and approved, though others would do.
#[tokio::test(start_paused = true)]
async fn a_recalled_plan_keeps_its_pools() {
    let role = role();
    let mut small = HostPlan::new("h2").pool(GIB);
    small.pools.push(("fast".to_owned(), 100 * GIB));
    let mut large = HostPlan::new("h1").pool(100 * GIB);
    large.pools.push(("fast".to_owned(), 100 * GIB));
    let (fleet, desk): (Fleet, Desk) = stage(7, &[large, small]);
    pools(&desk);
    for number in 0..6 {
        let plan = GuestPlan::new(&format!("g{number}"));
        let plan = plan.memory(GIB).disk(4 * GIB, GIB);
        fleet.add_guest("h1", &plan);
    }
    let actor = Actor::start(&fleet, &desk, &role);
    actor.settled().await;
    desk.policy("level", |spec| spec.mode = Mode::Manual);
    let plan = |view: &View| view.policies.get("level").and_then(|one| one.plan.clone());
    actor
        .until("there is a plan", 60, |view| plan(view).is_some())
        .await;
    let shown = plan(&actor.view()).unwrap();
    for step in &shown.moves {
        assert_eq!(step.disks[0].pool, "fast", "{shown:?}");
    }
    actor.kill().await;
    desk.policy("level", |spec| spec.approve = Some(shown.id.clone()));
    let actor = Actor::start(&fleet, &desk, &role);
    let run = |view: &View| {
        let policy = view.policies.get("level");
        let past = policy.and_then(|policy| policy.last_plan.clone());
        past.is_some_and(|past| past.id == shown.id && past.done == past.total)
    };
    actor.until("it is run", 600, run).await;
    let files = fleet.files("h2");
    assert_eq!(files.len() as i64, shown.total);
    assert!(
        files
            .iter()
            .all(|file| format!("{file:?}").contains("fast")),
        "{files:?}"
    );
}

/// What a move has measured of a guest is known as long as it runs, and its profile's rate from the start.
#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_guest_is_planned_with() {
    let (actor, guests) = full(8, 1, |plan| plan.disk(20 * GIB, 10 * GIB), &role()).await;
    let guest = |view: &View| view.fleet.guests[0].clone();
    assert_eq!(guest(&actor.view()).dirty_rate, None);
    actor.desk.profile("default", |spec| {
        spec.bandwidth = Some(Bytes(50 * MIB));
    });
    actor
        .until("its profile's rate is known", 5, |view| {
            guest(view).bandwidth == Some(Bytes(50 * MIB))
        })
        .await;
    actor.fleet.dirty(guests[0], 5 * MIB);
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 600).await;
    let measured = actor.status("m").dirty_rate;
    assert!(measured.is_some_and(|rate| rate.0 > 0), "{measured:?}");
    assert_eq!(guest(&actor.view()).dirty_rate, measured);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(guest(&actor.view()).dirty_rate, measured);
}
