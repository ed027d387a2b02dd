//! What pip's configuration says about where packages come from.
//!
//! Honoured: `index-url`, `extra-index-url`, `no-index`, `find-links` (folders, and pages of
//! links), `cert` (else `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`), `trusted-host`, `proxy` and
//! `timeout`, from pip's files and its `PIP_` variables, and user names and passwords inside
//! URLs. Not honoured: `client-cert`, `.netrc` and keyrings. A plain `http` index is used
//! without `trusted-host`, because the pinned hash decides what is accepted. It does not know
//! which package is wanted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::error::RuntimeError;
use super::pip_files::{ReadFile, Settings};
use crate::net::{Access, Environment};

/// The index that pip uses when nothing else is configured.
pub const DEFAULT_INDEX: &str = "https://pypi.org/simple";

/// pip's configuration, as far as a download needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipConfig {
    /// The indexes, in the order to ask them; none under `no-index`.
    pub indexes: Vec<Url>,
    /// Further places to look at, before the indexes.
    pub find_links: Vec<FindLinks>,
    /// A file of certificates in PEM format to trust instead of the system's.
    pub certificates: Option<PathBuf>,
    /// Hosts (`name` or `name:port`) whose certificates are not checked.
    pub trusted_hosts: Vec<String>,
    /// A proxy for every request, instead of the one in the environment.
    pub proxy: Option<String>,
    /// How long a server may be silent.
    pub timeout: Option<Duration>,
}

/// One value of `find-links`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindLinks {
    /// A folder of wheels.
    Folder(PathBuf),
    /// A page of links.
    Page(Url),
}

impl PipConfig {
    /// The configuration of this process: its environment and files.
    ///
    /// # Errors
    /// When a file or a value is malformed.
    pub fn of_process(environment: &Environment) -> Result<PipConfig, RuntimeError> {
        let macos = cfg!(target_os = "macos");
        PipConfig::resolve(environment, macos, &|path| std::fs::read_to_string(path))
    }

    /// The configuration that `environment` and the files behind `read` amount to.
    ///
    /// # Errors
    /// When a file or a value is malformed.
    pub fn resolve(
        environment: &Environment,
        macos: bool,
        read: ReadFile,
    ) -> Result<PipConfig, RuntimeError> {
        let settings = Settings::read(environment, macos, read)?;
        let home = environment.get_os("HOME").map(Path::new);
        let no_index = settings.get("no-index").is_some_and(is_true);
        let mut indexes = Vec::new();
        if !no_index {
            let first = settings.get("index-url").unwrap_or(DEFAULT_INDEX);
            indexes.push(index("index-url", first)?);
            for extra in settings.list("extra-index-url") {
                indexes.push(index("extra-index-url", extra)?);
            }
        }
        let certificates = settings
            .get("cert")
            .or_else(|| environment.get("REQUESTS_CA_BUNDLE"))
            .or_else(|| environment.get("CURL_CA_BUNDLE"));
        let timeout = settings
            .get("timeout")
            .or_else(|| settings.get("default-timeout"));
        Ok(PipConfig {
            indexes,
            find_links: settings
                .list("find-links")
                .map(|value| find_links(value, home))
                .collect(),
            certificates: certificates.map(|path| expand(path, home)),
            trusted_hosts: settings
                .list("trusted-host")
                .map(str::to_ascii_lowercase)
                .collect(),
            proxy: settings.get("proxy").map(str::to_owned),
            timeout: timeout.map(seconds).transpose()?,
        })
    }

    /// What of it reaches servers.
    pub fn access(&self) -> Access {
        let pages = self.find_links.iter().filter_map(|links| match links {
            FindLinks::Page(url) => Some(url),
            FindLinks::Folder(_) => None,
        });
        Access {
            proxy: self.proxy.clone(),
            certificates: self.certificates.clone(),
            trusted_hosts: self.trusted_hosts.clone(),
            passwords: self.indexes.iter().chain(pages).cloned().collect(),
        }
    }
}

fn index(setting: &str, value: &str) -> Result<Url, RuntimeError> {
    let url = match Url::parse(value) {
        Ok(url) if ["http", "https", "file"].contains(&url.scheme()) => Some(url),
        Ok(_) => None,
        Err(_) => Url::from_file_path(value).ok(),
    };
    url.ok_or_else(|| RuntimeError::Setting {
        setting: format!("pip's {setting}"),
        // What follows an `@` holds no password, whatever else is wrong with the value.
        value: value.rsplit('@').next().unwrap_or(value).to_owned(),
        expected: "an address such as https://pypi.org/simple",
    })
}

fn find_links(value: &str, home: Option<&Path>) -> FindLinks {
    match Url::parse(value) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => FindLinks::Page(url),
        Ok(url) if url.scheme() == "file" => match url.to_file_path() {
            Ok(path) => local(path),
            Err(()) => FindLinks::Page(url),
        },
        _ => local(expand(value, home)),
    }
}

