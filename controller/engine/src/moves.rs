//! The moves this engine knows: what was asked for, how far each is, and what failed before.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    GuestMigrationSpec, GuestMigrationStatus, MigrationPhase, MigrationProfileSpec,
    kinds::{
        drain::OnRelease,
        migration::{Attempt, MoveBytes, PhaseStart, SourceFiles},
    },
    names::{HostName, MigrationName},
    quantity::{Bytes, Span},
    reason::{Cause, Class, Reason},
    shared::{ATTEMPTS_CAP, RequestedBy, Time, Timestamp, whole_seconds},
};
use evenkeel_planner::{self as planner, PoolHold};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    journal::Journal,
    life::{Course, Known, Outcome, Progress},
    port::DomainEvent,
};

/// First pause after a failure; each further one is four times as long, so that five attempts outlast a link or a host
/// that is away for a minute or two.
const BACKOFF: Duration = Duration::from_secs(2);
/// Longest pause after a failure.
const BACKOFF_CAP: Duration = Duration::from_secs(120);
/// How soon something is tried again that only waits for a change nobody announces, such as a file to go away. It
/// doubles while the cause stays the same.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// Longest pause between two such looks.
const LOOK_AGAIN_CAP: Duration = Duration::from_secs(24);

/// A move.
#[derive(Debug)]
pub(crate) struct MoveState {
    pub(crate) uid: String,
    /// Whether an object of this name exists where objects are kept.
    pub(crate) declared: bool,
    /// Whether one ever did.
    pub(crate) had_object: bool,
    pub(crate) generation: Option<i64>,
    pub(crate) spec: GuestMigrationSpec,
    pub(crate) by: RequestedBy,
    /// When it was asked for.
    pub(crate) created: Timestamp,
    pub(crate) status: GuestMigrationStatus,
    /// How it ended, once it did.
    pub(crate) end: Option<Cause>,
    pub(crate) running: Option<Running>,
    /// Why it does not go on now.
    pub(crate) waiting: Option<Cause>,
    /// Whether its copy converges, where that is known.
    pub(crate) course: Option<Course>,
    /// After a failure: what it was, and until when nothing is tried.
    pub(crate) rest: Option<(Cause, Instant)>,
    /// Targets that rest for this move.
    pub(crate) avoid: BTreeMap<HostName, (Cause, Instant)>,
    /// Why it is being aborted, if that is not a user's wish.
    pub(crate) abort_cause: Option<Cause>,
    /// Why it was last tried in vain without that counting, and how often in a row.
    vain: Option<(Reason, u32)>,
    /// Phases and start as they were before the attempt under way: one in vain leaves no trace there.
    before: (usize, Option<Time>),
    /// Not shown: it only finishes what an earlier attempt left behind.
    pub(crate) hidden: bool,
    /// What becomes of the copy when its drain goes, as the drain last said.
    pub(crate) release: OnRelease,
    /// The drained guest that it makes way for.
    pub(crate) makes_way_for: Option<Uuid>,
    /// Bytes that were expected to travel when it was started; 0 where another process has.
    pub(crate) expected: Bytes,
}

/// A running attempt.
#[derive(Debug)]
pub(crate) struct Running {
    /// The move's id, in journals and marks.
    pub(crate) id: Uuid,
    pub(crate) guest: Uuid,
    pub(crate) source: HostName,
    pub(crate) target: HostName,
    pub(crate) abort: watch::Sender<bool>,
    /// What the ends don't tell.
    pub(crate) beside: watch::Sender<Known>,
    pub(crate) events: mpsc::UnboundedSender<(HostName, DomainEvent)>,
    /// What it holds of the target's pools.
    pub(crate) pools: BTreeMap<String, PoolHold>,
    /// The guest as it was last seen: when its source has it no more, its target may not have told of it yet.
    pub(crate) known: Option<planner::Guest>,
    pub(crate) eta: Option<Duration>,
    /// Whether memory and disks travel encrypted, where that is known.
    pub(crate) encrypted: Option<bool>,
    /// The journal of an earlier process, where its move was taken over.
    pub(crate) journal: Option<Journal>,
}

impl Running {
    /// Whether the host is one of its ends.
    pub(crate) fn is_on(&self, host: &HostName) -> bool {
        self.source == *host || self.target == *host
    }
}

