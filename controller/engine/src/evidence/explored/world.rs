//! What libvirt and QEMU do at both ends of one move by themselves: the rows of what was measured.

use crate::{
    evidence::{Arrival, Copy, Seen, copy},
    port::{Activity, Why},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Source,
    Target,
}

/// How far libvirt's own migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    NotBegun,
    /// The call was made and has not reached the source's libvirtd yet.
    Called,
    Starting,
    Disks,
    Memory,
    Switch,
    /// The target runs, and the rest of its memory follows.
    PostCopy,
    /// The source has handed over and waits for the target's answer.
    Finish,
    /// The same, and the target is defined, but does not run yet.
    Defined,
    /// The target runs, and the source has not heard so.
    Confirm,
    /// The source kills its QEMU.
    Ending,
    /// The source's QEMU is gone, its definition is not.
    Leaving,
    /// It hangs in the switch, without end.
    Stuck,
    Over,
}

/// What the guest's QEMU at one end does, whatever libvirt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Qemu {
    None,
    /// It waits for the rest of the guest.
    Incoming,
    /// It has the whole guest and does not execute it.
    Still,
    Runs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Libvirtd {
    Answers,
    /// It is cut off from the controller, and works.
    Unheard,
    /// It was killed, or sleeps.
    Down,
    /// The whole machine is without power.
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct End {
    pub(super) libvirtd: Libvirtd,
    pub(super) copy: Option<Copy>,
    pub(super) qemu: Qemu,
    pub(super) files: bool,
    pub(super) journal: bool,
    /// Whether the host starts it when it boots.
    pub(super) autostart: bool,
}

/// What the source's libvirtd does with the guest once its job has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Settle {
    AsBefore,
    Resumes(Why),
    /// It forgets the job and leaves the guest paused.
    Forgets,
}

/// Whose files hold what the guest wrote last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Newest {
    Source,
    Target,
    /// It arrived paused and has executed nowhere since: the files are equal.
    Same,
    /// It ran at both: each has something that the other lacks.
    Both,
    /// A third host's: it went there by another move.
    Elsewhere,
}

/// What libvirt's call says in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    None,
    Arrived,
    Failed,
}

/// Which of several measured ends a fault has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// The source goes on.
    Resumes,
    /// The target has it.
    Finishes,
    /// The source's QEMU dies of it.
    Crashes,
    /// The switch hangs.
    Hangs,
    /// The source stays paused without a job.
    Forgets,
    /// The target keeps a paused leftover.
    Leaves,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// libvirt gives the copy up: a full disk, a lost connection.
    CopyFails,
    /// The guest powers itself off.
    GuestStops(Side),
    QemuDies(Side, Fate),
    LibvirtdDies(Side, Fate),
    /// The machine loses its power, its libvirtd and QEMUs with it; it boots when it has power again.
    PowerLost(Side, Fate),
    /// The target's libvirtd sleeps while it should answer to Finish, and obeys when it wakes.
    TargetSleeps,
    /// The link between the hosts.
    LinkCut(Fate),
    /// The link between the controller and one end.
    Unheard(Side),
}

/// What happens without any fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Forward,
    SourceSettles,
    TargetClears,
    TargetObeys,
    LinkHeals,
    Returns(Side),
}

pub(super) const STEPS: [Step; 7] = [
    Step::LinkHeals,
    Step::Returns(Side::Source),
    Step::Returns(Side::Target),
    Step::TargetObeys,
    Step::SourceSettles,
    Step::TargetClears,
    Step::Forward,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// How the guest arrives.
    pub(super) arrival: Arrival,
    pub(super) phase: Phase,
    pub(super) source: End,
    pub(super) target: End,
    pub(super) settle: Option<Settle>,
    /// The target's libvirtd will remove what was to arrive.
    pub(super) clears: bool,
    /// The target's libvirtd has the order to start the guest.
    pub(super) obeys: bool,
    pub(super) cut: bool,
    pub(super) newest: Newest,
    pub(super) answer: Answer,
    /// libvirt itself has run the guest a second time.
    pub(super) doubled: bool,
    /// A host that booted has started what had gone on at the other end.
    pub(super) booted_twice: bool,
    /// Whether it may be switched to post-copy.
    pub(super) allows_post_copy: bool,
    pub(super) memory: Memory,
    /// The source's libvirtd has lost sight of a post-copy: it keeps the definition.
    pub(super) unseen: bool,
}

