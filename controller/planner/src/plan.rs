//! A plan from beginning to end: sort, place, run, and again without the rings that were found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::balance::{self, Policy};
use crate::board::{Banned, Board, Placed};
use crate::chains;
use crate::choose::{Aim, best, spread};
use crate::explain;
use crate::model::{Fleet, GuestId, Ledger, Move, Plan, Rejection, What, Wish};
use crate::places;
use crate::rings;
use crate::schedule::{self, Job, Outcome, Run};
use crate::targeted;
use crate::view::View;
use crate::wishes::{self, Ask, Asked, For, rejection};

/// Orders that are tried before moves that wait for each other count as a ring.
const ORDERS: usize = 3;

/// What shall be done now, what waits and for what, and what can't be done and why.
///
/// `now` is a monotonic time on the scale of the ledger's `until`. Ids in wishes and ledger must be the fleet's own.
///
/// What can be relied on:
/// - The moves that wait for nothing may all start at once: with all that is in flight no host and no pool is over a
///   limit. The same holds at every later instant if moves start as planned.
/// - At most one move per guest. A guest of a drain has a move, or a rejection by each drain of its host, or is in
///   flight for it. A guest in flight for another wish is rejected with `GuestBusy`.
/// - Where guests of a drain find no room, others that nobody asked to move may make way for them, by the drain, if it
///   allows that and it places more of them.
/// - Where several drains share a host, the first by kind and name asks for its guests; the smallest limit counts.
/// - The order of wishes makes no difference.
#[must_use]
pub fn plan(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger, now: Duration) -> Plan {
    let drains: BTreeSet<&RequestedBy> = wishes
        .iter()
        .filter(|wish| {
            matches!(
                wish.what,
                What::Drain {
                    makes_way: true,
                    ..
                }
            )
        })
        .map(|wish| &wish.by)
        .collect();
    let short = |plan: &Plan| {
        let all = plan.rejections.iter();
        let all = all.filter(|rejection| {
            drains.contains(&rejection.by) && rejection.cause.reason == Reason::NoHostFits
        });
        all.count()
    };
    let made = attempt(fleet, wishes, ledger, now, &BTreeSet::new());
    let left = short(&made);
    if left == 0 {
        return made;
    }
    let roomier = attempt(fleet, wishes, ledger, now, &drains);
    if short(&roomier) < left {
        roomier
    } else {
        made
    }
}

/// A plan in which guests that nobody asks to move may make way for those of these drains.
fn attempt(
    fleet: &Fleet,
    wishes: &[Wish],
    ledger: &Ledger,
    now: Duration,
    roomy: &BTreeSet<&RequestedBy>,
) -> Plan {
    let mut asked = wishes::sort(fleet, wishes, ledger);
    let policies = balance::policies(fleet, wishes, &asked.draining);
    let besides = if !roomy.is_empty() {
        (0..fleet.guests.len() as u32).map(GuestId).collect()
    } else {
        balance::guests(fleet, &policies)
    };
    let view = View::new(fleet, wishes, ledger, &asked, &besides, now);
    let none = Banned::new();
    let before = Board::new(&view, &none, 0);
    places::ask(&before, wishes, &mut asked);
    if !roomy.is_empty() {
        chains::ask(&view, &mut asked);
    }
    balance::ask(&view, &policies, &mut asked);
    let placements = places::kept(&before, wishes);
    let mut banned = Banned::new();
    loop {
        let empty = Board::new(&view, &banned, asked.asks.len());
        let board = place(empty.clone(), &mut asked.asks, roomy);
        let fixed = fixed_pools(&board, &asked.asks);
        let jobs = jobs(&board, &asked.asks, &fixed);
        match order(&empty, jobs, &asked) {
            Ok(ordered) => {
                let rejections = rejections(&board, &asked);
                let plan = if policies.is_empty() {
                    assemble(ordered)
                } else {
                    level(&empty, board, &asked, &policies, ordered)
                };
                return Plan {
                    rejections,
                    satisfied: asked.satisfied.clone(),
                    placements,
                    ..plan
                };
            }
            Err(stuck) => banned.extend(stuck.bans(&view)),
        }
    }
}

