//! The move of a guest that is not running: its disks are carried like its other files, and its definition changes hands
//! while nobody can start it.
//!
//! Forward: copied and read back, undefined at the source, proven unchanged since, defined at the target. Whatever goes
//! wrong before the target has it, the source gets its definition back from the journal: its files were never touched.

use evenkeel_crds::{
    kinds::migration::MigrationPhase,
    reason::{Cause, Reason},
};
use tokio::time::Instant;

use super::{
    Attempt, LOOK_AGAIN, Outcome, Stop, clean::TakenBack, failure, luggage::DISK, watch::CALM,
};
use crate::{
    carrier::Pace,
    evidence::{
        Seen, Waiting,
        cold::{self, Verdict},
    },
    journal::{Journal, JournalDisk},
    port::{DiskPlace, DomainEvent},
};

impl Attempt {
    /// Whether the move that is under way is one of a stopped guest.
    pub(super) fn is_cold(&self) -> bool {
        self.journal
            .as_ref()
            .is_some_and(|journal| journal.definition.is_some())
    }

    /// Copies everything and sees the move to its end.
    pub(super) async fn move_cold(mut self) -> Outcome {
        self.enter(MigrationPhase::Copying);
        let ended = self.bring_luggage().await.err();
        self.follow_cold(ended).await
    }

    /// Sees the move to its end: forward as long as nothing has `ended` it, else back.
    pub(super) async fn follow_cold(mut self, mut ended: Option<Stop>) -> Outcome {
        // When a definition may last have been sent to the target whose fate nobody heard: a dead process's too.
        let mut uncertain = self.order.adopted.is_some().then(Instant::now);
        loop {
            let Some(journal) = self.journal.clone() else {
                return end(ended.unwrap_or(Stop::Aborted));
            };
            if ended.is_none() && self.aborted() {
                ended = Some(Stop::Aborted);
            }
            let (source, target) = self.look_cold().await;
            let verdict = cold::decide(source, target);
            tracing::debug!(migration = %self.order.migration, ?source, ?target, ?verdict, "evidence of a stopped guest");
            let failed = matches!(ended, Some(Stop::Failed(_)));
            if failed && (self.heard_a_start() || matches!(verdict, Verdict::Started { .. })) {
                // Whatever the copy stumbled over, this is why.
                ended = Some(self.started());
            }
            let done = match verdict {
                Verdict::Moved => match self.conclude().await {
                    Some(outcome) => return outcome,
                    None => Ok(()),
                },
                Verdict::Stays if ended.is_none() => {
                    if self.heard_a_start() {
                        ended = Some(self.started());
                        continue;
                    }
                    self.undefine_source(verdict, &mut ended).await
                }
                Verdict::Started { .. } if ended.is_none() => {
                    ended = Some(self.started());
                    continue;
                }
                // Another move took it to a third host meanwhile: to define it here would make it two.
                Verdict::Between if self.known().elsewhere => match self.take_back().await {
                    TakenBack::Done => {
                        let cause =
                            Cause::new(Reason::Interrupted, "the guest went elsewhere since");
                        return end(cause.into());
                    }
                    TakenBack::ByAnother(outcome) => return outcome,
                    TakenBack::Changed => Ok(()),
                },
                Verdict::Between if ended.is_none() => match self.prove_unchanged(&journal).await {
                    Ok(()) => {
                        self.define_at_target(&journal, &mut ended, &mut uncertain)
                            .await
                    }
                    Err(stop) => {
                        ended = Some(stop);
                        continue;
                    }
                },
                // What was sent to the target may still arrive there.
                Verdict::Between if uncertain.is_some_and(|since| since.elapsed() < CALM) => Ok(()),
                Verdict::Between | Verdict::Started { defined: false } => {
                    self.define_at_source(&journal, verdict).await
                }
                Verdict::Stays | Verdict::Started { defined: true } => match self.take_back().await
                {
                    TakenBack::Done => return end(ended.unwrap_or(Stop::Aborted)),
                    TakenBack::ByAnother(outcome) => return outcome,
                    TakenBack::Changed => Ok(()),
                },
                Verdict::Twice => Err(self.twice()),
                Verdict::Wait(why) => Err(self.silent(why)),
            };
            if let Err(cause) = done {
                if let Some(outcome) = self.rest(cause).await {
                    return outcome;
                }
            } else {
                tokio::time::sleep(LOOK_AGAIN / 10).await;
            }
        }
    }

    /// Both ends, the target first: a target seen without the guest before the source is seen with it can't have got it.
    pub(super) async fn look_cold(&self) -> (Seen, Seen) {
        let target = self.order.target.hypervisor.glance(self.order.guest).await;
        let source = self.order.source.hypervisor.glance(self.order.guest).await;
        (Seen::of(&source, false), Seen::of(&target, false))
    }

