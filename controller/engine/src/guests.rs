//! Which guests there are: the domains of all hosts brought together by UUID, their names, and the manifests that
//! bind to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_crds::{
    Guest,
    names::{GuestName, HostName},
    reason::{Cause, Reason},
};
use uuid::Uuid;

use crate::{
    capacity::without_journals,
    hosts::{HostState, Link},
    port::{Activity, DomainFacts, Why},
};

/// All guests, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    pub(crate) by_uuid: BTreeMap<Uuid, Entry>,
    by_name: BTreeMap<GuestName, Uuid>,
    /// Manifests that bind to no domain, each with the cause.
    pub(crate) unbound: BTreeMap<GuestName, (Arc<Guest>, Cause)>,
}

/// A guest.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: GuestName,
    pub(crate) declared: Option<Arc<Guest>>,
    /// Hosts that have a copy, those that do not answer included.
    pub(crate) hosts: Vec<HostName>,
    /// Whether it has been on several hosts for too short a time to say that it is: what hosts tell of the end of a
    /// migration comes at different times.
    pub(crate) settling: bool,
}

impl Guests {
    /// The guest of that object name or UUID.
    pub(crate) fn find(&self, word: &str) -> Option<(Uuid, &Entry)> {
        let by_name = self.by_name.get(word).copied();
        let uuid = by_name.or_else(|| Uuid::parse_str(word).ok())?;
        self.by_uuid.get(&uuid).map(|entry| (uuid, entry))
    }

    /// Brings the domains of all hosts and the declared guests together.
    pub(crate) fn collect(
        hosts: &BTreeMap<HostName, HostState>,
        declared: &BTreeMap<String, Arc<Guest>>,
    ) -> Self {
        let mut copies: BTreeMap<Uuid, Vec<HostName>> = BTreeMap::new();
        let mut domains: BTreeMap<&str, BTreeSet<Uuid>> = BTreeMap::new();
        for (host, state) in hosts
            .iter()
            .filter(|(_, state)| state.duplicate_of.is_none())
        {
            for (uuid, domain) in &state.domains {
                copies.entry(*uuid).or_default().push(host.clone());
                domains.entry(&domain.name).or_default().insert(*uuid);
            }
        }
        let mut bound: BTreeMap<Uuid, (GuestName, Arc<Guest>)> = BTreeMap::new();
        let mut unbound = BTreeMap::new();
        // Those with a UUID first: a name binds only to a domain that nobody claimed by UUID.
        let (with, without): (Vec<_>, Vec<_>) = declared
            .iter()
            .partition(|(_, guest)| guest.spec.uuid.is_some());
        for (name, guest) in with.into_iter().chain(without) {
            match bind(name, guest, &copies, &domains, &bound) {
                Ok(uuid) => {
                    bound.insert(uuid, (name.as_str().into(), guest.clone()));
                }
                Err(cause) => {
                    unbound.insert(name.as_str().into(), (guest.clone(), cause));
                }
            }
        }
        let taken: BTreeSet<&str> = declared.keys().map(String::as_str).collect();
        let mut guests = Self {
            unbound,
            ..Self::default()
        };
        for (uuid, hosts_with_it) in copies {
            let (name, declared) = match bound.remove(&uuid) {
                Some((name, guest)) => (name, Some(guest)),
                None => {
                    let domain = hosts_with_it
                        .first()
                        .and_then(|host| hosts[host].domains.get(&uuid))
                        .map_or("", |domain| domain.name.as_str());
                    let alone = domains.get(domain).is_some_and(|all| all.len() == 1);
                    (
                        object_name(domain, uuid, alone && !taken.contains(domain)),
                        None,
                    )
                }
            };
            guests.by_name.insert(name.clone(), uuid);
            guests.by_uuid.insert(
                uuid,
                Entry {
                    name,
                    declared,
                    hosts: hosts_with_it,
                    settling: false,
                },
            );
        }
        guests
    }
}

fn bind(
    name: &str,
    guest: &Guest,
    copies: &BTreeMap<Uuid, Vec<HostName>>,
    domains: &BTreeMap<&str, BTreeSet<Uuid>>,
    bound: &BTreeMap<Uuid, (GuestName, Arc<Guest>)>,
) -> Result<Uuid, Cause> {
    let not_found = |message: String| Err(Cause::new(Reason::GuestNotFound, message));
    if let Some(text) = &guest.spec.uuid {
        let found = Uuid::parse_str(text)
            .ok()
            .filter(|uuid| copies.contains_key(uuid));
        return match found {
            Some(uuid) => match bound.get(&uuid) {
                Some((other, _)) => not_found(format!(
                    "the domain of UUID {uuid} is bound to Guest {other} already"
                )),
                None => Ok(uuid),
            },
            None => not_found(format!("no host has a domain of UUID {text}")),
        };
    }
    let domain = guest.spec.domain.as_deref().unwrap_or(name);
    let free: Vec<Uuid> = domains
        .get(domain)
        .into_iter()
        .flatten()
        .filter(|uuid| !bound.contains_key(uuid))
        .copied()
        .collect();
    match free.as_slice() {
        [uuid] => Ok(*uuid),
        [] => not_found(format!("no host has a domain named {domain}")),
        several => not_found(format!(
            "{} domains are named {domain}: give `spec.uuid`",
            several.len()
        )),
    }
}

