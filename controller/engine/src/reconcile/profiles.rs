//! Profiles: what a pass asks of them, and what it shows on them.

use std::collections::BTreeMap;

use evenkeel_crds::{kinds::profile::AppliedProfile, shared::find};

use super::{Pass, Reconciler, show::keep};
use crate::{profile::Profiles, statuses, view::View};

impl Reconciler {
    /// What is declared of how moves are done.
    pub(super) fn profiles(&self) -> Profiles<'_> {
        Profiles {
            declared: &self.declared.profiles,
            hosts: &self.hosts,
        }
    }

    pub(super) fn show_profiles(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let declared = self.declared.clone();
        let mut taken: BTreeMap<String, i64> = BTreeMap::new();
        for entry in pass.guests.by_uuid.values() {
            if let Ok(AppliedProfile {
                name: Some(name), ..
            }) = self.profiles().choose(None, Some(entry), &[])
            {
                *taken.entry(name).or_default() += 1;
            }
        }
        for (name, profile) in &declared.profiles {
            let old = before.profiles.get(name.as_str());
            let status = statuses::profile::status(
                profile,
                taken.get(name).copied().unwrap_or(0),
                old.map(|old| &**old),
                pass.now,
            );
            if let Some(ready) = find(&status.conditions, "Ready") {
                self.tell_condition("MigrationProfile", name, ready, "Observe");
            }
            view.profiles
                .insert(name.as_str().into(), keep(old, status));
        }
    }
}
