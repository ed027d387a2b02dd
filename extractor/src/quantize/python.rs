//! Runs scripts/quantize.py, which is part of this program: it is written into a folder, makes its environment the
//! first time, and answers with JSON.
//!
//! Must not know what is asked.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

use serde::de::DeserializeOwned;

use crate::files::{FileError, escape_path, printable};

const SCRIPT: &str = "quantize.py";
/// The script and what it needs beside it.
const FILES: [(&str, &str); 3] = [
    (SCRIPT, include_str!("../../../scripts/quantize.py")),
    (
        "export_env.py",
        include_str!("../../../scripts/export_env.py"),
    ),
    (
        "requirements-quantize.txt",
        include_str!("../../../scripts/requirements-quantize.txt"),
    ),
];
/// The job, as the script reads it.
const JOB: &str = "job.json";
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A Python and where it works.
pub struct Python<'a> {
    interpreter: PathBuf,
    environment: PathBuf,
    folder: PathBuf,
    stop: &'a AtomicBool,
}

/// Python did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// The interpreter does not start.
    #[error(
        "cannot start {} (hint: onnxruntime's quantiser needs Python 3.11 to 3.13; install one, or name it with \
         --python FILE)",
        escape_path(interpreter)
    )]
    Start {
        /// The interpreter.
        interpreter: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The script failed and said why.
    #[error("{0}")]
    Failed(String),
    /// What it printed is no answer.
    #[error("the script {SCRIPT} gave no answer that can be read")]
    Answer(#[from] serde_json::Error),
    /// Asked to stop.
    #[error("stopped")]
    Stopped,
    /// A file for it cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be waited for.
    #[error("cannot wait for Python")]
    Wait(#[source] io::Error),
}

impl<'a> Python<'a> {
    /// Puts the script into `folder`, where it will run by `interpreter` (a name on PATH, or a path) in the
    /// environment that it makes in `environment`. Once `stop` is true, it is stopped.
    ///
    /// # Errors
    /// When the script cannot be written.
    pub fn new(
        interpreter: &Path,
        environment: &Path,
        folder: &Path,
        stop: &'a AtomicBool,
    ) -> Result<Python<'a>, PythonError> {
        for (name, text) in FILES {
            let path = folder.join(name);
            fs::write(&path, text).map_err(FileError::new("write", &path))?;
        }
        // It runs in another folder, so that a path must not depend on this one. A plain name is looked up.
        let is_path = interpreter.components().count() > 1;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Python {
            interpreter: match is_path {
                true => absolute(interpreter),
                false => interpreter.to_owned(),
            },
            environment: absolute(environment),
            folder: folder.to_owned(),
            stop,
        })
    }

    /// Where it runs and files for it lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs the script's `verb` on `job` and reads its answer. Its notes go to the log.
    ///
    /// # Errors
    /// [`PythonError`]; the reason in the script's own words where it said one.
    pub fn run<T: DeserializeOwned>(
        &self,
        verb: &str,
        job: &serde_json::Value,
    ) -> Result<T, PythonError> {
        let path = self.folder.join(JOB);
        fs::write(&path, job.to_string()).map_err(FileError::new("write", &path))?;
        let mut child = Command::new(&self.interpreter)
            .arg(SCRIPT)
            .arg("--venv")
            .arg(&self.environment)
            .args([verb, JOB])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| PythonError::Start {
                interpreter: self.interpreter.clone(),
                source,
            })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, answer, said) = thread::scope(|scope| {
            let answer = scope.spawn(|| read(stdout));
            let said = scope.spawn(|| hear(stderr));
            let status = self.wait(&mut child);
            let joined = "a thread that only reads does not panic";
            (
                status,
                answer.join().expect(joined),
                said.join().expect(joined),
            )
        });
        match status? {
            true => Ok(serde_json::from_str(&answer)?),
            false => Err(PythonError::Failed(said)),
        }
    }

    /// Waits for the end; whether all went well.
    fn wait(&self, child: &mut Child) -> Result<bool, PythonError> {
        loop {
            if self.stop.load(Ordering::SeqCst) {
                // Its own end is all that is left to wait for.
                let ended = child.kill().and_then(|()| child.wait());
                return ended
                    .map_err(PythonError::Wait)
                    .and(Err(PythonError::Stopped));
            }
            match child.try_wait().map_err(PythonError::Wait)? {
                Some(status) => return Ok(status.success()),
                None => thread::sleep(LOOK_EVERY),
            }
        }
    }
}

fn read(stdout: Option<impl Read>) -> String {
    let mut text = Vec::new();
    // What is cut off is no JSON, and said to be none.
    let _ = stdout.map(|mut stdout| stdout.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Passes lines on to the log. Returns why the script failed: what follows `error: `, else its last line.
fn hear(stderr: Option<impl Read>) -> String {
    let mut last = "it ended without a word".to_owned();
    let mut reason = None;
    let Some(stderr) = stderr else { return last };
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { break };
        let line = printable(String::from_utf8_lossy(&line).trim_end());
        match line.strip_prefix("error: ") {
            Some(error) => reason = Some(error.to_owned()),
            None if line.starts_with("making ") || line.starts_with("installing ") => {
                tracing::info!("{line}");
            }
            None if !line.is_empty() => {
                tracing::debug!("{line}");
                last = line;
            }
            None => {}
        }
    }
    reason.unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Python that is a shell script.
    fn stand_in(folder: &Path, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.join("python");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn run(script: &str, stop: bool) -> Result<serde_json::Value, String> {
        let folder = tempfile::tempdir().unwrap();
        let interpreter = stand_in(folder.path(), script);
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        let stop = AtomicBool::new(stop);
        let python = Python::new(&interpreter, Path::new("venv"), &work, &stop).unwrap();
        let answer = python.run("verb", &serde_json::json!({ "a": 1 }));
        answer.map_err(|e| e.to_string())
    }

    #[test]
    fn the_script_is_there_and_answers() {
        let script = "test -f $1 -a -f export_env.py -a -f requirements-quantize.txt || exit 1\n\
                      echo noise >&2; printf '{\"verb\": \"%s\", \"job\": ' $4; cat $5; echo '}'";
        let answer = run(script, false).unwrap();
        assert_eq!(
            answer,
            serde_json::json!({ "verb": "verb", "job": { "a": 1 } })
        );
    }

    #[test]
    fn failures_are_said_in_the_scripts_words() {
        let failed = |script| run(script, false).unwrap_err();
        let script =
            "echo note >&2; echo 'error: no index (hint: go online)' >&2; echo late >&2; exit 1";
        assert_eq!(failed(script), "no index (hint: go online)");
        assert_eq!(
            failed("echo Traceback >&2; echo KeyError >&2; exit 2"),
            "KeyError"
        );
        assert_eq!(failed("exit 1"), "it ended without a word");
        assert!(
            failed("echo '{'").contains("no answer"),
            "{}",
            failed("echo '{'")
        );
        assert_eq!(run("exec sleep 600", true).unwrap_err(), "stopped");
    }

    #[test]
    fn a_python_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let absent = Path::new("no-such-python");
        let python = Python::new(absent, Path::new("venv"), folder.path(), &stop).unwrap();
        let job = serde_json::json!({});
        let error = python.run::<()>("quantize", &job).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot start no-such-python (hint: "),
            "{error}"
        );
    }
}
