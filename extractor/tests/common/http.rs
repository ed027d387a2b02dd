//! Servers on this machine for the tests of downloads, and a small fake wheel to serve.
//!
//! [`Server`] answers properly; [`misbehaving`] does whatever a test writes into the socket.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Cursor, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use extractor::digest::Digest;
use extractor::runtime::{Event, FetchOptions, Flavour, Pinned, RuntimeError, fetch};
use zip::write::SimpleFileOptions;

pub const WHEEL: &str = "fakeruntime-1.2.3-cp311-cp311-any.whl";
/// The project's page on an index at `/simple`.
pub const PAGE: &str = "/simple/fakeruntime/";
/// Where the pages of these tests say that the wheel is.
pub const FILE: &str = "/files/fakeruntime-1.2.3-cp311-cp311-any.whl";
pub const FOLDER: &str = "fakeruntime-1.2.3-any";
pub const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// What the fake library holds.
pub fn library() -> Vec<u8> {
    b"not a library ".repeat(1000)
}

/// A wheel with a library, its companion and a file that stays inside.
pub fn wheel() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let packed = SimpleFileOptions::default();
    zip.start_file("fakeruntime/capi/libfake.so.1.2.3", packed)
        .unwrap();
    zip.write_all(&library()).unwrap();
    zip.start_file("fakeruntime/capi/libcompanion.so", stored)
        .unwrap();
    zip.write_all(b"beside it").unwrap();
    zip.start_file("fakeruntime/__init__.py", packed).unwrap();
    zip.write_all(b"raise ImportError\n").unwrap();
    zip.finish().unwrap().into_inner()
}

/// `wheel` as an entry of the table.
pub fn pinned(wheel: &[u8]) -> Pinned {
    Pinned {
        version: "1.2.3",
        project: "fakeruntime",
        wheel: WHEEL,
        sha256: Digest::of(wheel),
        size_bytes: wheel.len() as u64,
        members: &[
            "fakeruntime/capi/libfake.so.1.2.3",
            "fakeruntime/capi/libcompanion.so",
        ],
        unpacked_bytes: library().len() as u64 + 9,
        folder: FOLDER,
    }
}

/// Fetches the fake wheel into `data` with these environment variables only.
pub fn options(data: &Path, variables: &[(&str, &str)]) -> FetchOptions {
    let no_file = [("PIP_CONFIG_FILE", "/dev/null")];
    let mut options = FetchOptions::new(data, Flavour::Cpu);
    options.environment = no_file.iter().chain(variables).copied().collect();
    options.pinned = Some(pinned(&wheel()));
    options.retries = 1;
    options
}

/// Runs a fetch and keeps what it reports.
pub fn run(options: &FetchOptions) -> (Result<PathBuf, RuntimeError>, Vec<Event>) {
    let mut events = Vec::new();
    let result = fetch(options, &mut |event| events.push(event));
    (result, events)
}

/// The error of a fetch that has to fail, with all its causes, as a user reads it: one line.
pub fn message(options: &FetchOptions) -> String {
    let (result, events) = run(options);
    let error = result.expect_err("the fetch should fail");
    let line = format!("{:#}", anyhow::Error::new(error));
    assert!(!line.contains('\n'), "{line}");
    // Passwords in these tests are `secret`.
    let said: Vec<String> = events.iter().map(Event::to_string).collect();
    assert!(!said.join(" ").contains("secret"), "{said:?}");
    assert!(!line.contains("secret"), "{line}");
    line
}

/// The names in a folder, sorted; none if there is no such folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a request asked for.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// As in the request line.
    pub target: String,
    /// By name in lower case.
    pub headers: HashMap<String, String>,
}

pub type Answer = tiny_http::Response<Cursor<Vec<u8>>>;

/// An answer with a body.
pub fn body(media_type: &str, body: impl Into<Vec<u8>>) -> Answer {
    Answer::from_data(body).with_header(header("Content-Type", media_type))
}

/// An answer with a status only.
pub fn status(status: u16) -> Answer {
    Answer::from_data("").with_status_code(status)
}

/// An answer that leads elsewhere.
pub fn redirect(location: &str) -> Answer {
    status(302).with_header(header("Location", location))
}

fn header(name: &str, value: &str) -> tiny_http::Header {
    tiny_http::Header::from_bytes(name, value).unwrap()
}

/// An index's page in JSON that lists the wheel at `url`.
pub fn json_page(url: &str) -> Answer {
    let page = format!(r#"{{"files":[{{"filename":"{WHEEL}","url":"{url}"}}]}}"#);
    body(JSON, page)
}

/// A package index as it should be: the page, the wheel, and 404 for all else.
pub fn index(seen: &Seen) -> Answer {
    match seen.target.as_str() {
        PAGE => json_page(FILE),
        FILE => body("application/octet-stream", wheel()),
        _ => status(404),
    }
}

/// An HTTP server that remembers what it was asked.
pub struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    server: Arc<tiny_http::Server>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(mut answer: impl FnMut(&Seen) -> Answer + Send + 'static) -> Server {
        let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
        let port = server.server_addr().to_ip().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (server, seen) = (Arc::clone(&server), Arc::clone(&seen));
            move || {
                while let Ok(request) = server.recv() {
                    let headers = request.headers().iter().map(|header| {
                        let name = header.field.as_str().as_str().to_ascii_lowercase();
                        (name, header.value.as_str().to_owned())
                    });
                    let now = Seen {
                        method: request.method().to_string(),
                        target: request.url().to_owned(),
                        headers: headers.collect(),
                    };
                    seen.lock().unwrap().push(now.clone());
                    // A client that has enough may hang up.
                    let _ = request.respond(answer(&now));
                }
            }
        });
        Server {
            port,
            seen,
            server,
            thread: Some(thread),
        }
    }

    /// An address on this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was asked for, in order.
    pub fn targets(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.target).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // A panic in there has failed the test already.
            let _ = thread.join();
        }
    }
}

/// A server whose `answer` gets each request's target and its socket; the socket is closed when
/// `answer` returns. Returns the server's address.
pub fn misbehaving(mut answer: impl FnMut(&str, &mut TcpStream) + Send + 'static) -> String {
    misbehaving_to(move |head, stream| {
        let request = head.first().cloned().unwrap_or_default();
        answer(request.split(' ').nth(1).unwrap_or_default(), stream);
    })
}

/// The same for an `answer` that gets all lines of the request.
pub fn misbehaving_to(
    mut answer: impl FnMut(&[String], &mut TcpStream) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(stream.try_clone().unwrap());
            let head: Vec<String> = head
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            answer(&head, &mut stream);
        }
    });
    address
}

/// Writes an answer of `length` bytes of which only `bytes` come.
pub fn write(stream: &mut TcpStream, media_type: &str, length: usize, bytes: &[u8]) {
    // A client that has enough may hang up.
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
    )
    .and_then(|()| stream.write_all(bytes));
}

/// Says no more until the client hangs up.
pub fn stall(stream: &mut TcpStream) {
    let _ = stream.set_read_timeout(None);
    let _ = std::io::copy(stream, &mut std::io::sink());
}

/// Says a byte now and then until the client hangs up.
pub fn trickle(stream: &mut TcpStream) {
    while stream.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
}
