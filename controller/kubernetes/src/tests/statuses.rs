use std::{sync::Arc, time::Duration};

use evenkeel_crds::{GuestStatus, HostStatus, MigrationPhase, kinds::guest::MoveRef};
use k8s_openapi::jiff::SignedDuration;

use super::make::{guest, guest_view, host, host_status, move_status, move_view, time};
use crate::{
    kinds::{Kind, Wanted},
    statuses::{Difference, Held, difference},
};

fn of_hosts(before: &HostStatus, after: &HostStatus) -> Difference {
    let wanted = Wanted::Host(Arc::new(after.clone()));
    let shown = Held::Shown(host("h1", 1, Some(before.clone())));
    let written = Held::Written(Wanted::Host(Arc::new(before.clone())));
    let found = difference(Kind::Host, &shown, &wanted);
    assert_eq!(found, difference(Kind::Host, &written, &wanted));
    found
}

#[test]
fn times_and_small_loads_of_a_host_wait_a_minute() {
    let minute = Difference::Figures(Duration::from_secs(60));
    let before = host_status(0, 500);
    assert_eq!(of_hosts(&before, &before), Difference::None);
    assert_eq!(of_hosts(&before, &host_status(7, 500)), minute);
    assert_eq!(of_hosts(&before, &host_status(7, 549)), minute);
    assert_eq!(
        of_hosts(&before, &host_status(7, 550)),
        Difference::Figures(Duration::from_secs(1))
    );
    let renamed = HostStatus {
        hostname: Some("other".to_owned()),
        ..host_status(7, 500)
    };
    assert_eq!(of_hosts(&before, &renamed), Difference::Matters);
}

#[test]
fn fractions_of_a_second_are_no_difference() {
    let before = host_status(0, 500);
    let mut after = before.clone();
    let later = time(0)
        .0
        .checked_add(SignedDuration::from_millis(300))
        .unwrap();
    after.observed_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later));
    assert_ne!(before, after);
    assert_eq!(of_hosts(&before, &after), Difference::None);
}

#[test]
fn progress_of_a_move_has_a_pace_and_its_phase_does_not() {
    let copying = move_status(MigrationPhase::Copying);
    let held = Held::Written(Wanted::Migration(move_view(true, copying.clone())));
    let against = |status| {
        difference(
            Kind::Migration,
            &held,
            &Wanted::Migration(move_view(true, status)),
        )
    };
    let mut further = copying.clone();
    further.progress = 40;
    further.conditions[0].message = "40 %".to_owned();
    assert_eq!(
        against(further.clone()),
        Difference::Figures(Duration::from_secs(1))
    );
    further.conditions[0].reason = "CopyStalled".to_owned();
    assert_eq!(against(further), Difference::Matters);
    assert_eq!(
        against(move_status(MigrationPhase::Switching)),
        Difference::Matters
    );
    assert_eq!(against(copying), Difference::None);
}

#[test]
fn a_guest_without_status_gets_one_at_once_and_its_share_of_progress_later() {
    let status = GuestStatus {
        current_move: Some(MoveRef {
            name: "m".to_owned(),
            progress: 1,
        }),
        ..GuestStatus::default()
    };
    let wanted = Wanted::Guest(guest_view(true, None, status.clone()));
    let empty = Held::Shown(guest("g", 1, None));
    assert_eq!(
        difference(Kind::Guest, &empty, &wanted),
        Difference::Matters
    );
    let mut before = status;
    before.current_move = Some(MoveRef {
        name: "m".to_owned(),
        progress: 0,
    });
    let held = Held::Shown(guest("g", 1, Some(before)));
    assert_eq!(
        difference(Kind::Guest, &held, &wanted),
        Difference::Figures(Duration::from_secs(5))
    );
}
