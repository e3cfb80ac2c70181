//! Metadata in a domain's XML: our own element, others' elements, and the marks of those who manage guests too.

use std::collections::BTreeMap;

use evenkeel_engine::port::{
    Fault, LastMove, Mark, PortError, PortResult, ShutdownMark, ShutdownStage,
};
use roxmltree::{Document, Node};
use uuid::Uuid;

use crate::libvirt::xml;

/// Namespace of our element.
pub(crate) const NAMESPACE: &str = "https://evenkeel.dev/xml/1";
/// Its prefix.
pub(crate) const PREFIX: &str = "evenkeel";
/// Entries of others' metadata that are kept, and bytes of each.
const ENTRIES: usize = 64;
const ENTRY_BYTES: usize = 1024;

/// What our element says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ours {
    pub(crate) mark: Option<Mark>,
    pub(crate) last_move: Option<LastMove>,
    pub(crate) shutdown_mark: Option<ShutdownMark>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) elsewhere: bool,
}

/// Reads our element from a domain's XML.
pub(crate) fn ours(domain: Node<'_, '_>) -> Ours {
    xml::child(domain, "metadata")
        .and_then(|metadata| metadata.children().find(|node| is_guest(*node)))
        .map(read)
        .unwrap_or_default()
}

/// Whether this is our element. libvirt takes the namespace off when it returns the element alone.
fn is_guest(node: Node<'_, '_>) -> bool {
    node.is_element()
        && node.tag_name().name() == "guest"
        && node.tag_name().namespace() == Some(NAMESPACE)
}

fn read(guest: Node<'_, '_>) -> Ours {
    let mut ours = Ours::default();
    for child in guest.children().filter(Node::is_element) {
        let said = |name: &str| child.attribute(name).unwrap_or_default();
        match child.tag_name().name() {
            "move" => {
                ours.mark = Uuid::parse_str(said("id")).ok().map(|id| Mark {
                    id,
                    source: said("source").into(),
                    target: said("target").into(),
                    migration: said("migration").to_owned(),
                });
            }
            "lastMove" => {
                ours.last_move = Some(LastMove {
                    time: said("time").to_owned(),
                    from: said("from").into(),
                    by: said("by").to_owned(),
                    onward: child.attribute("onward").map(Into::into),
                });
            }
            "shutdown" => {
                let stage = match said("stage") {
                    "Down" => ShutdownStage::Down,
                    "TimedOut" => ShutdownStage::TimedOut,
                    _ => ShutdownStage::Asked,
                };
                ours.shutdown_mark = Some(ShutdownMark {
                    fleet: said("fleet").to_owned(),
                    by: said("by").to_owned(),
                    host: said("host").into(),
                    time: said("time").to_owned(),
                    timeout: said("timeout").parse().unwrap_or(0),
                    restart: said("restart") == "AfterDrain",
                    stage,
                });
            }
            "label" if !said("key").is_empty() => {
                ours.labels
                    .insert(said("key").to_owned(), said("value").to_owned());
            }
            "managed" => ours.elsewhere = child.text().map(str::trim) == Some("Elsewhere"),
            _ => {}
        }
    }
    ours
}

/// What becomes of one of our element's children.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    /// The mark of a move, or none.
    Mark(Option<&'a Mark>),
    /// No mark, and this as the last move.
    LastMove(&'a LastMove),
    /// What tells of a shutdown for a drain, or nothing.
    Shutdown(Option<&'a ShutdownMark>),
}

impl Change<'_> {
    /// Names of the children that are taken out.
    fn replaced(&self) -> &'static [&'static str] {
        match self {
            Self::Mark(_) => &["move"],
            Self::LastMove(_) => &["move", "lastMove"],
            Self::Shutdown(_) => &["shutdown"],
        }
    }

    /// The child that is put in, with this prefix.
    fn inserted(&self, prefix: &str) -> String {
        match self {
            Self::Mark(Some(mark)) => format!(
                "<{prefix}move id='{}' source='{}' target='{}' migration='{}'/>",
                mark.id,
                xml::escape(&mark.source),
                xml::escape(&mark.target),
                xml::escape(&mark.migration)
            ),
            Self::Mark(None) | Self::Shutdown(None) => String::new(),
            Self::Shutdown(Some(mark)) => {
                let stage = match mark.stage {
                    ShutdownStage::Asked => "Asked",
                    ShutdownStage::Down => "Down",
                    ShutdownStage::TimedOut => "TimedOut",
                };
                let restart = if mark.restart { "AfterDrain" } else { "Never" };
                format!(
                    "<{prefix}shutdown fleet='{}' by='{}' host='{}' time='{}' timeout='{}' restart='{restart}' stage='{stage}'/>",
                    xml::escape(&mark.fleet),
                    xml::escape(&mark.by),
                    xml::escape(&mark.host),
                    xml::escape(&mark.time),
                    mark.timeout,
                )
            }
            Self::LastMove(last) => {
                let onward = last.onward.as_ref();
                let onward = onward.map(|host| format!(" onward='{}'", xml::escape(host)));
                format!(
                    "<{prefix}lastMove time='{}' from='{}' by='{}'{}/>",
                    xml::escape(&last.time),
                    xml::escape(&last.from),
                    xml::escape(&last.by),
                    onward.unwrap_or_default()
                )
            }
        }
    }
}

