//! One story: a small fleet, wishes that never end, faults at any instant, and after each round rest. The same seed
//! tells the same story.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use evenkeel_crds::{MigrationPhase, kinds::drain::StoppedGuests, shared::Timestamp};
use evenkeel_engine::Clock;
use evenkeel_hypervisor::sim::{Fleet, GIB, GuestPlan, HostPlan, MIB};
use evenkeel_kubernetes::simulated::{Counts, Server};
use fastrand::Rng;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::{
    controllers::Controller,
    fault::{Fault, Kind, Mend},
    forms::{APART, Forms, PLACEMENT},
    front::{Front, Profile},
    person,
    rest::{BASE, unrest},
};

/// How a story is told.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// What everything in it follows from.
    pub seed: u64,
    /// Rounds at most.
    pub rounds: u32,
    /// Steps, by number, that are left out.
    pub without: BTreeSet<u32>,
    /// The only kinds of faults that strike; empty: all.
    pub only: Vec<Kind>,
}

/// What happened in a story.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Guests that came to run at a migration's target.
    pub moves: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Drains that a user had to make anew, since one of their moves was given up.
    pub renewed: u64,
    /// What went wrong at the API server; nothing where there was none.
    pub server: Option<Counts>,
    /// Steps done.
    pub steps: u32,
    /// All that was done, in order.
    pub log: Vec<String>,
}

/// A story that ended as none may.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How it was told.
    pub script: Script,
    /// What was wrong, a line each.
    pub wrong: Vec<String>,
    /// All that was done, in order.
    pub log: Vec<String>,
}

thread_local! {
    /// What panicked on this thread since a story began.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps panics of every task for the story on whose thread they are. Call it once.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        PANICS.with_borrow_mut(|panics| panics.push(text));
    }));
}

/// How long everybody has to come to rest.
const PATIENCE: Duration = Duration::from_secs(1500);
/// After this long a person looks what only persons can do.
const PERSON: Duration = Duration::from_secs(60);
/// After this long users take back what can't be done, and ask anew for what was given up.
const USERS: Duration = Duration::from_secs(240);
/// Salts the dice of the API server.
const SERVER: u64 = 0x5e72_7e72;
/// How long a fault waits for its moment, in milliseconds.
const AIM: u64 = 3_000;

/// Something a story does.
#[derive(Debug, Clone)]
enum Step {
    Drain {
        host: usize,
        parallel: i32,
        stopped: bool,
    },
    Undrain,
    Migrate {
        guest: usize,
        target: Option<usize>,
    },
    Abort {
        which: usize,
        delete: bool,
    },
    Fault(Fault),
    /// Somebody pauses a guest.
    Pause {
        guest: usize,
    },
    /// An object is deleted and made again under the same name.
    Replace {
        which: usize,
    },
    /// Of a hundred requests to the API server so many go wrong.
    Trouble {
        percent: u64,
    },
}

/// Tells a story on a runtime of its own.
///
/// # Errors
/// The failure, where one rule was broken.
pub fn tell(script: &Script) -> Result<Tally, Box<Failure>> {
    PANICS.with_borrow_mut(Vec::clear);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let failed = |wrong: Vec<String>, log| {
        Box::new(Failure {
            script: script.clone(),
            wrong,
            log,
        })
    };
    let runtime = runtime.map_err(|error| failed(vec![error.to_string()], Vec::new()))?;
    runtime.block_on(async {
        let mut story = Story::new(script);
        match story.run().await {
            Ok(()) => {
                story.tally.moves = story.fleet.arrivals();
                story.tally.server = story.front.server().map(Server::counts);
                story.tally.log = story.log;
                Ok(story.tally)
            }
            Err(wrong) => Err(failed(wrong, story.log)),
        }
    })
}

struct Story {
    script: Script,
    dice: Rng,
    clock: Clock,
    began: Instant,
    fleet: Fleet,
    front: Front,
    /// Decides what goes wrong at the API server, where there is one.
    server: Option<Rng>,
    forms: Forms,
    hosts: Vec<String>,
    guests: Vec<(Uuid, String)>,
    controller: Controller,
    /// One whose lease was taken away, and when it finds out.
    doubted: Option<(Instant, Controller)>,
    epoch: u64,
    /// What a host takes in and sends away at once.
    most: (usize, usize),
    mends: Vec<(Instant, Mend)>,
    numbers: u32,
    tally: Tally,
    log: Vec<String>,
}

