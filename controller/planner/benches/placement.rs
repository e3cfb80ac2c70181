//! Takes load off hosts that are over their limit, in a fleet that others planned before (BtrPlace's li6): 2,979 of
//! 30,000 guests want more CPU than they had, and 585 of 5,000 hosts have not so much.
//! `EVENKEEL_BENCH_DATA=DIR cargo bench -p evenkeel-planner --bench placement`. Only DIR/placement is read, by `xz`.

#![allow(clippy::print_stdout, reason = "figures are what a benchmark is for")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use evenkeel_crds::quantity::Bytes;
use evenkeel_planner::*;
use serde_json::Value;
use support::*;

/// Thousandths of a CPU in the data's unit.
const PERCENT: u64 = 10;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The fleet, with each guest as large as it wants to be.
fn read(file: &Value) -> Option<Fleet> {
    let model = &file["model"];
    let views = model["views"].as_array()?;
    let of = |resource: &str, what: &str| {
        let view = views.iter().find(|view| view["rcId"] == resource)?;
        let amounts = view[what].as_object()?.iter();
        let amounts = amounts.map(|(id, amount)| (id.clone(), number(amount)));
        Some(amounts.collect::<BTreeMap<String, u64>>())
    };
    let (cpus, memories) = (of("uCpu", "nodes")?, of("memory", "nodes")?);
    let (mut cpu, memory) = (of("uCpu", "vms")?, of("memory", "vms")?);
    for wants in file["constraints"].as_array()? {
        if wants["id"] == "preserve" && wants["rc"] == "uCpu" {
            cpu.insert(number(&wants["vm"]).to_string(), number(&wants["amount"]));
        }
    }
    let (mut hosts, mut guests) = (Vec::new(), Vec::new());
    for (name, there) in model["mapping"]["onlineNodes"].as_object()? {
        let mut host = host(&format!("h{name}"));
        host.cpu_limit_milli = cpus.get(name)? * PERCENT;
        host.memory_limit = Bytes(memories.get(name)? * MI);
        for vm in there["runningVMs"].as_array()? {
            let vm = number(vm).to_string();
            let memory = memory.get(&vm)? * MI;
            let mut guest = guest(&format!("g{vm}"), hosts.len() as u32, memory);
            guest.cpu_milli = cpu.get(&vm)? * PERCENT;
            guests.push(guest);
        }
        hosts.push(host);
    }
    Some(fleet(hosts, guests))
}

/// How many thousandths of a CPU each host has promised too many, after the plan if there is one.
fn over(fleet: &Fleet, made: Option<&Plan>) -> Vec<u64> {
    let mut used: Vec<u64> = fleet.hosts.iter().map(|host| host.cpu_used_milli).collect();
    for step in made.into_iter().flat_map(|made| &made.moves) {
        let cpu = fleet.guests[step.guest.at()].cpu_milli;
        used[step.source.at()] -= cpu;
        used[step.target.at()] += cpu;
    }
    let hosts = used.iter().zip(&fleet.hosts);
    hosts
        .map(|(used, host)| used.saturating_sub(host.cpu_limit_milli))
        .collect()
}

/// The fewest guests, and the fewest bytes, that have to leave these hosts, wherever they go: every choice is looked at.
fn least(fleet: &Fleet, over: &[u64]) -> (usize, u64) {
    let mut on: Vec<Vec<&Guest>> = vec![Vec::new(); fleet.hosts.len()];
    for guest in &fleet.guests {
        on[guest.host.at()].push(guest);
    }
    let (mut count, mut bytes) = (0, 0);
    for (guests, over) in on.iter().zip(over).filter(|(_, over)| **over > 0) {
        let (mut fewest, mut smallest) = (usize::MAX, u64::MAX);
        for choice in 0u64..1 << guests.len() {
            let chosen = guests.iter().enumerate();
            let chosen = chosen.filter(|(at, _)| (choice >> at) & 1 == 1);
            let (cpu, memory) = chosen.fold((0, 0), |(cpu, memory), (_, guest)| {
                (cpu + guest.cpu_milli, memory + guest.memory.0)
            });
            if cpu >= *over {
                fewest = fewest.min(choice.count_ones() as usize);
                smallest = smallest.min(memory);
            }
        }
        count += fewest;
        bytes += smallest;
    }
    (count, bytes)
}

fn main() {
    let Some(data) = std::env::var_os("EVENKEEL_BENCH_DATA") else {
        println!("placement: skipped, EVENKEEL_BENCH_DATA names no folder with data");
        return;
    };
    let path = Path::new(&data).join("placement/li6.json.xz");
    let text = Command::new("xz").arg("-dc").arg(&path).output();
    let text = text.map(|output| output.stdout).unwrap_or_default();
    let file: Value = serde_json::from_slice(&text).unwrap_or_default();
    let Some(fleet) = read(&file) else {
        println!("placement: skipped, {} can't be read", path.display());
        return;
    };
    let all: Vec<u32> = (0..fleet.hosts.len() as u32).collect();
    let cpu = |amount: &dyn Fn(&Host) -> u64| fleet.hosts.iter().map(amount).sum::<u64>() as f64;
    let mean = 100.0 * cpu(&|host| host.cpu_used_milli) / cpu(&|host| host.cpu_limit_milli);
    let mut wish = balance("off", &all);
    if let What::Balance(balance) = &mut wish.what {
        // So far above the mean may a host be and is not over its limit.
        balance.stop = (100.0 - mean) as u32;
        balance.start = balance.stop;
        balance.weights.memory = 0;
        balance.parallel = fleet.hosts.len() as u32;
    }
    let wishes = [wish];
    let before = over(&fleet, None);
    let start = Instant::now();
    let made = plan(&fleet, &wishes, &Ledger::default(), NOW);
    let took = start.elapsed();
    checker::check(&fleet, &wishes, &Ledger::default(), NOW, &made);
    let after = over(&fleet, Some(&made));
    let count = |over: &[u64]| over.iter().filter(|over| **over > 0).count();
    let (fewest, bytes) = least(&fleet, &before);
    println!(
        "placement: li6: hosts over their limit {} -> {}, {} moves (at least {fewest} are needed), {:.2} times the fewest bytes, {:.2} s, the checker holds",
        count(&before),
        count(&after),
        made.moves.len(),
        made.bytes.0 as f64 / bytes as f64,
        took.as_secs_f64(),
    );
}
