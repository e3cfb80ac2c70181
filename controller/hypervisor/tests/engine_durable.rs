//! What was copied is on stable storage at the target before anything goes from the source, whatever the guest does, whoever
//! dies, and wherever the power fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_engine::port::{Activity, Why};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const DISK: &str = "/pools/default/g1-vda.qcow2";

/// Two hosts, and g1 on its way from h1 to h2.
async fn on_its_way(seed: u64, plan: &GuestPlan, role: &Role) -> (Actor, Uuid) {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", plan);
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    (actor, guest)
}

fn is_paused(actor: &Actor, guest: Uuid) -> bool {
    let there = actor.fleet.domain("h2", guest);
    there.is_some_and(|own| own.activity == Activity::Paused && own.why == Why::ByUser)
}

async fn until(actor: &Actor, what: &str, test: impl Fn() -> bool) {
    for _ in 0..120_000 {
        if test() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("never {what}\n{}", actor.picture());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_flushes_is_not_paused() {
    let plan = GuestPlan::new("g1").autostart();
    let (actor, guest) = on_its_way(1, &plan, &Role::new("one")).await;
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!(actor.fleet.suspended(guest), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_is_paused_once_for_a_moment() {
    for seed in 0..5 {
        let plan = GuestPlan::new("g1").autostart().idle();
        let (actor, guest) = on_its_way(seed, &plan, &Role::new("one")).await;
        until(&actor, "paused", || is_paused(&actor, guest)).await;
        assert!(actor.fleet.files("h1").contains(&DISK.to_owned()));
        assert!(
            !actor.fleet.domain("h2", guest).unwrap().autostart,
            "too soon"
        );
        sleep(Duration::from_millis(50)).await;
        assert!(
            !is_paused(&actor, guest),
            "still paused\n{}",
            actor.picture()
        );
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, "h2")]).await;
        assert_eq!(actor.fleet.suspended(guest), 1);
        assert!(actor.fleet.files("h1").is_empty());
        assert!(actor.fleet.domain("h2", guest).unwrap().autostart);
    }
}

/// Who paused it is dead before it let it go on.
#[tokio::test(start_paused = true)]
async fn whoever_takes_over_lets_it_go_on() {
    for millis in [0, 2, 5, 10, 20] {
        let plan = GuestPlan::new("g1").idle();
        let first = Role::new("one").files().process(dead_process());
        let (actor, guest) = on_its_way(millis, &plan, &first).await;
        until(&actor, "paused", || is_paused(&actor, guest)).await;
        sleep(Duration::from_millis(millis)).await;
        let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
        actor.kill().await;
        sleep(Duration::from_millis(200)).await;
        let actor = Actor::start(&fleet, &desk, &Role::new("two").files());
        actor.phase("m", MigrationPhase::Succeeded, 120).await;
        actor.clean(&[(guest, "h2")]).await;
        assert!(fleet.files("h1").is_empty());
        // Where the dead one had let it go on, that was for nothing: nobody knows that it was flushed.
        let paused = fleet.suspended(guest);
        assert!(
            (1..=2).contains(&paused),
            "{paused} times after {millis} ms"
        );
    }
}

/// Who paused it is dead, and it is paused.
async fn paused_by_a_dead(first: Role) -> (Fleet, Desk, Uuid) {
    let plan = GuestPlan::new("g1").idle();
    let (actor, guest) = on_its_way(3, &plan, &first.process(dead_process())).await;
    until(&actor, "paused", || is_paused(&actor, guest)).await;
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    (fleet, desk, guest)
}

/// Another that was still at work has ended the move when the journal is to say that it goes on: soak found this one waiting
/// for ever.
#[tokio::test(start_paused = true)]
async fn a_journal_that_another_removed_is_no_reason_to_wait() {
    let (fleet, desk, guest) = paused_by_a_dead(Role::new("one").files()).await;
    let actor = Actor::start(&fleet, &desk, &Role::new("two").files());
    until(&actor, "on again", || fleet.executing(guest) == ["h2"]).await;
    for (host, text) in fleet.journals() {
        let journal: serde_json::Value = serde_json::from_str(&text).unwrap();
        let id = journal["id"].as_str().unwrap();
        fleet.remove_file(&host, &format!("/pools/default/.evenkeel-{id}"));
    }
    assert_eq!(fleet.journals(), []);
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// The source is down by then, and nobody else would let it go on.
#[tokio::test(start_paused = true)]
async fn it_goes_on_without_its_source() {
    let (fleet, desk, guest) = paused_by_a_dead(Role::new("one").cluster()).await;
    fleet.power_off("h1");
    let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster());
    until(&actor, "on again", || fleet.executing(guest) == ["h2"]).await;
    actor.says("GuestMigration", "m", "SourceLost", 60).await;
    fleet.power_on("h1");
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// What a person paused stays so: nothing goes from the source until it runs again.
#[tokio::test(start_paused = true)]
async fn what_a_person_paused_stays_paused() {
    let plan = GuestPlan::new("g1").idle();
    let (actor, guest) = on_its_way(4, &plan, &Role::new("one")).await;
    let fleet = actor.fleet.clone();
    until(&actor, "there", || fleet.executing(guest) == ["h2"]).await;
    sleep(Duration::from_millis(200)).await;
    fleet.pause("h2", guest);
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert!(is_paused(&actor, guest), "{}", actor.picture());
    }
    assert!(fleet.files("h1").contains(&DISK.to_owned()));
    fleet.resume("h2", guest);
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// The target's power fails right after the guest has arrived: what it had not written is only at the source.
#[tokio::test(start_paused = true)]
async fn a_power_cut_after_the_arrival_loses_nothing() {
    for millis in [0, 100, 500, 1500] {
        let plan = GuestPlan::new("g1").autostart().idle();
        let (actor, guest) = on_its_way(millis, &plan, &Role::new("one").cluster()).await;
        let fleet = actor.fleet.clone();
        until(&actor, "there", || fleet.executing(guest) == ["h2"]).await;
        sleep(Duration::from_millis(millis)).await;
        fleet.power_off("h2");
        assert_eq!(fleet.newest_on(guest), ["h1"]);
        sleep(Duration::from_secs(5)).await;
        fleet.power_on("h2");
        actor.says("GuestMigration", "m", "GuestStopped", 120).await;
        assert_eq!(fleet.newest_on(guest), ["h1"], "{}", actor.picture());
        assert!(fleet.executing(guest).is_empty(), "{}", actor.picture());
        // As the hint says.
        fleet.copy_disks("h1", "h2", guest);
        fleet.start_guest("h2", guest);
        actor.phase("m", MigrationPhase::Succeeded, 240).await;
        assert_eq!(fleet.violations(), Vec::<String>::new());
        assert_eq!(fleet.executing(guest), ["h2"]);
        assert!(fleet.files("h1").is_empty());
    }
}

/// What came as a file can't be proven to be written: how long that is waited for, and why, is said while it lasts.
#[tokio::test(start_paused = true)]
async fn a_wait_for_the_kernel_is_said() {
    let stopped = GuestPlan {
        runs: false,
        ..GuestPlan::new("g1")
    };
    let store = "/var/lib/libvirt/qemu/nvram/g1.fd";
    let uefi = GuestPlan::new("g1").file("nvram", store, 131_072);
    for (plan, file) in [(uefi, store), (stopped, DISK)] {
        let (actor, _) = on_its_way(5, &plan, &Role::new("one").cluster()).await;
        actor
            .says("GuestMigration", "m", "DisksUnwritten", 60)
            .await;
        assert_eq!(actor.status("m").phase, MigrationPhase::Verifying);
        let shown = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
        for word in [
            file,
            "h2's kernel",
            "40 s",
            "until 20",
            "h1 keeps",
            "nothing has to be done",
        ] {
            assert!(shown.message.contains(word), "{word}: {}", shown.message);
        }
        sleep(Duration::from_secs(30)).await;
        let later = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
        assert_eq!(later.message, shown.message, "said once");
        actor.phase("m", MigrationPhase::Succeeded, 30).await;
    }
}
