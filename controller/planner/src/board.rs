//! The board on which moves are placed: who goes where so far, and what that leaves.

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;

use crate::bytes::{capped, memory, rate, travels, weight};
use crate::capacity::demand;
use crate::capacity::{Room, When};
use crate::counts::Counts;
use crate::fit::{Refusal, fits};
use crate::model::{Guest, GuestId, HostId};
use crate::rules::{self, Strictness};
use crate::shelf::Shelf;
use crate::traffic::NOMINAL_RATE;
use crate::view::View;
use crate::wishes::Ask;

/// Fullness is counted in these parts of a host.
pub(crate) const FULL: i128 = 10_000;
/// Hosts whose fullness differs by less than this count as equally full.
pub(crate) const STEP: i128 = FULL / 32;

/// So much of a limit, in parts of [`FULL`].
pub(crate) fn share(used: i128, limit: i128) -> i128 {
    used.max(0) * FULL / limit.max(1)
}

/// The least that a guest takes of a host, to tell at a glance where it can't go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    cpu: i128,
    memory: i128,
    disk: i128,
}

impl Bulk {
    pub(crate) fn of(guest: &Guest) -> Self {
        let (cpu, memory) = demand(guest);
        let sizes = guest.disks.iter().map(|disk| disk.virtual_size.0);
        Self {
            cpu,
            memory,
            disk: sizes.max().map_or(i128::MIN, i128::from),
        }
    }
}

/// Guests that may not go to a host because the move would be part of a ring, with the sentence that says so.
pub(crate) type Banned = BTreeMap<(GuestId, HostId), String>;

/// Where an ask's guest goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) target: HostId,
    /// For each disk its pool at the target.
    pub(crate) pools: Vec<usize>,
}

/// Asks, and where they are placed.
#[derive(Clone)]
pub(crate) struct Board<'v, 'a> {
    pub(crate) view: &'v View<'a>,
    pub(crate) banned: &'v Banned,
    pub(crate) room: Room,
    pub(crate) counts: Counts,
    /// For each ask its place.
    pub(crate) placed: Vec<Option<Placed>>,
    /// For each host the asks that go there.
    pub(crate) into: Vec<Vec<usize>>,
    /// For each host the bytes that travel there, by the plan.
    pub(crate) load: Vec<u128>,
    /// Open hosts, the emptiest first, as they are before anything leaves.
    pub(crate) shelf: Shelf,
    /// For each host the most that one of its file systems has free before anything leaves.
    roomiest: Vec<i128>,
    /// For each host the guests that are planned to leave it, or are leaving.
    pub(crate) departing: Vec<u32>,
    /// Hosts that are emptied together, as far as this board is asked: nothing goes there.
    pub(crate) emptied: Vec<HostId>,
    /// Guests placed, and by which ask.
    moving: BTreeMap<GuestId, usize>,
    /// Domain names that arrive, where they matter.
    arriving: BTreeMap<(HostId, &'a str), Vec<GuestId>>,
}

impl<'v, 'a> Board<'v, 'a> {
    /// An empty board for so many asks.
    pub(crate) fn new(view: &'v View<'a>, banned: &'v Banned, asks: usize) -> Self {
        let hosts = view.fleet.hosts.len();
        let mut board = Self {
            view,
            banned,
            room: Room::new(view.fleet, &view.layout, view.ledger),
            counts: Counts::new(view, &view.leave),
            placed: vec![None; asks],
            into: vec![Vec::new(); hosts],
            load: vec![0; hosts],
            shelf: Shelf::new(hosts),
            roomiest: vec![i128::MIN; hosts],
            departing: view.outbound.clone(),
            emptied: Vec::new(),
            moving: BTreeMap::new(),
            arriving: BTreeMap::new(),
        };
        for flight in &view.ledger.in_flight {
            board.arrives(flight.guest, flight.target);
        }
        for host in &view.open {
            board.shelve(*host);
        }
        board
    }

