//! The table of moves, brought in line with what is declared: what is new, what an earlier process wrote of it, what is to be
//! aborted.

use std::collections::BTreeSet;

use evenkeel_crds::{
    GuestMigration, MigrationPhase,
    reason::{Cause, Reason},
    shared::{LABEL_WISH_KIND, LABEL_WISH_NAME, RequestedBy, Timestamp},
};
use uuid::Uuid;

use super::{Reconciler, decided::settle_by_place};
use crate::{guests::Guests, hosts::Journals, moves::MoveState};

impl Reconciler {
    /// Brings the moves table in line with what is declared.
    pub(super) fn sync_moves(&mut self, guests: &Guests, now: Timestamp) {
        // Where a guest is decides nothing while a move of an earlier process may be unfinished.
        let read = !self.options.act
            || self
                .hosts
                .values()
                .all(|state| !state.usable() || state.journals == Journals::Read);
        let unfinished: BTreeSet<Uuid> = self
            .orphans
            .values()
            .map(|(journal, _)| journal.guest)
            .chain(
                self.moves
                    .values()
                    .filter_map(|state| Some(state.running.as_ref()?.guest)),
            )
            .collect();
        for (name, object) in &self.declared.migrations {
            // Deleted and written anew under the same name: the old one ends first.
            if let Some(state) = self.moves.get_mut(name.as_str())
                && let Some(uid) = &object.metadata.uid
                && !state.uid.is_empty()
                && state.uid != *uid
            {
                if state.running.is_some() {
                    let gone = Cause::new(
                        Reason::Aborted,
                        "deleted by request; the guest is where it was",
                    );
                    abort(state, gone, now);
                    continue;
                }
                self.moves.remove(name.as_str());
            }
            let state = self
                .moves
                .entry(name.as_str().into())
                .or_insert_with(|| adopted_object(object, name, now));
            (state.declared, state.had_object) = (true, true);
            state.uid = object.metadata.uid.clone().unwrap_or_default();
            state.generation = object.metadata.generation;
            state.spec = object.spec.clone();
            if state.by.kind == "GuestMigration" {
                state.by.uid.clone_from(&state.uid);
            }
            let deleted = object.metadata.deletion_timestamp.is_some();
            if deleted || object.spec.abort == Some(true) {
                abort(
                    state,
                    Cause::new(
                        Reason::Aborted,
                        if deleted {
                            "deleted by request; the guest is where it was"
                        } else {
                            "aborted by request; the guest is where it was"
                        },
                    ),
                    now,
                );
            }
            let from_files = self.options.from_files;
            let over = object.spec.deadline.is_some_and(|deadline| {
                let age = now.as_second() - state.created.as_second();
                age >= 0 && age as u64 >= deadline.0.as_secs()
            });
            if over && !state.is_final() {
                let cause = Cause::new(
                    Reason::DeadlineExceeded,
                    format!(
                        "not done within {}",
                        object.spec.deadline.unwrap_or_default()
                    ),
                );
                abort(state, cause, now);
            }
            let open = guests
                .find(&state.spec.guest)
                .is_none_or(|(uuid, _)| unfinished.contains(&uuid));
            if read && !open && !state.is_final() && state.running.is_none() {
                settle_by_place(state, name, guests, &self.hosts, from_files, now);
            }
        }
        let declared = &self.declared;
        for (name, state) in &mut self.moves {
            if state.declared && !declared.migrations.contains_key(name.as_str()) {
                state.declared = false;
                if state.by.kind == "GuestMigration" {
                    abort(
                        state,
                        Cause::new(Reason::WishGone, "the GuestMigration is gone"),
                        now,
                    );
                }
            }
        }
    }
}

/// A move as an object tells of it: what was known when an earlier process wrote it goes on.
fn adopted_object(object: &GuestMigration, name: &str, now: Timestamp) -> MoveState {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let by = match (labels.get(LABEL_WISH_KIND), labels.get(LABEL_WISH_NAME)) {
        (Some(kind), Some(wish)) => status.requested_by.clone().unwrap_or_else(|| RequestedBy {
            kind: kind.clone(),
            name: wish.clone(),
            uid: String::new(),
        }),
        _ => RequestedBy {
            kind: "GuestMigration".to_owned(),
            name: name.to_owned(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
        },
    };
    let created = object
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    let mut state = MoveState::new(object.spec.clone(), by, created);
    state.status = status;
    if !state.is_final() {
        // Its journals tell how far it really is.
        state.status.phase = MigrationPhase::Pending;
    }
    state
}

fn abort(state: &mut MoveState, cause: Cause, now: Timestamp) {
    if state.is_final() {
        return;
    }
    if state.running.is_some() {
        state.ask_to_abort(Some(cause));
        return;
    }
    let phase = match cause.reason {
        Reason::DeadlineExceeded => MigrationPhase::Failed,
        _ => MigrationPhase::Aborted,
    };
    state.finish(phase, cause, now);
}
