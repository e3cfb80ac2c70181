//! The engine: moves, ledger, evidence, claims and journals. It knows neither Kubernetes nor libvirt.
//!
//! A front end (Kubernetes, or files) sends [`Wishes`] and reads [`View`]s and [`Happening`]s; hypervisors are
//! behind [`port`]. In between, one task reconciles: it keeps what hosts tell, asks the planner, starts moves, and
//! each move is a task of its own that looks at both ends before every step.

#![forbid(unsafe_code)]

mod capacity;
mod carrier;
mod circuit;
pub mod claim;
pub mod clock;
pub mod credentials;
mod encryption;
mod evacuation;
pub mod evidence;
mod guests;
mod hands;
mod hosts;
pub mod journal;
mod levelling;
mod life;
mod model;
mod moves;
pub mod mutation;
pub mod port;
pub mod process;
mod profile;
mod question;
mod reconcile;
mod statuses;
mod usage;
pub mod view;
mod windows;
mod wishes;

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use clock::Clock;
pub use levelling::Step;
pub use question::{
    Asked, Question,
    policies::{Input, Kept, Origin, Policy, Search},
};
use reconcile::{Command, Reconciler};
pub use view::{GuestView, Happening, MigrationView, Problem, View};
pub use wishes::{Options, Wishes};

/// A running engine. Dropping it is [`Engine::leave`] without waiting.
#[derive(Debug)]
pub struct Engine {
    views: watch::Receiver<Arc<View>>,
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Engine {
    /// Starts the engine on the current runtime.
    ///
    /// `wishes` may change at any time; `happenings` gets what is worth an Event.
    #[must_use]
    pub fn start(
        options: Options,
        hypervisors: Arc<dyn port::Hypervisors>,
        wishes: watch::Receiver<Arc<Wishes>>,
        happenings: mpsc::UnboundedSender<Happening>,
    ) -> Self {
        Self::start_with(Clock::System, options, hypervisors, wishes, happenings)
    }

    /// The same by another clock: a simulation's.
    #[must_use]
    pub fn start_with(
        clock: Clock,
        options: Options,
        hypervisors: Arc<dyn port::Hypervisors>,
        wishes: watch::Receiver<Arc<Wishes>>,
        happenings: mpsc::UnboundedSender<Happening>,
    ) -> Self {
        let (sender, views) = watch::channel(Arc::default());
        let (commands, orders) = mpsc::unbounded_channel();
        let reconciler = Reconciler::new(
            clock,
            options,
            hypervisors,
            wishes,
            happenings,
            sender,
            orders,
        );
        Self {
            views,
            commands,
            task: tokio::spawn(reconciler.run()),
        }
    }

    /// The views. The first one is empty and not settled. The channel closes when the engine has ended.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// Starts what is ready, where it was held until now.
    pub fn go(&self) {
        let _ = self.commands.send(Command::Go);
    }

    /// Starts no further move; those under way go on.
    pub fn hold(&self) {
        let _ = self.commands.send(Command::Hold);
    }

    /// Aborts moves that have not begun to switch, and starts no further one.
    pub fn abort_all(&self) {
        let _ = self.commands.send(Command::AbortAll);
    }

    /// Waits until no move is under way, gives the claims back and ends.
    pub async fn finish(self) {
        let _ = self.commands.send(Command::Finish);
        let _ = self.task.await;
    }

    /// Ends at once and leaves moves to libvirt: they go on, and the next process adopts them. For a controller
    /// that lost its lease, and for one that is asked to stop and will be followed by another.
    pub async fn leave(self) {
        let _ = self.commands.send(Command::Leave);
        let _ = self.task.await;
    }
}
