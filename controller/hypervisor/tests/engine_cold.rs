//! Guests that are not running: their disks, their definition and all move, and exactly one end has them whatever happens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, kinds::drain::StoppedGuests, shared::find};
use evenkeel_engine::port::Activity;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

const BASE: &str = "/pools/default/debian.qcow2";
const NVRAM: &str = "/nvram/g1.fd";

/// Shuts it down and waits for that.
async fn stop(fleet: &Fleet, guest: Uuid) {
    fleet.shut_down(guest);
    // Until its libvirtd knows it too.
    while fleet
        .domain("h1", guest)
        .is_some_and(|domain| domain.activity.active())
    {
        sleep(Duration::from_millis(20)).await;
    }
}

/// A stopped guest on h1, its move to h2 asked for.
async fn begun(seed: u64, role: &Role) -> (Fleet, Desk, Actor, Uuid) {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let plan = GuestPlan::new("g1")
        .disk(1 << 30, 400 * MIB)
        .base(BASE, 50 * MIB)
        .file("nvram", NVRAM, MIB)
        .autostart();
    let guest = fleet.add_guest("h1", &plan);
    stop(&fleet, guest).await;
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    (fleet, desk, actor, guest)
}

/// It is defined on this host alone, whole, as it was; nothing of it or of the move is anywhere else.
async fn is_on(actor: &Actor, guest: Uuid, host: &str) {
    actor.clean(&[]).await;
    let fleet = &actor.fleet;
    for other in ["h1", "h2"] {
        let domain = fleet.domain(other, guest);
        let disk = "/pools/default/g1-vda.qcow2".to_owned();
        let files = fleet.files(other);
        if other == host {
            let domain = domain.unwrap();
            assert!(domain.persistent && domain.autostart, "{domain:?}");
            assert_eq!(domain.mark, None);
            assert!(files.contains(&disk) && files.contains(&NVRAM.to_owned()));
        } else {
            assert_eq!(domain, None, "{other}");
            assert!(
                !files.contains(&disk) && !files.contains(&NVRAM.to_owned()),
                "{files:?}"
            );
        }
    }
    assert!(fleet.is_whole(guest));
    assert!(!fleet.ever_ran_twice(guest));
}

#[tokio::test(start_paused = true)]
async fn it_moves_whole() {
    let (fleet, _, actor, guest) = begun(1, &Role::new("one").cluster()).await;
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    is_on(&actor, guest, "h2").await;
    let evidence = actor.status("m").evidence.unwrap();
    assert_eq!(evidence.running, Vec::<String>::new());
    assert_eq!(evidence.kept_files, [BASE]);
    assert_eq!(
        fleet.domain("h2", guest).unwrap().activity,
        Activity::ShutOff
    );
    // And it starts there.
    fleet.start_guest("h2", guest);
    assert_eq!(fleet.executing(guest), ["h2"]);
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn started_meanwhile_it_stays_and_then_moves_as_it_runs() {
    for after in [500, 3000, 5000, 9000] {
        let (fleet, _, actor, guest) = begun(after, &Role::new("one").cluster()).await;
        actor.phase("m", MigrationPhase::Copying, 20).await;
        sleep(Duration::from_millis(after)).await;
        if fleet.domain("h1", guest).is_none() {
            continue;
        }
        fleet.start_guest("h1", guest);
        actor.says("GuestMigration", "m", "GuestStarted", 60).await;
        actor.phase("m", MigrationPhase::Succeeded, 200).await;
        assert_eq!(fleet.executing(guest), ["h2"]);
        is_on(&actor, guest, "h2").await;
    }
}

/// Started, stopped again: its disks are not what was copied.
#[tokio::test(start_paused = true)]
async fn a_short_run_is_noticed() {
    let (fleet, _, actor, guest) = begun(3, &Role::new("one").cluster()).await;
    actor.phase("m", MigrationPhase::Copying, 20).await;
    sleep(Duration::from_secs(2)).await;
    fleet.start_guest("h1", guest);
    sleep(Duration::from_millis(300)).await;
    stop(&fleet, guest).await;
    actor.phase("m", MigrationPhase::Succeeded, 200).await;
    is_on(&actor, guest, "h2").await;
    assert!(actor.heard("GuestMigration", "m", "GuestStarted"));
}

#[tokio::test(start_paused = true)]
async fn aborted_it_stays() {
    for after in [0, 1000, 5000, 8000] {
        let (_, desk, actor, guest) = begun(after + 7, &Role::new("one").cluster()).await;
        actor.phase("m", MigrationPhase::Copying, 20).await;
        sleep(Duration::from_millis(after)).await;
        desk.abort("m");
        let end = actor.ends("m", 60).await;
        let place = if end == MigrationPhase::Aborted {
            "h1"
        } else {
            "h2"
        };
        is_on(&actor, guest, place).await;
    }
}

/// The process dies at any instant; the next one ends it.
#[tokio::test(start_paused = true)]
async fn killed_at_any_instant() {
    for seed in seeds(100, 60) {
        let role = Role::new("one").cluster().process(dead_process());
        let (fleet, desk, actor, guest) = begun(seed, &role).await;
        sleep(Duration::from_millis((seed - 100) * 250)).await;
        actor.kill().await;
        let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster().epoch(1));
        actor.phase("m", MigrationPhase::Succeeded, 300).await;
        is_on(&actor, guest, "h2").await;
    }
}

