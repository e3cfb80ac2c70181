//! Placement rules: each divides the hosts into domains and says how the guests of its group may lie in them.
//!
//! What one says, when a move would break it and how that is told is a [`Law`], in a file of its own below; a new one is a
//! new file, and its place in [`laws`]. What binds all the time is kept by every move ([`forbids`]): a rule may be broken
//! from before, but no move breaks it further. What is broken is found by [`broken`], so that guests are asked to go where
//! they belong.

mod apart;
mod belong;
mod spread;
mod together;

use std::collections::{BTreeMap, HashMap};

use evenkeel_crds::shared::RequestedBy;

use crate::board::Board;
use crate::counts::Counts;
use crate::explain::who;
use crate::model::{Fleet, GuestId, HOST_KEY, HostId, Placement, What, Wish};
use crate::view::View;

/// In the place of a domain: the host is not eligible.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// What a rule says of its domains.
pub(crate) trait Law: Send + Sync {
    /// Whether a running guest's step would break it, or break it further.
    fn forbids(&self, case: &Case<'_, '_>, step: &Step) -> bool;

    /// Whether it is broken by a guest's being in the domain, which is planned.
    fn is_broken(&self, case: &Case<'_, '_>, domain: usize) -> bool;

    /// Whether a guest whose move is given up can stay at home in the domain, whatever has been placed there meanwhile.
    fn may_stay(&self, case: &Case<'_, '_>, home: usize) -> bool {
        !self.is_broken(case, home)
    }

    /// What it has against the guest in the domain.
    fn says(&self, told: &Told<'_, '_, '_>) -> String;

    /// Whether its guests are to be in one place, so that where the first of them goes decides about all.
    fn unites(&self) -> bool {
        false
    }

    /// Whether a guest that leaves a domain may make another welcome there.
    fn frees(&self) -> bool {
        false
    }

    /// Whether what it says of one domain depends on all others.
    fn compares(&self) -> bool {
        false
    }
}

/// The laws of a placement, and the label by whose values each divides hosts; none where the eligible ones are one domain.
fn laws(placement: &Placement) -> Vec<(Box<dyn Law>, Option<&str>)> {
    let mut laws: Vec<(Box<dyn Law>, Option<&str>)> = Vec::new();
    if placement.hosts.is_some() {
        laws.push((Box::new(belong::Belong), None));
    }
    if let Some(spread) = &placement.spread {
        let law = spread::Spread {
            most: spread.max_skew.into(),
        };
        laws.push((Box::new(law), Some(&spread.topology_key)));
    }
    if let Some(key) = &placement.apart {
        laws.push((Box::new(apart::Apart), Some(key)));
    }
    if let Some(key) = &placement.together {
        laws.push((Box::new(together::Together), Some(key)));
    }
    laws
}

/// A rule as things are.
pub(crate) struct Case<'c, 'a> {
    pub(crate) rule: &'c Rule<'a>,
    index: usize,
    counts: &'c Counts,
}

impl Case<'_, '_> {
    /// Its guests in the domain, moves counted at both ends.
    fn present(&self, domain: usize) -> i64 {
        self.counts.present(self.index, domain)
    }

    /// Its guests in the domain once all moves have ended.
    fn planned(&self, domain: usize) -> i64 {
        self.counts.planned(self.index, domain)
    }

    /// Where its guests come together.
    fn anchor(&self) -> Option<usize> {
        self.counts.anchor(self.index)
    }

