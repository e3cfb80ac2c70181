//! From what both ends show now to what is done next: one pure function, built on what was measured after every
//! fault of a live block migration. It never guesses: where one end is silent, or a state may still change by
//! itself, the answer is to wait.

use crate::port::{Activity, Glance, PortResult, Why};

/// What one end shows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// It does not answer.
    Silent,
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
    pub fn of(glance: &PortResult<Option<Glance>>) -> Self {
        match glance {
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
    /// Only the target has the guest, and it runs there (or is paused, as it was before).
    Moved,
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

/// The next act for what both ends show. `paused_before` says that the guest was paused when the move began.
#[must_use]
pub fn decide(source: Seen, target: Seen, paused_before: bool) -> Verdict {
    use Activity::{Crashed, Paused, Running, ShutOff, ShuttingDown, Suspended};
    let (source, target) = match (source, target) {
        (Seen::Silent, Seen::Silent) => return Verdict::Wait(Waiting::BothSilent),
        // A source with a job needs no word from the target: libvirt is at work.
        (Seen::Present(copy), Seen::Silent) if copy.job => return with_job(copy),
        (Seen::Present(copy), Seen::Silent) if never_switched(copy) => {
            return Verdict::StayedTargetSilent;
        }
        (Seen::Silent, _) => return Verdict::Wait(Waiting::SourceSilent),
        (_, Seen::Silent) => return Verdict::Wait(Waiting::TargetSilent),
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
        Paused => {
            paused_before
                && copy.persistent
                && copy.why != Why::Migrating
                && copy.why != Why::StartingUp
        }
        _ => false,
    });
    let source_executes = match source.activity {
        Running | Suspended | ShuttingDown => true,
        Paused => {
            paused_before && source.why != Why::Migrating
                || matches!(source.why, Why::ByUser | Why::IoError)
        }
        ShutOff | Crashed => false,
    };
    match (source.activity, target) {
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
            Why::MigrationCanceled | Why::Unpaused | Why::Migrating | Why::PostcopyFailed
        )
}

fn present(seen: Seen) -> Option<Copy> {
    match seen {
        Seen::Present(copy) => Some(copy),
        Seen::Absent | Seen::Silent => None,
    }
}

fn with_job(source: Copy) -> Verdict {
    match (source.activity, source.why) {
        (Activity::Paused, Why::Migrating | Why::PostcopyFailed) => Verdict::Switching,
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
mod tests {
    use super::*;

    fn at(activity: Activity, why: Why) -> Seen {
        Seen::Present(copy(activity, why))
    }

    fn incoming() -> Seen {
        Seen::Present(Copy {
            persistent: false,
            ..copy(Activity::Paused, Why::Migrating)
        })
    }

    fn with_job(activity: Activity, why: Why) -> Seen {
        Seen::Present(Copy {
            job: true,
            ..copy(activity, why)
        })
    }

    /// The rows of what was measured, each with what it must lead to.
    #[test]
    fn measured_rows() {
        use Activity::*;
        let rows = [
            (
                "copying",
                with_job(Running, Why::Other),
                incoming(),
                Verdict::Copying,
            ),
            (
                "switching",
                with_job(Paused, Why::Migrating),
                incoming(),
                Verdict::Switching,
            ),
            (
                "switching, target runs, answer under way",
                with_job(Paused, Why::Migrating),
                at(Running, Why::Migrated),
                Verdict::Switching,
            ),
            (
                "done",
                Seen::Absent,
                at(Running, Why::Migrated),
                Verdict::Moved,
            ),
            (
                "source libvirtd killed at the end",
                at(ShutOff, Why::Other),
                at(Running, Why::Migrated),
                Verdict::UndefineSource,
            ),
            (
                "source libvirtd killed while it waited for Finish",
                at(Paused, Why::Migrating),
                at(Running, Why::Migrated),
                Verdict::DiscardPausedSource,
            ),
            (
                "cancelled",
                at(Running, Why::MigrationCanceled),
                Seen::Absent,
                Verdict::Stayed,
            ),
            (
                "source libvirtd killed in mid-copy",
                at(Running, Why::Unpaused),
                Seen::Absent,
                Verdict::Stayed,
            ),
            (
                "answer to Finish lost",
                at(Running, Why::MigrationCanceled),
                at(Running, Why::Migrated),
                Verdict::RunsTwice,
            ),
            (
                "both libvirtd killed, leftover",
                at(Running, Why::Unpaused),
                incoming(),
                Verdict::DestroyTargetLeftover,
            ),
            (
                "old definition kept after a failure",
                at(Running, Why::Other),
                at(ShutOff, Why::Failed),
                Verdict::UndefineTargetLeftover,
            ),
            (
                "both libvirtd killed, neither runs",
                at(Paused, Why::Migrating),
                Seen::Absent,
                Verdict::ResumeSource,
            ),
            (
                "neither runs, failed definition at the target",
                at(Paused, Why::Migrating),
                at(ShutOff, Why::Failed),
                Verdict::Wait(Waiting::Settling),
            ),
            (
                "source QEMU killed",
                at(Crashed, Why::Other),
                Seen::Absent,
                Verdict::CrashedAtSource,
            ),
            (
                "source QEMU killed, target not cleaned yet",
                at(Crashed, Why::Other),
                incoming(),
                Verdict::Wait(Waiting::Settling),
            ),
            (
                "power-off from inside",
                at(ShutOff, Why::Shutdown),
                Seen::Absent,
                Verdict::StoppedAtSource,
            ),
            (
                "target QEMU killed just after the switch",
                Seen::Absent,
                at(Crashed, Why::Other),
                Verdict::StoppedAtTarget {
                    defined: false,
                    orderly: false,
                },
            ),
            (
                "power-off from inside just after the switch",
                Seen::Absent,
                at(ShutOff, Why::Shutdown),
                Verdict::StoppedAtTarget {
                    defined: false,
                    orderly: true,
                },
            ),
            (
                "target cut off in mid-copy",
                with_job(Running, Why::Other),
                Seen::Silent,
                Verdict::Copying,
            ),
            (
                "target cut off afterwards",
                at(Running, Why::MigrationCanceled),
                Seen::Silent,
                Verdict::Wait(Waiting::TargetSilent),
            ),
            (
                "target dead in mid-copy",
                at(Running, Why::Other),
                Seen::Silent,
                Verdict::StayedTargetSilent,
            ),
            (
                "source cut off",
                Seen::Silent,
                at(Running, Why::Migrated),
                Verdict::Wait(Waiting::SourceSilent),
            ),
            (
                "nothing anywhere",
                Seen::Absent,
                Seen::Absent,
                Verdict::Lost,
            ),
        ];
        for (row, source, target, verdict) in rows {
            assert_eq!(decide(source, target, false), verdict, "{row}");
        }
    }

    #[test]
    fn a_guest_paused_before_stays_paused() {
        use Activity::*;
        assert_eq!(
            decide(at(Paused, Why::ByUser), Seen::Absent, true),
            Verdict::Stayed
        );
        assert_eq!(
            decide(Seen::Absent, at(Paused, Why::Migrated), true),
            Verdict::Moved
        );
        assert_eq!(
            decide(Seen::Absent, at(Paused, Why::ByUser), true),
            Verdict::Moved
        );
    }

    /// Whatever both ends show: nothing is removed unless both answered, and nothing touches the target while the
    /// source has a job.
    #[test]
    fn nothing_is_done_on_half_the_evidence() {
        let activities = [
            Activity::Running,
            Activity::Paused,
            Activity::ShutOff,
            Activity::Crashed,
            Activity::Suspended,
            Activity::ShuttingDown,
        ];
        let whys = [
            Why::Migrated,
            Why::MigrationCanceled,
            Why::Migrating,
            Why::StartingUp,
            Why::Other,
        ];
        let mut all = vec![Seen::Silent, Seen::Absent];
        for activity in activities {
            for why in whys {
                for persistent in [false, true] {
                    for job in [false, true] {
                        all.push(Seen::Present(Copy {
                            activity,
                            why,
                            persistent,
                            job,
                        }));
                    }
                }
            }
        }
        for &source in &all {
            for &target in &all {
                for paused in [false, true] {
                    let verdict = decide(source, target, paused);
                    let passive = matches!(
                        verdict,
                        Verdict::Wait(_) | Verdict::Copying | Verdict::Switching
                    );
                    if source == Seen::Silent || target == Seen::Silent {
                        let passive = passive || verdict == Verdict::StayedTargetSilent;
                        assert!(passive, "{source:?} {target:?} {verdict:?}");
                    }
                    if let Seen::Present(copy) = source
                        && copy.job
                    {
                        assert!(passive, "{source:?} {target:?} {verdict:?}");
                    }
                    if verdict == Verdict::Moved {
                        assert_eq!(source, Seen::Absent);
                    }
                    if verdict == Verdict::Stayed {
                        assert_eq!(target, Seen::Absent);
                    }
                }
            }
        }
    }
}
