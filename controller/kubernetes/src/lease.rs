//! The lease: of several controllers one acts.
//!
//! Taken, renewed and released with the resource version that was read, so that two can't both win; expiry is
//! judged by an unchanged version over the observer's own monotonic clock, never by the times in the object. A
//! holder counts its time from before it sent the request that succeeded, and stops well before others may take over.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{client::call, error::Error};

/// How the lease is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Others take the lease when it has not changed for this long. Whole seconds.
    pub duration: Duration,
    /// The holder stops when no renewal has succeeded for this long; clearly less than `duration`.
    pub renew_within: Duration,
    /// Pause between renewals.
    pub renew_every: Duration,
    /// Pause between looks of one who waits for it, give or take a quarter.
    pub look_every: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(12),
            renew_within: Duration::from_secs(8),
            renew_every: Duration::from_secs(2),
            look_every: Duration::from_secs(1),
        }
    }
}

/// The longest a single call about the lease may take.
const CALL: Duration = Duration::from_secs(3);
/// The pause after a failed renewal.
const AGAIN: Duration = Duration::from_millis(300);

/// One who wants the lease.
pub(crate) struct Contender {
    api: Api<Lease>,
    name: String,
    /// Different for each process, even of the same name.
    me: String,
    times: LeaseTimes,
    /// The version last seen under another holder, and since when.
    observed: Option<(String, Instant)>,
}

/// The lease, held.
#[derive(Debug)]
pub(crate) struct Held {
    /// Rises with every change of hands.
    pub(crate) epoch: u64,
    lease: Lease,
    until: Instant,
}

impl Held {
    /// When we stop unless a renewal succeeds.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }
}

/// Why the lease is no longer ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// No renewal got through in time.
    NotRenewed(String),
    /// Another one holds it, or it was deleted.
    Taken(String),
}

