//! Waves: moves that start before any of them is expected to end.

use std::time::Duration;

use evenkeel_planner::Move;

/// The wave of each move, from one on. Moves come in the order in which they start. Where it is not known how long
/// moves take, those that wait for something are the second wave.
#[must_use]
pub fn waves(moves: &[Move]) -> Vec<usize> {
    let mut wave = 1;
    let mut ends: Option<Duration> = None;
    // Whether anything starts now.
    let mut begun = false;
    let number = |planned: &Move| {
        let end = planned.duration.map(|time| planned.start + time);
        let over = ends.is_some_and(|ends| planned.start >= ends);
        let unknown = ends.is_none() && wave == 1 && begun && planned.waits.is_some();
        begun |= planned.waits.is_none();
        if over || unknown {
            wave += 1;
            ends = end;
        } else {
            ends = ends.into_iter().chain(end).min();
        }
        wave
    };
    moves.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use evenkeel_crds::{
        quantity::Bytes,
        reason::{Cause, Reason},
        shared::RequestedBy,
    };
    use evenkeel_planner::{GuestId, HostId};

    use super::*;

    fn planned(start: u64, duration: Option<u64>, waits: bool) -> Move {
        Move {
            by: RequestedBy::default(),
            guest: GuestId(0),
            source: HostId(0),
            target: HostId(1),
            pools: Default::default(),
            bytes: Bytes(0),
            start: Duration::from_secs(start),
            duration: duration.map(Duration::from_secs),
            disks: None,
            waits: waits.then(|| Cause::new(Reason::SlotsTaken, "")),
            makes_way_for: None,
            onward: None,
        }
    }

    #[test]
    fn a_wave_is_what_starts_before_any_of_it_ends() {
        let moves = [
            planned(0, Some(10), false),
            planned(0, Some(30), false),
            planned(9, Some(30), true),
            planned(10, Some(5), true),
            planned(15, Some(5), true),
        ];
        assert_eq!(waves(&moves), [1, 1, 1, 2, 3]);
    }

    #[test]
    fn the_first_wave_is_the_first_though_it_waits() {
        let moves = [
            planned(0, Some(10), true),
            planned(0, Some(10), true),
            planned(10, Some(10), true),
        ];
        assert_eq!(waves(&moves), [1, 1, 2]);
    }

    #[test]
    fn without_times_what_waits_comes_second() {
        let moves = [
            planned(0, None, false),
            planned(0, None, true),
            planned(0, None, true),
        ];
        assert_eq!(waves(&moves), [1, 2, 2]);
        // A plan that waits for a word.
        let moves = [planned(0, None, true), planned(0, None, true)];
        assert_eq!(waves(&moves), [1, 1]);
        assert_eq!(waves(&[]), [0; 0]);
    }
}
