//! Guests of nearly full hosts that trade places: all of them arrive wherever a search through every order of moves and
//! stops finds a way, and no way has fewer bytes.

mod support;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use proptest::prelude::*;
use support::*;

/// Guests by host and GiB, where each is to go, and what each host has free.
#[derive(Debug, Clone)]
struct Scene {
    guests: Vec<(usize, u64, usize)>,
    free: Vec<u64>,
}

impl Scene {
    fn fleet(&self) -> (Fleet, Vec<Wish>) {
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

    /// The fewest GiB that travel besides each guest's own way, by looking at every state that can be reached.
    fn least(&self) -> Option<u64> {
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
fn rings(hosts: usize, ring: usize, group: usize, spare: u64) -> impl Strategy<Value = Scene> {
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
fn moves(hosts: usize, guests: usize, spare: u64) -> impl Strategy<Value = Scene> {
    let guest = (0..hosts, 1..7u64, 0..hosts);
    let guests = prop::collection::vec(guest, 2..=guests);
    let free = prop::collection::vec(0..spare, hosts);
    (guests, free).prop_map(|(guests, free)| Scene { guests, free })
}

/// More with `PROPTEST_CASES=100000`.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = config.cases.max(1000);
    config
}

fn compare(scene: &Scene) -> Result<(), TestCaseError> {
    let (fleet, wishes) = scene.fleet();
    let made = planned(&fleet, &wishes, &Ledger::default());
    let own: u64 = scene
        .guests
        .iter()
        .filter(|(host, _, target)| host != target)
        .map(|(_, size, _)| size)
        .sum();
    match scene.least() {
        Some(least) => {
            prop_assert_eq!(&made.rejections, &[]);
            prop_assert_eq!(made.bytes.0 / GI, own + least);
        }
        None => prop_assert!(!made.rejections.is_empty()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn two_hosts_trade_places_where_there_is_a_way(scene in rings(3, 2, 2, 7)) {
        compare(&scene)?;
    }

    #[test]
    fn two_hosts_of_four_trade_places_where_there_is_a_way(scene in rings(4, 2, 2, 5)) {
        compare(&scene)?;
    }

    #[test]
    fn three_hosts_trade_places_where_there_is_a_way(scene in rings(4, 3, 1, 6)) {
        compare(&scene)?;
    }

    #[test]
    fn all_arrive_where_there_is_a_way(scene in moves(3, 5, 6)) {
        compare(&scene)?;
    }
}
