//! Kubernetes nodes of the server in memory, which has none of its own: tests make, cordon and delete them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::reason::{Cause, Reason};
use tokio::time::sleep;

use super::{Fate, Server};
use crate::{nodes::Node, stores::Stores};

impl Server {
    /// Somebody makes a node, or cordons or uncordons it.
    pub fn put_node(&self, name: &str, cordoned: bool) {
        let node = if cordoned { Node::Cordoned } else { Node::Open };
        self.change_nodes(|nodes| drop(nodes.insert(name.to_owned(), node)));
    }

    /// Somebody deletes a node.
    pub fn delete_node(&self, name: &str) {
        self.change_nodes(|nodes| drop(nodes.remove(name)));
    }

    /// A node can't be read from now on, until it is put again.
    pub fn hide_node(&self, name: &str) {
        let cause = Cause::new(Reason::ClusterRefuses, format!("node {name} can't be read"));
        self.change_nodes(|nodes| drop(nodes.insert(name.to_owned(), Node::Unread(cause))));
    }

    /// Whether the controller may make and delete drains.
    pub fn allow_drains(&self, allowed: bool) {
        self.write(|state| state.drains_refused = !allowed);
    }

    fn change_nodes(&self, change: impl FnOnce(&mut BTreeMap<String, Node>)) {
        self.write(|state| change(&mut state.nodes));
    }

    /// Brings nodes as they are by then; now and then the watch is lost for a while.
    pub(super) async fn watch_nodes(self, stores: Arc<Stores>) -> String {
        let mut newest = self.shared.newest.subscribe();
        let mut revision = stores.revision();
        loop {
            newest.mark_unchanged();
            revision.mark_unchanged();
            let named = stores.named_nodes();
            stores.keep_nodes(&named);
            let nodes = self.state().nodes.clone();
            for name in &named {
                let node = nodes.get(name).cloned().unwrap_or(Node::Missing);
                stores.put_node(name, 0, node);
            }
            let changed = tokio::select! {
                biased;
                changed = newest.changed() => changed,
                changed = revision.changed() => changed,
            };
            if changed.is_err() {
                return "the server is gone".to_owned();
            }
            // Luck is not drawn where there is no node, so that stories without any are told as before.
            if !named.is_empty() {
                sleep(self.travel()).await;
                if self.fate() == Fate::Unheard {
                    sleep(Duration::from_millis(self.dice(8_000))).await;
                }
            }
        }
    }
}
