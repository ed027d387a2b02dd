//! The built binary computing parts of a data set: together they are the whole, whoever says which
//! part and whether or not there is an index.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::str::contains;

use common::{features, json, only_store, rows};

/// Rows of the whole data set, by one process.
fn whole(data_dir: &Path, images: &Path) -> BTreeMap<String, Vec<u32>> {
    assert!(
        features(data_dir, images, 4)
            .output()
            .unwrap()
            .status
            .success()
    );
    rows(only_store(data_dir).unwrap())
}

fn succeed(command: &mut Command) -> serde_json::Value {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    json(&output.stdout)
}

fn index(data_dir: &Path, images: &Path) -> serde_json::Value {
    succeed(
        common::command(data_dir)
            .args(["index", "--json"])
            .arg(images),
    )
}

/// The images twice: as a folder and as a zip archive, whose members do not lie in the order of
/// their paths.
fn forms(folder: &Path) -> [PathBuf; 2] {
    let images = folder.join("images");
    common::sample(&images, 25);
    let mut files = Vec::new();
    for class in fs::read_dir(&images)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        for file in fs::read_dir(&class).into_iter().flatten() {
            files.push(file.unwrap().path());
        }
    }
    files.sort_by_key(|path| (path.file_name().unwrap().to_owned(), path.clone()));
    let zip = folder.join("images.zip");
    let mut writer = zip::ZipWriter::new(fs::File::create(&zip).unwrap());
    for file in files {
        let name = file.strip_prefix(&images).unwrap().to_str().unwrap();
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(name, options).unwrap();
        writer.write_all(&fs::read(&file).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    [images, zip]
}

#[test]
fn parts_make_up_the_whole_with_an_index_and_without() {
    let here = tempfile::tempdir().unwrap();
    for (form, images) in forms(here.path()).iter().enumerate() {
        let at = |name: &str| here.path().join(format!("{name}{form}"));
        let expected = whole(&at("whole"), images);
        for with_index in [true, false] {
            let data = at(if with_index { "with" } else { "without" });
            if with_index {
                index(&data, images);
            }
            let (mut new, mut sizes) = (0, Vec::new());
            for part in 0..3 {
                let shard = format!("{part}/3");
                let run = || succeed(features(&data, images, 4).args(["--shard", &shard]));
                let first = run();
                assert_eq!(first["part"]["number"], part);
                assert_eq!(first["counts"]["cached"], 0, "no image is in two parts");
                let count = first["counts"]["new"].as_u64().unwrap();
                new += count as usize;
                sizes.push(count);
                // Any number of times.
                let again = run();
                assert_eq!(again["counts"]["cached"], count);
                assert_eq!(again["counts"]["new"], 0);
            }
            assert_eq!(new, expected.len(), "{sizes:?}");
            assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");
            assert_eq!(rows(only_store(&data).unwrap()), expected);

            // The index of the whole takes the parts' over, and says that all is done.
            // (Digest caches lack what was just written.)
            let indexes = || {
                let names = common::names(&data.join("indexes"), "images");
                names.iter().filter(|name| name.ends_with(".arrow")).count()
            };
            assert_eq!(indexes(), if with_index { 1 } else { 3 });
            let path = index(&data, images)["index"].as_str().unwrap().to_owned();
            assert_eq!(indexes(), 1);
            common::extractor(&data)
                .args(["store", "inspect", "--index", &path])
                .arg(only_store(&data).unwrap())
                .assert()
                .success()
                .stdout(contains(format!(
                    "{} done, 0 rejected, 0 missing",
                    expected.len()
                )));
        }
    }
}

#[test]
fn what_is_missing_is_told() {
    let here = tempfile::tempdir().unwrap();
    let [images, _] = forms(here.path());
    let data = here.path().join("data");
    let path = index(&data, &images)["index"].as_str().unwrap().to_owned();
    let done = succeed(features(&data, &images, 4).args(["--shard", "1/2"]));
    let output = common::command(&data)
        .args(["store", "inspect", "--json", "--index", &path])
        .arg(only_store(&data).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let told = json(&output.stdout);
    assert_eq!(told["index"]["done"], done["counts"]["new"]);
    let left = succeed(&mut features(&data, &images, 4));
    assert_eq!(told["index"]["missing_rows"], left["counts"]["new"]);
}

#[test]
fn a_scheduler_says_which_part() {
    let here = tempfile::tempdir().unwrap();
    let [images, _] = forms(here.path());
    let part = |variables: &[(&str, &str)], flag: &[&str]| {
        let mut command = features(&here.path().join("data"), &images, 4);
        succeed(command.envs(variables.iter().copied()).args(flag))["part"].clone()
    };
    let array = [
        ("SLURM_ARRAY_TASK_ID", "11"),
        ("SLURM_ARRAY_TASK_COUNT", "2"),
        ("SLURM_ARRAY_TASK_MIN", "10"),
        ("SLURM_ARRAY_TASK_MAX", "11"),
    ];
    assert_eq!(
        part(&array, &[]),
        serde_json::json!({ "number": 1, "of": 2 })
    );
    let job = [("JOB_COMPLETION_INDEX", "0"), ("HEADSTART_SHARDS", "5")];
    assert_eq!(part(&job, &[]), serde_json::json!({ "number": 0, "of": 5 }));
    // The flag counts before the environment.
    assert_eq!(part(&array, &["--shard", "0/1"])["of"], 1);
    for (variables, flag, words) in [
        (
            vec![("HEADSTART_SHARDS", "4"), ("SLURM_ARRAY_TASK_ID", "4")],
            vec![],
            "no part 4 of 4",
        ),
        (vec![], vec!["--shard", "3/3"], "numbered from 0"),
        (
            vec![("SLURM_ARRAY_TASK_ID", "first")],
            vec![],
            "SLURM_ARRAY_TASK_ID=first",
        ),
    ] {
        let mut command = features(&here.path().join("data"), &images, 4);
        let output = command.envs(variables).args(flag).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!([1, 2].contains(&output.status.code().unwrap()), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn an_index_of_what_is_not_there_is_no_success() {
    let here = tempfile::tempdir().unwrap();
    let [images, _] = forms(here.path());
    let data = here.path().join("data");
    let path = index(&data, &images)["index"].as_str().unwrap().to_owned();
    let elsewhere = here.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("Cat")).unwrap();
    let output = features(&data, &elsewhere, 4)
        .args(["--shard", "0/2", "--index", &path])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("none is in") && stderr.contains("mounted"),
        "{stderr}"
    );
}

#[test]
fn slurm_limits_the_threads() {
    let here = tempfile::tempdir().unwrap();
    let [images, _] = forms(here.path());
    let data = here.path().join("data");
    let mut command = common::command(&data);
    command
        .args(["features", "--ep", "cpu", "--json", "--backbone"])
        .arg(common::small_backbone())
        .arg(&images)
        .env("SLURM_CPUS_PER_TASK", "1");
    succeed(&mut command);
    let costs = extractor::store::costs(&only_store(&data).unwrap());
    assert_eq!(costs[0].threads, 1);
}