/// Adds the moves that level the hosts of policies to those that are in order already. Moves that can't be put in an
/// order with the others are left out.
fn level<'a>(
    empty: &Board<'_, 'a>,
    mut board: Board<'_, 'a>,
    asked: &Asked<'a>,
    policies: &[Policy<'a>],
    without: Ordered<'_>,
) -> Plan {
    let mut balances = balance::level(&mut board, &asked.asks, policies);
    loop {
        let fixed = fixed_pools(&board, &asked.asks);
        let jobs = jobs(&board, &asked.asks, &fixed);
        match order(empty, jobs, asked) {
            Ok(ordered) => {
                balance::predict(&board, &asked.asks, policies, &mut balances);
                // Without those that were left out the others may do harm.
                let harm = balances.iter().filter(|told| told.predicted > told.now);
                let harm: Vec<&RequestedBy> = harm.map(|told| &told.by).collect();
                let asks = asked.asks.iter().enumerate();
                let back = asks.filter(|(index, ask)| {
                    ask.kind == For::Balance
                        && harm.contains(&ask.by)
                        && board.placed[*index].is_some()
                });
                let back: Vec<usize> = back.map(|(index, _)| index).collect();
                if !back.is_empty() {
                    for index in back {
                        board.remove(index, &asked.asks[index]);
                    }
                    continue;
                }
                let plan = assemble(ordered);
                return Plan { balances, ..plan };
            }
            Err(stuck) => {
                let levels = |guest: &GuestId| {
                    let mover = board.mover(*guest);
                    mover.filter(|index| asked.asks[*index].kind == For::Balance)
                };
                let mut left_out: Vec<usize> = stuck.guests().iter().filter_map(levels).collect();
                if left_out.is_empty() {
                    let all = 0..asked.asks.len();
                    left_out = all
                        .filter(|index| asked.asks[*index].kind == For::Balance)
                        .filter(|index| board.placed[*index].is_some())
                        .collect();
                }
                if left_out.is_empty() {
                    let plan = assemble(without);
                    return Plan { balances, ..plan };
                }
                for index in left_out {
                    board.remove(index, &asked.asks[index]);
                }
            }
        }
    }
}

/// Times that groups which have to stay together are placed anew in all.
const REUNIONS: usize = 32;

/// Explicit moves with a target, explicit moves without, drains, placements.
fn place<'v, 'a>(
    mut board: Board<'v, 'a>,
    asks: &mut [Ask<'a>],
    roomy: &BTreeSet<&RequestedBy>,
) -> Board<'v, 'a> {
    let of = |wanted: &dyn Fn(&Ask<'a>) -> bool| -> Vec<usize> {
        let all = asks.iter().enumerate();
        all.filter(|(_, ask)| wanted(ask))
            .map(|(index, _)| index)
            .collect()
    };
    let targeted = of(&|ask| ask.target.is_some());
    let free = of(&|ask| ask.target.is_none() && ask.kind == For::Explicit);
    let drained = of(&|ask| ask.kind == For::Drain);
    let short_of_room = of(&|ask| ask.kind == For::Drain && roomy.contains(ask.by));
    let misplaced = of(&|ask| ask.kind == For::Placement);
    let mut reunions = REUNIONS;
    targeted::place(&mut board, asks, &targeted);
    // What is placed late may make room for what was passed over before: again until nothing more is placed. So what
    // is left over in the end is refused by every host, as the board then is.
    loop {
        let before = board.moves();
        targeted::retry(&mut board, asks, &targeted);
        board = spread(board, asks, &free);
        targeted::retry(&mut board, asks, &targeted);
        board = spread(board, asks, &drained);
        chains::make_way(&mut board, asks, &short_of_room);
        places::mend(&mut board, asks, &misplaced);
        if places::rejoin(&mut board, asks, reunions <= 1) {
            reunions = reunions.saturating_sub(1);
        } else if board.moves() == before {
            return board;
        }
    }
}

/// For each ask that is placed, its pools by name.
fn fixed_pools(board: &Board<'_, '_>, asks: &[Ask<'_>]) -> Vec<BTreeMap<String, String>> {
    let view = board.view;
    let by_name = |(ask, placed): (&Ask<'_>, &Option<Placed>)| {
        let Some(placed) = placed else {
            return BTreeMap::new();
        };
        let pools = &view.host(placed.target).pools;
        let name = |pool: usize| pools[view.layout.index(placed.target, pool)].name.clone();
        let disks = view.guest(ask.guest).disks.iter().zip(&placed.pools);
        disks
            .map(|(disk, pool)| (disk.target.clone(), name(*pool)))
            .collect()
    };
    asks.iter().zip(&board.placed).map(by_name).collect()
}

/// The jobs of all asks that are placed, in the order in which they are asked to start.
fn jobs<'a>(
    board: &Board<'_, '_>,
    asks: &[Ask<'a>],
    fixed: &'a [BTreeMap<String, String>],
) -> Vec<Job<'a>> {
    let view = board.view;
    let placed = board.placed.iter().enumerate();
    placed
        .filter_map(|(index, placed)| Some((index, placed.as_ref()?)))
        .map(|(index, placed)| {
            let mut ask = asks[index].clone();
            ask.overrides = &fixed[index];
            let guest = ask.guest;
            let rest = view.rest(guest);
            Job {
                ask,
                source: view.guest(guest).host,
                target: placed.target,
                pools: placed.pools.clone(),
                bytes: board.bytes(guest, placed.target).0,
                rest: rest.map_or(0, |rest| {
                    schedule::micros(rest.until.saturating_sub(view.now))
                }),
            }
        })
        .collect()
}

/// Jobs in an order in which all of them run.
struct Ordered<'a> {
    jobs: Vec<Job<'a>>,
    runs: Vec<Run>,
    makespan: Option<Duration>,
}

