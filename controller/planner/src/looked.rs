//! Whether hosts could be emptied, asked again after a change: only of those whose answer may be another.
//!
//! The answer for a host whose guests find places on the hosts that come next by name follows from these hosts alone
//! (`drainable`). Where nothing of them has changed it stands. Every other host is asked anew, so that all answers are those that
//! [`drainable`](crate::drainable()) gives.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_crds::names::GuestName;

use crate::drainable::{binding, find, make_way};
use crate::model::{Drainable, Fleet, Guest, GuestId, HostId, InFlight, Ledger, What, Wish};
use crate::wishes;

/// The fleet as it was at the last look, and how far each answer reached.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    fleet: Fleet,
    ledger: Ledger,
    now: Duration,
    draining: BTreeSet<HostId>,
    placements: Vec<Wish>,
    /// For each host how many of the next by name its answer follows from; none: from anything.
    reach: Vec<Option<usize>>,
    asked: usize,
}

impl Looked {
    /// Looks at every host of the fleet, as [`drainable`](crate::drainable()) does, and keeps what the next look needs.
    #[must_use]
    pub fn again(
        &self,
        fleet: Fleet,
        wishes: &[Wish],
        ledger: Ledger,
        now: Duration,
    ) -> (Self, Vec<Drainable>) {
        let binding = binding(wishes);
        let placements = binding.iter();
        let placements = placements.filter(|wish| matches!(wish.what, What::Place(_)));
        let mut next = Self {
            draining: wishes::sort(&fleet, &binding, &ledger).draining,
            placements: placements.cloned().collect(),
            reach: Vec::new(),
            fleet,
            ledger,
            now,
            asked: 0,
        };
        let stands = self.stands(&next);
        let ids = (0..next.fleet.hosts.len() as u32).map(HostId);
        let mut told: Vec<Drainable> = ids
            .map(|host| Drainable {
                host,
                blockers: Vec::new(),
                making_way: 0,
            })
            .collect();
        let again = told.iter_mut().filter(|told| !stands[told.host.at()]);
        let mut again: Vec<&mut Drainable> = again.collect();
        let hosts: Vec<HostId> = again.iter().map(|told| told.host).collect();
        let groups: Vec<&[HostId]> = hosts.iter().map(std::slice::from_ref).collect();
        let found = find(&next.fleet, &binding, &next.ledger, &groups, now);
        next.reach = self.kept(&stands);
        for (told, found) in again.iter_mut().zip(found) {
            next.reach[told.host.at()] = found.reach;
            told.blockers = found.blockers;
        }
        next.asked = hosts.len();
        make_way(&next.fleet, &binding, &next.ledger, &mut told, now);
        (next, told)
    }

    /// The fleet as it was at this look.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// How many hosts were asked at this look.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// What is known already of hosts whose answers stand.
    fn kept(&self, stands: &[bool]) -> Vec<Option<usize>> {
        let known =
            |(host, stands): (usize, &bool)| self.reach.get(host).copied()?.filter(|_| *stands);
        stands.iter().enumerate().map(known).collect()
    }

    /// For each host whether its answer is what it was.
    fn stands(&self, next: &Self) -> Vec<bool> {
        let all = next.fleet.hosts.len();
        let names = |looked: &'_ Self| -> Vec<GuestName> {
            let guests = looked.fleet.guests.iter();
            guests.map(|guest| guest.name.clone()).collect()
        };
        let hosts = self.fleet.hosts.iter().zip(&next.fleet.hosts);
        let comparable = self.fleet.hosts.len() == all
            && hosts.clone().all(|(one, other)| one.name == other.name)
            && self.fleet.bases == next.fleet.bases
            && self.draining == next.draining
            && self.placements == next.placements
            // Placements name guests by their places.
            && (self.placements.is_empty() || names(self) == names(next));
        if !comparable {
            return vec![false; all];
        }
        let mut changed: Vec<bool> = hosts.map(|(one, other)| one != other).collect();
        let (before, now) = (self.guests(), next.guests());
        for host in 0..all {
            changed[host] |= !before[host].iter().eq(&now[host]);
        }
        let (before, now) = (self.flights(), next.flights());
        let flights = before.iter().chain(&now);
        for (_, flight) in flights.filter(|one| !before.contains(one) || !now.contains(one)) {
            changed[flight.source.at()] = true;
            changed[flight.target.at()] = true;
        }
        for (_, host) in self.avoided().symmetric_difference(&next.avoided()) {
            changed[host.at()] = true;
        }
        let mut by_name: Vec<usize> = (0..all).collect();
        by_name.sort_by_key(|host| &next.fleet.hosts[*host].name);
        let mut stands = vec![false; all];
        for (rank, host) in by_name.iter().enumerate() {
            stands[*host] = self.reach[*host].is_some_and(|reach| {
                let mut near = (rank..=rank + reach).map(|rank| by_name[rank % all]);
                near.all(|host| !changed[host])
            });
        }
        stands
    }

    /// For each host its guests, by name.
    fn guests(&self) -> Vec<Vec<Facts<'_>>> {
        let mut guests: Vec<Vec<Facts<'_>>> = vec![Vec::new(); self.fleet.hosts.len()];
        for guest in &self.fleet.guests {
            guests[guest.host.at()].push(Facts(guest));
        }
        guests
    }

    fn guest(&self, id: GuestId) -> &Guest {
        &self.fleet.guests[id.at()]
    }

    /// What is in flight, by the guest's name and its domain's, but for the time that is left.
    fn flights(&self) -> Vec<((&GuestName, &str), InFlight)> {
        let flights = self.ledger.in_flight.iter().map(|flight| {
            let guest = self.guest(flight.guest);
            let flight = InFlight {
                guest: GuestId(0),
                remaining: None,
                ..flight.clone()
            };
            ((&guest.name, guest.domain.as_str()), flight)
        });
        flights.collect()
    }

    /// Hosts that rest, and for whom.
    fn avoided(&self) -> BTreeSet<(Option<&GuestName>, HostId)> {
        let avoided = self.ledger.avoid.iter();
        let avoided = avoided.filter(|avoid| avoid.until > self.now);
        let name = |id: GuestId| &self.guest(id).name;
        avoided
            .map(|avoid| (avoid.guest.map(name), avoid.host))
            .collect()
    }
}

/// What of a guest has a say: neither its id nor what is measured.
#[derive(Clone, Copy)]
struct Facts<'a>(&'a Guest);

impl PartialEq for Facts<'_> {
    fn eq(&self, other: &Self) -> bool {
        let Guest {
            name,
            domain,
            uuid,
            labels: _,
            host: _,
            active,
            immovable,
            held,
            evacuation,
            cpu_milli,
            memory,
            overhead: _,
            disks,
            bases,
            load: _,
            dirty_rate: _,
            bandwidth: _,
            priority,
            needs,
        } = self.0;
        let other = other.0;
        let why = (&other.immovable, &other.held, &other.evacuation);
        (name, domain, uuid) == (&other.name, &other.domain, &other.uuid)
            && (*active, *cpu_milli, *memory) == (other.active, other.cpu_milli, other.memory)
            && (immovable, held, evacuation) == why
            && (disks, bases) == (&other.disks, &other.bases)
            && (priority, needs) == (&other.priority, &other.needs)
    }
}
