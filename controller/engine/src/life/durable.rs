//! The last proof in Verifying: what was copied is on stable storage at the target. Until then the source's files stay.
//!
//! libvirt's copy flushes a disk once, where it has caught up. What the guest writes from then until it is switched over
//! lies in the memory of the target's kernel, also what it had flushed at the source. The first flush by the target's QEMU
//! puts the whole file on stable storage, and QEMU counts its guest's. For a guest that asks for none QEMU flushes when it
//! is paused, so we do that, for a moment.

use std::time::Duration;

use evenkeel_crds::{
    reason::{Cause, Reason},
    shared::{Timestamp, whole_seconds},
};
use tokio::time::Instant;

use super::{
    Attempt, LOOK_AGAIN,
    clean::{is_finished, leaves},
    watch::CALM,
};
use crate::{
    evidence::{Seen, Verdict},
    journal::Journal,
    mutation::{Rule, broken},
    port::{Activity, Fault, Why},
};

/// How long a guest that has arrived is given to flush by itself.
const BY_ITSELF: Duration = Duration::from_secs(1);
/// Linux begins to write what has been in memory for 30 s, and looks for it every 5 s.
const WRITTEN: Duration = Duration::from_secs(40);

impl Attempt {
    /// Waits until what was copied is on stable storage at the target. False where both ends no longer show a finished move,
    /// so that they have to be looked at again.
    pub(super) async fn prove_durable(&mut self) -> bool {
        let since = Instant::now();
        let Some(journal) = self.journal.clone() else {
            return false;
        };
        if broken(Rule::Durable) || journal.ran_twice {
            return true;
        }
        if journal.halted && !self.is_let_go().await {
            return false;
        }
        // libvirt's streams leave it to the kernel when to write.
        if let Some(file) = journal.files.iter().find(|file| leaves(file)) {
            let what = format!("{} was brought as a file", file.path);
            return self.let_kernel_write(since, &what).await;
        }
        // A guest that was paused before has written nothing since the copy was flushed.
        if self.durable || journal.disks.is_empty() || !journal.running {
            return true;
        }
        match self.target {
            // Its QEMU wrote everything to the end.
            Seen::Present(copy) if !copy.activity.active() => return true,
            // Another QEMU's flushes say nothing of what the one before left to the kernel.
            Seen::Present(copy) if !matches!(copy.why, Why::Migrated | Why::Unpaused) => {
                let what = "its QEMU is not the one that it came to";
                return self.let_kernel_write(since, what).await;
            }
            _ => {}
        }
        let arrived = self.still_since.unwrap_or(since);
        loop {
            if self.has_flushed(&journal).await {
                return true;
            }
            if arrived.elapsed() >= BY_ITSELF {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN / 2).await;
        }
        match self.halt().await {
            Some(finished) => finished,
            None => {
                let what = "its QEMU can't be seen to have flushed its disks";
                self.let_kernel_write(since, what).await
            }
        }
    }

    /// Whether the guest has flushed every disk that was copied since it runs at the target.
    async fn has_flushed(&self, journal: &Journal) -> bool {
        let target = &self.order.target.hypervisor;
        match target.flushes(journal.guest).await {
            Ok(flushes) => journal
                .disks
                .iter()
                .all(|disk| flushes.get(&disk.target).is_some_and(|count| *count > 0)),
            Err(error) => {
                tracing::debug!(migration = %self.order.migration, %error, "flushes");
                false
            }
        }
    }

    /// Waits for as long as the target's kernel may take to write, seeing all the while that nothing came in between. Says
    /// so, once: until when, and `what` makes it wait.
    async fn let_kernel_write(&mut self, since: Instant, what: &str) -> bool {
        let left = WRITTEN.saturating_sub(since.elapsed());
        let until = self.lines.clock.now().checked_add(left);
        let until = whole_seconds(until.unwrap_or(Timestamp::MAX));
        let (source, target) = (&self.order.source.host, &self.order.target.host);
        self.wait_for(Cause::new(
            Reason::DisksUnwritten,
            format!(
                "{what}: {target}'s kernel is given {} s to write what it has in memory, until {until}; {source} keeps its \
                 files so long",
                WRITTEN.as_secs()
            ),
        ));
        while since.elapsed() < WRITTEN {
            tokio::time::sleep(LOOK_AGAIN * 4).await;
            if !is_finished(self.look().await.verdict) {
                return false;
            }
        }
        self.go_on();
        true
    }

    /// Has QEMU flush all disks, by pausing the guest for a moment. Whether both ends still show a finished move; nothing
    /// where it can't be done.
    async fn halt(&mut self) -> Option<bool> {
        self.calm = None;
        // Whoever takes over from here on lets it go on.
        match self.note_halted(true).await {
            Note::Written => {}
            // Nobody could: it is not paused.
            Note::Gone => return None,
            Note::Unwritten => return Some(false),
        }
        if !self.may_act(Verdict::Moved, false).await {
            // Where a person paused it just now, it stays so.
            self.note_halted(false).await;
            return Some(false);
        }
        let runs = matches!(self.target, Seen::Present(copy) if copy.activity == Activity::Running);
        if !runs {
            self.note_halted(false).await;
            return None;
        }
        let target = self.order.target.hypervisor.clone();
        let begun = Instant::now();
        if let Err(error) = target.suspend(self.order.guest).await {
            tracing::warn!(migration = %self.order.migration, %error, "pausing it so that its disks are written");
            // It may be paused yet: then the note leads to that.
            if error.outcome_unknown() || !self.is_unnoted().await {
                return Some(false);
            }
            return None;
        }
        self.durable = true;
        if let Err(error) = target.resume(self.order.guest).await {
            self.note("resume", Err(error));
            return Some(false);
        }
        tracing::debug!(migration = %self.order.migration, stood_still = ?begun.elapsed(), "its disks are written");
        Some(self.is_unnoted().await)
    }

    /// A guest that the note says we pause runs. A call that pauses it may still be on its way, so the note goes only once
    /// that has been so for a while.
    async fn is_let_go(&mut self) -> bool {
        let since = *self.calm.get_or_insert_with(Instant::now);
        if since.elapsed() < CALM {
            tokio::time::sleep(LOOK_AGAIN).await;
            return false;
        }
        self.is_unnoted().await
    }

    /// Whether no journal says any more that we pause the guest.
    async fn is_unnoted(&mut self) -> bool {
        self.note_halted(false).await != Note::Unwritten
    }

    /// Notes at the target that we pause the guest there, or no more.
    pub(super) async fn note_halted(&mut self, halted: bool) -> Note {
        let Some(journal) = &mut self.journal else {
            return Note::Unwritten;
        };
        let noted = Journal {
            halted,
            ..journal.clone()
        };
        let target = &self.order.target.hypervisor;
        let written = target
            .rewrite_journal(&noted.target.pool, noted.id, &noted.text())
            .await;
        match written {
            Ok(()) => {
                *journal = noted;
                Note::Written
            }
            Err(error) if error.fault == Fault::NotFound => {
                tracing::info!(migration = %self.order.migration, %error, "another has ended the move");
                journal.halted = false;
                Note::Gone
            }
            Err(error) => {
                tracing::warn!(migration = %self.order.migration, %error, "writing the journal");
                Note::Unwritten
            }
        }
    }
}

/// What became of a note in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Written,
    /// There is no journal: another process has ended the move meanwhile.
    Gone,
    Unwritten,
}
