//! What can be broken in a simulated fleet, and mended.

use std::time::Duration;

use evenkeel_crds::{
    kinds::profile::Compression,
    reason::{Cause, Reason},
};
use evenkeel_engine::port::{Activity, DomainEvent, Mark, MigrateRequest, Why};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{
    Fleet,
    world::{Daemon, Domain, File, Kind, Qemu, Tiding, World, pair},
};

impl Fleet {
    /// Kills a host's libvirtd. Its guests run on.
    pub fn kill_libvirtd(&self, host: &str) {
        let mut world = self.world();
        if let Some(machine) = world.machine(host) {
            machine.daemon = Daemon::Down;
        }
        // What is under way hears of it at once, however soon it is back.
        world.tick();
    }

    /// Starts a host's libvirtd again.
    pub fn start_libvirtd(&self, host: &str) {
        let mut world = self.world();
        let Some(machine) = world.machine(host) else {
            return;
        };
        machine.daemon = Daemon::Up;
        machine.generation += 1;
        for domain in machine.domains.values_mut() {
            domain.held = false;
        }
        world.find_dead(host);
    }

    /// Lets libvirtd hold a guest for a call of its own that never returns, and shows no job.
    pub fn hold_domain(&self, host: &str, guest: Uuid) {
        if let Some(domain) = self.world().domain(host, guest) {
            domain.held = true;
        }
    }

    /// Stops a host's libvirtd as SIGSTOP does, or lets it go on.
    pub fn hang_libvirtd(&self, host: &str, hung: bool) {
        if let Some(machine) = self.world().machine(host) {
            machine.daemon = match (machine.daemon, hung) {
                (Daemon::Up, true) => Daemon::Hung,
                (Daemon::Hung, false) => Daemon::Up,
                (other, _) => other,
            };
        }
    }

    /// Takes a host's power away: its guests are gone, its disks stay.
    pub fn power_off(&self, host: &str) {
        let mut world = self.world();
        let Some(machine) = world.machine(host) else {
            return;
        };
        machine.powered = false;
        let domains: Vec<Uuid> = machine.domains.keys().copied().collect();
        for uuid in domains {
            world.qemu(host, uuid, Qemu::None);
        }
        world.lose_unwritten(host);
        world.tick();
    }

    /// Gives it back: the host boots, and starts what has autostart.
    pub fn power_on(&self, host: &str) {
        let mut world = self.world();
        let Some(machine) = world.machine(host) else {
            return;
        };
        machine.powered = true;
        machine.daemon = Daemon::Up;
        machine.generation += 1;
        world.find_dead(host);
        let starting: Vec<Uuid> = world.machines[host]
            .domains
            .iter()
            .filter(|(_, domain)| domain.autostart)
            .map(|(uuid, _)| *uuid)
            .collect();
        for uuid in starting {
            world.boot(host, uuid);
        }
    }

    /// Cuts the link between two hosts, or mends it.
    pub fn cut(&self, one: &str, other: &str, cut: bool) {
        let mut world = self.world();
        if cut {
            world.cuts.insert(pair(one, other));
        } else {
            world.cuts.remove(&pair(one, other));
        }
    }

    /// Cuts one client off from a host, or mends that.
    pub fn cut_client(&self, client: &str, host: &str, cut: bool) {
        self.cut(&format!("@{client}"), host, cut);
    }

    /// Kills a guest's QEMU on a host.
    pub fn kill_qemu(&self, host: &str, guest: Uuid) {
        self.end_qemu(host, guest, Activity::Crashed, Why::Other);
    }

    /// The guest powers itself off, wherever it executes.
    pub fn shut_down(&self, guest: Uuid) {
        for host in self.executing(guest) {
            self.end_qemu(&host, guest, Activity::ShutOff, Why::Shutdown);
        }
    }

    fn end_qemu(&self, host: &str, guest: Uuid, activity: Activity, why: Why) {
        let mut world = self.world();
        world.qemu(host, guest, Qemu::None);
        if why == Why::Shutdown {
            world.flush(host, guest);
        }
        world.tick();
        let after = world.chance.millis(50, 1500);
        let name = host.to_owned();
        world.later(after, Some(host), move |world| {
            let dead = world
                .domain(&name, guest)
                .is_some_and(|domain| domain.qemu == Qemu::None);
            if dead {
                world.stopped(&name, guest, activity, why);
            }
        });
    }

    /// Pauses a guest, as a user does. In mid-copy libvirt shows and tells that as it does a switch.
    pub fn pause(&self, host: &str, guest: Uuid) {
        let mut world = self.world();
        world.qemu(host, guest, Qemu::Still);
        if world
            .domain(host, guest)
            .is_some_and(|own| own.job.is_some())
        {
            world.state(host, guest, Activity::Paused, Why::Migrating);
            world.event(host, guest, DomainEvent::SuspendedForSwitch);
            return;
        }
        world.state(host, guest, Activity::Paused, Why::ByUser);
        world.event(host, guest, DomainEvent::Suspended);
    }

