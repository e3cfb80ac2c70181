//! Objects and views for tests.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_crds::{
    Guest, GuestMigration, GuestMigrationSpec, GuestMigrationStatus, GuestSpec, GuestStatus, Host,
    HostSpec, HostStatus, MigrationPhase,
    kinds::host::{Capacity, CpuCapacity, MemoryCapacity, PoolCapacity},
    quantity::Bytes,
    reason::Reason,
    shared::{Answer, MOVE_FINALIZER, RequestedBy, condition},
};
use evenkeel_engine::{GuestView, MigrationView, View};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

use crate::kinds::Object;

pub(crate) fn time(second: i64) -> Time {
    Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
}

pub(crate) fn meta(name: &str, uid: &str, version: u64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        resource_version: Some(version.to_string()),
        creation_timestamp: Some(time(0)),
        ..ObjectMeta::default()
    }
}

pub(crate) fn host(name: &str, version: u64, status: Option<HostStatus>) -> Object {
    Object::Host(Arc::new(Host {
        metadata: meta(name, "u1", version),
        spec: HostSpec::default(),
        status,
    }))
}

pub(crate) fn guest(name: &str, version: u64, status: Option<GuestStatus>) -> Object {
    Object::Guest(Arc::new(Guest {
        metadata: meta(name, "u1", version),
        spec: GuestSpec::default(),
        status,
    }))
}

pub(crate) fn host_status(second: i64, memory_used: u64) -> HostStatus {
    HostStatus {
        observed_time: Some(time(second)),
        hostname: Some("h1".to_owned()),
        capacity: Some(Capacity {
            cpu: CpuCapacity::default(),
            memory: MemoryCapacity {
                total: Bytes(1000),
                used_now: Bytes(memory_used),
                ..MemoryCapacity::default()
            },
            pools: vec![PoolCapacity {
                name: "default".to_owned(),
                total: Bytes(1000),
                ..PoolCapacity::default()
            }],
        }),
        ..HostStatus::default()
    }
}

/// A move as the API server has it.
#[derive(Clone)]
pub(crate) struct Move {
    pub(crate) name: &'static str,
    pub(crate) uid: &'static str,
    pub(crate) version: u64,
    pub(crate) phase: Option<MigrationPhase>,
    pub(crate) finalizer: bool,
    pub(crate) deleted: bool,
    pub(crate) created: i64,
}

impl Default for Move {
    fn default() -> Self {
        Self {
            name: "m",
            uid: "u1",
            version: 1,
            phase: None,
            finalizer: true,
            deleted: false,
            created: 0,
        }
    }
}

impl Move {
    pub(crate) fn object(self) -> Object {
        Object::Migration(Arc::new(GuestMigration {
            metadata: ObjectMeta {
                finalizers: self.finalizer.then(|| vec![MOVE_FINALIZER.to_owned()]),
                deletion_timestamp: self.deleted.then(|| time(1)),
                creation_timestamp: Some(time(self.created)),
                ..meta(self.name, self.uid, self.version)
            },
            spec: GuestMigrationSpec::default(),
            status: self.phase.map(move_status),
        }))
    }
}

pub(crate) fn move_status(phase: MigrationPhase) -> GuestMigrationStatus {
    GuestMigrationStatus {
        phase,
        completion_time: phase.is_final().then(|| time(5)),
        conditions: vec![condition(
            "Succeeded",
            Answer::Unknown,
            Reason::InProgress,
            "on its way",
            Some(1),
            time(0).0,
        )],
        ..GuestMigrationStatus::default()
    }
}

pub(crate) fn guest_view(
    declared: bool,
    uuid: Option<&str>,
    status: GuestStatus,
) -> Arc<GuestView> {
    Arc::new(GuestView {
        uuid: uuid.map(str::to_owned),
        declared,
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        status,
    })
}

pub(crate) fn move_view(declared: bool, status: GuestMigrationStatus) -> Arc<MigrationView> {
    Arc::new(MigrationView {
        declared,
        spec: GuestMigrationSpec {
            guest: "web-1".to_owned(),
            ..GuestMigrationSpec::default()
        },
        requested_by: RequestedBy {
            kind: "HostDrain".to_owned(),
            name: "d".to_owned(),
            uid: String::new(),
        },
        status,
    })
}

/// A view of one move under the name `m`.
pub(crate) fn view_of_move(settled: bool, shown: Option<Arc<MigrationView>>) -> Arc<View> {
    Arc::new(View {
        settled,
        migrations: shown.map(|view| ("m".into(), view)).into_iter().collect(),
        ..View::default()
    })
}
