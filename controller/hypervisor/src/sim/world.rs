//! The state of a simulated fleet, and what is true of it whatever any libvirtd says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::reason::Cause;
use evenkeel_engine::port::{
    Activity, ClaimRecord, CompletedFacts, DiskPlace, DomainEvent, Fault, LastMove, Mark,
    PortError, PortResult, SecretFacts, ShutdownMark, Why,
};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::{
    durable::Unwritten,
    migration::Move,
    spec::{Nature, Needs, Offers},
};

/// A seeded source of numbers (splitmix64).
#[derive(Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time between the two, in milliseconds.
    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.next() % (most - least + 1))
    }

    /// True so many times of a hundred.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// Everything.
#[derive(Debug)]
pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) nature: Nature,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) guests: BTreeMap<Uuid, Truth>,
    pub(super) moves: BTreeMap<u64, Move>,
    /// Pairs between which nothing passes: two hosts, or a client (as `@NAME`) and a host.
    pub(super) cuts: BTreeSet<(String, String)>,
    pub(super) lines: BTreeMap<u64, Line>,
    pub(super) agenda: Vec<Due>,
    /// What must never have happened.
    pub(super) violations: Vec<String>,
    pub(super) numbers: u64,
    /// Guests that came to run at the target of a migration.
    pub(super) arrivals: u64,
    /// Definitions as they were read, by what stands for their text.
    pub(super) definitions: BTreeMap<String, (Uuid, Domain)>,
    /// Files that were written to their end by a program.
    pub(super) carried: usize,
}

/// A client's connection to a host.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) machine: String,
    pub(super) up: Option<bool>,
    /// The libvirtd it was made to, so that one that came back is told apart.
    pub(super) generation: u64,
    pub(super) inbox: mpsc::UnboundedSender<Tiding>,
}

/// What a line hears.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tiding {
    Event(Uuid, DomainEvent),
    Changed(Uuid),
    Surroundings,
}

/// Something that will be done later, once the libvirtd of `needs` is there to do it.
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) needs: Option<String>,
    pub(super) act: Box<dyn FnOnce(&mut World) + Send>,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {:?} by {:?}", self.at, self.needs)
    }
}

/// What is really so with a guest.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) name: String,
    /// Where a QEMU executes it now.
    pub(super) executing: BTreeSet<String>,
    pub(super) ever_twice: bool,
    /// Rises each time it begins to execute; a file with this number has its newest data.
    pub(super) newest: u64,
    pub(super) disks: usize,
    /// What its other files hold.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Times it was started anew.
    pub(super) boots: u32,
    /// When it was last started anew.
    pub(super) booted: Option<Instant>,
    pub(super) dirty: u64,
    /// Thousandths of a CPU that it takes, since when, and all CPU time that it took before.
    pub(super) busy: (u64, Option<Instant>, Duration),
    /// How long it takes to shut down when it is asked to; nothing: it does not listen.
    pub(super) shuts_down: Option<Duration>,
    /// When it was first asked to, since it was started.
    pub(super) asked: Option<Instant>,
    /// How often it flushes its disks; nothing: never.
    pub(super) flushes: Option<Duration>,
    /// How often programs paused it.
    pub(super) suspended: u32,
    /// When a journal last said that its move pauses it for a moment.
    pub(super) halted: Option<Instant>,
}

impl Truth {
    /// CPU time that it has taken so far.
    pub(super) fn cpu_time(&self) -> Duration {
        let (milli, since, before) = self.busy;
        let lasted = since.map_or(Duration::ZERO, |since| since.elapsed());
        before + lasted.mul_f64(milli as f64 / 1000.0)
    }
}

/// How a host's libvirtd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Daemon {
    Up,
    Down,
    Hung,
}

