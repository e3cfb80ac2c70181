//! What is short for several guests together, whatever moves: a proof that not all of them can have a place.
//!
//! It is Hall's: some guests, all hosts to which they may go at all, and what these could ever have free for them. Others
//! that may move count as gone from these hosts where they may go elsewhere; where they may not, they take as much there as
//! before, wherever they lie. What is left out (names that clash, hosts that rest) would only leave less room. So the proof
//! holds for every plan, in whichever order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::board::Board;
use crate::capacity::{When, demand};
use crate::model::{GuestId, HostId};
use crate::view::View;
use crate::wishes::Ask;

/// Sets of hosts that take guests of one kind, of which pairs are looked at together too.
const PAIRED: usize = 12;
/// Sets that are looked at.
const SETS: usize = 64;
/// Sizes of guests from which on they are looked at by themselves.
const SIZES: usize = 24;

/// What can be short.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Memory,
    Cpu,
    /// Free space of pools, by the name or class that the disks ask for.
    Disk(String),
}

/// Guests that can't all have a place.
#[derive(Debug, Clone)]
pub(crate) struct Shortage {
    pub(crate) resource: Resource,
    pub(crate) guests: Vec<GuestId>,
    /// All hosts that could take one of them, as far as that is known.
    pub(crate) hosts: Vec<HostId>,
    pub(crate) needs: i128,
    pub(crate) left: i128,
    /// So many of them have to stay at least.
    pub(crate) stay: usize,
}

/// Which pools a disk may go to: that of the name, or those of the class.
type Disk<'a> = (Option<&'a str>, Option<&'a str>);

/// A guest that is to go, or may.
struct Mover<'a> {
    guest: GuestId,
    home: HostId,
    class: usize,
    /// A wish names its target: whether that comes about or not, it counts as gone.
    aimed: bool,
    cpu: i128,
    memory: i128,
    /// Pools for single disks; none where wishes for it differ.
    overrides: Option<&'a BTreeMap<String, String>>,
}

/// The fleet as a proof looks at it.
pub(crate) struct Halls<'b, 'v, 'a> {
    /// Before any move.
    empty: &'b Board<'v, 'a>,
    /// Guests with an ask.
    movers: Vec<Mover<'a>>,
    /// For each class of guests the hosts that may take them.
    classes: Vec<Vec<bool>>,
}

