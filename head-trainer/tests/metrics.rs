//! Our metrics against scikit-learn's own numbers (made by `scripts/make_metrics_fixture.py`).

use head_trainer::metrics::calibration::{brier, expected_calibration_error};
use head_trainer::metrics::confusion::ConfusionMatrix;
use head_trainer::metrics::interval::{Z_95, wilson};
use head_trainer::metrics::ranking::{
    average_precision, macro_average_precision, macro_roc_auc, roc_auc,
};
use head_trainer::metrics::temperature::fit_temperature;
use head_trainer::metrics::threshold::{Criterion, choose_threshold};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    two_classes: Scored,
    four_classes: Scored,
    gaps: Counted,
    wilson_95: Vec<Bounds>,
}

#[derive(Deserialize)]
struct Scored {
    probabilities: Vec<f32>,
    logits: Vec<f32>,
    roc_auc: f64,
    average_precision: f64,
    brier: f64,
    calibration_error: f64,
    best_youden: Option<f64>,
    best_f1: Option<f64>,
    best_accuracy: Option<f64>,
    temperature: Scaled,
    counted: Counted,
}

#[derive(Deserialize)]
struct Scaled {
    temperature: f64,
    loss_before: f64,
    loss_after: f64,
}

#[derive(Deserialize)]
struct Counted {
    classes: usize,
    labels: Vec<u32>,
    predicted: Vec<u32>,
    confusion: ConfusionMatrix,
    accuracy: f64,
    balanced_accuracy: f64,
    precision: Vec<Option<f64>>,
    recall: Vec<Option<f64>>,
    f1: Vec<Option<f64>>,
    macro_f1: f64,
}

#[derive(Deserialize)]
struct Bounds {
    hits: u64,
    total: u64,
    low: f64,
    high: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("data/metrics.json")).unwrap()
}

fn close(found: impl Into<Option<f64>>, expected: f64, what: &str) {
    let found = found.into().unwrap_or_else(|| panic!("no {what}"));
    assert!(
        (found - expected).abs() <= 1e-12,
        "{what}: {found}, scikit-learn has {expected}"
    );
}

fn compare_counted(expected: &Counted) {
    let classes = expected.classes;
    let found = ConfusionMatrix::of(&expected.labels, &expected.predicted, classes);
    assert_eq!(found, expected.confusion);
    close(found.accuracy(), expected.accuracy, "accuracy");
    let balanced = found.balanced_accuracy();
    close(balanced, expected.balanced_accuracy, "balanced accuracy");
    close(found.macro_f1(), expected.macro_f1, "macro F1");
    for class in 0..classes {
        let pairs = [
            (found.precision(class), expected.precision[class]),
            (found.recall(class), expected.recall[class]),
            (found.f1(class), expected.f1[class]),
        ];
        for ((found, expected), what) in pairs.into_iter().zip(["precision", "recall", "F1"]) {
            match expected {
                Some(expected) => close(found, expected, &format!("{what} of {class}")),
                None => assert_eq!(found, None, "{what} of {class}"),
            }
        }
    }
}

fn compare_calibration(expected: &Scored) {
    let (labels, classes) = (&expected.counted.labels, expected.counted.classes);
    let p = &expected.probabilities;
    close(brier(p, labels, classes), expected.brier, "brier");
    let error = expected_calibration_error(p, labels, classes);
    close(error, expected.calibration_error, "calibration error");
    let found = fit_temperature(&expected.logits, labels, classes).unwrap();
    let scaled = &expected.temperature;
    close(found.temperature, scaled.temperature, "temperature");
    close(found.loss_before, scaled.loss_before, "loss before");
    close(found.loss_after, scaled.loss_after, "loss after");
}

#[test]
fn two_classes_are_those_of_scikit_learn() {
    let expected = fixture().two_classes;
    compare_counted(&expected.counted);
    compare_calibration(&expected);
    let p = &expected.probabilities;
    let positive: Vec<bool> = expected.counted.labels.iter().map(|&y| y == 1).collect();
    close(roc_auc(p, &positive), expected.roc_auc, "ROC-AUC");
    let precision = average_precision(p, &positive);
    close(precision, expected.average_precision, "average precision");
    for (criterion, best) in [
        (Criterion::Youden, expected.best_youden),
        (Criterion::F1, expected.best_f1),
        (Criterion::Accuracy, expected.best_accuracy),
    ] {
        let choice = choose_threshold(p, &positive, criterion).unwrap();
        close(choice.value, best.unwrap(), &format!("{criterion:?}"));
    }
}

#[test]
fn four_classes_are_those_of_scikit_learn() {
    let expected = fixture().four_classes;
    compare_counted(&expected.counted);
    compare_calibration(&expected);
    let (p, labels) = (&expected.probabilities, &expected.counted.labels);
    close(macro_roc_auc(p, labels, 4), expected.roc_auc, "ROC-AUC");
    let precision = macro_average_precision(p, labels, 4);
    close(precision, expected.average_precision, "average precision");
}

#[test]
fn classes_without_rows_are_those_of_scikit_learn() {
    compare_counted(&fixture().gaps);
}

#[test]
fn intervals_are_those_of_scipy() {
    for expected in fixture().wilson_95 {
        let found = wilson(expected.hits, expected.total, Z_95).unwrap();
        close(found.low, expected.low, "lower bound");
        close(found.high, expected.high, "upper bound");
    }
}
