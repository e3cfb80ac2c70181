//! What goes wrong with a migration, and how each end is left then: the table of what was measured.

use std::time::Duration;

use evenkeel_engine::port::{Activity, Fault, PortError, Why};
use tokio::time::Instant;

use super::{
    migration::{Move, Phase},
    spec::SwitchFate,
    world::{Daemon, Qemu, World, pair},
};

/// How long a libvirtd without sign of life is taken for alive by its peer: keepalive 5 s x 5, and a little.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(28);
/// How long TCP waits at most after a silence before it sends again.
const SLOW_START: Duration = Duration::from_secs(13);

/// What has befallen a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    SourceOff,
    SourceDown,
    SourceStopped,
    /// The ends do not hear each other, for so long. `frozen`: only the target's libvirtd sleeps, data still flows.
    Silence {
        lasted: Duration,
        frozen: bool,
    },
    TargetDown,
    TargetStopped,
    Aborted,
}

pub(super) fn closed() -> PortError {
    PortError::new(
        Fault::PeerFailed,
        "operation failed: client socket is closed",
    )
}

impl World {
    /// Lets a migration suffer what has befallen it. True where it does not go on in this tick.
    pub(super) fn suffer(&mut self, id: u64) -> bool {
        let Some(trouble) = self.trouble(id) else {
            let now = Instant::now();
            return self
                .moves
                .get(&id)
                .is_none_or(|own| own.slow.is_some_and(|slow| now < slow));
        };
        match self.moves[&id].phase {
            Phase::Connect => self.in_connect(id, trouble),
            Phase::Prepare | Phase::Disks | Phase::Memory => self.in_copy(id, trouble),
            Phase::Switch => self.in_switch(id, trouble),
            Phase::Finish => self.in_finish(id, trouble),
            Phase::Confirm => self.in_confirm(id, trouble),
            Phase::End => self.in_end(id, trouble),
            Phase::PostCopy => self.in_post_copy(id, trouble),
            Phase::Stuck => {
                if matches!(trouble, Trouble::SourceOff | Trouble::SourceStopped) {
                    self.moves.remove(&id);
                }
                true
            }
        }
    }

    /// Whether a move's link is dead now, and whether its target stands still.
    pub(super) fn silence(&self, own: &Move) -> (bool, bool) {
        let (source, target) = (&self.machines[&own.source], &self.machines[&own.target]);
        let cut = !target.powered
            || source.daemon == Daemon::Hung
            || self.cuts.contains(&pair(&own.source, &own.target));
        (cut, !cut && target.daemon == Daemon::Hung)
    }

    fn trouble(&mut self, id: u64) -> Option<Trouble> {
        let own = self.moves.get(&id)?;
        let (source, target) = (&self.machines[&own.source], &self.machines[&own.target]);
        let stopped = |domain: Option<&super::world::Domain>| {
            domain.is_none_or(|domain| domain.qemu == Qemu::None)
        };
        let (cut, frozen) = self.silence(own);
        let now = Instant::now();
        let trouble = if !source.powered {
            Some(Trouble::SourceOff)
        // A client's end does to both ends what the source's libvirtd's does.
        } else if source.daemon == Daemon::Down || own.is_left() {
            Some(Trouble::SourceDown)
        } else if stopped(source.domains.get(&own.guest)) {
            Some(Trouble::SourceStopped)
        } else if cut || frozen {
            let since = own.silent.unwrap_or(now);
            Some(Trouble::Silence {
                lasted: now - since,
                frozen,
            })
        } else if target.daemon == Daemon::Down {
            Some(Trouble::TargetDown)
        } else if stopped(target.domains.get(&own.guest)) {
            Some(Trouble::TargetStopped)
        } else {
            own.abort.then_some(Trouble::Aborted)
        };
        let own = self.moves.get_mut(&id)?;
        if matches!(trouble, Some(Trouble::Silence { .. })) {
            own.silent.get_or_insert(now);
        } else if let Some(since) = own.silent.take() {
            own.slow = Some(now + (now - since).min(SLOW_START));
        }
        trouble
    }

