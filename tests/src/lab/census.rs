//! Who is where: each host asked once for all its guests, all hosts at the same time.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Lab;
use super::guest::{Guest, GuestCopy};
use super::host::Host;
use super::process::Process;

/// How long a host may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

impl Lab {
    /// What there is of each guest on every host that has anything of it, or that could not be asked; by the guests'
    /// names.
    ///
    /// # Errors
    /// Fails if the hosts' processes cannot be listed; a libvirtd that does not answer is part of the result.
    pub fn census(&self) -> Result<BTreeMap<String, Vec<GuestCopy>>> {
        let hosts = self.hosts();
        let asked: Vec<Result<Census>> = thread::scope(|scope| {
            let asked: Vec<_> = hosts
                .iter()
                .map(|host| scope.spawn(|| Census::of(host)))
                .collect();
            let answers = asked.into_iter().map(|asked| {
                let answer = asked.join();
                answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            answers.collect()
        });
        let asked = asked.into_iter().collect::<Result<Vec<_>>>()?;
        let guests = self.guests().into_iter().map(|guest| {
            let copies = asked.iter().map(|census| census.copy(&guest));
            let copies = copies.filter(GuestCopy::is_something).collect();
            (guest.name().to_owned(), copies)
        });
        Ok(guests.collect())
    }

    /// The host on which each guest runs, by the guests' names.
    ///
    /// # Errors
    /// Fails if one runs nowhere or on several.
    pub fn places(&self) -> Result<BTreeMap<String, String>> {
        let all = self.census()?.into_iter();
        all.map(|(guest, copies)| {
            let host = place(&guest, &copies)?.to_owned();
            Ok((guest, host))
        })
        .collect()
    }
}

/// The one host whose libvirt says that the guest runs there.
pub(super) fn place<'a>(guest: &str, copies: &'a [GuestCopy]) -> Result<&'a str> {
    let running = copies.iter().filter(|copy| copy.is_running());
    match running.collect::<Vec<_>>().as_slice() {
        [one] => Ok(&one.host),
        others => bail!("{guest:?} runs on {} hosts: {copies:?}", others.len()),
    }
}

impl GuestCopy {
    /// Whether libvirt says that it runs there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| state.starts_with("running"))
    }

    fn is_something(&self) -> bool {
        self.state.is_some() || self.qemu.is_some() || self.error.is_some()
    }
}

/// What one host knows.
pub(super) struct Census {
    host: String,
    qemus: Vec<(String, Process)>,
    /// By UUID: the state and its reason, and whether it is persistent; or why libvirt could not be asked.
    domains: Result<BTreeMap<String, (String, bool)>, String>,
}

impl Census {
    pub(super) fn of(host: &Host<'_>) -> Result<Self> {
        let domains = match host.is_on() {
            true => domains(host).map_err(|error| format!("{error:#}")),
            false => Err("the host is off".to_owned()),
        };
        Ok(Self {
            host: host.name().to_owned(),
            qemus: host.qemus()?,
            domains,
        })
    }

    pub(super) fn copy(&self, guest: &Guest<'_>) -> GuestCopy {
        let mut qemus = self.qemus.iter();
        let known = self.domains.as_ref().ok();
        let known = known.and_then(|domains| domains.get(guest.uuid()));
        GuestCopy {
            host: self.host.clone(),
            state: known.map(|(state, _)| state.clone()),
            persistent: known.is_some_and(|(_, persistent)| *persistent),
            qemu: qemus
                .find(|(name, _)| name == guest.name())
                .map(|(_, process)| *process),
            error: self.domains.as_ref().err().cloned(),
        }
    }
}

/// One that goes between two questions is asked about in vain: then all is asked again.
fn domains(host: &Host<'_>) -> Result<BTreeMap<String, (String, bool)>> {
    let mut tries = 3;
    loop {
        tries -= 1;
        match ask(host) {
            Err(error) if tries > 0 && format!("{error:#}").contains("domain") => {}
            answer => return answer,
        }
    }
}

fn ask(host: &Host<'_>) -> Result<BTreeMap<String, (String, bool)>> {
    let lists = "list --all --uuid; echo of these persistent:; list --all --persistent --uuid";
    let lists = host.virsh_within(LIMIT, &[lists])?;
    let (all, persistent) = lists
        .split_once("of these persistent:")
        .context("no answer to echo")?;
    let all: Vec<&str> = all.split_whitespace().collect();
    if all.is_empty() {
        return Ok(BTreeMap::new());
    }
    let questions = all.iter().map(|uuid| format!("domstate --reason {uuid}"));
    let questions: Vec<String> = questions.collect();
    let states = host.virsh_within(LIMIT, &[&questions.join(";")])?;
    let states: Vec<&str> = states
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    ensure!(
        states.len() == all.len(),
        "asked about {all:?}, was told {states:?}"
    );
    let domains = all.iter().zip(states).map(|(uuid, state)| {
        let persistent = persistent.split_whitespace().any(|other| other == *uuid);
        ((*uuid).to_owned(), (state.to_owned(), persistent))
    });
    Ok(domains.collect())
}
