//! A simulated fleet behind the engine's port: hosts, guests, links and every fault that was measured on real ones, in
//! memory and on tokio's time. With a paused clock hours pass in milliseconds, and the same seed gives the same story.
//!
//! [`Fleet`] is the world as an experimenter has it: it makes hosts and guests, breaks things (`faults`), and tells what
//! is really so (`truth`), whatever any libvirtd says. [`Client`] is one program's way into it.

mod aftermath;
mod durable;
mod facts;
mod faults;
mod files;
mod handle;
mod laws;
mod line;
mod migration;
mod post_copy;
mod secrets;
mod spec;
mod trouble;
mod truth;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_crds::names::HostName;
use evenkeel_engine::port::{
    Activity, DomainEvent, Endpoint, Hypervisor, Hypervisors, Notice, Why,
};
use tokio::sync::mpsc;
use uuid::Uuid;

pub use migration::Phase;
pub use spec::{GIB, GuestPlan, HostPlan, MIB, Nature, Needs, Offers, SwitchFate, uuid_of};
use world::{Chance, Daemon, Disk, Domain, File, Kind, Machine, Pool, Qemu, Truth, World};

/// How often a world is looked after in which nothing moves.
const IDLE: Duration = Duration::from_millis(60);

/// The URI of a simulated host.
#[must_use]
pub fn uri(host: &str) -> String {
    format!("sim://{host}/system")
}

fn machine_of(uri: &str) -> Option<&str> {
    uri.strip_prefix("sim://")?.strip_suffix("/system")
}

/// A simulated fleet. Clones are the same fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a pool lies; a directory that is none goes by its path.
pub fn folder(pool: &str) -> String {
    if pool.starts_with('/') {
        return pool.to_owned();
    }
    format!("/pools/{pool}")
}

