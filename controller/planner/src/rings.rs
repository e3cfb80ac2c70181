//! Rings of moves that wait for each other: each has room only when the next has left.
//!
//! In this form a ring is refused, with the names of its members. Sending one of them through a third host belongs
//! here: [`find`] gives each ring as a whole, its moves in order.

use crate::schedule::Job;
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
