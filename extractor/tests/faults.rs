//! A store on a disk that fails: a failed sync, failed writes, a mount that is lost. What was
//! renamed stays valid, and the next run completes it to the rows of an undisturbed run.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::{copies, json, names, only_store};

/// Builds the library that makes calls fail; the linker of Rust programs is a C compiler.
fn shim(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/fault.c");
    let library = folder.join("fault.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .expect("there is a C compiler, as Rust links with it");
    assert!(built.status.success(), "{built:?}");
    library
}

/// One image a batch, four rows a shard.
fn features(backbone: &Path, data: &Path, images: &Path) -> Command {
    common::features_with(backbone, data, images, 1)
}

#[test]
fn failing_calls_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    common::sample(&images, 5);
    let cut = first_image(&images);
    fs::write(images.join("cut.jpg"), &cut[..cut.len() / 2]).unwrap();
    let backbone = common::tiny_backbone(folder.path());
    let shim = shim(folder.path());
    let undisturbed = folder.path().join("undisturbed");
    let output = features(&backbone, &undisturbed, &images).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let expected = copies(only_store(&undisturbed).unwrap());
    assert_eq!(expected.len(), 10);

    for (call, error, says) in [
        ("fsync", libc::EIO, "Input/output error"),
        ("write", libc::EIO, "Input/output error"),
        ("write", libc::ESTALE, "Stale file handle"),
    ] {
        let faulty = |data: &Path, n: usize| {
            let mut command = features(&backbone, data, &images);
            command.env("LD_PRELOAD", &shim);
            command.env("HEADSTART_FAULT", format!("{call}:{n}:{error}"));
            command
        };
        let count = folder.path().join(format!("{call}-{error}"));
        let data = folder.path().join(format!("count-{call}-{error}"));
        let mut command = faulty(&data, 0);
        let output = command.env("HEADSTART_FAULT_COUNT", &count).output();
        assert_eq!(output.unwrap().status.code(), Some(3));
        let calls = fs::metadata(&count).unwrap().len() as usize;
        assert!(calls > 5, "{call}: {calls} calls");
        for n in (1..=calls).step_by(calls.div_ceil(40)) {
            let data = folder.path().join(format!("{call}-{error}-{n}"));
            let output = faulty(&data, n).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let context = format!("{call} {n} of {calls}: {stderr}");
            // A server that is away may come back; a full disk stays full.
            let code = if error == libc::ENOSPC { 1 } else { 75 };
            assert_eq!(output.status.code(), Some(code), "{context}");
            assert!(
                stderr.contains(says) && stderr.contains("/features"),
                "{context}"
            );
            let kept = match only_store(&data) {
                // Every row is read and checked.
                Some(store) => {
                    assert!(names(&store, ".tmp-").is_empty(), "{context}");
                    copies(&store)
                }
                None => Default::default(),
            };
            let output = features(&backbone, &data, &images).output().unwrap();
            assert_eq!(output.status.code(), Some(3), "{context}");
            let counts = &json(&output.stdout)["counts"];
            assert_eq!(counts["cached"], kept.len(), "{context}");
            assert!(copies(only_store(&data).unwrap()) == expected, "{context}");
        }
    }
}

