//! How moves are done, as declared, on real hosts.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, HostSpec, Lab, Load},
    witness,
};
use serde_json::Value;

const EXAMPLE: &str = include_str!("../../examples/profiles.yaml");

fn move_of(guest: &str, target: &str, more: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: m}}\nspec: {{guest: {guest}, target: {target}{more}}}\n"
    )
}

fn profile(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: MigrationProfile\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn ready(object: &Value) -> Option<&Value> {
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|one| one["type"] == "Ready")
}

#[test]
fn a_move_is_done_as_its_profile_says() -> Result<()> {
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
    fleet.write("profiles.yaml", EXAMPLE)?;
    let shown = fleet.get("profiles", "default")?;
    ensure!(
        ready(&shown).is_some_and(|ready| ready["status"] == "True"),
        "{shown}"
    );
    ensure!(shown["status"]["guests"] == 1, "{shown}");

    // By the example's own profiles: over one connection and over four.
    fleet.write("move.yaml", &move_of("g1", "h2", ""))?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    fleet.write("move.yaml", &move_of("g1", "h1", ", profile: databases"))?;
    let quick = fleet.run(&["apply", "--yes"])?.expect(0)?.took;

    // The bandwidth holds: 40 MiB of disk and what the guest has of memory, at 16 MiB/s.
    fleet.write(
        "slow.yaml",
        &profile("slow", "{bandwidth: 16Mi, compression: Xbzrle}"),
    )?;
    fleet.write("move.yaml", &move_of("g1", "h2", ", profile: slow"))?;
    let slow = fleet.run(&["apply", "--yes"])?.expect(0)?.took;
    ensure!(
        slow > quick + Duration::from_secs(2),
        "as declared {slow:?}, without a limit {quick:?}"
    );

    // What this libvirt does not have is said before anything begins.
    fleet.write(
        "packed.yaml",
        &profile("packed", "{compression: Zstd, connections: 2}"),
    )?;
    fleet.write("move.yaml", &move_of("g1", "h1", ", profile: packed"))?;
    let plan = fleet.run(&["plan"])?.expect(3)?;
    ensure!(
        plan.out.contains("ProfileNotApplicable") && plan.out.contains("zstd needs libvirt 9.4.0"),
        "{plan:?}"
    );
    fleet.write("move.yaml", &move_of("g1", "h1", ", profile: none-such"))?;
    let plan = fleet.run(&["plan"])?.expect(3)?;
    ensure!(plan.out.contains("ProfileNotFound"), "{plan:?}");

    ensure!(lab.guest("g1")?.host()?.name() == "h2", "it moved");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}

/// A guest that fills 40 MiB of its memory anew for ever, over 8 MiB/s: that this can't converge is said before it
/// begins; without help it is given up, and slowed down it arrives.
#[test]
fn a_copy_that_can_t_converge_is_predicted_and_helped_or_given_up() -> Result<()> {
    let lab = Lab::builder()
        .host(HostSpec::new("h1"))
        .host(HostSpec::new("h2"))
        .guest(
            GuestSpec::new("g1")
                .on("h1")
                .memory_mib(256)
                .disks(vec![DiskSpec::mib(64, 4)])
                .load(Load {
                    dirty_mib: 40,
                    ..Load::default()
                }),
        )
        .up()?;
    let fleet = Fleet::of(&lab)?;
    let low = "bandwidth: 8Mi, downtime: 600ms, budget: {stall: 10s, perGiB: 600s}, attempts: 1";
    fleet.write(
        "alone.yaml",
        &profile("alone", &format!("{{{low}, convergence: []}}")),
    )?;
    fleet.write("helped.yaml", &profile("helped", &format!("{{{low}}}")))?;

    fleet.write("move.yaml", &move_of("g1", "h2", ", profile: alone"))?;
    let given_up = fleet.run(&["apply", "--yes"])?.expect(3)?;
    let said = format!("{}{}", given_up.out, given_up.err);
    ensure!(said.contains("not expected to converge"), "{said}");
    ensure!(said.contains("each pass over memory leaves"), "{said}");
    ensure!(given_up.took < Duration::from_secs(120), "{given_up:?}");
    ensure!(lab.guest("g1")?.host()?.name() == "h1", "it left");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;

    fleet.write("move.yaml", &move_of("g1", "h2", ", profile: helped"))?;
    let helped = fleet.run(&["apply", "--yes"])?.expect(0)?;
    let said = format!("{}{}", helped.out, helped.err);
    ensure!(said.contains("not expected to converge"), "{said}");
    ensure!(said.contains("AutoConverge slows its CPUs down"), "{said}");
    ensure!(lab.guest("g1")?.host()?.name() == "h2", "it stayed");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}

