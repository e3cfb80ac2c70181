//! The Kubernetes side of the controller: watches in, statuses, objects and Events out, one lease.
//!
//! It moves facts and decides nothing about guests: what is declared goes to the engine as it is, what the engine
//! shows goes onto the objects. Only this crate names a Kubernetes client; it knows no hypervisor.

#![forbid(unsafe_code)]

pub mod client;
mod desk;
mod error;
mod events;
mod followed;
mod health;
mod kinds;
mod lease;
mod nodes;
mod objects;
mod pause;
mod secrets;
mod session;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
mod statuses;
mod stores;
mod watches;
mod writes;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy,
};
use evenkeel_engine::{
    Options,
    port::{Hypervisors, ProcessIdentity},
};
use futures::FutureExt;
use kube::{Api, Client};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

pub use crate::{client::Access, error::Error, lease::LeaseTimes};
use crate::{
    health::Health,
    lease::{Contender, Guard, Held, Lost},
    nodes::Nodes,
    secrets::Secrets,
    session::{Parts, Session},
    stores::Stores,
};

/// How the controller runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster.
    pub access: Access,
    /// Namespace of the lease and of the hosts' Secrets; absent: the one of the pod or of the kubeconfig's context.
    pub lease_namespace: Option<String>,
    /// Name of the lease.
    pub lease_name: String,
    /// How the lease is held.
    pub lease_times: LeaseTimes,
    /// Who we are, for people: the pod's name.
    pub identity: String,
    /// The fleet's name, in claims and journals.
    pub fleet: String,
    /// The process we are, so that a neighbour can prove us dead.
    pub process: Option<ProcessIdentity>,
    /// Where `/healthz` and `/readyz` are served.
    pub health: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            lease_namespace: None,
            lease_name: "evenkeel-controller".to_owned(),
            lease_times: LeaseTimes::default(),
            identity: "evenkeel".to_owned(),
            fleet: "default".to_owned(),
            process: None,
            health: None,
        }
    }
}

/// Pause between looks for the kinds, before they are there.
const LOOK: Duration = Duration::from_secs(1);
/// How long Secrets and nodes are waited for before hosts are told to lack them.
const NAMED: Duration = Duration::from_secs(5);
/// How often an error that goes on is logged.
const REPEAT: Duration = Duration::from_secs(60);

/// Runs the controller until `shutdown` completes: waits for the kinds to be installed, then for the lease, and runs
/// an engine for as long as it has it. When asked to stop it leaves moves to libvirt and gives the lease back.
///
/// # Errors
/// Where no cluster is configured, the health address is taken, or a part of it ended that should not have: then the
/// process should end too and be restarted.
pub async fn run(
    settings: Settings,
    hypervisors: Arc<dyn Hypervisors>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let config = settings.access.configuration().await?;
    let mut parts = Parts::default();
    let health = Arc::new(Health::default());
    if let Some(address) = settings.health {
        let listener = health::listen(address).await?;
        parts.start("the health server", health::serve(listener, health.clone()));
    }
    let namespace = settings
        .lease_namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    // Each with connections of its own: a watch that hangs or a burst of writes must not cost the lease.
    let controller = Controller {
        contender: Contender::new(
            client::build(config.clone())?,
            &namespace,
            &settings.lease_name,
            &settings.identity,
            settings.lease_times.clone(),
        ),
        calls: client::build(config.clone())?,
        watches: client::build(config)?,
        stores: Arc::default(),
        namespace,
        rounds: watch::Sender::new(0),
        settings,
        hypervisors,
        health,
        parts,
    };
    controller.run(shutdown).await
}

struct Controller {
    settings: Settings,
    hypervisors: Arc<dyn Hypervisors>,
    contender: Contender,
    calls: Client,
    watches: Client,
    stores: Arc<Stores>,
    /// Where the lease and the Secrets are.
    namespace: String,
    /// A new round makes the watches list everything anew.
    rounds: watch::Sender<u64>,
    health: Arc<Health>,
    parts: Parts,
}

