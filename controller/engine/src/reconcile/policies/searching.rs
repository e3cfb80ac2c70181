//! When hosts are looked at, what the planner is asked for, and what is frozen of its answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{
    RebalancePolicy,
    kinds::policy::{LoadKind, Mode},
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::{RequestedBy, Timestamp, whole_seconds},
};
use evenkeel_planner::{self as planner, Balance, GuestId, HostId, What, Wish};
use tokio::time::Instant;

use super::{
    super::{Inner, Pass, Reconciler, wanted::Wanted},
    Levelled,
};
use crate::{
    hands::OTHER,
    levelling::{Frozen, Level, Levelling},
    model::Model,
    port::DomainFacts,
    question::policies::{Input, Searched},
};

/// The least time from one search to the next.
const SEARCH_AGAIN: Duration = Duration::from_secs(10);

/// How soon hosts are looked at again while a plan waits or runs: only to tell how they lie.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How soon hosts are looked at again whose load is measured: it changes without anybody telling.
const MEASURE_AGAIN: Duration = Duration::from_secs(60);

/// A search's outcome.
#[derive(Debug)]
pub(in crate::reconcile) struct Found {
    policies: Vec<String>,
    search: Arc<Searched>,
}

impl Reconciler {
    /// What the planner is asked for a policy.
    #[expect(clippy::too_many_arguments)]
    pub(super) fn balance(
        &self,
        policy: &RebalancePolicy,
        by: &RequestedBy,
        hosts: BTreeSet<HostId>,
        levelling: &Levelling,
        levelled: &Levelled,
        model: &Model,
        now: Timestamp,
    ) -> Balance {
        let spec = &policy.spec;
        let weight = |weight: i32| weight.max(0).unsigned_abs();
        let own = format!("{}/{}", by.kind, by.name);
        let mut leaves = BTreeMap::new();
        for (uuid, id) in &model.guests {
            if !hosts.contains(&model.guest(*id).host) {
                continue;
            }
            let Some(last) = self.last_move(*uuid, model) else {
                continue;
            };
            // Where it only stopped over for this policy it need not stay.
            let stops_over = last.stops_over && last.by == own;
            let age = now.as_second() - last.time.as_second();
            if age < spec.cooldown.0.as_secs() as i64 && !stops_over {
                let whom = match last.by.as_str() {
                    OTHER => "other hands",
                    wish => wish,
                };
                let message = format!(
                    "{} was moved at {} by {whom}",
                    model.guest(*id).name,
                    whole_seconds(last.time)
                );
                leaves.insert(*id, Cause::new(Reason::Cooldown, message));
            }
        }
        for (uuid, cause) in self.spent_by(by) {
            if let Some(id) = model.guests.get(&uuid) {
                leaves.insert(*id, cause);
            }
        }
        // An approved plan runs as the limits let it; one that is run by itself is made for what they leave.
        let (count, bytes) = self.begun_within_an_hour(by, model, now);
        let auto = spec.mode == Mode::Auto;
        let limits = &spec.limits;
        let moves = limits.moves_per_hour.filter(|_| auto).map(|most| {
            let most = u64::from(most.max(0).unsigned_abs());
            most.saturating_sub(count).min(u64::from(u32::MAX)) as u32
        });
        let left = limits.bytes_per_hour.filter(|_| auto);
        Balance {
            hosts,
            measured: spec.load == LoadKind::Measured,
            weights: planner::Weights {
                cpu: weight(spec.resources.cpu),
                memory: weight(spec.resources.memory),
                disk: weight(spec.resources.disk),
            },
            start: weight(spec.threshold.start),
            stop: weight(spec.threshold.stop),
            begun: levelling.begun,
            parallel: weight(limits.parallel),
            moves,
            bytes: left.map(|left| Bytes(left.0.saturating_sub(bytes.0))),
            leaves,
            halted: levelled
                .stalled
                .clone()
                .filter(|cause| cause.reason != Reason::PlanSuperseded)
                .or_else(|| {
                    levelled
                        .halted
                        .clone()
                        .filter(|_| auto || policy.spec.suspend)
                })
                .or_else(|| {
                    let plan = levelling.frozen.as_ref()?;
                    let message = format!("plan {} is at work", plan.id);
                    Some(Cause::new(Reason::InProgress, message))
                }),
            headroom: spec.headroom.as_ref().map(|room| planner::Headroom {
                topology_key: room.topology_key.clone(),
                failures: weight(room.failures),
            }),
            steps: None,
            stops_over: true,
        }
    }

    pub(super) fn is_search_due(
        &self,
        levelling: &Levelling,
        levelled: &Levelled,
        asked: &Balance,
    ) -> bool {
        let waiting = |cause: &Cause| cause.reason == Reason::Waiting;
        let early = levelled.halted.as_ref().is_some_and(waiting)
            || !self.orphans.is_empty()
            || (levelled.moving > 0 && levelling.frozen.is_none());
        if levelling.searching || early || asked.hosts.is_empty() {
            return false;
        }
        let pause = match &levelling.frozen {
            Some(_) => LOOK_AGAIN,
            None => SEARCH_AGAIN,
        };
        match &levelling.searched {
            None => true,
            Some((at, before)) => {
                let another = before != asked || levelling.fleet_changed;
                let stale = asked.measured && at.elapsed() >= MEASURE_AGAIN;
                at.elapsed() >= pause && (another || stale)
            }
        }
    }

