//! The command that trains a candidate: every flag that decides its numbers, as a line for a
//! shell. Must not know what came of the candidate.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::Job;
use super::stores::Checked;
use crate::protocol::Protocol;
use crate::solver::adam::{AdamConfig, Schedule};
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{ClassWeight, FitConfig, MinimumConfig, SolverConfig};
use crate::split::SplitPlan;

/// The words of the command that trains `config` on `store`. `plan` is that of the split, unless
/// the user brought it.
pub(super) fn words(
    job: &Job<'_>,
    store: &Checked,
    plan: Option<SplitPlan>,
    config: &FitConfig,
) -> Vec<OsString> {
    let data = &job.args.data;
    let mut words = Words(vec!["head-trainer".into(), "train".into()]);
    words.flag("--data-dir", &job.output.data_dir);
    words.flag("--index", job.index);
    words.flag("--store", &store.folder);
    match (&data.images.split.split, plan) {
        (Some(split), _) => words.flag("--split", split),
        (None, Some(plan)) => {
            words.flag("--split-mode", plan.mode.to_string());
            words.flag("--split-seed", plan.seed.to_string());
            words.flag("--split-fractions", plan.fractions.to_string());
        }
        (None, None) => {}
    }
    // Those that there are now, whatever the store gets later, if the flag can say them.
    let list = views(&store.views);
    words.flag("--views", list.unwrap_or_else(|| "all".to_owned()));
    words.config(config);
    words.0
}

/// Views as `--views` has them: `identity,hflip,crop:4`. None for crops that do not begin with the
/// first one and go on without a gap.
fn views(names: &[String]) -> Option<String> {
    let mut list: Vec<String> = Vec::new();
    let mut crops = 0;
    for name in names {
        match name.strip_prefix("crop-") {
            Some(number) => {
                crops += 1;
                if number != crops.to_string() {
                    return None;
                }
            }
            None => list.push(name.clone()),
        }
    }
    if crops > 0 {
        list.push(format!("crop:{crops}"));
    }
    Some(list.join(","))
}

struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, name: &str, value: impl AsRef<OsStr>) {
        let value = value.as_ref();
        // A value that looks like a flag is taken for one, unless it is of the same word.
        match value.as_bytes().starts_with(b"-") {
            true => {
                let mut word = OsString::from(name);
                word.push("=");
                word.push(value);
                self.0.push(word);
            }
            false => self.0.extend([name.into(), value.to_owned()]),
        }
    }

    fn number(&mut self, name: &str, number: impl ToString) {
        self.flag(name, number.to_string());
    }

    /// The flags that `config` is read from again.
    fn config(&mut self, config: &FitConfig) {
        let FitConfig {
            solver,
            standardize,
            class_weight,
        } = config;
        self.flag("--solver", solver.name());
        match solver {
            SolverConfig::Adam(config) => self.adam(config),
            SolverConfig::Lbfgs(Lbfgs(config)) | SolverConfig::Linfa(Linfa(config)) => {
                let MinimumConfig {
                    l2,
                    max_iterations,
                    gradient_tolerance,
                    gap_tolerance: _, // no flag sets it
                } = config;
                self.number("--l2", l2);
                self.number("--max-iterations", max_iterations);
                self.number("--gradient-tolerance", gradient_tolerance);
            }
        }
        if *standardize {
            self.0.push("--standardize".into());
        }
        if let Some(weight) = class_weight_text(class_weight) {
            self.flag("--class-weight", weight);
        }
    }

    fn adam(&mut self, config: &AdamConfig) {
        let AdamConfig {
            epochs,
            batch_size,
            learning_rate,
            schedule,
            l2,
            dropout,
            patience,
            protocol,
            seed,
            beta_1: _, // no flag changes these
            beta_2: _,
            epsilon: _,
        } = config;
        self.number("--seed", seed);
        self.number("--l2", l2);
        self.number("--learning-rate", learning_rate);
        self.number("--epochs", epochs);
        self.number("--batch-size", batch_size);
        if *schedule != Schedule::Constant {
            self.flag("--schedule", schedule_text(schedule));
        }
        if *dropout > 0.0 {
            self.number("--dropout", dropout);
        }
        if let Some(patience) = patience {
            self.number("--patience", patience);
        }
        if let Protocol::Tutorial(tutorial) = protocol {
            self.flag("--protocol", "tutorial");
            self.number("--steps-per-epoch", tutorial.steps_per_epoch);
            self.number("--shuffle-buffer", tutorial.shuffle_buffer);
        }
    }
}

/// A schedule as `--schedule` has it.
pub(super) fn schedule_text(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Constant => "constant".to_owned(),
        Schedule::Cosine => "cosine".to_owned(),
        Schedule::Exponential { rate } => format!("exponential:{rate}"),
    }
}

/// Class weights as `--class-weight` has them; none where every image counts the same.
pub(super) fn class_weight_text(weight: &ClassWeight) -> Option<String> {
    match weight {
        ClassWeight::None => None,
        ClassWeight::Balanced => Some("balanced".to_owned()),
        ClassWeight::Given(weights_k) => {
            let weights: Vec<String> = weights_k.iter().map(f64::to_string).collect();
            Some(weights.join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_as_the_flag_has_them() {
        let list =
            |names: &[&str]| views(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&["identity"]).as_deref(), Some("identity"));
        let all = ["identity", "hflip", "crop-1", "crop-2"];
        assert_eq!(list(&all).as_deref(), Some("identity,hflip,crop:2"));
        assert_eq!(list(&["identity", "crop-2"]), None);
    }
}
