//! A plan that leaves guests of drains over, or has others make way for them, is made better by searches in corners of the
//! fleet: a few hosts at a time, each way looked at (`squeeze`), more hosts and longer the next round, until all is seen
//! or the effort is spent. What was found before is kept until something better can really be run.

use std::collections::BTreeSet;

use evenkeel_crds::shared::RequestedBy;

use crate::board::{Banned, Board, Bulk};
use crate::bounces::MayPass;
use crate::choose::{lacks_only_room, missed, open};
use crate::effort::Effort;
use crate::jobs::jobs;
use crate::model::{GuestId, HostId};
use crate::order::{Ordered, in_sequence, order};
use crate::short::Halls;
use crate::squeeze::{self, Turn, Worth};
use crate::verdicts::End;
use crate::wishes::{Ask, Asked, For};

/// Hosts in a corner in the rounds, and looks for each corner. A fleet of no more hosts than in the last round is one corner in
/// the end, and looked at as long as the effort lasts.
const ROUNDS: [(usize, u64); 4] = [(2, 2_000), (3, 8_000), (5, 32_000), (MOST, 32_000)];
/// Hosts in the largest corner.
const MOST: usize = 8;
/// Corners for one guest, by what its host of the corner lacks.
const SEEDS: usize = 4;
/// Guests on the hosts of a corner.
const GUESTS: usize = 128;

/// What a plan consists of besides its board.
pub(crate) struct Context<'c, 'v, 'a> {
    /// The board before any move.
    pub(crate) empty: &'c Board<'v, 'a>,
    /// Drains for whose guests others may make way.
    pub(crate) roomy: &'c BTreeSet<&'c RequestedBy>,
    pub(crate) may_pass: MayPass<'c>,
    /// Places what has found room on a board.
    pub(crate) refill: &'c dyn Fn(Board<'v, 'a>, &mut Vec<Ask<'a>>) -> Board<'v, 'a>,
}

/// Makes the plan better, or leaves it as it is, and tells how the search ended.
pub(crate) fn improve<'v, 'a>(
    context: &Context<'_, 'v, 'a>,
    board: Board<'v, 'a>,
    ordered: Ordered<'a>,
    asked: &mut Asked<'a>,
    effort: &mut Effort,
) -> (Board<'v, 'a>, Ordered<'a>, End) {
    let free = |index: &usize| {
        let ask = &asked.asks[*index];
        context.wants(ask) && is_free(&board, ask)
    };
    let wanted: Vec<usize> = (0..asked.asks.len()).filter(free).collect();
    if is_best(context.empty, &board, &asked.asks, &wanted) {
        return (board, ordered, End::Over);
    }
    let mut end = End::Over;
    let hosts = board.view.open.len();
    let (mut board, mut ordered) = (board, ordered);
    for (size, looks) in ROUNDS {
        let whole = hosts <= size;
        if whole && size < MOST {
            continue;
        }
        for corner in corners(&board, &asked.asks, &wanted, size, effort) {
            if worth(&board, &asked.asks, &wanted) == (Vec::new(), 0) {
                return (board, ordered, end);
            }
            let looks = if whole { u64::MAX } else { looks };
            let (better, seen) = look(context, &board, asked, &wanted, &corner, looks, effort);
            if let Some(better) = better {
                (board, ordered, asked.asks) = better;
            }
            if seen && whole {
                end = End::AllSeen;
            }
        }
        if effort.is_spent() {
            return (board, ordered, End::Spent);
        }
    }
    (board, ordered, end)
}

impl Context<'_, '_, '_> {
    /// Whether the ask's guest is to find a place.
    fn wants(&self, ask: &Ask<'_>) -> bool {
        ask.kind == For::Drain && self.roomy.contains(ask.by)
    }
}

/// Whether the guest's place depends on no other than by room and rules that count.
fn is_free(board: &Board<'_, '_>, ask: &Ask<'_>) -> bool {
    let mut rules = board.view.rules.of(ask.guest);
    !board.view.has_namesake(ask.guest) && rules.all(|(_, rule)| !rule.law.unites())
}

