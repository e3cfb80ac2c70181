//! Journals: what a move wrote down at each end before it made the first file, so that any later process can finish
//! it or take it back without guessing.

use evenkeel_crds::{
    kinds::profile::{AppliedProfile, Switchover},
    names::HostName,
    quantity::Bytes,
    shared::RequestedBy,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    evidence::Arrival,
    port::{Backing, DiskPlace},
};

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
    /// Where the guest goes on to by another move, if it only stops over at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onward: Option<HostName>,
    /// Disks that travel.
    pub disks: Vec<JournalDisk>,
    /// Disks on storage that both ends see: one file, never removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedDisk>,
    /// Other files that it needs at the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<JournalFile>,
    /// Secrets that open its disks, by their UUIDs; never their values. One at the target says itself whether a move
    /// brought it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Uuid>,
    /// Of a guest that is not running: its definition, as it was at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Whether it started with its host before the move.
    pub autostart: bool,
    /// Whether the guest executed when the move began; a paused one stays paused.
    pub running: bool,
    /// When the attempt began, RFC 3339.
    pub start_time: String,
    /// Whether the guest was once seen to run at both ends: then both ends' files have writes of their own.
    #[serde(default)]
    pub ran_twice: bool,
    /// Whether we pause the guest for a moment at the target, where it runs already, so that its disks are written. Only
    /// ever in the target's journal: whoever reads that lets the guest go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub halted: bool,
    /// The move is finished, and its disks at the source are kept until then, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
    /// How the move is done.
    #[serde(default)]
    pub profile: AppliedProfile,
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
    /// Path from that pool's directory.
    pub volume: String,
    /// File at the target.
    pub target_path: String,
    /// The topmost directory that had to be made for it: removed where the move is taken back, as long as it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_directory: Option<String>,
    /// Format.
    pub format: String,
    /// Exact virtual size.
    pub virtual_size: Bytes,
    /// The base that it lies over at the target, where only its top layer travels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<Backing>,
    /// The secret that opens it, at both ends, where it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Uuid>,
    /// Whether we made the file at the target: written after its exclusive creation. Until then only an empty one
    /// of exactly this size is ours.
    pub created: bool,
}

impl JournalDisk {
    /// Where it is at the target.
    #[must_use]
    pub fn place(&self) -> DiskPlace {
        DiskPlace {
            target: self.target.clone(),
            path: self.target_path.clone(),
            pool: self.pool.clone(),
            volume: self.volume.clone(),
        }
    }
}

/// A disk that is left in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedDisk {
    /// Target device: `vda`.
    pub target: String,
    /// Its file, at both ends.
    pub path: String,
}

/// A file that is carried: at the same path on both ends, but for a stopped guest's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalFile {
    /// What for: `kernel`, `nvram`, `cdrom`, ...
    pub role: String,
    /// Its path at the target.
    pub path: String,
    /// Its path at the source, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
    /// Its length.
    pub length: Bytes,
    /// Where the one at the target comes from.
    pub origin: FileOrigin,
    /// Whether it is this guest's alone: then it leaves the source with it.
    pub own: bool,
}

impl JournalFile {
    /// Its path at the source.
    #[must_use]
    pub fn source(&self) -> &str {
        self.source_path.as_deref().unwrap_or(&self.path)
    }
}

/// Where a file at the target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileOrigin {
    /// It was there.
    Found,
    /// It is to be made: until it is noted that it was, only an empty one of exactly this length is ours.
    Planned,
    /// A move that is not over yet made it: this one, or another that this one shares it with.
    Made,
}

/// The form that this version writes.
pub const VERSION: u32 = 1;

/// What is found where a journal lies.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A journal.
    Whole(Box<Journal>),
    /// It was not written to its end: nothing was made after it.
    Unwritten,
    /// It is damaged, or of a form that this version does not know. It may tell of anything.
    Unreadable,
}

impl Journal {
    /// How the guest arrives at the target.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        match (self.running, self.profile.spec.switchover) {
            _ if self.halted => Arrival::Halted,
            (false, _) => Arrival::StaysPaused,
            (true, Switchover::Fast) => Arrival::Running,
            (true, Switchover::Guarded) => Arrival::Guarded,
        }
    }

    /// Whether the move may be switched to post-copy: not that of a guest that stands still, which needs no help.
    #[must_use]
    pub fn allows_post_copy(&self) -> bool {
        self.running
            && self.profile.spec.switchover == Switchover::Fast
            && self.profile.spec.allows_post_copy()
    }

    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        // A struct of strings and numbers can't fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a text is. One that breaks off was never written to its end; whatever else can't be read is no such thing.
    #[must_use]
    pub fn find(text: &str) -> Found {
        let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        match (
            Self::parse(text),
            serde_json::from_str::<serde_json::Value>(trimmed),
        ) {
            (Some(journal), _) => Found::Whole(Box::new(journal)),
            (None, Err(error)) if error.is_eof() => Found::Unwritten,
            (None, _) => Found::Unreadable,
        }
    }

    /// From text. Nothing where it was not written to its end, or by a version we do not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        let journal: Self = serde_json::from_str(text).ok()?;
        (journal.version == VERSION).then_some(journal)
    }
}

#[cfg(test)]
#[path = "../../../tests/corpus/mod.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_them_is_what_it_is_named() {
        for (name, text) in corpus::texts("journals", "") {
            let kind = match Journal::find(&text) {
                Found::Whole(_) => "whole",
                Found::Unwritten => "unwritten",
                Found::Unreadable => "unreadable",
            };
            assert!(name.starts_with(kind), "{name} is {kind}");
        }
    }
}
