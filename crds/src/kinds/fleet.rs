//! `Fleet`: what holds for all moves together.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    quantity::{Bytes, Span},
    shared::conditions_schema,
};

/// The name of the one Fleet that counts.
pub const FLEET_NAME: &str = "default";

/// What holds for all moves together. At most one, named `default`.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "Fleet",
    status = "FleetStatus",
    shortname = "evf",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "What holds for all moves together. At most one, named default.",
    validation = ("self.metadata.name == 'default'", "there is one Fleet, and its name is default"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Moving", type_ = "integer", json_path = ".status.moving"),
    printcolumn(name = "Parallel", type_ = "integer", json_path = ".spec.parallel"),
    printcolumn(name = "Bandwidth", type_ = "string", json_path = ".spec.bandwidth"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.abort) || !self.abort || (has(self.suspend) && self.suspend)", "abort: true needs suspend: true"),
)]
pub struct FleetSpec {
    /// The fleet's name in claims and journals, so that two fleets that share hosts are told apart; absent: as the controller
    /// was started. A controller takes another one when it starts. Runs from files have a name of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub id: Option<String>,
    /// Nothing new starts, whoever asks for it; moves under way go on.
    #[serde(default)]
    pub suspend: bool,
    /// While it is suspended, copies under way are aborted too. What they were for is taken up again afterwards.
    #[serde(default)]
    pub abort: bool,
    /// Moves at once in the whole fleet, under the hosts' own limits; absent: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub parallel: Option<i32>,
    /// Of all moves together, in bytes per second, at least 1Mi. Each has an equal share: as many as `parallel` says, 4 where it
    /// says nothing; absent: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::bandwidth_schema")]
    pub bandwidth: Option<Bytes>,
    /// Looks that each plan may take to find ways through hosts that are nearly full, counted in guests and hosts that are compared,
    /// not in time: the same number finds the same plan. More never find a worse one; absent: as the fleet's size asks for, 100,000
    /// and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub effort: Option<i64>,
    /// How long the GuestMigrations that were made for wishes are kept when they are over.
    #[serde(default)]
    pub history: History,
}

impl FleetSpec {
    /// What one move may have of the fleet's bandwidth, in bytes per second.
    #[must_use]
    pub fn share(&self) -> Option<Bytes> {
        let moves = self.parallel.unwrap_or(4).max(1).unsigned_abs();
        self.bandwidth
            .map(|all| Bytes((all.0 / u64::from(moves)).max(1 << 20)))
    }
}

/// How long finished moves are kept. One that keeps a wish from trying the same again stays for as long as it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    /// So many for each guest, the youngest.
    #[schemars(range(min = 0, max = 1000))]
    pub per_guest: i32,
    /// No longer than that.
    pub ttl: Span,
}

impl Default for History {
    fn default() -> Self {
        Self {
            per_guest: 3,
            ttl: Span(Duration::from_secs(168 * 3600)),
        }
    }
}

/// What is known of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FleetStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Moves under way.
    pub moving: i64,
}
