//! Files that a guest needs besides its disks: brought over once, compared, taken back, left or removed at the source.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, shared::find};
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

const BASE: &str = "/pools/default/debian.qcow2";

fn on_base(name: &str) -> GuestPlan {
    GuestPlan::new(name)
        .disk(1 << 30, 40 * MIB)
        .base(BASE, 300 * MIB)
}

/// A host full of guests on one base image: it travels once, and with each guest only what is its own.
#[tokio::test(start_paused = true)]
async fn a_base_travels_once_for_all_guests_on_it() {
    let (fleet, desk) = two_hosts(7);
    let names = ["g1", "g2", "g3", "g4", "g5"];
    let guests = names.map(|name| fleet.add_guest("h1", &on_base(name).memory(64 * MIB)));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.drain("empty", &["h1"], |_| {});
    actor
        .until("the host is empty", 600, |view| {
            let drain = view.drains.get("empty");
            let drained = drain.and_then(|drain| find(&drain.conditions, "Drained"));
            drained.is_some_and(|drained| drained.status == "True")
        })
        .await;
    desk.undrain("empty");
    actor.clean(&guests.map(|guest| (guest, "h2"))).await;
    assert_eq!(fleet.carried(), 1);
    assert!(has(&fleet, "h1", BASE), "others may use it");
    let moved: u64 = actor
        .view()
        .migrations
        .values()
        .filter_map(|shown| shown.status.bytes.map(|bytes| bytes.total.0))
        .sum();
    // The base itself was written once, see above; what a simulated file has beyond its first bytes are holes.
    let least = 5 * (40 + 64) * MIB;
    assert!(
        (least..least * 11 / 10).contains(&moved),
        "{} MiB travelled",
        moved / MIB
    );
}

#[tokio::test(start_paused = true)]
async fn over_another_base_nothing_is_laid() {
    let (fleet, desk, actor, guest) = one(8, &on_base("g1")).await;
    fleet.put_content("h2", BASE, 300 * MIB, "another image");
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
    // Flattened: all of it is in the disk's own file.
    assert_eq!(fleet.carried(), 0);
    let disk = &fleet.domain("h2", guest).unwrap().disks[0];
    assert!(disk.backing.is_empty());
    assert!(disk.allocated.0 >= 340 * MIB, "{disk:?}");
}

#[tokio::test(start_paused = true)]
async fn a_base_that_is_there_is_used() {
    let (fleet, desk, actor, guest) = one(9, &on_base("g1")).await;
    fleet.put_content("h2", BASE, 300 * MIB, BASE);
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!(fleet.carried(), 0);
    assert_eq!(
        fleet.domain("h2", guest).unwrap().disks[0].backing[0].path,
        BASE
    );
    let bytes = actor.status("m").bytes.unwrap();
    assert!(bytes.total.0 < 700 * MIB, "{bytes:?}");
}
