//! What goes into the planner and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::{
    names::{GuestName, HostName, MigrationName},
    quantity::Bytes,
    reason::Cause,
    shared::{HostCount, RequestedBy},
};
use serde::{Deserialize, Serialize};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index into the fleet's list.
            #[must_use]
            pub fn at(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// A host: its place in [`Fleet::hosts`].
    HostId
);
index!(
    /// A guest: its place in [`Fleet::guests`].
    GuestId
);

index!(
    /// A base image: its place in [`Fleet::bases`].
    BaseId
);

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
    /// The label by whose values hosts belong together. [`HOST_KEY`]: each host by itself.
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
    /// The label. Hosts without it are not eligible. [`HOST_KEY`]: each host by itself.
    pub topology_key: String,
    /// So many guests more than the emptiest domain that takes guests may a domain have.
    pub max_skew: u32,
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

/// What shall be done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Moves, in the order in which they start.
    pub moves: Vec<Move>,
    /// What can't be done now, and why.
    pub rejections: Vec<Rejection>,
    /// Wishes that are satisfied as they are: the reason is `MigrateToSelf` or `Completed`.
    pub satisfied: Vec<Satisfied>,
    /// How far each balance is from level, in the order of their names.
    pub balances: Vec<Balanced>,
    /// How each placement is kept as things are now, in the order of their names.
    pub placements: Vec<Kept>,
    /// Why wishes can't be had whole, as far as that is known, in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// That the search for better ways through full hosts ended for want of effort, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Cause>,
    /// From now to the end of the last move, by the bandwidth model; absent where no rate is known.
    pub makespan: Option<Duration>,
    /// All bytes that travel.
    pub bytes: Bytes,
}

/// Whether a host could be emptied of running guests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drainable {
    /// The host.
    pub host: HostId,
    /// Guests that could not leave, and why, with each host's reason counted; none: it could be emptied. `by` means
    /// nothing here.
    pub blockers: Vec<Rejection>,
    /// Guests on other hosts that would make way.
    pub making_way: usize,
}

/// A planned move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// Who asked.
    pub by: RequestedBy,
    /// The guest.
    pub guest: GuestId,
    /// From.
    pub source: HostId,
    /// To.
    pub target: HostId,
    /// For each disk the pool at the target.
    pub pools: BTreeMap<String, String>,
    /// Bytes expected to travel: allocated disks, memory with its dirtying, and base images that the target has not.
    pub bytes: Bytes,
    /// Expected start, from now.
    pub start: Duration,
    /// Expected time it takes; absent where no rate is known.
    pub duration: Option<Duration>,
    /// How much of that its disks take, after which its memory travels; absent too where only one of them does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Duration>,
    /// What it waits for; absent: it starts now.
    pub waits: Option<Cause>,
    /// The drained guest for which it makes way: nobody asked for this move itself.
    pub makes_way_for: Option<GuestId>,
    /// Where the guest goes on to by another move of this plan, if it only stops over at `target`: hosts whose guests
    /// trade places may have no room for both.
    pub onward: Option<HostId>,
}

/// Something asked for that can't be done now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// Who asked.
    pub by: RequestedBy,
    /// For which guest.
    pub guest: GuestId,
    /// Why. Where no host fits: `0/5 hosts fit: 3 InsufficientMemory, 1 ...`; where only one was asked for, its own reason.
    pub cause: Cause,
    /// Each host's reason, counted.
    pub hosts: Vec<HostCount>,
}

/// Why not all guests of a wish have a place: proven, or only that none was found for some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Who asked.
    pub by: RequestedBy,
    /// Whether no plan places all of these guests, as things are.
    pub proven: bool,
    /// What is short and by how much; that each way was looked at; that none was found, or the effort is spent.
    pub cause: Cause,
    /// The guests, also of other wishes, that can't all have a place.
    pub guests: Vec<GuestId>,
    /// Where something is short: all hosts that could ever take one of them.
    pub hosts: Vec<HostId>,
}

/// How level the hosts of a balance are. Imbalance is how far the fullest host lies above the mean, in hundredths of a
/// percent point, by the resource where that weighs most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balanced {
    /// The balance.
    pub by: RequestedBy,
    /// After all other moves, without its own.
    pub now: u32,
    /// After its own moves as well.
    pub predicted: u32,
    /// Why it moves nothing, or no more: level enough, suspended, limits.
    pub cause: Option<Cause>,
    /// Guests on hosts above the mean that it may not move, and why.
    pub skipped: Vec<Violation>,
    /// Where it keeps headroom: what could not be emptied after its moves, by name.
    pub short: Vec<Short>,
}

/// A domain of hosts that could not be emptied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Short {
    /// The label's value; a host's name for [`HOST_KEY`].
    pub domain: String,
    /// Guests that could not leave, and why, with each host's reason counted. `by` means nothing here.
    pub blockers: Vec<Rejection>,
}

/// How a placement is kept as things are now, moves in flight counted where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The placement.
    pub by: RequestedBy,
    /// Running guests that it is about.
    pub total: usize,
    /// Those that are not where they belong, and which rule says so. Whether they are moved is told by the plan's moves
    /// and rejections.
    pub violations: Vec<Violation>,
}

/// A guest that is not where a placement wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// The guest.
    pub guest: GuestId,
    /// Which rule is broken, and how.
    pub cause: Cause,
}

/// A wish that is satisfied as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Satisfied {
    /// Who asked.
    pub by: RequestedBy,
    /// For which guest, where it was for one.
    pub guest: Option<GuestId>,
    /// Why it is satisfied.
    pub cause: Cause,
}
