//! What a guest needs besides the disks that libvirt copies: kernel, initrd, firmware and its variables, media. It is
//! brought to the target before the copy begins, and only where it is not there already. Secrets go first (`secrets.rs`).

use std::{collections::BTreeSet, time::Duration};

use evenkeel_crds::{
    quantity::Bytes,
    reason::{Cause, Reason},
};
use futures::future::join_all;
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{Attempt, Place, Progress, Report, Stop, failure, secrets};
use crate::{
    carrier::{self, Pace},
    journal::{FileOrigin, Journal, JournalFile},
    port::{DiskDevice, DomainFacts, Fault, FileFacts, FileState, PortError},
};

/// How often it is told how far a file is.
const TELL: Duration = Duration::from_millis(500);

/// The files that a guest names and libvirt does not copy, each once, but for what it only writes to.
fn named(facts: &DomainFacts) -> Vec<FileFacts> {
    let files = facts
        .files
        .iter()
        .filter(|file| file.role != CONSOLE)
        .cloned();
    let media = facts
        .disks
        .iter()
        .filter(|disk| disk.readonly || disk.device != DiskDevice::Disk)
        .flat_map(|disk| {
            let role = match disk.device {
                DiskDevice::Disk => "medium",
                DiskDevice::Cdrom => "cdrom",
                DiskDevice::Floppy => "floppy",
            };
            disk.paths().map(|path| FileFacts {
                role: role.to_owned(),
                path: path.clone(),
                needed: true,
            })
        });
    let mut seen = BTreeSet::new();
    let once = files.chain(media);
    once.filter(|file| seen.insert(file.path.clone())).collect()
}

/// What a guest's serial ports write to.
const CONSOLE: &str = "console";

/// The firmware's variables: the guest's own, written while it runs.
const NVRAM: &str = "nvram";
/// A stopped guest's own disk: nothing may stand in its way, equal or not.
pub(super) const DISK: &str = "disk";
/// A base image: the same in every host's eyes, and never written.
pub(super) const BASE: &str = "base";
/// The firmware itself: what a running guest has of it travels in its memory, and only its size has to be the same.
const LOADER: &str = "loader";

impl Attempt {
    /// Looks at both ends what of it is there. Nothing is read yet.
    pub(super) async fn survey(&self, facts: &DomainFacts) -> Result<Vec<JournalFile>, Cause> {
        let (source, target) = (&self.order.source, &self.order.target);
        let named = named(facts);
        let looks = named.iter().map(|FileFacts { path, .. }| async move {
            tokio::join!(source.hypervisor.file(path), target.hypervisor.file(path))
        });
        let looks = join_all(looks).await;
        let mut files = Vec::new();
        for (file, (here, there)) in named.into_iter().zip(looks) {
            let FileFacts { role, path, needed } = file;
            let Some(here) = here.map_err(|error| out_of_reach(source, &path, &error))? else {
                // A store that its first start makes, or what its definition names and nobody has any more.
                if !needed {
                    continue;
                }
                return Err(Cause::new(
                    Reason::FileMissing,
                    format!(
                        "{} has no file {path}, which {} needs",
                        source.host, facts.name
                    ),
                )
                .hint("put the file back, or take it out of the guest's definition"));
            };
            let there = there.map_err(|error| out_of_reach(target, &path, &error))?;
            if let Some(there) = &there
                && there.length != here.length
            {
                return Err(differs(target, &path, &role, &facts.name));
            }
            files.push(JournalFile {
                own: role == NVRAM,
                role,
                path,
                source_path: None,
                length: here.length,
                origin: match there {
                    Some(_) => FileOrigin::Found,
                    None => FileOrigin::Planned,
                },
            });
        }
        Ok(files)
    }

    /// Brings what the journal names and the target has not, one after the other.
    pub(super) async fn bring_luggage(&mut self) -> Result<(), Stop> {
        self.bring_secrets().await?;
        let count = self
            .journal
            .as_ref()
            .map_or(0, |journal| journal.files.len());
        for at in 0..count {
            self.bring(at).await?;
        }
        Ok(())
    }

