//! Puts moves in an order in which all of them run: as they are asked, else what was left waiting first, else with
//! guests that stop over.

use std::time::Duration;

use crate::board::{Banned, Board};
use crate::bounces::{self, MayPass};
use crate::jobs::{Job, Leg};
use crate::model::GuestId;
use crate::rings;
use crate::schedule::{self, Outcome, Run, Stall};
use crate::shuffle;
use crate::view::View;
use crate::wishes::Asked;

/// Orders that are tried before moves that wait for each other count as a ring.
const ORDERS: usize = 3;

/// Jobs in an order in which all of them run.
pub(crate) struct Ordered<'a> {
    pub(crate) jobs: Vec<Job<'a>>,
    pub(crate) runs: Vec<Run>,
    pub(crate) makespan: Option<Duration>,
}

impl<'a> Ordered<'a> {
    fn new(jobs: Vec<Job<'a>>, runs: Vec<Run>, makespan: Option<Duration>) -> Self {
        Self {
            jobs,
            runs,
            makespan,
        }
    }

    fn bytes(&self) -> u128 {
        self.jobs.iter().map(|job| u128::from(job.bytes)).sum()
    }
}

/// Jobs of which some never start.
pub(crate) struct Stuck<'a> {
    jobs: Vec<Job<'a>>,
    stuck: Vec<usize>,
    witness: String,
}

impl Stuck<'_> {
    /// The guests of those that never start.
    pub(crate) fn guests(&self) -> Vec<GuestId> {
        let stuck = self.stuck.iter();
        stuck.map(|job| self.jobs[*job].ask.guest).collect()
    }

    /// The rings that are in the way: their members may not go where they were to go.
    pub(crate) fn bans(&self, view: &View<'_>) -> Banned {
        let mut found = Banned::new();
        for ring in rings::find(&self.jobs, &self.stuck) {
            for member in &ring {
                let sentence = rings::sentence(view, &self.jobs, &ring, *member);
                let job = &self.jobs[*member];
                let sentence = format!("{sentence}{}", self.witness);
                found.insert((job.ask.guest, job.target), sentence);
            }
        }
        found
    }
}

/// Puts the jobs in an order in which all of them run. `may_pass` says through which hosts an ask's guest may go.
pub(crate) fn order<'a>(
    empty: &Board<'_, 'a>,
    jobs: Vec<Job<'a>>,
    asked: &Asked<'a>,
    may_pass: MayPass<'_>,
) -> Result<Ordered<'a>, Stuck<'a>> {
    let (whole, stall) = match in_turn(empty, jobs, asked) {
        Ok(ordered) => return Ok(ordered),
        Err(stuck) => stuck,
    };
    match with_stops(empty, &whole, stall, asked, may_pass) {
        Ok(ordered) if whole.len() > shuffle::MOVES => Ok(ordered),
        Ok(ordered) => {
            // So few that it is soon known whether others that stop, or another order, have fewer bytes.
            let all: Vec<usize> = (0..whole.len()).collect();
            let other = one_by_one(empty, &whole, &all, asked, may_pass);
            let cheaper = other.filter(|other| other.bytes() < ordered.bytes());
            Ok(cheaper.unwrap_or(ordered))
        }
        Err(stuck) => one_by_one(empty, &whole, &stuck.stuck, asked, may_pass).ok_or(stuck),
    }
}

