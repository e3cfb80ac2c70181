//! Guests that others defined, as their tools do, and what becomes of them here; and the same texts damaged at random:
//! nothing panics, what is unknown is an obstacle or travels unchanged, and a rewritten definition says all it said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use evenkeel_crds::reason::Reason;
use evenkeel_engine::port::{DiskFacts, DiskPlace, Mark};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::FileFailurePersistence};
use roxmltree::{Document, Node};
use uuid::Uuid;

use super::{
    corpus,
    domain::{
        description::{self, DiskXml},
        metadata, obstacles,
        rewrite::{Definition, for_target},
    },
    host, storage, uri, xml,
};

/// A guest as its tools define it.
struct Guest {
    text: &'static str,
    manager: Option<&'static str>,
    /// Why it can't be moved: reason and a word of the sentence. None: it moves.
    obstacles: &'static [(Reason, &'static str)],
    /// The files that are copied, by target.
    copied: &'static [&'static str],
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/", $name))
    };
}

const GUESTS: &[Guest] = &[
    Guest {
        text: fixture!("running.xml"),
        manager: None,
        obstacles: &[],
        copied: &["vda"],
    },
    Guest {
        text: fixture!("guests/virt-install-debian.xml"),
        manager: None,
        obstacles: &[],
        copied: &["vda"],
    },
    Guest {
        text: fixture!("guests/cloud-image-ubuntu.xml"),
        manager: None,
        obstacles: &[],
        copied: &["vda"],
    },
    Guest {
        text: fixture!("guests/virt-install-win11.xml"),
        manager: None,
        obstacles: &[],
        copied: &["sda"],
    },
    Guest {
        text: fixture!("guests/openstack-nova.xml"),
        manager: Some("OpenStack"),
        obstacles: &[],
        copied: &["vda"],
    },
    Guest {
        text: fixture!("guests/ovirt-vdsm.xml"),
        manager: Some("oVirt"),
        obstacles: &[(Reason::DiskNotMovable, "type block")],
        copied: &[],
    },
    Guest {
        text: fixture!("guests/pass-through.xml"),
        manager: None,
        obstacles: &[
            (Reason::UnknownFeature, "memoryBacking/hugepages"),
            (Reason::UnknownFeature, "qemu:commandline"),
            (Reason::DeviceNotMigratable, "virtiofs"),
            (Reason::DeviceNotMigratable, "type direct"),
            (Reason::DeviceNotMigratable, "hostdev of type pci"),
            (Reason::DeviceNotMigratable, "looking-glass"),
            (Reason::DiskNotMovable, "type block"),
        ],
        copied: &[],
    },
    Guest {
        text: fixture!("guests/proxmox-like.xml"),
        manager: None,
        obstacles: &[],
        copied: &["sda", "sdb"],
    },
    Guest {
        text: fixture!("guests/ceph.xml"),
        manager: None,
        obstacles: &[
            (Reason::DiskNotMovable, "type network"),
            (Reason::DiskNotMovable, "shareable"),
        ],
        copied: &["vdb"],
    },
    Guest {
        text: fixture!("guests/terraform.xml"),
        manager: None,
        obstacles: &[],
        copied: &["vda", "vdb"],
    },
    Guest {
        text: fixture!("guests/sealed.xml"),
        manager: None,
        obstacles: &[(Reason::UnknownFeature, "launchSecurity")],
        copied: &["vda"],
    },
];

const HOSTS: &[&str] = &[
    fixture!("capabilities.xml"),
    fixture!("hosts/libvirt-9.xml"),
    fixture!("hosts/libvirt-10.xml"),
];

const POOL: &str = "<pool type='dir'><name>default</name><uuid>5d0d3c39-4e0b-4f1e-8f5f-1f7b7f3a1cff</uuid><capacity unit='bytes'>1000</capacity><allocation unit='bytes'>10</allocation><available unit='bytes'>990</available><source/><target><path>/var/lib/libvirt/images</path><permissions><mode>0711</mode></permissions></target></pool>";

/// A disk whose file is where its definition says, in a pool.
fn facts(disk: &DiskXml) -> DiskFacts {
    DiskFacts {
        target: disk.target.clone(),
        device: disk.device,
        path: disk.path.clone(),
        format: disk.format.clone(),
        virtual_size: Default::default(),
        allocated: Default::default(),
        pool: disk.path.as_ref().map(|_| "default".to_owned()),
        volume: None,
        named: disk.volume.is_some(),
        backing: disk.layers(),
        readonly: disk.readonly,
        shared: false,
        secret: disk.secret,
    }
}

