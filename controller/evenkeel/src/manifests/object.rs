//! One document: whose it is, whether it is well formed, and the object it makes.

use evenkeel_crds::shared::{API_VERSION, GROUP, VERSION};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{hypervisors, snapshot};

use super::{
    Object,
    locate::{At, Data, Document, Fault, Node},
    schema::{Schema, nearest},
};

/// What becomes of a document.
#[derive(Debug)]
pub enum Outcome {
    /// Of another group: what it is.
    Foreign(At, String),
    /// Wrong.
    Wrong(Vec<Fault>),
    /// One of ours.
    Object(At, Object),
}

/// Knows every kind.
pub struct Checker {
    kinds: Vec<(String, Schema)>,
}

impl Checker {
    /// From the CRDs.
    #[must_use]
    pub fn new() -> Self {
        let kinds = evenkeel_crds::manifests::all()
            .into_iter()
            .map(|(_, crd)| {
                let version = crd
                    .spec
                    .versions
                    .iter()
                    .find(|version| version.name == VERSION);
                let schema = version
                    .and_then(|version| serde_json::to_value(&version.schema).ok())
                    .unwrap_or_default();
                (crd.spec.names.kind, Schema::of(&schema["openAPIV3Schema"]))
            })
            .collect();
        Self { kinds }
    }

    /// One document: one object, or those of a list.
    #[must_use]
    pub fn check(&self, document: &Document) -> Vec<Outcome> {
        let root = &document.root;
        // A document of nothing but comments.
        if root.data == Data::Null {
            return Vec::new();
        }
        let kind = root.get("kind").and_then(Node::text);
        let version = root.get("apiVersion").and_then(Node::text);
        let ours = version.is_none_or(|version| version == "v1" || group(version) == GROUP);
        let mut outcomes = Vec::new();
        if let (true, Some(Data::List(items))) = (
            ours && kind.is_some_and(|kind| kind.ends_with("List")),
            root.get("items").map(|items| &items.data),
        ) {
            outcomes.extend(items.iter().map(|item| self.object(item)));
        } else {
            outcomes.push(self.object(root));
        }
        let foreign = outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Foreign(..)));
        if !foreign && !document.faults.is_empty() {
            outcomes.push(Outcome::Wrong(document.faults.clone()));
        }
        outcomes
    }

    fn object(&self, root: &Node) -> Outcome {
        let known = || self.kinds.iter().map(|(kind, _)| kind.as_str());
        let (at, mut faults) = (root.at, Vec::new());
        let mut say = |at: At, sentence: String| faults.push(Fault { at, sentence });
        if !matches!(root.data, Data::Map(_)) {
            say(
                at,
                "an object must be a mapping with apiVersion, kind, metadata and spec".to_owned(),
            );
            return Outcome::Wrong(faults);
        }
        let word = |name: &str| root.get(name).and_then(Node::text);
        let place = |name: &str| root.entry(name).map_or(at, |entry| entry.value.at);
        if let Some(version) = word("apiVersion") {
            if let Some(foreign) = foreign(version, word("kind"), known()) {
                return Outcome::Foreign(at, foreign);
            }
            if version != API_VERSION {
                let what =
                    format!("apiVersion {version:?} is not one of ours: write {API_VERSION}");
                say(place("apiVersion"), what);
            }
        } else {
            say(
                place("apiVersion"),
                format!("apiVersion is missing: write apiVersion: {API_VERSION}"),
            );
        }
        let list = known().collect::<Vec<_>>().join(", ");
        let schema = match word("kind") {
            None => {
                say(
                    place("kind"),
                    format!("kind is missing: it is one of {list}"),
                );
                None
            }
            Some(snapshot::KIND) => {
                let what = format!(
                    "a {} is read by plan, simulate and snapshot, as the only file with -f",
                    snapshot::KIND
                );
                return Outcome::Wrong(vec![Fault { at, sentence: what }]);
            }
            Some(kind) => {
                let schema = self.kinds.iter().find(|(known, _)| known == kind);
                if schema.is_none() {
                    let what = match nearest(kind, known()) {
                        Some(meant) => format!("there is no kind {kind}: did you mean {meant}?"),
                        None => format!(
                            "there is no kind {kind} in this version of Evenkeel: it has {list}"
                        ),
                    };
                    say(place("kind"), what);
                }
                schema
            }
        };
        faults.extend(check_metadata(root));
        let Some((kind, schema)) = schema else {
            return Outcome::Wrong(faults);
        };
        for entry in entries(root) {
            if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&entry.key.as_str()) {
                let meant = nearest(&entry.key, ["metadata", "spec"])
                    .map_or(String::new(), |meant| format!(": did you mean {meant}?"));
                faults.push(Fault {
                    at: entry.at,
                    sentence: format!("{kind} has no field {}{meant}", entry.key),
                });
            }
        }
        faults.extend(schema.check(root));
        let name = root
            .get("metadata")
            .and_then(|metadata| metadata.get("name"))
            .and_then(Node::text);
        if let Some(name) = name {
            for fault in &mut faults {
                fault.sentence = format!("{kind} {name}: {}", fault.sentence);
            }
        }
        if !faults.is_empty() {
            return Outcome::Wrong(faults);
        }
        match decode(kind, root) {
            Ok(object) => {
                let faults = check_addresses(&object, root);
                if faults.is_empty() {
                    Outcome::Object(at, object)
                } else {
                    Outcome::Wrong(faults)
                }
            }
            Err(error) => Outcome::Wrong(vec![Fault {
                at,
                sentence: format!("{kind}: {error}"),
            }]),
        }
    }
}

