//! Rewriting a domain's XML for its target: by byte ranges in the original text, so that all else stays as it is.

use std::ops::Range;

use evenkeel_engine::port::{Fault, Mark, PortError, PortResult};
use roxmltree::Node;

use super::metadata;
use crate::libvirt::xml;

/// Which of the two definitions that a target gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Definition {
    /// The running copy: every copied disk has to be in it, and is kept thin.
    Live,
    /// The one that outlives the QEMU: as it was but for paths and mark.
    Persistent,
}

type Edit = (Range<usize>, String);

/// The XML for the target: each named disk at its path there and without backing chain, since the copy is whole;
/// the mark; and for the running copy zeroes detected and discarded, else the copy fills every disk.
pub(crate) fn for_target(
    text: &str,
    definition: Definition,
    disks: &[(String, String)],
    mark: &Mark,
) -> PortResult<String> {
    let document = xml::parse(text)?;
    let domain = document.root_element();
    let mut edits = metadata::mark_edits(domain, text, mark);
    let devices = xml::child(domain, "devices");
    for (target, path) in disks {
        let disk = devices
            .into_iter()
            .flat_map(|devices| xml::children(devices, "disk"))
            .find(|disk| {
                xml::child(*disk, "target").and_then(|node| node.attribute("dev")) == Some(target)
            });
        match disk {
            Some(disk) => edits.extend(disk_edits(disk, text, target, path, definition)?),
            // Plugged in for as long as the guest runs.
            None if definition == Definition::Persistent => {}
            None => return Err(invalid(format!("the guest has no disk `{target}`"))),
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
    target: &str,
    path: &str,
    definition: Definition,
) -> PortResult<Vec<Edit>> {
    let mut edits = Vec::new();
    let file = xml::child(disk, "source").and_then(|source| source.attribute_node("file"));
    match file {
        Some(file) => edits.push((file.range_value(), xml::escape(path))),
        None if definition == Definition::Persistent => {}
        None => return Err(invalid(format!("the disk `{target}` is no file"))),
    }
    edits.extend(
        xml::children(disk, "backingStore")
            .map(|chain| (without_indent(text, chain.range()), String::new())),
    );
    if definition == Definition::Live {
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

    #[test]
    fn only_what_has_to_change_does() {
        let disks = [("vda".to_owned(), "/new/a'b.qcow2".to_owned())];
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
        let disks = [
            ("vda".to_owned(), "/new/a".to_owned()),
            ("vdz".to_owned(), "/new/z".to_owned()),
        ];
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
