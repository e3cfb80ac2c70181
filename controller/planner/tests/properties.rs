//! Random small fleets, near-full ones too: whatever comes out holds before the independent checker.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use proptest::prelude::*;
use support::dice::Dice;
use support::*;

/// A fleet, wishes and a ledger from a stream of numbers.
#[derive(Clone)]
struct Scene {
    /// How to make it again.
    from: (u64, u64, u64, u64),
    fleet: Fleet,
    wishes: Vec<Wish>,
    ledger: Ledger,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "scene{:?}", self.from)
    }
}

/// Puts base images below disks.
fn below(fleet: &mut Fleet, mut dice: Dice) {
    let pool = |dice: &mut Dice| match dice.roll(5) {
        0 => None,
        1 => Some("fast".into()),
        _ => Some("default".into()),
    };
    for number in 0..dice.roll(4) {
        fleet.bases.push(Base {
            path: format!("/images/base{number}"),
            pool: pool(&mut dice),
            allocated: Bytes((1 + dice.roll(20)) * GI),
        });
    }
    let all = fleet.bases.len() as u64;
    let bases = |dice: &mut Dice, sides: u64| {
        let any = (0..all as u32).map(BaseId);
        any.filter(|_| dice.one_in(sides)).collect::<BTreeSet<_>>()
    };
    for host in &mut fleet.hosts {
        host.bases = bases(&mut dice, 6);
    }
    for guest in &mut fleet.guests {
        if !guest.disks.is_empty() {
            guest.bases = bases(&mut dice, 3);
            let host = &mut fleet.hosts[guest.host.at()];
            host.bases.extend(&guest.bases);
        }
    }
}

