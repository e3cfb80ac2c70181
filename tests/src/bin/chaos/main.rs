//! Moves without pause on real hosts, while a nemesis kills, freezes, cuts and interrupts at random instants. After each
//! fault is healed everything has to come to its end, and the hosts themselves are asked whether anything was lost.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod driver;
mod fault;
mod plan;
mod story;
mod watch;
mod wish;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use evenkeel_tests::{
    controller::Installed,
    lab::{DiskSpec, GuestSpec, Lab, PoolSpec, Room},
};

use crate::{
    plan::{Cell, Plan},
    story::{Story, Told},
};

/// Moves guests about among faults and checks after each that nothing is lost.
#[derive(Parser)]
struct Arguments {
    /// Decides what is moved, which faults come and when; absent: one that is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds: a round is a wish, a fault while it is carried out, its healing, and the check
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Go on until so many moves were made, however many rounds that takes
    #[arg(long)]
    moves: Option<usize>,
    /// Every fault, at each end, at every moment of a move, one after another; prints a table
    #[arg(long)]
    table: bool,
    /// Guests
    #[arg(long, default_value_t = 3)]
    guests: usize,
    /// A controller in a cluster instead of `apply` on files
    #[arg(long)]
    cluster: bool,
    /// Only this fault, by its name
    #[arg(long)]
    only: Option<String>,
    /// Print what the program said in rounds that took longer than this many seconds
    #[arg(long, default_value_t = 90.0)]
    slow: f64,
}

/// Room of each host's pool: for all guests, so that nothing but a fault fills it.
const ROOM: u64 = 2 << 30;
/// Bytes per second: a copy takes seconds, and the switch's last pages fit into the downtime.
const RATE: u64 = 32_000_000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("chaos: seed {seed}");
    match run(&arguments, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: seed {seed}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, seed: u64) -> Result<()> {
    let mut builder = Lab::builder().hosts(3).each_host(|host| {
        host.rate(RATE)
            .pool(PoolSpec::new("default").room(Room::Ext4(ROOM)))
    });
    for number in 1..=arguments.guests {
        builder = builder.guest(guest(number));
    }
    if arguments.cluster {
        builder = builder.plain();
    }
    let lab = builder.up()?;
    let installed = arguments.cluster.then(Installed::start).transpose()?;
    let driver = driver::of(&lab, installed.as_ref())?;
    let faults = driver::faults(arguments.cluster, arguments.only.as_deref())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut story = Story::begin(&lab, driver)?;
    let start = Instant::now();
    if arguments.table {
        let mut table =
            String::from("| Fault | Struck | Moment | Said | By hand |\n|---|---|---|---|---|\n");
        for (round, cell) in (1..).zip(Cell::all(&faults)) {
            let plan = Plan::of(&lab, round, cell, &mut random)?;
            let told = play(&mut story, round, &plan, arguments)?;
            let hand = match (told.restarts, told.doubled) {
                (0, 0) => "",
                (_, 0) => "guest started",
                (0, _) => "a copy discarded",
                _ => "a copy discarded, guest started",
            };
            table += &format!("| {cell} | {} | {hand} |\n", told.reasons.join(", "));
        }
        println!("{table}");
    } else {
        let mut round = 0;
        let wanted = |round: usize, moved: usize| match arguments.moves {
            Some(moves) => moved < moves,
            None => round < arguments.rounds,
        };
        while wanted(round, story.moved()) {
            round += 1;
            let plan = Plan::random(&lab, round, &faults, &mut random)?;
            play(&mut story, round, &plan, arguments)?;
        }
    }
    story.end()?;
    println!("{}", story.summary(start.elapsed()));
    Ok(())
}

/// Guests of all forms: two disks or one, thin, raw or on a base image that they share; every second starts with its host.
fn guest(number: usize) -> GuestSpec {
    let thin = DiskSpec::mib(64, 40);
    let disks = match number % 4 {
        1 => vec![thin.clone(), thin],
        2 => vec![thin.backing("base-of-all.qcow2")],
        3 => vec![thin.raw()],
        _ => vec![thin],
    };
    let guest = GuestSpec::new(format!("g{number}"))
        .on(format!("h{}", (number - 1) % 3 + 1))
        .disks(disks);
    if number.is_multiple_of(2) {
        guest.autostart()
    } else {
        guest
    }
}

fn play(story: &mut Story<'_>, round: usize, plan: &Plan, arguments: &Arguments) -> Result<Told> {
    let told = story
        .round(round, plan)
        .with_context(|| format!("round {round}, {:?}\n{}", plan.fault, story.picture()))?;
    if told.took.as_secs_f64() > arguments.slow {
        println!("{}", story.said());
    }
    Ok(told)
}

/// How long anything may take to come to its end once the fault is healed.
const PATIENCE: Duration = Duration::from_secs(240);
