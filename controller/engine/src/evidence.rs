//! From what both ends show now to what is done next: one pure function, built on what was measured after every
//! fault of a live block migration. It never guesses: where one end is silent, or a state may still change by
//! itself, the answer is to wait.

use crate::{
    mutation::{Rule, broken},
    port::{Activity, Glance, PortResult, Why},
};

/// What one end shows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// It does not answer.
    Silent,
    /// The same, and its operator says that the machine is off and stays off.
    Off,
    /// It answers, and has no such domain.
    Absent,
    /// It has it.
    Present(Copy),
}

/// A copy of the guest at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Copy {
    /// What it does.
    pub activity: Activity,
    /// Why.
    pub why: Why,
    /// Whether it has a definition that outlives its QEMU.
    pub persistent: bool,
    /// Whether libvirt has a migration job on it.
    pub job: bool,
}

impl Seen {
    /// From a fresh glance.
    #[must_use]
    pub fn of(glance: &PortResult<Option<Glance>>, out_of_service: bool) -> Self {
        match glance {
            Err(_) if broken(Rule::BothEnds) => Self::Absent,
            Err(_) if out_of_service => Self::Off,
            Err(_) => Self::Silent,
            Ok(None) => Self::Absent,
            Ok(Some(glance)) => Self::Present(Copy {
                activity: glance.activity,
                why: glance.why,
                persistent: glance.persistent,
                job: glance.job,
            }),
        }
    }
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// libvirt's job goes on at the source: watch it.
    Copying,
    /// The source has paused for the switch and its job goes on: nothing may be aborted, destroyed or resumed.
    Switching,
    /// The guest runs at the target, and the rest of its memory follows: nothing may be aborted, destroyed or resumed.
    PostCopy,
    /// The same, and nothing follows any more: libvirt is asked to go on, from the source.
    RecoverPostCopy,
    /// The guest ran at the target, and the end that had the rest of its memory is gone, or the one that ran it. Its
    /// last writes are on the target's disks. Nothing is removed, and nobody starts it but a person.
    MemoryLost,
    /// Only the target has the guest, and it runs there (or is paused, as it was before).
    Moved,
    /// The target runs it (or is paused, as it was before), and the source is off for good: what is there stays as it is.
    MovedSourceOff,
    /// The target has the guest; the source only still defines it: undefine it there.
    UndefineSource,
    /// The target runs; the source's QEMU hangs paused without a job: undefine it there, then destroy it.
    DiscardPausedSource,
    /// Only the source has the guest, and it runs there. Nothing is at the target.
    Stayed,
    /// The source runs, has no job and never paused for a switch, so no target can run it; the target does not
    /// answer, and what is there is left to its journal.
    StayedTargetSilent,
    /// The source runs without a job; the target keeps a paused, transient leftover: destroy it there.
    DestroyTargetLeftover,
    /// The source runs without a job; the target keeps a definition that is not active: undefine it there.
    UndefineTargetLeftover,
    /// The source is paused by the migration, without a job, and nothing is at the target: resume it.
    ResumeSource,
    /// The guest waits at the target to be started by us, and the source has it no more: resume it there.
    ResumeTarget,
    /// The guest stopped at the source (from inside, or by somebody's hand); nothing is at the target.
    StoppedAtSource,
    /// The guest's QEMU at the source died; nothing is at the target.
    CrashedAtSource,
    /// The guest arrived and then stopped or crashed at the target; the source has it no more, but for its definition
    /// perhaps. Its last state is on the target's disks.
    StoppedAtTarget {
        /// Whether the source still defines it.
        defined: bool,
        /// Whether its QEMU ended as told to, by the guest or by somebody: then it has written its disks to the end.
        /// Of a QEMU that died, or with its host, that is not known.
        orderly: bool,
    },
    /// Both run: the target, which ran first, is kept; the source is suspended at once and nothing is removed.
    RunsTwice,
    /// Neither end has it. Nothing is removed.
    Lost,
    /// Wait and look again: an end is silent, or what is shown may still change by itself.
    Wait(Waiting),
}

