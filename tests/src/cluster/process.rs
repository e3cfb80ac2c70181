//! Processes by number and start time, and a server that can be killed, paused and started again.
//!
//! A number alone may have been given to somebody else since; number and start time together name one process.
//! Knows nothing of Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Notes the process in a record before it becomes the server.
const LAUNCH: &str = include_str!("launch.sh");

/// How long a process may take to vanish after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take to end by itself after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// One process, told apart from others that had or will have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process number.
    pub number: u32,
    /// When it started, in clock ticks since the machine did (`/proc/NUMBER/stat`, field 22).
    pub start: u64,
}

impl ProcessId {
    /// The process that has this number now; none if there is none or only its exit status is left.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // The second field is the program's name in brackets and may hold anything, brackets included.
        let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self { number, start })
    }

    /// This process itself.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Is it still there?
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.number) == Some(self)
    }

    fn from_record(record: &Path) -> Option<Self> {
        let text = fs::read_to_string(record).ok()?;
        let (number, start) = text.trim().split_once(' ')?;
        Some(Self {
            number: number.parse().ok()?,
            start: start.parse().ok()?,
        })
    }

    fn signal(self, name: &str) -> Result<()> {
        if !self.is_alive() {
            bail!("process {} is gone", self.number);
        }
        // The shell's own `kill`: no unsafe code, and no program that a small machine may lack.
        let status = Command::new("sh")
            .args([
                "-c",
                "kill -s \"$0\" \"$1\"",
                name,
                &self.number.to_string(),
            ])
            .stderr(Stdio::null())
            .status()
            .context("cannot run sh")?;
        if !status.success() && self.is_alive() {
            bail!("cannot send SIG{name} to process {}", self.number);
        }
        Ok(())
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct ServerCommand {
    /// The program, by its whole path.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Where its output goes, appended.
    pub(crate) log: PathBuf,
}

/// One of the cluster's server processes. All calls take `&self`, so that a test may hold it across threads.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    record: PathBuf,
    command: ServerCommand,
    /// Set where this process started the server and so has to collect its exit status.
    child: Mutex<Option<Child>>,
}

impl Server {
    pub(crate) fn new(name: &'static str, state: &Path, command: ServerCommand) -> Self {
        Self {
            name,
            record: state.join(format!("{name}.process")),
            command,
            child: Mutex::new(None),
        }
    }

    /// The program's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The file its output goes to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.command.log
    }

    /// The process, if it runs (or is paused).
    #[must_use]
    pub fn process(&self) -> Option<ProcessId> {
        ProcessId::from_record(&self.record).filter(|process| process.is_alive())
    }

    /// Starts it, in a session of its own so that a Ctrl-C at the terminal does not reach it.
    ///
    /// # Errors
    /// If it runs already or the process cannot be made. A server that starts and then fails is no error here.
    pub fn start(&self) -> Result<()> {
        if self.process().is_some() {
            bail!("{} runs already", self.name);
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.command.log)
            .with_context(|| format!("cannot write {}", self.command.log.display()))?;
        let child = Command::new("setsid")
            .args(["sh", "-c", LAUNCH])
            .arg(&self.record)
            .arg(&self.command.program)
            .args(&self.command.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {} (by setsid, of util-linux)", self.name))?;
        let number = child.id();
        *self.child() = Some(child);
        // Until the record is there, process() would say that nothing runs.
        let deadline = Instant::now() + KILL_TIMEOUT;
        while ProcessId::from_record(&self.record).is_none_or(|recorded| recorded.number != number)
        {
            if self.exited() || Instant::now() > deadline {
                bail!("{} did not start: {}", self.name, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// SIGKILL, and waits until it is gone. No error if it does not run.
    ///
    /// # Errors
    /// If the signal cannot be sent or the process stays.
    pub fn kill(&self) -> Result<()> {
        if let Some(process) = self.process() {
            process.signal("KILL")?;
            self.wait_until_gone(process, KILL_TIMEOUT)?;
        }
        self.exited();
        Ok(())
    }

    /// SIGTERM, and waits until it has ended by itself; after 30 seconds SIGKILL.
    ///
    /// # Errors
    /// If the signal cannot be sent or the process stays.
    pub fn stop(&self) -> Result<()> {
        if let Some(process) = self.process() {
            process.signal("TERM")?;
            if self.wait_until_gone(process, STOP_TIMEOUT).is_err() {
                return self.kill();
            }
        }
        self.exited();
        Ok(())
    }

    /// SIGSTOP: it keeps its connections and answers nothing, as a server does whose machine hangs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        self.running()?.signal("STOP")
    }

    /// SIGCONT, after [`Server::pause`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal("CONT")
    }

    /// The end of its log, for a message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.command.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
        format!(
            "the end of {}:\n{}",
            self.command.log.display(),
            tail.trim()
        )
    }

    /// Collects the exit status if this process started it and it has ended; says whether it has.
    pub(crate) fn exited(&self) -> bool {
        let mut child = self.child();
        let ended = child
            .as_mut()
            .is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            *child = None;
        }
        ended
    }

    fn running(&self) -> Result<ProcessId> {
        self.process()
            .with_context(|| format!("{} does not run", self.name))
    }

    fn wait_until_gone(&self, process: ProcessId, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while process.is_alive() {
            if Instant::now() > deadline {
                bail!("{} (process {}) does not end", self.name, process.number);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive());
        assert!(
            !ProcessId {
                start: process.start + 1,
                ..process
            }
            .is_alive()
        );
        process.signal("KILL").unwrap();
        while process.is_alive() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its exit status is still there; that does not count as alive.
        assert!(Path::new(&format!("/proc/{}", process.number)).exists());
        child.wait().unwrap();
    }

    #[test]
    fn a_server_is_not_started_where_its_record_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join("started");
        let command = ServerCommand {
            program: "/usr/bin/touch".into(),
            arguments: vec![marker.display().to_string()],
            log: folder.path().join("log"),
        };
        let server = Server::new("touch", &folder.path().join("gone"), command);
        assert!(server.start().is_err());
        assert!(!marker.exists());
    }
}
