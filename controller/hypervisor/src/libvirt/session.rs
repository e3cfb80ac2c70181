//! One host's connections for as long as somebody holds its handle, and the threads that call over them.
//!
//! The keeper (`keeper.rs`) decides whether there is a connection; here is what callers share with it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread,
    time::Duration,
};

use evenkeel_crds::names::HostName;
use evenkeel_engine::{
    credentials::Credentials,
    port::{Fault, Notice, PortError, PortResult},
};
use tokio::sync::{mpsc::UnboundedSender, watch};

use super::{
    directories::Lent,
    keeper::{Keeper, Message},
    keys::Reach,
    link,
    raw::Connection,
    refreshes::Refreshes,
    storage::Storage,
    worker::{Lane, lock},
};

/// Whether there is a connection, as the callers of the port see it.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    /// The first attempt is not over yet.
    Connecting,
    /// There is one.
    Up,
    /// There is none, and why.
    Down(PortError),
}

/// Threads that each have a connection of their own.
pub(crate) type Path = Lane<Connection>;

/// What the handle, its tasks and its keeper share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) host: HostName,
    reach: Mutex<Reach>,
    pub(crate) status: watch::Sender<Status>,
    /// Reading, and the claim.
    looks: Path,
    /// Pools and volumes: calls that may wait for a file system.
    files: Path,
    /// Changing domains: calls that may wait for a domain's lock.
    acts: Path,
    /// Questions that go to QEMU and may hang with it.
    probes: Path,
    /// The last figure for CPU use.
    pub(crate) cpu_milli: Mutex<Option<u64>>,
    refreshes: Arc<Refreshes>,
    /// Directories outside pools that guests of the fleet have disks in.
    pub(crate) directories: Mutex<BTreeSet<String>>,
    /// Directories that are open as pools for a while.
    pub(crate) lent: Lent,
    pub(crate) keeper: Sender<Message>,
    stopped: AtomicBool,
}

impl Session {
    /// Starts to look after a host.
    pub(crate) fn start(
        host: HostName,
        reach: Reach,
        notices: UnboundedSender<Notice>,
    ) -> PortResult<Arc<Self>> {
        let (sender, inbox) = std::sync::mpsc::channel();
        let session = Arc::new(Self {
            looks: Lane::new(format!("ek-look-{host}")),
            files: Lane::new(format!("ek-file-{host}")),
            acts: Lane::new(format!("ek-act-{host}")),
            probes: Lane::new(format!("ek-probe-{host}")),
            host,
            reach: Mutex::new(reach),
            status: watch::Sender::new(Status::Connecting),
            cpu_milli: Mutex::new(None),
            refreshes: Arc::default(),
            directories: Mutex::default(),
            lent: Lent::default(),
            keeper: sender,
            stopped: AtomicBool::new(false),
        });
        let keeper = Keeper::new(session.clone(), notices);
        thread::Builder::new()
            .name(format!("ek-keep-{}", session.host))
            .spawn(move || keeper.run(&inbox))
            .map_err(|error| {
                PortError::new(Fault::Other, format!("no thread for the host: {error}"))
            })?;
        Ok(session)
    }

    /// Ends everything that was started. Returns at once.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.status.send_replace(Status::Down(PortError::new(
            Fault::Unreachable,
            "the host is not looked after any more",
        )));
        for path in self.paths() {
            path.close();
        }
        self.send(Message::Stop);
    }

    /// How the host is reached now.
    pub(crate) fn reach(&self) -> Reach {
        lock(&self.reach).clone()
    }

    /// Other credentials from now on. Returns at once; the keeper connects anew.
    pub(crate) fn renew(&self, credentials: Option<Arc<Credentials>>) {
        lock(&self.reach).credentials = credentials;
        self.send(Message::Renew);
    }

    pub(crate) fn looks(&self) -> &Path {
        &self.looks
    }

    pub(crate) fn files(&self) -> &Path {
        &self.files
    }

    pub(crate) fn acts(&self) -> &Path {
        &self.acts
    }

    pub(crate) fn probes(&self) -> &Path {
        &self.probes
    }

    pub(crate) fn paths(&self) -> [&Path; 4] {
        [&self.looks, &self.files, &self.acts, &self.probes]
    }

    /// Asks in the lane for questions that may hang, from a thread of another one.
    pub(crate) fn probe<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        question: impl FnOnce(&Connection) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let session = self.clone();
        self.probes
            .call_blocking(limit, move |tool| session.with(tool, question))
    }

    /// The host's storage over a connection.
    pub(crate) fn storage<'c>(&'c self, connection: &'c Connection) -> Storage<'c> {
        Storage {
            connect: connection,
            refreshes: &self.refreshes,
            lent: &self.lent,
        }
    }

    /// Runs a call over a thread's own connection, which is made now where there is none that lives.
    pub(crate) fn with<T>(
        &self,
        tool: &mut Option<Connection>,
        call: impl FnOnce(&Connection) -> PortResult<T>,
    ) -> PortResult<T> {
        if tool
            .as_ref()
            .is_some_and(|connection| !connection.is_alive().unwrap_or(false))
        {
            *tool = None;
        }
        if !matches!(&*self.status.borrow(), Status::Up) {
            *tool = None;
            return Err(self.down());
        }
        let connection = match tool.take() {
            Some(connection) => connection,
            None => link::open(&self.reach())?,
        };
        // Where the call panics, the connection goes with it.
        let result = call(&connection);
        if result
            .as_ref()
            .is_err_and(|error| error.fault == Fault::Unreachable)
        {
            drop(connection);
        } else {
            *tool = Some(connection);
        }
        result
    }

    pub(crate) fn send(&self, message: Message) {
        let _ = self.keeper.send(message);
    }

    fn down(&self) -> PortError {
        match &*self.status.borrow() {
            Status::Down(error) => error.clone(),
            Status::Connecting | Status::Up => {
                PortError::new(Fault::Unreachable, "not connected yet")
            }
        }
    }

    /// A call that found no connection: the keeper looks whether there still is one.
    pub(crate) fn suspect(&self) {
        self.send(Message::Suspect);
    }
}
