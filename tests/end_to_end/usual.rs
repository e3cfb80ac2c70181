//! Guests in their usual forms move, on real hosts: as virt-install makes them, paused, stopped, into another pool; and
//! those of other managers do not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, HostSpec, Lab, PoolSpec},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The firmware alone takes long without hardware acceleration.
const BOOT: Duration = Duration::from_secs(180);
/// What `virt-install --boot uefi --cloud-init --graphics vnc --sound ...` writes, with the lab's kernel and serial log.
const USUAL: &str = include_str!("../lab/usual.xml");
const SEED: &str = "/var/lib/libvirt/images/web-seed.iso";
/// Where libvirt puts the store of a guest whose firmware it chose.
const NVRAM: &str = "/var/lib/libvirt/qemu/nvram/web_VARS.fd";
/// Stands in that file where no firmware looks.
const ENGRAVED: &str = "the store of this very guest";

fn shell(host: &Host<'_>, script: &str) -> Result<String> {
    host.exec(&["sh", "-ec", script])
}

fn state(host: &Host<'_>, guest: &Guest<'_>) -> Result<String> {
    let state = host.virsh(&["domstate", "--reason", "--domain", guest.uuid()])?;
    Ok(state.trim().to_owned())
}

/// Gives the guest the definition that virt-install would have written, and starts it.
fn dress(host: &Host<'_>, guest: &Guest<'_>) -> Result<()> {
    let plain = host.virsh(&["dumpxml", "--domain", guest.uuid()])?;
    let arguments = plain
        .lines()
        .find(|line| line.contains("<cmdline>"))
        .context("a kernel's arguments")?;
    let definition = [
        ("@NAME@", guest.name()),
        ("@UUID@", guest.uuid()),
        ("@ARGUMENTS@", arguments.trim()),
        ("@DISK@", &guest.disk_path(host, "vda")?),
        ("@SEED@", SEED),
        ("@CONSOLE@", &guest.console_path()),
    ]
    .iter()
    .fold(USUAL.to_owned(), |text, (key, value)| {
        text.replace(key, value)
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), definition)?;
    host.virsh(&["define", &file.path().to_string_lossy()])?;
    shell(
        host,
        &format!(
            "head -c 300000 /dev/urandom > {SEED}; mkdir -p $(dirname {NVRAM}); cp /usr/share/OVMF/OVMF_VARS_4M.fd {NVRAM}
             printf '{ENGRAVED}' | dd of={NVRAM} bs=1 seek=$(($(stat --format=%s {NVRAM}) - {})) conv=notrunc status=none",
            ENGRAVED.len()
        ),
    )?;
    host.virsh(&["start", "--domain", guest.uuid()]).map(drop)
}

fn engraved(host: &Host<'_>) -> Result<bool> {
    let end = host.exec(&["tail", &format!("--bytes={}", ENGRAVED.len()), NVRAM])?;
    Ok(end == ENGRAVED)
}

