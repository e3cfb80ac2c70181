//! Disks on storage that both ends see: they are left where they are. What makes that true is proven before each move,
//! for a guest that starts over another file than its own is lost: a file made in the directory at the source has to
//! show up at the target.
//!
//! That file is an empty journal of a move that never was: where this process dies, the next one sweeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    kinds::migration::MigrationMode,
    reason::{Cause, Reason},
};

use super::{Attempt, failure};
use crate::{
    journal::SharedDisk,
    port::{DiskFacts, DomainFacts, Fault, PoolFacts, is_directory},
};

/// How often the target is asked for what was made at the source: network file systems may take a moment.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Disks that are left in place, each with its file.
pub(super) fn left_in_place(facts: &DomainFacts) -> Vec<SharedDisk> {
    let staying = facts.disks.iter().filter(|disk| disk.stays());
    staying
        .filter_map(|disk| {
            Some(SharedDisk {
                target: disk.target.clone(),
                path: disk.path.clone()?,
            })
        })
        .collect()
}

/// Directories that hold those.
pub(super) fn directories(facts: &DomainFacts) -> BTreeSet<String> {
    let staying = facts.disks.iter().filter(|disk| disk.stays());
    let found = staying.filter_map(DiskFacts::directory);
    found.map(str::to_owned).collect()
}

/// Whether the mode asked for can be had with these disks.
fn check_mode(mode: MigrationMode, facts: &DomainFacts) -> Result<(), Cause> {
    let name = &facts.name;
    let refused = match mode {
        MigrationMode::Auto => None,
        MigrationMode::Block => facts.disks.iter().find(|disk| disk.shared && !disk.readonly).map(|disk| {
            Cause::new(
                Reason::DiskShared,
                format!(
                    "disk {} of {name} is on storage that both hosts see: it is not copied onto itself, as `mode: Block` asks for",
                    disk.target
                ),
            )
        }),
        MigrationMode::Shared => facts.disks.iter().find(|disk| disk.is_copied()).map(|disk| {
            Cause::new(
                Reason::DiskNotShared,
                format!(
                    "disk {} of {name}, the file {}, is not on storage that both hosts see, as `mode: Shared` asks for",
                    disk.target,
                    disk.path.as_deref().unwrap_or_default()
                ),
            )
        }),
    };
    refused.map_or(Ok(()), Err)
}

/// The target's pool in that directory.
fn pool_in<'p>(pools: &'p [PoolFacts], directory: &str) -> Option<&'p PoolFacts> {
    let same = |pool: &&PoolFacts| pool.path.trim_end_matches('/') == directory;
    let mut pools = pools
        .iter()
        .filter(|pool| pool.active && !pool.is_directory());
    pools.find(same)
}

impl Attempt {
    /// Finds out which disks both ends see and proves it. A disk in a plain directory counts as shared where it is found
    /// to be; one on network storage has to be.
    pub(super) async fn settle_shared(
        &self,
        facts: &mut DomainFacts,
        pools: &[PoolFacts],
    ) -> Result<(), Cause> {
        let mut known = BTreeMap::new();
        for at in 0..facts.disks.len() {
            let disk = facts.disks[at].clone();
            let (Some(pool), Some(directory)) = (&disk.pool, disk.directory()) else {
                continue;
            };
            // What is in no pool of its host is not known to be shared: it is copied, or found in its own way.
            if !disk.stays() && !disk.is_copied() || is_directory(pool) {
                continue;
            }
            let there = pool_in(pools, directory);
            if !disk.shared {
                self.check_other_path(facts, &disk, pools).await?;
                let path = disk.path.as_deref().unwrap_or_default();
                if there.is_none() || !self.is_at_target(path).await? {
                    continue;
                }
            }
            let Some(there) = there else {
                return Err(self.lacks(facts, &disk, pools));
            };
            let same = match known.get(directory) {
                Some(same) => *same,
                None => self.is_same(pool, &there.name).await?,
            };
            known.insert(directory.to_owned(), same);
            if !same && disk.shared {
                return Err(self.differs(facts, directory));
            }
            let moved = self.order.placed.contains(&disk.target)
                && self.order.pools.get(&disk.target) != Some(&there.name);
            if same && moved {
                return Err(Cause::new(
                    Reason::DiskShared,
                    format!(
                        "disk {} of {} is on storage that both hosts see: it stays there, and is not copied into another pool",
                        disk.target, facts.name
                    ),
                )
                .hint("leave the disk out of `spec.disks`"));
            }
            facts.disks[at].shared = same;
            if same {
                self.check_chain(facts, &facts.disks[at], &known).await?;
            }
        }
        check_mode(self.order.mode, facts)
    }

