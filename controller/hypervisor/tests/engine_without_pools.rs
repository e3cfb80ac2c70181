//! A host without any pool of files takes part in no move, be it that its guests' disks are in directories outside pools:
//! that is said on the host, its guests, and in plans.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use support::*;

const DATA: &str = "/data/vms";

#[tokio::test(start_paused = true)]
async fn it_is_said_on_the_host_its_guests_and_in_plans() {
    let mut with_pool = HostPlan::new("h1");
    with_pool.pools.push((DATA.to_owned(), 20 << 30));
    let mut without = HostPlan::new("h2");
    without.pools = vec![(DATA.to_owned(), 20 << 30)];
    let (fleet, desk) = stage(1, &[with_pool, without]);
    fleet.add_guest("h1", &GuestPlan::new("g1").pool(DATA));
    fleet.add_guest("h2", &GuestPlan::new("g2").pool(DATA));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;

    let ready = |host: &str| actor.condition("Host", host, "MigrationReady").unwrap();
    assert_eq!(ready("h1").status, "True", "{}", actor.picture());
    let shown = ready("h2");
    assert_eq!(
        (shown.status.as_str(), shown.reason.as_str()),
        ("False", "PoolMissing")
    );
    let sentence = "h2 has no active storage pool of files, where a move keeps its journal";
    assert!(shown.message.contains(sentence), "{}", shown.message);
    assert!(
        shown.message.contains("pool-define-as"),
        "{}",
        shown.message
    );
    let shown = actor.condition("Guest", "g2", "Migratable").unwrap();
    assert_eq!(
        (shown.status.as_str(), shown.reason.as_str()),
        ("False", "PoolMissing")
    );

    desk.migrate("in", "g1", Some("h2"));
    desk.migrate("out", "g2", Some("h1"));
    desk.drain("d", &["h2"], |_| {});
    actor.says("GuestMigration", "in", "PoolMissing", 10).await;
    actor.says("GuestMigration", "out", "PoolMissing", 10).await;
    let plan = &actor.view().plan;
    assert!(plan.moves.is_empty(), "{}", actor.picture());
    assert!(plan.rejections.len() >= 2, "{}", actor.picture());
    for rejected in &plan.rejections {
        let cause = &rejected.cause;
        assert!(cause.message.contains(sentence), "{cause:?}");
    }
    assert_eq!(actor.status("in").phase, MigrationPhase::Pending);
    let drainable = actor.condition("Host", "h2", "Drainable").unwrap();
    assert_eq!(drainable.status, "False", "{}", drainable.message);
}
