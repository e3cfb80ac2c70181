//! The adapter to hypervisors, and its rules for what a manifest may name.

use std::{sync::Arc, time::Duration};

use evenkeel_crds::reason::Cause;
use evenkeel_engine::port::Hypervisors;
use evenkeel_hypervisor::libvirt::{self, Libvirt};

/// Prepares the process, before it has a second thread.
pub fn prepare() {
    libvirt::quieten();
}

/// Lets the connections be closed before the process ends; a host that hangs delays that by no more than a second.
pub fn leave() {
    libvirt::farewell(Duration::from_secs(1));
}

/// The real ones.
#[must_use]
pub fn open() -> Arc<dyn Hypervisors> {
    Arc::new(Libvirt::new())
}

/// Whether a URI is one we use; if not, why.
///
/// # Errors
/// With the sentence.
pub fn check_uri(uri: &str, insecure: bool) -> Result<(), String> {
    libvirt::check_uri(uri, insecure)
        .map(drop)
        .map_err(sentence)
}

/// Whether memory and disks can be sent to that address; if not, why.
///
/// # Errors
/// With the sentence.
pub fn check_address(address: &str) -> Result<(), String> {
    libvirt::check_address(address).map(drop).map_err(sentence)
}

fn sentence(cause: Cause) -> String {
    if cause.hint.is_empty() {
        cause.message
    } else {
        format!("{}: {}", cause.message, cause.hint)
    }
}
