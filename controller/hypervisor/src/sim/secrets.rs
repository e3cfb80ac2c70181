//! Secrets of simulated hosts.

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::port::{Fault, PortError, PortResult, SecretFacts, SecretUsage};
use uuid::Uuid;

use super::{
    Fleet,
    world::{Domain, Machine, Secret, World},
};

/// The value that opens a guest's disks.
pub(super) fn value_of(id: Uuid) -> Vec<u8> {
    format!("the passphrase of {id}").into_bytes()
}

/// One that belongs to its host, for a guest's disks.
pub(super) fn own(id: Uuid, value: Option<Vec<u8>>, private: bool) -> Secret {
    let facts = SecretFacts {
        id,
        description: String::new(),
        usage: Some(SecretUsage {
            kind: "volume".into(),
            name: format!("/disks of {id}"),
        }),
        ephemeral: false,
        private,
        brought_by: None,
    };
    Secret { facts, value }
}

/// What keeps a guest from being moved, as the secrets that open its disks are on its host.
pub(super) fn obstacles(machine: &Machine, domain: &Domain) -> Vec<Cause> {
    let ids = domain.disks.iter().filter_map(|disk| disk.secret);
    let wrong = ids.filter_map(|id| {
        let reason = match machine.secrets.get(&id) {
            None => Reason::SecretMissing,
            Some(secret) if secret.facts.private => Reason::SecretPrivate,
            Some(_) => return None,
        };
        Some(Cause::new(reason, format!("the secret {id}")))
    });
    wrong.collect()
}

impl Machine {
    /// Makes a volume that is opened by a secret: not without its value.
    pub(super) fn can_open(&self, secret: Option<Uuid>) -> PortResult<()> {
        let opens = |id| self.secrets.get(&id).is_some_and(|own| own.value.is_some());
        match secret {
            Some(id) if !opens(id) => Err(PortError::new(
                Fault::NotFound,
                format!("Secret not found: no secret with matching uuid '{id}'"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn secret_users(&self, id: Uuid) -> Vec<String> {
        let names = |domain: &&Domain| domain.disks.iter().any(|disk| disk.secret == Some(id));
        let users = self.domains.values().filter(names);
        users.map(|domain| domain.name.clone()).collect()
    }

    pub(super) fn define_secret(&mut self, facts: SecretFacts) -> PortResult<()> {
        let same = |own: &Secret| own.facts.id == facts.id || own.facts.usage == facts.usage;
        if self.secrets.values().any(same) {
            return Err(PortError::new(
                Fault::Exists,
                "already defined for use with it",
            ));
        }
        self.secrets.insert(facts.id, Secret { facts, value: None });
        Ok(())
    }
}

impl World {
    /// Removes a secret, and notes it where that must never be: one in use, or one that no move brought.
    pub(super) fn remove_secret(&mut self, host: &str, id: Uuid) {
        let Some(machine) = self.machine(host) else {
            return;
        };
        let Some(secret) = machine.secrets.remove(&id) else {
            return;
        };
        let users = machine.secret_users(id);
        if !users.is_empty() {
            let wrong = format!(
                "the secret {id} of {} was removed from {host}",
                users.join(", ")
            );
            self.violations.push(wrong);
        }
        if secret.facts.brought_by.is_none() {
            let wrong = format!("the secret {id} was removed from {host}, which is not ours");
            self.violations.push(wrong);
        }
    }

    /// A guest runs only where its disks are opened.
    pub(super) fn check_secrets(&mut self, host: &str, guest: Uuid) {
        let Some(machine) = self.machines.get(host) else {
            return;
        };
        let disks = machine.domains.get(&guest).map(|domain| &domain.disks);
        let ids = disks.into_iter().flatten().filter_map(|disk| disk.secret);
        let locked = ids.filter(|id| {
            let value = machine.secrets.get(id).and_then(|own| own.value.as_ref());
            value != Some(&value_of(*id))
        });
        let wrong: Vec<String> = locked
            .map(|id| format!("a guest runs on {host} without its secret {id}"))
            .collect();
        self.violations.extend(wrong);
    }
}

impl Fleet {
    /// Gives a host a secret, in the place of the one that it has of that UUID: with the right value, another one (`false`)
    /// or none; private or not.
    pub fn put_secret(&self, host: &str, id: Uuid, right: Option<bool>, private: bool) {
        let value = right.map(|right| match right {
            true => value_of(id),
            false => b"another".to_vec(),
        });
        if let Some(machine) = self.world().machine(host) {
            machine.secrets.insert(id, own(id, value, private));
        }
    }

    /// Has another secret of a host be for what that one is for.
    pub fn take_usage(&self, host: &str, id: Uuid) {
        let mut other = own(id, None, false);
        other.facts.id = Uuid::from_u128(1);
        if let Some(machine) = self.world().machine(host) {
            machine.secrets.insert(other.facts.id, other);
        }
    }

    /// Takes a secret from a host, as its owner.
    pub fn take_secret(&self, host: &str, id: Uuid) {
        if let Some(machine) = self.world().machine(host) {
            machine.secrets.remove(&id);
        }
    }

    /// The secrets of a host, and which move brought each, if it is not over.
    #[must_use]
    pub fn secrets(&self, host: &str) -> Vec<(Uuid, Option<Uuid>)> {
        let world = self.world();
        let secrets = world.machines.get(host).into_iter();
        let secrets = secrets.flat_map(|machine| machine.secrets.values());
        secrets
            .map(|own| (own.facts.id, own.facts.brought_by))
            .collect()
    }

    /// Hosts that have a secret that a move brought and has not settled with.
    #[must_use]
    pub fn unsettled_secrets(&self) -> Vec<String> {
        let world = self.world();
        let marked = |machine: &Machine| {
            let mut secrets = machine.secrets.values();
            secrets.any(|own| own.facts.brought_by.is_some())
        };
        let hosts = world.machines.iter().filter(|(_, machine)| marked(machine));
        hosts.map(|(host, _)| host.clone()).collect()
    }
}
