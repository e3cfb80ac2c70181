//! What the engine shows: the status of every object, and what it is about to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_crds::{
    FleetStatus, GuestMigrationSpec, GuestMigrationStatus, GuestPlacementStatus, GuestStatus,
    HostDrainStatus, HostStatus, MigrationProfileStatus, RebalancePolicyStatus,
    names::{
        DrainName, FleetName, GuestName, HostName, MigrationName, PlacementName, PolicyName,
        ProfileName,
    },
    reason::{Cause, Reason},
    shared::RequestedBy,
};
use evenkeel_planner as planner;

use crate::question::Asked;

/// Everything as the engine sees it, made anew after each change. Unchanged parts are the same `Arc`.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Rises with each view.
    pub number: u64,
    /// Whether every host has answered or was found not to answer, since the engine started, and what was left
    /// by an earlier process was looked at.
    pub settled: bool,
    /// Hosts that are declared.
    pub hosts: BTreeMap<HostName, Arc<HostStatus>>,
    /// Guests found or declared.
    pub guests: BTreeMap<GuestName, Arc<GuestView>>,
    /// Moves declared, and moves made for wishes since the engine started.
    pub migrations: BTreeMap<MigrationName, Arc<MigrationView>>,
    /// Drains that are declared.
    pub drains: BTreeMap<DrainName, Arc<HostDrainStatus>>,
    /// Placements that are declared.
    pub placements: BTreeMap<PlacementName, Arc<GuestPlacementStatus>>,
    /// Rebalance policies that are declared.
    pub policies: BTreeMap<PolicyName, Arc<RebalancePolicyStatus>>,
    /// Guests that are shut down for drains, or started again afterwards, and how far each is.
    pub shutdowns: BTreeMap<GuestName, Cause>,
    /// Profiles that are declared.
    pub profiles: BTreeMap<ProfileName, Arc<MigrationProfileStatus>>,
    /// Fleets that are declared.
    pub fleets: BTreeMap<FleetName, Arc<FleetStatus>>,
    /// Moves that are over and older than the Fleet's history asks for: a front end with a database removes their objects.
    pub outdated: BTreeSet<MigrationName>,
    /// What is planned, over [`Self::fleet`].
    pub plan: Arc<planner::Plan>,
    /// The fleet that the plan's ids refer to.
    pub fleet: Arc<planner::Fleet>,
    /// What else the plan follows from.
    pub asked: Arc<Asked>,
    /// What is wrong with the manifests as only the fleet can tell: an unknown host or guest, a move into a host
    /// that is being drained, two Hosts for one hypervisor.
    pub problems: Vec<Problem>,
}

/// A guest as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestView {
    /// The domain's UUID; absent where a manifest binds to nothing.
    pub uuid: Option<String>,
    /// Whether there is an object of this name; if not, a front end with a database makes one.
    pub declared: bool,
    /// Labels of the manifest over those in the domain's metadata.
    pub labels: BTreeMap<String, String>,
    /// Its status.
    pub status: GuestStatus,
}

/// A move as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationView {
    /// Whether there is an object of this name; if not, a front end with a database makes one.
    pub declared: bool,
    /// Its spec.
    pub spec: GuestMigrationSpec,
    /// The wish it was made for; itself where a user wrote it.
    pub requested_by: RequestedBy,
    /// Its status.
    pub status: GuestMigrationStatus,
}

/// Something wrong with an object that only the fleet can tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object's kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub cause: Cause,
}

/// Something that happened, worth an Event on its object and a line in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// The object's kind.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// Whether somebody should look.
    pub warning: bool,
    /// The word.
    pub reason: Reason,
    /// The sentence, the hint appended where there is one.
    pub message: String,
    /// What was being done, CamelCase: `Migrate`, `Drain`, `Observe`, `Plan`.
    pub action: &'static str,
}
