//! Levels a fleet in the text format of Ganeti's htools, so that hbal can be the judge of what comes out:
//! `cargo bench -p evenkeel-planner --bench htools FLEET` writes FLEET.after; its score is what
//! `hbal -t FLEET.after --ignore-dynu -l 0` says. More words: bytes of memory in GiB that may travel at most.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use support::*;

/// The fleet, and each line with its fields.
fn read(text: &str) -> (Fleet, Vec<Vec<String>>, Vec<u32>) {
    let lines: Vec<Vec<String>> = text
        .lines()
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect();
    let mut hosts = Vec::new();
    let mut guests = Vec::new();
    let mut drained = Vec::new();
    let mut ids = BTreeMap::new();
    for line in &lines {
        let number = |at: usize| line[at].parse::<u64>().unwrap_or(0);
        if line[0].starts_with("node") {
            let mut host = host(&line[0]);
            host.memory_limit = Bytes((number(1) - number(2)) * MI);
            host.cpu_limit_milli = number(6) * 4000;
            host.pools[0].available = Bytes(u64::MAX / 4);
            host.bandwidth = Some(Bytes(1200 * MI));
            if line[7] == "Y" {
                drained.push(hosts.len() as u32);
            }
            ids.insert(line[0].clone(), hosts.len() as u32);
            hosts.push(host);
        } else if line[0].starts_with("inst") {
            let mut guest = guest(&line[0], ids[&line[6]], number(1) * MI);
            guest.cpu_milli = number(3) * 1000;
            guests.push(guest);
        }
    }
    (fleet(hosts, guests), lines, drained)
}

fn main() {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'));
    let Some(path) = words.next() else {
        println!("htools: give a fleet file");
        return;
    };
    let most = words.next().and_then(|word| word.parse::<f64>().ok());
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("htools: can't read {path}");
        return;
    };
    let (fleet, mut lines, drained) = read(&text);
    let all: Vec<u32> = (0..fleet.hosts.len() as u32).collect();
    let mut wish = balance("level", &all);
    if let What::Balance(balance) = &mut wish.what {
        // hbal compares virtual with physical CPUs, of which there are four times fewer than may be promised.
        balance.weights.cpu = 400;
        balance.parallel = 1000;
        balance.bytes = most.map(|gib| Bytes((gib * GI as f64) as u64));
        balance.steps = words.next().and_then(|word| word.parse().ok());
    }
    let mut wishes = vec![wish];
    if !drained.is_empty() {
        wishes.push(drain("d", &drained, 1000));
    }
    let start = Instant::now();
    let made = plan(&fleet, &wishes, &Ledger::default(), NOW);
    let took = start.elapsed();
    checker::check(&fleet, &wishes, &Ledger::default(), NOW, &made);
    let balanced = &made.balances[0];
    println!(
        "{path}: {} moves, {:.0} GiB, imbalance {:.2} -> {:.2} percent points, {:.1} ms",
        made.moves.len(),
        made.bytes.0 as f64 / GI as f64,
        f64::from(balanced.now) / 100.0,
        f64::from(balanced.predicted) / 100.0,
        took.as_secs_f64() * 1000.0
    );
    let mut to: BTreeMap<&str, usize> = BTreeMap::new();
    let mut free: BTreeMap<usize, i64> = BTreeMap::new();
    for step in &made.moves {
        let guest = &fleet.guests[step.guest.at()];
        to.insert(guest.name.as_str(), step.target.at());
        let memory = (guest.memory.0 / MI) as i64;
        *free.entry(step.target.at()).or_default() -= memory;
        *free.entry(step.source.at()).or_default() += memory;
    }
    let names: Vec<&str> = fleet.hosts.iter().map(|host| host.name.as_str()).collect();
    for line in &mut lines {
        if let Some(at) = names.iter().position(|name| *name == line[0]) {
            let more = free.get(&at).copied().unwrap_or(0);
            line[3] = (line[3].parse::<i64>().unwrap_or(0) + more).to_string();
        } else if let Some(at) = to.get(line[0].as_str()) {
            line[6] = names[*at].to_owned();
        }
    }
    let lines: Vec<String> = lines.iter().map(|line| line.join("|")).collect();
    if std::fs::write(format!("{path}.after"), lines.join("\n") + "\n").is_err() {
        println!("htools: can't write {path}.after");
    }
}
