//! Manifests of the lab's hosts, as a user would write them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Lab;
use super::authority::SECRET;
use super::host::Host;

impl Host<'_> {
    /// The `Host` manifest that leads to it, as YAML.
    ///
    /// # Errors
    /// Fails if it cannot be written as YAML.
    pub fn manifest(&self) -> Result<String> {
        match self.lab().is_encrypted() {
            true => self
                .manifest_with(&json!({"uri": self.uri(), "credentials": {"secretName": SECRET}})),
            false => self.manifest_with(&json!({"uri": self.uri(), "insecure": true})),
        }
    }

    /// A `Host` manifest with this `spec`, as YAML.
    ///
    /// # Errors
    /// Fails if it cannot be written as YAML.
    pub fn manifest_with(&self, spec: &Value) -> Result<String> {
        let manifest = json!({
            "apiVersion": "evenkeel.dev/v1alpha1",
            "kind": "Host",
            "metadata": {"name": self.name()},
            "spec": spec,
        });
        serde_yaml::to_string(&manifest).context("cannot write a manifest")
    }
}

impl Lab {
    /// Writes one `Host` manifest per host into a directory, `host-INDEX.yaml`, and makes the directory if needed. The
    /// credentials of an encrypted lab are written beside them, into `credentials`, where `--credentials` finds them.
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
        if self.is_encrypted() {
            let (from, to) = (
                self.credentials().join(SECRET),
                directory.join("credentials"),
            );
            fs::create_dir_all(to.join(SECRET))?;
            for entry in fs::read_dir(from)? {
                let entry = entry?;
                fs::copy(entry.path(), to.join(SECRET).join(entry.file_name()))?;
            }
        }
        Ok(files)
    }
}
