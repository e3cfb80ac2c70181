//! What policies keep to: the searches that found their plans, and how far each plan is. It is part of a question, for a
//! policy does not plan anew in each pass: it does what it has shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{names::HostName, quantity::Bytes, reason::Cause, shared::RequestedBy};
use evenkeel_planner::{
    Balanced, Fleet, GuestId, HostId, Ledger, Load, Move, Plan, Rejection, Short, Violation, What,
    Wish, plan,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Indices, Misplaced};
use crate::{
    levelling::{Step, steps},
    model::Model,
};

/// The planner's whole input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Input {
    /// When, in the ledger's time.
    pub now: Duration,
    /// Everything there is.
    pub fleet: Fleet,
    /// What is wished for.
    pub wishes: Vec<Wish>,
    /// What is in flight and what rests.
    pub ledger: Ledger,
}

impl Input {
    /// The plan that it gives.
    #[must_use]
    pub fn plan(&self) -> Plan {
        plan(&self.fleet, &self.wishes, &self.ledger, self.now)
    }
}

/// A search for plans of policies: what the planner was asked, and what it said.
#[derive(Debug)]
pub(crate) struct Searched {
    pub(crate) input: Arc<Input>,
    pub(crate) plan: Plan,
}

/// A search as a question tells of it: by what it differs from the question itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Search {
    /// When, in the ledger's time.
    now: Duration,
    /// What was wished for beside: a balance for each policy.
    balances: Vec<Wish>,
    /// The loads that were measured.
    loads: BTreeMap<GuestId, Load>,
    /// The rest, where it was not what it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    then: Option<Box<Then>>,
}

/// How things were when plans were looked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Then {
    fleet: Fleet,
    wishes: Vec<Wish>,
    ledger: Ledger,
}

impl Search {
    /// What a search was asked, told by how it differs from these.
    pub(super) fn of(input: &Input, fleet: &Fleet, wishes: &[Wish], ledger: &Ledger) -> Self {
        let balances = |wish: &Wish| matches!(wish.what, What::Balance(_));
        let (balances, others): (Vec<Wish>, _) = input.wishes.iter().cloned().partition(balances);
        let mut bare = input.fleet.clone();
        let mut loads = BTreeMap::new();
        for (guest, id) in bare.guests.iter_mut().zip((0..).map(GuestId)) {
            loads.extend(guest.load.take().map(|load| (id, load)));
        }
        let same = bare == *fleet && others == wishes && input.ledger == *ledger;
        Self {
            now: input.now,
            balances,
            loads,
            then: (!same).then(|| {
                Box::new(Then {
                    fleet: bare,
                    wishes: others,
                    ledger: input.ledger.clone(),
                })
            }),
        }
    }

    /// What was asked, whole.
    pub(super) fn input(&self, fleet: &Fleet, wishes: &[Wish], ledger: &Ledger) -> Input {
        let (fleet, wishes, ledger) = match &self.then {
            Some(then) => (&then.fleet, &*then.wishes, &then.ledger),
            None => (fleet, wishes, ledger),
        };
        let mut fleet = fleet.clone();
        for (id, load) in &self.loads {
            if let Some(guest) = fleet.guests.get_mut(id.at()) {
                guest.load = Some(*load);
            }
        }
        Input {
            now: self.now,
            fleet,
            wishes: wishes.iter().chain(&self.balances).cloned().collect(),
            ledger: ledger.clone(),
        }
    }

    /// What is wrong with it: an index that leads nowhere. `fleet` is the question's own.
    pub(super) fn check(&self, fleet: &Fleet, place: Vec<String>) -> Result<(), Misplaced> {
        let mut within = place.clone();
        within.push("then".to_owned());
        let fleet = match &self.then {
            Some(then) => {
                let indices = Indices::of(&then.fleet, within);
                indices.check(&then.fleet, &then.wishes, &then.ledger)?;
                &then.fleet
            }
            None => fleet,
        };
        let indices = Indices::of(fleet, place);
        indices.check_wishes(&["balances"], &self.balances)?;
        let mut loads = self.loads.keys();
        loads.try_for_each(|id| indices.guest(&["loads"], id.at(), *id))
    }

    /// The fleet that it was about, where that is not the question's own.
    #[must_use]
    pub fn fleet_mut(&mut self) -> Option<&mut Fleet> {
        self.then.as_mut().map(|then| &mut then.fleet)
    }
}

/// A policy: how level its hosts are, and the plan that it keeps to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// The policy.
    pub by: RequestedBy,
    /// The search that tells how level its hosts are, by its place in the list.
    pub looked: Option<usize>,
    /// The plan that it keeps to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Kept>,
}

/// A plan that is kept to, and how far it is. Moves are told by their places in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Where it comes from.
    pub origin: Origin,
    /// Moves that are over, one way or the other.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub over: BTreeSet<usize>,
    /// Moves under way.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub moving: BTreeSet<usize>,
    /// What all that have not begun wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Cause>,
    /// What single ones wait for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waits: BTreeMap<usize, Cause>,
}

/// Where a plan comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A search, by its place in the list.
    Search(usize),
    /// The policy's status, where an earlier process had written it.
    Status(Vec<Step>),
}

/// The way to a fleet's ids.
pub(crate) struct Ids<'a> {
    pub(crate) hosts: &'a BTreeMap<HostName, HostId>,
    pub(crate) guests: &'a BTreeMap<Uuid, GuestId>,
}

impl<'a> Ids<'a> {
    pub(crate) fn of(model: &'a Model) -> Self {
        Self {
            hosts: &model.hosts,
            guests: &model.guests,
        }
    }
}

