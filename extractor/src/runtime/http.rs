//! One GET after another until there is a file: proxies, certificates, passwords, redirects and
//! time limits.
//!
//! Redirects are followed here and not by the HTTP library, because the next address may need
//! another proxy, another trust in certificates, or no password. It does not know what it gets.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use ureq::config::Config;
use ureq::http::header;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};
use url::Url;

use super::environment::Environment;
use super::error::RuntimeError;
use super::forward;
use super::pip_config::{FindLinks, PipConfig, shown};
use super::proxy::proxy_for;

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// Below this rate for a whole stall period, a transfer counts as stalled.
const CRAWL_BYTES_PER_SEC: f64 = 1024.0;

/// Makes requests under one configuration.
pub(super) struct Client<'a> {
    config: &'a PipConfig,
    environment: &'a Environment,
    root_certs: RootCerts,
    connect_timeout: Duration,
    stall_timeout: Duration,
}

/// An answer whose body is still to be read.
pub(super) struct Reply {
    /// Where it came from in the end.
    pub(super) url: Url,
    /// Its media type, if it has one.
    pub(super) media_type: Option<String>,
    body: Box<dyn Read>,
    address: String,
    stall_timeout: Duration,
    window: (Instant, u64),
}

impl<'a> Client<'a> {
    /// A client; reads the configured certificates.
    pub(super) fn new(
        config: &'a PipConfig,
        environment: &'a Environment,
        connect_timeout: Duration,
        stall_timeout: Duration,
    ) -> Result<Client<'a>, RuntimeError> {
        Ok(Client {
            config,
            environment,
            root_certs: match &config.certificates {
                Some(path) => certificates(path)?,
                None => RootCerts::PlatformVerifier,
            },
            connect_timeout,
            stall_timeout,
        })
    }

    /// Asks for `url`; an answer other than success is an error.
    pub(super) fn get(&self, url: &Url, accept: &str) -> Result<Reply, RuntimeError> {
        let mut next = url.clone();
        for _ in 0..=REDIRECTS {
            // The scheme decides: `http://localhost/x` would make a path too.
            if let ("file", Ok(path)) = (next.scheme(), next.to_file_path()) {
                return self.local(&path, next);
            }
            let response = self.send(&next, accept)?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION);
            if let (true, Some(location)) = (status.is_redirection(), location) {
                let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
                let followed = next.join(&location).ok();
                let web = followed.filter(|url| ["http", "https"].contains(&url.scheme()));
                next = web.ok_or_else(|| RuntimeError::BadRedirect {
                    url: shown(url),
                    location: shown_location(&location),
                })?;
                continue;
            }
            if !status.is_success() {
                return Err(RuntimeError::Status {
                    url: shown(url),
                    status: status.as_u16(),
                });
            }
            let media_type = response.body().mime_type().map(str::to_owned);
            let body = Box::new(response.into_body().into_reader());
            return Ok(self.reply(next, shown(url), media_type, body));
        }
        Err(RuntimeError::TooManyRedirects {
            url: shown(url),
            limit: REDIRECTS,
        })
    }

    fn reply(
        &self,
        url: Url,
        address: String,
        media_type: Option<String>,
        body: Box<dyn Read>,
    ) -> Reply {
        Reply {
            url,
            media_type,
            body,
            address,
            stall_timeout: self.stall_timeout,
            window: (Instant::now(), 0),
        }
    }

    /// A `file` address: the file, or a folder's `index.html`.
    fn local(&self, path: &Path, url: Url) -> Result<Reply, RuntimeError> {
        let path = match path.is_dir() {
            true => path.join("index.html"),
            false => path.to_owned(),
        };
        let file = File::open(&path).map_err(|e| RuntimeError::LocalRead {
            path: path.clone(),
            source: e,
        })?;
        let address = shown(&url);
        Ok(self.reply(url, address, None, Box::new(file)))
    }

    fn send(
        &self,
        url: &Url,
        accept: &str,
    ) -> Result<ureq::http::Response<ureq::Body>, RuntimeError> {
        let mut bare = url.clone();
        bare.set_fragment(None);
        // Neither call fails on an address with a host.
        let _ = bare.set_username("");
        let _ = bare.set_password(None);
        let proxy = self.proxy(url)?;
        let forward = proxy.clone().filter(|proxy| forward::is_for(url, proxy));
        let mut request = match &forward {
            Some(proxy) => {
                let agent = forward::agent(self.settings(url, None), url);
                let request = agent.get(forward::address(url, proxy));
                let request = request.header(header::HOST, forward::host(url));
                match forward::authorization(proxy) {
                    Some(value) => request.header(header::PROXY_AUTHORIZATION, value),
                    None => request,
                }
            }
            None => Agent::new_with_config(self.settings(url, proxy)).get(bare.as_str()),
        };
        request = request
            .header(header::ACCEPT, accept)
            // A wheel is compressed already, and a server that compresses it again cannot say
            // how long it is.
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(authorization) = self.authorization(url) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request
            .call()
            .map_err(|e| failure(shown(url), e, self.stall_timeout))
    }

    fn proxy(&self, url: &Url) -> Result<Option<Proxy>, RuntimeError> {
        let proxy = proxy_for(url, self.config.proxy.as_deref(), self.environment);
        let proxy = proxy.map(|text| {
            Proxy::new(text).map_err(|_| RuntimeError::Setting {
                setting: "the proxy".to_owned(),
                // What follows an `@` holds no password.
                value: text.rsplit('@').next().unwrap_or(text).to_owned(),
                expected: "an address such as http://proxy.example:3128",
            })
        });
        proxy.transpose()
    }

    fn settings(&self, url: &Url, proxy: Option<Proxy>) -> Config {
        let tls = TlsConfig::builder()
            .root_certs(self.root_certs.clone())
            .disable_verification(self.config.trusts(url))
            .build();
        Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .tls_config(tls)
            .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_send_request(Some(self.stall_timeout))
            .timeout_recv_response(Some(self.stall_timeout))
            .timeout_per_read(Some(self.stall_timeout))
            .build()
    }

    /// The password for `url`: its own, else that of a configured address on the same server,
    /// as the links on a private page carry none.
    fn authorization(&self, url: &Url) -> Option<String> {
        let has_user = |url: &&Url| !url.username().is_empty() || url.password().is_some();
        let pages = self
            .config
            .find_links
            .iter()
            .filter_map(|links| match links {
                FindLinks::Page(url) => Some(url),
                FindLinks::Folder(_) => None,
            });
        let configured = self.config.indexes.iter().chain(pages);
        let url = Some(url).filter(has_user).or_else(|| {
            configured
                .filter(has_user)
                .find(|index| index.origin() == url.origin())
        })?;
        let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
        pair.push(b':');
        pair.extend(percent_decode_str(url.password().unwrap_or_default()));
        Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
    }
}

