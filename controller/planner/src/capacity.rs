//! What is promised at each host and pool: what is there, what is on its way in, and what will leave.
//!
//! A move holds capacity at both ends until it has ended: the target's is taken when it is planned or started, the
//! source's comes back only with its end. Sums are kept wide enough that no sum of 64-bit amounts can overflow.

use std::collections::BTreeMap;

use crate::model::{Base, BaseId, Fleet, Guest, GuestId, HostId, Ledger, Pool};

/// Which room is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Nothing has left yet.
    Now,
    /// Everything that is planned to leave has left.
    Later,
}

/// Where each host's pools lie in one long list, and which file system (budget) each pool shares.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The first pool of each host, and one past the last.
    first: Vec<usize>,
    /// Each pool's budget.
    budget: Vec<usize>,
    /// What each budget has free: the least that one of its open pools shows.
    space: Vec<i128>,
}

impl Layout {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let mut layout = Self {
            first: vec![0],
            budget: Vec::new(),
            space: Vec::new(),
        };
        for host in &fleet.hosts {
            let base = layout.space.len();
            let mut numbers: Vec<u32> = Vec::new();
            for pool in &host.pools {
                let place = numbers.iter().position(|number| *number == pool.budget);
                let place = place.unwrap_or_else(|| {
                    numbers.push(pool.budget);
                    layout.space.push(i128::MAX);
                    numbers.len() - 1
                });
                layout.budget.push(base + place);
                if pool.closed.is_none() {
                    let space = &mut layout.space[base + place];
                    *space = (*space).min(i128::from(pool.available.0));
                }
            }
            layout.first.push(layout.budget.len());
        }
        for space in &mut layout.space {
            if *space == i128::MAX {
                *space = 0;
            }
        }
        layout
    }

    /// The place in the long list of a host's pool.
    pub(crate) fn pool(&self, host: HostId, index: usize) -> usize {
        self.first[host.at()] + index
    }

    /// The host's own index of a pool in the long list.
    pub(crate) fn index(&self, host: HostId, pool: usize) -> usize {
        pool - self.first[host.at()]
    }

    /// The budget a pool shares.
    pub(crate) fn budget(&self, pool: usize) -> usize {
        self.budget[pool]
    }

    /// What the pool's budget had free before any move.
    pub(crate) fn space(&self, pool: usize) -> i128 {
        self.space[self.budget[pool]]
    }

    /// The pool of that name, or the one that a directory of that name lies in.
    pub(crate) fn named(&self, fleet: &Fleet, host: HostId, name: &str) -> Option<usize> {
        let pools = &fleet.hosts[host.at()].pools;
        let holds = |pool: &Pool| pool.directories.contains(name);
        let named = pools.iter().position(|pool| pool.name == name);
        let index = named.or_else(|| pools.iter().position(holds))?;
        Some(self.pool(host, index))
    }
}

/// Where a base image lies, or would, at a host.
fn pool_of(fleet: &Fleet, layout: &Layout, base: &Base, host: HostId) -> Option<usize> {
    layout.named(fleet, host, base.pool.as_deref()?)
}

/// CPU and memory that a guest takes: none when it is stopped.
pub(crate) fn demand(guest: &Guest) -> (i128, i128) {
    if guest.active {
        (i128::from(guest.cpu_milli), i128::from(guest.memory.0))
    } else {
        (0, 0)
    }
}

/// One amount per host, pool and budget.
#[derive(Debug, Clone)]
struct Amounts {
    cpu: Vec<i128>,
    memory: Vec<i128>,
    sizes: Vec<i128>,
    space: Vec<i128>,
}

impl Amounts {
    fn zero(layout: &Layout) -> Self {
        let hosts = layout.first.len() - 1;
        Self {
            cpu: vec![0; hosts],
            memory: vec![0; hosts],
            sizes: vec![0; layout.budget.len()],
            space: vec![0; layout.space.len()],
        }
    }

    /// What goes from the source with the guest: CPU, memory, the disks' size and what they occupy.
    fn source(&mut self, fleet: &Fleet, layout: &Layout, guest: &Guest, sign: i128) {
        let (cpu, memory) = demand(guest);
        self.cpu[guest.host.at()] += sign * cpu;
        self.memory[guest.host.at()] += sign * memory;
        for disk in &guest.disks {
            let pool = disk.pool.as_deref();
            if let Some(pool) = pool.and_then(|name| layout.named(fleet, guest.host, name)) {
                self.sizes[pool] += sign * i128::from(disk.virtual_size.0);
                self.space[layout.budget(pool)] += sign * i128::from(disk.allocated.0);
            }
        }
    }
}

/// What is held everywhere, and what is planned to leave.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    held: Amounts,
    leaving: Amounts,
    /// Base images on their way to a host that has not got them: for how many guests.
    bases: BTreeMap<(HostId, BaseId), u32>,
}

