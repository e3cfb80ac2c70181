//! Domains: looking at them, and every small thing that is done to one.

mod allow;
mod defined;
pub(crate) mod description;
mod look;
pub(crate) mod metadata;
pub(crate) mod obstacles;
mod references;
pub(crate) mod rewrite;
mod state;
mod volumes;

use evenkeel_engine::port::{DiskPlace, Fault, LastMove, Mark, PortResult, ShutdownMark};
use uuid::Uuid;
use virt::{connect::Connect, domain::Domain, sys};

use self::metadata::Change;
pub(crate) use self::{
    look::{glance, look, look_at_all, running},
    references::references,
};
use super::fault::OrFault;

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

/// Sets or removes what tells of a shutdown for a drain.
pub(crate) fn set_shutdown_mark(
    connect: &Connect,
    uuid: Uuid,
    mark: Option<&ShutdownMark>,
) -> PortResult<()> {
    change_metadata(connect, uuid, &Change::Shutdown(mark))
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

/// The persistent definition, secrets included.
pub(crate) fn definition(connect: &Connect, uuid: Uuid) -> PortResult<String> {
    find(connect, uuid)?
        .xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)
        .or_fault()
}

/// Defines a domain, as it was but for the places of its disks and its mark.
pub(crate) fn define(
    connect: &Connect,
    definition: &str,
    disks: &[DiskPlace],
    mark: Option<&Mark>,
) -> PortResult<()> {
    let here = match mark {
        None => definition.to_owned(),
        Some(mark) => {
            rewrite::for_target(definition, rewrite::Definition::Persistent, disks, mark)?
        }
    };
    connect.define_domain_xml(&here).or_fault().map(drop)
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
