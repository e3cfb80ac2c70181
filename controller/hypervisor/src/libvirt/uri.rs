//! URIs of hypervisors: which ones we use, and nothing else.
//!
//! libvirt's URIs can name commands to run, files to read and sockets to open. Whoever may write a `Host` must not get
//! any of that, so only a scheme, a user, a host and a port are taken from the text, each checked character by
//! character, and what libvirt gets is put together anew from those parts.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use evenkeel_crds::reason::{Cause, Reason};

/// How libvirt is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS with certificates on both sides.
    Tls,
    /// Through ssh.
    Ssh,
    /// Plain TCP without authentication.
    Tcp,
}

impl Transport {
    const ALL: [Self; 3] = [Self::Tls, Self::Ssh, Self::Tcp];

    fn scheme(self) -> &'static str {
        match self {
            Self::Tls => "qemu+tls",
            Self::Ssh => "qemu+ssh",
            Self::Tcp => "qemu+tcp",
        }
    }

    /// The port where the URI names none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Tls => 16514,
            Self::Ssh => 22,
            Self::Tcp => 16509,
        }
    }
}

/// A URI that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypervisorUri {
    transport: Transport,
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

impl HypervisorUri {
    /// How libvirt is reached.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Name or address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the transport's own where the URI names none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(self.transport.default_port())
    }

    /// What libvirt is given: the parts, for ssh the order never to ask a person, and our own parameters, whose values
    /// must need no escaping.
    pub(crate) fn for_libvirt(&self, parameters: &[(&str, &str)]) -> String {
        let never_ask: &[(&str, &str)] = match self.transport {
            Transport::Ssh => &[("no_tty", "1")],
            Transport::Tls | Transport::Tcp => &[],
        };
        let mut uri = self.to_string();
        for (place, (name, value)) in never_ask.iter().chain(parameters).enumerate() {
            uri += if place == 0 { "?" } else { "&" };
            uri += &format!("{name}={value}");
        }
        uri
    }
}

impl fmt::Display for HypervisorUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.transport.scheme())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}", bracketed(&self.host))?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str("/system")
    }
}

/// An address as it stands in a URI.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Checks a URI of `Host.spec.uri` or `Host.spec.migration.uri`. With `insecure`, plain `qemu+tcp` is let through.
///
/// # Errors
/// [`Reason::InvalidURI`] with a sentence that names what is wrong; [`Reason::NotSupportedYet`] for `sim`.
pub fn check_uri(text: &str, insecure: bool) -> Result<HypervisorUri, Cause> {
    let wrong = |what: &str| {
        let shown: String = text
            .chars()
            .take(200)
            .flat_map(char::escape_default)
            .collect();
        Cause::new(Reason::InvalidURI, format!("the URI `{shown}` {what}"))
    };
    if text.is_empty() {
        return Err(wrong("is empty"));
    }
    if text.len() > 512 {
        return Err(wrong("is longer than 512 characters"));
    }
    if text.starts_with("sim:") {
        return Err(Cause::new(
            Reason::NotSupportedYet,
            format!(
                "the URI `{text}` names a simulated host, which this version does not have",
                text = text.escape_default()
            ),
        ));
    }
    for (found, what) in [
        (
            text.chars().any(|c| c.is_whitespace() || c.is_control()),
            "has a space or control character",
        ),
        (!text.is_ascii(), "has a character outside ASCII"),
        (
            text.contains('?'),
            "has a query; no parameter of libvirt's can be given here",
        ),
        (text.contains('#'), "has a fragment"),
        (text.contains('%'), "has a percent escape"),
    ] {
        if found {
            return Err(wrong(what));
        }
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| wrong("has no `://`"))?;
    let transport = Transport::ALL
        .into_iter()
        .find(|transport| transport.scheme() == scheme)
        .ok_or_else(|| wrong("has a scheme other than qemu+tls, qemu+ssh and qemu+tcp"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if path != "/system" {
        return Err(wrong("has a path other than `/system`"));
    }
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    if let Some(user) = user {
        if user.contains(':') {
            return Err(wrong("has a password"));
        }
        if transport != Transport::Ssh {
            return Err(wrong("names a user, which only qemu+ssh can"));
        }
        if !is_user(user) {
            return Err(wrong(
                "has a user of other characters than letters, digits, `.`, `_` and `-`",
            ));
        }
    }
    let (host, port) = split_port(place).map_err(wrong)?;
    let host = check_host(host).map_err(wrong)?;
    let port = port
        .map(|port| {
            Some(port)
                .filter(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|port| port.parse::<u16>().ok())
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong("has a port that is not a number from 1 to 65535"))
        })
        .transpose()?;
    if transport == Transport::Tcp && !insecure {
        return Err(
            wrong("uses plain qemu+tcp, without encryption and authentication").hint(
                "use qemu+tls or qemu+ssh, or set `insecure: true` where the network is trusted",
            ),
        );
    }
    Ok(HypervisorUri {
        transport,
        user: user.map(str::to_owned),
        host,
        port,
    })
}

fn is_user(user: &str) -> bool {
    (1..=32).contains(&user.len())
        && !user.starts_with('-')
        && user
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn split_port(place: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = place.strip_prefix('[') {
        let (_, after) = rest.split_once(']').ok_or("has a `[` without its `]`")?;
        let host = &place[..place.len() - after.len()];
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("has something other than a port behind its `]`"),
        };
    }
    match place.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("has an IPv6 address without brackets"),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((place, None)),
    }
}

