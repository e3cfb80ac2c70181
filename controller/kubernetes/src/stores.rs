//! What the watches have seen, in one place: every object, and who wants to hear of changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use evenkeel_crds::{kinds::fleet::FLEET_NAME, reason::Cause};
use evenkeel_engine::{Wishes, credentials::Credentials};
use tokio::sync::{mpsc, watch};

use crate::{
    desk::Errand,
    kinds::{Key, Kind, Object},
    nodes::{Node, Scene, drain_name, drains_on_cordon},
};

/// One object came, changed or went.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Seen(Object),
    Gone(Key),
    /// It could not be read; what was known of it before stays.
    Unreadable(Unreadable),
}

/// An object that is not of the shape its kind should have.
#[derive(Debug, Clone)]
pub(crate) struct Unreadable {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) error: String,
}

/// The objects of all kinds.
#[derive(Debug)]
pub(crate) struct Stores {
    inner: Mutex<Inner>,
    /// Rises with each change that the engine should know of.
    revision: watch::Sender<u64>,
    /// The last round in which every kind was listed to its end.
    synced: watch::Sender<Option<u64>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<Key, Object>,
    unreadable: BTreeMap<Key, (u64, Unreadable)>,
    /// During a relisting of a kind: what was listed so far.
    listed: BTreeMap<Kind, BTreeSet<Arc<str>>>,
    /// The last round in which a kind was listed to its end.
    synced: BTreeMap<Kind, u64>,
    listeners: Vec<mpsc::UnboundedSender<Change>>,
    /// What was found of each Secret that a Host names; nothing within where there is none.
    credentials: BTreeMap<String, Option<Found>>,
    /// How each node that Hosts name is, and the round in which that was seen.
    nodes: BTreeMap<String, (u64, Node)>,
    /// Why drains of nodes could not be made or deleted, by the drain's name.
    node_refusals: BTreeMap<String, Cause>,
}

/// Credentials as a Secret has them, or why it can't be read.
type Found = Result<Arc<Credentials>, Cause>;

impl Inner {
    /// The Secrets that Hosts name, one as often as it is named.
    fn named_credentials(&self) -> impl Iterator<Item = &str> {
        self.objects.values().filter_map(|object| match object {
            Object::Host(host) => Some(host.spec.credentials.as_ref()?.secret_name.as_str()),
            _ => None,
        })
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let all = self.objects.range(Key::new(kind, "")..);
        all.take_while(move |(key, _)| key.kind == kind)
            .map(|(_, object)| object)
    }

    /// Hosts that a cordon drains, all drains, and the nodes as they were seen in that round or later.
    fn nodes_scene(&self, round: u64) -> Scene<'_> {
        let mut scene = Scene::default();
        for object in self.of_kind(Kind::Host) {
            if let Object::Host(host) = object
                && let Some(node) = drains_on_cordon(host)
            {
                scene.hosts.entry(node).or_default().push(host);
            }
        }
        for object in self.of_kind(Kind::Drain) {
            if let Object::Drain(drain) = object {
                let name = drain.metadata.name.as_deref().unwrap_or_default();
                scene.drains.insert(name, drain);
            }
        }
        let fresh = self.nodes.iter().filter(|(_, (seen, _))| *seen >= round);
        scene.nodes = fresh
            .map(|(name, (_, node))| (name.as_str(), node))
            .collect();
        scene
    }

    fn tell(&mut self, change: &Change) {
        self.listeners
            .retain(|listener| listener.send(change.clone()).is_ok());
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            revision: watch::Sender::new(0),
            synced: watch::Sender::new(None),
        }
    }
}

impl Stores {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listing of a kind begins.
    pub(crate) fn listing(&self, kind: Kind) {
        self.lock().listed.insert(kind, BTreeSet::new());
    }