/// Whether something gets through to a host's libvirtd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Open,
    /// The machine answers that nobody listens.
    Refused,
    /// Nothing comes back.
    Silent,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) uuid: Uuid,
    pub(super) cpus: u32,
    pub(super) memory: u64,
    pub(super) bandwidth: u64,
    pub(super) libvirt: String,
    pub(super) powered: bool,
    pub(super) daemon: Daemon,
    pub(super) generation: u64,
    pub(super) pools: Vec<Pool>,
    pub(super) files: BTreeMap<String, File>,
    /// Directories outside pools that its clients were told of.
    pub(super) used: BTreeSet<String>,
    /// Directories below those of pools.
    pub(super) directories: BTreeSet<String>,
    pub(super) domains: BTreeMap<Uuid, Domain>,
    pub(super) secrets: BTreeMap<Uuid, Secret>,
    /// By guest, what its kernel has in memory of disks that were copied here.
    pub(super) unwritten: BTreeMap<Uuid, Unwritten>,
    pub(super) claim: Option<ClaimRecord>,
    pub(super) offers: Offers,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) total: u64,
    /// Taken by what is no file of ours.
    pub(super) taken: u64,
    /// libvirt's type of it.
    pub(super) kind: &'static str,
    /// Network storage by its name in the whole fleet: its files are the same wherever it is mounted.
    pub(super) store: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) capacity: u64,
    pub(super) allocated: u64,
    pub(super) kind: Kind,
    /// The base that it lies over.
    pub(super) backing: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A disk: whose data it has, and of when; nothing while it is empty or incomplete.
    Image(Option<(Uuid, u64)>),
    Journal(Uuid, String),
    /// Neither: a kernel, a firmware's variables. Empty while it is incomplete.
    Plain {
        content: Vec<u8>,
        /// Whether others may read it too: then it is never to be removed.
        kept: bool,
    },
    /// Somebody else's, never to be touched.
    Foreign,
}

/// A QEMU process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qemu {
    None,
    Still,
    Runs,
}

#[derive(Debug, Clone)]
pub(super) struct Domain {
    pub(super) name: String,
    pub(super) vcpus: u32,
    pub(super) memory: u64,
    /// What QEMU takes beyond that.
    pub(super) overhead: u64,
    pub(super) needs: Needs,
    pub(super) disks: Vec<Disk>,
    /// Other files that it needs: role and path.
    pub(super) files: Vec<(String, String)>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) managed_by: Option<String>,
    pub(super) obstacles: Vec<Cause>,
    pub(super) activity: Activity,
    pub(super) why: Why,
    pub(super) persistent: bool,
    pub(super) autostart: bool,
    pub(super) qemu: Qemu,
    pub(super) mark: Option<Mark>,
    pub(super) last_move: Option<LastMove>,
    pub(super) shutdown_mark: Option<ShutdownMark>,
    /// The migration away, where there is one.
    pub(super) job: Option<u64>,
    /// The migration that brings it here.
    pub(super) incoming: Option<u64>,
    pub(super) completed: Option<CompletedFacts>,
    /// A call of libvirtd's own that never returns holds it, until libvirtd is started anew.
    pub(super) held: bool,
    /// Somebody's undefining waits for it to arrive.
    pub(super) undefined: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) target: String,
    pub(super) path: String,
    /// Whether it is given by pool and volume.
    pub(super) named: bool,
    pub(super) size: u64,
    /// What opens it, where it is encrypted.
    pub(super) secret: Option<Uuid>,
}

#[derive(Debug)]
pub(super) struct Secret {
    pub(super) facts: SecretFacts,
    pub(super) value: Option<Vec<u8>>,
}

pub(super) fn pair(one: &str, other: &str) -> (String, String) {
    let (first, second) = if one <= other {
        (one, other)
    } else {
        (other, one)
    };
    (first.to_owned(), second.to_owned())
}

fn no_pool(name: &str) -> PortError {
    PortError::new(Fault::NotFound, format!("no storage pool named {name}"))
}

impl Machine {
    /// The file that a disk is on here, where it was given this place: one that is given by pool and volume is where its
    /// pool here is.
    pub(super) fn file_of(&self, disk: &Disk, place: &DiskPlace) -> PortResult<String> {
        if !disk.named {
            return Ok(place.path.clone());
        }
        let pool = self.pools.iter().find(|pool| pool.name == place.pool);
        let pool = pool.ok_or_else(|| no_pool(&place.pool))?;
        Ok(format!("{}/{}", pool.path, place.volume))
    }

