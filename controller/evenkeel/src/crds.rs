//! `evenkeel crds`: the CRDs as YAML that kubectl reads the way it was meant.

use std::{fs, path::Path};

use anyhow::Context as _;
use evenkeel_crds::manifests;

use crate::{exit::Exit, output};

/// Prints all of them, or writes one file for each.
///
/// # Errors
/// Where they can't be written.
pub fn run(folder: Option<&Path>) -> anyhow::Result<Exit> {
    let mut texts = Vec::new();
    for (file, crd) in manifests::all() {
        texts.push((file, manifests::yaml(&crd).map_err(anyhow::Error::msg)?));
    }
    let Some(folder) = folder else {
        let texts: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
        output::print(texts.join("---\n"))?;
        return Ok(Exit::Done);
    };
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    for (file, text) in texts {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(Exit::Done)
}
