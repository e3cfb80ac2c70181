//! How far a status differs from the one on the object, and so how soon it is to be written.
//!
//! What people act on is written at once; progress, figures and times follow at a pace that lets an idle fleet
//! cost the API server nearly nothing.

use std::{str::FromStr, time::Duration};

use evenkeel_crds::{HostStatus, quantity::Cpus};
use serde_json::Value;

use crate::kinds::{Kind, Object, Wanted};

/// How much later than the last write of the object a difference may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// None.
    None,
    /// Only figures: not before this long after the last write.
    Figures(Duration),
    /// Something people act on.
    Matters,
}

/// The pace of progress.
const PROGRESS: Duration = Duration::from_secs(1);
/// The pace of a guest's share in its move's progress, which the move itself tells better.
const SECONDHAND: Duration = Duration::from_secs(5);
/// The pace of figures and times of observation.
const FIGURES: Duration = Duration::from_secs(60);
/// Load that moved this many percent points counts as progress.
const LOAD_POINTS: u64 = 5;

/// Fields and the pace at which changes in them alone are written, slowest first. `*` stands for every entry.
fn paces(kind: Kind) -> &'static [(Duration, &'static [&'static str])] {
    const CONDITIONS: &str = "conditions/*/message";
    match kind {
        Kind::Host => &[
            (
                FIGURES,
                &[
                    "observedTime",
                    "capacity/cpu/usedNow",
                    "capacity/cpu/summary",
                    "capacity/memory/usedNow",
                    "capacity/memory/summary",
                    "capacity/pools/*/usedNow",
                    "capacity/pools/*/allocatable",
                ],
            ),
            (PROGRESS, &[CONDITIONS]),
        ],
        Kind::Guest => &[
            (
                FIGURES,
                &["updatedTime", "disks/*/allocated", "files/*/allocated"],
            ),
            (SECONDHAND, &["move/progress"]),
            (PROGRESS, &[CONDITIONS]),
        ],
        Kind::Migration => &[(
            PROGRESS,
            &["progress", "bytes", "rate", "eta", "throttle", CONDITIONS],
        )],
        Kind::Placement => &[(PROGRESS, &[CONDITIONS, "violations/*/message"])],
        Kind::Policy => &[
            (FIGURES, &["imbalance", "skipped", "skippedTotal"]),
            (PROGRESS, &[CONDITIONS, "plan/moves/*/waits"]),
        ],
        Kind::Profile => &[(PROGRESS, &["guests"])],
        Kind::Fleet => &[(PROGRESS, &["moving"])],
        Kind::Drain => &[
            (FIGURES, &["hosts/*/observedTime"]),
            (PROGRESS, &["progress", "eta", CONDITIONS]),
        ],
    }
}

/// What the object is known to hold.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    /// What the API server showed.
    Shown(Object),
    /// What we wrote since.
    Written(Wanted),
}

impl Held {
    fn status(&self) -> Value {
        match self {
            Self::Shown(object) => object.status(),
            Self::Written(wanted) => wanted.status(),
        }
    }

    fn host(&self) -> Option<&HostStatus> {
        match self {
            Self::Shown(Object::Host(host)) => host.status.as_ref(),
            Self::Written(Wanted::Host(status)) => Some(status),
            _ => None,
        }
    }
}

/// How `wanted` differs from what the object holds.
pub(crate) fn difference(kind: Kind, held: &Held, wanted: &Wanted) -> Difference {
    if let Held::Written(written) = held
        && written.same(wanted)
    {
        return Difference::None;
    }
    // As text that travels: times there are whole seconds, and what we did not read does not count.
    let (mut before, mut after) = (held.status(), wanted.status());
    if before == after {
        return Difference::None;
    }
    match (
        pace_without(paces(kind), &mut before, &mut after),
        held.host(),
        wanted,
    ) {
        (Difference::Figures(pace), Some(before), Wanted::Host(after))
            if pace > PROGRESS && load_moved(before, after) =>
        {
            Difference::Figures(PROGRESS)
        }
        (difference, ..) => difference,
    }
}

/// Takes the fields off, slowest first, until nothing differs any more.
fn pace_without(
    paces: &[(Duration, &[&str])],
    before: &mut Value,
    after: &mut Value,
) -> Difference {
    for (pace, fields) in paces {
        for field in *fields {
            without(before, field);
            without(after, field);
        }
        if before == after {
            return Difference::Figures(*pace);
        }
    }
    Difference::Matters
}

/// Removes a field by its path.
fn without(value: &mut Value, path: &str) {
    let (first, rest) = path
        .split_once('/')
        .map_or((path, None), |(a, b)| (a, Some(b)));
    match (value, rest) {
        (Value::Object(fields), None) => drop(fields.remove(first)),
        (Value::Object(fields), Some(rest)) => {
            if let Some(inner) = fields.get_mut(first) {
                without(inner, rest);
            }
        }
        (Value::Array(entries), Some(rest)) if first == "*" => {
            for entry in entries {
                without(entry, rest);
            }
        }
        _ => {}
    }
}

/// Whether a host's load changed by enough to be worth telling soon.
fn load_moved(before: &HostStatus, after: &HostStatus) -> bool {
    let (Some(before), Some(after)) = (&before.capacity, &after.capacity) else {
        return false;
    };
    let moved = |before: u64, after: u64, total: u64| {
        u128::from(before.abs_diff(after)) * 100 >= u128::from(total) * u128::from(LOAD_POINTS)
            && before != after
    };
    let milli = |text: &str| Cpus::from_str(text).ok().map(|cpus| cpus.milli);
    let now = |text: &Option<String>| text.as_deref().and_then(milli);
    let cpu = match (
        now(&before.cpu.used_now),
        now(&after.cpu.used_now),
        milli(&after.cpu.total),
    ) {
        (Some(before), Some(after), Some(total)) => moved(before, after, total),
        (before, after, _) => before.is_some() != after.is_some(),
    };
    let memory = moved(
        before.memory.used_now.0,
        after.memory.used_now.0,
        after.memory.total.0,
    );
    let pools = || {
        let pairs = before.pools.iter().zip(&after.pools);
        pairs.filter(|(a, b)| a.name == b.name).any(|(a, b)| {
            moved(a.used_now.0, b.used_now.0, b.total.0)
                || moved(a.allocatable.0, b.allocatable.0, b.total.0)
        })
    };
    cpu || memory || pools()
}