/// Our element as libvirt returned it alone, without namespace, changed; its other children stay byte for byte.
/// Nothing where nothing would be left in it.
pub(crate) fn changed(element: Option<&str>, change: &Change<'_>) -> PortResult<Option<String>> {
    let Some(element) = element else {
        let inserted = change.inserted("");
        return Ok((!inserted.is_empty()).then(|| format!("<guest>{inserted}</guest>")));
    };
    let document = Document::parse(element).map_err(|error| {
        PortError::new(
            Fault::Other,
            format!("the guest's metadata element is broken: {error}"),
        )
    })?;
    let root = document.root_element();
    let kept: String = root
        .children()
        .filter(|child| {
            !(child.is_element() && change.replaced().contains(&child.tag_name().name()))
        })
        .filter(|child| {
            !(child.is_text() && child.text().is_some_and(|text| text.trim().is_empty()))
        })
        .map(|child| &element[child.range()])
        .collect();
    let content = kept + &change.inserted("");
    Ok((!content.is_empty()).then(|| format!("<guest>{content}</guest>")))
}

/// The edits that put a mark into a whole domain's XML.
pub(crate) fn mark_edits(
    domain: Node<'_, '_>,
    text: &str,
    mark: &Mark,
) -> Vec<(std::ops::Range<usize>, String)> {
    let change = Change::Mark(Some(mark));
    let metadata = xml::child(domain, "metadata");
    let whole = || {
        format!(
            "<{PREFIX}:guest xmlns:{PREFIX}='{NAMESPACE}'>{}</{PREFIX}:guest>",
            change.inserted(&format!("{PREFIX}:"))
        )
    };
    let Some(metadata) = metadata else {
        // The root's first child comes right after its start tag.
        let at = domain
            .first_child()
            .map_or(domain.range().end, |child| child.range().start);
        return vec![(at..at, format!("<metadata>{}</metadata>", whole()))];
    };
    let Some(guest) = metadata.children().find(|node| is_guest(*node)) else {
        return match metadata.first_child() {
            Some(first) => vec![(first.range().start..first.range().start, whole())],
            None => vec![(
                metadata.range(),
                format!("<metadata>{}</metadata>", whole()),
            )],
        };
    };
    // The prefix that is bound where the element stands, whatever it is.
    let start = &text[guest.range()];
    let qualified = start[1..]
        .split(|c: char| c.is_whitespace() || c == '>' || c == '/')
        .next()
        .unwrap_or_default();
    let prefix = qualified.strip_suffix("guest").unwrap_or_default();
    let inserted = change.inserted(prefix);
    let mut edits: Vec<_> = guest
        .children()
        .filter(|child| child.is_element() && child.tag_name().name() == "move")
        .map(|child| (child.range(), String::new()))
        .collect();
    match guest.first_child() {
        Some(first) => edits.push((first.range().start..first.range().start, inserted)),
        None => {
            let range = guest.range();
            let tag = start
                .trim_end_matches("/>")
                .trim_end_matches(&format!("></{qualified}>"));
            edits.push((range, format!("{tag}>{inserted}</{qualified}>")));
        }
    }
    edits
}

/// Others' metadata, flattened: the path of prefixed names below the outermost element, `@` before an attribute.
pub(crate) fn others(domain: Node<'_, '_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Some(metadata) = xml::child(domain, "metadata") else {
        return found;
    };
    for element in metadata
        .children()
        .filter(Node::is_element)
        .filter(|node| !is_guest(*node))
    {
        let has_elements = element.children().any(|child| child.is_element());
        if has_elements {
            for child in element.children().filter(Node::is_element) {
                flatten(child, "", &mut found);
            }
        } else {
            flatten(element, "", &mut found);
        }
    }
    found
}

