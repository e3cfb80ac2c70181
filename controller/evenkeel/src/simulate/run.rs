//! The engine at work on a simulated fleet, on virtual time, and what it did.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use evenkeel_crds::{
    MigrationPhase,
    names::MigrationName,
    shared::{RequestedBy, Timestamp},
};
use evenkeel_engine::{Clock, Engine, MigrationView, Options, Question, View, Wishes};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use super::{trouble::Trouble, world};
use crate::{
    exit::Exit,
    verdict::{self, Stage},
};

/// What lasts longer does not end.
const LONGEST: Duration = Duration::from_secs(60 * 86_400);
/// How often time is looked at while nothing happens.
const STEP: Duration = Duration::from_secs(1);

/// What a simulation is made of.
#[derive(Debug)]
pub struct Setting {
    /// The planner's input, what is assumed included.
    pub question: Question,
    /// What was seen.
    pub view: Arc<View>,
    /// What is declared.
    pub wishes: Wishes,
    /// When it begins.
    pub time: Timestamp,
    /// What goes wrong.
    pub troubles: Vec<Trouble>,
    /// Decides what else is left to chance.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Story {
    /// What the engine planned before anything began.
    pub first: Arc<View>,
    /// What it showed in the end.
    pub last: Arc<View>,
    /// The wishes as it had them.
    pub wishes: Wishes,
    /// How it ended.
    pub exit: Exit,
    /// Runs of moves in the order in which they began.
    pub runs: Vec<Run>,
    /// When the last run ended.
    pub time: Duration,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

/// One attempt of a move.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The move.
    pub name: MigrationName,
    /// Its guest.
    pub guest: String,
    /// From.
    pub source: String,
    /// To.
    pub target: String,
    /// For whom.
    pub by: RequestedBy,
    /// From the start.
    pub start: Duration,
    /// From the start; absent: still under way.
    pub end: Option<Duration>,
    /// Why it failed; absent: it did not.
    pub failure: Option<(String, String)>,
}

/// Runs it, in a time of its own.
///
/// # Errors
/// Where it can't be run at all.
pub fn run(setting: Setting) -> anyhow::Result<Story> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("can't start a simulation")?;
    runtime.block_on(play(setting))
}

