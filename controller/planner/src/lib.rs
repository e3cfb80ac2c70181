//! The one brain: which guest goes where, when, and why not.
//!
//! [`plan`] is a pure function of the fleet, the wishes, what is in flight and the time. It knows no clock, no
//! network, no hypervisor and no Kubernetes; the same input gives the same plan, to the last word.

#![forbid(unsafe_code)]

pub mod model;

pub use model::*;