    async fn bring(&mut self, at: usize) -> Result<(), Stop> {
        let Some(journal) = self.journal.clone() else {
            return Ok(());
        };
        let Some(file) = journal.files.get(at).cloned() else {
            return Ok(());
        };
        let (source, target) = (self.order.source.clone(), self.order.target.clone());
        let carrier = self.lines.carrier.clone();
        let _turn = self
            .unless_aborted(carrier.turn(target.uuid, &file.path))
            .await?;
        let path = &file.path;
        let at_source =
            |error: PortError| failure(&source.host, &format!("reading {path}"), &error);
        let at_target =
            |error: PortError| failure(&target.host, &format!("bringing {path}"), &error);
        let (here, there) = tokio::join!(
            source.hypervisor.file(file.source()),
            target.hypervisor.file(path)
        );
        let here = here.map_err(at_source)?.ok_or_else(|| {
            Cause::new(
                Reason::FileMissing,
                format!("{path} is gone from {}", source.host),
            )
        })?;
        let there = there.map_err(at_target)?;
        if there.is_some() && file.role == DISK {
            return Err(appeared(&target, path).into());
        }
        if let Some(there) = there {
            self.compare(&journal.domain, &file.role, path, &here, &there)
                .await?;
            let origin = if self.is_brought_by_another(&journal, path).await? {
                FileOrigin::Made
            } else {
                FileOrigin::Found
            };
            if origin != file.origin {
                self.note_origin(at, origin).await?;
            }
            return Ok(());
        }
        if file.origin == FileOrigin::Found {
            // Taken back by the move that had brought it.
            self.note_origin(at, FileOrigin::Planned).await?;
        }
        if here.length != file.length {
            return Err(Cause::new(
                Reason::Interrupted,
                format!("{path} on {} has just changed its size", source.host),
            )
            .into());
        }
        match target
            .hypervisor
            .create_file(path, file.length, &here.access)
            .await
        {
            Err(error) if error.fault == Fault::Exists => {
                return Err(appeared(&target, path).into());
            }
            made => made.map_err(at_target)?,
        }
        self.note_origin(at, FileOrigin::Made).await?;
        self.copy(&file, &here).await
    }

    /// Copies into a file that we made, and reads it back.
    async fn copy(&mut self, file: &JournalFile, here: &FileState) -> Result<(), Stop> {
        let (source, target) = (self.order.source.clone(), self.order.target.clone());
        let (carrier, path) = (self.lines.carrier.clone(), &file.path);
        let wrong = |error: PortError| {
            failure(
                &target.host,
                &format!("carrying {path} from {}", source.host),
                &error,
            )
        };
        let (reports, migration) = (self.lines.reports.clone(), self.order.migration.clone());
        let (mut done, total) = (self.carried, self.expected.max(1));
        let mut told = Instant::now();
        let mut tell = |bytes| {
            done += bytes;
            if told.elapsed() >= TELL {
                told = Instant::now();
                let progress = Progress {
                    done: Bytes(done),
                    left: Bytes(total.saturating_sub(done)),
                    total: Bytes(total),
                    percent: (done.saturating_mul(100) / total).min(99) as u8,
                    ..Progress::default()
                };
                let _ = reports.send((migration.clone(), Report::Progress(progress)));
            }
        };
        let mut pace = Pace::new(self.order.profile.spec.bandwidth, &mut tell);
        let carrying = async {
            let read = carrier::copy(
                source.hypervisor.as_ref(),
                file.source(),
                target.hypervisor.as_ref(),
                path,
                file.length,
                &mut pace,
            )
            .await?;
            let there = target.hypervisor.file(path).await?;
            let there = there.ok_or_else(|| PortError::new(Fault::NotFound, "it is gone again"))?;
            let back = carrier.digest(&target, path, &there, &mut pace).await?;
            if source.hypervisor.file(file.source()).await?.as_ref() == Some(here) {
                carrier.remember(source.uuid, file.source(), here, read);
            }
            Ok((read == back && there.length == file.length).then_some(read))
        };
        let same = self.unless_aborted(carrying).await;
        self.carried = done;
        if let Some(digest) = same?.map_err(wrong)? {
            self.copied.insert(file.source().to_owned(), digest);
            return Ok(());
        }
        Err(Cause::new(
            Reason::HypervisorError,
            format!("{path} on {} does not read as it was written", target.host),
        )
        .into())
    }

    /// A file that is there already has to be the same.
    pub(super) async fn compare(
        &self,
        guest: &str,
        role: &str,
        path: &str,
        here: &FileState,
        there: &FileState,
    ) -> Result<(), Stop> {
        let (source, target) = (self.order.source.clone(), self.order.target.clone());
        if here.length != there.length {
            return Err(differs(&target, path, role, guest).into());
        }
        if role == LOADER {
            return Ok(());
        }
        let carrier = self.lines.carrier.clone();
        let bandwidth = self.order.profile.spec.bandwidth;
        let digests = async {
            let (mut quiet, mut silent) = (|_| {}, |_| {});
            let mut pace = Pace::new(bandwidth, &mut quiet);
            let mut other = Pace::new(bandwidth, &mut silent);
            tokio::join!(
                carrier.digest(&source, path, here, &mut pace),
                carrier.digest(&target, path, there, &mut other),
            )
        };
        let (here, there) = self.unless_aborted(digests).await?;
        let reading = |place: &Place, error: &PortError| {
            failure(&place.host, &format!("reading {path}"), error)
        };
        let here = here.map_err(|error| reading(&source, &error))?;
        let there = there.map_err(|error| reading(&target, &error))?;
        if here == there {
            Ok(())
        } else {
            Err(differs(&target, path, role, guest).into())
        }
    }

