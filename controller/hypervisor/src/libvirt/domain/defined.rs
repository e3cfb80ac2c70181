//! What the persistent definition of a running guest has and the guest itself has not: it travels too, and applies
//! after the guest's next start, at the target. By the same rules as what runs.

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::port::{DiskDevice, FileFacts, InterfaceFacts};
use roxmltree::Node;

use super::{
    description::{Description, DiskXml},
    obstacles,
};

/// Obstacles that are in the persistent definition only.
pub(crate) fn obstacles(
    (live, running): (Node<'_, '_>, &Description),
    (definition, defined): (Node<'_, '_>, &Description),
) -> Vec<Cause> {
    // Where the firmware is chosen by libvirt, its store is named only while the guest runs.
    let stored = running.files.iter().any(|file| file.role == "nvram");
    let shared = obstacles::without_aliases(live);
    let mut causes: Vec<Cause> = obstacles::without_aliases(definition)
        .into_iter()
        .filter(|cause| !shared.contains(cause))
        .filter(|cause| !stored || *cause != obstacles::store_unnamed())
        .map(|cause| Cause::new(cause.reason, only_defined(&cause.message)).hint(HINT))
        .collect();
    for (what, runs, would) in [
        ("emulator", &running.emulator, &defined.emulator),
        ("machine type", &running.machine, &defined.machine),
    ] {
        if runs != would {
            let what = format!("its {what} is {would} instead of {runs}");
            causes.push(Cause::new(Reason::UnknownFeature, only_defined(&what)).hint(HINT));
        }
    }
    causes.extend(disks(&running.disks, &defined.disks));
    causes
}

const HINT: &str =
    "restart the guest, or correct its definition (`virsh edit`): what runs is not affected";

fn only_defined(what: &str) -> String {
    format!("{what} (in its persistent definition only, which applies after its next start)")
}

/// Disks that name another file there than the running guest uses: what libvirt copies is what runs.
fn disks(live: &[DiskXml], defined: &[DiskXml]) -> Vec<Cause> {
    let mut causes = Vec::new();
    for disk in defined {
        let running = live.iter().find(|running| running.target == disk.target);
        // One file may be given by its path here, and by pool and volume there.
        let same = running.is_some_and(|running| {
            (&running.path, running.secret) == (&disk.path, disk.secret)
                && (disk.path.is_some() || running.kind == disk.kind)
        });
        let empty = disk.kind == "file" && disk.path.is_none();
        // A medium is brought like other files.
        let medium = disk.kind == "file" && disk.readonly;
        if same || empty || medium {
            continue;
        }
        let what = match &disk.path {
            Some(path) => format!("its disk `{}` is `{path}`", disk.target),
            None => format!("its disk `{}` is of type {}", disk.target, disk.kind),
        };
        causes.push(Cause::new(Reason::DiskNotMovable, only_defined(&what)).hint(HINT));
    }
    causes
}

/// Files that only the persistent definition names: they are brought where they are, for a definition that names a
/// file which is gone starts nowhere.
pub(crate) fn files(running: &Description, defined: &Description) -> Vec<FileFacts> {
    let media = defined.disks.iter().filter_map(|disk| {
        let role = match disk.device {
            DiskDevice::Cdrom => "cdrom",
            DiskDevice::Floppy => "floppy",
            DiskDevice::Disk => "medium",
        };
        Some(FileFacts {
            role: role.to_owned(),
            path: disk.path.clone().filter(|_| disk.readonly)?,
            needed: false,
        })
    });
    let others = defined.files.iter().map(|file| FileFacts {
        needed: false,
        ..file.clone()
    });
    let known = |path: &String| {
        let of_disks = running.disks.iter().filter_map(|disk| disk.path.as_ref());
        let others = running.files.iter().map(|file| &file.path);
        of_disks.chain(others).any(|known| known == path)
    };
    others
        .chain(media)
        .filter(|file| !known(&file.path))
        .collect()
}

