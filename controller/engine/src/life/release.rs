//! Removing what a finished move kept at its source, once its time is over: on the same proof as in Cleaning.

use std::sync::Arc;

use evenkeel_crds::reason::{Cause, Reason};

use super::{
    Place,
    clean::{is_finished, remove_own_files, unused},
    failure, shown,
};
use crate::{claim::Claims, evidence::Seen, journal::Journal};

/// Disks that a finished move keeps at its source.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) journal: Journal,
    pub(crate) source: Place,
    /// Where the guest is now: the move's target, or where it went since.
    pub(crate) holder: Place,
}

/// Removes the disks and the journal. An error says why they are kept still.
pub(crate) async fn release(claims: &Arc<Claims>, kept: &Kept) -> Result<(), Cause> {
    let (source, holder) = (&kept.source, &kept.holder);
    let (first, second) = if source.host <= holder.host {
        (source, holder)
    } else {
        (holder, source)
    };
    let first = claims.hold(&first.host, &first.hypervisor).await?;
    let second = claims.hold(&second.host, &second.hypervisor).await?;
    // Another may have done it since it was read.
    let written = source
        .hypervisor
        .journals()
        .await
        .map_err(|error| failure(&source.host, "reading the journals", &error))?;
    let journal = written
        .iter()
        .filter(|entry| entry.id == kept.journal.id)
        .filter_map(|entry| Journal::parse(&entry.text))
        .find(|journal| journal.kept_until.is_some());
    let Some(journal) = journal else {
        return Ok(());
    };
    let named = source
        .hypervisor
        .references(None)
        .await
        .map_err(|error| failure(&source.host, "looking for users of the files", &error))?;
    unused(&journal, &source.host, &named)?;
    first.prove().await?;
    second.prove().await?;
    let there = holder.hypervisor.glance(journal.guest).await;
    let here = source.hypervisor.glance(journal.guest).await;
    let verdict = shown(&journal, Seen::of(&here, false), Seen::of(&there, false));
    let disks = there.ok().flatten().map_or(Vec::new(), |copy| copy.disks);
    // It must run from files of its own, and where it went since they have other names.
    let own = match holder.uuid == journal.target.uuid {
        true => journal
            .disks
            .iter()
            .all(|disk| disks.contains(&disk.target_path)),
        false => disks.len() >= journal.disks.len(),
    };
    if !is_finished(verdict) || !own {
        return Err(Cause::new(
            Reason::OutcomeUnknown,
            format!(
                "{} and {} do not show that {} lives on {}; what is kept of it on {} stays",
                source.host, holder.host, journal.domain, holder.host, source.host
            ),
        ));
    }
    remove_own_files(&journal, source).await?;
    source
        .hypervisor
        .remove_journal(&journal.source.pool, journal.id)
        .await
        .map_err(|error| failure(&source.host, "removing the journal", &error))
}
