//! A migration as libvirt and QEMU do it: preparation, disks, memory, switch, the target's start, the source's end.
//! What goes wrong on the way is in `trouble`.

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    Activity, CompletedFacts, DomainEvent, Fault, JobFacts, Mark, MigrateRequest, PortError,
    PortResult, Why,
};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{
    post_copy::PostCopy,
    world::{Disk, Domain, File, Kind, Qemu, Reach, World},
};

/// How often the world moves on.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How long a source tries to connect to a silent target.
const CONNECT: Duration = Duration::from_secs(25);

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The source's libvirtd tries to reach the target's.
    Connect,
    /// The target's QEMU starts.
    Prepare,
    /// Disks are copied.
    Disks,
    /// Memory is copied.
    Memory,
    /// The source is paused, the last bytes travel.
    Switch,
    /// The source has handed over and waits; the target's libvirtd is to start the guest.
    Finish,
    /// The target runs; the source has not heard of it.
    Confirm,
    /// The source's QEMU is being ended.
    End,
    /// The target runs, and the rest of its memory follows.
    PostCopy,
    /// The source is paused for ever with its job.
    Stuck,
}

/// A migration under way.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) guest: Uuid,
    pub(super) source: String,
    pub(super) target: String,
    /// Path at the target, and bytes to copy; nothing where it is left in place.
    disks: Vec<(String, Option<u64>)>,
    incremental: bool,
    pub(super) mark: Option<Mark>,
    limit: Option<u64>,
    downtime: Duration,
    converge: bool,
    pub(super) phase: Phase,
    until: Instant,
    pub(super) paused_at: Instant,
    disks_total: u64,
    disks_done: u64,
    memory_total: u64,
    pub(super) memory_done: u64,
    pub(super) memory_left: u64,
    dirtied: u64,
    /// What the guest dirties per second, throttled and not.
    dirty: u64,
    dirties: u64,
    iteration: u64,
    /// It arrives paused: so asked for, or paused by a user before it began.
    paused: bool,
    /// Whether the guest executed when it began.
    pub(super) executes: bool,
    pub(super) abort: bool,
    /// Since when the two ends do not hear each other.
    pub(super) silent: Option<Instant>,
    /// After a silence: until when TCP waits to send again.
    pub(super) slow: Option<Instant>,
    pub(super) answer: Option<oneshot::Sender<PortResult<()>>>,
    /// Its client drives it, and it dies with that.
    direct: bool,
    /// What is special to post-copy.
    pub(super) post_copy: PostCopy,
}

impl Move {
    /// Tells the client how its call ended.
    pub(super) fn answer(&mut self, result: PortResult<()>) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(result);
        }
    }

    /// Whether the client that drove it is gone, and what it had to say was not said yet.
    pub(super) fn is_left(&self) -> bool {
        let gone = self.answer.as_ref().is_some_and(oneshot::Sender::is_closed);
        self.direct && gone && !matches!(self.phase, Phase::End | Phase::Stuck)
    }

    pub(super) fn facts(&self) -> JobFacts {
        let counted = self.memory_left < self.memory_total
            || matches!(self.phase, Phase::Memory | Phase::PostCopy);
        JobFacts {
            disk_done: Bytes(self.disks_done),
            disk_total: Bytes(self.disks_total),
            disk_left: Bytes(self.disks_total - self.disks_done),
            memory_done: Bytes(self.memory_done),
            memory_total: Bytes(if counted { self.memory_total } else { 0 }),
            memory_left: Bytes(if counted { self.memory_left } else { 0 }),
            iteration: self.iteration,
            dirty_rate: Bytes(self.dirty),
            throttle: 100 - (self.dirty * 100).checked_div(self.dirties).unwrap_or(100) as u8,
        }
    }
}

pub(super) fn refused(fault: Fault, message: impl Into<String>) -> PortError {
    PortError::new(fault, message)
}

