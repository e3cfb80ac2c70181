//! When each move starts and ends, by running the plan on virtual time.
//!
//! How long a move takes is the links' affair (`traffic`). No time that depends on a nominal rate is told: durations are
//! absent, and what starts after the end of such a move is told to start when the last known thing happens (zero if
//! nothing is known).
//!
//! A move starts as soon as there is room at its target and a slot at both ends and in its drains; the more important
//! are asked first, and no less important one is held back for them. Where a limit keeps moves waiting, its places go to
//! moves that get all of their rate first (`lanes`). Room at the source comes back when a move ends.
//! At the target the full size of disks stays held to the end of the plan.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_crds::reason::Cause;
use evenkeel_crds::shared::RequestedBy;

use crate::board::Board;
use crate::bytes::capped;
use crate::capacity::When;
use crate::fit::{self, Refusal};
use crate::jobs::{Job, Leg};
use crate::lanes::Lanes;
use crate::model::{GuestId, HostId};
use crate::queues::{Freed, Queues};
use crate::traffic::{Traffic, Transfer};
use crate::view::View;
use crate::waits;
use crate::wishes::{For, Limit, covering};

/// When a job runs.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) job: usize,
    pub(crate) start: Duration,
    pub(crate) duration: Option<Duration>,
    /// From its start until its disks are copied and memory begins to travel, if it is a move of both.
    pub(crate) disks: Option<Duration>,
    /// What travels, with base images that the target has not got by then.
    pub(crate) bytes: u64,
    pub(crate) waits: Option<Cause>,
    /// Whether `start` is all that is known of it.
    vague: bool,
}

/// How a schedule came out.
pub(crate) enum Outcome<'v, 'a> {
    /// Every job, in the order in which they start; and the time of the last end, where known.
    Done(Vec<Run>, Option<Duration>),
    /// Some never start.
    Stuck(Box<Stall<'v, 'a>>),
}

/// Where a schedule came to a stop.
pub(crate) struct Stall<'v, 'a> {
    /// The jobs that never start.
    pub(crate) waiting: Vec<usize>,
    /// What is held everywhere by then.
    pub(crate) board: Board<'v, 'a>,
    /// When, in microseconds.
    pub(crate) time: u64,
}

/// What keeps a job from starting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Block {
    Rest,
    /// Another has to have ended before.
    Turn,
    Room(Refusal),
    Outbound,
    Inbound,
    Parallel(usize),
    Fleet(u32),
}

/// Something under way.
struct Active {
    /// The job and its place in the list of runs; absent: in flight before.
    job: Option<(usize, usize)>,
    /// Whose room at the source comes back at its end.
    frees: Option<GuestId>,
    /// If the source is where it stopped over: the pools that it holds there.
    stopover: Option<Vec<usize>>,
    limits: Vec<usize>,
}

/// The world on virtual time. An event costs what it changes: the moves on its two links get new rates, and the moves
/// that wait for what it frees are asked again.
pub(crate) struct Simulation<'s, 'v, 'a> {
    pub(crate) board: Board<'v, 'a>,
    pub(crate) jobs: &'s [Job<'a>],
    pub(crate) limits: &'s [Limit<'a>],
    /// For each host the limits on drains' moves from there.
    covering: Vec<Vec<usize>>,
    /// Each limit by who asks: for moves from anywhere.
    own: BTreeMap<&'a RequestedBy, [usize; 1]>,
    pub(crate) parallel: Vec<u32>,
    /// What is under way on the links.
    pub(crate) traffic: Traffic,
    /// What else is known of it, by its place there.
    moves: Vec<Active>,
    /// Planned moves under way.
    going: usize,
    /// For each job whether it has ended.
    ended: Vec<bool>,
    /// Jobs that start after another has ended.
    turns: Vec<usize>,
    queues: Queues,
    lanes: Lanes,
    runs: Vec<Run>,
    /// The last time told; set once a time is only nominal.
    frozen: Option<u64>,
}

