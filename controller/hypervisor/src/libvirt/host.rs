//! Facts about a host: its machine, CPUs, memory, networks and emulators.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{Fault, HostFacts, Load, PortError, PortResult, Usage};
use roxmltree::Node;
use uuid::Uuid;
use virt::sys;

use super::{
    directories, domain,
    fault::OrFault,
    raw::{self, Connection},
    refreshes::Freshness,
    session::Session,
    worker::lock,
    xml,
};

/// One sample of a host's live use.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Nanoseconds its CPUs have worked since boot.
    busy: u64,
    /// Nanoseconds they have been idle.
    idle: u64,
    cpus: u32,
    pub(crate) memory_used: Bytes,
    memory_total: Bytes,
}

impl Sample {
    /// CPU use between an earlier sample and this one, in thousandths of a CPU.
    pub(crate) fn cpu_milli_since(&self, earlier: &Self) -> Option<u64> {
        let busy = self.busy.checked_sub(earlier.busy)?;
        let idle = self.idle.checked_sub(earlier.idle)?;
        let all = busy.checked_add(idle).filter(|all| *all > 0)?;
        let milli = u128::from(busy) * u128::from(self.cpus) * 1000 / u128::from(all);
        u64::try_from(milli).ok()
    }
}

/// Takes a sample.
pub(crate) fn sample(connection: &Connection) -> PortResult<Sample> {
    let times = raw::cpu_times(connection).or_fault()?;
    let time = |name: &str| times.get(name).copied().unwrap_or(0);
    let memory = raw::memory_figures(connection).or_fault()?;
    let size = |name: &str| Bytes(memory.get(name).copied().unwrap_or(0).saturating_mul(1024));
    let total = size("total");
    let unused = size("free").0 + size("buffers").0 + size("cached").0;
    Ok(Sample {
        busy: time("user") + time("kernel") + time("intr"),
        idle: time("idle") + time("iowait"),
        cpus: connection.node_info().or_fault()?.cpus,
        memory_used: Bytes(total.0.saturating_sub(unused)),
        memory_total: total,
    })
}

/// What each domain that runs uses.
pub(crate) fn usage(connection: &Connection) -> PortResult<BTreeMap<Uuid, Usage>> {
    let all = raw::usage(connection).or_fault()?;
    let usage = |figures: &raw::Figures| {
        let figure = |name: &str| figures.get(name).copied();
        let memory = figure("balloon.rss").or_else(|| figure("balloon.current"));
        Some(Usage {
            cpu_time: Duration::from_nanos(figure("cpu.time")?),
            memory: Bytes(memory?.saturating_mul(1024)),
        })
    };
    let all = all.iter();
    Ok(all
        .filter_map(|(uuid, figures)| Some((*uuid, usage(figures)?)))
        .collect())
}

/// Describes the whole host, pools refreshed.
pub(crate) fn observe(session: &Arc<Session>, connection: &Connection) -> PortResult<HostFacts> {
    let capabilities_text = connection.capabilities().or_fault()?;
    let document = xml::parse(&capabilities_text)?;
    let capabilities = Capabilities::read(document.root_element())?;
    let node = connection.node_info().or_fault()?;
    let now = sample(connection)?;
    let pools = session.storage(connection).pools(Freshness::Lately)?;
    let networks = active_networks(connection)?;
    Ok(HostFacts {
        uuid: capabilities.uuid,
        hostname: connection.hostname().or_fault()?,
        libvirt_version: version(connection.lib_version().or_fault()?),
        hypervisor_version: version(connection.hyp_version().or_fault()?),
        cpus: node.cpus,
        cpu_model: capabilities.cpu_model,
        cpu_fingerprint: capabilities.cpu_fingerprint,
        memory: Bytes(node.memory.saturating_mul(1024)).max(now.memory_total),
        huge_pages: capabilities.huge_pages,
        load: Load {
            cpu_milli: *lock(&session.cpu_milli),
            memory: now.memory_used,
        },
        bridges: bridges(connection, &networks)?,
        networks: networks.into_keys().collect(),
        nwfilters: connection
            .list_all_nw_filters(0)
            .or_fault()
            .map(|filters| {
                filters
                    .iter()
                    .filter_map(|filter| filter.name().ok())
                    .collect()
            })
            .or_else(|error| without_driver(error, BTreeSet::new()))?,
        machines: capabilities.machines,
        domains: domain::look_at_all(session, connection, &pools)?,
        pools: directories::all(session, connection, &pools)?,
    })
}

