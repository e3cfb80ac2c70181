//! Claims: who acts on a host holds its claim first, in the hypervisor itself.
//!
//! A claim is held while moves touch the host, renewed every [`BEAT`], and given back soon after the last move.
//! Another's claim is broken only with proof that it is dead: its process is gone from this very machine, our lease
//! is newer in the same fleet, or no new beat came for [`BREAK_AFTER`] by our own monotonic clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use uuid::Uuid;

use crate::{
    clock::Clock,
    mutation::{Rule, broken},
    port::{ClaimRecord, Fault, Hypervisor, PortError},
    process,
    wishes::Options,
};

/// How often a held claim is renewed.
pub const BEAT: Duration = Duration::from_secs(10);
/// How long another's claim must show no new beat before it is broken.
pub const BREAK_AFTER: Duration = Duration::from_secs(60);
/// How old our own last beat may be when something irreversible is done.
pub const FRESH: Duration = Duration::from_secs(30);
/// How long a claim is kept after its last use, so that a drain does not make and remove it for each guest.
const LINGER: Duration = Duration::from_secs(2);

/// All claims of this process.
#[derive(Debug)]
pub struct Claims {
    options: Options,
    clock: Clock,
    held: Mutex<BTreeMap<HostName, Arc<Held>>>,
    /// What was seen of others' claims: id, beat, and since when.
    others: Mutex<BTreeMap<HostName, Other>>,
    /// Our own claims' ids, so that a look that comes late takes none of them for another's.
    own: Mutex<BTreeSet<Uuid>>,
    /// Claims of ours that are being given back: nobody takes them for forgotten.
    leaving: Mutex<BTreeSet<Uuid>>,
    /// Hosts that another held and holds no more: it may have left journals there.
    left: Mutex<BTreeSet<HostName>>,
}

/// Another's claim, as first seen with this beat.
#[derive(Debug, Clone)]
pub struct Other {
    /// What it says.
    pub record: ClaimRecord,
    since: Instant,
    /// Whether its holder is proven dead: then it is in nobody's way.
    dead: bool,
}

#[derive(Debug)]
struct Held {
    hypervisor: Arc<dyn Hypervisor>,
    state: AsyncMutex<Option<Standing>>,
    /// Uses, and when the last one ended.
    uses: Mutex<(usize, Instant)>,
}

#[derive(Debug, Clone)]
struct Standing {
    record: ClaimRecord,
    renewed: Instant,
}

