//! The secrets that open a guest's encrypted disks: the same ones have to be at the target, with the same values, before
//! its disks are made there.
//!
//! A value passes through this process and is nowhere kept or written. One that can't be read is neither carried nor
//! compared: such a guest does not move. What the source has stays there, for nobody can tell who else needs it.
//!
//! A secret that a move brings says so itself from the moment it is there. Each end of a move looks at that mark: whoever
//! arrives takes it off; who fails last of those whose journals name the secret removes it.

use std::collections::BTreeSet;

use evenkeel_crds::reason::{Cause, Reason};
use uuid::Uuid;

use super::{Attempt, Place, Stop, failure};
use crate::{
    journal::Journal,
    port::{DomainFacts, Fault, PortError, SecretFacts, SecretValue},
};

/// What moves of this process take turns by, beside the paths of files.
pub(super) fn spot(id: Uuid) -> String {
    format!("secret {id}")
}

/// A secret as an end has it now.
#[derive(Debug)]
struct Opened {
    facts: SecretFacts,
    /// Nothing where it has none.
    value: Option<SecretValue>,
}

/// Reads a secret with its value; nothing where the host has none of that UUID.
async fn open(place: &Place, id: Uuid) -> Result<Option<Opened>, Cause> {
    let wrong =
        |error: PortError| failure(&place.host, &format!("reading the secret {id}"), &error);
    let Some(facts) = place.hypervisor.secret(id).await.map_err(wrong)? else {
        return Ok(None);
    };
    if facts.private {
        return Err(Cause::new(
            Reason::SecretPrivate,
            format!(
                "the secret {id} on {} is private: its value can be neither carried nor compared",
                place.host
            ),
        ));
    }
    let value = place.hypervisor.secret_value(id).await.map_err(wrong)?;
    Ok(Some(Opened { facts, value }))
}

impl Attempt {
    /// What the guest's disks are opened by, compared with what the target has. Nothing is made yet.
    pub(super) async fn survey_secrets(&self, facts: &DomainFacts) -> Result<Vec<Uuid>, Stop> {
        let wanted: BTreeSet<Uuid> = facts.disks.iter().filter_map(|disk| disk.secret).collect();
        let (carrier, target) = (self.lines.carrier.clone(), self.order.target.uuid);
        for id in &wanted {
            // Whoever brings it now has finished then.
            let turn = spot(*id);
            let _turn = self.unless_aborted(carrier.turn(target, &turn)).await?;
            self.open_both(*id, &facts.name).await?;
        }
        Ok(wanted.into_iter().collect())
    }

    /// Brings those that the journal names and the target has not.
    pub(super) async fn bring_secrets(&self) -> Result<(), Stop> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let target = &self.order.target;
        for id in &journal.secrets {
            let turn = spot(*id);
            let turn = self.lines.carrier.turn(target.uuid, &turn);
            let _turn = self.unless_aborted(turn).await?;
            let ((facts, value), None) = self.open_both(*id, &journal.domain).await? else {
                continue;
            };
            let brought = SecretFacts {
                brought_by: Some(journal.id),
                ..facts
            };
            match target.hypervisor.create_secret(&brought, value).await {
                Err(error) if error.fault == Fault::Exists => {
                    let how = format!("can't be defined there: {error}");
                    return Err(differs(target, *id, &journal.domain, &how).into());
                }
                made => made.map_err(|error| {
                    failure(&target.host, &format!("bringing the secret {id}"), &error)
                })?,
            }
        }
        Ok(())
    }

    /// A secret as the source has it, with its value; and as the target has it, where that is the same.
    async fn open_both(
        &self,
        id: Uuid,
        guest: &str,
    ) -> Result<((SecretFacts, SecretValue), Option<SecretFacts>), Cause> {
        let (source, target) = (&self.order.source, &self.order.target);
        let (here, there) = tokio::join!(open(source, id), open(target, id));
        let missing = |what: &str| {
            Cause::new(
                Reason::SecretMissing,
                format!(
                    "the secret {id}, which opens a disk of {guest}, {what} {}",
                    source.host
                ),
            )
        };
        let here = here?.ok_or_else(|| missing("is not on"))?;
        let value = here.value.ok_or_else(|| missing("has no value on"))?;
        let Some(there) = there? else {
            return Ok(((here.facts, value), None));
        };
        if there.facts.usage != here.facts.usage {
            let usage = there.facts.usage;
            let usage = usage.map_or("nothing that it names".to_owned(), |usage| {
                usage.to_string()
            });
            return Err(differs(
                target,
                id,
                guest,
                &format!("is for something else there: {usage}"),
            ));
        }
        match (there.value, there.facts.brought_by) {
            (Some(other), _) if other == value => Ok(((here.facts, value), Some(there.facts))),
            (Some(_), _) => Err(differs(target, id, guest, "has another value there")),
            // Whoever died over it is cleaned up after, and that is soon.
            (None, Some(_)) => Err(Cause::new(
                Reason::Interrupted,
                format!(
                    "another move was just bringing the secret {id} to {}",
                    target.host
                ),
            )),
            (None, None) => Err(differs(target, id, guest, "has no value there")),
        }
    }

    /// The guest is at the target: what opens its disks there is brought by nobody any more.
    pub(super) async fn keep_secrets(&self, journal: &Journal) -> Result<(), Cause> {
        let target = &self.order.target;
        for id in &journal.secrets {
            let wrong = |error: PortError| {
                failure(&target.host, &format!("settling the secret {id}"), &error)
            };
            let there = target.hypervisor.secret(*id).await.map_err(wrong)?;
            if there.is_some_and(|there| there.brought_by.is_some()) {
                target.hypervisor.keep_secret(*id).await.map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// Removes from the target the secrets that were brought there, by this move or by one that is over and left them to it,
    /// and that nobody else needs.
    pub(super) async fn take_secrets_back(&self, journal: &Journal) -> Result<(), Cause> {
        let target = &self.order.target;
        for id in &journal.secrets {
            let wrong = |error: PortError| {
                failure(&target.host, &format!("removing the secret {id}"), &error)
            };
            let there = target.hypervisor.secret(*id).await.map_err(wrong)?;
            if there.is_none_or(|there| there.brought_by.is_none()) {
                continue;
            }
            // Another move that is not over counts on it, and settles with it.
            let others = self.other_journals(journal).await?;
            if others.iter().any(|other| other.secrets.contains(id)) {
                continue;
            }
            let users = target.hypervisor.secret_users(*id).await.map_err(wrong)?;
            match users.is_empty() {
                true => target.hypervisor.remove_secret(*id).await,
                // A guest that somebody else brought to it.
                false => target.hypervisor.keep_secret(*id).await,
            }
            .map_err(wrong)?;
        }
        Ok(())
    }
}

fn differs(target: &Place, id: Uuid, guest: &str, how: &str) -> Cause {
    Cause::new(
        Reason::SecretDiffers,
        format!(
            "the secret {id}, which opens a disk of {guest}, {how} ({})",
            target.host
        ),
    )
}
