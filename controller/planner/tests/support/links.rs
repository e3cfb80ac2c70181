//! The part of the checker that looks at links: every plan is sent once more over links that are shared as the model
//! says, and each move must have carried its bytes when it is told to end.
//!
//! The model: a link carries its bandwidth out and the same in, each shared equally by the moves that way; a move goes at
//! the lesser share of its two ends, and no faster than the fleet's limit for one, or its guest's own.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_planner::*;

/// What a transfer may have carried too much when it ends, in seconds at its rate: ends are whole microseconds.
const ROUNDING: f64 = 2e-6;

/// Something that uses two links.
struct Transfer {
    guest: GuestId,
    source: usize,
    target: usize,
    carried: f64,
    since: f64,
    rate: f64,
}

/// What happens to a transfer; of what happens at one instant, ends come first, for what ends has left its links by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends,
    /// Its disks are copied.
    Switches,
    Begins,
}

struct Links<'a> {
    fleet: &'a Fleet,
    all: Vec<Transfer>,
    /// For each host what goes out and what comes in.
    out: Vec<Vec<usize>>,
    into: Vec<Vec<usize>>,
}

/// The rate of a link shared by so many, where it is known.
fn part(fleet: &Fleet, host: usize, moves: usize) -> Option<f64> {
    let bandwidth = fleet.hosts[host].bandwidth?;
    Some(bandwidth.0.max(1) as f64 / moves as f64)
}

/// What a move gets at most where so many go out of its source and into its target.
fn rate(
    fleet: &Fleet,
    guest: GuestId,
    (source, out): (usize, usize),
    (target, into): (usize, usize),
) -> Option<f64> {
    let limits = [fleet.limits.share, fleet.guests[guest.at()].bandwidth];
    let limits = limits.map(|limit| limit.map(|most| most.0.max(1) as f64));
    let parts = [part(fleet, source, out), part(fleet, target, into)];
    parts.into_iter().chain(limits).flatten().reduce(f64::min)
}

/// What a move gets that has its links for itself.
fn alone(fleet: &Fleet, step: &Move) -> Option<f64> {
    rate(
        fleet,
        step.guest,
        (step.source.at(), 1),
        (step.target.at(), 1),
    )
}

impl Links<'_> {
    /// Starts or ends a transfer, which gives others on its links another rate.
    fn change(&mut self, index: usize, begins: bool, now: f64) {
        let (source, target) = (self.all[index].source, self.all[index].target);
        for (side, host) in [(&mut self.out, source), (&mut self.into, target)] {
            if begins {
                side[host].push(index);
            } else {
                side[host].retain(|other| *other != index);
            }
        }
        let (out, into) = (&self.out[source], &self.into[target]);
        let touched: Vec<usize> = out.iter().chain(into).chain([&index]).copied().collect();
        for other in touched {
            let transfer = &mut self.all[other];
            transfer.carried += transfer.rate * (now - transfer.since);
            transfer.since = now;
            let ends = (transfer.source, transfer.target);
            let counts = (self.out[ends.0].len(), self.into[ends.1].len());
            let rate = rate(
                self.fleet,
                transfer.guest,
                (ends.0, counts.0),
                (ends.1, counts.1),
            );
            transfer.rate = if other == index && !begins {
                0.0
            } else {
                rate.unwrap_or(0.0)
            };
        }
        for (side, host) in [(&self.out, source), (&self.into, target)] {
            let sum: f64 = side[host].iter().map(|other| self.all[*other].rate).sum();
            if let Some(all) = part(self.fleet, host, 1) {
                let name = &self.fleet.hosts[host].name;
                assert!(
                    sum <= all * (1.0 + 1e-9),
                    "the link of {name} carries too much"
                );
            }
        }
    }
}

