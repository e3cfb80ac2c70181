//! Which target each guest goes to.
//!
//! All targets of a guest cost about the same bytes, so a host is chosen that has room at once before one that has it
//! later; then one that keeps the fleet level; among hosts about as full, one whose inbound slots and link have the
//! least to do, so that the whole ends soon; then by name. Where not all find a place that way, the guests are packed
//! tightly instead, and what is still left over is placed by moving single guests of the plan elsewhere (`repair`).

use std::cmp::Reverse;

use crate::board::{Board, Bulk, FULL, STEP, share};
use crate::capacity::{When, demand};
use crate::fit::{Refusal, fits};
use crate::model::HostId;
use crate::repair;
use crate::shelf::Place;
use crate::wishes::Ask;

/// What a choice is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Hosts about equally full.
    Level,
    /// As little as possible left on the hosts that are used.
    Tight,
}

/// Hosts with room that are compared for a guest; those on the shelf that come first.
const LOOKS: usize = 12;

type Score = (i128, i128, u64, i128, usize);

/// The best host for an ask, its pools in `chosen`. What placements prefer is kept where that is possible.
pub(crate) fn best(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    aim: Aim,
    chosen: &mut Vec<usize>,
) -> Option<HostId> {
    if !ask.strictness.preferred && board.view.rules.prefers(ask.guest) {
        let mut strict = ask.clone();
        strict.strictness.preferred = true;
        let host = best_of(board, &strict, aim, chosen);
        if host.is_some() {
            return host;
        }
    }
    best_of(board, ask, aim, chosen)
}

fn best_of(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    aim: Aim,
    chosen: &mut Vec<usize>,
) -> Option<HostId> {
    at_once(board, ask, aim, chosen).or_else(|| {
        let open = board.view.open.iter().copied();
        let left = open.filter(|host| board.later(ask.guest, *host));
        first_best(
            board,
            ask,
            aim,
            When::Later,
            chosen,
            left.map(|host| (0, host)),
        )
    })
}

/// The best host that has room at once.
fn at_once(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    aim: Aim,
    chosen: &mut Vec<usize>,
) -> Option<HostId> {
    let on_shelf = |place: &Place| (place.0, board.view.by_name[place.3 as usize]);
    let places = board.shelf.places();
    match aim {
        Aim::Level => first_best(board, ask, aim, When::Now, chosen, places.map(on_shelf)),
        Aim::Tight => {
            let fullest_first = places.rev().map(on_shelf);
            first_best(board, ask, aim, When::Now, chosen, fullest_first)
        }
    }
}

/// The best of the hosts in this order, each with a lower bound of its fullness in steps.
fn first_best(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    aim: Aim,
    when: When,
    chosen: &mut Vec<usize>,
    hosts: impl Iterator<Item = (i128, HostId)>,
) -> Option<HostId> {
    let guest = board.view.guest(ask.guest);
    let bulk = Bulk::of(guest);
    let mut scratch = Vec::new();
    let mut found: Option<(Score, HostId)> = None;
    let mut looks = 0;
    for (least, host) in hosts {
        let hopeless = |(score, _): &(Score, HostId)| aim == Aim::Level && score.0 < least;
        if looks == LOOKS || found.as_ref().is_some_and(hopeless) {
            break;
        }
        if host == guest.host
            || !board.may_hold(&bulk, host, when)
            || !fits(board, ask, host, when, &mut scratch, &mut |_| false)
        {
            continue;
        }
        looks += 1;
        let score = score(board, ask, host, &scratch, when, aim);
        if found.is_none_or(|(least, _)| score < least) {
            found = Some((score, host));
            std::mem::swap(chosen, &mut scratch);
        }
    }
    found.map(|(_, host)| host)
}

