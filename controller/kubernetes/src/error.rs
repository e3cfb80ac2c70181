//! What can go wrong between us and an API server, each as a sentence a person can act on.

use std::fmt;

/// A call to the API server, or the controller as a whole, that went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No kubeconfig and no service account.
    #[error(
        "no cluster is configured: set KUBECONFIG, or leave the cluster out with `-f DIR` ({0})"
    )]
    NoConfiguration(String),
    /// The cluster does not know a kind.
    #[error(
        "the cluster does not know {0}: install the kinds with `evenkeel crds | kubectl apply -f -`"
    )]
    NotInstalled(String),
    /// No such object.
    #[error("{0}")]
    NotFound(String),
    /// The object exists already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The cluster does not let us.
    #[error("the cluster refuses: {0}")]
    Forbidden(String),
    /// Somebody else changed the object at the same time.
    #[error("somebody else changed it at the same time: {0}")]
    Conflict(String),
    /// The manifest is wrong.
    #[error("{0}")]
    Invalid(String),
    /// No answer in time: what the call did is unknown.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    TimedOut(std::time::Duration),
    /// No connection, or a failure of the server's own.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
    /// We no longer hold the lease, so nothing is written.
    #[error("the lease is no longer ours")]
    NoLease,
    /// An answer that can't be read.
    #[error("an answer of the API server can't be read: {0}")]
    Unreadable(String),
    /// The health server could not be started.
    #[error("can't serve health at {0}: {1}")]
    Health(std::net::SocketAddr, std::io::Error),
    /// A part of the controller ended that should run for ever.
    #[error("{part} ended: {why}")]
    Ended {
        /// Which part.
        part: &'static str,
        /// What it said.
        why: String,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Conflict(_) | Self::TimedOut(_) | Self::Unreachable(_) | Self::NotInstalled(_)
        )
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        let status = match error {
            kube::Error::Api(status) => status,
            kube::Error::SerdeError(error) => return Self::Unreadable(error.to_string()),
            kube::Error::InferConfig(error) => return Self::NoConfiguration(error.to_string()),
            kube::Error::InferKubeconfig(error) => return Self::NoConfiguration(error.to_string()),
            kube::Error::Auth(error) => return Self::Forbidden(Chain(&error).to_string()),
            other => return Self::Unreachable(Chain(&other).to_string()),
        };
        // What is in front of this is the whole object.
        let sentence = status.message.rfind("strict decoding error").unwrap_or(0);
        let message = status.message[sentence..].to_owned();
        let details = status.details.as_ref();
        match (status.code, status.reason.as_str()) {
            (404, _) if details.is_none_or(|details| details.name.is_empty()) => {
                let kind = details
                    .map(|details| details.kind.clone())
                    .unwrap_or_default();
                Self::NotInstalled(if kind.is_empty() {
                    "this kind".to_owned()
                } else {
                    kind
                })
            }
            (404, _) => Self::NotFound(message),
            (409, "AlreadyExists") => Self::AlreadyExists(message),
            (409, _) => Self::Conflict(message),
            (401 | 403, _) => Self::Forbidden(message),
            // A server-side apply with an unknown field is answered by 500 without a reason.
            (400 | 422, _) | (500, "") => Self::Invalid(message),
            (code, _) => Self::Unreachable(format!("{message} ({code})")),
        }
    }
}

/// An error with all its causes.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}
