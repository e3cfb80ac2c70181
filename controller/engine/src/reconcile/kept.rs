//! Disks that finished moves keep at their source: known from the journals there, removed when their time is over.

use std::time::Duration;

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Inner, Pass, Reconciler};
use crate::{
    hosts::Keeping,
    life::{Kept, Place, release},
    moves::running,
};

/// How long before a removal that was not possible is tried again.
const AGAIN: Duration = Duration::from_secs(10);

impl Reconciler {
    /// Whether nothing that is due waits for its first try.
    pub(super) fn released(&self) -> bool {
        let mut all = self.hosts.values().flat_map(|state| &state.kept);
        all.all(|kept| kept.tried || kept.due > Instant::now())
    }

    /// Whether something of that guest is being removed.
    pub(super) fn releases(&self, guest: Uuid) -> bool {
        let mut all = self.hosts.values().flat_map(|state| &state.kept);
        all.any(|kept| kept.busy && kept.journal.guest == guest)
    }

    /// Starts to remove what is due.
    pub(super) fn release_kept(&mut self, pass: &Pass) {
        if !self.options.act || self.held {
            return;
        }
        let now = Instant::now();
        let mut due: Vec<(HostName, Uuid)> = Vec::new();
        for (host, state) in &self.hosts {
            let ready = |kept: &&Keeping| !kept.busy && kept.due <= now;
            let usable = state.usable() && !pass.claimed.contains_key(host);
            let ready = state.kept.iter().filter(ready).filter(|_| usable);
            due.extend(ready.map(|kept| (host.clone(), kept.journal.id)));
        }
        for (host, id) in due {
            let task = self.kept_at(&host, id);
            let Some(kept) = self.keeping(&host, id) else {
                continue;
            };
            let Some(task) = task else {
                (kept.tried, kept.due) = (true, now + AGAIN);
                tracing::info!(%host, guest = %kept.journal.domain, "no host is seen to have the guest: its disks are kept");
                continue;
            };
            kept.busy = true;
            let (claims, inner) = (self.claims.clone(), self.inner.0.clone());
            self.tasks.spawn(async move {
                let done = release(&claims, &task).await;
                let _ = inner.send(Inner::Released(host, id, done));
            });
        }
    }

    /// What is to be done, where the guest is known to be at another host and is not being moved.
    fn kept_at(&self, host: &HostName, id: Uuid) -> Option<Kept> {
        let state = self.hosts.get(host)?;
        let kept = state.kept.iter().find(|kept| kept.journal.id == id)?;
        let guest = kept.journal.guest;
        let moving = running(&self.moves).any(|running| running.guest == guest);
        let unfinished = self
            .orphans
            .values()
            .any(|(journal, _)| journal.guest == guest);
        if moving || unfinished {
            return None;
        }
        let mut holders = self.hosts.iter().filter(|(name, state)| {
            let facts = state.domains.get(&guest);
            *name != host
                && state.usable()
                && facts.is_some_and(|facts| facts.persistent && facts.activity.active())
        });
        let (holder, _) = holders.next().filter(|_| holders.next().is_none())?;
        let place = |name: &HostName| -> Option<Place> { self.place(name, None) };
        Some(Kept {
            journal: kept.journal.clone(),
            source: place(host)?,
            holder: place(holder)?,
        })
    }

    fn keeping(&mut self, host: &HostName, id: Uuid) -> Option<&mut Keeping> {
        let kept = &mut self.hosts.get_mut(host)?.kept;
        kept.iter_mut().find(|kept| kept.journal.id == id)
    }

    pub(super) fn was_released(&mut self, host: &HostName, id: Uuid, done: Result<(), Cause>) {
        match done {
            Ok(()) => {
                if let Some(state) = self.hosts.get_mut(host) {
                    state.kept.retain(|kept| kept.journal.id != id);
                }
            }
            Err(cause) => {
                if let Some(kept) = self.keeping(host, id) {
                    (kept.busy, kept.tried) = (false, true);
                    kept.due = Instant::now() + AGAIN;
                }
                if cause.reason != Reason::ClaimedByOther {
                    self.tell("Host", host, &cause, true, "Clean");
                }
            }
        }
    }
}
