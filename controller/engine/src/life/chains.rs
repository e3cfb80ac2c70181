//! Backing chains: whether a guest's base images are brought to the target, once for all guests on them, and only top
//! layers travel with the guest, or every disk is flattened into one file.
//!
//! It is one way for all disks of a guest: asked for top layers, libvirt copies nothing but top layers, of a disk that
//! has no base at the target too.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::reason::{Cause, Reason};

use super::{
    Attempt, Stop, failure,
    luggage::{BASE, out_of_reach},
};
use crate::{
    journal::{FileOrigin, JournalDisk, JournalFile},
    port::{Backing, DomainFacts, Fault, FileState},
};

/// A chain longer than this is a circle.
const LONGEST: usize = 64;

/// What a disk weighs either way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Weight {
    /// Bytes of its top layer.
    top: u64,
    /// Bytes of it flattened.
    whole: u64,
    /// Bases that are not at the target yet, and their bytes.
    bases: Vec<(String, u64)>,
}

/// Whether fewer bytes travel when every disk is flattened. Bases are for others too: at a tie they are brought.
fn is_flat_cheaper(weights: &[Weight]) -> bool {
    let bases: BTreeMap<&String, u64> = weights
        .iter()
        .flat_map(|weight| &weight.bases)
        .map(|(path, bytes)| (path, *bytes))
        .collect();
    let sum = |figures: &mut dyn Iterator<Item = u64>| {
        figures.fold(0u64, |all, figure| all.saturating_add(figure))
    };
    let layered = sum(&mut weights
        .iter()
        .map(|weight| weight.top)
        .chain(bases.into_values()));
    layered > sum(&mut weights.iter().map(|weight| weight.whole))
}

/// The bases of a guest's disks that are brought.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// What lies right below each disk that has a base.
    pub(super) below: BTreeMap<String, Backing>,
    /// All the files, at the same paths on both ends.
    pub(super) files: Vec<JournalFile>,
}

impl Attempt {
    /// The chains that are brought to the target; nothing where no disk has one, where they can't be brought, or where
    /// it is cheaper to flatten them.
    pub(super) async fn survey_chains(
        &self,
        facts: &DomainFacts,
        disks: &[JournalDisk],
    ) -> Result<Option<Chains>, Stop> {
        let mut chains = Chains::default();
        let mut weights = Vec::new();
        let mut seen = BTreeSet::new();
        for disk in disks {
            let Some(own) = facts.disks.iter().find(|own| own.target == disk.target) else {
                continue;
            };
            let mut weight = Weight {
                top: own.allocated.0,
                whole: own.chain_allocated().0.min(own.virtual_size.0),
                bases: Vec::new(),
            };
            let mut next = self.below(&disk.source_path).await?;
            if let Some(below) = &next {
                chains.below.insert(disk.target.clone(), below.clone());
            }
            let mut depth = 0;
            while let Some(base) = next.take() {
                depth += 1;
                let (file, state) = match self.survey_base(facts, &base).await? {
                    Ok(found) if depth <= LONGEST => found,
                    Ok(_) => return Ok(None),
                    Err(why) => {
                        tracing::info!(migration = %self.order.migration, %why, "its disks are flattened");
                        return Ok(None);
                    }
                };
                if file.origin == FileOrigin::Planned {
                    weight.bases.push((base.path.clone(), state.allocated.0));
                }
                if seen.insert(base.path.clone()) {
                    chains.files.push(file);
                }
                // What a raw file's content looks like is the guest's affair.
                next = state.backing.filter(|_| base.format != "raw");
            }
            weights.push(weight);
        }
        if chains.below.is_empty() {
            return Ok(None);
        }
        if is_flat_cheaper(&weights) {
            tracing::info!(migration = %self.order.migration, "its disks are flattened: that is less to copy");
            return Ok(None);
        }
        Ok(Some(chains))
    }

    /// What lies right below a disk at the source.
    async fn below(&self, path: &str) -> Result<Option<Backing>, Cause> {
        let source = &self.order.source;
        let state = source
            .hypervisor
            .file(path)
            .await
            .map_err(|error| failure(&source.host, &format!("looking at {path}"), &error))?;
        Ok(state.and_then(|state| state.backing))
    }

