//! A plain `http` request through an HTTP proxy: the whole address in the request line, as
//! proxies expect it.
//!
//! The HTTP library asks a proxy for a tunnel (`CONNECT`) whatever the scheme, which many proxies
//! refuse for anything but `https`. So the request goes to the proxy itself, and the beginning
//! of the address is put in front of its path on the way out. It does not know what is asked for.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};
use ureq::{Agent, Error, Proxy, ProxyProtocol};
use url::{Position, Url};

/// What every request begins with; the path follows.
const METHOD: &[u8] = b"GET ";

/// Whether a request for `url` goes through `proxy` in this way.
pub fn is_for(url: &Url, proxy: &Proxy) -> bool {
    url.scheme() == "http" && matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}

/// An agent for GET requests to [`address`], which arrive there as requests for `url`.
pub fn agent(config: Config, url: &Url) -> Agent {
    let server = url[Position::BeforeHost..Position::AfterPort].to_owned();
    let connector = DefaultConnector::new().chain(Forward {
        start: format!("http://{server}"),
    });
    Agent::with_parts(config, connector, DefaultResolver::default())
}

/// The address to ask instead of `url`: the proxy's, with the path of `url`.
pub fn address(url: &Url, proxy: &Proxy) -> String {
    let scheme = match proxy.protocol() {
        ProxyProtocol::Https => "https",
        _ => "http",
    };
    let path = &url[Position::BeforePath..Position::AfterQuery];
    format!("{scheme}://{}:{}{path}", proxy.host(), proxy.port())
}

/// The value of the `Host` header.
pub fn host(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

/// The value of the `Proxy-Authorization` header, if the proxy wants one.
pub fn authorization(proxy: &Proxy) -> Option<String> {
    if proxy.username().is_none() && proxy.password().is_none() {
        return None;
    }
    let user = proxy.username().unwrap_or_default();
    let password = proxy.password().unwrap_or_default();
    let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
    Some(format!("Basic {pair}"))
}

/// Wraps every connection that is opened.
#[derive(Debug)]
struct Forward {
    start: String,
}

impl<In: Transport> Connector<In> for Forward {
    type Out = Forwarded<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Forwarded {
            inner,
            start: Some(self.start.clone()),
        }))
    }
}

/// A connection to the proxy whose first request is still to be completed.
#[derive(Debug)]
struct Forwarded<In> {
    inner: In,
    /// Gone once it is sent: an agent of [`agent`] makes one request.
    start: Option<String>,
}

impl<In: Transport> Transport for Forwarded<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let Some(start) = self.start.take() else {
            return self.inner.transmit_output(amount, timeout);
        };
        let output = self.inner.buffers().output();
        let (from, to) = (METHOD.len(), METHOD.len() + start.len());
        let longer = amount + start.len();
        if longer > output.len() || !output[..amount].starts_with(METHOD) {
            return Err(Error::Other("the request does not fit a proxy".into()));
        }
        output.copy_within(from..amount, to);
        output[from..to].copy_from_slice(start.as_bytes());
        self.inner.transmit_output(longer, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
