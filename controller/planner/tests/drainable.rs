//! Whether hosts could be emptied: the same answer as a drain would get.

mod support;

use std::collections::BTreeSet;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

fn all(fleet: &Fleet) -> Vec<HostId> {
    (0..fleet.hosts.len() as u32).map(HostId).collect()
}

fn blocked(told: &Drainable) -> BTreeSet<GuestId> {
    told.blockers.iter().map(|blocker| blocker.guest).collect()
}

#[test]
fn a_host_without_room_for_its_guests_elsewhere_names_them() {
    let mut hosts = vec![host("h1"), host("h2"), host("h3")];
    hosts[1].memory_limit = Bytes(4 * GI);
    hosts[2].memory_limit = Bytes(4 * GI);
    let guests = vec![
        guest("big", 0, 6 * GI),
        guest("small", 0, GI),
        guest("other", 1, GI),
    ];
    let fleet = fleet(hosts, guests);
    let told = drainable(&fleet, &[], &Ledger::default(), &all(&fleet), NOW);
    assert_eq!(blocked(&told[0]), BTreeSet::from([GuestId(0)]));
    assert_eq!(
        told[0].blockers[0].cause.to_string(),
        "NoHostFits: 0/2 hosts fit: 2 InsufficientMemory"
    );
    assert!(told[1].blockers.is_empty() && told[2].blockers.is_empty());
}

#[test]
fn held_and_immovable_guests_are_in_the_way() {
    let mut guests = vec![
        guest("held", 0, GI),
        guest("fixed", 0, GI),
        guest("stopped", 0, GI),
    ];
    guests[0].held = Some(cause(Reason::GuestHeld));
    guests[1].immovable = Some(cause(Reason::DeviceNotMigratable));
    guests[2].active = false;
    guests.push(guest("its own way", 0, GI));
    guests[3].evacuation = Some(cause(Reason::EvacuationNever));
    let fleet = fleet(vec![host("h1"), host("h2")], guests);
    let told = drainable(&fleet, &[], &Ledger::default(), &[HostId(0)], NOW);
    let all = [0, 1, 3].map(GuestId);
    assert_eq!(blocked(&told[0]), BTreeSet::from(all));
}

/// How a guest is evacuated, and whom a drain leaves alone, is about drains: that one alone, where it leaves it alone.
#[test]
fn drains_leave_guests_alone_and_others_do_not() {
    let mut guests = vec![guest("a", 0, GI), guest("b", 0, GI)];
    guests[0].evacuation = Some(cause(Reason::EvacuationNever));
    let fleet = fleet(vec![host("h1"), host("h2")], guests);
    let mut first = drain("a", &[0], 4);
    if let What::Drain { leaves, .. } = &mut first.what {
        leaves.insert(GuestId(1), cause(Reason::AbortedByUser));
    }
    let plan = planned(&fleet, &[first.clone()], &Ledger::default());
    assert!(plan.moves.is_empty());
    let reasons = plan.rejections.iter().map(|one| one.cause.reason);
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        [Reason::EvacuationNever, Reason::AbortedByUser]
    );
    let second = drain("b", &[0], 4);
    let there = Placement {
        hosts: Some(BTreeSet::from([HostId(1)])),
        required: true,
        ..Placement::default()
    };
    let wishes = [first, second, place("p", &[0], there)];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    let by = plan
        .moves
        .iter()
        .map(|one| (one.guest.0, one.by.name.as_str()));
    assert_eq!(
        by.collect::<BTreeSet<_>>(),
        BTreeSet::from([(0, "p"), (1, "b")])
    );
}

#[test]
fn drained_hosts_take_nothing_and_placements_bind() {
    let fleet = fleet(
        vec![host("h1"), host("h2"), host("h3")],
        vec![guest("a", 0, GI), guest("b", 1, GI)],
    );
    let apart = Placement {
        apart: Some(HOST_KEY.into()),
        ..Placement::default()
    };
    let wishes = [drain("d", &[2], 4), place("keep", &[0, 1], apart)];
    let told = drainable(&fleet, &wishes, &Ledger::default(), &all(&fleet), NOW);
    assert_eq!(
        told[0].blockers[0].cause.to_string(),
        "NoHostFits: 0/2 hosts fit: 1 PlacementForbids, 1 TargetDraining"
    );
    assert_eq!(blocked(&told[1]), BTreeSet::from([GuestId(1)]));
    assert!(told[2].blockers.is_empty());
}

/// One host after the other gets the answer that a drain of it gets.
#[test]
fn it_says_what_a_drain_would() {
    let mut fleet = large(12);
    for host in &mut fleet.hosts {
        host.memory_limit = Bytes(host.memory_used.0 + 8 * GI);
    }
    let spread = Placement {
        spread: Some(Spread {
            topology_key: HOST_KEY.into(),
            max_skew: 1,
        }),
        ..Placement::default()
    };
    let wishes = [place("even", &[0, 31, 62], spread)];
    let told = drainable(&fleet, &wishes, &Ledger::default(), &all(&fleet), NOW);
    for host in &told {
        let mut wishes = wishes.to_vec();
        wishes.push(roomy(drain("d", &[host.host.0], 40)));
        let plan = planned(&fleet, &wishes, &Ledger::default());
        let own = plan
            .rejections
            .iter()
            .filter(|rejection| rejection.by.name == "d");
        let own: BTreeSet<GuestId> = own.map(|rejection| rejection.guest).collect();
        assert_eq!(blocked(host), own, "{host:?}");
        assert!(!own.is_empty());
    }
}

/// Full of small guests, the one host next to the empty half of another: a large guest leaves where small ones make way.
#[test]
fn others_make_way() {
    let hosts = vec![host("h1"), host("h2"), host("h3")];
    let mut guests = vec![guest("large", 0, 8 * GI)];
    guests.extend((0..6).map(|at| guest(&format!("two-{at}"), 1, 2 * GI)));
    guests.extend((0..6).map(|at| guest(&format!("three-{at}"), 2, 2 * GI)));
    let mut fleet = fleet(hosts, guests);
    for at in [1, 2] {
        fleet.hosts[at].memory_limit = Bytes(fleet.hosts[at].memory_used.0 + 5 * GI);
    }
    let told = drainable(&fleet, &[], &Ledger::default(), &all(&fleet), NOW);
    assert!(
        told[0].blockers.is_empty() && told[0].making_way > 0,
        "{told:#?}"
    );
    let plan = planned(&fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default());
    assert_eq!(plan.rejections, []);
    assert_eq!(plan.moves.len(), 1 + told[0].making_way);
}
