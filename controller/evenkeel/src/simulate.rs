//! `evenkeel simulate`: a maintenance night rehearsed. The engine that would do it does it, on a simulated fleet and on
//! virtual time, with faults if asked for: how it goes is told beside what the plan predicted.

mod run;
mod text;
mod trouble;
mod world;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use evenkeel_crds::{quantity::Bytes, reason::Reason, shared::API_VERSION};
use evenkeel_engine::Question;
use evenkeel_planner as planner;
use serde::Serialize;

use crate::{
    arguments::{Common, Simulate},
    exit::Exit,
    output,
    picture::{Bar, Picture, Sort},
    plan::{self, By},
    scene::Scene,
    verdict,
};
use run::{Run, Setting, Story};
use trouble::Trouble;
use world::Assumed;

/// Faults come within this, where it is not known how long the plan takes.
const UNKNOWN: Duration = Duration::from_secs(600);

/// How it went, as it is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Simulation {
    api_version: &'static str,
    kind: &'static str,
    /// `Converged`, `SomethingImpossible`, `ClaimedByOther` or `DeadlineExceeded`.
    result: &'static str,
    /// Of the plan's input, what is assumed included.
    digest: String,
    seed: u64,
    /// Hosts whose links' bandwidth is assumed, and with how much.
    assumed: Assumptions,
    /// Whether the engine's first plan on the simulated fleet sends the same guests the same ways.
    as_planned: bool,
    predicted: Totals,
    simulated: Totals,
    /// In the order in which they began; those that never did come last.
    moves: Vec<Moved>,
    faults: Vec<Fault>,
    impossible: Vec<Impossible>,
    /// What must never happen: a defect, of the engine or of the simulation.
    violations: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Assumptions {
    bandwidth: u64,
    hosts: Vec<String>,
    dirty_rate: u64,
    guests: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    moves: usize,
    /// Attempts that failed.
    failures: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    makespan_seconds: Option<f64>,
}

