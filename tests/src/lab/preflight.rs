//! What the lab needs from the machine, asked before anything is built: one sentence says what is missing and what
//! to do about it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::command::{PATH, run};

/// Program and the Debian package it comes in.
const TOOLS: [(&str, &str); 18] = [
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("hostname", "hostname"),
    ("kill", "procps"),
    ("timeout", "coreutils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
];

/// Checks that a lab can be built here.
///
/// # Errors
/// Fails with one sentence that says what is missing and what to do.
pub fn preflight() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")
        .context("the lab needs Linux with /proc mounted")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1));
    if effective != Some("0") {
        bail!(
            "the lab needs root to make namespaces and bridges: run this as root, or under sudo -E"
        );
    }
    let mut packages: Vec<_> = TOOLS
        .iter()
        .filter(|(tool, _)| find(tool).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if !packages.is_empty() {
        bail!(
            "the lab lacks the Debian packages {}: run tests/scripts/install-lab.sh",
            packages.join(", ")
        );
    }
    if let Err(error) = run(
        "unshare",
        ["--net", "--mount", "--uts", "--pid", "--fork", "true"],
    ) {
        bail!(
            "the lab needs new network, mount, UTS and PID namespaces and may not make them ({error:#}): \
             run it on a virtual machine or in a privileged container"
        );
    }
    if !Path::new("/dev/net/tun").exists() {
        bail!(
            "the lab needs /dev/net/tun for the guests' interfaces: \
             load the kernel module tun, or give the container that device"
        );
    }
    Ok(())
}

/// Checks that storage can be shared among hosts, asked only where a pool needs it.
pub(crate) fn shared_storage() -> Result<()> {
    if find("glusterfsd").is_none() || find("glusterfs").is_none() {
        bail!(
            "shared storage needs the Debian packages glusterfs-server and glusterfs-client: run tests/scripts/install.sh tests"
        );
    }
    if !Path::new("/dev/fuse").exists() {
        bail!(
            "shared storage needs /dev/fuse: load the kernel module fuse, or give the container that device"
        );
    }
    Ok(())
}

/// Checks that images can be mounted, asked only where a pool needs it.
pub(crate) fn loop_devices() -> Result<()> {
    if !Path::new("/dev/loop-control").exists() {
        bail!(
            "a pool on ext4 needs /dev/loop-control: \
             load the kernel module loop, give the container that device, or use a tmpfs pool"
        );
    }
    Ok(())
}

fn find(tool: &str) -> Option<std::path::PathBuf> {
    PATH.split(':')
        .map(|directory| Path::new(directory).join(tool))
        .find(|path| path.exists())
}
