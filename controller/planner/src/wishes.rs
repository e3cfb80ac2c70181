//! What is asked for, in the order in which it is served: explicit moves, then drains; the guests of each by priority,
//! larger ones first, then by name. The order in which wishes come makes no difference.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::explain;
use crate::model::{
    Fleet, Guest, GuestId, HostId, InFlight, Ledger, Rejection, Satisfied, What, Wish,
};
use crate::rules::Strictness;

/// One guest that is to go somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    /// Who asks.
    pub(crate) by: &'a RequestedBy,
    /// Who else asks the same: other drains of the host. They hear of a refusal too.
    pub(crate) also: Vec<&'a RequestedBy>,
    pub(crate) guest: GuestId,
    pub(crate) target: Option<HostId>,
    /// Pools for single disks.
    pub(crate) overrides: &'a BTreeMap<String, String>,
    pub(crate) kind: For,
    pub(crate) strictness: Strictness,
    /// The guest of a drain that this one makes way for.
    pub(crate) room_for: Option<GuestId>,
}

/// What a guest is to be moved for. What comes first is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum For {
    /// A move that somebody asked for.
    Explicit,
    /// A host that shall be empty.
    Drain,
    /// A placement that it breaks.
    Placement,
    /// A guest of a drain that has no room otherwise.
    Room,
    /// A host that is fuller than others.
    Balance,
}

/// The limit of one drain on its moves at once.
#[derive(Debug, Clone)]
pub(crate) struct Limit<'a> {
    pub(crate) by: &'a RequestedBy,
    pub(crate) hosts: &'a BTreeSet<HostId>,
    /// Whether it moves guests that are not running.
    pub(crate) stopped: bool,
    pub(crate) parallel: u32,
    /// Guests that it leaves alone.
    pub(crate) leaves: &'a BTreeMap<GuestId, Cause>,
    /// Why it starts nothing.
    pub(crate) halted: Option<&'a Cause>,
}

/// All that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    /// What is to be placed, in order.
    pub(crate) asks: Vec<Ask<'a>>,
    /// What is refused whatever the plan says.
    pub(crate) refused: Vec<Rejection>,
    /// What is refused unless another wish moves the guest.
    pub(crate) stuck: Vec<Rejection>,
    pub(crate) satisfied: Vec<Satisfied>,
    /// Hosts that a drain empties: nothing moves in.
    pub(crate) draining: BTreeSet<HostId>,
    pub(crate) limits: Vec<Limit<'a>>,
}

pub(crate) static NO_OVERRIDES: BTreeMap<String, String> = BTreeMap::new();

/// Of a limit that leaves nobody alone.
pub(crate) static NOBODY: BTreeMap<GuestId, Cause> = BTreeMap::new();

/// The hosts of a limit that is not about hosts.
pub(crate) static NO_HOSTS: BTreeSet<HostId> = BTreeSet::new();

/// Sorts what is asked for.
pub(crate) fn sort<'a>(fleet: &'a Fleet, wishes: &'a [Wish], ledger: &'a Ledger) -> Asked<'a> {
    let mut sorted: Vec<&Wish> = wishes.iter().collect();
    sorted.sort_by(|one, other| one.by.cmp(&other.by));
    let mut flights: BTreeMap<GuestId, &InFlight> = BTreeMap::new();
    for flight in &ledger.in_flight {
        flights.entry(flight.guest).or_insert(flight);
    }
    let mut asked = Asked::default();
    for wish in &sorted {
        if let What::Drain {
            hosts,
            stopped,
            parallel,
            leaves,
            halted,
            ..
        } = &wish.what
        {
            asked.draining.extend(hosts);
            asked.limits.push(Limit {
                by: &wish.by,
                hosts,
                stopped: *stopped,
                parallel: *parallel,
                leaves,
                halted: halted.as_ref(),
            });
        }
    }
    for wish in &sorted {
        asked.explicit(fleet, wish, &flights);
    }
    asked.drains(fleet, &flights);
    let order = |ask: &Ask<'a>| {
        let guest = &fleet.guests[ask.guest.at()];
        let key = (ask.kind, Reverse(guest.priority), Reverse(size(guest)));
        (key, guest.name.as_str(), ask.target.is_none(), ask.by)
    };
    asked
        .asks
        .sort_by(|one, other| order(one).cmp(&order(other)));
    asked
}

/// What makes a guest larger than another: memory, then disks, then CPU.
pub(crate) fn size(guest: &Guest) -> (u64, u128, u64) {
    let disks = guest.disks.iter();
    (
        guest.memory.0,
        disks.map(|disk| u128::from(disk.virtual_size.0)).sum(),
        guest.cpu_milli,
    )
}

impl<'a> Asked<'a> {
    fn explicit(
        &mut self,
        fleet: &'a Fleet,
        wish: &'a Wish,
        flights: &BTreeMap<GuestId, &InFlight>,
    ) {
        let What::Move {
            guest: id,
            target,
            pools,
            ..
        } = &wish.what
        else {
            return;
        };
        let guest = &fleet.guests[id.at()];
        let refused = if let Some(flight) = flights.get(id) {
            if flight.by.as_ref() == Some(&wish.by) {
                return;
            }
            Some(explain::busy(fleet, flight))
        } else if *target == Some(guest.host) {
            self.satisfied.push(Satisfied {
                by: wish.by.clone(),
                guest: Some(*id),
                cause: explain::already_there(fleet, guest),
            });
            return;
        } else {
            at_source(fleet, guest).or_else(|| guest.immovable.clone())
        };
        match refused {
            Some(cause) => self.refused.push(rejection(&wish.by, *id, cause)),
            None => self.asks.push(Ask {
                by: &wish.by,
                also: Vec::new(),
                guest: *id,
                target: *target,
                overrides: pools,
                kind: For::Explicit,
                strictness: Strictness::default(),
                room_for: None,
            }),
        }
    }

