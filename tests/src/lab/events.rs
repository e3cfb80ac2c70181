//! What a host's libvirtd tells of its guests' lives, as it happens.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{command::command, host::Host};

/// The events of one host's guests from now on. Ends with its drop.
#[derive(Debug)]
pub struct Events {
    listener: Child,
    lines: Receiver<String>,
}

impl Host<'_> {
    /// Begins to listen.
    ///
    /// # Errors
    /// Fails where virsh cannot be started.
    pub fn events(&self) -> Result<Events> {
        // Left to itself, virsh keeps what it says to a pipe until there is a page of it.
        let virsh = self.virsh_command(&["event", "--all", "--loop"]);
        let mut listener = command("stdbuf", ["-oL".as_ref(), virsh.get_program()])
            .args(virsh.get_args())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot listen to a host's events")?;
        let (sender, lines) = mpsc::channel();
        if let Some(said) = listener.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(said).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Events { listener, lines })
    }
}

impl Events {
    /// Waits until that is told of the guest, in libvirt's words (`Suspended Migrated`, `iteration: `). Whether it was, in time.
    pub fn wait_for(&self, guest: &str, what: &str, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let told = format!("'{guest}': {what}");
        while let Ok(line) = self
            .lines
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if line.contains(&told) {
                return true;
            }
        }
        false
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}
