//! How a host is reached, and its keys as files for as long as a connection is being opened: libvirt takes them only by
//! fixed names in a directory.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel_engine::{
    credentials::{CA_CERTIFICATE, CERTIFICATE, Credentials, KEY, KNOWN_HOSTS, SSH_KEY},
    port::{Fault, PortError, PortResult},
};
use rustix::fs::{StatVfsMountFlags, statvfs};
use tempfile::TempDir;

use super::uri::{HypervisorUri, Transport};

/// Memory everywhere but on odd machines: keys are not to reach a disk.
const SHARED_MEMORY: &str = "/dev/shm";
/// libvirt's names for files below `pkipath`.
const TLS_FILES: [(&str, &str); 3] = [
    (CA_CERTIFICATE, "cacert.pem"),
    (CERTIFICATE, "clientcert.pem"),
    (KEY, "clientkey.pem"),
];
const SSH_FILES: [(&str, &str); 2] = [(SSH_KEY, "key"), (KNOWN_HOSTS, "known_hosts")];
/// What libvirt runs in ssh's place: the same with a configuration of ours, which it has no parameter for.
const SSH: &str = "#!/bin/sh\nexec ssh -F \"${0%/*}/config\" \"$@\"\n";

/// ssh's configuration: our key and our known hosts, and nothing that its user or the machine has.
fn ssh_config(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "IdentityFile {directory}/key\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         PreferredAuthentications publickey\n\
         UserKnownHostsFile {directory}/known_hosts\n\
         GlobalKnownHostsFile none\n\
         StrictHostKeyChecking yes\n\
         UpdateHostKeys no\n\
         BatchMode yes\n\
         ConnectTimeout 5\n\
         ClearAllForwardings yes\n\
         LogLevel ERROR\n"
    )
}

/// How a host is reached.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub(crate) uri: HypervisorUri,
    pub(crate) credentials: Option<Arc<Credentials>>,
}

/// What libvirt is given to open a connection. Dropped, the files are gone.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) uri: String,
    files: Option<(TempDir, &'static [(&'static str, &'static str)])>,
}

impl Reach {
    /// Name and password for a libvirtd that asks for them.
    pub(crate) fn login(&self) -> Option<(&str, &str)> {
        self.credentials.as_ref()?.login()
    }

    /// Makes ready what libvirt needs to open a connection.
    ///
    /// # Errors
    /// [`Fault::Other`] where no directory for the keys can be made.
    pub(crate) fn prepare(&self) -> PortResult<Opening> {
        let (Some(credentials), Some(names)) = (&self.credentials, self.files()) else {
            return Ok(Opening {
                uri: self.uri.for_libvirt(&[]),
                files: None,
            });
        };
        let transport = self.uri.transport();
        let directory = private_directory(transport)
            .and_then(|directory| {
                let place = directory.path();
                for (key, file) in names {
                    // Where a password is enough, there may be no certificate.
                    if let Some(value) = credentials.get(key) {
                        write_private(&place.join(file), value, 0o600)?;
                    }
                }
                if transport == Transport::Ssh {
                    write_private(&place.join("config"), ssh_config(place).as_bytes(), 0o600)?;
                    write_private(&place.join("ssh"), SSH.as_bytes(), 0o700)?;
                }
                Ok(directory)
            })
            .map_err(|error| {
                PortError::new(
                    Fault::Other,
                    format!("no private place for the keys while connecting: {error}"),
                )
            })?;
        let place = directory.path().display().to_string();
        let uri = match transport {
            Transport::Ssh => self
                .uri
                .for_libvirt(&[("command", &format!("{place}/ssh"))]),
            Transport::Tls | Transport::Tcp => self.uri.for_libvirt(&[("pkipath", &place)]),
        };
        Ok(Opening {
            uri,
            files: Some((directory, names)),
        })
    }

    /// The keys that libvirt takes as files only.
    fn files(&self) -> Option<&'static [(&'static str, &'static str)]> {
        match self.uri.transport() {
            Transport::Tls => Some(&TLS_FILES),
            Transport::Ssh => Some(&SSH_FILES),
            Transport::Tcp => None,
        }
    }
}