/// Puts the jobs in an order in which some guests stop over.
fn with_stops<'v, 'a>(
    empty: &Board<'v, 'a>,
    whole: &[Job<'a>],
    mut stall: Box<Stall<'v, 'a>>,
    asked: &Asked<'a>,
    may_pass: MayPass<'_>,
) -> Result<Ordered<'a>, Stuck<'a>> {
    let mut jobs = whole.to_vec();
    let first = stall.time;
    let mut eager = true;
    loop {
        let ways = match bounces::find(&stall, &jobs, may_pass) {
            Ok(ways) if !ways.is_empty() => ways,
            Ok(_) => return Err(stuck(whole, &stall.waiting, String::new())),
            Err(uncured) => return Err(stuck(whole, &uncured.ring, uncured.witness)),
        };
        for way in ways {
            let after = jobs.len();
            let mut out = jobs[way.job].stop_over(&stall.board, way.host, way.pools, after);
            if !eager {
                out.rest = out.rest.max(stall.time);
            }
            jobs.push(out);
        }
        stall = match schedule::run(empty.clone(), &jobs, &asked.limits) {
            Outcome::Done(runs, makespan) => return Ok(Ordered::new(jobs, runs, makespan)),
            Outcome::Stuck(stall) if !eager => stall,
            Outcome::Stuck(_) => {
                // A guest that stops over as soon as there is room may take that of others. Not before everything else
                // has ended, all is as it was when the stop was chosen.
                eager = false;
                for job in &mut jobs[whole.len()..] {
                    job.rest = job.rest.max(first);
                }
                match schedule::run(empty.clone(), &jobs, &asked.limits) {
                    Outcome::Done(runs, makespan) => return Ok(Ordered::new(jobs, runs, makespan)),
                    Outcome::Stuck(stall) => stall,
                }
            }
        };
    }
}

/// Puts the jobs in an order in which those around the ring go one after the other.
fn one_by_one<'a>(
    empty: &Board<'_, 'a>,
    whole: &[Job<'a>],
    ring: &[usize],
    asked: &Asked<'a>,
    may_pass: MayPass<'_>,
) -> Option<Ordered<'a>> {
    let start = Stall {
        waiting: (0..whole.len()).collect(),
        board: empty.clone(),
        time: 0,
    };
    let mut jobs = whole.to_vec();
    let mut before = None;
    for turn in shuffle::find(&start, whole, ring, may_pass)? {
        let at = match turn.stop {
            Some((host, pools)) => {
                let after = jobs.len();
                let out = jobs[turn.job].stop_over(empty, host, pools, after);
                jobs.push(out);
                after
            }
            None => turn.job,
        };
        jobs[at].after = before;
        before = Some(at);
    }
    match schedule::run(empty.clone(), &jobs, &asked.limits) {
        Outcome::Done(runs, makespan) => Some(Ordered::new(jobs, runs, makespan)),
        Outcome::Stuck(_) => None,
    }
}

/// Puts the jobs in an order in which those of these guests go one after the other, as they are listed.
pub(crate) fn in_sequence<'a>(
    empty: &Board<'_, 'a>,
    mut jobs: Vec<Job<'a>>,
    guests: &[GuestId],
    asked: &Asked<'a>,
) -> Option<Ordered<'a>> {
    let mut before = None;
    for guest in guests {
        let at = jobs.iter().position(|job| job.ask.guest == *guest)?;
        jobs[at].after = before;
        before = Some(at);
    }
    match schedule::run(empty.clone(), &jobs, &asked.limits) {
        Outcome::Done(runs, makespan) => Some(Ordered::new(jobs, runs, makespan)),
        Outcome::Stuck(_) => None,
    }
}

/// Jobs of the ring, by their places in the list of whole ones.
fn stuck<'a>(jobs: &[Job<'a>], stuck: &[usize], witness: String) -> Stuck<'a> {
    let stuck = stuck.iter().copied().filter(|job| *job < jobs.len());
    Stuck {
        stuck: stuck.collect(),
        jobs: jobs.to_vec(),
        witness,
    }
}

/// Puts the jobs in an order in which all of them run, each in one go.
fn in_turn<'v, 'a>(
    empty: &Board<'v, 'a>,
    mut jobs: Vec<Job<'a>>,
    asked: &Asked<'a>,
) -> Result<Ordered<'a>, (Vec<Job<'a>>, Box<Stall<'v, 'a>>)> {
    let mut turns = 0;
    loop {
        turns += 1;
        match schedule::run(empty.clone(), &jobs, &asked.limits) {
            Outcome::Done(runs, makespan) => {
                return Ok(Ordered::new(jobs, runs, makespan));
            }
            Outcome::Stuck(stall) => {
                let waiting = &stall.waiting;
                if turns == ORDERS || (0..waiting.len()).eq(waiting.iter().copied()) {
                    return Err((jobs, stall));
                }
                // What was left waiting goes first: it may be that something took its room on the way.
                let (first, rest): (Vec<_>, Vec<_>) = jobs
                    .into_iter()
                    .enumerate()
                    .partition(|(index, _)| waiting.contains(index));
                let last = first.iter().map(|(_, job)| job.rank).max();
                let behind = last.map_or(0, |last| last + 1);
                let rest = rest.into_iter().map(|(index, mut job)| {
                    job.rank += behind;
                    (index, job)
                });
                jobs = first.into_iter().chain(rest).map(|(_, job)| job).collect();
            }
        }
    }
}

/// Whether the job is a part of a guest's way.
pub(crate) fn is_leg(job: &Job<'_>) -> bool {
    job.leg != Leg::Whole
}
