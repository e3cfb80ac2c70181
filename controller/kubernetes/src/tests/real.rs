//! Against a real API server. Run them one by one, with `KUBECONFIG` set, `EVENKEEL_CLUSTER` being the command of the
//! test cluster's tool, up to and with its id:
//!
//! ```text
//! target/debug/cluster --id kube up
//! KUBECONFIG=$(target/debug/cluster --id kube kubeconfig) EVENKEEL_CLUSTER="target/debug/cluster --id kube" \
//!     cargo test -p evenkeel-kubernetes -- --ignored --test-threads 1 --nocapture
//! ```

mod rig;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_crds::{
    Guest, GuestMigration, GuestMigrationSpec, GuestStatus, Host, HostDrain, HostStatus,
    MigrationPhase, reason::Reason, shared::MOVE_FINALIZER,
};
use evenkeel_engine::{Happening, View};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;

use self::rig::{Rig, host_spec, unique, until};
use super::make::{guest_view, host_status, move_status, move_view};
use crate::{
    client,
    error::Error,
    kinds::{Key, Kind, Wanted},
    lease::{Contender, LeaseTimes},
    writes::Writes,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn statuses_appear_and_equal_ones_are_not_written() {
    let rig = Rig::new().await;
    let name = unique("h");
    client::create(&rig.client, Host::new(&name, host_spec())).await.unwrap();
    let begun = Instant::now();
    let show = |status: HostStatus| {
        rig.show(View {
            hosts: [(name.as_str().into(), Arc::new(status))].into(),
            ..View::default()
        });
    };
    show(host_status(0, 1));
    let host: Host = until(&rig.client, &name, |host: &Host| host.status.is_some()).await;
    println!("status on a fresh object after {:?}", begun.elapsed());
    let manager = host.managed_fields().iter().find(|entry| entry.subresource.is_some());
    let manager = manager.unwrap();
    assert_eq!((manager.manager.as_deref(), manager.operation.as_deref()), (Some("evenkeel"), Some("Apply")));

    let mut latencies = Vec::new();
    for number in 0..20 {
        let hostname = format!("name-{number}");
        let begun = Instant::now();
        show(HostStatus {
            hostname: Some(hostname.clone()),
            ..host_status(0, 1)
        });
        until(&rig.client, &name, |host: &Host| {
            host.status.as_ref().and_then(|status| status.hostname.as_ref()) == Some(&hostname)
        })
        .await;
        latencies.push(begun.elapsed());
    }
    latencies.sort();
    println!("a change that matters is on the object after {:?} (p50), {:?} (worst of 20)", latencies[10], latencies[19]);

    let before = client::get::<Host>(&rig.client, &name).await.unwrap();
    for second in 0..30 {
        // Equal but for the time of observation, in a new place in memory.
        show(HostStatus {
            hostname: Some("name-19".to_owned()),
            ..host_status(second, 1)
        });
        sleep(Duration::from_millis(50)).await;
    }
    let after = client::get::<Host>(&rig.client, &name).await.unwrap();
    assert_eq!(before.resource_version(), after.resource_version());

    // Somebody else's hand in the status is put right.
    let meddle = json!({"status": {"hostname": "meddled"}});
    let hosts: Api<Host> = Api::all(rig.client.clone());
    hosts.patch_status(&name, &PatchParams::default(), &Patch::Merge(meddle)).await.unwrap();
    until(&rig.client, &name, |host: &Host| {
        host.status.as_ref().and_then(|status| status.hostname.as_deref()) == Some("name-19")
    })
    .await;
    client::delete::<Host>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_status_is_not_written_on_a_younger_object_of_the_same_name() {
    let rig = Rig::new().await;
    let name = unique("h");
    let host = client::create(&rig.client, Host::new(&name, host_spec())).await.unwrap();
    let writes = Writes::new(rig.client.clone(), rig.guard());
    let send = async |name: &str, uid: &str| {
        let errand = crate::desk::Errand {
            key: Key::new(Kind::Host, name),
            uid: uid.to_owned(),
            act: crate::desk::Act::Status(Wanted::Host(Arc::new(host_status(0, 1)))),
        };
        writes.send(&errand).await
    };
    let other = send(&name, "00000000-0000-4000-8000-000000000000").await;
    println!("with another uid: {other:?}");
    assert!(!matches!(other, crate::desk::Outcome::Status { .. }));
    assert!(client::get::<Host>(&rig.client, &name).await.unwrap().status.is_none());
    let right = send(&name, &host.uid().unwrap()).await;
    assert!(matches!(right, crate::desk::Outcome::Status { version, .. } if version > 0), "{right:?}");
    let missing = send(&unique("none"), &host.uid().unwrap()).await;
    assert!(matches!(missing, crate::desk::Outcome::Gone), "{missing:?}");
    client::delete::<Host>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn guests_are_made_for_domains_and_their_specs_stay_the_users() {
    let rig = Rig::new().await;
    let name = unique("g");
    let uuid = uuid::Uuid::new_v4().to_string();
    let status = GuestStatus {
        uuid: Some(uuid.clone()),
        domain: Some("Web 1".to_owned()),
        ..GuestStatus::default()
    };
    let view = || View {
        guests: [(name.as_str().into(), guest_view(false, Some(&uuid), status.clone()))].into(),
        ..View::default()
    };
    let begun = Instant::now();
    rig.show(view());
    let made: Guest = until(&rig.client, &name, |guest: &Guest| guest.status.is_some()).await;
    println!("a Guest with status {:?} after its domain was shown", begun.elapsed());
    assert_eq!((made.spec.uuid.as_ref(), made.spec.domain.as_deref()), (Some(&uuid), Some("Web 1")));
    assert_eq!(made.labels().get("app").map(String::as_str), Some("web"));

    // A user's own apply does not conflict, not even about fields that have defaults.
    let guests: Api<Guest> = Api::all(rig.client.clone());
    let users = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "Guest", "metadata": {"name": name, "labels": {"tier": "1"}},
        "spec": {"evacuation": "Never", "priority": 5}});
    guests.patch(&name, &PatchParams::apply("user"), &Patch::Apply(users)).await.unwrap();

    client::delete::<Guest>(&rig.client, &name).await.unwrap();
    let uid = made.uid();
    let again: Guest = until(&rig.client, &name, |guest: &Guest| guest.uid() != uid && guest.status.is_some()).await;
    assert_eq!(again.spec.uuid, Some(uuid));
    rig.show(View::default());
    client::delete::<Guest>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_move_made_by_a_user_is_kept_until_its_end() {
    let rig = Rig::new().await;
    let name = unique("m");
    let spec = GuestMigrationSpec {
        guest: "web-1".to_owned(),
        ..GuestMigrationSpec::default()
    };
    let show = |phase| {
        rig.show(View {
            settled: true,
            migrations: [(name.as_str().into(), move_view(true, move_status(phase)))].into(),
            ..View::default()
        });
    };
    client::create_migration(&rig.client, &name, spec.clone()).await.unwrap();
    let begun = Instant::now();
    until(&rig.client, &name, |object: &GuestMigration| {
        object.finalizers().iter().any(|finalizer| finalizer == MOVE_FINALIZER)
    })
    .await;
    println!("finalizer after {:?}", begun.elapsed());
    show(MigrationPhase::Copying);
    until(&rig.client, &name, |object: &GuestMigration| phase(object) == MigrationPhase::Copying).await;
    client::delete::<GuestMigration>(&rig.client, &name).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    let object = client::get::<GuestMigration>(&rig.client, &name).await.unwrap();
    assert!(object.metadata.deletion_timestamp.is_some());
    let (client, watched) = (rig.client.clone(), name.clone());
    let last_seen = tokio::spawn(async move {
        let mut last = MigrationPhase::Pending;
        let gone = client::wait_until::<GuestMigration>(&client, &watched, |object| {
            last = object.map_or(last, phase);
            object.is_none()
        });
        gone.await.map(|_| last)
    });
    sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    show(MigrationPhase::Aborted);
    let last = tokio::time::timeout(Duration::from_secs(5), last_seen).await.unwrap().unwrap().unwrap();
    println!("gone {:?} after its end was shown", begun.elapsed());
    assert_eq!(last, MigrationPhase::Aborted, "its end could be seen");

    // The same name again, while the engine still shows the end of the first one.
    client::create_migration(&rig.client, &name, spec).await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    let object = client::get::<GuestMigration>(&rig.client, &name).await.unwrap();
    assert!(object.status.is_none(), "{:?}", object.status);
    // And deleted before the engine ever showed it.
    rig.show(View {
        settled: true,
        ..View::default()
    });
    client::delete::<GuestMigration>(&rig.client, &name).await.unwrap();
    let gone = client::wait_until::<GuestMigration>(&rig.client, &name, |object| object.is_none());
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_move_for_a_wish_is_made_with_labels_and_finalizer() {
    let rig = Rig::new().await;
    let name = unique("m");
    let show = |phase| {
        rig.show(View {
            settled: true,
            migrations: [(name.as_str().into(), move_view(false, move_status(phase)))].into(),
            ..View::default()
        });
    };
    let begun = Instant::now();
    show(MigrationPhase::Preparing);
    let made: GuestMigration =
        until(&rig.client, &name, |object: &GuestMigration| phase(object) == MigrationPhase::Preparing).await;
    println!("a move with status {:?} after it was shown", begun.elapsed());
    assert_eq!(made.labels()["evenkeel.dev/wish-kind"], "HostDrain");
    assert_eq!(made.labels()["evenkeel.dev/wish-name"], "d");
    assert_eq!(made.finalizers(), [MOVE_FINALIZER]);
    // Progress keeps its pace: a hundred views in two seconds are few writes.
    let changes = Arc::new(AtomicU32::new(0));
    let (client, watched, counted) = (rig.client.clone(), name.clone(), changes.clone());
    let counting = tokio::spawn(async move {
        let _ = client::wait_until::<GuestMigration>(&client, &watched, |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        })
        .await;
    });
    for progress in 0..100 {
        let mut status = move_status(MigrationPhase::Preparing);
        status.progress = progress;
        rig.show(View {
            settled: true,
            migrations: [(name.as_str().into(), move_view(true, status))].into(),
            ..View::default()
        });
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(1500)).await;
    counting.abort();
    let writes = changes.load(Ordering::Relaxed) - 1;
    println!("100 views of progress in 2 s: {writes} writes");
    assert!((2..=4).contains(&writes), "{writes}");
    let object = client::get::<GuestMigration>(&rig.client, &name).await.unwrap();
    assert_eq!(object.status.unwrap().progress, 99, "the last one is not lost");
    show(MigrationPhase::Succeeded);
    until(&rig.client, &name, |object: &GuestMigration| phase(object).is_final()).await;
    client::delete::<GuestMigration>(&rig.client, &name).await.unwrap();
    let gone = client::wait_until::<GuestMigration>(&rig.client, &name, |object| object.is_none());
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn what_happens_becomes_an_event() {
    let rig = Rig::new().await;
    let name = unique("h");
    let happening = |message: String| Happening {
        kind: "Host",
        name: name.clone(),
        warning: true,
        reason: Reason::HostUnreachable,
        message,
        action: "Observe",
    };
    // Told before the object is there.
    rig.happen(happening(format!("no answer; {}", "ü".repeat(2000))));
    sleep(Duration::from_millis(500)).await;
    client::create(&rig.client, Host::new(&name, host_spec())).await.unwrap();
    let begun = Instant::now();
    let events: Api<Event> = Api::namespaced(rig.client.clone(), "default");
    let found = async |series: bool| loop {
        let params = ListParams::default().fields(&format!("regarding.name={name}"));
        let list = events.list(&params).await.unwrap();
        if let Some(event) = list.items.into_iter().find(|event| event.series.is_some() == series) {
            return event;
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(10)).await;
    };
    let event = found(false).await;
    println!("an Event {:?} after its object", begun.elapsed());
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.reason.as_deref(), Some("HostUnreachable"));
    assert_eq!(event.action.as_deref(), Some("Observe"));
    assert!(event.note.unwrap().len() <= 1024);
    rig.happen(happening("again".to_owned()));
    assert_eq!(found(true).await.series.unwrap().count, 2);
    client::delete::<Host>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn an_object_that_can_not_be_read_harms_no_other() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let rig = Rig::new().await;
    let (bad, good) = (unique("g"), unique("g"));
    // A newer version of the kind has a word that we do not know.
    let crds: Api<CustomResourceDefinition> = Api::all(rig.client.clone());
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/evacuation/enum/-";
    let patch = serde_json::from_value(json!([{"op": "add", "path": path, "value": "Later"}])).unwrap();
    crds.patch("guests.evenkeel.dev", &PatchParams::default(), &Patch::Json::<()>(patch)).await.unwrap();
    let guests: Api<kube::core::DynamicObject> =
        Api::all_with(rig.client.clone(), &kube::api::ApiResource::erase::<Guest>(&()));
    let manifest = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "Guest", "metadata": {"name": bad},
        "spec": {"evacuation": "Later"}});
    let apply = PatchParams::apply("user");
    let begun = Instant::now();
    while let Err(error) = guests.patch(&bad, &apply, &Patch::Apply(&manifest)).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
        sleep(Duration::from_millis(200)).await;
    }
    client::create(&rig.client, Guest::new(&good, evenkeel_crds::GuestSpec::default())).await.unwrap();
    rig.until(|| rig.stores.find(&Key::new(Kind::Guest, &good)).is_some()).await;
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
    client::create(&rig.client, Host::new(&name, host_spec())).await.unwrap();
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
        move |host: &Host| host.status.as_ref().and_then(|status| status.hostname.as_deref()) == Some(hostname)
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
        rig.until(|| rig.stores.find(&Key::new(Kind::Host, &other)).is_some()).await;
        println!("{down} for {seconds} s: status written {written:?}, new object seen {:?} after it was ready", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5));
        client::delete::<Host>(&rig.client, &other).await.unwrap();
    }
    client::delete::<Host>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn two_contenders_never_double_in_a_thousand_acquisitions() {
    let client = rig::client().await;
    let name = unique("lease");
    let (acting, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let times = LeaseTimes {
        duration: Duration::from_secs(1),
        renew_within: Duration::from_millis(700),
        renew_every: Duration::from_millis(10),
        look_every: Duration::from_millis(4),
    };
    let begun = Instant::now();
    let contend = async |who: &str| {
        let (client, name) = (rig::client().await, name.clone());
        let (acting, count, times) = (acting.clone(), count.clone(), times.clone());
        let who = who.to_owned();
        tokio::spawn(async move {
            let contender = || Contender::new(client.clone(), "default", &name, &who, times.clone());
            let mut me = contender();
            while count.load(Ordering::SeqCst) < 1000 {
                let held = me.acquire(|_| {}).await;
                assert!(!acting.swap(true, Ordering::SeqCst), "two hold it");
                sleep(Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 64)).await;
                acting.store(false, Ordering::SeqCst);
                // Every hundredth dies with it.
                if count.fetch_add(1, Ordering::SeqCst) % 100 == 99 {
                    me = contender();
                } else {
                    me.release(held).await.unwrap();
                }
            }
        })
    };
    let (a, b) = (contend("a").await, contend("b").await);
    a.await.unwrap();
    b.await.unwrap();
    println!("{} acquisitions, ten of them taken over by expiry, no double: {:?}", count.load(Ordering::SeqCst), begun.elapsed());
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client, "default");
    let lease = leases.get(&name).await.unwrap();
    let transitions = lease.spec.unwrap().lease_transitions.unwrap();
    assert!(transitions >= 1000, "{transitions}");
    leases.delete(&name, &Default::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn two_thousand_guests() {
    let rig = Rig::new().await;
    let prefix = unique("many");
    let guests = (0..2000).map(|number| {
        let uuid = uuid::Uuid::new_v4().to_string();
        let status = GuestStatus {
            uuid: Some(uuid.clone()),
            host: Some("h1".to_owned()),
            ..GuestStatus::default()
        };
        (format!("{prefix}-{number}").as_str().into(), guest_view(false, Some(&uuid), status))
    });
    let begun = Instant::now();
    rig.show(View {
        guests: guests.collect(),
        ..View::default()
    });
    let done = || {
        let all = rig.stores.subscribe().0;
        let ready = all.iter().filter(|object| object.key().name.starts_with(&prefix) && !object.status().is_null());
        ready.count() == 2000
    };
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(120));
        sleep(Duration::from_millis(200)).await;
    }
    println!("2000 Guests made and given a status in {:?}", begun.elapsed());
    rig.show(View::default());
    let guests: Api<Guest> = Api::all(rig.client.clone());
    guests.delete_collection(&Default::default(), &Default::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn errors_are_sentences() {
    let client = rig::client().await;
    rig::install(&client).await;
    let missing = client::get::<HostDrain>(&client, "none").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    let wrong = client::create_drain(&client, "wrong", evenkeel_crds::HostDrainSpec::default()).await.unwrap_err();
    println!("{missing}\n{wrong}");
    assert!(matches!(&wrong, Error::Invalid(text) if text.contains("names")), "{wrong:?}");
    let name = unique("h");
    client::create(&client, Host::new(&name, host_spec())).await.unwrap();
    let twice = client::create(&client, Host::new(&name, host_spec())).await.unwrap_err();
    assert!(matches!(twice, Error::AlreadyExists(_)), "{twice:?}");
    let unknown = client::patch_spec::<Host>(&client, &name, json!({"colour": "red"})).await.unwrap_err();
    println!("{twice}\n{unknown}");
    assert!(matches!(unknown, Error::Invalid(_)), "{unknown:?}");
    assert!(client::delete::<Host>(&client, &name).await.unwrap());
    assert!(!client::delete::<Host>(&client, &name).await.unwrap());
}

fn phase(object: &GuestMigration) -> MigrationPhase {
    object.status.as_ref().map(|status| status.phase).unwrap_or_default()
}
