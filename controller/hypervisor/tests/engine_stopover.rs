//! Full fleets: a policy whose hosts only become level where guests trade places, one of them by a stop at a third host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{
    MigrationPhase, RebalancePolicyStatus,
    kinds::{guest::Hold, policy::Mode},
    quantity::{Bytes, Span},
};
use evenkeel_engine::View;
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

/// Memory has room for two guests on each host, and only on h3, where the one that is there stays, one is missing. Of CPUs h1 has promised 8, h2 2 and h3 6, so
/// that nothing but a busy guest of h1 in the place of an idle one of h2 makes them level.
struct Ring {
    actor: Actor,
    busy: [Uuid; 2],
    idle: [Uuid; 2],
}

async fn ring(seed: u64, role: &Role) -> Ring {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(seed, &hosts);
    for host in ["h1", "h2", "h3"] {
        desk.change_host(host, |spec| {
            spec.migration.bandwidth = Some(Bytes(100 * MIB));
        });
    }
    let add = |host: &str, name: &str, vcpus: u32| {
        let mut plan = GuestPlan::new(name).memory(3 * GIB + GIB / 2);
        plan.vcpus = vcpus;
        fleet.add_guest(host, &plan)
    };
    let busy = [add("h1", "busy-1", 4), add("h1", "busy-2", 4)];
    let idle = [add("h2", "idle-1", 1), add("h2", "idle-2", 1)];
    add("h3", "other", 6);
    desk.guest("other", |spec| {
        spec.hold = Some(Hold {
            reason: "it stays".to_owned(),
            until: None,
        });
    });
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    Ring { actor, busy, idle }
}

fn role() -> Role {
    Role::new("one").cluster().on_virtual_time()
}

fn levels(actor: &Actor, change: impl FnOnce(&mut evenkeel_crds::RebalancePolicySpec)) {
    actor.desk.policy("level", |spec| {
        (spec.threshold.start, spec.threshold.stop) = (4, 3);
        (spec.resources.cpu, spec.resources.memory) = (100, 0);
        change(spec);
    });
}

fn status(view: &View) -> RebalancePolicyStatus {
    let shown = view.policies.get("level");
    shown.map(|shown| (**shown).clone()).unwrap_or_default()
}

fn is_level(view: &View) -> bool {
    let status = status(view);
    let mut all = status.conditions.iter();
    all.any(|one| one.type_ == "Balanced" && one.status == "True")
}

impl Ring {
    /// Where the guests are, none of them twice.
    fn hosts(&self, guests: [Uuid; 2]) -> Vec<String> {
        let all = guests.iter();
        let mut hosts: Vec<String> = all
            .flat_map(|guest| self.actor.fleet.executing(*guest))
            .collect();
        hosts.sort();
        hosts
    }

    fn is_parted(&self) -> bool {
        self.hosts(self.busy) == ["h1", "h2"] && self.hosts(self.idle) == ["h1", "h2"]
    }

    fn moves(&self) -> usize {
        assert_eq!(self.actor.fleet.violations(), Vec::<String>::new());
        self.actor.view().migrations.len()
    }

