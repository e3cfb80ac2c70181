//! Whether each host could be emptied now. It is looked at beside the reconciling task, when something that it depends on
//! has changed, and not more often than every few seconds.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
    shared::Answer,
};
use evenkeel_planner::{self as planner, GuestId, HostId, Looked, What, Wish};
use tokio::time::Instant;

use super::{Inner, Reconciler};
use crate::{evacuation::is_of_the_guest, hosts::Link, model::Model};

/// The least time from one look to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// For each host whether it could be emptied, and why not.
pub(super) type Answers = BTreeMap<HostName, (Answer, Cause)>;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Emptying {
    answers: Answers,
    /// Drains and placements, and moves in flight, as of the last look.
    asked: (Vec<Wish>, Vec<(GuestId, HostId, HostId)>),
    /// Whether the fleet is another than at the last look.
    pub(super) fleet_changed: bool,
    /// What the next look needs of the last one.
    known: Looked,
    looked: Option<Instant>,
    looking: bool,
}

impl Emptying {
    /// Whether that host could be emptied; nothing where that was not looked at yet.
    pub(super) fn of(&self, host: &HostName) -> Option<&(Answer, Cause)> {
        self.answers.get(host)
    }

    /// Whether every host was looked at once.
    pub(super) fn is_known(&self) -> bool {
        !self.answers.is_empty() || (self.looked.is_some() && !self.looking)
    }

    /// A look is over.
    pub(super) fn found(&mut self, answers: Answers, known: Looked) -> bool {
        (self.looking, self.known) = (false, known);
        let changed = self.answers != answers;
        self.answers = answers;
        changed
    }

    /// Whether a look waits only for its time.
    pub(super) fn is_due(&self) -> bool {
        let rested = |at: Instant| at.elapsed() >= LOOK_AGAIN;
        self.fleet_changed && !self.looking && self.looked.is_some_and(rested)
    }
}

impl Reconciler {
    /// Looks whether hosts could be emptied, where that may have changed.
    pub(super) fn look_at_emptying(&mut self, model: &Model, wishes: &[Wish]) {
        let unheard = self.hosts.values().any(|state| state.link == Link::Unheard);
        if unheard || self.emptying.looking {
            return;
        }
        let binding = |wish: &&Wish| matches!(wish.what, What::Drain { .. } | What::Place(_));
        let flights = model.ledger.in_flight.iter();
        let flights = flights.map(|flight| (flight.guest, flight.source, flight.target));
        let binding = wishes.iter().filter(binding);
        let (wished, flown) = &self.emptying.asked;
        self.emptying.fleet_changed |=
            !binding.clone().eq(wished) || !flights.clone().eq(flown.iter().copied());
        if self.emptying.looked.is_some() && !self.emptying.is_due() {
            return;
        }
        let asked = (binding.cloned().collect::<Vec<_>>(), flights.collect());
        let (fleet, ledger) = (model.fleet.clone(), model.ledger.clone());
        let wishes = asked.0.clone();
        (self.emptying.asked, self.emptying.fleet_changed) = (asked, false);
        (self.emptying.looked, self.emptying.looking) = (Some(Instant::now()), true);
        let now = self.started.elapsed();
        let before = std::mem::take(&mut self.emptying.known);
        self.work_out(move || {
            let (known, told) = before.again(fleet, &wishes, ledger, now);
            let running = running(known.fleet());
            let answers = told.iter().map(|told| {
                let name = known.fleet().hosts[told.host.at()].name.clone();
                (name, answer(known.fleet(), told, running[told.host.at()]))
            });
            Inner::Emptying(answers.collect(), Box::new(known))
        });
    }
}

/// How many guests run on each host.
fn running(fleet: &planner::Fleet) -> Vec<usize> {
    let mut running = vec![0; fleet.hosts.len()];
    for guest in fleet.guests.iter().filter(|guest| guest.active) {
        running[guest.host.at()] += 1;
    }
    running
}

/// Whether a drain shuts the guest down instead of moving it.
fn is_shut_down(guest: &planner::Guest) -> bool {
    let asked = guest.evacuation.as_ref();
    let asked = asked.is_some_and(|cause| cause.reason == Reason::ShutdownPending);
    let immovable = guest.immovable.as_ref();
    asked && guest.held.is_none() && immovable.is_none_or(|cause| is_of_the_guest(cause.reason))
}

/// The answer for a host on which so many guests run, with the first guest that is in the way.
fn answer(fleet: &planner::Fleet, told: &planner::Drainable, running: usize) -> (Answer, Cause) {
    let host = &fleet.hosts[told.host.at()];
    if let Some(cause) = &host.out_of_reach {
        return (Answer::Unknown, cause.clone());
    }
    let blockers = told.blockers.iter();
    let (down, blockers): (Vec<_>, Vec<_>) =
        blockers.partition(|blocker| is_shut_down(&fleet.guests[blocker.guest.at()]));
    let Some(first) = blockers.first() else {
        let mut message = match running {
            0 => format!("no guest runs on {}", host.name),
            _ => format!(
                "all {running} guests that run on {} could leave now",
                host.name
            ),
        };
        if !down.is_empty() {
            message += &format!(", {} of them by being shut down", down.len());
        }
        if told.making_way > 0 {
            message += &format!("; {} on other hosts would make way", told.making_way);
        }
        return (Answer::True, Cause::new(Reason::AsExpected, message));
    };
    let message = format!(
        "{} of {running} guests could not leave now; {}: {}",
        blockers.len(),
        fleet.guests[first.guest.at()].name,
        first.cause.message
    );
    let cause = Cause::new(first.cause.reason, message).hint(first.cause.hint.clone());
    (Answer::False, cause)
}
