//! How far a copy is: bytes, rate and time left, never going backwards.

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use tokio::time::Instant;

use crate::port::JobFacts;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Bytes copied, disks and memory.
    pub(crate) done: Bytes,
    /// Bytes left as of now.
    pub(crate) left: Bytes,
    /// Both together.
    pub(crate) total: Bytes,
    /// Bytes per second, smoothed.
    pub(crate) rate: Option<Bytes>,
    /// At this rate.
    pub(crate) eta: Option<Duration>,
    /// Percent by which the guest is slowed down.
    pub(crate) throttle: u8,
    /// 0 to 99; only a proven move is at 100.
    pub(crate) percent: u8,
}

/// Follows a job.
#[derive(Debug)]
pub(crate) struct Meter {
    memory: Bytes,
    /// What came before the job.
    carried: Bytes,
    best: u8,
    last: Option<(Instant, u64)>,
    rate: Option<f64>,
    /// When anything last moved on, and what it was then.
    moved: (Instant, (u64, u64, u64)),
}

/// Weight of the newest sample in the rate.
const ALPHA: f64 = 0.4;

impl Meter {
    /// For a guest with that much memory, which libvirt does not count before the disks are done, and files of that many
    /// bytes that were brought over before.
    pub(crate) fn new(memory: Bytes, carried: Bytes) -> Self {
        Self {
            memory,
            carried,
            best: 0,
            last: None,
            rate: None,
            moved: (Instant::now(), (0, 0, 0)),
        }
    }

    /// Takes a sample.
    pub(crate) fn sample(&mut self, job: &JobFacts) -> Progress {
        let now = Instant::now();
        let memory_left = if job.memory_total.0 == 0 {
            self.memory.0
        } else {
            job.memory_left.0
        };
        let done = self.carried.0 + job.disk_done.0 + job.memory_done.0;
        let left = job.disk_left.0 + memory_left;
        let total = done + left;
        if let Some((then, before)) = self.last {
            let seconds = now.duration_since(then).as_secs_f64();
            if seconds > 0.05 {
                let sample = done.saturating_sub(before) as f64 / seconds;
                self.rate = Some(
                    self.rate
                        .map_or(sample, |rate| ALPHA.mul_add(sample - rate, rate)),
                );
                self.last = Some((now, done));
            }
        } else {
            self.last = Some((now, done));
        }
        let at = (job.disk_done.0, job.memory_done.0, job.iteration);
        if at != self.moved.1 {
            self.moved = (now, at);
        }
        let percent = (done * 100).checked_div(total).unwrap_or(0).min(99) as u8;
        self.best = self.best.max(percent);
        let rate = self.rate.filter(|rate| *rate >= 1.0);
        Progress {
            done: Bytes(done),
            left: Bytes(left),
            total: Bytes(total),
            rate: rate.map(|rate| Bytes(rate as u64)),
            eta: rate.map(|rate| Duration::from_secs((left as f64 / rate).ceil().min(1e9) as u64)),
            throttle: job.throttle,
            percent: self.best,
        }
    }

    /// How long nothing has moved.
    pub(crate) fn still_for(&self) -> Duration {
        self.moved.0.elapsed()
    }
}
