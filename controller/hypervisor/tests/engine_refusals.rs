//! What the engine refuses, and that each reason is shown and told, and forgotten when its cause is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{
    MigrationPhase,
    kinds::guest::{Hold, Managed},
    reason::{Cause, Reason},
};
use evenkeel_hypervisor::sim::{GIB, GuestPlan, HostPlan, MIB, uri};
use support::*;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn to_where_it_is() {
    let (actor, _) = pair(1, &Role::new("one").cluster()).await;
    actor.desk.migrate("m", "g1", Some("h1"));
    actor.says("GuestMigration", "m", "MigrateToSelf", 2).await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Failed);
    assert_eq!(
        actor
            .condition("GuestMigration", "m", "Stalled")
            .unwrap()
            .status,
        "True"
    );
}

#[tokio::test(start_paused = true)]
async fn to_where_it_is_from_files() {
    let (actor, _) = pair(2, &Role::new("one").files()).await;
    actor.desk.migrate("m", "g1", Some("h1"));
    actor.phase("m", MigrationPhase::Succeeded, 2).await;
    let done = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
    assert_eq!(
        (done.status.as_str(), done.reason.as_str()),
        ("True", "MigrateToSelf")
    );
}

/// A second `apply` of the same files does nothing, with a target and without one.
#[tokio::test(start_paused = true)]
async fn a_second_apply_does_nothing() {
    for target in [Some("h2"), None] {
        let (fleet, desk) = stage(3, &[HostPlan::new("h1"), HostPlan::new("h2")]);
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
        desk.migrate("m", "g1", target);
        for run in 0..2 {
            let actor = Actor::start(&fleet, &desk, &Role::new("apply").files());
            actor.phase("m", MigrationPhase::Succeeded, 60).await;
            let reason = actor
                .condition("GuestMigration", "m", "Succeeded")
                .unwrap()
                .reason;
            assert_eq!(
                reason,
                if run == 0 {
                    "Completed"
                } else {
                    "MigrateToSelf"
                }
            );
            actor.engine.finish().await;
            clean(&fleet, &[(guest, "h2")], "");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_not_there() {
    let (actor, _) = pair(4, &Role::new("one")).await;
    actor.desk.migrate("m", "g9", Some("h2"));
    actor.says("GuestMigration", "m", "GuestNotFound", 2).await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Pending);
    let guest = actor.fleet.add_guest("h1", &GuestPlan::new("g9"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_not_there() {
    let (actor, guest) = pair(5, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h3"));
    actor.says("GuestMigration", "m", "HostNotFound", 2).await;
    actor.fleet.add_host(&HostPlan::new("h3"));
    actor.desk.change(|wishes| {
        wishes.hosts.insert("h3".into(), Arc::new(host("h3")));
    });
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h3")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_silent_for_a_while() {
    for (seed, host) in [(6, "h1"), (7, "h2")] {
        let (actor, guest) = pair(seed, &Role::new("one")).await;
        actor.fleet.kill_libvirtd(host);
        actor.says("Host", host, "HostUnreachable", 5).await;
        actor.desk.migrate("m", "g1", Some("h2"));
        actor
            .says("GuestMigration", "m", "HostUnreachable", 5)
            .await;
        sleep(Duration::from_secs(60)).await;
        actor.quiet(60).await;
        actor.fleet.start_libvirtd(host);
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, "h2")]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_memory_until_there_is() {
    let (fleet, desk) = stage(
        8,
        &[
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3"),
        ],
    );
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").memory(2 * GIB));
    fleet.add_guest("h2", &GuestPlan::new("big").memory(7 * GIB));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "InsufficientMemory", 2)
        .await;
    desk.migrate("room", "big", Some("h3"));
    actor.phase("m", MigrationPhase::Succeeded, 240).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn no_disk_until_there_is() {
    let (actor, guest) = pair(9, &Role::new("one")).await;
    actor.fleet.leave_room("h2", 900 * MIB);
    actor.desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "InsufficientDisk", 60)
        .await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(actor.fleet.executing(guest), ["h1"]);
    actor.quiet(60).await;
    actor.fleet.leave_room("h2", 10 * GIB);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// Somebody else's file where a disk would go is never touched, whatever its size, and the move goes on once it is gone.
#[tokio::test(start_paused = true)]
async fn a_file_in_the_way() {
    for (seed, size) in [(10, GIB), (11, 0), (12, 5 * MIB)] {
        let (actor, guest) = pair(seed, &Role::new("one")).await;
        let path = actor.fleet.put_file("h2", "g1-vda.qcow2", size);
        actor.desk.migrate("m", "g1", Some("h2"));
        actor.says("GuestMigration", "m", "PathClash", 5).await;
        sleep(Duration::from_secs(60)).await;
        let status = actor.status("m");
        assert_eq!(status.failed_attempts, 0, "waiting never counts");
        assert!(
            status.phases.len() < 5 && status.attempts.len() == 1,
            "{}",
            actor.picture()
        );
        assert_eq!(actor.fleet.files("h2"), std::slice::from_ref(&path));
        let before = actor.view().number;
        sleep(Duration::from_secs(60)).await;
        let rose = actor.view().number - before;
        assert!(rose <= 20, "{rose} views in a minute of waiting");
        actor.fleet.remove_file("h2", &path);
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, "h2")]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn into_a_host_that_is_drained() {
    let (actor, guest) = pair(13, &Role::new("one")).await;
    actor.desk.drain("d", &["h2"], |_| {});
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "TargetDraining", 2).await;
    actor.desk.undrain("d");
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn two_hosts_for_one_hypervisor() {
    let (actor, guest) = pair(14, &Role::new("one")).await;
    let mut twin = host("twin");
    twin.spec.uri = uri("h2");
    actor.desk.change(|wishes| {
        wishes.hosts.insert("twin".into(), Arc::new(twin));
    });
    actor.says("Host", "twin", "DuplicateHypervisor", 5).await;
    actor.desk.migrate("a", "g1", Some("twin"));
    actor
        .says("GuestMigration", "a", "DuplicateHypervisor", 5)
        .await;
    actor.desk.migrate("b", "g1", Some("h2"));
    actor.phase("b", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!(actor.view().guests["g1"].status.copies.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn managed_elsewhere() {
    let (fleet, desk) = stage(15, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let nova = GuestPlan {
        managed_by: Some("OpenStack".into()),
        ..GuestPlan::new("nova")
    };
    fleet.add_guest("h1", &nova);
    fleet.add_guest("h1", &GuestPlan::new("hand"));
    desk.guest("hand", |spec| spec.managed = Managed::Elsewhere);
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("a", "nova", Some("h2"));
    desk.migrate("b", "hand", Some("h2"));
    desk.drain("d", &["h1"], |_| {});
    actor
        .says("GuestMigration", "a", "ManagedElsewhere", 2)
        .await;
    actor
        .says("GuestMigration", "b", "ManagedElsewhere", 2)
        .await;
    actor
        .until("it is blocked", 5, |view| view.drains.contains_key("d"))
        .await;
    let shown = actor.view().drains["d"].clone();
    assert_eq!(
        actor.condition("HostDrain", "d", "Stalled").unwrap().reason,
        "Blocked"
    );
    assert!(actor.heard("HostDrain", "d", "ManagedElsewhere"));
    assert!(
        shown
            .blocked
            .iter()
            .all(|one| one.reason == "ManagedElsewhere")
    );
    assert_eq!(shown.hosts[0].guests.managed_elsewhere, 2);
    sleep(Duration::from_secs(60)).await;
    assert!(fleet.files("h2").is_empty() && fleet.claims().is_empty());
}

#[tokio::test(start_paused = true)]
async fn held() {
    let (actor, guest) = pair(16, &Role::new("one")).await;
    let hold = Hold {
        reason: "backup".into(),
        until: None,
    };
    actor.desk.guest("g1", |spec| spec.hold = Some(hold));
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("it is blocked", 5, |view| {
            view.drains
                .get("d")
                .is_some_and(|drain| drain.blocked.iter().any(|one| one.reason == "GuestHeld"))
        })
        .await;
    assert_eq!(actor.fleet.moving(), 0);
    // Nor by name, until the hold is gone.
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "GuestHeld", 5).await;
    actor.desk.undrain("d");
    actor.desk.guest("g1", |_| {});
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_move() {
    let (fleet, desk) = stage(17, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let plan = GuestPlan {
        obstacles: vec![Cause::new(
            Reason::DeviceNotMigratable,
            "hostdev 0 is passed through",
        )],
        ..GuestPlan::new("g1")
    };
    fleet.add_guest("h1", &plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "DeviceNotMigratable", 2)
        .await;
    assert_eq!(
        actor.condition("Guest", "g1", "Migratable").unwrap().status,
        "False"
    );
}

#[tokio::test(start_paused = true)]
async fn two_moves_of_one_guest() {
    let (fleet, desk) = stage(
        18,
        &[
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3"),
        ],
    );
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("a", "g1", Some("h2"));
    actor.phase("a", MigrationPhase::Copying, 5).await;
    desk.migrate("b", "g1", Some("h3"));
    actor.says("GuestMigration", "b", "GuestBusy", 2).await;
    actor.phase("a", MigrationPhase::Succeeded, 60).await;
    actor.phase("b", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h3")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_another() {
    let (actor, _) = pair(19, &Role::new("one")).await;
    actor.desk.migration("m", |spec| {
        spec.guest = "g1".into();
        spec.source = Some("h2".into());
        spec.target = Some("h1".into());
    });
    actor.ends("m", 5).await;
    actor.desk.migration("n", |spec| {
        spec.guest = "g1".into();
        spec.source = Some("h2".into());
    });
    actor.says("GuestMigration", "n", "SourceMismatch", 2).await;
}

#[tokio::test(start_paused = true)]
async fn past_its_deadline() {
    let (actor, guest) = pair(20, &Role::new("one")).await;
    actor
        .desk
        .change_host("h2", |spec| spec.unschedulable = true);
    actor.desk.migration("m", |spec| {
        spec.guest = "g1".into();
        spec.target = Some("h2".into());
        spec.deadline = Some("1h".parse().unwrap());
    });
    actor
        .says("GuestMigration", "m", "TargetUnschedulable", 2)
        .await;
    actor.desk.change_migration("m", |object| {
        let created = object.metadata.creation_timestamp.as_mut().unwrap();
        created.0 =
            evenkeel_crds::shared::Timestamp::from_second(created.0.as_second() - 3600).unwrap();
    });
    // The move's age is that of its object when first seen; a new engine sees the older one.
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &Role::new("two"));
    actor
        .says("GuestMigration", "m", "DeadlineExceeded", 5)
        .await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Failed);
    actor.clean(&[(guest, "h1")]).await;
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_migration() {
    let (actor, guest) = pair(21, &Role::new("one")).await;
    assert!(actor.fleet.migrate_by_hand(guest, "h1", "h2"));
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("it is seen", 5, |view| {
            view.drains.get("d").is_some_and(|drain| {
                drain
                    .blocked
                    .iter()
                    .any(|one| one.reason == "JobActive" || one.reason == "GuestBusy")
            })
        })
        .await;
    actor
        .until("it ends by itself", 60, |_| {
            actor.fleet.executing(guest) == ["h2"]
        })
        .await;
    actor
        .until("drained", 60, |_| {
            actor
                .condition("HostDrain", "d", "Drained")
                .is_some_and(|drained| drained.status == "True")
        })
        .await;
    assert!(actor.fleet.claims().is_empty());
    assert_eq!(
        actor.fleet.files("h1").len(),
        1,
        "what others left is theirs"
    );
}

/// Whoever lets it go waits for what it does then: an answer comes where that is nothing, too.
#[tokio::test(start_paused = true)]
async fn let_go_with_nothing_to_do_it_answers() {
    let (actor, guest) = pair(18, &Role::new("one").files()).await;
    actor.engine.hold();
    actor.quiet(30).await;
    let before = actor.view().number;
    actor.engine.go();
    actor
        .until("it answers", 2, |view| view.number > before)
        .await;
    actor.clean(&[(guest, "h1")]).await;
}

/// A target that shows only when it is looked at closely that it won't do: a drain takes another, and a CPU by name is
/// compared before anything is made.
#[tokio::test(start_paused = true)]
async fn another_target_takes_what_the_first_can_not() {
    for (seed, reason) in [(31, "PathClash"), (32, "IncompatibleCPU")] {
        let plans = ["h1", "h2", "h3"].map(|name| {
            let mut plan = HostPlan::new(name);
            if name == "h2" && reason == "IncompatibleCPU" {
                plan.offers.lacks.insert("EPYC".into());
            }
            // More room, so that it is chosen first.
            plan.memory(if name == "h2" { 64 * GIB } else { 16 * GIB })
        });
        let (fleet, desk) = stage(seed, &plans);
        let mut plan = GuestPlan::new("g1");
        plan.needs.model = Some("EPYC".into());
        let guest = fleet.add_guest("h1", &plan);
        if reason == "PathClash" {
            fleet.put_file("h2", "g1-vda.qcow2", MIB);
        }
        let before = fleet.files("h2");
        let actor = Actor::start(&fleet, &desk, &Role::new("one"));
        actor.settled().await;
        // Named, it waits and says why; nothing was made there.
        desk.migrate("m", "g1", Some("h2"));
        actor.says("GuestMigration", "m", reason, 5).await;
        assert_eq!(fleet.files("h2"), before);
        desk.change(|wishes| {
            wishes.migrations.remove("m");
        });
        desk.drain("d", &["h1"], |_| {});
        actor
            .until("it is on the third host", 60, |_| {
                fleet.executing(guest) == ["h3"]
            })
            .await;
    }
}
