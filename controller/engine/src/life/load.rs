//! What travels with a guest: of one that runs, files besides its disks and maybe their bases; of a stopped one, everything.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    quantity::Bytes,
    reason::{Cause, Reason},
};

use super::{Attempt, Report, Stop, failure, luggage::DISK};
use crate::{
    journal::{FileOrigin, JournalDisk, JournalFile},
    port::{DomainFacts, PoolFacts},
};

impl Attempt {
    /// Everything besides the disks that is to be at the target, bases too where they are brought: then the disks are
    /// told what lies below them.
    pub(super) async fn load(
        &mut self,
        facts: &DomainFacts,
        disks: &mut [JournalDisk],
        pools: &[PoolFacts],
    ) -> Result<Vec<JournalFile>, Stop> {
        let mut files = self.survey(facts).await?;
        let chains = self.survey_chains(facts, disks).await?;
        self.check_room(facts, disks, &files, pools)?;
        // Where there is no room for the bases beside the disks, there is for the disks alone.
        let chains = chains.filter(|chains| {
            let all = [files.as_slice(), &chains.files].concat();
            self.check_room(facts, disks, &all, pools).is_ok()
        });
        let layered = chains.is_some();
        if let Some(chains) = chains {
            for disk in disks {
                disk.backing = chains.below.get(&disk.target).cloned();
            }
            // A base may be a medium too.
            let known: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
            let new = chains.files.into_iter();
            files.extend(new.filter(|file| !known.contains(&file.path)));
        }
        let copied = facts.disks.iter().filter(|disk| disk.is_copied());
        self.expected = copied
            .map(|disk| match layered {
                true => disk.allocated.0,
                false => disk.chain_allocated().0,
            })
            .chain(files_to_bring(&files).map(|file| file.length.0))
            .chain([facts.memory.0])
            .fold(0, u64::saturating_add);
        self.report(Report::Brings(brings(&files, pools)));
        Ok(files)
    }

    /// The same for a guest that is not running: its disks are files among others, over the bases that they have.
    pub(super) async fn load_cold(
        &mut self,
        facts: &DomainFacts,
        disks: &[JournalDisk],
        pools: &[PoolFacts],
    ) -> Result<Vec<JournalFile>, Stop> {
        let mut files = self.survey(facts).await?;
        for base in self.survey_whole_chains(facts, disks).await? {
            if files.iter().all(|file| file.path != base.path) {
                files.push(base);
            }
        }
        self.check_room(facts, disks, &files, pools)?;
        self.report(Report::Brings(brings(&files, pools)));
        let source = &self.order.source;
        for disk in disks {
            let path = &disk.source_path;
            let state = source
                .hypervisor
                .file(path)
                .await
                .map_err(|error| failure(&source.host, &format!("looking at {path}"), &error))?
                .ok_or_else(|| {
                    Cause::new(
                        Reason::FileMissing,
                        format!(
                            "{} has no file {path}, a disk of {}",
                            source.host, facts.name
                        ),
                    )
                })?;
            files.push(JournalFile {
                role: DISK.to_owned(),
                path: disk.target_path.clone(),
                source_path: Some(path.clone()).filter(|path| *path != disk.target_path),
                length: state.length,
                origin: FileOrigin::Planned,
                own: true,
            });
        }
        self.expected = files_to_bring(&files)
            .map(|file| file.length.0)
            .fold(0, u64::saturating_add);
        Ok(files)
    }
}

/// Those that are not at the target yet.
pub(super) fn files_to_bring(files: &[JournalFile]) -> impl Iterator<Item = &JournalFile> {
    files
        .iter()
        .filter(|file| file.origin == FileOrigin::Planned)
}

/// What is brought into each pool, besides disks.
fn brings(files: &[JournalFile], pools: &[PoolFacts]) -> BTreeMap<String, Bytes> {
    let mut brings = BTreeMap::<String, Bytes>::new();
    for file in files_to_bring(files) {
        if let Some(pool) = pools.iter().find(|pool| pool.is_above(&file.path)) {
            brings.entry(pool.name.clone()).or_default().0 += file.length.0;
        }
    }
    brings
}
