//! How close schedules come to what is possible, on migrations that others scheduled before (BtrPlace's mVM):
//! `EVENKEEL_BENCH_DATA=DIR cargo bench -p evenkeel-planner --bench ordering`. Only DIR/ordering is read.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::Reason;
use evenkeel_planner::*;
use serde_json::Value;
use support::*;

/// Bytes per second of a megabit.
const MEGABIT: u64 = 1_000_000 / 8;

fn number(value: &Value) -> u64 {
    value.as_f64().unwrap_or(0.0) as u64
}

fn key(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The fleet, where each guest is to go, and when the last move of the peer's own plan ends, where there is one.
fn read(file: &Value) -> Option<(Fleet, Vec<Wish>, Option<u64>)> {
    let model = file.get("model").or_else(|| file.get("origin"))?;
    let views = model["views"].as_array()?;
    let of = |resource: &str, what: &str, id: u64, otherwise: u64| {
        let view = views.iter().find(|view| view["rcId"] == resource);
        let there = view.and_then(|view| view[what].get(id.to_string()));
        there.map_or(otherwise, number)
    };
    let links = views.iter().find(|view| view["id"] == "net");
    let links = links.and_then(|net| net["links"].as_array());
    let bandwidth = |id: u64| {
        let own = links.into_iter().flatten().find(|link| {
            let end = &link["physicalElement"];
            end["type"] == "node" && number(&end["id"]) == id
        });
        own.map_or(1000, |link| number(&link["capacity"])) * MEGABIT
    };
    let nodes = model["mapping"]["onlineNodes"].as_object()?;
    let (mut hosts, mut guests) = (Vec::new(), Vec::new());
    let (mut host_ids, mut guest_ids) = (BTreeMap::new(), BTreeMap::new());
    for (name, there) in nodes {
        let id = key(name);
        let mut host = host(&format!("h{id}"));
        host.memory_limit = Bytes(of("mem", "nodes", id, 1 << 20) * GI);
        host.cpu_limit_milli = of("cpu", "nodes", id, 1 << 20) * 1000;
        host.bandwidth = Some(Bytes(bandwidth(id)));
        host_ids.insert(id, hosts.len() as u32);
        for vm in there["runningVMs"].as_array()? {
            let vm = number(vm);
            let facts = &model["attributes"]["vms"][vm.to_string()];
            let used = number(&facts["memUsed"]) * 1_000_000;
            let memory = (of("mem", "vms", vm, 1) * GI).max(used);
            let mut guest = guest(&format!("g{vm}"), hosts.len() as u32, memory);
            guest.overhead = Bytes(memory - used);
            guest.cpu_milli = of("cpu", "vms", vm, 1) * 1000;
            let dirty = facts.get("coldDirtyRate").or(facts.get("dirtyRate"));
            guest.dirty_rate = dirty.map(|rate| Bytes(number(rate) * 1_000_000));
            guest_ids.insert(vm, guests.len() as u32);
            guests.push(guest);
        }
        hosts.push(host);
    }
    let mut wishes = Vec::new();
    let mut wish = |vm: u64, node: u64| {
        if let (Some(guest), Some(host)) = (guest_ids.get(&vm), host_ids.get(&node))
            && guests[*guest as usize].host.0 != *host
        {
            wishes.push(go(&format!("m{vm}"), *guest, Some(*host)));
        }
    };
    for fence in file["constraints"].as_array().into_iter().flatten() {
        wish(number(&fence["vm"]), number(&fence["nodes"][0]));
    }
    let actions = file["actions"].as_array();
    for action in actions.into_iter().flatten() {
        wish(number(&action["vm"]), number(&action["to"]));
    }
    let end = actions.and_then(|actions| actions.iter().map(|action| number(&action["end"])).max());
    Some((fleet(hosts, guests), wishes, end))
}

fn main() {
    let Some(data) = std::env::var_os("EVENKEEL_BENCH_DATA") else {
        println!("ordering: skipped, EVENKEEL_BENCH_DATA names no folder with data");
        return;
    };
    let Ok(entries) = std::fs::read_dir(Path::new(&data).join("ordering")) else {
        println!("ordering: skipped, there is no folder ordering in EVENKEEL_BENCH_DATA");
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let (mut free, mut all) = (Vec::new(), Vec::new());
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let file: Value = serde_json::from_str(&text).unwrap_or_default();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let Some((fleet, wishes, peer)) = read(&file) else {
            println!("{name}: not of a known form");
            continue;
        };
        let made = planned(&fleet, &wishes, &Ledger::default());
        let bound = bounds::makespan(&fleet, &wishes, &made);
        let bound = bound.as_secs_f64().max(1e-9);
        let makespan = made.makespan.unwrap_or_default().as_secs_f64();
        let waits = |step: &&Move| {
            let waits = step.waits.as_ref().map(|cause| cause.reason);
            waits.is_some_and(|reason| reason != Reason::SlotsTaken)
        };
        let waiting = made.moves.iter().filter(waits).count();
        let stops = made
            .moves
            .iter()
            .filter(|step| step.onward.is_some())
            .count();
        let ratio = makespan / bound;
        all.push(ratio);
        if waiting == 0 {
            free.push(ratio);
        }
        let peer = peer.map_or(String::new(), |end| format!(", the peer's {end} s"));
        println!(
            "{name}: {} of {} moves, {waiting} wait for room, {stops} stop over, makespan {makespan:.0} s, {ratio:.2} of the lower bound{peer}",
            made.moves.len() - stops,
            wishes.len(),
        );
    }
    let mean = |ratios: &[f64]| ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
    println!(
        "mean of all {}: {:.3}; of the {} in which nothing waits for room: {:.3}; every plan was replayed by the checker",
        all.len(),
        mean(&all),
        free.len(),
        mean(&free),
    );
}
