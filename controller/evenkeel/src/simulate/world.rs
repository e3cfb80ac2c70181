//! A scene as a simulated fleet: hosts, guests and links as the planner knows them, the objects as they are declared.
//!
//! Not simulated: moves that were under way (their guests are where they came from, and what is still wished for is done
//! anew), rests after failures, and disks on storage that several hosts see (that a target must have it is kept, as if
//! it were a network). Hosts that nothing could be done with don't answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_crds::{
    Host,
    kinds::host::{HostMigration, HostSpec, PoolSpec},
    quantity::{Bytes, Cpus},
};
use evenkeel_engine::{
    Question, Search, View, Wishes,
    port::{CpuNeed, InterfaceFacts, InterfaceSource},
};
use evenkeel_hypervisor::sim::{self, Fleet, GuestPlan, HostPlan, Needs, Offers};
use evenkeel_planner as planner;
use uuid::Uuid;

/// The name under which the engine reaches simulated hosts.
pub const CLIENT: &str = "simulate";

/// What is taken where nothing is known.
#[derive(Debug, Clone, Copy)]
pub struct Assumed {
    /// Bytes per second of a link whose Host names no bandwidth.
    pub bandwidth: Bytes,
    /// Bytes per second that a guest dirties that was not measured.
    pub dirty_rate: Bytes,
}

/// Puts what is assumed where nothing is known.
pub fn assume(question: &mut Question, assumed: Assumed) {
    let searches = question.searches.iter_mut();
    let fleets = searches.filter_map(Search::fleet_mut);
    for fleet in fleets.chain([&mut question.fleet]) {
        for host in &mut fleet.hosts {
            host.bandwidth.get_or_insert(assumed.bandwidth);
        }
        if assumed.dirty_rate.0 > 0 {
            for guest in &mut fleet.guests {
                guest.dirty_rate.get_or_insert(assumed.dirty_rate);
            }
        }
    }
}

/// Makes the simulated fleet on the current runtime.
#[must_use]
pub fn fleet(question: &Question, view: &View, seed: u64) -> Fleet {
    let fleet = Fleet::new(seed);
    let mut occupied: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    let mut there = BTreeSet::new();
    for guest in &question.fleet.guests {
        for disk in &guest.disks {
            if let Some(pool) = &disk.pool {
                *occupied.entry((guest.host.at(), pool)).or_default() += disk.allocated.0;
            }
        }
        // A host has the base images of its guests, once.
        if let Some((base, pool)) = below(guest, &question.fleet.bases)
            && there.insert((guest.host, &base.path))
        {
            *occupied.entry((guest.host.at(), pool)).or_default() += base.allocated.0;
        }
    }
    for (index, host) in question.fleet.hosts.iter().enumerate() {
        let libvirt = view
            .hosts
            .get(&host.name)
            .and_then(|status| status.libvirt_version.clone());
        let occupied = |pool: &str| occupied.get(&(index, pool)).copied().unwrap_or(0);
        fleet.add_host(&host_plan(host, libvirt, occupied));
        if host.out_of_reach.is_some() {
            fleet.cut_client(CLIENT, &host.name, true);
        }
    }
    for guest in &question.fleet.guests {
        if let Some(host) = question.fleet.hosts.get(guest.host.at()) {
            fleet.add_guest(&host.name, &guest_plan(guest, &question.fleet.bases));
        }
    }
    fleet
}

fn host_plan(
    host: &planner::Host,
    libvirt: Option<String>,
    occupied: impl Fn(&str) -> u64,
) -> HostPlan {
    let mut plan = HostPlan::new(&host.name);
    plan.cpus = u32::try_from(host.cpu_there_milli / 1000).unwrap_or(u32::MAX);
    plan.memory = total(host.memory_limit.0, MEMORY_OVERCOMMIT);
    plan.bandwidth = host.bandwidth.map_or(plan.bandwidth, |rate| rate.0);
    plan.libvirt = libvirt.unwrap_or(plan.libvirt);
    plan.pools.clear();
    for pool in &host.pools {
        let there = pool.available.0.saturating_add(occupied(&pool.name));
        let size = pool
            .virtual_limit
            .map_or(there, |limit| total(limit.0, POOL_OVERCOMMIT).max(there));
        plan.pools.push((pool.name.clone(), size));
        plan.taken.insert(pool.name.clone(), size - there);
    }
    let [major, minor, micro] = host.offers.hypervisor;
    let storage = host.offers.storage.iter();
    plan.offers = Offers {
        hypervisor: format!("{major}.{minor}.{micro}"),
        cpu: host.offers.cpu.clone(),
        machines: host.offers.machines.clone(),
        networks: host
            .offers
            .networks
            .iter()
            .cloned()
            .chain(storage.map(|(pool, path)| storage_network(pool, path)))
            .collect(),
        bridges: host.offers.bridges.clone(),
        nwfilters: host.offers.nwfilters.clone(),
        ..Offers::default()
    };
    plan
}

fn storage_network(pool: &str, path: &str) -> String {
    format!("storage pool {pool} at {path}")
}

/// The base image below a simulated guest's disks, and its pool: the heaviest of several. All others are left out.
fn below<'b>(
    guest: &planner::Guest,
    bases: &'b [planner::Base],
) -> Option<(&'b planner::Base, &'b str)> {
    let own = guest.bases.iter().filter_map(|base| bases.get(base.at()));
    let own = own.filter_map(|base| Some((base, base.pool.as_deref()?)));
    own.max_by_key(|(base, _)| base.allocated)
}

