//! What keeps a domain from being migrated live. Deny by default.

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::port::{DiskDevice, DiskFacts, SecretFacts};
use roxmltree::Node;
use uuid::Uuid;

use super::{
    allow,
    description::{self, DiskXml},
};
use crate::libvirt::xml;

/// Obstacles in a domain's XML alone.
pub(crate) fn in_xml(domain: Node<'_, '_>) -> Vec<Cause> {
    found(domain, alias)
}

/// The same, its devices not named: only what runs has aliases.
pub(crate) fn without_aliases(domain: Node<'_, '_>) -> Vec<Cause> {
    found(domain, |_| String::new())
}

fn found(domain: Node<'_, '_>, called: fn(Node<'_, '_>) -> String) -> Vec<Cause> {
    let mut causes: Vec<Cause> = allow::unknown(domain)
        .into_iter()
        .map(|path| {
            Cause::new(
                Reason::UnknownFeature,
                format!("its definition has `{path}`, which is not known here"),
            )
        })
        .collect();
    if let Some(os) = xml::child(domain, "os") {
        let stateless = xml::child(os, "loader")
            .is_some_and(|loader| loader.attribute("stateless") == Some("yes"));
        // With the firmware chosen by libvirt the store is named only while the guest runs.
        let store = xml::child(os, "nvram").is_some()
            || os.attribute("firmware") == Some("efi") && !stateless;
        if store && description::nvram(os).is_none() {
            causes.push(store_unnamed());
        }
    }
    let unread = |name: &str| {
        let what = format!("its definition has a `{name}` that can't be read");
        Cause::new(Reason::UnknownFeature, what)
    };
    let memory = xml::child(domain, "memory");
    causes.extend(
        memory
            .filter(|memory| xml::amount(*memory).is_none())
            .map(|_| unread("memory")),
    );
    let vcpus = xml::child(domain, "vcpu").map(|_| xml::text(domain, &["vcpu"]));
    causes.extend(
        vcpus
            .filter(|text| text.is_none_or(|text| text.parse::<u32>().is_err()))
            .map(|_| unread("vcpu")),
    );
    let devices = xml::child(domain, "devices");
    for device in devices
        .into_iter()
        .flat_map(|devices| devices.children())
        .filter(Node::is_element)
    {
        causes.extend(
            device_obstacle(device, &called(device))
                .map(|what| Cause::new(Reason::DeviceNotMigratable, what)),
        );
        if xml::is(device, "disk") {
            causes.extend(disk_element(device));
        }
    }
    causes
}

/// The firmware's variables are in a file that nothing names.
pub(crate) fn store_unnamed() -> Cause {
    Cause::new(
        Reason::DiskNotMovable,
        "its firmware's variables (NVRAM) are in no file that its definition names",
    )
}

/// What a device is called in a sentence.
fn alias(device: Node<'_, '_>) -> String {
    xml::child(device, "alias")
        .and_then(|alias| alias.attribute("name"))
        .map(|alias| format!(" ({alias})"))
        .unwrap_or_default()
}

