//! The lab: several real libvirt hosts on one machine, with real guests, for tests and for hands.
//!
//! Each host has its own network, mount, UTS and PID namespaces, its own libvirtd and its own QEMUs; the machine's
//! root network reaches all of them over a bridge. Nothing outside the lab's own directories is changed, and a lab
//! goes when its owner goes, however that ends (see [`teardown`]).
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use evenkeel_tests::lab::{GuestSpec, Lab};
//!
//! let lab = Lab::builder().hosts(2).guest(GuestSpec::new("web").on("h1")).up()?;
//! lab.host("h1")?.virsh(&["migrate", "--live", "--p2p", "--copy-storage-all", "web", &lab.host("h2")?.uri()])?;
//! lab.guest("web")?.wait_for_progress(std::time::Duration::from_secs(20))?;
//! assert!(lab.guest("web")?.continuity()?.is_unbroken());
//! # Ok(())
//! # }
//! ```
//!
//! A limit that is QEMU's, not ours: under software emulation QEMU 7.2 loses guest memory in migrations slowed to a
//! few MB/s (see `tests/lab/init`). Let moves last by giving disks more data, or keep bandwidth times permitted
//! downtime over 4 MB; a guest that was rebooted or fell silent after a slower move is no proof against the mover.
//!
//! The lab knows libvirt only through `virsh`, `libvirtd` and QEMU's tools, never through Evenkeel's own code: what
//! it says about a guest is a second opinion.

mod authority;
mod builder;
mod census;
mod command;
mod disk;
mod domain;
mod events;
mod gluster;
mod guest;
mod host;
mod image;
mod layout;
mod link;
mod manifest;
mod namespaces;
mod pattern;
mod preflight;
mod process;
mod record;
mod sasl;
mod serial;
mod ssh;
mod storage;
pub mod teardown;
mod text;

pub use authority::{Authority, Certificate, Identity, SECRET};
pub use builder::{HostSpec, LabBuilder};
pub use disk::{Backing, DiskFormat, DiskReport, DiskSpec, RingReport, passphrase};
pub use domain::{GuestSpec, Load};
pub use events::Events;
pub use guest::{Guest, GuestCopy};
pub use host::Host;
pub use preflight::preflight;
pub use process::Process;
pub use record::{GuestRecord, HostRecord, LabRecord, PoolRecord};
pub use serial::{Continuity, SerialRecord};
pub use ssh::SshKey;
pub use storage::{HostFile, PoolSpec, Room};
pub use text::bytes;

use std::process::Child;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use layout::Layout;
use teardown::Keeper;

/// A lab that is up. Dropping it takes it down, unless it was opened with [`Lab::open`] or released with
/// [`Lab::release`], or `EVENKEEL_LAB_KEEP` is set in the environment.
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    record: Mutex<LabRecord>,
    /// Processes started by this one; they are waited for when the lab goes, so that none stays as a zombie.
    children: Mutex<Vec<Child>>,
    /// Present while this process owns the lab.
    keeper: Option<Keeper>,
}

impl Lab {
    /// Starts to describe a new lab.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// Opens a lab that somebody else brought up; dropping the result leaves it alone.
    ///
    /// # Errors
    /// Fails if there is no lab with that id, or it never came up.
    pub fn open(id: &str) -> Result<Self> {
        let layout = Layout::of(id)?;
        let record = LabRecord::read(&layout)?;
        Ok(Self {
            layout,
            record: Mutex::new(record),
            children: Mutex::new(Vec::new()),
            keeper: None,
        })
    }

    /// The ids of all labs on this machine, half-built and crashed ones included.
    ///
    /// # Errors
    /// Fails if the directories of labs cannot be read.
    pub fn list() -> Result<Vec<String>> {
        layout::ids()
    }

    /// The lab's id: part of the name of each of its devices and directories.
    #[must_use]
    pub fn id(&self) -> &str {
        self.layout.id()
    }

    /// The address of the lab's bridge: where the hosts see this machine.
    #[must_use]
    pub fn gateway(&self) -> String {
        layout::gateway(self.record().subnet)
    }

    /// A copy of everything the lab wrote down about itself.
    #[must_use]
    pub fn record(&self) -> LabRecord {
        self.record
            .lock()
            .map(|record| record.clone())
            .unwrap_or_else(|poisoned| poisoned.into_inner().clone())
    }

