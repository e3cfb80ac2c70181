//! Sentences: why not, with the names and figures of the case; and each host's reason, counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_crds::shared::{HostCount, HostExample, RequestedBy};

use crate::board::Board;
use crate::capacity::When;
use crate::fit::{Refusal, fits, unseen};
use crate::model::{Fleet, Guest, Host, HostId, InFlight, Rejection};
use crate::pools::{DiskRefusal, DiskWhy};
use crate::rules;
use crate::wishes::Ask;

/// Hosts named for each reason.
const EXAMPLES: usize = 3;

/// Bytes as a person says them; few enough are counted one by one.
pub(crate) fn bytes(amount: i128) -> String {
    let amount = u64::try_from(amount.max(0)).unwrap_or(u64::MAX);
    match amount {
        1 => "1 byte".to_owned(),
        0..1024 => format!("{amount} bytes"),
        _ => Bytes(amount).human(),
    }
}

/// Thousandths of a CPU as a person says them.
pub(crate) fn cpus(milli: i128) -> String {
    let milli = milli.max(0);
    let (whole, rest) = (milli / 1000, milli % 1000);
    match rest {
        0 if whole == 1 => "1 CPU".to_owned(),
        0 => format!("{whole} CPUs"),
        _ => format!(
            "{whole}.{} CPUs",
            format!("{rest:03}").trim_end_matches('0')
        ),
    }
}

