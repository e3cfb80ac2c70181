//! One guest of the lab, wherever it is: looked at on all hosts, by libvirt, by its processes and by what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use super::Lab;
use super::census::{self, Census};
use super::disk;
use super::domain::GuestSpec;
use super::host::Host;
use super::process::Process;
use super::record::GuestRecord;
use super::serial::{self, Continuity, SerialRecord};

/// How long a guest may take to boot: ten seconds alone, much longer with many others on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// A guest of a lab.
#[derive(Debug, Clone)]
pub struct Guest<'lab> {
    lab: &'lab Lab,
    record: GuestRecord,
}

/// What there is of a guest on one host, as [`Lab::census`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCopy {
    /// The host.
    pub host: String,
    /// What `virsh domstate --reason` says, such as `running (booted)`; absent: libvirt does not know the guest
    /// there, or does not answer.
    pub state: Option<String>,
    /// Whether it is defined there, and would stay if it stopped.
    pub persistent: bool,
    /// Its QEMU there, whatever libvirt says.
    pub qemu: Option<Process>,
    /// Why libvirt there could not be asked.
    pub error: Option<String>,
}

impl<'lab> Guest<'lab> {
    pub(crate) fn new(lab: &'lab Lab, record: GuestRecord) -> Self {
        Self { lab, record }
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.spec.name
    }

    /// The domain's UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.record.uuid
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &GuestSpec {
        &self.record.spec
    }

