//! Processes meant by id and start time together, so that an id the kernel gave away again is never mistaken.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::command::run;

/// A process on this machine, as seen from outside the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its process id in the root PID namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl Process {
    /// The living process with this id.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let started = started(pid)?;
        Some(Self { pid, started })
    }

    /// What a launcher wrote down: `PID START`.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut words = text.split_whitespace();
        match (words.next().map(str::parse), words.next().map(str::parse)) {
            (Some(Ok(pid)), Some(Ok(started))) => Ok(Self { pid, started }),
            _ => bail!("{} has no process in it: {text:?}", file.display()),
        }
    }

    /// Whether this very process is still there and not just a zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Sends a signal, `KILL`, `TERM`, `STOP`, `CONT`; nothing happens to a process that is gone.
    ///
    /// # Errors
    /// Fails if the process is there and the signal could not be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        if self.is_alive()
            && let Err(error) = run("kill", ["-s", signal, &self.pid.to_string()])
            && self.is_alive()
        {
            return Err(error);
        }
        Ok(())
    }

    /// Waits until it is gone.
    ///
    /// # Errors
    /// Fails if it is still there after `limit`.
    pub fn wait_gone(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > end {
                bail!("process {} is still there after {limit:?}", self.pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its command line, a word each; empty for a zombie.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let raw = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = raw.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    }
}

/// All processes in the same PID namespace as `init`, it included.
pub(crate) fn same_namespace(init: Process) -> Result<Vec<Process>> {
    let wanted = fs::read_link(format!("/proc/{}/ns/pid", init.pid)).context("the host is off")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process may end while we look.
        let same =
            fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|namespace| namespace == wanted);
        if same && let Some(process) = Process::of(pid) {
            found.push(process);
        }
    }
    Ok(found)
}

/// The id a process has inside the innermost PID namespace it is in.
pub(crate) fn inner_id(process: Process) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last()?.parse().ok()
}

fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    match *fields.first()? {
        "Z" | "X" => None,
        _ => fields.get(19)?.parse().ok(),
    }
}