/// A shard that another machine removes while it is listed here: a network file system lists it
/// for some time, and says that its handle is stale.
#[test]
fn a_stale_shard_is_no_damage_and_ends_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 5);
    let backbone = common::tiny_backbone(folder.path());
    let output = features(&backbone, &data, &images).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let store = only_store(&data).unwrap();
    let shards = names(&store, "shard-");
    let shim = shim(folder.path());
    let verb = |fault: &str, args: &[&str]| {
        let mut command = common::command(&data);
        command.args(["store", args[0], "--json"]).arg(&store);
        command.args(&args[1..]).env("LD_PRELOAD", &shim);
        command.env("HEADSTART_FAULT_NAME", &shards[0]);
        command.env("HEADSTART_FAULT", fault).output().unwrap()
    };
    let stale = libc::ESTALE;

    // For a moment: nobody notices.
    let output = verb(&format!("open:3:{stale}"), &["inspect"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{output:?}");
    assert_eq!(json(&output.stdout)["rows"], 10);
    // For good: it is left out after a while, with a warning.
    let started = Instant::now();
    let output = verb(&format!("open:999999:{stale}"), &["inspect"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert!(
        stderr.contains("left out, as it is listed and not there") && stderr.contains(&shards[0]),
        "{stderr}"
    );
    let rows = json(&output.stdout)["rows"].as_u64().unwrap();
    assert!(rows > 0 && rows < 10, "{rows}");
    let waited = started.elapsed().as_secs_f64();
    assert!((4.0..30.0).contains(&waited), "{waited} s");

    let output = verb(&format!("open:999999:{stale}"), &["verify", "--quarantine"]);
    assert!(output.status.success(), "{output:?}");
    let verified = json(&output.stdout);
    assert_eq!(verified["damaged"], json(b"[]"));
    assert_eq!(
        (&verified["replaced"], &verified["rows"]),
        (&1.into(), &rows.into())
    );
    // Who removes shards must have seen them all.
    for args in [["compact", "--grace", "0s"], ["compact", "--grace", "24h"]] {
        let output = verb(&format!("open:999999:{stale}"), &args);
        assert_eq!(output.status.code(), Some(75), "{output:?}");
    }
    assert_eq!(names(&store, "shard-"), shards);
    // A bad sector is damage, though.
    let output = verb(&format!("open:999999:{}", libc::EIO), &["verify"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}

/// What may go goes before anything is written, so that a full disk is not in the way of its own
/// emptying; and what went is said.
#[test]
fn compacting_on_a_full_disk_frees_what_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 5);
    let backbone = common::tiny_backbone(folder.path());
    let run = |images: &Path| {
        let output = features(&backbone, &data, images).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run(&images);
    let store = only_store(&data).unwrap();
    let compact = || {
        let mut command = common::command(&data);
        command.args(["store", "compact"]).arg(&store);
        command
    };
    let replaced = names(&store, "shard-").len();
    assert!(compact().output().unwrap().status.success());
    assert_eq!(names(&store, "shard-").len(), replaced + 1);
    // More small shards of the same provenance: to be merged with the merged one.
    let more = folder.path().join("more");
    fs::create_dir_all(more.join("class")).unwrap();
    let other = image::RgbImage::from_fn(30, 40, |x, y| image::Rgb([x as u8, y as u8, 9]));
    other.save(more.join("class/other.png")).unwrap();
    run(&more);
    let before = copies(&store);
    let mut command = compact();
    command.args(["--grace", "0s"]);
    command.env("LD_PRELOAD", shim(folder.path()));
    command.env("HEADSTART_FAULT", format!("write:1:{}", libc::ENOSPC));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&format!("stopped after removing {replaced} shards")),
        "{stderr}"
    );
    assert_eq!(
        stderr.matches("No space left on device").count(),
        1,
        "{stderr}"
    );
    assert!(
        stderr.contains("cannot write a shard in") && stderr.contains("(hint: the disk is full"),
        "{stderr}"
    );
    assert_eq!(names(&store, "shard-").len(), 2);
    assert!(names(&store, ".tmp-").is_empty());
    let after = copies(&store);
    assert!(after.keys().eq(before.keys()));
    assert!(
        after
            .iter()
            .all(|(id, copies)| before[id].contains(&copies[0]))
    );
}

fn first_image(folder: &Path) -> Vec<u8> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|e| e.path().is_dir())
        .flat_map(|e| fs::read_dir(e.path()).unwrap().flatten())
        .map(|e| e.path())
        .collect();
    files.sort();
    fs::read(&files[0]).unwrap()
}

/// Takes the store's file system away while the program writes to it, where mounting is allowed.
#[test]
fn a_lost_mount_keeps_what_was_published() {
    const SCRIPT: &str = r#"
        set -eu
        disk=$1 mount=$2 out=$3
        shift 3
        mount --bind "$disk" "$mount"
        "$@" > "$out/lost.json" 2> "$out/lost.txt" &
        while kill -0 $! && [ "$(ls "$mount"/features/*/ 2>/dev/null | grep -c ^shard-)" -lt 3 ]; do
            sleep 0.01
        done
        umount -l "$mount"
        code=0
        wait $! || code=$?
        echo "$code" > "$out/code"
        find "$mount" > "$out/below"
        mount --bind "$disk" "$mount"
        "$@" > "$out/more.json" 2> "$out/more.txt"
    "#;
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        place
    };
    let [disk, mount, out] = ["disk", "mount", "out"].map(place);
    let probe = common::in_mount_namespace("mount --bind \"$1\" \"$2\"", &[&disk, &mount], None);
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let images = folder.path().join("images");
    common::sample(&images, 300);
    let backbone = common::tiny_backbone(folder.path());
    let mut command = features(&backbone, &mount, &images);
    command
        .arg("--index")
        .arg(folder.path().join("index.arrow"));
    let output =
        common::in_mount_namespace(SCRIPT, &[&disk, &mount, &out], Some(&command)).unwrap();
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    assert!(output.status.success(), "{output:?} {}", text("more.txt"));
    assert_eq!(text("code"), "75\n", "{}", text("lost.txt"));
    assert!(
        text("lost.txt").contains("features"),
        "{}",
        text("lost.txt")
    );
    assert_eq!(
        text("below").lines().count(),
        1,
        "nothing was written where the mount had been: {}",
        text("below")
    );
    let counts = &json(text("more.json").as_bytes())["counts"];
    let (cached, new) = (counts["cached"].as_u64(), counts["new"].as_u64());
    assert!(cached >= Some(6) && new > Some(0), "{counts}");

    let undisturbed = folder.path().join("undisturbed");
    let output = features(&backbone, &undisturbed, &images).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = copies(only_store(&undisturbed).unwrap());
    assert!(copies(only_store(&disk).unwrap()) == expected);
}
