//! A baseline's result as text for people.

use std::fmt::Write as _;

use extractor::files::{escape_path, grouped};

use crate::cli::result::{images, left_out, result};
use crate::dataset::PixelSet;
use crate::run::RunRecord;

pub(super) fn text(set: &PixelSet, record: &RunRecord, folder: &str) -> String {
    let mut text = format!("pixels     {}\n", escape_path(set.store.folder()));
    text += &images(record);
    text += &left_out(set.left_out);
    let trainable = grouped(record.trainable_parameters as u64);
    let total = record.total_parameters;
    let total = grouped(total.unwrap_or(record.trainable_parameters) as u64);
    let _ = writeln!(
        text,
        "baseline   {trainable} trainable parameters of {total}"
    );
    text += &result(record);
    let secs = |name: &str| record.secs.get(name).copied().unwrap_or_default();
    let _ = writeln!(
        text,
        "time       {:.2} s images, {:.2} s training",
        secs("load"),
        secs("fit")
    );
    let _ = writeln!(text, "run        {folder}");
    text
}
