use std::sync::Arc;

use evenkeel_crds::{
    GuestMigrationSpec, GuestMigrationStatus, HostDrain, HostDrainStatus, HostStatus,
    kinds::drain::DrainedHost,
    shared::{Answer, RequestedBy, Timestamp, condition},
};
use evenkeel_planner::{Fleet, Guest, GuestId, Host, HostId, Move, Needs, Offers, Plan, Rejection};

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn by(kind: &str, name: &str) -> RequestedBy {
    RequestedBy {
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: String::new(),
    }
}

fn host(name: &str) -> Host {
    Host {
        name: name.into(),
        labels: Default::default(),
        out_of_reach: None,
        closed: None,
        cpu_limit_milli: 0,
        cpu_used_milli: 0,
        cpu_there_milli: 0,
        memory_limit: Default::default(),
        memory_used: Default::default(),
        pools: Vec::new(),
        bases: Default::default(),
        bandwidth: None,
        max_inbound: 1,
        max_outbound: 1,
        offers: Offers::default(),
        domains: Default::default(),
    }
}

fn guest(name: &str) -> Guest {
    Guest {
        name: name.into(),
        domain: name.to_owned(),
        uuid: String::new(),
        labels: Default::default(),
        host: HostId(0),
        active: true,
        immovable: None,
        held: None,
        evacuation: None,
        cpu_milli: 0,
        memory: Default::default(),
        overhead: Default::default(),
        disks: Vec::new(),
        bases: Default::default(),
        load: None,
        dirty_rate: None,
        bandwidth: None,
        priority: 0,
        needs: Needs::default(),
    }
}

/// Two hosts, one guest on the first, and a drain of it.
fn view(drained: Answer, ready: Reason) -> View {
    let status = HostDrainStatus {
        conditions: vec![
            condition(
                "Drained",
                drained,
                Reason::GuestsLeft,
                "1 active guest on h1",
                None,
                NOW,
            ),
            condition("Ready", drained, ready, "a sentence", None, NOW),
        ],
        hosts: vec![DrainedHost {
            name: "h1".into(),
            drained: drained == Answer::True,
            ..Default::default()
        }],
        ..HostDrainStatus::default()
    };
    View {
        settled: true,
        fleet: Arc::new(Fleet {
            hosts: vec![host("h1"), host("h2")],
            guests: vec![guest("web-1")],
            ..Fleet::default()
        }),
        drains: [("d".into(), Arc::new(status))].into(),
        ..View::default()
    }
}

fn wishes() -> Wishes {
    Wishes {
        drains: [("d".to_owned(), Arc::new(HostDrain::default()))].into(),
        ..Wishes::default()
    }
}

fn planned(waits: Option<Reason>) -> Plan {
    let moves = vec![Move {
        by: by("HostDrain", "d"),
        guest: GuestId(0),
        source: HostId(0),
        target: HostId(1),
        pools: Default::default(),
        bytes: Default::default(),
        start: Duration::ZERO,
        duration: None,
        disks: None,
        waits: waits.map(|reason| Cause::new(reason, "")),
        makes_way_for: None,
        onward: None,
    }];
    Plan {
        moves,
        ..Plan::default()
    }
}

fn rejected(reason: Reason, hosts: &[Reason]) -> Plan {
    let count = |reason: &Reason| HostCount {
        reason: reason.to_string(),
        count: 1,
        examples: Vec::new(),
    };
    let rejections = vec![Rejection {
        by: by("HostDrain", "d"),
        guest: GuestId(0),
        cause: Cause::new(reason, "0/2 hosts fit"),
        hosts: hosts.iter().map(count).collect(),
    }];
    Plan {
        rejections,
        ..Plan::default()
    }
}

fn with(plan: Plan) -> View {
    View {
        plan: Arc::new(plan),
        ..view(Answer::False, Reason::GuestsLeft)
    }
}

fn migration(phase: MigrationPhase, reason: Reason) -> View {
    let status = GuestMigrationStatus {
        phase,
        conditions: vec![condition(
            "Succeeded",
            Answer::Unknown,
            reason,
            "a sentence",
            None,
            NOW,
        )],
        ..GuestMigrationStatus::default()
    };
    let shown = MigrationView {
        declared: true,
        spec: GuestMigrationSpec::default(),
        requested_by: by("GuestMigration", "m"),
        status,
    };
    View {
        settled: true,
        migrations: [("m".into(), Arc::new(shown))].into(),
        ..View::default()
    }
}

fn both(view: &View) -> (Exit, Stage) {
    (of_plan(view, &wishes()), of_apply(view, &wishes(), false))
}

