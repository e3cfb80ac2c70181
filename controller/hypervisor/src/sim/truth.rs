//! What is really so in a simulated fleet, whatever any libvirtd says.

use std::collections::BTreeMap;

use evenkeel_engine::port::{ClaimRecord, DomainFacts};
use uuid::Uuid;

use super::{Fleet, Phase, facts, world::Kind};

impl Fleet {
    /// The hosts on which a QEMU executes the guest now.
    #[must_use]
    pub fn executing(&self, guest: Uuid) -> Vec<String> {
        self.world()
            .guests
            .get(&guest)
            .map_or_else(Vec::new, |truth| truth.executing.iter().cloned().collect())
    }

    /// Whether it ever executed on two hosts at once.
    #[must_use]
    pub fn ever_ran_twice(&self, guest: Uuid) -> bool {
        self.world()
            .guests
            .get(&guest)
            .is_some_and(|truth| truth.ever_twice)
    }

    /// How often it was started from its disks.
    #[must_use]
    pub fn boots(&self, guest: Uuid) -> u32 {
        self.world()
            .guests
            .get(&guest)
            .map_or(0, |truth| truth.boots)
    }

    /// How often programs paused it.
    #[must_use]
    pub fn suspended(&self, guest: Uuid) -> u32 {
        let world = self.world();
        world.guests.get(&guest).map_or(0, |truth| truth.suspended)
    }

    /// Whether some host has all of its newest data.
    #[must_use]
    pub fn is_whole(&self, guest: Uuid) -> bool {
        self.world().is_whole(guest)
    }

    /// The hosts that have all of its newest data.
    #[must_use]
    pub fn newest_on(&self, guest: Uuid) -> Vec<String> {
        self.world().whole_on(guest)
    }

    /// Every file in the host's pools, journals included.
    #[must_use]
    pub fn files(&self, host: &str) -> Vec<String> {
        self.world()
            .machines
            .get(host)
            .map_or_else(Vec::new, |machine| machine.files.keys().cloned().collect())
    }

    /// Every directory below those of the host's pools.
    #[must_use]
    pub fn directories(&self, host: &str) -> Vec<String> {
        let world = self.world();
        let machine = world.machines.get(host);
        machine.map_or_else(Vec::new, |machine| {
            machine.directories.iter().cloned().collect()
        })
    }

    /// How many files programs have written to their end.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.world().carried
    }

    /// The journals on all hosts: host and text.
    #[must_use]
    pub fn journals(&self) -> Vec<(String, String)> {
        let world = self.world();
        let mut found = Vec::new();
        for (host, machine) in &world.machines {
            for file in machine.files.values() {
                if let Kind::Journal(_, text) = &file.kind {
                    found.push((host.clone(), text.clone()));
                }
            }
        }
        found
    }

    /// The claims on all hosts.
    #[must_use]
    pub fn claims(&self) -> BTreeMap<String, ClaimRecord> {
        let world = self.world();
        let claims = world
            .machines
            .iter()
            .filter_map(|(host, machine)| Some((host.clone(), machine.claim.clone()?)));
        claims.collect()
    }

    /// A domain as its libvirtd has it.
    #[must_use]
    pub fn domain(&self, host: &str, guest: Uuid) -> Option<DomainFacts> {
        let world = self.world();
        let machine = world.machines.get(host)?;
        machine
            .domains
            .get(&guest)
            .map(|domain| facts::domain(machine, guest, domain))
    }

    /// How many migrations are under way.
    #[must_use]
    pub fn moving(&self) -> usize {
        self.world().moves.len()
    }

    /// How many guests came to run at the target of a migration so far.
    #[must_use]
    pub fn arrivals(&self) -> u64 {
        self.world().arrivals
    }

    /// How far the guest's migration is: a word, for choosing moments.
    #[must_use]
    pub fn phase(&self, guest: Uuid) -> Option<String> {
        let world = self.world();
        let own = world.moves.values().find(|own| own.guest == guest)?;
        Some(format!("{:?}", own.phase))
    }

    /// A guest whose migration is that far, with source and target.
    #[must_use]
    pub fn in_phase(&self, phase: Phase) -> Option<(Uuid, String, String)> {
        let world = self.world();
        let own = world.moves.values().find(|own| own.phase == phase)?;
        Some((own.guest, own.source.clone(), own.target.clone()))
    }

    /// What must never happen and did: files deleted that were in use, the last of their kind, or not ours.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.world().violations.clone()
    }
}
