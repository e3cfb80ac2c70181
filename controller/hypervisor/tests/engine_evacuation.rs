//! Drains of guests that can't be moved or shall not be: shut down after the others, started again when the drain is
//! over, and only where that is proven to be right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{
    GuestSpec, HostDrainSpec,
    kinds::{
        drain::{StoppedGuests, StuckGuests},
        guest::{Evacuation, Hold, Restart},
    },
    quantity::Span,
    shared::Timestamp,
};
use evenkeel_engine::port::{Activity, ShutdownStage};
use evenkeel_engine::{Clock, View};
use evenkeel_hypervisor::sim::{Fleet, GIB, GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

fn stuck(spec: &mut HostDrainSpec) {
    spec.stuck = StuckGuests::Shutdown;
}

fn again(spec: &mut GuestSpec) {
    spec.restart = Some(Restart::AfterDrain);
}

fn by_shutdown(spec: &mut GuestSpec) {
    spec.evacuation = Evacuation::Shutdown;
    again(spec);
}

/// Three hosts; on h1 a guest with a device, `gpu`, to be started again, and as many others as asked for.
async fn with_device(seed: u64, others: usize, plan: GuestPlan) -> (Actor, Uuid, Clock) {
    let (fleet, desk) = stage(seed, &["h1", "h2", "h3"].map(HostPlan::new));
    let gpu = fleet.add_guest("h1", &plan.device());
    for number in 0..others {
        fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}")));
    }
    desk.guest("gpu", again);
    let clock = Clock::simulated(Timestamp::now(), seed);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster().by(&clock));
    actor.settled().await;
    (actor, gpu, clock)
}

fn drained(actor: &Actor) -> bool {
    let found = actor.condition("HostDrain", "d", "Drained");
    found.is_some_and(|found| found.status == "True")
}

/// Waits until the guest on h1 has been asked to shut down.
async fn is_asked(actor: &Actor, guest: Uuid, seconds: u64) {
    let asked = |_: &View| stage_of(&actor.fleet, "h1", guest) == Some(ShutdownStage::Asked);
    actor.until("it is asked", seconds, asked).await;
}

async fn is_drained(actor: &Actor) {
    actor.until("drained", 600, |_| drained(actor)).await;
}

fn stage_of(fleet: &Fleet, host: &str, guest: Uuid) -> Option<ShutdownStage> {
    Some(fleet.domain(host, guest)?.shutdown_mark?.stage)
}

async fn runs(actor: &Actor, guest: Uuid, host: &str) {
    actor
        .until("it runs again", 120, |_| {
            actor.fleet.executing(guest) == [host] && stage_of(&actor.fleet, host, guest).is_none()
        })
        .await;
    assert_eq!(actor.fleet.violations(), Vec::<String>::new());
}

/// Shut down only after all others have left, and started when the drain is gone.
#[tokio::test(start_paused = true)]
async fn a_stuck_guest_is_shut_down_last_and_started_again() {
    let (actor, gpu, _) = with_device(1, 3, GuestPlan::new("gpu")).await;
    let fleet = &actor.fleet;
    actor.desk.drain("d", &["h1"], stuck);
    actor
        .until("it is said", 10, |view| {
            let drain = view.drains.get("d");
            drain.is_some_and(|own| {
                own.blocked
                    .iter()
                    .any(|one| one.reason == "ShutdownPending")
            })
        })
        .await;
    actor
        .until("it is off", 300, |view| {
            let off = fleet.executing(gpu).is_empty();
            let left = view.guests.values().filter(|guest| {
                guest.status.host.as_deref() == Some("h1")
                    && guest.status.phase.as_str() == "Running"
            });
            assert!(!off || left.count() <= 1, "{}", actor.picture());
            off
        })
        .await;
    is_drained(&actor).await;
    assert!(actor.heard("Guest", "gpu", "ShuttingDown"));
    actor
        .until("noted", 5, |_| {
            stage_of(fleet, "h1", gpu) == Some(ShutdownStage::Down)
        })
        .await;
    sleep(Duration::from_secs(300)).await;
    assert!(fleet.executing(gpu).is_empty(), "off while drained");
    assert!(fleet.claims().is_empty());
    actor.quiet(60).await;

    actor.desk.undrain("d");
    runs(&actor, gpu, "h1").await;
    assert_eq!(fleet.boots(gpu), 2);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.boots(gpu), 2, "started once");
}