impl Story {
    fn new(script: &Script) -> Self {
        let mut dice = Rng::with_seed(script.seed);
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH, script.seed);
        let fleet = Fleet::new(script.seed);
        let forms = Forms::of(script.seed);
        let hosts: Vec<String> = (1..=dice.usize(3..=5)).map(|n| format!("h{n}")).collect();
        let count = dice.usize(4..=12);
        // So many that one host can always be emptied, and now and then not many more.
        let fits = count.div_ceil(hosts.len() - 1) as u64 + dice.u64(..3);
        let overhead = 64 * MIB;
        for name in &hosts {
            let plan = HostPlan::new(name)
                .memory(fits * (512 * MIB + overhead) + 100 * MIB)
                .bandwidth((1 + dice.u64(..3)) * GIB);
            fleet.add_host(&forms.host(plan));
        }
        let based = dice.u8(..3) == 0;
        // Not drawn: the stories that earlier seeds tell are to stay what they were.
        let sealed = script.seed.is_multiple_of(4);
        let guests: Vec<(Uuid, String)> = (1..=count)
            .map(|number| {
                let name = format!("g{number}");
                let mut plan = GuestPlan::new(&name)
                    .autostart()
                    .disk(GIB, dice.u64(100..900) * MIB);
                if based && number % 2 == 0 {
                    plan = plan.base(BASE, MIB);
                } else if sealed && number % 3 > 0 {
                    // Several share what opens their disks.
                    plan = plan.encrypted(&format!("key-{}", number % 2));
                }
                if number % 2 == 1 {
                    plan = plan.idle();
                }
                let host = &hosts[number % hosts.len()];
                let plan = forms.guest(plan, number);
                (fleet.add_guest(host, &plan), name)
            })
            .collect();
        let most = (dice.usize(1..=3), dice.usize(1..=3));
        let slow = dice.u8(..4) == 0;
        fleet.nature(|nature| {
            nature.most = Some(most);
            if slow {
                nature.gives_up = Duration::from_secs(900);
            }
        });
        // Dice of their own, so that stories without a server stay as they were.
        let mut server = Rng::with_seed(script.seed ^ SERVER);
        let front = Front::new(&clock, &hosts, most, server.u8(..6) == 0);
        let server = front.server().map(|_| server);
        front.profile(Profile {
            guarded: dice.u8(..3) == 0,
            keeps: Duration::from_secs(if dice.u8(..4) == 0 { 30 } else { 0 }),
            direct: forms.direct,
        });
        if forms.apart {
            let names = APART.map(|number| guests[number].1.clone());
            front.apart(PLACEMENT, names.to_vec());
        }
        if forms.level {
            front.level("level");
        }
        let controller = Controller::start(&fleet, &front, &clock, 1);
        Self {
            script: script.clone(),
            dice,
            clock,
            began: Instant::now(),
            fleet,
            front,
            server,
            forms,
            hosts,
            guests,
            controller,
            doubted: None,
            epoch: 1,
            most,
            mends: Vec::new(),
            numbers: 0,
            tally: Tally::default(),
            log: Vec::new(),
        }
    }

    async fn run(&mut self) -> Result<(), Vec<String>> {
        for _ in 0..self.script.rounds {
            let plan = self.plan();
            let most = self.most;
            self.fleet.nature(|nature| nature.most = Some(most));
            let begun = Instant::now();
            for (at, step) in plan {
                self.until(begun + Duration::from_millis(at)).await;
                self.tally.steps += 1;
                if !self.script.without.contains(&self.tally.steps) {
                    self.act(step).await;
                }
                self.check()?;
            }
            self.until(Instant::now() + Duration::from_secs(2)).await;
            self.heal();
            self.rest().await?;
            self.front.sweep();
        }
        Ok(())
    }

    /// What a round does, and when, in milliseconds. All dice are thrown here, so that a step left out changes no other.
    fn plan(&mut self) -> Vec<(u64, Step)> {
        let dice = &mut self.dice;
        let (hosts, guests) = (self.hosts.len(), self.guests.len());
        let mut steps = vec![(
            0,
            Step::Drain {
                host: dice.usize(..hosts),
                parallel: dice.i32(1..=4),
                stopped: dice.bool(),
            },
        )];
        let window = dice.u64(6_000..24_000);
        for _ in 0..dice.u8(2..7) {
            let step = match dice.u8(..10) {
                0 => Step::Undrain,
                1 => Step::Abort {
                    which: dice.usize(..100),
                    delete: dice.bool(),
                },
                2..6 => Step::Drain {
                    host: dice.usize(..hosts),
                    parallel: dice.i32(1..=4),
                    stopped: dice.bool(),
                },
                _ => Step::Migrate {
                    guest: dice.usize(..guests),
                    target: dice.bool().then(|| dice.usize(..hosts)),
                },
            };
            steps.push((dice.u64(..window), step));
        }
        let faults = match dice.u8(..8) {
            0 => 0,
            1 => 5,
            _ => dice.u8(1..4),
        };
        for _ in 0..faults {
            let mut fault = Fault::any(dice, hosts, guests);
            let only = &self.script.only;
            if !only.is_empty() {
                fault.kind = only[dice.usize(..only.len())];
            }
            steps.push((dice.u64(..window), Step::Fault(fault)));
        }
        for _ in 0..self.server.as_mut().map_or(0, |dice| dice.u8(1..5)) {
            let Some(dice) = &mut self.server else {
                break;
            };
            let step = match dice.u8(..3) {
                0 => Step::Replace {
                    which: dice.usize(..100),
                },
                _ => Step::Trouble {
                    percent: [3, 10, 50, 90][dice.usize(..4)],
                },
            };
            steps.push((dice.u64(..window), step));
        }
        if let Some(dice) = &mut self.forms.pauses {
            let guest = dice.usize(..guests);
            steps.push((dice.u64(..window), Step::Pause { guest }));
        }
        steps.sort_by_key(|(at, _)| *at);
        steps
    }

    fn say(&mut self, what: &str) {
        let at = self.began.elapsed().as_millis();
        let number = self.tally.steps;
        self.log.push(format!(
            "{:>6}.{:03} s  step {number}: {what}",
            at / 1000,
            at % 1000
        ));
    }

    /// Waits, and mends what is due meanwhile.
    async fn until(&mut self, end: Instant) {
        loop {
            let doubted = self.doubted.as_ref().map(|(at, _)| *at);
            let next = self.mends.iter().map(|(at, _)| *at).chain(doubted).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            sleep_until(next).await;
            let due = |at: &Instant| *at <= Instant::now();
            while let Some(at) = self.mends.iter().position(|(at, _)| due(at)) {
                let (_, mend) = self.mends.remove(at);
                mend.mend(&self.fleet);
            }
            if let Some((_, controller)) = self.doubted.take_if(|(at, _)| due(at)) {
                controller.kill().await;
            }
        }
        sleep_until(end).await;
    }

    async fn act(&mut self, step: Step) {
        self.numbers += 1;
        let number = self.numbers;
        match step {
            Step::Drain {
                host,
                parallel,
                stopped,
            } => {
                // One at a time: so many guests that two hosts could be emptied are in no fleet.
                self.undrain();
                let host = self.hosts[host].clone();
                let which = if stopped {
                    "stopped too"
                } else {
                    "running ones"
                };
                self.say(&format!("drain {host}, {parallel} at once, {which}"));
                self.front
                    .drain(&format!("d{number}"), &host, parallel, stopped);
            }
            Step::Undrain => {
                self.say("no drain any more");
                self.undrain();
            }
            Step::Migrate { guest, target } => {
                let guest = self.guests[guest].1.clone();
                let target = target.map(|target| self.hosts[target].clone());
                self.say(&format!("migrate {guest} to {target:?}"));
                let name = format!("m{number}");
                self.front.migrate(&name, &guest, target.as_deref());
            }
            Step::Abort { which, delete } => {
                let wishes = self.front.now();
                let open: Vec<&String> = wishes.migrations.keys().collect();
                if let Some(name) = open.get(which % open.len().max(1)) {
                    self.say(&format!("abort {name}, delete {delete}"));
                    self.front.abort(name, delete);
                }
            }
            Step::Fault(fault) => self.strike(fault).await,
            Step::Pause { guest } => {
                let (guest, name) = self.guests[guest].clone();
                // In the middle of a copy libvirt forgets that it was paused.
                let at_home = self.fleet.phase(guest).is_none();
                if let [host] = self.fleet.executing(guest).as_slice()
                    && at_home
                {
                    self.say(&format!("{name} is paused on {host}"));
                    self.fleet.pause(host, guest);
                }
            }
            Step::Replace { which } => {
                let wishes = self.front.now();
                let names = wishes.drains.keys().chain(wishes.migrations.keys());
                let names: Vec<&String> = names.collect();
                if let Some(name) = names.get(which % names.len().max(1)) {
                    self.say(&format!("{name} is deleted and made again"));
                    self.front.replace(name);
                }
            }
            Step::Trouble { percent } => {
                self.say(&format!("{percent} of 100 requests to the API go wrong"));
                if let Some(server) = self.front.server() {
                    server.trouble(percent);
                }
            }
        }
    }

    fn undrain(&self) {
        for name in self.front.now().drains.keys() {
            self.front.undrain(name);
        }
    }

    async fn strike(&mut self, fault: Fault) {
        let uuids: Vec<Uuid> = self.guests.iter().map(|(guest, _)| *guest).collect();
        let end = Instant::now() + Duration::from_millis(AIM);
        let place = loop {
            if let Some(place) = fault.aim(&self.fleet, &self.hosts, &uuids) {
                break place;
            }
            if Instant::now() >= end {
                break fault.blind(&self.hosts, &uuids);
            }
            sleep(Duration::from_millis(7)).await;
        };
        self.say(&format!(
            "{:?} in {:?} at {place} for {} ms",
            fault.kind, fault.moment, fault.lasts
        ));
        *self.tally.faults.entry(fault.kind).or_default() += 1;
        if let Some(mend) = fault.strike(&self.fleet, &place) {
            let at = Instant::now() + Duration::from_millis(fault.lasts);
            self.mends.push((at, mend));
        }
        let next = |story: &mut Self| {
            story.epoch += 1;
            Controller::start(&story.fleet, &story.front, &story.clock, story.epoch)
        };
        match fault.kind {
            Kind::ControllerKilled => {
                let next = next(self);
                std::mem::replace(&mut self.controller, next).kill().await;
            }
            Kind::SecondController => {
                self.controller.silence();
                // What one without a lease still begins is safe, but the other can't count it.
                self.fleet.nature(|nature| nature.most = None);
                let next = next(self);
                let old = std::mem::replace(&mut self.controller, next);
                let at = Instant::now() + Duration::from_millis(fault.lasts);
                if let Some((_, older)) = self.doubted.replace((at, old)) {
                    older.kill().await;
                }
            }
            _ => {}
        }
    }

    /// Mends everything, what overlapped included.
    fn heal(&mut self) {
        if let Some(server) = self.front.server() {
            server.trouble(0);
        }
        for (_, mend) in std::mem::take(&mut self.mends) {
            mend.mend(&self.fleet);
        }
        for host in &self.hosts {
            self.fleet.hang_libvirtd(host, false);
            self.fleet.leave_room(host, u64::MAX);
            self.fleet
                .cut_client(crate::controllers::CLIENT, host, false);
            for other in &self.hosts {
                self.fleet.cut(host, other, false);
            }
        }
        self.say("all is mended");
    }

    /// Waits until everybody has come to rest.
    async fn rest(&mut self) -> Result<(), Vec<String>> {
        let mended = Instant::now();
        let mut asked = false;
        loop {
            let pause = if mended.elapsed() < Duration::from_secs(20) {
                Duration::from_secs(1)
            } else {
                Duration::from_secs(5)
            };
            self.until(Instant::now() + pause).await;
            self.check()?;
            let wishes = self.front.now();
            let view = self.controller.view();
            let mut wrong = unrest(&self.fleet, &self.hosts, &self.guests, &wishes, &view);
            if self.doubted.is_some() {
                wrong.push("a controller without a lease is at work".to_owned());
            }
            if wrong.is_empty() {
                return Ok(());
            }
            if mended.elapsed() >= PATIENCE {
                wrong.insert(0, format!("no rest within {} s", PATIENCE.as_secs()));
                wrong.push(self.picture());
                return Err(wrong);
            }
            if mended.elapsed() >= PERSON {
                for (guest, name) in self.guests.clone() {
                    let told = person::is_told_of_two(&view, &name);
                    if !person::tend(&self.fleet, &self.hosts, guest, &name, told) {
                        return Err(vec![format!("nothing is left of {name}"), self.picture()]);
                    }
                }
            }
            if mended.elapsed() >= USERS && !asked {
                asked = true;
                self.ask_anew();
            }
        }
    }

    /// What users do after a while: a drain of whose moves one was given up is made anew, moves that wait are deleted.
    fn ask_anew(&mut self) {
        let (wishes, view) = (self.front.now(), self.controller.view());
        for (name, drain) in &wishes.drains {
            let given_up = view.migrations.values().any(|shown| {
                shown.requested_by.name == *name
                    && matches!(
                        shown.status.phase,
                        MigrationPhase::Failed | MigrationPhase::Aborted
                    )
            });
            if given_up {
                self.numbers += 1;
                self.tally.renewed += 1;
                self.front.undrain(name);
                let again = format!("d{}", self.numbers);
                for host in drain.spec.hosts.names.iter().flatten() {
                    let stopped = drain.spec.stopped == StoppedGuests::Move;
                    self.front.drain(&again, host, drain.spec.parallel, stopped);
                }
                self.say(&format!("{name} is asked for anew as {again}"));
            }
        }
        for (name, object) in &wishes.migrations {
            let by_user = object.metadata.labels.is_none();
            if by_user
                && !object
                    .status
                    .as_ref()
                    .is_some_and(|own| own.phase.is_final())
            {
                self.front.abort(name, true);
                self.say(&format!("{name} is deleted"));
            }
        }
    }

    fn check(&mut self) -> Result<(), Vec<String>> {
        let mut wrong = self.fleet.violations();
        PANICS.with_borrow_mut(|panics| wrong.append(panics));
        for (guest, name) in &self.guests {
            if !self.fleet.is_whole(*guest) {
                wrong.push(format!("no host has the newest data of {name}"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        wrong.push(self.picture());
        Err(wrong)
    }

    fn picture(&self) -> String {
        let mut text = String::new();
        let view = self.controller.view();
        for (guest, name) in &self.guests {
            let _ = write!(
                text,
                "\n  {name}: runs on {:?}",
                self.fleet.executing(*guest)
            );
            let _ = write!(text, ", newest on {:?}", self.fleet.newest_on(*guest));
            for host in &self.hosts {
                if let Some(copy) = self.fleet.domain(host, *guest) {
                    let state = (copy.activity, copy.why, copy.job);
                    let _ = write!(text, ", {host} shows {state:?}");
                }
                for file in person::files_of(&self.fleet, host, name) {
                    let _ = write!(text, ", {host} has {file}");
                }
            }
        }
        for (name, shown) in &view.migrations {
            let status = &shown.status;
            let cause = evenkeel_crds::shared::find(&status.conditions, "Succeeded");
            let _ = write!(
                text,
                "\n  move {name} of {}: {:?} {:?} -> {:?}, {:?}",
                shown.spec.guest,
                status.phase,
                status.source,
                status.target,
                cause.map(|cause| (&cause.reason, &cause.message))
            );
        }
        for (host, journal) in self.fleet.journals() {
            let _ = write!(text, "\n  journal on {host}: {journal}");
        }
        for (host, claim) in self.fleet.claims() {
            let _ = write!(text, "\n  claim on {host}: {claim:?}");
        }
        text
    }
}
