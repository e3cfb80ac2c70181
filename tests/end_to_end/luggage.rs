//! Everything travels: a guest moves to a host that has none of the files it needs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Host, Lab},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Any firmware will do: this one is in every installation of QEMU.
const FIRMWARE: &str = "/usr/share/seabios/bios-256k.bin";

const MEDIA: &str = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
    <source file='/srv/media/config drive.iso'/><target dev='hda' bus='ide'/><readonly/></disk>\
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdb' bus='ide'/><readonly/></disk>\
    <disk type='file' device='disk'><driver name='qemu' type='raw'/>\
    <source file='/var/lib/libvirt/images/reference.img'/><target dev='vdr' bus='virtio'/><readonly/></disk>";

fn shell(host: &Host<'_>, script: &str) -> Result<String> {
    host.exec(&["sh", "-ec", script])
}

fn digests(host: &Host<'_>, files: &[&str]) -> Result<String> {
    host.exec(&[&["sha256sum"], files].concat())
}

fn migration(guest: &str, target: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {guest}-to-{target}}}\n\
         spec: {{guest: {guest}, target: {target}}}\n"
    )
}

#[test]
fn kernel_firmware_media_and_variables_travel() -> Result<()> {
    let guest = GuestSpec {
        extra_devices: MEDIA.to_owned(),
        ..GuestSpec::new("g1")
            .on("h1")
            .disks(vec![DiskSpec::mib(64, 8)])
    };
    let lab = Lab::builder().hosts(2).guest(guest.stopped()).up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    shell(
        &one,
        "mkdir -p /srv/media /srv/guests/boot /var/lib/libvirt/qemu/nvram
         cp /var/lib/libvirt/boot/* /srv/guests/boot
         chmod 0640 /srv/guests/boot/initrd.img
         head -c 300000 /dev/urandom > '/srv/media/config drive.iso'
         head -c 3M /dev/urandom > /var/lib/libvirt/images/reference.img
         truncate -s 40M /var/lib/libvirt/images/reference.img
         head -c 131072 /dev/urandom > /var/lib/libvirt/qemu/nvram/g1.fd",
    )?;
    // The directories are there; nothing is in them.
    shell(&two, "mkdir -p /srv/media /srv/guests/boot")?;
    let made = lab.guest("g1")?;
    let definition = one
        .virsh(&["dumpxml", "--domain", made.uuid()])?
        .replace("/var/lib/libvirt/boot/", "/srv/guests/boot/")
        .replace(
            "<kernel>",
            &format!(
                "<loader readonly='yes' type='pflash'>{FIRMWARE}</loader>\
                 <nvram>/var/lib/libvirt/qemu/nvram/g1.fd</nvram><kernel>"
            ),
        );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), definition)?;
    one.virsh(&["define", &file.path().to_string_lossy()])?;
    one.virsh(&["start", "--domain", made.uuid()])?;
    made.wait_for_progress(PATIENCE)?;

    let shared = [
        "/srv/guests/boot/vmlinuz",
        "/srv/guests/boot/initrd.img",
        "/srv/media/config drive.iso",
        "/var/lib/libvirt/images/reference.img",
    ];
    let nvram = "/var/lib/libvirt/qemu/nvram/g1.fd";
    let all = [shared.as_slice(), &[nvram]].concat();
    let before = digests(&one, &all)?;

    let fleet = Fleet::of(&lab)?;
    fleet.write("move.yaml", &migration("g1", "h2"))?;
    let done = fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(made.host()?.name() == "h2", "{}\n{}", done.out, done.err);
    made.wait_for_progress(PATIENCE)?;
    let continuity = made.continuity()?;
    assert!(continuity.is_unbroken(), "{continuity:?}");
    assert!(made.disk_report(&two, "vda")?.is_intact());

    assert_eq!(digests(&two, &all)?, before, "byte for byte");
    let mode = two.exec(&["stat", "--format=%a", shared[1]])?;
    assert_eq!(mode.trim(), "640", "readable for whom it was");
    let blocks: u64 = two
        .exec(&["stat", "--format=%b", shared[3]])?
        .trim()
        .parse()
        .context("blocks")?;
    assert!(blocks * 512 < 8 << 20, "its holes were filled: {blocks}");
    // What is the guest's alone has left, what others may read is left.
    digests(&one, &shared)?;
    assert!(digests(&one, &[nvram]).is_err());
    for host in [&one, &two] {
        let pools = host.virsh(&["pool-list", "--all", "--name"])?;
        assert_eq!(pools.trim(), "default", "on {}", host.name());
    }

    // Back again: what was left there is the same, so nothing but the disk and the variables travels.
    fleet.remove("move.yaml")?;
    fleet.write("back.yaml", &migration("g1", "h1"))?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    assert_eq!(made.host()?.name(), "h1");
    assert_eq!(digests(&one, &all)?, before);

    // What has the same name and is something else is not used, and not touched.
    shell(
        &two,
        "echo other > '/srv/media/config drive.iso'; truncate -s 300000 '/srv/media/config drive.iso'",
    )?;
    let other = digests(&two, &[shared[2]])?;
    fleet.remove("back.yaml")?;
    fleet.write("again.yaml", &migration("g1", "h2"))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("PathClash", PATIENCE)?;
    run.signal("INT")?;
    run.signal("INT")?;
    run.end(PATIENCE)?;
    assert_eq!(digests(&two, &[shared[2]])?, other);
    assert!(digests(&two, &[nvram]).is_err(), "taken back");
    made.wait_for_progress(PATIENCE)?;
    assert!(made.continuity()?.is_unbroken());
    Ok(())
}

/// A host full of guests on one base image is emptied: the base travels once, and with each guest its own layer.
#[test]
fn a_base_image_travels_once() -> Result<()> {
    const BASE: &str = "/var/lib/libvirt/images/debian.qcow2";
    const GUESTS: u64 = 12;
    let on_base = |name: String| {
        let mut disk = DiskSpec::mib(256, 160).backing("debian.qcow2");
        if let Some(backing) = &mut disk.backing {
            backing.everywhere = false;
        }
        let plain = DiskSpec::mib(16, 4).raw();
        GuestSpec::new(name)
            .on("h1")
            .memory_mib(80)
            .disks(vec![disk, plain])
    };
    let lab = (1..=GUESTS)
        .fold(Lab::builder().hosts(2), |lab, number| {
            lab.guest(on_base(format!("g{number}")))
        })
        .up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    assert!(digests(&two, &[BASE]).is_err());
    let base = digests(&one, &[BASE])?;
    let size = |file: &str| -> Result<u64> {
        let blocks = one.exec(&["stat", "--format=%b", file])?;
        Ok(blocks.trim().parse::<u64>().context("blocks")? * 512)
    };
    let mut own = 0;
    for guest in lab.guests() {
        for target in guest.spec().targets() {
            let ending = if target == "vda" { "qcow2" } else { "img" };
            let name = guest.name();
            own += size(&format!("/var/lib/libvirt/images/{name}-{target}.{ending}"))?;
        }
    }
    let most = size(BASE)? + own + GUESTS * (80 << 20);
    let received = || -> Result<u64> {
        let all = shell(&two, "cat /sys/class/net/*/statistics/rx_bytes")?;
        // What passes a host's bridge is counted there too; the largest is its link.
        let counters = all.lines().map(|line| line.trim().parse::<u64>());
        Ok(counters
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .max()
            .unwrap_or(0))
    };
    let before = received()?;

    let fleet = Fleet::of(&lab)?;
    // More guests than a small machine's CPUs are promised to.
    let manifest = format!("{}  overcommit: {{cpu: 1600}}\n", two.manifest()?);
    fleet.write("host-1.yaml", &manifest)?;
    fleet.write(
        "drain.yaml",
        "apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {name: empty}\nspec: {hosts: {names: [h1]}, parallel: 4}\n",
    )?;
    let plan = fleet.run(&["plan", "-o", "json"])?.expect(2)?.json()?;
    let planned = plan["totals"]["bytes"].as_u64().context("bytes")?;
    let about = most - most / 10..most + most / 10;
    assert!(about.contains(&planned), "{planned} planned, not {about:?}");
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    let travelled = received()? - before;
    println!("{travelled} bytes travelled, {most} are base, own layers and memory");
    assert!(travelled < most + most / 10, "{travelled} of {most}");
    for guest in lab.guests() {
        assert_eq!(guest.host()?.name(), "h2");
        assert!(guest.continuity()?.is_unbroken());
        for target in guest.spec().targets() {
            let report = guest.disk_report(&two, &target)?;
            assert!(report.is_intact(), "{} {report:?}", guest.name());
        }
        let info = two.exec(&[
            "qemu-img",
            "info",
            "--force-share",
            &format!("/var/lib/libvirt/images/{}-vda.qcow2", guest.name()),
        ])?;
        ensure!(info.contains(&format!("backing file: {BASE}")), "{info}");
    }
    assert_eq!(digests(&two, &[BASE])?, base);
    // Others may use it: it stays, alone.
    let left: Vec<String> = one
        .list_files()?
        .into_iter()
        .map(|file| file.path)
        .collect();
    assert_eq!(left, [BASE]);
    Ok(())
}

