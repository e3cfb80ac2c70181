//! Refreshes of pools, shared by all that want one of the same host at the same time.
//!
//! A refresh reads the head of every file in a pool, and libvirt serves nobody else who uses the pool meanwhile. When a
//! drain prepares its moves, a dozen calls want one within a few milliseconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use evenkeel_engine::port::PortResult;

use super::worker::lock;

/// How old a refresh may be for those who can live with it: what is made or removed behind libvirt's back is known so
/// much later.
const LATELY: Duration = Duration::from_millis(100);

/// How new a refresh has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Begun after it was asked for.
    Now,
    /// Begun a moment ago.
    Lately,
    /// None at all: as libvirt remembers.
    AsListed,
}

/// When each pool's last refresh began, by the pool's name.
#[derive(Debug, Default)]
pub(crate) struct Refreshes(Mutex<HashMap<String, Arc<Mutex<Option<Instant>>>>>);

impl Refreshes {
    /// Refreshes a pool, or shares a refresh that is new enough. Waits for one that is under way.
    pub(crate) fn share(
        &self,
        pool: &str,
        freshness: Freshness,
        refresh: impl FnOnce() -> PortResult<()>,
    ) -> PortResult<()> {
        let asked = Instant::now();
        let oldest = match freshness {
            Freshness::Now => Some(asked),
            Freshness::Lately => asked.checked_sub(LATELY),
            Freshness::AsListed => return Ok(()),
        };
        let last = lock(&self.0).entry(pool.to_owned()).or_default().clone();
        let mut last = lock(&last);
        if last.is_some_and(|begun| oldest.is_none_or(|oldest| begun >= oldest)) {
            return Ok(());
        }
        let begun = Instant::now();
        refresh()?;
        *last = Some(begun);
        Ok(())
    }

    /// Of a pool that is closed for good.
    pub(crate) fn forget(&self, pool: &str) {
        lock(&self.0).remove(pool);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use evenkeel_engine::port::{Fault, PortError};
    use std::{sync::Barrier, thread};

    #[test]
    fn those_who_wait_for_one_share_the_next() {
        let refreshes = Refreshes::default();
        let count = Mutex::new(0);
        let all_there = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all_there.wait();
                    refreshes
                        .share("p", Freshness::Now, || {
                            *lock(&count) += 1;
                            thread::sleep(Duration::from_millis(50));
                            Ok(())
                        })
                        .unwrap();
                });
            }
        });
        // One for whoever came first, one for all who came while it ran; more only where a thread was late.
        assert!(*lock(&count) < 8, "{}", lock(&count));
    }

    #[test]
    fn new_enough_for_some_is_too_old_for_others() {
        let refreshes = Refreshes::default();
        let times = |freshness| {
            let mut done = 0;
            refreshes
                .share("p", freshness, || {
                    done += 1;
                    Ok(())
                })
                .unwrap();
            done
        };
        assert_eq!(times(Freshness::AsListed), 0);
        assert_eq!(times(Freshness::Lately), 1);
        assert_eq!(times(Freshness::Lately), 0);
        assert_eq!(times(Freshness::Now), 1);
        thread::sleep(LATELY);
        assert_eq!(times(Freshness::Lately), 1);
    }

    #[test]
    fn one_that_failed_is_no_refresh() {
        let refreshes = Refreshes::default();
        let failed = || Err(PortError::new(Fault::Busy, "busy"));
        assert!(refreshes.share("p", Freshness::Lately, failed).is_err());
        assert!(refreshes.share("p", Freshness::Lately, failed).is_err());
    }
}
