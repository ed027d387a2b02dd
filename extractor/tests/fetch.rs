//! Fetching data sets: from servers that behave and from those that do not, and the images that count.
//!
//! Servers on this machine and a small archive; nothing here needs a network.

mod common;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::http::{
    Answer, Seen, Server, body, misbehaving_to, names, redirect, stall, status, trickle, write,
};
use common::pets::archive;
use common::{extractor, json};
use extractor::digest::Digest;
use extractor::fetch::known::data_sets;
use extractor::fetch::set::{Fetched, Wanted, fetch};
use extractor::fetch::{Conditions, Event, FetchError, Remote, download};
use extractor::images::{Columns, DataSet, Keep, Selection};
use url::Url;

const PATH: &str = "/pets/archive.zip";
const NAME: &str = "archive.zip";

fn conditions() -> Conditions {
    Conditions {
        environment: [("PIP_CONFIG_FILE", "/dev/null")].into_iter().collect(),
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(300),
        retries: 2,
        pause: Duration::from_millis(1),
    }
}

/// The archive at a server, size and digest known.
fn remote(server: &str) -> Remote {
    Remote {
        url: Url::parse(&format!("{server}{PATH}")).unwrap(),
        size_bytes: Some(archive().len() as u64),
        sha256: Some(Digest::of(&archive())),
    }
}

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

/// The small archive as the data set that is known by name.
fn known(url: &str) -> Wanted {
    let mut set = data_sets().remove(0);
    let remote = remote(url);
    set.url = remote.url;
    set.size_bytes = remote.size_bytes.unwrap();
    set.sha256 = remote.sha256.unwrap();
    Wanted::Known(set)
}

fn fetch_known(folder: &Path, url: &str, keep: Option<Keep>) -> Fetched {
    let to = folder.join(NAME);
    fetch(&known(url), keep, &to, &conditions(), &mut |_| {}, || {}).unwrap()
}

fn index(data_dir: &Path, archive: &Path, code: i32) -> serde_json::Value {
    let mut command = extractor(data_dir);
    let run = command.args(["index", "--json"]).arg(archive).assert();
    json(&run.code(code).get_output().stdout)
}

#[test]
fn the_rule_leaves_out_what_tensorflow_datasets_leaves_out() {
    let server = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    let fetched = fetch_known(folder.path(), &server.url(""), None);
    assert_eq!(
        (fetched.keep, fetched.kept, fetched.left_out),
        (Keep::Jfif, 4, 4)
    );
    let path = folder.path().join(NAME);
    let selection = fs::read_to_string(Selection::path(&path)).unwrap();
    assert!(selection.contains("keep = \"jfif\""), "{selection}");
    for left_out in ["Cat/1.jpg", "Cat/3.jpg", "Cat/666.jpg", "Dog/2.jpg"] {
        assert!(selection.contains(left_out), "{left_out}: {selection}");
    }
    let index_1 = index(folder.path(), &path, 0);
    assert_eq!(index_1["images"], 4);
    assert_eq!(index_1["left_out"], 4);
    assert_eq!(index_1["skipped"], 0);

    // What the rule keeps and the loader rejects is another number.
    let features = common::features(folder.path(), &path, 4).output().unwrap();
    assert_eq!(features.status.code(), Some(3));
    let said = json(&features.stdout);
    assert_eq!(
        (
            &said["left_out"],
            &said["counts"]["new"],
            &said["counts"]["rejected"]
        ),
        (&4.into(), &3.into(), &1.into())
    );
    assert!(String::from_utf8_lossy(&features.stderr).contains("Dog/1.jpg"));

    // All that can be decoded: the empty file is named.
    let fetched = fetch_known(folder.path(), &server.url(""), Some(Keep::All));
    assert_eq!((fetched.kept, fetched.left_out), (8, 0));
    let index_2 = index(folder.path(), &path, 3);
    assert_eq!(
        (&index_2["images"], &index_2["skipped"]),
        (&7.into(), &1.into())
    );
    // And back, from what is known of the archive.
    fetch_known(folder.path(), &server.url(""), None);
    assert_eq!(index(folder.path(), &path, 0)["digest"], index_1["digest"]);
    assert_eq!(server.targets(), [PATH]);
}

