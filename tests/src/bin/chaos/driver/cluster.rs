//! A controller beside a real API server.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    controller::{Controller, Installed, condition},
    lab::Lab,
};
use serde_json::Value;

use super::Driver;
use crate::{
    fault::Fault,
    wish::{self, Wish},
};

/// How long is looked before somebody lends a hand.
const SPELL: Duration = Duration::from_secs(8);
/// How long the API server may take to serve again.
const SERVES: Duration = Duration::from_secs(60);

pub(super) struct Controllers<'a> {
    installed: &'a Installed,
    controller: Option<Controller>,
    said: String,
}

impl<'a> Controllers<'a> {
    pub(super) fn new(lab: &Lab, installed: &'a Installed) -> Result<Self> {
        for host in super::hosts(lab)? {
            installed.cluster.apply(&host)?;
        }
        installed.cluster.apply(&wish::standing(lab))?;
        let mut controller = installed.controller()?;
        controller.wait_until_leading()?;
        Ok(Self {
            installed,
            controller: Some(controller),
            said: String::new(),
        })
    }

    /// The objects of a kind, as they are.
    fn objects(&self, kind: &str) -> Result<Vec<Value>> {
        let list =
            self.installed
                .cluster
                .kubectl(["get", kind, "-o", "json", "--request-timeout=10s"])?;
        let mut list: Value = serde_json::from_str(&list)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Notes what is said of the wishes, and makes anew what has ended without success or was deleted. Whether all is
    /// as wished.
    fn look(&mut self, wish: &Wish) -> Result<bool> {
        let mut fulfilled = true;
        let mut remake = Vec::new();
        let objects = [
            self.objects("guestmigrations")?,
            self.objects("hostdrains")?,
        ]
        .concat();
        for object in &objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let what = match object["kind"].as_str() {
                Some("HostDrain") => "Drained",
                _ => "Succeeded",
            };
            let (status, reason) = condition(object, what).unwrap_or_default();
            let line = format!("{name}: {what} {status} {reason}\n");
            if !self.said.contains(&line) {
                self.said += &line;
            }
            let own = wish.names.iter().any(|own| own == name);
            let going = !object["metadata"]["deletionTimestamp"].is_null();
            let ended = ["Succeeded", "Failed", "Aborted"]
                .contains(&object["status"]["phase"].as_str().unwrap_or_default());
            if own {
                fulfilled &= status == "True" && !going;
                if ended && status != "True" && !going {
                    remake.push(format!("guestmigration/{name}"));
                }
            } else if what == "Succeeded" {
                // A drain's own move.
                fulfilled &= ended;
            }
        }
        let there = |name: &String| objects.iter().any(|one| one["metadata"]["name"] == **name);
        let missing = !wish.names.iter().all(there);
        if !remake.is_empty() {
            let words = ["delete", "--timeout=60s"].map(str::to_owned).into_iter();
            self.installed
                .cluster
                .kubectl(words.chain(remake.clone()))?;
        }
        if missing || !remake.is_empty() {
            fulfilled = false;
            self.installed.cluster.apply(&wish.manifest)?;
        }
        Ok(fulfilled)
    }
}

impl Driver for Controllers<'_> {
    fn begin(&mut self, wish: &Wish) -> Result<()> {
        self.said.clear();
        self.installed.cluster.apply(&wish.manifest).map(drop)
    }

    fn strike(&mut self, fault: Fault, wish: &Wish, lasts: Duration) -> Result<()> {
        let cluster = &self.installed.cluster;
        match fault {
            Fault::DriverKilled => {
                if let Some(controller) = self.controller.take() {
                    controller.kill()?;
                }
                thread::sleep(lasts);
                self.controller = Some(self.installed.controller()?);
            }
            Fault::Aborted => {
                for name in &wish.names {
                    let patch = [
                        "patch",
                        "guestmigration",
                        name,
                        "--type=merge",
                        r#"--patch={"spec":{"abort":true}}"#,
                    ];
                    // A drain has no such thing, and a move may have ended.
                    drop(cluster.kubectl(patch));
                }
            }
            Fault::SecondDriver => {
                // The second one waits for the lease, and takes over where the first one ends.
                let second = self.installed.controller()?;
                thread::sleep(lasts);
                if let Some(first) = self.controller.replace(second) {
                    first.terminate(Duration::from_secs(60))?;
                }
            }
            Fault::ObjectDeleted => {
                for name in &wish.names {
                    let kind = wish.kind;
                    cluster.kubectl(["delete", kind, name, "--wait=false"])?;
                }
            }
            Fault::ApiServerFrozen => {
                cluster.api_server().pause()?;
                thread::sleep(lasts);
                cluster.api_server().resume()?;
                cluster.wait_until_ready(SERVES)?;
            }
            Fault::ApiServerKilled => {
                cluster.api_server().kill()?;
                thread::sleep(lasts);
                cluster.api_server().start()?;
                cluster.wait_until_ready(SERVES)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn has_ended(&mut self, _: Duration) -> Result<bool> {
        Ok(true)
    }

    fn converge(&mut self, wish: &Wish) -> Result<bool> {
        let until = Instant::now() + SPELL;
        loop {
            if self.look(wish)? {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn end(&mut self, wish: &Wish) -> Result<()> {
        let names = wish.names.iter().map(String::as_str);
        let words = ["delete", "--timeout=60s", wish.kind];
        self.installed
            .cluster
            .kubectl(words.into_iter().chain(names))?;
        let controller = self.controller.as_mut().context("no controller runs")?;
        let (code, said) = controller.health("/healthz")?;
        ensure!(code == 200, "the controller is not well: {said}");
        Ok(())
    }

    fn said(&self) -> &str {
        &self.said
    }
}