    /// What a file occupies.
    pub(super) fn allocated(&self, path: &str) -> u64 {
        self.files.get(path).map_or(0, |file| file.allocated)
    }

    /// Every file that a domain names, with what lies below.
    pub(super) fn named_by(&self, domain: &Domain) -> Vec<String> {
        let disks = domain.disks.iter().map(|disk| disk.path.clone());
        let below = domain
            .disks
            .iter()
            .filter_map(|disk| self.files.get(&disk.path)?.backing.clone());
        let files = domain.files.iter().map(|(_, path)| path.clone());
        disks.chain(below).chain(files).collect()
    }

    /// The network storage that a file lies on.
    pub(super) fn store_of(&self, path: &str) -> Option<&String> {
        self.pool_of(path)?.store.as_ref()
    }

    pub(super) fn available(&self, pool: &Pool) -> u64 {
        let prefix = format!("{}/", pool.path);
        let files = self
            .files
            .iter()
            .filter(|(path, _)| path.starts_with(&prefix));
        let used: u64 = files.map(|(_, file)| file.allocated).sum();
        pool.total.saturating_sub(pool.taken + used)
    }

    pub(super) fn pool_of(&self, path: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| {
            path.strip_prefix(&pool.path)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }

    pub(super) fn journal_path(&self, pool: &str, id: Uuid) -> PortResult<String> {
        let pool = self
            .pools
            .iter()
            .find(|own| own.name == pool)
            .ok_or_else(|| no_pool(pool))?;
        Ok(format!("{}/.evenkeel-{id}", pool.path))
    }

    /// The directories between a pool's own and a file below, from the top down.
    fn between(&self, path: &str) -> Vec<String> {
        let Some(pool) = self.pool_of(path) else {
            return Vec::new();
        };
        let below = &path[pool.path.len() + 1..];
        let ends = below.match_indices('/');
        ends.map(|(end, _)| format!("{}/{}", pool.path, &below[..end]))
            .collect()
    }

    pub(super) fn make_directories(&mut self, path: &str) {
        let all = self.between(path);
        self.directories.extend(all);
    }

    pub(super) fn missing_directory(&self, path: &str) -> Option<String> {
        let all = self.between(path);
        all.into_iter().find(|one| !self.directories.contains(one))
    }

    /// Removes directories as far as they are empty, from a file's up to `top`.
    pub(super) fn remove_directories(&mut self, path: &str, top: &str) {
        for directory in self.between(path).iter().rev() {
            let inside = format!("{directory}/");
            let mut all = self.files.keys().chain(&self.directories);
            if directory.len() < top.len() || all.any(|one| one.starts_with(&inside)) {
                return;
            }
            self.directories.remove(directory);
        }
    }

    /// Makes a file, exclusively.
    pub(super) fn create(&mut self, pool: &str, name: &str, file: File) -> PortResult<String> {
        let pool = self
            .pools
            .iter()
            .find(|own| own.name == pool)
            .ok_or_else(|| no_pool(pool))?;
        let path = format!("{}/{name}", pool.path);
        if self.files.contains_key(&path) {
            return Err(PortError::new(
                Fault::Exists,
                format!("storage vol '{name}' already exists"),
            ));
        }
        if self.available(pool) < file.allocated {
            return Err(PortError::new(
                Fault::NoSpace,
                format!("cannot create {path}: No space left on device"),
            ));
        }
        self.make_directories(&path);
        self.files.insert(path.clone(), file);
        Ok(path)
    }

    /// Who names each file.
    pub(super) fn references(&self, except: Option<Uuid>) -> BTreeMap<String, Vec<String>> {
        let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (uuid, domain) in &self.domains {
            if Some(*uuid) != except {
                for path in self.named_by(domain) {
                    named.entry(path).or_default().push(domain.name.clone());
                }
            }
        }
        named
    }
}

impl World {
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn machine(&mut self, host: &str) -> Option<&mut Machine> {
        self.machines.get_mut(host)
    }

