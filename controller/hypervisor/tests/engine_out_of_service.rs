//! A host that is gone for good, by its operator's word: what waits for it ends as far as the other end proves it, and what
//! it still has is dealt with when it comes back after all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, kinds::migration::SourceFiles};
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

/// A guest that starts with its host, on its way from h1 to h2, with a third host beside.
async fn on_its_way(seed: u64) -> (Actor, Uuid) {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(seed, &hosts);
    let guest = fleet.add_guest(
        "h1",
        &GuestPlan::new("g1").autostart().disk(600 * MIB, 300 * MIB),
    );
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    actor.desk.migrate("m", "g1", Some("h2"));
    (actor, guest)
}

async fn until(actor: &Actor, what: &str, test: impl Fn() -> bool) {
    for _ in 0..180_000 {
        if test() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("never {what}\n{}", actor.picture());
}

async fn in_phase(actor: &Actor, guest: Uuid, phase: &str) {
    until(actor, phase, || {
        actor.fleet.phase(guest).as_deref() == Some(phase)
    })
    .await;
}

/// Until nothing of any move is left anywhere.
async fn swept(actor: &Actor) {
    let fleet = &actor.fleet;
    let clean = || fleet.journals().is_empty() && fleet.claims().is_empty();
    until(actor, "clean", clean).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_has_arrived_is_left_there() {
    for late in [0, 5, 50] {
        let (actor, guest) = on_its_way(1).await;
        until(&actor, "there", || actor.fleet.executing(guest) == ["h2"]).await;
        sleep(Duration::from_millis(late)).await;
        actor.fleet.power_off("h1");
        actor.says("GuestMigration", "m", "SourceLost", 60).await;
        sleep(Duration::from_secs(300)).await;
        assert!(!actor.status("m").phase.is_final(), "{}", actor.picture());

        actor
            .desk
            .change_host("h1", |spec| spec.out_of_service = true);
        actor.phase("m", MigrationPhase::Succeeded, 30).await;
        let evidence = actor.status("m").evidence.unwrap();
        assert_eq!(evidence.source_files, SourceFiles::Abandoned);
        assert_eq!(evidence.running, ["h2"]);
        assert!(actor.fleet.domain("h2", guest).unwrap().autostart);
        assert!(
            actor
                .fleet
                .files("h1")
                .iter()
                .any(|file| file.contains("g1"))
        );

        // It comes back after all: its copy does not start, and goes.
        actor.fleet.power_on("h1");
        swept(&actor).await;
        actor.clean(&[(guest, "h2")]).await;
        assert!(!actor.fleet.ever_ran_twice(guest));
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_word_nothing_is_decided() {
    let (actor, guest) = on_its_way(2).await;
    in_phase(&actor, guest, "Disks").await;
    actor.fleet.power_off("h1");
    sleep(Duration::from_secs(60)).await;
    // Nothing at the target proves anything: with the word neither.
    actor
        .desk
        .change_host("h1", |spec| spec.out_of_service = true);
    sleep(Duration::from_secs(300)).await;
    assert!(!actor.status("m").phase.is_final(), "{}", actor.picture());
    assert!(
        actor
            .fleet
            .files("h1")
            .iter()
            .any(|file| file.contains("g1"))
    );
    actor.fleet.power_on("h1");
    actor
        .desk
        .change_host("h1", |spec| spec.out_of_service = false);
    // Its host started it, as it does with what starts with it, or not: autostart was off by then.
    sleep(Duration::from_secs(120)).await;
    assert!(actor.fleet.is_whole(guest), "{}", actor.picture());
    assert_eq!(actor.fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stays_is_free_of_a_target_that_is_gone() {
    let (actor, guest) = on_its_way(3).await;
    in_phase(&actor, guest, "Switch").await;
    actor.fleet.power_off("h2");
    until(&actor, "back at the source", || {
        actor.fleet.executing(guest) == ["h1"]
    })
    .await;
    actor.says("GuestMigration", "m", "TargetLost", 120).await;
    actor
        .desk
        .change_host("h2", |spec| spec.out_of_service = true);
    // A host that is out of service takes nothing: the wish stays open, the guest does not.
    until(&actor, "free", || {
        actor.status("m").phase == MigrationPhase::Pending
    })
    .await;
    assert!(actor.fleet.domain("h1", guest).unwrap().mark.is_none());
    assert!(actor.fleet.domain("h1", guest).unwrap().autostart);
    actor.desk.migrate("other", "g1", Some("h3"));
    actor.desk.delete("m");
    actor.phase("other", MigrationPhase::Succeeded, 120).await;
    actor.fleet.power_on("h2");
    actor
        .desk
        .change_host("h2", |spec| spec.out_of_service = false);
    swept(&actor).await;
    actor.clean(&[(guest, "h3")]).await;
}

/// The one who saw it arrive has died, and the next finds only the target's journal.
#[tokio::test(start_paused = true)]
async fn taken_over_without_the_source() {
    let (actor, guest) = on_its_way(4).await;
    until(&actor, "there", || actor.fleet.executing(guest) == ["h2"]).await;
    actor.fleet.power_off("h1");
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    desk.change_host("h1", |spec| spec.out_of_service = true);
    let next = Actor::start(&fleet, &desk, &Role::new("two").cluster());
    next.phase("m", MigrationPhase::Succeeded, 180).await;
    assert_eq!(fleet.executing(guest), ["h2"]);
    fleet.power_on("h1");
    swept(&next).await;
    next.clean(&[(guest, "h2")]).await;
}

/// It went on from there while the host was off: what that one has is old, is named, and is nobody's to start or remove.
#[tokio::test(start_paused = true)]
async fn an_old_copy_is_named() {
    let (actor, guest) = on_its_way(5).await;
    until(&actor, "there", || actor.fleet.executing(guest) == ["h2"]).await;
    actor.fleet.power_off("h1");
    actor
        .desk
        .change_host("h1", |spec| spec.out_of_service = true);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.desk.migrate("on", "g1", Some("h3"));
    actor.phase("on", MigrationPhase::Succeeded, 120).await;
    assert_eq!(actor.fleet.executing(guest), ["h3"]);
    actor.fleet.power_on("h1");
    actor
        .desk
        .change_host("h1", |spec| spec.out_of_service = false);
    until(&actor, "named", || {
        actor
            .condition("Host", "h1", "StaleCopies")
            .is_some_and(|found| found.message.contains("g1 (lives on h3)"))
    })
    .await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(actor.fleet.executing(guest), ["h3"]);
    let old = actor.fleet.domain("h1", guest).unwrap();
    assert!(!old.autostart, "it would start twice\n{}", actor.picture());
    assert_eq!(actor.fleet.violations(), Vec::<String>::new());
}
