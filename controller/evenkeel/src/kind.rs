//! The kinds as the command line names them.

use clap::ValueEnum;
use evenkeel_crds::manifests;
use serde_json::Value;

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Machines that run libvirtd
    #[value(name = "hosts", aliases = ["host", "evh"])]
    Host,
    /// Domains
    #[value(name = "guests", aliases = ["guest", "evg"])]
    Guest,
    /// Moves
    #[value(name = "migrations", aliases = ["migration", "guestmigrations", "guestmigration", "moves", "move", "evm"])]
    Migration,
    /// Hosts that must be empty
    #[value(name = "drains", aliases = ["drain", "hostdrains", "hostdrain", "evd"])]
    Drain,
    /// Where guests belong
    #[value(name = "placements", aliases = ["placement", "guestplacements", "guestplacement", "evp"])]
    Placement,
    /// Hosts that are to be level
    #[value(name = "policies", aliases = ["policy", "rebalancepolicies", "rebalancepolicy", "evr"])]
    Policy,
    /// How moves are done
    #[value(name = "profiles", aliases = ["profile", "migrationprofiles", "migrationprofile", "evmp"])]
    Profile,
    /// What holds for all moves together
    #[value(name = "fleets", aliases = ["fleet", "evf"])]
    Fleet,
}

impl Kind {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "Host",
            Self::Guest => "Guest",
            Self::Migration => "GuestMigration",
            Self::Drain => "HostDrain",
            Self::Placement => "GuestPlacement",
            Self::Policy => "RebalancePolicy",
            Self::Profile => "MigrationProfile",
            Self::Fleet => "Fleet",
        }
    }

    /// As the command line says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "hosts",
            Self::Guest => "guests",
            Self::Migration => "migrations",
            Self::Drain => "drains",
            Self::Placement => "placements",
            Self::Policy => "policies",
            Self::Profile => "profiles",
            Self::Fleet => "fleets",
        }
    }

    /// Its CRD as JSON.
    #[must_use]
    pub fn crd(self) -> Value {
        let crd = manifests::all()
            .into_iter()
            .map(|(_, crd)| crd)
            .find(|crd| crd.spec.names.kind == self.as_str());
        serde_json::to_value(crd).unwrap_or_default()
    }
}
