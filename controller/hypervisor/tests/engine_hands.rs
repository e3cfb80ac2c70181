//! What people do to a guest, or to its move, in mid-copy: aborts over a dead link, pauses, lets go on, undefines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_engine::port::{Activity, Why};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

/// Until libvirt's migration is that far.
async fn at(actor: &Actor, guest: Uuid, phase: &str) {
    actor
        .until(phase, 60, |_| {
            actor.fleet.phase(guest).as_deref() == Some(phase)
        })
        .await;
}

/// An abort over a dead link would freeze the guest at its source until the link heals.
#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_the_link() {
    let (actor, guest) = pair(1, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    let fleet = actor.fleet.clone();
    fleet.dirty(guest, 8 << 30);
    at(&actor, guest, "Memory").await;
    sleep(Duration::from_secs(1)).await;
    fleet.cut("h1", "h2", true);
    sleep(Duration::from_secs(5)).await;
    actor.desk.abort("m");
    actor.says("GuestMigration", "m", "CopyStalled", 5).await;
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(fleet.executing(guest), ["h1"], "{}", actor.picture());
    }
    fleet.cut("h1", "h2", false);
    actor.phase("m", MigrationPhase::Aborted, 60).await;
    actor.clean(&[(guest, "h1")]).await;
    assert!(fleet.files("h2").is_empty());
}

/// Where the link stays dead, libvirt ends the copy by itself.
#[tokio::test(start_paused = true)]
async fn an_abort_over_a_link_that_stays_dead_ends_with_the_copy() {
    let (actor, guest) = pair(2, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    let fleet = actor.fleet.clone();
    fleet.nature(|nature| nature.gives_up = Duration::from_secs(17));
    fleet.dirty(guest, 8 << 30);
    at(&actor, guest, "Memory").await;
    sleep(Duration::from_secs(1)).await;
    fleet.cut("h1", "h2", true);
    sleep(Duration::from_secs(5)).await;
    actor.desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 120).await;
    assert_eq!(fleet.executing(guest), ["h1"], "{}", actor.picture());
    fleet.cut("h1", "h2", false);
    sleep(Duration::from_secs(30)).await;
    actor.clean(&[(guest, "h1")]).await;
}

/// libvirt tells of a person's pause in the words of a switch, and lets the guest run at its target.
#[tokio::test(start_paused = true)]
async fn a_guest_paused_in_mid_copy_is_copied_on() {
    let (actor, guest) = pair(3, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    at(&actor, guest, "Disks").await;
    actor.fleet.pause("h1", guest);
    let course = |view: &evenkeel_engine::View| {
        let shown = view.migrations.get("m");
        let conditions = shown.map(|shown| shown.status.conditions.clone());
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one.type_ == "Converging" && one.reason == "GuestPaused")
        })
    };
    actor.until("it says so", 5, course).await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Copying);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn one_paused_in_mid_copy_can_be_aborted() {
    for takes_over in [false, true] {
        let first = Role::new("one").cluster().process(dead_process());
        let (mut actor, guest) = pair(4, &first).await;
        actor.desk.migrate("m", "g1", Some("h2"));
        at(&actor, guest, "Disks").await;
        actor.fleet.pause("h1", guest);
        if takes_over {
            let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
            actor.kill().await;
            actor = Actor::start(&fleet, &desk, &Role::new("two").cluster());
            actor.settled().await;
        }
        actor.desk.abort("m");
        actor.phase("m", MigrationPhase::Aborted, 60).await;
        actor.clean(&[(guest, "h1")]).await;
        assert!(actor.fleet.files("h2").is_empty());
    }
}

/// Nobody sees one switch that was paused before: it is aborted while its disks are copied, and not later.
#[tokio::test(start_paused = true)]
async fn one_paused_before_is_not_aborted_once_its_memory_travels() {
    for phase in ["Memory", "Switch", "Finish"] {
        let (actor, guest) = pair(8, &Role::new("one")).await;
        actor.fleet.pause("h1", guest);
        actor.desk.migrate("m", "g1", Some("h2"));
        at(&actor, guest, phase).await;
        actor.desk.abort("m");
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        assert!(actor.fleet.is_whole(guest) && actor.fleet.files("h1").is_empty());
    }
}

/// One that was paused before is not let go on by libvirt either, however its copy ends.
#[tokio::test(start_paused = true)]
async fn one_paused_before_stays_paused_where_its_copy_ends() {
    let (actor, guest) = pair(6, &Role::new("one")).await;
    actor.fleet.pause("h1", guest);
    actor.desk.migrate("m", "g1", Some("h2"));
    at(&actor, guest, "Disks").await;
    actor.desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 60).await;
    assert!(actor.fleet.executing(guest).is_empty());
    let copy = actor.fleet.domain("h1", guest).unwrap();
    assert_eq!((copy.activity, copy.why), (Activity::Paused, Why::ByUser));
    assert!(actor.fleet.files("h2").is_empty());
}

/// The source's libvirtd dies in the switch of a guest that was paused before: it stands still at both ends. Somebody lets it
/// go on at its source, where it then has what the target has not, and it crashes there: what arrived is not taken for it.
#[tokio::test(start_paused = true)]
async fn one_paused_before_that_went_on_at_its_source_is_not_given_up() {
    for crashes in [false, true] {
        let (actor, guest) = pair(7, &Role::new("one")).await;
        let fleet = actor.fleet.clone();
        fleet.pause("h1", guest);
        actor.desk.migrate("m", "g1", Some("h2"));
        actor.loses_libvirtd_in_the_switch(guest, "h1").await;
        actor
            .says("GuestMigration", "m", "OutcomeUnknown", 60)
            .await;
        let paused = |host: &str| fleet.domain(host, guest).unwrap().activity == Activity::Paused;
        assert!(paused("h1") && paused("h2"), "{}", actor.picture());
        if crashes {
            fleet.cut_client("one", "h1", true);
            sleep(Duration::from_secs(5)).await;
            fleet.resume("h1", guest);
            sleep(Duration::from_secs(5)).await;
            fleet.kill_qemu("h1", guest);
            sleep(Duration::from_secs(5)).await;
            fleet.cut_client("one", "h1", false);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(fleet.newest_on(guest), ["h1"], "{}", actor.picture());
            fleet.start_guest("h1", guest);
        } else {
            fleet.resume("h1", guest);
        }
        actor.phase("m", MigrationPhase::Succeeded, 120).await;
        assert_eq!(fleet.executing(guest), ["h2"], "{}", actor.picture());
        assert!(fleet.is_whole(guest) && fleet.files("h1").is_empty());
        assert_eq!(fleet.boots(guest), 1 + u32::from(crashes));
    }
}

/// Somebody undefines it at its target while it comes: it runs there, and would be gone with its QEMU.
#[tokio::test(start_paused = true)]
async fn one_undefined_at_its_target_is_defined_again() {
    let (actor, guest) = pair(5, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    at(&actor, guest, "Memory").await;
    actor.fleet.undefine_on_arrival("h2", guest);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
    assert!(actor.fleet.files("h1").is_empty());
    assert!(actor.fleet.domain("h2", guest).unwrap().last_move.is_some());
}