/// Why to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// The source does not answer.
    SourceSilent,
    /// The target does not answer.
    TargetSilent,
    /// Neither answers.
    BothSilent,
    /// Both answer; the state is one that libvirt is still leaving.
    Settling,
}

/// How a guest arrives at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// Running: the target's hypervisor starts it.
    Running,
    /// Paused, as it was when the move began: it stays so.
    StaysPaused,
    /// Paused, and to be started by us once the source has it no more.
    Guarded,
    /// It has arrived and ran, and we pause it for a moment there so that its disks are written: to be resumed by us.
    Halted,
}

/// The next act for what both ends show.
///
/// Under [`Arrival::Guarded`] the guest is let go at the target only where the source has it no more. A source that goes
/// on, since the answer was lost or somebody let it, is the one that runs; what waits at the target is then older, and is
/// removed. For that reason a source that stopped of itself is not taken for one that left: it may have gone on before.
/// Under [`Arrival::StaysPaused`] the same holds.
#[must_use]
pub fn decide(source: Seen, target: Seen, arrival: Arrival) -> Verdict {
    let paused_before = arrival == Arrival::StaysPaused;
    let guarded = arrival == Arrival::Guarded;
    use Activity::{Crashed, Paused, Running, ShutOff, ShuttingDown, Suspended};
    let off = matches!(source, Seen::Off) || matches!(target, Seen::Off);
    // That it is at the target alone was proven before, and nothing can have taken it back: the source needn't answer.
    if arrival == Arrival::Halted
        && matches!(source, Seen::Absent | Seen::Silent | Seen::Off)
        && present(target).is_some_and(|copy| copy.activity == Paused && waits(copy))
    {
        return Verdict::ResumeTarget;
    }
    if off {
        return decide_without(source, target, arrival);
    }
    if let Some(verdict) = post_copy(source, target) {
        return verdict;
    }
    let (source, target) = match (source, target) {
        (Seen::Silent, Seen::Silent) => return Verdict::Wait(Waiting::BothSilent),
        // A source with a job needs no word from the target: libvirt is at work.
        (Seen::Present(copy), Seen::Silent) if copy.job => return with_job(copy),
        (Seen::Present(copy), Seen::Silent) if never_switched(copy) => {
            return Verdict::StayedTargetSilent;
        }
        (Seen::Silent | Seen::Off, _) => return Verdict::Wait(Waiting::SourceSilent),
        (_, Seen::Silent | Seen::Off) => return Verdict::Wait(Waiting::TargetSilent),
        (Seen::Absent, target) => (None, present(target)),
        (Seen::Present(copy), target) => (Some(copy), present(target)),
    };
    let Some(source) = source else {
        return match target {
            None => Verdict::Lost,
            Some(target) => match target.activity {
                Running | Suspended => Verdict::Moved,
                Paused if paused_before && target.why != Why::StartingUp && target.persistent => {
                    Verdict::Moved
                }
                Paused if guarded && waits(target) => Verdict::ResumeTarget,
                Paused | ShuttingDown => Verdict::Wait(Waiting::Settling),
                ShutOff | Crashed => stopped_at_target(target, false),
            },
        };
    };
    if source.job {
        return with_job(source);
    }
    let target_has_it = target.is_some_and(|copy| match copy.activity {
        Running | Suspended => true,
        Paused => arrival != Arrival::Running && waits(copy),
        _ => false,
    });
    let target_runs = target.is_some_and(|copy| matches!(copy.activity, Running | Suspended));
    let source_executes = match source.activity {
        Running | Suspended | ShuttingDown => true,
        Paused => {
            paused_before && source.why != Why::Migrating
                || matches!(source.why, Why::ByUser | Why::IoError)
        }
        ShutOff | Crashed => false,
    };
    match (source.activity, target) {
        _ if (guarded || paused_before) && target_has_it && !target_runs => {
            stands_still_there(source)
        }
        _ if source_executes && target_has_it => Verdict::RunsTwice,
        (_, None) if source_executes => Verdict::Stayed,
        (_, Some(copy)) if source_executes => match copy.activity {
            Paused if !copy.persistent => Verdict::DestroyTargetLeftover,
            ShutOff | Crashed => Verdict::UndefineTargetLeftover,
            _ => Verdict::Wait(Waiting::Settling),
        },
        (Paused, None) => Verdict::ResumeSource,
        (Paused, Some(_)) if target_has_it => Verdict::DiscardPausedSource,
        (ShutOff | Crashed, Some(_)) if target_has_it => Verdict::UndefineSource,
        (Crashed, None) => Verdict::CrashedAtSource,
        // It left, so the target had it, or has it by now: its files there may be the only ones with the last state.
        (ShutOff, None) if source.why == Why::LeftByMigration => Verdict::Wait(Waiting::Settling),
        (ShutOff, None) => Verdict::StoppedAtSource,
        // libvirt marks a source that left so before it undefines it; a target that stopped since has the disks.
        (ShutOff, Some(copy))
            if source.why == Why::LeftByMigration && matches!(copy.activity, ShutOff | Crashed) =>
        {
            stopped_at_target(copy, true)
        }
        _ => Verdict::Wait(Waiting::Settling),
    }
}

