//! Pieces of the page: tables, figures, the sections of a group, provenance.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use extractor::files::grouped;

use crate::report::escape::{escape, shortened};
use crate::report::figure::Figure;
use crate::report::figure::matrix::MOST_CLASSES;
use crate::report::figure::svg::number;
use crate::report::figures::GroupFigures;
use crate::report::summary::{Cell, Column, METRICS, metrics_rows, percent};
use crate::report::{Entry, Group, Mistake, Report};

/// Figures wider than this have a line of their own.
const BROAD: f64 = 460.0;
/// Confusions that are listed where there is no matrix.
const CONFUSIONS: usize = 20;

/// A figure with its caption; `more` is said smaller.
pub(super) fn figure(figure: &Figure, more: &str) -> String {
    let title = escape(&figure.title);
    let more = match more {
        "" => String::new(),
        more => format!(" <span>{}</span>", escape(more)),
    };
    let mut svg = figure.inline();
    let mut attributes = String::new();
    if figure.size[0] > BROAD {
        // As wide as it is, in a box that scrolls.
        let style = format!("<svg style=\"min-width:{}px\"", number(figure.size[0]));
        svg = svg.replacen("<svg", &style, 1);
        attributes =
            format!(" class=\"broad\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"");
    }
    format!("<figure{attributes}>\n<figcaption>{title}{more}</figcaption>\n{svg}</figure>\n")
}

/// A table whose first column names its rows, with a colour class for each row if given.
pub(super) fn table<const N: usize>(
    class: &str,
    caption: &str,
    columns: &[Column; N],
    rows: &[[Cell; N]],
    colors: &[String],
) -> String {
    let align = |is_number: bool| if is_number { " class=\"n\"" } else { "" };
    let head = columns.map(|(title, is_number)| {
        format!(
            "<th scope=\"col\" role=\"columnheader\"{}>{title}</th>",
            align(is_number)
        )
    });
    let cell = |i: usize, cell: &Cell, color: Option<&String>| {
        let (title, is_number) = columns[i];
        let more = match cell.more.is_empty() {
            true => String::new(),
            false => {
                // An interval stays on one line.
                let more = escape(&cell.more).replace(" to ", "&nbsp;to&nbsp;");
                format!("<span class=\"more name\">{more}</span>")
            }
        };
        let main = escape(&cell.main);
        match i {
            0 => {
                let style = color.map_or(String::new(), |class| {
                    format!(" style=\"color:var(--{class})\"")
                });
                format!(
                    "<th scope=\"row\" role=\"rowheader\"><span{style}>{main}</span>{more}</th>"
                )
            }
            _ => format!(
                "<td role=\"cell\" data-label=\"{title}\"{}><span class=\"main\">{main}</span>{more}</td>",
                align(is_number)
            ),
        }
    };
    let mut body = String::new();
    for (r, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .enumerate()
            .map(|(i, c)| cell(i, c, colors.get(r)));
        body += &format!("<tr role=\"row\">{}</tr>\n", cells.collect::<String>());
    }
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"table\">\n<table \
         class=\"{class}\" role=\"table\">\n<caption><span>{}</span></caption>\n<thead role=\"rowgroup\"><tr \
         role=\"row\">{}</tr></thead>\n<tbody role=\"rowgroup\">\n{body}</tbody>\n</table>\n</div>\n",
        escape(caption),
        head.concat()
    )
}

/// What the runs of a group are on.
pub(super) fn data_line(group: &Group) -> String {
    let counts = &group.entries[0].run.counts;
    let sum = |counts: &[u64]| grouped(counts.iter().sum());
    let classes = group.classes();
    let mut names: Vec<String> = classes
        .iter()
        .take(6)
        .map(|name| shortened(name, 40))
        .collect();
    if classes.len() > names.len() {
        names.push("…".to_owned());
    }
    format!(
        "<p class=\"soft name\">{} classes (<bdi>{}</bdi>); {} training, {} validation, {} test \
         images</p>\n",
        classes.len(),
        names
            .iter()
            .map(|name| escape(name))
            .collect::<Vec<_>>()
            .join("</bdi>, <bdi>"),
        sum(&counts.train),
        sum(&counts.validation),
        sum(&counts.test)
    )
}

