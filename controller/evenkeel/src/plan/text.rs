//! A plan as people read it: what can't be done first, then what is done, in waves, and what it leads to.

use std::{fmt, time::Duration};

use evenkeel_crds::quantity::Bytes;

use super::{HostLoad, Impossible, Level, Load, Move, Placed, Plan, Reasoned, UnderWay, Verdict};
use crate::{
    output::harmless,
    table::{Table, bytes, human},
};

/// So many lines of one list are shown.
const FEW: usize = 10;

/// So much of a digest tells plans apart.
const DIGEST: usize = "sha256:".len() + 12;

/// A plan in words.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    plan: &'a Plan,
    wide: bool,
}

impl Plan {
    /// In words; where `wide`, more of them, and nothing left out.
    #[must_use]
    pub fn text(&self, wide: bool) -> Text<'_> {
        Text { plan: self, wide }
    }

    /// All of it in a line.
    #[must_use]
    pub fn totals(&self) -> String {
        let totals = &self.totals;
        let time = match totals.makespan_seconds {
            Some(time) => format!(", about {}", human(span(time))),
            None => "; how long is not known without the bandwidth of the hosts' links".to_owned(),
        };
        format!(
            "{} in {}, {}{time}",
            counted(totals.moves, "move"),
            counted(totals.waves, "wave"),
            Bytes(totals.bytes).human()
        )
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text(false).fmt(f)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.plan;
        for host in &plan.unreachable {
            let message = harmless(&host.message);
            writeln!(
                f,
                "Host {} was not seen: {}: {message}",
                host.host, host.reason
            )?;
        }
        for claim in &plan.claimed {
            writeln!(f, "{}: {}", claim.reason, harmless(&claim.message))?;
            hint(f, &claim.hint)?;
        }
        if !plan.impossible.is_empty() {
            writeln!(f, "Can't be done:")?;
        }
        for impossible in &plan.impossible {
            write_impossible(f, impossible)?;
        }
        for verdict in &plan.verdicts {
            let Verdict { kind, name, .. } = verdict;
            let proven = if verdict.proven {
                "proven"
            } else {
                "not proven"
            };
            let message = harmless(&verdict.cause.message);
            writeln!(f, "  {kind} {name}: {proven}: {message}")?;
            hint(f, &verdict.cause.hint)?;
        }
        if let Some(unfinished) = &plan.unfinished {
            let message = harmless(&unfinished.message);
            writeln!(f, "{}: {message}", unfinished.reason)?;
            hint(f, &unfinished.hint)?;
        }
        if !plan.satisfied.is_empty() {
            writeln!(f, "As it should be:")?;
            for wish in &plan.satisfied {
                let message = harmless(&wish.message);
                writeln!(
                    f,
                    "  {} {}: {}: {message}",
                    wish.kind, wish.name, wish.reason
                )?;
            }
        }
        plan.placements
            .iter()
            .try_for_each(|placed| self.placement(f, placed))?;
        plan.balances
            .iter()
            .try_for_each(|level| self.balance(f, level))?;
        for running in &plan.under_way {
            let UnderWay {
                name,
                guest,
                phase,
                progress,
            } = running;
            writeln!(f, "Under way: {name}: {guest} is {phase}, {progress} %")?;
        }
        for waiting in plan.undecided.iter().chain(&plan.shutdowns) {
            let message = harmless(&waiting.message);
            writeln!(f, "{}: {message}", waiting.reason)?;
        }
        if plan.moves.is_empty() {
            let idle = plan.under_way.is_empty() && plan.shutdowns.is_empty();
            match plan.result {
                "NothingToDo" => writeln!(f, "Nothing to do.")?,
                _ if idle => writeln!(f, "Nothing can be moved now.")?,
                _ => {}
            }
        } else {
            self.moves(f)?;
            self.waits(f)?;
            self.hosts(f)?;
            writeln!(f, "{}", plan.totals())?;
        }
        let short = plan.digest.get(..DIGEST).unwrap_or(&plan.digest);
        let digest = if self.wide { &plan.digest } else { short };
        writeln!(f, "Input {digest}")
    }
}

