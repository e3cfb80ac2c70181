//! What libvirt says, as the port's kinds of errors: one table, by its error code and by words in its message.
//!
//! libvirt reports much of what matters under `internal error` and `operation failed`, so the words decide first.

use evenkeel_engine::port::{Fault, PortError, PortResult};
use virt::{error::Error, sys};

/// During what the error came back; the same words mean other things then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Opening a connection to the host.
    Connect,
    /// Any ordinary call.
    Call,
    /// The migration call itself.
    Migrate,
}

/// Words in the message while a connection is opened. The first match counts.
const CONNECT_WORDS: &[(&str, Fault)] = &[
    ("Failed to verify peer's certificate", Fault::Untrusted),
    ("Host key verification failed", Fault::UnknownHostKey),
    ("Load key", Fault::BadCredentials),
    // A libvirtd that asks for a name and a password, and we have none.
    ("No authentication callback", Fault::NoCredentials),
    ("no mechanism available", Fault::NoCredentials),
    ("authentication failed", Fault::Denied),
    ("authentication unavailable", Fault::Denied),
    ("server verification (of our certificate", Fault::Denied),
    // What libvirtd 9.0 does where it does not believe a client's certificate: it hangs up after the handshake.
    ("Unable to read TLS confirmation", Fault::Denied),
    ("Cannot read CA certificate", Fault::NoCredentials),
    ("Cannot read client", Fault::NoCredentials),
    ("Our own certificate", Fault::BadCredentials),
    ("The client certificate", Fault::BadCredentials),
    ("The CA certificate", Fault::BadCredentials),
    ("Unable to import", Fault::BadCredentials),
    ("Unable to set x509", Fault::BadCredentials),
    ("ertificate", Fault::Untrusted),
    ("TLS handshake failed", Fault::Denied),
    ("Permission denied", Fault::Denied),
    ("no connection driver available", Fault::Invalid),
];

/// Words in the message of a migration. The first match counts.
const MIGRATE_WORDS: &[(&str, Fault)] = &[
    ("canceled by client", Fault::Aborted),
    ("ertificate", Fault::PeerUntrusted),
    ("Unable to access credentials", Fault::PeerUntrusted),
    ("No space left on device", Fault::NoSpace),
    (
        "Failed to connect to remote libvirt URI",
        Fault::PeerUnreachable,
    ),
    ("unable to connect to server at", Fault::PeerUnreachable),
    ("unable to resolve", Fault::PeerUnreachable),
    ("another migration job is already running", Fault::Busy),
    ("cannot acquire state change lock", Fault::Busy),
    ("already exists with uuid", Fault::Exists),
    ("already defined with uuid", Fault::Exists),
    ("is already active", Fault::Exists),
    ("domain is not running", Fault::DomainStopped),
    ("Unable to read from monitor", Fault::DomainStopped),
    ("missing block job data", Fault::DomainStopped),
    ("guest unexpectedly quit", Fault::DomainStopped),
    ("same host", Fault::Invalid),
    ("guest CPU doesn't match specification", Fault::CpuRefused),
    ("unexpectedly closed the monitor", Fault::PeerFailed),
    ("exited while connecting to monitor", Fault::PeerFailed),
    ("failed to connect to monitor socket", Fault::PeerFailed),
    ("migration of disk", Fault::PeerFailed),
    ("unexpectedly failed", Fault::PeerFailed),
    ("Unable to write to socket", Fault::PeerFailed),
    ("Domain not found", Fault::PeerFailed),
    ("no domain with matching", Fault::PeerFailed),
    ("different sizes", Fault::PeerFailed),
    ("is not in qcow2 format", Fault::PeerFailed),
    ("matching target path", Fault::PeerFailed),
    ("Could not open", Fault::PeerFailed),
    ("does not match", Fault::PeerFailed),
    ("incoming migration", Fault::PeerFailed),
];

