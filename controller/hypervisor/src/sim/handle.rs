//! The port's calls, each done to the simulated host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::credentials::Credentials;
use evenkeel_engine::port::{
    Access, Activity, ClaimRecord, CompletedFacts, DiskPlace, DomainEvent, DomainFacts, Fault,
    FileState, Glance, HostFacts, Hypervisor, JobFacts, JournalEntry, LastMove, Mark,
    MigrateRequest, NewVolume, Piece, PoolFacts, PortError, PortResult, SecretFacts, SecretValue,
    ShutdownMark, VolumeFacts, Why,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    facts, files,
    line::{Handle, Waits},
    machine_of,
    world::{Domain, File, Kind, Qemu, Tiding, World},
};

const LOOK: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(10);
/// What an empty image occupies.
const EMPTY: u64 = 200 << 10;
const JOURNAL: u64 = 32 << 10;
/// How long a migration's client waits for a silent libvirtd.
const PATIENCE: Duration = Duration::from_secs(34);

fn missing(what: &str) -> PortError {
    PortError::new(Fault::NotFound, format!("{what} not found"))
}

fn domain_of<'a>(world: &'a mut World, host: &str, uuid: Uuid) -> PortResult<&'a mut Domain> {
    world.domain(host, uuid).ok_or_else(|| missing("Domain"))
}

/// Begins something at a host, towards a target, whose end is told through the sender.
type Begin =
    fn(&mut World, &str, &str, &MigrateRequest, oneshot::Sender<PortResult<()>>) -> PortResult<()>;

