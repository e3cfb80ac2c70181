//! Moves by other hands: a guest that is on another host than before, and no move of ours took it there.
//!
//! libvirt keeps no word of them. They are seen as they happen, and after a restart by comparing with what the Guest's
//! own status last said.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::{
    kinds::guest::LastMoveStatus,
    names::HostName,
    shared::{Timestamp, whole_seconds},
};
use uuid::Uuid;

use crate::{
    guests::{Guests, incoming, place},
    hosts::HostState,
    port::LastMove,
};

/// In the place of a wish in a Guest's `lastMove`: somebody else moved it.
pub(crate) const OTHER: &str = "Other";

/// A guest that other hands moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stray {
    /// When it was seen to have moved.
    pub(crate) time: Timestamp,
    pub(crate) from: HostName,
    pub(crate) to: HostName,
}

impl Stray {
    /// As a Guest shows it.
    pub(crate) fn shown(&self) -> LastMoveStatus {
        LastMoveStatus {
            time: whole_seconds(self.time).to_string(),
            from: self.from.to_string(),
            by: OTHER.to_owned(),
        }
    }
}

/// Where guests were last seen, and which of them other hands have brought there.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    seen: BTreeMap<Uuid, (HostName, Option<LastMove>)>,
    strays: BTreeMap<Uuid, Stray>,
    /// Guests that a move of ours was at work on when last looked at: where they are now is its doing.
    moved: BTreeSet<Uuid>,
}

impl Hands {
    /// The last move of the guest, where that was not by us.
    pub(crate) fn of(&self, guest: Uuid) -> Option<&Stray> {
        self.strays.get(&guest)
    }

    /// All of them.
    pub(crate) fn strays(&self) -> impl Iterator<Item = (&Uuid, &Stray)> {
        self.strays.iter()
    }

    /// Looks where guests are. `ours`: those that a move of ours, or of an earlier process, is at work on.
    pub(crate) fn look(
        &mut self,
        guests: &Guests,
        hosts: &BTreeMap<HostName, HostState>,
        ours: &BTreeSet<Uuid>,
        now: Timestamp,
    ) {
        self.seen
            .retain(|guest, _| guests.by_uuid.contains_key(guest));
        self.strays
            .retain(|guest, _| guests.by_uuid.contains_key(guest));
        self.moved
            .retain(|guest| guests.by_uuid.contains_key(guest));
        for (&guest, entry) in &guests.by_uuid {
            if ours.contains(&guest) {
                self.seen.remove(&guest);
                self.strays.remove(&guest);
                self.moved.insert(guest);
                continue;
            }
            let alone = entry.hosts.len() == 1 && !entry.settling;
            let Some(place) = place(entry, guest, hosts, None)
                .filter(|place| alone && place.known && !incoming(place.facts))
            else {
                continue;
            };
            let last = &place.facts.last_move;
            if !self.moved.remove(&guest)
                && !self.seen.contains_key(&guest)
                && let Some(status) = entry
                    .declared
                    .as_ref()
                    .and_then(|guest| guest.status.as_ref())
            {
                self.recall(guest, status, last.as_ref(), &place.host);
            }
            match self.seen.get(&guest) {
                Some((host, before)) if *host == place.host && before == last => continue,
                Some((host, before)) if *host != place.host && before == last => {
                    let stray = Stray {
                        time: now,
                        from: host.clone(),
                        to: place.host.clone(),
                    };
                    self.strays.insert(guest, stray);
                }
                // A move of ours, or of another that writes down what it does.
                Some(_) => drop(self.strays.remove(&guest)),
                None => {}
            }
            self.seen.insert(guest, (place.host.clone(), last.clone()));
        }
    }

    /// Takes up what an earlier process had written on the Guest.
    fn recall(
        &mut self,
        guest: Uuid,
        status: &evenkeel_crds::GuestStatus,
        last: Option<&LastMove>,
        host: &HostName,
    ) {
        let Some(before) = status.host.as_deref() else {
            return;
        };
        let told = status.last_move.as_ref();
        let stray = told
            .filter(|told| told.by == OTHER && before == host.as_str())
            .and_then(|told| {
                Some(Stray {
                    time: told.time.parse().ok()?,
                    from: told.from.as_str().into(),
                    to: host.clone(),
                })
            });
        match stray {
            // Unless a move of ours is younger.
            Some(stray)
                if last
                    .and_then(|last| last.time.parse::<Timestamp>().ok())
                    .is_none_or(|time| time <= stray.time) =>
            {
                self.strays.insert(guest, stray);
                self.seen.insert(guest, (host.clone(), last.cloned()));
            }
            Some(_) => {}
            None => {
                let same = told.map(|told| &told.time) == last.map(|last| &last.time);
                if same {
                    self.seen.insert(guest, (before.into(), last.cloned()));
                }
            }
        }
    }
}
