//! Replays a plan event by event and looks at everything that must hold. Knows the model only; shares no code with
//! the planner.

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a checker says what is wrong by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_planner::*;

use super::rules::Whereabouts;
use super::{emptied, links};

/// Something that is under way during the replay.
#[derive(Clone)]
struct Going {
    guest: usize,
    source: usize,
    target: usize,
    by: Option<evenkeel_crds::shared::RequestedBy>,
    end: Option<Duration>,
}

struct World<'a> {
    fleet: &'a Fleet,
    wishes: &'a [Wish],
    cpu: Vec<i128>,
    memory: Vec<i128>,
    /// By host and name: virtual sizes.
    sizes: BTreeMap<(usize, String), i128>,
    /// By host and budget: taken from what is available.
    taken: BTreeMap<(usize, u32), i128>,
    /// By host: base images that are there or on their way.
    bases: Vec<BTreeSet<BaseId>>,
    names: Vec<BTreeMap<String, String>>,
    whereabouts: Whereabouts,
    going: Vec<Going>,
    /// Guests that stop over, or have: the move that brought them.
    stops: BTreeMap<usize, Move>,
}

fn budget_of(fleet: &Fleet, host: usize, pool: &str) -> Option<u32> {
    let pools = &fleet.hosts[host].pools;
    pools
        .iter()
        .find(|known| known.name == pool)
        .map(|known| known.budget)
}

impl<'a> World<'a> {
    fn new(fleet: &'a Fleet, wishes: &'a [Wish], ledger: &Ledger) -> Self {
        let mut world = Self {
            fleet,
            wishes,
            cpu: Vec::new(),
            memory: Vec::new(),
            sizes: BTreeMap::new(),
            taken: BTreeMap::new(),
            bases: fleet.hosts.iter().map(|host| host.bases.clone()).collect(),
            names: Vec::new(),
            whereabouts: Whereabouts::new(fleet, ledger),
            going: Vec::new(),
            stops: BTreeMap::new(),
        };
        for (at, host) in fleet.hosts.iter().enumerate() {
            world.cpu.push(host.cpu_used_milli.into());
            world.memory.push(host.memory_used.0.into());
            world.names.push(host.domains.clone());
            for pool in &host.pools {
                world
                    .sizes
                    .insert((at, pool.name.clone()), pool.virtual_used.0.into());
            }
        }
        for flight in &ledger.in_flight {
            let target = flight.target.at();
            world.bases[target].extend(&fleet.guests[flight.guest.at()].bases);
            world.cpu[target] += i128::from(flight.cpu_milli);
            world.memory[target] += i128::from(flight.memory.0);
            for (pool, hold) in &flight.pools {
                if let Some(budget) = budget_of(fleet, target, pool) {
                    *world.sizes.entry((target, pool.clone())).or_default() +=
                        i128::from(hold.virtual_size.0);
                    *world.taken.entry((target, budget)).or_default() += i128::from(hold.to_come.0);
                }
            }
            world.going.push(Going {
                guest: flight.guest.at(),
                source: flight.source.at(),
                target,
                by: flight.by.clone(),
                end: flight.remaining,
            });
        }
        world
    }

    fn finish(&mut self, index: usize) {
        let going = self.going.remove(index);
        let guest = &self.fleet.guests[going.guest];
        self.whereabouts.leave(going.guest, going.source);
        if let Some(stop) = self.stops.get(&going.guest)
            && stop.target.at() == going.source
        {
            // All that it held there is free again.
            if guest.active {
                self.cpu[going.source] -= i128::from(guest.cpu_milli);
                self.memory[going.source] -= i128::from(guest.memory.0);
            }
            for disk in &guest.disks {
                let pool = &stop.pools[&disk.target];
                let budget = budget_of(self.fleet, going.source, pool).expect("the pool exists");
                let size = i128::from(disk.virtual_size.0);
                *self.sizes.entry((going.source, pool.clone())).or_default() -= size;
                *self.taken.entry((going.source, budget)).or_default() -= size;
            }
            return;
        }
        if guest.host.at() != going.source {
            return;
        }
        if guest.active {
            self.cpu[going.source] -= i128::from(guest.cpu_milli);
            self.memory[going.source] -= i128::from(guest.memory.0);
        }
        for disk in &guest.disks {
            let Some(pool) = &disk.pool else { continue };
            if let Some(budget) = budget_of(self.fleet, going.source, pool) {
                *self.sizes.entry((going.source, pool.clone())).or_default() -=
                    i128::from(disk.virtual_size.0);
                *self.taken.entry((going.source, budget)).or_default() -=
                    i128::from(disk.allocated.0);
            }
        }
    }

