//! A HostDrain's status.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    HostDrain, HostDrainStatus,
    kinds::{
        drain::{BlockedGuest, DrainCounts, DrainedHost, StoppedGuests},
        host::GuestCounts,
    },
    names::HostName,
    quantity::Span,
    reason::{Cause, Class, Reason},
    shared::{Answer, LIST_CAP, Time, Timestamp, condition, whole_seconds},
};
use evenkeel_planner::{Rejection, Verdict};

use super::{Standing, conditions, sentence};
use crate::hosts::{HostState, Link};

/// What goes into it.
pub(crate) struct Input<'a> {
    pub(crate) drain: &'a HostDrain,
    /// The hosts it names or selects.
    pub(crate) hosts: Vec<&'a HostName>,
    /// Names that no Host bears.
    pub(crate) unknown: Vec<String>,
    pub(crate) states: &'a BTreeMap<HostName, HostState>,
    /// Moves that touch these hosts, ours or others'.
    pub(crate) in_flight: BTreeMap<&'a HostName, i64>,
    /// Guests managed elsewhere, per host.
    pub(crate) elsewhere: BTreeMap<&'a HostName, i64>,
    /// Moves of this drain that succeeded, and that run.
    pub(crate) succeeded: i64,
    pub(crate) moving: i64,
    /// What the planner says can't be done for it, with the guests' names.
    pub(crate) rejections: Vec<(String, &'a Rejection)>,
    /// Why not all of its guests have a place, as far as that is known.
    pub(crate) verdict: Option<&'a Verdict>,
    /// Planned end of its last move; nothing where that of any of them is not known.
    pub(crate) eta: Option<Duration>,
    /// Why nothing new starts.
    pub(crate) halted: Option<&'a Cause>,
    pub(crate) before: Option<&'a HostDrainStatus>,
    pub(crate) now: Timestamp,
}

pub(crate) fn status(input: &Input<'_>) -> HostDrainStatus {
    let generation = input.drain.metadata.generation;
    let empty = HostDrainStatus::default();
    let before = input
        .before
        .or(input.drain.status.as_ref())
        .unwrap_or(&empty);
    let mut hosts: Vec<DrainedHost> = input.hosts.iter().map(|name| host(input, name)).collect();
    hosts.sort_by_key(|host| host.drained);
    let left: i64 = hosts.iter().map(|host| to_leave(input, host)).sum();
    let blocked = blocked(input);
    let total = before.guests.total.max(left + input.succeeded);
    let counts = DrainCounts {
        total,
        left,
        moving: input.moving,
        blocked: blocked.len() as i64,
    };
    let (drained, cause) = drained(input, &hosts, left);
    let finished = drained == Answer::True;
    let halted = |reason| input.halted.is_some_and(|cause| cause.reason == reason);
    // What can't be is said before anything is copied; what can leave leaves all the same.
    let impossible = || blocked.iter().find(|guest| !may_pass(guest));
    let idle = input.moving == 0 && !blocked.is_empty() && blocked.len() as i64 >= left;
    let stalled = !finished
        && !halted(Reason::Waiting)
        && (halted(Reason::DeadlineExceeded)
            || (input.halted.is_none() && impossible().is_some())
            || (idle && !blocked.iter().any(is_shut_down)));
    let shown = match (input.halted, impossible().or(blocked.first())) {
        _ if finished => cause.clone(),
        (Some(halt), _) => halt.clone(),
        (None, Some(first)) if stalled => Cause::new(
            Reason::Blocked,
            format!(
                "{} of {left} guests can't leave; {}: {} {}{}",
                blocked.iter().filter(|guest| !is_shut_down(guest)).count(),
                first.guest,
                first.reason,
                first.message,
                known(input)
            ),
        ),
        _ => cause.clone(),
    };
    let own = vec![condition(
        "Drained",
        drained,
        cause.reason,
        sentence(&cause),
        generation,
        input.now,
    )];
    let standing = Standing {
        ready: if finished {
            Answer::True
        } else {
            Answer::False
        },
        reconciling: !finished,
        stalled,
        cause: shown,
    };
    let progress = if finished {
        100
    } else if total == 0 {
        0
    } else {
        ((total - left) * 100 / total).clamp(0, 99) as i32
    };
    let mut status = HostDrainStatus {
        observed_generation: generation,
        conditions: conditions(own, &standing, generation, input.now, &before.conditions),
        hosts: hosts.into_iter().take(LIST_CAP).collect(),
        guests: counts,
        progress,
        eta: input
            .eta
            .filter(|_| !finished && input.halted.is_none() && blocked.is_empty())
            .map(|eta| Span(Duration::from_secs(eta.as_secs().div_ceil(5) * 5))),
        start_time: before
            .start_time
            .clone()
            .or(Some(Time(whole_seconds(input.now)))),
        blocked: blocked.into_iter().take(LIST_CAP).collect(),
    };
    steady_times(&mut status, before);
    status
}

/// The time of a look is written anew only with something that people act on.
fn steady_times(status: &mut HostDrainStatus, before: &HostDrainStatus) {
    for host in &mut status.hosts {
        let old = before.hosts.iter().find(|old| old.name == host.name);
        if let Some(old) = old
            && old.drained == host.drained
            && old.guests == host.guests
            && old.retained == host.retained
        {
            host.observed_time.clone_from(&old.observed_time);
        }
    }
}

