//! A server under load, beside ONNX Runtime alone and `predict` on the same photos. Ignored by
//! default; `make bench WHAT=serve` runs it.
//!
//! So many connections each ask for one photo after the other, as soon as they have their answer.
//! Rounds alternate with the raw session in this process, at the batch size that the server
//! came to on average, and with `predict`, less what it takes for a single photo.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use common::server::Server;
use common::tiny::with_engine;
use extractor::backbone::{Backbone, Model, Overrides};
use extractor::decode::decode_rgb8;
use extractor::engine::OnnxRuntime;

/// Photos of each class.
const PHOTOS: usize = 256;
/// Requests of a round.
const REQUESTS: usize = 2048;
const ROUNDS: usize = 3;
const CONNECTIONS: [usize; 4] = [1, 8, 32, 128];
/// More connections than this queue holds.
const PUSHED_BACK: (usize, &[&str]) = (128, &["--queue", "32", "--max-images", "32"]);

/// What a round came to.
#[derive(Clone, Copy, Default)]
struct Round {
    images_per_sec: f64,
    p50_ms: f64,
    p99_ms: f64,
    refused: usize,
    batch: f64,
    raw_per_sec: f64,
    predict_per_sec: f64,
}

/// Photos below `data`, a run that is trained on them, and its backbone in this process.
struct Bench {
    data: PathBuf,
    run: PathBuf,
    photos: Vec<Vec<u8>>,
    backbone: Backbone,
    inputs: Vec<f32>, // [N, 3, H, W]
}

impl Bench {
    fn new(test_data: &Path, data: &Path) -> Bench {
        let mut photos = Vec::new();
        for class in ["Cat", "Dog"] {
            let folder = data.join("set").join(class);
            fs::create_dir_all(&folder).unwrap();
            for file in common::photos(test_data, class, PHOTOS) {
                fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
                photos.push(fs::read(&file).unwrap());
            }
        }
        let file = test_data.join("models/mobilenetv2_100.onnx");
        let run = common::trained(data, &file);
        let model = Model::read(&file, &Overrides::default()).unwrap();
        let engine = OnnxRuntime::open(&model.bytes().unwrap(), &common::engine()).unwrap();
        let backbone = model.with_engine(Box::new(engine), 1);
        let preprocessor = backbone.preprocessor();
        let mut inputs = vec![0.0; photos.len() * preprocessor.len()];
        for (photo, input) in photos
            .iter()
            .zip(inputs.chunks_exact_mut(preprocessor.len()))
        {
            preprocessor.apply(&decode_rgb8(photo).unwrap(), input);
        }
        Bench {
            data: data.to_owned(),
            run,
            photos,
            backbone,
            inputs,
        }
    }

    /// Loads the server with so many connections.
    fn load(&self, server: &Server, connections: usize) -> Round {
        let batches = || {
            ["sum", "count"].map(|part| server.metric(&format!("headstart_batch_images_{part}")))
        };
        let photos = &self.photos[..];
        let [images_before, batches_before] = batches();
        let start = Instant::now();
        let asked: Vec<(f64, u16)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..connections)
                .map(|worker| scope.spawn(move || ask(photos, server, worker, connections)))
                .collect();
            workers
                .into_iter()
                .flat_map(|w| w.join().unwrap())
                .collect()
        });
        let secs = start.elapsed().as_secs_f64();
        let [images, count] = batches();
        let answered = asked.iter().filter(|(_, status)| *status == 200);
        let mut ms: Vec<f64> = answered.map(|(secs, _)| secs * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        Round {
            images_per_sec: ms.len() as f64 / secs,
            p50_ms: ms[ms.len() / 2],
            p99_ms: ms[ms.len() * 99 / 100],
            refused: asked.len() - ms.len(),
            batch: (images - images_before) / (count - batches_before),
            ..Round::default()
        }
    }

    /// Images a second of ONNX Runtime alone.
    fn raw(&mut self, batch: usize) -> f64 {
        let share = self.backbone.preprocessor().len();
        self.backbone.batch_size = batch;
        let mut features = Vec::new();
        let start = Instant::now();
        let mut images = 0;
        for input in self.inputs.chunks_exact(batch * share).cycle() {
            self.backbone.run(input, &mut features).unwrap();
            images += batch;
            if images >= REQUESTS / 2 {
                break;
            }
        }
        images as f64 / start.elapsed().as_secs_f64()
    }

    /// Images a second of `predict`.
    fn predict(&self) -> f64 {
        let secs = |images: &[&Path]| {
            let mut command = with_engine(&self.data);
            command.arg("predict").arg(&self.run).args(images);
            let start = Instant::now();
            command.arg("--quiet").assert().code(0);
            start.elapsed().as_secs_f64()
        };
        let set = self.data.join("set");
        let first = fs::read_dir(set.join("Cat")).unwrap().next().unwrap();
        let one = secs(&[&first.unwrap().path()]);
        let times = REQUESTS / self.photos.len();
        let many = secs(&vec![set.as_path(); times]);
        (times * self.photos.len() - 1) as f64 / (many - one)
    }
}

/// The share of a worker: seconds and status of each request.
fn ask(photos: &[Vec<u8>], server: &Server, worker: usize, workers: usize) -> Vec<(f64, u16)> {
    let mut client = server.connect();
    let mine = (worker..REQUESTS).step_by(workers);
    mine.map(|i| {
        let start = Instant::now();
        let reply = client.predict(&photos[i % photos.len()]);
        assert!([200, 429].contains(&reply.status), "{}", reply.text());
        (start.elapsed().as_secs_f64(), reply.status)
    })
    .collect()
}

fn median(rounds: &[Round], value: fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn a_server_under_load() {
    let Some(test_data) = common::test_data() else {
        return;
    };
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(&test_data, data.path());
    // More flags for the server, say --batch-wait 5.
    let more = std::env::var("BENCH_ARGS").unwrap_or_default();
    let more: Vec<&str> = more.split_whitespace().collect();
    println!(
        "| connections | images/s | p50, ms | p99, ms | 429 | batch | of ONNX Runtime alone | of predict |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let usual = CONNECTIONS.map(|connections| (connections, &[][..]));
    for (connections, args) in usual.into_iter().chain([PUSHED_BACK]) {
        let server = Server::start(&bench.data, &bench.run, &[args, &more].concat());
        bench.load(&server, connections); // warms up
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut round = bench.load(&server, connections);
            round.raw_per_sec = bench.raw(round.batch.round() as usize);
            round.predict_per_sec = bench.predict();
            rounds.push(round);
        }
        println!(
            "| {connections}{} | {:.0} | {:.1} | {:.1} | {:.0} | {:.1} | {:.2} | {:.2} |",
            args.first().map_or("", |_| ", --queue 32"),
            median(&rounds, |r| r.images_per_sec),
            median(&rounds, |r| r.p50_ms),
            median(&rounds, |r| r.p99_ms),
            median(&rounds, |r| r.refused as f64),
            median(&rounds, |r| r.batch),
            median(&rounds, |r| r.images_per_sec / r.raw_per_sec),
            median(&rounds, |r| r.images_per_sec / r.predict_per_sec),
        );
    }
}