/// The limits that a job's start is counted under.
fn limits_of<'s>(
    covering: &'s [Vec<usize>],
    own: &'s BTreeMap<&RequestedBy, [usize; 1]>,
    job: &Job<'_>,
) -> &'s [usize] {
    match job.ask.kind {
        For::Drain => &covering[job.source.at()],
        For::Balance | For::Room => own.get(job.ask.by).map_or(&[], |own| own.as_slice()),
        For::Explicit | For::Placement => &[],
    }
}

/// Whole microseconds, rounded up.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Runs these jobs, asked in their order, on a board on which only what is in flight is held.
pub(crate) fn run<'v, 'a>(
    board: Board<'v, 'a>,
    jobs: &[Job<'a>],
    limits: &[Limit<'a>],
) -> Outcome<'v, 'a> {
    Simulation::new(board, jobs, limits).run()
}

impl<'s, 'v, 'a> Simulation<'s, 'v, 'a> {
    fn new(board: Board<'v, 'a>, jobs: &'s [Job<'a>], limits: &'s [Limit<'a>]) -> Self {
        let view = board.view;
        let hosts = view.fleet.hosts.len();
        let covering = covering(view.fleet, limits);
        let own = limits.iter().enumerate();
        let own = own.map(|(index, limit)| (limit.by, [index])).collect();
        let of_fleet = view.fleet.limits.parallel.map(|_| limits.len());
        let queues = Queues::new(view, jobs, limits.len() + 1, |job| {
            let own = limits_of(&covering, &own, job).iter().copied();
            own.chain(of_fleet)
        });
        let mut world = Self {
            board,
            jobs,
            limits,
            covering,
            own,
            parallel: vec![0; limits.len()],
            traffic: Traffic::new(hosts),
            moves: Vec::new(),
            going: 0,
            ended: vec![false; jobs.len()],
            turns: (0..jobs.len())
                .filter(|job| jobs[*job].after.is_some())
                .collect(),
            queues,
            lanes: Lanes::default(),
            runs: Vec::new(),
            frozen: None,
        };
        world.adopt(view);
        world.open_lanes();
        world
    }

    /// What is in flight goes on.
    fn adopt(&mut self, view: &View<'_>) {
        for flight in &view.ledger.in_flight {
            let drains = |limit: &Limit<'_>| flight.by.as_ref() == Some(limit.by);
            let by_drain = flight.by.is_some()
                && (self.limits.iter().any(drains)
                    || flight.by.as_ref().is_some_and(|by| by.kind == "HostDrain"));
            let limits = self.limits.iter().enumerate();
            let counts = limits.filter(|(_, limit)| {
                drains(limit) || by_drain && limit.hosts.contains(&flight.source)
            });
            let limits: Vec<usize> = counts.map(|(index, _)| index).collect();
            let guest = view.guest(flight.guest);
            let (source, target) = (flight.source, flight.target);
            let transfer = match flight.remaining {
                Some(remaining) => Transfer::until(source, target, micros(remaining)),
                None => {
                    let bytes = self.board.bytes(flight.guest, target).0;
                    Transfer::of((source, target), capped(guest, None), bytes, 0)
                }
            };
            let active = Active {
                job: None,
                frees: (guest.host == source).then_some(flight.guest),
                stopover: None,
                limits,
            };
            self.begin(active, transfer);
        }
    }

    /// Lanes for the limits that can keep jobs waiting: hosts' own slots would let more of them go at once.
    fn open_lanes(&mut self) {
        let view = self.board.view;
        let counts = self.queues.at_once(view, self.jobs);
        let binds = |limit: usize| {
            let free = self.free(limit);
            counts[limit] > free as usize
        };
        let binding: Vec<bool> = (0..counts.len()).map(binds).collect();
        let of_fleet = self.limits.len();
        let limits_of = |job: usize| {
            let own = limits_of(&self.covering, &self.own, &self.jobs[job]).iter();
            let all = own.copied().chain([of_fleet]);
            all.filter(|limit| binding[*limit]).collect()
        };
        self.lanes = Lanes::new(view, self.jobs, limits_of);
        for index in 0..self.moves.len() {
            self.lanes.carry(view, self.traffic.get(index), true);
        }
    }

    /// How many more moves the limit allows; that of the fleet comes after all others.
    fn free(&self, limit: usize) -> u32 {
        match self.limits.get(limit) {
            Some(own) => own.parallel.saturating_sub(self.parallel[limit]),
            None => {
                let most = self.board.view.fleet.limits.parallel;
                most.map_or(u32::MAX, |most| most.saturating_sub(self.traffic.under_way))
            }
        }
    }

    fn begin(&mut self, active: Active, transfer: Transfer) {
        let view = self.board.view;
        self.lanes.carry(view, &transfer, true);
        for limit in &active.limits {
            self.parallel[*limit] += 1;
        }
        self.going += usize::from(active.job.is_some());
        self.moves.push(active);
        self.traffic.begin(view, transfer);
    }

    fn run(mut self) -> Outcome<'v, 'a> {
        self.start_first((0..self.jobs.len()).collect(), Vec::new());
        let blocked: Vec<Option<Cause>> = (0..self.jobs.len())
            .map(|job| {
                let block = self.queues.waits(job).then(|| self.block(job, true))??;
                Some(waits::cause(&self, job, block))
            })
            .collect();
        while self.queues.waiting() > 0 || self.going > 0 {
            let rest = self.queues.next_rest(self.traffic.time);
            let Some(next) = rest.into_iter().chain(self.traffic.next_end()).min() else {
                return Outcome::Stuck(Box::new(Stall {
                    waiting: self.queues.all_waiting(),
                    board: self.board,
                    time: self.traffic.time,
                }));
            };
            let freed = self.advance(next);
            self.start_after(&freed);
        }
        let mut runs = self.runs;
        for run in &mut runs {
            run.waits.clone_from(&blocked[run.job]);
        }
        let mut ends = runs.iter().map(|run| {
            let known = run.duration.filter(|_| !run.vague)?;
            Some(run.start + known)
        });
        let makespan = ends.try_fold(Duration::ZERO, |last, end| Some(last.max(end?)));
        Outcome::Done(runs, makespan)
    }

    /// Goes to that time and ends what ends there. Gives what that frees.
    fn advance(&mut self, next: u64) -> Freed {
        let mut freed = Freed::default();
        let before = self.traffic.time;
        let ending = self.traffic.advance(next);
        let nominal = |index: &usize| self.traffic.get(*index).nominal;
        if self.frozen.is_none() && ending.iter().any(nominal) {
            self.frozen = Some(before);
        }
        for index in &ending {
            self.end(*index, &mut freed);
        }
        for host in &freed.hosts {
            self.traffic.share(self.board.view, *host);
        }
        freed
    }

    fn end(&mut self, index: usize, freed: &mut Freed) {
        let (active, transfer) = (&self.moves[index], self.traffic.get(index));
        let (source, target) = (transfer.source, transfer.target);
        self.lanes.carry(self.board.view, transfer, false);
        if self.free(self.limits.len()) == 0 {
            freed.limits.push(self.limits.len());
        }
        freed.hosts.extend([source, target]);
        for limit in &active.limits {
            if self.free(*limit) == 0 {
                freed.limits.push(*limit);
            }
            self.parallel[*limit] -= 1;
        }
        let view = self.board.view;
        if let (Some(guest), Some(pools)) = (active.frees, &active.stopover) {
            let facts = view.guest(guest);
            let room = &mut self.board.room;
            room.hold_disks(&view.layout, facts, source, pools, -1);
            self.board.counts.gone_on(view, guest, source);
        } else if let Some(guest) = active.frees {
            self.board.room.left(view.fleet, &view.layout, guest, 1);
            self.board.counts.left(view, guest, 1);
        }
        if let Some(guest) = active.frees {
            let rules = view.rules.of(guest).map(|(rule, _)| rule);
            freed.rules.extend(rules);
        }
        if let Some((job, run)) = active.job {
            self.going -= 1;
            self.ended[job] = true;
            let next = self.turns.iter().copied();
            freed
                .jobs
                .extend(next.filter(|next| self.jobs[*next].after == Some(job)));
            let since = |time: u64| Duration::from_micros(time - transfer.started);
            let run = &mut self.runs[run];
            run.duration = (!transfer.nominal).then(|| since(transfer.ends));
            let of_both = (1..run.bytes).contains(&self.jobs[job].memory);
            let switched = transfer.switched.filter(|_| of_both && !transfer.nominal);
            run.disks = switched.map(since);
            self.board.into[target.at()].retain(|other| *other != job);
        }
        self.traffic.end(index);
    }

    /// Starts what can start now that this is free, the more important first.
    fn start_after(&mut self, freed: &Freed) {
        let mut candidates = self.queues.rested(self.traffic.time);
        candidates.extend(&freed.jobs);
        for rule in &freed.rules {
            self.queues.kin(*rule, &mut candidates);
        }
        for host in &freed.hosts {
            if self.traffic.outbound[host.at()] < self.board.view.host(*host).max_outbound {
                self.queues.from(*host, &mut candidates);
            }
            if self.traffic.inbound[host.at()] < self.board.view.host(*host).max_inbound {
                self.queues.to(*host, &mut candidates);
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        for job in &candidates {
            self.lanes.wake(self.jobs, *job);
        }
        let mut limits = freed.limits.clone();
        limits.sort_unstable();
        limits.dedup();
        self.start_first(candidates, limits);
    }

    /// Starts what can start of these jobs, and of those under these limits: each time the more important, and of those
    /// that are kept waiting by a limit first what gets all of its rate.
    fn start_first(&mut self, candidates: Vec<usize>, limits: Vec<usize>) {
        let mut moved = Vec::new();
        let mut next = 0;
        let mut limits: Vec<(usize, usize)> = limits.into_iter().map(|limit| (limit, 0)).collect();
        self.lanes.next_round();
        loop {
            limits.retain_mut(|(limit, place)| {
                self.free(*limit) > 0 && self.queues.seek(*limit, place)
            });
            let under = limits
                .iter()
                .map(|(limit, place)| self.queues.under(*limit, *place));
            let job = candidates.get(next).copied().into_iter().chain(under).min();
            let rank = job.map_or(u32::MAX, |job| self.jobs[job].rank);
            if let Some(first) = self.next_in_lane(rank) {
                self.start(first, &mut moved);
                continue;
            }
            let Some(job) = job else {
                break;
            };
            if candidates.get(next) == Some(&job) {
                next += 1;
            }
            for (limit, place) in &mut limits {
                *place += usize::from(self.queues.under(*limit, *place) == job);
            }
            self.start(job, &mut moved);
        }
        self.start_kin(moved);
    }

    fn next_in_lane(&mut self, rank: u32) -> Option<usize> {
        if self.lanes.are_none() {
            return None;
        }
        let mut lanes = std::mem::take(&mut self.lanes);
        let view = self.board.view;
        let is_open = |limit: usize| self.free(limit) > 0;
        let next = lanes.next(view, self.jobs, &self.queues, rank, &is_open);
        self.lanes = lanes;
        next
    }

    /// A start may let others start that are under the same rules.
    fn start_kin(&mut self, mut moved: Vec<usize>) {
        while !moved.is_empty() {
            let mut candidates = Vec::new();
            for rule in std::mem::take(&mut moved) {
                self.queues.kin(rule, &mut candidates);
            }
            candidates.sort_unstable();
            candidates.dedup();
            for job in candidates {
                self.start(job, &mut moved);
            }
        }
    }

    /// Starts the job if nothing keeps it. Notes the rules that it is under.
    fn start(&mut self, index: usize, moved: &mut Vec<usize>) {
        if !self.queues.waits(index) || self.full() || self.block(index, false).is_some() {
            return;
        }
        let job = &self.jobs[index];
        self.queues.started(index, job.source, job.target);
        self.lanes.started(self.board.view, job);
        let view = self.board.view;
        let guest = view.guest(job.ask.guest);
        let brings = self.board.brings(job.ask.guest, job.target);
        let bytes = job.bytes.saturating_add(brings);
        let transfer = Transfer::of(
            (job.source, job.target),
            capped(guest, None),
            bytes,
            job.memory,
        );
        self.board
            .room
            .hold(view.fleet, &view.layout, guest, job.target, &job.pools, 1);
        self.board.into[job.target.at()].push(index);
        match job.leg {
            Leg::On { .. } => self.board.counts.goes_on(view, job.ask.guest, job.source),
            Leg::Whole | Leg::Out { .. } => self.board.counts.leave(view, job.ask.guest, 1),
        }
        moved.extend(view.rules.of(job.ask.guest).map(|(rule, _)| rule));
        self.board.counts.arrive(view, job.ask.guest, job.target, 1);
        let start = match &mut self.frozen {
            None => self.traffic.time,
            Some(frozen) => {
                *frozen = (*frozen).max(job.rest);
                *frozen
            }
        };
        self.runs.push(Run {
            job: index,
            start: Duration::from_micros(start),
            duration: None,
            disks: None,
            bytes,
            waits: None,
            vague: self.frozen.is_some(),
        });
        let active = Active {
            job: Some((index, self.runs.len() - 1)),
            frees: Some(job.ask.guest),
            stopover: match &job.leg {
                Leg::On { pools } => Some(pools.clone()),
                Leg::Whole | Leg::Out { .. } => None,
            },
            limits: limits_of(&self.covering, &self.own, job).to_vec(),
        };
        self.begin(active, transfer);
    }

    /// Whether as many moves are under way as the whole fleet may have.
    fn full(&self) -> bool {
        let most = self.board.view.fleet.limits.parallel;
        most.is_some_and(|most| self.traffic.under_way >= most)
    }

    /// What keeps the job from starting now. Room is looked at first where the answer is told, last where it is not,
    /// since it costs most.
    fn block(&self, index: usize, told: bool) -> Option<Block> {
        let job = &self.jobs[index];
        if job.rest > self.traffic.time {
            return Some(Block::Rest);
        }
        if job.after.is_some_and(|after| !self.ended[after]) {
            return Some(Block::Turn);
        }
        if told && let Some(refusal) = self.no_room(index) {
            return Some(Block::Room(refusal));
        }
        let view = self.board.view;
        let (source, target) = (job.source, job.target);
        if self.traffic.outbound[source.at()] >= view.host(source).max_outbound {
            return Some(Block::Outbound);
        }
        if self.traffic.inbound[target.at()] >= view.host(target).max_inbound {
            return Some(Block::Inbound);
        }
        if let Some(most) = view.fleet.limits.parallel.filter(|_| self.full()) {
            return Some(Block::Fleet(most));
        }
        let full = |limit: &&usize| self.free(**limit) == 0;
        let limits = limits_of(&self.covering, &self.own, job);
        if let Some(limit) = limits.iter().find(full) {
            return Some(Block::Parallel(*limit));
        }
        let guest = view.guest(job.ask.guest);
        let forbids = self.forbids(job);
        if told || forbids.is_none() && self.board.holds(guest, target, &job.pools, When::Now) {
            None
        } else {
            self.no_room(index).map(Block::Room)
        }
    }

    fn forbids(&self, job: &Job<'_>) -> Option<Refusal> {
        let ends = (job.source, job.target);
        self.board
            .forbids(job.ask.guest, ends, When::Now, job.strictness())
    }

    fn no_room(&self, index: usize) -> Option<Refusal> {
        let job = &self.jobs[index];
        let forbids = self.forbids(job);
        if forbids.is_some() {
            return forbids;
        }
        let mut refused = None;
        fit::room(
            &self.board,
            &job.fixed(),
            job.target,
            When::Now,
            &mut Vec::new(),
            &mut |refusal| {
                refused = Some(refusal);
                false
            },
        );
        refused
    }

    /// Guests that leave the host, or have yet to: those in flight first.
    pub(crate) fn leaving(&self, host: HostId) -> Vec<GuestId> {
        let under_way = self.traffic.of(host).iter().copied();
        let leaving = under_way.filter(|index| self.traffic.get(*index).source == host);
        let active = leaving.filter_map(|index| self.moves[index].frees);
        let mut waiting = Vec::new();
        self.queues.from(host, &mut waiting);
        active
            .chain(waiting.into_iter().map(|job| self.jobs[job].ask.guest))
            .collect()
    }
}
