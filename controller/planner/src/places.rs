//! What placements ask for: guests that are not where they belong go there, the smallest first.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::board::Board;
use crate::chains;
use crate::choose::{Aim, open, put};
use crate::explain::{list, who};
use crate::model::{GuestId, HostId, Kept, Placement, Violation, What, Wish};
use crate::rules::{Strictness, broken, sentence};
use crate::view::View;
use crate::wishes::{Ask, Asked, For, NO_OVERRIDES, rejection, size, stays};

/// Adds what placements ask for. `empty` is the board before any move.
pub(crate) fn ask<'a>(empty: &Board<'_, 'a>, wishes: &'a [Wish], asked: &mut Asked<'a>) {
    let view = empty.view;
    let mut asks: Vec<Ask<'a>> = Vec::new();
    for (by, placement) in placements(wishes) {
        let clashes = clashes(view, by, placement);
        for guest in placement.guests.iter().copied() {
            if view.flies(guest) || !breaks(empty, by, guest) {
                continue;
            }
            let facts = view.guest(guest);
            let own = || stays(view.fleet, facts);
            let halted = placement.halted.clone();
            let left = || placement.leaves.get(&guest).cloned();
            let clash = || clashes.get(&guest).cloned();
            match halted.or_else(clash).or_else(left).or_else(own) {
                Some(cause) => asked.stuck.push(rejection(by, guest, cause)),
                None => asks.push(Ask {
                    by,
                    also: Vec::new(),
                    guest,
                    target: None,
                    overrides: &NO_OVERRIDES,
                    kind: For::Placement,
                    strictness: Strictness {
                        preferred: true,
                        mends: true,
                        passes: false,
                    },
                    room_for: None,
                }),
            }
        }
    }
    asks.sort_by_key(|ask| {
        let guest = view.guest(ask.guest);
        (
            !requires(view, ask),
            size(guest),
            guest.name.as_str(),
            ask.by,
        )
    });
    asked.asks.extend(asks);
}

fn placements(wishes: &[Wish]) -> Vec<(&RequestedBy, &Placement)> {
    let mut all: Vec<(&RequestedBy, &Placement)> = wishes
        .iter()
        .filter_map(|wish| match &wish.what {
            What::Place(placement) => Some((&wish.by, placement)),
            What::Move { .. } | What::Drain { .. } | What::Balance(_) => None,
        })
        .collect();
    all.sort_by_key(|(by, _)| *by);
    all
}

fn requires(view: &View<'_>, ask: &Ask<'_>) -> bool {
    let mut rules = view.rules.of(ask.guest);
    rules.any(|(_, rule)| rule.by == ask.by && rule.required)
}

/// Whether the guest, where it is or is planned to be, breaks a rule of the placement.
fn breaks(board: &Board<'_, '_>, by: &RequestedBy, guest: GuestId) -> bool {
    let host = board.place_of(guest);
    let mut rules = board.view.rules.of(guest);
    rules
        .any(|(index, rule)| rule.by == by && broken(board.view, &board.counts, index, guest, host))
}

/// Whether what a placement asks for has come about without the ask's own move.
pub(crate) fn settled(board: &Board<'_, '_>, ask: &Ask<'_>) -> bool {
    ask.kind == For::Placement && !breaks(board, ask.by, ask.guest)
}

/// Places what can be placed of these asks, which placements make.
pub(crate) fn mend<'a>(board: &mut Board<'_, 'a>, asks: &mut [Ask<'a>], wanted: &[usize]) {
    for index in wanted {
        let ask = &asks[*index];
        if !open(board, asks, *index) || settled(board, ask) {
            continue;
        }
        if !put(board, asks, *index, Aim::Level) && requires(board.view, ask) {
            // What others only prefer does not keep it from where it must be.
            let mut required = asks.to_vec();
            required[*index].strictness.preferred = false;
            put(board, &required, *index, Aim::Level);
        }
    }
    trade(board, asks, wanted);
}

/// Has guests trade places that sit where others of them belong.
fn trade<'a>(board: &mut Board<'_, 'a>, asks: &mut [Ask<'a>], wanted: &[usize]) {
    let wrong = |board: &Board<'_, 'a>, asks: &[Ask<'a>], index: usize| {
        open(board, asks, index) && !settled(board, &asks[index])
    };
    let left = wanted.iter().copied();
    let left: Vec<usize> = left.filter(|index| wrong(board, asks, *index)).collect();
    if left.len() < 2 {
        return;
    }
    let mut residents: Vec<Vec<usize>> = vec![Vec::new(); board.view.fleet.hosts.len()];
    for index in &left {
        residents[board.view.guest(asks[*index].guest).host.at()].push(*index);
    }
    for index in left {
        if !wrong(board, asks, index) || chains::find(board, asks, &residents, index) {
            continue;
        }
        if requires(board.view, &asks[index]) {
            asks[index].strictness.preferred = false;
            chains::find(board, asks, &residents, index);
            asks[index].strictness.preferred = true;
        }
    }
}

