//! What the program does with a verdict: the acts of `life/watch.rs`, `life/clean.rs` and `life/prepare.rs`, one
//! step each, so that the world may move between any two of them.

use super::world::{Answer, Fate, Memory, Newest, Phase, Qemu, Side, World};
use crate::{
    evidence::{Arrival, Copy, Seen, Verdict},
    port::{Activity, Why},
};

/// What a look is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Watch,
    /// The second look, right before an act.
    Again(Verdict),
    GiveUp,
    Clean,
}

/// How the program says that the move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    Prepared,
    /// About to look; the target is looked at first.
    Looks(Purpose, Option<Seen>),
    /// About to act on this.
    Acts(Verdict),
    SuspendsSource,
    Removes(Side),
    RemovesJournals,
    TakesBack,
    Down,
    Ended(Told),
}

/// An act that must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Harm {
    RanItTwice,
    RanAnOlderState,
    DestroyedTheOnlyOne,
    SuspendedTheOnlyOne,
    BrokeTheSwitch,
    UndefinedTheOnlyOne,
    RemovedTheNewest,
    RemovedFilesInUse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Controller {
    /// Whether libvirt's call is under way in this process.
    pub(super) call: bool,
    pub(super) arrived: bool,
    pub(super) uncertain: bool,
    pub(super) doing: Doing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) controller: Controller,
    pub(super) faults: u8,
    /// What the world has done since the program looked at one end and has not gone on from that.
    pub(super) since: u8,
    /// Whether a user may still ask for an abort.
    pub(super) abort: bool,
    /// The first harm that was done, and whether libvirt had doubled the guest by then.
    pub(super) harm: Option<(Harm, bool)>,
}

/// The rule of decision, as it is or broken on purpose.
pub(super) type Decide = fn(Seen, Seen, Arrival) -> Verdict;

/// What the program does by: how it decides, and its habits, each as it is or broken on purpose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) decide: Decide,
    /// It waits for a call that may still be on its way.
    pub(super) calm: bool,
    /// It looks again right before an act.
    pub(super) looks_again: bool,
    /// It lets go of what it once saw, where it does not see that again.
    pub(super) lets_go: bool,
    /// It turned autostart off at the source before it began.
    pub(super) autostart_off: bool,
}

pub(super) const RULES: Rules = Rules {
    decide: crate::evidence::decide,
    calm: true,
    looks_again: true,
    lets_go: true,
    autostart_off: true,
};

/// The program's own steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Begin,
    GiveUp,
    CallReturns,
    Look,
    Do,
    Abort(Fate),
    Restart,
    /// A second move, to a third host, from its first step to its last.
    MovesElsewhere,
    SwitchesToPostCopy,
}

pub(super) const ACTS: [Act; 11] = [
    Act::Begin,
    Act::CallReturns,
    Act::Look,
    Act::Do,
    Act::Restart,
    Act::MovesElsewhere,
    Act::SwitchesToPostCopy,
    Act::GiveUp,
    Act::Abort(Fate::Resumes),
    Act::Abort(Fate::Finishes),
    Act::Abort(Fate::Crashes),
];

impl Controller {
    /// Nothing where it does not live.
    pub(super) fn dies(mut self) -> Option<Self> {
        if matches!(self.doing, Doing::Down | Doing::Ended(_)) {
            return None;
        }
        self.call = false;
        self.arrived = false;
        self.uncertain = true;
        self.doing = Doing::Down;
        Some(self)
    }
}

const WATCHES: Doing = Doing::Looks(Purpose::Watch, None);

impl State {
    pub(super) fn prepared(arrival: Arrival, rules: Rules) -> Self {
        let mut world = World::prepared(arrival);
        world.source.autostart = !rules.autostart_off;
        Self {
            world,
            controller: Controller {
                call: false,
                arrived: false,
                uncertain: false,
                doing: Doing::Prepared,
            },
            faults: 0,
            since: 0,
            abort: true,
            harm: None,
        }
    }

