//! What is kept of a plan when one thing changes: nearly all of it, whatever changes, be it that guests wait for room.

mod support;

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

/// Where guests go by a plan, by name.
type Targets = BTreeMap<String, String>;

fn targets(fleet: &Fleet, plan: &Plan) -> Targets {
    let moves = plan.moves.iter().filter(|step| step.onward.is_none());
    moves
        .map(|step| {
            let target = &fleet.hosts[step.target.at()].name;
            (
                fleet.guests[step.guest.at()].name.to_string(),
                target.to_string(),
            )
        })
        .collect()
}

/// The ledger after a plan, for a fleet that has changed since.
fn remembers(fleet: &Fleet, targets: &Targets) -> Ledger {
    let host = |name: &String| {
        fleet
            .hosts
            .iter()
            .position(|host| host.name.as_str() == name)
    };
    let guests = fleet.guests.iter().zip(0..);
    let planned = guests.filter_map(|(guest, id)| {
        let target = host(targets.get(guest.name.as_str())?)?;
        Some((GuestId(id), HostId(target as u32)))
    });
    Ledger {
        planned: planned.collect(),
        ..Ledger::default()
    }
}

/// The share of moves that are in the plan after the change too, of those that the change does not forbid.
fn kept(before: &Targets, fleet: &Fleet, wishes: &[Wish], may: &dyn Fn(&str, &str) -> bool) -> f64 {
    let next = planned(fleet, wishes, &remembers(fleet, before));
    let next = targets(fleet, &next);
    let asked: Vec<_> = before
        .iter()
        .filter(|(guest, target)| may(guest, target))
        .collect();
    let kept = asked
        .iter()
        .filter(|(guest, target)| next.get(*guest) == Some(target));
    kept.count() as f64 / asked.len() as f64
}

/// At least 99 % is kept whichever of these happens.
fn changes_little(fleet: &Fleet, wishes: &[Wish]) {
    let made = planned(fleet, wishes, &Ledger::default());
    let before = targets(fleet, &made);
    let free: Vec<&Move> = made
        .moves
        .iter()
        .filter(|step| step.by.kind == "HostDrain")
        .collect();
    let middle = free[free.len() / 2];
    let (guest, target) = (middle.guest, middle.target);
    let name = fleet.guests[guest.at()].name.to_string();
    let closed_name = fleet.hosts[target.at()].name.to_string();

    let mut closed = fleet.clone();
    closed.hosts[target.at()].closed = Some(cause(Reason::TargetUnschedulable));
    let share = kept(&before, &closed, wishes, &|_, target| target != closed_name);
    assert!(share >= 0.99, "{share} kept when a host closes");

    let mut grown = fleet.clone();
    let facts = &mut grown.guests[guest.at()];
    let (more, home) = (facts.memory.0, facts.host.at());
    facts.memory.0 += more;
    grown.hosts[home].memory_used.0 += more;
    let share = kept(&before, &grown, wishes, &|guest, _| guest != name);
    assert!(share >= 0.99, "{share} kept when a guest grows");

    let mut appeared = fleet.clone();
    let late = support::guest("a-late-one", middle.source.0, GI);
    let home = &mut appeared.hosts[middle.source.at()];
    home.memory_used.0 += late.memory.0;
    home.cpu_used_milli += late.cpu_milli;
    home.domains.insert(late.domain.clone(), late.uuid.clone());
    appeared.guests.push(late);
    let share = kept(&before, &appeared, wishes, &|_, _| true);
    assert!(share >= 0.99, "{share} kept when a guest appears");

    // The last guest, so that the others keep their ids.
    let mut vanished = fleet.clone();
    let gone = vanished.guests.remove(fleet.guests.len() - 1);
    let home = &mut vanished.hosts[gone.host.at()];
    home.memory_used.0 -= gone.memory.0;
    home.cpu_used_milli -= gone.cpu_milli;
    home.domains.remove(&gone.domain);
    let share = kept(&before, &vanished, wishes, &|guest, _| {
        guest != gone.name.as_str()
    });
    assert!(share >= 0.99, "{share} kept when a guest vanishes");

    let share = kept(&before, fleet, wishes, &|_, _| true);
    assert!(share >= 1.0, "{share} kept when nothing changes");
}

#[test]
fn a_drain_keeps_nearly_all_of_its_plan() {
    let mut fleet = large(200);
    // The last guest is one of those that move.
    fleet.guests.rotate_left(60);
    changes_little(&fleet, &[drain("d", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 40)]);
}

/// Twenty hosts without much room are left, by name, for twenty empty ones, and what twenty others have may only go there.
#[test]
fn moves_that_wait_for_room_keep_their_targets() {
    let size = |at: u32| [1, 2, 3][(at % 3) as usize] * GI;
    let mut hosts: Vec<Host> = (0..60).map(|at| host(&format!("h{at:02}"))).collect();
    let mut guests = Vec::new();
    for at in 0..20 {
        for number in 0..12 {
            guests.push(guest(
                &format!("out-{at:02}-{number:02}"),
                20 + at,
                size(number),
            ));
            guests.push(guest(
                &format!("in-{at:02}-{number:02}"),
                at,
                size(number + at),
            ));
        }
    }
    for (at, host) in hosts.iter_mut().enumerate() {
        host.cpu_limit_milli = if at < 20 { 100_000 } else { 14_000 };
        host.memory_limit = Bytes(28 * GI);
        // None of the empty ones has a network that the drained guests need.
        if at < 40 {
            host.offers.networks.insert("inner".into());
        }
    }
    for guest in &mut guests {
        if guest.name.as_str().starts_with("in") {
            guest.needs.networks.insert("inner".into());
        }
    }
    let fleet = fleet(hosts, guests);
    let out = fleet.guests.iter().zip(0..);
    let out = out.filter(|(guest, _)| guest.name.as_str().starts_with("out"));
    let mut wishes: Vec<Wish> = out
        .map(|(guest, id)| go(&format!("m-{}", guest.name), id, Some(guest.host.0 + 20)))
        .collect();
    let drained: Vec<u32> = (0..20).collect();
    wishes.push(drain("d", &drained, 40));
    let made = planned(&fleet, &wishes, &Ledger::default());
    let waits = made.moves.iter().filter(|step| {
        let waits = step.waits.as_ref().map(|cause| cause.reason);
        let room = [Reason::InsufficientCPU, Reason::InsufficientMemory];
        step.by.kind == "HostDrain" && waits.is_some_and(|reason| room.contains(&reason))
    });
    assert!(waits.count() > 150, "{made:#?}");
    assert_eq!(made.rejections, []);
    changes_little(&fleet, &wishes);
}
