//! The one port behind which hypervisors are: what the engine asks of a host and what a host tells it.
//!
//! An adapter (libvirt, or a simulated fleet) implements it. It knows nothing of moves beyond their marks and
//! journals, decides nothing, and never blocks one host because another one hangs: every call has a deadline of
//! its own, after which it returns [`Fault::TimedOut`] and its outcome is unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use evenkeel_crds::{
    kinds::profile::Compression,
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Reason},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::credentials::Credentials;

mod files;
mod secrets;
pub use files::{Access, Backing, FileState, Piece};
pub use secrets::{SecretFacts, SecretUsage, SecretValue};

/// What kind of answer an error is. The engine decides by this alone; the message is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// There is no connection, or it broke during the call: what the call did is unknown.
    Unreachable,
    /// The host did not answer in time; the call may still execute there.
    TimedOut,
    /// The hypervisor refuses who we are.
    Denied,
    /// We don't believe that the hypervisor is who it says.
    Untrusted,
    /// The hypervisor's machine shows by ssh another key than we know, or one that we don't.
    UnknownHostKey,
    /// There are no keys to connect with.
    NoCredentials,
    /// Our own keys are no good: expired, or not of one another.
    BadCredentials,
    /// The URI or the request makes no sense to the adapter.
    Invalid,
    /// The thing asked for is not there.
    NotFound,
    /// The thing to be made exists already (a claim, a journal, a volume, a domain).
    Exists,
    /// Another job or call holds the domain.
    Busy,
    /// No room on the device.
    NoSpace,
    /// The hypervisor cannot do this.
    Unsupported,
    /// The migration was aborted by us or by another client.
    Aborted,
    /// The source's hypervisor could not open its connection to the target's.
    PeerUnreachable,
    /// One of the two hypervisors does not believe the other's certificate.
    PeerUntrusted,
    /// The target refused or lost the migration.
    PeerFailed,
    /// The source's copy stopped during the call.
    DomainStopped,
    /// The target's QEMU can't give the guest its CPU.
    CpuRefused,
    /// A disk that is not copied is on storage that only this host is known to see.
    NotShared,
    /// Anything else.
    Other,
}

/// A call that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    /// Its kind.
    pub fault: Fault,
    /// What the hypervisor said.
    pub message: String,
}

impl PortError {
    /// An error of this kind.
    #[must_use]
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            message: message.into(),
        }
    }

    /// Whether the call may have had its effect although it failed.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.fault, Fault::Unreachable | Fault::TimedOut)
    }
}

/// What a call returns.
pub type PortResult<T> = Result<T, PortError>;

/// How to reach a hypervisor. Made from a `Host`'s spec after its URIs were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The URI of `Host.spec.uri`, checked: scheme, host, port, path `/system`, nothing else.
    pub uri: String,
    /// Its keys and passwords, where its `Host` names some, checked.
    pub credentials: Option<Arc<Credentials>>,
}

/// Makes connections. One per process.
pub trait Hypervisors: Send + Sync + 'static {
    /// Starts to look after the connection to one host and returns at once: it connects, reconnects with backoff,
    /// and tells `notices` what it sees for as long as the returned handle lives.
    fn attach(
        &self,
        host: &HostName,
        endpoint: &Endpoint,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Arc<dyn Hypervisor>;
}

/// Something a host told without being asked.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Which host.
    pub host: HostName,
    /// What it told.
    pub what: News,
}

/// The kinds of news.
#[derive(Debug, Clone)]
pub enum News {
    /// A full description, freshly read: after each connect, when pools or networks change, and now and then.
    Facts(Box<HostFacts>),
    /// One domain changed: its new description, or nothing where it is gone from this host.
    Domain(Uuid, Option<Box<DomainFacts>>),
    /// Live use of the host, every ten seconds or so.
    Load(Load),
    /// What each domain that runs there uses, as often.
    Usage(BTreeMap<Uuid, Usage>),
    /// Something happened to a domain; sent before the re-read `Domain` that follows.
    Event(Uuid, DomainEvent),
    /// The connection is gone or cannot be made. Attempts go on by themselves.
    Lost(PortError),
}

