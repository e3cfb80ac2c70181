//! A fleet seen live, and the same one from its snapshot.

use std::{fs, path::PathBuf};

use evenkeel_crds::reason::Reason;
use evenkeel_engine::{Asked, Clock, Engine, Options};
use evenkeel_hypervisor::sim::{self, Fleet, GIB, GuestPlan, HostPlan, MIB};
use evenkeel_planner::{self as planner, Ledger};
use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    manifests::Manifests,
    plan::{Plan, draw},
};

pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// What is checked in must be this. With `EVENKEEL_BLESS` set, it becomes so.
pub fn golden(path: &std::path::Path, text: &str) {
    if std::env::var_os("EVENKEEL_BLESS").is_some() {
        fs::write(path, text).unwrap();
    }
    let stored = fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == text,
        "{} is out of date: look at what changed, then run `make bless`\n{text}",
        path.display()
    );
}

/// A fleet as an engine sees it through its hypervisors, simulated ones.
pub async fn live() -> Scene {
    let fleet = Fleet::new(1);
    for name in ["h1", "h2", "h3"] {
        fleet.add_host(&HostPlan::new(name).pool(100 * GIB));
    }
    let mut odd = GuestPlan::new("a<b>&\"c");
    odd.labels.insert("app".to_owned(), "<&>".to_owned());
    let mut stays = GuestPlan::new("gpu");
    stays.obstacles = vec![Cause::new(
        Reason::DeviceNotMigratable,
        "gpu has a host device: /domain/devices/hostdev",
    )];
    let mut stopped = GuestPlan::new("stopped");
    stopped.runs = false;
    for (host, guest) in [
        ("h1", odd.disk(4 * GIB, GIB)),
        ("h1", stays),
        ("h1", stopped),
        (
            "h1",
            GuestPlan::new("mail")
                .memory(2 * GIB)
                .disk(20 * GIB, 8 * GIB),
        ),
        ("h1", GuestPlan::new("web-1").memory(GIB)),
        ("h1", GuestPlan::new("web-2").memory(GIB)),
        (
            "h2",
            GuestPlan::new("db")
                .memory(3 * GIB)
                .disk(40 * GIB, 30 * GIB),
        ),
        (
            "h3",
            GuestPlan::new("cache").memory(2 * GIB).disk(GIB, 200 * MIB),
        ),
    ] {
        fleet.add_guest(host, &guest);
    }
    see("manifests.yaml", &fleet, |_| true).await
}

/// A drain of six guests whose disks lie over one base image of 600 MiB.
pub async fn based() -> Scene {
    let fleet = Fleet::new(1);
    for name in ["h1", "h2", "h3"] {
        fleet.add_host(&HostPlan::new(name).pool(100 * GIB));
    }
    for number in 1..=6 {
        let guest = GuestPlan::new(&format!("clone-{number}")).memory(GIB);
        let guest = guest.disk(2 * GIB, 50 * MIB);
        fleet.add_guest("h1", &guest.base("/pools/default/image.qcow2", 600 * MIB));
    }
    see("manifests.yaml", &fleet, |_| true).await
}

/// A fleet that is uneven in two ways, and a policy for each.
pub async fn uneven() -> Scene {
    let fleet = Fleet::new(1);
    for name in ["h1", "h2", "h3", "h4", "h5"] {
        fleet.add_host(&HostPlan::new(name).pool(200 * GIB));
    }
    fleet.add_guest("h1", &GuestPlan::new("backup").memory(GIB));
    for number in 1..=4 {
        let mail = GuestPlan::new(&format!("mail-{number}")).memory(GIB);
        fleet.add_guest("h1", &mail.disk(10 * GIB, 5 * GIB));
    }
    for number in 1..=4 {
        let web = GuestPlan::new(&format!("web-{number}")).memory(GIB);
        let web = fleet.add_guest("h4", &web.disk(4 * GIB, 2 * GIB));
        fleet.busy(web, 2000);
    }
    let known = |view: &View| {
        let mut all = view.policies.values();
        all.all(|policy| {
            let balanced = evenkeel_crds::shared::find(&policy.conditions, "Balanced");
            balanced.is_some_and(|balanced| balanced.status == "False") && policy.plan.is_some()
        })
    };
    see("level-manifests.yaml", &fleet, known).await
}

