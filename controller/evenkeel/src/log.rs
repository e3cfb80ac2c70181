//! Where log lines go: a controller's are its output; a command says nothing unless asked to.

use std::io;

use tracing_subscriber::{EnvFilter, fmt};

use crate::arguments::{Command, Common, LogFormat};

/// Starts the log. `RUST_LOG` has the last word.
pub fn start(common: &Common, command: &Command) {
    let (level, json) = match (command, common.verbose) {
        (Command::Controller(controller), 0) => ("info", controller.log_format == LogFormat::Json),
        (Command::Controller(controller), _) => (
            "info,evenkeel=debug",
            controller.log_format == LogFormat::Json,
        ),
        (_, 0) => ("off", false),
        (_, 1) => ("warn,evenkeel=info", false),
        (_, _) => ("info,evenkeel=debug", false),
    };
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(prefixed(level)));
    let log = fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start (in tests) is no error.
    let _ = if json {
        log.json().flatten_event(true).try_init()
    } else {
        log.with_ansi(false).try_init()
    };
}

/// `evenkeel=debug` for every crate of ours.
fn prefixed(level: &str) -> String {
    let Some((others, ours)) = level.split_once(",evenkeel=") else {
        return level.to_owned();
    };
    let crates = [
        "evenkeel",
        "evenkeel_engine",
        "evenkeel_hypervisor",
        "evenkeel_kubernetes",
        "evenkeel_planner",
    ];
    let each: Vec<String> = crates.iter().map(|name| format!("{name}={ours}")).collect();
    format!("{others},{}", each.join(","))
}
