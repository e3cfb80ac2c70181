//! What must always hold in a fleet, checked at every change: a guest's newest data is never removed, nothing that is in
//! use or somebody else's either, and no program ends or doubles a guest.

use std::time::Duration;

use evenkeel_engine::port::Activity;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    migration::Phase,
    world::{Domain, File, Kind, Machine, Qemu, World},
};

/// How long a guest that somebody started may be unknown to a program that reserves memory.
const UNKNOWN: Duration = Duration::from_secs(60);

/// How long after a switch has begun a program that hears of events knows of it.
const KNOWN: Duration = Duration::from_millis(100);

/// How long after a link has died a program that asks how much was copied sees that.
const SEEN: Duration = Duration::from_secs(4);

/// How a guest is on all other hosts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Elsewhere {
    pub(super) runs: bool,
    /// A libvirtd shows it as running: its QEMU may have ended just now.
    pub(super) shown: bool,
    /// It has arrived there, or never left.
    pub(super) holds: bool,
    pub(super) defined: bool,
}

impl World {
    /// What a domain's QEMU does from now on. This is the truth that invariants are checked against.
    pub(super) fn qemu(&mut self, host: &str, uuid: Uuid, qemu: Qemu) {
        let Some(domain) = self.domain(host, uuid) else {
            return;
        };
        let before = std::mem::replace(&mut domain.qemu, qemu);
        let paths: Vec<String> = domain.disks.iter().map(|disk| disk.path.clone()).collect();
        self.account_for_flushes(host, uuid, before, qemu);
        let truth = self.guests.entry(uuid).or_default();
        if qemu != Qemu::Runs {
            truth.executing.remove(host);
            return;
        }
        if before == Qemu::Runs {
            return;
        }
        truth.executing.insert(host.to_owned());
        truth.ever_twice |= truth.executing.len() > 1;
        truth.newest += 1;
        let newest = truth.newest;
        let (name, mut files) = (truth.name.clone(), truth.files.clone());
        for path in paths {
            match self
                .machines
                .get_mut(host)
                .and_then(|machine| machine.files.get_mut(&path))
            {
                Some(file) => {
                    file.kind = Kind::Image(Some((uuid, newest)));
                    files.extend(
                        file.backing
                            .clone()
                            .map(|base| (base.clone(), base.into_bytes())),
                    );
                }
                None => self
                    .violations
                    .push(format!("{name} runs on {host} without its file {path}")),
            }
        }
        self.spread(host);
        self.check_secrets(host, uuid);
        for (path, wanted) in files {
            let found = self.machines.get(host).and_then(|own| own.files.get(&path));
            if !matches!(found.map(|file| &file.kind), Some(Kind::Plain { content, .. }) if *content == wanted)
            {
                self.violations
                    .push(format!("{name} runs on {host} without {path} as it was"));
            }
        }
    }

    /// Removes a file, and notes it where that must never be: one in use, somebody else's, or the newest data of a guest
    /// that does not live elsewhere from files of its own.
    pub(super) fn delete(&mut self, host: &str, path: &str) {
        let Some(file) = self
            .machine(host)
            .and_then(|machine| machine.files.remove(path))
        else {
            return;
        };
        // On network storage it is gone from every host.
        let store = self.machines[host].store_of(path).cloned();
        let sees = |name: &String, machine: &Machine| {
            name == host || store.is_some() && machine.store_of(path) == store.as_ref()
        };
        let users: Vec<String> = self
            .machines
            .iter()
            .filter(|(name, machine)| sees(name, machine))
            .flat_map(|(_, machine)| {
                let names =
                    |domain: &&Domain| machine.named_by(domain).iter().any(|own| own == path);
                machine.domains.values().filter(names)
            })
            .map(|domain| domain.name.clone())
            .collect();
        let mut wrong = |why: String| {
            self.violations
                .push(format!("{path} on {host} was deleted, {why}"));
        };
        if !users.is_empty() {
            wrong(format!("which {} names", users.join(", ")));
        }
        match file.kind {
            Kind::Foreign | Kind::Plain { kept: true, .. } => wrong("which is not ours".to_owned()),
            Kind::Image(Some((guest, stamp))) => {
                let newest = self.guests[&guest].newest == stamp;
                if newest && !self.lives_elsewhere(guest, host) {
                    let name = self.guests[&guest].name.clone();
                    self.violations.push(format!(
                        "{path} on {host} was deleted, the newest data of {name}"
                    ));
                }
            }
            Kind::Image(None) | Kind::Journal(..) | Kind::Plain { kept: false, .. } => {}
        }
    }

    /// Whether another host has the guest, arrived or never gone, and all of its newest data.
    fn lives_elsewhere(&self, guest: Uuid, host: &str) -> bool {
        self.whole_on(guest).iter().any(|other| {
            let domain = self.machines[other].domains.get(&guest);
            other != host && domain.is_some_and(|domain| domain.incoming.is_none())
        })
    }

