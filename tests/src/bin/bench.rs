//! Evenkeel against a shell loop over `virsh migrate`, paired: both in the same run, on the same hosts and guests, in
//! turns and to the same end; and Evenkeel with everything encrypted against itself in plain. Prints each figure's least,
//! middle and most, and the ratios of the middles.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Host, HostSpec, Lab, SECRET},
    witness,
};
use serde_json::{Value, json};

/// Times moves and drains, by hand and by Evenkeel, in turns.
#[derive(Parser)]
struct Arguments {
    /// Rounds of drains, one of each kind in a round; twice as many of single moves
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Data on each guest's disk, in MiB; the disk is a seventh larger
    #[arg(long, default_value_t = 112)]
    data: u64,
    /// Fail where a ratio of the middles is above this
    #[arg(long)]
    at_most: Option<f64>,
    /// Fail where an encrypted drain takes more than so many times as long as a plain one
    #[arg(long)]
    encrypted_at_most: Option<f64>,
}

const FLAGS: [&str; 5] = [
    "--live",
    "--p2p",
    "--copy-storage-all",
    "--persistent",
    "--undefinesource",
];
const GUESTS: usize = 6;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let mut builder = Lab::builder().hosts(2).each_host(HostSpec::plain_too);
    for number in 1..=GUESTS {
        // A full disk: what a plain copy and a thin one send is the same.
        builder = builder.guest(
            GuestSpec::new(format!("g{number}"))
                .on("h1")
                .disks(vec![DiskSpec::mib(arguments.data * 8 / 7, arguments.data)]),
        );
    }
    let lab = builder.up()?;
    let plain = fleet(
        &lab,
        |host| json!({"uri": host.plain_uri(), "insecure": true}),
    )?;
    let encrypted = fleet(
        &lab,
        |host| json!({"uri": host.uri(), "credentials": {"secretName": SECRET}}),
    )?;
    let mut one = Times::default();
    let mut six = Times::default();
    let mut ends = [lab.host("h1")?, lab.host("h2")?];
    for (times, count, rounds) in [
        (&mut one, 1, 2 * arguments.rounds),
        (&mut six, GUESTS, arguments.rounds),
    ] {
        for round in 0..rounds {
            // Who goes first changes, and the direction each time, so that nobody always meets the warmer machine.
            for turn in 0..3 {
                let [from, to] = &ends;
                match (turn + round) % 3 {
                    0 => times.by_hand(by_hand(&lab, from, to, count)?),
                    1 => times.plain.push(ours(&plain, from, to, count)?),
                    _ => times.encrypted.push(ours(&encrypted, from, to, count)?),
                }
                ends.reverse();
            }
        }
    }
    witness::all_is_well(&lab)?;
    println!(
        "{:<34} {:>6}  {:>6}  {:>6}",
        "seconds", "least", "middle", "most"
    );
    let first = one.print("one guest", "evenkeel migrate");
    let second = six.print("six guests at once", "evenkeel apply of a drain");
    let limit = arguments.at_most.unwrap_or(f64::INFINITY);
    let cost = arguments.encrypted_at_most.unwrap_or(f64::INFINITY);
    Ok(first.by_hand <= limit && second.by_hand <= limit && second.encrypted <= cost)
}

