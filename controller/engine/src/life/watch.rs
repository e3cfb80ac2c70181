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
    clean::remove_own_files,
    course::Judge,
    post_copy::{self, PostCopying},
    progress::Meter,
};
use crate::{
    evidence::{Seen, Verdict, Waiting, is_post_copy},
    mutation::{Rule, broken},
    port::{DomainEvent, PortResult},
};

/// What the loop remembers.
pub(super) struct Watched {
    pub(super) meter: Meter,
    pub(super) judge: Judge,
    pub(super) since: Instant,
    /// Since when memory is copied.
    pub(super) memory: Option<Instant>,
    /// Whether the link was seen to carry memory just now.
    pub(super) carries: bool,
    /// Whether libvirt's own call has returned and said that the guest arrived.
    pub(super) arrived: bool,
    /// Why the copy ended, once anything said so.
    pub(super) cause: Option<Cause>,
    /// When an abort was last asked for.
    pub(super) asked: Option<Instant>,
    /// Aborted because a user wants it so.
    pub(super) by_user: bool,
    /// Whether a call whose end nobody heard may still be on its way: of the process before, or a lost one of ours.
    pub(super) uncertain: bool,
    /// Since when such a move has shown no sign of a job.
    pub(super) calm: Option<Instant>,
    /// Since when neither end has shown anything that could be acted upon, though both answer.
    pub(super) settling: Option<Instant>,
    /// Since when it switches.
    pub(super) switching: Option<Instant>,
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