    /// Puts the host in its place on the shelf after what it holds has changed.
    fn shelve(&mut self, host: HostId) {
        let (view, at) = (self.view, host.at());
        if view.gate(host).is_some() {
            return;
        }
        let facts = view.host(host);
        let pools = (0..facts.pools.len()).map(|index| view.layout.pool(host, index));
        let free = pools
            .map(|pool| view.layout.space(pool) - self.room.taken(&view.layout, pool, When::Now));
        self.roomiest[at] = free.max().unwrap_or(i128::MIN);
        let memory = self.room.memory(host, When::Now);
        let cpu = self.room.cpu(host, When::Now);
        let fullness = share(memory, i128::from(facts.memory_limit.0))
            .max(share(cpu, i128::from(facts.cpu_limit_milli)));
        let place = (
            fullness.min(FULL) / STEP,
            self.waves(host),
            self.seconds(host, 0),
            view.rank[at] as u32,
        );
        self.shelf.put(place);
    }

    /// How often the host's inbound slots are filled by what goes there.
    pub(crate) fn waves(&self, host: HostId) -> i128 {
        let moves = self.into[host.at()].len() as i128 + i128::from(self.view.inbound[host.at()]);
        moves / i128::from(self.view.host(host).max_inbound.max(1))
    }

    /// How long the host's link takes for what goes there and so many bytes more.
    pub(crate) fn seconds(&self, host: HostId, bytes: u64) -> u64 {
        let bandwidth = self.view.host(host).bandwidth;
        let rate = bandwidth.map_or(NOMINAL_RATE, |rate| rate.0.max(1));
        let bytes = self.load[host.at()] + u128::from(bytes);
        u64::try_from(bytes / u128::from(rate)).unwrap_or(u64::MAX)
    }

    /// Whether a glance does not rule out that the host takes so much.
    pub(crate) fn may_hold(&self, bulk: &Bulk, host: HostId, when: When) -> bool {
        let facts = self.view.host(host);
        let fits =
            |needs: i128, held: i128, limit: u64| needs == 0 || needs + held <= i128::from(limit);
        fits(
            bulk.memory,
            self.room.memory(host, when),
            facts.memory_limit.0,
        ) && fits(bulk.cpu, self.room.cpu(host, when), facts.cpu_limit_milli)
            && (when == When::Later || bulk.disk <= self.roomiest[host.at()])
    }

    /// How much of its memory, in parts of [`FULL`], the host lacks for so much, once all that leaves has left.
    pub(crate) fn lacks(&self, bulk: &Bulk, host: HostId) -> i128 {
        let limit = i128::from(self.view.host(host).memory_limit.0);
        let lack = self.room.memory(host, When::Later) + bulk.memory - limit;
        share(lack, limit)
    }

    /// Whether the host has room for the guest with its disks in these pools.
    pub(crate) fn holds(&self, guest: &Guest, host: HostId, pools: &[usize], when: When) -> bool {
        let (view, room) = (self.view, &self.room);
        let facts = view.host(host);
        let (cpu, memory) = demand(guest);
        if guest.active
            && (memory + room.memory(host, when) > i128::from(facts.memory_limit.0)
                || cpu + room.cpu(host, when) > i128::from(facts.cpu_limit_milli))
        {
            return false;
        }
        let bases = room.brought(view.fleet, &view.layout, guest, host);
        let sum = |wanted: &dyn Fn(usize) -> bool| -> i128 {
            let disks = guest.disks.iter().zip(pools);
            disks
                .filter(|(_, pool)| wanted(**pool))
                .map(|(disk, _)| i128::from(disk.virtual_size.0))
                .sum()
        };
        let has_space = |pool: &usize| {
            let budget = view.layout.budget(*pool);
            let base = bases.get(&budget).map_or(0, |(_, bytes)| *bytes);
            let space = base + sum(&|other| view.layout.budget(other) == budget);
            space + room.taken(&view.layout, *pool, when) <= view.layout.space(*pool)
        };
        let has_size = |pool: &usize| {
            let limit = facts.pools[view.layout.index(host, *pool)].virtual_limit;
            limit.is_none_or(|limit| {
                sum(&|other| other == *pool) + room.sizes(*pool, when) <= i128::from(limit.0)
            })
        };
        pools.iter().all(|pool| has_space(pool) && has_size(pool))
            && bases.values().all(|(pool, _)| has_space(pool))
    }