    /// Whether they were found not to have room together in the domain.
    fn is_shut(&self, domain: usize) -> bool {
        self.counts.shut(self.index, domain)
    }
}

/// A guest's step from a host to another, as a rule sees it.
pub(crate) struct Step {
    /// The domain from which; absent where that host is not eligible.
    source: Option<usize>,
    target: usize,
    /// Whether it is counted at its source no more.
    gone: bool,
    /// What is planned to leave is gone.
    later: bool,
    strictness: Strictness,
}

impl Step {
    /// Guests in the domain once all moves have ended: each once, without this one.
    fn others(&self, case: &Case<'_, '_>, domain: usize) -> i64 {
        let counted = !self.gone && self.source == Some(domain);
        case.planned(domain) - i64::from(counted)
    }
}

/// What is needed to tell of a guest in a domain.
pub(crate) struct Told<'t, 'v, 'a> {
    board: &'t Board<'v, 'a>,
    case: Case<'t, 'a>,
    guest: GuestId,
    host: HostId,
    domain: usize,
}

impl Told<'_, '_, '_> {
    fn by(&self) -> String {
        who(self.case.rule.by)
    }

    fn guest(&self) -> &str {
        &self.board.view.guest(self.guest).name
    }

    fn host(&self) -> &str {
        &self.board.view.host(self.host).name
    }

    /// The domain in words.
    fn place(&self, domain: usize) -> String {
        let name = self.case.rule.names[domain];
        match self.case.rule.key {
            None | Some(HOST_KEY) => name.to_owned(),
            Some(key) => format!("{key} {name}"),
        }
    }
}

/// One rule of a placement.
pub(crate) struct Rule<'a> {
    pub(crate) by: &'a RequestedBy,
    pub(crate) required: bool,
    pub(crate) law: Box<dyn Law>,
    /// The label whose values are the domains.
    key: Option<&'a str>,
    /// Guests it is about.
    pub(crate) members: Vec<GuestId>,
    /// For each host its domain, or [`NOWHERE`].
    domain: Vec<u32>,
    /// The domains' names.
    pub(crate) names: Vec<&'a str>,
    /// For each domain whether a host of it takes guests at all.
    pub(crate) open: Vec<bool>,
}

impl<'a> Rule<'a> {
    fn case<'c>(&'c self, index: usize, counts: &'c Counts) -> Case<'c, 'a> {
        Case {
            rule: self,
            index,
            counts,
        }
    }

    /// The host's domain; absent where the host is not eligible.
    pub(crate) fn domain(&self, host: HostId) -> Option<usize> {
        let domain = self.domain[host.at()];
        (domain != NOWHERE).then_some(domain as usize)
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
            for (law, key) in laws(placement) {
                rules.add(fleet, by, placement, law, key, open);
            }
        }
        rules
    }

    fn add(
        &mut self,
        fleet: &'a Fleet,
        by: &'a RequestedBy,
        placement: &'a Placement,
        law: Box<dyn Law>,
        key: Option<&'a str>,
        open: &dyn Fn(HostId) -> bool,
    ) {
        let mut rule = Rule {
            by,
            required: placement.required,
            law,
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
            let name = key.map_or(Some(""), |key| host.topology(key));
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
        let step = Step {
            source,
            target,
            gone: from == facts.host && counts.departed(guest),
            later,
            strictness,
        };
        rule.law.forbids(&rule.case(index, counts), &step)
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
        rule.law.may_stay(&rule.case(index, counts), home)
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
    rule.law.is_broken(&rule.case(index, counts), domain)
}

/// What a rule has against the guest on the host.
pub(crate) fn sentence(
    board: &Board<'_, '_>,
    guest: GuestId,
    host: HostId,
    index: usize,
) -> String {
    let rule = &board.view.rules.all[index];
    let facts = board.view.host(host);
    let Some(domain) = rule.domain(host) else {
        let (by, name) = (who(rule.by), &facts.name);
        let guest = &board.view.guest(guest).name;
        return match rule.key.filter(|key| facts.topology(key).is_none()) {
            None => format!("{guest} belongs on the hosts of {by}, and {name} is none of them"),
            Some(key) => format!(
                "{guest} belongs on hosts with the label {key} by {by}, and {name} has none"
            ),
        };
    };
    rule.law.says(&Told {
        board,
        case: rule.case(index, &board.counts),
        guest,
        host,
        domain,
    })
}
