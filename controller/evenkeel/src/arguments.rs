//! The command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use evenkeel_crds::quantity::{Bytes, Span};

use crate::{exit::Exit, kind::Kind, output, simulate};

/// Keeps a fleet of libvirt hosts on an even keel.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "Keeps a fleet of libvirt hosts on an even keel",
    long_about = "Keeps a fleet of libvirt hosts on an even keel: you declare where guests should run and which hosts must \
                  be empty, it issues the live migrations.\n\nWith -f it reads manifests and talks to the hosts directly; \
                  without, it talks to the cluster that the kubeconfig names.",
    after_help = "Exit codes: 0 done, 1 error, 2 plan has something to do, 3 something is impossible, 4 claimed by \
                  another holder, 5 interrupted, 6 deadline passed.",
    max_term_width = 100
)]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Manifests: a file, a directory (*.yaml, *.yml, *.json, recursively) or - ; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR", global = true)]
    pub files: Vec<PathBuf>,
    /// Credentials for the hosts, without a cluster: DIR/<secretName>/<key>
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        env = "EVENKEEL_CREDENTIALS",
        hide_env_values = true
    )]
    pub credentials: Option<PathBuf>,
    /// How results are written
    #[arg(short, long, value_name = "FORMAT", global = true)]
    pub output: Option<Format>,
    /// The kubeconfig; else $KUBECONFIG, ~/.kube/config
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Say more; twice: still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what would be done, in which order, and what can't be done and why
    Plan(Plan),
    /// Write the fleet, what is asked of it and what is in flight as one file, for plan and simulate
    Snapshot,
    /// Do it on a simulated fleet, on virtual time, and show how it goes
    Simulate(Simulate),
    /// Do it, with progress, until it is so
    Apply(Apply),
    /// List objects with what is known of them
    Get {
        /// What
        kind: Kind,
        /// Which one; all if left out
        name: Option<String>,
    },
    /// Everything known of one object, the reasons first
    Describe {
        /// What
        kind: Kind,
        /// Which one
        name: String,
    },
    /// Move one guest and watch it to its end
    Migrate {
        /// The guest: its name or UUID
        guest: String,
        /// Where to; if left out, the planner chooses
        host: Option<String>,
        /// How it is done
        #[command(flatten)]
        limits: Limits,
    },
    /// Empty hosts: write the HostDrain drain-<host> and see it through
    Drain {
        /// The hosts
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
        /// Only write it; don't see it through
        #[arg(long)]
        no_wait: bool,
        /// How it is done
        #[command(flatten)]
        limits: Limits,
    },
    /// Let hosts take guests again: remove the HostDrain drain-<host>
    Undrain {
        /// The hosts
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Start nothing new in the whole fleet: write suspend into the Fleet
    Pause {
        /// Abort copies under way too; what they were for is taken up again by resume
        #[arg(long)]
        abort: bool,
    },
    /// Go on after a pause
    Resume,
    /// Run as the controller in a Kubernetes cluster
    Controller(Controller),
    /// Print the CRDs as YAML
    Crds {
        /// Write one file for each into this directory instead
        #[arg(long, value_name = "DIR")]
        output_dir: Option<PathBuf>,
    },
    /// Print the completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// How long something may take, and for whom it waits.
#[derive(Debug, Clone, Default, Args)]
pub struct Limits {
    /// Wait for other holders of the hosts to end
    #[arg(long)]
    pub wait: bool,
    /// Past it nothing new starts; what runs is finished (90s, 30m, 2h)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
    /// Don't ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Options of `plan`.
#[derive(Debug, Clone, Default, Args)]
pub struct Plan {
    /// Draw it too: hosts before and after, and the schedule, as SVG into this file; - is standard output, with nothing else
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
}

/// Options of `simulate`.
#[derive(Debug, Clone, Args)]
pub struct Simulate {
    /// Decides what is left to chance; the same seed tells the same story
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// So many things break while it runs: libvirtds, links, our own way to a host
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub faults: usize,
    /// Bytes a second of links whose Host names no bandwidth
    #[arg(long, value_name = "RATE", default_value = simulate::BANDWIDTH, value_parser = simulate::rate)]
    pub bandwidth: Bytes,
    /// Bytes a second that guests dirty that were not measured
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = simulate::rate)]
    pub dirty_rate: Bytes,
    /// Draw how it went too, as SVG into this file; - is standard output, with nothing else
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
}

/// Options of `apply`.
#[derive(Debug, Clone, Default, Args)]
pub struct Apply {
    /// Stay, and keep it so; changed manifests are read again
    #[arg(long)]
    pub watch: bool,
    /// How it is done
    #[command(flatten)]
    pub limits: Limits,
}

/// Options of `controller`.
#[derive(Debug, Clone, Args)]
pub struct Controller {
    /// Where /healthz and /readyz are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080")]
    pub health_address: std::net::SocketAddr,
    /// Namespace of the lease; else the pod's or the kubeconfig's
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the lease
    #[arg(long, value_name = "NAME", default_value = "evenkeel-controller")]
    pub lease_name: String,
    /// The fleet's name, in claims on hosts
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub fleet: String,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Reads the command line.
///
/// # Errors
/// With how to end, after help, the version or an error has been printed.
pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, Exit> {
    let words: Vec<OsString> = words.into_iter().collect();
    let mut command = Arguments::command();
    let plugin = words
        .first()
        .and_then(|word| Path::new(word).file_name())
        .is_some_and(|name| name == PLUGIN);
    if plugin {
        command = command
            .name("kubectl evenkeel")
            .bin_name("kubectl evenkeel");
    }
    let read = command
        .try_get_matches_from(words)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    read.map_err(|error| {
        // Where help can't be printed, nobody reads it.
        let _ = error.print();
        if error.use_stderr() {
            Exit::Error
        } else {
            Exit::Done
        }
    })
}

/// Under this name the program is a kubectl plugin.
const PLUGIN: &str = "kubectl-evenkeel";

/// Prints a shell's completion script.
///
/// # Errors
/// Where standard output can't be written.
pub fn complete(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "evenkeel", &mut script);
    output::print(String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

fn time(text: &str) -> Result<Duration, String> {
    text.parse::<Span>()
        .map(|span| span.0)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn short_names_of_kinds_work() {
        for word in ["hosts", "host", "evh"] {
            let arguments =
                Arguments::try_parse_from(["evenkeel", "get", word, "-f", "x"]).unwrap();
            assert!(matches!(
                arguments.command,
                Command::Get {
                    kind: Kind::Host,
                    ..
                }
            ));
        }
    }

    #[test]
    fn times_are_the_manifests_own() {
        assert_eq!(time("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(time("90").unwrap_err().contains("is not a duration"));
    }
}
