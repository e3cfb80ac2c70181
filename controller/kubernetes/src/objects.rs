//! Which objects have to be made, and what becomes of the finalizer of a move. Decides; writes nothing.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_crds::{
    GuestMigration, GuestMigrationStatus,
    shared::{API_VERSION, LABEL_WISH_KIND, LABEL_WISH_NAME, MOVE_FINALIZER},
};
use evenkeel_engine::{GuestView, MigrationView};
use serde_json::{Value, json};

/// How long a deleted move that the engine does not know is kept: a view may be older than the object.
const GRACE: Duration = Duration::from_secs(2);

/// What becomes of a move's finalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finalizer {
    /// Nothing.
    Keep,
    /// It is missing.
    Add,
    /// Nothing is left to be aborted: the object may go, after this long.
    Remove(Duration),
}

/// Decides on the finalizer.
///
/// `shown` is what the engine shows of the move; `settled` whether the engine has looked at everything, so that
/// its silence means something; `known_for` how long the object has been known here.
pub(crate) fn finalizer(
    object: &GuestMigration,
    shown: Option<&GuestMigrationStatus>,
    settled: bool,
    known_for: Duration,
) -> Finalizer {
    let ours = object
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == MOVE_FINALIZER);
    let stored = object
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default();
    let over = shown.map_or(stored, |status| status.phase).is_final();
    match (object.metadata.deletion_timestamp.is_some(), ours) {
        (false, false) if !over && !stored.is_final() => Finalizer::Add,
        (true, true) => match shown {
            Some(_) if over => Finalizer::Remove(Duration::ZERO),
            Some(_) => Finalizer::Keep,
            None if !settled => Finalizer::Keep,
            None if over => Finalizer::Remove(Duration::ZERO),
            None if stored == evenkeel_crds::MigrationPhase::Pending => {
                Finalizer::Remove(GRACE.saturating_sub(known_for))
            }
            // It had begun and the engine does not know it: something may still have to be taken back.
            None => Finalizer::Keep,
        },
        _ => Finalizer::Keep,
    }
}

/// Whether a status tells of an earlier object of the same name. A move that was made for a wish has its name from what
/// it is for, and may be over before its object could be made.
pub(crate) fn tells_of_predecessor(object: &GuestMigration, status: &GuestMigrationStatus) -> bool {
    let labels = object.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(LABEL_WISH_KIND)) {
        return false;
    }
    match (&object.metadata.creation_timestamp, &status.completion_time) {
        (Some(created), Some(ended)) => ended.0.as_second() < created.0.as_second(),
        _ => false,
    }
}

/// A Guest for a domain that was found.
pub(crate) fn new_guest(name: &str, view: &GuestView) -> Value {
    let mut spec = json!({ "uuid": view.uuid });
    let domain = view.status.domain.as_deref();
    if let Some(domain) = domain.filter(|domain| *domain != name) {
        spec["domain"] = domain.into();
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "Guest",
        "metadata": { "name": name, "labels": usable_labels(&view.labels) },
        "spec": spec,
    })
}

/// A GuestMigration for a move that was made for a wish.
pub(crate) fn new_migration(name: &str, view: &MigrationView) -> Value {
    let wish = BTreeMap::from([
        (LABEL_WISH_KIND.to_owned(), view.requested_by.kind.clone()),
        (LABEL_WISH_NAME.to_owned(), view.requested_by.name.clone()),
    ]);
    json!({
        "apiVersion": API_VERSION,
        "kind": "GuestMigration",
        "metadata": {
            "name": name,
            "labels": usable_labels(&wish),
            "finalizers": [MOVE_FINALIZER],
        },
        "spec": view.spec,
    })
}

/// The labels that Kubernetes takes. One that it does not take, from a domain's metadata, must not keep the object
/// from being made.
fn usable_labels(labels: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let usable = labels.iter().filter(|(key, value)| {
        let (prefix, name) = key.rsplit_once('/').unwrap_or(("a", key));
        let name_fits = !name.is_empty() && is_word(name);
        is_domain(prefix) && name_fits && is_word(value)
    });
    usable
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

/// At most 63 of letters, digits, `-`, `_`, `.`, with a letter or digit at both ends; or nothing.
fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && plain(bytes.first())
        && plain(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A DNS name in lower case.
fn is_domain(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && is_word(part)
            && part
                .bytes()
                .all(|byte| !byte.is_ascii_uppercase() && byte != b'_')
    };
    text.len() <= 253 && text.split('.').all(part)
}
