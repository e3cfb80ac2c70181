//! Migrations.

use std::time::{Duration, Instant};

use evenkeel_crds::{kinds::profile::Compression, quantity::Bytes};
use evenkeel_engine::port::*;
use uuid::Uuid;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn a_guest_moves_and_comes_back_thin() {
    let (mut one, mut two) = both();
    one.facts().await;
    two.facts().await;
    let uris = uris();
    for round in 0..2 {
        let (from, to, domain) = place(&one, &two, |domain| {
            domain.disks.iter().any(|disk| disk.is_copied())
        })
        .await;
        let target_uri = if std::ptr::eq(to, &one) {
            &uris[0]
        } else {
            &uris[1]
        };
        let uuid = domain.uuid;
        let mut disks = Vec::new();
        for disk in domain.disks.iter().filter(|disk| disk.is_copied()) {
            let volume = NewVolume {
                pool: disk.pool.clone().unwrap(),
                name: format!("moved-{round}-{}-{}", domain.name, disk.target),
                format: disk.format.clone(),
                capacity: disk.virtual_size,
                backing: None,
                secret: None,
            };
            let path = to.handle.create_volume(&volume).await.unwrap();
            disks.push(placed(&disk.target, &volume, path));
        }
        let mark = Mark {
            id: Uuid::new_v4(),
            source: "a".into(),
            target: "b".into(),
            migration: "m".into(),
        };
        from.handle.set_mark(uuid, Some(&mark)).await.unwrap();
        let request = MigrateRequest {
            domain: uuid,
            target_uri: target_uri.clone(),
            target_address: None,
            encrypted: encrypted(),
            disks: disks.clone(),
            mark: mark.clone(),
            bandwidth: Some(Bytes(40 << 20)),
            downtime: Duration::from_millis(300),
            auto_converge: true,
            compression: Compression::None,
            connections: 1,
            paused: false,
            post_copy: false,
            direct: None,
            incremental: false,
        };
        let begun = Instant::now();
        let moving = from.handle.migrate(&request);
        let watching = async {
            let mut seen = Vec::new();
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let asked = Instant::now();
                match from.handle.job(uuid).await {
                    Ok(Some(job)) => seen.push(job),
                    Ok(None) if !seen.is_empty() => break,
                    Ok(None) => {}
                    Err(error) => eprintln!("job: {error:?} after {:?}", asked.elapsed()),
                }
                if asked.elapsed() > Duration::from_secs(1) {
                    eprintln!("job took {:?}", asked.elapsed());
                }
                if seen.len() == 5 {
                    let busy = timed("look while moving", from.handle.look(uuid))
                        .await
                        .unwrap()
                        .unwrap();
                    assert!(busy.job && !busy.block_job, "{busy:?}");
                    let incoming = timed("look at the target", to.handle.look(uuid))
                        .await
                        .unwrap();
                    eprintln!(
                        "{:?}",
                        incoming.map(|facts| (
                            facts.activity,
                            facts.why,
                            facts.persistent,
                            facts.mark
                        ))
                    );
                    timed("observe at the target", to.handle.observe())
                        .await
                        .unwrap();
                }
                if begun.elapsed() > Duration::from_secs(60) {
                    break;
                }
            }
            seen
        };
        let (moved, jobs) = tokio::join!(moving, watching);
        moved.unwrap();
        eprintln!(
            "migrate took {:?}; {} job facts, last with memory {:?}",
            begun.elapsed(),
            jobs.len(),
            jobs.iter().rev().find(|job| job.memory_total.0 > 0)
        );
        assert!(
            jobs.iter()
                .any(|job| job.disk_total.0 > 0 && job.memory_total.0 == 0)
        );
        let there = to.handle.look(uuid).await.unwrap().unwrap();
        assert_eq!(
            (there.activity, there.why, there.persistent),
            (Activity::Running, Why::Migrated, true)
        );
        assert_eq!(there.mark, Some(mark));
        assert_eq!(there.obstacles, []);
        assert_eq!(from.handle.look(uuid).await.unwrap(), None);
        let completed = timed("completed", to.handle.completed(uuid))
            .await
            .unwrap()
            .unwrap();
        eprintln!("{completed:?}");
        assert!(completed.downtime.is_some() && completed.bytes > Bytes(1 << 20));
        assert!(to.handle.completed(uuid).await.unwrap().is_some());
        for (before, after) in domain.disks.iter().zip(&there.disks) {
            let ratio = after.allocated.0 as f64 / before.chain_allocated().0 as f64;
            eprintln!(
                "{} {}: {} -> {} ({ratio:.3})",
                before.target,
                before.format,
                before.chain_allocated(),
                after.allocated
            );
            assert!(ratio < 1.05, "{} {}", before.target, ratio);
            assert_eq!(after.backing, Vec::new());
        }
        for disk in &domain.disks {
            if disk.is_copied() {
                from.handle
                    .delete_volume(disk.path.as_deref().unwrap())
                    .await
                    .unwrap();
            }
        }
        to.handle
            .set_last_move(
                uuid,
                &LastMove {
                    time: "t".into(),
                    from: "a".into(),
                    by: "test".into(),
                    onward: None,
                },
            )
            .await
            .unwrap();
        let (source, target) = if target_uri == &uris[1] {
            (&mut one, &mut two)
        } else {
            (&mut two, &mut one)
        };
        let at_source = drain(source, uuid);
        let at_target = drain(target, uuid);
        eprintln!("source {at_source:?}\ntarget {at_target:?}");
        for event in [
            DomainEvent::SuspendedForSwitch,
            DomainEvent::StoppedMigrated,
            DomainEvent::JobCompleted,
        ] {
            assert!(at_source.contains(&event), "{event:?}");
        }
        for event in [
            DomainEvent::IncomingStarted,
            DomainEvent::Defined,
            DomainEvent::ResumedMigrated,
        ] {
            assert!(at_target.contains(&event), "{event:?}");
        }
    }
}

