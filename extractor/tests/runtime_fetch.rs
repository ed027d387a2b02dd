//! Fetching ONNX Runtime from where pip's configuration says: what works.
//!
//! A small fake wheel from servers on this machine; nothing here needs a network. The failures
//! are in `runtime_failures.rs`.

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::http::{
    FILE, FOLDER, JSON, PAGE, Seen, Server, WHEEL, body, index, json_page, library, message, names,
    options, redirect, run, status, wheel,
};
use extractor::runtime::locate::locate_with;
use extractor::runtime::{Event, Flavour, Source};

#[test]
fn the_wheel_is_fetched_once() {
    let server = Server::start(index);
    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple");
    let options = options(&data.path().join("new/data"), &[("PIP_INDEX_URL", &url)]);
    let (result, events) = run(&options);
    let path = result.unwrap();
    let runtime = options.data_dir.join("runtime");
    assert_eq!(path, runtime.join(FOLDER).join("libfake.so.1.2.3"));
    assert_eq!(fs::read(&path).unwrap(), library());
    assert_eq!(names(&runtime), [FOLDER], "nothing else is left");
    let inside = ["installed.json", "libcompanion.so", "libfake.so.1.2.3"];
    assert_eq!(names(&runtime.join(FOLDER)), inside);
    assert_eq!(server.targets(), [PAGE, FILE]);
    assert!(server.seen()[0].headers["accept"].starts_with(JSON));

    let size = wheel().len() as u64;
    assert!(
        matches!(&events[0], Event::Announce { size_bytes, destination, .. }
            if *size_bytes == size && *destination == runtime.join(FOLDER)),
        "{events:?}"
    );
    let from = server.url(FILE);
    assert_eq!(events[1], Event::Downloading { from });
    let all = Event::Progress {
        done_bytes: size,
        total_bytes: size,
    };
    assert!(events.contains(&all), "{events:?}");
    assert_eq!(
        events.last(),
        Some(&Event::Installed { path: path.clone() })
    );

    let (result, events) = run(&options);
    assert_eq!(result.unwrap(), path);
    let there = Event::AlreadyInstalled { path: path.clone() };
    assert_eq!(events, [there]);
    assert_eq!(server.targets().len(), 2, "nothing more was asked");

    let located = locate_with(
        &options.environment,
        &options.data_dir,
        Flavour::Cpu,
        || Ok(options.pinned.clone().unwrap()),
    );
    assert_eq!(located.unwrap().source, Source::Fetched);
}

#[test]
fn a_damaged_installation_is_replaced() {
    let server = Server::start(index);
    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple");
    let options = options(data.path(), &[("PIP_INDEX_URL", &url)]);
    let path = run(&options).0.unwrap();
    let folder = path.parent().unwrap();
    type Damage<'a> = &'a dyn Fn();
    let damages: [Damage; 4] = [
        &|| fs::write(&path, "short").unwrap(),
        &|| fs::remove_file(folder.join("libcompanion.so")).unwrap(),
        &|| fs::write(folder.join("installed.json"), "{").unwrap(),
        &|| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "a file").unwrap();
        },
    ];
    for damage in damages {
        damage();
        assert_eq!(run(&options).0.unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), library());
        assert_eq!(names(&data.path().join("runtime")), [FOLDER]);
    }
    assert_eq!(server.targets().len(), 2 * 5);
}

#[test]
fn two_at_a_time_fetch_once() {
    let server = Server::start(index);
    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple");
    let options = options(data.path(), &[("PIP_INDEX_URL", &url)]);
    let paths: HashSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| run(&options).0)).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.map(Result::unwrap).collect()
    });
    assert_eq!(paths.len(), 1);
    assert_eq!(server.targets(), [PAGE, FILE]);
    assert_eq!(names(&data.path().join("runtime")), [FOLDER]);
}

#[test]
fn leftovers_of_an_interrupted_attempt_do_no_harm() {
    let server = Server::start(index);
    let data = tempfile::tempdir().unwrap();
    let runtime = data.path().join("runtime");
    let left = runtime.join(format!(".partial-{FOLDER}-abc123"));
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("wheel"), &wheel()[..100]).unwrap();
    fs::create_dir(runtime.join(FOLDER)).unwrap();
    fs::create_dir(runtime.join("another-runtime")).unwrap();
    let url = server.url("/simple");
    run(&options(data.path(), &[("PIP_INDEX_URL", &url)]))
        .0
        .unwrap();
    assert_eq!(names(&runtime), ["another-runtime", FOLDER]);
}