impl World {
    /// Begins a migration: libvirt's job is there from the first moment on.
    pub(super) fn migrate(
        &mut self,
        source: &str,
        target: &str,
        request: &MigrateRequest,
        by_hand: bool,
        answer: oneshot::Sender<PortResult<()>>,
    ) -> PortResult<()> {
        let guest = request.domain;
        let id = self.number();
        let old = |host: &str| self.machines[host].libvirt.starts_with("9.0");
        if let Some(method @ ("zstd" | "zlib")) = request.compression.method()
            && (old(source) || old(target))
        {
            let unknown = format!("Unsupported compression method '{method}'");
            return Err(refused(Fault::Invalid, unknown));
        }
        let domain = self
            .domain(source, guest)
            .ok_or_else(|| refused(Fault::NotFound, "Domain not found"))?;
        if domain.qemu == Qemu::None {
            return Err(refused(Fault::DomainStopped, "domain is not running"));
        }
        if domain.job.is_some() {
            let busy = "another migration job is already running";
            return Err(refused(Fault::Busy, busy));
        }
        domain.job = Some(id);
        let (memory, copy) = (domain.memory, domain.clone());
        let here = &self.machines[source];
        let used = |disk: &Disk| {
            let base = here
                .files
                .get(&disk.path)
                .and_then(|file| file.backing.as_ref());
            let below = base.filter(|_| !request.incremental);
            here.allocated(&disk.path) + below.map_or(0, |path| here.allocated(path))
        };
        let place = |disk: &Disk| request.disks.iter().find(|own| own.target == disk.target);
        let copied = |disk: &Disk| by_hand || place(disk).is_some();
        let staying = copy.disks.iter().filter(|disk| !copied(disk));
        let unsafe_disk = staying
            .into_iter()
            .any(|disk| here.store_of(&disk.path).is_none());
        let there = &self.machines[target];
        let disks: PortResult<Vec<(String, Option<u64>)>> = copy
            .disks
            .iter()
            .map(|disk| {
                let path = place(disk).map_or(Ok(disk.path.clone()), |at| there.file_of(disk, at));
                Ok((path?, copied(disk).then(|| used(disk))))
            })
            .collect();
        if unsafe_disk {
            if let Some(domain) = self.domain(source, guest) {
                domain.job = None;
            }
            let told = "Unsafe migration: Migration without shared storage is unsafe";
            return Err(refused(Fault::NotShared, told));
        }
        let disks = match disks {
            Ok(disks) => disks,
            Err(error) => {
                if let Some(domain) = self.domain(source, guest) {
                    domain.job = None;
                }
                return Err(refused(Fault::PeerFailed, &error.message));
            }
        };
        let dirty = self.guests[&guest].dirty;
        let now = Instant::now();
        let own = Move {
            guest,
            source: source.to_owned(),
            target: target.to_owned(),
            mark: (!by_hand).then(|| request.mark.clone()),
            limit: request.bandwidth.map(|limit| limit.0),
            downtime: request.downtime,
            converge: request.auto_converge,
            phase: Phase::Connect,
            until: now + CONNECT,
            paused_at: now,
            disks_total: disks.iter().filter_map(|(_, bytes)| *bytes).sum(),
            disks,
            incremental: request.incremental,
            disks_done: 0,
            memory_total: memory,
            memory_done: 0,
            memory_left: memory,
            dirtied: 0,
            dirty,
            dirties: dirty,
            iteration: 0,
            paused: request.paused || copy.why == Why::ByUser,
            executes: copy.qemu == Qemu::Runs,
            abort: false,
            silent: None,
            slow: None,
            answer: Some(answer),
            direct: request.direct.is_some(),
            post_copy: PostCopy::new(request.post_copy),
        };
        self.moves.insert(id, own);
        if !by_hand {
            self.count_moves(source, target);
        }
        self.connect(id);
        Ok(())
    }

    /// The source's libvirtd opens its connection to the target's, as long as that takes.
    fn connect(&mut self, id: u64) {
        let own = &self.moves[&id];
        let (source, target, over) = (&own.source, &own.target, Instant::now() >= own.until);
        let failed = match self.reach(source, target) {
            Reach::Open => self.prepare(id).err(),
            Reach::Silent if !over => None,
            Reach::Silent | Reach::Refused => Some(refused(
                Fault::PeerUnreachable,
                format!("unable to connect to server at '{target}'"),
            )),
        };
        if let Some(error) = failed {
            self.settle(id, Duration::ZERO, None);
            self.over(id, Duration::ZERO, error);
        }
    }

