//! A policy that levels what guests are measured to use, on real hosts with guests that really work.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::Fleet,
    lab::{GuestSpec, Lab, Load},
    witness,
};

const POLICY: &str = "apiVersion: evenkeel.dev/v1alpha1
kind: RebalancePolicy
metadata: {name: level}
spec:
  mode: Auto
  load: Measured
  window: 30s
  resources: {cpu: 100, memory: 0}
  threshold: {start: 20, stop: 10}
  cooldown: 30s
";

/// Two guests that burn their processors are parted, the idle ones stay where they are, and then nothing moves any more.
#[test]
fn busy_guests_are_parted_and_then_all_stays_still() -> Result<()> {
    let busy = Load {
        cpu: true,
        ..Load::default()
    };
    let guest = |name: &str, host: &str| GuestSpec::new(name).on(host);
    let lab = Lab::builder()
        .hosts(2)
        .guest(guest("b1", "h1").load(busy.clone()))
        .guest(guest("b2", "h1").load(busy))
        .guest(guest("i1", "h2"))
        .guest(guest("i2", "h2"))
        .up()?;
    let fleet = Fleet::of(&lab)?;
    fleet.write("policy.yaml", POLICY)?;
    let mut run = fleet.start(&["apply", "--yes", "--watch"])?;
    run.wait_for("Succeeded", Duration::from_secs(180))?;
    let after = lab.places()?;
    ensure!(
        after["b1"] != after["b2"],
        "they were not parted: {after:?}"
    );
    ensure!(
        after["i1"] == "h2" && after["i2"] == "h2",
        "idle guests were moved: {after:?}"
    );
    let end = Instant::now() + Duration::from_secs(100);
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(5));
        ensure!(lab.places()? == after, "it went on\n{}", run.said());
    }
    run.signal("INT")?;
    run.end(Duration::from_secs(30))?;
    witness::all_is_well(&lab)?;
    witness::nothing_is_left(&lab)
}
