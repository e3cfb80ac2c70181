//! How many guests of each rule's group lie in each domain: those that are there, those on their way, those that leave.

use std::collections::BTreeSet;

use crate::model::{Guest, GuestId, HostId};
use crate::view::View;

/// Counters by rule and domain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    /// Guests that are there, moves in flight counted at both ends.
    held: Vec<Vec<i64>>,
    /// Guests planned to leave, or leaving.
    leaving: Vec<Vec<i64>>,
    /// Guests that arrive, where the rule keeps them together.
    arriving: Vec<Vec<i64>>,
    /// Where the guests that stay are, where the rule keeps them together.
    stay: Vec<Option<usize>>,
    /// Domains that have not held a group that has to stay together.
    shut: BTreeSet<(usize, usize)>,
    departed: BTreeSet<GuestId>,
}

impl Counts {
    /// What is counted now. `moved` are the guests that are asked to leave their hosts.
    pub(crate) fn new(view: &View<'_>, moved: &BTreeSet<GuestId>) -> Self {
        let mut counts = Self::default();
        for rule in &view.rules.all {
            let mut held = vec![0; rule.names.len()];
            let mut staying = vec![(0i64, 0u128); rule.names.len()];
            for id in &rule.members {
                let guest = view.guest(*id);
                if let (true, Some(domain)) = (guest.active, rule.domain(guest.host)) {
                    held[domain] += 1;
                    if !moved.contains(id) && !view.flies(*id) {
                        staying[domain].0 += 1;
                        staying[domain].1 += weight(guest);
                    }
                }
            }
            // Where most are; of equals where what would have to come is less; then the first.
            let most = staying
                .iter()
                .max()
                .copied()
                .filter(|(guests, _)| *guests > 0);
            let stay = most.and_then(|most| staying.iter().position(|here| *here == most));
            counts.stay.push(stay.filter(|_| rule.law.unites()));
            counts.leaving.push(vec![0; held.len()]);
            counts.arriving.push(vec![0; held.len()]);
            counts.held.push(held);
        }
        for flight in &view.ledger.in_flight {
            // Where its host counts it already, nothing of it is left at the source.
            if view.guest(flight.guest).host != flight.target {
                counts.arrive(view, flight.guest, flight.target, 1);
                counts.leave(view, flight.guest, 1);
            }
        }
        counts
    }

    /// The guest is on its way to the host (1), or no longer (-1).
    pub(crate) fn arrive(&mut self, view: &View<'_>, guest: GuestId, host: HostId, sign: i64) {
        if view.guest(guest).active {
            for (index, rule) in view.rules.of(guest) {
                if let Some(domain) = rule.domain(host) {
                    self.held[index][domain] += sign;
                    self.arriving[index][domain] += sign;
                }
            }
        }
    }

    /// The guest is planned to leave its host (1), or no longer (-1).
    pub(crate) fn leave(&mut self, view: &View<'_>, guest: GuestId, sign: i64) {
        if !view.guest(guest).active || !view.rules.any(guest) {
            return;
        }
        for (index, rule) in view.rules.of(guest) {
            if let Some(domain) = rule.domain(view.guest(guest).host) {
                self.leaving[index][domain] += sign;
            }
        }
        if sign > 0 {
            self.departed.insert(guest);
        } else {
            self.departed.remove(&guest);
        }
    }

    /// The guest has left its host (1), or has not after all (-1).
    pub(crate) fn left(&mut self, view: &View<'_>, guest: GuestId, sign: i64) {
        if view.guest(guest).active {
            for (index, rule) in view.rules.of(guest) {
                if let Some(domain) = rule.domain(view.guest(guest).host) {
                    self.leaving[index][domain] -= sign;
                    self.held[index][domain] -= sign;
                }
            }
        }
    }

    /// The guest is about to go on from the host where it has stopped over.
    pub(crate) fn goes_on(&mut self, view: &View<'_>, guest: GuestId, host: HostId) {
        self.leaves_stop(view, guest, host, 1);
    }

    /// It has gone on.
    pub(crate) fn gone_on(&mut self, view: &View<'_>, guest: GuestId, host: HostId) {
        self.leaves_stop(view, guest, host, -1);
        self.arrive(view, guest, host, -1);
    }

    fn leaves_stop(&mut self, view: &View<'_>, guest: GuestId, host: HostId, sign: i64) {
        if view.guest(guest).active {
            for (index, rule) in view.rules.of(guest) {
                if let Some(domain) = rule.domain(host) {
                    self.leaving[index][domain] += sign;
                }
            }
        }
    }

    /// Whether the guest's leaving is counted.
    pub(crate) fn departed(&self, guest: GuestId) -> bool {
        self.departed.contains(&guest)
    }

    /// Guests of the rule in the domain, moves counted at both ends.
    pub(crate) fn present(&self, rule: usize, domain: usize) -> i64 {
        self.held[rule][domain]
    }

    /// Guests of the rule in the domain once all moves have ended.
    pub(crate) fn planned(&self, rule: usize, domain: usize) -> i64 {
        self.held[rule][domain] - self.leaving[rule][domain]
    }

    /// Guests of the rule that leave the domain.
    pub(crate) fn leaves(&self, rule: usize, domain: usize) -> bool {
        self.leaving[rule][domain] > 0
    }

    /// Where the rule's guests come together: where those are that stay, else where the first goes.
    pub(crate) fn anchor(&self, rule: usize) -> Option<usize> {
        self.stay[rule].or_else(|| {
            let arriving = self.arriving[rule].iter().enumerate();
            let (domain, guests) =
                arriving.max_by_key(|(domain, guests)| (**guests, usize::MAX - domain))?;
            (*guests > 0).then_some(domain)
        })
    }

    /// Whether guests of the rule stay where they are.
    pub(crate) fn stays(&self, rule: usize) -> bool {
        self.stay[rule].is_some()
    }

    /// Whether the rule's guests were found not to have room together in the domain.
    pub(crate) fn shut(&self, rule: usize, domain: usize) -> bool {
        self.shut.contains(&(rule, domain))
    }

    /// Notes that they have not.
    pub(crate) fn shut_out(&mut self, rule: usize, domain: usize) {
        self.shut.insert((rule, domain));
    }
}

/// What it would take to move the guest.
fn weight(guest: &Guest) -> u128 {
    let disks = guest.disks.iter();
    let disks: u128 = disks.map(|disk| u128::from(disk.allocated.0)).sum();
    u128::from(guest.memory.0) + disks
}
