//! Which domains name which files: the question before anything is removed.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_engine::port::PortResult;
use uuid::Uuid;
use virt::sys;

use super::{
    description::{self, DiskXml},
    volumes::Volumes,
};
use crate::libvirt::{fault::OrFault, refreshes::Freshness, storage::Storage, xml};

/// For each file that any domain names, who. Whole chains; what the XML leaves open is read from the volumes.
pub(crate) fn references(
    storage: Storage<'_>,
    except: Option<Uuid>,
) -> PortResult<BTreeMap<String, Vec<String>>> {
    let pools = storage.pools(Freshness::Now)?;
    let volumes = Volumes::new(storage, &pools);
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for domain in storage.connect.list_all_domains(0).or_fault()? {
        if except.is_some_and(|except| domain.uuid().is_ok_and(|uuid| uuid == except)) {
            continue;
        }
        let name = domain.name().or_fault()?;
        for flags in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
            let Some(text) = domain.xml_desc(flags).or_absent()? else {
                continue;
            };
            let document = xml::parse(&text)?;
            let root = document.root_element();
            let mut files = description::every_file(root);
            let disks = description::describe(root)?.disks;
            for disk in &disks {
                if let Some((pool, volume)) = &disk.volume
                    && let Some(pool) = pools.iter().find(|known| known.facts.name == *pool)
                {
                    files.push(xml::tidy_path(&format!("{}/{volume}", pool.facts.path)));
                }
            }
            for file in &files.clone() {
                let is_disk =
                    |disk: &DiskXml| disk.is_written() && disk.path.as_ref() == Some(file);
                let top = match disks.iter().any(is_disk) {
                    true => volumes.get(file)?,
                    false => volumes.listed(file)?,
                };
                files.extend(volumes.chain(top.as_ref())?);
            }
            for file in files {
                found.entry(file).or_default().insert(name.clone());
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|(file, names)| (file, names.into_iter().collect()))
        .collect())
}
