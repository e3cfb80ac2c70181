//! The engine on a simulated fleet: moves and drains that meet no fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{MigrationPhase, kinds::migration::SourceFiles, shared::find};
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use support::*;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn one_move() {
    let (actor, guest) = pair(1, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Copying, 5).await;
    let mut best = 0;
    let mut steps = 0;
    while !actor.status("m").phase.is_final() {
        let progress = actor.status("m").progress;
        assert!(progress >= best, "{progress} after {best}");
        steps += i32::from(progress > best);
        best = progress;
        sleep(Duration::from_millis(50)).await;
    }
    assert!(steps >= 5, "{steps} steps of progress");
    let status = actor.status("m");
    assert_eq!(
        status.phase,
        MigrationPhase::Succeeded,
        "{}",
        actor.picture()
    );
    let phases: Vec<_> = status.phases.iter().map(|phase| phase.phase).collect();
    assert_eq!(
        phases,
        [
            MigrationPhase::Preparing,
            MigrationPhase::Copying,
            MigrationPhase::Switching,
            MigrationPhase::Verifying,
            MigrationPhase::Cleaning,
            MigrationPhase::Succeeded,
        ]
    );
    let evidence = status.evidence.clone().unwrap();
    assert_eq!(evidence.running, ["h2"]);
    assert_eq!(evidence.uuid, guest.to_string());
    assert!(!evidence.rebooted && !evidence.source_defined);
    assert_eq!(evidence.source_files, SourceFiles::Removed);
    assert_eq!(status.progress, 100);
    assert!(status.downtime.is_some() && status.bytes.unwrap().left.0 == 0);
    actor.clean(&[(guest, "h2")]).await;
    assert!(
        actor.fleet.files("h1").is_empty(),
        "{:?}",
        actor.fleet.files("h1")
    );
    assert_eq!(actor.fleet.files("h2").len(), 1);
    let domain = actor.fleet.domain("h2", guest).unwrap();
    let last = domain.last_move.unwrap();
    assert_eq!(
        (last.from.as_str(), last.by.as_str()),
        ("h1", "GuestMigration/m")
    );
    assert!(!domain.autostart);
    actor.quiet(120).await;
}

