//! Ends a cluster: at once, or by a detached process that notices when the owner is gone, whatever killed it.

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::description::Description;

/// Ends a cluster, given its two folders; also what the keeper runs.
const TEARDOWN: &str = include_str!("teardown.sh");

/// A process in a session of its own that holds the read end of a pipe and ends the cluster when the pipe closes.
/// The write end is ours alone (closed on exec), so it closes with this process.
#[derive(Debug)]
pub(crate) struct Keeper {
    process: Child,
    line: ChildStdin,
}

impl Keeper {
    pub(crate) fn start(description: &Description) -> Result<Self> {
        let file = description.state.join("teardown.sh");
        fs::write(&file, script(description)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut process = Command::new("setsid")
            .arg("sh")
            .arg(&file)
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the cluster's keeper (by setsid, of util-linux)")?;
        let line = process
            .stdin
            .take()
            .context("the cluster's keeper has no input")?;
        Ok(Self { process, line })
    }

    /// Lets it end the cluster now and waits until it has.
    pub(crate) fn end(self, description: &Description) -> Result<()> {
        let Self { mut process, line } = self;
        drop(line);
        if process.wait().is_ok_and(|status| status.success()) {
            return Ok(());
        }
        // Somebody killed it, or it could not finish: the same once more, by ourselves.
        end(description)
    }

    /// Lets it go without ending the cluster.
    pub(crate) fn release(self) -> Result<()> {
        let Self {
            mut process,
            mut line,
        } = self;
        line.write_all(b"release\n")
            .context("the cluster's keeper is gone")?;
        drop(line);
        let status = process.wait()?;
        if !status.success() {
            bail!("the cluster's keeper failed ({status})");
        }
        Ok(())
    }
}

/// Ends a cluster: kills its servers and removes its folders. No error if nothing of it is left.
///
/// # Errors
/// If something stays.
pub fn end(description: &Description) -> Result<()> {
    let status = Command::new("sh")
        .arg("-c")
        .arg(script(description)?)
        .stdin(Stdio::null())
        .status()
        .context("cannot run sh")?;
    if !status.success() {
        bail!(
            "cluster {} is not wholly gone: look at {} and {}",
            description.id,
            description.state.display(),
            description.data.display()
        );
    }
    Ok(())
}

fn script(description: &Description) -> Result<String> {
    let quote = |path: &std::path::Path| -> Result<String> {
        let text = path
            .to_str()
            .with_context(|| format!("{} is not UTF-8", path.display()))?;
        Ok(format!("'{}'", text.replace('\'', r"'\''")))
    };
    Ok(format!(
        "state={}\ndata={}\n{TEARDOWN}",
        quote(&description.state)?,
        quote(&description.data)?
    ))
}
