//! One object against the schema of its kind: the CRD's own, with unknown fields refused as `kubectl apply` does.
//!
//! A walk of our own over the structural subset that CRDs are made of, so that each error is a sentence with the place
//! it was written at. Rules in CEL are run by `kube-cel`, the same that the API server has.

use evenkeel_crds::quantity::{Bytes, Cpus, QuantityError, Span};
use regex::Regex;
use serde_json::Value;

use super::locate::{At, Data, Fault, Node};

/// The schema of a kind's spec.
pub struct Schema {
    spec: Value,
    rules: kube_cel::CompiledSchema,
}

impl Schema {
    /// From the `openAPIV3Schema` of a CRD.
    #[must_use]
    pub fn of(open_api: &Value) -> Self {
        let spec = open_api["properties"]["spec"].clone();
        let rules = kube_cel::compile_schema(&spec);
        Self { spec, rules }
    }

    /// What is wrong with a spec. `whole` is the object it belongs to.
    #[must_use]
    pub fn check(&self, whole: &Node) -> Vec<Fault> {
        let mut walk = Walk::default();
        let Some(spec) = whole
            .entry("spec")
            .filter(|entry| entry.value.data != Data::Null)
        else {
            walk.say(whole.at, "spec", "is missing");
            return walk.faults;
        };
        walk.check(&spec.value, spec.place(), &self.spec, "spec");
        if walk.faults.is_empty() {
            self.rules(whole, &spec.value.json(), &mut walk);
        }
        walk.faults
    }

    fn rules(&self, whole: &Node, spec: &Value, walk: &mut Walk) {
        let complete = kube_cel::apply_defaults(&self.spec, spec);
        let Err(errors) =
            kube_cel::Validator::new().validate_compiled(&self.rules, &complete, None)
        else {
            return;
        };
        for error in errors {
            let path = match error.field_path.trim_start_matches('.') {
                "" => "spec".to_owned(),
                below => format!("spec.{below}"),
            };
            walk.say(whole.locate(&path), &path, &error.message);
        }
    }
}

/// The name that was probably meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let low = word.to_lowercase();
    let (distance, best) = known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&low, &candidate.to_lowercase()),
                candidate,
            )
        })
        .min()?;
    (distance <= (word.chars().count() / 3).max(1)).then_some(best)
}

/// `: did you mean X?`, or a list of what there is.
fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => {
            let known: Vec<&str> = known.into_iter().collect();
            format!("there are {}", known.join(", "))
        }
    }
}

#[derive(Default)]
struct Walk {
    faults: Vec<Fault>,
}

impl Walk {
    fn say(&mut self, at: At, path: &str, what: &str) {
        // "is missing" continues the path; a sentence of its own follows a colon.
        let sentence = match what.split(' ').next() {
            Some("is" | "must") => format!("{path} {what}"),
            _ => format!("{path}: {what}"),
        };
        self.faults.push(Fault { at, sentence });
    }

    fn check(&mut self, node: &Node, at: At, schema: &Value, path: &str) {
        let is = |word: &str| schema["type"] == word;
        if schema["x-kubernetes-int-or-string"] == true {
            self.check_int_or_string(node, at, schema, path);
        } else if is("object") {
            self.check_object(node, at, schema, path);
        } else if is("array") {
            self.check_list(node, at, schema, path);
        } else if is("string") {
            self.check_string(node, at, schema, path);
        } else if is("integer") || is("number") {
            self.check_number(node, at, schema, path);
        } else if is("boolean") && !matches!(node.data, Data::Bool(_)) {
            self.say(
                at,
                path,
                &format!("must be true or false, not {}", describe(node)),
            );
        }
    }