fn flatten(node: Node<'_, '_>, above: &str, found: &mut BTreeMap<String, String>) {
    let prefix = node
        .tag_name()
        .namespace()
        .and_then(|namespace| node.lookup_prefix(namespace))
        .map(|prefix| format!("{prefix}:"))
        .unwrap_or_default();
    let path = format!("{above}{prefix}{}", node.tag_name().name());
    let mut keep = |path: String, text: &str| {
        if found.len() < ENTRIES {
            let end = text.floor_char_boundary(ENTRY_BYTES);
            found.entry(path).or_insert_with(|| text[..end].to_owned());
        }
    };
    for attribute in node.attributes() {
        keep(format!("{path}@{}", attribute.name()), attribute.value());
    }
    if let Some(text) = node.text().map(str::trim).filter(|text| !text.is_empty()) {
        keep(path.clone(), text);
    }
    for child in node.children().filter(Node::is_element) {
        flatten(child, &format!("{path}/"), found);
    }
}

/// When the guest was made, where its metadata says so, in RFC 3339.
pub(crate) fn created(others: &BTreeMap<String, String>) -> Option<String> {
    let said = others
        .iter()
        .find(|(path, _)| path.ends_with("creationTime") || path.ends_with("creation-time"))?
        .1;
    let plain = said.len() == 19 && said.as_bytes().get(10) == Some(&b' ');
    let zoned = said.len() >= 20 && said.as_bytes().get(10) == Some(&b'T');
    match (plain, zoned) {
        (true, _) => Some(format!("{}T{}Z", &said[..10], said.get(11..)?)),
        (_, true) => Some(said.clone()),
        _ => None,
    }
}

/// Namespaces of those who manage guests.
const MANAGERS_BY_NAMESPACE: &[(&str, &str)] = &[
    ("http://openstack.org/xmlns/libvirt/nova/", "OpenStack"),
    ("http://kubevirt.io", "KubeVirt"),
    ("https://kubevirt.io", "KubeVirt"),
    ("http://ovirt.org/vm/", "oVirt"),
    ("http://opennebula.org/xmlns/libvirt/", "OpenNebula"),
    ("http://cloudstack.apache.org", "CloudStack"),
];

/// What they write into the guest's SMBIOS tables, system entries.
const MANAGERS_BY_SYSTEM: &[(&str, &str)] = &[
    ("OpenStack", "OpenStack"),
    ("Harvester", "Harvester"),
    ("KubeVirt", "KubeVirt"),
    ("oVirt", "oVirt"),
    ("RHEV", "oVirt"),
    ("RHV", "oVirt"),
    ("CloudStack", "CloudStack"),
];

