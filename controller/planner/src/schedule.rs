//! When each move starts and ends, by running the plan on virtual time.
//!
//! The model: a link's bandwidth is shared equally by the moves on it, in and out; a move goes at the lesser share of
//! its two ends; a link of unknown bandwidth does not count. Where neither end's is known, a nominal rate puts the
//! moves in an order, but no time that depends on it is told: durations are absent, and what starts after the end of
//! such a move is told to start when the last known thing happens (zero if nothing is known). Times are whole
//! microseconds, so that what starts at the end of another move starts at exactly that time.
//!
//! A move starts as soon as there is room at its target and a slot at both ends and in its drains; the more important
//! are asked first, and no less important one is held back for them. Room at the source comes back when a move ends.
//! At the target the full size of disks stays held to the end of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::reason::Cause;

use crate::board::Board;
use crate::capacity::When;
use crate::fit::{self, Refusal};
use crate::model::{GuestId, HostId};
use crate::view::View;
use crate::waits;
use crate::wishes::{Ask, Limit};

/// Bytes per second of a link that nobody knows; for the order of moves only.
pub(crate) const NOMINAL_RATE: u64 = 100 << 20;

/// A move to be scheduled.
#[derive(Debug, Clone)]
pub(crate) struct Job<'a> {
    /// The ask, its pools fixed.
    pub(crate) ask: Ask<'a>,
    pub(crate) source: HostId,
    pub(crate) target: HostId,
    pub(crate) pools: Vec<usize>,
    pub(crate) bytes: u64,
    /// Microseconds until it may start at all.
    pub(crate) rest: u64,
}

/// When a job runs.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) job: usize,
    pub(crate) start: Duration,
    pub(crate) duration: Option<Duration>,
    pub(crate) waits: Option<Cause>,
    /// Whether `start` is all that is known of it.
    vague: bool,
}

/// How a schedule came out.
pub(crate) enum Outcome {
    /// Every job, in the order in which they start; and the time of the last end, where known.
    Done(Vec<Run>, Option<Duration>),
    /// These never start.
    Stuck(Vec<usize>),
}

/// What keeps a job from starting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Block {
    Rest,
    Room(Refusal),
    Outbound,
    Inbound,
    Parallel(usize),
}

/// Something under way.
struct Active {
    /// The job and its place in the list of runs; absent: in flight before.
    job: Option<(usize, usize)>,
    /// Whose room at the source comes back at its end.
    frees: Option<GuestId>,
    source: HostId,
    target: HostId,
    limits: Vec<usize>,
    /// Bytes left; absent: `ends` is given.
    left: Option<f64>,
    rate: f64,
    nominal: bool,
    started: u64,
    ends: u64,
}

/// The world on virtual time.
pub(crate) struct Simulation<'s, 'v, 'a> {
    pub(crate) board: Board<'v, 'a>,
    pub(crate) jobs: &'s [Job<'a>],
    pub(crate) limits: &'s [Limit<'a>],
    covering: BTreeMap<HostId, Vec<usize>>,
    pub(crate) outbound: Vec<u32>,
    pub(crate) inbound: Vec<u32>,
    pub(crate) parallel: Vec<u32>,
    links: Vec<u32>,
    active: Vec<Active>,
    waiting: BTreeSet<usize>,
    touching: Vec<Vec<usize>>,
    under: Vec<Vec<usize>>,
    runs: Vec<Run>,
    time: u64,
    /// The last time told; set once a time is only nominal.
    frozen: Option<u64>,
}

/// Whole microseconds, rounded up.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Runs these jobs, asked in their order, on a board on which only what is in flight is held.
pub(crate) fn run<'v, 'a>(board: Board<'v, 'a>, jobs: &[Job<'a>], limits: &[Limit<'a>]) -> Outcome {
    Simulation::new(board, jobs, limits).run()
}

