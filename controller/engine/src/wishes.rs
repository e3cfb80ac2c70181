//! What is declared: the objects as users (or Git) have them, from wherever they come.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy, reason::Cause, shared::Answer,
};

use crate::{credentials::Credentials, port::ProcessIdentity};

/// Everything declared, at one moment. Cheap to clone: a front end sends a new one for each change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// Hosts by name.
    pub hosts: BTreeMap<String, Arc<Host>>,
    /// Guests by name: those that users wrote, and in a cluster also those made for domains found.
    pub guests: BTreeMap<String, Arc<Guest>>,
    /// Moves by name: those that users wrote, and in a cluster also those made for wishes. One whose
    /// `deletionTimestamp` is set is to be aborted.
    pub migrations: BTreeMap<String, Arc<GuestMigration>>,
    /// Drains by name. One whose `deletionTimestamp` is set counts as gone.
    pub drains: BTreeMap<String, Arc<HostDrain>>,
    /// Placements by name. One whose `deletionTimestamp` is set counts as gone.
    pub placements: BTreeMap<String, Arc<GuestPlacement>>,
    /// Rebalance policies by name. One whose `deletionTimestamp` is set counts as gone.
    pub policies: BTreeMap<String, Arc<RebalancePolicy>>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Arc<MigrationProfile>>,
    /// What holds for all moves together, by name; only the one named `default` counts.
    pub fleets: BTreeMap<String, Arc<Fleet>>,
    /// The credentials that Hosts name, by that name; a cause where they are there and can't be read.
    pub credentials: BTreeMap<String, Result<Arc<Credentials>, Cause>>,
    /// Of each Host that its node's state may drain (`node.drainOn`), whether the node is followed and how it is; absent where
    /// nobody has looked, or nobody can.
    pub nodes: BTreeMap<String, (Answer, Cause)>,
}

/// Whether two maps have the same objects, but for their statuses and what a database notes on them.
macro_rules! ask_the_same {
    ($one:expr, $other:expr) => {
        $one.len() == $other.len()
            && $one
                .iter()
                .zip(&$other)
                .all(|((name, one), (other_name, other))| {
                    let (meta, other_meta) = (&one.metadata, &other.metadata);
                    name == other_name
                        && (Arc::ptr_eq(one, other)
                            || one.spec == other.spec
                                && meta.uid == other_meta.uid
                                && meta.generation == other_meta.generation
                                && meta.labels == other_meta.labels
                                && meta.annotations == other_meta.annotations
                                && meta.creation_timestamp == other_meta.creation_timestamp
                                && meta.deletion_timestamp == other_meta.deletion_timestamp)
                })
    };
}

impl Wishes {
    /// Whether nothing else differs than what we, or a database, have written on the objects.
    pub(crate) fn ask_the_same(&self, other: &Self) -> bool {
        ask_the_same!(self.hosts, other.hosts)
            && ask_the_same!(self.guests, other.guests)
            && ask_the_same!(self.migrations, other.migrations)
            && ask_the_same!(self.drains, other.drains)
            && ask_the_same!(self.placements, other.placements)
            && ask_the_same!(self.policies, other.policies)
            && ask_the_same!(self.profiles, other.profiles)
            && ask_the_same!(self.fleets, other.fleets)
            && self.credentials == other.credentials
            && self.nodes == other.nodes
    }
}

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The fleet's name, in claims and journals.
    pub fleet: String,
    /// Who we are, in claims, for people: `apply@admin-1:4711`.
    pub holder: String,
    /// The process we are, so that a neighbour can prove us dead.
    pub process: Option<ProcessIdentity>,
    /// The lease's epoch; zero without a cluster.
    pub epoch: u64,
    /// Whether it may act at all. `plan` and `get` only look.
    pub act: bool,
    /// Whether it waits for [`crate::Engine::go`] before it starts or takes over anything: first the plan is shown.
    pub held: bool,
    /// Whether the objects come from files: then nothing remembers finished moves but the fleet itself, and a move
    /// to where its guest already is counts as satisfied instead of failed.
    pub from_files: bool,
}
