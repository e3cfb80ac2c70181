//! `evenkeel get`: objects in a table, or whole.

use anyhow::bail;
use evenkeel_engine::Happening;
use serde_json::{Value, json};

use crate::{
    arguments::{Common, Format},
    cluster,
    exit::Exit,
    kind::Kind,
    manifests::schema::nearest,
    objects, output, plan,
    session::{Manner, Session},
    table,
};

/// Objects, and what happened to them while we looked.
#[derive(Debug)]
pub struct Seen {
    /// As Kubernetes has them.
    pub objects: Vec<Value>,
    /// From files only.
    pub happenings: Vec<Happening>,
}

/// Objects of a kind; only the one of that name where one is given.
///
/// # Errors
/// Where they can't be had, or there is none of that name.
pub async fn see(common: &Common, kind: Kind, name: Option<&str>) -> anyhow::Result<Seen> {
    if common.files.is_empty() {
        let client = cluster::connect(common).await?;
        let objects = cluster::objects(&client, kind, name).await?;
        return Ok(Seen {
            objects,
            happenings: Vec::new(),
        });
    }
    let manifests = plan::load(common)?;
    let mut session = Session::start(
        manifests.wishes.clone(),
        "get",
        Manner::Look,
        common.credentials.clone(),
    )?;
    let view = session.settled().await;
    let happenings = session.happenings();
    session.leave().await;
    let mut objects = objects::of_view(kind, &*view?, &manifests.wishes)?;
    if let Some(wanted) = name {
        let names: Vec<String> = objects
            .iter()
            .map(|object| name_of(object).to_owned())
            .collect();
        objects.retain(|object| name_of(object) == wanted || object["status"]["uuid"] == wanted);
        if objects.is_empty() {
            let meant = nearest(wanted, names.iter().map(String::as_str));
            let meant = meant.map_or(String::new(), |meant| format!(": did you mean {meant}?"));
            bail!("there is no {} named {wanted}{meant}", kind.as_str());
        }
    }
    Ok(Seen {
        objects,
        happenings,
    })
}

/// An object's name.
#[must_use]
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Runs the command.
///
/// # Errors
/// As [`see`].
pub async fn run(common: &Common, kind: Kind, name: Option<&str>) -> anyhow::Result<Exit> {
    let seen = see(common, kind, name).await?;
    let whole = match (name, <[Value; 1]>::try_from(seen.objects.clone())) {
        (Some(_), Ok([one])) => one,
        _ => json!({"apiVersion": "v1", "kind": "List", "items": seen.objects}),
    };
    match common.output {
        Some(Format::Json) => {
            output::print(format_args!("{}\n", serde_json::to_string_pretty(&whole)?))?
        }
        Some(Format::Yaml) => output::print(serde_saphyr::to_string(&whole)?)?,
        Some(Format::Wide) | None if seen.objects.is_empty() => {
            output::tell(format_args!("No {} found.", kind.word()))
        }
        format => {
            let wide = format == Some(Format::Wide);
            output::print(table::of_objects(
                kind,
                &seen.objects,
                wide,
                jiff::Timestamp::now(),
            ))?;
        }
    }
    Ok(Exit::Done)
}
