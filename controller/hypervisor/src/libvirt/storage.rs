//! Pools and volumes.
//!
//! libvirt's pools remember: a file made or removed behind its back is only seen after a refresh. A refresh reads the
//! head of every file in the pool, and all that use the pool wait for it. So what libvirt remembers is tried first, and
//! the pool is refreshed where that does not hold, or where the answer would be that there is no such file.

use std::{sync::Arc, thread, time::Duration};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{Fault, NewVolume, PoolFacts, PortError, PortResult, VolumeFacts};
use virt::{connect::Connect, storage_pool::StoragePool, storage_vol::StorageVol, sys};

use super::{
    directories::{self, Lent, Opened},
    fault::OrFault,
    refreshes::{Freshness, Refreshes},
    xml,
};

/// Pool types whose files other hosts see too.
const SHARED_KINDS: &[&str] = &[
    "netfs",
    "gluster",
    "rbd",
    "sheepdog",
    "iscsi",
    "iscsi-direct",
    "vstorage",
];
/// Pool types whose content is refreshed before it is believed.
const REFRESHED_KINDS: &[&str] = &["dir", "fs", "netfs", "gluster", "vstorage"];
/// Pool types that are directories, with others below.
const DIRECTORY_KINDS: &[&str] = &["dir", "fs", "netfs"];
/// While a volume is being built libvirt refuses to refresh its pool; that takes a moment, and an encrypted one seconds.
/// It is tried so often before others who want the same get their turn, and so many times over.
const BUSY_TRIES: u32 = 10;
const BUSY_ROUNDS: u32 = 14;
/// For whoever can do without.
const FEW_ROUNDS: u32 = 2;
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// What QEMU says where it measures how fast a key is derived, and the machine is so busy that no time seems to have passed.
const NOT_MEASURED: &str = "accurate CPU usage";
/// How often that is tried: it is seen at once.
const MEASURED_AGAIN: u32 = 10;

/// A host's storage, over one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage<'c> {
    pub(crate) connect: &'c Connect,
    pub(crate) refreshes: &'c Arc<Refreshes>,
    pub(crate) lent: &'c Lent,
}

/// A pool and libvirt's object for it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) facts: PoolFacts,
    object: StoragePool,
    refreshes: Arc<Refreshes>,
}

impl Pool {
    /// Stops it; its files stay.
    pub(crate) fn close(&self) -> PortResult<()> {
        self.refreshes.forget(&self.facts.name);
        self.object.destroy().or_fault()
    }

    /// Sees what is really there.
    pub(crate) fn refresh(&self, freshness: Freshness) -> PortResult<()> {
        self.refresh_within(freshness, BUSY_ROUNDS)
    }

    /// The same for whoever can do without: given up soon where libvirt is busy with the pool.
    pub(crate) fn try_refresh(&self, freshness: Freshness) -> PortResult<()> {
        self.refresh_within(freshness, FEW_ROUNDS)
    }

    fn refresh_within(&self, freshness: Freshness, rounds: u32) -> PortResult<()> {
        let round = || {
            self.refreshes.share(&self.facts.name, freshness, || {
                for _ in 1..BUSY_TRIES {
                    match self.object.refresh(0).or_fault() {
                        Err(error) if error.fault == Fault::Busy => thread::sleep(BUSY_PAUSE),
                        done => return done,
                    }
                }
                self.object.refresh(0).or_fault()
            })
        };
        for _ in 1..rounds {
            match round() {
                Err(error) if error.fault == Fault::Busy => {}
                done => return done,
            }
        }
        round()
    }

    /// The volume of that name, as libvirt remembers.
    pub(crate) fn lookup(&self, name: &str) -> PortResult<Option<StorageVol>> {
        self.object.lookup_storage_vol_by_name(name).or_absent()
    }

    /// The volume of that name; where libvirt remembers none, it looks again.
    pub(crate) fn find(&self, name: &str) -> PortResult<Option<StorageVol>> {
        if let Some(volume) = self.lookup(name)? {
            return Ok(Some(volume));
        }
        self.refresh(Freshness::Lately)?;
        self.lookup(name)
    }

    /// Removes a volume; no error where it is gone.
    pub(crate) fn delete(&self, name: &str) -> PortResult<()> {
        let Some(volume) = self.find(name)? else {
            return Ok(());
        };
        match volume.delete(0).or_fault() {
            Ok(()) => Ok(()),
            Err(error) if error.fault == Fault::NotFound => Ok(()),
            Err(error) => {
                // Somebody else may have removed it.
                self.refresh(Freshness::Now)?;
                match self.lookup(name)? {
                    None => Ok(()),
                    Some(_) => Err(error),
                }
            }
        }
    }

