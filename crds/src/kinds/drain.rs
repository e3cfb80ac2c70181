//! `HostDrain`: these hosts must be empty.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kinds::host::GuestCounts,
    quantity::Span,
    shared::{HostCount, Picker, conditions_schema},
};

/// These hosts must be empty, as long as this object is here.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "HostDrain",
    status = "HostDrainStatus",
    shortname = "evd",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "These hosts must be empty, as long as this object is here.",
    printcolumn(
        name = "Drained",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Drained")].status"#
    ),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress"),
    printcolumn(name = "Left", type_ = "integer", json_path = ".status.guests.left"),
    printcolumn(
        name = "Moving",
        type_ = "integer",
        json_path = ".status.guests.moving"
    ),
    printcolumn(
        name = "Blocked",
        type_ = "integer",
        json_path = ".status.guests.blocked"
    ),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.eta"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Drained")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Drained")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.hosts.selector) || (has(self.hosts.selector.matchLabels) && size(self.hosts.selector.matchLabels) > 0) || (has(self.hosts.selector.matchExpressions) && size(self.hosts.selector.matchExpressions) > 0)", "an empty selector would drain every host: name hosts or give the selector something to match"),
)]
pub struct HostDrainSpec {
    /// Which hosts.
    pub hosts: Picker,
    /// Moves at once for the whole drain, under the hosts' own limits.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 1000))]
    pub parallel: i32,
    /// From its creation; past it nothing new starts and nothing is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// What becomes of guests that are not running.
    #[serde(default)]
    pub stopped: StoppedGuests,
    /// What becomes of guests that can't be moved for reasons of their own.
    #[serde(default)]
    pub stuck: StuckGuests,
    /// How long a guest may take to shut down. Past it it runs on and is named in the status: it is never destroyed.
    #[serde(default = "five_minutes")]
    pub shutdown_timeout: Span,
    /// What becomes of copies under way when the drain ends.
    #[serde(default)]
    pub on_release: OnRelease,
    /// Nothing new starts.
    #[serde(default)]
    pub suspend: bool,
}

impl Default for HostDrainSpec {
    fn default() -> Self {
        Self {
            hosts: Picker::default(),
            parallel: four(),
            deadline: None,
            stopped: StoppedGuests::default(),
            stuck: StuckGuests::default(),
            shutdown_timeout: five_minutes(),
            on_release: OnRelease::default(),
            suspend: false,
        }
    }
}

fn four() -> i32 {
    4
}

fn five_minutes() -> Span {
    Span(std::time::Duration::from_secs(300))
}

/// What a drain does with guests that are not running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StoppedGuests {
    /// They stay.
    #[default]
    Leave,
    /// They are moved too.
    Move,
}

/// What a drain does with guests that can't be moved for reasons of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StuckGuests {
    /// Waits until somebody does something.
    #[default]
    Wait,
    /// Shuts them down gracefully after all others left. Never destroys one.
    Shutdown,
}

/// What becomes of copies under way when a drain ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnRelease {
    /// They finish.
    #[default]
    Finish,
    /// They are aborted.
    Abort,
}

/// What is known of a drain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostDrainStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Drained, Ready, Reconciling, Stalled.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The hosts, those not drained first.
    pub hosts: Vec<DrainedHost>,
    /// Guests of all hosts.
    pub guests: DrainCounts,
    /// Percent of the guests that have left.
    pub progress: i32,
    /// Until the last one has left, as planned, moves under way included. Absent where nobody can tell: a guest that can't
    /// leave, a drain that starts nothing, a link of unknown rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Span>,
    /// When it was first acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// Guests that can't leave now and why; `guests.blocked` counts them all.
    pub blocked: Vec<BlockedGuest>,
}

/// One host of a drain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainedHost {
    /// The Host.
    pub name: String,
    /// Whether it was seen empty.
    pub drained: bool,
    /// Its guests.
    pub guests: GuestCounts,
    /// Guests that left and whose disks are kept here for a while, as their profile asks for.
    #[serde(default)]
    pub retained: i64,
    /// When it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_time: Option<Time>,
}

/// Guests of a drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainCounts {
    /// All that were or are to leave.
    pub total: i64,
    /// Still there.
    pub left: i64,
    /// Of those, being moved.
    pub moving: i64,
    /// Of those, unable to leave now.
    pub blocked: i64,
}

/// A guest that can't leave now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedGuest {
    /// The Guest.
    pub guest: String,
    /// Why, one word.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
    /// What each host says, counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostCount>,
}
