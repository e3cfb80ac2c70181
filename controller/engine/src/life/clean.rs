//! Verifying and cleaning, and taking back what a failed move prepared. Here files are removed, each only after the
//! claim was proven, the evidence seen again, and no domain on that host found to name it.

use std::collections::BTreeMap;

use evenkeel_crds::{
    kinds::migration::{Evidence, MigrationPhase, SourceFiles},
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::{LIST_CAP, Time, Timestamp},
};
use futures::future::join_all;

use super::{Attempt, LOOK_AGAIN, Outcome, Place, failure};
use crate::{
    evidence::{Seen, Verdict},
    journal::{FileOrigin, Found, Journal, JournalFile},
    mutation::{Rule, broken},
    port::{Activity, Fault, Hypervisor, JournalEntry, LastMove, PortError, PortResult},
};

/// A file is taken for an empty one of ours only below this, where the journal does not say that we made it.
const EMPTY: u64 = 1 << 20;
/// What the keys of an encrypted one may occupy besides: eight slots, as LUKS has them.
const KEYS: u64 = 4 << 20;

/// What is said to be done when the move's traces are removed from a source that keeps its guest.
const TAKING_BACK: &str = "taking the move back";

/// How taking back ended.
pub(super) enum TakenBack {
    /// Nothing of the move is left where it could be reached.
    Done,
    /// Another process did it, and this is what came of the move.
    ByAnother(Outcome),
    /// The target has a copy of the guest after all: both ends have to be watched again.
    Changed,
}

impl Attempt {
    /// The guest is at the target: proves it, settles it there, removes what is left at the source.
    ///
    /// Nothing where both ends no longer show that, so that what they show has to be watched again.
    pub(super) async fn conclude(&mut self) -> Option<Outcome> {
        self.enter(MigrationPhase::Verifying);
        let order = self.order.clone();
        // Autostart comes after: a target that loses its power before must not start what may not be whole.
        let (completed, durable) = tokio::join!(
            order.target.hypervisor.completed(order.guest),
            self.prove_durable()
        );
        if !durable {
            return None;
        }
        let Some(journal) = self.journal.clone() else {
            let cause = Cause::new(Reason::OutcomeUnknown, "the journal is missing");
            return Some(Outcome::Failed { cause, tried: true });
        };
        let completed = completed.ok().flatten();
        let mut settled = self.settle_target(&journal).await;
        while let Err(cause) = settled {
            let over = self.rest(cause).await;
            if over.is_some() {
                return over;
            }
            if !self.shows_finished().await {
                return None;
            }
            settled = self.settle_target(&journal).await;
        }
        self.enter(MigrationPhase::Cleaning);
        let running = loop {
            match self.clean_source(&journal).await {
                Ok(Some(running)) => break running,
                Ok(None) => return None,
                Err(cause) => {
                    let over = self.rest(cause).await;
                    if over.is_some() {
                        return over;
                    }
                }
            }
        };
        self.go_on();
        self.remove_journals(&journal, self.kept.is_none()).await;
        Some(Outcome::Succeeded {
            evidence: Evidence {
                source_files: if journal.disks.is_empty() && !journal.shared.is_empty() {
                    SourceFiles::Shared
                } else if journal.ran_twice || self.kept.is_some() {
                    SourceFiles::Retained
                } else {
                    SourceFiles::Removed
                },
                kept_files: journal
                    .files
                    .iter()
                    .filter(|file| !leaves(file))
                    .map(|file| file.path.clone())
                    .take(LIST_CAP)
                    .collect(),
                ..self.evidence(&journal, running)
            },
            // What libvirt counts ends where the guest arrives.
            downtime: self
                .stood_still
                .or(completed.and_then(|completed| completed.downtime)),
            bytes: match completed {
                Some(completed) => Some(Bytes(completed.bytes.0 + self.carried)),
                None if journal.definition.is_some() => Some(Bytes(self.carried)),
                None => None,
            },
            kept: self.kept.clone().map(Box::new),
        })
    }