async fn play(setting: Setting) -> anyhow::Result<Story> {
    let Setting {
        question,
        view,
        wishes,
        time,
        troubles,
        seed,
    } = setting;
    let fleet = world::fleet(&question, &view, seed);
    let wishes = world::wishes(&question, &wishes);
    let options = Options {
        fleet: "simulation".to_owned(),
        holder: world::CLIENT.to_owned(),
        process: None,
        epoch: 0,
        act: true,
        held: true,
        from_files: true,
    };
    // The sender lives as long as the engine: an end of wishes is another story.
    let (_declared, receiver) = watch::channel(Arc::new(wishes.clone()));
    let (happenings, _unheard) = mpsc::unbounded_channel();
    let engine = Engine::start_with(
        Clock::simulated(time, seed),
        options,
        Arc::new(fleet.client(world::CLIENT)),
        receiver,
        happenings,
    );
    let mut views = engine.views();
    let settled = timeout(
        Duration::from_secs(300),
        views.wait_for(|view| view.settled),
    )
    .await;
    let Ok(Ok(first)) = settled.map(|view| view.map(|view| view.clone())) else {
        bail!("the simulated fleet did not settle");
    };
    let began = Instant::now();
    engine.go();
    let mut recorder = Recorder::default();
    let mut pending: Vec<(Duration, bool, &Trouble)> = troubles
        .iter()
        .flat_map(|one| [(one.at, true, one), (one.at + one.lasts, false, one)])
        .collect();
    pending.sort_by_key(|(at, begins, _)| (*at, *begins));
    let mut pending = pending.into_iter().peekable();
    let mut still: Option<(Exit, Instant)> = None;
    let number = first.number;
    let exit = loop {
        let now = began.elapsed();
        while let Some((_, begins, trouble)) = pending.next_if(|(at, ..)| *at <= now) {
            if begins {
                trouble.begin(&fleet);
            } else {
                trouble.end(&fleet);
            }
        }
        let view = views.borrow_and_update().clone();
        recorder.take(&view, now);
        // What is shown before the engine was told to go tells nothing.
        let stage = if view.number == number {
            Stage::Working
        } else {
            verdict::of_apply(&view, &wishes, false)
        };
        match stage {
            Stage::Working => still = None,
            Stage::Converged if pending.peek().is_none() => break Exit::Done,
            // What breaks after all is done is mended all the same.
            Stage::Converged => still = None,
            Stage::Stuck(exit, patience) => {
                let since = match still {
                    Some((before, since)) if before == exit => since,
                    _ => Instant::now(),
                };
                still = Some((exit, since));
                if pending.peek().is_none() && since.elapsed() >= patience {
                    break exit;
                }
            }
        }
        if now > LONGEST {
            break Exit::Deadline;
        }
        let next = pending
            .peek()
            .map_or(STEP, |(at, ..)| at.saturating_sub(now));
        let _ = timeout(next.min(STEP), views.changed()).await;
    };
    let last = views.borrow().clone();
    let mut violations = fleet.violations();
    for guest in &question.fleet.guests {
        let Ok(uuid) = guest.uuid.parse() else {
            continue;
        };
        if fleet.ever_ran_twice(uuid) {
            violations.push(format!("{} ran on two hosts at once", guest.name));
        }
        if guest.active && fleet.executing(uuid).is_empty() {
            violations.push(format!("{} runs nowhere", guest.name));
        }
        if guest.active && !fleet.is_whole(uuid) {
            violations.push(format!("the data of {} is not whole", guest.name));
        }
    }
    if exit != Exit::Deadline {
        engine.finish().await;
    }
    let ends = recorder.runs.iter().filter_map(|run| run.end);
    Ok(Story {
        first,
        last,
        wishes,
        exit,
        time: ends.max().unwrap_or_default(),
        runs: recorder.runs,
        violations,
    })
}

/// Sees from the views what begins and what ends.
#[derive(Debug, Default)]
struct Recorder {
    runs: Vec<Run>,
    /// The run that is open, and the attempts that had ended, by move.
    open: BTreeMap<MigrationName, usize>,
}

impl Recorder {
    fn take(&mut self, view: &View, now: Duration) {
        for (name, migration) in &view.migrations {
            let moving = verdict::is_moving(migration);
            match (self.open.get(name).copied(), moving) {
                (None, true) => self.begin(name, migration, now),
                (Some(index), false) => {
                    self.end(index, migration, now);
                    self.open.remove(name);
                }
                // It failed and began again between two views.
                (Some(index), true)
                    if migration.status.target.as_deref()
                        != Some(self.runs[index].target.as_str()) =>
                {
                    self.end(index, migration, now);
                    self.begin(name, migration, now);
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self, name: &MigrationName, migration: &MigrationView, now: Duration) {
        let status = &migration.status;
        self.open.insert(name.clone(), self.runs.len());
        self.runs.push(Run {
            name: name.clone(),
            guest: status
                .guest
                .clone()
                .unwrap_or_else(|| migration.spec.guest.clone()),
            source: status.source.clone().unwrap_or_default(),
            target: status.target.clone().unwrap_or_default(),
            by: migration.requested_by.clone(),
            start: now,
            end: None,
            failure: None,
        });
    }

    fn end(&mut self, index: usize, migration: &MigrationView, now: Duration) {
        let status = &migration.status;
        let Some(run) = self.runs.get_mut(index) else {
            return;
        };
        run.end = Some(now);
        if status.phase != MigrationPhase::Succeeded {
            let last = status.attempts.last();
            run.failure = last.map(|last| (last.reason.clone(), last.message.clone()));
            run.failure
                .get_or_insert_with(|| ("Aborted".to_owned(), String::new()));
        }
    }
}
