//! Takes over what an earlier process left: reads each host's journals when its line comes up, and finishes what
//! they tell of.

use std::time::Duration;

use evenkeel_crds::{GuestMigrationSpec, names::MigrationName};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Inner, Pass, Reconciler};
use crate::{
    hosts::Journals,
    journal::Journal,
    moves::MoveState,
    port::{Activity, JournalEntry},
};

/// How long before a journal that could not be taken over is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Reconciler {
    /// Asks each host whose line came up for its journals. Only who may act asks.
    pub(super) fn read_journals(&mut self) {
        for (host, state) in &mut self.hosts {
            if !self.options.act || !state.usable() || state.journals != Journals::Unread {
                continue;
            }
            let Some(hypervisor) = state.hypervisor.clone() else {
                continue;
            };
            state.journals = Journals::Reading;
            let (inner, host) = (self.inner.0.clone(), host.clone());
            tokio::spawn(async move {
                let entries = match hypervisor.journals().await {
                    Ok(entries) => Some(entries),
                    Err(error) => {
                        tracing::warn!(%host, %error, "journals could not be read");
                        tokio::time::sleep(AGAIN).await;
                        None
                    }
                };
                let _ = inner.send(Inner::Journals(host, entries));
            });
        }
    }

    pub(super) fn journals_read(
        &mut self,
        host: &evenkeel_crds::names::HostName,
        entries: Option<Vec<JournalEntry>>,
    ) -> bool {
        let Some(state) = self.hosts.get_mut(host) else {
            return false;
        };
        if state.journals != Journals::Reading {
            return false;
        }
        let Some(entries) = entries else {
            state.journals = Journals::Unread;
            return true;
        };
        state.journals = Journals::Read;
        for entry in entries {
            match Journal::parse(&entry.text) {
                Some(journal) => {
                    let ours = self.moves.values().any(|state| {
                        state
                            .running
                            .as_ref()
                            .is_some_and(|running| running.id == journal.id)
                    });
                    if !ours {
                        self.orphans
                            .entry(journal.id)
                            .or_insert_with(|| (journal, Instant::now()));
                    }
                }
                None => tracing::warn!(%host, id = %entry.id, pool = %entry.pool,
                    "a journal that was not written to its end; nothing was made after it, so it is left alone"),
            }
        }
        true
    }

    /// Whether everything that an earlier process left behind is known and in hand.
    pub(super) fn is_swept(&self) -> bool {
        !self.options.act
            || self
                .hosts
                .values()
                .all(|state| !state.usable() || state.journals == Journals::Read)
                && self
                    .orphans
                    .values()
                    .all(|(journal, at)| *at > Instant::now() || self.ends(journal).is_none())
    }

    /// Both ends of a journal among our hosts, by the hypervisors' own UUIDs.
    fn ends(
        &self,
        journal: &Journal,
    ) -> Option<(
        evenkeel_crds::names::HostName,
        evenkeel_crds::names::HostName,
    )> {
        let find = |uuid: Uuid| {
            self.hosts
                .iter()
                .find(|(_, state)| {
                    state.usable() && state.facts.as_ref().is_some_and(|facts| facts.uuid == uuid)
                })
                .map(|(name, _)| name.clone())
        };
        Some((find(journal.source.uuid)?, find(journal.target.uuid)?))
    }

    /// Starts a task for each journal whose both ends are there.
    pub(super) fn adopt(&mut self, pass: &Pass) {
        if !self.options.act || self.finishing {
            return;
        }
        let due: Vec<Uuid> = self
            .orphans
            .iter()
            .filter(|(_, (_, at))| *at <= Instant::now())
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some((journal, _)) = self.orphans.get(&id).cloned() else {
                continue;
            };
            let Some((source, target)) = self.ends(&journal) else {
                continue;
            };
            let busy = self.moves.values().any(|state| {
                state
                    .running
                    .as_ref()
                    .is_some_and(|running| running.guest == journal.guest)
            });
            if busy {
                continue;
            }
            self.orphans.remove(&id);
            let name = self.name_for_journal(&journal, pass);
            let elsewhere = self.hosts.iter().any(|(host, state)| {
                *host != source
                    && *host != target
                    && state.usable()
                    && state
                        .domains
                        .get(&journal.guest)
                        .is_some_and(|facts| facts.activity == Activity::Running)
            });
            tracing::info!(migration = %name, %id, "taking over a move that an earlier process left");
            self.launch(
                &name,
                source,
                target,
                journal.guest,
                Default::default(),
                Some(journal),
                elsewhere,
                pass.now,
            );
        }
    }

    /// The move that a journal belongs to, or a hidden one where that has ended or goes its own way already.
    fn name_for_journal(&mut self, journal: &Journal, pass: &Pass) -> MigrationName {
        let name: MigrationName = journal.migration.as_str().into();
        match self.moves.get(&name) {
            Some(state) if state.is_final() || state.running.is_some() => {
                let hidden: MigrationName = format!("journal-{}", journal.id).into();
                let mut state = MoveState::new(
                    self.spec_for(journal, pass),
                    journal.requested_by.clone(),
                    pass.now,
                );
                state.hidden = true;
                self.moves.insert(hidden.clone(), state);
                hidden
            }
            Some(_) => name,
            None => {
                let mut state = MoveState::new(
                    self.spec_for(journal, pass),
                    journal.requested_by.clone(),
                    pass.now,
                );
                state.status.failed_attempts = journal.attempt.saturating_sub(1).min(3) as i32;
                self.moves.insert(name.clone(), state);
                name
            }
        }
    }

    fn spec_for(&self, journal: &Journal, pass: &Pass) -> GuestMigrationSpec {
        let guest = pass.guests.by_uuid.get(&journal.guest);
        GuestMigrationSpec {
            guest: guest.map_or_else(|| journal.guest.to_string(), |entry| entry.name.to_string()),
            target: Some(journal.target.host.to_string()),
            ..GuestMigrationSpec::default()
        }
    }

    /// A journal that could not be taken over for now: again in a while.
    pub(super) fn put_back(&mut self, journal: Journal) {
        self.orphans
            .insert(journal.id, (journal, Instant::now() + AGAIN));
    }
}
