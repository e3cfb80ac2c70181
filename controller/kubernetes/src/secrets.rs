//! The Secrets that Hosts name, each followed by itself: others of the namespace are never read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::credentials::{Credentials, KEYS};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{WatchEvent, WatchParams},
};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    client::{CALL, call},
    error::Error,
    stores::Stores,
};

/// The hosts that a Secret serves, by their names with commas between them.
const HOSTS: &str = "evenkeel.dev/hosts";
/// After so many seconds a watch is opened anew even if nothing seems wrong.
const REOPEN: u32 = 55;
/// How soon a Secret that is not there, or can't be read, is looked for again.
const PAUSE: Duration = Duration::from_secs(3);

/// Follows the Secrets that the hosts in the stores name. Returns only where the stores are gone.
pub(crate) async fn follow(client: Client, namespace: String, stores: Arc<Stores>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let mut revision = stores.revision();
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    loop {
        revision.mark_unchanged();
        let named = stores.named_credentials();
        followed.retain(|name, _| named.contains(name));
        stores.keep_credentials(&named);
        for name in named {
            followed
                .entry(name.clone())
                .or_insert_with(|| Followed(tokio::spawn(one(api.clone(), name, stores.clone()))));
        }
        if revision.changed().await.is_err() {
            return;
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

/// Follows one Secret for ever.
async fn one(api: Api<Secret>, name: String, stores: Arc<Stores>) {
    loop {
        match call(CALL, api.get_opt(&name)).await {
            Ok(Some(secret)) => {
                let version = secret.resource_version().unwrap_or_default();
                stores.put_credentials(&name, Some(Ok(Arc::new(credentials(secret)))));
                if let Err(error) = watch(&api, &name, &version, &stores).await {
                    tracing::debug!(name, %error, "the watch of a Secret was interrupted");
                    sleep(PAUSE).await;
                }
            }
            Ok(None) => {
                stores.put_credentials(&name, None);
                sleep(PAUSE).await;
            }
            Err(error) => {
                // What is known of it stays, but not against a refusal.
                if !error.may_pass() || !stores.knows_credentials(&name) {
                    let cause = unreadable(&name, &error);
                    stores.put_credentials(&name, Some(Err(cause)));
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Follows a Secret from a version on until the watch ends or it is gone.
async fn watch(api: &Api<Secret>, name: &str, version: &str, stores: &Stores) -> Result<(), Error> {
    let params = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(REOPEN);
    let mut events = std::pin::pin!(call(CALL, api.watch(&params, version)).await?);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                stores.put_credentials(name, Some(Ok(Arc::new(credentials(secret)))));
            }
            WatchEvent::Deleted(_) => {
                stores.put_credentials(name, None);
                return Ok(());
            }
            WatchEvent::Bookmark(_) => {}
            // Too old a version, mostly: it is read anew.
            WatchEvent::Error(_) => return Ok(()),
        }
    }
    Ok(())
}

/// What a Secret holds for us, and for which hosts.
fn credentials(secret: Secret) -> Credentials {
    let hosts = secret
        .annotations()
        .get(HOSTS)
        .map(String::as_str)
        .unwrap_or_default();
    let hosts = hosts
        .split(',')
        .map(|host| host.trim().to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let values = secret.data.unwrap_or_default().into_iter();
    Credentials::new(
        values
            .filter(|(key, _)| KEYS.contains(&key.as_str()))
            .map(|(key, value)| (key, value.0)),
    )
    .only_for(hosts)
}

fn unreadable(name: &str, error: &Error) -> Cause {
    Cause::new(
        Reason::CredentialsMissing,
        format!("the Secret `{name}` can't be read: {error}"),
    )
    .hint("let the controller's service account get and watch Secrets in its namespace")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn secret(annotations: serde_json::Value) -> Secret {
        let mut secret: Secret = serde_json::from_value(
            json!({"metadata": {"name": "lab", "annotations": annotations}}),
        )
        .unwrap();
        let pem = || ByteString(b"-----BEGIN X-----\n".to_vec());
        let keys = ["ca.crt", "tls.crt", "tls.key", "token"];
        secret.data = Some(keys.map(|key| (key.to_owned(), pem())).into());
        secret
    }

    #[test]
    fn it_serves_the_hosts_of_its_annotation_alone() {
        let served = |annotations, host: &str| {
            let own = credentials(secret(annotations));
            own.check("lab", host, "qemu+tls://h/system")
                .map_err(|cause| cause.reason)
        };
        let two = || json!({HOSTS: "h1, h2"});
        assert_eq!(served(two(), "h1"), Ok(()));
        assert_eq!(served(two(), "h2"), Ok(()));
        for annotations in [two(), json!({}), json!({HOSTS: ""}), json!({HOSTS: "*"})] {
            assert_eq!(
                served(annotations, "h3"),
                Err(Reason::CredentialsNotForHost)
            );
        }
    }

    #[test]
    fn only_our_keys_are_taken() {
        assert_eq!(credentials(secret(json!({}))).get("token"), None);
    }
}
