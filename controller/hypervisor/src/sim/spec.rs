//! What a simulated fleet is made of: hosts and guests, as a test or a simulation describes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::port::{CpuNeed, InterfaceFacts, InterfaceSource};
use uuid::Uuid;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// A host to be simulated.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// Its address: `sim://NAME/system`.
    pub name: String,
    /// CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes per second that its link carries, all moves together.
    pub bandwidth: u64,
    /// libvirt's version.
    pub libvirt: String,
    /// Pools: name and size in bytes. Each lies at `/pools/NAME`. One with a path for its name is a directory that
    /// libvirt has no pool for.
    pub pools: Vec<(String, u64)>,
    /// Where else some of them lie.
    pub paths: BTreeMap<String, String>,
    /// Bytes in these pools that somebody else has taken.
    pub taken: BTreeMap<String, u64>,
    /// Network storage that is mounted here, with a pool `shared` over it.
    pub shared: Option<Mount>,
    /// What it offers guests.
    pub offers: Offers,
}

/// What a simulated host offers guests.
#[derive(Debug, Clone)]
pub struct Offers {
    /// QEMU's version.
    pub hypervisor: String,
    /// Equal for hosts that are equal to a guest whose CPU is its host's.
    pub cpu: String,
    /// Emulators and the machine types each knows.
    pub machines: BTreeMap<String, BTreeSet<String>>,
    /// libvirt networks.
    pub networks: BTreeSet<String>,
    /// Bridges; absent: it can't tell.
    pub bridges: Option<BTreeSet<String>>,
    /// Network filters.
    pub nwfilters: BTreeSet<String>,
    /// CPU models that it can't give.
    pub lacks: BTreeSet<String>,
}

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
const MACHINE: &str = "pc-q35-7.2";

impl Default for Offers {
    fn default() -> Self {
        let machines = BTreeSet::from(["q35".to_owned(), MACHINE.to_owned()]);
        Self {
            hypervisor: "7.2.22".to_owned(),
            cpu: "sim".to_owned(),
            machines: BTreeMap::from([(EMULATOR.to_owned(), machines)]),
            networks: BTreeSet::from(["default".to_owned()]),
            bridges: None,
            nwfilters: BTreeSet::new(),
            lacks: BTreeSet::new(),
        }
    }
}

/// What a simulated guest needs of its host.
#[derive(Debug, Clone)]
pub struct Needs {
    /// Its CPU.
    pub cpu: CpuNeed,
    /// The CPU model that it asks for by name.
    pub model: Option<String>,
    /// Emulator.
    pub emulator: String,
    /// Machine type.
    pub machine: String,
    /// Interfaces.
    pub interfaces: Vec<InterfaceFacts>,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            cpu: CpuNeed::Model,
            model: None,
            emulator: EMULATOR.to_owned(),
            machine: MACHINE.to_owned(),
            interfaces: vec![InterfaceFacts {
                mac: "52:54:00:00:00:01".to_owned(),
                source: InterfaceSource::Network("default".to_owned()),
                filter: None,
                plugged: true,
                addresses: Vec::new(),
            }],
        }
    }
}

/// Network storage, mounted.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Its name in the whole fleet: what bears the same is the same storage.
    pub store: String,
    /// Where it is mounted.
    pub path: String,
    /// The pool's type: `netfs`, or `dir` where somebody else mounted it.
    pub kind: &'static str,
}

impl HostPlan {
    /// A host with libvirt 9.0, 8 CPUs, 8 GiB of memory, a 20 GiB pool `default` and a link of 100 MiB/s.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cpus: 8,
            memory: 8 * GIB,
            bandwidth: 100 * MIB,
            libvirt: "9.0.0".to_owned(),
            pools: vec![("default".to_owned(), 20 * GIB)],
            paths: BTreeMap::new(),
            taken: BTreeMap::new(),
            shared: None,
            offers: Offers::default(),
        }
    }

    /// With another amount of memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// With another link, in bytes per second.
    #[must_use]
    pub fn bandwidth(mut self, bytes: u64) -> Self {
        self.bandwidth = bytes;
        self
    }

    /// With another libvirt.
    #[must_use]
    pub fn libvirt(mut self, version: &str) -> Self {
        self.libvirt = version.to_owned();
        self
    }

    /// With network storage of that name, mounted at that path, in a pool of that type.
    #[must_use]
    pub fn shared(mut self, store: &str, path: &str, kind: &'static str) -> Self {
        self.shared = Some(Mount {
            store: store.to_owned(),
            path: path.to_owned(),
            kind,
        });
        self
    }

    /// With another pool `default`, in bytes.
    #[must_use]
    pub fn pool(mut self, bytes: u64) -> Self {
        self.pools = vec![("default".to_owned(), bytes)];
        self
    }
}

/// A guest to be simulated: running, persistent, one qcow2 disk `vda` in the pool `default`.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    /// Its domain's name.
    pub name: String,
    /// Its UUID; made from the name.
    pub uuid: Uuid,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes dirtied per second while it runs.
    pub dirty: u64,
    /// Disks: target device, virtual size, bytes in use.
    pub disks: Vec<(String, u64, u64)>,
    /// Of its disks, those in the pool `shared`.
    pub shared: Vec<String>,
    /// The pool of each other disk, by target device; `default` where this says nothing.
    pub pools: BTreeMap<String, String>,
    /// The directory below their pool's in which its disks are; nothing where they are right in the pool's.
    pub folder: Option<String>,
    /// A base image below its disks: path, and the bytes it occupies. Guests of one path share the file.
    pub base: Option<(String, u64)>,
    /// Other files it needs: role, path, length in bytes. Guests of one path share the file.
    pub files: Vec<(String, String, u64)>,
    /// Whether its disks are given by pool and volume.
    pub named: bool,
    /// What opens its disks, where they are encrypted. Guests may share it.
    pub secret: Option<Uuid>,
    /// Starts with its host.
    pub autostart: bool,
    /// How long it takes to shut down when it is asked to; nothing: it does not listen.
    pub shuts_down: Option<Duration>,
    /// How often it flushes its disks; nothing: never.
    pub flushes: Option<Duration>,
    /// Another system that manages it.
    pub managed_by: Option<String>,
    /// What keeps it from being migrated.
    pub obstacles: Vec<Cause>,
    /// Labels in its metadata.
    pub labels: BTreeMap<String, String>,
    /// Bytes that its QEMU takes beyond its memory.
    pub overhead: u64,
    /// Whether it runs.
    pub runs: bool,
    /// What it needs of its host.
    pub needs: Needs,
}

