//! Guests' disks: made with known content, checked against it later.
//!
//! A disk begins with a ring of 1024 records of 4096 bytes that the guest writes. After it come `data` bytes of a
//! pattern that only depends on the guest's name and the disk's place. The rest is zero, and thin.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::command::{command, output};
use super::domain::targets;
use super::guest::Guest;
use super::host::Host;
use super::pattern;
use super::record::GuestRecord;
use super::serial::SerialRecord;

const SLOTS: u64 = 1024;
const SLOT: u64 = 4096;
const RING: u64 = SLOTS * SLOT;
const MIB: u64 = 1024 * 1024;

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskFormat {
    /// A plain sparse file.
    Raw,
    /// QEMU's own, thin.
    Qcow2,
}

impl DiskFormat {
    /// Its name in QEMU.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A base image under a disk, in the same pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// Its file name; guests that name the same file share it. It is qcow2 and holds the disk's data.
    pub file: String,
    /// Whether every host has a copy with the same content, or only the guest's own.
    pub everywhere: bool,
}

/// A disk a guest is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The pool its file is in.
    pub pool: String,
    /// Its format.
    pub format: DiskFormat,
    /// Its virtual size in bytes, a multiple of 64 KiB.
    pub size: u64,
    /// The bytes it is filled with, a multiple of 64 KiB; at least 4 MiB less than its size.
    pub data: u64,
    /// Its directory, where that is not its pool's. It is made on the guest's host; as with a pool's, it has to be under
    /// `/var/lib/libvirt` or `/srv`.
    pub directory: Option<String>,
    /// Its file name; absent: `GUEST-TARGET.qcow2` or `.img`.
    pub file: Option<String>,
    /// A base image under it, for a qcow2 disk only; the data is then in the base.
    pub backing: Option<Backing>,
    /// The UUID of the secret that opens it, where it is encrypted (LUKS): the lab defines it on the guest's host.
    pub secret: Option<String>,
}

impl Default for DiskSpec {
    fn default() -> Self {
        let (size, data) = (128 * MIB, 24 * MIB);
        Self {
            pool: "default".to_owned(),
            format: DiskFormat::Qcow2,
            size,
            data,
            directory: None,
            file: None,
            backing: None,
            secret: None,
        }
    }
}

impl DiskSpec {
    /// A qcow2 disk in the pool `default` with so many MiB, of which so many are filled.
    #[must_use]
    pub fn mib(size: u64, data: u64) -> Self {
        Self {
            size: size * MIB,
            data: data * MIB,
            ..Self::default()
        }
    }

