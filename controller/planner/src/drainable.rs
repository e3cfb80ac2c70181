//! Whether hosts could be emptied now, and if not, which guests are in the way and why.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::board::{Banned, Board, Bulk};
use crate::capacity::When;
use crate::choose::spread;
use crate::explain;
use crate::fit::fits;
use crate::model::{Drainable, Fleet, GuestId, HostId, Ledger, Rejection, What, Wish};
use crate::plan::plan;
use crate::rules::{Rule, Strictness};
use crate::view::View;
use crate::wishes::{self, Ask, Asked, For, NO_OVERRIDES, rejection, remains, size};

/// Plans of whole drains that one look makes, times what each costs in guests: about a second.
const EFFORT: usize = 300_000;
/// Guests of a plan that take about as long as its search through nearly full hosts.
const SEARCH: usize = 6_000;

/// For each of these hosts whether a drain of it would find all its running guests a place now, as if nothing else moved but
/// what is in flight. Of the wishes only what binds everybody counts: drained hosts and placements.
///
/// Where the guests themselves find no room, others may make way for them, as they would for a drain. That costs a whole plan
/// for a host, so on large fleets it is looked at for some of these hosts only; the others are told as blocked.
///
/// One host costs about what a drain of it costs to plan; what is common to all is made once. [`Looked`] asks again only
/// where an answer may have changed.
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
    let found = find(fleet, &binding, ledger, &each, now).into_iter();
    let told = hosts.iter().zip(found).map(|(host, found)| Drainable {
        host: *host,
        blockers: found.blockers,
        making_way: 0,
    });
    let mut told: Vec<Drainable> = told.collect();
    make_way(fleet, &binding, ledger, &mut told, now);
    told
}

/// Looks where others make way: on hosts whose guests lack room only, but for those that a drain shuts down.
pub(crate) fn make_way(
    fleet: &Fleet,
    binding: &[Wish],
    ledger: &Ledger,
    told: &mut [Drainable],
    now: Duration,
) {
    let lacks_room = |told: &&mut Drainable| {
        let reasons = told.blockers.iter().map(|blocker| blocker.cause.reason);
        let mut reasons = reasons.filter(|reason| *reason != Reason::ShutdownPending);
        reasons.clone().count() > 0 && reasons.all(|reason| reason == Reason::NoHostFits)
    };
    let plans = EFFORT / (fleet.guests.len() + SEARCH);
    for told in told.iter_mut().filter(lacks_room).take(plans) {
        let (blockers, making_way) = exactly(fleet, binding, ledger, &[told.host], now, true);
        (told.blockers, told.making_way) = (blockers, making_way);
    }
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
    let found = find(fleet, binding, ledger, groups, now).into_iter();
    found.map(|found| found.blockers).collect()
}

/// What is in the way of emptying a group of hosts.
pub(crate) struct Found {
    pub(crate) blockers: Vec<Rejection>,
    /// How many hosts after the group's first, by name, have a say in that; none: all may.
    pub(crate) reach: Option<usize>,
}

/// The same, with what it follows from.
pub(crate) fn find(
    fleet: &Fleet,
    binding: &[Wish],
    ledger: &Ledger,
    groups: &[&[HostId]],
    now: Duration,
) -> Vec<Found> {
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
        let grouped = |(_, rule): (usize, &Rule<'_>)| rule.law.compares();
        if guests
            .iter()
            .any(|guest| view.rules.of(*guest).any(grouped))
        {
            let (blockers, _) = exactly(fleet, binding, ledger, group, now, false);
            return Found {
                blockers,
                reach: None,
            };
        }
        board.emptied = group.to_vec();
        let start = group.first().map_or(0, |host| view.rank[host.at()]);
        let found = blockers(&mut board, &by, &guests, start);
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

/// What is in the way of the guests' leaving their hosts, the first of which has this place in the order of names. The board
/// is as before afterwards.
fn blockers<'a>(
    board: &mut Board<'_, 'a>,
    by: &'a RequestedBy,
    guests: &[GuestId],
    start: usize,
) -> Found {
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
    let ruled = asks.iter().any(|ask| view.rules.any(ask.guest));
    let walked = if ruled {
        None
    } else {
        walk(board, &asks, start)
    };
    if walked.is_none() {
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
    Found {
        reach: walked.filter(|_| blockers.is_empty()),
        blockers,
    }
}

/// Hosts that a walk looks at for each guest, on the average.
const LOOKS: usize = 64;

/// Sends each guest to the first host with room after this place in the order of names, the largest first. Nothing but the
/// hosts that it comes by has a say in that: gives how many those are, or nothing if it does not come to an end soon. The
/// board is as before afterwards.
fn walk<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], start: usize) -> Option<usize> {
    let view = board.view;
    let all = view.by_name.len();
    let (mut reach, mut looks) = (0, LOOKS * asks.len());
    let mut pools = Vec::new();
    let mut found = true;
    for (index, ask) in asks.iter().enumerate() {
        let bulk = Bulk::of(view.guest(ask.guest));
        let mut after = 1..all;
        let first = after.find(|after| {
            let host = view.by_name[(start + after) % all];
            looks = looks.saturating_sub(1);
            looks == 0
                || board.may_hold(&bulk, host, When::Now)
                    && fits(board, ask, host, When::Now, &mut pools, &mut |_| false)
        });
        let Some(first) = first.filter(|_| looks > 0) else {
            found = false;
            break;
        };
        let host = view.by_name[(start + first) % all];
        board.place(index, ask, host, std::mem::take(&mut pools));
        reach = reach.max(first);
    }
    for (index, ask) in asks.iter().enumerate() {
        board.remove(index, ask);
    }
    found.then_some(reach)
}

/// The same by a whole plan, and how many others make way in it.
fn exactly(
    fleet: &Fleet,
    binding: &[Wish],
    ledger: &Ledger,
    group: &[HostId],
    now: Duration,
    makes_way: bool,
) -> (Vec<Rejection>, usize) {
    let wish = emptying(group, makes_way);
    let by = wish.by.clone();
    let mut wishes = binding.to_vec();
    wishes.push(wish);
    let made = plan(fleet, &wishes, ledger, now);
    let others = made
        .moves
        .iter()
        .filter(|step| step.makes_way_for.is_some());
    let others = others.count();
    let mut blockers = made.rejections;
    // Who is in flight is leaving.
    blockers.retain(|rejection| rejection.by == by && rejection.cause.reason != Reason::GuestBusy);
    (blockers, others)
}
