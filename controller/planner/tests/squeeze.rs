//! Drains of nearly full fleets, others making way: the host is emptied wherever a search through every state finds a way,
//! with as few bytes; what an effort finds, a greater one finds too.

mod support;

use evenkeel_planner::*;
use proptest::prelude::*;
use support::scenes::emptied;
use support::*;

/// More with `PROPTEST_CASES=100000`.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = config.cases.max(500);
    config
}

/// How many stay, and how much travels.
fn worth(plan: &Plan) -> (usize, u64) {
    (plan.rejections.len(), plan.bytes.0)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn hosts_are_emptied_where_there_is_a_way(scene in emptied(4, 6, 5)) {
        let (fleet, wish) = scene.fleet();
        let made = planned(&fleet, &[wish], &Ledger::default());
        match scene.least() {
            Some(least) => {
                prop_assert_eq!(&made.rejections, &[]);
                prop_assert_eq!(made.bytes.0 / GI, scene.own() + least);
            }
            None => prop_assert!(!made.rejections.is_empty()),
        }
    }

    #[test]
    fn more_effort_is_never_worse(scene in emptied(6, 10, 4)) {
        let (mut fleet, wish) = scene.fleet();
        let wishes = [wish];
        let mut before: Option<Plan> = None;
        for effort in [0, 30, 100, 300, 1000, 3000, 10_000, 30_000] {
            fleet.limits.effort = Some(effort);
            let made = planned(&fleet, &wishes, &Ledger::default());
            prop_assert_eq!(&made, &plan(&fleet, &wishes, &Ledger::default(), NOW));
            if let Some(before) = before {
                // Who is left over counts first: bytes are compared where as many are.
                let (less, more) = (worth(&before), worth(&made));
                prop_assert!(more.0 < less.0 || more <= less, "{:?} with {}: {:?}", less, effort, more);
            }
            before = Some(made);
        }
    }
}