    /// A guest is where it only stops over.
    async fn stops_over(&self) {
        let there = |_: &View| {
            let all = self.busy.iter().chain(&self.idle);
            let mut hosts = all.flat_map(|guest| self.actor.fleet.executing(*guest));
            hosts.any(|host| host == "h3")
        };
        self.actor.until("one stops over", 600, there).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ring_on_a_nearly_full_fleet_is_levelled_and_stays_so() {
    for role in [role(), Role::new("one").files().on_virtual_time()] {
        let ring = ring(1, &role).await;
        // Far longer than both legs take: the guest that stops over is spared.
        levels(&ring.actor, |spec| {
            spec.cooldown = Span(Duration::from_secs(3600));
        });
        ring.stops_over().await;
        ring.actor.until("it is level", 900, is_level).await;
        assert!(ring.is_parted(), "{}", ring.actor.picture());
        assert_eq!(ring.moves(), 3, "{}", ring.actor.picture());
        let last = status(&ring.actor.view()).last_plan.unwrap();
        assert_eq!((last.done, last.total), (3, 3));
        for _ in 0..10 {
            sleep(Duration::from_secs(300)).await;
            assert_eq!(ring.moves(), 3, "{}", ring.actor.picture());
        }
        ring.actor.quiet(120).await;
    }
}

#[tokio::test(start_paused = true)]
async fn awaiting_approval_of_exactly_the_plan_shown_with_its_stop() {
    let ring = ring(2, &role()).await;
    levels(&ring.actor, |spec| spec.mode = Mode::Manual);
    ring.actor
        .until("there is a plan", 60, |view| status(view).plan.is_some())
        .await;
    let plan = status(&ring.actor.view()).plan.unwrap();
    let stop = plan.moves.iter().position(|step| step.onward.is_some());
    let (stop, steps) = (stop.expect("one stops over"), &plan.moves);
    assert_eq!(steps.len(), 3, "{plan:?}");
    let on = steps
        .iter()
        .rposition(|step| step.guest == steps[stop].guest);
    let on = &steps[on.unwrap()];
    assert_eq!(
        (&on.source, Some(&on.target)),
        (&steps[stop].target, steps[stop].onward.as_ref())
    );
    sleep(Duration::from_secs(600)).await;
    assert_eq!(ring.moves(), 0);
    // Another process finds the same plan, also with a guest at its stop.
    let id = plan.id.clone();
    levels(&ring.actor, |spec| {
        (spec.mode, spec.approve) = (Mode::Manual, Some(id.clone()));
    });
    ring.stops_over().await;
    let Ring { actor, busy, idle } = ring;
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &role());
    let ring = Ring { actor, busy, idle };
    let done = |view: &View| {
        let past = status(view).last_plan;
        past.is_some_and(|past| past.id == id && past.done == 3)
    };
    ring.actor.until("it is run", 900, done).await;
    ring.actor.until("it is level", 60, is_level).await;
    assert!(ring.is_parted(), "{}", ring.actor.picture());
    for step in steps.iter().filter(|step| step.onward.is_none()) {
        let guest = ["busy-1", "busy-2", "idle-1", "idle-2"]
            .iter()
            .position(|name| *name == step.guest)
            .unwrap();
        let uuid = [ring.busy, ring.idle][guest / 2][guest % 2];
        assert_eq!(fleet.executing(uuid), [step.target.as_str()]);
    }
    assert_eq!(ring.moves(), 3, "{}", ring.actor.picture());
}

/// From files nothing but the guest's own metadata tells that it only stopped over: the next process takes it on at once.
#[tokio::test(start_paused = true)]
async fn cooldown_spares_a_guest_at_its_stop_when_the_plan_is_lost() {
    let role = Role::new("one").files().on_virtual_time();
    let ring = ring(3, &role).await;
    levels(&ring.actor, |_| {});
    ring.stops_over().await;
    let Ring { actor, busy, idle } = ring;
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    sleep(Duration::from_secs(5)).await;
    let actor = Actor::start(&fleet, &desk, &role);
    let ring = Ring { actor, busy, idle };
    // The usual cooldown is 30 minutes.
    let parted = |_: &View| ring.is_parted();
    ring.actor.until("the guests are parted", 900, parted).await;
    ring.actor.until("it is level", 60, is_level).await;
    assert_eq!(ring.actor.fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn limit_reached_counts_both_ways_of_a_guest_that_stops_over() {
    let ring = ring(4, &role()).await;
    levels(&ring.actor, |spec| spec.limits.moves_per_hour = Some(2));
    sleep(Duration::from_secs(900)).await;
    assert_eq!(ring.moves(), 0, "{}", ring.actor.picture());
    assert!(!is_level(&ring.actor.view()));
    // An approved plan runs as the limits let it: nobody sets out who could not go on.
    let manual = |spec: &mut evenkeel_crds::RebalancePolicySpec, approve: Option<String>| {
        (spec.mode, spec.approve) = (Mode::Manual, approve);
        spec.limits.moves_per_hour = Some(2);
    };
    levels(&ring.actor, |spec| manual(spec, None));
    ring.actor
        .until("there is a plan", 60, |view| status(view).plan.is_some())
        .await;
    let id = status(&ring.actor.view()).plan.unwrap().id;
    levels(&ring.actor, |spec| manual(spec, Some(id)));
    ring.actor
        .says("RebalancePolicy", "level", "LimitReached", 60)
        .await;
    sleep(Duration::from_secs(4000)).await;
    assert_eq!(ring.moves(), 0, "{}", ring.actor.picture());
    levels(&ring.actor, |spec| {
        (spec.mode, spec.approve) = (Mode::Auto, None);
        spec.limits.moves_per_hour = Some(3);
    });
    ring.actor.until("it is level", 900, is_level).await;
    assert!(ring.is_parted() && ring.moves() == 3);
}

/// The way on from the stop is blocked until its attempts are used up: the policy says that it is not level and who has not
/// gone on, and goes on from there as soon as somebody asks again.
#[tokio::test(start_paused = true)]
async fn a_second_leg_that_fails_is_told_and_planned_anew() {
    let ring = ring(5, &role()).await;
    ring.actor.desk.profile("default", |spec| spec.attempts = 1);
    levels(&ring.actor, |_| {});
    ring.stops_over().await;
    // An answer that is lost would have the guest run twice.
    let arrived = |view: &View| {
        let mut all = view.migrations.values();
        all.any(|shown| shown.status.phase == MigrationPhase::Succeeded)
    };
    ring.actor.until("the first leg is over", 60, arrived).await;
    for host in ["h1", "h2"] {
        ring.actor.fleet.cut("h3", host, true);
        ring.actor.fleet.cut(host, "h3", true);
    }
    let failed = |view: &View| {
        let mut all = view.migrations.values();
        all.any(|shown| shown.status.phase == MigrationPhase::Failed)
    };
    ring.actor.until("it gives up", 1200, failed).await;
    ring.actor
        .until("the plan is over", 60, |view| status(view).plan.is_none())
        .await;
    for _ in 0..6 {
        sleep(Duration::from_secs(60)).await;
        assert!(!is_level(&ring.actor.view()), "{}", ring.actor.picture());
    }
    assert_eq!(ring.actor.fleet.violations(), Vec::<String>::new());
    for host in ["h1", "h2"] {
        ring.actor.fleet.cut("h3", host, false);
        ring.actor.fleet.cut(host, "h3", false);
    }
    levels(&ring.actor, |spec| spec.limits.parallel = 1);
    ring.actor.until("it is level", 1800, is_level).await;
    assert!(ring.is_parted(), "{}", ring.actor.picture());
}

/// Two guests belong on each other's hosts, and neither host has room for both: one stops over at the third, where it does
/// not belong either, and each comes to where it does.
#[tokio::test(start_paused = true)]
async fn placements_have_guests_trade_places_by_a_stop() {
    for role in [role(), Role::new("one").files().on_virtual_time()] {
        let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
        let (fleet, desk) = stage(6, &hosts);
        let large = fleet.add_guest("h1", &GuestPlan::new("large").memory(5 * GIB));
        let small = fleet.add_guest("h2", &GuestPlan::new("small").memory(4 * GIB));
        let actor = Actor::start(&fleet, &desk, &role);
        actor.settled().await;
        for (guest, host) in [("large", "h2"), ("small", "h1")] {
            actor.desk.placement(guest, &[guest], |spec| {
                spec.hosts = Some(named(&[host]));
            });
        }
        actor
            .until("the smaller one stops over", 600, |_| {
                fleet.executing(small) == ["h3"]
            })
            .await;
        let kept = |view: &View| {
            let all = ["large", "small"]
                .iter()
                .filter_map(|name| view.placements.get(*name));
            let mut conditions = all.flat_map(|shown| &shown.conditions);
            conditions.any(|one| one.type_ == "Satisfied" && one.status == "True")
                && fleet.executing(large) == ["h2"]
                && fleet.executing(small) == ["h1"]
        };
        actor.until("both are where they belong", 600, kept).await;
        sleep(Duration::from_secs(600)).await;
        assert_eq!(fleet.violations(), Vec::<String>::new());
        assert_eq!(actor.view().migrations.len(), 3, "{}", actor.picture());
        actor.clean(&[(large, "h2"), (small, "h1")]).await;
    }
}
