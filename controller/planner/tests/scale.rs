//! Large fleets: the whole is planned, holds before the checker, and its cost grows about as the fleet does.

mod support;

use std::time::{Duration, Instant};

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use support::*;

/// Thirty guests a host, of several sizes, two thirds full.
fn large(hosts: u32) -> Fleet {
    let mut all: Vec<Host> = (0..hosts).map(|at| host(&format!("h{at:05}"))).collect();
    let mut guests = Vec::new();
    for at in 0..hosts {
        for number in 0..30 {
            let size = [1, 2, 4, 8][((at * 7 + number * 3) % 4) as usize];
            let mut guest = guest(&format!("g{at:05}-{number:02}"), at, size * GI);
            guest.disks.push(disk("vda", "default", 8 * size * GI));
            guests.push(guest);
        }
    }
    for host in &mut all {
        host.memory_limit = Bytes(180 * GI);
        host.cpu_limit_milli = 64_000;
        host.pools[0].available = Bytes(600 * GI);
    }
    fleet(all, guests)
}

fn timed(fleet: &Fleet, drained: u32) -> (Plan, Duration) {
    let hosts: Vec<u32> = (0..drained).collect();
    let wishes = [drain("d", &hosts, 40)];
    let ledger = Ledger::default();
    let mut best = Duration::MAX;
    let mut made = Plan::default();
    for _ in 0..3 {
        let start = Instant::now();
        made = plan(fleet, &wishes, &ledger, NOW);
        best = best.min(start.elapsed());
    }
    checker::check(fleet, &wishes, &ledger, NOW, &made);
    (made, best)
}

#[test]
fn cost_grows_about_as_the_fleet_does() {
    let (_, small) = timed(&large(250), 10);
    let (made, big) = timed(&large(1000), 10);
    assert_eq!(made.moves.len(), 300);
    println!("10 of 250: {small:?}, 10 of 1000 with 30,000 guests: {big:?}");
    // Four times the hosts; room for a busy machine.
    assert!(
        big < small * 20 + Duration::from_millis(500),
        "{small:?} {big:?}"
    );
}

#[test]
#[ignore = "takes a while without optimisation; for measuring: cargo test --release -- --ignored --nocapture"]
fn figures() {
    for (hosts, drained) in [
        (200, 2),
        (1000, 10),
        (1000, 100),
        (5000, 250),
        (10_000, 100),
    ] {
        let fleet = large(hosts);
        let (made, took) = timed(&fleet, drained);
        println!(
            "drain {drained} of {hosts}: {} moves, {} rejected, makespan {:?}, in {took:?}",
            made.moves.len(),
            made.rejections.len(),
            made.makespan.unwrap_or_default(),
        );
    }
    let fleet = large(1000);
    let wishes: Vec<Wish> = (0..30_000)
        .step_by(3)
        .map(|guest| go(&format!("m{guest}"), guest, Some((guest / 30 + 17) % 1000)))
        .collect();
    let start = Instant::now();
    let made = plan(&fleet, &wishes, &Ledger::default(), NOW);
    println!(
        "{} explicit moves: {} in {:?}",
        wishes.len(),
        made.moves.len(),
        start.elapsed()
    );
}
