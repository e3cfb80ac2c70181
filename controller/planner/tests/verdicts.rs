//! Why a wish can't be had whole: what is said to be proven is so, by a search through everything; and how it is said.

mod support;

use std::collections::BTreeSet;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use proptest::prelude::*;
use support::dice::Dice;
use support::scenes::emptied;
use support::*;

/// More with `PROPTEST_CASES=100000`.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = config.cases.max(500);
    config
}

fn drained(fleet: &Fleet) -> Plan {
    planned(fleet, &[roomy(drain("d", &[0], 4))], &Ledger::default())
}

fn only(plan: &Plan) -> &Verdict {
    assert_eq!(plan.verdicts.len(), 1, "{plan:#?}");
    &plan.verdicts[0]
}

#[test]
fn what_guests_need_together_and_what_is_left_is_told() {
    let fleet = in_gib(&[16, 8, 8], &[(0, 6), (0, 5), (0, 4), (1, 4), (2, 1)]);
    let plan = drained(&fleet);
    let verdict = only(&plan);
    assert!(verdict.proven);
    assert_eq!(
        verdict.cause.to_string(),
        "InsufficientMemory: g0, g1 and g2 need 15Gi of memory; h1 and h2, all hosts that may take them, can have no more \
         than 11Gi left: 4Gi short, so at least one of them has to stay"
    );
    assert_eq!(verdict.guests, [0, 1, 2].map(GuestId));
    assert_eq!(verdict.hosts, [1, 2].map(HostId));
    assert_eq!(plan.rejections.len(), 1);
}

#[test]
fn guests_that_fit_only_some_hosts_are_told_apart() {
    let mut fleet = in_gib(&[16, 8, 24], &[(0, 6), (0, 5), (0, 1), (2, 1)]);
    for guest in &mut fleet.guests[..2] {
        guest.needs.networks.insert("dmz".to_owned());
    }
    fleet.hosts[1].offers.networks.insert("dmz".to_owned());
    let plan = drained(&fleet);
    assert_eq!(
        only(&plan).cause.message,
        "g0 and g1 need 11Gi of memory; h1, the only host that may take them, can have no more than 8Gi left: 3Gi short, so \
         at least one of them has to stay"
    );
}

#[test]
fn a_guest_that_is_larger_than_any_host_has_to_stay() {
    let fleet = in_gib(&[16, 8, 8], &[(0, 9), (1, 1)]);
    assert_eq!(
        only(&drained(&fleet)).cause.message,
        "g0 needs 9Gi of memory: no host that may take it can ever have so much left"
    );
}

#[test]
fn space_in_pools_of_a_class_is_short() {
    let mut fleet = in_gib(&[24, 24, 24], &[(0, 1), (0, 1), (1, 1)]);
    for host in &mut fleet.hosts {
        host.pools[0].class = Some("fast".to_owned());
        host.pools[0].available = Bytes(50 * GI);
    }
    for guest in &mut fleet.guests[..2] {
        let mut disk = disk("vda", "default", 60 * GI);
        disk.class = Some("fast".to_owned());
        guest.disks.push(disk);
    }
    let plan = drained(&fleet);
    assert_eq!(
        only(&plan).cause.to_string(),
        "InsufficientDisk: g0 and g1 need 120Gi of space in pools of class fast; h1 and h2, all hosts that may take them, can \
         have no more than 100Gi left: 20Gi short, so at least one of them has to stay"
    );
}

#[test]
fn that_every_way_was_looked_at_is_a_proof_too() {
    // 7 are free, in two pieces that 6 does not fit into.
    let fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 4)]);
    let verdict = only(&drained(&fleet)).clone();
    assert_eq!(
        (verdict.proven, verdict.cause.message.as_str()),
        (
            true,
            "every way was looked at in which each guest moves at most once: none has room for all; g0 is left over"
        )
    );
}

#[test]
fn want_of_effort_is_told_and_proves_nothing() {
    let mut fleet = in_gib(&[8, 8, 8], &[(0, 6), (1, 5), (2, 4)]);
    fleet.limits.effort = Some(0);
    let plan = drained(&fleet);
    let verdict = only(&plan);
    assert_eq!(
        (verdict.proven, verdict.cause.reason),
        (false, Reason::EffortSpent)
    );
    assert_eq!(
        verdict.cause.message,
        "no room was found for g0 with the effort that a plan may take; there may be some"
    );
    let told = plan.unfinished.as_ref().map(|cause| cause.reason);
    assert_eq!(told, Some(Reason::EffortSpent));
}

