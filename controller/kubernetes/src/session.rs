//! What runs while the lease is ours: the engine, and all that goes between it and the API server.

use std::{sync::Arc, time::Duration};

use evenkeel_engine::{Engine, Happening, Options, Wishes, port::Hypervisors};
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    error::Error,
    events::{Note, Publisher},
    lease::Guard,
    nodes,
    stores::{Change, Stores},
    writes::{Writes, writer},
};

/// Changes that come so close together reach the engine as one.
const COALESCED: Duration = Duration::from_millis(10);
/// The engine leaves at once; this is for the case that it does not.
const LEAVING: Duration = Duration::from_secs(3);

/// A running engine with what feeds and follows it.
pub(crate) struct Session {
    engine: Option<Engine>,
    parts: Parts,
}

/// Tasks that must not end, by name.
#[derive(Default)]
pub(crate) struct Parts {
    tasks: JoinSet<(&'static str, String)>,
}

impl Parts {
    pub(crate) fn start(
        &mut self,
        part: &'static str,
        work: impl Future<Output = String> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (part, work.await) });
    }

    /// Waits until one of them ends, which is an error, a panic included. For ever where there is none.
    pub(crate) async fn ended(&mut self) -> Error {
        match self.tasks.join_next().await {
            Some(Ok((part, why))) => Error::Ended { part, why },
            Some(Err(error)) => Error::Ended {
                part: "a task",
                why: error.to_string(),
            },
            None => std::future::pending().await,
        }
    }
}

impl Session {
    /// Starts the engine. The stores have to be fresh: as of that round.
    pub(crate) fn start(
        options: Options,
        hypervisors: Arc<dyn Hypervisors>,
        client: Client,
        stores: Arc<Stores>,
        guard: Guard,
        round: u64,
    ) -> Self {
        let mut parts = Parts::default();
        let revision = stores.revision();
        let (wishes, told) = watch::channel(Arc::new(stores.wishes()));
        let (happenings, happened) = mpsc::unbounded_channel();
        let holder = options.holder.clone();
        let engine = Engine::start(options, hypervisors, told, happenings);
        parts.start("the wishes", pump(stores.clone(), revision, wishes));
        let writes = Writes::new(client.clone(), guard.clone());
        let drains = nodes::keep(writes, stores.clone(), round);
        parts.start("the drains of cordoned nodes", drains);
        follow(
            &mut parts,
            &holder,
            client,
            stores,
            guard,
            engine.views(),
            happened,
        );
        Self {
            engine: Some(engine),
            parts,
        }
    }

    /// Waits until a part of it ends, which is an error.
    pub(crate) async fn ended(&mut self) -> Error {
        self.parts.ended().await
    }

    /// Ends the engine and everything around it, at once. Moves under way go on in libvirt.
    pub(crate) async fn leave(mut self) {
        if let Some(engine) = self.engine.take()
            && timeout(LEAVING, engine.leave()).await.is_err()
        {
            tracing::warn!("the engine did not leave within {} s", LEAVING.as_secs());
        }
        self.parts.tasks.shutdown().await;
    }
}

/// Starts what follows an engine: statuses, objects, Events. It needs no engine, only what one shows.
pub(crate) fn follow(
    parts: &mut Parts,
    identity: &str,
    client: Client,
    stores: Arc<Stores>,
    guard: Guard,
    views: watch::Receiver<Arc<evenkeel_engine::View>>,
    happenings: mpsc::UnboundedReceiver<Happening>,
) {
    let (known, changes) = stores.subscribe();
    let writes = Writes::new(client.clone(), guard.clone());
    parts.start("the writer", writer::run(writes, views, known, changes));
    let reporter = Reporter {
        controller: "evenkeel".to_owned(),
        instance: Some(identity.chars().filter(char::is_ascii).take(128).collect()),
    };
    // One for all: what makes a series out of repeated events is in it.
    let recorder = Recorder::new(client, reporter);
    let publisher = Publisher::new(recorder, guard, stores.clone());
    let (notes, noted) = mpsc::unbounded_channel();
    let (_, unreadable) = stores.subscribe();
    parts.start("the events", publisher.run(noted));
    parts.start("the happenings", gather(happenings, unreadable, notes));
}

/// Keeps the engine's wishes up to date.
pub(crate) async fn pump(
    stores: Arc<Stores>,
    mut revision: watch::Receiver<u64>,
    wishes: watch::Sender<Arc<Wishes>>,
) -> String {
    loop {
        if revision.changed().await.is_err() {
            return "the watches are gone".to_owned();
        }
        sleep(COALESCED).await;
        revision.mark_unchanged();
        wishes.send_replace(Arc::new(stores.wishes()));
    }
}

/// Turns what happens into notes.
async fn gather(
    mut happenings: mpsc::UnboundedReceiver<Happening>,
    mut changes: mpsc::UnboundedReceiver<Change>,
    notes: mpsc::UnboundedSender<Note>,
) -> String {
    loop {
        let note = tokio::select! {
            happening = happenings.recv() => match happening {
                Some(happening) => {
                    log(&happening);
                    Note::of(&happening)
                }
                None => return "the engine tells nothing any more".to_owned(),
            },
            change = changes.recv() => match change {
                Some(Change::Unreadable(what)) => Some(Note::unreadable(&what)),
                Some(Change::Seen(_) | Change::Gone(_)) => None,
                None => return "the watches tell nothing any more".to_owned(),
            },
        };
        if let Some(note) = note
            && notes.send(note).is_err()
        {
            return "the events are gone".to_owned();
        }
    }
}

fn log(happening: &Happening) {
    let Happening {
        kind,
        name,
        warning,
        reason,
        message,
        action,
    } = happening;
    if *warning {
        tracing::warn!(kind, name, %reason, action, "{message}");
    } else {
        tracing::info!(kind, name, %reason, action, "{message}");
    }
}