    /// What a host has on network storage is what every other host has there.
    pub(super) fn spread(&mut self, host: &str) {
        let Some(machine) = self.machines.get(host) else {
            return;
        };
        let mounted = |pool: &Pool| Some((pool.store.clone()?, format!("{}/", pool.path)));
        let mounts: Vec<(String, String)> = machine.pools.iter().filter_map(mounted).collect();
        for (store, root) in mounts {
            let own = self.machines[host].files.iter();
            let files: Vec<(String, File)> = own
                .filter_map(|(path, file)| {
                    Some((path.strip_prefix(&root)?.to_owned(), file.clone()))
                })
                .collect();
            for machine in self.machines.values_mut() {
                let there = machine.pools.iter().filter_map(mounted);
                let Some((_, root)) = there.into_iter().find(|(other, _)| *other == store) else {
                    continue;
                };
                machine.files.retain(|path, _| !path.starts_with(&root));
                let same = files
                    .iter()
                    .map(|(name, file)| (format!("{root}{name}"), file.clone()));
                machine.files.extend(same);
            }
        }
    }

    pub(super) fn domain(&mut self, host: &str, uuid: Uuid) -> Option<&mut Domain> {
        self.machines.get_mut(host)?.domains.get_mut(&uuid)
    }

    /// Whether `from` (a host, or a client as `@NAME`) gets through to the host's libvirtd.
    pub(super) fn reach(&self, from: &str, host: &str) -> Reach {
        let Some(machine) = self.machines.get(host) else {
            return Reach::Silent;
        };
        if !machine.powered || self.cuts.contains(&pair(from, host)) {
            return Reach::Silent;
        }
        match machine.daemon {
            Daemon::Up => Reach::Open,
            Daemon::Down => Reach::Refused,
            Daemon::Hung => Reach::Silent,
        }
    }

    pub(super) fn later(
        &mut self,
        after: Duration,
        needs: Option<&str>,
        act: impl FnOnce(&mut World) + Send + 'static,
    ) {
        self.agenda.push(Due {
            at: Instant::now() + after,
            needs: needs.map(str::to_owned),
            act: Box::new(act),
        });
    }

    /// Does what is due and can be done.
    pub(super) fn keep_agenda(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.agenda.len() {
            let due = &self.agenda[at];
            let able = due.needs.as_ref().is_none_or(|host| {
                let machine = &self.machines[host];
                machine.powered && machine.daemon == Daemon::Up
            });
            if due.at <= now && able {
                let due = self.agenda.remove(at);
                (due.act)(self);
                // What it did may have changed what else can be done.
                at = 0;
            } else {
                at += 1;
            }
        }
    }

    pub(super) fn tell(&self, host: &str, tiding: Tiding) {
        for line in self
            .lines
            .values()
            .filter(|line| line.machine == host && line.up == Some(true))
        {
            let _ = line.inbox.send(tiding);
        }
    }

    pub(super) fn event(&self, host: &str, uuid: Uuid, event: DomainEvent) {
        self.tell(host, Tiding::Event(uuid, event));
    }

    /// Gives a domain a state, as its libvirtd sees it.
    pub(super) fn state(&mut self, host: &str, uuid: Uuid, activity: Activity, why: Why) {
        if let Some(domain) = self.domain(host, uuid) {
            (domain.activity, domain.why) = (activity, why);
        }
        self.tell(host, Tiding::Changed(uuid));
    }

    /// Removes a domain that has neither QEMU nor definition left.
    pub(super) fn forget(&mut self, host: &str, uuid: Uuid) {
        self.qemu(host, uuid, Qemu::None);
        if let Some(machine) = self.machine(host) {
            machine.domains.remove(&uuid);
        }
        self.tell(host, Tiding::Changed(uuid));
    }

    /// A domain's QEMU is gone: what is left is its definition, if it has one.
    pub(super) fn stopped(&mut self, host: &str, uuid: Uuid, activity: Activity, why: Why) {
        self.qemu(host, uuid, Qemu::None);
        let Some(domain) = self.domain(host, uuid) else {
            return;
        };
        (domain.job, domain.incoming) = (None, None);
        if domain.persistent {
            self.state(host, uuid, activity, why);
        } else {
            self.forget(host, uuid);
        }
        self.event(host, uuid, DomainEvent::Stopped);
    }
}