/// Takes back the moves of groups that have to stay together and would be torn apart. True if there was one. Each time
/// a domain that has not held all of the group is ruled out, the last time all of them.
pub(crate) fn rejoin<'a>(board: &mut Board<'_, 'a>, asks: &[Ask<'a>], last: bool) -> bool {
    let view = board.view;
    let mut torn = false;
    for (index, rule) in view.rules.all.iter().enumerate() {
        if !rule.law.unites() || !rule.required || board.counts.stays(index) {
            continue;
        }
        let active = rule.members.iter().copied();
        let active: Vec<GuestId> = active.filter(|guest| view.guest(*guest).active).collect();
        let domains = |host: &dyn Fn(GuestId) -> HostId| -> usize {
            let all = active.iter().filter_map(|guest| rule.domain(host(*guest)));
            all.collect::<BTreeSet<usize>>().len()
        };
        let before = domains(&|guest| view.bound(guest));
        if domains(&|guest| board.place_of(guest)) <= before.max(1) {
            continue;
        }
        let movers: Vec<usize> = active
            .iter()
            .filter_map(|guest| board.mover(*guest))
            .collect();
        for mover in movers {
            let domain = rule.domain(board.place_of(asks[mover].guest));
            board.remove(mover, &asks[mover]);
            if let Some(domain) = domain {
                board.counts.shut_out(index, domain);
            }
        }
        if last {
            (0..rule.names.len()).for_each(|domain| board.counts.shut_out(index, domain));
        }
        torn = true;
    }
    torn
}

/// Guests for which the required rules of several placements leave no host.
fn clashes(view: &View<'_>, by: &RequestedBy, placement: &Placement) -> BTreeMap<GuestId, Cause> {
    let mut found = BTreeMap::new();
    if !placement.required {
        return found;
    }
    // Guests under the same rules have the same answer.
    let mut answers: BTreeMap<Vec<usize>, Option<Cause>> = BTreeMap::new();
    for guest in &placement.guests {
        let rules: Vec<usize> = view
            .rules
            .of(*guest)
            .filter(|(_, rule)| rule.required)
            .map(|(index, _)| index)
            .collect();
        let answer = answers.entry(rules).or_insert_with_key(|rules| {
            let all = || rules.iter().map(|rule| &view.rules.all[*rule]);
            let mut hosts = (0..view.fleet.hosts.len() as u32).map(HostId);
            if hosts.any(|host| all().all(|rule| rule.domain(host).is_some())) {
                return None;
            }
            let mut others: Vec<String> = all()
                .filter(|rule| rule.by != by)
                .map(|rule| who(rule.by))
                .collect();
            others.dedup();
            Some(if others.is_empty() {
                Cause::new(
                    Reason::NoHostsMatched,
                    format!("no host is eligible by {}", who(by)),
                )
            } else {
                Cause::new(
                    Reason::ConflictsWith,
                    format!(
                        "no host is eligible by {} and by {}",
                        who(by),
                        list(&others)
                    ),
                )
            })
        });
        if let Some(cause) = answer {
            found.insert(*guest, cause.clone());
        }
    }
    found
}

/// How each placement is kept before any move.
pub(crate) fn kept(empty: &Board<'_, '_>, wishes: &[Wish]) -> Vec<Kept> {
    let view = empty.view;
    let of = |(by, placement): (&RequestedBy, &Placement)| {
        let active = |guest: &GuestId| view.guest(*guest).active;
        let guests: Vec<GuestId> = placement.guests.iter().copied().filter(active).collect();
        let violations = guests.iter().filter_map(|guest| {
            let host = view.bound(*guest);
            let mut rules = view.rules.of(*guest);
            let (rule, _) = rules.find(|(index, rule)| {
                rule.by == by && broken(view, &empty.counts, *index, *guest, host)
            })?;
            let cause = Cause::new(
                Reason::PlacementForbids,
                sentence(empty, *guest, host, rule),
            );
            Some(Violation {
                guest: *guest,
                cause,
            })
        });
        Kept {
            by: by.clone(),
            violations: violations.collect(),
            total: guests.len(),
        }
    };
    placements(wishes).into_iter().map(of).collect()
}
