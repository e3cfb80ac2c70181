//! Makes the view: every object's status, and what is worth an Event.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::{
    kinds::host::MoveCounts,
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Class, Reason},
    shared::{Answer, Condition, find},
};
use evenkeel_planner::Rejection;
use uuid::Uuid;

use super::{Pass, Reconciler, wanted::by_drain};
use crate::{
    guests::place,
    hosts::Link,
    model::{immovable, labels, under_way, unprofiled},
    question::Asked,
    statuses,
    view::{GuestView, MigrationView, Problem, View},
};

impl Reconciler {
    pub(super) fn show(&mut self, pass: Pass) {
        let before = self.views.borrow().clone();
        let mut view = View {
            number: before.number + 1,
            settled: self.hosts.values().all(|state| state.link != Link::Unheard)
                && self.hosts.values().all(|state| state.directories_told)
                && self.is_swept()
                && !pass.guests.by_uuid.values().any(|entry| entry.settling),
            ..View::default()
        };
        tracing::trace!(
            number = view.number,
            settled = view.settled,
            orphans = self.orphans.len(),
            claimed = ?pass.claimed.keys(),
            "view"
        );
        self.show_hosts(&pass, &before, &mut view);
        self.show_guests(&pass, &before, &mut view);
        self.show_moves(&pass, &before, &mut view);
        self.show_drains(&pass, &before, &mut view);
        view.settled = view.settled && self.is_levelled(&pass) && self.emptying.is_known();
        self.show_policies(&pass, &before, &mut view);
        self.show_placements(&pass, &before, &mut view);
        self.show_profiles(&pass, &before, &mut view);
        self.show_fleets(&pass, &before, &mut view);
        view.shutdowns = pass.shutdowns;
        view.problems.sort();
        view.problems.dedup();
        view.plan = if *before.plan == pass.plan {
            before.plan.clone()
        } else {
            Arc::new(pass.plan)
        };
        view.fleet = if *before.fleet == pass.model.fleet {
            before.fleet.clone()
        } else {
            Arc::new(pass.model.fleet)
        };
        let searches = pass.keeps.searches.iter();
        view.asked = Arc::new(Asked {
            wishes: pass.wanted.wishes,
            ledger: pass.model.ledger,
            now: pass.planned,
            searches: searches.map(|search| search.input.clone()).collect(),
            policies: pass.keeps.policies,
        });
        if std::mem::take(&mut self.answer) || differ(&before, &view) {
            self.views.send_replace(Arc::new(view));
        }
    }

