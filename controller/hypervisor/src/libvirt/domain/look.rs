//! Looking at a domain.
//!
//! A look asks libvirt only what it answers without waiting for QEMU, so that evidence is to be had even of a guest
//! that hangs. Sizes of disks come from their volumes, not from QEMU. The questions that go to QEMU, whether a job runs
//! and what its agent knows, are asked in a lane of their own; no answer about a job counts as "a job".

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    Activity, CpuNeed, DiskFacts, DomainFacts, Fault, Glance, InterfaceSource, Layer, PortError,
    PortResult, Why,
};
use roxmltree::Node;
use uuid::Uuid;
use virt::{domain::Domain, sys};

use super::{
    defined,
    description::{self, Description, DiskXml},
    metadata, obstacles, state,
    volumes::{self, Volumes},
};
use crate::libvirt::{
    directories,
    fault::OrFault,
    raw::{self, Connection},
    refreshes::Freshness,
    secrets,
    session::Session,
    storage::Pool,
    xml,
};

/// How long QEMU may take to say whether a job runs.
const PROBE: Duration = Duration::from_millis(1500);

/// One domain; nothing where the host has none of that UUID.
pub(crate) fn look(
    session: &Arc<Session>,
    connection: &Connection,
    uuid: Uuid,
) -> PortResult<Option<DomainFacts>> {
    let Some(domain) = connection.lookup_domain_by_uuid(uuid).or_absent()? else {
        return Ok(None);
    };
    let pools = session.storage(connection).pools(Freshness::AsListed)?;
    Looker::new(session, connection, &pools).look(&domain)
}

/// The same, only what evidence needs.
pub(crate) fn glance(
    session: &Arc<Session>,
    connection: &Connection,
    uuid: Uuid,
) -> PortResult<Option<Glance>> {
    let Some(domain) = connection.lookup_domain_by_uuid(uuid).or_absent()? else {
        return Ok(None);
    };
    match try_glance(session, connection, &domain, uuid) {
        Err(error) if error.fault == Fault::NotFound => Ok(None),
        seen => seen.map(Some),
    }
}

fn try_glance(
    session: &Arc<Session>,
    connection: &Connection,
    domain: &Domain,
    uuid: Uuid,
) -> PortResult<Glance> {
    let standing = Standing::of(domain)?;
    let live_text = domain.xml_desc(0).or_fault()?;
    let document = xml::parse(&live_text)?;
    let live = document.root_element();
    let mut mark = metadata::ours(live).mark;
    if mark.is_none()
        && standing.persistent
        && standing.activity.active()
        && let Some(text) = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).or_absent()?
    {
        mark = metadata::ours(xml::parse(&text)?.root_element()).mark;
    }
    let job = standing.outgoing()
        && session
            .probe(PROBE, move |connection| {
                has_job(&connection.lookup_domain_by_uuid(uuid).or_fault()?)
            })
            .unwrap_or_else(|error| silence_is_a_job(&error));
    let mut disks = description::describe(live)?.disks;
    if disks.iter().any(|disk| disk.volume.is_some()) {
        let pools = session.storage(connection).pools(Freshness::AsListed)?;
        volumes::locate(&mut disks, &pools);
    }
    Ok(Glance {
        activity: standing.activity,
        why: standing.why,
        persistent: standing.persistent,
        job,
        mark,
        disks: disks.into_iter().filter_map(|disk| disk.path).collect(),
    })
}

/// What a domain does, read before its XML: one that stopped in between is caught by the event that told so.
struct Standing {
    persistent: bool,
    activity: Activity,
    why: Why,
}

impl Standing {
    fn of(domain: &Domain) -> PortResult<Self> {
        let persistent = domain.is_persistent().or_fault()?;
        let (number, reason) = raw::state(domain).or_fault()?;
        let (activity, why) = state::activity(number.unsigned_abs(), reason.unsigned_abs());
        Ok(Self {
            persistent,
            activity,
            why,
        })
    }

    /// Whether a job of libvirt's may run here on its way out. The target's end of a migration shows none: nothing
    /// else is transient and `paused (migrating)`.
    fn outgoing(&self) -> bool {
        let incoming =
            self.activity == Activity::Paused && self.why == Why::Migrating && !self.persistent;
        self.activity.active() && self.why != Why::StartingUp && !incoming
    }
}

/// Where QEMU does not say in time, somebody holds it: that is a job to us.
fn silence_is_a_job(error: &PortError) -> bool {
    matches!(error.fault, Fault::TimedOut | Fault::Busy)
}

/// Every domain.
pub(crate) fn look_at_all(
    session: &Arc<Session>,
    connection: &Connection,
    pools: &[Pool],
) -> PortResult<Vec<DomainFacts>> {
    let looker = Looker::new(session, connection, pools);
    let mut found = Vec::new();
    for domain in connection.list_all_domains(0).or_fault()? {
        found.extend(looker.look(&domain)?);
    }
    Ok(found)
}

struct Looker<'a> {
    session: &'a Arc<Session>,
    connection: &'a Connection,
    pools: &'a [Pool],
    volumes: Volumes<'a>,
}

