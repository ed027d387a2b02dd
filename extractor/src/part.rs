//! Parts of a data set, for the jobs of an array: which part this process computes.
//!
//! The part comes from a flag or from what a batch scheduler tells its jobs. Must not know what
//! the parts are made of; [`crate::images::DataSet::dealt`] does.

use std::fmt;
use std::str::FromStr;

/// Part `number` of `of` parts, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    number: u32,
    of: u32,
}

/// What was given names no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Not two numbers.
    #[error("`{0}` is not I/N, such as 0/4 for the first of four parts")]
    Form(String),
    /// No such part.
    #[error(
        "there is no part {number} of {of} (hint: parts are numbered from 0 to N-1: 0/4, 1/4, 2/4, 3/4)"
    )]
    None {
        /// The part's number.
        number: u64,
        /// The number of parts.
        of: u64,
    },
    /// A variable of the environment is no number.
    #[error(
        "{name}={value} in the environment is no number (hint: --shard I/N says which part to compute, --shard 0/1 all)"
    )]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An array with gaps does not tell how many parts there are.
    #[error(
        "the tasks of this Slurm array are not evenly spaced, so they do not tell which of how many \
         parts this is (hint: set HEADSTART_SHARDS=N to the number of parts of the whole job; \
         task I then computes part I)"
    )]
    Gaps,
}

impl Part {
    /// All there is.
    pub const WHOLE: Part = Part { number: 0, of: 1 };

    /// Part `number` of `of`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn new(number: u64, of: u64) -> Result<Part, PartError> {
        match (u32::try_from(number), u32::try_from(of)) {
            (Ok(number), Ok(of)) if number < of => Ok(Part { number, of }),
            _ => Err(PartError::None { number, of }),
        }
    }

    /// Its number, from 0.
    pub fn number(self) -> u32 {
        self.number
    }

    /// The number of parts.
    pub fn of(self) -> u32 {
        self.of
    }

    /// Whether it is all there is.
    pub fn is_whole(self) -> bool {
        self.of == 1
    }

    /// Whether what has this hash, uniform over 64 bits, belongs to this part.
    pub fn has_hash(self, hash: u64) -> bool {
        (u128::from(hash) * u128::from(self.of)) >> 64 == u128::from(self.number)
    }

    /// Whether what is dealt out as the `turn`th belongs to this part.
    pub fn has_turn(self, turn: u64) -> bool {
        turn % u64::from(self.of) == u64::from(self.number)
    }

    /// The part that a batch scheduler gave this process, with the variable that says so; none
    /// outside of an array.
    ///
    /// `HEADSTART_SHARDS` is the number of parts; the task's number is that of a Slurm array
    /// (`SLURM_ARRAY_TASK_ID`) or of an indexed Kubernetes job (`JOB_COMPLETION_INDEX`), from 0.
    /// Where a Slurm array has as many tasks as there are parts, or nothing else tells the number
    /// of parts, its tasks may be numbered from anywhere in any step.
    ///
    /// # Errors
    /// When a variable is no number or there is no such part.
    pub fn of_environment(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(Part, &'static str)>, PartError> {
        let number = |name: &'static str| match get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => match value.trim().parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(PartError::Variable { name, value }),
            },
        };
        let shards = number("HEADSTART_SHARDS")?;
        if let Some(task) = number("SLURM_ARRAY_TASK_ID")? {
            let name = "SLURM_ARRAY_TASK_ID";
            let count = number("SLURM_ARRAY_TASK_COUNT")?;
            let min = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let max = number("SLURM_ARRAY_TASK_MAX")?;
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let rank = task.checked_sub(min).map(|offset| offset / step);
            let even = match (count, max) {
                (Some(count), Some(max)) => {
                    max.checked_sub(min).map(|range| range / step + 1) == Some(count)
                        && task
                            .checked_sub(min)
                            .is_some_and(|o| o.is_multiple_of(step))
                }
                _ => true,
            };
            return match (shards, count, rank) {
                (Some(shards), Some(count), Some(rank)) if shards == count && even => {
                    Part::new(rank, shards).map(|part| Some((part, name)))
                }
                (Some(shards), ..) => Part::new(task, shards).map(|part| Some((part, name))),
                (None, Some(_), _) if !even => Err(PartError::Gaps),
                (None, Some(count), Some(rank)) => {
                    Part::new(rank, count).map(|part| Some((part, name)))
                }
                (None, ..) => Ok(None),
            };
        }
        match (number("JOB_COMPLETION_INDEX")?, shards) {
            (Some(task), Some(shards)) => {
                Part::new(task, shards).map(|part| Some((part, "JOB_COMPLETION_INDEX")))
            }
            _ => Ok(None),
        }
    }
}