/// Words in the message of any other call, and of a migration that matched nothing above.
const CALL_WORDS: &[(&str, Fault)] = &[
    ("No space left on device", Fault::NoSpace),
    ("cannot acquire state change lock", Fault::Busy),
    ("another migration job is already running", Fault::Busy),
    ("has asynchronous jobs running", Fault::Busy),
    ("is being used by another", Fault::Busy),
    ("already defined for use with", Fault::Exists),
    ("already exists", Fault::Exists),
    ("already in use", Fault::Exists),
    ("File exists", Fault::Exists),
    ("client socket is closed", Fault::Unreachable),
    ("keepalive timeout", Fault::Unreachable),
    ("keepalive was disabled", Fault::Unreachable),
    ("End of file while reading", Fault::Unreachable),
    ("Cannot recv data", Fault::Unreachable),
    ("Cannot write data", Fault::Unreachable),
    ("received hangup", Fault::Unreachable),
    ("unable to connect to server", Fault::Unreachable),
    ("Connection refused", Fault::Unreachable),
    ("Connection reset", Fault::Unreachable),
    ("Connection timed out", Fault::Unreachable),
    ("No route to host", Fault::Unreachable),
    ("Network is unreachable", Fault::Unreachable),
    ("unable to resolve", Fault::Unreachable),
    ("domain is not running", Fault::DomainStopped),
];

/// libvirt's error codes, where the words said nothing.
const CODES: &[(sys::virErrorNumber, Fault)] = &[
    (sys::VIR_ERR_NO_DOMAIN, Fault::NotFound),
    (sys::VIR_ERR_NO_STORAGE_VOL, Fault::NotFound),
    (sys::VIR_ERR_NO_STORAGE_POOL, Fault::NotFound),
    (sys::VIR_ERR_NO_SECRET, Fault::NotFound),
    (sys::VIR_ERR_NO_NETWORK, Fault::NotFound),
    (sys::VIR_ERR_NO_DOMAIN_METADATA, Fault::NotFound),
    (sys::VIR_ERR_STORAGE_VOL_EXIST, Fault::Exists),
    (sys::VIR_ERR_DOM_EXIST, Fault::Exists),
    (sys::VIR_ERR_OPERATION_TIMEOUT, Fault::TimedOut),
    (sys::VIR_ERR_AGENT_UNRESPONSIVE, Fault::TimedOut),
    (sys::VIR_ERR_AUTH_FAILED, Fault::Denied),
    (sys::VIR_ERR_AUTH_CANCELLED, Fault::Denied),
    (sys::VIR_ERR_AUTH_UNAVAILABLE, Fault::Denied),
    (sys::VIR_ERR_OPERATION_DENIED, Fault::Denied),
    (sys::VIR_ERR_ACCESS_DENIED, Fault::Denied),
    (sys::VIR_ERR_NO_SUPPORT, Fault::Unsupported),
    (sys::VIR_ERR_OPERATION_UNSUPPORTED, Fault::Unsupported),
    (sys::VIR_ERR_CONFIG_UNSUPPORTED, Fault::Unsupported),
    (sys::VIR_ERR_ARGUMENT_UNSUPPORTED, Fault::Unsupported),
    (sys::VIR_ERR_MIGRATE_UNSAFE, Fault::NotShared),
    (sys::VIR_ERR_CPU_INCOMPATIBLE, Fault::CpuRefused),
    (sys::VIR_ERR_OPERATION_ABORTED, Fault::Aborted),
    (sys::VIR_ERR_RESOURCE_BUSY, Fault::Busy),
    (sys::VIR_ERR_BLOCK_COPY_ACTIVE, Fault::Busy),
    (sys::VIR_ERR_INVALID_CONN, Fault::Unreachable),
    (sys::VIR_ERR_RPC, Fault::Unreachable),
    (sys::VIR_ERR_GNUTLS_ERROR, Fault::Unreachable),
    (sys::VIR_ERR_INVALID_ARG, Fault::Invalid),
    (sys::VIR_ERR_XML_ERROR, Fault::Invalid),
    (sys::VIR_ERR_XML_DETAIL, Fault::Invalid),
];

