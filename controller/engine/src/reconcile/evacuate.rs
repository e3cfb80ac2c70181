//! Guests that drains have shut down: who is, after whom, and what is said of it. What is done to each is decided in
//! `evacuation`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_crds::{
    kinds::{drain::StuckGuests, guest::Evacuation},
    names::{GuestName, HostName},
    reason::{Cause, Reason},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Inner, Pass, Reconciler, wanted::Drain};
use crate::{
    evacuation::{self, Act, Case, Order, Step, Wanted, decide, is_of_the_guest, restarts},
    guests::{Entry, place},
    hosts::{HostState, Journals, Link},
    model::{hold, immovable},
    moves::running,
    port::{DomainFacts, ShutdownStage},
};

/// How often a guest is asked again while it has time left.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How soon something is done again that a look has not shown yet.
const UNSEEN: Duration = Duration::from_secs(1);
/// How soon something is tried again that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// What is being done to a guest.
#[derive(Debug)]
pub(super) struct Doing {
    busy: bool,
    /// Nothing more is done before then.
    rest: Instant,
    asked: Option<Instant>,
}

/// Guests of a drained host that are to be shut down, and what for.
struct Leaving<'a> {
    uuid: Uuid,
    drain: (&'a String, &'a Drain),
    /// Whether it is so for a reason that it can't be moved; else its owner wants it.
    stuck: bool,
}

impl Reconciler {
    /// Whether something is being done to that guest.
    pub(super) fn shuts_down(&self, guest: Uuid) -> bool {
        self.shutdowns.get(&guest).is_some_and(|doing| doing.busy)
    }

    /// Whether a time that a shutdown waits for has come.
    pub(super) fn shutdown_is_due(&self) -> bool {
        let waiting = |facts: &DomainFacts| {
            let mark = facts.shutdown_mark.as_ref();
            mark.is_some_and(|mark| mark.stage == ShutdownStage::Asked)
        };
        let now = Instant::now();
        let recent = |at: Instant| at <= now && now.duration_since(at) < 2 * super::TICK;
        self.shutdowns
            .values()
            .any(|doing| !doing.busy && recent(doing.rest))
            || self
                .hosts
                .values()
                .any(|state| state.domains.values().any(|facts| waiting(facts)))
    }

    pub(super) fn was_evacuated(&mut self, guest: Uuid, name: &GuestName, done: Result<(), Cause>) {
        let Some(doing) = self.shutdowns.get_mut(&guest) else {
            return;
        };
        doing.busy = false;
        doing.rest = Instant::now() + if done.is_ok() { UNSEEN } else { AGAIN };
        if let Err(cause) = done
            && cause.reason != Reason::ClaimedByOther
        {
            self.tell("Guest", name, &cause, true, "Evacuate");
        }
    }

    /// Does what is next for each guest that is shut down, or was, and says so; in the plan too, where it said of such a
    /// guest that it can't leave.
    pub(super) fn evacuate(&mut self, pass: &mut Pass) {
        let at_work = self.at_work();
        let wanted = self.to_shut_down(&at_work, pass);
        let now = Instant::now();
        self.shutdowns
            .retain(|_, doing| doing.busy || now < doing.rest + ASK_AGAIN);
        let mut told = Vec::new();
        let mut orders: Vec<(GuestName, Order)> = Vec::new();
        for (&uuid, entry) in &pass.guests.by_uuid {
            let wants = wanted.get(&uuid);
            let Some((host, state, facts)) = self.alone(uuid, entry, &at_work) else {
                continue;
            };
            if wants.is_none() && facts.shutdown_mark.is_none() {
                continue;
            }
            let drained = pass
                .wanted
                .drains
                .values()
                .any(|drain| drain.hosts.contains(host));
            let step = decide(&Case {
                name: &entry.name,
                host,
                fleet: &self.options.fleet,
                facts,
                wanted: wants,
                drained,
                in_the_way: self.in_the_way(uuid, host, pass),
                now: pass.now,
            });
            let Step { act, cause } = step;
            if let Some(cause) = cause {
                told.push((uuid, entry.name.clone(), cause));
            }
            let ready = self.options.act
                && !self.held
                && self.suspended().is_none()
                && !pass.claimed.contains_key(host)
                && state.journals == Journals::Read;
            let Some(act) = act.filter(|_| ready && self.may(uuid, now)) else {
                continue;
            };
            if act == Act::AskAgain && self.asked_lately(uuid, now) {
                continue;
            }
            let others = self
                .hosts
                .iter()
                .filter(|(name, other)| *name != host && other.duplicate_of.is_none());
            let others: Vec<_> = others
                .filter(|(_, other)| !other.declared.spec.out_of_service)
                .filter_map(|(name, _)| self.place(name, None))
                .collect();
            let Some(place) = self.place(host, None) else {
                continue;
            };
            let order = Order {
                guest: uuid,
                place,
                others,
                act,
                seen: facts.shutdown_mark.clone(),
            };
            orders.push((entry.name.clone(), order));
        }
        for (name, order) in orders {
            self.do_to(name, order, now);
        }
        for (uuid, name, cause) in told {
            self.say(pass, uuid, &name, cause);
        }
    }

