//! How full each host is before a plan and after it, and with which guests.

use std::{
    collections::BTreeSet,
    ops::{AddAssign, SubAssign},
};

use evenkeel_engine::Question;
use evenkeel_planner::{Guest, GuestId, Host, HostId, What};
use serde::Serialize;

/// What guests take of a host, or what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amounts {
    /// Thousandths of a CPU, promised.
    pub cpu_milli: u64,
    /// Bytes of memory, promised.
    pub memory: u64,
    /// Bytes of disk, occupied.
    pub disk: u64,
}

impl Amounts {
    /// What a guest takes where it is. One that does not run takes neither CPU nor memory.
    #[must_use]
    pub fn of(guest: &Guest) -> Self {
        let disk = guest.disks.iter().map(|disk| disk.allocated.0);
        Self {
            cpu_milli: if guest.active { guest.cpu_milli } else { 0 },
            memory: if guest.active { guest.memory.0 } else { 0 },
            disk: disk.sum(),
        }
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory = self.memory.saturating_add(other.memory);
        self.disk = self.disk.saturating_add(other.disk);
    }
}

impl SubAssign for Amounts {
    fn sub_assign(&mut self, other: Self) {
        self.cpu_milli = self.cpu_milli.saturating_sub(other.cpu_milli);
        self.memory = self.memory.saturating_sub(other.memory);
        self.disk = self.disk.saturating_sub(other.disk);
    }
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// It is to be empty.
    pub drained: bool,
    /// Nothing can be done with it now.
    pub out_of_reach: bool,
    /// What may be promised, and for disks what there is.
    pub limit: Amounts,
    /// Now.
    pub before: Side,
    /// In the end.
    pub after: Side,
}

/// A host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// All that is taken.
    pub used: Amounts,
    /// By whom, those that stay first.
    pub guests: Vec<Block>,
}

/// A guest on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub guest: String,
    /// What it takes.
    pub takes: Amounts,
    /// Where it goes, or comes from.
    pub other: Option<String>,
}

impl Standing {
    /// Whether anything comes or goes.
    #[must_use]
    pub fn changes(&self) -> bool {
        let guests = self.before.guests.iter().chain(&self.after.guests);
        guests.into_iter().any(|block| block.other.is_some())
    }
}

/// Every host, before and after these moves (guest, source, target) and those in flight.
#[must_use]
pub fn standings(question: &Question, moves: &[(GuestId, HostId, HostId)]) -> Vec<Standing> {
    let fleet = &question.fleet;
    let drained: BTreeSet<HostId> = question
        .wishes
        .iter()
        .filter_map(|wish| match &wish.what {
            What::Drain { hosts, .. } => Some(hosts),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    let mut all: Vec<Standing> = (0..)
        .map(HostId)
        .zip(&fleet.hosts)
        .map(|(id, host)| {
            let used = used(host);
            Standing {
                name: host.name.to_string(),
                drained: drained.contains(&id),
                out_of_reach: host.out_of_reach.is_some(),
                limit: limit(host),
                before: Side {
                    used,
                    guests: Vec::new(),
                },
                after: Side {
                    used,
                    guests: Vec::new(),
                },
            }
        })
        .collect();
    let flights = question.ledger.in_flight.iter();
    let flights = flights.map(|flight| (flight.guest, flight.source, flight.target));
    let mut ways: Vec<Option<(HostId, HostId)>> = vec![None; fleet.guests.len()];
    for (guest, source, target) in flights.chain(moves.iter().copied()) {
        if let Some(way) = ways.get_mut(guest.at()) {
            // A guest that moves twice comes from where it was at first.
            let from = way.map_or(source, |(from, _)| from);
            *way = Some((from, target));
        }
    }
    let name = |id: HostId| {
        let host = fleet.hosts.get(id.at());
        host.map(|host| host.name.to_string())
    };
    for moved in [false, true] {
        for (guest, way) in fleet.guests.iter().zip(&ways) {
            let way = way.filter(|(from, to)| from != to);
            if way.is_some() != moved {
                continue;
            }
            let takes = Amounts::of(guest);
            let block = |other: Option<HostId>| Block {
                guest: guest.name.to_string(),
                takes,
                other: other.and_then(name),
            };
            let (from, to) = way.unwrap_or((guest.host, guest.host));
            if let Some(host) = all.get_mut(from.at()) {
                host.limit.disk = host.limit.disk.saturating_add(takes.disk);
                host.before.used.disk += takes.disk;
                host.after.used.disk += takes.disk;
                host.before.guests.push(block(way.map(|_| to)));
                if moved {
                    host.after.used -= takes;
                }
            }
            if let Some(host) = all.get_mut(to.at()) {
                host.after.guests.push(block(way.map(|_| from)));
                if moved {
                    host.after.used += takes;
                }
            }
        }
    }
    all
}

fn used(host: &Host) -> Amounts {
    Amounts {
        cpu_milli: host.cpu_used_milli,
        memory: host.memory_used.0,
        disk: 0,
    }
}

/// Of disks only what is free: what guests occupy is added with them.
fn limit(host: &Host) -> Amounts {
    let mut budgets = BTreeSet::new();
    let open = host.pools.iter().filter(|pool| pool.closed.is_none());
    let free = open.filter(|pool| budgets.insert(pool.budget));
    Amounts {
        cpu_milli: host.cpu_limit_milli,
        memory: host.memory_limit.0,
        disk: free.map(|pool| pool.available.0).sum(),
    }
}