    /// Lets a paused guest go on, as a user does.
    pub fn resume(&self, host: &str, guest: Uuid) {
        let mut world = self.world();
        if world
            .domain(host, guest)
            .is_some_and(|domain| domain.qemu == Qemu::Still)
        {
            world.qemu(host, guest, Qemu::Runs);
            world.state(host, guest, Activity::Running, Why::Unpaused);
            world.event(host, guest, DomainEvent::Resumed);
        }
    }

    /// Starts a guest that is defined on a host.
    pub fn start_guest(&self, host: &str, guest: Uuid) {
        self.world().boot(host, guest);
    }

    /// Puts a file of somebody else's into the host's default pool, or at a path, and returns that.
    pub fn put_file(&self, host: &str, name: &str, size: u64) -> String {
        let path = match name.starts_with('/') {
            true => name.to_owned(),
            false => format!("/pools/default/{name}"),
        };
        let file = File {
            capacity: size,
            allocated: size,
            kind: Kind::Foreign,
            backing: None,
        };
        if let Some(machine) = self.world().machine(host) {
            machine.make_directories(&path);
            machine.files.insert(path.clone(), file);
        }
        path
    }

    /// Somebody defines a domain of their own that names a guest's disk, inactive, and can't be moved. Its UUID.
    pub fn borrow_disk(&self, host: &str, guest: Uuid) -> Option<Uuid> {
        let mut world = self.world();
        let copy = world.domain(host, guest)?.clone();
        let name = format!("borrows-{}", copy.name);
        let uuid = super::uuid_of(host, &name);
        let borrower = Domain {
            name,
            activity: Activity::ShutOff,
            why: Why::Other,
            persistent: true,
            autostart: false,
            qemu: Qemu::None,
            mark: None,
            last_move: None,
            shutdown_mark: None,
            job: None,
            incoming: None,
            completed: None,
            held: false,
            undefined: false,
            obstacles: vec![Cause::new(
                Reason::DeviceNotMigratable,
                "it has a device of its host",
            )],
            ..copy
        };
        world.machine(host)?.domains.insert(uuid, borrower);
        world.tell(host, Tiding::Changed(uuid));
        Some(uuid)
    }

    /// Puts another content than anybody expects into a file, or makes it so, as its owner.
    pub fn put_content(&self, host: &str, path: &str, length: u64, content: &str) {
        let file = File {
            capacity: length,
            allocated: length,
            kind: Kind::Plain {
                content: content.as_bytes().to_vec(),
                kept: true,
            },
            backing: None,
        };
        if let Some(machine) = self.world().machine(host) {
            machine.files.insert(path.to_owned(), file);
        }
    }

    /// Damages every journal on a host: `damage` makes of each text what is read from now on.
    pub fn damage_journals(&self, host: &str, damage: impl Fn(&str) -> String) {
        if let Some(machine) = self.world().machine(host) {
            for file in machine.files.values_mut() {
                if let Kind::Journal(_, text) = &mut file.kind {
                    *text = damage(text);
                }
            }
        }
    }

    /// Removes a file, as its owner.
    pub fn remove_file(&self, host: &str, path: &str) {
        if let Some(machine) = self.world().machine(host) {
            machine.files.remove(path);
        }
    }

    /// Fills a host's default pool with something else, so that this much is left, or a little less.
    pub fn leave_room(&self, host: &str, bytes: u64) {
        if let Some(machine) = self.world().machine(host) {
            machine.pools[0].taken = 0;
            let free = machine.available(&machine.pools[0]);
            machine.pools[0].taken = free.saturating_sub(bytes);
        }
    }

    /// A job of somebody else's migrates the guest.
    pub fn migrate_by_hand(&self, guest: Uuid, source: &str, target: &str) -> bool {
        let (answer, _) = oneshot::channel();
        let request = MigrateRequest {
            domain: guest,
            target_uri: super::uri(target),
            target_address: None,
            encrypted: false,
            disks: Vec::new(),
            mark: Mark {
                id: Uuid::nil(),
                source: source.into(),
                target: target.into(),
                migration: String::new(),
            },
            bandwidth: None,
            downtime: Duration::from_millis(300),
            auto_converge: false,
            compression: Compression::None,
            connections: 1,
            paused: false,
            post_copy: false,
            direct: None,
            incremental: false,
        };
        self.world()
            .migrate(source, target, &request, true, answer)
            .is_ok()
    }

    /// Undefines a guest by hand while it is on its way to the host: libvirt does so once it has arrived.
    pub fn undefine_on_arrival(&self, host: &str, guest: Uuid) {
        if let Some(domain) = self.world().domain(host, guest) {
            domain.undefined = true;
        }
    }

