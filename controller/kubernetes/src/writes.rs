//! How each write is sent. Nothing is sent without the lease, and no call outlasts it.

use std::sync::Arc;

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, MigrationProfile,
    RebalancePolicy,
    shared::{API_VERSION, LABEL_NODE, MOVE_FINALIZER},
};
use evenkeel_engine::MigrationView;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::PartialObjectMeta,
};
use serde_json::{Value, json};

use crate::{
    client::{CALL, MANAGER},
    desk::{Act, Errand, Outcome, finalizers, our_finalizer},
    error::Error,
    kinds::{Declared, Kind, Object, Wanted},
    lease::Guard,
    objects,
};

/// Whoever brings writes to the API server.
pub(crate) trait Courier: Clone + Send + 'static {
    /// Brings one and tells how it went.
    fn send(&self, errand: &Errand) -> impl Future<Output = Outcome> + Send;
}

/// Sends writes.
#[derive(Clone)]
pub(crate) struct Writes {
    client: Client,
    guard: Guard,
}

impl Writes {
    pub(crate) fn new(client: Client, guard: Guard) -> Self {
        Self { client, guard }
    }

    async fn status(&self, errand: &Errand, wanted: &Wanted) -> Result<Outcome, Error> {
        match errand.key.kind {
            Kind::Host => self.apply_status::<Host>(errand, wanted).await,
            Kind::Guest => self.apply_status::<Guest>(errand, wanted).await,
            Kind::Migration => self.apply_status::<GuestMigration>(errand, wanted).await,
            Kind::Drain => self.apply_status::<HostDrain>(errand, wanted).await,
            Kind::Placement => self.apply_status::<GuestPlacement>(errand, wanted).await,
            Kind::Policy => self.apply_status::<RebalancePolicy>(errand, wanted).await,
            Kind::Profile => self.apply_status::<MigrationProfile>(errand, wanted).await,
            Kind::Fleet => self.apply_status::<Fleet>(errand, wanted).await,
        }
    }