/// Who waits, waits: it is named before the first byte, what can leave leaves, and the guest runs on.
#[tokio::test(start_paused = true)]
async fn device_not_migratable_is_stalled_with_its_name_before_anything_is_copied() {
    let (actor, gpu, _) = with_device(2, 2, GuestPlan::new("gpu")).await;
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("stalled", 5, |_| {
            let stalled = actor.condition("HostDrain", "d", "Stalled");
            stalled.is_some_and(|stalled| {
                stalled.status == "True" && stalled.message.contains("gpu: DeviceNotMigratable")
            })
        })
        .await;
    assert_eq!(actor.fleet.moving(), 0, "{}", actor.picture());
    actor
        .until("the others have left", 300, |view| {
            view.drains["d"].guests.left == 1
        })
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(actor.fleet.executing(gpu), ["h1"]);
    assert_eq!(stage_of(&actor.fleet, "h1", gpu), None);
}

/// What is short, by how much and where, before the first byte; and no time is promised that can't be kept.
#[tokio::test(start_paused = true)]
async fn no_host_fits_is_stalled_with_what_is_short() {
    let hosts = [
        HostPlan::new("h1").memory(16 * GIB),
        HostPlan::new("h2").memory(4 * GIB),
    ];
    let (fleet, desk) = stage(3, &hosts);
    let big = fleet.add_guest("h1", &GuestPlan::new("big").memory(6 * GIB));
    let small = fleet.add_guest("h1", &GuestPlan::new("small"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.drain("d", &["h1"], |_| {});
    actor
        .until("stalled", 5, |_| {
            let stalled = actor.condition("HostDrain", "d", "Stalled");
            stalled.is_some_and(|stalled| stalled.status == "True")
        })
        .await;
    assert_eq!(fleet.moving(), 0);
    let view = actor.view();
    let shown = &view.drains["d"];
    assert_eq!(shown.eta, None);
    let stalled = actor.condition("HostDrain", "d", "Stalled").unwrap();
    assert_eq!(stalled.reason, "Blocked");
    assert!(
        stalled.message.contains("big: NoHostFits")
            && stalled.message.contains("proven: big needs"),
        "{}",
        stalled.message
    );
    let count = &shown.blocked[0].hosts[0];
    assert_eq!(count.reason, "InsufficientMemory");
    let example = &count.examples[0];
    assert!(
        example.host == "h2" && example.message.contains("lacks 2.6Gi of memory for big"),
        "{example:?}"
    );
    actor
        .until("what can leave has left", 120, |_| {
            fleet.executing(small) == ["h2"]
        })
        .await;
    assert_eq!(fleet.executing(big), ["h1"]);
}

/// The time told goes down as it passes, from the first to the last, and is about right.
#[tokio::test(start_paused = true)]
async fn the_eta_is_honest() {
    let (fleet, desk) = stage(4, &["h1", "h2"].map(HostPlan::new));
    for host in ["h1", "h2"] {
        desk.change_host(host, |spec| {
            spec.migration.bandwidth = Some(evenkeel_crds::quantity::Bytes(100 << 20));
        });
    }
    for number in 0..6 {
        fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}")));
    }
    let actor = Actor::start(&fleet, &desk, &Role::new("one"));
    actor.settled().await;
    desk.drain("d", &["h1"], |_| {});
    let began = tokio::time::Instant::now();
    let mut told = Vec::new();
    while !drained(&actor) {
        sleep(Duration::from_secs(2)).await;
        if let Some(eta) = actor.view().drains.get("d").and_then(|own| own.eta) {
            told.push((began.elapsed(), eta.0));
        }
        assert!(
            began.elapsed() < Duration::from_secs(600),
            "{}",
            actor.picture()
        );
    }
    let took = began.elapsed().as_secs_f64();
    assert!(told.len() >= 5, "{told:?}");
    for (at, left) in told {
        let end = (at + left).as_secs_f64();
        assert!(
            (took * 0.6..took * 1.5).contains(&end),
            "at {at:?}: {left:?} left, and it took {took} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_exceeded_starts_nothing_new_and_kills_nothing() {
    let (actor, gpu, _) = with_device(5, 4, GuestPlan::new("gpu")).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], |spec| {
        stuck(spec);
        spec.parallel = 1;
        spec.deadline = Some(Span(Duration::from_secs(8)));
    });
    actor.says("HostDrain", "d", "DeadlineExceeded", 60).await;
    let stalled = actor.condition("HostDrain", "d", "Stalled").unwrap();
    assert_eq!(
        (stalled.status.as_str(), stalled.reason.as_str()),
        ("True", "DeadlineExceeded")
    );
    actor.until("it ends", 120, |_| fleet.moving() == 0).await;
    sleep(Duration::from_secs(120)).await;
    let left = actor.view().drains["d"].guests.left;
    assert!((2..5).contains(&left), "{}", actor.picture());
    assert_eq!(fleet.executing(gpu), ["h1"], "nothing is shut down either");
    assert!(fleet.journals().is_empty() && fleet.claims().is_empty());
    // A later one: it goes on.
    actor.desk.drain("d", &["h1"], |spec| {
        stuck(spec);
        spec.deadline = Some(Span(Duration::from_secs(3600)));
    });
    is_drained(&actor).await;
}

/// Never destroyed, said by name, not asked again for the same, and what ends it later is somebody else.
#[tokio::test(start_paused = true)]
async fn shutdown_timed_out_is_said_and_the_guest_runs_on() {
    let (actor, gpu, _) = with_device(6, 1, GuestPlan::new("gpu").shuts_down(None)).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], |spec| {
        stuck(spec);
        spec.shutdown_timeout = Span(Duration::from_secs(90));
    });
    is_asked(&actor, gpu, 120).await;
    let asked = tokio::time::Instant::now();
    actor
        .until("its time is over", 120, |view| {
            let drain = &view.drains["d"];
            drain
                .blocked
                .iter()
                .any(|one| one.reason == "ShutdownTimedOut")
        })
        .await;
    assert!(
        asked.elapsed() >= Duration::from_secs(88),
        "{:?}",
        asked.elapsed()
    );
    let stalled = actor.condition("HostDrain", "d", "Stalled").unwrap();
    assert!(
        stalled.status == "True" && stalled.message.contains("gpu: ShutdownTimedOut"),
        "{stalled:?}"
    );
    assert!(actor.heard("Guest", "gpu", "ShutdownTimedOut"));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(fleet.executing(gpu), ["h1"]);
    assert_eq!(stage_of(&fleet, "h1", gpu), Some(ShutdownStage::TimedOut));
    fleet.shut_down(gpu);
    is_drained(&actor).await;
    actor.desk.undrain("d");
    sleep(Duration::from_secs(120)).await;
    assert!(fleet.executing(gpu).is_empty(), "somebody else stopped it");
    assert_eq!(stage_of(&fleet, "h1", gpu), None);
}

