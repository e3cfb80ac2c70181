//! What goes wrong with a call.

use evenkeel_crds::reason::Reason;

/// What kind of answer an error is. The engine decides by this alone; the message is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// There is no connection, or it broke during the call: what the call did is unknown.
    Unreachable,
    /// The host did not answer in time; the call may still execute there.
    TimedOut,
    /// The hypervisor refuses who we are.
    Denied,
    /// We don't believe that the hypervisor is who it says.
    Untrusted,
    /// The hypervisor's machine shows by ssh another key than we know, or one that we don't.
    UnknownHostKey,
    /// There are no keys to connect with.
    NoCredentials,
    /// Our own keys are no good: expired, or not of one another.
    BadCredentials,
    /// The URI or the request makes no sense to the adapter.
    Invalid,
    /// The thing asked for is not there.
    NotFound,
    /// The thing to be made exists already (a claim, a journal, a volume, a domain).
    Exists,
    /// Another job or call holds the domain.
    Busy,
    /// No room on the device.
    NoSpace,
    /// The hypervisor cannot do this.
    Unsupported,
    /// The migration was aborted by us or by another client.
    Aborted,
    /// The source's hypervisor could not open its connection to the target's.
    PeerUnreachable,
    /// One of the two hypervisors does not believe the other's certificate.
    PeerUntrusted,
    /// The target refused or lost the migration.
    PeerFailed,
    /// The source's copy stopped during the call.
    DomainStopped,
    /// The target's QEMU can't give the guest its CPU.
    CpuRefused,
    /// A disk that is not copied is on storage that only this host is known to see.
    NotShared,
    /// Anything else.
    Other,
}

/// A call that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    /// Its kind.
    pub fault: Fault,
    /// What the hypervisor said.
    pub message: String,
}

impl PortError {
    /// An error of this kind.
    #[must_use]
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            message: message.into(),
        }
    }

    /// Whether the call may have had its effect although it failed.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.fault, Fault::Unreachable | Fault::TimedOut)
    }
}

/// What a call returns.
pub type PortResult<T> = Result<T, PortError>;

impl From<&PortError> for Reason {
    fn from(error: &PortError) -> Self {
        match error.fault {
            Fault::Unreachable | Fault::TimedOut => Self::HostUnreachable,
            Fault::Denied => Self::AuthenticationFailed,
            Fault::Untrusted => Self::CertificateUntrusted,
            Fault::UnknownHostKey => Self::HostKeyUntrusted,
            Fault::NoCredentials => Self::CredentialsMissing,
            Fault::BadCredentials => Self::CredentialsInvalid,
            Fault::PeerUntrusted => Self::PeerCertificateUntrusted,
            Fault::Invalid => Self::InvalidURI,
            Fault::NoSpace => Self::InsufficientDisk,
            Fault::Busy => Self::JobActive,
            Fault::Aborted => Self::Aborted,
            Fault::PeerUnreachable => Self::TargetCannotBeReachedFromSource,
            Fault::PeerFailed => Self::TargetFailed,
            Fault::DomainStopped => Self::GuestStopped,
            Fault::NotShared => Self::SharedStorageUnsafe,
            Fault::CpuRefused => Self::IncompatibleCPU,
            Fault::NotFound | Fault::Exists | Fault::Unsupported | Fault::Other => {
                Self::HypervisorError
            }
        }
    }
}
