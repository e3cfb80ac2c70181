//! Whether each host could be emptied now. It is looked at beside the reconciling task, when something that it depends on
//! has changed, and not more often than every few seconds.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
    shared::Answer,
};
use evenkeel_planner::{self as planner, GuestId, HostId, What, Wish};
use tokio::time::Instant;

use super::{Inner, Reconciler};
use crate::{hosts::Link, model::Model};

/// The least time from one look to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Emptying {
    answers: BTreeMap<HostName, (Answer, Cause)>,
    /// Drains and placements, and moves in flight, as of the last look.
    asked: (Vec<Wish>, Vec<(GuestId, HostId, HostId)>),
    /// Whether the fleet is another than at the last look.
    pub(super) fleet_changed: bool,
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
    pub(super) fn found(&mut self, answers: BTreeMap<HostName, (Answer, Cause)>) -> bool {
        self.looking = false;
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
        self.work_out(move || {
            let hosts: Vec<HostId> = (0..fleet.hosts.len() as u32).map(HostId).collect();
            let told = planner::drainable(&fleet, &wishes, &ledger, &hosts, now);
            let answers = told.iter().map(|told| {
                let name = fleet.hosts[told.host.at()].name.clone();
                (name, answer(&fleet, told))
            });
            Inner::Emptying(answers.collect())
        });
    }
}

/// The answer for a host, with the first guest that is in the way.
fn answer(fleet: &planner::Fleet, told: &planner::Drainable) -> (Answer, Cause) {
    let host = &fleet.hosts[told.host.at()];
    if let Some(cause) = &host.out_of_reach {
        return (Answer::Unknown, cause.clone());
    }
    let running = fleet.guests.iter();
    let running = running.filter(|guest| guest.active && guest.host == told.host);
    let running = running.count();
    let Some(first) = told.blockers.first() else {
        let message = match running {
            0 => format!("no guest runs on {}", host.name),
            _ => format!(
                "all {running} guests that run on {} could leave now",
                host.name
            ),
        };
        return (Answer::True, Cause::new(Reason::AsExpected, message));
    };
    let message = format!(
        "{} of {running} guests could not leave now; {}: {}",
        told.blockers.len(),
        fleet.guests[first.guest.at()].name,
        first.cause.message
    );
    let cause = Cause::new(first.cause.reason, message).hint(first.cause.hint.clone());
    (Answer::False, cause)
}
