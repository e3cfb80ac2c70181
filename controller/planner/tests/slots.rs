//! Limits on moves at once: their places go to different links first, so that the whole ends nearly as soon as it can, and
//! what really starts when moves end one by one is what the plan said.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use proptest::prelude::*;
use support::*;

/// How many times the least makespan the plan's is.
fn over(fleet: &Fleet, wishes: &[Wish], plan: &Plan) -> f64 {
    let least = bounds::makespan(fleet, wishes, plan);
    plan.makespan.unwrap_or(Duration::MAX).as_secs_f64() / least.as_secs_f64()
}

fn first(hosts: u32) -> Vec<u32> {
    (0..hosts).collect()
}

#[test]
fn the_places_of_a_drain_go_to_different_hosts() {
    let fleet = large(60);
    for (drained, parallel) in [(20, 4), (20, 8), (20, 20), (20, 30), (30, 11), (3, 5)] {
        let wishes = [drain("d", &first(drained), parallel)];
        let plan = planned(&fleet, &wishes, &Ledger::default());
        let over = over(&fleet, &wishes, &plan);
        assert!(over <= 1.1, "{drained} drained, {parallel} at once: {over}");
    }
}

#[test]
fn so_do_those_of_the_fleet_and_of_several_drains() {
    let mut fleet = large(60);
    let wishes = [
        drain("a", &first(15), 6),
        drain("b", &[20, 21, 22, 23], 40),
        go("m", 900, None),
    ];
    for parallel in [3, 8, 12] {
        fleet.limits.parallel = Some(parallel);
        let plan = planned(&fleet, &wishes, &Ledger::default());
        let over = over(&fleet, &wishes, &plan);
        assert!(over <= 1.1, "{parallel} at once: {over}");
    }
}

/// Ten hosts are emptied into two, of which one has a link ten times as fast.
#[test]
fn what_comes_in_counts_as_what_goes_out() {
    let mut fleet = large(12);
    for at in [10, 11] {
        let target = &mut fleet.hosts[at];
        target.memory_limit = Bytes(4000 * GI);
        target.cpu_limit_milli = 4_000_000;
        target.pools[0].available = Bytes(90_000 * GI);
        target.max_inbound = 20;
    }
    fleet.hosts[11].bandwidth = Some(Bytes(10_000 * MI));
    let wishes = [drain("d", &first(10), 7)];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    let over = over(&fleet, &wishes, &plan);
    assert!(over <= 1.15, "{over}");
}

#[test]
fn the_more_important_go_first_all_the_same() {
    let mut fleet = large(30);
    for guest in fleet.guests.iter_mut().step_by(30).take(2) {
        guest.priority = 5;
    }
    fleet.guests[1].priority = 5;
    let wishes = [drain("d", &first(10), 3)];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    let at_once = plan.moves.iter().filter(|step| step.waits.is_none());
    let mut at_once: Vec<u32> = at_once.map(|step| step.guest.0).collect();
    at_once.sort_unstable();
    assert_eq!(at_once, [0, 1, 30]);
}

/// Plans anew whenever a move ends, as the engine does. Gives when the last one ends, and how many times that was.
fn in_reality(mut fleet: Fleet, wishes: &[Wish]) -> (Duration, usize) {
    let mut ledger = Ledger::default();
    let (mut time, mut plans) = (Duration::ZERO, 0);
    loop {
        let plan = planned(&fleet, wishes, &ledger);
        plans += 1;
        for step in plan.moves.iter().filter(|step| step.waits.is_none()) {
            let mut begun = flight(&fleet, Some(step.by.clone()), step.guest.0, step.target.0);
            begun.remaining = step.duration;
            ledger.in_flight.push(begun);
        }
        ledger.planned = plan
            .moves
            .iter()
            .map(|step| (step.guest, step.target))
            .collect();
        let ends = ledger
            .in_flight
            .iter()
            .filter_map(|flight| flight.remaining);
        let Some(next) = ends.min() else {
            assert_eq!(plan.moves, []);
            return (time, plans);
        };
        time += next;
        let mut flights = std::mem::take(&mut ledger.in_flight);
        flights.retain_mut(|flight| {
            let left = flight.remaining.unwrap_or_default() - next;
            flight.remaining = Some(left);
            if !left.is_zero() {
                return true;
            }
            let guest = &mut fleet.guests[flight.guest.at()];
            guest.host = flight.target;
            let (cpu, memory) = (guest.cpu_milli, guest.memory.0);
            let named = (guest.domain.clone(), guest.uuid.clone());
            let source = &mut fleet.hosts[flight.source.at()];
            source.cpu_used_milli -= cpu;
            source.memory_used.0 -= memory;
            source.domains.remove(&named.0);
            let target = &mut fleet.hosts[flight.target.at()];
            target.cpu_used_milli += cpu;
            target.memory_used.0 += memory;
            target.domains.insert(named.0, named.1);
            false
        });
        ledger.in_flight = flights;
    }
}

#[test]
fn reality_follows_the_plan() {
    let mut fleet = large(24);
    // Six guests on each of the first eight hosts.
    fleet.guests.retain(|guest| {
        let number = guest.name.as_str().rsplit('-').next();
        guest.host.0 >= 8 || number.is_some_and(|number| number < "06")
    });
    for host in &mut fleet.hosts {
        (host.memory_used.0, host.cpu_used_milli) = (0, 0);
        host.domains.clear();
    }
    let fleet = support::fleet(fleet.hosts, fleet.guests);
    let wishes = [drain("d", &first(8), 5)];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    let least = bounds::makespan(&fleet, &wishes, &plan).as_secs_f64();
    let (took, plans) = in_reality(fleet, &wishes);
    assert_eq!(plan.moves.len(), 48);
    let over = took.as_secs_f64() / least;
    assert!(over <= 1.1 && plans > 10, "{over} after {plans} plans");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Guests of any size on hosts with room, any limits, slots and links. So few moves may leave a place idle at the end.
    #[test]
    fn close_to_the_bound_where_nothing_blocks(
        sizes in prop::collection::vec(prop::collection::vec(1..9u64, 4..16), 6..14),
        parallel in 2..12u32,
        of_fleet in prop::option::of(2..12u32),
        slots in 1..5u32,
        fast in prop::collection::vec(prop::bool::ANY, 14),
    ) {
        let drained = sizes.len();
        let mut hosts: Vec<Host> = (0..3 * drained).map(|at| host(&format!("h{at:02}"))).collect();
        let mut guests = Vec::new();
        for (at, sizes) in sizes.iter().enumerate() {
            for (number, size) in sizes.iter().enumerate() {
                guests.push(guest(&format!("g{at:02}-{number:02}"), at as u32, size * GI));
            }
        }
        for (at, host) in hosts.iter_mut().enumerate() {
            (host.max_inbound, host.max_outbound) = (slots, slots);
            (host.memory_limit, host.cpu_limit_milli) = (Bytes(400 * GI), 1_000_000);
            if fast.get(at) == Some(&true) {
                host.bandwidth = Some(Bytes(4000 * MI));
            }
        }
        let mut fleet = fleet(hosts, guests);
        fleet.limits.parallel = of_fleet;
        let wishes = [drain("d", &first(drained as u32), parallel)];
        let plan = planned(&fleet, &wishes, &Ledger::default());
        let over = over(&fleet, &wishes, &plan);
        prop_assert!(over <= 1.3, "{over}");
    }
}
