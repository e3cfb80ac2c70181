//! Small fleets for tests, and an independent checker of plans.

#![allow(dead_code)]

pub mod bounds;
pub mod checker;
pub mod dice;
pub mod emptied;
pub mod links;
pub mod rules;
pub mod scenes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::RequestedBy;
use evenkeel_planner::*;

pub const MI: u64 = 1 << 20;
pub const GI: u64 = 1 << 30;
pub const NOW: Duration = Duration::from_secs(1000);

/// A host with 24 Gi of memory, 32 CPUs and a pool `default` of 1000 Gi, which runs anything here.
pub fn host(name: &str) -> Host {
    Host {
        name: name.into(),
        labels: BTreeMap::new(),
        out_of_reach: None,
        closed: None,
        cpu_limit_milli: 32_000,
        cpu_used_milli: 0,
        cpu_there_milli: 0,
        memory_limit: Bytes(24 * GI),
        memory_used: Bytes(0),
        pools: vec![pool("default", 1000 * GI, 0)],
        bases: BTreeSet::new(),
        bandwidth: Some(Bytes(1000 * MI)),
        max_inbound: 2,
        max_outbound: 2,
        offers: Offers {
            cpu: "cpu-a".into(),
            hypervisor: [8, 2, 0],
            machines: BTreeMap::from([(
                "/usr/bin/qemu".into(),
                BTreeSet::from(["pc".into(), "q35".into()]),
            )]),
            networks: BTreeSet::from(["lan".into()]),
            bridges: Some(BTreeSet::from(["br0".into()])),
            nwfilters: BTreeSet::new(),
            storage: BTreeMap::from([("default".into(), "/images".into())]),
        },
        domains: BTreeMap::new(),
    }
}

pub fn pool(name: &str, available: u64, budget: u32) -> Pool {
    Pool {
        name: name.into(),
        available: Bytes(available),
        budget,
        ..Pool::default()
    }
}

pub fn disk(target: &str, pool: &str, size: u64) -> Disk {
    Disk {
        target: target.into(),
        pool: Some(pool.into()),
        class: None,
        virtual_size: Bytes(size),
        allocated: Bytes(size / 2),
    }
}

/// A running guest with that much memory and one CPU, without disks.
pub fn guest(name: &str, host: u32, memory: u64) -> Guest {
    Guest {
        name: name.into(),
        domain: name.into(),
        uuid: format!("uuid-of-{name}"),
        labels: BTreeMap::new(),
        host: HostId(host),
        active: true,
        immovable: None,
        held: None,
        evacuation: None,
        cpu_milli: 1000,
        memory: Bytes(memory),
        overhead: Bytes(0),
        disks: Vec::new(),
        bases: BTreeSet::new(),
        load: None,
        dirty_rate: None,
        bandwidth: None,
        priority: 0,
        needs: Needs {
            cpu: None,
            hypervisor: [8, 0, 0],
            emulator: "/usr/bin/qemu".into(),
            machine: "q35".into(),
            networks: BTreeSet::from(["lan".into()]),
            ..Needs::default()
        },
    }
}

/// Puts guests on hosts and counts them there.
pub fn fleet(hosts: Vec<Host>, guests: Vec<Guest>) -> Fleet {
    let mut fleet = Fleet {
        hosts,
        guests,
        ..Fleet::default()
    };
    for guest in &fleet.guests {
        let host = &mut fleet.hosts[guest.host.at()];
        host.domains
            .insert(guest.domain.clone(), guest.uuid.clone());
        if guest.active {
            host.cpu_used_milli += guest.cpu_milli;
            host.memory_used.0 += guest.memory.0;
        }
        for disk in &guest.disks {
            let pool = host
                .pools
                .iter_mut()
                .find(|pool| Some(&pool.name) == disk.pool.as_ref());
            if let Some(pool) = pool {
                pool.virtual_used.0 += disk.virtual_size.0;
            }
        }
    }
    fleet
}

pub fn by(kind: &str, name: &str) -> RequestedBy {
    RequestedBy {
        kind: kind.into(),
        name: name.into(),
        uid: String::new(),
    }
}

pub fn drain(name: &str, hosts: &[u32], parallel: u32) -> Wish {
    Wish {
        by: by("HostDrain", name),
        what: What::Drain {
            hosts: hosts.iter().copied().map(HostId).collect(),
            parallel,
            makes_way: false,
            leaves: BTreeMap::new(),
            stopped: false,
            halted: None,
        },
    }
}

