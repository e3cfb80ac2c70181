//! What others got wrong, by name, and what the words of a plan look like.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use support::*;

fn nothing() -> Ledger {
    Ledger::default()
}

#[test]
fn proxlb_378_seventy_gb_do_not_go_where_58_are_free() {
    let mut web = guest("web", 0, GI);
    web.disks.push(disk("vda", "default", 70 * GI));
    let mut h2 = host("h2");
    h2.pools[0].available = Bytes(58 * GI);
    let fleet = fleet(vec![host("h1"), h2], vec![web]);
    let plan = planned(&fleet, &[go("m", 0, Some(1))], &nothing());
    let refused = refused(&plan);
    assert_eq!(refused.cause.reason, Reason::InsufficientDisk);
    assert_eq!(
        refused.cause.message,
        "pool default of h2 lacks 12Gi of free space for vda of web: it needs 70Gi, 58Gi is left"
    );
    let drained = planned(&fleet, &[drain("d", &[0], 4)], &nothing());
    assert_eq!(
        support::refused(&drained).hosts[0].reason,
        "InsufficientDisk"
    );
}

#[test]
fn nova_two_moves_admitted_at_once_do_not_overfill() {
    let mut h2 = host("h2");
    h2.memory_limit = Bytes(6 * GI);
    let fleet = fleet(
        vec![host("h1"), h2],
        vec![guest("a", 0, 4 * GI), guest("b", 0, 4 * GI)],
    );
    let plan = planned(
        &fleet,
        &[go("ma", 0, Some(1)), go("mb", 1, Some(1))],
        &nothing(),
    );
    assert_eq!((plan.moves.len(), plan.rejections.len()), (1, 1));
    assert_eq!(
        plan.rejections[0].cause.message,
        "h2 lacks 2Gi of memory for b: it needs 4Gi, 2Gi of 6Gi is left with one move to there counted"
    );
    // And one by one, as they start.
    let pools = BTreeMap::new();
    let mut ledger = nothing();
    let admit_to_h2 =
        |ledger: &Ledger, guest| admit(&fleet, &[], ledger, GuestId(guest), HostId(1), &pools, NOW);
    admit_to_h2(&ledger, 0).unwrap();
    ledger.in_flight.push(flight(&fleet, None, 0, 1));
    let cause = admit_to_h2(&ledger, 1).unwrap_err();
    assert_eq!(cause.reason, Reason::InsufficientMemory);
    assert_eq!(
        admit_to_h2(&ledger, 0).unwrap_err().reason,
        Reason::GuestBusy
    );
}

#[test]
fn guests_in_flight_are_not_forgotten() {
    let mut big = guest("big", 2, 20 * GI);
    big.disks.push(disk("vda", "default", 990 * GI));
    let mut small = guest("small", 0, 3 * GI);
    small.disks.push(disk("vda", "default", 20 * GI));
    let hosts = vec![host("h1"), host("h2"), host("h3")];
    let fleet = fleet(hosts, vec![big, small]);
    let mut ledger = nothing();
    ledger.in_flight.push(flight(&fleet, None, 0, 1));
    let plan = planned(&fleet, &[go("m", 1, Some(1))], &ledger);
    assert_eq!(
        refused(&plan).cause.message,
        "pool default of h2 lacks 10Gi of free space for vda of small: it needs 20Gi, 10Gi is left with one move to there counted"
    );
    ledger.in_flight[0].pools.clear();
    let plan = planned(&fleet, &[go("m", 1, Some(1))], &ledger);
    assert_eq!(plan.moves.len(), 1);
    ledger.in_flight[0].memory = Bytes(22 * GI);
    let plan = planned(&fleet, &[go("m", 1, Some(1))], &ledger);
    assert_eq!(refused(&plan).cause.reason, Reason::InsufficientMemory);
}