/// Where the guest's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    Whole,
    /// A part of it at each end, and it travels.
    Follows,
    /// The same, and the two QEMUs wait to be told to go on.
    Broken,
    /// One of the two parts is gone.
    Lost,
}

impl World {
    /// A move that is prepared: empty files at the target, a journal at each end. The guest had autostart, and the source's
    /// is off.
    pub(super) fn prepared(arrival: Arrival) -> Self {
        let (state, qemu) = if arrival == Arrival::StaysPaused {
            (copy(Activity::Paused, Why::ByUser), Qemu::Still)
        } else {
            (copy(Activity::Running, Why::Other), Qemu::Runs)
        };
        let source = End {
            libvirtd: Libvirtd::Answers,
            copy: Some(state),
            qemu,
            files: true,
            journal: true,
            autostart: false,
        };
        Self {
            arrival,
            phase: Phase::NotBegun,
            source,
            target: End {
                copy: None,
                qemu: Qemu::None,
                ..source
            },
            settle: None,
            clears: false,
            obeys: false,
            cut: false,
            newest: Newest::Source,
            answer: Answer::None,
            doubled: false,
            booted_twice: false,
            allows_post_copy: false,
            memory: Memory::Whole,
            unseen: false,
        }
    }

    pub(super) fn end(&self, side: Side) -> &End {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    pub(super) fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    pub(super) fn seen(&self, side: Side) -> Seen {
        let end = self.end(side);
        match (end.libvirtd, end.copy) {
            (Libvirtd::Unheard | Libvirtd::Down | Libvirtd::Off, _) => Seen::Silent,
            (Libvirtd::Answers, None) => Seen::Absent,
            (Libvirtd::Answers, Some(copy)) => Seen::Present(copy),
        }
    }

    pub(super) fn answers(&self, side: Side) -> bool {
        self.end(side).libvirtd == Libvirtd::Answers
    }

    pub(super) fn up(&self, side: Side) -> bool {
        !matches!(self.end(side).libvirtd, Libvirtd::Down | Libvirtd::Off)
    }

    pub(super) fn copying(&self) -> bool {
        (Phase::Starting..=Phase::Memory).contains(&self.phase)
    }

    pub(super) fn finishing(&self) -> bool {
        matches!(self.phase, Phase::Finish | Phase::Defined)
    }

    /// Does one step; nothing where it can't be done.
    pub(super) fn step(mut self, step: Step) -> Option<Self> {
        match step {
            Step::Forward => return self.forward(),
            Step::LinkHeals if self.cut => self.cut = false,
            Step::Returns(side) if !self.answers(side) => self.returns(side),
            Step::SourceSettles if self.up(Side::Source) && !self.cut => {
                let settle = self.settle.take()?;
                self.settle_source(settle);
            }
            Step::TargetClears if self.clears && self.up(Side::Target) => {
                self.clears = false;
                self.target.qemu = Qemu::None;
                self.target.copy = self
                    .target
                    .copy
                    .filter(|own| own.persistent)
                    .map(|_| copy(Activity::ShutOff, Why::Failed));
            }
            Step::TargetObeys if self.obeys && self.up(Side::Target) => {
                self.obeys = false;
                self.start_target();
            }
            _ => return None,
        }
        Some(self)
    }

    fn forward(mut self) -> Option<Self> {
        if !self.up(Side::Source) {
            return None;
        }
        self.phase = match self.phase {
            Phase::Called => {
                let up = self.up(Side::Target);
                let state = self.source.copy.as_mut()?;
                if !up || self.source.qemu == Qemu::None {
                    self.answer = Answer::Failed;
                    Phase::Over
                } else {
                    state.job = true;
                    self.target.qemu = Qemu::Incoming;
                    self.target.files = true;
                    self.target.copy = Some(Copy {
                        persistent: false,
                        ..copy(Activity::Paused, Why::StartingUp)
                    });
                    Phase::Starting
                }
            }
            Phase::Starting => {
                self.target.copy.as_mut()?.why = Why::Migrating;
                Phase::Disks
            }
            Phase::Disks => Phase::Memory,
            Phase::Memory => {
                if self.arrival != Arrival::StaysPaused {
                    self.source.qemu = Qemu::Still;
                    self.source.copy = Some(Copy {
                        job: true,
                        ..copy(Activity::Paused, Why::Migrating)
                    });
                }
                Phase::Switch
            }
            Phase::Switch => Phase::Finish,
            Phase::PostCopy => return self.all_followed(),
            Phase::Finish => {
                self.target.copy.as_mut()?.persistent = true;
                Phase::Defined
            }
            Phase::Defined => {
                self.start_target();
                Phase::Confirm
            }
            Phase::Confirm => {
                self.leaves();
                Phase::Ending
            }
            Phase::Ending => {
                self.stops(Side::Source, Activity::ShutOff, Why::LeftByMigration);
                Phase::Leaving
            }
            Phase::Leaving => {
                self.source.copy = None;
                self.answer = Answer::Arrived;
                Phase::Over
            }
            Phase::NotBegun | Phase::Stuck | Phase::Over => return None,
        };
        Some(self)
    }

    /// The program has the guest switched to post-copy.
    pub(super) fn starts_post_copy(mut self) -> Option<Self> {
        if self.phase != Phase::Memory || !self.allows_post_copy || !self.up(Side::Target) {
            return None;
        }
        self.phase = Phase::PostCopy;
        self.memory = Memory::Follows;
        self.source.qemu = Qemu::Still;
        self.shows_post_copy();
        self.runs(Side::Target);
        Some(self)
    }

    fn shows_post_copy(&mut self) {
        self.fails_at_source(Why::PostCopy);
        self.target.copy = Some(copy(Activity::Running, Why::PostCopy));
    }

    fn fails_at_source(&mut self, why: Why) {
        self.source.copy = Some(Copy {
            job: true,
            ..copy(Activity::Paused, why)
        });
    }

    /// libvirt loses sight of it, and the QEMUs perhaps each other.
    pub(super) fn breaks_off(&mut self, memory: Memory) {
        self.fails_at_source(Why::PostCopyFailed);
        if memory == Memory::Broken {
            self.target.copy = Some(copy(Activity::Running, Why::PostCopyFailed));
        }
        self.memory = memory;
        self.unseen = true;
        self.answer = Answer::Failed;
    }

    /// The program has libvirt take it up again. Nothing where libvirt can't.
    pub(super) fn recovers(mut self) -> Option<Self> {
        let answer = self.answers(Side::Source) && self.up(Side::Target);
        if self.memory != Memory::Broken || !answer || self.cut {
            return None;
        }
        self.memory = Memory::Follows;
        self.unseen = false;
        self.answer = Answer::None;
        self.shows_post_copy();
        Some(self)
    }

    /// The last of its memory has come.
    fn all_followed(mut self) -> Option<Self> {
        if self.memory != Memory::Follows || self.cut || !self.up(Side::Target) {
            return None;
        }
        self.memory = Memory::Whole;
        self.target.copy = Some(copy(Activity::Running, Why::Migrated));
        self.stops(Side::Source, Activity::ShutOff, Why::LeftByMigration);
        self.phase = match self.unseen {
            true => Phase::Over,
            false => Phase::Leaving,
        };
        Some(self)
    }

    /// One end of a post-copy is gone.
    pub(super) fn loses_memory(&mut self, side: Side, activity: Activity, why: Why) {
        self.phase = Phase::Over;
        self.answer = Answer::Failed;
        self.memory = Memory::Lost;
        self.stops(side, activity, why);
        match side {
            Side::Source => {
                self.target.qemu = Qemu::Still;
                self.target.copy = Some(copy(Activity::Running, Why::PostCopyFailed));
            }
            Side::Target => self.fails_at_source(Why::PostCopyFailed),
        }
    }

    pub(super) fn start_target(&mut self) {
        if self.target.qemu != Qemu::Incoming {
            return;
        }
        if self.arrival != Arrival::Running {
            self.target.qemu = Qemu::Still;
            self.target.copy = Some(copy(Activity::Paused, Why::ByUser));
            if self.newest == Newest::Source && self.source.qemu != Qemu::Runs {
                self.newest = Newest::Same;
            }
        } else {
            self.target.copy = Some(copy(Activity::Running, Why::Migrated));
            self.runs(Side::Target);
            self.doubled |= self.newest == Newest::Both;
        }
    }

    /// An end begins to execute: from here on its files are the newest, or each has something of its own.
    pub(super) fn runs(&mut self, side: Side) {
        let other = match side {
            Side::Source => Side::Target,
            Side::Target => Side::Source,
        };
        let beside = self.end(other).qemu == Qemu::Runs;
        self.end_mut(side).qemu = Qemu::Runs;
        self.newest = match (side, self.newest) {
            (_, Newest::Both | Newest::Elsewhere) | (Side::Source, Newest::Target) => Newest::Both,
            _ if beside => Newest::Both,
            (Side::Target, _) => Newest::Target,
            (Side::Source, _) => Newest::Source,
        };
    }

    /// By a second move, begun while the target of the first one was silent, it goes to a third host. Nothing where that
    /// can't begin: the source must run it, without a job, and have no journal of the first.
    pub(super) fn goes_elsewhere(mut self) -> Option<Self> {
        let source = &mut self.source;
        let runs = source.qemu == Qemu::Runs && source.copy.is_some_and(|copy| !copy.job);
        if source.libvirtd != Libvirtd::Answers || source.journal || !runs {
            return None;
        }
        (source.copy, source.qemu, source.files) = (None, Qemu::None, false);
        self.settle = None;
        self.newest = Newest::Elsewhere;
        Some(self)
    }

    /// Whether a third host has it.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.newest == Newest::Elsewhere
    }

