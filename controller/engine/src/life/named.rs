//! Disks that a definition gives by pool and volume (`type='volume'`). One that is copied gets the pool and volume where
//! it comes to. One that is not copied keeps its words, so these have to mean the same file at the target.

use evenkeel_crds::{
    names::HostName,
    reason::{Cause, Reason},
};

use super::Attempt;
use crate::port::{DiskFacts, DomainFacts, PoolFacts};

impl Attempt {
    /// Whether the target takes each disk that is given by name, and not copied, for the same file.
    pub(super) fn check_named(
        &self,
        facts: &DomainFacts,
        pools: &[PoolFacts],
    ) -> Result<(), Cause> {
        let mut disks = facts.disks.iter();
        let wrong =
            disks.find_map(|disk| other_file(&facts.name, disk, &self.order.target.host, pools));
        wrong.map_or(Ok(()), Err)
    }
}

/// Why it would be another file, or none.
fn other_file(
    guest: &str,
    disk: &DiskFacts,
    host: &HostName,
    pools: &[PoolFacts],
) -> Option<Cause> {
    if !disk.named || disk.is_copied() {
        return None;
    }
    let (name, directory) = (disk.pool.as_ref()?, disk.directory()?);
    let own = pools.iter().find(|pool| pool.active && pool.name == *name);
    if own.is_some_and(|pool| pool.path == directory) {
        return None;
    }
    let has = match own {
        Some(pool) => format!("its pool {name} is in {}", pool.path),
        None => format!("it has no active pool {name}"),
    };
    let volume = disk.volume.as_deref().unwrap_or_default();
    Some(
        Cause::new(
            Reason::PoolMissing,
            format!(
                "{} of {guest} is the volume {volume} of pool {name}, in {directory}, and is not copied; on {host} that is \
                 no such file: {has}",
                disk.target
            ),
        )
        .hint(format!(
            "define and start a pool {name} in {directory} on {host}, or give the disk by its file (`type='file'`)"
        )),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use evenkeel_crds::quantity::Bytes;

    use super::*;
    use crate::port::DiskDevice;

    fn medium() -> DiskFacts {
        DiskFacts {
            target: "sda".into(),
            device: DiskDevice::Cdrom,
            path: Some("/isos/seed.iso".into()),
            format: "raw".into(),
            virtual_size: Bytes(0),
            allocated: Bytes(0),
            pool: Some("isos".into()),
            volume: Some("seed.iso".into()),
            named: true,
            backing: Vec::new(),
            readonly: true,
            shared: false,
            secret: None,
        }
    }

    fn pool(name: &str, path: &str, active: bool) -> PoolFacts {
        PoolFacts {
            name: name.into(),
            kind: "dir".into(),
            path: path.into(),
            active,
            total: Bytes(1),
            available: Bytes(1),
            shared: false,
        }
    }

    fn said(disk: &DiskFacts, pools: &[PoolFacts]) -> Option<String> {
        let cause = other_file("g1", disk, &"h2".into(), pools)?;
        assert_eq!(cause.reason, Reason::PoolMissing);
        Some(cause.message)
    }

    #[test]
    fn words_that_stay_mean_the_same_file() {
        let disk = medium();
        assert_eq!(said(&disk, &[pool("isos", "/isos", true)]), None);
        for (pools, word) in [
            (vec![], "no active pool isos"),
            (vec![pool("isos", "/isos", false)], "no active pool isos"),
            (vec![pool("media", "/isos", true)], "no active pool isos"),
            (vec![pool("isos", "/srv/isos", true)], "is in /srv/isos"),
        ] {
            let said = said(&disk, &pools).unwrap();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn others_need_no_pool_of_that_name() {
        let file = DiskFacts {
            named: false,
            ..medium()
        };
        let copied = DiskFacts {
            device: DiskDevice::Disk,
            readonly: false,
            ..medium()
        };
        assert_eq!((said(&file, &[]), said(&copied, &[])), (None, None));
    }
}
