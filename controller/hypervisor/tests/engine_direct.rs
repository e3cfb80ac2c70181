//! `transport: Direct`: this process drives the migration, which dies with it; whoever comes next cleans up and begins anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, kinds::profile::Transport};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

fn move_of_g1(seed: u64) -> (Fleet, Desk, Uuid) {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    desk.profile("default", |spec| spec.transport = Transport::Direct);
    desk.migration("m", |spec| {
        spec.guest = "g1".to_owned();
        spec.target = Some("h2".to_owned());
    });
    (fleet, desk, guest)
}

#[tokio::test(start_paused = true)]
async fn it_is_driven_from_here() {
    let (fleet, desk, guest) = move_of_g1(1);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// Killed at every moment of the copy, of the switch and after it.
#[tokio::test(start_paused = true)]
async fn it_dies_with_its_driver_and_the_next_one_begins_anew() {
    for phase in ["Disks", "Memory", "Switch"] {
        for step in 0..30u64 {
            let (fleet, desk, guest) = move_of_g1(100 + step);
            let first = Role::new("one").files().process(dead_process());
            let actor = Actor::start(&fleet, &desk, &first);
            actor
                .until(phase, 60, |_| fleet.phase(guest).as_deref() == Some(phase))
                .await;
            sleep(Duration::from_millis(step * 20)).await;
            actor.kill().await;
            sleep(Duration::from_secs(10)).await;
            assert_eq!(fleet.phase(guest), None, "it went on without its driver");
            let next = Actor::start(&fleet, &desk, &Role::new("two").files());
            next.phase("m", MigrationPhase::Succeeded, 200).await;
            next.until("nothing is left", 120, |_| {
                fleet.journals().is_empty() && fleet.files("h1").is_empty()
            })
            .await;
            next.clean(&[(guest, "h2")]).await;
            assert!(fleet.domain("h2", guest).unwrap().autostart);
        }
    }
}
