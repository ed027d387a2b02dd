//! `head-trainer report`: the built binary on runs on stores of known numbers.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{MadeUp, head_trainer, record};
use head_trainer::report::figure::axis::{Axis, Unit};
use head_trainer::report::figure::curves::{Curves, Labels, Series, Stroke};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::{contains, starts_with};
use serde_json::Value;

/// `head-trainer report ARGS`.
fn report(data: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    head_trainer(data).arg("report").args(args).assert()
}

/// The page of a report that succeeds, and what it says as JSON.
fn page(data: &Path, args: &[&str]) -> (String, Value) {
    let assert = report(data, &[args, &["--json"]].concat()).code(0);
    let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let page = fs::read_to_string(value["report"].as_str().unwrap()).unwrap();
    check(&page);
    (page, value)
}

fn made_up(classes: &[&str], images: u64) -> (tempfile::TempDir, MadeUp) {
    let data = tempfile::tempdir().unwrap();
    let made_up = MadeUp::new(classes, images);
    made_up.write(data.path());
    (data, made_up)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What holds for every page: elements nest, ids are there once, nothing is elsewhere.
fn check(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(id) = tag.split(" id=\"").nth(1) {
            ids.push(id.split('"').next().unwrap());
        }
        let name = tag.split([' ', '\n', '/']).find(|n| !n.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(
                open.pop(),
                Some(name),
                "before {}",
                &rest[..rest.len().min(80)]
            );
        } else if !tag.ends_with('/') && !["!DOCTYPE", "meta", "br", "img"].contains(&name) {
            open.push(name);
        }
        assert_ne!(name, "script");
        assert_ne!(name, "link");
    }
    assert!(open.is_empty(), "{open:?}");
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is there twice");
    // Pictures are in the page: what is left has no source.
    let mut parts = page.split(" src=\"data:image/jpeg;base64,");
    let mut without = parts.next().unwrap().to_owned();
    for part in parts {
        let (picture, after) = part.split_once('"').unwrap();
        assert!(picture.starts_with("/9j/"), "a JPEG begins so");
        without += after;
    }
    let page = &without[..];
    assert!(!page.contains("src="));
    for (at, _) in page.match_indices("aria-labelledby=\"") {
        let names = page[at + 17..].split('"').next().unwrap();
        assert!(names.split(' ').all(|name| ids.contains(&name)), "{names}");
    }
    for elsewhere in ["http:", "https:", "url(", "@import", "href=", "//"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("@media print"));
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
}

fn figures(page: &str) -> usize {
    assert_eq!(
        page.matches("<svg").count(),
        page.matches("<desc id=").count()
    );
    page.matches("<svg").count()
}

#[test]
fn runs_are_compared_on_one_page() {
    let (data, _) = made_up(&["Cat", "Dog"], 200);
    let data = data.path();
    let (_, adam) = record(data, &["--epochs", "3"]);
    let (_, lbfgs) = record(data, &["--solver", "lbfgs", "--temperature"]);
    let (svg, png) = (data.join("svg"), data.join("png"));
    let runs = [text(&adam), text(&lbfgs)];
    let files = ["--svg", text(&svg), "--png", text(&png)];
    let (page, value) = page(data, &[&runs[..], &files].concat());
    // Intervals, four learning curves, ROC, calibration; scores and confusions of both.
    assert_eq!(figures(&page), 1 + 4 + 2 + 4);
    for part in [
        "2 runs compared",
        "A adam head",
        "B lbfgs head",
        "<h2 id=\"learning-1\">",
        "<h2 id=\"metrics-1\">",
        "95 % intervals",
        "Most confident mistakes, test",
        "head-trainer train --repeat ",
        "What differs between the runs",
        "key.config.solver.adam.epochs",
        "not recorded",
        "Cat/",
        "alt=\"class-activation map of Cat/",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("do not compare") && !page.contains("role=\"note\""));
    assert_eq!(value["comparable"], true);
    let [a, b] = [0, 1].map(|i| &value["runs"][i]);
    assert_eq!((&a["letter"], &b["letter"]), (&"A".into(), &"B".into()));
    assert_eq!(
        (a["epochs"].as_u64(), b["epochs"].as_u64()),
        (Some(3), None)
    );
    assert!(a["epoch_secs"].as_f64().unwrap() > 0.0 && b["epoch_secs"].is_null());
    let mistakes = a["mistakes"].as_array().unwrap();
    assert!(!mistakes.is_empty() && mistakes[0]["probability"].as_f64().unwrap() > 0.5);
    for mistake in mistakes {
        assert_ne!(mistake["label"], mistake["predicted"]);
        let class = mistake["label"].as_str().unwrap();
        assert!(mistake["path"].as_str().unwrap().starts_with(class));
    }

    // Each figure by itself, as text and as pixels.
    for (kind, folder) in [("svg", &svg), ("png", &png)] {
        let written = value["figures"][kind].as_array().unwrap();
        assert_eq!(written.len(), 11);
        for path in written {
            let path = PathBuf::from(path.as_str().unwrap());
            assert_eq!(path.parent().unwrap(), folder);
            let bytes = fs::read(path).unwrap();
            if kind == "png" {
                assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
                let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
                assert!(
                    side(16) > 800 && side(20) > 300,
                    "{} x {}",
                    side(16),
                    side(20)
                );
            } else {
                let svg = String::from_utf8(bytes).unwrap();
                assert!(svg.starts_with("<svg xmlns=") && svg.contains("prefers-color-scheme"));
                assert!(!svg.contains("var("));
            }
        }
    }
}