/// Everything that is shown of a group, under headings of `level`.
pub(super) fn group_sections(group: &Group, figures: &GroupFigures, level: usize) -> String {
    let n = group.number;
    let heading = |id: &str, text: &str| format!("<h{level} id=\"{id}-{n}\">{text}</h{level}>\n");
    let grid = |figures: &[Figure]| {
        let figures: String = figures.iter().map(|f| figure(f, "")).collect();
        format!("<div class=\"grid\">\n{figures}</div>\n")
    };
    let mut html = heading("learning", "Learning");
    html += "<p class=\"soft\">Solid: validation. Dashed: training, averaged over the epoch while the \
             weights changed. A solver without epochs is a point (filled: validation, open: \
             training). Dotted lines only carry a last value on. Time is that of training alone, \
             without reading inputs or computing features.</p>\n";
    html += &grid(&figures.learning);
    html += &heading("metrics", "Final metrics");
    let rows = metrics_rows(&group.entries);
    let caption = "Each model as it was finished, with its temperature and threshold. Intervals are \
                   Wilson's, 95 %; ECE is the expected calibration error over 15 bins.";
    html += &table("", caption, &METRICS, &rows, &[]);
    if !figures.ranking.is_empty() {
        html += &heading("ranking", "Ranking and calibration");
        html += &format!(
            "<p class=\"soft\">On the {} side. Calibration: images in bins by the probability of \
             the class they were taken for; on the \
             dotted line that probability is what it says; larger markers are of more images.</p>\n",
            side(group)
        );
        html += &grid(&figures.ranking);
    }
    html += &heading("each", "Each run");
    for (entry, figures) in group.entries.iter().zip(&figures.of_runs) {
        html += &of_run(entry, figures, level + 1);
    }
    html
}

fn side(group: &Group) -> &'static str {
    let held_out = group
        .entries
        .iter()
        .find_map(|entry| entry.run.held_out.as_ref());
    held_out.map_or("test", |held_out| held_out.side.name())
}

fn of_run(entry: &Entry, figures: &[Figure], level: usize) -> String {
    let run = &entry.run;
    let mut html = format!(
        "<h{level} id=\"run-{0}\">{0}: {1}</h{level}>\n",
        entry.letter,
        escape(&run.kind)
    );
    if let Some(note) = &run.held_out_note {
        html += &format!(
            "<p class=\"soft\">No scores, curves or mistakes: {}.</p>\n",
            escape(note)
        );
    }
    if !figures.is_empty() {
        let figures: String = figures.iter().map(|f| figure(f, "")).collect();
        html += &format!("<div class=\"grid\">\n{figures}</div>\n");
    }
    if run.classes.len() > MOST_CLASSES {
        html += &confusions(entry);
    }
    if let Some(held_out) = &run.held_out {
        let sub = level + 1;
        let items: String = entry
            .mistakes
            .iter()
            .map(|mistake| item(entry, mistake))
            .collect();
        html += &match items.is_empty() {
            true => String::new(),
            false => format!(
                "<h{sub}>Most confident mistakes, {}</h{sub}>\n{}<ul class=\"mistakes\">\n{items}</ul>\n",
                held_out.side,
                colours(entry)
            ),
        };
    }
    html
}

/// What the colours of the class-activation maps mean; nothing where there are none.
fn colours(entry: &Entry) -> String {
    if entry
        .mistakes
        .iter()
        .all(|mistake| mistake.overlay.is_none())
    {
        return String::new();
    }
    let speaks = match &entry.run.classes[..] {
        [first, second] => format!(
            "blue speaks for <bdi>{}</bdi>, orange for <bdi>{}</bdi>",
            escape(first),
            escape(second)
        ),
        _ => "from violet to yellow, what speaks for the class that it was taken for".to_owned(),
    };
    format!("<p class=\"soft name\">Beside each image where the head looks: {speaks}.</p>\n")
}

fn item(entry: &Entry, mistake: &Mistake) -> String {
    let class = |number: u32| format!("<bdi>{}</bdi>", escape(&entry.run.classes[number as usize]));
    let short = mistake.id.short();
    let name = mistake.path.clone().unwrap_or_else(|| short.clone());
    let picture = |jpeg: &Option<Vec<u8>>, what: &str| match jpeg {
        None => String::new(),
        Some(jpeg) => format!(
            "<img src=\"data:image/jpeg;base64,{}\" alt=\"{what} {}\">",
            STANDARD.encode(jpeg),
            escape(&name)
        ),
    };
    format!(
        "<li class=\"name\">{}{}<div>taken for {} at {}, is {}</div><div class=\"soft\" \
         title=\"{}\"><bdi>{}</bdi></div></li>\n",
        picture(&mistake.thumbnail, "image"),
        picture(&mistake.overlay, "class-activation map of"),
        class(mistake.predicted),
        percent(mistake.probability),
        class(mistake.label),
        mistake.id,
        escape(&name)
    )
}