    fn arrives(&mut self, guest: GuestId, host: HostId) {
        if self.view.has_namesake(guest) {
            let domain = self.view.guest(guest).domain.as_str();
            self.arriving.entry((host, domain)).or_default().push(guest);
        }
    }

    /// Whether another guest of the same domain name is on its way to the host.
    pub(crate) fn namesake(&self, guest: GuestId, host: HostId) -> Option<Refusal> {
        if !self.view.has_namesake(guest) {
            return None;
        }
        let domain = self.view.guest(guest).domain.as_str();
        let others = self.arriving.get(&(host, domain))?;
        others
            .iter()
            .any(|other| *other != guest)
            .then_some(Refusal::NameTaken)
    }

    /// The ask by which a guest is placed.
    pub(crate) fn mover(&self, guest: GuestId) -> Option<usize> {
        self.moving.get(&guest).copied()
    }

    /// How many guests are placed.
    pub(crate) fn moves(&self) -> usize {
        self.moving.len()
    }

    /// How the ask's guest could be placed at the host, if at all: at once if possible, else later.
    pub(crate) fn way(
        &self,
        ask: &Ask<'_>,
        host: HostId,
        scratch: &mut Vec<usize>,
    ) -> Option<When> {
        if fits(self, ask, host, When::Now, scratch, &mut |_| false) {
            return Some(When::Now);
        }
        if !self.later(ask.guest, host) {
            return None;
        }
        fits(self, ask, host, When::Later, scratch, &mut |_| false).then_some(When::Later)
    }

    /// Whether the guest may be welcome at the host later, if not now: a host that nothing leaves has no more room then.
    pub(crate) fn later(&self, guest: GuestId, host: HostId) -> bool {
        let freed = |(index, rule): (usize, &rules::Rule<'_>)| {
            let domain = rule.domain(host);
            rule.law.frees() && domain.is_some_and(|domain| self.counts.leaves(index, domain))
        };
        self.departing[host.at()] > 0 || self.view.rules.of(guest).any(freed)
    }

    /// The rule that the guest's going from the one host, where it is, to the other would break.
    pub(crate) fn forbids(
        &self,
        guest: GuestId,
        (from, host): (HostId, HostId),
        when: When,
        strictness: Strictness,
    ) -> Option<Refusal> {
        if !self.view.rules.any(guest) {
            return None;
        }
        let later = when == When::Later;
        let rule = rules::forbids(
            self.view,
            &self.counts,
            guest,
            (from, host),
            later,
            strictness,
        )?;
        let lasting = self.view.rules.all[rule].domain(host).is_none();
        Some(Refusal::Rule { rule, lasting })
    }

    /// Where the guest is, or is planned to go.
    pub(crate) fn place_of(&self, guest: GuestId) -> HostId {
        let placed = self
            .mover(guest)
            .and_then(|index| self.placed[index].as_ref());
        placed.map_or(self.view.bound(guest), |placed| placed.target)
    }

    /// Counts on the guest's leaving its host.
    pub(crate) fn departs(&mut self, guest: GuestId) {
        self.counts.leave(self.view, guest, 1);
        self.room
            .leave(self.view.fleet, &self.view.layout, guest, 1);
        self.departing[self.view.guest(guest).host.at()] += 1;
    }

    /// Counts on it no longer.
    pub(crate) fn stays(&mut self, guest: GuestId) {
        self.counts.leave(self.view, guest, -1);
        self.room
            .leave(self.view.fleet, &self.view.layout, guest, -1);
        self.departing[self.view.guest(guest).host.at()] -= 1;
    }