fn host(input: &Input<'_>, name: &HostName) -> DrainedHost {
    let Some(state) = input.states.get(name) else {
        return DrainedHost {
            name: name.to_string(),
            ..DrainedHost::default()
        };
    };
    let active = state
        .domains
        .values()
        .filter(|domain| domain.activity.active())
        .count() as i64;
    let busy = input.in_flight.get(name).copied().unwrap_or(0) > 0;
    let mut host = DrainedHost {
        name: name.to_string(),
        drained: false,
        guests: GuestCounts {
            active,
            stopped: state.domains.len() as i64 - active,
            managed_elsewhere: input.elsewhere.get(name).copied().unwrap_or(0),
        },
        retained: state.kept.len() as i64,
        observed_time: state.observed.map(|time| Time(whole_seconds(time))),
    };
    host.drained =
        state.link == Link::Up && state.facts.is_some() && to_leave(input, &host) == 0 && !busy;
    host
}

/// Guests that this drain wants away from a host.
fn to_leave(input: &Input<'_>, host: &DrainedHost) -> i64 {
    match input.drain.spec.stopped {
        StoppedGuests::Leave => host.guests.active,
        StoppedGuests::Move => host.guests.active + host.guests.stopped,
    }
}

fn drained(input: &Input<'_>, hosts: &[DrainedHost], left: i64) -> (Answer, Cause) {
    if !input.unknown.is_empty() {
        return (
            Answer::False,
            Cause::new(
                Reason::HostNotFound,
                format!("no Host is named {}", input.unknown.join(", ")),
            ),
        );
    }
    if hosts.is_empty() {
        return (
            Answer::False,
            Cause::new(Reason::NoHostsMatched, "no Host matches"),
        );
    }
    let silent: Vec<&str> = input
        .hosts
        .iter()
        .filter(|name| {
            input
                .states
                .get(**name)
                .is_none_or(|state| state.link != Link::Up || state.facts.is_none())
        })
        .map(|name| name.as_str())
        .collect();
    let names: Vec<&str> = input.hosts.iter().map(|name| name.as_str()).collect();
    let seen_left: i64 = hosts
        .iter()
        .filter(|host| !silent.contains(&host.name.as_str()))
        .map(|host| to_leave(input, host))
        .sum();
    if seen_left > 0 {
        return (
            Answer::False,
            Cause::new(
                Reason::GuestsLeft,
                match input.drain.spec.stopped {
                    StoppedGuests::Leave => {
                        format!("{left} active guests on {}", names.join(", "))
                    }
                    StoppedGuests::Move => format!("{left} guests on {}", names.join(", ")),
                },
            ),
        );
    }
    let unasked = silent.iter().any(|name| {
        input
            .states
            .get(*name)
            .is_some_and(|state| state.link == Link::Unheard)
    });
    if unasked {
        return (
            Answer::Unknown,
            Cause::new(Reason::Waiting, "not all hosts have answered yet"),
        );
    }
    if !silent.is_empty() {
        return (
            Answer::Unknown,
            Cause::new(
                Reason::HostUnreachable,
                format!("{} does not answer", silent.join(", ")),
            ),
        );
    }
    if hosts.iter().any(|host| !host.drained) {
        return (
            Answer::False,
            Cause::new(
                Reason::MovesInFlight,
                "no active guest is left; moves are still being finished",
            ),
        );
    }
    (
        Answer::True,
        Cause::new(
            Reason::Completed,
            format!("no active guest is on {}", names.join(", ")),
        ),
    )
}

fn reason(guest: &BlockedGuest) -> Option<Reason> {
    Reason::parse(&guest.reason)
}

/// Whether what keeps the guest may go away by itself.
fn may_pass(guest: &BlockedGuest) -> bool {
    let class = reason(guest).map(Reason::class);
    matches!(class, Some(Class::Retry | Class::AvoidTarget))
}

/// What is known of all guests together, as the end of a sentence.
fn known(input: &Input<'_>) -> String {
    let lacks =
        |(_, rejection): &(String, &Rejection)| rejection.cause.reason == Reason::NoHostFits;
    let told = input.verdict.filter(|_| input.rejections.iter().any(lacks));
    told.map_or_else(String::new, |verdict| {
        let proven = if verdict.proven { "proven: " } else { "" };
        format!("; {proven}{}", verdict.cause.message)
    })
}

/// Whether it leaves by being shut down.
fn is_shut_down(guest: &BlockedGuest) -> bool {
    matches!(
        reason(guest),
        Some(Reason::ShutdownPending | Reason::ShuttingDown)
    )
}

fn blocked(input: &Input<'_>) -> Vec<BlockedGuest> {
    let mut blocked: Vec<BlockedGuest> = input
        .rejections
        .iter()
        .map(|(guest, rejection)| BlockedGuest {
            guest: guest.clone(),
            reason: rejection.cause.reason.to_string(),
            message: sentence(&rejection.cause),
            hosts: rejection.hosts.clone(),
        })
        .collect();
    blocked.sort_by(|a, b| a.guest.cmp(&b.guest));
    blocked
}
