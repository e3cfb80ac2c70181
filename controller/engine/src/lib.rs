//! The engine: moves, ledger, evidence, claims and journals. It knows neither Kubernetes nor libvirt.

pub mod port;
