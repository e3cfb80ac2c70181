//! A cluster as the command line needs it: what is declared there, and the few things that commands write.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestMigrationSpec, GuestPlacement, Host, HostDrain,
    HostDrainSpec, MigrationProfile, RebalancePolicy,
};
use evenkeel_engine::Wishes;
use futures::{Stream, StreamExt, TryStreamExt};
pub use kube::Client;
use kube::{
    Api, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    error::{Chain, Error},
    kinds::Declared,
    pause::Pauses,
};

/// The longest a call may take.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// Objects per page of a list.
const PAGE: u32 = 500;
/// The name under which we write.
pub(crate) const MANAGER: &str = "evenkeel";

/// One of the four kinds.
#[allow(private_bounds)]
pub trait Object: Declared {}

impl<K: Declared> Object for K {}

/// How to reach a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; absent: `KUBECONFIG`, `~/.kube/config`, then the service account of a pod.
    pub kubeconfig: Option<std::path::PathBuf>,
    /// A context in it; absent: its current one.
    pub context: Option<String>,
}

impl Access {
    /// A client. No call is made yet.
    ///
    /// # Errors
    /// Where there is no usable configuration.
    pub async fn client(&self) -> Result<Client, Error> {
        build(self.configuration().await?)
    }

    pub(crate) async fn configuration(&self) -> Result<Config, Error> {
        let wrong =
            |error: &dyn std::error::Error| Error::NoConfiguration(Chain(error).to_string());
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let file = read(path)?;
                let config = Config::from_custom_kubeconfig(file, &options).await;
                config.map_err(|error| wrong(&error))?
            }
            (None, Some(_)) => {
                let config = Config::from_kubeconfig(&options).await;
                config.map_err(|error| wrong(&error))?
            }
            (None, None) => Config::infer().await.map_err(|error| wrong(&error))?,
        };
        // Its own retries are silent for minutes; ours are seen.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Kubeconfig, Error> {
    Kubeconfig::read_from(path)
        .map_err(|error| Error::NoConfiguration(format!("{}: {}", path.display(), Chain(&error))))
}

pub(crate) fn build(config: Config) -> Result<Client, Error> {
    Client::try_from(config).map_err(Error::from)
}

/// A client from `KUBECONFIG`, `~/.kube/config` or a pod's service account.
///
/// # Errors
/// Where there is no usable configuration.
pub async fn client() -> Result<Client, Error> {
    Access::default().client().await
}

/// A call with a deadline.
pub(crate) async fn call<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    match timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::TimedOut(limit)),
    }
}

/// All objects of a kind, by name. One that can't be read is left out and logged.
///
/// # Errors
/// Where the cluster does not answer, refuses or does not know the kind.
pub async fn list<K: Object>(client: &Client) -> Result<BTreeMap<String, Arc<K>>, Error> {
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut found = BTreeMap::new();
    loop {
        let page = call(CALL, api.list(&params)).await.map_err(named::<K>)?;
        for object in page.items {
            let name = object.name_any();
            match object.0 {
                Ok(object) => drop(found.insert(name, Arc::new(object))),
                Err(error) => {
                    tracing::warn!(kind = K::KIND.word(), name, %error, "an object can't be read");
                }
            }
        }
        match page.metadata.continue_ {
            Some(more) if !more.is_empty() => params = params.continue_token(&more),
            _ => return Ok(found),
        }
    }
}

/// One object.
///
/// # Errors
/// As [`list`], and [`Error::NotFound`].
pub async fn get<K: Object>(client: &Client, name: &str) -> Result<K, Error> {
    call(CALL, Api::<K>::all(client.clone()).get(name))
        .await
        .map_err(named::<K>)
}

/// Everything declared in the cluster.
///
/// # Errors
/// As [`list`].
pub async fn load_wishes(client: &Client) -> Result<Wishes, Error> {
    let (hosts, guests, migrations, drains, placements, policies, profiles, fleets) = futures::try_join!(
        list::<Host>(client),
        list::<Guest>(client),
        list::<GuestMigration>(client),
        list::<HostDrain>(client),
        list::<GuestPlacement>(client),
        list::<RebalancePolicy>(client),
        list::<MigrationProfile>(client),
        list::<Fleet>(client),
    )?;
    Ok(Wishes {
        hosts,
        guests,
        migrations,
        drains,
        placements,
        policies,
        profiles,
        fleets,
        ..Wishes::default()
    })
}

/// Creates a `GuestMigration`.
///
/// # Errors
/// [`Error::AlreadyExists`], [`Error::Invalid`] with the cluster's own sentence, and as [`list`].
pub async fn create_migration(
    client: &Client,
    name: &str,
    spec: GuestMigrationSpec,
) -> Result<GuestMigration, Error> {
    create(client, GuestMigration::new(name, spec)).await
}