fn scene(seed: u64, hosts: u64, guests: u64, tight: u64) -> Scene {
    let mut dice = Dice(seed);
    let rates = dice.roll(4);
    let mut all = Vec::new();
    for at in 0..hosts {
        let mut host = host(&format!("h{at}"));
        host.bandwidth = match rates {
            0 => None,
            1 if dice.one_in(2) => None,
            _ => Some(Bytes((1 + dice.roll(20)) * 50 * MI)),
        };
        host.max_inbound = 1 + dice.roll(3) as u32;
        host.max_outbound = 1 + dice.roll(3) as u32;
        if dice.one_in(20) {
            host.max_inbound = 0;
        }
        if dice.one_in(12) {
            host.out_of_reach = Some(cause(Reason::HostUnreachable));
        }
        if dice.one_in(12) {
            host.closed = Some(cause(Reason::TargetUnschedulable));
        }
        if dice.one_in(8) {
            host.offers.cpu = "cpu-b".into();
        }
        if dice.one_in(10) {
            host.offers.networks.insert("dmz".into());
        }
        if dice.one_in(4) {
            host.offers.bridges = dice.one_in(2).then(BTreeSet::new);
            host.offers.nwfilters.insert("clean".into());
        }
        if dice.one_in(3) {
            let there = if dice.one_in(3) { "/mnt/b" } else { "/mnt/a" };
            host.offers.storage.insert("nfs".into(), there.into());
        }
        if !dice.one_in(9) {
            let rack = ["a", "b", "c"][dice.roll(3) as usize];
            host.labels.insert("rack".into(), rack.into());
        }
        host.pools[0].class = Some("disk".into());
        host.pools
            .push(pool("fast", 1000 * GI, u32::from(dice.one_in(2))));
        host.pools[1].class = Some("disk".into());
        host.pools[1].closed = dice.one_in(6).then(|| cause(Reason::PoolMissing));
        all.push(host);
    }
    let mut here = Vec::new();
    for at in 0..guests {
        let mut guest = guest(
            &format!("g{at}"),
            dice.roll(hosts) as u32,
            (1 + dice.roll(8)) * GI,
        );
        guest.cpu_milli = 500 * (1 + dice.roll(6));
        guest.priority = dice.roll(3) as i32;
        guest.active = !dice.one_in(10);
        guest.immovable = dice.one_in(15).then(|| cause(Reason::DeviceNotMigratable));
        guest.held = dice.one_in(15).then(|| cause(Reason::GuestHeld));
        guest.dirty_rate = dice.one_in(2).then(|| Bytes(dice.roll(300) * MI));
        guest.bandwidth = dice.one_in(4).then(|| Bytes((1 + dice.roll(8)) * 20 * MI));
        if dice.one_in(5) {
            guest.needs.cpu = Some(if dice.one_in(4) { "cpu-b" } else { "cpu-a" }.into());
        }
        if dice.one_in(15) {
            guest.needs.networks.insert("dmz".into());
        }
        if dice.one_in(10) {
            guest.needs.bridges.insert("br0".into());
        }
        if dice.one_in(15) {
            guest.needs.nwfilters.insert("clean".into());
        }
        if dice.one_in(15) {
            guest.needs.storage.insert("nfs".into(), "/mnt/a".into());
        }
        if dice.one_in(12) {
            guest.domain = "twin".into();
        }
        for target in ["vda", "vdb"].iter().take(dice.roll(3) as usize) {
            let name = if dice.one_in(3) { "fast" } else { "default" };
            let mut disk = disk(target, name, (1 + dice.roll(40)) * GI);
            disk.class = dice.one_in(2).then(|| "disk".into());
            disk.allocated = Bytes(disk.virtual_size.0 / (1 + dice.roll(4)));
            guest.disks.push(disk);
        }
        here.push(guest);
    }
    let mut fleet = fleet(all, here);
    below(&mut fleet, Dice(!seed));
    for host in &mut fleet.hosts {
        // Room for little more than what is there.
        let spare = |dice: &mut Dice, step: u64| dice.roll(tight) * step;
        host.memory_limit = Bytes(host.memory_used.0 + spare(&mut dice, GI));
        host.cpu_limit_milli = host.cpu_used_milli + spare(&mut dice, 1000);
        for at in 0..2 {
            host.pools[at].available = Bytes(spare(&mut dice, 10 * GI));
            if dice.one_in(2) {
                let limit = host.pools[at].virtual_used.0 + spare(&mut dice, 10 * GI);
                host.pools[at].virtual_limit = Some(Bytes(limit));
            }
        }
        if host.pools[0].budget == host.pools[1].budget {
            host.pools[1].available = host.pools[0].available;
        }
    }
    fleet.limits = Limits {
        parallel: dice.one_in(4).then(|| 1 + dice.roll(4) as u32),
        share: dice.one_in(4).then(|| Bytes((1 + dice.roll(8)) * 25 * MI)),
        effort: dice.one_in(4).then(|| dice.roll(2000)),
    };
    let (wishes, ledger) = asked(&mut dice, &fleet, hosts, guests);
    Scene {
        from: (seed, hosts, guests, tight),
        fleet,
        wishes,
        ledger,
    }
}