/// Interfaces that are plugged in elsewhere than any that the guest has now.
pub(crate) fn interfaces(running: &Description, defined: &Description) -> Vec<InterfaceFacts> {
    let plug = |interface: &InterfaceFacts| (interface.source.clone(), interface.filter.clone());
    let known: Vec<_> = running.interfaces.iter().map(plug).collect();
    let new = defined.interfaces.iter();
    new.filter(|interface| !known.contains(&plug(interface)))
        .map(|interface| InterfaceFacts {
            plugged: false,
            ..interface.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use evenkeel_engine::port::InterfaceSource;

    use super::*;
    use crate::libvirt::{domain::description::describe, xml};

    const LIVE: &str = include_str!("../../../fixtures/running.xml");

    /// Does something with the guest that runs and a definition of it in which `from` has become `to`.
    fn edited<T>(
        from: &str,
        to: &str,
        look: impl FnOnce((Node<'_, '_>, &Description), (Node<'_, '_>, &Description)) -> T,
    ) -> T {
        assert!(LIVE.contains(from), "{from}");
        let text = LIVE.replacen(from, to, 1);
        let (live, definition) = (xml::parse(LIVE).unwrap(), xml::parse(&text).unwrap());
        let (live, definition) = (live.root_element(), definition.root_element());
        let (running, defined) = (describe(live).unwrap(), describe(definition).unwrap());
        look((live, &running), (definition, &defined))
    }

    fn said(from: &str, to: &str) -> Vec<(Reason, String)> {
        let causes = edited(from, to, obstacles);
        for cause in &causes {
            assert!(cause.message.contains("persistent definition only"));
            assert_eq!(cause.hint, HINT);
        }
        let said = causes.into_iter();
        said.map(|cause| (cause.reason, cause.message)).collect()
    }

    #[test]
    fn the_same_has_none() {
        assert_eq!(said("<domain", "<domain"), []);
        let both = edited("<domain", "<domain", |(_, live), (_, defined)| {
            (files(live, defined), interfaces(live, defined))
        });
        assert_eq!(both, (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_was_added_is_named() {
        for (device, reason) in [
            ("<hostdev type='pci'/>", Reason::DeviceNotMigratable),
            (
                "<tpm><backend type='passthrough'/></tpm>",
                Reason::DeviceNotMigratable,
            ),
            ("<teleporter/>", Reason::UnknownFeature),
            (
                "<disk type='file'><source file='/x'/><target dev='vdq'/></disk>",
                Reason::DiskNotMovable,
            ),
            (
                "<disk type='block'><source dev='/dev/x'/><target dev='vdq'/></disk>",
                Reason::DiskNotMovable,
            ),
        ] {
            let said = said("</devices>", &format!("{device}</devices>"));
            let reasons: Vec<_> = said.iter().map(|(reason, _)| *reason).collect();
            assert_eq!(reasons, [reason], "{device}");
        }
        let empty =
            "<disk type='file' device='cdrom'><target dev='sdq'/><readonly/></disk></devices>";
        assert_eq!(said("</devices>", empty), []);
        let other = said("pc-q35-7.2", "pc-q35-6.2");
        assert!(other[0].1.contains("pc-q35-6.2"), "{other:?}");
    }

    #[test]
    fn what_it_needs_besides_travels() {
        let file = |from: &str, to: &str| {
            let files = edited(from, to, |(_, live), (_, defined)| files(live, defined));
            let files = files.into_iter();
            files
                .map(|file| (file.role, file.path, file.needed))
                .collect::<Vec<_>>()
        };
        let one = |role: &str, path: &str| vec![(role.to_owned(), path.to_owned(), false)];
        assert_eq!(
            file("/boot/vmlinuz", "/boot/new"),
            one("kernel", "/boot/new")
        );
        assert_eq!(
            file(
                "/var/lib/libvirt/images/seed.iso",
                "/var/lib/libvirt/images/install.iso"
            ),
            one("cdrom", "/var/lib/libvirt/images/install.iso")
        );
        let plugs = edited("bridge='br0'", "bridge='br1'", |(_, live), (_, defined)| {
            interfaces(live, defined)
        });
        assert_eq!(plugs.len(), 1);
        assert!(!plugs[0].plugged);
        assert_eq!(plugs[0].source, InterfaceSource::Bridge("br1".to_owned()));
    }
}
