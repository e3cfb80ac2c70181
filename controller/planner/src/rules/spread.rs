//! No domain has so many of the guests more than the emptiest of those that take guests.

use super::{Case, Law, Step, Told};

pub(super) struct Spread {
    pub(super) most: i64,
}

impl Law for Spread {
    fn forbids(&self, case: &Case<'_, '_>, step: &Step) -> bool {
        let others = |domain| step.others(case, domain);
        if step.strictness.mends {
            let least = least(case, others).unwrap_or(0);
            return others(step.target) + 1 - least > self.most;
        }
        let with = |home: Option<usize>| {
            skew(case, |domain| {
                others(domain) + i64::from(home == Some(domain))
            })
        };
        let (after, before) = (with(Some(step.target)), with(step.source));
        step.source != Some(step.target) && after > before.max(self.most)
    }

    fn is_broken(&self, case: &Case<'_, '_>, domain: usize) -> bool {
        let count = |domain| case.planned(domain);
        least(case, count).is_some_and(|least| count(domain) - least > self.most)
    }

    fn may_stay(&self, case: &Case<'_, '_>, _: usize) -> bool {
        skew(case, |domain| case.planned(domain)) <= self.most
    }

    fn says(&self, told: &Told<'_, '_, '_>) -> String {
        let here = told.case.planned(told.domain);
        let moves = told.board.place_of(told.guest) != told.host;
        format!(
            "{} spreads its guests with a skew of at most {}, and {} would have {} of them with {}",
            told.by(),
            self.most,
            told.place(told.domain),
            here + i64::from(moves),
            told.guest()
        )
    }

    fn compares(&self) -> bool {
        true
    }
}

/// How many guests the emptiest domain has of those that take guests.
fn least(case: &Case<'_, '_>, count: impl Fn(usize) -> i64) -> Option<i64> {
    let open = (0..case.rule.names.len()).filter(|domain| case.rule.open[*domain]);
    open.map(count).min()
}

/// How many the fullest domain has more than that.
fn skew(case: &Case<'_, '_>, count: impl Fn(usize) -> i64) -> i64 {
    let most = (0..case.rule.names.len()).map(&count).max().unwrap_or(0);
    most - least(case, count).unwrap_or(most)
}
