//! Evenkeel against a shell loop over `virsh migrate`, paired: both in the same run, on the same hosts and guests, in
//! turns and to the same end. Prints each figure's least, middle and most, and the ratio of the middles.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    fs,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
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
            if ours {
                one.ours.push(ours_one(&fleet, to)?);
            } else {
                one.by_hand(by_hand(&lab, from, to, 1)?);
            }
        }
    }
    for round in 0..arguments.rounds {
        for (turn, (from, to)) in [(&left, &right), (&right, &left)].into_iter().enumerate() {
            let ours = (turn + round) % 2 == 0;
            if ours {
                six.ours.push(ours_drain(&fleet, from.name())?);
            } else {
                six.by_hand(by_hand(&lab, from, to, GUESTS)?);
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

/// How long it took by hand.
struct ByHand {
    /// Until the last `virsh migrate` returned.
    migrated: Duration,
    /// Until each guest was seen running at the target and its disk removed at the source: the same end as ours.
    finished: Duration,
}

/// The same by hand: as many shell loops at once, each with `virsh migrate`, `domstate` and `vol-delete`.
fn by_hand(lab: &Lab, from: &Host<'_>, to: &Host<'_>, count: usize) -> Result<ByHand> {
    let uri = to.uri();
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
    let done = host.virsh_command(words).output()?;
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
struct Pair {
    migrated: Vec<Duration>,
    finished: Vec<Duration>,
    ours: Vec<Duration>,
}

impl Pair {
    fn by_hand(&mut self, took: ByHand) {
        self.migrated.push(took.migrated);
        self.finished.push(took.finished);
    }

    /// Prints all and gives the ratio of the middles, to the same end.
    fn print(&mut self, what: &str, command: &str) -> f64 {
        println!("{what}");
        let migrated = row("  virsh migrate alone", &mut self.migrated);
        let finished = row("  and domstate, vol-delete", &mut self.finished);
        let ours = row(&format!("  {command}"), &mut self.ours);
        let (all, alone) = (ours / finished, ours / migrated);
        println!("  ratio of the middles: {all:.2}; against virsh migrate alone {alone:.2}\n");
        all
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
