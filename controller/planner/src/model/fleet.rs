//! Hosts, guests and disks as they are now.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    names::{GuestName, HostName},
    quantity::Bytes,
    reason::Cause,
};
use serde::{Deserialize, Serialize};

use super::{BaseId, HostId};

/// Everything there is, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// Hosts, by name.
    pub hosts: Vec<Host>,
    /// Guests, by name.
    pub guests: Vec<Guest>,
    /// Base images below disks, by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<Base>,
    /// What holds for all moves together.
    #[serde(default)]
    pub limits: Limits,
}

/// A base image: a file that disks of any number of guests on a host have below them. It is brought to a host once, for all of
/// them, and stays where it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Base {
    /// Its path, the same on all hosts.
    pub path: String,
    /// The pool it is in, as [`Disk::pool`].
    pub pool: Option<String>,
    /// What it occupies: about what travels.
    pub allocated: Bytes,
}

/// What holds for all moves together, whoever asks for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Moves at once, those in flight counted; absent: no such limit.
    pub parallel: Option<u32>,
    /// What one move may have, in bytes per second; absent: what its links carry.
    pub share: Option<Bytes>,
    /// Looks that a plan may take to find better ways through full hosts: whether one guest fits one host, one step of a way.
    /// Absent: as the fleet's size asks for. More of them never find a worse plan; the same number finds the same plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<u64>,
}

/// A host as a place for guests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Its object's name.
    pub name: HostName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Why nothing can be done with it now: unreachable, claimed by another, a duplicate. Nothing leaves or enters.
    pub out_of_reach: Option<Cause>,
    /// Why nothing may come: unschedulable. (Drains are wishes, not part of this.)
    pub closed: Option<Cause>,
    /// Thousandths of a CPU that may be promised: (total - reserved) x overcommit.
    pub cpu_limit_milli: u64,
    /// Promised to the guests that are here now, moves not counted.
    pub cpu_used_milli: u64,
    /// Thousandths of a CPU that are there: what a measured load is compared with. 0: not known, the limit stands for it.
    pub cpu_there_milli: u64,
    /// Bytes of memory that may be promised: (total - huge pages - reserved) x overcommit.
    pub memory_limit: Bytes,
    /// Promised to the guests that are here now, QEMU's overhead included, moves not counted.
    pub memory_used: Bytes,
    /// Its active pools, by name.
    pub pools: Vec<Pool>,
    /// Base images that are there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bases: BTreeSet<BaseId>,
    /// Its link, in bytes per second; absent: unknown.
    pub bandwidth: Option<Bytes>,
    /// Moves to here at once.
    pub max_inbound: u32,
    /// Moves from here at once.
    pub max_outbound: u32,
    /// What it offers guests.
    pub offers: Offers,
    /// Names and UUIDs of the domains it defines, running or not, so that a clash is found.
    pub domains: BTreeMap<String, String>,
}

/// What a host offers that a guest may need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offers {
    /// Equal for hosts that are equal to a guest whose CPU is its host's.
    pub cpu: String,
    /// QEMU's version, major, minor, micro.
    pub hypervisor: [u32; 3],
    /// Emulators and the machine types each knows.
    pub machines: BTreeMap<String, BTreeSet<String>>,
    /// libvirt networks.
    pub networks: BTreeSet<String>,
    /// Bridges; absent: it can't tell, and none is refused.
    pub bridges: Option<BTreeSet<String>>,
    /// Network filters.
    pub nwfilters: BTreeSet<String>,
    /// Active storage pools and their directories.
    pub storage: BTreeMap<String, String>,
}

/// A pool as a place for disks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// libvirt's name of it; a directory outside all pools goes by its path.
    pub name: String,
    /// Why it may not receive disks: not in the Host's list, inactive.
    pub closed: Option<Cause>,
    /// Free now, the reserve already taken off. Pools of one file system show the same and share it.
    pub available: Bytes,
    /// Limit on the sum of virtual sizes, where there is one.
    pub virtual_limit: Option<Bytes>,
    /// Sum of virtual sizes now.
    pub virtual_used: Bytes,
    /// Pools with the same number on this host lie on one file system: one budget.
    pub budget: u32,
    /// Pools of one class stand in for one another.
    pub class: Option<String>,
    /// Directories in which guests elsewhere have disks, outside all pools there, and which lie in this one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub directories: BTreeSet<String>,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guest {
    /// Its object's name.
    pub name: GuestName,
    /// Its domain's name.
    pub domain: String,
    /// Its UUID.
    pub uuid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub host: HostId,
    /// Whether a QEMU runs it. A stopped guest takes neither CPU nor memory.
    pub active: bool,
    /// Why it can't or must not be moved, whoever asks: devices, managed elsewhere, runs twice, transient, a block job, a hold.
    pub immovable: Option<Cause>,
    /// Why no drain, placement or balance moves it: a move that is not over, a profile that is not there. Explicit moves may.
    pub held: Option<Cause>,
    /// Why no drain moves it: its owner has said how it is evacuated. Others may.
    pub evacuation: Option<Cause>,
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory, QEMU's overhead included.
    pub memory: Bytes,
    /// How much of that is QEMU's overhead, which takes room and does not travel.
    pub overhead: Bytes,
    /// Disks that a block migration copies.
    pub disks: Vec<Disk>,
    /// Base images below its disks.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bases: BTreeSet<BaseId>,
    /// What it takes on the average by measurement, where measured.
    pub load: Option<Load>,
    /// Bytes of memory dirtied per second, where measured.
    pub dirty_rate: Option<Bytes>,
    /// The most that a move of it may have, in bytes per second; absent: what its links carry.
    pub bandwidth: Option<Bytes>,
    /// Higher moves first.
    pub priority: i32,
    /// What it needs of a host.
    pub needs: Needs,
}

/// What a guest takes on the average.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory: Bytes,
}

/// What a guest needs of a host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Needs {
    /// The CPU that the target's must equal; absent: a named model, any will do as far as we can tell.
    pub cpu: Option<String>,
    /// The target's QEMU must not be older.
    pub hypervisor: [u32; 3],
    /// Emulator.
    pub emulator: String,
    /// Machine type.
    pub machine: String,
    /// libvirt networks.
    pub networks: BTreeSet<String>,
    /// Bridges.
    pub bridges: BTreeSet<String>,
    /// Network filters.
    pub nwfilters: BTreeSet<String>,
    /// Those of the three that only its persistent definition names: it needs them after its next start.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pending: BTreeSet<String>,
    /// Pools on storage that other hosts see too and that its disks stay on, and their directories.
    pub storage: BTreeMap<String, String>,
}

/// A disk to be copied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Target device: `vda`.
    pub target: String,
    /// The pool it is in.
    pub pool: Option<String>,
    /// That pool's class.
    pub class: Option<String>,
    /// Full size: what the target must have room for.
    pub virtual_size: Bytes,
    /// What it occupies, base images below it not counted: about what travels.
    pub allocated: Bytes,
}

/// The topology key that every host has, with its name as the value.
pub const HOST_KEY: &str = "evenkeel.dev/host";

impl Host {
    /// The host's value of a topology key.
    #[must_use]
    pub fn topology(&self, key: &str) -> Option<&str> {
        match key {
            HOST_KEY => Some(self.name.as_str()),
            _ => self.labels.get(key).map(String::as_str),
        }
    }
}
