//! A frozen plan: where each of its moves stands, and which may start.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    RebalancePolicy,
    kinds::policy::Mode,
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Class, Reason},
    shared::{RequestedBy, Timestamp, whole_seconds},
};
use evenkeel_planner::{self as planner, GuestId, HostId, InFlight, Ledger};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    super::{Reconciler, wanted::Wanted},
    Keeps, Levelled,
};
use crate::{
    hands::OTHER,
    levelling::{Frozen, Levelling, Step},
    model::{Model, holds},
    question::policies::{Ids, Kept, Origin},
    windows::open_until,
};

/// Moves of a plan, from the first that has not begun, that are tried in one pass.
const LOOK_AHEAD: usize = 16;

/// What limits count over.
const HOUR: i64 = 3600;

/// How long nothing of a plan that has begun may be able to start before it counts as one that can't be run any more: what
/// a move that has just ended leaves behind is told of a little later.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a move of a plan stands, by what is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waits,
    /// Its guest has yet to come to where it begins.
    Later,
    Moves,
    Done,
    /// It was tried, and given up or aborted; or that was the move before it on its guest's way.
    GivenUp,
    /// Its guest is elsewhere, or gone.
    Void,
}

impl Reconciler {
    /// Where each move of a plan stands.
    fn standings(&self, by: &RequestedBy, frozen: &Frozen, model: &Model) -> Vec<Standing> {
        let steps = frozen.steps.iter();
        steps
            .map(|step| self.standing(by, frozen, step, model))
            .collect()
    }

    fn standing(&self, by: &RequestedBy, frozen: &Frozen, step: &Step, model: &Model) -> Standing {
        let way: Vec<&Step> = frozen.way(step.guest).collect();
        let leg_to = |target: &HostName| way.iter().position(|leg| leg.target == *target);
        let leg = leg_to(&step.target);
        let mut own = self.moves.values().filter(|state| state.by == *by);
        let running = own.find_map(|state| {
            let running = state.running.as_ref();
            running.filter(|running| running.guest == step.guest)
        });
        if let Some(running) = running {
            return match leg_to(&running.target) {
                Some(now) if Some(now) > leg => Standing::Done,
                Some(now) if Some(now) < leg => Standing::Later,
                _ => Standing::Moves,
            };
        }
        let host = model.guests.get(&step.guest);
        let host = host.map(|id| &model.host(model.guest(*id).host).name);
        // The move that begins where the guest is: the first one after all that are done.
        let next = host.and_then(|host| match way.first() {
            Some(first) if first.source == *host => Some(0),
            _ => leg_to(host).map(|done| done + 1),
        });
        let given_up =
            |(whose, guest, _): &(RequestedBy, Uuid, Cause)| whose == by && *guest == step.guest;
        match next {
            None => Standing::Void,
            Some(_) if leg < next => Standing::Done,
            Some(_) if self.spent.iter().any(given_up) => Standing::GivenUp,
            Some(_) if leg == next => Standing::Waits,
            Some(_) => Standing::Later,
        }
    }

    /// Takes note of how far the frozen plan is, and drops it where it is over or can't be run any more.
    pub(super) fn follow(
        &self,
        policy: &RebalancePolicy,
        by: &RequestedBy,
        levelling: &mut Levelling,
        model: &Model,
        now: Timestamp,
    ) {
        let Some(frozen) = &levelling.frozen else {
            return;
        };
        let all = self.standings(by, frozen, model);
        let has = |wanted: Standing| all.contains(&wanted);
        // What is under way is finished, though the plan is over.
        let void = has(Standing::Void) || !frozen.is_for(&policy.spec);
        let left = [Standing::Waits, Standing::Later, Standing::Moves];
        if void || !left.into_iter().any(has) {
            levelling.end(done(&all), now);
        }
    }

