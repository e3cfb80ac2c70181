//! `evenkeel controller`: the engine in a Kubernetes cluster.

use std::env;

use anyhow::bail;
use evenkeel_engine::process;
use evenkeel_kubernetes::Settings;

use crate::{
    arguments::{Common, Controller},
    cluster,
    exit::Exit,
    hypervisors,
    session::machine,
    signals::Signals,
};

/// Runs until it is asked to stop.
///
/// # Errors
/// Where no cluster is configured, or a part of it ended that should not have.
pub async fn run(common: &Common, arguments: &Controller) -> anyhow::Result<Exit> {
    if common.credentials.is_some() {
        bail!(
            "the controller takes credentials from the Secrets that Hosts name, not from --credentials or $EVENKEEL_CREDENTIALS"
        );
    }
    let mut signals = Signals::listen()?;
    let settings = Settings {
        access: cluster::access(common),
        lease_namespace: arguments.lease_namespace.clone(),
        lease_name: arguments.lease_name.clone(),
        identity: env::var("POD_NAME")
            .unwrap_or_else(|_| format!("{}:{}", machine(), std::process::id())),
        fleet: arguments.fleet.clone(),
        process: process::own_identity(),
        health: Some(arguments.health_address),
        ..Settings::default()
    };
    evenkeel_kubernetes::run(settings, hypervisors::open(), async move {
        signals.next().await
    })
    .await?;
    Ok(Exit::Done)
}