impl GuestPlan {
    /// A guest with one CPU, 512 MiB of memory and a 1 GiB disk of which 400 MiB are used.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            uuid: uuid_of("guest", name),
            vcpus: 1,
            memory: 512 * MIB,
            dirty: 4 * MIB,
            disks: vec![("vda".to_owned(), GIB, 400 * MIB)],
            shared: Vec::new(),
            pools: BTreeMap::new(),
            folder: None,
            base: None,
            files: Vec::new(),
            named: false,
            secret: None,
            autostart: false,
            shuts_down: Some(Duration::from_secs(3)),
            flushes: Some(Duration::from_millis(300)),
            managed_by: None,
            obstacles: Vec::new(),
            labels: BTreeMap::new(),
            overhead: 64 * MIB,
            runs: true,
            needs: Needs::default(),
        }
    }

    /// With another amount of memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// With another disk: its virtual size and what it occupies, in bytes.
    #[must_use]
    pub fn disk(mut self, size: u64, used: u64) -> Self {
        self.disks = vec![("vda".to_owned(), size, used)];
        self
    }

    /// With one more disk of so many bytes, in the pool `shared`.
    #[must_use]
    pub fn shared_disk(mut self, target: &str, size: u64) -> Self {
        self.disks.push((target.to_owned(), size, size / 2));
        self.shared.push(target.to_owned());
        self
    }

    /// With its disks in that pool, or directory that is none.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        let targets = self.disks.iter().map(|(target, ..)| target.clone());
        self.pools = targets.map(|target| (target, pool.to_owned())).collect();
        self
    }

    /// With its disks in a directory below their pool's.
    #[must_use]
    pub fn folder(mut self, folder: &str) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// With a base image below its disks, of so many bytes.
    #[must_use]
    pub fn base(mut self, path: &str, bytes: u64) -> Self {
        self.base = Some((path.to_owned(), bytes));
        self
    }

    /// With one more file that it needs: a `kernel`, `initrd`, or its own `nvram`, of so many bytes.
    #[must_use]
    pub fn file(mut self, role: &str, path: &str, length: u64) -> Self {
        self.files.push((role.to_owned(), path.to_owned(), length));
        self
    }

    /// With its disks given by pool and volume.
    #[must_use]
    pub fn named(mut self) -> Self {
        self.named = true;
        self
    }

    /// With encrypted disks, opened by the secret of that name.
    #[must_use]
    pub fn encrypted(mut self, secret: &str) -> Self {
        self.secret = Some(uuid_of("secret", secret));
        self
    }

    /// With a device of its host, which keeps it from being moved.
    #[must_use]
    pub fn device(mut self) -> Self {
        self.obstacles.push(Cause::new(
            Reason::DeviceNotMigratable,
            format!("{} has a device of its host", self.name),
        ));
        self
    }

    /// Taking that long to shut down when it is asked to; nothing: it does not listen.
    #[must_use]
    pub fn shuts_down(mut self, after: Option<Duration>) -> Self {
        self.shuts_down = after;
        self
    }

    /// Never flushing its disks.
    #[must_use]
    pub fn idle(mut self) -> Self {
        self.flushes = None;
        self
    }

    /// Starting with its host.
    #[must_use]
    pub fn autostart(mut self) -> Self {
        self.autostart = true;
        self
    }
}

/// A UUID that is a function of a name.
#[must_use]
pub fn uuid_of(kind: &str, name: &str) -> Uuid {
    let part = |salt: &str| {
        let bytes = [kind, salt, name].join("/");
        bytes.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let bits = u128::from(part("a")) << 64 | u128::from(part("b"));
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

/// How the simulated world behaves where the real one is random or tunable.
#[derive(Debug, Clone, Copy)]
pub struct Nature {
    /// How long a host's kernel sends into silence before a copy fails: 17 s with `tcp_retries2=5`, 15 min without.
    pub gives_up: Duration,
    /// What becomes of a source whose target's libvirtd dies while it switches; nothing: by chance, as measured.
    pub switch_fate: Option<SwitchFate>,
    /// Whether the answer to Finish is lost where it can be; nothing: by chance, as measured.
    pub answer_lost: Option<bool>,
    /// How many migrations a host may take in and send away at once, as its manifest says. Where this is said, more are
    /// noted as wrong, and so is what a host has no room for.
    pub most: Option<(usize, usize)>,
    /// How long a journal that has been made stays without a word.
    pub journal_empty: Duration,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            gives_up: Duration::from_secs(17),
            switch_fate: None,
            answer_lost: None,
            most: None,
            journal_empty: Duration::ZERO,
        }
    }
}

/// What becomes of a source whose target's libvirtd dies while it switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchFate {
    /// It goes on at the source.
    Resumes,
    /// The target had finished.
    Finishes,
    /// The source's QEMU crashes on an assertion.
    Crashes,
    /// The source stays paused with its job, without end.
    Hangs,
}