/// The kind of an error with this code and these words.
pub(crate) fn classify(doing: Doing, code: sys::virErrorNumber, message: &str) -> Fault {
    let tables: &[&[(&str, Fault)]] = match doing {
        Doing::Connect => &[CONNECT_WORDS, CALL_WORDS],
        Doing::Call => &[CALL_WORDS],
        Doing::Migrate => &[MIGRATE_WORDS, CALL_WORDS],
    };
    let message = without_names(message);
    let by_words = tables
        .iter()
        .copied()
        .flatten()
        .find(|(words, _)| message.contains(words))
        .map(|(_, fault)| *fault);
    let by_code = || {
        CODES
            .iter()
            .find(|(known, _)| *known == code)
            .map(|(_, fault)| *fault)
    };
    by_words.or_else(by_code).unwrap_or(match doing {
        Doing::Connect => Fault::Unreachable,
        Doing::Call | Doing::Migrate => Fault::Other,
    })
}

/// The message without what stands in quotes: names and paths, which may be any words.
fn without_names(message: &str) -> String {
    let mut rest = String::with_capacity(message.len());
    let mut open: Option<char> = None;
    let mut before = ' ';
    let mut letters = message.chars().peekable();
    while let Some(letter) = letters.next() {
        let ends = letters.peek().is_none_or(|next| !next.is_alphanumeric());
        match open {
            Some(quote) if letter == quote && ends => open = None,
            Some(_) => {}
            // Within a word it is an apostrophe.
            None if matches!(letter, '\'' | '"') && !before.is_alphanumeric() => {
                open = Some(letter)
            }
            None => rest.push(letter),
        }
        before = letter;
    }
    rest
}

/// One of libvirt's errors as the port's.
pub(crate) fn port_error(doing: Doing, error: &Error) -> PortError {
    let fault = classify(doing, error.code().to_raw(), error.message());
    PortError::new(fault, error.message().trim())
}

/// Turns libvirt's results into the port's.
pub(crate) trait OrFault<T> {
    /// As an ordinary call's result.
    fn or_fault(self) -> PortResult<T>;
    /// The same, with nothing where the thing is not there.
    fn or_absent(self) -> PortResult<Option<T>>;
}

impl<T> OrFault<T> for Result<T, Error> {
    fn or_fault(self) -> PortResult<T> {
        self.map_err(|error| port_error(Doing::Call, &error))
    }