/// A local page of links has a name that says so; everything else is a folder.
fn local(path: PathBuf) -> FindLinks {
    let is_page = path
        .extension()
        .is_some_and(|extension| extension == "html" || extension == "htm");
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    match Url::from_file_path(absolute) {
        Ok(url) if is_page => FindLinks::Page(url),
        _ => FindLinks::Folder(path),
    }
}

fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

fn is_true(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    ["1", "y", "yes", "t", "true", "on"].contains(&value.as_str())
}

fn seconds(value: &str) -> Result<Duration, RuntimeError> {
    let seconds = value.parse().ok().filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| RuntimeError::Setting {
            setting: "pip's timeout".to_owned(),
            value: value.to_owned(),
            expected: "a number of seconds above 0",
        })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn resolve(variables: &[(&str, &str)], file: &str) -> Result<PipConfig, RuntimeError> {
        let environment = variables.iter().copied().collect();
        PipConfig::resolve(
            &environment,
            false,
            &|path| match path == Path::new("/etc/pip.conf") {
                true => Ok(file.to_owned()),
                false => Err(io::ErrorKind::NotFound.into()),
            },
        )
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn without_any_setting_it_is_pypi() {
        let config = resolve(&[], "").unwrap();
        assert_eq!(config.indexes, [url(DEFAULT_INDEX)]);
        assert_eq!(config.find_links, []);
        assert_eq!(config.certificates, None);
        assert_eq!(config.timeout, None);
    }

    #[test]
    fn indexes_keep_their_order_and_credentials() {
        let file = "[global]\nextra-index-url = https://b/simple https://c/simple\n";
        let config = resolve(&[("PIP_INDEX_URL", "https://u:p@a/simple/")], file).unwrap();
        let expected = [
            "https://u:p@a/simple/",
            "https://b/simple",
            "https://c/simple",
        ];
        assert_eq!(config.indexes, expected.map(url));
        assert_eq!(config.access().passwords, config.indexes);
    }

    #[test]
    fn no_index_leaves_the_links() {
        let variables = [
            ("PIP_NO_INDEX", "true"),
            ("HOME", "/h"),
            (
                "PIP_FIND_LINKS",
                "/wheels ~/w file:///f https://x/links file:///p/links.html",
            ),
        ];
        let config = resolve(&variables, "").unwrap();
        assert_eq!(config.indexes, []);
        let expected = [
            FindLinks::Folder("/wheels".into()),
            FindLinks::Folder("/h/w".into()),
            FindLinks::Folder("/f".into()),
            FindLinks::Page(url("https://x/links")),
            FindLinks::Page(url("file:///p/links.html")),
        ];
        assert_eq!(config.find_links, expected);
        assert!(
            !resolve(&[("PIP_NO_INDEX", "0")], "")
                .unwrap()
                .indexes
                .is_empty()
        );
    }

    #[test]
    fn certificates_fall_back_to_those_of_requests() {
        let requests = ("REQUESTS_CA_BUNDLE", "/r.pem");
        let cert = |variables: &[_], file| resolve(variables, file).unwrap().certificates;
        assert_eq!(cert(&[requests], ""), Some("/r.pem".into()));
        assert_eq!(
            cert(&[requests], "[global]\ncert=/c.pem"),
            Some("/c.pem".into())
        );
        assert_eq!(
            cert(&[("PIP_CERT", "/e.pem")], "[global]\ncert=/c.pem"),
            Some("/e.pem".into())
        );
    }

    #[test]
    fn trusted_hosts_are_in_lower_case() {
        let file = "[global]\ntrusted-host = A.example\n b.example:8443\n";
        let config = resolve(&[], file).unwrap();
        let expected = ["a.example", "b.example:8443"];
        assert_eq!(config.access().trusted_hosts, expected);
    }

    #[test]
    fn timeouts_are_seconds() {
        let config = resolve(&[("PIP_DEFAULT_TIMEOUT", "1.5")], "").unwrap();
        assert_eq!(config.timeout, Some(Duration::from_millis(1500)));
        for value in ["soon", "0", "-1", "nan", "1e300"] {
            let error = resolve(&[("PIP_TIMEOUT", value)], "").unwrap_err();
            assert!(error.to_string().contains(value), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_a_password() {
        for value in ["ftp://u:secret@a/simple", "localhost:3141/simple", "simple"] {
            let error = resolve(&[("PIP_INDEX_URL", value)], "").unwrap_err();
            assert!(error.to_string().contains("index-url"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let config = resolve(&[("PIP_INDEX_URL", "/mnt/simple")], "").unwrap();
        assert_eq!(config.indexes, [url("file:///mnt/simple")]);
    }
}
