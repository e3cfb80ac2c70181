//! Guests that can't be moved say so before anybody asks: each on real hosts, by the name of what is in the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, Lab},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What its `Migratable` says: status, reason, message.
fn migratable(fleet: &Fleet, guest: &str) -> Result<(String, String, String)> {
    let object = fleet.get("guests", guest)?;
    let conditions = object["status"]["conditions"]
        .as_array()
        .context("conditions")?;
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == "Migratable");
    let found = found.with_context(|| format!("no Migratable: {object}"))?;
    let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((word("status"), word("reason"), word("message")))
}

/// Defines it anew, its XML changed.
fn redefine(host: &Host<'_>, guest: &Guest<'_>, from: &str, to: &str) -> Result<()> {
    let definition = host.virsh(&["dumpxml", "--inactive", "--domain", guest.uuid()])?;
    ensure!(definition.contains(from), "{definition}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), definition.replacen(from, to, 1))?;
    host.virsh(&["define", &file.path().to_string_lossy()])
        .map(drop)
}

#[test]
fn what_is_in_the_way_is_named() -> Result<()> {
    let plain = |name: &str| {
        GuestSpec::new(name)
            .on("h1")
            .disks(vec![DiskSpec::mib(16, 4)])
    };
    let devices = |name: &str, devices: &str| GuestSpec {
        extra_devices: devices.to_owned(),
        ..plain(name).stopped()
    };
    let lab = Lab::builder()
        .hosts(2)
        .guest(plain("checkpoint"))
        .guest(plain("snapshot").stopped())
        .guest(plain("encrypted").stopped())
        .guest(plain("filtered").stopped())
        .guest(devices("tpm", "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"))
        .guest(devices(
            "host-device",
            "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0' bus='0' slot='31' function='0'/></source></hostdev>",
        ))
        .guest(devices(
            "directory",
            "<filesystem type='mount'><source dir='/srv'/><target dir='data'/></filesystem>",
        ))
        .up()?;
    let one = lab.host("h1")?;
    let guest = |name: &str| lab.guest(name);
    one.virsh(&[
        "snapshot-create-as",
        "--domain",
        guest("snapshot")?.uuid(),
        "--name",
        "before",
    ])?;
    one.virsh(&[
        "checkpoint-create-as",
        "--domain",
        guest("checkpoint")?.uuid(),
        "--name",
        "monday",
    ])?;
    redefine(
        &one,
        &guest("encrypted")?,
        "<target dev='vda'",
        "<encryption format='luks'><secret type='passphrase' uuid='6f1c2b5e-8f3a-4b59-9d0a-0d8f0c6a1b2c'/></encryption>\
         <target dev='vda'",
    )?;
    let filter = tempfile::NamedTempFile::new()?;
    std::fs::write(filter.path(), "<filter name='only-here' chain='root'/>")?;
    one.virsh(&["nwfilter-define", &filter.path().to_string_lossy()])?;
    redefine(
        &one,
        &guest("filtered")?,
        "<source network='default'/>",
        "<source network='default'/><filterref filter='only-here'/>",
    )?;

    let fleet = Fleet::of(&lab)?;
    for (name, reason, words) in [
        ("snapshot", "DiskNotMovable", "1 snapshot"),
        ("checkpoint", "DiskNotMovable", "1 checkpoint"),
        ("encrypted", "SecretMissing", "opens its disk `vda`"),
        (
            "tpm",
            "DeviceNotMigratable",
            "TPM's state is carried only while it runs",
        ),
        ("host-device", "DeviceNotMigratable", "hostdev of type pci"),
        ("directory", "DeviceNotMigratable", "directory `data`"),
    ] {
        let (status, said, message) = migratable(&fleet, name)?;
        ensure!(
            status == "False" && said == reason && message.contains(words),
            "{name}: {status} {said} {message}"
        );
    }
    // It depends on where it goes: said by the plan.
    ensure!(migratable(&fleet, "filtered")?.0 == "True");
    fleet.write(
        "move.yaml",
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: m}\nspec: {guest: filtered, target: h2}\n",
    )?;
    let plan = fleet.run(&["plan"])?.expect(3)?;
    ensure!(
        plan.out.contains("NetworkMissing") && plan.out.contains("filter only-here"),
        "{}",
        plan.out
    );
    guest("checkpoint")?.wait_for_progress(PATIENCE)?;
    Ok(())
}
