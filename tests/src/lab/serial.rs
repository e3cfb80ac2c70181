//! What guests say on their serial ports, and what follows from it: whether a guest was rebooted, stood still or ran
//! twice.

use std::collections::{BTreeMap, BTreeSet};

/// One count of a guest, from a serial log or from the ring on a disk.
#[derive(Debug, Clone, PartialEq)]
pub struct SerialRecord {
    /// The host in whose log it was; for a record on a disk, the host with that disk.
    pub host: String,
    /// The guest kernel's boot id: another one means a reboot.
    pub boot: String,
    /// The guest's uptime in seconds, by its own clock, which stands still while the guest does.
    pub up: f64,
    /// The count: 1, 2, 3 and so on since the boot.
    pub n: u64,
}

impl SerialRecord {
    /// Reads `evk boot=... up=... n=... sum=...`, if it is whole and the checksum is right.
    pub(crate) fn parse(host: &str, line: &str) -> Option<Self> {
        let (text, sum) = line.trim().strip_prefix("evk ")?.rsplit_once(" sum=")?;
        if u32::from_str_radix(sum, 16).ok()? != crc32(text.as_bytes()) {
            return None;
        }
        let fields: BTreeMap<_, _> = text
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .collect();
        let boot = (*fields.get("boot")?).to_owned();
        Some(Self {
            host: host.to_owned(),
            boot,
            up: fields.get("up")?.parse().ok()?,
            n: fields.get("n")?.parse().ok()?,
        })
    }
}

/// All records in the logs of several hosts, in the order of boots and counts. A line begun on one host and ended on
/// another, as happens when a guest moves in the middle of it, is put together and belongs to the second.
pub(crate) fn records(logs: &[(String, String)]) -> Vec<SerialRecord> {
    let mut whole = Vec::new();
    let mut fragments = Vec::new();
    let logs: Vec<_> = logs
        .iter()
        .map(|(host, text)| (host, text.replace("evk", "\nevk")))
        .collect();
    for (host, text) in &logs {
        for piece in text
            .lines()
            .map(str::trim)
            .filter(|piece| !piece.is_empty())
        {
            match SerialRecord::parse(host, piece) {
                Some(record) => whole.push(record),
                None => fragments.push((host, piece)),
            }
        }
    }
    for (first_host, start) in &fragments {
        for (host, end) in fragments.iter().filter(|(host, _)| *host != *first_host) {
            whole.extend(SerialRecord::parse(host, &format!("{start}{end}")));
        }
    }
    // No clock is shared by two boots: they are in the order of the hosts, then of the log.
    let mut boots: Vec<String> = Vec::new();
    for record in &whole {
        if !boots.contains(&record.boot) {
            boots.push(record.boot.clone());
        }
    }
    let place = |record: &SerialRecord| boots.iter().position(|boot| *boot == record.boot);
    whole.sort_by_key(|record| (place(record), record.n));
    whole
}

/// What a guest's serial output proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuity {
    /// Boot ids seen; more than one: it was rebooted.
    pub boots: Vec<String>,
    /// How many different counts were seen.
    pub counts: usize,
    /// The last count of the last boot.
    pub last: u64,
    /// Counts that should be there and are not, of all boots.
    pub missing: Vec<u64>,
    /// Counts seen more than once: the guest ran in two places, or went back in time.
    pub doubled: Vec<u64>,
    /// The hosts it was heard on, in the order of its counts; one that it came back to is named again.
    pub path: Vec<String>,
}

impl Continuity {
    /// Whether it counted without a gap, once each, in one boot.
    #[must_use]
    pub fn is_unbroken(&self) -> bool {
        self.boots.len() == 1 && self.missing.is_empty() && self.doubled.is_empty()
    }

    /// What a guest's records, in order, prove.
    pub(crate) fn of(records: &[SerialRecord]) -> Self {
        let mut seen: BTreeMap<&str, BTreeMap<u64, usize>> = BTreeMap::new();
        let (mut boots, mut path): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for record in records {
            *seen
                .entry(&record.boot)
                .or_default()
                .entry(record.n)
                .or_default() += 1;
            if boots.last() != Some(&record.boot) {
                boots.push(record.boot.clone());
            }
            if path.last() != Some(&record.host) {
                path.push(record.host.clone());
            }
        }
        let last = records.last().map_or(0, |record| record.n);
        let missing = seen.values().flat_map(|counts| {
            let last = counts.keys().next_back().copied().unwrap_or_default();
            (1..last).filter(|count| !counts.contains_key(count))
        });
        let doubled = seen
            .values()
            .flat_map(|counts| counts.iter().filter(|(_, times)| **times > 1));
        let doubled: BTreeSet<u64> = doubled.map(|(count, _)| *count).collect();
        Self {
            counts: seen.values().map(BTreeMap::len).sum(),
            last,
            missing: missing.collect(),
            doubled: doubled.into_iter().collect(),
            boots,
            path,
        }
    }
}

/// The CRC-32 that busybox's `crc32` prints.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let step = |state: u32, _| {
        if state & 1 == 1 {
            (state >> 1) ^ 0xedb8_8320
        } else {
            state >> 1
        }
    };
    !bytes.iter().fold(u32::MAX, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(boot: &str, n: u64) -> String {
        let text = format!("boot={boot} up={n}.25 n={n}");
        format!("evk {text} sum={:08x}\r\n", crc32(text.as_bytes()))
    }

    fn continuity(logs: &[(&str, String)]) -> Continuity {
        let logs: Vec<_> = logs
            .iter()
            .map(|(host, text)| ((*host).to_owned(), text.clone()))
            .collect();
        Continuity::of(&records(&logs))
    }

    #[test]
    fn checksum_is_the_common_one() {
        assert_eq!(crc32(b"abc"), 0x3524_41c2);
    }

    #[test]
    fn a_line_cut_by_a_move_counts_once_at_the_target() {
        let second = line("b", 2);
        let (start, end) = second.split_at(17);
        let found = continuity(&[
            ("h1", line("b", 1) + start),
            ("h2", end.to_owned() + &line("b", 3)),
        ]);
        assert!(found.is_unbroken(), "{found:?}");
        assert_eq!(found.path, ["h1", "h2"]);
    }

    #[test]
    fn a_gap_a_double_and_a_reboot_are_seen() {
        let gap = continuity(&[("h1", line("b", 1) + &line("b", 3))]);
        assert_eq!(gap.missing, [2]);
        let double = continuity(&[("h1", line("b", 1) + &line("b", 2)), ("h2", line("b", 2))]);
        assert_eq!(double.doubled, [2]);
        let reboot = continuity(&[("h1", line("b", 1)), ("h2", line("c", 1))]);
        assert_eq!(reboot.boots.len(), 2);
        assert!(!gap.is_unbroken() && !double.is_unbroken() && !reboot.is_unbroken());
    }

    #[test]
    fn coming_back_to_an_old_log_is_read_right() {
        let third = line("b", 3);
        let (start, end) = third.split_at(30);
        let there = end.to_owned() + &line("b", 4);
        let found = continuity(&[
            ("h1", line("b", 1) + &line("b", 2) + start + &line("b", 5)),
            ("h2", there),
        ]);
        assert!(found.is_unbroken(), "{found:?}");
        assert_eq!(found.path, ["h1", "h2", "h1"]);
    }
}
