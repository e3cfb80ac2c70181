//! Takes over what an earlier process left: reads each host's journals when its line comes up, and finishes what
//! they tell of.

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{
    GuestMigrationSpec,
    names::{HostName, MigrationName},
    reason::{Cause, Reason},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Inner, Pass, Reconciler, start::Way};
use crate::{
    claim::Claims,
    hosts::{Journals, Keeping, Link},
    journal::{End, Found, Journal},
    life::{CALM, Known, failure, unreadable},
    moves::{MoveState, running},
    port::{Hypervisor, JournalEntry},
};

/// How long after another left a host a call of its own may still be on its way there.
const LATE_CALLS: Duration = Duration::from_secs(60);

/// How often journals of hosts at rest are read again: another process that led for longer than it should have may have
/// left some there, and given its claim back.
const READ_ANEW: Duration = Duration::from_secs(600);

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
            let claims = self.claims.clone();
            self.tasks.spawn(async move {
                let (_, read) =
                    tokio::join!(claims.look(&host, &hypervisor), hypervisor.journals());
                let entries = match read {
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

    /// A host at rest whose journals were read long ago.
    fn long_unread(&self) -> Option<HostName> {
        let is_busy = |host: &HostName| running(&self.moves).any(|running| running.is_on(host));
        let (host, _) = self.hosts.iter().find(|(host, state)| {
            self.options.act
                && state.usable()
                && state.journals == Journals::Read
                && state.journals_read.elapsed() >= READ_ANEW
                && !state.kept.iter().any(|kept| kept.busy)
                && !is_busy(host)
        })?;
        Some(host.clone())
    }

    /// Forgets the journals of hosts that another held since they were read, and whether there are such: it may have
    /// begun something there and died.
    pub(super) fn reread_journals(&mut self) -> bool {
        let now = Instant::now();
        if let Some(host) = self.long_unread() {
            self.rereads.push((now, host));
        }
        for host in self.claims.left() {
            self.rereads.push((now, host.clone()));
            self.rereads.push((now + LATE_CALLS, host));
        }
        let mut any = false;
        let hosts = &mut self.hosts;
        self.rereads.retain(|(at, host)| {
            let Some(state) = hosts.get_mut(host) else {
                return false;
            };
            if *at > now || state.journals == Journals::Reading {
                return true;
            }
            any = true;
            state.journals = Journals::Unread;
            false
        });
        any
    }

    pub(super) fn journals_read(
        &mut self,
        host: &HostName,
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
        (state.journals, state.journals_read) = (Journals::Read, Instant::now());
        let parsed = |entry: &JournalEntry| Journal::parse(&entry.text);
        let now = self.clock.now();
        let kept = entries.iter().filter_map(parsed);
        let kept = kept.filter_map(|journal| Keeping::of(&journal, now));
        state.kept = kept.collect();
        for entry in entries {
            // Our own may be read at any moment of their lives, before their first word too.
            let ours = running(&self.moves).any(|running| running.id == entry.id);
            match Journal::find(&entry.text) {
                Found::Whole(journal) if ours || journal.kept_until.is_some() => {}
                Found::Unwritten if ours => {}
                Found::Whole(journal) => {
                    self.orphans
                        .entry(journal.id)
                        .and_modify(|(known, _)| known.halted |= journal.halted)
                        .or_insert_with(|| (*journal, Instant::now()));
                }
                Found::Unwritten => self.sweep(host.clone(), entry),
                Found::Unreadable => {
                    let cause = unreadable(host, &entry);
                    self.tell("Host", host, &cause, true, "Observe");
                }
            }
        }
        true
    }

    /// Removes a journal that was not written to its end: nothing was made after it. Only with the claim, which whoever
    /// writes one holds, and only after a while: a process that has just lost its claim may still be at it.
    fn sweep(&mut self, host: HostName, entry: JournalEntry) {
        if !self.sweeping.insert((host.clone(), entry.id)) {
            return;
        }
        let Some(hypervisor) = self
            .hosts
            .get(&host)
            .and_then(|state| state.hypervisor.clone())
        else {
            return;
        };
        let (claims, inner) = (self.claims.clone(), self.inner.0.clone());
        self.tasks.spawn(async move {
            loop {
                match sweep_one(&claims, &host, &hypervisor, &entry).await {
                    Ok(()) => break,
                    // It is read anew when the line comes up again.
                    Err(cause) if cause.reason == Reason::HostUnreachable => break,
                    Err(cause) => {
                        tracing::debug!(%host, id = %entry.id, %cause, "a journal is removed later");
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
            let _ = inner.send(Inner::Swept(host, entry.id));
        });
    }

    /// Why a move of an earlier process can't be finished now.
    pub(super) fn unfinished(&self, journal: &Journal) -> Option<Cause> {
        if self.ends(journal).is_some() {
            return None;
        }
        let silent: Vec<&str> = [&journal.source, &journal.target]
            .into_iter()
            .filter(|end| {
                !self.hosts.values().any(|state| {
                    state.usable()
                        && state
                            .facts
                            .as_ref()
                            .is_some_and(|facts| facts.uuid == end.uuid)
                })
            })
            .map(|end| end.host.as_str())
            .collect();
        Some(Cause::new(
            Reason::HostUnreachable,
            format!(
                "an earlier move of {} from {} to {} is to be finished first, and {} does not answer",
                journal.domain,
                journal.source.host,
                journal.target.host,
                silent.join(" and ")
            ),
        ))
    }

    /// Whether everything that an earlier process left behind is known and in hand.
    pub(super) fn is_swept(&self) -> bool {
        !self.options.act
            || (self.held || self.released() && self.sweeping.is_empty())
                && self
                    .hosts
                    .values()
                    .all(|state| !state.usable() || state.journals == Journals::Read)
                && self.orphans.values().all(|(journal, at)| {
                    let others = self.claims.others();
                    self.held
                        || *at > Instant::now()
                        || self.is_overtaken(journal)
                        || self.ends(journal).is_none_or(|(source, target)| {
                            others.contains_key(&source) || others.contains_key(&target)
                        })
                })
    }

    /// Both ends of a journal among our hosts, by the hypervisors' own UUIDs.
    fn ends(&self, journal: &Journal) -> Option<(HostName, HostName)> {
        let find = |uuid: Uuid| {
            self.hosts
                .iter()
                .find(|(_, state)| {
                    state.usable() && state.facts.as_ref().is_some_and(|facts| facts.uuid == uuid)
                })
                .map(|(name, _)| name.clone())
        };
        let silent = |end: &End| {
            let (name, state) = self.hosts.get_key_value(&end.host)?;
            let known = state.facts.as_ref().map(|facts| facts.uuid);
            let silent = matches!(state.link, Link::Down(_))
                && state.hypervisor.is_some()
                && known.is_none_or(|uuid| uuid == end.uuid);
            silent.then_some((name.clone(), state))
        };
        // A target that is silent holds up nothing that the source can tell alone.
        let target_silent = || silent(&journal.target).map(|(name, _)| name);
        // Nor does a source that is off for good, or one that a guest that stands still at the target needs not.
        let source_off = || {
            silent(&journal.source)
                .filter(|(_, state)| journal.halted || state.declared.spec.out_of_service)
                .map(|(name, _)| name)
        };
        let (source, target) = (find(journal.source.uuid), find(journal.target.uuid));
        match (source, target) {
            (None, Some(target)) => Some((source_off()?, target)),
            (source, target) => Some((source?, target.or_else(target_silent)?)),
        }
    }

    /// Starts a task for each journal whose both ends are there.
    pub(super) fn adopt(&mut self, pass: &Pass) {
        if !self.options.act || self.held {
            return;
        }
        // Of several journals of one guest the latest first: what it tells of may still go on.
        let mut due: Vec<(String, Uuid)> = self
            .orphans
            .iter()
            .filter(|(_, (_, at))| *at <= Instant::now())
            .map(|(id, (journal, _))| (journal.start_time.clone(), *id))
            .collect();
        due.sort_by(|one, other| other.cmp(one));
        for (_, id) in due {
            let Some((journal, _)) = self.orphans.get(&id).cloned() else {
                continue;
            };
            let Some((source, target)) = self.ends(&journal) else {
                continue;
            };
            // A later move's journal may be among those of either end that were not read yet.
            if [&source, &target]
                .into_iter()
                .any(|end| self.is_unread(end))
            {
                continue;
            }
            // Its holder may be at it.
            if pass.claimed.contains_key(&source) || pass.claimed.contains_key(&target) {
                continue;
            }
            let busy = self.moves.values().any(|state| {
                state
                    .running
                    .as_ref()
                    .is_some_and(|running| running.guest == journal.guest)
            });
            if busy {
                continue;
            }
            if self.is_overtaken(&journal) {
                continue;
            }
            self.orphans.remove(&id);
            let name = self.name_for_journal(&journal, pass);
            tracing::info!(migration = %name, %id, "taking over a move that an earlier process left");
            self.launch(
                &name,
                source,
                target,
                journal.guest,
                Way::Adopted(Box::new(journal)),
                pass.now,
            );
        }
    }

    /// Whether the host answers and its journals are not known yet.
    fn is_unread(&self, host: &HostName) -> bool {
        let state = self.hosts.get(host);
        state.is_some_and(|state| state.usable() && state.journals != Journals::Read)
    }

    /// Whether a later move of the same guest is still to be taken over: until then this one's ends alone do not show that
    /// the guest is at a third host.
    fn is_overtaken(&self, journal: &Journal) -> bool {
        let began = |journal: &Journal| (journal.start_time.clone(), journal.id);
        let others = self.orphans.values().map(|(other, _)| other);
        others
            .filter(|other| other.guest == journal.guest)
            .any(|other| began(other) > began(journal))
    }

    /// Whether the guest is at another host than these two.
    fn is_elsewhere(&self, guest: Uuid, source: &HostName, target: &HostName) -> bool {
        self.hosts.iter().any(|(host, state)| {
            let facts = state.domains.get(&guest);
            host != source
                && host != target
                && state.usable()
                && facts.is_some_and(|facts| facts.activity.active() || facts.persistent)
        })
    }

    /// What the ends of a move don't tell themselves.
    pub(super) fn known(&self, guest: Uuid, source: &HostName, target: &HostName) -> Known {
        let off = |host: &HostName| {
            let state = self.hosts.get(host);
            state.is_some_and(|state| state.declared.spec.out_of_service)
        };
        Known {
            elsewhere: self.is_elsewhere(guest, source, target),
            source_off: off(source),
            target_off: off(target),
        }
    }

    /// Tells each move what its ends don't.
    pub(super) fn tell_moves(&self) {
        for running in running(&self.moves) {
            let now = self.known(running.guest, &running.source, &running.target);
            running.beside.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    }

    /// The move that a journal belongs to, or a hidden one where that has ended or goes its own way already.
    fn name_for_journal(&mut self, journal: &Journal, pass: &Pass) -> MigrationName {
        let name: MigrationName = journal.migration.as_str().into();
        match self.moves.get(&name) {
            // The last case: an attempt that ended already, but for what a silent target kept.
            Some(state)
                if state.is_final()
                    || state.running.is_some()
                    || journal.attempt <= state.status.failed_attempts.unsigned_abs() =>
            {
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

async fn sweep_one(
    claims: &Claims,
    host: &HostName,
    hypervisor: &Arc<dyn Hypervisor>,
    entry: &JournalEntry,
) -> Result<(), Cause> {
    let guard = claims.hold(host, hypervisor).await?;
    for pause in [CALM, Duration::ZERO] {
        let now = hypervisor
            .journals()
            .await
            .map_err(|error| failure(host, "reading the journals", &error))?;
        let unwritten = |again: &JournalEntry| {
            again.id == entry.id && Journal::find(&again.text) == Found::Unwritten
        };
        if !now.iter().any(unwritten) {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
    }
    guard.prove().await?;
    hypervisor
        .remove_journal(&entry.pool, entry.id)
        .await
        .map_err(|error| failure(host, "removing a journal", &error))
}
