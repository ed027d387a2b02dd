//! What a request may cost, and how it is refused.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use extractor::decode::RgbImage;
use head_trainer::explain::png;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use tempfile::TempDir;

use super::common::server::{FORM, Server, form, head};
use super::common::tiny::{Tiny, with_engine};

struct Trained {
    data: TempDir,
    run: PathBuf,
    image: Vec<u8>,
}

fn trained() -> Trained {
    let data = tempfile::tempdir().unwrap();
    let run = Tiny::default().run(data.path(), &[]);
    let image = fs::read(data.path().join("set/Cat/00.png")).unwrap();
    Trained { data, run, image }
}

impl Trained {
    fn serve(&self, args: &[&str]) -> Server {
        Server::start(self.data.path(), &self.run, args)
    }
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let trained = trained();
    let server = trained.serve(&[]);
    let mut client = server.connect();
    let mut send =
        |path: &str, headers: &[&str], body: &[u8]| client.send("POST", path, headers, body);
    let image = &trained.image[..];
    assert_eq!(send("/predict", &[], image).status, 200);
    let detail = send("/predict", &[], b"").problem(400);
    assert_eq!(detail, "there is no image: the body is empty");
    let detail = send("/predict", &[], &image[..image.len() / 2]).problem(422);
    assert!(detail.starts_with("broken image: "), "{detail}");
    let detail = send("/predict", &[], b"II*\0\x08\0\0\0").problem(422);
    assert!(
        detail.starts_with("TIFF images are not supported"),
        "{detail}"
    );
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
        "image",
    ] {
        let detail = send("/predict", &[&format!("Content-Type: {kind}")], image).problem(415);
        assert!(detail.contains("hint: with curl"), "{detail}");
    }
    let detail = send("/predict", &["Content-Encoding: gzip"], image).problem(415);
    assert!(detail.contains("content encoding"), "{detail}");
    let detail = send("/predict", &[FORM], b"--a b--\r\n").problem(400);
    assert_eq!(detail, "there is no image: the form is empty");
    let whole = form([("a", image)]);
    for body in [b"no form".as_slice(), b"", &whole[..whole.len() / 2]] {
        let detail = send("/predict", &[FORM], body).problem(400);
        assert!(detail.starts_with("no whole form: "), "{detail}");
    }
    let bare = "Content-Type: multipart/form-data";
    send("/predict", &[bare], &whole).problem(400);
    for query in ["top=0", "top=x", "path=/etc/passwd", "file=x"] {
        send(&format!("/predict?{query}"), &[], image).problem(400);
    }
    for path in [
        "/etc/passwd",
        "/predict/",
        "//predict",
        "/%2e%2e/predict",
        "/predict/x",
    ] {
        send(path, &[], image).problem(404);
    }
    let reply = client.send("GET", "/predict", &[], b"");
    reply.problem(405);
    assert_eq!(reply.header("allow"), Some("POST"));
    // Two may be asked for one after the other; nothing is said to other pages.
    let reply = client.send("POST", "/predict", &["Origin: http://evil.example"], image);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[test]
