//! From what hosts told and what is declared to the planner's fleet and ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    kinds::guest::{Evacuation, Hold, Managed},
    names::{HostName, MigrationName},
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::Timestamp,
};
use evenkeel_planner::{self as planner, BaseId, GuestId, HostId, InFlight, Ledger, PoolHold};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    capacity,
    guests::{Entry, Guests, Place, incoming, place},
    hosts::HostState,
    journal::Journal,
    moves::{MoveState, running},
    mutation::{Rule, broken},
    port::{CpuNeed, DomainFacts, InterfaceSource, Layer, PoolFacts, ShutdownStage},
    profile::Profiles,
};

/// How long the removal of kept disks may take.
const GOING: Duration = Duration::from_secs(2);

/// The planner's picture and the way back from its ids.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) fleet: planner::Fleet,
    pub(crate) ledger: Ledger,
    pub(crate) hosts: BTreeMap<HostName, HostId>,
    pub(crate) guests: BTreeMap<Uuid, GuestId>,
    pub(crate) uuids: Vec<Uuid>,
}

impl Model {
    pub(crate) fn host(&self, id: HostId) -> &planner::Host {
        &self.fleet.hosts[id.at()]
    }

    pub(crate) fn guest(&self, id: GuestId) -> &planner::Guest {
        &self.fleet.guests[id.at()]
    }

    /// Where guests go by this plan, those that only stop over left out.
    pub(crate) fn targets(&self, plan: &planner::Plan) -> BTreeMap<Uuid, HostName> {
        let whole = plan.moves.iter().filter(|step| step.onward.is_none());
        whole
            .map(|step| {
                let host = self.host(step.target).name.clone();
                (self.uuids[step.guest.at()], host)
            })
            .collect()
    }
}

/// What the model is made from.
pub(crate) struct Sources<'a> {
    pub(crate) hosts: &'a BTreeMap<HostName, HostState>,
    pub(crate) guests: &'a Guests,
    pub(crate) moves: &'a BTreeMap<MigrationName, MoveState>,
    /// Hosts that another holds.
    pub(crate) claimed: &'a BTreeMap<HostName, Cause>,
    /// Guests of whom an earlier process left a move unfinished.
    pub(crate) unfinished: &'a BTreeMap<Uuid, Cause>,
    /// Bytes of memory that guests dirty per second, as it was last measured.
    pub(crate) dirtied: &'a BTreeMap<Uuid, Bytes>,
    /// Moves of earlier processes that nobody has taken over yet.
    pub(crate) left: &'a [&'a Journal],
    /// Where guests were to go by the last plan.
    pub(crate) planned: &'a BTreeMap<Uuid, HostName>,
    pub(crate) profiles: Profiles<'a>,
    pub(crate) now: Timestamp,
    /// The planner's zero.
    pub(crate) started: Instant,
}

