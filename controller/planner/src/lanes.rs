//! Which of the moves under a limit goes next. A limit on moves at once would be spent on a few links that are shared, while
//! others stand idle; so of equally important moves those go first that get all of their rate, each time one on the link that
//! has most left to carry, out or in. What comes last then is short, too.
//!
//! Only limits that can keep a move waiting have lanes: without them slots and links of hosts decide alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::bytes::{capped, rate};
use crate::jobs::Job;
use crate::model::HostId;
use crate::queues::Queues;
use crate::traffic::{NOMINAL_RATE, Transfer};
use crate::view::View;

/// In the place of a lane or of a rank: none.
const NONE: u32 = u32::MAX;

/// One way of a host's link.
#[derive(Debug, Clone)]
struct Link {
    /// Bytes per second.
    capacity: u64,
    /// Moves at once.
    slots: u32,
    /// Of that, what the moves under way have where nothing else slows them.
    taken: u64,
    /// Microseconds that the moves take that wait for it.
    left: u64,
}

impl Link {
    /// Whether a move of this rate would slow nobody.
    fn has_room(&self, rate: u64) -> bool {
        self.taken == 0 || self.taken.saturating_add(rate) <= self.capacity
    }
}

/// The place of a link among all: that out of the host.
fn out(host: HostId) -> usize {
    2 * host.at()
}

/// That into the host.
fn into(host: HostId) -> usize {
    2 * host.at() + 1
}

/// What moves under the same limits wait for.
struct Lane {
    limits: Vec<usize>,
    /// Links on which a move may get all of its rate: by the rank of such a move, by what is left to carry, then by number.
    /// What is left may have become less since.
    links: BinaryHeap<(Reverse<u32>, u64, Reverse<usize>)>,
    /// For each link the rank by which it is among those.
    queued: Vec<u32>,
}

impl Lane {
    fn queue(&mut self, link: usize, rank: u32, left: u64) {
        if rank < self.queued[link] {
            self.queued[link] = rank;
            self.links.push((Reverse(rank), left, Reverse(link)));
        }
    }
}

/// The moves that wait for a limit, by their links.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    /// For each job its lane.
    of: Vec<u32>,
    links: Vec<Link>,
    /// For each job the round in which it was given last.
    given: Vec<u32>,
    round: u32,
}