/// Under `switchover: Guarded` the guest arrives paused and is let go once the source is gone. Whoever drives the move
/// is killed in between: the guest waits, runs nowhere, and the next run lets it go.
#[test]
fn a_guarded_guest_waits_for_whoever_comes_next() -> Result<()> {
    let lab = Lab::builder()
        .host(HostSpec::new("h1"))
        .host(HostSpec::new("h2"))
        .guest(
            GuestSpec::new("g1")
                .on("h1")
                .disks(vec![DiskSpec::mib(64, 16)]),
        )
        .up()?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("profile.yaml", &profile("default", "{switchover: Guarded}"))?;
    fleet.write("move.yaml", &move_of("g1", "h2", ""))?;
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    let guest = lab.guest("g1")?;
    ensure!(guest.host()?.name() == "h2", "it stayed");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)?;

    fleet.write("move.yaml", &move_of("g1", "h1", ""))?;
    let mut run = fleet.start(&["apply", "--yes"])?;
    let target = lab.host("h1")?;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let state = guest.copy_on(&target)?.state.unwrap_or_default();
        if state == "paused (user)" {
            break;
        }
        ensure!(
            Instant::now() < end && !state.starts_with("running"),
            "it never waited: {state}\n{}",
            run.said()
        );
    }
    run.signal("KILL")?;
    run.end(Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_secs(4));
    ensure!(
        guest.counting_on(Duration::from_secs(2))?.is_empty(),
        "it runs without anybody having let it go: {:?}",
        guest.copies()?
    );
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(guest.host()?.name() == "h1", "it is not there");
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}

/// `keepSource`: the disks stay at the source, and a later run removes them once their time is over.
#[test]
fn disks_are_kept_at_the_source_for_a_while() -> Result<()> {
    let lab = Lab::builder()
        .host(HostSpec::new("h1"))
        .host(HostSpec::new("h2"))
        .guest(
            GuestSpec::new("g1")
                .on("h1")
                .disks(vec![DiskSpec::mib(64, 16)]),
        )
        .up()?;
    let fleet = Fleet::of(&lab)?;
    let guest = lab.guest("g1")?;
    let (source, left) = (lab.host("h1")?, guest.disk_path(&lab.host("h1")?, "vda")?);
    let is_there =
        || -> Result<bool> { Ok(source.list_files()?.iter().any(|file| file.path == left)) };
    fleet.write("profile.yaml", &profile("default", "{keepSource: 20s}"))?;
    fleet.write("move.yaml", &move_of("g1", "h2", ""))?;
    let begun = Instant::now();
    let apply = fleet.run(&["apply", "--yes"])?.expect(0)?;
    let moved = Instant::now();
    ensure!(is_there()?, "the disk was removed at once: {apply:?}");
    witness::all_is_well(&lab)?;
    // Before their time nothing is done to them.
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    ensure!(
        is_there()? || begun.elapsed() > Duration::from_secs(20),
        "the disk was removed too early"
    );
    std::thread::sleep(Duration::from_secs(21).saturating_sub(moved.elapsed()));
    fleet.run(&["apply", "--yes"])?.expect(0)?;
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}