    /// Adds the moves of a frozen plan that have not begun to the plan of the pass, each with what it waits for. Tells how
    /// far the plan is.
    #[expect(clippy::too_many_arguments)]
    pub(super) fn line_up(
        &self,
        policy: &RebalancePolicy,
        by: &RequestedBy,
        levelling: &mut Levelling,
        levelled: &mut Levelled,
        model: &Model,
        wanted: &Wanted,
        plan: &mut planner::Plan,
        keeps: &mut Keeps,
        now: Timestamp,
    ) -> Option<Kept> {
        let spec = &policy.spec;
        let approved = spec.approve.as_deref();
        let current = levelling.frozen.as_ref().map(|frozen| frozen.id.as_str());
        let manual = spec.mode == Mode::Manual;
        let recalled = levelling.uid.is_some();
        if let Some(id) = approved.filter(|id| recalled && manual && current != Some(id)) {
            let past = levelling.last_plan.as_ref().filter(|past| past.id == id);
            if past.is_none_or(|past| past.done < past.total) {
                let message = match current {
                    Some(current) => {
                        format!(
                            "plan {id} is approved and can't be run any more; it is {current} now"
                        )
                    }
                    None => format!("plan {id} is approved and can't be run any more"),
                };
                levelled.stalled = levelled
                    .stalled
                    .take()
                    .or_else(|| Some(Cause::new(Reason::PlanSuperseded, message)));
            }
        }
        let mine = self.moves.values().filter(|state| state.by == *by);
        levelled.moving = mine.filter(|state| state.running.is_some()).count();
        let frozen = levelling.frozen.clone()?;
        let waits_for_word = (manual && approved != Some(frozen.id.as_str())).then(|| {
            let message = format!("plan {} waits for `approve`", frozen.id);
            Cause::new(Reason::AwaitingApproval, message)
        });
        let stop = levelled
            .stalled
            .clone()
            .filter(|cause| cause.reason != Reason::PlanSuperseded)
            .or_else(|| levelled.halted.clone())
            .or(waits_for_word);
        let standings = self.standings(by, &frozen, model);
        let mut start = Start {
            ledger: None,
            left: (spec.limits.parallel.max(0).unsigned_abs() as usize)
                .saturating_sub(levelled.moving),
            begun: self.begun_within_an_hour(by, model, now),
            waiting: waiting(&standings),
            reach: reach(&frozen, &standings),
        };
        let (mut tried, mut hopeless) = (0, Vec::new());
        // Hosts of moves that come before and have not begun. Where guests stop over it matters who comes first.
        let mut taken: BTreeSet<&HostName> = BTreeSet::new();
        for (index, step) in frozen.steps.iter().enumerate() {
            let later = standings[index] == Standing::Later;
            if !later && standings[index] != Standing::Waits {
                continue;
            }
            let ends = (model.guests.get(&step.guest), model.hosts.get(&step.target));
            let (Some(&guest), Some(&target)) = ends else {
                continue;
            };
            let comes_first = || {
                let ends = [&step.source, &step.target];
                let after = frozen.stops_over() && ends.iter().any(|host| taken.contains(host));
                let message = match (later, after) {
                    (true, _) => format!("{} comes to {} first", step.name, step.source),
                    (false, true) => "the moves before it come first".to_owned(),
                    (false, false) => return None,
                };
                Some(Cause::new(Reason::Waiting, message))
            };
            let mut waits = stop
                .clone()
                .or_else(comes_first)
                .or_else(|| start.limited(policy, by, &frozen, index));
            if waits.is_none() && tried < LOOK_AHEAD {
                tried += 1;
                let admitted = in_time(policy, &frozen, index, model, now)
                    .and_then(|()| start.admit(self, wanted, model, plan, by, guest, target, step));
                match admitted {
                    Ok(()) => start.count(&frozen, index),
                    Err(cause) => {
                        if !may_pass(&cause) {
                            hopeless.push(index);
                        }
                        waits = Some(cause);
                    }
                }
            } else if waits.is_none() {
                let message = "the moves before it come first";
                waits = Some(Cause::new(Reason::Waiting, message));
            }
            if let Some(cause) = &waits {
                levelled.waits.insert(index, cause.clone());
                taken.extend([&step.source, &step.target]);
            }
        }
        if tried == 0 || hopeless.len() < tried || levelled.moving > 0 {
            levelling.hopeless = None;
            return Some(keep(
                frozen, &standings, levelled, stop, by, model, plan, keeps,
            ));
        }
        // Nothing of it runs and nothing of it can.
        let since = *levelling.hopeless.get_or_insert_with(Instant::now);
        let done = done(&standings);
        if done > 0 && since.elapsed() < PATIENCE {
            for index in hopeless {
                if let Some(cause) = levelled.waits.get_mut(&index) {
                    *cause = Cause::new(Reason::Waiting, cause.message.clone());
                }
            }
            return Some(keep(
                frozen, &standings, levelled, stop, by, model, plan, keeps,
            ));
        }
        // The fleet is another than the one that it was made for.
        levelling.end(done, now);
        levelled.waits.clear();
        None
    }