    fn in_connect(&mut self, id: u64, trouble: Trouble) -> bool {
        match trouble {
            Trouble::SourceOff => drop(self.moves.remove(&id)),
            Trouble::SourceDown => {
                self.drop_job(id);
                self.moves.remove(&id);
            }
            Trouble::SourceStopped => {
                let stopped = PortError::new(Fault::DomainStopped, "domain is not running");
                self.over(id, Duration::from_secs(2), stopped);
            }
            Trouble::Aborted => {
                self.settle(id, Duration::from_millis(500), None);
                let cancelled = PortError::new(Fault::Aborted, "canceled by client");
                self.over(id, Duration::from_millis(500), cancelled);
            }
            Trouble::Silence { .. } | Trouble::TargetDown | Trouble::TargetStopped => return false,
        }
        true
    }

    fn in_copy(&mut self, id: u64, trouble: Trouble) -> bool {
        let phase = self.moves[&id].phase;
        let (guest, source, target) = self.ends(id);
        match trouble {
            Trouble::SourceOff => {
                self.clear_target(id, KEEPALIVE);
                self.moves.remove(&id);
            }
            Trouble::SourceDown => {
                let clear = self.chance.millis(1500, 2300);
                self.clear_target(id, clear);
                self.settle(id, Duration::from_millis(200), None);
                self.moves.remove(&id);
            }
            Trouble::SourceStopped => {
                let clear = self.chance.millis(2000, 4000);
                self.clear_target(id, clear);
                let stopped = PortError::new(Fault::DomainStopped, "domain is not running");
                self.over(id, Duration::from_secs(2), stopped);
            }
            Trouble::Silence {
                lasted,
                frozen: true,
            } => {
                if lasted >= KEEPALIVE {
                    self.clear_target(id, Duration::ZERO);
                    self.settle(id, Duration::from_millis(100), None);
                    self.over(id, Duration::from_millis(100), closed());
                }
                return phase == Phase::Prepare;
            }
            Trouble::Silence { lasted, .. } => {
                let gives_up = match phase {
                    Phase::Prepare => KEEPALIVE,
                    _ => self.nature.gives_up,
                };
                if lasted >= gives_up {
                    self.clear_target(id, KEEPALIVE.saturating_sub(lasted));
                    self.settle(id, Duration::from_millis(100), None);
                    self.over(id, Duration::from_millis(100), closed());
                } else {
                    if lasted >= KEEPALIVE {
                        self.clear_target(id, Duration::ZERO);
                    }
                    // libvirt cancels the mirror, and QEMU waits for the network.
                    let cancels = lasted >= KEEPALIVE || self.moves[&id].abort;
                    if cancels && phase == Phase::Memory {
                        self.qemu(&source, guest, Qemu::Still);
                    }
                }
            }
            Trouble::TargetDown => {
                if phase == Phase::Memory {
                    self.qemu(&target, guest, Qemu::None);
                }
                let clear = self.chance.millis(500, 1500);
                self.clear_target(id, clear);
                self.settle(id, Duration::from_millis(100), None);
                self.over(id, Duration::from_millis(100), closed());
            }
            Trouble::TargetStopped => {
                let settle = self.chance.millis(800, 3000);
                self.clear_target(id, Duration::from_millis(200));
                self.settle(id, settle, None);
                let lost =
                    PortError::new(Fault::PeerFailed, "Unable to write to socket: Broken pipe");
                self.over(id, settle, lost);
            }
            Trouble::Aborted => {
                let settle = self.chance.millis(1300, 4000);
                self.clear_target(id, settle);
                self.settle(id, settle, None);
                let cancelled =
                    PortError::new(Fault::Aborted, "job 'migration out' canceled by client");
                self.over(id, settle, cancelled);
            }
        }
        true
    }

