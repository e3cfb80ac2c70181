//! `transport: Direct` on real hosts: the controller drives the migration.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, HostSpec, Lab},
    witness,
};

const PROFILE: &str = "apiVersion: evenkeel.dev/v1alpha1
kind: MigrationProfile
metadata: {name: default}
spec: {transport: Direct, bandwidth: 24Mi, downtime: 1s}
";

fn move_to(target: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: m}}\nspec: {{guest: g1, target: {target}}}\n"
    )
}

/// The hosts have no way to each other's libvirtd, which is what peer-to-peer needs and this does not. The controller is
/// killed in mid-copy: the copy dies with it, and the next run moves the guest.
#[test]
fn hosts_need_no_way_to_each_other_s_libvirtd() -> Result<()> {
    let lab = Lab::builder()
        .host(HostSpec::new("h1"))
        .host(HostSpec::new("h2"))
        .guest(
            GuestSpec::new("g1")
                .on("h1")
                .disks(vec![DiskSpec::mib(64, 40)]),
        )
        .up()?;
    let fleet = Fleet::of(&lab)?;
    for (index, host) in lab.hosts().iter().enumerate() {
        let file = format!("host-{index}.yaml");
        let text = fs::read_to_string(fleet.path().join(&file))?;
        // Nobody listens there.
        let peers = format!(
            "  migration: {{uri: 'qemu+tls://{}:1/system'}}\n",
            host.address()
        );
        fleet.write(&file, &format!("{text}{peers}"))?;
    }
    fleet.write("move.yaml", &move_to("h2"))?;
    let mut blocked = fleet.start(&["apply", "--yes"])?;
    blocked.wait_for("TargetCannotBeReachedFromSource", Duration::from_secs(60))?;
    blocked.signal("INT")?;
    blocked.end(Duration::from_secs(60))?;

    fleet.write("profile.yaml", PROFILE)?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    let guest = lab.guest("g1")?;
    ensure!(guest.host()?.name() == "h2", "it stayed");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;

    fleet.write("move.yaml", &move_to("h1"))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    let target = lab.host("h1")?;
    let end = Instant::now() + Duration::from_secs(60);
    while guest.copy_on(&target)?.state.as_deref() != Some("paused (migrating)") {
        ensure!(Instant::now() < end, "it never began\n{}", run.said());
        thread::sleep(Duration::from_millis(50));
    }
    run.signal("KILL")?;
    run.end(Duration::from_secs(10))?;
    thread::sleep(Duration::from_secs(3));
    ensure!(
        guest.copy_on(&target)?.state.is_none(),
        "the copy went on by itself"
    );
    ensure!(
        guest.host()?.name() == "h2",
        "it does not run at its source"
    );
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(guest.host()?.name() == "h1", "it stayed");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}
