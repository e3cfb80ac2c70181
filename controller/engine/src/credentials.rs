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
/// Who we are to a libvirtd that asks for a name and a password (SASL).
pub const USERNAME: &str = "username";
/// The password that goes with it.
pub const PASSWORD: &str = "password";
/// Our private key for ssh, without a passphrase.
pub const SSH_KEY: &str = "ssh-privatekey";
/// The keys that hosts show us by ssh, as in ssh's file of that name.
pub const KNOWN_HOSTS: &str = "known_hosts";
/// Every key that is read; others may lie beside them.
pub const KEYS: [&str; 7] = [
    CA_CERTIFICATE,
    CERTIFICATE,
    KEY,
    USERNAME,
    PASSWORD,
    SSH_KEY,
    KNOWN_HOSTS,
];
/// Longer values are none of ours, in bytes.
pub const LONGEST: usize = 1 << 20;
/// The longest name and the longest password, in bytes.
const LONGEST_LOGIN: usize = 1 << 10;

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
        let needed = self.needed(uri).ok_or_else(|| {
            Cause::new(
                Reason::NotSupportedYet,
                format!("{uri} can't be reached with credentials by this version"),
            )
            .hint("leave `credentials` out and give the system's libvirt client its keys")
        })?;
        let missing: Vec<&str> = needed
            .iter()
            .copied()
            .filter(|key| !self.has(key))
            .collect();
        if !missing.is_empty() {
            let message = format!("the credentials `{secret}` lack {}", missing.join(", "));
            return Err(Cause::new(Reason::CredentialsMissing, message).hint(
                "qemu+tls needs ca.crt, tls.crt and tls.key; qemu+ssh needs ssh-privatekey and known_hosts; libvirtd's SASL, \
                 which qemu+tcp always needs, username and password",
            ));
        }
        for key in needed {
            if let Some(wrong) = wrong(key, self.get(key).unwrap_or_default()) {
                return Err(Cause::new(
                    Reason::CredentialsInvalid,
                    format!("{key} of the credentials `{secret}` {wrong}"),
                ));
            }
        }
        Ok(())
    }

    /// Name and password, where both are there and are text.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &str)> {
        let text = |key| str::from_utf8(self.get(key)?).ok();
        Some((text(USERNAME)?, text(PASSWORD)?))
    }

    /// The keys without which `uri` can't be reached. Of a pair, one asks for the other.
    fn needed(&self, uri: &str) -> Option<Vec<&'static str>> {
        let pair = [CERTIFICATE, KEY];
        let login = [USERNAME, PASSWORD];
        let some = |keys: [&str; 2]| keys.into_iter().any(|key| self.has(key));
        let (scheme, _) = uri.split_once("://")?;
        let mut needed = Vec::new();
        match scheme {
            "qemu+tls" => {
                needed.push(CA_CERTIFICATE);
                // A libvirtd that asks for a password need not ask for a certificate.
                if some(pair) || !some(login) {
                    needed.extend(pair);
                }
                if some(login) {
                    needed.extend(login);
                }
            }
            "qemu+tcp" => needed.extend(login),
            "qemu+ssh" => {
                needed.extend([SSH_KEY, KNOWN_HOSTS]);
                if some(login) {
                    needed.extend(login);
                }
            }
            _ => return None,
        }
        Some(needed)
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.is_empty())
    }
}

/// What is wrong with a key's value, without a word of it.
fn wrong(key: &str, value: &[u8]) -> Option<&'static str> {
    let text = str::from_utf8(value).ok();
    match key {
        USERNAME | PASSWORD if value.len() > LONGEST_LOGIN => Some("is longer than 1024 bytes"),
        USERNAME | PASSWORD if value.ends_with(b"\n") => Some("ends in a line break"),
        USERNAME => {
            let plain = |c: char| c.is_ascii_graphic() && !['"', '\'', '`', '\\', ','].contains(&c);
            let plain = text.is_some_and(|text| text.chars().all(plain));
            (!plain).then_some("has a character that no name has")
        }
        PASSWORD => {
            let plain = text.is_some_and(|text| !text.chars().any(char::is_control));
            (!plain).then_some("has a character that no password has")
        }
        _ if value.len() > LONGEST => Some("is longer than 1 MiB"),
        KNOWN_HOSTS => {
            let plain =
                |text: &str| !text.contains(|c: char| c.is_control() && !"\t\r\n".contains(c));
            let known = text
                .filter(|text| plain(text))
                .is_some_and(|text| text.lines().any(is_known_host));
            (!known).then_some("has no line with a host and its key")
        }
        _ => {
            let Some(text) =
                text.filter(|text| text.contains("-----BEGIN ") && !text.contains('\0'))
            else {
                return Some("is not PEM");
            };
            (key == SSH_KEY && is_locked(text)).then_some("is locked by a passphrase")
        }
    }
}

/// Whether a line of `known_hosts` has hosts, a kind of key, and a key.
fn is_known_host(line: &str) -> bool {
    !line.trim_start().starts_with('#') && line.split_whitespace().count() >= 3
}