/// What an engine sees of a fleet that is declared there.
async fn see(file: &str, fleet: &Fleet, enough: impl Fn(&View) -> bool) -> Scene {
    let text = fs::read_to_string(data(file)).unwrap();
    let manifests = Manifests::check([(file.into(), text)]).unwrap();
    let mut wishes = manifests.wishes.clone();
    for (name, host) in &mut wishes.hosts {
        let mut own = (**host).clone();
        own.spec.uri = sim::uri(name);
        own.spec.credentials = None;
        *host = Arc::new(own);
    }
    let time: Timestamp = "2026-11-24T01:00:00Z".parse().unwrap();
    let options = Options {
        fleet: "files".to_owned(),
        holder: "plan".to_owned(),
        process: None,
        epoch: 0,
        act: false,
        held: false,
        from_files: true,
    };
    let (_declared, receiver) = watch::channel(Arc::new(wishes));
    let (happenings, _unheard) = mpsc::unbounded_channel();
    let engine = Engine::start_with(
        Clock::simulated(time, 1),
        options,
        Arc::new(fleet.client("plan")),
        receiver,
        happenings,
    );
    let mut views = engine.views();
    let view = views
        .wait_for(|view| view.settled && enough(view))
        .await
        .unwrap()
        .clone();
    engine.leave().await;
    let place = |(key, place): (&(String, String), &crate::manifests::Place)| {
        (key.clone(), place.to_string())
    };
    Scene {
        view,
        places: manifests.places.iter().map(place).collect(),
        wishes: manifests.wishes,
        from_files: true,
        time,
    }
}

pub fn planned(scene: &Scene) -> Plan {
    Plan::of(&scene.view, &scene.wishes, |kind, name| {
        scene.place(kind, name)
    })
}

fn file() -> Arc<str> {
    "s.yaml".into()
}

fn wrong(text: &str) -> Vec<String> {
    let lines = read(&file(), text).unwrap_err().0;
    lines.iter().map(Wrong::to_string).collect()
}

use crate::manifests::Wrong;

#[tokio::test(start_paused = true)]
async fn a_plan_from_a_snapshot_is_the_live_one() {
    let scene = live().await;
    let snapshot = Snapshot::of(&scene).unwrap();
    let text = serde_saphyr::to_string(&snapshot).unwrap();
    golden(&data("snapshot.yaml"), &text);
    let json = serde_json::to_string_pretty(&snapshot).unwrap();
    let plan = planned(&scene);
    assert_eq!(plan.moves.len(), 4, "{plan}");
    for text in [text, json] {
        assert!(is_snapshot(&text));
        let again = read(&file(), &text).unwrap();
        assert_eq!(again.view.plan, scene.view.plan);
        assert_eq!(again.view.question(), scene.view.question());
        let again = planned(&again);
        assert_eq!(again.text(true).to_string(), plan.text(true).to_string());
        assert_eq!(
            serde_json::to_string(&again).unwrap(),
            serde_json::to_string(&plan).unwrap()
        );
    }
    golden(&data("plan.txt"), &plan.to_string());
    golden(&data("plan-wide.txt"), &plan.text(true).to_string());
    let json = serde_json::to_string_pretty(&plan).unwrap();
    golden(&data("plan.json"), &format!("{json}\n"));
}