impl Text<'_> {
    /// How many of a list are shown.
    fn shown(&self, all: usize, few: usize) -> usize {
        // One line more is shorter than a line that says that there is one more.
        if self.wide || all <= few + 1 {
            all
        } else {
            few
        }
    }

    fn moves(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moves = &self.plan.moves;
        let by = |planned: &Move| {
            (
                planned.requested_by.kind.clone(),
                planned.requested_by.name.clone(),
            )
        };
        let one = moves.windows(2).all(|pair| by(&pair[0]) == by(&pair[1]));
        if let Some(first) = moves.first().filter(|_| one) {
            let (kind, name) = by(first);
            writeln!(f, "For {kind} {name}:")?;
        }
        let mut table = Table::new([
            "WAVE", "GUEST", "FROM", "TO", "BYTES", "START", "END", "FOR", "WAITS",
        ]);
        let mut wave = 0;
        for planned in moves {
            let number = if planned.wave == wave {
                String::new()
            } else {
                planned.wave.to_string()
            };
            wave = planned.wave;
            let end = planned
                .end_seconds
                .map(|end| format!("+{}", human(span(end))));
            let waits = planned.waits.as_ref().filter(|_| self.wide);
            let requester = match (one, self.wide) {
                (true, _) => String::new(),
                (_, true) => format!(
                    "{}/{}",
                    planned.requested_by.kind, planned.requested_by.name
                ),
                (_, false) => planned.requested_by.name.clone(),
            };
            let start = span(planned.start_seconds);
            table.row([
                number,
                planned.guest.clone(),
                planned.source.clone(),
                planned.target.clone(),
                bytes(Bytes(planned.bytes)),
                if start.is_zero() {
                    "now".to_owned()
                } else {
                    format!("+{}", human(start))
                },
                end.unwrap_or_else(|| "?".to_owned()),
                requester,
                waits.map_or(String::new(), |waits| waits.reason.to_string()),
            ]);
        }
        write!(f, "{}", table.dense())
    }

    /// What waits for what.
    fn waits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting: Vec<(&Move, &Reasoned)> = self
            .plan
            .moves
            .iter()
            .filter_map(|planned| Some((planned, planned.waits.as_ref()?)))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        writeln!(f, "What waits for what:")?;
        let shown = self.shown(waiting.len(), FEW);
        for (planned, waits) in &waiting[..shown] {
            let message = harmless(&waits.message);
            writeln!(f, "  {}: {}: {message}", planned.guest, waits.reason)?;
        }
        more(f, waiting.len() - shown)
    }

    fn hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&HostLoad> = self
            .plan
            .hosts
            .iter()
            .filter(|host| self.wide || host.changes)
            .collect();
        let shown = self.shown(hosts.len(), 2 * FEW);
        let mut table = Table::new(["HOST", "GUESTS", "CPU", "MEMORY", "DISK", ""]);
        for host in &hosts[..shown] {
            let drained = if host.drained { "drained" } else { "" };
            table.row([
                host.name.clone(),
                arrow(
                    host.guests.before.to_string(),
                    host.guests.after.to_string(),
                ),
                percents(&host.cpu_milli),
                percents(&host.memory),
                percents(&host.disk),
                drained.to_owned(),
            ]);
        }
        write!(f, "{}", table.dense())?;
        more(f, hosts.len() - shown)
    }

    fn placement(&self, f: &mut fmt::Formatter<'_>, placed: &Placed) -> fmt::Result {
        writeln!(
            f,
            "GuestPlacement {}: {} of {} are where they belong",
            placed.name,
            placed.satisfied,
            counted(placed.total, "guest")
        )?;
        let shown = self.shown(placed.violations.len(), FEW);
        for violation in &placed.violations[..shown] {
            let message = harmless(&violation.cause.message);
            writeln!(
                f,
                "  {}: {}: {message}",
                violation.guest, violation.cause.reason
            )?;
        }
        more(f, placed.violations.len() - shown)
    }

    fn balance(&self, f: &mut fmt::Formatter<'_>, level: &Level) -> fmt::Result {
        writeln!(
            f,
            "{} {}: the fullest host lies {:.1} points above the mean, {:.1} after this plan",
            level.kind, level.name, level.imbalance.now, level.imbalance.predicted
        )?;
        if let Some(cause) = &level.cause {
            writeln!(f, "  {}: {}", cause.reason, harmless(&cause.message))?;
        }
        if !level.short.is_empty() {
            let domains = level.short.join(", ");
            writeln!(f, "  no headroom: {domains} could not be emptied")?;
        }
        let shown = if self.wide { level.skipped.len() } else { 0 };
        for skipped in &level.skipped[..shown] {
            let message = harmless(&skipped.cause.message);
            writeln!(
                f,
                "  skipped {}: {}: {message}",
                skipped.guest, skipped.cause.reason
            )?;
        }
        match level.skipped.len() - shown {
            0 => Ok(()),
            left => writeln!(f, "  {} skipped; -o wide says why", counted(left, "guest")),
        }
    }
}

/// Seconds as a time; what is not one is none.
fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn more(f: &mut fmt::Formatter<'_>, left: usize) -> fmt::Result {
    match left {
        0 => Ok(()),
        _ => writeln!(f, "  and {left} more; -o wide shows all"),
    }
}

fn arrow(before: String, after: String) -> String {
    if before == after {
        before
    } else {
        format!("{before} -> {after}")
    }
}

fn percents(load: &Load) -> String {
    let percent = |amount: u64| match load.limit {
        0 => "-".to_owned(),
        limit => format!("{:.0}%", amount as f64 * 100.0 / limit as f64),
    };
    arrow(percent(load.before), percent(load.after))
}

fn hint(f: &mut fmt::Formatter<'_>, hint: &str) -> fmt::Result {
    if hint.is_empty() {
        Ok(())
    } else {
        writeln!(f, "    hint: {}", harmless(hint))
    }
}

fn write_impossible(f: &mut fmt::Formatter<'_>, impossible: &Impossible) -> fmt::Result {
    let Impossible {
        kind,
        name,
        guest,
        cause,
        hosts,
        place,
    } = impossible;
    let place = place
        .as_ref()
        .map_or(String::new(), |place| format!("{place}: "));
    let guest = guest
        .as_ref()
        .map_or(String::new(), |guest| format!("{guest}: "));
    let message = harmless(&cause.message);
    writeln!(
        f,
        "  {place}{kind} {name}: {guest}{}: {message}",
        cause.reason
    )?;
    for count in hosts {
        for example in &count.examples {
            let message = harmless(&example.message);
            writeln!(f, "      {}: {}: {message}", example.host, count.reason)?;
        }
        let more = count.count - i64::try_from(count.examples.len()).unwrap_or(0);
        if more > 0 && !count.examples.is_empty() {
            writeln!(f, "      and {more} more: {}", count.reason)?;
        }
    }
    hint(f, &cause.hint)
}
