//! Levels and drains fleets that Ganeti's hbal levels and drains in the same run, at no more bytes than it takes; hbal is
//! the judge of both: `cargo bench -p evenkeel-planner --bench htools`. LONG=1 adds the case for which hbal takes 11 minutes.
//!
//! The fleets are in the text format of htools, with disks that are not accounted (`ext`), for hbal moves no others. Guests
//! of six sizes crowd on the first nodes, as in fleets that grew.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use support::dice::Dice;
use support::*;

/// A node's memory, what it keeps for itself, its disk (both in MiB), and its CPUs, of which four times as many may be promised.
const MEMORY: u64 = 512 << 10;
const OWN: u64 = 4 << 10;
const DISK: u64 = 8 << 20;
const CPUS: u64 = 96;
/// Guests: MiB of memory, CPUs, MiB of disk; and how many of a hundred are so.
const SIZES: [(u64, u64, u64, u64); 6] = [
    (2 << 10, 2, 20 << 10, 30),
    (4 << 10, 2, 40 << 10, 28),
    (8 << 10, 4, 80 << 10, 20),
    (16 << 10, 8, 160 << 10, 12),
    (32 << 10, 16, 320 << 10, 7),
    (64 << 10, 16, 640 << 10, 3),
];
/// The sizes that htools let guests have.
const POLICY: &str = "1024,1,10240,1,1,1|512,1,1024,1,1,1;131072,64,4194304,16,8,64|ext|8.0|1024.0";

/// Nodes, guests, and how many nodes are drained.
const CASES: [(usize, usize, usize); 4] =
    [(40, 400, 0), (60, 600, 0), (100, 1000, 3), (200, 4000, 2)];
const LONG: (usize, usize, usize) = (100, 1000, 0);

struct Instance {
    memory: u64,
    cpus: u64,
    disk: u64,
    home: usize,
}

struct Cluster {
    nodes: usize,
    drained: usize,
    instances: Vec<Instance>,
}

impl Cluster {
    fn new(nodes: usize, instances: usize, drained: usize) -> Self {
        let mut dice = Dice(1);
        let mut free = vec![(MEMORY - OWN, CPUS * 4); nodes];
        let mut all = Vec::new();
        while all.len() < instances {
            let mut part = (dice.part() * 100.0) as u64;
            let size = SIZES.iter().find(|(_, _, _, share)| {
                let found = part < *share;
                part = part.saturating_sub(*share);
                found
            });
            let (memory, cpus, disk, _) = *size.unwrap_or(&SIZES[0]);
            let home = (nodes as f64 * dice.part().powi(2)) as usize;
            let room = &mut free[home];
            if room.0 >= memory && room.1 >= cpus {
                *room = (room.0 - memory, room.1 - cpus);
                all.push(Instance {
                    memory,
                    cpus,
                    disk,
                    home,
                });
            }
        }
        Self {
            nodes,
            drained,
            instances: all,
        }
    }

    /// The text that htools read, with each instance at one of these nodes.
    fn text(&self, homes: &[usize]) -> String {
        let mut free = vec![MEMORY - OWN; self.nodes];
        for (instance, home) in self.instances.iter().zip(homes) {
            free[*home] -= instance.memory;
        }
        let mut text = "default|group|preferred||\n\n".to_owned();
        for (node, free) in free.into_iter().enumerate() {
            // One of those that stay is the master.
            let state = match node {
                node if node < self.drained => "Y",
                node if node == self.drained => "M",
                _ => "N",
            };
            let _ = writeln!(
                text,
                "node{node:05}|{MEMORY}|{OWN}|{free}|{DISK}|{DISK}|{CPUS}|{state}|group|1||N|0|1|1.0"
            );
        }
        text.push('\n');
        for (at, (instance, home)) in self.instances.iter().zip(homes).enumerate() {
            let Instance {
                memory, cpus, disk, ..
            } = instance;
            let _ = writeln!(
                text,
                "inst{at:06}|{memory}|{disk}|{cpus}|running|Y|node{home:05}||ext||1|-"
            );
        }
        let _ = write!(text, "\n\n|{POLICY}\ndefault|{POLICY}\n");
        text
    }

    fn homes(&self) -> Vec<usize> {
        self.instances
            .iter()
            .map(|instance| instance.home)
            .collect()
    }

    /// How many instances have moved, and how much memory they have, in MiB.
    fn moved(&self, homes: &[usize]) -> (usize, u64) {
        let all = self.instances.iter().zip(homes);
        let moved = all.filter(|(instance, home)| instance.home != **home);
        moved.fold((0, 0), |(count, sum), (instance, _)| {
            (count + 1, sum + instance.memory)
        })
    }

    fn fleet(&self) -> Fleet {
        let hosts = (0..self.nodes).map(|node| {
            let mut host = host(&format!("node{node:05}"));
            host.memory_limit = Bytes((MEMORY - OWN) * MI);
            host.cpu_limit_milli = CPUS * 4000;
            host.bandwidth = Some(Bytes(1200 * MI));
            host
        });
        let guests = self.instances.iter().enumerate().map(|(at, instance)| {
            let name = format!("inst{at:06}");
            let mut guest = guest(&name, instance.home as u32, instance.memory * MI);
            guest.cpu_milli = instance.cpus * 1000;
            guest
        });
        fleet(hosts.collect(), guests.collect())
    }
}