/// Whether the CPU that a definition asks for by model and features is to be had here. Nothing where libvirt can't tell.
pub(crate) fn offers_cpu(connection: &Connection, definition: &str) -> PortResult<Option<bool>> {
    let document = xml::parse(definition)?;
    let domain = document.root_element();
    let cpu = xml::child(domain, "cpu").filter(|cpu| {
        xml::child(*cpu, "model").is_some()
            && matches!(cpu.attribute("mode"), None | Some("custom"))
    });
    let kind = xml::at(domain, &["os", "type"]);
    let asked = |name| kind.and_then(|kind| kind.attribute(name));
    let (Some(cpu), Some(arch), Some(machine)) = (cpu, asked("arch"), asked("machine")) else {
        return Ok(None);
    };
    let described = raw::CpuAsked {
        emulator: xml::text(domain, &["devices", "emulator"]).unwrap_or_default(),
        arch,
        machine,
        kind: domain.attribute("type").unwrap_or_default(),
        cpu: &definition[cpu.range()],
    };
    match raw::compare_cpu(connection, &described).or_fault() {
        Ok(fits) => Ok(Some(fits)),
        Err(error) if matches!(error.fault, Fault::Unreachable | Fault::TimedOut) => Err(error),
        // Older, another architecture, an emulator of no words: the migration will tell.
        Err(_) => Ok(None),
    }
}

/// `otherwise` where the host lacks a driver; other errors stay errors.
fn without_driver<T>(error: PortError, otherwise: T) -> PortResult<T> {
    match error.fault {
        Fault::Unsupported => Ok(otherwise),
        _ => Err(error),
    }
}

/// Active networks by name, each with its bridge where it has one.
fn active_networks(connection: &Connection) -> PortResult<BTreeMap<String, Option<String>>> {
    let listed = connection
        .list_all_networks(sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        .or_fault()
        .or_else(|error| without_driver(error, Vec::new()))?;
    Ok(listed
        .iter()
        .filter_map(|network| Some((network.name().ok()?, network.bridge_name().ok())))
        .collect())
}

/// Bridges of the host: those its interface driver lists and those of networks. Nothing without an interface driver.
fn bridges(
    connection: &Connection,
    networks: &BTreeMap<String, Option<String>>,
) -> PortResult<Option<BTreeSet<String>>> {
    let listed = connection
        .list_all_interfaces(sys::VIR_CONNECT_LIST_INTERFACES_ACTIVE)
        .or_fault()
        .map(Some)
        .or_else(|error| without_driver(error, None))?;
    let Some(listed) = listed else {
        return Ok(None);
    };
    let mut bridges: BTreeSet<String> = networks.values().flatten().cloned().collect();
    for interface in listed {
        // One that went away between the two calls, or that the driver can't describe, is no bridge for us.
        let Ok(description) = interface.xml_desc(0) else {
            continue;
        };
        let document = xml::parse(&description)?;
        let root = document.root_element();
        if root.attribute("type") == Some("bridge") {
            bridges.extend(root.attribute("name").map(str::to_owned));
        }
    }
    Ok(Some(bridges))
}

/// libvirt's version number as people write it.
fn version(number: u32) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1000 % 1000,
        number % 1000
    )
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) uuid: Uuid,
    pub(super) cpu_model: String,
    pub(super) cpu_fingerprint: String,
    pub(super) huge_pages: Bytes,
    pub(super) machines: BTreeMap<String, BTreeSet<String>>,
}

impl Capabilities {
    pub(super) fn read(root: Node<'_, '_>) -> PortResult<Self> {
        let missing =
            |what: &str| PortError::new(Fault::Other, format!("the capabilities name no {what}"));
        let host = xml::child(root, "host").ok_or_else(|| missing("host"))?;
        let uuid = xml::text(host, &["uuid"])
            .and_then(|text| Uuid::parse_str(text).ok())
            .ok_or_else(|| missing("host UUID"))?;
        let cpu = xml::child(host, "cpu");
        let said = |name| {
            cpu.and_then(|cpu| xml::text(cpu, &[name]))
                .unwrap_or("unknown")
        };
        Ok(Self {
            uuid,
            cpu_model: said("model").to_owned(),
            // A CPU of which nothing is told is like no other.
            cpu_fingerprint: cpu.map_or_else(|| format!("unknown-{uuid}"), fingerprint),
            huge_pages: huge_pages(host),
            machines: machines(root),
        })
    }
}

