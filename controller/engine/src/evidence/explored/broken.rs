//! Each rule broken on purpose is found out, and by what it should be: else the exploring would prove nothing.

use super::{
    BOOTS, DEFINED, ENDED, FILES, Move, ONE, RESTS, TOLD, TWICE,
    controller::{Decide, RULES, Rules},
};
use crate::{
    evidence::{Arrival, Copy, Seen, Verdict, Waiting, decide},
    port::{Activity, Why},
};

fn paused_by_migration(seen: Seen) -> bool {
    matches!(seen, Seen::Present(copy)
        if copy.activity == Activity::Paused && copy.why == Why::Migrating)
}

fn has_job(seen: Seen) -> bool {
    matches!(seen, Seen::Present(copy) if copy.job)
}

fn waits(seen: Seen) -> bool {
    matches!(seen, Seen::Present(copy)
        if copy.activity == Activity::Paused && copy.why == Why::ByUser && copy.persistent)
}

fn is_off(seen: Seen) -> bool {
    matches!(seen, Seen::Present(copy) if copy.activity == Activity::ShutOff)
}

fn runs(seen: Seen) -> bool {
    matches!(seen, Seen::Present(copy) if copy.activity == Activity::Running)
}

fn without_job(seen: Seen) -> Seen {
    match seen {
        Seen::Present(copy) => Seen::Present(Copy { job: false, ..copy }),
        other => other,
    }
}

fn absent_if_silent(seen: Seen) -> Seen {
    if seen == Seen::Silent {
        Seen::Absent
    } else {
        seen
    }
}

/// Each rule broken on purpose is found out, and by what it should be.
#[test]
fn a_broken_rule_is_found() {
    let broken: [(&str, Decide, &str); 16] = [
        (
            "a target whose memory does not follow any more is a leftover",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::RecoverPostCopy => Verdict::DestroyTargetLeftover,
                other => other,
            },
            ENDED,
        ),
        (
            "a guest whose memory is lost has moved",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::MemoryLost => Verdict::Moved,
                other => other,
            },
            TOLD,
        ),
        (
            "a broken post-copy is waited for",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::RecoverPostCopy => Verdict::Wait(Waiting::Settling),
                other => other,
            },
            RESTS,
        ),
        (
            "a guest that waits is let go, whatever the source does",
            |source, target, arrival| {
                if arrival == Arrival::Guarded && waits(target) && !has_job(source) {
                    Verdict::ResumeTarget
                } else {
                    decide(source, target, arrival)
                }
            },
            ONE,
        ),
        (
            "a silent source of a guest that waits is gone",
            |source, target, arrival| match arrival {
                Arrival::Guarded if waits(target) => {
                    decide(absent_if_silent(source), target, arrival)
                }
                _ => decide(source, target, arrival),
            },
            ONE,
        ),
        (
            "a source that is off has left the guest that waits",
            |source, target, arrival| {
                if arrival == Arrival::Guarded && waits(target) && is_off(source) {
                    Verdict::UndefineSource
                } else {
                    decide(source, target, arrival)
                }
            },
            TWICE,
        ),
        (
            "a guest that waits has moved",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::ResumeTarget => Verdict::Moved,
                other => other,
            },
            TOLD,
        ),
        (
            "a silent target has nothing",
            |source, target, arrival| decide(source, absent_if_silent(target), arrival),
            TWICE,
        ),
        (
            "a silent source has nothing",
            |source, target, arrival| decide(absent_if_silent(source), target, arrival),
            FILES,
        ),
        (
            "a guest that is still arriving has moved",
            |source, target, arrival| {
                if paused_by_migration(target) && !has_job(source) {
                    Verdict::Moved
                } else {
                    decide(source, target, arrival)
                }
            },
            FILES,
        ),
        (
            "a source paused by the migration is resumed, whatever the target does",
            |source, target, arrival| {
                if paused_by_migration(source) && !has_job(source) && runs(target) {
                    Verdict::ResumeSource
                } else {
                    decide(source, target, arrival)
                }
            },
            TWICE,
        ),
        (
            "a job at the source means nothing",
            |source, target, arrival| decide(without_job(source), target, arrival),
            ENDED,
        ),
        (
            "what runs at the target is a leftover",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::DiscardPausedSource => Verdict::DestroyTargetLeftover,
                other => other,
            },
            ENDED,
        ),
        (
            "what stopped at the target is a leftover",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::StoppedAtTarget { .. } => Verdict::UndefineTargetLeftover,
                other => other,
            },
            DEFINED,
        ),
        (
            "a source that is defined may stay so",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::UndefineSource => Verdict::Moved,
                other => other,
            },
            TOLD,
        ),
        (
            "a source that hangs is waited for",
            |source, target, arrival| match decide(source, target, arrival) {
                Verdict::DiscardPausedSource => Verdict::Wait(Waiting::Settling),
                other => other,
            },
            RESTS,
        ),
    ];
    for (rule, decide, property) in broken {
        let rules = Rules { decide, ..RULES };
        is_found(rule, rules, property);
    }
}

/// With one fault, or with two.
fn is_found(rule: &str, rules: Rules, property: &str) {
    let found = [1, 2].into_iter().any(|faults| {
        let model = Move {
            rules,
            faults,
            ..Move::default()
        };
        model.breaks().contains(&property)
    });
    assert!(found, "{rule}");
}

/// The program's habits, broken on purpose.
#[test]
fn a_broken_habit_is_found() {
    let boots = Rules {
        autostart_off: false,
        ..RULES
    };
    is_found("autostart stays on at the source", boots, BOOTS);
    let hasty = Rules {
        looks_again: false,
        ..RULES
    };
    is_found("what was seen once is acted on", hasty, ENDED);
}

/// A program that once saw what to act on and waits to see just that again: it harms nobody, and it is right wherever
/// the world stands still first. It is found only by an order in which the world moves between two looks.
#[test]
fn what_breaks_nothing_but_the_end_is_found() {
    let stubborn = Move {
        rules: Rules {
            lets_go: false,
            ..RULES
        },
        faults: 2,
        ..Move::default()
    };
    assert_eq!(stubborn.breaks(), [RESTS]);
}
