//! A MigrationProfile's status.

use evenkeel_crds::{
    MigrationProfile, MigrationProfileStatus,
    reason::{Cause, Reason},
    shared::Timestamp,
};

use super::{Standing, conditions};
use crate::profile::unusable;

/// `guests`: how many take it.
pub(crate) fn status(
    profile: &MigrationProfile,
    guests: i64,
    before: Option<&MigrationProfileStatus>,
    now: Timestamp,
) -> MigrationProfileStatus {
    let generation = profile.metadata.generation;
    let refused = unusable(&profile.spec);
    let standing = Standing {
        ready: refused.is_none().into(),
        reconciling: false,
        stalled: refused.is_some(),
        cause: refused
            .unwrap_or_else(|| Cause::new(Reason::AsExpected, "moves that take it are done by it")),
    };
    let old = before
        .or(profile.status.as_ref())
        .map_or(&[][..], |before| &before.conditions);
    MigrationProfileStatus {
        observed_generation: generation,
        conditions: conditions(Vec::new(), &standing, generation, now, old),
        guests,
    }
}
