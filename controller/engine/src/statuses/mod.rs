//! What each object shows: pure functions from what is known to a status.

pub(crate) mod drain;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod migration;
pub(crate) mod node;
pub(crate) mod placement;
pub(crate) mod policy;
pub(crate) mod profile;

use evenkeel_crds::{
    reason::{Cause, Reason},
    shared::{Answer, Condition, Timestamp, condition, settle},
};

/// The conditions that every kind has, from its own: Ready beside it, Reconciling while it is worked on, Stalled
/// when it will not go on by itself.
pub(crate) struct Standing {
    pub(crate) ready: Answer,
    pub(crate) cause: Cause,
    pub(crate) reconciling: bool,
    pub(crate) stalled: bool,
}

pub(crate) fn conditions(
    own: Vec<Condition>,
    standing: &Standing,
    generation: Option<i64>,
    now: Timestamp,
    before: &[Condition],
) -> Vec<Condition> {
    let reason = standing.cause.reason;
    let sentence = sentence(&standing.cause);
    let make = |kind: &str, answer: Answer| {
        let (reason, sentence) = match answer {
            Answer::False if kind != "Ready" => (Reason::AsExpected, String::new()),
            _ => (reason, sentence.clone()),
        };
        condition(kind, answer, reason, sentence, generation, now)
    };
    let mut all = own;
    all.push(make("Ready", standing.ready));
    all.push(make("Reconciling", standing.reconciling.into()));
    all.push(make("Stalled", standing.stalled.into()));
    settle(&mut all, before);
    all
}

/// A cause as one text: the sentence and the hint.
pub(crate) fn sentence(cause: &Cause) -> String {
    if cause.hint.is_empty() {
        cause.message.clone()
    } else {
        format!("{} ({})", cause.message, cause.hint)
    }
}
