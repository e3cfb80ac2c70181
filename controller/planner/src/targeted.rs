//! Explicit moves that name their target. They may wait for one another: all are first taken to leave, and what can't
//! hold in the end is taken out again, the least important first.

use std::collections::BTreeSet;

use crate::board::Board;
use crate::capacity::When;
use crate::choose::{lacks_only_room, open};
use crate::model::HostId;
use crate::wishes::Ask;

/// Places what can be placed of these asks at the targets they name.
pub(crate) fn place<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], wanted: &[usize]) {
    let mut scratch = Vec::new();
    let mut seen = BTreeSet::new();
    let mut hopeful = Vec::new();
    for index in wanted {
        let ask = &asks[*index];
        let Some(target) = ask.target else { continue };
        if lacks_only_room(board, ask, target, &mut scratch) && seen.insert(ask.guest) {
            board.departs(ask.guest);
            hopeful.push((*index, target));
        }
    }
    for (index, target) in hopeful {
        let ask = &asks[index];
        let mut pools = Vec::new();
        let way = board.way(ask, target, &mut pools);
        board.stays(ask.guest);
        if way.is_some() {
            board.place(index, ask, target, pools);
        }
    }
    settle(board, asks);
    retry(board, asks, wanted);
}

/// Places what has found room since. Nothing that is placed already makes less room for what is not.
pub(crate) fn retry<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], wanted: &[usize]) {
    let mut pools = Vec::new();
    loop {
        let mut progress = false;
        for index in wanted {
            let ask = &asks[*index];
            if let (true, Some(target)) = (open(board, asks, *index), ask.target)
                && board.way(ask, target, &mut pools).is_some()
            {
                board.place(*index, ask, target, std::mem::take(&mut pools));
                progress = true;
            }
        }
        if !progress {
            return;
        }
    }
}

/// Takes asks back until every host holds what comes once all that leaves has left.
fn settle<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>]) {
    loop {
        let hosts = (0..board.into.len() as u32).map(HostId);
        let over: Vec<HostId> = hosts
            .filter(|host| !board.into[host.at()].is_empty() && over(board, *host))
            .collect();
        let last: Vec<usize> = over
            .iter()
            .filter_map(|host| board.into[host.at()].iter().max().copied())
            .collect();
        if last.is_empty() {
            return;
        }
        for index in last {
            board.remove(index, &asks[index]);
        }
    }
}

/// Whether the host would hold more than it can once all that leaves has left.
pub(crate) fn over(board: &Board<'_, '_>, host: HostId) -> bool {
    let view = board.view;
    let facts = view.host(host);
    let pools = facts.pools.iter().enumerate();
    let mut full = pools.map(|(index, pool)| {
        let at = view.layout.pool(host, index);
        let sizes = board.room.sizes(at, When::Later);
        board.room.taken(&view.layout, at, When::Later) > view.layout.space(at)
            || pool
                .virtual_limit
                .is_some_and(|limit| sizes > i128::from(limit.0))
    });
    board.room.memory(host, When::Later) > i128::from(facts.memory_limit.0)
        || board.room.cpu(host, When::Later) > i128::from(facts.cpu_limit_milli)
        || full.any(|full| full)
}