    fn do_to(&mut self, name: GuestName, order: Order, now: Instant) {
        let uuid = order.guest;
        let asks = matches!(order.act, Act::Ask(_) | Act::AskAgain);
        let doing = self.shutdowns.entry(uuid).or_insert(Doing {
            busy: false,
            rest: now,
            asked: None,
        });
        doing.busy = true;
        if asks {
            doing.asked = Some(now);
        }
        tracing::info!(guest = %name, act = ?order.act, "shutdown for a drain");
        let (claims, inner) = (self.claims.clone(), self.inner.0.clone());
        self.tasks.spawn(async move {
            let done = evacuation::act(&claims, &order).await;
            let _ = inner.send(Inner::Evacuated(uuid, name, done));
        });
    }

    /// Says it on the guest, and in the plan in the place of why it can't be moved.
    fn say(&mut self, pass: &mut Pass, uuid: Uuid, name: &GuestName, cause: Cause) {
        if let Some(&id) = pass.model.guests.get(&uuid) {
            for rejection in &mut pass.plan.rejections {
                if rejection.guest == id && rejection.by.kind == "HostDrain" {
                    rejection.cause = cause.clone();
                    rejection.hosts.clear();
                }
            }
        }
        let warning = cause.reason == Reason::ShutdownTimedOut;
        // How much time is left is no news.
        let same = self
            .told
            .get(&("Guest", name.to_string()))
            .is_some_and(|(reason, _)| *reason == cause.reason);
        if cause.reason != Reason::ShutdownPending && !same {
            self.tell("Guest", name, &cause, warning, "Evacuate");
        }
        pass.shutdowns.insert(name.clone(), cause);
    }

    fn may(&self, uuid: Uuid, now: Instant) -> bool {
        let doing = self.shutdowns.get(&uuid);
        doing.is_none_or(|doing| !doing.busy && doing.rest <= now)
    }

    fn asked_lately(&self, uuid: Uuid, now: Instant) -> bool {
        let asked = self.shutdowns.get(&uuid).and_then(|doing| doing.asked);
        asked.is_some_and(|asked| now.duration_since(asked) < ASK_AGAIN)
    }

    /// Guests on which something is at work: a move, one of an earlier process, the removal of disks that were kept.
    fn at_work(&self) -> BTreeSet<Uuid> {
        let moving = running(&self.moves).map(|running| running.guest);
        let left = self.orphans.values().map(|(journal, _)| journal.guest);
        let kept = self.hosts.values().flat_map(|state| &state.kept);
        let released = kept.filter(|kept| kept.busy).map(|kept| kept.journal.guest);
        moving.chain(left).chain(released).collect()
    }

