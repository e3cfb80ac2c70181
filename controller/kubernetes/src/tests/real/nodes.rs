//! Cordons of real Node objects. Nothing runs those nodes, which a cordon does not need.

use std::time::{Duration, Instant};

use evenkeel_crds::{
    Host, HostDrain, HostSpec,
    kinds::host::{DrainOn, NodeRef},
    reason::Reason,
    shared::LABEL_NODE,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::rig::{self, Rig, host_spec, unique, until};
use crate::{
    client, followed,
    nodes::{self, Nodes},
    session::Parts,
    writes::Writes,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_cordon_makes_a_drain_and_an_uncordon_deletes_it() {
    let rig = Rig::new().await;
    let mut parts = Parts::default();
    let rounds = watch::Sender::new(0);
    let following = followed::follow(
        Api::all(rig::client().await),
        Nodes(rig.stores.clone()),
        rig.stores.revision(),
        rounds.subscribe(),
    );
    parts.start("the watch of nodes", async {
        following.await;
        String::new()
    });
    let writes = Writes::new(rig.client.clone(), rig.guard());
    let keep = nodes::keep(writes, rig.stores.clone(), 0);
    parts.start("the drains of cordoned nodes", keep);

    let (host, node) = (unique("h"), unique("worker"));
    let drain = format!("node-{node}");
    let spec = HostSpec {
        node: Some(NodeRef {
            name: node.clone(),
            drain_on: [DrainOn::Cordon].into(),
        }),
        ..host_spec()
    };
    let says = async |reason: Reason| {
        let said = || {
            let words = rig.stores.wishes().nodes;
            words
                .get(&host)
                .is_some_and(|(_, cause)| cause.reason == reason)
        };
        rig.until(said).await;
    };
    client::create(&rig.client, Host::new(&host, spec))
        .await
        .unwrap();
    says(Reason::NodeNotFound).await;
    let nodes: Api<Node> = Api::all(rig.client.clone());
    let object = Node {
        metadata: ObjectMeta {
            name: Some(node.clone()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    nodes.create(&PostParams::default(), &object).await.unwrap();
    says(Reason::AsExpected).await;
    let cordon = async |cordoned: bool| {
        let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
        nodes
            .patch(&node, &PatchParams::default(), &patch)
            .await
            .unwrap();
        Instant::now()
    };
    let gone = async || {
        let gone = client::wait_until::<HostDrain>(&rig.client, &drain, |object| object.is_none());
        timeout(Duration::from_secs(20), gone)
            .await
            .unwrap()
            .unwrap();
    };
    for _ in 0..5 {
        let begun = cordon(true).await;
        let made: HostDrain = until(&rig.client, &drain, |_| true).await;
        println!("a drain {:?} after the cordon", begun.elapsed());
        assert_eq!(made.spec.hosts.names.as_deref(), Some(&[host.clone()][..]));
        assert_eq!(made.labels()[LABEL_NODE], node);
        assert_eq!(made.owner_references()[0].name, host);
        says(Reason::NodeCordoned).await;
        let begun = cordon(false).await;
        gone().await;
        println!("none {:?} after the uncordon", begun.elapsed());
        says(Reason::AsExpected).await;
    }
    // As the node ends, so does its drain.
    for number in 0..31 {
        cordon(number % 2 == 0).await;
    }
    sleep(Duration::from_secs(3)).await;
    client::get::<HostDrain>(&rig.client, &drain).await.unwrap();
    nodes.delete(&node, &DeleteParams::default()).await.unwrap();
    says(Reason::NodeNotFound).await;
    client::get::<HostDrain>(&rig.client, &drain).await.unwrap();
    // With its Host it goes, by us or by the garbage collector.
    client::delete::<Host>(&rig.client, &host).await.unwrap();
    gone().await;
}
