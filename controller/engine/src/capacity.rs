//! A host's capacity by the API's formulas, once, for the planner and for what is shown.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    Host,
    kinds::host::PoolSpec,
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Reason},
};
use evenkeel_planner as planner;
use tokio::time::Instant;

use crate::{
    circuit::Gate,
    hosts::{HostState, Link},
    port::{HostFacts, PoolFacts},
};

/// Percent of a pool that stays free where its manifest does not say.
const POOL_RESERVE: i32 = 5;

/// A host for the planner. Guests and what is in flight are counted by their callers.
pub(crate) fn host(name: &HostName, state: &HostState, claimed: Option<&Cause>) -> planner::Host {
    let spec = &state.declared.spec;
    let mut host = planner::Host {
        name: name.clone(),
        labels: labels(name, &state.declared),
        out_of_reach: out_of_reach(name, state, claimed),
        closed: closed(name, &state.declared),
        cpu_limit_milli: 0,
        cpu_used_milli: 0,
        cpu_there_milli: 0,
        memory_limit: Bytes(0),
        memory_used: Bytes(0),
        pools: Vec::new(),
        bases: BTreeSet::new(),
        bandwidth: spec.migration.bandwidth,
        max_inbound: spec.migration.max_inbound.max(0) as u32,
        max_outbound: spec.migration.max_outbound.max(0) as u32,
        offers: planner::Offers::default(),
        domains: BTreeMap::new(),
    };
    match state.circuit.gate(name, Instant::now()) {
        Gate::Closed => {}
        Gate::HalfOpen => host.max_inbound = host.max_inbound.min(1),
        Gate::Open(cause) => {
            host.closed.get_or_insert(cause);
        }
    }
    let Some(facts) = &state.facts else {
        return host;
    };
    host.closed = host.closed.or_else(|| without_journals(name, facts));
    let reserved = spec.reserved.cpu.unwrap_or_default().milli;
    host.cpu_there_milli = u64::from(facts.cpus) * 1000;
    host.cpu_limit_milli = percent(
        (u64::from(facts.cpus) * 1000).saturating_sub(reserved),
        spec.overcommit.cpu,
    );
    host.memory_limit = Bytes(percent(
        facts
            .memory
            .0
            .saturating_sub(kept_memory(&state.declared, facts).0),
        spec.overcommit.memory,
    ));
    for domain in state.domains.values() {
        if domain.activity.active() {
            host.cpu_used_milli += u64::from(domain.vcpus) * 1000;
            let memory = domain.memory.0.saturating_add(domain.memory_overhead.0);
            host.memory_used.0 = host.memory_used.0.saturating_add(memory);
        }
        host.domains
            .insert(domain.name.clone(), domain.uuid.to_string());
    }
    host.pools = pools(name, state, facts);
    host.offers = planner::Offers {
        cpu: facts.cpu_fingerprint.clone(),
        hypervisor: version(&facts.hypervisor_version),
        machines: facts.machines.clone(),
        networks: facts.networks.clone(),
        bridges: facts.bridges.clone(),
        nwfilters: facts.nwfilters.clone(),
        storage: facts
            .pools
            .iter()
            .filter(|pool| pool.active && !pool.is_directory())
            .map(|pool| (pool.name.clone(), pool.path.clone()))
            .collect(),
    };
    host
}

/// Why no guest comes to a host or leaves it: each move keeps a journal at both ends, in a pool of files.
pub(crate) fn without_journals(name: &HostName, facts: &HostFacts) -> Option<Cause> {
    let keeps = |pool: &PoolFacts| pool.active && !pool.is_directory() && is_of_files(pool);
    (!facts.pools.iter().any(keeps)).then(|| {
        Cause::new(
            Reason::PoolMissing,
            format!("{name} has no active storage pool of files, where a move keeps its journal"),
        )
        .hint(
            "define and start one there, also where guests' disks are outside pools: `virsh pool-define-as default dir \
             --target /var/lib/libvirt/images`, `virsh pool-start default`",
        )
    })
}

/// Whether its volumes are files.
fn is_of_files(pool: &PoolFacts) -> bool {
    matches!(pool.kind.as_str(), "dir" | "fs" | "netfs")
}

/// A host's labels, its own name among them, so that a topology of single hosts can be named.
fn labels(name: &HostName, host: &Host) -> BTreeMap<String, String> {
    let mut labels = host.metadata.labels.clone().unwrap_or_default();
    labels.insert("evenkeel.dev/host".to_owned(), name.to_string());
    labels
}

/// Memory that no guest gets: huge pages and what the manifest keeps.
pub(crate) fn kept_memory(host: &Host, facts: &HostFacts) -> Bytes {
    Bytes(facts.huge_pages.0 + host.spec.reserved.memory.unwrap_or_default().0)
}

/// Why nothing can be done with a host now.
pub(crate) fn out_of_reach(
    name: &HostName,
    state: &HostState,
    claimed: Option<&Cause>,
) -> Option<Cause> {
    if let Some(other) = &state.duplicate_of {
        return Some(Cause::new(
            Reason::DuplicateHypervisor,
            format!("{name} and {other} are the same hypervisor; {other} is used"),
        ));
    }
    match &state.link {
        // Nobody is called silent before it was asked.
        Link::Unheard => Some(Cause::new(
            Reason::Waiting,
            format!("{name} has not answered yet"),
        )),
        Link::Down(cause) => Some(cause.clone()),
        Link::Up => claimed.cloned(),
    }
}

