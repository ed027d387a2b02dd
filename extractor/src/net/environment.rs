//! A snapshot of the environment variables.
//!
//! A value instead of `std::env`, so that tests hand in variables without touching the
//! process. It does not know what any variable means.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Environment variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Environment {
        std::env::vars_os().collect()
    }

    /// The value of `name`; an empty one counts as unset, and so does one that is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name).and_then(OsStr::to_str)
    }

    /// The value of `name` in whatever encoding; an empty one counts as unset.
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Environment {
        let pairs = variables.into_iter();
        Environment(pairs.map(|(k, v)| (k.into(), v.into())).collect())
    }
}
