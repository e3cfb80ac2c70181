//! Pools: directories of a host, each with as much room as a test wants it to have.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::command::run;
use super::host::Host;
use super::preflight;
use super::record::PoolRecord;
use super::text::{escaped, render};

const POOL: &str = include_str!("../../lab/pool.xml");
const NETFS: &str = include_str!("../../lab/netfs.xml");
/// What others may take of a pool while it is being filled to the brim, in bytes.
const MARGIN: u64 = 32 << 20;

/// What a pool's directory lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Room {
    /// A private directory on the machine's own disk, with whatever room that has.
    Machine,
    /// A tmpfs of so many bytes. Its files do not survive the holder of the host, but do survive a power cut.
    Tmpfs(u64),
    /// An ext4 file system of so many bytes in a sparse image on the machine's disk. Allow a tenth for itself.
    Ext4(u64),
    /// GlusterFS, the same for all hosts that have such a pool: somebody mounted it, and the pool is one of a directory.
    Shared,
    /// The same storage in a pool of type `netfs`, as libvirt mounts it.
    Netfs,
}

/// A directory pool a host is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its name in libvirt.
    pub name: String,
    /// Its directory: `/var/lib/libvirt/images` for `default`, else `/var/lib/libvirt/pools/NAME`. Any other has to
    /// be under `/var/lib/libvirt` or `/srv`, which are private to the host.
    pub path: Option<String>,
    /// Its room.
    pub room: Room,
}

impl PoolSpec {
    /// A pool on the machine's own disk.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            path: None,
            room: Room::Machine,
        }
    }

    /// Gives it another directory, see [`PoolSpec::path`].
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Gives it a room of its own.
    #[must_use]
    pub fn room(mut self, room: Room) -> Self {
        self.room = room;
        self
    }

    pub(crate) fn resolve(&self) -> Result<PoolRecord> {
        let path = match (&self.path, self.name.as_str()) {
            (Some(path), _) => path.clone(),
            (None, "default") => "/var/lib/libvirt/images".to_owned(),
            (None, name) => format!("/var/lib/libvirt/pools/{name}"),
        };
        let private = path.starts_with("/var/lib/libvirt/") || path.starts_with("/srv/");
        let plain = !path.contains("/../") && !path.contains('\n') && !path.ends_with('/');
        ensure!(
            private && plain,
            "a pool's directory has to be under /var/lib/libvirt or /srv, not {path:?}"
        );
        match self.room {
            Room::Ext4(_) => preflight::loop_devices()?,
            Room::Shared | Room::Netfs => preflight::shared_storage()?,
            Room::Machine | Room::Tmpfs(_) => {}
        }
        Ok(PoolRecord {
            name: self.name.clone(),
            path,
            room: self.room,
        })
    }
}

/// A file in a pool's directory, as the file system has it; libvirt is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    /// The pool.
    pub pool: String,
    /// The path as the host sees it.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// The bytes it takes up on disk: `st_blocks` times 512.
    pub allocated: u64,
}

/// Makes the image of a pool that has a file system of its own; the path to it, or `-`.
pub(crate) fn make_image(pool: &PoolRecord, image: &Path) -> Result<()> {
    if let Room::Ext4(bytes) = pool.room {
        let file =
            fs::File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
        file.set_len(bytes)?;
        // No journal to replay, no blocks kept for root, no room for inodes nobody needs.
        let options = [
            "-q",
            "-F",
            "-m",
            "0",
            "-N",
            "256",
            "-E",
            "lazy_itable_init=0,nodiscard",
        ];
        run(
            "mkfs.ext4",
            options
                .map(std::ffi::OsStr::new)
                .into_iter()
                .chain([image.as_os_str()]),
        )?;
    }
    Ok(())
}

/// What libvirt reads from its directory of pools.
pub(crate) fn pool_xml(pool: &PoolRecord, gateway: &str) -> String {
    let kind = match pool.room {
        Room::Netfs => NETFS,
        _ => POOL,
    };
    render(
        kind,
        &[
            ("NAME", &escaped(&pool.name)),
            ("PATH", &escaped(&pool.path)),
            ("ADDRESS", gateway),
        ],
    )
}

