//! A host's circuit: a target at which moves of several guests failed in a row rests, whoever asked for them, instead of
//! failing everybody's moves one by one.

use std::{collections::BTreeSet, time::Duration};

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Class, Reason},
};
use tokio::time::Instant;
use uuid::Uuid;

/// Failures in a row that open a circuit.
const FAILURES: usize = 3;
/// Failures further apart than this have nothing to do with each other.
const MEMORY: Duration = Duration::from_secs(600);
/// First rest; each further one is twice as long.
const REST: Duration = Duration::from_secs(60);
/// Longest rest.
const REST_CAP: Duration = Duration::from_secs(960);

/// What a host's failures as a target add up to.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    failures: Vec<Failure>,
    /// How often it opened since the last success, and until when it rests.
    opened: Option<(u32, Instant)>,
}

#[derive(Debug)]
struct Failure {
    guest: Uuid,
    source: HostName,
    cause: Cause,
    at: Instant,
}

/// What may be sent to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Whatever fits.
    Closed,
    /// One move at a time: the first success closes the circuit, the next failure opens it again.
    HalfOpen,
    /// Nothing, for this cause.
    Open(Cause),
}

impl Circuit {
    /// A move to the host failed. What says nothing about the host is not counted.
    pub(crate) fn failed(&mut self, guest: Uuid, source: &HostName, cause: &Cause, now: Instant) {
        if cause.reason.class() != Class::AvoidTarget {
            return;
        }
        self.failures
            .retain(|failure| now.duration_since(failure.at) < MEMORY);
        self.failures.push(Failure {
            guest,
            source: source.clone(),
            cause: cause.clone(),
            at: now,
        });
        let times = match self.opened {
            // Moves that were under way when it opened tell nothing new.
            Some((_, until)) if until > now => return,
            Some((times, _)) => times + 1,
            None if self.blames_the_host() => 1,
            None => return,
        };
        let rest = REST.saturating_mul(1 << (times - 1).min(8)).min(REST_CAP);
        self.opened = Some((times, now + rest));
    }

    /// A move to the host succeeded.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The host came back, or its manifest changed: it is tried again at once.
    pub(crate) fn renewed(&mut self, now: Instant) {
        if let Some((_, until)) = &mut self.opened {
            *until = now.min(*until);
        }
    }

    /// When it is tried again; nothing where the circuit is closed.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.opened.map(|(_, until)| until)
    }

    /// What may be sent to the host now.
    pub(crate) fn gate(&self, host: &HostName, now: Instant) -> Gate {
        let Some((times, until)) = self.opened else {
            return Gate::Closed;
        };
        if until <= now {
            return Gate::HalfOpen;
        }
        let last = self
            .failures
            .last()
            .map_or("", |failure| failure.cause.message.as_str());
        let again = if times > 1 { "again, " } else { "" };
        Gate::Open(Cause::new(
            Reason::CircuitOpen,
            format!("{host} rests {again}after failed moves, at last: {last}"),
        ))
    }

    /// One guest may have a trouble of its own, and so may one source's link.
    fn blames_the_host(&self) -> bool {
        let guests: BTreeSet<Uuid> = self.failures.iter().map(|failure| failure.guest).collect();
        let sources: BTreeSet<&HostName> = self
            .failures
            .iter()
            .map(|failure| &failure.source)
            .collect();
        let link =
            |failure: &Failure| failure.cause.reason == Reason::TargetCannotBeReachedFromSource;
        self.failures.len() >= FAILURES
            && guests.len() > 1
            && (sources.len() > 1 || !self.failures.iter().all(link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn lost() -> Cause {
        Cause::new(Reason::TargetLost, "the target is gone")
    }

    fn open(circuit: &Circuit, now: Instant) -> bool {
        matches!(circuit.gate(&"h2".into(), now), Gate::Open(_))
    }

    #[tokio::test(start_paused = true)]
    async fn several_guests_open_it_and_time_tries_one() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for number in [1, 2] {
            circuit.failed(guest(number), &"h1".into(), &lost(), now);
            assert_eq!(circuit.gate(&"h2".into(), now), Gate::Closed);
        }
        circuit.failed(guest(1), &"h1".into(), &lost(), now);
        assert!(open(&circuit, now));
        let later = now + REST;
        assert_eq!(circuit.gate(&"h2".into(), later), Gate::HalfOpen);
        circuit.failed(guest(3), &"h1".into(), &lost(), later);
        assert!(open(&circuit, later + REST), "the second rest is longer");
        assert!(!open(&circuit, later + 2 * REST));
        circuit.succeeded();
        assert_eq!(circuit.gate(&"h2".into(), later), Gate::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_blames_somebody_else_does_not() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let unreached = Cause::new(Reason::TargetCannotBeReachedFromSource, "no route");
        for number in 0..9 {
            // One guest alone; one source's link; what is no fault of a target.
            circuit.failed(guest(number), &"h1".into(), &unreached, now);
            circuit.failed(
                guest(number),
                &"h3".into(),
                &Cause::new(Reason::GuestStopped, "stopped"),
                now,
            );
        }
        assert_eq!(circuit.gate(&"h2".into(), now), Gate::Closed);
        circuit.failed(guest(1), &"h3".into(), &unreached, now);
        assert!(open(&circuit, now), "two sources fail to reach it");

        let mut circuit = Circuit::default();
        for _ in 0..9 {
            circuit.failed(guest(1), &"h1".into(), &lost(), now);
        }
        assert_eq!(circuit.gate(&"h2".into(), now), Gate::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn old_failures_are_forgotten_and_a_host_that_came_back_is_tried() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        circuit.failed(guest(1), &"h1".into(), &lost(), now);
        circuit.failed(guest(2), &"h1".into(), &lost(), now);
        circuit.failed(guest(3), &"h1".into(), &lost(), now + MEMORY);
        assert_eq!(circuit.gate(&"h2".into(), now + MEMORY), Gate::Closed);
        let mut circuit = Circuit::default();
        for number in 0..3 {
            circuit.failed(guest(number), &"h1".into(), &lost(), now);
        }
        circuit.renewed(now);
        assert_eq!(circuit.gate(&"h2".into(), now), Gate::HalfOpen);
    }
}