    /// Every volume with its name, as libvirt remembers.
    pub(crate) fn volumes(&self) -> PortResult<Vec<(String, StorageVol)>> {
        // Not `list_volumes`, which stops at 1024 names.
        let listed = self.object.list_all_volumes(0).or_fault()?;
        Ok(listed
            .into_iter()
            .filter_map(|volume| Some((volume.name().ok()?, volume)))
            .collect())
    }

    /// Makes a volume from its XML. [`Fault::Exists`] where the name is taken, by a file libvirt knows or not.
    pub(crate) fn create(&self, name: &str, description: &str) -> PortResult<StorageVol> {
        let make = || StorageVol::create_xml(&self.object, description, 0).or_fault();
        match make() {
            Err(error) if error.fault == Fault::Exists => {
                self.refresh(Freshness::Now)?;
                // What libvirt remembered may be gone.
                match self.lookup(name)? {
                    Some(_) => Err(error),
                    None => make(),
                }
            }
            made => made,
        }
    }

    /// Whether it is started and its volumes are files of a directory.
    pub(crate) fn holds_files(&self) -> bool {
        self.facts.active && DIRECTORY_KINDS.contains(&self.facts.kind.as_str())
    }

    /// The name of a file right in this pool's directory.
    fn name_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = match self.facts.path.as_str() {
            "/" | "" => return None,
            directory => path.strip_prefix(directory)?.strip_prefix('/')?,
        };
        (!rest.is_empty() && !rest.contains('/')).then_some(rest)
    }
}

impl<'c> Storage<'c> {
    /// Every pool, but for those that we opened for a while.
    pub(crate) fn pools(&self, freshness: Freshness) -> PortResult<Vec<Pool>> {
        let mut pools = Vec::new();
        for (flag, active) in [
            (sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE, true),
            (sys::VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE, false),
        ] {
            let listed = match self.connect.list_all_storage_pools(flag).or_fault() {
                // No storage driver: no pools.
                Err(error) if error.fault == Fault::Unsupported => return Ok(pools),
                listed => listed?,
            };
            for object in listed {
                if object.name().is_ok_and(|name| directories::is_lent(&name)) {
                    continue;
                }
                if let Some(pool) = self.describe(object, active, freshness)? {
                    pools.push(pool);
                }
            }
        }
        Ok(pools)
    }

    /// One pool; nothing where it went away meanwhile.
    fn describe(
        &self,
        object: StoragePool,
        active: bool,
        freshness: Freshness,
    ) -> PortResult<Option<Pool>> {
        let Some(mut pool) = self.read(object, active)? else {
            return Ok(None);
        };
        if active
            && freshness != Freshness::AsListed
            && REFRESHED_KINDS.contains(&pool.facts.kind.as_str())
        {
            let refreshed = match freshness {
                Freshness::Now => pool.refresh(freshness),
                _ => pool.try_refresh(freshness),
            };
            match refreshed {
                Ok(()) => return self.read(pool.object, active),
                Err(error) if matches!(error.fault, Fault::Unreachable | Fault::TimedOut) => {
                    return Err(error);
                }
                Err(error) if error.fault == Fault::Busy => {}
                // Its directory can't be read: libvirt stops such a pool, and we don't believe what it listed before.
                Err(error) => {
                    tracing::warn!(pool = pool.facts.name, %error, "a storage pool could not be refreshed");
                    pool.facts.active = false;
                }
            }
        }
        Ok(Some(pool))
    }

    pub(crate) fn read(&self, object: StoragePool, active: bool) -> PortResult<Option<Pool>> {
        let Some(description) = object.xml_desc(0).or_absent()? else {
            return Ok(None);
        };
        Ok(Some(Pool {
            facts: pool_facts(&description, active)?,
            object,
            refreshes: self.refreshes.clone(),
        }))
    }

