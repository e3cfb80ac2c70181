//! Hosts whose libvirtd asks for a name and a password: by TLS with SCRAM, by plain TCP with DIGEST-MD5.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::{Answer, Fleet},
    lab::{GuestSpec, HostSpec, Lab, SECRET},
    witness,
};
use serde_json::{Value, json};

const NAME: &str = "evenkeel";
const GOOD: &str = r#"it's a "good" one, $HOME"#;
const WRONG: &str = "hunter2-wrong";
/// By when a Host says what is wrong.
const SOON: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(30);

fn lab() -> Result<Lab> {
    Lab::builder()
        .host(HostSpec::new("h1").sasl("scram-sha-256"))
        .host(HostSpec::new("h2").sasl("digest-md5").plain_too())
        .guest(GuestSpec::new("g1").on("h1"))
        .up()
}

fn keys(fleet: &Fleet) -> PathBuf {
    fleet.path().join("credentials").join(SECRET)
}

fn write_login(fleet: &Fleet, name: Option<&str>, password: Option<&str>) -> Result<()> {
    for (key, value) in [("username", name), ("password", password)] {
        let file = keys(fleet).join(key);
        match value {
            Some(value) => fs::write(file, value)?,
            None if file.exists() => fs::remove_file(file)?,
            None => {}
        }
    }
    Ok(())
}

/// Status and reason of the condition `Reachable`.
fn reachable(fleet: &Fleet, host: &str) -> Result<(String, String)> {
    let answer = fleet
        .run(&["get", "hosts", host, "-o", "json", "-vv"])?
        .expect(0)?;
    ensure!(answer.took < SOON, "{host} took {:?}", answer.took);
    nothing_secret(&answer)?;
    let host = answer.json()?;
    let conditions = host["status"]["conditions"].as_array();
    let one = conditions
        .and_then(|all| all.iter().find(|one| one["type"] == "Reachable"))
        .with_context(|| format!("no condition Reachable: {host}"))?;
    let word = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Ok((word("status"), word("reason")))
}

fn nothing_secret(answer: &Answer) -> Result<()> {
    for word in [GOOD, WRONG, "it's a"] {
        let shown = answer.out.contains(word) || answer.err.contains(word);
        ensure!(!shown, "a password is shown: {answer:?}");
    }
    Ok(())
}

fn ensure_both(fleet: &Fleet, status: &str, reason: &str) -> Result<()> {
    for host in ["h1", "h2"] {
        let found = reachable(fleet, host)?;
        ensure!(
            found == (status.to_owned(), reason.to_owned()),
            "{host} is {found:?}, not {status} {reason}"
        );
    }
    Ok(())
}

#[test]
fn hosts_that_ask_for_a_password() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    // h2 by plain TCP, but for what goes on between the hosts.
    let spec = |secret: Value| {
        json!({"uri": h2.plain_uri(), "insecure": true, "credentials": secret,
               "migration": {"uri": h2.uri()}})
    };
    fleet.write(
        "host-1.yaml",
        &h2.manifest_with(&spec(json!({"secretName": SECRET})))?,
    )?;
    for host in [&h1, &h2] {
        host.admit(NAME, GOOD)?;
    }

    write_login(&fleet, Some(NAME), Some(GOOD))?;
    ensure_both(&fleet, "True", "AsExpected")?;
    write_login(&fleet, Some(NAME), Some(WRONG))?;
    ensure_both(&fleet, "False", "AuthenticationFailed")?;
    write_login(&fleet, Some("nobody"), Some(GOOD))?;
    ensure_both(&fleet, "False", "AuthenticationFailed")?;
    write_login(&fleet, Some(NAME), None)?;
    ensure_both(&fleet, "False", "CredentialsMissing")?;
    write_login(&fleet, Some("even\nkeel"), Some(GOOD))?;
    ensure_both(&fleet, "False", "CredentialsInvalid")?;
    write_login(&fleet, Some(NAME), Some("two\nlines"))?;
    ensure_both(&fleet, "False", "CredentialsInvalid")?;
    // A certificate alone, where a password is asked for too; and nothing at all.
    write_login(&fleet, None, None)?;
    ensure!(reachable(&fleet, "h1")? == ("False".into(), "CredentialsMissing".into()));
    let named = fs::read_to_string(fleet.path().join("host-1.yaml"))?;
    fleet.write("host-1.yaml", &h2.manifest_with(&spec(Value::Null))?)?;
    ensure!(reachable(&fleet, "h2")? == ("False".into(), "CredentialsMissing".into()));
    fleet.write("host-1.yaml", &named)?;
    // A password alone, where no certificate is asked for. This libvirtd asks for one.
    write_login(&fleet, Some(NAME), Some(GOOD))?;
    for key in ["tls.crt", "tls.key"] {
        fs::rename(keys(&fleet).join(key), fleet.path().join(key))?;
    }
    let found = reachable(&fleet, "h1")?;
    ensure!(
        found == ("False".into(), "AuthenticationFailed".into()),
        "{found:?}"
    );
    for key in ["tls.crt", "tls.key"] {
        fs::rename(fleet.path().join(key), keys(&fleet).join(key))?;
    }

    rotated(&lab, &fleet)
}

/// A password that is changed at the hosts, and then with us, is used by a program that runs.
fn rotated(lab: &Lab, fleet: &Fleet) -> Result<()> {
    fleet.write("move.yaml", "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: over}\nspec: {guest: g1, target: h2}\n")?;
    let mut run = fleet.start(&["apply", "--yes", "--watch"])?;
    run.wait_for("Succeeded", PATIENCE)?;
    let fresh = "another one";
    for host in lab.hosts() {
        host.admit(NAME, fresh)?;
    }
    write_login(fleet, Some(NAME), Some(fresh))?;
    fleet.write("move.yaml", "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: back}\nspec: {guest: g1, target: h1}\n")?;
    run.wait_for("g1: Succeeded (h2 -> h1", PATIENCE)?;
    run.signal("INT")?;
    run.end(PATIENCE)?;
    ensure!(!run.said().contains(fresh), "{}", run.said());
    witness::all_is_well(lab)?;
    witness::nothing_is_left(lab)
}