impl Contender {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        times: LeaseTimes,
    ) -> Self {
        // What others are told is in whole seconds; the holder must stop well before.
        let duration = Duration::from_secs(times.duration.as_secs().max(1));
        let times = LeaseTimes {
            duration,
            renew_within: times.renew_within.min(duration * 3 / 4),
            ..times
        };
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: format!("{identity}_{}", uuid::Uuid::new_v4()),
            times,
            observed: None,
        }
    }

    /// Looks at the lease and takes it where that is allowed. Nothing where another one has it.
    ///
    /// # Errors
    /// Where the API server did not answer as it should; nothing is known then.
    pub(crate) async fn look(&mut self) -> Result<Option<Held>, Error> {
        let found = call(CALL, self.api.get_opt(&self.name)).await?;
        let now = Instant::now();
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.taken(1)),
            };
            return self
                .send(async |api, sent| api.create(sent, &lease).await)
                .await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        // What bears our own name is the answer to a request whose reply we did not get.
        if !holder.is_empty() && holder != self.me {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let since = match &self.observed {
                Some((seen, since)) if *seen == version => *since,
                _ => {
                    self.observed = Some((version, now));
                    now
                }
            };
            let declared = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
            let duration = match declared {
                0 => self.times.duration,
                seconds => Duration::from_secs(seconds),
            };
            if now.duration_since(since) < duration {
                return Ok(None);
            }
            tracing::info!(
                holder,
                "the lease has not been renewed for {} s: taking it",
                duration.as_secs()
            );
        }
        lease.spec = Some(self.taken(spec.lease_transitions.unwrap_or(0).saturating_add(1)));
        let name = self.name.clone();
        self.send(async |api, sent| api.replace(&name, sent, &lease).await)
            .await
    }

    /// Waits until the lease is ours. `tell` hears of every look, whether it was answered.
    pub(crate) async fn acquire(&mut self, mut tell: impl FnMut(Result<(), &Error>)) -> Held {
        loop {
            match self.look().await {
                Ok(Some(held)) => {
                    tell(Ok(()));
                    return held;
                }
                Ok(None) => tell(Ok(())),
                Err(error) => tell(Err(&error)),
            }
            sleep(jitter(self.times.look_every)).await;
        }
    }

    /// Renews the lease again and again; returns when it is lost.
    pub(crate) async fn keep(
        &self,
        held: &mut Held,
        until: &watch::Sender<Option<Instant>>,
        mut tell: impl FnMut(Result<(), &Error>),
    ) -> Lost {
        loop {
            until.send_replace(Some(held.until));
            sleep(self.times.renew_every.min(left(held.until))).await;
            let lost = loop {
                match self.renew(held).await {
                    Ok(Ok(())) => {
                        tell(Ok(()));
                        break None;
                    }
                    Ok(Err(lost)) => break Some(lost),
                    Err(error) => {
                        tell(Err(&error));
                        if left(held.until).is_zero() {
                            break Some(Lost::NotRenewed(error.to_string()));
                        }
                        sleep(AGAIN.min(left(held.until))).await;
                    }
                }
            };
            if let Some(lost) = lost {
                until.send_replace(None);
                return lost;
            }
        }
    }

    /// Renews once. The inner error says that it is lost, the outer one that nothing is known.
    pub(crate) async fn renew(&self, held: &mut Held) -> Result<Result<(), Lost>, Error> {
        let sent = Instant::now();
        let limit = CALL.min(left(held.until));
        if limit.is_zero() {
            return Ok(Err(Lost::NotRenewed("its time is over".to_owned())));
        }
        let mut lease = held.lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        match call(limit, self.api.replace(&self.name, &params, &lease)).await {
            Ok(lease) => {
                held.lease = lease;
                held.until = sent + self.times.renew_within;
                Ok(Ok(()))
            }
            // Somebody touched it, or an earlier renewal got through without our hearing of it.
            Err(Error::Conflict(_)) => {
                let limit = CALL.min(left(held.until));
                let found = call(limit, self.api.get_opt(&self.name)).await?;
                match found {
                    Some(lease) if holder(&lease) == Some(&self.me) => {
                        held.lease = lease;
                        Err(Error::Conflict("read anew".to_owned()))
                    }
                    Some(lease) => Ok(Err(Lost::Taken(
                        holder(&lease).cloned().unwrap_or_default(),
                    ))),
                    None => Ok(Err(Lost::Taken("nobody: it was deleted".to_owned()))),
                }
            }
            Err(Error::NotFound(_)) => Ok(Err(Lost::Taken("nobody: it was deleted".to_owned()))),
            Err(error) => Err(error),
        }
    }

    /// Gives it back, so that the next one need not wait.
    ///
    /// # Errors
    /// Where that did not get through; others then wait until it runs out.
    pub(crate) async fn release(&self, held: Held) -> Result<(), Error> {
        let given = |mut lease: Lease| {
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            lease
        };
        let params = PostParams::default();
        let lease = given(held.lease);
        match call(CALL, self.api.replace(&self.name, &params, &lease)).await {
            // A renewal that was under way when it was given up got through.
            Err(Error::Conflict(_)) => {
                let found = call(CALL, self.api.get(&self.name)).await?;
                if holder(&found) == Some(&self.me) {
                    let lease = given(found);
                    call(CALL, self.api.replace(&self.name, &params, &lease)).await?;
                }
                Ok(())
            }
            answer => answer.map(drop),
        }
    }

    /// Sends a request that makes the lease ours. A conflict means that another one was faster.
    async fn send(
        &mut self,
        request: impl AsyncFnOnce(&Api<Lease>, &PostParams) -> kube::Result<Lease>,
    ) -> Result<Option<Held>, Error> {
        let sent = Instant::now();
        let params = PostParams::default();
        match call(CALL, request(&self.api, &params)).await {
            Ok(lease) => {
                let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
                self.observed = None;
                Ok(Some(Held {
                    epoch: transitions
                        .and_then(|count| u64::try_from(count).ok())
                        .unwrap_or(0),
                    lease,
                    until: sent + self.times.renew_within,
                }))
            }
            Err(Error::Conflict(_) | Error::AlreadyExists(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn taken(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(self.times.duration.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

/// Lets calls through while the lease is ours, and no call longer than that.
#[derive(Debug, Clone)]
pub(crate) struct Guard(watch::Receiver<Option<Instant>>);

impl Guard {
    pub(crate) fn new(until: watch::Receiver<Option<Instant>>) -> Self {
        Self(until)
    }

    /// Makes the call with a deadline of `limit`, or what is left of the lease where that is less.
    pub(crate) async fn call<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let left = self.0.borrow().map_or(Duration::ZERO, left);
        if left.is_zero() {
            return Err(Error::NoLease);
        }
        let limit = limit.min(left);
        match timeout(limit, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::TimedOut(limit)),
        }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// The pause give or take a quarter, so that processes do not move in step.
pub(crate) fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.75 + random as f64 / 1024.0)
}
