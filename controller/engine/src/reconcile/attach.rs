//! Keeps a line to each declared host, and finds two that lead to one hypervisor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_crds::names::HostName;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Inner, Reconciler};
use crate::{
    hosts::{HostState, Link, endpoint},
    moves::running,
    port::is_directory,
};

impl Reconciler {
    /// Attaches hosts that are new or changed, lets go of those that are gone.
    pub(super) fn attach(&mut self) {
        let moves = &self.moves;
        let busy = |host: &HostName| running(moves).any(|running| running.is_on(host));
        self.hosts
            .retain(|name, _| self.declared.hosts.contains_key(name.as_str()) || busy(name));
        self.uses.retain(|host| self.hosts.contains_key(host));
        for (name, declared) in &self.declared.hosts {
            let name: HostName = name.as_str().into();
            let (endpoint, refused) = endpoint(declared, &self.declared.credentials);
            if let Some(state) = self.hosts.get_mut(&name) {
                let kept = match (&state.hypervisor, &refused) {
                    (Some(hypervisor), None) if state.endpoint.uri == endpoint.uri => {
                        if state.endpoint != endpoint {
                            hypervisor.renew(endpoint.credentials.clone());
                            state.endpoint = endpoint.clone();
                        }
                        true
                    }
                    (None, Some(cause)) => {
                        let link = Link::Down(cause.clone());
                        if state.link != link {
                            state.revision += 1;
                        }
                        state.link = link;
                        true
                    }
                    _ => busy(&name),
                };
                if kept {
                    if !Arc::ptr_eq(&state.declared, declared) {
                        if state.declared.spec != declared.spec {
                            state.circuit.renewed(Instant::now());
                            state.revision += 1;
                        }
                        state.declared = declared.clone();
                    }
                    continue;
                }
            }
            let hypervisor = refused.is_none().then(|| {
                self.hypervisors
                    .attach(&name, &endpoint, self.notices.0.clone())
            });
            let state = HostState::new(declared.clone(), endpoint, hypervisor, refused);
            self.hosts.insert(name, state);
        }
        self.find_duplicates();
    }

    /// Asks every host about the directories that disks in the fleet lie in, or are to go to, outside all pools.
    pub(super) fn ask_for_directories(&mut self) {
        let domains = self.hosts.values().flat_map(|state| state.domains.values());
        let disks = domains.flat_map(|domain| domain.disks.iter().filter(|disk| disk.is_copied()));
        let moves = self.moves.values().filter(|state| !state.is_final());
        let named = moves.flat_map(|state| state.spec.disks.iter().flatten());
        let used: BTreeSet<String> = disks
            .filter_map(|disk| disk.pool.as_ref())
            .chain(named.map(|disk| &disk.pool))
            .filter(|pool| is_directory(pool))
            .cloned()
            .collect();
        for (name, state) in &mut self.hosts {
            let Some(hypervisor) = state.hypervisor.clone() else {
                continue;
            };
            if state.directories == used {
                continue;
            }
            state.directories.clone_from(&used);
            state.directories_told = false;
            hypervisor.use_directories(used.clone());
            let (inner, name) = (self.inner.0.clone(), name.clone());
            self.tasks.spawn(async move {
                let pools = hypervisor.pools().await;
                let _ = inner.send(Inner::Directories(name, pools.ok()));
            });
        }
    }

    /// Of several Hosts with one hypervisor the oldest is used, by name among equals.
    pub(super) fn find_duplicates(&mut self) {
        let mut first: BTreeMap<Uuid, (Option<i64>, HostName)> = BTreeMap::new();
        for (name, state) in &self.hosts {
            let Some(facts) = &state.facts else {
                continue;
            };
            let age = state
                .declared
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.as_second());
            let own = (age, name.clone());
            let best = first.entry(facts.uuid).or_insert_with(|| own.clone());
            if own < *best {
                *best = own;
            }
        }
        for (name, state) in &mut self.hosts {
            state.duplicate_of = state
                .facts
                .as_ref()
                .and_then(|facts| first.get(&facts.uuid))
                .map(|(_, used)| used.clone())
                .filter(|used| used != name);
        }
    }
}