#[test]
fn moves_to_one_host_may_be_too_many() {
    let fleet = in_gib(&[16, 8, 8], &[(0, 5), (1, 1), (2, 4)]);
    let wishes = [go("a", 0, Some(1)), go("b", 2, Some(1))];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!(
        only(&plan).cause.message,
        "g0 and g2 need 9Gi of memory; h1, the only host that may take them, can have no more than 7Gi left: 2Gi short, so at \
         least one of them has to stay"
    );
    assert_eq!(only(&plan).by, plan.rejections[0].by);
}

/// A few hosts and guests with memory, CPUs, disks in pools of classes, networks, a placement, moves and a drain.
fn fleet_and_wishes(seed: u64) -> (Fleet, Vec<Wish>) {
    let mut dice = Dice(seed);
    let hosts = 3 + dice.roll(2) as u32;
    let mut all: Vec<Host> = (0..hosts).map(|at| host(&format!("h{at}"))).collect();
    let mut guests = Vec::new();
    for at in 0..3 + dice.roll(4) {
        let home = if at < 2 {
            0
        } else {
            dice.roll(u64::from(hosts)) as u32
        };
        let mut guest = guest(&format!("g{at}"), home, (1 + dice.roll(6)) * GI);
        guest.cpu_milli = 1000 * (1 + dice.roll(4));
        if dice.one_in(2) {
            let name = ["default", "fast"][dice.roll(2) as usize];
            let mut disk = disk("vda", name, (1 + dice.roll(6)) * 10 * GI);
            disk.class = dice.one_in(2).then(|| "c".to_owned());
            guest.disks.push(disk);
        }
        if dice.one_in(3) {
            guest.needs.networks.insert("dmz".to_owned());
        }
        guests.push(guest);
    }
    for host in &mut all {
        host.pools.push(pool("fast", 0, 1));
        for pool in &mut host.pools {
            pool.available = Bytes(dice.roll(9) * 10 * GI);
            pool.class = dice.one_in(2).then(|| "c".to_owned());
        }
        if dice.one_in(2) {
            host.offers.networks.insert("dmz".to_owned());
        }
    }
    let mut fleet = fleet(all, guests);
    for host in &mut fleet.hosts {
        host.memory_limit = Bytes((host.memory_used.0 + dice.roll(7) * GI).saturating_sub(GI));
        host.cpu_limit_milli = host.cpu_used_milli + 1000 * dice.roll(8);
    }
    let mut wishes = vec![drain("d", &[0], 4)];
    if !dice.one_in(4) {
        wishes = vec![roomy(drain("d", &[0], 4))];
    }
    let count = fleet.guests.len() as u64;
    for at in 0..dice.roll(3) {
        let target = (!dice.one_in(4)).then(|| 1 + dice.roll(u64::from(hosts) - 1) as u32);
        wishes.push(go(&format!("m{at}"), dice.roll(count) as u32, target));
    }
    if dice.one_in(3) {
        let here = Placement {
            hosts: Some([HostId(1), HostId(dice.roll(u64::from(hosts)) as u32)].into()),
            ..Placement::default()
        };
        wishes.push(place("p", &[0, dice.roll(count) as u32], here));
    }
    (fleet, wishes)
}

/// Whether the guest may be on the host in the end, were there room.
fn may_be(fleet: &Fleet, wishes: &[Wish], guest: GuestId, host: HostId) -> bool {
    let (facts, there) = (&fleet.guests[guest.at()], &fleet.hosts[host.at()]);
    let binds = |wish: &Wish| match &wish.what {
        What::Place(placement) => {
            let hosts = placement.hosts.as_ref();
            placement.guests.contains(&guest) && hosts.is_some_and(|hosts| !hosts.contains(&host))
        }
        What::Drain { hosts, .. } => hosts.contains(&host),
        What::Move { .. } | What::Balance(_) => false,
    };
    facts.needs.networks.is_subset(&there.offers.networks) && !wishes.iter().any(binds)
}