    /// The guest where it is on one host only, which answers, and nothing is at work on it.
    fn alone<'a>(
        &'a self,
        uuid: Uuid,
        entry: &'a Entry,
        at_work: &BTreeSet<Uuid>,
    ) -> Option<(&'a HostName, &'a HostState, &'a DomainFacts)> {
        let [host] = entry.hosts.as_slice() else {
            return None;
        };
        let state = self.hosts.get(host).filter(|state| state.usable())?;
        let facts = state.domains.get(&uuid)?;
        let free = !entry.settling && !at_work.contains(&uuid);
        let ours = facts.mark.is_none() && !facts.job && facts.persistent;
        (free && ours).then_some((host, state, &**facts))
    }

    /// Guests that are to be shut down now or once others have left.
    fn to_shut_down(&self, at_work: &BTreeSet<Uuid>, pass: &Pass) -> BTreeMap<Uuid, Wanted> {
        let mut leaving: BTreeMap<&HostName, Vec<Leaving<'_>>> = BTreeMap::new();
        if pass.wanted.drains.is_empty() {
            return BTreeMap::new();
        }
        for (&uuid, entry) in &pass.guests.by_uuid {
            let Some((host, _, facts)) = self.alone(uuid, entry, at_work) else {
                continue;
            };
            if let Some(found) = self.leaves(uuid, entry, host, facts, pass) {
                leaving.entry(host).or_default().push(found);
            }
        }
        let mut wanted = BTreeMap::new();
        for (host, guests) in leaving {
            let (moving, others) = self.before(host, &guests, pass);
            for Leaving { uuid, drain, stuck } in guests {
                let (name, _) = drain;
                let spec = &self.declared.drains[name].spec;
                let entry = &pass.guests.by_uuid[&uuid];
                let own = entry.declared.as_ref().and_then(|own| own.spec.restart);
                let first = if stuck { others } else { moving };
                let waits = (first > 0).then(|| match first {
                    1 => format!("1 other has left {host}"),
                    _ => format!("{first} others have left {host}"),
                });
                let found = Wanted {
                    by: format!("HostDrain/{name}"),
                    timeout: spec.shutdown_timeout,
                    restart: restarts(own),
                    waits,
                };
                wanted.insert(uuid, found);
            }
        }
        wanted
    }

    /// Whether drains agree that this guest is shut down.
    fn leaves<'a>(
        &self,
        uuid: Uuid,
        entry: &Entry,
        host: &HostName,
        facts: &DomainFacts,
        pass: &'a Pass,
    ) -> Option<Leaving<'a>> {
        if !facts.activity.active() || facts.block_job {
            return None;
        }
        let drains: Vec<(&String, &Drain)> = pass
            .wanted
            .drains
            .iter()
            .filter(|(_, drain)| drain.hosts.contains(host))
            .collect();
        let drain = *drains.iter().find(|(_, drain)| drain.halted.is_none())?;
        let spec = entry.declared.as_ref().map(|own| &own.spec);
        if hold(entry, pass.now).is_some() {
            return None;
        }
        let place = place(entry, uuid, &self.hosts, None)?;
        let cause = immovable(entry, &place, false);
        let of_its_own = |cause: &Cause| is_of_the_guest(cause.reason);
        match (
            spec.map_or(Evacuation::Migrate, |spec| spec.evacuation),
            cause,
        ) {
            (Evacuation::Never, _) => None,
            (Evacuation::Shutdown, cause) if cause.as_ref().is_none_or(of_its_own) => {
                let stuck = false;
                Some(Leaving { uuid, drain, stuck })
            }
            (Evacuation::Migrate, Some(cause)) if of_its_own(&cause) => {
                // Wait goes before Shutdown.
                let agreed = drains.iter().all(|(name, _)| {
                    let spec = &self.declared.drains[*name].spec;
                    spec.stuck == StuckGuests::Shutdown
                });
                let stuck = true;
                agreed.then_some(Leaving { uuid, drain, stuck })
            }
            _ => None,
        }
    }

    /// How many moves to or from the host are planned or under way, and how many guests run there that are not to be
    /// shut down.
    fn before(&self, host: &HostName, guests: &[Leaving<'_>], pass: &Pass) -> (usize, usize) {
        let id = pass.model.hosts[host];
        let own = |other: &evenkeel_planner::GuestId| {
            let uuid = pass.model.uuids[other.at()];
            guests.iter().any(|guest| guest.uuid == uuid)
        };
        let planned = pass.plan.moves.iter().filter(|one| one.source == id);
        let flights = pass.model.ledger.in_flight.iter();
        let flights = flights.filter(|one| one.source == id || one.target == id);
        let moving = planned.count() + flights.clone().count();
        let there = pass.model.fleet.guests.iter().zip(0u32..);
        let others = there.filter(|(guest, index)| {
            guest.host == id && guest.active && !own(&evenkeel_planner::GuestId(*index))
        });
        let arriving = flights.filter(|one| pass.model.guest(one.guest).host != id);
        (moving, others.count() + arriving.count())
    }

    /// Why a guest that was shut down can't be started where it is now.
    fn in_the_way(&self, uuid: Uuid, host: &HostName, pass: &Pass) -> Option<Cause> {
        let silent = self
            .hosts
            .iter()
            .find(|(_, state)| state.link != Link::Up && !state.declared.spec.out_of_service);
        if let Some((name, _)) = silent {
            // It might be there.
            let message = format!("{name} does not answer");
            return Some(Cause::new(Reason::HostUnreachable, message));
        }
        let id = pass.model.hosts.get(host)?;
        let planned = pass.model.host(*id);
        if let Some(cause) = &planned.out_of_reach {
            return Some(cause.clone());
        }
        if self.hosts[host].declared.spec.out_of_service {
            let message = format!("{host} is out of service");
            return Some(Cause::new(Reason::TargetUnschedulable, message));
        }
        let guest = pass.model.guest(*pass.model.guests.get(&uuid)?);
        let coming = pass.model.ledger.in_flight.iter();
        let coming: u64 = coming
            .filter(|flight| flight.target == *id)
            .map(|flight| flight.memory.0)
            .sum();
        // Others that are just being started here too.
        let starting: u64 = self
            .shutdowns
            .iter()
            .filter(|(other, doing)| doing.busy && **other != uuid)
            .filter_map(|(other, _)| pass.model.guests.get(other))
            .map(|other| pass.model.guest(*other))
            .filter(|other| other.host == *id && !other.active)
            .map(|other| other.memory.0)
            .sum();
        let used = planned.memory_used.0 + coming + starting;
        let free = planned.memory_limit.0.saturating_sub(used);
        (guest.memory.0 > free).then(|| {
            let message = format!(
                "{host} has {} of memory left and {} needs {}",
                evenkeel_crds::quantity::Bytes(free).human(),
                guest.name,
                guest.memory.human()
            );
            Cause::new(Reason::InsufficientMemory, message)
        })
    }
}