    /// The target's libvirtd takes the guest in. The checks are its own.
    fn prepare(&mut self, id: u64) -> PortResult<()> {
        let own = &self.moves[&id];
        let (guest, source, target) = (own.guest, own.source.clone(), own.target.clone());
        let (mark, paths) = (own.mark.clone(), own.disks.clone());
        let incremental = own.incremental;
        let Some(copy) = self.domain(&source, guest).cloned() else {
            return Err(refused(Fault::NotFound, "Domain not found"));
        };
        let there = &self.machines[&target];
        let old = there.domains.get(&guest);
        if old.is_some_and(|old| old.qemu != Qemu::None) {
            return Err(refused(Fault::Exists, "domain is already active"));
        }
        let mut missing = Vec::new();
        let mut wrong = None;
        let mut disks = Vec::new();
        for (disk, (path, copied)) in copy.disks.iter().zip(paths) {
            match there.files.get(&path) {
                Some(file) if file.capacity != disk.size => {
                    let sizes = "Source and target image have different sizes";
                    return Err(refused(Fault::PeerFailed, sizes));
                }
                Some(file) => {
                    let base = self.machines[&source]
                        .files
                        .get(&disk.path)
                        .and_then(|file| file.backing.as_ref());
                    if incremental && base.is_some() && file.backing.is_none() {
                        wrong = Some(format!(
                            "{path} on {target} gets a top layer and has no base"
                        ));
                    }
                }
                None if copied.is_none() => {
                    let told = format!("Could not open '{path}': No such file or directory");
                    return Err(refused(Fault::PeerFailed, told));
                }
                None => missing.push((path.clone(), disk.size)),
            }
            if let Err(locked) = there.can_open(disk.secret) {
                return Err(refused(Fault::PeerFailed, &locked.message));
            }
            disks.push(Disk {
                path,
                ..disk.clone()
            });
        }
        let arriving = Domain {
            disks,
            activity: Activity::Paused,
            why: Why::StartingUp,
            persistent: old.is_some(),
            autostart: old.is_some_and(|old| old.autostart),
            qemu: Qemu::Still,
            mark: mark.or(copy.mark.clone()),
            job: None,
            incoming: Some(id),
            completed: None,
            held: false,
            undefined: false,
            ..copy
        };
        self.violations.extend(wrong);
        let until = Instant::now() + self.chance.millis(100, 400);
        if let Some(machine) = self.machine(&target) {
            machine.domains.insert(guest, arriving);
            for (path, size) in missing {
                // libvirt makes it fully allocated.
                let file = File {
                    capacity: size,
                    allocated: size,
                    kind: Kind::Image(None),
                    backing: None,
                };
                machine.files.insert(path, file);
            }
        }
        if self.moves[&id].mark.is_some() {
            self.count_memory(&target);
        }
        if let Some(own) = self.moves.get_mut(&id) {
            (own.phase, own.until) = (Phase::Prepare, until);
        }
        Ok(())
    }

    /// Moves everything on by one tick.
    pub(super) fn tick(&mut self) {
        self.keep_agenda();
        for id in self.moves.keys().copied().collect::<Vec<_>>() {
            if !self.suffer(id) {
                self.advance(id);
            }
        }
    }

    /// What a move gets of the links, in one tick.
    fn share(&self, id: u64) -> u64 {
        let moving = |host: &str| {
            let copies = |other: &&Move| {
                matches!(other.phase, Phase::Disks | Phase::Memory | Phase::PostCopy)
                    && (other.source == host || other.target == host)
            };
            self.moves.values().filter(copies).count().max(1) as u64
        };
        let own = &self.moves[&id];
        let rate = [&own.source, &own.target]
            .map(|host| self.machines[host].bandwidth / moving(host))
            .into_iter()
            .chain(own.limit)
            .min();
        rate.unwrap_or(0) * TICK.as_millis() as u64 / 1000
    }

    fn advance(&mut self, id: u64) {
        let bytes = self.share(id);
        let Some(own) = self.moves.get_mut(&id) else {
            return;
        };
        let (guest, source, target) = (own.guest, own.source.clone(), own.target.clone());
        let over = Instant::now() >= own.until;
        match own.phase {
            Phase::Connect => self.connect(id),
            Phase::Prepare if over => {
                own.phase = if own.disks_total == 0 {
                    Phase::Memory
                } else {
                    Phase::Disks
                };
                self.state(&target, guest, Activity::Paused, Why::Migrating);
                self.event(&target, guest, DomainEvent::IncomingStarted);
            }
            Phase::Disks => self.copy_disks(id, bytes),
            Phase::Memory => {
                own.memory_done += bytes.min(own.memory_left);
                own.memory_left = own.memory_left.saturating_sub(bytes);
                own.dirtied += own.dirty * TICK.as_millis() as u64 / 1000;
                if own.memory_left > 0 {
                    return;
                }
                own.iteration += 1;
                own.memory_left = own.dirtied.min(own.memory_total);
                own.dirtied = 0;
                if own.converge && own.iteration > 3 {
                    // libvirt throttles a guest to a hundredth at most.
                    own.dirty = (own.dirty / 2).max(own.dirties / 100);
                }
                let ticks = (own.downtime.as_millis() / TICK.as_millis()).max(1) as u64;
                let last = own.memory_left <= bytes * ticks;
                self.event(&source, guest, DomainEvent::Iteration);
                if last {
                    self.switch(id);
                }
            }
            Phase::PostCopy => self.copy_after(id, bytes),
            Phase::Switch if over => {
                own.memory_done += own.memory_left;
                own.memory_left = 0;
                own.phase = Phase::Finish;
                let least = Duration::from_millis(15);
                own.until = Instant::now() + least + self.chance.millis(0, 25);
                if let Some(domain) = self.domain(&target, guest) {
                    domain.persistent = true;
                }
                self.event(&target, guest, DomainEvent::Defined);
            }
            Phase::Finish if over => self.start_target(id),
            Phase::Confirm if over => {
                own.phase = Phase::End;
                own.until = Instant::now() + self.chance.millis(1200, 2000);
            }
            Phase::End if over => {
                own.answer(Ok(()));
                self.moves.remove(&id);
                self.forget(&source, guest);
                self.event(&source, guest, DomainEvent::StoppedMigrated);
                self.event(&source, guest, DomainEvent::JobCompleted);
            }
            _ => {}
        }
    }

