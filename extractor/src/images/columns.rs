//! Which columns of a manifest hold the paths, the images and the labels.
//!
//! Must not know the formats.

/// Column names as typed; what is not given is found by the usual names.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Manifests (.csv, .tsv, .parquet)")]
pub struct Columns {
    /// Column of paths [default: the first of path, file_name, filename, file, image and the like].
    #[arg(long, value_name = "NAME")]
    pub path_column: Option<String>,
    /// Parquet: column of the images' bytes [default: image, img, image_bytes, bytes and the like].
    #[arg(long, value_name = "NAME", conflicts_with = "path_column")]
    pub image_column: Option<String>,
    /// Column of labels, or key in a WebDataset's .json [default: label, labels, class and the like].
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
}

pub(super) const PATH_FLAG: &str = "--path-column";
pub(super) const IMAGE_FLAG: &str = "--image-column";
pub(super) const LABEL_FLAG: &str = "--label-column";

/// A longer text is no label.
pub(super) const MAX_LABEL_BYTES: usize = 1000;

pub(super) const PATHS: &[&str] = &[
    "path",
    "file_path",
    "filepath",
    "image_path",
    "img_path",
    "file_name",
    "filename",
    "file",
    "image_name",
    "image",
    "img",
];
pub(super) const IMAGES: &[&str] = &[
    "image",
    "img",
    "image_bytes",
    "bytes",
    "picture",
    "jpg",
    "jpeg",
    "png",
    "content",
    "data",
];
const LABELS: &[&str] = &[
    "label",
    "labels",
    "class",
    "class_name",
    "classname",
    "label_name",
    "category",
    "cls",
    "target",
    "y",
];

impl Columns {
    /// The first flag that is given and is none of those that `means` something.
    pub(super) fn given_but(&self, means: &[&str]) -> Option<&'static str> {
        let flags = [
            (&self.path_column, PATH_FLAG),
            (&self.image_column, IMAGE_FLAG),
            (&self.label_column, LABEL_FLAG),
        ];
        flags
            .into_iter()
            .find(|(name, flag)| name.is_some() && !means.contains(flag))
            .map(|(_, flag)| flag)
    }

    /// Position of the column of labels, if there is one.
    pub(super) fn label(&self, names: &[String]) -> Result<Option<usize>, String> {
        find(names, self.label_column.as_deref(), LABELS)
    }

    /// Position of the column of paths.
    pub(super) fn path(&self, names: &[String]) -> Result<Option<usize>, String> {
        find(names, self.path_column.as_deref(), PATHS)
    }

    /// The label in a WebDataset's JSON member.
    pub(super) fn label_in(&self, value: &serde_json::Value) -> Option<String> {
        let object = value.as_object()?;
        let names: Vec<String> = object.keys().cloned().collect();
        let key = &names[self.label(&names).ok()??];
        match &object[key] {
            serde_json::Value::String(text) => {
                let text = text.trim();
                let is_label = !text.is_empty() && text.len() <= MAX_LABEL_BYTES;
                is_label.then(|| text.to_owned())
            }
            value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                Some(value.to_string())
            }
            _ => None,
        }
    }
}

/// Position of the column `wanted`, or else of the first of `usual` that is there, in any case.
pub(super) fn find(
    names: &[String],
    wanted: Option<&str>,
    usual: &[&str],
) -> Result<Option<usize>, String> {
    match wanted {
        Some(wanted) => match names.iter().position(|name| name == wanted) {
            Some(position) => Ok(Some(position)),
            None => Err(format!("has no column `{wanted}`; it has {}", list(names))),
        },
        None => Ok(usual.iter().find_map(|name| {
            let same = |n: &String| n.trim().eq_ignore_ascii_case(name);
            names.iter().position(same)
        })),
    }
}

/// The columns' names, for people.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => "no columns".to_owned(),
        names => format!("the columns {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_in_any_case() {
        let names = ["id", "Image", "File_Name", "Labels"].map(str::to_owned);
        let columns = Columns::default();
        assert_eq!(columns.path(&names), Ok(Some(2)));
        assert_eq!(columns.label(&names), Ok(Some(3)));
        let columns = Columns {
            path_column: Some("x".to_owned()),
            ..Columns::default()
        };
        let error = columns.path(&names).unwrap_err();
        assert!(error.contains("id, Image, File_Name, Labels"), "{error}");
    }
}