/// The name of a guest's object: a function of the fleet, not of the order in which domains were found.
fn object_name(domain: &str, uuid: Uuid, alone: bool) -> GuestName {
    if alone && is_object_name(domain) {
        return domain.into();
    }
    let slug: String = domain
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(50)
        .collect();
    let slug = slug.trim_matches('-');
    let short = &uuid.simple().to_string()[..8];
    if slug.is_empty() {
        format!("guest-{short}").into()
    } else {
        format!("{slug}-{short}").into()
    }
}

/// Whether Kubernetes takes it for an object's name: a DNS subdomain.
pub(crate) fn is_object_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// Where a guest is, from all its copies.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    /// The host that has it: the one where it executes, else where it is defined.
    pub(crate) host: HostName,
    /// As that host tells.
    pub(crate) facts: &'a DomainFacts,
    /// Whether that host answers now.
    pub(crate) known: bool,
    /// Why there is more than one, where that is not a migration under way.
    pub(crate) double: Option<Cause>,
    /// A migration that is not ours: source and target, where both are seen.
    pub(crate) foreign: Option<(HostName, HostName)>,
    /// Why its host takes part in no move.
    pub(crate) apart: Option<Cause>,
}

/// Whether this copy is one that a migration is only just bringing.
pub(crate) fn incoming(facts: &DomainFacts) -> bool {
    facts.activity == Activity::Paused
        && matches!(facts.why, Why::Migrating | Why::StartingUp)
        && !facts.job
}

/// Where the guest is. `ours` names source and target of a move of ours under way, and whether it has arrived.
pub(crate) fn place<'a>(
    entry: &Entry,
    uuid: Uuid,
    hosts: &'a BTreeMap<HostName, HostState>,
    ours: Option<(&HostName, &HostName, bool)>,
) -> Option<Place<'a>> {
    let copies: Vec<(&HostName, &'a DomainFacts, bool)> = entry
        .hosts
        .iter()
        .filter_map(|host| {
            let (name, state) = hosts.get_key_value(host)?;
            Some((name, &**state.domains.get(&uuid)?, state.link == Link::Up))
        })
        .collect();
    let wanted = ours.map(|(source, target, arrived)| if arrived { target } else { source });
    let rank = |(host, facts, known): &(&HostName, &DomainFacts, bool)| {
        (
            wanted == Some(*host),
            *known,
            facts.activity == Activity::Running,
            facts.activity.active() && !incoming(facts),
            facts.activity.active(),
        )
    };
    let best = copies.iter().rev().max_by_key(|copy| rank(copy))?;
    let mut double = None;
    let mut foreign = None;
    if ours.is_none() && copies.len() > 1 {
        let running: Vec<&str> = copies
            .iter()
            .filter(|(_, facts, _)| facts.activity == Activity::Running)
            .map(|(host, ..)| host.as_str())
            .collect();
        let leaving = copies.iter().find(|(_, facts, _)| facts.job);
        let arriving = copies.iter().find(|(_, facts, _)| incoming(facts));
        if let (Some((source, ..)), Some((target, ..))) = (leaving, arriving) {
            foreign = Some(((*source).clone(), (*target).clone()));
        } else if entry.settling {
            // Said soon, if it is still so.
        } else if running.len() > 1 && leaving.is_none() {
            double = Some(Cause::new(
                Reason::RunsTwice,
                format!("{} runs on {}", entry.name, running.join(" and on ")),
            ));
        } else if leaving.is_none() && arriving.is_none() {
            let all: Vec<&str> = copies.iter().map(|(host, ..)| host.as_str()).collect();
            double = Some(Cause::new(
                Reason::DefinedTwice,
                format!("{} is defined on {}", entry.name, all.join(" and on ")),
            ));
        }
    }
    let told = hosts[best.0].facts.as_ref();
    Some(Place {
        host: best.0.clone(),
        facts: best.1,
        known: best.2,
        double,
        foreign,
        apart: told.and_then(|facts| without_journals(best.0, facts)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_function_of_the_fleet() {
        let uuid = Uuid::from_u128(0x1234_5678 << 96);
        assert_eq!(object_name("web-1", uuid, true).as_str(), "web-1");
        assert_eq!(object_name("web-1", uuid, false).as_str(), "web-1-12345678");
        assert_eq!(object_name("Web 1!", uuid, true).as_str(), "web-1-12345678");
        assert_eq!(object_name("äöü", uuid, true).as_str(), "guest-12345678");
        for name in ["web-1", "a.b", "0"] {
            assert!(is_object_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a..b", "a_b", "a/b"] {
            assert!(!is_object_name(name), "{name}");
        }
    }
}
