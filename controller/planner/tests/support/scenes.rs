//! Small fleets that are nearly full, and searches through everything that could be done in them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use proptest::prelude::*;

use super::{GI, drain, fleet, go, guest, host, roomy};

/// Guests by host and GiB, where each is to go, and what each host has free.
#[derive(Debug, Clone)]
pub struct Scene {
    pub guests: Vec<(usize, u64, usize)>,
    pub free: Vec<u64>,
}

impl Scene {
    /// The fleet, and a wish for each guest that is to go elsewhere.
    pub fn fleet(&self) -> (Fleet, Vec<Wish>) {
        let hosts = (0..self.free.len()).map(|at| host(&format!("h{at}")));
        let guests = self.guests.iter().enumerate();
        let guests =
            guests.map(|(at, (host, size, _))| guest(&format!("g{at}"), *host as u32, size * GI));
        let mut fleet = fleet(hosts.collect(), guests.collect());
        for (host, free) in fleet.hosts.iter_mut().zip(&self.free) {
            host.memory_limit = Bytes(host.memory_used.0 + free * GI);
        }
        let moved = self.guests.iter().enumerate();
        let moved = moved.filter(|(_, (host, _, target))| host != target);
        let wish = |(at, (_, _, target)): (usize, &(usize, u64, usize))| {
            go(&format!("m{at}"), at as u32, Some(*target as u32))
        };
        let wishes = moved.map(wish).collect();
        (fleet, wishes)
    }

    /// The GiB of those that are to go elsewhere.
    pub fn own(&self) -> u64 {
        let moved = self
            .guests
            .iter()
            .filter(|(host, _, target)| host != target);
        moved.map(|(_, size, _)| size).sum()
    }

    /// The fewest GiB that travel besides each guest's own way, by looking at every state that can be reached.
    pub fn least(&self) -> Option<u64> {
        let start: Vec<(usize, bool)> = self
            .guests
            .iter()
            .map(|(host, _, _)| (*host, false))
            .collect();
        let mut limit = self.free.clone();
        for (host, size, _) in &self.guests {
            limit[*host] += size;
        }
        let mut best: BTreeMap<Vec<(usize, bool)>, u64> = BTreeMap::from([(start.clone(), 0)]);
        let mut next = BinaryHeap::from([Reverse((0, start))]);
        while let Some(Reverse((cost, state))) = next.pop() {
            if best[&state] < cost {
                continue;
            }
            let there = |(at, _): &(usize, bool), guest: usize| *at == self.guests[guest].2;
            if state
                .iter()
                .enumerate()
                .all(|(guest, place)| there(place, guest))
            {
                return Some(cost);
            }
            for (guest, (home, size, target)) in self.guests.iter().enumerate() {
                let (at, stopped) = state[guest];
                if at == *target || home == target {
                    continue;
                }
                for (to, limit) in limit.iter().copied().enumerate() {
                    let here = state
                        .iter()
                        .zip(&self.guests)
                        .filter(|((at, _), _)| *at == to);
                    let used: u64 = here.map(|(_, (_, size, _))| size).sum();
                    if to == at || used + size > limit || (to != *target && stopped) {
                        continue;
                    }
                    let mut after = state.clone();
                    after[guest] = (to, true);
                    let cost = cost + if to == *target { 0 } else { *size };
                    if best.get(&after).is_none_or(|known| cost < *known) {
                        best.insert(after.clone(), cost);
                        next.push(Reverse((cost, after)));
                    }
                }
            }
        }
        None
    }
}

