//! Manifests from files: found, read, checked, and made into wishes. Every error is reported, each with its place.
//!
//! What the API server would refuse is refused here with the same schema and the same rules; rules on changes
//! (immutable fields) have nothing to compare with in a file and do not apply.

mod files;
pub mod locate;
pub mod object;
pub mod schema;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy, kinds::fleet::FLEET_NAME,
};
use evenkeel_engine::Wishes;

pub use files::Stamp;
use locate::{At, Document, Fault};
use object::{Checker, Outcome};

use crate::snapshot;

/// Made from the CRDs once.
static CHECKER: LazyLock<Checker> = LazyLock::new(Checker::new);

/// Where an object is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named; `-` for standard input.
    pub file: Arc<str>,
    /// Where in it.
    pub at: At,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.at.line, self.at.column)
    }
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wrong {
    /// Where.
    pub place: Place,
    /// What, as a sentence.
    pub sentence: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.sentence)
    }
}

/// Everything that is wrong with the manifests, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct WrongManifests(pub Vec<Wrong>);

impl fmt::Display for WrongManifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wrong in &self.0 {
            writeln!(f, "{wrong}")?;
        }
        let count = self.0.len();
        write!(
            f,
            "{count} error{} in the manifests; nothing was done",
            if count == 1 { "" } else { "s" }
        )
    }
}

/// One object of ours.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A host.
    Host(Box<Host>),
    /// A guest.
    Guest(Box<Guest>),
    /// A move.
    GuestMigration(Box<GuestMigration>),
    /// A drain.
    HostDrain(Box<HostDrain>),
    /// Where guests belong.
    GuestPlacement(Box<GuestPlacement>),
    /// Hosts that are to be level.
    RebalancePolicy(Box<RebalancePolicy>),
    /// How moves are done.
    MigrationProfile(Box<MigrationProfile>),
    /// What holds for all moves together.
    Fleet(Box<Fleet>),
}

/// What was read where it may be either.
#[derive(Debug)]
pub enum Read {
    /// Manifests.
    Manifests(Box<Manifests>),
    /// A snapshot: the file's name and text.
    Snapshot(Arc<str>, String),
}

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// As the engine takes it.
    pub wishes: Wishes,
    /// Where each object is written, by kind and name.
    pub places: BTreeMap<(String, String), Place>,
    /// Documents that are none of our business, for those who want to know.
    pub notes: Vec<String>,
    /// The files that were read, with what tells a change of them.
    pub stamp: Stamp,
}

impl Manifests {
    /// Reads and checks everything at `paths`: files, directories, `-`.
    ///
    /// # Errors
    /// Where a path can't be read, or with every error of every file ([`WrongManifests`]).
    pub fn load(paths: &[PathBuf]) -> anyhow::Result<Self> {
        Self::of_files(&files::find(paths)?)
    }

