//! A soak that finds nothing proves something only if it would find what is wrong: each safety rule, broken on purpose,
//! must be noticed within 10,000 moves, in a story that ends well where the rule holds.

#![allow(clippy::panic, clippy::print_stdout)]

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{GuestMigration, GuestMigrationSpec, Host, HostSpec, shared::Timestamp};
use evenkeel_engine::{
    Clock, Engine, Options,
    mutation::{RULES, Rule, break_rule},
};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, uri};
use evenkeel_kubernetes::simulated::Server;
use evenkeel_soak::{Kind, Script, seed_of, tell};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// Faults that bring about what a rule is for; empty: any do.
fn faults_for(rule: Rule) -> &'static [Kind] {
    match rule {
        Rule::ListOfDomains => &[Kind::DiskBorrowed],
        Rule::ClaimProven => &[Kind::SecondController, Kind::CutOff],
        Rule::BothEnds => &[Kind::CutOff, Kind::LibvirtdHung],
        Rule::Durable => &[Kind::PowerLost],
        Rule::ProofBeforeRemoval
        | Rule::InFlight
        | Rule::NoAbortInSwitch
        | Rule::EvidenceSeenAgain => &[],
    }
}

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
            only: faults_for(rule).to_vec(),
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
        Rule::ListOfDomains,
        Rule::InFlight,
        Rule::ClaimProven,
        Rule::Durable,
    ] {
        is_noticed(rule, 500);
    }
}

#[test]
#[ignore = "long: make soak runs it"]
fn every_broken_rule_is_noticed() {
    for rule in RULES
        .into_iter()
        .filter(|rule| *rule != Rule::EvidenceSeenAgain)
    {
        is_noticed(rule, 10_000);
    }
}

/// The answer is lost and both ends run the guest; somebody destroys it at the target just when that was seen, before the
/// source is suspended. What is wrong then; nothing where the guest never ran twice.
async fn one_of_two_ends(seed: u64) -> Option<Vec<String>> {
    let clock = Clock::simulated(Timestamp::now(), seed);
    let (fleet, server) = (Fleet::new(seed), Server::new(&clock));
    for name in ["h1", "h2"] {
        fleet.add_host(&HostPlan::new(name));
        let spec = HostSpec {
            uri: uri(name),
            ..HostSpec::default()
        };
        server.put_host(Host::new(name, spec));
    }
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    let options = Options {
        fleet: "test".to_owned(),
        holder: "controller".to_owned(),
        process: None,
        epoch: 1,
        act: true,
        held: false,
        from_files: false,
    };
    let (happenings, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(async move { while heard.recv().await.is_some() {} });
    let client = Arc::new(fleet.client("controller"));
    let (mut session, wishes) = server.session();
    let engine = Engine::start_with(clock.clone(), options, client, wishes, happenings);
    session.follow(engine.views());
    let spec = GuestMigrationSpec {
        guest: "g1".to_owned(),
        target: Some("h2".to_owned()),
        ..GuestMigrationSpec::default()
    };
    server.put_migration(GuestMigration::new("m", spec));
    let until = async |test: &dyn Fn() -> bool| {
        let poll = async {
            while !test() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(120), poll).await.ok()
    };
    until(&|| fleet.phase(guest).as_deref() == Some("Confirm")).await?;
    fleet.kill_libvirtd("h2");
    until(&|| fleet.executing(guest).len() == 2).await?;
    fleet.start_libvirtd("h2");
    let noted = |(_, text): &(String, String)| text.contains("\"ranTwice\":true");
    until(&|| fleet.journals().iter().any(noted)).await?;
    fleet.destroy("h2", guest);
    sleep(Duration::from_secs(5)).await;
    Some(fleet.violations())
}

/// Hardly ever does the world move between two looks: this rule has a story of its own.
#[tokio::test(start_paused = true)]
async fn what_is_not_seen_again_is_noticed() {
    for broken in [None, Some(Rule::EvidenceSeenAgain)] {
        break_rule(broken);
        let (mut doubled, mut wrong) = (0, Vec::new());
        for seed in 1..=12 {
            if let Some(violations) = one_of_two_ends(seed).await {
                doubled += 1;
                wrong.extend(violations);
            }
        }
        break_rule(None);
        assert!(doubled > 0, "the guest never ran twice");
        assert_eq!(!wrong.is_empty(), broken.is_some(), "{broken:?}: {wrong:?}");
    }
}
