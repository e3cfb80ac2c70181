//! Keys and passwords of hosts: which a connection needs, and that they are never shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use evenkeel_crds::reason::{Cause, Reason};

/// The certificate of the authority that hosts' certificates are checked against, PEM.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// Our certificate, PEM.
pub const CERTIFICATE: &str = "tls.crt";
/// Its key, PEM.
pub const KEY: &str = "tls.key";
/// Every key that is read; others may lie beside them.
pub const KEYS: [&str; 3] = [CA_CERTIFICATE, CERTIFICATE, KEY];
/// Longer values are none of ours, in bytes.
pub const LONGEST: usize = 1 << 20;

/// What one Secret, or one directory, holds. Only the names of its keys are ever shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    values: BTreeMap<String, Vec<u8>>,
    /// The hosts it serves; absent: whichever names it.
    hosts: Option<BTreeSet<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Credentials {
    /// From its keys and their values.
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self {
            values: values.into_iter().collect(),
            hosts: None,
        }
    }

    /// The same, for these hosts alone.
    #[must_use]
    pub fn only_for(mut self, hosts: BTreeSet<String>) -> Self {
        self.hosts = Some(hosts);
        self
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// Whether `host` may be reached at `uri` with them; if not, why. `secret` is their name.
    ///
    /// # Errors
    /// [`Reason::CredentialsMissing`], [`Reason::CredentialsInvalid`] or [`Reason::CredentialsNotForHost`] with a
    /// sentence that holds none of their values.
    pub fn check(&self, secret: &str, host: &str, uri: &str) -> Result<(), Cause> {
        if let Some(hosts) = &self.hosts
            && !hosts.contains(host)
        {
            return Err(Cause::new(
                Reason::CredentialsNotForHost,
                format!("the Secret `{secret}` does not say that it serves {host}"),
            ));
        }
        if !uri.starts_with("qemu+tls://") {
            return Err(Cause::new(
                Reason::NotSupportedYet,
                format!(
                    "{uri} can't be reached with credentials by this version, only qemu+tls can"
                ),
            )
            .hint("leave `credentials` out and give the system's libvirt client its keys"));
        }
        let missing: Vec<&str> = KEYS
            .into_iter()
            .filter(|key| self.get(key).is_none_or(<[u8]>::is_empty))
            .collect();
        if !missing.is_empty() {
            let message = format!("the credentials `{secret}` lack {}", missing.join(", "));
            return Err(Cause::new(Reason::CredentialsMissing, message)
                .hint("qemu+tls needs ca.crt, tls.crt and tls.key"));
        }
        for key in KEYS {
            let value = self.get(key).unwrap_or_default();
            if value.len() > LONGEST || value.contains(&0) || !contains(value, b"-----BEGIN ") {
                return Err(Cause::new(
                    Reason::CredentialsInvalid,
                    format!("{key} of the credentials `{secret}` is not PEM"),
                ));
            }
        }
        Ok(())
    }
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|part| part == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> Credentials {
        Credentials::new(KEYS.map(|key| {
            let text = "-----BEGIN X-----\nsecret\n-----END X-----\n";
            (key.to_owned(), text.as_bytes().to_vec())
        }))
    }

    fn reason(credentials: &Credentials, uri: &str) -> Option<Reason> {
        let answer = credentials.check("lab", "h1", uri);
        answer.err().map(|cause| cause.reason)
    }

    const TLS: &str = "qemu+tls://h1/system";

    #[test]
    fn whole_ones_serve_and_others_say_why_not() {
        assert_eq!(reason(&pem(), TLS), None);
        for key in KEYS {
            let mut lacking = pem();
            lacking.values.remove(key);
            assert_eq!(reason(&lacking, TLS), Some(Reason::CredentialsMissing));
            let mut odd = pem();
            odd.values.insert(key.to_owned(), b"hunter2".to_vec());
            assert_eq!(reason(&odd, TLS), Some(Reason::CredentialsInvalid));
        }
        assert_eq!(
            reason(&pem(), "qemu+tcp://h1/system"),
            Some(Reason::NotSupportedYet)
        );
    }

    #[test]
    fn a_secret_serves_whom_it_names() {
        let of = |names: &[&str]| pem().only_for(names.iter().map(|name| (*name).into()).collect());
        assert_eq!(reason(&of(&["h1", "h2"]), TLS), None);
        for names in [&[] as &[&str], &["h10"], &["h"]] {
            assert_eq!(reason(&of(names), TLS), Some(Reason::CredentialsNotForHost));
        }
    }

    #[test]
    fn no_value_is_shown() {
        assert_eq!(
            format!("{:?}", pem()),
            r#"{"ca.crt", "tls.crt", "tls.key"}"#
        );
    }
}
