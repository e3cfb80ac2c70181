//! What was shown of each guest, and what that was made from: while none of it is different, nothing is made anew. So a
//! pass costs what changed, and not what there is.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_crds::{Guest, MigrationProfile, names::HostName};
use uuid::Uuid;

use crate::{guests::Entry, hands::Stray, hosts::HostState, port::DomainFacts, view::GuestView};

/// Guests as they were last shown, but for those with a move under way.
#[derive(Debug, Default)]
pub(super) struct Shown {
    guests: BTreeMap<Uuid, (Origin, Arc<GuestView>)>,
    profiles: BTreeMap<String, Arc<MigrationProfile>>,
}

/// All that a guest's status is made from, where no move of it is under way.
#[derive(Debug)]
struct Origin {
    entry: Entry,
    /// Of each host with a copy: its revision, and the copy.
    copies: Vec<Option<(u64, Arc<DomainFacts>)>>,
    stray: Option<Stray>,
}

/// What a host tells of itself and of its copy.
fn copy<'a>(
    hosts: &'a BTreeMap<HostName, HostState>,
    host: &HostName,
    guest: Uuid,
) -> Option<(u64, &'a Arc<DomainFacts>)> {
    let state = hosts.get(host)?;
    Some((state.revision, state.domains.get(&guest)?))
}

fn same_object(one: Option<&Arc<Guest>>, other: Option<&Arc<Guest>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

impl Origin {
    fn of(
        entry: &Entry,
        guest: Uuid,
        hosts: &BTreeMap<HostName, HostState>,
        stray: Option<&Stray>,
    ) -> Self {
        let copies = entry.hosts.iter().map(|host| {
            let (revision, facts) = copy(hosts, host, guest)?;
            Some((revision, facts.clone()))
        });
        Self {
            copies: copies.collect(),
            entry: entry.clone(),
            stray: stray.cloned(),
        }
    }

    fn is(
        &self,
        entry: &Entry,
        guest: Uuid,
        hosts: &BTreeMap<HostName, HostState>,
        stray: Option<&Stray>,
    ) -> bool {
        self.entry.settling == entry.settling
            && self.stray.as_ref() == stray
            && same_object(self.entry.declared.as_ref(), entry.declared.as_ref())
            && self.entry.name == entry.name
            && self.entry.hosts == entry.hosts
            && entry.hosts.iter().zip(&self.copies).all(|(host, own)| {
                match (own, copy(hosts, host, guest)) {
                    (Some((own_revision, own)), Some((revision, facts))) => {
                        *own_revision == revision && Arc::ptr_eq(own, facts)
                    }
                    (None, None) => true,
                    _ => false,
                }
            })
    }
}

impl Shown {
    /// Forgets everything where other profiles apply now.
    pub(super) fn under(&mut self, profiles: &BTreeMap<String, Arc<MigrationProfile>>) {
        let same = self.profiles.len() == profiles.len()
            && self
                .profiles
                .iter()
                .zip(profiles)
                .all(|(own, other)| own.0 == other.0 && Arc::ptr_eq(own.1, other.1));
        if !same {
            self.guests.clear();
            self.profiles.clone_from(profiles);
        }
    }

    /// A guest as it was shown, where it would be shown the same.
    pub(super) fn of(
        &self,
        guest: Uuid,
        entry: &Entry,
        hosts: &BTreeMap<HostName, HostState>,
        stray: Option<&Stray>,
    ) -> Option<&Arc<GuestView>> {
        let (origin, shown) = self.guests.get(&guest)?;
        origin.is(entry, guest, hosts, stray).then_some(shown)
    }

    /// Keeps what is shown now.
    pub(super) fn keep(
        &mut self,
        guest: Uuid,
        entry: &Entry,
        hosts: &BTreeMap<HostName, HostState>,
        stray: Option<&Stray>,
        shown: &Arc<GuestView>,
    ) {
        let origin = Origin::of(entry, guest, hosts, stray);
        self.guests.insert(guest, (origin, shown.clone()));
    }

    /// The next one is made anew.
    pub(super) fn forget(&mut self, guest: Uuid) {
        self.guests.remove(&guest);
    }

    /// Forgets guests that are no more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Uuid) -> bool) {
        self.guests.retain(|guest, _| is_there(guest));
    }
}
