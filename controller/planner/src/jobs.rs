//! Moves as the schedule takes them: with fixed pools, and in two legs where a guest stops over on its way.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::board::{Board, Placed};
use crate::model::HostId;
use crate::rules::Strictness;
use crate::schedule::micros;
use crate::traffic::NOMINAL_RATE;
use crate::wishes::Ask;

/// A move to be scheduled.
#[derive(Debug, Clone)]
pub(crate) struct Job<'a> {
    pub(crate) ask: Ask<'a>,
    pub(crate) source: HostId,
    pub(crate) target: HostId,
    /// For each disk its pool at the target.
    pub(crate) pools: Vec<usize>,
    /// The same by name.
    pub(crate) named: BTreeMap<String, String>,
    /// What travels, base images apart.
    pub(crate) bytes: u64,
    /// Of that, what is memory, which travels last.
    pub(crate) memory: u64,
    /// Microseconds until it may start at all.
    pub(crate) rest: u64,
    /// What is asked first has the lesser rank; equally important jobs have the same.
    pub(crate) rank: u32,
    pub(crate) leg: Leg,
    /// The job that must have ended before.
    pub(crate) after: Option<usize>,
}

/// Which part of a guest's way a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leg {
    /// All of it.
    Whole,
    /// To a host where it stops over, and where it goes on to.
    Out { onward: HostId },
    /// On from there, and the pools that it holds there.
    On { pools: Vec<usize> },
}

impl<'a> Job<'a> {
    /// The ask with the job's own pools.
    pub(crate) fn fixed(&self) -> Ask<'_> {
        Ask {
            overrides: &self.named,
            ..self.ask.clone()
        }
    }

    /// How strictly rules are taken when it starts.
    pub(crate) fn strictness(&self) -> Strictness {
        Strictness {
            passes: matches!(self.leg, Leg::Out { .. }),
            ..Strictness::default()
        }
    }

    /// The job that brings the guest to the host where it stops over. This one goes on from there, and starts when that
    /// one, which is to have the place `after`, has ended.
    pub(crate) fn stop_over(
        &mut self,
        board: &Board<'_, 'a>,
        host: HostId,
        pools: Vec<usize>,
        after: usize,
    ) -> Job<'a> {
        let named = named(board, self.ask.guest, host, &pools);
        let out = Job {
            target: host,
            pools: pools.clone(),
            named,
            bytes: board.own_bytes(self.ask.guest, self.source, host).0,
            memory: board.memory_bytes(self.ask.guest, self.source, host),
            leg: Leg::Out {
                onward: self.target,
            },
            ..self.clone()
        };
        self.source = host;
        self.leg = Leg::On { pools };
        self.after = Some(after);
        self.bytes = board.own_bytes(self.ask.guest, host, self.target).0;
        self.memory = board.memory_bytes(self.ask.guest, host, self.target);
        out
    }
}

/// The jobs of all asks that are placed, in the order in which they are asked to start.
pub(crate) fn jobs<'a>(board: &Board<'_, 'a>, asks: &[Ask<'a>]) -> Vec<Job<'a>> {
    let view = board.view;
    let placed = board.placed.iter().enumerate();
    let placed = placed.filter_map(|(index, placed)| Some((index, placed.as_ref()?)));
    let job = |(index, placed): (usize, &Placed)| {
        let ask: Ask<'a> = asks[index].clone();
        let guest = ask.guest;
        let source = view.guest(guest).host;
        let rest = view.rest(guest);
        Job {
            ask,
            source,
            target: placed.target,
            pools: placed.pools.clone(),
            named: named(board, guest, placed.target, &placed.pools),
            bytes: board.own_bytes(guest, source, placed.target).0,
            memory: board.memory_bytes(guest, source, placed.target),
            rest: rest.map_or(0, |rest| micros(rest.until.saturating_sub(view.now))),
            rank: 0,
            leg: Leg::Whole,
            after: None,
        }
    };
    let mut jobs: Vec<Job<'a>> = placed.map(job).collect();
    busiest_first(board, &mut jobs);
    jobs
}

/// Of equally important moves those first whose links have most to carry, out or in: what comes last then is short.
fn busiest_first(board: &Board<'_, '_>, jobs: &mut [Job<'_>]) {
    let view = board.view;
    let mut out = vec![0u64; view.fleet.hosts.len()];
    let mut into = out.clone();
    let micros = |host: HostId, bytes: u64| {
        let rate = view.host(host).bandwidth;
        let rate = rate.map_or(NOMINAL_RATE, |rate| rate.0.max(1));
        u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(rate)).unwrap_or(u64::MAX)
    };
    for job in jobs.iter() {
        let sums = [(&mut out, job.source), (&mut into, job.target)];
        for (sum, host) in sums {
            let sum = &mut sum[host.at()];
            *sum = sum.saturating_add(micros(host, job.bytes));
        }
    }
    let importance = |job: &Job<'_>| {
        let priority = view.guest(job.ask.guest).priority;
        (job.ask.kind, Reverse(priority))
    };
    jobs.sort_by_cached_key(|job| {
        let most = out[job.source.at()].max(into[job.target.at()]);
        (importance(job), Reverse(most))
    });
    let mut rank = 0;
    for at in 0..jobs.len() {
        rank += u32::from(at > 0 && importance(&jobs[at]) != importance(&jobs[at - 1]));
        jobs[at].rank = rank;
    }
}

/// For each disk of the guest the name of its pool at the host.
fn named(
    board: &Board<'_, '_>,
    guest: crate::model::GuestId,
    host: HostId,
    pools: &[usize],
) -> BTreeMap<String, String> {
    let view = board.view;
    let there = &view.host(host).pools;
    let name = |pool: usize| there[view.layout.index(host, pool)].name.clone();
    let disks = view.guest(guest).disks.iter().zip(pools);
    disks
        .map(|(disk, pool)| (disk.target.clone(), name(*pool)))
        .collect()
}
