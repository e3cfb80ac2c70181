//! What a host tells of a domain.

use std::collections::BTreeMap;

use evenkeel_crds::{quantity::Bytes, reason::Cause};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LastMove, Mark, ShutdownMark};

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// Executing.
    Running,
    /// Paused, whatever for.
    Paused,
    /// Not active.
    ShutOff,
    /// Not active since its QEMU died.
    Crashed,
    /// In guest-initiated suspend.
    Suspended,
    /// Shutting itself down.
    ShuttingDown,
}

impl Activity {
    /// Whether a QEMU process exists for it.
    #[must_use]
    pub fn active(self) -> bool {
        !matches!(self, Self::ShutOff | Self::Crashed)
    }
}

/// Why a domain is in its state, as libvirt words it, where evidence depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Why {
    /// running (migrated): it came here by a migration.
    Migrated,
    /// running (migration canceled): a migration away was taken back.
    MigrationCanceled,
    /// running (unpaused).
    Unpaused,
    /// paused (migrating): either end of a migration.
    Migrating,
    /// paused (post-copy) at the source, running (post-copy) at the target: each has a part of its memory.
    PostCopy,
    /// paused (starting up).
    StartingUp,
    /// paused (user).
    ByUser,
    /// paused (I/O error): a full disk, mostly.
    IoError,
    /// paused (post-copy failed), running (post-copy failed): the same, and nothing travels.
    PostCopyFailed,
    /// shut off (shutdown): by the guest itself or on request.
    Shutdown,
    /// shut off (destroyed).
    Destroyed,
    /// shut off (migrated): it left.
    LeftByMigration,
    /// shut off (failed), shut off (daemon).
    Failed,
    /// Anything else: booted, restored, unknown.
    Other,
}

/// How a guest's CPU depends on the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CpuNeed {
    /// A named model, or no CPU element.
    Model,
    /// host-passthrough, host-model or maximum: the hosts' CPUs must be equal.
    SameAsHost,
}

/// As much of a domain as libvirt tells at once, whatever its QEMU does: what evidence is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// What it does.
    pub activity: Activity,
    /// Why.
    pub why: Why,
    /// Whether it has a definition that outlives its QEMU.
    pub persistent: bool,
    /// A migration or other job of libvirt's runs on it (outgoing side).
    pub job: bool,
    /// The mark of a move, live definition first.
    pub mark: Option<Mark>,
    /// The files its disks are on.
    pub disks: Vec<String>,
}

/// A domain, fully described.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainFacts {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// What it does.
    pub activity: Activity,
    /// Why.
    pub why: Why,
    /// Whether it has a definition that outlives its QEMU.
    pub persistent: bool,
    /// Whether it starts with its host.
    pub autostart: bool,
    /// Virtual CPUs, the maximum.
    pub vcpus: u32,
    /// Memory, the maximum.
    pub memory: Bytes,
    /// What its QEMU may need on top: video memory and the like, by our own formula in the adapter.
    pub memory_overhead: Bytes,
    /// Disks, CD-ROMs and floppies, in the definition's order.
    pub disks: Vec<DiskFacts>,
    /// Network interfaces, those of its persistent definition last.
    pub interfaces: Vec<InterfaceFacts>,
    /// Other files it names: kernel, initrd, NVRAM, console logs, and media that only its persistent definition has.
    pub files: Vec<FileFacts>,
    /// Metadata elements of others, flattened: `nova:owner/nova:user` -> text.
    pub metadata: BTreeMap<String, String>,
    /// When it was made, where its metadata says so, RFC 3339.
    pub created: Option<String>,
    /// Labels in our metadata element.
    pub labels: BTreeMap<String, String>,
    /// Who else manages it, where its XML bears such marks.
    pub managed_by: Option<String>,
    /// What keeps it from being migrated live, named; empty where nothing does.
    pub obstacles: Vec<Cause>,
    /// Its dependency on the host's CPU.
    pub cpu: CpuNeed,
    /// Emulator binary.
    pub emulator: String,
    /// Machine type, canonical where it runs.
    pub machine: String,
    /// A migration or other job of libvirt's runs on it (outgoing side).
    pub job: bool,
    /// A block job that is not part of a migration runs on one of its disks.
    pub block_job: bool,
    /// The mark of a move, live definition first.
    pub mark: Option<Mark>,
    /// What its last move left in its persistent metadata.
    pub last_move: Option<LastMove>,
    /// What its last shutdown for a drain left there.
    pub shutdown_mark: Option<ShutdownMark>,
}