    fn drains(&mut self, fleet: &'a Fleet, flights: &BTreeMap<GuestId, &InFlight>) {
        let covering = covering(fleet, &self.limits);
        let mut left: BTreeSet<HostId> = BTreeSet::new();
        for (guest, id) in fleet.guests.iter().zip((0..).map(GuestId)) {
            let drains = &covering[guest.host.at()];
            if drains.is_empty() {
                continue;
            }
            // One drain that moves stopped guests is enough.
            if guest.active || drains.iter().any(|index| self.limits[*index].stopped) {
                left.insert(guest.host);
                self.drain(fleet, id, drains, flights.get(&id).copied());
            }
        }
        for flight in flights.values() {
            left.insert(flight.source);
            left.insert(flight.target);
        }
        for limit in &self.limits {
            let unknown = |host: &HostId| fleet.hosts[host.at()].out_of_reach.is_some();
            let done = !limit.hosts.is_empty() && limit.hosts.is_disjoint(&left);
            if done && !limit.hosts.iter().any(unknown) {
                self.satisfied.push(Satisfied {
                    by: limit.by.clone(),
                    guest: None,
                    cause: explain::emptied(fleet, limit.hosts),
                });
            }
        }
    }

    fn drain(
        &mut self,
        fleet: &'a Fleet,
        id: GuestId,
        drains: &[usize],
        flight: Option<&InFlight>,
    ) {
        let guest = &fleet.guests[id.at()];
        if let Some(flight) = flight {
            for limit in drains.iter().map(|index| &self.limits[*index]) {
                if flight.by.as_ref() != Some(limit.by) {
                    let cause = explain::busy(fleet, flight);
                    self.refused.push(rejection(limit.by, id, cause));
                }
            }
            return;
        }
        let own = remains(fleet, guest);
        let mut asks: Vec<&'a RequestedBy> = Vec::new();
        for limit in drains.iter().map(|index| &self.limits[*index]) {
            let parallel = || (limit.parallel == 0).then(|| explain::no_parallel(limit.by));
            let left = || limit.leaves.get(&id).cloned();
            let cause = limit.halted.cloned().or_else(left).or_else(|| own.clone());
            match cause.or_else(parallel) {
                Some(cause) => self.stuck.push(rejection(limit.by, id, cause)),
                None => asks.push(limit.by),
            }
        }
        let closed = drains
            .iter()
            .map(|index| &self.limits[*index])
            .find(|limit| limit.parallel == 0);
        if let Some((by, also)) = asks.split_first() {
            if let Some(closed) = closed {
                // The smallest limit of several drains counts, and this one lets nothing start.
                let cause = explain::no_parallel(closed.by);
                for by in asks {
                    self.stuck.push(rejection(by, id, cause.clone()));
                }
                return;
            }
            self.asks.push(Ask {
                by,
                also: also.to_vec(),
                guest: id,
                target: None,
                overrides: &NO_OVERRIDES,
                kind: For::Drain,
                strictness: Strictness::default(),
                room_for: None,
            });
        }
    }
}

/// For each host the drains that empty it.
pub(crate) fn covering(fleet: &Fleet, limits: &[Limit<'_>]) -> Vec<Vec<usize>> {
    let mut covering = vec![Vec::new(); fleet.hosts.len()];
    for (index, limit) in limits.iter().enumerate() {
        for host in limit.hosts {
            covering[host.at()].push(index);
        }
    }
    covering
}

/// Why the guest is left where it is by all but explicit moves.
pub(crate) fn stays(fleet: &Fleet, guest: &Guest) -> Option<Cause> {
    at_source(fleet, guest)
        .or_else(|| guest.immovable.clone())
        .or_else(|| guest.held.clone())
}

/// Why no drain moves the guest.
pub(crate) fn remains(fleet: &Fleet, guest: &Guest) -> Option<Cause> {
    stays(fleet, guest).or_else(|| guest.evacuation.clone())
}

/// Why nothing leaves the guest's host.
pub(crate) fn at_source(fleet: &Fleet, guest: &Guest) -> Option<Cause> {
    let host = &fleet.hosts[guest.host.at()];
    let shut = || {
        let message = format!(
            "nothing may leave {} for {}: its maxOutbound is 0",
            host.name, guest.name
        );
        Cause::new(Reason::SlotsTaken, message).hint("raise `migration.maxOutbound` of the host")
    };
    let cause = host.out_of_reach.clone();
    cause.or_else(|| (host.max_outbound == 0).then(shut))
}

/// A refusal that is not about hosts.
pub(crate) fn rejection(by: &RequestedBy, guest: GuestId, cause: Cause) -> Rejection {
    Rejection {
        by: by.clone(),
        guest,
        cause,
        hosts: Vec::new(),
    }
}