    /// Whether policies have not been looked at for so long that a search may be due: a cooldown or an hour may be over.
    pub(in crate::reconcile) fn search_is_due(&self) -> bool {
        !self.levelling.is_empty() && self.levelled_at.elapsed() >= SEARCH_AGAIN
    }

    /// Whether how level hosts are has been looked at for every policy that can be looked at.
    pub(in crate::reconcile) fn is_levelled(&self, pass: &Pass) -> bool {
        self.levelling.iter().all(|(name, levelling)| {
            let known = |levelled: &Levelled| {
                let waits = levelled.stalled.is_some() || levelled.measuring;
                waits || levelled.moving > 0 || levelling.looked
            };
            pass.levelled.get(name).is_none_or(known)
        })
    }

    /// Looks for plans, beside this task.
    pub(super) fn search(
        &mut self,
        searches: Vec<(String, RequestedBy, Balance)>,
        model: &Model,
        wanted: &Wanted,
    ) {
        if searches.is_empty() {
            return;
        }
        let (mut fleet, ledger) = (model.fleet.clone(), model.ledger.clone());
        let mut wishes = wanted.wishes.clone();
        let mut policies = Vec::new();
        for (name, by, balance) in searches {
            if balance.measured {
                let window = self.declared.policies[&name].spec.window.0;
                for (guest, uuid) in fleet.guests.iter_mut().zip(&model.uuids) {
                    if balance.hosts.contains(&guest.host) {
                        guest.load = self.uses.load(*uuid, window, Instant::now());
                    }
                }
            }
            policies.push(name);
            let what = What::Balance(balance);
            wishes.push(Wish { by, what });
        }
        let input = Arc::new(Input {
            now: self.started.elapsed(),
            fleet,
            wishes,
            ledger,
        });
        self.work_out(move || {
            let plan = input.plan();
            let search = Arc::new(Searched { input, plan });
            Inner::Searched(Found { policies, search })
        });
    }

    /// A search is over: what it found is frozen.
    pub(in crate::reconcile) fn found(&mut self, found: &Found) {
        let searched = &found.search;
        for name in &found.policies {
            let (Some(levelling), Some(policy)) = (
                self.levelling.get_mut(name),
                self.declared.policies.get(name),
            ) else {
                continue;
            };
            (levelling.searching, levelling.looked) = (false, true);
            let mut balances = searched.plan.balances.iter();
            let Some(told) = balances.find(|told| told.by.name == *name) else {
                continue;
            };
            let guest = |id: GuestId| searched.input.fleet.guests[id.at()].name.to_string();
            let busy = levelling.frozen.is_some();
            let predicted = match &levelling.level {
                Some(before) if busy => before.predicted,
                _ => told.predicted,
            };
            let short = told.short.first().map(|short| {
                let first = short.blockers.first();
                let why = first.map_or_else(String::new, |first| {
                    let mut hosts = first.hosts.iter().flat_map(|hosts| &hosts.examples);
                    let example = hosts.next().map(|host| format!(" ({})", host.message));
                    let (guest, cause) = (guest(first.guest), &first.cause.message);
                    format!(": {guest}: {cause}{}", example.unwrap_or_default())
                });
                let message = format!(
                    "{} could not be emptied, and no moves were found that make the room{why}",
                    short.domain
                );
                Cause::new(Reason::HeadroomMissing, message)
            });
            let stop = policy.spec.threshold.stop.max(0).unsigned_abs() * 100;
            // Who is left where it only stops over has not come to where it makes the hosts level.
            let stranded = self.hosts.iter().find_map(|(host, state)| {
                let mut all = state.domains.values();
                let stops_over = |guest: &&Arc<DomainFacts>| {
                    let mut last = guest.last_move.iter();
                    let own = format!("RebalancePolicy/{name}");
                    last.any(|last| last.onward.is_some() && last.by == own)
                };
                let guest = all.find(stops_over)?;
                let message = format!(
                    "the fullest host lies {:.1} percent points above the mean, and {} has not gone on from {host}, where it stopped over",
                    f64::from(told.now) / 100.0,
                    guest.name
                );
                Some(Cause::new(Reason::Unbalanced, message))
            });
            let idle = |cause: &Cause| matches!(cause.reason, Reason::AsExpected | Reason::Blocked);
            let stranded =
                stranded.filter(|_| told.now > stop && told.cause.as_ref().is_some_and(idle));
            levelling.told_by = Some(searched.clone());
            levelling.level = Some(Level {
                now: told.now,
                predicted,
                cause: short
                    .or_else(|| stranded.clone())
                    .or_else(|| told.cause.clone()),
                skipped: told
                    .skipped
                    .iter()
                    .map(|skipped| (guest(skipped.guest), skipped.cause.clone()))
                    .collect(),
            });
            if busy {
                // What nobody has begun and that is level by now needs no plan.
                let idle = policy.spec.mode == Mode::Manual
                    && policy.spec.approve.is_none()
                    && policy.spec.headroom.is_none();
                if idle && told.now <= stop {
                    (levelling.frozen, levelling.begun) = (None, false);
                }
                continue;
            }
            let halted = |cause: &Cause| {
                matches!(
                    cause.reason,
                    Reason::ParallelLimit | Reason::Suspended | Reason::WindowClosed
                )
            };
            levelling.frozen = Frozen::of(policy, name, searched);
            let halted = told.cause.as_ref().is_some_and(halted);
            levelling.begun = levelling.frozen.is_some()
                || stranded.is_some()
                || levelling.begun && told.now > stop && halted;
        }
    }
}