    /// What would be wrong with starting this move now.
    fn start(&mut self, step: &Move) -> Result<(), String> {
        let (guest, source, target) = (step.guest.at(), step.source.at(), step.target.at());
        let facts = &self.fleet.guests[guest];
        if self.going.iter().any(|going| going.guest == guest) {
            return Err(format!("{} is under way already", facts.name));
        }
        if step.onward.is_some() {
            self.stops.insert(guest, step.clone());
        }
        let placed = self.whereabouts.forbid(self.fleet, self.wishes, step);
        self.whereabouts.arrive(guest, target);
        if facts.active {
            self.cpu[target] += i128::from(facts.cpu_milli);
            self.memory[target] += i128::from(facts.memory.0);
        }
        for base in &facts.bases {
            if !self.bases[target].insert(*base) {
                continue;
            }
            let base = &self.fleet.bases[base.at()];
            let pool = base.pool.as_deref();
            if let Some(budget) = pool.and_then(|pool| budget_of(self.fleet, target, pool)) {
                *self.taken.entry((target, budget)).or_default() += i128::from(base.allocated.0);
            }
        }
        for disk in &facts.disks {
            let pool = &step.pools[&disk.target];
            let known = self.fleet.hosts[target]
                .pools
                .iter()
                .find(|known| known.name == *pool)
                .expect("the pool exists");
            assert!(known.closed.is_none(), "a closed pool receives a disk");
            let named = disk.pool.as_ref() == Some(pool);
            let alike = disk.class.is_some() && known.class == disk.class;
            let demanded = self.wishes.iter().any(|wish| match &wish.what {
                What::Move {
                    guest: id, pools, ..
                } => id.at() == guest && pools.get(&disk.target) == Some(pool),
                What::Drain { .. } | What::Place(_) | What::Balance(_) => false,
            });
            assert!(named || alike || demanded, "a disk goes to a strange pool");
            *self.sizes.entry((target, pool.clone())).or_default() +=
                i128::from(disk.virtual_size.0);
            *self.taken.entry((target, known.budget)).or_default() +=
                i128::from(disk.virtual_size.0);
        }
        self.going.push(Going {
            guest,
            source,
            target,
            by: Some(step.by.clone()),
            end: step.duration.map(|duration| step.start + duration),
        });
        placed?;
        self.limits(step)
    }

