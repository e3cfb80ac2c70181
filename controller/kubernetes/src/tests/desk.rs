use std::{sync::Arc, time::Duration};

use evenkeel_crds::{GuestStatus, HostStatus, MigrationPhase, shared::LABEL_WISH_KIND};
use evenkeel_engine::{GuestView, View};
use tokio::time::Instant;

use super::make::{
    Move, guest, guest_view, host, host_status, move_status, move_view, view_of_move,
};
use crate::{
    desk::{Act, Desk, Errand, Outcome},
    kinds::{Key, Kind, Object},
};

const SECOND: Duration = Duration::from_secs(1);

fn view_of_host(status: HostStatus) -> Arc<View> {
    Arc::new(View {
        settled: true,
        hosts: [("h1".into(), Arc::new(status))].into(),
        ..View::default()
    })
}

fn view_of_guest(guest: Arc<GuestView>) -> Arc<View> {
    Arc::new(View {
        settled: true,
        guests: [("g".into(), guest)].into(),
        ..View::default()
    })
}

/// What is taken, as a word.
fn word(errand: Option<&Errand>) -> &'static str {
    match errand.map(|errand| &errand.act) {
        None => "nothing",
        Some(Act::Create(_)) => "create",
        Some(Act::AddFinalizer(_)) => "add",
        Some(Act::RemoveFinalizer(_)) => "remove",
        Some(Act::Status(_)) => "status",
        Some(Act::Delete) => "delete",
        Some(Act::Declare(_)) => "declare",
    }
}

/// Takes a status write and lets it succeed.
fn write(desk: &mut Desk, version: u64, now: Instant) {
    let errand = desk.take(now).unwrap();
    let Act::Status(wanted) = errand.act.clone() else {
        panic!("{errand:?}");
    };
    desk.done(&errand, Outcome::Status { version, wanted }, now);
}

#[test]
fn what_the_object_holds_already_is_not_written() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    desk.seen(host("h1", 1, Some(host_status(0, 1))), now);
    desk.show(view_of_host(host_status(0, 1)), now);
    assert!(desk.take(now).is_none() && desk.next_due().is_none());
    desk.show(view_of_host(HostStatus::default()), now);
    write(&mut desk, 2, now);
    // The same again, as another value in memory.
    desk.show(view_of_host(HostStatus::default()), now);
    assert!(desk.take(now).is_none() && desk.next_due().is_none());
}

#[test]
fn figures_wait_and_what_matters_does_not() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    desk.seen(host("h1", 1, None), now);
    desk.show(view_of_host(host_status(0, 1)), now);
    write(&mut desk, 2, now);
    desk.show(view_of_host(host_status(9, 1)), now + SECOND);
    assert!(desk.take(now + 59 * SECOND).is_none());
    assert_eq!(desk.next_due(), Some(now + 60 * SECOND));
    let gone = HostStatus {
        hostname: None,
        ..host_status(9, 1)
    };
    desk.show(view_of_host(gone), now + 2 * SECOND);
    write(&mut desk, 3, now + 2 * SECOND);
    assert!(desk.next_due().is_none());
}

#[test]
fn one_write_at_a_time_and_the_newest_wins() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    desk.seen(host("h1", 1, None), now);
    desk.show(view_of_host(host_status(0, 1)), now);
    let first = desk.take(now).unwrap();
    let newer = HostStatus {
        hostname: Some("newer".to_owned()),
        ..HostStatus::default()
    };
    desk.show(view_of_host(newer), now);
    assert!(desk.take(now).is_none(), "the first one is still in flight");
    desk.done(&first, Outcome::Failed("no".to_owned()), now);
    assert!(desk.take(now).is_none(), "it rests after a failure");
    let errand = desk.take(now + SECOND).unwrap();
    let Act::Status(wanted) = &errand.act else {
        panic!()
    };
    assert_eq!(wanted.status()["hostname"], "newer");
}

