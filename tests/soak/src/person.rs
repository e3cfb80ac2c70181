//! What only a person does: starts what stopped, says which of two copies goes on, and removes what the other left.

use evenkeel_crds::shared::find;
use evenkeel_engine::{
    View,
    port::{Activity, Why},
};
use evenkeel_hypervisor::sim::{Fleet, Phase};
use uuid::Uuid;

use crate::forms::NETWORK;

/// Whether a move says that the guest ran on two hosts, and that somebody has to choose. Two libvirtds may show it so
/// although its QEMU on the one had just ended when the other went on.
pub fn is_told_of_two(view: &View, guest: &str) -> bool {
    let moves = view.migrations.values();
    let mut own = moves.filter(|shown| shown.spec.guest == guest);
    own.any(|shown| {
        let status = &shown.status;
        let cause = find(&status.conditions, "Succeeded");
        !status.phase.is_final() && cause.is_some_and(|cause| cause.reason == "RunsTwice")
    })
}

/// Looks after one guest; `told` that it ran twice. False where nothing is left of its data, which must never be.
pub fn tend(fleet: &Fleet, hosts: &[String], guest: Uuid, name: &str, told: bool) -> bool {
    let runs = fleet.executing(guest);
    let copies: Vec<&String> = hosts
        .iter()
        .filter(|host| fleet.domain(host, guest).is_some())
        .collect();
    match runs.as_slice() {
        // It is for the engine to suspend one.
        [_, _, ..] => true,
        [host] => {
            if told && fleet.newest_on(guest).contains(host) {
                fleet.believe_twice(guest);
            }
            let twice = fleet.ever_ran_twice(guest);
            let mut others = 0;
            for other in copies.into_iter().filter(|other| *other != host) {
                others += 1;
                let Some(copy) = fleet.domain(other, guest) else {
                    continue;
                };
                let suspended = copy.activity == Activity::Paused && copy.why == Why::ByUser;
                if !copy.job && fleet.phase(guest).is_none() && (suspended || twice) {
                    fleet.discard(other, guest);
                }
            }
            let journaled = fleet
                .journals()
                .iter()
                .any(|(_, text)| text.contains(&guest.to_string()));
            if twice && others == 0 && !journaled && fleet.phase(guest).is_none() {
                for other in hosts.iter().filter(|other| *other != host) {
                    for path in files_of(fleet, other, name) {
                        fleet.remove_file(other, &path);
                    }
                }
                fleet.forgive(guest);
            }
            true
        }
        [] => match fleet.phase(guest) {
            // Hung for ever: its disks are whole, its memory is lost.
            Some(phase) if phase == format!("{:?}", Phase::Stuck) => {
                if let Some(host) = copies.first() {
                    fleet.destroy(host, guest);
                }
                true
            }
            Some(_) => true,
            None => {
                let mut newest = fleet.newest_on(guest);
                restore(fleet, &newest, &copies, guest);
                newest.extend(fleet.newest_on(guest));
                for host in &newest {
                    let Some(copy) = fleet.domain(host, guest).filter(|copy| !copy.job) else {
                        continue;
                    };
                    if copy.persistent && !copy.activity.active() {
                        fleet.start_guest(host, guest);
                        break;
                    }
                    // By a migration whose end nobody can tell any more, too: this one has its last state.
                    let by = matches!(copy.why, Why::ByUser | Why::Migrating);
                    if copy.activity == Activity::Paused && by {
                        fleet.resume(host, guest);
                        break;
                    }
                }
                !newest.is_empty()
            }
        },
    }
}

/// Where the guest is defined only where its host lost what was not yet written, brings it its newest data.
fn restore(fleet: &Fleet, newest: &[String], copies: &[&String], guest: Uuid) {
    if let ([whole, ..], [torn]) = (newest, copies)
        && !newest.contains(torn)
    {
        fleet.copy_disks(whole, torn, guest);
    }
}

/// The files of a guest's disks on a host, but for those that all hosts see.
pub fn files_of(fleet: &Fleet, host: &str, name: &str) -> Vec<String> {
    let prefix = format!("/{name}-vd");
    let files = fleet.files(host).into_iter();
    files
        .filter(|path| path.contains(&prefix) && !path.starts_with(NETWORK))
        .collect()
}
