//! What happens in a round: the wish, the fault, where it strikes, at which moment of the move, and for how long.

use std::{fmt, time::Duration};

use anyhow::Result;
use evenkeel_tests::lab::{Events, Lab};
use fastrand::Rng;

use crate::{fault::Fault, wish::Wish};

/// A round.
pub(crate) struct Plan {
    pub(crate) wish: Wish,
    pub(crate) fault: Fault,
    pub(crate) aim: Aim,
    /// The host that is struck.
    pub(crate) struck: String,
    pub(crate) lasts: Duration,
}

impl Plan {
    /// Anything at any time.
    pub(crate) fn random(
        lab: &Lab,
        round: usize,
        faults: &[Fault],
        random: &mut Rng,
    ) -> Result<Self> {
        let fault = faults[random.usize(..faults.len())];
        let wish = Wish::random(lab, round, random)?;
        let aim = Aim::random(&wish, random);
        let struck = match &wish.to {
            Some(to) if random.bool() => to,
            _ => &wish.from,
        };
        Ok(Self {
            struck: struck.clone(),
            fault,
            aim,
            lasts: lasts(fault, random),
            wish,
        })
    }

    /// A cell of the table of all faults, at each end, at every moment of a move.
    pub(crate) fn of(lab: &Lab, round: usize, cell: Cell, random: &mut Rng) -> Result<Self> {
        let wish = Wish::one(lab, round, random)?;
        let struck = match (&wish.to, cell.end) {
            (Some(to), End::Target) => to,
            _ => &wish.from,
        };
        Ok(Self {
            struck: struck.clone(),
            fault: cell.fault,
            aim: Aim {
                moment: cell.moment,
                late: cell.moment.lateness(random),
            },
            lasts: LASTS,
            wish,
        })
    }
}

/// How long a fault lasts. One of five that can lasts longer than libvirt waits for a peer that says nothing (about 30 s).
fn lasts(fault: Fault, random: &mut Rng) -> Duration {
    let long = fault.may_outlast_libvirt() && random.u8(..5) == 0;
    Duration::from_millis(random.u64(if long { 26_000..75_000 } else { 200..12_000 }))
}

/// How long a fault of the table lasts: longer than a hypervisor needs to give up a peer that died, shorter than it needs for
/// one that is silent.
const LASTS: Duration = Duration::from_secs(6);

/// One of all combinations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) fault: Fault,
    pub(crate) end: End,
    pub(crate) moment: Moment,
}

/// An end of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Target,
}

impl Cell {
    /// All combinations of these faults. What strikes no host strikes once.
    pub(crate) fn all(faults: &[Fault]) -> Vec<Self> {
        let mut cells = Vec::new();
        for &fault in faults.iter().filter(|fault| **fault != Fault::Nothing) {
            for end in [End::Source, End::Target] {
                if end == End::Target && !fault.strikes_a_host() {
                    continue;
                }
                for moment in Moment::ALL {
                    cells.push(Self { fault, end, moment });
                }
            }
        }
        cells
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.end {
            _ if !self.fault.strikes_a_host() => "-",
            End::Source => "source",
            End::Target => "target",
        };
        write!(f, "{:?} | {end} | {}", self.fault, self.moment)
    }
}

/// A moment of a move, by what a host tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It was asked for.
    Start,
    /// The target has a QEMU for it: disks are copied.
    Disks,
    /// An iteration over memory has begun.
    Memory,
    /// The source paused for the switch.
    Switch,
    /// The guest runs at the target.
    Arrival,
    /// The source's QEMU is going.
    End,
}

impl Moment {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Disks,
        Self::Memory,
        Self::Switch,
        Self::Arrival,
        Self::End,
    ];

    /// How long after it the fault comes.
    fn lateness(self, random: &mut Rng) -> Duration {
        Duration::from_micros(match self {
            Self::Start => random.u64(..1_500_000),
            Self::Disks => random.u64(..1_500_000),
            Self::Memory => random.u64(..400_000),
            Self::Switch | Self::Arrival => random.u64(..60_000),
            Self::End => random.u64(100_000..1_200_000),
        })
    }

    /// What the target tells, or the source.
    fn told(self) -> Option<(End, &'static str)> {
        match self {
            Self::Start => None,
            Self::Disks => Some((End::Target, "Started Migrated")),
            Self::Memory => Some((End::Source, "iteration: ")),
            Self::Switch => Some((End::Source, "Suspended Migrated")),
            Self::Arrival | Self::End => Some((End::Target, "Resumed ")),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Disks => "disks",
            Self::Memory => "memory",
            Self::Switch => "switch",
            Self::Arrival => "arrival",
            Self::End => "end",
        })
    }
}

/// When the fault comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim {
    moment: Moment,
    late: Duration,
}

/// How long a moment that is aimed at is waited for: it need not come.
const COMES: Duration = Duration::from_secs(20);

impl Aim {
    fn random(wish: &Wish, random: &mut Rng) -> Self {
        let moment = match random.u8(..12) {
            0..3 => Moment::Switch,
            3..6 if wish.to.is_some() => Moment::Arrival,
            6 => Moment::Memory,
            7 if wish.to.is_some() => Moment::End,
            // A move takes a few seconds here; most faults shall fall into it.
            _ => {
                let late = Duration::from_millis(random.u64(..7000));
                let moment = Moment::Start;
                return Self { moment, late };
            }
        };
        let late = moment.lateness(random);
        Self { moment, late }
    }

    /// Begins to listen, where that is needed.
    pub(crate) fn listen(self, lab: &Lab, wish: &Wish) -> Result<Option<Events>> {
        let host = match (self.moment.told(), &wish.to) {
            (None, _) => return Ok(None),
            (Some((End::Target, _)), Some(to)) => to,
            _ => &wish.from,
        };
        lab.host(host)?.events().map(Some)
    }

    /// Waits for the moment.
    pub(crate) fn wait(self, wish: &Wish, events: Option<&Events>) {
        if let (Some(events), Some((_, told))) = (events, self.moment.told()) {
            events.wait_for(&wish.guest, told, COMES);
        }
        std::thread::sleep(self.late);
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}+{}ms", self.moment, self.late.as_millis()))
    }
}
