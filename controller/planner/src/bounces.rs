//! Rings that are broken by guests that stop over: hosts whose guests trade places have no room for both at once, so
//! one of them goes to a third host first.
//!
//! What is looked for is the set of guests that has the fewest bytes to travel once more, ring by ring, the innermost
//! first. It is tried out on what is held when nothing moves any more, one move after the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::board::{Board, Bulk, share};
use crate::capacity::When;
use crate::choose::about_room;
use crate::explain;
use crate::fit::{Refusal, fits};
use crate::jobs::{Job, Leg};
use crate::model::HostId;
use crate::rings;
use crate::rules::Strictness;
use crate::schedule::Stall;
use crate::wishes::{Ask, For, NO_OVERRIDES};

/// Sets of guests that are tried for one ring.
const TRIES: usize = 128;
/// Moves that wait for each other otherwise than by room (rules), up to which all are looked at as one ring.
const SMALL: usize = 32;

/// A guest that stops over.
#[derive(Debug, Clone)]
pub(crate) struct Bounce {
    pub(crate) job: usize,
    pub(crate) host: HostId,
    /// For each disk its pool there.
    pub(crate) pools: Vec<usize>,
}

/// A ring that nothing breaks.
pub(crate) struct Uncured {
    pub(crate) ring: Vec<usize>,
    /// What is short and by how much, as the end of a sentence.
    pub(crate) witness: String,
}

pub(crate) type MayPass<'f> = &'f dyn Fn(&Ask<'_>, HostId) -> bool;

/// Guests that stop over so that all that waits gets done.
pub(crate) fn find(
    stall: &Stall<'_, '_>,
    jobs: &[Job<'_>],
    may_pass: MayPass<'_>,
) -> Result<Vec<Bounce>, Uncured> {
    let mut trial = Trial::new(stall, jobs, may_pass);
    trial.settle(stall.waiting.clone());
    while !trial.waiting.is_empty() {
        let edges = trial.waiting.iter().map(|job| {
            let from = trial.over.get(job).map_or(jobs[*job].source, |over| over.0);
            (*job, from, jobs[*job].target)
        });
        let mut ring = rings::innermost(&edges.collect::<Vec<_>>());
        if ring.is_empty() && trial.waiting.len() <= SMALL {
            ring = trial.waiting.iter().copied().collect();
        }
        if ring.is_empty() || !trial.solve(&ring) {
            let witness = trial.witness(&ring);
            if ring.is_empty() {
                ring = trial.waiting.iter().copied().collect();
            }
            return Err(Uncured { ring, witness });
        }
    }
    Ok(trial.bounces)
}

/// What has been done on trial, to be undone.
enum Step {
    Moved(usize),
    Bounced(usize),
}

pub(crate) struct Trial<'t, 'v, 'a> {
    pub(crate) board: Board<'v, 'a>,
    jobs: &'t [Job<'a>],
    may_pass: MayPass<'t>,
    pub(crate) waiting: BTreeSet<usize>,
    /// The jobs that go to each host.
    into: BTreeMap<HostId, Vec<usize>>,
    /// Guests that have stopped over, by their jobs: where, and in which pools.
    over: BTreeMap<usize, (HostId, Vec<usize>)>,
    bounces: Vec<Bounce>,
    steps: Vec<Step>,
}

