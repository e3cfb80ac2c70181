//! A simulated host's state in the port's words.

use std::collections::BTreeMap;

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    Activity, DiskDevice, DiskFacts, DomainFacts, FileFacts, HostFacts, Layer, Load, PoolFacts,
    Usage, is_directory,
};
use uuid::Uuid;

use super::{
    secrets,
    world::{Domain, Machine, World},
};

pub(super) fn host(name: &str, machine: &Machine) -> HostFacts {
    let offers = &machine.offers;
    HostFacts {
        uuid: machine.uuid,
        hostname: format!("{name}.sim"),
        libvirt_version: machine.libvirt.clone(),
        hypervisor_version: offers.hypervisor.clone(),
        cpus: machine.cpus,
        cpu_model: "Sim".into(),
        cpu_fingerprint: offers.cpu.clone(),
        memory: Bytes(machine.memory),
        huge_pages: Bytes(0),
        load: load(machine),
        pools: pools(machine),
        networks: offers.networks.clone(),
        bridges: offers.bridges.clone(),
        nwfilters: offers.nwfilters.clone(),
        machines: offers.machines.clone(),
        domains: machine
            .domains
            .iter()
            .map(|(uuid, domain)| self::domain(machine, *uuid, domain))
            .collect(),
    }
}

pub(super) fn load(machine: &Machine) -> Load {
    let active = machine
        .domains
        .values()
        .filter(|domain| domain.activity.active());
    Load {
        cpu_milli: Some(100),
        memory: Bytes(active.map(|domain| domain.memory).sum()),
    }
}

/// What each domain that runs there uses.
pub(super) fn usage(world: &World, host: &str) -> BTreeMap<Uuid, Usage> {
    let domains = world.machines[host].domains.iter();
    let running = domains.filter(|(_, domain)| domain.activity == Activity::Running);
    let usage = running.filter_map(|(uuid, domain)| {
        let usage = Usage {
            cpu_time: world.guests.get(uuid)?.cpu_time(),
            memory: Bytes(domain.memory + domain.overhead),
        };
        Some((*uuid, usage))
    });
    usage.collect()
}

pub(super) fn pools(machine: &Machine) -> Vec<PoolFacts> {
    machine
        .pools
        .iter()
        .filter(|pool| !is_directory(&pool.name) || machine.used.contains(&pool.name))
        .map(|pool| PoolFacts {
            name: pool.name.clone(),
            kind: pool.kind.into(),
            path: pool.path.clone(),
            active: true,
            total: Bytes(pool.total),
            available: Bytes(machine.available(pool)),
            shared: pool.kind == "netfs",
        })
        .collect()
}

pub(super) fn domain(machine: &Machine, uuid: Uuid, domain: &Domain) -> DomainFacts {
    DomainFacts {
        uuid,
        name: domain.name.clone(),
        activity: domain.activity,
        why: domain.why,
        persistent: domain.persistent,
        autostart: domain.autostart,
        vcpus: domain.vcpus,
        memory: Bytes(domain.memory),
        memory_overhead: Bytes(domain.overhead),
        disks: domain
            .disks
            .iter()
            .map(|disk| disk_facts(machine, disk))
            .collect(),
        interfaces: domain.needs.interfaces.clone(),
        files: domain
            .files
            .iter()
            .map(|(role, path)| FileFacts {
                role: role.clone(),
                path: path.clone(),
                needed: role != "nvram",
            })
            .collect(),
        metadata: BTreeMap::new(),
        created: None,
        labels: domain.labels.clone(),
        managed_by: domain.managed_by.clone(),
        obstacles: [
            domain.obstacles.clone(),
            secrets::obstacles(machine, domain),
        ]
        .concat(),
        cpu: domain.needs.cpu,
        emulator: domain.needs.emulator.clone(),
        machine: domain.needs.machine.clone(),
        job: domain.job.is_some(),
        block_job: false,
        mark: domain.mark.clone(),
        last_move: domain.last_move.clone(),
        shutdown_mark: domain.shutdown_mark.clone(),
    }
}

fn disk_facts(machine: &Machine, disk: &super::world::Disk) -> DiskFacts {
    let pool = machine.pool_of(&disk.path);
    let allocated = machine.allocated(&disk.path);
    let base = machine
        .files
        .get(&disk.path)
        .and_then(|file| file.backing.clone());
    let below = base.map(|path| Layer {
        allocated: Bytes(machine.allocated(&path)),
        path,
    });
    DiskFacts {
        target: disk.target.clone(),
        device: DiskDevice::Disk,
        path: Some(disk.path.clone()),
        format: "qcow2".into(),
        virtual_size: Bytes(disk.size),
        allocated: Bytes(allocated),
        pool: pool.map(|pool| pool.name.clone()),
        volume: pool.map(|pool| disk.path[pool.path.len() + 1..].to_owned()),
        named: disk.named,
        backing: below.into_iter().collect(),
        readonly: false,
        shared: pool.is_some_and(|pool| pool.kind == "netfs"),
        secret: disk.secret,
    }
}
