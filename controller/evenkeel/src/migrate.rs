//! `evenkeel migrate`: one move, watched to its end.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::bail;
use evenkeel_crds::{
    GuestMigration, GuestMigrationSpec, GuestMigrationStatus, HostDrain, MigrationPhase,
    reason::Reason, shared::find,
};
use evenkeel_kubernetes::client;
use uuid::Uuid;

use crate::{
    apply::{self, Task},
    arguments::{Common, Limits},
    cluster,
    exit::Exit,
    manifests::{object::is_object_name, schema::nearest},
    output, plan,
    progress::Progress,
    verdict,
};

/// Runs the command.
///
/// # Errors
/// Where manifests are wrong, there is no such host, or the hosts or the cluster can't be asked at all.
pub async fn run(
    common: &Common,
    guest: &str,
    host: Option<&str>,
    limits: &Limits,
) -> anyhow::Result<Exit> {
    let migration = GuestMigration::new(
        &name_for(guest, host),
        GuestMigrationSpec {
            guest: guest.to_owned(),
            target: host.map(str::to_owned),
            ..GuestMigrationSpec::default()
        },
    );
    if common.files.is_empty() {
        return in_cluster(common, migration, limits).await;
    }
    let mut manifests = plan::load(common)?;
    if let Some(host) = host.filter(|host| !manifests.wishes.hosts.contains_key(*host)) {
        let known = || manifests.wishes.hosts.keys().map(String::as_str);
        let names = known().collect::<Vec<_>>().join(", ");
        let hint = nearest(host, known()).map_or(format!("there are {names}"), |meant| {
            format!("did you mean {meant}?")
        });
        bail!("the manifests name no Host {host}: {hint}");
    }
    // This move and no other: what else the files ask for stays as it is, but nothing moves into a drained host.
    let name = migration.metadata.name.clone().unwrap_or_default();
    manifests.wishes.migrations = BTreeMap::from([(name, Arc::new(migration))]);
    for drain in manifests.wishes.drains.values_mut() {
        let mut still = HostDrain::clone(drain);
        still.spec.suspend = true;
        *drain = Arc::new(still);
    }
    let task = Task {
        command: "migrate",
        watch: false,
        ask: false,
        limits: limits.clone(),
    };
    apply::converge(common, manifests, &task).await
}

/// `<guest>-to-<host>-<short id>`, a name that the API server takes.
fn name_for(guest: &str, host: Option<&str>) -> String {
    let id = &Uuid::new_v4().simple().to_string()[..6];
    let clean: String = guest
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(100)
        .collect();
    let clean = clean.trim_matches('-');
    let guest = if clean.is_empty() { "guest" } else { clean };
    match host.filter(|host| is_object_name(host) && host.len() <= 100) {
        Some(host) => format!("{guest}-to-{host}-{id}"),
        None => format!("{guest}-away-{id}"),
    }
}

async fn in_cluster(
    common: &Common,
    migration: GuestMigration,
    limits: &Limits,
) -> anyhow::Result<Exit> {
    let client = cluster::connect(common).await?;
    let made = client::create(&client, migration).await?;
    let name = made.metadata.name.clone().unwrap_or_default();
    output::tell(format_args!(
        "GuestMigration {name} created; it goes on if this is interrupted."
    ));
    let mut progress = Progress::new();
    let mut last = GuestMigrationStatus::default();
    let ended = tokio::select! {
        ended = cluster::wait_until::<GuestMigration>(&client, &name, limits.timeout, |object| {
            let Some(object) = object else { return false };
            progress.show_one(object);
            last = object.status.clone().unwrap_or_default();
            last.phase.is_final() || stands_still(&last, limits.wait).is_some()
        }) => ended,
        () = interrupted() => {
            output::tell(format_args!("Left to the controller: kubectl delete guestmigration {name} aborts it."));
            return Ok(Exit::Interrupted);
        }
    };
    progress.end();
    if !ended? {
        output::tell("The time is up; the move is left to the controller.");
        return Ok(Exit::Deadline);
    }
    let exit = exit_of(&last, limits.wait);
    if let Some(condition) = find(&last.conditions, "Succeeded") {
        let guest = last.guest.clone().unwrap_or(made.spec.guest);
        let cause = verdict::cause_of(condition);
        let line = format!("{guest}: {}: {cause}\n", last.phase.as_str());
        output::print(output::harmless(&line))?;
        if exit != Exit::Done && !cause.hint.is_empty() {
            output::tell(format_args!("hint: {}", cause.hint));
        }
    }
    if !last.phase.is_final() {
        output::tell(format_args!(
            "It starts as soon as that changes; kubectl delete guestmigration {name} takes it back."
        ));
    }
    Ok(exit)
}

