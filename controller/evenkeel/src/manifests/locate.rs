//! YAML as a tree that knows where each node was written.
//!
//! Scalars are read as kubectl reads them: YAML 1.1's `Yes`, `Off`, `n` are booleans. Whether that is what was meant is
//! for the schema to say. Knows nothing of Kubernetes.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use serde_json::Value;

/// Deeper than anything we read; keeps recursion over the tree bounded.
const MAX_DEPTH: usize = 64;
/// Nodes that aliases may add to a file in all.
const MAX_ALIASED: usize = 100_000;

/// A position in a file, both counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl At {
    /// Where a file begins.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl From<Marker> for At {
    fn from(mark: Marker) -> Self {
        Self {
            line: mark.line().max(1),
            column: mark.col() + 1,
        }
    }
}

/// Something wrong at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: At,
    /// What, as a sentence without the position.
    pub sentence: String,
}

/// A node and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: At,
    /// What it is.
    pub data: Data,
    /// A plain (unquoted) scalar as it was written.
    pub plain: Option<String>,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Nothing, `~` or `null`.
    Null,
    /// A boolean by YAML 1.1.
    Bool(bool),
    /// A whole number.
    Whole(i64),
    /// Another number.
    Number(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub at: At,
    /// Its value.
    pub value: Node,
}

/// One YAML document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its content.
    pub root: Node,
    /// What is wrong with it as YAML: keys given twice, unknown tags.
    pub faults: Vec<Fault>,
}

impl Entry {
    /// Where an error of it is shown: at its value where that stands in the same line, else at its key.
    #[must_use]
    pub fn place(&self) -> At {
        if self.value.at.line == self.at.line {
            self.value.at
        } else {
            self.at
        }
    }
}

impl Node {
    /// The entry of that key, if this is a mapping.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value of that key, if this is a mapping and the value is not null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key)
            .map(|entry| &entry.value)
            .filter(|node| node.data != Data::Null)
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON. A null in a mapping counts as absent, as it does for the API server.
    #[must_use]
    pub fn json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::from(*value),
            Data::Whole(value) => Value::from(*value),
            Data::Number(value) => Value::from(*value),
            Data::Text(value) => Value::from(value.as_str()),
            Data::List(items) => items.iter().map(Self::json).collect(),
            Data::Map(entries) => entries
                .iter()
                .filter(|entry| entry.value.data != Data::Null)
                .map(|entry| (entry.key.clone(), entry.value.json()))
                .collect(),
        }
    }

    /// Where the field of this path is written: `spec.pools[1].name`. The nearest node above it if it is not there.
    #[must_use]
    pub fn locate(&self, path: &str) -> At {
        let mut node = self;
        let mut at = self.at;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match (
                &node.data,
                step.strip_suffix(']')
                    .and_then(|index| index.parse::<usize>().ok()),
            ) {
                (Data::List(items), Some(index)) => items.get(index).map(|item| (item.at, item)),
                _ => node.entry(step).map(|entry| (entry.place(), &entry.value)),
            };
            let Some((found, below)) = next else { break };
            (at, node) = (found, below);
        }
        at
    }

    fn size(&self) -> usize {
        1 + match &self.data {
            Data::List(items) => items.iter().map(Self::size).sum(),
            Data::Map(entries) => entries
                .iter()
                .map(|entry| entry.value.size())
                .sum::<usize>(),
            _ => 0,
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.data {
            Data::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Data::Map(entries) => entries
                .iter()
                .map(|entry| entry.value.depth())
                .max()
                .unwrap_or(0),
            _ => 0,
        }
    }
}

/// Reads every document of a text. Where the text stops being YAML, the documents before it and the fault.
#[must_use]
pub fn read(text: &str) -> (Vec<Document>, Option<Fault>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => builder.take(event, span.start.into()),
            Err(error) => Err(Fault {
                at: (*error.marker()).into(),
                sentence: format!("not YAML: {}", error.info()),
            }),
        };
        if let Err(fault) = step {
            return (builder.documents, Some(fault));
        }
    }
    (builder.documents, None)
}

/// A container that is not complete.
enum Open {
    List(At, usize, Vec<Node>),
    Map {
        at: At,
        anchor: usize,
        entries: Vec<Entry>,
        seen: HashMap<String, At>,
        key: Option<(String, At)>,
    },
}

