//! Journals: what a move wrote down at each end before it made the first file, so that any later process can finish
//! it or take it back without guessing.

use evenkeel_crds::{names::HostName, quantity::Bytes, shared::RequestedBy};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is written at both ends, the same at each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Form of this text.
    pub version: u32,
    /// The move's id: one for each attempt.
    pub id: Uuid,
    /// The fleet.
    pub fleet: String,
    /// The GuestMigration's name.
    pub migration: String,
    /// Its UID, where it has one.
    #[serde(default)]
    pub migration_uid: String,
    /// Who asked for it.
    pub requested_by: RequestedBy,
    /// Number of the attempt, from one.
    pub attempt: u32,
    /// The domain.
    pub guest: Uuid,
    /// Its name.
    pub domain: String,
    /// From.
    pub source: End,
    /// To.
    pub target: End,
    /// Disks that travel.
    pub disks: Vec<JournalDisk>,
    /// Whether it started with its host before the move.
    pub autostart: bool,
    /// Whether the guest executed when the move began; a paused one stays paused.
    pub running: bool,
    /// When the attempt began, RFC 3339.
    pub start_time: String,
    /// Whether the guest was once seen to run at both ends: then both ends' files have writes of their own.
    #[serde(default)]
    pub ran_twice: bool,
    /// Whether memory and disks travel encrypted, where that was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
}

/// One end of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The Host object's name.
    pub host: HostName,
    /// The hypervisor's UUID, so that a renamed Host is recognised.
    pub uuid: Uuid,
    /// The pool that holds the journal here.
    pub pool: String,
}

/// A disk that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalDisk {
    /// Target device: `vda`.
    pub target: String,
    /// File at the source.
    pub source_path: String,
    /// Pool at the target.
    pub pool: String,
    /// Name in that pool.
    pub volume: String,
    /// File at the target.
    pub target_path: String,
    /// Format.
    pub format: String,
    /// Exact virtual size.
    pub virtual_size: Bytes,
    /// Whether we made the file at the target: written after its exclusive creation. Until then only an empty one
    /// of exactly this size is ours.
    pub created: bool,
}

/// The form that this version writes.
pub const VERSION: u32 = 1;

impl Journal {
    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        // A struct of strings and numbers can't fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From text. Nothing where it was not written to its end, or by a version we do not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        let journal: Self = serde_json::from_str(text).ok()?;
        (journal.version == VERSION).then_some(journal)
    }
}
