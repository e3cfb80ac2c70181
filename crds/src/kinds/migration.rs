//! `GuestMigration`: one move.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kinds::profile::AppliedProfile,
    quantity::{Bytes, Span},
    shared::{RequestedBy, conditions_schema},
};

/// One move of one guest. Immutable but for `abort`, which is final.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "GuestMigration",
    status = "GuestMigrationStatus",
    shortname = "evm",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "One move of one guest.",
    printcolumn(name = "Guest", type_ = "string", json_path = ".spec.guest"),
    printcolumn(name = "From", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Downtime",
        type_ = "string",
        json_path = ".status.downtime",
        priority = 1
    ),
    printcolumn(
        name = "By",
        type_ = "string",
        json_path = ".status.requestedBy.name",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.guest == oldSelf.guest && has(self.target) == has(oldSelf.target) && (!has(self.target) || self.target == oldSelf.target) && has(self.source) == has(oldSelf.source) && (!has(self.source) || self.source == oldSelf.source) && self.mode == oldSelf.mode && has(self.profile) == has(oldSelf.profile) && (!has(self.profile) || self.profile == oldSelf.profile) && has(self.deadline) == has(oldSelf.deadline) && (!has(self.deadline) || self.deadline == oldSelf.deadline) && has(self.disks) == has(oldSelf.disks) && (!has(self.disks) || self.disks == oldSelf.disks)", "a GuestMigration is one move and can't be changed, but for abort: write a new one"),
    validation = ("!has(oldSelf.abort) || !oldSelf.abort || (has(self.abort) && self.abort)", "abort is final"),
)]
pub struct GuestMigrationSpec {
    /// The guest: its object's name, or its UUID.
    #[schemars(length(min = 1, max = 253))]
    pub guest: String,
    /// The Host it goes to; absent: the planner chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub target: Option<String>,
    /// A precondition: the move is done only if the guest is on this Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub source: Option<String>,
    /// Which disks are copied.
    #[serde(default)]
    pub mode: MigrationMode,
    /// The MigrationProfile; absent: the guest's, else the one named `default`, else what is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub profile: Option<String>,
    /// From its creation; past it the move fails, unless it is switching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// Ends the move and takes back what was prepared; from Switching on it goes forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<bool>,
    /// Where single disks go; those not named go to the pool of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub disks: Option<Vec<DiskPlacement>>,
}

/// Which disks of a guest are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MigrationMode {
    /// Those that the target does not see already.
    #[default]
    Auto,
    /// All; refused where one is on shared storage.
    Block,
    /// None; refused where one is not on shared storage.
    Shared,
}

/// Where one disk goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskPlacement {
    /// The disk's target device: `vda`.
    #[schemars(length(min = 1, max = 32))]
    pub target: String,
    /// The pool at the target host.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
}

/// Where a move is in its life.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum MigrationPhase {
    /// Waits, and says for what.
    #[default]
    Pending,
    /// Checks and prepares the target.
    Preparing,
    /// Copies disks, then memory; the guest runs at the source.
    Copying,
    /// Hands the guest over; only forward from here.
    Switching,
    /// Looks at both ends.
    Verifying,
    /// Removes what is left at the source.
    Cleaning,
    /// The guest runs at the target, proven, and nothing is left at the source.
    Succeeded,
    /// Over; the guest is where it was.
    Failed,
    /// Over by request; the guest is where it was.
    Aborted,
}

impl MigrationPhase {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Preparing => "Preparing",
            Self::Copying => "Copying",
            Self::Switching => "Switching",
            Self::Verifying => "Verifying",
            Self::Cleaning => "Cleaning",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Aborted => "Aborted",
        }
    }

    /// Whether nothing more happens.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Aborted)
    }
}

/// What is known of a move.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestMigrationStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Succeeded, Ready, Reconciling, Stalled; Converging while a copy is predicted or judged.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Where it is in its life.
    pub phase: MigrationPhase,
    /// The guest's object, where `spec.guest` is a UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The Host the guest leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The Host it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When it first left Pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Phases so far, each with its start.
    pub phases: Vec<PhaseStart>,
    /// Percent; never falls within an attempt.
    pub progress: i32,
    /// Bytes of disks and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<MoveBytes>,
    /// Bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Bytes>,
    /// Until its end, at this rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Span>,
    /// How long the guest stood still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Span>,
    /// What the guest was found to write to its memory before the copy, in bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_rate: Option<Bytes>,
    /// Percent by which its CPUs are slowed down so that the copy converges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<i32>,
    /// Whether memory and disks travelled encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// The last attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// How it is done: the profile as applied to the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<AppliedProfile>,
    /// Attempts that failed so far.
    pub failed_attempts: i32,
    /// The wish that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<RequestedBy>,
    /// What both ends showed at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// When a phase began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseStart {
    /// The phase.
    pub phase: MigrationPhase,
    /// When it began.
    pub start_time: Time,
}

/// Bytes of a move: disks and memory together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveBytes {
    /// Copied.
    pub done: Bytes,
    /// Left.
    pub left: Bytes,
    /// In all.
    pub total: Bytes,
}

/// One attempt at a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Counted from one.
    pub number: i32,
    /// The Host it went to.
    pub target: String,
    /// When it began.
    pub start_time: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// How it ended, one word; `InProgress` while it runs.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
    /// What a person can do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// What both ends showed at the end of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Hosts on which the guest runs: exactly one, the target.
    pub running: Vec<String>,
    /// Its UUID there.
    pub uuid: String,
    /// Whether it was started anew.
    pub rebooted: bool,
    /// Whether the source still defines it.
    pub source_defined: bool,
    /// What became of its files at the source.
    pub source_files: SourceFiles,
    /// Files that it reads and others may read too, a kernel or a medium: they stay at the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_files: Vec<String>,
    /// Disks on storage that both ends see: the same files before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_files: Vec<String>,
    /// When both ends were looked at.
    pub observed_time: Time,
}

/// What became of a moved guest's files at its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceFiles {
    /// Still there.
    #[default]
    Retained,
    /// Removed.
    Removed,
    /// On shared storage: the same files.
    Shared,
    /// The source is out of service and they are wherever it is.
    Abandoned,
}