    /// How many moves of a policy began within an hour, and their bytes: by what is known of the moves, and by what the
    /// guests themselves say of their last one.
    pub(super) fn begun_within_an_hour(
        &self,
        by: &RequestedBy,
        model: &Model,
        now: Timestamp,
    ) -> (u64, Bytes) {
        let recent = |time: Timestamp| now.as_second() - time.as_second() < HOUR;
        let (mut count, mut bytes) = (0, 0);
        let mut known: BTreeSet<Uuid> = BTreeSet::new();
        for state in self.moves.values().filter(|state| state.by == *by) {
            let started = state.status.start_time.as_ref();
            // One that has just been launched has no time yet.
            let launched = || state.running.is_some();
            if started.map_or_else(launched, |started| recent(started.0)) {
                count += 1;
                let guest = state.status.guest.as_deref().unwrap_or(&state.spec.guest);
                let mut all = model.fleet.guests.iter().zip(&model.uuids);
                let seen = all.find(|(one, _)| one.name.as_str() == guest);
                known.extend(seen.map(|(_, uuid)| *uuid));
                let mut own = state.status.bytes.as_ref().map_or(0, |bytes| bytes.total.0);
                if !state.is_final() {
                    // One that has only begun does not know yet how much it is, nor do its ends.
                    own = own.max(state.expected.0);
                    own = own.max(seen.map_or(0, |(guest, _)| carries(guest)));
                }
                bytes += own;
            }
        }
        let own = format!("{}/{}", by.kind, by.name);
        for (guest, uuid) in model.fleet.guests.iter().zip(&model.uuids) {
            let last = self.last_move(*uuid, model);
            if last.is_some_and(|last| last.by == own && recent(last.time)) && !known.contains(uuid)
            {
                count += 1;
                bytes += carries(guest);
            }
        }
        (count, Bytes(bytes))
    }

    /// When the guest was last moved, and by whom.
    pub(super) fn last_move(&self, guest: Uuid, model: &Model) -> Option<Came> {
        if let Some(stray) = self.hands.of(guest) {
            return Some(Came {
                time: stray.time,
                by: OTHER.to_owned(),
                stops_over: false,
            });
        }
        let host = &model
            .host(model.guest(*model.guests.get(&guest)?).host)
            .name;
        let facts = self.hosts.get(host)?.domains.get(&guest)?;
        let last = facts.last_move.as_ref()?;
        Some(Came {
            time: last.time.parse().ok()?,
            by: last.by.clone(),
            stops_over: last.onward.is_some(),
        })
    }
}

/// How a guest came to where it is.
pub(super) struct Came {
    pub(super) time: Timestamp,
    /// The wish that asked for it.
    pub(super) by: String,
    /// Whether it was to go on from there.
    pub(super) stops_over: bool,
}

/// What a move of the guest carries at least: its disks, and its memory once.
fn carries(guest: &planner::Guest) -> u64 {
    let disks = guest.disks.iter().map(|disk| disk.allocated.0).sum::<u64>();
    let memory = guest.memory.0.saturating_sub(guest.overhead.0);
    disks + if guest.active { memory } else { 0 }
}

/// How long a move takes of which the plan does not tell: by the links' rates as they are known by now, were as many under
/// way as the policy allows.
fn by_links(policy: &RebalancePolicy, step: &Step, model: &Model) -> Option<Duration> {
    let rate = |host: &HostName| model.host(*model.hosts.get(host)?).bandwidth;
    let rates = [&step.source, &step.target].map(rate);
    let slowest = rates.into_iter().flatten().min()?.0;
    let share = slowest / u64::from(policy.spec.limits.parallel.max(1).unsigned_abs());
    Some(Duration::from_secs(step.bytes.0.div_ceil(share.max(1))))
}

