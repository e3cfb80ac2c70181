//! What follows an engine, without one: views and happenings are made by hand.

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{
    Fleet, Guest, GuestMigration, GuestPlacement, Host, HostDrain, HostSpec, MigrationProfile,
    RebalancePolicy, manifests,
};
use evenkeel_engine::{Happening, View};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    Access, client,
    health::Health,
    lease::Guard,
    session::{Parts, follow},
    stores::Stores,
    watches,
};

pub(crate) struct Rig {
    pub(crate) client: Client,
    pub(crate) stores: Arc<Stores>,
    views: watch::Sender<Arc<View>>,
    happenings: mpsc::UnboundedSender<Happening>,
    anew: watch::Sender<u64>,
    until: watch::Sender<Option<Instant>>,
    _parts: Parts,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_test_writer()
            .try_init();
        let client = client().await;
        install(&client).await;
        let stores = Arc::new(Stores::default());
        let (views, shown) = watch::channel(Arc::default());
        let (happenings, happened) = mpsc::unbounded_channel();
        let mut parts = Parts::default();
        let anew = watch::Sender::new(0);
        let health = Arc::new(Health::default());
        let watching = self::client().await;
        macro_rules! watch {
            ($kind:ty) => {
                let (client, stores) = (watching.clone(), stores.clone());
                let (health, anew) = (health.clone(), anew.subscribe());
                parts.start("a watch", async move {
                    watches::follow::<$kind>(client, stores, health, anew).await;
                    String::new()
                });
            };
        }
        watch!(Host);
        watch!(Guest);
        watch!(GuestMigration);
        watch!(HostDrain);
        watch!(GuestPlacement);
        watch!(RebalancePolicy);
        watch!(MigrationProfile);
        watch!(Fleet);
        timeout(Duration::from_secs(20), stores.synced(0))
            .await
            .unwrap();
        let until = watch::Sender::new(Some(Instant::now() + Duration::from_secs(3600)));
        let guard = Guard::new(until.subscribe());
        follow(
            &mut parts,
            "test",
            client.clone(),
            stores.clone(),
            guard,
            shown,
            happened,
        );
        Self {
            client,
            stores,
            views,
            happenings,
            anew,
            until,
            _parts: parts,
        }
    }

    pub(crate) fn show(&self, view: View) {
        self.views.send_replace(Arc::new(view));
    }

    pub(crate) fn happen(&self, happening: Happening) {
        self.happenings.send(happening).unwrap();
    }

    pub(crate) fn anew(&self) {
        self.anew.send_modify(|count| *count += 1);
    }

    pub(crate) fn guard(&self) -> Guard {
        Guard::new(self.until.subscribe())
    }

    pub(crate) async fn until(&self, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) async fn client() -> Client {
    Access::default().client().await.unwrap()
}

/// Installs the kinds as they are now and waits until they are served.
pub(crate) async fn install(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, crd) in manifests::all() {
        let name = crd.metadata.name.clone().unwrap();
        let params = PatchParams::apply("test").force();
        crds.patch(&name, &params, &Patch::Apply(&crd))
            .await
            .unwrap();
    }
    timeout(Duration::from_secs(20), crate::installed(client))
        .await
        .unwrap();
}

/// Waits until an object is as asked.
pub(crate) async fn until<K: client::Object>(
    client: &Client,
    name: &str,
    mut done: impl FnMut(&K) -> bool + Send,
) -> K {
    let waiting = client::wait_until::<K>(client, name, |object| object.is_some_and(&mut done));
    timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::new_v4().to_string()[..8])
}

pub(crate) fn host_spec() -> HostSpec {
    HostSpec {
        uri: "qemu+tls://h1.example.net/system".to_owned(),
        ..HostSpec::default()
    }
}

/// Does something to the cluster by its tool.
pub(crate) async fn cluster(arguments: &[&str]) {
    let command = std::env::var("EVENKEEL_CLUSTER").expect("EVENKEEL_CLUSTER: the cluster's tool");
    let mut words = command.split_whitespace();
    let status = tokio::process::Command::new(words.next().unwrap())
        .args(words)
        .args(arguments)
        .status();
    assert!(status.await.unwrap().success());
}
