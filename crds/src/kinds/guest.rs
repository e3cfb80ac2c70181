//! `Guest`: one libvirt domain.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{quantity::Bytes, shared::conditions_schema};

/// One libvirt domain. Made by the controller for each it finds; spec and labels are the user's.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "Guest",
    status = "GuestStatus",
    shortname = "evg",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "One libvirt domain. Deleting it never touches the domain.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host"),
    printcolumn(name = "VCPUs", type_ = "integer", json_path = ".status.vcpus"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.memory"),
    printcolumn(
        name = "Migratable",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Migratable")].status"#
    ),
    printcolumn(name = "Move", type_ = "string", json_path = ".status.move.name"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "UUID",
        type_ = "string",
        json_path = ".status.uuid",
        priority = 1
    ),
    printcolumn(
        name = "Networks",
        type_ = "string",
        json_path = ".status.networks",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Migratable")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(oldSelf.uuid) || (has(self.uuid) && self.uuid == oldSelf.uuid)", "uuid is set once: delete this Guest and write another to bind another domain"),
    validation = ("!has(self.evacuation) || self.evacuation != 'Shutdown' || has(self.restart)", "evacuation: Shutdown needs restart: AfterDrain or Never"),
)]
pub struct GuestSpec {
    /// The domain's UUID; set once. Without it a manifest binds by name, if exactly one domain bears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 36),
        regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    )]
    pub uuid: Option<String>,
    /// The domain's name; absent: the object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub domain: Option<String>,
    /// What a drain does with it.
    #[serde(default)]
    pub evacuation: Evacuation,
    /// What becomes of it once the drain that had it shut down is over; absent: Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Higher moves first.
    #[serde(default)]
    #[schemars(range(min = -1000000, max = 1000000))]
    pub priority: i32,
    /// The MigrationProfile for its moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub profile: Option<String>,
    /// Who manages it.
    #[serde(default)]
    pub managed: Managed,
    /// Nothing moves it while this lasts, whoever asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// What a drain does with a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Evacuation {
    /// Moves it.
    #[default]
    Migrate,
    /// Shuts it down, gracefully, once what can be moved has left its host.
    Shutdown,
    /// Leaves it, and so is not done.
    Never,
}

/// What becomes of a guest that a drain had shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Restart {
    /// It is started where it is, once no drain wants its host empty.
    AfterDrain,
    /// It stays off.
    Never,
}

/// Who manages a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Managed {
    /// We do.
    #[default]
    Here,
    /// Something else: it is shown and counted, never moved.
    Elsewhere,
}

/// A guest that is not to be moved by itself for now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// Why.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Until when; absent: until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// What a guest is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GuestPhase {
    /// It executes.
    Running,
    /// Its QEMU is there and it does not execute.
    Paused,
    /// Defined, not active.
    Stopped,
    /// A move of it is between the start of the copy and its end.
    Migrating,
    /// Its QEMU died.
    Crashed,
    /// Its host does not answer.
    #[default]
    Unknown,
    /// All hosts were looked at and none has it.
    Missing,
}

impl GuestPhase {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Stopped => "Stopped",
            Self::Migrating => "Migrating",
            Self::Crashed => "Crashed",
            Self::Unknown => "Unknown",
            Self::Missing => "Missing",
        }
    }
}

/// What is known of a guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Bound, Migratable, Unique, Reconciling, Stalled.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The domain's UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The domain's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The Host it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// That host's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What it does.
    pub phase: GuestPhase,
    /// Every copy of it that any host has.
    pub copies: Vec<Copy>,
    /// Where it was last seen, where its host does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<LastSeen>,
    /// Virtual CPUs, the maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// Memory, the maximum, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Machine type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Whether it starts with its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
    /// Every file it names on its host.
    pub files: Vec<FileStatus>,
    /// Its network interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// For tables: networks and addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<String>,
    /// When it was made, where its metadata says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_time: Option<String>,
    /// When this description last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_time: Option<Time>,
    /// Metadata in the domain's XML, flattened.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The system that manages it, if that is not us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    /// The move under way.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    pub current_move: Option<MoveRef>,
    /// The last finished move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_move: Option<LastMoveStatus>,
}

/// One copy of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Copy {
    /// The Host that has it.
    pub host: String,
    /// `Running`, `Paused`, `Stopped` or `Crashed`.
    pub state: String,
    /// Whether it has a definition that outlives its QEMU.
    pub persistent: bool,
}

/// Where and when something was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastSeen {
    /// The Host.
    pub host: String,
    /// When.
    pub time: Time,
}

/// A disk of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStatus {
    /// Target device: `vda`.
    pub target: String,
    /// The file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `qcow2`, `raw`, ...
    pub format: String,
    /// Size the guest sees, in bytes.
    #[serde(rename = "virtual")]
    pub virtual_size: Bytes,
    /// What it occupies on the host, in bytes.
    pub allocated: Bytes,
    /// The pool that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Backing files below it, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backing: Vec<String>,
    /// On storage that other hosts see too.
    pub shared: bool,
}

/// A file that a guest names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileStatus {
    /// `disk`, `backing`, `cdrom`, `kernel`, `initrd`, `nvram`, `console`, ...
    pub role: String,
    /// The Host it is on.
    pub host: String,
    /// Its path.
    pub path: String,
    /// What it occupies, where that is known, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<Bytes>,
}

/// A network interface of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceStatus {
    /// MAC address.
    pub mac: String,
    /// `network:NAME`, `bridge:NAME`, ...
    pub source: String,
    /// Addresses, where the agent or a lease tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// A move under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveRef {
    /// The GuestMigration's name.
    pub name: String,
    /// Percent.
    pub progress: i32,
}

/// The last finished move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastMoveStatus {
    /// When it ended.
    pub time: String,
    /// Where the guest came from.
    pub from: String,
    /// The wish that asked for it.
    pub by: String,
}