/// Makes the model.
pub(crate) fn build(sources: &Sources<'_>) -> Model {
    let mut model = Model::default();
    for (id, (name, state)) in sources.hosts.iter().enumerate() {
        model.hosts.insert(name.clone(), HostId(id as u32));
        model
            .fleet
            .hosts
            .push(capacity::host(name, state, sources.claimed.get(name)));
    }
    let under_way = under_way(sources.moves);
    let named = named(sources.moves);
    let mut bases = Bases::default();
    for (&uuid, entry) in &sources.guests.by_uuid {
        let ours = under_way.get(&uuid).copied();
        let Some(place) = place(entry, uuid, sources.hosts, ours) else {
            continue;
        };
        let Some(&host) = model.hosts.get(&place.host) else {
            continue;
        };
        let id = GuestId(model.fleet.guests.len() as u32);
        let mut guest = guest(sources, entry, uuid, &place, host, ours.is_some());
        let named = [entry.name.as_str(), &guest.uuid].map(|name| named.get(name));
        if let Some(profile) = named.into_iter().flatten().next() {
            let profile = sources.profiles.choose(Some(profile), None, &[]);
            guest.bandwidth = profile.ok().and_then(|profile| profile.spec.bandwidth);
        }
        let pools = sources.hosts[&place.host].facts.as_ref();
        let pools = pools.map_or(&[] as &[PoolFacts], |facts| &facts.pools);
        let disks = place.facts.disks.iter().filter(|disk| disk.is_copied());
        for layer in disks.flat_map(|disk| &disk.backing) {
            guest.bases.insert(bases.note(layer, pools));
        }
        model.fleet.hosts[host.at()].bases.extend(&guest.bases);
        if let Some((source, target)) = &place.foreign
            && let (Some(&source), Some(&target)) =
                (model.hosts.get(source), model.hosts.get(target))
            && !sources.left.iter().any(|journal| journal.guest == uuid)
        {
            model.ledger.in_flight.push(InFlight {
                by: None,
                guest: id,
                source,
                target,
                cpu_milli: 0,
                memory: Bytes(0),
                pools: BTreeMap::new(),
                remaining: None,
            });
        }
        model.fleet.guests.push(guest);
        model.guests.insert(uuid, id);
        model.uuids.push(uuid);
    }
    model.fleet.bases = bases.all;
    between_hosts(sources, &mut model);
    ledger(sources, &mut model);
    left(sources, &mut model);
    model
}

/// Base images below disks, in the order in which they are met.
#[derive(Default)]
struct Bases {
    all: Vec<planner::Base>,
    by_path: BTreeMap<String, BaseId>,
}

impl Bases {
    /// The place of one that is below a disk of a host with these pools.
    fn note(&mut self, layer: &Layer, pools: &[PoolFacts]) -> BaseId {
        if let Some(id) = self.by_path.get(&layer.path) {
            let known = &mut self.all[id.at()];
            known.allocated = known.allocated.max(layer.allocated);
            return *id;
        }
        let id = BaseId(self.all.len() as u32);
        let holds = |pool: &&PoolFacts| pool.is_above(&layer.path);
        let pool = pools
            .iter()
            .filter(holds)
            .max_by_key(|pool| pool.path.len());
        self.all.push(planner::Base {
            path: layer.path.clone(),
            pool: pool.map(|pool| pool.name.clone()),
            allocated: layer.allocated,
        });
        self.by_path.insert(layer.path.clone(), id);
        id
    }
}

/// Source, target and arrival of each guest's move of ours.
pub(crate) fn under_way(
    moves: &BTreeMap<MigrationName, MoveState>,
) -> BTreeMap<Uuid, (&HostName, &HostName, bool)> {
    moves
        .values()
        .filter_map(|state| {
            let running = state.running.as_ref()?;
            Some((
                running.guest,
                (&running.source, &running.target, state.arrived()),
            ))
        })
        .collect()
}

/// The profiles that moves name which are still to be made, by their guests.
fn named(moves: &BTreeMap<MigrationName, MoveState>) -> BTreeMap<&str, &str> {
    let open = moves.values().filter(|state| !state.is_final());
    open.filter_map(|state| Some((state.spec.guest.as_str(), state.spec.profile.as_deref()?)))
        .collect()
}

