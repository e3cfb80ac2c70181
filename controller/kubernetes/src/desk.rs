//! The desk where everything to be written lies: per object what it holds, what it should hold, and when its next
//! write is due. Pure: it is told the time and touches no client.
//!
//! One write per object at a time, in an order that tells the truth: the object before its status, the last status
//! before the finalizer goes.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{GuestMigrationStatus, HostDrain, shared::MOVE_FINALIZER};
use evenkeel_engine::View;
use tokio::time::Instant;

use crate::{
    kinds::{Key, Kind, Object, Wanted},
    objects::{self, Finalizer},
    statuses::{self, Difference, Held},
};

/// A write.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Makes the object that the engine found or planned.
    Create(Wanted),
    /// Puts the finalizer on a move.
    AddFinalizer(Object),
    /// Takes the finalizer off a move that is being deleted.
    RemoveFinalizer(Object),
    /// Applies the status.
    Status(Wanted),
    /// Deletes it: a move that is over and that the Fleet's history has no room for, or a drain whose node is not cordoned.
    Delete,
    /// Makes a drain, for a node that is cordoned.
    Declare(Arc<HostDrain>),
}

/// A write with the object it is for.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    pub(crate) key: Key,
    /// The object's UID; empty where it is to be made.
    pub(crate) uid: String,
    /// The newest version of it that is known.
    pub(crate) version: u64,
    pub(crate) act: Act,
}

/// How a write went.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The object as it is now; a move's finalizer was added or removed, or the object was made.
    Object(Object),
    /// The status is written; the object's version now.
    Status { version: u64, wanted: Wanted },
    /// The object is being deleted: the watch shows how that goes on.
    Deleted,
    /// There is no such object any more.
    Gone,
    /// Failed in a way that may pass by itself.
    Failed(String),
    /// Refused as it is.
    Refused(String),
}

