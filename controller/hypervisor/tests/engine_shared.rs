//! Disks on storage that both hosts see: left in place, proven to be the same, never removed; and each prerequisite that
//! is missing, by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{
    MigrationPhase,
    kinds::{
        migration::{DiskPlacement, MigrationMode, SourceFiles},
        profile::Switchover,
    },
    shared::Condition,
};
use evenkeel_hypervisor::sim::{Fleet, GIB, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const STORE: &str = "/srv/shared";
const LOCAL: &str = "/pools/default/g1-vda.qcow2";
const SHARED: &str = "/srv/shared/g1-vdb.qcow2";

fn host(name: &str) -> HostPlan {
    HostPlan::new(name).shared("nfs", STORE, "netfs")
}

/// A local disk and one on the shared storage.
fn mixed() -> GuestPlan {
    GuestPlan::new("g1").shared_disk("vdb", GIB)
}

fn only_shared() -> GuestPlan {
    let mut plan = mixed();
    plan.disks.remove(0);
    plan
}

fn has(fleet: &Fleet, host: &str, path: &str) -> bool {
    fleet.files(host).iter().any(|file| file == path)
}

async fn one(seed: u64, hosts: &[HostPlan], plan: &GuestPlan) -> (Fleet, Desk, Actor, Uuid) {
    let (fleet, desk) = stage(seed, hosts);
    let guest = fleet.add_guest("h1", plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    (fleet, desk, actor, guest)
}

/// The move is refused for this reason and nothing has happened to the guest.
async fn refused(seed: u64, other: HostPlan, plan: &GuestPlan, reason: &str) -> Condition {
    let (fleet, desk, actor, guest) = one(seed, &[host("h1"), other], plan).await;
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", reason, 20).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.executing(guest), ["h1"]);
    assert!(has(&fleet, "h1", SHARED));
    assert_eq!(fleet.violations(), Vec::<String>::new());
    actor.condition("GuestMigration", "m", "Succeeded").unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_shared_stays_and_what_is_local_travels() {
    for (seed, kind) in [(1, "netfs"), (2, "dir")] {
        let hosts = ["h1", "h2"].map(|name| HostPlan::new(name).shared("nfs", STORE, kind));
        let (fleet, desk, actor, guest) = one(seed, &hosts, &mixed()).await;
        desk.migrate("m", "g1", Some("h2"));
        actor.phase("m", MigrationPhase::Succeeded, 120).await;
        actor.clean(&[(guest, "h2")]).await;
        assert!(has(&fleet, "h1", SHARED) && has(&fleet, "h2", SHARED));
        assert!(!has(&fleet, "h1", LOCAL) && has(&fleet, "h2", LOCAL));
        let evidence = actor.status("m").evidence.unwrap();
        assert_eq!(evidence.source_files, SourceFiles::Removed);
        assert_eq!(evidence.shared_files, [SHARED]);
        // And back.
        desk.migrate("back", "g1", Some("h1"));
        actor.phase("back", MigrationPhase::Succeeded, 120).await;
        actor.clean(&[(guest, "h1")]).await;
        assert!(has(&fleet, "h1", SHARED) && has(&fleet, "h1", LOCAL));
    }
}

#[tokio::test(start_paused = true)]
async fn only_memory_travels_where_all_is_shared() {
    let (fleet, desk, actor, guest) = one(3, &[host("h1"), host("h2")], &only_shared()).await;
    desk.migration("m", |spec| {
        spec.guest = "g1".into();
        spec.target = Some("h2".into());
        spec.mode = MigrationMode::Shared;
    });
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
    assert!(has(&fleet, "h2", SHARED));
    let status = actor.status("m");
    assert_eq!(status.evidence.unwrap().source_files, SourceFiles::Shared);
    assert!(
        status.bytes.unwrap().done.0 < 700 * MIB,
        "{:?}",
        status.bytes
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopped_guest_on_shared_storage_moves_by_its_definition() {
    let (fleet, desk, actor, guest) = one(4, &[host("h1"), host("h2")], &only_shared()).await;
    fleet.shut_down(guest);
    sleep(Duration::from_secs(5)).await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 30).await;
    actor.clean(&[]).await;
    assert!(fleet.domain("h2", guest).is_some() && fleet.domain("h1", guest).is_none());
    assert!(has(&fleet, "h2", SHARED) && fleet.is_whole(guest));
    assert_eq!(fleet.carried(), 0);
}

/// Aborted, and killed, wherever it is: the shared file is never touched.
#[tokio::test(start_paused = true)]
async fn what_is_taken_back_does_not_touch_it() {
    let (fleet, desk, actor, guest) = one(5, &[host("h1"), host("h2")], &mixed()).await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Copying, 20).await;
    desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 60).await;
    actor.clean(&[(guest, "h1")]).await;
    assert!(has(&fleet, "h1", SHARED) && !has(&fleet, "h2", LOCAL));

    for (step, millis) in [0, 5, 20, 40, 80, 400, 3000, 6000].into_iter().enumerate() {
        let (fleet, desk, actor, guest) =
            one(10 + step as u64, &[host("h1"), host("h2")], &mixed()).await;
        desk.migrate("m", "g1", Some("h2"));
        actor.phase("m", MigrationPhase::Preparing, 20).await;
        sleep(Duration::from_millis(millis)).await;
        actor.kill().await;
        let next = Role::new("two").cluster().process(dead_process()).epoch(1);
        let actor = Actor::start(&fleet, &desk, &next);
        actor.phase("m", MigrationPhase::Succeeded, 300).await;
        // A file that was made for the proof is swept a little later.
        actor
            .until("it is swept", 60, |_| fleet.journals().is_empty())
            .await;
        actor.clean(&[(guest, "h2")]).await;
        assert!(has(&fleet, "h1", SHARED), "after {millis} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn each_prerequisite_that_is_missing_is_named() {
    let missing = refused(20, HostPlan::new("h2"), &mixed(), "SharedStorageMissing").await;
    assert!(missing.message.contains(STORE), "{}", missing.message);

    let elsewhere = HostPlan::new("h2").shared("nfs", "/mnt/shared", "netfs");
    let differs = refused(21, elsewhere, &mixed(), "SharedPathDiffers").await;
    assert!(
        differs.message.contains("/mnt/shared"),
        "{}",
        differs.message
    );

    // Mounted by hand: the guest's own file must not be taken for a leftover in its way.
    let elsewhere = HostPlan::new("h2").shared("nfs", "/mnt/shared", "dir");
    let here = HostPlan::new("h1").shared("nfs", STORE, "dir");
    let (_, desk, actor, _) = one(24, &[here, elsewhere], &mixed()).await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "SharedPathDiffers", 20)
        .await;

    let other = HostPlan::new("h2").shared("another", STORE, "netfs");
    let differs = refused(22, other, &mixed(), "SharedStorageDiffers").await;
    assert!(differs.message.contains("h2"), "{}", differs.message);
}

/// Two directories of one path with files of one name, and no shared storage: what is there is in the way, as ever.
#[tokio::test(start_paused = true)]
async fn a_file_of_the_same_name_is_not_the_same_file() {
    let plan = |name, store| HostPlan::new(name).shared(store, STORE, "dir");
    let (fleet, desk, actor, guest) =
        one(23, &[plan("h1", "one"), plan("h2", "other")], &mixed()).await;
    fleet.put_content("h2", SHARED, GIB, "another disk");
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "PathClash", 20).await;
    assert_eq!(fleet.executing(guest), ["h1"]);
    assert!(has(&fleet, "h2", SHARED));
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn modes_that_the_disks_do_not_allow() {
    let cases = [
        ("netfs", MigrationMode::Block, mixed(), "DiskShared", STORE),
        ("dir", MigrationMode::Block, mixed(), "DiskShared", "vdb"),
        (
            "netfs",
            MigrationMode::Shared,
            mixed(),
            "DiskNotShared",
            "vda",
        ),
        (
            "dir",
            MigrationMode::Shared,
            mixed(),
            "DiskNotShared",
            "vda",
        ),
    ];
    for (seed, (kind, mode, plan, reason, disk)) in (30..).zip(cases) {
        let hosts = ["h1", "h2"].map(|name| HostPlan::new(name).shared("nfs", STORE, kind));
        let (fleet, desk, actor, guest) = one(seed, &hosts, &plan).await;
        desk.migration("m", |spec| {
            spec.guest = "g1".into();
            spec.target = Some("h2".into());
            spec.mode = mode;
        });
        actor.says("GuestMigration", "m", reason, 20).await;
        let said = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
        assert!(said.message.contains(disk), "{}", said.message);
        assert_eq!(fleet.executing(guest), ["h1"]);
    }
}

/// A pool is named for a disk that stays where it is.
#[tokio::test(start_paused = true)]
async fn a_shared_disk_is_not_placed_elsewhere() {
    let hosts = ["h1", "h2"].map(|name| HostPlan::new(name).shared("nfs", STORE, "dir"));
    let (fleet, desk, actor, guest) = one(40, &hosts, &mixed()).await;
    desk.migration("m", |spec| {
        spec.guest = "g1".into();
        spec.target = Some("h2".into());
        spec.disks = Some(vec![DiskPlacement {
            target: "vdb".into(),
            pool: "default".into(),
        }]);
    });
    actor.says("GuestMigration", "m", "DiskShared", 20).await;
    assert_eq!(fleet.executing(guest), ["h1"]);
}

/// Where all pools are shared there is nowhere to write down what a move does.
#[tokio::test(start_paused = true)]
async fn a_host_without_a_pool_of_its_own() {
    let mut other = host("h2");
    other.pools.clear();
    let said = refused(41, other, &only_shared(), "PoolMissing").await;
    assert!(said.message.contains("of its own"), "{}", said.message);
}

/// A file of the guest's own on such storage, found at the target, is the very same: it does not leave the source.
#[tokio::test(start_paused = true)]
async fn its_variables_on_shared_storage_stay_too() {
    const NVRAM: &str = "/srv/shared/g1.fd";
    let plan = mixed().file("nvram", NVRAM, MIB);
    let (fleet, desk, actor, guest) = one(43, &[host("h1"), host("h2")], &plan).await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
    assert!(has(&fleet, "h2", NVRAM));
    assert_eq!(actor.status("m").evidence.unwrap().kept_files, [NVRAM]);
    assert_eq!(fleet.carried(), 0);
}

/// A drain takes the host that sees the storage.
#[tokio::test(start_paused = true)]
async fn a_drain_goes_where_the_storage_is() {
    let hosts = [host("h1"), HostPlan::new("h2"), host("h3")];
    let (_, desk, actor, guest) = one(42, &hosts, &mixed()).await;
    desk.drain("empty", &["h1"], |_| {});
    actor
        .until("it is drained", 120, |_| {
            actor.fleet.executing(guest) == ["h3"]
        })
        .await;
    sleep(Duration::from_secs(10)).await;
    actor.clean(&[(guest, "h3")]).await;
}

/// The answer to Finish is lost, which doubles a guest under `Fast`: on files that both see it never runs twice, and how it is
/// done is said on the move.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_doubles_no_guest_on_shared_storage() {
    for seed in 40..50 {
        let plans = [host("h1"), host("h2")];
        let (fleet, desk, actor, guest) = one(seed, &plans, &only_shared()).await;
        fleet.nature(|nature| nature.answer_lost = Some(true));
        desk.migrate("m", "g1", Some("h2"));
        actor.loses_libvirtd_in_the_switch(guest, "h2").await;
        actor.phase("m", MigrationPhase::Succeeded, 300).await;
        assert!(!fleet.ever_ran_twice(guest));
        let applied = actor.status("m").profile.unwrap().spec;
        assert_eq!(applied.switchover, Switchover::Guarded);
        assert_eq!(fleet.violations(), Vec::<String>::new());
    }
}