#[test]
fn harvester_10698_an_evacuation_without_a_target_names_the_guest_and_every_hosts_reason() {
    let mut away = host("h2");
    away.out_of_reach = Some(cause(Reason::HostUnreachable));
    let mut full = host("h3");
    full.memory_limit = Bytes(GI);
    let mut full_too = host("h4");
    full_too.memory_limit = Bytes(GI);
    let mut other = host("h5");
    other.offers.networks.clear();
    let hosts = vec![host("h1"), away, full, full_too, other, host("h6")];
    let fleet = fleet(hosts, vec![guest("web", 0, 2 * GI)]);
    let wishes = [drain("d", &[0], 4), drain("e", &[5], 4)];
    let plan = planned(&fleet, &wishes, &nothing());
    let refused = refused(&plan);
    assert_eq!(refused.guest, GuestId(0));
    assert_eq!(
        refused.cause.to_string(),
        "NoHostFits: 0/5 hosts fit: 2 InsufficientMemory, 1 HostUnreachable, 1 NetworkMissing, 1 TargetDraining"
    );
    let first = &refused.hosts[0].examples[0];
    assert_eq!(
        (first.host.as_str(), first.message.as_str()),
        (
            "h3",
            "h3 lacks 1Gi of memory for web: it needs 2Gi, 1Gi of 1Gi is left"
        )
    );
    assert_eq!(
        refused.hosts[2].examples[0].message,
        "h5 lacks network lan of web"
    );
    assert_eq!(plan, planned(&fleet, &wishes, &nothing()));
}

#[test]
fn kubevirt_15348_a_target_one_byte_too_small_is_found() {
    let mut web = guest("web", 0, GI);
    web.disks.push(disk("vda", "default", 10 * GI + 1));
    let mut h2 = host("h2");
    h2.pools[0].available = Bytes(10 * GI);
    let mut fleet = fleet(vec![host("h1"), h2], vec![web]);
    let wish = [go("m", 0, Some(1))];
    assert_eq!(
        refused(&planned(&fleet, &wish, &nothing())).cause.message,
        "pool default of h2 lacks 1 byte of free space for vda of web: it needs 10.0Gi, 10Gi is left"
    );
    fleet.hosts[1].pools[0].available = Bytes(10 * GI + 1);
    assert_eq!(planned(&fleet, &wish, &nothing()).moves.len(), 1);
    fleet.hosts[1].pools[0].virtual_limit = Some(Bytes(10 * GI));
    assert_eq!(
        refused(&planned(&fleet, &wish, &nothing())).cause.message,
        "pool default of h2 lacks 1 byte of room for virtual sizes for vda of web: it needs 10.0Gi, 10Gi of 10Gi is left"
    );
    fleet.hosts[1].pools[0].virtual_limit = None;
    fleet.hosts[1].memory_limit = Bytes(GI - 1);
    assert_eq!(
        refused(&planned(&fleet, &wish, &nothing())).cause.message,
        "h2 lacks 1 byte of memory for web: it needs 1Gi, 1024.0Mi of 1024.0Mi is left"
            .replace("1024.0Mi", "1024Mi")
    );
}

#[test]
fn self_migration_says_so() {
    let fleet = fleet(vec![host("h1"), host("h2")], vec![guest("web", 0, GI)]);
    let plan = planned(&fleet, &[go("m", 0, Some(0))], &nothing());
    assert!(plan.moves.is_empty() && plan.rejections.is_empty());
    assert_eq!(plan.satisfied[0].cause.reason, Reason::MigrateToSelf);
    assert_eq!(plan.satisfied[0].cause.message, "web is on h1 already");
    let again = admit(
        &fleet,
        &[],
        &nothing(),
        GuestId(0),
        HostId(0),
        &BTreeMap::new(),
        NOW,
    );
    assert_eq!(again.unwrap_err().reason, Reason::MigrateToSelf);
}