    /// The guest is at the target, and the source is off for good. What it has of the guest is left to its own journal, for
    /// when it is back after all.
    ///
    /// Nothing where that is no longer shown.
    pub(super) async fn conclude_without_source(&mut self) -> Option<Outcome> {
        self.enter(MigrationPhase::Verifying);
        let journal = self.journal.clone()?;
        while let Err(cause) = self.settle_target(&journal).await {
            let over = self.rest(cause).await;
            if over.is_some() {
                return over;
            }
            if self.look().await.verdict != Verdict::MovedSourceOff {
                return None;
            }
        }
        let ends = self.look().await;
        if ends.verdict != Verdict::MovedSourceOff {
            return None;
        }
        self.enter(MigrationPhase::Cleaning);
        self.remove_journals(&journal, false).await;
        self.go_on();
        Some(Outcome::Succeeded {
            evidence: Evidence {
                source_defined: true,
                source_files: SourceFiles::Abandoned,
                ..self.evidence(&journal, executes(ends.target))
            },
            downtime: self.stood_still,
            bytes: None,
            kept: None,
        })
    }

    /// What is known of the guest at its target, where it is.
    fn evidence(&self, journal: &Journal, running: bool) -> Evidence {
        let host = Some(self.order.target.host.to_string()).filter(|_| running);
        let shared = journal.shared.iter().map(|disk| disk.path.clone());
        Evidence {
            running: host.into_iter().collect(),
            uuid: self.order.guest.to_string(),
            rebooted: self.rebooted,
            source_defined: false,
            source_files: SourceFiles::default(),
            kept_files: Vec::new(),
            shared_files: shared.take(LIST_CAP).collect(),
            observed_time: Time(self.lines.clock.now()),
        }
    }

    async fn shows_finished(&mut self) -> bool {
        is_finished(self.look().await.verdict)
    }

    /// Autostart as it was, and the finished move in the guest's own metadata. What opens its disks is the host's own.
    async fn settle_target(&mut self, journal: &Journal) -> Result<(), Cause> {
        self.prove_claim(false).await?;
        if self.is_transient_at_target() {
            self.define_again(journal).await?;
        }
        let target = &self.order.target;
        let by = &journal.requested_by;
        let last = LastMove {
            time: self.lines.clock.now().to_string(),
            from: journal.source.host.clone(),
            by: format!("{}/{}", by.kind, by.name),
            onward: journal.onward.clone(),
        };
        let autostart = async {
            if journal.autostart {
                target.hypervisor.set_autostart(journal.guest, true).await?;
            }
            Ok(())
        };
        let (autostart, marked) = tokio::join!(
            autostart,
            target.hypervisor.set_last_move(journal.guest, &last),
        );
        match autostart.and(marked) {
            Ok(()) => self.keep_secrets(journal).await,
            Err(error) => Err(unchanged(target, journal, "settling the guest", &error).await),
        }
    }

    /// Whether the target runs the guest without a definition of it: somebody undefined it there in mid-copy, which libvirt
    /// lets happen once the copy is done.
    fn is_transient_at_target(&self) -> bool {
        matches!(self.target, Seen::Present(copy) if copy.activity.active() && !copy.persistent)
    }

    /// Gives a guest that runs at the target its definition back, made of what it runs with: else the end of its QEMU would
    /// be the end of it.
    async fn define_again(&self, journal: &Journal) -> Result<(), Cause> {
        let target = &self.order.target;
        let defined = async {
            let text = target.hypervisor.definition(journal.guest).await?;
            let mark = self.mark(journal.id);
            target.hypervisor.define(&text, &[], Some(&mark)).await
        };
        defined.await.map_err(|error| {
            let doing = "defining the guest, which was undefined while it arrived,";
            failure(&target.host, doing, &error)
        })
    }

