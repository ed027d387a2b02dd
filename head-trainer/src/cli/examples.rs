//! Examples at the end of each verb's `--help`: `scripts/test_readme.py` runs them all.

/// The verbs of `head-trainer`, each with its examples, but for those that say more there.
pub(super) const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "train",
        &[
            "head-trainer train PetImages",
            "head-trainer train PetImages --solver lbfgs --l2 0.1 --temperature",
            "head-trainer train --repeat RUN",
        ],
    ),
    (
        "sweep",
        &["head-trainer sweep PetImages --l2 0.01,0.1,1 --folds 3 --train"],
    ),
    (
        "baseline",
        &["head-trainer baseline PetImages --epochs 2 --flip --crop 4"],
    ),
    (
        "report",
        &["head-trainer report --out report.html --markdown -"],
    ),
    ("runs list", &["head-trainer runs list --sort val-accuracy"]),
    ("runs show", &["head-trainer runs show RUN"]),
    ("runs diff", &["head-trainer runs diff A B"]),
    ("runs best", &["head-trainer runs best --by val-loss"]),
    ("audit", &["head-trainer audit PetImages --top 10"]),
    (
        "explain",
        &["head-trainer explain RUN --mistakes 5 --side validation"],
    ),
];