impl Fleet {
    /// An empty fleet on the current runtime. The seed decides what is left to chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World {
            chance: Chance(seed),
            nature: Nature::default(),
            machines: BTreeMap::new(),
            guests: BTreeMap::new(),
            moves: BTreeMap::new(),
            cuts: BTreeSet::new(),
            lines: BTreeMap::new(),
            agenda: Vec::new(),
            violations: Vec::new(),
            numbers: 0,
            arrivals: 0,
            definitions: BTreeMap::new(),
            carried: 0,
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut pause = migration::TICK;
            loop {
                tokio::time::sleep(pause).await;
                let Some(shared) = weak.upgrade() else {
                    return;
                };
                let mut world = shared.world();
                world.tick();
                let idle = world.moves.is_empty() && world.agenda.is_empty();
                pause = if idle { IDLE } else { migration::TICK };
            }
        });
        Self { shared }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    /// Decides what is else left to chance.
    pub fn nature(&self, change: impl FnOnce(&mut Nature)) {
        change(&mut self.world().nature);
    }

    /// Adds a host, powered, its libvirtd up.
    pub fn add_host(&self, plan: &HostPlan) {
        let pool = |(name, total): &(String, u64)| Pool {
            name: name.clone(),
            path: plan
                .paths
                .get(name)
                .cloned()
                .unwrap_or_else(|| folder(name)),
            total: *total,
            taken: plan.taken.get(name).copied().unwrap_or(0),
            kind: "dir",
            store: None,
        };
        let mount = plan.shared.iter().map(|mount| Pool {
            name: "shared".to_owned(),
            path: mount.path.clone(),
            total: spec::GIB * 20,
            taken: 0,
            kind: mount.kind,
            store: Some(mount.store.clone()),
        });
        let machine = Machine {
            uuid: uuid_of("host", &plan.name),
            cpus: plan.cpus,
            memory: plan.memory,
            libvirt: plan.libvirt.clone(),
            bandwidth: plan.bandwidth,
            powered: true,
            daemon: Daemon::Up,
            generation: 1,
            pools: plan.pools.iter().map(pool).chain(mount).collect(),
            files: BTreeMap::new(),
            directories: BTreeSet::new(),
            used: BTreeSet::new(),
            domains: BTreeMap::new(),
            secrets: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            claim: None,
            offers: plan.offers.clone(),
        };
        self.world().machines.insert(plan.name.clone(), machine);
    }

    /// Adds a guest, running on the host, and returns its UUID.
    pub fn add_guest(&self, host: &str, plan: &GuestPlan) -> Uuid {
        let mut world = self.world();
        let mut disks = Vec::new();
        if let (Some((path, bytes)), Some(machine)) = (&plan.base, world.machine(host)) {
            let base = File {
                capacity: *bytes,
                allocated: *bytes,
                kind: Kind::Plain {
                    content: path.as_bytes().to_vec(),
                    kept: true,
                },
                backing: None,
            };
            machine.files.entry(path.clone()).or_insert(base);
        }
        for (target, size, used) in &plan.disks {
            let mounted = plan.shared.contains(target).then(|| {
                let mut pools = world.machines[host].pools.iter();
                pools
                    .find(|pool| pool.store.is_some())
                    .map(|pool| pool.path.clone())
            });
            let pool = plan.pools.get(target).map_or("default", String::as_str);
            let folder = mounted.flatten().unwrap_or_else(|| self::folder(pool));
            let folder = match &plan.folder {
                Some(below) => format!("{folder}/{below}"),
                None => folder,
            };
            let path = format!("{folder}/{}-{target}.qcow2", plan.name);
            let file = File {
                capacity: *size,
                allocated: *used,
                kind: Kind::Image(None),
                backing: plan.base.as_ref().map(|(path, _)| path.clone()),
            };
            if let Some(machine) = world.machine(host) {
                machine.make_directories(&path);
                machine.files.insert(path.clone(), file);
            }
            disks.push(Disk {
                target: target.clone(),
                path,
                named: plan.named,
                size: *size,
                secret: plan.secret,
            });
        }
        if let (Some(id), Some(machine)) = (plan.secret, world.machine(host)) {
            let secret = || secrets::own(id, Some(secrets::value_of(id)), false);
            machine.secrets.entry(id).or_insert_with(secret);
        }
        let mut files = BTreeMap::new();
        for (role, path, length) in &plan.files {
            let content = path.as_bytes().to_vec();
            files.insert(path.clone(), content.clone());
            let file = File {
                capacity: *length,
                allocated: *length,
                kind: Kind::Plain {
                    content,
                    kept: role != "nvram",
                },
                backing: None,
            };
            if let Some(machine) = world.machine(host) {
                machine.files.entry(path.clone()).or_insert(file);
            }
        }
        let truth = Truth {
            name: plan.name.clone(),
            disks: disks.len(),
            files,
            boots: u32::from(plan.runs),
            dirty: plan.dirty,
            shuts_down: plan.shuts_down,
            flushes: plan.flushes,
            ..Truth::default()
        };
        world.guests.insert(plan.uuid, truth);
        let domain = Domain {
            name: plan.name.clone(),
            vcpus: plan.vcpus,
            memory: plan.memory,
            overhead: plan.overhead,
            needs: plan.needs.clone(),
            disks,
            files: plan
                .files
                .iter()
                .map(|(role, path, _)| (role.clone(), path.clone()))
                .collect(),
            labels: plan.labels.clone(),
            managed_by: plan.managed_by.clone(),
            obstacles: plan.obstacles.clone(),
            activity: if plan.runs {
                Activity::Running
            } else {
                Activity::ShutOff
            },
            why: Why::Other,
            persistent: true,
            autostart: plan.autostart,
            qemu: Qemu::None,
            mark: None,
            last_move: None,
            shutdown_mark: None,
            job: None,
            incoming: None,
            completed: None,
            held: false,
            undefined: false,
        };
        if let Some(machine) = world.machine(host) {
            machine.domains.insert(plan.uuid, domain);
        }
        world.event(host, plan.uuid, DomainEvent::Defined);
        if plan.runs {
            world.qemu(host, plan.uuid, Qemu::Runs);
            world.event(host, plan.uuid, DomainEvent::Booted);
        }
        plan.uuid
    }

    /// A program's way into the fleet, by a name of its own: faults can cut it off alone.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        Client {
            fleet: self.clone(),
            name: format!("@{name}"),
        }
    }
}

/// One program's way into a simulated fleet.
#[derive(Debug, Clone)]
pub struct Client {
    fleet: Fleet,
    name: String,
}

impl Hypervisors for Client {
    fn attach(
        &self,
        host: &HostName,
        endpoint: &Endpoint,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Arc<dyn Hypervisor> {
        let machine = machine_of(&endpoint.uri).unwrap_or_default();
        line::Handle::open(&self.fleet.shared, &self.name, machine, host, notices)
    }
}
