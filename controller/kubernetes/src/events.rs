//! Events: what happened, on the object it happened to, where `kubectl describe` shows it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::shared::API_VERSION;
use evenkeel_engine::Happening;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep},
};

use crate::{
    client::CALL,
    error::Error,
    kinds::{Key, Kind},
    lease::Guard,
    stores::{Stores, Unreadable},
};

/// Objects whose events are worked on at most; for one object one at a time, so that order and counts are right.
const OBJECTS: usize = 64;
/// Calls in flight at most. Events that wait for their object to appear do not count.
const CALLS: usize = 8;
/// Events that wait at most; further ones are dropped and counted in the log.
const BACKLOG: usize = 2000;
/// The API server takes 1024 bytes.
const NOTE: usize = 1000;
/// How long an object may take to appear.
const APPEARS: Duration = Duration::from_secs(5);
/// How long a failing event is tried again.
const RETRIED: Duration = Duration::from_secs(30);

/// An event before it knows its object's UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    key: Key,
    uid: Option<String>,
    warning: bool,
    reason: String,
    message: String,
    action: String,
}

impl Note {
    /// Nothing where the kind is none of ours.
    pub(crate) fn of(happening: &Happening) -> Option<Self> {
        Some(Self {
            key: Key::new(Kind::parse(happening.kind)?, &happening.name),
            uid: None,
            warning: happening.warning,
            reason: happening.reason.as_str().to_owned(),
            message: cut(&happening.message),
            action: happening.action.to_owned(),
        })
    }

    pub(crate) fn unreadable(what: &Unreadable) -> Self {
        let message = format!(
            "this object can't be read and is taken as it was before, or not at all: {}",
            what.error
        );
        Self {
            key: what.key.clone(),
            uid: Some(what.uid.clone()),
            warning: true,
            reason: "Unreadable".to_owned(),
            message: cut(&message),
            action: "Observe".to_owned(),
        }
    }
}

/// Cut to what the API server takes, between characters.
fn cut(text: &str) -> String {
    if text.len() <= NOTE {
        return text.to_owned();
    }
    let mut end = NOTE - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// What publishes.
#[derive(Clone)]
pub(crate) struct Publisher {
    recorder: Recorder,
    guard: Guard,
    stores: Arc<Stores>,
    calls: Arc<Semaphore>,
}

impl Publisher {
    pub(crate) fn new(recorder: Recorder, guard: Guard, stores: Arc<Stores>) -> Self {
        Self {
            recorder,
            guard,
            stores,
            calls: Arc::new(Semaphore::new(CALLS)),
        }
    }

    /// Publishes what comes until the channel closes.
    pub(crate) async fn run(self, mut notes: mpsc::UnboundedReceiver<Note>) -> String {
        let mut waiting: HashMap<Key, VecDeque<Note>> = HashMap::new();
        let mut ready: VecDeque<Key> = VecDeque::new();
        let mut busy: HashSet<Key> = HashSet::new();
        let mut flying: FuturesUnordered<BoxFuture<'_, Key>> = FuturesUnordered::new();
        let (mut count, mut dropped) = (0, 0u64);
        loop {
            while flying.len() < OBJECTS
                && let Some(key) = ready.pop_front()
            {
                if let Some(note) = waiting.get_mut(&key).and_then(VecDeque::pop_front) {
                    count -= 1;
                    busy.insert(key.clone());
                    flying.push(self.publish(note).map(|()| key).boxed());
                }
            }
            tokio::select! {
                note = notes.recv() => {
                    let Some(note) = note else {
                        return "nothing happens any more".to_owned();
                    };
                    if count >= BACKLOG {
                        dropped += 1;
                        if dropped.is_power_of_two() {
                            tracing::warn!(dropped, "too many events wait: some are dropped");
                        }
                        continue;
                    }
                    let key = note.key.clone();
                    let line = waiting.entry(key.clone()).or_default();
                    line.push_back(note);
                    count += 1;
                    if line.len() == 1 && !busy.contains(&key) {
                        ready.push_back(key);
                    }
                }
                Some(key) = flying.next() => {
                    busy.remove(&key);
                    match waiting.get(&key) {
                        Some(line) if !line.is_empty() => ready.push_back(key),
                        _ => drop(waiting.remove(&key)),
                    }
                }
            }
        }
    }

    async fn publish(&self, note: Note) {
        let Some(uid) = self.uid(&note).await else {
            tracing::debug!(object = %note.key, reason = note.reason, "an event has no object");
            return;
        };
        let reference = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(note.key.kind.word().to_owned()),
            name: Some(note.key.name.as_ref().to_owned()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason,
            note: Some(note.message),
            action: note.action,
            secondary: None,
        };
        let begun = Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            let place = self.calls.acquire().await;
            let error = match self
                .guard
                .call(CALL, self.recorder.publish(&event, &reference))
                .await
            {
                Ok(()) => return,
                Err(error) => error,
            };
            drop(place);
            let again = matches!(error, Error::TimedOut(_) | Error::Unreachable(_));
            if !again || begun.elapsed() > RETRIED {
                let reason = &event.reason;
                tracing::warn!(object = %note.key, reason, %error, "an event could not be published");
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// The object's UID; waits a while for an object that is just being made.
    async fn uid(&self, note: &Note) -> Option<String> {
        if note.uid.is_some() {
            return note.uid.clone();
        }
        let begun = Instant::now();
        loop {
            if let Some(object) = self.stores.find(&note.key) {
                return Some(object.uid().to_owned());
            }
            if begun.elapsed() > APPEARS {
                return None;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        for length in 990..1010 {
            let text = format!("{}{}", "a".repeat(length), "ü".repeat(20));
            let cut = cut(&text);
            assert!(cut.len() <= NOTE && cut.ends_with('…'));
        }
    }
}
