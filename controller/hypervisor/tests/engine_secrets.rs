//! Secrets that open encrypted disks: brought over and settled with, compared, refused by name, taken back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB, uuid_of};
use support::*;
use tokio::time::sleep;
use uuid::Uuid;

/// So long that it takes ten seconds at the simulated link's pace, there and back. It goes after the secrets.
const INITRD: (&str, u64) = ("/boot/initrd", 500 * MIB);

fn key() -> Uuid {
    uuid_of("secret", "key")
}

fn plan(name: &str) -> GuestPlan {
    GuestPlan::new(name).encrypted("key")
}

fn two_hosts(seed: u64) -> (Fleet, Desk) {
    stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")])
}

async fn one(seed: u64, plan: &GuestPlan) -> (Fleet, Desk, Actor, Uuid) {
    let (fleet, desk) = two_hosts(seed);
    let guest = fleet.add_guest("h1", plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    (fleet, desk, actor, guest)
}

#[tokio::test(start_paused = true)]
async fn it_goes_before_the_guest_and_stays_behind_too() {
    let (fleet, desk, actor, guest) = one(1, &plan("g1")).await;
    desk.migrate("m", "g1", Some("h2"));
    let names_it = |(_, text): &(String, String)| text.contains(&key().to_string());
    actor
        .until("journals name it", 20, |_| {
            fleet
                .journals()
                .iter()
                .filter(|journal| names_it(journal))
                .count()
                == 2
        })
        .await;
    let passphrase = format!("the passphrase of {}", key());
    actor
        .until("it is there", 20, |_| fleet.unsettled_secrets() == ["h2"])
        .await;
    let shown = format!("{:?}", fleet.journals());
    assert!(!shown.contains(&passphrase), "{shown}");
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!(fleet.secrets("h1"), [(key(), None)]);
    assert_eq!(fleet.secrets("h2"), [(key(), None)]);
    // Back again: it is there.
    desk.migrate("back", "g1", Some("h1"));
    actor.phase("back", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h1")]).await;
    assert_eq!(fleet.secrets("h2"), [(key(), None)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_target_has_is_used_where_it_is_the_same_and_never_touched() {
    let (fleet, desk, actor, guest) = one(2, &plan("g1")).await;
    fleet.put_secret("h2", key(), Some(false), false);
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "SecretDiffers", 20).await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Pending);
    // Without a value, it is somebody's all the same.
    fleet.put_secret("h2", key(), None, false);
    sleep(Duration::from_secs(120)).await;
    actor.says("GuestMigration", "m", "SecretDiffers", 20).await;
    fleet.put_secret("h2", key(), Some(true), false);
    actor.phase("m", MigrationPhase::Succeeded, 300).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn another_one_for_the_same_use_is_in_the_way() {
    let (fleet, desk, actor, guest) = one(3, &plan("g1")).await;
    fleet.take_usage("h2", key());
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "SecretDiffers", 20).await;
    actor.clean(&[(guest, "h1")]).await;
    let (other, _) = fleet.secrets("h2")[0];
    fleet.take_secret("h2", other);
    actor.phase("m", MigrationPhase::Succeeded, 300).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_private_one_is_refused() {
    let (fleet, desk, actor, guest) = one(4, &plan("g1")).await;
    fleet.put_secret("h2", key(), Some(true), true);
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "SecretPrivate", 20).await;
    actor.clean(&[(guest, "h1")]).await;
    assert_eq!(fleet.secrets("h2"), [(key(), None)]);
}

#[tokio::test(start_paused = true)]
async fn a_private_one_is_named_before_anybody_asks() {
    let (fleet, desk) = two_hosts(5);
    fleet.put_secret("h1", key(), Some(true), true);
    let guest = fleet.add_guest("h1", &plan("g1"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    let migratable = actor.condition("Guest", "g1", "Migratable").unwrap();
    assert_eq!(
        (migratable.status.as_str(), migratable.reason.as_str()),
        ("False", "SecretPrivate")
    );
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "SecretPrivate", 20).await;
    actor.clean(&[(guest, "h1")]).await;
    assert_eq!(fleet.secrets("h2"), []);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_or_empty_is_named() {
    let (fleet, desk, actor, guest) = one(6, &plan("g1")).await;
    fleet.put_secret("h1", key(), None, false);
    desk.migrate("m", "g1", Some("h2"));
    actor.says("GuestMigration", "m", "SecretMissing", 20).await;
    fleet.take_secret("h1", key());
    sleep(Duration::from_secs(120)).await;
    actor.says("GuestMigration", "m", "SecretMissing", 20).await;
    fleet.put_secret("h1", key(), Some(true), false);
    actor.phase("m", MigrationPhase::Succeeded, 300).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_takes_it_back() {
    let (fleet, desk, actor, guest) = one(7, &plan("g1").file("initrd", INITRD.0, INITRD.1)).await;
    desk.migrate("m", "g1", Some("h2"));
    actor
        .until("it is there", 20, |_| fleet.unsettled_secrets() == ["h2"])
        .await;
    desk.abort("m");
    actor.phase("m", MigrationPhase::Aborted, 20).await;
    actor.clean(&[(guest, "h1")]).await;
    assert_eq!(fleet.secrets("h2"), []);
    assert_eq!(fleet.secrets("h1"), [(key(), None)]);
}

/// Killed at any moment of a move that is then aborted: the guest is on one host, whole, and no host has a secret that
/// nobody there needs.
#[tokio::test(start_paused = true)]
async fn killed_and_aborted_nothing_is_left() {
    let mut stayed = 0;
    for step in 0..160 {
        let (fleet, desk) = two_hosts(step);
        let guest = fleet.add_guest("h1", &plan("g1"));
        let first = Role::new("one").cluster().process(dead_process());
        let actor = Actor::start(&fleet, &desk, &first);
        actor.settled().await;
        desk.migrate("m", "g1", Some("h2"));
        // Finely while it is prepared.
        let millis = if step < 80 {
            step * 5
        } else {
            (step - 78) * 200
        };
        sleep(Duration::from_millis(millis)).await;
        actor.kill().await;
        desk.abort("m");
        let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster().epoch(1));
        let what = format!("it ends after a kill at {millis} ms");
        actor.rests("m", &what, 300).await;
        let host = fleet.executing(guest).pop().unwrap();
        actor.clean(&[(guest, &host)]).await;
        if host == "h1" {
            stayed += 1;
            assert_eq!(
                fleet.secrets("h2"),
                [],
                "killed at {millis} ms\n{}",
                actor.picture()
            );
        }
    }
    assert!((20..160).contains(&stayed), "{stayed} of 160 stayed");
}

/// Guests that share one: whoever brings it, it stays as long as one of them needs it, and no longer.
#[tokio::test(start_paused = true)]
async fn one_that_several_share() {
    for (seed, aborted) in [(8, ["g1", "g2"].as_slice()), (9, &["g1"]), (10, &["g2"])] {
        let (fleet, desk) = two_hosts(seed);
        let names = ["g1", "g2"];
        let guests = names.map(|name| {
            let initrd = format!("{}-{name}", INITRD.0);
            fleet.add_guest("h1", &plan(name).file("initrd", &initrd, INITRD.1))
        });
        let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
        actor.settled().await;
        for name in names {
            desk.migrate(name, name, Some("h2"));
        }
        actor
            .until("it is there", 20, |_| fleet.unsettled_secrets() == ["h2"])
            .await;
        sleep(Duration::from_secs(2)).await;
        let mut places = Vec::new();
        for (name, guest) in names.iter().zip(guests) {
            let stays = aborted.contains(name);
            if stays {
                desk.abort(name);
                actor.phase(name, MigrationPhase::Aborted, 60).await;
            }
            places.push((guest, if stays { "h1" } else { "h2" }));
        }
        for name in names.iter().filter(|name| !aborted.contains(name)) {
            actor.phase(name, MigrationPhase::Succeeded, 200).await;
        }
        actor.clean(&places).await;
        let left = fleet.secrets("h2").len();
        assert_eq!(left, usize::from(aborted.len() < 2), "{aborted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_guest_takes_it_along() {
    let (fleet, desk, actor, guest) = one(11, &plan("g1")).await;
    fleet.shut_down(guest);
    actor
        .until("it is known to have stopped", 60, |_| {
            fleet
                .domain("h1", guest)
                .is_some_and(|domain| !domain.activity.active())
        })
        .await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 300).await;
    actor.clean(&[]).await;
    assert!(fleet.domain("h2", guest).is_some() && fleet.domain("h1", guest).is_none());
    assert_eq!(fleet.secrets("h2"), [(key(), None)]);
    fleet.start_guest("h2", guest);
    assert_eq!(fleet.executing(guest), ["h2"]);
    assert_eq!(fleet.violations(), Vec::<String>::new());
}
