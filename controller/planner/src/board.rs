//! The board on which moves are placed: who goes where so far, and what that leaves.

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;

use crate::bytes::{rate, travels};
use crate::capacity::{Room, When};
use crate::fit::{Refusal, fits};
use crate::model::{GuestId, HostId};
use crate::view::View;
use crate::wishes::Ask;

/// Guests that may not go to a host because the move would be part of a ring, with the sentence that says so.
pub(crate) type Banned = BTreeMap<(GuestId, HostId), String>;

/// Where an ask's guest goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) target: HostId,
    /// For each disk its pool at the target.
    pub(crate) pools: Vec<usize>,
}

/// Asks, and where they are placed.
#[derive(Clone)]
pub(crate) struct Board<'v, 'a> {
    pub(crate) view: &'v View<'a>,
    pub(crate) banned: &'v Banned,
    pub(crate) room: Room,
    /// For each ask its place.
    pub(crate) placed: Vec<Option<Placed>>,
    /// For each host the asks that go there.
    pub(crate) into: Vec<Vec<usize>>,
    /// For each host the bytes that travel there, by the plan.
    pub(crate) load: Vec<u128>,
    /// For each host the guests that are planned to leave it, or are leaving.
    departing: Vec<u32>,
    /// Guests placed, and by which ask.
    moving: BTreeMap<GuestId, usize>,
    /// Domain names that arrive, where they matter.
    arriving: BTreeMap<(HostId, &'a str), Vec<GuestId>>,
}

impl<'v, 'a> Board<'v, 'a> {
    /// An empty board for so many asks.
    pub(crate) fn new(view: &'v View<'a>, banned: &'v Banned, asks: usize) -> Self {
        let hosts = view.fleet.hosts.len();
        let mut board = Self {
            view,
            banned,
            room: Room::new(view.fleet, &view.layout, view.ledger),
            placed: vec![None; asks],
            into: vec![Vec::new(); hosts],
            load: vec![0; hosts],
            departing: view.outbound.clone(),
            moving: BTreeMap::new(),
            arriving: BTreeMap::new(),
        };
        for flight in &view.ledger.in_flight {
            board.arrives(flight.guest, flight.target);
        }
        board
    }

    fn arrives(&mut self, guest: GuestId, host: HostId) {
        if self.view.has_namesake(guest) {
            let domain = self.view.guest(guest).domain.as_str();
            self.arriving.entry((host, domain)).or_default().push(guest);
        }
    }

    /// Whether another guest of the same domain name is on its way to the host.
    pub(crate) fn namesake(&self, guest: GuestId, host: HostId) -> Option<Refusal> {
        if !self.view.has_namesake(guest) {
            return None;
        }
        let domain = self.view.guest(guest).domain.as_str();
        let others = self.arriving.get(&(host, domain))?;
        others
            .iter()
            .any(|other| *other != guest)
            .then_some(Refusal::NameTaken)
    }

    /// The ask by which a guest is placed.
    pub(crate) fn mover(&self, guest: GuestId) -> Option<usize> {
        self.moving.get(&guest).copied()
    }

    /// How many guests are placed.
    pub(crate) fn moves(&self) -> usize {
        self.moving.len()
    }

    /// How the ask's guest could be placed at the host, if at all: at once if possible, else later.
    pub(crate) fn way(
        &self,
        ask: &Ask<'_>,
        host: HostId,
        scratch: &mut Vec<usize>,
    ) -> Option<When> {
        if fits(self, ask, host, When::Now, scratch, &mut |_| false) {
            return Some(When::Now);
        }
        // A host that nothing leaves has no more room later.
        if self.departing[host.at()] == 0 {
            return None;
        }
        fits(self, ask, host, When::Later, scratch, &mut |_| false).then_some(When::Later)
    }

    /// Counts on the guest's leaving its host.
    pub(crate) fn departs(&mut self, guest: GuestId) {
        self.room
            .leave(self.view.fleet, &self.view.layout, guest, 1);
        self.departing[self.view.guest(guest).host.at()] += 1;
    }

    /// Counts on it no longer.
    pub(crate) fn stays(&mut self, guest: GuestId) {
        self.room
            .leave(self.view.fleet, &self.view.layout, guest, -1);
        self.departing[self.view.guest(guest).host.at()] -= 1;
    }

    /// What is expected to travel for the ask's guest.
    pub(crate) fn bytes(&self, guest: GuestId, target: HostId) -> Bytes {
        let guest = self.view.guest(guest);
        travels(guest, rate(self.view.fleet, guest.host, target))
    }

    /// Places an ask.
    pub(crate) fn place(&mut self, index: usize, ask: &Ask<'_>, target: HostId, pools: Vec<usize>) {
        let view = self.view;
        self.room
            .hold(&view.layout, view.guest(ask.guest), target, &pools, 1);
        self.departs(ask.guest);
        self.into[target.at()].push(index);
        self.load[target.at()] += u128::from(self.bytes(ask.guest, target).0);
        self.moving.insert(ask.guest, index);
        self.arrives(ask.guest, target);
        self.placed[index] = Some(Placed { target, pools });
    }

    /// Takes an ask back from the board.
    pub(crate) fn remove(&mut self, index: usize, ask: &Ask<'_>) {
        let Some(placed) = self.placed[index].take() else {
            return;
        };
        let view = self.view;
        let target = placed.target;
        self.room.hold(
            &view.layout,
            view.guest(ask.guest),
            target,
            &placed.pools,
            -1,
        );
        self.stays(ask.guest);
        self.into[target.at()].retain(|other| *other != index);
        self.load[target.at()] -= u128::from(self.bytes(ask.guest, target).0);
        self.moving.remove(&ask.guest);
        let domain = view.guest(ask.guest).domain.as_str();
        if let Some(others) = self.arriving.get_mut(&(target, domain)) {
            others.retain(|other| *other != ask.guest);
        }
    }
}
