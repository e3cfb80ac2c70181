//! Guests belong on eligible hosts, and that is all.

use super::{Case, Law, Step, Told};

pub(super) struct Belong;

impl Law for Belong {
    fn forbids(&self, _: &Case<'_, '_>, _: &Step) -> bool {
        false
    }

    fn is_broken(&self, _: &Case<'_, '_>, _: usize) -> bool {
        false
    }

    fn says(&self, told: &Told<'_, '_, '_>) -> String {
        format!("{} belongs on the hosts of {}", told.guest(), told.by())
    }
}
