//! Copying and switching: watches libvirt's job until both ends show a proven outcome, then does what it asks for.

use std::time::Duration;

use evenkeel_crds::{
    kinds::migration::MigrationPhase,
    quantity::Bytes,
    reason::{Cause, Reason},
};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{
    Attempt, Ends, LOOK_AGAIN, Outcome,
    clean::{TakenBack, remove_own_files},
    course::{Course, Judge, Word, over_budget},
    post_copy::{self, PostCopying},
    progress::Meter,
};
use crate::{
    evidence::{Arrival, Seen, Verdict, Waiting, is_post_copy},
    mutation::{Rule, broken},
    port::{Activity, DomainEvent, JobFacts, PortResult, Why},
};

/// What the loop remembers.
pub(super) struct Watched {
    pub(super) meter: Meter,
    judge: Judge,
    since: Instant,
    /// Since when memory is copied.
    memory: Option<Instant>,
    /// Whether the link was seen to carry memory just now.
    carries: bool,
    /// Whether libvirt's own call has returned and said that the guest arrived.
    arrived: bool,
    /// Why the copy ended, once anything said so.
    cause: Option<Cause>,
    /// When an abort was last asked for.
    asked: Option<Instant>,
    /// Aborted because a user wants it so.
    by_user: bool,
    /// Whether a call whose end nobody heard may still be on its way: of the process before, or a lost one of ours.
    uncertain: bool,
    /// Since when such a move has shown no sign of a job.
    calm: Option<Instant>,
    /// Since when neither end has shown anything that could be acted upon, though both answer.
    settling: Option<Instant>,
    /// Since when it switches.
    switching: Option<Instant>,
    pub(super) post_copy: PostCopying,
}

impl Watched {
    /// Whether the copy is to be aborted.
    pub(super) fn is_given_up(&self) -> bool {
        self.by_user || self.cause.is_some()
    }
}

/// How long a switch may take before somebody is told that it hangs.
const SWITCH: Duration = Duration::from_secs(30);
/// How long both ends may show what libvirt is still leaving before somebody is told that it does not.
const SETTLING: Duration = Duration::from_secs(20);
/// How long a move whose call may still be on its way must show no job before it is taken back.
pub(crate) const CALM: Duration = Duration::from_secs(5);

/// Nothing copied for this long, and the link may be dead.
const LIVELY: Duration = Duration::from_secs(2);

/// libvirt's own call. It ends with the task that follows it, as it does with the process.
type Call = Option<BoxFuture<'static, PortResult<()>>>;