/// Its disks; the pools that it names are there.
fn disks(domain: Node<'_, '_>) -> Vec<DiskXml> {
    let mut disks = description::describe(domain).unwrap().disks;
    for disk in &mut disks {
        let volume = disk.volume.as_ref();
        let path = volume.map(|(pool, volume)| xml::tidy_path(&format!("/{pool}/{volume}")));
        disk.path = path.or(disk.path.take());
    }
    disks
}

fn causes(domain: Node<'_, '_>) -> Vec<(Reason, String)> {
    let disks = disks(domain);
    let of_disks = disks
        .iter()
        .filter_map(|disk| obstacles::of_disk(disk, &facts(disk)));
    let all = obstacles::in_xml(domain).into_iter().chain(of_disks);
    all.map(|cause| (cause.reason, cause.message)).collect()
}

/// Disks that would be copied.
fn copied(domain: Node<'_, '_>) -> Vec<String> {
    let copied = disks(domain).into_iter();
    let copied = copied
        .filter(|disk| obstacles::of_disk(disk, &facts(disk)).is_none() && facts(disk).is_copied());
    copied.map(|disk| disk.target).collect()
}

fn place(target: &str, volume: &str) -> DiskPlace {
    DiskPlace {
        target: target.to_owned(),
        path: format!("/new place/{volume}"),
        pool: "new place".to_owned(),
        volume: volume.to_owned(),
    }
}

fn mark() -> Mark {
    Mark {
        id: Uuid::from_u128(7),
        source: "h1".into(),
        target: "h'2".into(),
        migration: "m".into(),
    }
}

/// All that a document says but for what a rewriting may change: the places and chains of these disks, how they treat
/// zeroes, and our own element.
fn said(root: Node<'_, '_>, disks: &[String]) -> Vec<String> {
    fn walk(node: Node<'_, '_>, path: &str, ours: bool, said: &mut Vec<String>, disks: &[String]) {
        let name = node.tag_name();
        if name.namespace() == Some(metadata::NAMESPACE) {
            return;
        }
        let is = |wanted: &str| name.namespace().is_none() && name.name() == wanted;
        let path = format!("{path}/{}{}", name.namespace().unwrap_or(""), name.name());
        let ours = ours
            || path == "/domain/devices/disk"
                && xml::child(node, "target")
                    .and_then(|target| target.attribute("dev"))
                    .is_some_and(|dev| disks.iter().any(|own| own == dev));
        let in_disk = ours && node.parent().is_some_and(|parent| xml::is(parent, "disk"));
        if in_disk && is("backingStore") {
            return;
        }
        let mut attributes: Vec<String> = node
            .attributes()
            .filter(|attribute| match attribute.name() {
                "file" | "pool" | "volume" => !(in_disk && is("source")),
                "type" => !(ours && is("disk")),
                "discard" | "detect_zeroes" => !(in_disk && is("driver")),
                _ => true,
            })
            .map(|attribute| format!("{}={}", attribute.name(), attribute.value()))
            .collect();
        attributes.sort();
        // An element that is there only for what was added says nothing.
        let foreign = |child: Node<'_, '_>| {
            child.is_element() && child.tag_name().namespace() != Some(metadata::NAMESPACE)
        };
        if path != "/domain/metadata" || node.children().any(foreign) {
            said.push(format!("{path} {attributes:?}"));
        }
        for child in node.children() {
            if child.is_element() {
                walk(child, &path, ours, said, disks);
            } else if let Some(text) = child
                .text()
                .filter(|text| child.is_text() && !text.trim().is_empty())
            {
                said.push(format!("{path} {:?}", text.trim()));
            }
        }
    }
    let mut all = Vec::new();
    walk(root, "", false, &mut all, disks);
    all
}

