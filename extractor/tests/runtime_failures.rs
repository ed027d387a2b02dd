//! Fetching ONNX Runtime when something is wrong: one clear line, and nothing left behind.
//!
//! Servers on this machine that misbehave, and the built binary's word on it.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::http::{
    Answer, FILE, JSON, PAGE, Seen, Server, WHEEL, body, index, json_page, message, misbehaving,
    names, options, pinned, redirect, run, stall, status, trickle, wheel, write,
};
use extractor::digest::Digest;
use extractor::runtime::{Event, FetchOptions, Pinned, RuntimeError};
use predicates::str::contains;

/// Fails against `server`; returns the line and checks that nothing is left.
fn failing(url: &str, change: impl FnOnce(&mut FetchOptions)) -> String {
    let data = tempfile::tempdir().unwrap();
    let url = format!("{url}/simple");
    let mut options = options(data.path(), &[("PIP_INDEX_URL", &url)]);
    change(&mut options);
    let said = message(&options);
    let left = names(&data.path().join("runtime"));
    assert!(left.is_empty(), "{left:?} after {said}");
    said
}

/// An index whose wheel is something else.
fn with_file(file: impl Fn() -> Answer + Send + 'static) -> Server {
    Server::start(move |seen: &Seen| match seen.target.as_str() {
        FILE => file(),
        _ => index(seen),
    })
}

#[test]
fn a_wrong_hash_is_never_accepted() {
    let server = with_file(|| {
        let mut wheel = wheel();
        wheel[50] ^= 1;
        body("application/octet-stream", wheel)
    });
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains("has SHA-256"), "{said}");
    assert!(said.contains(&Digest::of(&wheel()).to_string()), "{said}");
    assert_eq!(server.targets(), [PAGE, FILE], "not tried again");
}

#[test]
fn what_the_index_says_about_the_hash_does_not_count() {
    let other = b"other bytes".to_vec();
    let digest = Digest::of(&other);
    let server = Server::start(move |seen| match seen.target.as_str() {
        PAGE => body(
            JSON,
            format!(
                r#"{{"files":[{{"filename":"{WHEEL}","url":"{FILE}","size":11,
                    "hashes":{{"sha256":"{digest}"}}}}]}}"#
            ),
        ),
        _ => body("application/octet-stream", &other[..]),
    });
    let said = failing(&server.url(""), |options| {
        options.pinned.as_mut().unwrap().size_bytes = 11;
    });
    assert!(said.contains("has SHA-256"), "{said}");
}

#[test]
fn a_file_of_another_size_is_refused() {
    let server = with_file(|| {
        let mut wheel = wheel();
        wheel.extend_from_slice(&[0; 1 << 20]);
        body("application/octet-stream", wheel)
    });
    let said = failing(&server.url(""), |_| {});
    let size = wheel().len();
    let gave = format!("gave {} bytes of {size}", size + 1);
    assert!(said.contains(&gave), "{said}");
    assert_eq!(server.targets(), [PAGE, FILE], "not tried again");

    let server = with_file(|| body("text/html", "please log in"));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains("gave 13 bytes"), "{said}");
}

/// A server that gives half of the wheel the first `times` times.
fn breaking_off(times: usize) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let url = misbehaving(move |target, stream| {
        let (page, wheel) = (json_page(FILE), wheel());
        if target == PAGE {
            let page = page.into_reader().into_inner();
            return write(stream, JSON, page.len(), &page);
        }
        let half = count.fetch_add(1, Ordering::SeqCst) < times;
        let end = if half { wheel.len() / 2 } else { wheel.len() };
        write(stream, "application/zip", wheel.len(), &wheel[..end]);
    });
    (url, asked)
}

#[test]
fn a_transfer_that_breaks_off_is_tried_again() {
    let (url, asked) = breaking_off(1);
    let data = tempfile::tempdir().unwrap();
    let url = format!("{url}/simple");
    let (result, events) = run(&options(data.path(), &[("PIP_INDEX_URL", &url)]));
    result.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let is_retry = |event: &&Event| matches!(event, Event::Retry { .. });
    assert_eq!(events.iter().filter(is_retry).count(), 1, "{events:?}");
}

#[test]
fn a_transfer_that_always_breaks_off_ends_in_one_error() {
    let (url, asked) = breaking_off(usize::MAX);
    let said = failing(&url, |_| {});
    let size = wheel().len();
    let gave = format!("gave {} bytes of {size}", size / 2);
    assert!(said.contains(&gave), "{said}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn statuses_are_named_with_a_way_out() {
    let server = Server::start(|_| status(404));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains("status 404"), "{said}");
    assert!(said.contains("PIP_INDEX_URL"), "{said}");
    assert_eq!(server.targets(), [PAGE], "not tried again");

    let server = with_file(|| status(404));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains(&server.url(FILE)), "{said}");

    let server = with_file(|| status(503));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains("status 503"), "{said}");
    assert_eq!(server.targets(), [PAGE, FILE, PAGE, FILE], "tried again");
}

