//! What goes wrong at one end or between both, and what libvirt and QEMU make of it.

use super::world::{Answer, Fate, Fault, Libvirtd, Memory, Phase, Qemu, Settle, Side, World};
use crate::{
    evidence::copy,
    port::{Activity, Why},
};

impl World {
    pub(super) fn stops(&mut self, side: Side, activity: Activity, why: Why) {
        let end = self.end_mut(side);
        end.qemu = Qemu::None;
        end.copy = end
            .copy
            .filter(|own| own.persistent)
            .map(|_| copy(activity, why));
    }

    pub(super) fn fault(mut self, fault: Fault) -> Option<Self> {
        let happens = match fault {
            Fault::CopyFails => {
                let copying = self.copying();
                if copying {
                    self.fails(Settle::AsBefore);
                }
                copying
            }
            Fault::GuestStops(side) => self.guest_stops(side),
            Fault::QemuDies(Side::Source, fate) => self.source_dies(fate),
            Fault::QemuDies(Side::Target, fate) => fate == Fate::Resumes && self.target_dies(),
            Fault::LibvirtdDies(Side::Source, fate) => self.source_down(fate),
            Fault::LibvirtdDies(Side::Target, fate) => self.target_down(fate),
            Fault::PowerLost(side, fate) => {
                let happens = self.end(side).libvirtd != Libvirtd::Off
                    && match side {
                        Side::Source => self.source_off(fate),
                        Side::Target => self.target_off(fate),
                    };
                if happens {
                    self.stops(side, Activity::ShutOff, Why::Other);
                    self.end_mut(side).libvirtd = Libvirtd::Off;
                }
                happens
            }
            Fault::TargetSleeps => {
                let finishing = self.finishing();
                if finishing {
                    self.fails(Settle::Resumes(Why::MigrationCanceled));
                    self.clears = false;
                    self.obeys = true;
                    self.target.libvirtd = Libvirtd::Down;
                }
                finishing
            }
            Fault::LinkCut(fate) => self.link_cut(fate),
            Fault::Unheard(side) => {
                let heard = self.answers(side);
                self.end_mut(side).libvirtd = Libvirtd::Unheard;
                heard
            }
        };
        happens.then_some(self)
    }

    fn guest_stops(&mut self, side: Side) -> bool {
        let runs = self.end(side).qemu == Qemu::Runs;
        if runs && self.phase == Phase::PostCopy {
            self.loses_memory(side, Activity::ShutOff, Why::Shutdown);
        } else if runs {
            if side == Side::Source && self.copying() {
                self.fails(Settle::AsBefore);
            }
            if side == Side::Source {
                self.settle = None;
            }
            self.stops(side, Activity::ShutOff, Why::Shutdown);
        }
        runs
    }

    fn source_dies(&mut self, fate: Fate) -> bool {
        match (self.phase, fate) {
            _ if self.source.qemu == Qemu::None => return false,
            (Phase::PostCopy, Fate::Resumes) => {
                self.loses_memory(Side::Source, Activity::Crashed, Why::Other);
                return true;
            }
            (Phase::Switch | Phase::Finish | Phase::Defined | Phase::Confirm, Fate::Finishes) => {
                self.start_target();
                self.leaves();
                return true;
            }
            (Phase::Finish | Phase::Defined | Phase::Confirm, _) => return false,
            (_, Fate::Resumes) => {}
            _ => return false,
        }
        if self.copying() || self.phase == Phase::Switch {
            self.fails(Settle::AsBefore);
        }
        if self.phase == Phase::Stuck {
            self.phase = Phase::Over;
        }
        self.settle = None;
        self.stops(Side::Source, Activity::Crashed, Why::Other);
        true
    }

    fn target_dies(&mut self) -> bool {
        if self.target.qemu == Qemu::None {
            return false;
        }
        if self.phase == Phase::PostCopy {
            self.loses_memory(Side::Target, Activity::Crashed, Why::Other);
            return true;
        }
        if self.copying() {
            self.fails(Settle::AsBefore);
        } else if self.phase == Phase::Switch || self.finishing() {
            self.fails(Settle::Resumes(Why::MigrationCanceled));
        }
        if self.target.qemu == Qemu::Incoming {
            self.target.qemu = Qemu::None;
            self.obeys = false;
            self.clears = true;
        } else {
            self.stops(Side::Target, Activity::Crashed, Why::Other);
        }
        true
    }

