//! A sweep's result as text for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use extractor::files::escape_path;

use super::files::{Record, numbers};
use crate::cli::table::{Column, percent, table};
use crate::sweep::{By, Mean};

pub(super) fn text(record: &Record, top: usize, one_standard_error: bool, out: &Path) -> String {
    let all = &record.candidates;
    let stores: BTreeSet<&str> = all.iter().map(|c| c.store.as_str()).collect();
    let adam = all.iter().any(|c| numbers(&c.outcome.config).1.is_some());
    let mut columns = vec![
        Column::Right("rank"),
        Column::Left("solver"),
        Column::Right("l2"),
    ];
    if adam {
        columns.extend([Column::Right("learning rate"), Column::Right("epochs")]);
    }
    if stores.len() > 1 {
        columns.extend([Column::Left("backbone"), Column::Left("preset")]);
    }
    columns.extend([
        Column::Right("loss"),
        Column::Right("s.e."),
        Column::Right("accuracy"),
        Column::Right("s.e."),
        Column::Left(""),
    ]);
    let shown = |rank: usize| rank <= top || rank == record.chosen_rank;
    let rows: Vec<Vec<String>> = all
        .iter()
        .filter(|candidate| shown(candidate.rank))
        .map(|candidate| {
            let outcome = &candidate.outcome;
            let (l2, rate, epochs) = numbers(&outcome.config);
            let mut row = vec![
                candidate.rank.to_string(),
                outcome.config.solver.name().to_owned(),
                short(l2),
            ];
            if adam {
                row.push(rate.map_or("-".to_owned(), short));
                row.push(epochs.map_or("-".to_owned(), |n| n.to_string()));
            }
            if stores.len() > 1 {
                row.extend([candidate.backbone.clone(), candidate.preset.clone()]);
            }
            let error = |mean: Mean, scale: f64, digits: usize| {
                let error = mean.standard_error;
                error.map_or("-".to_owned(), |e| format!("{:.digits$}", scale * e))
            };
            row.extend([
                format!("{:.4}", outcome.loss.mean),
                error(outcome.loss, 1.0, 4),
                percent(Some(outcome.accuracy.mean)),
                error(outcome.accuracy, 100.0, 2),
                match (candidate.chosen, outcome.converged) {
                    (true, true) => "chosen",
                    (true, false) => "chosen, not converged",
                    (false, true) => "",
                    (false, false) => "not converged",
                }
                .to_owned(),
            ]);
            row
        })
        .collect();
    let mut text = table(&columns, &rows);
    if rows.len() < all.len() {
        let _ = writeln!(text, "... {} more in sweep.csv", all.len() - rows.len());
    }
    let by = match record.by {
        By::Loss => "loss",
        By::Accuracy => "accuracy",
    };
    let rule = match one_standard_error {
        true => "the simplest within one standard error of the best",
        false => "the best",
    };
    let (candidates, secs) = (all.len(), record.secs);
    let _ = writeln!(
        text,
        "\njudged on  {}, by {by}; chosen is {rule}\ntime       {secs:.2} s for {candidates} candidates\nsweep      {}",
        record.judged_on,
        escape_path(out)
    );
    match &record.run {
        Some(run) => {
            let _ = writeln!(
                text,
                "run        {}: validation accuracy {}, test {}",
                run.folder,
                percent(run.validation_accuracy),
                percent(run.test_accuracy)
            );
        }
        None => {
            let config = &record.chosen().outcome.config;
            let (l2, rate, epochs) = numbers(config);
            let mut flags = format!("--solver {} --l2 {l2}", config.solver.name());
            if let (Some(rate), Some(epochs)) = (rate, epochs) {
                let _ = write!(flags, " --learning-rate {rate} --epochs {epochs}");
            }
            if config.standardize {
                flags += " --standardize";
            }
            let _ = writeln!(
                text,
                "train it   head-trainer train ... {flags} (or sweep with --train)"
            );
        }
    }
    text
}

/// A number of a scale, in few digits.
fn short(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        x if (1e-3..1e4).contains(&x) => {
            let digits = (3 - x.log10().floor() as i32 - 1).max(0) as usize;
            let text = format!("{x:.digits$}");
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
        x => format!("{x:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn few_digits() {
        let cases = [
            (0.0, "0"),
            (0.1, "0.1"),
            (1.0, "1"),
            (1234.5, "1234"),
            (0.00123, "0.00123"),
        ];
        for (x, text) in cases {
            assert_eq!(short(x), text);
        }
        assert_eq!(short(1.2345e-6), "1.23e-6");
        assert_eq!(short(1e5), "1.00e5");
    }
}