    /// A listing of a kind, begun in that round, is complete: what it did not name is gone.
    pub(crate) fn listing_done(&self, kind: Kind, round: u64) {
        let mut inner = self.lock();
        let listed = inner.listed.remove(&kind).unwrap_or_default();
        let known = inner.objects.keys().chain(inner.unreadable.keys());
        let gone: BTreeSet<Key> = known
            .filter(|key| key.kind == kind && !listed.contains(&key.name))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&mut inner, key);
        }
        inner.synced.insert(kind, round);
        if inner.synced.len() == Kind::ALL.len() {
            self.synced
                .send_replace(inner.synced.values().min().copied());
        }
    }

    /// An object as it is now.
    pub(crate) fn put(&self, object: Object) {
        let mut inner = self.lock();
        let key = object.key();
        if let Some(listed) = inner.listed.get_mut(&key.kind) {
            listed.insert(key.name.clone());
        }
        inner.unreadable.remove(&key);
        let before = inner.objects.insert(key, object.clone());
        let same = before.is_some_and(|before| before.same_wish(&object));
        inner.tell(&Change::Seen(object));
        if !same {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// An object that can't be read. What was known of it before stays: to forget a host because a newer field of
    /// its manifest is unknown to us would make its guests look lost. True if this version of it is news.
    pub(crate) fn put_unreadable(&self, version: u64, what: Unreadable) -> bool {
        let mut inner = self.lock();
        let key = what.key.clone();
        if let Some(listed) = inner.listed.get_mut(&key.kind) {
            listed.insert(key.name.clone());
        }
        let before = inner.unreadable.insert(key, (version, what.clone()));
        let news = before.is_none_or(|(before, _)| before != version);
        if news {
            inner.tell(&Change::Unreadable(what));
        }
        news
    }

    /// An object is gone.
    pub(crate) fn take(&self, key: Key) {
        let mut inner = self.lock();
        self.remove(&mut inner, key);
    }

    fn remove(&self, inner: &mut Inner, key: Key) {
        inner.unreadable.remove(&key);
        if inner.objects.remove(&key).is_some() {
            inner.tell(&Change::Gone(key));
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// An object by its key.
    pub(crate) fn find(&self, key: &Key) -> Option<Object> {
        self.lock().objects.get(key).cloned()
    }

    /// Everything known now, and every change from now on.
    pub(crate) fn subscribe(&self) -> (Vec<Object>, mpsc::UnboundedReceiver<Change>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        for (_, what) in inner.unreadable.values() {
            let _ = sender.send(Change::Unreadable(what.clone()));
        }
        inner.listeners.push(sender);
        (inner.objects.values().cloned().collect(), receiver)
    }

    /// A Secret as it is now; nothing where there is none.
    pub(crate) fn put_credentials(&self, name: &str, found: Option<Found>) {
        let before = self
            .lock()
            .credentials
            .insert(name.to_owned(), found.clone());
        if before != Some(found) {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Whether a Secret could be read once.
    pub(crate) fn knows_credentials(&self, name: &str) -> bool {
        matches!(self.lock().credentials.get(name), Some(Some(Ok(_))))
    }

    /// The Secrets that Hosts name.
    pub(crate) fn named_credentials(&self) -> BTreeSet<String> {
        let inner = self.lock();
        inner.named_credentials().map(str::to_owned).collect()
    }

    /// Forgets every Secret but these.
    pub(crate) fn keep_credentials(&self, names: &BTreeSet<String>) {
        self.lock()
            .credentials
            .retain(|name, _| names.contains(name));
    }

    /// Waits until every Secret that a Host names was looked for.
    pub(crate) async fn credentials_known(&self) {
        let mut revision = self.revision();
        loop {
            let unknown = {
                let inner = self.lock();
                let mut named = inner.named_credentials();
                named.any(|name| !inner.credentials.contains_key(name))
            };
            if !unknown || revision.changed().await.is_err() {
                return;
            }
        }
    }

    /// How a node was in that round. What a later one saw stays.
    pub(crate) fn put_node(&self, name: &str, round: u64, node: Node) {
        let mut inner = self.lock();
        let before = inner.nodes.get(name);
        if before.is_some_and(|(seen, _)| *seen > round) {
            return;
        }
        let same = before.is_some_and(|before| *before == (round, node.clone()));
        inner.nodes.insert(name.to_owned(), (round, node));
        if !same {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Whether anything is known of a node.
    pub(crate) fn knows_node(&self, name: &str) -> bool {
        self.lock().nodes.contains_key(name)
    }

    /// The nodes that a cordon of drains a Host.
    pub(crate) fn named_nodes(&self) -> BTreeSet<String> {
        let inner = self.lock();
        let hosts = inner.of_kind(Kind::Host);
        let named = hosts.filter_map(|object| match object {
            Object::Host(host) => drains_on_cordon(host),
            _ => None,
        });
        named.map(str::to_owned).collect()
    }

    /// Forgets every node but these.
    pub(crate) fn keep_nodes(&self, names: &BTreeSet<String>) {
        self.lock().nodes.retain(|name, _| names.contains(name));
    }

    /// Waits until every node that a Host names was looked for in that round or later.
    pub(crate) async fn nodes_known(&self, round: u64) {
        let mut revision = self.revision();
        loop {
            let known = {
                let inner = self.lock();
                let scene = inner.nodes_scene(round);
                scene
                    .hosts
                    .keys()
                    .all(|node| scene.nodes.contains_key(node))
            };
            if known || revision.changed().await.is_err() {
                return;
            }
        }
    }

    /// Drains of nodes that have to be deleted or made, by what was seen of the nodes in that round or later.
    pub(crate) fn nodes_due(&self, round: u64) -> Vec<Errand> {
        self.lock().nodes_scene(round).due()
    }

    /// Why drains of nodes could not be made or deleted, by the drain's name.
    pub(crate) fn put_node_refusals(&self, refusals: BTreeMap<String, Cause>) {
        let mut inner = self.lock();
        if inner.node_refusals != refusals {
            inner.node_refusals = refusals;
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Everything declared, as the engine reads it.
    pub(crate) fn wishes(&self) -> Wishes {
        let inner = self.lock();
        let found = inner.credentials.iter();
        let mut wishes = Wishes {
            credentials: found
                .filter_map(|(name, found)| Some((name.clone(), found.clone()?)))
                .collect(),
            ..Wishes::default()
        };
        let scene = inner.nodes_scene(0);
        for (node, hosts) in &scene.hosts {
            let refused = inner.node_refusals.get(&drain_name(node));
            let word = scene.word(node, refused);
            let names = hosts.iter().filter_map(|host| host.metadata.name.clone());
            wishes.nodes.extend(names.map(|name| (name, word.clone())));
        }
        for (key, object) in &inner.objects {
            let name = key.name.as_ref().to_owned();
            match object {
                Object::Host(host) => drop(wishes.hosts.insert(name, host.clone())),
                Object::Guest(guest) => drop(wishes.guests.insert(name, guest.clone())),
                Object::Migration(migration) => {
                    drop(wishes.migrations.insert(name, migration.clone()));
                }
                Object::Drain(drain) => drop(wishes.drains.insert(name, drain.clone())),
                Object::Placement(placement) => {
                    drop(wishes.placements.insert(name, placement.clone()));
                }
                Object::Policy(policy) => drop(wishes.policies.insert(name, policy.clone())),
                Object::Profile(profile) => {
                    drop(wishes.profiles.insert(name, profile.clone()));
                }
                Object::Fleet(fleet) => drop(wishes.fleets.insert(name, fleet.clone())),
            }
        }
        wishes
    }

    /// The fleet's name in claims and journals, where the Fleet says one.
    pub(crate) fn fleet_id(&self) -> Option<String> {
        match self.find(&Key::new(Kind::Fleet, FLEET_NAME)) {
            Some(Object::Fleet(fleet)) => fleet.spec.id.clone(),
            _ => None,
        }
    }

    /// Changes whenever the wishes did.
    pub(crate) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until every kind was listed in that round or a later one: what was true before it began is seen.
    pub(crate) async fn synced(&self, round: u64) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = synced
            .wait_for(|done| done.is_some_and(|done| done >= round))
            .await;
    }
}
