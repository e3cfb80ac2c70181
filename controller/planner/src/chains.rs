//! Room where there is none: a guest that nobody asked to move makes way for one that a drain has to place, or two where
//! one is not enough, and if they find no room either, others for those. What moves least is tried first. Guests that
//! placements send to each other's hosts find their places in the same way.

use crate::board::{Board, Bulk};
use crate::capacity::{When, demand};
use crate::choose::{Aim, lacks_only_room, open, put};
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
/// Guests of a host, those that move least, of which two may make way together.
const PAIRED: usize = 12;

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
            || guest.evacuation.is_some()
            || asked
                .limits
                .iter()
                .any(|limit| limit.leaves.contains_key(&id))
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
                room_for: None,
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
            find(board, asks, &residents, *index);
        }
    }
}

/// Places the ask, with some of these others making way: for each host the asks of guests there. Changes nothing if it
/// can't.
pub(crate) fn find<'a>(
    board: &mut Board<'_, 'a>,
    asks: &mut [Ask<'a>],
    residents: &[Vec<usize>],
    index: usize,
) -> bool {
    let mut search = Search {
        residents,
        tries: TRIES,
        placed: Vec::new(),
    };
    search.chain(board, asks, index, DEPTH)
}

struct Search<'r> {
    residents: &'r [Vec<usize>],
    /// Tries that are left.
    tries: usize,
    /// What is placed on trial.
    placed: Vec<usize>,
}

impl Search<'_> {
    /// Places the ask, with others making way if need be. Changes nothing if it can't.
    fn chain<'a>(
        &mut self,
        board: &mut Board<'_, 'a>,
        asks: &mut [Ask<'a>],
        index: usize,
        depth: usize,
    ) -> bool {
        if !open(board, asks, index) {
            // It has made way for another of these meanwhile.
            return true;
        }
        if put(board, asks, index, Aim::Tight) {
            self.placed.push(index);
            return true;
        }
        if depth == 0 {
            return false;
        }
        let mark = self.placed.len();
        for way in ways(board, asks, self.residents, index) {
            if self.tries == 0 {
                return false;
            }
            self.tries -= 1;
            let Some(pools) = place_without(board, asks, index, &way) else {
                continue;
            };
            board.place(index, &asks[index], way.host, pools);
            self.placed.push(index);
            let mut others = way.others.iter();
            let all = others.all(|other| {
                if asks[*other].kind == For::Room {
                    asks[*other].by = asks[index].by;
                    asks[*other].room_for = asks[index].room_for.or(Some(asks[index].guest));
                }
                self.chain(board, asks, *other, depth - 1)
            });
            if all {
                return true;
            }
            for placed in self.placed.drain(mark..) {
                board.remove(placed, &asks[placed]);
            }
        }
        false
    }
}

/// Pools for the ask's guest at the way's host if those who make way there have left.
fn place_without(
    board: &mut Board<'_, '_>,
    asks: &[Ask<'_>],
    index: usize,
    way: &Way,
) -> Option<Vec<usize>> {
    for other in &way.others {
        board.departs(asks[*other].guest);
    }
    let mut pools = Vec::new();
    let (ask, host) = (&asks[index], way.host);
    let fits = fits(board, ask, host, When::Later, &mut pools, &mut |_| false);
    for other in &way.others {
        board.stays(asks[*other].guest);
    }
    fits.then_some(pools)
}

/// A host that only lacks room, and the asks of guests there that could make way: one, or two where neither is enough.
struct Way {
    bytes: u64,
    host: HostId,
    others: Vec<usize>,
}

/// Ways for the ask's guest: what moves least first.
fn ways(
    board: &Board<'_, '_>,
    asks: &[Ask<'_>],
    residents: &[Vec<usize>],
    index: usize,
) -> Vec<Way> {
    let ask = &asks[index];
    let own = board.view.guest(ask.guest).host;
    let bulk = Bulk::of(board.view.guest(ask.guest));
    let mut hosts: Vec<(i128, usize, HostId)> = Vec::new();
    for host in board.view.open.iter().copied().filter(|host| *host != own) {
        if lacks_only_room(board, ask, host, &mut Vec::new()) {
            hosts.push((board.lacks(&bulk, host), board.view.rank[host.at()], host));
        }
    }
    // Where least is missing.
    hosts.sort_unstable();
    let mut ways = Vec::new();
    for (_, _, host) in hosts.into_iter().take(HOSTS) {
        let all = residents[host.at()].iter().copied();
        let mut single: Vec<(u64, usize)> = all
            .filter(|other| open(board, asks, *other))
            .map(|other| (board.bytes(asks[other].guest, host).0, other))
            .collect();
        single.sort_unstable();
        let missing = missing(board, ask, host);
        let frees = |others: &[usize]| {
            let sum = others
                .iter()
                .map(|other| demand(board.view.guest(asks[*other].guest)));
            let sum = sum.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            sum.0 >= missing.0 && sum.1 >= missing.1
        };
        let small = &single[..single.len().min(PAIRED)];
        for (place, (bytes, one)) in small.iter().enumerate() {
            for (more, other) in &small[place + 1..] {
                let others = vec![*one, *other];
                if frees(&others) && !frees(&others[..1]) && !frees(&others[1..]) {
                    let bytes = bytes.saturating_add(*more);
                    ways.push(Way {
                        bytes,
                        host,
                        others,
                    });
                }
            }
        }
        ways.extend(single.into_iter().map(|(bytes, other)| Way {
            bytes,
            host,
            others: vec![other],
        }));
    }
    ways.sort_by(|one, other| {
        let key = |way: &Way| (way.bytes, way.others.len());
        key(one)
            .cmp(&key(other))
            .then_with(|| one.others.cmp(&other.others))
    });
    ways
}

/// How much CPU and memory the host lacks for the ask's guest.
fn missing(board: &Board<'_, '_>, ask: &Ask<'_>, host: HostId) -> (i128, i128) {
    let facts = board.view.host(host);
    let (cpu, memory) = demand(board.view.guest(ask.guest));
    let free = |limit: u64, held: i128| i128::from(limit) - held;
    (
        cpu - free(facts.cpu_limit_milli, board.room.cpu(host, When::Later)),
        memory - free(facts.memory_limit.0, board.room.memory(host, When::Later)),
    )
}