    /// Has the guest, gone from its host, at another (1), or back (-1).
    pub(crate) fn settle(&mut self, guest: GuestId, target: HostId, pools: &[usize], sign: i64) {
        let view = self.view;
        let facts = view.guest(guest);
        self.room
            .hold(view.fleet, &view.layout, facts, target, pools, sign.into());
        self.room.left(view.fleet, &view.layout, guest, sign.into());
        self.counts.leave(view, guest, sign);
        self.counts.left(view, guest, sign);
        self.counts.arrive(view, guest, target, sign);
    }

    /// Has a guest that is placed gone from its host.
    pub(crate) fn gone(&mut self, guest: GuestId) {
        let view = self.view;
        self.room.left(view.fleet, &view.layout, guest, 1);
        self.room.leave(view.fleet, &view.layout, guest, -1);
        self.counts.left(view, guest, 1);
    }

    /// What is expected to travel for the guest if it goes to a host, with base images that the host has not, nor awaits.
    pub(crate) fn bytes(&self, guest: GuestId, target: HostId) -> Bytes {
        let own = self.own_bytes(guest, self.view.guest(guest).host, target);
        Bytes(own.0.saturating_add(self.brings(guest, target)))
    }

    /// What is expected to travel for the guest from one host to another, base images apart.
    pub(crate) fn own_bytes(&self, guest: GuestId, source: HostId, target: HostId) -> Bytes {
        let guest = self.view.guest(guest);
        travels(guest, capped(guest, rate(self.view.fleet, source, target)))
    }

    /// Of that, what is memory.
    pub(crate) fn memory_bytes(&self, guest: GuestId, source: HostId, target: HostId) -> u64 {
        let guest = self.view.guest(guest);
        memory(guest, capped(guest, rate(self.view.fleet, source, target)))
    }

    /// The most that may travel for the guest if it goes from one host to another: with all its base images.
    pub(crate) fn most_bytes(&self, guest: GuestId, source: HostId, target: HostId) -> u128 {
        let bases = weight(self.view.fleet, &self.view.guest(guest).bases);
        u128::from(self.own_bytes(guest, source, target).0) + u128::from(bases)
    }

    /// Bytes of the base images that the guest would bring to a host.
    pub(crate) fn brings(&self, guest: GuestId, target: HostId) -> u64 {
        let fleet = self.view.fleet;
        let missing = self.room.missing(fleet, self.view.guest(guest), target);
        weight(fleet, &missing)
    }

    /// Places an ask.
    pub(crate) fn place(&mut self, index: usize, ask: &Ask<'_>, target: HostId, pools: Vec<usize>) {
        let view = self.view;
        self.load[target.at()] += u128::from(self.bytes(ask.guest, target).0);
        let guest = view.guest(ask.guest);
        self.room
            .hold(view.fleet, &view.layout, guest, target, &pools, 1);
        self.departs(ask.guest);
        self.into[target.at()].push(index);
        self.moving.insert(ask.guest, index);
        self.counts.arrive(view, ask.guest, target, 1);
        self.arrives(ask.guest, target);
        self.placed[index] = Some(Placed { target, pools });
        self.shelve(target);
    }

    /// Takes an ask back from the board.
    pub(crate) fn remove(&mut self, index: usize, ask: &Ask<'_>) {
        let Some(placed) = self.placed[index].take() else {
            return;
        };
        let view = self.view;
        let target = placed.target;
        self.room.hold(
            view.fleet,
            &view.layout,
            view.guest(ask.guest),
            target,
            &placed.pools,
            -1,
        );
        self.stays(ask.guest);
        self.into[target.at()].retain(|other| *other != index);
        self.load[target.at()] -= u128::from(self.bytes(ask.guest, target).0);
        self.moving.remove(&ask.guest);
        self.counts.arrive(view, ask.guest, target, -1);
        let domain = view.guest(ask.guest).domain.as_str();
        if let Some(others) = self.arriving.get_mut(&(target, domain)) {
            others.retain(|other| *other != ask.guest);
        }
        self.shelve(target);
    }
}
