//! Names and passwords: libvirtds that ask for them, the lab's own, and others for tests.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Lab;
use super::command::{command, output, run};
use super::host::Host;
use super::layout::Layout;

/// Whom the lab's own calls, and hosts that call each other, say they are.
const OWN: &str = "lab";
/// The file with passwords, where SASL's configuration says it is.
const PASSWORDS: &str = "passwd.db";

impl Host<'_> {
    /// Makes its libvirtd ask for passwords by a mechanism, and the lab's own known to it.
    pub(crate) fn ask_for_passwords(&self, mechanism: Option<&str>) -> Result<()> {
        let etc = self.data().join("etc");
        fs::create_dir_all(&etc)?;
        fs::copy(self.lab().layout().passwords(), etc.join("auth.conf"))?;
        let Some(mechanism) = mechanism else {
            return Ok(());
        };
        let folder = self.data().join("sasl");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("libvirt.conf"),
            format!("mech_list: {mechanism}\nsasldb_path: /etc/sasl2/{PASSWORDS}\n"),
        )?;
        let conf = fs::read_to_string(self.lab().layout().passwords())?;
        let password = conf.lines().find_map(|line| line.strip_prefix("password="));
        self.admit(OWN, password.unwrap_or_default())
    }

    /// Gives somebody this password, from now on.
    ///
    /// # Errors
    /// Fails where saslpasswd2 does, or the host asks for no passwords.
    pub fn admit(&self, name: &str, password: &str) -> Result<()> {
        let known = self.known_names();
        let realm = &self.record().hostname;
        let words = ["-p", "-c", "-f", &known, "-u", realm, "-a", "libvirt", name];
        let mut input = tempfile::tempfile()?;
        input.write_all(password.as_bytes())?;
        input.rewind()?;
        output(command("saslpasswd2", words).stdin(input))
            .context("is sasl2-bin missing? run tests/scripts/install-lab.sh")?;
        Ok(())
    }

    /// Knows somebody no more.
    ///
    /// # Errors
    /// Fails where saslpasswd2 does.
    pub fn dismiss(&self, name: &str) -> Result<()> {
        let known = self.known_names();
        let realm = &self.record().hostname;
        run(
            "saslpasswd2",
            ["-d", "-f", &known, "-u", realm, "-a", "libvirt", name],
        )?;
        Ok(())
    }

    /// The file of those whom it knows.
    fn known_names(&self) -> String {
        let file = self.data().join("sasl").join(PASSWORDS);
        file.display().to_string()
    }
}

impl Lab {
    /// Makes up the password that virsh, and hosts among themselves, show where they are asked.
    pub(crate) fn write_password(&self) -> Result<()> {
        let password = uuid::Uuid::new_v4().simple();
        let file = self.layout().passwords();
        fs::write(
            &file,
            format!(
                "[credentials-lab]\nauthname={OWN}\npassword={password}\n\n[auth-libvirt-default]\ncredentials=lab\n"
            ),
        )?;
        Ok(fs::set_permissions(
            file,
            fs::Permissions::from_mode(0o600),
        )?)
    }
}

impl Layout {
    /// What libvirt's clients take names and passwords from.
    pub(crate) fn passwords(&self) -> PathBuf {
        self.state().join("auth.conf")
    }
}
