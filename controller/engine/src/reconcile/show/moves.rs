//! Moves as they are shown, and when they will be over.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Class, Reason},
};

use super::{
    super::{Pass, Reconciler},
    keep,
};
use crate::{
    statuses,
    view::{MigrationView, Problem, View},
};

impl Reconciler {
    pub(super) fn show_moves(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let mut waits: BTreeMap<&str, &Cause> = BTreeMap::new();
        for planned in &pass.plan.moves {
            if let Some(cause) = planned
                .waits
                .as_ref()
                .filter(|_| planned.by.kind == "GuestMigration")
            {
                waits.insert(&planned.by.name, cause);
            }
        }
        for rejection in pass
            .plan
            .rejections
            .iter()
            .filter(|rejection| rejection.by.kind == "GuestMigration")
        {
            waits.insert(&rejection.by.name, &rejection.cause);
        }
        for (name, cause) in &pass.wanted.refused {
            waits.insert(name, cause);
        }
        let mut told = Vec::new();
        for (name, state) in self.moves.iter().filter(|(_, state)| !state.hidden) {
            let guest = pass
                .guests
                .find(&state.spec.guest)
                .map(|(_, entry)| entry.name.to_string());
            let word = waits.get(name.as_str()).copied();
            let old = before.migrations.get(name);
            let status = statuses::migration::status(
                state,
                guest,
                word,
                old.map(|old| &old.status),
                pass.now,
            );
            let pending = !state.is_final() && state.running.is_none();
            if let Some(cause) =
                word.filter(|cause| pending && cause.reason.class() == Class::AwaitChange)
            {
                view.problems.push(Problem {
                    kind: "GuestMigration",
                    name: name.to_string(),
                    cause: cause.clone(),
                });
            }
            if let Some(cause) = state.end.as_ref().filter(|cause| {
                state.status.phase == evenkeel_crds::MigrationPhase::Failed
                    && cause.reason != Reason::Interrupted
            }) {
                view.problems.push(Problem {
                    kind: "GuestMigration",
                    name: name.to_string(),
                    cause: cause.clone(),
                });
            }
            let cause = state
                .end
                .as_ref()
                .or(state.waiting.as_ref())
                .or(state.rest.as_ref().map(|(cause, _)| cause))
                .or(word.filter(|_| pending))
                .or(state.course.as_ref().map(|course| &course.cause));
            if let Some(cause) = cause
                && !matches!(
                    cause.reason,
                    Reason::AsExpected
                        | Reason::Waiting
                        | Reason::SlotsTaken
                        | Reason::ParallelLimit
                        | Reason::BackingOff
                        | Reason::Completed
                )
            {
                told.push((name.to_string(), cause.clone()));
            }
            let shown = MigrationView {
                declared: state.declared,
                spec: state.spec.clone(),
                requested_by: state.by.clone(),
                status,
            };
            view.migrations.insert(name.clone(), keep(old, shown));
        }
        for (name, cause) in told {
            self.tell("GuestMigration", &name, &cause, true, "Plan");
        }
    }

    /// When the last guest will have left these hosts, whoever asked for its move; nothing where none is to leave, or where
    /// for one of them nobody can tell.
    pub(super) fn eta(&self, pass: &Pass, hosts: &[HostName]) -> Option<Duration> {
        let leaves =
            |source: evenkeel_planner::HostId| hosts.contains(&pass.model.host(source).name);
        let planned = pass.plan.moves.iter().filter(|one| leaves(one.source));
        // Those that start now are both planned and under way; what is under way was not planned.
        let under_way = self.moves.values().filter_map(|state| {
            let running = state.running.as_ref()?;
            let new = pass.plan.moves.iter().any(|one| {
                pass.model.uuids[one.guest.at()] == running.guest && one.waits.is_none()
            });
            (hosts.contains(&running.source) && !new).then_some(running.eta)
        });
        let ends = planned
            .map(|one| Some(one.start + one.duration?))
            .chain(under_way);
        let ends: Option<Vec<Duration>> = ends.collect();
        ends?.into_iter().max()
    }
}
