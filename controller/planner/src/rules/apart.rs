//! No domain has two of the guests, not even while one of them is on its way.

use super::{Case, Law, Step, Told};

pub(super) struct Apart;

impl Law for Apart {
    fn forbids(&self, case: &Case<'_, '_>, step: &Step) -> bool {
        let home = step.source == Some(step.target);
        let there = if step.later {
            step.others(case, step.target)
        } else {
            case.present(step.target) - i64::from(home)
        };
        there > 0 && (step.strictness.mends || !home)
    }

    fn is_broken(&self, case: &Case<'_, '_>, domain: usize) -> bool {
        case.planned(domain) > 1
    }

    fn says(&self, told: &Told<'_, '_, '_>) -> String {
        let (view, rule) = (told.board.view, told.case.rule);
        let mut others = rule.members.iter().filter(|other| **other != told.guest);
        let other = others.find(|other| {
            let host = told.board.place_of(**other);
            view.guest(**other).active && rule.domain(host) == Some(told.domain)
        });
        let other = other.map(|other| view.guest(*other).name.as_str());
        format!(
            "{} keeps {} apart from {}, which is in {} or on its way there or from there",
            told.by(),
            told.guest(),
            other.unwrap_or("another of its guests"),
            told.place(told.domain)
        )
    }

    fn frees(&self) -> bool {
        true
    }
}
