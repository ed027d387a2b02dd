//! `head-trainer audit`.

mod text;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::digest::Digest;
use extractor::files::{escape_path, write_atomically};
use extractor::index::Index;
use extractor::view::Views;
use serde_json::{Value, json};

use super::data::DataArgs;
use super::out::Out;
use crate::audit::held_out::Labelled;
use crate::audit::report::{ExactDuplicate, Report};
use crate::audit::{Audit, AuditConfig, audit};
use crate::dataset::{Dataset, WantedViews};

/// Flags of `head-trainer audit`, as typed.
#[derive(Debug, clap::Args)]
#[command(mut_arg("views", |views| views.hide(true)))] // an audit looks at images as they are
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Parts that the images are dealt out to; each is judged by a head that saw the others.
    #[arg(long, value_name = "N", default_value_t = AuditConfig::default().folds)]
    folds: u32,
    /// Seed of the parts.
    #[arg(long, value_name = "N", default_value_t = AuditConfig::default().seed)]
    seed: u64,
    /// Penalty of the heads, on standardised features [default: of 1, 0.3, 0.1, ... 0.001 the
    /// one with the lowest held-out loss].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    l2: Option<f64>,
    /// Cosine of pooled features from which on two images are near-duplicates.
    #[arg(long, value_name = "X", default_value_t = AuditConfig::default().similarity)]
    similarity: f64,
    /// Show this many of each kind; the tables have them all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Folder of the tables [default: a new one in DATA_DIR/audits].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    /// Runs the verb.
    pub fn run(mut self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let config = AuditConfig {
            folds: self.folds,
            seed: self.seed,
            l2: self.l2,
            similarity: self.similarity,
        };
        config.check()?;
        let identity = WantedViews::Only(Views::identity());
        ensure!(
            [&WantedViews::All, &identity].contains(&&self.data.views),
            "an audit looks at images as they are (hint: leave --views out)"
        );
        self.data.images.set_threads()?;
        let index_path = self.data.images.index(output)?;
        let store = self.data.find_store(output)?;
        self.data.views = identity;
        let out = Out::new(self.out.as_deref(), &output.data_dir.join("audits"))?;

        let dataset = self.data.load(&store, &index_path, output)?;
        let images = Labelled {
            rows: dataset.pooled.rows(),
            labels_n: &dataset.labels_n,
            classes: dataset.classes.len(),
        };
        let audit = audit(images, &config)?;
        let index = Index::read(&index_path)?;
        ensure!(
            index.digest() == dataset.index_digest,
            "the index {} was written anew meanwhile (hint: run the same command again)",
            escape_path(&index_path)
        );
        let report = Report::new(&audit, &dataset, &index);

        let key = json!({
            "store_key": dataset.store.key().digest().to_string(),
            "index": dataset.index_digest.to_string(),
            "split": dataset.split.digest.to_string(),
            "config": config,
        });
        let digest = Digest::of(key.to_string().as_bytes());
        let mut summary = summary(&audit, &dataset, &report);
        summary["key"] = key;
        summary["secs"] = json!(started.elapsed().as_secs_f64());
        report.write(out.path())?;
        let record = serde_json::to_string_pretty(&summary)? + "\n";
        write_atomically(&out.path().join("audit.json"), record.as_bytes())?;
        let folder = out.publish(&digest)?;

        let text = text::text(&audit, &dataset, &report, self.top, &escape_path(&folder));
        summary["audit"] = json!(escape_path(&folder));
        let first = |rows: Value| match rows {
            Value::Array(mut rows) => {
                rows.truncate(self.top);
                rows
            }
            _ => Vec::new(),
        };
        summary["label_errors"] = json!(first(json!(report.label_errors)));
        summary["near_duplicates"] = json!(first(json!(report.near_duplicates)));
        summary["exact_duplicates"] = json!(first(json!(report.exact_duplicates)));
        output.print(&summary, &text)?;
        Ok(Outcome::Done)
    }
}

/// What an audit comes to in numbers.
fn summary(audit: &Audit, dataset: &Dataset, report: &Report) -> Value {
    let (held_out, errors) = (&audit.held_out, &audit.errors);
    let near = &report.near_duplicates;
    let exact = &report.exact_duplicates;
    json!({
        "classes": dataset.classes,
        "images": dataset.ids.len(),
        "judged": held_out.judged.len(),
        "kept_together": audit.kept_together,
        "head": held_out.chosen,
        "tried": held_out.tried,
        "thresholds": errors.thresholds_k,
        "confident_joint": errors.confident_joint_kk.chunks(dataset.classes.len()).collect::<Vec<_>>(),
        "counts": {
            "estimated_label_errors": errors.estimated_errors(),
            "label_errors": report.label_errors.len(),
            "confident_label_errors": report.label_errors.iter().filter(|e| e.confident).count(),
            "near_duplicates": audit.near.total,
            "near_duplicates_listed": near.len(),
            "near_duplicates_crossing": near.iter().filter(|p| p.crosses_split).count(),
            "near_duplicates_differing": near.iter().filter(|p| p.labels_differ).count(),
            "exact_duplicates": images(exact, |_| true),
            "exact_duplicates_differing": images(exact, |copy| copy.labels_differ),
        },
    })
}

/// Images among the rows that count; those of an image follow each other.
fn images(copies: &[ExactDuplicate], counts: impl Fn(&ExactDuplicate) -> bool) -> usize {
    let images = copies.chunk_by(|a, b| a.id == b.id);
    images.filter(|copies| counts(&copies[0])).count()
}
