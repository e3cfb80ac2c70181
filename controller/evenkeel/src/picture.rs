//! A plan, or a simulation, as a picture: how full hosts are before and after, and what moves when.
//!
//! One SVG without script: names are escaped, everything has a title for those who point at it or hear it, colours are
//! told apart by all (Okabe and Ito's) and follow a dark or light surrounding, and nothing is told by colour alone.

mod hosts;
mod schedule;
mod svg;

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;

use crate::{output, plan::Standing};
use svg::Svg;

/// How wide a picture is.
const WIDTH: f64 = 960.0;
/// Space at its edges.
const MARGIN: f64 = 16.0;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Picture {
    /// What it shows, in a line.
    pub title: String,
    /// The same in a few sentences, for those who don't see it.
    pub summary: String,
    /// Hosts.
    pub hosts: Vec<Standing>,
    /// What moves.
    pub bars: Vec<Bar>,
    /// What breaks: from, to, and what.
    pub faults: Vec<(Duration, Duration, String)>,
}

/// A move on the time line.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Its guest.
    pub guest: String,
    /// From.
    pub source: String,
    /// To.
    pub target: String,
    /// From the start of all.
    pub start: Duration,
    /// Absent: not known.
    pub end: Option<Duration>,
    /// When its disks are copied and its memory begins to travel, where both do and that is known.
    pub memory: Option<Duration>,
    /// Which it is.
    pub sort: Sort,
}

/// Which sort of move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sort {
    /// It will be so.
    Planned,
    /// It was so.
    Done,
    /// It failed, for this reason.
    Failed(String),
}

impl Picture {
    /// As SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut svg = Svg::default();
        let mut y = MARGIN + 18.0;
        svg.text(MARGIN, y, "h", &self.title);
        y += 18.0;
        let room = WIDTH - 2.0 * MARGIN;
        svg.text(MARGIN, y, "q", &svg::fit(&self.summary, 11.0, room));
        y += 10.0;
        y = hosts::draw(&mut svg, &self.hosts, y);
        y = schedule::draw(&mut svg, &self.bars, &self.faults, y + 20.0);
        svg.finish(WIDTH, y + MARGIN, &self.title, &self.summary)
    }

    /// Whether that file is standard output.
    #[must_use]
    pub fn is_output(file: &Path) -> bool {
        file.as_os_str() == "-"
    }

    /// Writes it to a file, or to standard output where that is `-`.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        if Self::is_output(file) {
            return output::print(self.svg());
        }
        fs::write(file, self.svg()).with_context(|| format!("can't write {}", file.display()))
    }
}

#[cfg(test)]
mod tests;