    /// Makes it a raw file.
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.format = DiskFormat::Raw;
        self
    }

    /// Puts it into this pool.
    #[must_use]
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = pool.into();
        self
    }

    /// Puts it into this directory, see [`DiskSpec::directory`].
    #[must_use]
    pub fn directory(mut self, directory: impl Into<String>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Puts its data into a base image that every host has.
    #[must_use]
    pub fn backing(mut self, file: impl Into<String>) -> Self {
        self.backing = Some(Backing {
            file: file.into(),
            everywhere: true,
        });
        self
    }

    /// Encrypts it, to be opened by the secret of this UUID; other disks may share it.
    #[must_use]
    pub fn encrypted(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// How its image is given to QEMU's tools that only read it: the key, and what to open.
    fn opened(&self, path: &str) -> Vec<String> {
        let format = self.format.name();
        match (&self.secret, self.format) {
            (None, _) => ["-f", format, path].map(str::to_owned).to_vec(),
            (Some(secret), DiskFormat::Raw) => vec![
                format!("--object=secret,id=key,data={}", passphrase(secret)),
                "--image-opts".to_owned(),
                format!("driver=luks,key-secret=key,file.filename={path}"),
            ],
            (Some(secret), DiskFormat::Qcow2) => vec![
                format!("--object=secret,id=key,data={}", passphrase(secret)),
                "--image-opts".to_owned(),
                format!(
                    "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename={path}"
                ),
            ],
        }
    }

    pub(crate) fn file_name(&self, guest: &str, target: &str) -> String {
        let ending = if self.format == DiskFormat::Raw {
            "img"
        } else {
            "qcow2"
        };
        self.file
            .clone()
            .unwrap_or_else(|| format!("{guest}-{target}.{ending}"))
    }

    fn seed(&self, guest: &str, target: &str) -> u64 {
        match &self.backing {
            Some(backing) => pattern::seed(&backing.file, "base"),
            None => pattern::seed(guest, target),
        }
    }

    /// Its path, given the pools of a host.
    pub(crate) fn path(&self, host: &Host<'_>, guest: &str, target: &str) -> Result<String> {
        let pool = host
            .record()
            .pools
            .iter()
            .find(|pool| pool.name == self.pool);
        let pool =
            pool.with_context(|| format!("host {} has no pool {:?}", host.name(), self.pool))?;
        let directory = self.directory.as_ref().unwrap_or(&pool.path);
        Ok(format!("{directory}/{}", self.file_name(guest, target)))
    }
}

/// The records a guest left on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingReport {
    /// Boot ids in them; more than one: it was rebooted.
    pub boots: BTreeSet<String>,
    /// The oldest count that is still there.
    pub first: u64,
    /// The newest count.
    pub last: u64,
    /// Counts between them that are not there.
    pub missing: Vec<u64>,
    /// Slots with something else than a whole record in its place.
    pub damaged: Vec<u64>,
}

impl RingReport {
    /// Whether the newest records are all there, without a gap, of one boot.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.boots.len() == 1 && self.missing.is_empty() && self.damaged.is_empty()
    }
}

/// What is in a disk's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskReport {
    /// The host whose file it is.
    pub host: String,
    /// The file's path there.
    pub path: String,
    /// The disk's virtual size in bytes.
    pub virtual_size: u64,
    /// The bytes the file takes up: `st_blocks` times 512, without its base.
    pub allocated: u64,
    /// The disk's offset of the first byte outside the ring that is not what it was filled with.
    pub first_difference: Option<u64>,
    /// What the guest wrote.
    pub ring: RingReport,
}

impl DiskReport {
    /// Whether all content is as it should be.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.first_difference.is_none() && self.ring.is_whole()
    }
}

/// The value of a secret of the lab.
#[must_use]
pub fn passphrase(secret: &str) -> String {
    format!("evk-{secret}")
}

/// Defines what opens the guest's disks on its host, where that is not there yet.
pub(crate) fn define_secrets(host: &Host<'_>, guest: &GuestRecord) -> Result<()> {
    for secret in guest
        .spec
        .disks
        .iter()
        .filter_map(|disk| disk.secret.as_deref())
    {
        if host.virsh(&["secret-dumpxml", "--secret", secret]).is_err() {
            host.define_secret(secret, "private='no'", &passphrase(secret))?;
        }
    }
    Ok(())
}

/// Makes all disks of a guest on its host; their paths.
pub(crate) fn make_disks(host: &Host<'_>, guest: &GuestRecord) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for (disk, target) in guest.spec.disks.iter().zip(targets()) {
        let name = &guest.spec.name;
        let whole =
            disk.size % pattern::BLOCK as u64 == 0 && disk.data % pattern::BLOCK as u64 == 0;
        ensure!(
            whole && disk.size >= RING + disk.data,
            "disk {target} of {name:?}: its sizes do not fit, see DiskSpec"
        );
        let path = disk.path(host, name, &target)?;
        if let Some(directory) = &disk.directory {
            host.files(&["mkdir", "-p", directory])?;
        }
        let seed = disk.seed(name, &target);
        let scratch = format!("{}-{target}", guest.index);
        match &disk.backing {
            None => write_image(host, &path, &scratch, disk, seed)?,
            Some(backing) => {
                ensure!(
                    disk.format == DiskFormat::Qcow2 && disk.secret.is_none(),
                    "disk {target} of {name:?}: only plain qcow2 has a base"
                );
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let base = format!("{directory}/{}", backing.file);
                for owner in host.lab().hosts() {
                    let wanted = backing.everywhere || owner.name() == host.name();
                    if wanted && !owner.outside(&base)?.exists() {
                        write_image(&owner, &base, &scratch, disk, seed)?;
                    }
                }
                let size = disk.size.to_string();
                host.files(&[
                    "qemu-img", "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &path,
                    &size,
                ])?;
            }
        }
        paths.push(path);
    }
    Ok(paths)
}