    /// Where both libvirtds were killed from the switch on: the source may stay paused,
    fn may_forget(&self) -> bool {
        self.source.qemu == Qemu::Still && self.settle.is_some()
    }

    /// or the target may keep what was to arrive.
    fn may_leave(&self) -> bool {
        matches!(self.settle, Some(Settle::Resumes(_)))
            && self.target.copy.is_some_and(|own| !own.persistent)
    }

    fn source_down(&mut self, fate: Fate) -> bool {
        if !self.up(Side::Source) {
            return false;
        }
        let both = !self.up(Side::Target) && self.clears;
        match (self.phase, fate) {
            (Phase::Called, Fate::Resumes) => {
                self.phase = Phase::Over;
                self.answer = Answer::Failed;
            }
            (Phase::Starting | Phase::Disks | Phase::Memory, Fate::Resumes) => {
                self.fails(Settle::AsBefore);
            }
            (Phase::Switch, Fate::Resumes) => self.fails(Settle::Resumes(Why::Unpaused)),
            (Phase::PostCopy, Fate::Resumes) => {
                self.unseen = true;
                self.answer = Answer::Failed;
            }
            (Phase::Finish | Phase::Defined | Phase::Confirm, Fate::Resumes) => {
                let arrived = self.phase == Phase::Confirm;
                self.fails(Settle::Forgets);
                self.clears = false;
                self.obeys = !arrived;
            }
            (Phase::Ending | Phase::Leaving, Fate::Resumes) => {
                self.phase = Phase::Over;
                self.answer = Answer::Failed;
                self.stops(Side::Source, Activity::ShutOff, Why::Other);
            }
            (Phase::Stuck | Phase::NotBegun, Fate::Resumes) => {}
            (Phase::Over, Fate::Resumes) => {
                if let Some(Settle::Resumes(_) | Settle::AsBefore) = self.settle {
                    self.settle = Some(Settle::Resumes(Why::Unpaused));
                }
            }
            (Phase::Over, Fate::Forgets) if both && self.may_forget() => {
                self.settle = Some(Settle::Forgets);
            }
            (Phase::Over, Fate::Leaves) if both && self.may_leave() => {
                self.settle = Some(Settle::Resumes(Why::Unpaused));
                self.clears = false;
            }
            _ => return false,
        }
        self.source.libvirtd = Libvirtd::Down;
        true
    }

    fn target_down(&mut self, fate: Fate) -> bool {
        if !self.up(Side::Target) {
            return false;
        }
        let both = !self.up(Side::Source) && self.clears;
        match (self.phase, fate) {
            (Phase::Starting | Phase::Disks | Phase::Memory, Fate::Resumes) => {
                self.fails(Settle::AsBefore);
            }
            (Phase::Switch | Phase::Finish | Phase::Defined | Phase::Confirm, Fate::Resumes) => {
                let arrived = self.phase == Phase::Confirm;
                self.fails(Settle::Resumes(Why::MigrationCanceled));
                self.clears = !arrived;
            }
            (Phase::PostCopy, Fate::Resumes) => self.breaks_off(self.memory),
            (Phase::Switch, Fate::Finishes) => {
                self.start_target();
                self.leaves();
            }
            (Phase::Confirm, Fate::Finishes) => self.leaves(),
            (Phase::Switch, Fate::Crashes) => self.crashes(),
            (Phase::Switch, Fate::Hangs) => {
                self.phase = Phase::Stuck;
                self.clears = true;
            }
            (Phase::Over, Fate::Forgets) if both && self.may_forget() => {
                self.settle = Some(Settle::Forgets);
            }
            (Phase::Over, Fate::Leaves) if both && self.may_leave() => self.clears = false,
            (Phase::Over, Fate::Resumes) if self.obeys => {
                self.obeys = false;
                self.clears = true;
            }
            (
                Phase::NotBegun
                | Phase::Called
                | Phase::Ending
                | Phase::Leaving
                | Phase::Stuck
                | Phase::Over,
                Fate::Resumes,
            ) => {}
            _ => return false,
        }
        self.target.libvirtd = Libvirtd::Down;
        true
    }