/// `evacuation: Shutdown`: by any drain, without waiting for those that can't leave; `Never` stays off.
#[tokio::test(start_paused = true)]
async fn evacuation_by_shutdown_needs_no_stuck() {
    for restart in [Restart::AfterDrain, Restart::Never] {
        let (actor, gpu, _) = with_device(7, 1, GuestPlan::new("gpu")).await;
        let fleet = actor.fleet.clone();
        let batch = fleet.add_guest("h1", &GuestPlan::new("batch"));
        actor.desk.guest("batch", |spec| {
            by_shutdown(spec);
            spec.restart = Some(restart);
        });
        actor
            .until("it is seen", 60, |view| view.guests.contains_key("batch"))
            .await;
        actor.desk.drain("d", &["h1"], |_| {});
        actor
            .until("off", 300, |_| fleet.executing(batch).is_empty())
            .await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(fleet.executing(gpu), ["h1"], "this one waits");
        actor.desk.undrain("d");
        if restart == Restart::AfterDrain {
            runs(&actor, batch, "h1").await;
        } else {
            sleep(Duration::from_secs(60)).await;
            assert!(fleet.executing(batch).is_empty());
            assert_eq!(stage_of(&fleet, "h1", batch), None);
        }
    }
}

/// Several drains on a host: Wait goes before Shutdown, Move before Leave, and the smallest parallel counts.
#[tokio::test(start_paused = true)]
async fn several_drains_combine() {
    let (actor, gpu, _) = with_device(8, 4, GuestPlan::new("gpu")).await;
    let fleet = actor.fleet.clone();
    let off = fleet.add_guest("h1", &GuestPlan::new("off"));
    fleet.shut_down(off);
    actor
        .until("it is off", 60, |view| {
            view.guests
                .get("off")
                .is_some_and(|guest| guest.status.phase.as_str() == "Stopped")
        })
        .await;
    actor.desk.drain("d", &["h1"], stuck);
    actor.desk.drain("other", &["h1"], |spec| {
        spec.parallel = 1;
        spec.stopped = StoppedGuests::Move;
    });
    let end = tokio::time::Instant::now() + Duration::from_secs(300);
    while tokio::time::Instant::now() < end {
        assert!(fleet.moving() <= 1, "{}", actor.picture());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(fleet.executing(gpu), ["h1"], "one of them waits");
    assert!(fleet.domain("h1", off).is_none(), "{}", actor.picture());
    actor.desk.undrain("other");
    is_drained(&actor).await;
    assert!(fleet.executing(gpu).is_empty());
}

/// A controller that dies at any moment of it is followed by one that knows.
#[tokio::test(start_paused = true)]
async fn a_killed_controller_is_followed_by_one_that_knows() {
    for millis in (0..8000).step_by(700) {
        let (actor, gpu, clock) = with_device(9, 0, GuestPlan::new("gpu")).await;
        let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
        desk.drain("d", &["h1"], stuck);
        sleep(Duration::from_millis(millis)).await;
        actor.kill().await;
        sleep(Duration::from_secs(20)).await;
        let role = Role::new("two").cluster().by(&clock).epoch(1);
        let actor = Actor::start(&fleet, &desk, &role);
        is_drained(&actor).await;
        assert!(fleet.executing(gpu).is_empty());
        actor
            .until("noted", 60, |_| {
                stage_of(&fleet, "h1", gpu) == Some(ShutdownStage::Down)
            })
            .await;
        actor.kill().await;
        // The drain goes while nobody looks.
        desk.undrain("d");
        let actor = Actor::start(&fleet, &desk, &role.epoch(2));
        runs(&actor, gpu, "h1").await;
        assert_eq!(fleet.boots(gpu), 2, "after {millis} ms");
        sleep(Duration::from_secs(30)).await;
        assert!(fleet.claims().is_empty() && fleet.journals().is_empty());
    }
}

/// Who was stopped by somebody else is not started: before it was asked, or destroyed while it had time left.
#[tokio::test(start_paused = true)]
async fn what_somebody_else_stopped_is_not_started() {
    let slow = GuestPlan::new("gpu").shuts_down(Some(Duration::from_secs(60)));
    let (actor, gpu, _) = with_device(10, 0, slow).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], stuck);
    is_asked(&actor, gpu, 60).await;
    fleet.kill_qemu("h1", gpu);
    is_drained(&actor).await;
    actor.desk.undrain("d");
    sleep(Duration::from_secs(120)).await;
    assert!(fleet.executing(gpu).is_empty(), "{}", actor.picture());
    assert_eq!(stage_of(&fleet, "h1", gpu), None);
}

