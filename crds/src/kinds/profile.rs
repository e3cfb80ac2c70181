//! `MigrationProfile`: how moves are done.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    quantity::{Bytes, Span},
    shared::conditions_schema,
};

/// How moves are done. A move takes the profile it names, else the one its guest names, else the object named
/// `default`, else what stands here as defaults.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "MigrationProfile",
    status = "MigrationProfileStatus",
    shortname = "evmp",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "How moves are done.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Bandwidth", type_ = "string", json_path = ".spec.bandwidth"),
    printcolumn(name = "Downtime", type_ = "string", json_path = ".spec.downtime"),
    printcolumn(name = "Switchover", type_ = "string", json_path = ".spec.switchover"),
    printcolumn(name = "Encryption", type_ = "string", json_path = ".spec.encryption"),
    printcolumn(name = "Guests", type_ = "integer", json_path = ".status.guests"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Compression",
        type_ = "string",
        json_path = ".spec.compression",
        priority = 1
    ),
    printcolumn(
        name = "Connections",
        type_ = "integer",
        json_path = ".spec.connections",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("duration(self.downtime) >= duration('1ms') && duration(self.downtime) <= duration('2000s')", "downtime is from 1ms to 2000s"),
    validation = ("duration(self.budget.perGiB) >= duration('1s') && duration(self.budget.stall) >= duration('1s')", "budget.perGiB and budget.stall are at least 1s"),
)]
pub struct MigrationProfileSpec {
    /// Limit for memory and disks of one move, in bytes per second, at least 1Mi; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::bandwidth_schema")]
    pub bandwidth: Option<Bytes>,
    /// Longest pause of the guest aimed at in the switch, 1ms to 2000s.
    #[serde(default = "downtime")]
    pub downtime: Span,
    /// What is done where a copy does not converge, in this order. PostCopy is opt-in: from the switch until all memory has
    /// followed, the loss of either host loses the guest's memory, and the move can't be aborted.
    #[serde(default = "convergence")]
    #[schemars(
        length(max = 2),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub convergence: Vec<Convergence>,
    /// Who starts the guest at the target. A guest with disks on storage that both hosts see moves as by Guarded, and without
    /// PostCopy, whatever is said here: two that run would destroy its files.
    #[serde(default)]
    pub switchover: Switchover,
    /// How memory is compressed on its way.
    #[serde(default)]
    pub compression: Compression,
    /// Connections that memory travels over at once.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 255))]
    pub connections: i32,
    /// Whether memory and disks travel encrypted.
    #[serde(default)]
    pub encryption: Encryption,
    /// Who drives the migration. Under Direct it is the controller: hosts need no way to each other's libvirtd, only to the
    /// address and ports of each other's QEMU. A migration dies with its controller; the next one does not take it over but
    /// cleans up and begins anew, and a guest in the midst of its switch stands still until then.
    #[serde(default)]
    pub transport: Transport,
    /// How long a copy may take, and how long it may stand still.
    #[serde(default)]
    pub budget: Budget,
    /// Runs that enter Preparing and fail by a cause of class Retry or AvoidTarget before the move is given up.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: i32,
    /// How long disks stay at the source after the guest is proven at the target; they count against the pool.
    #[serde(default)]
    pub keep_source: Span,
}

impl Default for MigrationProfileSpec {
    fn default() -> Self {
        Self {
            bandwidth: None,
            downtime: downtime(),
            convergence: convergence(),
            switchover: Switchover::default(),
            compression: Compression::default(),
            connections: one(),
            encryption: Encryption::default(),
            transport: Transport::default(),
            budget: Budget::default(),
            attempts: five(),
            keep_source: Span::default(),
        }
    }
}

impl MigrationProfileSpec {
    /// Changes it so that the guest never runs at both ends, which on shared files destroys them: libvirt's own start at the
    /// target does that where its answer is lost. Whether that changed anything.
    pub fn guard(&mut self) -> bool {
        let fast = self.switchover == Switchover::Fast;
        self.switchover = Switchover::Guarded;
        self.convergence
            .retain(|help| *help != Convergence::PostCopy);
        fast
    }

    /// Whether a move may be switched to post-copy.
    #[must_use]
    pub fn allows_post_copy(&self) -> bool {
        self.convergence.contains(&Convergence::PostCopy)
    }

    /// Whether the guest is slowed down where that helps. Not behind PostCopy, which always ends the copy.
    #[must_use]
    pub fn slows_down(&self) -> bool {
        let before = self.convergence.iter();
        before
            .take_while(|help| **help != Convergence::PostCopy)
            .any(|help| *help == Convergence::AutoConverge)
    }
}

fn downtime() -> Span {
    Span(Duration::from_millis(300))
}

fn convergence() -> Vec<Convergence> {
    vec![Convergence::AutoConverge]
}

fn one() -> i32 {
    1
}

fn five() -> i32 {
    5
}

/// Help for a copy that does not converge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Convergence {
    /// The guest's CPUs are slowed down until it writes less than the link carries.
    AutoConverge,
    /// The guest is switched over first and its memory follows. A fault of either side then loses its memory.
    PostCopy,
}

/// Who starts the guest at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Switchover {
    /// The target does, as soon as it has everything.
    #[default]
    Fast,
    /// We do, once the source is proven gone: a longer pause, and never two that run.
    Guarded,
}

/// How memory is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Needs several connections, and libvirt 9.4 at both ends.
    Zstd,
    /// As Zstd.
    Zlib,
    /// Only what changed of a page that was sent before; over one connection.
    Xbzrle,
}

impl Compression {
    /// libvirt's word; nothing where there is none.
    #[must_use]
    pub fn method(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Zstd => Some("zstd"),
            Self::Zlib => Some("zlib"),
            Self::Xbzrle => Some("xbzrle"),
        }
    }
}

/// Whether memory and disks travel encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encryption {
    /// They do, or the move is refused.
    Required,
    /// Where both ends can; never plain between two qemu+tls hosts.
    #[default]
    Preferred,
    /// They do not.
    None,
}

/// Who drives the migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Transport {
    /// The source's libvirtd: it goes on without us.
    #[default]
    PeerToPeer,
    /// We do: it dies with its controller and is not taken over.
    Direct,
}

/// How long a copy may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Time for each GiB of disks and memory; at least one GiB is counted.
    #[serde(rename = "perGiB")]
    pub per_gib: Span,
    /// Time without progress after which a copy counts as stalled.
    pub stall: Span,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            per_gib: Span(Duration::from_secs(150)),
            stall: Span(Duration::from_secs(40)),
        }
    }
}

/// What is known of a profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationProfileStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Guests whose moves take it, unless a move names another.
    pub guests: i64,
}

/// A profile as a move applies it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AppliedProfile {
    /// The MigrationProfile; absent: what is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it says.
    #[serde(flatten)]
    pub spec: MigrationProfileSpec,
}
