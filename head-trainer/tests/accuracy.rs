//! Accuracy on real photos with real ImageNet-trained backbones and a given split: 1,920 training
//! and 240 validation images of cats and dogs. Seven epochs of Adam are only 210 steps here, so
//! means over seeds are compared, never one seed.

mod common;

use std::path::Path;

use extractor::backbone::import::Classifier;
use extractor::engine::{Engine, OnnxRuntime};
use extractor::preprocess::Preset;
use head_trainer::audit::held_out::Labelled;
use head_trainer::audit::{AuditConfig, audit};
use head_trainer::dataset::{Dataset, SplitSource, WantedViews};
use head_trainer::metrics::evaluate;
use head_trainer::rng::{Purpose, Stream};
use head_trainer::solver::adam::AdamConfig;
use head_trainer::solver::linfa::Linfa;
use head_trainer::solver::{self, FitConfig, Problem, SolverConfig};
use head_trainer::split::Side;

/// Validation accuracies: the mean over seeds 0 to 9 of the default Adam, and linfa's.
fn validation_accuracies(data: &Path, model: &Path, channels: usize, linfa: Linfa) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let (store, index) = common::extract(&data.join("pets"), model, folder.path());
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
        let config = AdamConfig {
            seed,
            ..AdamConfig::default()
        };
        accuracy(SolverConfig::Adam(config))
    };
    let adam = (0..10).map(adam).sum::<f64>() / 10.0;
    let linfa = accuracy(SolverConfig::Linfa(linfa));
    println!("{}: adam {adam:.4}, linfa {linfa:.4}", model.display());
    (adam, linfa)
}

#[test]
fn mobilenetv2_with_its_own_preprocessing() {
    let Some(data) = common::test_data() else {
        return;
    };
    let model = data.join("models/mobilenetv2_100.onnx");
    let (adam, linfa) = validation_accuracies(&data, &model, 1280, Linfa::default());
    assert!(adam >= 0.90, "Adam, mean over ten seeds: {adam}");
    assert!(linfa >= 0.91, "linfa: {linfa}");
}

/// A SqueezeNet whose classifier, a convolution before the pooling, is cut off.
#[test]
fn squeezenet_cut_out_of_its_classifier() {
    let Some(data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("squeezenet.onnx");
    let bytes = std::fs::read(data.join("models/squeezenet1.1_classifier.onnx")).unwrap();
    let classifier = Classifier {
        bytes: &bytes,
        folder: None,
        name: "squeezenet1.1",
        preset: Preset::Imagenet,
        feature: None,
        input_size: Some([100, 100]),
        licence: Some("Apache-2.0"),
        trained: Some(true),
        source: None,
    };
    let options = common::engine();
    let imported = classifier
        .cut()
        .unwrap()
        .check_and_write(&model, &mut |bytes| {
            let engine = OnnxRuntime::open(bytes, &options)?;
            Ok(Box::new(engine) as Box<dyn Engine + Send>)
        });
    assert_eq!(imported.unwrap().map_shape.channels, 512);
    // With the default penalty the head fits the training images too well: 85 %.
    let mut penalty = Linfa::default();
    penalty.0.l2 = 3.0;
    let (_, linfa) = validation_accuracies(&data, &model, 512, penalty);
    assert!(linfa >= 0.87, "linfa: {linfa}");
}

#[test]
#[ignore = "slow: 2,400 images through a ResNet50; make test-all runs it"]
fn resnet50_w1a2_with_plain_1_255() {
    let Some(data) = common::test_data() else {
        return;
    };
    let model = data.join("models/resnet50_w1a2_i8_100_nhwc.onnx");
    let (adam, linfa) = validation_accuracies(&data, &model, 2048, Linfa::default());
    assert!(adam >= 0.865, "Adam, mean over ten seeds: {adam}");
    assert!(linfa >= 0.87, "linfa: {linfa}");
}

/// 40 of the 2,400 labels are swapped; how many of them are among the 80 most doubtful.
#[test]
#[ignore = "slow: 2,400 images through a MobileNetV2, five audits; make test-all runs it"]
fn planted_label_errors_are_found() {
    const PLANTED: usize = 40;
    let Some(data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = data.join("models/mobilenetv2_100.onnx");
    let (store, index) = common::extract(&data.join("pets"), &model, folder.path());
    let split = SplitSource::Given(data.join("splits.csv"));
    let dataset = Dataset::load(&store, &index, &split, &WantedViews::All).unwrap();
    let recall = |seed: u64| {
        let mut images: Vec<u32> = (0..dataset.ids.len() as u32).collect();
        Stream::new(seed, Purpose::Initial).shuffle(&mut images);
        let planted = &images[..PLANTED];
        let mut labels_n = dataset.labels_n.clone();
        for &image in planted {
            labels_n[image as usize] = 1 - labels_n[image as usize];
        }
        let images = Labelled {
            rows: dataset.pooled.rows(),
            labels_n: &labels_n,
            classes: 2,
        };
        let config = AuditConfig {
            seed,
            ..AuditConfig::default()
        };
        let found = audit(images, &config).unwrap();
        let top = found.errors.ranked.iter().take(2 * PLANTED);
        let hits = top.filter(|suspect| planted.contains(&suspect.image));
        let recall = hits.count() as f64 / PLANTED as f64;
        println!(
            "planting {seed}: recall {recall:.3}, about {:.0} labels wrong, {:?}, {} pairs alike",
            found.errors.estimated_errors(),
            found.held_out.chosen,
            found.near.total,
        );
        recall
    };
    let mean = (0..5).map(recall).sum::<f64>() / 5.0;
    println!("recall among the top {}: mean {mean:.3}", 2 * PLANTED);
    assert!(mean >= 0.7, "{mean}");
}
