//! Journals: what a move did at a host, kept in a small volume beside the disks.
//!
//! The volume has two slots. Each holds a line with a generation, a length and a check sum, then the text. Writing
//! anew fills the older slot, so that whoever is interrupted leaves the other one whole.

use evenkeel_engine::port::{Fault, JournalEntry, PortError, PortResult};
use uuid::Uuid;
use virt::{connect::Connect, storage_vol::StorageVol, stream::Stream};

use super::{fault::OrFault, refreshes::Freshness, storage::Storage, xml};

const PREFIX: &str = ".evenkeel-";
const SLOT: usize = 16 * 1024;
/// Room for the line above the text.
const HEAD: usize = 128;
const MAGIC: &str = "evenkeel-journal 1";
/// Stands for a text that is lost.
const DAMAGED: &str = "damaged";
/// Larger than any journal of ours; what else bears such a name is not read into memory.
const LARGEST: u64 = 16 * 1024 * 1024;

fn name(id: Uuid) -> String {
    format!("{PREFIX}{id}")
}

/// All journals in all active pools.
pub(crate) fn list(storage: Storage<'_>) -> PortResult<Vec<JournalEntry>> {
    let mut found = Vec::new();
    for pool in storage.pools(Freshness::Now)? {
        if !pool.facts.active {
            continue;
        }
        for (name, volume) in pool.volumes()? {
            let Some(id) = name
                .strip_prefix(PREFIX)
                .and_then(|id| Uuid::parse_str(id).ok())
            else {
                continue;
            };
            let content = download(storage.connect, &volume)?;
            found.push(JournalEntry {
                id,
                pool: pool.facts.name.clone(),
                text: Slots::read(&content).text(),
            });
        }
    }
    Ok(found)
}

/// Creates a journal exclusively and writes it.
pub(crate) fn create(storage: Storage<'_>, pool: &str, id: Uuid, text: &str) -> PortResult<()> {
    let pool = storage.pool(pool)?;
    let slot = slot_for(text);
    let name = name(id);
    // Allocated in full, so that a full disk refuses here and not in the middle of a move.
    let volume = pool.create(&name, &format!(
        "<volume type='file'><name>{}</name><capacity unit='bytes'>{size}</capacity>\
         <allocation unit='bytes'>{size}</allocation><target><format type='raw'/></target></volume>",
        xml::escape(&name),
        size = slot * 2,
    ))?;
    let written = upload(storage.connect, &volume, 0, &page(1, text, slot));
    if written
        .as_ref()
        .is_err_and(|error| error.fault == Fault::NoSpace)
    {
        // Not begun at all, then.
        let _ = volume.delete(0);
    }
    written
}

/// Writes a journal anew, into the slot that does not hold its present text.
pub(crate) fn rewrite(storage: Storage<'_>, pool: &str, id: Uuid, text: &str) -> PortResult<()> {
    let volume = storage.pool(pool)?.find(&name(id))?.ok_or_else(|| {
        PortError::new(
            Fault::NotFound,
            format!("there is no journal {id} in the storage pool `{pool}`"),
        )
    })?;
    let content = download(storage.connect, &volume)?;
    let slot = content.len() / 2;
    if text.len() + HEAD > slot {
        return Err(PortError::new(
            Fault::Invalid,
            format!(
                "the journal {id} has room for {} bytes, not {}",
                slot.saturating_sub(HEAD),
                text.len()
            ),
        ));
    }
    let (generation, newest) = Slots::read(&content).newest();
    let other = if newest == Some(0) { slot } else { 0 };
    upload(
        storage.connect,
        &volume,
        other,
        &page(generation + 1, text, slot),
    )
}

/// Removes a journal; no error where it is gone.
pub(crate) fn remove(storage: Storage<'_>, pool: &str, id: Uuid) -> PortResult<()> {
    storage.pool(pool)?.delete(&name(id))
}

fn slot_for(text: &str) -> usize {
    // Journals grow while a move goes on.
    (text.len() * 4 + HEAD).max(SLOT).next_multiple_of(4096)
}

/// A slot's whole content.
fn page(generation: u64, text: &str, slot: usize) -> Vec<u8> {
    let mut page = format!(
        "{MAGIC} {generation} {} {:016x}\n{text}",
        text.len(),
        sum(text.as_bytes())
    )
    .into_bytes();
    page.resize(slot.max(page.len()), b'\n');
    page
}

