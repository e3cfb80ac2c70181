//! The one port behind which hypervisors are: what the engine asks of a host and what a host tells it.
//!
//! An adapter (libvirt, or a simulated fleet) implements it. It knows nothing of moves beyond their marks and
//! journals, decides nothing, and never blocks one host because another one hangs: every call has a deadline of
//! its own, after which it returns [`Fault::TimedOut`] and its outcome is unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use evenkeel_crds::{names::HostName, quantity::Bytes};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::credentials::Credentials;

mod domain;
mod fault;
mod files;
mod host;
mod marks;
mod migration;
mod secrets;
pub use domain::{
    Activity, CpuNeed, DiskDevice, DiskFacts, DomainFacts, FileFacts, Glance, InterfaceFacts,
    InterfaceSource, Layer, Why,
};
pub use fault::{Fault, PortError, PortResult};
pub use files::{Access, Backing, FileState, NewVolume, Piece, VolumeFacts};
pub use host::{HostFacts, Load, PoolFacts, Usage, is_directory};
pub use marks::{
    ClaimRecord, JournalEntry, LastMove, Mark, ProcessIdentity, ShutdownMark, ShutdownStage,
};
pub use migration::{CompletedFacts, DiskPlace, JobFacts, MigrateRequest};
pub use secrets::{SecretFacts, SecretUsage, SecretValue};

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
