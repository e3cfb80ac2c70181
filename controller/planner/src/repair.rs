//! Places guests that were left over, by sending one other guest of this plan elsewhere.
//!
//! One guest is moved out of the way for each that is left over (a chain of depth one), and only guests whose target
//! is ours to choose. The work is bounded; what does not succeed changes nothing.

use crate::board::Board;
use crate::choose::{Aim, lacks_only_room, open, put};
use crate::model::HostId;
use crate::wishes::{Ask, size};

/// Looks at hosts that a repair may cost in all.
const BUDGET: usize = 400_000;

/// Tries to place what is left over of these asks.
pub(crate) fn eject<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], wanted: &[usize]) {
    let mut budget = BUDGET;
    loop {
        let mut progress = false;
        for index in wanted {
            if budget == 0 {
                return;
            }
            if open(board, asks, *index) {
                budget = budget.saturating_sub(board.view.open.len());
                progress |= put(board, asks, *index, Aim::Tight)
                    || make_way(board, asks, *index, &mut budget);
            }
        }
        if !progress {
            return;
        }
    }
}

fn make_way<'a>(
    board: &mut Board<'_, 'a>,
    asks: &[Ask<'a>],
    index: usize,
    budget: &mut usize,
) -> bool {
    let ask = &asks[index];
    let own = board.view.guest(ask.guest).host;
    let hosts: Vec<HostId> = board
        .view
        .open
        .iter()
        .copied()
        .filter(|host| *host != own && !board.into[host.at()].is_empty())
        .collect();
    let mut scratch = Vec::new();
    for host in hosts {
        if !lacks_only_room(board, ask, host, &mut scratch) {
            continue;
        }
        let free = |other: &usize| asks[*other].target.is_none();
        let mut others: Vec<usize> = board.into[host.at()].iter().copied().filter(free).collect();
        others.sort_by_key(|other| (size(board.view.guest(asks[*other].guest)), *other));
        for other in others {
            if *budget == 0 {
                return false;
            }
            *budget = budget.saturating_sub(1);
            if swap(board, asks, (index, host), other, budget) {
                return true;
            }
        }
    }
    false
}

/// Puts the ask at the host in the place of the other one, which goes elsewhere. Changes nothing if it can't.
fn swap<'a>(
    board: &mut Board<'_, 'a>,
    asks: &[Ask<'a>],
    (index, host): (usize, HostId),
    other: usize,
    budget: &mut usize,
) -> bool {
    let Some(before) = board.placed[other].clone() else {
        return false;
    };
    board.remove(other, &asks[other]);
    let mut pools = Vec::new();
    if board.way(&asks[index], host, &mut pools).is_some() {
        board.place(index, &asks[index], host, pools);
        *budget = budget.saturating_sub(board.view.open.len());
        if put(board, asks, other, Aim::Tight) {
            return true;
        }
        board.remove(index, &asks[index]);
    }
    board.place(other, &asks[other], before.target, before.pools);
    false
}