    /// The same evidence again, with both claims proven.
    async fn may_act_cold(&mut self, verdict: Verdict) -> Result<bool, Cause> {
        self.prove_claims().await?;
        let (source, target) = self.look_cold().await;
        Ok(cold::decide(source, target) == verdict)
    }

    async fn undefine_source(
        &mut self,
        verdict: Verdict,
        ended: &mut Option<Stop>,
    ) -> Result<(), Cause> {
        if !self.may_act_cold(verdict).await? {
            return Ok(());
        }
        self.switched = true;
        self.enter(MigrationPhase::Switching);
        let source = &self.order.source;
        if let Err(error) = source.hypervisor.undefine(self.order.guest).await {
            let cause = failure(&source.host, "undefining the guest", &error);
            if error.outcome_unknown() {
                return Err(cause);
            }
            // libvirt won't: nothing has happened yet.
            *ended = Some(cause.into());
        }
        Ok(())
    }

    async fn define_at_target(
        &mut self,
        journal: &Journal,
        ended: &mut Option<Stop>,
        uncertain: &mut Option<Instant>,
    ) -> Result<(), Cause> {
        if !self.may_act_cold(Verdict::Between).await? {
            return Ok(());
        }
        let target = &self.order.target;
        let text = journal.definition.as_deref().unwrap_or_default();
        let disks: Vec<DiskPlace> = journal.disks.iter().map(JournalDisk::place).collect();
        let mark = self.mark(journal.id);
        if let Err(error) = target.hypervisor.define(text, &disks, Some(&mark)).await {
            if error.outcome_unknown() {
                *uncertain = Some(Instant::now());
            }
            *ended = Some(failure(&target.host, "defining the guest", &error).into());
        }
        Ok(())
    }

    async fn define_at_source(&mut self, journal: &Journal, verdict: Verdict) -> Result<(), Cause> {
        if !self.may_act_cold(verdict).await? {
            return Ok(());
        }
        let source = &self.order.source;
        let text = journal.definition.as_deref().unwrap_or_default();
        source
            .hypervisor
            .define(text, &[], None)
            .await
            .map_err(|error| failure(&source.host, "defining the guest again", &error))
    }

    /// Whether the guest's files at the source are still what was copied: it may have run and stopped meanwhile.
    async fn prove_unchanged(&mut self, journal: &Journal) -> Result<(), Stop> {
        if self.heard_a_start() {
            return Err(self.started());
        }
        let source = self.order.source.clone();
        let carrier = self.lines.carrier.clone();
        for file in journal.files.iter().filter(|file| file.role == DISK) {
            let path = file.source();
            let wrong = |error| failure(&source.host, &format!("reading {path} again"), &error);
            let state = source.hypervisor.file(path).await.map_err(wrong)?;
            let Some(state) = state else {
                return Err(Cause::new(
                    Reason::FileMissing,
                    format!("{path} has gone from {}", source.host),
                )
                .into());
            };
            let mut quiet = |_| {};
            let mut pace = Pace::new(self.order.profile.spec.bandwidth, &mut quiet);
            let digest = carrier
                .digest(&source, path, &state, &mut pace)
                .await
                .map_err(wrong)?;
            if self.copied.get(path) != Some(&digest) {
                return Err(self.started());
            }
        }
        Ok(())
    }

    /// Whether an event told that it was started at the source.
    fn heard_a_start(&mut self) -> bool {
        while let Ok((host, event)) = self.lines.events.try_recv() {
            let start = matches!(event, DomainEvent::Booted | DomainEvent::Resumed);
            self.started_meanwhile |= start && host == self.order.source.host;
        }
        self.started_meanwhile
    }

    fn started(&self) -> Stop {
        Cause::new(
            Reason::GuestStarted,
            format!(
                "the guest was started on {} while it was copied; it stays there",
                self.order.source.host
            ),
        )
        .into()
    }

    fn twice(&self) -> Cause {
        let (source, target) = (&self.order.source.host, &self.order.target.host);
        Cause::new(
            Reason::DefinedTwice,
            format!("{source} and {target} both define the guest; nothing is removed"),
        )
    }

    fn silent(&self, why: Waiting) -> Cause {
        let (source, target) = (&self.order.source.host, &self.order.target.host);
        let say = |reason, host: &dyn std::fmt::Display| {
            Cause::new(
                reason,
                format!("{host} does not answer; nothing is decided without it"),
            )
        };
        match why {
            Waiting::SourceSilent => say(Reason::SourceLost, source),
            Waiting::TargetSilent => say(Reason::TargetLost, target),
            Waiting::BothSilent => Cause::new(
                Reason::OutcomeUnknown,
                format!("neither {source} nor {target} answers"),
            ),
            Waiting::Settling => Cause::new(
                Reason::OutcomeUnknown,
                format!("{target} runs the guest without defining it"),
            ),
        }
    }
}

fn end(stop: Stop) -> Outcome {
    match stop {
        Stop::Failed(cause) => Outcome::Failed { cause, tried: true },
        Stop::Aborted => Outcome::Aborted,
    }
}
