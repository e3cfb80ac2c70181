//! `evenkeel plan`: what would be done, in which order, how long it takes, and what can't be done and why.

mod standing;
mod text;
mod waves;

use std::{fmt, time::Duration};

use evenkeel_crds::{
    MigrationPhase,
    reason::{Cause, Reason},
    shared::{API_VERSION, HostCount, RequestedBy, find},
};
use evenkeel_engine::{Question, View, Wishes};
use evenkeel_planner::Violation;
use serde::Serialize;

use crate::{
    arguments::{self, Common, Format},
    exit::Exit,
    manifests::Manifests,
    output,
    picture::{Bar, Picture, Sort},
    scene::Scene,
    verdict,
};

pub use standing::{Amounts, Block, Side, Standing, standings};

/// What `plan` found, as it is printed. Names, never ids.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    api_version: &'static str,
    kind: &'static str,
    /// `NothingToDo`, `SomethingToDo`, `SomethingImpossible` or `ClaimedByOther`.
    result: &'static str,
    /// Of all that the plan follows from: a snapshot of the same digest gives the same plan.
    pub digest: String,
    /// In the order in which they start.
    pub moves: Vec<Move>,
    /// Moves that others have begun.
    under_way: Vec<UnderWay>,
    impossible: Vec<Impossible>,
    /// Why not all guests of a wish have a place, as far as that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verdicts: Vec<Verdict>,
    /// That the search for better ways ended for want of effort, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfinished: Option<Reasoned>,
    claimed: Vec<Reasoned>,
    satisfied: Vec<Satisfied>,
    /// Guests that are shut down for drains, or started again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shutdowns: Vec<Reasoned>,
    /// How each placement is kept as things are.
    placements: Vec<Placed>,
    /// How level the hosts of each policy are.
    balances: Vec<Level>,
    /// Policies of which nobody can tell yet how level their hosts are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    undecided: Vec<Reasoned>,
    /// Hosts that could not be looked at.
    unreachable: Vec<Unreachable>,
    /// How full hosts are, before and after.
    hosts: Vec<HostLoad>,
    totals: Totals,
}

/// A planned move.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    order: usize,
    /// It starts before any move of the same wave ends.
    wave: usize,
    guest: String,
    source: String,
    target: String,
    bytes: u64,
    start_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
    /// How much of that its disks take, after which its memory travels.
    #[serde(skip_serializing_if = "Option::is_none")]
    disks_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<Reasoned>,
    pools: std::collections::BTreeMap<String, String>,
    /// The drained guest for which it makes way.
    #[serde(skip_serializing_if = "Option::is_none")]
    makes_way_for: Option<String>,
    /// Where it goes on to, if it only stops over.
    #[serde(skip_serializing_if = "Option::is_none")]
    onward: Option<String>,
    requested_by: By,
}

