//! The kinds, one file each.

pub mod drain;
pub mod guest;
pub mod host;
pub mod migration;
pub mod profile;
