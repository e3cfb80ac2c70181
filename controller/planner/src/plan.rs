//! A plan from beginning to end: sort, place, run, and again without the rings that were found.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::balance::{self, Policy};
use crate::board::{Banned, Board};
use crate::capacity::When;
use crate::chains;
use crate::choose::{Aim, best, keep, missed, spread};
use crate::effort::Effort;
use crate::explain;
use crate::headroom::Keeper;
use crate::improve::{Context, improve};
use crate::jobs::{Leg, jobs};
use crate::model::{Balanced, Fleet, GuestId, HostId, Ledger, Move, Plan, Rejection, What, Wish};
use crate::order::{Ordered, is_leg, order};
use crate::places;
use crate::targeted;
use crate::verdicts::{self, End};
use crate::view::View;
use crate::wishes::{self, Ask, Asked, For, rejection};

/// What shall be done now, what waits and for what, and what can't be done and why.
///
/// `now` is a monotonic time on the scale of the ledger's `until`. Ids in wishes and ledger must be the fleet's own.
///
/// What can be relied on:
/// - The moves that wait for nothing may all start at once: with all that is in flight no host and no pool is over a
///   limit. The same holds at every later instant if moves start as planned.
/// - At most one move per guest, or two where it stops over (`Move::onward`) because hosts whose guests trade places have
///   no room for both. A guest of a drain has a move, or a rejection by each drain of its host, or is in
///   flight for it. A guest in flight for another wish is rejected with `GuestBusy`.
/// - Where guests of a drain find no room, others that nobody asked to move may make way for them, by the drain, if it
///   allows that and it places more of them.
/// - Where several drains share a host, the first by kind and name asks for its guests; the smallest limit counts.
/// - The order of wishes makes no difference.
/// - With little effort ([`Limits::effort`](crate::Limits::effort)) a plan is as safe as with much; more of it leaves no more over, and
///   has no more bytes of others make way where as many are left.
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
    let none = BTreeSet::new();
    // Without drains for which others may make way it is the last.
    let effort = drains.is_empty().then(|| Effort::new(fleet));
    let made = attempt(fleet, wishes, ledger, now, &none, effort, None);
    let left = short(&made);
    if left == 0 {
        return made;
    }
    let roomier = attempt(
        fleet,
        wishes,
        ledger,
        now,
        &drains,
        Some(Effort::new(fleet)),
        Some(&made),
    );
    if short(&roomier) < left {
        roomier
    } else {
        // What is known of it was looked for with others making way.
        Plan {
            verdicts: roomier.verdicts,
            unfinished: roomier.unfinished,
            ..made
        }
    }
}