/// What happened to a domain, as far as a move cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DomainEvent {
    /// It was started here for another reason than a migration.
    Booted,
    /// An incoming migration started its (paused) copy here.
    IncomingStarted,
    /// The source paused for the switch.
    SuspendedForSwitch,
    /// It was paused for another reason.
    Suspended,
    /// An incoming migration is complete: the copy here runs.
    ResumedMigrated,
    /// It goes on running here after a pause.
    Resumed,
    /// It left by migration.
    StoppedMigrated,
    /// It stopped: shut down from inside, destroyed, crashed or failed.
    Stopped,
    /// The guest rebooted itself.
    Rebooted,
    /// A block job became ready, completed or failed.
    BlockJob,
    /// A memory-copy iteration ended.
    Iteration,
    /// The job ended.
    JobCompleted,
    /// Its definition was added or changed.
    Defined,
    /// Its definition is gone.
    Undefined,
}

/// Live use of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// CPU in use, thousandths of a CPU; nothing before the second sample.
    pub cpu_milli: Option<u64>,
    /// Memory in use, without buffers and caches.
    pub memory: Bytes,
}

/// What a running domain uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time that its process has taken so far.
    pub cpu_time: Duration,
    /// Memory that its process holds now, its overhead included.
    pub memory: Bytes,
}

/// A host, fully described.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    /// The hypervisor's own UUID: two Hosts with one UUID are one machine.
    pub uuid: Uuid,
    /// The hypervisor's hostname.
    pub hostname: String,
    /// libvirt's version, as `9.0.0`.
    pub libvirt_version: String,
    /// The hypervisor's version, as `7.2.22`.
    pub hypervisor_version: String,
    /// Number of CPUs online.
    pub cpus: u32,
    /// CPU model by name, for people.
    pub cpu_model: String,
    /// Equal for hosts whose CPUs are equal to a guest with host-passthrough or host-model.
    pub cpu_fingerprint: String,
    /// All memory of the machine: the larger of what the hypervisor's two sources say.
    pub memory: Bytes,
    /// Memory set aside for huge pages.
    pub huge_pages: Bytes,
    /// Live use.
    pub load: Load,
    /// Storage pools, active or not.
    pub pools: Vec<PoolFacts>,
    /// Names of active libvirt networks.
    pub networks: BTreeSet<String>,
    /// Names of bridges, where the hypervisor can list them; nothing where it cannot.
    pub bridges: Option<BTreeSet<String>>,
    /// Names of network filters.
    pub nwfilters: BTreeSet<String>,
    /// Emulators and the machine types each knows, aliases included.
    pub machines: BTreeMap<String, BTreeSet<String>>,
    /// Every domain, active or not.
    pub domains: Vec<DomainFacts>,
}

/// A storage pool, or a directory outside all pools that guests have disks in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFacts {
    /// Its name; a directory goes by its path, which is no name that libvirt allows.
    pub name: String,
    /// libvirt's type: `dir`, `fs`, `netfs`, `logical`, ...
    pub kind: String,
    /// Where its volumes appear as files.
    pub path: String,
    /// Whether it is started.
    pub active: bool,
    /// Size of its file system.
    pub total: Bytes,
    /// Free in it now.
    pub available: Bytes,
    /// Whether other hosts see the same files (a network file system).
    pub shared: bool,
}

impl PoolFacts {
    /// Whether it is a directory that libvirt has no pool for.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        is_directory(&self.name)
    }

    /// Whether a file or directory lies below its own.
    #[must_use]
    pub fn is_above(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.path.trim_end_matches('/'));
        below.is_some_and(|below| below.starts_with('/'))
    }

    /// Whether that directory, outside all pools elsewhere, is its own here or lies below.
    #[must_use]
    pub fn takes(&self, directory: &str) -> bool {
        self.active
            && matches!(self.kind.as_str(), "dir" | "fs" | "netfs")
            && (self.path == directory || self.is_above(directory))
    }
}

