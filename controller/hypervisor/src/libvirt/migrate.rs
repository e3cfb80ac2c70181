//! The migration call and what its job tells.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use evenkeel_crds::{kinds::profile::Compression, quantity::Bytes};
use evenkeel_engine::port::{
    CompletedFacts, Endpoint, Fault, JobFacts, MigrateRequest, PortError, PortResult,
};
use uuid::Uuid;
use virt::{connect::Connect, domain::Domain, sys};

use super::{
    domain::{
        self,
        rewrite::{self, Definition},
    },
    fault::{Doing, OrFault, port_error},
    keys::Reach,
    leftover, link,
    raw::{self, Connection, Migration},
    uri::{self, HypervisorUri},
    worker::guarded,
};

const MIB: u64 = 1 << 20;
const KNOCK: Duration = Duration::from_secs(5);
/// How often it is asked whether the memory phase has begun.
const SPEED_PAUSE: Duration = Duration::from_millis(200);

/// Migrates over a connection of its own and returns when libvirt's call does.
///
/// Of its own, for the call takes one of the few requests that libvirtd serves a client at a time for as long as the
/// migration lasts.
pub(crate) fn migrate(source: &Reach, request: &MigrateRequest) -> PortResult<()> {
    let way = Way::of(request)?;
    link::knock(source, KNOCK)?;
    let connection = link::open(source)?;
    let there = request.direct.as_ref().map(open_target).transpose()?;
    let domain = domain::find(&connection, request.domain)?;
    let secret = sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_MIGRATABLE;
    let live = domain.xml_desc(secret).or_fault()?;
    let persistent = domain
        .xml_desc(secret | sys::VIR_DOMAIN_XML_INACTIVE)
        .or_fault()?;
    let form = match request.incremental {
        true => Definition::Layered,
        false => Definition::Live,
    };
    let live = rewrite::for_target(&live, form, &request.disks, &request.mark)?;
    let persistent = rewrite::for_target(
        &persistent,
        Definition::Persistent,
        &request.disks,
        &request.mark,
    )?;
    // QEMU keeps it for the migration that follows.
    let downtime = u64::try_from(request.downtime.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    domain.migrate_set_max_downtime(downtime, 0).or_fault()?;
    let share = request
        .bandwidth
        .map(|limit| limit.0.div_ceil(request.disks.len().max(1) as u64));
    let ended = Arc::new(AtomicBool::new(false));
    if let Some(limit) = request.bandwidth.filter(|_| request.disks.len() > 1) {
        let (source, uuid, ended) = (source.clone(), request.domain, ended.clone());
        // Without it the memory travels at a disk's share: slower, no worse.
        let _ = thread::Builder::new()
            .name(format!("ek-speed-{uuid}"))
            .spawn(move || guarded(|| speed_up(&source, uuid, limit, &ended)));
    }
    let migration = Migration {
        live_xml: Some(&live),
        persistent_xml: Some(&persistent),
        disks: request
            .disks
            .iter()
            .map(|disk| disk.target.as_str())
            .collect(),
        bandwidth: share.map(mib),
        compression: request.compression.method(),
        connections: (request.connections > 1).then_some(request.connections),
        direct: there.as_deref(),
        ..way.migration(request, flags(request))
    };
    let outcome = raw::migrate(&domain, &migration);
    ended.store(true, Ordering::Relaxed);
    outcome.map_err(|error| {
        let ended = ended_by(&connection, &error);
        if leftover::is_in_the_way(&ended.message) {
            make_way(&domain, ended)
        } else {
            ended
        }
    })
}

/// Removes what an earlier copy left in the guest's QEMU, so that the next attempt finds none of it.
fn make_way(domain: &Domain, ended: PortError) -> PortError {
    let outcome = match leftover::remove(domain) {
        Ok(names) => format!(
            "a libvirtd that died in an earlier copy had left it in the guest's QEMU; removed: {}",
            names.join(", ")
        ),
        Err(error) => format!(
            "a libvirtd that died in an earlier copy left it in the guest's QEMU, where it stays until the guest is shut down and started again: {}",
            error.message
        ),
    };
    PortError::new(ended.fault, format!("{}; {outcome}", ended.message))
}

/// Takes a broken post-copy up again, over a connection of its own. The target has all but memory.
pub(crate) fn recover(source: &Reach, request: &MigrateRequest) -> PortResult<()> {
    let way = Way::of(request)?;
    link::knock(source, KNOCK)?;
    let connection = link::open(source)?;
    let domain = domain::find(&connection, request.domain)?;
    let flags = flags(request) | sys::VIR_MIGRATE_POSTCOPY_RESUME;
    raw::migrate(&domain, &way.migration(request, flags))
        .map_err(|error| ended_by(&connection, &error))
}

/// A connection of our own to the target, where we drive.
fn open_target(target: &Endpoint) -> PortResult<Connection> {
    let uri = uri::check_uri(&target.uri, true)
        .map_err(|cause| PortError::new(Fault::Invalid, cause.message))?;
    let reach = Reach {
        uri,
        credentials: target.credentials.clone(),
    };
    let opened = link::knock(&reach, KNOCK).and_then(|()| link::open(&reach));
    opened.map_err(|error| PortError::new(Fault::PeerFailed, error.message))
}

/// How a migration gets to its target.
struct Way {
    target: HypervisorUri,
    target_uri: String,
    address: String,
}

impl Way {
    fn of(request: &MigrateRequest) -> PortResult<Self> {
        let invalid =
            |cause: evenkeel_crds::reason::Cause| PortError::new(Fault::Invalid, cause.message);
        // Whether plain TCP is allowed was decided where the Host was read.
        let target = uri::check_uri(&request.target_uri, true).map_err(invalid)?;
        // Left to itself, libvirt takes the target's own hostname, which need not lead anywhere.
        let address = match &request.target_address {
            Some(address) => uri::check_address(address).map_err(invalid)?,
            None => target.host().to_owned(),
        };
        Ok(Self {
            target_uri: target.for_libvirt(&[]),
            address: format!("tcp://{}", uri::bracketed(&address)),
            target,
        })
    }

    /// A migration that is told nothing but the way.
    fn migration(&self, request: &MigrateRequest, flags: u32) -> Migration<'_> {
        Migration {
            target_uri: &self.target_uri,
            direct: None,
            flags,
            address: &self.address,
            // Left to itself, libvirt expects the address in the certificate, and with several connections nothing sound.
            tls_destination: request.encrypted.then(|| self.target.host()),
            live_xml: None,
            persistent_xml: None,
            disks: Vec::new(),
            bandwidth: None,
            post_copy_bandwidth: request
                .bandwidth
                .filter(|_| request.post_copy)
                .map(|limit| mib(limit.0)),
            compression: None,
            connections: None,
        }
    }
}

