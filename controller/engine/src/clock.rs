//! Where the time of day and new ids come from. What lasts is measured by tokio's clock everywhere; this one is for
//! times that people read and for names that nobody else may have.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use evenkeel_crds::shared::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

/// The time of day and new ids.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's own.
    #[default]
    System,
    /// A simulation's: the same seed gives the same times and ids.
    Simulated(Arc<Simulation>),
}

/// A time of day that goes with tokio's clock, and ids that follow from a seed.
#[derive(Debug)]
pub struct Simulation {
    began: Instant,
    epoch: Timestamp,
    seed: u64,
    ids: AtomicU64,
}

impl Clock {
    /// A clock that shows `epoch` now and goes with tokio's, and whose ids follow from the seed.
    #[must_use]
    pub fn simulated(epoch: Timestamp, seed: u64) -> Self {
        Self::Simulated(Arc::new(Simulation {
            began: Instant::now(),
            epoch,
            seed,
            ids: AtomicU64::new(0),
        }))
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Simulated(own) => {
                let since = own.began.elapsed();
                own.epoch.checked_add(since).unwrap_or(own.epoch)
            }
        }
    }

    /// A new id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        match self {
            Self::System => Uuid::new_v4(),
            Self::Simulated(own) => {
                let number = own.ids.fetch_add(1, Ordering::Relaxed);
                let half = |salt: u64| mix(own.seed ^ mix(number.wrapping_mul(2) + salt));
                let bits = u128::from(half(0)) << 64 | u128::from(half(1));
                uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
            }
        }
    }
}

/// splitmix64's last step.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_goes_with_tokios_and_repeats_itself() {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH, 7);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().as_second(), 90);
        let again = Clock::simulated(Timestamp::UNIX_EPOCH, 7);
        let ids = [clock.id(), clock.id()];
        assert_eq!(ids, [again.id(), again.id()]);
        assert_ne!(ids[0], ids[1]);
        assert_ne!(ids[0], Clock::simulated(Timestamp::UNIX_EPOCH, 8).id());
    }
}
