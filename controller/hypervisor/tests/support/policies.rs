//! What tests of policies, drains and placements share.

use evenkeel_crds::{kinds::policy::Window, shared::Timestamp};
use evenkeel_engine::View;

/// A window of every day, from and to so many minutes after an instant.
pub fn window(now: Timestamp, from: i64, to: i64) -> Window {
    let at = |minutes: i64| {
        let seconds = (now.as_second() + minutes * 60).rem_euclid(86_400);
        format!("{:02}:{:02}", seconds / 3600, seconds % 3600 / 60)
    };
    Window {
        days: Vec::new(),
        from: at(from),
        to: at(to),
        time_zone: "UTC".to_owned(),
    }
}

/// How many moves have begun.
pub fn begun(view: &View) -> usize {
    let all = view.migrations.values();
    all.filter(|one| one.status.start_time.is_some()).count()
}