#[test]
fn pages_that_do_not_help_are_named() {
    let server = Server::start(|_| body(JSON, r#"{"files":[]}"#));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains(&format!("does not list {WHEEL}")), "{said}");

    let server = Server::start(|_| body(JSON, "<html>"));
    let said = failing(&server.url(""), |_| {});
    assert!(
        said.contains("is not the page of a package index"),
        "{said}"
    );

    // A server does not get us to read a local file.
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join(WHEEL);
    fs::write(&local, wheel()).unwrap();
    let link = format!("file://{}", local.display());
    let server = Server::start(move |_| json_page(&link));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains("does not list"), "{said}");
}

#[test]
fn redirects_to_nowhere_end() {
    let server = Server::start(|seen| redirect(&format!("{}x", seen.target)));
    let said = failing(&server.url(""), |_| {});
    assert!(said.contains("redirects more than 10 times"), "{said}");
    for location in [
        "ftp://user:secret@host/x?key=secret",
        "//user:secret@:/?secret",
    ] {
        let server = Server::start(move |_| redirect(location));
        let said = failing(&server.url(""), |_| {});
        assert!(said.contains("no address that can be followed"), "{said}");
    }
}

#[test]
fn servers_that_stall_are_given_up() {
    let page = || json_page(FILE).into_reader().into_inner();
    type Fault = Box<dyn FnMut(&str, &mut std::net::TcpStream) + Send>;
    let faults: [Fault; 4] = [
        Box::new(|_, stream| stall(stream)),
        Box::new(move |_, stream| {
            write(stream, JSON, page().len(), &page()[..9]);
            stall(stream);
        }),
        Box::new(move |target, stream| {
            if target == PAGE {
                return write(stream, JSON, page().len(), &page());
            }
            write(stream, "application/zip", wheel().len(), &wheel()[..99]);
            stall(stream);
        }),
        // Never silent for long, and never done.
        Box::new(|_, stream| {
            write(stream, "text/html", 1 << 30, b"<html>");
            trickle(stream);
        }),
    ];
    for fault in faults {
        let said = failing(&misbehaving(fault), |options| {
            options.stall_timeout = Duration::from_millis(300);
            options.retries = 0;
        });
        assert!(said.contains("for 0.3s"), "{said}");
        assert!(said.contains("PIP_TIMEOUT"), "{said}");
    }
}

#[test]
fn nobody_there_is_said_without_the_password() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let said = failing(&format!("http://me:secret@127.0.0.1:{port}"), |_| {});
    assert!(said.contains("cannot get http://me:****@"), "{said}");
}

#[test]
fn no_place_to_look_at_is_said() {
    let data = tempfile::tempdir().unwrap();
    let said = message(&options(data.path(), &[("PIP_NO_INDEX", "1")]));
    assert!(said.contains("says no-index"), "{said}");
}

#[test]
fn a_wheel_without_the_library_is_refused() {
    let server = Server::start(index);
    let said = failing(&server.url(""), |options| {
        options.pinned = Some(Pinned {
            members: &["fakeruntime/capi/libfake.so.1.2.3", "fakeruntime/absent.so"],
            ..pinned(&wheel())
        });
    });
    assert!(said.contains("has no fakeruntime/absent.so"), "{said}");
}

#[test]
fn a_broken_zip_is_refused() {
    let no_zip = || b"no zip".repeat(20);
    let damaged = || {
        // The uncompressed member, so that its checksum alone tells.
        let mut wheel = wheel();
        let at = wheel.windows(9).position(|window| window == b"beside it");
        wheel[at.unwrap()] ^= 1;
        wheel
    };
    let files: [fn() -> Vec<u8>; 2] = [no_zip, damaged];
    for file in files {
        let server = with_file(move || body("application/zip", file()));
        let said = failing(&server.url(""), |options| {
            options.pinned = Some(pinned(&file()));
        });
        assert!(said.contains("cannot be unpacked"), "{said}");
    }
}

#[test]
fn an_unwritable_destination_is_found_before_anything_is_asked() {
    let server = Server::start(index);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/runtime"), "").unwrap();
    for data in [file.join("data"), folder.path().join("data")] {
        let url = server.url("/simple");
        let options = options(&data, &[("PIP_INDEX_URL", &url)]);
        let said = message(&options);
        assert!(said.contains("cannot write"), "{said}");
        assert!(said.contains(data.to_str().unwrap()), "{said}");
        assert!(matches!(
            run(&options).0,
            Err(RuntimeError::Destination { .. })
        ));
    }
    assert!(server.seen().is_empty());
}

/// The built binary in an environment with nothing but `variables`.
fn binary(data: &Path, variables: &[(&str, &str)]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_extractor"));
    command
        .env_clear()
        .env("HEADSTART_DATA_DIR", data)
        .env("PIP_CONFIG_FILE", "/dev/null")
        .envs(variables.iter().copied())
        .arg("runtime");
    command
}

#[test]
fn the_binary_says_it_in_one_line() {
    let server = Server::start(|_| status(404));
    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple").replace("//", "//me:secret@");
    let variables = [("PIP_INDEX_URL", url.as_str())];
    for flags in [&["fetch"][..], &["fetch", "--quiet"]] {
        let assert = binary(data.path(), &variables).args(flags).assert();
        let output = assert.code(1).stdout("").get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(
            errors[0].contains("status 404 (hint: set PIP_INDEX_URL"),
            "{said}"
        );
        assert!(errors[0].contains("ORT_DYLIB_PATH"), "{said}");
        assert!(!said.contains("secret"), "{said}");
        if flags.contains(&"--quiet") {
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    let left = names(&data.path().join("runtime"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_binary_tells_the_state_of_an_empty_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    binary(&data, &[])
        .arg("info")
        .assert()
        .code(0)
        .stdout(contains("not fetched into"))
        .stdout(contains("loads      nothing:"))
        .stdout(contains("run extractor runtime fetch"));
    binary(&data, &[])
        .args(["info", "--json"])
        .assert()
        .code(0)
        .stdout(contains(r#""library":null"#));
    assert!(!data.exists(), "looking changes nothing");
}
