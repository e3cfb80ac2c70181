//! Soaks the whole loop on virtual time, or replays one story of it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    process::ExitCode,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use evenkeel_soak::{Failure, Script, Soak, Sum, keep_panics, shorten, soak, tell};

/// A quarter of a soak was glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Moves among faults on virtual time, judged by the simulation's own truth.
#[derive(Parser)]
struct Arguments {
    /// Moves to be done
    #[arg(long, default_value_t = 1_000_000)]
    moves: u64,
    /// Decides all stories; absent: one that is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds of wishes and faults in a story
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Stories at once; absent: one for each CPU
    #[arg(long)]
    threads: Option<usize>,
    /// Tells the one story of this seed
    #[arg(long)]
    story: Option<u64>,
    /// Steps of that story that are left out
    #[arg(long, value_delimiter = ',', requires = "story")]
    without: Vec<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .init();
    }
    keep_panics();
    if let Some(seed) = arguments.story {
        let script = Script {
            seed,
            rounds: arguments.rounds,
            without: arguments.without.into_iter().collect(),
            only: Vec::new(),
        };
        return match tell(&script) {
            Ok(tally) => {
                println!("{} moves, all is well", tally.moves);
                ExitCode::SUCCESS
            }
            Err(failure) => report(&failure),
        };
    }
    let plan = Soak {
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
        moves: arguments.moves,
        rounds: arguments.rounds,
        threads: arguments
            .threads
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)),
    };
    println!("soak: seed {}, {} moves", plan.seed, plan.moves);
    let begun = Instant::now();
    let told = Mutex::new(begun);
    let each = |sum: &Sum| {
        if let Ok(mut told) = told.lock()
            && told.elapsed() >= Duration::from_secs(10)
        {
            *told = Instant::now();
            tell_of(sum, begun);
        }
    };
    match soak(&plan, each) {
        Ok(sum) => {
            tell_of(&sum, begun);
            for (kind, count) in &sum.faults {
                println!("  {kind:?}: {count}");
            }
            println!(
                "  in {} stories with an API server: {:?}",
                sum.served, sum.server
            );
            println!("  drains that users had to ask for anew: {}", sum.renewed);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!(
                "soak: seed {} failed in --story {} --rounds {}; looking for the shortest telling",
                plan.seed, failure.script.seed, failure.script.rounds
            );
            for line in &failure.wrong {
                eprintln!("soak: {line}");
            }
            report(&shorten(failure))
        }
    }
}

fn tell_of(sum: &Sum, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "soak: {} moves in {} stories, {seconds:.0} s, {:.0} moves/s, {} faults",
        sum.moves,
        sum.stories,
        sum.moves as f64 / seconds,
        sum.faults.values().sum::<u64>()
    );
}

fn report(failure: &Failure) -> ExitCode {
    for line in &failure.log {
        eprintln!("{line}");
    }
    for line in &failure.wrong {
        eprintln!("soak: {line}");
    }
    let Script {
        seed,
        rounds,
        without,
        ..
    } = &failure.script;
    let without: Vec<String> = without.iter().map(u32::to_string).collect();
    let without = if without.is_empty() {
        String::new()
    } else {
        format!(" --without {}", without.join(","))
    };
    eprintln!("soak: again with --story {seed} --rounds {rounds}{without}");
    ExitCode::FAILURE
}
