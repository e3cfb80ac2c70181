//! Which pool of a host each disk of a guest goes to.
//!
//! The pool that the wish names; else the one of the same name; else, or where that one is full, one of the same
//! class. A pool must have room for the disk's full virtual size, whatever it occupies today, within what its file
//! system has free and within its limit on virtual sizes; and the file system for the base images that the guest brings.

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
    /// Its file system lacks free space for the base images; the guest's disks that go there are counted in `needs`.
    Bases {
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
    let view = board.view;
    let choice = Choice {
        board,
        guest,
        overrides,
        host,
        when,
        bases: board.room.brought(view.fleet, &view.layout, guest, host),
    };
    let flexible = |disk: &Disk| disk.class.is_some() && !overrides.contains_key(&disk.target);
    // Disks that have no alternative first, so that those with one make way.
    for turn in [false, true] {
        for (index, disk) in guest.disks.iter().enumerate() {
            if flexible(disk) == turn {
                let pool = choice
                    .one(chosen, index)
                    .map_err(|why| DiskRefusal { disk: index, why })?;
                chosen[index] = pool;
            }
        }
    }
    choice
        .holds_bases(chosen)
        .map_err(|why| DiskRefusal { disk: 0, why })
}

/// A guest whose disks look for pools at a host.
struct Choice<'c, 'v, 'a> {
    board: &'c Board<'v, 'a>,
    guest: &'c Guest,
    overrides: &'c BTreeMap<String, String>,
    host: HostId,
    when: When,
    /// What the base images that it brings take: of each file system a pool, and bytes.
    bases: BTreeMap<usize, (usize, i128)>,
}

impl Choice<'_, '_, '_> {
    fn one(&self, chosen: &[usize], index: usize) -> Result<usize, DiskWhy> {
        let (view, host) = (self.board.view, self.host);
        let disk = &self.guest.disks[index];
        let demanded = self.overrides.get(&disk.target);
        let named = demanded
            .or(disk.pool.as_ref())
            .and_then(|name| view.layout.named(view.fleet, host, name));
        let mut refused = None;
        if let Some(pool) = named {
            match self.holds(chosen, index, pool) {
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
            let mut alike: Vec<usize> = alike.collect();
            alike.sort_by_key(|pool| std::cmp::Reverse(self.left(*pool)));
            for pool in alike {
                match self.holds(chosen, index, pool) {
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

    fn holds(&self, chosen: &[usize], index: usize, pool: usize) -> Result<(), DiskWhy> {
        let layout = &self.board.view.layout;
        let facts = &self.board.view.host(self.host).pools[layout.index(self.host, pool)];
        if facts.closed.is_some() {
            return Err(DiskWhy::Closed { pool });
        }
        let size = i128::from(self.guest.disks[index].virtual_size.0);
        let needs = size + self.needs(chosen, layout.budget(pool));
        let left = self.left(pool);
        if needs > left {
            return Err(DiskWhy::Space { pool, needs, left });
        }
        if let Some(limit) = facts.virtual_limit {
            let needs = size + self.sizes(chosen, |other| other == pool);
            let left = i128::from(limit.0) - self.board.room.sizes(pool, self.when);
            if needs > left {
                return Err(DiskWhy::Sizes { pool, needs, left });
            }
        }
        Ok(())
    }

    /// Whether there is room for the base images where no disk goes, too.
    fn holds_bases(&self, chosen: &[usize]) -> Result<(), DiskWhy> {
        for (budget, (pool, _)) in &self.bases {
            let (pool, needs, left) = (*pool, self.needs(chosen, *budget), self.left(*pool));
            if needs > left {
                return Err(DiskWhy::Bases { pool, needs, left });
            }
        }
        Ok(())
    }

    /// What goes to a file system so far.
    fn needs(&self, chosen: &[usize], budget: usize) -> i128 {
        let layout = &self.board.view.layout;
        let bases = self.bases.get(&budget).map_or(0, |(_, bytes)| *bytes);
        bases + self.sizes(chosen, |pool| layout.budget(pool) == budget)
    }

    /// The sizes of the disks that go to such pools so far.
    fn sizes(&self, chosen: &[usize], such: impl Fn(usize) -> bool) -> i128 {
        let disks = self.guest.disks.iter().zip(chosen);
        disks
            .filter(|(_, pool)| **pool != NOWHERE && such(**pool))
            .map(|(disk, _)| i128::from(disk.virtual_size.0))
            .sum()
    }

    /// What a pool's file system has left.
    fn left(&self, pool: usize) -> i128 {
        let (board, layout) = (self.board, &self.board.view.layout);
        layout.space(pool) - board.room.taken(layout, pool, self.when)
    }
}
