//! Attaching to the hosts, waiting for their news, ordering the lab about.

use std::{
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_engine::credentials::{Credentials, KEYS};
use evenkeel_engine::port::{
    Activity, DiskPlace, DomainEvent, DomainFacts, Endpoint, HostFacts, Hypervisor, Hypervisors,
    NewVolume, News, Notice,
};
use evenkeel_hypervisor::libvirt::Libvirt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use uuid::Uuid;

pub(crate) struct Attached {
    pub(crate) handle: Arc<dyn Hypervisor>,
    pub(crate) notices: UnboundedReceiver<Notice>,
}

pub(crate) fn uris() -> Vec<String> {
    std::env::var("EVENKEEL_TEST_URIS")
        .expect("EVENKEEL_TEST_URIS names two hosts")
        .split(',')
        .map(str::to_owned)
        .collect()
}

/// Those in the directory that EVENKEEL_TEST_CREDENTIALS names; none for hosts of plain TCP.
pub(crate) fn credentials() -> Option<Arc<Credentials>> {
    let folder = PathBuf::from(std::env::var_os("EVENKEEL_TEST_CREDENTIALS")?);
    let value = |key: &str| Some((key.to_owned(), std::fs::read(folder.join(key)).ok()?));
    let values = KEYS.into_iter().filter_map(value);
    Some(Arc::new(Credentials::new(values)))
}

/// Whether the hosts have certificates for each other.
pub(crate) fn encrypted() -> bool {
    uris().iter().all(|uri| uri.starts_with("qemu+tls:"))
}

pub(crate) fn attach(name: &str, uri: &str) -> Attached {
    let (sender, notices) = unbounded_channel();
    let endpoint = Endpoint {
        uri: uri.to_owned(),
        credentials: credentials(),
    };
    let handle = Libvirt::new().attach(&name.into(), &endpoint, sender);
    Attached { handle, notices }
}

pub(crate) fn both() -> (Attached, Attached) {
    let uris = uris();
    (attach("h1", &uris[0]), attach("h2", &uris[1]))
}

pub(crate) async fn timed<T>(what: &str, call: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = call.await;
    eprintln!(
        "{what:<28} {:>8.1} ms",
        begun.elapsed().as_secs_f64() * 1000.0
    );
    result
}

impl Attached {
    /// Waits for news that are wanted, and returns how long it took.
    pub(crate) async fn until<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&News) -> Option<T>,
    ) -> (T, Duration) {
        let begun = Instant::now();
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            let notice = tokio::time::timeout(left, self.notices.recv())
                .await
                .expect("the news came in time")
                .expect("the host is looked after");
            if let Some(found) = wanted(&notice.what) {
                return (found, begun.elapsed());
            }
        }
    }

    pub(crate) async fn facts(&mut self) -> (HostFacts, Duration) {
        self.until(Duration::from_secs(20), |news| match news {
            News::Facts(facts) => Some((**facts).clone()),
            _ => None,
        })
        .await
    }
}

/// Where a guest that runs is: here or there.
pub(crate) async fn place<'a>(
    here: &'a Attached,
    there: &'a Attached,
    which: impl Fn(&DomainFacts) -> bool,
) -> (&'a Attached, &'a Attached, DomainFacts) {
    for (from, to) in [(here, there), (there, here)] {
        let facts = from.handle.observe().await.unwrap();
        if let Some(found) = facts
            .domains
            .into_iter()
            .find(|domain| domain.activity == Activity::Running && which(domain))
        {
            return (from, to, found);
        }
    }
    panic!("no guest runs on either host");
}

/// The events about a domain that have come so far.
pub(crate) fn drain(attached: &mut Attached, uuid: Uuid) -> Vec<DomainEvent> {
    let mut events = Vec::new();
    while let Ok(notice) = attached.notices.try_recv() {
        if let News::Event(about, event) = notice.what
            && about == uuid
        {
            events.push(event);
        }
    }
    events
}

pub(crate) fn lab_says(arguments: &str) -> bool {
    let lab = std::env::var("EVENKEEL_TEST_LAB").unwrap();
    Command::new("sh")
        .arg("-c")
        .arg(format!("{lab} {arguments}"))
        .output()
        .unwrap()
        .status
        .success()
}

pub(crate) fn lab(arguments: &str) -> bool {
    let Ok(lab) = std::env::var("EVENKEEL_TEST_LAB") else {
        return false;
    };
    let done = Command::new("sh")
        .arg("-c")
        .arg(format!("{lab} {arguments}"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    true
}

/// Where a disk goes whose volume was made.
pub fn placed(target: &str, volume: &NewVolume, path: String) -> DiskPlace {
    DiskPlace {
        target: target.to_owned(),
        path,
        pool: volume.pool.clone(),
        volume: volume.name.clone(),
    }
}
