//! Looks after one host: makes its connection, makes it anew when it breaks, and tells the news.
//!
//! It has a thread of its own and asks libvirt nothing that leaves the process, so it never hangs. Connections are
//! opened and closed by threads that may hang; looking is done in the session's lanes. The connection it keeps is for
//! events alone. News leave the keeper only, hence in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use evenkeel_crds::names::HostName;
use evenkeel_engine::port::{
    DomainFacts, Fault, HostFacts, Load, News, Notice, PortError, PortResult, Usage,
};
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::{
    domain, events, host, link,
    raw::{Connection, RawEvent, Sink},
    session::{Session, Status},
    worker::{guarded, lock},
};

/// How long a connection may take to be made before the host counts as lost.
const CONNECT: Duration = Duration::from_secs(5);
/// Attempts that may hang at once; one that has hung for [`FORGOTTEN`] does not count any more.
const ATTEMPTS: usize = 4;
const FORGOTTEN: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(5);
const OBSERVE: Duration = Duration::from_secs(30);
/// How soon a domain is looked at after an event: at once where it started or stopped, later where what changed is
/// of use to people only. A move brings a dozen of those, just when its hosts have the most to do.
const DOMAIN_PAUSE: Duration = Duration::from_millis(50);
const DETAIL_PAUSE: Duration = Duration::from_millis(500);
const SURROUNDINGS_PAUSE: Duration = Duration::from_millis(200);
const RESYNC: Duration = Duration::from_secs(60);
const LOAD: Duration = Duration::from_secs(10);
/// The second sample comes early, so that there is a figure soon.
const FIRST_LOAD: Duration = Duration::from_secs(2);
/// Looks of the keeper's own that may run at once; the lane's other threads are for the engine.
const LOOKS: usize = 2;

/// What the keeper hears.
pub(crate) enum Message {
    Event(u64, RawEvent),
    Opened(u64, PortResult<Connection>),
    Observed(u64, Box<PortResult<HostFacts>>),
    Looked(u64, Uuid, Box<PortResult<Option<DomainFacts>>>),
    Sampled(u64, PortResult<(host::Sample, BTreeMap<Uuid, Usage>)>),
    Suspect,
    /// What is to be seen of the host has changed.
    LookAround,
    /// How the host is reached has changed.
    Renew,
    Stop,
}

/// The one who looks after a host.
pub(crate) struct Keeper {
    session: Arc<Session>,
    notices: UnboundedSender<Notice>,
    /// Number of the connection in use: that of the attempt which made it.
    current: Option<u64>,
    /// The connection itself. It brings the events, and no thread calls over it.
    watched: Option<Connection>,
    /// Number of the latest attempt.
    latest: u64,
    /// The first attempt that has the keys of now.
    valid: u64,
    /// Attempts under way, by number, with their start.
    attempts: BTreeMap<u64, Instant>,
    next_attempt: Option<Instant>,
    lost_since: Instant,
    /// The message of the last `Lost`, so that it is told once.
    told: Option<PortError>,
    first_attempt: bool,
    observing: bool,
    observe_at: Option<Instant>,
    seen_facts: bool,
    /// Domains that something happened to while an observation was under way.
    touched: BTreeSet<Uuid>,
    /// Domains to look at, and when.
    dirty: BTreeMap<Uuid, Instant>,
    looking: BTreeSet<Uuid>,
    load_at: Option<Instant>,
    last_sample: Option<host::Sample>,
    jitter: u64,
}

impl Keeper {
    /// A keeper that has not begun.
    pub(crate) fn new(session: Arc<Session>, notices: UnboundedSender<Notice>) -> Self {
        let now = Instant::now();
        let jitter = Uuid::new_v4().as_u64_pair().0;
        Self {
            session,
            notices,
            current: None,
            watched: None,
            latest: 0,
            valid: 0,
            attempts: BTreeMap::new(),
            next_attempt: Some(now),
            lost_since: now,
            told: None,
            first_attempt: true,
            observing: false,
            observe_at: None,
            seen_facts: false,
            touched: BTreeSet::new(),
            dirty: BTreeMap::new(),
            looking: BTreeSet::new(),
            load_at: None,
            last_sample: None,
            jitter,
        }
    }