/// Hosts with these limits in GiB, and guests of so many GiB on them.
pub fn in_gib(limits: &[u64], guests: &[(u32, u64)]) -> Fleet {
    let hosts = limits.iter().enumerate().map(|(at, limit)| {
        let mut host = host(&format!("h{at}"));
        host.memory_limit = Bytes(limit * GI);
        host
    });
    let guests = guests.iter().enumerate();
    let guests = guests.map(|(at, (host, size))| guest(&format!("g{at}"), *host, size * GI));
    fleet(hosts.collect(), guests.collect())
}

/// A balance of all CPU and memory that begins at once and goes on to the end.
pub fn balance(name: &str, hosts: &[u32]) -> Wish {
    Wish {
        by: by("RebalancePolicy", name),
        what: What::Balance(Balance {
            hosts: hosts.iter().copied().map(HostId).collect(),
            weights: Weights {
                cpu: 100,
                memory: 100,
                disk: 0,
            },
            parallel: 2,
            ..Balance::default()
        }),
    }
}

/// A placement that is required.
pub fn place(name: &str, guests: &[u32], placement: Placement) -> Wish {
    Wish {
        by: by("GuestPlacement", name),
        what: What::Place(Placement {
            guests: guests.iter().copied().map(GuestId).collect(),
            required: true,
            ..placement
        }),
    }
}

/// The drain with others making way.
pub fn roomy(mut wish: Wish) -> Wish {
    if let What::Drain { makes_way, .. } = &mut wish.what {
        *makes_way = true;
    }
    wish
}

pub fn go(name: &str, guest: u32, target: Option<u32>) -> Wish {
    Wish {
        by: by("GuestMigration", name),
        what: What::Move {
            migration: name.into(),
            guest: GuestId(guest),
            target: target.map(HostId),
            pools: BTreeMap::new(),
        },
    }
}

/// A move in flight, with all that it holds at its target.
pub fn flight(fleet: &Fleet, who: Option<RequestedBy>, guest: u32, target: u32) -> InFlight {
    let id = GuestId(guest);
    let guest = &fleet.guests[id.at()];
    let mut pools: BTreeMap<String, PoolHold> = BTreeMap::new();
    for disk in &guest.disks {
        let hold = pools
            .entry(disk.pool.clone().unwrap_or_default())
            .or_default();
        hold.to_come.0 += disk.virtual_size.0;
        hold.virtual_size.0 += disk.virtual_size.0;
    }
    InFlight {
        by: who,
        guest: id,
        source: guest.host,
        target: HostId(target),
        cpu_milli: if guest.active { guest.cpu_milli } else { 0 },
        memory: if guest.active { guest.memory } else { Bytes(0) },
        pools,
        remaining: Some(Duration::from_secs(10)),
    }
}

pub fn cause(reason: Reason) -> Cause {
    Cause::new(reason, "told so by the test")
}

/// Plans, and has the plan checked.
pub fn planned(fleet: &Fleet, wishes: &[Wish], ledger: &Ledger) -> Plan {
    let made = plan(fleet, wishes, ledger, NOW);
    checker::check(fleet, wishes, ledger, NOW, &made);
    made
}

/// Thirty guests a host, of several sizes, two thirds full.
pub fn large(hosts: u32) -> Fleet {
    let mut all: Vec<Host> = (0..hosts).map(|at| host(&format!("h{at:05}"))).collect();
    let mut guests = Vec::new();
    for at in 0..hosts {
        for number in 0..30 {
            let size = [1, 2, 4, 8][((at * 7 + number * 3) % 4) as usize];
            let mut guest = guest(&format!("g{at:05}-{number:02}"), at, size * GI);
            guest.disks.push(disk("vda", "default", 8 * size * GI));
            guests.push(guest);
        }
    }
    for host in &mut all {
        host.memory_limit = Bytes(180 * GI);
        host.cpu_limit_milli = 64_000;
        host.pools[0].available = Bytes(600 * GI);
    }
    fleet(all, guests)
}

/// The only rejection.
pub fn refused(plan: &Plan) -> &Rejection {
    assert_eq!(
        (plan.moves.len(), plan.rejections.len()),
        (0, 1),
        "{plan:#?}"
    );
    &plan.rejections[0]
}
