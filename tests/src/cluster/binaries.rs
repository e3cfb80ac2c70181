//! Where the programs are that `tests/scripts/build-cluster.sh` built.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Versions are pinned in one place, the Go modules.
const SERVERS_MODULE: &str = include_str!("../../cluster/go.mod");
const HELM_MODULE: &str = include_str!("../../cluster/helm/go.mod");

/// The folders of the built programs; every one of them was there when this was made.
#[derive(Clone, Debug)]
pub struct Binaries {
    servers: PathBuf,
    helm: PathBuf,
}

impl Binaries {
    /// Looks for the programs in `${EVENKEEL_CACHE:-${XDG_CACHE_HOME:-~/.cache}/evenkeel}`.
    ///
    /// # Errors
    /// Where one is missing: a sentence that says what to run.
    pub fn find() -> Result<Self> {
        let cache = cache_folder()?;
        let servers = cache
            .join(format!(
                "kubernetes-{}",
                required(SERVERS_MODULE, "k8s.io/kubernetes")?
            ))
            .join("bin");
        let helm = cache
            .join(format!(
                "helm-{}",
                required(HELM_MODULE, "helm.sh/helm/v4")?
            ))
            .join("bin");
        let found = Self { servers, helm };
        for program in [
            found.etcd(),
            found.api_server(),
            found.controller_manager(),
            found.kubectl(),
            found.helm(),
        ] {
            if !program.is_file() {
                bail!(
                    "{} is not built yet: run tests/scripts/build-cluster.sh (once, some minutes)",
                    program.display()
                );
            }
        }
        Ok(found)
    }

    /// The Kubernetes version that is pinned, without a `v`.
    ///
    /// # Errors
    /// If the module file no longer names it.
    pub fn kubernetes_version() -> Result<String> {
        required(SERVERS_MODULE, "k8s.io/kubernetes")
    }

    /// etcd.
    #[must_use]
    pub fn etcd(&self) -> PathBuf {
        self.servers.join("etcd")
    }

    /// kube-apiserver.
    #[must_use]
    pub fn api_server(&self) -> PathBuf {
        self.servers.join("kube-apiserver")
    }

    /// kube-controller-manager.
    #[must_use]
    pub fn controller_manager(&self) -> PathBuf {
        self.servers.join("kube-controller-manager")
    }

    /// kubectl of the servers' own version; one that happens to be on the machine may be a wrapper.
    #[must_use]
    pub fn kubectl(&self) -> PathBuf {
        self.servers.join("kubectl")
    }

    /// helm.
    #[must_use]
    pub fn helm(&self) -> PathBuf {
        self.helm.join("helm")
    }
}

/// The same rule as in build-cluster.sh.
fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("EVENKEEL_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("evenkeel")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/evenkeel")))
        .context("neither EVENKEEL_CACHE nor HOME is set: no cache folder to look for the cluster's programs in")
}

/// The version of a module that a go.mod file requires.
fn required(go_mod: &str, module: &str) -> Result<String> {
    go_mod
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("require ").split_once(' '))
        .filter(|(name, _)| *name == module)
        .find_map(|(_, version)| Some(version.split(' ').next()?.strip_prefix('v')?.to_owned()))
        .with_context(|| format!("go.mod does not require {module}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_go_modules() {
        assert!(
            required(SERVERS_MODULE, "k8s.io/kubernetes")
                .unwrap()
                .starts_with("1.")
        );
        assert!(
            required(HELM_MODULE, "helm.sh/helm/v4")
                .unwrap()
                .starts_with("4.")
        );
        assert!(required(SERVERS_MODULE, "k8s.io/kubelet-not-there").is_err());
    }
}
