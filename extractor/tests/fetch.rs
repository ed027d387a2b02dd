//! Downloading: from servers that behave and from those that do not.
//!
//! Servers on this machine and a small archive; nothing here needs a network.

mod common;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::http::{
    Answer, Seen, Server, body, misbehaving_to, names, redirect, stall, status, trickle, write,
};
use common::pets::{NAME, PATH, archive, conditions, remote};
use extractor::digest::Digest;
use extractor::fetch::{Conditions, Event, FetchError, Remote, download};

/// Downloads into `folder` and keeps what is reported, progress excepted.
fn get(folder: &Path, remote: &Remote, retries: u32) -> (Result<Digest, FetchError>, Vec<Event>) {
    let mut events = Vec::new();
    let conditions = Conditions {
        retries,
        ..conditions()
    };
    let result = download(remote, &folder.join(NAME), &conditions, &mut |event| {
        if !matches!(event, Event::Progress { .. }) {
            events.push(event);
        }
    });
    (result, events)
}

/// The line of a download that has to fail.
fn failing(folder: &Path, remote: &Remote) -> String {
    let error = get(folder, remote, 1).0.expect_err("it should fail");
    let line = format!("{:#}", anyhow::Error::new(error));
    assert!(!line.contains('\n'), "{line}");
    line
}

fn is_whole(folder: &Path) {
    assert_eq!(fs::read(folder.join(NAME)).unwrap(), archive());
    assert_eq!(names(folder), [NAME], "nothing else is left");
}

/// Where a request wants to begin.
fn start_of(head: &[String]) -> usize {
    let range = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then_some(value)
    });
    let start = range.map(|range| range.strip_prefix("bytes=").unwrap());
    start.map_or(0, |start| start.strip_suffix('-').unwrap().parse().unwrap())
}

/// Answers with the rest from `start` on, of which only `length` bytes come.
fn write_part(stream: &mut TcpStream, start: usize, length: usize) {
    let all = archive();
    let end = all.len().min(start + length);
    if start == 0 {
        return write(stream, "application/zip", all.len(), &all[..end]);
    }
    // A client that has enough may hang up.
    let _ = write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{}\r\n\
         Content-Length: {}\r\n\r\n",
        all.len() - 1,
        all.len(),
        all.len() - start
    )
    .and_then(|()| stream.write_all(&all[start..end]));
}

/// A server that gives `length` bytes an answer and then `ends` it. Returns also where the requests
/// began.
fn in_pieces(
    length: usize,
    ends: impl Fn(&mut TcpStream) + Send + 'static,
) -> (String, Arc<Mutex<Vec<usize>>>) {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&starts);
    let url = misbehaving_to(move |head, stream| {
        let start = start_of(head);
        seen.lock().unwrap().push(start);
        write_part(stream, start, length);
        if start + length < archive().len() {
            ends(stream);
        }
    });
    (url, starts)
}

