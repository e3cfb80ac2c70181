//! `evenkeel pause` and `resume`: `suspend` and `abort` of the Fleet, in a directory or in the cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use evenkeel_crds::{Fleet, kinds::fleet::FLEET_NAME, shared::API_VERSION};
use evenkeel_kubernetes::{Error, client};
use serde_json::json;

use crate::{
    arguments::Common,
    cluster,
    exit::Exit,
    manifests::{
        Manifests, Place,
        locate::{self, At, Data, Document, Node},
    },
    output, plan,
};

/// The first line of the file that is ours to remove.
const MARK: &str = "# Written by `evenkeel pause`; `evenkeel resume` removes it.";
/// Its name.
const FILE: &str = "fleet-suspended.yaml";

/// What the Fleet is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    suspend: bool,
    abort: bool,
}

/// Runs `pause`: nothing new starts; with `abort`, copies under way are aborted too.
///
/// # Errors
/// Where a Fleet is written in a way that only its author can change, or the cluster can't be asked.
pub async fn pause(common: &Common, abort: bool) -> anyhow::Result<Exit> {
    let said = Said {
        suspend: true,
        abort,
    };
    say(common, said).await
}

/// Runs `resume`.
///
/// # Errors
/// As [`pause`].
pub async fn resume(common: &Common) -> anyhow::Result<Exit> {
    let said = Said {
        suspend: false,
        abort: false,
    };
    say(common, said).await
}

async fn say(common: &Common, said: Said) -> anyhow::Result<Exit> {
    if common.files.is_empty() {
        return say_in_cluster(common, said).await;
    }
    let folder = common.files.iter().find(|path| path.is_dir());
    let folder = folder
        .cloned()
        .context("what pauses is a file of its own, so -f must name a directory")?;
    let manifests = plan::load(common)?;
    for line in say_in(&folder, &manifests, said)? {
        output::print(format_args!("{line}\n"))?;
    }
    Ok(Exit::Done)
}

async fn say_in_cluster(common: &Common, said: Said) -> anyhow::Result<Exit> {
    let client = cluster::connect(common).await?;
    let Said { suspend, abort } = said;
    let spec = json!({ "suspend": suspend, "abort": abort });
    match client::patch_spec::<Fleet>(&client, FLEET_NAME, spec.clone()).await {
        Err(Error::NotFound(_)) if suspend => {
            let fleet = Fleet::new(FLEET_NAME, serde_json::from_value(spec)?);
            client::create(&client, fleet).await?;
        }
        Err(Error::NotFound(_)) => {
            output::print("There is no Fleet: nothing is suspended.\n")?;
            return Ok(Exit::Done);
        }
        other => drop(other?),
    }
    output::print(match (suspend, abort) {
        (true, false) => "Fleet default is suspended: nothing new starts, moves under way go on.\n",
        (true, true) => "Fleet default is suspended: nothing new starts, copies are aborted.\n",
        (false, _) => "Fleet default goes on.\n",
    })?;
    Ok(Exit::Done)
}

/// Makes the manifests say it, and tells in lines what was done.
fn say_in(folder: &Path, manifests: &Manifests, said: Said) -> anyhow::Result<Vec<String>> {
    let path = folder.join(FILE);
    let Some(place) = manifests.place("Fleet", FLEET_NAME) else {
        if !said.suspend {
            return Ok(vec!["There is no Fleet: nothing is suspended.".to_owned()]);
        }
        fs::File::create_new(&path)
            .and_then(|mut file| {
                std::io::Write::write_all(&mut file, text_for(said).as_bytes())?;
                file.sync_all()
            })
            .with_context(|| format!("can't write {}", path.display()))?;
        return Ok(vec![format!("{} written.", path.display())]);
    };
    let file = PathBuf::from(&*place.file);
    let text =
        fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let ours = file == path && text.starts_with(MARK);
    match (ours, said.suspend) {
        (true, false) => {
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
            return Ok(vec![format!("{} removed.", path.display())]);
        }
        (true, true) => {
            replace(&file, &text_for(said))?;
            return Ok(vec![format!("{} written.", path.display())]);
        }
        (false, _) => {}
    }
    let spec = &manifests.wishes.fleets[FLEET_NAME].spec;
    let mut edits = Vec::new();
    for (field, is, wanted) in [
        ("suspend", spec.suspend, said.suspend),
        ("abort", spec.abort, said.abort),
    ] {
        if is != wanted {
            edits.push((written(&text, place, field)?, is, wanted));
        }
    }
    if edits.is_empty() {
        return Ok(vec![format!(
            "{place}: Fleet {FLEET_NAME} says so already."
        )]);
    }
    let mut changed = text.clone();
    // The last first, so that the places of the others hold.
    edits.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    for (at, _, wanted) in edits {
        changed = with_word(&changed, at, wanted)
            .with_context(|| format!("{place}: change it there yourself"))?;
    }
    replace(&file, &changed)?;
    Ok(vec![format!("{} changed.", file.display())])
}