fn guest_plan(guest: &planner::Guest, bases: &[planner::Base]) -> GuestPlan {
    let mut plan = GuestPlan::new(&guest.domain);
    if let Ok(uuid) = guest.uuid.parse::<Uuid>() {
        plan.uuid = uuid;
    }
    plan.vcpus = u32::try_from(guest.cpu_milli / 1000).unwrap_or(u32::MAX);
    plan.memory = guest.memory.0.saturating_sub(guest.overhead.0);
    plan.overhead = guest.overhead.0;
    plan.dirty = guest.dirty_rate.map_or(0, |rate| rate.0);
    plan.runs = guest.active;
    plan.labels = guest.labels.clone();
    plan.obstacles = guest.immovable.iter().cloned().collect();
    let disks = guest.disks.iter();
    plan.disks = disks
        .map(|disk| {
            (
                disk.target.clone(),
                disk.virtual_size.0,
                disk.allocated.0.min(disk.virtual_size.0),
            )
        })
        .collect();
    plan.pools = guest
        .disks
        .iter()
        .filter_map(|disk| Some((disk.target.clone(), disk.pool.clone()?)))
        .collect();
    plan.base = below(guest, bases).map(|(base, pool)| {
        let file = base.path.trim_start_matches('/').replace('/', "-");
        let path = format!("{}/{file}", sim::folder(pool));
        (path, base.allocated.0)
    });
    let needs = &guest.needs;
    let interface = |source, filter| InterfaceFacts {
        mac: "52:54:00:00:00:01".to_owned(),
        source,
        filter,
        plugged: true,
        addresses: Vec::new(),
    };
    let storage = needs.storage.iter();
    let networks = needs
        .networks
        .iter()
        .cloned()
        .chain(storage.map(|(pool, path)| storage_network(pool, path)))
        .map(|name| interface(InterfaceSource::Network(name), None));
    let bridges = needs.bridges.iter().cloned();
    let bridges = bridges.map(|name| interface(InterfaceSource::Bridge(name), None));
    let filters = needs.nwfilters.iter().cloned();
    let filters = filters.map(|name| interface(InterfaceSource::User, Some(name)));
    plan.needs = Needs {
        cpu: if needs.cpu.is_some() {
            CpuNeed::SameAsHost
        } else {
            CpuNeed::Model
        },
        emulator: needs.emulator.clone(),
        machine: needs.machine.clone(),
        interfaces: networks.chain(bridges).chain(filters).collect(),
        ..Needs::default()
    };
    plan
}

/// Percent of what a simulated host has that may be promised. All that matters is what comes out: the planner's limits.
const MEMORY_OVERCOMMIT: i32 = 100;
const POOL_OVERCOMMIT: i32 = 100;

/// What must be there so that so many percent of it are `limit`.
fn total(limit: u64, percent: i32) -> u64 {
    let percent = u128::from(percent.max(1).unsigned_abs());
    u64::try_from((u128::from(limit) * 100).div_ceil(percent)).unwrap_or(u64::MAX)
}

/// The objects as they are declared, on simulated hosts. Moves that are over are not asked for again.
#[must_use]
pub fn wishes(question: &Question, declared: &Wishes) -> Wishes {
    let mut wishes = declared.clone();
    wishes.credentials.clear();
    wishes.migrations.retain(|_, migration| {
        let status = migration.status.as_ref();
        status.is_none_or(|status| !status.phase.is_final())
    });
    for host in &question.fleet.hosts {
        if let Some(declared) = wishes.hosts.get_mut(host.name.as_str()) {
            *declared = Arc::new(simulated(host, declared));
        }
    }
    wishes
}

fn simulated(host: &planner::Host, declared: &Host) -> Host {
    let budgets: Vec<u32> = host.pools.iter().map(|pool| pool.budget).collect();
    let pools = host.pools.iter().filter(|pool| pool.closed.is_none());
    let pools = pools.map(|pool| PoolSpec {
        name: pool.name.clone(),
        reserve: 0,
        overcommit: pool.virtual_limit.map(|_| POOL_OVERCOMMIT),
        class: pool.class.clone(),
        shares: {
            let same = budgets.iter().filter(|budget| **budget == pool.budget);
            (same.count() > 1).then(|| format!("budget-{}", pool.budget))
        },
    });
    let mut spec = HostSpec {
        uri: sim::uri(&host.name),
        pools: Some(pools.collect()),
        unschedulable: declared.spec.unschedulable,
        out_of_service: declared.spec.out_of_service,
        ..HostSpec::default()
    };
    spec.migration = HostMigration {
        bandwidth: host.bandwidth,
        max_inbound: declared.spec.migration.max_inbound,
        max_outbound: declared.spec.migration.max_outbound,
        ..HostMigration::default()
    };
    spec.overcommit.memory = MEMORY_OVERCOMMIT;
    // CPUs are whole; what may be promised of them need not be.
    spec.overcommit.cpu = declared.spec.overcommit.cpu;
    let promised = total(host.cpu_limit_milli, spec.overcommit.cpu);
    let reserved = host.cpu_there_milli.saturating_sub(promised);
    spec.reserved.cpu = (reserved > 0).then_some(Cpus { milli: reserved });
    let mut simulated = Host::new(&host.name, spec);
    simulated.metadata = declared.metadata.clone();
    simulated
}

/// Hosts that the plan touches: on them something can go wrong that matters.
#[must_use]
pub fn touched(question: &Question, plan: &planner::Plan) -> Vec<String> {
    let ends: BTreeSet<usize> = plan
        .moves
        .iter()
        .flat_map(|planned| [planned.source.at(), planned.target.at()])
        .collect();
    ends.into_iter()
        .filter_map(|index| question.fleet.hosts.get(index))
        .map(|host| host.name.to_string())
        .collect()
}