/// Groups of guests of the first hosts that go on to the next of these, in a ring; guests that stay; hosts beside.
pub fn rings(hosts: usize, ring: usize, group: usize, spare: u64) -> impl Strategy<Value = Scene> {
    let groups = prop::collection::vec(prop::collection::vec(1..7u64, 1..=group), ring);
    let stay = prop::collection::vec((0..hosts, 1..4u64), 0..3);
    let free = prop::collection::vec(0..spare, hosts);
    (groups, stay, free).prop_map(move |(groups, stay, free)| {
        let groups = groups.into_iter().enumerate();
        let moved = groups.flat_map(|(at, sizes)| {
            sizes
                .into_iter()
                .map(move |size| (at, size, (at + 1) % ring))
        });
        let stay = stay.into_iter().map(|(host, size)| (host, size, host));
        Scene {
            guests: moved.chain(stay).collect(),
            free,
        }
    })
}

/// Guests that go anywhere, so few that every order is looked at.
pub fn moves(hosts: usize, guests: usize, spare: u64) -> impl Strategy<Value = Scene> {
    let guest = (0..hosts, 1..7u64, 0..hosts);
    let guests = prop::collection::vec(guest, 2..=guests);
    let free = prop::collection::vec(0..spare, hosts);
    (guests, free).prop_map(|(guests, free)| Scene { guests, free })
}

/// Guests by host and GiB, of which the first host is to be emptied, and what each host has free.
#[derive(Debug, Clone)]
pub struct Emptied {
    pub guests: Vec<(usize, u64)>,
    pub free: Vec<u64>,
}

impl Emptied {
    /// The fleet, and a drain for which others make way.
    pub fn fleet(&self) -> (Fleet, Wish) {
        let stay = self.guests.iter().map(|(host, size)| (*host, *size, *host));
        let scene = Scene {
            guests: stay.collect(),
            free: self.free.clone(),
        };
        (scene.fleet().0, roomy(drain("d", &[0], 4)))
    }

    /// The GiB on the first host.
    pub fn own(&self) -> u64 {
        let own = self.guests.iter().filter(|(host, _)| *host == 0);
        own.map(|(_, size)| size).sum()
    }

    /// The fewest GiB of others that make way, each by one move, by looking at every state that can be reached.
    pub fn least(&self) -> Option<u64> {
        let start: Vec<usize> = self.guests.iter().map(|(host, _)| *host).collect();
        let mut free = self.free.clone();
        let mut best = BTreeMap::from([(start.clone(), 0)]);
        let mut next = BinaryHeap::from([Reverse((0, start))]);
        while let Some(Reverse((cost, state))) = next.pop() {
            if best[&state] < cost {
                continue;
            }
            if !state.contains(&0) {
                return Some(cost);
            }
            free.copy_from_slice(&self.free);
            let moved = || state.iter().zip(&self.guests);
            let moved = || moved().filter(|(at, (home, _))| *at != home);
            for (_, (home, size)) in moved() {
                free[*home] += size;
            }
            for (at, (_, size)) in moved() {
                free[*at] -= size;
            }
            for (guest, (home, size)) in self.guests.iter().enumerate() {
                let room = free.iter().enumerate().skip(1);
                for (to, _) in room.filter(|(to, free)| to != home && **free >= *size) {
                    if state[guest] != *home {
                        continue;
                    }
                    let mut after = state.clone();
                    after[guest] = to;
                    let cost = cost + if *home == 0 { 0 } else { *size };
                    if best.get(&after).is_none_or(|known| cost < *known) {
                        best.insert(after.clone(), cost);
                        next.push(Reverse((cost, after)));
                    }
                }
            }
        }
        None
    }
}

/// Hosts that are nearly full, the first of which has one to three guests.
pub fn emptied(hosts: usize, guests: usize, spare: u64) -> impl Strategy<Value = Emptied> {
    let own = prop::collection::vec(2..7u64, 1..=3);
    let others = prop::collection::vec((1..hosts, 1..6u64), 2..=guests);
    let free = prop::collection::vec(0..spare, hosts);
    (own, others, free).prop_map(|(own, others, free)| Emptied {
        guests: own
            .into_iter()
            .map(|size| (0, size))
            .chain(others)
            .collect(),
        free,
    })
}
