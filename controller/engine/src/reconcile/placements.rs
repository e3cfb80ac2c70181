//! Placements: what each asks for, and what is shown on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    kinds::placement::Requirement,
    names::HostName,
    reason::{Cause, Class, Reason},
    shared::{Picker, RequestedBy, Timestamp, find},
};
use evenkeel_planner::{self as planner, GuestId, HostId, What, Wish};
use uuid::Uuid;

use super::{Pass, Reconciler, asking::asks, show::keep};
use crate::{
    guests::Guests,
    hosts::HostState,
    model::Model,
    statuses,
    view::{Problem, View},
};

/// How long a guest that other hands have moved is left there before a placement has it back.
pub(super) const LEFT_TO_OTHERS: Duration = Duration::from_secs(15 * 60);

/// A placement, resolved.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// What is wrong with what it names.
    wrong: Option<Cause>,
    /// Why nothing can be said of it yet.
    early: Option<Cause>,
}

impl Reconciler {
    /// Adds what placements ask for to the wishes.
    pub(super) fn want_placements(
        &self,
        guests: &Guests,
        model: &Model,
        now: Timestamp,
        wishes: &mut Vec<Wish>,
    ) -> BTreeMap<String, Placed> {
        let mut all = BTreeMap::new();
        let awaited = self.hosts.values().any(HostState::is_awaited);
        for (name, placement) in &self.declared.placements {
            if placement.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let by = asks("GuestPlacement", name, &placement.metadata);
            let spec = &placement.spec;
            let (about, mut nobody) = pick_guests(&spec.guests, guests, model);
            let (hosts, mut nowhere) = match &spec.hosts {
                Some(picker) => {
                    let (hosts, unknown) = self.pick_hosts(picker, model);
                    (Some(hosts), unknown)
                }
                None => (None, None),
            };
            let mut placed = Placed::default();
            if awaited {
                // Nobody is missing before everybody was asked.
                nobody = None;
                let waiting = Cause::new(Reason::Waiting, "not all hosts have answered yet");
                placed.early = Some(waiting);
            }
            if hosts.as_ref().is_some_and(BTreeSet::is_empty) && nowhere.is_none() {
                nowhere = Some(Cause::new(Reason::NoHostsMatched, "no Host matches"));
            }
            placed.wrong = nowhere.or(nobody);
            let suspended = || {
                let message = "the placement is suspended: nothing is moved for its sake";
                Cause::new(Reason::Suspended, message)
            };
            wishes.push(Wish {
                what: What::Place(planner::Placement {
                    leaves: self.left_by(&by, &about, model, now),
                    guests: about,
                    hosts,
                    required: spec.requirement == Requirement::Required,
                    spread: spec.spread.as_ref().map(|spread| planner::Spread {
                        topology_key: spread.topology_key.clone(),
                        max_skew: spread.max_skew.max(1).unsigned_abs(),
                    }),
                    apart: spec.apart.as_ref().map(|key| key.topology_key.clone()),
                    together: spec.together.as_ref().map(|key| key.topology_key.clone()),
                    halted: placed
                        .early
                        .clone()
                        .or_else(|| self.suspended())
                        .or_else(|| spec.suspend.then(suspended)),
                }),
                by,
            });
            all.insert(name.clone(), placed);
        }
        all
    }

    /// Guests that a placement leaves where they are: its own move was aborted by a user or given up, or other hands
    /// have only just moved them.
    fn left_by(
        &self,
        by: &RequestedBy,
        about: &BTreeSet<GuestId>,
        model: &Model,
        now: Timestamp,
    ) -> BTreeMap<GuestId, Cause> {
        let mut leaves = BTreeMap::new();
        for (uuid, stray) in self.hands.strays() {
            let Some(id) = model.guests.get(uuid).filter(|id| about.contains(id)) else {
                continue;
            };
            if now.duration_since(stray.time).unsigned_abs() < LEFT_TO_OTHERS {
                let until = stray.time + LEFT_TO_OTHERS;
                let message = format!(
                    "{} was moved from {} to {} by other hands; from {} on it is moved back",
                    model.guest(*id).name,
                    stray.from,
                    stray.to,
                    evenkeel_crds::shared::whole_seconds(until)
                );
                leaves.insert(*id, Cause::new(Reason::MovedByOther, message));
            }
        }
        for (uuid, cause) in self.spent_by(by) {
            if let Some(id) = model.guests.get(&uuid) {
                leaves.insert(*id, cause);
            }
        }
        leaves
    }

    /// Whether a guest that other hands moved has just been left to them for long enough.
    pub(super) fn strays_are_due(&self, now: Timestamp) -> bool {
        self.hands.strays().any(|(_, stray)| {
            let age = now.duration_since(stray.time).unsigned_abs();
            age >= LEFT_TO_OTHERS && age < LEFT_TO_OTHERS + 3 * super::TICK
        })
    }

    /// The hosts that are picked, and what is wrong with their names.
    pub(super) fn pick_hosts(
        &self,
        picker: &Picker,
        model: &Model,
    ) -> (BTreeSet<HostId>, Option<Cause>) {
        let (mut picked, mut unknown) = (BTreeSet::new(), Vec::new());
        for name in picker.names.iter().flatten() {
            match model.hosts.get(name.as_str()) {
                Some(host) => drop(picked.insert(*host)),
                None => unknown.push(name.as_str()),
            }
        }
        if let Some(selector) = &picker.selector {
            let labelled = self.hosts.iter().filter(|(_, state)| {
                let labels = state.declared.metadata.labels.as_ref();
                selector.matches(labels.unwrap_or(&BTreeMap::new()))
            });
            let ids = labelled.filter_map(|(name, _): (&HostName, _)| model.hosts.get(name));
            picked.extend(ids);
        }
        let wrong = (!unknown.is_empty()).then(|| {
            let message = format!("no Host is named {}", unknown.join(", "));
            Cause::new(Reason::HostNotFound, message)
        });
        (picked, wrong)
    }

