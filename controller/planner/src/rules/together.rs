//! All guests are in one domain.

use super::{Case, Law, Step, Told};

pub(super) struct Together;

impl Law for Together {
    fn forbids(&self, case: &Case<'_, '_>, step: &Step) -> bool {
        let elsewhere = case.anchor().is_some_and(|anchor| anchor != step.target);
        let stays = step.source == Some(step.target) && !step.strictness.mends;
        // It is not with the others, and comes to them by the next move.
        let comes = step.strictness.passes && case.anchor() != step.source;
        (elsewhere || case.is_shut(step.target)) && !stays && !comes
    }

    fn is_broken(&self, case: &Case<'_, '_>, domain: usize) -> bool {
        case.anchor().is_some_and(|anchor| anchor != domain)
    }

    fn says(&self, told: &Told<'_, '_, '_>) -> String {
        let place = told.place(told.domain);
        match told.case.anchor() {
            Some(anchor) if anchor != told.domain => format!(
                "{} keeps {} together with its other guests in {}, and {} is in {place}",
                told.by(),
                told.guest(),
                told.place(anchor),
                told.host()
            ),
            _ => format!(
                "{} keeps its guests together, and {place} has no room for all of them",
                told.by()
            ),
        }
    }

    fn unites(&self) -> bool {
        true
    }

    fn compares(&self) -> bool {
        true
    }
}
