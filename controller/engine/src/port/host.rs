//! What a host tells of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::quantity::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::DomainFacts;

/// Live use of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// CPU in use, thousandths of a CPU; nothing before the second sample.
    pub cpu_milli: Option<u64>,
    /// Memory in use, without buffers and caches.
    pub memory: Bytes,
}

/// What a running domain uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time that its process has taken so far.
    pub cpu_time: Duration,
    /// Memory that its process holds now, its overhead included.
    pub memory: Bytes,
}

/// A host, fully described.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    /// The hypervisor's own UUID: two Hosts with one UUID are one machine.
    pub uuid: Uuid,
    /// The hypervisor's hostname.
    pub hostname: String,
    /// libvirt's version, as `9.0.0`.
    pub libvirt_version: String,
    /// The hypervisor's version, as `7.2.22`.
    pub hypervisor_version: String,
    /// Number of CPUs online.
    pub cpus: u32,
    /// CPU model by name, for people.
    pub cpu_model: String,
    /// Equal for hosts whose CPUs are equal to a guest with host-passthrough or host-model.
    pub cpu_fingerprint: String,
    /// All memory of the machine: the larger of what the hypervisor's two sources say.
    pub memory: Bytes,
    /// Memory set aside for huge pages.
    pub huge_pages: Bytes,
    /// Live use.
    pub load: Load,
    /// Storage pools, active or not.
    pub pools: Vec<PoolFacts>,
    /// Names of active libvirt networks.
    pub networks: BTreeSet<String>,
    /// Names of bridges, where the hypervisor can list them; nothing where it cannot.
    pub bridges: Option<BTreeSet<String>>,
    /// Names of network filters.
    pub nwfilters: BTreeSet<String>,
    /// Emulators and the machine types each knows, aliases included.
    pub machines: BTreeMap<String, BTreeSet<String>>,
    /// Every domain, active or not.
    pub domains: Vec<DomainFacts>,
}

/// A storage pool, or a directory outside all pools that guests have disks in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFacts {
    /// Its name; a directory goes by its path, which is no name that libvirt allows.
    pub name: String,
    /// libvirt's type: `dir`, `fs`, `netfs`, `logical`, ...
    pub kind: String,
    /// Where its volumes appear as files.
    pub path: String,
    /// Whether it is started.
    pub active: bool,
    /// Size of its file system.
    pub total: Bytes,
    /// Free in it now.
    pub available: Bytes,
    /// Whether other hosts see the same files (a network file system).
    pub shared: bool,
}

impl PoolFacts {
    /// Whether it is a directory that libvirt has no pool for.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        is_directory(&self.name)
    }

    /// Whether a file or directory lies below its own.
    #[must_use]
    pub fn is_above(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.path.trim_end_matches('/'));
        below.is_some_and(|below| below.starts_with('/'))
    }

    /// Whether that directory, outside all pools elsewhere, is its own here or lies below.
    #[must_use]
    pub fn takes(&self, directory: &str) -> bool {
        self.active
            && matches!(self.kind.as_str(), "dir" | "fs" | "netfs")
            && (self.path == directory || self.is_above(directory))
    }
}

/// Whether what is given for a pool's name is the path of a directory that is none.
#[must_use]
pub fn is_directory(pool: &str) -> bool {
    pool.starts_with('/')
}
