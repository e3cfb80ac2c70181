//! Which domains name which files: the question before anything is removed.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_engine::port::PortResult;
use uuid::Uuid;
use virt::sys;

use super::{
    description::{self, DiskXml},
    volumes::{self, Volumes},
};
use crate::libvirt::{
    fault::OrFault,
    refreshes::Freshness,
    storage::{self, Pool, Storage},
    xml,
};

/// For each file that any domain names, who. Whole chains; what the XML leaves open is read from the volumes.
pub(crate) fn references(
    storage: Storage<'_>,
    except: Option<Uuid>,
) -> PortResult<BTreeMap<String, Vec<String>>> {
    let pools = storage.pools(Freshness::Now)?;
    let looked_up = Volumes::new(storage, &pools);
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
            let mut disks = description::describe(root)?.disks;
            volumes::locate(&mut disks, &pools);
            for volume in description::every_volume(root) {
                files.extend(places(&pools, &volume));
            }
            for file in &files.clone() {
                let is_disk =
                    |disk: &DiskXml| disk.is_written() && disk.path.as_ref() == Some(file);
                let top = match disks.iter().any(is_disk) {
                    true => looked_up.get(file)?,
                    false => looked_up.listed(file)?,
                };
                files.extend(looked_up.chain(top.as_ref())?);
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

/// Where a volume may be. A pool that nobody knows any more, or not yet, may have been any of those that are known.
fn places(pools: &[Pool], volume: &(String, String)) -> Vec<String> {
    match storage::place_of(pools, volume) {
        Some((_, path)) => vec![path],
        None => {
            let all = pools.iter().map(|pool| &pool.facts.path);
            let path = |directory: &String| xml::tidy_path(&format!("{directory}/{}", volume.1));
            all.filter(|directory| !directory.is_empty())
                .map(path)
                .collect()
        }
    }
}