#[test]
fn every_need_has_its_own_word() {
    type Change = fn(&mut Host, &mut Guest);
    let cases: &[(Reason, Change)] = &[
        (Reason::HostUnreachable, |host, _| {
            host.out_of_reach = Some(cause(Reason::HostUnreachable));
        }),
        (Reason::TargetUnschedulable, |host, _| {
            host.closed = Some(cause(Reason::TargetUnschedulable));
        }),
        (Reason::SlotsTaken, |host, _| host.max_inbound = 0),
        (Reason::DomainNameTaken, |host, guest| {
            host.domains.insert(guest.domain.clone(), "another".into());
        }),
        (Reason::DomainDefinedAtTarget, |host, guest| {
            host.domains.insert("another".into(), guest.uuid.clone());
        }),
        (Reason::EmulatorMissing, |_, guest| {
            guest.needs.emulator = "/opt/qemu".into()
        }),
        (Reason::MachineTypeMissing, |_, guest| {
            guest.needs.machine = "pc-9".into()
        }),
        (Reason::HypervisorOlder, |_, guest| {
            guest.needs.hypervisor = [8, 2, 1]
        }),
        (Reason::IncompatibleCPU, |_, guest| {
            guest.needs.cpu = Some("cpu-b".into())
        }),
        (Reason::NetworkMissing, |_, guest| {
            guest.needs.bridges.insert("br7".into());
            guest.needs.nwfilters.insert("clean".into());
        }),
        (Reason::SharedStorageMissing, |_, guest| {
            let there = ("shared".into(), "/srv/shared".into());
            guest.needs.storage.extend([there]);
        }),
        (Reason::SharedPathDiffers, |_, guest| {
            let there = ("default".into(), "/srv/shared".into());
            guest.needs.storage.extend([there]);
        }),
        (Reason::InsufficientMemory, |host, _| {
            host.memory_used = host.memory_limit
        }),
        (Reason::InsufficientCPU, |host, _| {
            host.cpu_used_milli = 31_500
        }),
        (Reason::PoolMissing, |host, _| host.pools.clear()),
        (Reason::PoolMissing, |host, _| {
            host.pools[0].closed = Some(cause(Reason::PoolMissing));
        }),
        (Reason::InsufficientDisk, |host, _| {
            host.pools[0].available = Bytes(0)
        }),
    ];
    for (reason, change) in cases {
        let mut web = guest("web", 0, GI);
        web.disks.push(disk("vda", "default", GI));
        let mut h2 = host("h2");
        change(&mut h2, &mut web);
        let fleet = fleet(vec![host("h1"), h2], vec![web]);
        let plan = planned(&fleet, &[go("m", 0, Some(1))], &nothing());
        let refused = refused(&plan);
        assert_eq!(refused.cause.reason, *reason);
        assert!(
            !refused.cause.message.contains("; also"),
            "{}",
            refused.cause
        );
        let admitted = admit(
            &fleet,
            &[],
            &nothing(),
            GuestId(0),
            HostId(1),
            &BTreeMap::new(),
            NOW,
        );
        assert_eq!(admitted.unwrap_err(), refused.cause);
        let free = planned(&fleet, &[go("m", 0, None)], &nothing());
        assert_eq!(support::refused(&free).hosts[0].reason, reason.as_str());
    }
}

#[test]
fn all_reasons_of_a_named_target_are_told_safety_first() {
    let mut web = guest("web", 0, 30 * GI);
    web.needs.networks.insert("dmz".into());
    let fleet = fleet(vec![host("h1"), host("h2")], vec![web]);
    let plan = planned(
        &fleet,
        &[go("m", 0, Some(1)), drain("d", &[1], 1)],
        &nothing(),
    );
    assert_eq!(
        refused(&plan).cause.to_string(),
        "TargetDraining: h2 is being drained: web can't move there; also NetworkMissing: h2 lacks network dmz of web; \
         also InsufficientMemory: h2 lacks 6Gi of memory for web: it needs 30Gi, 24Gi of 24Gi is left"
    );
}

#[test]
fn a_host_over_its_limit_takes_nothing_and_says_by_how_much() {
    let mut h2 = host("h2");
    h2.memory_used = Bytes(26 * GI);
    let fleet = fleet(vec![host("h1"), h2], vec![guest("web", 0, GI)]);
    assert_eq!(
        refused(&planned(&fleet, &[go("m", 0, Some(1))], &nothing()))
            .cause
            .message,
        "h2 is over its limit of memory by 2Gi: it takes nothing, so not web with 1Gi either"
    );
}