/// Whether the move would end inside the window that is open; where its guest only stops over, all that there are until
/// it has gone on.
fn in_time(
    policy: &RebalancePolicy,
    frozen: &Frozen,
    index: usize,
    model: &Model,
    now: Timestamp,
) -> Result<(), Cause> {
    let step = &frozen.steps[index];
    let Some(end) = open_until(&policy.spec.windows, now)? else {
        return Ok(());
    };
    let last = frozen.goes_on(index).unwrap_or(index);
    let all = frozen.steps[index..=last].iter();
    let times = all.map(|step| step.duration.or_else(|| by_links(policy, step, model)));
    let Some(takes) = times.sum::<Option<Duration>>() else {
        let message = format!(
            "how long it takes to move {} is not known, and so not whether it ends inside the window",
            step.name
        );
        return Err(Cause::new(Reason::MoveDoesNotFitWindow, message)
            .hint("set `migration.bandwidth` of the hosts"));
    };
    if now + takes <= end {
        return Ok(());
    }
    let message = format!(
        "{} would take {} s, and the window closes at {}",
        step.name,
        takes.as_secs(),
        whole_seconds(end)
    );
    Err(Cause::new(Reason::MoveDoesNotFitWindow, message))
}

/// Adds what is left of a plan to that of the pass, and tells how far it is.
#[expect(clippy::too_many_arguments)]
fn keep(
    frozen: Frozen,
    standings: &[Standing],
    levelled: &Levelled,
    halted: Option<Cause>,
    by: &RequestedBy,
    model: &Model,
    plan: &mut planner::Plan,
    keeps: &mut Keeps,
) -> Kept {
    let places = |wanted: &[Standing]| -> BTreeSet<usize> {
        let all = standings.iter().enumerate();
        all.filter(|(_, standing)| wanted.contains(standing))
            .map(|(index, _)| index)
            .collect()
    };
    let waits = levelled.waits.iter();
    let waits = waits.filter(|(_, cause)| Some(*cause) != halted.as_ref());
    let kept = Kept {
        over: places(&[Standing::Done, Standing::GivenUp, Standing::Void]),
        moving: places(&[Standing::Moves]),
        waits: waits
            .map(|(index, cause)| (*index, cause.clone()))
            .collect(),
        halted,
        origin: match &frozen.found_by {
            Some(search) => Origin::Search(keeps.place(search)),
            None => Origin::Status(frozen.steps.clone()),
        },
    };
    let moves = kept.moves(by, &frozen.steps, &Ids::of(model));
    plan.moves.extend(moves);
    kept
}

fn done(all: &[Standing]) -> usize {
    all.iter().filter(|one| **one == Standing::Done).count()
}

/// The moves that have not begun, by their places.
fn waiting(standings: &[Standing]) -> BTreeSet<usize> {
    let all = standings.iter().enumerate();
    all.filter(|(_, standing)| matches!(standing, Standing::Waits | Standing::Later))
        .map(|(index, _)| index)
        .collect()
}

/// The last move that a guest waits for which stops over, or is on its way there.
fn reach(frozen: &Frozen, standings: &[Standing]) -> Option<usize> {
    let all = standings.iter().enumerate();
    let out = all.filter(|(_, standing)| matches!(standing, Standing::Moves | Standing::Done));
    let next = out.filter_map(|(index, _)| frozen.goes_on(index));
    let waits = |next: &usize| matches!(standings[*next], Standing::Waits | Standing::Later);
    next.filter(waits).max()
}

/// Whether a refusal may pass while the fleet stays as it is.
fn may_pass(cause: &Cause) -> bool {
    matches!(cause.reason.class(), Class::Retry | Class::AvoidTarget)
}

/// What moves of a plan may still start in a pass.
struct Start {
    /// The ledger with what starts in this pass, once that is asked for.
    ledger: Option<Ledger>,
    /// How many more.
    left: usize,
    /// Begun within an hour: how many, and their bytes.
    begun: (u64, Bytes),
    /// Moves that have not begun.
    waiting: BTreeSet<usize>,
    /// Of these all up to this one are owed to guests that stop over: others come after them.
    reach: Option<usize>,
}

