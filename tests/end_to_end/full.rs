//! A fleet that is nearly full, levelled and drained by real moves; and how long a drain takes over links with a rate,
//! against what their bytes take at least.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Host, HostSpec, Lab},
    witness,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

const POLICY: &str = "apiVersion: evenkeel.dev/v1alpha1
kind: RebalancePolicy
metadata: {name: level}
spec:
  mode: Auto
  load: Allocated
  resources: {cpu: 100, memory: 0}
  threshold: {start: 10, stop: 5}
";

const DRAIN: &str = "apiVersion: evenkeel.dev/v1alpha1
kind: HostDrain
metadata: {name: empty}
spec: {hosts: {names: [HOST]}, parallel: 4}
";

/// A line of `virsh nodeinfo` as a number.
fn node(host: &Host<'_>, line: &str) -> Result<u64> {
    let info = host.virsh(&["nodeinfo"])?;
    let mut lines = info.lines();
    let found = lines.find_map(|text| {
        text.strip_prefix(line)?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    found.with_context(|| format!("{} does not tell {line:?}: {info}", host.name()))
}

/// The host's manifest with more in its spec.
fn declare(fleet: &Fleet, host: &Host<'_>, more: Value) -> Result<()> {
    let mut manifest: Value = serde_yaml::from_str(&host.manifest()?)?;
    let (Some(spec), Value::Object(more)) = (manifest["spec"].as_object_mut(), more) else {
        anyhow::bail!("no spec in {manifest}");
    };
    spec.extend(more);
    let file = format!("host-{}.yaml", host.record().index);
    fleet.write(&file, &serde_yaml::to_string(&manifest)?)
}

/// What a guest counts as: its memory and what its QEMU may take beside, as the product reckons.
fn needs(memory: u64, vcpus: u64) -> u64 {
    memory + 96 + 8 * vcpus + memory / 512 + 1
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.and_then(|one| one["status"].as_str()).unwrap_or("")
}

/// h1 has promised 4 of 8 CPUs, h2 2, h3 3: level is only what has a busy and an idle guest on each of the first two. Neither
/// has room for one guest more but the smallest, and h3 has room for one idle guest for a while.
#[test]
fn a_nearly_full_fleet_with_a_ring_of_swaps_is_levelled_and_drained() -> Result<()> {
    let (busy, idle, small) = (176, 160, 80);
    let guest = |name: &str, host: &str, memory: u64, vcpus: u32| {
        let mut spec = GuestSpec::new(name).on(host).memory_mib(memory);
        spec.vcpus = vcpus;
        spec
    };
    let lab = Lab::builder()
        .hosts(3)
        .guest(guest("b1", "h1", busy, 2))
        .guest(guest("b2", "h1", busy, 2))
        .guest(guest("i1", "h2", idle, 1))
        .guest(guest("i2", "h2", idle, 1))
        .guest(guest("small", "h3", small, 3))
        .up()?;
    let fleet = Fleet::of(&lab)?;
    // The small one has room on either of the first two, an idle one has not.
    let spare = needs(small, 3) + 16;
    let limits = [
        ("h1", 2 * needs(busy, 2) + spare),
        ("h2", 2 * needs(idle, 1) + spare),
        ("h3", needs(small, 3) + needs(idle, 1) + 6),
    ];
    for (name, limit) in limits {
        let host = lab.host(name)?;
        let reserved = node(&host, "Memory size:")? * 1024 - limit * MIB;
        let cpus = node(&host, "CPU(s):")?;
        declare(
            &fleet,
            &host,
            json!({
                "reserved": {"memory": reserved.to_string()},
                "overcommit": {"cpu": 800 / cpus},
            }),
        )?;
    }

    fleet.write("policy.yaml", POLICY)?;
    let plan = fleet.run(&["plan", "-o", "json"])?.expect(2)?.json()?;
    let moves = plan["moves"].as_array().context("no moves")?;
    let stops: Vec<&Value> = moves
        .iter()
        .filter(|step| step["onward"].is_string())
        .collect();
    ensure!(
        moves.len() == 3 && stops.len() == 1 && stops[0]["target"] == "h3",
        "{plan:#}"
    );
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    let places = lab.places()?;
    for pair in [["b1", "b2"], ["i1", "i2"]] {
        let mut hosts = pair.map(|guest| places[guest].as_str());
        hosts.sort_unstable();
        ensure!(hosts == ["h1", "h2"], "{pair:?} are not parted: {places:?}");
    }
    let mut paths = BTreeMap::new();
    for guest in lab.guests() {
        *paths.entry(guest.continuity()?.path).or_insert(0) += 1;
    }
    let path =
        |hosts: &[&str]| -> Vec<String> { hosts.iter().map(|host| (*host).to_owned()).collect() };
    let expected = BTreeMap::from([
        (path(&["h1"]), 1),
        (path(&["h1", "h2"]), 1),
        (path(&["h2"]), 1),
        (path(&["h2", "h3", "h1"]), 1),
        (path(&["h3"]), 1),
    ]);
    ensure!(paths == expected, "other ways than planned: {paths:?}");
    let policy = fleet.get("policies", "level")?;
    ensure!(condition(&policy, "Balanced") == "True", "{policy:#}");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;

    // What was exchanged has left room for the last guest on one of the two.
    fleet.remove("policy.yaml")?;
    fleet.write("drain.yaml", &DRAIN.replace("HOST", "h3"))?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    let drain = fleet.get("drains", "empty")?;
    ensure!(condition(&drain, "Drained") == "True", "{drain:#}");
    ensure!(lab.places()?["small"] == "h1", "{:?}", lab.places()?);
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}

/// What a link carries, in bytes per second. A third of it with a second of downtime is enough for the guests' memory.
const RATE: u64 = 24_000_000;

const SLOWLY: &str = "apiVersion: evenkeel.dev/v1alpha1
kind: MigrationProfile
metadata: {name: default}
spec: {downtime: 1s}
";

/// The least time for these moves: each link carries what goes out of its host, and what comes in.
fn bound(plan: &Value) -> Result<f64> {
    let mut loads: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for step in plan["moves"].as_array().context("no moves")? {
        let bytes = step["bytes"].as_u64().context("no bytes")?;
        for end in ["source", "target"] {
            let host = step[end].as_str().context("no host")?;
            *loads.entry((end, host)).or_default() += bytes;
        }
    }
    let most = loads.into_values().max().context("nothing moves")?;
    Ok(most as f64 / RATE as f64)
}

/// Guests of different sizes, so that one copies while another is prepared or proven: the link of the drained host is
/// hardly ever idle.
#[test]
fn a_drain_over_links_with_a_rate_takes_little_more_than_its_bytes_do() -> Result<()> {
    let host = |name: &str| HostSpec::new(name).rate(RATE);
    let mut lab = Lab::builder()
        .host(host("h1"))
        .host(host("h2"))
        .host(host("h3"));
    for (number, data) in [560, 480, 400, 320, 240, 160].into_iter().enumerate() {
        let disk = DiskSpec::mib(data + 16, data);
        lab = lab.guest(
            GuestSpec::new(format!("g{number}"))
                .on("h1")
                .disks(vec![disk]),
        );
    }
    let lab = lab.up()?;
    let fleet = Fleet::of(&lab)?;
    for host in lab.hosts() {
        let migration = json!({"bandwidth": RATE.to_string(), "maxOutbound": 3, "maxInbound": 3});
        declare(&fleet, &host, json!({"migration": migration}))?;
    }
    fleet.write("profile.yaml", SLOWLY)?;
    fleet.write("drain.yaml", &DRAIN.replace("HOST", "h1"))?;
    let plan = fleet.run(&["plan", "-o", "json"])?.expect(2)?.json()?;
    let least = bound(&plan)?;
    let apply = fleet.run(&["apply", "--yes"])?.expect(0)?;
    let ratio = apply.took.as_secs_f64() / least;
    ensure!(
        ratio <= 1.15,
        "the drain took {:?}, {ratio:.2} times the {least:.1} s that its links need\n{}",
        apply.took,
        apply.out
    );
    ensure!(
        lab.places()?.values().all(|place| place != "h1"),
        "{:?}",
        lab.places()?
    );
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}
