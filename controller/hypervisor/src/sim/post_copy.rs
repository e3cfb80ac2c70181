//! Post-copy: the target runs and the rest of its memory follows, and what becomes of both ends where that breaks.

use std::time::Duration;

use evenkeel_engine::port::{Activity, DomainEvent, Fault, PortResult, Why};
use tokio::sync::oneshot;

use super::{
    migration::{Phase, TICK, refused},
    trouble::{KEEPALIVE, Trouble, closed},
    world::{Qemu, World},
};

/// What a migration remembers of it.
#[derive(Debug)]
pub(super) struct PostCopy {
    /// Whether it was begun with that in mind.
    allowed: bool,
    /// Whether the two QEMUs have lost each other: they wait to be told to go on.
    broken: bool,
    /// Whether the source's libvirtd has lost sight of it: then it keeps the definition.
    unseen: bool,
}

impl PostCopy {
    pub(super) fn new(allowed: bool) -> Self {
        Self {
            allowed,
            broken: false,
            unseen: false,
        }
    }
}

impl World {
    /// The guest is switched over, whatever of its memory is still to come.
    pub(super) fn start_post_copy(&mut self, job: Option<u64>) -> PortResult<()> {
        let own = job.and_then(|id| Some((id, self.moves.get_mut(&id)?)));
        let Some((id, own)) = own.filter(|(_, own)| own.phase == Phase::Memory) else {
            let told = "post-copy can only be started while outgoing migration is in progress";
            return Err(refused(Fault::Invalid, told));
        };
        if !own.post_copy.allowed {
            let told = "switching to post-copy requires migration to be started with VIR_MIGRATE_POSTCOPY flag";
            return Err(refused(Fault::Invalid, told));
        }
        self.switch(id);
        let (guest, _, target) = self.ends(id);
        self.state_of_source(id, Why::PostCopy);
        if let Some(domain) = self.domain(&target, guest) {
            domain.persistent = true;
        }
        self.event(&target, guest, DomainEvent::Defined);
        self.qemu(&target, guest, Qemu::Runs);
        self.state(&target, guest, Activity::Running, Why::PostCopy);
        self.event(&target, guest, DomainEvent::Resumed);
        if let Some(own) = self.moves.get_mut(&id) {
            own.phase = Phase::PostCopy;
        }
        Ok(())
    }

    /// What follows in one tick.
    pub(super) fn copy_after(&mut self, id: u64, bytes: u64) {
        let (guest, source, target) = self.ends(id);
        let Some(own) = self.moves.get_mut(&id) else {
            return;
        };
        if own.post_copy.broken {
            return;
        }
        own.memory_done += bytes.min(own.memory_left);
        own.memory_left = own.memory_left.saturating_sub(bytes);
        if own.memory_left > 0 {
            return;
        }
        own.phase = Phase::End;
        let (unseen, mark) = (own.post_copy.unseen, own.mark.clone());
        if let Some(domain) = self.domain(&target, guest) {
            domain.incoming = None;
            domain.mark = mark.or(domain.mark.take());
        }
        self.arrivals += 1;
        self.later(TICK, Some(&target.clone()), move |world| {
            let there = world.domain(&target, guest);
            if there.is_some_and(|own| own.why == Why::PostCopy) {
                world.state(&target, guest, Activity::Running, Why::Migrated);
                world.event(&target, guest, DomainEvent::ResumedMigrated);
            }
        });
        if unseen {
            self.moves.remove(&id);
            self.qemu(&source, guest, Qemu::None);
            self.later(TICK, Some(&source.clone()), move |world| {
                world.stopped(&source, guest, Activity::ShutOff, Why::LeftByMigration);
            });
        }
    }

