//! A soak that finds nothing proves something only if it would find what is wrong: each safety rule, broken on purpose,
//! must be noticed within 10,000 moves, in a story that ends well where the rule holds.

#![allow(clippy::panic, clippy::print_stdout)]

use evenkeel_engine::mutation::{RULES, Rule, break_rule};
use evenkeel_soak::{Script, seed_of, tell};

/// Breaks the rule and tells stories until one fails; moves until then, the story and what was wrong. Nothing where none
/// fails within so many.
fn notice(rule: Rule, most: u64) -> Option<(u64, Script, String)> {
    break_rule(Some(rule));
    let mut moves = 0;
    let mut failed = None;
    for story in 0.. {
        let script = Script {
            seed: seed_of(7, story),
            rounds: 4,
            ..Script::default()
        };
        match tell(&script) {
            Ok(tally) => moves += tally.moves,
            Err(failure) => failed = Some((moves, script, failure.wrong[0].clone())),
        }
        if moves >= most || failed.is_some() {
            break;
        }
    }
    break_rule(None);
    failed
}

fn is_noticed(rule: Rule, most: u64) {
    let noticed = notice(rule, most);
    let (moves, script, wrong) =
        noticed.unwrap_or_else(|| panic!("{rule:?} was broken and nobody noticed"));
    println!("{rule:?}: noticed after {moves} moves: {wrong}");
    if let Err(failure) = tell(&script) {
        panic!("{rule:?} holds and the story fails all the same: {failure:#?}");
    }
}

/// Those that are noticed within a few hundred moves.
#[test]
fn some_are_noticed_soon() {
    for rule in [
        Rule::ProofBeforeRemoval,
        Rule::InFlight,
        Rule::NoAbortInSwitch,
        Rule::Durable,
    ] {
        is_noticed(rule, 500);
    }
}

#[test]
#[ignore = "long: make soak runs it"]
fn every_broken_rule_is_noticed() {
    for rule in RULES {
        is_noticed(rule, 10_000);
    }
}
