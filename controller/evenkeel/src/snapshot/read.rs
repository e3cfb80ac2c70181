//! A snapshot back from its file. Whatever is wrong with it is said with its line; nothing in it is passed over.

use std::sync::Arc;

use evenkeel_crds::shared::API_VERSION;
use serde_json::Value;

use super::{KIND, Snapshot, VERSION, known_kind};
use crate::{
    manifests::{
        Manifests, Place, Wrong, WrongManifests,
        locate::{self, At, Data, Document, Fault, Node},
    },
    output,
    scene::Scene,
};

/// How much of a file is looked at to tell what it is.
const HEAD: usize = 4096;

/// Whether a text is meant to be a snapshot: it says so at its beginning.
#[must_use]
pub fn is_snapshot(text: &str) -> bool {
    let head = text.char_indices().nth(HEAD).map_or(text.len(), |at| at.0);
    text[..head].lines().any(|line| {
        let line = line.trim_end_matches([' ', ',', '\r']);
        // In JSON it is a field of the outermost object; in YAML it stands at the margin.
        matches!(line.trim_start(), r#""kind": "Snapshot""#)
            || matches!(line, "kind: Snapshot" | "kind: \"Snapshot\"")
    })
}

/// Reads a snapshot.
///
/// # Errors
/// With everything that is wrong with it.
pub fn read(file: &Arc<str>, text: &str) -> Result<Scene, WrongManifests> {
    let wrong = |faults: Vec<Fault>| {
        let place = |at| Place {
            file: file.clone(),
            at,
        };
        let mut all: Vec<Wrong> = faults
            .into_iter()
            .map(|Fault { at, sentence }| Wrong {
                place: place(at),
                sentence,
            })
            .collect();
        all.sort();
        all.dedup();
        WrongManifests(all)
    };
    let (mut documents, broken) = locate::read(text);
    if let Some(fault) = broken {
        return Err(wrong(vec![fault]));
    }
    if let Some(second) = documents.get(1) {
        return Err(wrong(vec![fault(
            second.root.at,
            "a snapshot is one document, this file has more",
        )]));
    }
    let Some(Document { root, faults }) = documents.pop() else {
        return Err(wrong(vec![fault(At::START, "the file is empty")]));
    };
    if !faults.is_empty() {
        return Err(wrong(faults));
    }
    check_version(&root).map_err(|fault| wrong(vec![fault]))?;
    let mut snapshot: Snapshot =
        serde_path_to_error::deserialize(root.json()).map_err(|error| {
            let path = error.path().to_string();
            let at = root.locate(&path);
            wrong(vec![Fault {
                at,
                sentence: format!("{KIND}: {path}: {}", error.into_inner()),
            }])
        })?;
    let mut faults = Vec::new();
    let parts = [
        ("input", serde_json::to_value(&snapshot.input)),
        ("seen", serde_json::to_value(&snapshot.seen)),
    ];
    for (part, known) in parts {
        if let (Some(node), Ok(known)) = (root.get(part), known) {
            unknown(node, &known, part, &mut faults);
        }
    }
    for (index, trouble) in snapshot.seen.problems.iter().enumerate() {
        if known_kind(&trouble.kind).is_none() {
            let path = format!("seen.problems[{index}].kind");
            let sentence = format!("{KIND}: {path}: there is no kind {}", trouble.kind);
            faults.push(fault(root.locate(&path), &sentence));
        }
    }
    if let Err((path, sentence)) = snapshot.input.check() {
        let path = path.iter().fold("input".to_owned(), |path, step| {
            match step.parse::<usize>() {
                Ok(index) => format!("{path}[{index}]"),
                Err(_) => format!("{path}.{step}"),
            }
        });
        let at = root.locate(&path);
        faults.push(fault(at, &format!("{KIND}: {path}: {sentence}")));
    }
    let items = match root.get("objects").map(|objects| &objects.data) {
        Some(Data::List(items)) => items.clone(),
        _ => Vec::new(),
    };
    let documents = items.into_iter().map(|root| Document {
        root,
        faults: Vec::new(),
    });
    snapshot.objects.clear();
    let manifests = match Manifests::of_documents(file, documents) {
        Ok(manifests) => manifests,
        Err(mut all) => {
            all.0.extend(wrong(faults).0);
            all.0.sort();
            return Err(all);
        }
    };
    if !faults.is_empty() {
        return Err(wrong(faults));
    }
    if snapshot.input.digest() != snapshot.digest {
        output::tell(format_args!(
            "{file}: its input was changed since it was taken"
        ));
    }
    Ok(snapshot.scene(manifests.wishes))
}

fn fault(at: At, sentence: &str) -> Fault {
    Fault {
        at,
        sentence: sentence.to_owned(),
    }
}

/// Whether it is a snapshot that this program reads.
fn check_version(root: &Node) -> Result<(), Fault> {
    let place = |field: &str| root.entry(field).map_or(root.at, locate::Entry::place);
    if root.get("apiVersion").and_then(Node::text) != Some(API_VERSION)
        || root.get("kind").and_then(Node::text) != Some(KIND)
    {
        return Err(fault(
            place("apiVersion"),
            &format!("a snapshot begins with apiVersion: {API_VERSION} and kind: {KIND}"),
        ));
    }
    let version = match root.get("version").map(|node| &node.data) {
        Some(Data::Whole(VERSION)) => return Ok(()),
        Some(Data::Whole(version)) => format!("of version {version}"),
        Some(_) => "of a version that is no number".to_owned(),
        None => "without a version".to_owned(),
    };
    let by = root.get("takenBy").and_then(Node::text);
    let by = by.map_or(String::new(), |by| format!(" (it was taken by {by})"));
    Err(fault(
        place("version"),
        &format!(
            "this is a snapshot {version}, and this program reads version {VERSION}: read it with the program that took it{by}"
        ),
    ))
}

/// Fields that were read over: they are not written again.
fn unknown(node: &Node, known: &Value, path: &str, faults: &mut Vec<Fault>) {
    match (&node.data, known) {
        (Data::Map(entries), Value::Object(fields)) => {
            for entry in entries {
                match fields.get(&entry.key) {
                    Some(below) => {
                        let path = format!("{path}.{}", entry.key);
                        unknown(&entry.value, below, &path, faults);
                    }
                    None if entry.value.data == Data::Null => {}
                    None => faults.push(fault(
                        entry.at,
                        &format!("{KIND}: {path} has no field {}", entry.key),
                    )),
                }
            }
        }
        (Data::List(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                unknown(item, known, &format!("{path}[{index}]"), faults);
            }
        }
        _ => {}
    }
}
