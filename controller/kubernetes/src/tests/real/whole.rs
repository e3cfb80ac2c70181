//! The whole controller by its one public entry, with hosts that never answer.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_crds::{
    GuestMigration, GuestMigrationSpec, Host, HostDrain, HostDrainSpec, manifests, names::HostName,
    shared::Picker,
};
use evenkeel_engine::port::{Endpoint, Hypervisor, Hypervisors, Notice};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        events::v1::Event,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    rig::{self, host_spec, unique, until},
    silent::Silent,
};
use crate::{Error, LeaseTimes, Settings, client};

struct SilentHosts;

impl Hypervisors for SilentHosts {
    fn attach(
        &self,
        _: &HostName,
        _: &Endpoint,
        _: mpsc::UnboundedSender<Notice>,
    ) -> Arc<dyn Hypervisor> {
        Arc::new(Silent)
    }
}

struct Replica {
    task: JoinHandle<Result<(), Error>>,
    stop: oneshot::Sender<()>,
}

fn replica(identity: &str, lease: &str, health: Option<SocketAddr>) -> Replica {
    let settings = Settings {
        lease_namespace: Some("default".to_owned()),
        lease_name: lease.to_owned(),
        lease_times: LeaseTimes::default(),
        identity: identity.to_owned(),
        health,
        ..Settings::default()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(crate::run(settings, Arc::new(SilentHosts), async {
        let _ = stopped.await;
    }));
    Replica { task, stop }
}

async fn probe(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn holder(leases: &Api<Lease>, name: &str) -> (String, i32) {
    let spec: LeaseSpec = match leases.get_opt(name).await.unwrap() {
        Some(lease) => lease.spec.unwrap(),
        None => LeaseSpec::default(),
    };
    (
        spec.holder_identity.unwrap_or_default(),
        spec.lease_transitions.unwrap_or(0),
    )
}

async fn held_by(leases: &Api<Lease>, name: &str, who: &str) -> Duration {
    let begun = Instant::now();
    while !holder(leases, name).await.0.starts_with(who) {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{who} never got it"
        );
        sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn it_waits_for_the_kinds_and_hands_over() {
    let client = rig::client().await;
    rig::install(&client).await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, crd) in manifests::all() {
        crds.delete(&crd.metadata.name.unwrap(), &DeleteParams::default())
            .await
            .unwrap();
    }
    while client::list::<Host>(&client).await.is_ok() {
        sleep(Duration::from_millis(100)).await;
    }
    println!("{}", client::list::<Host>(&client).await.unwrap_err());
    let lease = unique("lease");
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let address = "127.0.0.1:18086".parse().unwrap();
    let first = replica("first", &lease, Some(address));
    sleep(Duration::from_secs(2)).await;
    assert!(probe(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let unready = probe(address, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
    assert!(probe(address, "/else").await.starts_with("HTTP/1.1 404"));

    rig::install(&client).await;
    println!(
        "leading {:?} after the kinds were there",
        held_by(&leases, &lease, "first_").await
    );
    assert!(probe(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    // Between the lease and the engine lies one look at everything.
    let leads = async {
        while !probe(address, "/healthz").await.ends_with("leading\n") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), leads).await.unwrap();
    let host = unique("h");
    client::create(&client, Host::new(&host, host_spec()))
        .await
        .unwrap();
    let begun = Instant::now();
    let shown: Host = until(&client, &host, |host: &Host| {
        host.status
            .as_ref()
            .is_some_and(|status| !status.conditions.is_empty())
    })
    .await;
    println!(
        "a new Host has conditions {:?} after it was made",
        begun.elapsed()
    );
    assert_eq!(shown.status.unwrap().observed_generation, Some(1));

    let second = replica("second", &lease, None);
    sleep(Duration::from_secs(5)).await;
    assert!(
        holder(&leases, &lease).await.0.starts_with("first_"),
        "it is renewed"
    );
    let (_, before) = holder(&leases, &lease).await;
    first.stop.send(()).unwrap();
    let begun = Instant::now();
    timeout(Duration::from_secs(5), first.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    println!("a stop takes {:?}", begun.elapsed());
    held_by(&leases, &lease, "second_").await;
    println!("taken over {:?} after the stop", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(holder(&leases, &lease).await.1 > before, "the epoch rises");

    let third = replica("third", &lease, None);
    sleep(Duration::from_secs(2)).await;
    second.task.abort();
    println!(
        "taken over {:?} after a crash",
        held_by(&leases, &lease, "third_").await
    );
    client::delete::<Host>(&client, &host).await.unwrap();
    third.stop.send(()).unwrap();
    third.task.await.unwrap().unwrap();
    assert_eq!(holder(&leases, &lease).await.0, "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_silent_api_server_costs_the_lease_and_no_more() {
    let client = rig::client().await;
    rig::install(&client).await;
    let lease = unique("lease");
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let one = replica("one", &lease, None);
    held_by(&leases, &lease, "one_").await;
    let (_, before) = holder(&leases, &lease).await;
    rig::cluster(&["api-server", "pause"]).await;
    sleep(Duration::from_secs(14)).await;
    rig::cluster(&["api-server", "resume"]).await;
    let begun = Instant::now();
    while holder(&leases, &lease).await.1 == before {
        assert!(begun.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(50)).await;
    }
    println!(
        "leading again {:?} after the API server answers",
        begun.elapsed()
    );
    let host = unique("h");
    client::create(&client, Host::new(&host, host_spec()))
        .await
        .unwrap();
    until(&client, &host, |host: &Host| host.status.is_some()).await;
    println!("and a new Host has a status {:?} after", begun.elapsed());
    client::delete::<Host>(&client, &host).await.unwrap();
    one.stop.send(()).unwrap();
    one.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_move_and_a_drain_that_can_not_be_say_why_and_go_when_deleted() {
    let client = rig::client().await;
    rig::install(&client).await;
    let lease = unique("lease");
    let one = replica("one", &lease, None);
    let (name, drain) = (unique("m"), unique("d"));
    let begun = Instant::now();
    let spec = GuestMigrationSpec {
        guest: "nobody".to_owned(),
        ..GuestMigrationSpec::default()
    };
    client::create_migration(&client, &name, spec)
        .await
        .unwrap();
    let spec = HostDrainSpec {
        hosts: Picker {
            names: Some(vec!["nowhere".to_owned()]),
            selector: None,
        },
        parallel: 1,
        ..HostDrainSpec::default()
    };
    client::create_drain(&client, &drain, spec).await.unwrap();
    let told: GuestMigration = until(&client, &name, |object: &GuestMigration| {
        object
            .status
            .as_ref()
            .is_some_and(|status| !status.conditions.is_empty())
            && object.metadata.finalizers.is_some()
    })
    .await;
    println!(
        "a move says {:?} after {:?}",
        conditions(&told.status.unwrap().conditions),
        begun.elapsed()
    );
    let told: HostDrain = until(&client, &drain, |object: &HostDrain| {
        object
            .status
            .as_ref()
            .is_some_and(|status| !status.conditions.is_empty())
    })
    .await;
    println!(
        "a drain says {:?}",
        conditions(&told.status.unwrap().conditions)
    );
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    for of in [&name, &drain] {
        let params = ListParams::default().fields(&format!("regarding.name={of}"));
        let event = loop {
            if let Some(event) = events.list(&params).await.unwrap().items.pop() {
                break event;
            }
            assert!(begun.elapsed() < Duration::from_secs(10));
            sleep(Duration::from_millis(20)).await;
        };
        println!(
            "an Event {:?}: {}: {}",
            begun.elapsed(),
            event.reason.unwrap(),
            event.note.unwrap()
        );
    }
    // Nothing changes, so nothing is written.
    sleep(Duration::from_secs(2)).await;
    let versions = async || {
        let moving = client::get::<GuestMigration>(&client, &name).await.unwrap();
        let drain = client::get::<HostDrain>(&client, &drain).await.unwrap();
        (
            moving.metadata.resource_version,
            drain.metadata.resource_version,
        )
    };
    let before = versions().await;
    sleep(Duration::from_secs(8)).await;
    assert_eq!(before, versions().await);

    let begun = Instant::now();
    client::delete::<HostDrain>(&client, &drain).await.unwrap();
    client::delete::<GuestMigration>(&client, &name)
        .await
        .unwrap();
    let gone = client::wait_until::<GuestMigration>(&client, &name, |object| object.is_none());
    timeout(Duration::from_secs(5), gone)
        .await
        .unwrap()
        .unwrap();
    println!("gone {:?} after its deletion", begun.elapsed());
    one.stop.send(()).unwrap();
    one.task.await.unwrap().unwrap();
}

fn conditions(conditions: &[Condition]) -> Vec<String> {
    let words = conditions.iter();
    words
        .map(|one| format!("{}={} {}", one.type_, one.status, one.reason))
        .collect()
}
