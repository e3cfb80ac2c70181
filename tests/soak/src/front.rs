//! What is declared, and every object's status as a database keeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_crds::{
    GuestMigration, GuestMigrationSpec, GuestPlacement, GuestPlacementSpec, Host, HostDrain,
    HostDrainSpec, HostSpec, MigrationProfile, MigrationProfileSpec, RebalancePolicy,
    RebalancePolicySpec,
    kinds::{
        drain::StoppedGuests,
        placement::{Requirement, Topology},
        policy::{LoadKind, Mode},
        profile::{Switchover, Transport},
    },
    quantity::Span,
    shared::{LABEL_WISH_KIND, LABEL_WISH_NAME, Picker, Time},
};
use evenkeel_engine::{Clock, View, Wishes};
use evenkeel_hypervisor::sim::uri;
use evenkeel_kubernetes::simulated::Server;
use tokio::sync::watch;

/// How the moves of a story are done.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The guest is let go at its target only once its source has it no more.
    pub guarded: bool,
    /// How long the disks stay at the source.
    pub keeps: Duration,
    /// The controller is the client of both ends' libvirtds.
    pub direct: bool,
}

/// The objects. Clones are the same.
#[derive(Clone)]
pub struct Front {
    clock: Clock,
    wishes: watch::Sender<Arc<Wishes>>,
    /// Names that ever had an object: what a user deleted is not made again.
    known: Arc<Mutex<BTreeSet<String>>>,
    /// Where the objects are kept, unless they are simply kept here.
    server: Option<Server>,
}

impl Front {
    /// These hosts, which take in and send away at most so many guests at once; with an API server in between, or
    /// without.
    pub fn new(clock: &Clock, hosts: &[String], most: (usize, usize), server: bool) -> Self {
        let server = server.then(|| Server::new(clock));
        let mut wishes = Wishes::default();
        for name in hosts {
            let mut spec = HostSpec {
                uri: uri(name),
                ..HostSpec::default()
            };
            spec.migration.max_inbound = most.0 as i32;
            spec.migration.max_outbound = most.1 as i32;
            let host = Host::new(name, spec);
            match &server {
                Some(server) => server.put_host(host),
                None => drop(wishes.hosts.insert(name.clone(), Arc::new(host))),
            }
        }
        Self {
            clock: clock.clone(),
            wishes: watch::Sender::new(Arc::new(wishes)),
            known: Arc::default(),
            server,
        }
    }

    /// The API server, where there is one.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// What is declared, as an engine hears it.
    pub fn wishes(&self) -> watch::Receiver<Arc<Wishes>> {
        self.wishes.subscribe()
    }

