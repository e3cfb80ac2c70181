//! A stage for the engine: a simulated fleet, what is declared, an engine at work and all it says.
#![allow(dead_code)]

pub mod policies;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_crds::{
    FleetSpec, Guest, GuestMigration, GuestMigrationSpec, GuestMigrationStatus, GuestPlacement,
    GuestPlacementSpec, GuestSpec, Host, HostDrain, HostDrainSpec, HostSpec, MigrationPhase,
    MigrationProfile, MigrationProfileSpec, RebalancePolicy, RebalancePolicySpec,
    kinds::{
        drain::OnRelease,
        placement::Requirement,
        policy::{LoadKind, Mode},
    },
    shared::{Condition, LABEL_WISH_KIND, LABEL_WISH_NAME, Picker, Time, Timestamp, find},
};
use evenkeel_engine::{
    Clock, Engine, Happening, MigrationView, Options, View, Wishes, port::ProcessIdentity,
};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, uri};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use uuid::Uuid;

pub type Told = Arc<Mutex<Vec<(Instant, Happening)>>>;

/// What is declared, and every object's status as a database would keep it.
#[derive(Clone)]
pub struct Desk(pub watch::Sender<Arc<Wishes>>);

impl Desk {
    pub fn new(hosts: &[&str]) -> Self {
        let desk = Self(watch::channel(Arc::default()).0);
        desk.change(|wishes| {
            for name in hosts {
                wishes
                    .hosts
                    .insert((*name).to_owned(), Arc::new(host(name)));
            }
        });
        desk
    }

    pub fn change(&self, change: impl FnOnce(&mut Wishes)) {
        self.0.send_modify(|wishes| change(Arc::make_mut(wishes)));
    }

    pub fn change_host(&self, name: &str, change: impl FnOnce(&mut HostSpec)) {
        self.change(|wishes| {
            let mut host = (*wishes.hosts[name]).clone();
            change(&mut host.spec);
            wishes.hosts.insert(name.to_owned(), Arc::new(host));
        });
    }

    pub fn migrate(&self, name: &str, guest: &str, target: Option<&str>) {
        self.migration(name, |spec| {
            spec.guest = guest.to_owned();
            spec.target = target.map(str::to_owned);
        });
    }

    pub fn migration(&self, name: &str, change: impl FnOnce(&mut GuestMigrationSpec)) {
        let mut spec = GuestMigrationSpec::default();
        change(&mut spec);
        let mut object = GuestMigration::new(name, spec);
        object.metadata.uid = Some(format!("uid-{name}"));
        object.metadata.generation = Some(1);
        object.metadata.creation_timestamp = Some(Time(Timestamp::now()));
        self.change(|wishes| {
            wishes.migrations.insert(name.to_owned(), Arc::new(object));
        });
    }

    pub fn change_migration(&self, name: &str, change: impl FnOnce(&mut GuestMigration)) {
        self.change(|wishes| {
            let mut object = (*wishes.migrations[name]).clone();
            change(&mut object);
            wishes.migrations.insert(name.to_owned(), Arc::new(object));
        });
    }

    pub fn abort(&self, name: &str) {
        self.change_migration(name, |object| object.spec.abort = Some(true));
    }

    pub fn delete(&self, name: &str) {
        self.change_migration(name, |object| {
            object.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        });
    }

    pub fn drain(&self, name: &str, hosts: &[&str], change: impl FnOnce(&mut HostDrainSpec)) {
        let names = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut drain: HostDrain = HostDrain::new(
            name,
            HostDrainSpec {
                hosts: Picker {
                    names: Some(names),
                    selector: None,
                },
                parallel: 4,
                ..HostDrainSpec::default()
            },
        );
        change(&mut drain.spec);
        self.change(|wishes| {
            wishes.drains.insert(name.to_owned(), Arc::new(drain));
        });
    }

    pub fn profile(&self, name: &str, change: impl FnOnce(&mut MigrationProfileSpec)) {
        let mut spec = MigrationProfileSpec::default();
        change(&mut spec);
        let mut object = MigrationProfile::new(name, spec);
        object.metadata.generation = Some(1);
        self.change(|wishes| {
            wishes.profiles.insert(name.to_owned(), Arc::new(object));
        });
    }

