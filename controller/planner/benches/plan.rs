//! How long plans take, how many bytes they move and how close they come to what is possible.
//! `cargo bench -p evenkeel-planner [part of a name]`. Times are of this machine; tests compare counts and ratios only.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_planner::*;
use support::*;

fn wanted(name: &str) -> bool {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'));
    words.next().is_none_or(|word| name.contains(&word))
}

/// The best of three runs.
fn timed<T>(mut run: impl FnMut() -> T) -> (T, Duration) {
    let start = Instant::now();
    let mut made = run();
    let mut best = start.elapsed();
    for _ in 0..2 {
        let start = Instant::now();
        made = run();
        best = best.min(start.elapsed());
    }
    (made, best)
}

/// The most memory that this process has had at once, in MiB. The fleet is in it, and two plans: one is kept while the next is
/// made.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes >> 10)
}

fn report(name: &str, fleet: &Fleet, wishes: &[Wish]) {
    if !wanted(name) {
        return;
    }
    let (made, took) = timed(|| plan(fleet, wishes, &Ledger::default(), NOW));
    let most = peak().map_or("unknown".to_owned(), |most| format!("{most} MiB"));
    checker::check(fleet, wishes, &Ledger::default(), NOW, &made);
    let makespan = made.makespan.unwrap_or_default();
    let bound = bounds::makespan(fleet, wishes, &made)
        .as_secs_f64()
        .max(1e-9);
    println!(
        "{name}: {} moves, {} rejected, {:.0} GiB, makespan {:.0} s ({:.2} of the lower bound), planned in {:.1} ms, peak memory so far {most}, the checker holds",
        made.moves.len(),
        made.rejections.len(),
        made.bytes.0 as f64 / GI as f64,
        makespan.as_secs_f64(),
        makespan.as_secs_f64() / bound,
        took.as_secs_f64() * 1000.0,
    );
    for told in &made.balances {
        let points = |hundredths: u32| f64::from(hundredths) / 100.0;
        println!(
            "  imbalance {:.2} -> {:.2} percent points",
            points(told.now),
            points(told.predicted)
        );
    }
}

fn drains() {
    for (hosts, drained, parallel) in [
        (200, 2, 40),
        (1000, 10, 40),
        (1000, 100, 400),
        (5000, 250, 40),
        (5000, 250, 500),
        (10_000, 100, 40),
        (10_000, 1000, 2000),
    ] {
        let fleet = large(hosts);
        let hosts_drained: Vec<u32> = (0..drained).collect();
        report(
            &format!("drain {drained} of {hosts}, {parallel} at once"),
            &fleet,
            &[drain("d", &hosts_drained, parallel)],
        );
    }
}

fn explicit() {
    let fleet = large(1000);
    let wishes: Vec<Wish> = (0..30_000)
        .step_by(3)
        .map(|guest| go(&format!("m{guest}"), guest, Some((guest / 30 + 17) % 1000)))
        .collect();
    report("10000 explicit moves on 1000", &fleet, &wishes);
}

/// A fleet whose guests lie as they happened to be started: the first hosts got most.
fn uneven(hosts: u32) -> Fleet {
    let mut fleet = large(hosts);
    for host in &mut fleet.hosts {
        host.memory_used = Bytes(0);
        host.cpu_used_milli = 0;
        host.domains.clear();
        host.memory_limit = Bytes(300 * GI);
        host.pools[0].available = Bytes(3000 * GI);
        host.pools[0].virtual_used = Bytes(0);
    }
    for (at, guest) in fleet.guests.iter_mut().enumerate() {
        let spot = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let part = (spot % 10_000) as f64 / 10_000.0;
        guest.host = HostId((part.powf(1.25) * f64::from(hosts)) as u32);
    }
    support::fleet(fleet.hosts, fleet.guests)
}

