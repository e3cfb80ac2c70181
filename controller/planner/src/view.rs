//! The fleet, indexed for one plan: which hosts are open, which kind of guest each can run, where names clash,
//! who is in flight, who rests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::capacity::Layout;
use crate::fit::{Refusal, lacking};
use crate::model::{Avoid, Fleet, Guest, GuestId, HostId, Ledger, Needs, Resting};

/// What decides whether a host can run a guest at all, apart from room.
type Kind<'a> = (
    bool,
    Option<&'a str>,
    [u32; 3],
    &'a str,
    &'a str,
    [&'a BTreeSet<String>; 3],
    &'a BTreeMap<String, String>,
);

fn kind(guest: &Guest) -> Kind<'_> {
    let Needs {
        cpu,
        hypervisor,
        emulator,
        machine,
        networks,
        bridges,
        nwfilters,
        storage,
    } = &guest.needs;
    (
        guest.active,
        cpu.as_deref(),
        *hypervisor,
        emulator,
        machine,
        [networks, bridges, nwfilters],
        storage,
    )
}

/// Everything the planner looks up more than once.
pub(crate) struct View<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) ledger: &'a Ledger,
    pub(crate) now: Duration,
    pub(crate) layout: Layout,
    /// Hosts into which something may move at all, by name.
    pub(crate) open: Vec<HostId>,
    /// Each host's place in the order of names.
    pub(crate) rank: Vec<usize>,
    /// Moves in flight per host.
    pub(crate) inbound: Vec<u32>,
    /// Moves in flight per host.
    pub(crate) outbound: Vec<u32>,
    gates: Vec<Option<Refusal>>,
    kinds: HashMap<GuestId, usize>,
    suits: Vec<Vec<bool>>,
    rests: Vec<Option<usize>>,
    pairs: BTreeMap<(GuestId, HostId), usize>,
    clashes: BTreeMap<(GuestId, HostId), Refusal>,
    namesakes: BTreeSet<GuestId>,
    resting: HashMap<GuestId, usize>,
}

impl<'a> View<'a> {
    /// Indexes the fleet for these guests.
    pub(crate) fn new(
        fleet: &'a Fleet,
        ledger: &'a Ledger,
        draining: &BTreeSet<HostId>,
        guests: &BTreeSet<GuestId>,
        now: Duration,
    ) -> Self {
        let ids = (0..fleet.hosts.len() as u32).map(HostId);
        let gates: Vec<_> = ids.clone().map(|id| gate(fleet, draining, id)).collect();
        let mut by_name: Vec<HostId> = ids.collect();
        by_name.sort_by(|one, other| {
            fleet.hosts[one.at()]
                .name
                .cmp(&fleet.hosts[other.at()].name)
        });
        let mut rank = vec![0; by_name.len()];
        for (place, id) in by_name.iter().enumerate() {
            rank[id.at()] = place;
        }
        let mut inbound = vec![0; rank.len()];
        let mut outbound = vec![0; rank.len()];
        for flight in &ledger.in_flight {
            inbound[flight.target.at()] += 1;
            outbound[flight.source.at()] += 1;
        }
        let mut view = Self {
            fleet,
            ledger,
            now,
            layout: Layout::new(fleet),
            open: by_name
                .into_iter()
                .filter(|id| gates[id.at()].is_none())
                .collect(),
            inbound,
            outbound,
            gates,
            kinds: HashMap::new(),
            suits: Vec::new(),
            rests: vec![None; rank.len()],
            rank,
            pairs: BTreeMap::new(),
            clashes: BTreeMap::new(),
            namesakes: BTreeSet::new(),
            resting: HashMap::new(),
        };
        view.index_kinds(guests);
        view.index_rests();
        view.index_names(guests);
        view
    }

    fn index_kinds(&mut self, guests: &BTreeSet<GuestId>) {
        let mut known: BTreeMap<Kind<'a>, usize> = BTreeMap::new();
        for id in guests {
            let guest = &self.fleet.guests[id.at()];
            let kind = *known.entry(kind(guest)).or_insert_with(|| {
                let suits = |host| !lacking(guest, host, &mut |_| false);
                self.suits
                    .push(self.fleet.hosts.iter().map(suits).collect());
                self.suits.len() - 1
            });
            self.kinds.insert(*id, kind);
        }
    }