#[test]
fn as_virt_install_makes_it() -> Result<()> {
    let spec = GuestSpec::new("web")
        .on("h1")
        .disks(vec![DiskSpec::mib(64, 8)]);
    let lab = Lab::builder().hosts(2).guest(spec.stopped()).up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let guest = lab.guest("web")?;
    dress(&one, &guest)?;
    let end = Instant::now() + BOOT;
    while guest.serial_records()?.is_empty() {
        ensure!(Instant::now() < end, "{}", guest.serial_text(&one)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let seed = one.exec(&["sha256sum", SEED])?;

    let fleet = Fleet::of(&lab)?;
    for (there, here) in [(&two, &one), (&one, &two)] {
        fleet.write(
            "move.yaml",
            &format!(
                "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: to-{0}}}\n\
                 spec: {{guest: web, target: {0}}}\n",
                there.name()
            ),
        )?;
        let done = fleet.run(&["apply", "--yes"])?.expect(0)?;
        ensure!(
            guest.host()?.name() == there.name(),
            "{}\n{}",
            done.out,
            done.err
        );
        guest.wait_for_progress(PATIENCE)?;
        let continuity = guest.continuity()?;
        ensure!(continuity.is_unbroken(), "{continuity:?}");
        ensure!(guest.disk_report(there, "vda")?.is_intact());

        // The store is the guest's own and has left; the seed may be read by others and stays.
        ensure!(engraved(there)?, "another store on {}", there.name());
        ensure!(here.exec(&["test", "-e", NVRAM]).is_err());
        ensure!(there.exec(&["sha256sum", SEED])? == seed);
        ensure!(here.exec(&["sha256sum", SEED])? == seed);
        // Its agent is reached where it is now.
        let live = there.virsh(&["dumpxml", "--domain", guest.uuid()])?;
        let socket = live
            .split('\'')
            .find(|word| word.ends_with("org.qemu.guest_agent.0") && word.starts_with('/'));
        there.exec(&["test", "-S", socket.context("no channel of an agent")?])?;
        let left: Vec<String> = here
            .list_files()?
            .into_iter()
            .map(|file| file.path)
            .collect();
        ensure!(left == [SEED], "{left:?}");
    }
    // What came back is a definition that starts, with the same store.
    one.virsh(&["destroy", "--domain", guest.uuid()])?;
    one.virsh(&["start", "--domain", guest.uuid()])?;
    ensure!(engraved(&one)?);
    Ok(())
}

const LATER: &str = "/var/lib/libvirt/images/later.iso";

#[test]
fn paused_stopped_elsewhere_and_into_another_pool() -> Result<()> {
    let plain = |name: &str| {
        GuestSpec::new(name)
            .on("h1")
            .disks(vec![DiskSpec::mib(16, 4)])
            .stopped()
    };
    let marked = |name: &str, metadata: &str| GuestSpec {
        extra_domain: format!("<metadata>{metadata}</metadata>"),
        ..plain(name)
    };
    let host = |name: &str| HostSpec::new(name).pool(PoolSpec::new("fast"));
    let lab = Lab::builder()
        .host(host("h1"))
        .host(host("h2"))
        .guest(GuestSpec { start: true, ..plain("paused") })
        .guest(GuestSpec { start: true, ..plain("mapped") })
        .guest(plain("stopped"))
        .guest(marked(
            "nova",
            "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:name>n</nova:name></nova:instance>",
        ))
        .guest(marked(
            "ovirt",
            "<ovirt-vm:vm xmlns:ovirt-vm='http://ovirt.org/vm/1.0'><ovirt-vm:clusterVersion>4.7</ovirt-vm:clusterVersion></ovirt-vm:vm>",
        ))
        .guest(marked(
            "kubevirt",
            "<kubevirt xmlns='http://kubevirt.io'><uid>7</uid></kubevirt>",
        ))
        .up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let paused = lab.guest("paused")?;
    one.virsh(&["suspend", "--domain", paused.uuid()])?;
    let said = paused.serial_records()?.len();
    // Only its next start is to have this medium.
    shell(&one, &format!("head -c 50000 /dev/urandom > {LATER}"))?;
    let medium = one.exec(&["sha256sum", LATER])?;
    one.virsh(&[
        "attach-disk",
        "--config",
        "--domain",
        lab.guest("mapped")?.uuid(),
        "--source",
        LATER,
        "--target",
        "hda",
        "--targetbus",
        "ide",
        "--type",
        "cdrom",
        "--mode",
        "readonly",
    ])?;

    let fleet = Fleet::of(&lab)?;
    fleet.write(
        "wishes.yaml",
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: mapped}\n\
         spec: {guest: mapped, target: h2, disks: [{target: vda, pool: fast}]}\n\
         ---\n\
         apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {name: empty}\n\
         spec: {hosts: {names: [h1]}, stopped: Move}\n",
    )?;
    let done = fleet.run(&["apply", "--yes"])?.expect(3)?;
    let all = format!("{}\n{}", done.out, done.err);
    for (name, manager) in [
        ("nova", "OpenStack"),
        ("ovirt", "oVirt"),
        ("kubevirt", "KubeVirt"),
    ] {
        let object = fleet.get("guests", name)?;
        let status = &object["status"];
        let migratable = status["conditions"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["type"] == "Migratable"))
            .context("no Migratable")?;
        ensure!(migratable["reason"] == "ManagedElsewhere", "{object}");
        ensure!(status["managedBy"] == manager, "{object}");
        one.virsh(&["dominfo", "--domain", lab.guest(name)?.uuid()])?;
    }
    ensure!(all.contains("ManagedElsewhere"), "{all}");

    // Paused as it was, until somebody lets it go: then it goes on where it stood still.
    ensure!(state(&two, &paused)?.starts_with("paused"), "{all}");
    ensure!(paused.serial_records()?.len() == said);
    two.virsh(&["resume", "--domain", paused.uuid()])?;
    paused.wait_for_progress(PATIENCE)?;
    ensure!(paused.continuity()?.is_unbroken());
    ensure!(paused.disk_report(&two, "vda")?.is_intact());

    let stopped = lab.guest("stopped")?;
    ensure!(state(&two, &stopped)?.starts_with("shut off"), "{all}");
    ensure!(one.virsh(&["dominfo", "--domain", stopped.uuid()]).is_err());
    let report = stopped.disk_report(&two, "vda")?;
    ensure!(report.first_difference.is_none(), "{report:?}");

    let mapped = lab.guest("mapped")?;
    ensure!(mapped.host()?.name() == "h2", "{all}");
    mapped.wait_for_progress(PATIENCE)?;
    ensure!(mapped.continuity()?.is_unbroken());
    ensure!(mapped.disk_report(&two, "vda")?.is_intact());
    let path = mapped.disk_path(&two, "vda")?;
    ensure!(path.starts_with("/var/lib/libvirt/pools/fast/"), "{path}");
    let later = two.virsh(&["dumpxml", "--inactive", "--domain", mapped.uuid()])?;
    ensure!(later.contains(&path) && later.contains(LATER), "{later}");
    ensure!(two.exec(&["sha256sum", LATER])? == medium);
    // What is left at the source is what was not moved, and what others may read.
    let left = one.list_files()?;
    ensure!(left.len() == 4, "{left:?}");
    Ok(())
}