#[test]
fn disks_go_to_the_named_pool_else_the_same_name_else_the_same_class() {
    let mut web = guest("web", 0, GI);
    web.disks.push(disk("vda", "default", GI));
    web.disks.push(disk("vdb", "fast", GI));
    web.disks.push(disk("vdc", "default", GI));
    web.disks[1].class = Some("ssd".into());
    let mut h2 = host("h2");
    h2.pools.push(pool("nvme", 10 * GI, 1));
    h2.pools[1].class = Some("ssd".into());
    h2.pools.push(pool("spare", 10 * GI, 2));
    let fleet = fleet(vec![host("h1"), h2], vec![web]);
    let mut wish = go("m", 0, Some(1));
    if let What::Move { pools, .. } = &mut wish.what {
        pools.insert("vdc".into(), "spare".into());
    }
    let plan = planned(&fleet, &[wish], &nothing());
    let pools: Vec<(&str, &str)> = plan.moves[0]
        .pools
        .iter()
        .map(|(disk, pool)| (disk.as_str(), pool.as_str()))
        .collect();
    assert_eq!(
        pools,
        [("vda", "default"), ("vdb", "nvme"), ("vdc", "spare")]
    );
}

#[test]
fn pools_on_one_file_system_share_what_is_free() {
    let mut web = guest("web", 0, GI);
    web.disks.push(disk("vda", "one", 6 * GI));
    web.disks.push(disk("vdb", "two", 6 * GI));
    let mut h2 = host("h2");
    h2.pools = vec![pool("one", 10 * GI, 7), pool("two", 10 * GI, 7)];
    let mut fleet = fleet(vec![host("h1"), h2], vec![web]);
    let wish = [go("m", 0, Some(1))];
    assert_eq!(
        refused(&planned(&fleet, &wish, &nothing())).cause.message,
        "pool two of h2 lacks 2Gi of free space for vdb of web: it needs 12Gi, 10Gi is left"
    );
    fleet.hosts[1].pools[1].budget = 8;
    assert_eq!(planned(&fleet, &wish, &nothing()).moves.len(), 1);
}

#[test]
fn a_move_waits_for_another_to_make_room() {
    let mut hosts = vec![host("h1"), host("h2"), host("h3")];
    hosts[1].memory_limit = Bytes(8 * GI);
    let fleet = fleet(hosts, vec![guest("a", 0, 6 * GI), guest("b", 1, 6 * GI)]);
    let plan = planned(
        &fleet,
        &[go("ma", 0, Some(1)), go("mb", 1, Some(2))],
        &nothing(),
    );
    assert_eq!(plan.moves.len(), 2);
    assert_eq!(
        (plan.moves[0].guest, &plan.moves[0].waits),
        (GuestId(1), &None)
    );
    let waits = plan.moves[1].waits.as_ref().unwrap();
    assert_eq!(
        waits.to_string(),
        "InsufficientMemory: h2 lacks 4Gi of memory for a: it needs 6Gi, 2Gi of 8Gi is left; it waits for b to leave h2"
    );
    assert_eq!(plan.moves[1].start, plan.moves[0].duration.unwrap());
}

#[test]
fn a_move_waits_for_one_in_flight_to_make_room() {
    let mut hosts = vec![host("h1"), host("h2"), host("h3")];
    hosts[1].memory_limit = Bytes(8 * GI);
    let fleet = fleet(hosts, vec![guest("a", 0, 6 * GI), guest("b", 1, 6 * GI)]);
    let mut ledger = nothing();
    ledger.in_flight.push(flight(&fleet, None, 1, 2));
    let plan = planned(&fleet, &[go("ma", 0, Some(1))], &ledger);
    assert_eq!(plan.moves[0].start, Duration::from_secs(10));
    assert!(
        plan.moves[0]
            .waits
            .as_ref()
            .unwrap()
            .message
            .ends_with("waits for b to leave h2")
    );
}

#[test]
fn a_ring_of_full_hosts_is_refused_by_its_members_names() {
    let mut hosts = vec![host("h1"), host("h2"), host("h3")];
    for host in &mut hosts {
        host.memory_limit = Bytes(8 * GI);
    }
    let guests = vec![
        guest("a", 0, 6 * GI),
        guest("b", 1, 6 * GI),
        guest("c", 0, GI),
        guest("d", 2, 3 * GI),
    ];
    let fleet = fleet(hosts, guests);
    let wishes = [
        go("ma", 0, Some(1)),
        go("mb", 1, Some(0)),
        go("mc", 2, Some(2)),
    ];
    let plan = planned(&fleet, &wishes, &nothing());
    assert_eq!((plan.moves.len(), plan.rejections.len()), (1, 2));
    assert_eq!(plan.rejections[0].cause.reason, Reason::InsufficientMemory);
    assert!(
        plan.rejections[0].cause.message.starts_with(
            "h2 has room for a only when b has left it, and that waits for a in turn: a ring of 2 moves (a to h2, b to h1)"
        ),
        "{}",
        plan.rejections[0].cause
    );
}