impl<'t, 'v, 'a> Trial<'t, 'v, 'a> {
    pub(crate) fn new(stall: &Stall<'v, 'a>, jobs: &'t [Job<'a>], may_pass: MayPass<'t>) -> Self {
        let mut into: BTreeMap<HostId, Vec<usize>> = BTreeMap::new();
        for job in &stall.waiting {
            into.entry(jobs[*job].target).or_default().push(*job);
        }
        Self {
            board: stall.board.clone(),
            jobs,
            may_pass,
            waiting: stall.waiting.iter().copied().collect(),
            into,
            over: BTreeMap::new(),
            bounces: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Does what can be done of these jobs, and what that lets be done.
    fn settle(&mut self, mut jobs: Vec<usize>) {
        jobs.reverse();
        while let Some(job) = jobs.pop() {
            if self.waiting.contains(&job) && self.may_go(job) {
                let freed = self.source(job);
                self.arrive(job);
                jobs.extend(self.freed(job, freed));
            }
        }
    }

    /// The job is done.
    pub(crate) fn arrive(&mut self, job: usize) {
        self.go(job, 1);
        self.waiting.remove(&job);
        self.steps.push(Step::Moved(job));
    }

    /// The job's guest stops over.
    pub(crate) fn stop_over(&mut self, job: usize, host: HostId, pools: Vec<usize>) {
        self.shift(job, None, host, &pools, 1);
        self.over.insert(job, (host, pools));
        self.steps.push(Step::Bounced(job));
    }

    /// The jobs to be looked at after this one's guest has left the host.
    fn freed(&self, job: usize, host: HostId) -> Vec<usize> {
        if self.board.view.rules.any(self.jobs[job].ask.guest) {
            return self.waiting.iter().rev().copied().collect();
        }
        let brought = |other: &usize| self.jobs[*other].after == Some(job);
        let next = self.waiting.iter().copied().find(brought);
        let into = self.into.get(&host).into_iter().flatten().rev().copied();
        into.chain(next).collect()
    }

    fn source(&self, job: usize) -> HostId {
        let over = self.over.get(&job);
        over.map_or(self.jobs[job].source, |(host, _)| *host)
    }

    pub(crate) fn may_go(&self, index: usize) -> bool {
        let job = &self.jobs[index];
        let board = &self.board;
        let brought = job.after.is_none_or(|after| !self.waiting.contains(&after));
        let guest = job.ask.guest;
        brought
            && board.holds(board.view.guest(guest), job.target, &job.pools, When::Now)
            && board
                .forbids(
                    guest,
                    (self.source(index), job.target),
                    When::Now,
                    job.strictness(),
                )
                .is_none()
    }

    /// Has the job's guest at its target (1), or back where it was (-1).
    fn go(&mut self, index: usize, sign: i64) {
        let job = &self.jobs[index];
        let over = match &job.leg {
            Leg::On { pools } => Some((job.source, pools.clone())),
            Leg::Whole | Leg::Out { .. } => self.over.get(&index).cloned(),
        };
        self.shift(index, over, job.target, &job.pools, sign);
    }

    fn shift(
        &mut self,
        index: usize,
        over: Option<(HostId, Vec<usize>)>,
        target: HostId,
        pools: &[usize],
        sign: i64,
    ) {
        let view = self.board.view;
        let id = self.jobs[index].ask.guest;
        let guest = view.guest(id);
        let (room, counts) = (&mut self.board.room, &mut self.board.counts);
        room.hold(view.fleet, &view.layout, guest, target, pools, sign.into());
        match over {
            Some((host, pools)) => {
                room.hold_disks(&view.layout, guest, host, &pools, (-sign).into());
                counts.arrive(view, id, host, -sign);
            }
            None => {
                room.left(view.fleet, &view.layout, id, sign.into());
                counts.leave(view, id, sign);
                counts.left(view, id, sign);
            }
        }
        counts.arrive(view, id, target, sign);
    }

    /// Breaks the ring with as few bytes as that takes. Changes nothing if it can't.
    fn solve(&mut self, ring: &[usize]) -> bool {
        let hosts: BTreeSet<HostId> = ring.iter().map(|job| self.jobs[*job].target).collect();
        let able = ring.iter().copied().filter(|job| self.is_able(*job));
        let able = able.filter(|job| self.stop(*job, &hosts).is_some());
        let mut able: Vec<(u64, usize)> = able.map(|job| (self.jobs[job].bytes, job)).collect();
        able.sort_unstable();
        // Sets in the order of what they cost: the next is one more, or the next one in the place of the last.
        let mut sets: BinaryHeap<Reverse<(u64, Vec<usize>)>> = BinaryHeap::new();
        if let Some((bytes, _)) = able.first() {
            sets.push(Reverse((*bytes, vec![0])));
        }
        for _ in 0..TRIES {
            let Some(Reverse((bytes, set))) = sets.pop() else {
                return false;
            };
            let guests: Vec<usize> = set.iter().map(|place| able[*place].1).collect();
            if self.attempt(ring, &hosts, &guests) {
                return true;
            }
            let Some(last) = set.last().copied() else {
                continue;
            };
            if let Some((more, _)) = able.get(last + 1) {
                let mut longer = set.clone();
                longer.push(last + 1);
                sets.push(Reverse((bytes.saturating_add(*more), longer)));
                let mut other = set;
                other.pop();
                other.push(last + 1);
                sets.push(Reverse((bytes - able[last].0 + more, other)));
            }
        }
        let all: Vec<usize> = able.iter().map(|(_, job)| *job).collect();
        self.attempt(ring, &hosts, &all)
    }

    /// Whether the ring is done when these stop over, each when it has to.
    fn attempt(&mut self, ring: &[usize], hosts: &BTreeSet<HostId>, guests: &[usize]) -> bool {
        let (mark, known) = (self.steps.len(), self.bounces.len());
        let mut left = guests.iter().copied();
        while ring.iter().any(|job| self.waiting.contains(job)) {
            let next = left.find_map(|job| {
                let waits = self.waiting.contains(&job) && !self.over.contains_key(&job);
                waits.then(|| Some((job, self.stop(job, hosts)?)))?
            });
            let Some((job, (host, pools))) = next else {
                self.undo(mark);
                self.bounces.truncate(known);
                return false;
            };
            let from = self.source(job);
            self.stop_over(job, host, pools.clone());
            self.bounces.push(Bounce { job, host, pools });
            let mut next = self.freed(job, from);
            next.push(job);
            self.settle(next);
        }
        true
    }

    /// Takes back all but so many steps.
    pub(crate) fn undo(&mut self, mark: usize) {
        while self.steps.len() > mark {
            match self.steps.pop() {
                Some(Step::Moved(job)) => {
                    self.go(job, -1);
                    self.waiting.insert(job);
                }
                Some(Step::Bounced(job)) => {
                    if let Some((host, pools)) = self.over.remove(&job) {
                        self.shift(job, None, host, &pools, -1);
                    }
                }
                None => return,
            }
        }
    }

    /// Whether the guest may stop over at all: its target is given, and a group that it must stay with is somewhere.
    pub(crate) fn is_able(&self, index: usize) -> bool {
        let job = &self.jobs[index];
        let view = self.board.view;
        let given = match job.ask.kind {
            For::Explicit => job.ask.target.is_some(),
            For::Placement | For::Balance => true,
            For::Drain | For::Room => false,
        };
        let mut rules = view.rules.of(job.ask.guest);
        given
            && job.leg == Leg::Whole
            && !self.over.contains_key(&index)
            && !view.has_namesake(job.ask.guest)
            && rules.all(|(index, rule)| !rule.law.unites() || self.board.counts.stays(index))
    }

    /// The ask for a stop anywhere.
    pub(crate) fn anywhere(&self, job: usize) -> Ask<'a> {
        let ask = &self.jobs[job].ask;
        Ask {
            target: None,
            overrides: &NO_OVERRIDES,
            strictness: Strictness {
                preferred: ask.kind == For::Balance,
                mends: false,
                passes: true,
            },
            ..ask.clone()
        }
    }

