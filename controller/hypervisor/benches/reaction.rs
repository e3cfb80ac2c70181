//! What the whole engine costs with many hosts and guests, and how soon it does something about what changes: on real time, over
//! simulated hosts, which take a part of what is told.
//! `cargo bench -p evenkeel-hypervisor --bench reaction [hosts]`. Times are of this machine.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "figures are what a benchmark is for"
)]

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_crds::{
    GuestMigration, GuestMigrationSpec, Host, HostDrain, HostDrainSpec, HostSpec, MigrationPhase,
    kinds::guest::GuestPhase, shared::Picker,
};
use evenkeel_engine::{Clock, Engine, Options, View, Wishes};
use evenkeel_hypervisor::sim::{Fleet, GIB, GuestPlan, HostPlan, uri};
use tokio::sync::{mpsc, watch};

/// Guests on each host.
const GUESTS: u32 = 30;
/// How often each reaction is measured.
const TIMES: u32 = 5;
/// For whatever has to come.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let own = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let sizes: Vec<u32> = own.map_or_else(|| vec![100, 1000], |hosts| vec![hosts]);
    for hosts in sizes {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(measure(hosts));
    }
}

/// Seconds of CPU that this process has had, in all its threads.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|word| word.parse::<u64>().unwrap())
        .sum();
    // USER_HZ is 100 wherever Linux is asked by a process.
    ticks as f64 / 100.0
}

/// The most memory that this process has had at once, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() >> 10
}

fn guest(number: u32) -> String {
    format!("g{number:05}")
}

fn host(number: u32) -> String {
    format!("h{number:04}")
}

/// The world that is looked at, and what is declared in it.
struct Stage {
    fleet: Fleet,
    wishes: watch::Sender<Arc<Wishes>>,
    views: watch::Receiver<Arc<View>>,
    _engine: Engine,
}

impl Stage {
    fn new(hosts: u32) -> Self {
        let fleet = Fleet::new(1);
        let mut declared = Wishes::default();
        for number in 0..hosts {
            let name = host(number);
            fleet.add_host(&HostPlan {
                cpus: 64,
                memory: 256 * GIB,
                bandwidth: GIB,
                pools: vec![("default".to_owned(), 4096 * GIB)],
                ..HostPlan::new(&name)
            });
            let spec = HostSpec {
                uri: uri(&name),
                ..HostSpec::default()
            };
            let object = Arc::new(Host::new(&name, spec));
            declared.hosts.insert(name.clone(), object);
            for own in 0..GUESTS {
                fleet.add_guest(&name, &GuestPlan::new(&guest(number * GUESTS + own)));
            }
        }
        let (wishes, asked) = watch::channel(Arc::new(declared));
        let options = Options {
            fleet: "bench".to_owned(),
            holder: "bench".to_owned(),
            process: None,
            epoch: 0,
            act: true,
            held: false,
            from_files: false,
        };
        let (happenings, mut heard) = mpsc::unbounded_channel();
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let client = Arc::new(fleet.client("bench"));
        let engine = Engine::start_with(Clock::System, options, client, asked, happenings);
        let views = engine.views();
        Self {
            fleet,
            wishes,
            views,
            _engine: engine,
        }
    }

    /// How long that takes to be shown.
    async fn until(&mut self, what: &str, is_so: impl Fn(&View) -> bool) -> Duration {
        let begun = Instant::now();
        let shown = async {
            while !is_so(&self.views.borrow_and_update().clone()) {
                self.views.changed().await.unwrap();
            }
        };
        let came = tokio::time::timeout(PATIENCE, shown).await;
        assert!(came.is_ok(), "not within {PATIENCE:?}: {what}");
        begun.elapsed()
    }

    fn declare(&self, change: impl FnOnce(&mut Wishes)) {
        self.wishes
            .send_modify(|wishes| change(Arc::make_mut(wishes)));
    }
}

/// The least, the middle and the most of some times.
fn told(mut times: Vec<Duration>) -> String {
    times.sort();
    let millis = |at: usize| times[at].as_secs_f64() * 1000.0;
    let last = times.len() - 1;
    format!(
        "{:.0} / {:.0} / {:.0} ms",
        millis(0),
        millis(last / 2),
        millis(last)
    )
}

