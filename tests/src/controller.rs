//! The controller as a cluster runs it: with the chart's own rights, against a real API server, as a process that
//! can be killed. What it writes is followed by watches, so that times are exact.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    cluster::{Cluster, Options},
    evenkeel::{Answer, answer, binary},
    lab::{Host, Lab, SECRET},
};

/// The namespace it is installed in, and that of its lease.
pub const NAMESPACE: &str = "evenkeel-system";

/// The chart's service account.
const ACCOUNT: &str = "evenkeel";

/// How long the controller may take to become ready.
const READY: Duration = Duration::from_secs(30);

/// A cluster with the kinds and the chart installed. The chart's Deployment has no replicas: a [`Controller`] is
/// started beside it, as the chart's service account.
#[derive(Debug)]
pub struct Installed {
    /// The control plane.
    pub cluster: Cluster,
    kubeconfig: PathBuf,
    logs: tempfile::TempDir,
}

impl Installed {
    /// Starts a cluster that keeps an audit log, installs the kinds by `evenkeel crds | kubectl apply -f -` and the
    /// chart by helm. The users `viewer`, `operator` and `administrator` have the chart's roles.
    ///
    /// # Errors
    /// If something is not built, or refused.
    pub fn start() -> Result<Self> {
        let cluster = Cluster::start(Options {
            audit: true,
            ..Options::default()
        })?;
        let crds = Command::new(binary()?).arg("crds").output()?;
        ensure!(crds.status.success(), "evenkeel crds: {crds:?}");
        cluster.apply(&String::from_utf8(crds.stdout)?)?;
        let crds = [
            "wait",
            "crd",
            "--all",
            "--for=condition=Established",
            "--timeout=30s",
        ];
        cluster.kubectl(crds)?;
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/evenkeel");
        let mut install: Vec<String> = ["install", ACCOUNT, &chart.display().to_string()]
            .map(str::to_owned)
            .into();
        install
            .extend(["--create-namespace", "--skip-crds", "--set=replicas=0"].map(str::to_owned));
        install.push(format!("--namespace={NAMESPACE}"));
        for role in ["viewer", "operator", "administrator"] {
            install.push(format!(
                r#"--set-json=rbac.{role}s=[{{"kind":"Group","name":"evenkeel:{role}"}}]"#
            ));
        }
        cluster.helm(install)?;
        let kubeconfig = cluster.kubeconfig_of_service_account(NAMESPACE, ACCOUNT)?;
        Ok(Self {
            cluster,
            kubeconfig,
            logs: tempfile::tempdir()?,
        })
    }