/// A time as a person says it, rounded up to seconds.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// Names in a row: `a, b and c`; beyond a few the rest is counted.
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match (shown.split_last(), names.len().saturating_sub(SHOWN)) {
        (None, _) => String::new(),
        (Some((last, [])), 0) => (*last).to_owned(),
        (Some((last, first)), 0) => format!("{} and {last}", first.join(", ")),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `HostDrain patch`.
pub(crate) fn who(by: &RequestedBy) -> String {
    format!("{} {}", by.kind, by.name)
}

/// The guest is in flight.
pub(crate) fn busy(fleet: &Fleet, flight: &InFlight) -> Cause {
    let by = flight
        .by
        .as_ref()
        .map_or_else(|| "other hands".to_owned(), who);
    let message = format!(
        "{} is being moved from {} to {} by {by}",
        fleet.guests[flight.guest.at()].name,
        fleet.hosts[flight.source.at()].name,
        fleet.hosts[flight.target.at()].name,
    );
    Cause::new(Reason::GuestBusy, message)
}

/// The guest is where it should go.
pub(crate) fn already_there(fleet: &Fleet, guest: &Guest) -> Cause {
    let host = &fleet.hosts[guest.host.at()].name;
    Cause::new(
        Reason::MigrateToSelf,
        format!("{} is on {host} already", guest.name),
    )
}

/// Nothing is left to drain.
pub(crate) fn emptied(fleet: &Fleet, hosts: &BTreeSet<HostId>) -> Cause {
    let names: Vec<&str> = hosts
        .iter()
        .map(|host| fleet.hosts[host.at()].name.as_str())
        .collect();
    Cause::new(
        Reason::Completed,
        format!("no guest runs on {}", list(&names)),
    )
}

/// A drain that lets nothing start.
pub(crate) fn no_parallel(by: &RequestedBy) -> Cause {
    Cause::new(
        Reason::ParallelLimit,
        format!("{} lets no move start: its parallel is 0", who(by)),
    )
    .hint("raise its `parallel`")
}

/// The refusal of one host, as a cause.
pub(crate) fn refusal(
    board: &Board<'_, '_>,
    ask: &Ask<'_>,
    host: HostId,
    refusal: Refusal,
) -> Cause {
    let view = board.view;
    let guest = view.guest(ask.guest);
    let facts = view.host(host);
    let (name, guest_name) = (&facts.name, &guest.name);
    let needs = &guest.needs;
    let given = |cause: &Option<Cause>, reason, otherwise: &str| {
        let cause = cause.clone();
        cause.unwrap_or_else(|| Cause::new(reason, format!("{name} {otherwise}")))
    };
    let source = &view.host(guest.host).name;
    match refusal {
        Refusal::OutOfReach => given(
            &facts.out_of_reach,
            Reason::HostUnreachable,
            "is out of reach",
        ),
        Refusal::Closed => given(
            &facts.closed,
            Reason::TargetUnschedulable,
            "takes no guests",
        ),
        Refusal::Draining => Cause::new(
            Reason::TargetDraining,
            format!("{name} is being drained: {guest_name} can't move there"),
        ),
        Refusal::NoSlots => Cause::new(
            Reason::SlotsTaken,
            format!("{name} takes no moves, so not {guest_name} either: its maxInbound is 0"),
        )
        .hint("raise `migration.maxInbound` of the host"),
        Refusal::Avoided => match view.avoids(ask.guest, host) {
            Some(avoid) => Cause {
                reason: avoid.cause.reason,
                message: format!(
                    "{name} rests {} more for {} after {}",
                    span(avoid.until.saturating_sub(view.now)),
                    if avoid.guest.is_some() {
                        guest_name.as_str()
                    } else {
                        "all guests"
                    },
                    avoid.cause,
                ),
                hint: avoid.cause.hint.clone(),
            },
            None => Cause::new(Reason::BackingOff, format!("{name} rests for {guest_name}")),
        },
        Refusal::Rule { rule, .. } => Cause::new(
            Reason::PlacementForbids,
            rules::sentence(board, ask.guest, host, rule),
        ),
        Refusal::NameTaken => Cause::new(
            Reason::DomainNameTaken,
            format!(
                "{name} has, or is about to get, another domain named {} than {guest_name}",
                guest.domain
            ),
        ),
        Refusal::DefinedThere => Cause::new(
            Reason::DomainDefinedAtTarget,
            format!(
                "{name} defines a domain with the UUID {} of {guest_name} already",
                guest.uuid
            ),
        ),
        Refusal::NoEmulator => Cause::new(
            Reason::EmulatorMissing,
            format!("{name} has no emulator {} for {guest_name}", needs.emulator),
        ),
        Refusal::NoMachine => Cause::new(
            Reason::MachineTypeMissing,
            format!(
                "{} of {name} does not know {guest_name}'s machine type {}",
                needs.emulator, needs.machine
            ),
        ),
        Refusal::Older => Cause::new(
            Reason::HypervisorOlder,
            format!(
                "{name} has QEMU {}, {guest_name} was started by {}",
                version(facts.offers.hypervisor),
                version(needs.hypervisor),
            ),
        ),
        Refusal::OtherCpu => Cause::new(
            Reason::IncompatibleCPU,
            format!(
                "{name} has another CPU than {source}, whose own CPU {guest_name} was started with"
            ),
        ),
        Refusal::NoNetwork => Cause::new(
            Reason::NetworkMissing,
            format!(
                "{name} lacks {} of {guest_name}",
                list(&missing(board, ask, host))
            ),
        ),
        Refusal::NoStorage | Refusal::OtherPath => storage(view.host(host), guest, refusal),
        Refusal::Ring => Cause::new(
            Reason::InsufficientMemory,
            board
                .banned
                .get(&(ask.guest, host))
                .cloned()
                .unwrap_or_default(),
        )
        .hint("name another target for one of them, or make room on one of the hosts"),
        Refusal::Memory { left } => Cause::new(
            Reason::InsufficientMemory,
            lack(&Lack {
                whose: name.as_str(),
                of: "memory",
                what: guest_name.as_str(),
                needs: i128::from(guest.memory.0),
                left,
                limit: Some(i128::from(facts.memory_limit.0)),
                say: bytes,
            }) + &coming(board, host),
        ),
        Refusal::Cpu { left } => Cause::new(
            Reason::InsufficientCPU,
            lack(&Lack {
                whose: name.as_str(),
                of: "CPU",
                what: guest_name.as_str(),
                needs: i128::from(guest.cpu_milli),
                left,
                limit: Some(i128::from(facts.cpu_limit_milli)),
                say: cpus,
            }) + &coming(board, host),
        ),
        Refusal::Disk(disk) => disk_refusal(board, ask, host, disk),
    }
}

struct Lack<'a> {
    whose: &'a str,
    of: &'a str,
    what: &'a str,
    needs: i128,
    left: i128,
    limit: Option<i128>,
    say: fn(i128) -> String,
}

