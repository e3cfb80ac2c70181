//! From declared objects to wishes: who is meant, what the manifests get wrong, what is over.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    GuestMigration, HostDrain, MigrationPhase,
    kinds::{
        drain::{OnRelease, StoppedGuests},
        migration::{Evidence, MigrationMode, SourceFiles},
    },
    names::{HostName, MigrationName},
    reason::{Cause, Reason},
    shared::{LABEL_WISH_KIND, LABEL_WISH_NAME, RequestedBy, Time, Timestamp, whole_seconds},
};
use evenkeel_planner::{HostId, What, Wish};
use uuid::Uuid;

use super::{Pass, Reconciler, asking::is_withdrawn, placements::Placed};
use crate::{
    guests::{Guests, incoming},
    hosts::{HostState, Journals, Link},
    model::Model,
    moves::MoveState,
    port::Activity,
    profile::Profiles,
};

/// Seconds for which a drain's move that is over and never had an object is kept: whoever makes it may be late.
const REMEMBERED: i64 = 600;

/// What is wanted, resolved.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) wishes: Vec<Wish>,
    /// Moves that can't even be planned, each with the cause.
    pub(crate) refused: BTreeMap<MigrationName, Cause>,
    /// Hosts of each drain, names that no Host bears, and why nothing new starts.
    pub(crate) drains: BTreeMap<String, Drain>,
    pub(crate) placements: BTreeMap<String, Placed>,
}

/// A drain, resolved.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    pub(crate) hosts: Vec<HostName>,
    pub(crate) unknown: Vec<String>,
    pub(crate) halted: Option<Cause>,
}

impl Reconciler {
    /// Brings the moves table in line with what is declared.
    pub(super) fn sync_moves(&mut self, guests: &Guests, now: Timestamp) {
        // Where a guest is decides nothing while a move of an earlier process may be unfinished.
        let read = !self.options.act
            || self
                .hosts
                .values()
                .all(|state| !state.usable() || state.journals == Journals::Read);
        let unfinished: BTreeSet<Uuid> = self
            .orphans
            .values()
            .map(|(journal, _)| journal.guest)
            .chain(
                self.moves
                    .values()
                    .filter_map(|state| Some(state.running.as_ref()?.guest)),
            )
            .collect();
        for (name, object) in &self.declared.migrations {
            // Deleted and written anew under the same name: the old one ends first.
            if let Some(state) = self.moves.get_mut(name.as_str())
                && let Some(uid) = &object.metadata.uid
                && !state.uid.is_empty()
                && state.uid != *uid
            {
                if state.running.is_some() {
                    let gone = Cause::new(
                        Reason::Aborted,
                        "deleted by request; the guest is where it was",
                    );
                    abort(state, gone, now);
                    continue;
                }
                self.moves.remove(name.as_str());
            }
            let state = self
                .moves
                .entry(name.as_str().into())
                .or_insert_with(|| adopted_object(object, name, now));
            (state.declared, state.had_object) = (true, true);
            state.uid = object.metadata.uid.clone().unwrap_or_default();
            state.generation = object.metadata.generation;
            state.spec = object.spec.clone();
            if state.by.kind == "GuestMigration" {
                state.by.uid.clone_from(&state.uid);
            }
            let deleted = object.metadata.deletion_timestamp.is_some();
            if deleted || object.spec.abort == Some(true) {
                abort(
                    state,
                    Cause::new(
                        Reason::Aborted,
                        if deleted {
                            "deleted by request; the guest is where it was"
                        } else {
                            "aborted by request; the guest is where it was"
                        },
                    ),
                    now,
                );
            }
            let from_files = self.options.from_files;
            let over = object.spec.deadline.is_some_and(|deadline| {
                let age = now.as_second() - state.created.as_second();
                age >= 0 && age as u64 >= deadline.0.as_secs()
            });
            if over && !state.is_final() {
                let cause = Cause::new(
                    Reason::DeadlineExceeded,
                    format!(
                        "not done within {}",
                        object.spec.deadline.unwrap_or_default()
                    ),
                );
                abort(state, cause, now);
            }
            let open = guests
                .find(&state.spec.guest)
                .is_none_or(|(uuid, _)| unfinished.contains(&uuid));
            if read && !open && !state.is_final() && state.running.is_none() {
                settle_by_place(state, name, guests, &self.hosts, from_files, now);
            }
        }
        let declared = &self.declared;
        for (name, state) in &mut self.moves {
            if state.declared && !declared.migrations.contains_key(name.as_str()) {
                state.declared = false;
                if state.by.kind == "GuestMigration" {
                    abort(
                        state,
                        Cause::new(Reason::WishGone, "the GuestMigration is gone"),
                        now,
                    );
                }
            }
        }
    }