/// Architecture, model, vendor and features, sorted, hashed. The microcode is left out: it differs between machines
/// that are equal to a guest, and so are topology and cache.
fn fingerprint(cpu: Node<'_, '_>) -> String {
    let mut parts: Vec<String> = ["arch", "model", "vendor"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", xml::text(cpu, &[name])?)))
        .collect();
    parts.extend(
        xml::children(cpu, "feature")
            .filter(|feature| feature.attribute("policy") != Some("disable"))
            .filter_map(|feature| Some(format!("+{}", feature.attribute("name")?))),
    );
    parts.sort();
    parts.dedup();
    // FNV-1a, 128 bits: the same in every build, which the standard library's hashes do not promise.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in parts.join("\n").bytes() {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let mut text = String::new();
    let _ = write!(text, "{hash:032x}");
    text
}

/// Pages of every size but the smallest, times their number, over all cells.
fn huge_pages(host: Node<'_, '_>) -> Bytes {
    let pages: Vec<(u64, u64)> = host
        .descendants()
        .filter(|node| {
            xml::is(*node, "pages") && node.parent().is_some_and(|cell| xml::is(cell, "cell"))
        })
        .filter_map(|pages| {
            let size: u64 = pages.attribute("size")?.parse().ok()?;
            let unit = match pages.attribute("unit") {
                Some("KiB") | None => 1024,
                Some("MiB") => 1 << 20,
                Some("b" | "bytes") => 1,
                Some(_) => return None,
            };
            let count: u64 = pages.text()?.trim().parse().ok()?;
            Some((size.checked_mul(unit)?, count))
        })
        .collect();
    let smallest = pages.iter().map(|(size, _)| *size).min().unwrap_or(0);
    Bytes(
        pages
            .iter()
            .filter(|(size, _)| *size > smallest)
            .fold(0, |sum, (size, count)| {
                sum.saturating_add(size.saturating_mul(*count))
            }),
    )
}

/// Emulators with the machine types each knows, aliases and what they stand for.
fn machines(root: Node<'_, '_>) -> BTreeMap<String, BTreeSet<String>> {
    let mut machines = BTreeMap::<String, BTreeSet<String>>::new();
    for arch in xml::children(root, "guest").filter_map(|guest| xml::child(guest, "arch")) {
        let common = xml::text(arch, &["emulator"]);
        let scopes = std::iter::once(arch).chain(xml::children(arch, "domain"));
        for scope in scopes {
            let Some(emulator) = xml::text(scope, &["emulator"]).or(common) else {
                continue;
            };
            let known = machines.entry(emulator.to_owned()).or_default();
            for machine in xml::children(scope, "machine") {
                known.extend(machine.text().map(|text| text.trim().to_owned()));
                known.extend(machine.attribute("canonical").map(str::to_owned));
            }
        }
    }
    machines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn capabilities() {
        let document = xml::parse(include_str!("../../fixtures/capabilities.xml")).unwrap();
        let read = Capabilities::read(document.root_element()).unwrap();
        assert_eq!(
            read.uuid.to_string(),
            "11111111-2222-4333-8444-555555555555"
        );
        assert_eq!(read.cpu_model, "EPYC");
        assert_eq!(read.huge_pages, Bytes(512 * (2 << 20) + (1 << 30)));
        let known = &read.machines["/usr/bin/qemu-system-x86_64"];
        assert!(known.contains("pc") && known.contains("pc-i440fx-7.2") && known.contains("q35"));
    }

    #[test]
    fn fingerprints_ignore_order_and_microcode() {
        let of = |text: &str| fingerprint(roxmltree::Document::parse(text).unwrap().root_element());
        let one = of(
            "<cpu><arch>x86_64</arch><model>EPYC</model><microcode version='1'/><feature name='a'/><feature name='b'/></cpu>",
        );
        let two = of(
            "<cpu><arch>x86_64</arch><model>EPYC</model><microcode version='2'/><feature name='b'/><feature name='a'/></cpu>",
        );
        let three = of("<cpu><arch>x86_64</arch><model>EPYC</model><feature name='a'/></cpu>");
        assert_eq!(one, two);
        assert_ne!(one, three);
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn use_is_what_was_worked_between_two_samples() {
        let sample = |busy, idle| Sample {
            busy,
            idle,
            cpus: 4,
            memory_used: Bytes(0),
            memory_total: Bytes(0),
        };
        assert_eq!(
            sample(150, 450).cpu_milli_since(&sample(100, 300)),
            Some(1000)
        );
        assert_eq!(sample(100, 300).cpu_milli_since(&sample(150, 450)), None);
        assert_eq!(sample(100, 300).cpu_milli_since(&sample(100, 300)), None);
    }

    #[test]
    fn versions() {
        assert_eq!(version(9_000_000), "9.0.0");
        assert_eq!(version(7_002_022), "7.2.22");
    }
}
