//! Guests as they are shown.

use std::collections::BTreeMap;

use evenkeel_crds::reason::Reason;
use uuid::Uuid;

use super::{
    super::{Pass, Reconciler},
    keep,
};
use crate::{
    guests::place,
    hosts::Link,
    model::{immovable, labels, under_way, unprofiled},
    statuses,
    view::{GuestView, Problem, View},
};

impl Reconciler {
    pub(super) fn show_guests(&mut self, pass: &Pass, before: &View, view: &mut View) {
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
}
