//! Watches all guests from outside, all the time: on which host each counts, and which of its files are gone.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use evenkeel_tests::lab::Lab;

/// How often it looks. A guest counts about three times a second.
const PAUSE: Duration = Duration::from_millis(50);
/// A guest that is heard here, there, here and there again within this time runs in both places: three moves take longer.
const ALTERNATES: Duration = Duration::from_secs(4);

/// What was seen that has to have a reason.
pub(crate) enum Finding {
    /// A guest counted on two hosts in turns.
    Twice {
        guest: String,
        hosts: [String; 2],
        from: Instant,
        until: Instant,
    },
    /// A file of a guest is gone from the host where it ran, and that was not because it runs elsewhere, from files that
    /// were all there by then.
    Gone {
        guest: String,
        host: String,
        file: PathBuf,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice {
                guest,
                hosts: [one, other],
                from,
                until,
            } => {
                let time = (*until - *from).as_millis();
                write!(f, "{guest} ran on {one} and {other} for {time} ms")
            }
            Self::Gone { guest, host, file } => {
                let file = file.display();
                write!(f, "{file} went from {host}, where {guest} ran")
            }
        }
    }
}

/// Looks until it is dropped.
pub(crate) struct Watch {
    findings: Arc<Mutex<Vec<Finding>>>,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// Fails where a host of the lab was never built.
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        let mut traces = BTreeMap::new();
        for guest in lab.guests() {
            let mut hosts = Vec::new();
            for host in lab.hosts() {
                let console = host.outside(&guest.console_path())?;
                let pool = host.outside("/var/lib/libvirt/images")?;
                let files = guest.spec().files().into_iter();
                let files = files.map(|(_, file)| pool.join(file));
                hosts.push(Trace::new(host.name(), console, files));
            }
            traces.insert(guest.name().to_owned(), Course::new(hosts));
        }
        let findings = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = mpsc::channel();
        let found = findings.clone();
        let thread = thread::spawn(move || {
            while ended.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                for (guest, course) in &mut traces {
                    course.look(guest, &mut lock(&found));
                }
            }
        });
        Ok(Self {
            findings,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// What was found since this was last asked.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        std::mem::take(&mut lock(&self.findings))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A guest's way.
struct Course {
    hosts: Vec<Trace>,
    /// The last hosts it was heard on, each other than the one before: its place in `hosts`, and since when.
    turns: Vec<(usize, Instant)>,
    /// Files that went from the host where it was last heard while another had them all: right if it is heard there next.
    left: Vec<(usize, PathBuf)>,
}

impl Course {
    fn new(hosts: Vec<Trace>) -> Self {
        Self {
            hosts,
            turns: Vec::new(),
            left: Vec::new(),
        }
    }

    fn look(&mut self, guest: &str, findings: &mut Vec<Finding>) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut heard = Vec::new();
        for (place, trace) in self.hosts.iter_mut().enumerate() {
            if trace.listen(now) {
                heard.push(place);
            }
            gone.extend(trace.look(now).map(|file| (place, file)));
        }
        // Of two within one pause the one that was heard before comes first.
        let last = self.turns.last().map(|(place, _)| *place);
        heard.sort_by_key(|place| Some(*place) != last);
        for place in heard {
            for (from, file) in std::mem::take(&mut self.left) {
                if from == place {
                    findings.push(self.gone(guest, place, file));
                }
            }
            // Turns that were judged once are not judged again while it stays where it is.
            if self.take_turn(place, now)
                && let Some(twice) = self.twice(guest)
            {
                merge(findings, twice);
            }
        }
        for (place, file) in gone {
            let here = &self.hosts[place];
            let mut others = (0..).zip(&self.hosts).filter(|(other, _)| *other != place);
            let never_ran = here.heard <= here.made;
            let ran_elsewhere = others.clone().any(|(_, other)| other.heard > here.heard);
            if never_ran || ran_elsewhere {
                continue;
            }
            if others.any(|(_, other)| other.is_whole()) {
                self.left.push((place, file));
            } else {
                findings.push(self.gone(guest, place, file));
            }
        }
    }

    fn gone(&self, guest: &str, place: usize, file: PathBuf) -> Finding {
        Finding::Gone {
            guest: guest.to_owned(),
            host: self.hosts[place].host.clone(),
            file,
        }
    }

    /// Notes that it is heard there. Whether that is elsewhere than before.
    fn take_turn(&mut self, place: usize, now: Instant) -> bool {
        if self.turns.last().is_some_and(|(last, _)| *last == place) {
            return false;
        }
        self.turns.push((place, now));
        if self.turns.len() > 4 {
            self.turns.remove(0);
        }
        true
    }

    /// Whether the last four turns are those of one that runs in two places.
    fn twice(&self, guest: &str) -> Option<Finding> {
        let [(one, _), (two, from), (three, until), (four, now)] = self.turns.as_slice() else {
            return None;
        };
        let in_turns = one == three && two == four && *now - *from < ALTERNATES;
        in_turns.then(|| Finding::Twice {
            guest: guest.to_owned(),
            hosts: [self.hosts[*one].host.clone(), self.hosts[*two].host.clone()],
            from: *from,
            until: *until,
        })
    }
}

/// One that goes on is the same finding.
fn merge(findings: &mut Vec<Finding>, next: Finding) {
    let Finding::Twice {
        guest: of,
        until: later,
        ..
    } = &next
    else {
        return findings.push(next);
    };
    for known in findings.iter_mut() {
        if let Finding::Twice { guest, until, .. } = known
            && guest == of
        {
            *until = *later;
            return;
        }
    }
    findings.push(next);
}

/// What there is of a guest on one host.
struct Trace {
    host: String,
    console: PathBuf,
    said: u64,
    /// When it was last heard.
    heard: Option<Instant>,
    /// Its files, and whether they are there.
    files: Vec<(PathBuf, bool)>,
    /// Since when the first of them is there.
    made: Option<Instant>,
}

impl Trace {
    fn new(host: &str, console: PathBuf, files: impl Iterator<Item = PathBuf>) -> Self {
        let there = |file: PathBuf| {
            let there = file.exists();
            (file, there)
        };
        let files: Vec<_> = files.map(there).collect();
        Self {
            host: host.to_owned(),
            said: length(&console).unwrap_or_default(),
            console,
            heard: None,
            made: files.iter().any(|(_, there)| *there).then(Instant::now),
            files,
        }
    }

    /// Whether it said something since the last time.
    fn listen(&mut self, now: Instant) -> bool {
        let Some(length) = length(&self.console) else {
            return false;
        };
        let more = length > self.said;
        self.said = length;
        if more {
            self.heard = Some(now);
        }
        more
    }

    /// The files that are gone since the last time.
    fn look(&mut self, now: Instant) -> impl Iterator<Item = PathBuf> {
        if self.files.iter().all(|(_, there)| !there) {
            self.made = None;
        }
        let mut gone = Vec::new();
        for (file, there) in &mut self.files {
            let before = *there;
            match fs::metadata(&*file) {
                Ok(_) => *there = true,
                Err(error) if error.kind() == ErrorKind::NotFound => *there = false,
                Err(_) => {}
            }
            match (before, *there) {
                (false, true) => self.made = self.made.or(Some(now)),
                (true, false) => gone.push(file.clone()),
                _ => {}
            }
        }
        gone.into_iter()
    }

    fn is_whole(&self) -> bool {
        self.files.iter().all(|(_, there)| *there)
    }
}

fn length(file: &Path) -> Option<u64> {
    fs::metadata(file).ok().map(|file| file.len())
}

fn lock(findings: &Mutex<Vec<Finding>>) -> MutexGuard<'_, Vec<Finding>> {
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that says a line on these hosts, one after the other, as its consoles show it.
    fn heard(hosts: &[usize]) -> Result<usize> {
        let folder = tempfile::tempdir()?;
        let console = |host: usize| folder.path().join(host.to_string());
        let traces = (0..2).map(|host| Trace::new("h", console(host), std::iter::empty()));
        let mut course = Course::new(traces.collect());
        let mut found = 0;
        for (count, host) in hosts.iter().enumerate() {
            for place in 0..2 {
                let text = fs::read_to_string(console(place)).unwrap_or_default();
                let more = if place == *host { "evk\n" } else { "" };
                fs::write(console(place), text + more)?;
            }
            let mut findings = Vec::new();
            course.look("g", &mut findings);
            anyhow::ensure!(findings.len() <= 1, "at {count}");
            found += findings.len();
        }
        Ok(found)
    }

    #[test]
    fn a_guest_that_is_heard_in_turns_runs_twice_and_is_told_once() -> Result<()> {
        assert_eq!(heard(&[0, 0, 1, 1])?, 0);
        assert_eq!(heard(&[0, 1, 0])?, 0);
        assert_eq!(heard(&[0, 1, 0, 1])?, 1);
        // It stays there afterwards.
        assert_eq!(heard(&[0, 1, 0, 1, 1, 1])?, 1);
        // It goes on in both.
        assert_eq!(heard(&[0, 1, 0, 1, 0])?, 2);
        Ok(())
    }
}