    /// Starts a controller. It ends with the value, and with the thread that started it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn controller(&self) -> Result<Controller> {
        self.controller_that_says("info,kube_client=off")
    }

    /// Starts a controller whose log says as much as `RUST_LOG` asks for.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn controller_that_says(&self, level: &str) -> Result<Controller> {
        let health = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let number = fs::read_dir(self.logs.path())?.count();
        let log = self.logs.path().join(format!("{number}.log"));
        // setpriv has it killed when we are killed; then it becomes the program itself.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary()?)
            .args(["controller", "--log-format", "text", "--kubeconfig"])
            .arg(&self.kubeconfig)
            .args(["--lease-namespace", NAMESPACE])
            .args(["--health-address", &format!("127.0.0.1:{health}")])
            .env_remove("KUBECONFIG")
            .env_remove("POD_NAME")
            .env_remove("POD_NAMESPACE")
            .env("RUST_LOG", level)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("setpriv (util-linux) is missing")?;
        Ok(Controller { child, health, log })
    }

    /// Makes a Secret of the files in a folder, for the hosts that the annotation names if there is one, or gives it other
    /// contents; the Secret as it was written.
    ///
    /// # Errors
    /// If kubectl refuses it.
    pub fn secret(
        &self,
        name: &str,
        namespace: &str,
        folder: &Path,
        hosts: Option<&str>,
    ) -> Result<Value> {
        let secret = self.cluster.kubectl([
            "create",
            "secret",
            "generic",
            name,
            &format!("--namespace={namespace}"),
            &format!("--from-file={}", folder.display()),
            "--dry-run=client",
            "--output=json",
        ])?;
        let mut secret: Value = serde_json::from_str(&secret)?;
        if let Some(hosts) = hosts {
            secret["metadata"]["annotations"] = serde_json::json!({"evenkeel.dev/hosts": hosts});
        }
        let apply = ["apply", "--server-side", "--filename=-"];
        self.cluster
            .kubectl_with_input(crate::cluster::ADMIN, apply, &secret.to_string())?
            .success()?;
        Ok(secret)
    }

    /// Gives the cluster a lab's hosts and the keys to them.
    ///
    /// # Errors
    /// If kubectl refuses them.
    pub fn declare_hosts(&self, lab: &Lab) -> Result<()> {
        let hosts = lab.hosts();
        let names: Vec<&str> = hosts.iter().map(Host::name).collect();
        let keys = lab.credentials().join(SECRET);
        self.secret(SECRET, NAMESPACE, &keys, Some(&names.join(",")))?;
        for host in &hosts {
            self.cluster.apply(&host.manifest()?)?;
        }
        Ok(())
    }

    /// Follows every object of the four kinds and every Event from now on.
    ///
    /// # Errors
    /// If kubectl cannot be run.
    pub fn follow(&self) -> Result<Followed> {
        Followed::start(&self.cluster)
    }

    /// Requests of the controller that the API server refused for want of a right, as the audit log has them.
    ///
    /// # Errors
    /// If the audit log cannot be read.
    pub fn refused(&self) -> Result<Vec<String>> {
        let own = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let all = self.cluster.audit_events()?;
        let mut mine = all
            .iter()
            .filter(|event| event["user"]["username"] == own.as_str())
            .peekable();
        ensure!(mine.peek().is_some(), "the audit log has nothing of {own}");
        Ok(mine
            .filter(|event| {
                event["annotations"]["authorization.k8s.io/decision"] == "forbid"
                    || event["responseStatus"]["code"] == 403
            })
            .map(|event| format!("{} {}", event["verb"], event["requestURI"]))
            .collect())
    }

    /// The verbs and resources that the controller used, from the audit log.
    ///
    /// # Errors
    /// If the audit log cannot be read.
    pub fn used(&self) -> Result<BTreeMap<String, usize>> {
        let own = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let mut used = BTreeMap::new();
        for event in self.cluster.audit_events()? {
            let what = &event["objectRef"];
            if event["user"]["username"] == own.as_str()
                && let Some(resource) = what["resource"].as_str()
            {
                let part = what["subresource"]
                    .as_str()
                    .map_or(String::new(), |part| format!("/{part}"));
                let verb = event["verb"].as_str().unwrap_or_default();
                *used.entry(format!("{verb} {resource}{part}")).or_default() += 1;
            }
        }
        Ok(used)
    }
}

/// A running controller. Killed when dropped.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    health: u16,
    log: PathBuf,
}

impl Controller {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What `/healthz`, `/readyz` or `/livez` answers, with its status code.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn health(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.health))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let code = answer
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("no HTTP answer")?;
        let text = answer.split_once("\r\n\r\n").map_or("", |(_, text)| text);
        Ok((code, text.trim().to_owned()))
    }

    /// Waits until it says that it is ready and leads; how long that took.
    ///
    /// # Errors
    /// With its log, if it does not become so, or ends.
    pub fn wait_until_leading(&mut self) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let leads = self
                .health("/healthz")
                .is_ok_and(|answer| answer == (200, "leading".to_owned()));
            if leads && self.health("/readyz").is_ok_and(|(code, _)| code == 200) {
                return Ok(start.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the controller ended ({status}):\n{}", self.log());
            }
            ensure!(
                start.elapsed() < READY,
                "the controller does not lead after {READY:?}:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it: SIGKILL.
    ///
    /// # Errors
    /// If it was gone already.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the controller had ended ({status}):\n{}", self.log());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, as a cluster does: SIGTERM. Its exit status, how long it took, and its log.
    ///
    /// # Errors
    /// If it does not end.
    pub fn terminate(mut self, limit: Duration) -> Result<(ExitStatus, Duration, String)> {
        let start = Instant::now();
        let sent = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()?;
        ensure!(sent.success(), "there is no controller to end");
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, start.elapsed(), self.log()));
            }
            ensure!(
                start.elapsed() < limit,
                "the controller runs on after SIGTERM:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() || std::env::var_os("EVENKEEL_SHOW_LOG").is_some() {
            let _ = writeln!(
                std::io::stderr(),
                "--- the controller's log\n{}",
                self.log()
            );
        }
    }
}