impl FromStr for Part {
    type Err = PartError;

    fn from_str(text: &str) -> Result<Part, PartError> {
        let form = || PartError::Form(text.to_owned());
        let (number, of) = text.split_once('/').ok_or_else(form)?;
        match (number.parse(), of.parse()) {
            (Ok(number), Ok(of)) => Part::new(number, of),
            _ => Err(form()),
        }
    }
}

/// `2/4`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<String>, PartError> {
        let get = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Ok(Part::of_environment(get)?.map(|(part, _)| part.to_string()))
    }

    fn array(
        id: &str,
        tasks: [&str; 4],
        shards: Option<&str>,
    ) -> Result<Option<String>, PartError> {
        let [count, min, max, step] = tasks;
        let mut variables = vec![
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_COUNT", count),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_MAX", max),
            ("SLURM_ARRAY_TASK_STEP", step),
        ];
        variables.extend(shards.map(|shards| ("HEADSTART_SHARDS", shards)));
        of(&variables)
    }

    #[test]
    fn as_typed() {
        assert_eq!("2/4".parse::<Part>().unwrap(), Part::new(2, 4).unwrap());
        assert!("0/1".parse::<Part>().unwrap().is_whole());
        for wrong in ["4/4", "0/0", "99999999999/999999999999"] {
            let error = wrong.parse::<Part>().unwrap_err().to_string();
            assert!(error.contains("numbered from 0"), "{error}");
        }
        for wrong in ["", "1", "1/", "-1/4", "1/4/2", "a/b", "1.0/2"] {
            let error = wrong.parse::<Part>().unwrap_err();
            assert_eq!(error, PartError::Form(wrong.to_owned()));
        }
    }

    #[test]
    fn of_a_slurm_array_numbered_from_anywhere() {
        let part = |id, tasks| array(id, tasks, None).unwrap().unwrap();
        assert_eq!(part("0", ["4", "0", "3", "1"]), "0/4");
        assert_eq!(part("4", ["4", "1", "4", "1"]), "3/4");
        assert_eq!(part("14", ["3", "10", "18", "4"]), "1/3");
        // --array=1-10:4 ends at 9.
        assert_eq!(part("9", ["3", "1", "9", "4"]), "2/3");
        let gaps = array("7", ["2", "3", "7", "1"], None);
        assert_eq!(gaps, Err(PartError::Gaps));
    }

    #[test]
    fn of_some_tasks_run_again() {
        // --array=2 and --array=1,3 of four parts.
        let part = |id, tasks| array(id, tasks, Some("4")).unwrap().unwrap();
        assert_eq!(part("2", ["1", "2", "2", "1"]), "2/4");
        assert_eq!(part("3", ["2", "1", "3", "1"]), "3/4");
        // All four of them, numbered from 1.
        assert_eq!(part("4", ["4", "1", "4", "1"]), "3/4");
        // Four scattered ones of eight are what they are called.
        let eight = array("6", ["4", "0", "6", "1"], Some("8")).unwrap();
        assert_eq!(eight.unwrap(), "6/8");
        let beyond = array("4", ["1", "4", "4", "1"], Some("4"));
        assert_eq!(beyond, Err(PartError::None { number: 4, of: 4 }));
    }

    #[test]
    fn of_an_indexed_job() {
        let (index, shards) = (("JOB_COMPLETION_INDEX", "2"), ("HEADSTART_SHARDS", "3"));
        assert_eq!(of(&[index, shards]).unwrap().unwrap(), "2/3");
        assert_eq!(of(&[index]).unwrap(), None);
        assert_eq!(of(&[shards]).unwrap(), None);
        assert_eq!(of(&[]).unwrap(), None);
        let wrong = of(&[("SLURM_ARRAY_TASK_ID", "x")]).unwrap_err().to_string();
        assert!(wrong.contains("SLURM_ARRAY_TASK_ID=x"), "{wrong}");
    }

    proptest::proptest! {
        #[test]
        fn everything_is_in_one_part(hash: u64, turn: u64, of in 1_u64..300) {
            let parts: Vec<Part> = (0..of).map(|i| Part::new(i, of).unwrap()).collect();
            let by_hash = parts.iter().filter(|part| part.has_hash(hash)).count();
            let by_turn = parts.iter().filter(|part| part.has_turn(turn)).count();
            proptest::prop_assert_eq!((by_hash, by_turn), (1, 1));
        }
    }
}
