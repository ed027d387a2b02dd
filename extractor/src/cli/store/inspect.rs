//! `extractor store inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::super::common::{Outcome, OutputArgs, skipped_line};
use super::super::place::{local_index, only_copied};
use super::{only_whole_store, paths, size};
use crate::features::{self, Plan};
use crate::files::{escape, escape_path, grouped, printable};
use crate::index::Index;
use crate::store::inspect::{Inspection, inspect};
use crate::store::{IDENTITY, Rejected, Store, StoreKey};
use crate::view::{View, Views};

/// Lines of text a list; JSON has all.
const SHOWN: usize = 20;

/// Flags of `extractor store inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store, or the folder it lies in if it is the only one there; either may be a URL.
    store: PathBuf,
    /// Say what of this index is done, class by class.
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// Views that an image of the index must have to be done, as for extractor features.
    #[arg(
        long,
        value_name = "LIST",
        default_value = "identity",
        requires = "index"
    )]
    views: Views,
}

/// Images (ids) of a class and what the store has of them.
#[derive(Default, serde::Serialize)]
struct ClassCounts {
    class: Option<String>,
    images: usize,
    done: usize,
    rejected: usize,
    missing: usize,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let index = self.index.as_deref();
        let index = index.map(|path| local_index(path, output)).transpose()?;
        let index = index.as_deref().map(Index::read).transpose()?;
        let (folder, shown) = match only_copied(&self.store, false, output)? {
            Some(copied) => (copied.folder, copied.url.to_string()),
            None => {
                let folder = only_whole_store(&self.store)?;
                let shown = escape_path(&folder);
                (folder, shown)
            }
        };
        let store = Store::open(&folder)?;
        let inspection = inspect(&store)?;
        let mut value = store_json(&store, &inspection, &shown);
        let mut text = store_text(&store, &inspection, &shown);
        let mut outcome = Outcome::Done;
        match &index {
            None => list(
                &mut text,
                &inspection.rejected,
                |Rejected { id, reason, .. }| format!("rejected  {id}: {}", printable(reason)),
            ),
            Some(index) => {
                let views = self.views.clone().with_identity();
                let plan = features::plan(index, Some(&store), &views);
                let classes = class_counts(index, &plan);
                text += &coverage_text(index, &plan, &classes, &views);
                value["index"] = coverage_json(index, &plan, &classes, &views);
                outcome = match (plan.missing.len(), plan.rejected.len()) {
                    (0, 0) => Outcome::Done,
                    (0, _) => Outcome::Skipped,
                    _ => Outcome::Incomplete,
                };
            }
        }
        output.print(&value, &text)?;
        Ok(outcome)
    }
}

fn list<T>(text: &mut String, items: &[T], line: impl Fn(&T) -> String) {
    for item in items.iter().take(SHOWN) {
        *text += &line(item);
        text.push('\n');
    }
    if let Some(more) = items.len().checked_sub(SHOWN + 1) {
        *text += &format!(
            "          and {} more (--json lists all)\n",
            grouped(more as u64 + 1)
        );
    }
}

fn store_text(store: &Store, inspection: &Inspection, shown: &str) -> String {
    let key = store.key();
    let total = &inspection.total;
    let trained = match store.backbone_trained() {
        Some(true) => ", trained",
        Some(false) => ", untrained",
        None => "",
    };
    let mut text = format!(
        "store     {shown}\nbackbone  {}{trained}\nkey       {}\n",
        printable(store.backbone_name()),
        printable(&key_text(key)),
    );
    for (origin, amount) in &inspection.provenances {
        text += &format!(
            "computed  {} rows in {} shards by {}\n",
            grouped(amount.rows as u64),
            grouped(amount.shards as u64),
            printable(&origin.to_string()),
        );
    }
    let maps = store.map_shape();
    text += &format!(
        "rows      {} of {} images{}\nshards    {}, {}\nrejected  {} images\n",
        grouped(store.len() as u64),
        grouped(inspection.images as u64),
        maps.map(|s| format!(", maps {s} {}", key.dtype))
            .unwrap_or_default(),
        grouped(total.shards as u64),
        size(total.bytes),
        grouped(inspection.rejected.len() as u64),
    );
    if !is_plain(&inspection.views) {
        text += &format!("views     {}\n", views_text(&inspection.views));
    }
    if inspection.duplicates > 0 {
        text += &format!(
            "duplicate {} rows (store compact removes them)\n",
            grouped(inspection.duplicates as u64)
        );
    }
    if !inspection.temporary.is_empty() {
        text += &format!(
            "temporary {} files, under way or of killed runs (store compact removes old ones)\n",
            inspection.temporary.len()
        );
    }
    if !inspection.quarantined.is_empty() {
        text += &format!(
            "set aside {} damaged files (in quarantine; delete them when you like)\n",
            inspection.quarantined.len()
        );
    }
    text
}

/// Whether there is no view but `identity`.
fn is_plain(views: &[(String, usize)]) -> bool {
    views.iter().all(|(name, _)| name == IDENTITY)
}