/// Who else manages the guest, by the marks in its XML.
pub(crate) fn manager(domain: Node<'_, '_>, ours: &Ours) -> Option<String> {
    if ours.elsewhere {
        return Some("its own metadata".to_owned());
    }
    let by_namespace = xml::child(domain, "metadata").and_then(|metadata| {
        metadata.descendants().find_map(|node| {
            let namespace = node.tag_name().namespace()?;
            MANAGERS_BY_NAMESPACE
                .iter()
                .find(|(start, _)| namespace.starts_with(start))
        })
    });
    let by_system = || {
        let system = xml::at(domain, &["sysinfo", "system"])?;
        let entries: Vec<&str> = xml::children(system, "entry")
            .filter_map(|entry| entry.text())
            .collect();
        MANAGERS_BY_SYSTEM
            .iter()
            .find(|(word, _)| entries.iter().any(|entry| entry.contains(word)))
    };
    by_namespace
        .or_else(by_system)
        .map(|(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mark() -> Mark {
        Mark {
            id: Uuid::from_u128(9),
            source: "h1".into(),
            target: "h'2".into(),
            migration: "m".into(),
        }
    }

    fn read_back(element: &str) -> Ours {
        read(Document::parse(element).unwrap().root_element())
    }

    #[test]
    fn a_mark_comes_and_goes_and_the_rest_stays() {
        let made = changed(None, &Change::Mark(Some(&mark())))
            .unwrap()
            .unwrap();
        assert_eq!(read_back(&made).mark, Some(mark()));
        assert_eq!(changed(Some(&made), &Change::Mark(None)).unwrap(), None);

        let full = "<guest>\n <label key='app' value='web'/><other x='1'>t</other>\n</guest>";
        let marked = changed(Some(full), &Change::Mark(Some(&mark())))
            .unwrap()
            .unwrap();
        assert!(marked.contains("<label key='app' value='web'/><other x='1'>t</other>"));
        let last = LastMove {
            time: "2026-11-01T00:00:00Z".into(),
            from: "h1".into(),
            by: "HostDrain/d".into(),
            onward: Some("h'3".into()),
        };
        let done = changed(Some(&marked), &Change::LastMove(&last))
            .unwrap()
            .unwrap();
        let ours = read_back(&done);
        assert_eq!((ours.mark, ours.last_move), (None, Some(last)));
        assert_eq!(ours.labels["app"], "web");
        assert!(done.contains("<other x='1'>t</other>"));
    }

    #[test]
    fn what_tells_of_a_shutdown_stands_beside_the_rest() {
        let mark_of = |stage| ShutdownMark {
            fleet: "o'ne".into(),
            by: "HostDrain/d".into(),
            host: "h1".into(),
            time: "2026-11-01T00:00:00Z".into(),
            timeout: 300,
            restart: true,
            stage,
        };
        let mut element = "<guest><lastMove time='t' from='h' by='b'/></guest>".to_owned();
        for stage in [
            ShutdownStage::Asked,
            ShutdownStage::Down,
            ShutdownStage::TimedOut,
        ] {
            let own = mark_of(stage);
            element = changed(Some(&element), &Change::Shutdown(Some(&own)))
                .unwrap()
                .unwrap();
            assert_eq!(element.matches("<shutdown ").count(), 1, "{element}");
            assert_eq!(read_back(&element).shutdown_mark, Some(own));
            // A move leaves it alone.
            let marked = changed(Some(&element), &Change::Mark(Some(&mark()))).unwrap();
            assert_eq!(
                read_back(&marked.unwrap()).shutdown_mark,
                Some(mark_of(stage))
            );
        }
        let without = changed(Some(&element), &Change::Shutdown(None)).unwrap();
        let ours = read_back(&without.unwrap());
        assert!(ours.shutdown_mark.is_none() && ours.last_move.is_some());
    }

    fn splice(text: &str) -> String {
        let document = Document::parse(text).unwrap();
        let edits = mark_edits(document.root_element(), text, &mark());
        super::super::rewrite::apply(text, edits).unwrap()
    }

    #[test]
    fn a_mark_in_a_whole_domain() {
        for text in [
            "<domain>\n  <name>g</name>\n</domain>",
            "<domain><metadata/></domain>",
            "<domain><metadata></metadata></domain>",
            "<domain><metadata><n:x xmlns:n='u'>1</n:x></metadata></domain>",
            "<domain><metadata><evenkeel:guest xmlns:evenkeel='https://evenkeel.dev/xml/1'/></metadata></domain>",
            "<domain><metadata><guest xmlns=\"https://evenkeel.dev/xml/1\"></guest></metadata></domain>",
            "<domain><metadata><e:guest xmlns:e='https://evenkeel.dev/xml/1'><e:move id='x'/><e:label key='a' value='b'/></e:guest></metadata></domain>",
        ] {
            let spliced = splice(text);
            let document = Document::parse(&spliced).unwrap();
            assert_eq!(
                ours(document.root_element()).mark,
                Some(mark()),
                "{spliced}"
            );
            assert_eq!(spliced.matches("move ").count(), 1, "{spliced}");
        }
        assert!(
            splice("<domain><metadata><n:x xmlns:n='u'>1</n:x></metadata></domain>")
                .contains("<n:x xmlns:n='u'>1</n:x>")
        );
    }

    #[test]
    fn flattened() {
        let text = "<domain><metadata>\
            <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
            <nova:creationTime>2012-11-02 10:00:00</nova:creationTime>\
            <nova:owner><nova:user uuid='u1'>admin</nova:user></nova:owner></nova:instance>\
            <evenkeel:guest xmlns:evenkeel='https://evenkeel.dev/xml/1'><evenkeel:managed>Here</evenkeel:managed></evenkeel:guest>\
            </metadata></domain>";
        let document = Document::parse(text).unwrap();
        let flat = others(document.root_element());
        assert_eq!(flat["nova:owner/nova:user"], "admin");
        assert_eq!(flat["nova:owner/nova:user@uuid"], "u1");
        assert_eq!(created(&flat).as_deref(), Some("2012-11-02T10:00:00Z"));
        assert!(!flat.keys().any(|key| key.contains("managed")));
        assert_eq!(
            manager(document.root_element(), &Ours::default()).as_deref(),
            Some("OpenStack")
        );
    }

    #[test]
    fn managers() {
        for (text, name) in [
            (
                "<domain><sysinfo type='smbios'><system><entry name='product'>OpenStack Nova</entry></system></sysinfo></domain>",
                Some("OpenStack"),
            ),
            (
                "<domain><metadata><k:kubevirt xmlns:k='http://kubevirt.io'/></metadata></domain>",
                Some("KubeVirt"),
            ),
            (
                "<domain><metadata><o:vm xmlns:o='http://ovirt.org/vm/1.0'/></metadata></domain>",
                Some("oVirt"),
            ),
            (
                "<domain><sysinfo type='smbios'><system><entry name='product'>CloudStack KVM Hypervisor</entry></system></sysinfo></domain>",
                Some("CloudStack"),
            ),
            (
                "<domain><metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'/></metadata></domain>",
                None,
            ),
        ] {
            let document = Document::parse(text).unwrap();
            assert_eq!(
                manager(document.root_element(), &Ours::default()).as_deref(),
                name,
                "{text}"
            );
        }
    }
}