fn asked(dice: &mut Dice, fleet: &Fleet, hosts: u64, guests: u64) -> (Vec<Wish>, Ledger) {
    let mut ledger = Ledger::default();
    let mut flying = BTreeSet::new();
    for _ in 0..dice.roll(3) {
        let (guest, target) = (dice.roll(guests) as u32, dice.roll(hosts) as u32);
        if fleet.guests[guest as usize].host != HostId(target) && flying.insert(guest) {
            let by = match dice.roll(3) {
                0 => None,
                1 => Some(by("HostDrain", "d0")),
                _ => Some(by("GuestMigration", "elsewhere")),
            };
            let mut flight = flight(fleet, by, guest, target);
            if dice.one_in(3) {
                flight.remaining = None;
            }
            ledger.in_flight.push(flight);
        }
    }
    for _ in 0..dice.roll(3) {
        ledger.avoid.push(Avoid {
            guest: dice.one_in(2).then(|| GuestId(dice.roll(guests) as u32)),
            host: HostId(dice.roll(hosts) as u32),
            until: NOW + Duration::from_secs(dice.roll(3) * 10),
            cause: cause(Reason::TargetLost),
        });
    }
    for _ in 0..dice.roll(3) {
        ledger.resting.push(Resting {
            guest: GuestId(dice.roll(guests) as u32),
            until: NOW + Duration::from_secs(dice.roll(60)),
            cause: cause(Reason::CopyStalled),
        });
    }
    let mut wishes = placements(dice, hosts, guests);
    for at in 0..dice.roll(3) {
        let mut wish = balance(&format!("b{at}"), &[]);
        if let What::Balance(balance) = &mut wish.what {
            balance.hosts = (0..=dice.roll(5))
                .map(|_| HostId(dice.roll(hosts) as u32))
                .collect();
            balance.weights.disk = dice.roll(2) as u32 * 50;
            balance.parallel = 1 + dice.roll(3) as u32;
            balance.moves = dice.one_in(2).then(|| dice.roll(4) as u32);
            balance.bytes = dice.one_in(3).then(|| Bytes(dice.roll(30) * GI));
            balance.start = dice.roll(20) as u32;
            balance.steps = Some(3000);
            balance.stops_over = dice.one_in(2);
            balance.headroom = dice.one_in(5).then(|| Headroom {
                topology_key: if dice.one_in(2) { "rack" } else { HOST_KEY }.into(),
                failures: 1,
            });
            balance.halted = dice.one_in(8).then(|| cause(Reason::Suspended));
            if dice.one_in(3) {
                balance
                    .leaves
                    .insert(GuestId(dice.roll(guests) as u32), cause(Reason::Waiting));
            }
        }
        wishes.push(wish);
    }
    for at in 0..dice.roll(3) {
        let some: Vec<u32> = (0..=dice.roll(2))
            .map(|_| dice.roll(hosts) as u32)
            .collect();
        let mut wish = drain(&format!("d{at}"), &some, 1 + dice.roll(4) as u32);
        if dice.one_in(2) {
            wish = roomy(wish);
        }
        if let (true, What::Drain { halted, .. }) = (dice.one_in(8), &mut wish.what) {
            *halted = Some(cause(Reason::Suspended));
        }
        wishes.push(wish);
    }
    for at in 0..dice.roll(guests.min(9)) {
        let target = (!dice.one_in(3)).then(|| dice.roll(hosts) as u32);
        let mut wish = go(&format!("m{at}"), dice.roll(guests) as u32, target);
        if let (true, What::Move { pools, .. }) = (dice.one_in(6), &mut wish.what) {
            pools.insert("vda".into(), "fast".into());
        }
        wishes.push(wish);
    }
    for _ in 0..dice.roll(4) {
        let guest = GuestId(dice.roll(guests) as u32);
        ledger
            .planned
            .insert(guest, HostId(dice.roll(hosts) as u32));
    }
    (wishes, ledger)
}

/// In half of all scenes none, else a few.
fn placements(dice: &mut Dice, hosts: u64, guests: u64) -> Vec<Wish> {
    let some = if dice.one_in(2) { 0 } else { 1 + dice.roll(3) };
    let key = |dice: &mut Dice| {
        let key = if dice.one_in(2) { "rack" } else { HOST_KEY };
        Some(key.to_owned())
    };
    (0..some)
        .map(|at| {
            let mut placement = Placement {
                guests: (0..=dice.roll(6))
                    .map(|_| GuestId(dice.roll(guests) as u32))
                    .collect(),
                ..Placement::default()
            };
            if dice.one_in(3) {
                placement.hosts = Some(
                    (0..=dice.roll(3))
                        .map(|_| HostId(dice.roll(hosts) as u32))
                        .collect(),
                );
            }
            match dice.roll(4) {
                0 => {}
                1 => placement.apart = key(dice),
                2 => placement.together = key(dice),
                _ => {
                    placement.spread = key(dice).map(|topology_key| Spread {
                        topology_key,
                        max_skew: 1 + dice.roll(2) as u32,
                    })
                }
            }
            placement.halted = dice.one_in(10).then(|| cause(Reason::Suspended));
            let mut wish = place(&format!("p{at}"), &[], Placement::default());
            placement.required = !dice.one_in(4);
            wish.what = What::Place(placement);
            wish
        })
        .collect()
}