    /// Guests whose move for a wish was given up or aborted by a user, with that wish: it does not move them again.
    pub(super) fn spent(&self, guests: &Guests) -> Vec<(RequestedBy, Uuid, Cause)> {
        let mut spent = Vec::new();
        for (name, state) in &self.moves {
            if state.by.kind == "GuestMigration"
                || state.hidden
                || is_withdrawn(state)
                || !matches!(
                    state.status.phase,
                    MigrationPhase::Failed | MigrationPhase::Aborted
                )
            {
                continue;
            }
            let Some((uuid, entry)) = guests.find(&state.spec.guest) else {
                continue;
            };
            // Only where the wish would make the very same move again.
            if self
                .wish_move_name(&state.by, entry.name.as_str(), uuid)
                .as_ref()
                != Some(name)
            {
                continue;
            }
            let (reason, message) = match &state.end {
                Some(cause) if state.status.phase == MigrationPhase::Failed => {
                    (cause.reason, cause.message.clone())
                }
                None if state.status.phase == MigrationPhase::Failed => {
                    (Reason::AttemptsExhausted, format!("{name} failed"))
                }
                _ => (
                    Reason::AbortedByUser,
                    format!("{name} was aborted by a user"),
                ),
            };
            spent.push((state.by.clone(), uuid, Cause::new(reason, message)));
        }
        spent
    }

    /// Guests of whom an earlier process left a move unfinished: no wish moves them meanwhile.
    pub(super) fn left_unfinished(&self) -> BTreeMap<Uuid, Cause> {
        let orphans = self.orphans.values();
        orphans
            .filter_map(|(journal, _)| Some((journal.guest, self.unfinished(journal)?)))
            .collect()
    }

    /// Resolves what is declared into wishes.
    pub(super) fn wanted(&mut self, guests: &Guests, model: &Model, now: Timestamp) -> Wanted {
        let mut wanted = Wanted::default();
        for (name, state) in &self.moves {
            if state.hidden
                || state.is_final()
                || state.running.is_some()
                || state.by.kind != "GuestMigration"
            {
                continue;
            }
            let stuck = guests.find(&state.spec.guest).and_then(|(uuid, _)| {
                self.orphans
                    .values()
                    .filter(|(journal, _)| journal.guest == uuid)
                    .find_map(|(journal, _)| self.unfinished(journal))
            });
            if let Some(cause) = stuck {
                wanted.refused.insert(name.clone(), cause);
                continue;
            }
            if let Some(cause) = self.suspended() {
                wanted.refused.insert(name.clone(), cause);
                continue;
            }
            match resolve(name, state, guests, model, &self.profiles()) {
                Ok(wish) => wanted.wishes.push(wish),
                Err(cause) => {
                    // Nobody is missing before everybody was asked.
                    let early = cause.reason == Reason::GuestNotFound
                        && self.hosts.values().any(HostState::is_awaited);
                    let cause = if early {
                        Cause::new(Reason::Waiting, "not all hosts have answered yet")
                    } else {
                        cause
                    };
                    wanted.refused.insert(name.clone(), cause);
                }
            }
        }
        for (name, drain) in &self.declared.drains {
            if drain.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let resolved = self.resolve_drain(drain, now);
            let hosts: BTreeSet<HostId> = resolved
                .hosts
                .iter()
                .filter_map(|host| model.hosts.get(host).copied())
                .collect();
            if !hosts.is_empty() {
                let by = by_drain(name, drain);
                let spent = self.spent_by(&by).into_iter();
                let leaves =
                    spent.filter_map(|(uuid, cause)| Some((*model.guests.get(&uuid)?, cause)));
                wanted.wishes.push(Wish {
                    what: What::Drain {
                        hosts,
                        stopped: drain.spec.stopped == StoppedGuests::Move,
                        parallel: drain.spec.parallel.max(1).unsigned_abs(),
                        makes_way: true,
                        leaves: leaves.collect(),
                        halted: resolved.halted.clone(),
                    },
                    by,
                });
            }
            wanted.drains.insert(name.clone(), resolved);
        }
        wanted.placements = self.want_placements(guests, model, now, &mut wanted.wishes);
        wanted
    }