/// `h2 lacks 512Mi of memory for web-1: it needs 1.1Gi, 600Mi of 24Gi is left`.
fn lack(lack: &Lack<'_>) -> String {
    let say = lack.say;
    let Lack {
        whose, of, what, ..
    } = lack;
    let within = lack
        .limit
        .map_or_else(String::new, |limit| format!(" of {}", say(limit)));
    if lack.left < 0 {
        return format!(
            "{whose} is over its limit of {of} by {}: it takes nothing, so not {what} with {} either",
            say(-lack.left),
            say(lack.needs),
        );
    }
    format!(
        "{whose} lacks {} of {of} for {what}: it needs {}, {}{within} is left",
        say(lack.needs - lack.left),
        say(lack.needs),
        say(lack.left),
    )
}

/// What the figures count beside what is there: moves planned to the host and in flight.
fn coming(board: &Board<'_, '_>, host: HostId) -> String {
    match board.into[host.at()].len() + board.view.inbound[host.at()] as usize {
        0 => String::new(),
        1 => " with one move to there counted".to_owned(),
        moves => format!(" with {moves} moves to there counted"),
    }
}

fn disk_refusal(board: &Board<'_, '_>, ask: &Ask<'_>, host: HostId, refusal: DiskRefusal) -> Cause {
    let view = board.view;
    let guest = view.guest(ask.guest);
    let name = &view.host(host).name;
    let disk = &guest.disks[refusal.disk];
    let what = match refusal.why {
        DiskWhy::Bases { .. } => format!("base images of {}", guest.name),
        _ => format!("{} of {}", disk.target, guest.name),
    };
    let pool_at = |pool: usize| &view.host(host).pools[view.layout.index(host, pool)];
    let space = |pool: usize, of: &str, needs, left, limit| {
        let lack = lack(&Lack {
            whose: &format!("pool {} of {name}", pool_at(pool).name),
            of,
            what: &what,
            needs,
            left,
            limit,
            say: bytes,
        });
        Cause::new(Reason::InsufficientDisk, lack + &coming(board, host))
    };
    match refusal.why {
        DiskWhy::Missing => {
            let demanded = ask.overrides.get(&disk.target);
            let pool = demanded.or(disk.pool.as_ref());
            let outside = pool.filter(|pool| pool.starts_with('/'));
            if let Some(directory) = outside {
                return Cause::new(
                    Reason::PoolMissing,
                    format!(
                        "{name} has no directory {directory} for {what}, nor a pool that it would lie in"
                    ),
                )
                .hint(
                    "make the directory there, or start a storage pool over it, or name the pool that the disk is to \
                     go to (`spec.disks` of a GuestMigration)",
                );
            }
            let message = match (pool, &disk.class) {
                (Some(pool), Some(class)) if demanded.is_none() => {
                    format!("{name} has no pool {pool} for {what}, nor another of class {class}")
                }
                (Some(pool), _) => format!("{name} has no pool {pool} for {what}"),
                (None, Some(class)) => format!("{name} has no pool of class {class} for {what}"),
                (None, None) => {
                    format!("{what} lies in no pool, so {name} has none of the same name for it")
                }
            };
            Cause::new(Reason::PoolMissing, message)
        }
        DiskWhy::Closed { pool } => {
            let pool = pool_at(pool);
            let why = pool
                .closed
                .as_ref()
                .map_or("it is closed", |cause| cause.message.as_str());
            let message = format!(
                "pool {} of {name} takes no disks, so not {what}: {why}",
                pool.name
            );
            Cause::new(Reason::PoolMissing, message)
        }
        DiskWhy::Space { pool, needs, left } | DiskWhy::Bases { pool, needs, left } => {
            space(pool, "free space", needs, left, None)
        }
        DiskWhy::Sizes { pool, needs, left } => {
            let limit = pool_at(pool).virtual_limit.map(|limit| i128::from(limit.0));
            space(pool, "room for virtual sizes", needs, left, limit)
        }
    }
}

