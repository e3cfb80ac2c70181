//! `RebalancePolicy`: hosts are to be about equally loaded.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kinds::migration::DiskPlacement,
    quantity::{Bytes, Span},
    shared::{Picker, conditions_schema},
};

/// Moves of a plan that its status lists at most; `total` beside them counts all.
pub const PLAN_CAP: usize = 100;

/// Hosts are to be about equally loaded.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "RebalancePolicy",
    plural = "rebalancepolicies",
    status = "RebalancePolicyStatus",
    shortname = "evr",
    category = "evenkeel",
    derive = "PartialEq",
    derive = "Default",
    doc = "Hosts are to be about equally loaded.",
    printcolumn(
        name = "Balanced",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Balanced")].status"#
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Now", type_ = "integer", json_path = ".status.imbalance.now"),
    printcolumn(
        name = "Predicted",
        type_ = "integer",
        json_path = ".status.imbalance.predicted"
    ),
    printcolumn(name = "Plan", type_ = "string", json_path = ".status.plan.id"),
    printcolumn(name = "Moves", type_ = "integer", json_path = ".status.plan.total"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Balanced")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Balanced")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.threshold.stop <= self.threshold.start", "threshold.stop is at most threshold.start"),
    validation = ("self.resources.cpu + self.resources.memory + self.resources.disk > 0", "one of resources has to count for something"),
    validation = ("duration(self.window) >= duration('30s') && duration(self.window) <= duration('24h')", "window is from 30s to 24h"),
)]
pub struct RebalancePolicySpec {
    /// Which hosts; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Picker>,
    /// Whether its plans are run by themselves.
    #[serde(default)]
    pub mode: Mode,
    /// Under Manual: the `status.plan.id` that is to be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub approve: Option<String>,
    /// What counts as load.
    #[serde(default)]
    pub load: LoadKind,
    /// Over how long load is measured.
    #[serde(default = "five_minutes")]
    pub window: Span,
    /// How much each resource counts.
    #[serde(default)]
    pub resources: Weights,
    /// When it begins and when it stops.
    #[serde(default)]
    pub threshold: Threshold,
    /// How much is moved at once and in a time.
    #[serde(default)]
    pub limits: Limits,
    /// A guest that was just moved, by anybody, stays where it is that long.
    #[serde(default = "half_an_hour")]
    pub cooldown: Span,
    /// So that any one host, or rack, can be emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
    /// When moves may run: those that are predicted to end inside start. Absent: always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub windows: Vec<Window>,
    /// What becomes of moves under way when a window closes.
    #[serde(default)]
    pub at_close: AtClose,
    /// Nothing is moved; how things lie is told all the same.
    #[serde(default)]
    pub suspend: bool,
}

impl Default for RebalancePolicySpec {
    fn default() -> Self {
        Self {
            hosts: None,
            mode: Mode::default(),
            approve: None,
            load: LoadKind::default(),
            window: five_minutes(),
            resources: Weights::default(),
            threshold: Threshold::default(),
            limits: Limits::default(),
            cooldown: half_an_hour(),
            headroom: None,
            windows: Vec::new(),
            at_close: AtClose::default(),
            suspend: false,
        }
    }
}

fn five_minutes() -> Span {
    Span(Duration::from_secs(300))
}

fn half_an_hour() -> Span {
    Span(Duration::from_secs(1800))
}

/// Whether plans are run by themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// A plan is shown and waits for `approve`.
    #[default]
    Manual,
    /// By themselves.
    Auto,
}

/// What counts as load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadKind {
    /// What guests were seen to take.
    #[default]
    Measured,
    /// What guests are promised.
    Allocated,
}

/// How much each resource counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Weights {
    /// CPU.
    #[serde(default = "hundred")]
    #[schemars(range(min = 0, max = 1000))]
    pub cpu: i32,
    /// Memory.
    #[serde(default = "hundred")]
    #[schemars(range(min = 0, max = 1000))]
    pub memory: i32,
    /// What disks occupy.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub disk: i32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            cpu: hundred(),
            memory: hundred(),
            disk: 0,
        }
    }
}

