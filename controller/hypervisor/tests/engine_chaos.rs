//! Everything at once: a drain of several guests while libvirtds die and hang, links break, hosts lose power and the
//! engine itself is killed again and again. A seed that fails is printed and tells the same story each time.
#![allow(
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod support;

use std::time::Duration;

use evenkeel_crds::kinds::profile::Switchover;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Breaks something and says how it is mended.
fn breakage(fleet: &Fleet, dice: &mut Dice, power: bool) -> (String, Box<dyn FnOnce(&Fleet)>) {
    let host = HOSTS[dice.throw(3) as usize];
    let other = HOSTS
        [(HOSTS.iter().position(|name| *name == host).unwrap() + 1 + dice.throw(2) as usize) % 3];
    match dice.throw(if power { 6 } else { 5 }) {
        0 | 1 => {
            fleet.kill_libvirtd(host);
            (
                format!("kill {host}"),
                Box::new(move |fleet| fleet.start_libvirtd(host)),
            )
        }
        2 => {
            fleet.hang_libvirtd(host, true);
            (
                format!("hang {host}"),
                Box::new(move |fleet| fleet.hang_libvirtd(host, false)),
            )
        }
        3 => {
            fleet.cut(host, other, true);
            (
                format!("cut {host} {other}"),
                Box::new(move |fleet| fleet.cut(host, other, false)),
            )
        }
        4 => {
            fleet.cut_client("one", host, true);
            (
                format!("cut off {host}"),
                Box::new(move |fleet| fleet.cut_client("one", host, false)),
            )
        }
        _ => {
            fleet.power_off(host);
            (
                format!("power off {host}"),
                Box::new(move |fleet| fleet.power_on(host)),
            )
        }
    }
}

/// What only a person does: starts what stopped, discards one of two.
async fn person(actor: &Actor, guests: &[Uuid], what: &str) {
    for guest in guests {
        let fleet = &actor.fleet;
        let hosts = fleet.executing(*guest);
        if hosts.len() > 1 {
            continue;
        }
        let copies: Vec<&str> = HOSTS
            .into_iter()
            .filter(|host| fleet.domain(host, *guest).is_some())
            .collect();
        if let [runs] = hosts.as_slice() {
            // The engine has suspended the one that came second.
            for host in copies.iter().filter(|host| *host != runs) {
                let own = fleet.domain(host, *guest).unwrap();
                if !own.job && own.why == evenkeel_engine::port::Why::ByUser {
                    fleet.discard(host, *guest);
                }
            }
        } else if fleet.phase(*guest).as_deref() == Some("Stuck") {
            fleet.destroy(copies[0], *guest);
        } else if fleet.phase(*guest).is_none() {
            let mut newest = fleet.newest_on(*guest);
            if let ([whole, ..], [torn]) = (newest.as_slice(), copies.as_slice())
                && whole != torn
            {
                // It had not written everything when its power failed.
                fleet.copy_disks(whole, torn, *guest);
                newest.push((*torn).to_owned());
            }
            let able = |host: &&String| {
                fleet
                    .domain(host, *guest)
                    .is_some_and(|own| own.persistent && !own.activity.active() && !own.job)
            };
            if let Some(host) = newest.iter().find(able) {
                fleet.start_guest(host, *guest);
            } else {
                assert!(!newest.is_empty(), "{what}\n{}", actor.picture());
            }
        }
    }
}

