//! Moves: made, kept by their finalizer, and gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_crds::{GuestMigration, GuestMigrationSpec, MigrationPhase, shared::MOVE_FINALIZER};
use evenkeel_engine::View;
use kube::ResourceExt;
use tokio::time::sleep;

use super::rig::{Rig, unique, until};
use crate::{
    client,
    tests::make::{move_status, move_view},
};

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
    client::create_migration(&rig.client, &name, spec.clone())
        .await
        .unwrap();
    let begun = Instant::now();
    until(&rig.client, &name, |object: &GuestMigration| {
        object
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == MOVE_FINALIZER)
    })
    .await;
    println!("finalizer after {:?}", begun.elapsed());
    show(MigrationPhase::Copying);
    until(&rig.client, &name, |object: &GuestMigration| {
        phase(object) == MigrationPhase::Copying
    })
    .await;
    client::delete::<GuestMigration>(&rig.client, &name)
        .await
        .unwrap();
    sleep(Duration::from_secs(3)).await;
    let object = client::get::<GuestMigration>(&rig.client, &name)
        .await
        .unwrap();
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
    let last = tokio::time::timeout(Duration::from_secs(5), last_seen)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    println!("gone {:?} after its end was shown", begun.elapsed());
    assert_eq!(last, MigrationPhase::Aborted, "its end could be seen");

    // The same name again, while the engine still shows the end of the first one.
    client::create_migration(&rig.client, &name, spec)
        .await
        .unwrap();
    sleep(Duration::from_millis(1500)).await;
    let object = client::get::<GuestMigration>(&rig.client, &name)
        .await
        .unwrap();
    assert!(object.status.is_none(), "{:?}", object.status);
    // And deleted before the engine ever showed it.
    rig.show(View {
        settled: true,
        ..View::default()
    });
    client::delete::<GuestMigration>(&rig.client, &name)
        .await
        .unwrap();
    let gone = client::wait_until::<GuestMigration>(&rig.client, &name, |object| object.is_none());
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .unwrap()
        .unwrap();
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
    let made: GuestMigration = until(&rig.client, &name, |object: &GuestMigration| {
        phase(object) == MigrationPhase::Preparing
    })
    .await;
    println!(
        "a move with status {:?} after it was shown",
        begun.elapsed()
    );
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
    let object = client::get::<GuestMigration>(&rig.client, &name)
        .await
        .unwrap();
    assert_eq!(
        object.status.unwrap().progress,
        99,
        "the last one is not lost"
    );
    show(MigrationPhase::Succeeded);
    until(&rig.client, &name, |object: &GuestMigration| {
        phase(object).is_final()
    })
    .await;
    client::delete::<GuestMigration>(&rig.client, &name)
        .await
        .unwrap();
    let gone = client::wait_until::<GuestMigration>(&rig.client, &name, |object| object.is_none());
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .unwrap()
        .unwrap();
}

fn phase(object: &GuestMigration) -> MigrationPhase {
    object
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default()
}
