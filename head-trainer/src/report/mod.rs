//! What runs came to, side by side: one page, its figures and a table.
//!
//! Data flows one way: [`load`] reads a run's folder into a [`RunData`], [`figures`] and
//! [`summary`] make figures and words of several, [`html`] and [`text`] write them out, [`png`]
//! draws a figure. Nothing here trains, and nothing here fetches anything: the page holds all that
//! it shows.

pub mod escape;
pub mod figure;
pub mod figures;
mod findings;
pub mod html;
pub mod load;
pub mod png;
pub mod scores;
pub mod summary;
pub mod text;

use extractor::digest::Digest;

pub use self::load::{RunData, Words};
pub use self::scores::Mistake;

/// A run among others.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is called in figures: `A`, `B`, ...
    pub letter: String,
    /// Number of its colour.
    pub color: usize,
    /// The run.
    pub run: RunData,
    /// Its most confident mistakes.
    pub mistakes: Vec<Mistake>,
}

impl Entry {
    /// What its curves are labelled with.
    pub fn label(&self) -> String {
        format!("{} {}", self.letter, self.run.short)
    }
}

/// Runs on one index and split, whose figures compare.
#[derive(Clone, Debug)]
pub struct Group {
    /// From 1.
    pub number: usize,
    /// Its runs, at least one.
    pub entries: Vec<Entry>,
}

impl Group {
    /// Digests of index and split.
    pub fn data(&self) -> (Digest, Digest) {
        self.entries[0].run.data
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.entries[0].run.classes
    }
}

/// All runs of a report.
#[derive(Clone, Debug)]
pub struct Report {
    /// When it was made, UTC.
    pub created_utc: String,
    /// The runs by their data, in the order of their first runs.
    pub groups: Vec<Group>,
}

impl Report {
    /// A report on `runs`, each with its most confident mistakes, which are lettered in their order.
    ///
    /// # Panics
    /// When there are none.
    pub fn new(created_utc: String, runs: Vec<(RunData, Vec<Mistake>)>) -> Report {
        assert!(!runs.is_empty(), "a report is on some run");
        let mut groups: Vec<Group> = Vec::new();
        for (i, (run, mistakes)) in runs.into_iter().enumerate() {
            let entry = Entry {
                letter: letter(i),
                color: i,
                run,
                mistakes,
            };
            match groups
                .iter_mut()
                .find(|group| group.data() == entry.run.data)
            {
                Some(group) => group.entries.push(entry),
                None => groups.push(Group {
                    number: groups.len() + 1,
                    entries: vec![entry],
                }),
            }
        }
        Report {
            created_utc,
            groups,
        }
    }

    /// All runs, by group.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| &group.entries)
    }

    /// Digest of the runs' own digests and names: what a report is called after.
    pub fn digest(&self) -> Digest {
        let line = |entry: &Entry| format!("{} {}\n", entry.run.digest, entry.run.name);
        Digest::of(self.entries().map(line).collect::<String>().as_bytes())
    }
}

/// `A` to `Z`, `AA`, `AB`, ...
fn letter(number: usize) -> String {
    let last = char::from(b'A' + (number % 26) as u8);
    match number / 26 {
        0 => last.to_string(),
        more => letter(more - 1) + &last.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_go_on() {
        assert_eq!(
            [0, 25, 26, 51, 52, 701, 702].map(letter),
            ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
        );
    }
}