    /// All hosts, in order.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host<'_>> {
        self.record()
            .hosts
            .into_iter()
            .map(|record| Host::new(self, record))
            .collect()
    }

    /// One host by its name.
    ///
    /// # Errors
    /// Fails if the lab has no such host.
    pub fn host(&self, name: &str) -> Result<Host<'_>> {
        let record = self.record();
        let names: Vec<_> = record.hosts.iter().map(|host| host.name.clone()).collect();
        let found = record.hosts.into_iter().find(|host| host.name == name);
        let found = found
            .with_context(|| format!("lab {} has no host {name:?}, only {names:?}", self.id()))?;
        Ok(Host::new(self, found))
    }

    /// All guests the lab has made, in order.
    #[must_use]
    pub fn guests(&self) -> Vec<Guest<'_>> {
        self.record()
            .guests
            .into_iter()
            .map(|record| Guest::new(self, record))
            .collect()
    }

    /// One guest by its name.
    ///
    /// # Errors
    /// Fails if the lab never made such a guest.
    pub fn guest(&self, name: &str) -> Result<Guest<'_>> {
        let found = self
            .record()
            .guests
            .into_iter()
            .find(|guest| guest.spec.name == name);
        let found = found.with_context(|| format!("lab {} has no guest {name:?}", self.id()))?;
        Ok(Guest::new(self, found))
    }

    /// Makes one more guest, and waits until it counts if it is to be started.
    ///
    /// # Errors
    /// Fails if its host is unknown, libvirt refuses it or it does not come up.
    pub fn add_guest(&self, spec: GuestSpec) -> Result<Guest<'_>> {
        self.add_guests(vec![spec])?
            .pop()
            .context("one guest was asked for")
    }

    /// Makes several guests at once, all booting side by side, and waits until those to be started count.
    ///
    /// # Errors
    /// Fails if a host is unknown, a name is taken, libvirt refuses one or one does not come up.
    pub fn add_guests(&self, specs: Vec<GuestSpec>) -> Result<Vec<Guest<'_>>> {
        let mut made = Vec::new();
        {
            let Ok(mut record) = self.record.lock() else {
                bail!("an earlier change of this lab panicked")
            };
            for spec in specs {
                made.push(record.enter_guest(spec)?);
            }
            record.write(&self.layout)?;
        }
        let guests: Vec<_> = made
            .into_iter()
            .map(|record| Guest::new(self, record))
            .collect();
        command::in_parallel(&guests, Guest::create)?;
        command::in_parallel(&self.hosts(), Host::refresh_pools)?;
        command::in_parallel(&guests, |guest| match guest.spec().start {
            true => guest.wait_until_up(),
            false => Ok(()),
        })?;
        Ok(guests)
    }

    /// Gives up ownership: the lab stays until `lab down`, also after this process.
    ///
    /// # Errors
    /// Fails if the keeper cannot be told.
    pub fn release(mut self) -> Result<()> {
        match self.keeper.take() {
            Some(keeper) => keeper.release(),
            None => Ok(()),
        }
    }

    /// Takes the lab down now and says so if something is left.
    ///
    /// # Errors
    /// Fails if something of the lab could not be removed.
    pub fn destroy(mut self) -> Result<()> {
        let keeper = self.keeper.take();
        let result = self.take_down();
        if let Some(keeper) = keeper {
            keeper.release()?;
        }
        result
    }

    fn take_down(&self) -> Result<()> {
        let result = teardown::take_down(self.layout.id());
        if let Ok(mut children) = self.children.lock() {
            for child in children.iter_mut() {
                let _ = child.wait();
            }
        }
        result
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn adopt(&self, child: Child) {
        if let Ok(mut children) = self.children.lock() {
            children.push(child);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else {
            return;
        };
        for host in self.hosts() {
            let crashes = host.libvirtd_crashes();
            if crashes > 0 {
                tracing::warn!("libvirtd of {} crashed by itself: {crashes} x", host.name());
            }
        }
        if std::env::var_os("EVENKEEL_LAB_KEEP").is_some() {
            tracing::warn!(
                "lab {0} is kept; take it down with: lab down --lab {0}",
                self.id()
            );
        } else if let Err(error) = self.take_down() {
            tracing::error!("lab {}: {error:#}", self.id());
        }
        let _ = keeper.release();
    }
}
