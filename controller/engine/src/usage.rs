//! What guests use, over a window of time. A burst of up to half a window does not pass for load, wherever it lies: what
//! counts is the least of what the window's quarters show.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use evenkeel_crds::names::HostName;
use evenkeel_planner::Load;
use tokio::time::Instant;
use uuid::Uuid;

use crate::port::Usage;

/// Samples that are kept of a guest, evenly over the longest window that anybody asks for.
const SAMPLES: u32 = 64;
const QUARTERS: u32 = 4;
/// A guest that was seen for less than this counts by what it was promised.
const LEAST: Duration = Duration::from_secs(60);

/// What was measured of guests, wherever they were meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// Since when each host's guests are measured.
    hosts: BTreeMap<HostName, Instant>,
    guests: BTreeMap<Uuid, Track>,
    /// When guests that are no more were last forgotten.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Track {
    host: HostName,
    /// CPU time of the processes that ran it before the present one.
    past: Duration,
    last: Usage,
    at: Instant,
    /// When, and all CPU time that it had taken by then. The last one is of `at`.
    samples: VecDeque<(Instant, Duration)>,
}

impl Uses {
    /// Takes in what a host says of the guests that run there; `longest` is the longest window that is asked for.
    pub(crate) fn note(
        &mut self,
        host: &HostName,
        guests: BTreeMap<Uuid, Usage>,
        longest: Duration,
        now: Instant,
    ) {
        self.hosts.entry(host.clone()).or_insert(now);
        for (guest, usage) in guests {
            match self.guests.get_mut(&guest) {
                Some(track) => track.note(host, usage, longest, now),
                None => {
                    let track = Track {
                        host: host.clone(),
                        past: Duration::ZERO,
                        last: usage,
                        at: now,
                        samples: [(now, usage.cpu_time)].into(),
                    };
                    self.guests.insert(guest, track);
                }
            }
        }
        // Not for each host anew: it looks at every guest there is.
        if self.swept.is_none_or(|at| now.duration_since(at) >= LEAST) {
            self.swept = Some(now);
            self.guests
                .retain(|_, track| now.duration_since(track.at) <= longest);
        }
    }

    /// Forgets hosts that are no more.
    pub(crate) fn retain(&mut self, known: impl Fn(&HostName) -> bool) {
        self.hosts.retain(|host, _| known(host));
    }

    /// How long the guests of that host have been measured.
    pub(crate) fn measured(&self, host: &HostName, now: Instant) -> Duration {
        let since = self.hosts.get(host);
        since.map_or(Duration::ZERO, |since| now.duration_since(*since))
    }

    /// What a guest uses on the average; nothing where it was not seen for long enough to tell.
    pub(crate) fn load(&self, guest: Uuid, window: Duration, now: Instant) -> Option<Load> {
        let track = self.guests.get(&guest)?;
        if now.duration_since(track.at) > window {
            return None;
        }
        let (first, _) = *track.samples.front()?;
        let begin = track
            .at
            .checked_sub(window)
            .map_or(first, |at| at.max(first));
        let seen = track.at.duration_since(begin);
        if seen < LEAST.min(window / 2) {
            return None;
        }
        let quarter = |number: u32| {
            let from = begin + seen * number / QUARTERS;
            track.milli(from, from + seen / QUARTERS)
        };
        Some(Load {
            cpu_milli: (0..QUARTERS).map(quarter).min()?,
            memory: track.last.memory,
        })
    }
}

