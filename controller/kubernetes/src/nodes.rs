//! Kubernetes nodes that Hosts name under `node.drainOn`: while one is cordoned there is a HostDrain of its hosts, `node-<name>`.
//!
//! What a node does not say is never guessed: nothing is made or deleted for one that can't be read or is gone. A HostDrain that a
//! person made is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::{
    Host, HostDrain, HostDrainSpec,
    kinds::host::DrainOn,
    reason::{Cause, Reason},
    shared::{Answer, LABEL_NODE, Picker},
};
use futures::{StreamExt, stream};
use kube::{Resource, ResourceExt};
use tokio::time::{Instant, sleep_until};

use crate::{
    desk::{Act, Errand, Outcome},
    error::Error,
    followed::Named,
    kinds::{Key, Kind},
    stores::Stores,
    writes::Courier,
};

/// What the right to follow nodes hangs on.
const RIGHTS: &str = "let the controller's service account get and watch nodes, and create and delete HostDrains: the \
                      chart does so with `rbac.cordons: true`";

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// It takes pods.
    Open,
    /// `spec.unschedulable` is set.
    Cordoned,
    /// There is none of that name.
    Missing,
    /// It could not be read.
    Unread(Cause),
}

/// The nodes that the Hosts in the stores ask to be followed.
#[derive(Clone)]
pub(crate) struct Nodes(pub(crate) Arc<Stores>);

impl Named for Nodes {
    type Object = k8s_openapi::api::core::v1::Node;

    fn names(&self) -> BTreeSet<String> {
        let named = self.0.named_nodes();
        self.0.keep_nodes(&named);
        named
    }

    fn found(&self, round: u64, name: &str, node: Option<Self::Object>) {
        let cordoned = |node: Self::Object| {
            node.spec
                .is_some_and(|spec| spec.unschedulable == Some(true))
        };
        let node = match node.map(cordoned) {
            None => Node::Missing,
            Some(true) => Node::Cordoned,
            Some(false) => Node::Open,
        };
        self.0.put_node(name, round, node);
    }

    /// What is known of it stays, but not against a refusal.
    fn failed(&self, round: u64, name: &str, error: &Error) {
        if !error.may_pass() {
            let message = format!("node {name} can't be read: {error}");
            let cause = Cause::new(Reason::ClusterRefuses, message).hint(RIGHTS);
            self.0.put_node(name, round, Node::Unread(cause));
        } else if !self.0.knows_node(name) {
            let message = format!("node {name} could not be read yet: {error}");
            let cause = Cause::new(Reason::InProgress, message);
            self.0.put_node(name, round, Node::Unread(cause));
        }
    }
}

/// The node on which a cordon drains that host.
pub(crate) fn drains_on_cordon(host: &Host) -> Option<&str> {
    let node = host.spec.node.as_ref()?;
    let asks = node.drain_on.contains(&DrainOn::Cordon) && host.meta().deletion_timestamp.is_none();
    asks.then_some(node.name.as_str())
}

/// The name of a cordoned node's HostDrain.
pub(crate) fn drain_name(node: &str) -> String {
    format!("node-{node}")
}

/// The node for whose cordon a HostDrain was made; nothing where a person made it. A copy under another name is a person's.
fn made_for(drain: &HostDrain) -> Option<&str> {
    let node = drain.labels().get(LABEL_NODE)?;
    (drain.name_any() == drain_name(node)).then_some(node.as_str())
}

/// Everything that what is to be done follows from.
#[derive(Debug, Default)]
pub(crate) struct Scene<'a> {
    /// The hosts that a cordon drains, by node and in the order of their names.
    pub(crate) hosts: BTreeMap<&'a str, Vec<&'a Host>>,
    /// All drains by name.
    pub(crate) drains: BTreeMap<&'a str, &'a HostDrain>,
    /// How nodes are, where that is known.
    pub(crate) nodes: BTreeMap<&'a str, &'a Node>,
}