/// Who asks for a move.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct By {
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl From<&RequestedBy> for By {
    fn from(by: &RequestedBy) -> Self {
        Self {
            kind: by.kind.clone(),
            name: by.name.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Reasoned {
    reason: Reason,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

impl From<&Cause> for Reasoned {
    fn from(cause: &Cause) -> Self {
        let Cause {
            reason,
            message,
            hint,
        } = cause.clone();
        Self {
            reason,
            message,
            hint,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct UnderWay {
    name: String,
    guest: String,
    phase: &'static str,
    progress: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Impossible {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<String>,
    #[serde(flatten)]
    cause: Reasoned,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostCount>,
    /// `file:line:column` of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
}

/// What is known of guests that have no place.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Verdict {
    kind: String,
    name: String,
    /// No plan places all of these guests, as things are. If not, there may be one that was not found.
    proven: bool,
    #[serde(flatten)]
    cause: Reasoned,
    guests: Vec<String>,
    /// All hosts that could ever take one of them, where something is short.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Satisfied {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<String>,
    reason: Reason,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Unreachable {
    host: String,
    reason: String,
    message: String,
}

/// How a placement is kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Placed {
    kind: String,
    name: String,
    satisfied: usize,
    total: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<About>,
}

/// How level the hosts of a policy are.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Level {
    kind: String,
    name: String,
    imbalance: Imbalance,
    /// Why it moves nothing, or no more.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    cause: Option<Reasoned>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<About>,
    /// What could not be emptied after its moves, where it keeps headroom.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    short: Vec<String>,
}

/// How far the fullest host lies above the mean, in percent points.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Imbalance {
    now: f64,
    predicted: f64,
}

/// What is said of a guest.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct About {
    guest: String,
    #[serde(flatten)]
    cause: Reasoned,
}

/// How full a host is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct HostLoad {
    name: String,
    /// Whether it is to be empty.
    drained: bool,
    /// Whether anything comes or goes.
    #[serde(skip)]
    changes: bool,
    guests: Change,
    cpu_milli: Load,
    memory: Load,
    disk: Load,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Change {
    before: usize,
    after: usize,
}

/// Thousandths of a CPU, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Load {
    limit: u64,
    before: u64,
    after: u64,
}

impl From<&Standing> for HostLoad {
    fn from(standing: &Standing) -> Self {
        let Standing {
            name,
            drained,
            out_of_reach: _,
            limit,
            before,
            after,
        } = standing;
        let load = |amount: fn(&Amounts) -> u64| Load {
            limit: amount(limit),
            before: amount(&before.used),
            after: amount(&after.used),
        };
        Self {
            name: name.clone(),
            drained: *drained,
            changes: standing.changes(),
            guests: Change {
                before: before.guests.len(),
                after: after.guests.len(),
            },
            cpu_milli: load(|amounts| amounts.cpu_milli),
            memory: load(|amounts| amounts.memory),
            disk: load(|amounts| amounts.disk),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    moves: usize,
    waves: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    makespan_seconds: Option<f64>,
}

impl Plan {
    /// From a view. `place` tells where an object is written.
    #[must_use]
    pub fn of(view: &View, wishes: &Wishes, place: impl Fn(&str, &str) -> Option<String>) -> Self {
        let question = view.question();
        let host = |id: evenkeel_planner::HostId| {
            let host = view.fleet.hosts.get(id.at());
            host.map_or(String::new(), |host| host.name.to_string())
        };
        let guest = |id: evenkeel_planner::GuestId| {
            let guest = view.fleet.guests.get(id.at());
            guest.map_or(String::new(), |guest| guest.name.to_string())
        };
        let about = |violation: &Violation| About {
            guest: guest(violation.guest),
            cause: (&violation.cause).into(),
        };
        let waves = waves::waves(&view.plan.moves);
        let numbered = view.plan.moves.iter().zip(&waves).enumerate();
        let moves = numbered.map(|(index, (planned, wave))| {
            let end = planned.duration.map(|time| planned.start + time);
            Move {
                order: index + 1,
                wave: *wave,
                guest: guest(planned.guest),
                source: host(planned.source),
                target: host(planned.target),
                bytes: planned.bytes.0,
                start_seconds: planned.start.as_secs_f64(),
                duration_seconds: planned.duration.map(|time| time.as_secs_f64()),
                disks_seconds: planned.disks.map(|time| time.as_secs_f64()),
                end_seconds: end.map(|time| time.as_secs_f64()),
                waits: planned.waits.as_ref().map(Reasoned::from),
                pools: planned.pools.clone(),
                makes_way_for: planned.makes_way_for.map(guest),
                onward: planned.onward.map(host),
                requested_by: (&planned.by).into(),
            }
        });
        let placements = view.plan.placements.iter().map(|kept| Placed {
            kind: kept.by.kind.clone(),
            name: kept.by.name.clone(),
            satisfied: kept.total.saturating_sub(kept.violations.len()),
            total: kept.total,
            violations: kept.violations.iter().map(about).collect(),
        });
        let balances = view.plan.balances.iter().map(|level| Level {
            kind: level.by.kind.clone(),
            name: level.by.name.clone(),
            imbalance: Imbalance {
                now: f64::from(level.now) / 100.0,
                predicted: f64::from(level.predicted) / 100.0,
            },
            cause: level.cause.as_ref().map(Reasoned::from),
            skipped: level.skipped.iter().map(about).collect(),
            short: level
                .short
                .iter()
                .map(|short| short.domain.clone())
                .collect(),
        });
        let impossible = verdict::obstacles(view, wishes)
            .into_iter()
            .map(|obstacle| Impossible {
                place: place(&obstacle.kind, &obstacle.name),
                cause: (&obstacle.cause).into(),
                kind: obstacle.kind,
                name: obstacle.name,
                guest: obstacle.guest,
                hosts: obstacle.hosts,
            });
        let verdicts = view.plan.verdicts.iter().map(|verdict| Verdict {
            kind: verdict.by.kind.clone(),
            name: verdict.by.name.clone(),
            proven: verdict.proven,
            cause: (&verdict.cause).into(),
            guests: verdict.guests.iter().copied().map(guest).collect(),
            hosts: verdict.hosts.iter().copied().map(host).collect(),
        });
        let result = match verdict::of_plan(view, wishes) {
            Exit::Claimed => "ClaimedByOther",
            Exit::Impossible => "SomethingImpossible",
            Exit::ToDo => "SomethingToDo",
            _ => "NothingToDo",
        };
        let silent = view.hosts.iter().filter_map(|(name, status)| {
            let condition = find(&status.conditions, "Reachable")
                .filter(|condition| condition.status != "True")?;
            Some(Unreachable {
                host: name.to_string(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
            })
        });
        let running = view
            .migrations
            .iter()
            .filter(|(_, migration)| verdict::is_moving(migration));
        Self {
            api_version: API_VERSION,
            kind: "Plan",
            result,
            digest: question.digest(),
            moves: moves.collect(),
            under_way: running
                .map(|(name, migration)| UnderWay {
                    name: name.to_string(),
                    guest: migration
                        .status
                        .guest
                        .clone()
                        .unwrap_or_else(|| migration.spec.guest.clone()),
                    phase: migration.status.phase.as_str(),
                    progress: migration.status.progress,
                })
                .collect(),
            impossible: impossible.collect(),
            verdicts: verdicts.collect(),
            unfinished: view.plan.unfinished.as_ref().map(Reasoned::from),
            claimed: verdict::claims(view, wishes)
                .iter()
                .map(Reasoned::from)
                .collect(),
            satisfied: satisfied(view),
            shutdowns: view.shutdowns.values().map(Reasoned::from).collect(),
            placements: placements.collect(),
            balances: balances.collect(),
            undecided: undecided(view),
            unreachable: silent.collect(),
            hosts: planned_standings(&question, &view.plan)
                .iter()
                .map(HostLoad::from)
                .collect(),
            totals: Totals {
                moves: view.plan.moves.len(),
                waves: waves.last().copied().unwrap_or(0),
                bytes: view.plan.bytes.0,
                makespan_seconds: view.plan.makespan.map(|time| time.as_secs_f64()),
            },
        }
    }
}

/// Every host before and after a plan.
#[must_use]
pub fn planned_standings(question: &Question, plan: &evenkeel_planner::Plan) -> Vec<Standing> {
    let moves = plan.moves.iter();
    let ways = moves.map(|planned| (planned.guest, planned.source, planned.target));
    standings(question, &ways.collect::<Vec<_>>())
}

/// Policies that wait until they can tell, and what for.
fn undecided(view: &View) -> Vec<Reasoned> {
    let waits = view.policies.iter().filter_map(|(name, policy)| {
        let condition = find(&policy.conditions, "Balanced")?;
        let reason = Reason::parse(&condition.reason)?;
        (condition.status == "Unknown").then(|| {
            let message = format!("RebalancePolicy {name}: {}", condition.message);
            Reasoned::from(&Cause::new(reason, message).hint(""))
        })
    });
    waits.collect()
}

/// What is as it should be: by the planner's word, and moves whose guest is where it should go.
fn satisfied(view: &View) -> Vec<Satisfied> {
    let planned = view.plan.satisfied.iter().map(|wish| Satisfied {
        kind: wish.by.kind.clone(),
        name: wish.by.name.clone(),
        guest: wish
            .guest
            .and_then(|id| view.fleet.guests.get(id.at()))
            .map(|guest| guest.name.to_string()),
        reason: wish.cause.reason,
        message: wish.cause.message.clone(),
    });
    let mut all: Vec<Satisfied> = planned.collect();
    for (name, migration) in &view.migrations {
        let done = migration.declared && migration.status.phase == MigrationPhase::Succeeded;
        // In a cluster, moves that are over are history.
        let there_already = Reason::MigrateToSelf.as_str();
        let condition = find(&migration.status.conditions, "Succeeded")
            .filter(|condition| done && condition.reason == there_already);
        let known = all
            .iter()
            .any(|other| other.kind == "GuestMigration" && other.name == **name);
        all.extend(condition.filter(|_| !known).map(|condition| {
            let cause = verdict::cause_of(condition);
            Satisfied {
                kind: "GuestMigration".to_owned(),
                name: name.to_string(),
                guest: migration.status.guest.clone(),
                reason: cause.reason,
                message: cause.message,
            }
        }));
    }
    for (name, drain) in &view.drains {
        let condition =
            find(&drain.conditions, "Drained").filter(|condition| condition.status == "True");
        let known = all
            .iter()
            .any(|other| other.kind == "HostDrain" && other.name == **name);
        all.extend(condition.filter(|_| !known).map(|condition| Satisfied {
            kind: "HostDrain".to_owned(),
            name: name.to_string(),
            guest: None,
            reason: Reason::Completed,
            message: condition.message.clone(),
        }));
    }
    for (name, placement) in &view.placements {
        let condition = find(&placement.conditions, "Satisfied");
        let satisfied = condition.filter(|condition| condition.status == "True");
        all.extend(satisfied.map(|condition| Satisfied {
            kind: "GuestPlacement".to_owned(),
            name: name.to_string(),
            guest: None,
            reason: Reason::Completed,
            message: condition.message.clone(),
        }));
    }
    all
}

/// As a picture.
#[must_use]
pub fn draw(view: &View, plan: &Plan) -> Picture {
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let bars = plan.moves.iter().map(|planned| Bar {
        guest: planned.guest.clone(),
        source: planned.source.clone(),
        target: planned.target.clone(),
        start: time(planned.start_seconds),
        end: planned.end_seconds.map(time),
        memory: planned
            .disks_seconds
            .map(|disks| time(planned.start_seconds + disks)),
        sort: Sort::Planned,
    });
    Picture {
        title: "Evenkeel plan".to_owned(),
        summary: format!(
            "{}. {} can't be done. Input {}",
            plan.totals(),
            plan.impossible.len(),
            plan.digest
        ),
        hosts: planned_standings(&view.question(), &view.plan),
        bars: bars.collect(),
        faults: Vec::new(),
    }
}

/// Runs the command.
///
/// # Errors
/// Where manifests are wrong, or the hosts or the cluster can't be asked at all.
pub async fn run(common: &Common, options: &arguments::Plan) -> anyhow::Result<Exit> {
    let scene = Scene::get(common, "plan").await?;
    verdict::notes(&scene.view)
        .iter()
        .for_each(|note| output::tell(output::harmless(note)));
    let plan = Plan::of(&scene.view, &scene.wishes, |kind, name| {
        scene.place(kind, name)
    });
    let picture = options.picture.as_deref();
    if let Some(file) = picture {
        draw(&scene.view, &plan).write(file)?;
    }
    match common.output {
        _ if picture.is_some_and(Picture::is_output) => {}
        Some(Format::Wide) => output::print(plan.text(true))?,
        format => print(&plan, format)?,
    }
    Ok(verdict::of_plan(&scene.view, &scene.wishes))
}

/// Reads the manifests that the command line names.
///
/// # Errors
/// Where they are wrong or can't be read.
pub fn load(common: &Common) -> anyhow::Result<Manifests> {
    let manifests = Manifests::load(&common.files)?;
    if common.verbose > 0 {
        manifests.notes.iter().for_each(output::tell);
    }
    Ok(manifests)
}

/// Prints something that is a document for programs and a text for people.
///
/// # Errors
/// Where standard output can't be written.
pub fn print<T: Serialize + fmt::Display>(
    result: &T,
    format: Option<Format>,
) -> anyhow::Result<()> {
    match format {
        Some(Format::Json) => {
            output::print(format_args!("{}\n", serde_json::to_string_pretty(result)?))
        }
        Some(Format::Yaml) => output::print(serde_saphyr::to_string(result)?),
        Some(Format::Wide) | None => output::print(result),
    }
}
