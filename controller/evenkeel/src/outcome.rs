//! What was done and what was not: the end of `apply`.

use std::fmt;

use evenkeel_crds::{
    GuestMigrationStatus, MigrationPhase,
    kinds::migration::SourceFiles,
    reason::Reason,
    shared::{API_VERSION, find},
};
use evenkeel_engine::{MigrationView, View};
use serde::Serialize;

use crate::{
    exit::Exit,
    manifests::Manifests,
    output::harmless,
    progress,
    table::{Table, human},
    verdict,
};

/// The end of `apply`, as it is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    api_version: &'static str,
    kind: &'static str,
    /// `Converged`, `SomethingImpossible`, `ClaimedByOther`, `Interrupted` or `DeadlineExceeded`.
    result: &'static str,
    moves: Vec<Moved>,
    impossible: Vec<Left>,
}

/// A move of this run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    name: String,
    guest: String,
    status: GuestMigrationStatus,
    #[serde(skip)]
    time: Option<std::time::Duration>,
}

/// Something that was asked for and is not so.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Left {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<String>,
    reason: Reason,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
}

impl Applied {
    /// From the last view.
    #[must_use]
    pub fn of(view: &View, manifests: &Manifests, exit: Exit) -> Self {
        let result = match exit {
            Exit::Done => "Converged",
            Exit::Claimed => "ClaimedByOther",
            Exit::Interrupted => "Interrupted",
            Exit::Deadline => "DeadlineExceeded",
            Exit::Error | Exit::ToDo | Exit::Impossible => "SomethingImpossible",
        };
        let moves = view
            .migrations
            .iter()
            .filter(|(_, migration)| was_tried(migration));
        let left = verdict::obstacles(view, &manifests.wishes)
            .into_iter()
            .map(|obstacle| Left {
                place: manifests
                    .place(&obstacle.kind, &obstacle.name)
                    .map(ToString::to_string),
                kind: obstacle.kind,
                name: obstacle.name,
                guest: obstacle.guest,
                reason: obstacle.cause.reason,
                message: obstacle.cause.message,
                hint: obstacle.cause.hint,
            });
        let mut impossible: Vec<Left> = left.collect();
        if exit == Exit::Claimed {
            let known = |message: &str| impossible.iter().any(|left| left.message == message);
            let claims = verdict::claims(view, &manifests.wishes).into_iter();
            let new: Vec<Left> = claims
                .filter(|claim| !known(&claim.message))
                .map(|claim| Left {
                    kind: "Host".to_owned(),
                    name: String::new(),
                    guest: None,
                    reason: claim.reason,
                    message: claim.message,
                    hint: "say --wait to wait for it to end".to_owned(),
                    place: None,
                })
                .collect();
            impossible.extend(new);
        }
        Self {
            api_version: API_VERSION,
            kind: "ApplyResult",
            result,
            moves: moves
                .map(|(name, migration)| Moved {
                    name: name.to_string(),
                    guest: progress::guest(migration),
                    status: migration.status.clone(),
                    time: progress::time(migration),
                })
                .collect(),
            impossible,
        }
    }
}

/// Whether anything was done for a move: not one that was satisfied as it was, nor one that never started.
fn was_tried(migration: &MigrationView) -> bool {
    let condition = find(&migration.status.conditions, "Succeeded");
    let satisfied =
        condition.is_some_and(|condition| condition.reason == Reason::MigrateToSelf.as_str());
    !satisfied && (migration.status.start_time.is_some() || !migration.status.attempts.is_empty())
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new([
            "GUEST",
            "FROM",
            "TO",
            "RESULT",
            "BYTES",
            "TIME",
            "DOWNTIME",
            "SAME BOOT",
            "SOURCE FILES",
        ]);
        for moved in &self.moves {
            let status = &moved.status;
            let done = status.phase == MigrationPhase::Succeeded;
            let evidence = status.evidence.as_ref().filter(|_| done);
            let same_boot = evidence.map(|evidence| if evidence.rebooted { "no" } else { "yes" });
            let files = evidence.map(|evidence| match evidence.source_files {
                SourceFiles::Removed => "removed",
                SourceFiles::Retained => "retained",
                SourceFiles::Shared => "shared",
                SourceFiles::Abandoned => "abandoned",
            });
            table.row([
                moved.guest.clone(),
                status.source.clone().unwrap_or_default(),
                status.target.clone().unwrap_or_default(),
                status.phase.as_str().to_owned(),
                status
                    .bytes
                    .map_or(String::new(), |bytes| bytes.total.human()),
                moved.time.map_or(String::new(), human),
                status
                    .downtime
                    .map_or(String::new(), |downtime| downtime.to_string()),
                same_boot.unwrap_or_default().to_owned(),
                files.unwrap_or_default().to_owned(),
            ]);
        }
        if !table.is_empty() {
            write!(f, "{}", table.dense())?;
        }
        for left in &self.impossible {
            let place = left
                .place
                .as_ref()
                .map_or(String::new(), |place| format!("{place}: "));
            let guest = left
                .guest
                .as_ref()
                .map_or(String::new(), |guest| format!("{guest}: "));
            let whose = if left.name.is_empty() {
                String::new()
            } else {
                format!("{} {}: ", left.kind, left.name)
            };
            writeln!(
                f,
                "{place}{whose}{guest}{}: {}",
                left.reason,
                harmless(&left.message)
            )?;
            if !left.hint.is_empty() {
                writeln!(f, "    hint: {}", harmless(&left.hint))?;
            }
        }
        f.write_str(match self.result {
            "Converged" if self.moves.is_empty() => "Everything is as asked.\n",
            "Converged" => "Done: everything is as asked.\n",
            "ClaimedByOther" => "Another holder acts on these hosts: nothing was begun there.\n",
            "Interrupted" => "Interrupted; run the same command again to go on.\n",
            "DeadlineExceeded" => "The time was up before everything was as asked.\n",
            _ => "Not everything can be as asked; see above.\n",
        })
    }
}