    /// The active pool of that name; a directory that is no pool is named by its path, and opened for a while.
    pub(crate) fn pool(&self, name: &str) -> PortResult<Opened<'c>> {
        if name.starts_with('/') {
            return self.lend(name).map(Opened::Lent);
        }
        self.pools(Freshness::AsListed)?
            .into_iter()
            .find(|pool| pool.facts.name == name && pool.facts.active)
            .map(Opened::Listed)
            .ok_or_else(|| {
                PortError::new(
                    Fault::NotFound,
                    format!("there is no active storage pool `{name}`"),
                )
            })
    }

    /// A file, as it is now.
    pub(crate) fn volume(&self, path: &str) -> PortResult<Option<VolumeFacts>> {
        let path = xml::tidy_path(path);
        let Some((pool, name)) = self.open(&path)? else {
            return Ok(None);
        };
        // libvirt looks at the file itself when it is asked about a volume that it remembers.
        let mut info = match pool.lookup(name)? {
            Some(volume) => volume.info().ok(),
            None => None,
        };
        if info.is_none() {
            // It remembers none, or one whose file has gone.
            pool.refresh(Freshness::Lately)?;
            info = match pool.lookup(name)? {
                Some(volume) => volume.info().or_absent()?,
                None => None,
            };
        }
        Ok(info.map(|info| VolumeFacts {
            capacity: Bytes(info.capacity),
            allocated: Bytes(info.allocation),
        }))
    }

    /// Makes an empty thin volume, exclusively, and returns its path.
    pub(crate) fn create(&self, volume: &NewVolume) -> PortResult<String> {
        let mut pool = self.pool(&volume.pool)?;
        let path = format!("{}/{}", pool.facts.path.trim_end_matches('/'), volume.name);
        let mut name = volume.name.as_str();
        if name.contains('/') {
            (pool, name) = self.open_new(&path)?;
        }
        let description = volume_xml(volume, name)?;
        let mut made = pool.create(name, &description);
        for _ in 1..MEASURED_AGAIN {
            if !matches!(&made, Err(error) if error.message.contains(NOT_MEASURED)) {
                break;
            }
            match pool.create(name, &description) {
                // What QEMU left of it is nobody else's.
                Err(error) if error.fault == Fault::Exists => break,
                again => made = again,
            }
        }
        made.map_err(|error| match error.fault {
            Fault::Exists => PortError::new(
                Fault::Exists,
                format!(
                    "there is a `{}` in the storage pool `{}` already",
                    volume.name, volume.pool
                ),
            ),
            _ => error,
        })?
        .path()
        .or_fault()
    }

    /// Removes a volume by its path; no error where it is gone.
    pub(crate) fn delete(&self, path: &str) -> PortResult<()> {
        let path = xml::tidy_path(path);
        match self.open(&path)? {
            Some((pool, name)) => pool.delete(name),
            None => Ok(()),
        }
    }
}

pub(super) fn pool_facts(description: &str, active: bool) -> PortResult<PoolFacts> {
    let document = xml::parse(description)?;
    let root = document.root_element();
    let kind = root.attribute("type").unwrap_or_default().to_owned();
    let size = |name| {
        xml::child(root, name)
            .and_then(xml::size)
            .unwrap_or_default()
    };
    Ok(PoolFacts {
        name: xml::text(root, &["name"]).unwrap_or_default().to_owned(),
        path: xml::text(root, &["target", "path"])
            .map(xml::tidy_path)
            .unwrap_or_default(),
        active,
        total: size("capacity"),
        available: size("available"),
        shared: SHARED_KINDS.contains(&kind.as_str()),
        kind,
    })
}

/// The active pool with the longest path that has a file right in its directory, and the file's name there.
pub(crate) fn owner<'p, 'f>(pools: &'p [Pool], path: &'f str) -> Option<(&'p Pool, &'f str)> {
    owner_at(pools, path).map(|(at, name)| (&pools[at], name))
}

/// The same by the pool's place among them.
pub(super) fn owner_at<'f>(pools: &[Pool], path: &'f str) -> Option<(usize, &'f str)> {
    let pools = pools.iter().enumerate();
    pools
        .filter(|(_, pool)| pool.facts.active)
        .filter_map(|(at, pool)| Some((pool.facts.path.len(), at, pool.name_of(path)?)))
        .max_by_key(|(length, ..)| *length)
        .map(|(_, at, name)| (at, name))
}

/// The pool of that name, active or not, and the path that a volume of it has.
pub(crate) fn place_of<'p>(
    pools: &'p [Pool],
    (name, volume): &(String, String),
) -> Option<(&'p Pool, String)> {
    let pool = pools.iter().find(|pool| pool.facts.name == *name)?;
    let path = format!("{}/{volume}", pool.facts.path.trim_end_matches('/'));
    Some((pool, xml::tidy_path(&path)))
}

/// The active pool of files with the longest path that a file or directory lies below, and the path from there.
pub(crate) fn above<'p, 'f>(pools: &'p [Pool], path: &'f str) -> Option<(&'p Pool, &'f str)> {
    pools
        .iter()
        .filter(|pool| pool.holds_files())
        .filter_map(|pool| {
            let below = path.strip_prefix(pool.facts.path.trim_end_matches('/'))?;
            Some((
                pool,
                below.strip_prefix('/').filter(|below| !below.is_empty())?,
            ))
        })
        .max_by_key(|(pool, _)| pool.facts.path.len())
}