    fn or_absent(self) -> PortResult<Option<T>> {
        match self.or_fault() {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.fault == Fault::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_words() {
        let message = "Requested operation is not valid: domain 'my ertificate' is already active";
        let fault = classify(Doing::Migrate, sys::VIR_ERR_OPERATION_INVALID, message);
        assert_eq!(fault, Fault::Exists);
        let told = without_names("peer's certificate of \"a's 'b'\" and 'c' at 'd:1': gone");
        assert_eq!(told, "peer's certificate of  and  at : gone");
    }

    /// Messages seen on libvirt 9.0, most of them in the faults of `evidence.md`.
    #[test]
    fn seen() {
        use Doing::{Call, Connect, Migrate};
        for (doing, code, message, fault) in [
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "unable to connect to server at 'h1:16509': Connection refused",
                Fault::Unreachable,
            ),
            (
                Connect,
                sys::VIR_ERR_AUTH_FAILED,
                "authentication failed: Failed to verify peer's certificate",
                Fault::Untrusted,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Cannot recv data: Host key verification failed.: Connection reset by peer",
                Fault::UnknownHostKey,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Cannot recv data: Load key \"ssh-privatekey\": error in libcrypto\r\nroot@h1: Permission denied (publickey).: Connection reset by peer",
                Fault::BadCredentials,
            ),
            (
                Connect,
                sys::VIR_ERR_RPC,
                "server verification (of our certificate or IP address) failed",
                Fault::Denied,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Unable to read TLS confirmation: Input/output error",
                Fault::Denied,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Cannot read CA certificate '/etc/pki/CA/cacert.pem': No such file or directory",
                Fault::NoCredentials,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "The client certificate tls.crt has expired",
                Fault::BadCredentials,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Unable to set x509 key and certificate: tls.key, tls.crt: The certificate and the given key do not match.",
                Fault::BadCredentials,
            ),
            (
                Migrate,
                sys::VIR_ERR_SYSTEM_ERROR,
                "The client certificate /etc/pki/libvirt/clientcert.pem has expired",
                Fault::PeerUntrusted,
            ),
            (
                Migrate,
                sys::VIR_ERR_INTERNAL_ERROR,
                "internal error: unable to execute QEMU command 'blockdev-add': Certificate does not match the hostname 10.213.134.10",
                Fault::PeerUntrusted,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Cannot recv data: Permission denied (publickey).: Connection reset by peer",
                Fault::Denied,
            ),
            (
                Connect,
                sys::VIR_ERR_SYSTEM_ERROR,
                "Cannot recv data: Connection reset by peer",
                Fault::Unreachable,
            ),
            (
                Connect,
                sys::VIR_ERR_NO_CONNECT,
                "no connection driver available for qemu+tcp",
                Fault::Invalid,
            ),
            (
                Call,
                sys::VIR_ERR_NO_DOMAIN,
                "Domain not found: no domain with matching uuid",
                Fault::NotFound,
            ),
            (
                Call,
                sys::VIR_ERR_INTERNAL_ERROR,
                "client socket is closed",
                Fault::Unreachable,
            ),
            (
                Call,
                sys::VIR_ERR_RPC,
                "internal error: connection closed due to keepalive timeout",
                Fault::Unreachable,
            ),
            (
                Call,
                sys::VIR_ERR_OPERATION_TIMEOUT,
                "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainMigratePerform3Params)",
                Fault::Busy,
            ),
            (
                Call,
                sys::VIR_ERR_INTERNAL_ERROR,
                "a secret with UUID 1 already defined for use with evenkeel-claim",
                Fault::Exists,
            ),
            (
                Call,
                sys::VIR_ERR_STORAGE_VOL_EXIST,
                "storage volume 'x' exists already",
                Fault::Exists,
            ),
            (
                Call,
                sys::VIR_ERR_OPERATION_INVALID,
                "Requested operation is not valid: domain is not running",
                Fault::DomainStopped,
            ),
            (
                Call,
                sys::VIR_ERR_NO_SUPPORT,
                "this function is not supported by the connection driver: virSecretLookupByUsage",
                Fault::Unsupported,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_ABORTED,
                "operation aborted: migration out job: canceled by client",
                Fault::Aborted,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_FAILED,
                "operation failed: Failed to connect to remote libvirt URI qemu+tcp://h2/system: unable to connect to server at 'h2:16509': Connection refused",
                Fault::PeerUnreachable,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_FAILED,
                "operation failed: migration of disk vda failed: No space left on device",
                Fault::NoSpace,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_FAILED,
                "operation failed: migration of disk vda failed: Input/output error",
                Fault::PeerFailed,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_FAILED,
                "operation failed: domain is not running",
                Fault::DomainStopped,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_FAILED,
                "operation failed: domain 'g' already exists with uuid 1",
                Fault::Exists,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_INVALID,
                "Requested operation is not valid: another migration job is already running for domain 'g'",
                Fault::Busy,
            ),
            (
                Migrate,
                sys::VIR_ERR_INTERNAL_ERROR,
                "internal error: Attempt to migrate guest to the same host 1",
                Fault::Invalid,
            ),
            (
                Migrate,
                sys::VIR_ERR_OPERATION_FAILED,
                "operation failed: job 'migration out' unexpectedly failed",
                Fault::PeerFailed,
            ),
            (
                Migrate,
                sys::VIR_ERR_MIGRATE_UNSAFE,
                "Unsafe migration: Migration without shared storage is unsafe",
                Fault::NotShared,
            ),
            (
                Migrate,
                sys::VIR_ERR_CPU_INCOMPATIBLE,
                "the CPU is incompatible with host CPU: Host CPU does not provide required features: avx2",
                Fault::CpuRefused,
            ),
            (
                Migrate,
                sys::VIR_ERR_INTERNAL_ERROR,
                "internal error: qemu unexpectedly closed the monitor",
                Fault::PeerFailed,
            ),
            (
                Migrate,
                sys::VIR_ERR_INTERNAL_ERROR,
                "internal error: process exited while connecting to monitor",
                Fault::PeerFailed,
            ),
        ] {
            assert_eq!(classify(doing, code, message), fault, "{message}");
        }
    }
}
