//! Tests of the run folder.

use super::draft::{METRICS_FILE, STEPS_FILE};
use super::*;
use crate::baseline::BaselineConfig;
use crate::head::Linear;
use crate::solver::adam::{AdamConfig, Schedule};
use crate::solver::{FitConfig, SolverConfig, Step};

fn publish(draft: Draft, (record, head, steps): &(RunRecord, Head, Vec<Step>)) -> PathBuf {
    let contents = Contents {
        record,
        model: Model::Head(head),
        steps,
        predictions: &Predictions::new(1),
    };
    draft.publish(&contents).unwrap()
}

fn example() -> (RunRecord, Head, Vec<Step>) {
    let key = RunKey {
        store_key: Digest::of(b"store"),
        index: Digest::of(b"index"),
        split: Digest::of(b"split"),
        config: Trained::Head(FitConfig::new(SolverConfig::Adam(AdamConfig::default()))),
        choices: Default::default(),
        views: vec!["identity".to_owned()],
    };
    let head = Head {
        linear: Linear::binary(vec![1.0, 2.0], 0.5),
        classes: vec!["Cat".to_owned(), "Dog".to_owned()],
        decision: Default::default(),
        metadata: BTreeMap::new(),
    };
    let fit = Fit {
        head: head.linear.clone(),
        history: vec![Epoch {
            epoch: 1,
            train_loss: 0.5,
            train_accuracy: 0.75,
            validation_loss: None,
            validation_accuracy: Some(0.1),
            secs: 0.25,
        }],
        steps: vec![Step {
            step: 1,
            epoch: 1,
            loss: 0.5,
            running_loss: 0.5,
            running_accuracy: 0.75,
        }],
        best_epoch: None,
        convergence: None,
    };
    let record = RunRecord::new(key, head.classes.clone(), &fit);
    (record, head, fit.steps)
}

#[test]
fn a_run_appears_whole_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("runs");
    assert!(list(&root).unwrap().is_empty());
    let example = example();
    let draft = Draft::new(&root).unwrap();
    fs::write(draft.path().join("report.md"), "more").unwrap();
    assert!(list(&root).unwrap().is_empty());
    let run = publish(draft, &example);
    let (record, head, _) = example;
    assert_eq!(list(&root).unwrap(), std::slice::from_ref(&run));
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(RunRecord::read(&run).unwrap(), record);
    assert_eq!(super::head(&run).unwrap(), head);
    let text = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    assert_eq!(
        text(METRICS_FILE),
        "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,secs\n\
         1,0.5,0.75,,0.1,0.25\n"
    );
    let expected = "step,epoch,loss,running_loss,running_accuracy\n1,1,0.5,0.5,0.75\n";
    assert_eq!(text(STEPS_FILE), expected);
    assert_eq!(text("report.md"), "more");
    assert_eq!(record.trainable_parameters, 3);
}

#[test]
fn equal_runs_never_replace_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let example = example();
    let one = || publish(Draft::new(folder.path()).unwrap(), &example);
    let runs = [one(), one(), one()];
    let short = example.0.digest.short();
    assert!(
        runs.iter()
            .all(|run| run.to_string_lossy().contains(&short))
    );
    assert_eq!(list(folder.path()).unwrap().len(), 3);
}

#[test]
fn an_abandoned_draft_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(Draft::new(folder.path()).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // What a killed program left is removed once it is old.
    let (old, new) = (
        folder.path().join(".draft-old"),
        folder.path().join(".draft-new"),
    );
    for left in [&old, &new] {
        fs::create_dir(left).unwrap();
        fs::write(left.join("head.safetensors"), "half").unwrap();
    }
    let week = std::time::Duration::from_secs(8 * 24 * 60 * 60);
    let opened = fs::File::open(&old).unwrap();
    opened.set_modified(SystemTime::now() - week).unwrap();
    drop(Draft::new(folder.path()).unwrap());
    assert!(!old.exists() && new.exists());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Draft::new(&file), Err(RunError::Write { .. })));
}

