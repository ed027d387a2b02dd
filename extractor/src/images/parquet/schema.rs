//! Which of a Parquet file's columns hold the images, the names and the labels.

use arrow::datatypes::{DataType, Field};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::images::columns::{self, Columns};

/// The columns to read, by number of the leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    /// The images' bytes.
    pub bytes: Option<usize>,
    /// Paths of files, or names of images.
    pub name: Option<usize>,
    /// Whether the names are in the column of the images.
    pub name_of_image: bool,
    /// Labels.
    pub label: Option<usize>,
}

impl Chosen {
    /// Whether the rows hold the images themselves.
    pub fn of_bytes(&self) -> bool {
        self.bytes.is_some()
    }
}

/// Chooses by flags, names and types.
pub(super) fn choose(metadata: &ArrowReaderMetadata, wanted: &Columns) -> Result<Chosen, String> {
    let fields = metadata.schema().fields();
    let names: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
    let leaves = metadata.parquet_schema().columns();
    let leaf = |path: &[&str]| {
        let is = |parts: &[String]| parts.iter().map(String::as_str).eq(path.iter().copied());
        leaves.iter().position(|c| is(c.path().parts()))
    };
    let label = match wanted.label(&names)? {
        Some(at) => Some(leaf(&[&names[at]]).ok_or_else(|| {
            format!(
                "has a label column `{}` of type {}",
                names[at],
                fields[at].data_type()
            )
        })?),
        None => None,
    };
    let image = match (&wanted.image_column, &wanted.path_column) {
        (Some(name), _) => {
            let at = columns::find(&names, Some(name), &[])?.expect("found, or an error");
            if !holds_images(&fields[at]) {
                return Err(format!(
                    "has in column `{name}` the type {}, and not bytes or struct<bytes, path>",
                    fields[at].data_type()
                ));
            }
            Some(at)
        }
        (None, Some(_)) => None,
        (None, None) => columns::IMAGES
            .iter()
            .filter_map(|usual| columns::find(&names, None, &[usual]).ok().flatten())
            .find(|&at| holds_images(&fields[at])),
    };
    if let Some(at) = image {
        let (bytes, own_name) = match fields[at].data_type() {
            DataType::Struct(_) => (leaf(&[&names[at], "bytes"]), leaf(&[&names[at], "path"])),
            _ => (leaf(&[&names[at]]), None),
        };
        let bytes = bytes.ok_or("has an image column that is nested in a way that is not read")?;
        // Beside bytes, a column of paths is where the names are.
        let other = columns::PATHS
            .iter()
            .filter_map(|usual| columns::find(&names, None, &[usual]).ok().flatten())
            .find(|&other| other != at && is_text(fields[other].data_type()));
        return Ok(Chosen {
            bytes: Some(bytes),
            name: own_name.or_else(|| leaf(&[&names[other?]])),
            name_of_image: own_name.is_some(),
            label,
        });
    }
    let path = match &wanted.path_column {
        Some(_) => wanted.path(&names)?,
        None => columns::PATHS
            .iter()
            .filter_map(|usual| columns::find(&names, None, &[usual]).ok().flatten())
            .find(|&at| is_text(fields[at].data_type())),
    };
    let name = path.and_then(|at| match is_text(fields[at].data_type()) {
        true => leaf(&[&names[at]]),
        false => None,
    });
    match name {
        Some(name) => Ok(Chosen {
            bytes: None,
            name: Some(name),
            name_of_image: false,
            label,
        }),
        None => {
            let typed = fields
                .iter()
                .map(|f| format!("{} ({})", f.name(), f.data_type()));
            Err(format!(
                "has no column of images or paths by a usual name and type; it has {} (hint: \
                 --image-column NAME or --path-column NAME, --label-column NAME)",
                columns::list(&typed.collect::<Vec<_>>())
            ))
        }
    }
}

fn holds_images(field: &Field) -> bool {
    match field.data_type() {
        DataType::Struct(parts) => parts
            .iter()
            .any(|part| part.name() == "bytes" && is_bytes(part.data_type())),
        other => is_bytes(other),
    }
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_text(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        _ => false,
    }
}
