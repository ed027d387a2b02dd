//! Runs scripts/quantize.py, which is part of this program: it is written into a folder, makes its environment the
//! first time, and answers with JSON.
//!
//! It has a process group of its own, so that what it started, pip for one, ends with it.
//!
//! Must not know what is asked.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
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
/// What it has from SIGTERM to SIGKILL.
const TIME_TO_END: Duration = Duration::from_secs(3);
/// The least version that the script runs on, so as to find one that the quantiser runs on.
const LEAST: [u32; 2] = [3, 9];
/// Says its version; in a way that each version understands.
const VERSION: &str = "import sys; print('%d.%d' % sys.version_info[:2])";

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
    /// The interpreter is too old, or none.
    #[error(
        "{} is {found}, not Python {}.{} or later (hint: install one, or name it with --python FILE)",
        escape_path(interpreter), LEAST[0], LEAST[1]
    )]
    Unfit {
        /// The interpreter.
        interpreter: PathBuf,
        /// What it is.
        found: String,
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

/// Refuses an `interpreter` that does not start, is no Python or too old a one.
///
/// # Errors
/// [`PythonError::Start`] or [`PythonError::Unfit`].
pub fn check(interpreter: &Path) -> Result<(), PythonError> {
    let mut command = Command::new(interpreter);
    let said = command.args(["-c", VERSION]).stdin(Stdio::null()).output();
    let said = said.map_err(|source| PythonError::Start {
        interpreter: interpreter.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&said.stdout);
    let version = || -> Option<[u32; 2]> {
        let (major, minor) = text.trim().split_once('.')?;
        Some([major.parse().ok()?, minor.parse().ok()?])
    };
    let found = match version().filter(|_| said.status.success()) {
        Some(version) if version >= LEAST => return Ok(()),
        Some([major, minor]) => format!("Python {major}.{minor}"),
        None => "no Python that works".to_owned(),
    };
    Err(PythonError::Unfit {
        interpreter: interpreter.to_owned(),
        found,
    })
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
            // What it leaves of its own goes with the folder.
            .env("TMPDIR", &self.folder)
            .process_group(0)
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
                end(child).map_err(PythonError::Wait)?;
                return Err(PythonError::Stopped);
            }
            match child.try_wait().map_err(PythonError::Wait)? {
                Some(status) => return Ok(status.success()),
                None => thread::sleep(LOOK_EVERY),
            }
        }
    }
}

/// Ends a process and its group: first it is asked to, then whatever is left is killed.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    let asked = Instant::now();
    signal(child, "TERM");
    while child.try_wait()?.is_none() && asked.elapsed() < TIME_TO_END {
        thread::sleep(LOOK_EVERY);
    }
    signal(child, "KILL");
    child.wait()
}

/// Sends a signal to a process's group. The shell has a `kill` where no package brings one. That none is left to
/// receive it is no error.
fn signal(child: &Child, name: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s \"$1\" -- \"-$2\"", "sh", name]);
    shell.arg(child.id().to_string());
    if let Err(e) = shell.stdin(Stdio::null()).stderr(Stdio::null()).status() {
        tracing::warn!("cannot send SIG{name} to process group {}: {e}", child.id());
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
    fn what_ignores_the_request_to_end_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        // The inner one holds stdout, which is read to its end: had it lived, the file would be there.
        let script = "trap '' TERM\n(sleep 600; : > survived) &\n: > ready\nsleep 600";
        let interpreter = stand_in(folder.path(), script);
        let stop = AtomicBool::new(false);
        let python = Python::new(&interpreter, Path::new("venv"), folder.path(), &stop).unwrap();
        let ready = folder.path().join("ready");
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                while !ready.exists() {
                    thread::sleep(LOOK_EVERY);
                }
                stop.store(true, Ordering::SeqCst);
            });
            let answer = python.run::<()>("verb", &serde_json::json!({}));
            // Lets the other thread end if it failed before.
            let _ = fs::write(&ready, "");
            answer.unwrap_err().to_string()
        });
        assert_eq!(error, "stopped");
        assert!(!folder.path().join("survived").exists());
    }

    #[test]
    fn an_interpreter_is_known_by_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let checked = |script: &str| {
            let checked = check(&stand_in(folder.path(), script));
            checked.map_err(|e| e.to_string())
        };
        assert_eq!(checked("echo 3.9"), Ok(()));
        assert_eq!(checked("test \"$1\" = -c && echo 4.0"), Ok(()));
        for (script, found) in [
            ("echo 3.8", "Python 3.8"),
            ("echo 2.7", "Python 2.7"),
            ("echo 3.12; exit 1", "no Python that works"),
            ("echo Python", "no Python that works"),
        ] {
            let error = checked(script).unwrap_err();
            let expected = format!("/python is {found}, not Python 3.9 or later (hint: ");
            assert!(error.contains(&expected), "{error}");
        }
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
        assert_eq!(check(absent).unwrap_err().to_string(), error);
    }
}
