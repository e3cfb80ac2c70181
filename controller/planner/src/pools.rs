//! Which pool of a host each disk of a guest goes to.
//!
//! The pool that the wish names; else the one of the same name; else, or where that one is full, one of the same
//! class. A pool must have room for the disk's full virtual size, whatever it occupies today, within what its file
//! system has free and within its limit on virtual sizes.

use std::collections::BTreeMap;

use crate::board::Board;
use crate::capacity::When;
use crate::model::{Disk, Guest, HostId};

/// Why a disk finds no place on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskRefusal {
    /// The disk, by its place in the guest's list.
    pub(crate) disk: usize,
    pub(crate) why: DiskWhy,
}

/// What is wrong with the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskWhy {
    /// There is no pool of that name or class.
    Missing,
    /// The pool takes no disks.
    Closed { pool: usize },
    /// Its file system lacks free space; the guest's other disks that go there are counted in `needs`.
    Space {
        pool: usize,
        needs: i128,
        left: i128,
    },
    /// Its limit on virtual sizes would be passed.
    Sizes {
        pool: usize,
        needs: i128,
        left: i128,
    },
}

const NOWHERE: usize = usize::MAX;

/// Finds a pool for each of the guest's disks, in `chosen`, in the order of the disks.
pub(crate) fn choose(
    board: &Board<'_, '_>,
    guest: &Guest,
    overrides: &BTreeMap<String, String>,
    host: HostId,
    when: When,
    chosen: &mut Vec<usize>,
) -> Result<(), DiskRefusal> {
    chosen.clear();
    chosen.resize(guest.disks.len(), NOWHERE);
    let flexible = |disk: &Disk| disk.class.is_some() && !overrides.contains_key(&disk.target);
    // Disks that have no alternative first, so that those with one make way.
    for turn in [false, true] {
        for (index, disk) in guest.disks.iter().enumerate() {
            if flexible(disk) == turn {
                let pool = one(board, guest, overrides, host, when, chosen, index)
                    .map_err(|why| DiskRefusal { disk: index, why })?;
                chosen[index] = pool;
            }
        }
    }
    Ok(())
}

fn one(
    board: &Board<'_, '_>,
    guest: &Guest,
    overrides: &BTreeMap<String, String>,
    host: HostId,
    when: When,
    chosen: &[usize],
    index: usize,
) -> Result<usize, DiskWhy> {
    let view = board.view;
    let disk = &guest.disks[index];
    let demanded = overrides.get(&disk.target);
    let named = demanded
        .or(disk.pool.as_ref())
        .and_then(|name| view.layout.named(view.fleet, host, name));
    let mut refused = None;
    if let Some(pool) = named {
        match holds(board, guest, host, when, chosen, index, pool) {
            Ok(()) => return Ok(pool),
            Err(why) => refused = Some(why),
        }
    }
    if let (None, Some(class)) = (demanded, &disk.class) {
        let pools = view.host(host).pools.iter().enumerate();
        let alike = pools
            .filter(|(_, pool)| pool.closed.is_none() && pool.class.as_ref() == Some(class))
            .map(|(at, _)| view.layout.pool(host, at))
            .filter(|pool| Some(*pool) != named);
        let free =
            |pool: &usize| view.layout.space(*pool) - board.room.taken(&view.layout, *pool, when);
        let mut alike: Vec<usize> = alike.collect();
        alike.sort_by_key(|pool| std::cmp::Reverse(free(pool)));
        for pool in alike {
            match holds(board, guest, host, when, chosen, index, pool) {
                Ok(()) => return Ok(pool),
                // A pool that lacks room says more than one that is closed.
                Err(why) => match refused {
                    None | Some(DiskWhy::Closed { .. }) => refused = Some(why),
                    Some(_) => {}
                },
            }
        }
    }
    Err(refused.unwrap_or(DiskWhy::Missing))
}

fn holds(
    board: &Board<'_, '_>,
    guest: &Guest,
    host: HostId,
    when: When,
    chosen: &[usize],
    index: usize,
    pool: usize,
) -> Result<(), DiskWhy> {
    let layout = &board.view.layout;
    let facts = &board.view.host(host).pools[layout.index(host, pool)];
    if facts.closed.is_some() {
        return Err(DiskWhy::Closed { pool });
    }
    let size = i128::from(guest.disks[index].virtual_size.0);
    let (mut needs, mut needs_here) = (size, size);
    for (disk, other) in guest.disks.iter().zip(chosen) {
        if *other != NOWHERE && layout.budget(*other) == layout.budget(pool) {
            needs += i128::from(disk.virtual_size.0);
            if *other == pool {
                needs_here += i128::from(disk.virtual_size.0);
            }
        }
    }
    let left = layout.space(pool) - board.room.taken(layout, pool, when);
    if needs > left {
        return Err(DiskWhy::Space { pool, needs, left });
    }
    if let Some(limit) = facts.virtual_limit {
        let left = i128::from(limit.0) - board.room.sizes(pool, when);
        if needs_here > left {
            return Err(DiskWhy::Sizes {
                pool,
                needs: needs_here,
                left,
            });
        }
    }
    Ok(())
}
