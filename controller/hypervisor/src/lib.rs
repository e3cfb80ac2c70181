//! Hypervisors behind the engine's port.
//!
//! [`libvirt`] speaks to real hosts. It knows nothing of moves beyond their marks and journals and decides nothing:
//! it reads, acts when told, and says what kind of error came back. All unsafe code is in `libvirt/raw.rs`.

pub mod libvirt;
pub mod sim;
