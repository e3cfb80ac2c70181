//! What balances ask for: how level their hosts are after all other moves, whether that is enough, and if not, the
//! search for moves that pay.

use std::collections::BTreeSet;

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::board::Board;
use crate::bytes::{capped, rate, travels, weight};
use crate::explain;
use crate::headroom;
use crate::level::{Bounds, Level, Shares};
use crate::model::{Balance, Balanced, Fleet, Guest, GuestId, HostId, Violation, What, Wish};
use crate::rules::Strictness;
use crate::view::View;
use crate::wishes::{self, Ask, Asked, For, Limit, NO_HOSTS, NO_OVERRIDES, NOBODY};

const GIB: f64 = (1u64 << 30) as f64;

/// A balance with the hosts that are its own.
pub(crate) struct Policy<'a> {
    by: &'a RequestedBy,
    balance: &'a Balance,
    hosts: Vec<HostId>,
}

/// The balances by name, each with the hosts that no earlier one has and that are neither drained nor out of reach.
pub(crate) fn policies<'a>(
    fleet: &Fleet,
    wishes: &'a [Wish],
    draining: &BTreeSet<HostId>,
) -> Vec<Policy<'a>> {
    let mut all: Vec<(&RequestedBy, &Balance)> = wishes
        .iter()
        .filter_map(|wish| match &wish.what {
            What::Balance(balance) => Some((&wish.by, balance)),
            What::Move { .. } | What::Drain { .. } | What::Place(_) => None,
        })
        .collect();
    all.sort_by_key(|(by, _)| *by);
    let mut taken = vec![false; fleet.hosts.len()];
    let own = |(by, balance): (&'a RequestedBy, &'a Balance)| {
        let hosts = balance.hosts.iter().copied().filter(|host| {
            let there = fleet.hosts[host.at()].out_of_reach.is_none() && !draining.contains(host);
            there && !std::mem::replace(&mut taken[host.at()], true)
        });
        Policy {
            by,
            balance,
            hosts: hosts.collect(),
        }
    };
    all.into_iter().map(own).collect()
}

impl<'a> Policy<'a> {
    /// Whether it is this one that asks.
    pub(crate) fn is(&self, by: &RequestedBy) -> bool {
        self.by == by
    }

    /// The label by whose values it keeps headroom.
    pub(crate) fn headroom(&self) -> Option<&'a str> {
        let headroom = self.balance.headroom.as_ref();
        let headroom = headroom.filter(|headroom| headroom.failures == 1);
        headroom.map(|headroom| headroom.topology_key.as_str())
    }

    /// The hosts that are its own.
    pub(crate) fn hosts(&self) -> &[HostId] {
        &self.hosts
    }

    /// Whether it moves nothing whatever is found.
    pub(crate) fn is_barred(&self) -> bool {
        barred(self).is_some()
    }

    /// Whether it may still move so much.
    pub(crate) fn allows(&self, moves: usize, bytes: u128) -> bool {
        let most = self.balance.bytes.map_or(u128::MAX, |most| most.0.into());
        moves <= self.balance.moves.map_or(usize::MAX, |most| most as usize) && bytes <= most
    }
}

/// The hosts at which guests of each policy may stop over: its own, if it lets them.
pub(crate) fn stopovers<'a>(policies: &[Policy<'a>]) -> BTreeSet<(&'a RequestedBy, HostId)> {
    let all = policies.iter().filter(|policy| policy.balance.stops_over);
    all.flat_map(|policy| policy.hosts.iter().map(|host| (policy.by, *host)))
        .collect()
}

