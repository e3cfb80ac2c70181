//! Describing a lab and bringing it up.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::command::{in_parallel, run};
use super::domain::GuestSpec;
use super::layout::{self, Layout};
use super::record::{HostRecord, LabRecord};
use super::storage::{PoolSpec, Room};
use super::teardown::Keeper;
use super::{Lab, image, namespaces, preflight};

/// A host the lab is to have.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its name in the lab and in manifests.
    pub name: String,
    /// What `hostname` says on it; absent: its name if that can be one, else `evk-ID-INDEX`.
    pub hostname: Option<String>,
    /// Its pools.
    pub pools: Vec<PoolSpec>,
    /// Its libvirt networks, each on an isolated bridge of its own.
    pub networks: Vec<String>,
    /// Bytes per second its link carries in each direction; absent: unlimited.
    pub rate: Option<u64>,
    /// Lines to add to its `libvirtd.conf`, such as `keepalive_interval = 1`.
    pub libvirtd_options: String,
    /// Lines to add to its `qemu.conf`, such as `migrate_tls_force = 1`.
    pub qemu_options: String,
    /// Its `host_uuid`; absent: a new one.
    pub uuid: Option<String>,
    /// Whether it is reached by plain TCP in any case.
    pub plain_too: bool,
    /// How its libvirtd asks for a name and a password: names of SASL's mechanisms; absent: not at all.
    pub sasl: Option<String>,
}

impl HostSpec {
    /// A host with one pool and one network, both named `default`, and an unlimited link.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            hostname: None,
            pools: vec![PoolSpec::new("default")],
            networks: vec!["default".to_owned()],
            rate: None,
            libvirtd_options: String::new(),
            qemu_options: String::new(),
            uuid: None,
            plain_too: false,
            sasl: None,
        }
    }

    /// Has its libvirtd ask for a name and a password by this mechanism, such as `scram-sha-256`.
    #[must_use]
    pub fn sasl(mut self, mechanism: &str) -> Self {
        self.sasl = Some(mechanism.to_owned());
        self
    }

    /// Has it reached by plain TCP too, at [`Host::plain_uri`](super::Host::plain_uri), in a lab that is encrypted.
    #[must_use]
    pub fn plain_too(mut self) -> Self {
        self.plain_too = true;
        self
    }

    /// Gives it one more pool, or another one of the same name.
    #[must_use]
    pub fn pool(mut self, pool: PoolSpec) -> Self {
        self.pools.retain(|other| other.name != pool.name);
        self.pools.push(pool);
        self
    }

    /// Limits its link to so many bytes per second in each direction.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u64) -> Self {
        self.rate = Some(bytes_per_second);
        self
    }

    /// Gives it exactly these networks.
    #[must_use]
    pub fn networks(mut self, names: &[&str]) -> Self {
        self.networks = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Adds lines to its `libvirtd.conf`.
    #[must_use]
    pub fn libvirtd_options(mut self, lines: &str) -> Self {
        self.libvirtd_options = lines.to_owned();
        self
    }

    /// Adds lines to its `qemu.conf`.
    #[must_use]
    pub fn qemu_options(mut self, lines: &str) -> Self {
        self.qemu_options = lines.to_owned();
        self
    }

    fn record(&self, id: &str, subnet: u8, index: usize) -> Result<HostRecord> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let usable = !self.name.is_empty() && self.name.len() <= 63 && self.name.bytes().all(plain);
        let own = if usable {
            self.name.clone()
        } else {
            format!("evk-{id}-{index}")
        };
        Ok(HostRecord {
            name: self.name.clone(),
            hostname: self.hostname.clone().unwrap_or(own),
            index,
            address: layout::address(subnet, index),
            uuid: self
                .uuid
                .clone()
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            pools: self
                .pools
                .iter()
                .map(PoolSpec::resolve)
                .collect::<Result<_>>()?,
            networks: self.networks.clone(),
        })
    }
}

/// Describes a lab; [`LabBuilder::up`] makes it.
#[derive(Debug, Clone, Default)]
pub struct LabBuilder {
    id: Option<String>,
    hosts: Vec<HostSpec>,
    guests: Vec<GuestSpec>,
    plain: bool,
}

impl LabBuilder {
    /// Gives it an id of 1 to 6 small letters and digits; without it a random one is taken.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Hosts reached by plain TCP, and moves that are not encrypted. Without it everything is, with certificates of the
    /// lab's own.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Adds plain hosts named `h1`, `h2` and so on, up to `count` hosts in all.
    #[must_use]
    pub fn hosts(mut self, count: usize) -> Self {
        while self.hosts.len() < count {
            self.hosts
                .push(HostSpec::new(format!("h{}", self.hosts.len() + 1)));
        }
        self
    }

    /// Adds one host.
    #[must_use]
    pub fn host(mut self, host: HostSpec) -> Self {
        self.hosts.push(host);
        self
    }