    /// Removes the guest's files at the source. Whether the guest executes at the target; nothing where both ends no longer
    /// show a finished move.
    async fn clean_source(&mut self, journal: &Journal) -> Result<Option<bool>, Cause> {
        self.prove_claims().await?;
        let ends = self.look().await;
        let undecided = !is_finished(ends.verdict) || self.is_transient_at_target();
        if undecided && !broken(Rule::EvidenceSeenAgain) {
            return Ok(None);
        }
        let (source, target) = (&self.order.source, &self.order.target);
        let named = source
            .hypervisor
            .references(None)
            .await
            .map_err(|error| failure(&source.host, "looking for users of the files", &error))?;
        let shared = journal.shared.iter().map(|disk| &disk.path);
        for path in journal
            .disks
            .iter()
            .map(|disk| &disk.target_path)
            .chain(shared)
        {
            // The target must really run from files of its own, and from those that both ends see.
            if !ends.disks.contains(path) {
                return Err(Cause::new(
                    Reason::OutcomeUnknown,
                    format!(
                        "the guest on {} does not use {path}; nothing is removed",
                        target.host
                    ),
                ));
            }
        }
        unused(journal, &source.host, &named)?;
        let keep = journal.profile.spec.keep_source.0;
        if journal.ran_twice {
            return Ok(Some(executes(ends.target)));
        }
        if keep.is_zero() || own_files(journal).is_empty() {
            remove_own_files(journal, source).await?;
        } else {
            let until = self.lines.clock.now().checked_add(keep);
            let until = until.unwrap_or(Timestamp::MAX);
            self.kept = keep_disks(journal, source, until).await?;
        }
        tokio::join!(close_pools(source), close_pools(target));
        Ok(Some(executes(ends.target)))
    }

    /// The guest stayed: removes what was made at the target, the mark, and the journals. Waits for a target that
    /// is needed for it, unless that one does not answer at all: then its own journal keeps the rest for later.
    pub(super) async fn take_back(&mut self) -> TakenBack {
        let Some(journal) = self.journal.clone() else {
            return TakenBack::Done;
        };
        loop {
            // The target first: while it may have the guest after all, the source's autostart stays off.
            let cleared = match self.clear_target(&journal).await {
                Ok(true) => Ok(()),
                Ok(false) => return TakenBack::Changed,
                Err(cause) if cause.reason == Reason::HostUnreachable => {
                    tracing::warn!(migration = %self.order.migration, target = %self.order.target.host,
                        "the target does not answer; what is left there is removed when it does");
                    // It may be back already, its journals read while this move was still ours.
                    self.lines.claims.suspect(&self.order.target.host);
                    Ok(())
                }
                Err(cause) => Err(cause),
            };
            let taken_back = match cleared {
                Ok(()) => self.restore_source(&journal).await,
                Err(cause) => Err(cause),
            };
            let Err(wrong) = taken_back else {
                self.go_on();
                return TakenBack::Done;
            };
            if let Some(outcome) = self.rest(wrong).await {
                return TakenBack::ByAnother(outcome);
            }
        }
    }

    async fn restore_source(&mut self, journal: &Journal) -> Result<(), Cause> {
        self.prove_claim(true).await?;
        let source = &self.order.source;
        let hypervisor = &source.hypervisor;
        let changed = async {
            ignore_missing(hypervisor.set_mark(journal.guest, None).await)?;
            if journal.autostart {
                ignore_missing(hypervisor.set_autostart(journal.guest, true).await)?;
            }
            Ok(())
        };
        if let Err(error) = changed.await {
            return Err(unchanged(source, journal, TAKING_BACK, &error).await);
        }
        hypervisor
            .remove_journal(&journal.source.pool, journal.id)
            .await
            .map_err(|error| failure(&source.host, TAKING_BACK, &error))
    }