    fn copy_disks(&mut self, id: u64, bytes: u64) {
        let Some(own) = self.moves.get_mut(&id) else {
            return;
        };
        let (guest, source, target) = (own.guest, own.source.clone(), own.target.clone());
        own.disks_done = (own.disks_done + bytes).min(own.disks_total);
        let ours = own.mark.is_some();
        let (mut left, disks) = (own.disks_done, own.disks.clone());
        let mut full = false;
        for (path, size) in disks {
            let Some(size) = size else {
                continue;
            };
            let here = left.min(size);
            left -= here;
            let machine = &self.machines[&target];
            let room = machine
                .pool_of(&path)
                .map_or(0, |pool| machine.available(pool));
            let Some(file) = self
                .machine(&target)
                .and_then(|machine| machine.files.get_mut(&path))
            else {
                continue;
            };
            // What stands there is overwritten without a word.
            if matches!(file.kind, Kind::Foreign) {
                self.violations.push(format!(
                    "{path} on {target} was overwritten, which is not ours"
                ));
                continue;
            }
            file.kind = Kind::Image(None);
            let grown = here.max(file.allocated);
            let short = grown - file.allocated > room;
            file.allocated = grown;
            full |= short;
            if short && ours {
                self.blame_for_room(&target, &path);
            }
        }
        if full {
            self.fail_for_room(id);
        } else if let Some(own) = self.moves.get_mut(&id)
            && own.disks_done == own.disks_total
        {
            own.phase = Phase::Memory;
            self.event(&source, guest, DomainEvent::BlockJob);
        }
    }

    pub(super) fn switch(&mut self, id: u64) {
        let pause = self.chance.millis(40, 150);
        let Some(own) = self.moves.get_mut(&id) else {
            return;
        };
        own.phase = Phase::Switch;
        own.paused_at = Instant::now();
        own.until = own.paused_at + pause;
        let (guest, source, target) = (own.guest, own.source.clone(), own.target.clone());
        self.qemu(&source, guest, Qemu::Still);
        // One that was paused stays as it is shown, and nothing is told of it.
        let shows = self
            .domain(&source, guest)
            .is_some_and(|own| own.activity != Activity::Paused);
        if shows {
            self.state(&source, guest, Activity::Paused, Why::Migrating);
            self.event(&source, guest, DomainEvent::SuspendedForSwitch);
        }
        let newest = self.guests[&guest].newest;
        let own = &self.moves[&id];
        let copied = own.disks.iter().filter(|(_, bytes)| bytes.is_some());
        let copied = copied.map(|(path, _)| path.clone()).collect();
        if own.executes {
            self.leave_to_kernel(&target, guest, copied);
        }
        let paths: Vec<String> = self.moves[&id]
            .disks
            .iter()
            .map(|(path, _)| path.clone())
            .collect();
        if let Some(machine) = self.machine(&target) {
            for path in paths {
                if let Some(file) = machine.files.get_mut(&path) {
                    file.kind = Kind::Image(Some((guest, newest)));
                }
            }
        }
    }

    /// The target's libvirtd obeys Finish.
    pub(super) fn start_target(&mut self, id: u64) {
        let confirm = self.chance.millis(10, 30);
        let Some(own) = self.moves.get_mut(&id) else {
            return;
        };
        own.phase = Phase::Confirm;
        own.until = Instant::now() + confirm;
        let completed = CompletedFacts {
            downtime: Some(own.paused_at.elapsed()),
            bytes: Bytes(own.disks_done + own.memory_done),
        };
        let (guest, target) = (own.guest, own.target.clone());
        let (mark, paused) = (own.mark.clone(), own.paused);
        self.arrivals += 1;
        self.run_here(&target, guest, paused);
        if let Some(domain) = self.domain(&target, guest) {
            domain.completed = Some(completed);
            domain.mark = mark.or(domain.mark.take());
        }
    }

    /// An incoming guest begins to execute.
    pub(super) fn run_here(&mut self, host: &str, guest: Uuid, paused: bool) {
        if let Some(domain) = self.domain(host, guest) {
            domain.incoming = None;
            domain.persistent = !std::mem::take(&mut domain.undefined);
        }
        if paused {
            self.state(host, guest, Activity::Paused, Why::ByUser);
            return;
        }
        self.qemu(host, guest, Qemu::Runs);
        self.state(host, guest, Activity::Running, Why::Migrated);
        self.event(host, guest, DomainEvent::ResumedMigrated);
    }
}
