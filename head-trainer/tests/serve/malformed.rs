//! Thousands of requests that are no good, of a fixed seed: the server lives, loses no memory and no
//! handle, and says the same as before.

use std::fs;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::common::server::{FORM, Server, form, head};
use super::common::tiny::Tiny;

const REQUESTS: usize = 4000;
const CLOSE: &str = "Connection: close";
/// From then on memory must not grow; before, threads and their arenas come into being.
const WARM: usize = 1000;
const GROWTH_BYTES: u64 = 4 << 20;

/// What comes of chance.
struct Chance(ChaCha8Rng);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn of<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Cuts, repeats, overwrites or fills in.
    fn spoil(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(40)).min(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                3 => {
                    let n = self.below(40);
                    let new = self.bytes(n);
                    bytes.splice(at..at, new);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        bytes
    }

    /// A request, and whether it is whole, so that its answer comes without its end.
    fn request(&mut self, image: &[u8]) -> (Vec<u8>, bool) {
        let parts = form([("a.png", image), ("b", b"x"), ("", image)]);
        let kind = "Content-Type: image/png";
        let whole = |headers: &[&str], body: &[u8]| {
            let head = head("POST", "/predict?top=1", headers, body.len());
            [head.as_bytes(), body].concat()
        };
        let kinds = self.below(8);
        let bytes = match kinds {
            0 => {
                let n = self.below(2000);
                self.bytes(n)
            }
            // Header and all.
            1 => self.spoil(whole(&[kind], image)),
            2 => self.spoil(whole(&[FORM], &parts)),
            // The body alone.
            3 => whole(&[kind, CLOSE], &self.spoil(image.to_vec())),
            4 => whole(&[FORM, CLOSE], &self.spoil(parts)),
            5 => {
                let boundary = self.of(&["", "\"", "x", "a b", "\"a b", "\u{e4}", ";;"]);
                let kind = format!("Content-Type: multipart/form-data; boundary={boundary}");
                whole(&[&kind, CLOSE], &parts)
            }
            6 => {
                let length =
                    self.of(&["-1", "+1", "1, 2", "99999999999999999999", "0x10", "", "5"]);
                let more = self.of(&[
                    "",
                    "Content-Length: 7\r\n",
                    "Transfer-Encoding: chunked\r\n",
                ]);
                let line = self.of(&["POST /predict HTTP/1.1", "POST /predict HTTP/1.0"]);
                let head = format!("{line}\r\nContent-Length: {length}\r\n{more}\r\n");
                [head.as_bytes(), image].concat()
            }
            _ => {
                let method = self.of(&["GET", "POST", "BREW", "get", "", "CONNECT", "OPTIONS"]);
                let path = self.of(&[
                    "/",
                    "*",
                    "/predict?top=%00",
                    "/../x",
                    "http://x/",
                    "x",
                    "/%ff",
                ]);
                let version = self.of(&["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "PRI"]);
                let field = self.of(&[
                    "Host: x",
                    "Host x",
                    ": x",
                    "X: \u{1}",
                    "Expect: 100-continue",
                ]);
                let size = self.of(&[
                    "0",
                    "fffffffffffffffff",
                    "-1",
                    "5;x=y",
                    "x",
                    "7fffffffffffffff",
                ]);
                let chunked = "Transfer-Encoding: chunked";
                format!(
                    "{method} {path} {version}\r\n{field}\r\n{chunked}\r\n\r\n{size}\r\nhello\r\n"
                )
                .into_bytes()
            }
        };
        (bytes, (3..=5).contains(&kinds))
    }
}

#[test]
fn malformed_requests_change_nothing() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let image = fs::read(data.join("set/Dog/07.png")).unwrap();
    let mut server = Server::start(data, &run, &[]);
    let expected = server.predict(&image).json();
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(7));
    let mut before = None;
    let mut codes = std::collections::BTreeMap::<String, usize>::new();
    for i in 0..REQUESTS {
        if i == WARM {
            before = Some(quiet(&server));
        }
        let mut client = server.connect();
        let (request, is_whole) = chance.request(&image);
        let _ = client.write(&request); // the server may have enough before the end
        if !is_whole {
            client.finish();
        }
        let answer = client.rest();
        let code = match &answer[..] {
            [] => "closed".to_owned(),
            answer => {
                assert!(answer.starts_with(b"HTTP/1."), "{request:?}: {answer:?}");
                String::from_utf8_lossy(&answer[9..12]).into_owned()
            }
        };
        *codes.entry(code).or_default() += 1;
    }
    eprintln!("answers: {codes:?}");
    for code in ["200", "400", "404", "405", "415", "422"] {
        assert!(codes.contains_key(code), "no {code} in {codes:?}");
    }
    assert!(!codes.contains_key("500"), "{codes:?}");
    let (files, resident) = before.unwrap();
    let (files_after, resident_after) = quiet(&server);
    eprintln!("memory: {resident} bytes after {WARM} requests, {resident_after} at the end");
    assert_eq!(files_after, files);
    assert!(
        resident_after < resident + GROWTH_BYTES,
        "{resident} bytes became {resident_after}"
    );
    assert_eq!(server.predict(&image).json(), expected);
    assert_eq!(server.metric("headstart_queue_images"), 0.0);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// Open files and memory once no connection is left.
fn quiet(server: &Server) -> (usize, u64) {
    server.wait_for("headstart_connections", 1.0); // that asks
    let mut files = server.files();
    // That one may be closing yet.
    loop {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let again = server.files();
        if again == files {
            return (files, server.resident_bytes());
        }
        files = again;
    }
}