#[test]
fn pages_in_either_form_with_any_kind_of_link() {
    let html = |href: &str| format!("<!DOCTYPE html><a href=\"{href}#sha256=0\">{WHEEL}</a>");
    let json = |url: &str| format!(r#"{{"files":[{{"filename":"{WHEEL}","url":"{url}"}}]}}"#);
    let relative = format!("../..{FILE}");
    for (media_type, page) in [
        (JSON, json(FILE)),
        (JSON, json(&relative)),
        (
            JSON,
            json("http://HOST/files/WHEEL").replace("WHEEL", WHEEL),
        ),
        ("application/vnd.pypi.simple.v1+html", html(&relative)),
        ("text/html; charset=utf-8", html(FILE)),
        ("text/html", html(&format!("//HOST{FILE}"))),
        ("text/plain", json(FILE)),
    ] {
        let answered = page.clone();
        let server = Server::start(move |seen| match seen.target.as_str() {
            PAGE => {
                let page = answered.replace("HOST", &seen.headers["host"]);
                body(media_type, page)
            }
            _ => index(seen),
        });
        let data = tempfile::tempdir().unwrap();
        let url = server.url("/simple/");
        let (result, _) = run(&options(data.path(), &[("PIP_INDEX_URL", &url)]));
        assert!(result.is_ok(), "{media_type} {page}: {result:?}");
        assert_eq!(server.targets(), [PAGE, FILE]);
    }
}

#[test]
fn redirects_are_followed_and_links_start_from_their_end() {
    let files = Server::start(|seen| match seen.target.as_str() {
        "/deep/down/page" => json_page("../wheel?signature=s"),
        "/deep/wheel?signature=s" => redirect(FILE),
        _ => index(seen),
    });
    let page = files.url("/deep/down/page");
    let server = Server::start(move |_| redirect(&page));
    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple");
    run(&options(data.path(), &[("PIP_INDEX_URL", &url)]))
        .0
        .unwrap();
    assert_eq!(server.targets(), [PAGE]);
    let targets = ["/deep/down/page", "/deep/wheel?signature=s", FILE];
    assert_eq!(files.targets(), targets);
}

#[test]
fn passwords_go_to_their_own_server_only() {
    let elsewhere = Server::start(index);
    let there = elsewhere.url(FILE);
    let server = Server::start(move |seen| {
        // user:se@cret
        match seen.headers.get("authorization").map(String::as_str) {
            Some("Basic dXNlcjpzZUBjcmV0") if seen.target == FILE => redirect(&there),
            Some("Basic dXNlcjpzZUBjcmV0") => json_page(FILE),
            _ => status(401),
        }
    });
    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple").replace("//", "//user:se%40cret@");
    let (result, events) = run(&options(data.path(), &[("PIP_INDEX_URL", &url)]));
    result.unwrap();
    assert_eq!(server.targets(), [PAGE, FILE]);
    assert_eq!(elsewhere.targets(), [FILE]);
    assert!(!elsewhere.seen()[0].headers.contains_key("authorization"));
    let said: Vec<String> = events.iter().map(Event::to_string).collect();
    assert!(!said.join(" ").contains("cret"), "{said:?}");

    let data = tempfile::tempdir().unwrap();
    let url = server.url("/simple").replace("//", "//user:secret@");
    let said = message(&options(data.path(), &[("PIP_INDEX_URL", &url)]));
    assert!(said.contains("status 401"), "{said}");
    assert!(said.contains("user:****@"), "{said}");
}

#[test]
fn pips_configuration_names_the_places() {
    let first = Server::start(|_| status(404));
    let second = Server::start(index);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pip.conf");
    let text = format!(
        "[global]\nindex-url = {}\nextra-index-url =\n    {}\n",
        first.url("/simple"),
        second.url("/simple")
    );
    fs::write(&file, text).unwrap();
    let variables = [("PIP_CONFIG_FILE", file.to_str().unwrap())];
    let (result, events) = run(&options(&folder.path().join("1"), &variables));
    result.unwrap();
    assert_eq!(first.targets(), [PAGE]);
    assert_eq!(second.targets(), [PAGE, FILE]);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::NextSource { .. })),
        "{events:?}"
    );

    // A variable beats the file.
    let url = second.url("/simple");
    let variables = [variables[0], ("PIP_INDEX_URL", &url)];
    run(&options(&folder.path().join("2"), &variables))
        .0
        .unwrap();
    assert_eq!(first.targets().len(), 1);
}

#[test]
fn an_index_on_localhost_is_asked_by_name() {
    let server = Server::start(index);
    let data = tempfile::tempdir().unwrap();
    let url = format!("http://localhost:{}/simple", server.port());
    run(&options(data.path(), &[("PIP_INDEX_URL", &url)]))
        .0
        .unwrap();
    assert_eq!(server.targets(), [PAGE, FILE]);
}

