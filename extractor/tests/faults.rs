//! A store on a disk that fails: a failed sync, failed writes, a mount that is lost. What was
//! renamed stays valid, and the next run completes it to the rows of an undisturbed run.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
            assert_eq!(output.status.code(), Some(1), "{context}");
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
    let unshare = |script: &str, args: &[&Path], more: Option<&Command>| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, "sh"]).args(args);
        if let Some(more) = more {
            command.arg(more.get_program()).args(more.get_args());
            command.envs(more.get_envs().filter_map(|(k, v)| Some((k, v?))));
        }
        command.output()
    };
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        place
    };
    let [disk, mount, out] = ["disk", "mount", "out"].map(place);
    let probe = unshare("mount --bind \"$1\" \"$2\"", &[&disk, &mount], None);
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
    let output = unshare(SCRIPT, &[&disk, &mount, &out], Some(&command)).unwrap();
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    assert!(output.status.success(), "{output:?} {}", text("more.txt"));
    assert_eq!(text("code"), "1\n", "{}", text("lost.txt"));
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
