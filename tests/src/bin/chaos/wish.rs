//! What is wished in a round.

use anyhow::{Result, bail};
use evenkeel_tests::{
    evenkeel::object,
    lab::{Guest, Host, Lab},
};
use fastrand::Rng;

/// What is declared all the time: every third guest moves by `switchover: Guarded`. A long downtime keeps away from
/// what QEMU's software emulation loses in slow migrations (tests/lab/counter.rs).
pub(crate) fn standing(lab: &Lab) -> String {
    let guests = lab.guests().into_iter().filter(is_guarded);
    let guests = guests.map(|guest| object("Guest", guest.name(), "profile: guarded"));
    object("MigrationProfile", "default", "downtime: 1s")
        + &object(
            "MigrationProfile",
            "guarded",
            "switchover: Guarded, downtime: 1s",
        )
        + &guests.collect::<String>()
}

/// Whether a guest may never run twice, whatever happens.
pub(crate) fn is_guarded(guest: &Guest<'_>) -> bool {
    guest.name().ends_with(['3', '6', '9'])
}

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
        let what = random.u8(..8);
        Self::new(lab, round, what, random)
    }

    /// One guest to another host.
    pub(crate) fn one(lab: &Lab, round: usize, random: &mut Rng) -> Result<Self> {
        Self::new(lab, round, u8::MAX, random)
    }

    fn new(lab: &Lab, round: usize, what: u8, random: &mut Rng) -> Result<Self> {
        let mut guests = lab.guests();
        random.shuffle(&mut guests);
        let Some(aimed) = guests.first() else {
            bail!("a lab without guests");
        };
        let guest = aimed.name().to_owned();
        let places = lab.places()?;
        let from = places[&guest].clone();
        let (what, kind, specs, to) = match what {
            0 => {
                let spec = format!("hosts: {{names: [{from}]}}, parallel: 4");
                (format!("drain {from}"), "HostDrain", vec![spec], None)
            }
            1..=6 => {
                let mut specs = Vec::new();
                let mut to = None;
                for guest in &guests {
                    let target = another(lab, &places[guest.name()], random);
                    specs.push(format!("guest: {}, target: {target}", guest.name()));
                    to.get_or_insert(target);
                }
                ("all".to_owned(), "GuestMigration", specs, to)
            }
            _ => {
                let target = another(lab, &from, random);
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

fn another(lab: &Lab, from: &str, random: &mut Rng) -> String {
    let hosts = lab.hosts();
    let others: Vec<&Host<'_>> = hosts.iter().filter(|host| host.name() != from).collect();
    others[random.usize(..others.len())].name().to_owned()
}