/// A guest that was to move, or did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    guest: String,
    source: String,
    requested_by: By,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<Attempt>,
    attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    target: String,
    start_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_seconds: Option<f64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fault {
    at_seconds: f64,
    lasts_seconds: f64,
    #[serde(flatten)]
    what: trouble::What,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Impossible {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<String>,
    reason: Reason,
    message: String,
}

/// Everything of one rehearsal.
struct Rehearsal {
    question: Question,
    plan: planner::Plan,
    assumptions: Assumptions,
    story: Story,
    troubles: Vec<Trouble>,
    seed: u64,
}

impl Rehearsal {
    fn of(scene: Scene, simulate: &Simulate) -> anyhow::Result<Self> {
        let assumed = Assumed {
            bandwidth: simulate.bandwidth,
            dirty_rate: simulate.dirty_rate,
        };
        let mut question = scene.view.question();
        let unknown = question.fleet.hosts.iter();
        let unknown = unknown.filter(|host| host.bandwidth.is_none());
        let unmeasured = question.fleet.guests.iter();
        let unmeasured = unmeasured.filter(|guest| guest.dirty_rate.is_none());
        let assumptions = Assumptions {
            bandwidth: assumed.bandwidth.0,
            hosts: unknown.map(|host| host.name.to_string()).collect(),
            dirty_rate: assumed.dirty_rate.0,
            guests: unmeasured.count(),
        };
        world::assume(&mut question, assumed);
        let plan = question.plan();
        let within = plan.makespan.filter(|time| !time.is_zero());
        let troubles = trouble::draw(
            simulate.faults,
            within.unwrap_or(UNKNOWN),
            &world::touched(&question, &plan),
            simulate.seed,
        );
        let story = run::run(Setting {
            question: question.clone(),
            view: scene.view,
            wishes: scene.wishes,
            time: scene.time,
            troubles: troubles.clone(),
            seed: simulate.seed,
        })?;
        Ok(Self {
            question,
            plan,
            assumptions,
            story,
            troubles,
            seed: simulate.seed,
        })
    }

    fn document(&self) -> Simulation {
        let story = &self.story;
        let failures = story.runs.iter().filter(|run| run.failure.is_some());
        let obstacles = verdict::obstacles(&story.last, &story.wishes).into_iter();
        Simulation {
            api_version: API_VERSION,
            kind: "Simulation",
            result: match story.exit {
                Exit::Done => "Converged",
                Exit::Claimed => "ClaimedByOther",
                Exit::Deadline => "DeadlineExceeded",
                _ => "SomethingImpossible",
            },
            digest: self.question.digest(),
            seed: self.seed,
            assumed: self.assumptions.clone(),
            as_planned: ways(&story.first.fleet, &story.first.plan)
                == ways(&self.question.fleet, &self.plan),
            predicted: Totals {
                moves: self.plan.moves.len(),
                failures: 0,
                makespan_seconds: self.plan.makespan.map(|time| time.as_secs_f64()),
            },
            simulated: Totals {
                moves: story.runs.iter().filter(|run| run.arrived()).count(),
                failures: failures.count(),
                makespan_seconds: Some(story.time.as_secs_f64()),
            },
            moves: self.moves(),
            faults: self
                .troubles
                .iter()
                .map(|trouble| Fault {
                    at_seconds: trouble.at.as_secs_f64(),
                    lasts_seconds: trouble.lasts.as_secs_f64(),
                    what: trouble.what.clone(),
                    message: trouble.sentence(),
                })
                .collect(),
            impossible: obstacles
                .map(|obstacle| Impossible {
                    kind: obstacle.kind,
                    name: obstacle.name,
                    guest: obstacle.guest,
                    reason: obstacle.cause.reason,
                    message: obstacle.cause.message,
                })
                .collect(),
            violations: story.violations.clone(),
        }
    }

    /// As a picture.
    fn draw(&self, document: &Simulation) -> Picture {
        let fleet = &self.question.fleet;
        let bars = self.story.runs.iter().map(|run| Bar {
            guest: run.guest.clone(),
            source: run.source.clone(),
            target: run.target.clone(),
            start: run.start,
            end: run.end,
            memory: None,
            sort: match &run.failure {
                Some((reason, _)) => Sort::Failed(reason.clone()),
                None => Sort::Done,
            },
        });
        let host = |name: &str| {
            let at = fleet.hosts.iter().position(|host| &*host.name == name)?;
            Some(planner::HostId(u32::try_from(at).ok()?))
        };
        let arrived = self.story.runs.iter().filter(|run| run.arrived());
        let ways = arrived.filter_map(|run| {
            let at = fleet
                .guests
                .iter()
                .position(|guest| &*guest.name == run.guest.as_str())?;
            let guest = planner::GuestId(u32::try_from(at).ok()?);
            Some((guest, host(&run.source)?, host(&run.target)?))
        });
        let ways: Vec<_> = ways.collect();
        let faults = self.troubles.iter();
        Picture {
            title: "Evenkeel simulation".to_owned(),
            summary: format!(
                "{}. {} can't be done. Input {}",
                document.totals(),
                document.impossible.len(),
                document.digest
            ),
            hosts: plan::standings(&self.question, &ways),
            bars: bars.collect(),
            faults: faults
                .map(|trouble| (trouble.at, trouble.at + trouble.lasts, trouble.sentence()))
                .collect(),
        }
    }

    /// Each guest's prediction and attempts.
    fn moves(&self) -> Vec<Moved> {
        let fleet = &self.question.fleet;
        let host = |id: planner::HostId| {
            let host = fleet.hosts.get(id.at());
            host.map_or(String::new(), |host| host.name.to_string())
        };
        let mut predicted: BTreeMap<String, &planner::Move> = self
            .plan
            .moves
            .iter()
            .filter_map(|planned| {
                let guest = fleet.guests.get(planned.guest.at())?;
                Some((guest.name.to_string(), planned))
            })
            .collect();
        let prediction = |planned: &planner::Move| Attempt {
            target: host(planned.target),
            start_seconds: planned.start.as_secs_f64(),
            end_seconds: planned
                .duration
                .map(|time| (planned.start + time).as_secs_f64()),
            reason: None,
            message: None,
        };
        let mut all: Vec<Moved> = Vec::new();
        for run in &self.story.runs {
            let attempt = Attempt {
                target: run.target.clone(),
                start_seconds: run.start.as_secs_f64(),
                end_seconds: run.end.map(|end| end.as_secs_f64()),
                reason: run.failure.as_ref().map(|(reason, _)| reason.clone()),
                message: run.failure.as_ref().map(|(_, message)| message.clone()),
            };
            let known = all
                .iter_mut()
                .find(|moved| moved.guest == run.guest && moved.source == run.source);
            if let Some(moved) = known {
                moved.attempts.push(attempt);
                continue;
            }
            all.push(Moved {
                guest: run.guest.clone(),
                source: run.source.clone(),
                requested_by: (&run.by).into(),
                predicted: predicted.remove(&run.guest).map(prediction),
                attempts: vec![attempt],
            });
        }
        let never = predicted.into_iter().map(|(guest, planned)| Moved {
            guest,
            source: host(planned.source),
            requested_by: (&planned.by).into(),
            predicted: Some(prediction(planned)),
            attempts: Vec::new(),
        });
        all.extend(never);
        all
    }
}

/// Which guests go where.
fn ways<'a>(
    fleet: &'a planner::Fleet,
    plan: &planner::Plan,
) -> BTreeMap<&'a str, (Option<&'a str>, Option<&'a str>)> {
    let host = |id: planner::HostId| fleet.hosts.get(id.at()).map(|host| host.name.as_str());
    let moves = plan.moves.iter().filter_map(|planned| {
        let guest = fleet.guests.get(planned.guest.at())?;
        let ends = (host(planned.source), host(planned.target));
        Some((guest.uuid.as_str(), ends))
    });
    moves.collect()
}

impl Run {
    /// Whether its guest came to its target.
    fn arrived(&self) -> bool {
        self.end.is_some() && self.failure.is_none()
    }
}

/// Runs the command.
///
/// # Errors
/// Where there is nothing to simulate, or something happened that must never happen.
pub async fn run(common: &Common, simulate: &Simulate) -> anyhow::Result<Exit> {
    let scene = Scene::get(common, "simulate").await?;
    let simulate = simulate.clone();
    let picture = simulate.picture.clone();
    let rehearsal = tokio::task::spawn_blocking(move || Rehearsal::of(scene, &simulate))
        .await
        .context("the simulation ended early")??;
    let document = rehearsal.document();
    let file = picture.as_deref();
    if let Some(file) = file {
        rehearsal.draw(&document).write(file)?;
    }
    if !file.is_some_and(Picture::is_output) {
        plan::print(&document, common.output)?;
    }
    if document.violations.is_empty() {
        Ok(rehearsal.story.exit)
    } else {
        for violation in &document.violations {
            output::complain(format_args!("this must never happen: {violation}"));
        }
        Ok(Exit::Error)
    }
}

/// What `--bandwidth` is where it is not said: that of a gigabit link.
pub const BANDWIDTH: &str = "125M";

/// Reads a rate.
///
/// # Errors
/// Where it is none.
pub fn rate(text: &str) -> Result<Bytes, String> {
    text.parse::<Bytes>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