#[tokio::test(start_paused = true)]
async fn plans_of_policies_are_whole_and_made_again_from_a_snapshot() {
    let scene = uneven().await;
    let plan = planned(&scene);
    let text = serde_saphyr::to_string(&Snapshot::of(&scene).unwrap()).unwrap();
    golden(&data("level-snapshot.yaml"), &text);
    golden(&data("level-plan.txt"), &plan.to_string());
    golden(&data("level-plan-wide.txt"), &plan.text(true).to_string());
    let json = serde_json::to_string_pretty(&plan).unwrap();
    golden(&data("level-plan.json"), &format!("{json}\n"));
    let picture = draw(&scene.view, &plan).svg();
    golden(&data("level-plan.svg"), &picture);

    let shown = &scene.view.plan;
    let sum: u64 = shown.moves.iter().map(|one| one.bytes.0).sum();
    assert_eq!(shown.bytes.0, sum);
    let last = shown
        .moves
        .iter()
        .map(|one| one.start + one.duration.unwrap());
    assert_eq!(shown.makespan, last.max());
    assert_eq!(shown.balances.len(), 2);
    assert!(shown.moves.iter().any(|one| !one.start.is_zero()), "{plan}");

    let again = read(&file(), &text).unwrap();
    let question = again.view.question();
    assert_eq!(question, scene.view.question());
    assert_eq!(question.digest(), scene.view.question().digest());
    assert_eq!(again.view.plan, scene.view.plan);
    // The decision itself is made again, not only told again: with other loads it is another one.
    let idle = text.replace("cpuMilli: 2000", "cpuMilli: 0");
    assert_ne!(idle, text);
    let idle = read(&file(), &idle).unwrap();
    assert_ne!(idle.view.question().digest(), question.digest());
    let own = |scene: &Scene| {
        let moves = scene.view.plan.moves.iter();
        moves.filter(|one| one.by.name == "used").count()
    };
    assert_eq!((own(&scene), own(&idle)), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_secret_is_in_a_snapshot() {
    let snapshot = Snapshot::of(&live().await).unwrap();
    let text = serde_saphyr::to_string(&snapshot).unwrap();
    assert!(!text.contains("a secret of theirs"));
    assert!(text.contains("secretName: h1-libvirt"));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_snapshot_is_said_with_its_line() {
    let snapshot = Snapshot::of(&live().await).unwrap();
    let text = serde_saphyr::to_string(&snapshot).unwrap();
    let with = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        wrong(&text.replacen(old, new, 1))
    };
    assert_eq!(
        with("version: 2\n", "version: 7\n"),
        [
            "s.yaml:3:10: this is a snapshot of version 7, and this program reads version 2: read it with the program that took it (it was taken by evenkeel 0.1.0)"
        ]
    );
    let unknown = with("    - name: h1\n", "    - name: h1\n      colour: red\n");
    assert!(
        unknown[0].ends_with("Snapshot: input.fleet.hosts[0] has no field colour"),
        "{unknown:?}"
    );
    let damaged = with("maxInbound: 1", "maxInbound: many");
    assert!(
        damaged[0].contains("input.fleet.hosts[1].maxInbound: invalid type"),
        "{damaged:?}"
    );
    let line = text.lines().position(|line| line.contains("maxInbound: 1"));
    assert!(
        damaged[0].starts_with(&format!("s.yaml:{}:", line.unwrap() + 1)),
        "{damaged:?}"
    );
    let cut = wrong(&text[..text.len() / 2]);
    assert!(cut[0].starts_with("s.yaml:"), "{cut:?}");
    let nowhere = with("host: 0\n", "host: 99\n");
    assert!(nowhere[0].contains("there is no host 99"), "{nowhere:?}");
    let object = with("kind: HostDrain\n  metadata", "kind: HostDrian\n  metadata");
    assert!(object[0].contains("did you mean HostDrain?"), "{object:?}");
    let other = Manifests::check([(file(), text.clone())])
        .unwrap_err()
        .to_string();
    assert!(
        other.contains("a Snapshot is read by plan, simulate and snapshot"),
        "{other}"
    );
}

/// Any text that YAML could take for something else.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("no".to_owned()),
        Just("1e3".to_owned()),
        Just("~".to_owned()),
        Just("0x1f".to_owned()),
        Just("2026-01-01".to_owned()),
        Just(String::new()),
        Just(" # a\n'b': \"c\"".to_owned()),
        "[a-z0-9]{1,8}",
        ".{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_fleet_comes_back_from_its_snapshot(
        hosts in proptest::collection::vec((word(), 1u64..1 << 40, 0u32..3, proptest::option::of(1u64..1 << 33)), 1..5),
        guests in proptest::collection::vec((word(), word(), 0usize..5, 0u64..1 << 36, any::<bool>(), 0u64..1 << 40), 0..12),
        drained in 0u32..5,
        now in 0u64..u64::MAX / 4,
    ) {
        let count = hosts.len();
        let empty: planner::Host = serde_json::from_value(serde_json::json!({
            "name": "", "labels": {}, "cpuLimitMilli": 64000, "cpuUsedMilli": 0, "cpuThereMilli": 16000,
            "memoryLimit": "0", "memoryUsed": "0", "pools": [], "maxInbound": 2, "maxOutbound": 2,
            "offers": {"cpu": "", "hypervisor": [1, 2, 3], "machines": {}, "networks": [], "nwfilters": [], "storage": {}},
            "domains": {},
        })).unwrap();
        let fleet = planner::Fleet {
            hosts: hosts.into_iter().enumerate().map(|(index, (label, memory, inbound, rate))| planner::Host {
                name: format!("h{index}").as_str().into(),
                labels: [(label.clone(), label)].into(),
                memory_limit: evenkeel_crds::quantity::Bytes(memory),
                bandwidth: rate.map(evenkeel_crds::quantity::Bytes),
                max_inbound: inbound,
                pools: vec![planner::Pool {
                    name: "default".to_owned(),
                    available: evenkeel_crds::quantity::Bytes(memory),
                    ..planner::Pool::default()
                }],
                ..empty.clone()
            }).collect(),
            guests: guests.into_iter().enumerate().map(|(index, (domain, label, host, memory, active, disk))| planner::Guest {
                name: format!("g{index}").as_str().into(),
                domain,
                uuid: format!("{index}"),
                labels: [("k".to_owned(), label)].into(),
                host: planner::HostId((host % count) as u32),
                active,
                immovable: None,
                held: None,
                evacuation: None,
                cpu_milli: 1000,
                memory: evenkeel_crds::quantity::Bytes(memory),
                overhead: evenkeel_crds::quantity::Bytes(memory / 10),
                disks: vec![planner::Disk {
                    target: "vda".to_owned(),
                    pool: Some("default".to_owned()),
                    virtual_size: evenkeel_crds::quantity::Bytes(disk),
                    allocated: evenkeel_crds::quantity::Bytes(disk / 2),
                    ..planner::Disk::default()
                }],
                bases: (0..(index % 3) as u32).map(planner::BaseId).collect(),
                load: None,
                dirty_rate: None,
                bandwidth: None,
                priority: 0,
                needs: planner::Needs::default(),
            }).collect(),
            bases: ["/b0", "/b1"].map(|path| planner::Base { path: path.to_owned(), ..planner::Base::default() }).to_vec(),
            limits: planner::Limits::default(),
        };
        let leaves = (0..fleet.guests.len() as u32).step_by(3)
            .map(|id| (planner::GuestId(id), Cause::new(Reason::BackingOff, "rests: \"#\"")))
            .collect();
        let by = |kind: &str| RequestedBy { kind: kind.to_owned(), name: "d".to_owned(), uid: String::new() };
        let all: std::collections::BTreeSet<_> = (0..count as u32).map(planner::HostId).collect();
        let question = Question {
            now: std::time::Duration::from_nanos(now),
            fleet,
            wishes: vec![planner::Wish {
                by: by("HostDrain"),
                what: planner::What::Drain {
                    hosts: [planner::HostId(drained % count as u32)].into(),
                    stopped: true,
                    parallel: 2,
                    makes_way: true,
                    leaves: BTreeMap::new(),
                    halted: None,
                },
            }, planner::Wish {
                by: by("RebalancePolicy"),
                what: planner::What::Balance(planner::Balance {
                    hosts: all,
                    weights: planner::Weights { cpu: 1, memory: 1, disk: 0 },
                    start: 5,
                    stop: 1,
                    parallel: 2,
                    leaves,
                    steps: Some(200),
                    ..planner::Balance::default()
                }),
            }],
            ledger: Ledger::default(),
            searches: Vec::new(),
            policies: Vec::new(),
        };
        let plan = question.plan();
        let view = View {
            settled: true,
            fleet: Arc::new(question.fleet.clone()),
            asked: Arc::new(Asked {
                wishes: question.wishes.clone(),
                ledger: question.ledger.clone(),
                now: question.now,
                searches: Vec::new(),
                policies: Vec::new(),
            }),
            plan: Arc::new(plan.clone()),
            ..View::default()
        };
        let scene = Scene {
            view: Arc::new(view),
            wishes: Wishes::default(),
            places: BTreeMap::new(),
            from_files: true,
            time: Timestamp::UNIX_EPOCH,
        };
        let text = serde_saphyr::to_string(&Snapshot::of(&scene).unwrap()).unwrap();
        let again = read(&file(), &text).unwrap();
        prop_assert_eq!(again.view.question(), question);
        prop_assert_eq!(&*again.view.plan, &plan);
    }
}