/// A fleet of the lab's hosts, each reached as told, for as many moves at once as there are guests.
fn fleet(lab: &Lab, spec: impl Fn(&Host<'_>) -> Value) -> Result<Fleet> {
    let fleet = Fleet::of(lab)?;
    for host in lab.hosts() {
        let mut spec = spec(&host);
        spec["migration"] = json!({"maxInbound": GUESTS, "maxOutbound": GUESTS});
        let file = format!("host-{}.yaml", host.record().index);
        fleet.write(&file, &host.manifest_with(&spec)?)?;
    }
    Ok(fleet)
}

/// By the program, from its start to its end: verified, source files gone, claims given back.
fn ours(fleet: &Fleet, from: &Host<'_>, to: &Host<'_>, count: usize) -> Result<Duration> {
    if count == 1 {
        return Ok(fleet.run(&["migrate", "g1", to.name()])?.expect(0)?.took);
    }
    let host = from.name();
    fleet.write("drain.yaml", &format!("apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {{name: bench}}\nspec: {{hosts: {{names: [{host}]}}, parallel: {GUESTS}}}\n"))?;
    let took = fleet.run(&["apply", "--yes"])?.expect(0)?.took;
    fleet.remove("drain.yaml")?;
    Ok(took)
}

/// How long it took by hand.
struct ByHand {
    /// Until the last `virsh migrate` returned.
    migrated: Duration,
    /// Until each guest was seen running at the target and its disk removed at the source: the same end as ours.
    finished: Duration,
}

/// The same by hand: as many shell loops at once, each with `virsh migrate`, `domstate` and `vol-delete`.
fn by_hand(lab: &Lab, from: &Host<'_>, to: &Host<'_>, count: usize) -> Result<ByHand> {
    let uri = to.plain_uri();
    let start = Instant::now();
    let one = |number: usize| -> Result<Duration> {
        let name = format!("g{number}");
        let left = lab.guest(&name)?.disk_path(from, "vda")?;
        let words = [
            &["migrate"],
            FLAGS.as_slice(),
            &[name.as_str(), uri.as_str()],
        ]
        .concat();
        virsh(from, &words)?;
        let migrated = start.elapsed();
        let state = virsh(to, &["domstate", &name])?;
        ensure!(state.trim() == "running", "{name} is {state}");
        virsh(from, &["vol-delete", &left])?;
        Ok(migrated)
    };
    let migrated = thread::scope(|scope| {
        let running: Vec<_> = (1..=count)
            .map(|number| scope.spawn(move || one(number)))
            .collect();
        running
            .into_iter()
            .map(|guest| guest.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<Duration>>>()
    })?;
    Ok(ByHand {
        migrated: migrated.into_iter().max().unwrap_or_default(),
        finished: start.elapsed(),
    })
}

/// Without the limit that [`Host::virsh`] sets: that is one more process in the peer's time.
fn virsh(host: &Host<'_>, words: &[&str]) -> Result<String> {
    let done = Command::new("virsh")
        .args(["--quiet", "--connect", &host.plain_uri()])
        .args(words)
        .env("LC_ALL", "C")
        .output()?;
    ensure!(
        done.status.success(),
        "virsh {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Times by hand and ours.
#[derive(Default)]
struct Times {
    migrated: Vec<Duration>,
    finished: Vec<Duration>,
    plain: Vec<Duration>,
    encrypted: Vec<Duration>,
}

/// Ratios of the middles.
struct Ratios {
    /// Ours against by hand, both plain, to the same end.
    by_hand: f64,
    /// Ours encrypted against ours plain.
    encrypted: f64,
}

impl Times {
    fn by_hand(&mut self, took: ByHand) {
        self.migrated.push(took.migrated);
        self.finished.push(took.finished);
    }

    /// Prints all, and the ratios.
    fn print(&mut self, what: &str, command: &str) -> Ratios {
        println!("{what}");
        let migrated = row("  virsh migrate alone", &mut self.migrated);
        let finished = row("  and domstate, vol-delete", &mut self.finished);
        let plain = row(&format!("  {command}"), &mut self.plain);
        let encrypted = row("  the same, encrypted", &mut self.encrypted);
        let ratios = Ratios {
            by_hand: plain / finished,
            encrypted: encrypted / plain,
        };
        println!(
            "  ratio of the middles: {:.2}; against virsh migrate alone {:.2}; encrypted against plain {:.2}\n",
            ratios.by_hand,
            plain / migrated,
            ratios.encrypted
        );
        ratios
    }
}

fn row(label: &str, times: &mut [Duration]) -> f64 {
    times.sort();
    let at = |index: usize| times.get(index).map_or(0.0, Duration::as_secs_f64);
    let middle = at(times.len() / 2);
    println!(
        "{label:<34} {:>6.2}  {middle:>6.2}  {:>6.2}",
        at(0),
        at(times.len().saturating_sub(1))
    );
    middle
}