async fn measure(hosts: u32) {
    let mut stage = Stage::new(hosts);
    let begun = cpu();
    let settled = stage.until("settled", |view| view.settled).await;
    println!(
        "{hosts} hosts, {} guests: known, planned and shown after {:.1} s and {:.1} s of CPU; {} MiB at the most",
        hosts * GUESTS,
        settled.as_secs_f64(),
        cpu() - begun,
        peak()
    );

    const REST: Duration = Duration::from_secs(20);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = cpu();
    tokio::time::sleep(REST).await;
    println!(
        "  at rest: {:.1} % of a CPU, the simulated hosts in it",
        100.0 * (cpu() - begun) / REST.as_secs_f64()
    );

    let mut seen = Vec::new();
    for number in 0..TIMES {
        let (home, name) = (host(number), guest(number * GUESTS));
        let plan = GuestPlan::new(&name);
        stage.fleet.pause(&home, plan.uuid);
        let paused = |view: &View| {
            let shown = view.guests.get(name.as_str());
            shown.is_some_and(|shown| shown.status.phase == GuestPhase::Paused)
        };
        seen.push(stage.until("paused", paused).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("  a guest is paused: shown after {}", told(seen));

    let (mut begins, mut copies) = (Vec::new(), Vec::new());
    for number in 0..TIMES {
        let name = format!("m{number}");
        let own = guest(number * GUESTS + 1);
        let uuid = GuestPlan::new(&own).uuid;
        let spec = GuestMigrationSpec {
            guest: own,
            ..GuestMigrationSpec::default()
        };
        let mut object = GuestMigration::new(&name, spec);
        object.metadata.uid = Some(format!("uid-{name}"));
        stage.declare(|wishes| {
            wishes.migrations.insert(name.clone(), Arc::new(object));
        });
        let begun = Instant::now();
        let phase = |view: &View| {
            let shown = view.migrations.get(name.as_str());
            shown.map_or(MigrationPhase::Pending, |shown| shown.status.phase)
        };
        let begins_to = |view: &View| phase(view) != MigrationPhase::Pending;
        begins.push(stage.until("it begins", begins_to).await);
        while stage.fleet.phase(uuid).is_none() {
            assert!(begun.elapsed() < PATIENCE, "libvirt is never asked");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        copies.push(begun.elapsed());
        let over = |view: &View| phase(view) == MigrationPhase::Succeeded;
        stage.until("it is over", over).await;
    }
    println!("  a move is declared: begun after {}", told(begins));
    println!("  libvirt is asked to migrate after {}", told(copies));

    let drained = hosts / 100;
    let spec = HostDrainSpec {
        hosts: Picker {
            names: Some((10..10 + drained).map(host).collect()),
            selector: None,
        },
        parallel: 40,
        ..HostDrainSpec::default()
    };
    let begun = cpu();
    stage.declare(|wishes| {
        let drain = Arc::new(HostDrain::new("d", spec));
        wishes.drains.insert("d".to_owned(), drain);
    });
    let moving = |view: &View| {
        let mut moves = view.migrations.values();
        moves.any(|one| {
            one.requested_by.kind == "HostDrain" && one.status.phase != MigrationPhase::Pending
        })
    };
    let first = stage.until("the drain begins", moving).await;
    let goal = (drained * GUESTS) as usize;
    let done = |view: &View| {
        let ends = view.migrations.values().filter(|one| {
            one.requested_by.kind == "HostDrain" && one.status.phase == MigrationPhase::Succeeded
        });
        ends.count() >= goal
    };
    let whole = stage.until("the drain is over", done).await + first;
    println!(
        "  a drain of {drained} hosts with {goal} guests: the first move begun after {:.0} ms, over after {:.0} s and {:.1} s of CPU; \
         {} MiB at the most",
        first.as_secs_f64() * 1000.0,
        whole.as_secs_f64(),
        cpu() - begun,
        peak()
    );
}
