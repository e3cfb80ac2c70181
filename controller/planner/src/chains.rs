//! Room where there is none: a guest that nobody asked to move makes way for one that a drain has to place, and if it
//! finds no room either, another for that one. The chain with the smallest first guest is tried first.

use crate::board::{Board, Bulk};
use crate::capacity::When;
use crate::choose::{Aim, about_room, open, put};
use crate::fit::fits;
use crate::model::{GuestId, HostId};
use crate::rules::Strictness;
use crate::view::View;
use crate::wishes::{Ask, Asked, For, NO_OVERRIDES, at_source};

/// Guests of a chain that make way.
const DEPTH: usize = 3;
/// Guests that are tried in all to make way, for one that is to be placed.
const TRIES: usize = 400;
/// Hosts that are looked at for one guest.
const HOSTS: usize = 64;

/// Adds an ask for each guest that could make way for the guest of a drain. Who asks is said when it does.
pub(crate) fn ask<'a>(view: &View<'a>, asked: &mut Asked<'a>) {
    let Some(by) = asked.limits.first().map(|limit| limit.by) else {
        return;
    };
    let others: Vec<bool> = {
        let mut others = vec![false; view.fleet.guests.len()];
        let wanted = asked.asks.iter().filter(|ask| ask.kind != For::Balance);
        let refused = asked
            .refused
            .iter()
            .chain(&asked.stuck)
            .map(|refused| refused.guest);
        for guest in wanted.map(|ask| ask.guest).chain(refused) {
            others[guest.at()] = true;
        }
        others
    };
    for (guest, id) in view.fleet.guests.iter().zip((0..).map(GuestId)) {
        let stays = !guest.active
            || others[id.at()]
            || view.flies(id)
            || guest.immovable.is_some()
            || guest.held.is_some()
            || view.gate(guest.host).is_some()
            || at_source(view.fleet, guest).is_some();
        if !stays {
            asked.asks.push(Ask {
                by,
                also: Vec::new(),
                guest: id,
                target: None,
                overrides: &NO_OVERRIDES,
                kind: For::Room,
                strictness: Strictness::default(),
            });
        }
    }
}

/// Places what is left over of these asks by having other guests make way.
pub(crate) fn make_way<'a>(board: &mut Board<'_, 'a>, asks: &mut [Ask<'a>], wanted: &[usize]) {
    let mut residents: Vec<Vec<usize>> = vec![Vec::new(); board.view.fleet.hosts.len()];
    for (index, ask) in asks.iter().enumerate() {
        if ask.kind == For::Room {
            residents[board.view.guest(ask.guest).host.at()].push(index);
        }
    }
    if residents.iter().all(Vec::is_empty) {
        return;
    }
    for index in wanted {
        if open(board, asks, *index) {
            let mut tries = TRIES;
            chain(board, asks, &residents, *index, DEPTH, &mut tries);
        }
    }
}

/// Places the ask, with others making way if need be. Changes nothing if it can't.
fn chain<'a>(
    board: &mut Board<'_, 'a>,
    asks: &mut [Ask<'a>],
    residents: &[Vec<usize>],
    index: usize,
    depth: usize,
    tries: &mut usize,
) -> bool {
    if put(board, asks, index, Aim::Tight) {
        return true;
    }
    if depth == 0 {
        return false;
    }
    for (_, host, other) in ways(board, asks, residents, index) {
        if *tries == 0 {
            return false;
        }
        *tries -= 1;
        let guest = asks[other].guest;
        board.departs(guest);
        let mut pools = Vec::new();
        let fits = fits(
            board,
            &asks[index],
            host,
            When::Later,
            &mut pools,
            &mut |_| false,
        );
        board.stays(guest);
        if !fits {
            continue;
        }
        board.place(index, &asks[index], host, pools);
        asks[other].by = asks[index].by;
        if chain(board, asks, residents, other, depth - 1, tries) {
            return true;
        }
        board.remove(index, &asks[index]);
    }
    false
}

/// Hosts that only lack room for the ask's guest, each with a guest there that could make way: what moves least first.
fn ways(
    board: &Board<'_, '_>,
    asks: &[Ask<'_>],
    residents: &[Vec<usize>],
    index: usize,
) -> Vec<(u64, HostId, usize)> {
    let ask = &asks[index];
    let own = board.view.guest(ask.guest).host;
    let bulk = Bulk::of(board.view.guest(ask.guest));
    let mut hosts: Vec<(i128, usize, HostId)> = Vec::new();
    for host in board.view.open.iter().copied().filter(|host| *host != own) {
        let mut room_only = true;
        fits(
            board,
            ask,
            host,
            When::Later,
            &mut Vec::new(),
            &mut |refusal| {
                room_only &= about_room(refusal);
                room_only
            },
        );
        if room_only {
            hosts.push((board.lacks(&bulk, host), board.view.rank[host.at()], host));
        }
    }
    // Where least is missing.
    hosts.sort_unstable();
    let mut ways = Vec::new();
    for (_, _, host) in hosts.into_iter().take(HOSTS) {
        for other in residents[host.at()].iter().copied() {
            if open(board, asks, other) {
                ways.push((board.bytes(asks[other].guest, host).0, host, other));
            }
        }
    }
    ways.sort_by_key(|(bytes, _, other)| (*bytes, *other));
    ways
}