#[test]
fn pauses_grow_to_five_seconds_and_to_a_minute_for_what_is_refused() {
    for (refused, longest) in [(false, 5), (true, 60)] {
        let (mut desk, mut now) = (Desk::new(), Instant::now());
        desk.seen(host("h1", 1, None), now);
        desk.show(view_of_host(host_status(0, 1)), now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let errand = desk.take(now).unwrap();
            let why = "no".to_owned();
            let outcome = if refused {
                Outcome::Refused(why)
            } else {
                Outcome::Failed(why)
            };
            desk.done(&errand, outcome, now);
            let due = desk.next_due().unwrap();
            pauses.push(due - now);
            now = due;
        }
        assert_eq!(pauses[0], Duration::from_millis(200));
        assert_eq!(*pauses.last().unwrap(), Duration::from_secs(longest));
        write(&mut desk, 2, now);
        assert!(desk.next_due().is_none());
    }
}

#[test]
fn a_status_that_somebody_else_changed_is_written_again_and_our_own_echo_is_not() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    desk.seen(host("h1", 5, None), now);
    desk.show(view_of_host(host_status(0, 1)), now);
    write(&mut desk, 7, now);
    desk.seen(host("h1", 6, None), now);
    desk.seen(host("h1", 7, Some(HostStatus::default())), now);
    assert!(desk.take(now).is_none());
    desk.seen(host("h1", 8, Some(HostStatus::default())), now);
    write(&mut desk, 9, now);
    assert!(desk.take(now).is_none());
}

#[test]
fn a_guest_is_made_for_a_domain_and_made_again_and_then_gets_its_status() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    desk.show(
        view_of_guest(guest_view(false, None, GuestStatus::default())),
        now,
    );
    assert!(desk.take(now).is_none(), "without a uuid it is none");
    let status = GuestStatus {
        host: Some("h1".to_owned()),
        ..GuestStatus::default()
    };
    desk.show(view_of_guest(guest_view(false, Some("6f"), status)), now);
    for version in [1, 3] {
        let errand = desk.take(now).unwrap();
        assert_eq!(word(Some(&errand)), "create");
        desk.done(&errand, Outcome::Object(guest("g", version, None)), now);
        write(&mut desk, version + 1, now);
        desk.gone(Key::new(Kind::Guest, "g"), now);
    }
}

#[test]
fn no_status_is_written_for_what_is_not_there() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    desk.show(view_of_host(host_status(0, 1)), now);
    assert!(desk.take(now).is_none());
    desk.seen(host("h1", 1, None), now);
    let errand = desk.take(now).unwrap();
    desk.done(&errand, Outcome::Gone, now);
    assert!(desk.take(now + SECOND).is_none());
}

#[test]
fn a_move_made_for_a_wish_is_made_once() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    let pending = move_view(false, move_status(MigrationPhase::Pending));
    desk.show(view_of_move(true, Some(pending)), now);
    let errand = desk.take(now).unwrap();
    assert_eq!(word(Some(&errand)), "create");
    desk.done(&errand, Outcome::Object(Move::default().object()), now);
    write(&mut desk, 2, now);
    desk.gone(Key::new(Kind::Migration, "m"), now);
    assert!(
        desk.take(now + 60 * SECOND).is_none(),
        "its deletion was an abort"
    );
}

#[test]
fn a_users_move_gets_its_finalizer_first() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    let bare = Move {
        finalizer: false,
        ..Move::default()
    };
    desk.seen(bare.clone().object(), now);
    let pending = move_view(true, move_status(MigrationPhase::Pending));
    desk.show(view_of_move(false, Some(pending)), now);
    let errand = desk.take(now).unwrap();
    assert_eq!(word(Some(&errand)), "add");
    let with = Move {
        version: 2,
        ..Move::default()
    };
    desk.done(&errand, Outcome::Object(with.object()), now);
    write(&mut desk, 3, now);
    let over = Move {
        phase: Some(MigrationPhase::Failed),
        ..bare
    };
    let mut desk = Desk::new();
    desk.seen(over.object(), now);
    assert_eq!(word(desk.take(now).as_ref()), "nothing");
}

