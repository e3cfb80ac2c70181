//! `Host`: a machine that runs libvirtd.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{quantity::Bytes, shared::conditions_schema};

/// A machine that runs libvirtd. Writing one is power over that machine.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "Host",
    status = "HostStatus",
    shortname = "evh",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "A machine that runs libvirtd.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Guests",
        type_ = "integer",
        json_path = ".status.guests.active"
    ),
    printcolumn(
        name = "CPU",
        type_ = "string",
        json_path = ".status.capacity.cpu.summary"
    ),
    printcolumn(
        name = "Memory",
        type_ = "string",
        json_path = ".status.capacity.memory.summary"
    ),
    printcolumn(name = "In", type_ = "integer", json_path = ".status.moves.inbound"),
    printcolumn(name = "Out", type_ = "integer", json_path = ".status.moves.outbound"),
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
    printcolumn(name = "URI", type_ = "string", json_path = ".spec.uri", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!self.uri.startsWith('qemu+tcp://') || (has(self.insecure) && self.insecure)", "a qemu+tcp URI is neither encrypted nor authenticated: say insecure: true to use it all the same, or use qemu+tls or qemu+ssh"),
)]
pub struct HostSpec {
    /// How to reach its libvirtd: qemu+tls, qemu+ssh or qemu+tcp, path /system, no query.
    #[schemars(
        length(min = 1, max = 300),
        regex(
            pattern = r"^(qemu\+(tls|ssh|tcp)|sim)://([a-z_][a-z0-9_-]{0,31}@)?([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/system$"
        )
    )]
    pub uri: String,
    /// Plain qemu+tcp is used only where this says true.
    #[serde(default)]
    pub insecure: bool,
    /// Keys and passwords for the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// How guests come here and leave.
    #[serde(default)]
    pub migration: HostMigration,
    /// What is kept for the host itself.
    #[serde(default)]
    pub reserved: Reserved,
    /// How much more than what is there may be promised to guests, in percent.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// Pools that may receive disks; absent: all active ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pools: Option<Vec<PoolSpec>>,
    /// No guest is moved here.
    #[serde(default)]
    pub unschedulable: bool,
    /// The operator's word that the machine is off and stays off.
    #[serde(default)]
    pub out_of_service: bool,
    /// The Kubernetes node on the same machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeRef>,
}

/// Where a connection's secrets are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret in the controller's namespace, or a directory below `--credentials`. qemu+tls takes `ca.crt`, `tls.crt` and
    /// `tls.key`, qemu+ssh `ssh-privatekey` and `known_hosts`, and a libvirtd that asks for a password, as qemu+tcp does with
    /// credentials, `username` and `password`. A Secret names the hosts it serves in its annotation `evenkeel.dev/hosts`.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub secret_name: String,
}

/// How guests come to a host and leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostMigration {
    /// How the other hosts' libvirtd reach this one; absent: `spec.uri`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 300),
        regex(
            pattern = r"^(qemu\+(tls|ssh|tcp)|sim)://([a-z_][a-z0-9_-]{0,31}@)?([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/system$"
        )
    )]
    pub uri: Option<String>,
    /// Address that memory and disks travel to; absent: the URI's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9a-fA-F:.]+)$")
    )]
    pub address: Option<String>,
    /// Of the link, in bytes per second, shared by all moves in or out. At least 1Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::bandwidth_schema")]
    pub bandwidth: Option<Bytes>,
    /// Moves to here at once.
    #[schemars(range(min = 0, max = 1000))]
    pub max_inbound: i32,
    /// Moves from here at once.
    #[schemars(range(min = 0, max = 1000))]
    pub max_outbound: i32,
}

impl Default for HostMigration {
    fn default() -> Self {
        Self {
            uri: None,
            address: None,
            bandwidth: None,
            max_inbound: 2,
            max_outbound: 2,
        }
    }
}

