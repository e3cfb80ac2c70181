//! What is in flight, what rests, and what was planned before.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_crds::{quantity::Bytes, reason::Cause, shared::RequestedBy};
use serde::{Deserialize, Serialize};

use super::{GuestId, HostId};

/// What is in flight and what rests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Moves that hold capacity at both ends: from admission to the end of cleaning. Moves by other hands too.
    pub in_flight: Vec<InFlight>,
    /// Pairs that rest after failures: this guest is not sent to this host before then.
    pub avoid: Vec<Avoid>,
    /// Guests whose next attempt waits.
    pub resting: Vec<Resting>,
    /// Where guests were to go by the plan before this one. Those for which this plan may choose a target still go there if
    /// nobody is left over by it, and if they can at once or no other host has room at once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub planned: BTreeMap<GuestId, HostId>,
}

/// A move in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Who asked for it; absent for a move by other hands.
    pub by: Option<RequestedBy>,
    /// The guest.
    pub guest: GuestId,
    /// From.
    pub source: HostId,
    /// To.
    pub target: HostId,
    /// CPU reserved at the target and not yet counted in its `cpu_used_milli`.
    pub cpu_milli: u64,
    /// Memory reserved at the target and not yet counted in its `memory_used`.
    pub memory: Bytes,
    /// Per pool of the target: bytes that may still be written, and virtual size not yet counted there.
    pub pools: BTreeMap<String, PoolHold>,
    /// Expected time to its end, where known.
    pub remaining: Option<Duration>,
}

/// What a move in flight holds of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolHold {
    /// Worst case of bytes still to be written.
    pub to_come: Bytes,
    /// Virtual size that `virtual_used` does not count yet.
    pub virtual_size: Bytes,
}

/// A target that rests for a guest, or for all where `guest` is absent (a host's circuit is open).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Avoid {
    /// The guest; absent: every guest.
    pub guest: Option<GuestId>,
    /// The host.
    pub host: HostId,
    /// Until then, in the time that `plan` is given.
    pub until: Duration,
    /// Why.
    pub cause: Cause,
}

/// A guest whose next attempt waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resting {
    /// The guest.
    pub guest: GuestId,
    /// Until then, in the time that `plan` is given.
    pub until: Duration,
    /// What failed.
    pub cause: Cause,
}
