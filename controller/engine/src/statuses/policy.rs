//! A RebalancePolicy's status.

use evenkeel_crds::{
    RebalancePolicy, RebalancePolicyStatus,
    kinds::policy::{BalancePlan, Imbalance, PastPlan, SkippedGuest},
    reason::{Cause, Class, Reason},
    shared::{Answer, LIST_CAP, Timestamp, condition},
};

use super::{Standing, conditions, sentence};

/// What goes into it.
pub(crate) struct Input<'a> {
    pub(crate) policy: &'a RebalancePolicy,
    /// Why it does nothing until somebody changes something.
    pub(crate) stalled: Option<&'a Cause>,
    /// Why nothing new starts.
    pub(crate) halted: Option<&'a Cause>,
    /// How level its hosts are, in hundredths of a percent point, now and after its moves, and why it moves nothing;
    /// absent until that was looked at.
    pub(crate) level: Option<(u32, u32, Option<&'a Cause>)>,
    /// Whether that was since its last plan was over.
    pub(crate) looked: bool,
    pub(crate) begun: bool,
    pub(crate) plan: Option<BalancePlan>,
    /// What the first of its moves that have not begun waits for.
    pub(crate) waits: Option<&'a Cause>,
    pub(crate) moving: usize,
    pub(crate) last_plan: Option<&'a PastPlan>,
    pub(crate) skipped: &'a [(String, Cause)],
    pub(crate) before: Option<&'a RebalancePolicyStatus>,
    pub(crate) now: Timestamp,
}

pub(crate) fn status(input: &Input<'_>) -> RebalancePolicyStatus {
    let generation = input.policy.metadata.generation;
    let empty = RebalancePolicyStatus::default();
    let before = input
        .before
        .or(input.policy.status.as_ref())
        .unwrap_or(&empty);
    let (balanced, cause) = balanced(input);
    let own = vec![condition(
        "Balanced",
        balanced,
        cause.reason,
        sentence(&cause),
        generation,
        input.now,
    )];
    // Waiting for a word is no failure.
    let meant = matches!(cause.reason, Reason::Suspended | Reason::AwaitingApproval);
    let stuck = cause.reason.class() == Class::AwaitChange && !meant;
    let standing = Standing {
        ready: balanced,
        reconciling: input.moving > 0 || (input.plan.is_some() && !stuck),
        stalled: input.stalled.is_some() || (balanced == Answer::False && stuck),
        cause,
    };
    let round = |hundredths: u32| hundredths.div_ceil(100).min(i32::MAX.unsigned_abs()) as i32;
    RebalancePolicyStatus {
        observed_generation: generation,
        conditions: conditions(own, &standing, generation, input.now, &before.conditions),
        imbalance: input.level.map(|(now, predicted, _)| Imbalance {
            now: round(now),
            predicted: round(predicted),
        }),
        begun: input.begun,
        plan: input.plan.clone(),
        last_plan: input.last_plan.cloned(),
        skipped: input
            .skipped
            .iter()
            .take(LIST_CAP)
            .map(|(guest, cause)| SkippedGuest {
                guest: guest.clone(),
                reason: cause.reason.to_string(),
                message: sentence(cause),
            })
            .collect(),
        skipped_total: input.skipped.len() as i64,
    }
}

fn balanced(input: &Input<'_>) -> (Answer, Cause) {
    if let Some(cause) = input.stalled {
        return (Answer::False, cause.clone());
    }
    let Some((now, _, cause)) = input.level else {
        let waiting = Cause::new(Reason::Waiting, "its hosts have not been looked at yet");
        return (Answer::Unknown, input.halted.cloned().unwrap_or(waiting));
    };
    if let Some(plan) = &input.plan {
        let points = f64::from(now) / 100.0;
        let message = format!(
            "the fullest host lies {points:.1} percent points above the mean; plan {} has {} moves left",
            plan.id, plan.total
        );
        return match input.waits.filter(|_| input.moving == 0) {
            Some(waits) => (
                Answer::False,
                Cause::new(waits.reason, format!("{message}: {}", waits.message))
                    .hint(waits.hint.clone()),
            ),
            None => (Answer::False, Cause::new(Reason::Unbalanced, message)),
        };
    }
    let Some(cause) = cause.cloned().filter(|_| input.looked) else {
        let message = "a plan is over; its hosts are being looked at anew";
        return (Answer::False, Cause::new(Reason::InProgress, message));
    };
    let threshold = input.policy.spec.threshold.start.max(0).unsigned_abs() * 100;
    match cause.reason {
        Reason::AsExpected => (Answer::True, cause),
        Reason::HeadroomMissing | Reason::Unbalanced => (Answer::False, cause),
        _ if now < threshold => (Answer::True, cause),
        _ => (Answer::False, cause),
    }
}