/// Moves every guest there and back, `EVENKEEL_TEST_MOVES` times in all, and has the lab check each one after each move.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn many_moves() {
    let Ok(moves) = std::env::var("EVENKEEL_TEST_MOVES") else {
        return;
    };
    let auto_converge = std::env::var("EVENKEEL_TEST_CONVERGE").is_ok();
    let bandwidth = std::env::var("EVENKEEL_TEST_BANDWIDTH")
        .ok()
        .map(|text| text.parse().unwrap());
    let (one, two) = both();
    let uris = uris();
    let mut broken = Vec::new();
    let names: Vec<(Uuid, String)> = {
        let mut names = Vec::new();
        for host in [&one, &two] {
            let facts = host.handle.observe().await.unwrap();
            names.extend(
                facts
                    .domains
                    .into_iter()
                    .map(|domain| (domain.uuid, domain.name)),
            );
        }
        names
    };
    for round in 0..moves.parse::<usize>().unwrap() {
        let (uuid, name) = &names[round % names.len()];
        if broken.contains(name) {
            continue;
        }
        let (from, to, domain) = place(&one, &two, |domain| domain.uuid == *uuid).await;
        let mut disks = Vec::new();
        for disk in domain.disks.iter().filter(|disk| disk.is_copied()) {
            let volume = NewVolume {
                pool: disk.pool.clone().unwrap(),
                name: format!("m{round}-{name}-{}", disk.target),
                format: disk.format.clone(),
                capacity: disk.virtual_size,
                backing: None,
                secret: None,
            };
            let path = to.handle.create_volume(&volume).await.unwrap();
            disks.push(placed(&disk.target, &volume, path));
        }
        let request = MigrateRequest {
            domain: *uuid,
            target_uri: if std::ptr::eq(to, &one) {
                uris[0].clone()
            } else {
                uris[1].clone()
            },
            target_address: None,
            encrypted: encrypted(),
            disks,
            mark: Mark {
                id: Uuid::new_v4(),
                source: "a".into(),
                target: "b".into(),
                migration: "m".into(),
            },
            bandwidth,
            downtime: Duration::from_millis(300),
            auto_converge,
            compression: Compression::None,
            connections: 1,
            paused: false,
            post_copy: false,
            direct: None,
            incremental: false,
        };
        if let Ok(after) = std::env::var("EVENKEEL_TEST_ABORT") {
            // Aborted after so many milliseconds first, and tried again onto the same volumes.
            let slow = MigrateRequest {
                bandwidth: Some(Bytes(20 << 20)),
                ..request.clone()
            };
            let aborting = async {
                tokio::time::sleep(Duration::from_millis(after.parse().unwrap())).await;
                let memory = from
                    .handle
                    .job(*uuid)
                    .await
                    .unwrap()
                    .map(|job| job.memory_done);
                from.handle.abort(*uuid).await.unwrap();
                memory
            };
            let (aborted, memory) = tokio::join!(from.handle.migrate(&slow), aborting);
            eprintln!("aborted with {memory:?}: {aborted:?}");
            assert!(aborted.is_err());
        }
        if std::env::var("EVENKEEL_TEST_RESTART").is_ok() {
            let name = if std::ptr::eq(from, &one) { "h1" } else { "h2" };
            lab(&format!("libvirtd {name} kill"));
            lab(&format!("libvirtd {name} start"));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        if std::env::var("EVENKEEL_TEST_PAUSE").is_ok() {
            from.handle.suspend(*uuid).await.unwrap();
            from.handle.resume(*uuid).await.unwrap();
        }
        let begun = Instant::now();
        from.handle.migrate(&request).await.unwrap();
        let took = begun.elapsed();
        for disk in domain.disks.iter().filter(|disk| disk.is_copied()) {
            from.handle
                .delete_volume(disk.path.as_deref().unwrap())
                .await
                .unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let there = to.handle.look(*uuid).await.unwrap().unwrap();
        let grown: Vec<String> = domain
            .disks
            .iter()
            .zip(&there.disks)
            .map(|(before, after)| {
                format!(
                    "{:.3}",
                    after.allocated.0 as f64 / before.chain_allocated().0 as f64
                )
            })
            .collect();
        let fine = lab_says(&format!("guest check {name}"));
        eprintln!("move {round} of {name}: {took:?}, allocated {grown:?}, intact {fine}");
        if !fine {
            broken.push(name.clone());
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn what_a_migration_is_refused_for() {
    let (mut one, two) = both();
    one.facts().await;
    let (from, to, domain) = place(&one, &two, |_| true).await;
    let request = MigrateRequest {
        domain: domain.uuid,
        target_uri: "qemu+tcp://127.0.0.1:1/system".into(),
        target_address: None,
        encrypted: encrypted(),
        disks: domain
            .disks
            .iter()
            .filter(|disk| disk.is_copied())
            .map(|disk| DiskPlace {
                target: disk.target.clone(),
                path: disk.path.clone().unwrap(),
                pool: disk.pool.clone().unwrap(),
                volume: disk.volume.clone().unwrap(),
            })
            .collect(),
        mark: Mark {
            id: Uuid::new_v4(),
            source: "a".into(),
            target: "b".into(),
            migration: "m".into(),
        },
        bandwidth: None,
        downtime: Duration::from_millis(300),
        auto_converge: false,
        compression: Compression::None,
        connections: 1,
        paused: false,
        post_copy: false,
        direct: None,
        incremental: false,
    };
    let refused = from.handle.migrate(&request).await.unwrap_err();
    assert_eq!(refused.fault, Fault::PeerUnreachable, "{refused}");
    let bad = MigrateRequest {
        target_uri: "qemu+ssh://h/system?command=id".into(),
        ..request.clone()
    };
    assert_eq!(
        from.handle.migrate(&bad).await.unwrap_err().fault,
        Fault::Invalid
    );
    let absent = MigrateRequest {
        domain: Uuid::new_v4(),
        ..request.clone()
    };
    assert_eq!(
        from.handle.migrate(&absent).await.unwrap_err().fault,
        Fault::NotFound
    );

    // Aborted in the middle.
    let disks = domain.disks.iter().filter(|disk| disk.is_copied());
    let mut copies = Vec::new();
    for disk in disks {
        let volume = NewVolume {
            pool: disk.pool.clone().unwrap(),
            name: format!("aborted-{}", disk.target),
            format: disk.format.clone(),
            capacity: disk.virtual_size,
            backing: None,
            secret: None,
        };
        let path = to.handle.create_volume(&volume).await.unwrap();
        copies.push(placed(&disk.target, &volume, path));
    }
    let uris = uris();
    let slow = MigrateRequest {
        target_uri: if std::ptr::eq(to, &one) {
            uris[0].clone()
        } else {
            uris[1].clone()
        },
        disks: copies.clone(),
        bandwidth: Some(Bytes(1 << 20)),
        ..request
    };
    let aborting = async {
        while from
            .handle
            .job(domain.uuid)
            .await
            .unwrap()
            .is_none_or(|job| job.disk_done.0 == 0)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let again = from.handle.migrate(&slow).await.unwrap_err();
        eprintln!("a second migration: {:?} {again}", again.fault);
        assert_eq!(again.fault, Fault::Busy);
        let mark = timed(
            "set_mark while moving",
            from.handle.set_mark(domain.uuid, None),
        )
        .await;
        eprintln!("{mark:?}");
        timed("abort", from.handle.abort(domain.uuid))
            .await
            .unwrap();
    };
    let (aborted, ()) = tokio::join!(from.handle.migrate(&slow), aborting);
    let aborted = aborted.unwrap_err();
    eprintln!("aborted: {:?} {aborted}", aborted.fault);
    assert_eq!(aborted.fault, Fault::Aborted);
    for DiskPlace { path, .. } in &copies {
        to.handle.delete_volume(path).await.unwrap();
    }
    let after = from.handle.look(domain.uuid).await.unwrap().unwrap();
    assert_eq!(after.activity, Activity::Running);
    assert!(!after.job);
}
