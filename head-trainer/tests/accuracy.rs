//! Accuracy on real photos with real ImageNet-trained backbones and a given split: 1,920 training
//! and 240 validation images of cats and dogs. Seven epochs of Adam are only 210 steps here, so
//! means over seeds are compared, never one seed.

mod common;

use std::path::Path;

use head_trainer::dataset::{Dataset, SplitSource, WantedViews};
use head_trainer::metrics::evaluate;
use head_trainer::solver::adam::AdamConfig;
use head_trainer::solver::linfa::Linfa;
use head_trainer::solver::{self, FitConfig, Problem, SolverConfig};
use head_trainer::split::Side;

/// Validation accuracies: the mean over seeds 0 to 9 of the default Adam, and linfa's.
fn validation_accuracies(data: &Path, model: &str, channels: usize) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let model = data.join("models").join(model);
    let (store, index) = common::extract(&data.join("pets"), &model, folder.path());
    let split = SplitSource::Given(data.join("splits.csv"));
    let dataset = Dataset::load(&store, &index, &split, &WantedViews::All).unwrap();
    assert_eq!((dataset.ids.len(), dataset.channels), (2400, channels));
    assert_eq!(dataset.counts_on(Side::Train).iter().sum::<u64>(), 1920);
    assert_eq!(dataset.counts_on(Side::Validation).iter().sum::<u64>(), 240);
    assert_eq!(dataset.classes, ["Cat", "Dog"]);

    let rows = dataset.pooled.rows();
    let (train, validation) = (
        dataset.rows_on(Side::Train),
        dataset.rows_on(Side::Validation),
    );
    let problem = Problem::new(rows, &dataset.labels_n, 2, &train, &validation).unwrap();
    let accuracy = |solver: SolverConfig| {
        let config = FitConfig::new(solver);
        let fit = solver::fit(&problem, &config, &mut |_| ()).unwrap();
        assert_eq!(fit.head.parameter_count(), channels + 1);
        assert!(
            fit.convergence.is_none_or(|c| c.converged),
            "{:?}",
            fit.convergence
        );
        evaluate(&fit.head, rows, &dataset.labels_n, &validation)
            .unwrap()
            .accuracy
    };
    let adam = |seed| {
        accuracy(SolverConfig::Adam(AdamConfig {
            seed,
            ..AdamConfig::default()
        }))
    };
    let adam = (0..10).map(adam).sum::<f64>() / 10.0;
    let linfa = accuracy(SolverConfig::Linfa(Linfa::default()));
    println!("{}: adam {adam:.4}, linfa {linfa:.4}", model.display());
    (adam, linfa)
}

#[test]
fn mobilenetv2_with_its_own_preprocessing() {
    let Some(data) = common::test_data() else {
        return;
    };
    let (adam, linfa) = validation_accuracies(&data, "mobilenetv2_100.onnx", 1280);
    assert!(adam >= 0.90, "Adam, mean over ten seeds: {adam}");
    assert!(linfa >= 0.91, "linfa: {linfa}");
}

#[test]
#[ignore = "slow: 2,400 images through a ResNet50; make test-all runs it"]
fn resnet50_w1a2_with_plain_1_255() {
    let Some(data) = common::test_data() else {
        return;
    };
    let (adam, linfa) = validation_accuracies(&data, "resnet50_w1a2_i8_100_nhwc.onnx", 2048);
    assert!(adam >= 0.865, "Adam, mean over ten seeds: {adam}");
    assert!(linfa >= 0.87, "linfa: {linfa}");
}
