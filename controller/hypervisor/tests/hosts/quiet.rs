//! Looking, and what is done while nothing moves.

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::*;
use uuid::Uuid;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn what_is_seen() {
    let (mut one, mut two) = both();
    let (facts, took) = one.facts().await;
    eprintln!(
        "first facts after            {:>8.1} ms",
        took.as_secs_f64() * 1000.0
    );
    eprintln!("{facts:#?}");
    assert!(!facts.hostname.is_empty() && facts.memory > Bytes(1 << 28));
    assert!(!facts.machines.is_empty() && !facts.pools.is_empty());
    for domain in &facts.domains {
        assert_eq!(domain.obstacles, [], "{}", domain.name);
        assert!(domain.persistent && !domain.job && !domain.block_job);
        for disk in &domain.disks {
            assert!(
                disk.pool.is_some() && disk.virtual_size > Bytes(0) && disk.allocated > Bytes(0),
                "{disk:?}"
            );
        }
    }
    let (load, _) = one
        .until(Duration::from_secs(15), |news| match news {
            News::Load(load) if load.cpu_milli.is_some() => Some(*load),
            _ => None,
        })
        .await;
    eprintln!("{load:?}");
    let (other, _) = two.facts().await;
    assert_ne!(facts.uuid, other.uuid);
    timed("observe", one.handle.observe()).await.unwrap();
    let known = facts.domains.first().map(|domain| domain.uuid);
    if let Some(uuid) = known {
        timed("look", one.handle.look(uuid)).await.unwrap().unwrap();
    }
    assert_eq!(
        timed("look (absent)", one.handle.look(Uuid::new_v4()))
            .await
            .unwrap(),
        None
    );
    timed("pools", one.handle.pools()).await.unwrap();
    let references = timed("references", one.handle.references(None))
        .await
        .unwrap();
    for disk in facts.domains.iter().flat_map(|domain| &domain.disks) {
        assert!(references.contains_key(disk.path.as_deref().unwrap()));
    }
    if let Some(uuid) = known {
        let without = one.handle.references(Some(uuid)).await.unwrap();
        assert!(!without.contains_key(facts.domains[0].disks[0].path.as_deref().unwrap()));
    }
    assert_eq!(one.handle.job(Uuid::new_v4()).await, Ok(None));
}