/// The same where an end is off for good: what the other one proves alone counts, and nothing else.
fn decide_without(source: Seen, target: Seen, arrival: Arrival) -> Verdict {
    use Activity::{Paused, Running, ShuttingDown, Suspended};
    match (source, target) {
        // The rest of its memory was in the machine that is off.
        (Seen::Off, target) if is_post_copy(target) => Verdict::MemoryLost,
        (Seen::Off, Seen::Present(copy)) if copy.persistent => match copy.activity {
            Running | Suspended => Verdict::MovedSourceOff,
            Paused if arrival == Arrival::StaysPaused && waits(copy) => Verdict::MovedSourceOff,
            Paused if arrival == Arrival::Guarded && waits(copy) => Verdict::ResumeTarget,
            _ => Verdict::Wait(Waiting::SourceSilent),
        },
        (source, Seen::Off) if is_post_copy(source) => Verdict::MemoryLost,
        (Seen::Present(copy), Seen::Off) if copy.job => with_job(copy),
        (Seen::Present(copy), Seen::Off) => match copy.activity {
            Running | Suspended | ShuttingDown => Verdict::StayedTargetSilent,
            Paused if arrival == Arrival::StaysPaused && copy.why != Why::Migrating => {
                Verdict::StayedTargetSilent
            }
            _ => Verdict::Wait(Waiting::TargetSilent),
        },
        (Seen::Off, Seen::Off) => Verdict::Wait(Waiting::BothSilent),
        (Seen::Off, Seen::Silent) | (_, Seen::Off) => Verdict::Wait(Waiting::TargetSilent),
        _ => Verdict::Wait(Waiting::SourceSilent),
    }
}