/// A file of the disk's format with its data in it. Appears whole, so that makers of the same base may meet.
fn write_image(
    host: &Host<'_>,
    path: &str,
    scratch: &str,
    disk: &DiskSpec,
    seed: u64,
) -> Result<()> {
    let raw = host
        .lab()
        .layout()
        .scratch()
        .join(format!("{scratch}-{}.raw", host.record().index));
    let mut file = File::create(&raw).with_context(|| format!("cannot make {}", raw.display()))?;
    file.set_len(disk.size)?;
    pattern::fill(&mut file, seed, RING, disk.data)?;
    let fresh = format!("{path}.{scratch}");
    let source = raw.display().to_string();
    let key = |secret: &String| format!("--object=secret,id=key,data={}", passphrase(secret));
    // Few iterations over the passphrase: those cost seconds of a processor on purpose.
    let convert = |words: &[&str]| {
        let start = ["qemu-img", "convert", "-f", "raw"];
        let words = [&start, words, &[&source, &fresh]].concat();
        let mut tries = 0;
        loop {
            tries += 1;
            match host.files(&words) {
                // On a busy machine it may take a moment for none when it measures how fast keys can be derived.
                Err(error) if tries < 10 && format!("{error:#}").contains("CPU usage") => {}
                made => return made,
            }
        }
    };
    let made = match (disk.format, &disk.secret) {
        (DiskFormat::Qcow2, None) => convert(&["-O", "qcow2"]),
        (DiskFormat::Raw, None) => host.files(&["cp", "--sparse=always", &source, &fresh]),
        (DiskFormat::Qcow2, Some(secret)) => convert(&[
            &key(secret),
            "-O",
            "qcow2",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
        ]),
        (DiskFormat::Raw, Some(secret)) => convert(&[
            &key(secret),
            "-O",
            "luks",
            "-o",
            "key-secret=key,iter-time=10",
        ]),
    };
    fs::remove_file(&raw)?;
    made?;
    host.files(&["mv", &fresh, path]).map(drop)
}

impl Host<'_> {
    /// Defines a secret with a value, `private='yes'` or whatever else its element is to say.
    ///
    /// # Errors
    /// Fails if libvirt refuses it.
    pub fn define_secret(&self, uuid: &str, attributes: &str, value: &str) -> Result<()> {
        let description = format!(
            "<secret ephemeral='no' {attributes}><uuid>{uuid}</uuid><description>of the lab</description>\
             <usage type='volume'><volume>/lab/{uuid}</volume></usage></secret>"
        );
        let scratch = self.lab().layout().scratch();
        let file = scratch.join(format!("secret-{}", uuid::Uuid::new_v4().simple()));
        let path = file.display().to_string();
        fs::write(&file, description)?;
        let defined = self.virsh(&["secret-define", "--file", &path]);
        let set = defined.and_then(|_| {
            fs::write(&file, value)?;
            self.virsh(&[
                "secret-set-value",
                "--secret",
                uuid,
                "--file",
                &path,
                "--plain",
            ])
        });
        fs::remove_file(&file)?;
        set.map(drop)
    }

    /// Runs a tool among the host's files, also while its power is off.
    pub(crate) fn files(&self, words: &[&str]) -> Result<String> {
        let target = format!("--target={}", self.holder()?.pid);
        output(&mut command(
            "nsenter",
            [target.as_str(), "--mount", "--"].iter().chain(words),
        ))
    }
}

