//! The API: what users write and read. One file per kind; quantities, names and reasons that all of them share.
//!
//! Knows no hypervisor, no client and no clock.

pub mod kinds;
pub mod manifests;
pub mod names;
pub mod quantity;
pub mod reason;
pub mod shared;

pub use kinds::{
    drain::{HostDrain, HostDrainSpec, HostDrainStatus},
    fleet::{Fleet, FleetSpec, FleetStatus},
    guest::{Guest, GuestSpec, GuestStatus},
    host::{Host, HostSpec, HostStatus},
    migration::{GuestMigration, GuestMigrationSpec, GuestMigrationStatus, MigrationPhase},
    placement::{GuestPlacement, GuestPlacementSpec, GuestPlacementStatus},
    policy::{RebalancePolicy, RebalancePolicySpec, RebalancePolicyStatus},
    profile::{MigrationProfile, MigrationProfileSpec, MigrationProfileStatus},
};