    /// Applies a status. What tells of a move or a wish must not end up on a younger object of the same name, where
    /// it would be believed: there the version is a condition. (A UID is not looked at in a status, measured.)
    async fn apply_status<K: Declared>(
        &self,
        errand: &Errand,
        wanted: &Wanted,
    ) -> Result<Outcome, Error> {
        // Only the metadata comes back.
        let api: Api<PartialObjectMeta<K>> = Api::all(self.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        let name = errand.key.name.as_ref();
        let mut body = json!({
            "apiVersion": API_VERSION,
            "kind": K::KIND.word(),
            "metadata": { "name": name },
            "status": wanted.status(),
        });
        if is_bound(K::KIND) {
            body["metadata"]["resourceVersion"] = errand.version.to_string().into();
        }
        let apply = async |body: &Value| {
            self.guard
                .call(CALL, api.patch_status(name, &params, &Patch::Apply(body)))
                .await
        };
        let written = match apply(&body).await {
            Err(Error::Conflict(_)) => {
                // The watch is behind. If it is still the same object, its present version will do.
                let found = self.guard.call(CALL, api.get(name)).await?;
                if found.metadata.uid.as_ref() != Some(&errand.uid) {
                    return Ok(Outcome::Gone);
                }
                body["metadata"]["resourceVersion"] = found.metadata.resource_version.into();
                apply(&body).await?
            }
            written => written?,
        };
        let version = written.metadata.resource_version;
        Ok(Outcome::Status {
            version: version.and_then(|text| text.parse().ok()).unwrap_or(0),
            wanted: wanted.clone(),
        })
    }

    /// By apply and not by create: who creates owns the defaults too, and a user's own apply would conflict.
    async fn make_guest(&self, body: &Value) -> Result<Outcome, Error> {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let api: Api<Guest> = Api::all(self.client.clone());
        let params = PatchParams::apply(MANAGER);
        let guest = self
            .guard
            .call(CALL, api.patch(name, &params, &Patch::Apply(body)))
            .await?;
        tracing::debug!(guest = name, "a domain was found: its Guest is made");
        Ok(Outcome::Object(known(guest)))
    }

    async fn make_migration(&self, name: &str, view: &MigrationView) -> Result<Outcome, Error> {
        let wrong = |error: serde_json::Error| Error::Invalid(error.to_string());
        let body = serde_json::from_value(objects::new_migration(name, view)).map_err(wrong)?;
        let api: Api<GuestMigration> = Api::all(self.client.clone());
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.guard.call(CALL, api.create(&params, &body)).await {
            Err(Error::AlreadyExists(message)) => {
                // Ours, if an earlier request got through unheard.
                let found = self.guard.call(CALL, api.get(name)).await?;
                if found.spec.guest == view.spec.guest {
                    Ok(Outcome::Object(known(found)))
                } else {
                    Err(Error::AlreadyExists(message))
                }
            }
            made => Ok(Outcome::Object(known(made?))),
        }
    }

    async fn make_drain(&self, drain: &HostDrain) -> Result<Outcome, Error> {
        let api: Api<HostDrain> = Api::all(self.client.clone());
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.guard.call(CALL, api.create(&params, drain)).await {
            Err(Error::AlreadyExists(message)) => {
                // Ours, if an earlier request got through unheard.
                let found = self.guard.call(CALL, api.get(&drain.name_any())).await?;
                if found.labels().get(LABEL_NODE) == drain.labels().get(LABEL_NODE) {
                    Ok(Outcome::Object(known(found)))
                } else {
                    Err(Error::AlreadyExists(message))
                }
            }
            made => Ok(Outcome::Object(known(made?))),
        }
    }

    /// Only the very object that was meant.
    async fn remove<K: Declared>(&self, errand: &Errand) -> Result<Outcome, Error> {
        let api: Api<PartialObjectMeta<K>> = Api::all(self.client.clone());
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(errand.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        self.guard
            .call(CALL, api.delete(&errand.key.name, &params))
            .await?;
        tracing::debug!(object = %errand.key, "an object that is of no use any more is deleted");
        Ok(Outcome::Deleted)
    }

    async fn patch(&self, object: &Object, patch: &Value) -> Result<Outcome, Error> {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let api: Api<GuestMigration> = Api::all(self.client.clone());
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let wrong = |error: serde_json::Error| Error::Invalid(error.to_string());
        let patch = serde_json::from_value(patch.clone()).map_err(wrong)?;
        let patch = Patch::Json::<()>(patch);
        match self
            .guard
            .call(CALL, api.patch(name, &params, &patch))
            .await
        {
            Ok(object) => Ok(Outcome::Object(known(object))),
            // Its `test` failed: somebody changed the finalizers. The watch shows how; then it is decided anew.
            Err(Error::Invalid(message)) => Err(Error::Conflict(message)),
            Err(error) => Err(error),
        }
    }
}

impl Courier for Writes {
    async fn send(&self, errand: &Errand) -> Outcome {
        let name = errand.key.name.as_ref();
        let sent = match &errand.act {
            Act::Create(Wanted::Guest(view)) => {
                self.make_guest(&objects::new_guest(name, view)).await
            }
            Act::Create(Wanted::Migration(view)) => self.make_migration(name, view).await,
            Act::Create(_) => Ok(Outcome::Refused("only users make those".to_owned())),
            Act::Delete if errand.key.kind == Kind::Drain => self.remove::<HostDrain>(errand).await,
            Act::Delete => self.remove::<GuestMigration>(errand).await,
            Act::Declare(drain) => self.make_drain(drain).await,
            Act::AddFinalizer(object) => self.patch(object, &adding(object)).await,
            Act::RemoveFinalizer(object) => match our_finalizer(object) {
                Some(position) => self.patch(object, &removing(object, position)).await,
                None => Ok(Outcome::Object(object.clone())),
            },
            Act::Status(wanted) => self.status(errand, wanted).await,
        };
        sent.unwrap_or_else(|error| match error {
            Error::NotFound(_) => Outcome::Gone,
            Error::Invalid(_) | Error::Forbidden(_) | Error::AlreadyExists(_) => {
                Outcome::Refused(error.to_string())
            }
            error => Outcome::Failed(error.to_string()),
        })
    }
}

/// Whether a status of this kind is written only on the very object that it tells of.
pub(crate) fn is_bound(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Migration | Kind::Drain | Kind::Placement | Kind::Policy
    )
}

fn known<K: Declared>(mut object: K) -> Object {
    object.meta_mut().managed_fields = None;
    object.object()
}

fn adding(object: &Object) -> Value {
    let mut patch = vec![json!({ "op": "test", "path": "/metadata/uid", "value": object.uid() })];
    if finalizers(object).is_empty() {
        patch.push(json!({ "op": "test", "path": "/metadata/finalizers", "value": null }));
        patch.push(
            json!({ "op": "add", "path": "/metadata/finalizers", "value": [MOVE_FINALIZER] }),
        );
    } else {
        patch.push(
            json!({ "op": "test", "path": "/metadata/finalizers", "value": finalizers(object) }),
        );
        patch.push(
            json!({ "op": "add", "path": "/metadata/finalizers/-", "value": MOVE_FINALIZER }),
        );
    }
    Value::Array(patch)
}

fn removing(object: &Object, position: usize) -> Value {
    let path = format!("/metadata/finalizers/{position}");
    json!([
        { "op": "test", "path": "/metadata/uid", "value": object.uid() },
        { "op": "test", "path": path, "value": MOVE_FINALIZER },
        { "op": "remove", "path": path },
    ])
}

/// Follows the engine's views and the stores and writes what differs, until one of them ends.
pub(crate) mod writer {
    use std::time::Duration;

