//! Moves as they go: bars on a terminal, else one line for each change.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{
    GuestMigration, MigrationPhase,
    names::MigrationName,
    reason::Reason,
    shared::{RequestedBy, find},
};
use evenkeel_engine::{Happening, MigrationView, View};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    output::{harmless, tell},
    verdict::is_moving,
};

/// Shows moves.
#[derive(Debug)]
pub struct Progress {
    bars: Option<Bars>,
    /// What was last seen and said of each move.
    said: BTreeMap<MigrationName, Said>,
}

#[derive(Debug)]
struct Said {
    phase: MigrationPhase,
    /// Why it could not go on in this phase, or until it copies: said once, however often it is tried again.
    obstacle: Option<String>,
    /// Why its copy does not converge.
    course: Option<String>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    moves: BTreeMap<MigrationName, ProgressBar>,
}

impl Progress {
    /// With bars if standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        let bars = io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let total = all.add(ProgressBar::new(0).with_style(style(
                "{prefix:<20} [{bar:24}] {pos}/{len} moves  {wide_msg}",
            )));
            total.set_prefix("total");
            Bars {
                all,
                total,
                moves: BTreeMap::new(),
            }
        });
        Self {
            bars,
            said: BTreeMap::new(),
        }
    }

    /// A line for people, above the bars.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.all.println(harmless(text))),
            None => tell(harmless(text)),
        }
    }

    /// Shows what is.
    pub fn show(&mut self, view: &View) {
        for (name, migration) in &view.migrations {
            let phase = migration.status.phase;
            let last = self.said.get(name);
            let known = last.and_then(|said| said.obstacle.clone());
            let obstacle = match phase {
                MigrationPhase::Pending | MigrationPhase::Preparing => {
                    in_the_way(migration).or_else(|| known.clone())
                }
                phase if phase.is_final() => None,
                _ => in_the_way(migration).or_else(|| {
                    let same = last.is_some_and(|said| said.phase == phase);
                    known.clone().filter(|_| same)
                }),
            };
            // What was so before we came is no news.
            let news = match (last, phase) {
                (None, phase) => phase != MigrationPhase::Pending && !phase.is_final(),
                (Some(_), MigrationPhase::Pending) => obstacle != known,
                (Some(said), MigrationPhase::Preparing) => {
                    known.is_none() && said.phase != phase
                        || (obstacle.is_some() && obstacle != known)
                }
                (Some(said), phase) => {
                    said.phase != phase || (obstacle.is_some() && obstacle != known)
                }
            };
            if news && (self.bars.is_none() || phase.is_final() || obstacle.is_some()) {
                self.say(&line(name, migration));
            }
            let course = find(&migration.status.conditions, "Converging")
                .filter(|condition| {
                    condition.status == "False" || condition.reason == Reason::GuestPaused.as_str()
                })
                .map(|condition| condition.message.clone());
            if let Some(course) = &course
                && self.said.get(name).map(|said| &said.course) != Some(&Some(course.clone()))
            {
                self.say(&format!(
                    "{} {}: {course} ({name})",
                    now(),
                    guest(migration)
                ));
            }
            let said = Said {
                phase,
                obstacle,
                course,
            };
            self.said.insert(name.clone(), said);
        }
        self.say_vanished(view);
        let Some(bars) = &mut self.bars else { return };
        let ended = view
            .migrations
            .values()
            .filter(|migration| migration.status.phase.is_final())
            .count();
        let open = view.migrations.len() - ended
            + view
                .plan
                .moves
                .iter()
                .filter(|planned| planned.by.kind != "GuestMigration")
                .count();
        bars.total.set_length((ended + open) as u64);
        bars.total.set_position(ended as u64);
        for (name, migration) in view
            .migrations
            .iter()
            .filter(|(_, migration)| is_moving(migration))
        {
            let bar = bars.moves.entry(name.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(100)
                    .with_style(style("{prefix:<20} [{bar:24}] {pos:>3} %  {wide_msg}"));
                bars.all.insert_before(&bars.total, bar)
            });
            bar.set_prefix(guest(migration));
            bar.set_position(u64::try_from(migration.status.progress).unwrap_or(0));
            bar.set_message(detail(migration));
        }
        bars.moves.retain(|name, bar| {
            let running = view
                .migrations
                .get(name)
                .is_some_and(|migration| is_moving(migration));
            if !running {
                bar.finish_and_clear();
            }
            running
        });
    }

    /// Moves that an earlier run had begun are shown only while they are finished.
    fn say_vanished(&mut self, view: &View) {
        let open = |phase: MigrationPhase| phase != MigrationPhase::Pending && !phase.is_final();
        let gone: Vec<MigrationName> = self
            .said
            .iter()
            .filter(|(name, said)| open(said.phase) && !view.migrations.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.said.remove(&name);
            self.say(&format!(
                "{} {name}, begun by an earlier run, has ended",
                now()
            ));
        }
    }

    /// Shows one move as an object of a cluster tells of it.
    pub fn show_one(&mut self, object: &GuestMigration) {
        let shown = MigrationView {
            declared: true,
            spec: object.spec.clone(),
            requested_by: RequestedBy::default(),
            status: object.status.clone().unwrap_or_default(),
        };
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let migrations = BTreeMap::from([(name.into(), Arc::new(shown))]);
        self.show(&View {
            migrations,
            ..View::default()
        });
    }

    /// Says what happened, where it is worth a look and the moves' own lines do not say it.
    pub fn tell(&self, happenings: &[Happening]) {
        for happening in happenings
            .iter()
            .filter(|happening| happening.warning && happening.kind != "GuestMigration")
        {
            self.say(&format!(
                "{} {} {}: {}: {}",
                now(),
                happening.kind,
                happening.name,
                happening.reason,
                happening.message
            ));
        }
    }

    /// Takes the bars away.
    pub fn end(&mut self) {
        if let Some(bars) = &mut self.bars {
            bars.moves.values().for_each(ProgressBar::finish_and_clear);
            bars.total.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template of ours that does not parse shows as the default bar.
    ProgressStyle::with_template(template).map_or_else(
        |_| ProgressStyle::default_bar(),
        |style| style.progress_chars("=> "),
    )
}

fn now() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S").to_string()
}

