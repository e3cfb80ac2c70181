//! Keys and passwords are in this process's memory, so no core dump is made of it, nor of what it starts.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Of 1 byte: too short for a core file, and Linux's sign not to hand one to a program either, which 0 is not.
const NONE: Rlimit = Rlimit {
    current: Some(1),
    maximum: Some(1),
};

/// Forbids core dumps.
///
/// # Errors
/// Where the system does not let us.
pub fn forbid() -> std::io::Result<()> {
    Ok(setrlimit(Resource::Core, NONE)?)
}
