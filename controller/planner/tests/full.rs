//! Fleets that are nearly full: guests that nobody asked to move make way, as few bytes as that takes.

mod support;

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

fn targets(plan: &Plan) -> BTreeMap<u32, u32> {
    let moves = plan.moves.iter();
    moves.map(|step| (step.guest.0, step.target.0)).collect()
}

#[test]
fn a_guest_makes_way_for_one_that_fits_nowhere() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 4), (2, 4)]);
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(plan.moves.len(), 2);
    let (first, last) = (&plan.moves[0], &plan.moves[1]);
    assert_eq!((last.guest, last.target), (GuestId(0), first.source));
    assert_eq!(
        last.waits.as_ref().unwrap().reason,
        Reason::InsufficientMemory
    );
    assert_eq!(first.by, last.by);
}

#[test]
fn the_smallest_makes_way() {
    let fleet = in_gib(&[8, 11, 9], &[(0, 5), (1, 4), (1, 3), (1, 2), (2, 5)]);
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default());
    // 3 have to go from h1, and h2 has room for 4.
    assert_eq!(targets(&plan), BTreeMap::from([(0, 1), (2, 2)]));
}

#[test]
fn one_makes_way_for_another_in_a_chain() {
    // 6 goes where 5 was, 5 where 3 was, 3 to the last host.
    let fleet = in_gib(
        &[8, 8, 8, 8],
        &[(0, 6), (1, 5), (1, 2), (2, 3), (2, 3), (3, 5)],
    );
    let mut halted = drain("a", &[], 4);
    if let What::Drain { halted, .. } = &mut halted.what {
        *halted = Some(cause(Reason::Suspended));
    }
    let wishes = [halted, roomy(drain("d", &[0], 4))];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert!(plan.moves.iter().all(|step| step.by.name == "d"));
    assert_eq!(
        targets(&plan),
        BTreeMap::from([(0, 1), (1, 2), (3, 3)]),
        "{plan:#?}"
    );
}

#[test]
fn what_is_held_or_belongs_there_does_not_make_way() {
    let mut fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 4), (2, 4)]);
    fleet.guests[1].held = Some(cause(Reason::GuestHeld));
    let here = Placement {
        hosts: Some([HostId(2)].into()),
        ..Placement::default()
    };
    let wishes = [roomy(drain("d", &[0], 4)), place("here", &[2], here)];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(
        refused(&plan).cause.to_string(),
        "NoHostFits: 0/2 hosts fit: 2 InsufficientMemory"
    );
}

#[test]
fn nobody_makes_way_in_vain() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 8), (1, 5), (2, 5)]);
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default());
    assert_eq!(plan.moves, []);
    assert_eq!(refused(&plan).cause.reason, Reason::NoHostFits);
}

fn swap(first: u32, second: u32) -> [Wish; 2] {
    let wish = |guest: u32, to: u32| go(&format!("m{guest}"), guest, Some(to));
    [wish(0, second), wish(1, first)]
}

fn way(plan: &Plan) -> Vec<(u32, u32, Option<u32>)> {
    let moves = plan.moves.iter();
    moves
        .map(|step| (step.guest.0, step.target.0, step.onward.map(|host| host.0)))
        .collect()
}

#[test]
fn guests_of_full_hosts_trade_places_and_the_smaller_one_stops_over() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 2)]);
    let plan = planned(&fleet, &swap(0, 1), &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(way(&plan), [(1, 2, Some(0)), (0, 1, None), (1, 0, None)]);
    assert_eq!(plan.bytes, Bytes((6 + 5 + 5) * GI));
    assert_eq!(
        plan.moves[2].waits.as_ref().unwrap().to_string(),
        "Waiting: g1 comes to h2 first and goes on to h0 from there"
    );
}

#[test]
fn a_ring_of_three_is_broken_by_its_smallest() {
    let fleet = in_gib(&[8, 8, 8, 8], &[(0, 6), (1, 4), (2, 5), (3, 4)]);
    let wishes = [
        go("a", 0, Some(1)),
        go("b", 1, Some(2)),
        go("c", 2, Some(0)),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.moves.len(), 4);
    assert_eq!(
        (plan.moves[0].guest, plan.moves[0].onward),
        (GuestId(1), Some(HostId(2)))
    );
    assert_eq!(plan.bytes, Bytes((6 + 4 + 5 + 4) * GI));
}

#[test]
fn the_smallest_does_not_stop_over_where_that_would_not_help() {
    // Where 2 leaves, 6 still has no room; where 6 leaves, all have.
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 3), (1, 5), (2, 1)]);
    let wishes = [
        go("a", 0, Some(1)),
        go("b", 1, Some(0)),
        go("c", 2, Some(0)),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(plan.bytes, Bytes((6 + 3 + 5 + 6) * GI));
}

