//! Pauses between attempts of a watch: short, since an hour of quiet must not cost half a minute of blindness.

use std::time::Duration;

use kube::runtime::utils::Backoff;

use crate::lease::jitter;

/// From 0.1 s, doubling to one second, give or take a quarter. Without pauses a watch that fails is a hot loop;
/// with the usual 30 s it sees nothing for a minute after the API server is back.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = FIRST * 2u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        Some(jitter(pause.min(LONGEST)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