/// Whether a passphrase is needed to use a private key: PEM says so in words, ssh's own format where it names its cipher.
fn is_locked(key: &str) -> bool {
    /// The format's name, then `none` for the cipher.
    const UNLOCKED: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";
    key.contains("ENCRYPTED")
        || (key.contains("BEGIN OPENSSH PRIVATE KEY") && !key.contains(UNLOCKED))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PAIR: [&str; 3] = [CA_CERTIFICATE, CERTIFICATE, KEY];
    const LOGIN: [&str; 2] = [USERNAME, PASSWORD];
    const SHELL: [&str; 2] = [SSH_KEY, KNOWN_HOSTS];

    /// With a good value for each of these keys.
    fn with(keys: &[&str]) -> Credentials {
        Credentials::new(keys.iter().map(|key| {
            let value = match *key {
                USERNAME => "evenkeel@example.net",
                PASSWORD => "it's a \"long\" one",
                KNOWN_HOSTS => "# ours\nh1,10.0.0.1 ssh-ed25519 AAAA\n",
                _ => "-----BEGIN X-----\nsecret\n-----END X-----\n",
            };
            ((*key).to_owned(), value.as_bytes().to_vec())
        }))
    }

    fn reason(credentials: &Credentials, uri: &str) -> Option<Reason> {
        let answer = credentials.check("lab", "h1", uri);
        answer.err().map(|cause| cause.reason)
    }

    const TLS: &str = "qemu+tls://h1/system";
    const TCP: &str = "qemu+tcp://h1/system";
    const SSH: &str = "qemu+ssh://root@h1/system";

    #[test]
    fn whole_ones_serve_and_others_say_why_not() {
        let with_login = [SSH_KEY, KNOWN_HOSTS, USERNAME, PASSWORD];
        for (keys, uri) in [
            (&PAIR[..], TLS),
            (&KEYS[..5], TLS),
            (&LOGIN[..], TCP),
            (&SHELL[..], SSH),
            (&with_login[..], SSH),
        ] {
            assert_eq!(reason(&with(keys), uri), None);
            for key in keys {
                let mut lacking = with(keys);
                lacking.values.remove(*key);
                assert_eq!(reason(&lacking, uri), Some(Reason::CredentialsMissing));
                let mut odd = with(keys);
                odd.values.insert((*key).to_owned(), b"hunter2\n".to_vec());
                let cause = odd.check("lab", "h1", uri).unwrap_err();
                assert_eq!(cause.reason, Reason::CredentialsInvalid);
                assert!(!cause.message.contains("hunter2"));
            }
        }
        assert_eq!(
            reason(&with(&[CA_CERTIFICATE, USERNAME, PASSWORD]), TLS),
            None
        );
        assert_eq!(
            reason(&with(&PAIR), "sim://h1"),
            Some(Reason::NotSupportedYet)
        );
    }

    #[test]
    fn hostile_values_are_refused() {
        let invalid = Some(Reason::CredentialsInvalid);
        for name in [
            "a b", "a\nb", "a\"", "a'", "a\0", "a,b", "\u{e9}", "a\u{7f}",
        ] {
            let mut odd = with(&LOGIN);
            odd.values.insert(USERNAME.to_owned(), name.into());
            assert_eq!(reason(&odd, TCP), invalid, "{name:?}");
        }
        for word in [b"a\nb".as_slice(), b"a\0", b"\xff", b"a\r", &[b'a'; 1025]] {
            let mut odd = with(&LOGIN);
            odd.values.insert(PASSWORD.to_owned(), word.into());
            assert_eq!(reason(&odd, TCP), invalid, "{word:?}");
        }
    }

    #[test]
    fn what_ssh_needs_is_looked_at() {
        let invalid = Some(Reason::CredentialsInvalid);
        for (key, value) in [
            (KNOWN_HOSTS, "h1"),
            (KNOWN_HOSTS, "# h1 ssh-ed25519 AAAA"),
            (KNOWN_HOSTS, "h1 ssh-ed25519 AAAA\n\0"),
            (SSH_KEY, "ssh-ed25519 AAAA"),
            (SSH_KEY, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA"),
            // By aes256-ctr.
            (
                SSH_KEY,
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHI",
            ),
        ] {
            let mut odd = with(&SHELL);
            odd.values.insert(key.to_owned(), value.into());
            assert_eq!(reason(&odd, SSH), invalid, "{value:?}");
        }
        let mut unlocked = with(&SHELL);
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU";
        unlocked.values.insert(SSH_KEY.to_owned(), key.into());
        assert_eq!(reason(&unlocked, SSH), None);
    }

    #[test]
    fn a_secret_serves_whom_it_names() {
        let of = |names: &[&str]| {
            with(&PAIR).only_for(names.iter().map(|name| (*name).into()).collect())
        };
        assert_eq!(reason(&of(&["h1", "h2"]), TLS), None);
        for names in [&[] as &[&str], &["h10"], &["h"]] {
            assert_eq!(reason(&of(names), TLS), Some(Reason::CredentialsNotForHost));
        }
    }

    #[test]
    fn no_value_is_shown() {
        assert_eq!(
            format!("{:?}", with(&PAIR)),
            r#"{"ca.crt", "tls.crt", "tls.key"}"#
        );
    }
}
