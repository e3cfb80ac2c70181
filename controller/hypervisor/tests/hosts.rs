//! The port against real libvirt hosts.
//!
//! Wants two hosts with guests, all of whose disks lie in pools, and does not run without them:
//! `EVENKEEL_TEST_URIS=qemu+tcp://A/system,qemu+tcp://B/system cargo test -p evenkeel-hypervisor -- --ignored`.
//! With `EVENKEEL_TEST_LAB="lab --lab ID"` the hosts' libvirtd are frozen and killed too (hosts h1 and h2 of that lab).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    Activity, ClaimRecord, DomainEvent, DomainFacts, Endpoint, Fault, HostFacts, Hypervisor,
    Hypervisors, LastMove, Mark, MigrateRequest, NewVolume, News, Notice, PortResult, Why,
};
use evenkeel_hypervisor::libvirt::Libvirt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use uuid::Uuid;

struct Attached {
    handle: Arc<dyn Hypervisor>,
    notices: UnboundedReceiver<Notice>,
}

fn uris() -> Vec<String> {
    std::env::var("EVENKEEL_TEST_URIS")
        .expect("EVENKEEL_TEST_URIS names two hosts")
        .split(',')
        .map(str::to_owned)
        .collect()
}

fn attach(name: &str, uri: &str) -> Attached {
    let (sender, notices) = unbounded_channel();
    let endpoint = Endpoint {
        uri: uri.to_owned(),
        credentials: None,
    };
    let handle = Libvirt::new().attach(&name.into(), &endpoint, sender);
    Attached { handle, notices }
}

fn both() -> (Attached, Attached) {
    let uris = uris();
    (attach("h1", &uris[0]), attach("h2", &uris[1]))
}

async fn timed<T>(what: &str, call: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = call.await;
    eprintln!(
        "{what:<28} {:>8.1} ms",
        begun.elapsed().as_secs_f64() * 1000.0
    );
    result
}

impl Attached {
    /// Waits for news that are wanted, and returns how long it took.
    async fn until<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&News) -> Option<T>,
    ) -> (T, Duration) {
        let begun = Instant::now();
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            let notice = tokio::time::timeout(left, self.notices.recv())
                .await
                .expect("the news came in time")
                .expect("the host is looked after");
            if let Some(found) = wanted(&notice.what) {
                return (found, begun.elapsed());
            }
        }
    }

    async fn facts(&mut self) -> (HostFacts, Duration) {
        self.until(Duration::from_secs(20), |news| match news {
            News::Facts(facts) => Some((**facts).clone()),
            _ => None,
        })
        .await
    }
}

/// Where a guest that runs is: here or there.
async fn place<'a>(
    here: &'a Attached,
    there: &'a Attached,
    which: impl Fn(&DomainFacts) -> bool,
) -> (&'a Attached, &'a Attached, DomainFacts) {
    for (from, to) in [(here, there), (there, here)] {
        let facts = from.handle.observe().await.unwrap();
        if let Some(found) = facts
            .domains
            .into_iter()
            .find(|domain| domain.activity == Activity::Running && which(domain))
        {
            return (from, to, found);
        }
    }
    panic!("no guest runs on either host");
}

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
        .until(Duration::from_secs(5), |news| match news {
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
            };
            disks.push((
                disk.target.clone(),
                to.handle.create_volume(&volume).await.unwrap(),
            ));
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
            disks: disks.clone(),
            mark: mark.clone(),
            bandwidth: Some(Bytes(40 << 20)),
            downtime: Duration::from_millis(300),
            auto_converge: true,
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
            let ratio = after.allocated.0 as f64 / before.chain_allocated.0 as f64;
            eprintln!(
                "{} {}: {} -> {} ({ratio:.3})",
                before.target, before.format, before.chain_allocated, after.allocated
            );
            assert!(ratio < 1.05, "{} {}", before.target, ratio);
            assert_eq!(after.backing, Vec::<String>::new());
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

/// The events about a domain that have come so far.
fn drain(attached: &mut Attached, uuid: Uuid) -> Vec<DomainEvent> {
    let mut events = Vec::new();
    while let Ok(notice) = attached.notices.try_recv() {
        if let News::Event(about, event) = notice.what
            && about == uuid
        {
            events.push(event);
        }
    }
    events
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
        disks: domain
            .disks
            .iter()
            .filter(|disk| disk.is_copied())
            .map(|disk| (disk.target.clone(), disk.path.clone().unwrap()))
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
        };
        copies.push((
            disk.target.clone(),
            to.handle.create_volume(&volume).await.unwrap(),
        ));
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
    for (_, path) in &copies {
        to.handle.delete_volume(path).await.unwrap();
    }
    let after = from.handle.look(domain.uuid).await.unwrap().unwrap();
    assert_eq!(after.activity, Activity::Running);
    assert!(!after.job);
}

