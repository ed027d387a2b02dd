//! What the tests of sweeps share.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{MadeUp, head_trainer};

/// Two classes of 60 images each, and a store of them.
pub fn made_up() -> (tempfile::TempDir, MadeUp) {
    let data = tempfile::tempdir().unwrap();
    let made_up = MadeUp::new(&["Cat", "Dog"], 60);
    made_up.write(data.path());
    (data, made_up)
}

/// `head-trainer sweep` on the index of [`MadeUp`].
pub fn sweep(data: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = head_trainer(data);
    command
        .args(["sweep", "--index"])
        .arg(data.join("indexes/made-up.arrow"))
        .args(args);
    command.assert()
}

/// The record of a sweep that succeeds, and its folder.
pub fn record(data: &Path, args: &[&str]) -> (Value, PathBuf) {
    let assert = sweep(data, &[args, &["--json"]].concat()).code(0);
    let result: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let folder = PathBuf::from(result["sweep"].as_str().unwrap());
    (result["record"].clone(), folder)
}

/// The penalty of a candidate of lbfgs.
pub fn l2(candidate: &Value) -> f64 {
    candidate["config"]["solver"]["lbfgs"]["l2"]
        .as_f64()
        .unwrap()
}
