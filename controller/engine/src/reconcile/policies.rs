//! Rebalance policies: when their hosts are looked at, which plan is frozen, and which of its moves start.
//!
//! The search for a plan is costly: it runs beside this task, when what it looks at has changed, and not again as long
//! as the plan that it found can be run. A plan's progress is not kept: it is seen from where its guests are.

mod measuring;
mod running;
mod searching;

pub(super) use searching::Found;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_crds::{
    RebalancePolicy,
    kinds::policy::{AtClose, PastPlan},
    reason::{Cause, Reason},
    shared::{Time, Timestamp, find, whole_seconds},
};
use evenkeel_planner::{self as planner, HostId};
use tokio::time::Instant;

use super::{Pass, Reconciler, asking::asks, show::keep, wanted::Wanted};
use crate::{
    guests::Guests,
    hosts::HostState,
    levelling::{Frozen, Levelling},
    model::Model,
    question::policies::{Ids, Policy, Searched, sum_up},
    statuses,
    view::{Problem, View},
    windows::open_until,
};

/// What policies keep to, and the searches that found it.
#[derive(Debug, Default)]
pub(super) struct Keeps {
    pub(super) policies: Vec<Policy>,
    pub(super) searches: Vec<Arc<Searched>>,
}

impl Keeps {
    /// The place of a search in the list.
    fn place(&mut self, search: &Arc<Searched>) -> usize {
        let mut known = self.searches.iter();
        let known = known.position(|other| Arc::ptr_eq(other, search));
        known.unwrap_or_else(|| {
            self.searches.push(search.clone());
            self.searches.len() - 1
        })
    }
}

/// A policy, resolved.
#[derive(Debug, Default)]
pub(crate) struct Levelled {
    /// Why it does nothing until somebody changes something.
    stalled: Option<Cause>,
    /// Why nothing new starts.
    halted: Option<Cause>,
    /// Whether its hosts have not been measured for as long as its window.
    measuring: bool,
    /// What each move of its plan that has not begun waits for, by its place in the plan.
    waits: BTreeMap<usize, Cause>,
    moving: usize,
}

impl Reconciler {
    /// Brings policies up to what is seen and adds those moves of their plans to the plan that are left. Tells what they
    /// keep to.
    pub(super) fn level(
        &mut self,
        guests: &Guests,
        model: &Model,
        wanted: &Wanted,
        plan: &mut planner::Plan,
        now: Timestamp,
    ) -> (BTreeMap<String, Levelled>, Keeps) {
        self.levelled_at = Instant::now();
        let declared = self.declared.clone();
        let alive = |policy: &Arc<RebalancePolicy>| policy.metadata.deletion_timestamp.is_none();
        self.levelling
            .retain(|name, _| declared.policies.get(name).is_some_and(alive));
        let mut policies: Vec<(&String, &Arc<RebalancePolicy>)> = declared
            .policies
            .iter()
            .filter(|(_, policy)| alive(policy))
            .collect();
        // The older has a host that two name.
        policies.sort_by_key(|(name, policy)| {
            let created = policy.metadata.creation_timestamp.as_ref();
            (created.map(|time| time.0), *name)
        });
        let mut owners: BTreeMap<HostId, &str> = BTreeMap::new();
        let mut all = BTreeMap::new();
        let mut searches = Vec::new();
        let mut keeps = Keeps::default();
        for (name, policy) in policies {
            let by = asks("RebalancePolicy", name, &policy.metadata);
            let mut levelling = self.levelling.remove(name).unwrap_or_default();
            if levelling.uid.as_ref() != Some(&by.uid) {
                levelling = recall(policy, guests);
                // Before all hosts have answered not all guests of a plan are known.
                let heard = !self.hosts.values().any(HostState::is_awaited);
                levelling.uid = heard.then(|| by.uid.clone());
            }
            let (mut levelled, mut hosts) = self.resolve_policy(policy, model, now);
            for host in &hosts {
                if let Some(older) = owners.get(host) {
                    let host = &model.host(*host).name;
                    let message = format!("{host} is in RebalancePolicy {older} already");
                    levelled.stalled = Some(Cause::new(Reason::HostInAnotherPolicy, message));
                }
            }
            hosts.retain(|host| !owners.contains_key(host));
            owners.extend(hosts.iter().map(|host| (*host, name.as_str())));
            self.follow(policy, &by, &mut levelling, model, now);
            let kept = self.line_up(
                policy,
                &by,
                &mut levelling,
                &mut levelled,
                model,
                wanted,
                plan,
                &mut keeps,
                now,
            );
            let told_by = levelling.told_by.as_ref();
            let looked = told_by.map(|search| keeps.place(search));
            keeps.policies.push(Policy {
                by: by.clone(),
                looked,
                plan: kept,
            });
            let balance = self.balance(policy, &by, hosts, &levelling, &levelled, model, now);
            if self.is_search_due(&levelling, &levelled, &balance) {
                levelling.searched = Some((Instant::now(), balance.clone()));
                levelling.searching = true;
                levelling.fleet_changed = false;
                searches.push((name.clone(), by, balance));
            }
            self.levelling.insert(name.clone(), levelling);
            all.insert(name.clone(), levelled);
        }
        self.search(searches, model, wanted);
        sum_up(plan, &keeps.policies, &keeps.searches, &Ids::of(model));
        (all, keeps)
    }

