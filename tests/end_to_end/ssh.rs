//! Hosts reached by ssh with a key and known hosts of their own: good, wrong, missing, hostile, rotated.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{GuestSpec, Lab, SECRET, SshKey},
    witness,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    lab: Lab,
    fleet: Fleet,
    good: SshKey,
    known: String,
}

#[test]
fn hosts_reached_by_ssh() -> Result<()> {
    let lab = Lab::builder()
        .hosts(2)
        .guest(GuestSpec::new("g1").on("h1"))
        .up()?;
    let fleet = Fleet::of(&lab)?;
    let good = SshKey::new("")?;
    let mut known = String::new();
    for host in lab.hosts() {
        known += &host.serve_ssh(&[&good])?;
        // Among themselves the hosts go on as they are set up.
        let spec = json!({"uri": host.ssh_uri(), "credentials": {"secretName": SECRET},
                          "migration": {"uri": host.uri()}});
        let file = format!("host-{}.yaml", host.record().index);
        fleet.write(&file, &host.manifest_with(&spec)?)?;
    }
    let stage = Stage {
        lab,
        fleet,
        good,
        known,
    };
    stage.good_ones()?;
    stage.wrong_ones()?;
    stage.a_host_that_is_another()?;
    stage.a_silent_server()?;
    stage.rotated()
}

impl Stage {
    fn keys(&self) -> PathBuf {
        self.fleet.path().join("credentials").join(SECRET)
    }

    fn write(&self, key: &str, known: &str) -> Result<()> {
        fs::write(self.keys().join("ssh-privatekey"), key)?;
        Ok(fs::write(self.keys().join("known_hosts"), known)?)
    }

    /// What h1 says of itself, soon and without a word of a key.
    fn ensure_h1(&self, status: &str, reason: &str) -> Result<()> {
        let answer = self
            .fleet
            .run(&["get", "hosts", "h1", "-o", "json", "-vv"])?;
        let answer = answer.expect(0)?;
        ensure!(answer.took < SOON, "that took {:?}", answer.took);
        let body = self.good.private.lines().nth(1).context("a key")?;
        let shown = answer.out.contains(body) || answer.err.contains(body);
        ensure!(!shown, "a key is shown: {answer:?}");
        let host = answer.json()?;
        let conditions = host["status"]["conditions"].as_array();
        let one = conditions
            .and_then(|all| all.iter().find(|one| one["type"] == "Reachable"))
            .with_context(|| format!("no condition Reachable: {host}"))?;
        ensure!(
            one["status"] == status && one["reason"] == reason,
            "not {status} {reason}: {one}"
        );
        ensure!(!one.to_string().contains("/evenkeel-"), "{one}");
        Ok(())
    }

    fn good_ones(&self) -> Result<()> {
        self.write(&self.good.private, &self.known)?;
        self.ensure_h1("True", "AsExpected")?;
        self.fleet.run(&["migrate", "g1", "h2", "-y"])?.expect(0)?;
        witness::all_is_well(&self.lab)?;
        witness::nothing_is_left(&self.lab)
    }

    fn wrong_ones(&self) -> Result<()> {
        let good = &self.good.private;
        self.write(&SshKey::new("")?.private, &self.known)?;
        self.ensure_h1("False", "AuthenticationFailed")?;
        self.write(&SshKey::new("secret")?.private, &self.known)?;
        self.ensure_h1("False", "CredentialsInvalid")?;
        self.write(&good.replace("AAAA", "BBBB"), &self.known)?;
        self.ensure_h1("False", "CredentialsInvalid")?;
        self.write("hunter2", &self.known)?;
        self.ensure_h1("False", "CredentialsInvalid")?;
        for hostile in [
            "",
            "\n",
            "one two",
            "h1 ssh-ed25519 AAAA\0",
            "'\"; touch /tmp/x",
        ] {
            self.write(good, hostile)?;
            let reason = match hostile {
                "" => "CredentialsMissing",
                _ if hostile.contains("touch") => "HostKeyUntrusted",
                _ => "CredentialsInvalid",
            };
            self.ensure_h1("False", reason)
                .with_context(|| format!("{hostile:?}"))?;
        }
        fs::remove_file(self.keys().join("known_hosts"))?;
        self.ensure_h1("False", "CredentialsMissing")
    }

    fn a_host_that_is_another(&self) -> Result<()> {
        let address = self.lab.host("h1")?.address().to_owned();
        let good = &self.good.private;
        // Known by another key, and not known at all.
        let other = SshKey::new("")?.public;
        self.write(good, &format!("{address} {other}"))?;
        self.ensure_h1("False", "HostKeyUntrusted")?;
        self.write(good, &self.known.replace(&address, "192.0.2.1"))?;
        self.ensure_h1("False", "HostKeyUntrusted")?;
        self.write(good, &self.known)?;
        self.ensure_h1("True", "AsExpected")
    }

    /// One that takes the connection and says nothing.
    fn a_silent_server(&self) -> Result<()> {
        let silent = std::net::TcpListener::bind((self.lab.gateway(), 0))?;
        let host = self.lab.host("h1")?;
        let uri = format!("qemu+ssh://root@{}/system", silent.local_addr()?);
        let spec = json!({"uri": uri, "credentials": {"secretName": SECRET}});
        let named = fs::read_to_string(self.fleet.path().join("host-0.yaml"))?;
        self.fleet
            .write("host-0.yaml", &host.manifest_with(&spec)?)?;
        self.ensure_h1("False", "HostUnreachable")?;
        self.fleet.write("host-0.yaml", &named)
    }

    /// A key that is changed at the hosts, and then with us, is used by a program that runs.
    fn rotated(&self) -> Result<()> {
        let order = |name: &str, target: &str| {
            self.fleet.write("move.yaml", &format!("apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {name}}}\nspec: {{guest: g1, target: {target}}}\n"))
        };
        order("home", "h1")?;
        let mut run = self.fleet.start(&["apply", "--yes", "--watch"])?;
        run.wait_for("g1: Succeeded (h2 -> h1", PATIENCE)?;
        let fresh = SshKey::new("")?;
        for host in self.lab.hosts() {
            host.serve_ssh(&[&fresh])?;
        }
        self.write(&fresh.private, &self.known)?;
        order("away", "h2")?;
        run.wait_for("g1: Succeeded (h1 -> h2", PATIENCE)?;
        run.signal("INT")?;
        run.end(PATIENCE)?;
        witness::all_is_well(&self.lab)?;
        witness::nothing_is_left(&self.lab)
    }
}
