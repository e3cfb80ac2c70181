//! What must hold before anything is made: of the guest, of its CPU, of the room at the target and of what stands there.

use evenkeel_crds::{
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::whole_seconds,
};
use futures::future::join_all;

use super::{Attempt, clean::readable_journals, failure, load::files_to_bring};
use crate::{
    journal::{Journal, JournalDisk, JournalFile},
    port::{CpuNeed, DomainFacts, PoolFacts},
};

impl Attempt {
    pub(super) fn check_guest(&self, facts: &DomainFacts) -> Result<(), Cause> {
        let name = &facts.name;
        if facts.job {
            return Err(Cause::new(
                Reason::JobActive,
                format!("libvirt has another job on {name}"),
            ));
        }
        if facts.block_job {
            return Err(Cause::new(
                Reason::BlockJobActive,
                format!("a block job runs on a disk of {name}"),
            ));
        }
        match facts.obstacles.first() {
            Some(obstacle) => Err(obstacle.clone()),
            None => Ok(()),
        }
    }

    /// Another's move of this guest may have begun after the journals were read: it is finished first. What it found of
    /// the guest (its autostart, the definition of a stopped one) is known to its journal alone, and the guest need not
    /// show anything of it yet.
    pub(super) async fn check_others(&self, facts: &DomainFacts) -> Result<(), Cause> {
        let source = &self.order.source;
        let other = readable_journals(source)
            .await?
            .iter()
            .filter_map(|entry| Journal::parse(&entry.text))
            .find(|journal| journal.guest == self.order.guest && journal.id != self.order.id);
        let Some(other) = other else {
            return Ok(());
        };
        self.lines.claims.suspect(&source.host);
        Err(Cause::new(
            Reason::JobActive,
            format!(
                "an earlier move of {} from {} to {} is to be finished first",
                facts.name, other.source.host, other.target.host
            ),
        ))
    }

    /// Whether a guest with a CPU of its own choice finds it at the target. Said only by a target whose word means
    /// something: the source, where the guest runs, has to be told that it fits there.
    pub(super) async fn check_cpu(&self, facts: &DomainFacts) -> Result<(), Cause> {
        if facts.cpu != CpuNeed::Model || !facts.activity.active() || !facts.persistent {
            return Ok(());
        }
        let (source, target) = (&self.order.source, &self.order.target);
        let definition = source.hypervisor.definition(facts.uuid).await;
        let definition =
            definition.map_err(|error| failure(&source.host, "reading the definition", &error))?;
        let (here, there) = tokio::join!(
            source.hypervisor.offers_cpu(&definition),
            target.hypervisor.offers_cpu(&definition),
        );
        match (here, there) {
            (Ok(Some(true)), Ok(Some(false))) => Err(Cause::new(
                Reason::IncompatibleCPU,
                format!(
                    "{} does not offer the CPU that {} asks for, {} does",
                    target.host, facts.name, source.host
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether each pool holds all disks at their full size, and the files that are brought into it.
    pub(super) fn check_room(
        &self,
        facts: &DomainFacts,
        disks: &[JournalDisk],
        files: &[JournalFile],
        pools: &[PoolFacts],
    ) -> Result<(), Cause> {
        for pool in pools {
            let of_disks = disks
                .iter()
                .filter(|disk| disk.pool == pool.name)
                .map(|disk| disk.virtual_size.0);
            let of_files = files_to_bring(files)
                .filter(|file| pool.is_above(&file.path))
                .map(|file| file.length.0);
            let bytes: u64 = of_disks.chain(of_files).sum();
            if pool.available.0 < bytes {
                return Err(Cause::new(
                    Reason::InsufficientDisk,
                    format!(
                        "pool {} of {} has {} left and {} may need {}",
                        pool.name,
                        self.order.target.host,
                        pool.available.human(),
                        facts.name,
                        Bytes(bytes).human()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Nothing may stand where a disk goes.
    pub(super) async fn check_clashes(
        &self,
        facts: &DomainFacts,
        disks: &[JournalDisk],
    ) -> Result<(), Cause> {
        let target = &self.order.target;
        let clashes = join_all(
            disks
                .iter()
                .map(|disk| target.hypervisor.volume(&disk.target_path)),
        )
        .await;
        for (disk, found) in disks.iter().zip(clashes) {
            let found = found
                .map_err(|error| failure(&target.host, "looking for files in the way", &error))?;
            if let Some(found) = found {
                let changed = target.hypervisor.file(&disk.target_path).await;
                let changed = changed.ok().flatten().and_then(|file| file.changed);
                let changed = changed.map_or_else(String::new, |when| {
                    format!("last changed {}, ", whole_seconds(when))
                });
                let users = target
                    .hypervisor
                    .references(None)
                    .await
                    .ok()
                    .and_then(|mut all| all.remove(&disk.target_path));
                let used = users.as_ref().map_or_else(
                    || "no domain there uses it".to_owned(),
                    |users| format!("used there by {}", users.join(", ")),
                );
                let cause = Cause::new(
                    Reason::PathClash,
                    format!(
                        "{} exists on {} ({} allocated, {changed}{used}), where disk {} of {} would go",
                        disk.target_path,
                        target.host,
                        found.allocated.human(),
                        disk.target,
                        facts.name
                    ),
                );
                return Err(match users {
                    Some(_) => cause,
                    None => cause.hint(format!(
                        "if nobody needs it, remove it there: `virsh vol-delete --pool {} {}`",
                        quoted(&disk.pool),
                        quoted(&disk.volume)
                    )),
                });
            }
        }
        Ok(())
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+/@:".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