#[test]
fn a_file_is_fetched_once() {
    let server = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("new");
    let (result, events) = get(&to, &remote(&server.url("")), 0);
    assert_eq!(result.unwrap(), Digest::of(&archive()));
    is_whole(&to);
    assert!(
        matches!(&events[0], Event::Downloading { from, have_bytes: 0, .. } if from.ends_with(PATH))
    );
    let (result, events) = get(&to, &remote(&server.url("")), 0);
    assert_eq!(result.unwrap(), Digest::of(&archive()));
    let path = to.join(NAME);
    assert_eq!(events, [Event::AlreadyThere { path: path.clone() }]);
    assert_eq!(server.targets(), [PATH]);

    fs::write(&path, "a file of somebody's").unwrap();
    let said = failing(&to, &remote(&server.url("")));
    assert!(said.contains("is there and has SHA-256"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"a file of somebody's");
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let third = archive().len().div_ceil(3);
    type Ends = fn(&mut TcpStream);
    let ends: [Ends; 2] = [|_| {}, stall];
    for end in ends {
        let (url, starts) = in_pieces(third, end);
        let folder = tempfile::tempdir().unwrap();
        let (result, events) = get(folder.path(), &remote(&url), 2);
        result.unwrap();
        is_whole(folder.path());
        let starts = starts.lock().unwrap().clone();
        assert!(starts.len() == 3 && starts[0] == 0, "{starts:?}");
        assert!(starts[1] >= third && starts[2] >= 2 * third, "{starts:?}");
        let retries = events.iter().filter(|e| matches!(e, Event::Retry { .. }));
        assert_eq!(retries.count(), 2);
    }
}

#[test]
fn another_run_goes_on_if_it_is_still_the_same_file() {
    for (version, expected) in [("\"1\"", "rest"), ("\"2\"", "all")] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let times = AtomicUsize::new(0);
        let url = misbehaving_to(move |head, stream| {
            let all = archive();
            seen.lock().unwrap().push(head.to_vec());
            let same = head
                .iter()
                .any(|line| line.eq_ignore_ascii_case(&format!("if-range: {version}")));
            if times.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n",
                    all.len()
                )
                .and_then(|()| stream.write_all(&all[..all.len() / 2]));
                return;
            }
            let start = if same { start_of(head) } else { 0 };
            write_part(stream, start, usize::MAX / 2);
        });
        let folder = tempfile::tempdir().unwrap();
        let (result, _) = get(folder.path(), &remote(&url), 0);
        assert!(result.unwrap_err().may_pass());
        assert_eq!(
            names(folder.path()),
            [".partial-archive.zip", ".partial-archive.zip.json"]
        );
        let (result, events) = get(folder.path(), &remote(&url), 0);
        result.unwrap();
        is_whole(folder.path());
        let over = |e: &Event| matches!(e, Event::StartingOver { .. });
        assert_eq!(events.iter().any(over), expected == "all", "{events:?}");
        let half = archive().len() / 2;
        let asked = asked.lock().unwrap();
        let wanted = format!("range: bytes={half}-");
        assert!(
            asked[1]
                .iter()
                .any(|line| line.eq_ignore_ascii_case(&wanted))
        );
    }
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let times = AtomicUsize::new(0);
    let url = misbehaving_to(move |_, stream| {
        let cut = match times.fetch_add(1, Ordering::SeqCst) {
            0 => 1000,
            _ => usize::MAX / 2,
        };
        write_part(stream, 0, cut);
    });
    let folder = tempfile::tempdir().unwrap();
    let (result, events) = get(folder.path(), &remote(&url), 1);
    result.unwrap();
    is_whole(folder.path());
    let over = |e: &Event| matches!(e, Event::StartingOver { .. });
    assert!(events.iter().any(over), "{events:?}");
}

/// Puts the beginning of something beside the file to come, as an earlier run would have.
fn begun(folder: &Path, bytes: &[u8]) {
    let half = archive()[..100].to_vec();
    let url = misbehaving_to(move |_, stream| write(stream, "x/x", archive().len(), &half));
    get(folder, &remote(&url), 0).0.unwrap_err();
    fs::write(folder.join(".partial-archive.zip"), bytes).unwrap();
}

#[test]
fn pieces_that_do_not_fit_are_fetched_again() {
    let all = archive();
    let beginnings: [&[u8]; 4] = [&[0; 500], &all, &[1; 100_000], &all[..700]];
    for beginning in beginnings {
        let (url, _) = in_pieces(usize::MAX / 2, |_| {});
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path(), beginning);
        get(folder.path(), &remote(&url), 1).0.unwrap();
        is_whole(folder.path());
    }
}

#[test]
fn answers_to_a_range_that_make_no_sense_are_refused_or_gone_round() {
    let answers: [&str; 4] = [
        "206 Partial Content\r\nContent-Range: bytes 0-9/10",
        "206 Partial Content\r\nContent-Range: bytes 700-9/11",
        "206 Partial Content",
        "416 Range Not Satisfiable",
    ];
    for answer in answers {
        let url = misbehaving_to(move |head, stream| match start_of(head) {
            0 => write_part(stream, 0, usize::MAX / 2),
            _ => {
                let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 3\r\n\r\nabc");
            }
        });
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path(), &archive()[..700]);
        let (result, events) = get(folder.path(), &remote(&url), 1);
        match answer.contains("/11") {
            true => assert!(matches!(
                result,
                Err(FetchError::WrongSize { got_bytes: 11, .. })
            )),
            false => {
                result.unwrap_or_else(|e| panic!("{answer}: {e} {events:?}"));
                is_whole(folder.path());
            }
        }
    }
}