impl Attempt {
    /// Follows the move to its end. `call` is libvirt's own call where this process made it.
    pub(super) async fn watch(mut self, mut call: Call) -> Outcome {
        let memory = self.memory().await;
        let mut watched = Watched {
            meter: Meter::new(memory, Bytes(self.carried)),
            judge: Judge::new(
                self.order.profile.spec.budget.stall.0,
                self.order.profile.spec.slows_down(),
            ),
            since: Instant::now(),
            memory: None,
            carries: false,
            arrived: false,
            cause: None,
            asked: None,
            by_user: false,
            uncertain: call.is_none(),
            calm: None,
            settling: None,
            switching: None,
            post_copy: PostCopying::default(),
        };
        let mut pause = Duration::from_millis(100);
        loop {
            let returned = self.wait(&mut call, pause).await;
            pause = LOOK_AGAIN;
            if let Some(result) = returned {
                call = None;
                if broken(Rule::ProofBeforeRemoval)
                    && let Some(journal) = &self.journal
                {
                    let _ = remove_own_files(journal, &self.order.source).await;
                }
                let recovered = watched.post_copy.returned(&result);
                watched.arrived = result.is_ok();
                if let Err(error) = result {
                    watched.uncertain = error.outcome_unknown();
                    let what = format!(
                        "the migration from {} to {} failed: {error}",
                        self.order.source.host, self.order.target.host
                    );
                    if recovered {
                        tracing::debug!(migration = %self.order.migration, %error, "recovery");
                    } else {
                        let cause = Cause::new((&error).into(), what);
                        watched.cause.get_or_insert(cause);
                    }
                }
            }
            let late = self.switched
                && watched.switching.get_or_insert_with(Instant::now).elapsed() >= SWITCH;
            if call.is_some() && !late && !watched.post_copy.begun {
                self.measure(&mut watched).await;
                self.abort_if_asked(&mut watched).await;
                continue;
            }
            let Ends {
                source,
                target,
                verdict,
                ..
            } = self.look().await;
            tracing::debug!(migration = %self.order.migration, ?source, ?target, ?verdict, "evidence");
            let verdict = match verdict {
                Verdict::Switching if !self.switched && !self.foreign && self.is_held().await => {
                    Verdict::Copying
                }
                // What a person paused is not for us to let go on.
                Verdict::ResumeSource if self.held && !self.switched => Verdict::Stayed,
                other => other,
            };
            if verdict == Verdict::Wait(Waiting::Settling) {
                let since = *watched.settling.get_or_insert_with(Instant::now);
                if since.elapsed() >= SETTLING {
                    self.wait_for(unsettled(&self.order, source, target));
                }
            } else {
                watched.settling = None;
            }
            if late && verdict == Verdict::Switching {
                self.wait_for(hanging(&self.order, target));
                continue;
            }
            if verdict == Verdict::PostCopy {
                self.follow_post_copy(&mut watched).await;
                continue;
            }
            if call.is_some() {
                if watched.post_copy.recovering && verdict == Verdict::RecoverPostCopy {
                    self.measure_post_copy(&mut watched).await;
                    continue;
                }
                // libvirt's call may never return from a switch that hangs; the ends tell when it is over.
                if matches!(
                    verdict,
                    Verdict::Wait(_) | Verdict::Switching | Verdict::Copying
                ) {
                    continue;
                }
                call = None;
            }
            if watched.uncertain && matches!(verdict, Verdict::Stayed | Verdict::StayedTargetSilent)
            {
                let since = *watched.calm.get_or_insert_with(Instant::now);
                if since.elapsed() < CALM {
                    continue;
                }
            } else {
                watched.calm = None;
            }
            if let Some(outcome) = self.act(verdict, &mut watched).await {
                return outcome;
            }
            if let Some(request) = watched.post_copy.request.take() {
                let hypervisor = self.order.source.hypervisor.clone();
                call = Some(Box::pin(async move {
                    hypervisor.recover_post_copy(&request).await
                }));
            }
        }
    }

    async fn memory(&self) -> Bytes {
        if let Some(memory) = self.memory {
            return memory;
        }
        let look = self.order.source.hypervisor.look(self.order.guest).await;
        look.ok().flatten().map_or(Bytes(0), |facts| facts.memory)
    }

