//! A GuestMigration's conditions; the rest of its status is kept by the move itself.

use evenkeel_crds::{
    GuestMigrationStatus, MigrationPhase,
    reason::{Cause, Reason},
    shared::{Answer, Timestamp, condition},
};

use super::{Standing, conditions, sentence};
use crate::moves::MoveState;

/// Fills in what follows from the move's state. `waits` is the planner's word on a move that has not started.
pub(crate) fn status(
    state: &MoveState,
    guest: Option<String>,
    waits: Option<&Cause>,
    before: Option<&GuestMigrationStatus>,
    now: Timestamp,
) -> GuestMigrationStatus {
    let mut status = state.status.clone();
    status.observed_generation = state.generation;
    status.guest = guest.or(status.guest);
    status.requested_by = Some(state.by.clone());
    if state.spec.target.is_some() && status.target.is_none() {
        status.target.clone_from(&state.spec.target);
    }
    let old = before.map_or(state.status.conditions.as_slice(), |before| {
        &before.conditions
    });
    let phase = status.phase;
    if phase.is_final() && state.end.is_none() {
        // Ended before this process began: what it said then stands.
        status.conditions = state.status.conditions.clone();
        return status;
    }
    let resting = state.rest.as_ref().map(|(cause, _)| cause);
    let cause = state
        .end
        .as_ref()
        .or(state.waiting.as_ref())
        .or(resting)
        .or(if state.running.is_none() { waits } else { None })
        .cloned()
        .unwrap_or_else(|| match phase {
            MigrationPhase::Pending if state.running.is_none() => {
                Cause::new(Reason::Waiting, "waits for its turn")
            }
            MigrationPhase::Pending => {
                Cause::new(Reason::InProgress, "its hosts are being claimed")
            }
            _ => Cause::new(
                Reason::InProgress,
                format!(
                    "{} to {}",
                    phase.as_str(),
                    status.target.as_deref().unwrap_or("its target")
                ),
            ),
        });
    let answer = match phase {
        MigrationPhase::Succeeded => Answer::True,
        MigrationPhase::Failed | MigrationPhase::Aborted => Answer::False,
        _ => Answer::Unknown,
    };
    let mut own = vec![condition(
        "Succeeded",
        answer,
        cause.reason,
        sentence(&cause),
        state.generation,
        now,
    )];
    if let Some(course) = &state.course {
        own.push(condition(
            "Converging",
            course.answer,
            course.cause.reason,
            sentence(&course.cause),
            state.generation,
            now,
        ));
    }
    let standing = Standing {
        ready: match answer {
            Answer::True => Answer::True,
            _ => Answer::False,
        },
        reconciling: answer == Answer::Unknown,
        stalled: phase == MigrationPhase::Failed,
        cause,
    };
    status.conditions = conditions(own, &standing, state.generation, now, old);
    status
}
