//! Moves that the guest's place has decided already: it is where it should go, an earlier process has brought it there, or it
//! is not where it should come from.

use std::collections::BTreeMap;

use evenkeel_crds::{
    MigrationPhase,
    kinds::migration::{Evidence, SourceFiles},
    names::HostName,
    reason::{Cause, Reason},
    shared::{Time, Timestamp, whole_seconds},
};
use uuid::Uuid;

use crate::{
    guests::{Guests, Place, incoming, place},
    hosts::{HostState, Link},
    moves::MoveState,
    port::Activity,
};

/// Ends a move that the guest's place has decided already: it is where it should go, or not where it should be.
pub(super) fn settle_by_place(
    state: &mut MoveState,
    name: &str,
    guests: &Guests,
    hosts: &BTreeMap<HostName, HostState>,
    from_files: bool,
    now: Timestamp,
) {
    let Some((uuid, entry)) = guests.find(&state.spec.guest) else {
        return;
    };
    let Some(place) = place(entry, uuid, hosts, None)
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
fn stops_over(state: &MoveState, name: &str, place: &Place<'_>, source: &str) -> bool {
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
    place: &Place<'_>,
    hosts: &BTreeMap<HostName, HostState>,
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