/// Whether what is given for a pool's name is the path of a directory that is none.
#[must_use]
pub fn is_directory(pool: &str) -> bool {
    pool.starts_with('/')
}

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
    /// What its whole chain occupies: the top file and every backing file.
    pub chain_allocated: Bytes,
    /// The pool in whose directory it lies, or below; outside all pools the path of its directory.
    pub pool: Option<String>,
    /// Its path from that pool's directory.
    pub volume: Option<String>,
    /// Whether a definition of its domain gives that pool and volume by name (`type='volume'`), and not the file.
    pub named: bool,
    /// Backing files below it, nearest first.
    pub backing: Vec<String>,
    /// Read-only to the guest.
    pub readonly: bool,
    /// On storage that other hosts see too.
    pub shared: bool,
    /// The secret that opens it, where it is encrypted (LUKS).
    pub secret: Option<Uuid>,
}

impl DiskFacts {
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

/// What a move writes into the guest's own metadata, live and persistent, before it starts. It travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The move's id.
    pub id: Uuid,
    /// Where from, the Host object's name.
    pub source: HostName,
    /// Where to, the Host object's name.
    pub target: HostName,
    /// Name of the GuestMigration.
    pub migration: String,
}

/// What a finished move leaves in the guest's persistent metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastMove {
    /// When it ended, RFC 3339.
    pub time: String,
    /// Where the guest came from.
    pub from: HostName,
    /// The wish that asked for it: `HostDrain/patch-rack-a`.
    pub by: String,
    /// Where it was to go on to, if it only stopped over where it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onward: Option<HostName>,
}

/// What is written into a guest's metadata before it is asked to shut down for a drain. It outlives us, so that whoever
/// comes later knows that it was us and whether the guest is to be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownMark {
    /// The fleet of the one who asked.
    pub fleet: String,
    /// The wish that asked for it: `HostDrain/patch-rack-a`.
    pub by: String,
    /// The Host object of the host it was on.
    pub host: HostName,
    /// When it was asked, RFC 3339.
    pub time: String,
    /// How long it has from then on, in seconds.
    pub timeout: u64,
    /// Whether it is to be started when the drain is over.
    pub restart: bool,
    /// How far it is.
    pub stage: ShutdownStage,
}

/// How far a guest's shutdown for a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownStage {
    /// It was asked, or is about to be.
    Asked,
    /// It was seen to have shut down for that.
    Down,
    /// It did not in time. What stops it from then on is somebody else.
    TimedOut,
}

/// Who acts on a host. One per host, kept in the hypervisor itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRecord {
    /// The claim's own random id: who knows it may renew and remove it.
    pub id: Uuid,
    /// The fleet.
    pub fleet: String,
    /// Who holds it, for people: `apply@admin-1:4711`.
    pub holder: String,
    /// Where the holding process lives, so that a neighbour can prove that it is dead.
    pub process: Option<ProcessIdentity>,
    /// The lease's epoch; higher wins within one fleet.
    pub epoch: u64,
    /// Rises by one with each renewal.
    pub beat: u64,
}

/// A process, told apart from any other that ever was on any machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// The machine's boot id.
    pub boot: String,
    /// Inode of the process's PID namespace.
    pub namespace: u64,
    /// Process id in it.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

/// A journal found on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The move's id, from the file's name.
    pub id: Uuid,
    /// The pool it is in.
    pub pool: String,
    /// Its text; empty where it was created and not yet written.
    pub text: String,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// In which pool, or directory outside all pools.
    pub pool: String,
    /// Its path from the pool's directory. Directories that are missing between are made.
    pub name: String,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Exact virtual size.
    pub capacity: Bytes,
    /// What it lies over, if it is an overlay.
    pub backing: Option<Backing>,
    /// The secret of that host that is to open it, where it is to be encrypted (LUKS).
    pub secret: Option<Uuid>,
}

/// A volume or file as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Virtual size.
    pub capacity: Bytes,
    /// What it occupies.
    pub allocated: Bytes,
}

/// Where a disk is at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlace {
    /// Its target device: `vda`.
    pub target: String,
    /// The file there.
    pub path: String,
    /// The pool that has it; outside all pools the path of its directory.
    pub pool: String,
    /// Its path from that pool's directory.
    pub volume: String,
}

