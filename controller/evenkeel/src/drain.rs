//! `evenkeel drain` and `undrain`: the HostDrain `drain-<host>`, in a directory or in the cluster.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use evenkeel_crds::{
    HostDrain, HostDrainSpec, HostDrainStatus,
    kinds::drain::BlockedGuest,
    reason::Reason,
    shared::{API_VERSION, LABEL_NODE, Picker, find},
};
use evenkeel_engine::Wishes;
use evenkeel_kubernetes::client;

use crate::{
    apply::{self, Task},
    arguments::{Common, Limits},
    cluster,
    exit::Exit,
    manifests::{Manifests, object::is_object_name, schema::nearest},
    output, plan,
    signals::Signals,
    table::human,
};

/// The first line of files that are ours to remove.
const MARK: &str = "# Written by `evenkeel drain`; `evenkeel undrain` removes it.";

/// Runs `drain`.
///
/// # Errors
/// Where there is no such host, a file is in the way, or the hosts or the cluster can't be asked at all.
pub async fn drain(
    common: &Common,
    hosts: &[String],
    no_wait: bool,
    limits: &Limits,
) -> anyhow::Result<Exit> {
    for host in hosts {
        if !is_object_name(host) {
            bail!("{host:?} is not the name of a Host");
        }
    }
    if common.files.is_empty() {
        return drain_in_cluster(common, hosts, no_wait, limits).await;
    }
    let folder = folder(common)?;
    let manifests = plan::load(common)?;
    for host in hosts {
        known(&manifests, host)?;
    }
    for host in hosts {
        write(&folder, &manifests, host)?;
    }
    if no_wait {
        return Ok(Exit::Done);
    }
    let manifests = plan::load(common)?;
    let task = Task {
        command: "drain",
        watch: false,
        ask: false,
        limits: limits.clone(),
    };
    apply::converge(common, manifests, &task).await
}

/// Runs `undrain`.
///
/// # Errors
/// Where a file is not ours to remove, or the cluster can't be asked.
pub async fn undrain(common: &Common, hosts: &[String]) -> anyhow::Result<Exit> {
    if common.files.is_empty() {
        let client = cluster::connect(common).await?;
        for host in hosts {
            let name = name_for(host);
            let was_there = client::delete::<HostDrain>(&client, &name).await?;
            output::print(if was_there {
                format!("HostDrain {name} removed.\n")
            } else {
                format!("There is no HostDrain {name}: nothing to do.\n")
            })?;
        }
        let manifests = Manifests {
            wishes: Wishes {
                hosts: client::list(&client).await?,
                drains: client::list(&client).await?,
                ..Wishes::default()
            },
            ..Manifests::default()
        };
        hosts.iter().for_each(|host| tell_others(&manifests, host));
        return Ok(Exit::Done);
    }
    let folder = folder(common)?;
    let manifests = plan::load(common)?;
    for host in hosts {
        known(&manifests, host)?;
        remove(&folder, &manifests, host)?;
    }
    Ok(Exit::Done)
}

fn name_for(host: &str) -> String {
    format!("drain-{host}")
}

/// The directory that drains are written to.
fn folder(common: &Common) -> anyhow::Result<PathBuf> {
    let folder = common.files.iter().find(|path| path.is_dir());
    folder
        .cloned()
        .context("a drain is a file of its own, so -f must name a directory")
}

fn known(manifests: &Manifests, host: &str) -> anyhow::Result<()> {
    let hosts = &manifests.wishes.hosts;
    if !hosts.contains_key(host) {
        let names = || hosts.keys().map(String::as_str);
        let hint = nearest(host, names()).map_or_else(
            || format!("there are {}", names().collect::<Vec<_>>().join(", ")),
            |meant| format!("did you mean {meant}?"),
        );
        bail!("the manifests name no Host {host}: {hint}");
    }
    Ok(())
}

fn file_of(folder: &Path, host: &str) -> PathBuf {
    folder.join(format!("{}.yaml", name_for(host)))
}

fn text_for(host: &str) -> String {
    let name = name_for(host);
    format!(
        "{MARK}\napiVersion: {API_VERSION}\nkind: HostDrain\nmetadata:\n  name: \"{name}\"\nspec:\n  hosts:\n    names: [\"{host}\"]\n"
    )
}

fn write(folder: &Path, manifests: &Manifests, host: &str) -> anyhow::Result<()> {
    let name = name_for(host);
    if let Some(place) = manifests.place("HostDrain", &name) {
        let drain = &manifests.wishes.drains[&name];
        if !covers(manifests, drain, host) {
            bail!(
                "{place}: HostDrain {name} is there already and does not drain {host}: change or remove it first"
            );
        }
        output::tell(format_args!("{place}: HostDrain {name} is there already."));
        return Ok(());
    }
    let path = file_of(folder, host);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(text_for(host).as_bytes())
                .and_then(|()| file.sync_all())
        });
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{} exists and is not the HostDrain {name}: move it out of the way",
                path.display()
            )
        }
        other => other.with_context(|| format!("can't write {}", path.display()))?,
    }
    output::tell(format_args!("{} written.", path.display()));
    Ok(())
}

