//! Starts what the plan says shall start now, and takes in how it ended.

use std::collections::BTreeMap;

use evenkeel_crds::{
    GuestMigrationSpec,
    kinds::profile::{AppliedProfile, Transport},
    names::{HostName, MigrationName},
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::Timestamp,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use uuid::Uuid;

use super::{Arrival, Pass, Reconciler};
use crate::{
    encryption,
    hosts::{HostState, Journals, Keeping},
    journal::Journal,
    life::{self, Lines, Order, Outcome, Place},
    model::holds,
    moves::{MoveState, Running, running},
};

/// How an attempt begins.
pub(super) enum Way {
    /// Anew: for each disk the pool at the target, the profile, and where the guest goes on to, if it only stops over.
    New(BTreeMap<String, String>, AppliedProfile, Option<HostName>),
    /// Where an earlier process left it.
    Adopted(Box<Journal>),
}

impl Reconciler {
    /// Starts every move that waits for nothing.
    pub(super) fn start(&mut self, pass: &mut Pass) {
        if !self.options.act || self.held || self.suspended().is_some() {
            return;
        }
        let most = pass.model.fleet.limits.parallel.map(|most| most as usize);
        let ours = running(&self.moves).count();
        let others = pass.model.ledger.in_flight.len().saturating_sub(ours);
        let ready: Vec<evenkeel_planner::Move> = pass
            .plan
            .moves
            .iter()
            .filter(|planned| planned.waits.is_none())
            .cloned()
            .collect();
        for planned in ready {
            if most.is_some_and(|most| running(&self.moves).count() + others >= most) {
                return;
            }
            let uuid = pass.model.uuids[planned.guest.at()];
            let source = pass.model.host(planned.source).name.clone();
            let target = pass.model.host(planned.target).name.clone();
            // What an earlier process left on these hosts, or of this guest, comes first.
            let known = |host: &HostName| {
                self.hosts
                    .get(host)
                    .is_some_and(|state| state.journals == Journals::Read)
            };
            let left = self
                .orphans
                .values()
                .any(|(journal, _)| journal.guest == uuid);
            let busy = running(&self.moves).any(|running| running.guest == uuid);
            if !known(&source)
                || !known(&target)
                || left
                || busy
                || self.releases(uuid)
                || self.shuts_down(uuid)
            {
                continue;
            }
            let guest = pass.model.guest(planned.guest);
            let name = if planned.by.kind == "GuestMigration" {
                planned.by.name.as_str().into()
            } else {
                let Some(name) = self.wish_move_name(&planned.by, guest.name.as_str(), uuid) else {
                    continue;
                };
                // One that ended because its wish was gone: the wish is back.
                let over = |state: &MoveState| {
                    let gone = |cause: &Cause| cause.reason == Reason::WishGone;
                    !state.declared && state.is_final() && state.end.as_ref().is_some_and(gone)
                };
                if self.moves.get(&name).is_some_and(over) {
                    self.moves.remove(&name);
                }
                self.moves.entry(name.clone()).or_insert_with(|| {
                    let spec = GuestMigrationSpec {
                        guest: guest.name.to_string(),
                        ..GuestMigrationSpec::default()
                    };
                    MoveState::new(spec, planned.by.clone(), pass.now)
                });
                name
            };
            let way_for = planned.makes_way_for;
            if let Some(state) = self.moves.get_mut(&name) {
                state.makes_way_for = way_for.map(|guest| pass.model.uuids[guest.at()]);
                state.expected = planned.bytes;
            }
            let Some(state) = self.moves.get(&name) else {
                continue;
            };
            if state.is_final() || state.running.is_some() {
                continue;
            }
            let profile = self.profiles().choose(
                state.spec.profile.as_deref(),
                pass.guests.by_uuid.get(&uuid),
                &[&source, &target],
            );
            let profile = match profile {
                Ok(profile) => profile,
                Err(cause) => {
                    if let Some(state) = self.moves.get_mut(&name) {
                        state.refuse(cause, target);
                    }
                    continue;
                }
            };
            let profile = self.shared_out(profile);
            let onward = planned.onward;
            let onward = onward.map(|host| pass.model.host(host).name.clone());
            self.launch(
                &name,
                source,
                target,
                uuid,
                Way::New(planned.pools.clone(), profile, onward),
                pass.now,
            );
            if let Some(running) = self
                .moves
                .get_mut(&name)
                .and_then(|state| state.running.as_mut())
            {
                running.known = Some(guest.clone());
                running.pools = holds(guest, &planned.pools);
            }
        }
    }

    /// Starts the task of one attempt.
    pub(super) fn launch(
        &mut self,
        name: &MigrationName,
        source: HostName,
        target: HostName,
        guest: Uuid,
        way: Way,
        now: Timestamp,
    ) {
        let (pools, profile, onward, adopted) = match way {
            Way::New(pools, profile, onward) => (pools, profile, onward, None),
            Way::Adopted(journal) => (
                BTreeMap::new(),
                journal.profile.clone(),
                journal.onward.clone(),
                Some(*journal),
            ),
        };
        // A move that is taken over may have an end that has not answered yet.
        let known = |end: fn(&Journal) -> &crate::journal::End| {
            adopted.as_ref().map(|journal| end(journal).uuid)
        };
        let (Some(from), Some(to)) = (
            self.place(&source, known(|journal| &journal.source)),
            self.place(&target, known(|journal| &journal.target)),
        ) else {
            return;
        };
        let declared = |host: &HostName| &self.hosts[host].declared.spec;
        let target_uri = encryption::peer_uri(declared(&target)).to_owned();
        let target_address = declared(&target).migration.address.clone();
        let encrypted = match &adopted {
            // What is taken over began as its journal says.
            Some(journal) => journal.encrypted,
            None => Some(encryption::encrypts(
                profile.spec.encryption,
                declared(&source),
                declared(&target),
            )),
        };
        let known_beside = self.known(guest, &source, &target);
        let Some(state) = self.moves.get_mut(name) else {
            return;
        };
        let placed = state.spec.disks.iter().flatten();
        let id = adopted
            .as_ref()
            .map_or_else(|| self.clock.id(), |journal| journal.id);
        let order = Order {
            id,
            migration: name.clone(),
            migration_uid: state.uid.clone(),
            requested_by: state.by.clone(),
            attempt: (state.status.failed_attempts + 1).unsigned_abs(),
            fleet: self.options.fleet.clone(),
            guest,
            source: from,
            target: to,
            onward,
            mode: state.spec.mode,
            placed: placed.map(|disk| disk.target.clone()).collect(),
            pools,
            target_uri,
            target_address,
            direct: (profile.spec.transport == Transport::Direct)
                .then(|| self.hosts[&target].endpoint.clone()),
            encrypted: encrypted.unwrap_or_default(),
            rate: rate(&profile, [&self.hosts[&source], &self.hosts[&target]]),
            profile,
            start_time: now.to_string(),
            adopted,
        };
        let (abort, aborted) = watch::channel(false);
        let (tell_beside, beside) = watch::channel(known_beside);
        let (events, heard) = mpsc::unbounded_channel();
        let lines = Lines {
            claims: self.claims.clone(),
            clock: self.clock.clone(),
            carrier: self.carrier.clone(),
            abort: aborted,
            events: heard,
            reports: self.reports.0.clone(),
            known: beside,
        };
        let mut running = Running {
            id,
            guest,
            source,
            target,
            abort,
            beside: tell_beside,
            events,
            pools: BTreeMap::new(),
            known: None,
            eta: None,
            encrypted,
            journal: order.adopted.clone(),
        };
        for disk in running.journal.iter().flat_map(|journal| &journal.disks) {
            let hold = running.pools.entry(disk.pool.clone()).or_default();
            hold.to_come.0 += disk.virtual_size.0;
            hold.virtual_size.0 += disk.virtual_size.0;
        }
        state.status.profile = Some(order.profile.clone());
        state.begin(running, now);
        self.tasks.spawn(life::run(order, lines));
    }

    pub(super) fn place(&self, host: &HostName, known: Option<Uuid>) -> Option<Place> {
        let state = self.hosts.get(host)?;
        Some(Place {
            host: host.clone(),
            uuid: state.facts.as_ref().map(|facts| facts.uuid).or(known)?,
            hypervisor: state.hypervisor.clone()?,
        })
    }

    /// An attempt ended.
    pub(super) fn ended(&mut self, name: &MigrationName, outcome: Outcome, now: Timestamp) {
        let Some(state) = self.moves.get_mut(name) else {
            return;
        };
        let journal = state
            .running
            .as_ref()
            .and_then(|running| running.journal.clone());
        if let (Outcome::Succeeded { .. }, Some(running)) = (&outcome, &state.running)
            && let Some(known) = &running.known
        {
            let arrival = Arrival {
                host: running.target.clone(),
                cpu_milli: known.cpu_milli,
                memory: known.memory,
                at: Instant::now(),
            };
            self.arrivals.insert(running.guest, arrival);
        }
        let untouched = matches!(&outcome, Outcome::Failed { tried: false, .. });
        // Another finished what we meant to take over: nothing is left to do or to say.
        let finished = matches!(&outcome, Outcome::Failed { cause, tried: false } if cause.reason == Reason::Interrupted);
        let ends = state.running.as_ref().map(|running| {
            (
                running.guest,
                running.source.clone(),
                running.target.clone(),
            )
        });
        let arrived = matches!(&outcome, Outcome::Succeeded { .. });
        if let Outcome::Succeeded {
            kept: Some(journal),
            ..
        } = &outcome
            && let Some(host) = self.hosts.get_mut(&journal.source.host)
        {
            host.kept.extend(Keeping::of(journal, now));
        }
        let cause = state.conclude(outcome, now);
        if let Some((guest, source, target)) = ends
            && let Some(host) = self.hosts.get_mut(&target)
        {
            match &cause {
                None if arrived => host.circuit.succeeded(),
                Some(cause) => host.circuit.failed(guest, &source, cause, Instant::now()),
                None => {}
            }
        }
        let hidden = state.hidden;
        let message = state
            .status
            .attempts
            .last()
            .map(|attempt| attempt.message.clone())
            .unwrap_or_default();
        if let Some(journal) = journal.filter(|_| untouched && !finished) {
            self.put_back(journal);
        }
        if hidden {
            self.moves.remove(name);
            return;
        }
        match cause {
            None => {
                let done = Cause::new(Reason::Completed, message).hint("");
                self.tell("GuestMigration", name, &done, false, "Migrate");
            }
            Some(cause) => {
                let warning = cause.reason != Reason::Aborted;
                self.tell("GuestMigration", name, &cause, warning, "Migrate");
            }
        }
    }
}

/// What a move can have at most, by what is declared: of its profile and of both links the least.
fn rate(profile: &AppliedProfile, ends: [&HostState; 2]) -> Option<Bytes> {
    ends.into_iter()
        .filter_map(|state| state.declared.spec.migration.bandwidth)
        .chain(profile.spec.bandwidth)
        .min()
}
