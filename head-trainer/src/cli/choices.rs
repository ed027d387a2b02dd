//! The flags that say what is chosen on the validation side once a model is trained.

use crate::decide::Choices;
use crate::metrics::threshold::Criterion;

/// Flags, as typed.
#[derive(Debug, clap::Args)]
pub(super) struct ChoiceArgs {
    /// Fit a temperature on the validation side, so that probabilities are what they say.
    #[arg(long)]
    temperature: bool,
    /// Two classes: choose the probability above which an image is of the second class on the
    /// validation side, by youden, f1, accuracy or cost:FP:FN (costs of a false positive and a
    /// false negative) [default: 0.5].
    #[arg(long, value_name = "CRITERION")]
    threshold: Option<Criterion>,
}

impl ChoiceArgs {
    /// What to choose.
    pub fn choices(&self) -> Choices {
        Choices {
            temperature: self.temperature,
            threshold: self.threshold,
        }
    }
}