impl Guest<'_> {
    /// The file libvirt on `host` says is behind a disk (`vda`) of the guest.
    ///
    /// # Errors
    /// Fails if the guest is not defined there or has no such disk.
    pub fn disk_path(&self, host: &Host<'_>, target: &str) -> Result<String> {
        let list = host.virsh(&["domblklist", "--domain", self.uuid()])?;
        let lines = list
            .lines()
            .filter_map(|line| line.trim().split_once(char::is_whitespace));
        let found = lines
            .map(|(disk, path)| (disk, path.trim()))
            .find(|(disk, _)| *disk == target);
        let (_, path) = found.with_context(|| {
            format!("{:?} has no disk {target} on {}", self.name(), host.name())
        })?;
        Ok(path.to_owned())
    }

    /// Reads the file of a disk on a host, wherever libvirt there says it is, and checks all of it. A running guest
    /// may be asked: its records and data are on disk as soon as it has said so.
    ///
    /// # Errors
    /// Fails if the guest is not defined there or the image cannot be read.
    pub fn disk_report(&self, host: &Host<'_>, target: &str) -> Result<DiskReport> {
        self.disk_report_at(host, target, &self.disk_path(host, target)?)
    }

    /// The same for a file that is given, also one that libvirt does not know: a leftover, a copy.
    ///
    /// # Errors
    /// Fails if the guest was not made with such a disk or the image cannot be read.
    pub fn disk_report_at(&self, host: &Host<'_>, target: &str, path: &str) -> Result<DiskReport> {
        let spec = self
            .spec()
            .disks
            .iter()
            .zip(targets())
            .find(|(_, name)| name == target);
        let (spec, _) =
            spec.with_context(|| format!("guest {:?} was made without {target}", self.name()))?;
        let raw = host
            .lab()
            .layout()
            .scratch()
            .join(format!("check-{}", uuid::Uuid::new_v4().simple()));
        let copy = raw.display().to_string();
        let opened = spec.opened(path);
        let opened: Vec<&str> = opened.iter().map(String::as_str).collect();
        let start = ["qemu-img", "convert", "-U", "-O", "raw"];
        let converted = host.files(&[&start, opened.as_slice(), &[&copy]].concat());
        let checked = converted.and_then(|_| {
            let mut file = File::open(&raw)?;
            let seed = spec.seed(self.name(), target);
            let first_difference = pattern::first_difference(&mut file, seed, RING, spec.data)?;
            Ok((
                file.metadata()?.len(),
                first_difference,
                ring(host.name(), &fs::read(&raw)?),
            ))
        });
        let _ = fs::remove_file(&raw);
        let (virtual_size, first_difference, ring) = checked?;
        let allocated = fs::metadata(host.outside(path)?)?.blocks() * 512;
        let (host, path) = (host.name().to_owned(), path.to_owned());
        Ok(DiskReport {
            host,
            path,
            virtual_size,
            allocated,
            first_difference,
            ring,
        })
    }
}

fn ring(host: &str, disk: &[u8]) -> RingReport {
    let mut counts = BTreeSet::new();
    let mut report = RingReport {
        boots: BTreeSet::new(),
        first: 0,
        last: 0,
        missing: Vec::new(),
        damaged: Vec::new(),
    };
    for (slot, bytes) in disk.chunks(SLOT as usize).take(SLOTS as usize).enumerate() {
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        match SerialRecord::parse(host, &String::from_utf8_lossy(bytes)) {
            Some(record) if record.n % SLOTS == slot as u64 => {
                report.boots.insert(record.boot);
                counts.insert(record.n);
            }
            _ => report.damaged.push(slot as u64),
        }
    }
    report.last = counts.last().copied().unwrap_or_default();
    // Once around, the oldest slots are written over.
    report.first = counts.first().copied().unwrap_or_default();
    let oldest = report.last.saturating_sub(SLOTS - 1).max(1);
    report.missing = (oldest..report.last)
        .filter(|count| !counts.contains(count))
        .collect();
    report
}
