//! An API server in memory, on tokio's time, for simulations: what goes between it and an engine (stores, desk, writer)
//! is what runs in a cluster. It loses answers, refuses writes, drops watches and lists what was so a while ago.

mod nodes;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_crds::{
    Fleet, GuestMigration, GuestMigrationSpec, GuestPlacement, Host, HostDrain, HostSpec,
    MigrationProfile, RebalancePolicy,
    shared::{MOVE_FINALIZER, Time},
};
use evenkeel_engine::{Clock, View, Wishes};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::{
    sync::{oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::{
    desk::{Act, Errand, Outcome, our_finalizer},
    kinds::{Declared, Key, Kind, Object, Wanted},
    nodes::{self as drains, Node},
    objects,
    session::pump,
    stores::Stores,
    writes::{self, Courier, writer},
};

/// Changes that are kept, for whoever watches or lists late.
const KEPT: usize = 400;

/// The server. Clones are the same.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    version: u64,
    /// What was so before the changes that are kept.
    base: (u64, BTreeMap<Key, Object>),
    /// Changes by version; nothing where the object went.
    changes: VecDeque<(u64, Key, Option<Object>)>,
    /// Nodes by name.
    nodes: BTreeMap<String, Node>,
    /// Whether the controller may not make and delete drains.
    drains_refused: bool,
    /// Objects that are made as soon as their names are free.
    waiting: BTreeMap<Key, Object>,
    /// Of a hundred requests, how many go wrong.
    trouble: u64,
    counts: Counts,
}

/// What went wrong at a server so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were refused for now.
    pub refused: u64,
    /// Writes that were done and whose answer was lost.
    pub unheard: u64,
    /// Writes that met an object that had changed, or another of its name.
    pub conflicts: u64,
    /// Watches that were lost.
    pub lost: u64,
    /// Lists that showed what was so a while ago.
    pub stale: u64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// It never arrives, or is refused for now.
    Refused,
    /// It is done, and the answer is lost.
    Unheard,
}

fn meta_mut(object: &mut Object) -> &mut ObjectMeta {
    match object {
        Object::Host(own) => &mut Arc::make_mut(own).metadata,
        Object::Guest(own) => &mut Arc::make_mut(own).metadata,
        Object::Migration(own) => &mut Arc::make_mut(own).metadata,
        Object::Drain(own) => &mut Arc::make_mut(own).metadata,
        Object::Placement(own) => &mut Arc::make_mut(own).metadata,
        Object::Policy(own) => &mut Arc::make_mut(own).metadata,
        Object::Profile(own) => &mut Arc::make_mut(own).metadata,
        Object::Fleet(own) => &mut Arc::make_mut(own).metadata,
    }
}

fn apply_status(object: &mut Object, wanted: &Wanted) {
    match (object, wanted) {
        (Object::Host(own), Wanted::Host(status)) => {
            Arc::make_mut(own).status = Some((**status).clone());
        }
        (Object::Guest(own), Wanted::Guest(view)) => {
            Arc::make_mut(own).status = Some(view.status.clone());
        }
        (Object::Migration(own), Wanted::Migration(view)) => {
            Arc::make_mut(own).status = Some(view.status.clone());
        }
        (Object::Drain(own), Wanted::Drain(status)) => {
            Arc::make_mut(own).status = Some((**status).clone());
        }
        (Object::Placement(own), Wanted::Placement(status)) => {
            Arc::make_mut(own).status = Some((**status).clone());
        }
        (Object::Policy(own), Wanted::Policy(status)) => {
            Arc::make_mut(own).status = Some((**status).clone());
        }
        (Object::Profile(own), Wanted::Profile(status)) => {
            Arc::make_mut(own).status = Some((**status).clone());
        }
        (Object::Fleet(own), Wanted::Fleet(status)) => {
            Arc::make_mut(own).status = Some((**status).clone());
        }
        _ => {}
    }
}

impl State {
    /// The object changes, comes, or goes.
    fn commit(&mut self, key: Key, object: Option<Object>) -> Option<Object> {
        self.version += 1;
        let object = object.map(|mut object| {
            meta_mut(&mut object).resource_version = Some(self.version.to_string());
            object
        });
        match &object {
            Some(object) => drop(self.objects.insert(key.clone(), object.clone())),
            None => drop(self.objects.remove(&key)),
        }
        self.changes.push_back((self.version, key, object.clone()));
        if self.changes.len() > KEPT
            && let Some((version, key, object)) = self.changes.pop_front()
        {
            self.base.0 = version;
            match object {
                Some(object) => drop(self.base.1.insert(key, object)),
                None => drop(self.base.1.remove(&key)),
            }
        }
        object
    }

