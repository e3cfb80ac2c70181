//! The controller in a real cluster, on real hosts: what it shows, how fast, what it refuses and why, that it goes on by
//! itself, and that nothing it leaves behind is ever wrong. One lab and one cluster; the steps build on one another.

use std::{
    fs,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use evenkeel_tests::{
    controller::{self, Controller, Followed, Installed, NAMESPACE, Seen, condition},
    evenkeel::Fleet,
    lab::{DiskSpec, GuestSpec, Lab, PoolSpec, Room, SECRET},
    witness,
};

/// For what takes as long as copying takes.
const PATIENCE: Duration = Duration::from_secs(90);
/// 2 s is what is promised; a machine that runs other tests too gets one more.
const PROMPT: Duration = Duration::from_secs(3);
/// 1 s is what is promised for what somebody does to a domain by hand.
const AT_ONCE: Duration = Duration::from_secs(2);
/// A pool whose room a test can take away.
const FAST: u64 = 300 << 20;

struct Stage {
    lab: Lab,
    installed: Installed,
    followed: Followed,
    start: Instant,
}

#[test]
fn the_controller_on_real_hosts_in_a_real_cluster() -> Result<()> {
    let start = Instant::now();
    // Both take a while to come up, mostly waiting.
    let lab = thread::spawn(lab);
    let installed = Installed::start()?;
    let lab = lab.join().map_err(|_| anyhow::anyhow!("the lab"))??;
    let mut controller = installed.controller()?;
    let followed = installed.follow()?;
    let stage = Stage {
        lab,
        installed,
        followed,
        start,
    };
    let leads = controller.wait_until_leading()?;
    stage.note(&format!(
        "lab, cluster and chart are up; the controller led {leads:?} after its start"
    ));

    stage.hosts_and_guests_appear()?;
    stage.wrong_manifests_are_refused_with_a_sentence()?;
    stage.a_viewer_orders_nothing()?;
    stage.what_cannot_be_done_says_why_and_goes_on_when_it_can()?;
    stage.two_hosts_for_one_hypervisor()?;
    stage.a_drain_and_its_end()?;
    stage.what_others_do_shows_at_once()?;
    let controller = stage.killed_while_copying(controller)?;
    stage.stopped_by_hand()?;
    stage.a_cordon_drains_and_an_uncordon_stops_it()?;
    stage.asked_to_end(controller)
}

fn lab() -> Result<Lab> {
    let disk = |size, data| vec![DiskSpec::mib(size, data)];
    Lab::builder()
        .hosts(3)
        .each_host(|host| host.pool(PoolSpec::new("fast").room(Room::Ext4(FAST))))
        .guest(GuestSpec::new("a").on("h1").disks(disk(64, 8)))
        .guest(
            GuestSpec::new("b")
                .on("h1")
                .disks(vec![DiskSpec::mib(64, 8).pool("fast")]),
        )
        .guest(GuestSpec::new("c").on("h1").disks(disk(192, 128)))
        .guest(GuestSpec::new("d").on("h2").disks(disk(64, 8)))
        .guest(GuestSpec::new("hand").on("h3").disks(disk(32, 2)).stopped())
        .up()
}

impl Stage {
    fn note(&self, text: &str) {
        let _ = writeln!(
            std::io::stderr(),
            "{:6.1} s  {text}",
            self.start.elapsed().as_secs_f64()
        );
    }

    fn order(&self, name: &str, guest: &str, target: &str) -> Result<()> {
        self.installed
            .cluster
            .apply(&migration(name, guest, target))?;
        Ok(())
    }

    fn succeeds(&self, name: &str) -> Result<Seen> {
        self.followed.wait(
            "GuestMigration",
            name,
            None,
            PATIENCE,
            "Succeeded",
            |seen| {
                seen.status("phase") == "Succeeded"
                    && seen.condition("Succeeded") == Some(("True", "Completed"))
            },
        )
    }

    fn is_on(&self, guest: &str, host: &str) -> Result<()> {
        let real = self.lab.guest(guest)?.host()?;
        ensure!(
            real.name() == host,
            "{guest} is on {}, not on {host}",
            real.name()
        );
        Ok(())
    }

    /// The reason is on the object and in an Event soon after the order.
    fn says(&self, name: &str, reason: &str) -> Result<()> {
        let limit = PATIENCE;
        let (shown, seen) =
            self.followed
                .reason("GuestMigration", name, "Succeeded", reason, limit)?;
        let told = self.followed.event("GuestMigration", name, reason, limit)?;
        self.note(&format!(
            "{reason:22} shown after {:4} ms, Event after {:4} ms",
            shown.as_millis(),
            told.as_millis()
        ));
        ensure!(
            shown <= PROMPT && told <= PROMPT,
            "{reason} took {shown:?}, its Event {told:?}"
        );
        let message = seen.object["status"]["conditions"][0]["message"].as_str();
        ensure!(
            message.is_some_and(|text| text.len() > 10),
            "{reason} without a sentence: {}",
            seen.object
        );
        Ok(())
    }

    /// Claims are given back a moment after the last move.
    fn nothing_is_left(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(6);
        loop {
            match witness::nothing_is_left(&self.lab) {
                Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(300)),
                answer => return answer,
            }
        }
    }

    fn hosts_and_guests_appear(&self) -> Result<()> {
        let cluster = &self.installed.cluster;
        self.installed.declare_hosts(&self.lab)?;
        for host in ["h1", "h2", "h3"] {
            let (after, seen) =
                self.followed
                    .reason("Host", host, "Ready", "AsExpected", PATIENCE)?;
            ensure!(
                seen.condition("Ready") == Some(("True", "AsExpected")),
                "{:#}",
                seen.object
            );
            ensure!(
                seen.condition("Reachable")
                    .is_some_and(|(status, _)| status == "True"),
                "{:#}",
                seen.object
            );
            self.note(&format!(
                "Host {host} was Ready {} ms after kubectl made it",
                after.as_millis()
            ));
        }
        for guest in self.lab.guests() {
            let home = guest.home()?;
            let phase = if guest.name() == "hand" {
                "Stopped"
            } else {
                "Running"
            };
            let seen = self
                .followed
                .wait("Guest", guest.name(), None, PROMPT, phase, |seen| {
                    seen.status("phase") == phase && seen.status("host") == home.name()
                })?;
            let status = &seen.object["status"];
            ensure!(status["uuid"] == guest.uuid(), "{status:#}");
            ensure!(
                status["disks"][0]["file"] == guest.disk_path(&home, "vda")?.as_str(),
                "{status:#}"
            );
            ensure!(
                status["disks"][0]["pool"]
                    == if guest.name() == "b" {
                        "fast"
                    } else {
                        "default"
                    },
                "{status:#}"
            );
            for kind in ["Bound", "Unique"] {
                ensure!(
                    seen.condition(kind)
                        .is_some_and(|(status, _)| status == "True"),
                    "{kind}: {status:#}"
                );
            }
            ensure!(seen.condition("Ready").is_some(), "{status:#}");
        }
        let table = cluster.kubectl(["get", "evh,evg,evm,evd"])?;
        for word in [
            "host.evenkeel.dev/h1",
            "guest.evenkeel.dev/hand",
            "Stopped",
            "MEMORY",
            "PHASE",
        ] {
            ensure!(table.contains(word), "no {word} in\n{table}");
        }
        ensure!(!table.contains("<unknown>"), "{table}");
        let own = controller::evenkeel(cluster, &["get", "guests"])?.expect(0)?;
        ensure!(
            own.out.contains("hand") && own.out.contains("Running"),
            "{own:?}"
        );
        Ok(())
    }

    fn wrong_manifests_are_refused_with_a_sentence(&self) -> Result<()> {
        let host = |name: &str, spec: &str| {
            format!(
                "apiVersion: evenkeel.dev/v1alpha1\nkind: Host\nmetadata: {{{name}}}\nspec: {{{spec}}}\n"
            )
        };
        let good = "uri: 'qemu+tls://h9.example.net/system'";
        let wrong = [
            (
                host("name: w1", &format!("{good}, colour: red")),
                "unknown field \"spec.colour\"",
            ),
            (
                host("name: w2", &format!("{good}, reserved: {{memory: 2GB}}")),
                "spec.reserved.memory",
            ),
            (
                host(
                    "name: w3",
                    &format!("{good}, migration: {{bandwidth: 500m}}"),
                ),
                "spec.migration.bandwidth",
            ),
            (
                host("name: w4", "uri: 'qemu+ssh://h/system?command=x'"),
                "spec.uri",
            ),
            (host("", good), "name"),
            (migration("w6", "", "h1"), "spec.guest"),
        ];
        for (manifest, word) in wrong {
            let answer = self.installed.cluster.kubectl_with_input(
                "admin",
                ["create", "--filename=-"],
                &manifest,
            )?;
            ensure!(
                !answer.succeeded() && answer.stderr.contains(word),
                "{manifest}{answer:?}"
            );
            self.note(&format!(
                "refused: {}",
                answer.stderr.lines().last().unwrap_or_default()
            ));
        }
        Ok(())
    }

    fn a_viewer_orders_nothing(&self) -> Result<()> {
        let cluster = &self.installed.cluster;
        let refused = cluster.kubectl_with_input(
            "viewer",
            ["create", "--filename=-"],
            &migration("v", "a", "h2"),
        )?;
        ensure!(refused.forbidden(), "{refused:?}");
        cluster
            .kubectl_as("viewer", ["get", "evh,evg,evm,evd"])?
            .success()?;
        Ok(())
    }

    fn what_cannot_be_done_says_why_and_goes_on_when_it_can(&self) -> Result<()> {
        let cluster = &self.installed.cluster;
        // The causes.
        let (h1, h2, h3) = (
            self.lab.host("h1")?,
            self.lab.host("h2")?,
            self.lab.host("h3")?,
        );
        let reserve = |memory: &str| {
            let patch = format!(r#"{{"spec":{{"reserved":{{"memory":{memory}}}}}}}"#);
            cluster.kubectl([
                "patch",
                "host.evenkeel.dev",
                "h2",
                "--type=merge",
                "--patch",
                &patch,
            ])
        };
        reserve(r#""4Ti""#)?;
        let clash = self
            .lab
            .guest("d")?
            .disk_path(&self.lab.host("h2")?, "vda")?;
        let foreign = h1.outside(&clash)?;
        let precious: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(&foreign, &precious)?;
        let stopped = Instant::now();
        h3.stop_libvirtd()?;
        let seen =
            self.followed
                .wait("Host", "h3", Some(stopped), PATIENCE, "not Ready", |seen| {
                    seen.condition("Ready")
                        .is_some_and(|(status, _)| status != "True")
                })?;
        self.note(&format!(
            "h3 was not Ready {} ms after its libvirtd was told to stop",
            (seen.when - stopped).as_millis()
        ));

        // The orders.
        self.order("to-itself", "a", "h1")?;
        self.says("to-itself", "MigrateToSelf")?;
        let failed = self.followed.versions("GuestMigration", "to-itself");
        ensure!(
            failed
                .last()
                .is_some_and(|seen| seen.status("phase") == "Failed"),
            "{failed:?}"
        );
        self.order("to-nowhere", "a", "nowhere")?;
        self.says("to-nowhere", "HostNotFound")?;
        self.order("of-nobody", "nobody", "h2")?;
        self.says("of-nobody", "GuestNotFound")?;
        self.order("unreachable", "a", "h3")?;
        self.says("unreachable", "HostUnreachable")?;
        self.order("no-memory", "c", "h2")?;
        self.says("no-memory", "InsufficientMemory")?;
        self.order("clash", "d", "h1")?;
        self.says("clash", "PathClash")?;
        for (guest, host) in [("a", "h1"), ("c", "h1"), ("d", "h2")] {
            self.is_on(guest, host)?;
        }
        let refused = cluster.kubectl_as(
            "admin",
            [
                "patch",
                "evm",
                "no-memory",
                "--type=merge",
                "--patch",
                r#"{"spec":{"target":"h3"}}"#,
            ],
        )?;
        ensure!(
            !refused.succeeded() && refused.stderr.contains("can't be changed"),
            "{refused:?}"
        );

        // The causes go, and the moves go on by themselves.
        ensure!(
            fs::read(&foreign)? == precious,
            "the foreign file was touched"
        );
        h3.start_libvirtd()?;
        reserve("null")?;
        h1.exec(&["rm", &clash])?;
        let gone = Instant::now();
        for (name, guest, host) in [
            ("unreachable", "a", "h3"),
            ("no-memory", "c", "h2"),
            ("clash", "d", "h1"),
        ] {
            let seen = self.succeeds(name)?;
            self.is_on(guest, host)?;
            self.note(&format!(
                "{name} succeeded {:.1} s after its cause was gone",
                (seen.when.saturating_duration_since(gone)).as_secs_f64()
            ));
        }

        // No room in a pool.
        h2.fill_pool("fast", 30 << 20)?;
        self.order("no-room", "b", "h2")?;
        self.says("no-room", "InsufficientDisk")?;
        h2.drain_pool("fast")?;
        let gone = Instant::now();
        let seen = self.succeeds("no-room")?;
        self.note(&format!(
            "no-room succeeded {:.1} s after its cause was gone",
            (seen.when.saturating_duration_since(gone)).as_secs_f64()
        ));
        self.is_on("b", "h2")?;
        cluster.kubectl([
            "delete",
            "evm",
            "to-itself",
            "to-nowhere",
            "of-nobody",
            "--timeout=10s",
        ])?;
        self.running_is_well()?;
        self.nothing_is_left()
    }

    fn two_hosts_for_one_hypervisor(&self) -> Result<()> {
        let cluster = &self.installed.cluster;
        let twin = self
            .lab
            .host("h1")?
            .manifest()?
            .replace("name: h1", "name: twin")
            .replace(&format!("secretName: {SECRET}"), "secretName: twin");
        let keys = self.lab.credentials().join(SECRET);
        self.installed
            .secret("twin", NAMESPACE, &keys, Some("twin"))?;
        cluster.apply(&twin)?;
        let (after, _) =
            self.followed
                .reason("Host", "twin", "Ready", "DuplicateHypervisor", PATIENCE)?;
        let told = self
            .followed
            .event("Host", "twin", "DuplicateHypervisor", PATIENCE)?;
        self.note(&format!(
            "DuplicateHypervisor    shown after {} ms, Event after {} ms",
            after.as_millis(),
            told.as_millis()
        ));
        ensure!(after <= PROMPT && told <= PROMPT, "{after:?} {told:?}");
        self.order("to-twin", "b", "twin")?;
        self.says("to-twin", "DuplicateHypervisor")?;
        let first = self
            .followed
            .objects("Host")
            .remove("h1")
            .context("h1 is gone")?;
        ensure!(
            first.condition("Ready") == Some(("True", "AsExpected")),
            "{:#}",
            first.object
        );
        cluster.kubectl(["delete", "evm/to-twin", "evh/twin", "--timeout=10s"])?;
        Ok(())
    }

    fn a_drain_and_its_end(&self) -> Result<()> {
        let cluster = &self.installed.cluster;
        self.is_on("b", "h2")?;
        self.is_on("c", "h2")?;
        let begun = Instant::now();
        cluster.apply("apiVersion: evenkeel.dev/v1alpha1\nkind: HostDrain\nmetadata: {name: patch-h2}\nspec: {hosts: {names: [h2]}}\n")?;
        self.order("into-drained", "d", "h2")?;
        self.says("into-drained", "TargetDraining")?;
        cluster.kubectl([
            "wait",
            "--for=condition=Drained",
            "hostdrain/patch-h2",
            "--timeout=90s",
        ])?;
        self.note(&format!(
            "h2 was drained of two guests {:.1} s after kubectl apply began",
            begun.elapsed().as_secs_f64()
        ));
        for guest in ["b", "c"] {
            ensure!(
                self.lab.guest(guest)?.host()?.name() != "h2",
                "{guest} is still on h2"
            );
        }
        self.running_is_well()?;
        self.nothing_is_left()?;
        let mut of_drain = 0;
        for (name, seen) in self.followed.objects("GuestMigration") {
            if seen.object["status"]["requestedBy"]["kind"] != "HostDrain" {
                continue;
            }
            of_drain += 1;
            self.succeeds(&name)?;
            self.is_proven(&name)?;
        }
        ensure!(of_drain == 2, "{of_drain} moves for two guests");
        let drain = self
            .followed
            .objects("HostDrain")
            .remove("patch-h2")
            .context("the drain is gone")?;
        ensure!(
            drain.object["status"]["progress"] == 100,
            "{:#}",
            drain.object
        );

        // The end of the drain lets the guest in that was refused.
        cluster.kubectl(["delete", "hostdrain", "patch-h2", "--timeout=10s"])?;
        self.succeeds("into-drained")?;
        self.is_proven("into-drained")?;
        self.is_on("d", "h2")
    }

    /// What a finished move shows is what proves it.
    fn is_proven(&self, name: &str) -> Result<()> {
        let moves = self.followed.objects("GuestMigration");
        let status = &moves.get(name).context("no such move")?.object["status"];
        let evidence = &status["evidence"];
        ensure!(
            evidence["running"] == serde_json::json!([status["target"]]),
            "{status:#}"
        );
        ensure!(
            evidence["rebooted"] == false && evidence["sourceDefined"] == false,
            "{status:#}"
        );
        ensure!(evidence["sourceFiles"] == "Removed", "{status:#}");
        ensure!(status["downtime"].is_string(), "{status:#}");
        ensure!(
            condition(&moves[name].object, "Ready").is_some_and(|(status, _)| status == "True"),
            "{status:#}"
        );
        let order = [
            "Pending",
            "Preparing",
            "Copying",
            "Switching",
            "Verifying",
            "Cleaning",
            "Succeeded",
        ];
        let phases = status["phases"].as_array().context("no phases")?;
        let places: Option<Vec<usize>> = phases
            .iter()
            .map(|one| order.iter().position(|phase| one["phase"] == *phase))
            .collect();
        let places = places.with_context(|| format!("{status:#}"))?;
        // Waiting may begin anew before the copy does; from there on each comes once and in order.
        let copying: Vec<usize> = places.iter().rev().copied().take(5).collect();
        ensure!(copying == [6, 5, 4, 3, 2], "{status:#}");
        ensure!(
            phases
                .windows(2)
                .all(|two| two[0]["startTime"].as_str() <= two[1]["startTime"].as_str()),
            "{status:#}"
        );
        Ok(())
    }

    fn what_others_do_shows_at_once(&self) -> Result<()> {
        let (h1, h3) = (self.lab.host("h1")?, self.lab.host("h3")?);
        h3.virsh(&["start", "hand"])?;
        let done = Instant::now();
        let seen = self
            .followed
            .wait("Guest", "hand", None, PATIENCE, "Running", |seen| {
                seen.status("phase") == "Running"
            })?;
        self.shows_in_time("started by virsh", done, &seen)?;
        self.lab
            .guest("hand")?
            .wait_for_progress(Duration::from_secs(40))?;
        let path = self.lab.guest("hand")?.disk_path(&h3, "vda")?;
        let uri = h1.uri();
        let words = [
            "migrate",
            "--live",
            "--p2p",
            "--persistent",
            "--undefinesource",
            "--copy-storage-all",
            "hand",
            &uri,
        ];
        h3.virsh_within(PATIENCE, &words)?;
        let done = Instant::now();
        let seen = self
            .followed
            .wait("Guest", "hand", None, PATIENCE, "on h1", |seen| {
                seen.status("phase") == "Running" && seen.status("host") == "h1"
            })?;
        self.shows_in_time("migrated by virsh", done, &seen)?;
        h3.exec(&["rm", &path])?;
        Ok(())
    }

    fn stopped_by_hand(&self) -> Result<()> {
        let host = self.lab.guest("hand")?.host()?;
        host.virsh(&["destroy", "hand"])?;
        let done = Instant::now();
        let seen = self
            .followed
            .wait("Guest", "hand", None, PATIENCE, "Stopped", |seen| {
                seen.status("phase") == "Stopped"
            })?;
        self.shows_in_time("stopped by virsh", done, &seen)
    }

    fn shows_in_time(&self, what: &str, done: Instant, seen: &Seen) -> Result<()> {
        let after = seen.when.saturating_duration_since(done);
        self.note(&format!(
            "a guest {what} showed after {} ms",
            after.as_millis()
        ));
        ensure!(after <= AT_ONCE, "{what} showed after {after:?}");
        Ok(())
    }

    fn killed_while_copying(&self, controller: Controller) -> Result<Controller> {
        let source = self.lab.guest("c")?.host()?.name().to_owned();
        // A link on which the copy takes several seconds.
        for host in self.lab.hosts() {
            host.rate(Some(20_000_000))?;
        }
        self.order("long", "c", "h2")?;
        self.followed.wait(
            "GuestMigration",
            "long",
            None,
            PATIENCE,
            "Copying",
            |seen| {
                seen.status("phase") == "Copying"
                    && seen.object["status"]["progress"].as_i64() > Some(3)
            },
        )?;

        // Whoever applies files to the same hosts now is told who is at work there.
        let fleet = Fleet::of(&self.lab)?;
        fleet.write("move.yaml", &migration("beside", "d", &source))?;
        let answer = fleet.run(&["apply", "--yes"])?.expect(4)?;
        let holder = format!(":{}", controller.pid());
        let said = answer.out + &answer.err;
        ensure!(
            said.contains("controller@") && said.contains(&holder),
            "the holder is not named: {said}"
        );

        let last = self.followed.versions("GuestMigration", "long");
        ensure!(
            last.last()
                .is_some_and(|seen| seen.status("phase") == "Copying"),
            "the copy was too fast for this test"
        );
        controller.kill()?;
        let killed = Instant::now();
        self.note("killed -9 in mid-copy");
        let mut controller = self.installed.controller()?;
        let led = controller.wait_until_leading()?;
        self.succeeds("long")?;
        self.note(&format!(
            "the next controller led after {:.1} s and the move was finished {:.1} s after the kill",
            led.as_secs_f64(),
            killed.elapsed().as_secs_f64()
        ));
        for host in self.lab.hosts() {
            host.rate(None)?;
        }
        self.is_on("c", "h2")?;
        self.is_on("d", "h2")?;
        let moves = self.followed.objects("GuestMigration");
        ensure!(
            moves["long"].object["status"]["evidence"]["running"] == serde_json::json!(["h2"]),
            "{:#}",
            moves["long"].object
        );
        witness::all_is_well(&self.lab)?;
        self.nothing_is_left()?;
        Ok(controller)
    }

    /// The machine h2 is the Kubernetes node `worker-2`. Nothing runs that node: it is an object, and a cordon a field of it.
    fn a_cordon_drains_and_an_uncordon_stops_it(&self) -> Result<()> {
        const DRAIN: &str = "node-worker-2";
        let cluster = &self.installed.cluster;
        let h2 = |spec: &str| {
            let patch = format!(r#"{{"spec":{spec}}}"#);
            let words = ["host.evenkeel.dev", "h2", "--type=merge", "--patch"];
            cluster.kubectl(["patch"].into_iter().chain(words).chain([patch.as_str()]))
        };
        let followed = |status: &str, reason: &str| {
            let what = format!("NodeFollowed {status} {reason}");
            let (limit, told) = (PATIENCE, (status, reason));
            self.followed
                .wait("Host", "h2", None, limit, &what, |seen| {
                    seen.condition("NodeFollowed") == Some(told)
                })
        };
        // One after the other, so that one waits when the node is uncordoned.
        h2(r#"{"node":{"name":"worker-2","drainOn":["Cordon"]},"migration":{"maxOutbound":1}}"#)?;
        followed("False", "NodeNotFound")?;
        cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: worker-2}\n")?;
        followed("True", "AsExpected")?;
        for guest in ["c", "d"] {
            self.is_on(guest, "h2")?;
        }
        for host in self.lab.hosts() {
            host.rate(Some(20_000_000))?;
        }

        let cordoned = Instant::now();
        cluster.kubectl(["cordon", "worker-2"])?;
        let of_drain = || {
            let moves = self.followed.objects("GuestMigration").into_values();
            moves.filter(|seen| seen.object["status"]["requestedBy"]["name"] == DRAIN)
        };
        let copying = loop {
            let now = of_drain().find(|seen| seen.status("phase") == "Copying");
            if let Some(seen) = now {
                break seen;
            }
            ensure!(cordoned.elapsed() < PATIENCE, "nothing is copied");
            thread::sleep(Duration::from_millis(20));
        };
        self.note(&format!(
            "a guest was copied {} ms after kubectl cordon began",
            (copying.when - cordoned).as_millis()
        ));
        followed("True", "NodeCordoned")?;
        let seen = self.followed.objects("HostDrain").remove(DRAIN);
        let drain = seen.context("no HostDrain of the node")?.object;
        ensure!(
            drain["spec"]["hosts"]["names"] == serde_json::json!(["h2"]),
            "{drain:#}"
        );
        ensure!(
            drain["metadata"]["labels"]["evenkeel.dev/node"] == "worker-2",
            "{drain:#}"
        );
        ensure!(
            drain["metadata"]["ownerReferences"][0]["name"] == "h2",
            "{drain:#}"
        );

        cluster.kubectl(["uncordon", "worker-2"])?;
        let uncordoned = Instant::now();
        let gone = self
            .followed
            .wait("HostDrain", DRAIN, None, PATIENCE, "gone", |seen| {
                seen.deleted
            })?;
        let took = gone.when.saturating_duration_since(uncordoned);
        self.note(&format!(
            "its HostDrain was gone {} ms after kubectl uncordon had ended",
            took.as_millis()
        ));
        ensure!(took <= AT_ONCE, "gone after {took:?}");
        // The copy under way is finished; nothing else begins.
        let name = copying.object["metadata"]["name"].as_str();
        let name = name.context("no name")?.to_owned();
        let first = copying.object["spec"]["guest"].as_str();
        let first = first.context("no guest")?.to_owned();
        self.succeeds(&name)?;
        thread::sleep(Duration::from_secs(5));
        let stays = if first == "c" { "d" } else { "c" };
        self.is_on(stays, "h2")?;
        ensure!(
            self.lab.guest(&first)?.host()?.name() != "h2",
            "{first} is still on h2"
        );
        let others = of_drain().filter(|seen| seen.object["spec"]["guest"] == stays);
        for other in others {
            ensure!(
                ["Pending", "Aborted"].contains(&other.status("phase")),
                "{:#}",
                other.object
            );
        }
        followed("True", "AsExpected")?;
        for host in self.lab.hosts() {
            host.rate(None)?;
        }

        // To its end.
        cluster.kubectl(["cordon", "worker-2"])?;
        cluster.kubectl([
            "wait",
            "--for=create",
            "hostdrain/node-worker-2",
            "--timeout=10s",
        ])?;
        cluster.kubectl([
            "wait",
            "--for=condition=Drained",
            "hostdrain/node-worker-2",
            "--timeout=90s",
        ])?;
        ensure!(
            self.lab.guest(stays)?.host()?.name() != "h2",
            "{stays} is still on h2"
        );
        cluster.kubectl(["uncordon", "worker-2"])?;
        cluster.kubectl([
            "wait",
            "--for=delete",
            "hostdrain/node-worker-2",
            "--timeout=10s",
        ])?;
        h2(r#"{"node":null,"migration":{"maxOutbound":null}}"#)?;
        cluster.kubectl(["delete", "node", "worker-2", "--timeout=10s"])?;
        self.running_is_well()?;
        self.nothing_is_left()
    }

    fn asked_to_end(&self, controller: Controller) -> Result<()> {
        // In the moment in which a move has just ended, claims are still held.
        let here = self.lab.guest("d")?.host()?.name().to_owned();
        let target = if here == "h1" { "h3" } else { "h1" };
        self.order("last", "d", target)?;
        self.succeeds("last")?;
        let (status, took, log) = controller.terminate(Duration::from_secs(10))?;
        self.note(&format!("ended {} ms after SIGTERM", took.as_millis()));
        ensure!(status.code() == Some(0), "{status}: {log}");
        witness::nothing_is_left(&self.lab)?;
        let lease = [
            "get",
            "lease",
            "evenkeel-controller",
            "--namespace",
            controller::NAMESPACE,
            "--output=jsonpath={.spec.holderIdentity}",
        ];
        let holder = self.installed.cluster.kubectl(lease)?;
        ensure!(holder.is_empty(), "the lease is still held by {holder}");
        let refused = self.installed.refused()?;
        ensure!(
            refused.is_empty(),
            "the chart's role is too narrow: {refused:?}"
        );
        self.note(&format!("used: {:?}", self.installed.used()?));
        Ok(())
    }

    /// As [`witness::all_is_well`], for as long as `hand` is not running.
    fn running_is_well(&self) -> Result<()> {
        for guest in self
            .lab
            .guests()
            .into_iter()
            .filter(|guest| guest.name() != "hand")
        {
            let host = guest.host()?;
            ensure!(
                guest.qemu_hosts()? == [host.name()],
                "{}: {:?}",
                guest.name(),
                guest.qemu_hosts()?
            );
            ensure!(
                guest.continuity()?.is_unbroken(),
                "{}: {:?}",
                guest.name(),
                guest.continuity()?
            );
            ensure!(
                guest.copies()?.len() == 1,
                "{}: {:?}",
                guest.name(),
                guest.copies()?
            );
            ensure!(
                guest.disk_report(&host, "vda")?.is_intact(),
                "{}: {:?}",
                guest.name(),
                guest.disk_report(&host, "vda")?
            );
        }
        Ok(())
    }
}

fn migration(name: &str, guest: &str, target: &str) -> String {
    format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: GuestMigration\nmetadata: {{name: {name}}}\nspec: {{guest: '{guest}', target: {target}}}\n"
    )
}
