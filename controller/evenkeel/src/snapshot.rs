//! `evenkeel snapshot`: the fleet, what is asked of it and what is in flight as one file. `plan` and `simulate` take it
//! with -f instead of manifests, on any machine and at any time, and plan the same.
//!
//! The part `input` is all that a plan follows from; its digest stands in the plan. The rest is for people and for
//! what is told beside a plan: the objects as they were declared, and what was seen of them. Credentials are not in it,
//! nor what others wrote on objects or into domains.

mod read;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use evenkeel_crds::{
    GuestMigrationSpec, GuestMigrationStatus, GuestPlacementStatus, HostDrainStatus, HostStatus,
    MigrationProfileStatus, RebalancePolicyStatus,
    names::{
        DrainName, GuestName, HostName, MigrationName, PlacementName, PolicyName, ProfileName,
    },
    reason::Cause,
    shared::{API_VERSION, GROUP, RequestedBy, Timestamp},
};
use evenkeel_engine::{MigrationView, Problem, Question, View, Wishes};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    arguments::{Common, Format},
    exit::Exit,
    output,
    scene::Scene,
};

pub use read::{is_snapshot, read};

/// The kind, as the file says it.
pub const KIND: &str = "Snapshot";

/// The format's number. Another one is refused: a plan must not follow from half of its input.
const VERSION: i64 = 2;

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Snapshot {
    api_version: String,
    kind: String,
    version: i64,
    /// When it was taken.
    taken_time: Timestamp,
    /// The program that took it.
    taken_by: String,
    /// Of `input`, when it was taken.
    digest: String,
    /// Whether the objects came from files.
    from_files: bool,
    input: Question,
    seen: Seen,
    /// Where each object was written: `file:line:column` by `kind/name`.
    #[serde(default)]
    places: BTreeMap<String, String>,
    /// As declared.
    objects: Vec<Value>,
}

/// What was seen of the objects and is no part of the planner's input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Seen {
    hosts: BTreeMap<HostName, HostStatus>,
    migrations: BTreeMap<MigrationName, Moved>,
    drains: BTreeMap<DrainName, HostDrainStatus>,
    placements: BTreeMap<PlacementName, GuestPlacementStatus>,
    policies: BTreeMap<PolicyName, RebalancePolicyStatus>,
    profiles: BTreeMap<ProfileName, MigrationProfileStatus>,
    shutdowns: BTreeMap<GuestName, Cause>,
    problems: Vec<Trouble>,
}

/// A move as it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Moved {
    declared: bool,
    requested_by: RequestedBy,
    spec: GuestMigrationSpec,
    status: GuestMigrationStatus,
}

/// What was wrong with an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Trouble {
    kind: String,
    name: String,
    cause: Cause,
}

impl Snapshot {
    fn of(scene: &Scene) -> serde_json::Result<Self> {
        let view = &scene.view;
        let input = view.question();
        let unshared = |problem: &Problem| Trouble {
            kind: problem.kind.to_owned(),
            name: problem.name.clone(),
            cause: problem.cause.clone(),
        };
        let moved = |one: &MigrationView| Moved {
            declared: one.declared,
            requested_by: one.requested_by.clone(),
            spec: one.spec.clone(),
            status: one.status.clone(),
        };
        Ok(Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            version: VERSION,
            taken_time: scene.time,
            taken_by: concat!("evenkeel ", env!("CARGO_PKG_VERSION")).to_owned(),
            digest: input.digest(),
            from_files: scene.from_files,
            input,
            seen: Seen {
                hosts: unarced(&view.hosts),
                migrations: view
                    .migrations
                    .iter()
                    .map(|(name, one)| (name.clone(), moved(one)))
                    .collect(),
                drains: unarced(&view.drains),
                placements: unarced(&view.placements),
                policies: unarced(&view.policies),
                profiles: unarced(&view.profiles),
                shutdowns: view.shutdowns.clone(),
                problems: view.problems.iter().map(unshared).collect(),
            },
            places: scene
                .places
                .iter()
                .map(|((kind, name), place)| (format!("{kind}/{name}"), place.clone()))
                .collect(),
            objects: objects(&scene.wishes)?,
        })
    }

    /// As it was when it was taken; `wishes` are its objects.
    fn scene(self, wishes: Wishes) -> Scene {
        let plan = self.input.plan();
        let (fleet, asked) = self.input.into_asked();
        let place = |(key, place): (String, String)| {
            let (kind, name) = key.split_once('/')?;
            Some(((kind.to_owned(), name.to_owned()), place))
        };
        let moved = |own: Moved| MigrationView {
            declared: own.declared,
            spec: own.spec,
            requested_by: own.requested_by,
            status: own.status,
        };
        let problem = |own: Trouble| {
            Some(Problem {
                kind: known_kind(&own.kind)?,
                name: own.name,
                cause: own.cause,
            })
        };
        let migrations = self.seen.migrations.into_iter();
        Scene {
            view: Arc::new(View {
                number: 1,
                settled: true,
                hosts: arced(self.seen.hosts),
                migrations: migrations
                    .map(|(name, own)| (name, Arc::new(moved(own))))
                    .collect(),
                drains: arced(self.seen.drains),
                placements: arced(self.seen.placements),
                policies: arced(self.seen.policies),
                profiles: arced(self.seen.profiles),
                shutdowns: self.seen.shutdowns,
                problems: self.seen.problems.into_iter().filter_map(problem).collect(),
                plan: Arc::new(plan),
                fleet: Arc::new(fleet),
                asked: Arc::new(asked),
                ..View::default()
            }),
            wishes,
            places: self.places.into_iter().filter_map(place).collect(),
            from_files: self.from_files,
            time: self.taken_time,
        }
    }
}