/// Creates a `HostDrain`.
///
/// # Errors
/// As [`create_migration`].
pub async fn create_drain(
    client: &Client,
    name: &str,
    spec: HostDrainSpec,
) -> Result<HostDrain, Error> {
    create(client, HostDrain::new(name, spec)).await
}

/// Creates an object.
///
/// # Errors
/// As [`create_migration`].
pub async fn create<K: Object + Serialize>(client: &Client, object: K) -> Result<K, Error> {
    let params = PostParams {
        field_manager: Some("evenkeel-cli".to_owned()),
        ..PostParams::default()
    };
    let api = Api::<K>::all(client.clone());
    call(CALL, api.create(&params, &object))
        .await
        .map_err(named::<K>)
}

/// Changes an object's spec by a merge patch: `{"suspend": true}`. Unknown fields are refused.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Invalid`], and as [`list`].
pub async fn patch_spec<K: Object>(client: &Client, name: &str, spec: Value) -> Result<K, Error> {
    let params = PatchParams {
        field_manager: Some("evenkeel-cli".to_owned()),
        ..PatchParams::default()
    }
    .validation_strict();
    let api = Api::<K>::all(client.clone());
    let patch = Patch::Merge(json!({ "spec": spec }));
    call(CALL, api.patch(name, &params, &patch))
        .await
        .map_err(named::<K>)
}

/// Asks a move to be aborted. From `Switching` on it goes forward all the same.
///
/// # Errors
/// As [`patch_spec`].
pub async fn abort_migration(client: &Client, name: &str) -> Result<GuestMigration, Error> {
    patch_spec(client, name, json!({ "abort": true })).await
}

/// Deletes an object. False where there was none.
///
/// # Errors
/// As [`list`].
pub async fn delete<K: Object>(client: &Client, name: &str) -> Result<bool, Error> {
    let api = Api::<K>::all(client.clone());
    match call(CALL, api.delete(name, &DeleteParams::default()))
        .await
        .map_err(named::<K>)
    {
        Ok(_) => Ok(true),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An object now and after each change; nothing while there is none of that name. Interruptions are bridged: the
/// stream ends only with an error that does not pass by itself.
pub fn follow<K: Object>(
    client: &Client,
    name: &str,
) -> impl Stream<Item = Result<Option<K>, Error>> + Send + use<K> {
    let api = Api::<K>::all(client.clone());
    let mut over = false;
    watcher::watch_object(api, name)
        .backoff(Pauses::default())
        .map_err(watch_error)
        .filter_map(|item| async {
            match item {
                Err(error) if error.may_pass() && !matches!(error, Error::NotInstalled(_)) => {
                    tracing::debug!(%error, "a watch was interrupted");
                    None
                }
                other => Some(other.map_err(named::<K>)),
            }
        })
        .take_while(move |item| {
            let ended = std::mem::replace(&mut over, item.is_err());
            async move { !ended }
        })
}

/// Waits until an object is as asked, and returns it; nothing where it is gone and that is as asked.
///
/// # Errors
/// As [`get`], but that a missing object is up to `done`. It has no deadline of its own.
pub async fn wait_until<K: Object>(
    client: &Client,
    name: &str,
    mut done: impl FnMut(Option<&K>) -> bool + Send,
) -> Result<Option<K>, Error> {
    let mut changes = std::pin::pin!(follow::<K>(client, name));
    while let Some(object) = changes.try_next().await? {
        if done(object.as_ref()) {
            return Ok(object);
        }
    }
    Err(Error::Unreachable("the watch ended".to_owned()))
}

pub(crate) fn watch_error(error: watcher::Error) -> Error {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error.into(),
        watcher::Error::WatchError(status) if status.code == 410 => {
            Error::Conflict(status.message.clone())
        }
        watcher::Error::WatchError(status) => kube::Error::Api(status).into(),
        watcher::Error::NoResourceVersion => Error::Unreadable("no resource version".to_owned()),
    }
}

/// Names the kind that is missing.
fn named<K: Declared>(error: Error) -> Error {
    match error {
        Error::NotInstalled(_) => Error::NotInstalled(K::KIND.word().to_owned()),
        other => other,
    }
}

/// Whether the cluster knows the kind and lets us list it.
pub(crate) async fn installed<K: Object>(client: &Client) -> Result<(), Error> {
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    let params = ListParams::default().limit(1);
    call(CALL, api.list(&params)).await.map_err(named::<K>)?;
    Ok(())
}
