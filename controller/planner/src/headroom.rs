//! Room to empty any one domain of hosts: what a balance may not spoil, and the moves that make it where it is missing.
//!
//! Whether a domain could be emptied is asked of `drainable`, for the fleet as it is once all planned moves have ended.
//! Where one could not, a drain of it is planned with others making way: the moves of those others are the ones that
//! make the room, and they are made without the drain. Where that finds none, single moves and pairs of them are tried
//! (`pairs`).

mod pairs;

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};

use crate::balance::Policy;
use crate::board::Board;
use crate::capacity::When;
use crate::drainable::{binding, emptying, nobody, together};
use crate::fit::fits;
use crate::model::{Fleet, GuestId, HostId, Pool, Rejection, Short, Wish};
use crate::plan::attempt;
use crate::wishes::{Ask, For};

/// Domains for which room is sought in one plan; the next plan goes on.
const SOUGHT: usize = 8;
/// Times that room is made for a domain that moves for another would spoil.
const ROUNDS: usize = 2;

/// What a policy keeps free.
pub(crate) struct Keeper<'p, 'a> {
    policy: &'p Policy<'a>,
    domains: Vec<(String, Vec<HostId>)>,
    binding: Vec<Wish>,
    /// Domains that could not be emptied before any move of the policy.
    before: BTreeSet<usize>,
    /// Its moves that are for headroom.
    own: BTreeSet<usize>,
}

type Blockers = BTreeMap<usize, Vec<Rejection>>;

impl<'p, 'a> Keeper<'p, 'a> {
    /// For a policy that wants headroom: has the moves placed that make it.
    pub(crate) fn new(
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        wishes: &[Wish],
        policy: &'p Policy<'a>,
    ) -> Option<Self> {
        let key = policy.headroom()?;
        let mut keeper = Self {
            policy,
            domains: domains(board.view.fleet, key, policy.hosts()),
            binding: binding(wishes),
            before: BTreeSet::new(),
            own: BTreeSet::new(),
        };
        let mut short = keeper.short(board, asks);
        keeper.before = short.keys().copied().collect();
        if policy.is_barred() {
            return Some(keeper);
        }
        for domain in keeper.before.clone().into_iter().take(SOUGHT) {
            let Some(blockers) = short.get(&domain) else {
                continue;
            };
            if blockers
                .iter()
                .any(|blocker| blocker.cause.reason != Reason::NoHostFits)
            {
                continue;
            }
            let made = keeper.make_way(board, asks, domain, &short);
            let made = made.or_else(|| keeper.search(board, asks, domain, &short));
            if let Some((placed, left)) = made {
                short = left;
                keeper.own.extend(placed);
            }
        }
        Some(keeper)
    }

