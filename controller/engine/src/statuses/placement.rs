//! A GuestPlacement's status.

use evenkeel_crds::{
    GuestPlacement, GuestPlacementStatus,
    kinds::placement::{MisplacedGuest, Requirement},
    reason::{Cause, Class, Reason},
    shared::{Answer, LIST_CAP, Timestamp, condition},
};

use super::{Standing, conditions, sentence};

/// What goes into it.
pub(crate) struct Input<'a> {
    pub(crate) placement: &'a GuestPlacement,
    /// What is wrong with what it names: names that nobody bears, a selector that matches nothing.
    pub(crate) wrong: Option<&'a Cause>,
    /// Why nothing can be said yet, or of all its guests.
    pub(crate) unknown: Option<Cause>,
    /// Running guests that it is about.
    pub(crate) total: i64,
    /// Guests that are not where they belong: why they stay there, or that they are moved (`InProgress`).
    pub(crate) misplaced: Vec<(String, Cause)>,
    pub(crate) before: Option<&'a GuestPlacementStatus>,
    pub(crate) now: Timestamp,
}

pub(crate) fn status(input: &Input<'_>) -> GuestPlacementStatus {
    let generation = input.placement.metadata.generation;
    let empty = GuestPlacementStatus::default();
    let before = input
        .before
        .or(input.placement.status.as_ref())
        .unwrap_or(&empty);
    let mut misplaced: Vec<&(String, Cause)> = input.misplaced.iter().collect();
    misplaced.sort_by_key(|(guest, cause)| (moves(cause), guest));
    let (satisfied, cause) = satisfied(input, &misplaced);
    let stays = misplaced
        .first()
        .map(|(_, cause)| cause)
        .filter(|cause| !moves(cause));
    // What is only preferred, and can't be had, is no failure.
    let required = input.placement.spec.requirement == Requirement::Required;
    let stuck = stays.is_some_and(|cause| required && cause.reason.class() == Class::AwaitChange);
    let ready = match satisfied {
        Answer::False if !required && input.wrong.is_none() => Answer::True,
        answer => answer,
    };
    let standing = Standing {
        ready,
        reconciling: input.misplaced.iter().any(|(_, cause)| moves(cause)),
        stalled: input.wrong.is_some() || stuck,
        cause: cause.clone(),
    };
    let own = vec![condition(
        "Satisfied",
        satisfied,
        cause.reason,
        sentence(&cause),
        generation,
        input.now,
    )];
    GuestPlacementStatus {
        observed_generation: generation,
        conditions: conditions(own, &standing, generation, input.now, &before.conditions),
        satisfied: input.total - misplaced.len() as i64,
        total: input.total,
        violations: misplaced
            .into_iter()
            .take(LIST_CAP)
            .map(|(guest, cause)| MisplacedGuest {
                guest: guest.clone(),
                reason: cause.reason.to_string(),
                message: sentence(cause),
            })
            .collect(),
    }
}

/// Whether the guest is on its way to where it belongs, or soon will be.
fn moves(cause: &Cause) -> bool {
    cause.reason == Reason::InProgress
}

fn satisfied(input: &Input<'_>, misplaced: &[&(String, Cause)]) -> (Answer, Cause) {
    if let Some(cause) = input.wrong {
        return (Answer::False, cause.clone());
    }
    if let Some(cause) = &input.unknown {
        return (Answer::Unknown, cause.clone());
    }
    let (left, total) = (misplaced.len(), input.total);
    match misplaced.first() {
        None if total == 0 => (
            Answer::True,
            Cause::new(Reason::NoGuestsMatched, "no running guest is meant").hint(""),
        ),
        None => (
            Answer::True,
            Cause::new(
                Reason::AsExpected,
                format!("{total} of {total} guests are where they belong"),
            ),
        ),
        Some((_, cause)) if moves(cause) => (
            Answer::False,
            Cause::new(
                Reason::GuestsMisplaced,
                format!("{left} of {total} guests are on their way to where they belong"),
            ),
        ),
        // The reason is the first guest's own, which says what is in the way.
        Some((guest, cause)) => (
            Answer::False,
            Cause::new(
                cause.reason,
                format!(
                    "{left} of {total} guests are not where they belong; {guest}: {}",
                    cause.message
                ),
            )
            .hint(cause.hint.clone()),
        ),
    }
}
