//! Safetensors files as this crate keeps its weights in: a header with sorted keys, so that equal
//! weights are equal files, and what its formats have in common (format, version, classes,
//! decision). The safetensors crate reads them; it does not write them, as its metadata is a hash
//! map and so in another order in every process. Knows nothing of what the weights are for.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use crate::head::Decision;

/// A tensor to be written.
pub(crate) struct Tensor<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Values<'a>,
}

/// The numbers of a tensor.
pub(crate) enum Values<'a> {
    /// 32 bits each.
    F32(&'a [f32]),
    /// 64 bits each.
    F64(&'a [f64]),
}

/// The file's bytes: the tensors' numbers in the order given, little-endian.
pub(crate) fn to_bytes(metadata: &BTreeMap<String, String>, tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        let dtype = match tensor.values {
            Values::F32(values) => {
                data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                "F32"
            }
            Values::F64(values) => {
                data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                "F64"
            }
        };
        let entry = serde_json::json!({
            "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
        });
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A file's tensors and metadata.
pub(crate) fn read(
    bytes: &[u8],
) -> Result<(SafeTensors<'_>, BTreeMap<String, String>), SafeTensorError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok((
        SafeTensors::deserialize(bytes)?,
        metadata.into_iter().collect(),
    ))
}

/// Takes `format` and `version` out of a file's metadata, or says what is wrong with them. The
/// first of `versions` is today's.
pub(crate) fn take_format(
    metadata: &mut BTreeMap<String, String>,
    format: &str,
    versions: &[&str],
) -> Result<(), String> {
    for (key, expected) in [("format", &[format][..]), ("version", versions)] {
        match metadata.remove(key) {
            Some(found) if expected.contains(&found.as_str()) => {}
            Some(found) => {
                let expected = expected[0];
                return Err(format!("its {key} is `{found}`, expected `{expected}`"));
            }
            None => return Err(format!("its metadata has no `{key}`")),
        }
    }
    Ok(())
}

/// Puts class names and decision into a file's metadata.
pub(crate) fn insert_classes(
    metadata: &mut BTreeMap<String, String>,
    classes: &[String],
    decision: &Decision,
) {
    let mut insert = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    insert("classes", serde_json::json!(classes).to_string());
    let Decision {
        temperature,
        threshold,
    } = *decision;
    let usual = Decision::default();
    if temperature != usual.temperature {
        insert("temperature", temperature.to_string());
    }
    if threshold != usual.threshold {
        insert("threshold", threshold.to_string());
    }
}

/// Takes class names and decision out of a file's metadata, or says what is wrong with them.
pub(crate) fn take_classes(
    metadata: &mut BTreeMap<String, String>,
) -> Result<(Vec<String>, Decision), String> {
    let mut take = |key: &str| metadata.remove(key);
    let classes = take("classes").unwrap_or_default();
    let classes: Vec<String> = serde_json::from_str(&classes)
        .ok()
        .filter(|names: &Vec<String>| names.len() >= 2)
        .ok_or_else(|| format!("its classes are `{classes}`, expected two names or more"))?;
    let mut decision = Decision::default();
    for (key, number, range) in [
        (
            "temperature",
            &mut decision.temperature,
            f64::MIN_POSITIVE..=f64::MAX,
        ),
        ("threshold", &mut decision.threshold, 0.0..=1.0),
    ] {
        if let Some(text) = take(key) {
            let found = text.parse().ok().filter(|x| range.contains(x));
            *number = found.ok_or_else(|| format!("its {key} is `{text}`"))?;
        }
    }
    Ok((classes, decision))
}

/// The finite F32 values of tensor `name`, if its shape is as it should be.
pub(crate) fn values(
    tensors: &SafeTensors<'_>,
    name: &str,
    shape_is_right: impl Fn(&[usize]) -> bool,
) -> Result<Vec<f32>, String> {
    let data = data(tensors, name, Dtype::F32, shape_is_right)?;
    let (quads, _) = data.as_chunks::<4>();
    let values: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
    match values.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(format!("its tensor `{name}` holds {x}")),
        None => Ok(values),
    }
}

/// The F64 values of tensor `name`, if its shape is as it should be.
pub(crate) fn wide_values(
    tensors: &SafeTensors<'_>,
    name: &str,
    shape_is_right: impl Fn(&[usize]) -> bool,
) -> Result<Vec<f64>, String> {
    let data = data(tensors, name, Dtype::F64, shape_is_right)?;
    let (eights, _) = data.as_chunks::<8>();
    Ok(eights.iter().map(|x| f64::from_le_bytes(*x)).collect())
}

fn data<'a>(
    tensors: &SafeTensors<'a>,
    name: &str,
    dtype: Dtype,
    shape_is_right: impl Fn(&[usize]) -> bool,
) -> Result<&'a [u8], String> {
    let tensor = tensors
        .tensor(name)
        .map_err(|_| format!("it has no tensor `{name}`"))?;
    if tensor.dtype() != dtype || !shape_is_right(tensor.shape()) {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(format!(
            "its tensor `{name}` is {dtype:?} of shape {shape:?}"
        ));
    }
    Ok(tensor.data())
}