fn scenes() -> impl Strategy<Value = Scene> {
    (
        any::<u64>(),
        1..7u64,
        1..25u64,
        prop_oneof![Just(3u64), Just(8), Just(25)],
    )
        .prop_map(|(seed, hosts, guests, tight)| scene(seed, hosts, guests, tight))
}

/// More with `PROPTEST_CASES=100000`.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = config.cases.max(1500);
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn plans_hold(scene in scenes()) {
        planned(&scene.fleet, &scene.wishes, &scene.ledger);
    }

    #[test]
    fn the_same_input_gives_the_same_plan(scene in scenes(), turn in any::<prop::sample::Index>()) {
        let first = plan(&scene.fleet, &scene.wishes, &scene.ledger, NOW);
        prop_assert_eq!(&first, &plan(&scene.fleet, &scene.wishes, &scene.ledger, NOW));
        let mut turned = scene.wishes.clone();
        if !turned.is_empty() {
            let by = turn.index(turned.len());
            turned.rotate_left(by);
            turned.reverse();
        }
        prop_assert_eq!(first, plan(&scene.fleet, &turned, &scene.ledger, NOW));
    }

    #[test]
    fn what_starts_now_is_admitted_one_after_the_other(scene in scenes()) {
        let made = plan(&scene.fleet, &scene.wishes, &scene.ledger, NOW);
        let mut ledger = scene.ledger.clone();
        for step in made.moves.iter().filter(|step| step.waits.is_none()) {
            let admitted = admit(&scene.fleet, &scene.wishes, &ledger, step.guest, step.target, &step.pools, NOW);
            prop_assert_eq!(admitted, Ok(()));
            let mut flight = flight(&scene.fleet, Some(step.by.clone()), step.guest.0, step.target.0);
            flight.pools = BTreeMap::new();
            for disk in &scene.fleet.guests[step.guest.at()].disks {
                let hold = flight.pools.entry(step.pools[&disk.target].clone()).or_default();
                hold.to_come.0 += disk.virtual_size.0;
                hold.virtual_size.0 += disk.virtual_size.0;
            }
            ledger.in_flight.push(flight);
        }
        // Planned again with those in flight, nothing more starts at once for the same wishes than fits.
        planned(&scene.fleet, &scene.wishes, &ledger);
    }

    #[test]
    fn what_is_refused_is_not_admitted(scene in scenes()) {
        let made = plan(&scene.fleet, &scene.wishes, &scene.ledger, NOW);
        for wish in &scene.wishes {
            let What::Move { guest, target: Some(target), pools, .. } = &wish.what else { continue };
            // Whether a group may leave together is for the whole plan to say.
            let refused = made.rejections.iter().any(|rejection| {
                rejection.by == wish.by && rejection.cause.reason != Reason::PlacementForbids
            });
            if refused && !made.moves.iter().any(|step| step.target == *target || step.guest == *guest) {
                let admitted = admit(&scene.fleet, &scene.wishes, &scene.ledger, *guest, *target, pools, NOW);
                prop_assert!(admitted.is_err());
            }
        }
    }

    #[test]
    fn a_host_is_drainable_if_a_drain_of_it_leaves_nobody(scene in scenes(), host in any::<prop::sample::Index>()) {
        let host = HostId(host.index(scene.fleet.hosts.len()) as u32);
        let placements = scene.wishes.iter().filter(|wish| matches!(wish.what, What::Place(_)));
        let mut wishes: Vec<Wish> = placements.cloned().collect();
        for wish in &mut wishes {
            if let What::Place(placement) = &mut wish.what {
                placement.halted = Some(cause(Reason::Suspended));
            }
        }
        let told = drainable(&scene.fleet, &wishes, &scene.ledger, &[host], NOW);
        let mut emptied = drain("d", &[host.0], 40);
        if let What::Drain { makes_way, .. } = &mut emptied.what {
            *makes_way = true;
        }
        wishes.push(emptied);
        let made = planned(&scene.fleet, &wishes, &scene.ledger);
        let left = made.rejections.iter().filter(|rejection| rejection.by.name == "d");
        let left = left.filter(|rejection| rejection.cause.reason != Reason::GuestBusy);
        prop_assert_eq!(told[0].blockers.is_empty(), left.count() == 0);
    }
}
