//! Disks given by pool and volume, as Terraform's provider and `virt-install --disk vol=POOL/VOLUME` write them, on real
//! hosts: they move, and are given by the pool and volume where they came to.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, Guest, GuestSpec, Host, HostSpec, Lab, PoolSpec},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Long on a busy machine.
const BOOT: Duration = Duration::from_secs(180);
const IMAGES: &str = "/var/lib/libvirt/images";
const FAST: &str = "/var/lib/libvirt/pools/fast";
const SEED: &str = "<disk type='volume' device='cdrom'><driver name='qemu' type='raw'/>\
    <source pool='default' volume='seed.iso'/><target dev='hda' bus='ide'/><readonly/></disk>";

/// Gives the guest's disks by pool and volume, and its medium too, and boots it.
fn name_disks(host: &Host<'_>, guest: &Guest<'_>) -> Result<()> {
    let mut text = host.virsh(&["dumpxml", "--inactive", "--domain", guest.uuid()])?;
    for (pool, directory) in [("default", IMAGES), ("fast", FAST)] {
        let file = format!("<source file='{directory}/");
        text = text.replace(&file, &format!("<source pool='{pool}' volume='"));
    }
    text = text.replace(
        "<disk type='file' device='disk'>",
        "<disk type='volume' device='disk'>",
    );
    text = text.replace("</devices>", &format!("{SEED}</devices>"));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    host.virsh(&["define", "--file", &file.path().to_string_lossy()])?;
    host.virsh(&["start", "--domain", guest.uuid()])?;
    let end = Instant::now() + BOOT;
    while guest.serial_records()?.is_empty() {
        ensure!(Instant::now() < end, "{}", guest.serial_text(host)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn lab() -> Result<Lab> {
    let host = |name: &str| HostSpec::new(name).pool(PoolSpec::new("fast"));
    let lab = Lab::builder()
        .host(host("h1"))
        .host(host("h2"))
        .guest(
            GuestSpec::new("plain")
                .on("h1")
                .disks(vec![
                    DiskSpec::mib(64, 16),
                    DiskSpec::mib(48, 16).raw().pool("fast"),
                ])
                .stopped(),
        )
        .guest(
            GuestSpec::new("layered")
                .on("h1")
                .disks(vec![DiskSpec::mib(64, 16).backing("base.qcow2")])
                .stopped(),
        )
        .up()?;
    let one = lab.host("h1")?;
    one.exec(&[
        "sh",
        "-c",
        &format!("head -c 300000 /dev/urandom > {IMAGES}/seed.iso"),
    ])?;
    one.refresh_pools()?;
    for guest in ["plain", "layered"] {
        name_disks(&one, &lab.guest(guest)?)?;
    }
    Ok(lab)
}

/// Its definition there: as it runs, or as it starts next.
fn definition(host: &Host<'_>, guest: &Guest<'_>, form: &str) -> Result<String> {
    host.virsh(&["dumpxml", form, "--domain", guest.uuid()])
}

fn migrate(fleet: &Fleet, name: &str, spec: &str) -> Result<()> {
    fleet.write(
        "move.yaml",
        &format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        ),
    )?;
    fleet.run(&["apply", "--yes"])?.expect(0).map(drop)
}

/// Its disks there, each at its file, are what its guest wrote, and it never rebooted.
fn is_whole(host: &Host<'_>, guest: &Guest<'_>, disks: &[(&str, String)]) -> Result<()> {
    ensure!(guest.host()?.name() == host.name());
    guest.wait_for_progress(PATIENCE)?;
    let continuity = guest.continuity()?;
    ensure!(continuity.is_unbroken(), "{continuity:?}");
    for (target, path) in disks {
        let report = guest.disk_report_at(host, target, path)?;
        ensure!(report.is_intact(), "{report:?}");
    }
    Ok(())
}

fn has_no(host: &Host<'_>, path: &str) -> Result<()> {
    ensure!(host.exec(&["test", "-e", path]).is_err(), "{path} is left");
    Ok(())
}

#[test]
fn they_move_as_they_are_given() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let (plain, layered) = (lab.guest("plain")?, lab.guest("layered")?);
    let (top, data) = (
        format!("{IMAGES}/plain-vda.qcow2"),
        format!("{FAST}/plain-vdb.img"),
    );

    migrate(&fleet, "there", "guest: plain, target: h2")?;
    is_whole(&two, &plain, &[("vda", top.clone()), ("vdb", data.clone())])?;
    for form in ["--security-info", "--inactive"] {
        let text = definition(&two, &plain, form)?;
        for given in [
            "pool='default' volume='plain-vda.qcow2'",
            "pool='fast' volume='plain-vdb.img'",
            "pool='default' volume='seed.iso'",
        ] {
            ensure!(text.contains(given), "{form}: {given}: {text}");
        }
    }
    has_no(&one, &top)?;
    has_no(&one, &data)?;

    // Back, into another pool.
    migrate(
        &fleet,
        "back",
        "guest: plain, target: h1, disks: [{target: vda, pool: fast}]",
    )?;
    let moved = format!("{FAST}/plain-vda.qcow2");
    is_whole(&one, &plain, &[("vda", moved.clone()), ("vdb", data)])?;
    for form in ["--security-info", "--inactive"] {
        let text = definition(&one, &plain, form)?;
        let given = "pool='fast' volume='plain-vda.qcow2'";
        ensure!(text.contains(given), "{form}: {text}");
    }
    has_no(&two, &top)?;

    // Over a base: what runs has its file, what starts next its volume; from there it moves on the same way.
    let top = format!("{IMAGES}/layered-vda.qcow2");
    for (name, there, here) in [("on-base", &two, &one), ("from-base", &one, &two)] {
        migrate(
            &fleet,
            name,
            &format!("guest: layered, target: {}", there.name()),
        )?;
        is_whole(there, &layered, &[("vda", top.clone())])?;
        let live = definition(there, &layered, "--security-info")?;
        ensure!(
            live.contains(&format!("file='{top}'")) && live.contains("base.qcow2"),
            "{live}"
        );
        let later = definition(there, &layered, "--inactive")?;
        ensure!(
            later.contains("pool='default' volume='layered-vda.qcow2'"),
            "{later}"
        );
        has_no(here, &top)?;
    }

    // Stopped.
    one.virsh(&["destroy", "--domain", plain.uuid()])?;
    migrate(&fleet, "stopped", "guest: plain, target: h2")?;
    let text = definition(&two, &plain, "--inactive")?;
    ensure!(
        text.contains("pool='fast' volume='plain-vda.qcow2'"),
        "{text}"
    );
    let report = plain.disk_report_at(&two, "vda", &moved)?;
    ensure!(report.first_difference.is_none(), "{report:?}");
    has_no(&one, &moved)?;
    two.virsh(&["start", "--domain", plain.uuid()]).map(drop)
}

/// A domain that names a disk's pool and volume names its file: as long as it does, the file is not removed.
#[test]
fn who_names_the_volume_keeps_its_file() -> Result<()> {
    let lab = lab()?;
    let fleet = Fleet::of(&lab)?;
    let one = lab.host("h1")?;
    let plain = lab.guest("plain")?;
    let spare = definition(&one, &plain, "--inactive")?
        .replace(plain.uuid(), "0d6b1c55-8a70-4d9a-b5a4-2f1c7e6d9b11")
        .replace("<name>plain</name>", "<name>spare</name>");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), spare)?;
    one.virsh(&["define", "--file", &file.path().to_string_lossy()])?;
    fleet.write(
        "move.yaml",
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {name: over}\nspec: {guest: plain, target: h2}\n",
    )?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    run.wait_for("spare uses it", PATIENCE)?;
    ensure!(plain.host()?.name() == "h2", "{}", run.said());
    for file in [
        format!("{IMAGES}/plain-vda.qcow2"),
        format!("{FAST}/plain-vdb.img"),
    ] {
        one.exec(&["test", "-e", &file]).context(file)?;
    }
    one.virsh(&["undefine", "--domain", "spare"])?;
    ensure!(run.end(PATIENCE)?.success(), "{}", run.said());
    has_no(&one, &format!("{IMAGES}/plain-vda.qcow2"))
}
