//! The watches: what the API server shows goes into the stores, whatever happens in between.

use std::sync::Arc;

use futures::StreamExt;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;

use crate::{
    client::watch_error,
    health::Health,
    kinds::{Declared, Key},
    pause::Pauses,
    stores::{Stores, Unreadable},
};

/// After so many seconds a watch is opened anew even if nothing seems wrong; a dead connection is noticed then.
const REOPEN: u32 = 55;

/// Follows one kind for ever. A new round starts it anew with a full list: for whoever must not rely on what was seen
/// before, or has reason to believe that connections died silently.
pub(crate) async fn follow<K: Declared>(
    client: Client,
    stores: Arc<Stores>,
    health: Arc<Health>,
    mut rounds: watch::Receiver<u64>,
) {
    loop {
        let round = *rounds.borrow_and_update();
        let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
        let config = watcher::Config::default().timeout(REOPEN);
        let mut events = std::pin::pin!(watcher::watcher(api, config).backoff(Pauses::default()));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                Ok(()) = rounds.changed() => break,
            };
            match event {
                Some(Ok(event)) => {
                    health.watched(K::KIND);
                    take(&stores, event, round);
                }
                Some(Err(error)) => {
                    let error = watch_error(error);
                    if health.watch_failed(K::KIND) {
                        tracing::warn!(kind = K::KIND.word(), %error, "a watch was interrupted");
                    }
                }
                None => break,
            }
        }
    }
}

fn take<K: Declared>(stores: &Stores, event: Event<DeserializeGuard<K>>, round: u64) {
    match event {
        Event::Init => stores.listing(K::KIND),
        Event::InitDone => stores.listing_done(K::KIND, round),
        Event::InitApply(object) | Event::Apply(object) => put(stores, object),
        Event::Delete(object) => {
            let name = kube::Resource::meta(&object).name.clone();
            stores.take(Key::new(K::KIND, name.as_deref().unwrap_or_default()));
        }
    }
}

fn put<K: Declared>(stores: &Stores, object: DeserializeGuard<K>) {
    match object.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            stores.put(object.object());
        }
        Err(invalid) => {
            let meta = invalid.metadata;
            let key = Key::new(K::KIND, meta.name.as_deref().unwrap_or_default());
            let version = meta.resource_version.as_deref();
            let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
            let error = invalid.error;
            let what = Unreadable {
                key: key.clone(),
                uid: meta.uid.unwrap_or_default(),
                error: error.clone(),
            };
            if stores.put_unreadable(version, what) {
                tracing::warn!(%key, error, "an object can't be read and is left as it was before");
            }
        }
    }
}