fn device_obstacle(device: Node<'_, '_>, called: &str) -> Option<String> {
    let said = |name: &str| device.attribute(name).unwrap_or_default();
    let kind = said("type");
    match device.tag_name().name() {
        "hostdev" => Some(format!(
            "a device of the host is passed through to it: hostdev of type {kind}{called}"
        )),
        "filesystem" => {
            let driver = xml::child(device, "driver")
                .and_then(|driver| driver.attribute("type"))
                .unwrap_or("path");
            let tag = xml::child(device, "target")
                .and_then(|target| target.attribute("dir"))
                .unwrap_or_default();
            Some(format!(
                "it shares the directory `{tag}` with its host by {driver}, which can't be migrated"
            ))
        }
        "shmem" => Some(format!(
            "it has memory shared with its host: shmem `{}`",
            said("name")
        )),
        "tpm" => tpm_obstacle(device),
        "memory" if !matches!(said("model"), "dimm") => Some(format!(
            "it has a memory device of model {}{called}",
            said("model")
        )),
        "interface" => match kind {
            "network" | "bridge" | "user" => None,
            _ => Some(format!(
                "its interface {} is of type {kind}",
                interface_name(device)
            )),
        },
        "serial" | "parallel" | "console" | "channel" | "redirdev"
            if matches!(kind, "dev" | "pipe" | "nmdm") =>
        {
            Some(format!(
                "its {}{called} is a device of the host (type {kind})",
                device.tag_name().name()
            ))
        }
        "input" if matches!(kind, "passthrough" | "evdev") => Some(format!(
            "an input device of the host is passed through to it{called}"
        )),
        "graphics" if kind == "egl-headless" || enabled(device, "gl", "enable") => {
            Some("its display uses the host's graphics card (OpenGL)".to_owned())
        }
        "video"
            if xml::child(device, "model")
                .is_some_and(|model| enabled(model, "acceleration", "accel3d")) =>
        {
            Some(format!("its video device{called} uses 3D acceleration"))
        }
        "rng" => {
            let backend = xml::child(device, "backend");
            match backend.and_then(|backend| backend.attribute("model")) {
                Some("egd") => Some("its random numbers come from a daemon of the host".to_owned()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What an emulated TPM keeps travels with the guest's memory, and libvirt removes it at the source (measured, 9.0).
fn tpm_obstacle(device: Node<'_, '_>) -> Option<String> {
    let backend = xml::child(device, "backend");
    match backend.and_then(|backend| backend.attribute("type")) {
        Some("emulator") => backend
            .is_some_and(|backend| xml::child(backend, "encryption").is_some())
            .then(|| "its TPM's state is encrypted, and its secret is not carried".to_owned()),
        kind => Some(format!(
            "its TPM is one of the host (type {})",
            kind.unwrap_or_default()
        )),
    }
}

/// What travels only with the memory of a guest that runs.
pub(crate) fn of_stopped(domain: Node<'_, '_>) -> Option<Cause> {
    let devices = xml::child(domain, "devices")?;
    xml::child(devices, "tpm").map(|_| {
        Cause::new(
            Reason::DeviceNotMigratable,
            "its TPM's state is carried only while it runs",
        )
        .hint("start it: then it moves with its TPM")
    })
}

fn enabled(node: Node<'_, '_>, child: &'static str, attribute: &str) -> bool {
    xml::child(node, child).and_then(|node| node.attribute(attribute)) == Some("yes")
}

fn interface_name(device: Node<'_, '_>) -> String {
    xml::child(device, "mac")
        .and_then(|mac| mac.attribute("address"))
        .unwrap_or("without address")
        .to_owned()
}

/// Features of a disk element that we refuse whatever is behind it.
fn disk_element(disk: Node<'_, '_>) -> Vec<Cause> {
    let target = xml::child(disk, "target")
        .and_then(|node| node.attribute("dev"))
        .unwrap_or_default();
    let mut causes = Vec::new();
    if target.is_empty() {
        causes.push(Cause::new(
            Reason::DiskNotMovable,
            "one of its disks has no target",
        ));
    }
    if disk.attribute("device") == Some("lun") {
        causes.push(Cause::new(
            Reason::DeviceNotMigratable,
            format!("its disk `{target}` passes SCSI commands through to the host's device"),
        ));
    }
    causes.extend(encryption_obstacle(disk, target));
    if disk.descendants().any(|node| xml::is(node, "reservations")) {
        causes.push(Cause::new(
            Reason::DeviceNotMigratable,
            format!("its disk `{target}` uses SCSI reservations"),
        ));
    }
    causes
}

/// Encryption is known only as QEMU's LUKS, of the disk's own file, opened by one secret that is named by its UUID, and
/// made as libvirt makes it by itself.
fn encryption_obstacle(disk: Node<'_, '_>, target: &str) -> Option<Cause> {
    let refused = |what: &str| {
        let what = format!("its disk `{target}` {what}");
        Some(Cause::new(Reason::DiskNotMovable, what))
    };
    let all = disk
        .descendants()
        .filter(|node| xml::is(*node, "encryption"));
    let count = all.count();
    if count == 0 {
        return None;
    }
    let Some(own) = description::encryption(disk) else {
        return refused("lies over an encrypted file, or is copied to one");
    };
    if count > 1 {
        return refused("has more than one encrypted file");
    }
    if !matches!(disk.attribute("type"), None | Some("file" | "volume")) {
        return refused("is encrypted and no file");
    }
    match own.attribute("format") {
        Some("luks") => {}
        format => {
            let format = format.unwrap_or("default");
            return refused(&format!(
                "is encrypted as `{format}`, and only `luks` is carried"
            ));
        }
    }
    if let Some(engine) = own.attribute("engine").filter(|engine| *engine != "qemu") {
        return refused(&format!(
            "is encrypted by `{engine}`, and only QEMU's own way is carried"
        ));
    }
    if let Some(other) = own
        .children()
        .find(|node| node.is_element() && !xml::is(*node, "secret"))
    {
        let name = other.tag_name().name();
        return refused(&format!(
            "is encrypted with a `{name}` of its own, which is not carried"
        ));
    }
    let mut secrets = xml::children(own, "secret");
    match (secrets.next(), secrets.next()) {
        (Some(secret), None) => {
            let by = secret.attribute("uuid").map(Uuid::parse_str);
            match (secret.attribute("type"), by) {
                (Some("passphrase"), Some(Ok(_))) => None,
                (Some("passphrase"), None) => {
                    refused("names the secret that opens it by usage, and only a UUID is followed")
                }
                _ => refused("names a secret in a way that can't be read"),
            }
        }
        _ => refused("is encrypted, and not opened by one secret"),
    }
}

/// Whether the secret that opens a disk can be carried, as its host has it.
pub(crate) fn of_secret(target: &str, id: Uuid, secret: Option<&SecretFacts>) -> Option<Cause> {
    let opened = format!("the secret {id}, which opens its disk `{target}`,");
    match secret {
        None => Some(Cause::new(
            Reason::SecretMissing,
            format!("{opened} is not to be found on its host"),
        )),
        Some(secret) if secret.private => Some(Cause::new(
            Reason::SecretPrivate,
            format!("{opened} is private: its value can be neither carried nor compared"),
        )),
        Some(_) => None,
    }
}

/// Obstacles in where a disk's content is.
pub(crate) fn of_disk(disk: &DiskXml, facts: &DiskFacts) -> Option<Cause> {
    let target = &disk.target;
    let refused = |what: String| Some(Cause::new(Reason::DiskNotMovable, what));
    match disk.kind.as_str() {
        "file" => {}
        "network" if disk.networked => return None,
        "volume" if facts.path.is_some() => {}
        "volume" => {
            let (pool, volume) = disk.volume.clone().unwrap_or_default();
            return Some(
                Cause::new(
                    Reason::DiskNotMovable,
                    format!(
                        "its disk `{target}` is the volume `{volume}` of the pool `{pool}`, which is no active pool of files \
                         on its host"
                    ),
                )
                .hint("start the pool if it is one of type dir, fs or netfs (`virsh pool-start`); others are not copied"),
            );
        }
        kind => return refused(format!("its disk `{target}` is of type {kind}, not a file")),
    }
    let Some(path) = &facts.path else {
        // An empty drive.
        return None;
    };
    if disk.device == DiskDevice::Floppy && !disk.readonly {
        return refused(format!("its floppy `{target}` is writable"));
    }
    if facts.readonly || facts.shared {
        return None;
    }
    if facts.secret.is_some() && !facts.backing.is_empty() {
        return refused(format!(
            "its disk `{target}` is encrypted and lies over a base image"
        ));
    }
    if disk.shareable {
        return refused(format!(
            "its disk `{target}` may be written by several guests (shareable)"
        ));
    }
    if !matches!(facts.format.as_str(), "raw" | "qcow2") {
        return refused(format!(
            "its disk `{target}` has the format {}, neither raw nor qcow2",
            facts.format
        ));
    }
    if facts.pool.is_none() {
        return refused(format!(
            "its disk `{target}`, the file `{path}`, is in no active storage pool, nor in a directory that libvirt can open \
             as one"
        ));
    }
    None
}

/// Snapshots: libvirt leaves their description behind.
pub(crate) fn of_snapshots(count: u32) -> Option<Cause> {
    (count > 0).then(|| {
        Cause::new(
            Reason::DiskNotMovable,
            format!(
                "it has {count} snapshot{}, which libvirt does not carry",
                if count == 1 { "" } else { "s" }
            ),
        )
        .hint("delete its snapshots (`virsh snapshot-delete`)")
    })
}

/// Checkpoints: what was written since each of them is in the disk's own file alone, and libvirt migrates no guest that
/// has any.
pub(crate) fn of_checkpoints(count: u32) -> Option<Cause> {
    (count > 0).then(|| {
        Cause::new(
            Reason::DiskNotMovable,
            format!(
                "it has {count} checkpoint{}, which libvirt does not carry",
                if count == 1 { "" } else { "s" }
            ),
        )
        .hint("delete its checkpoints (`virsh checkpoint-delete`); the next backup is then a full one")
    })
}

/// A saved state: it goes with a definition that nobody could resume from elsewhere.
pub(crate) fn of_saved_state(saved: bool) -> Option<Cause> {
    saved.then(|| {
        Cause::new(
            Reason::DiskNotMovable,
            "its memory is saved on its host (managed save), which is not carried",
        )
        .hint("start it, or discard what was saved (`virsh managedsave-remove`)")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reasons(devices: &str) -> Vec<Reason> {
        let text = format!("<domain><devices>{devices}</devices></domain>");
        let document = xml::parse(&text).unwrap();
        in_xml(document.root_element())
            .into_iter()
            .map(|cause| cause.reason)
            .collect()
    }

    #[test]
    fn an_ordinary_guest_has_none() {
        let document = xml::parse(include_str!("../../../fixtures/running.xml")).unwrap();
        assert_eq!(in_xml(document.root_element()), []);
    }

    #[test]
    fn devices() {
        for devices in [
            "<hostdev mode='subsystem' type='pci'><source><address/></source></hostdev>",
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/x'/><target dir='y'/></filesystem>",
            "<interface type='hostdev'/>",
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            "<interface type='vhostuser'/>",
            "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>",
            "<shmem name='s'><model type='ivshmem-plain'/></shmem>",
            "<memory model='nvdimm'/>",
            "<tpm model='tpm-crb'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
            "<tpm model='tpm-crb'><backend type='emulator'><encryption secret='6f1c'/></backend></tpm>",
            "<tpm model='tpm-crb'><backend type='external'/></tpm>",
            "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
            "<video><model type='virtio'><acceleration accel3d='yes'/></model></video>",
            "<disk type='block' device='lun'><target dev='sda'/></disk>",
        ] {
            assert_eq!(reasons(devices), [Reason::DeviceNotMigratable], "{devices}");
        }
        for devices in [
            "<interface type='user'/>",
            "<memory model='dimm'/>",
            "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
            "<redirdev bus='usb' type='spicevmc'/>",
            "<serial type='pty'><source path='/dev/pts/1'/></serial>",
        ] {
            assert_eq!(reasons(devices), [], "{devices}");
        }
    }

    #[test]
    fn nvram() {
        for text in [
            "<domain><os><loader/><nvram type='network'><source protocol='nbd'/></nvram></os></domain>",
            "<domain><os firmware='efi'/></domain>",
        ] {
            let document = xml::parse(text).unwrap();
            assert_eq!(
                in_xml(document.root_element())[0].reason,
                Reason::DiskNotMovable
            );
        }
        let named = "<domain><os firmware='efi'><nvram>/n</nvram></os></domain>";
        let document = xml::parse(named).unwrap();
        assert_eq!(in_xml(document.root_element()), []);
    }

    #[test]
    fn encryption() {
        let id = "1f5b0b5e-6c4d-4d8e-9f9a-2f2e3d4c5b6b";
        let key = format!("<secret type='passphrase' uuid='{id}'/>");
        let disk = |inside: &str, beside: &str| {
            reasons(&format!(
                "<disk type='file'><source file='/x'>{inside}</source>{beside}<target dev='vda'/></disk>"
            ))
        };
        let luks = format!("<encryption format='luks'>{key}</encryption>");
        let by_qemu = format!("<encryption format='luks' engine='qemu'>{key}</encryption>");
        assert_eq!(disk(&luks, ""), []);
        assert_eq!(disk("", &luks), []);
        assert_eq!(disk(&by_qemu, ""), []);
        let below =
            format!("<backingStore type='file'><source file='/y'>{luks}</source></backingStore>");
        for (inside, beside) in [
            ("<encryption format='luks'/>".to_owned(), String::new()),
            (
                format!("<encryption format='qcow'>{key}</encryption>"),
                String::new(),
            ),
            (format!("<encryption>{key}</encryption>"), String::new()),
            (
                format!("<encryption format='luks2' engine='librbd'>{key}</encryption>"),
                String::new(),
            ),
            (
                format!("<encryption format='luks' engine='librbd'>{key}</encryption>"),
                String::new(),
            ),
            (
                format!("<encryption format='luks'>{key}{key}</encryption>"),
                String::new(),
            ),
            (
                format!(
                    "<encryption format='luks'>{key}<cipher name='serpent' size='256'/></encryption>"
                ),
                String::new(),
            ),
            (
                "<encryption format='luks'><secret type='passphrase' usage='/x'/></encryption>"
                    .to_owned(),
                String::new(),
            ),
            (
                "<encryption format='luks'><secret type='passphrase' uuid='7'/></encryption>"
                    .to_owned(),
                String::new(),
            ),
            (luks.clone(), luks.clone()),
            (luks.clone(), below.clone()),
            (String::new(), below),
        ] {
            assert_eq!(
                disk(&inside, &beside),
                [Reason::DiskNotMovable],
                "{inside} {beside}"
            );
        }
        let network = format!(
            "<disk type='network'><source protocol='rbd' name='p/i'>{luks}</source><target dev='vda'/></disk>"
        );
        assert_eq!(reasons(&network), [Reason::DiskNotMovable]);
    }

    #[test]
    fn secrets() {
        let id = Uuid::from_u128(7);
        let mut secret = SecretFacts {
            id,
            description: String::new(),
            usage: None,
            ephemeral: false,
            private: false,
            brought_by: None,
        };
        let reason =
            |secret: Option<&SecretFacts>| of_secret("vda", id, secret).map(|cause| cause.reason);
        assert_eq!(reason(Some(&secret)), None);
        assert_eq!(reason(None), Some(Reason::SecretMissing));
        secret.private = true;
        assert_eq!(reason(Some(&secret)), Some(Reason::SecretPrivate));
    }
}
