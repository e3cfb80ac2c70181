//! What is known of a cluster on disk: enough to list it, to use it from another process, and to start a server of it
//! again.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

/// Somebody the API server knows by a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// The name, as in a RoleBinding's subject.
    pub name: String,
    /// The groups, as in a RoleBinding's subject.
    pub groups: Vec<String>,
    /// The bearer token; made at the start.
    pub token: String,
}

impl User {
    /// A user with a fresh token.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            token: uuid::Uuid::new_v4().simple().to_string(),
        }
    }
}

/// A cluster as its folder describes it (`cluster.json`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// The name of its folder.
    pub id: String,
    /// The Kubernetes version, without a `v`.
    pub version: String,
    /// Of the API server, on 127.0.0.1.
    pub port: u16,
    /// The first one is the administrator.
    pub users: Vec<User>,
    /// Is every request written to the audit log?
    pub audit: bool,
    /// Does a controller manager run?
    pub controller_manager: bool,
    /// More arguments of the API server.
    pub api_server_arguments: Vec<String>,
    /// The process whose end ends the cluster; none where it stays until `down`.
    pub owner: Option<ProcessId>,
    /// When it was started.
    pub created: jiff::Timestamp,
    /// The folder with records, sockets and kubeconfigs; small.
    pub state: PathBuf,
    /// The folder with etcd's data, certificates and logs.
    pub data: PathBuf,
}

impl Description {
    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The certificate that signs the API server's.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.data.join("certificates/apiserver.crt")
    }

    /// The kubeconfig of a user.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        match self.users.iter().position(|known| known.name == user) {
            Some(0) => Ok(self.state.join("kubeconfig")),
            Some(_) => Ok(self.state.join(format!("kubeconfig-{user}"))),
            None => {
                let known: Vec<_> = self.users.iter().map(|known| known.name.as_str()).collect();
                bail!(
                    "the cluster knows no user {user}; it knows {}",
                    known.join(", ")
                )
            }
        }
    }

    /// Is it left over: its owner is gone, or what should have removed it did not finish?
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive()) || !self.state.exists()
    }

    pub(crate) fn read(state: &Path) -> Result<Self> {
        let file = state.join("cluster.json");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()))
    }

    pub(crate) fn write(&self) -> Result<()> {
        write_private(
            &self.state.join("cluster.json"),
            &serde_json::to_string_pretty(self)?,
        )
    }

    /// Writes a kubeconfig (as JSON, which is YAML too) that names one user.
    pub(crate) fn write_kubeconfig(&self, file: &Path, user: &str, token: &str) -> Result<()> {
        let name = format!("evenkeel-{}", self.id);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {
                "server": self.server(), "certificate-authority": self.certificate(),
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user, "namespace": "default"}}],
        });
        write_private(file, &serde_json::to_string_pretty(&config)?)
    }
}

/// Where the clusters' folders are: /run as root, else the user's own runtime folder, else one of the user's own in the
/// temporary folder.
#[must_use]
pub fn states() -> PathBuf {
    let user = fs::metadata("/proc/self").map_or(0, |own| own.uid());
    match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if user == 0 => PathBuf::from("/run/evenkeel-cluster"),
        Some(folder) => Path::new(&folder).join("evenkeel-cluster"),
        None => std::env::temp_dir().join(format!("evenkeel-cluster-of-{user}")),
    }
}

/// All clusters of this machine (and user), by id.
///
/// # Errors
/// If their folder cannot be read.
pub fn all() -> Result<Vec<Description>> {
    let folder = states();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", folder.display()));
        }
    };
    // One that vanishes or is being made while we look is none.
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Description::read(&entry.path()).ok())
        .collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Makes a folder that nobody else can read, with the folders above it; an error where it exists already.
pub(crate) fn make_private_folder(folder: &Path) -> Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    // The last cluster to end removes the parent; that may fall between our two steps.
    for _ in 0..100 {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.with_context(|| format!("cannot make {}", folder.display())),
        }
    }
    bail!(
        "cannot make {}: {} vanishes again and again",
        folder.display(),
        parent.display()
    )
}

/// Writes a file that nobody else can read.
pub(crate) fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let mut opened = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(file)?;
        opened.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}