fn guest(
    sources: &Sources<'_>,
    entry: &Entry,
    uuid: Uuid,
    place: &Place<'_>,
    host: HostId,
    ours: bool,
) -> planner::Guest {
    let facts = place.facts;
    let state = &sources.hosts[&place.host];
    let spec = entry.declared.as_ref().map(|guest| &guest.spec);
    let active = facts.activity.active();
    let profile = sources.profiles.choose(None, Some(entry), &[&place.host]);
    planner::Guest {
        name: entry.name.clone(),
        domain: facts.name.clone(),
        uuid: uuid.to_string(),
        labels: labels(entry, facts),
        host,
        active,
        immovable: immovable(entry, place, ours).or_else(|| held(entry, sources.now)),
        held: sources
            .unfinished
            .get(&uuid)
            .cloned()
            .or_else(|| shutting_down(entry, facts))
            .or_else(|| profile.as_ref().err().cloned()),
        evacuation: evacuation(entry, active),
        cpu_milli: u64::from(facts.vcpus) * 1000,
        memory: Bytes(facts.memory.0.saturating_add(facts.memory_overhead.0)),
        overhead: facts.memory_overhead,
        disks: facts
            .disks
            .iter()
            .filter(|disk| disk.is_copied())
            .map(|disk| planner::Disk {
                target: disk.target.clone(),
                pool: disk.pool.clone(),
                class: disk
                    .pool
                    .as_ref()
                    .and_then(|pool| capacity::spec_of(state, pool)?.class.clone()),
                virtual_size: disk.virtual_size,
                allocated: disk.allocated,
            })
            .collect(),
        bases: BTreeSet::new(),
        load: None,
        dirty_rate: sources.dirtied.get(&uuid).copied(),
        bandwidth: profile.ok().and_then(|profile| profile.spec.bandwidth),
        priority: spec.map_or(0, |spec| spec.priority),
        needs: needs(state, facts),
    }
}

/// Labels: the manifest's over those in the domain's metadata, key by key.
pub(crate) fn labels(entry: &Entry, facts: &DomainFacts) -> BTreeMap<String, String> {
    let mut labels = facts.labels.clone();
    if let Some(guest) = &entry.declared {
        labels.extend(guest.metadata.labels.clone().unwrap_or_default());
    }
    labels
}

/// Why nobody can move it now.
pub(crate) fn immovable(entry: &Entry, place: &Place<'_>, ours: bool) -> Option<Cause> {
    let facts = place.facts;
    let name = &entry.name;
    let elsewhere = entry
        .declared
        .as_ref()
        .is_some_and(|guest| guest.spec.managed == Managed::Elsewhere);
    if elsewhere {
        return Some(Cause::new(
            Reason::ManagedElsewhere,
            format!("{name} is managed elsewhere, says its Guest"),
        ));
    }
    if let Some(manager) = &facts.managed_by {
        return Some(Cause::new(
            Reason::ManagedElsewhere,
            format!("{name} is managed by {manager}"),
        ));
    }
    if let Some(cause) = &place.double {
        return Some(cause.clone());
    }
    if let Some(obstacle) = facts.obstacles.first() {
        return Some(obstacle.clone());
    }
    if ours {
        return None;
    }
    if let Some(cause) = &place.apart {
        return Some(cause.clone());
    }
    if !facts.persistent {
        return Some(Cause::new(
            Reason::TransientDomain,
            format!("{name} is transient: nothing defines it if it stops"),
        ));
    }
    if entry.settling {
        return Some(Cause::new(
            Reason::JobActive,
            format!("a migration of {name} is only just over"),
        ));
    }
    if facts.job || place.foreign.is_some() || incoming(facts) {
        return Some(Cause::new(
            Reason::JobActive,
            format!("libvirt has a job on {name} that is not ours"),
        ));
    }
    facts.block_job.then(|| {
        Cause::new(
            Reason::BlockJobActive,
            format!("a block job runs on a disk of {name}"),
        )
    })
}

/// The hold that its Guest declares, while that lasts.
pub(crate) fn hold(entry: &Entry, now: Timestamp) -> Option<&Hold> {
    let hold = entry.declared.as_ref()?.spec.hold.as_ref();
    hold.filter(|hold| hold.until.as_ref().is_none_or(|until| until.0 > now))
}

/// Why nothing moves it for now.
fn held(entry: &Entry, now: Timestamp) -> Option<Cause> {
    let hold = hold(entry, now)?;
    let until = hold
        .until
        .as_ref()
        .map_or_else(String::new, |until| format!(" until {}", until.0));
    let message = format!("{} is held{until}: {}", entry.name, hold.reason);
    Some(Cause::new(Reason::GuestHeld, message))
}

/// Why nothing moves it now: a drain has asked it to shut down.
fn shutting_down(entry: &Entry, facts: &DomainFacts) -> Option<Cause> {
    let mark = facts.shutdown_mark.as_ref()?;
    (facts.activity.active() && mark.stage == ShutdownStage::Asked).then(|| {
        let message = format!("{} was asked to shut down by {}", entry.name, mark.by);
        Cause::new(Reason::ShuttingDown, message)
    })
}

