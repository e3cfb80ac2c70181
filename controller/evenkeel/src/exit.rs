//! How the program ends.

use std::process::{ExitCode, Termination};

/// What a pipeline can tell from the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Nothing to do, or all of it done.
    Done = 0,
    /// An error: nothing is known of what was asked.
    Error = 1,
    /// `plan`: something is to be done.
    ToDo = 2,
    /// Something can't be done.
    Impossible = 3,
    /// Somebody else acts on the hosts.
    Claimed = 4,
    /// Interrupted by a signal.
    Interrupted = 5,
    /// A deadline has passed.
    Deadline = 6,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}
