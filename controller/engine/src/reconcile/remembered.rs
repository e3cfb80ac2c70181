//! What one pass tells the next: guests that other hands moved, that have only just arrived, or are on several hosts since a
//! moment ago; what guests took and dirtied.

use std::{collections::BTreeSet, time::Duration};

use evenkeel_crds::{names::HostName, shared::Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Inner, Reconciler};
use crate::{
    guests::Guests,
    model::{self, Model},
    moves::running,
};

/// How long a guest that arrived is counted where its host does not tell of it.
const UNTOLD: Duration = Duration::from_secs(60);
/// How long a guest is on several hosts before that is believed and said.
const SETTLE: Duration = Duration::from_millis(500);

impl Reconciler {
    /// Notes whether the fleet is another than before, for those that look at it only then. False where it is.
    pub(super) fn note_changes(&mut self, model: &Model) -> bool {
        let same = *self.views.borrow().fleet == model.fleet;
        if !same {
            self.emptying.fleet_changed = true;
            for levelling in self.levelling.values_mut() {
                levelling.fleet_changed = true;
            }
        }
        same
    }

    /// Notes which guests are elsewhere than before, and not by a move of ours.
    pub(super) fn look_for_other_hands(&mut self, guests: &Guests, now: Timestamp) {
        let moving = running(&self.moves).map(|running| running.guest);
        let left = self.orphans.values().map(|(journal, _)| journal.guest);
        let ours = moving.chain(left).chain(self.arrivals.keys().copied());
        let ours = ours.collect();
        self.hands.look(guests, &self.hosts, &ours, now);
    }

    /// Keeps with each move what its guest takes.
    pub(super) fn know(&mut self, model: &Model) {
        let under_way = self.moves.values_mut();
        for running in under_way.filter_map(|state| state.running.as_mut()) {
            let seen = model.guests.get(&running.guest);
            if let Some(seen) = seen.map(|id| model.guest(*id))
                && running.known.as_ref() != Some(seen)
            {
                running.known = Some(seen.clone());
            }
        }
    }

    /// Forgets what guests dirtied that run no more.
    pub(super) fn forget_dirtying(&mut self, guests: &Guests) {
        let hosts = &self.hosts;
        let moving: BTreeSet<Uuid> = running(&self.moves).map(|running| running.guest).collect();
        self.dirtied.retain(|uuid, _| {
            let places = guests.by_uuid.get(uuid).map(|entry| &entry.hosts);
            let runs = |host: &HostName| {
                let facts = hosts.get(host).and_then(|state| state.domains.get(uuid));
                facts.is_some_and(|facts| facts.activity.active())
            };
            moving.contains(uuid) || places.is_some_and(|places| places.iter().any(runs))
        });
    }

    /// Counts guests that have just arrived where their host has not told of them yet: it may be slow to answer.
    pub(super) fn count_arrivals(&mut self, model: &mut Model) {
        let hosts = &self.hosts;
        self.arrivals.retain(|guest, arrival| {
            let host = hosts.get(&arrival.host);
            let told = host.is_none_or(|state| state.domains.contains_key(guest));
            !told && arrival.at.elapsed() < UNTOLD
        });
        for arrival in self.arrivals.values() {
            if let Some(id) = model.hosts.get(&arrival.host) {
                let host = &mut model.fleet.hosts[id.at()];
                host.cpu_used_milli += arrival.cpu_milli;
                host.memory_used.0 += arrival.memory.0;
            }
        }
    }

    /// Notes which guests are on several hosts only since a moment ago.
    pub(super) fn let_settle(&mut self, guests: &mut Guests) {
        let flights = model::under_way(&self.moves);
        let crowded: BTreeSet<Uuid> = guests
            .by_uuid
            .iter()
            .filter(|(uuid, entry)| entry.hosts.len() > 1 && !flights.contains_key(uuid))
            .map(|(uuid, _)| *uuid)
            .collect();
        self.crowded.retain(|uuid, _| crowded.contains(uuid));
        for uuid in crowded {
            let since = *self.crowded.entry(uuid).or_insert_with(|| {
                let inner = self.inner.0.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(SETTLE).await;
                    let _ = inner.send(Inner::Settled);
                });
                Instant::now()
            });
            if let Some(entry) = guests.by_uuid.get_mut(&uuid) {
                entry.settling = since.elapsed() < SETTLE;
            }
        }
    }
}