    /// Whether what the move that was started last adds to is within its limits. Sums grow only with a start, so to
    /// look then is to look always; what was over its limit before is not the plan's doing, unless it adds to it.
    fn limits(&self, step: &Move) -> Result<(), String> {
        let (guest, source, target) = (
            &self.fleet.guests[step.guest.at()],
            step.source.at(),
            step.target.at(),
        );
        let host = &self.fleet.hosts[target];
        let name = &host.name;
        if guest.active && self.memory[target] > i128::from(host.memory_limit.0) {
            return Err(format!("memory of {name} is over its limit"));
        }
        if guest.active && self.cpu[target] > i128::from(host.cpu_limit_milli) {
            return Err(format!("CPU of {name} is over its limit"));
        }
        let bases = guest.bases.iter();
        let of_bases = bases.filter_map(|base| self.fleet.bases[base.at()].pool.as_ref());
        for used in step.pools.values().chain(of_bases) {
            let budget = budget_of(self.fleet, target, used);
            let open = host.pools.iter().filter(|pool| pool.closed.is_none());
            for pool in open.filter(|pool| Some(pool.budget) == budget) {
                let taken = self.taken.get(&(target, pool.budget));
                if taken.is_some_and(|taken| *taken > i128::from(pool.available.0)) {
                    return Err(format!("pool {} of {name} is over what it has", pool.name));
                }
                let sizes = self.sizes[&(target, pool.name.clone())];
                // A base image has no virtual size.
                let gets_disk = step.pools.values().any(|used| *used == pool.name);
                let limit = pool.virtual_limit.filter(|_| gets_disk);
                if limit.is_some_and(|limit| sizes > i128::from(limit.0)) {
                    return Err(format!(
                        "sizes in {} of {name} are over the limit",
                        pool.name
                    ));
                }
            }
        }
        let count = |wanted: &dyn Fn(&Going) -> bool| {
            self.going.iter().filter(|going| wanted(going)).count()
        };
        let most = self.fleet.limits.parallel;
        if most.is_some_and(|most| count(&|_| true) > most as usize) {
            return Err("too many moves in the whole fleet".to_owned());
        }
        if count(&|going| going.target == target) > host.max_inbound as usize {
            return Err(format!("too many moves to {name}"));
        }
        let from = &self.fleet.hosts[source];
        if count(&|going| going.source == source) > from.max_outbound as usize {
            return Err(format!("too many moves from {}", from.name));
        }
        for wish in self.wishes {
            if let What::Drain {
                hosts, parallel, ..
            } = &wish.what
            {
                let counts = |going: &Going| {
                    let by_drain = going.by.as_ref().is_some_and(|by| by.kind == "HostDrain");
                    by_drain && hosts.contains(&HostId(going.source as u32))
                };
                let own = step.by.kind == "HostDrain" && hosts.contains(&step.source);
                if own && count(&counts) > *parallel as usize {
                    return Err(format!("too many moves of {}", wish.by.name));
                }
            }
        }
        for wish in self.wishes {
            if let What::Balance(balance) = &wish.what {
                let own = |going: &Going| going.by.as_ref() == Some(&wish.by);
                if step.by == wish.by && count(&own) > balance.parallel as usize {
                    return Err(format!("too many moves of {}", wish.by.name));
                }
            }
        }
        Ok(())
    }
}

/// Panics with what is wrong with the plan.
pub fn check(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger, now: Duration, plan: &Plan) {
    once_each(fleet, wishes, ledger, plan);
    allowed(fleet, wishes, ledger, now, plan);
    counted(fleet, wishes, plan);
    let starts: Vec<Duration> = plan.moves.iter().map(|step| step.start).collect();
    assert!(starts.is_sorted(), "moves are in the order of their starts");

    // All that start now, at one instant.
    let mut world = World::new(fleet, wishes, ledger);
    for step in plan.moves.iter().filter(|step| step.waits.is_none()) {
        assert_eq!(step.start, Duration::ZERO);
        world
            .start(step)
            .unwrap_or_else(|wrong| panic!("at once: {wrong}\n{plan:#?}"));
    }

    let known = plan.moves.iter().all(|step| step.duration.is_some())
        && plan.makespan.is_some()
        && ledger
            .in_flight
            .iter()
            .all(|flight| flight.remaining.is_some());
    links::check(fleet, ledger, plan, known);
    emptied::check(fleet, wishes, ledger, plan);
    let mut world = World::new(fleet, wishes, ledger);
    for step in &plan.moves {
        if known {
            let over = |going: &Going| going.end.is_some_and(|end| end <= step.start);
            while let Some(index) = world.going.iter().position(over) {
                world.finish(index);
            }
            world
                .start(step)
                .unwrap_or_else(|wrong| panic!("at {:?}: {wrong}\n{plan:#?}", step.start));
        } else {
            // Times are not known: there must be some order of ends that lets it start.
            loop {
                let before = (
                    world.cpu.clone(),
                    world.memory.clone(),
                    world.sizes.clone(),
                    world.taken.clone(),
                    world.bases.clone(),
                    world.whereabouts.clone(),
                );
                match world.start(step) {
                    Ok(()) => break,
                    Err(wrong) => {
                        if !wrong.ends_with("under way already") {
                            world.going.pop();
                        }
                        (
                            world.cpu,
                            world.memory,
                            world.sizes,
                            world.taken,
                            world.bases,
                            world.whereabouts,
                        ) = before;
                        assert!(!world.going.is_empty(), "never: {wrong}\n{plan:#?}");
                        world.finish(0);
                    }
                }
            }
        }
    }
    world
        .whereabouts
        .torn(fleet, wishes, &Whereabouts::new(fleet, ledger));
    if let Some(makespan) = plan.makespan {
        let ends = plan
            .moves
            .iter()
            .filter_map(|step| Some(step.start + step.duration?));
        assert_eq!(makespan, ends.max().unwrap_or_default());
    }
    assert_eq!(
        plan.bytes.0,
        plan.moves.iter().map(|step| step.bytes.0).sum::<u64>()
    );
}

