//! The CRDs as YAML, generated from the types; what is checked in must be byte for byte this.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy,
};

/// Every CRD with the name of its file.
#[must_use]
pub fn all() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("hosts.yaml", Host::crd()),
        ("guests.yaml", Guest::crd()),
        ("guestmigrations.yaml", GuestMigration::crd()),
        ("hostdrains.yaml", HostDrain::crd()),
        ("guestplacements.yaml", GuestPlacement::crd()),
        ("rebalancepolicies.yaml", RebalancePolicy::crd()),
        ("migrationprofiles.yaml", MigrationProfile::crd()),
        ("fleets.yaml", Fleet::crd()),
    ]
}

/// A CRD as YAML that YAML 1.1 readers (kubectl) understand the same way.
///
/// # Errors
/// Where the CRD can't be written, which would be a defect of ours.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, String> {
    serde_saphyr::to_string(crd).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn checked_in_crds_are_what_the_types_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
        for (file, crd) in all() {
            let path = folder.join(file);
            let text = yaml(&crd).unwrap();
            if std::env::var_os("EVENKEEL_WRITE_CRDS").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &text).unwrap();
            }
            let stored = fs::read_to_string(&path).unwrap_or_default();
            assert!(stored == text, "{file} is out of date: run `make generate`");
        }
    }
}
