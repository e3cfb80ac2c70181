//! Domains: looking at them, and every small thing that is done to one.
//!
//! A look asks libvirt only what it answers without waiting for QEMU, so that evidence is to be had even of a guest
//! that hangs. Sizes of disks come from their volumes, not from QEMU. The one question that goes to QEMU, whether a
//! job runs, is asked in a lane of its own; no answer counts as "a job".

mod allow;
mod description;
pub(crate) mod metadata;
mod obstacles;
pub(crate) mod rewrite;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    Activity, CpuNeed, DiskFacts, DomainFacts, Fault, InterfaceSource, LastMove, Mark, PortError,
    PortResult, Why,
};
use uuid::Uuid;
use virt::{connect::Connect, domain::Domain, sys};

use self::{
    description::{Description, DiskXml},
    metadata::Change,
};
use super::{
    fault::OrFault,
    raw::{self, Connection},
    session::Session,
    storage::{self, Freshness, Pool},
    xml,
};

/// How long QEMU may take to say whether a job runs.
const PROBE: Duration = Duration::from_millis(1500);
/// A chain longer than this is a circle.
const CHAIN: usize = 64;

/// One domain; nothing where the host has none of that UUID.
pub(crate) fn look(
    session: &Arc<Session>,
    connection: &Connection,
    uuid: Uuid,
) -> PortResult<Option<DomainFacts>> {
    let Some(domain) = connection.lookup_domain_by_uuid(uuid).or_absent()? else {
        return Ok(None);
    };
    let pools = storage::pools(connection, Freshness::AsListed)?;
    Looker::new(session, &pools).look(&domain)
}

/// Every domain.
pub(crate) fn look_at_all(
    session: &Arc<Session>,
    connection: &Connection,
    pools: &[Pool],
) -> PortResult<Vec<DomainFacts>> {
    let looker = Looker::new(session, pools);
    let mut found = Vec::new();
    for domain in connection.list_all_domains(0).or_fault()? {
        found.extend(looker.look(&domain)?);
    }
    Ok(found)
}

/// What a volume's description says, read once per look.
#[derive(Debug, Clone)]
struct Seen {
    capacity: Bytes,
    allocated: Bytes,
    backing: Option<String>,
}

struct Looker<'a> {
    session: &'a Arc<Session>,
    pools: &'a [Pool],
    volumes: RefCell<HashMap<String, Option<Seen>>>,
    refreshed: RefCell<BTreeSet<String>>,
}

impl<'a> Looker<'a> {
    fn new(session: &'a Arc<Session>, pools: &'a [Pool]) -> Self {
        Self {
            session,
            pools,
            volumes: RefCell::default(),
            refreshed: RefCell::default(),
        }
    }

