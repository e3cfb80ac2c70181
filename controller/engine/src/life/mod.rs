//! The life of a move: one task per attempt, from its claims to the last file it has to remove.
//!
//! The task looks at both ends before every step that can't be taken back, and gives up nothing: where an end does
//! not answer it waits and says so, for as long as it takes.

mod act;
mod chains;
mod checks;
mod clean;
mod cold;
mod course;
mod durable;
mod load;
mod luggage;
mod measure;
mod named;
mod places;
mod post_copy;
mod predict;
mod prepare;
mod progress;
mod release;
mod secrets;
mod sharing;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{
    kinds::{
        migration::{Evidence, MigrationMode, MigrationPhase},
        profile::AppliedProfile,
    },
    names::{HostName, MigrationName},
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::RequestedBy,
};
use tokio::{
    sync::{mpsc, watch as channel},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    carrier::{Carrier, Digest},
    claim::{ClaimGuard, Claims},
    clock::Clock,
    evidence::{self, Arrival, Seen, Verdict, decide},
    journal::Journal,
    port::{Activity, DomainEvent, Endpoint, Hypervisor, JournalEntry, Mark, PortError},
};

pub(crate) use clean::unreadable;
pub(crate) use course::Course;
use prepare::Prepared;
pub(crate) use progress::Progress;
pub(crate) use release::{Kept, release};
pub(crate) use watch::CALM;

/// One end of a move.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: HostName,
    /// The hypervisor's own UUID.
    pub(crate) uuid: Uuid,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
}

/// Everything that an attempt needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The move's id, in journals and marks.
    pub(crate) id: Uuid,
    pub(crate) migration: MigrationName,
    pub(crate) migration_uid: String,
    pub(crate) requested_by: RequestedBy,
    pub(crate) attempt: u32,
    pub(crate) fleet: String,
    pub(crate) guest: Uuid,
    pub(crate) source: Place,
    pub(crate) target: Place,
    /// Where the guest goes on to by another move, if it only stops over at the target.
    pub(crate) onward: Option<HostName>,
    /// Which disks are copied.
    pub(crate) mode: MigrationMode,
    /// Disks whose pool the user named.
    pub(crate) placed: BTreeSet<String>,
    /// For each disk the pool at the target.
    pub(crate) pools: BTreeMap<String, String>,
    /// How the source's hypervisor reaches the target's.
    pub(crate) target_uri: String,
    pub(crate) target_address: Option<String>,
    /// How this process reaches the target's hypervisor, where it drives the migration itself.
    pub(crate) direct: Option<Endpoint>,
    /// Whether memory and disks travel encrypted.
    pub(crate) encrypted: bool,
    /// How it is done.
    pub(crate) profile: AppliedProfile,
    /// Bytes per second that it can have at most, where anything is declared of that.
    pub(crate) rate: Option<Bytes>,
    pub(crate) start_time: String,
    /// The journal of an earlier process, where its move is taken over.
    pub(crate) adopted: Option<Journal>,
}

/// What a task tells of itself.
#[derive(Debug, Clone)]
pub(crate) enum Report {
    /// It entered this phase.
    Phase(MigrationPhase),
    /// Bytes.
    Progress(Progress),
    /// What the guest was found to write to its memory, in bytes per second.
    Dirtying(Bytes),
    /// Whether it converges.
    Course(Course),
    /// How it is done, where that is not as the profile says.
    Profile(AppliedProfile),
    /// What it brings into the target's pools besides the disks.
    Brings(BTreeMap<String, Bytes>),
    /// It can't go on for now and says why; nothing once it goes on.
    Waiting(Option<Cause>),
    /// It is over.
    Ended(Box<Outcome>),
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The guest is at the target, proven, and nothing is left at the source.
    Succeeded {
        evidence: Evidence,
        downtime: Option<Duration>,
        bytes: Option<Bytes>,
        /// The journal that stays at the source, where disks are kept there for a while.
        kept: Option<Box<Journal>>,
    },
    /// The guest is where it was and nothing is left at the target. `tried` tells whether Preparing was entered.
    Failed { cause: Cause, tried: bool },
    /// The same, by request.
    Aborted,
}

