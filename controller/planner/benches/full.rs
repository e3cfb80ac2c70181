//! Fleets that are nearly full: whether everybody arrives where there is a way, and how many bytes besides their own travel.
//! Small fleets are compared with a search through every state that can be reached; large ones are made so that a way is
//! known. `cargo bench -p evenkeel-planner --bench full`.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::dice::Dice;
use support::scenes::{emptied, moves, rings};
use support::*;

/// What came of fleets of one kind.
#[derive(Default)]
struct Tally {
    /// Fleets in which there is a way, and those of them in which all arrive.
    possible: usize,
    solved: usize,
    /// GiB besides the guests' own that travel in those, by our plans and at least.
    extra: u64,
    least: u64,
    /// Fleets in which somebody stays, and those of them in which each who stays is told why, by name.
    left: usize,
    told: usize,
    longest: Duration,
}

impl Tally {
    /// Notes a plan of a fleet whose guests' own bytes are these GiB, and the fewest besides if there is a way.
    fn note(&mut self, plan: &Plan, fleet: &Fleet, own: u64, least: Option<u64>, took: Duration) {
        self.longest = self.longest.max(took);
        if let Some(least) = least {
            self.possible += 1;
            if plan.rejections.is_empty() {
                self.solved += 1;
                self.extra += plan.bytes.0 / GI - own;
                self.least += least;
            }
        }
        if !plan.rejections.is_empty() {
            self.left += 1;
            let named = |left: &Rejection| {
                let hosts: i64 = left.hosts.iter().map(|hosts| hosts.count).sum();
                let host = |host: &Host| left.cause.message.contains(host.name.as_str());
                hosts as usize == fleet.hosts.len() - 1 || fleet.hosts.iter().any(host)
            };
            self.told += usize::from(plan.rejections.iter().all(named));
        }
    }

    fn tell(&self, name: &str) {
        println!(
            "{name}: {} of {} solved where there is a way, {} GiB besides their own (at least {}), {} of {} that are left told by name, longest plan {:.1} ms, the checker holds",
            self.solved,
            self.possible,
            self.extra,
            self.least,
            self.told,
            self.left,
            self.longest.as_secs_f64() * 1000.0,
        );
    }
}

fn made(fleet: &Fleet, wishes: &[Wish]) -> (Plan, Duration) {
    let start = Instant::now();
    let made = plan(fleet, wishes, &Ledger::default(), NOW);
    let took = start.elapsed();
    checker::check(fleet, wishes, &Ledger::default(), NOW, &made);
    (made, took)
}

/// So many of these, the same in each run.
fn each<S: Strategy>(strategy: S, count: usize, mut run: impl FnMut(S::Value)) {
    let mut runner = TestRunner::deterministic();
    for _ in 0..count {
        if let Ok(tree) = strategy.new_tree(&mut runner) {
            run(tree.current());
        }
    }
}

fn trades() {
    let kinds = [
        ("swaps of 2 full hosts of 3", rings(3, 2, 2, 7).boxed()),
        ("swaps of 2 full hosts of 4", rings(4, 2, 2, 5).boxed()),
        ("rings of 3 full hosts of 4", rings(4, 3, 1, 6).boxed()),
        ("any moves on 3 full hosts", moves(3, 5, 6).boxed()),
    ];
    for (name, kind) in kinds {
        let mut tally = Tally::default();
        each(kind, 2000, |scene| {
            let (fleet, wishes) = scene.fleet();
            let (plan, took) = made(&fleet, &wishes);
            tally.note(&plan, &fleet, scene.own(), scene.least(), took);
        });
        tally.tell(&format!("{name}, 2000 fleets"));
    }
}

fn small_drains() {
    let mut tally = Tally::default();
    each(emptied(4, 6, 5), 2000, |scene| {
        let (fleet, wish) = scene.fleet();
        let (plan, took) = made(&fleet, &[wish]);
        tally.note(&plan, &fleet, scene.own(), scene.least(), took);
    });
    tally.tell("drains of 1 of 4 full hosts, 2000 fleets");
}

/// Guests of 1 to 32 GiB fill all hosts of 256 GiB but the first to so many percent; then some are put on the first. So
/// there is a way to drain it: back.
fn crowded(hosts: u32, percent: u64, seed: u64) -> Fleet {
    let mut dice = Dice(seed);
    let limit = 256 * GI;
    let mut all: Vec<Host> = (0..hosts).map(|at| host(&format!("h{at:03}"))).collect();
    let mut guests = Vec::new();
    for at in 1..hosts {
        let mut room = limit * percent / 100;
        while room >= GI {
            let size = (GI << dice.roll(6)).min(room / GI * GI);
            room -= size;
            guests.push(guest(&format!("g{:05}", guests.len()), at, size));
        }
    }
    for host in &mut all {
        host.memory_limit = Bytes(limit);
        host.cpu_limit_milli = 1_000_000;
    }
    let mut there = 0;
    for _ in 0..10_000 {
        let guest = dice.roll(guests.len() as u64) as usize;
        let size = guests[guest].memory.0;
        if guests[guest].host.0 != 0 && there + size <= limit * percent / 100 {
            guests[guest].host = HostId(0);
            there += size;
        }
    }
    fleet(all, guests)
}

fn large_drains() {
    for hosts in [10, 40] {
        for percent in [97, 98, 99] {
            let mut tally = Tally::default();
            for seed in 0..50 {
                let fleet = crowded(hosts, percent, seed);
                let own = fleet.hosts[0].memory_used.0 / GI;
                let (plan, took) = made(&fleet, &[roomy(drain("d", &[0], 40))]);
                tally.note(&plan, &fleet, own, Some(0), took);
            }
            tally.tell(&format!(
                "drains of 1 of {hosts} hosts, the others then {percent} % full, 50 fleets"
            ));
        }
    }
}

fn main() {
    trades();
    small_drains();
    large_drains();
}