impl Scene<'_> {
    /// The drains that have to be deleted, then those that have to be made.
    pub(crate) fn due(&self) -> Vec<Errand> {
        let surplus = self.drains.values().filter(|drain| self.is_surplus(drain));
        let delete = surplus.map(|drain| Errand {
            key: Key::new(Kind::Drain, &drain.name_any()),
            uid: drain.uid().unwrap_or_default(),
            version: 0,
            act: Act::Delete,
        });
        let missing = self.hosts.iter().filter(|(node, _)| {
            self.nodes.get(*node) == Some(&&Node::Cordoned)
                && !self.drains.contains_key(drain_name(node).as_str())
        });
        let make = missing.map(|(node, hosts)| Errand {
            key: Key::new(Kind::Drain, &drain_name(node)),
            uid: String::new(),
            version: 0,
            act: Act::Declare(Arc::new(drain_of(node, hosts))),
        });
        delete.chain(make).collect()
    }

    /// Whether a drain was made for a cordon that is over, that nobody asks for any more, or that now drains other hosts.
    fn is_surplus(&self, drain: &HostDrain) -> bool {
        let Some(node) = made_for(drain) else {
            return false;
        };
        if drain.meta().deletion_timestamp.is_some() {
            return false;
        }
        let Some(hosts) = self.hosts.get(node) else {
            return true;
        };
        match self.nodes.get(node) {
            Some(Node::Open) => true,
            Some(Node::Cordoned) => drain.spec.hosts != picker(hosts),
            Some(Node::Missing | Node::Unread(_)) | None => false,
        }
    }

    /// What a node's hosts say of it. `refused` is why its drain could not be made or deleted.
    pub(crate) fn word(&self, node: &str, refused: Option<&Cause>) -> (Answer, Cause) {
        let name = drain_name(node);
        let drain = self.drains.get(name.as_str());
        let ours = drain.is_some_and(|drain| made_for(drain).is_some());
        let state = match self.nodes.get(node) {
            None => {
                let message = format!("node {node} was not looked at yet");
                return (Answer::Unknown, Cause::new(Reason::InProgress, message));
            }
            Some(Node::Unread(cause)) => {
                let refused = cause.reason != Reason::InProgress;
                let answer = if refused {
                    Answer::False
                } else {
                    Answer::Unknown
                };
                return (answer, cause.clone());
            }
            Some(state) => state,
        };
        match state {
            Node::Open | Node::Cordoned if drain.is_some() && !ours => {
                let message = format!(
                    "HostDrain {name} was not made for a cordon: one of node {node} drains nothing"
                );
                (Answer::False, Cause::new(Reason::DrainNameTaken, message))
            }
            Node::Open | Node::Cordoned if let Some(cause) = refused => {
                (Answer::False, cause.clone())
            }
            Node::Cordoned => {
                let message =
                    format!("node {node} is cordoned: HostDrain {name} empties this host");
                let cause = Cause::new(Reason::NodeCordoned, message)
                    .hint(format!("`kubectl uncordon {node}` ends it"));
                (Answer::True, cause)
            }
            Node::Missing => {
                let message = format!("there is no node {node}");
                let mut cause = Cause::new(Reason::NodeNotFound, message);
                if ours {
                    cause.message += &format!(": HostDrain {name} stays as it is");
                    cause.hint =
                        "delete the HostDrain to end it, or bring the node back".to_owned();
                }
                (Answer::False, cause)
            }
            Node::Open | Node::Unread(_) => {
                let message = format!("node {node} is not cordoned");
                (Answer::True, Cause::new(Reason::AsExpected, message))
            }
        }
    }
}

fn picker(hosts: &[&Host]) -> Picker {
    Picker {
        names: Some(hosts.iter().map(|host| host.name_any()).collect()),
        selector: None,
    }
}

