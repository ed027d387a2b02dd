//! `head-trainer predict`.

mod lines;
pub(super) mod open;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;
use extractor::cli::common::{Outcome, OutputArgs, retry, skipped_line};
use extractor::engine::Provider;
use extractor::files::counted;
use extractor::images::Columns;

use self::lines::{Form, Lines};
use self::open::RunArgs;
use crate::predict::feed::Feed;
use crate::predict::stream::{Answer, predict};

/// For `--help`.
const EXAMPLES: &str = "Examples:\n  head-trainer predict RUN cat.jpg holiday/\n  \
     find . -name '*.png' | head-trainer predict RUN - --json --quiet";

/// Flags of `head-trainer predict`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Images, or data sets with all of theirs: folders, manifests, archives. `-` takes paths from
    /// the standard input, one a line, and answers as they come.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Print CSV with a header (--json: one JSON object a line).
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Also the N most probable classes of each image.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    /// Execution provider.
    #[arg(long, value_enum, default_value = "auto")]
    ep: Provider,
    /// Images a run of the backbone at most.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    #[command(flatten)]
    columns: Columns,
}

/// Images by what came of them.
#[derive(Debug, Default)]
struct Counts {
    predicted: usize,
    skipped: usize,
    transient: usize,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let opener = self.run.opener(self.ep, self.batch_size.into(), output)?;
        let mut predictor = opener.open()?.predictor()?;
        let form = match (output.json, self.csv) {
            (true, _) => Form::Json,
            (false, true) => Form::Csv,
            (false, false) => Form::Text,
        };
        let top = self.top.map_or(0, |top| top as usize);
        let lines = Lines::new(form, predictor.classes().to_vec(), top);
        let feed = Feed::new(self.images, self.columns);
        let mut out = BufWriter::new(io::stdout().lock());
        let mut counts = Counts::default();
        let mut written = lines.header(&mut out);
        predict(&mut predictor, feed, self.batch_size.into(), |answers| {
            if written.is_ok() {
                written = write(answers, &lines, &mut counts, &mut out);
            }
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        match written.and_then(|()| out.flush()) {
            // Who reads has read enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Outcome::Done),
            other => other?,
        }
        counts.outcome()
    }
}

/// Writes a batch's answers, those without a prediction to stderr.
fn write(
    answers: Vec<Answer>,
    lines: &Lines,
    counts: &mut Counts,
    out: &mut impl Write,
) -> io::Result<()> {
    for Answer { path, outcome } in answers {
        match outcome {
            Ok((id, prediction)) => {
                counts.predicted += 1;
                lines.write(out, &path, &id, &prediction)?;
            }
            Err(why) => {
                counts.skipped += 1;
                counts.transient += usize::from(why.transient);
                // In the order of the images, where both streams go to one place.
                out.flush()?;
                eprintln!("{}", skipped_line(&path, &why.reason));
            }
        }
    }
    out.flush()
}

impl Counts {
    fn outcome(&self) -> anyhow::Result<Outcome> {
        match (self.predicted, self.skipped) {
            _ if self.transient > 0 => Ok(retry(self.transient)),
            (0, 0) => bail!("there is no image (hint: name images, or folders that hold some)"),
            (0, n) => bail!(
                "nothing could be said of {}, named above",
                counted(n, "image")
            ),
            (_, 0) => Ok(Outcome::Done),
            (_, n) => {
                tracing::warn!("{} skipped, each named above", counted(n, "image"));
                Ok(Outcome::Skipped)
            }
        }
    }
}
