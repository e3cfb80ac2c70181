//! Leaving in good order.
//!
//! libvirtd (seen with 9.0) may crash when a client that has registered for events goes away while a call of it is being
//! answered: two of its threads then free the client's registrations at the same time. A process that ends in the middle
//! of taking them back does just that, so it waits for its connections to be closed.

use std::{
    sync::{Condvar, Mutex},
    time::Duration,
};

use super::worker::lock;

static OPEN: Mutex<usize> = Mutex::new(0);
static CLOSED: Condvar = Condvar::new();

/// One connection with registrations, from before the first of them until it is closed.
#[derive(Debug)]
pub(crate) struct Open(());

impl Open {
    pub(crate) fn one() -> Self {
        *lock(&OPEN) += 1;
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *lock(&OPEN) -= 1;
        CLOSED.notify_all();
    }
}

/// Waits until every connection that brings events is closed, at most this long; whether they all are. To be called last
/// in a process, after the hosts' handles were dropped: it closes nothing by itself.
pub fn farewell(limit: Duration) -> bool {
    CLOSED
        .wait_timeout_while(lock(&OPEN), limit, |open| *open > 0)
        .is_ok_and(|(open, _)| *open == 0)
}
