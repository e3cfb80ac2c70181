//! Post-copy: the guest runs at the target, and the rest of its memory follows. Here it is switched on, and taken up
//! again where it broke. From its first moment on the move goes forward only.

use std::time::Duration;

use evenkeel_crds::{
    kinds::migration::MigrationPhase,
    names::HostName,
    reason::{Cause, Reason},
};
use tokio::time::Instant;

use super::{Attempt, Order, course::Course, watch::Watched};
use crate::{
    evidence::Verdict,
    port::{MigrateRequest, PortError, PortResult},
};

/// How long between two tries to switch it on, or to take it up again.
const AGAIN: Duration = Duration::from_secs(5);

/// What the loop remembers of it.
#[derive(Default)]
pub(super) struct PostCopying {
    /// Whether the guest runs at the target, or may.
    pub(super) begun: bool,
    /// Whether libvirt's call that takes it up again is under way.
    pub(super) recovering: bool,
    /// What that call is to be made with.
    pub(super) request: Option<MigrateRequest>,
    /// What libvirt said to that last.
    answer: Option<String>,
    /// When libvirt was last asked for anything.
    asked: Option<Instant>,
}

impl PostCopying {
    /// A call has returned. Whether it was one that takes it up again.
    pub(super) fn returned(&mut self, result: &PortResult<()>) -> bool {
        if let Err(error) = result {
            self.asked = Some(Instant::now());
            self.answer = Some(error.message.clone()).filter(|_| self.recovering);
        }
        std::mem::take(&mut self.recovering)
    }

    fn may_ask(&mut self) -> bool {
        let may = self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN);
        if may {
            self.asked = Some(Instant::now());
        }
        may
    }
}

impl Attempt {
    /// Switches to post-copy, since the copy does not converge: what can't be taken back.
    pub(super) async fn start_post_copy(&mut self, watched: &mut Watched, why: &Cause) {
        if self.aborted() || watched.is_given_up() || !watched.post_copy.may_ask() {
            return;
        }
        if let Err(cause) = self.prove_claims().await {
            self.wait_for(cause);
            return;
        }
        if self.look().await.verdict != Verdict::Copying {
            return;
        }
        let source = self.order.source.hypervisor.clone();
        let asked = source.start_post_copy(self.order.guest).await;
        // An answer that was lost tells nothing: then both ends are looked at.
        watched.post_copy.begun |= asked
            .as_ref()
            .map_or_else(PortError::outcome_unknown, |()| true);
        if asked.is_ok() {
            self.switched = true;
            self.enter(MigrationPhase::Switching);
            self.goes(Course::follows(why));
        }
        self.note("post-copy", asked);
    }

    /// Memory follows.
    pub(super) async fn follow_post_copy(&mut self, watched: &mut Watched) {
        self.in_post_copy(watched);
        let (source, target) = (&self.order.source.host, &self.order.target.host);
        self.wait_for(Cause::new(
            Reason::PostCopy,
            format!(
                "the guest runs on {target}, and a part of its memory is still on {source}: until it has followed, the \
                 loss of either host loses it, and the move is not aborted"
            ),
        ));
        self.measure_post_copy(watched).await;
    }

    /// It broke: asks libvirt to go on, as often as it takes. Where QEMU goes on by itself, libvirt says so, and what both
    /// ends show tells when it is done.
    pub(super) async fn recover_post_copy(&mut self, watched: &mut Watched) {
        self.in_post_copy(watched);
        let (source, target) = (&self.order.source.host, &self.order.target.host);
        let answer = watched.post_copy.answer.as_deref();
        self.wait_for(broken(source, target, answer));
        self.measure_post_copy(watched).await;
        let Some(request) = self.journal.as_ref().map(|journal| self.request(journal)) else {
            return;
        };
        if !watched.post_copy.may_ask() {
            return;
        }
        if let Err(cause) = self.prove_claim(false).await {
            self.wait_for(cause);
            return;
        }
        if self.may_act(Verdict::RecoverPostCopy, true).await {
            watched.post_copy.recovering = true;
            watched.post_copy.request = Some(request);
        }
    }

    fn in_post_copy(&mut self, watched: &mut Watched) {
        watched.post_copy.begun = true;
        self.switched = true;
        if self.phase < MigrationPhase::Switching {
            self.enter(MigrationPhase::Switching);
        }
    }

    /// How far the memory is. Nothing is judged by it any more.
    pub(super) async fn measure_post_copy(&mut self, watched: &mut Watched) {
        if let Ok(Some(job)) = self.order.source.hypervisor.job(self.order.guest).await {
            let progress = watched.meter.sample(&job);
            self.report(super::Report::Progress(progress));
        }
    }
}

/// The cause for memory that does not travel as far as libvirt sees, with what it said when it was asked to go on.
fn broken(source: &HostName, target: &HostName, answer: Option<&str>) -> Cause {
    let answer = answer.map_or(String::new(), |answer| format!(" (libvirt: {answer})"));
    Cause::new(
        Reason::PostCopyFailed,
        format!(
            "the guest runs on {target}, and libvirt has lost the way by which the rest of its memory follows from {source}; \
             it is asked to go on{answer}"
        ),
    )
    .hint(format!(
        "check the network between the hosts, and on {target} end connections of QEMU that have been dead since a cut (`ss -K \
         dst {source}'s address`); if libvirt can't go on for good, `virsh destroy` the guest on both hosts and `virsh start` \
         it on {target}: its memory is lost then"
    ))
}

/// The cause for a guest whose memory is not whole anywhere any more.
pub(super) fn memory_lost(order: &Order) -> Cause {
    let (source, target) = (&order.source.host, &order.target.host);
    Cause::new(
        Reason::MemoryLost,
        format!(
            "the guest went on by post-copy on {target} while a part of its memory was still on {source}, and one of the two \
             copies is gone: its memory is lost; nothing is removed"
        ),
    )
    .hint(format!(
        "`virsh destroy` what is left of it on {source} and {target}, then `virsh start` it on {target}: its disks there are \
         the current ones, and this goes on; where {source} does not let it be undefined, restart libvirtd there"
    ))
}

/// The cause for a definition at the target of a guest that may have run there, and runs at the source.
pub(super) fn left_at_target(order: &Order) -> Cause {
    let (source, target) = (&order.source.host, &order.target.host);
    Cause::new(
        Reason::DefinedTwice,
        format!(
            "the guest runs on {source}, and {target} has a copy that may have run by post-copy; nothing is removed"
        ),
    )
    .hint(format!("undefine it on {target} if its disks there are not wanted: then this goes on"))
}
