//! Disks that are not right in a pool's directory: in one below, which is made at the target where it is missing, and in
//! one that no pool has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, kinds::migration::DiskPlacement};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const STEP: u64 = 50;
const MADE: &str = "/pools/default/g1";
const FILE: &str = "/pools/default/g1/deep/g1-vda.qcow2";

fn two_hosts(seed: u64) -> (Fleet, Desk, Uuid) {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let plan = GuestPlan::new("g1").autostart().folder("g1/deep");
    let guest = fleet.add_guest("h1", &plan);
    (fleet, desk, guest)
}

#[tokio::test(start_paused = true)]
async fn below_a_pool_there_and_back() {
    let (fleet, desk, guest) = two_hosts(1);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    for (name, target, other) in [("m", "h2", "h1"), ("n", "h1", "h2")] {
        desk.migrate(name, "g1", Some(target));
        actor.phase(name, MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, target)]).await;
        assert_eq!(fleet.files(target), [FILE], "{}", actor.picture());
        assert!(fleet.files(other).is_empty(), "{}", actor.picture());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_guest_too() {
    let (fleet, desk) = stage(2, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let mut plan = GuestPlan::new("g1").folder("g1/deep");
    plan.runs = false;
    fleet.add_guest("h1", &plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    assert_eq!(fleet.files("h2"), [FILE], "{}", actor.picture());
    assert!(fleet.files("h1").is_empty(), "{}", actor.picture());
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_way_stays() {
    let (fleet, desk, guest) = two_hosts(3);
    fleet.put_file("h2", "g1/deep/g1-vda.qcow2", 1 << 20);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "PathClash", 60).await;
    desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 60).await;
    assert_eq!(fleet.files("h2"), [FILE], "{}", actor.picture());
    actor.clean(&[(guest, "h1")]).await;
}

/// Killed at every moment and given up by the next: neither a file nor a directory of the move's is left.
#[tokio::test(start_paused = true)]
async fn what_was_made_is_taken_back_at_every_moment() {
    for step in 0..180 {
        let millis = step * STEP;
        let (fleet, desk, guest) = two_hosts(millis);
        let first = Role::new("one").files().process(dead_process());
        let actor = Actor::start(&fleet, &desk, &first);
        actor.settled().await;
        desk.migrate("m", "g1", Some("h2"));
        sleep(Duration::from_millis(millis)).await;
        actor.kill().await;
        desk.abort("m");
        let actor = Actor::start(&fleet, &desk, &Role::new("two").files());
        let over = format!("it ends after a kill at {millis} ms");
        actor.rests("m", &over, 120).await;
        // The abort may come too late, or after everything.
        let stayed = fleet.executing(guest) == ["h1"];
        let (host, other) = if stayed { ("h1", "h2") } else { ("h2", "h1") };
        actor.clean(&[(guest, host)]).await;
        assert_eq!(fleet.files(host), [FILE], "{millis}\n{}", actor.picture());
        assert!(
            fleet.files(other).is_empty(),
            "{millis}\n{}",
            actor.picture()
        );
        let made = fleet.directories("h2").iter().any(|one| one == MADE);
        assert_eq!(made, !stayed, "{millis}\n{}", actor.picture());
    }
}

const DATA: &str = "/data/vms";

/// A host with a directory that libvirt has no pool for.
fn with_data(name: &str) -> HostPlan {
    let mut plan = HostPlan::new(name);
    plan.pools.push((DATA.to_owned(), 20 << 30));
    plan
}

/// A host with a pool over that directory.
fn with_pool(name: &str, pool: &str, path: &str) -> HostPlan {
    let mut plan = HostPlan::new(name);
    plan.pools.push((pool.to_owned(), 20 << 30));
    plan.paths.insert(pool.to_owned(), path.to_owned());
    plan
}

fn migrate_to_pool(desk: &Desk, name: &str, target: &str, pool: &str) {
    desk.migration(name, |spec| {
        spec.guest = "g1".to_owned();
        spec.target = Some(target.to_owned());
        spec.disks = Some(vec![DiskPlacement {
            target: "vda".to_owned(),
            pool: pool.to_owned(),
        }]);
    });
}

#[tokio::test(start_paused = true)]
async fn outside_pools_into_the_same_directory_and_back() {
    let (fleet, desk) = stage(4, &[with_data("h1"), with_data("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").pool(DATA));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    for (name, target, other) in [("m", "h2", "h1"), ("n", "h1", "h2")] {
        desk.migrate(name, "g1", Some(target));
        actor.phase(name, MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, target)]).await;
        assert_eq!(fleet.files(target), ["/data/vms/g1-vda.qcow2"]);
        assert!(fleet.files(other).is_empty(), "{}", actor.picture());
    }
}

#[tokio::test(start_paused = true)]
async fn outside_pools_into_a_pool_over_the_directory() {
    for (pool, path) in [("vms", DATA), ("data", "/data")] {
        let (fleet, desk) = stage(5, &[with_data("h1"), with_pool("h2", pool, path)]);
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1").pool(DATA));
        let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
        actor.settled().await;
        desk.migrate("m", "g1", Some("h2"));
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, "h2")]).await;
        assert_eq!(fleet.files("h2"), ["/data/vms/g1-vda.qcow2"], "{pool}");
        // The way back is to be named: the source has no such pool.
        desk.migrate("n", "g1", Some("h1"));
        actor.says("GuestMigration", "n", "PoolMissing", 60).await;
        desk.abort("n");
        actor.phase("n", MigrationPhase::Aborted, 60).await;
        migrate_to_pool(&desk, "o", "h1", DATA);
        actor.phase("o", MigrationPhase::Succeeded, 60).await;
        assert_eq!(fleet.files("h1"), ["/data/vms/g1-vda.qcow2"], "{pool}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_without_the_directory_is_refused_by_name_unless_a_pool_is_named() {
    let (fleet, desk) = stage(6, &[with_data("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").pool(DATA));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "PoolMissing", 60).await;
    assert!(
        actor
            .picture()
            .contains("h2 has no directory /data/vms for vda of g1"),
        "{}",
        actor.picture()
    );
    desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 60).await;
    migrate_to_pool(&desk, "n", "h2", "default");
    actor.phase("n", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!(fleet.files("h2"), ["/pools/default/g1-vda.qcow2"]);
}

#[tokio::test(start_paused = true)]
async fn outside_pools_what_is_in_the_way_stays() {
    let (fleet, desk) = stage(7, &[with_data("h1"), with_data("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").pool(DATA));
    let file = fleet.put_file("h2", "/data/vms/g1-vda.qcow2", 1 << 20);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "PathClash", 60).await;
    desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 60).await;
    assert_eq!(fleet.files("h2"), [file]);
    actor.clean(&[(guest, "h1")]).await;
}

/// Killed at every moment: the next one brings the move to its end.
#[tokio::test(start_paused = true)]
async fn outside_pools_killed_at_every_moment() {
    for step in 0..180 {
        let millis = step * STEP;
        let (fleet, desk) = stage(millis, &[with_data("h1"), with_data("h2")]);
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart().pool(DATA));
        let first = Role::new("one").files().process(dead_process());
        let roles = (&first, &Role::new("two").files());
        let actor = taken_over((&fleet, &desk), millis, roles, 120).await;
        actor.clean(&[(guest, "h2")]).await;
        assert_eq!(fleet.files("h2"), ["/data/vms/g1-vda.qcow2"], "{millis}");
        assert!(
            fleet.files("h1").is_empty(),
            "{millis}\n{}",
            actor.picture()
        );
    }
}
