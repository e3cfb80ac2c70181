//! The engine's port, spoken to libvirt.
//!
//! Each host has connections and threads of its own (`session`, `worker`); a call goes to the lane it belongs to, so
//! that what waits for a domain's lock, for QEMU or for a slow file system never holds up looking at the host.

mod claim;
#[cfg(test)]
#[path = "../../../../tests/corpus/mod.rs"]
mod corpus;
mod directories;
mod domain;
mod events;
mod farewell;
mod fault;
mod files;
mod host;
mod journal;
mod keeper;
mod keys;
mod leftover;
mod link;
mod migrate;
#[cfg(test)]
mod others;
mod raw;
mod refreshes;
mod secrets;
mod session;
mod storage;
mod uri;
mod worker;
mod xml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use evenkeel_crds::{names::HostName, quantity::Bytes};
use evenkeel_engine::credentials::Credentials;
use evenkeel_engine::port::{
    Access, ClaimRecord, CompletedFacts, DiskPlace, DomainFacts, Endpoint, Fault, FileState,
    Glance, HostFacts, Hypervisor, Hypervisors, JobFacts, JournalEntry, LastMove, Mark,
    MigrateRequest, NewVolume, News, Notice, Piece, PoolFacts, PortError, PortResult, SecretFacts,
    SecretValue, ShutdownMark, VolumeFacts,
};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use virt::domain::Domain;

pub use self::farewell::farewell;
pub use self::uri::{HypervisorUri, Transport, check_address, check_uri};
use self::{
    fault::OrFault,
    keeper::Message,
    keys::Reach,
    raw::Connection,
    refreshes::Freshness,
    session::{Path, Session, Status},
};

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(5);
/// How long anything else may take, but for a migration.
const CALL: Duration = Duration::from_secs(10);

/// How long an encrypted volume may take to be made: its key is derived so that this costs seconds of a processor.
const ENCRYPT: Duration = Duration::from_secs(60);

/// Keeps libvirt's client library from writing to standard error by itself. To be called first of all in `main`, before
/// there is a second thread.
pub fn quieten() {
    raw::quieten();
}

/// Makes connections to libvirt. One per process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Libvirt(());

impl Libvirt {
    /// Prepares libvirt's client library: its event loop, its error handler. Nothing is connected yet.
    #[must_use]
    pub fn new() -> Self {
        // What went wrong here is told by the first connection.
        let _ = link::start_event_loop();
        Self(())
    }
}

impl Hypervisors for Libvirt {
    fn attach(
        &self,
        host: &HostName,
        endpoint: &Endpoint,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Arc<dyn Hypervisor> {
        // Whether plain TCP is allowed was decided where the Host was read; all the rest is checked again.
        let started = check_uri(&endpoint.uri, true)
            .map_err(|cause| PortError::new(Fault::Invalid, cause.message))
            .and_then(|uri| {
                let reach = Reach {
                    uri,
                    credentials: endpoint.credentials.clone(),
                };
                Session::start(host.clone(), reach, notices.clone())
            });
        if let Err(error) = &started {
            let _ = notices.send(Notice {
                host: host.clone(),
                what: News::Lost(error.clone()),
            });
        }
        Arc::new(Host {
            session: started.map_err(Box::new),
        })
    }
}

/// The handle to one host. Dropping it ends everything it started, but for a migration under way.
struct Host {
    session: Result<Arc<Session>, Box<PortError>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.session {
            Ok(session) => write!(f, "Host({} at {})", session.host, session.reach().uri),
            Err(error) => write!(f, "Host({error})"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(session) = &self.session {
            session.stop();
        }
    }
}

impl Host {
    fn session(&self) -> PortResult<&Arc<Session>> {
        self.session.as_ref().map_err(|error| (**error).clone())
    }

    /// Runs a call in a lane, over the lane's connection. Before the first connection is made, waits for it.
    async fn call<T: Send + 'static>(
        &self,
        path: fn(&Session) -> &Path,
        limit: Duration,
        call: impl FnOnce(&Arc<Session>, &Connection) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let session = self.session()?.clone();
        let begun = Instant::now();
        let mut status = session.status.subscribe();
        let known = status.wait_for(|status| !matches!(status, Status::Connecting));
        let known = tokio::time::timeout(limit, known)
            .await
            .ok()
            .and_then(Result::ok)
            .map(|status| status.clone());
        match known {
            Some(Status::Up | Status::Connecting) => {}
            Some(Status::Down(error)) => return Err(error),
            None => {
                return Err(PortError::new(
                    Fault::TimedOut,
                    format!("not connected to {} yet", session.reach().uri),
                ));
            }
        }
        let left = limit
            .saturating_sub(begun.elapsed())
            .max(Duration::from_millis(1));
        let inside = session.clone();
        let result = path(&session)
            .call(left, move |tool| {
                inside.with(tool, |connection| call(&inside, connection))
            })
            .await;
        if result
            .as_ref()
            .is_err_and(|error| error.fault == Fault::Unreachable)
        {
            session.suspect();
        }
        result
    }