impl Host<'_> {
    /// All files in the directories of all its pools, hidden ones and those in subdirectories included.
    ///
    /// # Errors
    /// Fails if a directory cannot be read.
    pub fn list_files(&self) -> Result<Vec<HostFile>> {
        let mut files = Vec::new();
        for pool in &self.record().pools {
            self.walk(&pool.name, &pool.path, &mut files)?;
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(files)
    }

    /// Has libvirt look into the directories of all its pools again; it remembers what it saw last. A host that is
    /// off, or whose libvirtd is, will look when it starts.
    ///
    /// # Errors
    /// Fails if libvirt does not find a pool's directory.
    pub fn refresh_pools(&self) -> Result<()> {
        if !self.is_on() || self.libvirtd()?.is_none() {
            return Ok(());
        }
        let mut pools = self.record().pools.iter();
        pools.try_for_each(|pool| {
            self.virsh(&["pool-refresh", "--pool", &pool.name])
                .map(drop)
        })
    }

    fn walk(&self, pool: &str, directory: &str, files: &mut Vec<HostFile>) -> Result<()> {
        let outside = self.outside(directory)?;
        let entries = fs::read_dir(&outside)
            .with_context(|| format!("cannot list {directory} on {}", self.name()))?;
        for entry in entries {
            let entry = entry?;
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            // A file may be removed while we look.
            let Ok(facts) = entry.path().symlink_metadata() else {
                continue;
            };
            if !facts.is_dir() {
                let (length, allocated) = (facts.len(), facts.blocks() * 512);
                files.push(HostFile {
                    pool: pool.to_owned(),
                    path,
                    length,
                    allocated,
                });
            } else if entry.file_name() != "lost+found" {
                self.walk(pool, &path, files)?;
            }
        }
        Ok(())
    }

    /// Fills a pool until only `left` bytes are free, with the file `evenkeel-lab-ballast`; 0 fills it to the brim.
    /// Meant for pools with a room of their own.
    ///
    /// # Errors
    /// Fails if the pool is unknown, lies on the machine's own disk or the file cannot be written.
    pub fn fill_pool(&self, pool: &str, left: u64) -> Result<()> {
        let record = self.pool(pool)?;
        ensure!(
            record.room != Room::Machine,
            "pool {pool} of {} lies on the machine's own disk",
            self.name()
        );
        let directory = self.outside(&record.path)?;
        let file = directory.join("evenkeel-lab-ballast");
        let brim = left == 0;
        let bytes = free_room(&directory)?.saturating_sub(if brim { MARGIN } else { left });
        run(
            "fallocate",
            [
                "--length".as_ref(),
                bytes.to_string().as_ref(),
                file.as_os_str(),
            ],
        )?;
        if brim {
            write_until_full(&file)?;
        }
        Ok(())
    }

    /// Removes what [`Host::fill_pool`] made.
    ///
    /// # Errors
    /// Fails if the pool is unknown or the file cannot be removed.
    pub fn drain_pool(&self, pool: &str) -> Result<()> {
        let file = self
            .outside(&self.pool(pool)?.path)?
            .join("evenkeel-lab-ballast");
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// Whether a pool's files are those of other hosts too.
    #[must_use]
    pub fn shares(&self, pool: &str) -> bool {
        let room = self.pool(pool).map(|pool| pool.room);
        matches!(room, Ok(Room::Shared | Room::Netfs))
    }

    fn pool(&self, name: &str) -> Result<&PoolRecord> {
        let found = self.record().pools.iter().find(|pool| pool.name == name);
        found.with_context(|| format!("host {} has no pool {name:?}", self.name()))
    }
}

/// Bytes that are free for everybody.
fn free_room(directory: &Path) -> Result<u64> {
    let free = run(
        "stat",
        [
            "--file-system".as_ref(),
            "--format=%a %S".as_ref(),
            directory.as_os_str(),
        ],
    )?;
    let numbers = free
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    Ok(numbers.iter().product())
}

/// Appends zeroes until there is no room left.
fn write_until_full(file: &Path) -> Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(file)?;
    let zeroes = vec![0; 64 << 10];
    loop {
        match file.write_all(&zeroes).and_then(|()| file.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
