//! `evenkeel apply`: do it, with progress, until it is so. `migrate` and `drain` without a cluster go the same way.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use evenkeel_engine::View;
use tokio::time::Instant;

use crate::{
    arguments::{Apply, Common, Limits},
    exit::Exit,
    manifests::{Manifests, Stamp, WrongManifests},
    outcome::Applied,
    output,
    plan::{self, Plan},
    progress::{Progress, obstacle},
    session::{Manner, Session},
    signals::Signals,
    table::human,
    verdict::{self, Stage, is_moving},
};

/// How long an ending run waits for moves that can't go on, such as while a host is away.
const HALTED: Duration = Duration::from_secs(20);

/// What is said where something that can't end is left.
const LEFT: &str = "Left as it is; run the same command again to finish it.";

/// How wishes from files are seen through.
#[derive(Debug, Clone)]
pub struct Task {
    /// The command's name, for claims and messages.
    pub command: &'static str,
    /// Stay when it is so, and follow the files.
    pub watch: bool,
    /// Ask before the first move.
    pub ask: bool,
    /// Limits from the command line.
    pub limits: Limits,
}

/// Runs the command.
///
/// # Errors
/// Where there are no manifests, they are wrong, or the hosts can't be asked at all.
pub async fn run(common: &Common, arguments: &Apply) -> anyhow::Result<Exit> {
    if common.files.is_empty() {
        bail!(
            "apply needs -f FILE|DIR; in a cluster, write the objects with kubectl apply and its controller does the rest"
        );
    }
    let manifests = plan::load(common)?;
    let task = Task {
        command: "apply",
        watch: arguments.watch,
        ask: !arguments.limits.yes,
        limits: arguments.limits.clone(),
    };
    converge(common, manifests, &task).await
}

/// Shows the plan, asks, and does it.
///
/// # Errors
/// Where the hosts can't be asked at all, or nobody can be asked for leave.
pub async fn converge(common: &Common, manifests: Manifests, task: &Task) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    // It looks first and acts once it is told to go: one line to each host serves both.
    let mut session = Session::start(
        manifests.wishes.clone(),
        task.command,
        Manner::Act,
        common.credentials.clone(),
    )?;
    let view = tokio::select! {
        view = session.settled() => view?,
        () = signals.next() => return Ok(Exit::Interrupted),
    };
    verdict::notes(&view)
        .iter()
        .for_each(|note| output::tell(output::harmless(note)));
    let plan = Plan::of(&view, &manifests.wishes, |kind, name| {
        manifests.place(kind, name).map(ToString::to_string)
    });
    // Without a move the end of it says all there is to say.
    if common.output.is_none() && !plan.moves.is_empty() {
        output::print(&plan)?;
    }
    if task.ask && !plan.moves.is_empty() {
        let leave = tokio::select! {
            leave = ask(common) => leave,
            () = signals.next() => Ok(false),
        };
        if !matches!(leave, Ok(true)) {
            session.finish().await;
            return leave.map(|_| Exit::Interrupted);
        }
    }
    session.go().await?;
    let run = Run {
        common,
        task,
        manifests,
        session,
        signals,
        progress: Progress::new(),
        started: Instant::now(),
        interrupts: 0,
        ending: None,
        still: None,
        halted: None,
        reported: None,
        refused: None,
    };
    run.go().await
}

/// Whether a person lets us go ahead.
async fn ask(common: &Common) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || common.files.iter().any(|file| file.as_os_str() == "-") {
        bail!("nobody can be asked whether to go ahead: say --yes");
    }
    let leave = tokio::task::spawn_blocking(|| -> io::Result<bool> {
        write!(io::stderr(), "Go ahead? [y/N] ")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    })
    .await??;
    if !leave {
        output::tell("Nothing was done.");
    }
    Ok(leave)
}

/// Everything of one run.
struct Run<'a> {
    common: &'a Common,
    task: &'a Task,
    manifests: Manifests,
    session: Session,
    signals: Signals,
    progress: Progress,
    started: Instant,
    interrupts: u8,
    /// It is ending, with this, as soon as nothing moves any more.
    ending: Option<Exit>,
    /// Nothing has moved since then, and this is what it would end with.
    still: Option<(Exit, Instant)>,
    /// It is ending, and nothing that moves has been able to go on since then.
    halted: Option<Instant>,
    /// With `--watch`: the stage last told of.
    reported: Option<Stage>,
    /// The files as they were when they were found to be wrong.
    refused: Option<Stamp>,
}

