//! A simulated host's state in the port's words.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    CpuNeed, DiskDevice, DiskFacts, DomainFacts, FileFacts, HostFacts, InterfaceFacts,
    InterfaceSource, Load, PoolFacts,
};
use uuid::Uuid;

use super::world::{Domain, Machine};

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
const MACHINE: &str = "pc-q35-7.2";

pub(super) fn host(name: &str, machine: &Machine) -> HostFacts {
    let machines = BTreeSet::from(["q35".to_owned(), MACHINE.to_owned()]);
    HostFacts {
        uuid: machine.uuid,
        hostname: format!("{name}.sim"),
        libvirt_version: machine.libvirt.clone(),
        hypervisor_version: "7.2.22".into(),
        cpus: machine.cpus,
        cpu_model: "Sim".into(),
        cpu_fingerprint: "sim".into(),
        memory: Bytes(machine.memory),
        huge_pages: Bytes(0),
        load: load(machine),
        pools: pools(machine),
        networks: BTreeSet::from(["default".to_owned()]),
        bridges: None,
        nwfilters: BTreeSet::new(),
        machines: BTreeMap::from([(EMULATOR.to_owned(), machines)]),
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

pub(super) fn pools(machine: &Machine) -> Vec<PoolFacts> {
    machine
        .pools
        .iter()
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
        memory_overhead: Bytes(64 << 20),
        disks: domain
            .disks
            .iter()
            .map(|disk| disk_facts(machine, disk))
            .collect(),
        interfaces: vec![InterfaceFacts {
            mac: "52:54:00:00:00:01".into(),
            source: InterfaceSource::Network("default".into()),
            filter: None,
            addresses: Vec::new(),
        }],
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
        obstacles: domain.obstacles.clone(),
        cpu: CpuNeed::Model,
        emulator: EMULATOR.into(),
        machine: MACHINE.into(),
        job: domain.job.is_some(),
        block_job: false,
        mark: domain.mark.clone(),
        last_move: domain.last_move.clone(),
    }
}

fn disk_facts(machine: &Machine, disk: &super::world::Disk) -> DiskFacts {
    let pool = machine.pool_of(&disk.path);
    let allocated = machine.allocated(&disk.path);
    let base = machine
        .files
        .get(&disk.path)
        .and_then(|file| file.backing.clone());
    let below = base.as_ref().map_or(0, |path| machine.allocated(path));
    DiskFacts {
        target: disk.target.clone(),
        device: DiskDevice::Disk,
        path: Some(disk.path.clone()),
        format: "qcow2".into(),
        virtual_size: Bytes(disk.size),
        allocated: Bytes(allocated),
        chain_allocated: Bytes(allocated + below),
        pool: pool.map(|pool| pool.name.clone()),
        volume: pool.map(|pool| disk.path[pool.path.len() + 1..].to_owned()),
        backing: base.into_iter().collect(),
        readonly: false,
        shared: pool.is_some_and(|pool| pool.kind == "netfs"),
    }
}