/// Why no drain moves it: its Guest says how it is evacuated.
fn evacuation(entry: &Entry, active: bool) -> Option<Cause> {
    let name = &entry.name;
    match entry.declared.as_ref()?.spec.evacuation {
        Evacuation::Migrate => None,
        Evacuation::Never => Some(Cause::new(
            Reason::EvacuationNever,
            format!("{name} is not to be evacuated"),
        )),
        // One that is off already is moved as any other.
        Evacuation::Shutdown => active.then(|| {
            Cause::new(
                Reason::ShutdownPending,
                format!("{name} is shut down instead of moved, as its Guest asks for"),
            )
        }),
    }
}

/// Why the profile of its moves can't be applied, unless a move names another.
pub(crate) fn unprofiled(
    profiles: Profiles<'_>,
    entry: &Entry,
    place: &Place<'_>,
) -> Option<Cause> {
    profiles.choose(None, Some(entry), &[&place.host]).err()
}

fn needs(state: &HostState, facts: &DomainFacts) -> planner::Needs {
    let mut needs = planner::Needs {
        emulator: facts.emulator.clone(),
        machine: facts.machine.clone(),
        ..planner::Needs::default()
    };
    if let Some(host) = &state.facts {
        needs.hypervisor = capacity::version(&host.hypervisor_version);
        if facts.cpu == CpuNeed::SameAsHost {
            needs.cpu = Some(host.cpu_fingerprint.clone());
        }
    }
    for interface in &facts.interfaces {
        let new = match &interface.source {
            InterfaceSource::Network(name) => needs.networks.insert(name.clone()).then_some(name),
            InterfaceSource::Bridge(name) => needs.bridges.insert(name.clone()).then_some(name),
            InterfaceSource::User | InterfaceSource::Other(_) => None,
        };
        let filter = interface.filter.as_ref();
        let filter = filter.filter(|name| needs.nwfilters.insert((*name).clone()));
        if !interface.plugged {
            needs.pending.extend(new.into_iter().chain(filter).cloned());
        }
    }
    for disk in facts.disks.iter().filter(|disk| disk.stays()) {
        needs
            .storage
            .extend(disk.pool.clone().zip(disk.directory().map(str::to_owned)));
    }
    needs
}

/// Guests of moves under way that no host tells of just now: the source has them no more, the target is silent. They are
/// no less on their way.
fn between_hosts(sources: &Sources<'_>, model: &mut Model) {
    for running in running(sources.moves) {
        let (Some(known), Some(&host)) = (&running.known, model.hosts.get(&running.target)) else {
            continue;
        };
        if model.guests.contains_key(&running.guest) {
            continue;
        }
        let id = GuestId(model.fleet.guests.len() as u32);
        model.fleet.guests.push(planner::Guest {
            host,
            ..known.clone()
        });
        model.guests.insert(running.guest, id);
        model.uuids.push(running.guest);
    }
}