async fn interrupted() {
    match crate::signals::Signals::listen() {
        Ok(mut signals) => signals.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// A move that waits for somebody to change something, or for another holder: how that ends here.
fn stands_still(status: &GuestMigrationStatus, wait: bool) -> Option<Exit> {
    let condition = find(&status.conditions, "Succeeded")
        .filter(|_| status.phase == MigrationPhase::Pending)?;
    match Reason::parse(&condition.reason)? {
        Reason::ClaimedByOther => (!wait).then_some(Exit::Claimed),
        reason if reason.class() == evenkeel_crds::reason::Class::AwaitChange => {
            Some(Exit::Impossible)
        }
        _ => None,
    }
}

fn exit_of(status: &GuestMigrationStatus, wait: bool) -> Exit {
    let reason = find(&status.conditions, "Succeeded")
        .and_then(|condition| Reason::parse(&condition.reason));
    match (status.phase, reason) {
        (MigrationPhase::Succeeded, _) => Exit::Done,
        (_, Some(Reason::DeadlineExceeded)) => Exit::Deadline,
        _ => stands_still(status, wait).unwrap_or(Exit::Impossible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ones_the_api_server_takes() {
        let long = "a".repeat(300);
        for guest in [
            "web-1",
            "Web_1 (old)",
            "...",
            "6f1c2a34-0000-4000-8000-0123456789ab",
            &long,
        ] {
            for host in [None, Some("h2"), Some("No Such"), Some(long.as_str())] {
                let name = name_for(guest, host);
                assert!(is_object_name(&name), "{name}");
            }
        }
        assert!(name_for("web-1", Some("h2")).starts_with("web-1-to-h2-"));
    }

    #[test]
    fn how_a_move_ends_here() {
        let status = |phase, reason: Reason| GuestMigrationStatus {
            phase,
            conditions: vec![evenkeel_crds::shared::condition(
                "Succeeded",
                evenkeel_crds::shared::Answer::Unknown,
                reason,
                "",
                None,
                evenkeel_crds::shared::Timestamp::UNIX_EPOCH,
            )],
            ..GuestMigrationStatus::default()
        };
        let pending = MigrationPhase::Pending;
        assert_eq!(
            stands_still(&status(pending, Reason::HostUnreachable), false),
            None
        );
        assert_eq!(
            stands_still(&status(pending, Reason::NoHostFits), false),
            Some(Exit::Impossible)
        );
        assert_eq!(
            stands_still(&status(pending, Reason::ClaimedByOther), false),
            Some(Exit::Claimed)
        );
        assert_eq!(
            stands_still(&status(pending, Reason::ClaimedByOther), true),
            None
        );
        assert_eq!(
            exit_of(&status(MigrationPhase::Succeeded, Reason::Completed), false),
            Exit::Done
        );
        assert_eq!(
            exit_of(
                &status(MigrationPhase::Failed, Reason::DeadlineExceeded),
                false
            ),
            Exit::Deadline
        );
        assert_eq!(
            exit_of(
                &status(MigrationPhase::Failed, Reason::MigrateToSelf),
                false
            ),
            Exit::Impossible
        );
    }
}
