//! What guests use is measured before a policy looks at it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    RebalancePolicy,
    kinds::policy::LoadKind,
    names::HostName,
    quantity::Span,
    reason::{Cause, Reason},
};
use evenkeel_planner::HostId;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::Reconciler;
use crate::{
    model::Model,
    port::{Activity, Usage},
};

/// The window that is kept while no policy asks for one.
const USUAL_WINDOW: Duration = Duration::from_secs(300);

impl Reconciler {
    /// Takes in what a host says of the guests that run there.
    pub(in crate::reconcile) fn measured(
        &mut self,
        host: &HostName,
        mut usage: BTreeMap<Uuid, Usage>,
    ) {
        let Some(state) = self.hosts.get(host) else {
            return;
        };
        usage.retain(|guest, _| {
            let facts = state.domains.get(guest);
            facts.is_some_and(|facts| facts.activity == Activity::Running)
        });
        let policies = self.declared.policies.values();
        let windows = policies.map(|policy| policy.spec.window.0);
        let longest = windows.max().unwrap_or(USUAL_WINDOW).max(USUAL_WINDOW);
        self.uses.note(host, usage, longest, Instant::now());
    }

    /// Why nobody can tell yet what a policy's guests use.
    pub(super) fn still_measures(
        &self,
        policy: &RebalancePolicy,
        hosts: &BTreeSet<HostId>,
        model: &Model,
    ) -> Option<Cause> {
        let window = policy.spec.window;
        let within = hosts.iter().map(|id| model.host(*id));
        let within = within.filter(|host| host.out_of_reach.is_none());
        let measured = within.map(|host| (self.uses.measured(&host.name, Instant::now()), host));
        let (least, host) = measured.min_by_key(|(time, _)| *time)?;
        let short = policy.spec.load == LoadKind::Measured && least < window.0;
        short.then(|| {
            // In steps, so that it is not news all the time.
            let left = (window.0 - least).as_secs().div_ceil(30) * 30;
            let message = format!(
                "load is measured over {window}: {} has to be watched for another {}",
                host.name,
                Span(Duration::from_secs(left))
            );
            Cause::new(Reason::Waiting, message)
        })
    }
}
