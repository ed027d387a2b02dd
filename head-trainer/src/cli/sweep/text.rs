//! A sweep's result as text for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use extractor::files::escape_path;

use super::files::{Candidate, Record, numbers};
use crate::cli::table::{Column, percent, table};
use crate::sweep::{By, Mean};

pub(super) fn text(record: &Record, top: usize, out: &Path) -> String {
    let all = &record.candidates;
    let stores: BTreeSet<&str> = all.iter().map(|c| c.store.as_str()).collect();
    let adam = all.iter().any(|c| numbers(&c.config).1.is_some());
    let mut columns = vec![
        Column::Right("rank"),
        Column::Left("solver"),
        Column::Right("l2"),
    ];
    if adam {
        columns.extend([Column::Right("learning rate"), Column::Right("epochs")]);
    }
    if stores.len() > 1 {
        columns.extend(["backbone", "preset", "dtype"].map(Column::Left));
    }
    columns.extend([
        Column::Right("loss"),
        Column::Right("s.e."),
        Column::Right("accuracy"),
        Column::Right("s.e."),
        Column::Left(""),
    ]);
    // Those that failed come last and are shown as well, as many.
    let failed_from = all.iter().take_while(|c| c.failure.is_none()).count();
    let shown = |place: usize| {
        place < top
            || place + 1 == record.chosen_rank
            || (failed_from..failed_from.saturating_add(top)).contains(&place)
    };
    let rows: Vec<Vec<String>> = all
        .iter()
        .enumerate()
        .filter(|(place, _)| shown(*place))
        .map(|(_, candidate)| {
            let (l2, rate, epochs) = numbers(&candidate.config);
            let mut row = vec![
                candidate.rank.map_or("-".to_owned(), |n| n.to_string()),
                candidate.config.solver.name().to_owned(),
                short(l2),
            ];
            if adam {
                row.push(rate.map_or("-".to_owned(), short));
                row.push(epochs.map_or("-".to_owned(), |n| n.to_string()));
            }
            if stores.len() > 1 {
                row.extend(
                    [&candidate.backbone, &candidate.preset, &candidate.dtype].map(String::clone),
                );
            }
            row.extend(scores(candidate));
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
    let rule = match record.one_standard_error {
        true => "the simplest of the best one's store and solver within one standard error of it",
        false => "the best",
    };
    let (candidates, secs) = (all.len(), record.secs);
    let _ = writeln!(
        text,
        "\njudged on  {}, by {by}; chosen is {rule}\ntime       {secs:.2} s for {candidates} candidates\nsweep      {}",
        record.judged_on,
        escape_path(out)
    );
    let _ = match &record.run {
        Some(run) => writeln!(
            text,
            "run        {}: validation accuracy {}, test {}",
            run.folder,
            percent(run.validation_accuracy),
            percent(run.test_accuracy)
        ),
        None => writeln!(text, "train it   {}", record.train_command),
    };
    text
}

/// The cells of a candidate's scores, and what there is to say of it.
fn scores(candidate: &Candidate) -> [String; 5] {
    let nothing = || "-".to_owned();
    let Some(scored) = &candidate.scored else {
        let why = candidate.failure.as_deref().unwrap_or_default();
        let note = format!("failed: {why}");
        return [nothing(), nothing(), nothing(), nothing(), note];
    };
    let error = |mean: Mean, scale: f64, digits: usize| {
        let error = mean.standard_error;
        error.map_or("-".to_owned(), |e| format!("{:.digits$}", scale * e))
    };
    let note = match (candidate.chosen, scored.converged) {
        (true, true) => "chosen",
        (true, false) => "chosen, not converged",
        (false, true) => "",
        (false, false) => "not converged",
    };
    [
        format!("{:.4}", scored.loss.mean),
        error(scored.loss, 1.0, 4),
        percent(Some(scored.accuracy.mean)),
        error(scored.accuracy, 100.0, 2),
        note.to_owned(),
    ]
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