impl Kept {
    /// The moves that have not begun. What waits starts as long after now as it does in the plan after the first of it
    /// that is not over.
    pub(crate) fn moves(&self, by: &RequestedBy, steps: &[Step], ids: &Ids<'_>) -> Vec<Move> {
        let left = || {
            let all = steps.iter().enumerate();
            all.filter(|(index, _)| !self.over.contains(index))
        };
        let begin = left().map(|(_, step)| step.start).min();
        let begin = begin.unwrap_or_default();
        let to_come = left().filter(|(index, _)| !self.moving.contains(index));
        let planned = to_come.filter_map(|(index, step)| {
            let waits = self.waits.get(&index).or(self.halted.as_ref()).cloned();
            Some(Move {
                by: by.clone(),
                guest: *ids.guests.get(&step.guest)?,
                source: *ids.hosts.get(&step.source)?,
                target: *ids.hosts.get(&step.target)?,
                pools: step.pools.clone(),
                bytes: step.bytes,
                start: match waits {
                    Some(_) => step.start - begin,
                    None => Duration::ZERO,
                },
                duration: step.duration,
                disks: step.disks,
                waits,
                makes_way_for: None,
                onward: match &step.onward {
                    Some(host) => Some(*ids.hosts.get(host)?),
                    None => None,
                },
            })
        });
        planned.collect()
    }
}

/// Puts a plan to which policies have added their moves in order: when they start, their sums, and how level hosts are.
pub(crate) fn sum_up(
    plan: &mut Plan,
    policies: &[Policy],
    searches: &[Arc<Searched>],
    ids: &Ids<'_>,
) {
    if policies.is_empty() {
        return;
    }
    let moved = |planned: &&Move| policies.iter().any(|policy| policy.by == planned.by);
    for own in plan.moves.iter().filter(moved) {
        plan.bytes = Bytes(plan.bytes.0.saturating_add(own.bytes.0));
        let end = own.duration.map(|time| own.start + time);
        plan.makespan = plan.makespan.zip(end).map(|(last, end)| last.max(end));
    }
    plan.moves
        .sort_by_key(|planned| (planned.start, planned.waits.is_some()));
    for policy in policies {
        let of = |place: usize| {
            searches
                .get(place)
                .map(|search| (&**search, told(search, &policy.by)))
        };
        let Some((search, Some(level))) = policy.looked.and_then(of) else {
            continue;
        };
        let mut level = translated(level, &search.input.fleet, ids);
        // What was looked at while the plan is kept to has no moves of its own.
        if let Some(Origin::Search(place)) = policy.plan.as_ref().map(|plan| &plan.origin)
            && let Some((_, Some(planned))) = of(*place)
        {
            level.predicted = planned.predicted;
        }
        plan.balances.push(level);
    }
}

fn told<'a>(search: &'a Searched, by: &RequestedBy) -> Option<&'a Balanced> {
    let mut all = search.plan.balances.iter();
    all.find(|level| level.by == *by)
}

/// The same with other ids. What is not known by them is left out.
fn translated(level: &Balanced, fleet: &Fleet, ids: &Ids<'_>) -> Balanced {
    let guest = |id: GuestId| {
        let uuid = Uuid::parse_str(&fleet.guests.get(id.at())?.uuid).ok()?;
        ids.guests.get(&uuid).copied()
    };
    let skipped = level.skipped.iter().filter_map(|skipped| {
        Some(Violation {
            guest: guest(skipped.guest)?,
            cause: skipped.cause.clone(),
        })
    });
    let short = level.short.iter().map(|short| Short {
        domain: short.domain.clone(),
        blockers: short
            .blockers
            .iter()
            .filter_map(|blocker| {
                Some(Rejection {
                    guest: guest(blocker.guest)?,
                    ..blocker.clone()
                })
            })
            .collect(),
    });
    Balanced {
        skipped: skipped.collect(),
        short: short.collect(),
        ..level.clone()
    }
}

/// A plan with what policies keep to, where all that is known is the question.
pub(super) fn whole(
    mut plan: Plan,
    fleet: &Fleet,
    policies: &[Policy],
    inputs: Vec<Input>,
) -> Plan {
    if policies.is_empty() {
        return plan;
    }
    let searches = inputs.into_iter().map(|input| {
        Arc::new(Searched {
            plan: input.plan(),
            input: Arc::new(input),
        })
    });
    let searches: Vec<Arc<Searched>> = searches.collect();
    let hosts = fleet.hosts.iter().zip((0..).map(HostId));
    let hosts = hosts.map(|(host, id)| (host.name.clone(), id)).collect();
    let guests = fleet.guests.iter().zip((0..).map(GuestId));
    let guests = guests
        .filter_map(|(guest, id)| Some((Uuid::parse_str(&guest.uuid).ok()?, id)))
        .collect();
    let ids = Ids {
        hosts: &hosts,
        guests: &guests,
    };
    for policy in policies {
        let Some(kept) = &policy.plan else {
            continue;
        };
        let own = match &kept.origin {
            Origin::Status(steps) => kept.moves(&policy.by, steps, &ids),
            Origin::Search(place) => searches.get(*place).map_or_else(Vec::new, |search| {
                let steps = steps(&policy.by.name, &search.input.fleet, &search.plan);
                kept.moves(&policy.by, &steps, &ids)
            }),
        };
        plan.moves.extend(own);
    }
    sum_up(&mut plan, policies, &searches, &ids);
    plan
}
