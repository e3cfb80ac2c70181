//! Moves that make headroom where no making way does: every single one, and two together, as many as there is time for.

use super::{Blockers, Keeper, after, moved};
use crate::board::Board;
use crate::capacity::{When, demand};
use crate::drainable::together;
use crate::fit::fits;
use crate::model::{HostId, Rejection};
use crate::wishes::{Ask, For};

/// Guests times hosts up to which moves are looked for.
const SIZE: usize = 20_000;
/// Fleets that are looked at: what they would be after a move, or after two.
const LOOKS: usize = 240;
/// First moves that are tried with each second one.
const FIRST: usize = 8;

/// A move that the policy could make.
struct Step {
    ask: usize,
    target: HostId,
    pools: Vec<usize>,
    bytes: u64,
}

impl<'a> Keeper<'_, 'a> {
    /// Places one move, or two, after which fewer domains could not be emptied, and none that could be before. Gives them
    /// and what is left then.
    pub(super) fn search(
        &self,
        board: &mut Board<'_, 'a>,
        asks: &[Ask<'a>],
        domain: usize,
        short: &Blockers,
    ) -> Option<(Vec<usize>, Blockers)> {
        let size = board.view.fleet.guests.len() * self.policy.hosts().len();
        if size > SIZE || self.is_too_full(board, domain) {
            return None;
        }
        let mut looks = LOOKS;
        let mut firsts = Vec::new();
        for step in self.steps(board, asks).into_iter().take(LOOKS) {
            looks -= 1;
            place(board, asks, &step);
            match self.judge(board, asks, domain, short, &[step.ask]) {
                Ok(left) => return Some((vec![step.ask], left)),
                Err(left) => {
                    board.remove(step.ask, &asks[step.ask]);
                    firsts.push((left, step.bytes, step));
                }
            }
        }
        firsts.sort_by_key(|(left, bytes, _)| (*left, *bytes));
        for (_, _, first) in firsts.into_iter().take(FIRST) {
            place(board, asks, &first);
            for step in self.steps(board, asks) {
                if looks == 0 {
                    break;
                }
                looks -= 1;
                place(board, asks, &step);
                let both = vec![first.ask, step.ask];
                if let Ok(left) = self.judge(board, asks, domain, short, &both) {
                    return Some((both, left));
                }
                board.remove(step.ask, &asks[step.ask]);
            }
            board.remove(first.ask, &asks[first.ask]);
        }
        None
    }

    /// What is left when the placed moves are no way to empty the domain without spoiling another: by memory, what can't
    /// leave, and what is missing for the largest of it.
    fn judge(
        &self,
        board: &Board<'_, 'a>,
        asks: &[Ask<'a>],
        domain: usize,
        short: &Blockers,
        placed: &[usize],
    ) -> Result<Blockers, (i128, i128)> {
        let view = board.view;
        let (_, hosts) = &self.domains[domain];
        let fleet = after(board, asks);
        let groups = [hosts.as_slice()];
        let told = together(&fleet, &self.binding, view.ledger, &groups, view.now);
        let left: Vec<Rejection> = told.into_iter().flatten().collect();
        if left.is_empty() {
            let (moves, bytes) = moved(board, asks, self.own.iter().chain(placed));
            let after = self.short(board, asks);
            return if self.policy.allows(moves, bytes) && super::is_better(short, &after) {
                Ok(after)
            } else {
                Err((0, 0))
            };
        }
        let sizes = left.iter().map(|left| demand(view.guest(left.guest)).1);
        let largest = sizes.clone().max().unwrap_or(0);
        let others = view.open.iter().filter(|host| !hosts.contains(host));
        let lack = others
            .map(|host| (largest - free(board, *host)).max(0))
            .min();
        Err((sizes.sum(), lack.unwrap_or(i128::MAX)))
    }

    /// Whether the domain's guests are more than all other hosts together have room for: no move changes that.
    fn is_too_full(&self, board: &Board<'_, 'a>, domain: usize) -> bool {
        let view = board.view;
        let (_, hosts) = &self.domains[domain];
        let used = hosts
            .iter()
            .map(|host| board.room.memory(*host, When::Later));
        let others = view.open.iter().filter(|host| !hosts.contains(host));
        used.sum::<i128>() > others.map(|host| free(board, *host).max(0)).sum()
    }

    /// Moves that the policy could make now: those with the fewest bytes first.
    fn steps(&self, board: &Board<'_, 'a>, asks: &[Ask<'a>]) -> Vec<Step> {
        let mut all = Vec::new();
        for (index, ask) in asks.iter().enumerate() {
            let own = ask.kind == For::Balance && self.policy.is(ask.by);
            if !own || board.mover(ask.guest).is_some() {
                continue;
            }
            for target in self.policy.hosts().iter().copied() {
                let mut pools = Vec::new();
                let bytes = board.bytes(ask.guest, target).0;
                if target != board.view.guest(ask.guest).host
                    && fits(board, ask, target, When::Later, &mut pools, &mut |_| false)
                {
                    all.push(Step {
                        ask: index,
                        target,
                        pools,
                        bytes,
                    });
                }
            }
        }
        all.sort_by_key(|step| (step.bytes, step.ask, step.target));
        all
    }
}

fn place<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], step: &Step) {
    board.place(step.ask, &asks[step.ask], step.target, step.pools.clone());
}

/// Memory that the host has left once all that is placed has moved; negative when over its limit.
fn free(board: &Board<'_, '_>, host: HostId) -> i128 {
    i128::from(board.view.host(host).memory_limit.0) - board.room.memory(host, When::Later)
}