    /// All objects as they were at that version, or as soon after as is known.
    fn at(&self, version: u64) -> (u64, BTreeMap<Key, Object>) {
        let (mut reached, mut objects) = self.base.clone();
        for (at, key, object) in self.changes.iter().filter(|(at, ..)| *at <= version) {
            reached = *at;
            match object {
                Some(object) => drop(objects.insert(key.clone(), object.clone())),
                None => drop(objects.remove(key)),
            }
        }
        (reached, objects)
    }

    /// Goes at once, or once its finalizers are gone.
    fn delete(&mut self, key: &Key, now: Time) {
        let Some(mut object) = self.objects.get(key).cloned() else {
            return;
        };
        let meta = meta_mut(&mut object);
        if meta.finalizers.as_ref().is_none_or(Vec::is_empty) {
            self.commit(key.clone(), None);
        } else if meta.deletion_timestamp.is_none() {
            meta.deletion_timestamp = Some(now);
            self.commit(key.clone(), Some(object));
        }
    }
}

impl Server {
    /// One without objects, whose luck follows from the clock's seed.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let shared = Shared {
            clock: clock.clone(),
            state: Mutex::default(),
            newest: watch::Sender::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Of a hundred requests, so many go wrong from now on; of a hundred deliveries of a watch, half as many.
    pub fn trouble(&self, percent: u64) {
        self.state().trouble = percent;
    }