fn hundred() -> i32 {
    100
}

/// Imbalance is how far the fullest host lies above the mean, in percent points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Threshold {
    /// From which on something is done.
    #[serde(default = "fifteen")]
    #[schemars(range(min = 1, max = 100))]
    pub start: i32,
    /// At which no more is done.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 100))]
    pub stop: i32,
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            start: fifteen(),
            stop: five(),
        }
    }
}

fn fifteen() -> i32 {
    15
}

fn five() -> i32 {
    5
}

/// How much is moved at once and in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Moves at once, under the hosts' own limits.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub parallel: i32,
    /// Moves that begin within any hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub moves_per_hour: Option<i32>,
    /// Bytes of the moves that begin within any hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::quantity::bandwidth_schema")]
    pub bytes_per_hour: Option<Bytes>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parallel: two(),
            moves_per_hour: None,
            bytes_per_hour: None,
        }
    }
}

fn two() -> i32 {
    2
}

/// What can be emptied at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Headroom {
    /// The label of hosts; `evenkeel.dev/host`: each host by itself.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// How many of its values at once: one, by this version.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub failures: i32,
}

fn one() -> i32 {
    1
}

/// A time of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// On which days it begins; absent: on every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub days: Vec<Day>,
    /// When it begins, `HH:MM`.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub from: String,
    /// When it ends, `HH:MM`: on the next day where that is not later than `from`.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub to: String,
    /// In which time zone, by its name in the IANA database.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// What becomes of moves under way when a window closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AtClose {
    /// They finish.
    #[default]
    Finish,
    /// Those that have not begun to switch are aborted.
    Abort,
}

/// What is known of a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RebalancePolicyStatus {
    /// The manifest's generation that this tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Balanced, Ready, Reconciling, Stalled.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// How far the fullest host lies above the mean; absent until it was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imbalance: Option<Imbalance>,
    /// Whether `threshold.start` was passed and `threshold.stop` not reached since.
    pub begun: bool,
    /// The moves that are to be made; it stays as it is for as long as it can be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<BalancePlan>,
    /// The plan before, which was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_plan: Option<PastPlan>,
    /// Guests on hosts above the mean that it does not move, and why.
    pub skipped: Vec<SkippedGuest>,
    /// How many those are in all.
    pub skipped_total: i64,
}

/// Imbalance in percent points.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imbalance {
    /// After all other moves, without its own.
    pub now: i32,
    /// After its own moves as well.
    pub predicted: i32,
}

/// A plan of moves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BalancePlan {
    /// Its name: other moves, another name.
    pub id: String,
    /// The moves, in the order in which they start.
    pub moves: Vec<BalanceMove>,
    /// How many they are in all.
    pub total: i64,
    /// Bytes expected to travel.
    pub bytes: Bytes,
    /// Expected time from its start to its end; absent where no rate is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
}

/// A move of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BalanceMove {
    /// The Guest.
    pub guest: String,
    /// From.
    pub source: String,
    /// To.
    pub target: String,
    /// Where the guest goes on to by a later move of this plan, if it only stops over at `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onward: Option<String>,
    /// Where its disks go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskPlacement>,
    /// Bytes expected to travel.
    pub bytes: Bytes,
    /// Expected start, from that of the plan.
    #[serde(default)]
    pub start: Span,
    /// Expected time it takes; absent where no rate is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// Why it has not begun, one word; absent once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// A plan that is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastPlan {
    /// Its name.
    pub id: String,
    /// Its moves that succeeded.
    pub done: i64,
    /// Its moves in all.
    pub total: i64,
    /// When it was over.
    pub completion_time: Option<Time>,
}

/// A guest that a policy does not move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedGuest {
    /// The Guest.
    pub guest: String,
    /// Why, one word.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}