/// The attempts that are running.
pub(crate) fn running(
    moves: &BTreeMap<MigrationName, MoveState>,
) -> impl Iterator<Item = &Running> {
    moves.values().filter_map(|state| state.running.as_ref())
}

impl MoveState {
    pub(crate) fn new(spec: GuestMigrationSpec, by: RequestedBy, created: Timestamp) -> Self {
        Self {
            uid: String::new(),
            declared: false,
            had_object: false,
            generation: None,
            spec,
            by,
            created,
            status: GuestMigrationStatus::default(),
            end: None,
            running: None,
            waiting: None,
            course: None,
            rest: None,
            avoid: BTreeMap::new(),
            abort_cause: None,
            vain: None,
            before: (0, None),
            hidden: false,
            release: OnRelease::default(),
            makes_way_for: None,
            expected: Bytes(0),
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        self.status.phase.is_final()
    }

    /// Whether the guest is already at the target, as far as capacity and location are concerned.
    pub(crate) fn arrived(&self) -> bool {
        matches!(
            self.status.phase,
            MigrationPhase::Verifying | MigrationPhase::Cleaning
        )
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, running: Running, now: Timestamp) {
        let number = self.status.failed_attempts + 1;
        self.status.source = Some(running.source.to_string());
        self.status.target = Some(running.target.to_string());
        self.status.progress = 0;
        self.status.bytes = None;
        self.status.rate = None;
        self.status.eta = None;
        self.status.throttle = None;
        self.course = None;
        self.status.encrypted = running.encrypted;
        // What only waited for a change is the same attempt, tried again.
        self.status
            .attempts
            .retain(|attempt| attempt.number != number);
        self.status.attempts.push(Attempt {
            number,
            target: running.target.to_string(),
            start_time: Time(whole_seconds(now)),
            end_time: None,
            reason: Reason::InProgress.to_string(),
            message: format!("moving from {} to {}", running.source, running.target),
            hint: String::new(),
        });
        let surplus = self.status.attempts.len().saturating_sub(ATTEMPTS_CAP);
        self.status.attempts.drain(..surplus);
        self.before = (self.status.phases.len(), self.status.start_time.clone());
        self.running = Some(running);
        self.rest = None;
    }

    /// A phase begins. Reported to whoever watches.
    pub(crate) fn enter(&mut self, phase: MigrationPhase, now: Timestamp) {
        let time = Time(whole_seconds(now));
        if phase != MigrationPhase::Pending && self.status.start_time.is_none() {
            self.status.start_time = Some(time.clone());
        }
        self.status.phase = phase;
        // A move that is taken over goes on in the phase in which it was left.
        if self
            .status
            .phases
            .last()
            .is_none_or(|last| last.phase != phase)
        {
            self.status.phases.push(PhaseStart {
                phase,
                start_time: time.clone(),
            });
        }
        let surplus = self.status.phases.len().saturating_sub(20);
        self.status.phases.drain(..surplus);
        if phase.is_final() {
            self.status.completion_time = Some(time);
            self.status.rate = None;
            self.status.eta = None;
            self.status.throttle = None;
            self.waiting = None;
            self.course = None;
        }
    }

    /// What the attempt brings besides the disks is held in the target's pools too.
    pub(crate) fn brings(&mut self, files: BTreeMap<String, Bytes>) {
        let Some(running) = &mut self.running else {
            return;
        };
        for (pool, bytes) in files {
            running.pools.entry(pool).or_default().to_come.0 += bytes.0;
        }
    }

    pub(crate) fn progress(&mut self, progress: Progress) {
        let status = &mut self.status;
        status.progress = status.progress.max(i32::from(progress.percent));
        status.bytes = Some(MoveBytes {
            done: progress.done,
            left: progress.left,
            total: progress.total,
        });
        status.rate = progress.rate;
        status.eta = progress.eta.map(Span);
        status.throttle = Some(i32::from(progress.throttle)).filter(|percent| *percent > 0);
        if let Some(running) = &mut self.running {
            running.eta = progress.eta;
        }
    }

    /// An attempt ended. The cause where the move is over or waits.
    pub(crate) fn conclude(&mut self, outcome: Outcome, now: Timestamp) -> Option<Cause> {
        let target = self.running.take().map(|running| running.target);
        self.waiting = None;
        let time = Time(whole_seconds(now));
        match outcome {
            Outcome::Succeeded {
                evidence,
                downtime,
                bytes,
                kept: _,
            } => {
                let source = self.status.source.clone().unwrap_or_default();
                let to = target.map_or_else(String::new, |host| host.to_string());
                let does = if evidence.running.is_empty() {
                    "is on"
                } else {
                    "runs on"
                };
                let left = match evidence.source_files {
                    SourceFiles::Retained => "its files are kept on",
                    SourceFiles::Shared => "its disks are where they were, on storage shared with",
                    SourceFiles::Abandoned => "what it left is out of reach on",
                    SourceFiles::Removed => "nothing is left on",
                };
                let message = format!("{does} {to}, proven; {left} {source}");
                if let Some(onward) = self.spec.target.clone().filter(|onward| *onward != to) {
                    // Guests that trade places have no room at once: this one has only stopped over.
                    let message = format!("{message}; it goes on to {onward} from there");
                    self.close_attempt(Reason::Completed, &message, "", time);
                    self.status.progress = 0;
                    self.enter(MigrationPhase::Pending, now);
                    return None;
                }
                self.close_attempt(Reason::Completed, &message, "", time);
                self.status.progress = 100;
                self.status.downtime =
                    downtime.map(|time| Span(Duration::from_millis(time.as_millis() as u64)));
                if let Some(bytes) = bytes.filter(|bytes| bytes.0 > 0) {
                    self.status.bytes = Some(MoveBytes {
                        done: bytes,
                        left: Default::default(),
                        total: bytes,
                    });
                } else if let Some(bytes) = &mut self.status.bytes {
                    bytes.done = bytes.total;
                    bytes.left = Default::default();
                }
                self.status.evidence = Some(evidence);
                self.finish(
                    MigrationPhase::Succeeded,
                    Cause::new(Reason::Completed, message),
                    now,
                );
                None
            }
            Outcome::Aborted => {
                let cause = self.abort_cause.take().unwrap_or_else(|| {
                    Cause::new(
                        Reason::Aborted,
                        "aborted by request; the guest is where it was",
                    )
                });
                self.close_attempt(cause.reason, &cause.message, &cause.hint, time);
                if cause.reason == Reason::Suspended {
                    // Not given up: it is tried again when nothing is suspended any more.
                    self.fail(cause.clone(), true, target, now);
                    return Some(cause);
                }
                let phase = match cause.reason {
                    Reason::DeadlineExceeded => MigrationPhase::Failed,
                    _ => MigrationPhase::Aborted,
                };
                self.finish(phase, cause.clone(), now);
                Some(cause)
            }
            Outcome::Failed { cause, tried } => {
                self.close_attempt(cause.reason, &cause.message, &cause.hint, time);
                self.fail(cause.clone(), tried, target, now);
                Some(cause)
            }
        }
    }

    fn fail(&mut self, cause: Cause, tried: bool, target: Option<HostName>, now: Timestamp) {
        let class = cause.reason.class();
        if class == Class::Terminal {
            return self.finish(MigrationPhase::Failed, cause, now);
        }
        let counts = tried && matches!(class, Class::Retry | Class::AvoidTarget);
        if !counts {
            let (phases, start) = std::mem::take(&mut self.before);
            if self.status.phase > MigrationPhase::Preparing {
                self.enter(MigrationPhase::Pending, now);
            } else {
                self.status.phases.truncate(phases);
                self.status.start_time = start;
                self.status.phase = MigrationPhase::Pending;
            }
            let times = match self.vain {
                Some((reason, times)) if tried && reason == cause.reason => times + 1,
                _ => 0,
            };
            self.vain = Some((cause.reason, times));
            let pause = LOOK_AGAIN.saturating_mul(1 << times.min(8));
            let pause = pause.min(LOOK_AGAIN_CAP);
            let another = self.spec.target.is_none() && of_the_target(cause.reason);
            match target.filter(|_| tried && another) {
                // Another may do at once; this one is looked at again when it would be anyhow.
                Some(target) => {
                    let until = Instant::now() + pause + LOOK_AGAIN * 2;
                    self.avoid.insert(target, (cause.clone(), until));
                    self.rest = Some((cause, Instant::now() + LOOK_AGAIN));
                }
                None => self.rest = Some((cause, Instant::now() + pause)),
            }
            return;
        }
        self.vain = None;
        self.enter(MigrationPhase::Pending, now);
        self.status.failed_attempts += 1;
        let failed = self.status.failed_attempts;
        let allowed = self.status.profile.as_ref().map_or_else(
            || MigrationProfileSpec::default().attempts,
            |profile| profile.spec.attempts,
        );
        if failed >= allowed {
            let times = if failed == 1 {
                "once"
            } else {
                &format!("{failed} times")
            };
            let message = format!("failed {times}, at last: {}", cause.message);
            let exhausted = Cause::new(Reason::AttemptsExhausted, message).hint(cause.hint);
            return self.finish(MigrationPhase::Failed, exhausted, now);
        }
        let pause = backoff(self.status.failed_attempts, self.created);
        let until = Instant::now() + pause;
        match target {
            // Another target may do at once; this one rests.
            Some(target) if class == Class::AvoidTarget && self.spec.target.is_none() => {
                self.avoid
                    .insert(target, (cause.clone(), until + BACKOFF_CAP));
                self.rest = Some((cause, Instant::now() + BACKOFF / 2));
            }
            _ => self.rest = Some((cause, until)),
        }
    }

    /// It can't be done to that target, which showed before anything began: another may do.
    pub(crate) fn refuse(&mut self, cause: Cause, target: HostName) {
        let until = Instant::now() + LOOK_AGAIN;
        if self.spec.target.is_none() {
            self.avoid
                .insert(target, (cause.clone(), until + BACKOFF_CAP));
        }
        self.rest = Some((cause, until));
    }

    /// The move is over.
    pub(crate) fn finish(&mut self, phase: MigrationPhase, cause: Cause, now: Timestamp) {
        self.enter(phase, now);
        self.end = Some(cause);
        self.rest = None;
    }

    fn close_attempt(&mut self, reason: Reason, message: &str, hint: &str, time: Time) {
        if let Some(attempt) = self
            .status
            .attempts
            .last_mut()
            .filter(|attempt| attempt.end_time.is_none())
        {
            attempt.end_time = Some(time);
            attempt.reason = reason.to_string();
            message.clone_into(&mut attempt.message);
            hint.clone_into(&mut attempt.hint);
        }
    }

    /// Asks the running attempt to abort. Level: saying it twice changes nothing.
    pub(crate) fn ask_to_abort(&mut self, cause: Option<Cause>) {
        if let Some(running) = &self.running
            && !running.abort.send_replace(true)
        {
            self.abort_cause = cause;
        }
    }
}

/// What one target shows in Preparing and another need not.
fn of_the_target(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PathClash
            | Reason::BaseImageDiffers
            | Reason::SecretDiffers
            | Reason::FileMissing
            | Reason::IncompatibleCPU
    )
}

/// Growing, capped, with up to a quarter of jitter that is a function of the move.
fn backoff(failures: i32, created: Timestamp) -> Duration {
    let grown = BACKOFF.saturating_mul(1 << (2 * (failures.clamp(1, 8) - 1)));
    let capped = grown.min(BACKOFF_CAP);
    let spread = hash(&[&created.to_string(), &failures.to_string()]) % 1000;
    capped + capped.mul_f64(spread as f64 / 4000.0)
}

/// The name of the move that a wish makes for a guest: the same wish for the same guest at the same place gives the
/// same name, so that limits outlive restarts.
pub(crate) fn name_for(
    by: &RequestedBy,
    generation: i64,
    guest: &str,
    uuid: Uuid,
    last_move: &str,
) -> MigrationName {
    let parts = [
        by.kind.as_str(),
        &by.name,
        &by.uid,
        &generation.to_string(),
        &uuid.to_string(),
        last_move,
    ];
    let short: String = guest.chars().take(200).collect();
    format!(
        "{}-{:08x}",
        short.trim_end_matches(['-', '.']),
        hash(&parts) as u32
    )
    .into()
}

/// FNV-1a over the parts, each ended by a byte that is in none of them.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