/// The kinds of objects, as words that last.
static KINDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let crds = evenkeel_crds::manifests::all().into_iter();
    crds.map(|(_, crd)| crd.spec.names.kind).collect()
});

fn known_kind(kind: &str) -> Option<&'static str> {
    let mut known = KINDS.iter();
    known.find(|known| *known == kind).map(String::as_str)
}

fn unarced<K: Ord + Clone, T: Clone>(shared: &BTreeMap<K, Arc<T>>) -> BTreeMap<K, T> {
    let own = shared.iter();
    own.map(|(name, one)| (name.clone(), (**one).clone()))
        .collect()
}

fn arced<K: Ord, T>(own: BTreeMap<K, T>) -> BTreeMap<K, Arc<T>> {
    let own = own.into_iter();
    own.map(|(name, one)| (name, Arc::new(one))).collect()
}

/// Every object as it is declared, without what others wrote on it.
fn objects(wishes: &Wishes) -> serde_json::Result<Vec<Value>> {
    let Wishes {
        hosts,
        guests,
        migrations,
        drains,
        placements,
        policies,
        profiles,
        fleets,
        // Secret.
        credentials: _,
        // What is said of them is in nobody's way, and drains that they made are among the drains.
        nodes: _,
    } = wishes;
    let mut all = Vec::new();
    for host in hosts.values() {
        all.push(bare(serde_json::to_value(host.as_ref())?, false));
    }
    for guest in guests.values() {
        all.push(bare(serde_json::to_value(guest.as_ref())?, false));
    }
    for migration in migrations.values() {
        // What a database remembers of moves and policies counts: which are history, what was done already.
        all.push(bare(serde_json::to_value(migration.as_ref())?, true));
    }
    for drain in drains.values() {
        all.push(bare(serde_json::to_value(drain.as_ref())?, false));
    }
    for placement in placements.values() {
        all.push(bare(serde_json::to_value(placement.as_ref())?, false));
    }
    for policy in policies.values() {
        all.push(bare(serde_json::to_value(policy.as_ref())?, true));
    }
    for profile in profiles.values() {
        all.push(bare(serde_json::to_value(profile.as_ref())?, false));
    }
    for fleet in fleets.values() {
        all.push(bare(serde_json::to_value(fleet.as_ref())?, false));
    }
    Ok(all)
}

/// Of `metadata` what a plan may follow from.
const METADATA: [&str; 7] = [
    "name",
    "uid",
    "generation",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
];

fn bare(mut object: Value, status: bool) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|field, value| !value.is_null() && (status || field != "status"));
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|field, _| METADATA.contains(&field.as_str()));
            let ours = format!("{GROUP}/");
            let empty = match metadata.get_mut("annotations") {
                Some(Value::Object(annotations)) => {
                    annotations.retain(|key, _| key.starts_with(&ours));
                    annotations.is_empty()
                }
                _ => false,
            };
            if empty {
                metadata.remove("annotations");
            }
        }
    }
    object
}

/// Runs the command.
///
/// # Errors
/// Where manifests are wrong, or the hosts or the cluster can't be asked at all.
pub async fn run(common: &Common) -> anyhow::Result<Exit> {
    let scene = Scene::get(common, "snapshot").await?;
    let snapshot = Snapshot::of(&scene)?;
    match common.output {
        Some(Format::Json) => output::print(format_args!(
            "{}\n",
            serde_json::to_string_pretty(&snapshot)?
        ))?,
        Some(Format::Yaml | Format::Wide) | None => {
            output::print(serde_saphyr::to_string(&snapshot)?)?;
        }
    }
    for (name, status) in &scene.view.hosts {
        let reachable = evenkeel_crds::shared::find(&status.conditions, "Reachable");
        if let Some(silent) = reachable.filter(|condition| condition.status != "True") {
            output::tell(format_args!(
                "Host {name} was not seen: {}: {}",
                silent.reason,
                output::harmless(&silent.message)
            ));
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
pub(crate) mod tests;
