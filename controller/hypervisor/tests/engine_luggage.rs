//! Files that a guest needs besides its disks: brought over once, compared, taken back, left or removed at the source.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const KERNEL: &str = "/boot/vmlinuz";
const NVRAM: &str = "/nvram/g1.fd";
/// So long that it takes ten seconds at the simulated link's pace, there and back.
const INITRD: (&str, u64) = ("/boot/initrd", 500 * MIB);

fn plan(name: &str) -> GuestPlan {
    GuestPlan::new(name).file("kernel", KERNEL, 8 * MIB)
}

fn two_hosts(seed: u64) -> (Fleet, Desk) {
    stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")])
}

fn has(fleet: &Fleet, host: &str, path: &str) -> bool {
    fleet.files(host).iter().any(|file| file == path)
}

async fn one(seed: u64, plan: &GuestPlan) -> (Fleet, Desk, Actor, Uuid) {
    let (fleet, desk) = two_hosts(seed);
    let guest = fleet.add_guest("h1", plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    (fleet, desk, actor, guest)
}

#[tokio::test(start_paused = true)]
async fn what_is_its_own_leaves_and_what_may_be_shared_stays() {
    let (fleet, desk, actor, guest) = one(1, &plan("g1").file("nvram", NVRAM, MIB)).await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
    assert!(has(&fleet, "h1", KERNEL) && has(&fleet, "h2", KERNEL));
    assert!(!has(&fleet, "h1", NVRAM) && has(&fleet, "h2", NVRAM));
    let evidence = actor.status("m").evidence.unwrap();
    assert_eq!(evidence.kept_files, [KERNEL]);
}

#[tokio::test(start_paused = true)]
async fn the_same_file_is_used_and_another_one_is_not() {
    let (fleet, desk, actor, guest) = one(2, &plan("g1")).await;
    fleet.put_content("h2", KERNEL, 8 * MIB, "another kernel");
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "PathClash", 20).await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Pending);
    assert!(has(&fleet, "h2", KERNEL), "it is not ours to remove");
    fleet.put_content("h2", KERNEL, 8 * MIB, KERNEL);
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_is_named() {
    let (fleet, desk, actor, guest) = one(3, &plan("g1")).await;
    fleet.remove_file("h1", KERNEL);
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "FileMissing", 20).await;
    fleet.put_content("h1", KERNEL, 8 * MIB, KERNEL);
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_while_it_is_carried_takes_it_back() {
    let (fleet, desk, actor, guest) = one(4, &plan("g1").file("initrd", INITRD.0, INITRD.1)).await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .until("it is carried", 20, |_| has(&fleet, "h2", INITRD.0))
        .await;
    desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 20).await;
    actor.clean(&[(guest, "h1")]).await;
    assert!(!has(&fleet, "h2", KERNEL) && !has(&fleet, "h2", INITRD.0));
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_leaves_no_half_file() {
    let (fleet, desk, actor, guest) = one(5, &plan("g1").file("initrd", INITRD.0, INITRD.1)).await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .until("it is carried", 20, |_| has(&fleet, "h2", INITRD.0))
        .await;
    actor.kill().await;
    let actor = Actor::start(
        &fleet,
        &desk,
        &Role::new("two").cluster().process(dead_process()).epoch(1),
    );
    actor.phase("m", MigrationPhase::Succeeded, 300).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// Several guests want one file on one host at a time: it is brought once, and a guest that does not move after all
/// leaves it to the others.
#[tokio::test(start_paused = true)]
async fn what_several_share_is_brought_once() {
    let (fleet, desk) = two_hosts(6);
    let names = ["g1", "g2", "g3"];
    let guests = names.map(|name| {
        let plan = GuestPlan::new(name).file("initrd", INITRD.0, INITRD.1);
        fleet.add_guest("h1", &plan)
    });
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    for name in names {
        desk.migrate(name, name, Some("h2"));
    }
    actor
        .until("it is carried", 20, |_| has(&fleet, "h2", INITRD.0))
        .await;
    // Of the two that the hosts' limits let begin, one is aborted, wherever it is with it.
    sleep(Duration::from_secs(6)).await;
    desk.abort("g1");
    actor.phase("g1", MigrationPhase::Aborted, 60).await;
    for name in ["g2", "g3"] {
        actor.phase(name, MigrationPhase::Succeeded, 200).await;
    }
    actor
        .clean(&[(guests[0], "h1"), (guests[1], "h2"), (guests[2], "h2")])
        .await;
    assert_eq!(fleet.carried(), 1);
}