    use evenkeel_engine::View;
    use futures::{StreamExt, stream::FuturesUnordered};
    use tokio::{
        sync::{mpsc, watch},
        time::{Instant, sleep_until},
    };

    use super::{Arc, Courier, Outcome};
    use crate::{desk::Desk, kinds::Object, stores::Change};

    /// Writes in flight at most. More are no faster, measured.
    const PARALLEL: usize = 16;

    /// Runs until a channel closes, which is never while the engine and the watches live.
    pub(crate) async fn run(
        writes: impl Courier,
        mut views: watch::Receiver<Arc<View>>,
        known: Vec<Object>,
        mut changes: mpsc::UnboundedReceiver<Change>,
    ) -> String {
        let mut desk = Desk::new();
        for object in known {
            desk.seen(object, Instant::now());
        }
        let view = views.borrow_and_update().clone();
        desk.show(view, Instant::now());
        let mut flying = FuturesUnordered::new();
        loop {
            while flying.len() < PARALLEL
                && let Some(errand) = desk.take(Instant::now())
            {
                let writes = writes.clone();
                flying.push(async move {
                    let outcome = writes.send(&errand).await;
                    (errand, outcome)
                });
            }
            let full = flying.len() >= PARALLEL;
            let due = desk.next_due().filter(|_| !full);
            let later = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            // In this order, so that the same story is told the same way again.
            tokio::select! {
                biased;
                changed = views.changed() => {
                    if changed.is_err() {
                        return "the engine shows nothing any more".to_owned();
                    }
                    let view = views.borrow_and_update().clone();
                    desk.show(view, Instant::now());
                }
                change = changes.recv() => match change {
                    Some(Change::Seen(object)) => desk.seen(object, Instant::now()),
                    Some(Change::Gone(key)) => desk.gone(key, Instant::now()),
                    Some(Change::Unreadable(_)) => {}
                    None => return "the watches tell nothing any more".to_owned(),
                },
                Some((errand, outcome)) = flying.next() => {
                    if let Outcome::Failed(error) | Outcome::Refused(error) = &outcome {
                        let times = desk.failures(&errand.key) + 1;
                        // Once, and then with every doubling.
                        if times.is_power_of_two() {
                            tracing::warn!(object = %errand.key, error, times, "a write failed");
                        }
                    }
                    desk.done(&errand, outcome, Instant::now());
                }
                () = sleep_until(later), if due.is_some() => {}
            }
        }
    }
}
