//! A claim that is just being given back: whoever ends in that very moment leaves none behind, and a look at who holds the
//! host takes it neither for forgotten nor for another's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::MigrationPhase;
use evenkeel_engine::{
    Clock, Options,
    claim::Claims,
    port::{Endpoint, Hypervisor, Hypervisors},
};
use evenkeel_hypervisor::sim::{self, Fleet, GuestPlan, HostPlan};
use support::*;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

/// Longer than a request and its answer travel, in milliseconds.
const TRIP: u64 = 18;

/// A move that is over, in a fleet of which every run is the same.
async fn moved() -> (Fleet, Actor) {
    let (fleet, desk) = stage(1, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    fleet.add_guest("h1", &GuestPlan::new("g1"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").on_virtual_time());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    (fleet, actor)
}

/// How long after that the last claim has gone from its host.
async fn given_back_after() -> Duration {
    let (fleet, actor) = moved().await;
    let begun = Instant::now();
    assert_eq!(fleet.claims().len(), 2, "{}", actor.picture());
    while !fleet.claims().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_ends_while_claims_are_given_back_leaves_none() {
    let gone = given_back_after().await;
    for leaves in [false, true] {
        for before in (0..TRIP).step_by(2) {
            let (fleet, actor) = moved().await;
            sleep_until(Instant::now() + gone - Duration::from_millis(before)).await;
            if leaves {
                actor.engine.leave().await;
            } else {
                actor.engine.finish().await;
            }
            // At once: nobody of that process could give them back any more.
            let left = fleet.claims();
            assert_eq!(
                left,
                BTreeMap::new(),
                "{before} ms before, leaves: {leaves}"
            );
        }
    }
}

fn options() -> Options {
    Options {
        fleet: "test".to_owned(),
        holder: "one".to_owned(),
        process: None,
        epoch: 0,
        act: true,
        held: false,
        from_files: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_takes_up_none_that_is_given_back() {
    let endpoint = Endpoint {
        uri: sim::uri("h1"),
        credentials: None,
    };
    for seed in 0..20 {
        for look in 0..TRIP {
            for back in [0, TRIP / 2] {
                let (fleet, _) = stage(seed, &[HostPlan::new("h1")]);
                let (notices, _heard) = mpsc::unbounded_channel();
                let host = "h1".into();
                let line: Arc<dyn Hypervisor> =
                    fleet.client("one").attach(&host, &endpoint, notices);
                let claims = Claims::new(options(), Clock::System);
                drop(claims.hold(&host, &line).await.unwrap());
                let looking = async {
                    sleep(Duration::from_millis(look)).await;
                    assert!(claims.look(&host, &line).await, "it is free");
                };
                let giving_back = async {
                    sleep(Duration::from_millis(back)).await;
                    claims.tend(true).await;
                };
                tokio::join!(looking, giving_back);
                let case = format!("seed {seed}, look at {look}, given back at {back}");
                assert_eq!(fleet.claims(), BTreeMap::new(), "taken up again: {case}");
                assert_eq!(claims.others(), BTreeMap::new(), "another's: {case}");
            }
        }
    }
}

/// One that could not be given back, for its host did not answer, is found by the next look and given back then.
#[tokio::test(start_paused = true)]
async fn a_look_finds_one_that_was_left_behind() {
    let (fleet, actor) = moved().await;
    fleet.cut_client("one", "h1", true);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(fleet.claims().len(), 1, "{}", actor.picture());
    fleet.cut_client("one", "h1", false);
    actor
        .until("given back", 200, |_| fleet.claims().is_empty())
        .await;
}
