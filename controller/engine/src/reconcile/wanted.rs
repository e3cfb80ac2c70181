//! From declared objects to wishes: who is meant, what the manifests get wrong, what is over.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    HostDrain, MigrationPhase,
    kinds::{drain::StoppedGuests, migration::MigrationMode},
    names::{HostName, MigrationName},
    reason::{Cause, Reason},
    shared::{RequestedBy, Timestamp},
};
use evenkeel_planner::{HostId, What, Wish};
use uuid::Uuid;

use super::{Reconciler, asking::is_withdrawn, placements::Placed};
use crate::{guests::Guests, hosts::HostState, model::Model, moves::MoveState, profile::Profiles};

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
}

/// A drain as the one who asks.
pub(super) fn by_drain(name: &str, drain: &HostDrain) -> RequestedBy {
    RequestedBy {
        kind: "HostDrain".to_owned(),
        name: name.to_owned(),
        uid: drain.metadata.uid.clone().unwrap_or_default(),
    }
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
