//! The lab itself: guests really move in it, what it says about them is right, and nothing of it stays behind.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use evenkeel_tests::lab::{DiskSpec, GuestSpec, Host, HostSpec, Lab, PoolSpec, Room, teardown};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_guest_moves_without_a_break_and_the_lab_vanishes() -> Result<()> {
    let small = PoolSpec::new("small").room(Room::Ext4(64 << 20));
    let lab = Lab::builder()
        .hosts(2)
        .each_host(|host| host.pool(small.clone()))
        .guest(
            GuestSpec::new("traveller")
                .on("h1")
                .disks(vec![DiskSpec::mib(64, 8), DiskSpec::mib(16, 4).raw()]),
        )
        .guest(
            GuestSpec::new("it's & <odd>")
                .on("h2")
                .memory_mib(80)
                .disks(vec![DiskSpec::mib(16, 2).pool("small")]),
        )
        .up()?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    let guest = lab.guest("traveller")?;
    assert_eq!(guest.host()?.name(), "h1");

    // Slow enough that the move shows in the rate of the link.
    one.rate(Some(20_000_000))?;
    let start = Instant::now();
    let to = two.uri();
    let flags = [
        "--live",
        "--p2p",
        "--copy-storage-all",
        "--persistent",
        "--undefinesource",
    ];
    one.virsh(&[&["migrate"], flags.as_slice(), &["traveller", &to]].concat())?;
    ensure!(
        start.elapsed() > Duration::from_secs(2),
        "the link was faster than its rate: {:?}",
        start.elapsed()
    );

    assert_eq!(guest.wait_for_progress(PATIENCE)?, "h2");
    assert_eq!(guest.host()?.name(), "h2");
    assert_eq!(
        guest.counting_on(Duration::from_secs(1))?,
        BTreeSet::from(["h2".to_owned()])
    );
    let continuity = guest.continuity()?;
    assert!(continuity.is_unbroken(), "{continuity:?}");
    assert_eq!(continuity.path, ["h1", "h2"]);
    for target in ["vda", "vdb"] {
        let report = guest.disk_report(&two, target)?;
        assert!(report.is_intact(), "{report:?}");
        assert!(
            report.ring.last >= continuity.last,
            "a count was said before it was on disk: {report:?}"
        );
    }
    // libvirt leaves the source's files, and the lab says so.
    assert_eq!(one.list_files()?.len(), 2);
    let odd = lab.guest("it's & <odd>")?;
    assert!(odd.disk_report(&two, "vda")?.is_intact());

    // Its other half of the pool is too small for a file of this size: a full disk is real.
    assert!(one.fill_pool("small", 1 << 20).is_ok());
    assert!(
        one.exec(&[
            "dd",
            "if=/dev/zero",
            "of=/var/lib/libvirt/pools/small/x",
            "bs=1M",
            "count=4"
        ])
        .is_err()
    );

    odd.home()?.virsh(&["shutdown", "--domain", odd.uuid()])?;
    let end = Instant::now() + PATIENCE;
    while odd.qemu_hosts()? == ["h2"] {
        ensure!(
            Instant::now() < end,
            "the guest does not obey its power button"
        );
        std::thread::sleep(Duration::from_millis(100));
    }

    let id = lab.id().to_owned();
    assert!(!teardown::leftovers(&id)?.is_empty());
    drop(lab);
    assert_eq!(teardown::leftovers(&id)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn faults_are_real_and_healed() -> Result<()> {
    let lab = Lab::builder()
        .host(HostSpec::new("alpha"))
        .host(HostSpec::new("beta with a blank"))
        .up()?;
    let (alpha, beta) = (lab.host("alpha")?, lab.host("beta with a blank")?);
    let port = alpha.port();
    let sees = |from: &Host<'_>, address: &str| {
        // bash's own TCP, since a host need not have ping.
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        from.exec(&["timeout", "1", "bash", "-c", &connect]).is_ok()
    };
    let answers = |host: &Host<'_>| host.virsh_within(Duration::from_secs(2), &["uri"]).is_ok();

    assert!(sees(&alpha, beta.address()) && sees(&beta, alpha.address()));
    alpha.cut_from(&beta)?;
    assert!(!sees(&alpha, beta.address()) && answers(&alpha) && answers(&beta));
    alpha.heal()?;
    alpha.cut_from_machine()?;
    assert!(sees(&alpha, beta.address()) && !answers(&alpha) && answers(&beta));
    alpha.heal()?;
    beta.cut()?;
    assert!(!sees(&alpha, beta.address()) && answers(&alpha) && !answers(&beta));
    beta.heal()?;
    assert!(sees(&alpha, beta.address()) && answers(&beta));

    beta.freeze_libvirtd()?;
    assert!(!answers(&beta));
    beta.thaw_libvirtd()?;
    assert!(answers(&beta));
    beta.kill_libvirtd()?;
    assert!(beta.libvirtd()?.is_none() && !answers(&beta));
    beta.start_libvirtd()?;
    beta.power_off()?;
    assert!(!beta.is_on() && beta.processes()?.is_empty() && !answers(&beta));
    beta.power_on()?;
    assert!(answers(&beta));
    Ok(())
}

/// Wherever in bringing it up the owner dies, the keeper takes everything down.
#[test]
fn a_killed_owner_leaves_nothing() -> Result<()> {
    for (number, delay) in [30, 150, 400, 900].into_iter().enumerate() {
        let id = format!("k{:x}{number}", std::process::id() % 0xfff);
        let mut owner = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args([
                "up",
                "--hosts",
                "2",
                "--guests",
                "1",
                "--pool",
                "small=ext4:32Mi",
                "--id",
                &id,
            ])
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(delay));
        owner.kill()?;
        owner.wait()?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = teardown::leftovers(&id)?;
            if left.is_empty() {
                break;
            }
            ensure!(Instant::now() < end, "killed after {delay} ms: {left:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}
