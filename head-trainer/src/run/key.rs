//! What decides a run.

use extractor::digest::Digest;
use extractor::store::IDENTITY;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::baseline::BaselineConfig;
use crate::decide::Choices;
use crate::solver::{Epoch, FitConfig, SolverConfig, Step};

/// Everything that decides a run: equal keys give equal models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunKey {
    /// Digest of the key of the store that was trained on: of features, or of pixels.
    pub store_key: Digest,
    /// Digest of the index.
    pub index: Digest,
    /// Digest of the split file.
    pub split: Digest,
    /// What was trained, its numbers and its seed.
    pub config: Trained,
    /// What is chosen on the validation side after training.
    #[serde(default, skip_serializing_if = "Choices::is_none")]
    pub choices: Choices,
    /// Views that the training images were seen in; left out if it is `identity` alone.
    #[serde(default = "identity", skip_serializing_if = "is_identity")]
    pub views: Vec<String>,
}

fn identity() -> Vec<String> {
    vec![IDENTITY.to_owned()]
}

fn is_identity(views: &[String]) -> bool {
    views == [IDENTITY]
}

/// What was trained, and how. As JSON, a head is its [`FitConfig`], a baseline
/// `{"baseline": {...}}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Trained {
    /// A head on features.
    Head(FitConfig),
    /// The baseline on pixels.
    Baseline {
        /// Its configuration.
        baseline: BaselineConfig,
    },
}

impl<'de> Deserialize<'de> for Trained {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Trained, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct OfBaseline {
            baseline: BaselineConfig,
        }
        // By hand, as an untagged enum would not say what is wrong with a field.
        let value = Value::deserialize(deserializer)?;
        let trained = match value.get("baseline") {
            Some(_) => serde_json::from_value(value)
                .map(|OfBaseline { baseline }| Trained::Baseline { baseline }),
            None => serde_json::from_value(value).map(Trained::Head),
        };
        trained.map_err(D::Error::custom)
    }
}

impl Trained {
    /// `head` or `baseline`.
    pub fn noun(&self) -> &'static str {
        match self {
            Trained::Head(_) => "head",
            Trained::Baseline { .. } => "baseline",
        }
    }

    /// A head's configuration, if it is one.
    pub fn head(&self) -> Option<&FitConfig> {
        match self {
            Trained::Head(config) => Some(config),
            Trained::Baseline { .. } => None,
        }
    }

    /// The baseline's configuration, if it is one.
    pub fn baseline(&self) -> Option<&BaselineConfig> {
        match self {
            Trained::Head(_) => None,
            Trained::Baseline { baseline } => Some(baseline),
        }
    }
}

impl RunKey {
    /// Step sizes after each epoch of `history`; none for a solver that has no steps.
    pub(super) fn learning_rates(&self, history: &[Epoch], steps: &[Step]) -> Vec<f64> {
        let adam = match &self.config {
            Trained::Head(FitConfig {
                solver: SolverConfig::Adam(adam),
                ..
            }) => *adam,
            Trained::Head(_) => return Vec::new(),
            Trained::Baseline { baseline } => baseline.adam(),
        };
        let first = steps.iter().take_while(|step| step.epoch == 1).count() as u64;
        let total = first * u64::from(adam.epochs);
        let rate = |epoch: &Epoch| {
            let done = first * u64::from(epoch.epoch);
            adam.learning_rate * adam.schedule.factor(done, total.max(1))
        };
        history.iter().map(rate).collect()
    }

    /// Digest of the key's JSON: fields in the order above, numbers in their shortest form.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a key is plain data"))
    }
}