/// Whether there is any end in which these guests have gone, and where they are asked to.
fn has_an_end(fleet: &Fleet, wishes: &[Wish], gone: &BTreeSet<GuestId>) -> bool {
    let mut places: Vec<Vec<HostId>> = Vec::new();
    for (guest, id) in fleet.guests.iter().zip((0..).map(GuestId)) {
        let mut targets = BTreeSet::new();
        for wish in wishes {
            if let What::Move {
                guest: own,
                target: Some(target),
                ..
            } = &wish.what
                && *own == id
                && *target != guest.host
            {
                targets.insert(*target);
            }
        }
        let drained = guest.host == HostId(0);
        // Guests that nobody asks for stay, unless they may make way.
        let moves = gone.contains(&id)
            || wishes.iter().any(|wish| match &wish.what {
                What::Move {
                    guest: own, target, ..
                } => *own == id && *target != Some(guest.host),
                What::Drain { makes_way, .. } => *makes_way || drained,
                What::Place(placement) => {
                    let hosts = placement.hosts.as_ref();
                    placement.guests.contains(&id)
                        && hosts.is_some_and(|hosts| !hosts.contains(&guest.host))
                }
                What::Balance(_) => false,
            });
        let hosts = (0..fleet.hosts.len() as u32).map(HostId);
        let hosts = hosts.filter(|host| match *host == guest.host {
            true => !gone.contains(&id),
            // A drain takes it anywhere.
            false => {
                moves
                    && may_be(fleet, wishes, id, *host)
                    && (!gone.contains(&id)
                        || drained
                        || targets.len() != 1
                        || targets.contains(host))
            }
        });
        places.push(hosts.collect());
    }
    ends(fleet, &places, &mut Vec::new())
}

fn ends(fleet: &Fleet, places: &[Vec<HostId>], chosen: &mut Vec<HostId>) -> bool {
    if chosen.len() == places.len() {
        return holds(fleet, chosen);
    }
    places[chosen.len()].iter().any(|host| {
        chosen.push(*host);
        let found = ends(fleet, places, chosen);
        chosen.pop();
        found
    })
}

/// Whether all of it has room, whichever pools of their own name or class disks go to.
fn holds(fleet: &Fleet, chosen: &[HostId]) -> bool {
    let mut free: Vec<[i128; 4]> = Vec::new();
    let mut comes = vec![false; fleet.hosts.len()];
    for host in &fleet.hosts {
        let (limit, used) = (host.memory_limit.0, host.memory_used.0);
        free.push([
            i128::from(limit) - i128::from(used),
            i128::from(host.cpu_limit_milli) - i128::from(host.cpu_used_milli),
            i128::from(host.pools[0].available.0),
            i128::from(host.pools[1].available.0),
        ]);
    }
    let mut disks = Vec::new();
    for (guest, host) in fleet
        .guests
        .iter()
        .zip(chosen)
        .filter(|(guest, host)| guest.host != **host)
    {
        comes[host.at()] = true;
        for (at, sign) in [(guest.host, 1), (*host, -1)] {
            free[at.at()][0] += sign * i128::from(guest.memory.0);
            free[at.at()][1] += sign * i128::from(guest.cpu_milli);
        }
        for disk in &guest.disks {
            let named = usize::from(disk.pool.as_deref() == Some("fast"));
            free[guest.host.at()][2 + named] += i128::from(disk.allocated.0);
            disks.push((*host, named, disk));
        }
    }
    let room = free
        .iter()
        .zip(&comes)
        .all(|(free, comes)| !comes || free[0] >= 0 && free[1] >= 0);
    room && stored(fleet, &disks, &mut free)
}

fn stored(fleet: &Fleet, disks: &[(HostId, usize, &Disk)], free: &mut [[i128; 4]]) -> bool {
    let Some(((host, named, disk), rest)) = disks.split_first() else {
        return true;
    };
    (0..2).any(|pool| {
        let class = &fleet.hosts[host.at()].pools[pool].class;
        let alike = disk.class.is_some() && *class == disk.class;
        let size = i128::from(disk.virtual_size.0);
        if pool != *named && !alike || free[host.at()][2 + pool] < size {
            return false;
        }
        free[host.at()][2 + pool] -= size;
        let found = stored(fleet, rest, free);
        free[host.at()][2 + pool] += size;
        found
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_proven_of_small_drains_is_so_and_nothing_is_left_open(scene in emptied(4, 6, 5)) {
        let (fleet, wish) = scene.fleet();
        let plan = planned(&fleet, &[wish], &Ledger::default());
        let proven = plan.verdicts.iter().any(|verdict| verdict.proven);
        prop_assert_eq!(proven, scene.least().is_none());
    }

    #[test]
    fn what_is_short_is_short_whatever_moves(seed: u64) {
        let (fleet, wishes) = fleet_and_wishes(seed);
        let plan = planned(&fleet, &wishes, &Ledger::default());
        let short = |verdict: &&Verdict| verdict.cause.reason != Reason::NoHostFits;
        for verdict in plan.verdicts.iter().filter(|verdict| verdict.proven).filter(short) {
            let gone = verdict.guests.iter().copied().collect();
            prop_assert!(!has_an_end(&fleet, &wishes, &gone), "{:?}", verdict);
        }
    }
}