    /// Hosts at which the guest could stop over as far as they are reached.
    pub(crate) fn stops(&self, index: usize) -> impl Iterator<Item = HostId> {
        let job = &self.jobs[index];
        let (from, to) = (self.source(index), job.target);
        let open = self.board.view.open.iter().copied();
        open.filter(move |host| {
            *host != from
                && *host != to
                && self.board.view.host(*host).max_outbound > 0
                && (self.may_pass)(&job.ask, *host)
        })
    }

    /// The host at which the guest stops over best: none of the ring's own, the emptiest, by name.
    fn stop(&self, index: usize, ring: &BTreeSet<HostId>) -> Option<(HostId, Vec<usize>)> {
        let board = &self.board;
        let ask = self.anywhere(index);
        let bulk = Bulk::of(board.view.guest(ask.guest));
        let mut pools = Vec::new();
        let mut best: Option<(HostId, Vec<usize>)> = None;
        let mut least = (true, i128::MAX, usize::MAX);
        for host in self.stops(index) {
            let limit = board.view.host(host).memory_limit.0;
            let fullness = share(board.room.memory(host, When::Now), i128::from(limit));
            let key = (ring.contains(&host), fullness, board.view.rank[host.at()]);
            if key < least
                && board.may_hold(&bulk, host, When::Now)
                && fits(board, &ask, host, When::Now, &mut pools, &mut |_| false)
            {
                least = key;
                best = Some((host, std::mem::take(&mut pools)));
            }
        }
        best
    }

    /// What is short for a stop, where least is.
    fn witness(&self, ring: &[usize]) -> String {
        let board = &self.board;
        let mut least: Option<(i128, String)> = None;
        let mut able = 0;
        for index in ring.iter().copied().filter(|job| self.is_able(*job)) {
            able += 1;
            let ask = self.anywhere(index);
            let guest = board.view.guest(ask.guest);
            for host in self.stops(index) {
                let mut all = Vec::new();
                fits(
                    board,
                    &ask,
                    host,
                    When::Now,
                    &mut Vec::new(),
                    &mut |found| {
                        all.push(found);
                        true
                    },
                );
                if all.is_empty() || !all.iter().all(|found| about_room(*found)) {
                    continue;
                }
                let lacks = |found: &Refusal| match found {
                    Refusal::Memory { left } => i128::from(guest.memory.0) - left,
                    _ => 0,
                };
                let lack = all.iter().map(lacks).max().unwrap_or(0);
                if least.as_ref().is_none_or(|(known, _)| lack < *known) {
                    let sentence = explain::refusal(board, &ask, host, all[0]).message;
                    least = Some((lack, sentence));
                }
            }
        }
        match least {
            _ if able == 0 => String::new(),
            Some((_, sentence)) => {
                format!("; none of them can stop over elsewhere, for {sentence}")
            }
            None => "; no other host may take one of them for a while".to_owned(),
        }
    }
}
