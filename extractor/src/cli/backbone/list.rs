//! `extractor backbone list`.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::backbone::described;
use crate::backbone::registry::{self, Entry};
use crate::cli::common::{Outcome, OutputArgs};
use crate::digest::Digest;
use crate::files::{escape_path, printable};
use crate::preprocess::Preset;

/// A backbone that is there.
#[derive(Serialize)]
struct OnDisk {
    name: String,
    path: String,
    size_bytes: u64,
    preset: Option<Preset>,
    licence: Option<String>,
    trained: Option<bool>,
    note: Option<String>,
    /// Why it cannot be used as it is.
    problem: Option<String>,
}

/// Prints what is known by name, and what is there.
pub(super) fn run(output: &OutputArgs) -> anyhow::Result<Outcome> {
    let folder = output.data_dir.join("backbones");
    let (entries, exported) = (registry::entries(), registry::exported());
    let on_disk = on_disk(&folder);
    let mut text = String::from("known by name:\n");
    for Entry {
        name,
        size_bytes,
        preset,
        licence,
        what,
        ..
    } in &entries
    {
        text += &row(name, Some(*size_bytes), &preset.to_string(), licence, what);
    }
    for exported in &exported {
        let preset = exported.preset.to_string();
        let what = format!("{}: {}", exported.what, exported.how);
        text += &row(&exported.name, None, &preset, &exported.licence, &what);
    }
    let none = if on_disk.is_empty() { " none" } else { "" };
    text += &format!("in {}:{}\n", escape_path(&folder), none);
    for backbone in &on_disk {
        let preset = backbone
            .preset
            .map_or("?".to_owned(), |preset| preset.to_string());
        let what = match (&backbone.problem, backbone.trained) {
            (Some(problem), _) => problem,
            (None, Some(false)) => "untrained",
            (None, _) => backbone.note.as_deref().unwrap_or_default(),
        };
        let licence = backbone.licence.as_deref().unwrap_or("?");
        text += &row(
            &backbone.name,
            Some(backbone.size_bytes),
            &preset,
            licence,
            what,
        );
    }
    let known: Vec<_> = entries
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name,
                "what": entry.what,
                "url": entry.url.as_str(),
                "size_bytes": entry.size_bytes,
                "sha256": entry.sha256,
                "preset": entry.preset,
                "licence": entry.licence,
            })
        })
        .collect();
    output.print(
        &json!({ "known": known, "exported": exported, "on_disk": on_disk }),
        &text,
    )?;
    Ok(Outcome::Done)
}

fn row(name: &str, size_bytes: Option<u64>, preset: &str, licence: &str, what: &str) -> String {
    // For people: far below one digit shown.
    let size = size_bytes.map_or(String::new(), |bytes| {
        format!("{:.1} MB", bytes as f64 / 1e6)
    });
    let row = format!("  {name:<21}{size:>9}  {preset:<9} {licence:<13} {what}");
    row.trim_end().to_owned() + "\n"
}

/// The models in `folder`, by name. One that cannot be read is listed with the reason.
fn on_disk(folder: &Path) -> Vec<OnDisk> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "onnx") && path.is_file())
        .collect();
    paths.sort();
    paths.iter().map(|path| look_at(path)).collect()
}

fn look_at(path: &Path) -> OnDisk {
    let stem = path.file_stem().unwrap_or_default();
    let read = Digest::of_file(path).map_err(anyhow::Error::from);
    let description = read.and_then(|digest| Ok(described(path, &digest)?));
    let (description, problem) = match description {
        Ok(description) => (description, None),
        Err(error) => (Default::default(), Some(printable(&format!("{error:#}")))),
    };
    let shown = |text: Option<String>| text.map(|text| printable(&text));
    OnDisk {
        name: printable(&stem.to_string_lossy()),
        path: escape_path(path),
        size_bytes: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
        preset: description.preset,
        licence: shown(description.licence),
        trained: description.trained,
        note: shown(description.note),
        problem,
    }
}