/// Jobs of which some never start.
struct Stuck<'a> {
    jobs: Vec<Job<'a>>,
    stuck: Vec<usize>,
}

impl Stuck<'_> {
    fn guests(&self) -> Vec<GuestId> {
        let stuck = self.stuck.iter();
        stuck.map(|job| self.jobs[*job].ask.guest).collect()
    }

    /// The rings that are in the way: their members may not go where they were to go.
    fn bans(&self, view: &View<'_>) -> Banned {
        let mut found = Banned::new();
        for ring in rings::find(&self.jobs, &self.stuck) {
            for member in &ring {
                let sentence = rings::sentence(view, &self.jobs, &ring, *member);
                let job = &self.jobs[*member];
                found.insert((job.ask.guest, job.target), sentence);
            }
        }
        found
    }
}

/// Puts the jobs in an order in which all of them run.
fn order<'a>(
    empty: &Board<'_, 'a>,
    mut jobs: Vec<Job<'a>>,
    asked: &Asked<'a>,
) -> Result<Ordered<'a>, Stuck<'a>> {
    let mut stuck = Vec::new();
    for _ in 0..ORDERS {
        match schedule::run(empty.clone(), &jobs, &asked.limits) {
            Outcome::Done(runs, makespan) => {
                return Ok(Ordered {
                    jobs,
                    runs,
                    makespan,
                });
            }
            Outcome::Stuck(waiting) => {
                let in_front = (0..waiting.len()).eq(waiting.iter().copied());
                stuck = waiting;
                if in_front {
                    break;
                }
                // What was left waiting goes first: it may be that something took its room on the way.
                let (first, rest): (Vec<_>, Vec<_>) = jobs
                    .into_iter()
                    .enumerate()
                    .partition(|(index, _)| stuck.contains(index));
                stuck = (0..first.len()).collect();
                jobs = first.into_iter().chain(rest).map(|(_, job)| job).collect();
            }
        }
    }
    Err(Stuck { jobs, stuck })
}

fn assemble(ordered: Ordered<'_>) -> Plan {
    let Ordered {
        jobs,
        runs,
        makespan,
    } = ordered;
    let mut plan = Plan {
        moves: Vec::with_capacity(runs.len()),
        makespan,
        ..Plan::default()
    };
    for run in runs {
        let job = &jobs[run.job];
        plan.bytes = Bytes(plan.bytes.0.saturating_add(job.bytes));
        plan.moves.push(Move {
            by: job.ask.by.clone(),
            guest: job.ask.guest,
            source: job.source,
            target: job.target,
            pools: job.ask.overrides.clone(),
            bytes: Bytes(job.bytes),
            start: run.start,
            duration: run.duration,
            waits: run.waits,
        });
    }
    plan
}

fn rejections(board: &Board<'_, '_>, asked: &Asked<'_>) -> Vec<Rejection> {
    let view = board.view;
    let mut all = asked.refused.clone();
    let stuck = asked.stuck.iter();
    all.extend(
        stuck
            .filter(|stuck| board.mover(stuck.guest).is_none())
            .cloned(),
    );
    for (index, ask) in asked.asks.iter().enumerate() {
        match board.mover(ask.guest) {
            _ if matches!(ask.kind, For::Balance | For::Room) => {}
            None if places::settled(board, ask) => {}
            None => all.extend(explain::rejections(board, ask)),
            Some(mover) if mover == index || ask.kind != For::Explicit => {}
            Some(mover) => {
                let other = &asked.asks[mover];
                // Looked at as if the drain did not move it.
                let mut without = board.clone();
                without.remove(mover, other);
                if other.kind != For::Explicit && !fits_somewhere(&without, ask) {
                    all.extend(explain::rejections(&without, ask));
                } else {
                    let name = &view.guest(ask.guest).name;
                    let message = format!(
                        "{name} is to be moved by {} already",
                        explain::who(other.by)
                    );
                    all.push(rejection(
                        ask.by,
                        ask.guest,
                        Cause::new(Reason::GuestBusy, message),
                    ));
                }
            }
        }
    }
    all.sort_by(|one, other| {
        let key = |rejection: &Rejection| {
            (
                view.guest(rejection.guest).name.clone(),
                rejection.by.clone(),
            )
        };
        key(one).cmp(&key(other))
    });
    all
}

fn fits_somewhere(board: &Board<'_, '_>, ask: &Ask<'_>) -> bool {
    let mut pools = Vec::new();
    match ask.target {
        Some(target) => board.way(ask, target, &mut pools).is_some(),
        None => best(board, ask, Aim::Level, &mut pools).is_some(),
    }
}
