//! Guests that can't be moved say so before anybody asks: each on real hosts, by the name of what is in the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, HostSpec, Lab},
};
use serde_json::Value;

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

/// Adds a guest's move to h2 to the wishes, under the guest's name: where two bear it, its UUID tells which is meant.
fn wish(fleet: &Fleet, guest: &Guest<'_>) -> Result<()> {
    let (name, uuid) = (guest.name(), guest.uuid());
    fleet.write(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {name}}}\n\
             spec: {{guest: {uuid}, target: h2}}\n"
        ),
    )
}

/// What is said to be impossible for the guest's move, with the hint.
fn impossible(said: &Value, guest: &str) -> Result<String> {
    let all = said["impossible"]
        .as_array()
        .context("what is impossible")?;
    let found = all
        .iter()
        .find(|one| one["kind"] == "GuestMigration" && one["name"] == guest);
    found
        .map(Value::to_string)
        .with_context(|| format!("nothing of {guest}: {said}"))
}

/// What came of the attempts to move the guest, with the hints.
fn attempts(said: &Value, guest: &str) -> Result<String> {
    let all = said["moves"].as_array().context("moves")?;
    let found = all.iter().find(|one| one["name"] == guest);
    let found = found.with_context(|| format!("no move of {guest}: {said}"))?;
    Ok(found["status"]["attempts"].to_string())
}

/// Makes h2 a lesser host: its QEMU has a CPU without AVX2, and its libvirtd knows one machine type less.
fn lessen(host: &Host<'_>) -> Result<()> {
    let script = "mkdir -p /srv/qemu; : > /srv/qemu/whole
        mount --bind /usr/bin/qemu-system-x86_64 /srv/qemu/whole
        printf '%s\\n' '#!/bin/sh' 'QEMU_MODULE_DIR=/usr/lib/x86_64-linux-gnu/qemu exec /srv/qemu/whole \"$@\" -global x86_64-cpu.avx2=off' > /srv/qemu/lesser
        chmod +x /srv/qemu/lesser
        mount --bind /srv/qemu/lesser /usr/bin/qemu-system-x86_64";
    host.exec(&["sh", "-ec", script])?;
    let known = host.virsh(&["capabilities"])?;
    ensure!(known.contains(MACHINE), "{known}");
    host.stop_libvirtd()?;
    let forget = format!("sed -i '/{MACHINE}/d' /var/cache/libvirt/qemu/capabilities/*.xml");
    host.exec(&["sh", "-ec", &forget])?;
    host.start_libvirtd()?;
    let known = host.virsh(&["capabilities"])?;
    ensure!(!known.contains(MACHINE), "{known}");
    Ok(())
}

const MACHINE: &str = "pc-i440fx-5.2";
/// As libvirt writes the CPU of a guest that asks for none.
const CPU: &str = "<model fallback='forbid'>qemu64</model>";