/// The guest's name.
#[must_use]
pub fn guest(migration: &MigrationView) -> String {
    migration
        .status
        .guest
        .clone()
        .unwrap_or_else(|| migration.spec.guest.clone())
}

/// Why a move can't go on, where that is not just that its turn has not come.
#[must_use]
pub fn obstacle(migration: &MigrationView) -> Option<String> {
    let reason = &find(&migration.status.conditions, "Succeeded")?.reason;
    let turn = [
        Reason::Waiting,
        Reason::InProgress,
        Reason::SlotsTaken,
        Reason::ParallelLimit,
        Reason::BackingOff,
    ];
    let known = Reason::parse(reason);
    known
        .is_none_or(|reason| !turn.contains(&reason))
        .then(|| reason.clone())
}

/// The same, as far as it is news: of an outcome that nobody knows it is what both ends show, which a person has to judge.
fn in_the_way(migration: &MigrationView) -> Option<String> {
    let reason = obstacle(migration)?;
    if Reason::parse(&reason) != Some(Reason::OutcomeUnknown) {
        return Some(reason);
    }
    let shown = find(&migration.status.conditions, "Succeeded")?;
    Some(shown.message.clone())
}

fn ends(migration: &MigrationView) -> String {
    let status = &migration.status;
    match (&status.source, &status.target) {
        (Some(source), Some(target)) => format!("{source} -> {target}"),
        (None, Some(target)) => format!("-> {target}"),
        (Some(source), None) => format!("{source} ->"),
        (None, None) => String::new(),
    }
}

fn detail(migration: &MigrationView) -> String {
    let status = &migration.status;
    let mut parts = vec![ends(migration), status.phase.as_str().to_owned()];
    if status.phase == MigrationPhase::Copying {
        parts.extend(
            status
                .bytes
                .map(|bytes| format!("{}/{}", bytes.done.human(), bytes.total.human())),
        );
        parts.extend(status.rate.map(|rate| format!("{}/s", rate.human())));
        parts.extend(
            status
                .eta
                .map(|eta| format!("{} left", crate::table::human(eta.0))),
        );
    }
    parts.extend(obstacle(migration));
    parts.join("  ")
}

/// One line about a move's new phase.
fn line(name: &str, migration: &MigrationView) -> String {
    let status = &migration.status;
    let mut text = format!(
        "{} {}: {} ({}, {name})",
        now(),
        guest(migration),
        status.phase.as_str(),
        ends(migration)
    );
    match status.phase {
        MigrationPhase::Succeeded => {
            text.extend(
                status
                    .downtime
                    .map(|downtime| format!(": stood still for {downtime}")),
            );
        }
        phase => {
            let says = matches!(
                phase,
                MigrationPhase::Pending | MigrationPhase::Failed | MigrationPhase::Aborted
            ) || obstacle(migration).is_some();
            let condition = find(&status.conditions, "Succeeded").filter(|_| says);
            text.extend(
                condition.map(|condition| format!(": {}: {}", condition.reason, condition.message)),
            );
        }
    }
    text
}

/// How long a move took.
#[must_use]
pub fn time(migration: &MigrationView) -> Option<Duration> {
    let status = &migration.status;
    let (start, end) = (
        status.start_time.as_ref()?,
        status.completion_time.as_ref()?,
    );
    u64::try_from((end.0 - start.0).get_seconds())
        .ok()
        .map(Duration::from_secs)
}
