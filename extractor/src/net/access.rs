//! What a client needs besides an address: a proxy, certificates, passwords.

use std::path::PathBuf;

use url::Url;

/// How servers are reached. By default as the environment and the system say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// A proxy for every request, instead of the one in the environment.
    pub proxy: Option<String>,
    /// A file of certificates in PEM format to trust instead of the system's.
    pub certificates: Option<PathBuf>,
    /// Hosts (`name` or `name:port`) whose certificates are not checked.
    pub trusted_hosts: Vec<String>,
    /// Addresses with user names and passwords, each for all of its own server.
    pub passwords: Vec<Url>,
}

impl Access {
    /// Whether the certificate of `url`'s host is taken as it is.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let with_port = format!("{host}:{port}");
        let mut trusted = self.trusted_hosts.iter();
        trusted.any(|name| *name == host || *name == with_port)
    }
}

/// An address without password, query and fragment, for messages.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // A user name alone may be an access token. Neither call fails where either is set.
    if url.password().is_some() {
        let _ = url.set_password(Some("****"));
    } else if !url.username().is_empty() {
        let _ = url.set_username("****");
    }
    url.into()
}

/// Reads an address out of a registry's text.
pub(crate) fn url_of_text<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Url, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(deserializer)?;
    Url::parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn no_password_is_shown() {
        let with = url("https://u:p@a/simple/");
        assert_eq!(shown(&with), "https://u:****@a/simple/");
        assert_eq!(shown(&url("https://token@a/x?sig=s#f")), "https://****@a/x");
    }

    #[test]
    fn trusted_hosts_match_by_name_or_with_their_port() {
        let access = Access {
            trusted_hosts: vec!["a.example".to_owned(), "b.example:8443".to_owned()],
            ..Access::default()
        };
        assert!(access.trusts(&url("https://a.example/x")));
        assert!(access.trusts(&url("https://b.example:8443/x")));
        assert!(!access.trusts(&url("https://b.example/x")));
        assert!(!access.trusts(&url("https://c.a.example/x")));
    }
}