#[test]
fn a_lesser_move_does_not_close_a_way_for_good() {
    // d would take the room that c needs to let b out.
    let mut hosts = vec![host("h1"), host("h2"), host("h3"), host("h4")];
    hosts[1].memory_limit = Bytes(9 * GI);
    hosts[2].memory_limit = Bytes(4 * GI);
    let mut guests = vec![
        guest("b", 1, 4 * GI),
        guest("c", 2, 4 * GI),
        guest("d", 0, 4 * GI),
        guest("stays", 1, GI),
    ];
    guests[2].priority = 5;
    let fleet = fleet(hosts, guests);
    let wishes = [
        go("mb", 0, Some(2)),
        go("mc", 1, Some(1)),
        go("md", 2, Some(1)),
    ];
    let plan = planned(&fleet, &wishes, &nothing());
    assert_eq!(plan.moves.len(), 3, "{plan:#?}");
}

#[test]
fn slots_and_limits_are_waited_for() {
    let guests = ["a", "b", "c", "d"].map(|name| guest(name, 0, GI)).to_vec();
    let fleet = fleet(vec![host("h1"), host("h2"), host("h3")], guests);
    let plan = planned(&fleet, &[drain("patch", &[0], 9)], &nothing());
    let waits: Vec<_> = plan.moves.iter().map(|step| step.waits.as_ref()).collect();
    assert_eq!((waits[0], waits[1]), (None, None));
    assert_eq!(
        waits[2].unwrap().to_string(),
        "SlotsTaken: 2 of 2 moves from h1 are under way: c waits for one of them to end"
    );
    let plan = planned(
        &fleet,
        &[drain("patch", &[0], 9), drain("slow", &[0], 1)],
        &nothing(),
    );
    assert_eq!(
        plan.moves[1].waits.as_ref().unwrap().to_string(),
        "ParallelLimit: 1 of 1 moves of HostDrain slow are under way: b on h1 waits for one of them to end"
    );
    // 1 GiB over 1000 MiB/s, one after the other.
    let starts: Vec<u128> = plan
        .moves
        .iter()
        .map(|step| step.start.as_millis())
        .collect();
    assert_eq!(starts, [0, 1024, 2048, 3072]);
    assert_eq!(plan.makespan, Some(Duration::from_millis(4096)));
    assert_eq!(plan.bytes, Bytes(4 * GI));
}

#[test]
fn links_are_shared() {
    let guests = vec![guest("a", 0, 1000 * MI), guest("b", 0, 500 * MI)];
    let fleet = fleet(vec![host("h1"), host("h2"), host("h3")], guests);
    let plan = planned(&fleet, &[drain("patch", &[0], 9)], &nothing());
    let ends: Vec<u128> = plan
        .moves
        .iter()
        .map(|step| step.duration.unwrap().as_millis())
        .collect();
    assert_eq!(ends, [1500, 1000]);
}

#[test]
fn without_a_known_rate_there_are_no_times_but_an_order() {
    let guests = ["a", "b", "c"].map(|name| guest(name, 0, GI)).to_vec();
    let mut hosts = vec![host("h1"), host("h2"), host("h3")];
    for host in &mut hosts {
        host.bandwidth = None;
    }
    let fleet = fleet(hosts, guests);
    let plan = planned(&fleet, &[drain("patch", &[0], 9)], &nothing());
    assert_eq!(plan.moves.len(), 3);
    assert!(
        plan.moves
            .iter()
            .all(|step| step.duration.is_none() && step.start.is_zero())
    );
    assert_eq!(plan.makespan, None);
    assert!(plan.moves[2].waits.is_some());
}

