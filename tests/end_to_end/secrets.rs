//! Credentials in a cluster: the Secrets that Hosts name are followed, with the chart's own rights, and shown nowhere.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    controller::{Controller, Followed, Installed, NAMESPACE},
    lab::{Authority, Certificate, GuestSpec, Identity, Lab, SECRET},
    witness,
};

/// Until what is wrong with credentials, or right again, is seen on the Host.
const SOON: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(60);

struct Stage {
    lab: Lab,
    installed: Installed,
    followed: Followed,
    keys: tempfile::TempDir,
    /// Keys that were in Secrets, in every way in which they could be shown.
    secret: Vec<String>,
}

#[test]
fn secrets_are_followed_and_never_shown() -> Result<()> {
    let lab = thread::spawn(|| {
        Lab::builder()
            .hosts(2)
            .guest(GuestSpec::new("g1").on("h1"))
            .up()
    });
    let installed = Installed::start()?;
    let lab = lab.join().map_err(|_| anyhow::anyhow!("the lab"))??;
    // Whatever any part of it has to say.
    let mut controller = installed.controller_that_says("trace")?;
    let mut stage = Stage {
        followed: installed.follow()?,
        lab,
        installed,
        keys: tempfile::tempdir()?,
        secret: Vec::new(),
    };
    controller.wait_until_leading()?;

    stage.missing_and_then_there()?;
    stage.for_the_hosts_that_it_names()?;
    stage.wrong_and_then_right()?;
    stage.rotated_while_a_guest_moves()?;
    stage.gone_and_back()?;
    stage.the_charts_rights_suffice()?;
    stage.nothing_is_shown(&controller)
}

impl Stage {
    fn is_reachable(&self, host: &str, since: Instant) -> Result<()> {
        self.says(host, "True", "AsExpected", since)
    }

    fn is_not(&self, host: &str, reason: &str, since: Instant) -> Result<()> {
        self.says(host, "False", reason, since)
    }

    fn says(&self, host: &str, status: &str, reason: &str, since: Instant) -> Result<()> {
        let shown = Some((status, reason));
        let what = format!("Reachable {status} {reason}");
        self.followed
            .wait("Host", host, Some(since), SOON, &what, |seen| {
                seen.condition("Reachable") == shown
            })?;
        Ok(())
    }

    fn sign(&self) -> Result<Certificate> {
        self.lab.authority()?.sign(&Identity::of(&["evenkeel"]))
    }

    /// The Secret with these keys, written at once; since when.
    fn put(&mut self, certificate: &Certificate, hosts: Option<&str>) -> Result<Instant> {
        let folder = self.keys.path().join("keys");
        certificate.write_as_secret(&folder)?;
        self.put_folder(&folder, NAMESPACE, hosts)
    }

    fn put_folder(
        &mut self,
        folder: &Path,
        namespace: &str,
        hosts: Option<&str>,
    ) -> Result<Instant> {
        let since = Instant::now();
        let secret = self.installed.secret(SECRET, namespace, folder, hosts)?;
        if let Some(data) = secret["data"]["tls.key"].as_str() {
            self.secret.push(data.to_owned());
            self.secret
                .extend(faces(&fs::read_to_string(folder.join("tls.key"))?));
        }
        Ok(since)
    }

    fn remove(&self) -> Result<Instant> {
        let since = Instant::now();
        let cluster = &self.installed.cluster;
        cluster.kubectl(["delete", "secret", SECRET, "--namespace", NAMESPACE])?;
        Ok(since)
    }

    fn missing_and_then_there(&mut self) -> Result<()> {
        // One of that name in another namespace is not ours to read.
        let good = self.sign()?;
        good.write_as_secret(&self.keys.path().join("elsewhere"))?;
        let elsewhere = self.keys.path().join("elsewhere");
        let since = self.put_folder(&elsewhere, "default", Some("h1,h2"))?;
        for host in self.lab.hosts() {
            self.installed.cluster.apply(&host.manifest()?)?;
        }
        for host in ["h1", "h2"] {
            self.is_not(host, "CredentialsMissing", since)?;
        }
        let since = self.put(&good, Some("h1, h2"))?;
        for host in ["h1", "h2"] {
            self.is_reachable(host, since)?;
        }
        Ok(())
    }

    fn for_the_hosts_that_it_names(&mut self) -> Result<()> {
        let certificate = self.sign()?;
        let since = self.put(&certificate, Some("h2"))?;
        self.is_not("h1", "CredentialsNotForHost", since)?;
        let since = self.put(&certificate, None)?;
        self.is_not("h2", "CredentialsNotForHost", since)?;
        let since = self.put(&certificate, Some("h1,h2"))?;
        for host in ["h1", "h2"] {
            self.is_reachable(host, since)?;
        }
        Ok(())
    }