fn remove(folder: &Path, manifests: &Manifests, host: &str) -> anyhow::Result<()> {
    let (name, path) = (name_for(host), file_of(folder, host));
    match (
        manifests.place("HostDrain", &name),
        fs::read_to_string(&path),
    ) {
        (Some(place), Ok(text)) if Path::new(&*place.file) == path => {
            let alone = manifests
                .places
                .values()
                .filter(|other| other.file == place.file)
                .count()
                == 1;
            if !text.starts_with(MARK) || !alone {
                bail!(
                    "{place}: HostDrain {name} was not written by `evenkeel drain` alone: remove it there yourself"
                );
            }
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
            output::print(format_args!("{} removed.\n", path.display()))?;
        }
        (Some(place), _) => {
            bail!(
                "{place}: HostDrain {name} was not written by `evenkeel drain`: remove it there yourself"
            )
        }
        (None, _) => output::print(format_args!(
            "There is no HostDrain {name}: nothing to do.\n"
        ))?,
    }
    tell_others(manifests, host);
    Ok(())
}

/// Tells of other drains that empty the host.
fn tell_others(manifests: &Manifests, host: &str) {
    let name = name_for(host);
    let others = manifests.wishes.drains.iter();
    for (other, drain) in others.filter(|(other, drain)| {
        **other != name
            && drain.metadata.deletion_timestamp.is_none()
            && covers(manifests, drain, host)
    }) {
        let place = manifests
            .place("HostDrain", other)
            .map_or(String::new(), |place| format!("{place}: "));
        let labels = drain.metadata.labels.as_ref();
        let node = labels.and_then(|labels| labels.get(LABEL_NODE));
        let hint = node.map_or(String::new(), |node| {
            format!(": `kubectl uncordon {node}` ends it")
        });
        let line = format!("{place}HostDrain {other} still drains {host}{hint}.");
        output::tell(output::harmless(&line));
    }
}

/// Whether a drain empties that host.
fn covers(manifests: &Manifests, drain: &HostDrain, host: &str) -> bool {
    let Picker { names, selector } = &drain.spec.hosts;
    let labels = || {
        let object = manifests.wishes.hosts.get(host);
        object
            .and_then(|object| object.metadata.labels.clone())
            .unwrap_or_default()
    };
    names.iter().flatten().any(|name| name == host)
        || selector
            .as_ref()
            .is_some_and(|selector| selector.matches(&labels()))
}

async fn drain_in_cluster(
    common: &Common,
    hosts: &[String],
    no_wait: bool,
    limits: &Limits,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let client = cluster::connect(common).await?;
    for host in hosts {
        client::get::<evenkeel_crds::Host>(&client, host).await?;
    }
    for host in hosts {
        let name = name_for(host);
        let names = Some(vec![host.clone()]);
        let picker = Picker {
            names,
            selector: None,
        };
        match client::create(&client, HostDrain::new(&name, spec(picker)?)).await {
            Err(error) if cluster::exists(&error) => {
                output::tell(format_args!("HostDrain {name} is there already."))
            }
            Err(error) => return Err(error.into()),
            Ok(_) => output::tell(format_args!("HostDrain {name} created.")),
        }
    }
    if no_wait {
        return Ok(Exit::Done);
    }
    let mut worst = Exit::Done;
    for host in hosts {
        let name = name_for(host);
        let exit = tokio::select! {
            exit = watch(&client, &name, limits) => exit?,
            () = signals.next() => {
                output::tell(format_args!("Left to the controller: `evenkeel undrain {}` ends it.", hosts.join(" ")));
                return Ok(Exit::Interrupted);
            }
        };
        worst = worst.max(exit);
    }
    Ok(worst)
}

/// A spec with the CRD's own defaults.
fn spec(hosts: Picker) -> anyhow::Result<HostDrainSpec> {
    Ok(serde_json::from_value(
        serde_json::json!({ "hosts": hosts }),
    )?)
}

async fn watch(client: &cluster::Client, name: &str, limits: &Limits) -> anyhow::Result<Exit> {
    let (mut said, mut last) = (String::new(), HostDrainStatus::default());
    let ended = cluster::wait_until::<HostDrain>(client, name, limits.timeout, |object| {
        let Some(status) = object.and_then(|object| object.status.clone()) else {
            return false;
        };
        let line = line(name, &status);
        if line != said {
            output::tell(output::harmless(&line));
            said = line;
        }
        last = status;
        exit_of(&last, limits.wait).is_some()
    })
    .await?;
    if !ended {
        output::tell("The time is up; the drain is left to the controller.");
        return Ok(Exit::Deadline);
    }
    let exit = exit_of(&last, limits.wait).unwrap_or(Exit::Impossible);
    for blocked in &last.blocked {
        let line = format!(
            "{name}: {}: {}: {}",
            blocked.guest, blocked.reason, blocked.message
        );
        output::print(format_args!("{}\n", output::harmless(&line)))?;
    }
    if exit == Exit::Done {
        output::print(format_args!("{name}: drained.\n"))?;
    }
    Ok(exit)
}

