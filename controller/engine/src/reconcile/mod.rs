//! The one task that reconciles: keeps what hosts tell, asks the planner, starts moves, shows what is.
//!
//! It never waits for a host. Whatever takes time (a move, reading journals, looking at pools) is a task of its own
//! that reports back.

mod adopt;
mod again;
mod asking;
mod attach;
mod decided;
mod emptying;
mod evacuate;
mod fleet;
mod gone;
mod kept;
mod placements;
mod policies;
mod profiles;
mod remembered;
mod show;
mod shown;
mod start;
mod table;
mod telling;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{
    names::{GuestName, HostName, MigrationName},
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::{RequestedBy, Timestamp},
};
use evenkeel_planner as planner;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    carrier::Carrier,
    claim::{self, Claims},
    clock::Clock,
    guests::Guests,
    hands::Hands,
    hosts::{Change, HostState},
    journal::Journal,
    levelling::Levelling,
    life::Report,
    model::{self, Model, Sources},
    moves::{MoveState, running},
    port::{Hypervisors, JournalEntry, News, Notice, PoolFacts},
    usage::Uses,
    view::{Happening, View},
    wishes::{Options, Wishes},
};

/// What a front end can tell a running engine beyond wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Start nothing more.
    Hold,
    /// Start what is ready.
    Go,
    /// Abort what has not begun to switch.
    AbortAll,
    /// End once nothing is under way, and give the claims back.
    Finish,
    /// End at once and leave moves as they are; only claims that nothing uses are given back.
    Leave,
}

/// What tasks report back.
#[derive(Debug)]
enum Inner {
    /// A host's journals; nothing where they could not be read.
    Journals(HostName, Option<Vec<JournalEntry>>),
    /// A host's pools, looked at because something waits for room.
    Pools(HostName, Vec<PoolFacts>),
    /// The same, directories outside pools among them; nothing where the host did not answer.
    Directories(HostName, Option<Vec<PoolFacts>>),
    /// A journal without a word at that host is gone, or was written after all.
    Swept(HostName, Uuid),
    /// Disks that were kept at that host are removed, or why they are not.
    Released(HostName, Uuid, Result<(), Cause>),
    /// What a drain wanted of that guest was done, or why not.
    Evacuated(Uuid, GuestName, Result<(), Cause>),
    /// A host that another held is free.
    Free,
    /// Whether hosts could be emptied was looked at.
    Emptying(emptying::Answers, Box<planner::Looked>),
    /// Plans for policies were looked for.
    Searched(policies::Found),
    /// A guest that was seen on several hosts has had the time to be on one.
    Settled,
}

/// How often claims are tended and waiting things looked at again.
const TICK: Duration = Duration::from_secs(1);
/// The least time from one pass to the next: what comes in between is worked on together.
const GATHER: Duration = Duration::from_millis(20);
/// The same where nothing is to be done, only to be shown: how far a move is, live use.
const LINGER: Duration = Duration::from_millis(250);
/// And so many times as long as a pass takes: what is only to be shown takes no more than a fifth of a CPU, however many there are.
const SHARE: u32 = 4;

/// How long giving claims back may take who leaves at once.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// The same for one that ends in its own time.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// How soon something asks for a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urge {
    /// Nothing is different.
    None,
    /// Something is to be shown differently.
    Show,
    /// Something may be done differently.
    Act,
}

impl Urge {
    fn act_if(changed: bool) -> Self {
        if changed { Self::Act } else { Self::None }
    }

    /// The least time since the pass before, which took so long.
    fn pause(self, took: Duration) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Show => Some(LINGER.max(took * SHARE)),
            Self::Act => Some(GATHER),
        }
    }
}

/// Both ends of a queue: the sender is cloned for each who writes to it.
type Queue<T> = (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>);