/// Panics if a move's bytes are not what the model says, or if it is told to end before its links have carried them, or
/// long after. `timed`: whether all times of the plan and of what is in flight are known.
pub fn check(fleet: &Fleet, ledger: &Ledger, plan: &Plan, timed: bool) {
    let there = fleet.hosts.iter().map(|host| host.bases.clone());
    let mut there: Vec<BTreeSet<BaseId>> = there.collect();
    for flight in &ledger.in_flight {
        there[flight.target.at()].extend(&fleet.guests[flight.guest.at()].bases);
    }
    let mut all_brought = Vec::new();
    for step in &plan.moves {
        let needs = &fleet.guests[step.guest.at()].bases;
        let brought: Vec<BaseId> = needs
            .difference(&there[step.target.at()])
            .copied()
            .collect();
        bytes(fleet, step, &brought);
        there[step.target.at()].extend(&brought);
        all_brought.push(brought);
        if let (Some(told), Some(alone)) = (step.duration, alone(fleet, step)) {
            let least = step.bytes.0 as f64 / alone;
            assert!(
                told.as_secs_f64() >= least * (1.0 - 1e-9),
                "no link is that fast: {step:?}"
            );
        }
    }
    if !timed {
        return;
    }
    let hosts = fleet.hosts.len();
    let mut links = Links {
        fleet,
        all: Vec::new(),
        out: vec![Vec::new(); hosts],
        into: vec![Vec::new(); hosts],
    };
    let zero = Duration::ZERO;
    let flying = ledger.in_flight.iter();
    let flying = flying.map(|flight| {
        (
            flight.guest,
            flight.source,
            flight.target,
            zero,
            flight.remaining.unwrap_or_default(),
        )
    });
    let moves = plan.moves.iter();
    let moves = moves.map(|step| {
        (
            step.guest,
            step.source,
            step.target,
            step.start,
            step.start + step.duration.unwrap_or_default(),
        )
    });
    let mut events: Vec<(Duration, Event, usize)> = Vec::new();
    for (guest, source, target, start, end) in flying.chain(moves) {
        let index = links.all.len();
        links.all.push(Transfer {
            guest,
            source: source.at(),
            target: target.at(),
            carried: 0.0,
            since: 0.0,
            rate: 0.0,
        });
        let end = Duration::from_micros(end.as_nanos().div_ceil(1000) as u64);
        events.push((start, Event::Begins, index));
        events.push((end.max(start + Duration::from_nanos(1)), Event::Ends, index));
    }
    for (index, step) in plan.moves.iter().enumerate() {
        if let Some(disks) = step.disks {
            let index = ledger.in_flight.len() + index;
            events.push((step.start + disks, Event::Switches, index));
        }
    }
    events.sort_unstable();
    for (time, event, index) in events {
        let now = time.as_secs_f64();
        if event != Event::Switches {
            links.change(index, event == Event::Begins, now);
        }
        let Some(place) = index.checked_sub(ledger.in_flight.len()) else {
            continue;
        };
        let step = &plan.moves[place];
        let alone = alone(fleet, step).unwrap_or(0.0);
        if event == Event::Switches {
            let transfer = &links.all[index];
            let carried = transfer.carried + transfer.rate * (now - transfer.since);
            let disks = disks(fleet, step, &all_brought[place]);
            let slack = disks * 1e-6 + alone * ROUNDING + 1.0;
            assert!(
                (carried - disks).abs() <= slack,
                "{carried} bytes are carried, not {disks}, when the disks of {step:?} are said to be"
            );
        }
        if event == Event::Ends {
            let (carried, bytes) = (links.all[index].carried, step.bytes.0 as f64);
            let slack = bytes * 1e-6 + alone * ROUNDING + 1.0;
            assert!(
                (carried - bytes).abs() <= slack,
                "{carried} bytes are carried at the end of {step:?}"
            );
        }
    }
}

/// Allocated disks travel once, and base images that are brought; memory, and what is dirtied while it travels, and while that travels, three times at most.
fn bytes(fleet: &Fleet, step: &Move, brought: &[BaseId]) {
    let guest = &fleet.guests[step.guest.at()];
    let memory = if guest.active {
        guest.memory.0.saturating_sub(guest.overhead.0) as f64
    } else {
        0.0
    };
    let link = alone(fleet, step);
    let mut times = 1.0;
    if let (Some(link), Some(dirty)) = (link, guest.dirty_rate) {
        let again = dirty.0 as f64 / link;
        let mut round = again;
        while times < 3.0 && round > 1e-12 {
            times += round;
            round *= again;
        }
    }
    let expected = disks(fleet, step, brought) + memory * f64::min(times, 3.0);
    let slack = expected * 1e-9 + 2.0;
    assert!(
        (step.bytes.0 as f64 - expected).abs() <= slack,
        "not {expected} bytes: {step:?}"
    );
}

/// Allocated disks, and base images that are brought.
fn disks(fleet: &Fleet, step: &Move, brought: &[BaseId]) -> f64 {
    let disks = fleet.guests[step.guest.at()].disks.iter();
    let disks = disks.map(|disk| disk.allocated.0 as f64);
    let brought = brought.iter();
    let brought = brought.map(|base| fleet.bases[base.at()].allocated.0 as f64);
    disks.chain(brought).sum()
}
