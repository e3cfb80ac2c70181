//! A guest between hosts, a move of it, a fault at a moment of it, and what Evenkeel read from both ends then: its own
//! log says each verdict, so that a test proves that real hosts showed the row of evidence that it is about.

use std::{
    fs,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    evenkeel::{Fleet, Run, object},
    lab::{Events, Guest, GuestSpec, Host, HostSpec, Lab, LabBuilder},
    witness,
};

/// The guest that moves.
pub const GUEST: &str = "g1";
/// For whatever has to come, on a machine that may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Bytes per second: a copy takes seconds, and its last pages fit into the downtime.
const RATE: u64 = 16_000_000;
/// Claims are given back a moment after the last move.
const TIDY: Duration = Duration::from_secs(30);
/// The engine's log, with what both ends show and what is done about it.
const LOG: &str = "off,evenkeel_engine::life=debug";

/// Hosts, the guest `g1` on `h1`, and the wish that it goes to `h2`.
#[derive(Debug)]
pub struct Stage {
    /// The hosts.
    pub lab: Lab,
    /// The folder of manifests.
    pub fleet: Fleet,
}

impl Stage {
    /// Two hosts on slow links.
    #[must_use]
    pub fn hosts() -> LabBuilder {
        Lab::builder()
            .host(HostSpec::new("h1").rate(RATE))
            .host(HostSpec::new("h2").rate(RATE))
    }

    /// Builds it, and declares the move.
    ///
    /// # Errors
    /// Fails where the lab does not come up.
    pub fn new(hosts: LabBuilder, guest: GuestSpec) -> Result<Self> {
        let lab = hosts.guest(guest.on("h1")).up()?;
        let fleet = Fleet::of(&lab)?;
        let stage = Self { lab, fleet };
        stage.profile("")?;
        stage.ask_for("h2")?;
        Ok(stage)
    }

    /// Says how moves are done, as the fields of a profile's `spec`. A long downtime keeps away from what QEMU's software
    /// emulation loses in slow migrations (tests/lab/counter.rs).
    ///
    /// # Errors
    /// Fails where the manifest can't be written.
    pub fn profile(&self, more: &str) -> Result<()> {
        let text = object(
            "MigrationProfile",
            "default",
            &format!("downtime: 1s{more}"),
        );
        self.fleet.write("profile.yaml", &text)
    }

    /// Declares that the guest goes there.
    ///
    /// # Errors
    /// Fails where the manifest can't be written.
    pub fn ask_for(&self, target: &str) -> Result<()> {
        let spec = format!("guest: {GUEST}, target: {target}");
        let text = object("GuestMigration", "m", &spec);
        self.fleet.write("move.yaml", &text)
    }

    /// Where the guest was made.
    ///
    /// # Errors
    /// Never.
    pub fn source(&self) -> Result<Host<'_>> {
        self.lab.host("h1")
    }

    /// Where it goes first.
    ///
    /// # Errors
    /// Never.
    pub fn target(&self) -> Result<Host<'_>> {
        self.lab.host("h2")
    }

    /// The guest.
    ///
    /// # Errors
    /// Never.
    pub fn guest(&self) -> Result<Guest<'_>> {
        self.lab.guest(GUEST)
    }

    /// Starts `apply`, which tells what both ends show and what it does about it.
    ///
    /// # Errors
    /// Fails where it can't be started.
    pub fn begin(&self) -> Result<Run> {
        self.fleet.start_with_log(&["apply", "--yes"], LOG)
    }

    /// Starts `apply` and waits until a host tells that of the guest, in libvirt's words.
    ///
    /// # Errors
    /// Fails with what it said where that does not come.
    pub fn begin_until(&self, host: &Host<'_>, told: &str) -> Result<Run> {
        let events = host.events()?;
        let run = self.begin()?;
        came(&events, told, &run)?;
        Ok(run)
    }

    /// Starts `apply` and waits until disks are copied.
    ///
    /// # Errors
    /// Fails with what it said where it does not come to that.
    pub fn begin_until_copying(&self) -> Result<Run> {
        let target = self.target()?;
        let run = self.begin_until(&target, "Started Migrated")?;
        thread::sleep(Duration::from_secs(1));
        Ok(run)
    }

    /// Waits until what a host has of the guest is so: `running (migrated)`, or empty for nothing.
    ///
    /// # Errors
    /// Fails with what there is instead, and with what was said.
    pub fn shows(&self, host: &Host<'_>, wanted: &str, run: &Run) -> Result<()> {
        let guest = self.guest()?;
        let until = Instant::now() + PATIENCE;
        loop {
            let copy = guest.copy_on(host)?;
            let state = copy.state.as_deref().unwrap_or_default();
            if copy.error.is_none() && state == wanted {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{} does not show {wanted:?} but {copy:?}\n{}",
                host.name(),
                run.said()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until both ends led to that verdict, in the words of the log: `DiscardPausedSource`.
    ///
    /// # Errors
    /// Fails with what was said where they do not.
    pub fn leads_to(&self, run: &Run, verdict: &str) -> Result<()> {
        run.wait_for(&format!("verdict={verdict}"), PATIENCE)?;
        Ok(())
    }

    /// The run ends as it was wished: the guest runs on that host alone, with all its data and in its first boot, and nothing
    /// is left over anywhere.
    ///
    /// # Errors
    /// Fails with what is not so.
    pub fn ends_on(&self, host: &str, run: &mut Run) -> Result<()> {
        self.ends_restarted_on(host, run)?;
        witness::all_is_well(&self.lab)
    }

    /// The same of a guest that was started anew, or ran twice.
    ///
    /// # Errors
    /// Fails with what is not so.
    pub fn ends_restarted_on(&self, host: &str, run: &mut Run) -> Result<()> {
        let status = run.end(PATIENCE)?;
        ensure!(status.code() == Some(0), "{status}\n{}", run.said());
        let guest = self.guest()?;
        ensure!(guest.host()?.name() == host, "{}", run.said());
        guest.wait_for_progress(PATIENCE)?;
        witness::once_and_whole(&guest)?;
        witness::nothing_is_left_within(&self.lab, TIDY)
    }

    /// Whether the guest's file is still there.
    ///
    /// # Errors
    /// Fails where the host's files can't be listed.
    pub fn keeps(&self, host: &Host<'_>, path: &str) -> Result<bool> {
        Ok(host.list_files()?.iter().any(|file| file.path == path))
    }

    /// The guest was started anew once, and its data is whole.
    ///
    /// # Errors
    /// Fails with what is not so.
    pub fn was_started_anew(&self) -> Result<()> {
        let guest = self.guest()?;
        let boots = guest.continuity()?.boots.len();
        ensure!(boots == 2, "started {boots} times");
        witness::whole(&guest).map(drop)
    }

    /// Says of a host that it is off for good, in its manifest in that file. What that was before.
    ///
    /// # Errors
    /// Fails where the manifest can't be read or written.
    pub fn out_of_service(&self, file: &str) -> Result<String> {
        let manifest = fs::read_to_string(self.fleet.path().join(file))?;
        self.fleet
            .write(file, &format!("{manifest}  outOfService: true\n"))?;
        Ok(manifest)
    }
}

/// Waits until a host tells that of the guest.
///
/// # Errors
/// Fails with what was said where that does not come.
pub fn came(events: &Events, told: &str, run: &Run) -> Result<()> {
    ensure!(
        events.wait_for(GUEST, told, PATIENCE),
        "{told} was not told\n{}",
        run.said()
    );
    Ok(())
}

/// Tells what was measured, at once.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
