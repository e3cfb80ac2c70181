//! `evenkeel plan`: what would be done, in which order, how long it takes, and what can't be done and why.

use std::{fmt, time::Duration};

use evenkeel_crds::{
    MigrationPhase,
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::{API_VERSION, HostCount, RequestedBy, find},
};
use evenkeel_engine::{View, Wishes};
use serde::Serialize;

use crate::{
    arguments::{Common, Format},
    cluster,
    exit::Exit,
    manifests::{Manifests, Place},
    output,
    session::{Manner, Session},
    table::{Table, bytes, human},
    verdict,
};

/// What `plan` found, as it is printed. Names, never ids.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    api_version: &'static str,
    kind: &'static str,
    /// `NothingToDo`, `SomethingToDo`, `SomethingImpossible` or `ClaimedByOther`.
    result: &'static str,
    /// In the order in which they start.
    pub moves: Vec<Move>,
    /// Moves that others have begun.
    under_way: Vec<UnderWay>,
    impossible: Vec<Impossible>,
    claimed: Vec<Reasoned>,
    satisfied: Vec<Satisfied>,
    /// Hosts that could not be looked at.
    unreachable: Vec<Unreachable>,
    totals: Totals,
}

/// A planned move.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    order: usize,
    guest: String,
    source: String,
    target: String,
    bytes: u64,
    start_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<Reasoned>,
    pools: std::collections::BTreeMap<String, String>,
    requested_by: By,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct By {
    kind: String,
    name: String,
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

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    moves: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    makespan_seconds: Option<f64>,
}

impl Plan {
    /// From a view. `place` tells where an object is written.
    #[must_use]
    pub fn of<'a>(
        view: &View,
        wishes: &Wishes,
        place: impl Fn(&str, &str) -> Option<&'a Place>,
    ) -> Self {
        let host = |id: evenkeel_planner::HostId| {
            view.fleet
                .hosts
                .get(id.at())
                .map_or(String::new(), |host| host.name.to_string())
        };
        let guest = |id: evenkeel_planner::GuestId| {
            view.fleet
                .guests
                .get(id.at())
                .map_or(String::new(), |guest| guest.name.to_string())
        };
        let moves = view
            .plan
            .moves
            .iter()
            .enumerate()
            .map(|(index, planned)| Move {
                order: index + 1,
                guest: guest(planned.guest),
                source: host(planned.source),
                target: host(planned.target),
                bytes: planned.bytes.0,
                start_seconds: planned.start.as_secs_f64(),
                duration_seconds: planned.duration.map(|time| time.as_secs_f64()),
                waits: planned.waits.as_ref().map(Reasoned::from),
                pools: planned.pools.clone(),
                requested_by: (&planned.by).into(),
            });
        let impossible = verdict::obstacles(view, wishes)
            .into_iter()
            .map(|obstacle| Impossible {
                place: place(&obstacle.kind, &obstacle.name).map(Place::to_string),
                cause: (&obstacle.cause).into(),
                kind: obstacle.kind,
                name: obstacle.name,
                guest: obstacle.guest,
                hosts: obstacle.hosts,
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
            claimed: verdict::claims(view, wishes)
                .iter()
                .map(Reasoned::from)
                .collect(),
            satisfied: satisfied(view),
            unreachable: silent.collect(),
            totals: Totals {
                moves: view.plan.moves.len(),
                bytes: view.plan.bytes.0,
                makespan_seconds: view.plan.makespan.map(|time| time.as_secs_f64()),
            },
        }
    }
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
    all
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for host in &self.unreachable {
            writeln!(
                f,
                "Host {} was not seen: {}: {}",
                host.host,
                host.reason,
                output::harmless(&host.message)
            )?;
        }
        for claim in &self.claimed {
            writeln!(f, "{}: {}", claim.reason, output::harmless(&claim.message))?;
            hint(f, &claim.hint)?;
        }
        if !self.impossible.is_empty() {
            writeln!(f, "Can't be done:")?;
        }
        for impossible in &self.impossible {
            write_impossible(f, impossible)?;
        }
        if !self.satisfied.is_empty() {
            writeln!(f, "As it should be:")?;
            for wish in &self.satisfied {
                writeln!(
                    f,
                    "  {} {}: {}: {}",
                    wish.kind,
                    wish.name,
                    wish.reason,
                    output::harmless(&wish.message)
                )?;
            }
        }
        for running in &self.under_way {
            let UnderWay {
                name,
                guest,
                phase,
                progress,
            } = running;
            writeln!(f, "Under way: {name}: {guest} is {phase}, {progress} %")?;
        }
        if self.moves.is_empty() {
            return match (self.result, self.under_way.is_empty()) {
                ("NothingToDo", _) => writeln!(f, "Nothing to do."),
                (_, true) => writeln!(f, "Nothing can be moved now."),
                (_, false) => Ok(()),
            };
        }
        let mut table = Table::new([
            "ORDER", "GUEST", "FROM", "TO", "BYTES", "START", "TIME", "FOR", "WAITS",
        ]);
        for planned in &self.moves {
            let start = Duration::from_secs_f64(planned.start_seconds.max(0.0));
            let time = planned
                .duration_seconds
                .map(|time| human(Duration::from_secs_f64(time.max(0.0))));
            let waits = planned.waits.as_ref().map(|waits| waits.reason.to_string());
            table.row([
                planned.order.to_string(),
                planned.guest.clone(),
                planned.source.clone(),
                planned.target.clone(),
                bytes(Bytes(planned.bytes)),
                if start.is_zero() {
                    "now".to_owned()
                } else {
                    format!("+{}", human(start))
                },
                time.unwrap_or_else(|| "?".to_owned()),
                planned.requested_by.name.clone(),
                waits.unwrap_or_default(),
            ]);
        }
        write!(f, "{}", table.dense())?;
        let moves = self.totals.moves;
        let plural = if moves == 1 { "" } else { "s" };
        write!(
            f,
            "{moves} move{plural}, {}",
            Bytes(self.totals.bytes).human()
        )?;
        match self.totals.makespan_seconds {
            Some(time) => writeln!(
                f,
                ", about {}",
                human(Duration::from_secs_f64(time.max(0.0)))
            ),
            None => writeln!(f, "; how long is not known"),
        }
    }
}