/// Keeps a host claimed while it lives.
#[derive(Debug)]
pub struct ClaimGuard {
    host: HostName,
    held: Arc<Held>,
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let mut uses = lock(&self.held.uses);
        uses.0 -= 1;
        uses.1 = Instant::now();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claims {
    /// No claims yet.
    #[must_use]
    pub fn new(options: Options, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            options,
            clock,
            held: Mutex::default(),
            others: Mutex::default(),
            own: Mutex::default(),
            leaving: Mutex::default(),
            left: Mutex::default(),
        })
    }

    /// Claims a host, or joins the claim that this process holds already.
    ///
    /// # Errors
    /// `ClaimedByOther` with the holder's name; `HostUnreachable` and others where the host can't be asked.
    pub async fn hold(
        &self,
        host: &HostName,
        hypervisor: &Arc<dyn Hypervisor>,
    ) -> Result<ClaimGuard, Cause> {
        let held = {
            let mut all = lock(&self.held);
            let held = all.entry(host.clone()).or_insert_with(|| {
                Arc::new(Held {
                    hypervisor: hypervisor.clone(),
                    state: AsyncMutex::default(),
                    uses: Mutex::new((0, Instant::now())),
                })
            });
            lock(&held.uses).0 += 1;
            held.clone()
        };
        let guard = ClaimGuard {
            host: host.clone(),
            held,
        };
        let mut state = guard.held.state.lock().await;
        if state.is_none() {
            *state = Some(self.take(host, hypervisor).await?);
        }
        drop(state);
        Ok(guard)
    }

    async fn take(
        &self,
        host: &HostName,
        hypervisor: &Arc<dyn Hypervisor>,
    ) -> Result<Standing, Cause> {
        let id = self.clock.id();
        lock(&self.own).insert(id);
        let taken = self.try_take(id, host, hypervisor).await;
        // One that may have been made although the call failed is still ours.
        if taken
            .as_ref()
            .is_err_and(|cause| cause.reason == Reason::ClaimedByOther)
        {
            lock(&self.own).remove(&id);
        }
        taken
    }

    async fn try_take(
        &self,
        id: Uuid,
        host: &HostName,
        hypervisor: &Arc<dyn Hypervisor>,
    ) -> Result<Standing, Cause> {
        let record = ClaimRecord {
            id,
            fleet: self.options.fleet.clone(),
            holder: self.options.holder.clone(),
            process: self.options.process.clone(),
            epoch: self.options.epoch,
            beat: 0,
        };
        // Twice: once against whoever is there, once more after a dead one's claim was removed.
        for _ in 0..2 {
            match hypervisor.put_claim(&record).await {
                Ok(()) => {
                    self.forget(host);
                    return Ok(Standing {
                        record,
                        renewed: Instant::now(),
                    });
                }
                Err(error) if error.fault == Fault::Exists => {}
                Err(error) => return Err(unanswered(host, &error)),
            }
            let Some(other) = hypervisor
                .claim()
                .await
                .map_err(|error| unanswered(host, &error))?
            else {
                continue;
            };
            let forgotten = lock(&self.own).contains(&other.id);
            if !forgotten && !self.may_break(host, &other) {
                return Err(claimed(host, &other));
            }
            if !forgotten {
                self.suspect(host);
            }
            tracing::warn!(%host, holder = %other.holder, "breaking a claim whose holder is dead");
            hypervisor
                .remove_claim(other.id)
                .await
                .map_err(|error| unanswered(host, &error))?;
        }
        Err(Cause::new(
            Reason::ClaimedByOther,
            format!("{host} was claimed by another just now"),
        ))
    }

    /// Notes another's claim; whether it is proven dead.
    fn may_break(&self, host: &HostName, other: &ClaimRecord) -> bool {
        let gone = other.process.as_ref().is_some_and(process::proven_dead);
        let older = other.fleet == self.options.fleet && other.epoch < self.options.epoch;
        let fresh = || Other {
            record: other.clone(),
            since: Instant::now(),
            dead: false,
        };
        let mut others = lock(&self.others);
        let seen = others.entry(host.clone()).or_insert_with(fresh);
        if seen.record.id != other.id || seen.record.beat != other.beat {
            *seen = fresh();
        }
        // Kept although it is in nobody's way any more: the next who wants the host breaks it by what was seen here.
        seen.dead = gone || older || seen.since.elapsed() >= BREAK_AFTER;
        seen.dead
    }

    /// Another's claim is gone.
    fn forget(&self, host: &HostName) {
        let another = lock(&self.others).remove(host);
        if another.is_some() {
            self.suspect(host);
        }
    }

    /// Something is left at this host that its journals tell of, and that nobody is at.
    pub fn suspect(&self, host: &HostName) {
        lock(&self.left).insert(host.clone());
    }

    /// Hosts that another has left since this was last asked.
    #[must_use]
    pub fn left(&self) -> BTreeSet<HostName> {
        std::mem::take(&mut lock(&self.left))
    }

    /// Hosts that we hold or that another does, as far as we know.
    #[must_use]
    pub fn known(&self) -> BTreeSet<HostName> {
        let held = lock(&self.held).keys().cloned().collect::<Vec<_>>();
        held.into_iter()
            .chain(lock(&self.others).keys().cloned())
            .collect()
    }

    /// Hosts that another holds, as last seen.
    #[must_use]
    pub fn others(&self) -> BTreeMap<HostName, ClaimRecord> {
        lock(&self.others)
            .iter()
            .filter(|(_, other)| !other.dead)
            .map(|(host, other)| (host.clone(), other.record.clone()))
            .collect()
    }

    /// Looks who holds a host. Whether it is free for us now. What a dead holder left is removed, for nobody else may
    /// ever want that host.
    pub async fn look(&self, host: &HostName, hypervisor: &Arc<dyn Hypervisor>) -> bool {
        // What is said of a claim may be older than its end: one that was ours or in use before counts as such.
        let ours = lock(&self.own).clone();
        let used = lock(&self.held).contains_key(host) || !lock(&self.leaving).is_empty();
        match hypervisor.claim().await {
            Ok(Some(other))
                if !ours.contains(&other.id) && !lock(&self.own).contains(&other.id) =>
            {
                let dead = self.may_break(host, &other);
                // It is given back soon, unless a move joins.
                dead && self.hold(host, hypervisor).await.is_ok()
            }
            Ok(ours) => {
                self.forget(host);
                // One of ours that could not be given back when its host did not answer.
                let forgotten = ours.is_some() && !used;
                !forgotten || self.hold(host, hypervisor).await.is_ok()
            }
            Err(_) => false,
        }
    }

    /// Renews what is in use and gives back what is not. Call it every second or so.
    pub async fn tend(&self, give_back_all: bool) {
        let all: Vec<_> = lock(&self.held)
            .iter()
            .map(|(host, held)| (host.clone(), held.clone()))
            .collect();
        let each = all.into_iter().map(|(host, held)| async move {
            let (uses, since) = *lock(&held.uses);
            if uses == 0 && (give_back_all || since.elapsed() >= LINGER) {
                self.give_back(&host, &held).await;
            } else {
                renew(&host, &held).await;
            }
        });
        futures::future::join_all(each).await;
    }

    async fn give_back(&self, host: &HostName, held: &Arc<Held>) {
        let mut state = held.state.lock().await;
        {
            // Nobody can join between this check and the removal: joining takes the same lock.
            let mut all = lock(&self.held);
            if lock(&held.uses).0 > 0 {
                return;
            }
            lock(&self.leaving).extend(state.as_ref().map(|standing| standing.record.id));
            all.remove(host);
        }
        let Some(Standing { record, .. }) = state.take() else {
            return;
        };
        let id = record.id;
        match held.hypervisor.remove_claim(id).await {
            Ok(()) => drop(lock(&self.own).remove(&id)),
            Err(error) => {
                tracing::warn!(%host, %error, "the claim could not be given back; it is broken by others after a minute");
            }
        }
        lock(&self.leaving).remove(&id);
    }
}

