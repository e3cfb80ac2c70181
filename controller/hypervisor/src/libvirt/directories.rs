//! Directories that are no storage pools. libvirt only makes, streams and removes files of pools, so one is opened over
//! such a directory for as long as somebody here uses it: transient, never one of the user's.
//!
//! A directory outside all pools counts as one, named by its path, as long as guests of the fleet have disks in it.
//! What lies below a pool's directory, at any depth, counts as the pool's. Directories that are missing there are made,
//! and those that a move made are removed again where it is taken back, as long as they are empty.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex},
};

use evenkeel_engine::port::{Fault, PoolFacts, PortError, PortResult};
use uuid::Uuid;
use virt::sys;

use super::{
    fault::OrFault,
    raw::Connection,
    refreshes::Freshness,
    session::Session,
    storage::{self, Pool, Storage},
    worker::lock,
    xml,
};

/// What the names of our own pools begin with; a UUID follows.
const PREFIX: &str = "evenkeel-";
/// Directories in which the kernel shows what is no file.
const NO_FILES: &[&str] = &["/dev", "/proc", "/sys"];

/// Directories that are open as pools, by their paths: how often, and under which name.
#[derive(Debug, Default)]
pub(crate) struct Lent(Mutex<HashMap<String, (usize, String)>>);

/// Whether a pool of that name is one that we opened for a while.
pub(crate) fn is_lent(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|id| Uuid::parse_str(id).is_ok())
}

/// A pool over a directory, for as long as this lives.
pub(crate) struct Loan<'s> {
    lent: &'s Lent,
    directory: String,
    pool: Pool,
}

impl Deref for Loan<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut lent = lock(&self.lent.0);
        let Some((users, name)) = lent.get_mut(&self.directory) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            if let Err(error) = self.pool.close() {
                // The next move that ends here closes it.
                tracing::debug!(pool = name, %error, "a pool opened for a while stays open");
            }
            lent.remove(&self.directory);
        }
    }
}

/// A pool that libvirt has, or one that was opened for a while.
pub(crate) enum Opened<'s> {
    Listed(Pool),
    Lent(Loan<'s>),
}

impl Deref for Opened<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        match self {
            Self::Listed(pool) => pool,
            Self::Lent(loan) => loan,
        }
    }
}

/// Whether the directories below a pool's are to be made where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