    pub fn placement(
        &self,
        name: &str,
        guests: &[&str],
        change: impl FnOnce(&mut GuestPlacementSpec),
    ) {
        let mut spec = GuestPlacementSpec {
            guests: named(guests),
            hosts: None,
            requirement: Requirement::Required,
            spread: None,
            apart: None,
            together: None,
            suspend: false,
        };
        change(&mut spec);
        let mut object = GuestPlacement::new(name, spec);
        self.change(|wishes| {
            let before = wishes.placements.get(name);
            let generation = before.and_then(|before| before.metadata.generation);
            object.metadata.uid = Some(format!("uid-{name}"));
            object.metadata.generation = Some(generation.unwrap_or(0) + 1);
            wishes.placements.insert(name.to_owned(), Arc::new(object));
        });
    }

    pub fn policy(&self, name: &str, change: impl FnOnce(&mut RebalancePolicySpec)) {
        self.change(|wishes| {
            let before = wishes.policies.get(name);
            let mut object = before.map_or_else(
                || {
                    let spec = RebalancePolicySpec {
                        load: LoadKind::Allocated,
                        mode: Mode::Auto,
                        ..RebalancePolicySpec::default()
                    };
                    let mut object = RebalancePolicy::new(name, spec);
                    object.metadata.uid = Some(format!("uid-{name}"));
                    object
                },
                |before| (**before).clone(),
            );
            change(&mut object.spec);
            let generation = object.metadata.generation.unwrap_or(0);
            object.metadata.generation = Some(generation + 1);
            wishes.policies.insert(name.to_owned(), Arc::new(object));
        });
    }

    pub fn fleet(&self, change: impl FnOnce(&mut FleetSpec)) {
        let mut fleet = evenkeel_crds::Fleet::new("default", FleetSpec::default());
        change(&mut fleet.spec);
        self.change(|wishes| {
            wishes.fleets.insert("default".to_owned(), Arc::new(fleet));
        });
    }

    pub fn undrain(&self, name: &str) {
        self.change(|wishes| {
            wishes.drains.remove(name);
        });
    }

    pub fn guest(&self, name: &str, change: impl FnOnce(&mut GuestSpec)) {
        let mut guest = Guest::new(name, GuestSpec::default());
        change(&mut guest.spec);
        self.change(|wishes| {
            wishes.guests.insert(name.to_owned(), Arc::new(guest));
        });
    }

    /// Keeps the moves' status and makes objects for those that wishes made, as a cluster's front end does.
    pub fn keep(&self, view: &View) {
        self.0.send_if_modified(|wishes| {
            let mut changed = false;
            for (name, shown) in &view.migrations {
                let known = wishes.migrations.get(name.as_str());
                if known.is_some_and(|known| known.status.as_ref() == Some(&shown.status)) {
                    continue;
                }
                let mut object = known.map_or_else(
                    || GuestMigration::new(name, shown.spec.clone()),
                    |known| (**known).clone(),
                );
                if known.is_none() {
                    let by = &shown.requested_by;
                    object.metadata.uid = Some(format!("uid-{name}"));
                    object.metadata.creation_timestamp = Some(Time(Timestamp::now()));
                    object.metadata.labels = Some(BTreeMap::from([
                        (LABEL_WISH_KIND.to_owned(), by.kind.clone()),
                        (LABEL_WISH_NAME.to_owned(), by.name.clone()),
                    ]));
                }
                object.status = Some(shown.status.clone());
                Arc::make_mut(wishes)
                    .migrations
                    .insert(name.to_string(), Arc::new(object));
                changed = true;
            }
            for (name, shown) in &view.policies {
                let Some(known) = wishes.policies.get(name.as_str()) else {
                    continue;
                };
                if known.status.as_ref() != Some(&**shown) {
                    let mut object = (**known).clone();
                    object.status = Some((**shown).clone());
                    Arc::make_mut(wishes)
                        .policies
                        .insert(name.to_string(), Arc::new(object));
                    changed = true;
                }
            }
            changed
        });
    }
}

/// Objects by their names.
pub fn named(names: &[&str]) -> Picker {
    Picker {
        names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        selector: None,
    }
}

pub fn host(name: &str) -> Host {
    Host::new(
        name,
        HostSpec {
            uri: uri(name),
            ..HostSpec::default()
        },
    )
}

/// How an engine runs on the stage.
#[derive(Clone)]
pub struct Role {
    pub holder: String,
    pub fleet: String,
    pub process: Option<ProcessIdentity>,
    pub epoch: u64,
    pub from_files: bool,
    /// Keeps statuses in the objects, as a cluster does.
    pub keeps: bool,
    /// Its time of day.
    pub clock: Clock,
}

impl Role {
    pub fn new(holder: &str) -> Self {
        Self {
            holder: holder.to_owned(),
            fleet: "test".to_owned(),
            process: None,
            epoch: 0,
            from_files: false,
            keeps: false,
            clock: Clock::System,
        }
    }