fn claim(id: Uuid, beat: u64) -> ClaimRecord {
    ClaimRecord {
        id,
        fleet: "f".into(),
        holder: "test".into(),
        process: None,
        epoch: 1,
        beat,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn one_of_twenty_gets_the_claim() {
    let uri = &uris()[0];
    let racers: Vec<_> = (0..20).map(|_| attach("h1", uri)).collect();
    futures::future::join_all(racers.iter().map(|racer| racer.handle.claim())).await;
    for _ in 0..5 {
        let ids: Vec<_> = racers.iter().map(|_| Uuid::new_v4()).collect();
        let records: Vec<_> = ids.iter().map(|id| claim(*id, 1)).collect();
        let results = futures::future::join_all(
            racers
                .iter()
                .zip(&records)
                .map(|(racer, record)| racer.handle.put_claim(record)),
        )
        .await;
        let winners: Vec<_> = (0..20).filter(|at| results[*at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(error.fault, Fault::Exists, "{error}");
        }
        let id = ids[winners[0]];
        let host = &racers[(winners[0] + 1) % 20].handle;
        assert_eq!(
            timed("claim", host.claim()).await.unwrap(),
            Some(claim(id, 1))
        );
        timed("put_claim (renew)", host.put_claim(&claim(id, 2)))
            .await
            .unwrap();
        assert_eq!(host.claim().await.unwrap(), Some(claim(id, 2)));
        host.remove_claim(Uuid::new_v4()).await.unwrap();
        assert!(host.claim().await.unwrap().is_some());
        timed("remove_claim", host.remove_claim(id)).await.unwrap();
        host.remove_claim(id).await.unwrap();
        assert_eq!(host.claim().await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn journals_and_volumes() {
    let one = attach("h1", &uris()[0]);
    let host = &one.handle;
    let id = Uuid::new_v4();
    timed(
        "create_journal",
        host.create_journal("default", id, "first <&> \u{e9}\n"),
    )
    .await
    .unwrap();
    assert_eq!(
        host.create_journal("default", id, "x")
            .await
            .unwrap_err()
            .fault,
        Fault::Exists
    );
    let text = |entries: PortResult<Vec<evenkeel_engine::port::JournalEntry>>| {
        entries
            .unwrap()
            .into_iter()
            .find(|entry| entry.id == id)
            .map(|entry| (entry.pool, entry.text))
    };
    let listed = timed("journals", host.journals()).await;
    assert_eq!(
        text(listed),
        Some(("default".into(), "first <&> \u{e9}\n".into()))
    );
    for round in 0..4 {
        let next = format!("round {round} {}", "x".repeat(round * 3000));
        timed(
            "rewrite_journal",
            host.rewrite_journal("default", id, &next),
        )
        .await
        .unwrap();
        assert_eq!(text(host.journals().await), Some(("default".into(), next)));
    }
    assert_eq!(
        host.rewrite_journal("default", id, &"x".repeat(20_000))
            .await
            .unwrap_err()
            .fault,
        Fault::Invalid
    );
    timed("remove_journal", host.remove_journal("default", id))
        .await
        .unwrap();
    host.remove_journal("default", id).await.unwrap();
    assert_eq!(text(host.journals().await), None);
    assert_eq!(
        host.rewrite_journal("default", id, "x")
            .await
            .unwrap_err()
            .fault,
        Fault::NotFound
    );
    let ids: Vec<Uuid> = (0..8).map(|_| Uuid::new_v4()).collect();
    let made = futures::future::join_all(
        ids.iter()
            .map(|id| host.create_journal("default", *id, "many")),
    )
    .await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let gone =
        futures::future::join_all(ids.iter().map(|id| host.remove_journal("default", *id))).await;
    assert!(gone.iter().all(Result::is_ok), "{gone:?}");

    for format in ["qcow2", "raw"] {
        let volume = NewVolume {
            pool: "default".into(),
            name: format!("evenkeel-test-{id}.{format}"),
            format: format.into(),
            capacity: Bytes(64 << 20),
            backing: None,
            secret: None,
        };
        let made = futures::future::join_all((0..6).map(|_| host.create_volume(&volume))).await;
        assert_eq!(
            made.iter().filter(|result| result.is_ok()).count(),
            1,
            "{made:?}"
        );
        for error in made.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(error.fault, Fault::Exists, "{error}");
        }
        let path = made.into_iter().find_map(Result::ok).unwrap();
        let facts = timed("volume", host.volume(&path)).await.unwrap().unwrap();
        assert_eq!(facts.capacity, Bytes(64 << 20));
        assert!(facts.allocated < Bytes(1 << 20), "{facts:?}");
        timed("delete_volume", host.delete_volume(&path))
            .await
            .unwrap();
        host.delete_volume(&path).await.unwrap();
        assert_eq!(host.volume(&path).await.unwrap(), None);
        timed("create_volume", host.create_volume(&volume))
            .await
            .unwrap();
        host.delete_volume(&path).await.unwrap();
    }
    assert_eq!(
        host.volume("/nowhere/x").await.unwrap_err().fault,
        Fault::Unsupported
    );
    let large = NewVolume {
        pool: "none".into(),
        name: "x".into(),
        format: "raw".into(),
        capacity: Bytes(1),
        backing: None,
        secret: None,
    };
    assert_eq!(
        host.create_volume(&large).await.unwrap_err().fault,
        Fault::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn marks_and_autostart() {
    let (mut one, two) = both();
    one.facts().await;
    let (from, _, domain) = place(&one, &two, |_| true).await;
    let host = from.handle.clone();
    let uuid = domain.uuid;
    let mark = Mark {
        id: Uuid::new_v4(),
        source: "h1".into(),
        target: "h2".into(),
        migration: "m<&'\"".into(),
    };
    timed("set_mark", host.set_mark(uuid, Some(&mark)))
        .await
        .unwrap();
    let seen = host.look(uuid).await.unwrap().unwrap();
    assert_eq!(seen.mark, Some(mark.clone()));
    let last = LastMove {
        time: "2026-11-23T00:00:00Z".into(),
        from: "h9".into(),
        by: "HostDrain/x".into(),
        onward: Some("h8".into()),
    };
    timed("set_last_move", host.set_last_move(uuid, &last))
        .await
        .unwrap();
    let seen = host.look(uuid).await.unwrap().unwrap();
    assert_eq!((seen.mark, seen.last_move), (None, Some(last.clone())));
    host.set_mark(uuid, Some(&mark)).await.unwrap();
    host.set_mark(uuid, None).await.unwrap();
    let seen = host.look(uuid).await.unwrap().unwrap();
    assert_eq!((seen.mark, seen.last_move), (None, Some(last)));
    timed("set_autostart", host.set_autostart(uuid, true))
        .await
        .unwrap();
    assert!(host.look(uuid).await.unwrap().unwrap().autostart);
    host.set_autostart(uuid, false).await.unwrap();
    assert!(!host.look(uuid).await.unwrap().unwrap().autostart);
    timed("suspend", host.suspend(uuid)).await.unwrap();
    let seen = host.look(uuid).await.unwrap().unwrap();
    assert_eq!((seen.activity, seen.why), (Activity::Paused, Why::ByUser));
    timed("resume", host.resume(uuid)).await.unwrap();
    let seen = host.look(uuid).await.unwrap().unwrap();
    assert_eq!(
        (seen.activity, seen.why),
        (Activity::Running, Why::Unpaused)
    );
    assert_eq!(
        host.set_mark(Uuid::new_v4(), None).await.unwrap_err().fault,
        Fault::NotFound
    );
}

/// Nothing is asserted: for looking at what a host's guests are taken for.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn what_guests_are_taken_for() {
    for uri in uris() {
        let one = attach("h", &uri);
        let facts = timed("observe", one.handle.observe()).await.unwrap();
        for domain in facts.domains {
            eprintln!(
                "{} {:?}/{:?} persistent {} managed {:?} created {:?} labels {:?} cpu {:?} overhead {}",
                domain.name,
                domain.activity,
                domain.why,
                domain.persistent,
                domain.managed_by,
                domain.created,
                domain.labels,
                domain.cpu,
                domain.memory_overhead
            );
            eprintln!("  {:?} {:?}", domain.metadata, domain.files);
            for disk in domain.disks {
                eprintln!("  {disk:?}");
            }
            for obstacle in domain.obstacles {
                eprintln!("  ! {obstacle}");
            }
        }
        eprintln!("{:#?}", one.handle.references(None).await.unwrap());
    }
}

/// With the lab: pool `fast` of the first host is filled up.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn a_full_pool() {
    const FILLER: &str = "/var/lib/libvirt/pools/fast/filler";
    if std::env::var("EVENKEEL_TEST_LAB").is_err() {
        return;
    }
    let one = attach("h1", &uris()[0]);
    let pools = one.handle.pools().await.unwrap();
    let Some(fast) = pools.iter().find(|pool| pool.name == "fast") else {
        return;
    };
    eprintln!("{fast:?}");
    // What is freed while it is being written needs another round.
    let fill = format!("cat /dev/zero >> {FILLER}; sync; ").repeat(4);
    lab_says(&format!("exec h1 sh -c '{fill}'"));
    // ext4 always finds a few more blocks.
    let mut written = Vec::new();
    let refused = loop {
        let id = Uuid::new_v4();
        match one.handle.create_journal("fast", id, "x").await {
            Ok(()) => written.push(id),
            Err(error) => break error,
        }
        assert!(written.len() < 200);
    };
    let volume = NewVolume {
        pool: "fast".into(),
        name: "no-room.qcow2".into(),
        format: "qcow2".into(),
        capacity: Bytes(1 << 30),
        backing: None,
        secret: None,
    };
    let made = one.handle.create_volume(&volume).await;
    let journals = one.handle.journals().await;
    let left = one
        .handle
        .volume("/var/lib/libvirt/pools/fast/no-room.qcow2")
        .await;
    lab(&format!("exec h1 rm {FILLER}"));
    eprintln!(
        "{} journals, then {refused:?}\n{made:?}\n{left:?}",
        written.len()
    );
    assert_eq!(refused.fault, Fault::NoSpace);
    assert_eq!(made.unwrap_err().fault, Fault::NoSpace);
    let mut found: Vec<Uuid> = journals.unwrap().iter().map(|entry| entry.id).collect();
    found.sort();
    written.sort();
    assert_eq!(found, written);
    assert_eq!(left.unwrap(), None);
    for id in written {
        one.handle.remove_journal("fast", id).await.unwrap();
    }
}
