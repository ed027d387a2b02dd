//! What `head-trainer explain` says to people.

use std::path::Path;

use extractor::files::{escape, escape_path};

use super::{Explained, Work};
use crate::cli::table::{Column, aligned, percent};

/// The explanations as a table, and what their pictures' colours mean.
pub(super) fn text(work: &Work, images: &[Explained], run: &Path, folder: &Path) -> String {
    let classes = &work.head().classes;
    let name = |class: &str| escape(class.as_bytes());
    let colours = match &classes[..] {
        [first, second] => format!(
            "blue speaks for {}, orange for {}, no colour for neither",
            name(first),
            name(second)
        ),
        _ => "yellow speaks for the class most, violet least".to_owned(),
    };
    let mut text = format!(
        "run      {}\nstore    {}\ncolours  {colours}\nlogit    mean of the map + bias\n\n",
        escape_path(run),
        escape_path(work.explainer.store().folder()),
    );
    if images.is_empty() {
        text += "no mistakes\n";
        return text;
    }
    let columns = [
        Column::Left("image"),
        Column::Left("label"),
        Column::Left("predicted"),
        Column::Right("prob."),
        Column::Left("map of"),
        Column::Right("logit"),
        Column::Right("mean"),
        Column::Right("bias"),
        Column::Left("picture"),
    ];
    let rows = images.iter().map(|image| {
        let predicted = classes.iter().position(|class| *class == image.predicted);
        let probability = predicted.map(|class| f64::from(image.probabilities[class]));
        let id = || image.id.short();
        vec![
            image.path.clone().unwrap_or_else(id),
            image.label.as_deref().map_or("-".to_owned(), name),
            name(&image.predicted),
            percent(probability),
            name(&image.class),
            format!("{:.4}", image.logit),
            format!("{:.4}", image.mean),
            format!("{:.4}", image.bias),
            image.picture.clone(),
        ]
    });
    text += &aligned(&columns, &rows.collect::<Vec<_>>());
    let record = folder.join("explain.json");
    text + &format!("\nmaps in {}\n", escape_path(&record))
}