impl Opening {
    /// libvirt's words with our names for the files: theirs are other ones each time, and mean nothing to people.
    pub(crate) fn in_our_words(&self, message: &str) -> String {
        let Some((directory, names)) = &self.files else {
            return message.to_owned();
        };
        names
            .iter()
            .fold(message.to_owned(), |message, (key, file)| {
                message.replace(&directory.path().join(file).display().to_string(), key)
            })
    }
}

/// A directory that only we can read; for ssh one from which programs can be run.
fn private_directory(transport: Transport) -> io::Result<TempDir> {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let places = own
        .into_iter()
        .chain([PathBuf::from(SHARED_MEMORY), env::temp_dir()]);
    let fits = |place: &PathBuf| is_plain(place) && (transport != Transport::Ssh || runs(place));
    let mut refused = io::Error::other("no directory has a plain name and lets programs run");
    for place in places.filter(fits) {
        let made = tempfile::Builder::new()
            .prefix("evenkeel-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(place);
        match made {
            Ok(directory) => return Ok(directory),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Whether a path can stand in a URI as it is.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.to_str().is_some_and(|text| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
        })
}

/// Whether programs can be run from there.
fn runs(place: &Path) -> bool {
    statvfs(place).is_ok_and(|facts| !facts.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

fn write_private(path: &Path, value: &[u8], mode: u32) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?
        .write_all(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{os::unix::fs::MetadataExt as _, process::Command};

    use super::*;
    use crate::libvirt::check_uri;

    #[test]
    fn keys_are_ours_alone_and_gone_afterwards() {
        let values = [(CA_CERTIFICATE, "a"), (CERTIFICATE, "b"), (KEY, "c")];
        let credentials =
            Credentials::new(values.map(|(key, value)| (key.to_owned(), value.into())));
        let reach = Reach {
            uri: check_uri("qemu+tls://h1/system", false).unwrap(),
            credentials: Some(Arc::new(credentials)),
        };
        let opening = reach.prepare().unwrap();
        let (start, directory) = opening.uri.split_once("?pkipath=").unwrap();
        assert_eq!(start, "qemu+tls://h1/system");
        let directory = PathBuf::from(directory);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let key = directory.join("clientkey.pem");
        assert_eq!(fs::read_to_string(&key).unwrap(), "c");
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        let said = opening.in_our_words(&format!("{} has expired", key.display()));
        assert_eq!(said, "tls.key has expired");
        drop(opening);
        assert!(!directory.exists());
    }

    #[test]
    fn ssh_gets_our_files_and_no_others() {
        let values = [(SSH_KEY, "k"), (KNOWN_HOSTS, "h1 ssh-ed25519 AAAA\n")];
        let credentials =
            Credentials::new(values.map(|(key, value)| (key.to_owned(), value.into())));
        let reach = Reach {
            uri: check_uri("qemu+ssh://root@h1/system", false).unwrap(),
            credentials: Some(Arc::new(credentials)),
        };
        let opening = reach.prepare().unwrap();
        let (start, program) = opening.uri.split_once("&command=").unwrap();
        assert_eq!(start, "qemu+ssh://root@h1/system?no_tty=1");
        // What ssh makes of it.
        let facts = Command::new(program).args(["-G", "h1"]).output().unwrap();
        let facts = String::from_utf8(facts.stdout).unwrap();
        let directory = Path::new(program).parent().unwrap().display();
        for line in [
            format!("identityfile {directory}/key"),
            format!("userknownhostsfile {directory}/known_hosts"),
            "globalknownhostsfile none".to_owned(),
            "identitiesonly yes".to_owned(),
            "stricthostkeychecking true".to_owned(),
            "batchmode yes".to_owned(),
        ] {
            assert!(facts.lines().any(|fact| fact == line), "{line}:\n{facts}");
        }
        assert_eq!(facts.matches("identityfile").count(), 1);
    }
}
