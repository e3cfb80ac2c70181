//! The link between two hosts cut in the middle of a move, for less and for longer than libvirt bears, and machines that lose
//! their power: what becomes of the guest, on real hosts. Both hosts are reached all the time but where their power is off.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    evenkeel::Run,
    lab::{DiskSpec, GuestSpec, Host, Load, PoolSpec, Room},
    stage::{GUEST, PATIENCE, Stage, came, note},
    witness,
};

/// Longer than a QEMU that has lost its libvirtd needs to go.
const DOWN: Duration = Duration::from_secs(5);

/// The copy of disks takes some ten seconds.
fn guest() -> GuestSpec {
    GuestSpec::new(GUEST).disks(vec![DiskSpec::mib(192, 160)])
}

/// Three disks, the first of which the guest writes over and flushes all the time.
fn writing() -> GuestSpec {
    let disks = vec![
        DiskSpec::mib(96, 64),
        DiskSpec::mib(64, 48).raw(),
        DiskSpec::mib(64, 48),
    ];
    GuestSpec::new(GUEST)
        .memory_mib(112)
        .disks(disks)
        .load(Load {
            write_mib: 16,
            ..Load::default()
        })
}

/// Cuts the hosts from each other, and heals that after a while. The longest time in which the guest said nothing.
fn cut(stage: &Stage, lasts: Duration) -> Result<Duration> {
    let source = stage.source()?;
    source.cut_from(&stage.target()?)?;
    let silent = silence(stage, lasts)?;
    source.heal()?;
    Ok(silent)
}

fn silence(stage: &Stage, lasts: Duration) -> Result<Duration> {
    let guest = stage.guest()?;
    let until = Instant::now() + lasts;
    let (mut heard, mut longest) = (Instant::now(), Duration::ZERO);
    let mut said = 0;
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(200));
        let now: usize = stage
            .lab
            .hosts()
            .iter()
            .map(|host| guest.serial_text(host).map(|text| text.len()))
            .sum::<Result<usize>>()?;
        if now > said {
            (said, heard) = (now, Instant::now());
        }
        longest = longest.max(heard.elapsed());
    }
    Ok(longest)
}

/// Waits until memory is copied.
fn in_memory(stage: &Stage, source: &Host<'_>) -> Result<Run> {
    // Slow enough that there is time to strike.
    stage.profile(", bandwidth: 8Mi")?;
    stage.begin_until(source, "iteration: ")
}

/// A cut in the disk phase: the guest runs on, the copy goes on or is taken back, and it moves in the end.
fn in_the_disk_phase(guest: GuestSpec, lasts: Duration) -> Result<()> {
    let stage = Stage::new(Stage::hosts(), guest)?;
    let mut run = stage.begin_until_copying()?;
    let silent = cut(&stage, lasts)?;
    note(&format!(
        "{lasts:?} in the disk phase: the guest said nothing for {silent:?}"
    ));
    stage.ends_on("h2", &mut run)
}

#[test]
#[ignore = "a minute; make evidence"]
fn a_short_cut_while_disks_are_copied() -> Result<()> {
    in_the_disk_phase(guest(), Duration::from_secs(8))
}

#[test]
#[ignore = "two minutes; make evidence"]
fn a_cut_of_30_s_while_disks_are_copied() -> Result<()> {
    in_the_disk_phase(guest(), Duration::from_secs(30))
}

#[test]
#[ignore = "five minutes; make evidence"]
fn a_cut_of_240_s_while_disks_are_copied() -> Result<()> {
    in_the_disk_phase(guest(), Duration::from_secs(240))
}

/// Several disks, and heavy writes all the time.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_cut_of_75_s_while_disks_are_copied_that_the_guest_writes() -> Result<()> {
    in_the_disk_phase(writing(), Duration::from_secs(75))
}

/// In the memory phase QEMU stands still until the heal: that is said, and an abort, which would not help, is not tried.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_cut_of_75_s_while_memory_is_copied() -> Result<()> {
    let stage = Stage::new(Stage::hosts(), guest())?;
    let mut run = in_memory(&stage, &stage.source()?)?;
    let silent = cut(&stage, Duration::from_secs(75))?;
    note(&format!(
        "75 s in the memory phase: the guest said nothing for {silent:?}"
    ));
    run.wait_for("CopyStalled", Duration::from_secs(1))?;
    stage.ends_on("h2", &mut run)
}

