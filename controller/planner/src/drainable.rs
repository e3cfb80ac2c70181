//! Whether hosts could be emptied now, and if not, which guests are in the way and why.

use std::cmp::Reverse;
use std::collections::BTreeMap;
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
use crate::wishes::{self, Ask, Asked, For, NO_OVERRIDES, rejection, remains, size};

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
    let binding = binding(wishes);
    let each: Vec<&[HostId]> = hosts.iter().map(std::slice::from_ref).collect();
    let blockers = together(fleet, &binding, ledger, &each, now);
    let all = hosts.iter().zip(blockers);
    all.map(|(host, blockers)| Drainable {
        host: *host,
        blockers,
    })
    .collect()
}

/// What of the wishes binds everybody, asking for nothing itself.
pub(crate) fn binding(wishes: &[Wish]) -> Vec<Wish> {
    let binding = |wish: &&Wish| matches!(wish.what, What::Drain { .. } | What::Place(_));
    wishes.iter().filter(binding).map(halted).collect()
}

/// For each of these groups of hosts what is in the way of emptying it as a whole.
pub(crate) fn together(
    fleet: &Fleet,
    binding: &[Wish],
    ledger: &Ledger,
    groups: &[&[HostId]],
    now: Duration,
) -> Vec<Vec<Rejection>> {
    let by = nobody();
    let mut on: Vec<Vec<GuestId>> = vec![Vec::new(); fleet.hosts.len()];
    for (guest, id) in fleet.guests.iter().zip((0..).map(GuestId)) {
        if guest.active {
            on[guest.host.at()].push(id);
        }
    }
    let of = |group: &[HostId]| -> Vec<GuestId> {
        let all = group.iter().flat_map(|host| &on[host.at()]);
        all.copied().collect()
    };
    let besides: Vec<GuestId> = groups.iter().flat_map(|group| of(group)).collect();
    let asked = Asked {
        draining: wishes::sort(fleet, binding, ledger).draining,
        ..Asked::default()
    };
    let view = View::new(fleet, binding, ledger, &asked, &besides, now);
    let none = Banned::new();
    let most = groups.iter().map(|group| of(group).len()).max();
    let mut board = Board::new(&view, &none, most.unwrap_or(0));
    let each = groups.iter().map(|group| {
        let guests = of(group);
        // What these rules say depends on the hosts' being closed and on who else leaves.
        let grouped =
            |(_, rule): (usize, &Rule<'_>)| matches!(rule.kind, Kind::Spread(_) | Kind::Together);
        if guests
            .iter()
            .any(|guest| view.rules.of(*guest).any(grouped))
        {
            return exactly(fleet, binding, ledger, group, now);
        }
        board.emptied = group.to_vec();
        let found = blockers(&mut board, &by, &guests);
        board.emptied.clear();
        found
    });
    each.collect()
}

/// Who asks where nobody does.
pub(crate) fn nobody() -> RequestedBy {
    RequestedBy {
        kind: "HostDrain".to_owned(),
        ..RequestedBy::default()
    }
}

/// The wish that empties these hosts.
pub(crate) fn emptying(hosts: &[HostId], makes_way: bool) -> Wish {
    Wish {
        by: nobody(),
        what: What::Drain {
            hosts: hosts.iter().copied().collect(),
            stopped: false,
            parallel: u32::MAX,
            makes_way,
            leaves: BTreeMap::new(),
            halted: None,
        },
    }
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
        match remains(view.fleet, facts) {
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
        room_for: None,
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
    group: &[HostId],
    now: Duration,
) -> Vec<Rejection> {
    let wish = emptying(group, false);
    let by = wish.by.clone();
    let mut wishes = binding.to_vec();
    wishes.push(wish);
    let mut blockers = plan(fleet, &wishes, ledger, now).rejections;
    // Who is in flight is leaving.
    blockers.retain(|rejection| rejection.by == by && rejection.cause.reason != Reason::GuestBusy);
    blockers
}
