//! What volumes are behind files, for the length of one look.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{Fault, PortError, PortResult};

use super::description::DiskXml;
use crate::libvirt::{
    directories::{self, Loan},
    fault::OrFault,
    refreshes::Freshness,
    storage::{self, Pool, Storage},
    xml,
};

/// Tells disks that are given by pool and volume (`type='volume'`) which files they are on: where the pool is active and
/// one of files, as libvirt itself looks a disk up when it starts a guest.
pub(crate) fn locate(disks: &mut [DiskXml], pools: &[Pool]) {
    for disk in disks {
        let named = disk.volume.as_ref();
        let place = named.and_then(|named| storage::place_of(pools, named));
        if let Some((_, path)) = place.filter(|(pool, _)| pool.holds_files()) {
            disk.path = Some(path);
        }
    }
}

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
    storage: Storage<'a>,
    pools: &'a [Pool],
    /// Directories that are no pools, opened for as long as this looks; nothing where that can't be done.
    opened: RefCell<HashMap<String, Option<Loan<'a>>>>,
    known: RefCell<HashMap<String, Option<Seen>>>,
    refreshed: RefCell<BTreeSet<String>>,
}

impl<'a> Volumes<'a> {
    pub(crate) fn new(storage: Storage<'a>, pools: &'a [Pool]) -> Self {
        Self {
            storage,
            pools,
            opened: RefCell::default(),
            known: RefCell::default(),
            refreshed: RefCell::default(),
        }
    }

    /// The active pool that holds a file, in its directory or below, and the file's name in it.
    pub(crate) fn owner<'f>(&self, path: &'f str) -> Option<(&'a Pool, &'f str)> {
        let below = || directories::split(path).and_then(|_| storage::above(self.pools, path));
        storage::owner(self.pools, path).or_else(below)
    }

    /// The pool that a disk given by pool and volume names, and the volume's name.
    pub(crate) fn named<'d>(&self, disk: &'d DiskXml) -> Option<(&'a Pool, &'d str)> {
        let named = disk.volume.as_ref().filter(|_| disk.path.is_some())?;
        let (pool, _) = storage::place_of(self.pools, named)?;
        Some((pool, &named.1))
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

    /// A file as its volume describes it, if it lies right in a pool's directory.
    pub(crate) fn listed(&self, path: &str) -> PortResult<Option<Seen>> {
        match storage::owner(self.pools, path) {
            Some(_) => self.get(path),
            None => Ok(None),
        }
    }

    /// A file as its volume describes it, wherever it lies. A pool that does not know it is refreshed, once.
    pub(crate) fn get(&self, path: &str) -> PortResult<Option<Seen>> {
        if let Some(seen) = self.known.borrow().get(path) {
            return Ok(seen.clone());
        }
        let seen = match (storage::owner(self.pools, path), directories::split(path)) {
            (Some((pool, name)), _) => self.describe(pool, name)?,
            (None, Some((directory, name))) => {
                self.lend(directory)?;
                let opened = self.opened.borrow();
                match opened.get(directory).and_then(Option::as_ref) {
                    Some(loan) => self.describe(loan, name)?,
                    None => None,
                }
            }
            (None, None) => None,
        };
        self.known
            .borrow_mut()
            .insert(path.to_owned(), seen.clone());
        Ok(seen)
    }

    /// Opens a directory, if that was not tried yet.
    fn lend(&self, directory: &str) -> PortResult<()> {
        if self.opened.borrow().contains_key(directory) {
            return Ok(());
        }
        let loan = match self.storage.lend(directory) {
            Err(error) if error.fault != Fault::Unsupported => return Err(error),
            lent => lent.ok(),
        };
        self.opened.borrow_mut().insert(directory.to_owned(), loan);
        Ok(())
    }

    fn describe(&self, pool: &Pool, name: &str) -> PortResult<Option<Seen>> {
        let mut volume = pool.lookup(name)?;
        if volume.is_none() && self.refreshed.borrow_mut().insert(pool.facts.name.clone()) {
            // Busy, mostly; then it is not known this time.
            let _ = pool.try_refresh(Freshness::Lately);
            volume = pool.lookup(name)?;
        }
        let Some(volume) = volume else {
            return Ok(None);
        };
        let info = volume.info().or_absent()?;
        info.map(|info| {
            Ok::<_, PortError>(Seen {
                capacity: Bytes(info.capacity),
                allocated: Bytes(info.allocation),
                backing: storage::backing_of(&volume)?.map(|file| xml::tidy_path(&file)),
            })
        })
        .transpose()
    }
}