impl Controller {
    async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let mut shutdown = std::pin::pin!(shutdown);
        tokio::select! {
            () = installed(&self.calls) => self.health.installed(),
            error = self.parts.ended() => return Err(error),
            () = &mut shutdown => return Ok(()),
        }
        self.watch();
        loop {
            let mut log = LeaseLog::new(&self.health, &self.rounds);
            let held = tokio::select! {
                held = self.contender.acquire(|look| log.tell(look)) => held,
                error = self.parts.ended() => return Err(error),
                () = &mut shutdown => return Ok(()),
            };
            match self.lead(held, shutdown.as_mut()).await? {
                Some(lost) => {
                    tracing::warn!(
                        ?lost,
                        "the lease is lost: nothing is done here, moves go on in libvirt"
                    );
                }
                None => return Ok(()),
            }
        }
    }

    fn watch(&mut self) {
        macro_rules! follow {
            ($kind:ty, $part:literal) => {
                let (client, stores) = (self.watches.clone(), self.stores.clone());
                let (health, rounds) = (self.health.clone(), self.rounds.subscribe());
                self.parts.start($part, async move {
                    watches::follow::<$kind>(client, stores, health, rounds).await;
                    "the watch ended".to_owned()
                });
            };
        }
        follow!(Host, "the watch of hosts");
        follow!(Guest, "the watch of guests");
        follow!(GuestMigration, "the watch of moves");
        follow!(HostDrain, "the watch of drains");
        follow!(GuestPlacement, "the watch of placements");
        follow!(RebalancePolicy, "the watch of policies");
        follow!(MigrationProfile, "the watch of profiles");
        follow!(Fleet, "the watch of fleets");
        let secrets = followed::follow(
            Api::namespaced(self.watches.clone(), &self.namespace),
            Secrets(self.stores.clone()),
            self.stores.revision(),
            self.rounds.subscribe(),
        );
        let nodes = followed::follow(
            Api::all(self.watches.clone()),
            Nodes(self.stores.clone()),
            self.stores.revision(),
            self.rounds.subscribe(),
        );
        let ended = |()| "the watch ended".to_owned();
        self.parts.start("the watch of Secrets", secrets.map(ended));
        self.parts.start("the watch of nodes", nodes.map(ended));
    }

    /// Leads while the lease is ours, and gives it back. Nothing where it ended by request.
    async fn lead(
        &mut self,
        mut held: Held,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Lost>, Error> {
        tracing::info!(epoch = held.epoch, "the lease is ours");
        let until = watch::Sender::new(Some(held.until()));
        let ended = self.act(&mut held, &until, shutdown).await;
        until.send_replace(None);
        if !matches!(ended, Ok(Some(_)))
            && let Err(error) = self.contender.release(held).await
        {
            tracing::warn!(%error, "the lease could not be given back: others wait until it runs out");
        }
        ended
    }

    /// Runs an engine. When this returns nothing acts any more.
    async fn act(
        &mut self,
        held: &mut Held,
        until: &watch::Sender<Option<Instant>>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Lost>, Error> {
        // Whoever led before may have written until a moment ago, and the watches may be behind: what the engine
        // begins with is read now.
        self.rounds.send_modify(|round| *round += 1);
        let round = *self.rounds.borrow();
        let mut log = LeaseLog::new(&self.health, &self.rounds);
        tokio::select! {
            lost = self.contender.keep(held, until, |look| log.tell(look)) => return Ok(Some(lost)),
            error = self.parts.ended() => return Err(error),
            () = shutdown.as_mut() => return Ok(None),
            () = known(&self.stores, round) => {}
        }
        let mut session = Session::start(
            self.options(held.epoch),
            self.hypervisors.clone(),
            self.calls.clone(),
            self.stores.clone(),
            Guard::new(until.subscribe()),
            round,
        );
        self.health.leading(true);
        let ended = tokio::select! {
            lost = self.contender.keep(held, until, |look| log.tell(look)) => Ok(Some(lost)),
            error = session.ended() => Err(error),
            error = self.parts.ended() => Err(error),
            () = shutdown => Ok(None),
        };
        self.health.leading(false);
        if matches!(ended, Ok(Some(_))) {
            session.leave().await;
        } else {
            // The lease is kept while the engine leaves, so that nobody else begins before it is gone.
            tokio::select! {
                () = session.leave() => {}
                () = self.kept(held, until) => {}
            }
        }
        ended
    }

    /// Keeps the lease; never returns.
    async fn kept(&self, held: &mut Held, until: &watch::Sender<Option<Instant>>) {
        self.contender.keep(held, until, |_| {}).await;
        std::future::pending().await
    }

    fn options(&self, epoch: u64) -> Options {
        Options {
            // What the Fleet says now: one that changes is taken with the next lease.
            fleet: self
                .stores
                .fleet_id()
                .unwrap_or_else(|| self.settings.fleet.clone()),
            holder: format!("controller@{}", self.settings.identity),
            process: self.settings.process.clone(),
            epoch,
            act: true,
            held: false,
            from_files: false,
        }
    }
}

/// Logs trouble with the lease once, and then now and then.
struct LeaseLog<'a> {
    health: &'a Health,
    rounds: &'a watch::Sender<u64>,
    told: Option<Instant>,
    /// A call about the lease got no answer.
    silence: bool,
}

impl<'a> LeaseLog<'a> {
    fn new(health: &'a Health, rounds: &'a watch::Sender<u64>) -> Self {
        Self {
            health,
            rounds,
            told: None,
            silence: false,
        }
    }

    fn tell(&mut self, look: Result<(), &Error>) {
        match look {
            Ok(()) => {
                self.health.lease_known();
                self.told = None;
                // What swallowed that answer may have cut the watches off too, without their noticing.
                if std::mem::take(&mut self.silence) {
                    self.rounds.send_modify(|round| *round += 1);
                }
            }
            Err(error) => {
                self.silence |= matches!(error, Error::TimedOut(_));
                if self.told.is_none_or(|told| told.elapsed() > REPEAT) {
                    self.told = Some(Instant::now());
                    tracing::warn!(%error, "no word from the lease");
                }
            }
        }
    }
}

/// Waits until everything declared was read in that round. For what Hosts name and does not answer nobody waits long.
async fn known(stores: &Stores, round: u64) {
    stores.synced(round).await;
    let named = async {
        tokio::join!(stores.credentials_known(), stores.nodes_known(round));
    };
    let _ = timeout(NAMED, named).await;
}

/// Waits until all kinds are installed.
async fn installed(client: &Client) {
    let mut told: Option<(String, Instant)> = None;
    loop {
        let found = timeout(Duration::from_secs(15), async {
            futures::try_join!(
                client::installed::<Host>(client),
                client::installed::<Guest>(client),
                client::installed::<GuestMigration>(client),
                client::installed::<HostDrain>(client),
                client::installed::<GuestPlacement>(client),
                client::installed::<RebalancePolicy>(client),
                client::installed::<MigrationProfile>(client),
                client::installed::<Fleet>(client),
            )
        });
        let error = match found.await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        let known = told
            .as_ref()
            .is_some_and(|(text, when)| *text == error && when.elapsed() < REPEAT);
        if !known {
            tracing::warn!("waiting: {error}");
            told = Some((error, Instant::now()));
        }
        sleep(lease::jitter(LOOK)).await;
    }
}