    pub(super) fn show_placements(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let declared = self.declared.clone();
        for (name, placement) in &declared.placements {
            let Some(placed) = pass.wanted.placements.get(name) else {
                continue;
            };
            let by = asks("GuestPlacement", name, &placement.metadata);
            let old = before.placements.get(name.as_str());
            let (total, misplaced) = fates(pass, &by);
            let status = statuses::placement::status(&statuses::placement::Input {
                placement,
                wrong: placed.wrong.as_ref(),
                unknown: placed.early.clone().or_else(|| self.unseen(pass, &by)),
                total,
                misplaced,
                before: old.map(|old| &**old),
                now: pass.now,
            });
            if let Some(cause) = &placed.wrong {
                view.problems.push(Problem {
                    kind: "GuestPlacement",
                    name: name.clone(),
                    cause: cause.clone(),
                });
            }
            if let Some(satisfied) =
                find(&status.conditions, "Satisfied").filter(|_| placed.early.is_none())
            {
                self.tell_condition("GuestPlacement", name, satisfied, "Place");
            }
            view.placements
                .insert(name.as_str().into(), keep(old, status));
        }
    }

    /// Why nobody can tell whether the placement is kept: a host that has one of its guests does not answer.
    fn unseen(&self, pass: &Pass, by: &RequestedBy) -> Option<Cause> {
        let mut silent: BTreeSet<&HostName> = BTreeSet::new();
        for guest in about(pass, by)?.guests.iter() {
            let host = &pass.model.host(pass.model.guest(*guest).host).name;
            if !self.hosts.get(host).is_some_and(HostState::usable) {
                silent.insert(host);
            }
        }
        let names: Vec<&str> = silent.iter().map(|host| host.as_str()).collect();
        (!names.is_empty()).then(|| {
            let message = format!("{} does not answer", names.join(", "));
            Cause::new(Reason::HostUnreachable, message)
        })
    }
}

/// What a placement asks for in this pass.
fn about<'a>(pass: &'a Pass, by: &RequestedBy) -> Option<&'a planner::Placement> {
    let mut wishes = pass.wanted.wishes.iter();
    wishes.find_map(|wish| match &wish.what {
        What::Place(placement) if wish.by == *by => Some(placement),
        _ => None,
    })
}

/// How many running guests a placement is about, and of those that are not where they belong why they stay there, or
/// that they are on their way.
fn fates(pass: &Pass, by: &RequestedBy) -> (i64, Vec<(String, Cause)>) {
    let Some(kept) = pass.plan.placements.iter().find(|kept| kept.by == *by) else {
        return (0, Vec::new());
    };
    let name = |guest: GuestId| pass.model.guest(guest).name.to_string();
    let going = |to: HostId| format!("is to go to {}", pass.model.host(to).name);
    let mut fates: BTreeMap<GuestId, Cause> = BTreeMap::new();
    // Moves in flight count as done in the plan; here only what has come about does.
    for flight in &pass.model.ledger.in_flight {
        if flight.by.as_ref() == Some(by) {
            let message = format!("is on its way to {}", pass.model.host(flight.target).name);
            fates.insert(flight.guest, Cause::new(Reason::InProgress, message));
        }
    }
    for violation in &kept.violations {
        let planned = pass.plan.moves.iter();
        let mut planned = planned.filter(|planned| planned.guest == violation.guest);
        let refused = pass.plan.rejections.iter();
        let mut refused =
            refused.filter(|refused| refused.guest == violation.guest && refused.by == *by);
        // A move that was tried and waits for somebody to clear its way says so.
        let mut resting = pass.model.ledger.resting.iter();
        let stuck = resting.find(|rest| {
            rest.guest == violation.guest && rest.cause.reason.class() == Class::AwaitChange
        });
        let fate = match (stuck, planned.next(), refused.next()) {
            (Some(rest), ..) => rest.cause.clone(),
            (None, Some(planned), _) => {
                let mut message = going(planned.target);
                if let Some(waits) = &planned.waits {
                    message = format!("{message} and waits: {}", waits.message);
                }
                Cause::new(Reason::InProgress, message)
            }
            (None, None, Some(refused)) => refused.cause.clone(),
            (None, None, None) => violation.cause.clone(),
        };
        fates.insert(violation.guest, fate);
    }
    let fates = fates
        .into_iter()
        .map(|(guest, cause)| (name(guest), cause))
        .collect();
    (kept.total as i64, fates)
}

/// The guests that are picked, and what is wrong with their names.
fn pick_guests(
    picker: &Picker,
    guests: &Guests,
    model: &Model,
) -> (BTreeSet<GuestId>, Option<Cause>) {
    let (mut picked, mut unknown) = (BTreeSet::new(), Vec::new());
    for word in picker.names.iter().flatten() {
        match guests.find(word) {
            Some((uuid, _)) => picked.extend(model.guests.get::<Uuid>(&uuid)),
            None => unknown.push(word.as_str()),
        }
    }
    if let Some(selector) = &picker.selector {
        let all = model.fleet.guests.iter().zip((0..).map(GuestId));
        let labelled = all.filter(|(guest, _)| selector.matches(&guest.labels));
        picked.extend(labelled.map(|(_, id)| id));
    }
    let wrong = (!unknown.is_empty()).then(|| {
        let message = format!("no guest is named {}", unknown.join(", "));
        Cause::new(Reason::GuestNotFound, message)
    });
    (picked, wrong)
}