/// First pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after failures that may pass by themselves.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after refusals, which do not.
const LONGEST_REFUSED: Duration = Duration::from_secs(60);
/// Failed status writes after which a finalizer is removed all the same.
const PATIENCE: u32 = 4;
/// How long a status that was shown for an earlier object of the same name is withheld.
const STALE_FOR: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Entry {
    object: Option<Object>,
    wanted: Option<Wanted>,
    held: Option<Held>,
    /// The newest version of the object that is known to us.
    version: u64,
    /// UID of the object that bears or last bore the name.
    uid: String,
    known_since: Instant,
    /// What the engine showed when an object of this name was replaced by another.
    stale: Option<Wanted>,
    written: Option<Instant>,
    busy: bool,
    failures: u32,
    rest_until: Option<Instant>,
    /// Whether the object is to go.
    outdated: bool,
    due: Option<Instant>,
}

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk {
    entries: HashMap<Key, Entry>,
    /// What is due when: first all but guests, then guests. Thousands of domains found at once must not keep the
    /// reason of a move from being seen.
    due: [BTreeSet<(Instant, Key)>; 2],
    view: Arc<View>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            due: Default::default(),
            view: Arc::default(),
        }
    }

    /// The engine shows something new.
    pub(crate) fn show(&mut self, view: Arc<View>, now: Instant) {
        let before = std::mem::replace(&mut self.view, view.clone());
        let mut changed = Vec::new();
        differences(&before.hosts, &view.hosts, |name, status| {
            changed.push((Key::new(Kind::Host, name), status.map(Wanted::Host)));
        });
        differences(&before.guests, &view.guests, |name, guest| {
            changed.push((Key::new(Kind::Guest, name), guest.map(Wanted::Guest)));
        });
        differences(&before.migrations, &view.migrations, |name, migration| {
            changed.push((
                Key::new(Kind::Migration, name),
                migration.map(Wanted::Migration),
            ));
        });
        differences(&before.drains, &view.drains, |name, status| {
            changed.push((Key::new(Kind::Drain, name), status.map(Wanted::Drain)));
        });
        differences(&before.placements, &view.placements, |name, status| {
            let wanted = status.map(Wanted::Placement);
            changed.push((Key::new(Kind::Placement, name), wanted));
        });
        differences(&before.policies, &view.policies, |name, status| {
            changed.push((Key::new(Kind::Policy, name), status.map(Wanted::Policy)));
        });
        differences(&before.profiles, &view.profiles, |name, status| {
            changed.push((Key::new(Kind::Profile, name), status.map(Wanted::Profile)));
        });
        differences(&before.fleets, &view.fleets, |name, status| {
            changed.push((Key::new(Kind::Fleet, name), status.map(Wanted::Fleet)));
        });
        for name in view.outdated.symmetric_difference(&before.outdated) {
            let outdated = view.outdated.contains(name);
            self.change(Key::new(Kind::Migration, name), now, |entry| {
                entry.outdated = outdated;
            });
        }
        if view.settled && !before.settled {
            let moves = self
                .entries
                .keys()
                .filter(|key| key.kind == Kind::Migration);
            for key in moves.cloned().collect::<Vec<_>>() {
                self.change(key, now, |_| {});
            }
        }
        for (key, wanted) in changed {
            self.change(key, now, |entry| entry.wanted = wanted);
        }
    }

    /// The API server shows an object.
    pub(crate) fn seen(&mut self, object: Object, now: Instant) {
        self.change(object.key(), now, |entry| entry.see(object, now));
    }

    /// An object is gone.
    pub(crate) fn gone(&mut self, key: Key, now: Instant) {
        self.change(key, now, Entry::forget);
    }

    /// The next write that is due, taken off the desk until [`Desk::done`] is told how it went.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Errand> {
        loop {
            let first = |queue: &BTreeSet<(Instant, Key)>| {
                queue.first().filter(|(at, _)| *at <= now).cloned()
            };
            let (at, key) = self.due.iter().find_map(first)?;
            self.queue(&key).remove(&(at, key.clone()));
            let settled = self.view.settled;
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.due = None;
            // Decided anew: since it was put here the figures may have gone back to what is held.
            match entry.next(&key, now, settled) {
                Some((at, act)) if at <= now => {
                    entry.busy = true;
                    let object = entry.object.as_ref();
                    let uid = object.map(|object| object.uid().to_owned());
                    return Some(Errand {
                        uid: uid.unwrap_or_default(),
                        version: entry.version,
                        key,
                        act,
                    });
                }
                Some((at, _)) => {
                    entry.due = Some(at);
                    self.queue(&key).insert((at, key));
                }
                None => {}
            }
        }
    }

    /// When [`Desk::take`] has something next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let firsts = self.due.iter().filter_map(BTreeSet::first);
        firsts.map(|(at, _)| *at).min()
    }

    fn queue(&mut self, key: &Key) -> &mut BTreeSet<(Instant, Key)> {
        &mut self.due[usize::from(key.kind == Kind::Guest)]
    }

    /// How a write went.
    pub(crate) fn done(&mut self, errand: &Errand, outcome: Outcome, now: Instant) {
        self.change(errand.key.clone(), now, |entry| {
            entry.busy = false;
            match outcome {
                Outcome::Object(object) => {
                    entry.rest(0, now, LONGEST_PAUSE);
                    // The watch may be ahead of the answer: the name is another's by then, or nobody's.
                    let renamed = entry.uid != errand.uid && entry.uid != object.uid();
                    let deleted = object.meta().deletion_timestamp.is_some();
                    if !renamed && deleted && finalizers(&object).is_empty() {
                        entry.forget();
                    } else if !renamed {
                        entry.see(object, now);
                    }
                }
                Outcome::Status { version, wanted } => {
                    entry.rest(0, now, LONGEST_PAUSE);
                    entry.written = Some(now);
                    // A newer version that the watch showed meanwhile counts more.
                    if version >= entry.version && entry.uid == errand.uid {
                        entry.version = version;
                        entry.held = Some(Held::Written(wanted));
                    }
                }
                Outcome::Deleted => entry.rest(1, now, LONGEST_PAUSE),
                Outcome::Gone => {
                    if entry.uid == errand.uid {
                        entry.forget();
                    }
                }
                Outcome::Failed(_) => entry.rest(entry.failures + 1, now, LONGEST_PAUSE),
                Outcome::Refused(_) => entry.rest(entry.failures + 1, now, LONGEST_REFUSED),
            }
        });
    }

    /// Failures in a row of writes for that object.
    pub(crate) fn failures(&self, key: &Key) -> u32 {
        self.entries.get(key).map_or(0, |entry| entry.failures)
    }

    /// Changes an entry, then decides anew when its next write is due.
    fn change(&mut self, key: Key, now: Instant, change: impl FnOnce(&mut Entry)) {
        let settled = self.view.settled;
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(now));
        change(entry);
        let before = entry.due.take();
        let empty = entry.is_empty();
        let next = entry.next(&key, now, settled).filter(|_| !empty);
        let next = next.map(|(at, _)| at);
        entry.due = next;
        if empty {
            self.entries.remove(&key);
        }
        if let Some(at) = before {
            self.queue(&key).remove(&(at, key.clone()));
        }
        if let Some(at) = next {
            self.queue(&key).insert((at, key));
        }
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            object: None,
            wanted: None,
            held: None,
            version: 0,
            uid: String::new(),
            known_since: now,
            stale: None,
            written: None,
            busy: false,
            failures: 0,
            rest_until: None,
            outdated: false,
            due: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.object.is_none() && self.wanted.is_none() && !self.busy
    }

    fn see(&mut self, object: Object, now: Instant) {
        let version = object.version();
        if self.uid != object.uid() {
            if !self.uid.is_empty() {
                self.stale = self.wanted.clone();
            }
            self.uid = object.uid().to_owned();
            self.known_since = now;
            self.written = None;
            self.rest(0, now, LONGEST_PAUSE);
        } else if self.object.is_some() && version < self.version {
            return;
        }
        if self.object.is_none() || version != self.version {
            self.held = Some(Held::Shown(object.clone()));
        }
        self.version = version;
        self.object = Some(object);
    }

    fn forget(&mut self) {
        self.object = None;
        self.held = None;
    }

    fn rest(&mut self, failures: u32, now: Instant, longest: Duration) {
        self.failures = failures;
        self.rest_until = (failures > 0).then(|| {
            let pause = FIRST_PAUSE * 2u32.saturating_pow((failures - 1).min(16));
            now + pause.min(longest)
        });
    }

    /// The next write and when it is due.
    fn next(&self, key: &Key, now: Instant, settled: bool) -> Option<(Instant, Act)> {
        if self.busy {
            return None;
        }
        let (at, act) = match &self.object {
            None => (now, self.creation()?),
            Some(object) => self.upkeep(key, object, now, settled)?,
        };
        Some((self.rest_until.map_or(at, |rest| at.max(rest)), act))
    }

    fn creation(&self) -> Option<Act> {
        let wanted = self.wanted.as_ref()?;
        let missing = match wanted {
            Wanted::Guest(view) => !view.declared && view.uuid.is_some(),
            // A move that had an object before was deleted by somebody: it is not made again.
            Wanted::Migration(view) => !view.declared && self.uid.is_empty(),
            Wanted::Host(_)
            | Wanted::Drain(_)
            | Wanted::Placement(_)
            | Wanted::Policy(_)
            | Wanted::Profile(_)
            | Wanted::Fleet(_) => false,
        };
        missing.then(|| Act::Create(wanted.clone()))
    }

    fn upkeep(
        &self,
        key: &Key,
        object: &Object,
        now: Instant,
        settled: bool,
    ) -> Option<(Instant, Act)> {
        let finalizer = match object {
            Object::Migration(migration) => {
                let known_for = now.saturating_duration_since(self.known_since);
                objects::finalizer(migration, self.shown_move(), settled, known_for)
            }
            _ => Finalizer::Keep,
        };
        if finalizer == Finalizer::Add {
            return Some((now, Act::AddFinalizer(object.clone())));
        }
        let status = self.status(key, object, now);
        match finalizer {
            Finalizer::Remove(after) => match status {
                Some(status) if self.failures < PATIENCE => Some(status),
                _ => Some((now + after, Act::RemoveFinalizer(object.clone()))),
            },
            // What it came to is written down before it goes, for whoever watches.
            Finalizer::Keep if self.outdated && object.meta().deletion_timestamp.is_none() => {
                status.or(Some((now, Act::Delete)))
            }
            Finalizer::Keep | Finalizer::Add => status,
        }
    }

    fn shown_move(&self) -> Option<&GuestMigrationStatus> {
        match &self.wanted {
            Some(Wanted::Migration(view)) => Some(&view.status),
            _ => None,
        }
    }

    fn status(&self, key: &Key, object: &Object, now: Instant) -> Option<(Instant, Act)> {
        let wanted = self.wanted.as_ref()?;
        let mut at = now;
        if let Object::Migration(migration) = object {
            if self
                .shown_move()
                .is_some_and(|status| objects::tells_of_predecessor(migration, status))
            {
                return None;
            }
            if self.stale.as_ref().is_some_and(|stale| stale.same(wanted)) {
                at = now.max(self.known_since + STALE_FOR);
            }
        }
        let difference = self.held.as_ref().map_or(Difference::Matters, |held| {
            statuses::difference(key.kind, held, wanted)
        });
        let due = match (difference, self.written) {
            (Difference::None, _) => return None,
            (Difference::Matters, _) | (Difference::Figures(_), None) => at,
            (Difference::Figures(pace), Some(written)) => at.max(written + pace),
        };
        Some((due, Act::Status(wanted.clone())))
    }
}

/// Walks through two sorted maps at once and names what came, changed (another `Arc`) or went.
fn differences<N: Ord + Borrow<str>, T>(
    before: &BTreeMap<N, Arc<T>>,
    after: &BTreeMap<N, Arc<T>>,
    mut tell: impl FnMut(&str, Option<Arc<T>>),
) {
    let mut old = before.iter().peekable();
    for (name, value) in after {
        while let Some((gone, _)) = old.next_if(|(old, _)| *old < name) {
            tell(gone.borrow(), None);
        }
        match old.next_if(|(old, _)| *old == name) {
            Some((_, same)) if Arc::ptr_eq(same, value) => {}
            _ => tell(name.borrow(), Some(value.clone())),
        }
    }
    for (gone, _) in old {
        tell(gone.borrow(), None);
    }
}

/// The finalizers of an object.
pub(crate) fn finalizers(object: &Object) -> &[String] {
    object.meta().finalizers.as_deref().unwrap_or_default()
}

/// Where our finalizer is in the list.
pub(crate) fn our_finalizer(object: &Object) -> Option<usize> {
    finalizers(object)
        .iter()
        .position(|name| name == MOVE_FINALIZER)
}
