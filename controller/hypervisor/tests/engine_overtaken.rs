//! A move was left to the journal of its silent target, and the guest goes on to a third host: until that later move is
//! known to be over, nobody takes up the first one again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use support::*;
use tokio::time::sleep;

/// The source's libvirtd dies while it waits for the third host's answer, so that it shows the guest paused, without a job:
/// by what it and the first target show, that is one to be resumed. The next process does not hear the third host.
#[tokio::test(start_paused = true)]
async fn the_first_move_waits_for_the_later_one() {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(1, &hosts);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    let first = Role::new("one").cluster().process(dead_process());
    let actor = Actor::start(&fleet, &desk, &first);
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    let copies = || fleet.phase(guest).as_deref() == Some("Disks");
    actor.until("it copies", 60, |_| copies()).await;
    fleet.power_off("h2");
    actor
        .until("the copy is given up", 300, |_| {
            fleet.phase(guest).is_none()
        })
        .await;
    desk.abort("m");
    actor.ends("m", 300).await;
    desk.migrate("n", "g1", Some("h3"));
    let runs_there = || fleet.executing(guest) == ["h3"];
    while !runs_there() {
        sleep(Duration::from_millis(1)).await;
    }
    fleet.kill_libvirtd("h1");
    fleet.cut_client("two", "h3", true);
    actor.kill().await;
    sleep(Duration::from_secs(1)).await;
    fleet.start_libvirtd("h1");
    fleet.power_on("h2");

    let next = Actor::start(&fleet, &desk, &Role::new("two").cluster().epoch(1));
    sleep(Duration::from_secs(300)).await;
    assert_eq!(fleet.executing(guest), ["h3"], "{}", next.picture());
    assert_eq!(fleet.violations(), Vec::<String>::new());
    fleet.cut_client("two", "h3", false);
    next.phase("n", MigrationPhase::Succeeded, 300).await;
    next.clean(&[(guest, "h3")]).await;
}