#[test]
fn a_deleted_move_goes_when_its_end_is_written() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    let deleted = Move {
        deleted: true,
        version: 2,
        phase: Some(MigrationPhase::Copying),
        ..Move::default()
    };
    desk.seen(deleted.object(), now);
    let copying = move_view(true, move_status(MigrationPhase::Copying));
    desk.show(view_of_move(true, Some(copying)), now);
    assert!(
        desk.take(now + 60 * SECOND).is_none(),
        "it is still being aborted"
    );
    let aborted = move_view(true, move_status(MigrationPhase::Aborted));
    desk.show(view_of_move(true, Some(aborted)), now);
    write(&mut desk, 3, now);
    assert_eq!(word(desk.take(now).as_ref()), "remove");
}

#[test]
fn a_deleted_move_goes_even_if_its_end_can_not_be_written() {
    let (mut desk, mut now) = (Desk::new(), Instant::now());
    let deleted = Move {
        deleted: true,
        ..Move::default()
    };
    desk.seen(deleted.object(), now);
    let aborted = move_view(true, move_status(MigrationPhase::Aborted));
    desk.show(view_of_move(true, Some(aborted)), now);
    for _ in 0..4 {
        let errand = desk.take(now).unwrap();
        assert_eq!(word(Some(&errand)), "status");
        desk.done(&errand, Outcome::Refused("no".to_owned()), now);
        now += 60 * SECOND;
    }
    assert_eq!(word(desk.take(now).as_ref()), "remove");
}

#[test]
fn a_deleted_move_that_the_engine_does_not_know() {
    let deleted = |phase| {
        Move {
            deleted: true,
            phase,
            ..Move::default()
        }
        .object()
    };
    let now = Instant::now();
    let taken = |phase, settled, later| {
        let mut desk = Desk::new();
        desk.show(view_of_move(settled, None), now);
        desk.seen(deleted(phase), now);
        word(desk.take(now + later).as_ref())
    };
    assert_eq!(
        taken(Some(MigrationPhase::Succeeded), true, Duration::ZERO),
        "remove"
    );
    assert_eq!(
        taken(Some(MigrationPhase::Succeeded), false, 60 * SECOND),
        "nothing"
    );
    assert_eq!(
        taken(None, true, SECOND),
        "nothing",
        "a view may be older than the object"
    );
    assert_eq!(taken(None, true, 2 * SECOND), "remove");
    assert_eq!(
        taken(Some(MigrationPhase::Pending), true, 2 * SECOND),
        "remove"
    );
    assert_eq!(
        taken(Some(MigrationPhase::Copying), true, 60 * SECOND),
        "nothing"
    );
    // What was unclear while the engine was still looking is decided when it has looked.
    let mut desk = Desk::new();
    desk.seen(deleted(Some(MigrationPhase::Succeeded)), now);
    assert_eq!(word(desk.take(now).as_ref()), "nothing");
    desk.show(view_of_move(true, None), now);
    assert_eq!(word(desk.take(now).as_ref()), "remove");
}

#[test]
fn the_end_of_an_earlier_move_is_not_written_on_its_successor() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    let ended = move_view(true, move_status(MigrationPhase::Failed));
    desk.seen(Move::default().object(), now);
    desk.show(view_of_move(true, Some(ended.clone())), now);
    write(&mut desk, 2, now);
    desk.gone(Key::new(Kind::Migration, "m"), now);
    // Created a while after the first one ended: its end can only be the first one's.
    let successor = Move {
        uid: "u2",
        version: 9,
        created: 6,
        ..Move::default()
    };
    desk.seen(successor.clone().object(), now);
    assert_eq!(word(desk.take(now + 60 * SECOND).as_ref()), "nothing");
    // Created within the same second: withheld until the engine had time to notice.
    let mut desk = Desk::new();
    desk.seen(Move::default().object(), now);
    desk.show(view_of_move(true, Some(ended)), now);
    write(&mut desk, 2, now);
    desk.gone(Key::new(Kind::Migration, "m"), now);
    let successor = Move {
        created: 5,
        ..successor
    };
    desk.seen(successor.object(), now);
    assert_eq!(word(desk.take(now + SECOND).as_ref()), "nothing");
    let pending = move_view(true, move_status(MigrationPhase::Pending));
    desk.show(view_of_move(true, Some(pending)), now + SECOND);
    assert_eq!(word(desk.take(now + SECOND).as_ref()), "status");
}

