//! The engine killed at every moment of a move's life, and a new one started: each guest runs exactly once, its data is
//! whole, nothing is left behind, and the move comes to its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, MigrationProfileSpec, quantity::Span};
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;

/// How often the engine is killed within one second of the move's life.
const STEP: u64 = 50;

async fn killed_after(millis: u64, first: &Role, second: &Role, within: u64) {
    let (fleet, desk) = stage(millis, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let plan = GuestPlan::new("g1").autostart().encrypted("key");
    let guest = fleet.add_guest("h1", &plan);
    let actor = taken_over((&fleet, &desk), millis, (first, second), within).await;
    assert_eq!(
        actor.status("m").phase,
        MigrationPhase::Succeeded,
        "killed at {millis} ms\n{}",
        actor.picture()
    );
    actor.clean(&[(guest, "h2")]).await;
    assert!(
        fleet.files("h1").is_empty(),
        "killed at {millis} ms\n{}",
        actor.picture()
    );
    assert_eq!(
        fleet.files("h2").len(),
        1,
        "killed at {millis} ms\n{}",
        actor.picture()
    );
    assert_eq!(fleet.secrets("h2"), [(plan.secret.unwrap(), None)]);
    let domain = fleet.domain("h2", guest).unwrap();
    assert!(
        domain.autostart,
        "killed at {millis} ms\n{}",
        actor.picture()
    );
    assert!(domain.last_move.is_some());
    drop(actor);
}

/// How long an undisturbed move takes, in milliseconds.
async fn length() -> u64 {
    let (actor, _) = pair(1, &Role::new("one")).await;
    let begun = tokio::time::Instant::now();
    actor.desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    begun.elapsed().as_millis() as u64
}

#[tokio::test(start_paused = true)]
async fn at_every_moment_of_an_apply() {
    let first = Role::new("one").files().process(dead_process());
    for step in 0..length().await / STEP + 80 {
        killed_after(step * STEP, &first, &Role::new("two").files(), 120).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_every_moment_of_a_controller() {
    let first = Role::new("one").cluster().process(dead_process());
    for step in 0..length().await / STEP + 80 {
        killed_after(step * STEP + 7, &first, &Role::new("two").cluster(), 120).await;
    }
}

/// The first seconds and the last ones, in finer steps.
#[tokio::test(start_paused = true)]
async fn at_every_call_of_preparing_and_cleaning() {
    let first = Role::new("one").files().process(dead_process());
    let length = length().await;
    for step in (0..100).chain(length.saturating_sub(300) / 3..(length + 300) / 3) {
        killed_after(step * 3, &first, &Role::new("two").files(), 120).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_some_moments_with_a_minutes_wait() {
    for step in 0..(length().await / STEP + 80) / 5 {
        let millis = step * STEP * 5 + 20;
        killed_after(
            millis,
            &Role::new("one").cluster(),
            &Role::new("two").cluster(),
            240,
        )
        .await;
    }
}

/// Killed again and again, by a process that lives only so long.
#[tokio::test(start_paused = true)]
async fn again_and_again() {
    for (seed, life) in [(1, 700), (2, 1500), (3, 4000), (4, 6000)] {
        let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
        let guests: Vec<_> = (1..=3)
            .map(|number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}"))))
            .collect();
        desk.drain("d", &["h1"], |_| {});
        for _ in 0..12 {
            let role = Role::new("short").files().process(dead_process());
            let actor = Actor::start(&fleet, &desk, &role);
            sleep(Duration::from_millis(life)).await;
            actor.kill().await;
        }
        let actor = Actor::start(&fleet, &desk, &Role::new("last").files());
        actor
            .until("drained", 300, |_| {
                actor
                    .condition("HostDrain", "d", "Drained")
                    .is_some_and(|drained| drained.status == "True")
            })
            .await;
        let all: Vec<_> = guests.iter().map(|guest| (*guest, "h2")).collect();
        actor.clean(&all).await;
        assert!(
            fleet.files("h1").is_empty() && fleet.files("h2").len() == 3,
            "{}",
            actor.picture()
        );
    }
}

/// A controller killed in mid-drain: the drain's own moves are taken up under their names.
#[tokio::test(start_paused = true)]
async fn in_mid_drain() {
    for step in 0..40 {
        let (fleet, desk) = stage(
            step,
            &[
                HostPlan::new("h1"),
                HostPlan::new("h2"),
                HostPlan::new("h3"),
            ],
        );
        let guests: Vec<_> = (1..=4)
            .map(|number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}"))))
            .collect();
        desk.drain("d", &["h1"], |_| {});
        let role = Role::new("one").cluster().process(dead_process());
        let actor = Actor::start(&fleet, &desk, &role);
        sleep(Duration::from_millis(step * 500)).await;
        actor.kill().await;
        let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster());
        actor
            .until(
                &format!("drained after a kill at {} ms", step * 500),
                300,
                |_| {
                    actor
                        .condition("HostDrain", "d", "Drained")
                        .is_some_and(|drained| drained.status == "True")
                },
            )
            .await;
        let all: Vec<_> = guests
            .iter()
            .map(|guest| (*guest, fleet.executing(*guest).pop().unwrap()))
            .collect();
        let all: Vec<_> = all
            .iter()
            .map(|(guest, host)| (*guest, host.as_str()))
            .collect();
        actor.clean(&all).await;
        assert!(fleet.files("h1").is_empty());
        let view = actor.view();
        assert_eq!(view.migrations.len(), 4, "{}", actor.picture());
        assert!(
            view.migrations
                .values()
                .all(|shown| shown.status.phase == MigrationPhase::Succeeded),
            "{}",
            actor.picture()
        );
    }
}

/// One that led for longer than it should have: its move is over, its claims are given back, and the disks that it keeps
/// at the source are still to be removed by whoever leads now.
#[tokio::test(start_paused = true)]
async fn disks_that_another_kept_meanwhile_are_removed() {
    let (fleet, desk) = stage(1, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    let next = Actor::start(&fleet, &desk, &Role::new("two").cluster().epoch(2));
    next.settled().await;
    let theirs = Desk::new(&["h1", "h2"]);
    let keep = |spec: &mut MigrationProfileSpec| spec.keep_source = Span(Duration::from_secs(30));
    theirs.profile("default", keep);
    let old = Actor::start(&fleet, &theirs, &Role::new("one").cluster().epoch(1));
    old.settled().await;
    theirs.migrate("m", "g1", Some("h2"));
    old.phase("m", MigrationPhase::Succeeded, 60).await;
    sleep(Duration::from_secs(5)).await;
    old.kill().await;
    assert!(!fleet.journals().is_empty() && !fleet.files("h1").is_empty());
    next.until("its disks are removed", 900, |_| {
        fleet.journals().is_empty()
    })
    .await;
    next.clean(&[(guest, "h2")]).await;
}