    /// Until the call returns, an event tells something, an abort is asked for, or a while has passed.
    async fn wait(&mut self, call: &mut Call, pause: Duration) -> Option<PortResult<()>> {
        let until = Instant::now() + pause;
        loop {
            let finished = async {
                match call.as_mut() {
                    Some(call) => call.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                result = finished => {
                    return Some(result);
                }
                event = self.lines.events.recv() => match event {
                    Some((host, event)) => {
                        let at_source = host == self.order.source.host;
                        match event {
                            DomainEvent::SuspendedForSwitch if at_source && !self.foreign => {
                                let heard = Instant::now();
                                if self.is_held().await {
                                    continue;
                                }
                                self.switched = true;
                                self.still_since.get_or_insert(heard);
                                self.enter(MigrationPhase::Switching);
                            }
                            // Under post-copy it runs long before libvirt's job has ended.
                            DomainEvent::Resumed if !at_source && self.allows_post_copy() => {
                                let since = self.still_since.map(|since| since.elapsed());
                                self.stood_still = self.stood_still.or(since);
                            }
                            DomainEvent::Rebooted => self.rebooted = true,
                            DomainEvent::StoppedMigrated | DomainEvent::ResumedMigrated
                            | DomainEvent::Stopped if call.is_none() => return None,
                            _ => {}
                        }
                    }
                    None => tokio::time::sleep_until(until).await,
                },
                changed = self.lines.abort.changed() => match changed {
                    Ok(()) if self.aborted() => return None,
                    Ok(()) => {}
                    Err(_) => tokio::time::sleep_until(until).await,
                },
                () = tokio::time::sleep_until(until) => return None,
            }
            if Instant::now() >= until {
                return None;
            }
        }
    }

    async fn measure(&mut self, watched: &mut Watched) {
        if self.switched {
            return;
        }
        watched.by_user |= self.aborted();
        let stall = self.order.profile.spec.budget.stall.0;
        let job = match self.order.source.hypervisor.job(self.order.guest).await {
            Ok(Some(job)) => job,
            Ok(None) => return,
            // QEMU may stand still for a dead link.
            Err(_) => {
                watched.carries = false;
                if !self.withhold_abort(watched) && watched.meter.still_for() >= stall {
                    self.wait_for(stalled(stall));
                }
                return;
            }
        };
        let progress = watched.meter.sample(&job);
        self.report(super::Report::Progress(progress));
        let still = watched.meter.still_for();
        let in_memory = job.memory_total.0 > 0;
        if in_memory {
            // Only what came since the first look at it is seen to be carried.
            let since = *watched.memory.get_or_insert_with(Instant::now);
            watched.carries = still < LIVELY.min(since.elapsed());
            if self.withhold_abort(watched) {
                return;
            }
        }
        if still >= stall {
            let cause = stalled(stall);
            // An abort in the memory phase over a dead link freezes the guest until the link heals; libvirt's own
            // keepalive ends it without that.
            if !in_memory {
                watched.cause.get_or_insert_with(|| cause.clone());
            }
            self.wait_for(cause);
            return;
        }
        self.go_on();
        let hopeless = self.judge(&job, watched);
        // For the same reason only while the link is seen to carry something.
        if in_memory && still >= LIVELY {
            return;
        }
        match hopeless {
            Some(cause) if in_memory && self.allows_post_copy() => {
                self.start_post_copy(watched, &cause).await;
            }
            hopeless => watched.cause = watched.cause.take().or(hopeless),
        }
    }

    /// Judges the copy, disks and memory apart. Why it is hopeless, if it is.
    fn judge(&mut self, job: &JobFacts, watched: &mut Watched) -> Option<Cause> {
        let profile = &self.order.profile.spec;
        if job.memory_total.0 == 0 {
            let took = watched.since.elapsed();
            return over_budget(
                &profile.budget,
                "disks",
                job.disk_total,
                job.disk_left,
                took,
            );
        }
        let took = watched.memory.get_or_insert_with(Instant::now).elapsed();
        let left = job.memory_left;
        let late = over_budget(&profile.budget, "memory", job.memory_total, left, took);
        match watched.judge.sample(took, job) {
            Word::Nothing => late,
            Word::Slowed => {
                self.goes(Judge::slowed());
                late
            }
            Word::Stalled => {
                let cause = watched.judge.given_up(left, profile.slows_down());
                self.goes(Course::diverges(&cause.message));
                late.or(Some(cause))
            }
        }
    }

    /// Asks libvirt to abort, again and again, until the job is gone or the switch has begun.
    async fn abort_if_asked(&mut self, watched: &mut Watched) {
        watched.by_user |= self.aborted();
        let dead = watched.memory.is_some() && !watched.carries;
        let wanted = watched.is_given_up() && !dead;
        let lately = watched
            .asked
            .is_some_and(|asked| asked.elapsed() < Duration::from_secs(2));
        if wanted && !lately && self.may_abort().await {
            watched.asked = Some(Instant::now());
            if let Err(error) = self.order.source.hypervisor.abort(self.order.guest).await {
                tracing::debug!(migration = %self.order.migration, %error, "abort");
            }
        }
    }

    /// An abort in the memory phase over a dead link freezes the guest until the link heals: it waits, and says so. Whether
    /// it does.
    fn withhold_abort(&mut self, watched: &Watched) -> bool {
        let withheld = watched.is_given_up() && watched.memory.is_some() && !watched.carries;
        if withheld {
            let (source, target) = (&self.order.source.host, &self.order.target.host);
            self.wait_for(
                Cause::new(
                    Reason::CopyStalled,
                    format!(
                        "nothing comes from {source} to {target}, and an abort over a dead link would freeze the guest: it \
                         waits until the link carries again"
                    ),
                )
                .hint("check the network between the hosts; where it stays dead, libvirt ends the copy by itself after about 30 s"),
            );
        }
        withheld
    }

    /// Whether the source is paused though no switch can have begun: its disks are still being copied. libvirt tells of a
    /// person's pause in mid-copy in the words of a switch.
    async fn is_held(&mut self) -> bool {
        let job = self.order.source.hypervisor.job(self.order.guest).await;
        let copies_disks = matches!(job, Ok(Some(job)) if job.memory_total.0 == 0);
        if copies_disks && !self.held {
            self.held = true;
            let (source, target) = (&self.order.source.host, &self.order.target.host);
            self.goes(Course::held(source, target));
        }
        copies_disks
    }

    /// Whether the source shows, at this moment, a job that has not begun to switch: its event may be late.
    async fn may_abort(&mut self) -> bool {
        if broken(Rule::NoAbortInSwitch) {
            return true;
        }
        if self.switched {
            return false;
        }
        let glance = self.order.source.hypervisor.glance(self.order.guest).await;
        let left = |why| matches!(why, Why::PostCopy | Why::PostCopyFailed);
        match glance {
            Ok(Some(copy)) if copy.activity == Activity::Paused && copy.why == Why::Migrating => {
                self.held && self.is_held().await
            }
            Ok(Some(copy)) => copy.activity != Activity::Paused || !left(copy.why),
            _ => false,
        }
    }

    /// Does what the evidence asks for. An outcome where the move is over.
    async fn act(&mut self, verdict: Verdict, watched: &mut Watched) -> Option<Outcome> {
        let order = self.order.clone();
        let (source, target) = (&order.source, &order.target);
        if self.ran_twice() && self.is_for_a_person(verdict) {
            self.wait_for(
                Cause::new(
                    Reason::RunsTwice,
                    format!(
                        "the guest ran on {} and on {}, and both ends' files have writes of its own; nothing is removed",
                        source.host, target.host
                    ),
                )
                .hint("undefine the copy that is not wanted, and let the other one run"),
            );
            return None;
        }
        match verdict {
            Verdict::Copying | Verdict::Switching | Verdict::RecoverPostCopy if self.foreign => {
                self.wait_for(Cause::new(
                    Reason::JobActive,
                    format!(
                        "libvirt has a job on the guest on {} that is not ours",
                        source.host
                    ),
                ))
            }
            Verdict::Copying => {
                self.enter(MigrationPhase::Copying);
                self.measure(watched).await;
                self.abort_if_asked(watched).await;
            }
            Verdict::Switching => {
                self.switched = true;
                self.enter(MigrationPhase::Switching);
            }
            Verdict::PostCopy => self.follow_post_copy(watched).await,
            Verdict::RecoverPostCopy => self.recover_post_copy(watched).await,
            Verdict::MemoryLost => self.wait_for(post_copy::memory_lost(&order)),
            // It may have run at the target: what is there is not ours to take for a leftover.
            Verdict::UndefineTargetLeftover if self.allows_post_copy() => {
                self.wait_for(post_copy::left_at_target(&order));
            }
            Verdict::Moved => return self.conclude().await,
            Verdict::MovedSourceOff => return self.conclude_without_source().await,
            Verdict::UndefineSource => {
                self.enter(MigrationPhase::Verifying);
                if self.may_act(verdict, true).await {
                    self.note("undefine", source.hypervisor.undefine(order.guest).await);
                }
            }
            Verdict::DiscardPausedSource => {
                self.enter(MigrationPhase::Verifying);
                if self.may_act(verdict, true).await {
                    // One at a time, each after a look: where the other end has lost it meanwhile, this is the only one.
                    if self.source_defined {
                        self.note("undefine", source.hypervisor.undefine(order.guest).await);
                    } else {
                        self.note("destroy", source.hypervisor.destroy(order.guest).await);
                    }
                }
            }
            Verdict::DestroyTargetLeftover => {
                if self.may_act(verdict, false).await {
                    self.note("destroy", target.hypervisor.destroy(order.guest).await);
                }
            }
            Verdict::UndefineTargetLeftover => {
                if self.may_act(verdict, false).await {
                    self.note("undefine", target.hypervisor.undefine(order.guest).await);
                }
            }
            Verdict::ResumeSource => {
                if self.may_act(verdict, true).await {
                    self.note("resume", source.hypervisor.resume(order.guest).await);
                }
            }
            Verdict::ResumeTarget => {
                self.switched = true;
                self.enter(MigrationPhase::Switching);
                if self.may_act(verdict, false).await {
                    let done = target.hypervisor.resume(order.guest).await;
                    let resumed = done.is_ok();
                    self.note("resume", done);
                    match self.arrival() {
                        // It was paused so that its disks are written.
                        Arrival::Halted if resumed => {
                            self.durable = true;
                            self.note_halted(false).await;
                        }
                        _ if resumed => {
                            self.stood_still = self.still_since.map(|since| since.elapsed());
                        }
                        _ => {}
                    }
                }
            }
            Verdict::Stayed | Verdict::StayedTargetSilent => {
                let cause = watched.cause.clone().unwrap_or_else(|| {
                    Cause::new(
                        Reason::Interrupted,
                        "the migration ended without being finished",
                    )
                });
                let cause = if self.ran_twice() {
                    Cause::new(
                        Reason::RunsTwice,
                        format!(
                            "the guest ran on both hosts and is on {} now; its files on {} are kept",
                            source.host, target.host
                        ),
                    )
                } else {
                    cause
                };
                let outcome = if watched.by_user {
                    Outcome::Aborted
                } else {
                    Outcome::Failed { cause, tried: true }
                };
                return self.stayed(outcome).await;
            }
            // It was started elsewhere while this host was off: what is here is old, and nobody's to start.
            Verdict::StoppedAtSource | Verdict::CrashedAtSource if self.known().elsewhere => {
                self.wait_for(
                    Cause::new(
                        Reason::DefinedTwice,
                        format!(
                            "the guest lives on another host by now; its old copy on {} is not touched",
                            source.host
                        ),
                    )
                    .hint(format!("undefine it on {}: then this goes on", source.host)),
                );
            }
            Verdict::StoppedAtSource => {
                let cause = Cause::new(
                    Reason::GuestStopped,
                    format!(
                        "the guest stopped on {} while it was being moved",
                        source.host
                    ),
                );
                let outcome = Outcome::Failed { cause, tried: true };
                return self.stayed(outcome).await;
            }
            Verdict::CrashedAtSource => {
                let cause = Cause::new(
                    Reason::GuestCrashed,
                    format!(
                        "the guest's QEMU on {} died while it was being moved",
                        source.host
                    ),
                );
                let outcome = Outcome::Failed { cause, tried: true };
                return self.stayed(outcome).await;
            }
            // It arrived, and was ended there in good order: nothing is left to wait for.
            Verdict::StoppedAtTarget {
                defined: false,
                orderly: true,
            } if watched.arrived => return self.conclude().await,
            Verdict::StoppedAtTarget { .. } => {
                self.wait_for(
                    Cause::new(
                        Reason::GuestStopped,
                        format!(
                            "the guest arrived on {} and stopped there; its files on {} are kept",
                            target.host, source.host
                        ),
                    )
                    .hint(format!(
                        "start it on {to}: its disks there are the current ones; if {to} lost its power within a minute of the \
                         move, they may lack what it wrote last: copy those on {from} over them first",
                        to = target.host,
                        from = source.host
                    )),
                );
            }
            Verdict::RunsTwice => {
                self.wait_for(Cause::new(
                    Reason::RunsTwice,
                    format!(
                        "the guest runs on {} and on {}; the copy on {} is suspended and kept",
                        source.host, target.host, source.host
                    ),
                ));
                self.note_ran_twice().await;
                // The target may have stopped just now: then the source's is the only copy that runs.
                if !self.source_paused && self.may_act(verdict, true).await {
                    self.note("suspend", source.hypervisor.suspend(order.guest).await);
                }
            }
            Verdict::Lost if self.known().elsewhere => {
                let cause = Cause::new(Reason::Interrupted, "the guest went elsewhere since");
                let outcome = Outcome::Failed { cause, tried: true };
                return self.stayed(outcome).await;
            }
            Verdict::Lost => self.wait_for(Cause::new(
                Reason::OutcomeUnknown,
                format!(
                    "neither {} nor {} has the guest; nothing is removed",
                    source.host, target.host
                ),
            )),
            Verdict::Wait(why) => {
                let cause = match why {
                    // Said once it has lasted.
                    Waiting::Settling => return None,
                    Waiting::SourceSilent => Cause::new(
                        Reason::SourceLost,
                        format!(
                            "{} does not answer; nothing is decided without it",
                            source.host
                        ),
                    )
                    .hint(
                        "bring it back; if it is gone for good, set `outOfService` on its Host: a guest that runs at \
                         its target is then left there",
                    ),
                    Waiting::TargetSilent => Cause::new(
                        Reason::TargetLost,
                        format!(
                            "{} does not answer; nothing is decided without it",
                            target.host
                        ),
                    ),
                    Waiting::BothSilent => Cause::new(
                        Reason::OutcomeUnknown,
                        format!("neither {} nor {} answers", source.host, target.host),
                    ),
                };
                self.wait_for(cause);
            }
        }
        None
    }

    /// Whether what both ends of a guest that ran twice show leaves it open which copy goes on.
    fn is_for_a_person(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::RunsTwice
            | Verdict::Copying
            | Verdict::Switching
            | Verdict::PostCopy
            | Verdict::RecoverPostCopy
            | Verdict::MemoryLost
            | Verdict::Moved
            | Verdict::Lost
            | Verdict::Wait(_) => false,
            // It was we who suspended it.
            Verdict::Stayed | Verdict::StayedTargetSilent => {
                self.source_paused && self.arrival() != Arrival::StaysPaused
            }
            _ => true,
        }
    }

