//! A migration: what is asked for, and what its job tells.

use std::time::Duration;

use evenkeel_crds::{kinds::profile::Compression, quantity::Bytes};
use uuid::Uuid;

use super::{Endpoint, Mark};

/// Where a disk is at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlace {
    /// Its target device: `vda`.
    pub target: String,
    /// The file there.
    pub path: String,
    /// The pool that has it; outside all pools the path of its directory.
    pub pool: String,
    /// Its path from that pool's directory.
    pub volume: String,
}

/// One migration, as libvirt shall do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The domain.
    pub domain: Uuid,
    /// How the source's hypervisor reaches the target's, checked like `Endpoint::uri`.
    pub target_uri: String,
    /// The address memory and disks travel to, if not the URI's.
    pub target_address: Option<String>,
    /// Whether they travel encrypted; the target's certificate then has to name the URI's host.
    pub encrypted: bool,
    /// The disks to copy. Those not named stay as they are.
    pub disks: Vec<DiskPlace>,
    /// Copy only the top layers: each disk that has a base lies over the same one at the target.
    pub incremental: bool,
    /// The move's mark, put into both definitions that the target gets.
    pub mark: Mark,
    /// Limit in bytes per second, for memory and disks.
    pub bandwidth: Option<Bytes>,
    /// Longest pause aimed at.
    pub downtime: Duration,
    /// Slow the guest down if it does not converge.
    pub auto_converge: bool,
    /// How memory is compressed.
    pub compression: Compression,
    /// Connections for memory; one is libvirt's plain way.
    pub connections: u32,
    /// Whether the guest arrives paused, for us to start it.
    pub paused: bool,
    /// Whether it may be switched to post-copy on its way.
    pub post_copy: bool,
    /// How this process reaches the target's hypervisor, where it is to drive the migration itself.
    pub direct: Option<Endpoint>,
}

/// A running migration, seen at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobFacts {
    /// Bytes of disks copied.
    pub disk_done: Bytes,
    /// Bytes of disks in all.
    pub disk_total: Bytes,
    /// Bytes of disks left.
    pub disk_left: Bytes,
    /// Bytes of memory copied.
    pub memory_done: Bytes,
    /// Bytes of memory in all; zero while only disks are copied.
    pub memory_total: Bytes,
    /// Bytes of memory left.
    pub memory_left: Bytes,
    /// Iteration over memory.
    pub iteration: u64,
    /// Bytes of memory dirtied per second.
    pub dirty_rate: Bytes,
    /// Percent by which the guest's CPUs are slowed down so that it converges.
    pub throttle: u8,
}

/// A finished migration, as its statistics tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedFacts {
    /// How long the guest stood still.
    pub downtime: Option<Duration>,
    /// Bytes that travelled: disks and memory.
    pub bytes: Bytes,
}