    fn wrong_and_then_right(&mut self) -> Result<()> {
        let both = Some("h1,h2");
        let stranger = Authority::new()?.sign(&Identity::of(&["evenkeel"]))?;
        let since = self.put(&stranger, both)?;
        for host in ["h1", "h2"] {
            self.is_not(host, "CertificateUntrusted", since)?;
        }
        let folder = self.keys.path().join("keys");
        fs::write(folder.join("tls.key"), "hunter2 is no key")?;
        let since = self.put_folder(&folder, NAMESPACE, both)?;
        self.is_not("h1", "CredentialsInvalid", since)?;
        fs::remove_file(folder.join("tls.key"))?;
        let since = self.put_folder(&folder, NAMESPACE, both)?;
        self.is_not("h1", "CredentialsMissing", since)?;
        let good = self.sign()?;
        let since = self.put(&good, both)?;
        for host in ["h1", "h2"] {
            self.is_reachable(host, since)?;
        }
        Ok(())
    }

    /// Other keys that are as good: what is under way goes on, what comes then uses them.
    fn rotated_while_a_guest_moves(&mut self) -> Result<()> {
        for (name, target) in [("there", "h2"), ("back", "h1")] {
            self.installed.cluster.apply(&format!(
                "{{apiVersion: evenkeel.dev/v1alpha1, kind: GuestMigration, metadata: {{name: {name}}}, \
                 spec: {{guest: g1, target: {target}}}}}"
            ))?;
            let kind = "GuestMigration";
            self.followed
                .wait(kind, name, None, PATIENCE, "under way", |seen| {
                    !["", "Pending"].contains(&seen.status("phase"))
                })?;
            let fresh = self.sign()?;
            self.put(&fresh, Some("h1,h2"))?;
            let seen = self
                .followed
                .wait(kind, name, None, PATIENCE, "Succeeded", |seen| {
                    seen.status("phase") == "Succeeded"
                })?;
            ensure!(seen.object["status"]["encrypted"] == true, "{seen:?}");
            ensure!(self.lab.guest("g1")?.host()?.name() == target);
        }
        witness::all_is_well(&self.lab)
    }

    fn gone_and_back(&mut self) -> Result<()> {
        let since = self.remove()?;
        for host in ["h1", "h2"] {
            self.is_not(host, "CredentialsMissing", since)?;
        }
        let good = self.sign()?;
        let since = self.put(&good, Some("h1,h2"))?;
        for host in ["h1", "h2"] {
            self.is_reachable(host, since)?;
        }
        Ok(())
    }

    fn the_charts_rights_suffice(&self) -> Result<()> {
        let refused = self.installed.refused()?;
        ensure!(refused.is_empty(), "refused: {refused:?}");
        let used = self.installed.used()?;
        let of_secrets: Vec<_> = used
            .keys()
            .filter(|what| what.ends_with(" secrets"))
            .collect();
        ensure!(
            of_secrets == ["get secrets", "watch secrets"],
            "{of_secrets:?}"
        );
        Ok(())
    }

    /// Neither a line of a key, nor its bytes as numbers, nor what a Secret has for it.
    fn nothing_is_shown(&self, controller: &Controller) -> Result<()> {
        let cluster = &self.installed.cluster;
        let kinds = "hosts,guests,guestmigrations,events,leases.coordination.k8s.io";
        let objects = cluster.kubectl(["get", kinds, "--all-namespaces", "--output=json"])?;
        let log = controller.log();
        ensure!(log.contains("TRACE"), "it did not say all it could");
        // What is looked for would be found.
        let kept =
            cluster.kubectl(["get", "secrets", "--namespace", NAMESPACE, "--output=json"])?;
        ensure!(
            self.secret.iter().any(|needle| kept.contains(needle)),
            "no keys to look for"
        );
        for needle in &self.secret {
            for (place, hay) in [
                ("log", &log),
                ("objects", &objects),
                ("history", &self.followed.everything()),
            ] {
                let found = hay.lines().find(|line| line.contains(needle));
                ensure!(found.is_none(), "a key is in the {place}: {found:?}");
            }
        }
        Ok(())
    }
}

/// The ways in which a key could be shown.
fn faces(key: &str) -> Vec<String> {
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    lines
        .flat_map(|line| {
            let numbers: Vec<String> = line.bytes().take(9).map(|byte| byte.to_string()).collect();
            [line.to_owned(), numbers.join(", "), numbers.join(",")]
        })
        .collect()
}
