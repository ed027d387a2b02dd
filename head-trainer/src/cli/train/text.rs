//! A run's result as text for people.

use std::fmt::Write as _;

use extractor::files::{escape_path, grouped};

use crate::cli::result::{images, left_out, result};
use crate::dataset::Dataset;
use crate::run::RunRecord;

pub(super) fn text(dataset: &Dataset, record: &RunRecord, folder: &str) -> String {
    let mut text = String::new();
    let store = &dataset.store;
    let _ = writeln!(text, "store      {}", escape_path(store.folder()));
    let _ = writeln!(
        text,
        "backbone   {}, preset {}{}",
        store.backbone_name(),
        store.key().preset,
        if store.backbone_trained() == Some(false) {
            " (untrained)"
        } else {
            ""
        }
    );
    text += &images(record);
    if !dataset.views.is_identity() {
        let rows = grouped(dataset.train_rows().len() as u64);
        let views = &dataset.views;
        let _ = writeln!(
            text,
            "views      train {views} ({rows} rows); validation and test identity"
        );
    }
    text += &left_out(dataset.left_out);
    let parameters = grouped(record.trainable_parameters as u64);
    let _ = writeln!(text, "head       {parameters} trainable parameters");
    text += &result(record);
    let secs = |name: &str| record.secs.get(name).copied().unwrap_or_default();
    let _ = writeln!(
        text,
        "time       {:.2} s features, {:.2} s training",
        secs("load"),
        secs("fit")
    );
    let _ = writeln!(text, "run        {folder}");
    if store.backbone_trained() == Some(false) {
        text += "\nThe backbone is untrained: this shows that the pipeline works, not how good it is.\n\
                 For the real thing: make backbone, then make features train-head DATA=DIR\n";
    }
    text
}
