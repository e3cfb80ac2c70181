//! A Host's status.

use std::collections::BTreeMap;

use evenkeel_crds::{
    HostStatus,
    kinds::host::{
        Capacity, ClaimStatus, CpuCapacity, GuestCounts, MemoryCapacity, MoveCounts, PoolCapacity,
    },
    names::HostName,
    quantity::{Bytes, Cpus},
    reason::{Cause, Reason},
    shared::{Answer, Time, Timestamp, condition, whole_seconds},
};
use evenkeel_planner as planner;

use super::{Standing, conditions, node::NODE_FOLLOWED, sentence};
use crate::{
    capacity::{budgets, kept_memory, without_journals},
    hosts::{HostState, Link},
    port::{ClaimRecord, HostFacts},
};

/// What goes into it.
pub(crate) struct Input<'a> {
    pub(crate) name: &'a HostName,
    pub(crate) state: &'a HostState,
    /// The host as the planner sees it.
    pub(crate) planned: &'a planner::Host,
    pub(crate) claim: Option<&'a ClaimRecord>,
    pub(crate) claimed: Option<&'a Cause>,
    /// Held by moves in flight: memory, CPU, and per pool what may still be written.
    pub(crate) held_memory: Bytes,
    pub(crate) held_cpu_milli: u64,
    pub(crate) held_pools: BTreeMap<String, Bytes>,
    pub(crate) moves: MoveCounts,
    pub(crate) managed_elsewhere: i64,
    /// Guests that it defines and that live on another host, with that host.
    pub(crate) stale: &'a [(&'a str, &'a HostName)],
    /// Whether it could be emptied now, where that was looked at.
    pub(crate) drainable: Option<&'a (Answer, Cause)>,
    /// Whether its Kubernetes node is followed and how it is, where that may drain it.
    pub(crate) node: Option<&'a (Answer, Cause)>,
    pub(crate) before: Option<&'a HostStatus>,
    pub(crate) now: Timestamp,
}

/// Old copies that are named; of more only how many.
const NAMED: usize = 8;
/// Percent points by which live use must change before it is written again.
const STEP: u64 = 5;

pub(crate) fn status(input: &Input<'_>) -> HostStatus {
    let state = input.state;
    let generation = state.declared.metadata.generation;
    let empty = HostStatus::default();
    let before = input.before.unwrap_or(&empty);
    let mut status = HostStatus {
        observed_generation: generation,
        ..HostStatus::default()
    };
    if let Some(facts) = &state.facts {
        status.host_uuid = Some(facts.uuid.to_string());
        status.hostname = Some(facts.hostname.clone());
        status.libvirt_version = Some(facts.libvirt_version.clone());
        status.hypervisor_version = Some(facts.hypervisor_version.clone());
        status.cpu_model = Some(facts.cpu_model.clone());
        status.capacity = Some(capacity(input, facts, before.capacity.as_ref()));
        status.guests = Some(counts(state, input.managed_elsewhere));
        status.moves = Some(input.moves);
    }
    status.claim = input.claim.map(|claim| ClaimStatus {
        fleet: claim.fleet.clone(),
        holder: claim.holder.clone(),
    });
    let reachable = match &state.link {
        Link::Unheard => (
            Answer::Unknown,
            Cause::new(Reason::InProgress, "not asked yet"),
        ),
        Link::Up => (
            Answer::True,
            Cause::new(Reason::AsExpected, "its libvirtd answers"),
        ),
        Link::Down(cause) => (Answer::False, cause.clone()),
    };
    let ready = match (
        &state.link,
        &input.planned.out_of_reach,
        &input.planned.closed,
    ) {
        (Link::Unheard, ..) => reachable.clone(),
        (_, Some(cause), _) => (Answer::False, cause.clone()),
        (_, None, Some(cause)) => (Answer::True, cause.clone()),
        (_, None, None) => reachable.clone(),
    };
    let resting = input
        .planned
        .closed
        .as_ref()
        .filter(|cause| cause.reason == Reason::CircuitOpen);
    let apart = state.facts.as_ref();
    let apart = apart.and_then(|facts| without_journals(input.name, facts));
    let migration_ready = match apart.or_else(|| resting.cloned()) {
        _ if ready.0 != Answer::True => ready.clone(),
        Some(cause) => (Answer::False, cause),
        None => (
            Answer::True,
            Cause::new(Reason::AsExpected, "guests can come and leave"),
        ),
    };
    let mut own = vec![
        condition(
            "Reachable",
            reachable.0,
            reachable.1.reason,
            sentence(&reachable.1),
            generation,
            input.now,
        ),
        condition(
            "MigrationReady",
            migration_ready.0,
            migration_ready.1.reason,
            sentence(&migration_ready.1),
            generation,
            input.now,
        ),
    ];
    let drainable = match (&input.planned.out_of_reach, input.drainable) {
        (Some(cause), _) => (Answer::Unknown, cause.clone()),
        (None, Some(told)) => told.clone(),
        (None, None) => (
            Answer::Unknown,
            Cause::new(Reason::InProgress, "not looked at yet"),
        ),
    };
    own.push(condition(
        "Drainable",
        drainable.0,
        drainable.1.reason,
        sentence(&drainable.1),
        generation,
        input.now,
    ));
    if let Some((answer, cause)) = input.node {
        own.push(condition(
            NODE_FOLLOWED,
            *answer,
            cause.reason,
            sentence(cause),
            generation,
            input.now,
        ));
    }
    if let Some(cause) = input.claimed {
        own.push(condition(
            "ClaimedByOther",
            Answer::True,
            cause.reason,
            sentence(cause),
            generation,
            input.now,
        ));
    }
    if let Some(cause) = stale_copies(input.stale) {
        own.push(condition(
            "StaleCopies",
            Answer::True,
            cause.reason,
            sentence(&cause),
            generation,
            input.now,
        ));
    }
    let standing = Standing {
        ready: ready.0,
        reconciling: state.link == Link::Unheard,
        stalled: state.duplicate_of.is_some() || state.hypervisor.is_none(),
        cause: ready.1,
    };
    status.conditions = conditions(own, &standing, generation, input.now, &before.conditions);
    // When only the time of the last look differs, nobody acts on it: written once a minute.
    status.observed_time.clone_from(&before.observed_time);
    let seen = state.observed.map(|time| Time(whole_seconds(time)));
    let old = before
        .observed_time
        .as_ref()
        .map_or(0, |time| time.0.as_second());
    if status != *before
        || seen
            .as_ref()
            .is_some_and(|time| time.0.as_second() - old >= 60)
    {
        status.observed_time = seen;
    }
    status
}