#[test]
fn a_wrong_digest_is_never_accepted() {
    let server = Server::start(|_| {
        let mut other = archive();
        other[50] ^= 1;
        body("application/zip", other)
    });
    let folder = tempfile::tempdir().unwrap();
    let said = failing(folder.path(), &remote(&server.url("")));
    assert!(said.contains("has SHA-256"), "{said}");
    assert!(said.contains(&Digest::of(&archive()).to_string()), "{said}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
    assert_eq!(server.targets(), [PATH], "not tried again");

    // Not even in pieces, and not for ever.
    let url = misbehaving_to(|head, stream| {
        let start = start_of(head);
        write_part(stream, start, 700);
        if start == 0 {
            return;
        }
        let _ = stream.write_all(&vec![7; archive().len()]);
    });
    let error = get(folder.path(), &remote(&url), 2).0.unwrap_err();
    assert!(matches!(error, FetchError::WrongHash { .. }), "{error}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn a_server_that_says_next_to_nothing_is_given_up() {
    type Says = fn(&mut TcpStream);
    for says in [stall as Says, trickle] {
        let url = misbehaving_to(move |_, stream| {
            write(stream, "x/x", archive().len(), b"");
            says(stream);
        });
        let folder = tempfile::tempdir().unwrap();
        let said = failing(folder.path(), &remote(&url));
        assert!(said.contains("next to nothing, for 0.3s"), "{said}");
    }
}

#[test]
fn a_wrong_length_is_refused_before_it_is_read() {
    let size = archive().len();
    for length in [13, size - 1, size + 1] {
        let server = Server::start(move |_| body("text/html", vec![b'x'; length]));
        let folder = tempfile::tempdir().unwrap();
        let said = failing(folder.path(), &remote(&server.url("")));
        assert!(said.contains("bytes, expected"), "{said}");
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
    // No length is said, and more comes, or less.
    for (more, expected) in [(1000, "bytes, expected"), (-1000, "broke off after")] {
        let url = misbehaving_to(move |head, stream| {
            let mut all = archive();
            all.resize(all.len().checked_add_signed(more).unwrap(), 0);
            let start = start_of(head).min(all.len());
            let _ = match start {
                0 => write!(stream, "HTTP/1.1 200 OK\r\n\r\n"),
                _ => write!(
                    stream,
                    "HTTP/1.1 206 OK\r\nContent-Range: bytes {start}-{start}/*\r\n\r\n"
                ),
            }
            .and_then(|()| stream.write_all(&all[start..]));
        });
        let folder = tempfile::tempdir().unwrap();
        let said = failing(folder.path(), &remote(&url));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn what_the_disk_cannot_take_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = misbehaving_to(move |_, stream| {
        count.fetch_add(1, Ordering::Relaxed);
        write(stream, "application/zip", 1 << 60, &archive());
    });
    let anything = Remote {
        size_bytes: None,
        ..remote(&address)
    };
    let line = failing(folder.path(), &anything);
    assert!(line.contains("bytes free, and http://127.0.0.1"), "{line}");
    assert!(line.contains("needs 1,152,921,504,606,846,976"), "{line}");
    assert!(line.contains("--data-dir"), "{line}");
    // Waiting does not help, so nobody asks again.
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn without_a_digest_a_broken_transfer_is_no_file() {
    for head in ["Content-Length: 99999", "Transfer-Encoding: chunked"] {
        let url = misbehaving_to(move |_, stream| {
            let chunk = if head.starts_with('T') { "ff\r\n" } else { "" };
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{chunk}some bytes");
        });
        let folder = tempfile::tempdir().unwrap();
        let remote = Remote {
            size_bytes: None,
            sha256: None,
            ..remote(&url)
        };
        let said = failing(folder.path(), &remote);
        assert!(said.contains("broke off after"), "{said}");
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn redirects_are_followed_with_their_range() {
    let server = Server::start(|seen: &Seen| -> Answer {
        match (seen.target.as_str(), seen.headers.get("range")) {
            (PATH, _) => redirect("/elsewhere?token=secret"),
            (_, None) => status(500),
            (_, Some(range)) => {
                assert_eq!(range, "bytes=700-");
                let all = archive();
                let range = format!("bytes 700-{}/{}", all.len() - 1, all.len());
                let range = tiny_http::Header::from_bytes("Content-Range", range).unwrap();
                body("x/x", &all[700..])
                    .with_status_code(206)
                    .with_header(range)
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path(), &archive()[..700]);
    let (result, events) = get(folder.path(), &remote(&server.url("")), 0);
    result.unwrap();
    is_whole(folder.path());
    assert!(!format!("{events:?}").contains("secret"));

    let server = Server::start(|_| redirect(PATH));
    let said = failing(folder.path().join("2").as_path(), &remote(&server.url("")));
    assert!(said.contains("redirects more than 10 times"), "{said}");
    let server = Server::start(|_| redirect("file:///etc/passwd"));
    let said = failing(folder.path().join("3").as_path(), &remote(&server.url("")));
    assert!(said.contains("no address that can be followed"), "{said}");
}

#[test]
fn two_at_a_time_fetch_once() {
    let server = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    let remote = remote(&server.url(""));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| get(folder.path(), &remote, 0).0.unwrap());
        }
    });
    is_whole(folder.path());
    assert_eq!(server.targets(), [PATH]);
}
