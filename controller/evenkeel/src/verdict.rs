//! What a view means for the one who waits: is there something to do, is it done, what is in the way.

use std::{collections::BTreeSet, time::Duration};

use evenkeel_crds::{
    MigrationPhase,
    kinds::placement::Requirement,
    reason::{Cause, Class, Reason},
    shared::{Condition, HostCount, RequestedBy, find},
};
use evenkeel_engine::{MigrationView, View, Wishes};

use crate::exit::Exit;

/// A wish that can't be fulfilled as things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The wish's kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The guest it is about, where it is about one.
    pub guest: Option<String>,
    /// Why.
    pub cause: Cause,
    /// What each host says, counted.
    pub hosts: Vec<HostCount>,
}

impl Obstacle {
    fn new(kind: &str, name: &str, cause: Cause) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            guest: None,
            cause,
            hosts: Vec::new(),
        }
    }

    /// Whether another holder's claim is in the way.
    #[must_use]
    pub fn is_claim(&self) -> bool {
        self.cause.reason == Reason::ClaimedByOther
            || self
                .hosts
                .iter()
                .any(|count| count.reason == Reason::ClaimedByOther.as_str())
    }

    /// Whether it may go away by itself.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.is_claim() || matches!(self.cause.reason.class(), Class::Retry | Class::AvoidTarget)
    }
}

/// Everything that is in the way of the wishes, each once.
#[must_use]
pub fn obstacles(view: &View, wishes: &Wishes) -> Vec<Obstacle> {
    let mut found: Vec<Obstacle> = Vec::new();
    // What is only preferred, and can't be had, is in nobody's way.
    let preferred = |by: &RequestedBy| {
        let placement = wishes.placements.get(&by.name);
        by.kind == "GuestPlacement"
            && placement
                .is_some_and(|placement| placement.spec.requirement == Requirement::Preferred)
    };
    let refused = view.plan.rejections.iter();
    for rejection in refused.filter(|rejection| !preferred(&rejection.by)) {
        let guest = view
            .fleet
            .guests
            .get(rejection.guest.at())
            .map(|guest| guest.name.to_string());
        let mut obstacle = Obstacle::new(
            &rejection.by.kind,
            &rejection.by.name,
            rejection.cause.clone(),
        );
        (obstacle.guest, obstacle.hosts) = (guest, rejection.hosts.clone());
        found.push(obstacle);
    }
    for problem in &view.problems {
        let known = |other: &Obstacle| {
            other.kind == problem.kind
                && other.name == problem.name
                && other.cause.reason == problem.cause.reason
        };
        if !found.iter().any(known) {
            found.push(Obstacle::new(
                problem.kind,
                &problem.name,
                problem.cause.clone(),
            ));
        }
    }
    for (name, migration) in &view.migrations {
        let known = |other: &Obstacle| other.kind == "GuestMigration" && other.name == **name;
        // What a cluster says was over before we looked is history.
        let stored = wishes
            .migrations
            .get(&**name)
            .and_then(|object| object.status.as_ref());
        let history = stored.is_some_and(|status| status.phase.is_final());
        if migration.declared && !history && !found.iter().any(known) {
            found.extend(
                failure(migration).map(|cause| Obstacle::new("GuestMigration", name, cause)),
            );
        }
    }
    let at_work = drains_at_work(view);
    for (name, drain) in &view.drains {
        let known = |other: &Obstacle| other.kind == "HostDrain" && other.name == **name;
        let declared = wishes
            .drains
            .get(&**name)
            .is_none_or(|drain| drain.metadata.deletion_timestamp.is_none());
        let open =
            find(&drain.conditions, "Drained").is_some_and(|condition| condition.status != "True");
        if open && declared && !at_work.contains(&**name) && !found.iter().any(known) {
            // Ready says why it stands still, where Drained only says that it is not done.
            let condition =
                find(&drain.conditions, "Ready").or_else(|| find(&drain.conditions, "Drained"));
            found.extend(
                condition.map(|condition| Obstacle::new("HostDrain", name, cause_of(condition))),
            );
        }
    }
    // What somebody suspended on purpose is not in anybody's way.
    found.retain(|obstacle| obstacle.cause.reason != Reason::Suspended);
    // Nor is a guest that leaves by being shut down.
    found.retain(|obstacle| !is_on_its_way(&obstacle.cause));
    found
}

/// So many notes of a kind are written out.
const NOTES: usize = 5;

/// What manifests ask for and is left out here, though it is in nobody's way: what only a cluster can give. A line each.
#[must_use]
pub fn notes(view: &View) -> Vec<String> {
    let no_cluster = Reason::NoCluster.as_str();
    let left_out = view.hosts.iter().filter_map(|(name, status)| {
        let mut conditions = status.conditions.iter();
        let condition = conditions.find(|condition| condition.reason == no_cluster)?;
        Some(format!("Host {name}: {no_cluster}: {}", condition.message))
    });
    let mut notes: Vec<String> = left_out.collect();
    let more = notes.len().saturating_sub(NOTES);
    notes.truncate(NOTES);
    if more > 0 {
        notes.push(format!("and {more} more Hosts: {no_cluster}"));
    }
    notes
}