#[test]
fn what_failed_rests_and_so_does_its_target() {
    let fleet = fleet(
        vec![host("h1"), host("h2"), host("h3")],
        vec![guest("web", 0, GI)],
    );
    let mut ledger = nothing();
    ledger.avoid.push(Avoid {
        guest: Some(GuestId(0)),
        host: HostId(1),
        until: NOW + Duration::from_secs(90),
        cause: cause(Reason::TargetLost),
    });
    ledger.resting.push(Resting {
        guest: GuestId(0),
        until: NOW + Duration::from_secs(40),
        cause: cause(Reason::CopyStalled),
    });
    let plan = planned(&fleet, &[drain("d", &[0], 4)], &ledger);
    assert_eq!(plan.moves[0].target, HostId(2));
    assert_eq!(plan.moves[0].start, Duration::from_secs(40));
    assert_eq!(
        plan.moves[0].waits.as_ref().unwrap().to_string(),
        "BackingOff: web rests 40s more after CopyStalled: told so by the test"
    );
    let plan = planned(&fleet, &[go("m", 0, Some(1))], &ledger);
    assert_eq!(
        refused(&plan).cause.to_string(),
        "TargetLost: h2 rests 1m30s more for web after TargetLost: told so by the test"
    );
    let to = |target, now| {
        admit(
            &fleet,
            &[],
            &ledger,
            GuestId(0),
            HostId(target),
            &BTreeMap::new(),
            now,
        )
    };
    assert_eq!(to(2, NOW).unwrap_err().reason, Reason::BackingOff);
    assert!(to(2, NOW + Duration::from_secs(40)).is_ok());
    assert_eq!(
        to(1, NOW + Duration::from_secs(40)).unwrap_err().reason,
        Reason::TargetLost
    );
}

#[test]
fn a_guest_in_flight_is_busy_for_others_and_in_progress_for_its_own_wish() {
    let fleet = fleet(
        vec![host("h1"), host("h2"), host("h3")],
        vec![guest("web", 0, GI)],
    );
    let mut ledger = nothing();
    ledger
        .in_flight
        .push(flight(&fleet, Some(by("HostDrain", "d")), 0, 1));
    let plan = planned(&fleet, &[drain("d", &[0], 4)], &ledger);
    assert!(plan.moves.is_empty() && plan.rejections.is_empty() && plan.satisfied.is_empty());
    let plan = planned(&fleet, &[go("m", 0, Some(2))], &ledger);
    assert_eq!(
        refused(&plan).cause.to_string(),
        "GuestBusy: web is being moved from h1 to h2 by HostDrain d"
    );
}

#[test]
fn drains_leave_what_may_not_move_and_halt_when_told() {
    let mut held = guest("held", 0, GI);
    held.held = Some(cause(Reason::GuestHeld));
    let mut fixed = guest("fixed", 0, GI);
    fixed.immovable = Some(cause(Reason::DeviceNotMigratable));
    let mut stopped = guest("stopped", 0, GI);
    stopped.active = false;
    let guests = vec![
        fixed,
        held,
        guest("loose", 0, GI),
        stopped,
        guest("other", 1, GI),
    ];
    let fleet = fleet(vec![host("h1"), host("h2")], guests);
    let plan = planned(&fleet, &[drain("d", &[0], 4)], &nothing());
    let reasons: Vec<Reason> = plan
        .rejections
        .iter()
        .map(|rejection| rejection.cause.reason)
        .collect();
    assert_eq!(reasons, [Reason::DeviceNotMigratable, Reason::GuestHeld]);
    assert_eq!(plan.moves.len(), 1);
    // An explicit move passes a hold.
    let plan = planned(&fleet, &[drain("d", &[0], 4), go("m", 1, None)], &nothing());
    assert_eq!(plan.moves.len(), 2);
    // A halted drain starts nothing, and lets nothing in.
    let mut halted = drain("d", &[0], 4);
    if let What::Drain { halted, .. } = &mut halted.what {
        *halted = Some(cause(Reason::Suspended));
    }
    let plan = planned(&fleet, &[halted, go("m", 4, Some(0))], &nothing());
    let reasons: Vec<Reason> = plan
        .rejections
        .iter()
        .map(|rejection| rejection.cause.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            Reason::Suspended,
            Reason::Suspended,
            Reason::Suspended,
            Reason::TargetDraining
        ]
    );
    // An unreachable source is waited for.
    let mut away = fleet.clone();
    away.hosts[0].out_of_reach = Some(cause(Reason::HostUnreachable));
    let plan = planned(&away, &[drain("d", &[0], 4)], &nothing());
    assert!(
        plan.rejections
            .iter()
            .all(|rejection| rejection.cause.reason == Reason::HostUnreachable)
    );
}

