//! From a verdict to what is done for it: before each act the claim is proven and the same evidence seen again.

use evenkeel_crds::{
    kinds::migration::MigrationPhase,
    reason::{Cause, Reason},
};

use super::{Attempt, Outcome, clean::TakenBack, post_copy, watch::Watched};
use crate::{
    evidence::{Arrival, Verdict, Waiting},
    mutation::{Rule, broken},
    port::PortResult,
};

impl Attempt {
    /// Does what the evidence asks for. An outcome where the move is over.
    pub(super) async fn act(&mut self, verdict: Verdict, watched: &mut Watched) -> Option<Outcome> {
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