/// How a drain ends here; nothing while it goes on.
fn exit_of(status: &HostDrainStatus, wait: bool) -> Option<Exit> {
    let condition =
        |kind: &str| find(&status.conditions, kind).filter(|condition| condition.status == "True");
    if condition("Drained").is_some() {
        return Some(Exit::Done);
    }
    let stalled = condition("Stalled")?;
    if Reason::parse(&stalled.reason) == Some(Reason::DeadlineExceeded) {
        return Some(Exit::Deadline);
    }
    let claimed = Reason::ClaimedByOther.as_str();
    let by_claim = stalled.reason == claimed
        || (!status.blocked.is_empty()
            && status
                .blocked
                .iter()
                .all(|blocked| blocked.reason == claimed));
    // What can leave still leaves, or is shut down.
    let ends = [Reason::ShutdownPending, Reason::ShuttingDown].map(Reason::as_str);
    let shut_down = |blocked: &BlockedGuest| ends.contains(&blocked.reason.as_str());
    let counts = status.guests;
    if counts.moving > 0 || counts.left > counts.blocked || status.blocked.iter().any(shut_down) {
        return None;
    }
    match (by_claim, wait) {
        (_, true) => None,
        (true, false) => Some(Exit::Claimed),
        (false, false) => Some(Exit::Impossible),
    }
}

fn line(name: &str, status: &HostDrainStatus) -> String {
    let counts = status.guests;
    let eta = status.eta.map_or(String::new(), |eta| {
        // Whole minutes, so that a line is not news only because time goes by.
        let rounded = Duration::from_secs(eta.0.as_secs().div_ceil(60) * 60);
        format!(", about {}", human(rounded))
    });
    format!(
        "{name}: {} left of {}, {} moving, {} blocked{eta}",
        counts.left, counts.total, counts.moving, counts.blocked
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOSTS: &str = "apiVersion: evenkeel.dev/v1alpha1\nkind: Host\nmetadata: {name: h1, labels: {rack: a}}\nspec: {uri: qemu+tls://h1/system}\n";

    fn fleet(more: &[(&str, &str)]) -> (tempfile::TempDir, impl Fn() -> Manifests + use<>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hosts.yaml"), HOSTS).unwrap();
        for (name, text) in more {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().to_owned();
        (folder, move || {
            Manifests::load(std::slice::from_ref(&path)).unwrap()
        })
    }

    #[test]
    fn what_is_written_is_valid_and_is_removed_again() {
        let (folder, load) = fleet(&[]);
        write(folder.path(), &load(), "h1").unwrap();
        let manifests = load();
        let drain = &manifests.wishes.drains["drain-h1"];
        assert_eq!(
            (drain.spec.hosts.names.clone(), drain.spec.parallel),
            (Some(vec!["h1".into()]), 4)
        );
        write(folder.path(), &manifests, "h1").unwrap();
        remove(folder.path(), &manifests, "h1").unwrap();
        assert!(load().wishes.drains.is_empty());
        remove(folder.path(), &load(), "h1").unwrap();
    }

    #[test]
    fn only_our_own_file_is_touched() {
        let text = text_for("h1").replace(MARK, "# mine");
        let (folder, load) = fleet(&[("drain-h1.yaml", &text)]);
        let error = remove(folder.path(), &load(), "h1").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("was not written by `evenkeel drain`"),
            "{error}"
        );
        let (folder, load) = fleet(&[(
            "drain-h1.yaml",
            &format!("{}---\n{}", text_for("h1"), text_for("h2")),
        )]);
        assert!(remove(folder.path(), &load(), "h1").is_err());
        let (folder, load) = fleet(&[("drains.yaml", &text_for("h1"))]);
        assert!(
            remove(folder.path(), &load(), "h1")
                .unwrap_err()
                .to_string()
                .contains("drains.yaml:2:1")
        );
        let (folder, load) = fleet(&[("drain-h1.yaml", "# nothing yet\n")]);
        assert!(
            write(folder.path(), &load(), "h1")
                .unwrap_err()
                .to_string()
                .contains("move it out of the way")
        );
    }

    #[test]
    fn hosts_are_known_by_name() {
        let (_folder, load) = fleet(&[]);
        let error = known(&load(), "h2").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the manifests name no Host h2: did you mean h1?"
        );
    }

    #[test]
    fn a_selector_covers_too() {
        let (_folder, load) = fleet(&[]);
        let mut drain = HostDrain::default();
        let selector: evenkeel_crds::shared::Selector =
            serde_json::from_value(serde_json::json!({"matchLabels": {"rack": "a"}})).unwrap();
        drain.spec.hosts = Picker {
            names: None,
            selector: Some(selector),
        };
        assert!(covers(&load(), &Arc::new(drain), "h1"));
    }
}