/// Whether a guest is being shut down for a drain, or started again, and that goes on by itself.
fn is_on_its_way(cause: &Cause) -> bool {
    matches!(
        cause.reason,
        Reason::ShutdownPending | Reason::ShuttingDown | Reason::RestartPending
    )
}

/// Whether guests are shut down for drains, or started again.
fn shuts_down(view: &View) -> bool {
    view.shutdowns.values().any(is_on_its_way)
}

/// Drains that have moves planned, waiting or under way.
fn drains_at_work(view: &View) -> BTreeSet<&str> {
    let planned = view.plan.moves.iter().map(|planned| &planned.by);
    let open = view
        .migrations
        .values()
        .filter(|migration| !migration.status.phase.is_final());
    let open = open.map(|migration| &migration.requested_by);
    planned
        .chain(open)
        .filter(|by| by.kind == "HostDrain")
        .map(|by| by.name.as_str())
        .collect()
}

/// Whether a move has left Pending and not ended.
#[must_use]
pub fn is_moving(migration: &MigrationView) -> bool {
    !migration.status.phase.is_final() && migration.status.phase != MigrationPhase::Pending
}

/// Whether a move under way has come to where only a person goes on.
fn waits_for_a_person(migration: &MigrationView) -> bool {
    find(&migration.status.conditions, "Succeeded")
        .and_then(|condition| Reason::parse(&condition.reason))
        .is_some_and(|reason| reason.class() == Class::AwaitChange)
}

/// How many moves are under way.
#[must_use]
pub fn moving(view: &View) -> usize {
    view.migrations
        .values()
        .filter(|migration| is_moving(migration))
        .count()
}

/// Why a move ended without success, if that was not what its author wanted.
#[must_use]
pub fn failure(migration: &MigrationView) -> Option<Cause> {
    let wanted =
        migration.status.phase == MigrationPhase::Aborted && migration.spec.abort == Some(true);
    let failed = matches!(
        migration.status.phase,
        MigrationPhase::Failed | MigrationPhase::Aborted
    ) && !wanted;
    let condition = find(&migration.status.conditions, "Succeeded").filter(|_| failed)?;
    let cause = cause_of(condition);
    (cause.reason != Reason::MigrateToSelf).then_some(cause)
}

/// A condition's reason with its sentence.
#[must_use]
pub fn cause_of(condition: &Condition) -> Cause {
    let reason = Reason::parse(&condition.reason).unwrap_or(Reason::HypervisorError);
    // A condition has the hint in its message; a cause has it beside.
    let message = condition.message.as_str();
    let hint = format!(" ({})", reason.hint());
    Cause::new(reason, message.strip_suffix(&hint).unwrap_or(message))
}

/// Holders of claims that are in the way of planned moves, drains or moves that wait.
#[must_use]
pub fn claims(view: &View, wishes: &Wishes) -> Vec<Cause> {
    let mut found: Vec<Cause> = obstacles(view, wishes)
        .into_iter()
        .filter(Obstacle::is_claim)
        .map(|obstacle| obstacle.cause)
        .collect();
    for planned in &view.plan.moves {
        let claimed = planned
            .waits
            .iter()
            .filter(|cause| cause.reason == Reason::ClaimedByOther);
        found.extend(claimed.cloned());
    }
    for migration in view
        .migrations
        .values()
        .filter(|migration| !migration.status.phase.is_final())
    {
        let condition = find(&migration.status.conditions, "Succeeded");
        let claimed =
            condition.filter(|condition| condition.reason == Reason::ClaimedByOther.as_str());
        found.extend(claimed.map(cause_of));
    }
    for host in involved(view) {
        let condition = view
            .hosts
            .get(host)
            .and_then(|status| find(&status.conditions, "ClaimedByOther"));
        found.extend(
            condition
                .filter(|condition| condition.status == "True")
                .map(|condition| Cause::new(Reason::ClaimedByOther, condition.message.clone())),
        );
    }
    found.sort();
    found.dedup_by(|a, b| a.message == b.message);
    found
}