    fn index_rests(&mut self) {
        let ledger = self.ledger;
        for (index, avoid) in ledger.avoid.iter().enumerate() {
            if avoid.until <= self.now {
                continue;
            }
            let later = |known: usize| (ledger.avoid[known].until < avoid.until).then_some(index);
            match avoid.guest {
                None => {
                    let known = &mut self.rests[avoid.host.at()];
                    *known = known.map_or(Some(index), |known| later(known).or(Some(known)));
                }
                Some(guest) => {
                    let known = self.pairs.entry((guest, avoid.host)).or_insert(index);
                    *known = later(*known).unwrap_or(*known);
                }
            }
        }
        for (index, resting) in ledger.resting.iter().enumerate() {
            if resting.until <= self.now {
                continue;
            }
            let known = self.resting.entry(resting.guest).or_insert(index);
            if ledger.resting[*known].until < resting.until {
                *known = index;
            }
        }
    }

    fn index_names(&mut self, guests: &BTreeSet<GuestId>) {
        let fleet = self.fleet;
        let mut domains: HashMap<&str, Vec<GuestId>> = HashMap::new();
        let mut uuids: HashMap<&str, Vec<GuestId>> = HashMap::new();
        let flying = self.ledger.in_flight.iter().map(|flight| flight.guest);
        let all: BTreeSet<GuestId> = guests.iter().copied().chain(flying).collect();
        for id in all {
            let guest = &fleet.guests[id.at()];
            let same = domains.entry(&guest.domain).or_default();
            same.push(id);
            if same.len() > 1 {
                self.namesakes.extend(same.iter());
            }
            uuids.entry(&guest.uuid).or_default().push(id);
        }
        for (host, at) in fleet.hosts.iter().zip(0..) {
            let host_id = HostId(at);
            for (name, uuid) in &host.domains {
                let elsewhere = |id: &&GuestId| fleet.guests[id.at()].host != host_id;
                let named = domains.get(name.as_str()).into_iter().flatten();
                for id in named.filter(elsewhere) {
                    if fleet.guests[id.at()].uuid != *uuid {
                        self.clashes.insert((*id, host_id), Refusal::NameTaken);
                    }
                }
                let same = uuids.get(uuid.as_str()).into_iter().flatten();
                for id in same.filter(elsewhere) {
                    self.clashes
                        .entry((*id, host_id))
                        .or_insert(Refusal::DefinedThere);
                }
            }
        }
    }

    /// Why nothing may move into the host.
    pub(crate) fn gate(&self, host: HostId) -> Option<Refusal> {
        self.gates[host.at()]
    }

    /// Whether the host has all that the guest needs, apart from room. Only for guests that are indexed.
    pub(crate) fn suits(&self, guest: GuestId, host: HostId) -> bool {
        match self.kinds.get(&guest) {
            Some(kind) => self.suits[*kind][host.at()],
            None => false,
        }
    }

    /// What keeps the guest, or every guest, away from the host for a while.
    pub(crate) fn avoids(&self, guest: GuestId, host: HostId) -> Option<&'a Avoid> {
        let pair = || self.pairs.get(&(guest, host)).copied();
        let index =
            self.rests[host.at()].or_else(|| if self.pairs.is_empty() { None } else { pair() })?;
        self.ledger.avoid.get(index)
    }

    /// Whether a domain there has the guest's name or UUID.
    pub(crate) fn clash(&self, guest: GuestId, host: HostId) -> Option<Refusal> {
        if self.clashes.is_empty() {
            return None;
        }
        self.clashes.get(&(guest, host)).copied()
    }

    /// Whether another guest that moves, or may, has the same domain name.
    pub(crate) fn has_namesake(&self, guest: GuestId) -> bool {
        !self.namesakes.is_empty() && self.namesakes.contains(&guest)
    }

    /// What the guest rests after.
    pub(crate) fn rest(&self, guest: GuestId) -> Option<&'a Resting> {
        self.ledger.resting.get(*self.resting.get(&guest)?)
    }

    /// The guest.
    pub(crate) fn guest(&self, id: GuestId) -> &'a Guest {
        &self.fleet.guests[id.at()]
    }

    /// The host.
    pub(crate) fn host(&self, id: HostId) -> &'a crate::model::Host {
        &self.fleet.hosts[id.at()]
    }
}

fn gate(fleet: &Fleet, draining: &BTreeSet<HostId>, id: HostId) -> Option<Refusal> {
    let host = &fleet.hosts[id.at()];
    if host.out_of_reach.is_some() {
        Some(Refusal::OutOfReach)
    } else if host.closed.is_some() {
        Some(Refusal::Closed)
    } else if draining.contains(&id) {
        Some(Refusal::Draining)
    } else if host.max_inbound == 0 {
        Some(Refusal::NoSlots)
    } else {
        None
    }
}