impl Reply {
    /// Reads some bytes; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RuntimeError> {
        let n = loop {
            match self.body.read(buffer) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(failure(self.address.clone(), e.into(), self.stall_timeout));
                }
            }
        };
        let (start, bytes) = &mut self.window;
        *bytes += n as u64;
        if n > 0 && start.elapsed() >= self.stall_timeout {
            // Bytes of one window are far below 2^52.
            if (*bytes as f64) < CRAWL_BYTES_PER_SEC * start.elapsed().as_secs_f64() {
                return Err(RuntimeError::Stalled {
                    url: self.address.clone(),
                    waited: self.stall_timeout,
                });
            }
            self.window = (Instant::now(), 0);
        }
        Ok(n)
    }

    /// The body as text, at most `limit_bytes` of it.
    pub(super) fn text(&mut self, limit_bytes: usize) -> Result<String, RuntimeError> {
        let mut text = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.read(&mut buffer)? {
                0 => break,
                n => text.extend_from_slice(&buffer[..n]),
            }
            if text.len() >= limit_bytes {
                text.truncate(limit_bytes);
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn failure(url: String, error: ureq::Error, stall_timeout: Duration) -> RuntimeError {
    use ureq::Timeout;
    match error {
        ureq::Error::Timeout(Timeout::PerRead | Timeout::RecvResponse | Timeout::SendRequest) => {
            RuntimeError::Stalled {
                url,
                waited: stall_timeout,
            }
        }
        error => RuntimeError::Unreachable {
            url,
            source: Box::new(error),
        },
    }
}

/// A redirect's target for messages, without password and query.
fn shown_location(location: &str) -> String {
    if let Ok(url) = Url::parse(location) {
        return shown(&url);
    }
    let end = location.find(['?', '#']).unwrap_or(location.len());
    // What follows an `@` holds no password.
    let text = location[..end].rsplit('@').next().unwrap_or_default();
    text.escape_debug().to_string()
}

fn certificates(path: &Path) -> Result<RootCerts, RuntimeError> {
    let pem = std::fs::read(path).map_err(|e| RuntimeError::CertificatesRead {
        path: path.to_owned(),
        source: e,
    })?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(RuntimeError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
