//! TensorBoard event files of a run, as Keras's `TensorBoard(update_freq='batch')` writes them.
//!
//! # Format
//!
//! An event file is a sequence of TFRecords: the payload's length (u64), the length's masked
//! CRC-32C (u32), the payload, its masked CRC-32C (u32), all little-endian. A payload is a
//! protobuf message `tensorflow.Event`; the first one says the version. A scalar is a tensor of
//! shape `[]` that carries the name of the plugin `scalars`, since TensorFlow 2. Below, a message
//! has the fields that this needs and no others.
//!
//! | file in | tag | step | value |
//! |---|---|---|---|
//! | `train` | `batch_accuracy`, `batch_loss` | number of the step, from 1 | mean since the epoch's start |
//! | `train` | `epoch_accuracy`, `epoch_loss`, `epoch_learning_rate` | number of the epoch, from 0 | the epoch's |
//! | `validation` | `evaluation_accuracy_vs_iterations`, `evaluation_loss_vs_iterations` | steps so far | the epoch's |
//! | `validation` | `epoch_accuracy`, `epoch_loss` | number of the epoch, from 0 | the epoch's |
//!
//! A solver without steps has the `epoch_` tags alone, a run without validation no `validation`.
//! The times of an epoch's steps are spread evenly over it, as no step's own is recorded.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use extractor::files::{FileError, sync_folder};
use prost::Message;

use crate::solver::{Epoch, Step};

const FILE_VERSION: &str = "brain.Event:2";
const WRITER: &str = "headstart";
/// The plugin that draws scalars.
const PLUGIN: &str = "scalars";
/// `tensorflow.DataType.DT_FLOAT`
const DT_FLOAT: i32 = 1;

/// `tensorflow.Event`
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "10")]
    source_metadata: Option<SourceMetadata>,
}

/// `tensorflow.Summary`
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value`
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

/// `tensorflow.TensorProto`
#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", tag = "4")]
    tensor_content: Vec<u8>,
}

/// `tensorflow.TensorShapeProto`; without an axis: a scalar's.
#[derive(Clone, PartialEq, Message)]
struct TensorShape {}

/// `tensorflow.SummaryMetadata`
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

/// `tensorflow.SummaryMetadata.PluginData`
#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

/// `tensorflow.SourceMetadata`
#[derive(Clone, PartialEq, Message)]
struct SourceMetadata {
    #[prost(string, tag = "1")]
    writer: String,
}

impl Event {
    fn version(wall_time: f64) -> Event {
        Event {
            wall_time,
            file_version: Some(FILE_VERSION.to_owned()),
            source_metadata: Some(SourceMetadata {
                writer: WRITER.to_owned(),
            }),
            ..Event::default()
        }
    }

    fn scalar(wall_time: f64, step: u64, tag: &str, value: f64) -> Event {
        let value = Value {
            tag: tag.to_owned(),
            tensor: Some(Tensor {
                dtype: DT_FLOAT,
                tensor_shape: Some(TensorShape {}),
                tensor_content: (value as f32).to_le_bytes().to_vec(),
            }),
            metadata: Some(Metadata {
                plugin_data: Some(PluginData {
                    plugin_name: PLUGIN.to_owned(),
                }),
            }),
        };
        Event {
            wall_time,
            step: i64::try_from(step).expect("a step number fits 63 bits"),
            summary: Some(Summary { value: vec![value] }),
            ..Event::default()
        }
    }
}

/// The CRC-32C that a TFRecord holds: rotated and shifted, so that the checksum of data with
/// checksums in it is a good one, too.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// Appends `payload` to `file` as one TFRecord.
fn push_record(file: &mut Vec<u8>, payload: &[u8]) {
    let length = (payload.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc(&length).to_le_bytes());
    file.extend(payload);
    file.extend(masked_crc(payload).to_le_bytes());
}

/// An event file in the making.
struct EventFile(Vec<u8>);

impl EventFile {
    fn new(wall_time: f64) -> EventFile {
        let mut file = EventFile(Vec::new());
        file.push(&Event::version(wall_time));
        file
    }

    fn push(&mut self, event: &Event) {
        push_record(&mut self.0, &event.encode_to_vec());
    }

    /// Accuracy and loss, in the order of Keras's logs, under tags that hold `{}` for the name.
    fn push_pair(&mut self, wall_time: f64, step: u64, tag: &str, accuracy: f64, loss: f64) {
        for (name, value) in [("accuracy", accuracy), ("loss", loss)] {
            self.push(&Event::scalar(
                wall_time,
                step,
                &tag.replace("{}", name),
                value,
            ));
        }
    }
}

/// What event files are made of.
pub(super) struct Logged<'a> {
    /// Every epoch.
    pub history: &'a [Epoch],
    /// Every step, in order.
    pub steps: &'a [Step],
    /// Step size at each epoch's end; empty if the solver has none.
    pub learning_rates: &'a [f64],
    /// When the last epoch ended.
    pub end: SystemTime,
}

/// The bytes of the two files, `train` and, where there is any validation, `validation`.
fn files(logged: &Logged) -> (Vec<u8>, Option<Vec<u8>>) {
    let total_secs: f64 = logged.history.iter().map(|epoch| epoch.secs).sum();
    let mut start = secs_since_1970(logged.end) - total_secs;
    let mut train = EventFile::new(start);
    let mut validation = None;
    let mut rest = logged.steps;
    for (i, epoch) in logged.history.iter().enumerate() {
        let steps;
        (steps, rest) = rest.split_at(rest.iter().take_while(|s| s.epoch == epoch.epoch).count());
        for (done, step) in (1..).zip(steps) {
            let time = start + epoch.secs * f64::from(done) / steps.len() as f64;
            let (accuracy, loss) = (step.running_accuracy, step.running_loss);
            train.push_pair(time, step.step, "batch_{}", accuracy, loss);
        }
        let end = start + epoch.secs;
        let number = u64::from(epoch.epoch) - 1;
        let (accuracy, loss) = (epoch.train_accuracy, epoch.train_loss);
        train.push_pair(end, number, "epoch_{}", accuracy, loss);
        if let Some(rate) = logged.learning_rates.get(i) {
            train.push(&Event::scalar(end, number, "epoch_learning_rate", *rate));
        }
        if let (Some(accuracy), Some(loss)) = (epoch.validation_accuracy, epoch.validation_loss) {
            let file = validation.get_or_insert_with(|| EventFile::new(end));
            if let Some(last) = steps.last() {
                let tag = "evaluation_{}_vs_iterations";
                file.push_pair(end, last.step, tag, accuracy, loss);
            }
            file.push_pair(end, number, "epoch_{}", accuracy, loss);
        }
        start = end;
    }
    (train.0, validation.map(|file| file.0))
}

fn secs_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
}

/// Writes the event files below `folder`, which nobody reads yet and the caller syncs:
/// `train/events.out.tfevents.<secs>.headstart.v2` and `validation/..` of the same name.
///
/// # Errors
/// When a folder or file cannot be written.
pub(super) fn write(folder: &Path, logged: &Logged) -> Result<(), FileError> {
    let (train, validation) = files(logged);
    let secs = secs_since_1970(logged.end) as u64;
    let name = format!("events.out.tfevents.{secs:010}.{WRITER}.v2");
    for (side, bytes) in [("train", Some(train)), ("validation", validation)] {
        if let Some(bytes) = bytes {
            let folder = folder.join(side);
            fs::create_dir(&folder).map_err(FileError::new("create folder", &folder))?;
            let path = folder.join(&name);
            File::create_new(&path)
                .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
                .map_err(FileError::new("write", &path))?;
            sync_folder(&folder)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
