//! A Guest's status.

use std::collections::BTreeMap;

use evenkeel_crds::{
    GuestStatus, MigrationPhase,
    kinds::guest::{
        Copy, DiskStatus, FileStatus, GuestPhase, InterfaceStatus, LastMoveStatus, LastSeen,
        MoveRef,
    },
    names::{GuestName, HostName, MigrationName},
    reason::{Cause, Reason},
    shared::{Answer, Time, Timestamp, condition, whole_seconds},
};
use uuid::Uuid;

use super::{Standing, conditions, sentence};
use crate::{
    guests::{Entry, Place},
    hands::Stray,
    hosts::{HostState, Link},
    moves::MoveState,
    port::{Activity, DiskDevice, DomainFacts, InterfaceSource},
};

/// What goes into it.
pub(crate) struct Input<'a> {
    pub(crate) uuid: Uuid,
    pub(crate) entry: &'a Entry,
    pub(crate) place: &'a Place<'a>,
    pub(crate) hosts: &'a BTreeMap<HostName, HostState>,
    /// Why it can't be moved now.
    pub(crate) immovable: Option<&'a Cause>,
    /// The move under way.
    /// Its last move, where other hands made that.
    pub(crate) stray: Option<&'a Stray>,
    pub(crate) moving: Option<(&'a MigrationName, &'a MoveState)>,
    pub(crate) before: Option<&'a GuestStatus>,
    pub(crate) now: Timestamp,
}

pub(crate) fn status(input: &Input<'_>) -> GuestStatus {
    let (place, facts) = (input.place, input.place.facts);
    let empty = GuestStatus::default();
    let before = input.before.unwrap_or(&empty);
    let generation = input
        .entry
        .declared
        .as_ref()
        .and_then(|guest| guest.metadata.generation);
    let host = &input.hosts[&place.host];
    let mut status = GuestStatus {
        observed_generation: generation,
        uuid: Some(input.uuid.to_string()),
        domain: Some(facts.name.clone()),
        host: Some(place.host.to_string()),
        hostname: host.facts.as_ref().map(|facts| facts.hostname.clone()),
        phase: phase(input),
        copies: copies(input),
        vcpus: Some(i64::from(facts.vcpus)),
        memory: Some(facts.memory),
        machine: Some(facts.machine.clone()).filter(|machine| !machine.is_empty()),
        autostart: Some(facts.autostart),
        disks: disks(facts),
        files: files(&place.host, facts),
        interfaces: interfaces(facts),
        networks: networks(facts),
        created_time: facts.created.clone(),
        metadata: facts.metadata.clone(),
        managed_by: facts.managed_by.clone(),
        current_move: input
            .moving
            .filter(|(_, state)| !state.hidden)
            .map(|(name, state)| MoveRef {
                name: name.to_string(),
                // Shown to the nearest ten, so that a long copy does not write the Guest all the time.
                progress: state.status.progress / 10 * 10,
            }),
        last_move: input.stray.map(Stray::shown).or_else(|| {
            facts.last_move.as_ref().map(|last| LastMoveStatus {
                time: last.time.clone(),
                from: last.from.to_string(),
                by: last.by.clone(),
            })
        }),
        ..GuestStatus::default()
    };
    if !place.known {
        let seen = host.observed.unwrap_or(input.now);
        status.last_seen = Some(LastSeen {
            host: place.host.to_string(),
            time: Time(whole_seconds(seen)),
        });
    }
    let unique = match &place.double {
        Some(cause) => (Answer::False, cause.clone()),
        None => (
            Answer::True,
            Cause::new(Reason::AsExpected, "no other copy is known"),
        ),
    };
    let migratable = match input.immovable {
        Some(cause) => (Answer::False, cause.clone()),
        None => (
            Answer::True,
            Cause::new(Reason::AsExpected, "nothing keeps it from being moved"),
        ),
    };
    let own = vec![
        condition(
            "Bound",
            Answer::True,
            Reason::AsExpected,
            format!("domain {} of UUID {}", facts.name, input.uuid),
            generation,
            input.now,
        ),
        condition(
            "Migratable",
            migratable.0,
            migratable.1.reason,
            sentence(&migratable.1),
            generation,
            input.now,
        ),
        condition(
            "Unique",
            unique.0,
            unique.1.reason,
            sentence(&unique.1),
            generation,
            input.now,
        ),
    ];
    let standing = if place.double.is_some() {
        Standing {
            ready: Answer::False,
            cause: unique.1,
            reconciling: false,
            stalled: true,
        }
    } else if let Link::Down(cause) = &host.link {
        Standing {
            ready: Answer::Unknown,
            cause: cause.clone(),
            reconciling: false,
            stalled: false,
        }
    } else {
        Standing {
            ready: Answer::True,
            cause: Cause::new(
                Reason::AsExpected,
                format!("{} on {}", status.phase.as_str(), place.host),
            ),
            reconciling: input.moving.is_some(),
            stalled: false,
        }
    };
    status.conditions = conditions(own, &standing, generation, input.now, &before.conditions);
    stamp(&mut status, before, input.now);
    status
}

