//! Objects as Kubernetes has them, from manifests and what the hosts show.

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy, shared::LABEL_WISH_KIND, shared::LABEL_WISH_NAME,
};
use evenkeel_engine::{View, Wishes};
use serde_json::Value;

use crate::kind::Kind;

/// Every object of a kind, by name.
///
/// # Errors
/// Where one can't be written as JSON, which would be a defect of ours.
pub fn of_view(kind: Kind, view: &View, wishes: &Wishes) -> Result<Vec<Value>, serde_json::Error> {
    match kind {
        Kind::Host => view
            .hosts
            .iter()
            .filter_map(|(name, status)| {
                let mut host: Host = (**wishes.hosts.get(&**name)?).clone();
                host.status = Some((**status).clone());
                Some(serde_json::to_value(host))
            })
            .collect(),
        Kind::Guest => view
            .guests
            .iter()
            .map(|(name, shown)| {
                let declared = wishes.guests.get(&**name);
                let mut guest = declared.map_or_else(
                    || Guest::new(name, Default::default()),
                    |guest| (**guest).clone(),
                );
                if !shown.labels.is_empty() {
                    guest.metadata.labels = Some(shown.labels.clone());
                }
                guest.status = Some(shown.status.clone());
                serde_json::to_value(guest)
            })
            .collect(),
        Kind::Migration => view
            .migrations
            .iter()
            .map(|(name, shown)| {
                let declared = wishes.migrations.get(&**name);
                let mut migration = declared.map_or_else(
                    || GuestMigration::new(name, shown.spec.clone()),
                    |migration| (**migration).clone(),
                );
                if !shown.declared {
                    let labels = migration.metadata.labels.get_or_insert_default();
                    labels.insert(LABEL_WISH_KIND.to_owned(), shown.requested_by.kind.clone());
                    labels.insert(LABEL_WISH_NAME.to_owned(), shown.requested_by.name.clone());
                }
                migration.status = Some(shown.status.clone());
                serde_json::to_value(migration)
            })
            .collect(),
        Kind::Drain => view
            .drains
            .iter()
            .filter_map(|(name, status)| {
                let mut drain: HostDrain = (**wishes.drains.get(&**name)?).clone();
                drain.status = Some((**status).clone());
                Some(serde_json::to_value(drain))
            })
            .collect(),
        Kind::Placement => view
            .placements
            .iter()
            .filter_map(|(name, status)| {
                let mut placement: GuestPlacement = (**wishes.placements.get(&**name)?).clone();
                placement.status = Some((**status).clone());
                Some(serde_json::to_value(placement))
            })
            .collect(),
        Kind::Policy => view
            .policies
            .iter()
            .filter_map(|(name, status)| {
                let mut policy: RebalancePolicy = (**wishes.policies.get(&**name)?).clone();
                policy.status = Some((**status).clone());
                Some(serde_json::to_value(policy))
            })
            .collect(),
        Kind::Profile => view
            .profiles
            .iter()
            .filter_map(|(name, status)| {
                let mut profile: MigrationProfile = (**wishes.profiles.get(&**name)?).clone();
                profile.status = Some((**status).clone());
                Some(serde_json::to_value(profile))
            })
            .collect(),
        Kind::Fleet => view
            .fleets
            .iter()
            .filter_map(|(name, status)| {
                let mut fleet: Fleet = (**wishes.fleets.get(&**name)?).clone();
                fleet.status = Some((**status).clone());
                Some(serde_json::to_value(fleet))
            })
            .collect(),
    }
}
