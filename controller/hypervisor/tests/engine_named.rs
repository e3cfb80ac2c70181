//! Disks that a definition gives by pool and volume (`<disk type='volume'>`): they move like files, and are given by the
//! pool and volume where they came to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use evenkeel_crds::{MigrationPhase, kinds::migration::DiskPlacement};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan};
use support::*;
use uuid::Uuid;

const STEP: u64 = 150;

/// The second has its pool `default` in another directory than the first.
fn two_hosts(seed: u64, plan: &GuestPlan) -> (Fleet, Desk, Uuid) {
    let mut hosts = ["h1", "h2"].map(HostPlan::new);
    for host in &mut hosts {
        host.pools.push(("fast".to_owned(), 20 << 30));
    }
    let elsewhere = ("default".to_owned(), "/var/two".to_owned());
    hosts[1].paths.extend([elsewhere]);
    let (fleet, desk) = stage(seed, &hosts);
    let guest = fleet.add_guest("h1", plan);
    (fleet, desk, guest)
}

#[tokio::test(start_paused = true)]
async fn there_and_back_running_and_stopped() {
    for runs in [true, false] {
        let mut plan = GuestPlan::new("g1").named();
        plan.runs = runs;
        let (fleet, desk, _) = two_hosts(1, &plan);
        let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
        actor.settled().await;
        for (name, target, other, file) in [
            ("m", "h2", "h1", "/var/two/g1-vda.qcow2"),
            ("n", "h1", "h2", "/pools/default/g1-vda.qcow2"),
        ] {
            desk.migrate(name, "g1", Some(target));
            actor.phase(name, MigrationPhase::Succeeded, 120).await;
            assert_eq!(fleet.files(target), [file], "{}", actor.picture());
            assert!(fleet.files(other).is_empty(), "{}", actor.picture());
            assert_eq!(fleet.violations(), Vec::<String>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn into_the_pool_that_is_asked_for() {
    let (fleet, desk, guest) = two_hosts(2, &GuestPlan::new("g1").named());
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migration("m", |spec| {
        spec.guest = "g1".to_owned();
        spec.target = Some("h2".to_owned());
        spec.disks = Some(vec![DiskPlacement {
            target: "vda".to_owned(),
            pool: "fast".to_owned(),
        }]);
    });
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h2")]).await;
    assert_eq!(fleet.files("h2"), ["/pools/fast/g1-vda.qcow2"]);
}

/// Over a base image, and killed at every moment: the next one brings the move to its end.
#[tokio::test(start_paused = true)]
async fn over_a_base_killed_at_every_moment() {
    for step in 0..60 {
        let millis = step * STEP;
        let plan = GuestPlan::new("g1")
            .named()
            .base("/pools/fast/base.img", 64 << 20);
        let (fleet, desk, guest) = two_hosts(millis, &plan);
        let first = Role::new("one").files().process(dead_process());
        let roles = (&first, &Role::new("two").files());
        let actor = taken_over((&fleet, &desk), millis, roles, 120).await;
        actor.clean(&[(guest, "h2")]).await;
        let files = fleet.files("h2");
        assert!(
            files.contains(&"/var/two/g1-vda.qcow2".to_owned()),
            "{files:?}"
        );
    }
}