    /// The source's machine is gone. The target removes what was to arrive, unless it has the order to start it.
    fn source_off(&mut self, fate: Fate) -> bool {
        let phase = self.phase;
        match (phase, fate) {
            (Phase::Called | Phase::Ending | Phase::Leaving, Fate::Resumes) => {
                self.phase = Phase::Over;
                self.answer = Answer::Failed;
            }
            (
                Phase::Starting | Phase::Disks | Phase::Memory | Phase::Switch | Phase::Finish,
                Fate::Resumes,
            ) => self.fails(Settle::AsBefore),
            (Phase::Finish, Fate::Finishes) | (Phase::Defined | Phase::Confirm, Fate::Resumes) => {
                self.fails(Settle::AsBefore);
                self.clears = false;
                self.obeys = phase != Phase::Confirm;
            }
            (Phase::PostCopy, Fate::Resumes) => {
                self.loses_memory(Side::Source, Activity::ShutOff, Why::Other);
            }
            (Phase::Stuck, Fate::Resumes) => self.phase = Phase::Over,
            (Phase::NotBegun | Phase::Over, Fate::Resumes) => {}
            _ => return false,
        }
        self.settle = None;
        true
    }

    /// The target's machine is gone, and nothing of it tells the source so: that is as after a cut.
    fn target_off(&mut self, fate: Fate) -> bool {
        match (self.phase, fate) {
            (Phase::Starting | Phase::Disks | Phase::Memory, Fate::Resumes) => {
                self.fails(Settle::AsBefore);
                self.cut = true;
            }
            (Phase::Switch, Fate::Resumes) => {
                self.fails(Settle::Resumes(Why::Unpaused));
                self.cut = true;
            }
            (Phase::Finish | Phase::Defined | Phase::Confirm, Fate::Resumes) => {
                self.fails(Settle::Resumes(Why::MigrationCanceled));
                self.cut = true;
            }
            (Phase::Confirm, Fate::Finishes) => self.leaves(),
            (Phase::PostCopy, Fate::Resumes) => {
                self.loses_memory(Side::Target, Activity::ShutOff, Why::Other);
            }
            (
                Phase::NotBegun
                | Phase::Called
                | Phase::Ending
                | Phase::Leaving
                | Phase::Stuck
                | Phase::Over,
                Fate::Resumes,
            ) => {}
            _ => return false,
        }
        (self.obeys, self.clears) = (false, false);
        true
    }

    fn crashes(&mut self) {
        self.fails(Settle::AsBefore);
        self.settle = None;
        self.stops(Side::Source, Activity::Crashed, Why::Other);
    }

    fn link_cut(&mut self, fate: Fate) -> bool {
        match (self.phase, fate) {
            (Phase::Called, Fate::Resumes) => {
                self.phase = Phase::Over;
                self.answer = Answer::Failed;
            }
            (Phase::Starting | Phase::Disks | Phase::Memory, Fate::Resumes) => {
                self.fails(Settle::Resumes(Why::MigrationCanceled));
                self.cut = true;
            }
            (Phase::Switch, Fate::Resumes) => {
                self.fails(Settle::Resumes(Why::Unpaused));
                self.cut = true;
            }
            // Soon enough mended it goes on by itself, else it has to be told to.
            (Phase::PostCopy, Fate::Resumes | Fate::Leaves) => {
                let memory = match fate {
                    Fate::Leaves => Memory::Broken,
                    _ => self.memory,
                };
                self.breaks_off(memory);
                self.cut = true;
            }
            // The target obeys at once, the source gives up after a while.
            (Phase::Finish | Phase::Defined | Phase::Confirm, Fate::Resumes) => {
                self.start_target();
                self.fails(Settle::Resumes(Why::MigrationCanceled));
                self.clears = false;
            }
            (Phase::Confirm, Fate::Finishes) => self.leaves(),
            _ => return false,
        }
        true
    }

    /// libvirt is asked to abort: before the switch it does, in it three different ends were measured.
    pub(super) fn abort(mut self, fate: Fate) -> Option<Self> {
        match (self.phase, fate) {
            (Phase::Starting | Phase::Disks | Phase::Memory, Fate::Resumes) => {
                self.fails(Settle::AsBefore);
            }
            (Phase::Switch, Fate::Resumes) => self.fails(Settle::Resumes(Why::MigrationCanceled)),
            (Phase::Switch, Fate::Crashes) => self.crashes(),
            (Phase::Switch | Phase::Finish, Fate::Finishes) => {}
            _ => return None,
        }
        Some(self)
    }
}
