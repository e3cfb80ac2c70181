//! Where guests belong: what required and preferred rules do to moves, and what others got wrong.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

fn rack(name: &str, rack: &str) -> Host {
    let mut host = host(name);
    host.labels.insert("rack".into(), rack.into());
    host
}

fn racks() -> Vec<Host> {
    vec![
        rack("h1", "a"),
        rack("h2", "a"),
        rack("h3", "b"),
        rack("h4", "c"),
    ]
}

fn apart(key: &str) -> Placement {
    Placement {
        apart: Some(key.into()),
        ..Placement::default()
    }
}

fn together(key: &str) -> Placement {
    Placement {
        together: Some(key.into()),
        ..Placement::default()
    }
}

fn spread(max_skew: u32) -> Placement {
    Placement {
        spread: Some(Spread {
            topology_key: "rack".into(),
            max_skew,
        }),
        ..Placement::default()
    }
}

fn on(hosts: &[u32]) -> Placement {
    Placement {
        hosts: Some(hosts.iter().copied().map(HostId).collect()),
        ..Placement::default()
    }
}

fn preferred(mut wish: Wish) -> Wish {
    if let What::Place(placement) = &mut wish.what {
        placement.required = false;
    }
    wish
}

fn targets(plan: &Plan) -> BTreeMap<u32, u32> {
    plan.moves
        .iter()
        .map(|step| (step.guest.0, step.target.0))
        .collect()
}

#[test]
fn nova_1821755_two_moves_at_once_do_not_bring_together_what_stays_apart() {
    let fleet = fleet(racks(), vec![guest("a", 0, GI), guest("b", 1, GI)]);
    let keep = place("keep", &[0, 1], apart(HOST_KEY));
    let wishes = [go("ma", 0, Some(2)), go("mb", 1, Some(2)), keep.clone()];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!((plan.moves.len(), plan.rejections.len()), (1, 1));
    assert_eq!(
        plan.rejections[0].cause.to_string(),
        "PlacementForbids: GuestPlacement keep keeps b apart from a, which is in h3 or on its way there or from there"
    );
    // The same one after the other: the first counts while it is in flight, at both ends.
    let mut ledger = Ledger::default();
    ledger.in_flight.push(flight(&fleet, None, 0, 2));
    let to = |host| {
        admit(
            &fleet,
            std::slice::from_ref(&keep),
            &ledger,
            GuestId(1),
            HostId(host),
            &BTreeMap::new(),
            NOW,
        )
    };
    assert_eq!(to(2).unwrap_err().reason, Reason::PlacementForbids);
    assert_eq!(to(0).unwrap_err().reason, Reason::PlacementForbids);
    assert!(to(3).is_ok());
}