    /// A disk that would be copied into another directory, where a file of its name is: that may be itself. What is in
    /// its way then must not be called a leftover.
    async fn check_other_path(
        &self,
        facts: &DomainFacts,
        disk: &DiskFacts,
        pools: &[PoolFacts],
    ) -> Result<(), Cause> {
        let name = self.order.pools.get(&disk.target).or(disk.pool.as_ref());
        let placed = pools
            .iter()
            .find(|pool| pool.active && Some(&pool.name) == name);
        let (Some(placed), Some(here), Some(volume)) = (placed, &disk.pool, &disk.volume) else {
            return Ok(());
        };
        let directory = placed.path.trim_end_matches('/');
        if disk.directory() == Some(directory)
            || !self.is_at_target(&format!("{directory}/{volume}")).await?
            || !self.is_same(here, &placed.name).await?
        {
            return Ok(());
        }
        Err(Cause::new(
            Reason::SharedPathDiffers,
            format!(
                "disk {} of {} is in {directory} on {} too: the same file in another directory",
                disk.target, facts.name, self.order.target.host
            ),
        ))
    }

    /// Whether the target has a file at that path.
    async fn is_at_target(&self, path: &str) -> Result<bool, Cause> {
        let target = &self.order.target;
        match target.hypervisor.volume(path).await {
            Ok(found) => Ok(found.is_some()),
            Err(error) if error.fault == Fault::Unsupported => Ok(false),
            Err(error) => Err(failure(
                &target.host,
                &format!("looking for {path}"),
                &error,
            )),
        }
    }

    /// Whether two pools of both ends are one directory.
    async fn is_same(&self, here: &str, there: &str) -> Result<bool, Cause> {
        let (source, target) = (&self.order.source, &self.order.target);
        let id = self.lines.clock.id();
        source
            .hypervisor
            .create_journal(here, id, "")
            .await
            .map_err(|error| failure(&source.host, "making a file on shared storage", &error))?;
        let mut seen = Ok(false);
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let found = target.hypervisor.journals().await;
            seen = found.map(|all| all.iter().any(|own| own.id == id && own.pool == there));
            if !matches!(seen, Ok(false)) {
                break;
            }
        }
        source
            .hypervisor
            .remove_journal(here, id)
            .await
            .map_err(|error| failure(&source.host, "removing a file again", &error))?;
        seen.map_err(|error| failure(&target.host, "looking at shared storage", &error))
    }

    /// What lies below a disk that is left in place has to be there too.
    async fn check_chain(
        &self,
        facts: &DomainFacts,
        disk: &DiskFacts,
        known: &BTreeMap<String, bool>,
    ) -> Result<(), Cause> {
        for base in disk.backing.iter().map(|layer| &layer.path) {
            let directory = base.rsplit_once('/').map(|(directory, _)| directory);
            if directory.and_then(|directory| known.get(directory)) != Some(&true) {
                return Err(Cause::new(
                    Reason::DiskNotMovable,
                    format!(
                        "disk {} of {} is on shared storage, and {base} below it is not beside it",
                        disk.target, facts.name
                    ),
                )
                .hint("put the base image into the same shared directory (`qemu-img rebase`)"));
            }
        }
        Ok(())
    }

    fn lacks(&self, facts: &DomainFacts, disk: &DiskFacts, pools: &[PoolFacts]) -> Cause {
        let (host, name) = (&self.order.target.host, &facts.name);
        let directory = disk.directory().unwrap_or_default();
        let elsewhere = pools
            .iter()
            .find(|pool| pool.active && Some(&pool.name) == disk.pool.as_ref());
        match elsewhere {
            Some(pool) => Cause::new(
                Reason::SharedPathDiffers,
                format!(
                    "{host} has pool {} in {}; disk {} of {name} is in {directory}",
                    pool.name, pool.path, disk.target
                ),
            ),
            None => Cause::new(
                Reason::SharedStorageMissing,
                format!(
                    "{host} has no active storage pool in {directory}, the shared storage of disk {} of {name}",
                    disk.target
                ),
            ),
        }
    }

    fn differs(&self, facts: &DomainFacts, directory: &str) -> Cause {
        let (source, target) = (&self.order.source.host, &self.order.target.host);
        Cause::new(
            Reason::SharedStorageDiffers,
            format!(
                "{directory} on {target} is other storage than on {source}, where the disks of {} are: a file made there is not seen",
                facts.name
            ),
        )
    }
}
