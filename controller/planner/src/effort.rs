//! How long a plan looks for better ways: counted in looks (whether one guest fits one host, one step of a way), never by
//! a clock, so that the same effort finds the same plan on every machine. What an effort finds a greater one finds too,
//! for it begins with the same looks.

use crate::model::Fleet;

/// Looks of a plan for a fleet without guests, where nobody says how many.
const LEAST: u64 = 100_000;
/// Looks for each guest beside, at most for [`MANY`] of them.
const EACH: u64 = 1;
/// So many guests ask for no more looks: they take long enough otherwise.
const MANY: u64 = 100_000;

/// Looks that are left.
#[derive(Debug)]
pub(crate) struct Effort {
    left: u64,
    spent: bool,
}

impl Effort {
    /// What the fleet's limits give, or as its size asks for.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let guests = (fleet.guests.len() as u64).min(MANY);
        Self {
            left: fleet.limits.effort.unwrap_or(LEAST + EACH * guests),
            spent: false,
        }
    }

    /// Takes so many looks. False, from then on, where there are not so many.
    pub(crate) fn take(&mut self, looks: u64) -> bool {
        match self.left.checked_sub(looks) {
            Some(left) if !self.spent => self.left = left,
            _ => self.spent = true,
        }
        !self.spent
    }

    /// Whether something was left unlooked at for want of it.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }
}
