//! Rewriting a domain's XML for its target: by byte ranges in the original text, so that all else stays as it is.

use std::ops::Range;

use evenkeel_engine::port::{DiskPlace, Fault, Mark, PortError, PortResult, is_directory};
use roxmltree::Node;

use super::metadata;
use crate::libvirt::xml;

/// Which of the two definitions that a target gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Definition {
    /// The running copy: every copied disk has to be in it, and is kept thin.
    Live,
    /// The same where only top layers travel. libvirt (9.0) then looks for each disk's file before it asks a pool for it,
    /// and would make a disk that is given by pool and volume: it is given by its file.
    Layered,
    /// The one that outlives the QEMU: as it was but for paths and mark.
    Persistent,
}

type Edit = (Range<usize>, String);

/// The XML for the target: each named disk at its path there and without backing chain, since the copy is whole;
/// the mark; and for the running copy zeroes detected and discarded, else the copy fills every disk.
pub(crate) fn for_target(
    text: &str,
    definition: Definition,
    disks: &[DiskPlace],
    mark: &Mark,
) -> PortResult<String> {
    let document = xml::parse(text)?;
    let domain = document.root_element();
    let mut edits = metadata::mark_edits(domain, text, mark);
    let devices = xml::child(domain, "devices");
    for place in disks {
        let disk = devices
            .into_iter()
            .flat_map(|devices| xml::children(devices, "disk"))
            .find(|disk| {
                xml::child(*disk, "target").and_then(|node| node.attribute("dev"))
                    == Some(&place.target)
            });
        match disk {
            Some(disk) => edits.extend(disk_edits(disk, text, place, definition)?),
            // Plugged in for as long as the guest runs.
            None if definition == Definition::Persistent => {}
            None => return Err(invalid(format!("the guest has no disk `{}`", place.target))),
        }
    }
    apply(text, edits)
}

fn invalid(message: String) -> PortError {
    PortError::new(Fault::Invalid, message)
}

fn disk_edits(
    disk: Node<'_, '_>,
    text: &str,
    place: &DiskPlace,
    definition: Definition,
) -> PortResult<Vec<Edit>> {
    let target = &place.target;
    let mut edits = Vec::new();
    let source = xml::child(disk, "source");
    let said = |name| source.and_then(|source| source.attribute_node(name));
    match (said("file"), said("pool"), said("volume")) {
        (Some(file), ..) => edits.push((file.range_value(), xml::escape(&place.path))),
        (None, Some(pool), Some(volume)) => {
            if is_volume(place) && definition != Definition::Layered {
                edits.push((pool.range_value(), xml::escape(&place.pool)));
                edits.push((volume.range_value(), xml::escape(&place.volume)));
            } else {
                let kind = disk.attribute_node("type");
                edits.extend(kind.map(|kind| (kind.range_value(), "file".to_owned())));
                edits.push((pool.range(), format!("file='{}'", xml::escape(&place.path))));
                edits.push((volume.range(), String::new()));
            }
        }
        _ if definition == Definition::Persistent => {}
        _ => return Err(invalid(format!("the disk `{target}` is no file"))),
    }
    edits.extend(
        xml::children(disk, "backingStore")
            .map(|chain| (without_indent(text, chain.range()), String::new())),
    );
    if definition != Definition::Persistent {
        match xml::child(disk, "driver") {
            Some(driver) => {
                for name in ["discard", "detect_zeroes"] {
                    match driver.attribute_node(name) {
                        Some(attribute) => {
                            edits.push((attribute.range_value(), "unmap".to_owned()))
                        }
                        None => {
                            let at = driver.range().start + "<driver".len();
                            edits.push((at..at, format!(" {name}='unmap'")));
                        }
                    }
                }
            }
            None => return Err(invalid(format!("the disk `{target}` names no driver"))),
        }
    }
    Ok(edits)
}

/// Whether a pool and a volume there can be named: neither a directory outside all pools nor one below a pool's.
fn is_volume(place: &DiskPlace) -> bool {
    !is_directory(&place.pool) && !place.volume.contains('/')
}

/// A range with the blank before it on its line, line break included.
fn without_indent(text: &str, range: Range<usize>) -> Range<usize> {
    let before = &text[..range.start];
    let start = before.trim_end_matches([' ', '\t']);
    let start = start.strip_suffix('\n').unwrap_or(before);
    start.len()..range.end
}

