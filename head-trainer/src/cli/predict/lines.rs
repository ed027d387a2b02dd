//! How a prediction is written: a line of text, of JSON or of CSV.
//!
//! Probabilities in JSON and CSV have all the digits that an f32 needs.

use std::io::{self, Write};

use extractor::digest::ImageId;
use extractor::files::escape;

use crate::cli::table::percent;
use crate::predict::Prediction;
use crate::predict::line::{Class, Line};

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    Csv,
}

/// Writes predictions.
pub(super) struct Lines {
    form: Form,
    classes: Vec<String>,
    width: usize, // of a label in text
    top: usize,
}

impl Lines {
    /// Lines about `classes`, with the `top` most probable ones.
    pub fn new(form: Form, classes: Vec<String>, top: usize) -> Lines {
        let width = |class: &String| escape(class.as_bytes()).chars().count();
        Lines {
            form,
            width: classes.iter().map(width).max().unwrap_or(0),
            top: top.min(classes.len()),
            classes,
        }
    }

    /// What comes before the first line.
    pub fn header(&self, out: &mut impl Write) -> io::Result<()> {
        if self.form != Form::Csv {
            return Ok(());
        }
        let mut header = ["path", "id", "label", "probability"]
            .map(str::to_owned)
            .to_vec();
        for n in 1..=self.top {
            header.extend([format!("label_{n}"), format!("probability_{n}")]);
        }
        csv_line(out, &header)
    }

    /// An image's line.
    pub fn write(
        &self,
        out: &mut impl Write,
        path: &[u8],
        id: &ImageId,
        prediction: &Prediction,
    ) -> io::Result<()> {
        let line = Line::new(Some(path), *id, prediction, &self.classes, self.top);
        match self.form {
            Form::Text => {
                let text = |class: &Class<'_>| {
                    let label = escape(class.label.as_bytes());
                    let probability = percent(Some(class.probability.into()));
                    let width = self.width;
                    format!("{label:<width$}  {probability:>8}  ")
                };
                let said = match &line.top[..] {
                    [] => text(&Class {
                        label: line.label,
                        probability: line.probability,
                    }),
                    top => top.iter().map(text).collect(),
                };
                writeln!(out, "{said}{}", escape(path))
            }
            Form::Json => {
                serde_json::to_writer(&mut *out, &line)?;
                writeln!(out)
            }
            Form::Csv => {
                let mut cells = vec![
                    escape(path),
                    id.to_string(),
                    line.label.to_owned(),
                    line.probability.to_string(),
                ];
                for Class { label, probability } in line.top {
                    cells.extend([label.to_owned(), probability.to_string()]);
                }
                csv_line(out, &cells)
            }
        }
    }
}

fn csv_line(out: &mut impl Write, cells: &[String]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(cells)?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form, top: usize) -> String {
        let classes = ["cat", "a \"dog\", or\ntwo", "fox"].map(str::to_owned);
        let lines = Lines::new(form, classes.to_vec(), top);
        let prediction = Prediction {
            class: 1,
            probabilities_k: vec![0.25, 0.5, 0.25],
            logits_o: vec![0.0, 1.0, 0.0],
        };
        let mut out = Vec::new();
        lines.header(&mut out).unwrap();
        let id = ImageId::of(b"");
        lines
            .write(&mut out, b"x/\xff,y", &id, &prediction)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_of_each_form() {
        let text = "a \"dog\", or\\ntwo   50.00 %  x/\\xFF,y\n";
        assert_eq!(written(Form::Text, 0), text);
        let two = written(Form::Text, 2);
        assert!(two.contains("50.00 %  cat"), "{two}");
        let id = ImageId::of(b"");
        let csv = written(Form::Csv, 1);
        let expected = format!(
            "path,id,label,probability,label_1,probability_1\n\
             \"x/\\xFF,y\",{id},\"a \"\"dog\"\", or\ntwo\",0.5,\"a \"\"dog\"\", or\ntwo\",0.5\n"
        );
        assert_eq!(csv, expected);
        let json: serde_json::Value = serde_json::from_str(&written(Form::Json, 3)).unwrap();
        assert_eq!(json["path"], "x/\\xFF,y");
        assert_eq!(json["label"], "a \"dog\", or\ntwo");
        let top: Vec<&str> = json["top"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["label"].as_str().unwrap())
            .collect();
        assert_eq!(top, ["a \"dog\", or\ntwo", "cat", "fox"]);
    }
}