impl Run<'_> {
    async fn go(mut self) -> anyhow::Result<Exit> {
        let exit = self.follow().await;
        self.progress.end();
        let view = self.session.view();
        let Self {
            common,
            manifests,
            session,
            mut signals,
            ..
        } = self;
        let left = verdict::moving(&view);
        if exit.is_ok() && left > 0 {
            // What runs goes on without us, and the next run takes it up.
            session.leave().await;
            output::tell(format!(
                "{left} under way can't go on for now and is left as it is; run the same command again to finish it."
            ));
        } else {
            if let Ok(Exit::Interrupted) = exit {
                output::tell("Giving the hosts back ...");
            }
            tokio::select! {
                () = session.finish() => {}
                // The engine is dropped: what still runs goes on, and the next run takes it up.
                () = signals.next() => output::tell(LEFT),
                () = tokio::time::sleep(HALTED) => output::tell(LEFT),
            }
        }
        let exit = exit?;
        plan::print(&Applied::of(&view, &manifests, exit), common.output)?;
        Ok(exit)
    }

    async fn follow(&mut self) -> anyhow::Result<Exit> {
        tokio::select! {
            settled = self.session.settled() => drop(settled?),
            () = self.signals.next() => return Ok(Exit::Interrupted),
        }
        // What was said while the hosts were still being asked is no news.
        drop(self.session.happenings());
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                view = self.session.next() => drop(view?),
                () = self.signals.next() => self.interrupted(),
                _ = tick.tick() => {
                    self.session.read_credentials();
                    self.reload();
                }
            }
            let view = self.session.view();
            let happenings = self.session.happenings();
            self.progress.tell(&happenings);
            self.progress.show(&view);
            if let Some(exit) = self.step(&view) {
                return Ok(exit);
            }
        }
    }

    /// Whether it is over.
    fn step(&mut self, view: &Arc<View>) -> Option<Exit> {
        let late = self
            .task
            .limits
            .timeout
            .is_some_and(|limit| self.started.elapsed() >= limit);
        let stage = verdict::of_apply(view, &self.manifests.wishes, self.task.limits.wait);
        if late && self.ending.is_none() && stage != Stage::Converged {
            self.progress
                .say("The time is up: nothing new starts, what runs is finished.");
            self.session.hold();
            self.ending = Some(Exit::Deadline);
        }
        if self.ending.is_some() {
            let mut open = view.migrations.values().filter(|one| is_moving(one));
            if open.any(|migration| obstacle(migration).is_none()) {
                self.halted = None;
            }
            let halted = *self.halted.get_or_insert_with(Instant::now);
            return self
                .ending
                .filter(|_| verdict::moving(view) == 0 || halted.elapsed() >= HALTED);
        }
        let (exit, patience) = match stage {
            Stage::Working => {
                self.still = None;
                self.reported = None;
                return None;
            }
            Stage::Converged => (Exit::Done, Duration::ZERO),
            Stage::Stuck(exit, patience) => (exit, patience),
        };
        let since = match self.still {
            Some((before, since)) if before == exit => since,
            _ => Instant::now(),
        };
        self.still = Some((exit, since));
        if since.elapsed() < patience {
            return None;
        }
        if !self.task.watch {
            return Some(exit);
        }
        if self.reported != Some(stage) {
            self.progress.say(match exit {
                Exit::Done => "Everything is as asked; watching. Ctrl-C ends it.",
                _ => "Nothing more can be done now; watching. Ctrl-C ends it.",
            });
            for obstacle in verdict::obstacles(view, &self.manifests.wishes) {
                self.progress.say(&format!(
                    "  {} {}: {}",
                    obstacle.kind, obstacle.name, obstacle.cause
                ));
            }
            self.reported = Some(stage);
        }
        None
    }

    fn interrupted(&mut self) {
        self.interrupts = self.interrupts.saturating_add(1);
        match self.interrupts {
            1 => {
                self.session.hold();
                let running = verdict::moving(&self.session.view());
                if running > 0 {
                    self.progress.say(&format!(
                        "Nothing new starts; waiting for {running} to finish. Once more to abort them."
                    ));
                }
            }
            2 => {
                self.session.abort_all();
                self.progress
                    .say("Aborting what has not begun to switch; the rest is finished.");
            }
            _ => self.progress.say(&format!(
                "Still at it, {} since it began.",
                human(self.started.elapsed())
            )),
        }
        self.ending = Some(Exit::Interrupted);
    }

    /// With `--watch`: takes changed files as new wishes.
    fn reload(&mut self) {
        if !self.task.watch || self.ending.is_some() {
            return;
        }
        let Ok(stamp) = Stamp::now(&self.common.files) else {
            return;
        };
        if stamp == self.manifests.stamp || self.refused.as_ref() == Some(&stamp) {
            return;
        }
        match Manifests::load(&self.common.files) {
            Ok(manifests) => {
                self.progress.say("The manifests have changed.");
                self.session.wish(manifests.wishes.clone());
                self.manifests = manifests;
                self.refused = None;
            }
            Err(error) => {
                match error.downcast_ref::<WrongManifests>() {
                    Some(WrongManifests(wrongs)) => {
                        for wrong in wrongs {
                            self.progress.say(&wrong.to_string());
                        }
                    }
                    None => self.progress.say(&format!("{error:#}")),
                }
                self.progress
                    .say("Going on with the manifests as they were before.");
                self.refused = Some(stamp);
            }
        }
        self.reported = None;
    }
}
