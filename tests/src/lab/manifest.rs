//! Manifests of the lab's hosts, as a user would write them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::Lab;
use super::host::Host;

impl Host<'_> {
    /// The `Host` manifest that leads to it, as YAML.
    ///
    /// # Errors
    /// Fails if it cannot be written as YAML.
    pub fn manifest(&self) -> Result<String> {
        let manifest = json!({
            "apiVersion": "evenkeel.dev/v1alpha1",
            "kind": "Host",
            "metadata": {"name": self.name()},
            "spec": {"uri": self.uri(), "insecure": true},
        });
        serde_yaml::to_string(&manifest).context("cannot write a manifest")
    }
}

impl Lab {
    /// Writes one `Host` manifest per host into a directory, `host-INDEX.yaml`, and makes the directory if needed.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn write_manifests(&self, directory: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut files = Vec::new();
        for host in self.hosts() {
            let file = directory.join(format!("host-{}.yaml", host.record().index));
            fs::write(&file, host.manifest()?)
                .with_context(|| format!("cannot write {}", file.display()))?;
            files.push(file);
        }
        Ok(files)
    }
}
