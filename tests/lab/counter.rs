//! What a lab guest does all its life: it counts, and says so twice each time: first as a record forced to every disk,
//! then as a line on its serial port. A line that was seen therefore proves a record that is on disk.
//!
//! `counter INTERVAL SLOTS FLUSH`, as `init` describes them. It is its guest's first process and must never end; it is
//! one program because a shell with its children costs an emulated processor ten times as much.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    process::Command,
    thread::sleep,
    time::Duration,
};

/// Bytes of a record.
const RECORD: usize = 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|word| word.parse::<f64>().ok());
    let interval = Duration::from_secs_f64(number(0).unwrap_or(0.3));
    let slots = number(1).unwrap_or(1024.0) as u64;
    let flush = Duration::from_secs_f64(number(2).unwrap_or(0.0));
    if arguments.len() == 1 {
        loop {
            sleep(interval);
        }
    }
    // QEMU 7.2's software emulation loses guest pages in slow migrations (bandwidth x downtime under about 2 MB): the
    // guest comes out hung or rebooted, without libvirt and with one thread too. Presumably writes through entries of
    // its translation cache go unseen. A change of address space empties that cache, and two processes that take turns
    // cause many: that made it rarer (first moves at 3 MB/s: 0 of 12 lost instead of 11 of 25), not impossible.
    if !flush.is_zero() {
        for _ in 0..2 {
            let turn = Command::new("/bin/counter")
                .arg(flush.as_secs_f64().to_string())
                .spawn();
            if let Err(error) = turn {
                say(&format!("evk-note cannot take turns: {error}"));
            }
        }
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    for count in 1_u64.. {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let up = uptime.split(' ').next().unwrap_or_default();
        let text = format!("boot={} up={up} n={count}", boot.trim());
        let line = format!("evk {text} sum={:08x}", crc32(text.as_bytes()));
        let mut record = format!("{line:<0$}", RECORD - 1);
        record.push('\n');
        for letter in 'a'..='z' {
            let disk = format!("/dev/vd{letter}");
            if fs::exists(&disk).unwrap_or(false)
                && write(&disk, record.as_bytes(), count % slots).is_err()
            {
                say(&format!("evk-note cannot write record {count} to {disk}"));
            }
        }
        say(&line);
        sleep(interval);
    }
}

fn write(disk: &str, record: &[u8], slot: u64) -> io::Result<()> {
    let disk = OpenOptions::new().write(true).open(disk)?;
    disk.write_all_at(record, slot * RECORD as u64)?;
    disk.sync_all()
}

/// In one piece, so that lines of several processes do not mix.
fn say(line: &str) {
    let mut port = io::stdout().lock();
    let _ = port.write_all(format!("{line}\n").as_bytes());
    let _ = port.flush();
}

/// As zlib's and busybox's.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}