#[test]
fn tables_are_text_too() {
    let (data, _) = made_up(&["Cat", "Dog"], 50);
    let data = data.path();
    let (_, run) = record(data, &["--epochs", "2"]);
    let run = run.file_name().unwrap().to_str().unwrap();
    report(data, &[run])
        .code(0)
        .stdout(starts_with("run  trained"))
        .stdout(contains("head on made-up, preset unit: adam epochs=2"))
        .stdout(contains("\nreport  "));
    let reports = fs::read_dir(data.join("reports")).unwrap().count();
    assert_eq!(reports, 1);
    let out = data.join("there/page.html");
    report(data, &[run, "--markdown", "-", "--out", text(&out)])
        .code(0)
        .stdout(starts_with("| run | trained |").and(contains("|---|---|---:|")));
    assert!(
        fs::read_to_string(&out)
            .unwrap()
            .contains("<h1>One run</h1>")
    );
    let markdown = data.join("there/table.md");
    report(
        data,
        &[run, run, "--markdown", text(&markdown), "--out", text(&out)],
    )
    .code(0)
    .stdout(starts_with("run  trained"));
    // A run that is named twice is one.
    assert_eq!(fs::read_to_string(markdown).unwrap().lines().count(), 3);
    report(data, &["nothing"])
        .code(1)
        .stderr(contains("no run is nothing"));
    report(data, &["--out", text(&out)])
        .code(0)
        .stdout(contains("adam epochs=2"));
    report(&data.join("empty"), &[])
        .code(1)
        .stderr(contains("there is no run in "));
    fs::write(data.join("file"), "").unwrap();
    let under_file = data.join("file/page.html");
    report(data, &[run, "--out", text(&under_file)]).code(1);
}

#[test]
fn names_of_others_stay_text() {
    let long = format!("z{}", "long".repeat(60));
    let names = ["\"'&<b>", "<script>alert(1)</script>", "\u{202e}קוט", &long];
    let (data, _) = made_up(&names, 60);
    let data = data.path();
    record(data, &["--epochs", "1"]);
    let (_, run) = record(data, &["--epochs", "2"]);
    let svg = data.join("svg");
    let files = ["--svg", text(&svg), "--png", text(&svg)];
    let (page, _) = page(data, &[&[text(&run)], &files[..]].concat());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("&quot;&#39;&amp;&lt;b&gt;"));
    assert!(page.contains("\\u{202e}קוט") && !page.contains('\u{202e}'));
    // Four classes: one against the rest, right and wrong.
    assert!(page.contains("mean of each class against the rest"));
    assert_eq!(figures(&page), 1 + 4 + 2 + 2);
    let matrix = fs::read_to_string(svg.join("a-confusion.svg")).unwrap();
    assert_eq!(matrix.matches("class=\"cell ").count(), 16);
    assert!(matrix.contains("zlonglo…nglong"));
    report(data, &[text(&run), "--markdown", "-"])
        .code(0)
        .stdout(contains("<script").not());
}

