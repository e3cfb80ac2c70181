//! The whole loop on virtual time: a node of the simulated API server is cordoned, guests leave its host by moves of the engine, and
//! an uncordon in between keeps those that have not begun.

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{
    Host, HostSpec,
    kinds::host::{DrainOn, NodeRef},
    shared::{Timestamp, find},
};
use evenkeel_engine::{Clock, Engine, Options};
use evenkeel_hypervisor::sim::{Fleet, GuestPlan, HostPlan, uri};
use evenkeel_kubernetes::simulated::{Server, Session};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use uuid::Uuid;

struct Stage {
    fleet: Fleet,
    server: Server,
    clock: Clock,
    guests: Vec<Uuid>,
}

/// Two hosts, six guests on h1, whose node is `worker-1`.
fn stage() -> Stage {
    let clock = Clock::simulated(Timestamp::now(), 1);
    let (fleet, server) = (Fleet::new(1), Server::new(&clock));
    for name in ["h1", "h2"] {
        fleet.add_host(&HostPlan::new(name));
        let node = (name == "h1").then(|| NodeRef {
            name: "worker-1".to_owned(),
            drain_on: [DrainOn::Cordon].into(),
        });
        let spec = HostSpec {
            uri: uri(name),
            node,
            ..HostSpec::default()
        };
        server.put_host(Host::new(name, spec));
    }
    let guest = |number| fleet.add_guest("h1", &GuestPlan::new(&format!("g{number}")));
    let guests = (1..=6).map(guest).collect();
    server.put_node("worker-1", false);
    Stage {
        fleet,
        server,
        clock,
        guests,
    }
}

impl Stage {
    fn lead(&self, epoch: u64) -> (Engine, Session) {
        let options = Options {
            fleet: "test".to_owned(),
            holder: format!("controller@{epoch}"),
            process: None,
            epoch,
            act: true,
            held: false,
            from_files: false,
        };
        let (happenings, mut heard) = mpsc::unbounded_channel();
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let client = Arc::new(self.fleet.client("controller"));
        let (mut session, wishes) = self.server.session();
        let engine = Engine::start_with(self.clock.clone(), options, client, wishes, happenings);
        session.follow(engine.views());
        (engine, session)
    }

    async fn until(&self, what: &str, test: impl Fn() -> bool) -> Duration {
        let begun = Instant::now();
        while !test() {
            assert_eq!(self.fleet.violations(), Vec::<String>::new());
            assert!(begun.elapsed() < Duration::from_secs(300), "{what}");
            sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// Guests on h1.
    fn left(&self) -> usize {
        let stay = |guest: &&Uuid| self.fleet.executing(**guest) == ["h1"];
        self.guests.iter().filter(stay).count()
    }

    fn has_drain(&self) -> bool {
        self.server.wishes().drains.contains_key("node-worker-1")
    }

    /// What the Host says of its node, once that is written.
    fn says(&self, reason: &str) -> bool {
        let wishes = self.server.wishes();
        let status = wishes.hosts["h1"].status.as_ref();
        let condition = status.and_then(|status| find(&status.conditions, "NodeFollowed"));
        condition.is_some_and(|condition| condition.reason == reason)
    }

    fn is_drained(&self) -> bool {
        let wishes = self.server.wishes();
        let drain = wishes.drains.get("node-worker-1");
        let status = drain.and_then(|drain| drain.status.as_ref());
        let condition = status.and_then(|status| find(&status.conditions, "Drained"));
        condition.is_some_and(|condition| condition.status == "True")
    }
}

#[tokio::test(start_paused = true)]
async fn a_cordon_drains_by_moves_and_an_uncordon_keeps_who_has_not_left() {
    let stage = stage();
    let leader = stage.lead(1);
    stage
        .until("it is followed", || stage.says("AsExpected"))
        .await;
    assert_eq!(stage.left(), 6);

    stage.server.put_node("worker-1", true);
    stage.until("two copy", || stage.fleet.moving() == 2).await;
    stage
        .until("it is said", || stage.says("NodeCordoned"))
        .await;
    stage.server.put_node("worker-1", false);
    let took = stage
        .until("the drain is gone", || !stage.has_drain())
        .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    sleep(Duration::from_secs(300)).await;
    // The two that had begun have moved.
    assert_eq!((stage.fleet.moving(), stage.left()), (0, 4));
    assert!(stage.says("AsExpected"));

    // The controller is killed in mid-drain, and the node uncordoned while nobody looks.
    stage.server.put_node("worker-1", true);
    stage.until("two copy", || stage.fleet.moving() == 2).await;
    drop(leader);
    stage.server.put_node("worker-1", false);
    let leader = stage.lead(2);
    stage
        .until("the drain is gone", || !stage.has_drain())
        .await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!((stage.fleet.moving(), stage.left()), (0, 2));

    stage.server.put_node("worker-1", true);
    stage.until("it is drained", || stage.is_drained()).await;
    assert_eq!(stage.left(), 0);
    stage.server.put_node("worker-1", false);
    stage
        .until("the drain is gone", || !stage.has_drain())
        .await;
    for guest in &stage.guests {
        assert_eq!(stage.fleet.executing(*guest), ["h2"]);
        assert!(stage.fleet.is_whole(*guest) && !stage.fleet.ever_ran_twice(*guest));
    }
    drop(leader);
}