    /// The host it was made on.
    ///
    /// # Errors
    /// Never, for a guest of this lab.
    pub fn home(&self) -> Result<Host<'lab>> {
        self.lab.host(&self.record.home)
    }

    /// Makes its disks, defines it, and starts it if that is wanted.
    pub(crate) fn create(&self) -> Result<()> {
        let home = self.home()?;
        let context = || format!("guest {:?} on {}", self.name(), home.name());
        let paths = disk::make_disks(&home, &self.record).with_context(context)?;
        disk::define_secrets(&home, &self.record).with_context(context)?;
        let file = self
            .lab
            .layout()
            .data()
            .join(format!("guest{}.xml", self.record.index));
        fs::write(
            &file,
            self.spec().xml(self.uuid(), &paths, &self.console_path()),
        )?;
        home.virsh(&["define", "--file", &file.display().to_string()])
            .with_context(context)?;
        if self.spec().autostart {
            home.virsh(&["autostart", "--domain", self.uuid()])?;
        }
        if self.spec().start {
            home.virsh(&["start", "--domain", self.uuid()])
                .with_context(context)?;
        }
        Ok(())
    }

    /// What there is of it on every host that has anything of it, or that could not be asked.
    ///
    /// # Errors
    /// Fails if the hosts' processes cannot be listed; a libvirtd that does not answer is part of the result.
    pub fn copies(&self) -> Result<Vec<GuestCopy>> {
        Ok(self.lab.census()?.remove(self.name()).unwrap_or_default())
    }

    /// What there is of it on one host.
    ///
    /// # Errors
    /// Fails if the host's processes cannot be listed.
    pub fn copy_on(&self, host: &Host<'_>) -> Result<GuestCopy> {
        Ok(Census::of(host)?.copy(self))
    }

    /// The hosts on which a QEMU of it is, paused or not; libvirt is not asked.
    ///
    /// # Errors
    /// Fails if the hosts' processes cannot be listed.
    pub fn qemu_hosts(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for host in self.lab.hosts() {
            if host.qemu_pid(self.name())?.is_some() {
                found.push(host.name().to_owned());
            }
        }
        Ok(found)
    }

    /// The one host whose libvirt says it runs there.
    ///
    /// # Errors
    /// Fails if none or several say so.
    pub fn host(&self) -> Result<Host<'lab>> {
        self.lab.host(census::place(self.name(), &self.copies()?)?)
    }

    /// The hosts on which it counts during `time`: where it really runs, whatever anybody says.
    ///
    /// # Errors
    /// Fails if a serial log cannot be read.
    pub fn counting_on(&self, time: Duration) -> Result<BTreeSet<String>> {
        let key = |record: &SerialRecord| (record.host.clone(), record.boot.clone(), record.n);
        let before: BTreeSet<_> = self.serial_records()?.iter().map(key).collect();
        std::thread::sleep(time);
        let now = self.serial_records()?;
        Ok(now
            .iter()
            .filter(|record| !before.contains(&key(record)))
            .map(|record| record.host.clone())
            .collect())
    }

    /// Its definition on a host, as it starts next, in a file.
    ///
    /// # Errors
    /// Fails if it is not defined there.
    pub fn definition_on(&self, host: &Host<'_>) -> Result<NamedTempFile> {
        let text = host.virsh(&["dumpxml", "--inactive", "--domain", self.uuid()])?;
        let file = NamedTempFile::new()?;
        fs::write(file.path(), text)?;
        Ok(file)
    }

    /// Does what a person does who was told which copy to discard: destroys and undefines it, and removes its disks.
    ///
    /// # Errors
    /// Fails where libvirt refuses it.
    pub fn discard_on(&self, host: &Host<'_>) -> Result<()> {
        let targets = self.spec().targets();
        let disks = targets.map(|target| self.disk_path(host, &target));
        let disks = disks.collect::<Result<Vec<_>>>()?;
        host.virsh(&["destroy", self.name()])?;
        host.virsh(&["undefine", self.name()])?;
        for disk in disks {
            host.virsh(&["vol-delete", &disk])?;
        }
        Ok(())
    }

    /// Where each host keeps its serial log.
    #[must_use]
    pub fn console_path(&self) -> String {
        format!("/var/lib/libvirt/console/{}.log", self.name())
    }

    /// All it said on one host.
    ///
    /// # Errors
    /// Fails if the log is there and cannot be read.
    pub fn serial_text(&self, host: &Host<'_>) -> Result<String> {
        let file = host.outside(&self.console_path())?;
        match fs::read(&file) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// All its counts on all hosts, in order.
    ///
    /// # Errors
    /// Fails if a log cannot be read.
    pub fn serial_records(&self) -> Result<Vec<SerialRecord>> {
        let mut logs = Vec::new();
        for host in self.lab.hosts() {
            logs.push((host.name().to_owned(), self.serial_text(&host)?));
        }
        Ok(serial::records(&logs))
    }

    /// What all it said proves: whether it was rebooted, missed a count or ran twice.
    ///
    /// # Errors
    /// Fails if a log cannot be read.
    pub fn continuity(&self) -> Result<Continuity> {
        Ok(Continuity::of(&self.serial_records()?))
    }

    /// Waits until it counts once more, anywhere; the host it does so on.
    ///
    /// # Errors
    /// Fails if it says nothing within `limit`.
    pub fn wait_for_progress(&self, limit: Duration) -> Result<String> {
        let before = self.said()?;
        let end = Instant::now() + limit;
        loop {
            for (host, length) in self.said()? {
                if before.get(&host).is_none_or(|before| length > *before) {
                    return Ok(host);
                }
            }
            if Instant::now() > end {
                bail!(
                    "{:?} said nothing for {limit:?}: {:?}",
                    self.name(),
                    self.copies()?
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many bytes it said on each host where it ever was.
    fn said(&self) -> Result<BTreeMap<String, u64>> {
        let mut said = BTreeMap::new();
        for host in self.lab.hosts() {
            let file = host.outside(&self.console_path())?;
            if let Ok(file) = fs::metadata(file) {
                said.insert(host.name().to_owned(), file.len());
            }
        }
        Ok(said)
    }

    /// Waits until it counts for the first time.
    pub(crate) fn wait_until_up(&self) -> Result<()> {
        let home = self.home()?;
        let end = Instant::now() + BOOT_LIMIT;
        while self.serial_records()?.is_empty() {
            let dead = home.qemu_pid(self.name())?.is_none();
            if dead || Instant::now() > end {
                let what = if dead { "died" } else { "did not come up" };
                let log = home.outside(&format!("/var/log/libvirt/qemu/{}.log", self.name()))?;
                let log = fs::read_to_string(log).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                bail!(
                    "guest {:?} {what}: {:?}; QEMU: {last}",
                    self.name(),
                    self.serial_text(&home)?
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