/// In the switch the source stays paused until the heal: that is said after a while, and nobody touches it.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_cut_of_75_s_in_the_switch() -> Result<()> {
    let stage = Stage::new(Stage::hosts(), guest())?;
    let source = stage.source()?;
    let mut run = stage.begin_until(&source, "Suspended Migrated")?;
    let silent = cut(&stage, Duration::from_secs(75))?;
    note(&format!(
        "75 s in the switch: the guest said nothing for {silent:?}"
    ));
    if silent > Duration::from_secs(40) {
        run.wait_for("libvirt has been switching", Duration::from_secs(1))?;
    }
    while !run.has_ended(Duration::from_secs(1))? {
        let state = stage.guest()?.copy_on(&source)?.state;
        if state.as_deref() == Some("paused (user)") {
            // It had handed over: libvirt ran the guest twice.
            ensure!(run.said().contains("RunsTwice"), "{}", run.said());
            stage.guest()?.discard_on(&source)?;
        }
    }
    stage.ends_restarted_on("h2", &mut run)
}

/// The target's machine loses its power, with memory on its way, and is back after a minute.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_target_without_power() -> Result<()> {
    for memory in [false, true] {
        let stage = Stage::new(Stage::hosts(), guest())?;
        let target = stage.target()?;
        let mut run = match memory {
            true => in_memory(&stage, &stage.source()?)?,
            false => stage.begin_until_copying()?,
        };
        target.power_off()?;
        let silent = silence(&stage, Duration::from_secs(60))?;
        note(&format!(
            "no power at the target, memory {memory}: the guest said nothing for {silent:?}"
        ));
        target.power_on()?;
        stage.ends_on("h2", &mut run)?;
    }
    Ok(())
}

/// The source's machine loses its power in mid-copy: the guest stops with it, and moves once a person has started it there.
#[test]
#[ignore = "two minutes; make evidence"]
fn a_source_without_power() -> Result<()> {
    let stage = Stage::new(Stage::hosts(), guest())?;
    let source = stage.source()?;
    let mut run = stage.begin_until_copying()?;
    source.power_off()?;
    thread::sleep(Duration::from_secs(20));
    stage.leads_to(&run, "Wait(SourceSilent)")?;
    source.power_on()?;
    stage.shows(&stage.target()?, "", &run)?;
    run.wait_for("GuestStopped", PATIENCE)?;
    source.virsh(&["start", GUEST])?;
    run.end(PATIENCE)?;
    let mut run = stage.begin()?;
    stage.ends_restarted_on("h2", &mut run)
}

/// Top layers alone travel, their bases being at both hosts, while the guest writes: each fault strikes such a copy.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_top_layer_on_its_base_comes_through_all_of_it() -> Result<()> {
    let disks = vec![
        DiskSpec::mib(160, 128).backing("base-of-a.qcow2"),
        DiskSpec::mib(96, 64).backing("base-of-b.qcow2"),
    ];
    let guest = GuestSpec::new(GUEST).disks(disks).load(Load {
        write_mib: 24,
        ..Load::default()
    });
    let stage = Stage::new(Stage::hosts(), guest)?;
    comes_through_all(&stage)?;
    for report in witness::whole(&stage.guest()?)? {
        ensure!(report.allocated < 40 << 20, "flattened: {report:?}");
    }
    Ok(())
}

/// The same with a disk on storage that both hosts see, which stays where it is.
#[test]
#[ignore = "three minutes; make evidence"]
fn a_shared_disk_comes_through_all_of_it() -> Result<()> {
    let hosts = Stage::hosts()
        .each_host(|host| host.pool(PoolSpec::new("shared").at("/srv/shared").room(Room::Netfs)));
    let disks = vec![DiskSpec::mib(128, 96), DiskSpec::mib(64, 32).pool("shared")];
    let guest = GuestSpec::new(GUEST).memory_mib(112).disks(disks);
    comes_through_all(&Stage::new(hosts, guest)?)
}

/// There and back, with another fault in the middle of each copy: either libvirtd killed, the target's QEMU killed, the link
/// cut for longer than libvirt bears.
fn comes_through_all(stage: &Stage) -> Result<()> {
    for fault in 0..4 {
        let from = stage.guest()?.host()?;
        let to = if from.name() == "h1" { "h2" } else { "h1" };
        let target = stage.lab.host(to)?;
        stage.ask_for(to)?;
        let events = target.events()?;
        let mut run = stage.begin()?;
        came(&events, "Started Migrated", &run)?;
        thread::sleep(Duration::from_millis(500));
        match fault {
            0 => from.restart_libvirtd(DOWN)?,
            1 => target.restart_libvirtd(DOWN)?,
            2 => target.kill_qemu(GUEST)?,
            _ => {
                let silent = cut(stage, Duration::from_secs(35))?;
                note(&format!("35 s: the guest said nothing for {silent:?}"));
            }
        }
        stage
            .ends_on(to, &mut run)
            .with_context(|| format!("fault {fault}"))?;
    }
    Ok(())
}
