//! Every row of the table in ARCHITECTURE.md.

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

/// One that we paused so that its disks are written is let go on, whether its source answers or not; before it arrived
/// nothing of that counts.
#[test]
fn what_we_paused_is_let_go_on() {
    let paused = at(Activity::Paused, Why::ByUser);
    for source in [Seen::Absent, Seen::Silent, Seen::Off] {
        let verdict = decide(source, paused, Arrival::Halted);
        assert_eq!(verdict, Verdict::ResumeTarget, "{source:?}");
        let verdict = decide(source, paused, Arrival::Running);
        assert!(matches!(verdict, Verdict::Wait(_)), "{source:?}");
    }
    let runs = at(Activity::Running, Why::Unpaused);
    assert_eq!(decide(Seen::Absent, runs, Arrival::Halted), Verdict::Moved);
    assert_eq!(decide(runs, paused, Arrival::Halted), Verdict::RunsTwice);
    let verdict = decide(Seen::Absent, incoming(), Arrival::Halted);
    assert!(matches!(verdict, Verdict::Wait(_)));
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
            "memory follows",
            with_job(Paused, Why::PostCopy),
            at(Running, Why::PostCopy),
            Verdict::PostCopy,
        ),
        (
            "memory follows, target cut off",
            with_job(Paused, Why::PostCopy),
            Seen::Silent,
            Verdict::PostCopy,
        ),
        (
            "memory follows, source cut off",
            Seen::Silent,
            at(Running, Why::PostCopy),
            Verdict::Wait(Waiting::SourceSilent),
        ),
        (
            "target libvirtd killed while memory followed, or the link cut",
            with_job(Paused, Why::PostCopyFailed),
            at(Running, Why::PostCopy),
            Verdict::RecoverPostCopy,
        ),
        (
            "both QEMUs wait to be told to go on",
            with_job(Paused, Why::PostCopyFailed),
            at(Running, Why::PostCopyFailed),
            Verdict::RecoverPostCopy,
        ),
        (
            "the same, target still down",
            with_job(Paused, Why::PostCopyFailed),
            Seen::Silent,
            Verdict::Wait(Waiting::TargetSilent),
        ),
        (
            "all memory has followed, libvirt had lost sight of it",
            at(ShutOff, Why::LeftByMigration),
            at(Running, Why::Migrated),
            Verdict::UndefineSource,
        ),
        (
            "target QEMU killed while memory followed",
            with_job(Paused, Why::PostCopyFailed),
            at(Crashed, Why::Other),
            Verdict::MemoryLost,
        ),
        (
            "source QEMU killed while memory followed",
            at(Crashed, Why::Other),
            at(Running, Why::PostCopyFailed),
            Verdict::MemoryLost,
        ),
        (
            "source off for good while memory followed",
            Seen::Off,
            at(Running, Why::PostCopy),
            Verdict::MemoryLost,
        ),
        (
            "the last page came between the two looks",
            Seen::Absent,
            at(Running, Why::PostCopy),
            Verdict::Wait(Waiting::Settling),
        ),
        (
            "left, target has lost it since",
            at(ShutOff, Why::LeftByMigration),
            Seen::Absent,
            Verdict::Wait(Waiting::Settling),
        ),
        (
            "left, target QEMU killed since",
            at(ShutOff, Why::LeftByMigration),
            at(Crashed, Why::Other),
            Verdict::StoppedAtTarget {
                defined: true,
                orderly: false,
            },
        ),
        (
            "source off for good, target runs",
            Seen::Off,
            at(Running, Why::Migrated),
            Verdict::MovedSourceOff,
        ),
        (
            "target off for good, source went on",
            at(Running, Why::MigrationCanceled),
            Seen::Off,
            Verdict::StayedTargetSilent,
        ),
        (
            "neither answers",
            Seen::Silent,
            Seen::Silent,
            Verdict::Wait(Waiting::BothSilent),
        ),
        (
            "nothing anywhere",
            Seen::Absent,
            Seen::Absent,
            Verdict::Lost,
        ),
    ];
    for (row, source, target, verdict) in rows {
        assert_eq!(decide(source, target, Arrival::Running), verdict, "{row}");
    }
}

#[test]
fn a_guest_paused_before_stays_paused() {
    use Activity::*;
    assert_eq!(
        decide(at(Paused, Why::ByUser), Seen::Absent, Arrival::StaysPaused),
        Verdict::Stayed
    );
    assert_eq!(
        decide(
            Seen::Absent,
            at(Paused, Why::Migrated),
            Arrival::StaysPaused
        ),
        Verdict::Moved
    );
    assert_eq!(
        decide(Seen::Absent, at(Paused, Why::ByUser), Arrival::StaysPaused),
        Verdict::Moved
    );
}