impl<'c> Storage<'c> {
    /// Opens a directory as a pool, or shares one that is open. [`Fault::Unsupported`] where that can't be done.
    pub(crate) fn lend(&self, directory: &str) -> PortResult<Loan<'c>> {
        let refused = |error: PortError| match error.fault {
            Fault::Unreachable | Fault::TimedOut | Fault::Busy => error,
            _ => PortError::new(
                Fault::Unsupported,
                format!("the directory `{directory}` can't be opened as a storage pool: {error}"),
            ),
        };
        let mut lent = lock(&self.lent.0);
        let known = lent.get(directory).map(|(_, name)| name.clone());
        let opened = match known {
            Some(name) => self.connect.lookup_storage_pool_by_name(&name),
            None => {
                let name = format!("{PREFIX}{}", Uuid::new_v4());
                let description = format!(
                    "<pool type='dir'><name>{name}</name><target><path>{}</path></target></pool>",
                    xml::escape(directory)
                );
                self.connect.create_storage_pool_xml(&description, 0)
            }
        };
        let pool = match opened.or_fault() {
            Ok(object) => self.read(object, true)?,
            // One of ours that a dead process left open will do as well.
            Err(error) => Some(self.left_open(directory)?.ok_or_else(|| refused(error))?),
        };
        let pool =
            pool.ok_or_else(|| refused(PortError::new(Fault::NotFound, "it is gone at once")))?;
        let entry = lent
            .entry(directory.to_owned())
            .or_insert_with(|| (0, pool.facts.name.clone()));
        entry.0 += 1;
        Ok(Loan {
            lent: self.lent,
            directory: directory.to_owned(),
            pool,
        })
    }

    /// The pool that holds a file, or one opened over its directory, and the file's name there. Nothing where that
    /// directory is a missing one below a pool's.
    pub(crate) fn open<'f>(&self, path: &'f str) -> PortResult<Option<(Opened<'c>, &'f str)>> {
        let pools = self.pools(Freshness::AsListed)?;
        if let Some((at, name)) = storage::owner_at(&pools, path) {
            let pool = pools.into_iter().nth(at).map(Opened::Listed);
            return Ok(pool.map(|pool| (pool, name)));
        }
        let Some((directory, name)) = split(path) else {
            return Err(PortError::new(
                Fault::Unsupported,
                format!("`{path}` is no path of a file in a directory"),
            ));
        };
        match self.lend(directory) {
            Ok(loan) => Ok(Some((Opened::Lent(loan), name))),
            Err(error) if error.fault != Fault::Unsupported => Err(error),
            Err(error) => match storage::above(&pools, directory) {
                Some((pool, below)) if self.descend(pool, below, Missing::Leave)?.is_some() => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// The same for a file that is to be made: what is missing below a pool's directory is made first.
    pub(crate) fn open_new<'f>(&self, path: &'f str) -> PortResult<(Opened<'c>, &'f str)> {
        if let Some(opened) = self.open(path)? {
            return Ok(opened);
        }
        let pools = self.pools(Freshness::AsListed)?;
        if let Some((directory, _)) = split(path)
            && let Some((pool, below)) = storage::above(&pools, directory)
        {
            self.descend(pool, below, Missing::Make)?;
        }
        self.open(path)?.ok_or_else(|| {
            PortError::new(Fault::Other, format!("the directory of `{path}` is gone"))
        })
    }

    /// The topmost directory that a file at that path lacks below its pool's.
    pub(crate) fn missing(&self, path: &str) -> PortResult<Option<String>> {
        let pools = self.pools(Freshness::AsListed)?;
        let below = split(path).and_then(|(directory, _)| storage::above(&pools, directory));
        match below {
            Some((pool, below)) => self.descend(pool, below, Missing::Leave),
            None => Ok(None),
        }
    }

    /// Goes down from a pool's directory. The first that was missing: if it is not made, nothing below is looked at.
    fn descend(&self, pool: &Pool, below: &str, missing: Missing) -> PortResult<Option<String>> {
        let mut first = None;
        let mut path = pool.facts.path.clone();
        let mut level: Option<Loan<'_>> = None;
        for name in below.split('/') {
            let here: &Pool = level.as_deref().unwrap_or(pool);
            here.refresh(Freshness::Lately)?;
            let there = here.lookup(name)?.is_some();
            if !there && missing == Missing::Make {
                make(here, name)?;
            }
            path = format!("{}/{name}", path.trim_end_matches('/'));
            if !there {
                first.get_or_insert_with(|| path.clone());
                if missing == Missing::Leave {
                    break;
                }
            }
            level = Some(self.lend(&path)?);
        }
        Ok(first)
    }

    /// Removes directories as far as they are empty, from that of a file up to `top`.
    pub(crate) fn remove_directories(&self, path: &str, top: &str) -> PortResult<()> {
        let mut left = split(path).map(|(directory, _)| directory);
        while let Some(directory) = left.filter(|directory| is_within(directory, top)) {
            let Some((pool, name)) = self.open(directory)? else {
                // What it lies in is gone already.
                left = split(directory).map(|(above, _)| above);
                continue;
            };
            pool.refresh(Freshness::Lately)?;
            if let Some(volume) = pool.lookup(name)? {
                let is_directory = volume.info().or_fault()?.kind == sys::VIR_STORAGE_VOL_DIR;
                // libvirt removes none that holds anything.
                if !is_directory || volume.delete(0).is_err() {
                    return Ok(());
                }
            }
            left = split(directory).map(|(above, _)| above);
        }
        Ok(())
    }

    /// Our own pools.
    fn own_pools(&self) -> PortResult<Vec<Pool>> {
        let active = sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;
        let mut pools = Vec::new();
        for object in self.connect.list_all_storage_pools(active).or_fault()? {
            if object.name().is_ok_and(|name| is_lent(&name)) {
                pools.extend(self.read(object, true)?);
            }
        }
        Ok(pools)
    }

    fn left_open(&self, directory: &str) -> PortResult<Option<Pool>> {
        let mut pools = self.own_pools()?.into_iter();
        Ok(pools.find(|pool| pool.facts.path == directory))
    }
}

/// Makes a directory in a pool; no error where somebody else just did.
fn make(pool: &Pool, name: &str) -> PortResult<()> {
    // As libvirt's own directory of images: whoever knows a name may go in.
    let description = format!(
        "<volume type='dir'><name>{}</name><capacity unit='bytes'>0</capacity><target><format type='dir'/>\
         <permissions><mode>0711</mode></permissions></target></volume>",
        xml::escape(name)
    );
    match pool.create(name, &description) {
        Err(error) if error.fault != Fault::Exists => {
            pool.refresh(Freshness::Now)?;
            pool.lookup(name)?.map(drop).ok_or(error)
        }
        _ => Ok(()),
    }
}

/// A path's directory and name; nothing where that is no directory that holds files, or not told without following links.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let (directory, name) = path.rsplit_once('/')?;
    let special = NO_FILES.iter().any(|other| is_within(directory, other));
    let plain = !path.split('/').any(|part| part == "..");
    (plain && !special && !directory.is_empty() && !name.is_empty()).then_some((directory, name))
}

/// Whether a directory is another one, or lies in it.
fn is_within(directory: &str, other: &str) -> bool {
    let rest = directory.strip_prefix(other);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Every pool, and the directories in use in the fleet that lie in none and are here.
pub(crate) fn all(
    session: &Session,
    connection: &Connection,
    pools: &[Pool],
) -> PortResult<Vec<PoolFacts>> {
    let storage = session.storage(connection);
    let mut all: Vec<PoolFacts> = pools.iter().map(|pool| pool.facts.clone()).collect();
    let used = lock(&session.directories).clone();
    for directory in used {
        let is_own = |pool: &Pool| pool.facts.active && pool.facts.path == directory;
        if pools.iter().any(is_own) || storage::above(pools, &directory).is_some() {
            continue;
        }
        match storage.lend(&directory) {
            Ok(loan) => all.push(PoolFacts {
                name: directory,
                ..loan.facts.clone()
            }),
            Err(error) if error.fault == Fault::Unsupported => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Closes those of our pools that nobody here uses.
pub(crate) fn close_pools(session: &Arc<Session>, connection: &Connection) -> PortResult<()> {
    let lent = lock(&session.lent.0);
    for pool in session.storage(connection).own_pools()? {
        if !lent.contains_key(&pool.facts.path) {
            match pool.close() {
                Err(error) if error.fault != Fault::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_pools_are_told_by_their_names() {
        assert!(is_lent("evenkeel-6f1c2b5e-8f3a-4b59-9d0a-0d8f0c6a1b2c"));
        assert!(!is_lent("evenkeel-images") && !is_lent("default"));
    }

    #[test]
    fn where_a_file_lies() {
        assert_eq!(split("/data/vms/a.img"), Some(("/data/vms", "a.img")));
        assert_eq!(split("/devices/a.img"), Some(("/devices", "a.img")));
        for path in [
            "/a.img",
            "a.img",
            "/dev/sdb",
            "/dev/shm/a",
            "/p/../a",
            "/p/",
        ] {
            assert_eq!(split(path), None, "{path}");
        }
    }
}
