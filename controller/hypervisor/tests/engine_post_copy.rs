//! Post-copy: a guest that never converges moves by it, whatever breaks meanwhile and whoever drives; memory that is lost
//! is left to a person.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{MigrationPhase, kinds::profile::Convergence, quantity::Bytes};
use evenkeel_engine::port::Why;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

/// A guest that writes more than is carried, and a move of it that may be switched to post-copy.
fn never_converging(seed: u64) -> (Fleet, Desk, Uuid) {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let mut plan = GuestPlan::new("g1").autostart();
    plan.dirty = 60 * MIB;
    let guest = fleet.add_guest("h1", &plan);
    desk.profile("default", |spec| {
        spec.bandwidth = Some(Bytes(20 * MIB));
        spec.convergence = vec![Convergence::PostCopy];
        spec.attempts = 1;
    });
    desk.migration("m", |spec| {
        spec.guest = "g1".to_owned();
        spec.target = Some("h2".to_owned());
    });
    (fleet, desk, guest)
}

async fn in_post_copy(actor: &Actor, guest: Uuid) {
    actor
        .until("its memory follows", 400, |_| {
            actor.fleet.phase(guest).as_deref() == Some("PostCopy")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_converges_moves_and_is_not_aborted() {
    let (fleet, desk, guest) = never_converging(1);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    in_post_copy(&actor, guest).await;
    actor.says("GuestMigration", "m", "PostCopy", 5).await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Switching);
    desk.abort("m");
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    let shown = actor.condition("GuestMigration", "m", "Converging");
    assert_eq!(shown, None);
    actor.clean(&[(guest, "h2")]).await;
    assert!(fleet.domain("h2", guest).unwrap().autostart);
}

/// Each fault that the two QEMUs survive, at many moments, and whoever drives killed as well now and then.
#[tokio::test(start_paused = true)]
async fn what_breaks_is_taken_up_again() {
    type Fault = (&'static str, fn(&Fleet, bool));
    let faults: [Fault; 5] = [
        ("nothing", |_, _| {}),
        ("the link", |fleet, broken| fleet.cut("h1", "h2", broken)),
        ("the source's libvirtd", |fleet, broken| match broken {
            true => fleet.kill_libvirtd("h1"),
            false => fleet.start_libvirtd("h1"),
        }),
        ("the target's libvirtd", |fleet, broken| match broken {
            true => fleet.kill_libvirtd("h2"),
            false => fleet.start_libvirtd("h2"),
        }),
        ("the target's libvirtd hangs", |fleet, broken| {
            fleet.hang_libvirtd("h2", broken);
        }),
    ];
    for (what, fault) in faults {
        for step in 0..10u64 {
            let (fleet, desk, guest) = never_converging(10 + step);
            let mut actor = Actor::start(&fleet, &desk, &Role::new("one").files());
            in_post_copy(&actor, guest).await;
            sleep(Duration::from_millis(step * 300)).await;
            fault(&fleet, true);
            sleep(Duration::from_secs(4 * step)).await;
            if step % 2 == 1 {
                actor.kill().await;
                actor = Actor::start(&fleet, &desk, &Role::new("two").files());
                sleep(Duration::from_secs(step)).await;
            }
            fault(&fleet, false);
            actor
                .until(what, 400, |_| {
                    fleet.journals().is_empty() && fleet.files("h1").is_empty()
                })
                .await;
            actor.clean(&[(guest, "h2")]).await;
            assert_eq!(fleet.boots(guest), 1, "{what}");
        }
    }
}

/// Either QEMU dies: nothing is removed and nobody starts it, until a person has.
#[tokio::test(start_paused = true)]
async fn lost_memory_is_for_a_person() {
    for dies in ["h1", "h2"] {
        let (fleet, desk, guest) = never_converging(2);
        let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
        in_post_copy(&actor, guest).await;
        fleet.kill_qemu(dies, guest);
        actor.says("GuestMigration", "m", "MemoryLost", 60).await;
        sleep(Duration::from_secs(300)).await;
        for host in ["h1", "h2"] {
            assert!(!fleet.files(host).is_empty(), "{dies} died, {host}");
            assert!(fleet.domain(host, guest).is_some(), "{dies} died, {host}");
        }
        assert_eq!(fleet.boots(guest), 1);
        for host in ["h1", "h2"] {
            fleet.destroy(host, guest);
        }
        fleet.start_guest("h2", guest);
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        assert_eq!(fleet.executing(guest), ["h2"]);
        assert!(fleet.files("h1").is_empty());
        let there = fleet.domain("h2", guest).unwrap();
        assert_eq!(there.why, Why::Other);
    }
}