/// What must not be started there.
fn stale_copies(stale: &[(&str, &HostName)]) -> Option<Cause> {
    let named: Vec<String> = stale
        .iter()
        .take(NAMED)
        .map(|(guest, host)| format!("{guest} (lives on {host})"))
        .collect();
    let more = match stale.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!stale.is_empty()).then(|| {
        Cause::new(
            Reason::DefinedTwice,
            format!(
                "old copies that must not be started: {}{more}",
                named.join(", ")
            ),
        )
    })
}

fn counts(state: &HostState, managed_elsewhere: i64) -> GuestCounts {
    let active = state
        .domains
        .values()
        .filter(|domain| domain.activity.active())
        .count() as i64;
    GuestCounts {
        active,
        stopped: state.domains.len() as i64 - active,
        managed_elsewhere,
    }
}

fn capacity(input: &Input<'_>, facts: &HostFacts, before: Option<&Capacity>) -> Capacity {
    let planned = input.planned;
    let cpu_used = planned.cpu_used_milli + input.held_cpu_milli;
    let memory_used = Bytes(planned.memory_used.0 + input.held_memory.0);
    let cpus = |milli: u64| Cpus { milli }.to_string();
    let cpu = CpuCapacity {
        total: facts.cpus.to_string(),
        reserved: input
            .state
            .declared
            .spec
            .reserved
            .cpu
            .unwrap_or_default()
            .to_string(),
        used_now: cpu_now(facts, before),
        used_max: cpus(cpu_used),
        allocatable: if cpu_used > planned.cpu_limit_milli {
            format!("-{}", cpus(cpu_used - planned.cpu_limit_milli))
        } else {
            cpus(planned.cpu_limit_milli - cpu_used)
        },
        summary: format!("{}/{}", cpus(cpu_used), cpus(planned.cpu_limit_milli)),
    };
    let memory_now = steady(
        facts.load.memory,
        before.map(|before| before.memory.used_now),
        facts.memory,
    );
    let memory = MemoryCapacity {
        total: facts.memory,
        reserved: kept_memory(&input.state.declared, facts),
        used_now: memory_now,
        used_max: memory_used,
        allocatable: Bytes(planned.memory_limit.0.saturating_sub(memory_used.0)),
        summary: format!("{}/{}", memory_used.human(), planned.memory_limit.human()),
    };
    let groups = budgets(input.state, facts);
    let mut held: BTreeMap<u32, u64> = BTreeMap::new();
    for (pool, bytes) in &input.held_pools {
        if let Some(&group) = groups.get(pool.as_str()) {
            *held.entry(group).or_default() += bytes.0;
        }
    }
    let pools = facts
        .pools
        .iter()
        .map(|pool| {
            let group = groups.get(pool.name.as_str()).copied();
            let planned = planned
                .pools
                .iter()
                .find(|planned| planned.name == pool.name);
            let open = planned.is_some_and(|planned| planned.closed.is_none());
            let to_come = group
                .and_then(|group| held.get(&group))
                .copied()
                .unwrap_or(0);
            PoolCapacity {
                name: pool.name.clone(),
                path: pool.path.clone(),
                active: pool.active,
                total: pool.total,
                used_now: Bytes(pool.total.0.saturating_sub(pool.available.0)),
                used_max: planned.map_or(Bytes(0), |planned| planned.virtual_used),
                allocatable: Bytes(match planned {
                    Some(planned) if open => planned.available.0.saturating_sub(to_come),
                    _ => 0,
                }),
                shares_with: facts
                    .pools
                    .iter()
                    .filter(|other| {
                        other.name != pool.name && groups.get(other.name.as_str()).copied() == group
                    })
                    .map(|other| other.name.clone())
                    .collect(),
            }
        })
        .collect();
    Capacity { cpu, memory, pools }
}

/// Live use, as written before while it changed by less than a few points.
fn steady(now: Bytes, before: Option<Bytes>, total: Bytes) -> Bytes {
    match before {
        Some(before) if now.0.abs_diff(before.0) < total.0 * STEP / 100 => before,
        _ => now,
    }
}

fn cpu_now(facts: &HostFacts, before: Option<&Capacity>) -> Option<String> {
    let now = facts.load.cpu_milli?;
    let old = before.and_then(|before| before.cpu.used_now.clone());
    let old_milli = old.as_ref().and_then(|text| text.parse::<Cpus>().ok());
    match old_milli {
        Some(milli) if milli.milli.abs_diff(now) < u64::from(facts.cpus) * 10 * STEP => old,
        _ => Some(Cpus { milli: now }.to_string()),
    }
}