    /// The domains that could not be emptied once all that is placed has moved, and what is in the way.
    fn short(&self, board: &Board<'_, 'a>, asks: &[Ask<'a>]) -> Blockers {
        let fleet = after(board, asks);
        let groups: Vec<&[HostId]> = self
            .domains
            .iter()
            .map(|(_, hosts)| hosts.as_slice())
            .collect();
        let view = board.view;
        let told = together(&fleet, &self.binding, view.ledger, &groups, view.now);
        let short = told.into_iter().enumerate();
        short.filter(|(_, blockers)| !blockers.is_empty()).collect()
    }

    /// Places moves of guests that would make way if the domain were emptied. Gives them and what could not be emptied
    /// then; changes nothing where that is no better.
    fn make_way(
        &self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        domain: usize,
        short: &Blockers,
    ) -> Option<(Vec<usize>, Blockers)> {
        let mut placed = self.make_room(board, asks, domain, &[]);
        if placed.is_empty() {
            return None;
        }
        let mut left = self.short(board, asks);
        for _ in 0..ROUNDS {
            // What these moves spoil may be mended together with them.
            let spoiled = left.keys().find(|other| !short.contains_key(other));
            let Some(spoiled) = spoiled.copied() else {
                break;
            };
            let more = self.make_room(board, asks, spoiled, &placed);
            if more.is_empty() {
                break;
            }
            placed.extend(more);
            left = self.short(board, asks);
        }
        if is_better(short, &left) {
            return Some((placed, left));
        }
        for index in placed {
            board.remove(index, &asks[index]);
        }
        None
    }

    /// Moves of guests that would make way if the domain were emptied, beside those that are placed for it already.
    fn make_room(
        &self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        domain: usize,
        beside: &[usize],
    ) -> Vec<usize> {
        let view = board.view;
        let free: BTreeMap<GuestId, usize> = asks
            .iter()
            .enumerate()
            .filter(|(_, ask)| ask.kind == For::Balance && self.policy.is(ask.by))
            .filter(|(_, ask)| board.mover(ask.guest).is_none())
            .map(|(index, ask)| (ask.guest, index))
            .collect();
        let (_, hosts) = &self.domains[domain];
        let mut fleet = after(board, asks);
        for (guest, id) in fleet.guests.iter_mut().zip((0..).map(GuestId)) {
            if !free.contains_key(&id) && !hosts.contains(&guest.host) {
                let message = "it is not this policy's to move".to_owned();
                guest
                    .held
                    .get_or_insert(Cause::new(Reason::Waiting, message));
            }
        }
        let mut wishes = self.binding.clone();
        wishes.push(emptying(hosts, true));
        let by = nobody();
        let made = attempt(
            &fleet,
            &wishes,
            view.ledger,
            view.now,
            &BTreeSet::from([&by]),
            None,
            None,
        );
        let steps = made
            .moves
            .iter()
            .filter(|step| step.makes_way_for.is_some());
        let mut placed = Vec::new();
        for step in steps {
            let mut pools = Vec::new();
            let index = free.get(&step.guest).copied();
            let index = index.filter(|index| {
                let ask = &asks[*index];
                self.policy.hosts().contains(&step.target)
                    && fits(
                        board,
                        ask,
                        step.target,
                        When::Later,
                        &mut pools,
                        &mut |_| false,
                    )
            });
            let Some(index) = index else { break };
            board.place(index, &asks[index], step.target, pools);
            placed.push(index);
        }
        let own = self.own.iter().chain(beside).chain(&placed);
        let (moves, bytes) = moved(board, asks, own);
        let all = made
            .moves
            .iter()
            .filter(|step| step.makes_way_for.is_some());
        if placed.len() < all.count() || !self.policy.allows(moves, bytes) {
            for index in placed.drain(..) {
                board.remove(index, &asks[index]);
            }
        }
        placed
    }

    /// Moves of the policy without which nothing is spoiled any more, or fewer; none if nothing is spoiled. What is for
    /// headroom itself goes last.
    pub(crate) fn spoilers(&self, board: &Board<'_, 'a>, asks: &[Ask<'a>]) -> Vec<usize> {
        let short = self.short(board, asks);
        let spoiled: Vec<usize> = short
            .into_keys()
            .filter(|domain| !self.before.contains(domain))
            .collect();
        if spoiled.is_empty() {
            return Vec::new();
        }
        let all = asks.iter().enumerate();
        let all = all.filter(|(index, ask)| {
            ask.kind == For::Balance && self.policy.is(ask.by) && board.placed[*index].is_some()
        });
        let all: Vec<usize> = all.map(|(index, _)| index).collect();
        let level: Vec<usize> = all
            .iter()
            .copied()
            .filter(|index| !self.own.contains(index))
            .collect();
        if level.is_empty() {
            return all;
        }
        let into = |index: &usize| {
            let target = board.placed[*index].as_ref().map(|placed| placed.target);
            let mut hosts = spoiled.iter().flat_map(|domain| &self.domains[*domain].1);
            hosts.any(|host| Some(*host) == target)
        };
        let to_spoiled: Vec<usize> = level.iter().copied().filter(into).collect();
        if to_spoiled.is_empty() {
            return level[level.len() / 2..].to_vec();
        }
        to_spoiled
    }

    /// What could not be emptied after all moves, by name.
    pub(crate) fn tell(&self, board: &Board<'_, 'a>, asks: &[Ask<'a>]) -> Vec<Short> {
        let short = self.short(board, asks).into_iter();
        short
            .map(|(domain, blockers)| Short {
                domain: self.domains[domain].0.clone(),
                blockers,
            })
            .collect()
    }

    /// Whether the ask's move is for headroom.
    pub(crate) fn made(&self, index: usize) -> bool {
        self.own.contains(&index)
    }

    /// Whose headroom it is.
    pub(crate) fn policy(&self) -> &'p Policy<'a> {
        self.policy
    }
}

/// Whether fewer domains are short, and none that was not before.
fn is_better(before: &Blockers, after: &Blockers) -> bool {
    after.len() < before.len() && after.keys().all(|domain| before.contains_key(domain))
}

/// How many these are, and the most that travels for them.
pub(crate) fn moved<'i>(
    board: &Board<'_, '_>,
    asks: &[Ask<'_>],
    indices: impl Iterator<Item = &'i usize>,
) -> (usize, u128) {
    let mut sum = (0, 0);
    for index in indices {
        if let Some(placed) = &board.placed[*index] {
            let guest = asks[*index].guest;
            let source = board.view.guest(guest).host;
            let bytes = board.most_bytes(guest, source, placed.target);
            sum = (sum.0 + 1, sum.1 + bytes);
        }
    }
    sum
}

/// The domains of the hosts, by value; all hosts of the fleet with the value belong to it.
fn domains(fleet: &Fleet, key: &str, hosts: &[HostId]) -> Vec<(String, Vec<HostId>)> {
    let own = hosts
        .iter()
        .filter_map(|host| fleet.hosts[host.at()].topology(key));
    let own: BTreeSet<&str> = own.collect();
    let mut domains: BTreeMap<&str, Vec<HostId>> = BTreeMap::new();
    for (host, id) in fleet.hosts.iter().zip((0..).map(HostId)) {
        if let Some(name) = host.topology(key).filter(|name| own.contains(name)) {
            domains.entry(name).or_default().push(id);
        }
    }
    let all = domains.into_iter();
    all.map(|(name, hosts)| (name.to_owned(), hosts)).collect()
}

/// The fleet once all that is placed has moved. Disks take their full size where they go, as while they are on their way.
fn after(board: &Board<'_, '_>, asks: &[Ask<'_>]) -> Fleet {
    let view = board.view;
    let mut fleet = view.fleet.clone();
    for (ask, placed) in asks.iter().zip(&board.placed) {
        let Some(placed) = placed else { continue };
        let guest = &mut fleet.guests[ask.guest.at()];
        let source = &mut fleet.hosts[guest.host.at()];
        if guest.active {
            source.cpu_used_milli = source.cpu_used_milli.saturating_sub(guest.cpu_milli);
            source.memory_used = less(source.memory_used, guest.memory);
        }
        source.domains.remove(&guest.domain);
        for disk in &guest.disks {
            let pools = &mut source.pools;
            let Some(at) = pools
                .iter()
                .position(|pool| Some(&pool.name) == disk.pool.as_ref())
            else {
                continue;
            };
            pools[at].virtual_used = less(pools[at].virtual_used, disk.virtual_size);
            on_the_same(pools, at, |available| more(available, disk.allocated));
        }
        guest.host = placed.target;
        let target = &mut fleet.hosts[placed.target.at()];
        for base in &guest.bases {
            let facts = &fleet.bases[base.at()];
            let mut there = target.pools.iter();
            let at = there.position(|pool| Some(&pool.name) == facts.pool.as_ref());
            if target.bases.insert(*base)
                && let Some(at) = at
            {
                let pools = &mut target.pools;
                on_the_same(pools, at, |available| less(available, facts.allocated));
            }
        }
        if guest.active {
            target.cpu_used_milli = target.cpu_used_milli.saturating_add(guest.cpu_milli);
            target.memory_used = more(target.memory_used, guest.memory);
        }
        target
            .domains
            .insert(guest.domain.clone(), guest.uuid.clone());
        for (disk, pool) in guest.disks.iter_mut().zip(&placed.pools) {
            let at = view.layout.index(placed.target, *pool);
            let pools = &mut target.pools;
            pools[at].virtual_used = more(pools[at].virtual_used, disk.virtual_size);
            on_the_same(pools, at, |available| less(available, disk.virtual_size));
            disk.pool = Some(pools[at].name.clone());
            disk.class.clone_from(&pools[at].class);
            disk.allocated = disk.virtual_size;
        }
    }
    fleet
}

/// Changes what all pools on the file system of this one have free.
fn on_the_same(pools: &mut [Pool], at: usize, change: impl Fn(Bytes) -> Bytes) {
    let budget = pools[at].budget;
    for pool in pools.iter_mut().filter(|pool| pool.budget == budget) {
        pool.available = change(pool.available);
    }
}

fn less(one: Bytes, other: Bytes) -> Bytes {
    Bytes(one.0.saturating_sub(other.0))
}

fn more(one: Bytes, other: Bytes) -> Bytes {
    Bytes(one.0.saturating_add(other.0))
}