/// What a task is given besides its order.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) claims: Arc<Claims>,
    pub(crate) clock: Clock,
    pub(crate) carrier: Arc<Carrier>,
    /// Whether the move shall be aborted. Level, not edge.
    pub(crate) abort: channel::Receiver<bool>,
    /// Events of the guest at both ends.
    pub(crate) events: mpsc::UnboundedReceiver<(HostName, DomainEvent)>,
    pub(crate) reports: mpsc::UnboundedSender<(MigrationName, Report)>,
    /// What is known of the move beside its ends.
    pub(crate) known: channel::Receiver<Known>,
}

/// What the ends of a move don't tell themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Whether the guest is at a third host: answers for a move whose both ends have it no more.
    pub(crate) elsewhere: bool,
    /// Whether the source's operator says that it is off and stays off.
    pub(crate) source_off: bool,
    /// The same of the target.
    pub(crate) target_off: bool,
}

/// Claims at source and target. One that could not be had is asked for again before anything is done at that end.
#[derive(Debug)]
struct Guards {
    source: Option<ClaimGuard>,
    target: Option<ClaimGuard>,
}

/// A running attempt.
#[derive(Debug)]
struct Attempt {
    order: Order,
    lines: Lines,
    journal: Option<Journal>,
    /// Once held. A move that is taken over may do without an end that is silent.
    guards: Option<Guards>,
    phase: MigrationPhase,
    waiting: Option<Cause>,
    course: Option<Course>,
    rebooted: bool,
    /// Whether the source has paused for the switch: from there on it only goes forward.
    switched: bool,
    /// Whether somebody paused the guest at the source while its disks were copied: libvirt shows that as it shows a switch.
    held: bool,
    /// Since when the guest has stood still for the switch, where that was heard.
    still_since: Option<Instant>,
    /// How long it did, where it was we who let it go on.
    stood_still: Option<Duration>,
    /// Whether libvirt's job at the source, as last seen, bears another mark than ours: then it is not ours to end.
    foreign: bool,
    /// Whether the source's copy was paused when last seen.
    source_paused: bool,
    /// What the target showed when last looked at.
    target: Seen,
    /// Whether QEMU at the target has flushed all disks since the guest runs there.
    durable: bool,
    /// Since when a guest that the journal says we pause has been seen to run.
    calm: Option<Instant>,
    /// The journal that stays at the source, where its disks are kept for a while.
    kept: Option<Journal>,
    /// Whether the source's copy was defined when last seen.
    source_defined: bool,
    /// The guest's memory, which libvirt does not count before the disks are done.
    memory: Option<Bytes>,
    /// Bytes of files brought over before the copy.
    carried: u64,
    /// All bytes expected to travel, as known before the copy.
    expected: u64,
    /// What was copied of a stopped guest's disks, by their paths at the source.
    copied: BTreeMap<String, Digest>,
    /// Whether a stopped guest was heard to be started since.
    started_meanwhile: bool,
}

/// What both ends show at one time.
#[derive(Debug)]
struct Ends {
    source: Seen,
    target: Seen,
    /// What that asks for.
    verdict: Verdict,
    /// The files that the target's copy is on.
    disks: Vec<String>,
}

/// Why a step was not done.
#[derive(Debug)]
enum Stop {
    /// The attempt failed for this cause; what was made so far has to be taken back.
    Failed(Cause),
    /// The user wants it aborted.
    Aborted,
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self::Failed(cause)
    }
}