/// A guest that we are to start: where it waits at the target, by what the source shows.
#[test]
fn a_guarded_guest_is_let_go_once_the_source_is_gone() {
    use Activity::*;
    let waits = at(Paused, Why::ByUser);
    let settling = Verdict::Wait(Waiting::Settling);
    let rows = [
        ("gone", Seen::Absent, Verdict::ResumeTarget),
        ("silent", Seen::Silent, Verdict::Wait(Waiting::SourceSilent)),
        (
            "not heard yet",
            with_job(Paused, Why::Migrating),
            Verdict::Switching,
        ),
        (
            "answer lost, it went on",
            at(Running, Why::MigrationCanceled),
            Verdict::DestroyTargetLeftover,
        ),
        (
            "its libvirtd killed while it waited",
            at(Paused, Why::Migrating),
            Verdict::DiscardPausedSource,
        ),
        (
            "left",
            at(ShutOff, Why::LeftByMigration),
            Verdict::UndefineSource,
        ),
        (
            "went on and powered off",
            at(ShutOff, Why::Shutdown),
            settling,
        ),
        ("off, nobody knows why", at(ShutOff, Why::Other), settling),
        ("went on and crashed", at(Crashed, Why::Other), settling),
    ];
    for (row, source, verdict) in rows {
        assert_eq!(decide(source, waits, Arrival::Guarded), verdict, "{row}");
    }
    // Not there yet, or let go already.
    assert_eq!(decide(Seen::Absent, incoming(), Arrival::Guarded), settling);
    let runs = at(Running, Why::Unpaused);
    assert_eq!(decide(Seen::Absent, runs, Arrival::Guarded), Verdict::Moved);
}

/// The same of a guest that stays paused: a source that went on, or may have, has what the target has not.
#[test]
fn a_guest_that_stays_paused_is_given_up_only_where_its_source_left() {
    use Activity::*;
    let waits = at(Paused, Why::ByUser);
    let settling = Verdict::Wait(Waiting::Settling);
    let rows = [
        (
            "somebody let it go on",
            at(Running, Why::Unpaused),
            Verdict::DestroyTargetLeftover,
        ),
        ("paused at both", waits, settling),
        (
            "its libvirtd killed while it waited",
            at(Paused, Why::Migrating),
            Verdict::DiscardPausedSource,
        ),
        (
            "left",
            at(ShutOff, Why::LeftByMigration),
            Verdict::UndefineSource,
        ),
        ("off, nobody knows why", at(ShutOff, Why::Other), settling),
        ("crashed", at(Crashed, Why::Other), settling),
    ];
    for (row, source, verdict) in rows {
        assert_eq!(
            decide(source, waits, Arrival::StaysPaused),
            verdict,
            "{row}"
        );
    }
    let runs = at(Running, Why::Unpaused);
    let verdict = decide(at(Crashed, Why::Other), runs, Arrival::StaysPaused);
    assert_eq!(verdict, Verdict::UndefineSource);
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
        Why::PostCopy,
        Why::PostCopyFailed,
        Why::Other,
    ];
    let mut all = vec![Seen::Silent, Seen::Off, Seen::Absent];
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
            for arrival in [Arrival::Running, Arrival::StaysPaused, Arrival::Guarded] {
                let verdict = decide(source, target, arrival);
                let passive = matches!(
                    verdict,
                    Verdict::Wait(_)
                        | Verdict::Copying
                        | Verdict::Switching
                        | Verdict::PostCopy
                        | Verdict::MemoryLost
                );
                if source == Seen::Off || target == Seen::Off {
                    // Nothing is done but what the other end proves alone, and nothing to what is off.
                    let alone = matches!(
                        verdict,
                        Verdict::MovedSourceOff
                            | Verdict::ResumeTarget
                            | Verdict::StayedTargetSilent
                    );
                    assert!(passive || alone, "{source:?} {target:?} {verdict:?}");
                    assert!(verdict != Verdict::StayedTargetSilent || source != Seen::Off);
                    assert!(verdict != Verdict::MovedSourceOff || target != Seen::Off);
                } else {
                    assert_ne!(verdict, Verdict::MovedSourceOff);
                }
                if source == Seen::Silent || target == Seen::Silent {
                    let passive = passive || verdict == Verdict::StayedTargetSilent;
                    assert!(passive, "{source:?} {target:?} {verdict:?}");
                }
                if let Seen::Present(copy) = source
                    && copy.job
                {
                    let passive = passive || verdict == Verdict::RecoverPostCopy;
                    assert!(passive, "{source:?} {target:?} {verdict:?}");
                }
                if verdict == Verdict::ResumeTarget {
                    assert!(matches!(source, Seen::Absent | Seen::Off));
                    assert_eq!(arrival, Arrival::Guarded);
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