#[derive(Default)]
struct Builder {
    documents: Vec<Document>,
    open: Vec<Open>,
    faults: Vec<Fault>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    root: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: At) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.root = None;
            }
            Event::DocumentEnd => {
                let faults = std::mem::take(&mut self.faults);
                if let Some(root) = self.root.take() {
                    self.documents.push(Document { root, faults });
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &["seq"], at);
                self.enter(Open::List(at, anchor, Vec::new()), at)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &["map"], at);
                let (entries, seen, key) = Default::default();
                self.enter(
                    Open::Map {
                        at,
                        anchor,
                        entries,
                        seen,
                        key,
                    },
                    at,
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), at);
                self.complete(node, anchor);
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    let sentence =
                        "not YAML we can read: an alias that refers to itself".to_owned();
                    return Err(Fault { at, sentence });
                };
                self.aliased += node.size();
                if self.aliased > MAX_ALIASED || self.open.len() + node.depth() > MAX_DEPTH {
                    let sentence = "the aliases of this file make too large a document".to_owned();
                    return Err(Fault { at, sentence });
                }
                self.complete(Node { at, ..node }, 0);
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
        }
        Ok(())
    }

    fn enter(&mut self, container: Open, at: At) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            let sentence = format!("nested more than {MAX_DEPTH} deep");
            return Err(Fault { at, sentence });
        }
        self.open.push(container);
        Ok(())
    }

    fn leave(&mut self) {
        let (at, anchor, data) = match self.open.pop() {
            Some(Open::List(at, anchor, items)) => (at, anchor, Data::List(items)),
            Some(Open::Map {
                at,
                anchor,
                entries,
                ..
            }) => (at, anchor, Data::Map(merge(entries))),
            None => return,
        };
        self.complete(
            Node {
                at,
                data,
                plain: None,
            },
            anchor,
        );
    }

    /// A node is whole: it goes where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, _, items)) => items.push(node),
            Some(Open::Map {
                entries, seen, key, ..
            }) => match key.take() {
                Some((key, at)) => entries.push(Entry {
                    key,
                    at,
                    value: node,
                }),
                None => {
                    let (text, wrong) = key_of(&node);
                    self.faults.extend(wrong);
                    if let Some(first) = seen.get(&text) {
                        self.faults.push(Fault {
                            at: node.at,
                            sentence: format!(
                                "{text} is given twice, first in line {}: remove one of them",
                                first.line
                            ),
                        });
                    }
                    seen.insert(text.clone(), node.at);
                    *key = Some((text, node.at));
                }
            },
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: At) -> Node {
        let is =
            |suffix: &str| tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == suffix);
        self.check_tag(tag, &["str", "int", "bool", "float", "null"], at);
        let quoted = style != ScalarStyle::Plain;
        let as_text =
            is("str") || (quoted && !is("int") && !is("bool") && !is("float") && !is("null"));
        let data = if as_text {
            Data::Text(text.to_owned())
        } else {
            resolve(text)
        };
        let plain = (!quoted && tag.is_none()).then(|| text.to_owned());
        Node { at, data, plain }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, known: &[&str], at: At) {
        let Some(tag) = tag else { return };
        let known = tag.is_yaml_core_schema() && known.contains(&tag.suffix.as_str());
        // `!` alone only says that the scalar is text.
        let bare = tag.handle.is_empty() && tag.suffix == "!";
        if !(known || bare) {
            let sentence = format!("the tag {tag} means nothing here: remove it");
            self.faults.push(Fault { at, sentence });
        }
    }
}

/// A mapping's key, and what is wrong with it.
fn key_of(node: &Node) -> (String, Option<Fault>) {
    let wrong = |sentence: String| {
        Some(Fault {
            at: node.at,
            sentence,
        })
    };
    match (&node.data, &node.plain) {
        (Data::Text(text), _) => (text.clone(), None),
        (Data::Bool(value), Some(plain)) => {
            let sentence = format!(
                "the key {plain} is read as the boolean {value} by YAML 1.1: write it in quotes"
            );
            (plain.clone(), wrong(sentence))
        }
        (Data::Whole(_) | Data::Number(_), Some(plain)) => (plain.clone(), None),
        _ => (String::new(), wrong("a key must be text".to_owned())),
    }
}

/// `<<: *defaults` (YAML 1.1's merge key, which kubectl knows): keys of the mapping itself win.
fn merge(mut entries: Vec<Entry>) -> Vec<Entry> {
    while let Some(place) = entries.iter().position(|entry| entry.key == "<<") {
        let sources = match entries.remove(place).value.data {
            Data::List(items) => items,
            data => vec![Node {
                at: At::START,
                data,
                plain: None,
            }],
        };
        for source in sources {
            let Data::Map(inherited) = source.data else {
                continue;
            };
            for entry in inherited {
                if entry.key != "<<" && !entries.iter().any(|own| own.key == entry.key) {
                    entries.push(entry);
                }
            }
        }
    }
    entries
}