/// How long between two looks while nothing changes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs one attempt to its end and reports it.
pub(crate) async fn run(order: Order, lines: Lines) {
    let reports = lines.reports.clone();
    let migration = order.migration.clone();
    let attempt = Attempt {
        journal: order.adopted.clone(),
        order,
        lines,
        guards: None,
        phase: MigrationPhase::Pending,
        waiting: None,
        course: None,
        rebooted: false,
        switched: false,
        held: false,
        still_since: None,
        stood_still: None,
        foreign: false,
        source_paused: false,
        target: Seen::Silent,
        durable: false,
        calm: None,
        kept: None,
        source_defined: false,
        memory: None,
        carried: 0,
        expected: 0,
        copied: BTreeMap::new(),
        started_meanwhile: false,
    };
    let outcome = attempt.run().await;
    let _ = reports.send((migration, Report::Ended(Box::new(outcome))));
}

impl Attempt {
    async fn run(mut self) -> Outcome {
        let adopted = self.journal.is_some();
        if adopted {
            if let Err(cause) = self.take_over().await {
                return Outcome::Failed {
                    cause,
                    tried: false,
                };
            }
            // There is a journal: it had begun.
            self.enter(MigrationPhase::Preparing);
        } else if let Err(cause) = self.claim().await {
            return Outcome::Failed {
                cause,
                tried: false,
            };
        }
        if !adopted {
            self.enter(MigrationPhase::Preparing);
            let prepared = match self.prepare().await {
                Ok(prepared) => prepared,
                Err(stop) => return self.give_up(stop).await,
            };
            if let Err(cause) = self.prove_claims().await {
                return self.give_up(cause.into()).await;
            }
            let Prepared::Live(request) = prepared else {
                return self.move_cold().await;
            };
            self.enter(MigrationPhase::Copying);
            let hypervisor = self.order.source.hypervisor.clone();
            let call = async move { hypervisor.migrate(&request).await };
            self.watch(Some(Box::pin(call))).await
        } else if self.is_cold() {
            let cause = Cause::new(
                Reason::Interrupted,
                "the process that copied the stopped guest is gone",
            );
            self.follow_cold(Some(cause.into())).await
        } else {
            self.watch(None).await
        }
    }

    /// Claims both hosts, in the order of their names so that two processes can't wait for each other.
    async fn claim(&mut self) -> Result<(), Cause> {
        let (source, target) = (&self.order.source, &self.order.target);
        let claims = &self.lines.claims;
        let (source, target) = if source.host <= target.host {
            let first = claims.hold(&source.host, &source.hypervisor).await?;
            (first, claims.hold(&target.host, &target.hypervisor).await?)
        } else {
            let first = claims.hold(&target.host, &target.hypervisor).await?;
            (claims.hold(&source.host, &source.hypervisor).await?, first)
        };
        self.guards = Some(Guards {
            source: Some(source),
            target: Some(target),
        });
        Ok(())
    }

    fn known(&self) -> Known {
        *self.lines.known.borrow()
    }

    /// The same for a move that is taken over: the source's claim keeps others from it, so it does where the target is
    /// silent; and the target's where the source is off for good, or where the guest has to be let go on at once.
    async fn claim_what_answers(&mut self) -> Result<(), Cause> {
        match self.claim().await {
            Err(cause) if cause.reason == Reason::HostUnreachable => {
                let claims = &self.lines.claims;
                let (source, target) = (&self.order.source, &self.order.target);
                let halted = self.journal.as_ref().is_some_and(|journal| journal.halted);
                self.guards = Some(if self.known().source_off || halted {
                    Guards {
                        source: None,
                        target: Some(claims.hold(&target.host, &target.hypervisor).await?),
                    }
                } else {
                    Guards {
                        source: Some(claims.hold(&source.host, &source.hypervisor).await?),
                        target: None,
                    }
                });
                Ok(())
            }
            done => done,
        }
    }