    /// True where nothing travels in this tick.
    pub(super) fn in_post_copy(&mut self, id: u64, trouble: Trouble) -> bool {
        let (guest, source, target) = self.ends(id);
        match trouble {
            Trouble::SourceOff | Trouble::SourceStopped => {
                self.qemu(&target, guest, Qemu::Still);
                self.later(Duration::ZERO, Some(&target.clone()), move |world| {
                    let there = world.domain(&target, guest);
                    if there.is_some_and(|own| own.activity == Activity::Running) {
                        world.state(&target, guest, Activity::Running, Why::PostCopyFailed);
                    }
                });
                self.tell_client(id);
                self.moves.remove(&id);
            }
            Trouble::TargetStopped => {
                self.fails_at_source(id);
                self.break_off(id);
            }
            // The QEMUs need no libvirtd.
            Trouble::SourceDown => {
                self.lose_sight(id);
                return false;
            }
            Trouble::TargetDown => {
                self.fails_at_source(id);
                return false;
            }
            Trouble::Silence { lasted, frozen } => {
                if lasted >= KEEPALIVE {
                    self.fails_at_source(id);
                }
                if !frozen && lasted >= self.nature.gives_up {
                    self.fails_at_source(id);
                    self.break_off(id);
                    self.later(Duration::ZERO, Some(&target.clone()), move |world| {
                        let there = world.domain(&target, guest);
                        if there.is_some_and(|own| own.why == Why::PostCopy) {
                            world.state(&target, guest, Activity::Running, Why::PostCopyFailed);
                        }
                    });
                }
                return !frozen;
            }
            Trouble::Aborted => {
                if let Some(own) = self.moves.get_mut(&id) {
                    own.abort = false;
                }
                tracing::debug!(source, "cannot abort migration in post-copy mode");
                return false;
            }
        }
        true
    }

    /// The source's libvirtd is asked to go on.
    pub(super) fn recover_post_copy(
        &mut self,
        job: Option<u64>,
        target: &str,
        answer: oneshot::Sender<PortResult<()>>,
    ) -> PortResult<()> {
        let own = job.and_then(|id| Some((id, self.moves.get_mut(&id)?)));
        let Some((id, own)) = own.filter(|(_, own)| own.phase == Phase::PostCopy) else {
            let told = "migration of domain is not in post-copy phase";
            return Err(refused(Fault::Invalid, told));
        };
        if !own.post_copy.broken {
            let told = "QEMU reports migration is still running";
            return Err(refused(Fault::Invalid, told));
        }
        let (guest, source, to) = self.ends(id);
        if target != to || self.reach(&source, &to) != super::world::Reach::Open {
            return Err(refused(
                Fault::PeerUnreachable,
                "unable to connect to server",
            ));
        }
        if self
            .domain(&to, guest)
            .is_none_or(|own| own.qemu == Qemu::None)
        {
            return Err(refused(Fault::PeerFailed, "domain is not running"));
        }
        self.state_of_source(id, Why::PostCopy);
        self.state(&to, guest, Activity::Running, Why::PostCopy);
        if let Some(own) = self.moves.get_mut(&id) {
            own.post_copy.broken = false;
            own.post_copy.unseen = false;
            own.answer = Some(answer);
        }
        Ok(())
    }

    fn break_off(&mut self, id: u64) {
        if let Some(own) = self.moves.get_mut(&id) {
            own.post_copy.broken = true;
        }
    }

    /// The source's libvirtd takes it for broken, whatever the QEMUs do.
    fn fails_at_source(&mut self, id: u64) {
        let (guest, source, _) = self.ends(id);
        let failed = self.domain(&source, guest);
        if failed.is_some_and(|own| own.why != Why::PostCopyFailed) {
            self.state_of_source(id, Why::PostCopyFailed);
            self.event(&source, guest, DomainEvent::Suspended);
        }
        self.lose_sight(id);
    }

    fn lose_sight(&mut self, id: u64) {
        self.tell_client(id);
        if let Some(own) = self.moves.get_mut(&id) {
            own.post_copy.unseen = true;
        }
    }

    fn state_of_source(&mut self, id: u64, why: Why) {
        let (guest, source, _) = self.ends(id);
        self.state(&source, guest, Activity::Paused, why);
    }

    fn tell_client(&mut self, id: u64) {
        if let Some(own) = self.moves.get_mut(&id) {
            own.answer(Err(closed()));
        }
    }
}
