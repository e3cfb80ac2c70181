//! Whether a guest may go to a host: every reason why not, safety first. The one place where that is decided, for
//! plans, for waits and for the last look before a move starts.

use crate::board::Board;
use crate::capacity::{When, demand};
use crate::model::{Guest, Host, HostId};
use crate::pools::{self, DiskRefusal};
use crate::wishes::Ask;

/// Why a guest may not go to a host. Sentences are made of it in `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing can be done with the host now.
    OutOfReach,
    /// It takes no guests.
    Closed,
    /// It is being emptied.
    Draining,
    /// Its own limit on inbound moves is none.
    NoSlots,
    /// It rests for this guest, or for all.
    Avoided,
    /// A placement's rule; `lasting`: whatever else moves.
    Rule { rule: usize, lasting: bool },
    /// Another domain there has the name.
    NameTaken,
    /// A domain there has the UUID.
    DefinedThere,
    /// No such emulator.
    NoEmulator,
    /// No such machine type.
    NoMachine,
    /// An older QEMU.
    Older,
    /// Another CPU.
    OtherCpu,
    /// Networks, bridges or filters are missing.
    NoNetwork,
    /// Shared storage that its disks stay on is missing.
    NoStorage,
    /// It has that storage in another directory.
    OtherPath,
    /// The move is part of a ring of moves that wait for each other.
    Ring,
    /// Not enough memory: what is left, negative when over the limit.
    Memory { left: i128 },
    /// Not enough CPU.
    Cpu { left: i128 },
    /// A disk finds no pool or no room.
    Disk(DiskRefusal),
}

/// Looks for everything that speaks against the guest's going to the host, in order; `found` says whether to go on.
/// True if there is nothing; then `chosen` has a pool for each disk.
pub(crate) fn fits(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    host: HostId,
    when: When,
    chosen: &mut Vec<usize>,
    found: &mut dyn FnMut(Refusal) -> bool,
) -> bool {
    let view = board.view;
    let id = ask.guest;
    let guest = view.guest(id);
    let mut fits = true;
    let mut says = |refusal| {
        fits = false;
        found(refusal)
    };
    let emptied = || board.emptied.contains(&host).then_some(Refusal::Draining);
    if let Some(refusal) = view.gate(host).or_else(emptied)
        && !says(refusal)
    {
        return false;
    }
    if view.avoids(id, host).is_some() && !says(Refusal::Avoided) {
        return false;
    }
    if let Some(refusal) = board.forbids(id, (guest.host, host), when, ask.strictness)
        && !says(refusal)
    {
        return false;
    }
    if let Some(refusal) = view.clash(id, host).or_else(|| board.namesake(id, host))
        && !says(refusal)
    {
        return false;
    }
    if !view.suits(id, host) {
        let mut stop = false;
        lacking(guest, view.host(host), &mut |refusal| {
            let go_on = says(refusal);
            stop = !go_on;
            go_on
        });
        if stop {
            return false;
        }
    }
    if board.banned.contains_key(&(id, host)) && !says(Refusal::Ring) {
        return false;
    }
    room(board, ask, host, when, chosen, &mut says);
    fits
}

/// The part of [`fits`] that is about room. True if there is room.
pub(crate) fn room(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    host: HostId,
    when: When,
    chosen: &mut Vec<usize>,
    found: &mut dyn FnMut(Refusal) -> bool,
) -> bool {
    let guest = board.view.guest(ask.guest);
    let mut fits = true;
    if guest.active {
        let (cpu, memory) = demand(guest);
        let facts = board.view.host(host);
        let left = i128::from(facts.memory_limit.0) - board.room.memory(host, when);
        if memory > left {
            fits = false;
            if !found(Refusal::Memory { left }) {
                return false;
            }
        }
        let left = i128::from(facts.cpu_limit_milli) - board.room.cpu(host, when);
        if cpu > left {
            fits = false;
            if !found(Refusal::Cpu { left }) {
                return false;
            }
        }
    }
    if let Err(refusal) = pools::choose(board, guest, ask.overrides, host, when, chosen) {
        fits = false;
        found(Refusal::Disk(refusal));
    }
    fits
}

/// What the host lacks, apart from room, that the guest needs. True if anything.
pub(crate) fn lacking(guest: &Guest, host: &Host, found: &mut dyn FnMut(Refusal) -> bool) -> bool {
    let needs = &guest.needs;
    let offers = &host.offers;
    let machines = offers.machines.get(&needs.emulator);
    let bridged = offers
        .bridges
        .as_ref()
        .is_none_or(|bridges| needs.bridges.is_subset(bridges));
    let faults = [
        (machines.is_none(), Refusal::NoEmulator),
        (
            machines.is_some_and(|known| !known.contains(&needs.machine)),
            Refusal::NoMachine,
        ),
        (offers.hypervisor < needs.hypervisor, Refusal::Older),
        (
            guest.active && needs.cpu.as_ref().is_some_and(|cpu| *cpu != offers.cpu),
            Refusal::OtherCpu,
        ),
        (
            !needs.networks.is_subset(&offers.networks)
                || !bridged
                || !needs.nwfilters.is_subset(&offers.nwfilters),
            Refusal::NoNetwork,
        ),
        (
            unseen(guest, host).any(|(name, _)| !offers.storage.contains_key(name)),
            Refusal::NoStorage,
        ),
        (
            unseen(guest, host).any(|(name, _)| offers.storage.contains_key(name)),
            Refusal::OtherPath,
        ),
    ];
    let mut any = false;
    for (fault, refusal) in faults {
        if fault {
            any = true;
            if !found(refusal) {
                break;
            }
        }
    }
    any
}

/// Shared storage that the guest's disks stay on and that the host has not in the same directory: pool and directory.
pub(crate) fn unseen<'a>(
    guest: &'a Guest,
    host: &'a Host,
) -> impl Iterator<Item = (&'a String, &'a String)> {
    let there = &host.offers.storage;
    let needed = guest.needs.storage.iter();
    needed.filter(|(_, directory)| there.values().all(|other| other != *directory))
}
