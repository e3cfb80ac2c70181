//! Makes the view: every object's status, and what is worth an Event.

mod drains;
mod guests;
mod hosts;
mod moves;

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_crds::{
    reason::{Cause, Reason},
    shared::Condition,
};

use super::{Pass, Reconciler};
use crate::{hosts::Link, question::Asked, view::View};

impl Reconciler {
    pub(super) fn show(&mut self, pass: Pass) {
        let before = self.views.borrow().clone();
        let mut view = View {
            number: before.number + 1,
            settled: self.hosts.values().all(|state| state.link != Link::Unheard)
                && self.hosts.values().all(|state| state.directories_told)
                && self.is_swept()
                && !pass.guests.by_uuid.values().any(|entry| entry.settling),
            ..View::default()
        };
        tracing::trace!(
            number = view.number,
            settled = view.settled,
            orphans = self.orphans.len(),
            claimed = ?pass.claimed.keys(),
            "view"
        );
        self.show_hosts(&pass, &before, &mut view);
        self.show_guests(&pass, &before, &mut view);
        self.show_moves(&pass, &before, &mut view);
        self.show_drains(&pass, &before, &mut view);
        view.settled = view.settled && self.is_levelled(&pass) && self.emptying.is_known();
        self.show_policies(&pass, &before, &mut view);
        self.show_placements(&pass, &before, &mut view);
        self.show_profiles(&pass, &before, &mut view);
        self.show_fleets(&pass, &before, &mut view);
        view.shutdowns = pass.shutdowns;
        view.problems.sort();
        view.problems.dedup();
        view.plan = if *before.plan == pass.plan {
            before.plan.clone()
        } else {
            Arc::new(pass.plan)
        };
        view.fleet = if pass.same_fleet {
            before.fleet.clone()
        } else {
            Arc::new(pass.model.fleet)
        };
        let searches = pass.keeps.searches.iter();
        view.asked = Arc::new(Asked {
            wishes: pass.wanted.wishes,
            ledger: pass.model.ledger,
            now: pass.planned,
            searches: searches.map(|search| search.input.clone()).collect(),
            policies: pass.keeps.policies,
        });
        if std::mem::take(&mut self.answer) || differ(&before, &view) {
            self.views.send_replace(Arc::new(view));
        }
    }

    /// An Event where a condition says something new. Nothing at first where all is as it should be.
    pub(super) fn tell_condition(
        &mut self,
        kind: &'static str,
        name: &str,
        condition: &Condition,
        action: &'static str,
    ) {
        let Some(reason) = Reason::parse(&condition.reason) else {
            return;
        };
        let fine = condition.status == "True";
        let cause = Cause::new(reason, condition.message.clone()).hint("");
        if fine && !self.told.contains_key(&(kind, name.to_owned())) {
            self.told
                .insert((kind, name.to_owned()), (cause.reason, cause.message));
            return;
        }
        self.tell(kind, name, &cause, !fine, action);
    }
}

/// Whether a view shows anything that the one before did not.
fn differ(before: &View, view: &View) -> bool {
    before.number == 0
        || before.settled != view.settled
        || before.problems != view.problems
        || before.shutdowns != view.shutdowns
        || before.outdated != view.outdated
        || !same(&before.fleets, &view.fleets)
        || !same(&before.hosts, &view.hosts)
        || !same(&before.guests, &view.guests)
        || !same(&before.migrations, &view.migrations)
        || !same(&before.drains, &view.drains)
        || !same(&before.placements, &view.placements)
        || !same(&before.policies, &view.policies)
        || !same(&before.profiles, &view.profiles)
        || !Arc::ptr_eq(&before.plan, &view.plan)
        || !Arc::ptr_eq(&before.fleet, &view.fleet)
}

/// Unchanged parts are the same `Arc` already.
fn same<K: PartialEq, T>(before: &BTreeMap<K, Arc<T>>, now: &BTreeMap<K, Arc<T>>) -> bool {
    before.len() == now.len()
        && before
            .iter()
            .zip(now)
            .all(|((name, old), (other, new))| name == other && Arc::ptr_eq(old, new))
}

/// The old one where nothing changed, so that readers see at once what did.
pub(super) fn keep<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => old.clone(),
        _ => Arc::new(new),
    }
}