#[test]
fn who_changes_places_apart_waits_until_the_other_has_left() {
    let guests = vec![guest("a", 0, GI), guest("b", 2, GI)];
    let fleet = fleet(racks(), guests);
    let wishes = [
        go("ma", 0, Some(2)),
        go("mb", 1, Some(3)),
        place("keep", &[0, 1], apart("rack")),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(plan.moves.len(), 2);
    let last = &plan.moves[1];
    assert_eq!(
        (last.guest, last.start),
        (GuestId(0), plan.moves[0].duration.unwrap())
    );
    assert_eq!(
        last.waits.as_ref().unwrap().reason,
        Reason::PlacementForbids
    );
}

#[test]
fn an_explicit_move_is_bound_by_what_is_required_only() {
    let fleet = fleet(racks(), vec![guest("a", 0, GI)]);
    let nvme = place("nvme", &[0], on(&[0, 1]));
    let plan = planned(
        &fleet,
        &[go("m", 0, Some(2)), nvme.clone()],
        &Ledger::default(),
    );
    assert_eq!(
        refused(&plan).cause.to_string(),
        "PlacementForbids: a belongs on the hosts of GuestPlacement nvme, and h3 is none of them"
    );
    let plan = planned(
        &fleet,
        &[go("m", 0, Some(2)), preferred(nvme)],
        &Ledger::default(),
    );
    assert_eq!(targets(&plan), BTreeMap::from([(0, 2)]));
}

#[test]
fn a_drain_keeps_what_is_preferred_where_it_can() {
    let mut hosts = racks();
    let guests = vec![guest("a", 0, GI), guest("big", 3, 20 * GI)];
    let nvme = preferred(place("nvme", &[0], on(&[0, 3])));
    let wishes = [drain("d", &[0], 4), nvme];
    let plan = planned(
        &fleet(hosts.clone(), guests.clone()),
        &wishes,
        &Ledger::default(),
    );
    assert_eq!(targets(&plan), BTreeMap::from([(0, 3)]));
    hosts[3].memory_limit = Bytes(20 * GI);
    let plan = planned(&fleet(hosts, guests), &wishes, &Ledger::default());
    assert_ne!(targets(&plan)[&0], 3);
}

#[test]
fn a_guest_that_is_not_where_it_belongs_goes_there() {
    let fleet = fleet(racks(), vec![guest("a", 2, GI), guest("b", 0, GI)]);
    let nvme = place("nvme", &[0, 1], on(&[0, 1]));
    let plan = planned(&fleet, std::slice::from_ref(&nvme), &Ledger::default());
    assert_eq!(targets(&plan), BTreeMap::from([(0, 1)]));
    assert_eq!(plan.moves[0].by, nvme.by);
    let kept = &plan.placements[0];
    assert_eq!((kept.total, kept.violations.len()), (2, 1));
    assert_eq!(
        kept.violations[0].cause.message,
        "a belongs on the hosts of GuestPlacement nvme, and h3 is none of them"
    );
}

#[test]
fn a_placement_that_can_not_be_kept_says_each_hosts_reason() {
    let mut hosts = racks();
    hosts[0].memory_limit = Bytes(GI);
    let fleet = fleet(hosts, vec![guest("a", 2, 2 * GI)]);
    let plan = planned(&fleet, &[place("nvme", &[0], on(&[0]))], &Ledger::default());
    assert_eq!(
        refused(&plan).cause.to_string(),
        "NoHostFits: 0/3 hosts fit: 2 PlacementForbids, 1 InsufficientMemory"
    );
}

#[test]
fn hosts_without_the_key_are_not_eligible() {
    let hosts = vec![rack("h1", "a"), host("bare"), rack("h3", "b")];
    let fleet = fleet(hosts, vec![guest("a", 0, GI)]);
    let keep = place("keep", &[0], spread(1));
    let plan = planned(
        &fleet,
        &[go("m", 0, Some(1)), keep.clone()],
        &Ledger::default(),
    );
    assert_eq!(
        refused(&plan).cause.message,
        "a belongs on hosts with the label rack by GuestPlacement keep, and bare has none"
    );
    let plan = planned(&fleet, &[drain("d", &[0], 4), keep], &Ledger::default());
    assert_eq!(targets(&plan), BTreeMap::from([(0, 2)]));
}

#[test]
fn two_required_placements_without_a_common_host_both_say_so_and_the_guest_stays() {
    let fleet = fleet(racks(), vec![guest("a", 3, GI)]);
    let wishes = [place("one", &[0], on(&[0])), place("two", &[0], on(&[1]))];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert!(plan.moves.is_empty());
    let causes: Vec<String> = plan
        .rejections
        .iter()
        .map(|rejection| rejection.cause.to_string())
        .collect();
    assert_eq!(
        causes,
        [
            "ConflictsWith: no host is eligible by GuestPlacement one and by GuestPlacement two",
            "ConflictsWith: no host is eligible by GuestPlacement two and by GuestPlacement one",
        ]
    );
    let nowhere = planned(&fleet, &[place("none", &[0], on(&[]))], &Ledger::default());
    assert_eq!(refused(&nowhere).cause.reason, Reason::NoHostsMatched);
}

#[test]
fn what_is_broken_is_mended_by_the_cheapest_move() {
    let guests = vec![guest("large", 0, 8 * GI), guest("small", 1, GI)];
    let fleet = fleet(racks(), guests);
    let plan = planned(
        &fleet,
        &[place("keep", &[0, 1], apart("rack"))],
        &Ledger::default(),
    );
    let moved = targets(&plan);
    assert_eq!(moved.len(), 1);
    assert!(moved[&1] >= 2, "{moved:?}");
    assert!(plan.rejections.is_empty());
}

#[test]
fn a_spread_is_restored_and_stays() {
    // Four in rack a, none in b and c.
    let guests: Vec<Guest> = (0..4)
        .map(|at| guest(&format!("g{at}"), at % 2, GI))
        .collect();
    let fleet = fleet(racks(), guests);
    let keep = place("keep", &[0, 1, 2, 3], spread(1));
    let plan = planned(&fleet, std::slice::from_ref(&keep), &Ledger::default());
    let moved = targets(&plan);
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert_eq!(
        moved.values().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([2, 3])
    );
}

#[test]
fn a_broken_spread_may_stay_so_but_no_move_worsens_it() {
    // Three in a, one in b, none in c; c can't take any.
    let mut hosts = racks();
    hosts[3].memory_limit = Bytes(0);
    let mut guests: Vec<Guest> = (0..4)
        .map(|at| guest(&format!("g{at}"), u32::from(at == 3) * 2, GI))
        .collect();
    guests[3].host = HostId(2);
    let fleet = fleet(hosts, guests);
    let keep = place("keep", &[0, 1, 2, 3], spread(1));
    let to = |guest, host| {
        admit(
            &fleet,
            std::slice::from_ref(&keep),
            &Ledger::default(),
            GuestId(guest),
            HostId(host),
            &BTreeMap::new(),
            NOW,
        )
    };
    assert_eq!(to(3, 0).unwrap_err().reason, Reason::PlacementForbids);
    assert!(to(0, 2).is_ok());
    assert!(to(0, 1).is_ok(), "within the rack nothing changes");
}

#[test]
fn a_rack_that_is_drained_does_not_hold_its_guests_back_for_the_spread() {
    // Two in a, one each in b and c. With a empty, b and c have two: the skew to a does not count, for it takes none.
    let guests: Vec<Guest> = [0, 1, 2, 3]
        .iter()
        .enumerate()
        .map(|(at, host)| guest(&format!("g{at}"), *host, GI))
        .collect();
    let fleet = fleet(racks(), guests);
    let wishes = [
        drain("d", &[0, 1], 4),
        place("keep", &[0, 1, 2, 3], spread(1)),
    ];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(
        targets(&plan).values().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([2, 3])
    );
}

#[test]
fn stopped_guests_do_not_count() {
    let mut stopped = guest("stopped", 2, GI);
    stopped.active = false;
    let fleet = fleet(racks(), vec![guest("a", 0, GI), stopped]);
    let keep = place("keep", &[0, 1], apart("rack"));
    let plan = planned(&fleet, &[go("m", 0, Some(2)), keep], &Ledger::default());
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(plan.placements[0].total, 1);
}

#[test]
fn a_group_that_belongs_together_leaves_together_or_not_at_all() {
    let group = || {
        vec![
            guest("a", 0, 8 * GI),
            guest("b", 0, 8 * GI),
            guest("c", 0, 8 * GI),
        ]
    };
    let wishes = [
        drain("d", &[0], 4),
        place("keep", &[0, 1, 2], together(HOST_KEY)),
    ];
    let mut hosts = racks();
    // The first that is looked at has room for one only.
    hosts[1].memory_limit = Bytes(10 * GI);
    hosts[2].memory_limit = Bytes(17 * GI);
    let plan = planned(&fleet(hosts.clone(), group()), &wishes, &Ledger::default());
    assert_eq!(targets(&plan), BTreeMap::from([(0, 3), (1, 3), (2, 3)]));
    hosts[3].memory_limit = Bytes(20 * GI);
    let plan = planned(&fleet(hosts, group()), &wishes, &Ledger::default());
    assert_eq!((plan.moves.len(), plan.rejections.len()), (0, 3));
    assert_eq!(plan.rejections[0].hosts[0].reason, "PlacementForbids");
}

#[test]
fn a_group_comes_together_where_most_of_it_is() {
    let guests = vec![guest("a", 0, GI), guest("b", 2, GI), guest("c", 2, GI)];
    let fleet = fleet(racks(), guests);
    let plan = planned(
        &fleet,
        &[place("keep", &[0, 1, 2], together("rack"))],
        &Ledger::default(),
    );
    assert_eq!(targets(&plan), BTreeMap::from([(0, 2)]));
    // Nor does one of it leave for a drain without the rest.
    let guests = vec![guest("a", 0, GI), guest("b", 0, GI)];
    let fleet = self::fleet(racks(), guests);
    let keep = place("keep", &[0, 1], together("rack"));
    let plan = planned(&fleet, &[go("m", 0, Some(2)), keep], &Ledger::default());
    assert_eq!(
        refused(&plan).cause.message,
        "GuestPlacement keep keeps a together with its other guests in rack a, and h3 is in rack b"
    );
}

#[test]
fn a_suspended_placement_moves_nothing_and_binds() {
    let fleet = fleet(racks(), vec![guest("a", 2, GI), guest("b", 0, GI)]);
    let mut nvme = place("nvme", &[0, 1], on(&[0, 1]));
    if let What::Place(placement) = &mut nvme.what {
        placement.halted = Some(cause(Reason::Suspended));
    }
    let plan = planned(&fleet, &[nvme, go("m", 1, Some(3))], &Ledger::default());
    let reasons: Vec<Reason> = plan
        .rejections
        .iter()
        .map(|rejection| rejection.cause.reason)
        .collect();
    assert_eq!(reasons, [Reason::Suspended, Reason::PlacementForbids]);
}
