//! A simulation as people read it.

use std::{fmt, time::Duration};

use evenkeel_crds::quantity::Bytes;

use super::{Attempt, Simulation};
use crate::{
    output::harmless,
    table::{Table, human},
};

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.moves.is_empty() {
            let mut table = Table::new(["GUEST", "FROM", "TO", "PREDICTED", "SIMULATED", "TRIES"]);
            for moved in &self.moves {
                let last = moved.attempts.last();
                let target = last.or(moved.predicted.as_ref());
                table.row([
                    moved.guest.clone(),
                    moved.source.clone(),
                    target.map_or(String::new(), |attempt| attempt.target.clone()),
                    moved.predicted.as_ref().map_or("-".to_owned(), times),
                    last.map_or("-".to_owned(), times),
                    moved.attempts.len().to_string(),
                ]);
            }
            write!(f, "{}", table.dense())?;
        }
        self.troubles(f)?;
        if !self.impossible.is_empty() {
            writeln!(f, "Not done:")?;
        }
        for left in &self.impossible {
            let guest = left.guest.as_ref();
            let guest = guest.map_or(String::new(), |guest| format!("{guest}: "));
            let message = harmless(&left.message);
            writeln!(
                f,
                "  {} {}: {guest}{}: {message}",
                left.kind, left.name, left.reason
            )?;
        }
        self.ending(f)
    }
}

impl Simulation {
    /// What broke, and what failed of it.
    fn troubles(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.faults.is_empty() {
            writeln!(f, "Faults:")?;
        }
        for fault in &self.faults {
            writeln!(f, "  +{}: {}", seconds(fault.at_seconds), fault.message)?;
        }
        let failed = self.moves.iter().flat_map(|moved| {
            let failed = moved.attempts.iter().enumerate();
            failed.filter_map(move |(index, attempt)| {
                Some((moved, index, attempt, attempt.reason.as_ref()?))
            })
        });
        for (number, (moved, index, attempt, reason)) in failed.enumerate() {
            if number == 0 {
                writeln!(f, "Failed on the way:")?;
            }
            let message = attempt.message.as_deref().unwrap_or_default();
            let next = match moved.attempts.get(index + 1) {
                Some(next) => format!(
                    "tried again at +{} to {}",
                    seconds(next.start_seconds),
                    next.target
                ),
                None => "not tried again".to_owned(),
            };
            writeln!(
                f,
                "  +{}: {} to {}: {reason}: {}; {next}",
                seconds(attempt.end_seconds.unwrap_or(attempt.start_seconds)),
                moved.guest,
                attempt.target,
                harmless(message)
            )?;
        }
        Ok(())
    }

    /// All of it in a line.
    pub fn totals(&self) -> String {
        let moves = self.simulated.moves;
        let plural = if moves == 1 { "" } else { "s" };
        let time = |time: Option<f64>| time.map_or("an unknown time".to_owned(), seconds);
        if self.predicted.moves == 0 && moves == 0 {
            "Nothing moves.".to_owned()
        } else {
            format!(
                "{}: {moves} move{plural} in {}, predicted {} in {}; {} failed on the way; seed {}",
                self.result,
                time(self.simulated.makespan_seconds),
                self.predicted.moves,
                time(self.predicted.makespan_seconds),
                self.simulated.failures,
                self.seed
            )
        }
    }

    fn ending(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.totals())?;
        if !self.as_planned {
            writeln!(
                f,
                "The simulated fleet is planned otherwise than the real one: something that matters is not simulated"
            )?;
        }
        let assumed = &self.assumed;
        if !assumed.hosts.is_empty() {
            writeln!(
                f,
                "Assumed: {} a second for the links of {} that name no bandwidth",
                Bytes(assumed.bandwidth).human(),
                match assumed.hosts.as_slice() {
                    [one] => one.clone(),
                    hosts => format!("{} hosts", hosts.len()),
                }
            )?;
        }
        if assumed.guests > 0 {
            let rate = match assumed.dirty_rate {
                0 => "nothing".to_owned(),
                rate => format!("{} a second", Bytes(rate).human()),
            };
            writeln!(
                f,
                "Assumed: guests that were not measured dirty {rate} ({} of them)",
                assumed.guests
            )?;
        }
        let short = self.digest.get(..19).unwrap_or(&self.digest);
        writeln!(f, "Input {short}")
    }
}

fn seconds(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    human(Duration::from_secs(time.as_secs_f64().round() as u64))
}

fn times(attempt: &Attempt) -> String {
    let end = attempt.end_seconds.map_or("?".to_owned(), seconds);
    format!("+{}..+{end}", seconds(attempt.start_seconds))
}
