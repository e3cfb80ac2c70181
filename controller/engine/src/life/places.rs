//! Where disks and journals go.

use std::collections::BTreeSet;

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
};

use super::{Attempt, failure, sharing};
use crate::{
    capacity::taken_by,
    journal::JournalDisk,
    port::{DomainFacts, PoolFacts, is_directory},
};

impl Attempt {
    /// Where each disk that travels goes at the target.
    pub(super) fn place(
        &self,
        facts: &DomainFacts,
        pools: &[PoolFacts],
    ) -> Result<Vec<JournalDisk>, Cause> {
        let host = &self.order.target.host;
        let mut taken = BTreeSet::new();
        let mut disks = Vec::new();
        for disk in facts.disks.iter().filter(|disk| disk.is_copied()) {
            let source_path = disk.path.clone().unwrap_or_default();
            let name = self.order.pools.get(&disk.target).or(disk.pool.as_ref());
            let named =
                name.and_then(|name| pools.iter().find(|pool| &pool.name == name && pool.active));
            let outside = name.filter(|name| is_directory(name));
            let pool = named
                .or_else(|| outside.and_then(|directory| taken_by(pools, directory)))
                .ok_or_else(|| {
                    Cause::new(
                        Reason::PoolMissing,
                        format!(
                            "{host} has no active pool {} for disk {} of {}",
                            name.map_or("", String::as_str),
                            disk.target,
                            facts.name
                        ),
                    )
                })?;
            let outside = disk.pool.as_deref().is_some_and(is_directory);
            let own = source_path.rsplit('/').next().unwrap_or_default();
            let file = if outside && !pool.is_directory() && pool.is_above(&source_path) {
                // It keeps its path.
                &source_path[pool.path.trim_end_matches('/').len() + 1..]
            } else if pool.is_directory() {
                own
            } else {
                disk.volume.as_deref().unwrap_or(own)
            };
            let file = file.to_owned();
            // Two disks of one name from two pools may meet in one.
            let volume = if taken.insert((pool.name.clone(), file.clone())) {
                file
            } else {
                match file.rsplit_once('/') {
                    Some((directory, name)) => format!("{directory}/{}-{name}", disk.target),
                    None => format!("{}-{file}", disk.target),
                }
            };
            disks.push(JournalDisk {
                target: disk.target.clone(),
                source_path,
                pool: pool.name.clone(),
                target_path: format!("{}/{volume}", pool.path.trim_end_matches('/')),
                new_directory: None,
                volume,
                format: disk.format.clone(),
                virtual_size: disk.virtual_size,
                backing: None,
                secret: disk.secret,
                created: false,
            });
        }
        Ok(disks)
    }

    /// Notes the directories that are to be made for disks below a pool's own.
    pub(super) async fn find_missing(&self, disks: &mut [JournalDisk]) -> Result<(), Cause> {
        let target = &self.order.target;
        for disk in disks.iter_mut().filter(|disk| disk.volume.contains('/')) {
            let missing = target.hypervisor.missing_directory(&disk.target_path).await;
            disk.new_directory = missing
                .map_err(|error| failure(&target.host, "looking for a disk's directory", &error))?;
        }
        Ok(())
    }

    /// Where the source's journal goes: next to the guest's first disk, else into any pool.
    pub(super) async fn source_pool(&self, facts: &DomainFacts) -> Result<String, Cause> {
        let own = facts
            .disks
            .iter()
            .filter(|disk| disk.is_copied())
            .filter_map(|disk| disk.pool.clone())
            .find(|pool| !is_directory(pool));
        if let Some(pool) = own {
            return Ok(pool);
        }
        let source = &self.order.source;
        let pools = source
            .hypervisor
            .pools()
            .await
            .map_err(|error| failure(&source.host, "reading the pools", &error))?;
        journal_pool(&[], &pools, &sharing::directories(facts)).ok_or_else(|| no_pool(&source.host))
    }
}

/// Beside the disks, else in any pool of files that the other end does not see too: each end has a journal of its own.
pub(super) fn journal_pool(
    disks: &[JournalDisk],
    pools: &[PoolFacts],
    shared: &BTreeSet<String>,
) -> Option<String> {
    let own = |pool: &&PoolFacts| {
        pool.active
            && !pool.is_directory()
            && matches!(pool.kind.as_str(), "dir" | "fs")
            && !shared.contains(pool.path.trim_end_matches('/'))
    };
    let mut beside = disks.iter().map(|disk| &disk.pool);
    let beside = beside.find(|pool| !is_directory(pool)).cloned();
    beside.or_else(|| pools.iter().find(own).map(|pool| pool.name.clone()))
}

pub(super) fn no_pool(host: &HostName) -> Cause {
    Cause::new(
        Reason::PoolMissing,
        format!("{host} has no active pool of files of its own, where a move keeps its journal"),
    )
}
