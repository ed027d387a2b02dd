//! What every verb of both binaries shares: output flags, logging, exit codes.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::digest::Digest;
use crate::features::Report;
use crate::files::{counted, escape, escape_path};
use crate::given;
use crate::progress::Progress;
use crate::remote::Location;
use crate::transient::is_transient;

/// For `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but some images \
     were skipped (each is named on stderr); 4 rows are missing (store inspect --index); 5 damage \
     was found (store verify); 75 trouble that may pass, try again (a server or file system is away); 130 or 143 stopped by SIGINT or SIGTERM, what was complete is kept.";

/// Flags that every verb has.
#[derive(Debug, Clone, clap::Args)]
pub struct OutputArgs {
    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no notes on stderr, only warnings and errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More on stderr; twice for the engine's own messages.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Folder for everything that is downloaded or computed.
    #[arg(
        long,
        global = true,
        default_value = "data",
        env = "HEADSTART_DATA_DIR",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
}

impl OutputArgs {
    /// Sends logs to stderr, in colour only on a terminal and without `NO_COLOR`.
    pub fn init_logging(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "warn",
            (false, 0) => "info",
            (false, 1) => "debug",
            (false, _) => "trace",
        };
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let filter = tracing_subscriber::EnvFilter::try_from_env("HEADSTART_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && !no_color)
            .with_target(false)
            .without_time()
            .init();
    }

    /// Prints a verb's result: `value` as JSON with `--json`, else `text`.
    ///
    /// # Errors
    /// When stdout cannot be written, a closed pipe excepted.
    pub fn print(&self, value: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
        let mut line = if self.json {
            serde_json::to_string(value)?
        } else {
            text.to_owned()
        };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        let mut stdout = std::io::stdout().lock();
        match stdout
            .write_all(line.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(()),
        }
    }
}

/// How a verb ended when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All done: exit 0.
    Done,
    /// Done, some images skipped: exit 3.
    Skipped,
    /// Looked, and rows are missing: exit 4.
    Incomplete,
    /// Looked, and something is damaged: exit 5.
    Damaged,
    /// What was complete is kept, and what is lacking may be had at another try: exit 75.
    Retry,
    /// Stopped by the signal of this number; what was complete is published: exit 128 + number.
    Interrupted(u8),
}

/// BSD's EX_TEMPFAIL.
const TRY_AGAIN: u8 = 75;

/// The outcome of a verb that could not read `n` images just now.
pub fn retry(n: usize) -> Outcome {
    tracing::warn!(
        "{} could not be read just now; this may pass: run the same command again",
        counted(n, "image")
    );
    Outcome::Retry
}

/// The exit code for a verb's result; an error is printed as one line on stderr.
pub fn exit(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Skipped) => ExitCode::from(3),
        Ok(Outcome::Incomplete) => ExitCode::from(4),
        Ok(Outcome::Damaged) => ExitCode::from(5),
        Ok(Outcome::Retry) => ExitCode::from(TRY_AGAIN),
        Ok(Outcome::Interrupted(signal)) => ExitCode::from(128 + signal),
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            match is_transient(error.as_ref()) {
                true => {
                    eprintln!("error: {line} (this may pass: run the same command again)");
                    ExitCode::from(TRY_AGAIN)
                }
                false => {
                    eprintln!("error: {line}");
                    ExitCode::from(1)
                }
            }
        }
    }
}

/// Sizes the thread pool: as wanted, or what this process was given ([`given::threads`]). Returns
/// the number of threads.
///
/// # Errors
/// When the threads cannot be started.
pub fn set_threads(wanted: Option<u16>) -> anyhow::Result<usize> {
    let threads = wanted.map_or_else(given::threads, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the worker threads")?;
    Ok(threads)
}

/// Where the index of the data set `dir` lies by default: `DATA/indexes/NAME-DIGEST.arrow`, the
/// digest being that of its absolute path or URL.
///
/// # Errors
/// When `dir` is a path and does not exist.
pub fn default_index_path(data_dir: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let absolute = match Location::parse(dir)? {
        Location::Remote(url) => url.to_path(),
        Location::Local(dir) => crate::images::canonical(&dir)
            .with_context(|| format!("cannot find the data set {}", escape_path(&dir)))?,
    };
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let digest = Digest::of(absolute.as_os_str().as_bytes());
    Ok(data_dir
        .join("indexes")
        .join(format!("{name}-{}.arrow", &digest.to_string()[..8])))
}

/// `path: reason`, for a skipped image.
pub fn skipped_line(path: &[u8], reason: &str) -> String {
    format!("{}: {}", escape(path), reason.trim_end().replace('\n', " "))
}

/// The progress of an extraction, and on stderr what it skips.
pub struct Bar(pub Progress);

impl Report for Bar {
    fn done(&self, n: usize) {
        self.0.add(n as u64);
    }

    fn rejected(&self, path: &[u8], reason: &str) {
        self.0.line(&skipped_line(path, reason));
    }
}