/// The first shared storage that the host lacks, or has elsewhere.
fn storage(host: &Host, guest: &Guest, refusal: Refusal) -> Cause {
    let (name, guest_name) = (&host.name, &guest.name);
    let elsewhere = |pool: &String| host.offers.storage.get(pool);
    for (pool, directory) in unseen(guest, host) {
        match (refusal, elsewhere(pool)) {
            (Refusal::NoStorage, None) => {
                return Cause::new(
                    Reason::SharedStorageMissing,
                    format!(
                        "{name} has no active storage pool in {directory}, the shared storage of {guest_name}"
                    ),
                );
            }
            (Refusal::OtherPath, Some(other)) => {
                return Cause::new(
                    Reason::SharedPathDiffers,
                    format!(
                        "{name} has pool {pool} in {other}; the shared storage of {guest_name} is in {directory}"
                    ),
                );
            }
            _ => {}
        }
    }
    Cause::new(
        Reason::SharedStorageMissing,
        format!("{name} lacks shared storage of {guest_name}"),
    )
}

fn missing(board: &Board<'_, '_>, ask: &Ask<'_>, host: HostId) -> Vec<String> {
    let needs = &board.view.guest(ask.guest).needs;
    let offers = &board.view.host(host).offers;
    let absent = |what: &str, needed: &BTreeSet<String>, offered: &BTreeSet<String>| {
        let names = needed.difference(offered);
        names
            .map(|name| match needs.pending.contains(name) {
                true => format!("{what} {name} (in the persistent definition only)"),
                false => format!("{what} {name}"),
            })
            .collect::<Vec<_>>()
    };
    let mut all = absent("network", &needs.networks, &offers.networks);
    if let Some(bridges) = &offers.bridges {
        all.extend(absent("bridge", &needs.bridges, bridges));
    }
    all.extend(absent("filter", &needs.nwfilters, &offers.nwfilters));
    all
}

fn version(parts: [u32; 3]) -> String {
    let [major, minor, micro] = parts;
    format!("{major}.{minor}.{micro}")
}

/// Why an ask can't be placed: the demanded target's own reason, or that no host fits, each host's reason counted.
pub(crate) fn rejections(board: &Board<'_, '_>, ask: &Ask<'_>) -> Vec<Rejection> {
    let (cause, hosts) = match ask.target {
        Some(target) => (at_target(board, ask, target), Vec::new()),
        None => nowhere(board, ask),
    };
    let all = std::iter::once(&ask.by).chain(&ask.also);
    all.map(|by| Rejection {
        by: (*by).clone(),
        guest: ask.guest,
        cause: cause.clone(),
        hosts: hosts.clone(),
    })
    .collect()
}

/// The target's first reason, and the others behind it.
pub(crate) fn at_target(board: &Board<'_, '_>, ask: &Ask<'_>, target: HostId) -> Cause {
    let mut all = Vec::new();
    fits(
        board,
        ask,
        target,
        When::Later,
        &mut Vec::new(),
        &mut |found| {
            all.push(found);
            true
        },
    );
    let mut causes = all
        .into_iter()
        .map(|found| refusal(board, ask, target, found));
    let Some(mut first) = causes.next() else {
        // Not reached while placing and explaining look at the same board; said rather than hidden.
        let names = (
            &board.view.guest(ask.guest).name,
            &board.view.host(target).name,
        );
        return Cause::new(
            Reason::Waiting,
            format!("{} waits for {}", names.0, names.1),
        );
    };
    for other in causes {
        first.message = format!("{}; also {other}", first.message);
    }
    first
}

