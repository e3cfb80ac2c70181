//! What a domain's XML says, without asking anything else.

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    CpuNeed, DiskDevice, FileFacts, InterfaceFacts, InterfaceSource, Layer, PortResult,
};
use roxmltree::Node;
use uuid::Uuid;

use crate::libvirt::xml;

const MIB: u64 = 1 << 20;

/// A disk element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskXml {
    pub(crate) target: String,
    pub(crate) device: DiskDevice,
    /// libvirt's type: `file`, `block`, `network`, `volume`, ...
    pub(crate) kind: String,
    /// The file. Of a disk of type `volume` only its pool can tell.
    pub(crate) path: Option<String>,
    pub(crate) format: String,
    /// Backing files named here, nearest first.
    pub(crate) backing: Vec<String>,
    /// Whether the chain here is known to its end.
    pub(crate) chain_complete: bool,
    pub(crate) readonly: bool,
    pub(crate) shareable: bool,
    /// Pool and volume of a disk of type `volume`.
    pub(crate) volume: Option<(String, String)>,
    /// Whether its content lives on a network storage every host reaches without a secret.
    pub(crate) networked: bool,
    /// A block job that ends in another file.
    pub(crate) mirrored: bool,
    /// The secret that opens it.
    pub(crate) secret: Option<Uuid>,
}

impl DiskXml {
    /// Whether it is a disk that the guest writes to.
    pub(crate) fn is_written(&self) -> bool {
        self.device == DiskDevice::Disk && !self.readonly
    }

    /// The backing files named here; what they occupy is not.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        self.backing.iter().cloned().map(Layer::new).collect()
    }
}

/// A domain as its XML describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) vcpus: u32,
    pub(crate) memory: Bytes,
    pub(crate) memory_overhead: Bytes,
    pub(crate) disks: Vec<DiskXml>,
    pub(crate) interfaces: Vec<InterfaceFacts>,
    pub(crate) files: Vec<FileFacts>,
    pub(crate) cpu: CpuNeed,
    pub(crate) emulator: String,
    pub(crate) machine: String,
    /// Whether the guest's agent is connected.
    pub(crate) agent: bool,
}

/// Reads a domain's XML.
pub(crate) fn describe(domain: Node<'_, '_>) -> PortResult<Description> {
    let devices = xml::child(domain, "devices");
    let each = |name: &'static str| {
        devices
            .into_iter()
            .flat_map(move |devices| xml::children(devices, name))
    };
    let memory = xml::child(domain, "memory")
        .and_then(xml::amount)
        .unwrap_or_default();
    let vcpus = xml::text(domain, &["vcpu"])
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let video = each("video")
        .filter_map(|video| xml::child(video, "model"))
        .map(video_memory)
        .fold(0, u64::saturating_add);
    Ok(Description {
        name: xml::text(domain, &["name"]).unwrap_or_default().to_owned(),
        vcpus,
        memory,
        memory_overhead: overhead(memory, vcpus, video),
        disks: each("disk").filter_map(disk).collect(),
        interfaces: each("interface").map(interface).collect(),
        files: files(domain),
        cpu: cpu_need(domain),
        emulator: xml::text(domain, &["devices", "emulator"])
            .unwrap_or_default()
            .to_owned(),
        machine: xml::at(domain, &["os", "type"])
            .and_then(|kind| kind.attribute("machine"))
            .unwrap_or_default()
            .to_owned(),
        agent: each("channel")
            .filter_map(|channel| xml::child(channel, "target"))
            .any(|target| {
                target.attribute("name") == Some("org.qemu.guest_agent.0")
                    && target.attribute("state") == Some("connected")
            }),
    })
}

/// What QEMU may take on top of the guest's memory.
///
/// 96 MiB for its code, libraries, heap and device models (an idle QEMU 7.2 of the machines here has 40 to 60 MiB of
/// its own, display and I/O buffers come on top); 8 MiB for each virtual CPU (a thread's stack and its share of
/// buffers for I/O in flight); the video memory as configured; and 1/512 of the memory, which is what the page tables
/// that map it cost the host (8 bytes for each 4 KiB), for it has no huge pages to count on.
fn overhead(memory: Bytes, vcpus: u32, video: u64) -> Bytes {
    let fixed = 96 * MIB + u64::from(vcpus) * 8 * MIB + memory.0 / 512;
    Bytes(fixed.saturating_add(video))
}