/// What both ends of a guest ask for that has a part of its memory at each; nothing where neither end shows that.
///
/// From the first moment on the guest runs at the target: the source's copy is never the one to go on with, and libvirt
/// does not let it. Whether the source has a job does not matter: libvirt keeps one on a copy that failed.
fn post_copy(source: Seen, target: Seen) -> Option<Verdict> {
    use Activity::{Crashed, Paused, Running, ShutOff, ShuttingDown, Suspended};
    let there = present(target).filter(|_| is_post_copy(target));
    match source {
        Seen::Present(copy) if copy.activity == Paused && copy.why == Why::PostCopy => {
            Some(Verdict::PostCopy)
        }
        Seen::Present(copy) if copy.activity == Paused && copy.why == Why::PostCopyFailed => {
            Some(match target {
                Seen::Silent | Seen::Off => Verdict::Wait(Waiting::TargetSilent),
                Seen::Absent => Verdict::MemoryLost,
                Seen::Present(target) => match target.activity {
                    _ if there.is_some() => Verdict::RecoverPostCopy,
                    ShutOff | Crashed => Verdict::MemoryLost,
                    // Its last page has come.
                    Running | Suspended | ShuttingDown | Paused => Verdict::Wait(Waiting::Settling),
                },
            })
        }
        Seen::Silent | Seen::Off => None,
        Seen::Present(copy) if copy.activity.active() => None,
        // All of its memory has left it.
        Seen::Present(copy) if copy.why == Why::LeftByMigration => {
            (there?.why == Why::PostCopyFailed).then_some(Verdict::Wait(Waiting::Settling))
        }
        // The target was looked at first: it may have had the last page just then.
        Seen::Present(_) | Seen::Absent => Some(match there?.why {
            Why::PostCopyFailed => Verdict::MemoryLost,
            _ => Verdict::Wait(Waiting::Settling),
        }),
    }
}

/// Whether a copy shows that the other end has, or had, a part of the guest's memory.
#[must_use]
pub fn is_post_copy(seen: Seen) -> bool {
    present(seen).is_some_and(|copy| {
        copy.activity.active() && matches!(copy.why, Why::PostCopy | Why::PostCopyFailed)
    })
}

/// Whether a paused copy has arrived: it is defined, and libvirt has nothing more to do to it.
fn waits(copy: Copy) -> bool {
    copy.persistent && !matches!(copy.why, Why::Migrating | Why::StartingUp)
}

/// A guest has arrived and stands still there, and the source still has something of it, without a job.
fn stands_still_there(source: Copy) -> Verdict {
    use Activity::{Crashed, Paused, Running, ShutOff, ShuttingDown, Suspended};
    match source.activity {
        // It went on: the answer was lost, or somebody let it.
        Running | Suspended | ShuttingDown => Verdict::DestroyTargetLeftover,
        Paused if source.why == Why::Migrating => Verdict::DiscardPausedSource,
        ShutOff if source.why == Why::LeftByMigration => Verdict::UndefineSource,
        // It may have gone on before it stopped: then it has the last state, else the target has. Nobody can tell, nor of
        // one that was paused before, and is: somebody may have let it go on in between.
        Paused | ShutOff | Crashed => Verdict::Wait(Waiting::Settling),
    }
}

fn stopped_at_target(target: Copy, defined: bool) -> Verdict {
    let orderly = target.activity == Activity::ShutOff
        && target.persistent
        && matches!(target.why, Why::Shutdown | Why::Destroyed);
    Verdict::StoppedAtTarget { defined, orderly }
}

/// Whether a source without a job shows that it was not paused since the migration began.
fn never_switched(source: Copy) -> bool {
    source.activity == Activity::Running
        && !matches!(
            source.why,
            Why::MigrationCanceled
                | Why::Unpaused
                | Why::Migrating
                | Why::PostCopy
                | Why::PostCopyFailed
        )
}

fn present(seen: Seen) -> Option<Copy> {
    match seen {
        Seen::Present(copy) => Some(copy),
        Seen::Absent | Seen::Silent | Seen::Off => None,
    }
}

fn with_job(source: Copy) -> Verdict {
    match (source.activity, source.why) {
        (Activity::Paused, Why::Migrating) => Verdict::Switching,
        (Activity::ShutOff | Activity::Crashed, _) => Verdict::Wait(Waiting::Settling),
        _ => Verdict::Copying,
    }
}

pub mod cold;
#[cfg(test)]
mod explored;

/// A copy that is defined and has no job.
#[cfg(test)]
fn copy(activity: Activity, why: Why) -> Copy {
    Copy {
        activity,
        why,
        persistent: true,
        job: false,
    }
}

#[cfg(test)]
mod tests;