fn entries(node: &Node) -> &[super::locate::Entry] {
    match &node.data {
        Data::Map(entries) => entries,
        _ => &[],
    }
}

fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// What a document of another group is; nothing where it is ours, or was meant to be.
fn foreign<'a>(
    version: &str,
    kind: Option<&str>,
    known: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let group = group(version);
    let mut known = known;
    let kind_is_ours = kind.is_some_and(|kind| known.any(|known| known == kind));
    let meant_ours = kind_is_ours && (group.is_empty() || nearest(group, [GROUP]).is_some());
    let ours = group == GROUP || version == GROUP || meant_ours;
    (!ours).then(|| format!("{version} {}", kind.unwrap_or("(without a kind)")))
}

/// Fields of `metadata` that a manifest may have, if only because it was read from a cluster.
const METADATA: [&str; 14] = [
    "name",
    "labels",
    "annotations",
    "namespace",
    "finalizers",
    "ownerReferences",
    "generateName",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
];

fn check_metadata(root: &Node) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut say = |at: At, sentence: String| faults.push(Fault { at, sentence });
    let Some(metadata) = root.get("metadata") else {
        say(
            root.at,
            "metadata is missing: write metadata: {name: ...}".to_owned(),
        );
        return faults;
    };
    if !matches!(metadata.data, Data::Map(_)) {
        say(
            metadata.at,
            "metadata must be a mapping with a name".to_owned(),
        );
        return faults;
    }
    match metadata.get("name") {
        None => say(metadata.at, "metadata.name is missing".to_owned()),
        Some(name) => match (name.text(), &name.plain) {
            (Some(text), _) if is_object_name(text) => {}
            (Some(text), _) => say(
                name.at,
                format!(
                    "metadata.name {text:?} is not a name: small letters, digits, - and . only, with a letter or digit \
                     at both ends, at most 253 in all"
                ),
            ),
            (None, Some(plain)) => say(
                name.at,
                format!("metadata.name must be text: write \"{plain}\" in quotes"),
            ),
            (None, None) => say(name.at, "metadata.name must be text".to_owned()),
        },
    }
    for entry in entries(metadata) {
        if !METADATA.contains(&entry.key.as_str()) && entry.key != "selfLink" {
            let meant = nearest(&entry.key, METADATA)
                .map_or(String::new(), |meant| format!(": did you mean {meant}?"));
            say(
                entry.at,
                format!("metadata.{0}: there is no field {0}{meant}", entry.key),
            );
        }
    }
    for field in ["labels", "annotations"] {
        let Some(values) = metadata.get(field) else {
            continue;
        };
        if !matches!(values.data, Data::Map(_)) {
            say(
                values.at,
                format!("metadata.{field} must be a mapping of text to text"),
            );
        }
        for entry in entries(values) {
            let path = format!("metadata.{field}.{}", entry.key);
            if !is_label_key(&entry.key) {
                let what = "letters, digits, -, _ and . only, with a letter or digit at both ends, at most 63, and a \
                            domain before a / where there is one";
                say(
                    entry.at,
                    format!("{path}: {:?} is not a key: {what}", entry.key),
                );
            }
            match (entry.value.text(), &entry.value.plain) {
                (Some(text), _) if field == "labels" && !is_label_value(text) => {
                    let what = "letters, digits, -, _ and . only, with a letter or digit at both ends, at most 63";
                    say(
                        entry.value.at,
                        format!("{path}: {text:?} is not a label: {what}"),
                    );
                }
                (Some(_), _) => {}
                (None, Some(plain)) if entry.value.data != Data::Null => {
                    say(
                        entry.value.at,
                        format!("{path} must be text: write \"{plain}\" in quotes"),
                    );
                }
                (None, _) => say(entry.value.at, format!("{path} must be text")),
            }
        }
    }
    faults
}

