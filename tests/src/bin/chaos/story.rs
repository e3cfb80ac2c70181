//! One round after another, and what is known of each guest.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use evenkeel_tests::{
    lab::{Guest, GuestCopy, Host, Lab},
    witness,
};

use crate::{
    PATIENCE,
    driver::Driver,
    fault::Fault,
    plan::Plan,
    watch::{Finding, Watch},
    wish::{Wish, is_guarded},
};

/// How long a guest may go on running twice once both its hosts can be reached.
const SETTLED: Duration = Duration::from_secs(5);
/// Claims are given back a moment after the last move.
const TIDY: Duration = Duration::from_secs(15);

/// What is to be told of a round.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) took: Duration,
    /// Guests that were started anew.
    pub(crate) restarts: usize,
    /// Copies that were discarded.
    pub(crate) doubled: usize,
    /// The reasons that were said.
    pub(crate) reasons: Vec<String>,
}

/// What happened so far.
pub(crate) struct Story<'lab> {
    lab: &'lab Lab,
    driver: Box<dyn Driver + 'lab>,
    watch: Watch,
    /// The longest that a guest ran twice, and the longest after both its hosts could be reached again.
    twice: (Duration, Duration),
    /// How often each guest was started anew, because a fault had stopped it.
    restarts: BTreeMap<String, usize>,
    /// Guests that libvirt ran twice for a moment, so that some counts were said twice.
    doubled: BTreeMap<String, usize>,
    /// How often a libvirtd was restarted, since it held a guest for good.
    hung: usize,
    faults: BTreeMap<Fault, usize>,
    rounds: usize,
    moved: usize,
}

impl<'lab> Story<'lab> {
    /// Begins to watch.
    ///
    /// # Errors
    /// Fails where a host of the lab was never built.
    pub(crate) fn begin(lab: &'lab Lab, driver: Box<dyn Driver + 'lab>) -> Result<Self> {
        Ok(Self {
            lab,
            driver,
            watch: Watch::begin(lab)?,
            twice: Default::default(),
            restarts: BTreeMap::new(),
            doubled: BTreeMap::new(),
            hung: 0,
            faults: BTreeMap::new(),
            rounds: 0,
            moved: 0,
        })
    }

    /// A wish, a fault at a random instant while it is carried out, its healing, and the check.
    pub(crate) fn round(&mut self, round: usize, plan: &Plan) -> Result<Told> {
        let start = Instant::now();
        let Plan {
            wish,
            fault,
            aim,
            lasts,
            ..
        } = plan;
        self.rounds += 1;
        *self.faults.entry(*fault).or_default() += 1;
        let before = self.lab.places()?;
        let (restarts, doubled) = self.helped();
        let struck = self.lab.host(&plan.struck)?;
        let events = aim.listen(self.lab, wish)?;
        self.driver.begin(wish)?;
        aim.wait(wish, events.as_ref());
        fault
            .strike(self.lab, self.driver.as_mut(), wish, &struck, *lasts)
            .with_context(|| format!("striking {}", struck.name()))?;
        let healed = Instant::now();
        self.wait(*fault)?;
        self.converge(*fault, wish)?;
        if *fault == Fault::PowerCut {
            self.count_those_that_started_with(&before, &plan.struck)?;
        }
        let after = self.lab.places()?;
        self.check_all(|guest| {
            let (from, to) = (&before[guest.name()], &after[guest.name()]);
            from != to || *from == plan.struck || *from == wish.from
        })
        .context("after the fault was healed")?;
        self.driver.end(wish)?;
        witness::nothing_is_left_within(self.lab, TIDY)?;
        self.judge(*fault, healed)?;
        let moved = after
            .iter()
            .filter(|(guest, host)| before.get(*guest) != Some(*host))
            .count();
        self.moved += moved;
        println!(
            "{round:>4}  {:<15} {:<3} {:<13} for {:>5} ms  {:<10} {moved} moved  {:.1} s",
            format!("{fault:?}"),
            struck.name(),
            aim,
            lasts.as_millis(),
            wish.what,
            start.elapsed().as_secs_f64()
        );
        Ok(Told {
            took: start.elapsed(),
            restarts: self.helped().0 - restarts,
            doubled: self.helped().1 - doubled,
            reasons: self.reasons(),
        })
    }

    /// What was seen from outside has to have a reason.
    fn judge(&mut self, fault: Fault, healed: Instant) -> Result<()> {
        for finding in self.watch.findings() {
            match &finding {
                Finding::Twice {
                    guest, from, until, ..
                } => {
                    let after = until.saturating_duration_since(healed.max(*from));
                    self.twice.0 = self.twice.0.max(*until - *from);
                    self.twice.1 = self.twice.1.max(after);
                    let guarded = is_guarded(&self.lab.guest(guest)?);
                    ensure!(
                        fault.may_double_a_guest() && !guarded && after <= SETTLED,
                        "{finding}, {after:?} of that after {fault:?} was healed"
                    );
                }
                Finding::Gone { .. } => bail!("gone before the proof, after {fault:?}: {finding}"),
            }
        }
        Ok(())
    }

