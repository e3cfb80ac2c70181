//! Rings in so little room that each move matters: a few moves, one after the other, found by looking at every order in
//! which they and their stops can come, the fewest bytes first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::board::share;
use crate::bounces::{MayPass, Trial};
use crate::capacity::When;
use crate::fit::fits;
use crate::jobs::Job;
use crate::model::HostId;
use crate::schedule::Stall;

/// Moves that are put in an order; others near the ring are left to take their chance.
pub(crate) const MOVES: usize = 8;
/// Hosts where guests may stop over, the emptiest.
const STOPS: usize = 8;
/// States that are looked at.
const STATES: usize = 2000;

/// A move, or the first half of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) job: usize,
    /// Where the guest stops over, and in which pools.
    pub(crate) stop: Option<(HostId, Vec<usize>)>,
}

/// Where a move is: not begun, done, or stopped over at one of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Home,
    There,
    At(HostId),
}

/// Bytes that travel besides, moves that are not done, where each is, and how that came.
type State = (u64, usize, Vec<Place>, Vec<Turn>);

/// The moves around the ring, one after the other, with the stops that this takes.
pub(crate) fn find(
    start: &Stall<'_, '_>,
    jobs: &[Job<'_>],
    ring: &[usize],
    may_pass: MayPass<'_>,
) -> Option<Vec<Turn>> {
    let mut trial = Trial::new(start, jobs, may_pass);
    let hosts: BTreeSet<HostId> = ring
        .iter()
        .flat_map(|job| [jobs[*job].source, jobs[*job].target])
        .collect();
    let near =
        |job: &usize| hosts.contains(&jobs[*job].source) || hosts.contains(&jobs[*job].target);
    let others = (0..jobs.len()).filter(|job| near(job) && !ring.contains(job));
    let all: Vec<usize> = ring.iter().copied().chain(others).take(MOVES).collect();
    if ring.is_empty() || ring.len() > MOVES {
        return None;
    }
    let stops = stops(&trial, &hosts);
    let first = vec![Place::Home; all.len()];
    let mut least = BTreeMap::from([(first.clone(), 0)]);
    let mut next: BinaryHeap<Reverse<State>> = BinaryHeap::new();
    next.push(Reverse((0, all.len(), first, Vec::new())));
    for _ in 0..STATES {
        let Reverse((bytes, left, places, way)) = next.pop()?;
        if left == 0 {
            return Some(way);
        }
        if least.get(&places).is_some_and(|known| *known < bytes) {
            continue;
        }
        for turn in &way {
            match &turn.stop {
                Some((host, pools)) => trial.stop_over(turn.job, *host, pools.clone()),
                None => trial.arrive(turn.job),
            }
        }
        let mut reach = |bytes: u64, left: usize, at: usize, place: Place, turn: Turn| {
            let mut places = places.clone();
            places[at] = place;
            if least.get(&places).is_none_or(|known| bytes < *known) {
                least.insert(places.clone(), bytes);
                let way = way.iter().cloned().chain([turn]).collect();
                next.push(Reverse((bytes, left, places, way)));
            }
        };
        for (at, job) in all.iter().copied().enumerate() {
            if places[at] == Place::There {
                continue;
            }
            if trial.may_go(job) {
                let turn = Turn { job, stop: None };
                reach(bytes, left - 1, at, Place::There, turn);
            }
            if places[at] == Place::Home && trial.is_able(job) {
                let more = bytes.saturating_add(jobs[job].bytes);
                for (host, pools) in ways(&trial, job, &stops) {
                    let stop = Some((host, pools));
                    reach(more, left, at, Place::At(host), Turn { job, stop });
                }
            }
        }
        trial.undo(0);
    }
    None
}

/// The hosts of the ring, and the emptiest of the others.
fn stops(trial: &Trial<'_, '_, '_>, ring: &BTreeSet<HostId>) -> BTreeSet<HostId> {
    let board = &trial.board;
    let fullness = |host: HostId| {
        let limit = board.view.host(host).memory_limit.0;
        share(board.room.memory(host, When::Now), i128::from(limit))
    };
    let mut others: Vec<HostId> = board.view.open.clone();
    others.retain(|host| !ring.contains(host));
    others.sort_by_key(|host| (fullness(*host), board.view.rank[host.at()]));
    ring.iter()
        .copied()
        .chain(others.into_iter().take(STOPS))
        .collect()
}

/// Hosts at which the guest can stop over just now, and in which pools.
fn ways(
    trial: &Trial<'_, '_, '_>,
    job: usize,
    stops: &BTreeSet<HostId>,
) -> Vec<(HostId, Vec<usize>)> {
    let ask = trial.anywhere(job);
    let mut found = Vec::new();
    for host in trial.stops(job).filter(|host| stops.contains(host)) {
        let mut pools = Vec::new();
        if fits(&trial.board, &ask, host, When::Now, &mut pools, &mut |_| {
            false
        }) {
            found.push((host, pools));
        }
    }
    found
}
