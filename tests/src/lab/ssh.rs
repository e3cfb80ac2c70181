//! Hosts reached by ssh: a server of each host's own, and keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::command::run;
use super::host::Host;

/// Where a host has its server's files.
const FOLDER: &str = "/etc/libvirt/ssh";

/// A pair of keys for ssh.
#[derive(Debug, Clone)]
pub struct SshKey {
    /// The private one, in ssh's own format.
    pub private: String,
    /// The public one, as a line of `authorized_keys`.
    pub public: String,
}

impl SshKey {
    /// A new pair, the private one locked by a passphrase unless that is empty.
    ///
    /// # Errors
    /// Fails where ssh-keygen does.
    pub fn new(passphrase: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("key");
        let words = ["-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f"];
        run("ssh-keygen", words.into_iter().chain(file.to_str()))
            .context("is openssh-client missing? run tests/scripts/install-lab.sh")?;
        Ok(Self {
            private: fs::read_to_string(&file)?,
            public: fs::read_to_string(file.with_extension("pub"))?,
        })
    }
}

impl Host<'_> {
    /// How its libvirtd is reached by ssh, where that is served.
    #[must_use]
    pub fn ssh_uri(&self) -> String {
        format!("qemu+ssh://root@{}/system", self.address())
    }

    /// Serves ssh to whoever has one of these keys; its line in `known_hosts`. A server that ran goes on with the keys
    /// of now.
    ///
    /// # Errors
    /// Fails where the host is off, or sshd does not start.
    pub fn serve_ssh(&self, authorized: &[&SshKey]) -> Result<String> {
        let folder = self.ssh_folder();
        fs::create_dir_all(&folder)?;
        let lines: String = authorized.iter().map(|key| key.public.as_str()).collect();
        fs::write(folder.join("authorized_keys"), lines)?;
        let key = folder.join("host_key");
        if !key.exists() {
            let pair = SshKey::new("")?;
            fs::write(&key, pair.private)?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
            fs::write(folder.join("host_key.pub"), pair.public)?;
            fs::write(
                folder.join("sshd_config"),
                format!(
                    "HostKey {FOLDER}/host_key\nAuthorizedKeysFile {FOLDER}/authorized_keys\nPidFile none\n\
                     UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
                     MaxStartups 100\n"
                ),
            )?;
            self.exec(&["mkdir", "-p", "/run/sshd"])?;
            let config = format!("{FOLDER}/sshd_config");
            self.exec(&["/usr/sbin/sshd", "-f", &config, "-E", "/run/sshd/log"])
                .context("is openssh-server missing? run tests/scripts/install-lab.sh")?;
        }
        let public = fs::read_to_string(folder.join("host_key.pub"))?;
        Ok(format!("{} {}\n", self.address(), public.trim()))
    }

    fn ssh_folder(&self) -> PathBuf {
        self.data().join("etc/ssh")
    }
}