async fn story(seed: u64, power: bool, switchover: Switchover) {
    let mut dice = Dice(seed.wrapping_mul(7919).wrapping_add(17));
    let (fleet, desk) = stage(seed, &HOSTS.map(HostPlan::new));
    let guests: Vec<Uuid> = (1..=4)
        .map(|number| {
            let plan = GuestPlan::new(&format!("g{number}"))
                .autostart()
                .disk(600 * MIB, (100 + 60 * number) * MIB);
            fleet.add_guest("h1", &plan)
        })
        .collect();
    let first = if seed.is_multiple_of(2) {
        Role::new("one").files().process(dead_process())
    } else {
        Role::new("one").cluster().process(dead_process())
    };
    let mut what = format!("seed {seed}, power {power}, {switchover:?}:");
    let begun = Instant::now();
    let mut actor = Actor::start(&fleet, &desk, &first);
    desk.profile("default", |spec| spec.switchover = switchover);
    desk.drain("d", &["h1"], |_| {});
    let mut mends: Vec<(Instant, Box<dyn FnOnce(&Fleet)>)> = Vec::new();
    for _ in 0..8 {
        sleep(Duration::from_millis(200 + dice.throw(5000))).await;
        let at = begun.elapsed().as_millis();
        if dice.throw(3) == 0 {
            actor.kill().await;
            actor = Actor::start(&fleet, &desk, &first);
            what = format!("{what}\n  {at}: engine");
        } else {
            let (name, mend) = breakage(&fleet, &mut dice, power);
            let long = dice.throw(3) == 0;
            let lasts = 300 + dice.throw(if long { 50_000 } else { 5000 });
            what = format!("{what}\n  {at}: {name} for {lasts}");
            mends.push((Instant::now() + Duration::from_millis(lasts), mend));
        }
        let now = Instant::now();
        let (due, later) = mends.into_iter().partition(|(at, _)| *at <= now);
        mends = later;
        due.into_iter()
            .for_each(|(_, mend): (Instant, Box<dyn FnOnce(&Fleet)>)| mend(&fleet));
        assert_eq!(
            fleet.violations(),
            Vec::<String>::new(),
            "{what}\n{}",
            actor.picture()
        );
    }
    sleep(Duration::from_secs(3)).await;
    mends.into_iter().for_each(|(_, mend)| mend(&fleet));
    for host in HOSTS {
        // Two breakages may have overlapped.
        fleet.hang_libvirtd(host, false);
        for other in HOSTS {
            fleet.cut(host, other, false);
        }
        fleet.cut_client("one", host, false);
    }
    let mended = Instant::now();
    loop {
        sleep(Duration::from_secs(5)).await;
        assert_eq!(
            fleet.violations(),
            Vec::<String>::new(),
            "{what}\n{}",
            actor.picture()
        );
        for guest in &guests {
            assert!(fleet.is_whole(*guest), "{what}\n{}", actor.picture());
        }
        let drained = actor
            .condition("HostDrain", "d", "Drained")
            .is_some_and(|drained| drained.status == "True");
        let left = !fleet.journals().is_empty() || !fleet.claims().is_empty();
        let run = guests
            .iter()
            .all(|guest| fleet.executing(*guest).len() == 1);
        if drained && !left && run {
            break;
        }
        assert!(
            mended.elapsed() < Duration::from_secs(1500),
            "no end: {what}\n{}",
            actor.picture()
        );
        if mended.elapsed() > Duration::from_secs(200) {
            person(&actor, &guests, &what).await;
        }
    }
    let mut files = 0;
    for guest in &guests {
        let host = fleet.executing(*guest).pop().unwrap();
        assert_ne!(host, "h1", "{what}\n{}", actor.picture());
        let domain = fleet.domain(&host, *guest).unwrap();
        assert!(
            domain.mark.is_none() && domain.persistent,
            "{what}\n{}",
            actor.picture()
        );
        assert!(
            domain.autostart,
            "autostart of {}: {what}\n{}",
            domain.name,
            actor.picture()
        );
    }
    for host in HOSTS {
        files += fleet.files(host).len();
    }
    // What a guest that libvirt ran twice wrote at its other end is kept, if it was seen to.
    let twice = guests
        .iter()
        .filter(|guest| fleet.ever_ran_twice(**guest))
        .count();
    assert!(
        twice == 0 || switchover == Switchover::Fast,
        "a guarded guest ran twice: {what}\n{}",
        actor.picture()
    );
    assert!(
        (4..=4 + twice).contains(&files),
        "{files} files: {what}\n{}",
        actor.picture()
    );
    actor.kill().await;
}

#[tokio::test(start_paused = true)]
async fn without_power_failures() {
    for seed in seeds(0, 25) {
        story(seed, false, Switchover::Fast).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_power_failures() {
    for seed in seeds(0, 25) {
        story(seed, true, Switchover::Fast).await;
    }
}

#[tokio::test(start_paused = true)]
async fn guarded_without_power_failures() {
    for seed in seeds(100, 20) {
        story(seed, false, Switchover::Guarded).await;
    }
}

#[tokio::test(start_paused = true)]
async fn guarded_with_power_failures() {
    for seed in seeds(100, 20) {
        story(seed, true, Switchover::Guarded).await;
    }
}
