//! What a Host says of its Kubernetes node, as a front end has it; and without a cluster, that nobody sees one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use evenkeel_crds::{
    kinds::host::{DrainOn, NodeRef},
    reason::{Cause, Reason},
    shared::Answer,
};
use evenkeel_hypervisor::sim::{GuestPlan, HostPlan};
use support::*;

/// Two hosts, guests on h1, which a cordon of its node drains.
async fn start(seed: u64, role: &Role) -> Actor {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    fleet.add_guest("h1", &GuestPlan::new("g1"));
    desk.change_host("h1", |spec| {
        spec.node = Some(NodeRef {
            name: "worker-1".to_owned(),
            drain_on: [DrainOn::Cordon].into(),
        });
    });
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    actor
}

fn says(actor: &Actor) -> Option<(String, String)> {
    let condition = actor.condition("Host", "h1", "NodeFollowed")?;
    Some((condition.status, condition.reason))
}

fn word(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn no_cluster() {
    let actor = start(1, &Role::new("apply").files()).await;
    actor.says("Host", "h1", "NoCluster", 5).await;
    assert_eq!(says(&actor), word("False", "NoCluster"));
    assert_eq!(actor.condition("Host", "h2", "NodeFollowed"), None);
    // In nobody's way: the same manifests serve in a cluster.
    assert!(actor.view().problems.is_empty(), "{}", actor.picture());
    let ready = actor.condition("Host", "h1", "Ready").unwrap();
    assert_eq!(ready.status, "True");
    actor.desk.change_host("h1", |spec| spec.node = None);
    actor
        .until("it is gone", 5, |_| says(&actor).is_none())
        .await;
    actor.quiet(120).await;
}

#[tokio::test(start_paused = true)]
async fn node_cordoned() {
    let actor = start(2, &Role::new("controller").cluster()).await;
    assert_eq!(says(&actor), word("Unknown", "InProgress"));
    let hear = |answer: Answer, reason: Reason| {
        let heard = (answer, Cause::new(reason, "node worker-1 is as it is"));
        actor
            .desk
            .change(|wishes| drop(wishes.nodes.insert("h1".to_owned(), heard)));
    };
    hear(Answer::True, Reason::AsExpected);
    let open = word("True", "AsExpected");
    actor
        .until("it is followed", 5, |_| says(&actor) == open)
        .await;
    assert!(!actor.heard("Host", "h1", "AsExpected"), "that is no news");
    hear(Answer::True, Reason::NodeCordoned);
    actor.says("Host", "h1", "NodeCordoned", 5).await;
    assert_eq!(says(&actor), word("True", "NodeCordoned"));
    hear(Answer::False, Reason::DrainNameTaken);
    actor.says("Host", "h1", "DrainNameTaken", 5).await;
    hear(Answer::True, Reason::AsExpected);
    actor.says("Host", "h1", "AsExpected", 5).await;
    // The Host's own story goes on beside it, and neither makes the other news again.
    actor.quiet(120).await;
    let told = actor.told.lock().unwrap();
    let of_host = told
        .iter()
        .filter(|(_, one)| (one.kind, one.name.as_str()) == ("Host", "h1"));
    let reasons: Vec<&str> = of_host.map(|(_, one)| one.reason.as_str()).collect();
    assert_eq!(reasons, ["NodeCordoned", "DrainNameTaken", "AsExpected"]);
}
