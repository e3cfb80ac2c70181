//! What goes wrong in a simulation: drawn from a seed before it begins, so that the same seed tells the same story.

use std::time::Duration;

use evenkeel_hypervisor::sim::Fleet;
use serde::Serialize;

use super::world::CLIENT;
use crate::table::human;

/// A fault: what breaks, when, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// When it begins, from the start.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What.
    pub what: What,
}

/// What breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum What {
    /// A libvirtd dies; its guests run on.
    LibvirtdDies {
        /// On this host.
        host: String,
    },
    /// A libvirtd does not answer.
    LibvirtdHangs {
        /// On this host.
        host: String,
    },
    /// Nothing passes between two hosts.
    LinkCut {
        /// One.
        from: String,
        /// The other.
        to: String,
    },
    /// We don't reach a host.
    HostSilent {
        /// This one.
        host: String,
    },
}

impl Trouble {
    /// In words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let time = human(self.lasts);
        match &self.what {
            What::LibvirtdDies { host } => {
                format!("libvirtd on {host} dies and is back after {time}")
            }
            What::LibvirtdHangs { host } => format!("libvirtd on {host} hangs for {time}"),
            What::LinkCut { from, to } => {
                format!("the link between {from} and {to} is cut for {time}")
            }
            What::HostSilent { host } => format!("{host} can't be reached from here for {time}"),
        }
    }

    /// Breaks it.
    pub fn begin(&self, fleet: &Fleet) {
        match &self.what {
            What::LibvirtdDies { host } => fleet.kill_libvirtd(host),
            What::LibvirtdHangs { host } => fleet.hang_libvirtd(host, true),
            What::LinkCut { from, to } => fleet.cut(from, to, true),
            What::HostSilent { host } => fleet.cut_client(CLIENT, host, true),
        }
    }

    /// Mends it.
    pub fn end(&self, fleet: &Fleet) {
        match &self.what {
            What::LibvirtdDies { host } => fleet.start_libvirtd(host),
            What::LibvirtdHangs { host } => fleet.hang_libvirtd(host, false),
            What::LinkCut { from, to } => fleet.cut(from, to, false),
            What::HostSilent { host } => fleet.cut_client(CLIENT, host, false),
        }
    }
}

/// So many faults within that time on those hosts, in their order. Two of them never overlap on one thing: what one
/// mends, another has not broken.
#[must_use]
pub fn draw(count: usize, within: Duration, hosts: &[String], seed: u64) -> Vec<Trouble> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut all: Vec<Trouble> = Vec::new();
    let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
    if hosts.is_empty() {
        return all;
    }
    // A small fleet has no room for any number of them.
    for _ in 0..count.saturating_mul(20) {
        if all.len() == count {
            break;
        }
        let host = hosts[dice.usize(..hosts.len())].clone();
        let what = match dice.u8(..if hosts.len() > 1 { 4 } else { 3 }) {
            0 => What::LibvirtdDies { host },
            1 => What::LibvirtdHangs { host },
            2 => What::HostSilent { host },
            _ => {
                let others: Vec<&String> = hosts.iter().filter(|other| **other != host).collect();
                let other = others[dice.usize(..others.len())].clone();
                let (from, to) = if host < other {
                    (host, other)
                } else {
                    (other, host)
                };
                What::LinkCut { from, to }
            }
        };
        let trouble = Trouble {
            at: Duration::from_millis(dice.u64(..millis)),
            lasts: Duration::from_secs(dice.u64(2..=60)),
            what,
        };
        let meets = |other: &Trouble| {
            other.what == trouble.what
                && other.at < trouble.at + trouble.lasts
                && trouble.at < other.at + other.lasts
        };
        if !all.iter().any(meets) {
            all.push(trouble);
        }
    }
    all.sort_by_key(|trouble| trouble.at);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let hosts = ["h1", "h2", "h3"].map(str::to_owned);
        let minute = Duration::from_secs(60);
        let drawn = draw(5, minute, &hosts, 7);
        assert_eq!(drawn.len(), 5);
        assert_eq!(drawn, draw(5, minute, &hosts, 7));
        assert_ne!(drawn, draw(5, minute, &hosts, 8));
        assert!(drawn.is_sorted_by_key(|trouble| trouble.at));
        assert!(drawn.iter().all(|trouble| trouble.at < minute));
    }

    #[test]
    fn without_hosts_nothing_breaks() {
        assert_eq!(draw(3, Duration::ZERO, &[], 1), []);
        let one = draw(1000, Duration::ZERO, &["h1".to_owned()], 1);
        assert_eq!(one.len(), 3);
    }
}
