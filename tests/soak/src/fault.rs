//! What goes wrong in a story, and how it is mended.

use evenkeel_hypervisor::sim::{Fleet, Phase};
use fastrand::Rng;
use uuid::Uuid;

use crate::controllers::CLIENT;

/// Phases that a fault can wait for.
const MOMENTS: [Phase; 8] = [
    Phase::Connect,
    Phase::Prepare,
    Phase::Disks,
    Phase::Memory,
    Phase::Switch,
    Phase::Finish,
    Phase::Confirm,
    Phase::End,
];

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A libvirtd is killed and comes back.
    LibvirtdKilled,
    /// Both ends' libvirtds are.
    BothLibvirtdsKilled,
    /// A libvirtd sleeps for a while.
    LibvirtdHung,
    /// The link between two hosts is cut.
    LinkCut,
    /// The controller does not reach a host: answers are late, or lost.
    CutOff,
    /// A host loses its power.
    PowerLost,
    /// A pool is filled by something else.
    DiskFull,
    /// A guest's QEMU dies.
    QemuKilled,
    /// A guest powers itself off.
    GuestOff,
    /// Somebody aborts a job by hand.
    AbortedByHand,
    /// Somebody defines a domain that names the disk of a guest where it is.
    DiskBorrowed,
    /// The controller is killed and another takes over.
    ControllerKilled,
    /// Another takes over while the first believes that it still leads.
    SecondController,
}

/// Every kind.
pub const KINDS: [Kind; 13] = [
    Kind::LibvirtdKilled,
    Kind::BothLibvirtdsKilled,
    Kind::LibvirtdHung,
    Kind::LinkCut,
    Kind::CutOff,
    Kind::PowerLost,
    Kind::DiskFull,
    Kind::QemuKilled,
    Kind::GuestOff,
    Kind::AbortedByHand,
    Kind::DiskBorrowed,
    Kind::ControllerKilled,
    Kind::SecondController,
];

/// A fault, chosen beforehand.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// The phase of some migration that it waits for.
    pub moment: Option<Phase>,
    /// How long it lasts, in milliseconds.
    pub lasts: u64,
    /// At the source of what it waited for, else at the target.
    at_source: bool,
    /// Where no migration is under way: which host, other host and guest, by number.
    host: usize,
    other: usize,
    guest: usize,
}

/// Where a fault struck.
pub struct Place {
    host: String,
    other: String,
    guest: Uuid,
}

impl Fault {
    /// Any fault.
    pub fn any(dice: &mut Rng, hosts: usize, guests: usize) -> Self {
        let host = dice.usize(..hosts);
        let lasts = match dice.u8(..8) {
            0 => dice.u64(100..600),
            1 => dice.u64(5_000..60_000),
            _ => dice.u64(300..6_000),
        };
        Self {
            kind: KINDS[dice.usize(..KINDS.len())],
            moment: dice.bool().then(|| MOMENTS[dice.usize(..MOMENTS.len())]),
            lasts,
            at_source: dice.bool(),
            host,
            other: (host + 1 + dice.usize(..hosts - 1)) % hosts,
            guest: dice.usize(..guests),
        }
    }

    /// Where it strikes now. Nothing while the moment it waits for has not come.
    pub fn aim(&self, fleet: &Fleet, hosts: &[String], guests: &[Uuid]) -> Option<Place> {
        let Some(phase) = self.moment else {
            return Some(self.blind(hosts, guests));
        };
        let (guest, source, target) = fleet.in_phase(phase)?;
        let (host, other) = if self.at_source {
            (source, target)
        } else {
            (target, source)
        };
        Some(Place { host, other, guest })
    }

    /// Where it strikes when its moment does not come.
    pub fn blind(&self, hosts: &[String], guests: &[Uuid]) -> Place {
        Place {
            host: hosts[self.host].clone(),
            other: hosts[self.other].clone(),
            guest: guests[self.guest],
        }
    }

    /// Does it to the fleet. Controllers are for the caller. How it is mended, where it lasts.
    pub fn strike(&self, fleet: &Fleet, place: &Place) -> Option<Mend> {
        let (host, other) = (&place.host, &place.other);
        match self.kind {
            Kind::LibvirtdKilled => fleet.kill_libvirtd(host),
            Kind::BothLibvirtdsKilled => {
                fleet.kill_libvirtd(host);
                fleet.kill_libvirtd(other);
            }
            Kind::LibvirtdHung => fleet.hang_libvirtd(host, true),
            Kind::LinkCut => fleet.cut(host, other, true),
            Kind::CutOff => fleet.cut_client(CLIENT, host, true),
            Kind::PowerLost => fleet.power_off(host),
            Kind::DiskFull => fleet.leave_room(host, 0),
            Kind::QemuKilled => {
                for host in fleet.executing(place.guest) {
                    fleet.kill_qemu(&host, place.guest);
                }
            }
            Kind::GuestOff => fleet.shut_down(place.guest),
            Kind::AbortedByHand => fleet.abort_by_hand(place.guest),
            Kind::DiskBorrowed => {
                let borrow =
                    |host: &String| Some((host.clone(), fleet.borrow_disk(host, place.guest)?));
                let (host, borrower) = fleet.executing(place.guest).iter().find_map(borrow)?;
                return Some(Mend {
                    kind: self.kind,
                    host,
                    other: String::new(),
                    borrower,
                });
            }
            Kind::ControllerKilled | Kind::SecondController => {}
        }
        let lasts = !matches!(
            self.kind,
            Kind::QemuKilled
                | Kind::GuestOff
                | Kind::AbortedByHand
                | Kind::ControllerKilled
                | Kind::SecondController
        );
        lasts.then(|| Mend {
            kind: self.kind,
            host: host.clone(),
            other: other.clone(),
            borrower: Uuid::nil(),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (with {}, of {})", self.host, self.other, self.guest)
    }
}

/// How a fault that lasts is mended.
#[derive(Debug)]
pub struct Mend {
    kind: Kind,
    host: String,
    other: String,
    borrower: Uuid,
}

impl Mend {
    /// Mends it.
    pub fn mend(&self, fleet: &Fleet) {
        let (host, other) = (&self.host, &self.other);
        match self.kind {
            Kind::LibvirtdKilled => fleet.start_libvirtd(host),
            Kind::BothLibvirtdsKilled => {
                fleet.start_libvirtd(host);
                fleet.start_libvirtd(other);
            }
            Kind::LibvirtdHung => fleet.hang_libvirtd(host, false),
            Kind::LinkCut => fleet.cut(host, other, false),
            Kind::CutOff => fleet.cut_client(CLIENT, host, false),
            Kind::PowerLost => fleet.power_on(host),
            Kind::DiskFull => fleet.leave_room(host, u64::MAX),
            Kind::DiskBorrowed => fleet.discard(host, self.borrower),
            Kind::QemuKilled
            | Kind::GuestOff
            | Kind::AbortedByHand
            | Kind::ControllerKilled
            | Kind::SecondController => {}
        }
    }
}