/// What a plain scalar means to kubectl.
fn resolve(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
            return Data::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
            return Data::Bool(false);
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Data::Number(f64::NAN);
        }
        _ => {}
    }
    let bare = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Data::Text(text.to_owned());
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = bare.replace('_', "");
    let (radix, figures) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ => (10, digits.as_str()),
    };
    // A second sign makes it text.
    if figures.starts_with(|c: char| c.is_ascii_hexdigit())
        && let Ok(value) = i64::from_str_radix(figures, radix)
    {
        return Data::Whole(sign * value);
    }
    let numeric = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match digits.parse::<f64>() {
        Ok(value) if numeric => Data::Number(value * sign as f64),
        _ => Data::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Document {
        let (mut documents, fault) = read(text);
        assert_eq!(fault, None, "{text}");
        assert_eq!(documents.len(), 1, "{text}");
        documents.remove(0)
    }

    #[test]
    fn every_node_knows_its_place() {
        let root = one("a:\n  b:\n    - c: 1\n    - c: 2\n").root;
        assert_eq!(
            root.locate("a.b[1].c"),
            At {
                line: 4,
                column: 10
            }
        );
        assert_eq!(root.locate("a.b[1].missing"), At { line: 4, column: 7 });
        assert_eq!(root.locate("a"), At { line: 1, column: 1 });
        assert_eq!(
            root.json(),
            serde_json::json!({"a": {"b": [{"c": 1}, {"c": 2}]}})
        );
    }

    #[test]
    fn scalars_mean_what_kubectl_takes_them_for() {
        for (text, data) in [
            ("Off", Data::Bool(false)),
            ("yes", Data::Bool(true)),
            ("\"Off\"", Data::Text("Off".into())),
            ("!!str Off", Data::Text("Off".into())),
            ("12", Data::Whole(12)),
            ("-0x10", Data::Whole(-16)),
            ("1_000", Data::Whole(1000)),
            (
                "-0x-8000000000000000",
                Data::Text("-0x-8000000000000000".into()),
            ),
            ("1.5", Data::Number(1.5)),
            ("2Gi", Data::Text("2Gi".into())),
            (
                "2026-12-01T06:00:00Z",
                Data::Text("2026-12-01T06:00:00Z".into()),
            ),
            ("12:30:45", Data::Text("12:30:45".into())),
            ("~", Data::Null),
            (".", Data::Text(".".into())),
            ("é1", Data::Text("é1".into())),
            ("1é", Data::Text("1é".into())),
        ] {
            assert_eq!(one(text).root.data, data, "{text}");
        }
    }

    #[test]
    fn keys_given_twice_are_named_with_both_places() {
        let document = one("spec:\n  a: 1\n  b: 2\n  a: 3\n");
        assert_eq!(document.faults[0].at, At { line: 4, column: 3 });
        assert!(
            document.faults[0]
                .sentence
                .contains("a is given twice, first in line 2")
        );
    }

    #[test]
    fn aliases_and_merges() {
        let root = one("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: *x\n").root;
        assert_eq!(
            root.json(),
            serde_json::json!({"x": {"a": 1, "b": 2}, "y": {"a": 3, "b": 2}, "z": {"a": 1, "b": 2}})
        );
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(read(&text).1.unwrap().sentence.contains("too large"));
        assert!(read(&"[".repeat(100_000)).1.is_some());
        assert!(read(&"- ".repeat(100_000)).1.is_some());
    }

    #[test]
    fn what_is_before_a_fault_is_kept() {
        let (documents, fault) = read("a: 1\n---\nb: [1\n---\n");
        assert_eq!(documents.len(), 1);
        assert!(fault.unwrap().at.line >= 3);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC*") {
            for document in read(&text).0 {
                let _ = document.root.json();
            }
        }

        #[test]
        fn no_yaml_makes_it_panic(text in "([-a0 :\\[\\]{},&*!|>'\"#\n~<%@`?.]|Off|1e9|---\n|<<: ){0,60}") {
            for document in read(&text).0 {
                let _ = document.root.json();
                let _ = document.root.locate("a.b[0]");
            }
        }
    }
}
