//! Drains as they are shown.

use std::collections::BTreeMap;

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
    shared::find,
};
use evenkeel_planner::Rejection;

use super::{
    super::{Pass, Reconciler, wanted::by_drain},
    hosts::managed_elsewhere,
    keep,
};
use crate::{
    statuses,
    view::{Problem, View},
};

impl Reconciler {
    pub(super) fn show_drains(&mut self, pass: &Pass, before: &View, view: &mut View) {
        let mut told = Vec::new();
        let elsewhere = managed_elsewhere(&pass.model);
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
                .map(|host| (host, elsewhere[pass.model.hosts[host].at()]))
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