/// What must hold of a rewritten definition.
fn rewriting_keeps_all(text: &str) {
    let document = xml::parse(text).unwrap();
    let disks = copied(document.root_element());
    let places = disks.iter().enumerate();
    let places: Vec<DiskPlace> = places
        .map(|(number, disk)| place(disk, &format!("{number}'&.qcow2")))
        .collect();
    // libvirt takes no two disks of one target, be it that one is an empty drive.
    let all = description::describe(document.root_element())
        .unwrap()
        .disks;
    let targets: BTreeSet<&String> = all.iter().map(|disk| &disk.target).collect();
    if targets.len() < all.len() {
        return;
    }
    for definition in [
        Definition::Live,
        Definition::Layered,
        Definition::Persistent,
    ] {
        let Ok(rewritten) = for_target(text, definition, &places, &mark()) else {
            continue;
        };
        let again = xml::parse(&rewritten).expect("a rewritten definition is XML");
        assert_eq!(
            said(document.root_element(), &disks),
            said(again.root_element(), &disks)
        );
        assert_eq!(metadata::ours(again.root_element()).mark, Some(mark()));
        let described = self::disks(again.root_element());
        for place in &places {
            let own = described.iter().find(|own| own.target == place.target);
            assert_eq!(own.unwrap().path.as_ref(), Some(&place.path), "{place:?}");
        }
        let twice = for_target(&rewritten, definition, &places, &mark()).unwrap();
        let twice = xml::parse(&twice).unwrap();
        assert_eq!(
            said(again.root_element(), &[]),
            said(twice.root_element(), &[])
        );
    }
}

#[test]
fn each_moves_or_is_refused_by_name() {
    for guest in GUESTS {
        let document = xml::parse(guest.text).unwrap();
        let domain = document.root_element();
        let name = xml::text(domain, &["name"]).unwrap();
        let ours = metadata::ours(domain);
        assert_eq!(
            metadata::manager(domain, &ours).as_deref(),
            guest.manager,
            "{name}"
        );
        let found = causes(domain);
        assert_eq!(found.len(), guest.obstacles.len(), "{name}: {found:#?}");
        for ((reason, sentence), (wanted, word)) in found.iter().zip(guest.obstacles) {
            assert_eq!(reason, wanted, "{name}: {sentence}");
            assert!(sentence.contains(word), "{name}: {sentence}");
        }
        assert_eq!(copied(domain), guest.copied, "{name}");
        rewriting_keeps_all(guest.text);
    }
}

/// Wherever an element stands that nobody has heard of: it is an obstacle, or it travels unchanged.
#[test]
fn what_is_unknown_is_refused_or_carried() {
    for guest in GUESTS {
        let document = xml::parse(guest.text).unwrap();
        let domain = document.root_element();
        let known: BTreeSet<(Reason, String)> = causes(domain).into_iter().collect();
        for node in domain.descendants().filter(Node::is_element) {
            let Some(first) = node.first_child() else {
                continue;
            };
            let mut text = guest.text.to_owned();
            text.insert_str(first.range().start, "<zz-new with='it'/>");
            let document = xml::parse(&text).unwrap();
            let refused = causes(document.root_element())
                .into_iter()
                .any(|cause| !known.contains(&cause) && cause.1.contains("zz-new"));
            let disks = copied(document.root_element());
            let places: Vec<_> = disks.iter().map(|disk| place(disk, "new")).collect();
            let carried = for_target(&text, Definition::Persistent, &places, &mark());
            let carried = carried.is_ok_and(|text| text.contains("<zz-new with='it'/>"));
            let below = node.ancestors().any(|above| xml::is(above, "backingStore"));
            assert!(refused || carried || below, "{text}");
        }
    }
}

/// What can't be read is no zero, and no disk is passed over.
#[test]
fn what_cannot_be_read_is_refused() {
    for (whole, broken, word) in [
        ("<memory unit='KiB'>", "<memory unit='furlong'>", "`memory`"),
        (
            "<vcpu placement='static'>2<",
            "<vcpu placement='static'>two<",
            "`vcpu`",
        ),
        ("<target dev='vda' bus='virtio'/>", "", "no target"),
    ] {
        let text = GUESTS[1].text.replacen(whole, broken, 1);
        assert_ne!(text, GUESTS[1].text, "{whole}");
        let document = xml::parse(&text).unwrap();
        let found = causes(document.root_element());
        assert!(
            found.iter().any(|(_, sentence)| sentence.contains(word)),
            "{found:?}"
        );
    }
}