    /// How often a guest was started anew, and how often one of two copies was discarded.
    fn helped(&self) -> (usize, usize) {
        (self.restarts.values().sum(), self.doubled.values().sum())
    }

    /// The reasons that were said in this round: words such as `GuestStopped`.
    fn reasons(&self) -> Vec<String> {
        let words = self.said().split_whitespace();
        let reasons: BTreeSet<&str> = words
            .map(|word| word.trim_end_matches(':'))
            .filter(|word| is_reason(word))
            .collect();
        reasons.into_iter().map(str::to_owned).collect()
    }

    /// How many moves were made so far.
    pub(crate) fn moved(&self) -> usize {
        self.moved
    }

    /// What the runs of the last round said.
    pub(crate) fn said(&self) -> &str {
        self.driver.said()
    }

    /// Waits for the end of what was begun. Meanwhile a person does what the hint says: starts what has stopped.
    fn wait(&mut self, fault: Fault) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.driver.has_ended(Duration::from_secs(1))? {
            ensure!(Instant::now() < end, "still running after {PATIENCE:?}");
            if fault.may_stop_a_guest() {
                self.do_as_told()?;
            }
        }
        Ok(())
    }

    /// Does what the last word about each guest says. Whether anything.
    fn do_as_told(&mut self) -> Result<bool> {
        let mut any = false;
        for guest in self.lab.guests() {
            let about = format!(" {}: ", guest.name());
            let last = self.said().lines().rev().find(|line| line.contains(&about));
            let last = last.unwrap_or_default().to_owned();
            for host in self.lab.hosts() {
                if last.contains(&format!("restart libvirtd on {}", host.name())) {
                    host.restart_libvirtd(Duration::ZERO)?;
                    self.hung += 1;
                    any = true;
                }
            }
            if last.contains("(start it where it is")
                && let [copy] = guest.copies()?.as_slice()
                && copy.persistent
                && copy.qemu.is_none()
            {
                self.start(&guest, copy)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Starts a guest that a fault has stopped.
    fn start(&mut self, guest: &Guest<'_>, copy: &GuestCopy) -> Result<()> {
        let host = self.lab.host(&copy.host)?;
        // A libvirtd that was only just started may not know yet that a QEMU has gone.
        host.virsh(&["start", guest.name()])
            .with_context(|| format!("starting {}: {copy:?}", guest.name()))?;
        guest.wait_for_progress(Duration::from_secs(60))?;
        *self.restarts.entry(guest.name().to_owned()).or_default() += 1;
        Ok(())
    }

    /// Goes on until everything is as wished; starts what the fault has stopped.
    fn converge(&mut self, fault: Fault, wish: &Wish) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let done = self.driver.converge(wish)?;
            let told = !done && fault.may_stop_a_guest() && self.do_as_told()?;
            let stopped = told
                || self.discard_doubles(fault)?
                || self.start_what_stopped(fault)?
                || self.resume_what_had_no_room()?;
            if done && !stopped {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "not as wished {PATIENCE:?} after the fault was healed"
            );
        }
    }

    /// Starts guests that have no QEMU anywhere, where a person would: there is one definition of each. Whether any.
    fn start_what_stopped(&mut self, fault: Fault) -> Result<bool> {
        let mut any = false;
        for (name, copies) in self.lab.census()? {
            let guest = self.lab.guest(&name)?;
            if copies.iter().any(|copy| copy.qemu.is_some()) {
                continue;
            }
            let [copy] = copies.as_slice() else {
                bail!(
                    "{} runs nowhere and is defined so: {copies:?}",
                    guest.name()
                );
            };
            ensure!(
                fault.may_stop_a_guest(),
                "{} was stopped by {fault:?}: {copies:?}",
                guest.name()
            );
            self.start(&guest, copy)?;
            any = true;
        }
        Ok(any)
    }

    /// Counts guests that their host started when it was switched on again.
    fn count_those_that_started_with(
        &mut self,
        before: &BTreeMap<String, String>,
        host: &str,
    ) -> Result<()> {
        for guest in self.lab.guests() {
            let name = guest.name();
            let known = 1 + self.restarts.get(name).copied().unwrap_or(0);
            let was_there = before[name] == host || guest.host()?.name() == host;
            if guest.spec().autostart && was_there && guest.continuity()?.boots.len() == known + 1 {
                *self.restarts.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Discards the copy that was left of a guest which libvirt ran twice, where a person would: the one at the source,
    /// which has to stand still by then. Whether any.
    fn discard_doubles(&mut self, fault: Fault) -> Result<bool> {
        let mut any = false;
        for (name, copies) in self.lab.census()? {
            let guest = self.lab.guest(&name)?;
            let mut still = copies
                .iter()
                .filter(|copy| copy.state.as_deref() == Some("paused (user)"));
            let (Some(copy), None, 2) = (still.next(), still.next(), copies.len()) else {
                continue;
            };
            ensure!(
                fault.may_double_a_guest() && self.said().contains("RunsTwice"),
                "{} is on two hosts after {fault:?}, and nobody says so: {copies:?}",
                guest.name()
            );
            let host = self.lab.host(&copy.host)?;
            guest.discard_on(&host)?;
            *self.doubled.entry(guest.name().to_owned()).or_default() += 1;
            any = true;
        }
        Ok(any)
    }

    /// Resumes guests that QEMU paused since their host's disk was full, where a person would. Whether any.
    fn resume_what_had_no_room(&self) -> Result<bool> {
        let mut any = false;
        for (guest, copies) in self.lab.census()? {
            for copy in copies {
                if copy.state.as_deref() == Some("paused (I/O error)") {
                    self.lab.host(&copy.host)?.virsh(&["resume", &guest])?;
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// All guests are well, with all their data.
    ///
    /// # Errors
    /// Fails with what is not so.
    pub(crate) fn end(&self) -> Result<()> {
        self.check_all(|_| true).context("in the end")
    }

    /// Each guest runs exactly once, of as many boots as it was started, without a gap or a double; where asked, its disks are
    /// whole. All at the same time, since most of that is waiting; but each host is asked once for all of them.
    fn check_all(&self, disks: impl Fn(&Guest<'_>) -> bool + Sync) -> Result<()> {
        let (restarts, doubled) = (&self.restarts, &self.doubled);
        each(self.lab, |guest| {
            let restarts = restarts.get(guest.name()).copied();
            let doubled = doubled.contains_key(guest.name());
            goes_on(guest, 1 + restarts.unwrap_or(0), doubled)
        })?;
        for (name, copies) in self.lab.census()? {
            witness::is_once(&name, &copies)?;
        }
        each(self.lab, |guest| {
            if disks(guest) {
                witness::whole(guest)?;
            }
            Ok(())
        })
    }

    /// Everything a person wants to see when it went wrong.
    pub(crate) fn picture(&self) -> String {
        let mut picture = self.said().to_owned();
        for guest in self.lab.guests() {
            picture += &format!("{}: {:?}\n", guest.name(), guest.copies());
        }
        for host in self.lab.hosts() {
            picture += &format!(
                "{}: {:?}\n{}\n",
                host.name(),
                host.list_files(),
                last_lines(&host.libvirtd_log())
            );
        }
        picture
    }

    /// How often a libvirtd crashed without a fault of ours. The lab starts it again, as a service manager does.
    fn crashes(&self) -> usize {
        self.lab.hosts().iter().map(Host::libvirtd_crashes).sum()
    }

    pub(crate) fn summary(&self, took: Duration) -> String {
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(fault, times)| format!("{fault:?} {times}"))
            .collect();
        format!(
            "chaos: {} wishes under faults, {} moves, {} times a guest was started anew after a fault, {} times one of two copies discarded, {} times a libvirtd crashed of itself, {} times one had to be restarted, {:.0} s\n       {}\n       ran twice for at most {} ms, {} ms of that after the fault was healed",
            self.rounds,
            self.moved,
            self.helped().0,
            self.helped().1,
            self.crashes(),
            self.hung,
            took.as_secs_f64(),
            faults.join(", "),
            self.twice.0.as_millis(),
            self.twice.1.as_millis()
        )
    }
}

/// Asks about all guests at the same time.
fn each(lab: &Lab, ask: impl Fn(&Guest<'_>) -> Result<()> + Sync) -> Result<()> {
    let ask = &ask;
    thread::scope(|scope| {
        let all: Vec<_> = lab
            .guests()
            .into_iter()
            .map(|guest| scope.spawn(move || ask(&guest).with_context(|| guest.name().to_owned())))
            .collect();
        all.into_iter().try_for_each(|one| {
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// It counts on, of so many boots, without a gap or a double.
fn goes_on(guest: &Guest<'_>, boots: usize, doubled: bool) -> Result<()> {
    guest.wait_for_progress(Duration::from_secs(20))?;
    let continuity = guest.continuity()?;
    ensure!(
        continuity.boots.len() == boots && (doubled || continuity.doubled.is_empty()),
        "started {boots} times: {continuity:?}"
    );
    // A guest that was killed may have lost its last words.
    ensure!(
        boots > 1 || doubled || continuity.missing.is_empty(),
        "{continuity:?}"
    );
    Ok(())
}

fn is_reason(word: &str) -> bool {
    let kinds = ["GuestMigration", "HostDrain"];
    let starts = word.chars().next().is_some_and(char::is_uppercase);
    let humps = word.chars().filter(|letter| letter.is_uppercase()).count();
    let letters = word.chars().all(char::is_alphabetic);
    let small = word.chars().any(char::is_lowercase);
    starts && letters && small && humps > 1 && !kinds.contains(&word)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(6)..];
    last.iter()
        .map(|line| format!("        {line}\n"))
        .collect()
}
