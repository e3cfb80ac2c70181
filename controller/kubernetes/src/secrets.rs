//! The Secrets that Hosts name: others of the namespace are never read.

use std::{collections::BTreeSet, sync::Arc};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::credentials::{Credentials, KEYS};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::{error::Error, followed::Named, stores::Stores};

/// The hosts that a Secret serves, by their names with commas between them.
const HOSTS: &str = "evenkeel.dev/hosts";

/// The Secrets that the Hosts in the stores name.
#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Arc<Stores>);

impl Named for Secrets {
    type Object = Secret;

    fn names(&self) -> BTreeSet<String> {
        let named = self.0.named_credentials();
        self.0.keep_credentials(&named);
        named
    }

    fn found(&self, _: u64, name: &str, secret: Option<Secret>) {
        let found = secret.map(|secret| Ok(Arc::new(credentials(secret))));
        self.0.put_credentials(name, found);
    }

    /// What is known of it stays, but not against a refusal.
    fn failed(&self, _: u64, name: &str, error: &Error) {
        if !error.may_pass() || !self.0.knows_credentials(name) {
            let cause = unreadable(name, error);
            self.0.put_credentials(name, Some(Err(cause)));
        }
    }
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