    /// With a time of day that goes with tokio's clock.
    pub fn on_virtual_time(mut self) -> Self {
        self.clock = Clock::simulated(Timestamp::now(), 1);
        self
    }

    /// As `apply` runs: from files.
    pub fn files(mut self) -> Self {
        self.from_files = true;
        self
    }

    /// As a controller runs: with a database that keeps statuses.
    pub fn cluster(mut self) -> Self {
        self.keeps = true;
        self
    }

    pub fn process(mut self, process: Option<ProcessIdentity>) -> Self {
        self.process = process;
        self
    }

    /// With a time of day that goes with the test's own.
    pub fn by(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }
}

/// A process of this machine that is proven dead.
pub fn dead_process() -> Option<ProcessIdentity> {
    let own = evenkeel_engine::process::own_identity()?;
    Some(ProcessIdentity {
        start: own.start + 1,
        ..own
    })
}

/// An engine at work.
pub struct Actor {
    pub fleet: Fleet,
    pub desk: Desk,
    pub engine: Engine,
    pub views: watch::Receiver<Arc<View>>,
    pub told: Told,
    keeper: Option<tokio::task::JoinHandle<()>>,
}

impl Actor {
    pub fn start(fleet: &Fleet, desk: &Desk, role: &Role) -> Self {
        let options = Options {
            fleet: role.fleet.clone(),
            holder: role.holder.clone(),
            process: role.process.clone(),
            epoch: role.epoch,
            act: true,
            held: false,
            from_files: role.from_files,
        };
        let (sender, mut heard) = mpsc::unbounded_channel();
        let client = Arc::new(fleet.client(&role.holder));
        let engine = Engine::start_with(
            role.clock.clone(),
            options,
            client,
            desk.0.subscribe(),
            sender,
        );
        let told = Told::default();
        let ears = told.clone();
        tokio::spawn(async move {
            while let Some(happening) = heard.recv().await {
                ears.lock().unwrap().push((Instant::now(), happening));
            }
        });
        let views = engine.views();
        let keeper = role.keeps.then(|| {
            let (mut views, desk) = (engine.views(), desk.clone());
            tokio::spawn(async move {
                while views.changed().await.is_ok() {
                    let view = views.borrow_and_update().clone();
                    desk.keep(&view);
                }
            })
        });
        Self {
            fleet: fleet.clone(),
            desk: desk.clone(),
            engine,
            views,
            told,
            keeper,
        }
    }

    /// Kills the process: nothing of it goes on but what libvirt does.
    pub async fn kill(self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        drop(self.engine);
        tokio::task::yield_now().await;
    }

    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    pub fn migration(&self, name: &str) -> Option<Arc<MigrationView>> {
        self.view().migrations.get(name).cloned()
    }

    pub fn status(&self, name: &str) -> GuestMigrationStatus {
        self.migration(name)
            .map(|shown| shown.status.clone())
            .unwrap_or_default()
    }

    /// Waits until a move that was left at any instant is over, and nothing of it is left but its end.
    pub async fn rests(&self, name: &str, what: &str, seconds: u64) {
        let over = |view: &View| {
            let shown = view.migrations.get(name);
            let done = shown.is_some_and(|shown| shown.status.phase.is_final());
            done && view.settled
                && self.fleet.journals().is_empty()
                && self.fleet.claims().is_empty()
        };
        self.until(what, seconds, over).await;
    }

