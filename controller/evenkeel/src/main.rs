//! The `evenkeel` binary: plan, apply and their relatives, and the controller.
//!
//! It reads the command line, manifests and the terminal, and leaves the rest to the engine: nothing here decides
//! where a guest goes or whether it may.

mod apply;
mod arguments;
mod cluster;
mod controller;
mod core_dumps;
mod crds;
mod credentials;
mod describe;
mod drain;
mod exit;
mod get;
mod hypervisors;
mod kind;
mod log;
mod manifests;
mod migrate;
mod objects;
mod outcome;
mod output;
mod pause;
mod picture;
mod plan;
mod progress;
mod scene;
mod session;
mod signals;
mod simulate;
mod snapshot;
mod table;
mod verdict;

use arguments::{Arguments, Command};
use exit::Exit;
use manifests::WrongManifests;

const _: () = assert!(
    !evenkeel_engine::mutation::POSSIBLE,
    "an engine whose safety rules can be broken is for tests only"
);

fn main() -> Exit {
    hypervisors::prepare();
    if let Err(error) = core_dumps::forbid() {
        output::complain(format_args!("can't forbid core dumps: {error}"));
        return Exit::Error;
    }
    let arguments = match arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format_args!("can't start: {error}"));
            return Exit::Error;
        }
    };
    let exit = runtime.block_on(run(&arguments)).unwrap_or_else(|error| {
        match error.downcast_ref::<WrongManifests>() {
            Some(wrong) => output::tell(wrong),
            None => output::complain(output::harmless(&format!("{error:#}"))),
        }
        Exit::Error
    });
    // A thread may still be reading a terminal, or wait for a hypervisor that hangs.
    runtime.shutdown_background();
    hypervisors::leave();
    exit
}

async fn run(Arguments { common, command }: &Arguments) -> anyhow::Result<Exit> {
    log::start(common, command);
    match command {
        Command::Apply(apply) => apply::run(common, apply).await,
        Command::Migrate {
            guest,
            host,
            limits,
        } => migrate::run(common, guest, host.as_deref(), limits).await,
        Command::Drain {
            hosts,
            no_wait,
            limits,
        } => drain::drain(common, hosts, *no_wait, limits).await,
        Command::Controller(controller) => controller::run(common, controller).await,
        Command::Undrain { hosts } => drain::undrain(common, hosts).await,
        Command::Pause { abort } => pause::pause(common, *abort).await,
        Command::Resume => pause::resume(common).await,
        Command::Crds { output_dir } => crds::run(output_dir.as_deref()),
        Command::Completion { shell } => arguments::complete(*shell),
        Command::Plan(options) => unless_interrupted(plan::run(common, options)).await,
        Command::Simulate(simulate) => unless_interrupted(simulate::run(common, simulate)).await,
        Command::Snapshot => unless_interrupted(snapshot::run(common)).await,
        Command::Get { kind, name } => {
            unless_interrupted(get::run(common, *kind, name.as_deref())).await
        }
        Command::Describe { kind, name } => {
            unless_interrupted(describe::run(common, *kind, name)).await
        }
    }
}

/// For commands that only look: they end at once.
async fn unless_interrupted(
    looking: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    let mut signals = signals::Signals::listen()?;
    tokio::select! {
        exit = looking => exit,
        () = signals.next() => Ok(Exit::Interrupted),
    }
}