    /// The guest did not move: takes back what was prepared, then ends so, unless another has done it. Nothing where it
    /// turns out that it did move.
    async fn stayed(&mut self, outcome: Outcome) -> Option<Outcome> {
        match self.take_back().await {
            TakenBack::Done => Some(outcome),
            TakenBack::ByAnother(outcome) => Some(outcome),
            TakenBack::Changed => None,
        }
    }

    /// Claim proven and the same evidence seen again: then an act at one end may be done.
    pub(super) async fn may_act(&mut self, verdict: Verdict, at_source: bool) -> bool {
        if let Err(cause) = self.prove_claim(at_source).await {
            let lost = cause.reason == Reason::ClaimedByOther;
            self.wait_for(cause);
            if lost {
                // Where another finishes the move, both ends will show it.
                self.regain().await;
            }
            return false;
        }
        broken(Rule::EvidenceSeenAgain) || self.look().await.verdict == verdict
    }

    pub(super) fn note(&self, act: &str, result: PortResult<()>) {
        match result {
            Ok(()) => tracing::info!(migration = %self.order.migration, act, "done on evidence"),
            Err(error) => {
                tracing::warn!(migration = %self.order.migration, act, %error, "to be tried again")
            }
        }
    }
}

/// The cause for a copy that stands still.
fn stalled(stall: Duration) -> Cause {
    Cause::new(
        Reason::CopyStalled,
        format!("nothing was copied for more than {} s", stall.as_secs()),
    )
}