    /// All files below a stopped guest's disks, which nobody can flatten.
    pub(super) async fn survey_whole_chains(
        &self,
        facts: &DomainFacts,
        disks: &[JournalDisk],
    ) -> Result<Vec<JournalFile>, Stop> {
        let mut files: Vec<JournalFile> = Vec::new();
        for disk in disks {
            let mut next = self.below(&disk.source_path).await?;
            while let Some(base) = next.take() {
                if files.iter().any(|file| file.path == base.path) {
                    break;
                }
                let (file, state) = self.survey_base(facts, &base).await??;
                files.push(file);
                next = state.backing.filter(|_| base.format != "raw");
            }
        }
        Ok(files)
    }

    /// A base as it is at the source, and whether the target has it; or why it can't be brought there.
    async fn survey_base(
        &self,
        facts: &DomainFacts,
        base: &Backing,
    ) -> Result<Result<(JournalFile, FileState), Cause>, Stop> {
        let (source, target) = (&self.order.source, &self.order.target);
        let path = &base.path;
        if !path.starts_with('/') || !["raw", "qcow2"].contains(&base.format.as_str()) {
            return Ok(Err(Cause::new(
                Reason::DiskNotMovable,
                format!(
                    "{path}, below a disk of {}, is no raw or qcow2 file",
                    facts.name
                ),
            )));
        }
        // Whoever brings it now has finished then.
        let carrier = self.lines.carrier.clone();
        let _turn = self.unless_aborted(carrier.turn(target.uuid, path)).await?;
        let (here, there) =
            tokio::join!(source.hypervisor.file(path), target.hypervisor.file(path));
        let (here, there) = match (here, there) {
            (Ok(Some(here)), Ok(there)) => (here, there),
            (Ok(None), _) => {
                return Ok(Err(Cause::new(
                    Reason::FileMissing,
                    format!(
                        "{} has no file {path}, below a disk of {}",
                        source.host, facts.name
                    ),
                )));
            }
            (Err(error), _) if error.fault == Fault::Unsupported => {
                return Ok(Err(out_of_reach(source, path, &error)));
            }
            (_, Err(error)) if error.fault == Fault::Unsupported => {
                return Ok(Err(out_of_reach(target, path, &error)));
            }
            (Err(error), _) => {
                return Err(failure(&source.host, &format!("looking at {path}"), &error).into());
            }
            (_, Err(error)) => {
                return Err(failure(&target.host, &format!("looking at {path}"), &error).into());
            }
        };
        let origin = match &there {
            None => FileOrigin::Planned,
            Some(there) => {
                match self.compare(&facts.name, BASE, path, &here, there).await {
                    Err(Stop::Failed(cause)) if cause.reason == Reason::BaseImageDiffers => {
                        return Ok(Err(cause));
                    }
                    compared => compared?,
                }
                FileOrigin::Found
            }
        };
        let file = JournalFile {
            role: BASE.to_owned(),
            path: path.clone(),
            source_path: None,
            length: here.length,
            origin,
            own: false,
        };
        Ok(Ok((file, here)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(top: u64, whole: u64, bases: &[(&str, u64)]) -> Weight {
        let bases = bases
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), *bytes))
            .collect();
        Weight { top, whole, bases }
    }

    #[test]
    fn the_fewer_bytes_the_better() {
        // A lone guest: either way the same; the base is there for the next one.
        assert!(!is_flat_cheaper(&[weight(1, 11, &[("b", 10)])]));
        // The base is there.
        assert!(!is_flat_cheaper(&[weight(9, 10, &[])]));
        // Its top layer has nearly all of the base rewritten.
        assert!(is_flat_cheaper(&[weight(9, 10, &[("b", 10)])]));
        // Two disks on one base: it travels once.
        let two = [weight(6, 12, &[("b", 10)]), weight(6, 12, &[("b", 10)])];
        assert!(!is_flat_cheaper(&two));
        let apart = [weight(6, 12, &[("b", 10)]), weight(6, 12, &[("c", 10)])];
        assert!(is_flat_cheaper(&apart));
        // A disk without a base weighs the same either way.
        assert!(!is_flat_cheaper(&[
            weight(1, 11, &[("b", 10)]),
            weight(50, 50, &[])
        ]));
    }
}