#[test]
fn a_selection_is_of_its_archive_alone() {
    let server = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    fetch_known(folder.path(), &server.url(""), None);
    let path = folder.path().join(NAME);
    let selection = Selection::path(&path);
    let good = fs::read_to_string(&selection).unwrap();
    let open = |path: &Path| {
        let opened = DataSet::open(path, &Columns::default());
        opened
            .map(|data| data.images_listed())
            .map_err(|e| e.to_string())
    };
    let link = folder.path().join("link.zip");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(open(&link), Ok(4), "also through a link");
    for (from, to, expected) in [
        ("format = 1", "format = 2", "has format 2, expected 1"),
        ("size_bytes = ", "size_bytes = 1", "made for another file"),
        ("Cat/1.jpg", "Cat/9.jpg", "are not in it"),
        ("keep = \"jfif\"", "keep = \"some\"", "is no selection"),
    ] {
        fs::write(&selection, good.replace(from, to)).unwrap();
        let error = open(&path).unwrap_err();
        assert!(
            error.contains(expected) && error.contains("extractor fetch"),
            "{error}"
        );
    }
    fs::remove_file(&selection).unwrap();
    assert_eq!(open(&path), Ok(8));
}

fn fetch_command(data_dir: &Path, mirror: Option<&str>) -> assert_cmd::Command {
    let mut command = extractor(data_dir);
    command.env("PIP_CONFIG_FILE", "/dev/null").arg("fetch");
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    match mirror {
        Some(mirror) => command.env("HEADSTART_MIRROR", mirror),
        None => command.env_remove("HEADSTART_MIRROR"),
    };
    command
}

fn error_line(assert: assert_cmd::assert::Assert) -> String {
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let errors: Vec<_> = stderr.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    errors[0].to_owned()
}

#[test]
fn offline_it_says_so_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    for mirror in ["http://127.0.0.1:9", "http://mirror.invalid/x"] {
        let mut command = fetch_command(folder.path(), Some(mirror));
        let line = error_line(command.args(["-q", "cats-vs-dogs"]).assert().code(75));
        assert!(line.contains("is this machine offline"), "{line}");
        assert!(line.contains("kagglecatsanddogs_5340.zip"), "{line}");
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn a_mirrors_other_file_is_not_the_data_set() {
    let server = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    let mut command = fetch_command(folder.path(), Some(&server.url("/m/")));
    let line = error_line(command.arg("cats-vs-dogs").assert().code(1));
    assert!(line.contains("expected 824,887,076"), "{line}");
    let path = data_sets()[0].url.path().to_owned();
    assert_eq!(server.targets(), [format!("/m{path}")]);
    let mut command = fetch_command(folder.path(), None);
    let sha256 = Digest::of(b"").to_string();
    let line = error_line(
        command
            .args(["cats-vs-dogs", "--sha256", &sha256])
            .assert()
            .code(1),
    );
    assert!(line.contains("and no other"), "{line}");
    let mut command = fetch_command(folder.path(), None);
    let line = error_line(command.arg("cats").assert().code(1));
    assert!(line.contains("cats-vs-dogs"), "{line}");
}

#[test]
fn any_address_or_archive_likewise() {
    let server = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let sha256 = Digest::of(&archive()).to_string();
    let mut command = fetch_command(&data, None);
    let run = command.args(["--json", &server.url(PATH), "--sha256", &sha256]);
    let said = json(&run.assert().success().get_output().stdout);
    assert_eq!((&said["keep"], &said["images"]), (&"all".into(), &8.into()));
    let fetched = PathBuf::from(said["archive"].as_str().unwrap());
    assert_eq!(fetched, data.join(NAME));

    let own = folder.path().join("own.zip");
    fs::copy(&fetched, &own).unwrap();
    let mut command = fetch_command(&data, None);
    let run = command.args(["--json", "--keep", "jfif"]).arg(&own);
    let said = json(&run.assert().success().get_output().stdout);
    assert_eq!((&said["images"], &said["left_out"]), (&4.into(), &4.into()));
    assert_eq!(names(&data), [NAME, "archive.zip.headstart.toml"]);
    assert_eq!(index(&data, &own, 0)["images"], 4);

    let mut command = fetch_command(&data, None);
    let wrong = Digest::of(b"").to_string();
    let line = error_line(
        command
            .arg(&own)
            .args(["--sha256", &wrong])
            .assert()
            .code(1),
    );
    assert!(line.contains("has SHA-256"), "{line}");
    let text = folder.path().join("text.zip");
    fs::write(&text, "no archive").unwrap();
    let mut command = fetch_command(&data, None);
    let line = error_line(command.arg(&text).assert().code(1));
    assert!(line.contains("cannot be read as a zip file"), "{line}");
}

#[test]
fn a_plain_proxy_gets_whole_addresses() {
    let proxy = Server::start(|_| body("application/zip", archive()));
    let folder = tempfile::tempdir().unwrap();
    let mut command = fetch_command(folder.path(), None);
    let sha256 = Digest::of(&archive()).to_string();
    let url = "http://data.invalid:81/archive.zip";
    let run = command
        .env("HTTP_PROXY", proxy.url(""))
        .args([url, "--sha256", &sha256]);
    run.assert().success();
    assert_eq!(proxy.targets(), [url]);
}