/// A plan in which guests that nobody asks to move may make way for those of these drains. With an effort a better one is looked
/// for as long as that lasts, and what is known of those that are left over is told. Where it is proven that no fewer of their
/// guests are left over than by another plan, it is that plan.
pub(crate) fn attempt(
    fleet: &Fleet,
    wishes: &[Wish],
    ledger: &Ledger,
    now: Duration,
    roomy: &BTreeSet<&RequestedBy>,
    mut effort: Option<Effort>,
    other: Option<&Plan>,
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
    if let Some(other) = other.filter(|other| verdicts::is_best(&before, &asked.asks, roomy, other))
    {
        return Plan {
            verdicts: verdicts::verdicts(&before, &asked.asks, &other.rejections, End::Over),
            ..other.clone()
        };
    }
    let placements = places::kept(&before, wishes);
    let own = balance::stopovers(&policies);
    let may_pass =
        |ask: &Ask<'_>, host: HostId| ask.kind != For::Balance || own.contains(&(ask.by, host));
    let mut banned = Banned::new();
    loop {
        let empty = Board::new(&view, &banned, asked.asks.len());
        let board = place(empty.clone(), &mut asked.asks, roomy);
        let jobs = jobs(&board, &asked.asks);
        match order(&empty, jobs, &asked, &may_pass) {
            Ok(ordered) => {
                let context = Context {
                    empty: &empty,
                    roomy,
                    may_pass: &may_pass,
                    refill: &|board, asks| fill(board, asks, roomy, false),
                };
                let (board, ordered, end) = match &mut effort {
                    Some(effort) => improve(&context, board, ordered, &mut asked, effort),
                    None => (board, ordered, End::Over),
                };
                let rejections = rejections(&board, &asked);
                let verdicts = match effort {
                    Some(_) => verdicts::verdicts(&empty, &asked.asks, &rejections, end),
                    None => Vec::new(),
                };
                let plan = if policies.is_empty() {
                    assemble(ordered)
                } else {
                    level(&empty, board, &asked, &policies, ordered, wishes, &may_pass)
                };
                return Plan {
                    rejections,
                    verdicts,
                    unfinished: (end == End::Spent).then(verdicts::unfinished),
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
    wishes: &[Wish],
    may_pass: &dyn Fn(&Ask<'_>, HostId) -> bool,
) -> Plan {
    let asks = &asked.asks;
    let now = balance::imbalances(&board, policies);
    let keepers = policies.iter();
    let keepers: Vec<Keeper<'_, 'a>> = keepers
        .filter_map(|policy| Keeper::new(&mut board, asks, wishes, policy))
        .collect();
    let mut balances = balance::level(&mut board, asks, policies);
    // Those whose limits have no room for all ways of guests that stop over.
    let mut limited: BTreeSet<&RequestedBy> = BTreeSet::new();
    loop {
        let jobs = jobs(&board, &asked.asks);
        match order(empty, jobs, asked, may_pass) {
            Ok(ordered) => {
                balance::predict(&board, asks, policies, &limited, &mut balances);
                // Without those that were left out the others may do harm.
                let harm = balances.iter().filter(|told| told.predicted > told.now);
                let harm: Vec<&RequestedBy> = harm.map(|told| &told.by).collect();
                let back = asks.iter().enumerate().filter(|(index, ask)| {
                    ask.kind == For::Balance
                        && harm.contains(&ask.by)
                        && keepers.iter().all(|keeper| !keeper.made(*index))
                        && board.placed[*index].is_some()
                });
                let mut back: Vec<usize> = back.map(|(index, _)| index).collect();
                if back.is_empty() {
                    back = beyond_limits(&board, &ordered, policies);
                    limited.extend(back.iter().map(|index| asks[*index].by));
                }
                if back.is_empty() {
                    let spoilers = |keeper: &Keeper<'_, 'a>| keeper.spoilers(&board, asks);
                    back = keepers.iter().flat_map(spoilers).collect();
                }
                if !back.is_empty() {
                    for index in back {
                        board.remove(index, &asked.asks[index]);
                    }
                    continue;
                }
                tell(&keepers, &board, asks, &now, &mut balances);
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
                    tell(&keepers, &board, asks, &now, &mut balances);
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

/// Notes how things were before any move of a policy, and what of the headroom that it keeps is missing all the same.
fn tell<'a>(
    keepers: &[Keeper<'_, 'a>],
    board: &Board<'_, 'a>,
    asks: &[Ask<'a>],
    now: &[u32],
    balances: &mut [Balanced],
) {
    for (told, now) in balances.iter_mut().zip(now) {
        told.now = *now;
    }
    for keeper in keepers {
        let own = balances.iter_mut();
        for told in own.filter(|told| keeper.policy().is(&told.by)) {
            told.short = keeper.tell(board, asks);
        }
    }
}

/// Balances' moves of guests that stop over, where all legs are more than the balance may move: as many as are too many, those
/// with the most bytes first.
fn beyond_limits(
    board: &Board<'_, '_>,
    ordered: &Ordered<'_>,
    policies: &[Policy<'_>],
) -> Vec<usize> {
    let mut back = Vec::new();
    for policy in policies {
        let own = ordered.jobs.iter();
        let own = own.filter(|job| job.ask.kind == For::Balance && policy.is(job.ask.by));
        let (mut moves, mut bytes) = (0, 0);
        let mut ways: BTreeMap<GuestId, (u128, usize)> = BTreeMap::new();
        for job in own {
            moves += 1;
            let most = board.most_bytes(job.ask.guest, job.source, job.target);
            bytes += most;
            if is_leg(job) {
                let (sum, legs) = ways.entry(job.ask.guest).or_default();
                *sum += most;
                *legs += 1;
            }
        }
        let mut ways: Vec<_> = ways.into_iter().collect();
        ways.sort_by_key(|(guest, (bytes, _))| (*bytes, Reverse(*guest)));
        while !policy.allows(moves, bytes)
            && let Some((guest, (sum, legs))) = ways.pop()
        {
            moves -= legs;
            bytes -= sum;
            back.extend(board.mover(guest));
        }
    }
    back
}

/// Times that groups which have to stay together are placed anew in all.
const REUNIONS: usize = 32;

/// Places what can be placed: as in the plan before where that leaves nobody over.
fn place<'v, 'a>(
    board: Board<'v, 'a>,
    asks: &mut [Ask<'a>],
    roomy: &BTreeSet<&RequestedBy>,
) -> Board<'v, 'a> {
    if board.view.ledger.planned.is_empty() {
        return fill(board, asks, roomy, false);
    }
    let ours =
        |ask: &Ask<'_>| ask.target.is_none() && matches!(ask.kind, For::Explicit | For::Drain);
    let chosen: Vec<usize> = (0..asks.len())
        .filter(|index| ours(&asks[*index]))
        .collect();
    let mut as_before = asks.to_vec();
    let kept = fill(board.clone(), &mut as_before, roomy, true);
    let left = missed(&kept, &as_before, &chosen);
    if !left.is_empty() {
        let anew = fill(board, asks, roomy, false);
        if missed(&anew, asks, &chosen) < left {
            return anew;
        }
    }
    asks.clone_from_slice(&as_before);
    kept
}

/// Explicit moves with a target, explicit moves without, drains, placements.
fn fill<'v, 'a>(
    mut board: Board<'v, 'a>,
    asks: &mut [Ask<'a>],
    roomy: &BTreeSet<&RequestedBy>,
    as_before: bool,
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
    if as_before {
        for when in [When::Now, When::Later] {
            keep(&mut board, asks, &free, when);
            keep(&mut board, asks, &drained, when);
        }
    }
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
        plan.bytes = Bytes(plan.bytes.0.saturating_add(run.bytes));
        plan.moves.push(Move {
            by: job.ask.by.clone(),
            guest: job.ask.guest,
            source: job.source,
            target: job.target,
            pools: job.named.clone(),
            bytes: Bytes(run.bytes),
            start: run.start,
            duration: run.duration,
            disks: run.disks,
            waits: run.waits,
            makes_way_for: job.ask.room_for,
            onward: match job.leg {
                Leg::Out { onward } => Some(onward),
                Leg::Whole | Leg::On { .. } => None,
            },
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