    /// Runs what takes long on a thread of its own, over a connection that it opens itself.
    async fn alone(
        &self,
        doing: &str,
        call: impl FnOnce(&Arc<Session>) -> PortResult<()> + Send + 'static,
    ) -> PortResult<()> {
        let session = self.session()?.clone();
        let (answer, answered) = oneshot::channel();
        thread::Builder::new()
            .name(format!("ek-{doing}-{}", session.host))
            .spawn(move || {
                let _ = answer.send(worker::guarded(|| call(&session)));
            })
            .map_err(|error| {
                PortError::new(Fault::Other, format!("no thread to {doing}: {error}"))
            })?;
        answered.await.unwrap_or_else(|_| {
            Err(PortError::new(
                Fault::Other,
                format!("the thread to {doing} ended without a word"),
            ))
        })
    }

    /// Does something to a domain.
    async fn act(
        &self,
        domain: Uuid,
        act: impl FnOnce(&Domain) -> Result<(), virt::error::Error> + Send + 'static,
    ) -> PortResult<()> {
        self.call(Session::acts, CALL, move |_, connection| {
            act(&domain::find(connection, domain)?).or_fault()
        })
        .await
    }
}

#[async_trait]
impl Hypervisor for Host {
    fn renew(&self, credentials: Option<Arc<Credentials>>) {
        if let Ok(session) = &self.session {
            session.renew(credentials);
        }
    }

    fn use_directories(&self, directories: BTreeSet<String>) {
        if let Ok(session) = &self.session {
            *worker::lock(&session.directories) = directories;
            session.send(Message::LookAround);
        }
    }

    async fn observe(&self) -> PortResult<HostFacts> {
        self.call(Session::files, CALL, |session, connection| {
            host::observe(session, connection)
        })
        .await
    }

    async fn look(&self, domain: Uuid) -> PortResult<Option<DomainFacts>> {
        self.call(Session::looks, LOOK, move |session, connection| {
            domain::look(session, connection, domain)
        })
        .await
    }

    async fn glance(&self, domain: Uuid) -> PortResult<Option<Glance>> {
        self.call(Session::looks, LOOK, move |session, connection| {
            domain::glance(session, connection, domain)
        })
        .await
    }

    async fn references(&self, except: Option<Uuid>) -> PortResult<BTreeMap<String, Vec<String>>> {
        self.call(Session::files, CALL, move |session, connection| {
            domain::references(session.storage(connection), except)
        })
        .await
    }

    async fn pools(&self) -> PortResult<Vec<PoolFacts>> {
        self.call(Session::files, CALL, |session, connection| {
            let pools = session.storage(connection).pools(Freshness::Lately)?;
            directories::all(session, connection, &pools)
        })
        .await
    }

    async fn claim(&self) -> PortResult<Option<ClaimRecord>> {
        self.call(Session::looks, LOOK, |_, connection| {
            claim::read(connection)
        })
        .await
    }

    async fn put_claim(&self, claim: &ClaimRecord) -> PortResult<()> {
        let claim = claim.clone();
        // With the looks: a beat must not wait behind what waits for a domain.
        self.call(Session::looks, CALL, move |_, connection| {
            claim::put(connection, &claim)
        })
        .await
    }

    async fn remove_claim(&self, id: Uuid) -> PortResult<()> {
        self.call(Session::looks, CALL, move |_, connection| {
            claim::remove(connection, id)
        })
        .await
    }

    async fn journals(&self) -> PortResult<Vec<JournalEntry>> {
        self.call(Session::files, CALL, |session, connection| {
            journal::list(session.storage(connection))
        })
        .await
    }

    async fn create_journal(&self, pool: &str, id: Uuid, text: &str) -> PortResult<()> {
        let (pool, text) = (pool.to_owned(), text.to_owned());
        self.call(Session::files, CALL, move |session, connection| {
            journal::create(session.storage(connection), &pool, id, &text)
        })
        .await
    }

