//! The fleet, indexed for one plan: which hosts are open, which kind of guest each can run, where names clash,
//! who is in flight, who rests.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::capacity::Layout;
use crate::fit::{Refusal, lacking};
use crate::model::{Avoid, Fleet, Guest, GuestId, HostId, Ledger, Needs, Resting, Wish};
use crate::rules::Rules;
use crate::wishes::Asked;

/// What decides whether a host can run a guest at all, apart from room. Guests of one kind can run on the same hosts.
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
        // Of them all, those that a sentence says more of.
        pending: _,
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

/// The same for the same text, in every run.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

const UNKNOWN: u32 = u32::MAX;

/// Everything the planner looks up more than once.
pub(crate) struct View<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) ledger: &'a Ledger,
    pub(crate) now: Duration,
    pub(crate) layout: Layout,
    /// All hosts, by name.
    pub(crate) by_name: Vec<HostId>,
    /// Hosts into which something may move at all, by name.
    pub(crate) open: Vec<HostId>,
    /// Each host's place in the order of names.
    pub(crate) rank: Vec<usize>,
    /// Moves in flight per host.
    pub(crate) inbound: Vec<u32>,
    /// Moves in flight per host.
    pub(crate) outbound: Vec<u32>,
    /// The rules of placements.
    pub(crate) rules: Rules<'a>,
    /// Guests that explicit moves and drains ask to leave their hosts.
    pub(crate) leave: BTreeSet<GuestId>,
    /// Guests in flight, and where to.
    flying: BTreeMap<GuestId, HostId>,
    gates: Vec<Option<Refusal>>,
    /// Each guest's kind, [`UNKNOWN`] where it is not indexed.
    kinds: Vec<u32>,
    /// For each kind each host's answer, found when it is first asked for.
    suits: Vec<Vec<Cell<Option<bool>>>>,
    /// Hashes of the UUIDs that each host defines, made when they are first asked for.
    defined: Vec<OnceCell<Box<[u64]>>>,
    rests: Vec<Option<usize>>,
    pairs: BTreeMap<(GuestId, HostId), usize>,
    namesakes: BTreeSet<GuestId>,
    resting: HashMap<GuestId, usize>,
}

impl<'a> View<'a> {
    /// Indexes the fleet for the guests that are asked for, those under rules, and those given besides.
    pub(crate) fn new(
        fleet: &'a Fleet,
        wishes: &'a [Wish],
        ledger: &'a Ledger,
        asked: &Asked<'a>,
        besides: &[GuestId],
        now: Duration,
    ) -> Self {
        let ids = (0..fleet.hosts.len() as u32).map(HostId);
        let gates: Vec<_> = ids
            .clone()
            .map(|id| gate(fleet, &asked.draining, id))
            .collect();
        let rules = Rules::new(fleet, wishes, &|host| gates[host.at()].is_none());
        let leave: BTreeSet<GuestId> = asked.asks.iter().map(|ask| ask.guest).collect();
        let mut guests: Vec<GuestId> = leave.iter().chain(besides).copied().collect();
        guests.extend(rules.all.iter().flat_map(|rule| &rule.members));
        guests.sort_unstable();
        guests.dedup();
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
                .iter()
                .copied()
                .filter(|id| gates[id.at()].is_none())
                .collect(),
            by_name,
            inbound,
            outbound,
            rules,
            leave,
            flying: ledger
                .in_flight
                .iter()
                .map(|flight| (flight.guest, flight.target))
                .collect(),
            gates,
            kinds: vec![UNKNOWN; fleet.guests.len()],
            suits: Vec::new(),
            defined: vec![OnceCell::new(); rank.len()],
            rests: vec![None; rank.len()],
            rank,
            pairs: BTreeMap::new(),
            namesakes: BTreeSet::new(),
            resting: HashMap::new(),
        };
        view.index_kinds(&guests);
        view.index_rests();
        view.index_names(&guests);
        view
    }

    fn index_kinds(&mut self, guests: &[GuestId]) {
        let mut known: BTreeMap<Kind<'a>, u32> = BTreeMap::new();
        let mut last: Option<(Kind<'a>, u32)> = None;
        for id in guests {
            let own = kind(&self.fleet.guests[id.at()]);
            // Guests of one kind are often neighbours, and to compare costs less than to look up.
            let number = match &last {
                Some((kind, number)) if *kind == own => *number,
                _ => {
                    let next = known.len() as u32;
                    *known.entry(own).or_insert(next)
                }
            };
            self.kinds[id.at()] = number;
            last = Some((own, number));
        }
        self.suits = vec![vec![Cell::new(None); self.fleet.hosts.len()]; known.len()];
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

    fn index_names(&mut self, guests: &[GuestId]) {
        let flying = self.flying.keys().copied();
        let mut all: Vec<GuestId> = guests.iter().copied().chain(flying).collect();
        all.sort_unstable();
        all.dedup();
        let mut domains: HashMap<&str, GuestId> = HashMap::with_capacity(all.len());
        for id in all {
            if let Some(other) = domains.insert(&self.fleet.guests[id.at()].domain, id) {
                self.namesakes.extend([other, id]);
            }
        }
    }

    /// Why nothing may move into the host.
    pub(crate) fn gate(&self, host: HostId) -> Option<Refusal> {
        self.gates[host.at()]
    }

    /// Guests of one kind can run on the same hosts.
    pub(crate) fn kind(&self, guest: GuestId) -> u32 {
        self.kinds[guest.at()]
    }

    /// Whether the host has all that the guest needs, apart from room. Only for guests that are indexed.
    pub(crate) fn suits(&self, guest: GuestId, host: HostId) -> bool {
        let Some(answers) = self.suits.get(self.kinds[guest.at()] as usize) else {
            return false;
        };
        let answer = &answers[host.at()];
        answer.get().unwrap_or_else(|| {
            let suits = !lacking(self.guest(guest), self.host(host), &mut |_| false);
            answer.set(Some(suits));
            suits
        })
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
        let guest = self.guest(guest);
        if guest.host == host {
            return None;
        }
        let domains = &self.host(host).domains;
        let named = domains.get(guest.domain.as_str());
        if named.is_some_and(|uuid| *uuid != guest.uuid) {
            return Some(Refusal::NameTaken);
        }
        let there = || domains.values().any(|uuid| *uuid == guest.uuid);
        (self.may_define(&guest.uuid, host) && there()).then_some(Refusal::DefinedThere)
    }

    /// Whether a glance at hashes does not rule out that the host defines the UUID.
    fn may_define(&self, uuid: &str, host: HostId) -> bool {
        let defined = self.defined[host.at()].get_or_init(|| {
            let uuids = self.host(host).domains.values();
            let mut hashes: Vec<u64> = uuids.map(|uuid| hash(uuid)).collect();
            hashes.sort_unstable();
            hashes.into_boxed_slice()
        });
        defined.binary_search(&hash(uuid)).is_ok()
    }

    /// Whether another guest that moves, or may, has the same domain name.
    pub(crate) fn has_namesake(&self, guest: GuestId) -> bool {
        !self.namesakes.is_empty() && self.namesakes.contains(&guest)
    }

    /// Whether the guest is in flight.
    pub(crate) fn flies(&self, guest: GuestId) -> bool {
        self.flying.contains_key(&guest)
    }

    /// Where the guest is, or where it goes if it is in flight.
    pub(crate) fn bound(&self, guest: GuestId) -> HostId {
        let target = self.flying.get(&guest).copied();
        target.unwrap_or(self.guest(guest).host)
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
