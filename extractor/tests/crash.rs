//! Extraction that is killed, stopped or runs out of space: nothing is lost, nothing half is left,
//! and the rows are those of a run that nobody disturbed, bit for bit.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use common::{copies, features, json, names, only_store, rows};

const KILLS: usize = 50;

/// Small random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn spawn(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Files in the store of a data folder, whole ones or under way.
fn files(data: &Path, prefix: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(data.join("features")) else {
        return 0;
    };
    let stores = entries.flatten();
    stores.map(|store| names(&store.path(), prefix).len()).sum()
}

/// Kills the real program at random moments: in half of the cases at a random time since it
/// started, in the other half around the moment at which a file appears in the store.
#[test]
fn killed_anywhere_the_rows_are_the_same() {
    let seed = match std::env::var("HEADSTART_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    eprintln!("HEADSTART_TEST_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    common::sample(&images, 60);
    let backbone = common::tiny_backbone(folder.path());
    let features = |data: &Path| common::features_with(&backbone, data, &images, 2);
    let undisturbed = folder.path().join("undisturbed");
    let mut command = features(&undisturbed);
    let started = Instant::now();
    let output = command.output().unwrap();
    let run_micros = started.elapsed().as_micros() as u64;
    assert_eq!(json(&output.stdout)["counts"]["new"], 120);
    let expected = rows(only_store(&undisturbed).unwrap());

    let mut stores = 0;
    let (mut kills, mut in_store, mut left_behind) = (0, 0, 0);
    while kills < KILLS {
        stores += 1;
        let data = folder.path().join(format!("data-{stores}"));
        loop {
            let before = files(&data, "shard-") + files(&data, ".tmp-");
            let mut child = spawn(features(&data));
            let started = Instant::now();
            if kills % 2 == 0 {
                sleep(Duration::from_micros(random.below(run_micros)));
            } else {
                let wait_for = before + 1 + random.below(4) as usize;
                while files(&data, "shard-") + files(&data, ".tmp-") < wait_for
                    && started.elapsed() < Duration::from_secs(5)
                    && child.try_wait().unwrap().is_none()
                {
                    sleep(Duration::from_micros(500));
                }
                sleep(Duration::from_micros(random.below(20_000)));
            }
            let finished = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            let status = child.wait().unwrap();
            // What was renamed is whole and right, whenever the end came.
            if let Some(store) = only_store(&data) {
                for (id, bits) in rows(&store) {
                    assert_eq!(bits, expected[&id], "seed {seed}, kill {kills}, row {id}");
                }
                in_store += usize::from(!finished);
            }
            if finished {
                assert_eq!(status.code(), Some(0), "seed {seed}, kill {kills}");
                break;
            }
            kills += 1;
            if kills == KILLS {
                let output = features(&data).output().unwrap();
                assert_eq!(output.status.code(), Some(0), "seed {seed}: {output:?}");
                break;
            }
        }
        let store = only_store(&data).unwrap();
        assert!(rows(&store) == expected, "seed {seed}");

        // Only temporary files are left behind, and they can be removed.
        left_behind += names(&store, ".tmp-").len();
        let compact = ["store", "compact", "--grace", "0s"];
        let mut command = common::extractor(&data);
        command.args(compact).arg(&store).assert().code(0);
        assert!(names(&store, ".tmp-").is_empty(), "seed {seed}");
        assert!(rows(&store) == expected, "seed {seed}");
    }
    eprintln!("{kills} kills, {in_store} with a store, {left_behind} temporary files left behind");
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_signal_finishes_the_batch_and_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    common::sample(&images, 100);
    let mut stopped_rows = Vec::new();
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let data = folder.path().join(name);
        let mut child = spawn(features(&data, &images, 3));
        while files(&data, "shard-") == 0 && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let result = json(&output.stdout);
        let (new, left) = (&result["counts"]["new"], &result["left"]);
        let (new, left) = (new.as_u64().unwrap(), left.as_u64().unwrap());
        assert!(new > 0 && left > 0 && new + left == 200, "{result}");
        let store = only_store(&data).unwrap();
        assert_eq!(
            rows(&store).len() as u64,
            new,
            "all that was computed is kept"
        );
        assert!(names(&store, ".tmp-").is_empty());
        let output = features(&data, &images, 3).output().unwrap();
        assert_eq!(json(&output.stdout)["counts"]["new"], left);
        stopped_rows.push(rows(store));
    }
    assert!(stopped_rows[0].len() == 200 && stopped_rows[0] == stopped_rows[1]);
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 4);
    // A batch that takes long, whatever the number of images in it.
    let mut child = spawn(features(&data, &images, 4000));
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("running on") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    sleep(Duration::from_millis(200));
    signal(&child, "TERM");
    while !line.contains("stopping") {
        line.clear();
        assert_ne!(
            stderr.read_line(&mut line).unwrap(),
            0,
            "it did not stop gently"
        );
    }
    sleep(Duration::from_millis(700));
    let asked = Instant::now();
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(asked.elapsed() < Duration::from_secs(1));
    let mut stdout = String::new();
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_to_string(&mut stdout).unwrap();
    assert_eq!(stdout, "", "it did not finish");
}

/// Fills a real disk: a small tmpfs in a mount namespace, where that is allowed. Elsewhere the test
/// of the limit on the size of a file stands alone.
#[test]
fn a_full_disk_keeps_what_was_published() {
    const SCRIPT: &str = r#"
        set -eu
        disk=$1 out=$2
        shift 2
        mount -t tmpfs -o size=400k none "$disk"
        code=0
        "$@" > "$out/full.json" 2> "$out/full.txt" || code=$?
        echo "$code" > "$out/code"
        cp -r "$disk/." "$out/when-full"
        mount -o remount,size=50m "$disk"
        "$@" > "$out/more.json" 2> "$out/more.txt"
        cp -r "$disk/." "$out/complete"
    "#;
    let folder = tempfile::tempdir().unwrap();
    let [disk, out, images] = ["disk", "out", "images"].map(|name| folder.path().join(name));
    std::fs::create_dir(&disk).unwrap();
    std::fs::create_dir(&out).unwrap();
    let probe = common::in_mount_namespace("mount -t tmpfs none \"$1\"", &[&disk], None);
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    }
    common::sample(&images, 50);
    let output =
        common::in_mount_namespace(SCRIPT, &[&disk, &out], Some(&features(&disk, &images, 2)));
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text("code"), "1\n", "{}", text("full.txt"));
    let error = text("full.txt");
    assert!(
        error.contains("(hint: the disk is full; free some space"),
        "{error}"
    );

    let full = only_store(&out.join("when-full")).unwrap();
    assert!(names(&full, ".tmp-").is_empty(), "nothing half is left");
    let kept = rows(&full);
    assert!(!kept.is_empty() && kept.len() < 100, "{}", kept.len());
    let counts = &json(&read("more.json"))["counts"];
    assert_eq!(counts["cached"], kept.len());
    assert_eq!(counts["new"], 100 - kept.len());
    let undisturbed = folder.path().join("undisturbed");
    assert!(
        features(&undisturbed, &images, 2)
            .output()
            .unwrap()
            .status
            .success()
    );
    let complete = copies(only_store(&out.join("complete")).unwrap());
    assert!(complete == copies(only_store(&undisturbed).unwrap()));
}
