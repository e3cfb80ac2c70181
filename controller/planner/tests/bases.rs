//! Base images: brought to a host once, for all guests on them, and left where they were.

mod support;

use std::collections::BTreeSet;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

const BASE: u64 = 10 * GI;

/// Guests of 1 GiB with a disk of 4 GiB, half of it occupied, on one base image of 10 GiB; by their hosts.
fn on_a_base(hosts: &[&str], guests: &[u32]) -> Fleet {
    let guests = guests.iter().enumerate().map(|(at, host)| {
        let mut guest = guest(&format!("g{at}"), *host, GI);
        guest.disks = vec![disk("vda", "default", 4 * GI)];
        guest.bases = BTreeSet::from([BaseId(0)]);
        guest
    });
    let mut fleet = fleet(
        hosts.iter().map(|name| host(name)).collect(),
        guests.collect(),
    );
    fleet.bases = vec![Base {
        path: "/images/base.qcow2".into(),
        pool: Some("default".into()),
        allocated: Bytes(BASE),
    }];
    for at in 0..fleet.guests.len() {
        let host = fleet.guests[at].host.at();
        fleet.hosts[host].bases.insert(BaseId(0));
    }
    fleet
}

fn planned(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger) -> Plan {
    let plan = plan(fleet, wishes, ledger, NOW);
    checker::check(fleet, wishes, ledger, NOW, &plan);
    plan
}

#[test]
fn it_travels_once_to_each_target() {
    let fleet = on_a_base(&["h0", "h1", "h2"], &[0; 12]);
    let plan = planned(&fleet, &[drain("d", &[0], 12)], &Ledger::default());
    let targets: BTreeSet<HostId> = plan.moves.iter().map(|step| step.target).collect();
    assert_eq!((plan.moves.len(), targets.len()), (12, 2));
    assert_eq!(plan.bytes.0, 12 * 3 * GI + 2 * BASE);
    for target in targets {
        let first = plan.moves.iter().find(|step| step.target == target);
        assert_eq!(first.map(|step| step.bytes.0), Some(3 * GI + BASE));
    }
}

#[test]
fn a_host_that_has_it_is_reached_sooner() {
    // Equal hosts, but for the last one's guest on the same base image, which is stopped.
    let mut fleet = on_a_base(&["h0", "h1", "h2"], &[0, 2]);
    fleet.guests[1].active = false;
    fleet.hosts[2].cpu_used_milli = 0;
    fleet.hosts[2].memory_used = Bytes(0);
    let plan = planned(&fleet, &[drain("d", &[0], 1)], &Ledger::default());
    assert_eq!(plan.moves[0].target, HostId(2));
    assert_eq!(plan.bytes.0, 3 * GI);
}

#[test]
fn it_takes_room_once_and_leaves_none_behind() {
    let mut fleet = on_a_base(&["h0", "h1"], &[0; 3]);
    // For two of them and the base image.
    fleet.hosts[1].pools[0].available = Bytes(BASE + 2 * 4 * GI);
    let wish = [drain("d", &[0], 3)];
    let plan = planned(&fleet, &wish, &Ledger::default());
    assert_eq!((plan.moves.len(), plan.rejections.len()), (2, 1));
    let said = &plan.rejections[0].cause.message;
    assert!(said.contains("InsufficientDisk"), "{said}");
    // What leaves frees its own layer, and not the base image.
    let mut fleet = on_a_base(&["h0", "h1"], &[0, 1]);
    fleet.hosts[0].pools[0].available = Bytes(GI);
    fleet.hosts[1].pools[0].available = Bytes(4 * GI);
    let wishes = [go("a", 0, Some(1)), go("b", 1, Some(0))];
    let plan = planned(&fleet, &wishes, &Ledger::default());
    assert_eq!((plan.moves.len(), plan.rejections.len()), (1, 1));
}

#[test]
fn a_file_system_without_room_for_it_is_named() {
    let mut fleet = on_a_base(&["h0", "h1"], &[0]);
    fleet.bases[0].pool = Some("bases".into());
    for host in &mut fleet.hosts {
        host.pools.push(pool("bases", 6 * GI, 1));
    }
    let plan = planned(&fleet, &[go("m", 0, Some(1))], &Ledger::default());
    let cause = &plan.rejections[0].cause;
    assert_eq!(cause.reason, Reason::InsufficientDisk);
    assert_eq!(
        cause.message,
        "pool bases of h1 lacks 4Gi of free space for base images of g0: it needs 10Gi, 6Gi is left"
    );
}

#[test]
fn one_on_its_way_is_not_brought_twice() {
    let fleet = on_a_base(&["h0", "h1"], &[0, 0]);
    let ledger = Ledger {
        in_flight: vec![flight(&fleet, None, 1, 1)],
        ..Ledger::default()
    };
    let plan = planned(&fleet, &[go("m", 0, Some(1))], &ledger);
    assert_eq!(plan.bytes.0, 3 * GI);
}

#[test]
fn a_limit_on_bytes_counts_it() {
    let mut fleet = on_a_base(&["h0", "h1"], &[0; 4]);
    for host in &mut fleet.hosts {
        host.memory_limit = Bytes(8 * GI);
    }
    let policy = |bytes: u64| Wish {
        by: by("RebalancePolicy", "level"),
        what: What::Balance(Balance {
            hosts: [HostId(0), HostId(1)].into(),
            weights: Weights {
                cpu: 0,
                memory: 1,
                disk: 0,
            },
            start: 5,
            stop: 1,
            parallel: 1,
            bytes: Some(Bytes(bytes)),
            ..Balance::default()
        }),
    };
    let moves = |bytes| {
        planned(&fleet, &[policy(bytes)], &Ledger::default())
            .moves
            .len()
    };
    assert_eq!((moves(12 * GI), moves(13 * GI)), (0, 1));
}