    fn show_hosts(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let claims = self.claims.others();
        let stale = self.stale_copies(pass);
        let mut told = Vec::new();
        let mut followed = Vec::new();
        for (name, state) in &self.hosts {
            let planned = pass.model.host(pass.model.hosts[name]);
            let id = pass.model.hosts[name];
            let mut moves = MoveCounts::default();
            let mut held_memory = Bytes(0);
            let mut held_cpu_milli = 0;
            let mut held_pools: BTreeMap<String, Bytes> = BTreeMap::new();
            for flight in &pass.model.ledger.in_flight {
                moves.outbound += i64::from(flight.source == id);
                if flight.target == id {
                    moves.inbound += 1;
                    held_memory.0 += flight.memory.0;
                    held_cpu_milli += flight.cpu_milli;
                    for (pool, hold) in &flight.pools {
                        held_pools.entry(pool.clone()).or_default().0 += hold.to_come.0;
                    }
                }
            }
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
                held_memory,
                held_cpu_milli,
                held_pools,
                moves,
                managed_elsewhere: self.elsewhere(pass, name),
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

    /// An Event where a condition says something new. Nothing at first where all is as it should be.
    pub(super) fn tell_condition(
        &mut self,
        kind: &'static str,
        name: &str,
        condition: &Condition,
        action: &'static str,
    ) {
        let Some(reason) = Reason::parse(&condition.reason) else {
            return;
        };
        let fine = condition.status == "True";
        let cause = Cause::new(reason, condition.message.clone()).hint("");
        if fine && !self.told.contains_key(&(kind, name.to_owned())) {
            self.told
                .insert((kind, name.to_owned()), (cause.reason, cause.message));
            return;
        }
        self.tell(kind, name, &cause, !fine, action);
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

    fn elsewhere(&self, pass: &Pass, host: &HostName) -> i64 {
        let id = pass.model.hosts[host];
        let managed = |guest: &&evenkeel_planner::Guest| {
            guest.host == id
                && guest
                    .immovable
                    .as_ref()
                    .is_some_and(|cause| cause.reason == Reason::ManagedElsewhere)
        };
        pass.model.fleet.guests.iter().filter(managed).count() as i64
    }

    fn show_guests(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let flights = under_way(&self.moves);
        let moving: BTreeMap<Uuid, _> = self
            .moves
            .iter()
            .filter_map(|(name, state)| Some((state.running.as_ref()?.guest, (name, state))))
            .collect();
        let all_seen = self.hosts.values().all(|state| state.link == Link::Up);
        let mut told = Vec::new();
        let mut seen = std::mem::take(&mut self.shown);
        seen.under(&self.declared.profiles);
        seen.retain(|uuid| pass.guests.by_uuid.contains_key(uuid));
        for (&uuid, entry) in &pass.guests.by_uuid {
            let stray = self.hands.of(uuid);
            let same = seen
                .of(uuid, entry, &self.hosts, stray)
                .filter(|_| !moving.contains_key(&uuid));
            // Whether it would really be the same is seen where the checks of a debug build are paid for.
            if let Some(same) = same.filter(|_| !cfg!(debug_assertions)) {
                view.guests.insert(entry.name.clone(), same.clone());
                continue;
            }
            let same = same.cloned();
            let ours = flights.get(&uuid).copied();
            let Some(place) = place(entry, uuid, &self.hosts, ours) else {
                continue;
            };
            let unprofiled = unprofiled(self.profiles(), entry, &place);
            if let Some(cause) = unprofiled
                .as_ref()
                .filter(|cause| cause.reason == Reason::ProfileNotFound)
            {
                view.problems.push(Problem {
                    kind: "Guest",
                    name: entry.name.to_string(),
                    cause: cause.clone(),
                });
                told.push((entry.name.to_string(), cause.clone()));
            }
            // A problem is told in each pass.
            let is_problem = place.double.is_some() || unprofiled.is_some();
            let immovable = immovable(entry, &place, ours.is_some()).or(unprofiled);
            let old = before.guests.get(&entry.name);
            let stored = entry
                .declared
                .as_ref()
                .and_then(|guest| guest.status.as_ref());
            let status = statuses::guest::status(&statuses::guest::Input {
                uuid,
                entry,
                place: &place,
                hosts: &self.hosts,
                immovable: immovable.as_ref(),
                moving: moving.get(&uuid).copied(),
                stray,
                before: old.map(|old| &old.status).or(stored),
                now: pass.now,
            });
            if let Some(cause) = &place.double {
                view.problems.push(Problem {
                    kind: "Guest",
                    name: entry.name.to_string(),
                    cause: cause.clone(),
                });
                told.push((entry.name.to_string(), cause.clone()));
            }
            let shown = GuestView {
                uuid: Some(uuid.to_string()),
                declared: entry.declared.is_some(),
                labels: labels(entry, place.facts),
                status,
            };
            let shown = keep(old, shown);
            debug_assert!(same.is_none_or(|same| same == shown), "{shown:?}");
            if moving.contains_key(&uuid) || is_problem {
                seen.forget(uuid);
            } else {
                seen.keep(uuid, entry, &self.hosts, stray, &shown);
            }
            view.guests.insert(entry.name.clone(), shown);
        }
        self.shown = seen;
        for (name, (guest, cause)) in &pass.guests.unbound {
            let old = before.guests.get(name);
            let status = statuses::guest::unbound(
                name,
                guest.metadata.generation,
                cause,
                all_seen,
                old.map(|old| &old.status).or(guest.status.as_ref()),
                pass.now,
            );
            if all_seen {
                view.problems.push(Problem {
                    kind: "Guest",
                    name: name.to_string(),
                    cause: cause.clone(),
                });
            }
            let shown = GuestView {
                uuid: guest.spec.uuid.clone(),
                declared: true,
                labels: guest.metadata.labels.clone().unwrap_or_default(),
                status,
            };
            view.guests.insert(name.clone(), keep(old, shown));
        }
        for (name, cause) in told {
            self.tell("Guest", &name, &cause, true, "Observe");
        }
    }

    fn show_moves(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let mut waits: BTreeMap<&str, &Cause> = BTreeMap::new();
        for planned in &pass.plan.moves {
            if let Some(cause) = planned
                .waits
                .as_ref()
                .filter(|_| planned.by.kind == "GuestMigration")
            {
                waits.insert(&planned.by.name, cause);
            }
        }
        for rejection in pass
            .plan
            .rejections
            .iter()
            .filter(|rejection| rejection.by.kind == "GuestMigration")
        {
            waits.insert(&rejection.by.name, &rejection.cause);
        }
        for (name, cause) in &pass.wanted.refused {
            waits.insert(name, cause);
        }
        let mut told = Vec::new();
        for (name, state) in self.moves.iter().filter(|(_, state)| !state.hidden) {
            let guest = pass
                .guests
                .find(&state.spec.guest)
                .map(|(_, entry)| entry.name.to_string());
            let word = waits.get(name.as_str()).copied();
            let old = before.migrations.get(name);
            let status = statuses::migration::status(
                state,
                guest,
                word,
                old.map(|old| &old.status),
                pass.now,
            );
            let pending = !state.is_final() && state.running.is_none();
            if let Some(cause) =
                word.filter(|cause| pending && cause.reason.class() == Class::AwaitChange)
            {
                view.problems.push(Problem {
                    kind: "GuestMigration",
                    name: name.to_string(),
                    cause: cause.clone(),
                });
            }
            if let Some(cause) = state.end.as_ref().filter(|cause| {
                state.status.phase == evenkeel_crds::MigrationPhase::Failed
                    && cause.reason != Reason::Interrupted
            }) {
                view.problems.push(Problem {
                    kind: "GuestMigration",
                    name: name.to_string(),
                    cause: cause.clone(),
                });
            }
            let cause = state
                .end
                .as_ref()
                .or(state.waiting.as_ref())
                .or(state.rest.as_ref().map(|(cause, _)| cause))
                .or(word.filter(|_| pending))
                .or(state.course.as_ref().map(|course| &course.cause));
            if let Some(cause) = cause
                && !matches!(
                    cause.reason,
                    Reason::AsExpected
                        | Reason::Waiting
                        | Reason::SlotsTaken
                        | Reason::ParallelLimit
                        | Reason::BackingOff
                        | Reason::Completed
                )
            {
                told.push((name.to_string(), cause.clone()));
            }
            let shown = MigrationView {
                declared: state.declared,
                spec: state.spec.clone(),
                requested_by: state.by.clone(),
                status,
            };
            view.migrations.insert(name.clone(), keep(old, shown));
        }
        for (name, cause) in told {
            self.tell("GuestMigration", &name, &cause, true, "Plan");
        }
    }

    /// When the last guest will have left these hosts, whoever asked for its move; nothing where none is to leave, or where
    /// for one of them nobody can tell.
    fn eta(&self, pass: &Pass, hosts: &[HostName]) -> Option<Duration> {
        let leaves =
            |source: evenkeel_planner::HostId| hosts.contains(&pass.model.host(source).name);
        let planned = pass.plan.moves.iter().filter(|one| leaves(one.source));
        // Those that start now are both planned and under way; what is under way was not planned.
        let under_way = self.moves.values().filter_map(|state| {
            let running = state.running.as_ref()?;
            let new = pass.plan.moves.iter().any(|one| {
                pass.model.uuids[one.guest.at()] == running.guest && one.waits.is_none()
            });
            (hosts.contains(&running.source) && !new).then_some(running.eta)
        });
        let ends = planned
            .map(|one| Some(one.start + one.duration?))
            .chain(under_way);
        let ends: Option<Vec<Duration>> = ends.collect();
        ends?.into_iter().max()
    }

    fn show_drains(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let mut told = Vec::new();
        for (name, drain) in &self.declared.drains {
            let Some(resolved) = pass.wanted.drains.get(name) else {
                continue;
            };
            let mine = |kind: &evenkeel_crds::shared::RequestedBy| {
                kind.kind == "HostDrain" && kind.name == *name
            };
            let mut in_flight: BTreeMap<&HostName, i64> = BTreeMap::new();
            for flight in &pass.model.ledger.in_flight {
                for id in [flight.source, flight.target] {
                    let host = &pass.model.host(id).name;
                    if let Some((host, _)) = self.hosts.get_key_value(host) {
                        *in_flight.entry(host).or_default() += 1;
                    }
                }
            }
            let elsewhere = resolved
                .hosts
                .iter()
                .map(|host| (host, self.elsewhere(pass, host)))
                .collect();
            let rejections: Vec<(String, &Rejection)> = pass
                .plan
                .rejections
                .iter()
                .filter(|rejection| mine(&rejection.by))
                .map(|rejection| {
                    (
                        pass.model.guest(rejection.guest).name.to_string(),
                        rejection,
                    )
                })
                .collect();
            let eta = self.eta(pass, &resolved.hosts);
            let count = |test: &dyn Fn(&crate::moves::MoveState) -> bool| {
                self.moves
                    .values()
                    .filter(|state| mine(&state.by) && test(state))
                    .count() as i64
            };
            let forgotten = self.forgotten.get(&by_drain(name, drain));
            let forgotten = forgotten.copied().unwrap_or(0);
            let old = before.drains.get(name.as_str());
            let halted = resolved.halted.as_ref();
            let status = statuses::drain::status(&statuses::drain::Input {
                drain,
                hosts: resolved.hosts.iter().collect(),
                unknown: resolved.unknown.clone(),
                states: &self.hosts,
                in_flight,
                elsewhere,
                succeeded: forgotten
                    + count(&|state| {
                        state.status.phase == evenkeel_crds::MigrationPhase::Succeeded
                    }),
                moving: count(&|state| state.running.is_some()),
                rejections,
                verdict: pass.plan.verdicts.iter().find(|verdict| mine(&verdict.by)),
                eta,
                halted,
                before: old.map(|old| &**old),
                now: pass.now,
            });
            for unknown in &resolved.unknown {
                let cause = Cause::new(Reason::HostNotFound, format!("no Host is named {unknown}"));
                view.problems.push(Problem {
                    kind: "HostDrain",
                    name: name.clone(),
                    cause,
                });
            }
            if resolved.hosts.is_empty() && resolved.unknown.is_empty() {
                let cause = Cause::new(Reason::NoHostsMatched, "no Host matches");
                view.problems.push(Problem {
                    kind: "HostDrain",
                    name: name.clone(),
                    cause,
                });
            }
            let shown = find(&status.conditions, "Drained").cloned();
            let blocked = status.blocked.first().map(|first| {
                let reason = Reason::parse(&first.reason).unwrap_or(Reason::Blocked);
                Cause::new(
                    reason,
                    format!("{} can't leave: {}", first.guest, first.message),
                )
                .hint("")
            });
            told.push((name.clone(), shown, blocked));
            view.drains.insert(name.as_str().into(), keep(old, status));
        }
        for (name, condition, blocked) in told {
            match (condition, blocked) {
                (Some(condition), _) if condition.status == "True" => {
                    let reason = Reason::parse(&condition.reason).unwrap_or(Reason::Completed);
                    let cause = Cause::new(reason, condition.message).hint("");
                    self.tell("HostDrain", &name, &cause, false, "Drain");
                }
                (_, Some(cause)) if cause.reason == Reason::Waiting => {}
                (_, Some(cause)) => self.tell("HostDrain", &name, &cause, true, "Drain"),
                (Some(condition), None) => {
                    if let Some(reason) = Reason::parse(&condition.reason).filter(|reason| {
                        !matches!(
                            reason,
                            Reason::Waiting | Reason::GuestsLeft | Reason::MovesInFlight
                        )
                    }) {
                        let cause = Cause::new(reason, condition.message).hint("");
                        self.tell("HostDrain", &name, &cause, true, "Drain");
                    }
                }
                (None, None) => {}
            }
        }
    }
}

/// Whether a view shows anything that the one before did not.
fn differ(before: &View, view: &View) -> bool {
    before.number == 0
        || before.settled != view.settled
        || before.problems != view.problems
        || before.shutdowns != view.shutdowns
        || before.outdated != view.outdated
        || !same(&before.fleets, &view.fleets)
        || !same(&before.hosts, &view.hosts)
        || !same(&before.guests, &view.guests)
        || !same(&before.migrations, &view.migrations)
        || !same(&before.drains, &view.drains)
        || !same(&before.placements, &view.placements)
        || !same(&before.policies, &view.policies)
        || !same(&before.profiles, &view.profiles)
        || !Arc::ptr_eq(&before.plan, &view.plan)
        || !Arc::ptr_eq(&before.fleet, &view.fleet)
}

/// Unchanged parts are the same `Arc` already.
fn same<K: PartialEq, T>(before: &BTreeMap<K, Arc<T>>, now: &BTreeMap<K, Arc<T>>) -> bool {
    before.len() == now.len()
        && before
            .iter()
            .zip(now)
            .all(|((name, old), (other, new))| name == other && Arc::ptr_eq(old, new))
}

/// The old one where nothing changed, so that readers see at once what did.
pub(super) fn keep<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => old.clone(),
        _ => Arc::new(new),
    }
}
