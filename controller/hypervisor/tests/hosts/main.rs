//! The port against real libvirt hosts.
//!
//! Wants two hosts with guests, all of whose disks lie in pools, and does not run without them:
//! `EVENKEEL_TEST_URIS=qemu+tcp://A/system,qemu+tcp://B/system cargo test -p evenkeel-hypervisor -- --ignored`.
//! Hosts of qemu+tls want EVENKEEL_TEST_CREDENTIALS too: a directory with `ca.crt`, `tls.crt` and `tls.key`.
//! With `EVENKEEL_TEST_LAB="lab --lab ID"` the hosts' libvirtd are frozen and killed too (hosts h1 and h2 of that lab).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod faults;
mod moves;
mod quiet;
mod secrets;
mod support;