    /// Whether another move that is not over yet brought that file to the target: then it is as much ours, so that
    /// whichever of us fails last takes it back.
    async fn is_brought_by_another(&self, journal: &Journal, path: &str) -> Result<bool, Cause> {
        let others = self.of_others(journal, path).await?;
        Ok(others.iter().any(|file| file.origin == FileOrigin::Made))
    }

    /// That file as the journals of other moves to the same target have it, read now.
    async fn of_others(&self, journal: &Journal, path: &str) -> Result<Vec<JournalFile>, Cause> {
        let others = self.other_journals(journal).await?.into_iter();
        let files = others.flat_map(|other| other.files);
        Ok(files.filter(|file| file.path == path).collect())
    }

    /// The journals of other moves to the same target, read now.
    pub(super) async fn other_journals(&self, journal: &Journal) -> Result<Vec<Journal>, Cause> {
        let target = &self.order.target;
        let others = target
            .hypervisor
            .journals()
            .await
            .map_err(|error| failure(&target.host, "reading the journals", &error))?;
        Ok(others
            .iter()
            .filter(|entry| entry.id != journal.id)
            .filter_map(|entry| Journal::parse(&entry.text))
            .filter(|other| other.target.uuid == journal.target.uuid)
            .collect())
    }

    /// Writes down at the target where a file there comes from.
    async fn note_origin(&mut self, at: usize, origin: FileOrigin) -> Result<(), Cause> {
        let target = &self.order.target;
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        if let Some(file) = journal.files.get_mut(at) {
            file.origin = origin;
        }
        target
            .hypervisor
            .rewrite_journal(&journal.target.pool, journal.id, &journal.text())
            .await
            .map_err(|error| failure(&target.host, "writing the journal", &error))
    }

    /// Removes from the target what was brought there for this guest and nobody else needs. `written` is the target's own
    /// journal, `named` the files that domains there name.
    pub(super) async fn take_luggage_back(
        &self,
        journal: &Journal,
        written: Option<&Journal>,
        named: impl Fn(&str) -> bool,
    ) -> Result<(), Cause> {
        let target = &self.order.target;
        for file in &journal.files {
            let noted = written.and_then(|own| own.files.iter().find(|own| own.path == file.path));
            let origin = noted.map_or(file.origin, |own| own.origin.max(file.origin));
            if origin == FileOrigin::Found || named(&file.path) {
                continue;
            }
            let wrong = |error: PortError| {
                failure(&target.host, &format!("removing {}", file.path), &error)
            };
            if origin == FileOrigin::Planned {
                // Made, perhaps, and not noted as such any more: then nothing was written into it.
                let found = target.hypervisor.file(&file.path).await.map_err(wrong)?;
                let empty =
                    |found: FileState| found.length == file.length && found.allocated == Bytes(0);
                if !found.is_some_and(empty) {
                    continue;
                }
            }
            // Another move may count on it.
            if !self.of_others(journal, &file.path).await?.is_empty() {
                continue;
            }
            target
                .hypervisor
                .remove_file(&file.path)
                .await
                .map_err(wrong)?;
        }
        Ok(())
    }

    /// Keeps other moves of this process from the files and secrets that this one brought, in an order that no two can
    /// deadlock in.
    pub(super) async fn luggage_turns(&self, journal: &Journal) -> Vec<OwnedMutexGuard<()>> {
        let files = journal.files.iter().map(|file| file.path.clone());
        let secrets = journal.secrets.iter().copied().map(secrets::spot);
        let all: BTreeSet<String> = files.chain(secrets).collect();
        let mut turns = Vec::new();
        for spot in &all {
            let carrier = &self.lines.carrier;
            turns.push(carrier.turn(self.order.target.uuid, spot).await);
        }
        turns
    }

    /// Does something long, unless the move is to be aborted first.
    pub(super) async fn unless_aborted<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut abort = self.lines.abort.clone();
        let asked = async {
            if abort.wait_for(|wanted| *wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = asked => Err(Stop::Aborted),
        }
    }
}

fn appeared(target: &Place, path: &str) -> Cause {
    Cause::new(
        Reason::PathClash,
        format!("{path} appeared on {} just now", target.host),
    )
}

fn differs(target: &Place, path: &str, role: &str, guest: &str) -> Cause {
    let reason = if role == BASE {
        Reason::BaseImageDiffers
    } else {
        Reason::PathClash
    };
    Cause::new(
        reason,
        format!(
            "{path} on {} has another content than the one that {guest} uses",
            target.host
        ),
    )
    .hint("make both files equal, or rename one of them, after making sure who uses it")
}

/// A file that can't be looked at.
pub(super) fn out_of_reach(place: &Place, path: &str, error: &PortError) -> Cause {
    if error.fault == Fault::Unsupported {
        return Cause::new(
            Reason::FileMissing,
            format!("{path} on {} is out of reach: {error}", place.host),
        )
        .hint("make the directory there, or start a storage pool over it");
    }
    failure(&place.host, &format!("looking for {path}"), error)
}