fn ledger(sources: &Sources<'_>, model: &mut Model) {
    if broken(Rule::InFlight) {
        return;
    }
    let since = |until: Instant| until.saturating_duration_since(sources.started);
    for (guest, host) in sources.planned {
        if let (Some(&guest), Some(&host)) = (model.guests.get(guest), model.hosts.get(host)) {
            model.ledger.planned.insert(guest, host);
        }
    }
    for (name, state) in sources.hosts {
        let host = model.hosts[name];
        for kept in &state.kept {
            if let Some(&guest) = model.guests.get(&kept.journal.guest) {
                model.ledger.avoid.push(planner::Avoid {
                    guest: Some(guest),
                    host,
                    // The files go a moment after their time is over.
                    until: since(kept.due.max(Instant::now() + GOING)),
                    cause: Cause::new(
                        Reason::SourceKept,
                        format!(
                            "{name} still keeps the disks of {}, as its last move's profile asks for",
                            kept.journal.domain
                        ),
                    ),
                });
            }
        }
    }
    for state in sources.moves.values() {
        let guest = match &state.running {
            Some(running) => model.guests.get(&running.guest),
            None => sources
                .guests
                .find(&state.spec.guest)
                .and_then(|(uuid, _)| model.guests.get(&uuid)),
        };
        let Some(&guest) = guest else {
            continue;
        };
        if let Some((cause, until)) = &state.rest {
            model.ledger.resting.push(planner::Resting {
                guest,
                until: since(*until),
                cause: cause.clone(),
            });
        }
        for (host, (cause, until)) in &state.avoid {
            if let Some(&host) = model.hosts.get(host) {
                model.ledger.avoid.push(planner::Avoid {
                    guest: Some(guest),
                    host,
                    until: since(*until),
                    cause: cause.clone(),
                });
            }
        }
        let Some(running) = &state.running else {
            continue;
        };
        let ends = (
            model.hosts.get(&running.source),
            model.hosts.get(&running.target),
        );
        let (Some(&source), Some(&target)) = ends else {
            continue;
        };
        // What the target's own description counts already is not reserved a second time.
        let there = sources.hosts[&running.target].domains.get(&running.guest);
        let (cpu_milli, memory) = to_come(there.map(|facts| &**facts), model.guest(guest));
        let mut pools = running.pools.clone();
        if there.is_some() {
            for hold in pools.values_mut() {
                hold.virtual_size = Bytes(0);
            }
        }
        if state.arrived() {
            for hold in pools.values_mut() {
                hold.to_come = Bytes(0);
            }
        }
        model.ledger.in_flight.push(InFlight {
            by: Some(state.by.clone()),
            guest,
            source,
            target,
            cpu_milli,
            memory,
            pools,
            remaining: running.eta,
        });
    }
}

/// Moves of earlier processes that libvirt is seen to go on with, while an end of them does not answer.
fn left(sources: &Sources<'_>, model: &mut Model) {
    for journal in sources.left {
        let seen = |host: &HostName| {
            let state = sources.hosts.get(host).filter(|state| state.usable());
            state.and_then(|state| state.domains.get(&journal.guest))
        };
        let (here, there) = (seen(&journal.source.host), seen(&journal.target.host));
        let goes_on =
            here.is_some_and(|facts| facts.job) || there.is_some_and(|facts| incoming(facts));
        let ends = (
            model.guests.get(&journal.guest),
            model.hosts.get(&journal.source.host),
            model.hosts.get(&journal.target.host),
        );
        let (true, (Some(&guest), Some(&source), Some(&target))) = (goes_on, ends) else {
            continue;
        };
        let (cpu_milli, memory) = to_come(there.map(|facts| &**facts), model.guest(guest));
        model.ledger.in_flight.push(InFlight {
            by: None,
            guest,
            source,
            target,
            cpu_milli,
            memory,
            pools: BTreeMap::new(),
            remaining: None,
        });
    }
}

/// CPU and memory that a guest will take at its target, beyond what the target's own description counts already.
fn to_come(there: Option<&DomainFacts>, guest: &planner::Guest) -> (u64, Bytes) {
    if there.is_some_and(|facts| facts.activity.active()) {
        (0, Bytes(0))
    } else {
        (guest.cpu_milli, guest.memory)
    }
}

/// What a planned move will hold of its target's pools.
pub(crate) fn holds(
    guest: &planner::Guest,
    pools: &BTreeMap<String, String>,
) -> BTreeMap<String, PoolHold> {
    let mut holds: BTreeMap<String, PoolHold> = BTreeMap::new();
    for disk in &guest.disks {
        let pool = pools.get(&disk.target).or(disk.pool.as_ref());
        if let Some(pool) = pool {
            let hold = holds.entry(pool.clone()).or_default();
            hold.to_come.0 += disk.virtual_size.0;
            hold.virtual_size.0 += disk.virtual_size.0;
        }
    }
    holds
}
