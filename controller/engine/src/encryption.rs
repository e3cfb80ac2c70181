//! Whether memory and disks travel encrypted between two hosts.

use evenkeel_crds::{
    kinds::host::HostSpec,
    reason::{Cause, Reason},
};

/// What is wished of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// Encrypted, or not at all.
    Required,
    /// Encrypted between two hosts that both reach each other by qemu+tls.
    #[default]
    Preferred,
    /// Plain.
    None,
}

/// How the other hosts' hypervisors reach this one.
pub(crate) fn peer_uri(host: &HostSpec) -> &str {
    host.migration.uri.as_deref().unwrap_or(&host.uri)
}

/// Whether a move from `source` to `target` is encrypted: both need certificates for each other, and qemu+tls is how a
/// Host says that it has them.
///
/// # Errors
/// [`Reason::EncryptionUnavailable`] where it has to be and can't.
pub(crate) fn encrypts(
    wish: Encryption,
    source: (&str, &HostSpec),
    target: (&str, &HostSpec),
) -> Result<bool, Cause> {
    let plain: Vec<&str> = [source, target]
        .into_iter()
        .filter(|(_, host)| !peer_uri(host).starts_with("qemu+tls://"))
        .map(|(name, _)| name)
        .collect();
    match wish {
        Encryption::None => Ok(false),
        Encryption::Preferred => Ok(plain.is_empty()),
        Encryption::Required if plain.is_empty() => Ok(true),
        Encryption::Required => Err(Cause::new(
            Reason::EncryptionUnavailable,
            format!(
                "the other hosts do not reach {} by qemu+tls, so nothing between {} and {} is encrypted",
                plain.join(" and "),
                source.0,
                target.0
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(uri: &str, peers: Option<&str>) -> HostSpec {
        let mut host = HostSpec {
            uri: uri.to_owned(),
            ..HostSpec::default()
        };
        host.migration.uri = peers.map(str::to_owned);
        host
    }

    #[test]
    fn both_ends_have_to_speak_tls() {
        let tls = host("qemu+tls://a/system", None);
        let tcp = host("qemu+tcp://a/system", None);
        let by_ssh = host("qemu+ssh://a/system", Some("qemu+tls://10.0.0.1/system"));
        let plain_peers = host("qemu+tls://a/system", Some("qemu+tcp://10.0.0.1/system"));
        for (source, target, both) in [
            (&tls, &tls, true),
            (&tls, &by_ssh, true),
            (&by_ssh, &tls, true),
            (&tls, &tcp, false),
            (&tcp, &tls, false),
            (&tls, &plain_peers, false),
            (&plain_peers, &tls, false),
        ] {
            let ask = |wish| encrypts(wish, ("h1", source), ("h2", target));
            assert_eq!(ask(Encryption::Preferred), Ok(both));
            assert_eq!(ask(Encryption::None), Ok(false));
            match ask(Encryption::Required) {
                Ok(encrypted) => assert!(both && encrypted),
                Err(cause) => {
                    assert!(!both);
                    assert_eq!(cause.reason, Reason::EncryptionUnavailable);
                }
            }
        }
    }
}
