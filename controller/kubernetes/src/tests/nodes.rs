//! Cordons and the drains that they make, against the API server in memory and, for what it can't tell, one of canned answers.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_crds::{
    Host, HostDrain, HostDrainSpec, HostSpec,
    kinds::host::{DrainOn, NodeRef},
    reason::{Cause, Reason},
    shared::{Answer, LABEL_NODE, Picker, Timestamp},
};
use evenkeel_engine::{Clock, View, Wishes};
use http_body_util::Full;
use hyper::body::Bytes;
use kube::{Api, Client, ResourceExt, client::Body};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::make::meta;
use crate::{
    followed,
    kinds::Object,
    nodes::{Node, Nodes, Scene},
    simulated::{Server, Session},
    stores::Stores,
};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// A server with these hosts, each on the node `worker-1` and drained by its cordon.
fn server(seed: u64, hosts: &[&str]) -> Server {
    let server = Server::new(&Clock::simulated(Timestamp::now(), seed));
    for host in hosts {
        server.put_host(Host::new(host, spec()));
    }
    server
}

fn spec() -> HostSpec {
    HostSpec {
        uri: "sim://h/system".to_owned(),
        node: Some(NodeRef {
            name: "worker-1".to_owned(),
            drain_on: [DrainOn::Cordon].into(),
        }),
        ..HostSpec::default()
    }
}

/// A controller that leads. It ends with the value.
struct Leader {
    told: watch::Receiver<Arc<Wishes>>,
    _session: Session,
    _views: watch::Sender<Arc<View>>,
}

fn lead(server: &Server) -> Leader {
    let (mut session, told) = server.session();
    let (views, shown) = watch::channel(Arc::default());
    session.follow(shown);
    Leader {
        told,
        _session: session,
        _views: views,
    }
}

impl Leader {
    /// What is said of the host's node.
    fn word(&self, host: &str) -> Option<(Answer, Cause)> {
        self.told.borrow().nodes.get(host).cloned()
    }