#[test]
fn many_classes_have_a_list_and_no_matrix() {
    let names: Vec<String> = (0..24).map(|i| format!("class {i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (data, _) = made_up(&names, 20);
    let (_, run) = record(data.path(), &["--epochs", "1"]);
    let (page, _) = page(data.path(), &[text(&run)]);
    assert_eq!(figures(&page), 1 + 4 + 2 + 1);
    assert!(page.contains("The most frequent of ") && page.contains("confusions, test."));
    assert!(page.contains("24 classes") && page.contains("<bdi>…</bdi>"));
}

#[test]
fn what_a_run_lacks_is_left_out() {
    let (data, _) = made_up(&["Cat", "Dog"], 60);
    let data = data.path();
    let (run, folder) = record(data, &["--split-fractions", "80/0/20"]);
    assert!(run["metrics"]["validation"].is_null());
    let (page_of, value) = page(data, &[text(&folder)]);
    assert_eq!(figures(&page_of), 1 + 4 + 2 + 2);
    assert!(value["runs"][0]["best_epoch"].is_null());
    assert_eq!(value["runs"][0]["held_out"], "test");
    assert!(page_of.contains("Training side only."));

    // Neither validation nor test.
    let (_, all) = record(data, &["--split-fractions", "100/0/0", "--resplit"]);
    let (page_of, value) = page(data, &[text(&all)]);
    assert_eq!(figures(&page_of), 4);
    assert!(value["runs"][0]["held_out"].is_null());
    assert!(page_of.contains("the run has no held-out images"));

    // A run of before predictions were kept.
    fs::remove_file(folder.join("predictions.arrow")).unwrap();
    let (page_of, _) = page(data, &[text(&folder)]);
    assert_eq!(figures(&page_of), 1 + 4 + 1);
    assert!(page_of.contains("the run kept no predictions"));
}

#[test]
fn runs_on_different_data_are_kept_apart() {
    let (data, mut made_up) = made_up(&["Cat", "Dog"], 50);
    let data = data.path();
    let (_, first) = record(data, &[]);
    made_up.entries[0].path = b"Cat/renamed.jpg".to_vec();
    made_up.write_index(data);
    let (_, second) = record(data, &[]);
    let (_, third) = record(data, &["--seed", "1"]);
    let runs = [&first, &second, &third].map(|run| text(run));
    let notice = "2 different index/split: figures compare within one only";
    let (page, value) = page(data, &runs);
    assert!(page.contains("role=\"note\"") && page.contains(notice));
    assert!(page.contains("<h2 id=\"data-2\">") && page.contains("accuracy-epochs-2-title"));
    assert_eq!(figures(&page), 2 * (1 + 4 + 2) + 3 * 2);
    assert_eq!(value["comparable"], false);
    report(data, &runs).code(0).stdout(contains(notice));
    report(data, &[&runs[..], &["--markdown", "-"]].concat())
        .code(0)
        .stdout(starts_with("**Note:** 2 different"));
    // The index of the first run has changed, so that its mistakes have no paths.
    let first_mistakes = value["runs"][0]["mistakes"].as_array().unwrap();
    assert!(
        first_mistakes
            .iter()
            .all(|mistake| mistake["path"].is_null())
    );
}

#[test]
fn a_figure_is_drawn_as_it_was() {
    let points = vec![[1.0, 0.5], [2.0, 0.75], [3.0, 0.8]];
    let curves = Curves {
        name: "example".to_owned(),
        title: "Accuracy <over> epochs".to_owned(),
        desc: "A from 50.00 % to 80.00 %.".to_owned(),
        size: [440.0, 250.0],
        x: Axis::fixed("epoch", Unit::Count, 1.0, 3.0, 8),
        y: Axis::linear("accuracy", Unit::Percent, &[0.5, 0.8], 5),
        guide: None,
        series: vec![
            Series::new(None, 0, Stroke::Dashed, points.clone()),
            Series::new(Some("A & B"), 0, Stroke::Solid, points),
            Series::new(Some("C"), 1, Stroke::Level, vec![[1.0, 0.8]]),
        ],
        labels: Labels::Ends,
    };
    let found = curves.figure().inline();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/figure.svg");
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("figure.svg");
    fs::write(&kept, &found).unwrap();
    let first = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "{} is not {}, first at {first:?}",
        kept.display(),
        path.display()
    );
}
