//! What can't be read, an API server that goes away, and who holds the lease.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_crds::{Guest, Host, HostStatus};
use evenkeel_engine::View;
use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;

use super::rig::{self, Rig, host_spec, unique, until};
use crate::{
    client,
    kinds::{Key, Kind},
    lease::{Contender, LeaseTimes},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn an_object_that_can_not_be_read_harms_no_other() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let rig = Rig::new().await;
    let (bad, good) = (unique("g"), unique("g"));
    // A newer version of the kind has a word that we do not know.
    let crds: Api<CustomResourceDefinition> = Api::all(rig.client.clone());
    let path =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/evacuation/enum/-";
    let patch =
        serde_json::from_value(json!([{"op": "add", "path": path, "value": "Later"}])).unwrap();
    crds.patch(
        "guests.evenkeel.dev",
        &PatchParams::default(),
        &Patch::Json::<()>(patch),
    )
    .await
    .unwrap();
    let guests: Api<kube::core::DynamicObject> = Api::all_with(
        rig.client.clone(),
        &kube::api::ApiResource::erase::<Guest>(&()),
    );
    let manifest = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "Guest", "metadata": {"name": bad},
        "spec": {"evacuation": "Later"}});
    let apply = PatchParams::apply("user");
    let begun = Instant::now();
    while let Err(error) = guests.patch(&bad, &apply, &Patch::Apply(&manifest)).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
        sleep(Duration::from_millis(200)).await;
    }
    client::create(
        &rig.client,
        Guest::new(&good, evenkeel_crds::GuestSpec::default()),
    )
    .await
    .unwrap();
    rig.until(|| rig.stores.find(&Key::new(Kind::Guest, &good)).is_some())
        .await;
    assert!(rig.stores.find(&Key::new(Kind::Guest, &bad)).is_none());
    // Relisting does no harm either.
    rig.anew();
    sleep(Duration::from_millis(500)).await;
    assert!(rig.stores.find(&Key::new(Kind::Guest, &good)).is_some());
    let listed = client::list::<Guest>(&rig.client).await.unwrap();
    assert!(listed.contains_key(&good) && !listed.contains_key(&bad));
    let events: Api<Event> = Api::namespaced(rig.client.clone(), "default");
    let params = ListParams::default().fields(&format!("regarding.name={bad}"));
    let event = events.list(&params).await.unwrap().items.pop().unwrap();
    println!("{}: {}", event.reason.unwrap(), event.note.unwrap());
    guests.delete(&bad, &Default::default()).await.unwrap();
    client::delete::<Guest>(&rig.client, &good).await.unwrap();
    rig::install(&rig.client).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn after_the_api_server_was_away_all_goes_on_within_seconds() {
    let rig = Rig::new().await;
    let name = unique("h");
    client::create(&rig.client, Host::new(&name, host_spec()))
        .await
        .unwrap();
    let show = |hostname: &str| {
        rig.show(View {
            hosts: [(
                name.as_str().into(),
                Arc::new(HostStatus {
                    hostname: Some(hostname.to_owned()),
                    ..HostStatus::default()
                }),
            )]
            .into(),
            ..View::default()
        });
    };
    show("before");
    let has = |hostname: &'static str| {
        move |host: &Host| {
            host.status
                .as_ref()
                .and_then(|status| status.hostname.as_deref())
                == Some(hostname)
        }
    };
    until(&rig.client, &name, has("before")).await;
    for (down, up, seconds) in [("kill", "start", 20), ("pause", "resume", 20)] {
        rig::cluster(&["api-server", down]).await;
        let during: &'static str = Box::leak(format!("while-{down}").into_boxed_str());
        show(during);
        sleep(Duration::from_secs(seconds)).await;
        rig::cluster(&["api-server", up]).await;
        let begun = Instant::now();
        until(&rig.client, &name, has(during)).await;
        let written = begun.elapsed();
        let other = unique("h");
        loop {
            match client::create(&rig.client, Host::new(&other, host_spec())).await {
                Ok(_) => break,
                Err(error) => println!("create: {error}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
        rig.until(|| rig.stores.find(&Key::new(Kind::Host, &other)).is_some())
            .await;
        println!(
            "{down} for {seconds} s: status written {written:?}, new object seen {:?} after it was ready",
            begun.elapsed()
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
        client::delete::<Host>(&rig.client, &other).await.unwrap();
    }
    client::delete::<Host>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn two_contenders_never_double_in_a_thousand_acquisitions() {
    let name = unique("lease");
    let (acting, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let begun = Instant::now();
    let contend = |who| tokio::spawn(contend(who, name.clone(), acting.clone(), count.clone()));
    let (a, b) = (contend("a"), contend("b"));
    a.await.unwrap();
    b.await.unwrap();
    let count = count.load(Ordering::SeqCst);
    println!(
        "{count} acquisitions, ten of them taken over by expiry, no double: {:?}",
        begun.elapsed()
    );
    let leases: Api<Lease> = Api::namespaced(rig::client().await, "default");
    let lease = leases.get(&name).await.unwrap();
    let transitions = lease.spec.unwrap().lease_transitions.unwrap();
    assert!(transitions >= 1000, "{transitions}");
    leases.delete(&name, &Default::default()).await.unwrap();
}

async fn contend(who: &str, name: String, acting: Arc<AtomicBool>, count: Arc<AtomicU32>) {
    let times = LeaseTimes {
        duration: Duration::from_secs(1),
        renew_within: Duration::from_millis(700),
        renew_every: Duration::from_millis(10),
        look_every: Duration::from_millis(4),
    };
    let client = rig::client().await;
    let contender = || Contender::new(client.clone(), "default", &name, who, times.clone());
    let mut me = contender();
    while count.load(Ordering::SeqCst) < 1000 {
        let held = me.acquire(|_| {}).await;
        assert!(!acting.swap(true, Ordering::SeqCst), "two hold it");
        let stay = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 64;
        sleep(Duration::from_millis(stay)).await;
        acting.store(false, Ordering::SeqCst);
        // Every hundredth dies with it.
        if count.fetch_add(1, Ordering::SeqCst) % 100 == 99 {
            me = contender();
        } else {
            me.release(held).await.unwrap();
        }
    }
}