/// What is kept for the host itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Reserved {
    /// CPUs, such as "1".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::cpus_schema")]
    pub cpu: Option<crate::quantity::Cpus>,
    /// Memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// Percent of what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Overcommit {
    /// Virtual CPUs against CPUs, in percent.
    #[schemars(range(min = 1, max = 10000))]
    pub cpu: i32,
    /// Guests' memory against the host's, in percent.
    #[schemars(range(min = 1, max = 10000))]
    pub memory: i32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self {
            cpu: 400,
            memory: 100,
        }
    }
}

/// A pool that may receive disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolSpec {
    /// libvirt's name of it.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Percent of its size that stays free.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 100))]
    pub reserve: i32,
    /// Sum of virtual sizes against its size, in percent; absent: only what is free counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub overcommit: Option<i32>,
    /// Pools of one class stand in for one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub class: Option<String>,
    /// Pools with the same word share one file system and so one budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub shares: Option<String>,
}

fn five() -> i32 {
    5
}

/// The Kubernetes node on the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRef {
    /// The Node's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// What drains the host: a HostDrain `node-<name>` is there for as long as it is so. Absent: nothing on the node does. Only
    /// under the controller: without a cluster nobody sees nodes.
    #[serde(default)]
    #[schemars(length(max = 4))]
    pub drain_on: BTreeSet<DrainOn>,
}

/// What on a node drains its host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum DrainOn {
    /// The node is cordoned.
    Cordon,
}

/// What is known of a host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reachable, MigrationReady, Drainable, Reconciling, Stalled; ClaimedByOther when true; NodeFollowed where `node.drainOn`
    /// says something.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The hypervisor's UUID.
    #[serde(rename = "hostUUID", skip_serializing_if = "Option::is_none")]
    pub host_uuid: Option<String>,
    /// The hypervisor's hostname.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// libvirt's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libvirt_version: Option<String>,
    /// QEMU's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor_version: Option<String>,
    /// CPU model by libvirt's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// When it was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_time: Option<Time>,
    /// Who acts on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimStatus>,
    /// What it has and what is left of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// How many guests it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<GuestCounts>,
    /// Moves under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves: Option<MoveCounts>,
}

/// Who acts on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStatus {
    /// The fleet of the holder.
    pub fleet: String,
    /// The holder.
    pub holder: String,
}

/// What a host has and what is left of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// CPUs.
    pub cpu: CpuCapacity,
    /// Memory.
    pub memory: MemoryCapacity,
    /// Storage pools.
    pub pools: Vec<PoolCapacity>,
}

/// CPUs of a host, in CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuCapacity {
    /// CPUs of the machine.
    pub total: String,
    /// Kept for the host.
    pub reserved: String,
    /// In use now, in CPUs, by everything on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_now: Option<String>,
    /// If every active guest used all its virtual CPUs.
    pub used_max: String,
    /// Still to be given, overcommit included; negative where more was promised.
    pub allocatable: String,
    /// For tables: promised / allowed.
    pub summary: String,
}

/// Memory of a host, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryCapacity {
    /// Memory of the machine.
    pub total: Bytes,
    /// Kept for the host, huge pages included.
    pub reserved: Bytes,
    /// In use now by everything on the machine.
    pub used_now: Bytes,
    /// If every active guest used its maximum, QEMU's overhead included.
    pub used_max: Bytes,
    /// Still to be given, overcommit included; zero where more was promised.
    pub allocatable: Bytes,
    /// For tables: promised / allowed.
    pub summary: String,
}

/// A storage pool of a host, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolCapacity {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// Whether it may receive disks; if not, why is said in the host's conditions or manifest.
    pub active: bool,
    /// Size of its file system.
    pub total: Bytes,
    /// In use now.
    pub used_now: Bytes,
    /// Sum of the virtual sizes of all disks in it.
    pub used_max: Bytes,
    /// Room for the next disk, what moves in flight may still write taken off.
    pub allocatable: Bytes,
    /// Pools that lie on the same file system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares_with: Vec<String>,
}

/// Guests on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestCounts {
    /// Running or paused.
    pub active: i64,
    /// Defined and not active.
    pub stopped: i64,
    /// Of all of them, managed by something else.
    pub managed_elsewhere: i64,
}

/// Moves under way at a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveCounts {
    /// To here.
    pub inbound: i64,
    /// From here.
    pub outbound: i64,
}
