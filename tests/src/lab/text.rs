//! Text for machines: templates, XML, and the short words in which the command line describes pools and disks.

use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

use super::disk::DiskSpec;
use super::storage::{PoolSpec, Room};

/// Puts values in the place of `@KEY@` in a template; any other `@` stays. What a value contains is not looked at
/// again.
pub(crate) fn render(template: &str, values: &[(&str, &str)]) -> String {
    let mut rendered = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        rendered.push_str(before);
        let key = after.split_once('@');
        let value = key.and_then(|(key, _)| values.iter().find(|(name, _)| *name == key));
        if let (Some((_, behind)), Some((_, value))) = (key, value) {
            rendered.push_str(value);
            rest = behind;
        } else {
            rendered.push('@');
            rest = after;
        }
    }
    rendered + rest
}

/// Text as XML wants it, in elements and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = text.to_owned();
    let entities = [
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("'", "&apos;"),
        ("\"", "&quot;"),
    ];
    for (plain, entity) in entities {
        escaped = escaped.replace(plain, entity);
    }
    escaped
}

/// A quantity of bytes: `1500`, `20M`, `128Mi`.
///
/// # Errors
/// Fails if it is none, or too large.
pub fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text.trim_start_matches(digits) {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        other => bail!("{other:?} in {text:?} is no unit: k, M, G, Ki, Mi or Gi"),
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("{text:?} is no quantity of bytes"))?;
    number
        .checked_mul(unit)
        .with_context(|| format!("{text:?} is too much"))
}

impl FromStr for PoolSpec {
    type Err = Error;

    /// `NAME`, `NAME=ext4:SIZE` or `NAME=tmpfs:SIZE`.
    fn from_str(text: &str) -> Result<Self> {
        let Some((name, room)) = text.split_once('=') else {
            return Ok(Self::new(text));
        };
        let room = match room.split_once(':') {
            Some(("ext4", size)) => Room::Ext4(bytes(size)?),
            Some(("tmpfs", size)) => Room::Tmpfs(bytes(size)?),
            _ => bail!("a pool is NAME, NAME=ext4:SIZE or NAME=tmpfs:SIZE, not {text:?}"),
        };
        Ok(Self::new(name).room(room))
    }
}

impl FromStr for DiskSpec {
    type Err = Error;

    /// `SIZE:DATA`, then if wanted `:raw`, `:pool=NAME`, `:base=FILE`.
    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(':');
        let size = bytes(words.next().unwrap_or_default())?;
        let data = bytes(words.next().unwrap_or("0"))?;
        let mut spec = Self {
            size,
            data,
            ..Self::default()
        };
        for word in words {
            spec = match word.split_once('=') {
                None if word == "raw" => spec.raw(),
                Some(("pool", pool)) => spec.pool(pool),
                Some(("base", file)) => spec.backing(file),
                _ => bail!("a disk is SIZE:DATA, then raw, pool=NAME or base=FILE, not {word:?}"),
            };
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_rendered_again() {
        assert_eq!(render("<@A@>@B@", &[("A", "@B@"), ("B", "b")]), "<@B@>b");
        assert_eq!(render("\"$@\" @A@ @", &[("A", "a")]), "\"$@\" a @");
    }

    #[test]
    fn quantities_are_read() {
        assert_eq!(bytes("128Mi").unwrap(), 128 << 20);
        assert_eq!(bytes("20M").unwrap(), 20_000_000);
        assert!(bytes("20m").is_err() && bytes("Mi").is_err() && bytes("99999999999Gi").is_err());
    }

    #[test]
    fn pools_and_disks_are_read() {
        let pool: PoolSpec = "fast=ext4:64Mi".parse().unwrap();
        assert_eq!(pool, PoolSpec::new("fast").room(Room::Ext4(64 << 20)));
        let disk: DiskSpec = "128Mi:24Mi:raw:pool=fast".parse().unwrap();
        assert_eq!(disk, DiskSpec::mib(128, 24).raw().pool("fast"));
        assert!(
            "128Mi:24Mi:thick".parse::<DiskSpec>().is_err()
                && "x=nfs:1".parse::<PoolSpec>().is_err()
        );
    }
}