async fn renew(host: &HostName, held: &Held) {
    let Ok(mut state) = held.state.try_lock() else {
        return;
    };
    let Some(standing) = state.as_mut() else {
        return;
    };
    if standing.renewed.elapsed() < BEAT {
        return;
    }
    let mut next = standing.record.clone();
    next.beat += 1;
    // Counted from before the call: what others see is never older than we believe.
    let before = Instant::now();
    match held.hypervisor.put_claim(&next).await {
        Ok(()) => {
            *standing = Standing {
                record: next,
                renewed: before,
            };
        }
        Err(error) if error.fault == Fault::Exists => {
            tracing::warn!(%host, "the claim was broken by another");
            *state = None;
        }
        Err(error) => tracing::warn!(%host, %error, "the claim could not be renewed"),
    }
}

impl ClaimGuard {
    /// Proves that the claim is ours now: our own beat is fresh, and the host still shows our record. Called before
    /// each irreversible act.
    ///
    /// # Errors
    /// `ClaimedByOther` where it is lost, `HostUnreachable` where the host can't be asked.
    pub async fn prove(&self) -> Result<(), Cause> {
        if broken(Rule::ClaimProven) {
            return Ok(());
        }
        renew(&self.host, &self.held).await;
        let standing = self.held.state.lock().await.clone();
        let lost = || {
            Cause::new(
                Reason::ClaimedByOther,
                format!("our claim on {} is not ours any more", self.host),
            )
        };
        let standing = standing.ok_or_else(lost)?;
        if standing.renewed.elapsed() > FRESH {
            return Err(Cause::new(
                Reason::HostUnreachable,
                format!(
                    "our claim on {} could not be renewed for {} s",
                    self.host,
                    FRESH.as_secs()
                ),
            ));
        }
        match self.held.hypervisor.claim().await {
            Ok(Some(record)) if record.id == standing.record.id => Ok(()),
            Ok(Some(other)) => Err(claimed(&self.host, &other)),
            Ok(None) => Err(lost()),
            Err(error) => Err(unanswered(&self.host, &error)),
        }
    }
}

/// The cause for a host that another holds.
#[must_use]
pub fn claimed(host: &HostName, other: &ClaimRecord) -> Cause {
    Cause::new(
        Reason::ClaimedByOther,
        format!(
            "{host} is claimed by {} of fleet {}",
            other.holder, other.fleet
        ),
    )
}

fn unanswered(host: &HostName, error: &PortError) -> Cause {
    Cause::new(
        error.into(),
        format!("{host} could not be claimed: {error}"),
    )
}