fn volume_xml(volume: &NewVolume, name: &str) -> PortResult<String> {
    let invalid = |what: String| Err(PortError::new(Fault::Invalid, what));
    if name.is_empty()
        || name == "."
        || name == ".."
        || name.contains('/')
        || name.chars().any(char::is_control)
    {
        return invalid(format!(
            "`{}` is no name for a volume",
            name.escape_default()
        ));
    }
    let compat = match volume.format.as_str() {
        "qcow2" => "<compat>1.1</compat>",
        "raw" => "",
        other => {
            return invalid(format!(
                "volumes of format `{}` are not made",
                other.escape_default()
            ));
        }
    };
    let backing = match &volume.backing {
        None => String::new(),
        Some(below)
            if volume.format == "qcow2" && ["raw", "qcow2"].contains(&below.format.as_str()) =>
        {
            format!(
                "<backingStore><path>{}</path><format type='{}'/></backingStore>",
                xml::escape(&below.path),
                below.format
            )
        }
        Some(below) => {
            return invalid(format!(
                "a volume of format `{}` over one of format `{}` is not made",
                volume.format,
                below.format.escape_default()
            ));
        }
    };
    let encryption = match volume.secret {
        None => String::new(),
        Some(_) if volume.backing.is_some() => {
            return invalid("an encrypted volume over another one is not made".to_owned());
        }
        Some(secret) => format!(
            "<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption>"
        ),
    };
    Ok(format!(
        "<volume type='file'><name>{}</name><capacity unit='bytes'>{}</capacity><allocation unit='bytes'>0</allocation>\
         <target><format type='{}'/>{compat}{encryption}</target>{backing}</volume>",
        xml::escape(name),
        volume.capacity.0,
        volume.format,
    ))
}

/// The file below a volume, if it has one.
pub(crate) fn backing_of(volume: &StorageVol) -> PortResult<Option<String>> {
    let Some(description) = volume.xml_desc(0).or_absent()? else {
        return Ok(None);
    };
    let document = xml::parse(&description)?;
    Ok(xml::text(document.root_element(), &["backingStore", "path"]).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use evenkeel_engine::port::Backing;

    fn xml_of(volume: &NewVolume) -> PortResult<String> {
        volume_xml(volume, &volume.name)
    }

    #[test]
    fn a_pool() {
        let facts = pool_facts(
            "<pool type='dir'><name>default</name><capacity unit='bytes'>1000</capacity>\
             <allocation unit='bytes'>400</allocation><available unit='bytes'>600</available>\
             <target><path>/var/lib//libvirt/images/</path></target></pool>",
            true,
        )
        .unwrap();
        assert_eq!(facts.path, "/var/lib/libvirt/images");
        assert_eq!((facts.total, facts.available), (Bytes(1000), Bytes(600)));
        assert!(!facts.shared);
        assert!(
            pool_facts("<pool type='netfs'><name>n</name></pool>", true)
                .unwrap()
                .shared
        );
    }

    #[test]
    fn volumes_to_be_made() {
        let volume = |name: &str, format: &str| NewVolume {
            pool: "p".into(),
            name: name.into(),
            format: format.into(),
            capacity: Bytes(5),
            backing: None,
            secret: None,
        };
        let over = NewVolume {
            backing: Some(Backing {
                path: "/p/a&b".into(),
                format: "raw".into(),
            }),
            ..volume("o", "qcow2")
        };
        let base = "<backingStore><path>/p/a&amp;b</path><format type='raw'/></backingStore>";
        assert!(xml_of(&over).unwrap().contains(base));
        let sealed = NewVolume {
            secret: Some(uuid::Uuid::from_u128(7)),
            ..over.clone()
        };
        assert_eq!(xml_of(&sealed).unwrap_err().fault, Fault::Invalid);
        let raw = NewVolume {
            format: "raw".into(),
            ..over
        };
        assert_eq!(xml_of(&raw).unwrap_err().fault, Fault::Invalid);
        let sealed = NewVolume {
            secret: Some(uuid::Uuid::from_u128(7)),
            ..volume("s", "raw")
        };
        let key = "<format type='raw'/><encryption format='luks'>\
                   <secret type='passphrase' uuid='00000000-0000-0000-0000-000000000007'/></encryption></target>";
        assert!(xml_of(&sealed).unwrap().contains(key));
        assert!(
            xml_of(&volume("a'b<c", "qcow2"))
                .unwrap()
                .contains("a&apos;b&lt;c")
        );
        for (name, format) in [
            ("", "raw"),
            ("..", "raw"),
            ("a/b", "raw"),
            ("a\n", "raw"),
            ("a", "vmdk"),
        ] {
            assert_eq!(
                xml_of(&volume(name, format)).unwrap_err().fault,
                Fault::Invalid
            );
        }
    }
}
