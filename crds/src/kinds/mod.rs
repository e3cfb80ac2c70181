//! The kinds, one file each.

pub mod drain;
pub mod fleet;
pub mod guest;
pub mod host;
pub mod migration;
pub mod placement;
pub mod policy;
pub mod profile;