    /// Whether nothing of this move is left to be done by anybody.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.controller.doing, Doing::Ended(_) | Doing::Down) && !self.journals()
    }

    /// Whether the program is at work, so that the world has not time for much.
    pub(super) fn is_short(&self) -> bool {
        matches!(
            self.controller.doing,
            Doing::Looks(_, Some(_)) | Doing::Acts(_) | Doing::SuspendsSource | Doing::Removes(_)
        )
    }

    /// Whether the end that the act depends on has been looked at for the last time.
    pub(super) fn is_acting(&self) -> bool {
        matches!(
            self.controller.doing,
            Doing::Acts(_)
                | Doing::SuspendsSource
                | Doing::Looks(Purpose::Again(Verdict::DiscardPausedSource), Some(_))
        )
    }

    fn journals(&self) -> bool {
        self.world.source.journal || self.world.target.journal
    }

    /// Does one step of the program; nothing where it is not at that.
    pub(super) fn act(mut self, act: Act, rules: Rules) -> Option<Self> {
        let before = self;
        self.since = 0;
        match (act, self.controller.doing) {
            (Act::Begin, Doing::Prepared) => {
                self.world.phase = Phase::Called;
                self.controller.call = true;
                self.controller.doing = WATCHES;
            }
            (Act::GiveUp, Doing::Prepared) => {
                self.controller.doing = Doing::Looks(Purpose::GiveUp, None);
            }
            (Act::CallReturns, WATCHES) if self.controller.call => self.call_returns()?,
            (Act::Look, Doing::Looks(purpose, target)) => self.look(purpose, target, rules)?,
            (Act::Do, Doing::Acts(verdict)) => self.does(verdict),
            (Act::Do, Doing::SuspendsSource) => {
                self.suspend_source();
                self.controller.doing = WATCHES;
            }
            (Act::Do, Doing::Removes(side)) => self.remove_files(side),
            (Act::Do, Doing::RemovesJournals) => self.remove_journals(),
            (Act::Do, Doing::TakesBack) => self.take_back(),
            (Act::Abort(fate), WATCHES) if self.abort && self.world.answers(Side::Source) => {
                let copying = (rules.decide)(
                    self.world.seen(Side::Source),
                    self.world.seen(Side::Target),
                    self.world.arrival,
                ) == Verdict::Copying;
                if !copying && !self.controller.call {
                    return None;
                }
                self.world = self.world.abort(fate)?;
                self.abort = false;
            }
            (Act::SwitchesToPostCopy, WATCHES) if self.world.answers(Side::Source) => {
                self.world = self.world.starts_post_copy()?;
            }
            (Act::MovesElsewhere, Doing::Ended(Told::Failed)) => {
                self.world = self.world.goes_elsewhere()?;
            }
            (Act::Restart, Doing::Down) => self.restart(false)?,
            (Act::Restart, Doing::Ended(_)) => self.restart(true)?,
            _ => return None,
        }
        (Self { since: 0, ..before } != self).then_some(self)
    }

    /// A new process knows what the journals say, and nothing else. So it is with a journal that a silent target kept.
    fn restart(&mut self, ended: bool) -> Option<()> {
        if !self.world.answers(Side::Source)
            || !self.journals()
            || ended && !self.world.answers(Side::Target)
        {
            return None;
        }
        self.controller = Controller {
            call: false,
            arrived: false,
            uncertain: true,
            doing: WATCHES,
        };
        Some(())
    }

    fn call_returns(&mut self) -> Option<()> {
        if self.world.answers(Side::Source) {
            if self.world.answer == Answer::None {
                return None;
            }
            self.controller.arrived = self.world.answer == Answer::Arrived;
        } else {
            self.controller.uncertain = true;
        }
        self.controller.call = false;
        Some(())
    }

    fn look(&mut self, purpose: Purpose, target: Option<Seen>, rules: Rules) -> Option<()> {
        // While its call is under way the program looks only once the switch takes too long.
        if purpose == Purpose::Watch && self.controller.call && self.world.phase < Phase::Switch {
            return None;
        }
        let Some(target) = target else {
            let seen = self.world.seen(Side::Target);
            self.controller.doing = Doing::Looks(purpose, Some(seen));
            return Some(());
        };
        let source = self.world.seen(Side::Source);
        let verdict = (rules.decide)(source, target, self.world.arrival);
        self.controller.doing = match (purpose, verdict) {
            (Purpose::Watch, _) => self.watch(verdict, source, rules),
            (Purpose::Again(first), _) if first == verdict => Doing::Acts(verdict),
            (Purpose::Again(_), _) if rules.lets_go => WATCHES,
            (Purpose::Again(_), _) => Doing::Looks(purpose, None),
            (
                Purpose::GiveUp,
                Verdict::Stayed
                | Verdict::StayedTargetSilent
                | Verdict::StoppedAtSource
                | Verdict::CrashedAtSource,
            ) => Doing::TakesBack,
            (
                Purpose::Clean,
                Verdict::Moved
                | Verdict::StoppedAtTarget {
                    defined: false,
                    orderly: true,
                },
            ) => Doing::Removes(Side::Source),
            (Purpose::Clean, _) => WATCHES,
            (Purpose::GiveUp, _) => Doing::Looks(purpose, None),
        };
        Some(())
    }

    fn watch(&mut self, verdict: Verdict, source: Seen, rules: Rules) -> Doing {
        let passive = matches!(
            verdict,
            Verdict::Wait(_) | Verdict::Switching | Verdict::Copying | Verdict::PostCopy
        );
        if passive {
            return WATCHES;
        }
        self.controller.call = false;
        match verdict {
            // Some seconds without a job are waited for: the model takes a call to arrive within them.
            Verdict::Stayed | Verdict::StayedTargetSilent
                if rules.calm && self.controller.uncertain && self.world.phase == Phase::Called =>
            {
                WATCHES
            }
            Verdict::Stayed
            | Verdict::StayedTargetSilent
            | Verdict::StoppedAtSource
            | Verdict::CrashedAtSource => Doing::TakesBack,
            Verdict::Lost if self.world.is_elsewhere() => Doing::TakesBack,
            Verdict::Moved => self.settles_target(),
            Verdict::StoppedAtTarget {
                defined: false,
                orderly: true,
            } if self.controller.arrived => self.settles_target(),
            Verdict::UndefineSource
            | Verdict::DiscardPausedSource
            | Verdict::DestroyTargetLeftover
            | Verdict::UndefineTargetLeftover
            | Verdict::ResumeSource
            | Verdict::ResumeTarget
            | Verdict::RecoverPostCopy
                if rules.looks_again =>
            {
                Doing::Looks(Purpose::Again(verdict), None)
            }
            Verdict::UndefineSource
            | Verdict::DiscardPausedSource
            | Verdict::DestroyTargetLeftover
            | Verdict::UndefineTargetLeftover
            | Verdict::ResumeSource
            | Verdict::ResumeTarget
            | Verdict::RecoverPostCopy => Doing::Acts(verdict),
            Verdict::RunsTwice => match source {
                Seen::Present(copy) if copy.activity != Activity::Paused => Doing::SuspendsSource,
                _ => WATCHES,
            },
            _ => WATCHES,
        }
    }

    /// The target has it: autostart comes on there before the source is cleaned.
    fn settles_target(&mut self) -> Doing {
        if !self.world.answers(Side::Target) {
            return WATCHES;
        }
        self.world.target.autostart = true;
        Doing::Looks(Purpose::Clean, None)
    }

    fn does(&mut self, verdict: Verdict) {
        self.controller.doing = WATCHES;
        match verdict {
            Verdict::UndefineSource => self.undefine(Side::Source),
            Verdict::DiscardPausedSource => {
                if self.world.source.copy.is_some_and(|copy| copy.persistent) {
                    self.undefine(Side::Source);
                } else {
                    self.destroy(Side::Source);
                }
            }
            Verdict::DestroyTargetLeftover => self.destroy(Side::Target),
            Verdict::UndefineTargetLeftover => self.undefine(Side::Target),
            Verdict::ResumeSource => self.resume(Side::Source),
            Verdict::ResumeTarget => self.resume(Side::Target),
            Verdict::RecoverPostCopy => {
                if let Some(world) = self.world.recovers() {
                    self.world = world;
                    self.controller.call = true;
                }
            }
            _ => {}
        }
    }

    fn harms(&mut self, harm: Harm) {
        self.harm.get_or_insert((harm, self.world.doubled));
    }

    /// Whether the guest, as it was last, is in this end's QEMU.
    fn holds(&self, side: Side) -> bool {
        let world = &self.world;
        match world.end(side).qemu {
            Qemu::Runs => true,
            Qemu::Still => match side {
                _ if world.arrival == Arrival::StaysPaused => true,
                Side::Source => matches!(world.newest, Newest::Source | Newest::Same),
                Side::Target => world.newest == Newest::Same,
            },
            Qemu::None | Qemu::Incoming => false,
        }
    }

    fn destroy(&mut self, side: Side) {
        let other = other(side);
        let Some(copy) = self.world.end(side).copy else {
            return;
        };
        if !self.world.answers(side) || !copy.activity.active() {
            return;
        }
        if self.holds(side) && !self.holds(other) && !self.world.is_elsewhere() {
            self.harms(Harm::DestroyedTheOnlyOne);
        }
        if (Phase::Switch..=Phase::Confirm).contains(&self.world.phase)
            || self.world.memory != Memory::Whole
        {
            self.harms(Harm::BrokeTheSwitch);
        }
        let end = self.world.end_mut(side);
        end.qemu = Qemu::None;
        end.copy = copy.persistent.then_some(Copy {
            activity: Activity::ShutOff,
            why: Why::Destroyed,
            ..copy
        });
        if side == Side::Target {
            self.world.obeys = false;
            self.world.clears = false;
        }
    }

    fn undefine(&mut self, side: Side) {
        let elsewhere = self.world.end(other(side)).copy;
        let Some(copy) = self.world.end(side).copy.filter(|copy| !copy.job) else {
            return;
        };
        if !self.world.answers(side) {
            return;
        }
        let only = !elsewhere.is_some_and(|copy| copy.persistent) && !self.world.is_elsewhere();
        if copy.persistent && only {
            self.harms(Harm::UndefinedTheOnlyOne);
        }
        self.world.end_mut(side).copy = copy.activity.active().then_some(Copy {
            persistent: false,
            ..copy
        });
    }

    fn resume(&mut self, side: Side) {
        let end = self.world.end(side);
        let ready = end.qemu == Qemu::Still && self.world.answers(side);
        let Some(copy) = end.copy.filter(|copy| ready && !copy.job) else {
            return;
        };
        if self.world.end(other(side)).qemu == Qemu::Runs || self.world.is_elsewhere() {
            self.harms(Harm::RanItTwice);
        }
        let older = match side {
            Side::Source => !matches!(self.world.newest, Newest::Source | Newest::Same),
            Side::Target => self.world.newest != Newest::Same,
        };
        if older {
            self.harms(Harm::RanAnOlderState);
        }
        self.world.runs(side);
        self.world.end_mut(side).copy = Some(Copy {
            activity: Activity::Running,
            why: Why::Unpaused,
            ..copy
        });
    }

    fn suspend_source(&mut self) {
        let alone = self.world.target.qemu != Qemu::Runs;
        if self.world.source.qemu == Qemu::Runs
            && self.world.answers(Side::Source)
            && let Some(copy) = self.world.source.copy.as_mut()
        {
            copy.activity = Activity::Paused;
            copy.why = Why::ByUser;
            self.world.source.qemu = Qemu::Still;
            if alone {
                self.harms(Harm::SuspendedTheOnlyOne);
            }
        }
    }

    fn remove_files(&mut self, side: Side) {
        let again = match side {
            Side::Source => Doing::Looks(Purpose::Clean, None),
            Side::Target => Doing::TakesBack,
        };
        self.controller.doing = again;
        if !self.world.answers(side) {
            return;
        }
        let newest = match (side, self.world.newest) {
            (_, Newest::Both) | (Side::Source, Newest::Source) | (Side::Target, Newest::Target) => {
                true
            }
            (_, Newest::Same) => !self.world.end(other(side)).files,
            _ => false,
        };
        if newest {
            self.harms(Harm::RemovedTheNewest);
        }
        if self.world.end(side).qemu != Qemu::None {
            self.harms(Harm::RemovedFilesInUse);
        }
        self.world.end_mut(side).files = false;
        if side == Side::Source {
            self.controller.doing = Doing::RemovesJournals;
        } else {
            self.world.target.journal = false;
        }
    }

    fn remove_journals(&mut self) {
        for side in [Side::Source, Side::Target] {
            if self.world.answers(side) {
                self.world.end_mut(side).journal = false;
            }
        }
        if !self.journals() {
            self.controller.doing = Doing::Ended(Told::Succeeded);
        }
    }

    /// The target's part first, which is left to its journal where it does not answer; then the source's.
    fn take_back(&mut self) {
        if self.world.target.journal && self.world.answers(Side::Target) {
            self.controller.doing = match self.world.target.copy {
                None => Doing::Removes(Side::Target),
                Some(_) => WATCHES,
            };
        } else if self.world.source.journal {
            if self.world.answers(Side::Source) {
                self.world.source.journal = false;
                self.world.source.autostart = true;
            }
        } else {
            self.controller.doing = Doing::Ended(Told::Failed);
        }
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Source => Side::Target,
        Side::Target => Side::Source,
    }
}