impl<'b, 'v, 'a> Halls<'b, 'v, 'a> {
    pub(crate) fn new(empty: &'b Board<'v, 'a>, asks: &[Ask<'a>]) -> Self {
        let view = empty.view;
        // Where several ask for a guest, any of them may have it.
        let mut wanted = BTreeMap::new();
        for ask in asks {
            let own = (ask.target, Some(ask.overrides));
            let (target, overrides) = wanted.entry(ask.guest).or_insert(own);
            *target = target.filter(|target| ask.target == Some(*target));
            *overrides = overrides.filter(|overrides| *overrides == ask.overrides);
        }
        let mut known: HashMap<(u32, Vec<usize>, Option<HostId>), usize> = HashMap::new();
        let mut classes = Vec::new();
        let movers = wanted.into_iter().map(|(guest, (target, overrides))| {
            let rules = view.rules.of(guest);
            let rules = rules.filter(|(_, rule)| rule.required);
            let key: Vec<usize> = rules.map(|(index, _)| index).collect();
            let class = *known
                .entry((view.kind(guest), key, target))
                .or_insert_with(|| {
                    classes.push(eligible(view, guest, target));
                    classes.len() - 1
                });
            let (cpu, memory) = demand(view.guest(guest));
            Mover {
                guest,
                home: view.guest(guest).host,
                class,
                aimed: target.is_some(),
                cpu,
                memory,
                overrides,
            }
        });
        Self {
            empty,
            movers: movers.collect(),
            classes,
        }
    }

    /// Whether no host may take the guest, however much room there were.
    pub(crate) fn is_barred(&self, guest: GuestId) -> bool {
        let own = self.movers.iter().find(|mover| mover.guest == guest);
        own.is_some_and(|mover| !self.classes[mover.class].contains(&true))
    }

    /// How many of these guests have to stay on their hosts at least, as far as that is proven.
    pub(crate) fn least_left(&self, leaving: &BTreeSet<GuestId>) -> usize {
        self.shortage(leaving).map_or(0, |short| short.stay)
    }

    /// Why these guests can't all leave their hosts: what keeps most of them.
    pub(crate) fn shortage(&self, leaving: &BTreeSet<GuestId>) -> Option<Shortage> {
        let own = self.movers.iter();
        let own: Vec<&Mover<'a>> = own.filter(|mover| leaving.contains(&mover.guest)).collect();
        let mut best: Option<Shortage> = None;
        for hosts in self.sets(&own) {
            let inside = self.inside(&hosts);
            let members: Vec<&Mover<'a>> = own
                .iter()
                .copied()
                .filter(|own| inside[own.class])
                .collect();
            let amounts = [
                self.room(&hosts, &members, Resource::Memory, |mover| mover.memory),
                self.room(&hosts, &members, Resource::Cpu, |mover| mover.cpu),
            ];
            let amounts = amounts.into_iter().flatten();
            for found in amounts.chain(self.disks(&hosts, &inside, &members)) {
                let key = |of: &Shortage| (usize::MAX - of.stay, of.guests.len(), of.hosts.len());
                if best.as_ref().is_none_or(|best| key(&found) < key(best)) {
                    best = Some(found);
                }
            }
        }
        best
    }

    /// Sets of hosts that may be too small: those of one class of these guests, of two, of all.
    fn sets(&self, own: &[&Mover<'a>]) -> Vec<Vec<bool>> {
        let classes: BTreeSet<usize> = own.iter().map(|mover| mover.class).collect();
        let mut sets: Vec<Vec<bool>> = Vec::new();
        let mut add = |set: Vec<bool>| {
            if set.contains(&true) && !sets.contains(&set) && sets.len() < SETS {
                sets.push(set);
            }
        };
        let both = |one: &[bool], other: &[bool]| -> Vec<bool> {
            one.iter()
                .zip(other)
                .map(|(one, other)| *one || *other)
                .collect()
        };
        let all = vec![false; self.empty.view.fleet.hosts.len()];
        add(classes
            .iter()
            .fold(all, |all, class| both(&all, &self.classes[*class])));
        for class in &classes {
            add(self.classes[*class].clone());
        }
        for one in classes.iter().take(PAIRED) {
            for other in classes.iter().take(PAIRED) {
                add(both(&self.classes[*one], &self.classes[*other]));
            }
        }
        sets
    }

    /// For each class whether its guests may go to these hosts only.
    fn inside(&self, hosts: &[bool]) -> Vec<bool> {
        let only = |class: &Vec<bool>| class.iter().zip(hosts).all(|(own, among)| *among || !*own);
        self.classes.iter().map(only).collect()
    }

    /// CPU or memory that these guests lack, those of some size on by themselves: fewer hosts may take them.
    fn room(
        &self,
        hosts: &[bool],
        members: &[&Mover<'a>],
        resource: Resource,
        amount: impl Fn(&Mover<'a>) -> i128,
    ) -> Option<Shortage> {
        let view = self.empty.view;
        let ids = || (0..hosts.len() as u32).map(HostId);
        let free = |host: HostId| {
            let facts = view.host(host);
            match resource {
                Resource::Cpu => {
                    i128::from(facts.cpu_limit_milli) - self.empty.room.cpu(host, When::Later)
                }
                _ => i128::from(facts.memory_limit.0) - self.empty.room.memory(host, When::Later),
            }
        };
        let free: Vec<i128> = ids().map(free).collect();
        let mut most = free.clone();
        for mover in &self.movers {
            most[mover.home.at()] += amount(mover);
        }
        let mut members = members.to_vec();
        members.sort_by_key(|mover| (-amount(mover), mover.guest));
        let mut best: Option<Shortage> = None;
        let mut sizes: Vec<i128> = members.iter().map(|mover| amount(mover)).collect();
        sizes.retain(|size| *size > 0);
        sizes.dedup();
        // The smallest stands for all that are not looked at by themselves.
        let smallest = sizes.last().copied();
        sizes.truncate(SIZES);
        sizes.extend(smallest.filter(|smallest| !sizes.contains(smallest)));
        for least in sizes {
            let count = members.partition_point(|mover| amount(mover) >= least);
            let among: Vec<bool> = ids()
                .map(|host| hosts[host.at()] && most[host.at()] >= least)
                .collect();
            let inside = self.inside(&among);
            let mut free = free.clone();
            let own: BTreeSet<GuestId> = members[..count].iter().map(|mover| mover.guest).collect();
            for mover in &self.movers {
                if mover.aimed || !inside[mover.class] || own.contains(&mover.guest) {
                    free[mover.home.at()] += amount(mover);
                }
            }
            let left = ids().filter(|host| among[host.at()]);
            let left: i128 = left.map(|host| free[host.at()].max(0)).sum();
            let found = self.found(&resource, &members[..count], &among, &amount, left);
            let key = |found: &Option<Shortage>| found.as_ref().map_or(0, |found| found.stay);
            if key(&found) > key(&best) {
                best = found;
            }
        }
        best
    }

    /// The shortage, where these guests need more than is left.
    fn found(
        &self,
        resource: &Resource,
        members: &[&Mover<'a>],
        among: &[bool],
        amount: &dyn Fn(&Mover<'a>) -> i128,
        left: i128,
    ) -> Option<Shortage> {
        let mut amounts: Vec<i128> = members.iter().map(|mover| amount(mover)).collect();
        amounts.sort_unstable();
        let needs: i128 = amounts.iter().sum();
        let (mut rest, mut stay) = (needs, 0);
        while rest > left {
            rest -= amounts.pop()?;
            stay += 1;
        }
        let hosts = (0..among.len() as u32).map(HostId);
        (stay > 0).then(|| Shortage {
            resource: resource.clone(),
            guests: members.iter().map(|mover| mover.guest).collect(),
            hosts: hosts.filter(|host| among[host.at()]).collect(),
            needs,
            left,
            stay,
        })
    }

    /// Free space that disks of these guests lack: those that ask for the same pools, and all.
    fn disks(&self, hosts: &[bool], inside: &[bool], members: &[&Mover<'a>]) -> Vec<Shortage> {
        let mut kinds: BTreeSet<Disk<'_>> = BTreeSet::new();
        for mover in members {
            kinds.extend(self.sizes(mover).map(|(kind, _)| kind));
        }
        let each = kinds.iter().map(|kind| BTreeSet::from([*kind]));
        let all = (kinds.len() > 1).then(|| kinds.clone());
        let sets = each.take(PAIRED).chain(all);
        sets.filter_map(|kinds| self.space(&kinds, hosts, inside, members))
            .collect()
    }

    fn space(
        &self,
        kinds: &BTreeSet<Disk<'_>>,
        hosts: &[bool],
        inside: &[bool],
        members: &[&Mover<'a>],
    ) -> Option<Shortage> {
        let view = self.empty.view;
        let ids = (0..hosts.len() as u32).map(HostId);
        // One pool of each file system that takes such disks.
        let mut budgets: BTreeMap<usize, usize> = BTreeMap::new();
        for host in ids.filter(|host| hosts[host.at()]) {
            for kind in kinds {
                let pools = pools(view, *kind, host);
                budgets.extend(pools.map(|pool| (view.layout.budget(pool), pool)));
            }
        }
        let free = |(budget, pool): (&usize, &usize)| {
            let taken = self.empty.room.taken(&view.layout, *pool, When::Later);
            (*budget, view.layout.space(*pool) - taken)
        };
        let mut free: BTreeMap<usize, i128> = budgets.iter().map(free).collect();
        let leaving: BTreeSet<GuestId> = members.iter().map(|mover| mover.guest).collect();
        for mover in &self.movers {
            let facts = view.guest(mover.guest);
            for disk in &facts.disks {
                let pool = disk.pool.as_deref();
                let pool = pool.and_then(|name| view.layout.named(view.fleet, mover.home, name));
                let Some(free) = pool.and_then(|pool| free.get_mut(&view.layout.budget(pool)))
                else {
                    continue;
                };
                let (size, used) = (disk.virtual_size.0, i128::from(disk.allocated.0));
                let mut own = self.sizes(mover).map(|(kind, _)| kind);
                // What stays within takes its full size there again.
                let within = !mover.aimed
                    && !leaving.contains(&mover.guest)
                    && inside[mover.class]
                    && mover.overrides.is_some()
                    && own.all(|kind| kinds.contains(&kind));
                *free += if within {
                    (used - i128::from(size)).max(0)
                } else {
                    used
                };
            }
        }
        let amount = |mover: &Mover<'a>| -> i128 {
            let own = self.sizes(mover);
            let own = own.filter(|(kind, _)| kinds.contains(kind));
            own.map(|(_, size)| size).sum()
        };
        let members: Vec<&Mover<'a>> = members
            .iter()
            .copied()
            .filter(|mover| amount(mover) > 0)
            .collect();
        let left: i128 = free.values().map(|free| (*free).max(0)).sum();
        let mut names = kinds.iter().map(|(name, class)| match (name, class) {
            (_, Some(class)) => format!("pools of class {class}"),
            (Some(name), None) => format!("pool {name}"),
            (None, None) => "any pool".to_owned(),
        });
        let name = match (names.next(), names.next()) {
            (Some(name), None) => name,
            _ => "their pools".to_owned(),
        };
        // Where there is no pool at all it is not space that is short.
        let found = self.found(&Resource::Disk(name), &members, hosts, &amount, left);
        found.filter(|_| !budgets.is_empty())
    }

    /// What each disk of the guest asks for, and its size.
    fn sizes(&self, mover: &Mover<'a>) -> impl Iterator<Item = (Disk<'a>, i128)> {
        let disks = self.empty.view.guest(mover.guest).disks.iter();
        let overrides = mover.overrides.into_iter();
        overrides.flat_map(move |named| {
            disks.clone().map(move |disk| {
                let kind = match named.get(&disk.target) {
                    Some(pool) => (Some(pool.as_str()), None),
                    None => (disk.pool.as_deref(), disk.class.as_deref()),
                };
                (kind, i128::from(disk.virtual_size.0))
            })
        })
    }
}

/// The hosts that may take the guest if there is room.
fn eligible(view: &View<'_>, guest: GuestId, target: Option<HostId>) -> Vec<bool> {
    let mut may = vec![false; view.fleet.hosts.len()];
    for host in &view.open {
        let mut rules = view.rules.of(guest).filter(|(_, rule)| rule.required);
        may[host.at()] = target.is_none_or(|target| target == *host)
            && view.suits(guest, *host)
            && rules.all(|(_, rule)| rule.domain(*host).is_some());
    }
    may
}

/// The open pools of a host that take such a disk.
fn pools(view: &View<'_>, (name, class): Disk<'_>, host: HostId) -> impl Iterator<Item = usize> {
    let named = name.and_then(|name| view.layout.named(view.fleet, host, name));
    let all = view.host(host).pools.iter().enumerate();
    let open = all.filter(|(_, pool)| pool.closed.is_none());
    open.filter_map(move |(at, pool)| {
        let place = view.layout.pool(host, at);
        let alike = class.is_some() && pool.class.as_deref() == class;
        (alike || named == Some(place)).then_some(place)
    })
}
