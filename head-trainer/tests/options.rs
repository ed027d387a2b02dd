//! `head-trainer train` beyond the tutorial: many classes, class weights, early stopping,
//! temperature and threshold, on the built binary with stores of known numbers.

mod common;

use common::{MadeUp, record, train};
use head_trainer::run;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;

fn made_up(classes: &[&str]) -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    MadeUp::new(classes, 80).write(data.path());
    data
}

#[test]
fn four_classes_have_a_softmax_head() {
    let data = made_up(&["ant", "bee", "cat", "dog"]);
    let adam = ["--epochs", "60", "--learning-rate", "0.03"];
    let linfa = ["--solver", "linfa", "--l2", "0.001"];
    let lbfgs = ["--solver", "lbfgs", "--l2", "0.001", "--standardize"];
    for args in [&adam[..], &linfa, &lbfgs] {
        let (record, folder) = record(data.path(), args);
        assert_eq!(record["trainable_parameters"], 4 * 6);
        let test = &record["metrics"]["test"];
        assert!(test["accuracy"].as_f64().unwrap() > 0.7, "{test}");
        assert!(test["roc_auc"].as_f64().unwrap() > 0.9, "{test}");
        assert_eq!(test["classes"].as_array().unwrap().len(), 4);
        assert_eq!(test["confusion"].as_array().unwrap().len(), 4);
        let head = run::head(&folder).unwrap();
        assert_eq!(head.classes, ["ant", "bee", "cat", "dog"]);
        assert_eq!((head.linear.outputs(), head.linear.channels()), (4, 5));
    }
    train(data.path(), &lbfgs)
        .code(0)
        .stdout(contains("ant = 0, bee = 1, cat = 2, dog = 3"))
        .stdout(contains("precision").and(contains("dog ")));
    train(data.path(), &["--threshold", "f1"])
        .code(1)
        .stderr(contains("--threshold is for two classes, and there are 4"));
}

#[test]
fn temperature_and_threshold_are_kept_with_the_head() {
    let data = made_up(&["Cat", "Dog"]);
    let plain = [
        "--solver",
        "lbfgs",
        "--l2",
        "0.3",
        "--split-fractions",
        "50/40/10",
    ];
    let (without, _) = record(data.path(), &plain);
    assert_eq!(without["decision"]["threshold"], 0.5);
    let chosen = [&plain[..], &["--temperature", "--threshold", "cost:5:1"]].concat();
    let (with, folder) = record(data.path(), &chosen);
    let head = run::head(&folder).unwrap();
    let number = |name: &str| with["decision"][name].as_f64().unwrap();
    assert_eq!(head.decision.temperature, number("temperature"));
    assert_eq!(head.decision.threshold, number("threshold"));
    // A penalty that strong leaves logits too small: a temperature below 1 mends the loss. A
    // false Dog costs five false Cats: fewer are called Dog.
    assert!(head.decision.temperature < 1.0, "{:?}", head.decision);
    assert!(head.decision.threshold > 0.5, "{:?}", head.decision);
    let validation = |record: &serde_json::Value, name: &str| {
        record["metrics"]["validation"][name].as_f64().unwrap()
    };
    assert!(validation(&with, "loss") < validation(&without, "loss"));
    assert_eq!(
        validation(&with, "roc_auc"),
        validation(&without, "roc_auc")
    );
    assert_ne!(with["digest"], without["digest"]);
    let repeat = ["--repeat", folder.file_name().unwrap().to_str().unwrap()];
    train(data.path(), &repeat)
        .code(0)
        .stdout(contains("the head is the same, bit for bit"));
}

#[test]
fn early_stopping_and_class_weights() {
    let data = made_up(&["Cat", "Dog"]);
    let args = [
        "--epochs",
        "500",
        "--learning-rate",
        "0.2",
        "--patience",
        "4",
        "--class-weight",
        "1,3",
        "--dropout",
        "0.1",
        "--schedule",
        "cosine",
    ];
    let (record, _) = record(data.path(), &args);
    let (best, epochs) = (
        record["best_epoch"].as_u64().unwrap(),
        record["history"].as_array().unwrap().len() as u64,
    );
    assert_eq!(epochs, best + 4);
    let config = &record["key"]["config"];
    assert_eq!(config["class_weight"]["given"][1], 3.0);
    assert_eq!(config["solver"]["adam"]["schedule"], "cosine");
    for (args, message) in [
        (
            &["--class-weight", "1,2,3"][..],
            "number of class weights is 3",
        ),
        (
            &["--solver", "linfa", "--class-weight", "balanced"],
            "adam or lbfgs",
        ),
        (
            &["--solver", "lbfgs", "--patience", "3"],
            "--patience needs --solver adam",
        ),
        (
            &["--dropout", "1"],
            "dropout is 1, expected at least 0 and below 1",
        ),
    ] {
        train(data.path(), args).code(1).stderr(contains(message));
    }
    train(data.path(), &["--class-weight", "heavy"]).code(2);
    train(data.path(), &["--threshold", "cost:0:0"]).code(2);
}