/// What is followed: our kinds, and Events.
const FOLLOWED: [&str; 7] = [
    "hosts.evenkeel.dev",
    "guests.evenkeel.dev",
    "guestmigrations.evenkeel.dev",
    "hostdrains.evenkeel.dev",
    "migrationprofiles.evenkeel.dev",
    "fleets.evenkeel.dev",
    "events.events.k8s.io",
];

/// One version of an object, and when it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub when: Instant,
    /// Whether the object was deleted with this version.
    pub deleted: bool,
    /// The object.
    pub object: Value,
}

impl Seen {
    /// Status and reason of a condition.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        condition(&self.object, kind)
    }

    /// A string of its status; empty where there is none.
    #[must_use]
    pub fn status(&self, field: &str) -> &str {
        self.object["status"][field].as_str().unwrap_or_default()
    }
}

/// Status and reason of an object's condition.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let all = object["status"]["conditions"].as_array()?;
    let one = all.iter().find(|one| one["type"] == kind)?;
    Some((one["status"].as_str()?, one["reason"].as_str()?))
}

/// Everything that watches showed, in the order in which it came.
#[derive(Debug)]
pub struct Followed {
    seen: Arc<(Mutex<Vec<Seen>>, Condvar)>,
    watches: Vec<Child>,
}

impl Followed {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut followed = Self {
            seen: Arc::default(),
            watches: Vec::new(),
        };
        for kind in FOLLOWED {
            let mut watch = Command::new("setpriv");
            let kubectl = cluster.kubectl_command(crate::cluster::ADMIN)?;
            watch
                .args(["--pdeathsig", "KILL"])
                .arg(kubectl.get_program());
            watch.envs(
                kubectl
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            watch.args(["get", kind, "--all-namespaces", "--watch"]);
            watch.args(["--output-watch-events", "--output=json"]);
            let mut watch = watch
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("setpriv (util-linux) is missing")?;
            let told = watch.stdout.take();
            followed.watches.push(watch);
            let seen = followed.seen.clone();
            thread::spawn(move || {
                let told = BufReader::new(
                    told.into_iter()
                        .fold(Box::new(std::io::empty()) as Box<dyn Read>, |_, told| {
                            Box::new(told)
                        }),
                );
                let versions = serde_json::Deserializer::from_reader(told).into_iter::<Value>();
                for mut version in versions.map_while(Result::ok) {
                    let (seen, news) = &*seen;
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Seen {
                            when: Instant::now(),
                            deleted: version["type"] == "DELETED",
                            object: version["object"].take(),
                        });
                    news.notify_all();
                }
            });
        }
        Ok(followed)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every version of an object so far.
    #[must_use]
    pub fn versions(&self, kind: &str, name: &str) -> Vec<Seen> {
        let all = self.all();
        let mine = all.iter().filter(|seen| is(seen, kind, name));
        mine.cloned().collect()
    }

    /// Every version of every object so far, a line each, as JSON.
    #[must_use]
    pub fn everything(&self) -> String {
        let all = self.all();
        all.iter()
            .map(|seen| format!("{}\n", seen.object))
            .collect()
    }

