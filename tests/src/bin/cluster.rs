//! A Kubernetes control plane by hand: `cluster up`, `cluster kubectl get nodes`, `cluster down`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use evenkeel_tests::cluster::{self, ADMIN, Cluster, Description, Options};

/// A real Kubernetes control plane on this machine, without nodes.
#[derive(Parser)]
#[command(name = "cluster")]
struct Arguments {
    /// Which cluster.
    #[arg(long, default_value = "default")]
    id: String,
    #[command(subcommand)]
    command: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// Start it; it stays until `down`. Says so if it runs already.
    Up {
        /// Write every request to audit.log in its data folder.
        #[arg(long)]
        audit: bool,
    },
    /// End it and remove everything. No error if there is none.
    Down {
        /// All that were started by `up` or lost their owner; not those a running test owns.
        #[arg(long)]
        all: bool,
    },
    /// Start it for as long as a command runs, with KUBECONFIG set; it ends with the command, however that ends.
    Run {
        /// Write every request to audit.log in its data folder.
        #[arg(long)]
        audit: bool,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Print the path of its kubeconfig: export KUBECONFIG=$(cluster kubeconfig)
    Kubeconfig {
        /// As whom.
        #[arg(long, default_value = ADMIN)]
        user: String,
    },
    /// Run its kubectl.
    Kubectl {
        /// What kubectl gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm on it.
    Helm {
        /// What helm gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Do something to its API server.
    ApiServer {
        /// What.
        action: Action,
    },
    /// List the clusters and their processes.
    Status,
}

#[derive(Clone, Copy, ValueEnum)]
enum Action {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and wait.
    Stop,
    /// Start it again and wait until it serves.
    Start,
    /// Kill, then start.
    Restart,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { id, command }: Arguments) -> Result<ExitCode> {
    match command {
        Subject::Up { audit } => up(&id, audit)?,
        Subject::Down { all } => down(&id, all)?,
        Subject::Run { audit, command } => {
            let cluster = Cluster::start(Options {
                id: Some(id),
                audit,
                ..Options::default()
            })?;
            let status = Command::new(&command[0])
                .args(&command[1..])
                .env("KUBECONFIG", cluster.kubeconfig())
                .status()
                .with_context(|| format!("cannot run {}", command[0]))?;
            cluster.down()?;
            return Ok(ExitCode::from(
                status
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(1),
            ));
        }
        Subject::Kubeconfig { user } => {
            println!("{}", Cluster::attach(&id)?.kubeconfig_as(&user)?.display())
        }
        Subject::Kubectl { arguments } => {
            return Err(Cluster::attach(&id)?
                .kubectl_command(ADMIN)?
                .args(arguments)
                .exec()
                .into());
        }
        Subject::Helm { arguments } => {
            return Err(Cluster::attach(&id)?
                .helm_command()
                .args(arguments)
                .exec()
                .into());
        }
        Subject::ApiServer { action } => {
            let cluster = Cluster::attach(&id)?;
            let server = cluster.api_server();
            match action {
                Action::Kill => server.kill()?,
                Action::Stop => server.stop()?,
                Action::Start => {
                    server.start()?;
                    cluster.wait_until_ready(Duration::from_secs(120))?;
                }
                Action::Restart => cluster.restart_api_server()?,
                Action::Pause => server.pause()?,
                Action::Resume => server.resume()?,
            }
        }
        Subject::Status => return status(),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(id: &str, audit: bool) -> Result<()> {
    let started = Instant::now();
    let cluster = match Cluster::attach(id) {
        Ok(running) => {
            for server in running
                .servers()
                .filter(|server| server.process().is_none())
            {
                eprintln!("cluster: {} had ended; starting it again", server.name());
                server.start()?;
            }
            running.wait_until_ready(Duration::from_secs(120))?;
            println!(
                "cluster {id} runs already ({})",
                running.description().server()
            );
            running
        }
        Err(_) => {
            eprintln!("cluster: starting etcd, kube-apiserver, kube-controller-manager ...");
            let options = Options {
                id: Some(id.to_owned()),
                audit,
                ..Options::default()
            };
            let cluster = Cluster::start(options)?.leave_running()?;
            let took = started.elapsed().as_secs_f64();
            println!(
                "cluster {id} serves {} after {took:.1} s",
                cluster.description().server()
            );
            cluster
        }
    };
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("logs: {}", cluster.description().data.display());
    Ok(())
}

fn down(id: &str, all: bool) -> Result<()> {
    let mut failed = Vec::new();
    let mut ended = 0;
    for found in cluster::all()? {
        let chosen = if all {
            found.owner.is_none() || found.is_orphan()
        } else {
            found.id == id
        };
        if chosen {
            match cluster::end(&found) {
                Ok(()) => println!("cluster {} ended", found.id),
                Err(error) => failed.push(format!("{error:#}")),
            }
            ended += 1;
        } else if all {
            println!(
                "cluster {} belongs to a running process; `cluster --id {} down` ends it",
                found.id, found.id
            );
        }
    }
    if ended == 0 {
        println!("nothing to end");
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

/// Exit code 0 if every cluster that is there serves, else 1.
fn status() -> Result<ExitCode> {
    let clusters = cluster::all()?;
    if clusters.is_empty() {
        println!("no clusters");
    }
    let mut well = true;
    for found in &clusters {
        let ready = Cluster::attach(&found.id).is_ok_and(|cluster| cluster.is_ready());
        well &= ready;
        println!(
            "{}: Kubernetes {}, {}, {}, {}",
            found.id,
            found.version,
            found.server(),
            if ready { "ready" } else { "not ready" },
            ownership(found),
        );
        if let Ok(cluster) = Cluster::attach(&found.id) {
            for server in cluster.servers() {
                let process = server
                    .process()
                    .map_or_else(|| "does not run".to_owned(), |it| it.number.to_string());
                println!(
                    "  {:<24} {process:<14} {}",
                    server.name(),
                    server.log().display()
                );
            }
        }
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ownership(found: &Description) -> String {
    match found.owner {
        None => "until `down`".to_owned(),
        Some(_) if found.is_orphan() => "left over; `down --all` removes it".to_owned(),
        Some(owner) => format!("owned by process {}", owner.number),
    }
}