/// Why libvirt's call ended.
fn ended_by(connection: &Connection, error: &virt::error::Error) -> PortError {
    let ended = port_error(Doing::Migrate, error);
    // The same words come from our own connection and from the one between the two hosts.
    if !connection.is_alive().unwrap_or(false) {
        PortError::new(Fault::Unreachable, ended.message)
    } else if ended.fault == Fault::Unreachable {
        PortError::new(Fault::PeerFailed, ended.message)
    } else {
        ended
    }
}

/// Whole MiB, at least one.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB).max(1)
}

/// Gives the memory the whole limit once the disks are through.
///
/// libvirt lets each disk have the limit for itself, so with several each is given its share; and what is set before
/// the memory phase begins is undone when it does.
fn speed_up(source: &Reach, uuid: Uuid, limit: Bytes, ended: &AtomicBool) -> PortResult<()> {
    let connection = link::open(source)?;
    let domain = domain::find(&connection, uuid)?;
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(SPEED_PAUSE);
        let Some((_, figures)) = stats(&domain, 0)? else {
            continue;
        };
        if job_facts(&figures).memory_total.0 > 0 {
            return domain.migrate_set_max_speed(mib(limit.0), 0).or_fault();
        }
    }
    Ok(())
}

fn flags(request: &MigrateRequest) -> u32 {
    let mut flags = sys::VIR_MIGRATE_LIVE
        | sys::VIR_MIGRATE_PERSIST_DEST
        | sys::VIR_MIGRATE_UNDEFINE_SOURCE
        | sys::VIR_MIGRATE_ABORT_ON_ERROR;
    if request.direct.is_none() {
        flags |= sys::VIR_MIGRATE_PEER2PEER;
    }
    if !request.disks.is_empty() {
        flags |= if request.incremental {
            sys::VIR_MIGRATE_NON_SHARED_INC
        } else {
            sys::VIR_MIGRATE_NON_SHARED_DISK
        };
    }
    if request.encrypted {
        flags |= sys::VIR_MIGRATE_TLS;
    }
    if request.auto_converge {
        flags |= sys::VIR_MIGRATE_AUTO_CONVERGE;
    }
    if request.compression != Compression::None {
        flags |= sys::VIR_MIGRATE_COMPRESSED;
    }
    if request.paused {
        flags |= sys::VIR_MIGRATE_PAUSED;
    }
    if request.post_copy {
        flags |= sys::VIR_MIGRATE_POSTCOPY;
    }
    if request.connections > 1 {
        flags |= sys::VIR_MIGRATE_PARALLEL;
    }
    flags
}

/// The running job, at the source.
pub(crate) fn job(connect: &Connect, uuid: Uuid) -> PortResult<Option<JobFacts>> {
    let Some(domain) = connect.lookup_domain_by_uuid(uuid).or_absent()? else {
        return Ok(None);
    };
    let Some((kind, figures)) = stats(&domain, 0)? else {
        return Ok(None);
    };
    Ok(domain::running(kind).then(|| job_facts(&figures)))
}

/// How fast a domain was found to write to its memory, in bytes per second; nothing while that is being measured.
pub(crate) fn dirtying(connect: &Connect, uuid: Uuid) -> PortResult<Option<Bytes>> {
    let figures = raw::dirty_rate(&domain::find(connect, uuid)?).or_fault()?;
    Ok(measured(&figures))
}