    fn check_object(&mut self, node: &Node, at: At, schema: &Value, path: &str) {
        let Data::Map(entries) = &node.data else {
            self.say(
                at,
                path,
                &format!("must be a mapping, not {}", describe(node)),
            );
            return;
        };
        let properties = schema["properties"].as_object();
        let others = schema
            .get("additionalProperties")
            .filter(|others| others.is_object());
        for entry in entries {
            let below = format!("{path}.{}", entry.key);
            if let Some(property) = properties.and_then(|all| all.get(&entry.key)) {
                // The API server takes a null for absent, and so do we; `required` sees to the rest.
                if entry.value.data != Data::Null {
                    self.check(&entry.value, entry.place(), property, &below);
                }
            } else if let Some(others) = others {
                self.check(&entry.value, entry.place(), others, &below);
            } else if schema["x-kubernetes-preserve-unknown-fields"] != true && properties.is_some()
            {
                let known: Vec<&str> = properties
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name.as_str())
                    .collect();
                let hint = suggestion(&entry.key, known.iter().copied());
                self.say(
                    entry.at,
                    &below,
                    &format!("there is no field {}: {hint}", entry.key),
                );
            }
        }
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if node.get(name).is_none() {
                self.say(at, &format!("{path}.{name}"), "is missing");
            }
        }
        self.check_size(
            entries.len(),
            at,
            schema,
            path,
            ["minProperties", "maxProperties"],
            "entries",
        );
    }

    fn check_list(&mut self, node: &Node, at: At, schema: &Value, path: &str) {
        let Data::List(items) = &node.data else {
            self.say(at, path, &format!("must be a list, not {}", describe(node)));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            self.check(item, item.at, &schema["items"], &format!("{path}[{index}]"));
        }
        self.check_size(
            items.len(),
            at,
            schema,
            path,
            ["minItems", "maxItems"],
            "items",
        );
        self.check_distinct(items, schema, path);
    }

    /// Lists that are sets, or maps by keys.
    fn check_distinct(&mut self, items: &[Node], schema: &Value, path: &str) {
        let keys = schema["x-kubernetes-list-map-keys"].as_array();
        let set = schema["x-kubernetes-list-type"] == "set" || schema["uniqueItems"] == true;
        if keys.is_none() && !set {
            return;
        }
        let identity = |item: &Node| match keys {
            Some(keys) => keys
                .iter()
                .filter_map(Value::as_str)
                .map(|key| item.json()[key].clone())
                .collect(),
            None => item.json(),
        };
        for (index, item) in items.iter().enumerate() {
            if let Some(first) = items[..index]
                .iter()
                .find(|before| identity(before) == identity(item))
            {
                let what = format!("is listed twice, first in line {}", first.at.line);
                self.say(item.at, &format!("{path}[{index}]"), &what);
            }
        }
    }

    fn check_size(
        &mut self,
        size: usize,
        at: At,
        schema: &Value,
        path: &str,
        [least, most]: [&str; 2],
        what: &str,
    ) {
        let bound = |name: &str| {
            schema[name]
                .as_u64()
                .and_then(|bound| usize::try_from(bound).ok())
        };
        if let Some(least) = bound(least).filter(|least| size < *least) {
            if size == 0 {
                self.say(at, path, "must not be empty");
            } else {
                self.say(
                    at,
                    path,
                    &format!("must have at least {least} {what}, not {size}"),
                );
            }
        }
        if let Some(most) = bound(most).filter(|most| size > *most) {
            self.say(
                at,
                path,
                &format!("must have at most {most} {what}, not {size}"),
            );
        }
    }

    fn check_string(&mut self, node: &Node, at: At, schema: &Value, path: &str) {
        let Data::Text(text) = &node.data else {
            self.say(at, path, &not_text(node, schema));
            return;
        };
        self.check_text(text, at, schema, path);
    }

    fn check_text(&mut self, text: &str, at: At, schema: &Value, path: &str) {
        if let Some(values) = schema["enum"].as_array() {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            if !values.contains(&text) {
                let meant = match nearest(text, values.iter().copied()) {
                    Some(meant) => format!(": did you mean {meant}?"),
                    None => String::new(),
                };
                let list = one_of(&values);
                self.say(at, path, &format!("must be {list}, not {text:?}{meant}"));
            }
            return;
        }
        let before = self.faults.len();
        self.check_size(
            text.chars().count(),
            at,
            schema,
            path,
            ["minLength", "maxLength"],
            "characters",
        );
        if self.faults.len() > before {
            return;
        }
        if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
            self.say(
                at,
                path,
                &format!("must be a time such as 2026-12-01T06:00:00Z, not {text:?}"),
            );
        }
        let pattern = schema["pattern"].as_str();
        if let Some(sentence) = pattern.and_then(|pattern| wrong_by_pattern(text, pattern)) {
            self.say(at, path, &sentence);
        }
    }

    fn check_number(&mut self, node: &Node, at: At, schema: &Value, path: &str) {
        let wants = if schema["type"] == "integer" {
            "a whole number"
        } else {
            "a number"
        };
        let value = match node.data {
            Data::Whole(value) => {
                if let Some(plain) = node.plain.as_deref().filter(|plain| octal(plain)) {
                    let what = format!(
                        "{plain} is read as octal by YAML 1.1 (kubectl): write it without the leading zero"
                    );
                    self.say(at, path, &what);
                }
                value as f64
            }
            Data::Number(value) if schema["type"] == "number" => value,
            _ => {
                self.say(
                    at,
                    path,
                    &format!("must be {wants}, not {}", describe(node)),
                );
                return;
            }
        };
        let (least, most) = match schema["format"].as_str() {
            Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
            _ => (f64::MIN, f64::MAX),
        };
        let least = schema["minimum"].as_f64().unwrap_or(least);
        let most = schema["maximum"].as_f64().unwrap_or(most);
        if value < least {
            self.say(at, path, &format!("must be at least {least}, not {value}"));
        }
        if value > most {
            self.say(at, path, &format!("must be at most {most}, not {value}"));
        }
    }

    fn check_int_or_string(&mut self, node: &Node, at: At, schema: &Value, path: &str) {
        match (&node.data, &node.plain) {
            (Data::Text(text), _) => self.check_text(text, at, schema, path),
            // What the server lets pass and our types would not: the same check for numbers.
            (Data::Whole(value), _) => self.check_text(&value.to_string(), at, schema, path),
            (Data::Number(_), Some(plain)) => {
                let what = format!(
                    "{plain} must be in quotes: write \"{plain}\", since it is neither whole nor text"
                );
                self.say(at, path, &what);
            }
            _ => self.say(at, path, &not_text(node, schema)),
        }
    }
}

