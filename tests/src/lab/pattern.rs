//! Bytes that look random, are the same for the same seed, and can be made again from any offset on: what a disk was
//! filled with can be checked without keeping a copy.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::Result;

/// As many bytes as are made at once; offsets and lengths are multiples of it.
pub(crate) const BLOCK: usize = 64 * 1024;

/// A seed for the disk `target` of a guest.
pub(crate) fn seed(guest: &str, target: &str) -> u64 {
    let bytes = guest.bytes().chain([0]).chain(target.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The block with this number.
fn block(seed: u64, number: u64) -> Vec<u8> {
    let mut state = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

/// Writes `length` bytes of the pattern from `start` on.
pub(crate) fn fill(file: &mut File, seed: u64, start: u64, length: u64) -> Result<()> {
    file.seek(SeekFrom::Start(start))?;
    for number in 0..length / BLOCK as u64 {
        file.write_all(&block(seed, number))?;
    }
    Ok(())
}

/// The offset of the first byte that differs: from the pattern in the `length` bytes from `start` on, from zero
/// after them.
pub(crate) fn first_difference(
    file: &mut File,
    seed: u64,
    start: u64,
    length: u64,
) -> Result<Option<u64>> {
    let size = file.metadata()?.len();
    let zeroes = vec![0; BLOCK];
    let mut found = vec![0; BLOCK];
    let mut offset = start;
    file.seek(SeekFrom::Start(start))?;
    while offset < size {
        let part = usize::try_from((size - offset).min(BLOCK as u64))?;
        file.read_exact(&mut found[..part])?;
        let wanted = if offset < start + length {
            block(seed, (offset - start) / BLOCK as u64)
        } else {
            zeroes.clone()
        };
        if found[..part] != wanted[..part] {
            let place = found
                .iter()
                .zip(&wanted)
                .position(|(one, other)| one != other)
                .unwrap_or_default();
            return Ok(Some(offset + place as u64));
        }
        offset += part as u64;
    }
    Ok((size < start + length).then_some(size))
}