/// One migration, as libvirt shall do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The domain.
    pub domain: Uuid,
    /// How the source's hypervisor reaches the target's, checked like `Endpoint::uri`.
    pub target_uri: String,
    /// The address memory and disks travel to, if not the URI's.
    pub target_address: Option<String>,
    /// Whether they travel encrypted; the target's certificate then has to name the URI's host.
    pub encrypted: bool,
    /// The disks to copy. Those not named stay as they are.
    pub disks: Vec<DiskPlace>,
    /// Copy only the top layers: each disk that has a base lies over the same one at the target.
    pub incremental: bool,
    /// The move's mark, put into both definitions that the target gets.
    pub mark: Mark,
    /// Limit in bytes per second, for memory and disks.
    pub bandwidth: Option<Bytes>,
    /// Longest pause aimed at.
    pub downtime: Duration,
    /// Slow the guest down if it does not converge.
    pub auto_converge: bool,
    /// How memory is compressed.
    pub compression: Compression,
    /// Connections for memory; one is libvirt's plain way.
    pub connections: u32,
    /// Whether the guest arrives paused, for us to start it.
    pub paused: bool,
    /// Whether it may be switched to post-copy on its way.
    pub post_copy: bool,
    /// How this process reaches the target's hypervisor, where it is to drive the migration itself.
    pub direct: Option<Endpoint>,
}

/// A running migration, seen at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobFacts {
    /// Bytes of disks copied.
    pub disk_done: Bytes,
    /// Bytes of disks in all.
    pub disk_total: Bytes,
    /// Bytes of disks left.
    pub disk_left: Bytes,
    /// Bytes of memory copied.
    pub memory_done: Bytes,
    /// Bytes of memory in all; zero while only disks are copied.
    pub memory_total: Bytes,
    /// Bytes of memory left.
    pub memory_left: Bytes,
    /// Iteration over memory.
    pub iteration: u64,
    /// Bytes of memory dirtied per second.
    pub dirty_rate: Bytes,
    /// Percent by which the guest's CPUs are slowed down so that it converges.
    pub throttle: u8,
}

/// A finished migration, as its statistics tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedFacts {
    /// How long the guest stood still.
    pub downtime: Option<Duration>,
    /// Bytes that travelled: disks and memory.
    pub bytes: Bytes,
}