    /// Takes over what an earlier process began: only with both claims, and only what its journals still say then.
    async fn take_over(&mut self) -> Result<(), Cause> {
        self.claim_what_answers().await?;
        let without = |end: fn(&Guards) -> &Option<ClaimGuard>| {
            self.guards
                .as_ref()
                .is_some_and(|guards| end(guards).is_none())
        };
        let no_source = without(|guards| &guards.source);
        let no_target = without(|guards| &guards.target);
        let id = self.order.id;
        let (source, target) = (&self.order.source, &self.order.target);
        let (at_source, at_target) =
            tokio::join!(source.hypervisor.journals(), target.hypervisor.journals());
        let at_source = match at_source {
            Err(_) if no_source => Vec::new(),
            read => read.map_err(|error| failure(&source.host, "reading the journals", &error))?,
        };
        let at_target = match at_target {
            Err(_) if no_target => Vec::new(),
            read => read.map_err(|error| failure(&target.host, "reading the journals", &error))?,
        };
        let over = |entry: &JournalEntry| {
            let journal = Journal::parse(&entry.text).filter(|_| entry.id == id);
            journal.filter(|journal| journal.kept_until.is_some())
        };
        let finished = || {
            Cause::new(
                Reason::Interrupted,
                "the move was finished by another in the meantime",
            )
        };
        // It is over but for what the source keeps, which only its own journal tells of.
        if let Some(kept) = at_source.iter().find_map(over) {
            target
                .hypervisor
                .remove_journal(&kept.target.pool, id)
                .await
                .map_err(|error| failure(&target.host, "removing the journal", &error))?;
            return Err(finished());
        }
        // The target's first: it is the one that was written anew once the files were made.
        let mut written = at_target
            .iter()
            .chain(&at_source)
            .filter(|entry| entry.id == id)
            .filter_map(|entry| Journal::parse(&entry.text));
        let mut journal = written.next().ok_or_else(finished)?;
        journal.ran_twice |= written.any(|other| other.ran_twice);
        self.journal = Some(journal);
        Ok(())
    }

    /// Where a claim was broken by another: claims anew, and goes on only if the journals still tell of this move. An
    /// outcome where another has finished it.
    async fn regain(&mut self) -> Option<Outcome> {
        self.guards = None;
        match self.take_over().await {
            Ok(()) => None,
            Err(cause) if cause.reason == Reason::Interrupted => Some(Outcome::Failed {
                cause,
                tried: false,
            }),
            Err(cause) => {
                self.wait_for(cause);
                None
            }
        }
    }

    /// Waits a while before something is tried again, and says why. An outcome where the move is another's by now.
    async fn rest(&mut self, cause: Cause) -> Option<Outcome> {
        let lost = cause.reason == Reason::ClaimedByOther;
        self.wait_for(cause);
        tokio::time::sleep(LOOK_AGAIN).await;
        if lost { self.regain().await } else { None }
    }

    /// Proves that both claims are ours.
    async fn prove_claims(&mut self) -> Result<(), Cause> {
        match &self.guards {
            Some(Guards {
                source: Some(source),
                target: Some(target),
            }) => {
                let (source, target) = tokio::join!(source.prove(), target.prove());
                source.and(target)
            }
            _ => {
                self.prove_claim(true).await?;
                self.prove_claim(false).await
            }
        }
    }

    /// Proves one claim.
    async fn prove_claim(&mut self, at_source: bool) -> Result<(), Cause> {
        let Some(guards) = &mut self.guards else {
            return Err(Cause::new(Reason::ClaimedByOther, "no claim is held"));
        };
        let (guard, place) = match at_source {
            true => (&mut guards.source, &self.order.source),
            false => (&mut guards.target, &self.order.target),
        };
        match guard {
            Some(guard) => guard.prove().await,
            None => {
                let claims = &self.lines.claims;
                let held = claims.hold(&place.host, &place.hypervisor).await?;
                guard.insert(held).prove().await
            }
        }
    }

    fn enter(&mut self, phase: MigrationPhase) {
        if phase > self.phase {
            self.phase = phase;
            self.report(Report::Phase(phase));
        }
        self.go_on();
    }

    fn report(&self, report: Report) {
        let _ = self
            .lines
            .reports
            .send((self.order.migration.clone(), report));
    }

