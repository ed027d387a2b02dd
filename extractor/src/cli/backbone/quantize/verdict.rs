//! What `extractor backbone quantize` says of the two models it compared.

use std::path::Path;

use serde_json::json;

use super::Args;
use crate::backbone::Model;
use crate::backbone::quantized::Finished;
use crate::cli::common::OutputArgs;
use crate::files::{counted, escape_path, grouped};
use crate::quantize::compare::Pooled;
use crate::quantize::{Heads, Quantised};

/// How the two models compare.
pub(super) struct Judged {
    /// Features of both, and how fast they came.
    pub pooled: Pooled,
    /// Images among them that also calibrated.
    pub both: usize,
    /// Images left out as a split's test side, where a split was named.
    pub left_out: Option<usize>,
    /// The accuracy of heads on them.
    pub heads: Heads,
    /// What the quantiser said.
    pub quantised: Quantised,
    /// Threads of both.
    pub threads: usize,
}

/// What was accepted and where it lies.
pub(super) struct Written<'a> {
    pub float: &'a Model,
    pub name: &'a str,
    pub finished: &'a Finished,
    pub model: &'a Path,
    pub description: &'a Path,
}

/// `1.25 points of head accuracy`.
pub(super) fn points(points: f64) -> String {
    format!("{points:.2} points of head accuracy")
}

pub(super) fn accuracies(heads: &Heads) -> String {
    let [float, int8] = heads.accuracy.map(|share| 100.0 * share);
    format!(
        "float {float:.2} %, int8 {int8:.2} %, difference {:+.2} with a standard error of {:.2}",
        -heads.loss_points() + 0.0,
        100.0 * heads.standard_error
    )
}

impl Judged {
    /// Prints it.
    pub fn print(&self, args: &Args, written: &Written, output: &OutputArgs) -> anyhow::Result<()> {
        let Written {
            float,
            name,
            finished,
            ..
        } = written;
        let Judged { pooled, heads, .. } = self;
        let cosine = pooled.cosine();
        let [slow, fast] = pooled.images_per_sec;
        let speedup = fast / slow;
        if speedup < 1.0 {
            tracing::warn!(
                "int8 is no faster here: {fast:.1} images/s beside {slow:.1} (hint: it is on processors with VNNI, \
                 and for large models)"
            );
        }
        let sizes = [float.len_bytes, finished.bytes().len() as u64];
        let share = 100.0 * sizes[1] as f64 / sizes[0] as f64;
        let both = match self.both {
            0 => "none of which it was calibrated on".to_owned(),
            n => format!("{} of which it was calibrated on too", grouped(n as u64)),
        };
        let left_out = self.left_out.map_or_else(String::new, |n| {
            let images = counted(n, "image");
            format!("left out  {images} of the split's test side\n")
        });
        let text = format!(
            "backbone  {} ({} bytes, {share:.0} % of {})\nname      {name}, of {}, preset {}\nquantised {}, {}: {} \
             in 8 bits\nspeed     int8 {fast:.1} images/s, float {slow:.1}: {speedup:.2} times as fast ({}, in turns)\n\
             features  cosine {:.5} on average, {:.5} at least, of {} images, {both}\n{left_out}\
             accuracy  {} ({} folds of {} images)\n\
             accepted  int8 costs {}, --max-drop is {}\n",
            escape_path(written.model),
            grouped(sizes[1]),
            grouped(sizes[0]),
            float.spec.name,
            float.spec.preset,
            counted(args.calibrate as usize, "image"),
            args.method,
            counted(self.quantised.quantized_weights, "layer"),
            counted(self.threads, "thread"),
            cosine.mean,
            cosine.least,
            grouped(pooled.labels.len() as u64),
            accuracies(heads),
            heads.folds,
            grouped(heads.images as u64),
            points(heads.loss_points()),
            args.max_drop,
        );
        output.print(
            &json!({
                "backbone": escape_path(written.model),
                "description": escape_path(written.description),
                "name": name,
                "digest": finished.digest(),
                "quantized_from": float.spec.digest,
                "preset": float.spec.preset,
                "input_size": float.spec.input_size,
                "calibrated_on": args.calibrate,
                "calibrated_and_judged": self.both,
                "left_out": self.left_out,
                "method": args.method,
                "quantizer": self.quantised.quantizer,
                "quantized_weights": self.quantised.quantized_weights,
                "quantize_secs": self.quantised.seconds,
                "size_bytes": { "float": sizes[0], "int8": sizes[1] },
                "images_per_sec": { "float": slow, "int8": fast, "ratio": speedup },
                "threads": self.threads,
                "batch_size": args.batch_size,
                "cosine": cosine,
                "heads": heads,
                "loss_points": heads.loss_points(),
                "max_drop": args.max_drop,
            }),
            &text,
        )
    }
}