fn nowhere(board: &Board<'_, '_>, ask: &Ask<'_>) -> (Cause, Vec<HostCount>) {
    let view = board.view;
    let own = view.guest(ask.guest).host;
    let mut scratch = Vec::new();
    let mut counts: BTreeMap<&'static str, HostCount> = BTreeMap::new();
    let mut total = 0;
    for host in view.by_name.iter().copied().filter(|host| *host != own) {
        total += 1;
        let mut first = None;
        fits(board, ask, host, When::Later, &mut scratch, &mut |found| {
            first = Some(found);
            false
        });
        let reason = first.map_or(Reason::Waiting, |found| reason(board, ask, host, found));
        let count = counts.entry(reason.as_str()).or_insert_with(|| HostCount {
            reason: reason.as_str().to_owned(),
            count: 0,
            examples: Vec::new(),
        });
        count.count += 1;
        if let (Some(found), true) = (first, count.examples.len() < EXAMPLES) {
            count.examples.push(HostExample {
                host: view.host(host).name.as_str().to_owned(),
                message: refusal(board, ask, host, found).message,
            });
        }
    }
    let mut counts: Vec<HostCount> = counts.into_values().collect();
    counts.sort_by(|one, other| {
        other
            .count
            .cmp(&one.count)
            .then(one.reason.cmp(&other.reason))
    });
    let told: Vec<String> = counts
        .iter()
        .map(|count| format!("{} {}", count.count, count.reason))
        .collect();
    let message = if total == 0 {
        "0/0 hosts fit: there is no other host".to_owned()
    } else {
        format!("0/{total} hosts fit: {}", told.join(", "))
    };
    (Cause::new(Reason::NoHostFits, message), counts)
}

/// The word alone, without making the sentence.
fn reason(board: &Board<'_, '_>, ask: &Ask<'_>, host: HostId, refusal: Refusal) -> Reason {
    let facts = board.view.host(host);
    let given =
        |cause: &Option<Cause>, otherwise| cause.as_ref().map_or(otherwise, |cause| cause.reason);
    match refusal {
        Refusal::OutOfReach => given(&facts.out_of_reach, Reason::HostUnreachable),
        Refusal::Closed => given(&facts.closed, Reason::TargetUnschedulable),
        Refusal::Draining => Reason::TargetDraining,
        Refusal::NoSlots => Reason::SlotsTaken,
        Refusal::Avoided => {
            let avoid = board.view.avoids(ask.guest, host);
            avoid.map_or(Reason::BackingOff, |avoid| avoid.cause.reason)
        }
        Refusal::Rule { .. } => Reason::PlacementForbids,
        Refusal::NameTaken => Reason::DomainNameTaken,
        Refusal::DefinedThere => Reason::DomainDefinedAtTarget,
        Refusal::NoEmulator => Reason::EmulatorMissing,
        Refusal::NoMachine => Reason::MachineTypeMissing,
        Refusal::Older => Reason::HypervisorOlder,
        Refusal::OtherCpu => Reason::IncompatibleCPU,
        Refusal::NoNetwork => Reason::NetworkMissing,
        Refusal::NoStorage => Reason::SharedStorageMissing,
        Refusal::OtherPath => Reason::SharedPathDiffers,
        Refusal::Ring | Refusal::Memory { .. } => Reason::InsufficientMemory,
        Refusal::Cpu { .. } => Reason::InsufficientCPU,
        Refusal::Disk(disk) => match disk.why {
            DiskWhy::Missing | DiskWhy::Closed { .. } => Reason::PoolMissing,
            DiskWhy::Space { .. } | DiskWhy::Bases { .. } | DiskWhy::Sizes { .. } => {
                Reason::InsufficientDisk
            }
        },
    }
}