    /// The same, unless the one file there is a snapshot.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_or_snapshot(paths: &[PathBuf]) -> anyhow::Result<Read> {
        let found = files::find(paths)?;
        let [only] = found.as_slice() else {
            return Ok(Read::Manifests(Box::new(Self::of_files(&found)?)));
        };
        let (name, text) = (only.name.clone(), only.read_snapshot()?);
        if snapshot::is_snapshot(&text) {
            return Ok(Read::Snapshot(name, text));
        }
        only.check_size(text.len() as u64)?;
        let mut manifests = Self::check([(name, text)])?;
        manifests.stamp = Stamp::of(&found);
        Ok(Read::Manifests(Box::new(manifests)))
    }

    fn of_files(found: &[files::Found]) -> anyhow::Result<Self> {
        let texts = found
            .iter()
            .map(files::Found::read)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut manifests = Self::check(found.iter().map(|file| file.name.clone()).zip(texts))?;
        manifests.stamp = Stamp::of(found);
        Ok(manifests)
    }

    /// Checks texts, each with the name of its file.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn check(
        texts: impl IntoIterator<Item = (Arc<str>, String)>,
    ) -> Result<Self, WrongManifests> {
        let mut manifests = Self::default();
        let mut wrongs = Vec::new();
        for (file, text) in texts {
            let (documents, fault) = locate::read(&text);
            manifests.take(&file, documents, fault, &mut wrongs);
        }
        manifests.unless(wrongs)
    }

    /// Checks documents of a file that were read already.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn of_documents(
        file: &Arc<str>,
        documents: impl IntoIterator<Item = Document>,
    ) -> Result<Self, WrongManifests> {
        let mut manifests = Self::default();
        let mut wrongs = Vec::new();
        manifests.take(file, documents, None, &mut wrongs);
        manifests.unless(wrongs)
    }

    fn unless(self, mut wrongs: Vec<Wrong>) -> Result<Self, WrongManifests> {
        if wrongs.is_empty() {
            Ok(self)
        } else {
            wrongs.sort();
            wrongs.dedup();
            Err(WrongManifests(wrongs))
        }
    }

    /// Takes in the objects of a file's documents, and what is wrong with them.
    fn take(
        &mut self,
        file: &Arc<str>,
        documents: impl IntoIterator<Item = Document>,
        fault: Option<Fault>,
        wrongs: &mut Vec<Wrong>,
    ) {
        let mut faults: Vec<Fault> = fault.into_iter().collect();
        for outcome in documents
            .into_iter()
            .flat_map(|document| CHECKER.check(&document))
        {
            let place = |at| Place {
                file: file.clone(),
                at,
            };
            match outcome {
                Outcome::Foreign(at, what) => {
                    let place = place(at);
                    self.notes
                        .push(format!("{place}: {what} is none of ours and was skipped"));
                }
                Outcome::Wrong(wrong) => faults.extend(wrong),
                Outcome::Object(at, object) => faults.extend(self.add(place(at), object)),
            }
        }
        wrongs.extend(faults.into_iter().map(|Fault { at, sentence }| Wrong {
            place: Place {
                file: file.clone(),
                at,
            },
            sentence,
        }));
    }

    /// Where an object is written.
    #[must_use]
    pub fn place(&self, kind: &str, name: &str) -> Option<&Place> {
        self.places.get(&(kind.to_owned(), name.to_owned()))
    }

    fn add(&mut self, place: Place, object: Object) -> Option<Fault> {
        let (kind, name) = object.identity();
        if let Some(first) = self.places.get(&(kind.to_owned(), name.clone())) {
            return Some(Fault {
                at: place.at,
                sentence: format!(
                    "{kind} {name} is already written at {first}: remove one of the two"
                ),
            });
        }
        if matches!(&object, Object::Fleet(_)) && name != FLEET_NAME {
            return Some(Fault {
                at: place.at,
                sentence: format!("Fleet {name}: there is one Fleet, and its name is {FLEET_NAME}"),
            });
        }
        self.places.insert((kind.to_owned(), name.clone()), place);
        match object {
            Object::Host(host) => drop(self.wishes.hosts.insert(name, Arc::new(*host))),
            Object::Guest(guest) => drop(self.wishes.guests.insert(name, Arc::new(*guest))),
            Object::GuestMigration(migration) => {
                drop(self.wishes.migrations.insert(name, Arc::new(*migration)))
            }
            Object::HostDrain(drain) => drop(self.wishes.drains.insert(name, Arc::new(*drain))),
            Object::GuestPlacement(placement) => {
                drop(self.wishes.placements.insert(name, Arc::new(*placement)))
            }
            Object::RebalancePolicy(policy) => {
                drop(self.wishes.policies.insert(name, Arc::new(*policy)))
            }
            Object::MigrationProfile(profile) => {
                drop(self.wishes.profiles.insert(name, Arc::new(*profile)))
            }
            Object::Fleet(fleet) => drop(self.wishes.fleets.insert(name, Arc::new(*fleet))),
        }
        None
    }
}

impl Object {
    /// Kind and name.
    #[must_use]
    pub fn identity(&self) -> (&'static str, String) {
        let (kind, metadata) = match self {
            Self::Host(host) => ("Host", &host.metadata),
            Self::Guest(guest) => ("Guest", &guest.metadata),
            Self::GuestMigration(migration) => ("GuestMigration", &migration.metadata),
            Self::HostDrain(drain) => ("HostDrain", &drain.metadata),
            Self::GuestPlacement(placement) => ("GuestPlacement", &placement.metadata),
            Self::RebalancePolicy(policy) => ("RebalancePolicy", &policy.metadata),
            Self::MigrationProfile(profile) => ("MigrationProfile", &profile.metadata),
            Self::Fleet(fleet) => ("Fleet", &fleet.metadata),
        };
        (kind, metadata.name.clone().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
