//! The hosts' cables: how fast they are, and whether they are there at all.

use anyhow::{Result, ensure};

use super::command::{command, output, run};
use super::host::Host;

/// An address no card has: frames to it are lost without a word.
const NOBODY: &str = "02:00:00:00:00:01";

impl Host<'_> {
    /// Limits its link to so many bytes per second in each direction; `None` lifts the limit.
    ///
    /// # Errors
    /// Fails if the rate is under 1 KiB per second or the kernel refuses it.
    pub fn rate(&self, bytes_per_second: Option<u64>) -> Result<()> {
        let cable = self.cable();
        let Some(rate) = bytes_per_second else {
            // There may be no limit to lift.
            drop(output(&mut self.command_of_network(&[
                "tc", "qdisc", "del", "dev", "eth0", "root",
            ])?));
            drop(run("tc", ["qdisc", "del", "dev", &cable, "root"]));
            return Ok(());
        };
        ensure!(
            rate >= 1024,
            "a link of {rate} bytes per second is too slow to be of use"
        );
        // Enough for a large segment at once, and for 10 ms at full rate.
        let burst = (rate / 100).max(128 * 1024).to_string();
        let rate = format!("{rate}bps");
        let queue = [
            "root", "tbf", "rate", &rate, "burst", &burst, "latency", "200ms",
        ];
        let start = ["tc", "qdisc", "replace", "dev"];
        let inside: Vec<_> = start
            .iter()
            .chain(&["eth0"])
            .chain(&queue)
            .copied()
            .collect();
        output(&mut self.command_of_network(&inside)?)?;
        run(
            "tc",
            start.iter().skip(1).chain(&[cable.as_str()]).chain(&queue),
        )?;
        Ok(())
    }

    /// Pulls its cable: nothing reaches it or leaves it, neither from the machine nor from other hosts. Nobody is
    /// told; connections just fall silent.
    ///
    /// # Errors
    /// Fails if the device is gone.
    pub fn cut(&self) -> Result<()> {
        run("ip", ["link", "set", &self.cable(), "down"]).map(drop)
    }

    /// Plugs its cable in again and undoes all [`Host::cut_from`] and [`Host::cut_from_machine`].
    ///
    /// # Errors
    /// Fails if a device is gone.
    pub fn heal(&self) -> Result<()> {
        let bridge = self.lab().layout().bridge();
        for host in self.lab().hosts() {
            if host.name() != self.name() {
                forget(self, host.address());
                forget(&host, self.address());
            }
        }
        forget(self, &self.lab().gateway());
        drop(run(
            "ip",
            ["neighbour", "del", self.address(), "dev", &bridge],
        ));
        run("ip", ["link", "set", &self.cable(), "up"]).map(drop)
    }

    /// Cuts it from one other host, in both directions; both stay reachable from the machine.
    ///
    /// # Errors
    /// Fails if the kernel refuses it.
    pub fn cut_from(&self, other: &Host<'_>) -> Result<()> {
        lose(self, other.address())?;
        lose(other, self.address())
    }

    /// Cuts it from the machine, where the controller is; the hosts still see each other.
    ///
    /// # Errors
    /// Fails if the kernel refuses it.
    pub fn cut_from_machine(&self) -> Result<()> {
        lose(self, &self.lab().gateway())?;
        let bridge = self.lab().layout().bridge();
        let words = [
            "neighbour",
            "replace",
            self.address(),
            "lladdr",
            NOBODY,
            "dev",
            &bridge,
            "nud",
            "permanent",
        ];
        run("ip", words).map(drop)
    }

    pub(crate) fn ip(&self, words: &[&str]) -> Result<()> {
        let words: Vec<_> = std::iter::once(&"ip").chain(words).copied().collect();
        output(&mut self.command_of_network(&words)?).map(drop)
    }

    /// In its network only, also while its power is off.
    fn command_of_network(&self, words: &[&str]) -> Result<std::process::Command> {
        let target = format!("--target={}", self.holder()?.pid);
        Ok(command(
            "nsenter",
            [target.as_str(), "--net", "--"].iter().chain(words),
        ))
    }

    fn cable(&self) -> String {
        self.lab().layout().cable(self.record().index)
    }
}

fn lose(host: &Host<'_>, address: &str) -> Result<()> {
    host.ip(&[
        "neighbour",
        "replace",
        address,
        "lladdr",
        NOBODY,
        "dev",
        "eth0",
        "nud",
        "permanent",
    ])
}

fn forget(host: &Host<'_>, address: &str) {
    // There may be nothing to forget, or the other host is gone.
    drop(host.ip(&["neighbour", "del", address, "dev", "eth0"]));
}
