#!/usr/bin/env python3
"""Writes head-trainer/tests/data/metrics.json: what scikit-learn says of small made-up predictions.

The Rust metrics are tested against these numbers (head-trainer/tests/metrics.rs). Scores are multiples of a power of
two, so that f32 holds them exactly, and few enough that ties are common. scikit-learn has no expected calibration
error (written out here with numpy) and no public temperature (found here as the root of the slope, with scipy).

Usage: pip install scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1 && python scripts/make_metrics_fixture.py
"""

import json
import pathlib
import sys

import numpy as np
import scipy
import sklearn
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.preprocessing import label_binarize

PINS = {"scikit-learn": "1.9.1", "numpy": "2.4.6", "scipy": "1.17.1"}
OUTPUT = pathlib.Path(__file__).parent.parent / "head-trainer/tests/data/metrics.json"
BINS = 15


def counted(labels, predicted, classes):
    """Everything that follows from the confusion matrix; None where scikit-learn would warn and say 0."""
    each = dict(labels=range(classes), average=None, zero_division=np.nan)

    def numbers(values):
        return [None if np.isnan(x) else float(x) for x in values]

    return {
        "classes": classes,
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "confusion": metrics.confusion_matrix(labels, predicted, labels=range(classes)).tolist(),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "precision": numbers(metrics.precision_score(labels, predicted, **each)),
        "recall": numbers(metrics.recall_score(labels, predicted, **each)),
        "f1": numbers(metrics.f1_score(labels, predicted, **each)),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
    }


def calibration_error(confidence, right):
    """Guo et al., 2017; bins are open below and closed above."""
    edges = np.linspace(0, 1, BINS + 1)
    error = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)


def temperature(logits_nk, labels):
    """T with the least log loss of softmax(logits / T)."""
    label_logits = logits_nk[np.arange(len(labels)), labels]

    def slope(b):
        return float(np.mean((softmax(b * logits_nk, axis=1) * logits_nk).sum(axis=1) - label_logits))

    b = brentq(slope, 1e-3, 1e3, xtol=1e-16, rtol=1e-15)

    def loss(b):
        return metrics.log_loss(labels, np.exp(log_softmax(b * logits_nk, axis=1)))

    return {"temperature": 1 / b, "loss_before": loss(1.0), "loss_after": loss(b)}


def two_classes(rng, rows=60):
    labels = (rng.random(rows) < 0.4).astype(int)
    p = np.clip(np.round(64 * (0.35 + 0.25 * labels + 0.2 * rng.normal(size=rows))), 0, 64) / 64
    logits = np.round(16 * (3.0 * (labels - 0.5) + 3.0 * rng.normal(size=rows))) / 16
    false_rate, true_rate, _ = metrics.roc_curve(labels, p, drop_intermediate=False)
    thresholds = np.concatenate([[-1.0], np.unique(p)])  # p > threshold; -1 calls all of them class 1
    if p.min() == 0.0:
        thresholds = thresholds[1:]
    return {
        "probabilities": p.tolist(),
        "logits": logits.tolist(),
        "roc_auc": metrics.roc_auc_score(labels, p),
        "average_precision": metrics.average_precision_score(labels, p),
        "brier": metrics.brier_score_loss(labels, p),
        "calibration_error": calibration_error(np.maximum(p, 1 - p), (p > 0.5) == labels),
        "best_youden": float(np.max(true_rate - false_rate)),
        "best_f1": max(metrics.f1_score(labels, p > t) for t in thresholds),
        "best_accuracy": max(metrics.accuracy_score(labels, p > t) for t in thresholds),
        "temperature": temperature(np.stack([np.zeros(rows), logits], axis=1), labels),
        "counted": counted(labels, (p > 0.5).astype(int), 2),
    }


def four_classes(rng, rows=50, classes=4):
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=rows - classes)])
    sure = rng.gamma(0.7, size=(rows, classes)) + 0.9 * np.eye(classes)[labels]
    p_nk = np.array([rng.multinomial(1024, row / row.sum()) for row in sure]) / 1024
    logits_nk = np.round(16 * (2.0 * np.eye(classes)[labels] + 3.0 * rng.normal(size=(rows, classes)))) / 16
    predicted = p_nk.argmax(axis=1)
    one_hot = label_binarize(labels, classes=range(classes))
    return {
        "probabilities": p_nk.ravel().tolist(),
        "logits": logits_nk.ravel().tolist(),
        "roc_auc": metrics.roc_auc_score(labels, p_nk, multi_class="ovr", average="macro"),
        "average_precision": metrics.average_precision_score(one_hot, p_nk, average="macro"),
        "brier": metrics.brier_score_loss(labels, p_nk),
        "calibration_error": calibration_error(p_nk.max(axis=1), predicted == labels),
        "temperature": temperature(logits_nk, labels),
        "counted": counted(labels, predicted, classes),
    }


def main():
    found = {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "scipy": scipy.__version__}
    if found != PINS:
        sys.exit(f"error: found {found}, expected {PINS} (hint: the pip install line in this file's head)")
    rng = np.random.default_rng(20200101)
    intervals = []
    for hits, total in [(0, 7), (1, 1), (3, 10), (97, 100), (1234, 5000), (24999, 25000)]:
        bounds = binomtest(hits, total).proportion_ci(0.95, method="wilson")
        intervals.append({"hits": hits, "total": total, "low": float(bounds.low), "high": float(bounds.high)})
    fixture = {
        "made_with": PINS,
        "two_classes": two_classes(rng),
        "four_classes": four_classes(rng),
        # Class 2 is never predicted, class 3 never occurs, class 4 neither.
        "gaps": counted(np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 3, 0, 1]), 5),
        "wilson_95": intervals,
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(fixture) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