#[test]
fn a_move_that_was_over_before_its_object_could_be_made_gets_its_status_all_the_same() {
    for (labelled, written) in [(true, "status"), (false, "nothing")] {
        let (mut desk, now) = (Desk::new(), Instant::now());
        let late = Move {
            created: 9,
            ..Move::default()
        };
        let Object::Migration(object) = late.object() else {
            panic!()
        };
        let mut object = (*object).clone();
        if labelled {
            let wish = (LABEL_WISH_KIND.to_owned(), "HostDrain".to_owned());
            object.metadata.labels = Some([wish].into());
        }
        desk.seen(Object::Migration(Arc::new(object)), now);
        let shown = move_view(true, move_status(MigrationPhase::Succeeded));
        desk.show(view_of_move(true, Some(shown)), now);
        assert_eq!(word(desk.take(now).as_ref()), written, "{labelled}");
    }
}

#[test]
fn the_answer_about_an_earlier_object_comes_after_its_successor_was_seen() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    let old = Move {
        deleted: true,
        phase: Some(MigrationPhase::Succeeded),
        ..Move::default()
    };
    desk.seen(old.clone().object(), now);
    let shown = move_view(true, move_status(MigrationPhase::Succeeded));
    desk.show(view_of_move(true, Some(shown)), now);
    let errand = desk.take(now).unwrap();
    assert_eq!(word(Some(&errand)), "remove");
    let successor = Move {
        uid: "u2",
        version: 9,
        ..Move::default()
    };
    desk.gone(errand.key.clone(), now);
    desk.seen(successor.object(), now);
    let answer = Move {
        finalizer: false,
        ..old
    };
    desk.done(&errand, Outcome::Object(answer.object()), now);
    let next = desk.take(now + 60 * SECOND);
    assert_eq!(word(next.as_ref()), "status");
    assert_eq!(next.unwrap().uid, "u2");
}

/// A move that the engine calls outdated goes, once what it came to is written; and nothing else does.
#[test]
fn what_is_outdated_is_removed_once_it_is_written() {
    let (mut desk, now) = (Desk::new(), Instant::now());
    let done = || move_view(true, move_status(MigrationPhase::Succeeded));
    let of_wish = Move {
        phase: Some(MigrationPhase::Copying),
        ..Move::default()
    };
    let (version, uid) = (of_wish.version + 1, of_wish.uid);
    desk.seen(of_wish.object(), now);
    let view = |outdated: bool| {
        let mut view = (*view_of_move(true, Some(done()))).clone();
        view.outdated = outdated.then(|| "m".into()).into_iter().collect();
        Arc::new(view)
    };
    desk.show(view(true), now);
    let first = desk.take(now);
    assert_eq!(word(first.as_ref()), "status");
    let errand = first.unwrap();
    let Act::Status(wanted) = errand.act.clone() else {
        panic!("{errand:?}");
    };
    desk.done(&errand, Outcome::Status { version, wanted }, now);
    let removal = desk.take(now).unwrap();
    assert_eq!(word(Some(&removal)), "delete");
    assert_eq!(removal.uid, uid);
    desk.done(&removal, Outcome::Deleted, now);
    assert!(desk.take(now).is_none(), "the watch tells how it goes on");
    // It is wanted after all.
    desk.show(view(false), now);
    assert!(desk.take(now + 10 * SECOND).is_none());
}