fn score(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    host: HostId,
    pools: &[usize],
    when: When,
    aim: Aim,
) -> Score {
    let fullness = fullness(board, ask, host, pools, when);
    let waves = board.waves(host);
    let time = board.seconds(host, board.bytes(ask.guest, host).0);
    let rank = board.view.rank[host.at()];
    match aim {
        Aim::Level => (fullness / STEP, waves, time, fullness, rank),
        Aim::Tight => (FULL - fullness, waves, time, 0, rank),
    }
}

/// How full the fullest of the host's memory, CPU and pools in question would be.
fn fullness(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    host: HostId,
    pools: &[usize],
    when: When,
) -> i128 {
    let view = board.view;
    let guest = view.guest(ask.guest);
    let facts = view.host(host);
    let (cpu, memory) = demand(guest);
    let mut most = share(
        board.room.memory(host, when) + memory,
        i128::from(facts.memory_limit.0),
    );
    let cpu = share(
        board.room.cpu(host, when) + cpu,
        i128::from(facts.cpu_limit_milli),
    );
    most = most.max(cpu);
    for (disk, pool) in guest.disks.iter().zip(pools) {
        let size = i128::from(disk.virtual_size.0);
        // What a pool holds in all is not known: what moves take of its free space stands for it.
        let taken = board.room.taken(&view.layout, *pool, when) + size;
        most = most.max(share(taken, view.layout.space(*pool)));
        let limit = view.host(host).pools[view.layout.index(host, *pool)].virtual_limit;
        if let Some(limit) = limit {
            let sizes = board.room.sizes(*pool, when) + size;
            most = most.max(share(sizes, i128::from(limit.0)));
        }
    }
    most.min(FULL)
}

/// Places what can be placed of these asks, which leave the choice of the target to us.
pub(crate) fn spread<'v, 'a>(
    board: Board<'v, 'a>,
    asks: &[Ask<'a>],
    wanted: &[usize],
) -> Board<'v, 'a> {
    if !wanted.iter().any(|index| open(&board, asks, *index)) {
        return board;
    }
    let level = pass(board.clone(), asks, wanted, Aim::Level);
    if missed(&level, asks, wanted).is_empty() {
        return level;
    }
    let mut tightest: Vec<usize> = wanted.to_vec();
    tightest.sort_by_key(|index| {
        Reverse((
            priority(&board, asks, *index),
            greatest_share(&board, &asks[*index]),
        ))
    });
    let others = [
        pass(board.clone(), asks, wanted, Aim::Tight),
        pass(board.clone(), asks, &tightest, Aim::Level),
        pass(board, asks, &tightest, Aim::Tight),
    ];
    let mut chosen = level;
    for other in others {
        if missed(&other, asks, wanted) < missed(&chosen, asks, wanted) {
            chosen = other;
        }
    }
    repair::eject(&mut chosen, asks, wanted);
    chosen
}

fn priority(board: &Board<'_, '_>, asks: &[Ask<'_>], index: usize) -> i32 {
    board.view.guest(asks[index].guest).priority
}

/// Sends guests where the plan before sent them, if they may go there: at once, or later where no other host has room at
/// once.
pub(crate) fn keep<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], wanted: &[usize], when: When) {
    let view = board.view;
    let mut pools = Vec::new();
    for index in wanted {
        let ask = &asks[*index];
        let planned = view.ledger.planned.get(&ask.guest).copied();
        let Some(target) = planned.filter(|target| *target != view.guest(ask.guest).host) else {
            continue;
        };
        if !open(board, asks, *index) {
            continue;
        }
        let mut strict = ask.clone();
        strict.strictness.preferred = true;
        let fits = |pools: &mut Vec<usize>| {
            fits(board, &strict, target, when, pools, &mut |_| false).then_some(target)
        };
        let host = match when {
            When::Now => fits(&mut pools),
            When::Later if !board.later(ask.guest, target) => None,
            When::Later => {
                at_once(board, &strict, Aim::Level, &mut pools).or_else(|| fits(&mut pools))
            }
        };
        if let Some(host) = host {
            board.place(*index, ask, host, std::mem::take(&mut pools));
        }
    }
}