    /// Changes every host added so far.
    #[must_use]
    pub fn each_host(mut self, change: impl Fn(HostSpec) -> HostSpec) -> Self {
        self.hosts = self.hosts.into_iter().map(change).collect();
        self
    }

    /// Adds plain guests named `g1`, `g2` and so on, up to `count` guests in all, dealt out over the hosts.
    #[must_use]
    pub fn guests(mut self, count: usize) -> Self {
        while self.guests.len() < count {
            self.guests
                .push(GuestSpec::new(format!("g{}", self.guests.len() + 1)));
        }
        self
    }

    /// Adds one guest.
    #[must_use]
    pub fn guest(mut self, guest: GuestSpec) -> Self {
        self.guests.push(guest);
        self
    }

    /// Builds it: hosts and then guests, each side by side, and waits until every libvirtd answers and every guest
    /// counts. The lab belongs to this process and goes with it.
    ///
    /// # Errors
    /// Fails with a sentence if the machine is not fit for it or something does not come up; what was built by then
    /// is taken down again.
    pub fn up(self) -> Result<Lab> {
        preflight()?;
        ensure!(!self.hosts.is_empty(), "a lab needs at least one host");
        ensure!(
            self.hosts.len() <= layout::MOST_HOSTS,
            "a lab has at most {} hosts",
            layout::MOST_HOSTS
        );
        let names: BTreeSet<_> = self.hosts.iter().map(|host| &host.name).collect();
        ensure!(
            names.len() == self.hosts.len(),
            "two hosts of the lab have the same name"
        );
        let boot =
            image::boot_directory().context("cannot prepare the guests' kernel and initramfs")?;

        let layout = Layout::of(&self.id.unwrap_or_else(layout::new_id))?;
        layout.claim_id()?;
        // From here on everything goes again, whatever happens to us.
        let keeper = Keeper::start(&layout)?;
        let empty = LabRecord {
            id: layout.id().to_owned(),
            subnet: 0,
            encrypted: !self.plain,
            hosts: Vec::new(),
            guests: Vec::new(),
        };
        let lab = Lab {
            layout,
            record: Mutex::new(empty),
            children: Mutex::new(Vec::new()),
            keeper: Some(keeper),
        };
        lab.build_hosts(&self.hosts, boot)?;
        lab.add_guests(self.guests)?;
        Ok(lab)
    }
}

impl Lab {
    fn build_hosts(&self, specs: &[HostSpec], boot: PathBuf) -> Result<()> {
        let layout = self.layout();
        let subnet = layout.claim_subnet()?;
        let hosts = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| spec.record(layout.id(), subnet, index));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let mut hosts_file = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for host in &hosts {
            hosts_file += &format!("{} {}\n", host.address, host.hostname);
        }
        if let Ok(mut record) = self.record.lock() {
            (record.subnet, record.hosts) = (subnet, hosts);
        }

        fs::create_dir_all(layout.scratch())
            .with_context(|| format!("cannot make {}", layout.data().display()))?;
        namespaces::write_scripts(layout)?;
        let bridge = layout.bridge();
        run("ip", ["link", "add", &bridge, "type", "bridge"])?;
        run(
            "ip",
            [
                "address",
                "add",
                &format!("{}/24", self.gateway()),
                "dev",
                &bridge,
            ],
        )?;
        run("ip", ["link", "set", &bridge, "up"])?;

        let mut pools = specs.iter().flat_map(|spec| &spec.pools);
        if pools.any(|pool| matches!(pool.room, Room::Shared | Room::Netfs)) {
            self.serve_shared()?;
        }

        self.write_password()?;
        let authority = match self.is_encrypted() {
            true => Some(self.found_authority()?),
            false => None,
        };
        let hosts: Vec<_> = self.hosts().into_iter().zip(specs).collect();
        in_parallel(&hosts, |(host, spec)| {
            if let Some(authority) = &authority {
                host.certify(authority)?;
            }
            host.ask_for_passwords(spec.sasl.as_deref())?;
            host.build(&boot, &hosts_file, spec)?;
            host.rate(spec.rate)?;
            host.energize()?;
            host.start_libvirtd()
        })?;
        self.record().write(layout)?;
        self.check_network()
    }

    /// A firewall of the machine may be in the way of frames that only pass its bridge.
    fn check_network(&self) -> Result<()> {
        let hosts = self.hosts();
        if let [first, second, ..] = hosts.as_slice() {
            let connect = format!("exec 3<>/dev/tcp/{}/{}", second.address(), second.port());
            first
                .exec(&["timeout", "5", "bash", "-c", &connect])
                .context(
                    "the hosts do not reach each other: a firewall drops what passes the bridge, \
                 try sysctl net.bridge.bridge-nf-call-iptables=0",
                )?;
        }
        Ok(())
    }
}