impl Track {
    fn note(&mut self, host: &HostName, usage: Usage, longest: Duration, now: Instant) {
        // Another process: it was moved, or started anew.
        if self.host != *host || usage.cpu_time < self.last.cpu_time {
            self.past += self.last.cpu_time;
            self.host = host.clone();
        }
        (self.last, self.at) = (usage, now);
        let all = self.past + usage.cpu_time;
        // The last but one is kept where it lies far enough behind the one before.
        let kept = self.samples.len();
        let close = kept >= 2
            && self.samples[kept - 1]
                .0
                .duration_since(self.samples[kept - 2].0)
                < longest / SAMPLES;
        if close {
            self.samples.pop_back();
        }
        self.samples.push_back((now, all));
        // One from before the window tells how it began.
        while self
            .samples
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= longest)
        {
            self.samples.pop_front();
        }
    }

    /// All CPU time by then: between samples it is taken to be spent evenly.
    fn by(&self, time: Instant) -> Duration {
        let next = self.samples.partition_point(|(at, _)| *at < time);
        match (
            next.checked_sub(1).map(|last| self.samples[last]),
            self.samples.get(next).copied(),
        ) {
            (Some((from, before)), Some((to, after))) => {
                let part = time.duration_since(from).as_secs_f64();
                let whole = to.duration_since(from).as_secs_f64();
                before + (after - before).mul_f64(if whole > 0.0 { part / whole } else { 0.0 })
            }
            (Some((_, all)), None) | (None, Some((_, all))) => all,
            (None, None) => Duration::ZERO,
        }
    }

    /// Thousandths of a CPU between two times.
    fn milli(&self, from: Instant, to: Instant) -> u64 {
        let spent = self.by(to).saturating_sub(self.by(from)).as_nanos();
        let lasted = to.duration_since(from).as_nanos().max(1);
        u64::try_from(spent * 1000 / lasted).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use evenkeel_crds::quantity::Bytes;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);
    const EVERY: Duration = Duration::from_secs(10);

    /// A guest measured every ten seconds; `busy` says how many thousandths of a CPU it took in each.
    struct Guest {
        uses: Uses,
        now: Instant,
        host: HostName,
        taken: Duration,
    }

    impl Guest {
        fn new() -> Self {
            Self {
                uses: Uses::default(),
                now: Instant::now(),
                host: "h1".into(),
                taken: Duration::ZERO,
            }
        }

        fn goes_on(&mut self, times: usize, busy: u64) {
            for _ in 0..times {
                self.now += EVERY;
                self.taken += EVERY.mul_f64(busy as f64 / 1000.0);
                let usage = Usage {
                    cpu_time: self.taken,
                    memory: Bytes(7),
                };
                let all = [(Uuid::nil(), usage)].into();
                self.uses.note(&self.host, all, WINDOW, self.now);
            }
        }

        fn load(&self) -> Option<u64> {
            let load = self.uses.load(Uuid::nil(), WINDOW, self.now);
            load.map(|load| load.cpu_milli)
        }
    }

    #[test]
    fn what_is_steady_is_what_it_is() {
        let mut guest = Guest::new();
        guest.goes_on(6, 700);
        assert_eq!(guest.load(), None, "it was seen for 50 s only");
        guest.goes_on(1, 700);
        assert_eq!(guest.load(), Some(700));
        guest.goes_on(100, 700);
        assert_eq!(guest.load(), Some(700));
    }

    #[test]
    fn a_burst_is_no_load() {
        let mut guest = Guest::new();
        guest.goes_on(60, 100);
        for busy in [2000; 15].into_iter().chain([100; 40]) {
            guest.goes_on(1, busy);
            assert_eq!(guest.load(), Some(100));
        }
    }

    #[test]
    fn what_stays_is_load() {
        let mut guest = Guest::new();
        guest.goes_on(60, 100);
        guest.goes_on(30, 2000);
        assert_eq!(guest.load(), Some(2000));
    }

    #[test]
    fn it_is_the_same_guest_after_a_move() {
        let mut guest = Guest::new();
        guest.goes_on(40, 500);
        guest.host = "h2".into();
        guest.taken = Duration::ZERO;
        guest.goes_on(5, 500);
        assert_eq!(guest.load(), Some(500));
    }

    #[test]
    fn many_samples_are_thinned() {
        let mut uses = Uses::default();
        let (mut now, mut usage) = (Instant::now(), Usage::default());
        for _ in 0..10_000 {
            now += Duration::from_secs(1);
            usage.cpu_time += Duration::from_millis(250);
            uses.note(&"h1".into(), [(Uuid::nil(), usage)].into(), WINDOW, now);
        }
        let track = &uses.guests[&Uuid::nil()];
        assert!(track.samples.len() <= SAMPLES as usize + 2);
        assert_eq!(uses.load(Uuid::nil(), WINDOW, now).unwrap().cpu_milli, 250);
        uses.note(&"h1".into(), BTreeMap::new(), WINDOW, now + WINDOW * 2);
        assert!(uses.guests.is_empty(), "one that is gone is forgotten");
    }
}
