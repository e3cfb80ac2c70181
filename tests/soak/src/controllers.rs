//! The controllers of a story: an engine at work, killed and followed by another, or doubted while it still works.

use std::sync::Arc;

use evenkeel_engine::{Clock, Engine, Options, View};
use evenkeel_hypervisor::sim::Fleet;
use evenkeel_kubernetes::simulated::Session;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::front::Front;

/// The name by which controllers reach hosts, all of them: who is cut off stays so under the next one.
pub const CLIENT: &str = "controller";

/// An engine, and what keeps its statuses.
pub struct Controller {
    engine: Engine,
    views: watch::Receiver<Arc<View>>,
    keeper: Keeper,
}

/// What goes between an engine and its objects.
enum Keeper {
    /// What is shown is kept at once.
    Plain(JoinHandle<()>),
    /// What a cluster has.
    Session(Session),
}

impl Keeper {
    fn silence(&self) {
        match self {
            Self::Plain(task) => task.abort(),
            Self::Session(session) => session.silence(),
        }
    }
}

impl Controller {
    /// Starts the controller that holds the lease of this epoch.
    pub fn start(fleet: &Fleet, front: &Front, clock: &Clock, epoch: u64) -> Self {
        let options = Options {
            fleet: "soak".to_owned(),
            holder: format!("controller@{epoch}"),
            process: None,
            epoch,
            act: true,
            held: false,
            from_files: false,
        };
        let (happenings, mut heard) = mpsc::unbounded_channel();
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let client = Arc::new(fleet.client(CLIENT));
        let start = |wishes| Engine::start_with(clock.clone(), options, client, wishes, happenings);
        let (engine, keeper) = if let Some(server) = front.server() {
            let (mut session, wishes) = server.session();
            let engine = start(wishes);
            session.follow(engine.views());
            (engine, Keeper::Session(session))
        } else {
            let engine = start(front.wishes());
            let (mut views, front) = (engine.views(), front.clone());
            let keeper = tokio::spawn(async move {
                while views.changed().await.is_ok() {
                    let view = views.borrow_and_update().clone();
                    front.keep(&view);
                }
            });
            (engine, Keeper::Plain(keeper))
        };
        Self {
            views: engine.views(),
            engine,
            keeper,
        }
    }

    /// It lost its lease and does not know yet: it writes nothing any more, but its moves go on.
    pub fn silence(&self) {
        self.keeper.silence();
    }

    /// Kills it: nothing of it goes on but what libvirt does.
    pub async fn kill(self) {
        self.keeper.silence();
        drop((self.engine, self.keeper));
        tokio::task::yield_now().await;
    }

    /// What it shows.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }
}
