//! Large fleets: the whole is planned, holds before the checker, and its cost grows about as the fleet does.

mod support;

use std::time::{Duration, Instant};

use evenkeel_planner::*;
use support::*;

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
