//! How many bytes a move sends, and how fast.
//!
//! The model: every allocated byte of the disks travels once, and of the base images below them where the target has not got
//! them. Memory travels once, and what the guest dirties
//! meanwhile travels again, and what it dirties meanwhile again: memory x (1 + d/r + (d/r)^2 + ...) = memory x r/(r - d)
//! for a dirty rate d and a rate r of the slower known link alone, the fleet's limit for one move or what the guest's moves may
//! have, at most three times the memory. An unknown dirty rate counts as none.

use evenkeel_crds::quantity::Bytes;

use crate::model::{BaseId, Fleet, Guest, HostId};

/// The most often that memory is taken to travel.
const MEMORY_CAP: u128 = 3;

/// The rate of a move that has both links for itself, no more than one may have; a link of unknown bandwidth does not count.
pub(crate) fn rate(fleet: &Fleet, source: HostId, target: HostId) -> Option<u64> {
    let bandwidth = |host: HostId| fleet.hosts[host.at()].bandwidth;
    let known = [bandwidth(source), bandwidth(target), fleet.limits.share];
    known.into_iter().flatten().map(|rate| rate.0.max(1)).min()
}

/// The same for one guest, whose moves may have less.
pub(crate) fn capped(guest: &Guest, rate: Option<u64>) -> Option<u64> {
    let most = guest.bandwidth.map(|most| most.0.max(1));
    rate.into_iter().chain(most).min()
}

/// What is expected to travel, base images apart.
pub(crate) fn travels(guest: &Guest, rate: Option<u64>) -> Bytes {
    let disks: u128 = guest
        .disks
        .iter()
        .map(|disk| u128::from(disk.allocated.0))
        .sum();
    Bytes(
        u64::try_from(disks)
            .unwrap_or(u64::MAX)
            .saturating_add(memory(guest, rate)),
    )
}

/// Of that, what is memory.
pub(crate) fn memory(guest: &Guest, rate: Option<u64>) -> u64 {
    let memory = if guest.active {
        u128::from(guest.memory.0.saturating_sub(guest.overhead.0))
    } else {
        0
    };
    let memory = match (rate, guest.dirty_rate) {
        (Some(rate), Some(dirty)) if dirty.0 < rate => {
            (memory * u128::from(rate) / u128::from(rate - dirty.0)).min(memory * MEMORY_CAP)
        }
        (Some(_), Some(_)) => memory * MEMORY_CAP,
        _ => memory,
    };
    u64::try_from(memory).unwrap_or(u64::MAX)
}

/// What these base images weigh.
pub(crate) fn weight<'b>(fleet: &Fleet, bases: impl IntoIterator<Item = &'b BaseId>) -> u64 {
    let bytes = bases
        .into_iter()
        .map(|base| fleet.bases[base.at()].allocated.0);
    bytes.fold(0, u64::saturating_add)
}