/// One host's hypervisor. Every method looks or acts now; nothing is answered from memory.
#[async_trait]
pub trait Hypervisor: Send + Sync + fmt::Debug + 'static {
    /// Other credentials from now on: whatever is connected is connected anew with them. Returns at once; where they
    /// are refused, that is told as [`News::Lost`].
    fn renew(&self, credentials: Option<Arc<Credentials>>);

    /// Directories in which guests of the fleet have disks, outside all pools of their hosts: from now on those that this
    /// host has, and that lie in no pool here, count as pools. Returns at once.
    fn use_directories(&self, directories: BTreeSet<String>);

    /// The whole host, pools refreshed.
    async fn observe(&self) -> PortResult<HostFacts>;
    /// One domain; nothing where the host has none of that UUID.
    async fn look(&self, domain: Uuid) -> PortResult<Option<DomainFacts>>;
    /// The same, only what evidence needs, which is had much sooner.
    async fn glance(&self, domain: Uuid) -> PortResult<Option<Glance>>;
    /// For each file that any domain here names (active or not, live and persistent definition, whole chains), who.
    /// With `except`, that domain is left out.
    async fn references(&self, except: Option<Uuid>) -> PortResult<BTreeMap<String, Vec<String>>>;
    /// Pools as they are now, refreshed first.
    async fn pools(&self) -> PortResult<Vec<PoolFacts>>;

    /// The claim on this host.
    async fn claim(&self) -> PortResult<Option<ClaimRecord>>;
    /// Makes or renews the claim. [`Fault::Exists`] where another id holds it.
    async fn put_claim(&self, claim: &ClaimRecord) -> PortResult<()>;
    /// Removes the claim of that id; no error where it is gone.
    async fn remove_claim(&self, id: Uuid) -> PortResult<()>;

    /// All journals in all active pools.
    async fn journals(&self) -> PortResult<Vec<JournalEntry>>;
    /// Creates a journal exclusively and writes it. [`Fault::Exists`] where one of that id is there.
    async fn create_journal(&self, pool: &str, id: Uuid, text: &str) -> PortResult<()>;
    /// Writes a journal anew.
    async fn rewrite_journal(&self, pool: &str, id: Uuid, text: &str) -> PortResult<()>;
    /// Removes a journal; no error where it is gone.
    async fn remove_journal(&self, pool: &str, id: Uuid) -> PortResult<()>;

    /// The file at a path, if it exists. A directory that no pool has is opened as one for as long as it takes;
    /// [`Fault::Unsupported`] where that can't be done: then nothing is known.
    async fn volume(&self, path: &str) -> PortResult<Option<VolumeFacts>>;
    /// Makes an empty thin volume, exclusively, and returns its path.
    async fn create_volume(&self, volume: &NewVolume) -> PortResult<String>;
    /// Removes a volume by its path; no error where it is gone.
    async fn delete_volume(&self, path: &str) -> PortResult<()>;

    /// A file by its path, whatever it is and wherever it lies; nothing where it is not there. A directory that no
    /// pool has is opened as one for as long as it takes; [`Fault::Unsupported`] where that can't be done, or where
    /// the directory itself is not there.
    async fn file(&self, path: &str) -> PortResult<Option<FileState>>;
    /// The topmost of the directories that a file at that path lacks below its pool's; nothing where all are there.
    async fn missing_directory(&self, path: &str) -> PortResult<Option<String>>;
    /// Removes directories as far as they are empty: from that of a file up to `top`.
    async fn remove_directories(&self, path: &str, top: &str) -> PortResult<()>;
    /// Makes a file of that length, all hole, exclusively. [`Fault::Exists`] where there is one. Directories that are
    /// missing below a pool's are made.
    async fn create_file(&self, path: &str, length: Bytes, access: &Access) -> PortResult<()>;
    /// Reads a file from its first byte to its last. Returns when all is handed over, or when nobody takes it any
    /// more; not subject to a deadline.
    async fn read_file(&self, path: &str, pieces: mpsc::Sender<Piece>) -> PortResult<()>;
    /// Writes a file that is there, from its first byte to its last. Returns when all is written, or with
    /// [`Fault::Aborted`] when the pieces end before; not subject to a deadline.
    async fn write_file(
        &self,
        path: &str,
        length: Bytes,
        pieces: mpsc::Receiver<Piece>,
    ) -> PortResult<()>;
    /// Removes a file, wherever it lies; no error where it is gone.
    async fn remove_file(&self, path: &str) -> PortResult<()>;
    /// Closes pools that a process left open when it died. Only with the claim.
    async fn close_pools(&self) -> PortResult<()>;

    /// A secret, without its value; nothing where the host has none of that UUID.
    async fn secret(&self, id: Uuid) -> PortResult<Option<SecretFacts>>;
    /// The value of a secret that is not private; nothing where it has none.
    async fn secret_value(&self, id: Uuid) -> PortResult<Option<SecretValue>>;
    /// Defines a secret and sets its value. [`Fault::Exists`] where there is one of that UUID or that usage: it is left
    /// as it is.
    async fn create_secret(&self, secret: &SecretFacts, value: SecretValue) -> PortResult<()>;
    /// Forgets which move brought a secret: it is the host's own from now on. No error where it is gone.
    async fn keep_secret(&self, id: Uuid) -> PortResult<()>;
    /// Removes a secret; no error where it is gone.
    async fn remove_secret(&self, id: Uuid) -> PortResult<()>;
    /// The domains here (active or not, live and persistent definition) that name a secret.
    async fn secret_users(&self, id: Uuid) -> PortResult<Vec<String>>;

    /// Sets or removes the mark, in the live and the persistent definition.
    async fn set_mark(&self, domain: Uuid, mark: Option<&Mark>) -> PortResult<()>;
    /// Removes the mark and records the finished move, in the live and the persistent definition.
    async fn set_last_move(&self, domain: Uuid, last: &LastMove) -> PortResult<()>;
    /// Sets or removes what tells of a shutdown for a drain, in the persistent and the live definition.
    async fn set_shutdown_mark(&self, domain: Uuid, mark: Option<&ShutdownMark>) -> PortResult<()>;
    /// Sets whether the domain starts with its host.
    async fn set_autostart(&self, domain: Uuid, on: bool) -> PortResult<()>;

    /// Begins to measure how fast a running domain writes to its memory, which takes a second.
    async fn measure_dirtying(&self, domain: Uuid) -> PortResult<()>;
    /// What was measured last, in bytes per second; nothing while that goes on, or where nothing was measured.
    async fn dirtying(&self, domain: Uuid) -> PortResult<Option<Bytes>>;

    /// The persistent definition, whole, for whoever defines it elsewhere or again.
    async fn definition(&self, domain: Uuid) -> PortResult<String>;
    /// Whether a guest of this definition finds the CPU here that it asks for by model and features. Nothing where the
    /// hypervisor can't tell, or the guest asks for none.
    async fn offers_cpu(&self, definition: &str) -> PortResult<Option<bool>>;
    /// Defines a domain, with each of these disks at its place here, and with a mark or as it was. What is defined here
    /// already, or runs, must have been looked for before.
    async fn define(
        &self,
        definition: &str,
        disks: &[DiskPlace],
        mark: Option<&Mark>,
    ) -> PortResult<()>;

    /// Migrates. Returns when libvirt's own call returns, however long; not subject to a deadline.
    async fn migrate(&self, request: &MigrateRequest) -> PortResult<()>;
    /// The running job, at the source.
    async fn job(&self, domain: Uuid) -> PortResult<Option<JobFacts>>;
    /// The statistics of the last finished migration, at the target; they are kept.
    async fn completed(&self, domain: Uuid) -> PortResult<Option<CompletedFacts>>;
    /// How often each disk (by its target device) was flushed by its guest since its QEMU was started: all that was written
    /// to its file before is on stable storage then. A disk of which that is not known is left out.
    async fn flushes(&self, domain: Uuid) -> PortResult<BTreeMap<String, u64>>;
    /// Switches a migration that may be to post-copy: the guest runs at the target from then on, and the rest of its memory
    /// follows.
    async fn start_post_copy(&self, domain: Uuid) -> PortResult<()>;
    /// Takes a broken post-copy up again; `request` is what the migration began with. Returns when libvirt's own call
    /// returns, however long. An error says nothing: the memory may travel all the same.
    async fn recover_post_copy(&self, request: &MigrateRequest) -> PortResult<()>;
    /// Asks for the job to be aborted. Its success says nothing.
    async fn abort(&self, domain: Uuid) -> PortResult<()>;

    /// Pauses a domain. Where it ran, QEMU has flushed its disks by then.
    async fn suspend(&self, domain: Uuid) -> PortResult<()>;
    /// Lets a paused domain run.
    async fn resume(&self, domain: Uuid) -> PortResult<()>;
    /// Starts a domain that is defined here and not active.
    async fn start(&self, domain: Uuid) -> PortResult<()>;
    /// Asks the guest to shut down. Its success says nothing: the guest may take its time, or not listen.
    async fn shutdown(&self, domain: Uuid) -> PortResult<()>;
    /// Ends a domain's QEMU at once.
    async fn destroy(&self, domain: Uuid) -> PortResult<()>;
    /// Removes a domain's persistent definition; keeps every file.
    async fn undefine(&self, domain: Uuid) -> PortResult<()>;
}

impl From<&PortError> for Reason {
    fn from(error: &PortError) -> Self {
        match error.fault {
            Fault::Unreachable | Fault::TimedOut => Self::HostUnreachable,
            Fault::Denied => Self::AuthenticationFailed,
            Fault::Untrusted => Self::CertificateUntrusted,
            Fault::UnknownHostKey => Self::HostKeyUntrusted,
            Fault::NoCredentials => Self::CredentialsMissing,
            Fault::BadCredentials => Self::CredentialsInvalid,
            Fault::PeerUntrusted => Self::PeerCertificateUntrusted,
            Fault::Invalid => Self::InvalidURI,
            Fault::NoSpace => Self::InsufficientDisk,
            Fault::Busy => Self::JobActive,
            Fault::Aborted => Self::Aborted,
            Fault::PeerUnreachable => Self::TargetCannotBeReachedFromSource,
            Fault::PeerFailed => Self::TargetFailed,
            Fault::DomainStopped => Self::GuestStopped,
            Fault::NotShared => Self::SharedStorageUnsafe,
            Fault::CpuRefused => Self::IncompatibleCPU,
            Fault::NotFound | Fault::Exists | Fault::Unsupported | Fault::Other => {
                Self::HypervisorError
            }
        }
    }
}