/// The classes that are most often taken for another.
fn confusions(entry: &Entry) -> String {
    let Some((side, metrics)) = entry.run.judged() else {
        return String::new();
    };
    let (matrix, k) = (&metrics.confusion, entry.run.classes.len());
    let pairs = (0..k).flat_map(|label| (0..k).map(move |predicted| (label, predicted)));
    let mut wrong: Vec<(u64, usize, usize)> = pairs
        .filter(|(label, predicted)| label != predicted)
        .map(|(label, predicted)| (matrix.at(label, predicted), label, predicted))
        .filter(|(count, ..)| *count > 0)
        .collect();
    wrong.sort_by_key(|&(count, label, predicted)| (std::cmp::Reverse(count), label, predicted));
    let columns = [
        ("true class", false),
        ("taken for", false),
        ("images", true),
        ("of the class", true),
    ];
    let cell = |main: String| Cell {
        main,
        more: String::new(),
    };
    let row = |&(count, label, predicted): &(u64, usize, usize)| {
        let name = |class: usize| cell(shortened(&entry.run.classes[class], 60));
        let share = count as f64 / matrix.support(label) as f64;
        [
            name(label),
            name(predicted),
            cell(grouped(count)),
            cell(percent(share)),
        ]
    };
    let rows: Vec<[Cell; 4]> = wrong.iter().take(CONFUSIONS).map(row).collect();
    table(
        "",
        &format!("The most frequent of {} confusions, {side}.", wrong.len()),
        &columns,
        &rows,
        &[],
    )
}

/// What the runs were made of and how to make them again.
pub(super) fn provenance(report: &Report) -> String {
    let entries: Vec<&Entry> = report.entries().collect();
    let mut html = "<h2 id=\"again\">To make them again</h2>\n".to_owned();
    html += "<p class=\"soft\">Store, index and split must be what they were; a run that is repeated \
             ends with the same bits, or says why not.</p>\n";
    for entry in &entries {
        let places = &entry.run.places;
        let lines: Vec<String> = entry.run.commands.iter().map(|line| escape(line)).collect();
        html += &format!(
            "<pre># {}: store {}, index {}, split {}\n{}</pre>\n",
            entry.letter,
            escape(&places.store),
            escape(&places.index),
            escape(&places.split),
            lines.join("\n")
        );
    }
    html += "<h2 id=\"provenance\">Provenance</h2>\n";
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in entries.iter().flat_map(|entry| &entry.run.facts) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let value = |entry: &Entry, name: &str| {
        let fact = entry.run.facts.iter().find(|(known, _)| known == name);
        fact.map_or("–".to_owned(), |(_, value)| value.clone())
    };
    let values = |name: &str| entries.iter().map(|e| value(e, name)).collect::<Vec<_>>();
    let (same, other): (Vec<&String>, Vec<&String>) = names
        .into_iter()
        .partition(|name| values(name).windows(2).all(|pair| pair[0] == pair[1]));
    let letters: Vec<String> = entries.iter().map(|entry| entry.letter.clone()).collect();
    if !other.is_empty() {
        let rows = other.iter().map(|name| (name.as_str(), values(name)));
        html += &facts("What differs between the runs", &letters, rows);
    }
    let title = if entries.len() > 1 {
        "What is the same in all"
    } else {
        "What the record says"
    };
    let rows = same
        .iter()
        .map(|name| (name.as_str(), vec![value(entries[0], name)]));
    html + &facts(title, &["value".to_owned()], rows)
}

fn facts<'a>(
    caption: &str,
    columns: &[String],
    rows: impl Iterator<Item = (&'a str, Vec<String>)>,
) -> String {
    let head: String = columns
        .iter()
        .map(|c| format!("<th scope=\"col\">{}</th>", escape(c)))
        .collect();
    let mut body = String::new();
    for (name, values) in rows {
        let cells: String = values
            .iter()
            .map(|v| format!("<td>{}</td>", escape(v)))
            .collect();
        body += &format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(name));
    }
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\n<table \
         class=\"facts\">\n<caption><span>{caption}</span></caption>\n<thead><tr><th \
         scope=\"col\">field</th>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )
}
