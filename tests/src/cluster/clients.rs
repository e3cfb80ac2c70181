//! kubectl and helm of a cluster: run with its kubeconfigs, their own files kept in its folder.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{ADMIN, Cluster};

/// What a program answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its output.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

impl Answer {
    /// Did it exit with 0?
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Was it refused for want of a right (403)?
    #[must_use]
    pub fn forbidden(&self) -> bool {
        !self.succeeded() && self.stderr.contains("(Forbidden)")
    }

    /// The output of a program that succeeded.
    ///
    /// # Errors
    /// If it did not, with what it said.
    pub fn success(self) -> Result<String> {
        if self.succeeded() {
            return Ok(self.stdout);
        }
        let code = self
            .code
            .map_or_else(|| "a signal".to_owned(), |code| format!("exit {code}"));
        bail!("{code}: {} {}", self.stderr.trim(), self.stdout.trim())
    }
}

impl Cluster {
    /// Runs kubectl as the administrator and gives its output.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl<I>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.kubectl_as(ADMIN, arguments)?.success()
    }

    /// Runs kubectl as a user. That it fails is an answer, not an error.
    ///
    /// # Errors
    /// If there is no such user or kubectl cannot be run.
    pub fn kubectl_as<I>(&self, user: &str, arguments: I) -> Result<Answer>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.kubectl_with_input(user, arguments, "")
    }

    /// `kubectl apply -f -` as the administrator, of manifests as text.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_with_input(ADMIN, ["apply", "--filename=-"], manifests)?
            .success()
    }

    /// Runs kubectl as a user with a text as its input.
    ///
    /// # Errors
    /// If there is no such user or kubectl cannot be run.
    pub fn kubectl_with_input<I>(&self, user: &str, arguments: I, input: &str) -> Result<Answer>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        run(
            self.kubectl_command(user)?
                .args(arguments.into_iter().map(|one| one.as_ref().to_owned())),
            input,
        )
    }

    /// kubectl as a user, not yet run: for those that go on for a while, such as a watch.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn kubectl_command(&self, user: &str) -> Result<Command> {
        let mut command = Command::new(self.binaries.kubectl());
        command
            .env("KUBECONFIG", self.kubeconfig_as(user)?)
            // By default it remembers for hours, per address, which kinds there are; addresses come back.
            .env("KUBECACHEDIR", self.description.data.join("kubectl"));
        Ok(command)
    }

    /// Runs helm as the administrator and gives its output.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn helm<I>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let arguments = arguments.into_iter().map(|one| one.as_ref().to_owned());
        run(self.helm_command().args(arguments), "")?.success()
    }

    /// helm as the administrator, not yet run; its own files stay in the cluster's folder.
    #[must_use]
    pub fn helm_command(&self) -> Command {
        let mut command = Command::new(self.binaries.helm());
        command.env("KUBECONFIG", self.kubeconfig());
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.description.data.join("helm"));
        }
        command
    }
}

/// Runs a program to its end with a text as its input.
fn run(command: &mut Command, input: &str) -> Result<Answer> {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // One that does not read to the end has said why, or does not care.
            let _ = stdin
                .take()
                .map(|mut stdin| stdin.write_all(input.as_bytes()));
        });
        child.wait_with_output()
    })?;
    Ok(Answer {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
