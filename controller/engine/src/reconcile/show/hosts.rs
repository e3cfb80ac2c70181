//! Hosts as they are shown.

use std::collections::BTreeMap;

use evenkeel_crds::{
    kinds::host::MoveCounts,
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::{Answer, find},
};
use evenkeel_planner::HostId;

use super::{
    super::{Pass, Reconciler},
    keep,
};
use crate::{
    model::{Model, under_way},
    statuses,
    view::{Problem, View},
};

impl Reconciler {
    pub(super) fn show_hosts(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let claims = self.claims.others();
        let stale = self.stale_copies(pass);
        let mut held = held(&pass.model);
        let elsewhere = managed_elsewhere(&pass.model);
        let mut told = Vec::new();
        let mut followed = Vec::new();
        for (name, state) in &self.hosts {
            let planned = pass.model.host(pass.model.hosts[name]);
            let id = pass.model.hosts[name];
            let held = held.remove(&id).unwrap_or_default();
            let old = before.hosts.get(name);
            let stored = old.map(|old| &**old).or(state.declared.status.as_ref());
            let node = statuses::node::followed(
                &state.declared,
                self.declared.nodes.get(name.as_str()),
                self.options.from_files,
                stored,
            );
            let status = statuses::host::status(&statuses::host::Input {
                name,
                state,
                planned,
                claim: claims.get(name),
                claimed: pass.claimed.get(name),
                held_memory: held.memory,
                held_cpu_milli: held.cpu_milli,
                held_pools: held.pools,
                moves: held.moves,
                managed_elsewhere: elsewhere[id.at()],
                drainable: self.emptying.of(name),
                stale: stale.get(name).map_or(&[], Vec::as_slice),
                node: node.as_ref(),
                before: stored,
                now: pass.now,
            });
            followed.extend(node.map(|node| (name.to_string(), node)));
            if state.duplicate_of.is_some()
                && let Some(cause) = &planned.out_of_reach
            {
                view.problems.push(Problem {
                    kind: "Host",
                    name: name.to_string(),
                    cause: cause.clone(),
                });
            }
            if let Some(ready) = find(&status.conditions, "Ready")
                .filter(|ready| ready.status != Answer::Unknown.as_str())
            {
                told.push((name.to_string(), ready.clone()));
            }
            view.hosts.insert(name.clone(), keep(old, status));
        }
        for (name, ready) in told {
            self.tell_condition("Host", &name, &ready, "Observe");
        }
        for (name, (answer, cause)) in followed {
            self.tell_node(&name, answer, &cause);
        }
    }

    /// Nothing while nobody has looked, nor at first where the node is not cordoned.
    fn tell_node(&mut self, host: &str, answer: Answer, cause: &Cause) {
        // Beside the Host's other story: one would make the other news again.
        const STORY: &str = "Node";
        let first = !self.told.contains_key(&(STORY, host.to_owned()));
        if answer == Answer::Unknown || (first && cause.reason == Reason::AsExpected) {
            return;
        }
        let warning = answer == Answer::False;
        self.tell_apart(STORY, "Host", host, cause, warning, "Drain");
    }

    /// For each host the guests that it defines and that live on another one. What a move is about to remove is none.
    fn stale_copies<'a>(
        &'a self,
        pass: &'a Pass,
    ) -> BTreeMap<&'a HostName, Vec<(&'a str, &'a HostName)>> {
        let mut stale: BTreeMap<&HostName, Vec<(&str, &HostName)>> = BTreeMap::new();
        let moving = under_way(&self.moves);
        for (uuid, entry) in &pass.guests.by_uuid {
            if entry.hosts.len() < 2 || entry.settling {
                continue;
            }
            let copies = || {
                entry.hosts.iter().filter_map(|host| {
                    let state = self.hosts.get(host).filter(|state| state.usable())?;
                    Some((host, state.domains.get(uuid)?))
                })
            };
            let Some((lives, _)) = copies().find(|(_, copy)| copy.activity.active()) else {
                continue;
            };
            let ends = moving.get(uuid);
            if ends.is_some_and(|(source, target, _)| [*source, *target].contains(&lives)) {
                continue;
            }
            let old = copies().filter(|(_, copy)| !copy.activity.active());
            for (host, _) in old {
                stale.entry(host).or_default().push((&entry.name, lives));
            }
        }
        stale
    }
}

/// What moves in flight take of a host as their target, and how many there are to it and from it.
#[derive(Default)]
struct Held {
    moves: MoveCounts,
    memory: Bytes,
    cpu_milli: u64,
    pools: BTreeMap<String, Bytes>,
}

fn held(model: &Model) -> BTreeMap<HostId, Held> {
    let mut all: BTreeMap<HostId, Held> = BTreeMap::new();
    for flight in &model.ledger.in_flight {
        all.entry(flight.source).or_default().moves.outbound += 1;
        let target = all.entry(flight.target).or_default();
        target.moves.inbound += 1;
        target.memory.0 += flight.memory.0;
        target.cpu_milli += flight.cpu_milli;
        for (pool, hold) in &flight.pools {
            target.pools.entry(pool.clone()).or_default().0 += hold.to_come.0;
        }
    }
    all
}

/// For each host how many of its guests something else manages.
pub(super) fn managed_elsewhere(model: &Model) -> Vec<i64> {
    let mut counts = vec![0; model.fleet.hosts.len()];
    for guest in &model.fleet.guests {
        let cause = guest.immovable.as_ref();
        let elsewhere = cause.is_some_and(|cause| cause.reason == Reason::ManagedElsewhere);
        counts[guest.host.at()] += i64::from(elsewhere);
    }
    counts
}