#[test]
fn two_guests_stop_over_together_where_one_is_not_enough() {
    let fleet = in_gib(&[8, 8, 6, 6], &[(0, 7), (1, 4), (1, 4), (2, 2), (3, 2)]);
    let wishes = [
        go("a", 0, Some(1)),
        go("b", 1, Some(0)),
        go("c", 2, Some(0)),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(
        plan.moves
            .iter()
            .filter(|step| step.onward.is_some())
            .count(),
        2
    );
    assert_eq!(plan.bytes, Bytes((7 + 8 + 8) * GI));
}

#[test]
fn what_is_short_for_a_stop_is_told() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 4)]);
    let plan = planned(&fleet, &swap(0, 1), &Ledger::default());
    assert_eq!(plan.moves, []);
    assert_eq!(
        plan.rejections[0].cause.message,
        "h1 has room for g0 only when g1 has left it, and that waits for g0 in turn: a ring of 2 moves (g0 to h1, g1 \
         to h0); none of them can stop over elsewhere, for h2 lacks 1Gi of memory for g1: it needs 5Gi, 4Gi of 8Gi is left; also \
         InsufficientMemory: h1 lacks 3Gi of memory for g0: it needs 6Gi, 3Gi of 8Gi is left"
    );
}

#[test]
fn disks_stop_over_too_and_leave_nothing_behind() {
    let mut fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 6)]);
    for guest in &mut fleet.guests {
        guest.disks.push(disk("vda", "default", 100 * GI));
    }
    for host in &mut fleet.hosts {
        host.pools[0].available = Bytes(60 * GI);
    }
    // Half of the disks is occupied: where one has left there are 110 free, and the third host has too little.
    let plan = planned(&fleet, &swap(0, 1), &Ledger::default());
    assert_eq!(plan.moves, []);
    assert!(
        plan.rejections[0]
            .cause
            .message
            .contains("lacks 40Gi of free space for vda of g"),
        "{plan:#?}"
    );
    fleet.hosts[2].pools[0].available = Bytes(100 * GI);
    let plan = planned(&fleet, &swap(0, 1), &Ledger::default());
    assert_eq!(plan.moves.len(), 3);
}

#[test]
fn balances_swap_through_a_third_host_within_their_limits() {
    // Memory is full; the busy guest of the first host trades places with an idle one of the second.
    let mut fleet = in_gib(&[16, 16, 10], &[(0, 8), (0, 8), (1, 8), (1, 8), (2, 1)]);
    for (guest, cpus) in [8, 8, 1, 1, 9].into_iter().enumerate() {
        let at = fleet.guests[guest].host.at();
        fleet.hosts[at].cpu_used_milli += cpus * 1000 - 1000;
        fleet.guests[guest].cpu_milli = cpus * 1000;
    }
    let wish = |moves| {
        let mut wish = balance("level", &[0, 1, 2]);
        if let What::Balance(balance) = &mut wish.what {
            balance.weights.memory = 0;
            balance.stops_over = true;
            balance.moves = moves;
        }
        wish
    };
    let plan = planned(&fleet, &[wish(None)], &Ledger::default());
    let stops = |plan: &Plan| {
        plan.moves
            .iter()
            .filter(|step| step.onward.is_some())
            .count()
    };
    assert!(stops(&plan) > 0, "{plan:#?}");
    assert!(plan.balances[0].predicted < plan.balances[0].now);
    let mut straight = wish(None);
    if let What::Balance(balance) = &mut straight.what {
        balance.stops_over = false;
    }
    assert_eq!(stops(&planned(&fleet, &[straight], &Ledger::default())), 0);
    let most = plan.moves.len() as u32;
    let less = planned(&fleet, &[wish(Some(most - 1))], &Ledger::default());
    assert_eq!(stops(&less), 0, "{less:#?}");
    let cause = less.balances[0].cause.as_ref().unwrap();
    assert_eq!((less.moves.len(), cause.reason), (0, Reason::ParallelLimit));
}

/// Hosts at 97 %: each drain has room in all, but only in pieces.
#[test]
fn fleets_that_are_nearly_full_are_drained() {
    let mut fleet = large(20);
    let all: u64 = fleet.hosts.iter().map(|host| host.memory_used.0).sum();
    for host in &mut fleet.hosts[1..] {
        // Just enough for what the first host has, a share on each of the others.
        host.memory_limit = Bytes((all / 19 + GI / 2) / GI * GI + GI);
    }
    let full = fleet.hosts[1].memory_limit.0 as f64 * 19.0;
    assert!(all as f64 / full > 0.96, "{}", all as f64 / full);
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 40))], &Ledger::default());
    assert_eq!(plan.rejections, []);
}