    /// Whether it was done: not where the target has a copy of the guest after all.
    async fn clear_target(&mut self, journal: &Journal) -> Result<bool, Cause> {
        self.prove_claim(false).await?;
        let target = &self.order.target;
        let hypervisor = &target.hypervisor;
        // Until the journal here is gone: another move that shares a file with this one waits for that.
        let _turns = self.luggage_turns(journal).await;
        // Ours is only what the journal names, what no domain there names, and what we are known to have made, which the
        // journal at the target itself tells.
        let (there, named, written) = tokio::join!(
            hypervisor.look(journal.guest),
            hypervisor.references(None),
            hypervisor.journals(),
        );
        let written = written
            .map_err(|error| failure(&target.host, "reading the journals", &error))?
            .into_iter()
            .filter(|entry| entry.id == journal.id)
            .find_map(|entry| Journal::parse(&entry.text));
        let made = |disk: &str| {
            let disks = written.iter().flat_map(|written| &written.disks);
            disks
                .filter(|own| own.created)
                .any(|own| own.target_path == disk)
        };
        let there =
            there.map_err(|error| failure(&target.host, "looking for the guest", &error))?;
        let named = named
            .map_err(|error| failure(&target.host, "looking for users of the files", &error))?;
        if there.is_some() {
            return Ok(false);
        }
        // A stopped guest's disks are among its other files.
        let disks = if journal.ran_twice || journal.definition.is_some() {
            &[]
        } else {
            journal.disks.as_slice()
        };
        for disk in disks {
            let ours = made(&disk.target_path) || self.is_ours(hypervisor.as_ref(), disk).await?;
            let used = named.contains_key(&disk.target_path) && !broken(Rule::ListOfDomains);
            if used || !ours {
                continue;
            }
            hypervisor
                .delete_volume(&disk.target_path)
                .await
                .map_err(|error| {
                    failure(
                        &target.host,
                        &format!("removing {}", disk.target_path),
                        &error,
                    )
                })?;
        }
        if !journal.ran_twice {
            self.take_luggage_back(journal, written.as_ref(), |path| named.contains_key(path))
                .await?;
            self.take_secrets_back(journal).await?;
            for disk in &journal.disks {
                if let Some(top) = &disk.new_directory {
                    let removed = hypervisor.remove_directories(&disk.target_path, top).await;
                    removed.map_err(|error| {
                        failure(&target.host, &format!("removing {top}"), &error)
                    })?;
                }
            }
        }
        close_pools(target).await;
        hypervisor
            .remove_journal(&journal.target.pool, journal.id)
            .await
            .map(|()| true)
            .map_err(|error| failure(&target.host, "removing the journal", &error))
    }

    async fn is_ours(
        &self,
        hypervisor: &dyn Hypervisor,
        disk: &crate::journal::JournalDisk,
    ) -> Result<bool, Cause> {
        if disk.created {
            return Ok(true);
        }
        let found = hypervisor
            .volume(&disk.target_path)
            .await
            .map_err(|error| failure(&self.order.target.host, "looking at the file", &error))?;
        let empty = EMPTY + disk.secret.map_or(0, |_| KEYS);
        Ok(
            found
                .is_some_and(|file| file.capacity == disk.virtual_size && file.allocated.0 < empty),
        )
    }

