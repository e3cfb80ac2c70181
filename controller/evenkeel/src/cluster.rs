//! The cluster that the kubeconfig names, for commands without `-f`.

use std::time::Duration;

use anyhow::bail;
use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy,
};
use evenkeel_kubernetes::{Access, Error, client};
use serde::Serialize;
use serde_json::Value;

use crate::{arguments::Common, kind::Kind};

pub use client::Client;

/// Connects. No call is made yet.
///
/// # Errors
/// Where no cluster is configured.
pub async fn connect(common: &Common) -> anyhow::Result<Client> {
    Ok(access(common).client().await?)
}

/// How the command line says the cluster is reached.
#[must_use]
pub fn access(common: &Common) -> Access {
    Access {
        kubeconfig: common.kubeconfig.clone(),
        context: common.context.clone(),
    }
}

/// Objects of a kind, by name; only the one of that name where one is given.
///
/// # Errors
/// Where the cluster does not answer, refuses, or has no such object.
pub async fn objects(
    client: &Client,
    kind: Kind,
    name: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    match kind {
        Kind::Host => typed::<Host>(client, name).await,
        Kind::Guest => typed::<Guest>(client, name).await,
        Kind::Migration => typed::<GuestMigration>(client, name).await,
        Kind::Drain => typed::<HostDrain>(client, name).await,
        Kind::Placement => typed::<GuestPlacement>(client, name).await,
        Kind::Policy => typed::<RebalancePolicy>(client, name).await,
        Kind::Profile => typed::<MigrationProfile>(client, name).await,
        Kind::Fleet => typed::<Fleet>(client, name).await,
    }
}

async fn typed<K: client::Object + Serialize>(
    client: &Client,
    name: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    let mut objects: Vec<Value> = match name {
        Some(name) => vec![serde_json::to_value(client::get::<K>(client, name).await?)?],
        None => client::list::<K>(client)
            .await?
            .values()
            .map(|object| serde_json::to_value(&**object))
            .collect::<Result<_, _>>()?,
    };
    // Who wrote which field is for the API server, as kubectl has it.
    for metadata in objects
        .iter_mut()
        .filter_map(|object| object["metadata"].as_object_mut())
    {
        metadata.remove("managedFields");
    }
    Ok(objects)
}

/// Waits until `done` says so of the object of that name, at most for `limit`. False where the time was up.
///
/// # Errors
/// Where the cluster refuses or the watch ends for good.
pub async fn wait_until<K: client::Object>(
    client: &Client,
    name: &str,
    limit: Option<Duration>,
    mut done: impl FnMut(Option<&K>) -> bool + Send,
) -> anyhow::Result<bool> {
    let mut gone = false;
    let mut seen = false;
    let waiting = client::wait_until::<K>(client, name, |object| {
        // The watch may begin before the object shows in it.
        gone = seen && object.is_none();
        seen |= object.is_some();
        gone || done(object)
    });
    match tokio::time::timeout(limit.unwrap_or(Duration::MAX), waiting).await {
        Err(_) => return Ok(false),
        Ok(Err(error)) => return Err(error.into()),
        Ok(Ok(_)) => {}
    }
    if gone {
        bail!("{name} was deleted while it was watched");
    }
    Ok(true)
}

/// Whether an error says that the object is there already.
#[must_use]
pub fn exists(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists(_))
}
