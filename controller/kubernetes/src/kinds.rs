//! The kinds as one: an object as the API server has it, a status as the engine wants it, and the key of both.

use std::{fmt, sync::Arc};

use evenkeel_crds::{
    Fleet, FleetStatus, Guest, GuestMigration, GuestMigrationStatus, GuestPlacement,
    GuestPlacementStatus, GuestStatus, Host, HostDrain, HostDrainStatus, HostStatus,
    MigrationProfile, MigrationProfileStatus, RebalancePolicy, RebalancePolicyStatus,
};
use evenkeel_engine::{GuestView, MigrationView};
use k8s_openapi::{ClusterResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// One of our kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Host,
    Guest,
    Migration,
    Drain,
    Placement,
    Policy,
    Profile,
    Fleet,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Host,
        Self::Guest,
        Self::Migration,
        Self::Drain,
        Self::Placement,
        Self::Policy,
        Self::Profile,
        Self::Fleet,
    ];

    /// The word in manifests.
    pub(crate) fn word(self) -> &'static str {
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

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Which object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A type that is one of our kinds.
pub(crate) trait Declared:
    Resource<DynamicType = (), Scope = ClusterResourceScope>
    + Clone
    + fmt::Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    const KIND: Kind;

    fn object(self) -> Object;
}

macro_rules! declared {
    ($($type:ty => $kind:ident),*) => {$(
        impl Declared for $type {
            const KIND: Kind = Kind::$kind;

            fn object(self) -> Object {
                Object::$kind(Arc::new(self))
            }
        }
    )*};
}

declared!(Host => Host, Guest => Guest, GuestMigration => Migration, HostDrain => Drain, GuestPlacement => Placement, RebalancePolicy => Policy, MigrationProfile => Profile, Fleet => Fleet);

/// An object as the API server has it.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    Host(Arc<Host>),
    Guest(Arc<Guest>),
    Migration(Arc<GuestMigration>),
    Drain(Arc<HostDrain>),
    Placement(Arc<GuestPlacement>),
    Policy(Arc<RebalancePolicy>),
    Profile(Arc<MigrationProfile>),
    Fleet(Arc<Fleet>),
}

impl Object {
    pub(crate) fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Host(object) => &object.metadata,
            Self::Guest(object) => &object.metadata,
            Self::Migration(object) => &object.metadata,
            Self::Drain(object) => &object.metadata,
            Self::Placement(object) => &object.metadata,
            Self::Policy(object) => &object.metadata,
            Self::Profile(object) => &object.metadata,
            Self::Fleet(object) => &object.metadata,
        }
    }

    pub(crate) fn key(&self) -> Key {
        let kind = match self {
            Self::Host(_) => Kind::Host,
            Self::Guest(_) => Kind::Guest,
            Self::Migration(_) => Kind::Migration,
            Self::Drain(_) => Kind::Drain,
            Self::Placement(_) => Kind::Placement,
            Self::Policy(_) => Kind::Policy,
            Self::Profile(_) => Kind::Profile,
            Self::Fleet(_) => Kind::Fleet,
        };
        Key::new(kind, self.meta().name.as_deref().unwrap_or_default())
    }

    pub(crate) fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    /// Its resource version as a number, which orders the versions of one object.
    pub(crate) fn version(&self) -> u64 {
        let version = self.meta().resource_version.as_deref();
        version.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Its status as JSON; null where it has none.
    pub(crate) fn status(&self) -> Value {
        match self {
            Self::Host(object) => json(&object.status),
            Self::Guest(object) => json(&object.status),
            Self::Migration(object) => json(&object.status),
            Self::Drain(object) => json(&object.status),
            Self::Placement(object) => json(&object.status),
            Self::Policy(object) => json(&object.status),
            Self::Profile(object) => json(&object.status),
            Self::Fleet(object) => json(&object.status),
        }
    }

    /// Whether both say the same to the engine: all but what we write ourselves (status, finalizers).
    pub(crate) fn same_wish(&self, other: &Self) -> bool {
        let (a, b) = (self.meta(), other.meta());
        let spec = match (self, other) {
            (Self::Host(a), Self::Host(b)) => a.spec == b.spec,
            (Self::Guest(a), Self::Guest(b)) => a.spec == b.spec,
            (Self::Migration(a), Self::Migration(b)) => a.spec == b.spec,
            (Self::Drain(a), Self::Drain(b)) => a.spec == b.spec,
            (Self::Placement(a), Self::Placement(b)) => a.spec == b.spec,
            (Self::Policy(a), Self::Policy(b)) => a.spec == b.spec,
            (Self::Profile(a), Self::Profile(b)) => a.spec == b.spec,
            (Self::Fleet(a), Self::Fleet(b)) => a.spec == b.spec,
            _ => false,
        };
        spec && a.uid == b.uid
            && a.generation == b.generation
            && a.labels == b.labels
            && a.annotations == b.annotations
            && a.deletion_timestamp.is_some() == b.deletion_timestamp.is_some()
    }
}

/// What the engine shows of an object.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    Host(Arc<HostStatus>),
    Guest(Arc<GuestView>),
    Migration(Arc<MigrationView>),
    Drain(Arc<HostDrainStatus>),
    Placement(Arc<GuestPlacementStatus>),
    Policy(Arc<RebalancePolicyStatus>),
    Profile(Arc<MigrationProfileStatus>),
    Fleet(Arc<FleetStatus>),
}

impl Wanted {
    pub(crate) fn status(&self) -> Value {
        match self {
            Self::Host(status) => json::<HostStatus>(status),
            Self::Guest(view) => json::<GuestStatus>(&view.status),
            Self::Migration(view) => json::<GuestMigrationStatus>(&view.status),
            Self::Drain(status) => json::<HostDrainStatus>(status),
            Self::Placement(status) => json::<GuestPlacementStatus>(status),
            Self::Policy(status) => json::<RebalancePolicyStatus>(status),
            Self::Profile(status) => json::<MigrationProfileStatus>(status),
            Self::Fleet(status) => json::<FleetStatus>(status),
        }
    }

    /// Whether both are the very same value in memory, or equal.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(a), Self::Host(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Guest(a), Self::Guest(b)) => Arc::ptr_eq(a, b) || a.status == b.status,
            (Self::Migration(a), Self::Migration(b)) => Arc::ptr_eq(a, b) || a.status == b.status,
            (Self::Drain(a), Self::Drain(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Placement(a), Self::Placement(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Policy(a), Self::Policy(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Profile(a), Self::Profile(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Fleet(a), Self::Fleet(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }
}

/// As JSON. Our statuses are plain structs that always can be written; should one ever not be, it counts as empty.
fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
