//! libvirt's states and reasons in the port's words.

use evenkeel_engine::port::{Activity, Why};
use virt::sys;

/// What a domain does, and why, by libvirt's numbers.
pub(crate) fn activity(state: u32, reason: u32) -> (Activity, Why) {
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED | sys::VIR_DOMAIN_NOSTATE => (
            Activity::Running,
            match reason {
                sys::VIR_DOMAIN_RUNNING_MIGRATED => Why::Migrated,
                sys::VIR_DOMAIN_RUNNING_POSTCOPY => Why::PostCopy,
                sys::VIR_DOMAIN_RUNNING_MIGRATION_CANCELED => Why::MigrationCanceled,
                sys::VIR_DOMAIN_RUNNING_UNPAUSED => Why::Unpaused,
                sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED => Why::PostCopyFailed,
                _ => Why::Other,
            },
        ),
        sys::VIR_DOMAIN_PAUSED => match reason {
            sys::VIR_DOMAIN_PAUSED_USER => (Activity::Paused, Why::ByUser),
            sys::VIR_DOMAIN_PAUSED_MIGRATION => (Activity::Paused, Why::Migrating),
            sys::VIR_DOMAIN_PAUSED_POSTCOPY => (Activity::Paused, Why::PostCopy),
            sys::VIR_DOMAIN_PAUSED_IOERROR => (Activity::Paused, Why::IoError),
            sys::VIR_DOMAIN_PAUSED_STARTING_UP => (Activity::Paused, Why::StartingUp),
            sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED => (Activity::Paused, Why::PostCopyFailed),
            sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => (Activity::ShuttingDown, Why::Other),
            _ => (Activity::Paused, Why::Other),
        },
        sys::VIR_DOMAIN_SHUTDOWN => (Activity::ShuttingDown, Why::Other),
        sys::VIR_DOMAIN_PMSUSPENDED => (Activity::Suspended, Why::Other),
        sys::VIR_DOMAIN_CRASHED => (Activity::Crashed, Why::Other),
        _ => match reason {
            sys::VIR_DOMAIN_SHUTOFF_CRASHED => (Activity::Crashed, Why::Other),
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => (Activity::ShutOff, Why::Shutdown),
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => (Activity::ShutOff, Why::Destroyed),
            sys::VIR_DOMAIN_SHUTOFF_MIGRATED => (Activity::ShutOff, Why::LeftByMigration),
            sys::VIR_DOMAIN_SHUTOFF_FAILED | sys::VIR_DOMAIN_SHUTOFF_DAEMON => {
                (Activity::ShutOff, Why::Failed)
            }
            _ => (Activity::ShutOff, Why::Other),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_evidence_depends_on() {
        for (state, reason, expected) in [
            (1, 1, (Activity::Running, Why::Other)),
            (1, 2, (Activity::Running, Why::Migrated)),
            (1, 5, (Activity::Running, Why::Unpaused)),
            (1, 6, (Activity::Running, Why::MigrationCanceled)),
            (3, 1, (Activity::Paused, Why::ByUser)),
            (3, 2, (Activity::Paused, Why::Migrating)),
            (3, 5, (Activity::Paused, Why::IoError)),
            (1, 10, (Activity::Running, Why::PostCopy)),
            (1, 11, (Activity::Running, Why::PostCopyFailed)),
            (3, 12, (Activity::Paused, Why::PostCopy)),
            (3, 13, (Activity::Paused, Why::PostCopyFailed)),
            (3, 11, (Activity::Paused, Why::StartingUp)),
            (5, 3, (Activity::Crashed, Why::Other)),
            (5, 4, (Activity::ShutOff, Why::LeftByMigration)),
            (5, 8, (Activity::ShutOff, Why::Failed)),
            (6, 0, (Activity::Crashed, Why::Other)),
        ] {
            assert_eq!(activity(state, reason), expected, "{state} {reason}");
        }
    }
}
