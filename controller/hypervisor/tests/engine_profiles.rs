//! How moves are done is declared: which profile is taken, that each of its settings takes effect, and that what can't be
//! done is said before anything begins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use evenkeel_crds::{
    MigrationPhase, MigrationProfileSpec,
    kinds::{
        migration::SourceFiles,
        profile::{Compression, Convergence, Encryption, Switchover},
    },
    quantity::{Bytes, Span},
};
use evenkeel_engine::port::Why;
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, MIB};
use support::*;
use tokio::time::{Instant, sleep};

fn by(desk: &Desk, name: &str, target: &str, profile: Option<&str>) {
    desk.migration(name, |spec| {
        spec.guest = "g1".to_owned();
        spec.target = Some(target.to_owned());
        spec.profile = profile.map(str::to_owned);
    });
}

#[tokio::test(start_paused = true)]
async fn the_move_s_before_the_guest_s_before_default_before_what_is_built_in() {
    let (actor, guest) = pair(1, &Role::new("one").cluster()).await;
    let applied = |name: &str| actor.status(name).profile.unwrap();
    by(&actor.desk, "m1", "h2", None);
    actor.phase("m1", MigrationPhase::Succeeded, 60).await;
    assert_eq!(applied("m1").name, None);
    assert_eq!(applied("m1").spec, MigrationProfileSpec::default());

    actor.desk.profile("default", |spec| spec.attempts = 3);
    by(&actor.desk, "m2", "h1", None);
    actor.phase("m2", MigrationPhase::Succeeded, 60).await;
    assert_eq!(
        (applied("m2").name.as_deref(), applied("m2").spec.attempts),
        (Some("default"), 3)
    );

    actor.desk.profile("databases", |spec| spec.attempts = 7);
    actor
        .desk
        .guest("g1", |spec| spec.profile = Some("databases".to_owned()));
    by(&actor.desk, "m3", "h2", None);
    actor.phase("m3", MigrationPhase::Succeeded, 60).await;
    assert_eq!(applied("m3").name.as_deref(), Some("databases"));
    let guests = |name: &str| actor.view().profiles[name].guests;
    assert_eq!((guests("databases"), guests("default")), (1, 0));

    actor.desk.profile("fast", |spec| spec.attempts = 9);
    by(&actor.desk, "m4", "h1", Some("fast"));
    actor.phase("m4", MigrationPhase::Succeeded, 60).await;
    assert_eq!(applied("m4").name.as_deref(), Some("fast"));
    actor.clean(&[(guest, "h1")]).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_is_said_on_the_move_on_the_guest_and_on_the_drain() {
    let (actor, guest) = pair(2, &Role::new("one").cluster()).await;
    by(&actor.desk, "m", "h2", Some("fats"));
    actor
        .says("GuestMigration", "m", "ProfileNotFound", 2)
        .await;
    assert_eq!(actor.status("m").phase, MigrationPhase::Pending);
    actor.desk.profile("fats", |_| {});
    actor.phase("m", MigrationPhase::Succeeded, 60).await;

    actor
        .desk
        .guest("g1", |spec| spec.profile = Some("gone".to_owned()));
    actor.desk.drain("d", &["h2"], |_| {});
    actor
        .until("the drain is held up", 5, |view| {
            let blocked = view.drains.get("d").map(|shown| shown.blocked.clone());
            blocked.is_some_and(|all| all.iter().any(|one| one.reason == "ProfileNotFound"))
        })
        .await;
    let shown = actor.condition("Guest", "g1", "Migratable").unwrap();
    assert_eq!(
        (shown.status.as_str(), shown.reason.as_str()),
        ("False", "ProfileNotFound")
    );
    assert!(actor.heard("Guest", "g1", "ProfileNotFound"));
    // A move that names another is not held up by it.
    by(&actor.desk, "n", "h1", Some("fats"));
    actor.phase("n", MigrationPhase::Succeeded, 60).await;
    actor.clean(&[(guest, "h1")]).await;
}

#[tokio::test(start_paused = true)]
async fn what_can_t_be_done_is_refused_before_anything_begins() {
    let (actor, guest) = pair(3, &Role::new("one").cluster()).await;
    actor.desk.profile("small", |spec| {
        (spec.compression, spec.connections) = (Compression::Zstd, 4);
    });
    actor.desk.profile("odd", |spec| {
        (spec.compression, spec.connections) = (Compression::Xbzrle, 4);
    });
    actor.desk.profile("sealed", |spec| {
        spec.encryption = Encryption::Required;
    });
    for (name, reason) in [
        ("small", "ProfileNotApplicable"),
        ("odd", "ProfileNotApplicable"),
        ("sealed", "EncryptionUnavailable"),
    ] {
        let name_of_move = format!("m-{name}");
        by(&actor.desk, &name_of_move, "h2", Some(name));
        actor.says("GuestMigration", &name_of_move, reason, 2).await;
    }
    let ready = |name: &str| {
        let status = actor.view().profiles[name].clone();
        let ready = evenkeel_crds::shared::find(&status.conditions, "Ready").cloned();
        ready.map(|ready| (ready.status, ready.reason)).unwrap()
    };
    // The libvirt of these hosts is too old for it, others need not be.
    assert_eq!(ready("small").0, "True");
    assert_eq!(
        ready("odd"),
        ("False".to_owned(), "ProfileNotApplicable".to_owned())
    );
    assert_eq!(ready("sealed").0, "True");
    assert!(actor.heard("MigrationProfile", "odd", "ProfileNotApplicable"));
    sleep(Duration::from_secs(30)).await;
    for name in ["m-small", "m-odd", "m-sealed"] {
        let status = actor.status(name);
        assert_eq!(status.phase, MigrationPhase::Pending);
        assert!(status.attempts.is_empty(), "{:?}", status.attempts);
    }
    actor.clean(&[(guest, "h1")]).await;
}

/// One target's libvirt is too old for what the profile asks for: another one takes the guest.
#[tokio::test(start_paused = true)]
async fn a_drain_finds_a_target_that_can_do_what_the_profile_asks_for() {
    let hosts = [
        HostPlan::new("h1").libvirt("11.3.0"),
        HostPlan::new("h2").memory(64 << 30),
        HostPlan::new("h3").libvirt("11.3.0"),
    ];
    let (fleet, desk) = stage(11, &hosts);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.settled().await;
    desk.profile("default", |spec| {
        (spec.compression, spec.connections) = (Compression::Zstd, 4);
    });
    by(&desk, "m", "h2", None);
    actor
        .says("GuestMigration", "m", "ProfileNotApplicable", 2)
        .await;
    desk.abort("m");
    desk.drain("d", &["h1"], |_| {});
    actor
        .until("it is drained", 120, |view| {
            let hosts = view.drains.get("d").map(|shown| shown.hosts.clone());
            hosts.is_some_and(|hosts| hosts[0].drained)
        })
        .await;
    actor.clean(&[(guest, "h3")]).await;
}

#[tokio::test(start_paused = true)]
async fn bandwidth_and_budget_take_effect() {
    let (actor, guest) = pair(4, &Role::new("one").cluster()).await;
    actor
        .desk
        .profile("slow", |spec| spec.bandwidth = Some(Bytes(20 * MIB)));
    let begun = Instant::now();
    by(&actor.desk, "m", "h2", Some("slow"));
    actor.phase("m", MigrationPhase::Succeeded, 120).await;
    // 912 MiB.
    assert!(
        begun.elapsed() > Duration::from_secs(45),
        "{:?}",
        begun.elapsed()
    );

    actor.desk.profile("impatient", |spec| {
        spec.bandwidth = Some(Bytes(20 * MIB));
        (spec.budget.per_gib, spec.budget.stall) =
            (Span(Duration::from_secs(10)), Span(Duration::from_secs(5)));
        spec.attempts = 1;
    });
    by(&actor.desk, "n", "h1", Some("impatient"));
    assert_eq!(actor.ends("n", 60).await, MigrationPhase::Failed);
    let status = actor.status("n");
    assert_eq!(status.failed_attempts, 1);
    assert_eq!(status.attempts[0].reason, "NotConverging");
    let end = actor.condition("GuestMigration", "n", "Succeeded").unwrap();
    assert_eq!(end.reason, "AttemptsExhausted");
    assert!(end.message.starts_with("failed once"), "{}", end.message);
    actor.clean(&[(guest, "h2")]).await;
}

#[tokio::test(start_paused = true)]
async fn without_help_a_guest_that_writes_too_much_does_not_converge() {
    let (fleet, desk) = stage(5, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let mut plan = GuestPlan::new("g1");
    plan.dirty = 60 * MIB;
    let guest = fleet.add_guest("h1", &plan);
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    actor.desk.profile("alone", |spec| {
        spec.bandwidth = Some(Bytes(20 * MIB));
        spec.convergence.clear();
        spec.attempts = 2;
    });
    by(&actor.desk, "m", "h2", Some("alone"));
    actor.says("GuestMigration", "m", "NotConverging", 30).await;
    let shown = actor
        .condition("GuestMigration", "m", "Converging")
        .unwrap();
    assert_eq!(shown.status, "False");
    assert!(shown.message.contains("not expected to converge"));
    assert_eq!(actor.ends("m", 600).await, MigrationPhase::Failed);
    let status = actor.status("m");
    assert_eq!(status.failed_attempts, 2);
    assert_eq!(status.dirty_rate, Some(Bytes(60 * MIB)));
    let last = status.attempts.last().unwrap();
    assert!(
        last.message.contains("each pass over memory leaves"),
        "{last:?}"
    );
    actor.desk.profile("helped", |spec| {
        spec.bandwidth = Some(Bytes(10 * MIB));
        spec.convergence = vec![Convergence::AutoConverge];
        spec.budget.per_gib = Span(Duration::from_secs(600));
    });
    by(&actor.desk, "n", "h2", Some("helped"));
    actor
        .until("it is slowed down", 300, |view| {
            let shown = view.migrations.get("n");
            shown.is_some_and(|shown| shown.status.throttle.is_some_and(|percent| percent > 0))
        })
        .await;
    actor.phase("n", MigrationPhase::Succeeded, 900).await;
    assert_eq!(actor.condition("GuestMigration", "n", "Converging"), None);
    actor.clean(&[(guest, "h2")]).await;
}

/// Whoever takes a move over does it as it was begun, whatever the profile says by then.
#[tokio::test(start_paused = true)]
async fn a_move_that_is_taken_over_keeps_its_profile() {
    let (actor, guest) = pair(6, &Role::new("one").files()).await;
    actor
        .desk
        .profile("slow", |spec| spec.bandwidth = Some(Bytes(20 * MIB)));
    by(&actor.desk, "m", "h2", Some("slow"));
    actor.phase("m", MigrationPhase::Copying, 30).await;
    let (fleet, desk) = (actor.fleet.clone(), actor.desk.clone());
    actor.kill().await;
    desk.profile("slow", |spec| spec.attempts = 2);
    let next = Actor::start(&fleet, &desk, &Role::new("two").files());
    next.phase("m", MigrationPhase::Succeeded, 300).await;
    let applied = next.status("m").profile.unwrap();
    assert_eq!(
        (applied.spec.bandwidth, applied.spec.attempts),
        (Some(Bytes(20 * MIB)), 5)
    );
    next.clean(&[(guest, "h2")]).await;
}

fn guarded(spec: &mut MigrationProfileSpec) {
    spec.switchover = Switchover::Guarded;
}

#[tokio::test(start_paused = true)]
async fn a_guarded_guest_runs_once_the_source_is_gone() {
    let (actor, guest) = pair(7, &Role::new("one").cluster()).await;
    actor.desk.profile("default", guarded);
    by(&actor.desk, "m", "h2", None);
    actor
        .until("it waits at the target", 60, |_| {
            let there = actor.fleet.domain("h2", guest);
            there.is_some_and(|own| own.persistent && own.why == Why::ByUser)
        })
        .await;
    assert!(actor.fleet.executing(guest).is_empty());
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    let stood_still = actor.status("m").downtime.unwrap().0;
    // The source's QEMU takes more than a second to exit.
    assert!(
        stood_still > Duration::from_secs(1),
        "{stood_still:?} is libvirt's figure, not ours"
    );
    actor.clean(&[(guest, "h2")]).await;
}

/// The answer to Finish is lost: with `Fast` the guest then runs twice.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_doubles_no_guarded_guest() {
    for seed in seeds(20, 20) {
        let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
        fleet.nature(|nature| nature.answer_lost = Some(true));
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
        let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
        actor.settled().await;
        desk.profile("default", guarded);
        by(&desk, "m", "h2", None);
        actor.loses_libvirtd_in_the_switch(guest, "h2").await;
        actor.phase("m", MigrationPhase::Succeeded, 300).await;
        actor.clean(&[(guest, "h2")]).await;
    }
}

/// Killed at every moment from the switch on, and followed by another.
async fn killed_from_the_switch_on(seed: u64, profile: fn(&mut MigrationProfileSpec)) {
    for step in 0..60 {
        let (fleet, desk) = stage(seed + step, &[HostPlan::new("h1"), HostPlan::new("h2")]);
        let guest = fleet.add_guest("h1", &GuestPlan::new("g1").autostart());
        let first = Role::new("one").files().process(dead_process());
        let actor = Actor::start(&fleet, &desk, &first);
        actor.settled().await;
        desk.profile("default", profile);
        by(&desk, "m", "h2", None);
        actor
            .until("it switches", 60, |_| {
                fleet.phase(guest).as_deref() == Some("Switch")
            })
            .await;
        sleep(Duration::from_millis(step * 50)).await;
        actor.kill().await;
        // Nobody does anything, however long that takes.
        sleep(Duration::from_secs(20)).await;
        let next = Actor::start(&fleet, &desk, &Role::new("two").files());
        next.phase("m", MigrationPhase::Succeeded, 120).await;
        next.until("nothing is left", 120, |_| {
            fleet.journals().is_empty() && fleet.files("h1").is_empty()
        })
        .await;
        next.clean(&[(guest, "h2")]).await;
        assert!(fleet.domain("h2", guest).unwrap().autostart);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guarded_guest_is_let_go_by_whoever_comes_next() {
    killed_from_the_switch_on(0, guarded).await;
}

#[tokio::test(start_paused = true)]
async fn kept_disks_outlive_kills_and_go_in_the_end() {
    killed_from_the_switch_on(100, |spec| {
        spec.keep_source = Span(Duration::from_secs(30));
    })
    .await;
}

fn kept(seconds: u64) -> impl FnOnce(&mut MigrationProfileSpec) {
    move |spec| spec.keep_source = Span(Duration::from_secs(seconds))
}

const LEFT: &str = "/pools/default/g1-vda.qcow2";

fn keeps(fleet: &Fleet, host: &str) -> bool {
    fleet.files(host).iter().any(|file| file == LEFT)
}

#[tokio::test(start_paused = true)]
async fn disks_are_kept_at_the_source_for_as_long_as_declared() {
    let (actor, guest) = pair(8, &Role::new("one").cluster()).await;
    actor.desk.profile("default", kept(120));
    actor.desk.drain("d", &["h1"], |_| {});
    actor
        .until("it is drained", 60, |view| {
            let hosts = view.drains.get("d").map(|shown| shown.hosts.clone());
            hosts.is_some_and(|hosts| hosts[0].drained && hosts[0].retained == 1)
        })
        .await;
    let view = actor.view();
    let shown = view.migrations.values().next().unwrap();
    let evidence = shown.status.evidence.clone().unwrap();
    assert_eq!(evidence.source_files, SourceFiles::Retained);
    sleep(Duration::from_secs(60)).await;
    assert!(keeps(&actor.fleet, "h1"));
    let journals = actor.fleet.journals();
    assert_eq!(journals.len(), 1, "{journals:?}");
    assert_eq!(journals[0].0, "h1");

    // Back to where they are it goes only when they are gone.
    actor.desk.undrain("d");
    by(&actor.desk, "back", "h1", None);
    actor.says("GuestMigration", "back", "SourceKept", 5).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(actor.status("back").phase, MigrationPhase::Pending);
    actor.desk.profile("default", |_| {});
    actor.phase("back", MigrationPhase::Succeeded, 120).await;
    actor.clean(&[(guest, "h1")]).await;
    assert_eq!(actor.fleet.files("h2"), Vec::<String>::new());
}

/// The next process knows of them from the journal alone, and removes nothing without the proof.
#[tokio::test(start_paused = true)]
async fn kept_disks_are_removed_by_whoever_comes_next_and_only_on_proof() {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(9, &hosts);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    let first = Role::new("one").files().process(dead_process());
    let actor = Actor::start(&fleet, &desk, &first);
    desk.profile("default", kept(2));
    by(&desk, "m", "h2", None);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    actor.kill().await;
    // The holder does not answer: then nothing is known of the guest.
    fleet.kill_libvirtd("h2");
    let next = Actor::start(&fleet, &desk, &Role::new("two").files());
    sleep(Duration::from_secs(60)).await;
    assert!(keeps(&fleet, "h1"), "removed without a word of the guest");
    fleet.start_libvirtd("h2");
    next.until("they are gone", 60, |_| {
        !keeps(&fleet, "h1") && fleet.journals().is_empty()
    })
    .await;
    next.clean(&[(guest, "h2")]).await;
}

/// The guest has gone on to a third host by then.
#[tokio::test(start_paused = true)]
async fn kept_disks_go_where_the_guest_went_on() {
    let hosts = ["h1", "h2", "h3"].map(HostPlan::new);
    let (fleet, desk) = stage(10, &hosts);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    let actor = Actor::start(&fleet, &desk, &Role::new("one").cluster());
    desk.profile("default", kept(60));
    by(&desk, "m", "h2", None);
    actor.phase("m", MigrationPhase::Succeeded, 60).await;
    by(&desk, "n", "h3", None);
    actor.phase("n", MigrationPhase::Succeeded, 60).await;
    assert!(keeps(&fleet, "h1") && keeps(&fleet, "h2"));
    actor
        .until("both are gone", 120, |_| {
            !keeps(&fleet, "h1") && !keeps(&fleet, "h2")
        })
        .await;
    actor.clean(&[(guest, "h3")]).await;
}
