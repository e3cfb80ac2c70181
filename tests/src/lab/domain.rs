//! What a guest of the lab is made of, and the domain XML that says so to libvirt.

use serde::{Deserialize, Serialize};

use super::disk::DiskSpec;
use super::text::{escaped, render};

const DOMAIN: &str = include_str!("../../lab/domain.xml");
const DISK: &str = include_str!("../../lab/disk.xml");
const INTERFACE: &str = include_str!("../../lab/interface.xml");

/// What a guest does besides counting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// MiB of memory it keeps rewriting.
    pub dirty_mib: u64,
    /// Seconds it rests after each round of that; 0: none, so it never converges over a slow link.
    pub dirty_pause: f64,
    /// Whether it burns its processor.
    pub cpu: bool,
    /// MiB of its first disk, after the ring, that it keeps writing over with what is there, some MB/s, and flushing.
    #[serde(default)]
    pub write_mib: u64,
}

/// A guest to be made. The defaults are small: 96 MiB, one vCPU, one thin disk, one interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// The domain's name.
    pub name: String,
    /// The host to make it on; absent: dealt out over the hosts in turn.
    pub host: Option<String>,
    /// Its UUID; absent: a new one.
    pub uuid: Option<String>,
    /// Its memory; the kernel does not boot in less than 80, and load needs more.
    pub memory_mib: u64,
    /// Its virtual processors.
    pub vcpus: u32,
    /// Its disks, `vda` and on.
    pub disks: Vec<DiskSpec>,
    /// The libvirt networks its interfaces are on.
    pub networks: Vec<String>,
    /// What it does besides counting.
    pub load: Load,
    /// Seconds between two counts.
    pub interval: f64,
    /// Whether it obeys the power button, so that `virsh shutdown` works.
    pub acpi: bool,
    /// Whether to start it.
    pub start: bool,
    /// Whether it starts with its host.
    pub autostart: bool,
    /// XML to add inside `<devices>`, as it is.
    pub extra_devices: String,
    /// XML to add inside `<domain>`, as it is: metadata, cpu, memory backing.
    pub extra_domain: String,
}

impl GuestSpec {
    /// The target device of each disk: `vda`, `vdb` and on.
    pub fn targets(&self) -> impl Iterator<Item = String> {
        targets().take(self.disks.len())
    }

    /// A small guest that is started at once.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            host: None,
            uuid: None,
            memory_mib: 96,
            vcpus: 1,
            disks: vec![DiskSpec::default()],
            networks: vec!["default".to_owned()],
            load: Load::default(),
            interval: 0.3,
            acpi: true,
            start: true,
            autostart: false,
            extra_devices: String::new(),
            extra_domain: String::new(),
        }
    }

    /// Makes it on this host.
    #[must_use]
    pub fn on(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Gives it so much memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Gives it exactly these disks, at most 26.
    #[must_use]
    pub fn disks(mut self, disks: Vec<DiskSpec>) -> Self {
        self.disks = disks;
        self
    }

    /// Its disks' files, each with the device's name, without their folders.
    pub fn files(&self) -> Vec<(String, String)> {
        let disks = self.disks.iter().zip(self.targets());
        disks
            .map(|(disk, target)| {
                let file = disk.file_name(&self.name, &target);
                (target, file)
            })
            .collect()
    }

    /// Gives it something to do.
    #[must_use]
    pub fn load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// Defines it without starting it.
    #[must_use]
    pub fn stopped(mut self) -> Self {
        self.start = false;
        self
    }

    /// Starts it with its host.
    #[must_use]
    pub fn autostart(mut self) -> Self {
        self.autostart = true;
        self
    }

    fn kernel_arguments(&self) -> String {
        let mut words =
            vec!["console=ttyS0 quiet panic=1 mitigations=off nokaslr audit=0".to_owned()];
        words.push(format!("evk.interval={}", self.interval));
        if self.load.dirty_mib > 0 {
            words.push(format!(
                "evk.dirty={} evk.dirtypause={}",
                self.load.dirty_mib, self.load.dirty_pause
            ));
        }
        if self.load.cpu {
            words.push("evk.cpu=1".to_owned());
        }
        if self.load.write_mib > 0 {
            words.push(format!("evk.write={}", self.load.write_mib));
        }
        if !self.acpi {
            words.push("evk.acpi=0".to_owned());
        }
        words.join(" ")
    }

    /// The domain XML, with the disks at these paths and the serial log at that one.
    pub(crate) fn xml(&self, uuid: &str, disk_paths: &[String], console: &str) -> String {
        let disks =
            self.disks
                .iter()
                .zip(disk_paths)
                .zip(targets())
                .map(|((disk, path), target)| {
                    let format = disk.format.name();
                    let encryption = disk.secret.as_ref().map(|secret| {
                        format!(
                            "<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption>"
                        )
                    });
                    render(
                        DISK,
                        &[
                            ("FORMAT", format),
                            ("PATH", &escaped(path)),
                            ("TARGET", &target),
                            ("ENCRYPTION", &encryption.unwrap_or_default()),
                        ],
                    )
                });
        let networks = self.networks.iter();
        let interfaces =
            networks.map(|network| render(INTERFACE, &[("NETWORK", &escaped(network))]));
        let values = [
            ("NAME", escaped(&self.name)),
            ("UUID", uuid.to_owned()),
            ("MEMORY", self.memory_mib.to_string()),
            ("VCPUS", self.vcpus.to_string()),
            ("ARGUMENTS", escaped(&self.kernel_arguments())),
            ("EXTRA_DOMAIN", self.extra_domain.clone()),
            ("DISKS", disks.collect()),
            ("INTERFACES", interfaces.collect()),
            ("CONSOLE", escaped(console)),
            ("EXTRA_DEVICES", self.extra_devices.clone()),
        ];
        render(
            DOMAIN,
            &values.each_ref().map(|(key, value)| (*key, value.as_str())),
        )
    }
}

/// `vda`, `vdb` and on.
pub(crate) fn targets() -> impl Iterator<Item = String> {
    ('a'..='z').map(|letter| format!("vd{letter}"))
}
