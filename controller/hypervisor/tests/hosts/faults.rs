//! Hosts that hang, die or were never there.

use std::time::{Duration, Instant};

use evenkeel_engine::port::*;
use uuid::Uuid;

use crate::support::*;

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

/// Threads of this process whose names begin so.
fn threads(prefix: &str) -> Vec<String> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn dropping_a_handle_ends_what_it_started() {
    let mut one = attach("dropped", &uris()[0]);
    one.facts().await;
    one.handle.pools().await.unwrap();
    assert!(!threads("ek-").is_empty());
    let Attached {
        handle,
        mut notices,
    } = one;
    drop(handle);
    let begun = Instant::now();
    while notices.recv().await.is_some() {}
    while !threads("ek-").is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            threads("ek-")
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("all ended after {:?}", begun.elapsed());
}

/// Memory this process occupies, in KiB.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn nothing_leaks() {
    let uri = &uris()[1];
    let mut one = attach("h2", uri);
    let (facts, _) = one.facts().await;
    let uuid = facts
        .domains
        .first()
        .map_or_else(Uuid::new_v4, |domain| domain.uuid);
    let round = async || {
        for _ in 0..200 {
            one.handle.look(uuid).await.unwrap();
            one.handle.observe().await.unwrap();
            one.handle.job(uuid).await.unwrap();
            one.handle.completed(uuid).await.unwrap();
            one.handle.claim().await.unwrap();
        }
        for _ in 0..20 {
            let mut again = attach("again", uri);
            again.facts().await;
        }
    };
    round().await;
    let before = resident();
    round().await;
    round().await;
    let after = resident();
    eprintln!("{before} KiB, after twice as much again {after} KiB");
    assert!(after < before + 4096, "{before} {after}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn a_guest_whose_qemu_hangs_is_still_seen() {
    if std::env::var("EVENKEEL_TEST_LAB").is_err() {
        return;
    }
    let (one, two) = both();
    let (host, _, domain) = place(&one, &two, |_| true).await;
    let file = format!("/run/libvirt/qemu/{}.pid", domain.name);
    let at = if lab_says(&format!("exec h1 test -e {file}")) {
        "h1"
    } else {
        "h2"
    };
    let signal = |signal: &str| {
        lab(&format!("exec {at} sh -c 'kill -{signal} $(cat {file})'"));
    };
    signal("STOP");
    for _ in 0..6 {
        let seen = timed("look at a hung guest", host.handle.look(domain.uuid)).await;
        let seen = seen.map(|facts| facts.map(|facts| (facts.activity, facts.why, facts.job)));
        eprintln!("{seen:?}");
        assert!(matches!(seen, Ok(Some((Activity::Running, _, _)))));
    }
    timed("observe its host", host.handle.observe())
        .await
        .unwrap();
    let job = timed("its job", host.handle.job(domain.uuid)).await;
    eprintln!("{job:?}");
    let resumed = timed("resume", host.handle.resume(domain.uuid)).await;
    eprintln!("{resumed:?}");
    signal("CONT");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = timed("look", host.handle.look(domain.uuid))
        .await
        .unwrap()
        .unwrap();
    assert!(!seen.job);
}