/// For each host the policy that has it.
fn owners(fleet: &Fleet, policies: &[Policy<'_>]) -> Vec<Option<(usize, usize)>> {
    let mut owners = vec![None; fleet.hosts.len()];
    for (index, policy) in policies.iter().enumerate() {
        for (side, host) in policy.hosts.iter().enumerate() {
            owners[host.at()] = Some((index, side));
        }
    }
    owners
}

/// Guests that a policy may come to move.
pub(crate) fn guests(fleet: &Fleet, policies: &[Policy<'_>]) -> Vec<GuestId> {
    if policies.is_empty() {
        return Vec::new();
    }
    let owners = owners(fleet, policies);
    let all = fleet.guests.iter().zip((0..).map(GuestId));
    let own = all.filter(|(guest, _)| guest.active && owners[guest.host.at()].is_some());
    own.map(|(_, id)| id).collect()
}

/// Adds an ask for each guest that a policy may move, and each policy's limit.
pub(crate) fn ask<'a>(view: &View<'a>, policies: &[Policy<'a>], asked: &mut Asked<'a>) {
    if policies.is_empty() {
        return;
    }
    // What others ask for is theirs, be it refused.
    let asks = asked.asks.iter().filter(|ask| ask.kind != For::Room);
    let asks = asks.map(|ask| ask.guest);
    let refused = asked
        .refused
        .iter()
        .chain(&asked.stuck)
        .map(|refused| refused.guest);
    let others: BTreeSet<GuestId> = asks.chain(refused).collect();
    for policy in policies {
        asked.limits.push(Limit {
            leaves: &NOBODY,
            by: policy.by,
            hosts: &NO_HOSTS,
            stopped: false,
            parallel: policy.balance.parallel,
            halted: policy.balance.halted.as_ref(),
        });
    }
    let owners = owners(view.fleet, policies);
    for id in guests(view.fleet, policies) {
        let Some((policy, _)) = owners[view.guest(id).host.at()] else {
            continue;
        };
        let policy = &policies[policy];
        if barred(policy).is_none()
            && !others.contains(&id)
            && stays(view, policy.balance, id).is_none()
        {
            asked.asks.push(Ask {
                by: policy.by,
                also: Vec::new(),
                guest: id,
                target: None,
                overrides: &NO_OVERRIDES,
                kind: For::Balance,
                strictness: Strictness {
                    preferred: true,
                    ..Strictness::default()
                },
                room_for: None,
            });
        }
    }
}

/// Why a policy leaves the guest where it is.
fn stays(view: &View<'_>, balance: &Balance, id: GuestId) -> Option<Cause> {
    let guest = view.guest(id);
    let flight = || {
        let flight = view
            .ledger
            .in_flight
            .iter()
            .find(|flight| flight.guest == id)?;
        Some(explain::busy(view.fleet, flight))
    };
    let rests = || {
        let rest = view.rest(id)?;
        let left = explain::span(rest.until.saturating_sub(view.now));
        let message = format!("{} rests {left} more after {}", guest.name, rest.cause);
        Some(Cause::new(Reason::BackingOff, message))
    };
    if view.flies(id) {
        return flight();
    }
    wishes::stays(view.fleet, guest)
        .or_else(|| balance.leaves.get(&id).cloned())
        .or_else(rests)
}

fn load(balance: &Balance, guest: &Guest) -> Shares {
    let measured = guest.load.filter(|_| balance.measured);
    let cpu = measured.map_or(guest.cpu_milli, |load| load.cpu_milli);
    let memory = measured.map_or(guest.memory, |load| load.memory);
    [cpu as f64, memory.0 as f64, occupied(guest)]
}

fn occupied(guest: &Guest) -> f64 {
    let disks = guest.disks.iter();
    disks.map(|disk| disk.allocated.0 as f64).sum()
}

/// The policies' hosts as they will be after the moves on the board.
fn measure(board: &Board<'_, '_>, policies: &[Policy<'_>]) -> Vec<Level> {
    let view = board.view;
    let owners = owners(view.fleet, policies);
    let sides = |policy: &Policy<'_>| -> Vec<(HostId, bool, Shares, Shares)> {
        let all = policy.hosts.iter().map(|host| {
            let facts = view.host(*host);
            let cpu = match facts.cpu_there_milli {
                there if there > 0 && policy.balance.measured => there,
                _ => facts.cpu_limit_milli,
            };
            let pools = (0..facts.pools.len()).map(|index| view.layout.pool(*host, index));
            let budgets: BTreeSet<(usize, i128)> = pools
                .map(|pool| (view.layout.budget(pool), view.layout.space(pool)))
                .collect();
            let free: f64 = budgets.iter().map(|(_, space)| *space as f64).sum();
            (
                *host,
                view.gate(*host).is_none(),
                [0.0; 3],
                [cpu as f64, facts.memory_limit.0 as f64, free],
            )
        });
        all.collect()
    };
    let mut all: Vec<_> = policies.iter().map(sides).collect();
    for (guest, id) in view.fleet.guests.iter().zip((0..).map(GuestId)) {
        if let Some((policy, side)) = owners[guest.host.at()] {
            // What a file system holds in all is what is free and what guests occupy today.
            all[policy][side].3[2] += occupied(guest);
        }
        if let (true, Some((policy, side))) = (guest.active, owners[board.place_of(id).at()]) {
            let load = load(policies[policy].balance, guest);
            for (used, load) in all[policy][side].2.iter_mut().zip(load) {
                *used += load;
            }
        }
    }
    let levels = policies.iter().zip(&all);
    levels
        .map(|(policy, sides)| Level::new(sides, weights(policy.balance)))
        .collect()
}

/// How far each policy's fullest host lies above the mean, with what is placed so far.
pub(crate) fn imbalances(board: &Board<'_, '_>, policies: &[Policy<'_>]) -> Vec<u32> {
    let levels = measure(board, policies);
    let all = levels.iter();
    all.map(|level| hundredths(level.imbalance())).collect()
}

/// Weights, the greatest of them 1.
fn weights(balance: &Balance) -> Shares {
    let weights = [
        balance.weights.cpu,
        balance.weights.memory,
        balance.weights.disk,
    ];
    let most = f64::from(weights.into_iter().max().unwrap_or(0).max(1));
    weights.map(|weight| f64::from(weight) / most)
}

fn hundredths(points: f64) -> u32 {
    (points * 100.0).round() as u32
}

/// Places the moves that level the policies' hosts. Gives how things are for each policy, as far as that is known before
/// the moves are in order.
pub(crate) fn level<'a>(
    board: &mut Board<'_, 'a>,
    asks: &[Ask<'a>],
    policies: &[Policy<'a>],
) -> Vec<Balanced> {
    let view = board.view;
    let owners = owners(view.fleet, policies);
    let mut levels = measure(board, policies);
    let rate = |host: &HostId| rate(view.fleet, *host, *host);
    let slowest = policies
        .iter()
        .map(|policy| policy.hosts.iter().filter_map(rate).min());
    let slowest: Vec<Option<u64>> = slowest.collect();
    for (index, ask) in asks.iter().enumerate() {
        let guest = view.guest(ask.guest);
        let free = ask.kind == For::Balance && board.mover(ask.guest).is_none();
        if let (true, Some((policy, side))) = (free, owners[guest.host.at()]) {
            let load = load(policies[policy].balance, guest);
            // By the slowest link, on which a busy guest's memory travels most, and with all its base images: limits on bytes
            // hold wherever it goes.
            let bytes = travels(guest, capped(guest, slowest[policy])).0;
            let gib = bytes.saturating_add(weight(view.fleet, &guest.bases)) as f64 / GIB;
            levels[policy].add(ask.guest, index, side, load, gib);
        }
    }
    let mut told = Vec::new();
    for (policy, level) in policies.iter().zip(&mut levels) {
        let balance = policy.balance;
        let now = level.imbalance();
        let skipped = skipped(view, policy, level);
        let goal = if balance.begun {
            balance.stop
        } else {
            balance.start.max(balance.stop)
        };
        let mut cause = barred(policy);
        if cause.is_none() && (now < f64::from(goal) || now <= f64::from(balance.stop)) {
            cause = Some(enough(now, balance));
        } else if cause.is_none() {
            let own = asks.iter().enumerate();
            let own = own.filter(|(_, ask)| ask.kind == For::Balance && policy.is(ask.by));
            let own: Vec<usize> = own.map(|(index, _)| index).collect();
            let (moves, bytes) = headroom::moved(board, asks, own.iter());
            let bounds = Bounds {
                enough: f64::from(balance.stop),
                moves: balance.moves.map_or(usize::MAX >> 1, |most| {
                    (most as usize).saturating_sub(moves)
                }),
                gib: balance.bytes.map_or(f64::INFINITY, |most| {
                    (most.0 as f64 - bytes as f64).max(0.0) / GIB
                }),
                steps: balance.steps.unwrap_or_else(|| steps(level.items.len())),
            };
            level.search(board, asks, bounds);
            if level.imbalance() > now {
                level.forget(board, asks);
            }
        }
        told.push(Balanced {
            by: policy.by.clone(),
            now: hundredths(now),
            predicted: hundredths(now),
            cause,
            skipped,
            short: Vec::new(),
        });
    }
    told
}

/// Notes what the moves that came to be planned make of it.
pub(crate) fn predict(
    board: &Board<'_, '_>,
    asks: &[Ask<'_>],
    policies: &[Policy<'_>],
    limited: &BTreeSet<&RequestedBy>,
    told: &mut [Balanced],
) {
    let placed = asks.iter().zip(&board.placed);
    let placed = placed.filter(|(ask, placed)| ask.kind == For::Balance && placed.is_some());
    let move_something: BTreeSet<&RequestedBy> = placed.map(|(ask, _)| ask.by).collect();
    let levels = measure(board, policies);
    for ((level, policy), told) in levels.iter().zip(policies).zip(told) {
        told.predicted = hundredths(level.imbalance());
        if move_something.contains(policy.by) {
            told.cause = None;
        } else if told.cause.is_none() {
            let limited = limited.contains(policy.by);
            told.cause = Some(nothing_found(level.imbalance(), policy.balance, limited));
        }
    }
}

/// Steps of a search where its balance does not say: enough that more gain little.
fn steps(guests: usize) -> u64 {
    (guests as u64 * 2000).clamp(20_000, 3_000_000)
}

fn points(points: f64) -> String {
    format!("{:.1}", points)
}

/// Why the policy moves nothing whatever it finds.
fn barred(policy: &Policy<'_>) -> Option<Cause> {
    let balance = policy.balance;
    let none = || (balance.parallel == 0).then(|| explain::no_parallel(policy.by));
    let headroom = balance.headroom.as_ref();
    let failures = headroom.map_or(0, |headroom| headroom.failures);
    let many = || {
        let message = format!(
            "headroom for {failures} domains at once is not supported by this version; 1 is"
        );
        (failures > 1).then(|| Cause::new(Reason::NotSupportedYet, message))
    };
    balance.halted.clone().or_else(none).or_else(many)
}

fn enough(now: f64, balance: &Balance) -> Cause {
    let least = if balance.begun {
        format!("it stops at {}", balance.stop)
    } else {
        format!("it begins at {}", balance.start.max(balance.stop))
    };
    Cause::new(
        Reason::AsExpected,
        format!(
            "the fullest host lies {} percent points above the mean, and {least}",
            points(now)
        ),
    )
}

fn nothing_found(now: f64, balance: &Balance, limited: bool) -> Cause {
    let spent =
        limited || balance.moves == Some(0) || balance.bytes.is_some_and(|bytes| bytes.0 == 0);
    let (reason, why) = if spent {
        (
            Reason::ParallelLimit,
            "its limits let nothing more begin for now",
        )
    } else {
        (
            Reason::Blocked,
            "no move that rules and room allow is worth its bytes",
        )
    };
    Cause::new(
        reason,
        format!(
            "the fullest host lies {} percent points above the mean, and {why}",
            points(now)
        ),
    )
}

/// Guests on hosts above the mean that the policy leaves where they are.
fn skipped(view: &View<'_>, policy: &Policy<'_>, level: &Level) -> Vec<Violation> {
    let above: BTreeSet<HostId> = (0..level.sides.len())
        .filter(|side| level.is_above(*side))
        .map(|side| level.sides[side].host)
        .collect();
    let all = view.fleet.guests.iter().zip((0..).map(GuestId));
    let there = all.filter(|(guest, _)| guest.active && above.contains(&guest.host));
    let skipped = there.filter_map(|(_, guest)| {
        let cause = stays(view, policy.balance, guest)?;
        Some(Violation { guest, cause })
    });
    skipped.collect()
}