fn closed(name: &HostName, host: &Host) -> Option<Cause> {
    if host.spec.out_of_service {
        return Some(Cause::new(
            Reason::TargetUnschedulable,
            format!("{name} is out of service"),
        ));
    }
    host.spec.unschedulable.then(|| {
        Cause::new(
            Reason::TargetUnschedulable,
            format!("{name} is unschedulable"),
        )
    })
}

fn percent(amount: u64, percent: i32) -> u64 {
    let scaled = u128::from(amount) * u128::from(percent.max(0).unsigned_abs()) / 100;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// QEMU's version as numbers.
pub(crate) fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

fn pools(host: &HostName, state: &HostState, facts: &HostFacts) -> Vec<planner::Pool> {
    let listed = state.declared.spec.pools.as_ref();
    let groups = budgets(state, facts);
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for domain in state.domains.values() {
        for disk in domain.disks.iter().filter(|disk| disk.is_copied()) {
            if let Some(pool) = &disk.pool {
                *used.entry(pool).or_default() += disk.virtual_size.0;
            }
        }
    }
    for disk in state.kept.iter().flat_map(|kept| &kept.journal.disks) {
        let holds = |pool: &&PoolFacts| pool.is_above(&disk.source_path);
        if let Some(pool) = facts.pools.iter().find(holds) {
            *used.entry(&pool.name).or_default() += disk.virtual_size.0;
        }
    }
    facts
        .pools
        .iter()
        .map(|pool| {
            let spec = spec_of(state, &pool.name);
            let reserve = spec.map_or(POOL_RESERVE, |spec| spec.reserve);
            let closed = if !pool.active {
                Some(Cause::new(
                    Reason::PoolMissing,
                    format!("pool {} of {host} is not active", pool.name),
                ))
            } else if listed.is_some() && spec.is_none() {
                Some(Cause::new(
                    Reason::PoolMissing,
                    format!(
                        "{host} does not list pool {} among those that receive disks",
                        pool.name
                    ),
                ))
            } else if !is_of_files(pool) {
                Some(Cause::new(
                    Reason::PoolMissing,
                    format!(
                        "pool {} of {host} is of kind {}, not of files",
                        pool.name, pool.kind
                    ),
                ))
            } else {
                None
            };
            planner::Pool {
                name: pool.name.clone(),
                closed,
                available: Bytes(
                    pool.available
                        .0
                        .saturating_sub(percent(pool.total.0, reserve)),
                ),
                virtual_limit: spec
                    .and_then(|spec| spec.overcommit)
                    .map(|overcommit| Bytes(percent(pool.total.0, overcommit))),
                virtual_used: Bytes(used.get(pool.name.as_str()).copied().unwrap_or(0)),
                budget: groups.get(pool.name.as_str()).copied().unwrap_or(u32::MAX),
                class: spec.and_then(|spec| spec.class.clone()),
                directories: state
                    .directories
                    .iter()
                    .filter(|directory| {
                        let taken_by = taken_by(&facts.pools, directory);
                        taken_by.is_some_and(|taker| taker.name == pool.name)
                    })
                    .cloned()
                    .collect(),
            }
        })
        .collect()
}

/// The pool that a directory outside all pools elsewhere is, or lies in; the nearest of several.
pub(crate) fn taken_by<'p>(pools: &'p [PoolFacts], directory: &str) -> Option<&'p PoolFacts> {
    let takers = pools.iter().filter(|pool| pool.takes(directory));
    takers.max_by_key(|pool| pool.path.len())
}

/// The manifest's word on a pool.
pub(crate) fn spec_of<'a>(state: &'a HostState, pool: &str) -> Option<&'a PoolSpec> {
    state
        .declared
        .spec
        .pools
        .as_ref()?
        .iter()
        .find(|spec| spec.name == pool)
}

/// Pools that lie on one file system have one number: those whose manifest says so, and, guessed, those that show
/// exactly the same size and the same free space.
pub(crate) fn budgets<'a>(state: &HostState, facts: &'a HostFacts) -> BTreeMap<&'a str, u32> {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum Key<'a> {
        Said(&'a str),
        Guessed(u64, u64),
        Alone(&'a str),
    }
    fn key<'a>(pool: &'a PoolFacts, said: Option<&'a str>) -> Key<'a> {
        match said {
            Some(word) => Key::Said(word),
            None if pool.active && pool.total.0 > 0 => Key::Guessed(pool.total.0, pool.available.0),
            None => Key::Alone(&pool.name),
        }
    }
    let keys: Vec<(&PoolFacts, Key<'_>)> = facts
        .pools
        .iter()
        .map(|pool| {
            (
                pool,
                key(
                    pool,
                    spec_of(state, &pool.name).and_then(|spec| spec.shares.as_deref()),
                ),
            )
        })
        .collect();
    let distinct: BTreeSet<&Key<'_>> = keys.iter().map(|(_, key)| key).collect();
    let numbers: BTreeMap<&Key<'_>, u32> = distinct.into_iter().zip(0..).collect();
    keys.iter()
        .map(|(pool, key)| (pool.name.as_str(), numbers[key]))
        .collect()
}