/// Hosts that planned moves touch, that are to be drained and are not, or whose guest another moves.
fn involved(view: &View) -> BTreeSet<&str> {
    let ends = view
        .plan
        .moves
        .iter()
        .flat_map(|planned| [planned.source, planned.target]);
    let ends = ends
        .filter_map(|id| view.fleet.hosts.get(id.at()))
        .map(|host| host.name.as_str());
    let drained = view
        .drains
        .values()
        .flat_map(|drain| &drain.hosts)
        .filter(|host| !host.drained);
    // Where a guest is that another moves just now.
    let busy = view
        .plan
        .rejections
        .iter()
        .filter(|rejection| rejection.cause.reason == Reason::GuestBusy)
        .filter_map(|rejection| view.fleet.guests.get(rejection.guest.at()))
        .filter_map(|guest| view.fleet.hosts.get(guest.host.at()))
        .map(|host| host.name.as_str());
    ends.chain(drained.map(|host| host.name.as_str()))
        .chain(busy)
        .collect()
}

/// The exit code of `plan`.
#[must_use]
pub fn of_plan(view: &View, wishes: &Wishes) -> Exit {
    if !claims(view, wishes).is_empty() {
        Exit::Claimed
    } else if !obstacles(view, wishes).is_empty() {
        Exit::Impossible
    } else if view.plan.moves.is_empty() && moving(view) == 0 && !shuts_down(view) {
        Exit::Done
    } else {
        Exit::ToDo
    }
}

/// Where an `apply` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Something moves, or will by itself.
    Working,
    /// Everything is as asked.
    Converged,
    /// Nothing moves any more and something is left: how it ends, once it has been so for that long.
    Stuck(Exit, Duration),
}

/// Another view may follow the last event at once; nothing is called stuck before this.
const SHORT: Duration = Duration::from_secs(2);
/// A holder that is dead can be proven so within this, if it lived on our machine.
const CLAIM: Duration = Duration::from_secs(5);
/// What may pass by itself (a host that does not answer) has this long.
const LONG: Duration = Duration::from_secs(60);
/// With `--wait`: for ever, but for `--timeout`.
const EVER: Duration = Duration::MAX;

/// Where an `apply` stands in this view.
#[must_use]
pub fn of_apply(view: &View, wishes: &Wishes, wait: bool) -> Stage {
    if !view.settled || moving(view) > 0 {
        let under_way = || view.migrations.values().filter(|one| is_moving(one));
        let halted = under_way().all(|one| waits_for_a_person(one));
        return if view.settled && halted && view.plan.moves.is_empty() {
            Stage::Stuck(Exit::Impossible, LONG)
        } else {
            Stage::Working
        };
    }
    if !claims(view, wishes).is_empty() {
        return Stage::Stuck(Exit::Claimed, if wait { EVER } else { CLAIM });
    }
    let obstacles = obstacles(view, wishes);
    let goes_on = |waits: &Option<Cause>| {
        waits
            .as_ref()
            .is_none_or(|cause| matches!(cause.reason.class(), Class::Retry | Class::AvoidTarget))
    };
    // What waits for a person's word, a window or the next hour is not waited for here.
    let later = |waits: &Option<Cause>| {
        let reason = waits.as_ref().map(|cause| cause.reason);
        matches!(
            reason,
            Some(
                Reason::AwaitingApproval
                    | Reason::Suspended
                    | Reason::WindowClosed
                    | Reason::MoveDoesNotFitWindow
                    | Reason::LimitReached
            )
        )
    };
    let mut open = view
        .plan
        .moves
        .iter()
        .filter(|planned| !later(&planned.waits))
        .peekable();
    let none_is_open = open.peek().is_none();
    if open.any(|planned| goes_on(&planned.waits)) || shuts_down(view) {
        return Stage::Working;
    }
    if obstacles.is_empty() && none_is_open {
        return match all_ended(view) {
            Some(true) => Stage::Converged,
            // The engine's own word follows, unless a host that is silent keeps it from being sure.
            Some(false) => Stage::Stuck(Exit::Done, SHORT),
            None => Stage::Working,
        };
    }
    let late = |obstacle: &Obstacle| obstacle.cause.reason == Reason::DeadlineExceeded;
    let exit = if obstacles.iter().any(late) {
        Exit::Deadline
    } else {
        Exit::Impossible
    };
    let patience = if obstacles.iter().any(Obstacle::may_pass) {
        LONG
    } else {
        SHORT
    };
    Stage::Stuck(exit, patience)
}

/// Whether every declared move has ended (true), or some are only satisfied as they are (false). Nothing where one
/// is still open.
fn all_ended(view: &View) -> Option<bool> {
    let satisfied = |name: &str| view.plan.satisfied.iter().any(|wish| wish.by.name == name);
    let open = || {
        view.migrations
            .iter()
            .filter(|(_, migration)| !migration.status.phase.is_final())
            .filter(|(_, migration)| !is_suspended(migration))
    };
    open()
        .all(|(name, _)| satisfied(name))
        .then(|| open().next().is_none())
}

/// Whether somebody keeps the move from starting on purpose.
fn is_suspended(migration: &MigrationView) -> bool {
    let suspended = Reason::Suspended.as_str();
    find(&migration.status.conditions, "Succeeded")
        .is_some_and(|condition| condition.reason == suspended)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
