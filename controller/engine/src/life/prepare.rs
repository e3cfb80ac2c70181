//! Preparing: fresh looks, checks, journals, volumes, mark and autostart; everything that comes before the copy.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    quantity::Bytes,
    reason::{Cause, Reason},
};
use futures::future::join_all;

use super::{Attempt, Outcome, Stop, clean::TakenBack, failure};
use crate::{
    evidence::Verdict,
    journal::{End, Journal, JournalDisk, VERSION},
    port::{Activity, DiskDevice, DomainFacts, Fault, MigrateRequest, NewVolume, PoolFacts},
};

/// A move that is ready to copy.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) request: MigrateRequest,
}

impl Attempt {
    pub(super) async fn prepare(&mut self) -> Result<Prepared, Stop> {
        let (source, target) = (self.order.source.clone(), self.order.target.clone());
        let guest = self.order.guest;
        let (here, there, pools) = tokio::join!(
            source.hypervisor.look(guest),
            target.hypervisor.look(guest),
            target.hypervisor.pools(),
        );
        let facts = here
            .map_err(|error| failure(&source.host, "looking at the guest", &error))?
            .ok_or_else(|| {
                Cause::new(
                    Reason::GuestNotFound,
                    format!("the guest is not on {} any more", source.host),
                )
            })?;
        if there
            .map_err(|error| failure(&target.host, "looking for the guest", &error))?
            .is_some()
        {
            return Err(Cause::new(
                Reason::DomainDefinedAtTarget,
                format!("{} has a domain of the UUID {guest} already", target.host),
            )
            .into());
        }
        let pools = pools.map_err(|error| failure(&target.host, "reading the pools", &error))?;
        self.memory = Some(facts.memory);
        self.check_guest(&facts)?;
        let disks = self.place(&facts, &pools)?;
        self.check_files(&facts, &disks).await?;
        self.stop_if_aborted()?;

        let id = self.order.id;
        let journal = Journal {
            version: VERSION,
            id,
            fleet: self.order.fleet.clone(),
            migration: self.order.migration.to_string(),
            migration_uid: self.order.migration_uid.clone(),
            requested_by: self.order.requested_by.clone(),
            attempt: self.order.attempt,
            guest,
            domain: facts.name.clone(),
            source: End {
                host: source.host.clone(),
                uuid: source.uuid,
                pool: self.source_pool(&facts).await?,
            },
            target: End {
                host: target.host.clone(),
                uuid: target.uuid,
                pool: journal_pool(&disks, &pools).ok_or_else(|| no_pool(&target.host))?,
            },
            disks,
            autostart: facts.autostart,
            running: facts.activity != Activity::Paused,
            start_time: self.order.start_time.clone(),
            ran_twice: false,
            encrypted: Some(self.order.encrypted),
        };
        self.journal = Some(journal.clone());
        let text = journal.text();
        let (at_target, at_source) = tokio::join!(
            target
                .hypervisor
                .create_journal(&journal.target.pool, id, &text),
            source
                .hypervisor
                .create_journal(&journal.source.pool, id, &text),
        );
        at_target.map_err(|error| failure(&target.host, "writing the journal", &error))?;
        at_source.map_err(|error| failure(&source.host, "writing the journal", &error))?;
        self.stop_if_aborted()?;
        self.create(journal).await?;
        self.stop_if_aborted()?;
        self.request(&facts)
    }

    fn stop_if_aborted(&self) -> Result<(), Stop> {
        if self.aborted() {
            Err(Stop::Aborted)
        } else {
            Ok(())
        }
    }

