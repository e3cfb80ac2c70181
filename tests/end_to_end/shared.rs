//! Disks on storage that several hosts see, on real hosts: left in place, never removed; refused by name where what that
//! takes is missing.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, HostSpec, Lab, PoolSpec, Room},
};

const PATIENCE: Duration = Duration::from_secs(60);
const STORE: &str = "/srv/shared";

fn host(name: &str, room: Room) -> HostSpec {
    HostSpec::new(name).pool(PoolSpec::new("shared").at(STORE).room(room))
}

fn migration(guest: &str, target: &str, more: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {guest}-to-{target}}}\n\
         spec: {{guest: {guest}, target: {target}{more}}}\n"
    )
}

fn shared(mib: u64) -> DiskSpec {
    DiskSpec::mib(mib, 8).pool("shared")
}

/// It is there, whole, and was never started anew; nothing of the move is left.
fn is_whole(lab: &Lab, guest: &Guest<'_>, host: &str) -> Result<()> {
    ensure!(guest.host()?.name() == host, "{:?}", guest.host()?.name());
    guest.wait_for_progress(PATIENCE)?;
    let continuity = guest.continuity()?;
    ensure!(continuity.is_unbroken(), "{continuity:?}");
    for target in guest.spec().targets() {
        let report = guest.disk_report(&lab.host(host)?, &target)?;
        ensure!(report.is_intact(), "{report:?}");
    }
    for host in lab.hosts() {
        let files = host.list_files()?;
        let left = files.iter().find(|file| file.path.contains(".evenkeel-"));
        ensure!(left.is_none(), "{left:?} on {}", host.name());
    }
    Ok(())
}

fn has(host: &Host<'_>, path: &str) -> bool {
    host.exec(&["test", "-e", path]).is_ok()
}

/// Asks for a move that is refused for this reason, in these words; the guest runs on.
fn refused(
    fleet: &Fleet,
    guest: &Guest<'_>,
    target: &str,
    more: &str,
    words: &[&str],
) -> Result<()> {
    fleet.write("refused.yaml", &migration(guest.name(), target, more))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    for word in words {
        run.wait_for(word, PATIENCE)?;
    }
    run.signal("INT")?;
    let _ = run.signal("INT");
    run.end(PATIENCE)?;
    fleet.remove("refused.yaml")?;
    guest.wait_for_progress(PATIENCE)?;
    Ok(())
}

#[test]
fn what_is_shared_stays_and_what_is_local_travels() -> Result<()> {
    let guests = [
        ("mixed", vec![DiskSpec::mib(64, 8), shared(64)]),
        ("whole", vec![shared(96)]),
        ("cold", vec![shared(32)]),
    ];
    let lab = guests
        .into_iter()
        .fold(
            Lab::builder()
                .host(host("h1", Room::Netfs))
                .host(host("h2", Room::Netfs))
                .host(HostSpec::new("h3")),
            |lab, (name, disks)| {
                let guest = GuestSpec::new(name).on("h1").disks(disks);
                lab.guest(if name == "cold" {
                    guest.stopped()
                } else {
                    guest
                })
            },
        )
        .up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let [mixed, whole, cold] = ["mixed", "whole", "cold"].map(|name| lab.guest(name));
    let (mixed, whole, cold) = (mixed?, whole?, cold?);
    let fleet = Fleet::of(&lab)?;
    let listed = fleet.get("guests", "mixed")?;
    let disks = listed["status"]["disks"].as_array().context("disks")?;
    ensure!(
        disks[0]["shared"] == false && disks[1]["shared"] == true,
        "{listed}"
    );

    for guest in [&mixed, &whole, &cold] {
        let mode = if guest.name() == "mixed" {
            ""
        } else {
            ", mode: Shared"
        };
        fleet.write("move.yaml", &migration(guest.name(), "h2", mode))?;
        let done = fleet.run(&["apply", "--yes", "-o", "json"])?.expect(0)?;
        println!("{} in {:?}", guest.name(), done.took);
        fleet.remove("move.yaml")?;
    }
    is_whole(&lab, &mixed, "h2")?;
    is_whole(&lab, &whole, "h2")?;
    for file in ["mixed-vdb", "whole-vda", "cold-vda"] {
        let file = format!("{STORE}/{file}.qcow2");
        ensure!(has(&one, &file) && has(&two, &file), "{file}");
    }
    let local = "/var/lib/libvirt/images/mixed-vda.qcow2";
    ensure!(!has(&one, local) && has(&two, local));
    ensure!(one.virsh(&["list", "--all", "--name"])?.trim().is_empty());
    two.virsh(&["start", "--domain", cold.uuid()])?;
    cold.wait_for_progress(PATIENCE)?;

    // What can't be had.
    refused(&fleet, &mixed, "h3", "", &["SharedStorageMissing"])?;
    refused(
        &fleet,
        &mixed,
        "h1",
        ", mode: Block",
        &["DiskShared", STORE],
    )?;
    refused(
        &fleet,
        &mixed,
        "h1",
        ", mode: Shared",
        &["DiskNotShared", "vda"],
    )?;

    // Aborted in mid-copy, nothing of it is touched.
    one.rate(Some(3_000_000))?;
    fleet.write("abort.yaml", &migration("mixed", "h1", ""))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("Copying", PATIENCE)?;
    run.signal("INT")?;
    // Two that come together count as one.
    std::thread::sleep(Duration::from_millis(500));
    run.signal("INT")?;
    run.end(PATIENCE)?;
    one.rate(None)?;
    is_whole(&lab, &mixed, "h2")?;
    ensure!(!has(&one, local));
    Ok(())
}

