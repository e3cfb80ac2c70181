//! What is asked for.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{names::MigrationName, quantity::Bytes, reason::Cause, shared::RequestedBy};
use serde::{Deserialize, Serialize};

use super::{GuestId, HostId};

/// Something asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// Who asks.
    pub by: RequestedBy,
    /// What.
    pub what: What,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// One guest goes to one host, or to any other.
    Move {
        /// The GuestMigration.
        migration: MigrationName,
        /// The guest.
        guest: GuestId,
        /// Where to; absent: anywhere else.
        target: Option<HostId>,
        /// Pools for single disks: target device to pool.
        pools: BTreeMap<String, String>,
    },
    /// These hosts become empty of active guests.
    Drain {
        /// The hosts.
        hosts: BTreeSet<HostId>,
        /// Of guests that are not running too.
        stopped: bool,
        /// Moves at once for the whole drain.
        parallel: u32,
        /// Whether guests on other hosts, that nobody asked to move, may make way where its own find no room. Their moves
        /// are by this drain.
        makes_way: bool,
        /// Guests that it leaves where they are, and why: its own move aborted by a user, or given up.
        #[serde(default)]
        leaves: BTreeMap<GuestId, Cause>,
        /// Why nothing new starts: suspended, past its deadline. The hosts are drained all the same: nothing moves in.
        halted: Option<Cause>,
    },
    /// Guests belong where its rules say.
    Place(Placement),
    /// Hosts are to be about equally loaded.
    Balance(Balance),
}

/// Hosts that are to be about equally loaded, and how much may be moved for it. What is looked at is the load after all
/// other moves: those in flight and those planned for other wishes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// The hosts. Those that are drained or out of reach are left out; a host belongs to the first policy by name.
    pub hosts: BTreeSet<HostId>,
    /// Whether loads are what was measured (`Guest::load`) instead of what is promised.
    pub measured: bool,
    /// How much each resource counts.
    pub weights: Weights,
    /// Imbalance from which on something is done, in percent points.
    pub start: u32,
    /// Imbalance at which no more is done, in percent points.
    pub stop: u32,
    /// Whether it has begun and has not come to `stop` yet: then `start` does not matter.
    pub begun: bool,
    /// Moves at once.
    pub parallel: u32,
    /// Moves that may still begin.
    pub moves: Option<u32>,
    /// Bytes that may still travel.
    pub bytes: Option<Bytes>,
    /// Guests that it leaves where they are, and why: moved a while ago, its own move aborted by a user.
    pub leaves: BTreeMap<GuestId, Cause>,
    /// Why nothing is moved for its sake: suspended. The imbalance is told all the same.
    pub halted: Option<Cause>,
    /// Whether guests may stop over at a third host where two trade places: two moves of one guest.
    pub stops_over: bool,
    /// What it keeps free beside.
    pub headroom: Option<Headroom>,
    /// Steps that its search may take; absent: as the number of guests asks for, a second at the most. More steps find
    /// better plans; the same number finds the same plan.
    pub steps: Option<u64>,
}

/// That any domain of hosts could be emptied: no balance makes one that could be one that could not, and guests are moved
/// until all can be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Headroom {
    /// The label by whose values hosts belong together. [`HOST_KEY`](super::HOST_KEY): each host by itself.
    pub topology_key: String,
    /// How many at once. 0: none; more than 1 is not supported, and told so.
    pub failures: u32,
}

/// How much each resource counts in a balance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// CPU.
    pub cpu: u32,
    /// Memory.
    pub memory: u32,
    /// What disks occupy.
    pub disk: u32,
}

/// Where guests belong. A guest that is not running is bound by `hosts` and by having to be on an eligible host when
/// it is moved; it does not count in `spread`, `apart` and `together`, and is not moved for them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The guests.
    pub guests: BTreeSet<GuestId>,
    /// Hosts on which they belong; absent: all.
    pub hosts: Option<BTreeSet<HostId>>,
    /// Whether no move may break it; else it is kept where that is possible.
    pub required: bool,
    /// They lie evenly.
    pub spread: Option<Spread>,
    /// No two in one domain of this key.
    pub apart: Option<String>,
    /// All in one domain of this key.
    pub together: Option<String>,
    /// Guests that are left where they are, and why: its own move aborted by a user, moved by other hands just now. They
    /// are bound by it all the same.
    pub leaves: BTreeMap<GuestId, Cause>,
    /// Why nothing is moved for its sake: suspended. It binds other moves all the same.
    pub halted: Option<Cause>,
}

/// How evenly guests lie over the values of a label of their hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The label. Hosts without it are not eligible. [`HOST_KEY`](super::HOST_KEY): each host by itself.
    pub topology_key: String,
    /// So many guests more than the emptiest domain that takes guests may a domain have.
    pub max_skew: u32,
}