fn balances() {
    for hosts in [40, 200, 1000, 10_000] {
        let fleet = uneven(hosts);
        let all: Vec<u32> = (0..hosts).collect();
        let mut wish = balance("level", &all);
        if let What::Balance(balance) = &mut wish.what {
            balance.stop = 3;
            balance.parallel = 1000;
            balance.stops_over = true;
        }
        let guests = fleet.guests.len();
        report(
            &format!("level {hosts} hosts with {guests} guests"),
            &fleet,
            &[wish],
        );
    }
}

fn emptied() {
    for hosts in [200, 1000, 5000] {
        let name = format!("drainable {hosts}");
        if wanted(&name) {
            let fleet = large(hosts);
            let all: Vec<HostId> = (0..hosts).map(HostId).collect();
            let (told, took) = timed(|| drainable(&fleet, &[], &Ledger::default(), &all, NOW));
            let blocked = told.iter().filter(|host| !host.blockers.is_empty()).count();
            let milliseconds = took.as_secs_f64() * 1000.0;
            println!("{name}: {blocked} blocked, told of all in {milliseconds:.1} ms");
            let (known, _) = Looked::default().again(fleet.clone(), &[], Ledger::default(), NOW);
            let mut changed = fleet.clone();
            changed.hosts[hosts as usize / 2].memory_used.0 += GI;
            let mut copies = vec![changed; 3];
            let again = || {
                known.again(
                    copies.pop().unwrap_or_default(),
                    &[],
                    Ledger::default(),
                    NOW,
                )
            };
            let ((next, _), took) = timed(again);
            let milliseconds = took.as_secs_f64() * 1000.0;
            println!(
                "{name}, after one change: {} hosts asked in {milliseconds:.1} ms",
                next.asked()
            );
        }
    }
}

/// What is kept of a plan when something changes, and how long the next one takes.
fn changes() {
    for (hosts, drained) in [(1000, 100), (10_000, 100), (10_000, 1000)] {
        let name = format!("changes to a drain of {drained} of {hosts}");
        if !wanted(&name) {
            continue;
        }
        let fleet = large(hosts);
        let all: Vec<u32> = (0..drained).collect();
        let wishes = [drain("d", &all, 400)];
        let made = plan(&fleet, &wishes, &Ledger::default(), NOW);
        let ledger = Ledger {
            planned: made
                .moves
                .iter()
                .map(|step| (step.guest, step.target))
                .collect(),
            ..Ledger::default()
        };
        let busiest = made.moves[made.moves.len() / 2].target;
        let mut closed = fleet.clone();
        closed.hosts[busiest.at()].closed =
            Some(Cause::new(Reason::TargetUnschedulable, "closed".to_owned()));
        let mut grown = fleet.clone();
        grown.guests[made.moves[0].guest.at()].memory.0 += 4 * GI;
        let mut arrived = fleet.clone();
        let mut late = guest("zz-late", 0, 16 * GI);
        late.disks.push(disk("vda", "default", 64 * GI));
        arrived.guests.push(late);
        for (what, changed) in [
            ("a target closes", closed),
            ("a guest grows", grown),
            ("a guest appears", arrived),
        ] {
            let share = |ledger: &Ledger| {
                let (next, took) = timed(|| plan(&changed, &wishes, ledger, NOW));
                checker::check(&changed, &wishes, ledger, NOW, &next);
                let targets: std::collections::BTreeMap<GuestId, HostId> = next
                    .moves
                    .iter()
                    .map(|step| (step.guest, step.target))
                    .collect();
                let kept = made
                    .moves
                    .iter()
                    .filter(|step| targets.get(&step.guest) == Some(&step.target));
                let share = 100.0 * kept.count() as f64 / made.moves.len() as f64;
                let milliseconds = took.as_secs_f64() * 1000.0;
                format!("{share:.2} % kept in {milliseconds:.1} ms")
            };
            let (blank, kept) = (share(&Ledger::default()), share(&ledger));
            println!("{name}, {what}: {kept}; planned from nothing: {blank}");
        }
    }
}

fn main() {
    // First, so that the memory of no other case is in theirs.
    balances();
    changes();
    emptied();
    drains();
    explicit();
}
