//! What is wished in a round, and at which moment of it the fault shall come.

use std::{fmt, time::Duration};

use anyhow::Result;
use evenkeel_tests::lab::{Events, Guest, Host, Lab};
use fastrand::Rng;

/// A wish, and the move of it that the fault is aimed at.
pub(crate) struct Wish {
    /// Its manifest.
    pub(crate) manifest: String,
    /// The kind of its objects, and their names.
    pub(crate) kind: &'static str,
    pub(crate) names: Vec<String>,
    /// What it is, for people.
    pub(crate) what: String,
    /// The guest that is aimed at.
    pub(crate) guest: String,
    pub(crate) from: String,
    /// Where that goes, if the wish says.
    pub(crate) to: Option<String>,
}

impl Wish {
    /// One guest to another host, a host to be emptied, or every guest to another host.
    pub(crate) fn random(lab: &Lab, round: usize, random: &mut Rng) -> Result<Self> {
        let mut guests = lab.guests();
        random.shuffle(&mut guests);
        let Some(aimed) = guests.first() else {
            anyhow::bail!("a lab without guests");
        };
        let guest = aimed.name().to_owned();
        let from = aimed.host()?.name().to_owned();
        let (what, kind, specs, to) = match random.u8(..8) {
            0 | 1 => {
                let spec = format!("hosts: {{names: [{from}]}}, parallel: 2");
                (format!("drain {from}"), "HostDrain", vec![spec], None)
            }
            2 | 3 => {
                let mut specs = Vec::new();
                let mut to = None;
                for guest in &guests {
                    let target = another(lab, guest, random)?;
                    specs.push(format!("guest: {}, target: {target}", guest.name()));
                    to.get_or_insert(target);
                }
                ("all".to_owned(), "GuestMigration", specs, to)
            }
            _ => {
                let target = another(lab, aimed, random)?;
                let spec = format!("guest: {guest}, target: {target}");
                let what = format!("{guest} to {target}");
                (what, "GuestMigration", vec![spec], Some(target))
            }
        };
        let names: Vec<String> = (0..specs.len())
            .map(|number| format!("r{round}-{number}"))
            .collect();
        let objects = names.iter().zip(&specs);
        Ok(Self {
            manifest: objects
                .map(|(name, spec)| object(kind, name, spec))
                .collect(),
            kind,
            names,
            what,
            guest,
            from,
            to,
        })
    }
}

fn another(lab: &Lab, guest: &Guest<'_>, random: &mut Rng) -> Result<String> {
    let from = guest.host()?;
    let hosts = lab.hosts();
    let others: Vec<&Host<'_>> = hosts
        .iter()
        .filter(|host| host.name() != from.name())
        .collect();
    Ok(others[random.usize(..others.len())].name().to_owned())
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: evenkeel.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// When the fault comes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// So long after `apply` was started.
    After(Duration),
    /// So long after the source said that it paused for the switch.
    Switch(Duration),
    /// So long after the target said that the guest runs there.
    Arrival(Duration),
}

/// How long a switch that is aimed at is waited for: it need not come.
const SWITCH: Duration = Duration::from_secs(40);

impl Aim {
    pub(crate) fn random(wish: &Wish, random: &mut Rng) -> Self {
        let moment = Duration::from_micros(random.u64(..60_000));
        match random.u8(..10) {
            0..3 => Self::Switch(moment),
            3..6 if wish.to.is_some() => Self::Arrival(moment),
            // A move takes a few seconds here; most faults shall fall into it.
            _ => Self::After(Duration::from_millis(random.u64(..7000))),
        }
    }

    /// Begins to listen, where that is needed.
    pub(crate) fn listen(self, lab: &Lab, wish: &Wish) -> Result<Option<Events>> {
        let host = match (self, &wish.to) {
            (Self::After(_), _) => return Ok(None),
            (Self::Arrival(_), Some(to)) => to,
            _ => &wish.from,
        };
        lab.host(host)?.events().map(Some)
    }

    /// Waits for the moment.
    pub(crate) fn wait(self, wish: &Wish, events: Option<&Events>) {
        let (what, moment) = match self {
            Self::After(moment) => ("", moment),
            Self::Switch(moment) => ("Suspended Migrated", moment),
            Self::Arrival(moment) => ("Resumed Migrated", moment),
        };
        if let Some(events) = events {
            events.wait_for(&wish.guest, what, SWITCH);
        }
        std::thread::sleep(moment);
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, moment) = match self {
            Self::After(moment) => ("start", moment),
            Self::Switch(moment) => ("switch", moment),
            Self::Arrival(moment) => ("arrival", moment),
        };
        f.pad(&format!("{what}+{}ms", moment.as_millis()))
    }
}