/// What nobody told of a host is not taken for something that two hosts have in common.
#[test]
fn hosts() {
    let fingerprints: BTreeSet<String> = HOSTS
        .iter()
        .map(|text| {
            let document = xml::parse(text).unwrap();
            let capabilities = host::Capabilities::read(document.root_element()).unwrap();
            assert!(!capabilities.machines.is_empty());
            assert!(
                capabilities
                    .machines
                    .values()
                    .all(|known| !known.is_empty())
            );
            capabilities.cpu_fingerprint
        })
        .collect();
    assert_eq!(fingerprints.len(), HOSTS.len());
    let bare = |uuid: &str| {
        let text = format!("<capabilities><host><uuid>{uuid}</uuid></host></capabilities>");
        let document = xml::parse(&text).unwrap();
        host::Capabilities::read(document.root_element()).unwrap()
    };
    assert_ne!(
        bare("5d0d3c39-4e0b-4f1e-8f5f-1f7b7f3a1c0a").cpu_fingerprint,
        bare("5d0d3c39-4e0b-4f1e-8f5f-1f7b7f3a1c0b").cpu_fingerprint
    );
}

/// One piece of damage.
#[derive(Debug, Clone)]
enum Damage {
    Cut(Index, usize),
    Double(Index, usize),
    Put(Index, &'static str),
    Drop(Index),
    Value(Index, &'static str),
}

const NASTY: &[&str] = &[
    "",
    "\0",
    "'",
    "&#0;",
    "&amp;",
    "<x/>",
    "<!-- -->",
    "<![CDATA[<disk/>]]>",
    "]]>",
    "18446744073709551616",
    "-1",
    "9999999999999999999999",
    "../../etc/shadow",
    "/",
    "yes",
    "network",
    "file",
    "<disk type='file'><source file='/x'/></disk>",
    "<disk type='file'><target dev='vda'/></disk>",
    "<source file='/other'/>",
    "<backingStore/>",
    "ünïcödé\u{202e}",
    "<!DOCTYPE a [<!ENTITY b 'c'>]>",
];

fn damage() -> impl Strategy<Value = Damage> {
    let nasty = || prop::sample::select(NASTY);
    prop_oneof![
        (any::<Index>(), 1usize..200).prop_map(|(at, length)| Damage::Cut(at, length)),
        (any::<Index>(), 1usize..200).prop_map(|(at, length)| Damage::Double(at, length)),
        (any::<Index>(), nasty()).prop_map(|(at, text)| Damage::Put(at, text)),
        any::<Index>().prop_map(Damage::Drop),
        (any::<Index>(), nasty()).prop_map(|(at, text)| Damage::Value(at, text)),
    ]
}

fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

fn damaged(text: &str, all: &[Damage]) -> String {
    let mut text = text.to_owned();
    for damage in all {
        if text.is_empty() {
            break;
        }
        let place = |at: &Index| floor(&text, at.index(text.len()));
        match damage {
            Damage::Cut(at, length) => {
                let at = place(at);
                let end = floor(&text, (at + length).min(text.len()));
                text.replace_range(at..end, "");
            }
            Damage::Double(at, length) => {
                let at = place(at);
                let end = floor(&text, (at + length).min(text.len()));
                let piece = text[at..end].to_owned();
                text.insert_str(end, &piece);
            }
            Damage::Put(at, piece) => {
                let at = place(at);
                text.insert_str(at, piece);
            }
            // A whole element, or an attribute's value: the text stays XML, mostly.
            Damage::Drop(at) => {
                let ranges: Vec<_> = Document::parse(&text).map_or(Vec::new(), |document| {
                    let nodes = document.descendants().filter(Node::is_element).skip(1);
                    nodes.map(|node| node.range()).collect()
                });
                if !ranges.is_empty() {
                    text.replace_range(ranges[at.index(ranges.len())].clone(), "");
                }
            }
            Damage::Value(at, piece) => {
                let ranges: Vec<_> = Document::parse(&text).map_or(Vec::new(), |document| {
                    let nodes = document.descendants();
                    nodes
                        .flat_map(|node| node.attributes().map(|own| own.range_value()))
                        .collect()
                });
                if !ranges.is_empty() {
                    let range = ranges[at.index(ranges.len())].clone();
                    text.replace_range(range, &xml::escape(piece));
                }
            }
        }
    }
    text
}

fn look_at(text: &str) {
    let Ok(document) = xml::parse(text) else {
        return;
    };
    let domain = document.root_element();
    let ours = metadata::ours(domain);
    metadata::manager(domain, &ours);
    metadata::others(domain);
    let named = description::every_file(domain);
    for disk in description::describe(domain).unwrap().disks {
        // What may be removed is only what no domain names: every file of a disk is named.
        for file in disk.path.iter().chain(&disk.backing) {
            assert!(!file.starts_with('/') || named.contains(file), "{file}");
        }
    }
    if xml::is(domain, "domain") && causes(domain).is_empty() {
        rewriting_keeps_all(text);
    }
}

/// Of what is kept: what is no XML is said to be none; what says something we do not read or know stays where it is; and
/// what moves has the memory that the file's first line gives.
#[test]
fn damaged_guests_that_are_kept() {
    for (name, text) in corpus::texts("domains", "") {
        look_at(&text);
        let parsed = xml::parse(&text);
        if name.starts_with("no-xml-") {
            assert!(parsed.is_err(), "{name}");
            continue;
        }
        let document = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let domain = document.root_element();
        let causes = causes(domain);
        if name.starts_with("stays-") {
            assert!(!causes.is_empty(), "{name}");
        }
        if name.starts_with("moves-") {
            assert_eq!(causes, [], "{name}");
            let memory = description::describe(domain).unwrap().memory;
            let said = format!("memory: {}", memory.0);
            assert!(text.contains(&said), "{name}: {said}");
        }
    }
}

#[test]
fn damaged_hosts_and_pools_that_are_kept() {
    for (name, text) in corpus::texts("capabilities", "") {
        let document = xml::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = host::Capabilities::read(document.root_element());
        assert_eq!(read.is_ok(), name.starts_with("read-"), "{name}");
        if let Ok(capabilities) = read {
            assert!(!capabilities.cpu_fingerprint.is_empty(), "{name}");
        }
    }
    // How much is said to be left.
    for (name, text) in corpus::texts("pools", "") {
        let facts = storage::pool_facts(&text, true).unwrap();
        let said = format!("available: {}", facts.available.0);
        assert!(text.contains(&said), "{name}: {said}");
    }
}

#[test]
fn uris_that_are_kept() {
    for (name, text) in corpus::texts("uris", "") {
        for line in text.split('\n').filter(|line| !line.is_empty()) {
            let read = uri::check_uri(line, false);
            assert_eq!(read.is_ok(), name.starts_with("good"), "{line:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/proptest/libvirt.txt")))), ..ProptestConfig::default() })]

    #[test]
    fn damaged_guests(which in any::<Index>(), damage in vec(damage(), 0..6)) {
        look_at(&damaged(GUESTS[which.index(GUESTS.len())].text, &damage));
    }

    /// Our own element: a mark and a last move are read as they were written, or not at all.
    #[test]
    fn damaged_marks(damage in vec(damage(), 0..6)) {
        let text = for_target(GUESTS[0].text, Definition::Persistent, &[], &mark()).unwrap();
        let text = damaged(&text, &damage);
        look_at(&text);
        if let Ok(document) = xml::parse(&text)
            && let Some(read) = metadata::ours(document.root_element()).mark
        {
            prop_assert!(text.contains(&read.id.to_string()) || text.contains(&read.id.simple().to_string()), "{text}");
        }
    }

    #[test]
    fn damaged_hosts_and_pools(which in any::<Index>(), damage in vec(damage(), 0..6)) {
        let text = damaged(HOSTS[which.index(HOSTS.len())], &damage);
        if let Ok(document) = xml::parse(&text)
            && let Ok(capabilities) = host::Capabilities::read(document.root_element())
        {
            prop_assert!(!capabilities.cpu_fingerprint.is_empty());
        }
        let _ = storage::pool_facts(&damaged(POOL, &damage), true);
    }

    #[test]
    fn any_uri(scheme in "(qemu|QEMU|test)?(\\+(tls|ssh|tcp|unix))?", rest in "\\PC{0,40}", insecure: bool) {
        for text in [rest.clone(), format!("{scheme}://{rest}"), format!("{scheme}://{rest}/system")] {
            if let Ok(uri) = uri::check_uri(&text, insecure) {
                let told = uri.for_libvirt(&[]);
                prop_assert!(!told.contains([' ', '\'', '"', '\\']) && !told.chars().any(char::is_control), "{told}");
                prop_assert!(!uri.host().starts_with('-'));
            }
        }
        if let Ok(address) = uri::check_address(&rest) {
            prop_assert!(!address.starts_with('-') && !address.contains([' ', '/', '?', '#']), "{address}");
        }
    }
}
