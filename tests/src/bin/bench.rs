//! Evenkeel against a shell loop over `virsh migrate`, paired: both in the same run, on the same hosts and guests, in
//! turns. Prints each figure's least, middle and most, and the ratio of the middles.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    fs,
    process::{Child, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Host, Lab},
    witness,
};

/// Times moves and drains, by hand and by Evenkeel, in turns.
#[derive(Parser)]
struct Arguments {
    /// Rounds of each; a round is one move there and one back
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Data on each guest's disk, in MiB; the disk is a seventh larger
    #[arg(long, default_value_t = 112)]
    data: u64,
    /// Fail where a ratio of the middles is above this
    #[arg(long)]
    at_most: Option<f64>,
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
    let mut builder = Lab::builder().hosts(2);
    for number in 1..=GUESTS {
        // A full disk: what a plain copy and a thin one send is the same.
        builder = builder.guest(
            GuestSpec::new(format!("g{number}"))
                .on("h1")
                .disks(vec![DiskSpec::mib(arguments.data * 8 / 7, arguments.data)]),
        );
    }
    let lab = builder.up()?;
    let fleet = Fleet::of(&lab)?;
    for entry in fs::read_dir(fleet.path())? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        fs::write(
            path,
            format!("{text}  migration: {{maxInbound: {GUESTS}, maxOutbound: {GUESTS}}}\n"),
        )?;
    }
    let mut one = Pair::default();
    let mut six = Pair::default();
    let (left, right) = (lab.host("h1")?, lab.host("h2")?);
    for round in 0..2 * arguments.rounds {
        // Who goes there and who comes back changes, so that neither always meets the warmer machine.
        for (turn, (from, to)) in [(&left, &right), (&right, &left)].into_iter().enumerate() {
            let ours = (turn + round) % 2 == 0;
            let took = if ours {
                ours_one(&fleet, to)?
            } else {
                by_hand(&lab, from, to, 1)?
            };
            one.note(ours, took);
        }
    }
    for round in 0..arguments.rounds {
        for (turn, (from, to)) in [(&left, &right), (&right, &left)].into_iter().enumerate() {
            let ours = (turn + round) % 2 == 0;
            let took = if ours {
                ours_drain(&fleet, from.name())?
            } else {
                by_hand(&lab, from, to, GUESTS)?
            };
            six.note(ours, took);
        }
    }
    witness::all_is_well(&lab)?;
    println!(
        "{:<34} {:>6}  {:>6}  {:>6}",
        "seconds", "least", "middle", "most"
    );
    let first = one.print("one guest: virsh migrate", "one guest: evenkeel migrate");
    let second = six.print(
        "six guests: virsh migrate, at once",
        "six guests: evenkeel apply, a drain",
    );
    let limit = arguments.at_most.unwrap_or(f64::INFINITY);
    Ok(first <= limit && second <= limit)
}

/// One move by the program, from its start to its end: verified, source files gone, claims given back.
fn ours_one(fleet: &Fleet, to: &Host<'_>) -> Result<Duration> {
    Ok(fleet.run(&["migrate", "g1", to.name()])?.expect(0)?.took)
}

fn ours_drain(fleet: &Fleet, host: &str) -> Result<Duration> {
    fleet.write("drain.yaml", &format!("apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {{name: bench}}\nspec: {{hosts: {{names: [{host}]}}, parallel: {GUESTS}}}\n"))?;
    let took = fleet.run(&["apply", "--yes"])?.expect(0)?.took;
    fleet.remove("drain.yaml")?;
    Ok(took)
}

/// The same by hand: as many `virsh migrate` at once. What it leaves behind is removed outside the time, in its favour.
fn by_hand(lab: &Lab, from: &Host<'_>, to: &Host<'_>, count: usize) -> Result<Duration> {
    let uri = to.uri();
    let start = Instant::now();
    let running: Vec<(String, Child)> = (1..=count)
        .map(|number| {
            let guest = format!("g{number}");
            let words: Vec<&str> = [
                &["migrate"],
                FLAGS.as_slice(),
                &[guest.as_str(), uri.as_str()],
            ]
            .concat();
            let child = from.virsh_command(&words).stdout(Stdio::null()).spawn()?;
            Ok((guest, child))
        })
        .collect::<Result<_>>()?;
    for (guest, mut child) in running {
        ensure!(child.wait()?.success(), "virsh migrate of {guest} failed");
    }
    let took = start.elapsed();
    for number in 1..=count {
        let guest = lab.guest(&format!("g{number}"))?;
        let path = guest.disk_path(to, "vda")?;
        fs::remove_file(from.outside(&path)?).with_context(|| format!("no leftover {path}"))?;
    }
    from.refresh_pools()?;
    Ok(took)
}

/// Times by hand and ours.
#[derive(Default)]
struct Pair {
    hand: Vec<Duration>,
    ours: Vec<Duration>,
}

impl Pair {
    fn note(&mut self, ours: bool, took: Duration) {
        if ours { &mut self.ours } else { &mut self.hand }.push(took);
    }

    /// Prints both and gives the ratio of the middles.
    fn print(&mut self, hand: &str, ours: &str) -> f64 {
        let by_hand = row(hand, &mut self.hand);
        let by_us = row(ours, &mut self.ours);
        println!("{:<34} {:>14.2}\n", "ratio of the middles", by_us / by_hand);
        by_us / by_hand
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
