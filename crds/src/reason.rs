//! Why something waits, was refused or failed: one word, one sentence, one hint, everywhere the same.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What may happen after a failure of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Try the same again after a while, with backoff.
    Retry,
    /// This target rests a while; another is chosen where the wish allows it.
    AvoidTarget,
    /// Nothing will change until the guest, a host or a manifest does.
    AwaitChange,
    /// Over: it is never tried again.
    Terminal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident, $class:ident, $hint:literal;)*) => {
        /// One word for a cause. The same word is the condition's reason, the attempt's, the Event's, the log's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason there is, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word itself, CamelCase.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What may happen after it.
            #[must_use]
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// What a person can do about it; may be empty where nothing needs doing.
            #[must_use]
            pub fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }

            /// The reason of that name.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    // What a wish asks for.
    /// The guest is already where it should go.
    MigrateToSelf, Terminal, "name another target, or leave the target out and let the planner choose";
    /// No guest of that name or UUID.
    GuestNotFound, AwaitChange, "see `evenkeel get guests`; a guest is named by its object's name or its UUID";
    /// No host of that name.
    HostNotFound, AwaitChange, "see `evenkeel get hosts`; add a Host manifest for it";
    /// No MigrationProfile of that name.
    ProfileNotFound, AwaitChange, "see `evenkeel get profiles`; write a MigrationProfile of that name, or name another";
    /// The profile asks for what libvirt refuses, between these two hosts or anywhere.
    ProfileNotApplicable, AwaitChange, "change the MigrationProfile, or name another with `profile`";
    /// A selector matches no host.
    NoHostsMatched, AwaitChange, "check the selector against the hosts' labels";
    /// The guest is not on the host that `source` demands.
    SourceMismatch, Terminal, "the guest has moved since this was written; write a new move";
    /// The target is being drained.
    TargetDraining, AwaitChange, "name another target, or end the drain";
    /// The target takes no guests.
    TargetUnschedulable, AwaitChange, "name another target, or set `unschedulable: false`";
    /// Another move of the guest is under way.
    GuestBusy, Retry, "it starts when the other move has ended";
    /// The guest is not to be moved for now, whoever asks.
    GuestHeld, AwaitChange, "remove `spec.hold` of the Guest or wait until it ends";
    /// The guest's owner forbids evacuation.
    EvacuationNever, AwaitChange, "move or stop the guest yourself, or set `spec.evacuation`";
    /// A feature of the manifest that this version does not have.
    NotSupportedYet, AwaitChange, "see the CHANGELOG for the version that brings it";
    /// The user aborted it.
    Aborted, Terminal, "write a new GuestMigration to move the guest after all";
    /// A user aborted the move that this wish had made.
    AbortedByUser, AwaitChange, "change the wish to have it tried again";
    /// The wish that asked for it is gone.
    WishGone, Terminal, "";
    /// Its time is over.
    DeadlineExceeded, Terminal, "raise `deadline`, or look at what slowed it down";
    /// Failed as often as is allowed.
    AttemptsExhausted, Terminal, "look at the attempts, remove their cause, write a new move";

    /// A HostDrain has the name that the drain of a cordoned node would have.
    DrainNameTaken, AwaitChange, "delete that HostDrain, or make it again under another name";
    /// No Kubernetes node of that name.
    NodeNotFound, AwaitChange, "see `kubectl get nodes`, and name the node in `spec.node.name` of the Host";
    /// The cluster does not let us do what a manifest asks for.
    ClusterRefuses, AwaitChange, "give the controller's service account the right";
    /// There is no cluster that could tell.
    NoCluster, AwaitChange, "write a HostDrain, or run the controller in the cluster (`evenkeel controller`)";

    // What the fleet says.
    /// The hypervisor does not answer.
    HostUnreachable, Retry, "check the network and libvirtd on that host; it is tried again by itself";
    /// The source's hypervisor can't open a connection to the target's.
    TargetCannotBeReachedFromSource, AvoidTarget, "check `migration.uri` and `migration.address`, and firewalls between the two hosts";
    /// The URI is not one we use.
    InvalidURI, AwaitChange, "use qemu+tls://HOST/system, qemu+ssh://HOST/system or qemu+tcp://HOST/system, without a query";
    /// The hypervisor refuses us.
    AuthenticationFailed, AwaitChange, "check the credentials";
    /// The credentials that a Host names are not there, or not all of them.
    CredentialsMissing, AwaitChange, "make the Secret in the controller's namespace, or with files give `--credentials DIR` with DIR/<secretName>/<key>";
    /// A value among the credentials is not what it should be.
    CredentialsInvalid, AwaitChange, "put the right value under that key";
    /// The credentials are another host's.
    CredentialsNotForHost, AwaitChange, "name the host in the Secret's annotation `evenkeel.dev/hosts` (names, with commas between them)";
    /// We don't trust the hypervisor's certificate.
    CertificateUntrusted, AwaitChange, "check that ca.crt is the authority of the host's certificate, that the certificate names the host as the URI does, and that it has not expired";
    /// By ssh the host shows another key than `known_hosts` has for it, or it has none.
    HostKeyUntrusted, AwaitChange, "put the host's line from `ssh-keyscan`, compared with the host's own key files, into known_hosts";
    /// One of the two hosts doesn't trust the other's certificate.
    PeerCertificateUntrusted, AvoidTarget, "check the certificates of both hosts (libvirt's and QEMU's): one authority, not expired, naming the host as `migration.uri` does";
    /// The move has to be encrypted and the hosts are not set up for it.
    EncryptionUnavailable, AwaitChange, "give both hosts certificates and a qemu+tls URI in `migration.uri`";
    /// Two Host objects lead to one hypervisor.
    DuplicateHypervisor, AwaitChange, "remove one of the Host objects, or give each libvirtd its own host_uuid";
    /// Another holder acts on the host.
    ClaimedByOther, Retry, "wait for it to end, or stop it; a claim without a sign of life is broken after 60 s";
    /// No host can take the guest; the hosts' own reasons are listed.
    NoHostFits, AwaitChange, "make room on a host, or relax what keeps it away";
    /// Not enough memory.
    InsufficientMemory, AwaitChange, "make room, or raise `overcommit.memory` of the host";
    /// Not enough CPU.
    InsufficientCPU, AwaitChange, "make room, or raise `overcommit.cpu` of the host";
    /// Not enough space in a pool.
    InsufficientDisk, AwaitChange, "make room in the pool, or name another with `spec.disks`";
    /// No pool on the target for a disk.
    PoolMissing, AwaitChange, "define and start a pool of that name on the target, or name another with `spec.disks`";
    /// The target does not have the shared storage that the guest's disks stay on.
    SharedStorageMissing, AwaitChange, "mount that storage on the target in the same directory, with an active storage pool over it";
    /// The target has the shared storage in another directory.
    SharedPathDiffers, AwaitChange, "mount it in the same directory on every host";
    /// The same directory on the target is other storage.
    SharedStorageDiffers, AvoidTarget, "mount the same export on both hosts; a file made in it on one has to be there on the other at once";
    /// libvirt does not take the disk's file system for one that several hosts may use at a time.
    SharedStorageUnsafe, AwaitChange, "put the disk on a file system that libvirt knows as shared (NFS, GlusterFS, CephFS, GFS2, OCFS2, CIFS, ...)";
    /// Nothing was to be copied, and a disk is not on shared storage.
    DiskNotShared, AwaitChange, "use `mode: Auto`, which copies what is not shared";
    /// All was to be copied, and a disk is on storage that both hosts see.
    DiskShared, AwaitChange, "use `mode: Auto`, which leaves in place what both hosts see";
    /// The target's CPU is not what the guest was started with.
    IncompatibleCPU, AwaitChange, "give the guest a CPU model that both hosts have";
    /// The target's hypervisor is older than the guest's.
    HypervisorOlder, AwaitChange, "upgrade the target's QEMU first";
    /// The target does not know the guest's machine type.
    MachineTypeMissing, AwaitChange, "choose a target whose QEMU has that machine type";
    /// The target has no such emulator.
    EmulatorMissing, AwaitChange, "install the emulator on the target at the same path";
    /// The target has no such network or bridge.
    NetworkMissing, AwaitChange, "define and start the network on the target";
    /// A file stands where a disk would go.
    PathClash, AwaitChange, "remove or rename that file after making sure that nobody needs it";
    /// The host still keeps the disks that the guest left there by its last move.
    SourceKept, Retry, "wait until they are removed, or move it elsewhere; `keepSource` of its profile says how long they stay";
    /// A base image of that name at the target has another content.
    BaseImageDiffers, AwaitChange, "make both base images equal, or rename one of them, after making sure who uses it";
    /// The target has another domain of that name.
    DomainNameTaken, AwaitChange, "rename one of the two domains";
    /// The target has a domain of that UUID already.
    DomainDefinedAtTarget, AwaitChange, "undefine the copy that is not wanted, after making sure which one that is";
    /// A file the guest boots from or reads is not at the target.
    FileMissing, AwaitChange, "put the file at the same path on the target";
    /// A GuestPlacement keeps the guest from there.
    PlacementForbids, AwaitChange, "name another target, or change the GuestPlacement or the labels that it goes by";
    /// Placements that are required contradict each other.
    ConflictsWith, AwaitChange, "change one of the placements, or the labels that they go by";
    /// The guest was moved by other hands to where its placement does not want it.
    MovedByOther, Retry, "it is moved back 15 minutes after it was moved; change the GuestPlacement, or set `suspend`, to keep it there";
    /// A selector matches no guest.
    NoGuestsMatched, AwaitChange, "check the selector against the guests' labels";
    /// Guests are not where a placement wants them.
    GuestsMisplaced, Retry, "";
    /// The hosts are not level.
    Unbalanced, Retry, "";
    /// The guest was moved a while ago.
    Cooldown, Retry, "wait, or lower `cooldown`";
    /// A plan waits for somebody's word.
    AwaitingApproval, AwaitChange, "put the plan's id into `spec.approve` to have it run";
    /// The plan that was approved is not the one that could be run now.
    PlanSuperseded, AwaitChange, "look at `status.plan` and approve that one, or remove `approve`";
    /// It is outside the times in which moves may run.
    WindowClosed, Retry, "wait for the next window, or change `windows`";
    /// It would not end, by what is known, before the window closes.
    MoveDoesNotFitWindow, Retry, "wait for the next window, or make it longer";
    /// A host, or a group of hosts, could not be emptied, and no move mends that.
    HeadroomMissing, AwaitChange, "make room, or take what is in the way off the hosts; `Drainable` of each Host tells more";
    /// No way was found with the effort that a plan may take; there may be one.
    EffortSpent, AwaitChange, "raise `effort` of the Fleet, or make room";
    /// A window names a time zone that is not in the database.
    TimeZoneUnknown, AwaitChange, "name it as the IANA database does: Europe/Berlin, America/New_York, UTC";
    /// What may begin within an hour has begun.
    LimitReached, Retry, "wait, or raise `limits`";
    /// An older policy has the host.
    HostInAnotherPolicy, AwaitChange, "take the host out of one of the two policies";
    /// Every slot for moves is taken.
    SlotsTaken, Retry, "";
    /// The wish's own limit on parallel moves is reached.
    ParallelLimit, Retry, "";
    /// Moves of several guests to this host failed in a row: it rests as a target.
    CircuitOpen, Retry, "look at what failed on it; after the rest one move is tried, at once where its libvirtd comes back or its Host changes";
    /// A failed move rests before it is tried again.
    BackingOff, Retry, "";

    // What the guest is.
    /// A device that libvirt can't migrate.
    DeviceNotMigratable, AwaitChange, "detach the device, or move the guest while it is stopped";
    /// An element of the domain's XML that we do not know.
    UnknownFeature, AwaitChange, "ask for it to be supported; until then this guest does not move";
    /// Something else manages the guest.
    ManagedElsewhere, AwaitChange, "move it with the system that manages it";
    /// The guest is not running and nothing asked to move stopped guests.
    GuestNotRunning, AwaitChange, "start the guest, or leave it where it is";
    /// The domain is transient.
    TransientDomain, AwaitChange, "define it persistently (`virsh define`)";
    /// Two hosts run a copy of the guest.
    RunsTwice, AwaitChange, "find out which copy is to live and discard the other by hand";
    /// Two hosts define the guest.
    DefinedTwice, AwaitChange, "undefine the copy that is not wanted";
    /// A block job runs on one of the guest's disks.
    BlockJobActive, Retry, "wait for the block job, or end it";
    /// Another job of libvirt's runs on the guest.
    JobActive, Retry, "wait for the job, or end it";
    /// A disk that can't be copied this way.
    DiskNotMovable, AwaitChange, "put the disk in a storage pool as a raw or qcow2 file";

    /// The secret that opens one of the guest's disks is not on its host, or has no value there.
    SecretMissing, AwaitChange, "define the secret on the guest's host and set its value (`virsh secret-define`, `virsh secret-set-value`)";
    /// The secret that opens one of the guest's disks is private: libvirt gives out its value to nobody.
    SecretPrivate, AwaitChange, "undefine it, define it again with private='no' and set the same value";
    /// The target has a secret of that UUID or usage already, and it is another one.
    SecretDiffers, AwaitChange, "make both equal in usage and value, or remove the target's after making sure that nothing there needs it";

    // What happens during a move.
    /// A hypervisor answered with an error nobody foresaw.
    HypervisorError, Retry, "look at the message and at the logs of both libvirtd";
    /// The copy could not keep up with the guest's writes.
    NotConverging, Retry, "give it more bandwidth or a longer downtime";
    /// The copy made no progress.
    CopyStalled, Retry, "check the network between the hosts";
    /// The target was lost while copying.
    TargetLost, AvoidTarget, "check the target's libvirtd and QEMU; the guest runs on at its source";
    /// The source was lost.
    SourceLost, Retry, "bring the source back; nothing is decided without it";
    /// The target's QEMU or storage refused.
    TargetFailed, AvoidTarget, "look at the guest's log on the target";
    /// The guest stopped while it was being moved.
    GuestStopped, AwaitChange, "start it where it is, if it should run";
    /// Somebody paused the guest while it was being copied, which libvirt forgets.
    GuestPaused, AwaitChange, "pause it again once the move is over";
    /// The guest was stopped and was started while it was being moved.
    GuestStarted, AwaitChange, "leave it: it is moved as a running guest then";
    /// The guest crashed while it was being moved.
    GuestCrashed, AwaitChange, "start it from its own disks at the source";
    /// What both ends show fits no proven outcome.
    OutcomeUnknown, Retry, "nothing is removed until both ends answer";
    /// The controller was restarted during the move.
    Interrupted, Retry, "";

    /// The guest has arrived, and what was copied may still lie in the memory of the target's kernel.
    DisksUnwritten, Retry, "nothing has to be done: what the source has stays until it is written, then the move ends by itself";
    /// The guest runs at the target, and a part of its memory is still to follow.
    PostCopy, Retry, "leave both hosts alone until it has ended: the loss of either one loses the guest's memory";
    /// The memory that is still to follow does not travel any more, or libvirt does not see that it does.
    PostCopyFailed, Retry, "check the network between the hosts; it is taken up again by itself, as often as needed";
    /// A part of the guest's memory is lost for good.
    MemoryLost, AwaitChange, "end what is left of it on both hosts and start it on the target: its disks there are the current ones";

    // States worth a word.
    /// As it should be.
    AsExpected, Terminal, "";
    /// Still working on it.
    InProgress, Retry, "";
    /// Waiting for its turn.
    Waiting, Retry, "";
    /// Finished and proven.
    Completed, Terminal, "";
    /// Hosts in the drain still have guests.
    GuestsLeft, Retry, "";
    /// Moves of the drain are not finished.
    MovesInFlight, Retry, "";
    /// The host's Kubernetes node is cordoned, which drains the host.
    NodeCordoned, AwaitChange, "`kubectl uncordon` ends the drain";
    /// It is suspended.
    Suspended, AwaitChange, "set `suspend: false`";
    /// The guest is to be shut down for a drain, once others have left.
    ShutdownPending, Retry, "";
    /// The guest was asked to shut down for a drain.
    ShuttingDown, Retry, "";
    /// The guest did not shut down when it was asked to.
    ShutdownTimedOut, AwaitChange, "shut it down yourself, or change `shutdownTimeout` of the drain to have it asked again";
    /// The guest was shut down for a drain that is over, and is to be started again.
    RestartPending, Retry, "";
    /// Guests are in the way and will stay so until something changes.
    Blocked, AwaitChange, "see the guests and reasons listed";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A reason with its sentence. The hint is the reason's own unless there is a better one.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[error("{reason}: {message}")]
pub struct Cause {
    /// The word.
    pub reason: Reason,
    /// One sentence, with the names and figures of this case.
    pub message: String,
    /// What a person can do.
    pub hint: String,
}

impl Cause {
    /// A cause with the reason's own hint.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            hint: reason.hint().to_owned(),
        }
    }

    /// The same with a better hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}
