//! Journals that can't be read: they are never taken for none. Nothing is removed where one lies, no move begins there,
//! and it is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/corpus/mod.rs"]
mod corpus;
mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, MigrationProfileSpec, quantity::Span};
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{FileFailurePersistence, TestRunner},
};
use support::*;
use tokio::time::sleep;

fn damaged(text: &str) -> String {
    text.replace("\"guest\"", "\"gu\u{0}est\"")
}

#[tokio::test(start_paused = true)]
async fn disks_that_are_kept_stay_and_no_move_begins() {
    let (fleet, desk) = stage(1, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    fleet.add_guest("h1", &GuestPlan::new("g2").autostart());
    let keep = |spec: &mut MigrationProfileSpec| spec.keep_source = Span(Duration::from_secs(30));
    desk.profile("default", keep);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    fleet.damage_journals("h1", damaged);
    sleep(Duration::from_secs(1300)).await;
    let kept = |file: &String| file.contains("g1-vda");
    assert!(fleet.files("h1").iter().any(kept), "{}", actor.picture());
    assert_eq!(fleet.journals().len(), 1, "{}", actor.picture());
    assert!(
        actor.heard("Host", "h1", "OutcomeUnknown"),
        "{}",
        actor.picture()
    );
    desk.migrate("n", "g2", Some("h2"));
    actor
        .says("GuestMigration", "n", "OutcomeUnknown", 60)
        .await;
    assert_eq!(fleet.executing(guest), ["h2"]);
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

/// A process that died so long after a move was asked for, and journals that are damaged when the next one comes: whatever
/// is in them, the guest's data is whole and runs once.
fn outlives(millis: u64, both: bool, damage: impl Fn(&str) -> String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (fleet, desk) = stage(millis, &[HostPlan::new("h1"), HostPlan::new("h2")]);
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
        let first = Role::new("one").cluster().process(dead_process());
        let actor = Actor::start(&fleet, &desk, &first);
        actor.settled().await;
        desk.migrate("m", "g1", Some("h2"));
        sleep(Duration::from_millis(millis)).await;
        actor.kill().await;
        fleet.damage_journals("h1", &damage);
        if both {
            fleet.damage_journals("h2", &damage);
        }
        let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster().epoch(1));
        sleep(Duration::from_secs(120)).await;
        assert_eq!(
            fleet.violations(),
            Vec::<String>::new(),
            "{}",
            actor.picture()
        );
        assert!(fleet.is_whole(guest), "{}", actor.picture());
        assert_eq!(fleet.executing(guest).len(), 1, "{}", actor.picture());
    });
}

#[test]
fn whatever_is_kept_of_them() {
    for (name, text) in corpus::texts("journals", "") {
        for (number, both) in [true, false].into_iter().enumerate() {
            println!("{name}");
            outlives(700 + 900 * number as u64, both, |_| text.clone());
        }
    }
}

#[test]
fn whatever_is_in_them() {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.and_then(|text| text.parse().ok()).unwrap_or(40);
    let config = ProptestConfig {
        cases: u32::min(cases, 2_000),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/corpus/proptest/journals.txt"
        )))),
        ..ProptestConfig::default()
    };
    let damage = (
        any::<Index>(),
        any::<Index>(),
        "\\PC{0,6}",
        0..3_000u64,
        any::<bool>(),
    );
    let run = TestRunner::new(config).run(&damage, |(from, to, put, millis, both)| {
        outlives(millis, both, |text| {
            let chars: Vec<char> = text.chars().collect();
            let (one, other) = (from.index(chars.len() + 1), to.index(chars.len() + 1));
            let head = chars[..one.min(other)].iter();
            let tail = chars[one.max(other)..].iter();
            head.copied()
                .chain(put.chars())
                .chain(tail.copied())
                .collect()
        });
        Ok(())
    });
    run.unwrap();
}

/// A claim that a dead process left makes the next one read the journals there again, just as it writes those of its own
/// move: they are its own before their first word is written.
#[tokio::test(start_paused = true)]
async fn its_own_is_not_swept_while_it_is_written() {
    let (fleet, desk) = stage(1, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let first = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    let second = fleet.add_guest("h1", &GuestPlan::new("g2").autostart());
    let dead = Role::new("one").cluster().process(dead_process());
    let actor = Actor::start(&fleet, &desk, &dead);
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.kill().await;
    fleet.nature(|nature| nature.journal_empty = Duration::from_secs(3));
    let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster());
    actor.settled().await;
    desk.migrate("n", "g2", Some("h2"));
    actor.phase("n", MigrationPhase::Succeeded, 60).await;
    assert_eq!(actor.status("n").failed_attempts, 0, "{}", actor.picture());
    actor.clean(&[(first, "h2"), (second, "h2")]).await;
}

/// One without a word that nobody writes any more goes, but not at once: who lost its claim may still be at it.
#[tokio::test(start_paused = true)]
async fn one_without_a_word_goes_after_a_while() {
    let (fleet, desk) = stage(1, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    fleet.nature(|nature| nature.journal_empty = Duration::from_secs(3));
    let dead = Role::new("one").cluster().process(dead_process());
    let actor = Actor::start(&fleet, &desk, &dead);
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .until("journals are made", 10, |_| !fleet.journals().is_empty())
        .await;
    actor.kill().await;
    desk.abort("m");
    let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster());
    sleep(Duration::from_secs(4)).await;
    assert!(!fleet.journals().is_empty(), "{}", actor.picture());
    actor.settled().await;
    actor.clean(&[(guest, "h1")]).await;
}
