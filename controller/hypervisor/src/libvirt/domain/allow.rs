//! The elements of a domain's XML that we know to be harmless to a migration. What is not here is refused by name.
//!
//! A line is a path below `domain`. `*` at its end stands for whatever lies below. Elements that are known and
//! refused with a sentence of their own are here too; `obstacles.rs` speaks for them.

use roxmltree::Node;

const KNOWN: &str = "
name
uuid
genid
title
description
metadata/*
memory
maxMemory
currentMemory
memoryBacking
memoryBacking/nosharepages
memoryBacking/locked
memoryBacking/source
memoryBacking/access
memoryBacking/allocation
memoryBacking/discard
vcpu
vcpus
vcpus/vcpu
iothreads
iothreadids
iothreadids/iothread
iothreadids/iothread/poll
defaultiothread
cputune/*
memtune/*
blkiotune/*
numatune/*
resource/*
perf/*
keywrap/*
sysinfo/*
os
os/type
os/firmware
os/firmware/feature
os/loader
os/nvram/*
os/boot
os/bootmenu
os/smbios
os/bios
os/kernel
os/initrd
os/cmdline
os/dtb
os/acpi
os/acpi/table
features
features/acpi
features/apic
features/pae
features/hap
features/viridian
features/privnet
features/hyperv/*
features/kvm/*
features/pvspinlock
features/pmu
features/vmport
features/gic
features/smm/*
features/ioapic
features/vmcoreinfo
features/msrs
features/tcg/*
features/ps2
features/hpt/*
features/htm
features/nested-hv
features/ccf-assist
features/cfpc
features/sbbc
features/ibs
features/ras
cpu
cpu/model
cpu/vendor
cpu/topology
cpu/cache
cpu/maxphysaddr
cpu/feature
cpu/numa/*
clock
clock/timer
clock/timer/catchup
clock/timer/frequency
on_poweroff
on_reboot
on_crash
on_lockfailure
pm
pm/suspend-to-mem
pm/suspend-to-disk
seclabel/*
devices
devices/emulator
devices/disk
devices/disk/driver
devices/disk/driver/metadata_cache/*
devices/disk/driver/iothreads/*
devices/disk/source
devices/disk/source/seclabel/*
devices/disk/source/host
devices/disk/source/snapshot
devices/disk/source/config
devices/disk/source/auth/*
devices/disk/source/encryption/*
devices/disk/source/address
devices/disk/source/reservations
devices/disk/auth/*
devices/disk/encryption/*
devices/disk/backingStore/*
devices/disk/mirror/*
devices/disk/target
devices/disk/iotune/*
devices/disk/blockio
devices/disk/geometry
devices/disk/readonly
devices/disk/shareable
devices/disk/boot
devices/disk/serial
devices/disk/wwn
devices/disk/vendor
devices/disk/product
devices/disk/alias
devices/disk/address
devices/controller
devices/controller/driver
devices/controller/driver/iothreads/*
devices/controller/model
devices/controller/target/*
devices/controller/master
devices/controller/alias
devices/controller/address
devices/interface
devices/interface/mac
devices/interface/source
devices/interface/source/address
devices/interface/source/ip
devices/interface/source/route
devices/interface/ip
devices/interface/route
devices/interface/target
devices/interface/guest
devices/interface/model
devices/interface/driver
devices/interface/driver/host
devices/interface/driver/guest
devices/interface/tune/*
devices/interface/boot
devices/interface/rom
devices/interface/link
devices/interface/mtu
devices/interface/coalesce/*
devices/interface/bandwidth/*
devices/interface/virtualport/*
devices/interface/vlan/*
devices/interface/port
devices/interface/filterref/*
devices/interface/alias
devices/interface/address
devices/interface/acpi
devices/serial/*
devices/parallel/*
devices/console/*
devices/channel/*
devices/input/*
devices/hub/*
devices/graphics/*
devices/video/*
devices/sound/*
devices/audio/*
devices/watchdog/*
devices/memballoon/*
devices/rng/*
devices/panic/*
devices/vsock/*
devices/iommu/*
devices/redirdev/*
devices/redirfilter/*
devices/memory
devices/memory/source
devices/memory/source/pagesize
devices/memory/source/nodemask
devices/memory/target
devices/memory/target/size
devices/memory/target/node
devices/memory/alias
devices/memory/address
devices/tpm/*
devices/hostdev/*
devices/filesystem/*
devices/shmem/*
";

/// Paths of the outermost elements that are not known, each once, in the document's order.
pub(crate) fn unknown(domain: Node<'_, '_>) -> Vec<String> {
    let mut found = Vec::new();
    for child in domain.children().filter(Node::is_element) {
        walk(child, "", &mut found);
    }
    found
}

fn walk(node: Node<'_, '_>, above: &str, found: &mut Vec<String>) {
    let path = format!("{above}{}", name(node));
    match lookup(&path) {
        Known::Whole => {}
        Known::Alone => {
            for child in node.children().filter(Node::is_element) {
                walk(child, &format!("{path}/"), found);
            }
        }
        Known::Not if found.contains(&path) => {}
        Known::Not => found.push(path),
    }
}

/// An element's name with its prefix, where it is of another namespace.
fn name(node: Node<'_, '_>) -> String {
    let name = node.tag_name().name();
    match node.tag_name().namespace() {
        None => name.to_owned(),
        Some(namespace) => format!(
            "{}:{name}",
            node.lookup_prefix(namespace).unwrap_or(namespace)
        ),
    }
}

enum Known {
    Whole,
    Alone,
    Not,
}

fn lookup(path: &str) -> Known {
    for line in KNOWN.lines() {
        if line == path && !line.is_empty() {
            return Known::Alone;
        }
        if line.strip_suffix("/*") == Some(path) {
            return Known::Whole;
        }
    }
    Known::Not
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::libvirt::xml;

    fn unknown_in(text: &str) -> Vec<String> {
        unknown(xml::parse(text).unwrap().root_element())
    }

    #[test]
    fn an_ordinary_guest_is_known_whole() {
        assert_eq!(
            unknown_in(include_str!("../../../fixtures/running.xml")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_new_is_named_once() {
        assert_eq!(
            unknown_in(
                "<domain><devices><teleporter><a/></teleporter><teleporter/></devices><os><varstore/></os></domain>"
            ),
            ["devices/teleporter", "os/varstore"]
        );
        assert_eq!(
            unknown_in(
                "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>"
            ),
            ["qemu:commandline"]
        );
        assert_eq!(
            unknown_in("<domain><memoryBacking><hugepages/></memoryBacking></domain>"),
            ["memoryBacking/hugepages"]
        );
        assert_eq!(
            unknown_in("<domain><launchSecurity type='sev'/></domain>"),
            ["launchSecurity"]
        );
    }
}