/// Storage that somebody mounted, in pools of plain directories: it is found out, and so is what only looks like it.
#[test]
fn mounted_by_hand() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let both = directory.path().display().to_string();
    let disk = format!("{both}/g2-vdc.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", &disk, "16M"])
        .status()?;
    ensure!(made.success());
    let other = GuestSpec {
        extra_devices: format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>\
             <target dev='vdc' bus='virtio'/></disk>"
        ),
        ..GuestSpec::new("g2")
            .on("h1")
            .disks(vec![DiskSpec::mib(32, 4)])
    };
    let lab = Lab::builder()
        .host(host("h1", Room::Shared))
        .host(host("h2", Room::Shared))
        // The same directory, another file system.
        .host(host("h3", Room::Machine))
        .guest(
            GuestSpec::new("g1")
                .on("h1")
                .disks(vec![DiskSpec::mib(48, 8), shared(64)]),
        )
        // The same storage, mounted elsewhere.
        .host(
            HostSpec::new("h4").pool(
                PoolSpec::new("shared")
                    .at("/srv/elsewhere")
                    .room(Room::Shared),
            ),
        )
        .guest(other)
        .up()?;
    let (one, two, three) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let guest = lab.guest("g1")?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("move.yaml", &migration("g1", "h2", ""))?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    fleet.remove("move.yaml")?;
    is_whole(&lab, &guest, "h2")?;
    let file = format!("{STORE}/g1-vdb.qcow2");
    ensure!(has(&one, &file) && has(&two, &file));

    // A file of that name on other storage is in the way, and stays.
    three.exec(&["qemu-img", "create", "-q", "-f", "qcow2", &file, "64M"])?;
    refused(&fleet, &guest, "h3", "", &["PathClash"])?;
    ensure!(has(&three, &file));

    // The guest's own file is not called a leftover where it is seen in another directory.
    refused(&fleet, &guest, "h4", "", &["SharedPathDiffers"])?;

    // One directory that two hosts see, on no file system that libvirt takes for shared: it is found to be the same, and
    // refused by libvirt before anything has happened.
    let other = lab.guest("g2")?;
    for host in [&one, &two] {
        host.virsh(&["pool-create-as", "both", "dir", "--target", &both])?;
    }
    refused(&fleet, &other, "h2", "", &["SharedStorageUnsafe"])?;
    ensure!(has(&one, &disk));
    is_whole(&lab, &other, "h1")
}
