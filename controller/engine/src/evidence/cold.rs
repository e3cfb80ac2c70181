//! The same for a guest that is not running: what both ends show of it while it is copied, and what that asks for.
//!
//! Its definition leaves the source before it comes to the target: in between only the journals have it, so nobody can
//! start it at either end while its last state is being proven.

use super::{Copy, Seen, Waiting};

/// What both ends show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is at the source alone, and stopped.
    Stays,
    /// It is at the source alone, and was started there.
    Started {
        /// Whether it would still be defined once it stops.
        defined: bool,
    },
    /// Neither end has it: its definition is in the journals.
    Between,
    /// It is at the target alone.
    Moved,
    /// Both ends have it, by somebody else's hand.
    Twice,
    /// An end is silent.
    Wait(Waiting),
}

/// What both ends show together. Of a silent end nothing is guessed.
#[must_use]
pub fn decide(source: Seen, target: Seen) -> Verdict {
    match (source, target) {
        (Seen::Silent | Seen::Off, Seen::Silent | Seen::Off) => Verdict::Wait(Waiting::BothSilent),
        (Seen::Silent | Seen::Off, _) => Verdict::Wait(Waiting::SourceSilent),
        (_, Seen::Silent | Seen::Off) => Verdict::Wait(Waiting::TargetSilent),
        (Seen::Absent, Seen::Absent) => Verdict::Between,
        (Seen::Absent, Seen::Present(Copy { persistent, .. })) => {
            // One that only runs there was not defined by us.
            if persistent {
                Verdict::Moved
            } else {
                Verdict::Wait(Waiting::Settling)
            }
        }
        (Seen::Present(copy), Seen::Absent) => {
            if copy.activity.active() || copy.job {
                Verdict::Started {
                    defined: copy.persistent,
                }
            } else {
                Verdict::Stays
            }
        }
        (Seen::Present(_), Seen::Present(_)) => Verdict::Twice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Activity, Why};

    fn everything() -> Vec<Seen> {
        let activities = [
            Activity::Running,
            Activity::Paused,
            Activity::ShutOff,
            Activity::Crashed,
            Activity::Suspended,
            Activity::ShuttingDown,
        ];
        let mut all = vec![Seen::Silent, Seen::Off, Seen::Absent];
        for activity in activities {
            for why in [Why::Other, Why::LeftByMigration, Why::Migrating] {
                for (persistent, job) in
                    [(true, false), (true, true), (false, false), (false, true)]
                {
                    all.push(Seen::Present(Copy {
                        activity,
                        why,
                        persistent,
                        job,
                    }));
                }
            }
        }
        all
    }

    /// Over everything that both ends can show: nothing is said unless both answer, and what is said is so.
    #[test]
    fn all_that_can_be_seen() {
        for source in everything() {
            for target in everything() {
                let verdict = decide(source, target);
                let is_silent = |seen| matches!(seen, Seen::Silent | Seen::Off);
                let silent = is_silent(source) || is_silent(target);
                let present = |seen| matches!(seen, Seen::Present(_));
                match verdict {
                    Verdict::Wait(Waiting::Settling) => assert!(present(target) && !silent),
                    Verdict::Wait(_) => assert!(silent),
                    _ => assert!(!silent, "{source:?} {target:?}"),
                }
                // The source's files go only after this one.
                if verdict == Verdict::Moved {
                    assert!(source == Seen::Absent);
                    assert!(matches!(target, Seen::Present(copy) if copy.persistent));
                }
                // The source is undefined only after this one.
                if verdict == Verdict::Stays {
                    assert!(target == Seen::Absent);
                    assert!(
                        matches!(source, Seen::Present(copy) if !copy.activity.active() && !copy.job)
                    );
                }
                // It is defined, at either end, only after these.
                assert_eq!(
                    verdict == Verdict::Between,
                    source == Seen::Absent && target == Seen::Absent
                );
                if let Verdict::Started { .. } = verdict {
                    assert!(target == Seen::Absent && present(source));
                }
            }
        }
    }
}