impl Lanes {
    /// Lanes for jobs of which each waits for these limits.
    pub(crate) fn new(
        view: &View<'_>,
        jobs: &[Job<'_>],
        limits_of: impl Fn(usize) -> Vec<usize>,
    ) -> Self {
        let mut known: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
        let of = (0..jobs.len()).map(|job| {
            let limits = limits_of(job);
            if limits.is_empty() {
                return NONE;
            }
            let next = known.len() as u32;
            *known.entry(limits).or_insert(next)
        });
        let of: Vec<u32> = of.collect();
        let ways = if known.is_empty() {
            0
        } else {
            2 * view.fleet.hosts.len()
        };
        let links = view.fleet.hosts.iter().flat_map(|host| {
            let capacity = host.bandwidth.map_or(NOMINAL_RATE, |rate| rate.0.max(1));
            [host.max_outbound, host.max_inbound].map(|slots| Link {
                capacity,
                slots: slots.max(1),
                taken: 0,
                left: 0,
            })
        });
        let mut sets: Vec<(Vec<usize>, u32)> = known.into_iter().collect();
        sets.sort_unstable_by_key(|(_, number)| *number);
        let mut lanes = Self {
            lanes: sets
                .into_iter()
                .map(|(limits, _)| Lane {
                    limits,
                    links: BinaryHeap::new(),
                    queued: vec![NONE; ways],
                })
                .collect(),
            of,
            links: links.take(ways).collect(),
            given: vec![0; jobs.len()],
            round: 0,
        };
        if !lanes.are_none() {
            for job in jobs {
                for link in [out(job.source), into(job.target)] {
                    let time = lanes.time(view, job, link);
                    let left = &mut lanes.links[link].left;
                    *left = left.saturating_add(time);
                }
            }
            for index in 0..jobs.len() {
                lanes.wake(jobs, index);
            }
        }
        lanes
    }

    /// Whether no limit can keep anything waiting.
    pub(crate) fn are_none(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Microseconds of all that the link has which the job takes: of its capacity, or of its slots, whichever is more.
    fn time(&self, view: &View<'_>, job: &Job<'_>, link: usize) -> u64 {
        let link = &self.links[link];
        let slots = u128::from(alone(view, job)) * u128::from(link.slots);
        let rate = u128::from(link.capacity).min(slots);
        u64::try_from(u128::from(job.bytes) * 1_000_000 / rate).unwrap_or(u64::MAX)
    }

    /// A job waits no longer.
    pub(crate) fn started(&mut self, view: &View<'_>, job: &Job<'_>) {
        if self.are_none() {
            return;
        }
        for link in [out(job.source), into(job.target)] {
            let time = self.time(view, job, link);
            let left = &mut self.links[link].left;
            *left = left.saturating_sub(time);
        }
    }

    /// A move is under way, or over.
    pub(crate) fn carry(&mut self, view: &View<'_>, transfer: &Transfer, begins: bool) {
        if self.are_none() {
            return;
        }
        let rate = undivided(view, (transfer.source, transfer.target), transfer.most);
        for link in [out(transfer.source), into(transfer.target)] {
            let taken = &mut self.links[link].taken;
            *taken = if begins {
                taken.saturating_add(rate)
            } else {
                taken.saturating_sub(rate)
            };
        }
    }

    /// The job may be able to start now.
    pub(crate) fn wake(&mut self, jobs: &[Job<'_>], index: usize) {
        let job = &jobs[index];
        if let Some(lane) = self.lanes.get_mut(self.of[index] as usize) {
            for link in [out(job.source), into(job.target)] {
                lane.queue(link, job.rank, self.links[link].left);
            }
        }
    }

    /// Something has changed: what could not start may be given again.
    pub(crate) fn next_round(&mut self) {
        self.round += 1;
    }

    /// The next job that would get all of its rate, no less important than this rank, of those whose limits are all open. No
    /// job is given twice in a round.
    pub(crate) fn next(
        &mut self,
        view: &View<'_>,
        jobs: &[Job<'_>],
        queues: &Queues,
        rank: u32,
        is_open: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut waiting = Vec::new();
        loop {
            let lanes = self.lanes.iter().enumerate();
            let open = lanes.filter(|(_, lane)| lane.limits.iter().all(|limit| is_open(*limit)));
            let tops = open.filter_map(|(at, lane)| Some((*lane.links.peek()?, Reverse(at))));
            let ((Reverse(own), left, Reverse(link)), Reverse(at)) = tops.max()?;
            if own > rank {
                return None;
            }
            let now = self.links[link].left;
            let lane = &mut self.lanes[at];
            lane.links.pop();
            if lane.queued[link] != own {
                continue;
            }
            lane.queued[link] = NONE;
            if now < left {
                lane.queue(link, own, now);
                continue;
            }
            // What has no job now comes back when something on it, or on the other link of a job, ends.
            waiting.clear();
            let host = HostId((link / 2) as u32);
            if link == out(host) {
                queues.from(host, &mut waiting);
            } else {
                queues.to(host, &mut waiting);
            }
            waiting.retain(|job| {
                queues.waits(*job) && self.of[*job] == at as u32 && self.given[*job] != self.round
            });
            let mut best: Option<(u64, usize)> = None;
            let mut after = NONE;
            for index in waiting.iter().copied() {
                let job = &jobs[index];
                if job.rank > own {
                    after = after.min(job.rank);
                }
                if job.rank != own || !self.has_room(view, job) {
                    continue;
                }
                let other = self.links[out(job.source) + into(job.target) - link].left;
                if best.is_none_or(|(most, _)| other > most) {
                    best = Some((other, index));
                }
            }
            let lane = &mut self.lanes[at];
            if let Some((_, job)) = best {
                lane.queue(link, own, now);
                self.given[job] = self.round;
                return Some(job);
            }
            lane.queue(link, after, now);
        }
    }

    /// Whether the job would get all of its rate and slow nobody.
    fn has_room(&self, view: &View<'_>, job: &Job<'_>) -> bool {
        let rate = alone(view, job);
        let links = [out(job.source), into(job.target)];
        links.iter().all(|link| self.links[*link].has_room(rate))
    }
}

/// The rate of a move that has both links for itself.
fn undivided(view: &View<'_>, (source, target): (HostId, HostId), most: Option<u64>) -> u64 {
    let links = rate(view.fleet, source, target);
    links.into_iter().chain(most).min().unwrap_or(NOMINAL_RATE)
}

/// The same for a job.
fn alone(view: &View<'_>, job: &Job<'_>) -> u64 {
    let most = capped(view.guest(job.ask.guest), None);
    undivided(view, (job.source, job.target), most)
}