    async fn rewrite_journal(&self, pool: &str, id: Uuid, text: &str) -> PortResult<()> {
        let (pool, text) = (pool.to_owned(), text.to_owned());
        self.call(Session::files, CALL, move |session, connection| {
            journal::rewrite(session.storage(connection), &pool, id, &text)
        })
        .await
    }

    async fn remove_journal(&self, pool: &str, id: Uuid) -> PortResult<()> {
        let pool = pool.to_owned();
        self.call(Session::files, CALL, move |session, connection| {
            journal::remove(session.storage(connection), &pool, id)
        })
        .await
    }

    async fn volume(&self, path: &str) -> PortResult<Option<VolumeFacts>> {
        let path = path.to_owned();
        self.call(Session::files, CALL, move |session, connection| {
            session.storage(connection).volume(&path)
        })
        .await
    }

    async fn create_volume(&self, volume: &NewVolume) -> PortResult<String> {
        let volume = volume.clone();
        let limit = volume.secret.map_or(CALL, |_| ENCRYPT);
        self.call(Session::files, limit, move |session, connection| {
            session.storage(connection).create(&volume)
        })
        .await
    }

    async fn delete_volume(&self, path: &str) -> PortResult<()> {
        let path = path.to_owned();
        self.call(Session::files, CALL, move |session, connection| {
            session.storage(connection).delete(&path)
        })
        .await
    }

    async fn missing_directory(&self, path: &str) -> PortResult<Option<String>> {
        let path = xml::tidy_path(path);
        self.call(Session::files, CALL, move |session, connection| {
            session.storage(connection).missing(&path)
        })
        .await
    }

    async fn remove_directories(&self, path: &str, top: &str) -> PortResult<()> {
        let (path, top) = (xml::tidy_path(path), xml::tidy_path(top));
        self.call(Session::files, CALL, move |session, connection| {
            session.storage(connection).remove_directories(&path, &top)
        })
        .await
    }

    async fn file(&self, path: &str) -> PortResult<Option<FileState>> {
        let path = path.to_owned();
        self.call(Session::files, CALL, move |session, connection| {
            files::state(session, connection, &path)
        })
        .await
    }

    async fn create_file(&self, path: &str, length: Bytes, access: &Access) -> PortResult<()> {
        let (path, access) = (path.to_owned(), access.clone());
        self.call(Session::files, CALL, move |session, connection| {
            files::create(session, connection, &path, length, &access)
        })
        .await
    }

    async fn read_file(&self, path: &str, pieces: mpsc::Sender<Piece>) -> PortResult<()> {
        let path = path.to_owned();
        self.alone("read", move |session| files::read(session, &path, &pieces))
            .await
    }

    async fn write_file(
        &self,
        path: &str,
        length: Bytes,
        pieces: mpsc::Receiver<Piece>,
    ) -> PortResult<()> {
        let path = path.to_owned();
        self.alone("write", move |session| {
            files::write(session, &path, length, pieces)
        })
        .await
    }

    async fn remove_file(&self, path: &str) -> PortResult<()> {
        let path = path.to_owned();
        self.call(Session::files, CALL, move |session, connection| {
            files::remove(session, connection, &path)
        })
        .await
    }

    async fn close_pools(&self) -> PortResult<()> {
        self.call(Session::files, CALL, directories::close_pools)
            .await
    }

    async fn secret(&self, id: Uuid) -> PortResult<Option<SecretFacts>> {
        self.call(Session::looks, LOOK, move |_, connection| {
            secrets::read(connection, id)
        })
        .await
    }

    async fn secret_value(&self, id: Uuid) -> PortResult<Option<SecretValue>> {
        self.call(Session::looks, LOOK, move |_, connection| {
            secrets::value(connection, id)
        })
        .await
    }

    async fn create_secret(&self, secret: &SecretFacts, value: SecretValue) -> PortResult<()> {
        let secret = secret.clone();
        self.call(Session::acts, CALL, move |_, connection| {
            secrets::create(connection, &secret, &value)
        })
        .await
    }

    async fn keep_secret(&self, id: Uuid) -> PortResult<()> {
        self.call(Session::acts, CALL, move |_, connection| {
            secrets::keep(connection, id)
        })
        .await
    }

