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
use ureq::http::StatusCode;
use ureq::http::header::{self, HeaderMap, HeaderName};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};
use url::Url;

use super::access::{Access, shown};
use super::environment::Environment;
use super::error::NetError;
use super::forward;
use super::proxy::proxy_for;

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// Below this rate for a whole stall period, a transfer counts as stalled.
const CRAWL_BYTES_PER_SEC: f64 = 1024.0;

/// Makes requests under one configuration.
pub struct Client<'a> {
    access: Access,
    environment: &'a Environment,
    root_certs: RootCerts,
    connect_timeout: Duration,
    stall_timeout: Duration,
}

/// An answer whose body is still to be read.
pub struct Reply {
    /// Where it came from in the end.
    pub url: Url,
    /// Its media type, if it has one.
    pub media_type: Option<String>,
    /// Whether it is a part of the file, as asked for with a `Range`.
    pub is_part: bool,
    headers: HeaderMap,
    body: Box<dyn Read>,
    address: String,
    stall_timeout: Duration,
    window: (Instant, u64),
}

impl<'a> Client<'a> {
    /// A client; reads the configured certificates.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(
        access: Access,
        environment: &'a Environment,
        connect_timeout: Duration,
        stall_timeout: Duration,
    ) -> Result<Client<'a>, NetError> {
        Ok(Client {
            root_certs: match &access.certificates {
                Some(path) => certificates(path)?,
                None => RootCerts::PlatformVerifier,
            },
            access,
            environment,
            connect_timeout,
            stall_timeout,
        })
    }

    /// Asks for `url`; an answer other than success is an error.
    ///
    /// # Errors
    /// [`NetError`], other than those of a client's making.
    pub fn get(&self, url: &Url, accept: &str) -> Result<Reply, NetError> {
        self.get_with(url, &[(header::ACCEPT, accept.to_owned())])
    }

    /// [`Client::get`] with these headers besides the usual ones. A local file ignores them.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn get_with(&self, url: &Url, more: &[(HeaderName, String)]) -> Result<Reply, NetError> {
        let mut next = url.clone();
        for _ in 0..=REDIRECTS {
            // The scheme decides: `http://localhost/x` would make a path too.
            if let ("file", Ok(path)) = (next.scheme(), next.to_file_path()) {
                return self.local(&path, next);
            }
            let response = self.send(&next, more)?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION);
            if let (true, Some(location)) = (status.is_redirection(), location) {
                let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
                let followed = next.join(&location).ok();
                let web = followed.filter(|url| ["http", "https"].contains(&url.scheme()));
                next = web.ok_or_else(|| NetError::BadRedirect {
                    url: shown(url),
                    location: shown_location(&location),
                })?;
                continue;
            }
            if !status.is_success() {
                return Err(NetError::Status {
                    url: shown(url),
                    status: status.as_u16(),
                });
            }
            let media_type = response.body().mime_type().map(str::to_owned);
            let (head, body) = response.into_parts();
            return Ok(Reply {
                media_type,
                headers: head.headers,
                is_part: status == StatusCode::PARTIAL_CONTENT,
                ..self.reply(next, shown(url), Box::new(body.into_reader()))
            });
        }
        Err(NetError::TooManyRedirects {
            url: shown(url),
            limit: REDIRECTS,
        })
    }

    fn reply(&self, url: Url, address: String, body: Box<dyn Read>) -> Reply {
        Reply {
            url,
            media_type: None,
            is_part: false,
            headers: HeaderMap::new(),
            body,
            address,
            stall_timeout: self.stall_timeout,
            window: (Instant::now(), 0),
        }
    }

    /// A `file` address: the file, or a folder's `index.html`.
    fn local(&self, path: &Path, url: Url) -> Result<Reply, NetError> {
        let path = match path.is_dir() {
            true => path.join("index.html"),
            false => path.to_owned(),
        };
        let file = File::open(&path).map_err(|e| NetError::LocalRead {
            path: path.clone(),
            source: e,
        })?;
        let address = shown(&url);
        Ok(self.reply(url, address, Box::new(file)))
    }

    fn send(
        &self,
        url: &Url,
        more: &[(HeaderName, String)],
    ) -> Result<ureq::http::Response<ureq::Body>, NetError> {
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
        for (name, value) in more {
            request = request.header(name, value);
        }
        // What is fetched is compressed already, and a server that compresses it again cannot say
        // how long it is.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(authorization) = self.authorization(url) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request
            .call()
            .map_err(|e| failure(shown(url), e, self.stall_timeout))
    }

    fn proxy(&self, url: &Url) -> Result<Option<Proxy>, NetError> {
        let proxy = proxy_for(url, self.access.proxy.as_deref(), self.environment);
        let proxy = proxy.map(|text| {
            Proxy::new(text).map_err(|_| NetError::Setting {
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
            .disable_verification(self.access.trusts(url))
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
        let configured = self.access.passwords.iter();
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
    /// The value of a header, if it is there once and is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(first)
    }

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// When the connection breaks or stalls.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, NetError> {
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
                return Err(NetError::Stalled {
                    url: self.address.clone(),
                    waited: self.stall_timeout,
                });
            }
            self.window = (Instant::now(), 0);
        }
        Ok(n)
    }

    /// The body as text, at most `limit_bytes` of it.
    ///
    /// # Errors
    /// As [`Reply::read`].
    pub fn text(&mut self, limit_bytes: usize) -> Result<String, NetError> {
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

fn failure(url: String, error: ureq::Error, stall_timeout: Duration) -> NetError {
    use ureq::Timeout;
    match error {
        ureq::Error::Timeout(Timeout::PerRead | Timeout::RecvResponse | Timeout::SendRequest) => {
            NetError::Stalled {
                url,
                waited: stall_timeout,
            }
        }
        error => NetError::Unreachable {
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

fn certificates(path: &Path) -> Result<RootCerts, NetError> {
    let pem = std::fs::read(path).map_err(|e| NetError::CertificatesRead {
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
        return Err(NetError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
