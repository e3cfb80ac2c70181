//! A real Kubernetes control plane for tests and the demo: etcd, kube-apiserver and kube-controller-manager as plain
//! processes on loopback. No scheduler and no kubelet: objects are real, pods never run.
//!
//! `tests/scripts/build-cluster.sh` builds the programs once. [`Cluster::start`] starts a cluster that ends with its
//! owner: when the value is dropped, and also when this process is killed.
//! Knows nothing of Evenkeel itself: CRDs and charts are brought by those who use it.
//!
//! How ending works: each server notes process number and start time in the cluster's state folder before it becomes
//! the server. A detached keeper process waits on a pipe from the owner; when that closes, however the owner ended, it
//! renames the folder (from then on nothing new can start), kills what is noted there, and removes everything.

mod binaries;
mod clients;
mod description;
mod keeper;
mod process;
mod servers;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use self::binaries::Binaries;
pub use self::clients::Answer;
pub use self::description::{Description, User, all, states};
pub use self::keeper::end;
pub use self::process::{ProcessId, Server};

use self::keeper::Keeper;
use self::servers::Servers;

/// The name of the user in `system:masters`, for whom there is no refusal.
pub const ADMIN: &str = "admin";

/// How long the servers may take until they serve. It takes seconds; a busy machine gets more.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name among the machine's clusters; one is made up if absent.
    pub id: Option<String>,
    /// Users beside [`ADMIN`], with the groups to bind roles to.
    pub users: Vec<User>,
    /// Write every request to [`Cluster::audit_events`].
    pub audit: bool,
    /// Run the controller manager: garbage collection, tokens, aggregated roles, nodes, Deployments.
    pub controller_manager: bool,
    /// More arguments for kube-apiserver.
    pub api_server_arguments: Vec<String>,
}

impl Default for Options {
    /// With the controller manager, without the audit log, and with the users `viewer`, `operator`, `administrator` and
    /// `nobody`, each in the group `evenkeel:<name>`. They may do nothing until roles are bound to them.
    fn default() -> Self {
        let user = |name: &str| User::new(name, &[&format!("evenkeel:{name}")]);
        Self {
            id: None,
            users: ["viewer", "operator", "administrator", "nobody"]
                .map(user)
                .into(),
            audit: false,
            controller_manager: true,
            api_server_arguments: Vec::new(),
        }
    }
}

/// A running control plane.
#[derive(Debug)]
pub struct Cluster {
    description: Description,
    binaries: Binaries,
    servers: Servers,
    /// Set where the cluster ends with this value.
    keeper: Option<Keeper>,
}

