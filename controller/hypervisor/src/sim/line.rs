//! A client's line to a host: what it hears, how calls travel, and how it breaks.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use evenkeel_crds::names::HostName;
use evenkeel_engine::port::{Fault, News, Notice, PortError, PortResult};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    Shared, facts,
    migration::Phase,
    world::{Line, Reach, Tiding, World},
};

/// How often a line looks after itself, and what waits looks again.
const STEP: Duration = Duration::from_millis(50);
/// How long a host may be silent before its line counts as lost.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long after a loss a connection is tried again.
const RETRY: Duration = Duration::from_secs(1);
const LOAD: Duration = Duration::from_secs(10);
const FACTS: Duration = Duration::from_secs(30);
/// How long libvirtd lets a call wait for a domain's lock.
const LOCK: Duration = Duration::from_secs(30);

/// What a call may have to wait for at the host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    Nothing,
    /// For a domain whose QEMU is being ended.
    Look(Uuid),
    /// For a domain that a job holds.
    Act(Uuid),
}

/// The handle that the engine gets.
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) client: String,
    pub(super) machine: String,
    number: u64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.client, self.machine)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.world().lines.remove(&self.number);
    }
}

impl Handle {
    /// Opens a line and looks after it for as long as the handle lives.
    pub(super) fn open(
        shared: &Arc<Shared>,
        client: &str,
        machine: &str,
        host: &HostName,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Arc<Self> {
        let (inbox, tidings) = mpsc::unbounded_channel();
        let number = {
            let mut world = shared.world();
            let number = world.number();
            let line = Line {
                machine: machine.to_owned(),
                up: None,
                generation: 0,
                inbox,
            };
            world.lines.insert(number, line);
            number
        };
        let handle = Arc::new(Self {
            shared: shared.clone(),
            client: client.to_owned(),
            machine: machine.to_owned(),
            number,
        });
        let keeper = Keeper {
            handle: Arc::downgrade(&handle),
            host: host.clone(),
            notices,
            since: Instant::now(),
            told: false,
        };
        tokio::spawn(keeper.keep(tidings));
        handle
    }

    /// Calls the host: the request travels, waits for what it must, is done, and the answer travels back. What was sent
    /// is done even where nobody waits for it any more.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        waits: Waits,
        act: impl FnOnce(&mut World, &str) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let begun = Instant::now();
        let unreachable =
            |why: &str| PortError::new(Fault::Unreachable, format!("{}: {why}", self.machine));
        loop {
            match self
                .shared
                .world()
                .lines
                .get(&self.number)
                .and_then(|line| line.up)
            {
                Some(true) => break,
                Some(false) => return Err(unreachable("not connected")),
                None if begun.elapsed() >= limit => return Err(unreachable("not connected yet")),
                None => {}
            }
            sleep(STEP).await;
        }
        let (answer, answered) = oneshot::channel();
        let (shared, client, machine) = (
            self.shared.clone(),
            self.client.clone(),
            self.machine.clone(),
        );
        tokio::spawn(async move {
            if let Some(result) = travel(&shared, &client, &machine, limit, waits, act).await {
                let _ = answer.send(result);
            }
        });
        match tokio::time::timeout(limit.saturating_sub(begun.elapsed()), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unreachable("the connection broke")),
            Err(_) => Err(PortError::new(
                Fault::TimedOut,
                format!(
                    "{} did not answer within {} s",
                    self.machine,
                    limit.as_secs()
                ),
            )),
        }
    }

    /// Waits until the connection breaks: at once where libvirtd dies, after a while of silence else.
    pub(super) async fn broken(&self, generation: u64, patience: Duration) {
        let mut silent: Option<Instant> = None;
        loop {
            sleep(STEP).await;
            let world = self.shared.world();
            match world.reach(&self.client, &self.machine) {
                Reach::Refused => return,
                _ if world.machines[&self.machine].generation != generation => return,
                Reach::Open => silent = None,
                Reach::Silent => {
                    if silent.get_or_insert_with(Instant::now).elapsed() >= patience {
                        return;
                    }
                }
            }
        }
    }
}

