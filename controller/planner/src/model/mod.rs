//! What goes into the planner and what comes out.

mod fleet;
mod ledger;
mod plan;
mod wish;

use serde::{Deserialize, Serialize};

pub use fleet::*;
pub use ledger::*;
pub use plan::*;
pub use wish::*;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index into the fleet's list.
            #[must_use]
            pub fn at(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// A host: its place in [`Fleet::hosts`].
    HostId
);
index!(
    /// A guest: its place in [`Fleet::guests`].
    GuestId
);

index!(
    /// A base image: its place in [`Fleet::bases`].
    BaseId
);
