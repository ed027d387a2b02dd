//! pip's raw settings: its configuration files and `PIP_` variables, laid over each other in
//! pip's order.
//!
//! From weakest to strongest: global files, the user's files, the virtual environment's file,
//! the file that `PIP_CONFIG_FILE` names (which also switches the user's files off; the null
//! device switches all files off), then the `PIP_` variables. Among the sections of the files,
//! `[install]` and then `[download]` beat `[global]`, wherever each stands. It does not know
//! what a setting means.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};

use super::error::RuntimeError;
use crate::net::Environment;

/// Reads a configuration file; [`io::ErrorKind::NotFound`] when there is none.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The sections that speak to a download, weakest first.
const SECTIONS: [&str; 3] = ["global", "install", "download"];

/// Settings by their name as in pip's long options (`index-url`), each value as written.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Reads every file and variable.
    pub(super) fn read(
        environment: &Environment,
        macos: bool,
        read: ReadFile,
    ) -> Result<Settings, RuntimeError> {
        let mut sections: [BTreeMap<String, String>; 3] = Default::default();
        for group in places(environment, macos) {
            for path in group {
                let Some(text) = read_if_there(&path, read)? else {
                    continue;
                };
                let found = parse(&path, &text)?;
                for (section, settings) in sections.iter_mut().zip(found) {
                    section.extend(settings);
                }
            }
        }
        let mut settings = BTreeMap::new();
        // pip skips empty values, so that an empty one hides nothing.
        for section in sections {
            settings.extend(section.into_iter().filter(|(_, value)| !value.is_empty()));
        }
        for name in [
            "index-url",
            "extra-index-url",
            "no-index",
            "find-links",
            "cert",
            "trusted-host",
            "proxy",
            "timeout",
            "default-timeout",
        ] {
            let variable = format!("PIP_{}", name.replace('-', "_").to_uppercase());
            if let Some(value) = environment.get(&variable) {
                settings.insert(name.to_owned(), value.trim().to_owned());
            }
        }
        Ok(Settings(settings))
    }

    /// The value of a setting that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The values of a setting that may have several, separated by white space.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split_whitespace()
    }
}

/// Where pip looks, weakest first; the files of one group add up.
fn places(environment: &Environment, macos: bool) -> Vec<Vec<PathBuf>> {
    let named = environment.get_os("PIP_CONFIG_FILE").map(PathBuf::from);
    if named.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let home = environment.get_os("HOME").map(PathBuf::from);
    let mut global = Vec::new();
    let mut user = Vec::new();
    if macos {
        global.push(PathBuf::from("/Library/Application Support/pip/pip.conf"));
    } else {
        let folders = environment
            .get_os("XDG_CONFIG_DIRS")
            .map_or_else(|| "/etc/xdg".into(), |folders| folders.to_owned());
        global.extend(std::env::split_paths(&folders).map(|folder| folder.join("pip/pip.conf")));
        global.push(PathBuf::from("/etc/pip.conf"));
    }
    if let Some(home) = &home {
        user.push(home.join(".pip/pip.conf"));
        let config = environment
            .get_os("XDG_CONFIG_HOME")
            .filter(|_| !macos)
            .map_or_else(|| home.join(".config"), PathBuf::from);
        user.push(config.join("pip/pip.conf"));
        if macos {
            user.push(home.join("Library/Application Support/pip/pip.conf"));
        }
    }
    let site = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .find_map(|name| environment.get_os(name))
        .map(|prefix| Path::new(prefix).join("pip.conf"));
    let site = site.into_iter().collect();
    match named {
        Some(named) => vec![global, site, vec![named]],
        None => vec![global, user, site],
    }
}

fn read_if_there(path: &Path, read: ReadFile) -> Result<Option<String>, RuntimeError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) => match e.kind() {
            // A file that another user keeps to himself says nothing to this one.
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(RuntimeError::PipConfigRead {
                path: path.to_owned(),
                source: e,
            }),
        },
    }
}

/// The settings of one file, by the sections of [`SECTIONS`].
fn parse(path: &Path, text: &str) -> Result<[BTreeMap<String, String>; 3], RuntimeError> {
    let options = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        enabled_indented_mutiline_value: true,
        enabled_preserve_key_leading_whitespace: false,
    };
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let file =
        Ini::load_from_str_opt(&text, options).map_err(|e| RuntimeError::PipConfigSyntax {
            path: path.to_owned(),
            source: Box::new(e),
        })?;
    Ok(SECTIONS.map(|section| {
        let blocks = file.section_all(Some(section));
        blocks
            .flat_map(|block| block.iter())
            .map(|(name, value)| (normalize(name), without_comments(value)))
            .collect()
    }))
}

/// pip takes `index_url`, `Index-URL` and `--index-url` for the same.
fn normalize(name: &str) -> String {
    let name = name.trim().to_lowercase().replace('_', "-");
    name.trim_start_matches("--").to_owned()
}