/// Where the field's value is written, if it is.
fn written(text: &str, place: &Place, field: &str) -> anyhow::Result<At> {
    let (documents, _) = locate::read(text);
    let found = documents.iter().find_map(|document| value(document, field));
    match found {
        Some(Node {
            at,
            data: Data::Bool(_),
            plain: Some(_),
        }) => Ok(*at),
        _ => bail!("{place}: Fleet {FLEET_NAME} does not say `{field}`: write it there yourself"),
    }
}

fn value<'a>(document: &'a Document, field: &str) -> Option<&'a Node> {
    let root = &document.root;
    let kind = root.get("kind").and_then(Node::text);
    (kind == Some("Fleet"))
        .then(|| root.get("spec")?.get(field))
        .flatten()
}

/// The text with the plain word at that place replaced.
fn with_word(text: &str, at: At, wanted: bool) -> Option<String> {
    let line: usize = text
        .split_inclusive('\n')
        .take(at.line - 1)
        .map(str::len)
        .sum();
    let rest = &text[line..];
    let (column, _) = rest.char_indices().nth(at.column - 1)?;
    let start = line + column;
    let end = text[start..]
        .find(|letter: char| !letter.is_ascii_alphabetic())
        .map_or(text.len(), |length| start + length);
    (end > start).then(|| format!("{}{wanted}{}", &text[..start], &text[end..]))
}

/// Writes a file anew, whole or not at all.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut new, text.as_bytes())?;
    new.as_file().sync_all()?;
    fs::set_permissions(new.path(), fs::metadata(file)?.permissions())?;
    new.persist(file)
        .with_context(|| format!("can't write {}", file.display()))?;
    Ok(())
}

fn text_for(said: Said) -> String {
    let abort = if said.abort { "\n  abort: true" } else { "" };
    format!(
        "{MARK}\napiVersion: {API_VERSION}\nkind: Fleet\nmetadata:\n  name: {FLEET_NAME}\nspec:\n  suspend: true{abort}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Said = Said {
        suspend: true,
        abort: false,
    };
    const RESUME: Said = Said {
        suspend: false,
        abort: false,
    };

    fn said(folder: &tempfile::TempDir, said: Said) -> anyhow::Result<Vec<String>> {
        say_in(folder.path(), &load(folder), said)
    }

    fn load(folder: &tempfile::TempDir) -> Manifests {
        Manifests::load(&[folder.path().to_owned()]).unwrap()
    }

    fn spec(folder: &tempfile::TempDir) -> Option<(bool, bool)> {
        let manifests = load(folder);
        let spec = &manifests.wishes.fleets.get(FLEET_NAME)?.spec;
        Some((spec.suspend, spec.abort))
    }

    #[test]
    fn a_file_of_our_own_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        said(&folder, RESUME).unwrap();
        said(&folder, PAUSE).unwrap();
        assert_eq!(spec(&folder), Some((true, false)));
        let abort = Said {
            suspend: true,
            abort: true,
        };
        said(&folder, abort).unwrap();
        assert_eq!(spec(&folder), Some((true, true)));
        said(&folder, RESUME).unwrap();
        assert_eq!(spec(&folder), None);
    }

    #[test]
    fn a_users_own_fleet_is_changed_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let text = "# ours\nkind: Host\napiVersion: evenkeel.dev/v1alpha1\nmetadata: {name: h1}\nspec: {uri: qemu+tls://h1/system}\n---\napiVersion: evenkeel.dev/v1alpha1\nkind: Fleet\nmetadata: {name: default}\nspec: {parallel: 3, suspend: no} # not now\n";
        let file = folder.path().join("all.yaml");
        fs::write(&file, text).unwrap();
        said(&folder, PAUSE).unwrap();
        let after = fs::read_to_string(&file).unwrap();
        assert_eq!(after, text.replace("suspend: no}", "suspend: true}"));
        let told = said(&folder, PAUSE).unwrap();
        assert!(told[0].contains("says so already"), "{told:?}");
        said(&folder, RESUME).unwrap();
        assert_eq!(spec(&folder), Some((false, false)));
        assert!(!folder.path().join(FILE).exists());
    }

    #[test]
    fn what_is_not_written_is_left_to_its_author() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: evenkeel.dev/v1alpha1\nkind: Fleet\nmetadata: {name: default}\nspec: {parallel: 3}\n";
        fs::write(folder.path().join("fleet.yaml"), text).unwrap();
        let error = said(&folder, PAUSE).unwrap_err().to_string();
        assert!(
            error.contains("fleet.yaml:1:1: Fleet default does not say `suspend`"),
            "{error}"
        );
    }
}