/// It goes with its hosts, should nobody be there to delete it.
fn drain_of(node: &str, hosts: &[&Host]) -> HostDrain {
    let spec = HostDrainSpec {
        hosts: picker(hosts),
        ..HostDrainSpec::default()
    };
    let mut drain = HostDrain::new(&drain_name(node), spec);
    drain
        .labels_mut()
        .insert(LABEL_NODE.to_owned(), node.to_owned());
    let owners = hosts.iter().filter_map(|host| host.owner_ref(&()));
    drain.owner_references_mut().extend(owners);
    drain
}

/// Writes in flight at most.
const PARALLEL: usize = 8;
/// How long the watch may be behind the answer to a write.
const BEHIND: Duration = Duration::from_secs(2);
/// First pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after failures that may pass by themselves.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after refusals, which do not.
const LONGEST_REFUSED: Duration = Duration::from_secs(30);

/// A write that rests.
struct Rest {
    failures: u32,
    until: Instant,
    refused: Option<Cause>,
}

impl Rest {
    fn after(failures: u32, longest: Duration) -> Self {
        let pause = FIRST_PAUSE * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
        Self {
            failures,
            until: Instant::now() + pause.min(longest),
            refused: None,
        }
    }
}

/// Makes and deletes the drains, by what was seen of nodes in that round or later, for as long as the stores are there.
pub(crate) async fn keep(courier: impl Courier, stores: Arc<Stores>, round: u64) -> String {
    let mut revision = stores.revision();
    // Making one and deleting one of the same name rest apart: a cordon that is over is never waited with.
    let story = |errand: &Errand| (errand.key.clone(), matches!(errand.act, Act::Delete));
    let mut rests: BTreeMap<(Key, bool), Rest> = BTreeMap::new();
    loop {
        revision.mark_unchanged();
        let due = stores.nodes_due(round);
        let named: BTreeSet<(Key, bool)> = due.iter().map(story).collect();
        rests.retain(|story, _| named.contains(story));
        let now = Instant::now();
        let ready = due.into_iter().filter(|errand| {
            let rest = rests.get(&story(errand));
            rest.is_none_or(|rest| rest.until <= now)
        });
        let sent: Vec<(Errand, Outcome)> = stream::iter(ready.collect::<Vec<_>>())
            .map(|errand| {
                let courier = courier.clone();
                async move {
                    let outcome = courier.send(&errand).await;
                    (errand, outcome)
                }
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        for (errand, outcome) in sent {
            let story = story(&errand);
            let failures = rests.get(&story).map_or(0, |rest| rest.failures) + 1;
            let rest = match outcome {
                Outcome::Failed(error) => {
                    if failures.is_power_of_two() {
                        tracing::warn!(object = %errand.key, error, failures, "a write failed");
                    }
                    Rest::after(failures, LONGEST_PAUSE)
                }
                Outcome::Refused(error) => {
                    let verb = if story.1 { "deleted" } else { "made" };
                    let message = format!("HostDrain {} can't be {verb}: {error}", errand.key.name);
                    Rest {
                        refused: Some(Cause::new(Reason::ClusterRefuses, message).hint(RIGHTS)),
                        ..Rest::after(failures, LONGEST_REFUSED)
                    }
                }
                Outcome::Object(_) | Outcome::Deleted | Outcome::Gone | Outcome::Status { .. } => {
                    tracing::info!(object = %errand.key, deleted = story.1, "a node's drain");
                    Rest {
                        failures: 0,
                        until: Instant::now() + BEHIND,
                        refused: None,
                    }
                }
            };
            rests.insert(story, rest);
        }
        let refused = rests
            .iter()
            .filter_map(|((key, _), rest)| Some((key.name.to_string(), rest.refused.clone()?)));
        stores.put_node_refusals(refused.collect());
        let next = rests.values().map(|rest| rest.until).min();
        let later = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            biased;
            changed = revision.changed() => if changed.is_err() {
                return "the watches are gone".to_owned();
            },
            () = sleep_until(later) => {}
        }
    }
}