/// Comment lines may stand inside a value of several lines.
fn without_comments(value: &str) -> String {
    let lines = value.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with(['#', ';'])).collect();
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], macos: bool, files: &[(&str, &str)]) -> Settings {
        let environment: Environment = variables.iter().copied().collect();
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found
                .map(|(_, text)| (*text).to_owned())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        Settings::read(&environment, macos, &read).unwrap()
    }

    #[test]
    fn stronger_places_win_and_variables_win_over_all() {
        let files = [
            ("/etc/xdg/pip/pip.conf", "[global]\nindex-url = xdg\n"),
            ("/etc/pip.conf", "[global]\nindex-url = etc\n"),
            ("/h/.pip/pip.conf", "[global]\nindex-url = legacy\n"),
            ("/h/.config/pip/pip.conf", "[global]\nindex-url = user\n"),
            ("/v/pip.conf", "[global]\nindex-url = site\n"),
            ("/named.conf", "[global]\nindex-url = named\n"),
        ];
        let home = ("HOME", "/h");
        let venv = ("VIRTUAL_ENV", "/v");
        let named = ("PIP_CONFIG_FILE", "/named.conf");
        let variable = ("PIP_INDEX_URL", "variable");
        let url = |variables: &[_], files: &[_]| {
            let settings = settings(variables, false, files);
            settings.get("index-url").map(str::to_owned)
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(url(&[], &files[..1]), is("xdg"));
        assert_eq!(url(&[], &files), is("etc"));
        assert_eq!(url(&[home], &files[..3]), is("legacy"));
        assert_eq!(url(&[home], &files), is("user"));
        assert_eq!(url(&[home, venv], &files), is("site"));
        assert_eq!(url(&[home, venv, named], &files), is("named"));
        assert_eq!(url(&[home, venv, named, variable], &files), is("variable"));
        assert_eq!(url(&[home, ("PIP_CONFIG_FILE", "/dev/null")], &files), None);
        assert_eq!(
            url(&[home, ("XDG_CONFIG_HOME", "/x")], &files),
            is("legacy")
        );
    }

    #[test]
    fn a_named_file_switches_the_users_files_off() {
        let files = [
            ("/h/.config/pip/pip.conf", "[global]\ncert = user\n"),
            ("/named.conf", "[global]\nindex-url = named\n"),
        ];
        let variables = [("HOME", "/h"), ("PIP_CONFIG_FILE", "/named.conf")];
        assert_eq!(settings(&variables, false, &files).get("cert"), None);
    }

    #[test]
    fn macos_has_its_own_places() {
        let files = [
            (
                "/h/Library/Application Support/pip/pip.conf",
                "[global]\ncert = user\n",
            ),
            (
                "/Library/Application Support/pip/pip.conf",
                "[global]\ncert = all\nproxy = p\n",
            ),
        ];
        let settings = settings(&[("HOME", "/h")], true, &files);
        assert_eq!(settings.get("cert"), Some("user"));
        assert_eq!(settings.get("proxy"), Some("p"));
    }

    #[test]
    fn a_commands_section_beats_the_global_one_even_of_a_stronger_file() {
        let files = [
            ("/etc/pip.conf", "[install]\nindex-url = etc-install\n"),
            ("/h/.pip/pip.conf", "[global]\nindex-url = user\n"),
            ("/v/pip.conf", "[wheel]\nindex-url = other-command\n"),
        ];
        let variables = [("HOME", "/h"), ("VIRTUAL_ENV", "/v")];
        let settings = settings(&variables, false, &files);
        assert_eq!(settings.get("index-url"), Some("etc-install"));
    }

    #[test]
    fn values_are_read_as_pip_reads_them() {
        let text = "\u{feff}# comment\r\n[global]\r\nIndex_URL: https://a/%2B#x;y\r\n\
                    extra-index-url =\r\n    https://b\r\n    # not this one\r\n    https://c\r\n\
                    cert = C:\\x \"y\"\r\nproxy =\r\n";
        let files = [("/etc/pip.conf", text)];
        let settings = settings(&[], false, &files);
        assert_eq!(settings.get("index-url"), Some("https://a/%2B#x;y"));
        let extra: Vec<&str> = settings.list("extra-index-url").collect();
        assert_eq!(extra, ["https://b", "https://c"]);
        assert_eq!(settings.get("cert"), Some("C:\\x \"y\""));
        assert_eq!(settings.get("proxy"), None);
    }

    #[test]
    fn a_malformed_file_is_named() {
        let read = |_: &Path| Ok("[global\nindex-url".to_owned());
        let error = Settings::read(&Environment::default(), false, &read).unwrap_err();
        assert!(
            error.to_string().contains("/etc/xdg/pip/pip.conf"),
            "{error}"
        );
    }
}