/// `apply` is killed while it carries a file into a directory that no pool has: the next one clears that up, its pool
/// too, and the guest moves.
#[test]
fn killed_while_carrying() -> Result<()> {
    const MEDIUM: &str = "/srv/media/large.iso";
    let guest = GuestSpec {
        extra_devices: format!(
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{MEDIUM}'/>\
             <target dev='hda' bus='ide'/><readonly/></disk>"
        ),
        ..GuestSpec::new("g1")
            .on("h1")
            .disks(vec![DiskSpec::mib(16, 4)])
    };
    let lab = Lab::builder().hosts(2).guest(guest.stopped()).up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let made = lab.guest("g1")?;
    shell(
        &one,
        &format!("mkdir /srv/media; head -c 80M /dev/urandom > {MEDIUM}"),
    )?;
    shell(&two, "mkdir /srv/media")?;
    one.virsh(&["start", "--domain", made.uuid()])?;
    made.wait_for_progress(PATIENCE)?;

    two.rate(Some(10_000_000))?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("move.yaml", &migration("g1", "h2"))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    let half_way = || -> Result<bool> {
        let blocks = two.exec(&["stat", "--format=%b", MEDIUM]);
        Ok(blocks.is_ok_and(|blocks| blocks.trim().parse::<u64>().unwrap_or(0) > 20_000))
    };
    let end = std::time::Instant::now() + PATIENCE;
    while !half_way()? {
        ensure!(
            std::time::Instant::now() < end,
            "nothing is carried: {}",
            run.said()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    run.signal("KILL")?;
    run.end(PATIENCE)?;
    two.rate(None)?;

    fleet.run(&["apply", "--yes"])?.expect(0)?;
    assert_eq!(made.host()?.name(), "h2");
    assert_eq!(digests(&one, &[MEDIUM])?, digests(&two, &[MEDIUM])?);
    made.wait_for_progress(PATIENCE)?;
    assert!(made.continuity()?.is_unbroken());
    for host in [&one, &two] {
        let pools = host.virsh(&["pool-list", "--all", "--name"])?;
        assert_eq!(pools.trim(), "default", "on {}", host.name());
        let journals = host
            .list_files()?
            .iter()
            .any(|file| file.path.contains(".evenkeel-"));
        assert!(!journals, "on {}", host.name());
    }
    Ok(())
}
