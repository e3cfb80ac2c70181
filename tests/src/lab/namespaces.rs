//! How a host comes into being: its private directories, its namespaces, its cable; and how its power goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::builder::HostSpec;
use super::command::{command, run};
use super::host::Host;
use super::process::Process;
use super::text::{escaped, render};
use super::{layout, storage};

const HOLDER: &str = include_str!("../../lab/holder.sh");
const MACHINE: &str = include_str!("../../lab/machine.sh");
const LIBVIRTD: &str = include_str!("../../lab/libvirtd.conf");
const QEMU: &str = include_str!("../../lab/qemu.conf");
const NETWORK: &str = include_str!("../../lab/network.xml");
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes the scripts all hosts of a lab use.
pub(crate) fn write_scripts(layout: &layout::Layout) -> Result<()> {
    fs::write(layout.script("holder.sh"), HOLDER)?;
    fs::write(layout.script("machine.sh"), MACHINE)?;
    Ok(())
}

impl Host<'_> {
    /// Makes its directories and namespaces and connects it; its power stays off.
    pub(crate) fn build(&self, boot: &Path, hosts_file: &str, spec: &HostSpec) -> Result<()> {
        let (state, data) = (self.state(), self.data());
        fs::create_dir_all(&state)?;
        for private in [
            "etc/qemu/networks/autostart",
            "etc/storage/autostart",
            "etc/secrets",
            "log",
            "cache",
            "srv",
            "layer",
        ] {
            fs::create_dir_all(data.join(private))?;
        }
        for private in ["images", "pools", "boot", "console", "qemu"] {
            fs::create_dir_all(data.join("lib").join(private))?;
        }
        fs::write(data.join("hosts"), hosts_file)?;
        self.write_configuration(spec)?;
        let mut pools = String::new();
        for (place, pool) in self.record().pools.iter().enumerate() {
            let image = data.join(format!("pool{place}.img"));
            storage::make_image(pool, &image)?;
            let (kind, size) = match pool.room {
                storage::Room::Machine | storage::Room::Shared | storage::Room::Netfs => {
                    ("directory", 0)
                }
                storage::Room::Tmpfs(size) => ("tmpfs", size),
                storage::Room::Ext4(size) => ("ext4", size),
            };
            pools += &format!("{kind} {size} {} {}\n", image.display(), pool.path);
        }
        fs::write(data.join("pools"), pools)?;
        let bridges = (0..self.record().networks.len()).map(|place| format!("br{place}\n"));
        fs::write(data.join("bridges"), bridges.collect::<String>())?;

        let layout = self.lab().layout();
        let script = layout.script("holder.sh");
        let words = [
            &layout.state(),
            &state,
            &data,
            Path::new(&self.record().hostname),
            boot,
        ]
        .map(Path::to_owned);
        self.launch(&script, &words, "held")?;
        self.connect()?;
        self.mount_shared()
    }

    fn write_configuration(&self, spec: &HostSpec) -> Result<()> {
        let etc = self.data().join("etc");
        let number = |on: bool| if on { "1" } else { "0" };
        let encrypted = self.lab().is_encrypted();
        let (tls, tcp) = (number(encrypted), number(!encrypted || spec.plain_too));
        let values = [
            ("UUID", self.record().uuid.as_str()),
            ("TLS", tls),
            ("TCP", tcp),
            ("AUTH", if spec.sasl.is_some() { "sasl" } else { "none" }),
            ("OPTIONS", &spec.libvirtd_options),
        ];
        fs::write(etc.join("libvirtd.conf"), render(LIBVIRTD, &values))?;
        let values = [("TLS", tls), ("OPTIONS", spec.qemu_options.as_str())];
        fs::write(etc.join("qemu.conf"), render(QEMU, &values))?;
        fs::write(etc.join("libvirt.conf"), "")?;
        for (place, network) in self.record().networks.iter().enumerate() {
            let values = [
                ("NAME", &escaped(network)),
                ("BRIDGE", &format!("br{place}")),
            ];
            let xml = render(NETWORK, &values.map(|(key, value)| (key, value.as_str())));
            autostarted(&etc.join("qemu/networks"), network, &xml)?;
        }
        for pool in &self.record().pools {
            let xml = storage::pool_xml(pool, &self.lab().gateway());
            autostarted(&etc.join("storage"), &pool.name, &xml)?;
        }
        Ok(())
    }

    /// The cable from the machine's bridge to the host's `eth0`.
    fn connect(&self) -> Result<()> {
        let layout = self.lab().layout();
        let (cable, bridge) = (layout.cable(self.record().index), layout.bridge());
        let holder = self.holder()?.pid.to_string();
        run(
            "ip",
            [
                "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &holder,
            ],
        )?;
        run("ip", ["link", "set", &cable, "master", &bridge, "up"])?;
        let address = format!("{}/24", self.address());
        self.ip(&["address", "add", &address, "dev", "eth0"])?;
        self.ip(&["link", "set", "eth0", "up"])?;
        self.ip(&["route", "add", "default", "via", &self.lab().gateway()])
    }

    /// Switches the host's power on, without libvirtd.
    pub(crate) fn energize(&self) -> Result<()> {
        let layout = self.lab().layout();
        let script = layout.script("machine.sh");
        let _ = fs::remove_file(self.state().join("on"));
        let words = [
            layout.state(),
            self.state(),
            PathBuf::from(self.holder()?.pid.to_string()),
        ];
        self.launch(&script, &words, "on")
    }

    /// Cuts the power: every process of the host is gone when this returns, its files and file systems stay.
    ///
    /// What was written but not yet synced survives here, unlike on a machine: the page cache is the same one.
    ///
    /// # Errors
    /// Fails if a process does not go.
    pub fn power_off(&self) -> Result<()> {
        run(
            "ip",
            [
                "link",
                "set",
                &self.lab().layout().cable(self.record().index),
                "down",
            ],
        )?;
        for file in ["power.process", "init.process"] {
            let file = self.state().join(file);
            if !file.exists() {
                continue;
            }
            let process = Process::read(&file)?;
            process.signal("KILL")?;
            process.wait_gone(PATIENCE)?;
            let _ = fs::remove_file(&file);
        }
        let _ = fs::remove_file(self.state().join("on"));
        Ok(())
    }

    /// Switches the host on again, as after a reboot: an empty `/run`, libvirtd started, guests with autostart too.
    ///
    /// # Errors
    /// Fails if the host or its libvirtd does not come up.
    pub fn power_on(&self) -> Result<()> {
        run(
            "ip",
            [
                "link",
                "set",
                &self.lab().layout().cable(self.record().index),
                "up",
            ],
        )?;
        if !self.is_on() {
            self.energize()?;
        }
        self.start_libvirtd()
    }

    /// Whether its power is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.init().is_ok_and(|init| init.is_alive())
    }

    /// Starts one of the launchers and waits until it says that it is ready.
    fn launch(&self, script: &Path, words: &[PathBuf], ready: &str) -> Result<()> {
        let log = self.state().join(format!("{ready}.log"));
        let output = fs::File::create(&log)?;
        let mut command = command("setsid", ["sh".as_ref(), script.as_os_str()]);
        command
            .args(words)
            .current_dir("/")
            .stdout(output.try_clone()?)
            .stderr(output)
            .stdin(Stdio::null());
        let mut child = command.spawn().context("cannot start a launcher")?;
        let sign = self.state().join(ready);
        let end = Instant::now() + PATIENCE;
        let mut ended = None;
        // The power's sign is a file that is opened early and written late.
        while !fs::metadata(&sign).is_ok_and(|facts| ready == "held" || facts.len() > 0) {
            ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.lab().adopt(child);
        if ended.is_some() || !sign.exists() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("host {} did not come up: {}", self.name(), said.trim());
        }
        Ok(())
    }
}

fn autostarted(directory: &Path, name: &str, xml: &str) -> Result<()> {
    let file = format!("{name}.xml");
    fs::write(directory.join(&file), xml)?;
    std::os::unix::fs::symlink(
        Path::new("..").join(&file),
        directory.join("autostart").join(&file),
    )?;
    Ok(())
}