pub(crate) struct Reconciler {
    clock: Clock,
    options: Options,
    hypervisors: Arc<dyn Hypervisors>,
    claims: Arc<Claims>,
    carrier: Arc<Carrier>,
    wishes: watch::Receiver<Arc<Wishes>>,
    declared: Arc<Wishes>,
    hosts: BTreeMap<HostName, HostState>,
    moves: BTreeMap<MigrationName, MoveState>,
    /// Journals of earlier processes that wait to be taken over, with the earliest time to try.
    orphans: BTreeMap<Uuid, (Journal, Instant)>,
    views: watch::Sender<Arc<View>>,
    happenings: mpsc::UnboundedSender<Happening>,
    notices: Queue<Notice>,
    reports: Queue<(MigrationName, Report)>,
    inner: Queue<Inner>,
    commands: mpsc::UnboundedReceiver<Command>,
    started: Instant,
    started_at: Timestamp,
    held: bool,
    /// Somebody waits for the next view, whatever it shows.
    answer: bool,
    finishing: bool,
    pools_looked: Instant,
    claims_looked: Instant,
    /// Guests whose moves succeeded, until their hosts' own words show them.
    arrivals: BTreeMap<Uuid, Arrival>,
    /// Journals without a word that are being removed.
    sweeping: BTreeSet<(HostName, Uuid)>,
    /// Hosts whose journals are to be read again, and when.
    rereads: Vec<(Instant, HostName)>,
    /// Moves, sweeps, beats. They end with the reconciler: who has left must not act any more.
    tasks: JoinSet<()>,
    /// Guests seen on several hosts without a move of ours, since when.
    crowded: BTreeMap<Uuid, Instant>,
    /// Causes already told as happenings, by object.
    told: BTreeMap<(&'static str, String), (Reason, String)>,
    /// Moves that succeeded and were forgotten since, by drain.
    forgotten: BTreeMap<RequestedBy, i64>,
    /// Where guests are to go by the last plan, once anything may be done by it: the next one keeps what still holds.
    planned: BTreeMap<Uuid, HostName>,
    /// Which guests other hands have moved.
    hands: Hands,
    /// Guests whose move for a wish was given up or aborted by a user, as of the last pass.
    spent: Vec<(RequestedBy, Uuid, Cause)>,
    /// Whether each host could be emptied now.
    emptying: emptying::Emptying,
    /// What policies have in mind, by name.
    levelling: BTreeMap<String, Levelling>,
    /// What was measured of guests.
    uses: Uses,
    /// Bytes of memory that guests dirty per second, as their last moves measured it.
    dirtied: BTreeMap<Uuid, Bytes>,
    /// When policies were last gone through.
    levelled_at: Instant,
    /// Guests as they were last shown.
    shown: shown::Shown,
    /// Guests that are being shut down for drains, or started again.
    shutdowns: BTreeMap<Uuid, evacuate::Doing>,
}

/// A guest that a move has seen at its target.
#[derive(Debug)]
struct Arrival {
    host: HostName,
    cpu_milli: u64,
    memory: Bytes,
    at: Instant,
}

/// What one pass worked out.
pub(crate) struct Pass {
    now: Timestamp,
    guests: Guests,
    model: Model,
    /// Whether its fleet is that of the last view.
    same_fleet: bool,
    claimed: BTreeMap<HostName, Cause>,
    wanted: wanted::Wanted,
    levelled: BTreeMap<String, policies::Levelled>,
    plan: planner::Plan,
    /// Guests that are shut down for drains, or started again, and what is said of them.
    shutdowns: BTreeMap<GuestName, Cause>,
    /// When it was planned, in the ledger's time.
    planned: Duration,
    /// What policies keep to.
    keeps: policies::Keeps,
}

/// Waits for the next pass. Never over where none is due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Reconciler {
    pub(crate) fn new(
        clock: Clock,
        options: Options,
        hypervisors: Arc<dyn Hypervisors>,
        wishes: watch::Receiver<Arc<Wishes>>,
        happenings: mpsc::UnboundedSender<Happening>,
        views: watch::Sender<Arc<View>>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let held = options.held;
        Self {
            claims: Claims::new(options.clone(), clock.clone()),
            carrier: Arc::default(),
            options,
            hypervisors,
            declared: Arc::default(),
            wishes,
            hosts: BTreeMap::new(),
            moves: BTreeMap::new(),
            orphans: BTreeMap::new(),
            views,
            happenings,
            notices: mpsc::unbounded_channel(),
            reports: mpsc::unbounded_channel(),
            inner: mpsc::unbounded_channel(),
            commands,
            started: Instant::now(),
            started_at: clock.now(),
            clock,
            held,
            answer: false,
            finishing: false,
            pools_looked: Instant::now(),
            claims_looked: Instant::now(),
            arrivals: BTreeMap::new(),
            sweeping: BTreeSet::new(),
            rereads: Vec::new(),
            tasks: JoinSet::new(),
            crowded: BTreeMap::new(),
            told: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            planned: BTreeMap::new(),
            hands: Hands::default(),
            spent: Vec::new(),
            emptying: emptying::Emptying::default(),
            levelling: BTreeMap::new(),
            uses: Uses::default(),
            dirtied: BTreeMap::new(),
            levelled_at: Instant::now(),
            shown: shown::Shown::default(),
            shutdowns: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tending: Option<AbortHandle> = None;
        let mut passed: Option<Instant> = None;
        let mut took = Duration::ZERO;
        let mut due: Option<Instant> = None;
        self.wishes.mark_changed();
        loop {
            let mut urge = Urge::None;
            // In this order, so that the same story is told the same way again.
            tokio::select! {
                biased;
                () = until(due), if due.is_some() => {
                    self.drain_queues();
                    let begun = Instant::now();
                    self.pass();
                    (took, passed, due) = (begun.elapsed(), Some(Instant::now()), None);
                }
                command = self.commands.recv() => match command {
                    Some(Command::Leave) => {
                        // Those of moves under way stay: the next process takes them over.
                        self.see_off(tending.as_ref(), GIVE_BACK).await;
                        let idle = self.claims.tend(true);
                        let _ = tokio::time::timeout(GIVE_BACK, idle).await;
                        return;
                    }
                    Some(command) => {
                        self.obey(command);
                        urge = Urge::Act;
                    }
                    None => return,
                },
                _ = tick.tick() => {
                    while self.tasks.try_join_next().is_some() {}
                    if tending.as_ref().is_none_or(AbortHandle::is_finished) {
                        let claims = self.claims.clone();
                        tending = Some(self.tasks.spawn(async move { claims.tend(false).await }));
                    }
                    self.look_again();
                    urge = Urge::act_if(self.is_due() | self.reread_journals());
                }
                changed = self.wishes.changed() => {
                    if changed.is_err() {
                        // Nobody wishes anything any more; what is under way still ends.
                        tokio::time::sleep(TICK).await;
                    }
                    let declared = self.wishes.borrow_and_update().clone();
                    // Mostly it is only that what we showed has been written down.
                    if passed.is_none() || !declared.ask_the_same(&self.declared) {
                        urge = Urge::Act;
                    } else {
                        self.declared = declared;
                    }
                }
                Some(notice) = self.notices.1.recv() => urge = self.hear(notice),
                Some((name, report)) = self.reports.1.recv() => urge = self.note(&name, report),
                Some(inner) = self.inner.1.recv() => urge = Urge::act_if(self.take(inner)),
            }
            if let Some(pause) = urge.pause(took) {
                let at = passed.map_or_else(Instant::now, |passed| passed + pause);
                due = Some(due.map_or(at, |due| due.min(at)));
            }
            if self.finishing && self.moves.values().all(|state| state.running.is_none()) {
                self.see_off(tending.as_ref(), GIVEN_BACK).await;
                self.tasks.shutdown().await;
                self.claims.tend(true).await;
                return;
            }
        }
    }

    /// Waits for claims that are being given back just now: ended in the middle of that, they would stay.
    async fn see_off(&mut self, tending: Option<&AbortHandle>, limit: Duration) {
        let busy = || tending.is_some_and(|task| !task.is_finished());
        let ends = async { while busy() && self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(limit, ends).await;
    }

    fn drain_queues(&mut self) {
        while let Ok(notice) = self.notices.1.try_recv() {
            self.hear(notice);
        }
        while let Ok((name, report)) = self.reports.1.try_recv() {
            self.note(&name, report);
        }
        while let Ok(inner) = self.inner.1.try_recv() {
            self.take(inner);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Hold => self.held = true,
            Command::Go => {
                self.held = false;
                self.answer = true;
            }
            Command::AbortAll => {
                self.held = true;
                for state in self.moves.values_mut() {
                    state.ask_to_abort(None);
                }
            }
            Command::Finish => {
                self.held = true;
                self.finishing = true;
            }
            Command::Leave => {}
        }
    }

    fn hear(&mut self, notice: Notice) -> Urge {
        if let News::Event(domain, event) = &notice.what {
            for running in running(&self.moves) {
                if running.guest == *domain {
                    let _ = running.events.send((notice.host.clone(), *event));
                }
            }
            return Urge::None;
        }
        let Some(state) = self.hosts.get_mut(&notice.host) else {
            return Urge::None;
        };
        if let News::Usage(usage) = notice.what {
            self.measured(&notice.host, usage);
            return Urge::None;
        }
        let moves = &self.moves;
        let ours = |guest: &Uuid| running(moves).any(|running| running.guest == *guest);
        let shown = match &notice.what {
            News::Load(_) => true,
            News::Domain(guest, _) => ours(guest),
            _ => false,
        };
        let change = state.hear(&notice.host, notice.what, self.clock.now());
        if change == Change::Connected {
            self.find_duplicates();
        }
        match change {
            Change::Nothing => Urge::None,
            Change::Something if shown => Urge::Show,
            Change::Something | Change::Connected | Change::Lost => Urge::Act,
        }
    }

    fn note(&mut self, name: &MigrationName, report: Report) -> Urge {
        let Some(state) = self.moves.get_mut(name) else {
            return Urge::None;
        };
        let now = self.clock.now();
        let urge = match report {
            Report::Progress(_) | Report::Dirtying(_) | Report::Course(_) | Report::Brings(_) => {
                Urge::Show
            }
            Report::Phase(_) | Report::Profile(_) | Report::Waiting(_) | Report::Ended(_) => {
                Urge::Act
            }
        };
        match report {
            Report::Phase(phase) => state.enter(phase, now),
            Report::Progress(progress) => state.progress(progress),
            Report::Brings(files) => state.brings(files),
            Report::Waiting(cause) => state.waiting = cause,
            Report::Dirtying(rate) => {
                state.status.dirty_rate = Some(rate);
                let guest = state.running.as_ref().map(|running| running.guest);
                self.dirtied.extend(guest.map(|guest| (guest, rate)));
            }
            Report::Profile(profile) => state.status.profile = Some(profile),
            Report::Course(course) => state.course = Some(course),
            Report::Ended(outcome) => self.ended(name, *outcome, now),
        }
        urge
    }

    fn take(&mut self, inner: Inner) -> bool {
        match inner {
            Inner::Journals(host, entries) => self.journals_read(&host, entries),
            Inner::Pools(host, pools) => {
                let state = self.hosts.get_mut(&host);
                state.is_some_and(|state| state.hear_pools(pools))
            }
            Inner::Directories(host, pools) => {
                if let Some(state) = self.hosts.get_mut(&host) {
                    state.directories_told = true;
                    pools.map(|pools| state.hear_pools(pools));
                }
                true
            }
            Inner::Swept(host, id) => self.sweeping.remove(&(host, id)),
            Inner::Released(host, id, done) => {
                self.was_released(&host, id, done);
                true
            }
            Inner::Emptying(answers, known) => self.emptying.found(answers, *known),
            Inner::Searched(found) => {
                self.found(&found);
                true
            }
            Inner::Evacuated(guest, name, done) => {
                self.was_evacuated(guest, &name, done);
                true
            }
            Inner::Free | Inner::Settled => true,
        }
    }

    /// One pass: from everything known to what is done and shown.
    fn pass(&mut self) {
        self.declared = self.wishes.borrow_and_update().clone();
        self.attach();
        self.read_journals();
        let now = self.clock.now();
        let mut guests = Guests::collect(&self.hosts, &self.declared.guests);
        self.let_settle(&mut guests);
        self.sync_moves(&guests, now);
        self.ask_for_directories();
        let claimed: BTreeMap<HostName, Cause> = self
            .claims
            .others()
            .into_iter()
            .map(|(host, other)| {
                let cause = claim::claimed(&host, &other);
                (host, cause)
            })
            .collect();
        self.look_for_other_hands(&guests, now);
        self.spent = self.spent(&guests);
        let unfinished = self.left_unfinished();
        self.forget_dirtying(&guests);
        let left: Vec<&Journal> = self.orphans.values().map(|(journal, _)| journal).collect();
        let mut model = model::build(&Sources {
            hosts: &self.hosts,
            guests: &guests,
            moves: &self.moves,
            claimed: &claimed,
            unfinished: &unfinished,
            dirtied: &self.dirtied,
            left: &left,
            planned: &self.planned,
            profiles: self.profiles(),
            now,
            started: self.started,
        });
        self.know(&model);
        self.count_arrivals(&mut model);
        model.fleet.limits = self.limits(&model.ledger);
        self.abort_suspended();
        let wanted = self.wanted(&guests, &model, now);
        let planned = self.started.elapsed();
        let mut plan = planner::plan(&model.fleet, &wanted.wishes, &model.ledger, planned);
        self.planned = if self.held {
            BTreeMap::new()
        } else {
            model.targets(&plan)
        };
        let same_fleet = self.note_changes(&model);
        self.look_at_emptying(&model, &wanted.wishes);
        let (levelled, keeps) = self.level(&guests, &model, &wanted, &mut plan, now);
        self.close_windows(now);
        let mut pass = Pass {
            now,
            levelled,
            guests,
            model,
            same_fleet,
            claimed,
            wanted,
            plan,
            shutdowns: BTreeMap::new(),
            planned,
            keeps,
        };
        self.tell_moves();
        self.adopt(&pass);
        self.release_kept(&pass);
        self.start(&mut pass);
        self.withdraw(&pass);
        self.evacuate(&mut pass);
        self.release(&pass);
        self.show(pass);
    }

    /// Works something out beside this task, which goes on meanwhile. On simulated time it is done at once, so that the
    /// same story is told the same way again.
    fn work_out(&mut self, work: impl FnOnce() -> Inner + Send + 'static) {
        let inner = self.inner.0.clone();
        match self.clock {
            Clock::System => drop(self.tasks.spawn_blocking(move || {
                let _ = inner.send(work());
            })),
            Clock::Simulated(_) => drop(inner.send(work())),
        }
    }
}