    /// What is declared now.
    pub fn now(&self) -> Arc<Wishes> {
        match &self.server {
            Some(server) => Arc::new(server.wishes()),
            None => self.wishes.borrow().clone(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Wishes)) {
        self.wishes
            .send_modify(|wishes| change(Arc::make_mut(wishes)));
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How all moves are done.
    pub fn profile(&self, profile: Profile) {
        let spec = MigrationProfileSpec {
            switchover: if profile.guarded {
                Switchover::Guarded
            } else {
                Switchover::Fast
            },
            keep_source: Span(profile.keeps),
            transport: if profile.direct {
                Transport::Direct
            } else {
                Transport::PeerToPeer
            },
            ..MigrationProfileSpec::default()
        };
        let mut object = MigrationProfile::new("default", spec);
        object.metadata.generation = Some(1);
        if let Some(server) = &self.server {
            return server.put_profile(object);
        }
        self.change(|wishes| {
            wishes
                .profiles
                .insert("default".to_owned(), Arc::new(object));
        });
    }

    /// These guests are kept apart where that can be.
    pub fn apart(&self, name: &str, guests: Vec<String>) {
        let spec = GuestPlacementSpec {
            guests: Picker {
                names: Some(guests),
                selector: None,
            },
            hosts: None,
            requirement: Requirement::Preferred,
            spread: None,
            apart: Some(Topology {
                topology_key: "evenkeel.dev/host".to_owned(),
            }),
            together: None,
            suspend: false,
        };
        let mut object = GuestPlacement::new(name, spec);
        object.metadata.uid = Some(self.clock.id().to_string());
        object.metadata.generation = Some(1);
        object.metadata.creation_timestamp = Some(Time(self.clock.now()));
        if let Some(server) = &self.server {
            return server.put_placement(object);
        }
        self.change(|wishes| drop(wishes.placements.insert(name.to_owned(), Arc::new(object))));
    }

    /// All hosts are kept about equally full.
    pub fn level(&self, name: &str) {
        let spec = RebalancePolicySpec {
            mode: Mode::Auto,
            load: LoadKind::Allocated,
            ..RebalancePolicySpec::default()
        };
        let mut object = RebalancePolicy::new(name, spec);
        object.metadata.uid = Some(self.clock.id().to_string());
        object.metadata.generation = Some(1);
        object.metadata.creation_timestamp = Some(Time(self.clock.now()));
        if let Some(server) = &self.server {
            return server.put_policy(object);
        }
        self.change(|wishes| drop(wishes.policies.insert(name.to_owned(), Arc::new(object))));
    }

    /// A drain of one host.
    pub fn drain(&self, name: &str, host: &str, parallel: i32, stopped: bool) {
        let hosts = Picker {
            names: Some(vec![host.to_owned()]),
            selector: None,
        };
        let spec = HostDrainSpec {
            hosts,
            parallel,
            stopped: if stopped {
                StoppedGuests::Move
            } else {
                StoppedGuests::Leave
            },
            ..HostDrainSpec::default()
        };
        let mut drain = HostDrain::new(name, spec);
        drain.metadata.uid = Some(self.clock.id().to_string());
        drain.metadata.generation = Some(1);
        drain.metadata.creation_timestamp = Some(Time(self.clock.now()));
        if let Some(server) = &self.server {
            return server.put_drain(drain);
        }
        self.change(|wishes| drop(wishes.drains.insert(name.to_owned(), Arc::new(drain))));
    }

    /// The drain is deleted.
    pub fn undrain(&self, name: &str) {
        if let Some(server) = &self.server {
            return server.delete_drain(name);
        }
        self.change(|wishes| drop(wishes.drains.remove(name)));
    }

    /// A user's move.
    pub fn migrate(&self, name: &str, guest: &str, target: Option<&str>) {
        let spec = GuestMigrationSpec {
            guest: guest.to_owned(),
            target: target.map(str::to_owned),
            ..GuestMigrationSpec::default()
        };
        let mut object = GuestMigration::new(name, spec);
        object.metadata.uid = Some(self.clock.id().to_string());
        object.metadata.generation = Some(1);
        object.metadata.creation_timestamp = Some(Time(self.clock.now()));
        if let Some(server) = &self.server {
            return server.put_migration(object);
        }
        self.known().insert(name.to_owned());
        self.change(|wishes| drop(wishes.migrations.insert(name.to_owned(), Arc::new(object))));
    }

    /// A user wants a move aborted: its object stays, or is deleted.
    pub fn abort(&self, name: &str, delete: bool) {
        match &self.server {
            Some(server) if delete => return server.delete_migration(name),
            Some(server) => return server.change_migration(name, |spec| spec.abort = Some(true)),
            None => {}
        }
        let now = Time(self.clock.now());
        self.change(|wishes| {
            if let Some(object) = wishes.migrations.get_mut(name) {
                let object = Arc::make_mut(object);
                if delete {
                    object.metadata.deletion_timestamp = Some(now);
                } else {
                    object.spec.abort = Some(true);
                }
            }
        });
    }

    /// A user deletes an object and makes it anew, under the same name.
    pub fn replace(&self, name: &str) {
        let Some(server) = &self.server else {
            return;
        };
        let wishes = server.wishes();
        if let Some(drain) = wishes.drains.get(name) {
            server.put_drain(HostDrain::new(name, drain.spec.clone()));
            server.delete_drain(name);
        }
        if let Some(object) = wishes.migrations.get(name) {
            let mut again = GuestMigration::new(name, object.spec.clone());
            again.metadata.labels.clone_from(&object.metadata.labels);
            server.put_migration(again);
            server.delete_migration(name);
        }
    }

    /// Objects of moves that are over go, as their time to live says.
    pub fn sweep(&self) {
        if let Some(server) = &self.server {
            for (name, object) in &server.wishes().migrations {
                let status = object.status.as_ref();
                if status.is_some_and(|status| status.phase.is_final()) {
                    server.delete_migration(name);
                }
            }
            return;
        }
        self.change(|wishes| {
            wishes.migrations.retain(|_, object| {
                let status = object.status.as_ref();
                !status.is_some_and(|status| status.phase.is_final())
            });
        });
    }

    /// Keeps the moves' status and makes objects for those that drains made.
    pub fn keep(&self, view: &View) {
        let mut known = self.known();
        self.wishes.send_if_modified(|wishes| {
            let mut changed = false;
            for (name, shown) in &view.migrations {
                let stored = wishes.migrations.get(name.as_str());
                let same = stored.is_some_and(|own| own.status.as_ref() == Some(&shown.status));
                let deleted = stored.is_none() && known.contains(name.as_str());
                if same || deleted {
                    continue;
                }
                let mut object = match stored {
                    Some(stored) => (**stored).clone(),
                    None => {
                        let mut object = GuestMigration::new(name, shown.spec.clone());
                        let by = &shown.requested_by;
                        object.metadata.uid = Some(self.clock.id().to_string());
                        object.metadata.creation_timestamp = Some(Time(self.clock.now()));
                        object.metadata.labels = Some(BTreeMap::from([
                            (LABEL_WISH_KIND.to_owned(), by.kind.clone()),
                            (LABEL_WISH_NAME.to_owned(), by.name.clone()),
                        ]));
                        object
                    }
                };
                known.insert(name.to_string());
                object.status = Some(shown.status.clone());
                let over =
                    object.metadata.deletion_timestamp.is_some() && shown.status.phase.is_final();
                let migrations = &mut Arc::make_mut(wishes).migrations;
                if over {
                    migrations.remove(name.as_str());
                } else {
                    migrations.insert(name.to_string(), Arc::new(object));
                }
                changed = true;
            }
            changed
        });
    }
}