#[test]
fn where_it_can_not_go_is_named() -> Result<()> {
    let plain = |name: &str| {
        GuestSpec::new(name)
            .on("h1")
            .disks(vec![DiskSpec::mib(16, 4)])
            .stopped()
    };
    let mut overlay = DiskSpec::mib(16, 4).backing("base.qcow2");
    if let Some(backing) = &mut overlay.backing {
        backing.everywhere = false;
    }
    let lab = Lab::builder()
        .host(HostSpec::new("h1").networks(&["default", "lan"]))
        .host(HostSpec::new("h2"))
        .guest(plain("transient"))
        .guest(plain("copied"))
        .guest(plain("edited"))
        .guest(plain("pending"))
        .guest(plain("chosen"))
        .guest(plain("commandline"))
        .guest(plain("twice"))
        .guest(plain("namesake"))
        .guest(GuestSpec {
            networks: vec!["lan".to_owned()],
            ..plain("networked")
        })
        .guest(GuestSpec {
            networks: Vec::new(),
            extra_devices: "<interface type='bridge'><source bridge='br7'/></interface>".to_owned(),
            ..plain("bridged")
        })
        .guest(plain("machine"))
        .guest(plain("emulator"))
        .guest(plain("clash"))
        .guest(plain("based").disks(vec![overlay]))
        .up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let change = |name: &str, from: &str, to: &str| redefine(&one, &lab.guest(name)?, from, to);
    let arguments = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
        <qemu:arg value='-no-hpet'/></qemu:commandline></domain>";
    lessen(&two)?;
    change("commandline", "</domain>", arguments)?;
    let more = format!("{CPU}<feature policy='require' name='avx2'/>");
    change("chosen", CPU, &more)?;
    change("machine", "pc-i440fx-7.2", MACHINE)?;
    one.exec(&[
        "sh",
        "-ec",
        "mkdir -p /srv/qemu; ln -s /usr/bin/qemu-system-x86_64 /srv/qemu/own",
    ])?;
    change("emulator", "/usr/bin/qemu-system-x86_64", "/srv/qemu/own")?;
    for name in ["transient", "copied", "edited", "pending", "chosen"] {
        one.virsh(&["start", "--domain", lab.guest(name)?.uuid()])?;
    }
    one.virsh(&["undefine", "--domain", lab.guest("transient")?.uuid()])?;
    one.virsh(&[
        "blockcopy",
        "--domain",
        lab.guest("copied")?.uuid(),
        "--path",
        "vda",
        "--dest",
        "/var/lib/libvirt/images/copy.qcow2",
        "--format",
        "qcow2",
        "--transient-job",
    ])?;
    // They run as they were; what stands in their definitions comes later.
    change("edited", "</domain>", arguments)?;
    change(
        "pending",
        "<source network='default'/>",
        "<source network='lan'/>",
    )?;
    // The other host has what bears the same names.
    let definition = one.virsh(&["dumpxml", "--domain", lab.guest("twice")?.uuid()])?;
    let namesake = one.virsh(&["dumpxml", "--domain", lab.guest("namesake")?.uuid()])?;
    let namesake = namesake
        .replace(
            lab.guest("namesake")?.uuid(),
            "6f1c2b5e-8f3a-4b59-9d0a-0d8f0c6a1b2d",
        )
        .replace("namesake-vda", "other");
    let file = tempfile::NamedTempFile::new()?;
    for definition in [definition, namesake] {
        std::fs::write(file.path(), definition)?;
        two.virsh(&["define", &file.path().to_string_lossy()])?;
    }
    let base = "/var/lib/libvirt/images/base.qcow2";
    let length = one.exec(&["stat", "--format=%s", base])?;
    let make = format!(
        "head -c {} /dev/urandom > {base}; echo mine > /var/lib/libvirt/images/clash-vda.qcow2",
        length.trim()
    );
    two.exec(&["sh", "-ec", &make])?;
    two.virsh(&["pool-refresh", "default"])?;
    let before = two.list_files()?;

    let fleet = Fleet::of(&lab)?;
    for guest in lab.guests() {
        wish(&fleet, &guest)?;
    }
    let later = "persistent definition only";
    let plan = fleet.run(&["plan", "-o", "json"])?.expect(3)?.json()?;
    for (guest, reason, words) in [
        ("transient", "TransientDomain", "nothing defines it"),
        ("copied", "BlockJobActive", "a block job runs on a disk"),
        ("edited", "UnknownFeature", later),
        ("edited", "UnknownFeature", "`qemu:commandline`"),
        (
            "pending",
            "NetworkMissing",
            "network lan (in the persistent definition only)",
        ),
        (
            "commandline",
            "UnknownFeature",
            "`qemu:commandline`, which is not known here",
        ),
        ("twice", "DefinedTwice", "is defined on h1 and on h2"),
        (
            "namesake",
            "DomainNameTaken",
            "another domain named namesake",
        ),
        ("networked", "NetworkMissing", "network lan"),
        ("bridged", "NetworkMissing", "bridge br7"),
        ("machine", "MachineTypeMissing", MACHINE),
        ("emulator", "EmulatorMissing", "/srv/qemu/own"),
    ] {
        let said = impossible(&plan, guest)?;
        ensure!(
            said.contains(reason) && said.contains(words),
            "{guest}: {said}"
        );
    }
    ensure!(!impossible(&plan, "commandline")?.contains(later));

    // What only a close look shows.
    let words = ["apply", "--yes", "-o", "json", "--timeout", "20s"];
    let applied = fleet.run(&words)?;
    let said = applied.json()?;
    for (guest, reason, words) in [
        ("clash", "PathClash", "last changed "),
        (
            "clash",
            "PathClash",
            "`virsh vol-delete --pool default clash-vda.qcow2`",
        ),
        ("based", "BaseImageDiffers", base),
        (
            "chosen",
            "IncompatibleCPU",
            "h2 does not offer the CPU that chosen asks for",
        ),
    ] {
        let said = attempts(&said, guest)?;
        ensure!(
            said.contains(reason) && said.contains(words),
            "{guest}: {said}\n{}",
            applied.err
        );
    }
    // Nothing was made there, and nothing was removed.
    ensure!(two.list_files()? == before, "{:?}", two.list_files()?);
    let domains = two.virsh(&["list", "--all", "--uuid"])?;
    ensure!(domains.split_whitespace().count() == 2, "{domains}");
    Ok(())
}
