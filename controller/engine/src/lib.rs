//! The engine: moves, ledger, evidence, claims and journals. It knows neither Kubernetes nor libvirt.
//!
//! A front end (Kubernetes, or files) sends [`Wishes`] and reads [`View`]s and [`Happening`]s; hypervisors are
//! behind [`port`]. In between, one task reconciles: it keeps what hosts tell, asks the planner, starts moves, and
//! each move is a task of its own that looks at both ends before every step.

#![forbid(unsafe_code)]

pub mod port;
pub mod view;
pub mod wishes;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use view::{GuestView, Happening, MigrationView, Problem, View};
pub use wishes::{Options, Wishes};

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    views: watch::Receiver<Arc<View>>,
    #[allow(dead_code)]
    commands: mpsc::UnboundedSender<Command>,
}

/// What a front end can tell a running engine beyond wishes.
#[derive(Debug)]
pub(crate) enum Command {}

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
        let _ = (options, hypervisors, wishes, happenings);
        let (_, views) = watch::channel(Arc::default());
        let (commands, _) = mpsc::unbounded_channel();
        Self { views, commands }
    }

    /// The views. The first one is empty and not settled.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// Starts no further move; those under way go on.
    pub fn hold(&self) {}

    /// Aborts moves that have not begun to switch.
    pub fn abort_all(&self) {}

    /// Waits until no move is under way, gives the claims back and ends. Call [`Engine::hold`] before.
    pub async fn finish(self) {}

    /// Ends at once and leaves moves to libvirt: they go on, and the next process adopts them. For a controller
    /// that lost its lease, and for one that is asked to stop and will be followed by another.
    pub async fn leave(self) {}
}
