//! Whether memory and disks travel encrypted between two hosts.

use evenkeel_crds::{
    kinds::{host::HostSpec, profile::Encryption},
    names::HostName,
    reason::{Cause, Reason},
};

/// How the other hosts' hypervisors reach this one.
pub(crate) fn peer_uri(host: &HostSpec) -> &str {
    host.migration.uri.as_deref().unwrap_or(&host.uri)
}

/// Whether a host can be an end of an encrypted move: both need certificates for each other, and qemu+tls is how a Host
/// says that it has them.
fn is_able(host: &HostSpec) -> bool {
    peer_uri(host).starts_with("qemu+tls://")
}

/// Whether a move between these two is encrypted.
pub(crate) fn encrypts(wish: Encryption, source: &HostSpec, target: &HostSpec) -> bool {
    wish != Encryption::None && is_able(source) && is_able(target)
}

/// Why a host can't be an end of a move that has to be encrypted.
pub(crate) fn refusal(wish: Encryption, name: &HostName, host: &HostSpec) -> Option<Cause> {
    (wish == Encryption::Required && !is_able(host)).then(|| {
        Cause::new(
            Reason::EncryptionUnavailable,
            format!("the other hosts do not reach {name} by qemu+tls, so nothing from or to it is encrypted"),
        )
    })
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
            assert_eq!(encrypts(Encryption::Preferred, source, target), both);
            assert_eq!(encrypts(Encryption::Required, source, target), both);
            assert!(!encrypts(Encryption::None, source, target));
            let refused = [("h1", source), ("h2", target)]
                .into_iter()
                .filter_map(|(name, host)| refusal(Encryption::Required, &name.into(), host))
                .collect::<Vec<_>>();
            assert_eq!(refused.is_empty(), both);
            assert!(
                refused
                    .iter()
                    .all(|cause| cause.reason == Reason::EncryptionUnavailable)
            );
            assert_eq!(refusal(Encryption::Preferred, &"h1".into(), source), None);
        }
    }
}