    /// Notes that a program did to a guest here what must not be done, as things are with it elsewhere.
    pub(super) fn object_if(
        &mut self,
        guest: Uuid,
        host: &str,
        did: &str,
        wrong: impl FnOnce(Elsewhere) -> bool,
    ) {
        let mut elsewhere = Elsewhere::default();
        for (name, machine) in &self.machines {
            if let Some(domain) = machine.domains.get(&guest).filter(|_| name != host) {
                elsewhere.runs |= domain.qemu == Qemu::Runs;
                elsewhere.shown |= domain.activity == Activity::Running;
                elsewhere.holds |= domain.qemu != Qemu::None && domain.incoming.is_none();
                elsewhere.defined |= domain.persistent;
            }
        }
        if wrong(elsewhere) {
            let name = self
                .guests
                .get(&guest)
                .map_or("", |truth| truth.name.as_str());
            self.violations.push(format!(
                "{name} was {did} on {host}: elsewhere {elsewhere:?}"
            ));
        }
    }

    /// Notes that a program aborted a switch that had begun long enough for it to know before the call was sent.
    pub(super) fn object_to_abort(&mut self, guest: Uuid, sent: Instant) {
        use Phase::{Confirm, Finish, PostCopy, Stuck, Switch};
        let known = |own: &super::migration::Move| {
            own.guest == guest
                && matches!(own.phase, Switch | Finish | Confirm | PostCopy | Stuck)
                && sent.saturating_duration_since(own.paused_at) > KNOWN
        };
        if self.moves.values().any(known) {
            let name = self.guests[&guest].name.clone();
            self.violations
                .push(format!("the migration of {name} was aborted in its switch"));
        }
    }

    /// Notes that a program aborted a copy of memory over a link that had been dead long enough for it to see that.
    pub(super) fn object_to_freezing(&mut self, guest: Uuid, sent: Instant) {
        let dead = |own: &super::migration::Move| {
            own.guest == guest
                && own.phase == Phase::Memory
                && self.silence(own) != (false, false)
                && own
                    .silent
                    .is_some_and(|since| sent.saturating_duration_since(since) > SEEN)
        };
        if self.moves.values().any(dead) {
            let name = &self.guests[&guest].name;
            self.violations.push(format!(
                "the migration of {name} was aborted over a dead link"
            ));
        }
    }

    /// Notes where a program gave a host more migrations at once than it may have.
    pub(super) fn count_moves(&mut self, source: &str, target: &str) {
        let Some((inbound, outbound)) = self.nature.most else {
            return;
        };
        let under_way = self.moves.values().filter(|own| own.phase != Phase::End);
        let (mut coming, mut leaving) = (0, 0);
        for own in under_way {
            coming += usize::from(own.target == target);
            leaving += usize::from(own.source == source);
        }
        if coming > inbound {
            let wrong = format!("{coming} of {inbound} migrations go to {target}");
            self.violations.push(wrong);
        }
        if leaving > outbound {
            let wrong = format!("{leaving} of {outbound} migrations leave {source}");
            self.violations.push(wrong);
        }
    }

    /// Notes where a program gave a host more memory to hold than it has. What somebody started there just now is not
    /// held against it.
    pub(super) fn count_memory(&mut self, host: &str) {
        if self.nature.most.is_none() {
            return;
        }
        let machine = &self.machines[host];
        let fresh = |uuid: &Uuid| {
            let booted = self.guests.get(uuid).and_then(|truth| truth.booted);
            booted.is_some_and(|booted| booted.elapsed() < UNKNOWN)
        };
        let held: u64 = machine
            .domains
            .iter()
            .filter(|(uuid, domain)| domain.activity.active() && !fresh(uuid))
            .map(|(_, domain)| domain.memory)
            .sum();
        if held > machine.memory {
            let wrong = format!("{held} bytes of {} are held on {host}", machine.memory);
            self.violations.push(wrong);
        }
    }

    /// Notes that a pool that nobody else wrote to has no room for what a program sent there.
    pub(super) fn blame_for_room(&mut self, host: &str, path: &str) {
        let pool = self.machines[host].pool_of(path);
        if pool.is_some_and(|pool| pool.taken == 0) && self.nature.most.is_some() {
            let wrong = format!("there is no room for {path} on {host}");
            self.violations.push(wrong);
        }
    }

    /// Whether some host has all of a guest's newest data.
    pub(super) fn is_whole(&self, guest: Uuid) -> bool {
        !self.whole_on(guest).is_empty()
    }

    pub(super) fn whole_on(&self, guest: Uuid) -> Vec<String> {
        let Some(truth) = self.guests.get(&guest) else {
            return Vec::new();
        };
        let newest = |file: &&File| matches!(file.kind, Kind::Image(Some(data)) if data == (guest, truth.newest));
        // Where it executes its data is newest, even where it does so twice.
        self.machines
            .iter()
            .filter(|(host, machine)| {
                let runs = truth.executing.contains(*host);
                runs || machine.files.values().filter(newest).count() >= truth.disks
            })
            .map(|(host, _)| host.clone())
            .collect()
    }
}
