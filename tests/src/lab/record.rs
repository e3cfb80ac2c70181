//! What a lab writes down about itself, so that another process can open it.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::domain::GuestSpec;
use super::layout::Layout;
use super::storage::Room;

/// A whole lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabRecord {
    /// Its id.
    pub id: String,
    /// The N of its addresses 10.213.N.0/24.
    pub subnet: u8,
    /// Whether its hosts are reached by TLS alone.
    pub encrypted: bool,
    /// Its hosts.
    pub hosts: Vec<HostRecord>,
    /// The guests it made, wherever they are now.
    pub guests: Vec<GuestRecord>,
}

/// A host of the lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its name in the lab and in manifests.
    pub name: String,
    /// What `hostname` says on it.
    pub hostname: String,
    /// Its place, counted from 0.
    pub index: usize,
    /// Its IPv4 address.
    pub address: String,
    /// The `host_uuid` its libvirtd has.
    pub uuid: String,
    /// Its pools.
    pub pools: Vec<PoolRecord>,
    /// Its libvirt networks; the one at place K lies on the bridge `brK` of the host.
    pub networks: Vec<String>,
}

/// A pool of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its name.
    pub name: String,
    /// Its directory, as the host sees it.
    pub path: String,
    /// What it lies on.
    pub room: Room,
}

/// A guest the lab made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestRecord {
    /// What it was made from.
    pub spec: GuestSpec,
    /// The host it was made on.
    pub home: String,
    /// Its place, counted from 0.
    pub index: usize,
    /// Its UUID.
    pub uuid: String,
}

impl LabRecord {
    pub(crate) fn read(layout: &Layout) -> Result<Self> {
        let file = layout.state().join("lab.json");
        let text = fs::read_to_string(&file);
        let text =
            text.with_context(|| format!("there is no lab {:?} that came up", layout.id()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()))
    }

    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        let file = layout.state().join("lab.json");
        let fresh = layout.state().join("lab.json.new");
        fs::write(&fresh, serde_json::to_string_pretty(self)?)?;
        fs::rename(&fresh, &file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Gives a new guest its home, its place and its UUID.
    pub(crate) fn enter_guest(&mut self, spec: GuestSpec) -> Result<GuestRecord> {
        if self.guests.iter().any(|guest| guest.spec.name == spec.name) {
            bail!("the lab has a guest {:?} already", spec.name);
        }
        // It would not say a word, and nobody would know why.
        ensure!(
            spec.memory_mib >= 80,
            "guest {:?} needs at least 80 MiB of memory to boot",
            spec.name
        );
        ensure!(
            spec.disks.len() <= 26,
            "guest {:?} has more disks than letters",
            spec.name
        );
        ensure!(
            !spec.name.contains('/'),
            "a domain's name has no slash: {:?}",
            spec.name
        );
        let index = self.guests.len();
        let home = match &spec.host {
            Some(name) => self.hosts.iter().find(|host| host.name == *name),
            None => self.hosts.get(index % self.hosts.len().max(1)),
        };
        let home = home
            .with_context(|| format!("no host {:?} for guest {:?}", spec.host, spec.name))?
            .name
            .clone();
        let uuid = spec
            .uuid
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let guest = GuestRecord {
            spec,
            home,
            index,
            uuid,
        };
        self.guests.push(guest.clone());
        Ok(guest)
    }
}
