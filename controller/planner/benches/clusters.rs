//! Levels real clusters that are nearly full, with 50 moves (VMR2L's data):
//! `EVENKEEL_BENCH_DATA=DIR cargo bench -p evenkeel-planner --bench clusters`. Only DIR/vm-rescheduling is read.
//!
//! Each NUMA node is a host here, so that what a plan moves fits into the node it goes to. Guests on two nodes stay.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_planner::*;
use serde_json::Value;
use support::*;

const MOVES: u32 = 50;
/// CPUs of the guests for which a node's free CPUs are counted: what is less than that is a fragment.
const PIECE: u64 = 16;

fn number(value: &Value) -> u64 {
    value.as_f64().unwrap_or(0.0) as u64
}

/// The cluster, and the parts of guests on two nodes.
fn read(cluster: &Value) -> Option<(Fleet, BTreeMap<GuestId, Cause>)> {
    let (mut hosts, mut guests) = (Vec::new(), Vec::new());
    let mut stay = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for machine in cluster["host_info"].as_array()? {
        let name = machine["node_id"].as_str()?;
        for node in machine["numa"].as_array()? {
            let number_of = number(&node["node"]);
            let mut host = host(&format!("{name}-{number_of}"));
            host.cpu_limit_milli = number(&node["total_cpu"]) * 1000;
            host.memory_limit = Bytes(number(&node["memory_huge_total_mb"]) * MI);
            host.pools[0].available = Bytes(u64::MAX / 4);
            host.bandwidth = Some(Bytes(1200 * MI));
            ids.insert((name, number_of), hosts.len() as u32);
            hosts.push(host);
        }
    }
    for instance in cluster["vm_instance"].as_array()? {
        let nodes = instance["numa"].as_array()?;
        for node in nodes {
            let number_of = number(&node["node"]);
            let at = *ids.get(&(instance["host_id"].as_str()?, number_of))?;
            let name = format!("{}-{number_of}", instance["instance_id"].as_str()?);
            let mut guest = guest(&name, at, number(&node["mem_mb"]) * MI);
            guest.overhead = Bytes(0);
            guest.cpu_milli = number(&node["cpu"]) * 1000;
            if nodes.len() > 1 {
                stay.insert(GuestId(guests.len() as u32), cause(Reason::NotSupportedYet));
            }
            guests.push(guest);
        }
    }
    Some((fleet(hosts, guests), stay))
}

/// CPUs that are free on each host.
fn free(fleet: &Fleet, made: Option<&Plan>) -> Vec<u64> {
    let mut free: Vec<u64> = fleet
        .hosts
        .iter()
        .map(|host| host.cpu_limit_milli)
        .collect();
    let moves = made.into_iter().flat_map(|made| &made.moves);
    let to: BTreeMap<GuestId, HostId> = moves.map(|step| (step.guest, step.target)).collect();
    for (id, guest) in fleet.guests.iter().enumerate() {
        let at = to.get(&GuestId(id as u32)).copied().unwrap_or(guest.host);
        free[at.at()] = free[at.at()].saturating_sub(guest.cpu_milli);
    }
    free.into_iter().map(|milli| milli / 1000).collect()
}

/// The share of free CPUs that no guest of [`PIECE`] can have, in percent.
fn fragments(free: &[u64]) -> f64 {
    let lost: u64 = free.iter().map(|cpus| cpus % PIECE).sum();
    100.0 * lost as f64 / free.iter().sum::<u64>().max(1) as f64
}

/// How far the nodes' CPU shares lie from their mean: the standard deviation, in percent points.
fn deviation(fleet: &Fleet, free: &[u64]) -> f64 {
    let shares: Vec<f64> = free
        .iter()
        .zip(&fleet.hosts)
        .map(|(free, host)| 100.0 * *free as f64 * 1000.0 / host.cpu_limit_milli.max(1) as f64)
        .collect();
    let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let squares: f64 = shares.iter().map(|share| (share - mean).powi(2)).sum();
    (squares / shares.len().max(1) as f64).sqrt()
}

fn main() {
    let Some(data) = std::env::var_os("EVENKEEL_BENCH_DATA") else {
        println!("clusters: skipped, EVENKEEL_BENCH_DATA names no folder with data");
        return;
    };
    let Ok(entries) = std::fs::read_dir(Path::new(&data).join("vm-rescheduling")) else {
        println!("clusters: skipped, there is no folder vm-rescheduling in EVENKEEL_BENCH_DATA");
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let file: Value = serde_json::from_str(&text).unwrap_or_default();
        let clusters = file["cluster_list"].as_array();
        for (which, cluster) in clusters.into_iter().flatten().enumerate() {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let Some((fleet, stay)) = read(cluster) else {
                println!("{name} {which}: not of a known form");
                continue;
            };
            let all: Vec<u32> = (0..fleet.hosts.len() as u32).collect();
            let mut wish = balance("level", &all);
            if let What::Balance(balance) = &mut wish.what {
                balance.moves = Some(MOVES);
                balance.parallel = MOVES;
                balance.leaves = stay.clone();
                balance.stops_over = true;
            }
            let wishes = [wish];
            let start = Instant::now();
            let made = plan(&fleet, &wishes, &Ledger::default(), NOW);
            let took = start.elapsed();
            checker::check(&fleet, &wishes, &Ledger::default(), NOW, &made);
            let (before, after) = (free(&fleet, None), free(&fleet, Some(&made)));
            println!(
                "{name} {which}: {} NUMA nodes, {} guests that fit one: {} moves, CPU deviation {:.2} -> {:.2} percent points, fragments {:.1} -> {:.1} %, {:.1} ms, the checker holds",
                fleet.hosts.len(),
                fleet.guests.len() - stay.len(),
                made.moves.len(),
                deviation(&fleet, &before),
                deviation(&fleet, &after),
                fragments(&before),
                fragments(&after),
                took.as_secs_f64() * 1000.0,
            );
        }
    }
}