    fn in_switch(&mut self, id: u64, trouble: Trouble) -> bool {
        let (guest, source, target) = self.ends(id);
        match trouble {
            Trouble::SourceOff => {
                self.clear_target(id, KEEPALIVE);
                self.moves.remove(&id);
            }
            Trouble::SourceDown => self.source_down_in_switch(id),
            Trouble::SourceStopped => {
                if self.chance.percent(10) {
                    return false;
                }
                let clear = self.chance.millis(1000, 3000);
                self.clear_target(id, clear);
                let gone = PortError::new(Fault::DomainStopped, "domain is not running");
                self.over(id, Duration::from_secs(2), gone);
            }
            // It goes on, and then waits for Finish.
            Trouble::Silence { frozen: true, .. } => return false,
            Trouble::Silence { lasted, .. } => {
                if lasted >= self.nature.gives_up {
                    self.clear_target(id, KEEPALIVE.saturating_sub(lasted));
                    self.settle(id, Duration::from_millis(100), Some(Why::Unpaused));
                    self.over(id, Duration::from_millis(100), closed());
                } else if lasted >= KEEPALIVE {
                    self.clear_target(id, Duration::ZERO);
                }
            }
            Trouble::TargetDown => {
                let fate = self.fate();
                let resume = self.chance.millis(100, 2000);
                let why = if self.chance.percent(50) {
                    Why::Unpaused
                } else {
                    Why::MigrationCanceled
                };
                match fate {
                    SwitchFate::Finishes => {
                        self.start_target(id);
                        if let Some(own) = self.moves.get_mut(&id) {
                            own.phase = Phase::End;
                        }
                        return true;
                    }
                    SwitchFate::Resumes => self.settle(id, resume, Some(why)),
                    SwitchFate::Crashes => {
                        self.stopped(&source, guest, Activity::Crashed, Why::Other)
                    }
                    SwitchFate::Hangs => {
                        self.qemu(&target, guest, Qemu::None);
                        self.clear_target(id, Duration::from_millis(500));
                        if let Some(own) = self.moves.get_mut(&id) {
                            own.phase = Phase::Stuck;
                        }
                        return true;
                    }
                }
                self.clear_target(id, Duration::from_millis(500));
                self.over(id, Duration::from_millis(100), closed());
            }
            Trouble::TargetStopped => {
                let resume = self.chance.millis(100, 2000);
                self.clear_target(id, Duration::from_millis(200));
                self.settle(id, resume, Some(Why::MigrationCanceled));
                let failed =
                    PortError::new(Fault::PeerFailed, "job 'migration out' unexpectedly failed");
                self.over(id, resume, failed);
            }
            Trouble::Aborted => {
                if let Some(own) = self.moves.get_mut(&id) {
                    own.abort = false;
                }
                if self.chance.percent(56) {
                    return false;
                }
                let cancelled =
                    PortError::new(Fault::Aborted, "job 'migration out' canceled by client");
                let settle = self.chance.millis(100, 2000);
                self.clear_target(id, settle);
                if self.chance.percent(25) {
                    self.stopped(&source, guest, Activity::Crashed, Why::Other);
                } else {
                    self.settle(id, settle, Some(Why::MigrationCanceled));
                }
                self.over(id, settle, cancelled);
            }
        }
        true
    }

    fn source_down_in_switch(&mut self, id: u64) {
        let (guest, source, target) = self.ends(id);
        let both = self.machines[&target].daemon == Daemon::Down;
        let stays = both && self.chance.percent(22);
        let leftover = both && !stays && self.chance.percent(14);
        if leftover {
            if let Some(domain) = self.domain(&target, guest) {
                domain.incoming = None;
            }
        } else {
            let clear = self.chance.millis(300, 2000);
            self.clear_target(id, clear);
        }
        let by_itself = !both && self.chance.percent(85);
        if by_itself {
            let name = source.clone();
            let after = self.chance.millis(100, 1000);
            self.later(after, None, move |world| {
                let still = world
                    .domain(&name, guest)
                    .is_some_and(|domain| domain.qemu == Qemu::Still);
                if still && world.machines[&name].powered {
                    world.qemu(&name, guest, Qemu::Runs);
                }
            });
        }
        if stays {
            self.drop_job(id);
        } else {
            self.settle(id, Duration::from_millis(200), Some(Why::Unpaused));
        }
        self.moves.remove(&id);
    }