/// Somebody starts it in mid-drain: it is theirs, and asked anew since the drain still wants it off.
#[tokio::test(start_paused = true)]
async fn what_somebody_started_is_not_started_again() {
    let (actor, gpu, _) = with_device(11, 0, GuestPlan::new("gpu")).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], stuck);
    is_drained(&actor).await;
    actor
        .until("noted", 60, |_| {
            stage_of(&fleet, "h1", gpu) == Some(ShutdownStage::Down)
        })
        .await;
    actor.desk.undrain("d");
    fleet.start_guest("h1", gpu);
    runs(&actor, gpu, "h1").await;
    assert_eq!(fleet.boots(gpu), 2, "once, by them");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.boots(gpu), 2);
}

/// Not while a host is silent: it might be there.
#[tokio::test(start_paused = true)]
async fn restart_pending_waits_for_every_host() {
    let (actor, gpu, _) = with_device(12, 0, GuestPlan::new("gpu")).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], stuck);
    is_drained(&actor).await;
    actor
        .until("noted", 60, |_| {
            stage_of(&fleet, "h1", gpu) == Some(ShutdownStage::Down)
        })
        .await;
    fleet.power_off("h3");
    sleep(Duration::from_secs(60)).await;
    actor.desk.undrain("d");
    actor
        .until("it is said", 60, |view| {
            let said = view
                .shutdowns
                .values()
                .find(|cause| cause.message.contains("gpu"));
            said.is_some_and(|cause| {
                cause.reason.as_str() == "RestartPending" && cause.message.contains("h3")
            })
        })
        .await;
    sleep(Duration::from_secs(60)).await;
    assert!(fleet.executing(gpu).is_empty());
    fleet.power_on("h3");
    runs(&actor, gpu, "h1").await;
}