fn measured(figures: &BTreeMap<String, u64>) -> Option<Bytes> {
    let done = u64::from(sys::VIR_DOMAIN_DIRTYRATE_MEASURED);
    let rate = figures.get("dirtyrate.megabytes_per_second")?;
    (figures.get("dirtyrate.calc_status") == Some(&done)).then(|| Bytes(rate.saturating_mul(MIB)))
}

/// How often each disk was flushed by its guest since its QEMU was started.
pub(crate) fn flushes(connect: &Connect, uuid: Uuid) -> PortResult<BTreeMap<String, u64>> {
    let (numbers, names) = raw::block_figures(&domain::find(connect, uuid)?).or_fault()?;
    Ok(by_disk(&numbers, &names))
}

fn by_disk(
    numbers: &BTreeMap<String, u64>,
    names: &BTreeMap<String, String>,
) -> BTreeMap<String, u64> {
    let flushed = |(key, disk): (&String, &String)| {
        let number = key.strip_suffix(".name")?;
        Some((disk.clone(), *numbers.get(&format!("{number}.fl.reqs"))?))
    };
    names.iter().filter_map(flushed).collect()
}

/// The statistics of the last finished migration, at the target; they are kept.
pub(crate) fn completed(connect: &Connect, uuid: Uuid) -> PortResult<Option<CompletedFacts>> {
    let Some(domain) = connect.lookup_domain_by_uuid(uuid).or_absent()? else {
        return Ok(None);
    };
    let flags = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
    let Some((kind, figures)) = stats(&domain, flags)? else {
        return Ok(None);
    };
    Ok((kind.unsigned_abs() == sys::VIR_DOMAIN_JOB_COMPLETED).then(|| completed_facts(&figures)))
}

/// A domain's job statistics; nothing where it is not running or is the target's end.
fn stats(domain: &Domain, flags: u32) -> PortResult<Option<(i32, BTreeMap<String, u64>)>> {
    match raw::job(domain, flags).or_fault() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.message.contains("only on the source host") => Ok(None),
        Err(error) if matches!(error.fault, Fault::DomainStopped | Fault::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn job_facts(figures: &BTreeMap<String, u64>) -> JobFacts {
    let figure = |name: &str| figures.get(name).copied().unwrap_or(0);
    JobFacts {
        disk_done: Bytes(figure("disk_processed")),
        disk_total: Bytes(figure("disk_total")),
        disk_left: Bytes(figure("disk_remaining")),
        memory_done: Bytes(figure("memory_processed")),
        memory_total: Bytes(figure("memory_total")),
        memory_left: Bytes(figure("memory_remaining")),
        iteration: figure("memory_iteration"),
        // In pages per second, unlike everything else.
        dirty_rate: Bytes(
            figure("memory_dirty_rate").saturating_mul(figure("memory_page_size").max(4096)),
        ),
        throttle: u8::try_from(figure("auto_converge_throttle")).unwrap_or(100),
    }
}

fn completed_facts(figures: &BTreeMap<String, u64>) -> CompletedFacts {
    let figure = |name: &str| figures.get(name).copied().unwrap_or(0);
    CompletedFacts {
        downtime: figures.get("downtime").copied().map(Duration::from_millis),
        bytes: Bytes(figure("disk_processed").saturating_add(figure("memory_processed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn dirtying_is_told_in_pages() {
        let facts = job_facts(&figures(&[
            ("memory_dirty_rate", 10),
            ("memory_page_size", 4096),
        ]));
        assert_eq!(facts.dirty_rate, Bytes(40960));
    }

    #[test]
    fn dirtying_counts_once_it_is_measured() {
        let rate = ("dirtyrate.megabytes_per_second", 26);
        let found = |status| measured(&figures(&[("dirtyrate.calc_status", status), rate]));
        assert_eq!(
            (found(0), found(1), found(2)),
            (None, None, Some(Bytes(26 << 20)))
        );
    }

    #[test]
    fn flushes_are_told_disk_by_disk() {
        let numbers = figures(&[
            ("block.count", 3),
            ("block.0.fl.reqs", 4),
            ("block.1.rd.reqs", 9),
            ("block.2.fl.reqs", 0),
        ]);
        let name = |(key, disk): (&str, &str)| (key.to_owned(), disk.to_owned());
        let names = [
            ("block.0.name", "vda"),
            ("block.0.path", "/a"),
            ("block.1.name", "vdb"),
            ("block.2.name", "vdc"),
        ];
        let names = names.map(name).into();
        assert_eq!(
            by_disk(&numbers, &names),
            figures(&[("vda", 4), ("vdc", 0)])
        );
    }

    #[test]
    fn what_travelled_is_disks_and_memory() {
        let facts = completed_facts(&figures(&[
            ("downtime", 39),
            ("disk_processed", 5),
            ("memory_processed", 7),
        ]));
        assert_eq!(facts.downtime, Some(Duration::from_millis(39)));
        assert_eq!(facts.bytes, Bytes(12));
    }
}
