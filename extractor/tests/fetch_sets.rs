//! Fetching data sets: by name, by address and where they lie, and which of their images count.
//!
//! Servers on this machine and a small archive; nothing here needs a network.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::http::{Server, body, names};
use common::pets::{NAME, PATH, archive, conditions, remote};
use common::{extractor, json};
use extractor::digest::Digest;
use extractor::fetch::known::data_sets;
use extractor::fetch::set::{Fetched, Wanted, fetch};
use extractor::images::{Columns, DataSet, Keep, Selection};

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

    // Another server's file of this name is not passed off as this one.
    let mut command = fetch_command(&data, None);
    let line = error_line(command.arg(server.url(PATH)).assert().code(1));
    assert!(line.contains("nothing says that it is what"), "{line}");

    let own = folder.path().join("own.zip");
    fs::copy(&fetched, &own).unwrap();
    let mut command = fetch_command(&data, None);
    let run = command.args(["--json", "--keep", "jfif"]).arg(&own);
    let said = json(&run.assert().success().get_output().stdout);
    assert_eq!((&said["images"], &said["left_out"]), (&4.into(), &4.into()));
    assert_eq!(names(&data), [NAME, "archive.zip.headstart.toml"]);
    assert_eq!(index(&data, &own, 0)["images"], 4);
    // The rule stays until another one is named.
    for (flags, images) in [(&[][..], 4), (&["--keep-all"], 8), (&[], 8)] {
        let mut command = fetch_command(&data, None);
        let run = command.arg("--json").args(flags).arg(&own);
        let said = json(&run.assert().success().get_output().stdout);
        assert_eq!(said["images"], images);
    }

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