    fn resolve_policy(
        &self,
        policy: &RebalancePolicy,
        model: &Model,
        now: Timestamp,
    ) -> (Levelled, BTreeSet<HostId>) {
        let spec = &policy.spec;
        let (hosts, unknown) = match &spec.hosts {
            Some(picker) => self.pick_hosts(picker, model),
            None => (model.hosts.values().copied().collect(), None),
        };
        let unsupported = |what: &str| {
            let message = format!("`{what}` is not supported by this version: nothing is moved");
            Some(Cause::new(Reason::NotSupportedYet, message))
        };
        let mut levelled = Levelled {
            stalled: unknown,
            ..Levelled::default()
        };
        if hosts.is_empty() && levelled.stalled.is_none() {
            let message = "no Host matches";
            levelled.stalled = Some(Cause::new(Reason::NoHostsMatched, message));
        }
        if spec.headroom.as_ref().is_some_and(|room| room.failures > 1) {
            levelled.stalled = unsupported("headroom.failures");
        }
        if self.hosts.values().any(HostState::is_awaited) {
            let waiting = Cause::new(Reason::Waiting, "not all hosts have answered yet");
            levelled.halted = Some(waiting);
        } else if let Some(cause) = self.suspended() {
            levelled.halted = Some(cause);
        } else if spec.suspend {
            let message = "the policy is suspended: nothing new starts";
            levelled.halted = Some(Cause::new(Reason::Suspended, message));
        } else if let Some(cause) = self.still_measures(policy, &hosts, model) {
            (levelled.halted, levelled.measuring) = (Some(cause), true);
        } else if let Err(cause) = open_until(&spec.windows, now) {
            match cause.reason {
                Reason::WindowClosed => levelled.halted = Some(cause),
                _ => levelled.stalled = Some(cause),
            }
        }
        (levelled, hosts)
    }

    /// Aborts moves of policies whose window has closed and that ask for it.
    pub(super) fn close_windows(&mut self, now: Timestamp) {
        for state in self.moves.values_mut() {
            if state.by.kind != "RebalancePolicy" || state.running.is_none() {
                continue;
            }
            let policy = self.declared.policies.get(&state.by.name);
            let aborts = policy.filter(|policy| policy.spec.at_close == AtClose::Abort);
            if let Some(Err(cause)) = aborts.map(|policy| open_until(&policy.spec.windows, now))
                && cause.reason == Reason::WindowClosed
            {
                state.ask_to_abort(Some(cause));
            }
        }
    }

    pub(super) fn show_policies(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let declared = self.declared.clone();
        for (name, levelled) in &pass.levelled {
            let (Some(policy), Some(levelling)) =
                (declared.policies.get(name), self.levelling.get(name))
            else {
                continue;
            };
            let old = before.policies.get(name.as_str());
            let frozen = levelling.frozen.as_ref();
            let first = levelled.waits.values().next();
            let level = levelling.level.as_ref();
            let told_before = policy.status.as_ref();
            let told_before = told_before.filter(|_| levelling.uid.is_none());
            let status = statuses::policy::status(&statuses::policy::Input {
                policy,
                stalled: levelled.stalled.as_ref(),
                halted: levelled.halted.as_ref(),
                level: level.map(|level| (level.now, level.predicted, level.cause.as_ref())),
                looked: levelling.looked,
                begun: levelling.begun,
                plan: frozen
                    .map(|frozen| frozen.shown(&levelled.waits))
                    .or_else(|| told_before.and_then(|status| status.plan.clone())),
                waits: first,
                moving: levelled.moving,
                last_plan: levelling.last_plan.as_ref(),
                skipped: level.map_or(&[], |level| &level.skipped),
                before: old.map(|old| &**old),
                now: pass.now,
            });
            if let Some(cause) = &levelled.stalled {
                view.problems.push(Problem {
                    kind: "RebalancePolicy",
                    name: name.clone(),
                    cause: cause.clone(),
                });
            }
            let told = find(&status.conditions, "Balanced").cloned();
            view.policies
                .insert(name.as_str().into(), keep(old, status));
            if let Some(told) = told.filter(|told| told.status != "Unknown") {
                self.tell_condition("RebalancePolicy", name, &told, "Balance");
            }
        }
    }
}

impl Levelling {
    /// The plan is over, one way or the other: it is looked anew.
    fn end(&mut self, done: usize, now: Timestamp) {
        if let Some(frozen) = self.frozen.take() {
            self.last_plan = Some(PastPlan {
                id: frozen.id,
                done: done as i64,
                total: frozen.steps.len() as i64,
                completion_time: Some(Time(whole_seconds(now))),
            });
            (self.searched, self.looked, self.hopeless) = (None, false, None);
        }
    }
}

/// What an earlier process had written on the policy.
fn recall(policy: &RebalancePolicy, guests: &Guests) -> Levelling {
    let status = policy.status.as_ref();
    Levelling {
        begun: status.is_some_and(|status| status.begun),
        frozen: Frozen::recalled(policy, guests),
        last_plan: status.and_then(|status| status.last_plan.clone()),
        ..Levelling::default()
    }
}