impl Start {
    /// The limit that is reached. A guest does not set out to a stop from which it could not go on within the limits.
    fn limited(
        &self,
        policy: &RebalancePolicy,
        by: &RequestedBy,
        frozen: &Frozen,
        index: usize,
    ) -> Option<Cause> {
        let limits = &policy.spec.limits;
        let (mut moves, mut bytes) = (0, 0);
        if self.reach < Some(index) {
            let last = frozen.goes_on(index).max(self.reach);
            let owed = self.waiting.iter().filter(|other| Some(**other) <= last);
            for other in owed.filter(|other| **other != index) {
                moves += 1;
                bytes += frozen.steps[*other].bytes.0;
            }
        }
        let reached = |what: String| Some(Cause::new(Reason::LimitReached, what));
        let to_come = match moves {
            0 => String::new(),
            _ => format!(", and {moves} more are to come where guests stop over"),
        };
        if let Some(most) = limits.moves_per_hour
            && self.begun.0 + moves >= u64::from(most.max(0).unsigned_abs())
        {
            return reached(format!(
                "{} moves of {} began within an hour{to_come}",
                self.begun.0, by.name
            ));
        }
        let step = &frozen.steps[index];
        if let Some(most) = limits.bytes_per_hour
            && self
                .begun
                .1
                .0
                .saturating_add(bytes)
                .saturating_add(step.bytes.0)
                > most.0
        {
            return reached(format!(
                "{} carries {}, and moves of {} that began within an hour carry {}{to_come}",
                step.name,
                step.bytes.human(),
                by.name,
                self.begun.1.human()
            ));
        }
        (self.left == 0).then(|| {
            let message = format!("{} moves of {} are under way", limits.parallel, by.name);
            Cause::new(Reason::ParallelLimit, message)
        })
    }

    /// Whether the move may start now, beside all that starts in this pass.
    #[expect(clippy::too_many_arguments)]
    fn admit(
        &mut self,
        reconciler: &Reconciler,
        wanted: &Wanted,
        model: &Model,
        plan: &planner::Plan,
        by: &RequestedBy,
        guest: GuestId,
        target: HostId,
        step: &Step,
    ) -> Result<(), Cause> {
        let facts = model.guest(guest);
        let other = plan.moves.iter().find(|planned| planned.guest == guest);
        if let Some(other) = other {
            let message = format!(
                "{} is moved by {} {}",
                step.name, other.by.kind, other.by.name
            );
            return Err(Cause::new(Reason::ConflictsWith, message));
        }
        if let Some(cause) = &facts.held {
            return Err(cause.clone());
        }
        let ledger = self.ledger.get_or_insert_with(|| {
            let mut ledger = model.ledger.clone();
            let starting = plan.moves.iter().filter(|planned| planned.waits.is_none());
            for planned in starting {
                let flight = in_flight(model, planned.guest, planned.target, &planned.pools);
                ledger.in_flight.push(flight);
            }
            ledger
        });
        let now = reconciler.started.elapsed();
        planner::admit(
            &model.fleet,
            &wanted.wishes,
            ledger,
            guest,
            target,
            &step.pools,
            now,
        )?;
        let mut flight = in_flight(model, guest, target, &step.pools);
        flight.by = Some(by.clone());
        ledger.in_flight.push(flight);
        Ok(())
    }

    /// Counts a move that starts.
    fn count(&mut self, frozen: &Frozen, index: usize) {
        self.left = self.left.saturating_sub(1);
        self.begun.0 += 1;
        self.begun.1.0 += frozen.steps[index].bytes.0;
        self.waiting.remove(&index);
        self.reach = self.reach.max(frozen.goes_on(index));
    }
}

fn in_flight(
    model: &Model,
    guest: GuestId,
    target: HostId,
    pools: &BTreeMap<String, String>,
) -> InFlight {
    let facts = model.guest(guest);
    InFlight {
        by: None,
        guest,
        source: facts.host,
        target,
        cpu_milli: facts.cpu_milli,
        memory: facts.memory,
        pools: holds(facts, pools),
        remaining: None,
    }
}