    async fn says(&self, host: &str, answer: Answer, reason: Reason) -> Cause {
        let begun = Instant::now();
        loop {
            match self.word(host) {
                Some((said, cause)) if (said, cause.reason) == (answer, reason) => return cause,
                said => assert!(begun.elapsed() < LONG, "not {answer:?} {reason}: {said:?}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Nothing on a node drains the host.
    async fn says_nothing(&self, host: &str) {
        let begun = Instant::now();
        while let Some(said) = self.word(host) {
            assert!(begun.elapsed() < LONG, "{said:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn drains(server: &Server) -> Vec<String> {
    server.wishes().drains.into_keys().collect()
}

/// Waits until exactly these drains are there; how long that took.
async fn drained(server: &Server, names: &[&str]) -> Duration {
    let begun = Instant::now();
    while drains(server) != names {
        assert!(begun.elapsed() < LONG, "{:?}", drains(server));
        sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

/// Nothing comes or goes any more.
async fn stays(server: &Server, names: &[&str]) {
    for _ in 0..30 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(drains(server), names);
    }
}

fn drain(host: &str) -> HostDrainSpec {
    HostDrainSpec {
        hosts: Picker {
            names: Some(vec![host.to_owned()]),
            selector: None,
        },
        ..HostDrainSpec::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_cordon_makes_a_drain_and_an_uncordon_ends_it_at_once() {
    let server = server(1, &["h1"]);
    server.put_host(Host::new("h2", HostSpec::default()));
    server.put_node("worker-1", false);
    let leader = lead(&server);
    leader.says("h1", Answer::True, Reason::AsExpected).await;
    stays(&server, &[]).await;

    server.put_node("worker-1", true);
    let took = drained(&server, &["node-worker-1"]).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    let made = server.wishes().drains["node-worker-1"].clone();
    assert_eq!(made.spec, drain("h1"));
    assert_eq!(made.labels()[LABEL_NODE], "worker-1");
    let owner = &made.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Host", "h1"));
    let cause = leader.says("h1", Answer::True, Reason::NodeCordoned).await;
    assert!(cause.message.contains("node-worker-1"), "{cause:?}");
    assert_eq!(leader.word("h2"), None, "it names no node");
    stays(&server, &["node-worker-1"]).await;

    server.put_node("worker-1", false);
    let took = drained(&server, &[]).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    leader.says("h1", Answer::True, Reason::AsExpected).await;
    stays(&server, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_somebody_deletes_is_made_again_while_the_node_is_cordoned() {
    let server = server(2, &["h1"]);
    server.put_node("worker-1", true);
    let _leader = lead(&server);
    drained(&server, &["node-worker-1"]).await;
    let first = server.wishes().drains["node-worker-1"].uid();
    sleep(LONG).await;
    server.delete_drain("node-worker-1");
    sleep(LONG).await;
    drained(&server, &["node-worker-1"]).await;
    assert_ne!(server.wishes().drains["node-worker-1"].uid(), first);
}

#[tokio::test(start_paused = true)]
async fn what_changed_while_no_controller_ran_is_made_up_for() {
    let server = server(3, &["h1"]);
    server.put_node("worker-1", true);
    let leader = lead(&server);
    drained(&server, &["node-worker-1"]).await;
    drop(leader);
    server.put_node("worker-1", false);
    stays(&server, &["node-worker-1"]).await;
    let leader = lead(&server);
    drained(&server, &[]).await;
    drop(leader);
    server.put_node("worker-1", true);
    let leader = lead(&server);
    drained(&server, &["node-worker-1"]).await;
    drop(leader);
    // The next one finds it and makes no second one.
    let before = server.wishes().drains["node-worker-1"].uid();
    let _leader = lead(&server);
    stays(&server, &["node-worker-1"]).await;
    assert_eq!(server.wishes().drains["node-worker-1"].uid(), before);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_lead_writes_nothing() {
    let server = server(4, &["h1"]);
    server.put_node("worker-1", true);
    let (_session, _told) = server.session();
    stays(&server, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn drain_name_taken() {
    let server = server(5, &["h1"]);
    server.put_node("worker-1", false);
    server.put_drain(HostDrain::new("node-worker-1", drain("h9")));
    let leader = lead(&server);
    // Before it is needed.
    let cause = leader
        .says("h1", Answer::False, Reason::DrainNameTaken)
        .await;
    assert!(
        cause.message.contains("HostDrain node-worker-1"),
        "{cause:?}"
    );
    assert!(!cause.hint.is_empty());
    for cordoned in [true, false, true] {
        server.put_node("worker-1", cordoned);
        stays(&server, &["node-worker-1"]).await;
        assert_eq!(server.wishes().drains["node-worker-1"].spec, drain("h9"));
        leader
            .says("h1", Answer::False, Reason::DrainNameTaken)
            .await;
    }
    server.delete_drain("node-worker-1");
    leader.says("h1", Answer::True, Reason::NodeCordoned).await;
    drained(&server, &["node-worker-1"]).await;
    assert_eq!(server.wishes().drains["node-worker-1"].spec, drain("h1"));
}

#[tokio::test(start_paused = true)]
async fn a_copy_under_another_name_is_a_persons() {
    let server = server(6, &["h1"]);
    server.put_node("worker-1", false);
    let mut copy = HostDrain::new("mine", drain("h1"));
    let label = (LABEL_NODE.to_owned(), "worker-1".to_owned());
    copy.labels_mut().extend([label]);
    server.put_drain(copy);
    server.put_drain(HostDrain::new("node-worker-2", drain("h1")));
    let _leader = lead(&server);
    stays(&server, &["mine", "node-worker-2"]).await;
    server.put_node("worker-1", true);
    drained(&server, &["mine", "node-worker-1", "node-worker-2"]).await;
    server.put_node("worker-1", false);
    drained(&server, &["mine", "node-worker-2"]).await;
}

#[tokio::test(start_paused = true)]
async fn node_not_found() {
    let server = server(7, &["h1"]);
    let leader = lead(&server);
    let cause = leader.says("h1", Answer::False, Reason::NodeNotFound).await;
    assert!(cause.message.contains("worker-1"), "{cause:?}");
    server.put_node("worker-1", true);
    drained(&server, &["node-worker-1"]).await;
    // A machine whose node is deleted is not one to move guests to.
    server.delete_node("worker-1");
    let cause = leader.says("h1", Answer::False, Reason::NodeNotFound).await;
    assert!(cause.message.contains("node-worker-1"), "{cause:?}");
    stays(&server, &["node-worker-1"]).await;
    // A person's word counts.
    server.delete_drain("node-worker-1");
    stays(&server, &[]).await;
    server.put_node("worker-1", true);
    drained(&server, &["node-worker-1"]).await;
    server.delete_node("worker-1");
    stays(&server, &["node-worker-1"]).await;
    server.put_node("worker-1", false);
    drained(&server, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn cluster_refuses() {
    let server = server(8, &["h1"]);
    server.hide_node("worker-1");
    let leader = lead(&server);
    leader
        .says("h1", Answer::False, Reason::ClusterRefuses)
        .await;
    stays(&server, &[]).await;
    server.put_node("worker-1", true);
    drained(&server, &["node-worker-1"]).await;
    // What nobody can read any more is left as it is.
    server.hide_node("worker-1");
    leader
        .says("h1", Answer::False, Reason::ClusterRefuses)
        .await;
    stays(&server, &["node-worker-1"]).await;

    server.allow_drains(false);
    server.put_node("worker-1", false);
    let cause = leader
        .says("h1", Answer::False, Reason::ClusterRefuses)
        .await;
    let wanted = "HostDrain node-worker-1 can't be deleted";
    let begun = Instant::now();
    while !matches!(leader.word("h1"), Some((_, cause)) if cause.message.starts_with(wanted)) {
        assert!(begun.elapsed() < LONG, "{cause:?}");
        sleep(Duration::from_millis(10)).await;
    }
    server.allow_drains(true);
    drained(&server, &[]).await;
    leader.says("h1", Answer::True, Reason::AsExpected).await;

    server.allow_drains(false);
    server.put_node("worker-1", true);
    let cause = leader
        .says("h1", Answer::False, Reason::ClusterRefuses)
        .await;
    assert!(cause.message.contains("can't be made"), "{cause:?}");
    assert!(cause.hint.contains("rbac.cordons"), "{cause:?}");
    stays(&server, &[]).await;
    server.allow_drains(true);
    drained(&server, &["node-worker-1"]).await;
    leader.says("h1", Answer::True, Reason::NodeCordoned).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_any_more_is_deleted() {
    let server = server(9, &["h1", "h2"]);
    server.put_node("worker-1", true);
    let leader = lead(&server);
    drained(&server, &["node-worker-1"]).await;
    let hosts = |server: &Server| {
        let drain = server.wishes().drains.get("node-worker-1").cloned();
        drain.and_then(|drain| drain.spec.hosts.names.clone())
    };
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    // Two machines on one node, in case somebody runs such a thing.
    let begun = Instant::now();
    while hosts(&server) != names(&["h1", "h2"]) {
        assert!(begun.elapsed() < LONG, "{:?}", hosts(&server));
        sleep(Duration::from_millis(10)).await;
    }
    server.change_host("h2", |spec| spec.node = None);
    while hosts(&server) != names(&["h1"]) {
        assert!(begun.elapsed() < LONG, "{:?}", hosts(&server));
        sleep(Duration::from_millis(10)).await;
    }
    leader.says_nothing("h2").await;
    // Another node.
    server.put_node("worker-2", true);
    server.change_host("h1", |spec| {
        spec.node.as_mut().unwrap().name = "worker-2".to_owned();
    });
    drained(&server, &["node-worker-2"]).await;
    server.change_host("h1", |spec| {
        spec.node.as_mut().unwrap().drain_on.clear();
    });
    drained(&server, &[]).await;
    leader.says_nothing("h1").await;
    server.change_host("h1", |spec| {
        spec.node.as_mut().unwrap().drain_on.insert(DrainOn::Cordon);
    });
    drained(&server, &["node-worker-2"]).await;
    server.delete_host("h1");
    drained(&server, &[]).await;
}

/// A person may change how a drain is done, but whom it is for follows from the Hosts.
#[test]
fn only_its_hosts_are_ours() {
    let host = Host::new("h1", spec());
    let mut made = HostDrain::new("node-worker-1", drain("h1"));
    let label = (LABEL_NODE.to_owned(), "worker-1".to_owned());
    made.labels_mut().extend([label]);
    made.spec.parallel = 1;
    made.spec.suspend = true;
    let due = |drain: &HostDrain, node: &Node| {
        let scene = Scene {
            hosts: [("worker-1", vec![&host])].into(),
            drains: [("node-worker-1", drain)].into(),
            nodes: [("worker-1", node)].into(),
        };
        scene.due().len()
    };
    assert_eq!(due(&made, &Node::Cordoned), 0);
    assert_eq!(due(&made, &Node::Open), 1);
    made.spec.hosts = drain("h2").hosts;
    assert_eq!(due(&made, &Node::Cordoned), 1, "it is made anew");
    assert_eq!(due(&made, &Node::Missing), 0);
    // What is being deleted already is waited for.
    made.metadata.deletion_timestamp = Some(super::make::time(0));
    assert_eq!(due(&made, &Node::Open), 0);
    assert_eq!(due(&made, &Node::Cordoned), 0);
}

/// Cordons that come and go faster than writes are answered, by a server that loses answers, refuses, and loses watches.
#[tokio::test(start_paused = true)]
async fn a_flapping_cordon_ends_as_the_node_does() {
    for seed in 100..130 {
        let server = server(seed, &["h1"]);
        server.trouble(30);
        let _leader = lead(&server);
        let clock = Clock::simulated(Timestamp::now(), seed);
        let dice = move |most: u64| clock.id().as_u64_pair().1 % most;
        for round in 0..40 {
            server.put_node("worker-1", round % 2 == 0);
            sleep(Duration::from_millis(dice(60))).await;
            if dice(8) == 0 {
                sleep(Duration::from_secs(5)).await;
            }
        }
        let cordoned = dice(2) == 0;
        server.put_node("worker-1", cordoned);
        server.trouble(0);
        sleep(LONG).await;
        let wanted: &[&str] = if cordoned { &["node-worker-1"] } else { &[] };
        assert_eq!(drains(&server), wanted, "seed {seed}");
        stays(&server, wanted).await;
    }
}

/// The API server as far as one node goes.
#[derive(Default)]
struct Canned {
    /// Its answer to a look at the node.
    node: Option<(u16, Value)>,
    requests: Vec<String>,
}

type Shared = Arc<Mutex<Canned>>;

fn client(server: &Shared) -> Client {
    let server = server.clone();
    Client::new(
        tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            let uri = request.uri().to_string();
            async move { Ok::<_, Infallible>(answer(&server, uri).await) }
        }),
        "default",
    )
}

/// A watch ends with the first event: it is opened anew from what is read then.
async fn answer(server: &Shared, uri: String) -> http::Response<Full<Bytes>> {
    let before = {
        let mut server = server.lock().unwrap();
        server.requests.push(uri.clone());
        server.node.clone()
    };
    let watches = uri.contains("watch=true");
    let (code, text) = loop {
        let (code, node) = server.lock().unwrap().node.clone().unwrap();
        if !watches {
            break (code, node);
        }
        if before.as_ref() != Some(&(code, node.clone())) {
            let kind = if code == 404 { "DELETED" } else { "MODIFIED" };
            let object = if code == 404 { before.unwrap().1 } else { node };
            break (200, json!({"type": kind, "object": object}));
        }
        sleep(Duration::from_millis(10)).await;
    };
    http::Response::builder()
        .status(code)
        .body(Full::new(Bytes::from(text.to_string() + "\n")))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_read_and_watched_by_its_name_alone() {
    let server = Shared::default();
    let node = |version: u64, cordoned: bool| {
        let spec = if cordoned {
            json!({"unschedulable": true})
        } else {
            json!({})
        };
        let meta = json!({"name": "worker-1", "resourceVersion": version.to_string()});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec})
    };
    let refusal = |code: u16, reason: &str| {
        let details = json!({"name": "worker-1", "kind": "nodes"});
        (
            code,
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason,
                "message": "nodes \"worker-1\" is what it is", "details": details}),
        )
    };
    let put = |answer: (u16, Value)| server.lock().unwrap().node = Some(answer);
    put(refusal(403, "Forbidden"));
    let stores = Arc::new(Stores::default());
    let rounds = watch::Sender::new(0);
    let following = tokio::spawn(followed::follow(
        Api::all(client(&server)),
        Nodes(stores.clone()),
        stores.revision(),
        rounds.subscribe(),
    ));
    sleep(LONG).await;
    assert_eq!(
        server.lock().unwrap().requests.len(),
        0,
        "no Host names a node"
    );
    stores.put(Object::Host(Arc::new(Host {
        metadata: meta("h1", "u1", 1),
        spec: spec(),
        status: None,
    })));
    let says = async |answer: Answer, reason: Reason| {
        let begun = Instant::now();
        loop {
            let (said, cause) = stores.wishes().nodes.remove("h1").unwrap();
            if (said, cause.reason) == (answer, reason) {
                return cause;
            }
            assert!(begun.elapsed() < LONG, "not {reason}: {cause:?}");
            sleep(Duration::from_millis(5)).await;
        }
    };
    let cause = says(Answer::False, Reason::ClusterRefuses).await;
    assert!(cause.hint.contains("rbac.cordons"), "{cause:?}");
    put((200, node(1, false)));
    says(Answer::True, Reason::AsExpected).await;
    put((200, node(2, true)));
    says(Answer::True, Reason::NodeCordoned).await;
    // Trouble that may pass changes nothing of what is known.
    put(refusal(503, "ServiceUnavailable"));
    rounds.send_replace(1);
    sleep(LONG).await;
    says(Answer::True, Reason::NodeCordoned).await;
    // But in a new round nothing is done before it was read in that round.
    assert_eq!(stores.nodes_due(0).len(), 1);
    assert_eq!(stores.nodes_due(1).len(), 0);
    put((200, node(3, true)));
    stores.nodes_known(1).await;
    assert_eq!(stores.nodes_due(1).len(), 1);
    put(refusal(404, "NotFound"));
    says(Answer::False, Reason::NodeNotFound).await;
    let seen = std::mem::take(&mut server.lock().unwrap().requests);
    let watched =
        "/api/v1/nodes?&watch=true&timeoutSeconds=55&fieldSelector=metadata.name%3Dworker-1";
    for request in &seen {
        let read = request == "/api/v1/nodes/worker-1";
        assert!(read || request.starts_with(watched), "{request}");
    }
    assert!(seen.iter().any(|request| request.starts_with(watched)));
    following.abort();
}
