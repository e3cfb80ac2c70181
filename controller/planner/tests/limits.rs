//! What holds for all moves together: how many at once, and what each may have.

mod support;

use std::time::Duration;

use evenkeel_crds::{quantity::Bytes, reason::Reason};
use evenkeel_planner::*;
use support::*;

const MI: u64 = 1 << 20;

/// Four hosts with fast links, three guests on each of the first two.
fn stage(limits: Limits) -> Fleet {
    let mut hosts: Vec<Host> = ["h1", "h2", "h3", "h4"].into_iter().map(host).collect();
    for host in &mut hosts {
        host.bandwidth = Some(Bytes(1000 * MI));
        (host.max_inbound, host.max_outbound) = (9, 9);
    }
    let guests = (0..6).map(|number| guest(&format!("g{number}"), number % 2, 100 * MI));
    Fleet {
        limits,
        ..fleet(hosts, guests.collect())
    }
}

/// The most moves at once, those that begin at an end not counted with it.
fn most(plan: &Plan) -> usize {
    let ends = |one: &Move| one.start + one.duration.unwrap_or_default();
    let at = |time: Duration| {
        let moves = plan.moves.iter();
        moves
            .filter(|one| one.start <= time && time < ends(one))
            .count()
    };
    plan.moves
        .iter()
        .map(|one| at(one.start))
        .max()
        .unwrap_or(0)
}

#[test]
fn parallel_limit_of_the_fleet_binds_every_wish() {
    let wishes = [drain("d", &[0], 9), go("m", 1, Some(2)), go("n", 3, None)];
    let without = planned(&stage(Limits::default()), &wishes, &Ledger::default());
    assert!(most(&without) > 2, "{without:?}");
    let limits = Limits {
        parallel: Some(2),
        share: None,
        effort: None,
    };
    let fleet = stage(limits);
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!((plan.moves.len(), most(&plan)), (5, 2));
    let waits: Vec<_> = plan
        .moves
        .iter()
        .filter_map(|one| one.waits.as_ref())
        .collect();
    assert_eq!(waits.len(), 3);
    assert_eq!(waits[0].reason, Reason::ParallelLimit);
    assert!(
        waits[0]
            .message
            .starts_with("2 of 2 moves of the whole fleet are under way: "),
        "{}",
        waits[0].message
    );
    // What somebody asked for goes first.
    assert!(
        plan.moves[..2]
            .iter()
            .all(|one| one.by.kind == "GuestMigration")
    );
}

#[test]
fn parallel_limit_of_the_fleet_counts_what_is_in_flight() {
    let fleet = stage(Limits {
        parallel: Some(1),
        share: None,
        effort: None,
    });
    let mut ledger = Ledger::default();
    ledger.in_flight.push(flight(&fleet, None, 0, 2));
    let plan = planned(&fleet, &[go("m", 1, Some(2))], &ledger);
    let waits = plan.moves[0].waits.as_ref().unwrap();
    assert_eq!(waits.reason, Reason::ParallelLimit);
    assert_eq!(plan.moves[0].start, Duration::from_secs(10));
    let pools = Default::default();
    let cause = admit(&fleet, &[], &ledger, GuestId(1), HostId(2), &pools, NOW).unwrap_err();
    assert_eq!(cause.reason, Reason::ParallelLimit);
}

#[test]
fn a_share_is_what_one_move_has_at_most() {
    let wishes = [go("m", 1, Some(2))];
    let plan = |share| {
        let limits = Limits {
            parallel: None,
            share,
            effort: None,
        };
        let plan = planned(&stage(limits), &wishes, &Ledger::default());
        plan.moves[0].duration.unwrap()
    };
    let (free, shared) = (plan(None), plan(Some(Bytes(100 * MI))));
    let ratio = shared.as_secs_f64() / free.as_secs_f64();
    assert!((ratio - 10.0).abs() < 0.01, "{ratio}");
}

/// A guest's moves go no faster than they may: alone, beside others, and where no link is known.
#[test]
fn a_guest_has_no_more_than_its_own_rate() {
    let wishes = [drain("d", &[0], 9)];
    let seconds = |fleet: &Fleet, name: &str| {
        let plan = planned(fleet, &wishes, &Ledger::default());
        let mut moves = plan.moves.iter();
        let own = moves.find(|one| &*fleet.guests[one.guest.at()].name == name);
        own.unwrap().duration.map(|time| time.as_secs_f64())
    };
    let mut fleet = stage(Limits::default());
    let fast = seconds(&fleet, "g0").unwrap();
    assert!(fast < 1.0, "{fast}");
    fleet.guests[0].bandwidth = Some(Bytes(10 * MI));
    assert_eq!(seconds(&fleet, "g0"), Some(10.0));
    assert!(seconds(&fleet, "g2").unwrap() < 1.0);
    for host in &mut fleet.hosts {
        host.bandwidth = None;
    }
    assert_eq!(seconds(&fleet, "g0"), Some(10.0));
    assert_eq!(seconds(&fleet, "g2"), None);
    // What it dirties meanwhile counts by the rate that it has.
    fleet.guests[0].dirty_rate = Some(Bytes(5 * MI));
    assert_eq!(seconds(&fleet, "g0"), Some(20.0));
}