fn check_host(host: &str) -> Result<String, &'static str> {
    if host.is_empty() {
        return Err("names no host");
    }
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let address: Ipv6Addr = inner
            .parse()
            .map_err(|_| "has something other than an IPv6 address in brackets")?;
        return Ok(address.to_string());
    }
    if host.starts_with('-') {
        return Err("has a host that begins with `-`");
    }
    if host.len() > 253 {
        return Err("has a host of more than 253 characters");
    }
    let labels_fine = host
        .strip_suffix('.')
        .unwrap_or(host)
        .split('.')
        .all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    if !labels_fine {
        return Err("has a host that is neither a name nor an address");
    }
    let numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("has a host of digits that is not an IPv4 address");
    }
    Ok(host.to_owned())
}

/// Checks an address that memory and disks travel to: a name, an IPv4 or an IPv6 address, nothing else.
///
/// # Errors
/// [`Reason::InvalidURI`] with a sentence that names what is wrong.
pub fn check_address(text: &str) -> Result<String, Cause> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    check_host(text).map_err(|what| {
        let shown: String = text
            .chars()
            .take(200)
            .flat_map(char::escape_default)
            .collect();
        Cause::new(Reason::InvalidURI, format!("the address `{shown}` {what}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_we_use() {
        for (text, same) in [
            (
                "qemu+tls://h1.example.net/system",
                "qemu+tls://h1.example.net/system",
            ),
            (
                "qemu+tls://10.1.0.1:16514/system",
                "qemu+tls://10.1.0.1:16514/system",
            ),
            ("qemu+ssh://root@h1/system", "qemu+ssh://root@h1/system"),
            (
                "qemu+ssh://ek.user_1@[fd00:0::1]:2222/system",
                "qemu+ssh://ek.user_1@[fd00::1]:2222/system",
            ),
            ("qemu+tcp://h1/system", "qemu+tcp://h1/system"),
        ] {
            assert_eq!(check_uri(text, true).unwrap().to_string(), same);
        }
        assert_eq!(
            check_uri("qemu+ssh://h/system", false)
                .unwrap()
                .for_libvirt(&[]),
            "qemu+ssh://h/system?no_tty=1"
        );
        assert_eq!(
            check_uri("qemu+tls://h/system", false).unwrap().port(),
            16514
        );
    }

    #[test]
    fn plain_tcp_has_to_be_said() {
        let cause = check_uri("qemu+tcp://h1/system", false).unwrap_err();
        assert_eq!(cause.reason, Reason::InvalidURI);
        assert!(cause.hint.contains("insecure"));
    }

    #[test]
    fn attacks() {
        for text in [
            "",
            "qemu:///system",
            "qemu+unix:///system?socket=/tmp/s",
            "qemu+ext://h/system?command=/bin/sh",
            "qemu+ext://h/system",
            "qemu+ssh://h/system?command=touch%20/tmp/x",
            "qemu+ssh://h/system?netcat=/tmp/x",
            "qemu+ssh://h/system?keyfile=/etc/shadow",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+tcp://-oProxyCommand=x/system",
            "qemu+ssh://-oProxyCommand=x@h/system",
            "qemu+ssh://u@-h/system",
            "qemu+ssh://u:secret@h/system",
            "qemu+ssh://u@v@h/system",
            "qemu+ssh://u;id@h/system",
            "qemu+ssh://$(id)/system",
            "qemu+ssh://`id`/system",
            "qemu+ssh://h;id/system",
            "qemu+ssh://h|id/system",
            "qemu+ssh://h\\x/system",
            "qemu+ssh://h'x/system",
            "qemu+tls://u@h/system",
            "qemu+tls://h/session",
            "qemu+tls://h/system/",
            "qemu+tls://h//system",
            "qemu+tls://h/../system",
            "qemu+tls://h/system#x",
            "qemu+tls://h/system?no_verify=1",
            "qemu+tls://h%2fx/system",
            "qemu+tls://h%0a/system",
            "qemu+tls://h\n/system",
            "qemu+tls://h/system\n",
            "qemu+tls://h /system",
            " qemu+tls://h/system",
            "qemu+tls://h\0/system",
            "qemu+tls://h\u{2028}/system",
            "qemu+tls://hé/system",
            "qemu+tls:///system",
            "qemu+tls://:1/system",
            "qemu+tls://h:0/system",
            "qemu+tls://h:65536/system",
            "qemu+tls://h:+22/system",
            "qemu+tls://h:/system",
            "qemu+tls://fd00::1/system",
            "qemu+tls://[fd00::1/system",
            "qemu+tls://[fd00::1%25eth0]/system",
            "qemu+tls://[h]/system",
            "qemu+tls://[::1]x/system",
            "qemu+tls://1.2.3/system",
            "qemu+tls://a..b/system",
            "qemu+tls://h",
            "QEMU+TLS://h/system",
            "test:///default",
            "esx://h/",
            "qemu+libssh2://h/system",
        ] {
            let cause = check_uri(text, true).unwrap_err();
            assert_eq!(cause.reason, Reason::InvalidURI, "{text}");
            assert!(!cause.message.contains('\n'), "{text}");
        }
        assert_eq!(
            check_uri("sim://a", true).unwrap_err().reason,
            Reason::NotSupportedYet
        );
        assert!(check_uri(&format!("qemu+tls://{}/system", "a".repeat(600)), true).is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(check_address("10.0.0.1").unwrap(), "10.0.0.1");
        assert_eq!(check_address("fd00:0::1").unwrap(), "fd00::1");
        for text in [
            "", "-x", "a b", "tcp://h", "h:1", "[::1]:3", "a/b", "exec:id",
        ] {
            assert!(check_address(text).is_err(), "{text}");
        }
    }
}
