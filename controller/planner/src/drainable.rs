//! Whether hosts could be emptied now, and if not, which guests are in the way and why.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::board::{Banned, Board};
use crate::choose::{Aim, put, spread};
use crate::explain;
use crate::model::{Drainable, Fleet, GuestId, HostId, Ledger, Rejection, What, Wish};
use crate::plan::plan;
use crate::rules::{Kind, Rule, Strictness};
use crate::view::View;
use crate::wishes::{self, Ask, Asked, For, NO_OVERRIDES, at_source, rejection, size};

/// For each of these hosts whether all its running guests could go elsewhere now, as if nothing else moved but what is
/// in flight. Of the wishes only what binds everybody counts: drained hosts and placements.
///
/// What is looked at are moves of these guests alone. On a full fleet a drain may do more: guests that nobody asks to
/// move make way.
///
/// One host costs about what a drain of it costs to plan; what is common to all is made once.
#[must_use]
pub fn drainable(
    fleet: &Fleet,
    wishes: &[Wish],
    ledger: &Ledger,
    hosts: &[HostId],
    now: Duration,
) -> Vec<Drainable> {
    let binding = |wish: &&Wish| matches!(wish.what, What::Drain { .. } | What::Place(_));
    let binding: Vec<Wish> = wishes.iter().filter(binding).map(halted).collect();
    let by = RequestedBy {
        kind: "HostDrain".to_owned(),
        ..RequestedBy::default()
    };
    let mut on: Vec<Vec<GuestId>> = vec![Vec::new(); fleet.hosts.len()];
    for (guest, id) in fleet.guests.iter().zip((0..).map(GuestId)) {
        if guest.active {
            on[guest.host.at()].push(id);
        }
    }
    let besides: Vec<GuestId> = hosts
        .iter()
        .flat_map(|host| &on[host.at()])
        .copied()
        .collect();
    let asked = Asked {
        draining: wishes::sort(fleet, &binding, ledger).draining,
        ..Asked::default()
    };
    let view = View::new(fleet, &binding, ledger, &asked, &besides, now);
    let none = Banned::new();
    let most = on.iter().map(Vec::len).max().unwrap_or(0);
    let mut board = Board::new(&view, &none, most);
    let each = hosts.iter().map(|host| {
        // What these rules say depends on the host's being closed and on who else leaves.
        let group =
            |(_, rule): (usize, &Rule<'_>)| matches!(rule.kind, Kind::Spread(_) | Kind::Together);
        let blockers = if on[host.at()]
            .iter()
            .any(|guest| view.rules.of(*guest).any(group))
        {
            exactly(fleet, &binding, ledger, *host, now)
        } else {
            blockers(&mut board, &by, &on[host.at()])
        };
        Drainable {
            host: *host,
            blockers,
        }
    });
    each.collect()
}

/// The wish as it binds others, asking for nothing itself.
fn halted(wish: &Wish) -> Wish {
    let mut wish = wish.clone();
    let suspended = || {
        let message = "not looked at here".to_owned();
        Some(Cause::new(Reason::Suspended, message))
    };
    match &mut wish.what {
        What::Drain { halted, .. } => *halted = suspended(),
        What::Place(placement) => placement.halted = suspended(),
        What::Move { .. } | What::Balance(_) => {}
    }
    wish
}

/// What is in the way of the guests' leaving. The board is as before afterwards.
fn blockers<'a>(
    board: &mut Board<'_, 'a>,
    by: &'a RequestedBy,
    guests: &[GuestId],
) -> Vec<Rejection> {
    let view = board.view;
    let mut blockers = Vec::new();
    let mut movable = Vec::new();
    for guest in guests.iter().copied().filter(|guest| !view.flies(*guest)) {
        let facts = view.guest(guest);
        let own = at_source(view.fleet, facts)
            .or_else(|| facts.immovable.clone())
            .or_else(|| facts.held.clone());
        match own {
            Some(cause) => blockers.push(rejection(by, guest, cause)),
            None => movable.push(guest),
        }
    }
    movable.sort_by_key(|guest| {
        let facts = view.guest(*guest);
        let key = (Reverse(facts.priority), Reverse(size(facts)));
        (key, facts.name.as_str())
    });
    let ask = |guest: GuestId| Ask {
        by,
        also: Vec::new(),
        guest,
        target: None,
        overrides: &NO_OVERRIDES,
        kind: For::Drain,
        strictness: Strictness::default(),
    };
    let asks: Vec<Ask<'a>> = movable.into_iter().map(ask).collect();
    let all: Vec<usize> = (0..asks.len()).collect();
    let placed = all
        .iter()
        .all(|index| put(board, &asks, *index, Aim::Level));
    for (index, ask) in asks.iter().enumerate() {
        board.remove(index, ask);
    }
    if !placed {
        let mut packed = spread(board.clone(), &asks, &all);
        // What was placed late may have made room for what was passed over before.
        loop {
            let before = packed.moves();
            packed = spread(packed, &asks, &all);
            if packed.moves() == before {
                break;
            }
        }
        let left = asks.iter().filter(|ask| packed.mover(ask.guest).is_none());
        blockers.extend(left.flat_map(|ask| explain::rejections(&packed, ask)));
    }
    blockers
}

/// The same by a whole plan.
fn exactly(
    fleet: &Fleet,
    binding: &[Wish],
    ledger: &Ledger,
    host: HostId,
    now: Duration,
) -> Vec<Rejection> {
    let by = RequestedBy {
        kind: "HostDrain".to_owned(),
        ..RequestedBy::default()
    };
    let mut wishes = binding.to_vec();
    wishes.push(Wish {
        by: by.clone(),
        what: What::Drain {
            hosts: BTreeSet::from([host]),
            stopped: false,
            parallel: u32::MAX,
            makes_way: false,
            halted: None,
        },
    });
    let mut blockers = plan(fleet, &wishes, ledger, now).rejections;
    // Who is in flight is leaving.
    blockers.retain(|rejection| rejection.by == by && rejection.cause.reason != Reason::GuestBusy);
    blockers
}