    /// The last version of every object of a kind, by name; without those that are deleted.
    #[must_use]
    pub fn objects(&self, kind: &str) -> BTreeMap<String, Seen> {
        let mut objects = BTreeMap::new();
        for seen in self.all().iter().filter(|seen| seen.object["kind"] == kind) {
            if let Some(name) = seen.object["metadata"]["name"].as_str() {
                objects.insert(name.to_owned(), seen.clone());
            }
        }
        objects.retain(|_, seen| !seen.deleted);
        objects
    }

    /// Waits until the newest version of an object is as asked, or one that came after `since` was; that version.
    ///
    /// # Errors
    /// With the newest version, if that takes longer than the limit.
    pub fn wait(
        &self,
        kind: &str,
        name: &str,
        since: Option<Instant>,
        limit: Duration,
        what: &str,
        test: impl Fn(&Seen) -> bool,
    ) -> Result<Seen> {
        let until = Instant::now() + limit;
        let mut all = self.all();
        loop {
            let mut mine = all.iter().filter(|seen| is(seen, kind, name));
            let found = match since {
                Some(since) => mine.find(|seen| seen.when >= since && test(seen)),
                None => mine.next_back().filter(|seen| test(seen)),
            };
            if let Some(found) = found {
                return Ok(found.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last = all.iter().rfind(|seen| is(seen, kind, name));
                let last = last.map_or("nothing".to_owned(), |seen| {
                    format!("{:#}", seen.object["status"])
                });
                bail!("{kind} {name} not {what} within {limit:?}: {last}");
            }
            let waited = self.seen.1.wait_timeout(all, left);
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until a condition of an object has a reason; how long after the object was made that was seen, and the
    /// version.
    ///
    /// # Errors
    /// If that takes longer than the limit.
    pub fn reason(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<(Duration, Seen)> {
        let what = format!("{condition} {reason}");
        let since = self.versions(kind, name).first().map(|seen| seen.when);
        let seen = self.wait(
            kind,
            name,
            since.or(Some(Instant::now())),
            limit,
            &what,
            |seen| {
                seen.condition(condition)
                    .is_some_and(|(_, found)| found == reason)
            },
        )?;
        let made = self.versions(kind, name).first().map(|seen| seen.when);
        Ok((seen.when - made.unwrap_or(seen.when), seen))
    }

    /// Waits for an Event about an object with a reason; how long after the object was made it came.
    ///
    /// # Errors
    /// If that takes longer than the limit.
    pub fn event(&self, kind: &str, name: &str, reason: &str, limit: Duration) -> Result<Duration> {
        let until = Instant::now() + limit;
        let mut all = self.all();
        loop {
            let of = |seen: &Seen| {
                let about = &seen.object["regarding"];
                about["kind"] == kind && about["name"] == name
            };
            let found = all.iter().find(|seen| {
                seen.object["kind"] == "Event" && of(seen) && seen.object["reason"] == reason
            });
            let made = all.iter().find(|seen| is(seen, kind, name));
            if let (Some(found), Some(made)) = (found, made) {
                return Ok(found.when.saturating_duration_since(made.when));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let events: Vec<String> = all
                    .iter()
                    .filter(|seen| seen.object["kind"] == "Event" && of(seen))
                    .map(|seen| format!("{} {}", seen.object["reason"], seen.object["note"]))
                    .collect();
                bail!("no Event {reason} about {kind} {name} within {limit:?}, but {events:?}");
            }
            let waited = self.seen.1.wait_timeout(all, left);
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

fn is(seen: &Seen, kind: &str, name: &str) -> bool {
    seen.object["kind"] == kind && seen.object["metadata"]["name"] == name
}

/// The program with these words, run as a person would beside the controller: with the cluster's administrator's
/// kubeconfig.
///
/// # Errors
/// If it cannot be run, or has not ended after five minutes.
pub fn evenkeel(cluster: &Cluster, words: &[&str]) -> Result<Answer> {
    let mut command = Command::new(binary()?);
    command
        .args(words)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .env("NO_COLOR", "1");
    answer(&command)
}