    /// The source's first, where that one goes too: while the target's is there, a later process still finds the whole
    /// story.
    async fn remove_journals(&mut self, journal: &Journal, at_source: bool) {
        let (source, target) = (self.order.source.clone(), self.order.target.clone());
        loop {
            let (first, second) = tokio::join!(
                async {
                    if !at_source {
                        return Ok(());
                    }
                    source
                        .hypervisor
                        .remove_journal(&journal.source.pool, journal.id)
                        .await
                },
                target
                    .hypervisor
                    .remove_journal(&journal.target.pool, journal.id),
            );
            match (first, second) {
                (Ok(()), Ok(())) => return,
                (Err(error), _) => {
                    self.wait_for(failure(&source.host, "removing the journal", &error))
                }
                (_, Err(error)) => {
                    self.wait_for(failure(&target.host, "removing the journal", &error))
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// No domain there may name what is to be removed.
pub(super) fn unused(
    journal: &Journal,
    host: &HostName,
    named: &BTreeMap<String, Vec<String>>,
) -> Result<(), Cause> {
    for path in own_files(journal) {
        let users = named.get(path);
        if let Some(users) = users.filter(|_| !broken(Rule::ListOfDomains)) {
            return Err(Cause::new(
                Reason::PathClash,
                format!(
                    "{path} on {host} is not removed: {} uses it",
                    users.join(", ")
                ),
            )
            .hint("detach the file from that domain; it is removed then"));
        }
    }
    Ok(())
}

/// Removes what the source has of the guest alone. Whoever calls this has the proof. What a journal that can't be read
/// tells of may be in these files.
pub(super) async fn remove_own_files(journal: &Journal, source: &Place) -> Result<(), Cause> {
    readable_journals(source).await?;
    let files = own_files(journal);
    let removed = join_all(files.iter().map(|path| source.hypervisor.remove_file(path))).await;
    for (path, removed) in files.iter().zip(removed) {
        removed.map_err(|error| failure(&source.host, &format!("removing {path}"), &error))?;
    }
    Ok(())
}

/// All journals at a host, read now.
///
/// # Errors
/// Fails where nobody can tell what one of them is about.
pub(super) async fn readable_journals(place: &Place) -> Result<Vec<JournalEntry>, Cause> {
    let written = place
        .hypervisor
        .journals()
        .await
        .map_err(|error| failure(&place.host, "reading the journals", &error))?;
    let is_unreadable = |entry: &&JournalEntry| Journal::find(&entry.text) == Found::Unreadable;
    match written.iter().find(is_unreadable) {
        Some(entry) => Err(unreadable(&place.host, entry)),
        None => Ok(written),
    }
}

/// The cause for what a journal that can't be read keeps from being done.
pub(crate) fn unreadable(host: &HostName, entry: &JournalEntry) -> Cause {
    Cause::new(
        Reason::OutcomeUnknown,
        format!(
            "the journal {} in pool {} of {host} can't be read: nothing of its guest is known, and nothing is removed \
             there",
            entry.id, entry.pool
        ),
    )
    .hint("look at that volume, find out what it was about, and delete it by hand")
}

/// Notes in the source's journal, which stays, until when its disks are kept. Nothing where it is gone, which is removed last:
/// another process has ended this move, and kept them for their time.
async fn keep_disks(
    journal: &Journal,
    source: &Place,
    until: Timestamp,
) -> Result<Option<Journal>, Cause> {
    let kept = Journal {
        kept_until: Some(until.to_string()),
        ..journal.clone()
    };
    let hypervisor = &source.hypervisor;
    match hypervisor
        .rewrite_journal(&kept.source.pool, kept.id, &kept.text())
        .await
    {
        Ok(()) => Ok(Some(kept)),
        Err(error) if error.fault == Fault::NotFound => Ok(None),
        Err(error) => Err(failure(&source.host, "writing the journal", &error)),
    }
}

/// Whether both ends show that the guest is at the target and nowhere else. It may have stopped there since it arrived.
pub(super) fn is_finished(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Moved
            | Verdict::StoppedAtTarget {
                defined: false,
                orderly: true
            }
    )
}

/// The files at the source that are the guest's alone.
fn own_files(journal: &Journal) -> Vec<&str> {
    let disks = journal.disks.iter().map(|disk| disk.source_path.as_str());
    let files = journal.files.iter().filter(|file| leaves(file));
    let mut own: Vec<&str> = disks.chain(files.map(JournalFile::source)).collect();
    own.sort_unstable();
    own.dedup();
    own
}

/// Whether a file leaves the source with the guest. One that the target had may be the very same, on storage that both
/// see: only what we brought there is removed here.
pub(super) fn leaves(file: &JournalFile) -> bool {
    file.own && file.origin != FileOrigin::Found
}

/// Closes what a dead process left open. Where that fails, the next move that ends there does it.
async fn close_pools(place: &Place) {
    if let Err(error) = place.hypervisor.close_pools().await {
        tracing::debug!(host = %place.host, %error, "pools that were opened for a while stay open");
    }
}

fn executes(seen: Seen) -> bool {
    matches!(seen, Seen::Present(copy) if matches!(copy.activity, Activity::Running | Activity::Suspended))
}

/// Why a guest could not be changed on a host. libvirt may hold it for a call of its own that never returns (met with 9.0:
/// a migration whose connection to the other libvirtd broke), and answers all that only looks.
async fn unchanged(place: &Place, journal: &Journal, doing: &str, error: &PortError) -> Cause {
    let held = matches!(error.fault, Fault::TimedOut | Fault::Busy)
        && matches!(place.hypervisor.glance(journal.guest).await, Ok(Some(glance)) if !glance.job);
    if !held {
        return failure(&place.host, doing, error);
    }
    let (host, domain) = (&place.host, &journal.domain);
    Cause::new(
        Reason::JobActive,
        format!("{doing} on {host} failed: {error}: libvirt there holds {domain} for a job that it does not show"),
    )
    .hint(format!(
        "if that stays so, restart libvirtd on {host}: guests run on, and this goes on by itself"
    ))
}

fn ignore_missing(result: PortResult<()>) -> PortResult<()> {
    match result {
        Err(error) if error.fault == Fault::NotFound => Ok(()),
        other => other,
    }
}