fn video_memory(model: Node<'_, '_>) -> u64 {
    let kib = |name: &str| {
        model
            .attribute(name)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    match model.attribute("type") {
        Some("none") => 0,
        _ => kib("ram")
            .saturating_add(kib("vram"))
            .saturating_mul(1024)
            .max(16 * MIB),
    }
}

fn cpu_need(domain: Node<'_, '_>) -> CpuNeed {
    let mode = xml::child(domain, "cpu").and_then(|cpu| cpu.attribute("mode"));
    match mode {
        None | Some("custom") => CpuNeed::Model,
        Some(_) => CpuNeed::SameAsHost,
    }
}

/// A disk; nothing for an element without target, which libvirt never writes.
fn disk(disk: Node<'_, '_>) -> Option<DiskXml> {
    let target = xml::child(disk, "target")?.attribute("dev")?.to_owned();
    let kind = disk.attribute("type").unwrap_or("file").to_owned();
    let source = xml::child(disk, "source");
    let (backing, chain_complete) = chain(disk);
    let device = match disk.attribute("device").unwrap_or("disk") {
        "cdrom" => DiskDevice::Cdrom,
        "floppy" => DiskDevice::Floppy,
        // A LUN is a disk too; what it can't do is an obstacle.
        _ => DiskDevice::Disk,
    };
    let networked = source.is_some_and(|source| {
        matches!(
            source.attribute("protocol"),
            Some("rbd" | "gluster" | "iscsi")
        ) && !source
            .descendants()
            .chain(disk.children())
            .any(|node| xml::is(node, "auth"))
    });
    Some(DiskXml {
        target,
        device,
        path: source
            .filter(|_| kind == "file")
            .and_then(|source| source.attribute("file"))
            .map(xml::tidy_path),
        format: xml::child(disk, "driver")
            .and_then(|driver| driver.attribute("type"))
            .unwrap_or("raw")
            .to_owned(),
        backing,
        chain_complete,
        readonly: xml::child(disk, "readonly").is_some() || device == DiskDevice::Cdrom,
        shareable: xml::child(disk, "shareable").is_some(),
        volume: source.filter(|_| kind == "volume").and_then(|source| {
            Some((
                source.attribute("pool")?.to_owned(),
                source.attribute("volume")?.to_owned(),
            ))
        }),
        networked,
        mirrored: xml::child(disk, "mirror").is_some(),
        secret: encryption(disk)
            .and_then(|encryption| xml::child(encryption, "secret")?.attribute("uuid"))
            .and_then(|id| Uuid::parse_str(id).ok()),
        kind,
    })
}

/// How a disk's own file is encrypted. Older definitions say so beside its source.
pub(crate) fn encryption<'a, 'd>(disk: Node<'a, 'd>) -> Option<Node<'a, 'd>> {
    xml::at(disk, &["source", "encryption"]).or_else(|| xml::child(disk, "encryption"))
}

/// Backing files, nearest first, and whether the XML names the chain's end.
fn chain(disk: Node<'_, '_>) -> (Vec<String>, bool) {
    let mut files = Vec::new();
    let mut at = disk;
    while let Some(below) = xml::child(at, "backingStore") {
        let Some(source) = xml::child(below, "source") else {
            return (files, true);
        };
        if let Some(file) = source.attribute("file").or_else(|| source.attribute("dev")) {
            files.push(xml::tidy_path(file));
        }
        at = below;
    }
    (files, false)
}

fn interface(interface: Node<'_, '_>) -> InterfaceFacts {
    let source = xml::child(interface, "source");
    let said = |name: &str| {
        source
            .and_then(|source| source.attribute(name))
            .unwrap_or_default()
            .to_owned()
    };
    InterfaceFacts {
        mac: xml::child(interface, "mac")
            .and_then(|mac| mac.attribute("address"))
            .unwrap_or_default()
            .to_ascii_lowercase(),
        // Where it runs, an interface in a network over a bridge stands there as one in that bridge.
        source: match interface.attribute("type").unwrap_or_default() {
            "bridge" if !said("network").is_empty() => InterfaceSource::Network(said("network")),
            "network" => InterfaceSource::Network(said("network")),
            "bridge" => InterfaceSource::Bridge(said("bridge")),
            "user" => InterfaceSource::User,
            other => InterfaceSource::Other(other.to_owned()),
        },
        filter: xml::child(interface, "filterref")
            .and_then(|filter| filter.attribute("filter"))
            .map(str::to_owned),
        plugged: true,
        addresses: Vec::new(),
    }
}

/// Files other than disks.
fn files(domain: Node<'_, '_>) -> Vec<FileFacts> {
    let mut files = Vec::new();
    let mut add = |role: &str, path: Option<&str>, needed: bool| {
        if let Some(path) = path.map(str::trim).filter(|path| path.starts_with('/')) {
            let file = FileFacts {
                role: role.to_owned(),
                path: xml::tidy_path(path),
                needed,
            };
            if !files.contains(&file) {
                files.push(file);
            }
        }
    };
    if let Some(os) = xml::child(domain, "os") {
        for role in ["loader", "kernel", "initrd", "dtb"] {
            add(role, xml::text(os, &[role]), true);
        }
        add("nvram", nvram(os), false);
    }
    let tables = xml::at(domain, &["os", "acpi"]);
    for table in tables
        .into_iter()
        .flat_map(|acpi| xml::children(acpi, "table"))
    {
        add("acpi", table.text(), true);
    }
    let Some(devices) = xml::child(domain, "devices") else {
        return files;
    };
    for device in devices.children().filter(|node| {
        ["serial", "console", "parallel", "channel"].contains(&node.tag_name().name())
    }) {
        if device.attribute("type") == Some("file") {
            add(
                "console",
                xml::child(device, "source").and_then(|source| source.attribute("path")),
                false,
            );
        }
        add(
            "console",
            xml::child(device, "log").and_then(|log| log.attribute("file")),
            false,
        );
    }
    files
}

/// The guest's own variable store.
pub(crate) fn nvram<'a>(os: Node<'a, '_>) -> Option<&'a str> {
    let nvram = xml::child(os, "nvram")?;
    nvram
        .text()
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .or_else(|| xml::child(nvram, "source")?.attribute("file"))
}

/// Every file that a domain's XML names, whatever for: disks and their chains, mirrors, kernels, stores, logs.
/// Rather too many than one too few: what is in here is not removed.
pub(crate) fn every_file(domain: Node<'_, '_>) -> Vec<String> {
    let mut files = Vec::new();
    let mut add = |text: &str| {
        if text.starts_with('/') {
            files.push(xml::tidy_path(text));
        }
    };
    for section in domain.children().filter(|node| {
        xml::is(*node, "devices") || xml::is(*node, "os") || xml::is(*node, "memoryBacking")
    }) {
        for node in section.descendants() {
            for attribute in node.attributes() {
                let name = attribute.name();
                if ["file", "dev", "path", "dir", "template", "name"].contains(&name) {
                    add(attribute.value());
                }
                // As a disk's place is read: an absolute path, whatever is written.
                if name == "file" || name == "dev" && xml::is(node, "source") {
                    add(&xml::tidy_path(attribute.value()));
                }
            }
            if let Some(text) = node.text() {
                add(text.trim());
            }
        }
    }
    files
}

/// Every volume that a domain's XML gives by pool and name, wherever: disks, what lies below them, mirrors.
pub(crate) fn every_volume(domain: Node<'_, '_>) -> Vec<(String, String)> {
    let named = domain.descendants().filter_map(|node| {
        let (pool, volume) = (node.attribute("pool")?, node.attribute("volume")?);
        Some((pool.to_owned(), volume.to_owned()))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn running() -> Description {
        let document = xml::parse(include_str!("../../../fixtures/running.xml")).unwrap();
        describe(document.root_element()).unwrap()
    }

    #[test]
    fn sizes() {
        let description = running();
        assert_eq!(description.vcpus, 2);
        assert_eq!(description.memory, Bytes(1 << 30));
        assert_eq!(
            description.memory_overhead,
            Bytes((96 + 16 + 128 + 2) * MIB)
        );
        assert_eq!(description.machine, "pc-q35-7.2");
        assert_eq!(description.cpu, CpuNeed::Model);
        assert!(!description.agent);
    }

    #[test]
    fn disks() {
        let disks = running().disks;
        assert_eq!(disks.len(), 3);
        assert_eq!(
            disks[0].path.as_deref(),
            Some("/var/lib/libvirt/images/web-1.qcow2")
        );
        assert_eq!(disks[0].format, "qcow2");
        assert_eq!(disks[0].backing, ["/var/lib/libvirt/images/base.qcow2"]);
        assert!(disks[0].chain_complete && !disks[0].readonly);
        assert_eq!(disks[1].device, DiskDevice::Cdrom);
        assert!(disks[1].readonly && disks[1].chain_complete);
        assert_eq!(disks[2].path, None);
    }

    #[test]
    fn interfaces() {
        let interfaces = running().interfaces;
        assert_eq!(
            interfaces[0].source,
            InterfaceSource::Network("default".into())
        );
        assert_eq!(interfaces[0].filter.as_deref(), Some("clean-traffic"));
        assert_eq!(interfaces[1].source, InterfaceSource::Bridge("br0".into()));
    }

    #[test]
    fn other_files() {
        let files = running().files;
        let named: Vec<_> = files
            .iter()
            .map(|file| (file.role.as_str(), file.needed))
            .collect();
        assert_eq!(
            named,
            [("kernel", true), ("initrd", true), ("console", false)]
        );
    }

    #[test]
    fn every_volume_is_found() {
        let text = "<domain><devices><disk type='volume'><source pool='p' volume='top'/>\
            <backingStore type='volume'><source pool='q' volume='base'/></backingStore>\
            <mirror type='volume'><source pool='p' volume='copy'/></mirror></disk></devices></domain>";
        let document = xml::parse(text).unwrap();
        let volumes = every_volume(document.root_element());
        let named: Vec<_> = volumes
            .iter()
            .map(|(pool, volume)| (pool.as_str(), volume.as_str()))
            .collect();
        assert_eq!(named, [("p", "top"), ("q", "base"), ("p", "copy")]);
    }

    #[test]
    fn every_file_is_found() {
        let document = xml::parse(include_str!("../../../fixtures/running.xml")).unwrap();
        let files = every_file(document.root_element());
        for file in [
            "/var/lib/libvirt/images/web-1.qcow2",
            "/var/lib/libvirt/images/base.qcow2",
            "/var/lib/libvirt/images/seed.iso",
            "/boot/vmlinuz",
            "/boot/initrd.img",
            "/var/log/libvirt/web-1.log",
        ] {
            assert!(files.iter().any(|found| found == file), "{file}");
        }
    }
}