/// What the plan on the board is worth.
fn worth(board: &Board<'_, '_>, asks: &[Ask<'_>], wanted: &[usize]) -> Worth {
    let room = asks.iter().zip(&board.placed);
    let room = room.filter(|(ask, _)| ask.kind == For::Room);
    let bytes = room.filter_map(|(ask, placed)| {
        let target = placed.as_ref()?.target;
        let source = board.view.guest(ask.guest).host;
        Some(u128::from(board.own_bytes(ask.guest, source, target).0))
    });
    (missed(board, asks, wanted), bytes.sum())
}

/// Whether it is proven that no fewer are left over, and nobody makes way.
fn is_best(
    empty: &Board<'_, '_>,
    board: &Board<'_, '_>,
    asks: &[Ask<'_>],
    wanted: &[usize],
) -> bool {
    let (missed, bytes) = worth(board, asks, wanted);
    let least = || {
        let guests = wanted.iter().map(|index| asks[*index].guest).collect();
        Halls::new(empty, asks).least_left(&guests)
    };
    let mut priorities = wanted
        .iter()
        .map(|index| empty.view.guest(asks[*index].guest).priority);
    let first = priorities.next();
    let alike = priorities.all(|priority| Some(priority) == first);
    bytes == 0 && (missed.is_empty() || alike && missed.len() <= least())
}

/// Hosts that are looked at together: for each guest that is left over those where it lacks least, each of a few with those
/// that lack least besides; and those between which guests make way.
fn corners(
    board: &Board<'_, '_>,
    asks: &[Ask<'_>],
    wanted: &[usize],
    size: usize,
    effort: &mut Effort,
) -> Vec<Vec<HostId>> {
    let view = board.view;
    if view.open.len() <= size {
        return vec![view.open.clone()];
    }
    let mut order = |index: usize| {
        let mut hosts = view.open.clone();
        if !effort.take(hosts.len() as u64) {
            return Vec::new();
        }
        let ask = &asks[index];
        let bulk = Bulk::of(view.guest(ask.guest));
        hosts.retain(|host| lacks_only_room(board, ask, *host, &mut Vec::new()));
        hosts.sort_by_key(|host| (board.lacks(&bulk, *host), view.rank[host.at()]));
        hosts
    };
    let mut corners = Vec::new();
    let mut add = |first: &[HostId], rest: &[HostId]| {
        let others = rest.iter().filter(|host| !first.contains(host));
        let mut corner: Vec<HostId> = first.iter().chain(others).take(size).copied().collect();
        corner.sort_unstable();
        if corner.len() > 1 && !corners.contains(&corner) {
            corners.push(corner);
        }
    };
    for index in wanted.iter().filter(|index| open(board, asks, **index)) {
        let hosts = order(*index);
        for seed in hosts.iter().take(SEEDS) {
            add(&[*seed], &hosts);
        }
    }
    for (index, ask) in asks.iter().enumerate() {
        if let (For::Room, Some(placed)) = (ask.kind, &board.placed[index]) {
            add(&[view.guest(ask.guest).host, placed.target], &order(index));
        }
    }
    corners
}

type Better<'v, 'a> = (Board<'v, 'a>, Ordered<'a>, Vec<Ask<'a>>);

/// Looks into a corner. Beside what is better, if anything, whether each way was looked at of all there are, and each of
/// them leaves somebody over.
fn look<'v, 'a>(
    context: &Context<'_, 'v, 'a>,
    board: &Board<'v, 'a>,
    asked: &Asked<'a>,
    wanted: &[usize],
    hosts: &[HostId],
    looks: u64,
    effort: &mut Effort,
) -> (Option<Better<'v, 'a>>, bool) {
    let view = board.view;
    let asks = &asked.asks;
    let target = |index: usize| board.placed[index].as_ref().map(|placed| placed.target);
    let here = |index: usize| target(index).is_some_and(|target| hosts.contains(&target));
    let is_wanted = |index: &usize| open(board, asks, *index) || here(*index);
    let mut movers: Vec<usize> = wanted.iter().copied().filter(is_wanted).collect();
    let mut tied = false;
    for (index, ask) in asks.iter().enumerate() {
        let home = hosts.contains(&view.guest(ask.guest).host);
        if ask.kind == For::Room && (home || here(index)) {
            tied |= !is_free(board, ask) || view.rules.prefers(ask.guest);
            if is_free(board, ask) && (open(board, asks, index) || target(index).is_some()) {
                movers.push(index);
            }
        }
    }
    let cost = movers.len() * hosts.len() + asks.len() / 4 + view.fleet.hosts.len() / 4;
    if movers.len() > GUESTS || !effort.take(cost as u64) {
        return (None, false);
    }
    let banned = Banned::new();
    let mut clear = board.clone();
    for index in &movers {
        clear.remove(*index, &asks[*index]);
    }
    // What moves besides is taken to go first; whether it can is seen when all is put in order.
    let mut corner = unbanned(&clear, &banned);
    let besides = asks.iter().zip(&clear.placed);
    let besides: Vec<GuestId> = besides
        .filter_map(|(ask, placed)| placed.as_ref().map(|_| ask.guest))
        .collect();
    for guest in &besides {
        corner.gone(*guest);
    }
    let all = worth(board, asks, wanted);
    let rest = worth(&clear, asks, wanted);
    let own = movers
        .iter()
        .copied()
        .filter(|index| wanted.contains(index));
    let own: Vec<usize> = own.collect();
    let known = (missed(board, asks, &own), all.1 - rest.1);
    let found = squeeze::search(corner, asks, hosts, &movers, &known, looks, effort);
    // Nobody else could move, nothing else changes.
    let whole = !tied
        && movers.len() == asks.len()
        && view.ledger.in_flight.is_empty()
        && view.ledger.avoid.is_empty();
    let seen = found.all_seen && whole && found.left > 0;
    let mut ways = found.ways.iter().rev();
    let better = ways.find_map(|way| run(context, clear.clone(), asked, wanted, way, &all));
    if !found.ways.is_empty() {
        effort.take(asks.len() as u64);
    }
    (better, seen)
}

/// The board with that way, in an order in which it runs, if it is worth less than this.
fn run<'v, 'a>(
    context: &Context<'_, 'v, 'a>,
    mut board: Board<'v, 'a>,
    asked: &Asked<'a>,
    wanted: &[usize],
    way: &[Turn],
    known: &Worth,
) -> Option<Better<'v, 'a>> {
    let mut asks = asked.asks.clone();
    told(&mut asks, way, board.view);
    for turn in way {
        board.place(turn.ask, &asks[turn.ask], turn.host, turn.pools.clone());
    }
    let asking = |ask: &Ask<'_>| !matches!(ask.kind, For::Room | For::Balance);
    let mut each = asks.iter().enumerate();
    if each.any(|(index, ask)| asking(ask) && open(&board, &asks, index)) {
        board = (context.refill)(board, &mut asks);
    }
    if worth(&board, &asks, wanted) >= *known {
        return None;
    }
    let jobs = jobs(&board, &asks);
    let guests: Vec<GuestId> = way.iter().map(|turn| asks[turn.ask].guest).collect();
    let ordered = order(context.empty, jobs.clone(), asked, context.may_pass).ok();
    let ordered = ordered.or_else(|| in_sequence(context.empty, jobs, &guests, asked))?;
    Some((board, ordered, asks))
}

/// The board, rings that were found aside: they may be none in another way.
fn unbanned<'v, 'b, 'a>(board: &Board<'v, 'a>, banned: &'b Banned) -> Board<'b, 'a>
where
    'v: 'b,
{
    let mut board: Board<'b, 'a> = board.clone();
    board.banned = banned;
    board
}

/// Notes for whom guests make way: for the one that comes to their host next, or for whom that one makes way.
fn told<'a>(asks: &mut [Ask<'a>], way: &[Turn], view: &crate::view::View<'a>) {
    for (place, turn) in way.iter().enumerate().rev() {
        if asks[turn.ask].kind != For::Room {
            continue;
        }
        let home = view.guest(asks[turn.ask].guest).host;
        let comes = way[place + 1..].iter().find(|next| next.host == home);
        let goes = || way.iter().find(|next| asks[next.ask].kind != For::Room);
        if let Some(next) = comes.or_else(goes) {
            let next = &asks[next.ask];
            let (by, guest) = (next.by, next.room_for.unwrap_or(next.guest));
            asks[turn.ask].by = by;
            asks[turn.ask].room_for = Some(guest);
        }
    }
}
