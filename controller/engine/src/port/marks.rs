//! What we leave at hosts for whoever comes next: marks in guests' metadata, claims, journals.

use evenkeel_crds::names::HostName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a move writes into the guest's own metadata, live and persistent, before it starts. It travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The move's id.
    pub id: Uuid,
    /// Where from, the Host object's name.
    pub source: HostName,
    /// Where to, the Host object's name.
    pub target: HostName,
    /// Name of the GuestMigration.
    pub migration: String,
}

/// What a finished move leaves in the guest's persistent metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastMove {
    /// When it ended, RFC 3339.
    pub time: String,
    /// Where the guest came from.
    pub from: HostName,
    /// The wish that asked for it: `HostDrain/patch-rack-a`.
    pub by: String,
    /// Where it was to go on to, if it only stopped over where it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onward: Option<HostName>,
}

/// What is written into a guest's metadata before it is asked to shut down for a drain. It outlives us, so that whoever
/// comes later knows that it was us and whether the guest is to be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownMark {
    /// The fleet of the one who asked.
    pub fleet: String,
    /// The wish that asked for it: `HostDrain/patch-rack-a`.
    pub by: String,
    /// The Host object of the host it was on.
    pub host: HostName,
    /// When it was asked, RFC 3339.
    pub time: String,
    /// How long it has from then on, in seconds.
    pub timeout: u64,
    /// Whether it is to be started when the drain is over.
    pub restart: bool,
    /// How far it is.
    pub stage: ShutdownStage,
}

/// How far a guest's shutdown for a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownStage {
    /// It was asked, or is about to be.
    Asked,
    /// It was seen to have shut down for that.
    Down,
    /// It did not in time. What stops it from then on is somebody else.
    TimedOut,
}

/// Who acts on a host. One per host, kept in the hypervisor itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRecord {
    /// The claim's own random id: who knows it may renew and remove it.
    pub id: Uuid,
    /// The fleet.
    pub fleet: String,
    /// Who holds it, for people: `apply@admin-1:4711`.
    pub holder: String,
    /// Where the holding process lives, so that a neighbour can prove that it is dead.
    pub process: Option<ProcessIdentity>,
    /// The lease's epoch; higher wins within one fleet.
    pub epoch: u64,
    /// Rises by one with each renewal.
    pub beat: u64,
}

/// A process, told apart from any other that ever was on any machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// The machine's boot id.
    pub boot: String,
    /// Inode of the process's PID namespace.
    pub namespace: u64,
    /// Process id in it.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

/// A journal found on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The move's id, from the file's name.
    pub id: Uuid,
    /// The pool it is in.
    pub pool: String,
    /// Its text; empty where it was created and not yet written.
    pub text: String,
}
