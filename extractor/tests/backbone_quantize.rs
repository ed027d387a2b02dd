//! `extractor backbone quantize` with a shell script in Python's place: what it is given, what is kept of its
//! answers, and what is refused before it is asked. `scripts/test_quantize.py` has the real quantiser.
//!
//! Needs ONNX Runtime, as both models are run.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::{extractor, json, names};
use extractor::backbone::{Model, Overrides};
use extractor::decode::{Exif, decode_oriented};
use extractor::digest::Digest;
use ndarray::Array4;
use ndarray_npy::ReadNpyExt as _;
use predicates::str::contains;

/// A folder with a small backbone, images of two classes and a stand-in for Python.
struct Desk {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Desk {
    fn new(per_class: usize) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let model = common::tiny_backbone(folder.path());
        fs::create_dir(folder.path().join("tmp")).unwrap();
        common::sample(&folder.path().join("images"), per_class);
        Desk { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The quantiser's answer is the float model itself; heads do as well as `difference` says. What the script was
    /// given is kept in the folder `given`.
    fn python(&self, difference: &str) -> PathBuf {
        let given = self.path("given");
        let script = format!(
            "case $4 in\n\
             quantize)\n\
               cp -r . '{given}'; cp float.onnx quantized-qdq.onnx; echo note >&2\n\
               echo '{{\"quantized_weights\": 1, \"quantizer\": \"a script\", \"seconds\": 0.1}}' ;;\n\
             compare)\n\
               cp *.npy '{given}'\n\
               echo '{{\"accuracy\": [0.9, 0.8], \"difference\": {difference}, \"standard_error\": 0.01, \
               \"images\": 60, \"folds\": 5, \"solver\": \"none\"}}' ;;\n\
             esac\n",
            given = given.display()
        );
        self.script(&script)
    }

    /// It says its version as Python does, and goes on with `text` where it is to run the script.
    fn script(&self, text: &str) -> PathBuf {
        let path = self.path("python");
        let version = "[ \"$1\" = -c ] && echo 3.12 && exit";
        fs::write(&path, format!("#!/bin/sh\n{version}\n{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn quantize(&self, python: &Path, flags: &[&str]) -> assert_cmd::Command {
        let mut command = self.in_words(python, flags);
        command.arg("--json");
        command
    }

    /// The same without `--json`.
    fn in_words(&self, python: &Path, flags: &[&str]) -> assert_cmd::Command {
        let mut command = extractor(&self.path("data"));
        command
            .env("TMPDIR", self.path("tmp"))
            .env_remove("HEADSTART_QUANTIZE_VENV")
            .args(["backbone", "quantize", "--python"])
            .arg(python)
            .arg(&self.model)
            .arg(self.path("images"))
            .args(flags);
        command
    }

    /// Exit 1 with these words on one line, and nothing left behind.
    fn refused(&self, python: &Path, flags: &[&str], words: &str) {
        let assert = self
            .quantize(python, &[flags, &["--quiet"]].concat())
            .assert();
        let output = assert
            .code(1)
            .stdout("")
            .stderr(contains(words))
            .get_output()
            .clone();
        let lines = String::from_utf8(output.stderr).unwrap();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        self.nothing_is_left();
    }

    fn nothing_is_left(&self) {
        assert_eq!(names(&self.path("data/backbones"), ""), [""; 0]);
        self.nothing_temporary_is_left();
    }

    /// `.ses` is what ONNX Runtime leaves in whatever process loads it.
    fn nothing_temporary_is_left(&self) {
        let mut left = names(&self.path("tmp"), "");
        left.retain(|name| name != ".ses");
        assert_eq!(left, [""; 0]);
    }
}

#[test]
fn an_accepted_backbone_is_written_with_its_description() {
    let desk = Desk::new(30);
    let python = desk.python("-0.01");
    let flags = ["--calibrate", "20", "--judge", "50", "--name", "small"];
    let mut command = desk.quantize(&python, &flags);
    let result = json(&command.assert().code(0).get_output().stdout);
    assert!((result["loss_points"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(result["quantizer"], "a script");
    // Both are the same model here.
    assert!((result["cosine"]["least"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert!(result["images_per_sec"]["ratio"].as_f64().unwrap() > 0.0);
    desk.nothing_temporary_is_left();
    // 10 of 30 a class calibrate, and 25 from the other end judge.
    assert_eq!(result["calibrated_and_judged"], 10);
    assert_eq!(result["left_out"], serde_json::Value::Null);

    let path = desk.path("data/backbones/small.onnx");
    let float = Model::read(&desk.model, &Overrides::default()).unwrap();
    let int8 = Model::read(&path, &Overrides::default()).unwrap();
    assert_eq!(int8.spec.name, "small");
    assert_eq!(int8.spec.preset, float.spec.preset);
    assert_eq!(result["digest"], int8.spec.digest.to_string());
    assert_ne!(int8.spec.digest, float.spec.digest);

    // The batches are what an extraction feeds a backbone: 8 images each, the last one's again where it ends.
    let given = desk.path("given");
    let mut batches = names(&given, "batch-");
    batches.sort_unstable();
    assert_eq!(batches.len(), 3);
    let read = |name: &String| Array4::<f32>::read_npy(fs::File::open(given.join(name)).unwrap());
    let batches: Vec<Array4<f32>> = batches.iter().map(|name| read(name).unwrap()).collect();
    let preprocessor = float.spec.preprocessor();
    let mut inputs = Vec::new();
    for class in names(&desk.path("images"), "") {
        let class = desk.path("images").join(class);
        for file in names(&class, "") {
            let bytes = fs::read(class.join(file)).unwrap();
            let mut input = vec![0.0; preprocessor.len()];
            preprocessor.apply(&decode_oriented(&bytes, Exif::Ignore).unwrap(), &mut input);
            inputs.push(input);
        }
    }
    let mut taken = Vec::new();
    for batch in &batches {
        assert_eq!(batch.shape(), [8, 3, 32, 32]);
        for image in batch.outer_iter() {
            let image: Vec<f32> = image.iter().copied().collect();
            taken.push(inputs.iter().position(|input| *input == image).unwrap());
        }
    }
    assert_eq!(taken[20..], taken[16..20]);
    taken.truncate(20);
    // The files of one class come before those of the other.
    assert_eq!(taken.iter().filter(|i| **i < 30).count(), 10);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 20);

    let job: serde_json::Value =
        serde_json::from_slice(&fs::read(given.join("job.json")).unwrap()).unwrap();
    assert_eq!(job["input"], float.spec.input);
    assert_eq!(job["method"], "percentile");
    let pooled = ndarray::Array2::<f32>::read_npy(fs::File::open(given.join("int8.npy")).unwrap());
    assert_eq!(pooled.unwrap().shape(), [50, 128]);

    // The same again is no other file; one made otherwise is.
    desk.quantize(&python, &flags).assert().code(0);
    let mut other = desk.quantize(&python, &["--calibrate", "8", "--name", "small"]);
    other
        .assert()
        .code(1)
        .stderr(contains("another backbone is there (hint: "));
    assert_eq!(Digest::of_file(&path).unwrap(), int8.spec.digest);

    let mut features = common::features_with(&path, &desk.path("data"), &desk.path("images"), 8);
    let output = features.output().unwrap();
    assert!(output.status.success());
    assert_eq!(json(&output.stdout)["counts"]["new"], 60);
}

#[test]
fn what_loses_too_much_is_not_written() {
    let desk = Desk::new(30);
    let python = desk.python("-0.0213");
    let words = "int8 costs 2.13 points of head accuracy, more than --max-drop 2: float 90.00 %, int8 80.00 %, \
                 difference -2.13 with a standard error of 1.00 (hint: ";
    desk.refused(&python, &["--calibrate", "8", "--max-drop", "2"], words);
    let gained = desk.python("0.5");
    let words = "more than --max-drop -100";
    desk.refused(&gained, &["--calibrate", "8", "--max-drop", "-100"], words);
}

#[test]
fn what_cannot_be_done_is_refused_before_python_is_asked() {
    let desk = Desk::new(30);
    let python = desk.script("echo 'error: asked' >&2\nexit 1\n");
    let refused = |flags: &[&str], words| desk.refused(&python, flags, words);
    let few = "images has 60 images to calibrate with, not 100 (hint: --calibrate fewer)";
    refused(&["--calibrate", "100"], few);
    let split = desk.path("split.csv");
    fs::write(&split, "name,side\na,test\n").unwrap();
    let split = split.to_str().unwrap();
    refused(&["--split", split], "its header is `name,side` (hint: ");
    let model = desk.model.to_str().unwrap();
    refused(&["--out", model], "is what the backbone is made of");
    let split = desk.path("other.csv");
    fs::write(&split, "path,split\na.jpg,test\nb.jpg,test\n").unwrap();
    let none = "none of the 2 images that its test side names is in the data set (hint: ";
    refused(&["--split", split.to_str().unwrap()], none);
    refused(&["--calibrate", "8"], "cannot quantise ");
    refused(&["--calibrate", "8"], ": asked");
    desk.quantize(&python, &["--max-drop", "nan"])
        .assert()
        .code(2);

    // One class tells nothing of heads.
    let class = names(&desk.path("images"), "").into_iter();
    let class = class
        .map(|name| desk.path("images").join(name))
        .find(|path| path.is_dir());
    fs::remove_dir_all(class.unwrap()).unwrap();
    refused(
        &["--calibrate", "8"],
        "it has 1 class of at least 10 images",
    );
}

#[test]
fn what_is_known_before_is_refused_before_the_images_are_read() {
    let desk = Desk::new(30);
    let flags = ["--calibrate", "8"];
    let absent = Path::new("no-such-python");
    desk.refused(absent, &flags, "cannot start no-such-python (hint: ");
    let old = desk.path("old");
    fs::write(&old, "#!/bin/sh\necho 3.8\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let words = "old is Python 3.8, not Python 3.9 or later (hint: ";
    desk.refused(&old, &flags, words);

    let python = desk.python("0");
    let out = desk.path("out");
    fs::create_dir(&out).unwrap();
    let description = out.join("small.toml");
    fs::write(&description, "note = \"mine\"\n").unwrap();
    let model = out.join("small.onnx");
    let flags = [&flags[..], &["--out", model.to_str().unwrap()]].concat();
    let words = "small.toml: another description is there (hint: ";
    desk.refused(&python, &flags, words);
    let left = fs::read_to_string(&description).unwrap();
    assert_eq!(
        (left.as_str(), names(&out, "").len()),
        ("note = \"mine\"\n", 1)
    );
    // Neither indexed nor asked.
    assert_eq!(names(&desk.path("data"), "indexes"), [""; 0]);
    assert!(!desk.path("given").exists());
}

#[test]
fn the_test_side_is_left_out() {
    let desk = Desk::new(30);
    let python = desk.python("0");
    let mut rows = "class,file,split\n".to_owned();
    let images = desk.path("images");
    for class in names(&images, "") {
        let mut files = names(&images.join(&class), "");
        files.sort_unstable();
        for (i, file) in files.iter().enumerate() {
            let side = if i < 12 { "train" } else { "test" };
            rows += &format!("{class},{file},{side}\n");
        }
        // A later copy of an image of the other side: what is in it is left out, whatever its path.
        if let Some(first) = files.first() {
            let class = images.join(&class);
            fs::copy(class.join(first), class.join("zz.jpg")).unwrap();
            rows += &format!("{},zz.jpg,test\n", class.file_name().unwrap().display());
        }
    }
    let split = desk.path("split.csv");
    fs::write(&split, rows).unwrap();
    let split = ["--split", split.to_str().unwrap(), "--calibrate"];
    let few = "has 22 images to calibrate with, not 23";
    desk.refused(&python, &[&split[..], &["23"]].concat(), few);
    let flags = [&split[..], &["22"]].concat();
    let mut command = desk.quantize(&python, &flags);
    let result = json(&command.assert().code(0).get_output().stdout);
    // Two classes' 18 and one that has a copy there.
    assert_eq!(result["left_out"], 38);
    assert_eq!(result["calibrated_and_judged"], 22);
    let words =
        "22 of which it was calibrated on too\nleft out  38 images of the split's test side\n";
    let mut command = desk.in_words(&python, &flags);
    command.assert().code(0).stdout(contains(words));
    let labels = fs::File::open(desk.path("given/labels.npy")).unwrap();
    let labels = ndarray::Array1::<u32>::read_npy(labels).unwrap();
    assert_eq!(labels.len(), 22);
    assert_eq!(labels.sum(), 11);
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    let desk = Desk::new(30);
    let (asked, ended) = (desk.path("asked"), desk.path("ended"));
    // What it starts hears of the end too, and is waited for as Python waits for pip.
    let python = desk.script(&format!(
        "trap : TERM\n\
         (trap \": > '{ended}'; exit\" TERM; for i in $(seq 6000); do sleep 0.1; done) > /dev/null 2>&1 &\n\
         mkdir \"$TMPDIR/of-its-own\"; mktemp > /dev/null; sleep 0.2; : > '{asked}'\n\
         wait; wait; exit 143\n",
        ended = ended.display(),
        asked = asked.display()
    ));
    let mut child = common::command(&desk.path("data"))
        .env("TMPDIR", desk.path("tmp"))
        .args(["backbone", "quantize", "--calibrate", "8", "--python"])
        .arg(&python)
        .arg(&desk.model)
        .arg(desk.path("images"))
        .spawn()
        .unwrap();
    while !asked.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let kill = std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(ended.exists());
    desk.nothing_is_left();
}