fn what_is_too_much_is_refused() {
    let trained = trained();
    let server = trained.serve(&[
        "--max-request-bytes",
        "20000",
        "--max-buffered-bytes",
        "20000",
        "--max-image-pixels",
        "5000",
        "--max-images",
        "2",
    ]);
    let mut client = server.connect();
    let limit = "a request may have 20000 bytes at most";
    // By its header, and by what comes.
    let large = vec![0; 20_001];
    assert_eq!(client.predict(&large).problem(413), limit);
    assert_eq!(client.predict(&trained.image).status, 200);
    let chunked = "POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write(chunked.as_bytes()).unwrap();
    for _ in 0..3 {
        client.write(b"2000\r\n").unwrap();
        client.write(&[0; 0x2000]).unwrap();
        client.write(b"\r\n").unwrap();
    }
    client.write(b"0\r\n\r\n").unwrap();
    assert_eq!(client.reply().unwrap().problem(413), limit);
    assert_eq!(client.predict(&trained.image).status, 200);
    // Who asks first is told, and sends nothing.
    let expecting = ["Expect: 100-continue"];
    client
        .write(head("POST", "/predict", &expecting, 20_001).as_bytes())
        .unwrap();
    assert_eq!(client.reply().unwrap().problem(413), limit);

    let mut client = server.connect();
    let [fits, large] = [(100, 50), (100, 51)].map(|(width, height)| {
        let pixels = vec![7; width * height * 3];
        png(&RgbImage {
            width,
            height,
            pixels,
        })
        .unwrap()
    });
    assert_eq!(client.predict(&fits).status, 200);
    let detail = client.predict(&large).problem(413);
    assert_eq!(detail, "100x51 pixels are more than the limit of 5000");
    // A header that lies costs nothing.
    let mut huge = large.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let before = server.resident_bytes();
    assert!([413, 422].contains(&client.predict(&huge).status));
    assert!(server.resident_bytes() < before + (64 << 20));

    let files = [
        ("a", &trained.image[..]),
        ("b", &trained.image),
        ("c", &trained.image),
    ];
    let two = client.send("POST", "/predict", &[FORM], &form(files[..2].to_vec()));
    assert_eq!(two.status, 200);
    let three = client.send("POST", "/predict", &[FORM], &form(files));
    assert_eq!(three.problem(413), "a request may have 2 images at most");

    // A header has limits of its own.
    let many: Vec<String> = (0..100).map(|i| format!("X-{i}: {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(client.send("GET", "/", &many, b"").status, 431);
    let long = format!("X: {}", "x".repeat(100_000));
    let mut client = server.connect();
    let _ = client.write(head("GET", "/", &[&long], 0).as_bytes()); // it may be cut
    let reply = client.reply();
    assert!(reply.is_none_or(|reply| reply.status == 431));

    // What others have in memory counts.
    let mut slow = server.connect();
    slow.write(head("POST", "/predict", &[], 20_000).as_bytes())
        .unwrap();
    slow.write(&[0; 19_990]).unwrap();
    server.wait_for("headstart_requests_in_flight", 2.0);
    let mut client = server.connect();
    let reply = loop {
        let reply = client.predict(&trained.image);
        if reply.status != 200 {
            break reply; // by now the server has read what the other sent
        }
    };
    reply.problem(503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    slow.write(&[0; 10]).unwrap();
    slow.reply().unwrap().problem(422);
    assert_eq!(client.predict(&trained.image).status, 200);
}

#[test]
fn a_body_may_come_byte_by_byte() {
    let trained = trained();
    let server = trained.serve(&[]);
    let mut client = server.connect();
    let mut request =
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for byte in &trained.image {
        request.extend_from_slice(&[b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
    }
    request.extend_from_slice(b"0\r\n\r\n");
    client.write(&request).unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.json(), server.predict(&trained.image).json());
    // What one-byte chunks hold on to is not kept.
    let bytes = 4 << 20;
    let before = server.resident_bytes();
    let mut request =
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    request.extend_from_slice(&b"1\r\n.\r\n".repeat(bytes));
    client.write(&request).unwrap();
    let after = server.resident_bytes();
    assert!(after < before + 8 * bytes as u64, "{before} became {after}");
    client.write(b"0\r\n\r\n").unwrap();
    client.reply().unwrap().problem(422);
}

#[test]
fn a_full_queue_pushes_back() {
    let trained = trained();
    // A batch of two waits for its second image.
    let server = trained.serve(&[
        "--queue",
        "2",
        "--max-images",
        "2",
        "--batch-size",
        "2",
        "--batch-wait",
        "10000",
    ]);
    thread::scope(|scope| {
        let first = scope.spawn(|| server.predict(&trained.image));
        server.wait_for("headstart_queue_images", 1.0);
        let two = form([("a", &trained.image[..]), ("b", &trained.image)]);
        let mut client = server.connect();
        let reply = client.send("POST", "/predict", &[FORM], &two);
        let detail = reply.problem(429);
        let expected = "1 of at most 2 images wait already, no room for 2 more";
        assert_eq!(detail, expected);
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(client.predict(&trained.image).status, 200);
        assert_eq!(first.join().unwrap().status, 200);
        assert_eq!(client.send("POST", "/predict", &[FORM], &two).status, 200);
    });
    let refused = "headstart_requests_total{route=\"/predict\",code=\"429\"}";
    assert_eq!(server.metric(refused), 1.0);
}

#[test]
fn who_is_slow_is_told() {
    let trained = trained();
    let server = trained.serve(&[
        "--timeout",
        "1",
        "--header-timeout",
        "1",
        "--batch-size",
        "2",
        "--batch-wait",
        "10000",
    ]);
    thread::scope(|scope| {
        // A body that does not come.
        scope.spawn(|| {
            let mut client = server.connect();
            client
                .write(head("POST", "/predict", &[], 100).as_bytes())
                .unwrap();
            client.write(b"some").unwrap();
            let detail = client.reply().unwrap().problem(408);
            assert_eq!(detail, "the body was not there within 1 s");
            assert_eq!(client.rest(), b"");
        });
        // A header that does not come, and a connection that lies idle.
        scope.spawn(|| {
            let mut client = server.connect();
            client.write(b"GET / HT").unwrap();
            assert_eq!(client.rest(), b"");
        });
        scope.spawn(|| {
            let mut client = server.connect();
            assert_eq!(client.send("GET", "/", &[], b"").status, 200);
            assert_eq!(client.rest(), b"");
        });
        // An answer that is not there in time: its batch waits for a second image.
        scope.spawn(|| {
            let reply = server.predict(&trained.image);
            assert_eq!(reply.problem(503), "there was no time for it within 1 s");
            assert_eq!(reply.header("retry-after"), Some("1"));
        });
    });
}

#[test]
fn connections_beyond_the_limit_wait() {
    let trained = trained();
    let server = trained.serve(&["--max-connections", "1"]);
    let mut first = server.connect();
    assert_eq!(first.predict(&trained.image).status, 200);
    let mut second = server.connect();
    second
        .write(head("GET", "/healthz", &[], 0).as_bytes())
        .unwrap();
    let stream = second.stream();
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let error = stream.peek(&mut [0]).unwrap_err();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()));
    stream.set_read_timeout(None).unwrap();
    assert_eq!(first.predict(&trained.image).status, 200);
    drop(first);
    assert_eq!(second.reply().unwrap().status, 200);
}

#[test]
fn pages_may_read_where_they_were_allowed_to() {
    let trained = trained();
    let server = trained.serve(&["--allow-origin", "http://a.example"]);
    let mut client = server.connect();
    let field = "access-control-allow-origin";
    let mut ask = |method: &str, headers: &[&str]| client.send(method, "/predict", headers, b"");
    let reply = ask("POST", &["Origin: http://a.example"]);
    reply.problem(400);
    assert_eq!(reply.header(field), Some("http://a.example"));
    let asks = "Access-Control-Request-Method: POST";
    let reply = ask("OPTIONS", &["Origin: http://a.example", asks]);
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header(field), Some("http://a.example"));
    let reply = ask("OPTIONS", &["Origin: http://b.example", asks]);
    reply.problem(405);
    assert_eq!(reply.header(field), None);
}

#[test]
fn it_fails_before_it_serves() {
    let trained = trained();
    let serve = |args: &[&str]| {
        let mut command = with_engine(trained.data.path());
        command.arg("serve").arg(&trained.run).args(args);
        command.assert()
    };
    let server = trained.serve(&[]);
    let taken = format!("127.0.0.1:{}", server.port);
    serve(&["--listen", &taken])
        .code(1)
        .stderr(contains(format!("cannot listen on {taken}")))
        .stdout("");
    serve(&["--listen", "here"]).code(2);
    serve(&["--queue", "3", "--max-images", "4"])
        .code(1)
        .stderr(contains("--queue 4 or more"));
    serve(&["--max-buffered-bytes", "4"])
        .code(1)
        .stderr(contains("--max-buffered-bytes 33554432 or more"));
    let mut command = with_engine(trained.data.path());
    command.args(["serve", "nowhere"]);
    let assert = command.assert().code(1).stdout("");
    assert.stderr(contains("nowhere").and(contains("hint")));
}
