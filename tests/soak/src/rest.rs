//! What a fleet must be like once everything is mended and everybody is done.

use evenkeel_crds::shared::find;
use evenkeel_engine::{View, Wishes};
use evenkeel_hypervisor::sim::Fleet;
use uuid::Uuid;

use crate::{
    forms::{NETWORK, untrue},
    person::files_of,
};

/// An image below the disks of several guests, which stays wherever it once was.
pub const BASE: &str = "/pools/default/base.img";

/// Everything that is not as it must be.
pub fn unrest(
    fleet: &Fleet,
    hosts: &[String],
    guests: &[(Uuid, String)],
    wishes: &Wishes,
    view: &View,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if !view.settled {
        wrong.push("the view is not settled".to_owned());
    }
    for (host, _) in fleet.journals() {
        wrong.push(format!("a journal is left on {host}"));
    }
    for (host, claim) in fleet.claims() {
        wrong.push(format!("{host} is claimed by {}", claim.holder));
    }
    for host in fleet.unsettled_secrets() {
        wrong.push(format!("a secret that a move brought is left on {host}"));
    }
    if fleet.moving() > 0 {
        wrong.push(format!("{} migrations are under way", fleet.moving()));
    }
    for (guest, name) in guests {
        guest_at_rest(fleet, hosts, *guest, name, view, &mut wrong);
    }
    let owned = |host: &String| {
        let files = fleet.files(host).into_iter();
        files
            .filter(|path| path != BASE && !path.starts_with(NETWORK))
            .count()
    };
    let mut files: usize = hosts.iter().map(owned).sum();
    for (_, name) in guests {
        let own = hosts.iter().map(|host| files_of(fleet, host, name).len());
        files -= own.sum::<usize>();
    }
    if files > 0 {
        wrong.push(format!("{files} files belong to no guest"));
    }
    wrong.extend(untrue(fleet, guests, view));
    for name in wishes.drains.keys() {
        let status = view.drains.get(name.as_str());
        let drained = status.and_then(|status| find(&status.conditions, "Drained"));
        if drained.is_none_or(|drained| drained.status != "True") {
            let why = drained.map(|drained| (drained.reason.as_str(), drained.message.as_str()));
            wrong.push(format!("drain {name} is not done: {why:?}"));
        }
    }
    for (name, object) in &wishes.migrations {
        let status = object.status.as_ref();
        if !status.is_some_and(|status| status.phase.is_final()) {
            let shown = view.migrations.get(name.as_str());
            let why = shown
                .and_then(|shown| find(&shown.status.conditions, "Succeeded"))
                .map(|cause| (cause.reason.as_str(), cause.message.as_str()));
            let stored = status.map(|status| status.phase);
            let meta = &object.metadata;
            let known = (
                stored,
                &meta.deletion_timestamp,
                &meta.finalizers,
                &meta.labels,
            );
            wrong.push(format!("move {name} is not over: {why:?}, {known:?}"));
        }
    }
    wrong
}

/// It runs once, where everybody thinks it does, whole, with nothing of it elsewhere.
fn guest_at_rest(
    fleet: &Fleet,
    hosts: &[String],
    guest: Uuid,
    name: &str,
    view: &View,
    wrong: &mut Vec<String>,
) {
    let runs = fleet.executing(guest);
    let [home] = runs.as_slice() else {
        wrong.push(format!("{name} runs on {runs:?}"));
        return;
    };
    if !fleet.newest_on(guest).contains(home) {
        wrong.push(format!("{name} runs on {home} without its newest data"));
    }
    if fleet.ever_ran_twice(guest) {
        wrong.push(format!("{name} ran twice and nobody has put it in order"));
    }
    for host in hosts {
        let files = files_of(fleet, host, name);
        let copy = fleet.domain(host, guest);
        if host != home {
            if copy.is_some() {
                wrong.push(format!("{host} has a copy of {name}, which runs on {home}"));
            }
            if !files.is_empty() {
                wrong.push(format!("{host} keeps {files:?}, {name} runs on {home}"));
            }
            continue;
        }
        if files.len() != 1 {
            wrong.push(format!("{name} on {home} has files {files:?}"));
        }
        let Some(copy) = copy else {
            continue;
        };
        if copy.mark.is_some() || copy.job || !copy.persistent || !copy.autostart {
            wrong.push(format!(
                "{name} on {home}: mark {:?}, job {}, persistent {}, autostart {}",
                copy.mark, copy.job, copy.persistent, copy.autostart
            ));
        }
    }
    let shown = view.guests.get(name);
    let host = shown.and_then(|shown| shown.status.host.as_deref());
    if host != Some(home) {
        wrong.push(format!("{name} runs on {home} and is shown on {host:?}"));
    }
}