/// FNV-1a, 64 bits: against torn writes, not against malice.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What the two slots hold.
struct Slots<'a> {
    whole: [Option<(u64, &'a str)>; 2],
    content: &'a [u8],
}

impl<'a> Slots<'a> {
    fn read(content: &'a [u8]) -> Self {
        let (first, second) = content.split_at(content.len() / 2);
        Self {
            whole: [whole(first), whole(second)],
            content,
        }
    }

    /// Generation and number of the newest whole slot.
    fn newest(&self) -> (u64, Option<usize>) {
        (0..2)
            .filter_map(|slot| Some((self.whole[slot]?.0, Some(slot))))
            .max()
            .unwrap_or((0, None))
    }

    /// The newest whole text, or what can be read where there is none. What was written whole once and is no more is not
    /// to be taken for what was never written to its end.
    fn text(&self) -> String {
        if let (_, Some(slot)) = self.newest() {
            return self.whole[slot]
                .map(|(_, text)| text.to_owned())
                .unwrap_or_default();
        }
        let (first, second) = self.content.split_at(self.content.len() / 2);
        let begun = first.starts_with(MAGIC.as_bytes());
        if second.starts_with(MAGIC.as_bytes()) || (begun && first.ends_with(b"\n")) {
            return DAMAGED.to_owned();
        }
        let readable: Vec<u8> = self
            .content
            .iter()
            .copied()
            .take_while(|byte| *byte != 0)
            .collect();
        let readable = String::from_utf8_lossy(&readable);
        let body = match readable.split_once('\n') {
            Some((head, body)) if head.starts_with(MAGIC) => body,
            _ => &readable,
        };
        body.trim_end().to_owned()
    }
}

/// A slot's generation and text, if it was written to its end.
fn whole(slot: &[u8]) -> Option<(u64, &str)> {
    let end = slot.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&slot[..end]).ok()?;
    let mut words = head.strip_prefix(MAGIC)?.split_ascii_whitespace();
    let generation: u64 = words.next()?.parse().ok()?;
    let length: usize = words.next()?.parse().ok()?;
    let expected = u64::from_str_radix(words.next()?, 16).ok()?;
    let body = slot.get(end + 1..)?.get(..length)?;
    (sum(body) == expected).then_some(())?;
    Some((generation, std::str::from_utf8(body).ok()?))
}

fn upload(connect: &Connect, volume: &StorageVol, offset: usize, bytes: &[u8]) -> PortResult<()> {
    let stream = Stream::new(connect, 0).or_fault()?;
    volume
        .upload(&stream, offset as u64, bytes.len() as u64, 0)
        .or_fault()?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.send(&rest[..rest.len().min(64 * 1024)]).or_fault() {
            Ok(sent) => rest = &rest[usize::try_from(sent).unwrap_or(0).min(rest.len())..],
            Err(error) => {
                let _ = stream.abort();
                return Err(error);
            }
        }
    }
    stream.finish().or_fault()
}

fn download(connect: &Connect, volume: &StorageVol) -> PortResult<Vec<u8>> {
    let size = volume.info().or_fault()?.capacity;
    if size > LARGEST {
        return Ok(DAMAGED.into());
    }
    let stream = Stream::new(connect, 0).or_fault()?;
    volume.download(&stream, 0, size, 0).or_fault()?;
    let mut content = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.recv(&mut buffer).or_fault() {
            Ok(received) => match usize::try_from(received).unwrap_or(0) {
                0 => break,
                received => content.extend_from_slice(&buffer[..received.min(buffer.len())]),
            },
            Err(error) => {
                let _ = stream.abort();
                return Err(error);
            }
        }
    }
    stream.finish().or_fault()?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> Vec<u8> {
        let mut content = page(1, "first", SLOT);
        content.resize(2 * SLOT, 0);
        content
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let mut content = volume();
        assert_eq!(Slots::read(&content).text(), "first");
        assert_eq!(Slots::read(&content).newest(), (1, Some(0)));
        content[SLOT..].copy_from_slice(&page(2, "second\n", SLOT));
        assert_eq!(Slots::read(&content).text(), "second\n");
        content[..SLOT].copy_from_slice(&page(3, "", SLOT));
        assert_eq!(Slots::read(&content).text(), "");
    }

    #[test]
    fn an_interrupted_write_leaves_the_other_slot() {
        let mut content = volume();
        let next = page(2, "second", SLOT);
        for cut in [10, 30, 40, 44] {
            content[SLOT..SLOT + cut].copy_from_slice(&next[..cut]);
            assert_eq!(Slots::read(&content).text(), "first", "{cut}");
        }
    }

    #[test]
    fn what_was_whole_once_is_not_taken_for_unwritten() {
        let mut content = volume();
        content[50] ^= 1;
        assert_eq!(Slots::read(&content).text(), "first");
        content[42] ^= 1;
        assert_eq!(Slots::read(&content).text(), DAMAGED);
        let mut both = volume();
        both[SLOT..].copy_from_slice(&page(2, "second", SLOT));
        both[30..60].fill(0);
        both[SLOT + 30..SLOT + 60].fill(0);
        assert_eq!(Slots::read(&both).text(), DAMAGED);
    }

    #[test]
    fn what_was_never_whole_is_shown_as_far_as_it_goes() {
        assert_eq!(Slots::read(&[]).text(), "");
        assert_eq!(Slots::read(&vec![0; 2 * SLOT]).text(), "");
        let mut content = page(1, "a long text", SLOT);
        content.truncate(45);
        content.resize(2 * SLOT, 0);
        assert!("a long text".starts_with(&Slots::read(&content).text()));
        assert_eq!(
            Slots::read(b"{\"by\":\"hand\"}\n").text(),
            "{\"by\":\"hand\"}"
        );
    }
}
