//! The solvers at full size, timed beside other libraries: a measurement that does nothing unless
//! `scripts/bench_head.py` (`make bench WHAT=head`) runs it.
//!
//! `speed serve TASK FOLDER` reads `features.f32` and `labels.u32` there and then trains once for
//! each line on stdin, answering with a line of JSON: the seconds it took and, where there is one,
//! the objective reached. Threads: `RAYON_NUM_THREADS`.

use std::fs;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use extractor::digest::Digest;
use head_trainer::matrix::Rows;
use head_trainer::solver::adam::AdamConfig;
use head_trainer::solver::lbfgs::Lbfgs;
use head_trainer::solver::linfa::Linfa;
use head_trainer::solver::{FitConfig, MinimumConfig, Problem, SolverConfig, fit};
use head_trainer::sweep::folds::{Parts, TrainSide, folds};
use head_trainer::sweep::grid::Values;
use head_trainer::sweep::{self, Data};

/// As in the script.
const TRAIN: usize = 18_610;
const CHANNELS: usize = 2_048;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [serve, task, folder] if serve == "serve" => answer(task, Path::new(folder)),
        _ => println!("skipped: a measurement, see scripts/bench_head.py"),
    }
}

fn read<T>(path: &Path, number: fn([u8; 4]) -> T) -> Vec<T> {
    let bytes = fs::read(path).unwrap();
    let (fours, _) = bytes.as_chunks::<4>();
    fours.iter().map(|four| number(*four)).collect()
}

fn answer(task: &str, folder: &Path) {
    let features = read(&folder.join("features.f32"), f32::from_le_bytes);
    let labels = read(&folder.join("labels.u32"), u32::from_le_bytes);
    let all: Vec<u32> = (0..labels.len() as u32).collect();
    let (train, validation) = all.split_at(TRAIN);
    let rows = Rows::new(&features, CHANNELS).unwrap();
    let problem = Problem::new(rows, &labels, 2, train, validation).unwrap();
    let minimum = MinimumConfig {
        l2: 1e-3,
        ..MinimumConfig::default()
    };
    let fitted = |solver: SolverConfig| {
        let fit = fit(&problem, &FitConfig::new(solver), &mut |_| {}).unwrap();
        fit.convergence.map(|c| c.objective)
    };
    let once = || match task {
        "adam" => fitted(SolverConfig::Adam(AdamConfig::default())),
        "lbfgs" => fitted(SolverConfig::Lbfgs(Lbfgs(minimum))),
        "linfa" => fitted(SolverConfig::Linfa(Linfa(minimum))),
        "path" => {
            path(rows, &labels, train);
            None
        }
        other => panic!("no task {other}"),
    };
    println!("{{\"ready\": \"{task}\"}}");
    for line in io::stdin().lock().lines() {
        line.unwrap();
        let start = Instant::now();
        let objective = once().map_or("null".to_owned(), |value| value.to_string());
        let secs = start.elapsed().as_secs_f64();
        println!("{{\"secs\": {secs}, \"objective\": {objective}}}");
    }
}

/// 45 penalties on each of 5 folds.
fn path(rows: Rows<'_>, labels_n: &[u32], train: &[u32]) {
    let ids: Vec<Digest> = train.iter().map(|i| Digest::of(&i.to_le_bytes())).collect();
    let labels: Vec<u32> = train.iter().map(|i| labels_n[*i as usize]).collect();
    let side = TrainSide::of_images(train.to_vec());
    let parts = Parts::of_folds(side, folds(&ids, &labels, 5, 0), 5).unwrap();
    let penalties: Values = "1e-6..1e5:45".parse().unwrap();
    let candidate = |l2: &f64| {
        FitConfig::new(SolverConfig::Lbfgs(Lbfgs(MinimumConfig {
            l2: *l2,
            ..MinimumConfig::default()
        })))
    };
    let candidates: Vec<FitConfig> = penalties.0.iter().map(candidate).collect();
    let data = Data {
        rows,
        labels_n,
        classes: 2,
        parts: &parts,
    };
    sweep::run(data, &candidates, &AtomicBool::new(false), &|| {}).unwrap();
}
