//! Which files are manifests.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, bail};

/// A larger file is no manifest.
const MAX_SIZE: u64 = 16 << 20;
/// A larger file is no snapshot either.
const MAX_SNAPSHOT: u64 = 1 << 30;

/// A file to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As errors name it.
    pub name: Arc<str>,
    /// Where it is; nothing for standard input.
    path: Option<PathBuf>,
}

/// What tells that files have changed: names, times and sizes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(Arc<str>, Option<Mark>)>);

/// When a file was last written, and its size.
type Mark = (SystemTime, u64);

impl Stamp {
    /// Of these files as they are now.
    #[must_use]
    pub fn of(found: &[Found]) -> Self {
        let entry = |file: &Found| {
            let metadata = file.path.as_ref().and_then(|path| fs::metadata(path).ok());
            let mark =
                metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
            (file.name.clone(), mark)
        };
        Self(found.iter().map(entry).collect())
    }

    /// Of what `paths` lead to now.
    ///
    /// # Errors
    /// Where a path can't be read.
    pub fn now(paths: &[PathBuf]) -> anyhow::Result<Self> {
        find(paths).map(|found| Self::of(&found))
    }
}

/// Every file that `paths` lead to, in order, none twice.
///
/// # Errors
/// Where a path does not exist, can't be read, or a directory holds no manifest.
pub fn find(paths: &[PathBuf]) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            found.push(Found {
                name: "-".into(),
                path: None,
            });
            continue;
        }
        let metadata =
            fs::metadata(path).with_context(|| format!("can't read {}", path.display()))?;
        if metadata.is_dir() {
            search(path, 0, &mut found)?;
        } else {
            found.push(Found::at(path));
        }
    }
    let mut seen: Vec<Found> = Vec::new();
    found.retain(|file| {
        let new = !seen.contains(file);
        seen.push(file.clone());
        new
    });
    Ok(found)
}

fn search(folder: &Path, depth: usize, found: &mut Vec<Found>) -> anyhow::Result<()> {
    if depth > 32 {
        bail!(
            "{} is nested too deeply: is there a loop of links?",
            folder.display()
        );
    }
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    let mut paths = list().with_context(|| format!("can't read {}", folder.display()))?;
    paths.sort();
    for path in paths {
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            search(&path, depth + 1, found)?;
        } else if matches!(
            path.extension().and_then(|end| end.to_str()),
            Some("yaml" | "yml" | "json")
        ) {
            found.push(Found::at(&path));
        }
    }
    Ok(())
}

impl Found {
    fn at(path: &Path) -> Self {
        Self {
            name: path.display().to_string().into(),
            path: Some(path.to_owned()),
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// Where it can't be read, is too large, or is not UTF-8.
    pub fn read(&self) -> anyhow::Result<String> {
        let text = self.read_until(MAX_SIZE + 1)?;
        self.check_size(text.len() as u64)?;
        Ok(text)
    }

    /// Its text, which may be a snapshot: those are larger.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_snapshot(&self) -> anyhow::Result<String> {
        let text = self.read_until(MAX_SNAPSHOT + 1)?;
        if text.len() as u64 > MAX_SNAPSHOT {
            bail!("{} is larger than 1 GiB and so no snapshot", self.name);
        }
        Ok(text)
    }

    /// Whether a manifest may have so many bytes.
    ///
    /// # Errors
    /// With the sentence.
    pub fn check_size(&self, bytes: u64) -> anyhow::Result<()> {
        if bytes > MAX_SIZE {
            bail!("{} is larger than 16 MiB and so no manifest", self.name);
        }
        Ok(())
    }

    fn read_until(&self, most: u64) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let read = match &self.path {
            None => io::stdin().take(most).read_to_end(&mut bytes),
            Some(path) => {
                fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
            }
        };
        read.with_context(|| format!("can't read {}", self.name))?;
        if bytes.len() as u64 == most {
            // A character may have been cut in two; what it is does not matter any more.
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        String::from_utf8(bytes)
            .map_err(|_| anyhow::anyhow!("{} is not UTF-8 and so no manifest", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_in_order_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("sub/.git")).unwrap();
        for name in [
            "b.yaml",
            "a.yml",
            "sub/c.json",
            ".hidden.yaml",
            "sub/.git/x.yaml",
            "notes.txt",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let twice = [folder.path().to_owned(), folder.path().join("b.yaml")];
        let names: Vec<String> = find(&twice)
            .unwrap()
            .iter()
            .map(|file| {
                file.name
                    .replace(&format!("{}/", folder.path().display()), "")
            })
            .collect();
        assert_eq!(names, ["a.yml", "b.yaml", "sub/c.json"]);
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = find(&["/nowhere/at.all".into()]).unwrap_err();
        assert!(format!("{error:#}").starts_with("can't read /nowhere/at.all: "));
    }

    #[test]
    fn a_change_shows() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned()];
        let empty = Stamp::now(&paths).unwrap();
        fs::write(folder.path().join("a.yaml"), "a").unwrap();
        let one = Stamp::now(&paths).unwrap();
        assert_ne!(empty, one);
        fs::write(folder.path().join("a.yaml"), "ab").unwrap();
        assert_ne!(one, Stamp::now(&paths).unwrap());
    }
}
