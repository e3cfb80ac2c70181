//! Files as they are carried from host to host: byte for byte, holes as holes.

use evenkeel_crds::{quantity::Bytes, shared::Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A file as it is on a host now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// Its length: every byte that is carried, holes included.
    pub length: Bytes,
    /// What it occupies.
    pub allocated: Bytes,
    /// When its content last changed, in the host's own words: equal where it did not.
    pub modified: String,
    /// The same as a time, where it can be read as one.
    pub changed: Option<Timestamp>,
    /// Who may read it.
    pub access: Access,
    /// What its head says that it is: `raw`, `qcow2`, ...
    pub format: String,
    /// The size that a guest sees.
    pub virtual_size: Bytes,
    /// The file below it, where it has one.
    pub backing: Option<Backing>,
}

/// A file's mode and owner, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Octal, as `0644`.
    pub mode: String,
    /// User id.
    pub owner: String,
    /// Group id.
    pub group: String,
}

/// The file below an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// Its path, absolute.
    pub path: String,
    /// Its format, as the overlay says.
    pub format: String,
}

/// A part of a file's content, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Data(Vec<u8>),
    /// So many zeroes that occupy nothing.
    Hole(u64),
}

impl Piece {
    /// How many bytes of the file it stands for.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(length) => *length,
        }
    }
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// In which pool, or directory outside all pools.
    pub pool: String,
    /// Its path from the pool's directory. Directories that are missing between are made.
    pub name: String,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Exact virtual size.
    pub capacity: Bytes,
    /// What it lies over, if it is an overlay.
    pub backing: Option<Backing>,
    /// The secret of that host that is to open it, where it is to be encrypted (LUKS).
    pub secret: Option<Uuid>,
}

/// A volume or file as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Virtual size.
    pub capacity: Bytes,
    /// What it occupies.
    pub allocated: Bytes,
}
