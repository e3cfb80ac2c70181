//! Rings of moves that wait for each other: each has room only when the next has left.
//!
//! [`innermost`] gives those that have to be broken first; where nothing breaks one, it is refused with the names of its
//! members, which [`find`] gives in order.

use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::Job;
use crate::model::HostId;
use crate::view::View;

/// The rings among jobs that are stuck: each job waits for the next one of its ring to leave its target.
/// Where there is none, each stuck job by itself.
pub(crate) fn find(jobs: &[Job<'_>], stuck: &[usize]) -> Vec<Vec<usize>> {
    let waits_for = |job: usize| {
        let leaves = |other: &&usize| jobs[**other].source == jobs[job].target;
        stuck.iter().find(leaves).copied()
    };
    let mut rings = Vec::new();
    // Which walk came by; a walk that meets its own steps has found a ring.
    let mut walked = vec![None; jobs.len()];
    for (walk, first) in stuck.iter().enumerate() {
        let mut at = *first;
        let mut path = Vec::new();
        while walked[at].is_none() {
            walked[at] = Some(walk);
            path.push(at);
            match waits_for(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        let start = path.iter().position(|job| *job == at);
        if let (Some(start), Some(next)) = (start, waits_for(at))
            && path.contains(&next)
            && walked[next] == Some(walk)
        {
            rings.push(path.split_off(start));
        }
    }
    if rings.is_empty() {
        rings.extend(stuck.iter().map(|job| vec![*job]));
    }
    rings
}

/// Of jobs that wait, each with the hosts that it goes from and to, those between hosts that wait for each other and
/// for no others. None where the last ones in the row wait for something else than room.
pub(crate) fn innermost(waiting: &[(usize, HostId, HostId)]) -> Vec<usize> {
    let mut next: BTreeMap<HostId, Vec<HostId>> = BTreeMap::new();
    let mut back: BTreeMap<HostId, Vec<HostId>> = BTreeMap::new();
    for (_, from, to) in waiting {
        next.entry(*from).or_default().push(*to);
        back.entry(*to).or_default().push(*from);
    }
    // Kosaraju: the hosts in the order in which a walk is done with them, then backwards from the last ones.
    let hosts: Vec<HostId> = next.keys().chain(back.keys()).copied().collect();
    let mut seen = BTreeSet::new();
    let mut done = Vec::new();
    for host in hosts {
        walk(&next, host, &mut seen, &mut done);
    }
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for host in done.iter().rev() {
        let mut group = Vec::new();
        walk(&back, *host, &mut seen, &mut group);
        if !group.is_empty() {
            groups.push(group);
        }
    }
    let mut group = BTreeMap::new();
    for (number, hosts) in groups.iter().enumerate() {
        group.extend(hosts.iter().map(|host| (*host, number)));
    }
    let within = |(_, from, to): &&(usize, HostId, HostId)| group.get(from) == group.get(to);
    let inner = waiting.iter().filter(within);
    let last = inner.clone().map(|(_, from, _)| group.get(from)).max();
    let last = inner.filter(|(_, from, _)| Some(group.get(from)) == last);
    last.map(|(job, _, _)| *job).collect()
}

/// Walks on from the host to what was not seen before; each host is added when the walk leaves it for good.
fn walk(
    next: &BTreeMap<HostId, Vec<HostId>>,
    from: HostId,
    seen: &mut BTreeSet<HostId>,
    done: &mut Vec<HostId>,
) {
    let mut path: Vec<(HostId, usize)> = Vec::new();
    if seen.insert(from) {
        path.push((from, 0));
    }
    while let Some((host, place)) = path.last_mut() {
        let other = next
            .get(host)
            .and_then(|others| others.get(*place))
            .copied();
        *place += 1;
        match other {
            Some(other) if seen.insert(other) => path.push((other, 0)),
            Some(_) => {}
            None => {
                done.push(*host);
                path.pop();
            }
        }
    }
}

/// Why a member of a ring can't move.
pub(crate) fn sentence(view: &View<'_>, jobs: &[Job<'_>], ring: &[usize], member: usize) -> String {
    let guest = |job: usize| view.guest(jobs[job].ask.guest).name.as_str();
    let target = |job: usize| view.host(jobs[job].target).name.as_str();
    let place = ring
        .iter()
        .position(|job| *job == member)
        .unwrap_or_default();
    let (name, host) = (guest(member), target(member));
    if ring.len() < 2 {
        return format!("{host} never has room for {name}: what would have to leave it can't");
    }
    let next = ring[(place + 1) % ring.len()];
    let all: Vec<String> = ring
        .iter()
        .cycle()
        .skip(place)
        .take(ring.len())
        .map(|job| format!("{} to {}", guest(*job), target(*job)))
        .collect();
    format!(
        "{host} has room for {name} only when {} has left it, and that waits for {name} in turn: a ring of {} moves ({})",
        guest(next),
        ring.len(),
        all.join(", "),
    )
}
