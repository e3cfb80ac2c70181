//! What a plan is made for: the fleet and what is asked of it, looked at now, or as a snapshot has it.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_crds::shared::Timestamp;
use evenkeel_engine::{View, Wishes};

use crate::{
    arguments::Common,
    cluster,
    manifests::{Manifests, Read},
    output,
    session::{Manner, Session},
    snapshot,
};

/// A fleet at one moment, with everything that is known and asked.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What is seen, and planned.
    pub view: Arc<View>,
    /// What is declared.
    pub wishes: Wishes,
    /// Where: `file:line:column`, by kind and name.
    pub places: BTreeMap<(String, String), String>,
    /// Whether it is declared in files.
    pub from_files: bool,
    /// When.
    pub time: Timestamp,
}

impl Scene {
    /// What the command line asks for: a snapshot, or a look at the hosts that manifests or a cluster declare.
    ///
    /// # Errors
    /// Where manifests or the snapshot are wrong, or the hosts or the cluster can't be asked at all.
    pub async fn get(common: &Common, command: &str) -> anyhow::Result<Self> {
        let (manifests, manner) = if common.files.is_empty() {
            let client = cluster::connect(common).await?;
            let wishes = evenkeel_kubernetes::client::load_wishes(&client).await?;
            let manifests = Manifests {
                wishes,
                ..Manifests::default()
            };
            (manifests, Manner::LookForCluster)
        } else {
            match Manifests::load_or_snapshot(&common.files)? {
                Read::Manifests(manifests) => (*manifests, Manner::Look),
                Read::Snapshot(file, text) => return Ok(snapshot::read(&file, &text)?),
            }
        };
        if common.verbose > 0 {
            manifests.notes.iter().for_each(output::tell);
        }
        let mut session = Session::start(
            manifests.wishes.clone(),
            command,
            manner,
            common.credentials.clone(),
        )?;
        let view = session.settled().await;
        session.leave().await;
        let place = |(key, place): (&(String, String), &crate::manifests::Place)| {
            (key.clone(), place.to_string())
        };
        Ok(Self {
            view: view?,
            places: manifests.places.iter().map(place).collect(),
            wishes: manifests.wishes,
            from_files: manner == Manner::Look,
            time: Timestamp::now(),
        })
    }

    /// Where an object is written.
    #[must_use]
    pub fn place(&self, kind: &str, name: &str) -> Option<String> {
        let key = (kind.to_owned(), name.to_owned());
        self.places.get(&key).cloned()
    }
}