    fn in_finish(&mut self, id: u64, trouble: Trouble) -> bool {
        let (guest, source, target) = self.ends(id);
        let heard = self.chance.millis(19_000, 23_000);
        match trouble {
            Trouble::SourceOff => {
                self.start_target(id);
                self.moves.remove(&id);
            }
            Trouble::SourceDown => {
                self.start_target(id);
                self.drop_job(id);
                self.moves.remove(&id);
            }
            Trouble::SourceStopped => self.source_left(id),
            Trouble::Silence {
                lasted,
                frozen: true,
            } => {
                if lasted >= Duration::from_secs(26) {
                    self.settle(id, Duration::ZERO, Some(Why::MigrationCanceled));
                    // It still obeys when it wakes.
                    self.later(Duration::from_millis(50), Some(&target), {
                        let target = target.clone();
                        move |world| {
                            let waits = world
                                .domain(&target, guest)
                                .is_some_and(|own| own.incoming == Some(id));
                            if waits {
                                world.run_here(&target, guest, false);
                            }
                        }
                    });
                    self.over(id, Duration::ZERO, closed());
                }
            }
            Trouble::Silence { .. }
                if self.machines[&target].powered
                    && self.machines[&source].daemon == Daemon::Up =>
            {
                self.start_target(id);
                self.settle(id, heard, Some(Why::MigrationCanceled));
                self.over(id, heard, closed());
            }
            Trouble::Silence { .. } if self.machines[&target].powered => {
                // The source's libvirtd sleeps; its word had gone out already.
                self.start_target(id);
            }
            Trouble::Silence { .. } => {
                self.settle(id, heard, Some(Why::MigrationCanceled));
                self.over(id, heard, closed());
            }
            Trouble::TargetDown | Trouble::TargetStopped => {
                if let Some(domain) = self.domain(&target, guest) {
                    domain.persistent = false;
                }
                self.clear_target(id, Duration::from_millis(500));
                self.settle(id, Duration::from_millis(100), Some(Why::MigrationCanceled));
                self.over(id, Duration::from_millis(100), closed());
            }
            Trouble::Aborted => return false,
        }
        true
    }

    fn in_confirm(&mut self, id: u64, trouble: Trouble) -> bool {
        let lost = self
            .nature
            .answer_lost
            .unwrap_or_else(|| self.chance.percent(60));
        let canceled = Some(Why::MigrationCanceled);
        match trouble {
            Trouble::SourceOff => drop(self.moves.remove(&id)),
            Trouble::SourceDown => {
                self.drop_job(id);
                self.moves.remove(&id);
            }
            Trouble::SourceStopped => self.source_left(id),
            Trouble::TargetDown if lost => {
                self.settle(id, Duration::from_millis(100), canceled);
                self.over(id, Duration::from_millis(100), closed());
            }
            Trouble::Silence { .. }
                if lost && self.machines[&self.moves[&id].source].daemon == Daemon::Up =>
            {
                let heard = self.chance.millis(19_000, 23_000);
                self.settle(id, heard, canceled);
                self.over(id, heard, closed());
            }
            Trouble::Silence { .. }
            | Trouble::TargetDown
            | Trouble::TargetStopped
            | Trouble::Aborted => {
                return false;
            }
        }
        true
    }

    fn in_end(&mut self, id: u64, trouble: Trouble) -> bool {
        let (guest, source, _) = self.ends(id);
        match trouble {
            Trouble::SourceOff => drop(self.moves.remove(&id)),
            Trouble::SourceDown => {
                // Its QEMU was told to quit; its definition was not removed yet.
                self.qemu(&source, guest, Qemu::None);
                let host = source.clone();
                self.later(Duration::from_millis(100), Some(&source), move |world| {
                    world.stopped(&host, guest, Activity::ShutOff, Why::Other);
                });
                self.moves.remove(&id);
            }
            Trouble::SourceStopped => self.source_left(id),
            _ => return false,
        }
        true
    }
}
