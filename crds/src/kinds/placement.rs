//! `GuestPlacement`: where guests belong.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::{Picker, conditions_schema};

/// Where guests belong.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "GuestPlacement",
    status = "GuestPlacementStatus",
    shortname = "evp",
    category = "evenkeel",
    derive = "PartialEq",
    doc = "Where guests belong.",
    printcolumn(
        name = "Satisfied",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Satisfied")].status"#
    ),
    printcolumn(
        name = "Requirement",
        type_ = "string",
        json_path = ".spec.requirement"
    ),
    printcolumn(name = "There", type_ = "integer", json_path = ".status.satisfied"),
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.total"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Satisfied")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Satisfied")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.hosts) || has(self.spread) || has(self.apart) || has(self.together)", "say at least one of hosts, spread, apart and together"),
)]
pub struct GuestPlacementSpec {
    /// Which guests.
    pub guests: Picker,
    /// On which hosts they belong; absent: on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Picker>,
    /// Whether no move may break it, or it is kept where that is possible. It has no default: it must be said.
    pub requirement: Requirement,
    /// They lie evenly over the values of a label of their hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// No two of them are on hosts with the same value of a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Topology>,
    /// All of them are on hosts with the same value of a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<Topology>,
    /// Nothing is moved for its sake. What is Required still binds all other moves.
    #[serde(default)]
    pub suspend: bool,
}

/// How strictly a placement is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Requirement {
    /// No move may break it, whoever asks for the move.
    Required,
    /// It is kept where that is possible.
    Preferred,
}

/// How evenly guests lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The label of hosts; `evenkeel.dev/host`: each host by itself. Hosts without it are not eligible.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// So many guests more than the emptiest value that takes guests may a value have.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_skew: i32,
}

/// A label of hosts whose values divide them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// The label; `evenkeel.dev/host`: each host by itself. Hosts without it are not eligible.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
}

fn one() -> i32 {
    1
}

/// How a placement is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestPlacementStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Satisfied, Ready, Reconciling, Stalled.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Running guests that are where they belong.
    pub satisfied: i64,
    /// Running guests that it is about.
    pub total: i64,
    /// Guests that are not where they belong and what becomes of that, those that stay so first; `total` less
    /// `satisfied` counts them all.
    pub violations: Vec<MisplacedGuest>,
}

/// A guest that is not where it belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MisplacedGuest {
    /// The Guest.
    pub guest: String,
    /// Why it is still there, one word; `InProgress` where it is being moved.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}
