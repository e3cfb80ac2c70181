//! Objects that Hosts name, each followed by itself: no other of its kind is ever read, so that no right to list them is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use futures::TryStreamExt;
use kube::{
    Api, Resource, ResourceExt,
    api::{WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    client::{CALL, call},
    error::Error,
};

/// After so many seconds a watch is opened anew even if nothing seems wrong.
const REOPEN: u32 = 55;
/// A watch that has not ended by then is a dead connection.
const SILENCE: Duration = Duration::from_secs(70);
/// How soon an object that is not there, or can't be read, is looked for again.
const PAUSE: Duration = Duration::from_secs(3);

/// What is followed, and who hears of it.
pub(crate) trait Named: Clone + Send + Sync + 'static {
    /// The kind.
    type Object: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static;

    /// The names that Hosts give now. What is known of others is forgotten.
    fn names(&self) -> BTreeSet<String>;

    /// How an object was in that round; nothing where there was none.
    fn found(&self, round: u64, name: &str, object: Option<Self::Object>);

    /// It could not be read.
    fn failed(&self, round: u64, name: &str, error: &Error);
}

/// Follows the objects for as long as names may change. A new round reads all of them anew.
pub(crate) async fn follow<N: Named>(
    api: Api<N::Object>,
    named: N,
    mut revision: watch::Receiver<u64>,
    mut rounds: watch::Receiver<u64>,
) {
    let mut round = *rounds.borrow_and_update();
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    loop {
        revision.mark_unchanged();
        let names = named.names();
        followed.retain(|name, _| names.contains(name));
        for name in names {
            followed.entry(name.clone()).or_insert_with(|| {
                let one = one(api.clone(), named.clone(), round, name);
                Followed(tokio::spawn(one))
            });
        }
        tokio::select! {
            changed = revision.changed() => if changed.is_err() {
                return;
            },
            Ok(()) = rounds.changed() => {
                round = *rounds.borrow_and_update();
                followed.clear();
            }
        }
    }
}

/// A task that ends with it.
struct Followed(JoinHandle<()>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows one object for ever.
async fn one<N: Named>(api: Api<N::Object>, named: N, round: u64, name: String) {
    loop {
        match call(CALL, api.get_opt(&name)).await {
            Ok(Some(object)) => {
                let version = object.resource_version().unwrap_or_default();
                named.found(round, &name, Some(object));
                let watched = watch(&api, &named, round, &name, &version);
                match timeout(SILENCE, watched).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(name, %error, "the watch of an object was interrupted");
                        sleep(PAUSE).await;
                    }
                    Err(_) => tracing::debug!(name, "the watch of an object was silent"),
                }
            }
            Ok(None) => {
                named.found(round, &name, None);
                sleep(PAUSE).await;
            }
            Err(error) => {
                named.failed(round, &name, &error);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Follows an object from a version on until the watch ends or it is gone.
async fn watch<N: Named>(
    api: &Api<N::Object>,
    named: &N,
    round: u64,
    name: &str,
    version: &str,
) -> Result<(), Error> {
    let params = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(REOPEN);
    let mut events = std::pin::pin!(call(CALL, api.watch(&params, version)).await?);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                named.found(round, name, Some(object));
            }
            WatchEvent::Deleted(_) => {
                named.found(round, name, None);
                return Ok(());
            }
            WatchEvent::Bookmark(_) => {}
            // Too old a version, mostly: it is read anew.
            WatchEvent::Error(_) => return Ok(()),
        }
    }
    Ok(())
}