fn octal(plain: &str) -> bool {
    let digits = plain.trim_start_matches(['-', '+']);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// `A`, `A or B`, `one of A, B, C`.
fn one_of(values: &[&str]) -> String {
    match values {
        [one] => (*one).to_owned(),
        [one, other] => format!("{one} or {other}"),
        _ => format!("one of {}", values.join(", ")),
    }
}

/// What a node is, for people.
fn describe(node: &Node) -> String {
    match (&node.data, &node.plain) {
        (Data::Null, _) => "nothing".to_owned(),
        (Data::List(_), _) => "a list".to_owned(),
        (Data::Map(_), _) => "a mapping".to_owned(),
        (Data::Text(text), _) => format!("{text:?}"),
        (_, Some(plain)) => plain.clone(),
        (Data::Bool(value), None) => value.to_string(),
        (Data::Whole(value), None) => value.to_string(),
        (Data::Number(value), None) => value.to_string(),
    }
}

/// Something that should have been text and was read as something else.
fn not_text(node: &Node, schema: &Value) -> String {
    let values: Vec<&str> = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let wanted = if values.is_empty() {
        "text".to_owned()
    } else {
        one_of(&values)
    };
    match (&node.data, &node.plain) {
        (Data::Bool(value), Some(plain))
            if !matches!(plain.to_lowercase().as_str(), "true" | "false") =>
        {
            let quotes = if values.is_empty() {
                format!(": write \"{plain}\" in quotes if it is meant as text")
            } else {
                String::new()
            };
            format!(
                "must be {wanted}, but {plain} is read as the boolean {value} by YAML 1.1 (kubectl){quotes}"
            )
        }
        (Data::Bool(_) | Data::Whole(_) | Data::Number(_), Some(plain)) if values.is_empty() => {
            format!("must be text, not {plain}: write \"{plain}\" in quotes")
        }
        _ => format!("must be {wanted}, not {}", describe(node)),
    }
}

/// The sentence for text that a pattern refuses. Patterns of our own types speak for themselves.
fn wrong_by_pattern(text: &str, pattern: &str) -> Option<String> {
    let sentence = match meaning(pattern) {
        Meaning::Bytes => return text.parse::<Bytes>().err().map(|error: QuantityError| error.to_string()),
        Meaning::Cpus => return text.parse::<Cpus>().err().map(|error: QuantityError| error.to_string()),
        Meaning::Duration => return text.parse::<Span>().err().map(|error: QuantityError| error.to_string()),
        Meaning::Uri => crate::hypervisors::check_uri(text, true).err().unwrap_or_else(|| {
            format!(
                "{text:?} is not a URI we use: write qemu+tls://HOST/system, qemu+ssh://HOST/system or \
                 qemu+tcp://HOST/system, without a query"
            )
        }),
        Meaning::Address => crate::hypervisors::check_address(text)
            .err()
            .unwrap_or_else(|| format!("{text:?} is neither a host name nor an IP address")),
        Meaning::ObjectName => format!(
            "{text:?} is not a name: small letters, digits, - and . only, with a letter or digit at both ends"
        ),
        Meaning::Uuid => format!(
            "{text:?} is not a UUID as libvirt writes it: small letters, such as 6f1c2a34-0000-4000-8000-0123456789ab"
        ),
        Meaning::TimeOfDay => {
            format!("{text:?} is not a time of day: write HH:MM, from \"00:00\" to \"23:59\"")
        }
        Meaning::Other => format!("{text:?} does not look as it must (pattern {pattern})"),
    };
    match Regex::new(pattern) {
        Ok(regex) if !regex.is_match(text) => Some(sentence),
        _ => None,
    }
}

/// What a pattern of the CRDs is there for.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Bytes,
    Cpus,
    Duration,
    Uri,
    Address,
    ObjectName,
    Uuid,
    TimeOfDay,
    Other,
}