#[test]
fn an_empty_host_is_drained() {
    let fleet = fleet(vec![host("h1"), host("h2")], Vec::new());
    let plan = planned(&fleet, &[drain("d", &[0, 1], 4)], &nothing());
    assert_eq!(
        plan.satisfied[0].cause.to_string(),
        "Completed: no guest runs on h1 and h2"
    );
    assert_eq!(plan.makespan, Some(Duration::ZERO));
}

#[test]
fn an_explicit_move_that_is_refused_leaves_its_guest_to_the_drain() {
    let mut h2 = host("h2");
    h2.memory_limit = Bytes(0);
    let fleet = fleet(vec![host("h1"), h2, host("h3")], vec![guest("web", 0, GI)]);
    let plan = planned(
        &fleet,
        &[drain("d", &[0], 4), go("m", 0, Some(1))],
        &nothing(),
    );
    assert_eq!(plan.moves[0].target, HostId(2));
    assert_eq!(plan.rejections[0].cause.reason, Reason::InsufficientMemory);
}

#[test]
fn a_drain_spreads_and_keeps_the_fleet_level() {
    let guests = (0..8)
        .map(|at| guest(&format!("g{at}"), 0, 2 * GI))
        .collect();
    let hosts = (1..=5).map(|at| host(&format!("h{at}"))).collect();
    let fleet = fleet(hosts, guests);
    let plan = planned(&fleet, &[drain("d", &[0], 9)], &nothing());
    for host in 1..5 {
        let there = plan.moves.iter().filter(|step| step.target == HostId(host));
        assert_eq!(there.count(), 2);
    }
}

#[test]
fn a_drain_that_needs_packing_is_packed() {
    // Level placing puts the 6s apart from each other and leaves no room for the 10.
    let sizes = [6, 6, 4, 4, 10];
    let guests = sizes
        .iter()
        .enumerate()
        .map(|(at, size)| {
            let mut guest = guest(&format!("g{at}"), 0, size * GI);
            guest.priority = i32::from(*size < 10);
            guest
        })
        .collect();
    let mut hosts = vec![host("h1"), host("h2"), host("h3"), host("h4")];
    for host in &mut hosts[1..] {
        host.memory_limit = Bytes(10 * GI);
    }
    hosts[0].memory_limit = Bytes(60 * GI);
    let fleet = fleet(hosts, guests);
    let plan = planned(&fleet, &[drain("d", &[0], 9)], &nothing());
    assert_eq!(plan.moves.len(), 5, "{plan:#?}");
}

#[test]
fn two_guests_of_one_name_do_not_meet() {
    let mut guests = vec![guest("vm-1", 0, GI), guest("vm-2", 1, GI)];
    for guest in &mut guests {
        guest.domain = "vm".into();
    }
    let fleet = fleet(vec![host("h1"), host("h2"), host("h3")], guests);
    let plan = planned(&fleet, &[drain("d", &[0, 1], 4)], &nothing());
    assert_eq!((plan.moves.len(), plan.rejections.len()), (1, 1));
    assert_eq!(plan.rejections[0].hosts[0].reason, "DomainNameTaken");
}

#[test]
fn dirtying_makes_memory_travel_again() {
    let mut web = guest("web", 0, GI);
    web.dirty_rate = Some(Bytes(500 * MI));
    web.disks.push(disk("vda", "default", 2 * GI));
    let mut fleet = fleet(vec![host("h1"), host("h2")], vec![web]);
    let wish = [go("m", 0, None)];
    assert_eq!(planned(&fleet, &wish, &nothing()).bytes, Bytes(3 * GI));
    fleet.guests[0].dirty_rate = Some(Bytes(999 * MI));
    assert_eq!(planned(&fleet, &wish, &nothing()).bytes, Bytes(4 * GI));
}
