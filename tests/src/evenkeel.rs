//! The program under test, run as a person or a pipeline runs it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::Lab;

/// Seconds that a run may take at most.
const RUN_LIMIT: &str = "300";
/// What `timeout` exits with where it had to end what it ran.
const TIMED_OUT: i32 = 124;

/// The program that this build made: beside the test's own binary.
///
/// # Errors
/// Fails where it was not built.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("evenkeel"));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .context("evenkeel is not built: run `cargo build --workspace`, or `make test`")
}

/// A folder of manifests and the program run on it.
#[derive(Debug)]
pub struct Fleet {
    folder: tempfile::TempDir,
}

/// What a run said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// The answer, if it ended with this code.
    ///
    /// # Errors
    /// Fails with everything it said where it did not.
    pub fn expect(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        bail!(
            "exit {} instead of {code} after {:?}\n{}\n{}",
            self.code,
            self.took,
            self.out,
            self.err
        )
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// Fails where it is not.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out)
            .with_context(|| format!("not JSON: {}\n{}", self.out, self.err))
    }
}

/// What a command says that is run to its end, within five minutes.
pub(crate) fn answer(command: &Command) -> Result<Answer> {
    let start = Instant::now();
    let output = Command::new("timeout")
        .args(["--kill-after=5", RUN_LIMIT])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .output()?;
    let answer = Answer {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    };
    if answer.code == TIMED_OUT {
        bail!(
            "{command:?} did not end within {RUN_LIMIT} s:\n{}\n{}",
            answer.out,
            answer.err
        );
    }
    Ok(answer)
}

impl Fleet {
    /// A folder with the manifests of a lab's hosts, and the credentials in `credentials` below it.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn of(lab: &Lab) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        lab.write_manifests(folder.path())?;
        Ok(Self { folder })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a manifest into it.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path().join(file), text)?)
    }

    /// Removes a manifest from it.
    ///
    /// # Errors
    /// Fails if it cannot be removed.
    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.path().join(file))?)
    }

    /// The program with these words, on this folder.
    ///
    /// # Errors
    /// Fails where it was not built.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .args(words)
            .arg("-f")
            .arg(self.path())
            .env("EVENKEEL_CREDENTIALS", self.path().join("credentials"))
            .stdin(Stdio::null())
            .env("NO_COLOR", "1");
        Ok(command)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Fails where it cannot be started, or has not ended after five minutes: whatever is asked of it here is to end long
    /// before.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Answer> {
        answer(&self.command(words)?)
    }

    /// Starts it and lets it run.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Run> {
        Run::of(self.command(words)?)
    }

    /// The same, with a log that says as much as `RUST_LOG` asks for.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start_with_log<S: AsRef<OsStr>>(&self, words: &[S], log: &str) -> Result<Run> {
        let mut command = self.command(words)?;
        command.env("RUST_LOG", log);
        Run::of(command)
    }

    /// One object as JSON, as `get` shows it.
    ///
    /// # Errors
    /// Fails where `get` does.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.run(&["get", kind, name, "-o", "json"])?
            .expect(0)?
            .json()
    }
}

/// A run under way. Killed when dropped.
#[derive(Debug)]
pub struct Run {
    child: Child,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    start: Instant,
}

impl Run {
    fn of(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let streams: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let said = said.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    said.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((Instant::now(), line));
                }
            });
        }
        Ok(Run {
            child,
            said,
            start: Instant::now(),
        })
    }

    /// Everything it said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Waits until a line contains the text; how long after the start that was said.
    ///
    /// # Errors
    /// Fails with everything it said where that takes longer than the limit.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<Duration> {
        let until = Instant::now() + limit;
        loop {
            let found = {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                said.iter()
                    .find(|(_, line)| line.contains(text))
                    .map(|(when, _)| *when)
            };
            if let Some(when) = found {
                return Ok(when.duration_since(self.start));
            }
            if Instant::now() >= until {
                bail!("{text:?} was not said within {limit:?}:\n{}", self.said());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal: `INT`, `KILL`, ...
    ///
    /// # Errors
    /// Fails where it is gone.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string())
            .status()?;
        anyhow::ensure!(status.success(), "no process to send {signal}");
        Ok(())
    }

    /// Whether it has come to its end within that time.
    ///
    /// # Errors
    /// Fails where it can't be told.
    pub fn has_ended(&mut self, within: Duration) -> Result<bool> {
        let until = Instant::now() + within;
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Fails with everything it said where that takes longer than the limit.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                thread::sleep(Duration::from_millis(50));
                return Ok(status);
            }
            if Instant::now() >= until {
                bail!("still running after {limit:?}:\n{}", self.said());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A manifest.
#[must_use]
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: evenkeel.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}
