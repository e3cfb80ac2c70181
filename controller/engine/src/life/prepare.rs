//! Preparing: fresh looks, checks, journals, volumes, mark and autostart; everything that comes before the copy.

use std::collections::BTreeSet;

use evenkeel_crds::reason::{Cause, Reason};
use futures::future::join_all;

use super::{
    Attempt, Outcome, Report, Stop,
    clean::TakenBack,
    failure,
    places::{journal_pool, no_pool},
    sharing,
};
use crate::{
    evidence::{Arrival, Verdict},
    journal::{End, Journal, JournalDisk, VERSION},
    port::{Activity, Fault, MigrateRequest, NewVolume, PortResult},
};

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

    fn stop_if_aborted(&self) -> Result<(), Stop> {
        if self.aborted() {
            Err(Stop::Aborted)
        } else {
            Ok(())
        }
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
