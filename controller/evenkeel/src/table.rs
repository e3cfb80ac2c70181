//! Tables as kubectl prints them, with the columns that the CRDs declare, so that both always show the same.

use std::{fmt, time::Duration};

use evenkeel_crds::quantity::Bytes;
use serde_json::Value;

use crate::{kind::Kind, output::harmless};

/// Rows under headers. Columns are as wide as they need to be; nothing is cut off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    /// A table with these headers.
    #[must_use]
    pub fn new<S: Into<String>>(headers: impl IntoIterator<Item = S>) -> Self {
        Self {
            headers: headers.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Moved to the right by that many spaces.
    #[must_use]
    pub fn indented(mut self, indent: usize) -> Self {
        self.indent = indent;
        self
    }

    /// One more row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| harmless(&cell.into()).replace('\n', " "))
                .collect(),
        );
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Without the columns that are empty in every row.
    #[must_use]
    pub fn dense(mut self) -> Self {
        let used: Vec<bool> = (0..self.headers.len())
            .map(|column| {
                self.rows
                    .iter()
                    .any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()))
            })
            .collect();
        let keep = |cells: &mut Vec<String>| {
            let mut used = used.iter();
            cells.retain(|_| *used.next().unwrap_or(&true));
        };
        keep(&mut self.headers);
        self.rows.iter_mut().for_each(keep);
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.headers).chain(&self.rows);
        let width = |column: usize| {
            lines()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        for line in lines() {
            let mut text = " ".repeat(self.indent);
            for (cell, width) in line.iter().zip(&widths) {
                text.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// A column of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    header: String,
    path: String,
    is_date: bool,
    wide: bool,
}

/// The columns that a kind's CRD declares.
#[must_use]
pub fn columns(kind: Kind) -> Vec<Column> {
    let crd = kind.crd();
    let declared = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array();
    let word = |column: &Value, name: &str| column[name].as_str().unwrap_or_default().to_owned();
    let column = |column: &Value| Column {
        header: word(column, "name").to_uppercase(),
        path: word(column, "jsonPath"),
        is_date: column["type"] == "date",
        wide: column["priority"].as_i64().unwrap_or(0) > 0,
    };
    declared.into_iter().flatten().map(column).collect()
}

/// Objects as a table.
#[must_use]
pub fn of_objects(kind: Kind, objects: &[Value], wide: bool, now: jiff::Timestamp) -> Table {
    let known = |path: &str| objects.iter().any(|object| lookup(object, path).is_some());
    let columns: Vec<Column> = columns(kind)
        .into_iter()
        .filter(|column| wide || !column.wide)
        // What is read from the hosts has no date of creation: no column of nothing.
        .filter(|column| !column.is_date || known(&column.path))
        .collect();
    let headers = std::iter::once("NAME".to_owned())
        .chain(columns.iter().map(|column| column.header.clone()));
    let mut table = Table::new(headers);
    for object in objects {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let cells = columns
            .iter()
            .map(|column| match lookup(object, &column.path) {
                Some(value) if column.is_date => age(value, now),
                Some(value) => cell(value),
                None => String::new(),
            });
        table.row(std::iter::once(name).chain(cells));
    }
    table
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn age(value: &Value, now: jiff::Timestamp) -> String {
    let then = value
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    then.map_or_else(
        || cell(value),
        |then| {
            human(Duration::from_secs(
                (now - then).get_seconds().unsigned_abs(),
            ))
        },
    )
}

/// The value at a path of the kind that our CRDs use: `.a.b`, `.a[?(@.type=="X")].b`.
#[must_use]
pub fn lookup<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(filter) = rest.strip_prefix("[?(@.") {
            let (test, after) = filter.split_once(")]")?;
            let (field, wanted) = test.split_once("==")?;
            let wanted = wanted.trim_matches('"');
            value = value
                .as_array()?
                .iter()
                .find(|item| item[field] == wanted)?;
            rest = after;
        } else {
            let step = rest.strip_prefix('.')?;
            let end = step.find(['.', '[']).unwrap_or(step.len());
            value = value.get(&step[..end])?;
            rest = &step[end..];
        }
    }
    Some(value)
}

/// A length of time as a person would say it: `45s`, `3m20s`, `2h5m`, `4d`.
#[must_use]
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        0 if time.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", time.as_millis().max(1)),
        1..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..172_800 => pair(seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes as a person would say them; nothing for zero.
#[must_use]
pub fn bytes(amount: Bytes) -> String {
    if amount.0 == 0 {
        String::new()
    } else {
        amount.human()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let mut table = Table::new(["NAME", "READY", "EMPTY", "MESSAGE"]);
        table.row(["h1", "True", "", "all\nis \u{1b}well"]);
        table.row(["host-two", "Unknown", "", ""]);
        let expected = "NAME      READY    MESSAGE\nh1        True     all is \\u{1b}well\nhost-two  Unknown\n";
        assert_eq!(table.dense().to_string(), expected);
    }

    #[test]
    fn every_declared_column_has_a_path_we_understand() {
        for kind in [
            Kind::Host,
            Kind::Guest,
            Kind::Migration,
            Kind::Drain,
            Kind::Placement,
            Kind::Policy,
            Kind::Profile,
            Kind::Fleet,
        ] {
            let columns = columns(kind);
            assert!(!columns.is_empty());
            for column in columns {
                let sample = json!({
                    "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                    "status": {"conditions": [
                        {"type": "Ready", "status": "True", "reason": "A", "message": "m"},
                        {"type": "Migratable", "status": "True", "reason": "A", "message": "m"},
                        {"type": "Succeeded", "status": "True", "reason": "A", "message": "m"},
                        {"type": "Drained", "status": "True", "reason": "A", "message": "m"},
                        {"type": "Satisfied", "status": "True", "reason": "A", "message": "m"},
                        {"type": "Balanced", "status": "True", "reason": "A", "message": "m"},
                    ]},
                });
                let found = lookup(&sample, &column.path).is_some();
                let expected = column.path.contains("conditions") || column.is_date;
                assert_eq!(found, expected, "{}", column.path);
            }
        }
    }

    #[test]
    fn hosts_fit_eighty_columns() {
        let host = |name: &str, ready: &str, reason: &str| {
            json!({"metadata": {"name": name}, "spec": {"uri": "qemu+tls://h1.example.net/system"}, "status": {
                "conditions": [{"type": "Ready", "status": ready, "reason": reason, "message": "a sentence"}],
                "guests": {"active": 12}, "moves": {"inbound": 1, "outbound": 0},
                "capacity": {"cpu": {"summary": "120/256"}, "memory": {"summary": "110Gi/251Gi"}},
            }})
        };
        let objects = [
            host("hypervisor-1", "True", "AsExpected"),
            host("h2", "False", "HostUnreachable"),
        ];
        let now = jiff::Timestamp::UNIX_EPOCH;
        let text = of_objects(Kind::Host, &objects, false, now).to_string();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert_eq!(
            text,
            "NAME          READY  GUESTS  CPU      MEMORY       IN  OUT  REASON\n\
             hypervisor-1  True   12      120/256  110Gi/251Gi  1   0    AsExpected\n\
             h2            False  12      120/256  110Gi/251Gi  1   0    HostUnreachable\n"
        );
        let wide = of_objects(Kind::Host, &objects, true, now).to_string();
        assert!(
            wide.contains("qemu+tls://h1.example.net/system  a sentence"),
            "{wide}"
        );
    }

    #[test]
    fn ages() {
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        let object =
            json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-02T22:00:00Z"}});
        assert!(
            of_objects(Kind::Guest, &[object], false, now)
                .to_string()
                .contains("2h")
        );
    }

    #[test]
    fn times_for_people() {
        for (millis, text) in [
            (0, "0s"),
            (400, "400ms"),
            (59_900, "59s"),
            (200_000, "3m20s"),
            (7_200_000, "2h"),
        ] {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
        assert_eq!(human(Duration::from_secs(86_400 * 4)), "4d");
    }
}
