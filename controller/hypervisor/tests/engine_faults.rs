//! Everything that was measured to go wrong, at every moment of a move, healed after a while. Whatever libvirt does then,
//! the engine loses nothing, deletes nothing that is needed, starts nothing twice, and comes to an end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::MigrationPhase;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB, SwitchFate};
use support::*;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const PHASES: [&str; 7] = [
    "Prepare", "Disks", "Memory", "Switch", "Finish", "Confirm", "End",
];

/// How a story ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By itself.
    Alone,
    /// The guest had stopped, and somebody started it.
    Started,
    /// It ran twice, and somebody discarded the source's copy.
    Discarded,
}

/// Waits until libvirt's migration is at that point.
async fn at(actor: &Actor, guest: Uuid, phase: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    while actor.fleet.phase(guest).as_deref() != Some(phase) {
        assert!(
            Instant::now() < end,
            "never at {phase}\n{}",
            actor.picture()
        );
        sleep(Duration::from_millis(2)).await;
    }
}

/// Follows the move to its end, with a person who does what only a person may do: discards one of two running copies,
/// starts a guest that stopped.
async fn settle(actor: &Actor, guest: Uuid, what: &str) -> End {
    let fleet = &actor.fleet;
    let begun = Instant::now();
    let mut end = End::Alone;
    let mut still = Instant::now();
    loop {
        assert_eq!(
            fleet.violations(),
            Vec::<String>::new(),
            "{what}\n{}",
            actor.picture()
        );
        assert!(
            begun.elapsed() < Duration::from_secs(900),
            "no end: {what}\n{}",
            actor.picture()
        );
        assert!(
            fleet.is_whole(guest),
            "its data is not whole: {what}\n{}",
            actor.picture()
        );
        let shown = actor
            .migration("m")
            .map(|shown| shown.status.phase)
            .unwrap_or_default();
        let left = !fleet.journals().is_empty() || !fleet.claims().is_empty();
        if shown.is_final() && !left {
            if fleet.executing(guest).is_empty() {
                // It stopped, went on to its target as one that does not run, and is started there.
                fleet.start_guest("h2", guest);
                sleep(Duration::from_secs(5)).await;
                end = End::Started;
            }
            return end;
        }
        let doubled = actor
            .condition("Guest", "g1", "Unique")
            .is_some_and(|unique| unique.reason == "RunsTwice")
            || actor
                .condition("GuestMigration", "m", "Succeeded")
                .is_some_and(|one| one.reason == "RunsTwice");
        if doubled {
            sleep(Duration::from_secs(3)).await;
            // The one that ran first is kept, the other one stands still until somebody decides.
            assert_eq!(
                fleet.executing(guest),
                ["h2"],
                "{what}\n{}",
                actor.picture()
            );
            actor.quiet(30).await;
            assert!(
                fleet.domain("h1", guest).is_some(),
                "{what}\n{}",
                actor.picture()
            );
            assert!(
                fleet.files("h1").iter().any(|file| file.contains("g1")),
                "{what}\n{}",
                actor.picture()
            );
            fleet.discard("h1", guest);
            end = End::Discarded;
        }
        if !fleet.executing(guest).is_empty() {
            still = Instant::now();
        } else if still.elapsed() > Duration::from_secs(150) {
            // Nobody but a person starts it.
            let mut newest = fleet.newest_on(guest);
            let defined = |host: &&str| {
                let own = fleet.domain(host, guest);
                own.is_some_and(|own| own.persistent)
            };
            let torn = ["h1", "h2", "h3"].into_iter().find(defined);
            if let Some(host) = torn.filter(|host| newest.iter().all(|own| own != host)) {
                // It had not written everything when its power failed.
                fleet.copy_disks(&newest[0], host, guest);
                newest.push(host.to_owned());
            }
            let host = newest
                .into_iter()
                .find(|host| fleet.domain(host, guest).is_some_and(|own| own.persistent))
                .unwrap();
            if fleet.phase(guest).as_deref() == Some("Stuck") {
                let cause = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
                assert_eq!(
                    cause.reason,
                    "OutcomeUnknown",
                    "{what}\n{}",
                    actor.picture()
                );
                fleet.destroy("h1", guest);
                sleep(Duration::from_secs(5)).await;
            }
            assert!(
                fleet.domain(&host, guest).is_some(),
                "{what}\n{}",
                actor.picture()
            );
            fleet.start_guest(&host, guest);
            end = End::Started;
            still = Instant::now();
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Everything is as it should be after a story.
fn whole(fleet: &Fleet, guest: Uuid, end: End, what: &str, picture: &str) {
    let hosts = fleet.executing(guest);
    assert_eq!(hosts.len(), 1, "{what}\n{picture}");
    assert!(fleet.is_whole(guest), "{what}\n{picture}");
    assert_eq!(
        fleet.ever_ran_twice(guest),
        end == End::Discarded,
        "{what}\n{picture}"
    );
    assert_eq!(
        fleet.boots(guest),
        if end == End::Started { 2 } else { 1 },
        "{what}\n{picture}"
    );
    for host in ["h1", "h2", "h3"] {
        // What a guest that ran twice wrote at either end is for a person to remove.
        let kept = end == End::Discarded && host == "h1";
        let own = usize::from(hosts == [host]) + usize::from(kept);
        assert_eq!(
            fleet.files(host).len(),
            own,
            "files on {host}: {what}\n{picture}"
        );
    }
    let domain = fleet.domain(&hosts[0], guest).unwrap();
    assert!(
        domain.mark.is_none() && domain.persistent && domain.autostart,
        "{what}\n{picture}"
    );
}

/// One story: at this point of the move this happens, and so long after it is mended.
async fn story(
    seed: u64,
    phase: &str,
    lasts: Duration,
    what: &str,
    nature: impl FnOnce(&mut evenkeel_hypervisor::sim::Nature),
    happens: impl Fn(&Fleet, Uuid, bool),
) -> End {
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest(
        "h1",
        &GuestPlan::new("g1").autostart().disk(600 * MIB, 300 * MIB),
    );
    fleet.nature(nature);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    at(&actor, guest, phase).await;
    happens(&fleet, guest, true);
    sleep(lasts).await;
    happens(&fleet, guest, false);
    let end = settle(&actor, guest, what).await;
    assert_eq!(
        actor.status("m").phase,
        MigrationPhase::Succeeded,
        "{what}\n{}",
        actor.picture()
    );
    whole(&fleet, guest, end, what, &actor.picture());
    end
}

/// The same story at every point and for every length, with seeds of its own each.
async fn everywhere(
    lengths: &[u64],
    what: &str,
    happens: impl Fn(&Fleet, Uuid, bool) + Copy,
) -> Vec<(String, End)> {
    let mut ends = Vec::new();
    for (number, phase) in (0..).zip(PHASES) {
        for seconds in lengths {
            for seed in seeds(number * 1000 + seconds, 1) {
                let what = format!("{what} for {seconds} s at {phase}, seed {seed}");
                let lasts = Duration::from_secs(*seconds);
                let end = story(seed, phase, lasts, &what, |_| {}, happens).await;
                ends.push((what, end));
            }
        }
    }
    ends
}

#[tokio::test(start_paused = true)]
async fn target_libvirtd_killed() {
    let kill = |fleet: &Fleet, _: Uuid, begin: bool| {
        if begin {
            fleet.kill_libvirtd("h2")
        } else {
            fleet.start_libvirtd("h2")
        }
    };
    for (what, end) in everywhere(&[1, 5, 70], "target's libvirtd killed", kill).await {
        let may = what.contains("Switch") || what.contains("Confirm");
        assert!(may || end == End::Alone, "{what}: {end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn target_libvirtd_killed_in_the_switch() {
    for (fate, expected) in [
        (SwitchFate::Resumes, End::Alone),
        (SwitchFate::Finishes, End::Alone),
        (SwitchFate::Crashes, End::Started),
        (SwitchFate::Hangs, End::Started),
    ] {
        let kill = |fleet: &Fleet, _: Uuid, begin: bool| {
            if begin {
                fleet.kill_libvirtd("h2")
            } else {
                fleet.start_libvirtd("h2")
            }
        };
        let what = format!("target's libvirtd killed in the switch: {fate:?}");
        let nature =
            |nature: &mut evenkeel_hypervisor::sim::Nature| nature.switch_fate = Some(fate);
        let end = story(1, "Switch", Duration::from_secs(5), &what, nature, kill).await;
        assert_eq!(end, expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_lost() {
    for lost in [true, false] {
        let kill = |fleet: &Fleet, _: Uuid, begin: bool| {
            if begin {
                fleet.kill_libvirtd("h2")
            } else {
                fleet.start_libvirtd("h2")
            }
        };
        let nature =
            |nature: &mut evenkeel_hypervisor::sim::Nature| nature.answer_lost = Some(lost);
        let end = story(
            1,
            "Confirm",
            Duration::from_secs(5),
            "the answer is lost",
            nature,
            kill,
        )
        .await;
        assert_eq!(end, if lost { End::Discarded } else { End::Alone });
    }
}

#[tokio::test(start_paused = true)]
async fn source_libvirtd_killed() {
    let kill = |fleet: &Fleet, _: Uuid, begin: bool| {
        if begin {
            fleet.kill_libvirtd("h1")
        } else {
            fleet.start_libvirtd("h1")
        }
    };
    for (what, end) in everywhere(&[1, 5, 70], "source's libvirtd killed", kill).await {
        assert_eq!(end, End::Alone, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn both_libvirtds_killed() {
    let kill = |fleet: &Fleet, _: Uuid, begin: bool| {
        for host in ["h1", "h2"] {
            if begin {
                fleet.kill_libvirtd(host)
            } else {
                fleet.start_libvirtd(host)
            }
        }
    };
    everywhere(&[1, 5, 40], "both libvirtds killed", kill).await;
    let kill = |fleet: &Fleet, _: Uuid, begin: bool| {
        for host in ["h2", "h1"] {
            if begin {
                fleet.kill_libvirtd(host)
            } else {
                fleet.start_libvirtd(host)
            }
        }
    };
    everywhere(
        &[1, 5, 40],
        "both libvirtds killed, the target's first",
        kill,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_libvirtd_hangs() {
    for host in ["h1", "h2"] {
        let hang = |fleet: &Fleet, _: Uuid, begin: bool| fleet.hang_libvirtd(host, begin);
        everywhere(
            &[3, 20, 45, 100],
            &format!("libvirtd of {host} hangs"),
            hang,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_link_between_the_hosts_is_cut() {
    let cut = |fleet: &Fleet, _: Uuid, begin: bool| fleet.cut("h1", "h2", begin);
    for (what, end) in everywhere(&[3, 12, 22, 75, 240], "link cut", cut).await {
        let may = ["Finish", "Confirm"]
            .iter()
            .any(|phase| what.contains(phase));
        assert!(may || end == End::Alone, "{what}: {end:?}");
    }
}

/// With the kernel's own patience of 15 minutes the guest freezes until the heal, and goes on.
#[tokio::test(start_paused = true)]
async fn the_link_is_cut_and_tcp_is_patient() {
    for phase in PHASES {
        for seconds in [22, 75, 240] {
            let what = format!("link cut for {seconds} s at {phase}, patient");
            let nature = |nature: &mut evenkeel_hypervisor::sim::Nature| {
                nature.gives_up = Duration::from_secs(900)
            };
            let cut = |fleet: &Fleet, _: Uuid, begin: bool| fleet.cut("h1", "h2", begin);
            story(
                seconds,
                phase,
                Duration::from_secs(seconds),
                &what,
                nature,
                cut,
            )
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_engine_is_cut_off() {
    for hosts in [&["h1"][..], &["h2"], &["h1", "h2"]] {
        let cut = |fleet: &Fleet, _: Uuid, begin: bool| {
            for host in hosts {
                fleet.cut_client("one", host, begin);
            }
        };
        for (what, end) in
            everywhere(&[3, 20, 90], &format!("engine cut off from {hosts:?}"), cut).await
        {
            assert_eq!(end, End::Alone, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_target_loses_power() {
    let off = |fleet: &Fleet, _: Uuid, begin: bool| {
        if begin {
            fleet.power_off("h2")
        } else {
            fleet.power_on("h2")
        }
    };
    for (what, end) in everywhere(&[10, 60, 200], "target without power", off).await {
        let may = ["Confirm", "End"].iter().any(|phase| what.contains(phase));
        assert!(may || end == End::Alone, "{what}: {end:?}");
    }
}

/// Whatever phase its source's power fails in: when it is back, exactly one copy runs, and it is the newest.
#[tokio::test(start_paused = true)]
async fn the_source_loses_power() {
    let off = |fleet: &Fleet, _: Uuid, begin: bool| {
        if begin {
            fleet.power_off("h1")
        } else {
            fleet.power_on("h1")
        }
    };
    everywhere(&[10, 60, 200], "source without power", off).await;
}

#[tokio::test(start_paused = true)]
async fn a_qemu_dies() {
    for host in ["h1", "h2"] {
        let kill = |fleet: &Fleet, guest: Uuid, begin: bool| {
            if begin {
                fleet.kill_qemu(host, guest);
            }
        };
        everywhere(&[1], &format!("QEMU on {host} dies"), kill).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_guest_powers_itself_off() {
    for phase in ["Prepare", "Disks", "Memory"] {
        let (actor, guest) = pair(1, &Role::new("one")).await;
        actor.desk.migrate("m", "g1", Some("h2"));
        at(&actor, guest, phase).await;
        actor.fleet.shut_down(guest);
        actor.says("GuestMigration", "m", "GuestStopped", 30).await;
        // It is still wanted there, and goes as one that does not run.
        actor.phase("m", MigrationPhase::Succeeded, 300).await;
        assert!(actor.fleet.executing(guest).is_empty() && actor.fleet.is_whole(guest));
        assert!(actor.fleet.files("h1").is_empty(), "{}", actor.picture());
        assert_eq!(actor.fleet.files("h2").len(), 1, "{}", actor.picture());
        assert!(actor.fleet.journals().is_empty(), "{}", actor.picture());
        actor.fleet.start_guest("h2", guest);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(actor.fleet.executing(guest), ["h2"]);
        assert_eq!(actor.fleet.violations(), Vec::<String>::new());
    }
}

/// It stops in the moment of its arrival, before anything was proven: the move is finished all the same.
#[tokio::test(start_paused = true)]
async fn the_guest_powers_itself_off_where_it_arrived() {
    for late in [0, 2, 5, 10, 50, 300] {
        let (actor, guest) = pair(1, &Role::new("one")).await;
        actor.desk.migrate("m", "g1", Some("h2"));
        while actor.fleet.executing(guest) != ["h2"] {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(late)).await;
        actor.fleet.shut_down(guest);
        actor.phase("m", MigrationPhase::Succeeded, 60).await;
        assert!(actor.fleet.executing(guest).is_empty() && actor.fleet.is_whole(guest));
        assert!(actor.fleet.files("h1").is_empty(), "{}", actor.picture());
        assert_eq!(actor.fleet.files("h2").len(), 1, "{}", actor.picture());
        assert!(actor.fleet.journals().is_empty(), "{}", actor.picture());
        actor.fleet.start_guest("h2", guest);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(actor.fleet.executing(guest), ["h2"]);
        assert_eq!(actor.fleet.violations(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn another_target_is_chosen() {
    for phase in ["Prepare", "Disks", "Memory"] {
        let hosts = [
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3").memory(7 << 30),
        ];
        let (fleet, desk) = stage(2, &hosts);
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
        fleet.add_guest("h3", &GuestPlan::new("g3").disk(MIB, MIB));
        let actor = Actor::start(&fleet, &desk, &Role::new("one"));
        actor.settled().await;
        desk.migrate("m", "g1", None);
        at(&actor, guest, phase).await;
        assert_eq!(actor.status("m").target.as_deref(), Some("h2"));
        fleet.power_off("h2");
        actor.phase("m", MigrationPhase::Succeeded, 200).await;
        assert_eq!(fleet.executing(guest), ["h3"], "{}", actor.picture());
        let status = actor.status("m");
        assert_eq!(status.attempts.len(), 2, "{}", actor.picture());
        sleep(Duration::from_secs(60)).await;
        // What it left on the dead one is removed when that one is back.
        fleet.power_on("h2");
        actor
            .until("all is clean", 90, |_| {
                fleet.journals().is_empty() && fleet.claims().is_empty()
            })
            .await;
        assert!(fleet.files("h2").is_empty(), "{}", actor.picture());
        assert_eq!(actor.status("m"), status, "what is over stays so");
        assert_eq!(fleet.executing(guest), ["h3"]);
        assert!(fleet.domain("h3", guest).unwrap().autostart);
    }
}

/// The same with an engine that dies too: the new one finds the dead target's half only.
#[tokio::test(start_paused = true)]
async fn another_target_is_chosen_by_another_engine() {
    let (fleet, desk) = stage(
        3,
        &[
            HostPlan::new("h1"),
            HostPlan::new("h2"),
            HostPlan::new("h3").memory(7 << 30),
        ],
    );
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
    let actor = Actor::start(
        &fleet,
        &desk,
        &Role::new("one").cluster().process(dead_process()),
    );
    actor.settled().await;
    desk.migrate("m", "g1", None);
    at(&actor, guest, "Disks").await;
    fleet.power_off("h2");
    actor.kill().await;
    let actor = Actor::start(&fleet, &desk, &Role::new("two").cluster());
    actor.phase("m", MigrationPhase::Succeeded, 300).await;
    assert_eq!(fleet.executing(guest), ["h3"]);
    fleet.power_on("h2");
    actor
        .until("all is clean", 90, |_| {
            fleet.journals().is_empty() && fleet.claims().is_empty()
        })
        .await;
    assert!(fleet.files("h2").is_empty(), "{}", actor.picture());
    assert!(fleet.domain("h3", guest).unwrap().autostart);
}

#[tokio::test(start_paused = true)]
async fn the_targets_pool_fills_up() {
    let (actor, guest) = pair(4, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    at(&actor, guest, "Disks").await;
    actor.fleet.leave_room("h2", 50 * MIB);
    actor
        .says("GuestMigration", "m", "InsufficientDisk", 60)
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(actor.fleet.executing(guest), ["h1"]);
    assert!(actor.fleet.files("h2").is_empty(), "{}", actor.picture());
    assert!(actor.fleet.claims().is_empty());
    actor.fleet.leave_room("h2", 10 << 30);
    actor.phase("m", MigrationPhase::Succeeded, 90).await;
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn somebody_aborts_the_job() {
    for phase in ["Prepare", "Disks", "Memory"] {
        let (actor, guest) = pair(5, &Role::new("one")).await;
        actor.desk.migrate("m", "g1", Some("h2"));
        at(&actor, guest, phase).await;
        actor.fleet.abort_by_hand(guest);
        assert_eq!(actor.ends("m", 60).await, MigrationPhase::Failed);
        actor.says("GuestMigration", "m", "Aborted", 2).await;
        actor.clean(&[(guest, "h1")]).await;
    }
}

/// libvirtd's own call for the migration never returns and holds the guest, with no job to be seen: the guest runs on, and
/// it is said what helps.
#[tokio::test(start_paused = true)]
async fn the_sources_libvirt_does_not_let_go_of_the_guest() {
    let (actor, guest) = pair(5, &Role::new("one")).await;
    actor.desk.migrate("m", "g1", Some("h2"));
    at(&actor, guest, "Disks").await;
    actor.fleet.hold_domain("h1", guest);
    actor.fleet.kill_libvirtd("h2");
    sleep(Duration::from_secs(20)).await;
    actor.fleet.start_libvirtd("h2");
    actor.says("GuestMigration", "m", "JobActive", 120).await;
    let told = actor.condition("GuestMigration", "m", "Succeeded").unwrap();
    assert!(told.message.contains("restart libvirtd on h1"), "{told:?}");
    assert_eq!(actor.fleet.executing(guest), ["h1"]);
    actor.fleet.kill_libvirtd("h1");
    sleep(Duration::from_secs(1)).await;
    actor.fleet.start_libvirtd("h1");
    actor.phase("m", MigrationPhase::Succeeded, 180).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// The target refuses every time: after five attempts it is given up.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted() {
    let (actor, guest) = pair(6, &Role::new("one")).await;
    actor.fleet.cut("h1", "h2", true);
    actor.desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "TargetCannotBeReachedFromSource", 30)
        .await;
    assert_eq!(actor.ends("m", 600).await, MigrationPhase::Failed);
    let status = actor.status("m");
    assert_eq!(
        (status.failed_attempts, status.attempts.len()),
        (5, 5),
        "{}",
        actor.picture()
    );
    actor
        .says("GuestMigration", "m", "AttemptsExhausted", 2)
        .await;
    actor.clean(&[(guest, "h1")]).await;
    assert!(actor.fleet.files("h2").is_empty());
}

/// A copy that can't keep up is ended within its budget, and tried again.
#[tokio::test(start_paused = true)]
async fn a_guest_that_writes_too_much() {
    let (actor, guest) = pair(7, &Role::new("one")).await;
    actor.fleet.dirty(guest, 100_000 * MIB);
    actor.desk.migrate("m", "g1", Some("h2"));
    actor
        .says("GuestMigration", "m", "NotConverging", 400)
        .await;
    actor.fleet.dirty(guest, MIB);
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h2")]).await;
}

/// A copy that stands still says so, once, and goes on when it can.
#[tokio::test(start_paused = true)]
async fn a_copy_that_stands_still() {
    for phase in ["Disks", "Memory"] {
        let (actor, guest) = pair(8, &Role::new("one")).await;
        actor
            .fleet
            .nature(|nature| nature.gives_up = Duration::from_secs(900));
        actor.desk.migrate("m", "g1", Some("h2"));
        at(&actor, guest, phase).await;
        actor.fleet.cut("h1", "h2", true);
        actor.says("GuestMigration", "m", "CopyStalled", 60).await;
        sleep(Duration::from_secs(10)).await;
        actor.quiet(60).await;
        actor.fleet.cut("h1", "h2", false);
        actor.phase("m", MigrationPhase::Succeeded, 200).await;
        actor.clean(&[(guest, "h2")]).await;
    }
}
