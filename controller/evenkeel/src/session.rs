//! One run against hosts without a cluster: the manifests' wishes in, the engine's views out.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::bail;
use evenkeel_engine::{Engine, Happening, Options, View, Wishes, process};
use tokio::sync::{mpsc, watch};

use crate::{credentials::Folder, hypervisors, table::human};

/// Hosts that hang are found not to answer by the engine's own deadlines; this guards against those deadlines.
const GUARD: Duration = Duration::from_secs(30);

/// The fleet's name in claims and journals of runs from files. Not that of a controller, whose lease would overrule us.
const FLEET: &str = "files";

/// What a session may do, and whose wishes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Does what files ask for.
    Act,
    /// Only looks, with wishes from files.
    Look,
    /// Only looks, with wishes from a cluster.
    LookForCluster,
}

/// An engine at work on wishes from files.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    credentials: Folder,
    wishes: watch::Sender<Arc<Wishes>>,
    views: watch::Receiver<Arc<View>>,
    happenings: mpsc::UnboundedReceiver<Happening>,
}

impl Session {
    /// Starts, on behalf of `command`, as `manner` says.
    ///
    /// # Errors
    /// Where there is no host to look at, or hypervisors can't be talked to at all.
    pub fn start(
        mut wishes: Wishes,
        command: &str,
        manner: Manner,
        credentials: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        if wishes.hosts.is_empty() {
            bail!("there is no Host to look at: write one, or give its file with another -f");
        }
        let options = Options {
            fleet: FLEET.to_owned(),
            holder: format!("{command}@{}:{}", machine(), std::process::id()),
            process: process::own_identity(),
            epoch: 0,
            act: manner == Manner::Act,
            held: manner == Manner::Act,
            from_files: manner != Manner::LookForCluster,
        };
        let credentials = Folder::new(credentials);
        credentials.add_to(&mut wishes);
        let hypervisors = hypervisors::open();
        let (wishes, receiver) = watch::channel(Arc::new(wishes));
        let (sender, happenings) = mpsc::unbounded_channel();
        let engine = Engine::start(options, hypervisors, receiver, sender);
        let views = engine.views();
        Ok(Self {
            engine,
            credentials,
            wishes,
            views,
            happenings,
        })
    }

    /// The view of now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// The first view in which every host has answered or was found not to.
    ///
    /// # Errors
    /// Where the engine does not get there.
    pub async fn settled(&mut self) -> anyhow::Result<Arc<View>> {
        let settled = self.views.wait_for(|view| view.settled);
        match tokio::time::timeout(GUARD, settled).await {
            Ok(Ok(view)) => Ok(view.clone()),
            Ok(Err(_)) => bail!(
                "the engine ended before it had looked at every host: run it again with -v to see why"
            ),
            Err(_) => bail!(
                "not every host was looked at within {}: run it again with -v to see which",
                human(GUARD)
            ),
        }
    }

    /// The next view.
    ///
    /// # Errors
    /// Where the engine has ended.
    pub async fn next(&mut self) -> anyhow::Result<Arc<View>> {
        if self.views.changed().await.is_err() {
            bail!("the engine ended: run it again, it takes up what was left");
        }
        Ok(self.views.borrow_and_update().clone())
    }

    /// New wishes.
    pub fn wish(&self, mut wishes: Wishes) {
        self.credentials.add_to(&mut wishes);
        self.wishes.send_replace(Arc::new(wishes));
    }

    /// Reads the credentials again: keys that were changed are used from now on.
    pub fn read_credentials(&self) {
        let mut wishes = Wishes::clone(&self.wishes.borrow());
        self.credentials.add_to(&mut wishes);
        self.wishes.send_if_modified(|current| {
            let changed = current.credentials != wishes.credentials;
            if changed {
                *current = Arc::new(wishes);
            }
            changed
        });
    }

    /// What happened since this was last asked.
    pub fn happenings(&mut self) -> Vec<Happening> {
        std::iter::from_fn(|| self.happenings.try_recv().ok()).collect()
    }

    /// Starts what is ready: an acting session begins by only looking.
    ///
    /// # Errors
    /// Where the engine has ended.
    pub async fn go(&mut self) -> anyhow::Result<()> {
        let before = self.view().number;
        self.engine.go();
        if self
            .views
            .wait_for(|view| view.number > before)
            .await
            .is_err()
        {
            bail!("the engine ended: run it again, it takes up what was left");
        }
        Ok(())
    }

    /// Starts no further move.
    pub fn hold(&self) {
        self.engine.hold();
    }

    /// Aborts moves that have not begun to switch.
    pub fn abort_all(&self) {
        self.engine.abort_all();
    }

    /// Waits for what is under way, gives the hosts back and ends.
    pub async fn finish(self) {
        self.engine.hold();
        self.engine.finish().await;
    }

    /// Ends at once; what is under way goes on, and the next run takes it up.
    pub async fn leave(self) {
        self.engine.leave().await;
    }
}

/// The name of the machine we run on.
#[must_use]
pub fn machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name.to_owned()
    }
}
