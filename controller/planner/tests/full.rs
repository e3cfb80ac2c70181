//! Fleets that are nearly full: guests that nobody asked to move make way, as few bytes as that takes.

mod support;

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

/// Hosts with these limits in GiB, and guests of so many GiB on them.
fn full(limits: &[u64], guests: &[(u32, u64)]) -> Fleet {
    let hosts = limits.iter().enumerate().map(|(at, limit)| {
        let mut host = host(&format!("h{at}"));
        host.memory_limit = Bytes(limit * GI);
        host
    });
    let guests = guests.iter().enumerate();
    let guests = guests.map(|(at, (host, size))| guest(&format!("g{at}"), *host, size * GI));
    fleet(hosts.collect(), guests.collect())
}

fn targets(plan: &Plan) -> BTreeMap<u32, u32> {
    let moves = plan.moves.iter();
    moves.map(|step| (step.guest.0, step.target.0)).collect()
}

#[test]
fn a_guest_makes_way_for_one_that_fits_nowhere() {
    let fleet = full(&[8, 8, 8], &[(0, 6), (1, 4), (2, 4)]);
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
    let fleet = full(&[8, 11, 9], &[(0, 5), (1, 4), (1, 3), (1, 2), (2, 5)]);
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default());
    // 3 have to go from h1, and h2 has room for 4.
    assert_eq!(targets(&plan), BTreeMap::from([(0, 1), (2, 2)]));
}

#[test]
fn one_makes_way_for_another_in_a_chain() {
    // 6 goes where 5 was, 5 where 3 was, 3 to the last host.
    let fleet = full(
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
    let mut fleet = full(&[8, 8, 8], &[(0, 6), (1, 4), (2, 4)]);
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
    let fleet = full(&[8, 8, 8], &[(0, 8), (1, 5), (2, 5)]);
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default());
    assert_eq!(plan.moves, []);
    assert_eq!(refused(&plan).cause.reason, Reason::NoHostFits);
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