/// The cause for a move whose ends show what libvirt does not leave by itself.
fn unsettled(order: &super::Order, source: Seen, target: Seen) -> Cause {
    if is_post_copy(target) {
        return post_copy::memory_lost(order);
    }
    let shows = |seen: Seen| match seen {
        Seen::Silent | Seen::Off => "does not answer".to_owned(),
        Seen::Absent => "has no copy".to_owned(),
        Seen::Present(copy) => format!("shows {:?} ({:?})", copy.activity, copy.why),
    };
    let (from, to) = (&order.source.host, &order.target.host);
    Cause::new(
        Reason::OutcomeUnknown,
        format!(
            "{from} {} and {to} {}, and nothing changes any more; nothing is removed",
            shows(source),
            shows(target)
        ),
    )
    .hint("let the copy run that has the guest's last state, and undefine the other one: then this goes on")
}

/// The cause for a switch that does not end.
fn hanging(order: &super::Order, target: Seen) -> Cause {
    let (source, target_host) = (&order.source.host, &order.target.host);
    let cause = Cause::new(
        Reason::OutcomeUnknown,
        format!(
            "libvirt has been switching from {source} to {target_host} for more than {} s",
            SWITCH.as_secs()
        ),
    );
    if target == Seen::Absent {
        cause.hint(format!(
            "if {target_host} never had it, `virsh destroy` and `virsh start` it on {source}: its disks are whole there, \
             its memory is lost"
        ))
    } else {
        cause
    }
}