/// What hbal says after this word, in a run with these options; all that it says where it does not.
fn hbal(file: &Path, options: &[&str], word: &str) -> Result<String, String> {
    let mut command = Command::new("hbal");
    command
        .arg("-t")
        .arg(file)
        .arg("--ignore-dynu")
        .args(options);
    let told = command.output().map_err(|wrong| format!("hbal: {wrong}"))?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let found = told.lines().find_map(|line| line.split_once(word));
    found.map(|(_, rest)| rest.trim().to_owned()).ok_or(told)
}

/// The score of the cluster with its instances at these nodes: less is better.
fn score(cluster: &Cluster, homes: &[usize], file: &Path) -> Result<f64, String> {
    std::fs::write(file, cluster.text(homes)).map_err(|wrong| wrong.to_string())?;
    let score = hbal(file, &["-l", "0"], "Initial score:")?;
    score.parse().map_err(|_| score)
}

/// Where hbal puts the instances, and how long it takes.
fn theirs(cluster: &Cluster, file: &Path) -> Result<(Vec<usize>, Duration), String> {
    std::fs::write(file, cluster.text(&cluster.homes())).map_err(|wrong| wrong.to_string())?;
    let out = file.to_string_lossy();
    let mut options = vec!["-S", &*out];
    if cluster.drained > 0 {
        options.push("-E");
    }
    let start = Instant::now();
    hbal(file, &options, "Solution length=")?;
    let took = start.elapsed();
    let balanced = PathBuf::from(format!("{out}.balanced"));
    let text = std::fs::read_to_string(balanced).map_err(|wrong| wrong.to_string())?;
    let lines = text.lines().filter(|line| line.starts_with("inst"));
    let homes = lines.filter_map(|line| {
        let mut fields = line.split('|');
        let at: usize = fields.next()?.strip_prefix("inst")?.parse().ok()?;
        let home: usize = fields.nth(5)?.strip_prefix("node")?.parse().ok()?;
        Some((at, home))
    });
    let homes: BTreeMap<usize, usize> = homes.collect();
    if homes.len() != cluster.instances.len() {
        return Err(format!("hbal tells of {} instances", homes.len()));
    }
    Ok((homes.into_values().collect(), took))
}

/// Where we put them with at most so many MiB, and how long that takes.
fn ours(cluster: &Cluster, most: u64) -> (Vec<usize>, Duration) {
    let fleet = cluster.fleet();
    let mut homes = cluster.homes();
    let drained: Vec<u32> = (0..cluster.drained as u32).collect();
    let leaves = cluster.instances.iter();
    let leaves = leaves.filter(|instance| instance.home < cluster.drained);
    let rest = most.saturating_sub(leaves.map(|instance| instance.memory).sum());
    let mut wishes = Vec::new();
    if rest > 0 {
        let all: Vec<u32> = (0..cluster.nodes as u32).collect();
        let mut wish = balance("level", &all);
        if let What::Balance(balance) = &mut wish.what {
            // hbal compares virtual with physical CPUs, of which there are four times fewer than may be promised.
            balance.weights.cpu = 400;
            balance.parallel = 1000;
            balance.bytes = Some(Bytes(rest * MI));
        }
        wishes.push(wish);
    }
    if cluster.drained > 0 {
        wishes.push(drain("d", &drained, 1000));
    }
    let start = Instant::now();
    let made = plan(&fleet, &wishes, &Ledger::default(), NOW);
    let took = start.elapsed();
    checker::check(&fleet, &wishes, &Ledger::default(), NOW, &made);
    for step in &made.moves {
        homes[step.guest.at()] = step.target.at();
    }
    (homes, took)
}

fn compare(cluster: &Cluster, folder: &Path) -> Result<String, String> {
    let (fleet, after) = (folder.join("fleet"), folder.join("after"));
    let (their_homes, their_time) = theirs(cluster, &fleet)?;
    let their_score = score(cluster, &their_homes, &after)?;
    let before = score(cluster, &cluster.homes(), &after)?;
    let (their_moves, most) = cluster.moved(&their_homes);
    let (our_homes, our_time) = ours(cluster, most);
    let our_score = score(cluster, &our_homes, &after)?;
    let (our_moves, bytes) = cluster.moved(&our_homes);
    let (their_seconds, our_seconds) = (their_time.as_secs_f64(), our_time.as_secs_f64());
    Ok(format!(
        "score {before:.4} -> {our_score:.4}, {our_moves} moves of {} GiB in {our_seconds:.4} s; hbal {their_score:.4}, \
         {their_moves} moves of {} GiB in {their_seconds:.1} s: {:.0} times as long; the checker holds",
        bytes >> 10,
        most >> 10,
        their_seconds / our_seconds,
    ))
}

fn main() {
    if Command::new("hbal").arg("--version").output().is_err() {
        println!("htools: skipped, there is no hbal (package ganeti-htools)");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let long = std::env::var_os("LONG").is_some_and(|long| long == "1");
    for (nodes, instances, drained) in CASES.into_iter().chain(long.then_some(LONG)) {
        let name = match drained {
            0 => format!("htools: level {nodes} nodes with {instances} guests"),
            _ => format!("htools: drain {drained} of {nodes} nodes with {instances} guests"),
        };
        match compare(&Cluster::new(nodes, instances, drained), folder) {
            Ok(told) => println!("{name}: {told}"),
            Err(wrong) => println!("{name}: no figures: {wrong}"),
        }
    }
}