#[test]
fn the_proxy_gets_whole_addresses() {
    let proxy = Server::start(|seen| match seen.target.split_once(".invalid:81") {
        Some((_, path)) => index(&Seen {
            target: path.to_owned(),
            ..seen.clone()
        }),
        None => status(400),
    });
    let data = tempfile::tempdir().unwrap();
    let through = proxy.url("").replace("//", "//me:secret@");
    let variables = [
        ("PIP_INDEX_URL", "http://packages.invalid:81/simple"),
        ("HTTP_PROXY", &through),
    ];
    run(&options(data.path(), &variables)).0.unwrap();
    let start = "http://packages.invalid:81";
    let targets = [PAGE, FILE].map(|path| format!("{start}{path}"));
    assert_eq!(proxy.targets(), targets);
    for seen in proxy.seen() {
        assert_eq!(seen.method, "GET");
        assert_eq!(seen.headers["host"], "packages.invalid:81");
        // me:secret
        assert_eq!(seen.headers["proxy-authorization"], "Basic bWU6c2VjcmV0");
        assert!(!seen.headers.contains_key("authorization"));
    }

    // pip's own setting, a file that is not there, and no password in what is said.
    let variables = [
        ("PIP_INDEX_URL", "http://packages.invalid/simple"),
        ("PIP_PROXY", &through),
    ];
    let data = tempfile::tempdir().unwrap();
    let said = message(&options(data.path(), &variables));
    assert!(said.contains("status 400"), "{said}");
}

#[test]
fn https_asks_the_proxy_for_a_tunnel() {
    let proxy = Server::start(|_| status(403));
    let through = proxy.url("").replace("//", "//me:secret@");
    let variables = [
        ("PIP_INDEX_URL", "https://packages.invalid/simple"),
        ("https_proxy", &through),
    ];
    let data = tempfile::tempdir().unwrap();
    let said = message(&options(data.path(), &variables));
    assert!(said.contains("https://packages.invalid/simple"), "{said}");
    let seen = &proxy.seen()[0];
    let asked = (seen.method.as_str(), seen.target.as_str());
    assert_eq!(asked, ("CONNECT", "packages.invalid:443"));
}

#[test]
fn exempt_hosts_are_asked_past_the_proxy() {
    let (proxy, server) = (Server::start(|_| status(500)), Server::start(index));
    let (url, through) = (server.url("/simple"), proxy.url(""));
    let variables = [
        ("PIP_INDEX_URL", url.as_str()),
        ("HTTP_PROXY", &through),
        ("NO_PROXY", "elsewhere,127.0.0.1"),
    ];
    let data = tempfile::tempdir().unwrap();
    run(&options(data.path(), &variables)).0.unwrap();
    assert_eq!(server.targets(), [PAGE, FILE]);
    assert!(proxy.seen().is_empty());
}

#[test]
fn a_folder_of_wheels_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (data, wheels) = (folder.path().join("data"), folder.path().join("wheels"));
    fs::create_dir(&wheels).unwrap();
    fs::write(wheels.join(WHEEL), wheel()).unwrap();
    let missing = folder.path().join("missing");
    let links = format!("{} {}", missing.display(), wheels.display());
    let variables = [("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", &links)];
    let path = run(&options(&data, &variables)).0.unwrap();
    assert_eq!(fs::read(path).unwrap(), library());
    assert_eq!(names(&wheels), [WHEEL], "the wheel stays");
}

#[test]
fn after_a_damaged_and_write_protected_local_wheel_the_index_is_asked() {
    let server = Server::start(index);
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join(WHEEL);
    let mut damaged = wheel();
    damaged[50] ^= 1;
    fs::write(&local, damaged).unwrap();
    fs::set_permissions(&local, fs::Permissions::from_mode(0o444)).unwrap();
    let (url, links) = (server.url("/simple"), folder.path().to_str().unwrap());
    let variables = [("PIP_INDEX_URL", url.as_str()), ("PIP_FIND_LINKS", links)];
    let path = run(&options(&folder.path().join("data"), &variables))
        .0
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), library());
    assert_eq!(server.targets(), [PAGE, FILE]);
}

#[test]
fn a_library_of_the_users_own_ends_it() {
    let server = Server::start(index);
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("libown.so");
    fs::write(&own, "own").unwrap();
    let data = folder.path().join("data");
    let url = server.url("/simple");
    let variables = [
        ("PIP_INDEX_URL", url.as_str()),
        ("ORT_DYLIB_PATH", own.to_str().unwrap()),
    ];
    let (result, events) = run(&options(&data, &variables));
    assert_eq!(result.unwrap(), own);
    assert_eq!(events, [Event::Overridden { path: own.clone() }]);

    let gone = folder.path().join("gone.so");
    let variables = [variables[0], ("ORT_DYLIB_PATH", gone.to_str().unwrap())];
    let said = message(&options(&data, &variables));
    assert!(said.contains("ORT_DYLIB_PATH names "), "{said}");
    assert!(said.contains("gone.so"), "{said}");
    assert!(server.seen().is_empty() && !data.exists());
}