impl<'s, 'v, 'a> Simulation<'s, 'v, 'a> {
    fn new(board: Board<'v, 'a>, jobs: &'s [Job<'a>], limits: &'s [Limit<'a>]) -> Self {
        let view = board.view;
        let hosts = view.fleet.hosts.len();
        let mut covering: BTreeMap<HostId, Vec<usize>> = BTreeMap::new();
        for (index, limit) in limits.iter().enumerate() {
            for host in limit.hosts {
                covering.entry(*host).or_default().push(index);
            }
        }
        let mut world = Self {
            board,
            jobs,
            limits,
            covering,
            outbound: vec![0; hosts],
            inbound: vec![0; hosts],
            parallel: vec![0; limits.len()],
            links: vec![0; hosts],
            active: Vec::new(),
            waiting: (0..jobs.len()).collect(),
            touching: vec![Vec::new(); hosts],
            under: vec![Vec::new(); limits.len()],
            runs: Vec::new(),
            time: 0,
            frozen: None,
        };
        for (index, job) in jobs.iter().enumerate() {
            world.touching[job.source.at()].push(index);
            world.touching[job.target.at()].push(index);
            for limit in world.limits_of(job) {
                world.under[limit].push(index);
            }
        }
        world.adopt(view);
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
            let left = match flight.remaining {
                Some(_) => None,
                None => Some(self.board.bytes(flight.guest, flight.target).0.max(1) as f64),
            };
            self.begin(Active {
                job: None,
                frees: (guest.host == flight.source).then_some(flight.guest),
                source: flight.source,
                target: flight.target,
                limits,
                left,
                rate: 0.0,
                nominal: false,
                started: 0,
                ends: flight.remaining.map_or(0, micros),
            });
        }
    }

    fn limits_of(&self, job: &Job<'_>) -> Vec<usize> {
        match self.covering.get(&job.source) {
            Some(limits) if job.ask.drain => limits.clone(),
            _ => Vec::new(),
        }
    }

    fn begin(&mut self, active: Active) {
        self.outbound[active.source.at()] += 1;
        self.inbound[active.target.at()] += 1;
        self.links[active.source.at()] += 1;
        self.links[active.target.at()] += 1;
        for limit in &active.limits {
            self.parallel[*limit] += 1;
        }
        self.active.push(active);
    }

    fn run(mut self) -> Outcome {
        let all: Vec<usize> = self.waiting.iter().copied().collect();
        self.start(&all);
        let blocked: BTreeMap<usize, Cause> = self
            .waiting
            .clone()
            .into_iter()
            .filter_map(|job| Some((job, waits::cause(&self, job, self.block(job, true)?))))
            .collect();
        while !self.waiting.is_empty() || self.active.iter().any(|active| active.job.is_some()) {
            self.set_rates();
            let rests = self.waiting.iter().map(|job| self.jobs[*job].rest);
            let rest = rests.filter(|rest| *rest > self.time).min();
            let end = self.active.iter().map(|active| active.ends).min();
            let Some(next) = rest.into_iter().chain(end).min() else {
                return Outcome::Stuck(self.waiting.into_iter().collect());
            };
            let touched = self.advance(next);
            self.start(&touched);
        }
        let mut runs = self.runs;
        for run in &mut runs {
            run.waits = blocked.get(&run.job).cloned();
        }
        let mut ends = runs.iter().map(|run| {
            let known = run.duration.filter(|_| !run.vague)?;
            Some(run.start + known)
        });
        let makespan = ends.try_fold(Duration::ZERO, |last, end| Some(last.max(end?)));
        Outcome::Done(runs, makespan)
    }

    /// The lesser share of both ends.
    fn set_rates(&mut self) {
        let view = self.board.view;
        for active in &mut self.active {
            let Some(left) = active.left else { continue };
            let share = |host: HostId| {
                let bandwidth = view.host(host).bandwidth?.0.max(1);
                Some(bandwidth as f64 / f64::from(self.links[host.at()]))
            };
            let rate = match (share(active.source), share(active.target)) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            let nominal = || {
                let links = self.links[active.source.at()].max(self.links[active.target.at()]);
                NOMINAL_RATE as f64 / f64::from(links)
            };
            active.nominal = rate.is_none();
            active.rate = rate.unwrap_or_else(nominal);
            let takes = (left / active.rate * 1e6).ceil() as u64;
            active.ends = self.time.saturating_add(takes);
        }
    }

    /// Goes to that time and ends what ends there. Gives the jobs that may start now, perhaps.
    fn advance(&mut self, next: u64) -> Vec<usize> {
        let passed = (next - self.time) as f64 / 1e6;
        let ending = self.active.iter().filter(|active| active.ends <= next);
        if self.frozen.is_none() && ending.clone().any(|active| active.nominal) {
            self.frozen = Some(self.time);
        }
        self.time = next;
        let rested = |job: &&usize| self.jobs[**job].rest == next;
        let mut touched: Vec<usize> = self.waiting.iter().filter(rested).copied().collect();
        let mut going = Vec::with_capacity(self.active.len());
        for mut active in std::mem::take(&mut self.active) {
            if active.ends > next {
                active.left = active
                    .left
                    .map(|left| (left - active.rate * passed).max(0.0));
                going.push(active);
            } else {
                self.end(&active, &mut touched);
            }
        }
        self.active = going;
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    fn end(&mut self, active: &Active, touched: &mut Vec<usize>) {
        let (source, target) = (active.source.at(), active.target.at());
        self.outbound[source] -= 1;
        self.inbound[target] -= 1;
        self.links[source] -= 1;
        self.links[target] -= 1;
        for limit in &active.limits {
            self.parallel[*limit] -= 1;
            self.under[*limit].retain(|job| self.waiting.contains(job));
            touched.extend(&self.under[*limit]);
        }
        for host in [source, target] {
            self.touching[host].retain(|job| self.waiting.contains(job));
            touched.extend(&self.touching[host]);
        }
        let view = self.board.view;
        if let Some(guest) = active.frees {
            self.board.room.left(view.fleet, &view.layout, guest);
        }
        if let Some((job, run)) = active.job {
            let length = Duration::from_micros(active.ends - active.started);
            self.runs[run].duration = (!active.nominal).then_some(length);
            self.board.into[target].retain(|other| *other != job);
        }
    }

    /// Starts what can start of these jobs.
    fn start(&mut self, jobs: &[usize]) {
        for index in jobs {
            if !self.waiting.contains(index) || self.block(*index, false).is_some() {
                continue;
            }
            self.waiting.remove(index);
            let job = &self.jobs[*index];
            let view = self.board.view;
            let guest = view.guest(job.ask.guest);
            self.board
                .room
                .hold(&view.layout, guest, job.target, &job.pools, 1);
            self.board.into[job.target.at()].push(*index);
            let start = match &mut self.frozen {
                None => self.time,
                Some(frozen) => {
                    *frozen = (*frozen).max(job.rest);
                    *frozen
                }
            };
            self.runs.push(Run {
                job: *index,
                start: Duration::from_micros(start),
                duration: None,
                waits: None,
                vague: self.frozen.is_some(),
            });
            let active = Active {
                job: Some((*index, self.runs.len() - 1)),
                frees: Some(job.ask.guest),
                source: job.source,
                target: job.target,
                limits: self.limits_of(job),
                left: Some(job.bytes.max(1) as f64),
                rate: 0.0,
                nominal: false,
                started: self.time,
                ends: u64::MAX,
            };
            self.begin(active);
        }
    }

    /// What keeps the job from starting now. Room is looked at first where the answer is told, last where it is not,
    /// since it costs most.
    fn block(&self, index: usize, told: bool) -> Option<Block> {
        let job = &self.jobs[index];
        if job.rest > self.time {
            return Some(Block::Rest);
        }
        if told && let Some(refusal) = self.no_room(index) {
            return Some(Block::Room(refusal));
        }
        let view = self.board.view;
        let (source, target) = (job.source, job.target);
        if self.outbound[source.at()] >= view.host(source).max_outbound {
            return Some(Block::Outbound);
        }
        if self.inbound[target.at()] >= view.host(target).max_inbound {
            return Some(Block::Inbound);
        }
        if let (true, Some(limits)) = (job.ask.drain, self.covering.get(&source)) {
            let full = |limit: &&usize| self.parallel[**limit] >= self.limits[**limit].parallel;
            if let Some(limit) = limits.iter().find(full) {
                return Some(Block::Parallel(*limit));
            }
        }
        if told {
            None
        } else {
            self.no_room(index).map(Block::Room)
        }
    }

    fn no_room(&self, index: usize) -> Option<Refusal> {
        let job = &self.jobs[index];
        let mut refused = None;
        fit::room(
            &self.board,
            &job.ask,
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
        let active = self.active.iter().filter(|active| active.source == host);
        let active = active.filter_map(|active| active.frees);
        let waiting = self.waiting.iter().map(|job| &self.jobs[*job]);
        let waiting = waiting.filter(|job| job.source == host);
        active.chain(waiting.map(|job| job.ask.guest)).collect()
    }
}