impl<'a> Looker<'a> {
    fn new(session: &'a Arc<Session>, connection: &'a Connection, pools: &'a [Pool]) -> Self {
        Self {
            session,
            connection,
            pools,
            volumes: Volumes::new(session.storage(connection), pools),
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
        let standing = Standing::of(domain)?;
        let outgoing = standing.outgoing();
        let Standing {
            persistent,
            activity,
            why,
        } = standing;
        let live_text = domain.xml_desc(0).or_fault()?;
        let defined_text = match persistent && activity.active() {
            true => domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).or_absent()?,
            false => None,
        };
        let live_document = xml::parse(&live_text)?;
        let live = live_document.root_element();
        let defined_document = defined_text.as_deref().map(xml::parse).transpose()?;
        let definition = defined_document
            .as_ref()
            .map(|document| document.root_element());

        let mut description = self.describe(live)?;
        let ours = metadata::ours(live);
        let ours_defined = definition
            .map(metadata::ours)
            .unwrap_or_else(|| ours.clone());
        let others = metadata::others(live);

        let mut obstacles = obstacles::in_xml(live);
        let mut disks = Vec::new();
        for disk in &description.disks {
            let facts = self.disk(domain, activity, disk)?;
            obstacles.extend(obstacles::of_disk(disk, &facts));
            if let Some(id) = disk.secret {
                let secret = match secrets::read(self.connection, id) {
                    Err(error) if matches!(error.fault, Fault::Unreachable | Fault::TimedOut) => {
                        return Err(error);
                    }
                    // Whatever else it is: it can't be carried.
                    read => read.ok().flatten(),
                };
                obstacles.extend(obstacles::of_secret(&disk.target, id, secret.as_ref()));
            }
            disks.push(facts);
        }
        let mut cpu = description.cpu;
        if let Some(definition) = definition {
            let described = self.describe(definition)?;
            // Where it runs, host-model stands there resolved.
            if described.cpu == CpuNeed::SameAsHost {
                cpu = CpuNeed::SameAsHost;
            }
            let (runs, stands) = ((live, &description), (definition, &described));
            obstacles.extend(defined::obstacles(runs, stands));
            for facts in &mut disks {
                let mut all = described.disks.iter();
                let named = |disk: &DiskXml| disk.target == facts.target && disk.volume.is_some();
                facts.named |= all.any(named);
            }
            let files = defined::files(&description, &described);
            let interfaces = defined::interfaces(&description, &described);
            description.files.extend(files);
            description.interfaces.extend(interfaces);
        }
        obstacles.extend(obstacles::of_snapshots(domain.num_snapshots(0).or_fault()?));
        match raw::checkpoints(domain).or_fault() {
            Ok(count) => obstacles.extend(obstacles::of_checkpoints(count)),
            // A hypervisor that knows no checkpoints has none.
            Err(error) if error.fault == Fault::Unsupported => {}
            Err(error) => return Err(error),
        }
        if persistent && !activity.active() {
            let saved = domain.has_managed_save(0).or_fault()?;
            obstacles.extend(obstacles::of_saved_state(saved));
            obstacles.extend(obstacles::of_stopped(live));
        }

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
            shutdown_mark: ours_defined.shutdown_mark.or(ours.shutdown_mark),
        })
    }

    /// A definition, with the files of disks that it gives by pool and volume.
    fn describe(&self, domain: Node<'_, '_>) -> PortResult<Description> {
        let mut description = description::describe(domain)?;
        volumes::locate(&mut description.disks, self.pools);
        Ok(description)
    }

    fn disk(&self, domain: &Domain, activity: Activity, disk: &DiskXml) -> PortResult<DiskFacts> {
        let mut facts = DiskFacts {
            target: disk.target.clone(),
            device: disk.device,
            path: disk.path.clone(),
            format: disk.format.clone(),
            virtual_size: Bytes(0),
            allocated: Bytes(0),
            pool: None,
            volume: None,
            named: disk.volume.is_some(),
            backing: disk.layers(),
            readonly: disk.readonly,
            shared: disk.networked,
            secret: disk.secret,
        };
        let Some(path) = &disk.path else {
            return Ok(facts);
        };
        let top = match disk.is_written() {
            true => self.volumes.get(path)?,
            false => self.volumes.listed(path)?,
        };
        if let Some((pool, name)) = self
            .volumes
            .named(disk)
            .or_else(|| self.volumes.owner(path))
            && (top.is_some() || !name.contains('/'))
        {
            facts.pool = Some(pool.facts.name.clone());
            facts.volume = Some(name.to_owned());
            facts.shared |= pool.facts.shared;
        } else if top.is_some()
            && let Some((directory, name)) = directories::split(path)
        {
            facts.pool = Some(directory.to_owned());
            facts.volume = Some(name.to_owned());
        }
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
            let chain = self.volumes.chain(top.as_ref())?.into_iter();
            facts.backing = chain.map(Layer::new).collect();
        }
        for layer in &mut facts.backing {
            if let Some(seen) = self.volumes.get(&layer.path)? {
                layer.allocated = seen.allocated;
            }
        }
        Ok(facts)
    }

    /// Whether jobs run on it.
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
            job: silence_is_a_job(&error),
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
