//! What shall be done, and what is told beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_crds::{
    quantity::Bytes,
    reason::Cause,
    shared::{HostCount, RequestedBy},
};
use serde::{Deserialize, Serialize};

use super::{GuestId, HostId};

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
    /// The label's value; a host's name for [`HOST_KEY`](super::HOST_KEY).
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