async fn travel<T>(
    shared: &Shared,
    client: &str,
    machine: &str,
    limit: Duration,
    waits: Waits,
    act: impl FnOnce(&mut World, &str) -> PortResult<T>,
) -> Option<PortResult<T>> {
    let (there, back, generation) = {
        let mut world = shared.world();
        let times = (world.chance.millis(1, 8), world.chance.millis(1, 8));
        (times.0, times.1, world.machines[machine].generation)
    };
    sleep(there).await;
    let begun = Instant::now();
    loop {
        {
            let world = shared.world();
            match world.reach(client, machine) {
                Reach::Refused => return None,
                _ if world.machines[machine].generation != generation => return None,
                Reach::Open if !is_blocked(&world, machine, waits) => break,
                Reach::Open if begun.elapsed() >= LOCK => {
                    let busy = "Timed out during operation: cannot acquire state change lock";
                    return Some(Err(PortError::new(Fault::Busy, busy)));
                }
                Reach::Open => {}
                // A libvirtd that sleeps reads it when it wakes; what the network lost is given up.
                Reach::Silent
                    if begun.elapsed() >= limit && !is_asleep(&world, client, machine) =>
                {
                    return None;
                }
                Reach::Silent => {}
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    let result = {
        let mut world = shared.world();
        let result = act(&mut world, machine);
        world.spread(machine);
        result
    };
    sleep(back).await;
    loop {
        {
            let world = shared.world();
            match world.reach(client, machine) {
                Reach::Refused => return None,
                _ if world.machines[machine].generation != generation => return None,
                Reach::Open => return Some(result),
                Reach::Silent => {}
            }
        }
        sleep(STEP).await;
    }
}

fn is_asleep(world: &World, client: &str, machine: &str) -> bool {
    let cut = world.cuts.contains(&super::world::pair(client, machine));
    !cut && world.machines[machine].powered
}

fn is_blocked(world: &World, machine: &str, waits: Waits) -> bool {
    let domain = |uuid: Uuid| world.machines[machine].domains.get(&uuid);
    match waits {
        Waits::Nothing => false,
        Waits::Look(uuid) => domain(uuid)
            .and_then(|domain| world.moves.get(&domain.job?))
            .is_some_and(|own| own.phase == Phase::End),
        Waits::Act(uuid) => domain(uuid)
            .is_some_and(|domain| domain.held || domain.job.is_some() || domain.incoming.is_some()),
    }
}

struct Keeper {
    handle: Weak<Handle>,
    host: HostName,
    notices: mpsc::UnboundedSender<Notice>,
    /// Since when the line is as it is.
    since: Instant,
    /// Whether its loss was told.
    told: bool,
}

impl Keeper {
    async fn keep(mut self, mut tidings: mpsc::UnboundedReceiver<Tiding>) {
        let mut silent: Option<Instant> = None;
        let (mut load, mut whole) = (Instant::now(), Instant::now());
        let mut backlog: Vec<Tiding> = Vec::new();
        loop {
            let heard = tokio::select! {
                biased;
                heard = tidings.recv() => heard,
                () = sleep(2 * STEP) => None,
            };
            backlog.extend(heard);
            let Some(handle) = self.handle.upgrade() else {
                return;
            };
            let (reach, up, same) = {
                let world = handle.shared.world();
                let Some(line) = world.lines.get(&handle.number) else {
                    return;
                };
                let same = world.machines[&handle.machine].generation == line.generation;
                (
                    world.reach(&handle.client, &handle.machine),
                    line.up == Some(true),
                    same,
                )
            };
            if up {
                match reach {
                    Reach::Open if same => {
                        silent = None;
                        while let Ok(more) = tidings.try_recv() {
                            backlog.push(more);
                        }
                        self.pass_on(&handle, std::mem::take(&mut backlog)).await;
                        if load.elapsed() >= LOAD {
                            load = Instant::now();
                            let (load, usage) = {
                                let world = handle.shared.world();
                                let machine = &world.machines[&handle.machine];
                                (facts::load(machine), facts::usage(&world, &handle.machine))
                            };
                            self.say(News::Load(load));
                            self.say(News::Usage(usage));
                        }
                        if whole.elapsed() >= FACTS {
                            whole = Instant::now();
                            self.say_facts(&handle);
                        }
                    }
                    Reach::Silent => {
                        if silent.get_or_insert_with(Instant::now).elapsed() >= KEEPALIVE {
                            self.lose(&handle, "keepalive timeout");
                        }
                    }
                    Reach::Open | Reach::Refused => {
                        self.lose(&handle, "End of file while reading data")
                    }
                }
                continue;
            }
            backlog.clear();
            silent = None;
            match reach {
                Reach::Open if !self.told || self.since.elapsed() >= RETRY => {
                    sleep(Duration::from_millis(10)).await;
                    let mut world = handle.shared.world();
                    let generation = world.machines[&handle.machine].generation;
                    if let Some(line) = world.lines.get_mut(&handle.number) {
                        (line.up, line.generation) = (Some(true), generation);
                    }
                    drop(world);
                    (load, whole) = (Instant::now(), Instant::now());
                    self.told = false;
                    self.say_facts(&handle);
                }
                Reach::Refused if !self.told => {
                    self.lose(&handle, "unable to connect to server: Connection refused")
                }
                Reach::Silent if !self.told && self.since.elapsed() >= CONNECT => {
                    self.lose(&handle, "unable to connect to server: Connection timed out");
                }
                _ => {}
            }
        }
    }

    fn say(&self, what: News) {
        let host = self.host.clone();
        let _ = self.notices.send(Notice { host, what });
    }

    fn say_facts(&self, handle: &Handle) {
        let facts = facts::host(
            &handle.machine,
            &handle.shared.world().machines[&handle.machine],
        );
        self.say(News::Facts(Box::new(facts)));
    }

    fn lose(&mut self, handle: &Handle, why: &str) {
        if let Some(line) = handle.shared.world().lines.get_mut(&handle.number) {
            line.up = Some(false);
        }
        self.since = Instant::now();
        self.told = true;
        self.say(News::Lost(PortError::new(Fault::Unreachable, why)));
    }

    async fn pass_on(&self, handle: &Handle, backlog: Vec<Tiding>) {
        if backlog.is_empty() {
            return;
        }
        let late = handle.shared.world().chance.millis(1, 10);
        sleep(late).await;
        for tiding in backlog {
            let uuid = match tiding {
                Tiding::Event(uuid, event) => {
                    self.say(News::Event(uuid, event));
                    uuid
                }
                Tiding::Changed(uuid) => uuid,
                Tiding::Surroundings => {
                    self.say_facts(handle);
                    continue;
                }
            };
            let world = handle.shared.world();
            let machine = &world.machines[&handle.machine];
            let seen = machine
                .domains
                .get(&uuid)
                .map(|domain| Box::new(facts::domain(machine, uuid, domain)));
            drop(world);
            self.say(News::Domain(uuid, seen));
        }
    }
}