fn lab(arguments: &str) -> bool {
    let Ok(lab) = std::env::var("EVENKEEL_TEST_LAB") else {
        return false;
    };
    let done = Command::new("sh")
        .arg("-c")
        .arg(format!("{lab} {arguments}"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    true
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn a_hung_or_killed_libvirtd() {
    if std::env::var("EVENKEEL_TEST_LAB").is_err() {
        return;
    }
    let (mut one, mut two) = both();
    let (facts, _) = one.facts().await;
    two.facts().await;
    let uuid = facts
        .domains
        .first()
        .map_or_else(Uuid::new_v4, |domain| domain.uuid);
    let lost = |news: &News| match news {
        News::Lost(error) => Some(error.clone()),
        _ => None,
    };

    lab("libvirtd h1 freeze");
    let begun = Instant::now();
    let hung = timed("look at the hung one", one.handle.look(uuid))
        .await
        .unwrap_err();
    assert_eq!(hung.fault, Fault::TimedOut, "{hung}");
    timed("observe the other one", two.handle.observe())
        .await
        .unwrap();
    let (error, _) = one.until(Duration::from_secs(12), lost).await;
    eprintln!(
        "hung: lost after {:?}: {:?} {error}",
        begun.elapsed(),
        error.fault
    );
    assert!(begun.elapsed() < Duration::from_secs(12));
    let refused = timed("look at the lost one", one.handle.look(uuid))
        .await
        .unwrap_err();
    eprintln!("{:?} {refused}", refused.fault);
    tokio::time::sleep(Duration::from_secs(12)).await;
    lab("libvirtd h1 thaw");
    let thawed = Instant::now();
    one.facts().await;
    eprintln!("thawed: facts after {:?}", thawed.elapsed());

    for down in [Duration::from_millis(500), Duration::from_secs(3)] {
        while one.notices.try_recv().is_ok() {}
        let killed = Instant::now();
        lab("libvirtd h1 kill");
        let (error, _) = one.until(Duration::from_secs(5), lost).await;
        eprintln!(
            "killed: lost {:?} after the command began: {:?} {error}",
            killed.elapsed(),
            error.fault
        );
        assert_eq!(error.fault, Fault::Unreachable);
        tokio::time::sleep(down).await;
        lab("libvirtd h1 start");
        let started = Instant::now();
        one.facts().await;
        eprintln!(
            "started again after {down:?}: facts {:?} after it was up",
            started.elapsed()
        );
        timed("look", one.handle.look(uuid)).await.unwrap();
        timed("set_autostart", one.handle.set_autostart(uuid, false))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn who_cannot_be_reached() {
    let mut none = attach("none", "qemu+tcp://127.0.0.1:1/system");
    let refused = none.handle.observe().await.unwrap_err();
    assert_eq!(refused.fault, Fault::Unreachable, "{refused}");
    none.until(Duration::from_secs(2), |news| {
        matches!(news, News::Lost(_)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(none.notices.try_recv().is_err(), "the same is told once");
    let bad = attach("bad", "qemu+tcp://h/session");
    assert_eq!(
        bad.handle.observe().await.unwrap_err().fault,
        Fault::Invalid
    );
    drop(none.handle);
    tokio::time::timeout(Duration::from_secs(5), none.notices.recv())
        .await
        .expect("the keeper ends with its handle");
}