    /// What went wrong so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Everything declared, as it really is.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        let stores = Stores::default();
        for object in self.state().objects.values() {
            stores.put(object.clone());
        }
        stores.wishes()
    }

    /// A user makes a Host.
    pub fn put_host(&self, host: Host) {
        self.put(host);
    }

    /// A user changes what a Host's manifest says.
    pub fn change_host(&self, name: &str, change: impl FnOnce(&mut HostSpec)) {
        let key = Key::new(Kind::Host, name);
        self.write(|state| {
            if let Some(Object::Host(own)) = state.objects.get(&key) {
                let mut own = (**own).clone();
                change(&mut own.spec);
                *own.metadata.generation.get_or_insert(0) += 1;
                state.commit(key.clone(), Some(own.object()));
            }
        });
    }

    /// A user deletes a Host.
    pub fn delete_host(&self, name: &str) {
        self.delete(Kind::Host, name);
    }

    /// A user makes a profile.
    pub fn put_profile(&self, profile: MigrationProfile) {
        self.put(profile);
    }

    /// A user makes or changes a placement.
    pub fn put_placement(&self, placement: GuestPlacement) {
        self.put(placement);
    }

    /// A user makes or changes a policy.
    pub fn put_policy(&self, policy: RebalancePolicy) {
        self.put(policy);
    }

    /// A user makes the Fleet.
    pub fn put_fleet(&self, fleet: Fleet) {
        self.put(fleet);
    }

    /// A user makes a drain: once the name is free, where one of that name is still going.
    pub fn put_drain(&self, drain: HostDrain) {
        self.put(drain);
    }

    /// A user makes a move: once the name is free, where one of that name is still going.
    pub fn put_migration(&self, migration: GuestMigration) {
        self.put(migration);
    }

    /// A user deletes a drain.
    pub fn delete_drain(&self, name: &str) {
        self.delete(Kind::Drain, name);
    }

    /// A user deletes a move.
    pub fn delete_migration(&self, name: &str) {
        self.delete(Kind::Migration, name);
    }

    /// A user changes what a move's manifest says.
    pub fn change_migration(&self, name: &str, change: impl FnOnce(&mut GuestMigrationSpec)) {
        let key = Key::new(Kind::Migration, name);
        self.write(|state| {
            if let Some(Object::Migration(own)) = state.objects.get(&key) {
                let mut own = (**own).clone();
                change(&mut own.spec);
                *own.metadata.generation.get_or_insert(0) += 1;
                state.commit(key.clone(), Some(own.object()));
            }
        });
    }

    /// What a controller has of it: everything as it is listed now, and then what is watched.
    #[must_use]
    pub fn session(&self) -> (Session, watch::Receiver<Arc<Wishes>>) {
        let stores = Arc::new(Stores::default());
        let seen = self.list(&stores);
        let revision = stores.revision();
        let (wishes, told) = watch::channel(Arc::new(stores.wishes()));
        let mut tasks = JoinSet::new();
        tasks.spawn(pump(stores.clone(), revision, wishes));
        tasks.spawn(self.clone().watch(stores.clone(), seen));
        tasks.spawn(self.clone().watch_nodes(stores.clone()));
        let session = Session {
            server: self.clone(),
            stores,
            tasks,
            writers: Vec::new(),
        };
        (session, told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let done = change(&mut state);
        // Whoever waited for a name takes it.
        let free = |key: &Key| !state.objects.contains_key(key);
        let next: Vec<Key> = state
            .waiting
            .keys()
            .filter(|key| free(key))
            .cloned()
            .collect();
        for key in next {
            let object = state.waiting.remove(&key);
            state.commit(key, object);
        }
        let version = state.version;
        drop(state);
        self.shared.newest.send_replace(version);
        done
    }

    fn put<K: Declared>(&self, object: K) {
        let mut object = object;
        let meta = object.meta_mut();
        meta.uid = Some(self.shared.clock.id().to_string());
        meta.generation = Some(1);
        meta.creation_timestamp = Some(Time(self.shared.clock.now()));
        let object = object.object();
        self.write(|state| drop(state.waiting.insert(object.key(), object)));
    }

    fn delete(&self, kind: Kind, name: &str) {
        let now = Time(self.shared.clock.now());
        self.write(|state| state.delete(&Key::new(kind, name), now));
    }

    /// A number below `most`.
    fn dice(&self, most: u64) -> u64 {
        self.shared.clock.id().as_u64_pair().1 % most.max(1)
    }

    fn travel(&self) -> Duration {
        Duration::from_millis(1 + self.dice(12))
    }

    fn fate(&self) -> Fate {
        let trouble = self.state().trouble;
        match self.dice(100) {
            luck if luck >= trouble => Fate::Fine,
            luck if luck % 2 == 0 => Fate::Refused,
            _ => Fate::Unheard,
        }
    }

    /// Lists every kind: what is so, or now and then what was so a while ago. The version that was listed.
    fn list(&self, stores: &Stores) -> u64 {
        let (fate, back) = (self.fate(), self.dice(60));
        let (seen, objects) = {
            let mut state = self.state();
            state.counts.stale += u64::from(fate != Fate::Fine);
            match fate {
                Fate::Fine => (state.version, state.objects.clone()),
                _ => state.at(state.version.saturating_sub(back)),
            }
        };
        for kind in Kind::ALL {
            stores.listing(kind);
            for object in objects.values().filter(|own| own.key().kind == kind) {
                stores.put(object.clone());
            }
            stores.listing_done(kind, 0);
        }
        seen
    }

    /// Brings what changes, in order; now and then the watch is lost, and all is listed after a while.
    async fn watch(self, stores: Arc<Stores>, mut seen: u64) -> String {
        let mut newest = self.shared.newest.subscribe();
        loop {
            if newest.wait_for(|newest| *newest > seen).await.is_err() {
                return "the server is gone".to_owned();
            }
            sleep(self.travel()).await;
            let lost = self.fate() == Fate::Unheard;
            let kept = self.state().base.0 <= seen;
            if lost || !kept {
                self.state().counts.lost += 1;
                sleep(Duration::from_millis(self.dice(8_000))).await;
                seen = self.list(&stores);
                continue;
            }
            let changes: Vec<(u64, Key, Option<Object>)> = {
                let state = self.state();
                let later = state.changes.iter().filter(|(at, ..)| *at > seen);
                later.cloned().collect()
            };
            for (at, key, object) in changes {
                seen = at;
                match object {
                    Some(object) => stores.put(object),
                    None => stores.take(key),
                }
            }
        }
    }

    /// Does a write.
    fn serve(&self, errand: &Errand) -> Outcome {
        let key = &errand.key;
        let of_node =
            matches!(errand.act, Act::Declare(_) | Act::Delete) && key.kind == Kind::Drain;
        if of_node && self.state().drains_refused {
            return Outcome::Refused("the cluster refuses".to_owned());
        }
        let found = self.state().objects.get(key).cloned();
        match (&errand.act, found) {
            (Act::Create(wanted), found) => self.make(key, wanted, found),
            (Act::Declare(drain), None) => self.declare((**drain).clone().object()),
            (Act::Declare(drain), Some(Object::Drain(found)))
                if found.metadata.labels == drain.metadata.labels =>
            {
                Outcome::Object(Object::Drain(found))
            }
            (Act::Declare(_), Some(_)) => Outcome::Refused("it exists already".to_owned()),
            (_, None) => Outcome::Gone,
            (Act::AddFinalizer(known), Some(mut object)) => {
                let meta = meta_mut(&mut object);
                if meta.uid != known.meta().uid || meta.finalizers != known.meta().finalizers {
                    return self.conflict();
                }
                let finalizers = meta.finalizers.get_or_insert_default();
                finalizers.push(MOVE_FINALIZER.to_owned());
                self.store(key, object)
            }
            (Act::RemoveFinalizer(known), Some(mut object)) => {
                let position = our_finalizer(&object);
                let meta = meta_mut(&mut object);
                let (Some(position), true) = (position, meta.uid == known.meta().uid) else {
                    return self.conflict();
                };
                let finalizers = meta.finalizers.get_or_insert_default();
                finalizers.remove(position);
                if finalizers.is_empty() && meta.deletion_timestamp.is_some() {
                    self.write(|state| state.commit(key.clone(), None));
                    return Outcome::Object(object);
                }
                self.store(key, object)
            }
            (Act::Delete, Some(object)) => {
                if object.uid() != errand.uid {
                    return self.conflict();
                }
                let now = Time(self.shared.clock.now());
                self.write(|state| state.delete(key, now));
                Outcome::Deleted
            }
            (Act::Status(wanted), Some(mut object)) => {
                let bound = writes::is_bound(key.kind);
                if bound && object.uid() != errand.uid {
                    self.state().counts.conflicts += 1;
                    return Outcome::Gone;
                }
                let wanted = wanted.clone();
                apply_status(&mut object, &wanted);
                let stored = self.write(|state| state.commit(key.clone(), Some(object)));
                let version = stored.map_or(0, |stored| stored.version());
                Outcome::Status { version, wanted }
            }
        }
    }

    fn conflict(&self) -> Outcome {
        self.state().counts.conflicts += 1;
        Outcome::Failed("the object is another now".to_owned())
    }

    fn store(&self, key: &Key, object: Object) -> Outcome {
        match self.write(|state| state.commit(key.clone(), Some(object))) {
            Some(object) => Outcome::Object(object),
            None => Outcome::Gone,
        }
    }

    fn make(&self, key: &Key, wanted: &Wanted, found: Option<Object>) -> Outcome {
        let name = key.name.as_ref();
        match (wanted, found) {
            (Wanted::Guest(_), Some(found)) => Outcome::Object(found),
            (Wanted::Migration(view), Some(Object::Migration(found)))
                if found.spec.guest == view.spec.guest =>
            {
                Outcome::Object(Object::Migration(found))
            }
            (Wanted::Guest(view), None) => self.found(objects::new_guest(name, view), |body| {
                serde_json::from_value(body).map(|own: evenkeel_crds::Guest| own.object())
            }),
            (Wanted::Migration(view), None) => self
                .found(objects::new_migration(name, view), |body| {
                    serde_json::from_value(body).map(|own: GuestMigration| own.object())
                }),
            _ => Outcome::Refused("it exists already".to_owned()),
        }
    }

    fn found(
        &self,
        body: serde_json::Value,
        read: impl FnOnce(serde_json::Value) -> serde_json::Result<Object>,
    ) -> Outcome {
        match read(body) {
            Ok(object) => self.declare(object),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    /// The controller makes an object.
    fn declare(&self, mut object: Object) -> Outcome {
        let meta = meta_mut(&mut object);
        meta.uid = Some(self.shared.clock.id().to_string());
        meta.generation = Some(1);
        meta.creation_timestamp = Some(Time(self.shared.clock.now()));
        self.store(&object.key(), object)
    }
}

impl Courier for Server {
    async fn send(&self, errand: &Errand) -> Outcome {
        let fate = self.fate();
        let (there, back) = (self.travel(), self.travel());
        {
            let counts = &mut self.state().counts;
            counts.refused += u64::from(fate == Fate::Refused);
            counts.unheard += u64::from(fate == Fate::Unheard);
        }
        if fate == Fate::Refused {
            sleep(there + back).await;
            return Outcome::Failed("the server is busy".to_owned());
        }
        let (answer, answered) = oneshot::channel();
        let (server, errand) = (self.clone(), errand.clone());
        // What was sent is done even where nobody waits for it any more.
        tokio::spawn(async move {
            sleep(there).await;
            let outcome = server.serve(&errand);
            sleep(back).await;
            let _ = answer.send(outcome);
        });
        let outcome = answered.await;
        if fate == Fate::Unheard {
            sleep(Duration::from_secs(2)).await;
            return Outcome::Failed("no answer".to_owned());
        }
        outcome.unwrap_or_else(|_| Outcome::Failed("no answer".to_owned()))
    }
}

/// What a controller has of the server. Dropping it ends all of it.
#[derive(Debug)]
pub struct Session {
    server: Server,
    stores: Arc<Stores>,
    tasks: JoinSet<String>,
    /// Everything that writes.
    writers: Vec<AbortHandle>,
}

impl Session {
    /// Writes down what an engine shows from now on.
    pub fn follow(&mut self, views: watch::Receiver<Arc<View>>) {
        let (known, changes) = self.stores.subscribe();
        let run = writer::run(self.server.clone(), views, known, changes);
        self.writers.push(self.tasks.spawn(run));
        let keep = drains::keep(self.server.clone(), self.stores.clone(), 0);
        self.writers.push(self.tasks.spawn(keep));
    }

    /// Writes nothing any more: the lease is another's.
    pub fn silence(&self) {
        self.writers.iter().for_each(AbortHandle::abort);
    }
}