    /// Ends a guest's QEMU by hand, as `virsh destroy` does.
    pub fn destroy(&self, host: &str, guest: Uuid) {
        let mut world = self.world();
        world.stopped(host, guest, Activity::ShutOff, Why::Destroyed);
        world.tick();
    }

    /// Removes a domain and its QEMU by hand; its files stay.
    pub fn discard(&self, host: &str, guest: Uuid) {
        let mut world = self.world();
        world.forget(host, guest);
        world.event(host, guest, DomainEvent::Stopped);
        // What runs elsewhere is the guest from now on.
        let others: Vec<String> = world
            .guests
            .get(&guest)
            .map_or_else(Vec::new, |truth| truth.executing.iter().cloned().collect());
        for other in others {
            world.qemu(&other, guest, Qemu::Still);
            world.qemu(&other, guest, Qemu::Runs);
        }
    }

    /// Copies a guest's disks over those of another host, by hand.
    pub fn copy_disks(&self, from: &str, to: &str, guest: Uuid) {
        let mut world = self.world();
        let whole = Kind::Image(Some((guest, world.guests[&guest].newest)));
        let Some(machine) = world.machine(to).filter(|_| from != to) else {
            return;
        };
        let disks = machine
            .domains
            .get(&guest)
            .map_or(&[][..], |own| &own.disks);
        for disk in disks {
            if let Some(file) = machine.files.get_mut(&disk.path) {
                file.kind = whole.clone();
            }
        }
    }

    /// A guest that ran twice was put in order by hand: from now on nothing of it is excused.
    pub fn forgive(&self, guest: Uuid) {
        if let Some(truth) = self.world().guests.get_mut(&guest) {
            truth.ever_twice = truth.executing.len() > 1;
        }
    }

    /// Somebody is told that it ran twice, and chooses between its copies as if it had.
    pub fn believe_twice(&self, guest: Uuid) {
        if let Some(truth) = self.world().guests.get_mut(&guest) {
            truth.ever_twice = true;
        }
    }

    /// Aborts a guest's migration by hand.
    pub fn abort_by_hand(&self, guest: Uuid) {
        for own in self
            .world()
            .moves
            .values_mut()
            .filter(|own| own.guest == guest)
        {
            own.abort = true;
        }
    }

    /// Sets what the guest takes, in thousandths of a CPU.
    pub fn busy(&self, guest: Uuid, milli: u64) {
        if let Some(truth) = self.world().guests.get_mut(&guest) {
            truth.busy = (milli, Some(Instant::now()), truth.cpu_time());
        }
    }

    /// Sets what the guest dirties per second.
    pub fn dirty(&self, guest: Uuid, bytes: u64) {
        if let Some(truth) = self.world().guests.get_mut(&guest) {
            truth.dirty = bytes;
        }
    }
}

impl World {
    /// A libvirtd that starts finds which of its domains still have a QEMU.
    fn find_dead(&mut self, host: &str) {
        let domains: Vec<Uuid> = self.machines[host].domains.keys().copied().collect();
        for uuid in domains {
            let dead = self
                .domain(host, uuid)
                .is_some_and(|domain| domain.qemu == Qemu::None && domain.activity.active());
            if dead {
                self.stopped(host, uuid, Activity::ShutOff, Why::Other);
            }
        }
    }

    /// Asks a guest to shut down: it does so after its time, once, or does not listen. One that stands still can't.
    pub(super) fn ask_to_shut_down(&mut self, host: &str, guest: Uuid) {
        let runs = self
            .domain(host, guest)
            .is_some_and(|domain| domain.qemu == Qemu::Runs);
        let Some(truth) = self.guests.get_mut(&guest).filter(|_| runs) else {
            return;
        };
        let asked = truth.asked.is_some();
        let (Some(after), false) = (truth.shuts_down, asked) else {
            return;
        };
        truth.asked = Some(Instant::now());
        let name = host.to_owned();
        self.later(after, Some(host), move |world| {
            let runs = world
                .domain(&name, guest)
                .is_some_and(|domain| domain.qemu == Qemu::Runs);
            let asked = world
                .guests
                .get(&guest)
                .is_some_and(|own| own.asked.is_some());
            if runs && asked {
                world.stopped(&name, guest, Activity::ShutOff, Why::Shutdown);
            }
        });
    }

    pub(super) fn boot(&mut self, host: &str, guest: Uuid) {
        let stopped = self
            .domain(host, guest)
            .is_some_and(|domain| domain.qemu == Qemu::None);
        if !stopped {
            return;
        }
        self.object_to_torn(host, guest);
        if let Some(truth) = self.guests.get_mut(&guest) {
            truth.boots += 1;
            truth.booted = Some(Instant::now());
            truth.asked = None;
        }
        self.qemu(host, guest, Qemu::Runs);
        self.state(host, guest, Activity::Running, Why::Other);
        self.event(host, guest, DomainEvent::Booted);
        self.tell(host, Tiding::Surroundings);
    }
}
