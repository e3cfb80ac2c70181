//! Placement rules as values of one small type: each divides the hosts into domains and says how the guests of its
//! group may lie in them.
//!
//! What binds all the time is kept by every move ([`forbids`]): a rule may be broken from before, but no move breaks it
//! further. What is broken is found by [`broken`], so that guests are asked to go where they belong.

use std::collections::{BTreeMap, HashMap};

use evenkeel_crds::shared::RequestedBy;

use crate::counts::Counts;
use crate::model::{Fleet, GuestId, HostId, Placement, What, Wish};
use crate::view::View;

/// In the place of a domain: the host is not eligible.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// What a rule says of its domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Guests belong on eligible hosts.
    Hosts,
    /// No domain has so many guests more than another.
    Spread(u32),
    /// No domain has two of the guests.
    Apart,
    /// All guests are in one domain.
    Together,
}

/// One rule of a placement.
pub(crate) struct Rule<'a> {
    pub(crate) by: &'a RequestedBy,
    pub(crate) required: bool,
    pub(crate) kind: Kind,
    /// The label whose values are the domains; none for [`Kind::Hosts`].
    pub(crate) key: &'a str,
    /// Guests it is about.
    pub(crate) members: Vec<GuestId>,
    /// For each host its domain, or [`NOWHERE`].
    domain: Vec<u32>,
    /// The domains' names.
    pub(crate) names: Vec<&'a str>,
    /// For each domain whether a host of it takes guests at all.
    pub(crate) open: Vec<bool>,
}

impl Rule<'_> {
    /// The host's domain; absent where the host is not eligible.
    pub(crate) fn domain(&self, host: HostId) -> Option<usize> {
        let domain = self.domain[host.at()];
        (domain != NOWHERE).then_some(domain as usize)
    }

    /// How many guests the fullest domain has more than the emptiest of those that take guests.
    fn skew(&self, count: impl Fn(usize) -> i64) -> i64 {
        let all = 0..self.names.len();
        let most = all.clone().map(&count).max().unwrap_or(0);
        let least = all.filter(|domain| self.open[*domain]).map(&count).min();
        most - least.unwrap_or(most)
    }
}

/// All rules, and which of them each guest is under.
#[derive(Default)]
pub(crate) struct Rules<'a> {
    pub(crate) all: Vec<Rule<'a>>,
    of: HashMap<GuestId, Vec<usize>>,
}

impl<'a> Rules<'a> {
    /// The rules of all placements; `open` says which hosts take guests.
    pub(crate) fn new(fleet: &'a Fleet, wishes: &'a [Wish], open: &dyn Fn(HostId) -> bool) -> Self {
        let mut rules = Self::default();
        let mut placements: Vec<(&RequestedBy, &Placement)> = wishes
            .iter()
            .filter_map(|wish| match &wish.what {
                What::Place(placement) => Some((&wish.by, placement)),
                What::Move { .. } | What::Drain { .. } | What::Balance(_) => None,
            })
            .collect();
        placements.sort_by_key(|(by, _)| *by);
        for (by, placement) in placements {
            for (kind, key) in kinds(placement) {
                rules.add(fleet, by, placement, kind, key, open);
            }
        }
        rules
    }

    fn add(
        &mut self,
        fleet: &'a Fleet,
        by: &'a RequestedBy,
        placement: &'a Placement,
        kind: Kind,
        key: &'a str,
        open: &dyn Fn(HostId) -> bool,
    ) {
        let mut rule = Rule {
            by,
            required: placement.required,
            kind,
            key,
            members: placement.guests.iter().copied().collect(),
            domain: vec![NOWHERE; fleet.hosts.len()],
            names: Vec::new(),
            open: Vec::new(),
        };
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        for (host, id) in fleet.hosts.iter().zip((0..).map(HostId)) {
            let eligible = placement
                .hosts
                .as_ref()
                .is_none_or(|hosts| hosts.contains(&id));
            let name = match kind {
                Kind::Hosts => Some(""),
                _ => host.topology(key),
            };
            let (true, Some(name)) = (eligible, name) else {
                continue;
            };
            let number = *numbers.entry(name).or_insert_with(|| {
                rule.names.push(name);
                rule.open.push(false);
                rule.names.len() as u32 - 1
            });
            rule.domain[id.at()] = number;
            rule.open[number as usize] |= open(id);
        }
        for guest in &rule.members {
            self.of.entry(*guest).or_default().push(self.all.len());
        }
        self.all.push(rule);
    }

    /// The rules that the guest is under.
    pub(crate) fn of(&self, guest: GuestId) -> impl Iterator<Item = (usize, &Rule<'a>)> {
        let own = if self.of.is_empty() {
            None
        } else {
            self.of.get(&guest)
        };
        let own = own.map_or(&[][..], Vec::as_slice).iter();
        own.map(|index| (*index, &self.all[*index]))
    }

    /// Whether there is any rule for the guest.
    pub(crate) fn any(&self, guest: GuestId) -> bool {
        !self.of.is_empty() && self.of.contains_key(&guest)
    }

