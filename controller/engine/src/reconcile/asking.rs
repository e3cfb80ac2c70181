//! Wishes that make moves of their own: who asks, what their moves are called, and when they are over.

use std::collections::BTreeMap;

use evenkeel_crds::{
    MigrationPhase,
    names::MigrationName,
    reason::{Cause, Reason},
    shared::{ObjectMeta, RequestedBy, find},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Pass, Reconciler};
use crate::{
    hosts::Journals,
    moves::{MoveState, name_for},
    wishes::Wishes,
};

/// An object as the one who asks.
pub(super) fn asks(kind: &str, name: &str, metadata: &ObjectMeta) -> RequestedBy {
    RequestedBy {
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: metadata.uid.clone().unwrap_or_default(),
    }
}

/// The wish of that kind and name as it is declared now; nothing where it is gone.
fn metadata<'a>(declared: &'a Wishes, by: &RequestedBy) -> Option<&'a ObjectMeta> {
    let name = &by.name;
    match by.kind.as_str() {
        "HostDrain" => declared.drains.get(name).map(|drain| &drain.metadata),
        "GuestPlacement" => declared.placements.get(name).map(|one| &one.metadata),
        "RebalancePolicy" => declared.policies.get(name).map(|one| &one.metadata),
        _ => None,
    }
}

/// Whether the move was ended by its own wish, which had no more use for it: nobody is told to leave the guest alone.
pub(super) fn is_withdrawn(state: &MoveState) -> bool {
    let said = find(&state.status.conditions, "Succeeded")
        .and_then(|condition| Reason::parse(&condition.reason));
    let reason = state.end.as_ref().map(|cause| cause.reason).or(said);
    state.status.phase == MigrationPhase::Aborted
        && matches!(reason, Some(Reason::WishGone | Reason::WindowClosed))
}

impl Reconciler {
    /// Whether that wish is declared.
    pub(super) fn is_asked(&self, by: &RequestedBy) -> bool {
        metadata(&self.declared, by).is_some()
    }

    /// The name of the move that a wish would make for a guest now. Nothing where the wish is gone.
    pub(super) fn wish_move_name(
        &self,
        by: &RequestedBy,
        guest: &str,
        uuid: Uuid,
    ) -> Option<MigrationName> {
        let metadata = metadata(&self.declared, by)?;
        let by = asks(&by.kind, &by.name, metadata);
        let generation = metadata.generation.unwrap_or(0);
        let last = self
            .hosts
            .values()
            .filter_map(|state| state.domains.get(&uuid)?.last_move.as_ref())
            .map(|last| last.time.as_str())
            .max()
            .unwrap_or("");
        let mut name = name_for(&by, generation, guest, uuid, last);
        // An object is never run again: where its wish had withdrawn it and asks anew, the move has another name.
        while self
            .moves
            .get(&name)
            .is_some_and(|state| state.declared && is_withdrawn(state))
        {
            name = name_for(&by, generation, guest, uuid, &name);
        }
        Some(name)
    }

    /// Guests that a wish leaves alone, as its own move of them was aborted by a user or given up. Which of all objects of
    /// its name it is tells the move's own name.
    pub(super) fn spent_by(&self, by: &RequestedBy) -> BTreeMap<Uuid, Cause> {
        let all = self.spent.iter();
        let mine = all.filter(|(whose, ..)| (&whose.kind, &whose.name) == (&by.kind, &by.name));
        mine.map(|(_, guest, cause)| (*guest, cause.clone()))
            .collect()
    }

    /// Ends moves of placements and policies that have not begun and that their wish does not ask for any more. What has
    /// begun is finished.
    pub(super) fn withdraw(&mut self, pass: &Pass) {
        let read = |state: &crate::hosts::HostState| state.journals == Journals::Read;
        if !self.orphans.is_empty() || !self.hosts.values().all(read) {
            return;
        }
        let mut over = Vec::new();
        for (name, state) in &self.moves {
            let pending = !state.hidden && !state.is_final() && state.running.is_none();
            let wish = matches!(state.by.kind.as_str(), "GuestPlacement" | "RebalancePolicy");
            if !wish || !pending {
                continue;
            }
            let now = pass
                .guests
                .find(&state.spec.guest)
                .and_then(|(uuid, entry)| {
                    self.wish_move_name(&state.by, entry.name.as_str(), uuid)
                });
            let id = pass.guests.find(&state.spec.guest);
            let id = id.and_then(|(uuid, _)| pass.model.guests.get(&uuid));
            let plan = &pass.plan;
            let asked = id.is_none_or(|id| {
                let mut planned = plan.moves.iter();
                let mut refused = plan.rejections.iter();
                planned.any(|planned| planned.guest == *id && planned.by == state.by)
                    || refused.any(|refused| refused.guest == *id && refused.by == state.by)
            });
            let rests = |(_, until): &(Cause, Instant)| *until > Instant::now();
            if now.as_ref() != Some(name) || !asked && !state.rest.as_ref().is_some_and(rests) {
                over.push(name.clone());
            }
        }
        for name in over {
            let Some(state) = self.moves.get_mut(&name) else {
                continue;
            };
            let message = format!(
                "{} {} does not ask for it any more",
                state.by.kind, state.by.name
            );
            let cause = Cause::new(Reason::WishGone, message);
            state.finish(MigrationPhase::Aborted, cause, pass.now);
        }
    }
}
