//! Whether the process behind a claim still lives, where that can be known: on this machine, in this namespace.

use std::{fs, os::unix::fs::MetadataExt};

use crate::port::ProcessIdentity;

/// This process. Nothing where the system does not tell.
#[must_use]
pub fn own_identity() -> Option<ProcessIdentity> {
    let pid = std::process::id();
    Some(ProcessIdentity {
        boot: boot()?,
        namespace: namespace()?,
        pid,
        start: start_of(pid)?,
    })
}

/// Whether that process is proven dead: it lived in this boot of this machine, in our own PID namespace, and no
/// process has its id and start time any more. Anything less is no proof.
#[must_use]
pub fn proven_dead(other: &ProcessIdentity) -> bool {
    let here = boot().as_ref() == Some(&other.boot) && namespace() == Some(other.namespace);
    here && start_of(other.pid) != Some(other.start)
}

fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

fn namespace() -> Option<u64> {
    Some(fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

/// Start time in clock ticks since boot; nothing for a process that is gone or a zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_this_machine_can_be_proven_dead() {
        let own = own_identity().unwrap();
        assert!(!proven_dead(&own), "we live");
        let recycled = ProcessIdentity {
            start: own.start + 1,
            ..own.clone()
        };
        assert!(proven_dead(&recycled), "our id, but another process");
        let elsewhere = ProcessIdentity {
            boot: "another machine".into(),
            ..recycled
        };
        assert!(
            !proven_dead(&elsewhere),
            "nothing is known of other machines"
        );
    }
}
