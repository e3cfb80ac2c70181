//! The part of the checker that looks at placements: an account of its own of who is where.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_planner::*;

/// Where every guest is during the replay.
#[derive(Clone)]
pub struct Whereabouts {
    /// Every host that has the guest, both ends of a move.
    present: Vec<BTreeSet<usize>>,
    /// Where it will be when all moves that have begun have ended.
    bound: Vec<usize>,
}

type Domains<'a> = BTreeMap<&'a str, i64>;

fn domain<'a>(fleet: &'a Fleet, placement: &Placement, key: &str, host: usize) -> Option<&'a str> {
    let id = HostId(host as u32);
    if placement
        .hosts
        .as_ref()
        .is_some_and(|hosts| !hosts.contains(&id))
    {
        return None;
    }
    let host = &fleet.hosts[host];
    if key == "evenkeel.dev/host" {
        return Some(host.name.as_str());
    }
    host.labels.get(key).map(String::as_str)
}

fn takes_guests(fleet: &Fleet, wishes: &[Wish], host: usize) -> bool {
    let facts = &fleet.hosts[host];
    let drained = wishes.iter().any(|wish| match &wish.what {
        What::Drain { hosts, .. } => hosts.contains(&HostId(host as u32)),
        _ => false,
    });
    !drained && facts.out_of_reach.is_none() && facts.closed.is_none() && facts.max_inbound > 0
}

impl Whereabouts {
    pub fn new(fleet: &Fleet, ledger: &Ledger) -> Self {
        let mut all = Self {
            present: Vec::new(),
            bound: Vec::new(),
        };
        for guest in &fleet.guests {
            all.present.push(BTreeSet::from([guest.host.at()]));
            all.bound.push(guest.host.at());
        }
        for flight in &ledger.in_flight {
            all.present[flight.guest.at()].insert(flight.target.at());
            all.bound[flight.guest.at()] = flight.target.at();
        }
        all
    }

    pub fn arrive(&mut self, guest: usize, target: usize) {
        self.present[guest].insert(target);
        self.bound[guest] = target;
    }

    pub fn leave(&mut self, guest: usize, source: usize) {
        if self.bound[guest] != source {
            self.present[guest].remove(&source);
        }
    }

    fn count<'a>(&self, fleet: &'a Fleet, placement: &Placement, key: &str) -> Domains<'a> {
        let mut counts = Domains::new();
        for host in 0..fleet.hosts.len() {
            if let Some(domain) = domain(fleet, placement, key, host) {
                counts.entry(domain).or_default();
            }
        }
        for guest in &placement.guests {
            let at = self.bound[guest.at()];
            if fleet.guests[guest.at()].active
                && let Some(domain) = domain(fleet, placement, key, at)
            {
                *counts.entry(domain).or_default() += 1;
            }
        }
        counts
    }

    fn skew(&self, fleet: &Fleet, wishes: &[Wish], placement: &Placement, key: &str) -> i64 {
        let counts = self.count(fleet, placement, key);
        let open: BTreeSet<&str> = (0..fleet.hosts.len())
            .filter(|host| takes_guests(fleet, wishes, *host))
            .filter_map(|host| domain(fleet, placement, key, host))
            .collect();
        let least = counts.iter().filter(|(name, _)| open.contains(*name));
        let most = counts.values().max().copied().unwrap_or(0);
        most - least.map(|(_, count)| *count).min().unwrap_or(most)
    }

    /// What required placements have against the move's start.
    pub fn forbid(&self, fleet: &Fleet, wishes: &[Wish], step: &Move) -> Result<(), String> {
        let guest = &fleet.guests[step.guest.at()];
        for (name, placement) in required(wishes) {
            if !placement.guests.contains(&step.guest) {
                continue;
            }
            let wrong = |what: &str| Err(format!("{what} of {name} broken by {}", guest.name));
            let eligible = |host: &HostId| {
                let hosts = placement.hosts.as_ref();
                hosts.is_none_or(|hosts| hosts.contains(host))
            };
            if !eligible(&step.target) {
                // Who stops over may be for a while longer where it does not belong.
                if step.onward.is_some() && !eligible(&step.source) {
                    continue;
                }
                return wrong("hosts");
            }
            let keys = [
                placement.spread.as_ref().map(|spread| &spread.topology_key),
                placement.apart.as_ref(),
                placement.together.as_ref(),
            ];
            for key in keys.into_iter().flatten() {
                let nowhere = |host: HostId| domain(fleet, placement, key, host.at()).is_none();
                if nowhere(step.target) && !(step.onward.is_some() && nowhere(step.source)) {
                    return wrong("key");
                }
            }
            if !guest.active {
                continue;
            }
            if let Some(key) = &placement.apart
                && domain(fleet, placement, key, step.target.at()).is_some()
            {
                let target = domain(fleet, placement, key, step.target.at());
                let stays = domain(fleet, placement, key, step.source.at()) == target;
                let meets = placement.guests.iter().any(|other| {
                    let there = |host: &usize| domain(fleet, placement, key, *host) == target;
                    *other != step.guest
                        && fleet.guests[other.at()].active
                        && self.present[other.at()].iter().any(there)
                });
                if meets && !stays {
                    return wrong("apart");
                }
            }
            if let Some(spread) = &placement.spread {
                let key = &spread.topology_key;
                let mut after = self.clone();
                after.arrive(step.guest.at(), step.target.at());
                let stays = domain(fleet, placement, key, step.source.at())
                    == domain(fleet, placement, key, step.target.at());
                let before = self.skew(fleet, wishes, placement, key);
                let after = after.skew(fleet, wishes, placement, key);
                if after > before.max(spread.max_skew.into()) && !stays {
                    return wrong("spread");
                }
            }
        }
        Ok(())
    }

    /// Groups that belong together are in no more domains than before, or in one.
    pub fn torn(&self, fleet: &Fleet, wishes: &[Wish], before: &Self) {
        for (name, placement) in required(wishes) {
            let Some(key) = &placement.together else {
                continue;
            };
            let domains = |all: &Self| {
                let active = placement
                    .guests
                    .iter()
                    .filter(|guest| fleet.guests[guest.at()].active);
                active
                    .filter_map(|guest| domain(fleet, placement, key, all.bound[guest.at()]))
                    .collect::<BTreeSet<_>>()
                    .len()
            };
            assert!(
                domains(self) <= domains(before).max(1),
                "{name} is torn apart"
            );
        }
    }
}

fn required(wishes: &[Wish]) -> impl Iterator<Item = (&str, &Placement)> {
    wishes.iter().filter_map(|wish| match &wish.what {
        What::Place(placement) if placement.required => Some((wish.by.name.as_str(), placement)),
        _ => None,
    })
}