    /// Nothing where the domain went away while it was looked at.
    fn look(&self, domain: &Domain) -> PortResult<Option<DomainFacts>> {
        match self.try_look(domain) {
            Err(error) if error.fault == Fault::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn try_look(&self, domain: &Domain) -> PortResult<DomainFacts> {
        let uuid = domain.uuid().or_fault()?;
        let persistent = domain.is_persistent().or_fault()?;
        let (state, reason) = raw::state(domain).or_fault()?;
        let (activity, why) = activity(state.unsigned_abs(), reason.unsigned_abs());
        let live_text = domain.xml_desc(0).or_fault()?;
        // Read after the state: a domain that stopped in between is caught by the event that told so.
        let defined_text = match persistent && activity.active() {
            true => domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).or_absent()?,
            false => None,
        };
        let live_document = xml::parse(&live_text)?;
        let live = live_document.root_element();
        let defined_document = defined_text.as_deref().map(xml::parse).transpose()?;
        let defined = defined_document
            .as_ref()
            .map(|document| document.root_element());

        let description = description::describe(live)?;
        let ours = metadata::ours(live);
        let ours_defined = defined.map(metadata::ours).unwrap_or_else(|| ours.clone());
        let others = metadata::others(live);

        let mut obstacles = obstacles::in_xml(live);
        let mut disks = Vec::new();
        for disk in &description.disks {
            let facts = self.disk(domain, activity, disk)?;
            obstacles.extend(obstacles::of_disk(disk, &facts));
            disks.push(facts);
        }
        let mut cpu = description.cpu;
        if let Some(defined) = defined {
            let defined = description::describe(defined)?;
            // Where it runs, host-model stands there resolved.
            if defined.cpu == CpuNeed::SameAsHost {
                cpu = CpuNeed::SameAsHost;
            }
            obstacles.extend(obstacles::of_definition(&description.disks, &defined.disks));
        }
        obstacles.extend(obstacles::of_snapshots(domain.num_snapshots(0).or_fault()?));

        let outgoing =
            activity.active() && why != Why::StartingUp && !incoming(activity, why, persistent);
        let jobs = if outgoing {
            self.jobs(domain, &description)
        } else {
            Jobs::default()
        };
        let Description {
            name,
            vcpus,
            memory,
            memory_overhead,
            disks: _,
            mut interfaces,
            files,
            cpu: _,
            emulator,
            machine,
            agent,
        } = description;
        let leased = interfaces
            .iter()
            .any(|interface| matches!(interface.source, InterfaceSource::Network(_)));
        if activity == Activity::Running {
            let mut known = if leased {
                addresses(domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
            } else {
                BTreeMap::new()
            };
            if agent && !jobs.job {
                for (mac, mut found) in self.agent_addresses(domain) {
                    known.entry(mac).or_insert_with(Vec::new).append(&mut found);
                }
            }
            for interface in &mut interfaces {
                let mut found = known.remove(&interface.mac).unwrap_or_default();
                found.sort();
                found.dedup();
                interface.addresses = found;
            }
        }
        Ok(DomainFacts {
            uuid,
            name,
            activity,
            why,
            persistent,
            autostart: domain.autostart().or_fault()?,
            vcpus,
            memory,
            memory_overhead,
            disks,
            interfaces,
            files,
            created: metadata::created(&others),
            metadata: others,
            labels: match ours.labels.is_empty() {
                true => ours_defined.labels,
                false => ours.labels.clone(),
            },
            managed_by: metadata::manager(live, &ours).or_else(|| {
                ours_defined
                    .elsewhere
                    .then(|| "its own metadata".to_owned())
            }),
            obstacles,
            cpu,
            emulator,
            machine,
            job: jobs.job,
            block_job: jobs.block_job,
            mark: ours.mark.or(ours_defined.mark),
            last_move: ours_defined.last_move.or(ours.last_move),
        })
    }

    fn disk(&self, domain: &Domain, activity: Activity, disk: &DiskXml) -> PortResult<DiskFacts> {
        let mut facts = DiskFacts {
            target: disk.target.clone(),
            device: disk.device,
            path: disk.path.clone(),
            format: disk.format.clone(),
            virtual_size: Bytes(0),
            allocated: Bytes(0),
            chain_allocated: Bytes(0),
            pool: None,
            volume: None,
            backing: disk.backing.clone(),
            readonly: disk.readonly,
            shared: disk.networked,
        };
        let Some(path) = &disk.path else {
            return Ok(facts);
        };
        if let Some((pool, name)) = storage::owner(self.pools, path) {
            facts.pool = Some(pool.facts.name.clone());
            facts.volume = Some(name.to_owned());
            facts.shared |= pool.facts.shared;
        }
        let top = self.volume(path)?;
        match &top {
            Some(seen) => {
                facts.virtual_size = seen.capacity;
                facts.allocated = seen.allocated;
            }
            // In no pool: the driver can tell as long as it does not have to ask QEMU.
            None if !activity.active() => {
                if let Ok((capacity, allocated)) = raw::block_info(domain, &disk.target) {
                    facts.virtual_size = Bytes(capacity);
                    facts.allocated = Bytes(allocated);
                }
            }
            None => {}
        }
        if !disk.chain_complete && disk.format != "raw" {
            facts.backing = self.chain(top.as_ref())?;
        }
        facts.chain_allocated = facts.allocated;
        for file in &facts.backing {
            if let Some(seen) = self.volume(file)? {
                facts.chain_allocated.0 = facts.chain_allocated.0.saturating_add(seen.allocated.0);
            }
        }
        Ok(facts)
    }

    /// The backing files below a volume, nearest first.
    fn chain(&self, top: Option<&Seen>) -> PortResult<Vec<String>> {
        let mut files = Vec::new();
        let mut next = top.and_then(|seen| seen.backing.clone());
        while let Some(file) = next.take() {
            if files.contains(&file) || files.len() >= CHAIN {
                break;
            }
            next = self.volume(&file)?.and_then(|seen| seen.backing);
            files.push(file);
        }
        Ok(files)
    }

    /// A file as its volume describes it. A pool that does not know it is refreshed, once.
    fn volume(&self, path: &str) -> PortResult<Option<Seen>> {
        if let Some(seen) = self.volumes.borrow().get(path) {
            return Ok(seen.clone());
        }
        let seen = match storage::owner(self.pools, path) {
            None => None,
            Some((pool, name)) => {
                let mut volume = pool.lookup(name)?;
                if volume.is_none() && self.refreshed.borrow_mut().insert(pool.facts.name.clone()) {
                    // Busy, mostly; then it is not known this time.
                    let _ = pool.refresh();
                    volume = pool.lookup(name)?;
                }
                match volume {
                    None => None,
                    Some(volume) => volume
                        .info()
                        .or_absent()?
                        .map(|info| {
                            Ok::<_, PortError>(Seen {
                                capacity: Bytes(info.capacity),
                                allocated: Bytes(info.allocation),
                                backing: storage::backing_of(&volume)?
                                    .map(|file| xml::tidy_path(&file)),
                            })
                        })
                        .transpose()?,
                }
            }
        };
        self.volumes
            .borrow_mut()
            .insert(path.to_owned(), seen.clone());
        Ok(seen)
    }

    /// Whether jobs run on it. Where QEMU does not say in time, somebody holds it: that is a job to us.
    fn jobs(&self, domain: &Domain, description: &Description) -> Jobs {
        let block_job = description.disks.iter().any(|disk| disk.mirrored);
        let disks: Vec<String> = description
            .disks
            .iter()
            .filter(|disk| disk.path.is_some() && !disk.readonly)
            .map(|disk| disk.target.clone())
            .collect();
        let Ok(uuid) = domain.uuid() else {
            return Jobs::default();
        };
        self.probe(move |connection| {
            let domain = connection.lookup_domain_by_uuid(uuid).or_fault()?;
            if has_job(&domain)? {
                return Ok(Jobs {
                    job: true,
                    block_job,
                });
            }
            let mut jobs = Jobs {
                job: false,
                block_job,
            };
            for disk in disks {
                jobs.block_job |= raw::has_block_job(&domain, &disk).or_fault()?;
            }
            Ok(jobs)
        })
        .unwrap_or_else(|error| Jobs {
            job: matches!(error.fault, Fault::TimedOut | Fault::Busy),
            block_job,
        })
    }

    fn agent_addresses(&self, domain: &Domain) -> BTreeMap<String, Vec<String>> {
        let Ok(uuid) = domain.uuid() else {
            return BTreeMap::new();
        };
        self.probe(move |connection| {
            let domain = connection.lookup_domain_by_uuid(uuid).or_fault()?;
            Ok(addresses(
                &domain,
                sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
            ))
        })
        .unwrap_or_default()
    }

    fn probe<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        self.session.probe(PROBE, question)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Jobs {
    job: bool,
    block_job: bool,
}

/// Whether a job runs on a domain, seen from its outgoing side.
fn has_job(domain: &Domain) -> PortResult<bool> {
    match raw::job(domain, 0).or_fault() {
        Ok((kind, _)) => Ok(running(kind)),
        Err(error) if error.fault == Fault::DomainStopped => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a job of this type is under way.
pub(crate) fn running(kind: i32) -> bool {
    matches!(
        kind.unsigned_abs(),
        sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED
    )
}

/// Whether this is the target's end of a migration: nothing else is transient and `paused (migrating)`.
fn incoming(activity: Activity, why: Why, persistent: bool) -> bool {
    activity == Activity::Paused && why == Why::Migrating && !persistent
}

/// Addresses without loopback and link-local ones; nothing where nobody tells.
fn addresses(domain: &Domain, source: u32) -> BTreeMap<String, Vec<String>> {
    let mut found = raw::addresses(domain, source).unwrap_or_default();
    for addresses in found.values_mut() {
        addresses.retain(|address| {
            !address.to_ascii_lowercase().starts_with("fe80:") && !address.starts_with("127.")
        });
    }
    found
}

fn activity(state: u32, reason: u32) -> (Activity, Why) {
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED | sys::VIR_DOMAIN_NOSTATE => (
            Activity::Running,
            match reason {
                sys::VIR_DOMAIN_RUNNING_MIGRATED | sys::VIR_DOMAIN_RUNNING_POSTCOPY => {
                    Why::Migrated
                }
                sys::VIR_DOMAIN_RUNNING_MIGRATION_CANCELED => Why::MigrationCanceled,
                sys::VIR_DOMAIN_RUNNING_UNPAUSED => Why::Unpaused,
                sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED => Why::PostcopyFailed,
                _ => Why::Other,
            },
        ),
        sys::VIR_DOMAIN_PAUSED => match reason {
            sys::VIR_DOMAIN_PAUSED_USER => (Activity::Paused, Why::ByUser),
            sys::VIR_DOMAIN_PAUSED_MIGRATION | sys::VIR_DOMAIN_PAUSED_POSTCOPY => {
                (Activity::Paused, Why::Migrating)
            }
            sys::VIR_DOMAIN_PAUSED_IOERROR => (Activity::Paused, Why::IoError),
            sys::VIR_DOMAIN_PAUSED_STARTING_UP => (Activity::Paused, Why::StartingUp),
            sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED => (Activity::Paused, Why::PostcopyFailed),
            sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => (Activity::ShuttingDown, Why::Other),
            _ => (Activity::Paused, Why::Other),
        },
        sys::VIR_DOMAIN_SHUTDOWN => (Activity::ShuttingDown, Why::Other),
        sys::VIR_DOMAIN_PMSUSPENDED => (Activity::Suspended, Why::Other),
        sys::VIR_DOMAIN_CRASHED => (Activity::Crashed, Why::Other),
        _ => match reason {
            sys::VIR_DOMAIN_SHUTOFF_CRASHED => (Activity::Crashed, Why::Other),
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => (Activity::ShutOff, Why::Shutdown),
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => (Activity::ShutOff, Why::Destroyed),
            sys::VIR_DOMAIN_SHUTOFF_MIGRATED => (Activity::ShutOff, Why::LeftByMigration),
            sys::VIR_DOMAIN_SHUTOFF_FAILED | sys::VIR_DOMAIN_SHUTOFF_DAEMON => {
                (Activity::ShutOff, Why::Failed)
            }
            _ => (Activity::ShutOff, Why::Other),
        },
    }
}

/// For each file that any domain names, who. Whole chains; what the XML leaves open is read from the volumes.
pub(crate) fn references(
    session: &Arc<Session>,
    connection: &Connection,
    except: Option<Uuid>,
) -> PortResult<BTreeMap<String, Vec<String>>> {
    let pools = storage::pools(connection, Freshness::Refreshed)?;
    let looker = Looker::new(session, &pools);
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for domain in connection.list_all_domains(0).or_fault()? {
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
            for disk in description::describe(root)?.disks {
                if let Some((pool, volume)) = &disk.volume
                    && let Some(pool) = pools.iter().find(|known| known.facts.name == *pool)
                {
                    files.push(xml::tidy_path(&format!("{}/{volume}", pool.facts.path)));
                }
            }
            for file in &files.clone() {
                let top = looker.volume(file)?;
                files.extend(looker.chain(top.as_ref())?);
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

// ---- small acts ----

/// The domain, which has to be there.
pub(crate) fn find(connect: &Connect, uuid: Uuid) -> PortResult<Domain> {
    connect.lookup_domain_by_uuid(uuid).or_fault()
}

/// Sets or removes the mark.
pub(crate) fn set_mark(connect: &Connect, uuid: Uuid, mark: Option<&Mark>) -> PortResult<()> {
    change_metadata(connect, uuid, &Change::Mark(mark))
}

/// Removes the mark and records the finished move.
pub(crate) fn set_last_move(connect: &Connect, uuid: Uuid, last: &LastMove) -> PortResult<()> {
    change_metadata(connect, uuid, &Change::LastMove(last))
}

/// Changes our element in the persistent definition, then in the live one: each has its own other children.
fn change_metadata(connect: &Connect, uuid: Uuid, change: &Change<'_>) -> PortResult<()> {
    let domain = find(connect, uuid)?;
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    let mut wanted = Vec::new();
    if domain.is_persistent().or_fault()? {
        wanted.push(sys::VIR_DOMAIN_AFFECT_CONFIG);
    }
    if domain.is_active().or_fault()? {
        wanted.push(sys::VIR_DOMAIN_AFFECT_LIVE);
    }
    for flags in wanted {
        let present = domain
            .metadata(kind, Some(metadata::NAMESPACE), flags)
            .or_absent()?;
        let next = metadata::changed(present.as_deref(), change)?;
        if next.is_none() && present.is_none() {
            continue;
        }
        domain
            .set_metadata(
                kind,
                next.as_deref(),
                Some(metadata::PREFIX),
                Some(metadata::NAMESPACE),
                flags,
            )
            .or_fault()?;
    }
    Ok(())
}

/// Removes the persistent definition; every file stays.
pub(crate) fn undefine(connect: &Connect, uuid: Uuid) -> PortResult<()> {
    let domain = find(connect, uuid)?;
    let keep = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
    match domain
        .undefine_flags(keep | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM)
        .or_fault()
    {
        // libvirt before 8.9 does not know the second flag, and has nothing to keep by it.
        Err(error) if matches!(error.fault, Fault::Invalid | Fault::Unsupported) => {
            domain.undefine_flags(keep).or_fault()
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_evidence_depends_on() {
        for (state, reason, expected) in [
            (1, 1, (Activity::Running, Why::Other)),
            (1, 2, (Activity::Running, Why::Migrated)),
            (1, 5, (Activity::Running, Why::Unpaused)),
            (1, 6, (Activity::Running, Why::MigrationCanceled)),
            (3, 1, (Activity::Paused, Why::ByUser)),
            (3, 2, (Activity::Paused, Why::Migrating)),
            (3, 5, (Activity::Paused, Why::IoError)),
            (3, 11, (Activity::Paused, Why::StartingUp)),
            (5, 3, (Activity::Crashed, Why::Other)),
            (5, 4, (Activity::ShutOff, Why::LeftByMigration)),
            (5, 8, (Activity::ShutOff, Why::Failed)),
            (6, 0, (Activity::Crashed, Why::Other)),
        ] {
            assert_eq!(activity(state, reason), expected, "{state} {reason}");
        }
    }
}