impl Handle {
    pub(super) async fn look_at<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut World, &str) -> T + Send + 'static,
    ) -> PortResult<T> {
        self.call(LOOK, Waits::Nothing, |world, host| Ok(look(world, host)))
            .await
    }

    pub(super) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut World, &str) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        self.call(CALL, Waits::Nothing, change).await
    }

    /// Begins what a migration's client waits for, and waits for it.
    async fn client_of(&self, request: &MigrateRequest, begin: Begin) -> PortResult<()> {
        let (answer, answered) = oneshot::channel();
        let request = request.clone();
        let generation = self
            .call(CALL, Waits::Nothing, move |world, host| {
                let target = machine_of(&request.target_uri)
                    .ok_or_else(|| PortError::new(Fault::Invalid, "no such URI"))?;
                begin(world, host, target, &request, answer)?;
                Ok(world.machines[host].generation)
            })
            .await?;
        tokio::select! {
            biased;
            Ok(result) = answered => result,
            () = self.broken(generation, PATIENCE) => {
                Err(PortError::new(Fault::Unreachable, "Disconnected: End of file while reading data"))
            }
        }
    }

    /// Changes a domain's definition, which a job may hold.
    async fn define(
        &self,
        uuid: Uuid,
        change: impl FnOnce(&mut Domain) + Send + 'static,
    ) -> PortResult<()> {
        self.call(CALL, Waits::Act(uuid), move |world, host| {
            change(domain_of(world, host, uuid)?);
            world.tell(host, Tiding::Changed(uuid));
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Hypervisor for Handle {
    // A line in here needs no keys.
    fn renew(&self, _: Option<Arc<Credentials>>) {}

    fn use_directories(&self, directories: BTreeSet<String>) {
        if let Some(machine) = self.shared.world().machine(&self.machine) {
            machine.used = directories;
        }
    }

    async fn observe(&self) -> PortResult<HostFacts> {
        self.look_at(|world, host| facts::host(host, &world.machines[host]))
            .await
    }

    async fn look(&self, domain: Uuid) -> PortResult<Option<DomainFacts>> {
        self.call(LOOK, Waits::Look(domain), move |world, host| {
            let machine = &world.machines[host];
            let own = machine.domains.get(&domain);
            Ok(own.map(|own| facts::domain(machine, domain, own)))
        })
        .await
    }

    async fn glance(&self, domain: Uuid) -> PortResult<Option<Glance>> {
        Ok(self.look(domain).await?.map(|facts| facts.glance()))
    }

    async fn references(&self, except: Option<Uuid>) -> PortResult<BTreeMap<String, Vec<String>>> {
        self.look_at(move |world, host| world.machines[host].references(except))
            .await
    }

    async fn pools(&self) -> PortResult<Vec<PoolFacts>> {
        self.look_at(|world, host| facts::pools(&world.machines[host]))
            .await
    }

    async fn claim(&self) -> PortResult<Option<ClaimRecord>> {
        self.look_at(|world, host| world.machines[host].claim.clone())
            .await
    }

    async fn put_claim(&self, claim: &ClaimRecord) -> PortResult<()> {
        let claim = claim.clone();
        self.change(move |world, host| {
            let own = &mut world.machine(host).ok_or_else(|| missing("Host"))?.claim;
            if own.as_ref().is_some_and(|own| own.id != claim.id) {
                return Err(PortError::new(
                    Fault::Exists,
                    "already defined for use with evenkeel-claim",
                ));
            }
            *own = Some(claim);
            Ok(())
        })
        .await
    }

    async fn remove_claim(&self, id: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            let own = &mut world.machine(host).ok_or_else(|| missing("Host"))?.claim;
            if own.as_ref().is_some_and(|own| own.id == id) {
                *own = None;
            }
            Ok(())
        })
        .await
    }

    async fn journals(&self) -> PortResult<Vec<JournalEntry>> {
        self.look_at(|world, host| {
            let machine = &world.machines[host];
            let entry = |(path, file): (&String, &File)| match &file.kind {
                Kind::Journal(id, text) => Some(JournalEntry {
                    id: *id,
                    pool: machine.pool_of(path)?.name.clone(),
                    text: text.clone(),
                }),
                _ => None,
            };
            machine.files.iter().filter_map(entry).collect()
        })
        .await
    }

    async fn create_journal(&self, pool: &str, id: Uuid, text: &str) -> PortResult<()> {
        let name = pool.to_owned();
        self.change(move |world, host| {
            let file = File {
                capacity: JOURNAL,
                allocated: JOURNAL,
                kind: Kind::Journal(id, String::new()),
                backing: None,
            };
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            machine.create(&name, &format!(".evenkeel-{id}"), file)
        })
        .await?;
        // Made and written are two calls: whoever dies between them leaves it empty.
        let empty = self.shared.world().nature.journal_empty;
        sleep(empty).await;
        self.rewrite_journal(pool, id, text).await
    }

    async fn rewrite_journal(&self, pool: &str, id: Uuid, text: &str) -> PortResult<()> {
        let (pool, text) = (pool.to_owned(), text.to_owned());
        self.change(move |world, host| {
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            let path = machine.journal_path(&pool, id)?;
            let file = machine
                .files
                .get_mut(&path)
                .ok_or_else(|| missing("Journal"))?;
            file.kind = Kind::Journal(id, text.clone());
            world.hear_of_halts(&text);
            Ok(())
        })
        .await
    }

    async fn remove_journal(&self, pool: &str, id: Uuid) -> PortResult<()> {
        let pool = pool.to_owned();
        self.change(move |world, host| {
            let path = world.machines[host].journal_path(&pool, id)?;
            world.delete(host, &path);
            Ok(())
        })
        .await
    }

    async fn volume(&self, path: &str) -> PortResult<Option<VolumeFacts>> {
        let path = path.to_owned();
        self.change(move |world, host| {
            let machine = &world.machines[host];
            if machine.pool_of(&path).is_none() {
                return Err(PortError::new(
                    Fault::Unsupported,
                    format!("{path} is in no pool"),
                ));
            }
            Ok(machine.files.get(&path).map(|file| VolumeFacts {
                capacity: Bytes(file.capacity),
                allocated: Bytes(file.allocated),
            }))
        })
        .await
    }

    async fn create_volume(&self, volume: &NewVolume) -> PortResult<String> {
        let volume = volume.clone();
        self.change(move |world, host| {
            let file = File {
                capacity: volume.capacity.0,
                allocated: EMPTY,
                kind: Kind::Image(None),
                backing: volume.backing.map(|below| below.path),
            };
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            machine.can_open(volume.secret)?;
            machine.create(&volume.pool, &volume.name, file)
        })
        .await
    }

    async fn delete_volume(&self, path: &str) -> PortResult<()> {
        let path = path.to_owned();
        self.change(move |world, host| {
            world.delete(host, &path);
            Ok(())
        })
        .await
    }

    async fn missing_directory(&self, path: &str) -> PortResult<Option<String>> {
        let path = path.to_owned();
        self.look_at(move |world, host| world.machines[host].missing_directory(&path))
            .await
    }

    async fn remove_directories(&self, path: &str, top: &str) -> PortResult<()> {
        let (path, top) = (path.to_owned(), top.to_owned());
        self.change(move |world, host| {
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            machine.remove_directories(&path, &top);
            Ok(())
        })
        .await
    }

    async fn file(&self, path: &str) -> PortResult<Option<FileState>> {
        let path = path.to_owned();
        self.look_at(move |world, host| {
            let file = world.machines[host].files.get(&path);
            file.map(files::state)
        })
        .await
    }

    async fn create_file(&self, path: &str, length: Bytes, _: &Access) -> PortResult<()> {
        let path = path.to_owned();
        self.change(move |world, host| files::create(world, host, path, length.0))
            .await
    }

    async fn read_file(&self, path: &str, pieces: mpsc::Sender<Piece>) -> PortResult<()> {
        self.read(path, pieces).await
    }

    async fn write_file(
        &self,
        path: &str,
        length: Bytes,
        pieces: mpsc::Receiver<Piece>,
    ) -> PortResult<()> {
        self.write(path, length.0, pieces).await
    }

    async fn remove_file(&self, path: &str) -> PortResult<()> {
        self.delete_volume(path).await
    }

    async fn close_pools(&self) -> PortResult<()> {
        self.change(|_, _| Ok(())).await
    }

    async fn secret(&self, id: Uuid) -> PortResult<Option<SecretFacts>> {
        self.look_at(move |world, host| {
            let secret = world.machines[host].secrets.get(&id);
            secret.map(|secret| secret.facts.clone())
        })
        .await
    }

    async fn secret_value(&self, id: Uuid) -> PortResult<Option<SecretValue>> {
        self.look_at(move |world, host| {
            let secret = world.machines[host].secrets.get(&id);
            let value = secret.filter(|secret| !secret.facts.private)?.value.clone();
            value.map(|bytes| SecretValue::new(Zeroizing::new(bytes)))
        })
        .await
    }

    async fn create_secret(&self, secret: &SecretFacts, value: SecretValue) -> PortResult<()> {
        let (id, secret) = (secret.id, secret.clone());
        self.change(move |world, host| {
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            machine.define_secret(secret)
        })
        .await?;
        // Two calls: whoever dies between them leaves it without a value.
        self.change(move |world, host| {
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            let own = machine
                .secrets
                .get_mut(&id)
                .ok_or_else(|| missing("Secret"))?;
            own.value = Some(value.bytes().to_vec());
            Ok(())
        })
        .await
    }

    async fn keep_secret(&self, id: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            let machine = world.machine(host).ok_or_else(|| missing("Host"))?;
            if let Some(secret) = machine.secrets.get_mut(&id) {
                secret.facts.brought_by = None;
            }
            Ok(())
        })
        .await
    }

    async fn remove_secret(&self, id: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            world.remove_secret(host, id);
            Ok(())
        })
        .await
    }

    async fn secret_users(&self, id: Uuid) -> PortResult<Vec<String>> {
        self.look_at(move |world, host| world.machines[host].secret_users(id))
            .await
    }

    async fn set_mark(&self, domain: Uuid, mark: Option<&Mark>) -> PortResult<()> {
        let mark = mark.cloned();
        self.define(domain, |own| own.mark = mark).await
    }

    async fn set_last_move(&self, domain: Uuid, last: &LastMove) -> PortResult<()> {
        let last = last.clone();
        self.define(domain, |own| {
            own.mark = None;
            own.last_move = Some(last);
        })
        .await
    }

    async fn set_shutdown_mark(&self, domain: Uuid, mark: Option<&ShutdownMark>) -> PortResult<()> {
        let mark = mark.cloned();
        self.define(domain, |own| own.shutdown_mark = mark).await
    }

    async fn set_autostart(&self, domain: Uuid, on: bool) -> PortResult<()> {
        self.define(domain, move |own| own.autostart = on).await
    }

    async fn definition(&self, domain: Uuid) -> PortResult<String> {
        self.change(move |world, host| {
            let own = domain_of(world, host, domain)?.clone();
            let text = format!("definition {} of {domain}", world.number());
            world.definitions.insert(text.clone(), (domain, own));
            Ok(text)
        })
        .await
    }

    async fn offers_cpu(&self, definition: &str) -> PortResult<Option<bool>> {
        let definition = definition.to_owned();
        self.look_at(move |world, host| {
            let (_, guest) = world.definitions.get(&definition)?;
            let model = guest.needs.model.as_ref()?;
            Some(!world.machines[host].offers.lacks.contains(model))
        })
        .await
    }

    async fn define(
        &self,
        definition: &str,
        disks: &[DiskPlace],
        mark: Option<&Mark>,
    ) -> PortResult<()> {
        let (definition, disks, mark) = (definition.to_owned(), disks.to_vec(), mark.cloned());
        self.change(move |world, host| world.define(host, &definition, &disks, mark))
            .await
    }

    async fn migrate(&self, request: &MigrateRequest) -> PortResult<()> {
        self.client_of(request, |world, host, target, request, answer| {
            world.migrate(host, target, request, false, answer)
        })
        .await
    }

    async fn flushes(&self, domain: Uuid) -> PortResult<BTreeMap<String, u64>> {
        self.call(LOOK, Waits::Look(domain), move |world, host| {
            let own = domain_of(world, host, domain)?;
            let disks: Vec<String> = own.disks.iter().map(|disk| disk.target.clone()).collect();
            let count = world.flushes(host, domain);
            Ok(disks.into_iter().map(|disk| (disk, count)).collect())
        })
        .await
    }

    async fn start_post_copy(&self, domain: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            let job = domain_of(world, host, domain)?.job;
            world.start_post_copy(job)
        })
        .await
    }

    async fn recover_post_copy(&self, request: &MigrateRequest) -> PortResult<()> {
        self.client_of(request, |world, host, target, request, answer| {
            let job = domain_of(world, host, request.domain)?.job;
            world.recover_post_copy(job, target, answer)
        })
        .await
    }

    async fn measure_dirtying(&self, domain: Uuid) -> PortResult<()> {
        self.change(move |world, host| domain_of(world, host, domain).map(|_| ()))
            .await
    }
    async fn dirtying(&self, domain: Uuid) -> PortResult<Option<Bytes>> {
        self.look_at(move |world, _| world.guests.get(&domain).map(|guest| Bytes(guest.dirty)))
            .await
    }

    async fn job(&self, domain: Uuid) -> PortResult<Option<JobFacts>> {
        self.call(LOOK, Waits::Look(domain), move |world, host| {
            let own = world.domain(host, domain).map(|own| &*own);
            // Its QEMU waits for the network, and whoever asks it waits too.
            if own.is_some_and(|own| own.activity == Activity::Running && own.qemu == Qemu::Still) {
                return Err(PortError::new(
                    Fault::TimedOut,
                    "the monitor does not answer",
                ));
            }
            let job = own.and_then(|own| own.job);
            Ok(job
                .and_then(|job| world.moves.get(&job))
                .map(super::migration::Move::facts))
        })
        .await
    }

    async fn completed(&self, domain: Uuid) -> PortResult<Option<CompletedFacts>> {
        self.look_at(move |world, host| world.domain(host, domain).and_then(|own| own.completed))
            .await
    }

    async fn abort(&self, domain: Uuid) -> PortResult<()> {
        let sent = Instant::now();
        self.change(move |world, host| {
            let job = domain_of(world, host, domain)?.job;
            world.object_to_abort(domain, sent);
            world.object_to_freezing(domain, sent);
            match job.and_then(|job| world.moves.get_mut(&job)) {
                Some(own) => {
                    own.abort = true;
                    Ok(())
                }
                None => Err(PortError::new(
                    Fault::Invalid,
                    "no job is active on the domain",
                )),
            }
        })
        .await
    }

    async fn suspend(&self, domain: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            if domain_of(world, host, domain)?.qemu == Qemu::None {
                return Err(PortError::new(
                    Fault::DomainStopped,
                    "domain is not running",
                ));
            }
            let halted = world.is_halted(domain);
            world.object_if(domain, host, "suspended", |elsewhere| {
                !elsewhere.runs && !elsewhere.shown && !halted
            });
            world.qemu(host, domain, Qemu::Still);
            if let Some(truth) = world.guests.get_mut(&domain) {
                truth.suspended += 1;
            }
            world.state(host, domain, Activity::Paused, Why::ByUser);
            world.event(host, domain, DomainEvent::Suspended);
            Ok(())
        })
        .await
    }

    async fn resume(&self, domain: Uuid) -> PortResult<()> {
        self.call(CALL, Waits::Act(domain), move |world, host| {
            if domain_of(world, host, domain)?.qemu == Qemu::None {
                return Err(PortError::new(
                    Fault::DomainStopped,
                    "domain is not running",
                ));
            }
            world.qemu(host, domain, Qemu::Runs);
            world.object_if(domain, host, "resumed", |elsewhere| elsewhere.runs);
            world.state(host, domain, Activity::Running, Why::Unpaused);
            world.event(host, domain, DomainEvent::Resumed);
            Ok(())
        })
        .await
    }

    async fn start(&self, domain: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            if domain_of(world, host, domain)?.qemu != Qemu::None {
                return Err(PortError::new(Fault::Invalid, "domain is already running"));
            }
            let newest = world.whole_on(domain).iter().any(|own| own == host);
            world.object_if(domain, host, "started", |elsewhere| {
                elsewhere.holds || elsewhere.defined || !newest
            });
            world.boot(host, domain);
            Ok(())
        })
        .await
    }

    async fn shutdown(&self, domain: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            if domain_of(world, host, domain)?.qemu == Qemu::None {
                return Err(PortError::new(
                    Fault::DomainStopped,
                    "domain is not running",
                ));
            }
            world.ask_to_shut_down(host, domain);
            Ok(())
        })
        .await
    }

    async fn destroy(&self, domain: Uuid) -> PortResult<()> {
        self.change(move |world, host| {
            if domain_of(world, host, domain)?.qemu != Qemu::None {
                // A copy that ran on elsewhere since is the guest, even where it has died in this moment.
                let newest = world.whole_on(domain).iter().any(|own| own == host);
                world.object_if(domain, host, "destroyed", |elsewhere| {
                    !elsewhere.holds && newest
                });
            }
            world.stopped(host, domain, Activity::ShutOff, Why::Destroyed);
            Ok(())
        })
        .await
    }

    async fn undefine(&self, domain: Uuid) -> PortResult<()> {
        self.call(CALL, Waits::Act(domain), move |world, host| {
            domain_of(world, host, domain)?;
            let noted = world.is_noted(domain);
            world.object_if(domain, host, "undefined", |elsewhere| {
                !elsewhere.defined && !noted
            });
            let own = domain_of(world, host, domain)?;
            own.persistent = false;
            own.autostart = false;
            let gone = own.qemu == Qemu::None;
            if gone {
                world.forget(host, domain);
            }
            world.event(host, domain, DomainEvent::Undefined);
            Ok(())
        })
        .await
    }
}
