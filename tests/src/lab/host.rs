//! One host of the lab: running things on it, and its libvirtd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Lab;
use super::command::{command, output};
use super::process::{self, Process};
use super::record::HostRecord;

/// How long a call of `virsh` may take unless said otherwise: longer than libvirt's own patience with a busy job.
const VIRSH_LIMIT: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(60);
/// What a service manager does for libvirtd.
const LIBVIRTD: &str = include_str!("../../lab/libvirtd.sh");

/// A libvirt host of a lab.
#[derive(Debug, Clone)]
pub struct Host<'lab> {
    lab: &'lab Lab,
    record: HostRecord,
}

impl<'lab> Host<'lab> {
    pub(crate) fn new(lab: &'lab Lab, record: HostRecord) -> Self {
        Self { lab, record }
    }

    /// Its name in the lab and in manifests.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its IPv4 address, reached from the machine and from the other hosts.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.record.address
    }

    /// How its libvirtd is reached, from anywhere on the machine and from the other hosts.
    #[must_use]
    pub fn uri(&self) -> String {
        match self.lab.is_encrypted() {
            true => format!("qemu+tls://{}/system", self.record.address),
            false => self.plain_uri(),
        }
    }

    /// How it is reached by plain TCP, where the lab is plain or its description says so.
    #[must_use]
    pub fn plain_uri(&self) -> String {
        format!("qemu+tcp://{}/system", self.record.address)
    }

    /// The same for `virsh` on this machine: with the place of the lab's keys, where it needs them.
    #[must_use]
    pub fn virsh_uri(&self) -> String {
        let keys = self.lab.layout().client_keys();
        match self.lab.is_encrypted() {
            true => format!("{}?pkipath={}", self.uri(), keys.display()),
            false => self.uri(),
        }
    }

    /// The port its libvirtd listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        if self.lab.is_encrypted() {
            16514
        } else {
            16509
        }
    }

    /// What the lab wrote down about it.
    #[must_use]
    pub fn record(&self) -> &HostRecord {
        &self.record
    }

    /// Runs `virsh --connect URI ARGS...` in the machine's root namespace, for at most 90 seconds.
    ///
    /// # Errors
    /// Fails with what virsh said if it fails.
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        self.virsh_within(VIRSH_LIMIT, args)
    }

    /// [`Host::virsh`] with a limit of one's own.
    ///
    /// # Errors
    /// Fails with what virsh said if it fails or takes longer.
    pub fn virsh_within(&self, limit: Duration, args: &[&str]) -> Result<String> {
        let seconds = format!("{:.3}", limit.as_secs_f64());
        let uri = self.virsh_uri();
        let start = [
            "--kill-after=2",
            &seconds,
            "virsh",
            "--quiet",
            "--connect",
            &uri,
        ];
        let mut command = command("timeout", start.iter().chain(args));
        output(command.env("LIBVIRT_AUTH_FILE", self.lab.layout().passwords()))
    }

    /// `virsh --connect URI ARGS...` as a [`Command`] that has not been started and has no limit: to run in the
    /// background, to kill, to read its output.
    #[must_use]
    pub fn virsh_command(&self, args: &[&str]) -> Command {
        let uri = self.virsh_uri();
        let mut command = command("virsh", ["--quiet", "--connect", &uri].iter().chain(args));
        command.env("LIBVIRT_AUTH_FILE", self.lab.layout().passwords());
        command
    }

    /// A command to be run on the host, in all its namespaces.
    ///
    /// # Errors
    /// Fails if the host is off.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let init = self.init()?;
        if !init.is_alive() {
            bail!("host {} is off", self.name());
        }
        let target = format!("--target={}", init.pid);
        let start = [target.as_str(), "--mount", "--uts", "--net", "--pid", "--"];
        Ok(command("nsenter", start.iter().chain(words)))
    }

    /// Runs a command on the host to its end; what it wrote to its standard output.
    ///
    /// # Errors
    /// Fails if the host is off or the command fails.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        output(&mut self.command(words)?)
    }

    /// Where a file of the host is found from outside; also while its power is off. Not for `/run` and `/proc`.
    ///
    /// # Errors
    /// Fails if the host was never built.
    pub fn outside(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!(
            "/proc/{}/root{path}",
            self.holder()?.pid
        )))
    }

    /// Its libvirtd, if it runs.
    ///
    /// # Errors
    /// Fails if the host's processes cannot be listed.
    pub fn libvirtd(&self) -> Result<Option<Process>> {
        let init = self.init()?;
        let file = format!("/proc/{}/root/run/libvirtd.pid", init.pid);
        let Some(wanted) = fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
        else {
            return Ok(None);
        };
        let processes = process::same_namespace(init)?;
        let found = processes
            .into_iter()
            .find(|process| process::inner_id(*process) == Some(wanted));
        // Its number may have gone to somebody else.
        Ok(found.filter(|process| {
            process
                .arguments()
                .first()
                .is_some_and(|word| word.ends_with("libvirtd"))
        }))
    }

    /// Starts its libvirtd and waits until it answers from outside; nothing to do if it runs.
    ///
    /// # Errors
    /// Fails if the host is off or libvirtd does not answer within a minute.
    pub fn start_libvirtd(&self) -> Result<()> {
        if self.libvirtd()?.is_none() {
            let unit = format!("({LIBVIRTD}) < /dev/null > /dev/null 2>&1 &");
            self.exec(&["setsid", "sh", "-c", &unit])?;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.virsh_within(Duration::from_secs(10), &["uri"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(
                        error.context(format!("libvirtd of {} does not answer", self.name()))
                    );
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// What its libvirtd has logged; nothing where that can't be read.
    #[must_use]
    pub fn libvirtd_log(&self) -> String {
        let log = self.outside("/var/log/libvirt/libvirtd.log");
        log.and_then(|path| Ok(std::fs::read_to_string(path)?))
            .unwrap_or_default()
    }

    /// How many times its libvirtd crashed without anybody's doing, and was started again.
    #[must_use]
    pub fn libvirtd_crashes(&self) -> usize {
        let file = self.outside("/var/log/libvirt/crashes");
        file.and_then(|path| Ok(std::fs::read_to_string(path)?))
            .map_or(0, |text| text.lines().count())
    }

    /// Kills its libvirtd at once; its QEMUs stay.
    ///
    /// # Errors
    /// Fails if libvirtd does not run or does not go.
    pub fn kill_libvirtd(&self) -> Result<()> {
        self.end_libvirtd("KILL")
    }

    /// Asks its libvirtd to end, and waits until it has; its QEMUs stay.
    ///
    /// # Errors
    /// Fails if libvirtd does not run or does not go.
    pub fn stop_libvirtd(&self) -> Result<()> {
        self.end_libvirtd("TERM")
    }

    /// Kills its libvirtd, and starts it again after so long.
    ///
    /// # Errors
    /// Fails if libvirtd does not run, does not go or does not come up.
    pub fn restart_libvirtd(&self, down: Duration) -> Result<()> {
        self.kill_libvirtd()?;
        std::thread::sleep(down);
        self.start_libvirtd()
    }

    /// Stops its libvirtd in its tracks: connections stay open and nobody answers.
    ///
    /// # Errors
    /// Fails if libvirtd does not run.
    pub fn freeze_libvirtd(&self) -> Result<()> {
        self.running_libvirtd()?.signal("STOP")
    }

    /// Lets a frozen libvirtd go on.
    ///
    /// # Errors
    /// Fails if libvirtd does not run.
    pub fn thaw_libvirtd(&self) -> Result<()> {
        self.running_libvirtd()?.signal("CONT")
    }

    /// All QEMUs on it, with the names of their guests; libvirtd is not asked.
    ///
    /// # Errors
    /// Fails if the host's processes cannot be listed. A host without power has none.
    pub fn qemus(&self) -> Result<Vec<(String, Process)>> {
        if !self.is_on() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for process in process::same_namespace(self.init()?)? {
            let words = process.arguments();
            let name = words
                .iter()
                .position(|word| word == "-name")
                .and_then(|place| words.get(place + 1));
            if let Some(name) = name.and_then(|name| name.strip_prefix("guest=")) {
                found.push((guest_name(name), process));
            }
        }
        Ok(found)
    }

    /// The QEMU of one guest on it, by the name of the domain.
    ///
    /// # Errors
    /// Fails if the host's processes cannot be listed.
    pub fn qemu_pid(&self, guest: &str) -> Result<Option<Process>> {
        Ok(self
            .qemus()?
            .into_iter()
            .find(|(name, _)| name == guest)
            .map(|(_, process)| process))
    }

    /// Kills the QEMU of one guest on it, by the name of the domain.
    ///
    /// # Errors
    /// Fails if it has none.
    pub fn kill_qemu(&self, guest: &str) -> Result<()> {
        let qemu = self.qemu_pid(guest)?;
        qemu.with_context(|| format!("{guest:?} has no QEMU on {}", self.name()))?
            .signal("KILL")
    }

    /// All processes on it, its init included.
    ///
    /// # Errors
    /// Fails if they cannot be listed. A host without power has none.
    pub fn processes(&self) -> Result<Vec<Process>> {
        if self.is_on() {
            process::same_namespace(self.init()?)
        } else {
            Ok(Vec::new())
        }
    }

    fn running_libvirtd(&self) -> Result<Process> {
        self.libvirtd()?
            .with_context(|| format!("no libvirtd runs on {}", self.name()))
    }

    fn end_libvirtd(&self, signal: &str) -> Result<()> {
        let process = self.running_libvirtd()?;
        process.signal(signal)?;
        process.wait_gone(PATIENCE)
    }

    pub(crate) fn lab(&self) -> &'lab Lab {
        self.lab
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.lab.layout().host_state(self.record.index)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.lab.layout().host_data(self.record.index)
    }

    pub(crate) fn holder(&self) -> Result<Process> {
        Process::read(&self.state().join("holder.process"))
    }

    pub(crate) fn init(&self) -> Result<Process> {
        Process::read(&self.state().join("init.process"))
            .with_context(|| format!("host {} is off", self.name()))
    }
}

/// The name in QEMU's `guest=NAME,debug-threads=on`, where a comma of the name is doubled.
fn guest_name(option: &str) -> String {
    let marked = option.replace(",,", "\0");
    marked
        .split(',')
        .next()
        .unwrap_or_default()
        .replace('\0', ",")
}