    /// Whether a rule that is only preferred is about the guest.
    pub(crate) fn prefers(&self, guest: GuestId) -> bool {
        self.of(guest).any(|(_, rule)| !rule.required)
    }
}

fn kinds(placement: &Placement) -> impl Iterator<Item = (Kind, &str)> {
    let hosts = placement.hosts.is_some().then_some((Kind::Hosts, ""));
    let spread = placement.spread.as_ref();
    let spread = spread.map(|spread| (Kind::Spread(spread.max_skew), spread.topology_key.as_str()));
    let apart = placement.apart.as_deref().map(|key| (Kind::Apart, key));
    let together = placement
        .together
        .as_deref()
        .map(|key| (Kind::Together, key));
    hosts.into_iter().chain(spread).chain(apart).chain(together)
}

/// How strictly rules are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Strictness {
    /// Preferred ones bind too.
    pub(crate) preferred: bool,
    /// What is broken has to be mended by the move.
    pub(crate) mends: bool,
    /// It only stops over: what it breaks already it may go on breaking there.
    pub(crate) passes: bool,
}

/// The first rule that the guest's going from the one host, where it is, to the other would break, or break further.
///
/// `later`: what is planned to leave is gone. A guest in flight counts at both ends for `apart`, and at its target for
/// the others.
pub(crate) fn forbids(
    view: &View<'_>,
    counts: &Counts,
    guest: GuestId,
    (from, host): (HostId, HostId),
    later: bool,
    strictness: Strictness,
) -> Option<usize> {
    let facts = view.guest(guest);
    let broken = |index: usize, rule: &Rule<'_>| {
        if !rule.required && !strictness.preferred {
            return false;
        }
        let source = rule.domain(from);
        let Some(target) = rule.domain(host) else {
            return !strictness.passes || source.is_some();
        };
        if !facts.active {
            return false;
        }
        let gone = from == facts.host && counts.departed(guest);
        let counted = |domain: usize| !gone && source == Some(domain);
        // Each guest once, without this one.
        let others = |domain: usize| counts.planned(index, domain) - i64::from(counted(domain));
        match rule.kind {
            Kind::Hosts => false,
            Kind::Apart => {
                let there = if later {
                    others(target)
                } else {
                    counts.present(index, target) - i64::from(source == Some(target))
                };
                there > 0 && (strictness.mends || source != Some(target))
            }
            Kind::Spread(most) => {
                let after = rule.skew(|domain| others(domain) + i64::from(domain == target));
                let before = rule.skew(|domain| others(domain) + i64::from(source == Some(domain)));
                if strictness.mends {
                    let least = (0..rule.names.len()).filter(|domain| rule.open[*domain]);
                    let least = least.map(others).min().unwrap_or(0);
                    return others(target) + 1 - least > i64::from(most);
                }
                source != Some(target) && after > before.max(i64::from(most))
            }
            Kind::Together => {
                let elsewhere = counts.anchor(index).is_some_and(|anchor| anchor != target);
                let stays = source == Some(target) && !strictness.mends;
                // It is not with the others, and comes to them by the next move.
                let comes = strictness.passes && counts.anchor(index) != source;
                (elsewhere || counts.shut(index, target)) && !stays && !comes
            }
        }
    };
    let mut rules = view.rules.of(guest);
    rules
        .find(|(index, rule)| broken(*index, rule))
        .map(|(index, _)| index)
}

/// Whether a guest whose move is given up can stay at its host, whatever has been placed there meanwhile.
pub(crate) fn may_stay(view: &View<'_>, counts: &Counts, guest: GuestId) -> bool {
    let facts = view.guest(guest);
    let stays = |(index, rule): (usize, &Rule<'_>)| {
        let Some(home) = rule.domain(facts.host) else {
            return true;
        };
        match rule.kind {
            Kind::Hosts => true,
            Kind::Apart => counts.planned(index, home) <= 1,
            Kind::Spread(most) => {
                rule.skew(|domain| counts.planned(index, domain)) <= i64::from(most)
            }
            Kind::Together => counts.anchor(index).is_none_or(|anchor| anchor == home),
        }
    };
    !facts.active || view.rules.of(guest).all(stays)
}

/// Whether the rule is broken by where the guest is, or is planned to be.
pub(crate) fn broken(
    view: &View<'_>,
    counts: &Counts,
    index: usize,
    guest: GuestId,
    host: HostId,
) -> bool {
    let rule = &view.rules.all[index];
    if !view.guest(guest).active {
        return false;
    }
    let Some(domain) = rule.domain(host) else {
        return true;
    };
    let count = |domain| counts.planned(index, domain);
    match rule.kind {
        Kind::Hosts => false,
        Kind::Apart => count(domain) > 1,
        Kind::Spread(most) => {
            let least = (0..rule.names.len()).filter(|domain| rule.open[*domain]);
            let least = least.map(count).min();
            least.is_some_and(|least| count(domain) - least > i64::from(most))
        }
        Kind::Together => counts.anchor(index).is_some_and(|anchor| anchor != domain),
    }
}
