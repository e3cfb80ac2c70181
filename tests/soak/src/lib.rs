//! A long soak of the whole loop on virtual time: engine, planner and the simulated fleet, in many small stories side by
//! side. The fleet's own truth judges, not the engine's view.

mod controllers;
mod fault;
mod forms;
mod front;
mod person;
mod rest;
mod story;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use evenkeel_kubernetes::simulated::Counts;
pub use fault::Kind;
pub use story::{Failure, Script, Tally, keep_panics, tell};

/// How much is to be soaked.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// What all stories follow from.
    pub seed: u64,
    /// Moves after which no further story begins.
    pub moves: u64,
    /// Rounds of a story.
    pub rounds: u32,
    /// Stories at once.
    pub threads: usize,
}

/// All stories together.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Stories told.
    pub stories: u64,
    /// Guests that came to run at a migration's target.
    pub moves: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Drains that a user had to make anew.
    pub renewed: u64,
    /// Stories with an API server between objects and engine.
    pub served: u64,
    /// What went wrong at those.
    pub server: Counts,
}

/// The seed of a story.
#[must_use]
pub fn seed_of(soak: u64, story: u64) -> u64 {
    fastrand::Rng::with_seed(soak ^ story.wrapping_mul(0x9e37_79b9_7f4a_7c15)).u64(..1 << 48)
}

/// Tells stories until there were so many moves. `each` hears of every one that is done.
///
/// # Errors
/// The first failure.
pub fn soak(soak: &Soak, each: impl Fn(&Sum) + Sync) -> Result<Sum, Box<Failure>> {
    let next = AtomicU64::new(0);
    let state = Mutex::new((Sum::default(), None::<Box<Failure>>));
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..soak.threads.max(1) {
            scope.spawn(|| {
                loop {
                    {
                        let state = lock();
                        if state.1.is_some() || state.0.moves >= soak.moves {
                            return;
                        }
                    }
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let told = tell(&Script {
                        seed: seed_of(soak.seed, number),
                        rounds: soak.rounds,
                        ..Script::default()
                    });
                    let mut state = lock();
                    match told {
                        Ok(tally) => {
                            let sum = &mut state.0;
                            sum.stories += 1;
                            sum.moves += tally.moves;
                            sum.renewed += tally.renewed;
                            if let Some(counts) = tally.server {
                                sum.served += 1;
                                sum.server.refused += counts.refused;
                                sum.server.unheard += counts.unheard;
                                sum.server.conflicts += counts.conflicts;
                                sum.server.lost += counts.lost;
                                sum.server.stale += counts.stale;
                            }
                            for (kind, count) in tally.faults {
                                *sum.faults.entry(kind).or_default() += count;
                            }
                            each(sum);
                        }
                        Err(failure) => drop(state.1.get_or_insert(failure)),
                    }
                }
            });
        }
    });
    let (sum, failure) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(sum), Err)
}

/// The shortest telling of a failure that is found by leaving steps out one by one.
#[must_use]
pub fn shorten(failure: Box<Failure>) -> Box<Failure> {
    let mut best = failure;
    let steps = best.log.len() as u32 + 1;
    for step in (1..=steps * 2).rev() {
        let mut script = best.script.clone();
        if !script.without.insert(step) {
            continue;
        }
        if let Err(shorter) = tell(&script) {
            best = shorter;
        }
    }
    best
}