    fn resolve_drain(&self, drain: &HostDrain, now: Timestamp) -> Drain {
        let mut resolved = Drain::default();
        let picker = &drain.spec.hosts;
        for name in picker.names.iter().flatten() {
            match self.hosts.get_key_value(name.as_str()) {
                Some((host, _)) => resolved.hosts.push(host.clone()),
                None => resolved.unknown.push(name.clone()),
            }
        }
        if let Some(selector) = &picker.selector {
            for (host, state) in &self.hosts {
                if selector.matches(&state.declared.metadata.labels.clone().unwrap_or_default()) {
                    resolved.hosts.push(host.clone());
                }
            }
        }
        resolved.hosts.sort();
        resolved.hosts.dedup();
        let since = drain
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(self.started_at, |time| time.0);
        let late = drain
            .spec
            .deadline
            .filter(|deadline| now.as_second() - since.as_second() >= deadline.0.as_secs() as i64);
        if self.hosts.values().any(HostState::is_awaited) {
            // A target chosen among those that were quickest to answer would be a poor one.
            resolved.halted = Some(Cause::new(
                Reason::Waiting,
                "not all hosts have answered yet",
            ));
        } else if let Some(cause) = self.suspended() {
            resolved.halted = Some(cause);
        } else if drain.spec.suspend {
            resolved.halted = Some(Cause::new(
                Reason::Suspended,
                "the drain is suspended: nothing new starts",
            ));
        } else if let Some(deadline) = late {
            resolved.halted = Some(
                Cause::new(
                    Reason::DeadlineExceeded,
                    format!("not done within {deadline}: nothing new starts, nothing is killed"),
                )
                .hint("raise `deadline` to go on"),
            );
        }
        resolved
    }

    /// Ends what a wish that is gone had asked for: pending moves at once, copies as the drain said.
    pub(super) fn release(&mut self, pass: &Pass) {
        let declared = self.declared.clone();
        let swept = self.orphans.is_empty()
            && self
                .hosts
                .values()
                .all(|state| state.journals == Journals::Read);
        let mut gone = Vec::new();
        for (name, state) in &mut self.moves {
            if state.hidden {
                if state.is_final()
                    || (state.running.is_none() && state.status.phase == MigrationPhase::Pending)
                {
                    gone.push(name.clone());
                }
                continue;
            }
            if !state.declared && state.by.kind == "GuestMigration" && state.running.is_none() {
                gone.push(name.clone());
                continue;
            }
            if state.by.kind != "HostDrain" || state.is_final() {
                continue;
            }
            let wanted = declared
                .drains
                .get(&state.by.name)
                .filter(|drain| drain.metadata.deletion_timestamp.is_none());
            let cause = Cause::new(
                Reason::WishGone,
                format!("HostDrain {} is gone", state.by.name),
            );
            match wanted {
                Some(_)
                    if swept
                        && state.running.is_none()
                        && !still_planned(state, pass)
                        && has_left(drained(state, pass), &state.by.name, pass) =>
                {
                    let message = format!(
                        "{} is on no host of HostDrain {} any more",
                        drained(state, pass),
                        state.by.name
                    );
                    let cause = Cause::new(Reason::WishGone, message);
                    state.finish(MigrationPhase::Aborted, cause, pass.now);
                }
                Some(drain) => state.release = drain.spec.on_release,
                None if state.running.is_some() => {
                    if state.release == OnRelease::Abort {
                        state.ask_to_abort(Some(cause));
                    }
                }
                None => state.finish(MigrationPhase::Aborted, cause, pass.now),
            }
        }
        gone.extend(self.to_forget(pass));
        for name in gone {
            self.forget(&name);
        }
        self.forgotten.retain(|by, _| {
            let drain = declared.drains.get(&by.name);
            drain.is_some_and(|drain| by_drain(&by.name, drain) == *by)
        });
    }

