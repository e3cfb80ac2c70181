//! What must be true of a lab after anything happened, asked of the hosts themselves and never of Evenkeel.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::lab::{DiskReport, Guest, GuestCopy, Host, Lab};

/// The namespace of Evenkeel's element in a domain's metadata.
const ELEMENT: &str = "https://evenkeel.dev/xml/1";

/// Every guest runs exactly once, of one boot, without a gap in its counter; its disks are whole where it runs.
///
/// # Errors
/// Fails with the first guest that is not so.
pub fn all_is_well(lab: &Lab) -> Result<()> {
    for guest in lab.guests() {
        let host = guest.host()?;
        let counting = guest.counting_on(Duration::from_millis(700))?;
        ensure!(
            counting.iter().map(String::as_str).eq([host.name()]),
            "{} counts on {counting:?} and runs on {}",
            guest.name(),
            host.name()
        );
        let continuity = guest.continuity()?;
        ensure!(continuity.is_unbroken(), "{}: {continuity:?}", guest.name());
        if let Some(report) = once_and_whole(&guest)?.first() {
            ensure!(report.is_intact(), "{}: {report:?}", guest.name());
        }
    }
    Ok(())
}

/// One guest: one QEMU, on the host where it runs, which alone defines it; every disk's data as it was made. Its disks'
/// reports, in their order.
///
/// # Errors
/// Fails with what is not so.
pub fn once_and_whole(guest: &Guest<'_>) -> Result<Vec<DiskReport>> {
    once(guest)?;
    whole(guest)
}

/// One guest: one QEMU, on the host where it runs, which alone defines it.
///
/// # Errors
/// Fails with what is not so.
pub fn once(guest: &Guest<'_>) -> Result<()> {
    is_once(guest.name(), &guest.copies()?)
}

/// The same, of what is known already: every copy of the guest that a host has.
///
/// # Errors
/// Fails where it is not so.
pub fn is_once(guest: &str, copies: &[GuestCopy]) -> Result<()> {
    match copies {
        [copy] if copy.is_running() && copy.qemu.is_some() => Ok(()),
        copies => bail!("{guest} does not run exactly once: {copies:?}"),
    }
}

/// One guest: every disk's data, where it runs, is as it was made. Its disks' reports, in their order.
///
/// # Errors
/// Fails with what is not so.
pub fn whole(guest: &Guest<'_>) -> Result<Vec<DiskReport>> {
    let host = guest.host()?;
    guest
        .spec()
        .targets()
        .map(|target| {
            let report = guest.disk_report(&host, &target)?;
            ensure!(
                report.first_difference.is_none(),
                "{} {target}: {report:?}",
                guest.name()
            );
            Ok(report)
        })
        .collect()
}

/// No file in any pool that no guest uses, no journal, no claim, no pool of Evenkeel's own; of each guest no job and no
/// mark, and it starts with its host as it was made to.
///
/// # Errors
/// Fails with what is left.
pub fn nothing_is_left(lab: &Lab) -> Result<()> {
    let census = lab.census()?;
    let mut used = Vec::new();
    for host in lab.hosts() {
        for guest in lab.guests() {
            let mut copies = census[guest.name()].iter();
            if copies.any(|copy| copy.host == host.name() && copy.state.is_some()) {
                for target in guest.spec().targets() {
                    used.push((host.name().to_owned(), guest.disk_path(&host, &target)?));
                }
                no_trace_on(&guest, &host)?;
            }
        }
    }
    for host in lab.hosts() {
        for file in host.list_files()? {
            let shared = host.shares(&file.pool);
            let mut users = used.iter().filter(|(_, path)| *path == file.path);
            ensure!(
                users.any(|(user, _)| shared || user == host.name()) || file.path.contains("base"),
                "{} has {} which no guest there uses",
                host.name(),
                file.path
            );
        }
        let secrets = host.virsh(&["secret-list"])?;
        ensure!(
            !secrets.contains("evenkeel"),
            "{} is still claimed: {secrets}",
            host.name()
        );
        let pools = host.virsh(&["pool-list", "--all", "--name"])?;
        ensure!(
            !pools.contains("evenkeel"),
            "{} has a pool that was opened for a while: {pools}",
            host.name()
        );
    }
    Ok(())
}

/// The same, soon: claims are given back a moment after the last move.
///
/// # Errors
/// Fails with what is left after so long.
pub fn nothing_is_left_within(lab: &Lab, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        match nothing_is_left(lab) {
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(500)),
            answer => return answer,
        }
    }
}

/// A guest where it is: no job, no mark of a move, autostart as it was made.
fn no_trace_on(guest: &Guest<'_>, host: &Host<'_>) -> Result<()> {
    let (name, uuid) = (guest.name(), guest.uuid());
    // Fails for one that is not running.
    let job = host.virsh(&["domjobinfo", uuid]).unwrap_or_default();
    ensure!(
        job.is_empty() || job.contains("None"),
        "{name} has a job on {}: {job}",
        host.name()
    );
    let facts = host.virsh(&["dominfo", uuid])?;
    let field = |name: &str| {
        let line = facts.lines().find(|line| line.starts_with(name));
        line.is_some_and(|line| line.ends_with("enable"))
    };
    ensure!(
        field("Autostart:") == guest.spec().autostart,
        "{name} was made with autostart {}, and on {} it is: {facts}",
        guest.spec().autostart,
        host.name()
    );
    for copy in ["--current", "--config"] {
        // Fails where the guest has no such element.
        let ours = host.virsh(&["metadata", uuid, "--uri", ELEMENT, copy]);
        let ours = ours.unwrap_or_default();
        ensure!(
            !ours.contains("<move") && !ours.contains(":move"),
            "{name} is still marked on {}: {ours}",
            host.name()
        );
    }
    Ok(())
}
