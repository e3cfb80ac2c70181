//! The engine on a simulated fleet does what the plan says.

use evenkeel_hypervisor::sim::MIB;

use super::*;
use crate::snapshot::tests::{based, data, golden, live, uneven};

fn simulate(faults: usize, seed: u64) -> Simulate {
    Simulate {
        seed,
        faults,
        bandwidth: rate(BANDWIDTH).unwrap(),
        dirty_rate: Bytes(0),
        picture: None,
    }
}

/// Runs where another time runs already.
async fn rehearse(scene: Scene, simulate: Simulate) -> Rehearsal {
    let thread = std::thread::spawn(move || Rehearsal::of(scene, &simulate).unwrap());
    thread.join().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_simulated_fleet_is_planned_as_the_real_one() {
    let scene = live().await;
    let question = scene.view.question();
    let rehearsal = rehearse(scene, simulate(0, 1)).await;
    let first = &rehearsal.story.first;
    assert!(rehearsal.document().as_planned);
    assert_eq!(first.plan.moves, rehearsal.plan.moves);
    let limits = |fleet: &planner::Fleet| {
        let hosts = fleet.hosts.iter();
        hosts
            .map(|host| {
                let pools: Vec<_> = host
                    .pools
                    .iter()
                    .map(|pool| (pool.name.clone(), pool.available, pool.virtual_limit))
                    .collect();
                let limits = (host.cpu_limit_milli, host.memory_limit, host.memory_used);
                (host.name.to_string(), limits, pools)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(limits(&first.fleet), limits(&question.fleet));
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_ends_as_predicted_and_the_same_each_time() {
    let rehearsal = rehearse(live().await, simulate(0, 1)).await;
    let document = rehearsal.document();
    assert_eq!(document.violations, Vec::<String>::new());
    assert_eq!(document.simulated.failures, 0);
    assert_eq!(document.simulated.moves, document.predicted.moves);
    // Preparing and switching take their seconds too.
    let predicted = document.predicted.makespan_seconds.unwrap();
    let simulated = document.simulated.makespan_seconds.unwrap();
    assert!((0.9..1.3).contains(&(simulated / predicted)), "{document}");
    // What can't be moved is told by its own words.
    assert_eq!(document.result, "SomethingImpossible");
    assert!(
        document
            .impossible
            .iter()
            .any(|left| left.guest.as_deref() == Some("gpu"))
    );
    let again = rehearse(live().await, simulate(0, 1)).await.document();
    assert_eq!(document, again);
    golden(&data("simulation.txt"), &document.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_base_image_travels_once_to_each_host_as_planned() {
    let scene = based().await;
    let fleet = &scene.view.question().fleet;
    assert_eq!((fleet.bases.len(), fleet.guests[0].bases.len()), (1, 1));
    let moves = scene.view.plan.moves.iter();
    let heavy = moves.filter(|step| step.bytes.0 > 1600 * MIB).count();
    assert_eq!((scene.view.plan.moves.len(), heavy), (6, 2));
    let document = rehearse(scene, simulate(0, 1)).await.document();
    assert!(document.as_planned, "{document}");
    assert_eq!(document.violations, Vec::<String>::new());
    let predicted = document.predicted.makespan_seconds.unwrap();
    let simulated = document.simulated.makespan_seconds.unwrap();
    // What was brought is read back, to see that it is whole.
    assert!((0.9..1.6).contains(&(simulated / predicted)), "{document}");
}

#[tokio::test(start_paused = true)]
async fn the_moves_of_policies_are_predicted_too() {
    let scene = uneven().await;
    let plan = scene.view.plan.clone();
    let document = rehearse(scene, simulate(0, 1)).await.document();
    assert_eq!(document.predicted.moves, plan.moves.len());
    let makespan = plan.makespan.map(|time| time.as_secs_f64());
    assert_eq!(document.predicted.makespan_seconds, makespan);
    assert!(makespan.is_some_and(|time| time > 0.0));
}

#[tokio::test(start_paused = true)]
async fn with_faults_nothing_is_lost() {
    for seed in 1..6 {
        let document = rehearse(live().await, simulate(4, seed)).await.document();
        assert_eq!(
            document.violations,
            Vec::<String>::new(),
            "seed {seed}\n{document}"
        );
        assert_eq!(document.faults.len(), 4);
        let arrives = |moved: &Moved| {
            let last = moved.attempts.last();
            last.is_some_and(|last| last.end_seconds.is_some() && last.reason.is_none())
        };
        assert!(
            document.moves.iter().all(arrives),
            "seed {seed}\n{document}"
        );
        assert!(document.simulated.moves >= document.predicted.moves);
    }
}