    /// Moves of wishes that are over and whose objects are gone, or were never made. What a wish gave up is kept for as
    /// long as it would ask for the same again. From files nothing else remembers what was done.
    fn to_forget(&self, pass: &Pass) -> Vec<MigrationName> {
        if self.options.from_files {
            return Vec::new();
        }
        let late = |state: &MoveState| {
            let end = state.status.completion_time.as_ref();
            end.is_some_and(|end| pass.now.as_second() - end.0.as_second() > REMEMBERED)
        };
        let over = self.moves.iter().filter(|(_, state)| {
            state.by.kind != "GuestMigration"
                && state.is_final()
                && !state.declared
                && (state.had_object || late(state))
        });
        over.filter(|(name, state)| !self.asked_again(name, state, pass))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a wish would make the very same move for the same guest again: then this one tells it not to.
    pub(super) fn asked_again(&self, name: &MigrationName, state: &MoveState, pass: &Pass) -> bool {
        state.status.phase != MigrationPhase::Succeeded
            && match pass.guests.find(&state.spec.guest) {
                Some((uuid, entry)) => {
                    self.wish_move_name(&state.by, entry.name.as_str(), uuid)
                        .as_ref()
                        == Some(name)
                }
                None => self.is_asked(&state.by),
            }
    }

    fn forget(&mut self, name: &MigrationName) {
        let Some(state) = self.moves.remove(name) else {
            return;
        };
        self.told.remove(&("GuestMigration", name.to_string()));
        if state.by.kind == "HostDrain" && state.status.phase == MigrationPhase::Succeeded {
            *self.forgotten.entry(state.by).or_default() += 1;
        }
    }
}

/// Whether the plan has the move: the guest may be on another host, from where it makes way for one of the drain.
fn still_planned(state: &MoveState, pass: &Pass) -> bool {
    let guest = pass.guests.find(&state.spec.guest);
    let id = guest.and_then(|(uuid, _)| pass.model.guests.get(&uuid));
    let moves = pass.plan.moves.iter();
    id.is_some_and(|id| {
        moves
            .filter(|planned| planned.by == state.by)
            .any(|planned| planned.guest == *id)
    })
}

/// The guest that has to leave the drain's hosts by the move: its own, or the one that it makes way for.
fn drained<'a>(state: &'a MoveState, pass: &'a Pass) -> &'a str {
    let other = state.makes_way_for.as_ref();
    let other = other.and_then(|uuid| pass.guests.by_uuid.get(uuid));
    other.map_or(&state.spec.guest, |entry| entry.name.as_str())
}

/// Whether the guest is known to be elsewhere than on the drain's hosts.
fn has_left(guest: &str, drain: &str, pass: &Pass) -> bool {
    let id = pass
        .guests
        .find(guest)
        .and_then(|(uuid, _)| pass.model.guests.get(&uuid));
    let drain = pass.wanted.drains.get(drain);
    id.zip(drain).is_some_and(|(id, drain)| {
        let host = pass.model.host(pass.model.guest(*id).host);
        host.out_of_reach.is_none() && !drain.hosts.contains(&host.name)
    })
}

/// A drain as the one who asks.
pub(super) fn by_drain(name: &str, drain: &HostDrain) -> RequestedBy {
    RequestedBy {
        kind: "HostDrain".to_owned(),
        name: name.to_owned(),
        uid: drain.metadata.uid.clone().unwrap_or_default(),
    }
}

/// A move as an object tells of it: what was known when an earlier process wrote it goes on.
fn adopted_object(object: &GuestMigration, name: &str, now: Timestamp) -> MoveState {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let by = match (labels.get(LABEL_WISH_KIND), labels.get(LABEL_WISH_NAME)) {
        (Some(kind), Some(wish)) => status.requested_by.clone().unwrap_or_else(|| RequestedBy {
            kind: kind.clone(),
            name: wish.clone(),
            uid: String::new(),
        }),
        _ => RequestedBy {
            kind: "GuestMigration".to_owned(),
            name: name.to_owned(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
        },
    };
    let created = object
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    let mut state = MoveState::new(object.spec.clone(), by, created);
    state.status = status;
    if !state.is_final() {
        // Its journals tell how far it really is.
        state.status.phase = MigrationPhase::Pending;
    }
    state
}

fn abort(state: &mut MoveState, cause: Cause, now: Timestamp) {
    if state.is_final() {
        return;
    }
    if state.running.is_some() {
        state.ask_to_abort(Some(cause));
        return;
    }
    let phase = match cause.reason {
        Reason::DeadlineExceeded => MigrationPhase::Failed,
        _ => MigrationPhase::Aborted,
    };
    state.finish(phase, cause, now);
}

/// Ends a move that the guest's place has decided already: it is where it should go, or not where it should be.
fn settle_by_place(
    state: &mut MoveState,
    name: &str,
    guests: &Guests,
    hosts: &BTreeMap<HostName, crate::hosts::HostState>,
    from_files: bool,
    now: Timestamp,
) {
    let Some((uuid, entry)) = guests.find(&state.spec.guest) else {
        return;
    };
    let Some(place) = crate::guests::place(entry, uuid, hosts, None)
        .filter(|place| place.known && place.foreign.is_none() && !entry.settling)
    else {
        return;
    };
    // A copy that is only arriving, or one that does not run while not every host was heard, proves nothing.
    let all_heard = hosts.values().all(|host| host.link == Link::Up);
    if incoming(place.facts) || !(place.facts.activity.active() || all_heard) {
        return;
    }
    let host = &place.host;
    if let Some(evidence) = finished_before(state, uuid, &place, hosts, now) {
        let message = format!("runs on {host}; it was finished by an earlier process");
        state.status.evidence = Some(evidence);
        state.status.progress = 100;
        state.finish(
            MigrationPhase::Succeeded,
            Cause::new(Reason::Completed, message),
            now,
        );
        return;
    }
    let there = state.spec.target.as_deref() == Some(host.as_str());
    // From files nothing but the guest's own metadata remembers a move without a target.
    let done_before = from_files
        && state.spec.target.is_none()
        && place
            .facts
            .last_move
            .as_ref()
            .is_some_and(|last| last.by == format!("GuestMigration/{name}"));
    if there || done_before {
        let message = if done_before {
            format!("{} was moved to {host} for this before", entry.name)
        } else {
            format!("{} is on {host} already", entry.name)
        };
        let cause = Cause::new(Reason::MigrateToSelf, message);
        state.status.source = Some(host.to_string());
        state.status.target = Some(host.to_string());
        if from_files {
            state.finish(MigrationPhase::Succeeded, cause.hint(""), now);
        } else {
            state.finish(MigrationPhase::Failed, cause, now);
        }
    } else if let Some(source) = state
        .spec
        .source
        .as_deref()
        .filter(|source| *source != host.as_str() && !stops_over(state, name, &place, source))
    {
        let cause = Cause::new(
            Reason::SourceMismatch,
            format!("{} is on {host}, not on {source}", entry.name),
        );
        state.finish(MigrationPhase::Failed, cause, now);
    }
}

/// Whether the guest has come from the source to where it is by this very move, and goes on from there.
fn stops_over(
    state: &MoveState,
    name: &str,
    place: &crate::guests::Place<'_>,
    source: &str,
) -> bool {
    let last = place.facts.last_move.as_ref();
    last.is_some_and(|last| {
        let time = last.time.parse::<Timestamp>();
        last.by == format!("GuestMigration/{name}")
            && last.from.as_str() == source
            && time.is_ok_and(|time| time >= whole_seconds(state.created))
    })
}

/// What is seen of a move that an earlier process finished, journals and all, and did not live to tell: it had begun,
/// and the guest's own metadata says that it came here by it.
fn finished_before(
    state: &MoveState,
    uuid: Uuid,
    place: &crate::guests::Place<'_>,
    hosts: &BTreeMap<HostName, crate::hosts::HostState>,
    now: Timestamp,
) -> Option<Evidence> {
    let last = place.facts.last_move.as_ref()?;
    state.status.start_time.as_ref()?;
    if state
        .spec
        .target
        .as_deref()
        .is_some_and(|target| target != place.host.as_str())
    {
        return None;
    }
    let ends = (
        state.status.source.as_deref()?,
        state.status.target.as_deref()?,
    );
    let by = format!("{}/{}", state.by.kind, state.by.name);
    (last.by == by && ends == (last.from.as_str(), place.host.as_str())).then(|| Evidence {
        running: Some(place.host.to_string())
            .filter(|_| place.facts.activity == Activity::Running)
            .into_iter()
            .collect(),
        uuid: uuid.to_string(),
        rebooted: false,
        source_defined: hosts
            .get(&last.from)
            .is_some_and(|source| source.domains.contains_key(&uuid)),
        kept_files: Vec::new(),
        shared_files: Vec::new(),
        source_files: match hosts.get(&last.from) {
            Some(source) if source.kept.iter().any(|kept| kept.journal.guest == uuid) => {
                SourceFiles::Retained
            }
            _ if place.facts.disks.iter().any(|disk| disk.is_copied()) => SourceFiles::Removed,
            _ if place.facts.disks.iter().any(|disk| disk.shared) => SourceFiles::Shared,
            _ => SourceFiles::Removed,
        },
        observed_time: Time(whole_seconds(now)),
    })
}

fn resolve(
    name: &MigrationName,
    state: &MoveState,
    guests: &Guests,
    model: &Model,
    profiles: &Profiles<'_>,
) -> Result<Wish, Cause> {
    let spec = &state.spec;
    let (uuid, entry) = guests.find(&spec.guest).ok_or_else(|| {
        Cause::new(
            Reason::GuestNotFound,
            format!("no guest is named {} on any host that answers", spec.guest),
        )
    })?;
    let guest = *model.guests.get(&uuid).ok_or_else(|| {
        Cause::new(
            Reason::GuestNotFound,
            format!("{} is on no host of the fleet", spec.guest),
        )
    })?;
    let host = |word: &str| {
        model.hosts.get(word).copied().ok_or_else(|| {
            let known: Vec<&str> = model
                .hosts
                .keys()
                .take(10)
                .map(|name| name.as_str())
                .collect();
            Cause::new(
                Reason::HostNotFound,
                format!("no Host is named {word}; there are {}", known.join(", ")),
            )
        })
    };
    let storage = model.guest(guest).needs.storage.values().next();
    if let (MigrationMode::Block, Some(directory)) = (spec.mode, storage) {
        return Err(Cause::new(
            Reason::DiskShared,
            format!(
                "{} has a disk in {directory}, on storage that several hosts see: it is not copied, as `mode: Block` asks for",
                spec.guest
            ),
        ));
    }
    let target = spec.target.as_deref().map(host).transpose()?;
    if let Some(source) = spec.source.as_deref() {
        host(source)?;
    }
    let ends = std::iter::once(model.guest(guest).host).chain(target);
    let ends: Vec<&HostName> = ends.map(|end| &model.host(end).name).collect();
    profiles.choose(spec.profile.as_deref(), Some(entry), &ends)?;
    let mut pools = BTreeMap::new();
    for disk in spec.disks.iter().flatten() {
        if !model
            .guest(guest)
            .disks
            .iter()
            .any(|own| own.target == disk.target)
        {
            return Err(Cause::new(
                Reason::DiskNotMovable,
                format!(
                    "{} has no disk {} that would be copied",
                    spec.guest, disk.target
                ),
            ));
        }
        pools.insert(disk.target.clone(), disk.pool.clone());
    }
    Ok(Wish {
        by: state.by.clone(),
        what: What::Move {
            migration: name.clone(),
            guest,
            target,
            pools,
        },
    })
}
