//! Whether a long copy will converge, measured before it begins.

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use tokio::time::Instant;

use super::{Attempt, Report, course};
use crate::port::{Activity, DomainFacts};

/// How long the answer of a measurement of one second is waited for.
const MEASURED_WITHIN: Duration = Duration::from_secs(3);

impl Attempt {
    /// Begins to measure what the guest writes, where its copy is expected to take long. Whether it did.
    pub(super) async fn begin_prediction(&self, facts: &DomainFacts) -> bool {
        let Some(rate) = self
            .order
            .rate
            .filter(|_| facts.activity == Activity::Running)
        else {
            return false;
        };
        let disks = facts.disks.iter().filter(|disk| disk.is_copied());
        let bytes = disks.map(|disk| disk.chain_allocated().0).sum::<u64>() + facts.memory.0;
        course::duration(Bytes(bytes), rate) > course::WORTH_PREDICTING
            && self
                .order
                .source
                .hypervisor
                .measure_dirtying(facts.uuid)
                .await
                .is_ok()
    }

    /// Says whether the copy will converge. Without an answer in good time nothing is said: it is judged as it runs.
    pub(super) async fn predict(&mut self) {
        let Some(rate) = self.order.rate else {
            return;
        };
        let until = Instant::now() + MEASURED_WITHIN;
        while Instant::now() < until {
            let measured = self
                .order
                .source
                .hypervisor
                .dirtying(self.order.guest)
                .await;
            match measured {
                Ok(Some(dirtying)) => {
                    self.report(Report::Dirtying(dirtying));
                    let help = &self.order.profile.spec.convergence;
                    self.goes(course::predict(dirtying, rate, help));
                    return;
                }
                Ok(None) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(_) => return,
            }
        }
    }
}
