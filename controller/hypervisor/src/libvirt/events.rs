//! libvirt's events in the port's words.

use evenkeel_engine::port::DomainEvent;
use uuid::Uuid;
use virt::sys;

use super::raw::RawEvent;

/// The domain an event is about, and what it means to a move; nothing where it only makes a new look worthwhile.
pub(crate) fn meaning(event: RawEvent) -> (Option<Uuid>, Option<DomainEvent>) {
    match event {
        RawEvent::Lifecycle(uuid, event, detail) => (
            Some(uuid),
            lifecycle(event.unsigned_abs(), detail.unsigned_abs()),
        ),
        RawEvent::Reboot(uuid) => (Some(uuid), Some(DomainEvent::Rebooted)),
        RawEvent::BlockJob(uuid) => (Some(uuid), Some(DomainEvent::BlockJob)),
        RawEvent::Iteration(uuid) => (Some(uuid), Some(DomainEvent::Iteration)),
        RawEvent::JobCompleted(uuid) => (Some(uuid), Some(DomainEvent::JobCompleted)),
        RawEvent::Changed(uuid) => (Some(uuid), None),
        RawEvent::Surroundings | RawEvent::Closed => (None, None),
    }
}

fn lifecycle(event: sys::virDomainEventType, detail: u32) -> Option<DomainEvent> {
    Some(match event {
        sys::VIR_DOMAIN_EVENT_DEFINED => DomainEvent::Defined,
        sys::VIR_DOMAIN_EVENT_UNDEFINED => DomainEvent::Undefined,
        sys::VIR_DOMAIN_EVENT_STARTED => match detail {
            sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED => DomainEvent::IncomingStarted,
            sys::VIR_DOMAIN_EVENT_STARTED_WAKEUP => DomainEvent::Resumed,
            _ => DomainEvent::Booted,
        },
        sys::VIR_DOMAIN_EVENT_SUSPENDED => match detail {
            sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED | sys::VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY => {
                DomainEvent::SuspendedForSwitch
            }
            _ => DomainEvent::Suspended,
        },
        sys::VIR_DOMAIN_EVENT_RESUMED => match detail {
            sys::VIR_DOMAIN_EVENT_RESUMED_MIGRATED => DomainEvent::ResumedMigrated,
            _ => DomainEvent::Resumed,
        },
        sys::VIR_DOMAIN_EVENT_STOPPED => match detail {
            sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => DomainEvent::StoppedMigrated,
            _ => DomainEvent::Stopped,
        },
        sys::VIR_DOMAIN_EVENT_CRASHED => DomainEvent::Stopped,
        sys::VIR_DOMAIN_EVENT_PMSUSPENDED => DomainEvent::Suspended,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_move_waits_for() {
        let uuid = Uuid::nil();
        for (event, detail, meant) in [
            (2, 1, Some(DomainEvent::IncomingStarted)),
            (2, 0, Some(DomainEvent::Booted)),
            (3, 1, Some(DomainEvent::SuspendedForSwitch)),
            (3, 0, Some(DomainEvent::Suspended)),
            (4, 1, Some(DomainEvent::ResumedMigrated)),
            (4, 0, Some(DomainEvent::Resumed)),
            (5, 3, Some(DomainEvent::StoppedMigrated)),
            (5, 5, Some(DomainEvent::Stopped)),
            (6, 0, None),
            (0, 0, Some(DomainEvent::Defined)),
            (1, 0, Some(DomainEvent::Undefined)),
        ] {
            assert_eq!(
                meaning(RawEvent::Lifecycle(uuid, event, detail)),
                (Some(uuid), meant)
            );
        }
    }
}
