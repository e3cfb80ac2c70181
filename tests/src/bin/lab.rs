//! The lab by hand: real libvirt hosts on this machine, up and down, looked at and disturbed.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use evenkeel_tests::lab::{GuestSpec, HostSpec, Lab, Load, bytes, teardown};

/// Several real libvirt hosts on one machine, with real guests.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    /// Which lab; absent: $EVENKEEL_LAB, or the only one
    #[arg(long, global = true)]
    lab: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a lab; it stays until `down`
    Up(Up),
    /// Take the lab down, whatever is left of it; all of them with --all
    Down {
        /// Every lab on this machine, half-built and crashed ones too
        #[arg(long)]
        all: bool,
    },
    /// The labs on this machine
    List,
    /// Where every guest is, on every host
    Where,
    /// The hosts: address, power, libvirtd, guests, files
    Status,
    /// Run a command on a host, in all its namespaces
    Exec {
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run virsh against a host, from here
    Virsh {
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Follow what a guest says on its serial port, on whichever host it is
    Console { guest: String },
    /// Set a host's link: a rate in bytes per second such as 20M, or `unlimited`, `cut`, `heal`
    Link { host: String, rate: String },
    /// Cut a host's power, or switch it on again
    Power {
        host: String,
        #[arg(value_parser = ["on", "off"])]
        to: String,
    },
    /// Start, stop, kill, freeze or thaw a host's libvirtd
    Libvirtd {
        host: String,
        #[arg(value_parser = ["start", "stop", "kill", "freeze", "thaw"])]
        to: String,
    },
    /// Make guests, look at one or check one
    #[command(subcommand)]
    Guest(GuestCommand),
    /// One line a guest: where it runs, its boot, its counter, its disks
    Proof,
    /// All files in the pools of all hosts
    Files,
    /// Shell lines that export the lab's id, its credentials and the hosts' URIs
    Env,
    /// Write one Host manifest per host into a directory, and the credentials into `credentials` below it
    Manifests { directory: String },
}

#[derive(Args)]
struct Up {
    /// How many hosts: h1, h2, ...
    #[arg(long, default_value_t = 2)]
    hosts: usize,
    /// How many guests, dealt out over the hosts: g1, g2, ...
    #[arg(long, default_value_t = 0)]
    guests: usize,
    /// All guests on the first host
    #[arg(long)]
    packed: bool,
    /// The lab's id: 1 to 6 small letters and digits
    #[arg(long)]
    id: Option<String>,
    /// Plain TCP instead of TLS
    #[arg(long)]
    plain: bool,
    /// The rate of every link in bytes per second, such as 20M
    #[arg(long)]
    rate: Option<String>,
    /// One more pool on every host: NAME, NAME=ext4:SIZE or NAME=tmpfs:SIZE; `default` may be named too
    #[arg(long)]
    pool: Vec<String>,
    #[command(flatten)]
    guest: GuestOptions,
}

#[derive(Args, Clone)]
struct GuestOptions {
    /// Memory of a guest
    #[arg(long, default_value = "96Mi")]
    memory: String,
    /// A disk: SIZE:DATA, then if wanted :raw, and :pool=NAME or :base=FILE; may repeat
    #[arg(long, default_value = "128Mi:24Mi")]
    disk: Vec<String>,
    /// MiB of memory the guest keeps rewriting
    #[arg(long, default_value_t = 0)]
    dirty: u64,
    /// Seconds of rest after each rewriting
    #[arg(long, default_value_t = 0.0)]
    dirty_pause: f64,
    /// Let the guest burn its processor
    #[arg(long)]
    cpu: bool,
    /// Define it only
    #[arg(long)]
    stopped: bool,
}

#[derive(Subcommand)]
enum GuestCommand {
    /// Make guests and wait until they count
    Add {
        #[arg(required = true)]
        names: Vec<String>,
        /// The host to make them on
        #[arg(long)]
        on: Option<String>,
        #[command(flatten)]
        options: GuestOptions,
    },
    /// What its serial output and its disks prove
    Check { name: String },
    /// The XML it was made from, as libvirt has it now
    Xml { name: String },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let open = || Lab::open(&the_lab(arguments.lab.clone())?);
    match arguments.command {
        Command::Up(up) => bring_up(up),
        Command::Down { all: true } => Lab::list()?.iter().try_for_each(|id| down(id)),
        Command::Down { all: false } => match (arguments.lab.clone(), Lab::list()?.is_empty()) {
            (None, true) => {
                println!("no lab is up");
                Ok(())
            }
            (id, _) => down(&the_lab(id)?),
        },
        Command::List => {
            for id in Lab::list()? {
                let about = Lab::open(&id).map(|lab| {
                    format!("{} hosts, {} guests", lab.hosts().len(), lab.guests().len())
                });
                println!(
                    "{id}  {}",
                    about.unwrap_or_else(|_| "did not come up".to_owned())
                );
            }
            Ok(())
        }
        Command::Where => whereabouts(&open()?),
        Command::Status => status(&open()?),
        Command::Exec { host, command } => {
            let words: Vec<_> = command.iter().map(String::as_str).collect();
            let lab = open()?;
            let mut command = lab.host(&host)?.command(&words)?;
            Err(command.stdin(std::process::Stdio::inherit()).exec()).context("cannot run nsenter")
        }
        Command::Virsh { host, arguments } => {
            let uri = open()?.host(&host)?.virsh_uri();
            let mut command = std::process::Command::new("virsh");
            Err(command.args(["--connect", &uri]).args(arguments).exec())
                .context("cannot run virsh")
        }
        Command::Console { guest } => console(&open()?, &guest),
        Command::Link { host, rate } => {
            let lab = open()?;
            let host = lab.host(&host)?;
            match rate.as_str() {
                "cut" => host.cut(),
                "heal" => host.heal(),
                "unlimited" => host.rate(None),
                rate => host.rate(Some(bytes(rate)?)),
            }
        }
        Command::Power { host, to } => {
            let lab = open()?;
            let host = lab.host(&host)?;
            if to == "on" {
                host.power_on()
            } else {
                host.power_off()
            }
        }
        Command::Libvirtd { host, to } => {
            let lab = open()?;
            let host = lab.host(&host)?;
            match to.as_str() {
                "start" => host.start_libvirtd(),
                "stop" => host.stop_libvirtd(),
                "kill" => host.kill_libvirtd(),
                "freeze" => host.freeze_libvirtd(),
                _ => host.thaw_libvirtd(),
            }
        }
        Command::Guest(command) => guest(&open()?, command),
        Command::Proof => proof(&open()?),
        Command::Files => {
            for host in open()?.hosts() {
                for file in host.list_files()? {
                    println!(
                        "{}  {}  {}  length {}  allocated {}",
                        host.name(),
                        file.pool,
                        file.path,
                        file.length,
                        file.allocated
                    );
                }
            }
            Ok(())
        }
        Command::Env => {
            let lab = open()?;
            println!("export EVENKEEL_LAB={}", lab.id());
            if lab.is_encrypted() {
                println!(
                    "export EVENKEEL_CREDENTIALS={}",
                    lab.credentials().display()
                );
            }
            for host in lab.hosts() {
                println!(
                    "export EVENKEEL_HOST_{}={}",
                    host.record().index + 1,
                    host.uri()
                );
            }
            Ok(())
        }
        Command::Manifests { directory } => {
            for file in open()?.write_manifests(directory)? {
                println!("{}", file.display());
            }
            Ok(())
        }
    }
}

fn the_lab(named: Option<String>) -> Result<String> {
    let named = named.or_else(|| std::env::var("EVENKEEL_LAB").ok());
    match (named, Lab::list()?.as_slice()) {
        (Some(id), _) => Ok(id),
        (None, [one]) => Ok(one.clone()),
        (None, []) => bail!("no lab is up: run `lab up`"),
        (None, several) => bail!("say which lab with --lab: {}", several.join(", ")),
    }
}

fn down(id: &str) -> Result<()> {
    let start = Instant::now();
    teardown::take_down(id)?;
    println!("lab {id} is gone ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

fn bring_up(up: Up) -> Result<()> {
    let start = Instant::now();
    let pools = up
        .pool
        .iter()
        .map(|text| text.parse())
        .collect::<Result<Vec<_>>>()?;
    let rate = up.rate.as_deref().map(bytes).transpose()?;
    let mut builder = Lab::builder().hosts(up.hosts).each_host(|host| {
        let host: HostSpec = pools.iter().cloned().fold(host, HostSpec::pool);
        HostSpec { rate, ..host }
    });
    if up.plain {
        builder = builder.plain();
    }
    if let Some(id) = up.id {
        builder = builder.id(id);
    }
    for number in 1..=up.guests {
        let spec = up.guest.spec(&format!("g{number}"))?;
        builder = builder.guest(if up.packed { spec.on("h1") } else { spec });
    }
    let lab = builder.up()?;
    println!(
        "lab {} is up ({:.1} s)",
        lab.id(),
        start.elapsed().as_secs_f64()
    );
    for host in lab.hosts() {
        println!("  {}  {}", host.name(), host.uri());
    }
    lab.release()
}

impl GuestOptions {
    fn spec(&self, name: &str) -> Result<GuestSpec> {
        let load = Load {
            dirty_mib: self.dirty,
            dirty_pause: self.dirty_pause,
            cpu: self.cpu,
            ..Load::default()
        };
        let disks = self
            .disk
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<_>>>()?;
        let memory = bytes(&self.memory)? >> 20;
        let spec = GuestSpec::new(name)
            .memory_mib(memory)
            .disks(disks)
            .load(load);
        Ok(if self.stopped { spec.stopped() } else { spec })
    }
}

fn guest(lab: &Lab, command: GuestCommand) -> Result<()> {
    match command {
        GuestCommand::Add { names, on, options } => {
            let mut specs = Vec::new();
            for name in names {
                let spec = options.spec(&name)?;
                specs.push(match &on {
                    Some(host) => spec.on(host),
                    None => spec,
                });
            }
            lab.add_guests(specs)?;
            Ok(())
        }
        GuestCommand::Check { name } => {
            let guest = lab.guest(&name)?;
            let continuity = guest.continuity()?;
            println!(
                "serial: {} {continuity:?}",
                if continuity.is_unbroken() {
                    "unbroken"
                } else {
                    "BROKEN"
                }
            );
            let host = guest.host()?;
            let mut fine = continuity.is_unbroken();
            for (_, letter) in guest.spec().disks.iter().zip('a'..='z') {
                let report = guest.disk_report(&host, &format!("vd{letter}"))?;
                println!(
                    "vd{letter}: {} {report:?}",
                    if report.is_intact() {
                        "intact"
                    } else {
                        "DAMAGED"
                    }
                );
                fine &= report.is_intact();
            }
            ensure!(fine, "guest {name} is not as it should be");
            Ok(())
        }
        GuestCommand::Xml { name } => {
            let guest = lab.guest(&name)?;
            print!(
                "{}",
                guest
                    .host()?
                    .virsh(&["dumpxml", "--domain", guest.uuid()])?
            );
            Ok(())
        }
    }
}

/// What each guest itself proves, asked of its console and its disks.
fn proof(lab: &Lab) -> Result<()> {
    for guest in lab.guests() {
        let host = guest.host()?;
        let continuity = guest.continuity()?;
        let mut whole = true;
        for target in guest.spec().targets() {
            whole &= guest
                .disk_report(&host, &target)?
                .first_difference
                .is_none();
        }
        println!(
            "{:<8} runs on {:<4} boot {}  counted to {:>4} {}  disks {}  heard on {}",
            guest.name(),
            host.name(),
            continuity
                .boots
                .last()
                .map_or("?", |boot| &boot[..8.min(boot.len())]),
            continuity.last,
            if continuity.is_unbroken() {
                "without a gap"
            } else {
                "WITH A GAP"
            },
            if whole { "whole" } else { "DAMAGED" },
            continuity.path.join(" > "),
        );
    }
    Ok(())
}

fn whereabouts(lab: &Lab) -> Result<()> {
    for guest in lab.guests() {
        let copies = guest.copies()?;
        if copies.is_empty() {
            println!("{}  nowhere", guest.name());
        }
        for copy in copies {
            let state = copy
                .state
                .or(copy.error)
                .unwrap_or_else(|| "unknown to libvirt".to_owned());
            let persistent = if copy.persistent {
                "persistent"
            } else {
                "transient"
            };
            let qemu = copy.qemu.map_or_else(
                || "no QEMU".to_owned(),
                |process| format!("QEMU {}", process.pid),
            );
            println!(
                "{}  {}  {state}  {persistent}  {qemu}",
                guest.name(),
                copy.host
            );
        }
    }
    Ok(())
}

fn status(lab: &Lab) -> Result<()> {
    println!("lab {}  bridge {}", lab.id(), lab.gateway());
    for host in lab.hosts() {
        if !host.is_on() {
            println!("{}  {}  off", host.name(), host.address());
            continue;
        }
        let libvirtd = host.libvirtd()?.map_or_else(
            || "no libvirtd".to_owned(),
            |one| format!("libvirtd {}", one.pid),
        );
        let guests: Vec<_> = host
            .qemus()?
            .into_iter()
            .map(|(name, process)| format!("{name} ({})", process.pid))
            .collect();
        let files = host.list_files()?;
        let allocated: u64 = files.iter().map(|file| file.allocated).sum();
        let guests = if guests.is_empty() {
            "no guests".to_owned()
        } else {
            guests.join(" ")
        };
        println!(
            "{}  {}  {libvirtd}  {guests}  {} files, {} MiB",
            host.name(),
            host.uri(),
            files.len(),
            allocated >> 20
        );
    }
    Ok(())
}

/// Like `tail -f` over the logs of all hosts.
fn console(lab: &Lab, guest: &str) -> Result<()> {
    let path = lab.guest(guest)?.console_path();
    let mut logs = Vec::new();
    for host in lab.hosts() {
        logs.push((host.outside(&path)?, 0_u64));
    }
    loop {
        for (file, seen) in &mut logs {
            let Ok(mut log) = std::fs::File::open(file) else {
                continue;
            };
            log.seek(SeekFrom::Start(*seen))?;
            let mut text = Vec::new();
            *seen += log.read_to_end(&mut text)? as u64;
            std::io::stdout().write_all(&text)?;
        }
        std::io::stdout().flush()?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(
            lab.hosts().iter().any(|host| host.outside("/").is_ok()),
            "the lab is gone"
        );
    }
}
