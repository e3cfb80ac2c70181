//! What becomes of the moves of a wish that is gone, and how long those that are over are remembered.

use evenkeel_crds::{
    MigrationPhase,
    kinds::drain::OnRelease,
    names::MigrationName,
    reason::{Cause, Reason},
};

use super::{Pass, Reconciler, wanted::by_drain};
use crate::{hosts::Journals, moves::MoveState};

/// Seconds for which a drain's move that is over and never had an object is kept: whoever makes it may be late.
const REMEMBERED: i64 = 600;

impl Reconciler {
    /// Ends what a wish that is gone had asked for: pending moves at once, copies as the drain said.
    pub(super) fn release(&mut self, pass: &Pass) {
        let declared = self.declared.clone();
        let swept = self.orphans.is_empty()
            && self
                .hosts
                .values()
                .all(|state| state.journals == Journals::Read);
        let mut gone = Vec::new();
        for (name, state) in &mut self.moves {
            if state.hidden {
                if state.is_final()
                    || (state.running.is_none() && state.status.phase == MigrationPhase::Pending)
                {
                    gone.push(name.clone());
                }
                continue;
            }
            if !state.declared && state.by.kind == "GuestMigration" && state.running.is_none() {
                gone.push(name.clone());
                continue;
            }
            if state.by.kind != "HostDrain" || state.is_final() {
                continue;
            }
            let wanted = declared
                .drains
                .get(&state.by.name)
                .filter(|drain| drain.metadata.deletion_timestamp.is_none());
            let cause = Cause::new(
                Reason::WishGone,
                format!("HostDrain {} is gone", state.by.name),
            );
            match wanted {
                Some(_)
                    if swept
                        && state.running.is_none()
                        && !still_planned(state, pass)
                        && has_left(drained(state, pass), &state.by.name, pass) =>
                {
                    let message = format!(
                        "{} is on no host of HostDrain {} any more",
                        drained(state, pass),
                        state.by.name
                    );
                    let cause = Cause::new(Reason::WishGone, message);
                    state.finish(MigrationPhase::Aborted, cause, pass.now);
                }
                Some(drain) => state.release = drain.spec.on_release,
                None if state.running.is_some() => {
                    if state.release == OnRelease::Abort {
                        state.ask_to_abort(Some(cause));
                    }
                }
                None => state.finish(MigrationPhase::Aborted, cause, pass.now),
            }
        }
        gone.extend(self.to_forget(pass));
        for name in gone {
            self.forget(&name);
        }
        self.forgotten.retain(|by, _| {
            let drain = declared.drains.get(&by.name);
            drain.is_some_and(|drain| by_drain(&by.name, drain) == *by)
        });
    }

    /// Moves of wishes that are over and whose objects are gone, or were never made. What a wish gave up is kept for as
    /// long as it would ask for the same again. From files nothing else remembers what was done.
    fn to_forget(&self, pass: &Pass) -> Vec<MigrationName> {
        if self.options.from_files {
            return Vec::new();
        }
        let late = |state: &MoveState| {
            let end = state.status.completion_time.as_ref();
            end.is_some_and(|end| pass.now.as_second() - end.0.as_second() > REMEMBERED)
        };
        let over = self.moves.iter().filter(|(_, state)| {
            state.by.kind != "GuestMigration"
                && state.is_final()
                && !state.declared
                && (state.had_object || late(state))
        });
        over.filter(|(name, state)| !self.asked_again(name, state, pass))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a wish would make the very same move for the same guest again: then this one tells it not to.
    pub(super) fn asked_again(&self, name: &MigrationName, state: &MoveState, pass: &Pass) -> bool {
        state.status.phase != MigrationPhase::Succeeded
            && match pass.guests.find(&state.spec.guest) {
                Some((uuid, entry)) => {
                    self.wish_move_name(&state.by, entry.name.as_str(), uuid)
                        .as_ref()
                        == Some(name)
                }
                None => self.is_asked(&state.by),
            }
    }

    fn forget(&mut self, name: &MigrationName) {
        let Some(state) = self.moves.remove(name) else {
            return;
        };
        self.told.remove(&("GuestMigration", name.to_string()));
        if state.by.kind == "HostDrain" && state.status.phase == MigrationPhase::Succeeded {
            *self.forgotten.entry(state.by).or_default() += 1;
        }
    }
}

/// Whether the plan has the move: the guest may be on another host, from where it makes way for one of the drain.
fn still_planned(state: &MoveState, pass: &Pass) -> bool {
    let guest = pass.guests.find(&state.spec.guest);
    let id = guest.and_then(|(uuid, _)| pass.model.guests.get(&uuid));
    let moves = pass.plan.moves.iter();
    id.is_some_and(|id| {
        moves
            .filter(|planned| planned.by == state.by)
            .any(|planned| planned.guest == *id)
    })
}

/// The guest that has to leave the drain's hosts by the move: its own, or the one that it makes way for.
fn drained<'a>(state: &'a MoveState, pass: &'a Pass) -> &'a str {
    let other = state.makes_way_for.as_ref();
    let other = other.and_then(|uuid| pass.guests.by_uuid.get(uuid));
    other.map_or(&state.spec.guest, |entry| entry.name.as_str())
}

/// Whether the guest is known to be elsewhere than on the drain's hosts.
fn has_left(guest: &str, drain: &str, pass: &Pass) -> bool {
    let id = pass
        .guests
        .find(guest)
        .and_then(|(uuid, _)| pass.model.guests.get(&uuid));
    let drain = pass.wanted.drains.get(drain);
    id.zip(drain).is_some_and(|(id, drain)| {
        let host = pass.model.host(pass.model.guest(*id).host);
        host.out_of_reach.is_none() && !drain.hosts.contains(&host.name)
    })
}