/// So does a libvirtd, at either end.
#[tokio::test(start_paused = true)]
async fn libvirtd_dies_at_any_instant() {
    for seed in seeds(500, 60) {
        let host = if seed % 2 == 0 { "h1" } else { "h2" };
        libvirtd_dies(seed, host, Duration::from_millis((seed - 500) * 250)).await;
    }
}

/// It dies so long after the move was asked for, comes back, and the move succeeds.
async fn libvirtd_dies(seed: u64, host: &str, after: Duration) {
    let (fleet, _, actor, guest) = begun(seed, &Role::new("one").cluster()).await;
    sleep(after).await;
    fleet.kill_libvirtd(host);
    sleep(Duration::from_secs(4)).await;
    fleet.start_libvirtd(host);
    actor.phase("m", MigrationPhase::Succeeded, 600).await;
    is_on(&actor, guest, "h2").await;
}

/// So does one while the move is being prepared: what was made is taken back, and it is tried again.
#[tokio::test(start_paused = true)]
async fn libvirtd_dies_while_it_is_prepared() {
    for instant in 0..8 {
        for host in ["h1", "h2"] {
            libvirtd_dies(800 + instant, host, Duration::from_millis(instant * 20)).await;
        }
    }
}

/// A drain that moves stopped guests is done when no domain is left; one that leaves them, when none runs.
#[tokio::test(start_paused = true)]
async fn a_drain_moves_them_where_it_is_asked_to() {
    for stopped in [StoppedGuests::Leave, StoppedGuests::Move] {
        let (fleet, desk) = stage(9, &[HostPlan::new("h1"), HostPlan::new("h2")]);
        let [runs, rests] = ["g1", "g2"].map(|name| fleet.add_guest("h1", &GuestPlan::new(name)));
        stop(&fleet, rests).await;
        let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
        actor.settled().await;
        desk.drain("empty", &["h1"], |spec| spec.stopped = stopped);
        actor
            .until("the host is drained", 300, |view| {
                let drain = view.drains.get("empty");
                let drained = drain.and_then(|drain| find(&drain.conditions, "Drained"));
                drained.is_some_and(|drained| drained.status == "True")
            })
            .await;
        assert_eq!(fleet.executing(runs), ["h2"]);
        let left = fleet.domain("h1", rests).is_some();
        assert_eq!(left, stopped == StoppedGuests::Leave);
        assert_eq!(fleet.domain("h2", rests).is_some(), !left);
        desk.undrain("empty");
        actor.clean(&[(runs, "h2")]).await;
    }
}
