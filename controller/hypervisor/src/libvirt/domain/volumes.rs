//! What volumes are behind files, for the length of one look.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{PortError, PortResult};

use crate::libvirt::{
    fault::OrFault,
    refreshes::Freshness,
    storage::{self, Pool},
    xml,
};

/// A chain longer than this is a circle.
const CHAIN: usize = 64;

/// What a volume's description says, read once per look.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) capacity: Bytes,
    pub(crate) allocated: Bytes,
    pub(crate) backing: Option<String>,
}

/// Files as their volumes describe them, each asked for once.
pub(crate) struct Volumes<'a> {
    pools: &'a [Pool],
    known: RefCell<HashMap<String, Option<Seen>>>,
    refreshed: RefCell<BTreeSet<String>>,
}

impl<'a> Volumes<'a> {
    pub(crate) fn new(pools: &'a [Pool]) -> Self {
        Self {
            pools,
            known: RefCell::default(),
            refreshed: RefCell::default(),
        }
    }

    /// The active pool that holds a file, and the file's name in it.
    pub(crate) fn owner<'f>(&self, path: &'f str) -> Option<(&'a Pool, &'f str)> {
        storage::owner(self.pools, path)
    }

    /// The backing files below a volume, nearest first.
    pub(crate) fn chain(&self, top: Option<&Seen>) -> PortResult<Vec<String>> {
        let mut files = Vec::new();
        let mut next = top.and_then(|seen| seen.backing.clone());
        while let Some(file) = next.take() {
            if files.contains(&file) || files.len() >= CHAIN {
                break;
            }
            next = self.get(&file)?.and_then(|seen| seen.backing);
            files.push(file);
        }
        Ok(files)
    }

    /// A file as its volume describes it. A pool that does not know it is refreshed, once.
    pub(crate) fn get(&self, path: &str) -> PortResult<Option<Seen>> {
        if let Some(seen) = self.known.borrow().get(path) {
            return Ok(seen.clone());
        }
        let seen = match storage::owner(self.pools, path) {
            None => None,
            Some((pool, name)) => {
                let mut volume = pool.lookup(name)?;
                if volume.is_none() && self.refreshed.borrow_mut().insert(pool.facts.name.clone()) {
                    // Busy, mostly; then it is not known this time.
                    let _ = pool.try_refresh(Freshness::Lately);
                    volume = pool.lookup(name)?;
                }
                match volume {
                    None => None,
                    Some(volume) => volume
                        .info()
                        .or_absent()?
                        .map(|info| {
                            Ok::<_, PortError>(Seen {
                                capacity: Bytes(info.capacity),
                                allocated: Bytes(info.allocation),
                                backing: storage::backing_of(&volume)?
                                    .map(|file| xml::tidy_path(&file)),
                            })
                        })
                        .transpose()?,
                }
            }
        };
        self.known
            .borrow_mut()
            .insert(path.to_owned(), seen.clone());
        Ok(seen)
    }
}
