//! Preparing: fresh looks, checks, journals, volumes, mark and autostart; everything that comes before the copy.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::whole_seconds,
};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    Attempt, Outcome, Report, Stop,
    clean::{TakenBack, readable_journals},
    course, failure,
    luggage::DISK,
    sharing,
};
use crate::{
    capacity::taken_by,
    evidence::{Arrival, Verdict},
    journal::{End, FileOrigin, Journal, JournalDisk, JournalFile, VERSION},
    port::{
        Activity, CpuNeed, DomainFacts, Fault, MigrateRequest, NewVolume, PoolFacts, PortResult,
        is_directory,
    },
};

/// How long the answer of a measurement of one second is waited for.
const MEASURED_WITHIN: Duration = Duration::from_secs(3);

/// A move that is ready to copy.
#[derive(Debug)]
pub(super) enum Prepared {
    /// Of a running guest: libvirt's own migration.
    Live(Box<MigrateRequest>),
    /// Of a stopped one: by files.
    Cold,
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
        let mut facts = here
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
        self.check_others(&facts).await?;
        self.check_cpu(&facts).await?;
        self.settle_shared(&mut facts, &pools).await?;
        self.check_named(&facts, &pools)?;
        let shared = sharing::directories(&facts);
        let in_place = sharing::left_in_place(&facts);
        if !in_place.is_empty() && self.order.profile.spec.guard() {
            self.report(Report::Profile(self.order.profile.clone()));
        }
        let mut disks = self.place(&facts, &pools)?;
        self.check_clashes(&facts, &disks).await?;
        self.find_missing(&mut disks).await?;
        let secrets = self.survey_secrets(&facts).await?;
        let predicts = self.begin_prediction(&facts).await;
        let mut definition = None;
        let files = if facts.activity.active() {
            self.load(&facts, &mut disks, &pools).await?
        } else {
            let read = source.hypervisor.definition(guest).await;
            let read =
                read.map_err(|error| failure(&source.host, "reading the definition", &error))?;
            definition = Some(read);
            self.load_cold(&facts, &disks, &pools).await?
        };
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
                pool: journal_pool(&disks, &pools, &shared).ok_or_else(|| no_pool(&target.host))?,
            },
            onward: self.order.onward.clone(),
            disks,
            shared: in_place,
            files,
            secrets,
            definition,
            autostart: facts.autostart,
            running: facts.activity != Activity::Paused,
            start_time: self.order.start_time.clone(),
            ran_twice: false,
            halted: false,
            kept_until: None,
            profile: self.order.profile.clone(),
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
        if journal.definition.is_some() {
            self.dress(&journal)
                .await
                .map_err(|error| failure(&source.host, "marking the guest", &error))?;
            return Ok(Prepared::Cold);
        }
        self.bring_luggage().await?;
        self.stop_if_aborted()?;
        let journal = self.journal.clone().unwrap_or(journal);
        self.create(journal).await?;
        if predicts {
            self.predict().await;
        }
        self.stop_if_aborted()?;
        let journal = self
            .journal
            .clone()
            .ok_or_else(|| Cause::new(Reason::HypervisorError, "the journal is missing"))?;
        Ok(Prepared::Live(Box::new(self.request(&journal))))
    }

    /// Begins to measure what the guest writes, where its copy is expected to take long. Whether it did.
    async fn begin_prediction(&self, facts: &DomainFacts) -> bool {
        let Some(rate) = self
            .order
            .rate
            .filter(|_| facts.activity == Activity::Running)
        else {
            return false;
        };
        let disks = facts.disks.iter().filter(|disk| disk.is_copied());
        let bytes = disks.map(|disk| disk.chain_allocated.0).sum::<u64>() + facts.memory.0;
        course::duration(Bytes(bytes), rate) > course::WORTH_PREDICTING
            && self
                .order
                .source
                .hypervisor
                .measure_dirtying(facts.uuid)
                .await
                .is_ok()
    }

    /// Says whether the copy will converge. Without an answer in good time nothing is said: it is judged as it runs.
    async fn predict(&mut self) {
        let Some(rate) = self.order.rate else {
            return;
        };
        let until = Instant::now() + MEASURED_WITHIN;
        while Instant::now() < until {
            let measured = self
                .order
                .source
                .hypervisor
                .dirtying(self.order.guest)
                .await;
            match measured {
                Ok(Some(dirtying)) => {
                    self.report(Report::Dirtying(dirtying));
                    let help = &self.order.profile.spec.convergence;
                    self.goes(course::predict(dirtying, rate, help));
                    return;
                }
                Ok(None) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(_) => return,
            }
        }
    }

    /// Everything besides the disks that is to be at the target, bases too where they are brought: then the disks are
    /// told what lies below them.
    async fn load(
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
                false => disk.chain_allocated.0,
            })
            .chain(files_to_bring(&files).map(|file| file.length.0))
            .chain([facts.memory.0])
            .fold(0, u64::saturating_add);
        self.report(Report::Brings(brings(&files, pools)));
        Ok(files)
    }

    /// The same for a guest that is not running: its disks are files among others, over the bases that they have.
    async fn load_cold(
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

    fn stop_if_aborted(&self) -> Result<(), Stop> {
        if self.aborted() {
            Err(Stop::Aborted)
        } else {
            Ok(())
        }
    }

    fn check_guest(&self, facts: &DomainFacts) -> Result<(), Cause> {
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
    async fn check_others(&self, facts: &DomainFacts) -> Result<(), Cause> {
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
    async fn check_cpu(&self, facts: &DomainFacts) -> Result<(), Cause> {
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

    /// Where each disk that travels goes at the target.
    fn place(&self, facts: &DomainFacts, pools: &[PoolFacts]) -> Result<Vec<JournalDisk>, Cause> {
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

    /// Whether each pool holds all disks at their full size, and the files that are brought into it.
    fn check_room(
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
    async fn check_clashes(&self, facts: &DomainFacts, disks: &[JournalDisk]) -> Result<(), Cause> {
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

    /// Notes the directories that are to be made for disks below a pool's own.
    async fn find_missing(&self, disks: &mut [JournalDisk]) -> Result<(), Cause> {
        let target = &self.order.target;
        for disk in disks.iter_mut().filter(|disk| disk.volume.contains('/')) {
            let missing = target.hypervisor.missing_directory(&disk.target_path).await;
            disk.new_directory = missing
                .map_err(|error| failure(&target.host, "looking for a disk's directory", &error))?;
        }
        Ok(())
    }

    /// Where the source's journal goes: next to the guest's first disk, else into any pool.
    async fn source_pool(&self, facts: &DomainFacts) -> Result<String, Cause> {
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
                backing: disk.backing.clone(),
                secret: disk.secret,
            })
            .collect();
        let make = join_all(
            volumes
                .iter()
                .map(|volume| target.hypervisor.create_volume(volume)),
        );
        let (made, dressed) = tokio::join!(make, self.dress(&journal));
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

    /// Marks the guest and turns its autostart off.
    async fn dress(&self, journal: &Journal) -> PortResult<()> {
        let source = &self.order.source;
        let mark = self.mark(journal.id);
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
    }

    /// What libvirt is asked for. The same again by whoever takes the move over.
    pub(super) fn request(&self, journal: &Journal) -> MigrateRequest {
        let profile = &self.order.profile.spec;
        MigrateRequest {
            domain: journal.guest,
            target_uri: self.order.target_uri.clone(),
            target_address: self.order.target_address.clone(),
            encrypted: self.order.encrypted,
            disks: journal.disks.iter().map(JournalDisk::place).collect(),
            incremental: journal.disks.iter().any(|disk| disk.backing.is_some()),
            mark: self.mark(journal.id),
            bandwidth: profile.bandwidth,
            downtime: profile.downtime.0,
            auto_converge: profile.slows_down(),
            compression: profile.compression,
            connections: profile.connections.max(1).unsigned_abs(),
            paused: journal.arrival() == Arrival::Guarded,
            post_copy: journal.allows_post_copy(),
            direct: self.order.direct.clone(),
        }
    }

    /// Ends an attempt that never began to copy: what was made is taken back.
    pub(super) async fn give_up(mut self, stop: Stop) -> Outcome {
        if self.is_cold() {
            return self.follow_cold(Some(stop)).await;
        }
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

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+/@:".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Those that are not at the target yet.
fn files_to_bring(files: &[JournalFile]) -> impl Iterator<Item = &JournalFile> {
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

/// Beside the disks, else in any pool of files that the other end does not see too: each end has a journal of its own.
fn journal_pool(
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

fn no_pool(host: &evenkeel_crds::names::HostName) -> Cause {
    Cause::new(
        Reason::PoolMissing,
        format!("{host} has no active pool of files of its own, where a move keeps its journal"),
    )
}
