//! What a host's kernel has in memory of disks that were copied to it, and what a loss of power makes of that.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::world::{Kind, Qemu, World};

/// How long a kernel may keep in memory what was written: 30 s, and it looks every 5 s.
const WRITE_BACK: Duration = Duration::from_secs(35);

/// How long after a journal said so a program may pause a guest for a moment.
const HALT: Duration = Duration::from_secs(15);

/// Disks of a guest that were copied, and not flushed since.
#[derive(Debug)]
pub(super) struct Unwritten {
    until: Instant,
    paths: Vec<String>,
    /// Which of the guest's data the source has.
    stamp: u64,
    /// Since when the guest runs here.
    runs: Option<Instant>,
}

impl World {
    /// A guest is switched over: what it wrote since the copy was flushed is in the memory of the target's kernel.
    pub(super) fn leave_to_kernel(&mut self, host: &str, guest: Uuid, paths: Vec<String>) {
        let unwritten = Unwritten {
            until: Instant::now() + WRITE_BACK,
            paths,
            stamp: self.guests[&guest].newest,
            runs: None,
        };
        if let Some(machine) = self.machine(host) {
            machine.unwritten.insert(guest, unwritten);
        }
    }

    /// All of a guest's disks there are on stable storage.
    pub(super) fn flush(&mut self, host: &str, guest: Uuid) {
        if let Some(machine) = self.machine(host) {
            machine.unwritten.remove(&guest);
        }
    }

    /// A QEMU that is paused has flushed, and a guest that ran for a while has by itself.
    pub(super) fn account_for_flushes(
        &mut self,
        host: &str,
        guest: Uuid,
        before: Qemu,
        after: Qemu,
    ) {
        let ran = before == Qemu::Runs && after != Qemu::Runs;
        if ran && (after == Qemu::Still || self.flushes(host, guest) > 0) {
            self.flush(host, guest);
        }
        let runs = (after == Qemu::Runs).then(Instant::now);
        let machine = self.machine(host);
        if let Some(own) = machine.and_then(|machine| machine.unwritten.get_mut(&guest)) {
            own.runs = own.runs.filter(|_| runs.is_some()).or(runs);
        }
    }

    /// How often the guest has flushed since it runs there: not at all, or some time.
    pub(super) fn flushes(&self, host: &str, guest: Uuid) -> u64 {
        let Some(every) = self.guests.get(&guest).and_then(|truth| truth.flushes) else {
            return 0;
        };
        let unwritten = self.machines[host].unwritten.get(&guest);
        let ran = |own: &Unwritten| own.runs.is_some_and(|since| since.elapsed() >= every);
        u64::from(unwritten.is_none_or(ran))
    }

    /// The host loses its power: what its kernel had not written is gone. The guest's newest data is then what it was at
    /// its switch, and has to be at the source still.
    pub(super) fn lose_unwritten(&mut self, host: &str) {
        let Some(machine) = self.machine(host) else {
            return;
        };
        for (guest, lost) in std::mem::take(&mut machine.unwritten) {
            if lost.until <= Instant::now() {
                continue;
            }
            let Some(machine) = self.machine(host) else {
                return;
            };
            let mut torn = false;
            for path in &lost.paths {
                if let Some(file) = machine.files.get_mut(path)
                    && matches!(file.kind, Kind::Image(Some((own, _))) if own == guest)
                {
                    (file.kind, torn) = (Kind::Image(None), true);
                }
            }
            if !torn || self.is_whole(guest) {
                continue;
            }
            let ran = self.guests.get_mut(&guest);
            let ran = ran.map(|truth| std::mem::replace(&mut truth.newest, lost.stamp));
            // What lies where all hosts see it has what it wrote here, too, and it had flushed none of that: with the rest as
            // it was at the switch, that is a crash like any other.
            let machines = self.machines.values_mut();
            for file in machines.flat_map(|machine| machine.files.values_mut()) {
                if let Kind::Image(Some((own, data))) = &mut file.kind
                    && *own == guest
                    && Some(*data) == ran
                {
                    *data = lost.stamp;
                }
            }
            if !self.is_whole(guest) && !self.guests[&guest].ever_twice {
                let name = &self.guests[&guest].name;
                let wrong = format!("{host} lost its power, and with it the newest data of {name}");
                self.violations.push(wrong);
            }
        }
    }

    /// Notes that a guest is started from disks that lack what it wrote last.
    pub(super) fn object_to_torn(&mut self, host: &str, guest: Uuid) {
        let machine = &self.machines[host];
        let torn = machine.domains.get(&guest).is_some_and(|domain| {
            let files = domain
                .disks
                .iter()
                .filter_map(|disk| machine.files.get(&disk.path));
            files
                .into_iter()
                .any(|file| matches!(file.kind, Kind::Image(None)))
        });
        let truth = self.guests.get(&guest);
        if let Some(truth) = truth.filter(|truth| torn && truth.newest > 0 && !truth.ever_twice) {
            let wrong = format!(
                "{} was started on {host} without its last writes",
                truth.name
            );
            self.violations.push(wrong);
        }
    }

    /// A journal may say that its move pauses a guest for a moment.
    pub(super) fn hear_of_halts(&mut self, text: &str) {
        if text.contains(r#""halted":true"#) {
            let named = |guest: &Uuid| text.contains(&guest.to_string());
            for (_, truth) in self.guests.iter_mut().filter(|(guest, _)| named(guest)) {
                truth.halted = Some(Instant::now());
            }
        }
    }

    /// Whether a journal said so just now. Of two programs one may have ended the move before the other's call arrives.
    pub(super) fn is_halted(&self, guest: Uuid) -> bool {
        let said = self.guests.get(&guest).and_then(|truth| truth.halted);
        said.is_some_and(|said| said.elapsed() < HALT)
    }
}