/// No guest twice; every guest of a drain accounted for; every explicit wish answered.
fn once_each(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger, plan: &Plan) {
    let mut moving = BTreeSet::new();
    let mut stops: BTreeMap<GuestId, &Move> = BTreeMap::new();
    for step in &plan.moves {
        if let Some(first) = stops.remove(&step.guest) {
            assert_eq!(
                (first.target, first.onward),
                (step.source, Some(step.target))
            );
            assert!(step.onward.is_none() && first.by == step.by && step.waits.is_some());
            continue;
        }
        if step.onward.is_some() {
            stops.insert(step.guest, step);
        }
        assert!(moving.insert(step.guest), "a guest moves twice");
        assert_eq!(fleet.guests[step.guest.at()].host, step.source);
        assert!(
            ledger
                .in_flight
                .iter()
                .all(|flight| flight.guest != step.guest)
        );
    }
    assert!(stops.is_empty(), "guests that stop over go on");
    for wish in wishes {
        let rejected = |guest: GuestId| {
            let own = plan.rejections.iter();
            own.filter(|rejection| rejection.guest == guest && rejection.by == wish.by)
                .count()
        };
        let flying = |guest: GuestId| {
            let own = ledger.in_flight.iter();
            own.filter(|flight| flight.guest == guest && flight.by.as_ref() == Some(&wish.by))
                .count()
        };
        match &wish.what {
            What::Move { guest, .. } => {
                let moved = plan
                    .moves
                    .iter()
                    .filter(|step| step.by == wish.by && step.guest == *guest)
                    .filter(|step| step.onward.is_none())
                    .count();
                let satisfied = plan
                    .satisfied
                    .iter()
                    .filter(|satisfied| satisfied.by == wish.by)
                    .count();
                assert_eq!(
                    moved + rejected(*guest) + flying(*guest) + satisfied,
                    1,
                    "{wish:?}"
                );
            }
            What::Balance(balance) => {
                let own = plan.moves.iter().filter(|step| step.by == wish.by);
                let own: Vec<&Move> = own.collect();
                assert!(own.len() <= balance.moves.unwrap_or(u32::MAX) as usize);
                let bytes: u64 = own.iter().map(|step| step.bytes.0).sum();
                assert!(bytes <= balance.bytes.map_or(u64::MAX, |bytes| bytes.0 + (1 << 20)));
                let told = plan
                    .balances
                    .iter()
                    .find(|told| told.by == wish.by)
                    .expect("told");
                let makes_room = balance.headroom.is_some();
                assert!(told.predicted <= told.now || makes_room, "{told:?}");
                assert!(told.cause.is_none() || own.is_empty());
            }
            What::Place(placement) => {
                for guest in &placement.guests {
                    let facts = &fleet.guests[guest.at()];
                    let wrong = placement
                        .hosts
                        .as_ref()
                        .is_some_and(|hosts| !hosts.contains(&facts.host));
                    let flying = ledger.in_flight.iter().any(|flight| flight.guest == *guest);
                    let known = rejected(*guest) + usize::from(moving.contains(guest));
                    assert!(
                        !wrong || !facts.active || flying || known == 1,
                        "{} of {wish:?}",
                        facts.name
                    );
                    assert!(rejected(*guest) < 2 && (facts.active || rejected(*guest) == 0));
                }
            }
            What::Drain { hosts, .. } => {
                for (at, guest) in fleet.guests.iter().enumerate() {
                    let id = GuestId(at as u32);
                    if hosts.contains(&guest.host) && guest.active {
                        let moved = usize::from(moving.contains(&id));
                        assert_eq!(
                            moved + rejected(id) + flying(id),
                            1,
                            "{} of {wish:?}",
                            guest.name
                        );
                    } else {
                        assert_eq!(rejected(id), 0);
                    }
                }
            }
        }
    }
}