    async fn remove_secret(&self, id: Uuid) -> PortResult<()> {
        self.call(Session::acts, CALL, move |_, connection| {
            secrets::remove(connection, id)
        })
        .await
    }

    async fn secret_users(&self, id: Uuid) -> PortResult<Vec<String>> {
        self.call(Session::files, CALL, move |_, connection| {
            secrets::users(connection, id)
        })
        .await
    }

    async fn set_mark(&self, domain: Uuid, mark: Option<&Mark>) -> PortResult<()> {
        let mark = mark.cloned();
        self.call(Session::acts, CALL, move |_, connection| {
            domain::set_mark(connection, domain, mark.as_ref())
        })
        .await
    }

    async fn set_last_move(&self, domain: Uuid, last: &LastMove) -> PortResult<()> {
        let last = last.clone();
        self.call(Session::acts, CALL, move |_, connection| {
            domain::set_last_move(connection, domain, &last)
        })
        .await
    }

    async fn set_shutdown_mark(&self, domain: Uuid, mark: Option<&ShutdownMark>) -> PortResult<()> {
        let mark = mark.cloned();
        self.call(Session::acts, CALL, move |_, connection| {
            domain::set_shutdown_mark(connection, domain, mark.as_ref())
        })
        .await
    }

    async fn set_autostart(&self, domain: Uuid, on: bool) -> PortResult<()> {
        self.act(domain, move |domain| domain.set_autostart(on))
            .await
    }

    async fn definition(&self, domain: Uuid) -> PortResult<String> {
        self.call(Session::looks, LOOK, move |_, connection| {
            domain::definition(connection, domain)
        })
        .await
    }

    async fn offers_cpu(&self, definition: &str) -> PortResult<Option<bool>> {
        let definition = definition.to_owned();
        self.call(Session::looks, LOOK, move |_, connection| {
            host::offers_cpu(connection, &definition)
        })
        .await
    }

    async fn define(
        &self,
        definition: &str,
        disks: &[DiskPlace],
        mark: Option<&Mark>,
    ) -> PortResult<()> {
        let (definition, disks) = (definition.to_owned(), disks.to_vec());
        let mark = mark.cloned();
        self.call(Session::acts, CALL, move |_, connection| {
            domain::define(connection, &definition, &disks, mark.as_ref())
        })
        .await
    }

    async fn migrate(&self, request: &MigrateRequest) -> PortResult<()> {
        let request = request.clone();
        self.alone("move", move |session| {
            migrate::migrate(&session.reach(), &request)
        })
        .await
    }

    async fn measure_dirtying(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, |domain| raw::start_dirty_rate(domain, 1))
            .await
    }

    async fn dirtying(&self, domain: Uuid) -> PortResult<Option<Bytes>> {
        self.call(Session::probes, LOOK, move |_, connection| {
            migrate::dirtying(connection, domain)
        })
        .await
    }

    async fn job(&self, domain: Uuid) -> PortResult<Option<JobFacts>> {
        self.call(Session::probes, LOOK, move |_, connection| {
            migrate::job(connection, domain)
        })
        .await
    }

    async fn completed(&self, domain: Uuid) -> PortResult<Option<CompletedFacts>> {
        self.call(Session::probes, LOOK, move |_, connection| {
            migrate::completed(connection, domain)
        })
        .await
    }

    async fn flushes(&self, domain: Uuid) -> PortResult<BTreeMap<String, u64>> {
        self.call(Session::probes, LOOK, move |_, connection| {
            migrate::flushes(connection, domain)
        })
        .await
    }

    async fn start_post_copy(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, raw::start_post_copy).await
    }

    async fn recover_post_copy(&self, request: &MigrateRequest) -> PortResult<()> {
        let request = request.clone();
        self.alone("move", move |session| {
            migrate::recover(&session.reach(), &request)
        })
        .await
    }

    async fn abort(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, raw::abort_job).await
    }

    async fn suspend(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, Domain::suspend).await
    }

    async fn resume(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, Domain::resume).await
    }

    async fn start(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, Domain::create).await
    }

    async fn shutdown(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, Domain::shutdown).await
    }

    async fn destroy(&self, domain: Uuid) -> PortResult<()> {
        self.act(domain, Domain::destroy).await
    }

    async fn undefine(&self, domain: Uuid) -> PortResult<()> {
        self.call(Session::acts, CALL, move |_, connection| {
            domain::undefine(connection, domain)
        })
        .await
    }
}