/// The priorities of those left over, highest first: the lesser list is the better.
pub(crate) fn missed(board: &Board<'_, '_>, asks: &[Ask<'_>], wanted: &[usize]) -> Vec<i32> {
    let left = wanted.iter().filter(|index| open(board, asks, **index));
    let mut missed: Vec<i32> = left.map(|index| priority(board, asks, *index)).collect();
    missed.sort_by_key(|priority| Reverse(*priority));
    missed
}

/// Whether an ask waits for a place still.
pub(crate) fn open(board: &Board<'_, '_>, asks: &[Ask<'_>], index: usize) -> bool {
    board.mover(asks[index].guest).is_none()
}

fn pass<'v, 'a>(
    mut board: Board<'v, 'a>,
    asks: &[Ask<'a>],
    order: &[usize],
    aim: Aim,
) -> Board<'v, 'a> {
    for index in order {
        if open(&board, asks, *index) {
            put(&mut board, asks, *index, aim);
        }
    }
    board
}

/// Places one ask at its best host. True if there is one.
pub(crate) fn put<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], index: usize, aim: Aim) -> bool {
    let mut pools = Vec::new();
    match best(board, &asks[index], aim, &mut pools) {
        Some(host) => {
            board.place(index, &asks[index], host, pools);
            true
        }
        None => false,
    }
}

/// The largest share of what an average open host has free that the guest takes, in any resource.
fn greatest_share(board: &Board<'_, '_>, ask: &Ask<'_>) -> i128 {
    let view = board.view;
    let guest = view.guest(ask.guest);
    let (cpu, memory) = demand(guest);
    let (mut cpus, mut memories, mut space) = (0, 0, 0);
    for host in &view.open {
        let facts = view.host(*host);
        cpus += i128::from(facts.cpu_limit_milli) - board.room.cpu(*host, When::Later);
        memories += i128::from(facts.memory_limit.0) - board.room.memory(*host, When::Later);
        for index in 0..facts.pools.len() {
            let pool = view.layout.pool(*host, index);
            space += view.layout.space(pool) - board.room.taken(&view.layout, pool, When::Later);
        }
    }
    let disks = guest.disks.iter();
    let disks: i128 = disks.map(|disk| i128::from(disk.virtual_size.0)).sum();
    let share = |needs: i128, free: i128| needs.saturating_mul(FULL * FULL) / free.max(1);
    share(memory, memories)
        .max(share(cpu, cpus))
        .max(share(disks, space))
}

/// Whether the host only lacks room for the ask's guest, if anything.
pub(crate) fn lacks_only_room(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    host: HostId,
    scratch: &mut Vec<usize>,
) -> bool {
    let mut room_only = true;
    fits(board, ask, host, When::Later, scratch, &mut |refusal| {
        room_only &= about_room(refusal);
        room_only
    });
    room_only
}

/// Whether a refusal is about room, which a move elsewhere could make.
pub(crate) fn about_room(refusal: Refusal) -> bool {
    use crate::pools::DiskWhy;
    match refusal {
        Refusal::Memory { .. } | Refusal::Cpu { .. } => true,
        Refusal::Rule { lasting, .. } => !lasting,
        Refusal::Disk(disk) => matches!(
            disk.why,
            DiskWhy::Space { .. } | DiskWhy::Bases { .. } | DiskWhy::Sizes { .. }
        ),
        Refusal::OutOfReach
        | Refusal::Closed
        | Refusal::Draining
        | Refusal::NoSlots
        | Refusal::Avoided
        | Refusal::NameTaken
        | Refusal::DefinedThere
        | Refusal::NoEmulator
        | Refusal::NoMachine
        | Refusal::Older
        | Refusal::OtherCpu
        | Refusal::NoNetwork
        | Refusal::NoStorage
        | Refusal::OtherPath
        | Refusal::Ring => false,
    }
}