    fn wait_for(&mut self, cause: Cause) {
        if self.waiting.as_ref() != Some(&cause) {
            self.waiting = Some(cause.clone());
            self.report(Report::Waiting(Some(cause)));
        }
    }

    /// Says how the copy goes, where that is new.
    fn goes(&mut self, course: Course) {
        if self.course.as_ref() != Some(&course) {
            self.course = Some(course.clone());
            self.report(Report::Course(course));
        }
    }

    fn go_on(&mut self) {
        if self.waiting.take().is_some() {
            self.report(Report::Waiting(None));
        }
    }

    /// How the guest arrives.
    fn arrival(&self) -> Arrival {
        self.journal
            .as_ref()
            .map_or(Arrival::Running, Journal::arrival)
    }

    /// Whether the guest was ever seen to run at both ends. Then nothing of either is removed, and which one goes on is
    /// for a person to say.
    fn ran_twice(&self) -> bool {
        self.journal
            .as_ref()
            .is_some_and(|journal| journal.ran_twice)
    }

    /// Notes at both ends that it did. Told to whoever takes the move over.
    async fn note_ran_twice(&mut self) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        if journal.ran_twice {
            return;
        }
        let noted = Journal {
            ran_twice: true,
            ..journal.clone()
        };
        let text = noted.text();
        let (source, target) = (&self.order.source, &self.order.target);
        let (at_source, at_target) = tokio::join!(
            source
                .hypervisor
                .rewrite_journal(&noted.source.pool, noted.id, &text),
            target
                .hypervisor
                .rewrite_journal(&noted.target.pool, noted.id, &text),
        );
        // One of them is enough for a later process; while neither could be written it is tried again.
        if at_source.is_ok() || at_target.is_ok() {
            *journal = noted;
        }
    }

    /// Whether the move may be switched to post-copy.
    fn allows_post_copy(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::allows_post_copy)
    }

    fn aborted(&self) -> bool {
        *self.lines.abort.borrow()
    }

    fn mark(&self, id: Uuid) -> Mark {
        Mark {
            id,
            source: self.order.source.host.clone(),
            target: self.order.target.host.clone(),
            migration: self.order.migration.to_string(),
        }
    }

    /// Both ends, looked at now, the target first: a target seen without the guest before the source is seen
    /// without a job can't have got it in between.
    async fn look(&mut self) -> Ends {
        let target = self.order.target.hypervisor.glance(self.order.guest).await;
        let source = self.order.source.hypervisor.glance(self.order.guest).await;
        if let Ok(Some(glance)) = &source {
            let mark = glance.mark.as_ref().map(|mark| mark.id);
            self.foreign = glance.job && mark != Some(self.order.id);
            self.source_paused = glance.activity == Activity::Paused;
            self.source_defined = glance.persistent;
        }
        let known = self.known();
        let at_source = Seen::of(&source, known.source_off);
        let at_target = Seen::of(&target, known.target_off);
        self.target = at_target;
        Ends {
            source: at_source,
            target: at_target,
            verdict: match &self.journal {
                Some(journal) => shown(journal, at_source, at_target),
                None => decide(at_source, at_target, self.arrival()),
            },
            disks: target.ok().flatten().map_or(Vec::new(), |copy| copy.disks),
        }
    }
}

/// What both ends show of the guest that the journal tells of. Of a stopped one only whether it is over.
fn shown(journal: &Journal, source: Seen, target: Seen) -> Verdict {
    if journal.definition.is_none() {
        return decide(source, target, journal.arrival());
    }
    match evidence::cold::decide(source, target) {
        evidence::cold::Verdict::Moved => Verdict::Moved,
        _ => Verdict::Wait(evidence::Waiting::Settling),
    }
}

/// The cause of a call that failed at a host.
pub(crate) fn failure(host: &HostName, doing: &str, error: &PortError) -> Cause {
    Cause::new(error.into(), format!("{doing} on {host} failed: {error}"))
}