/// Whether the API server would take this as the name of one of our objects (a DNS-1123 subdomain).
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        !bytes.is_empty()
            && bytes.iter().all(inner)
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    text.len() <= 253 && text.split('.').all(part)
}

fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63 && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(is_object_name)
}

fn decode(kind: &str, root: &Node) -> Result<Object, String> {
    // A status read from a cluster says nothing about what is wanted, nor does who wrote it.
    let mut value = root.json();
    if let Value::Object(fields) = &mut value {
        fields.remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|name, _| ["name", "labels", "annotations"].contains(&name.as_str()));
        }
    }
    fn typed<T: DeserializeOwned>(value: Value) -> Result<Box<T>, String> {
        serde_json::from_value(value)
            .map(Box::new)
            .map_err(|error| error.to_string())
    }
    match kind {
        "Host" => typed(value).map(Object::Host),
        "Guest" => typed(value).map(Object::Guest),
        "GuestMigration" => typed(value).map(Object::GuestMigration),
        "HostDrain" => typed(value).map(Object::HostDrain),
        "GuestPlacement" => typed(value).map(Object::GuestPlacement),
        "RebalancePolicy" => typed(value).map(Object::RebalancePolicy),
        "MigrationProfile" => typed(value).map(Object::MigrationProfile),
        "Fleet" => typed(value).map(Object::Fleet),
        _ => Err("this program has no use for it yet".to_owned()),
    }
}

/// URIs and addresses, by the rules of those who open them.
fn check_addresses(object: &Object, root: &Node) -> Vec<Fault> {
    let Object::Host(host) = object else {
        return Vec::new();
    };
    let uri = |uri: &String| hypervisors::check_uri(uri, host.spec.insecure).err();
    let migration = &host.spec.migration;
    let refusals = [
        ("spec.uri", uri(&host.spec.uri)),
        ("spec.migration.uri", migration.uri.as_ref().and_then(uri)),
        (
            "spec.migration.address",
            migration
                .address
                .as_deref()
                .and_then(|address| hypervisors::check_address(address).err()),
        ),
    ];
    let name = host.metadata.name.as_deref().unwrap_or_default();
    refusals
        .into_iter()
        .filter_map(|(path, refusal)| {
            Some(Fault {
                at: root.locate(path),
                sentence: format!("Host {name}: {path}: {}", refusal?),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_api_server_takes_them() {
        for name in ["h1", "a.b-c", "1", &"a".repeat(253)] {
            assert!(is_object_name(name), "{name}");
        }
        for name in [
            "",
            "H1",
            "a_b",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a b",
            "é",
            &"a".repeat(254),
        ] {
            assert!(!is_object_name(name), "{name}");
        }
    }

    #[test]
    fn labels_as_the_api_server_takes_them() {
        assert!(is_label_key("evenkeel.dev/host") && is_label_key("app") && is_label_value(""));
        assert!(
            !is_label_key("")
                && !is_label_key("a/b/c")
                && !is_label_key("/b")
                && !is_label_value("-a")
        );
    }
}