fn hint(f: &mut fmt::Formatter<'_>, hint: &str) -> fmt::Result {
    if hint.is_empty() {
        Ok(())
    } else {
        writeln!(f, "    hint: {}", output::harmless(hint))
    }
}

fn write_impossible(f: &mut fmt::Formatter<'_>, impossible: &Impossible) -> fmt::Result {
    let Impossible {
        kind,
        name,
        guest,
        cause,
        hosts,
        place,
    } = impossible;
    let place = place
        .as_ref()
        .map_or(String::new(), |place| format!("{place}: "));
    let guest = guest
        .as_ref()
        .map_or(String::new(), |guest| format!("{guest}: "));
    writeln!(
        f,
        "  {place}{kind} {name}: {guest}{}: {}",
        cause.reason,
        output::harmless(&cause.message)
    )?;
    for count in hosts {
        for example in &count.examples {
            writeln!(
                f,
                "      {}: {}: {}",
                example.host,
                count.reason,
                output::harmless(&example.message)
            )?;
        }
        let more = count.count - i64::try_from(count.examples.len()).unwrap_or(0);
        if more > 0 && !count.examples.is_empty() {
            writeln!(f, "      and {more} more: {}", count.reason)?;
        }
    }
    hint(f, &cause.hint)
}

/// Runs the command.
///
/// # Errors
/// Where manifests are wrong, or the hosts or the cluster can't be asked at all.
pub async fn run(common: &Common) -> anyhow::Result<Exit> {
    let (manifests, manner) = if common.files.is_empty() {
        let client = cluster::connect(common).await?;
        let wishes = evenkeel_kubernetes::client::load_wishes(&client).await?;
        (
            Manifests {
                wishes,
                ..Manifests::default()
            },
            Manner::LookForCluster,
        )
    } else {
        (load(common)?, Manner::Look)
    };
    let mut session = Session::start(
        manifests.wishes.clone(),
        "plan",
        manner,
        common.credentials.clone(),
    )?;
    let view = session.settled().await;
    session.leave().await;
    let view = view?;
    let plan = Plan::of(&view, &manifests.wishes, |kind, name| {
        manifests.place(kind, name)
    });
    print(&plan, common.output)?;
    Ok(verdict::of_plan(&view, &manifests.wishes))
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