#[test]
fn the_digest_is_of_inputs_and_configuration() {
    let (record, ..) = example();
    let digest = record.key.digest();
    assert_eq!(digest, record.digest);
    let mut key = record.key.clone();
    let Trained::Head(config) = &mut key.config else {
        unreachable!();
    };
    config.standardize = true;
    assert_ne!(key.digest(), digest);
    let mut key = record.key.clone();
    key.views.push("hflip".to_owned());
    assert_ne!(key.digest(), digest);
    let json = serde_json::to_string(&key).unwrap();
    assert_eq!(serde_json::from_str::<RunKey>(&json).unwrap(), key);
    // Records of runs before there were views read as what they were.
    let json = serde_json::to_string(&record.key).unwrap();
    assert!(!json.contains("views"));
    assert_eq!(serde_json::from_str::<RunKey>(&json).unwrap(), record.key);
    let mut key = record.key;
    key.split = Digest::of(b"another");
    assert_ne!(key.digest(), digest);
}

#[test]
fn step_sizes_follow_the_schedule() {
    let (mut record, ..) = example();
    let Trained::Head(FitConfig {
        solver: SolverConfig::Adam(adam),
        ..
    }) = &mut record.key.config
    else {
        unreachable!();
    };
    adam.epochs = 4;
    adam.schedule = Schedule::Cosine;
    let step = |step| Step {
        step,
        epoch: step.div_ceil(2) as u32,
        loss: 0.0,
        running_loss: 0.0,
        running_accuracy: 0.0,
    };
    // Stopped after three of four epochs.
    let history: Vec<Epoch> = (1..=3)
        .map(|epoch| Epoch {
            epoch,
            ..record.history[0]
        })
        .collect();
    let steps: Vec<Step> = (1..=6).map(step).collect();
    let rates = record.key.learning_rates(&history, &steps);
    let half = std::f64::consts::FRAC_1_SQRT_2 / 2.0;
    for (rate, expected) in rates.iter().zip([0.5 + half, 0.5, 0.5 - half]) {
        assert!((rate - 1e-3 * expected).abs() < 1e-15, "{rates:?}");
    }
    assert_eq!(rates.len(), 3);
}

#[test]
fn what_is_not_known_is_no_key() {
    let (record, ..) = example();
    let json = serde_json::to_string(&record.key).unwrap();
    let more = json.replacen('{', r#"{"momentum":0.5,"#, 1);
    let error = serde_json::from_str::<RunKey>(&more).unwrap_err();
    assert!(error.to_string().contains("momentum"), "{error}");
}

#[test]
fn what_is_not_finite_is_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (mut record, head, steps) = example();
    record.history[0].train_loss = f64::INFINITY;
    let contents = Contents {
        record: &record,
        model: Model::Head(&head),
        steps: &steps,
        predictions: &Predictions::new(1),
    };
    let error = Draft::new(folder.path()).unwrap().publish(&contents);
    assert!(matches!(error, Err(RunError::NotFinite)), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// `run.json` of format 2, as it was written before there were baselines.
#[test]
fn the_format_before_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../../tests/data/run-v2.json");
    fs::write(folder.path().join(RECORD_FILE), text).unwrap();
    let record = RunRecord::read(folder.path()).unwrap();
    assert_eq!(record.key.digest(), record.digest);
    assert_eq!((record.format, record.total_parameters), (2, None));
    let Some(FitConfig {
        solver: SolverConfig::Lbfgs(lbfgs),
        ..
    }) = record.key.config.head()
    else {
        panic!("a head by lbfgs");
    };
    assert_eq!((lbfgs.0.l2, lbfgs.0.gap_tolerance), (0.1, None));
}

#[test]
fn a_baseline_has_a_key_of_its_own() {
    let (record, ..) = example();
    let key = RunKey {
        config: Trained::Baseline {
            baseline: BaselineConfig {
                flip: true,
                ..BaselineConfig::default()
            },
        },
        ..record.key.clone()
    };
    assert_ne!(key.digest(), record.digest);
    let json = serde_json::to_string(&key).unwrap();
    assert_eq!(serde_json::from_str::<RunKey>(&json).unwrap(), key);
    let wrong = json.replace("\"flip\":true", "\"flip\":3");
    let error = serde_json::from_str::<RunKey>(&wrong).unwrap_err();
    assert!(error.to_string().contains("expected a boolean"), "{error}");
}

#[test]
fn another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(RECORD_FILE), r#"{"format": 1}"#).unwrap();
    let message = RunRecord::read(folder.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("has format 1, expected 3 (hint: train again)"),
        "{message}"
    );
    fs::write(folder.path().join(RECORD_FILE), "{}").unwrap();
    assert!(matches!(
        RunRecord::read(folder.path()),
        Err(RunError::Json { .. })
    ));
}