impl Cluster {
    /// Starts a cluster that ends when the value is dropped or this process ends, and waits until it serves.
    ///
    /// # Errors
    /// If a program is missing (the sentence says what to run) or a server does not come up (with the end of its log).
    pub fn start(options: Options) -> Result<Self> {
        let binaries = Binaries::find()?;
        let id = options
            .id
            .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string()[..8].to_owned());
        if id.is_empty()
            || !id
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            bail!("'{id}' is no name for a cluster: small letters, digits and dashes only");
        }
        let state = states().join(&id);
        for left in all()?
            .iter()
            .filter(|left| left.id == id && left.is_orphan())
        {
            end(left)?;
        }
        description::make_private_folder(&state)?;
        let data = tempfile::Builder::new()
            .prefix("evenkeel-cluster-")
            .tempdir()?
            .keep();
        let mut users = vec![User::new(ADMIN, &["system:masters"])];
        users.extend(options.users);
        let description = Description {
            id,
            version: Binaries::kubernetes_version()?,
            port: free_port()?,
            users,
            audit: options.audit,
            controller_manager: options.controller_manager,
            api_server_arguments: options.api_server_arguments,
            owner: ProcessId::own(),
            created: jiff::Timestamp::now(),
            state,
            data,
        };
        description.write()?;
        let keeper = Keeper::start(&description)?;
        let servers = Servers::new(&description, &binaries);
        let mut cluster = Self {
            description,
            binaries,
            servers,
            keeper: Some(keeper),
        };
        // From here on an error drops the value, and so ends what was started.
        cluster.prepare()?;
        cluster.start_servers()?;
        Ok(cluster)
    }

    /// Takes hold of a cluster that runs already. It does not end with the value.
    ///
    /// # Errors
    /// If there is no such cluster.
    pub fn attach(id: &str) -> Result<Self> {
        let description = all()?
            .into_iter()
            .find(|found| found.id == id && !found.is_orphan());
        let description = description
            .with_context(|| format!("no cluster {id} runs; `cluster --id {id} up` starts one"))?;
        let binaries = Binaries::find()?;
        let servers = Servers::new(&description, &binaries);
        Ok(Self {
            description,
            binaries,
            servers,
            keeper: None,
        })
    }

    /// Lets the cluster outlive this process; `cluster down` ends it.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn leave_running(mut self) -> Result<Self> {
        if let Some(keeper) = self.keeper.take() {
            self.description.owner = None;
            self.description.write()?;
            keeper.release()?;
        }
        Ok(self)
    }

    /// Ends the cluster as dropping it does, but says where something stayed behind.
    ///
    /// # Errors
    /// If something stays.
    pub fn down(mut self) -> Result<()> {
        self.end()
    }

    /// What is known of it.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The programs it runs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.description.state.join("kubeconfig")
    }

    /// A user's kubeconfig.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn kubeconfig_as(&self, user: &str) -> Result<PathBuf> {
        self.description.kubeconfig(user)
    }

    /// Writes a kubeconfig for a service account, with a token that is good for an hour.
    ///
    /// # Errors
    /// If there is no such service account.
    pub fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.kubectl([
            "create",
            "token",
            name,
            "--namespace",
            namespace,
            "--duration=1h",
        ])?;
        let file = self
            .description
            .state
            .join(format!("kubeconfig-{namespace}-{name}"));
        self.description
            .write_kubeconfig(&file, name, token.trim())?;
        Ok(file)
    }

    /// The API server's process, to kill, pause and start again.
    #[must_use]
    pub fn api_server(&self) -> &Server {
        &self.servers.api_server
    }

    /// etcd's process.
    #[must_use]
    pub fn etcd(&self) -> &Server {
        &self.servers.etcd
    }

    /// The controller manager's process, if there is one.
    #[must_use]
    pub fn controller_manager(&self) -> Option<&Server> {
        self.servers.controller_manager.as_ref()
    }

    /// All server processes.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.all()
    }

    /// Kills the API server, starts it again at the same address, and waits until it serves.
    ///
    /// # Errors
    /// If it does not come back.
    pub fn restart_api_server(&self) -> Result<()> {
        self.servers.api_server.kill()?;
        self.servers.api_server.start()?;
        self.wait_until_ready(START_TIMEOUT)
    }

    /// Does the API server say it is ready?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let address = (Ipv4Addr::LOCALHOST, self.description.port).into();
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
            && self
                .kubectl(["get", "--raw=/readyz", "--request-timeout=2s"])
                .is_ok_and(|answer| answer == "ok")
    }

    /// Waits until the API server says it is ready.
    ///
    /// # Errors
    /// If it ends, or time runs out; with the end of its log.
    pub fn wait_until_ready(&self, timeout: Duration) -> Result<()> {
        let watched = [&self.servers.api_server, &self.servers.etcd];
        self.wait(
            timeout,
            &watched,
            "the API server does not get ready",
            || self.is_ready(),
        )
    }

    /// Every request so far, as the audit log has it (`audit.k8s.io/v1` Event), the oldest first.
    ///
    /// # Errors
    /// If the cluster was started without [`Options::audit`].
    pub fn audit_events(&self) -> Result<Vec<serde_json::Value>> {
        if !self.description.audit {
            bail!("this cluster keeps no audit log; start it with Options {{ audit: true, .. }}");
        }
        let text = fs::read_to_string(self.description.data.join("audit.log"))?;
        // The last line may be half written.
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn prepare(&self) -> Result<()> {
        let Description {
            state, data, users, ..
        } = &self.description;
        let key = data.join("service-account.key");
        let made = Command::new("openssl")
            .args([
                "ecparam",
                "-name",
                "prime256v1",
                "-genkey",
                "-noout",
                "-out",
            ])
            .arg(&key)
            .stderr(Stdio::null())
            .status()
            .context("openssl is missing: install it (apt-get install openssl)")?;
        if !made.success() {
            bail!("openssl could not make a key ({made})");
        }
        fs::write(
            data.join("audit-policy.yaml"),
            include_str!("../../cluster/audit-policy.yaml"),
        )?;
        let tokens: String = users
            .iter()
            .map(|user| {
                format!(
                    "{},{},{},\"{}\"\n",
                    user.token,
                    user.name,
                    user.name,
                    user.groups.join(",")
                )
            })
            .collect();
        description::write_private(&state.join("tokens.csv"), &tokens)?;
        for user in users {
            let file = self.description.kubeconfig(&user.name)?;
            self.description
                .write_kubeconfig(&file, &user.name, &user.token)?;
        }
        Ok(())
    }

    fn start_servers(&mut self) -> Result<()> {
        self.servers.etcd.start()?;
        self.servers.api_server.start()?;
        if let Err(error) = self.wait_until_ready(START_TIMEOUT) {
            // Between finding the port free and using it, somebody else may have taken it.
            if !self
                .servers
                .api_server
                .last_words()
                .contains("address already in use")
            {
                return Err(error);
            }
            self.change_port()?;
            self.servers.api_server.start()?;
            self.wait_until_ready(START_TIMEOUT)?;
        }
        if let Some(manager) = &self.servers.controller_manager {
            manager.start()?;
            // The first thing that only it makes.
            let made = || {
                self.kubectl(["get", "serviceaccount", "default", "--namespace=default"])
                    .is_ok()
            };
            self.wait(
                START_TIMEOUT,
                &[manager],
                "the controller manager does nothing",
                made,
            )?;
        }
        Ok(())
    }

    fn change_port(&mut self) -> Result<()> {
        self.servers.api_server.kill()?;
        self.description.port = free_port()?;
        self.description.write()?;
        self.prepare()?;
        let etcd_stays = Servers::new(&self.description, &self.binaries);
        self.servers.api_server = etcd_stays.api_server;
        self.servers.controller_manager = etcd_stays.controller_manager;
        Ok(())
    }

    fn wait(
        &self,
        timeout: Duration,
        watched: &[&Server],
        what: &str,
        done: impl Fn() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !done() {
            if let Some(ended) = watched
                .iter()
                .find(|server| server.exited() || server.process().is_none())
            {
                bail!("{} has ended; {}", ended.name(), ended.last_words());
            }
            if Instant::now() > deadline {
                bail!(
                    "{what} within {} s; {}",
                    timeout.as_secs(),
                    watched[0].last_words()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(keeper) = self.keeper.take() else {
            return Ok(());
        };
        let ended = keeper.end(&self.description);
        for server in self.servers.all() {
            // It was ours to start, so its exit status is ours to collect.
            server.exited();
        }
        ended
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error:#}");
        }
    }
}

/// A port that is free now. Below those that outgoing connections get, so that none of them takes it while the API
/// server is away.
fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let random = uuid::Uuid::new_v4();
        let [high, low, ..] = random.into_bytes();
        let port = 20_000 + u16::from_be_bytes([high, low]) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between 20000 and 29999 is free on 127.0.0.1")
}
