//! Credentials without a cluster: `DIR/<secretName>/<key>`.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel_crds::reason::{Cause, Reason};
use evenkeel_engine::{
    Wishes,
    credentials::{Credentials, KEYS, LONGEST},
};

/// Where credentials are, if anywhere.
#[derive(Debug, Clone)]
pub struct Folder(Option<PathBuf>);

impl Folder {
    /// That of `--credentials`.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self(folder)
    }

    /// Gives the wishes the credentials that their hosts name, as they are now.
    pub fn add_to(&self, wishes: &mut Wishes) {
        wishes.credentials.clear();
        let Some(folder) = &self.0 else { return };
        for host in wishes.hosts.values() {
            let Some(named) = &host.spec.credentials else {
                continue;
            };
            let name = &named.secret_name;
            if !wishes.credentials.contains_key(name)
                && let Some(found) = read(folder, name)
            {
                wishes.credentials.insert(name.clone(), found.map(Arc::new));
            }
        }
    }
}

/// One Secret's worth of credentials; nothing where there is no such directory.
fn read(folder: &Path, name: &str) -> Option<Result<Credentials, Cause>> {
    // The schema lets through only names of Secrets; a path it must not be in any case.
    if name.contains('/') || name.starts_with('.') {
        return None;
    }
    let folder = folder.join(name);
    if !folder.is_dir() {
        return None;
    }
    let mut values = Vec::new();
    for key in KEYS {
        match value(&folder.join(key)) {
            Ok(value) => values.push((key.to_owned(), value)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Some(Err(Cause::new(
                    Reason::CredentialsInvalid,
                    format!("{} can't be read: {error}", folder.join(key).display()),
                )
                .hint("let the user who runs evenkeel read that file")));
            }
        }
    }
    Some(Ok(Credentials::new(values)))
}

/// A file's content, one byte more than any value may have at most.
fn value(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::new();
    File::open(path)?
        .take(LONGEST as u64 + 1)
        .read_to_end(&mut value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use evenkeel_crds::{Host, kinds::host};

    use super::*;

    fn wishes(secrets: &[&str]) -> Wishes {
        let mut wishes = Wishes::default();
        for (number, secret) in secrets.iter().enumerate() {
            let mut host = Host::new(&format!("h{number}"), Default::default());
            host.spec.credentials = Some(host::Credentials {
                secret_name: (*secret).to_owned(),
            });
            wishes.hosts.insert(format!("h{number}"), Arc::new(host));
        }
        wishes
    }

    #[test]
    fn what_hosts_name_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("tls.key"), name).unwrap();
            fs::write(folder.path().join(name).join("notes.txt"), "x").unwrap();
        }
        fs::create_dir_all(folder.path().join("three/tls.crt")).unwrap();
        fs::write(folder.path().join("tls.key"), "above").unwrap();
        let credentials = Folder::new(Some(folder.path().join("one").join("..")));
        let mut wishes = wishes(&["one", "one", "three", "four", "..", "../one", "."]);
        credentials.add_to(&mut wishes);
        let names: Vec<_> = wishes.credentials.keys().map(String::as_str).collect();
        assert_eq!(names, ["one", "three"]);
        let one = wishes.credentials["one"].clone().unwrap();
        assert_eq!(one.get("tls.key"), Some(b"one".as_slice()));
        assert_eq!(one.get("notes.txt"), None);
        let cause = wishes.credentials["three"].clone().unwrap_err();
        assert_eq!(cause.reason, Reason::CredentialsInvalid);
        Folder::new(None).add_to(&mut wishes);
        assert!(wishes.credentials.is_empty());
    }
}
