//! What each end does in the seconds after a migration went wrong.

use std::time::Duration;

use evenkeel_engine::port::{Activity, DomainEvent, Fault, PortError, Why};
use uuid::Uuid;

use super::{
    migration::Phase,
    spec::SwitchFate,
    world::{Qemu, Tiding, World},
};

impl World {
    /// The target's pool is full.
    pub(super) fn fail_for_room(&mut self, id: u64) {
        let settle = self.chance.millis(2000, 4600);
        self.clear_target(id, settle);
        self.settle(id, settle, None);
        let full = PortError::new(
            Fault::NoSpace,
            "migration of disk vda failed: No space left on device",
        );
        self.over(id, settle, full);
    }

    pub(super) fn fate(&mut self) -> SwitchFate {
        if let Some(fate) = self.nature.switch_fate {
            return fate;
        }
        let by_chance = [
            (12, SwitchFate::Hangs),
            (8, SwitchFate::Crashes),
            (7, SwitchFate::Finishes),
        ];
        let hit = by_chance
            .into_iter()
            .find(|(percent, _)| self.chance.percent(*percent));
        hit.map_or(SwitchFate::Resumes, |(_, fate)| fate)
    }

    pub(super) fn ends(&self, id: u64) -> (Uuid, String, String) {
        let own = &self.moves[&id];
        (own.guest, own.source.clone(), own.target.clone())
    }

    /// The source's QEMU died after the target had everything: it leaves as if all were well.
    pub(super) fn source_left(&mut self, id: u64) {
        if self.moves[&id].phase == Phase::Finish {
            self.start_target(id);
        }
        let (guest, source, _) = self.ends(id);
        self.later(
            Duration::from_secs(1),
            Some(&source.clone()),
            move |world| world.forget(&source, guest),
        );
        if let Some(mut own) = self.moves.remove(&id) {
            own.answer(Ok(()));
        }
    }

    /// The migration is over; its client hears so after a while.
    pub(super) fn over(&mut self, id: u64, after: Duration, error: PortError) {
        if let Some(mut own) = self.moves.remove(&id) {
            let source = own.source.clone();
            self.later(after, Some(&source), move |_| own.answer(Err(error)));
        }
    }

    /// The source's libvirtd forgets its job and leaves the domain as it is.
    pub(super) fn drop_job(&mut self, id: u64) {
        let (guest, source, _) = self.ends(id);
        self.later(
            Duration::from_millis(200),
            Some(&source.clone()),
            move |world| {
                if let Some(domain) = world.domain(&source, guest) {
                    domain.job = None;
                }
                world.tell(&source, Tiding::Changed(guest));
            },
        );
    }

    /// The source's libvirtd ends its job, and lets the guest go on as it was when the job began: also one that a user has
    /// paused since, and not one that was paused before.
    pub(super) fn settle(&mut self, id: u64, after: Duration, why: Option<Why>) {
        let (guest, source, _) = self.ends(id);
        let executed = self.moves[&id].executes;
        self.later(after, Some(&source.clone()), move |world| {
            let Some(domain) = world
                .domain(&source, guest)
                .filter(|domain| domain.job == Some(id))
            else {
                return;
            };
            domain.job = None;
            let (activity, before) = (domain.activity, domain.why);
            match domain.qemu {
                Qemu::Still if executed => {
                    world.qemu(&source, guest, Qemu::Runs);
                    world.state(&source, guest, Activity::Running, why.unwrap_or(before));
                    world.event(&source, guest, DomainEvent::Resumed);
                }
                Qemu::Runs => world.state(&source, guest, Activity::Running, why.unwrap_or(before)),
                Qemu::Still | Qemu::None => world.state(&source, guest, activity, before),
            }
        });
    }

    /// The target's libvirtd ends what was to arrive.
    pub(super) fn clear_target(&mut self, id: u64, after: Duration) {
        let (guest, _, target) = self.ends(id);
        self.later(after, Some(&target.clone()), move |world| {
            let incoming = world
                .domain(&target, guest)
                .is_some_and(|domain| domain.incoming == Some(id));
            if incoming {
                world.stopped(&target, guest, Activity::ShutOff, Why::Failed);
            }
        });
    }
}
