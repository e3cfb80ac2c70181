//! Why a wish can't be had whole, as far as that is known: what its guests need together and what the hosts that may take
//! them have left, which proves it; that every way was looked at; or only that none was found.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;

use crate::board::Board;
use crate::explain::{bytes, cpus, list};
use crate::model::{Fleet, GuestId, Plan, Rejection, Verdict};
use crate::short::{Halls, Resource, Shortage};
use crate::wishes::{Ask, For};

/// How the search for a way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All that is looked at was looked at.
    Over,
    /// Each way in which every guest moves at most once was looked at.
    AllSeen,
    /// For want of effort.
    Spent,
}

/// What is known of each drain of which guests are left over, and of other wishes whose guests can't all have a place.
/// `empty` is the board before any move.
pub(crate) fn verdicts<'a>(
    empty: &Board<'_, 'a>,
    asks: &[Ask<'a>],
    rejections: &[Rejection],
    end: End,
) -> Vec<Verdict> {
    let mut left: BTreeMap<&RequestedBy, BTreeSet<GuestId>> = BTreeMap::new();
    for rejection in rejections.iter().filter(|rejection| lacks_room(rejection)) {
        let own = left.entry(&rejection.by).or_default();
        own.insert(rejection.guest);
    }
    if left.is_empty() {
        return Vec::new();
    }
    let halls = Halls::new(empty, asks);
    let given = |ask: &&Ask<'_>| matches!(ask.kind, For::Explicit | For::Drain);
    let all: BTreeSet<GuestId> = asks.iter().filter(given).map(|ask| ask.guest).collect();
    let of = |by: &RequestedBy| -> BTreeSet<GuestId> {
        let own = asks.iter().filter(given);
        let own = own.filter(|ask| ask.by == by || ask.also.contains(&by));
        own.map(|ask| ask.guest).collect()
    };
    let drains: BTreeSet<&RequestedBy> = asks
        .iter()
        .filter(|ask| ask.kind == For::Drain)
        .flat_map(|ask| ask.also.iter().copied().chain([ask.by]))
        .collect();
    let fleet = empty.view.fleet;
    let mut together = None;
    let mut judge = |(by, left): (&&RequestedBy, &BTreeSet<GuestId>)| {
        let is_drain = drains.contains(by);
        let own = is_drain.then(|| halls.shortage(&of(by))).flatten();
        let shortage = own.or_else(|| {
            let joint = together.get_or_insert_with(|| halls.shortage(&all)).clone();
            joint.filter(|joint| joint.guests.iter().any(|guest| left.contains(guest)))
        });
        if let Some(found) = shortage {
            return Some(Verdict {
                by: (*by).clone(),
                proven: true,
                cause: sentence(fleet, &found),
                guests: found.guests,
                hosts: found.hosts,
            });
        }
        if !is_drain {
            return None;
        }
        let barred = left.iter().all(|guest| halls.is_barred(*guest));
        let names = said(fleet, left);
        let (proven, reason, message) = match end {
            _ if barred => (
                true,
                Reason::NoHostFits,
                format!("no host may take {names}, whatever else moves"),
            ),
            End::AllSeen => (
                true,
                Reason::NoHostFits,
                format!(
                    "every way was looked at in which each guest moves at most once: none has room for all; {} left over",
                    are(&names, left.len())
                ),
            ),
            End::Spent => (
                false,
                Reason::EffortSpent,
                format!(
                    "no room was found for {names} with the effort that a plan may take; there may be some"
                ),
            ),
            End::Over => (
                false,
                Reason::NoHostFits,
                format!("no room was found for {names}; that there is none is not proven"),
            ),
        };
        Some(Verdict {
            by: (*by).clone(),
            proven,
            cause: Cause::new(reason, message),
            guests: left.iter().copied().collect(),
            hosts: Vec::new(),
        })
    };
    left.iter().filter_map(&mut judge).collect()
}

/// Whether it is proven that every plan leaves at least as many guests of these drains over for want of room as this one.
pub(crate) fn is_best(
    empty: &Board<'_, '_>,
    asks: &[Ask<'_>],
    drains: &BTreeSet<&RequestedBy>,
    plan: &Plan,
) -> bool {
    let own = asks
        .iter()
        .filter(|ask| ask.kind == For::Drain && drains.contains(ask.by));
    let own = own.map(|ask| ask.guest).collect();
    let left = plan.rejections.iter();
    let left =
        left.filter(|left| drains.contains(&left.by) && left.cause.reason == Reason::NoHostFits);
    let left: BTreeSet<GuestId> = left.map(|left| left.guest).collect();
    Halls::new(empty, asks).least_left(&own) >= left.len()
}

/// That the effort is spent.
pub(crate) fn unfinished() -> Cause {
    let message = "there may be better ways through full hosts than were found with the effort that a plan may take";
    Cause::new(Reason::EffortSpent, message.to_owned())
}

/// Whether it is room that is missing, as far as is told.
fn lacks_room(rejection: &Rejection) -> bool {
    matches!(
        rejection.cause.reason,
        Reason::NoHostFits
            | Reason::InsufficientMemory
            | Reason::InsufficientCPU
            | Reason::InsufficientDisk
    )
}

fn said(fleet: &Fleet, guests: &BTreeSet<GuestId>) -> String {
    let names = guests
        .iter()
        .map(|guest| fleet.guests[guest.at()].name.as_str());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    list(&names)
}

fn are(names: &str, count: usize) -> String {
    format!("{names} {}", if count == 1 { "is" } else { "are" })
}

/// `a, b and c need 30Gi of memory; h2 and h3, all hosts that may take them, never have more than 20Gi left for them: 10Gi
/// short, so at least one of them has to stay`.
fn sentence(fleet: &Fleet, found: &Shortage) -> Cause {
    let (reason, of, say): (_, _, fn(i128) -> String) = match &found.resource {
        Resource::Memory => (Reason::InsufficientMemory, "of memory".to_owned(), bytes),
        Resource::Cpu => (Reason::InsufficientCPU, String::new(), cpus),
        Resource::Disk(pools) => (
            Reason::InsufficientDisk,
            format!("of space in {pools}"),
            bytes,
        ),
    };
    let amount = |amount: i128| match of.is_empty() {
        true => say(amount),
        false => format!("{} {of}", say(amount)),
    };
    let guests = said(fleet, &found.guests.iter().copied().collect());
    let one = found.guests.len() == 1;
    let (need, them) = if one {
        ("needs", "it")
    } else {
        ("need", "them")
    };
    let needs = amount(found.needs);
    let hosts = found
        .hosts
        .iter()
        .map(|host| fleet.hosts[host.at()].name.as_str());
    let mut hosts: Vec<&str> = hosts.collect();
    hosts.sort_unstable();
    let stay = match (found.stay, found.guests.len()) {
        (1, 1) => "it has to stay".to_owned(),
        (stay, all) if stay == all => "all of them have to stay".to_owned(),
        (1, _) => "at least one of them has to stay".to_owned(),
        (stay, _) => format!("at least {stay} of them have to stay"),
    };
    let message = match hosts.as_slice() {
        [] => format!(
            "{guests} {need} {needs}{}: no host that may take {them} can ever have so much left",
            if one { "" } else { " in all" },
        ),
        hosts => format!(
            "{guests} {need} {needs}; {}, {} that may take {them}, can have no more than {} left: {} short, so {stay}",
            list(hosts),
            if hosts.len() == 1 {
                "the only host"
            } else {
                "all hosts"
            },
            say(found.left),
            say(found.needs - found.left),
        ),
    };
    Cause::new(reason, message)
}
