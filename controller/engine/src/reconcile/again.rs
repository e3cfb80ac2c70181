//! What nobody announces: times that come, claims of others that go, room in pools that something waits for.

use std::{collections::BTreeSet, time::Duration};

use evenkeel_crds::{names::HostName, reason::Reason};
use tokio::time::Instant;

use super::{Inner, Reconciler, TICK};
use crate::hosts::Link;

/// How often pools are looked at while a move waits for room in them.
const LOOK_AT_POOLS: Duration = Duration::from_secs(3);
/// How often hosts that nobody is known to hold are asked whether somebody came and died there.
const LOOK_AT_CLAIMS: Duration = Duration::from_secs(60);

impl Reconciler {
    /// Whether anything that waits for a time has come to it.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let recent = |until: Instant| until <= now && now.duration_since(until) < 2 * TICK;
        self.moves.values().any(|state| {
            state.rest.as_ref().is_some_and(|(_, until)| recent(*until))
                || state.avoid.values().any(|(_, until)| recent(*until))
                || (!state.is_final() && state.spec.deadline.is_some())
        }) || self
            .hosts
            .values()
            .any(|host| host.link == Link::Unheard || host.circuit.until().is_some_and(recent))
            || self.orphans.values().any(|(_, at)| recent(*at))
            || self.strays_are_due(self.clock.now())
            || self.search_is_due()
            || self.emptying.is_due()
            || self.shutdown_is_due()
            || self
                .hosts
                .values()
                .any(|host| host.kept.iter().any(|kept| recent(kept.due)))
            || self
                .declared
                .drains
                .values()
                .any(|drain| drain.spec.deadline.is_some())
            || self.declared.guests.values().any(|guest| {
                guest
                    .spec
                    .hold
                    .as_ref()
                    .is_some_and(|hold| hold.until.is_some())
            })
    }

    /// Looks again at what nobody announces: others' claims, room in pools that something waits for.
    pub(super) fn look_again(&mut self) {
        let mut hosts: BTreeSet<HostName> = self.claims.others().into_keys().collect();
        if self.options.act && self.claims_looked.elapsed() >= LOOK_AT_CLAIMS {
            self.claims_looked = Instant::now();
            let known = self.claims.known();
            let usable = self.hosts.iter().filter(|(_, state)| state.usable());
            hosts.extend(
                usable
                    .map(|(host, _)| host.clone())
                    .filter(|host| !known.contains(host)),
            );
        }
        for host in hosts {
            let Some(hypervisor) = self
                .hosts
                .get(&host)
                .and_then(|state| state.hypervisor.clone())
            else {
                continue;
            };
            let (claims, inner) = (self.claims.clone(), self.inner.0.clone());
            self.tasks.spawn(async move {
                if claims.look(&host, &hypervisor).await {
                    let _ = inner.send(Inner::Free);
                }
            });
        }
        if self.pools_looked.elapsed() >= LOOK_AT_POOLS {
            self.pools_looked = Instant::now();
            let view = self.views.borrow().clone();
            let short = |reason: &str| {
                matches!(
                    Reason::parse(reason),
                    Some(Reason::InsufficientDisk | Reason::PoolMissing)
                )
            };
            let wanted: BTreeSet<&str> = view
                .plan
                .rejections
                .iter()
                .flat_map(|rejection| {
                    let listed = rejection.hosts.iter().filter(|count| short(&count.reason));
                    listed.flat_map(|count| {
                        count.examples.iter().map(|example| example.host.as_str())
                    })
                })
                .collect();
            for (host, state) in &self.hosts {
                let asked = self.moves.values().any(|state| {
                    state.spec.target.as_deref() == Some(host.as_str())
                        && !state.is_final()
                        && state.running.is_none()
                });
                if (asked || wanted.contains(host.as_str()))
                    && let Some(hypervisor) = state.hypervisor.clone().filter(|_| state.usable())
                {
                    let (inner, host) = (self.inner.0.clone(), host.clone());
                    self.tasks.spawn(async move {
                        if let Ok(pools) = hypervisor.pools().await {
                            let _ = inner.send(Inner::Pools(host, pools));
                        }
                    });
                }
            }
        }
    }
}