#[tokio::test(start_paused = true)]
async fn autostart_is_carried() {
    let (fleet, desk) = stage(2, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Copying, 5).await;
    assert!(
        !fleet.domain("h1", guest).unwrap().autostart,
        "off while it moves"
    );
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    assert!(fleet.domain("h2", guest).unwrap().autostart);
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn the_planner_chooses_where_none_is_named() {
    let (fleet, desk) = stage(
        3,
        &[
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3"),
        ],
    );
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    fleet.add_guest("h2", &GuestPlan::new("g2").memory(6 << 30));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("m", "g1", None);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h3")]).await;
}

#[tokio::test(start_paused = true)]
async fn there_and_back() {
    let (actor, guest) = pair(4, &Role::new("one")).await;
    for (name, target) in [("a", "h2"), ("b", "h1"), ("c", "h2")] {
        actor.desk.migrate(name, "g1", Some(target));
        actor.phase(name, MigrationPhase::Succeeded, 60).await;
        actor.clean(&[(guest, target)]).await;
        assert_eq!(actor.fleet.files(target).len(), 1);
    }
    assert!(actor.fleet.files("h1").is_empty());
}

/// Six guests leave a host over two others, under the hosts' limits and the drain's.
#[tokio::test(start_paused = true)]
async fn a_drain_empties_its_host() {
    let (fleet, desk) = stage(
        5,
        &[
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3"),
        ],
    );
    let guests: Vec<_> = (1..=6)
        .map(|number| {
            fleet.add_guest(
                "h1",
                &GuestPlan::new(&format!("g{number}")).memory(700 << 20),
            )
        })
        .collect();
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.drain("d", &["h1"], |spec| spec.parallel = 3);
    let drained = || actor.condition("HostDrain", "d", "Drained");
    let mut most = 0;
    let mut progress = 0;
    loop {
        sleep(Duration::from_millis(100)).await;
        most = most.max(fleet.moving());
        if let Some(shown) = actor.view().drains.get("d") {
            assert!(
                shown.progress >= progress,
                "{} after {progress}",
                shown.progress
            );
            progress = shown.progress;
        }
        let done = drained().is_some_and(|drained| drained.status == "True");
        let empty = guests
            .iter()
            .all(|guest| fleet.domain("h1", *guest).is_none());
        if done {
            assert!(
                empty && fleet.files("h1").is_empty(),
                "True before it is: {}",
                actor.picture()
            );
            break;
        }
    }
    assert!(
        (1..=2).contains(&most),
        "h1 lets two out at once, not {most}"
    );
    for guest in &guests {
        let host = fleet.executing(*guest).pop().unwrap();
        assert_ne!(host, "h1");
        actor.clean(&[(*guest, &host)]).await;
        let last = fleet.domain(&host, *guest).unwrap().last_move.unwrap();
        assert_eq!(last.by, "HostDrain/d");
    }
    for host in ["h2", "h3"] {
        assert_eq!(fleet.files(host).len(), 3, "level: {}", actor.picture());
    }
    assert_eq!(actor.view().drains["d"].progress, 100);
    assert!(actor.heard("HostDrain", "d", "Completed"));
    actor.quiet(120).await;
    // Level, not latched.
    let late = fleet.add_guest("h1", &GuestPlan::new("late"));
    actor
        .until("it is seen", 60, |view| view.guests.contains_key("late"))
        .await;
    assert_ne!(drained().unwrap().status, "True");
    actor
        .until("empty again", 120, |_| drained().unwrap().status == "True")
        .await;
    assert!(fleet.domain("h1", late).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_undrained_host_keeps_what_has_not_left() {
    let (fleet, desk) = stage(6, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guests: Vec<_> = (1..=6)
        .map(|number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}"))))
        .collect();
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.drain("d", &["h1"], |_| {});
    actor.until("two copy", 30, |_| fleet.moving() == 2).await;
    desk.undrain("d");
    actor
        .until("they finish", 120, |_| fleet.moving() == 0)
        .await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(fleet.moving(), 0, "nothing new starts");
    let left = guests
        .iter()
        .filter(|guest| fleet.executing(**guest) == ["h1"])
        .count();
    assert_eq!(left, 4, "{}", actor.picture());
    assert!(
        fleet.journals().is_empty() && fleet.claims().is_empty(),
        "{}",
        actor.picture()
    );
    // The same drain again goes on where it was.
    desk.drain("d", &["h1"], |_| {});
    actor
        .until("drained", 240, |_| {
            actor
                .condition("HostDrain", "d", "Drained")
                .is_some_and(|drained| drained.status == "True")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_goes_in_mid_copy_aborts_where_it_says_so() {
    let (actor, guest) = pair(7, &Role::new("one")).await;
    actor.desk.drain("d", &["h1"], |spec| {
        release(spec, evenkeel_crds::kinds::drain::OnRelease::Abort)
    });
    actor
        .until("it copies", 30, |_| {
            actor.fleet.phase(guest).as_deref() == Some("Memory")
        })
        .await;
    actor.desk.undrain("d");
    actor
        .until("it is over", 60, |_| {
            actor.fleet.moving() == 0 && actor.fleet.journals().is_empty()
        })
        .await;
    actor.clean(&[(guest, "h1")]).await;
    assert!(actor.fleet.files("h2").is_empty());
    sleep(Duration::from_secs(30)).await;
    assert_eq!(actor.fleet.executing(guest), ["h1"]);
}

#[tokio::test(start_paused = true)]
async fn aborted_before_it_starts() {
    let (actor, guest) = pair(8, &Role::new("one")).await;
    actor
        .desk
        .change_host("h2", |spec| spec.unschedulable = true);
    actor.desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "TargetUnschedulable", 5)
        .await;
    actor.desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 2).await;
    actor.says("GuestMigration", "m", "Aborted", 2).await;
    actor.clean(&[(guest, "h1")]).await;
}

/// At whatever moment it is aborted, it is either not begun, taken back, or done.
#[tokio::test(start_paused = true)]
async fn aborted_at_every_moment() {
    for step in 0..80 {
        let (actor, guest) = pair(100 + step, &Role::new("one")).await;
        actor.desk.migrate("m", "g1", Some("h2"));
        sleep(Duration::from_millis(step * 160)).await;
        if step % 2 == 0 {
            actor.desk.abort("m");
        } else {
            actor.desk.delete("m");
        }
        actor.ends("m", 90).await;
        let host = match actor.status("m").phase {
            MigrationPhase::Succeeded => "h2",
            MigrationPhase::Aborted => "h1",
            other => panic!("{other:?} at step {step}\n{}", actor.picture()),
        };
        actor.clean(&[(guest, host)]).await;
        let other = if host == "h1" { "h2" } else { "h1" };
        assert!(
            actor.fleet.files(other).is_empty(),
            "step {step}\n{}",
            actor.picture()
        );
        assert_eq!(actor.fleet.files(host).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_stays_paused() {
    let (actor, guest) = pair(12, &Role::new("one")).await;
    actor.fleet.pause("h1", guest);
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    assert!(actor.fleet.executing(guest).is_empty() && actor.fleet.is_whole(guest));
    assert!(actor.status("m").evidence.unwrap().running.is_empty());
    assert!(actor.fleet.files("h1").is_empty() && actor.fleet.domain("h1", guest).is_none());
    let domain = actor.fleet.domain("h2", guest).unwrap();
    assert_eq!(domain.activity, evenkeel_engine::port::Activity::Paused);
}

#[tokio::test(start_paused = true)]
async fn several_disks_travel_together() {
    let (fleet, desk) = stage(13, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let disk = |target: &str, used: u64| (target.to_owned(), 1 << 30, used << 20);
    let plan = GuestPlan {
        disks: vec![disk("vda", 200), disk("vdb", 1), disk("vdc", 300)],
        ..GuestPlan::new("g1")
    };
    let guest = fleet.add_guest("h1", &plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!((fleet.files("h1").len(), fleet.files("h2").len()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn finishing_waits_and_gives_back() {
    let (actor, guest) = pair(9, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Copying, 5).await;
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    desk.migrate("n", "g1", Some("h1"));
    actor.engine.finish().await;
    clean(&fleet, &[(guest, "h2")], "");
}

#[tokio::test(start_paused = true)]
async fn leaving_leaves_the_job_to_libvirt() {
    let (actor, guest) = pair(10, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    actor
        .until("memory", 30, |_| {
            actor.fleet.phase(guest).as_deref() == Some("Memory")
        })
        .await;
    let fleet = actor.fleet.clone();
    actor.engine.leave().await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(fleet.executing(guest), ["h2"]);
    assert_eq!(fleet.journals().len(), 2, "nobody cleans");
    assert_eq!(fleet.files("h1").len(), 2, "nobody cleans");
}

/// What does not change is not shown anew, even where moves wait for something.
#[tokio::test(start_paused = true)]
async fn waiting_is_quiet() {
    let (fleet, desk) = stage(
        11,
        &[
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3"),
        ],
    );
    fleet.add_guest("h1", &GuestPlan::new("g1"));
    fleet.add_guest("h1", &GuestPlan::new("g2").memory(20 << 30));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.migrate("m", "g2", Some("h2"));
    desk.migration("n", |spec| {
        spec.guest = "g1".into();
        spec.target = Some("h9".into());
        spec.deadline = Some("2h".parse().unwrap());
    });
    actor
        .says("GuestMigration", "m", "InsufficientMemory", 5)
        .await;
    actor.says("GuestMigration", "n", "HostNotFound", 5).await;
    sleep(Duration::from_secs(5)).await;
    actor.quiet(120).await;
    let told = actor.told.lock().unwrap().len();
    assert!(told <= 2, "{told} happenings");
}

/// What a drain has done is forgotten once its objects are gone, but for how much it was.
#[tokio::test(start_paused = true)]
async fn a_drains_moves_are_forgotten() {
    let (fleet, desk) = stage(17, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    for name in ["g1", "g2", "g3"] {
        fleet.add_guest("h1", &GuestPlan::new(name));
    }
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.drain("empty", &["h1"], |_| {});
    let drained = |view: &evenkeel_engine::View| {
        let drain = view.drains.get("empty");
        let drained = drain.and_then(|own| find(&own.conditions, "Drained"));
        drained.is_some_and(|drained| drained.status == "True")
    };
    actor.until("the host is drained", 300, drained).await;
    assert_eq!(actor.view().migrations.len(), 3);
    desk.change(|wishes| wishes.migrations.clear());
    sleep(Duration::from_secs(2)).await;
    let view = actor.view();
    assert!(view.migrations.is_empty(), "{}", actor.picture());
    assert!(drained(&view));
    assert_eq!(view.drains["empty"].guests.total, 3);
    // One that comes later is counted beside them.
    fleet.add_guest("h1", &GuestPlan::new("g4"));
    actor
        .until("it leaves too", 300, |view| {
            view.drains["empty"].guests.total == 4 && drained(view)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_other_hands_move_says_so() {
    for seed in 0..20 {
        let (actor, guest) = pair(seed, &Role::new("one").cluster()).await;
        assert!(actor.fleet.migrate_by_hand(guest, "h1", "h2"));
        let says = |view: &evenkeel_engine::View| {
            let shown = view.guests.get("g1");
            let last = shown.and_then(|shown| shown.status.last_move.clone());
            last.is_some_and(|last| last.by == "Other" && last.from == "h1")
        };
        actor.until("it says so", 60, says).await;
        sleep(Duration::from_secs(30)).await;
        assert!(says(&actor.view()), "{}", actor.picture());
    }
}

/// The Guest's status in a database is behind: it still says where the guest was.
#[tokio::test(start_paused = true)]
async fn a_guest_that_we_move_is_not_taken_for_one_that_others_moved() {
    for seed in 0..20 {
        let (actor, guest) = pair(seed, &Role::new("one").cluster()).await;
        actor.desk.guest("g1", |_| {});
        actor.desk.change(|wishes| {
            let mut known = (*wishes.guests["g1"]).clone();
            known.status = Some(actor.view().guests["g1"].status.clone());
            wishes.guests.insert("g1".to_owned(), Arc::new(known));
        });
        actor.desk.migrate("m", "g1", Some("h2"));
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let last = actor.view().guests["g1"].status.last_move.clone();
            assert!(
                last.is_none_or(|last| last.by != "Other"),
                "{}",
                actor.picture()
            );
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(actor.fleet.executing(guest), ["h2"]);
    }
}
