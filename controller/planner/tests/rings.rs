//! Guests of nearly full hosts that trade places: all of them arrive wherever a search through every order of moves and
//! stops finds a way, and no way has fewer bytes.

mod support;

use evenkeel_planner::*;
use proptest::prelude::*;
use support::scenes::{Scene, moves, rings};
use support::*;

/// More with `PROPTEST_CASES=100000`.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = config.cases.max(1000);
    config
}

fn compare(scene: &Scene) -> Result<(), TestCaseError> {
    let (fleet, wishes) = scene.fleet();
    let made = planned(&fleet, &wishes, &Ledger::default());
    match scene.least() {
        Some(least) => {
            prop_assert_eq!(&made.rejections, &[]);
            prop_assert_eq!(made.bytes.0 / GI, scene.own() + least);
        }
        None => prop_assert!(!made.rejections.is_empty()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn two_hosts_trade_places_where_there_is_a_way(scene in rings(3, 2, 2, 7)) {
        compare(&scene)?;
    }

    #[test]
    fn two_hosts_of_four_trade_places_where_there_is_a_way(scene in rings(4, 2, 2, 5)) {
        compare(&scene)?;
    }

    #[test]
    fn three_hosts_trade_places_where_there_is_a_way(scene in rings(4, 3, 1, 6)) {
        compare(&scene)?;
    }

    #[test]
    fn all_arrive_where_there_is_a_way(scene in moves(3, 5, 6)) {
        compare(&scene)?;
    }
}
