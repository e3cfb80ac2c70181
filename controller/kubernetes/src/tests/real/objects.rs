//! Statuses, Guests and Events.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_crds::{
    Guest, GuestStatus, Host, HostDrain, HostDrainSpec, HostDrainStatus, HostStatus,
    MigrationProfile, MigrationProfileSpec, MigrationProfileStatus, reason::Reason, shared::Picker,
};
use evenkeel_engine::{Happening, View};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;

use super::rig::{self, Rig, host_spec, unique, until};
use crate::{
    client,
    desk::{Act, Errand, Outcome},
    error::Error,
    kinds::{Key, Kind, Object, Wanted},
    tests::make::{guest_view, host_status},
    writes::{Courier, Writes},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn statuses_appear_and_equal_ones_are_not_written() {
    let rig = Rig::new().await;
    let name = unique("h");
    client::create(&rig.client, Host::new(&name, host_spec()))
        .await
        .unwrap();
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
    let manager = host
        .managed_fields()
        .iter()
        .find(|entry| entry.subresource.is_some());
    let manager = manager.unwrap();
    assert_eq!(
        (manager.manager.as_deref(), manager.operation.as_deref()),
        (Some("evenkeel"), Some("Apply"))
    );

    let mut latencies = Vec::new();
    for number in 0..20 {
        let hostname = format!("name-{number}");
        let begun = Instant::now();
        show(HostStatus {
            hostname: Some(hostname.clone()),
            ..host_status(0, 1)
        });
        until(&rig.client, &name, |host: &Host| {
            host.status
                .as_ref()
                .and_then(|status| status.hostname.as_ref())
                == Some(&hostname)
        })
        .await;
        latencies.push(begun.elapsed());
    }
    latencies.sort();
    println!(
        "a change that matters is on the object after {:?} (p50), {:?} (worst of 20)",
        latencies[10], latencies[19]
    );

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
    hosts
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(meddle))
        .await
        .unwrap();
    until(&rig.client, &name, |host: &Host| {
        host.status
            .as_ref()
            .and_then(|status| status.hostname.as_deref())
            == Some("name-19")
    })
    .await;
    client::delete::<Host>(&rig.client, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_status_is_not_written_on_a_younger_object_of_the_same_name() {
    let rig = Rig::new().await;
    let name = unique("d");
    let spec = HostDrainSpec {
        hosts: Picker {
            names: Some(vec!["none".to_owned()]),
            selector: None,
        },
        parallel: 1,
        ..HostDrainSpec::default()
    };
    let old = client::create_drain(&rig.client, &name, spec.clone())
        .await
        .unwrap();
    let writes = Writes::new(rig.client.clone(), rig.guard());
    let send = async |name: &str, uid: &str, version: u64| {
        let errand = Errand {
            key: Key::new(Kind::Drain, name),
            uid: uid.to_owned(),
            version,
            act: Act::Status(Wanted::Drain(Arc::new(HostDrainStatus {
                progress: 7,
                ..HostDrainStatus::default()
            }))),
        };
        writes.send(&errand).await
    };
    let old = Object::Drain(Arc::new(old));
    client::delete::<HostDrain>(&rig.client, &name)
        .await
        .unwrap();
    let gone = send(&name, old.uid(), old.version()).await;
    assert!(matches!(gone, Outcome::Gone), "{gone:?}");
    let new = client::create_drain(&rig.client, &name, spec)
        .await
        .unwrap();
    let new = Object::Drain(Arc::new(new));
    let other = send(&name, old.uid(), old.version()).await;
    assert!(matches!(other, Outcome::Gone), "{other:?}");
    let drain = client::get::<HostDrain>(&rig.client, &name).await.unwrap();
    assert!(drain.status.is_none());
    // The same object in an older version, as when the watch is behind, is no obstacle.
    let behind = send(&name, new.uid(), old.version()).await;
    assert!(
        matches!(behind, Outcome::Status { version, .. } if version > new.version()),
        "{behind:?}"
    );
    client::delete::<HostDrain>(&rig.client, &name)
        .await
        .unwrap();
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
        guests: [(
            name.as_str().into(),
            guest_view(false, Some(&uuid), status.clone()),
        )]
        .into(),
        ..View::default()
    };
    let begun = Instant::now();
    rig.show(view());
    let made: Guest = until(&rig.client, &name, |guest: &Guest| guest.status.is_some()).await;
    println!(
        "a Guest with status {:?} after its domain was shown",
        begun.elapsed()
    );
    assert_eq!(
        (made.spec.uuid.as_ref(), made.spec.domain.as_deref()),
        (Some(&uuid), Some("Web 1"))
    );
    assert_eq!(made.labels().get("app").map(String::as_str), Some("web"));

    // A user's own apply does not conflict, not even about fields that have defaults.
    let guests: Api<Guest> = Api::all(rig.client.clone());
    let users = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "Guest", "metadata": {"name": name, "labels": {"tier": "1"}},
        "spec": {"evacuation": "Never", "priority": 5}});
    guests
        .patch(&name, &PatchParams::apply("user"), &Patch::Apply(users))
        .await
        .unwrap();

    client::delete::<Guest>(&rig.client, &name).await.unwrap();
    let uid = made.uid();
    let again: Guest = until(&rig.client, &name, |guest: &Guest| {
        guest.uid() != uid && guest.status.is_some()
    })
    .await;
    assert_eq!(again.spec.uuid, Some(uuid));
    rig.show(View::default());
    client::delete::<Guest>(&rig.client, &name).await.unwrap();
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
    client::create(&rig.client, Host::new(&name, host_spec()))
        .await
        .unwrap();
    let begun = Instant::now();
    let events: Api<Event> = Api::namespaced(rig.client.clone(), "default");
    let found = async |series: bool| loop {
        let params = ListParams::default().fields(&format!("regarding.name={name}"));
        let list = events.list(&params).await.unwrap();
        if let Some(event) = list
            .items
            .into_iter()
            .find(|event| event.series.is_some() == series)
        {
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
async fn two_thousand_guests_and_a_host_between_them() {
    let rig = Rig::new().await;
    let prefix = unique("many");
    let guests = (0..2000).map(|number| {
        let uuid = uuid::Uuid::new_v4().to_string();
        let status = GuestStatus {
            uuid: Some(uuid.clone()),
            host: Some("h1".to_owned()),
            ..GuestStatus::default()
        };
        (
            format!("{prefix}-{number}").as_str().into(),
            guest_view(false, Some(&uuid), status),
        )
    });
    let host = unique("h");
    client::create(&rig.client, Host::new(&host, host_spec()))
        .await
        .unwrap();
    let begun = Instant::now();
    let mut view = View {
        guests: guests.collect(),
        ..View::default()
    };
    rig.show(view.clone());
    sleep(Duration::from_millis(500)).await;
    view.hosts
        .insert(host.as_str().into(), Arc::new(host_status(0, 1)));
    rig.show(view);
    let urgent = Instant::now();
    until(&rig.client, &host, |host: &Host| host.status.is_some()).await;
    println!(
        "a host's status amid thousands of new guests: {:?}",
        urgent.elapsed()
    );
    let done = || {
        let all = rig.stores.subscribe().0;
        let ready = all
            .iter()
            .filter(|object| object.key().name.starts_with(&prefix) && !object.status().is_null());
        ready.count() == 2000
    };
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(120));
        sleep(Duration::from_millis(200)).await;
    }
    println!(
        "2000 Guests made and given a status in {:?}",
        begun.elapsed()
    );
    rig.show(View::default());
    let guests: Api<Guest> = Api::all(rig.client.clone());
    guests
        .delete_collection(&Default::default(), &Default::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn errors_are_sentences() {
    let client = rig::client().await;
    rig::install(&client).await;
    let missing = client::get::<HostDrain>(&client, "none").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    let wrong = client::create_drain(&client, "wrong", evenkeel_crds::HostDrainSpec::default())
        .await
        .unwrap_err();
    println!("{missing}\n{wrong}");
    assert!(
        matches!(&wrong, Error::Invalid(text) if text.contains("names")),
        "{wrong:?}"
    );
    let name = unique("h");
    client::create(&client, Host::new(&name, host_spec()))
        .await
        .unwrap();
    let twice = client::create(&client, Host::new(&name, host_spec()))
        .await
        .unwrap_err();
    assert!(matches!(twice, Error::AlreadyExists(_)), "{twice:?}");
    let unknown = client::patch_spec::<Host>(&client, &name, json!({"colour": "red"}))
        .await
        .unwrap_err();
    println!("{twice}\n{unknown}");
    assert!(matches!(unknown, Error::Invalid(_)), "{unknown:?}");
    assert!(client::delete::<Host>(&client, &name).await.unwrap());
    assert!(!client::delete::<Host>(&client, &name).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_profile_has_its_defaults_its_status_and_its_rules() {
    let rig = Rig::new().await;
    let name = unique("p");
    let profiles: Api<MigrationProfile> = Api::all(rig.client.clone());
    let body = |spec: serde_json::Value| {
        let text = json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "MigrationProfile",
            "metadata": {"name": name}, "spec": spec,
        });
        serde_json::from_value::<kube::core::DynamicObject>(text).unwrap()
    };
    let resource = kube::core::ApiResource::erase::<MigrationProfile>(&());
    let plain: Api<kube::core::DynamicObject> = Api::all_with(rig.client.clone(), &resource);
    for spec in [
        json!({"downtime": "0s"}),
        json!({"downtime": "3000s"}),
        json!({"budget": {"perGiB": "0s"}}),
        json!({"bandwidth": "500k"}),
        json!({"convergence": ["PostCopy", "PostCopy"]}),
        json!({"connections": 0}),
    ] {
        let refused = plain.create(&Default::default(), &body(spec.clone())).await;
        assert!(refused.is_err(), "{spec} was taken");
    }
    plain
        .create(&Default::default(), &body(json!({"bandwidth": "200M"})))
        .await
        .unwrap();
    let made = profiles.get(&name).await.unwrap();
    let wanted = MigrationProfileSpec {
        bandwidth: Some("200M".parse().unwrap()),
        ..MigrationProfileSpec::default()
    };
    assert_eq!(made.spec, wanted);
    rig.show(View {
        profiles: [(
            name.as_str().into(),
            Arc::new(MigrationProfileStatus {
                guests: 3,
                ..MigrationProfileStatus::default()
            }),
        )]
        .into(),
        ..View::default()
    });
    until(&rig.client, &name, |profile: &MigrationProfile| {
        profile.status.as_ref().map(|status| status.guests) == Some(3)
    })
    .await;
    client::delete::<MigrationProfile>(&rig.client, &name)
        .await
        .unwrap();
}
