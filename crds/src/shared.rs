//! What several kinds share: selectors, conditions, short reports.

use std::collections::BTreeMap;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
pub use k8s_openapi::jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// The API group.
pub const GROUP: &str = "evenkeel.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// Group and version, as manifests write them.
pub const API_VERSION: &str = "evenkeel.dev/v1alpha1";
/// The finalizer that makes the deletion of a `GuestMigration` an abort.
pub const MOVE_FINALIZER: &str = "evenkeel.dev/move";
/// Label on a `GuestMigration` made for a wish: the wish's kind.
pub const LABEL_WISH_KIND: &str = "evenkeel.dev/wish-kind";
/// Label on a `GuestMigration` made for a wish: the wish's name.
pub const LABEL_WISH_NAME: &str = "evenkeel.dev/wish-name";
/// Label on a `HostDrain` made for a cordon: the Kubernetes node.
pub const LABEL_NODE: &str = "evenkeel.dev/node";
/// Entries that a list in a status holds at most; a `total` beside it counts them all.
pub const LIST_CAP: usize = 50;
/// Attempts that a `GuestMigration` remembers.
pub const ATTEMPTS_CAP: usize = 10;

/// Picks objects by name or by label: exactly one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = ("has(self.names) != has(self.selector)", "say exactly one of names and selector"),
)]
pub struct Picker {
    /// Object names; for guests also UUIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 253)))]
    pub names: Option<Vec<String>>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// A label selector, as Kubernetes has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that must be equal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements, all of which must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub match_expressions: Vec<Expression>,
}

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expression {
    /// The label's key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The value is one of those.
    In,
    /// The value is none of those, or the label is absent.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is picked. An empty selector picks everything.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = |(key, value)| labels.get::<String>(key) == Some(value);
        self.match_labels.iter().all(equal)
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.contains(value));
                match requirement.operator {
                    Operator::In => listed,
                    Operator::NotIn => !listed,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// A condition's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell now.
    Unknown,
}

impl Answer {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Answer {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A condition of now. [`settle`] keeps the time of the last transition where nothing changed.
#[must_use]
pub fn condition(
    kind: &str,
    answer: Answer,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: answer.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Time(whole_seconds(now)),
    }
}

/// A time as Kubernetes keeps it: whole seconds.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Gives each new condition the old one's transition time where its answer is the same.
pub fn settle(new: &mut [Condition], old: &[Condition]) {
    for condition in new {
        let before = old
            .iter()
            .find(|before| before.type_ == condition.type_ && before.status == condition.status);
        if let Some(before) = before {
            condition.last_transition_time = before.last_transition_time.clone();
        }
    }
}

/// The condition of that type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// How many of several hosts say the same, with a few named: "3 InsufficientMemory (h2, h3, h5)".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostCount {
    /// The hosts' reason.
    pub reason: String,
    /// How many hosts say so.
    pub count: i64,
    /// Some of them, each with its sentence.
    #[serde(default)]
    pub examples: Vec<HostExample>,
}

/// One host's own sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostExample {
    /// The host.
    pub host: String,
    /// Why not there.
    pub message: String,
}

/// The wish for which a move was made.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct RequestedBy {
    /// Its kind: `HostDrain`, `GuestPlacement`, `RebalancePolicy`, or `GuestMigration` for one that a user wrote.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID, where it is an object in a cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The schema of a list of conditions: a map by type, so that several writers can share it.
pub(crate) fn conditions_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert(
        "x-kubernetes-list-map-keys".into(),
        serde_json::json!(["type"]),
    );
    schema
}
