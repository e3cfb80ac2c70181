//! Series recorded on real hosts: a guest of 256 MiB that rewrites 40 MiB for ever, over 8 MiB/s.

use super::*;

const MIB: u64 = 1 << 20;
const TOTAL: u64 = 269_230_080;

fn sample(judge: &mut Judge, millis: u64, iteration: u64, left: u64, throttle: u8) -> Word {
    let job = JobFacts {
        memory_total: Bytes(TOTAL),
        memory_left: Bytes(left),
        iteration,
        throttle,
        ..JobFacts::default()
    };
    judge.sample(Duration::from_millis(millis), &job)
}

/// Without help, as libvirt told it: milliseconds, iteration, bytes left.
const WITHOUT_HELP: [(u64, u64, u64); 21] = [
    (9121, 1, 267_419_648),
    (12_376, 1, 238_161_920),
    (17_361, 1, 190_791_680),
    (21_274, 1, 145_985_536),
    (21_609, 1, 11_464_704),
    (22_296, 1, 5_455_872),
    (22_640, 2, 45_260_800),
    (25_111, 2, 24_473_600),
    (27_407, 2, 5_160_960),
    (27_732, 3, 45_031_424),
    (30_084, 3, 24_735_744),
    (32_276, 3, 6_262_784),
    (33_035, 4, 43_237_376),
    (37_640, 4, 3_579_904),
    (37_984, 5, 43_212_800),
    (42_224, 5, 7_782_400),
    (42_841, 6, 44_871_680),
    (47_500, 6, 5_279_744),
    (47_849, 7, 44_929_024),
    (52_966, 8, 44_036_096),
    (58_140, 9, 43_188_224),
];

fn stalled_at(stall: u64) -> Option<u64> {
    let mut judge = Judge::new(Duration::from_secs(stall), false);
    let at = |(millis, ..): &(u64, u64, u64)| *millis;
    WITHOUT_HELP
        .iter()
        .find(|(millis, iteration, left)| {
            sample(&mut judge, *millis, *iteration, *left, 0) == Word::Stalled
        })
        .map(at)
}

#[test]
fn the_sawtooth_is_judged_where_it_is_highest() {
    // Never within an iteration, and not before an older one of the same height was seen. Samples come up to half a second
    // late, which lets the fourth and fifth look like a gain.
    assert_eq!(stalled_at(10), Some(42_841));
    assert_eq!(stalled_at(20), Some(42_841));
    assert_eq!(stalled_at(40), None);
}

#[test]
fn a_copy_that_gains_goes_on() {
    let mut judge = Judge::new(Duration::from_secs(10), false);
    let mut left = 200 * MIB;
    for iteration in 1..40 {
        let word = sample(&mut judge, iteration * 11_000, iteration, left, 0);
        assert_eq!(word, Word::Nothing, "iteration {iteration}");
        left = left * 9 / 10;
    }
}

#[test]
fn help_is_given_its_time() {
    let mut judge = Judge::new(Duration::from_secs(10), true);
    let mut words = Vec::new();
    // Slowed down further every second iteration, in vain until the last.
    for iteration in 1..20u64 {
        let throttle = (iteration / 2 * 10).min(60) as u8;
        words.push(sample(
            &mut judge,
            iteration * 6000,
            iteration,
            45 * MIB,
            throttle,
        ));
    }
    let slowed = words.iter().filter(|word| **word == Word::Slowed).count();
    assert_eq!(slowed, 6);
    let first = words.iter().position(|word| *word == Word::Stalled);
    // The twelfth slowed it down for the last time; it takes five more and more than ten seconds.
    assert_eq!(first, Some(16), "{words:?}");
    let cause = judge.given_up(Bytes(45 * MIB), true);
    assert_eq!(cause.reason, Reason::NotConverging);
    assert!(cause.message.contains("60 percent"), "{}", cause.message);
}

#[test]
fn nothing_is_said_of_disks() {
    let mut judge = Judge::new(Duration::from_secs(1), false);
    for second in 0..100 {
        let job = JobFacts {
            disk_left: Bytes(MIB),
            iteration: second,
            ..JobFacts::default()
        };
        assert_eq!(
            judge.sample(Duration::from_secs(second), &job),
            Word::Nothing
        );
    }
}

#[test]
fn what_is_expected() {
    let help = [Convergence::AutoConverge];
    let fine = predict(Bytes(2 * MIB), Bytes(50 * MIB), &help);
    assert_eq!(fine.answer, Answer::True);
    let bad = predict(Bytes(26 * MIB), Bytes(8 * MIB), &help);
    assert_eq!(
        (bad.answer, bad.cause.reason),
        (Answer::False, Reason::NotConverging)
    );
    for part in ["26Mi", "8Mi", "AutoConverge"] {
        assert!(bad.cause.message.contains(part), "{}", bad.cause.message);
    }
    let alone = predict(Bytes(26 * MIB), Bytes(8 * MIB), &[]);
    assert!(alone.cause.message.contains("no help"));
}

#[test]
fn disks_and_memory_have_budgets_of_their_own() {
    let budget = Budget::default();
    let late = |gib: u64, seconds| {
        let took = Duration::from_secs(seconds);
        over_budget(&budget, "disks", Bytes(gib << 30), Bytes(MIB), took).is_some()
    };
    assert!(!late(0, 189) && late(0, 190));
    assert!(!late(10, 1539) && late(10, 1540));
}