    /// Looks after the host until told to stop.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let pause = self.due().map_or(Duration::from_secs(60), |at| {
                at.saturating_duration_since(Instant::now())
            });
            match inbox.recv_timeout(pause) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.act(Instant::now());
        }
        self.put_away();
    }

    /// When the keeper has to do something by itself next.
    fn due(&self) -> Option<Instant> {
        let overdue = self
            .attempts
            .get(&self.latest)
            .map(|start| *start + CONNECT);
        let looks = (self.looking.len() < LOOKS && self.seen_facts)
            .then(|| self.dirty.values().min().copied())
            .flatten();
        let observe = self.observe_at.filter(|_| !self.observing);
        if self.current.is_some() {
            [observe, looks, self.load_at].into_iter().flatten().min()
        } else {
            [
                overdue.filter(|_| self.next_attempt.is_none()),
                self.next_attempt,
            ]
            .into_iter()
            .flatten()
            .min()
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Opened(attempt, result) => self.opened(attempt, result),
            Message::Event(generation, event) if self.current == Some(generation) => {
                self.event(event);
            }
            Message::Observed(generation, result) if self.current == Some(generation) => {
                self.observed(*result);
            }
            Message::Looked(generation, uuid, result) if self.current == Some(generation) => {
                self.looked(uuid, *result);
            }
            Message::Sampled(generation, result) if self.current == Some(generation) => {
                self.sampled(result);
            }
            Message::Suspect if self.current.is_some() => {
                if !self.alive() {
                    self.lost(PortError::new(Fault::Unreachable, "the connection broke"));
                }
            }
            Message::Renew => self.renew(),
            Message::LookAround => {
                let soon = Instant::now() + SURROUNDINGS_PAUSE;
                self.observe_at = self.observe_at.map(|at| at.min(soon));
            }
            Message::Event(..)
            | Message::Observed(..)
            | Message::Looked(..)
            | Message::Sampled(..)
            | Message::Suspect
            | Message::Stop => {}
        }
    }

    fn act(&mut self, now: Instant) {
        let Some(generation) = self.current else {
            self.attempt(now);
            return;
        };
        if !self.observing && self.observe_at.is_some_and(|at| at <= now) {
            self.observe(generation);
        }
        if self.load_at.is_some_and(|at| at <= now) {
            self.sample(generation, now);
        }
        while self.seen_facts && self.looking.len() < LOOKS {
            let ready = self
                .dirty
                .iter()
                .find(|(uuid, at)| **at <= now && !self.looking.contains(*uuid))
                .map(|(uuid, _)| *uuid);
            let Some(uuid) = ready else { break };
            self.dirty.remove(&uuid);
            self.look(generation, uuid, now);
        }
    }

    // ---- the connection ----

    fn attempt(&mut self, now: Instant) {
        let overdue = self
            .attempts
            .get(&self.latest)
            .is_some_and(|start| *start + CONNECT <= now);
        if overdue && self.next_attempt.is_none() {
            self.tell_lost(PortError::new(
                Fault::TimedOut,
                format!(
                    "{} did not answer within {} s",
                    self.session.reach().uri,
                    CONNECT.as_secs()
                ),
            ));
            self.next_attempt = Some(now);
        }
        if self.next_attempt.is_none_or(|at| at > now) {
            return;
        }
        self.attempts.retain(|_, start| *start + FORGOTTEN > now);
        if self.attempts.len() >= ATTEMPTS {
            self.next_attempt = Some(now + CONNECT);
            return;
        }
        self.next_attempt = None;
        self.open(now);
    }

    /// Opens a connection in a thread of its own.
    fn open(&mut self, now: Instant) {
        self.latest += 1;
        let number = self.latest;
        let session = self.session.clone();
        let knock = !self.first_attempt;
        self.first_attempt = false;
        self.attempts.insert(number, now);
        let opening = thread::Builder::new()
            .name(format!("ek-open-{}", session.host))
            .spawn(move || {
                let to_keeper = session.keeper.clone();
                let sink: Sink = {
                    let to_keeper = to_keeper.clone();
                    Arc::new(move |event| {
                        let _ = to_keeper.send(Message::Event(number, event));
                    })
                };
                let reach = session.reach();
                let result = guarded(|| {
                    if knock {
                        link::knock(&reach, CONNECT)?;
                    }
                    link::open_watched(&reach, &sink)
                });
                drop(session);
                let _ = to_keeper.send(Message::Opened(number, result));
            });
        if let Err(error) = opening {
            self.attempts.remove(&number);
            self.tell_lost(PortError::new(
                Fault::Other,
                format!("no thread to connect with: {error}"),
            ));
            self.next_attempt = Some(now + Duration::from_secs(3));
        }
    }

    fn opened(&mut self, attempt: u64, result: PortResult<Connection>) {
        let now = Instant::now();
        self.attempts.remove(&attempt);
        let valid = attempt >= self.valid;
        // One with the keys of now takes the place of the one with those of before.
        let renews = valid && self.current.is_some_and(|current| current < self.valid);
        match result {
            Ok(link) if renews || (valid && self.current.is_none()) => {
                if renews {
                    self.let_go();
                }
                self.current = Some(attempt);
                self.attempts.clear();
                self.next_attempt = None;
                self.told = None;
                self.seen_facts = false;
                self.observing = false;
                self.touched.clear();
                self.dirty.clear();
                self.looking.clear();
                self.last_sample = None;
                self.watched = Some(link);
                self.session.status.send_replace(Status::Up);
                self.observe_at = Some(now);
                self.load_at = Some(now);
            }
            // One that hung and came through after another had, or with keys of before: not needed.
            Ok(link) => {
                drop_elsewhere(&self.session.host, link);
            }
            Err(error) if renews => self.lost(error),
            Err(error) if valid && self.current.is_none() => {
                self.tell_lost(error);
                if attempt == self.latest {
                    self.next_attempt = Some(now + self.backoff(now));
                }
            }
            Err(_) => {}
        }
    }

    /// A quarter of the time the host has been away, between 0.2 and 3 s, and up to a tenth more: who was away
    /// shortly is seen again within a second, who stays away is not pestered.
    fn backoff(&mut self, now: Instant) -> Duration {
        let away = now.saturating_duration_since(self.lost_since);
        let pause = (away / 4).clamp(Duration::from_millis(200), Duration::from_secs(3));
        self.jitter = self
            .jitter
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        pause + pause.mul_f64((self.jitter >> 40) as f64 / (1u64 << 24) as f64 / 10.0)
    }

    /// Whether the watched connection lives, as far as this end knows.
    fn alive(&self) -> bool {
        self.watched
            .as_ref()
            .is_some_and(|connection| connection.is_alive().unwrap_or(false))
    }

    fn lost(&mut self, error: PortError) {
        let now = Instant::now();
        self.current = None;
        self.lost_since = now;
        self.observe_at = None;
        self.load_at = None;
        self.next_attempt = Some(now + Duration::from_millis(50));
        *lock(&self.session.cpu_milli) = None;
        self.tell_lost(error);
        self.let_go();
    }

    /// Other keys: with a connection up the next is opened beside it, and takes its place or says why not.
    fn renew(&mut self) {
        let now = Instant::now();
        self.valid = self.latest + 1;
        if self.current.is_some() {
            self.open(now);
        } else {
            self.next_attempt = Some(now);
        }
    }

    /// Gives up every connection there is.
    fn let_go(&mut self) {
        self.put_away();
        for path in self.session.paths() {
            path.retire();
        }
    }

    /// Closes the connection in a thread of its own: that may take as long as libvirtd pleases.
    fn put_away(&mut self) {
        if let Some(connection) = self.watched.take() {
            drop_elsewhere(&self.session.host, connection);
        }
    }

    fn tell_lost(&mut self, error: PortError) {
        self.session
            .status
            .send_replace(Status::Down(error.clone()));
        self.tell_trouble(error);
    }

    fn tell_trouble(&mut self, error: PortError) {
        if self.told.as_ref() != Some(&error) {
            self.told = Some(error.clone());
            self.tell(News::Lost(error));
        }
    }

    fn tell(&self, what: News) {
        let _ = self.notices.send(Notice {
            host: self.session.host.clone(),
            what,
        });
    }

    // ---- what it tells ----

    fn event(&mut self, event: RawEvent) {
        let now = Instant::now();
        match event {
            RawEvent::Closed => {
                self.lost(PortError::new(
                    Fault::Unreachable,
                    "the connection was closed",
                ));
            }
            RawEvent::Surroundings => {
                let soon = now + SURROUNDINGS_PAUSE;
                self.observe_at = Some(self.observe_at.map_or(soon, |at| at.min(soon)));
            }
            event => {
                let (uuid, known) = events::meaning(event);
                let Some(uuid) = uuid else { return };
                if let Some(known) = known {
                    self.tell(News::Event(uuid, known));
                }
                let pause = match event {
                    // Nothing that a look shows has changed.
                    RawEvent::Iteration(_) => return,
                    RawEvent::Changed(_) | RawEvent::BlockJob(_) | RawEvent::JobCompleted(_) => {
                        DETAIL_PAUSE
                    }
                    _ => DOMAIN_PAUSE,
                };
                self.touched.insert(uuid);
                let at = self.dirty.entry(uuid).or_insert(now + pause);
                *at = (*at).min(now + pause);
            }
        }
    }

    fn observe(&mut self, generation: u64) {
        self.observing = true;
        self.observe_at = Some(Instant::now() + RESYNC);
        self.touched.clear();
        let session = self.session.clone();
        let asked = self.session.looks().submit(OBSERVE, move |tool| {
            let result =
                guarded(|| session.with(tool, |connection| host::observe(&session, connection)));
            session.send(Message::Observed(generation, Box::new(result)));
        });
        if let Err(error) = asked {
            self.observed(Err(error));
        }
    }

    fn observed(&mut self, result: PortResult<HostFacts>) {
        let now = Instant::now();
        self.observing = false;
        match result {
            Ok(facts) => {
                self.told = None;
                self.seen_facts = true;
                self.tell(News::Facts(Box::new(facts)));
                // Their part of the description may be older than what was told of them meanwhile.
                for uuid in std::mem::take(&mut self.touched) {
                    self.dirty.entry(uuid).or_insert(now);
                }
            }
            Err(error) if error.fault == Fault::Unreachable && !self.alive() => self.lost(error),
            Err(error) => {
                self.tell_trouble(error);
                self.observe_at = Some(now + Duration::from_secs(2));
            }
        }
    }

    fn look(&mut self, generation: u64, uuid: Uuid, now: Instant) {
        self.looking.insert(uuid);
        let session = self.session.clone();
        let asked = self.session.looks().submit(LOOK, move |tool| {
            let result = guarded(|| {
                session.with(tool, |connection| domain::look(&session, connection, uuid))
            });
            session.send(Message::Looked(generation, uuid, Box::new(result)));
        });
        if asked.is_err() {
            self.looking.remove(&uuid);
            self.dirty.insert(uuid, now + Duration::from_millis(500));
        }
    }

    fn looked(&mut self, uuid: Uuid, result: PortResult<Option<DomainFacts>>) {
        self.looking.remove(&uuid);
        match result {
            Ok(facts) => self.tell(News::Domain(uuid, facts.map(Box::new))),
            Err(error) if error.fault == Fault::Unreachable && !self.alive() => self.lost(error),
            Err(_) => {
                let again = Instant::now() + Duration::from_millis(500);
                self.dirty.entry(uuid).or_insert(again);
            }
        }
    }

    fn sample(&mut self, generation: u64, now: Instant) {
        self.load_at = Some(
            now + if self.last_sample.is_some() {
                LOAD
            } else {
                FIRST_LOAD
            },
        );
        let session = self.session.clone();
        // Refused where all threads hang: then there is no figure this time.
        let _ = self.session.looks().submit(LOOK, move |tool| {
            let result = guarded(|| {
                session.with(tool, |connection| {
                    Ok((host::sample(connection)?, host::usage(connection)?))
                })
            });
            session.send(Message::Sampled(generation, result));
        });
    }

    fn sampled(&mut self, result: PortResult<(host::Sample, BTreeMap<Uuid, Usage>)>) {
        match result {
            Ok((sample, usage)) => {
                let cpu_milli = self
                    .last_sample
                    .as_ref()
                    .and_then(|last| sample.cpu_milli_since(last));
                *lock(&self.session.cpu_milli) = cpu_milli;
                let memory = sample.memory_used;
                self.last_sample = Some(sample);
                self.tell(News::Load(Load { cpu_milli, memory }));
                self.tell(News::Usage(usage));
            }
            Err(error) if error.fault == Fault::Unreachable && !self.alive() => self.lost(error),
            Err(_) => {}
        }
    }
}

fn drop_elsewhere(host: &HostName, connection: Connection) {
    // Where no thread can be had, the closure and the connection in it are dropped here.
    let _ = thread::Builder::new()
        .name(format!("ek-close-{host}"))
        .spawn(move || drop(connection));
}
