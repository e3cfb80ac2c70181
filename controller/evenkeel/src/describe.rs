//! `evenkeel describe`: everything known of one object, the reasons first.

use std::fmt::Write as _;

use evenkeel_crds::reason::Reason;
use evenkeel_engine::Happening;
use serde_json::Value;

use crate::{
    arguments::{Common, Format},
    exit::Exit,
    get,
    kind::Kind,
    output::{self, harmless},
    table::Table,
};

/// Runs the command.
///
/// # Errors
/// Where the object can't be had.
pub async fn run(common: &Common, kind: Kind, name: &str) -> anyhow::Result<Exit> {
    let seen = get::see(common, kind, Some(name)).await?;
    for object in &seen.objects {
        match common.output {
            Some(Format::Json) => {
                output::print(format_args!("{}\n", serde_json::to_string_pretty(object)?))?
            }
            Some(Format::Yaml) => output::print(serde_saphyr::to_string(object)?)?,
            Some(Format::Wide) | None => output::print(describe(object, &seen.happenings))?,
        }
    }
    Ok(Exit::Done)
}

/// An object as text.
#[must_use]
pub fn describe(object: &Value, happenings: &[Happening]) -> String {
    let mut text = String::new();
    let (kind, name) = (
        object["kind"].as_str().unwrap_or_default(),
        get::name_of(object),
    );
    let _ = writeln!(text, "{kind} {name}");
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let (amiss, fine): (Vec<&Value>, Vec<&Value>) =
        conditions.iter().partition(|condition| is_amiss(condition));
    if !amiss.is_empty() {
        text.push_str("\nNot as it should be:\n");
        for condition in amiss {
            write_reason(&mut text, condition);
        }
    }
    section(&mut text, "Labels", &object["metadata"]["labels"]);
    section(&mut text, "Annotations", &object["metadata"]["annotations"]);
    section(&mut text, "Wanted", &object["spec"]);
    let mut status = object["status"].clone();
    let tables = [
        "attempts",
        "files",
        "disks",
        "blocked",
        "violations",
        "skipped",
    ];
    let mut lists = Vec::new();
    if let Value::Object(fields) = &mut status {
        fields.remove("conditions");
        for name in tables {
            lists.extend(fields.remove(name).map(|list| (name, list)));
        }
    }
    section(&mut text, "Seen", &status);
    for (name, list) in lists {
        listing(&mut text, name, &list);
    }
    if !fine.is_empty() {
        text.push_str("\nAs it should be:\n");
        for condition in fine {
            let word = |name: &str| condition[name].as_str().unwrap_or_default();
            let line = format!(
                "  {}={}  {}  {}",
                word("type"),
                word("status"),
                word("reason"),
                harmless(word("message"))
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    // Said while the host was still being asked, and no longer so.
    let outdated = |happening: &Happening| {
        let word = happening.reason.as_str();
        happening.reason == Reason::HostUnreachable
            && !conditions
                .iter()
                .any(|condition| condition["reason"] == word)
    };
    let mine: Vec<&Happening> = happenings
        .iter()
        .filter(|happening| happening.kind == kind && happening.name == name)
        .filter(|happening| !outdated(happening))
        .collect();
    if !mine.is_empty() {
        text.push_str("\nEvents of this look:\n");
        for happening in mine {
            let weight = if happening.warning {
                "Warning"
            } else {
                "Normal"
            };
            let _ = writeln!(
                text,
                "  {weight}  {}  {}",
                happening.reason,
                harmless(&happening.message)
            );
        }
    }
    text
}

/// Conditions that say something bad by being True.
const BAD_WHEN_TRUE: [&str; 4] = ["Reconciling", "Stalled", "ClaimedByOther", "StaleCopies"];

fn is_amiss(condition: &Value) -> bool {
    let kind = condition["type"].as_str().unwrap_or_default();
    let wanted = if BAD_WHEN_TRUE.contains(&kind) {
        "False"
    } else {
        "True"
    };
    condition["status"] != wanted
}

fn write_reason(text: &mut String, condition: &Value) {
    let word = |name: &str| condition[name].as_str().unwrap_or_default();
    let reason = word("reason");
    let _ = writeln!(
        text,
        "  {}={}: {reason}: {}",
        word("type"),
        word("status"),
        harmless(word("message"))
    );
    let hint = Reason::parse(reason).map_or("", Reason::hint);
    if !hint.is_empty() && !word("message").contains(hint) {
        let _ = writeln!(text, "      hint: {hint}");
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn section(text: &mut String, title: &str, value: &Value) {
    if is_empty(value) {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    tree(text, value, 2);
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(harmless(text).replace('\n', " ")),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| {
                    if item.is_object() || item.is_array() {
                        None
                    } else {
                        scalar(item)
                    }
                })
                .collect();
            items.map(|items| items.join(", "))
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn tree(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => {
            for (name, below) in fields.iter().filter(|(_, below)| !is_empty(below)) {
                if let Some(shown) = scalar(below) {
                    let _ = writeln!(text, "{:indent$}{}: {shown}", "", harmless(name));
                } else {
                    let _ = writeln!(text, "{:indent$}{}:", "", harmless(name));
                    tree(text, below, indent + 2);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut below = String::new();
                tree(&mut below, item, indent + 2);
                below.replace_range(indent..=indent, "-");
                text.push_str(&below);
            }
        }
        other => {
            let _ = writeln!(text, "{:indent$}{}", "", scalar(other).unwrap_or_default());
        }
    }
}

/// A list of objects as a table, with a column for each field that any of them has.
fn listing(text: &mut String, name: &str, list: &Value) {
    let Some(items) = list.as_array().filter(|items| !items.is_empty()) else {
        return;
    };
    let mut columns: Vec<&String> = Vec::new();
    for item in items {
        for (field, value) in item.as_object().into_iter().flatten() {
            if !columns.contains(&field) && scalar(value).is_some() {
                columns.push(field);
            }
        }
    }
    // Sentences last, so that the rest is aligned.
    columns.sort_by_key(|field| {
        matches!(
            field.as_str(),
            "message" | "hint" | "path" | "file" | "backing"
        )
    });
    let mut table = Table::new(columns.iter().map(|field| field.to_uppercase())).indented(2);
    for item in items {
        table.row(
            columns
                .iter()
                .map(|field| scalar(&item[field.as_str()]).unwrap_or_default()),
        );
    }
    let mut title = name.to_owned();
    title[..1].make_ascii_uppercase();
    let _ = write!(text, "\n{title}:\n{table}");
    // What does not fit a table: each host's own reason for a guest that can't leave.
    for item in items {
        for count in item["hosts"].as_array().into_iter().flatten() {
            for example in count["examples"].as_array().into_iter().flatten() {
                let word = |value: &Value| harmless(value.as_str().unwrap_or_default());
                let guest = word(&item["guest"]);
                let _ = writeln!(
                    text,
                    "    {guest}: {}: {}: {}",
                    word(&example["host"]),
                    word(&count["reason"]),
                    word(&example["message"])
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasons_come_first_and_everything_is_told() {
        let object = json!({
            "kind": "GuestMigration",
            "metadata": {"name": "m", "labels": {"a": "b"}},
            "spec": {"guest": "web-1", "disks": [{"target": "vda", "pool": "fast"}]},
            "status": {
                "phase": "Failed",
                "conditions": [
                    {"type": "Reconciling", "status": "False", "reason": "AsExpected", "message": "over"},
                    {"type": "Succeeded", "status": "False", "reason": "TargetLost", "message": "h2 went away"},
                ],
                "attempts": [{"number": 1, "target": "h2", "reason": "TargetLost", "message": "h2 went\naway"}],
                "evidence": {"running": ["h1"], "rebooted": false},
            },
        });
        let happenings = [Happening {
            kind: "GuestMigration",
            name: "m".into(),
            warning: true,
            reason: Reason::TargetLost,
            message: "h2 went away".into(),
            action: "Migrate",
        }];
        assert_eq!(
            describe(&object, &happenings),
            "GuestMigration m\n\
             \n\
             Not as it should be:\n\
             \x20 Succeeded=False: TargetLost: h2 went away\n\
             \x20     hint: check the target's libvirtd and QEMU; the guest runs on at its source\n\
             \n\
             Labels:\n\
             \x20 a: b\n\
             \n\
             Wanted:\n\
             \x20 disks:\n\
             \x20   - pool: fast\n\
             \x20     target: vda\n\
             \x20 guest: web-1\n\
             \n\
             Seen:\n\
             \x20 evidence:\n\
             \x20   rebooted: false\n\
             \x20   running: h1\n\
             \x20 phase: Failed\n\
             \n\
             Attempts:\n\
             \x20 NUMBER  REASON      TARGET  MESSAGE\n\
             \x20 1       TargetLost  h2      h2 went away\n\
             \n\
             As it should be:\n\
             \x20 Reconciling=False  AsExpected  over\n\
             \n\
             Events of this look:\n\
             \x20 Warning  TargetLost  h2 went away\n"
        );
    }
}