/// Applies edits that do not overlap; those at one place in the order given.
pub(crate) fn apply(text: &str, mut edits: Vec<Edit>) -> PortResult<String> {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut rewritten = String::with_capacity(text.len() + 512);
    let mut done = 0;
    for (range, inserted) in edits {
        let between = text
            .get(done..range.start)
            .ok_or_else(|| PortError::new(Fault::Other, "changes to the domain's XML overlap"))?;
        rewritten.push_str(between);
        rewritten.push_str(&inserted);
        done = range.end;
    }
    rewritten.push_str(text.get(done..).unwrap_or_default());
    Ok(rewritten)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use uuid::Uuid;

    const LIVE: &str = include_str!("../../../fixtures/running.xml");

    fn mark() -> Mark {
        Mark {
            id: Uuid::from_u128(3),
            source: "h1".into(),
            target: "h2".into(),
            migration: "m".into(),
        }
    }

    fn place(target: &str, pool: &str, volume: &str) -> DiskPlace {
        DiskPlace {
            target: target.to_owned(),
            path: format!("/{}/{volume}", pool.trim_start_matches('/')),
            pool: pool.to_owned(),
            volume: volume.to_owned(),
        }
    }

    /// The first disk's type and its source's attributes.
    fn disk_of(text: &str) -> (String, Vec<(String, String)>) {
        let document = xml::parse(text).unwrap();
        let mut all = document.descendants();
        let disk = all.find(|node| xml::is(*node, "disk")).unwrap();
        let said = xml::child(disk, "source").unwrap().attributes();
        let said = said.map(|own| (own.name().to_owned(), own.value().to_owned()));
        (
            disk.attribute("type").unwrap().to_owned(),
            said.filter(|(name, _)| name != "index").collect(),
        )
    }

    #[test]
    fn a_volume_stays_one_where_libvirt_takes_it() {
        let text = LIVE
            .replacen("<disk type='file'", "<disk type='volume'", 1)
            .replacen(
                "file='/var/lib/libvirt/images/web-1.qcow2'",
                "pool='default' volume='web-1.qcow2'",
                1,
            );
        let own = |names: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
            names.iter().map(owned).collect::<Vec<_>>()
        };
        let named = own(&[("pool", "fast"), ("volume", "a'b<")]);
        let file = own(&[("file", "/fast/a'b<")]);
        for (definition, kind, source) in [
            (Definition::Live, "volume", &named),
            (Definition::Persistent, "volume", &named),
            (Definition::Layered, "file", &file),
        ] {
            let disks = [place("vda", "fast", "a'b<")];
            let text = for_target(&text, definition, &disks, &mark()).unwrap();
            assert_eq!(disk_of(&text), (kind.to_owned(), source.clone()));
            assert!(!text.contains("backingStore type"));
        }
        // Where no pool and volume can be named, it becomes a file in both.
        for (pool, volume) in [("/data", "a"), ("fast", "below/a")] {
            let disks = [place("vda", pool, volume)];
            let text = for_target(&text, Definition::Persistent, &disks, &mark()).unwrap();
            assert_eq!(
                disk_of(&text),
                ("file".to_owned(), own(&[("file", &disks[0].path)]))
            );
        }
    }

    #[test]
    fn only_what_has_to_change_does() {
        let disks = [place("vda", "/new", "a'b.qcow2")];
        let live = for_target(LIVE, Definition::Live, &disks, &mark()).unwrap();
        let document = xml::parse(&live).unwrap();
        let disk = document
            .descendants()
            .find(|node| xml::is(*node, "disk"))
            .unwrap();
        let source = xml::child(disk, "source").unwrap();
        assert_eq!(source.attribute("file"), Some("/new/a'b.qcow2"));
        assert_eq!(source.attribute("index"), Some("2"));
        let driver = xml::child(disk, "driver").unwrap();
        assert_eq!(driver.attribute("discard"), Some("unmap"));
        assert_eq!(driver.attribute("detect_zeroes"), Some("unmap"));
        assert_eq!(driver.attribute("cache"), Some("none"));
        assert!(xml::child(disk, "backingStore").is_none());
        assert_eq!(metadata::ours(document.root_element()).mark, Some(mark()));

        // All lines but the changed ones are those of the original.
        let lines: Vec<&str> = LIVE.lines().collect();
        let foreign: Vec<&str> = live.lines().filter(|line| !lines.contains(line)).collect();
        assert_eq!(foreign.len(), 3, "{foreign:#?}");
    }

    #[test]
    fn the_persistent_definition_keeps_its_driver() {
        let disks = [place("vda", "/new", "a"), place("vdz", "/new", "z")];
        let persistent = for_target(LIVE, Definition::Persistent, &disks, &mark()).unwrap();
        assert!(!persistent.contains("detect_zeroes"));
        assert!(persistent.contains("/new/a"));
        assert!(for_target(LIVE, Definition::Live, &disks, &mark()).is_err());
    }

    #[test]
    fn overlapping_edits_are_refused() {
        assert!(apply("abcdef", vec![(0..3, String::new()), (2..4, String::new())]).is_err());
        assert_eq!(
            apply("abc", vec![(1..1, "1".into()), (1..2, "2".into())]).unwrap(),
            "a12c"
        );
    }
}
