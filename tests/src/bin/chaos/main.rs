//! Moves without pause on real hosts, while a nemesis kills, freezes, cuts and interrupts at random instants. After each
//! fault is healed everything has to come to its end, and the hosts themselves are asked whether anything was lost.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod fault;
mod story;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Lab},
};

use crate::{fault::Fault, story::Story};

/// Moves guests about among faults and checks after each that nothing is lost.
#[derive(Parser)]
struct Arguments {
    /// Decides what is moved, which faults come and when; absent: one that is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds: a round is a wish, a fault while it is carried out, its healing, and the check
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only this fault, by its name
    #[arg(long)]
    only: Option<String>,
    /// Print what the program said in rounds that took longer than this many seconds
    #[arg(long, default_value_t = 90.0)]
    slow: f64,
}

const GUESTS: usize = 3;
/// Bytes per second: a copy takes seconds, and the switch's last pages fit into the downtime.
const RATE: u64 = 32_000_000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("chaos: seed {seed}, {} rounds", arguments.rounds);
    match run(&arguments, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: seed {seed}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, seed: u64) -> Result<()> {
    let mut builder = Lab::builder().hosts(3).each_host(|host| host.rate(RATE));
    for number in 1..=GUESTS {
        builder = builder.guest(
            GuestSpec::new(format!("g{number}"))
                .on(format!("h{number}"))
                .disks(vec![DiskSpec::mib(96, 64); 1 + number % 2]),
        );
    }
    let lab = builder.up()?;
    let fleet = Fleet::of(&lab)?;
    let faults = Fault::chosen(arguments.only.as_deref())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut story = Story::new(&lab, &fleet);
    let start = Instant::now();
    for round in 1..=arguments.rounds {
        let fault = faults[random.usize(..faults.len())];
        story
            .round(round, fault, &mut random)
            .with_context(|| format!("round {round}, {fault:?}\n{}", story.picture()))
            .map(|took| {
                if took.as_secs_f64() > arguments.slow {
                    println!("{}", story.said());
                }
            })?;
    }
    println!("{}", story.summary(start.elapsed()));
    Ok(())
}

/// How long anything may take to come to its end once the fault is healed.
const PATIENCE: Duration = Duration::from_secs(240);