impl DomainFacts {
    /// What a glance shows of it.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            activity: self.activity,
            why: self.why,
            persistent: self.persistent,
            job: self.job,
            mark: self.mark.clone(),
            disks: self
                .disks
                .iter()
                .filter_map(|disk| disk.path.clone())
                .collect(),
        }
    }
}

/// What a disk element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskDevice {
    /// A disk.
    Disk,
    /// A CD-ROM.
    Cdrom,
    /// A floppy.
    Floppy,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// Target device: `vda`.
    pub target: String,
    /// Disk, CD-ROM or floppy.
    pub device: DiskDevice,
    /// The file, where it is one; nothing for an empty drive, a network disk or a block device.
    pub path: Option<String>,
    /// `qcow2`, `raw`, ...
    pub format: String,
    /// Size the guest sees.
    pub virtual_size: Bytes,
    /// What it occupies on the host, the top file alone.
    pub allocated: Bytes,
    /// The pool in whose directory it lies, or below; outside all pools the path of its directory.
    pub pool: Option<String>,
    /// Its path from that pool's directory.
    pub volume: Option<String>,
    /// Whether a definition of its domain gives that pool and volume by name (`type='volume'`), and not the file.
    pub named: bool,
    /// Backing files below it, nearest first.
    pub backing: Vec<Layer>,
    /// Read-only to the guest.
    pub readonly: bool,
    /// On storage that other hosts see too.
    pub shared: bool,
    /// The secret that opens it, where it is encrypted (LUKS).
    pub secret: Option<Uuid>,
}

/// A file below a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its path.
    pub path: String,
    /// What it occupies on the host; 0 where nobody can tell.
    pub allocated: Bytes,
}

impl Layer {
    /// One of which nobody has told yet what it occupies.
    #[must_use]
    pub fn new(path: String) -> Self {
        Self {
            path,
            allocated: Bytes(0),
        }
    }
}

impl DiskFacts {
    /// What its whole chain occupies: the top file and every backing file.
    #[must_use]
    pub fn chain_allocated(&self) -> Bytes {
        let layers = self.backing.iter().map(|layer| layer.allocated.0);
        Bytes(layers.fold(self.allocated.0, u64::saturating_add))
    }

    /// The paths of all its files, its own first.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        let layers = self.backing.iter().map(|layer| &layer.path);
        self.path.iter().chain(layers)
    }

    /// Whether its content must be copied in a block migration.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        self.is_written() && !self.shared
    }

    /// Whether it is left in place: a file on storage that other hosts see too.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.is_written() && self.shared
    }

    /// The directory of the pool that its file is in; without a pool the file's own.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        let path = self.path.as_deref()?;
        match &self.volume {
            Some(volume) => path.strip_suffix(volume.as_str())?.strip_suffix('/'),
            None => path.rsplit_once('/').map(|(directory, _)| directory),
        }
    }

    /// Whether it is a disk that the guest writes to, in a file.
    fn is_written(&self) -> bool {
        self.device == DiskDevice::Disk && self.path.is_some() && !self.readonly
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// MAC address.
    pub mac: String,
    /// Where it is plugged in.
    pub source: InterfaceSource,
    /// Network filter by name.
    pub filter: Option<String>,
    /// Whether the guest has it now; else only its persistent definition does.
    pub plugged: bool,
    /// Addresses, where the guest agent or a lease tells.
    pub addresses: Vec<String>,
}

/// Where an interface is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceSource {
    /// A libvirt network by name.
    Network(String),
    /// A bridge of the host by name.
    Bridge(String),
    /// QEMU's user-mode network.
    User,
    /// Another kind, by libvirt's word.
    Other(String),
}

/// A file that a domain names and that is not a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// `kernel`, `initrd`, `nvram`, `loader`, `console`, ...
    pub role: String,
    /// Its path.
    pub path: String,
    /// Whether it has to be at the target before the guest can run there.
    pub needed: bool,
}
