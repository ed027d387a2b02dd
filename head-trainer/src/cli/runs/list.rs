//! `head-trainer runs list`.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use extractor::cli::common::{Outcome, OutputArgs};
use extractor::files::escape_path;
use serde_json::{Value, json};

use super::{Filter, Run};
use crate::baseline::BaselineConfig;
use crate::cli::table::{Column, leaf, leaves, loss, percent, table};
use crate::metrics::{Basic, Metrics};
use crate::protocol::{Protocol, Tutorial};
use crate::run::Trained;
use crate::solver::adam::AdamConfig;
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{FitConfig, MinimumConfig, SolverConfig};

/// Flags of `head-trainer runs list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Order of the lines.
    #[arg(long, value_enum, default_value = "time")]
    sort: Sort,
    /// Show the test side, too.
    #[arg(long)]
    test: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Sort {
    /// The newest last.
    Time,
    /// The best last.
    ValAccuracy,
    /// The best last.
    ValLoss,
    /// By the solver's name and settings.
    Solver,
    /// By the backbone's name and preset.
    Backbone,
}

impl Args {
    pub(super) fn run(self, root: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let mut runs = Run::all(root, &self.filter)?;
        // Stable: among equals the newest is last.
        runs.sort_by(|a, b| self.sort.order(a, b));
        let summaries: Vec<Value> = runs.iter().map(|run| run.summary(self.test)).collect();
        output.print(&json!({ "runs": summaries }), &text(root, &runs, self.test))?;
        Ok(Outcome::Done)
    }
}

impl Sort {
    fn order(self, a: &Run, b: &Run) -> Ordering {
        let by = |value: fn(Basic) -> f64| {
            let value = |run: &Run| run.validation().map_or(f64::NEG_INFINITY, value);
            value(a).total_cmp(&value(b))
        };
        match self {
            Sort::Time => Ordering::Equal, // as they are
            Sort::ValAccuracy => by(|m| m.accuracy).then_with(|| by(|m| -m.loss)),
            Sort::ValLoss => by(|m| -m.loss),
            Sort::Solver => what(&a.record.key.config).cmp(&what(&b.record.key.config)),
            Sort::Backbone => {
                let names = ["backbone_name", "preset"];
                let of = |run: &Run| names.map(|name| run.provenance(name).to_owned());
                of(a).cmp(&of(b))
            }
        }
    }
}

/// `baseline` or a head's solver, and those settings that are not the usual ones.
pub(in crate::cli) fn what(trained: &Trained) -> String {
    match trained {
        Trained::Head(config) => solver(config),
        Trained::Baseline { baseline } => {
            let mut words = vec!["baseline".to_owned()];
            let usual = leaves(&json!(BaselineConfig::default()));
            push_unusual(&mut words, &json!(baseline), &usual);
            words.join(" ")
        }
    }
}

/// Adds `name=value` for each of the `settings` that is not among the `usual` ones.
fn push_unusual(words: &mut Vec<String>, settings: &Value, usual: &[(String, Value)]) {
    for setting in leaves(settings) {
        if !usual.contains(&setting) {
            let (path, value) = setting;
            let name = path.rsplit('.').next().unwrap_or_default();
            words.push(format!("{name}={}", leaf(&value)));
        }
    }
}

/// The solver's name and those of its settings that are not the usual ones: `adam epochs=20`.
fn solver(config: &FitConfig) -> String {
    let mut words = vec![config.solver.name().to_owned()];
    let usual = match &config.solver {
        SolverConfig::Adam(adam) => {
            let mut usual = AdamConfig::default();
            if let Protocol::Tutorial(_) = adam.protocol {
                words.push("tutorial".to_owned());
                usual.protocol = Protocol::Tutorial(Tutorial::default());
            }
            SolverConfig::Adam(usual)
        }
        SolverConfig::Lbfgs(_) => SolverConfig::Lbfgs(Lbfgs(MinimumConfig::default())),
        SolverConfig::Linfa(_) => SolverConfig::Linfa(Linfa(MinimumConfig::default())),
    };
    push_unusual(&mut words, &json!(config.solver), &leaves(&json!(usual)));
    if config.standardize {
        words.push("standardize".to_owned());
    }
    if !config.class_weight.is_none() {
        words.push(format!(
            "class_weight={}",
            leaf(&json!(config.class_weight))
        ));
    }
    words.join(" ")
}

fn text(root: &Path, runs: &[Run], test: bool) -> String {
    if runs.is_empty() {
        return format!("no runs in {}\n", escape_path(root));
    }
    let mut columns = vec![
        Column::Left("run"),
        Column::Left("solver"),
        Column::Left("backbone"),
        Column::Left("preset"),
        Column::Left("views"),
        Column::Right("val acc"),
        Column::Right("val loss"),
    ];
    if test {
        columns.extend([Column::Right("test acc"), Column::Right("test loss")]);
    }
    columns.push(Column::Left("index/split"));
    let row = |run: &Run| {
        let figures = |metrics: Option<Basic>| {
            [
                percent(metrics.map(|m| m.accuracy)),
                loss(metrics.map(|m| m.loss)),
            ]
        };
        let mut row = vec![
            run.name(),
            what(&run.record.key.config),
            run.provenance("backbone_name").to_owned(),
            run.provenance("preset").to_owned(),
            run.views(),
        ];
        row.extend(figures(run.validation()));
        if test {
            row.extend(figures(
                run.record.metrics.test.as_ref().map(Metrics::basic),
            ));
        }
        let (index, split) = run.data();
        row.push(format!(
            "{}/{}",
            &index.to_string()[..8],
            &split.to_string()[..8]
        ));
        row
    };
    let mut text = table(&columns, &runs.iter().map(row).collect::<Vec<_>>());
    let data: BTreeSet<_> = runs.iter().map(|run| run.data()).collect();
    if data.len() > 1 {
        text += &format!(
            "\n{} different index/split: figures compare within one only (hint: --like RUN)\n",
            data.len()
        );
    }
    text
}