/// The status of a manifest that binds to nothing.
pub(crate) fn unbound(
    name: &GuestName,
    generation: Option<i64>,
    cause: &Cause,
    all_seen: bool,
    before: Option<&GuestStatus>,
    now: Timestamp,
) -> GuestStatus {
    let empty = GuestStatus::default();
    let before = before.unwrap_or(&empty);
    let phase = if all_seen {
        GuestPhase::Missing
    } else {
        GuestPhase::Unknown
    };
    let answer = if all_seen {
        Answer::False
    } else {
        Answer::Unknown
    };
    let own = vec![condition(
        "Bound",
        answer,
        cause.reason,
        sentence(cause),
        generation,
        now,
    )];
    let standing = Standing {
        ready: answer,
        cause: cause.clone(),
        reconciling: false,
        stalled: all_seen,
    };
    let mut status = GuestStatus {
        observed_generation: generation,
        phase,
        uuid: before.uuid.clone(),
        domain: before.domain.clone().or_else(|| Some(name.to_string())),
        last_seen: before.last_seen.clone().or_else(|| {
            before.host.clone().map(|host| LastSeen {
                host,
                time: Time(whole_seconds(now)),
            })
        }),
        conditions: conditions(own, &standing, generation, now, &before.conditions),
        ..GuestStatus::default()
    };
    stamp(&mut status, before, now);
    status
}

fn stamp(status: &mut GuestStatus, before: &GuestStatus, now: Timestamp) {
    status.updated_time.clone_from(&before.updated_time);
    if status != before {
        status.updated_time = Some(Time(whole_seconds(now)));
    }
}

fn phase(input: &Input<'_>) -> GuestPhase {
    if !input.place.known {
        return GuestPhase::Unknown;
    }
    let copying = input.moving.is_some_and(|(_, state)| {
        matches!(
            state.status.phase,
            MigrationPhase::Copying | MigrationPhase::Switching | MigrationPhase::Verifying
        )
    });
    if (copying || input.place.foreign.is_some()) && input.place.facts.activity.active() {
        return GuestPhase::Migrating;
    }
    match input.place.facts.activity {
        Activity::Running | Activity::ShuttingDown => GuestPhase::Running,
        Activity::Paused | Activity::Suspended => GuestPhase::Paused,
        Activity::ShutOff => GuestPhase::Stopped,
        Activity::Crashed => GuestPhase::Crashed,
    }
}

fn copies(input: &Input<'_>) -> Vec<Copy> {
    input
        .entry
        .hosts
        .iter()
        .filter_map(|host| {
            let state = input.hosts.get(host)?;
            let facts = state.domains.get(&input.uuid)?;
            let word = match facts.activity {
                _ if state.link != Link::Up => "Unknown",
                Activity::Running | Activity::ShuttingDown => "Running",
                Activity::Paused | Activity::Suspended => "Paused",
                Activity::ShutOff => "Stopped",
                Activity::Crashed => "Crashed",
            };
            Some(Copy {
                host: host.to_string(),
                state: word.to_owned(),
                persistent: facts.persistent,
            })
        })
        .collect()
}

fn disks(facts: &DomainFacts) -> Vec<DiskStatus> {
    facts
        .disks
        .iter()
        .map(|disk| DiskStatus {
            target: disk.target.clone(),
            file: disk.path.clone(),
            format: disk.format.clone(),
            virtual_size: disk.virtual_size,
            allocated: disk.allocated,
            pool: disk.pool.clone(),
            backing: disk
                .backing
                .iter()
                .map(|layer| layer.path.clone())
                .collect(),
            shared: disk.shared,
        })
        .collect()
}

fn files(host: &HostName, facts: &DomainFacts) -> Vec<FileStatus> {
    let file = |role: &str, path: &String, allocated| FileStatus {
        role: role.to_owned(),
        host: host.to_string(),
        path: path.clone(),
        allocated,
    };
    let mut files = Vec::new();
    for disk in &facts.disks {
        let role = match disk.device {
            DiskDevice::Disk => "disk",
            DiskDevice::Cdrom => "cdrom",
            DiskDevice::Floppy => "floppy",
        };
        files.extend(
            disk.path
                .iter()
                .map(|path| file(role, path, Some(disk.allocated))),
        );
        let backing = disk.backing.iter();
        files.extend(backing.map(|layer| file("backing", &layer.path, None)));
    }
    files.extend(
        facts
            .files
            .iter()
            .map(|other| file(&other.role, &other.path, None)),
    );
    files
}

fn source(source: &InterfaceSource) -> String {
    match source {
        InterfaceSource::Network(name) => format!("network:{name}"),
        InterfaceSource::Bridge(name) => format!("bridge:{name}"),
        InterfaceSource::User => "user".to_owned(),
        InterfaceSource::Other(kind) => kind.clone(),
    }
}

fn interfaces(facts: &DomainFacts) -> Vec<InterfaceStatus> {
    facts
        .interfaces
        .iter()
        .filter(|interface| interface.plugged)
        .map(|interface| InterfaceStatus {
            mac: interface.mac.clone(),
            source: source(&interface.source),
            addresses: interface.addresses.clone(),
        })
        .collect()
}

fn networks(facts: &DomainFacts) -> Option<String> {
    let words: Vec<String> = facts
        .interfaces
        .iter()
        .filter(|interface| interface.plugged)
        .map(|interface| {
            let name = match &interface.source {
                InterfaceSource::Network(name) | InterfaceSource::Bridge(name) => name.clone(),
                other => source(other),
            };
            if interface.addresses.is_empty() {
                name
            } else {
                format!("{name}={}", interface.addresses.join(","))
            }
        })
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}