    /// Waits for something, checking all the time what must never be.
    pub async fn until(&self, what: &str, seconds: u64, test: impl Fn(&View) -> bool) {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            assert_eq!(self.fleet.violations(), Vec::<String>::new());
            let view = self.view();
            if test(&view) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not within {seconds} s: {what}\n{}",
                self.picture()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The libvirtd of that host dies while the guest is switched over, and is back five seconds later.
    pub async fn loses_libvirtd_in_the_switch(&self, guest: Uuid, host: &str) {
        let switches = |_: &View| {
            matches!(
                self.fleet.phase(guest).as_deref(),
                Some("Finish" | "Confirm")
            )
        };
        self.until("it switches", 60, switches).await;
        self.fleet.kill_libvirtd(host);
        sleep(Duration::from_secs(5)).await;
        self.fleet.start_libvirtd(host);
    }

    pub async fn settled(&self) {
        self.until("settled", 30, |view| view.settled).await;
    }

    pub async fn phase(&self, name: &str, phase: MigrationPhase, seconds: u64) {
        self.until(&format!("{name} is {phase:?}"), seconds, |view| {
            view.migrations
                .get(name)
                .is_some_and(|shown| shown.status.phase == phase)
        })
        .await;
    }

    /// Waits for the move's end, whatever it is.
    pub async fn ends(&self, name: &str, seconds: u64) -> MigrationPhase {
        self.until(&format!("{name} ends"), seconds, |view| {
            view.migrations
                .get(name)
                .is_some_and(|shown| shown.status.phase.is_final())
        })
        .await;
        self.status(name).phase
    }

    /// Waits until the move says that reason, in the view and as a happening within two seconds.
    pub async fn says(&self, kind: &str, name: &str, reason: &str, seconds: u64) {
        self.until(&format!("{kind} {name} says {reason}"), seconds, |view| {
            let conditions = match kind {
                "GuestMigration" => view
                    .migrations
                    .get(name)
                    .map(|shown| shown.status.conditions.clone()),
                "HostDrain" => view.drains.get(name).map(|shown| shown.conditions.clone()),
                "Host" => view.hosts.get(name).map(|shown| shown.conditions.clone()),
                "GuestPlacement" => view
                    .placements
                    .get(name)
                    .map(|shown| shown.conditions.clone()),
                "RebalancePolicy" => view
                    .policies
                    .get(name)
                    .map(|shown| shown.conditions.clone()),
                _ => None,
            };
            conditions.is_some_and(|all| all.iter().any(|one: &Condition| one.reason == reason))
        })
        .await;
        let end = Instant::now() + Duration::from_secs(2);
        while !self.heard(kind, name, reason) {
            assert!(
                Instant::now() < end,
                "no happening {reason} on {kind} {name}\n{}",
                self.picture()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn heard(&self, kind: &str, name: &str, reason: &str) -> bool {
        let told = self.told.lock().unwrap();
        told.iter()
            .any(|(_, one)| one.kind == kind && one.name == name && one.reason.as_str() == reason)
    }

    /// Nothing is left behind: no journals, no claims, no marks, and each guest's files on one host only.
    pub async fn clean(&self, guests: &[(Uuid, &str)]) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.fleet.claims().is_empty() && Instant::now() < end {
            sleep(Duration::from_millis(100)).await;
        }
        clean(&self.fleet, guests, &self.picture());
    }

    pub fn condition(&self, kind: &str, name: &str, condition: &str) -> Option<Condition> {
        let view = self.view();
        let conditions = match kind {
            "GuestMigration" => &view.migrations.get(name)?.status.conditions,
            "HostDrain" => &view.drains.get(name)?.conditions,
            "Host" => &view.hosts.get(name)?.conditions,
            "GuestPlacement" => &view.placements.get(name)?.conditions,
            "RebalancePolicy" => &view.policies.get(name)?.conditions,
            _ => &view.guests.get(name)?.status.conditions,
        };
        find(conditions, condition).cloned()
    }

    /// While nothing happens, nothing is shown anew.
    pub async fn quiet(&self, seconds: u64) {
        let before = self.view().number;
        sleep(Duration::from_secs(seconds)).await;
        let rose = self.view().number - before;
        assert!(
            rose <= seconds / 20 + 1,
            "{rose} views in {seconds} quiet seconds\n{}",
            self.picture()
        );
    }

    pub fn picture(&self) -> String {
        use std::fmt::Write;
        let view = self.view();
        let mut text = format!("view {} settled {}\n", view.number, view.settled);
        for (name, shown) in &view.migrations {
            let status = &shown.status;
            let cause = find(&status.conditions, "Succeeded");
            let _ = writeln!(
                text,
                "  {name}: {:?} {:?} -> {:?} {}% failed {} {:?}\n    phases {:?}",
                status.phase,
                status.source,
                status.target,
                status.progress,
                status.failed_attempts,
                cause.map(|cause| format!("{} {}", cause.reason, cause.message)),
                status
                    .phases
                    .iter()
                    .map(|phase| phase.phase)
                    .collect::<Vec<_>>(),
            );
            for attempt in &status.attempts {
                let _ = writeln!(
                    text,
                    "    {} to {}: {} {}",
                    attempt.number, attempt.target, attempt.reason, attempt.message
                );
            }
        }
        for (name, shown) in &view.drains {
            let drained = find(&shown.conditions, "Drained");
            let _ = writeln!(
                text,
                "  drain {name}: {:?} {:?} {:?}",
                drained, shown.guests, shown.blocked
            );
        }
        for (name, shown) in &view.hosts {
            let ready = find(&shown.conditions, "Ready");
            let _ = writeln!(
                text,
                "  host {name}: {:?} {:?}",
                ready.map(|ready| (&ready.reason, &ready.message)),
                shown.guests
            );
        }
        for (name, shown) in &view.guests {
            let _ = writeln!(
                text,
                "  guest {name}: {:?} {:?} {:?}",
                shown.status.phase, shown.status.host, shown.status.copies
            );
        }
        for (name, shown) in &view.placements {
            let _ = writeln!(text, "  placement {name}: {shown:?}");
        }
        for (name, shown) in &view.policies {
            let _ = writeln!(text, "  policy {name}: {shown:?}");
        }
        let _ = writeln!(text, "  problems {:?}", view.problems);
        for planned in &view.plan.moves {
            let _ = writeln!(text, "  planned {:?}", planned);
        }
        for refused in &view.plan.rejections {
            let _ = writeln!(text, "  refused {:?}", refused.cause);
        }
        let _ = writeln!(text, "  claims {:?}", self.fleet.claims());
        let _ = writeln!(text, "  journals {:?}", self.fleet.journals());
        for host in view.hosts.keys() {
            let _ = writeln!(text, "  files on {host}: {:?}", self.fleet.files(host));
        }
        for (at, one) in self.told.lock().unwrap().iter() {
            let _ = writeln!(
                text,
                "  told at {at:?}: {} {} {} {}",
                one.kind, one.name, one.reason, one.message
            );
        }
        text
    }
}

/// Nothing is left behind: no journals, no claims, no marks, no secrets; each guest runs once, where it should, its files there alone.
pub fn clean(fleet: &Fleet, guests: &[(Uuid, &str)], picture: &str) {
    assert_eq!(fleet.violations(), Vec::<String>::new(), "{picture}");
    assert_eq!(fleet.journals(), Vec::new(), "journals are left\n{picture}");
    assert!(fleet.claims().is_empty(), "claims are left\n{picture}");
    let unsettled = fleet.unsettled_secrets();
    assert!(
        unsettled.is_empty(),
        "secrets are left on {unsettled:?}\n{picture}"
    );
    for (guest, host) in guests {
        assert_eq!(fleet.executing(*guest), [host.to_string()], "{picture}");
        assert!(!fleet.ever_ran_twice(*guest), "it ran twice\n{picture}");
        assert!(fleet.is_whole(*guest), "its data is not whole\n{picture}");
        assert_eq!(fleet.boots(*guest), 1, "it was started anew\n{picture}");
        let domain = fleet.domain(host, *guest).unwrap();
        assert_eq!(domain.mark, None, "a mark is left\n{picture}");
        assert!(domain.persistent && !domain.job, "{picture}");
    }
}

/// A fleet of these hosts, and a desk that declares them.
pub fn stage(seed: u64, hosts: &[HostPlan]) -> (Fleet, Desk) {
    trace();
    let fleet = Fleet::new(seed);
    for plan in hosts {
        fleet.add_host(plan);
    }
    let names: Vec<&str> = hosts.iter().map(|plan| plan.name.as_str()).collect();
    (fleet, Desk::new(&names))
}

/// Two hosts, h1 with the guest g1, and an engine that has looked at both.
pub async fn pair(seed: u64, role: &Role) -> (Actor, Uuid) {
    trace();
    let (fleet, desk) = stage(seed, &[HostPlan::new("h1"), HostPlan::new("h2")]);
    let guest = fleet.add_guest("h1", &GuestPlan::new("g1"));
    let actor = Actor::start(&fleet, &desk, role);
    actor.settled().await;
    (actor, guest)
}

/// One who is asked to move g1 to h2 and is killed so many milliseconds after, and the next, with whom the move rests.
pub async fn taken_over(
    (fleet, desk): (&Fleet, &Desk),
    millis: u64,
    (first, second): (&Role, &Role),
    within: u64,
) -> Actor {
    let actor = Actor::start(fleet, desk, first);
    actor.settled().await;
    desk.migrate("m", "g1", Some("h2"));
    sleep(Duration::from_millis(millis)).await;
    actor.kill().await;
    let actor = Actor::start(fleet, desk, second);
    let over = format!("it ends after a kill at {millis} ms");
    actor.rests("m", &over, within).await;
    actor
}

pub fn release(spec: &mut HostDrainSpec, how: OnRelease) {
    spec.on_release = how;
}

/// With `RUST_LOG` set, shows what the engine logs.
pub fn trace() {
    if std::env::var_os("RUST_LOG").is_some() {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
    }
}

/// Seeds from here on: the usual number of them, or as many as `SEEDS` says; `SEED` skips so many.
pub fn seeds(first: u64, usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        text.parse::<u64>().ok()
    };
    let first = first + number("SEED").unwrap_or(0);
    first..first + number("SEEDS").unwrap_or(usual)
}