#[test]
fn exit_codes_of_plan_and_stages_of_apply() {
    use Answer::{False, True, Unknown};
    use Stage::{Converged, Stuck, Working};
    let impossible = |patience| Stuck(Exit::Impossible, patience);
    for (name, view, plan, apply) in [
        (
            "drained",
            view(True, Reason::Completed),
            Exit::Done,
            Converged,
        ),
        (
            "nothing asked",
            View {
                settled: true,
                ..View::default()
            },
            Exit::Done,
            Converged,
        ),
        ("a move to start", with(planned(None)), Exit::ToDo, Working),
        (
            "a move in backoff",
            with(planned(Some(Reason::BackingOff))),
            Exit::ToDo,
            Working,
        ),
        (
            "no room",
            with(rejected(Reason::NoHostFits, &[Reason::InsufficientMemory])),
            Exit::Impossible,
            impossible(SHORT),
        ),
        (
            "silent",
            view(Unknown, Reason::HostUnreachable),
            Exit::Impossible,
            impossible(LONG),
        ),
        (
            "a block job",
            with(rejected(Reason::BlockJobActive, &[])),
            Exit::Impossible,
            impossible(LONG),
        ),
        (
            "claimed",
            with(rejected(Reason::ClaimedByOther, &[])),
            Exit::Claimed,
            Stuck(Exit::Claimed, CLAIM),
        ),
        (
            "claimed among others",
            with(rejected(
                Reason::NoHostFits,
                &[Reason::InsufficientMemory, Reason::ClaimedByOther],
            )),
            Exit::Claimed,
            Stuck(Exit::Claimed, CLAIM),
        ),
        (
            "waits for a claim",
            with(planned(Some(Reason::ClaimedByOther))),
            Exit::Claimed,
            Stuck(Exit::Claimed, CLAIM),
        ),
        (
            "suspended",
            view(False, Reason::Suspended),
            Exit::Done,
            Converged,
        ),
        (
            "too late",
            view(False, Reason::DeadlineExceeded),
            Exit::Impossible,
            Stuck(Exit::Deadline, SHORT),
        ),
        (
            "copying",
            migration(MigrationPhase::Copying, Reason::InProgress),
            Exit::ToDo,
            Working,
        ),
        (
            "succeeded",
            migration(MigrationPhase::Succeeded, Reason::Completed),
            Exit::Done,
            Converged,
        ),
        (
            "there already",
            migration(MigrationPhase::Succeeded, Reason::MigrateToSelf),
            Exit::Done,
            Converged,
        ),
        (
            "failed",
            migration(MigrationPhase::Failed, Reason::AttemptsExhausted),
            Exit::Impossible,
            impossible(SHORT),
        ),
        (
            "past its deadline",
            migration(MigrationPhase::Failed, Reason::DeadlineExceeded),
            Exit::Impossible,
            Stuck(Exit::Deadline, SHORT),
        ),
        (
            "its host is claimed",
            migration(MigrationPhase::Pending, Reason::ClaimedByOther),
            Exit::Claimed,
            Stuck(Exit::Claimed, CLAIM),
        ),
        (
            "takes its claim",
            migration(MigrationPhase::Pending, Reason::Waiting),
            Exit::Done,
            Working,
        ),
    ] {
        assert_eq!(both(&view), (plan, apply), "{name}");
    }
}

#[test]
fn with_wait_other_holders_are_waited_for() {
    let view = with(rejected(Reason::ClaimedByOther, &[]));
    assert_eq!(
        of_apply(&view, &wishes(), true),
        Stage::Stuck(Exit::Claimed, EVER)
    );
}

#[test]
fn a_claim_on_a_host_that_nothing_touches_is_nobodys_business() {
    let claimed = |name: &str| {
        let claim = condition(
            "ClaimedByOther",
            Answer::True,
            Reason::ClaimedByOther,
            "apply@b:1 holds it",
            None,
            NOW,
        );
        let status = HostStatus {
            conditions: vec![claim],
            ..HostStatus::default()
        };
        View {
            hosts: [(name.into(), Arc::new(status))].into(),
            ..with(planned(None))
        }
    };
    assert_eq!(both(&claimed("h2")).0, Exit::Claimed);
    assert_eq!(both(&claimed("h3")).0, Exit::ToDo);
}

#[test]
fn an_abort_that_was_asked_for_is_no_failure() {
    let mut view = migration(MigrationPhase::Aborted, Reason::Aborted);
    assert_eq!(both(&view).0, Exit::Impossible);
    let mut asked = (*view.migrations["m"]).clone();
    asked.spec.abort = Some(true);
    view.migrations.insert("m".into(), Arc::new(asked));
    assert_eq!(both(&view), (Exit::Done, Stage::Converged));
}

#[test]
fn one_obstacle_is_told_once() {
    let mut view = with(rejected(Reason::NoHostFits, &[]));
    let cause = Cause::new(Reason::NoHostFits, "0/2 hosts fit");
    view.problems = vec![evenkeel_engine::Problem {
        kind: "HostDrain",
        name: "d".into(),
        cause,
    }];
    let found = obstacles(&view, &wishes());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].guest.as_deref(), Some("web-1"));
}

#[test]
fn what_only_a_cluster_can_give_is_noted_and_in_nobodys_way() {
    let mut view = view(Answer::True, Reason::Completed);
    assert_eq!(notes(&view), Vec::<String>::new());
    for number in 1..=7 {
        let reason = Reason::NoCluster;
        let said = condition("NodeFollowed", Answer::False, reason, "no", None, NOW);
        let status = HostStatus {
            conditions: vec![said],
            ..HostStatus::default()
        };
        let name = format!("h{number}");
        view.hosts.insert(name.into(), Arc::new(status));
    }
    let notes = notes(&view);
    assert_eq!(notes.len(), 6);
    assert_eq!(notes[0], "Host h1: NoCluster: no");
    assert_eq!(notes[5], "and 2 more Hosts: NoCluster");
    assert_eq!(both(&view), (Exit::Done, Stage::Converged));
}