    /// The source has heard that the target runs, and kills its QEMU.
    pub(super) fn leaves(&mut self) {
        self.source.qemu = Qemu::None;
        self.phase = Phase::Ending;
    }

    fn settle_source(&mut self, settle: Settle) {
        let Some(mut state) = self.source.copy.filter(|state| state.job) else {
            return;
        };
        state.job = false;
        match settle {
            Settle::Resumes(why)
                if self.arrival != Arrival::StaysPaused && self.source.qemu != Qemu::None =>
            {
                state = copy(Activity::Running, why);
                self.runs(Side::Source);
                self.doubled |= self.newest == Newest::Both;
            }
            _ => {}
        }
        self.source.copy = Some(state);
    }

    /// A libvirtd that starts anew knows no more why a guest is off, and ends the job that it was at.
    fn returns(&mut self, side: Side) {
        let was = self.end(side).libvirtd;
        let slept = side == Side::Target && self.obeys;
        self.end_mut(side).libvirtd = Libvirtd::Answers;
        if was == Libvirtd::Unheard || was == Libvirtd::Down && slept {
            return;
        }
        if side == Side::Source
            && let Some(settle) = self.settle.take()
        {
            self.settle_source(settle);
        }
        if let Some(state) = self.end_mut(side).copy.as_mut()
            && !state.activity.active()
        {
            *state = copy(Activity::ShutOff, Why::Other);
        }
        if was == Libvirtd::Off {
            self.boots(side);
        }
    }

    /// A host that boots starts what has autostart, whatever became of it elsewhere.
    fn boots(&mut self, side: Side) {
        let end = self.end(side);
        if !end.autostart || end.copy.is_none() {
            return;
        }
        let (other, newer) = match side {
            Side::Source => (&self.target, Newest::Target),
            Side::Target => (&self.source, Newest::Source),
        };
        self.booted_twice |=
            other.qemu == Qemu::Runs || [newer, Newest::Elsewhere].contains(&self.newest);
        self.runs(side);
        self.end_mut(side).copy = Some(copy(Activity::Running, Why::Other));
    }

    /// The migration has failed: both ends will undo their part.
    pub(super) fn fails(&mut self, settle: Settle) {
        self.phase = Phase::Over;
        self.answer = Answer::Failed;
        self.settle = Some(settle);
        self.clears = true;
    }
}
