//! How a lab goes: by one plain script, written before the first thing it will have to remove exists.
//!
//! `down`, the drop of a [`Lab`](super::Lab) and the keeper all run that script. The keeper is a shell that holds
//! the reading end of a pipe whose writing end only the owner has: a lab is taken down when its owner returns,
//! panics, gets Ctrl-C or SIGKILL. Processes are ended by the ids the launchers wrote down, never by name; mounts
//! and network namespaces vanish with the last process in them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};

use super::command::{command, run};
use super::layout::Layout;
use super::text::render;

const SCRIPT: &str = include_str!("../../lab/teardown.sh");
const KEEPER: &str = include_str!("../../lab/keeper.sh");

/// The process that takes the lab down when its owner is gone.
#[derive(Debug)]
pub(crate) struct Keeper {
    process: Child,
}

impl Keeper {
    /// Writes the teardown script and starts the keeper, in a session of its own so that no Ctrl-C reaches it.
    pub(crate) fn start(layout: &Layout) -> Result<Self> {
        let script = layout.script("teardown.sh");
        fs::write(&script, rendered(layout)?)?;
        let keeper = layout.script("keeper.sh");
        fs::write(&keeper, KEEPER)?;
        let mut command = command(
            "setsid",
            ["sh".as_ref(), keeper.as_os_str(), script.as_os_str()],
        );
        let command = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self {
            process: command.spawn().context("cannot start the keeper")?,
        })
    }

    /// Tells it that there is nothing to do any more.
    pub(crate) fn release(mut self) -> Result<()> {
        if let Some(mut pipe) = self.process.stdin.take() {
            pipe.write_all(b"keep\n")
                .context("the keeper of the lab is gone")?;
        }
        self.process.wait().context("cannot wait for the keeper")?;
        Ok(())
    }
}

/// Takes down the lab with this id, or what is left of it. Nothing to do is no error.
///
/// # Errors
/// Fails if the id is none, or something is left afterwards; says what.
pub fn take_down(id: &str) -> Result<()> {
    let layout = Layout::of(id)?;
    // Not the script in the lab's directory: a half-built lab may have none, or half of one.
    run("sh", ["-c", &rendered(&layout)?])?;
    let left = leftovers(id)?;
    if !left.is_empty() {
        bail!("of lab {id} this is left: {}", left.join(", "));
    }
    Ok(())
}

/// Everything on this machine that belongs to the lab with this id: devices, directories, mounts, loop devices and
/// processes. Empty when the lab is gone.
///
/// # Errors
/// Fails if the machine cannot be asked.
pub fn leftovers(id: &str) -> Result<Vec<String>> {
    let layout = Layout::of(id)?;
    let mut left = Vec::new();
    for place in [layout.state(), layout.data()] {
        if place.exists() {
            left.push(format!("directory {}", place.display()));
        }
    }
    let bridge = layout.bridge();
    for line in run("ip", ["-o", "link", "show"])?.lines() {
        let name = line
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .trim_end_matches(':');
        let name = name.split('@').next().unwrap_or_default();
        if name == bridge || name.starts_with(&format!("{bridge}-")) {
            left.push(format!("device {name}"));
        }
    }
    let data = layout.data().display().to_string() + "/";
    let state = layout.state().display().to_string() + "/";
    for line in run("losetup", ["--all"])?
        .lines()
        .filter(|line| line.contains(&data))
    {
        left.push(format!("loop device {line}"));
    }
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) || name == std::process::id().to_string()
        {
            continue;
        }
        let proc = Path::new("/proc").join(&name);
        let arguments = fs::read(proc.join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap_or_default();
        let keeper = arguments.contains("keeper.sh");
        if !keeper
            && (mounts.contains(&data) || arguments.contains(&data) || arguments.contains(&state))
        {
            left.push(format!("process {name} ({})", arguments.trim()));
        }
    }
    Ok(left)
}

fn rendered(layout: &Layout) -> Result<String> {
    let places = [layout.state(), layout.data(), layout.state_root()];
    let places = places.map(|place| {
        place
            .to_str()
            .filter(|text| !text.contains('\''))
            .map(str::to_owned)
    });
    let [Some(state), Some(data), Some(root)] = places else {
        bail!(
            "the name of a lab's directory is plain text without quotes, not {:?}",
            layout.data()
        );
    };
    let values = [
        ("ID", layout.id()),
        ("STATE", &state),
        ("DATA", &data),
        ("ROOT", &root),
    ];
    Ok(render(SCRIPT, &values))
}