    fn check_guest(&self, facts: &DomainFacts) -> Result<(), Cause> {
        let name = &facts.name;
        if !facts.activity.active() {
            return Err(Cause::new(
                Reason::GuestNotRunning,
                format!("{name} is not running"),
            ));
        }
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

    /// Where each disk that travels goes at the target.
    fn place(&self, facts: &DomainFacts, pools: &[PoolFacts]) -> Result<Vec<JournalDisk>, Cause> {
        let host = &self.order.target.host;
        let mut taken = BTreeSet::new();
        let mut needed: BTreeMap<&str, u64> = BTreeMap::new();
        let mut disks = Vec::new();
        for disk in facts.disks.iter().filter(|disk| disk.is_copied()) {
            let source_path = disk.path.clone().unwrap_or_default();
            let name = self.order.pools.get(&disk.target).or(disk.pool.as_ref());
            let pool = name
                .and_then(|name| pools.iter().find(|pool| &pool.name == name && pool.active))
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
            let file = disk.volume.clone().unwrap_or_else(|| {
                source_path
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            });
            // Two disks of one name from two pools may meet in one.
            let volume = if taken.insert((pool.name.clone(), file.clone())) {
                file
            } else {
                format!("{}-{file}", disk.target)
            };
            *needed.entry(&pool.name).or_default() += disk.virtual_size.0;
            disks.push(JournalDisk {
                target: disk.target.clone(),
                source_path,
                pool: pool.name.clone(),
                target_path: format!("{}/{volume}", pool.path.trim_end_matches('/')),
                volume,
                format: disk.format.clone(),
                virtual_size: disk.virtual_size,
                created: false,
            });
        }
        for (name, bytes) in needed {
            let available = pools
                .iter()
                .find(|pool| pool.name == name)
                .map_or(0, |pool| pool.available.0);
            if available < bytes {
                return Err(Cause::new(
                    Reason::InsufficientDisk,
                    format!(
                        "pool {name} of {host} has {} left and {} may need {}",
                        Bytes(available).human(),
                        facts.name,
                        Bytes(bytes).human()
                    ),
                ));
            }
        }
        Ok(disks)
    }

    /// Nothing may stand where a disk goes; what the guest reads and does not carry must be there.
    async fn check_files(&self, facts: &DomainFacts, disks: &[JournalDisk]) -> Result<(), Cause> {
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
            if let Some(file) = found {
                let users = target
                    .hypervisor
                    .references(None)
                    .await
                    .ok()
                    .and_then(|mut all| all.remove(&disk.target_path));
                let used = users.map_or_else(
                    || "no domain there uses it".to_owned(),
                    |users| format!("used there by {}", users.join(", ")),
                );
                return Err(Cause::new(
                    Reason::PathClash,
                    format!(
                        "{} exists on {} ({} allocated, {used}), where disk {} of {} would go",
                        disk.target_path,
                        target.host,
                        file.allocated.human(),
                        disk.target,
                        facts.name
                    ),
                ));
            }
        }
        let media = facts
            .disks
            .iter()
            .filter(|disk| !disk.is_copied() && (disk.readonly || disk.device != DiskDevice::Disk))
            .filter_map(|disk| disk.path.as_ref());
        let needed = facts
            .files
            .iter()
            .filter(|file| file.needed)
            .map(|file| &file.path);
        let paths: Vec<&String> = media.chain(needed).collect();
        let found = join_all(paths.iter().map(|path| target.hypervisor.volume(path))).await;
        for (path, found) in paths.into_iter().zip(found) {
            // A path outside all pools can't be looked at: then the target's QEMU will say so.
            if matches!(found, Ok(None)) {
                return Err(Cause::new(
                    Reason::FileMissing,
                    format!(
                        "{} has no file {path}, which {} needs",
                        target.host, facts.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Where the source's journal goes: next to the guest's first disk, else into any pool.
    async fn source_pool(&self, facts: &DomainFacts) -> Result<String, Cause> {
        let own = facts
            .disks
            .iter()
            .filter(|disk| disk.is_copied())
            .find_map(|disk| disk.pool.clone());
        if let Some(pool) = own {
            return Ok(pool);
        }
        let source = &self.order.source;
        let pools = source
            .hypervisor
            .pools()
            .await
            .map_err(|error| failure(&source.host, "reading the pools", &error))?;
        journal_pool(&[], &pools).ok_or_else(|| no_pool(&source.host))
    }

    /// Makes the volumes, notes that we did, marks the guest and turns its autostart off.
    async fn create(&mut self, mut journal: Journal) -> Result<(), Stop> {
        let (source, target) = (self.order.source.clone(), self.order.target.clone());
        let volumes: Vec<NewVolume> = journal
            .disks
            .iter()
            .map(|disk| NewVolume {
                pool: disk.pool.clone(),
                name: disk.volume.clone(),
                format: disk.format.clone(),
                capacity: disk.virtual_size,
            })
            .collect();
        let mark = self.mark(journal.id);
        let make = join_all(
            volumes
                .iter()
                .map(|volume| target.hypervisor.create_volume(volume)),
        );
        let dress = async {
            source
                .hypervisor
                .set_mark(journal.guest, Some(&mark))
                .await?;
            if journal.autostart {
                source
                    .hypervisor
                    .set_autostart(journal.guest, false)
                    .await?;
            }
            Ok(())
        };
        let (made, dressed) = tokio::join!(make, dress);
        let mut failed = None;
        let mut others = BTreeSet::new();
        for (disk, made) in journal.disks.iter_mut().zip(made) {
            match made {
                Ok(path) => {
                    disk.target_path = path;
                    disk.created = true;
                }
                Err(error) if error.fault == Fault::Exists => {
                    // Not ours, so it must not be named as such when the move is taken back.
                    others.insert(disk.target.clone());
                    failed.get_or_insert(Cause::new(
                        Reason::PathClash,
                        format!("{} appeared on {} just now", disk.target_path, target.host),
                    ));
                }
                Err(error) => {
                    failed.get_or_insert(failure(&target.host, "making the disk", &error));
                }
            }
        }
        journal.disks.retain(|disk| !others.contains(&disk.target));
        let text = journal.text();
        let noted = target
            .hypervisor
            .rewrite_journal(&journal.target.pool, journal.id, &text)
            .await;
        let host = target.host.clone();
        self.journal = Some(journal);
        if let Some(cause) = failed {
            return Err(cause.into());
        }
        dressed.map_err(|error| failure(&source.host, "marking the guest", &error))?;
        noted.map_err(|error| failure(&host, "writing the journal", &error))?;
        Ok(())
    }

    fn request(&self, facts: &DomainFacts) -> Result<Prepared, Stop> {
        let Some(journal) = &self.journal else {
            return Err(Cause::new(Reason::HypervisorError, "the journal is missing").into());
        };
        Ok(Prepared {
            request: MigrateRequest {
                domain: facts.uuid,
                target_uri: self.order.target_uri.clone(),
                target_address: self.order.target_address.clone(),
                encrypted: self.order.encrypted,
                disks: journal
                    .disks
                    .iter()
                    .map(|disk| (disk.target.clone(), disk.target_path.clone()))
                    .collect(),
                mark: self.mark(journal.id),
                bandwidth: self.order.manner.bandwidth,
                downtime: self.order.manner.downtime,
                auto_converge: self.order.manner.auto_converge,
            },
        })
    }

    /// Ends an attempt that never began to copy: what was made is taken back.
    pub(super) async fn give_up(mut self, stop: Stop) -> Outcome {
        if self.journal.is_some() {
            // Nothing was started, so both ends must show just that before anything is removed.
            loop {
                match self.look().await.verdict {
                    Verdict::Stayed
                    | Verdict::StayedTargetSilent
                    | Verdict::StoppedAtSource
                    | Verdict::CrashedAtSource => match self.take_back().await {
                        TakenBack::Done => break,
                        TakenBack::ByAnother(outcome) => return outcome,
                        TakenBack::Changed => {}
                    },
                    _ => {
                        self.wait_for(Cause::new(
                            Reason::OutcomeUnknown,
                            "the move was not started; what it prepared is removed as soon as both ends answer",
                        ));
                        tokio::time::sleep(super::LOOK_AGAIN).await;
                    }
                }
            }
        }
        match stop {
            Stop::Failed(cause) => Outcome::Failed { cause, tried: true },
            Stop::Aborted => Outcome::Aborted,
        }
    }
}

fn journal_pool(disks: &[JournalDisk], pools: &[PoolFacts]) -> Option<String> {
    disks.first().map(|disk| disk.pool.clone()).or_else(|| {
        pools
            .iter()
            .find(|pool| pool.active && matches!(pool.kind.as_str(), "dir" | "fs" | "netfs"))
            .map(|pool| pool.name.clone())
    })
}

fn no_pool(host: &evenkeel_crds::names::HostName) -> Cause {
    Cause::new(
        Reason::PoolMissing,
        format!("{host} has no active pool of files, where a move keeps its journal"),
    )
}