fn meaning(pattern: &str) -> Meaning {
    if pattern.contains("2[0-3]") {
        return Meaning::TimeOfDay;
    }
    let has = |part: &str| pattern.contains(part);
    if has("(Ki|Mi|Gi") {
        Meaning::Bytes
    } else if has("(ms|s|m|h)") {
        Meaning::Duration
    } else if has("}m|[0-9]") {
        Meaning::Cpus
    } else if has("qemu\\+") {
        Meaning::Uri
    } else if has("[0-9a-f]{8}") {
        Meaning::Uuid
    } else if has("[0-9a-fA-F:.]") {
        Meaning::Address
    } else if has("[a-z0-9.-]*") {
        Meaning::ObjectName
    } else {
        Meaning::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == "pattern" {
                        found.extend(value.as_str().map(str::to_owned));
                    }
                    patterns(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| patterns(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_pattern_of_a_spec_has_its_own_sentence_and_compiles() {
        for (file, crd) in evenkeel_crds::manifests::all() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            let mut found = Vec::new();
            patterns(&schema["openAPIV3Schema"]["properties"]["spec"], &mut found);
            for pattern in found {
                assert_ne!(meaning(&pattern), Meaning::Other, "{file}: {pattern}");
                assert!(Regex::new(&pattern).is_ok(), "{file}: {pattern}");
            }
        }
    }

    #[test]
    fn every_rule_compiles() {
        for (file, crd) in evenkeel_crds::manifests::all() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            let schema = Schema::of(&schema["openAPIV3Schema"]);
            assert!(!schema.rules.has_errors(), "{file}");
        }
    }

    #[test]
    fn the_word_that_was_meant() {
        let known = ["names", "selector"];
        assert_eq!(nearest("name", known), Some("names"));
        assert_eq!(nearest("SELECTOR", known), Some("selector"));
        assert_eq!(nearest("colour", known), None);
    }
}
