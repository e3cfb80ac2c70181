//! Guests that sit where others belong trade places, on nearly full fleets too: directly, or one of them by a stop.

mod support;

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

fn on(name: &str, guests: &[u32], hosts: &[u32]) -> Wish {
    let hosts = Some(hosts.iter().copied().map(HostId).collect());
    let placement = Placement {
        hosts,
        ..Placement::default()
    };
    place(name, guests, placement)
}

fn apart(name: &str, guests: &[u32]) -> Wish {
    let placement = Placement {
        apart: Some(HOST_KEY.to_owned()),
        ..Placement::default()
    };
    place(name, guests, placement)
}

/// Where guests end that move.
fn ends(plan: &Plan) -> BTreeMap<u32, u32> {
    let last = plan.moves.iter().filter(|step| step.onward.is_none());
    last.map(|step| (step.guest.0, step.target.0)).collect()
}

/// Guests that stop over, and where.
fn stops(plan: &Plan) -> BTreeMap<u32, u32> {
    let all = plan.moves.iter().filter(|step| step.onward.is_some());
    all.map(|step| (step.guest.0, step.target.0)).collect()
}

#[test]
fn guests_on_each_others_hosts_trade_places_by_a_stop() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 2)]);
    let wishes = [on("a", &[0], &[1]), on("b", &[1], &[0])];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(ends(&plan), BTreeMap::from([(0, 1), (1, 0)]));
    assert_eq!(stops(&plan), BTreeMap::from([(1, 2)]));
    assert_eq!(plan.bytes, Bytes((6 + 5 + 5) * GI));
}

#[test]
fn where_room_allows_they_trade_directly() {
    for limits in [[12, 12, 2], [6, 11, 2]] {
        let fleet = in_gib(&limits, &[(0, 6), (1, 5), (2, 2)]);
        let wishes = [on("a", &[0], &[1]), on("b", &[1], &[0])];
        let plan = planned(&fleet, &wishes, &Ledger::default());
        assert_eq!(ends(&plan), BTreeMap::from([(0, 1), (1, 0)]), "{limits:?}");
        assert_eq!(stops(&plan), BTreeMap::new());
    }
}

#[test]
fn three_that_sit_on_each_others_hosts_go_round() {
    let fleet = in_gib(&[8, 8, 8, 8], &[(0, 6), (1, 5), (2, 4), (3, 4)]);
    let wishes = [
        on("a", &[0], &[1]),
        on("b", &[1], &[2]),
        on("c", &[2], &[0]),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(ends(&plan), BTreeMap::from([(0, 1), (1, 2), (2, 0)]));
    assert_eq!(stops(&plan), BTreeMap::from([(2, 3)]));
}

#[test]
fn two_small_ones_leave_together_for_a_large_one() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 3), (1, 3), (2, 2)]);
    let wishes = [on("a", &[0], &[1]), on("b", &[1, 2], &[0])];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(ends(&plan), BTreeMap::from([(0, 1), (1, 0), (2, 0)]));
    assert_eq!(plan.bytes, Bytes((6 + 3 + 3 + 6) * GI));
}

#[test]
fn nobody_stops_over_beside_one_from_whom_it_is_kept_apart() {
    // The smaller one would meet its like on the third host; the larger one has room there too.
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 2)]);
    let wishes = [
        on("a", &[0], &[1]),
        on("b", &[1], &[0]),
        apart("c", &[1, 2]),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(ends(&plan), BTreeMap::from([(0, 1), (1, 0)]));
    assert_eq!(stops(&plan), BTreeMap::from([(0, 2)]));
    // One that is kept apart from others elsewhere may.
    let fleet = in_gib(&[8, 8, 8, 8], &[(0, 6), (1, 5), (2, 2), (3, 7)]);
    let wishes = [
        on("a", &[0], &[1]),
        on("b", &[1], &[0]),
        apart("c", &[1, 3]),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(stops(&plan), BTreeMap::from([(1, 2)]));
}

#[test]
fn guests_that_are_spread_unevenly_trade_places() {
    let mut fleet = in_gib(&[9, 8, 3], &[(0, 4), (0, 4), (1, 3), (1, 3)]);
    for (at, rack) in ["a", "b", "b"].into_iter().enumerate() {
        fleet.hosts[at].labels.insert("rack".into(), rack.into());
    }
    let spread = |name: &str, guests: &[u32]| {
        let spread = Spread {
            topology_key: "rack".into(),
            max_skew: 1,
        };
        let placement = Placement {
            spread: Some(spread),
            ..Placement::default()
        };
        place(name, guests, placement)
    };
    let wishes = [spread("s", &[0, 1]), spread("t", &[2, 3])];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.rejections, []);
    let ends = ends(&plan);
    assert_eq!(ends.len(), 2, "{plan:#?}");
    assert!(ends.values().copied().eq([1, 0]), "{ends:?}");
    // Within its rack it makes nothing less even.
    assert_eq!(stops(&plan).into_values().collect::<Vec<_>>(), [2]);
}

#[test]
fn who_belongs_together_comes_together_in_the_place_of_another() {
    let fleet = in_gib(
        &[8, 8, 8],
        &[(0, 2), (0, 2), (0, 4), (1, 4), (1, 4), (2, 4)],
    );
    let together = Placement {
        together: Some(HOST_KEY.to_owned()),
        ..Placement::default()
    };
    let wishes = [
        place("group", &[0, 1, 3], together),
        on("other", &[2], &[1]),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(ends(&plan), BTreeMap::from([(2, 1), (3, 0)]));
    assert_eq!(stops(&plan).len(), 1);
}

#[test]
fn what_is_short_for_a_trade_is_told() {
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 4)]);
    let wishes = [on("a", &[0], &[1]), on("b", &[1], &[0])];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.moves, []);
    assert_eq!(plan.rejections.len(), 2);
    for rejection in &plan.rejections {
        assert_eq!(rejection.cause.reason, Reason::NoHostFits);
        let examples = rejection.hosts.iter().flat_map(|hosts| &hosts.examples);
        let mut messages = examples.map(|example| example.message.as_str());
        assert!(
            messages.any(|message| message.contains("h2 lacks 1Gi of memory for g1")),
            "{plan:#?}"
        );
    }
}

#[test]
fn who_belongs_where_it_is_does_not_stop_over_elsewhere() {
    // The one that has to make room for nobody sits right; the other can't come.
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 2)]);
    let wishes = [on("a", &[0], &[1]), on("b", &[1], &[1])];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.moves, []);
}