/// One that was moved while it was off is not ours any more.
#[tokio::test(start_paused = true)]
async fn what_has_moved_elsewhere_is_not_started() {
    let (actor, _, _) = with_device(13, 0, GuestPlan::new("gpu")).await;
    let fleet = actor.fleet.clone();
    let batch = fleet.add_guest("h1", &GuestPlan::new("batch"));
    actor.desk.guest("batch", by_shutdown);
    actor
        .until("it is seen", 60, |view| view.guests.contains_key("batch"))
        .await;
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("off", 300, |_| {
            stage_of(&fleet, "h1", batch) == Some(ShutdownStage::Down)
        })
        .await;
    actor.desk.migrate("m", "batch", Some("h2"));
    actor
        .phase("m", evenkeel_crds::MigrationPhase::Succeeded, 300)
        .await;
    actor.desk.undrain("d");
    sleep(Duration::from_secs(120)).await;
    assert!(fleet.executing(batch).is_empty());
    let there = fleet.domain("h2", batch).unwrap();
    assert_eq!(
        (there.activity, there.shutdown_mark),
        (Activity::ShutOff, None)
    );
}

/// An un-drain cancels what was only planned; a hold is stronger than both.
#[tokio::test(start_paused = true)]
async fn an_undrain_and_a_hold_keep_it_running() {
    let (actor, gpu, _) = with_device(14, 2, GuestPlan::new("gpu")).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], stuck);
    actor
        .until("it waits for the others", 10, |view| {
            !view.shutdowns.is_empty()
        })
        .await;
    actor.desk.undrain("d");
    sleep(Duration::from_secs(120)).await;
    assert_eq!(fleet.executing(gpu), ["h1"]);
    assert!(actor.view().shutdowns.is_empty());
    actor.desk.guest("gpu", |spec| {
        again(spec);
        spec.hold = Some(Hold {
            reason: "in use".into(),
            until: None,
        });
    });
    actor.desk.drain("d", &["h1"], stuck);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(fleet.executing(gpu), ["h1"], "{}", actor.picture());
    assert_eq!(stage_of(&fleet, "h1", gpu), None);
    actor.desk.guest("gpu", again);
    is_drained(&actor).await;
}

/// Asked and then un-drained: it can't be called back, so it is started again once it is off.
#[tokio::test(start_paused = true)]
async fn what_was_asked_before_the_undrain_is_started_again() {
    let slow = GuestPlan::new("gpu").shuts_down(Some(Duration::from_secs(20)));
    let (actor, gpu, _) = with_device(15, 0, slow).await;
    let fleet = actor.fleet.clone();
    actor.desk.drain("d", &["h1"], stuck);
    is_asked(&actor, gpu, 60).await;
    sleep(Duration::from_secs(2)).await;
    actor.desk.undrain("d");
    actor
        .until("off", 60, |_| fleet.executing(gpu).is_empty())
        .await;
    runs(&actor, gpu, "h1").await;
    assert_eq!(fleet.boots(gpu), 2);
}