impl Room {
    /// What is held now, moves in flight counted at both ends.
    pub(crate) fn new(fleet: &Fleet, layout: &Layout, ledger: &Ledger) -> Self {
        let mut room = Self {
            held: Amounts::zero(layout),
            leaving: Amounts::zero(layout),
            bases: BTreeMap::new(),
        };
        for (at, host) in fleet.hosts.iter().enumerate() {
            room.held.cpu[at] = i128::from(host.cpu_used_milli);
            room.held.memory[at] = i128::from(host.memory_used.0);
            for (index, pool) in host.pools.iter().enumerate() {
                room.held.sizes[layout.first[at] + index] = i128::from(pool.virtual_used.0);
            }
        }
        for flight in &ledger.in_flight {
            let target = flight.target.at();
            room.held.cpu[target] += i128::from(flight.cpu_milli);
            room.held.memory[target] += i128::from(flight.memory.0);
            for (name, hold) in &flight.pools {
                if let Some(pool) = layout.named(fleet, flight.target, name) {
                    room.held.sizes[pool] += i128::from(hold.virtual_size.0);
                    room.held.space[layout.budget(pool)] += i128::from(hold.to_come.0);
                }
            }
            let guest = &fleet.guests[flight.guest.at()];
            // Their bytes are among those that the move says are to come.
            for base in room.missing(fleet, guest, flight.target) {
                room.bases.insert((flight.target, base), 1);
            }
            // After the switch the guest is counted at the target, and nothing of it is left to be freed here.
            if guest.host == flight.source {
                room.leaving.source(fleet, layout, guest, 1);
            }
        }
        room
    }

    /// Takes (1) or gives back (-1) what the guest needs at a target, its disks in these pools, and the base images that it
    /// is the first to need there.
    pub(crate) fn hold(
        &mut self,
        fleet: &Fleet,
        layout: &Layout,
        guest: &Guest,
        target: HostId,
        pools: &[usize],
        sign: i128,
    ) {
        self.hold_disks(layout, guest, target, pools, sign);
        let there = &fleet.hosts[target.at()].bases;
        for base in guest.bases.iter().filter(|base| !there.contains(base)) {
            let count = self.bases.entry((target, *base)).or_default();
            let changes = match sign {
                1 => *count == 0,
                _ => *count == 1,
            };
            *count = count.saturating_add_signed(sign as i32);
            let base = &fleet.bases[base.at()];
            if changes && let Some(pool) = pool_of(fleet, layout, base, target) {
                self.held.space[layout.budget(pool)] += sign * i128::from(base.allocated.0);
            }
        }
    }

    /// Base images that the guest needs and the host has not, nor awaits.
    pub(crate) fn missing(&self, fleet: &Fleet, guest: &Guest, host: HostId) -> Vec<BaseId> {
        let there = &fleet.hosts[host.at()].bases;
        let awaited = |base: &BaseId| {
            self.bases
                .get(&(host, *base))
                .is_some_and(|count| *count > 0)
        };
        let all = guest.bases.iter().copied();
        all.filter(|base| !there.contains(base) && !awaited(base))
            .collect()
    }

    /// What those take there: of each file system the budget, a pool in it, and bytes.
    pub(crate) fn brought(
        &self,
        fleet: &Fleet,
        layout: &Layout,
        guest: &Guest,
        host: HostId,
    ) -> BTreeMap<usize, (usize, i128)> {
        let mut weights = BTreeMap::new();
        for base in self.missing(fleet, guest, host) {
            let facts = &fleet.bases[base.at()];
            if let Some(pool) = pool_of(fleet, layout, facts, host) {
                let (_, bytes) = weights.entry(layout.budget(pool)).or_insert((pool, 0));
                *bytes += i128::from(facts.allocated.0);
            }
        }
        weights
    }

    /// The same without base images, which stay when the guest goes on.
    pub(crate) fn hold_disks(
        &mut self,
        layout: &Layout,
        guest: &Guest,
        target: HostId,
        pools: &[usize],
        sign: i128,
    ) {
        let (cpu, memory) = demand(guest);
        self.held.cpu[target.at()] += sign * cpu;
        self.held.memory[target.at()] += sign * memory;
        for (disk, pool) in guest.disks.iter().zip(pools) {
            let size = sign * i128::from(disk.virtual_size.0);
            self.held.sizes[*pool] += size;
            self.held.space[layout.budget(*pool)] += size;
        }
    }

    /// Plans (1) that the guest leaves its host, or plans it no longer (-1).
    pub(crate) fn leave(&mut self, fleet: &Fleet, layout: &Layout, guest: GuestId, sign: i128) {
        self.leaving
            .source(fleet, layout, &fleet.guests[guest.at()], sign);
    }

    /// The guest has left its host (1), and what it held there is free; or it has not after all (-1).
    pub(crate) fn left(&mut self, fleet: &Fleet, layout: &Layout, guest: GuestId, sign: i128) {
        self.held
            .source(fleet, layout, &fleet.guests[guest.at()], -sign);
    }

    /// CPU promised at a host.
    pub(crate) fn cpu(&self, host: HostId, when: When) -> i128 {
        at(&self.held.cpu, &self.leaving.cpu, host.at(), when)
    }

    /// Memory promised at a host.
    pub(crate) fn memory(&self, host: HostId, when: When) -> i128 {
        at(&self.held.memory, &self.leaving.memory, host.at(), when)
    }

    /// Virtual sizes in a pool.
    pub(crate) fn sizes(&self, pool: usize, when: When) -> i128 {
        at(&self.held.sizes, &self.leaving.sizes, pool, when)
    }

    /// What moves take of the free space of a pool's budget.
    pub(crate) fn taken(&self, layout: &Layout, pool: usize, when: When) -> i128 {
        at(
            &self.held.space,
            &self.leaving.space,
            layout.budget(pool),
            when,
        )
    }
}

fn at(held: &[i128], leaving: &[i128], index: usize, when: When) -> i128 {
    match when {
        When::Now => held[index],
        When::Later => held[index] - leaving[index],
    }
}