/// `identity 2,400 rows, hflip 2,399 rows, crop-1 to crop-8 2,400 rows each`.
fn views_text(views: &[(String, usize)]) -> String {
    let known = |name: &str| name.parse::<View>().ok();
    let groups = views.chunk_by(|(a, rows_a), (b, rows_b)| match (known(a), known(b)) {
        (Some(View::Crop(a)), Some(View::Crop(b))) => a + 1 == b && rows_a == rows_b,
        _ => false,
    });
    let group = |group: &[(String, usize)]| {
        let rows = grouped(group[0].1 as u64);
        match group {
            [(name, _)] => format!("{} {rows} rows", escape(name.as_bytes())),
            [first, .., last] => format!("{} to {} {rows} rows each", first.0, last.0),
            [] => unreachable!("a group has a view"),
        }
    };
    groups.map(group).collect::<Vec<_>>().join(", ")
}

/// Every field of a key, so that none can be forgotten.
fn key_text(key: &StoreKey) -> String {
    let fields = match serde_json::to_value(key) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => return key.to_json(),
    };
    let field = |(name, value): (String, serde_json::Value)| match value.as_str() {
        Some(text) => format!("{name} {text}"),
        None => format!("{name} {value}"),
    };
    fields.into_iter().map(field).collect::<Vec<_>>().join(", ")
}

fn store_json(store: &Store, inspection: &Inspection, shown: &str) -> serde_json::Value {
    let provenances: Vec<_> = inspection
        .provenances
        .iter()
        .map(|(origin, amount)| json!({ "provenance": origin, "amount": amount }))
        .collect();
    json!({
        "store": shown,
        "backbone": store.backbone_name(),
        "backbone_trained": store.backbone_trained(),
        "key": store.key(),
        "provenances": provenances,
        "images": inspection.images,
        "rows": store.len(),
        "views": inspection.views.iter().cloned().collect::<BTreeMap<_, _>>(),
        "map_shape": store.map_shape().map(|s| [s.height, s.width, s.channels]),
        "total": inspection.total,
        "duplicate_rows": inspection.duplicates,
        "rejected": inspection.rejected,
        "temporary": paths(&inspection.temporary),
        "quarantined": paths(&inspection.quarantined),
    })
}

/// Counts by class, in the index's order; unlabelled images last.
fn class_counts(index: &Index, plan: &Plan) -> Vec<ClassCounts> {
    let mut counts: Vec<ClassCounts> = index
        .classes
        .iter()
        .map(|name| ClassCounts {
            class: Some(name.clone()),
            ..ClassCounts::default()
        })
        .chain([ClassCounts::default()])
        .collect();
    let unlabelled = index.classes.len();
    // A plan names each image by its first entry, as `unique` does.
    let class_of = |position: u32| {
        let label = index.entry(position as usize).label;
        label.map_or(unlabelled, |label| label as usize)
    };
    for position in index.unique() {
        let class = &mut counts[class_of(position)];
        class.images += 1;
        class.done += 1;
    }
    for (position, _) in plan.missing.iter() {
        let class = &mut counts[class_of(position)];
        class.missing += 1;
        class.done -= 1;
    }
    for (position, _) in &plan.rejected {
        let class = &mut counts[class_of(*position)];
        class.rejected += 1;
        class.done -= 1;
    }
    counts.retain(|c| c.class.is_some() || c.images > 0);
    counts
}

fn coverage_text(index: &Index, plan: &Plan, classes: &[ClassCounts], views: &Views) -> String {
    let of_views = match views.is_identity() {
        true => String::new(),
        false => format!(" with the views {views}"),
    };
    let mut text = format!(
        "index     {} images{of_views}: {} done, {} rejected, {} missing\n",
        grouped((plan.cached + plan.rejected.len() + plan.missing.len()) as u64),
        grouped(plan.cached as u64),
        grouped(plan.rejected.len() as u64),
        grouped(plan.missing.len() as u64),
    );
    for class in classes {
        text += &format!(
            "class     {}: {} images, {} done, {} rejected, {} missing\n",
            match &class.class {
                Some(name) => escape(name.as_bytes()),
                None => "(no label)".to_owned(),
            },
            grouped(class.images as u64),
            grouped(class.done as u64),
            grouped(class.rejected as u64),
            grouped(class.missing as u64),
        );
    }
    let missing: Vec<(u32, &[View])> = plan.missing.iter().collect();
    let path = |position: &u32| index.entry(*position as usize).path;
    list(&mut text, &plan.rejected, |(position, reason)| {
        format!(
            "rejected  {}",
            printable(&skipped_line(path(position), reason))
        )
    });
    list(&mut text, &missing, |(position, lacking)| {
        let path = escape(path(position));
        match views.is_identity() {
            true => format!("missing   {path}"),
            false => format!("missing   {path}: {}", Views::from_iter(lacking.to_vec())),
        }
    });
    text
}

fn coverage_json(
    index: &Index,
    plan: &Plan,
    classes: &[ClassCounts],
    views: &Views,
) -> serde_json::Value {
    let entry = |position: &u32| index.entry(*position as usize);
    let rejected = plan.rejected.iter().map(|(position, reason)| {
        let entry = entry(position);
        json!({ "path": escape(entry.path), "id": entry.id, "reason": reason })
    });
    let missing = plan
        .missing
        .iter()
        .map(|(position, _)| escape(entry(&position).path));
    json!({
        "views": views.iter().map(View::to_string).collect::<Vec<_>>(),
        "done": plan.cached,
        "missing_rows": plan.missing.rows(),
        "classes": classes,
        "rejected": rejected.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
    })
}