/// Targets are open, and have what the guest needs.
fn allowed(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger, now: Duration, plan: &Plan) {
    let mut names = BTreeSet::new();
    for step in &plan.moves {
        let guest = &fleet.guests[step.guest.at()];
        let target = &fleet.hosts[step.target.at()];
        assert!(step.source != step.target);
        assert!(target.out_of_reach.is_none() && target.closed.is_none());
        assert!(fleet.hosts[step.source.at()].out_of_reach.is_none());
        assert!(guest.immovable.is_none());
        let mut explicit = false;
        for wish in wishes {
            match &wish.what {
                What::Drain { hosts, halted, .. } => {
                    assert!(!hosts.contains(&step.target), "moves into a drained host");
                    assert!(wish.by != step.by || halted.is_none());
                }
                What::Move { guest, target, .. } if wish.by == step.by => {
                    assert_eq!(*guest, step.guest);
                    let end = step.onward.unwrap_or(step.target);
                    assert!(target.is_none_or(|target| target == end));
                    explicit = true;
                }
                What::Place(placement) if wish.by == step.by => {
                    assert!(placement.halted.is_none());
                    assert!(placement.guests.contains(&step.guest));
                }
                What::Balance(balance) if wish.by == step.by => {
                    assert!(balance.halted.is_none());
                    assert!(
                        balance.hosts.contains(&step.source)
                            && balance.hosts.contains(&step.target)
                    );
                    assert!(
                        !balance.leaves.contains_key(&step.guest),
                        "it is to be left"
                    );
                    assert!(balance.stops_over || step.onward.is_none());
                }
                What::Move { .. } | What::Place(_) | What::Balance(_) => {}
            }
        }
        assert!(explicit || guest.held.is_none() && guest.active);
        for avoid in &ledger.avoid {
            assert!(
                avoid.until <= now
                    || avoid.host != step.target
                    || avoid.guest.is_some_and(|guest| guest != step.guest)
            );
        }
        for resting in ledger
            .resting
            .iter()
            .filter(|resting| resting.guest == step.guest)
        {
            assert!(resting.until <= now + step.start, "it rests");
            assert!(resting.until <= now || step.waits.is_some());
        }
        assert!(offers(guest, target), "{step:?} lacks what it needs");
        assert!(
            !target.domains.contains_key(&guest.domain),
            "the name is taken"
        );
        assert!(target.domains.values().all(|uuid| *uuid != guest.uuid));
        assert!(
            names.insert((step.target, &guest.domain)),
            "two guests of one name go to one host"
        );
    }
}

/// Whether the host has all that the guest needs besides room.
pub fn offers(guest: &Guest, host: &Host) -> bool {
    let (needs, offers) = (&guest.needs, &host.offers);
    let machines = offers.machines.get(&needs.emulator);
    let mut directories = needs.storage.values();
    machines.is_some_and(|machines| machines.contains(&needs.machine))
        && offers.hypervisor >= needs.hypervisor
        && needs.networks.is_subset(&offers.networks)
        && needs.nwfilters.is_subset(&offers.nwfilters)
        && (offers.bridges.as_ref()).is_none_or(|bridges| needs.bridges.is_subset(bridges))
        && (needs.cpu.as_ref()).is_none_or(|cpu| !guest.active || *cpu == offers.cpu)
        && directories.all(|needed| offers.storage.values().any(|there| there == needed))
}

/// Counts of hosts are complete.
fn counted(fleet: &Fleet, wishes: &[Wish], plan: &Plan) {
    for rejection in &plan.rejections {
        let targeted = wishes.iter().any(|wish| {
            wish.by == rejection.by
                && matches!(
                    &wish.what,
                    What::Move {
                        target: Some(_),
                        ..
                    }
                )
        });
        assert!(!rejection.cause.message.is_empty());
        if rejection.cause.reason == evenkeel_crds::reason::Reason::NoHostFits {
            assert!(!targeted);
            let sum: i64 = rejection.hosts.iter().map(|hosts| hosts.count).sum();
            assert_eq!(sum, fleet.hosts.len() as i64 - 1);
            for hosts in &rejection.hosts {
                assert_eq!(hosts.examples.len() as i64, hosts.count.min(3));
                assert_ne!(hosts.reason, "Waiting", "{rejection:#?}");
            }
            assert!(rejection.hosts.is_sorted_by(|one, other| {
                (-one.count, &one.reason) < (-other.count, &other.reason)
            }));
        } else {
            assert!(rejection.hosts.is_empty());
            assert_ne!(
                rejection.cause.reason,
                evenkeel_crds::reason::Reason::Waiting
            );
        }
    }
}
