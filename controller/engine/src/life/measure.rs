//! How the copy goes: measured, judged, and given up where it is hopeless or somebody wants it so.

use std::time::Duration;

use evenkeel_crds::{
    quantity::Bytes,
    reason::{Cause, Reason},
};
use tokio::time::Instant;

use super::{
    Attempt,
    course::{Course, Judge, Word, over_budget},
    watch::Watched,
};
use crate::{
    mutation::{Rule, broken},
    port::{Activity, JobFacts, Why},
};

/// Nothing copied for this long, and the link may be dead.
const LIVELY: Duration = Duration::from_secs(2);

impl Attempt {
    pub(super) async fn memory(&self) -> Bytes {
        if let Some(memory) = self.memory {
            return memory;
        }
        let look = self.order.source.hypervisor.look(self.order.guest).await;
        look.ok().flatten().map_or(Bytes(0), |facts| facts.memory)
    }

    pub(super) async fn measure(&mut self, watched: &mut Watched) {
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
    pub(super) async fn abort_if_asked(&mut self, watched: &mut Watched) {
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
    pub(super) async fn is_held(&mut self) -> bool {
        let copies_disks = self.copies_disks().await;
        if copies_disks && !self.held {
            self.held = true;
            let (source, target) = (&self.order.source.host, &self.order.target.host);
            self.goes(Course::held(source, target));
        }
        copies_disks
    }

    /// Whether the job at the source counts disks only: then the switch is some way off.
    async fn copies_disks(&self) -> bool {
        let job = self.order.source.hypervisor.job(self.order.guest).await;
        matches!(job, Ok(Some(job)) if job.memory_total.0 == 0)
    }

    /// Whether the source shows, at this moment, a job that has not begun to switch: its event may be late. Of a guest that was
    /// paused before no switch is shown or told, and its memory is copied once: only its disks are surely before it.
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
            Ok(Some(copy)) if copy.activity == Activity::Paused => {
                !left(copy.why) && self.copies_disks().await
            }
            Ok(Some(_)) => true,
            _ => false,
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
