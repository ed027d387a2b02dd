//! `head-trainer serve`: the built binary with ONNX Runtime, over HTTP. What it says of an image is
//! what `predict` says.

mod common;
#[path = "serve/malformed.rs"]
mod malformed;
#[path = "serve/refused.rs"]
mod refused;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use common::server::{FORM, Server, form, head};
use common::tiny::{Tiny, baseline, with_engine};
use extractor::store::Dtype;
use serde_json::{Value, json};

/// What `predict` says of every picture, by path.
fn predicted(data: &Path, run: &Path, top: &str) -> BTreeMap<String, Value> {
    let mut command = with_engine(data);
    command.arg("predict").arg(run).arg(data.join("set"));
    command.args(["--json", "--top", top]);
    let output = command.assert().code(0).get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["path"].as_str().unwrap().to_owned(), line)
    });
    lines.collect()
}

/// Checks that the server says of every picture what `predict` says, asked in any way.
fn compare(data: &Path, run: &Path, args: &[&str]) {
    let server = Server::start(data, run, args);
    let expected = predicted(data, run, "2");
    let images: Vec<(String, Vec<u8>)> = expected
        .keys()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    thread::scope(|scope| {
        for worker in 0..8 {
            let (server, images, expected) = (&server, &images, &expected);
            scope.spawn(move || {
                let mut client = server.connect();
                for (path, bytes) in images.iter().cycle().skip(5 * worker).take(40) {
                    let kind = "Content-Type: image/png";
                    let reply = client.send("POST", "/predict?top=2", &[kind], bytes);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    let mut wanted = expected[path].clone();
                    wanted.as_object_mut().unwrap().remove("path");
                    assert_eq!(reply.json(), wanted, "{path}");
                }
            });
        }
    });
    let files = images
        .iter()
        .map(|(path, bytes)| (path.as_str(), &bytes[..]));
    let mut client = server.connect();
    let reply = client.send("POST", "/predict?top=2", &[FORM], &form(files));
    assert_eq!(reply.status, 200);
    let answers: Vec<&Value> = expected.values().collect();
    assert_eq!(reply.json()["answers"], json!(answers));
    assert_eq!(
        server.metric("headstart_images_total{outcome=\"predicted\"}"),
        (8 * 40 + images.len()) as f64
    );
}

#[test]
fn it_says_what_predict_says() {
    for (tiny, args, serve) in [
        (Tiny::default(), &["--temperature"][..], &[][..]),
        (
            Tiny {
                dtype: Dtype::F16,
                classes: &["a", "b", "c"],
                ..Tiny::default()
            },
            &["--solver", "lbfgs"],
            &["--batch-size", "3", "--batch-wait", "2", "--threads", "1"],
        ),
        (
            Tiny {
                batch: Some(4),
                ..Tiny::default()
            },
            &["--threshold", "youden"],
            &[],
        ),
    ] {
        let data = tempfile::tempdir().unwrap();
        let run = tiny.run(data.path(), args);
        compare(data.path(), &run, serve);
    }
}

#[test]
fn a_baseline_serves_too() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    Tiny::default().run(data, &[]);
    let run = baseline(data);
    compare(data, &run, &[]);
    let server = Server::start(data, &run, &[]);
    let about = server.get("/").json();
    assert_eq!(about["model"], "baseline");
    assert_eq!(about["backbone"], Value::Null);
    assert_eq!(about["input_size"], json!([32, 32]));
}

#[test]
fn a_real_backbone_says_the_same_in_any_batch() {
    let Some(test_data) = common::test_data() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    for class in ["Cat", "Dog"] {
        let folder = data.join("set").join(class);
        fs::create_dir_all(&folder).unwrap();
        for file in common::photos(&test_data, class, 20) {
            fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
    let backbone = test_data.join("models/mobilenetv2_100.onnx");
    let run = common::trained(data, &backbone);
    compare(data, &run, &["--batch-wait", "3"]);
}

#[test]
fn each_part_of_a_form_is_answered_on_its_own() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let server = Server::start(data, &run, &[]);
    let whole = fs::read(data.join("set/Cat/00.png")).unwrap();
    let half = &whole[..whole.len() / 2];
    let files = [
        ("whole", &whole[..]),
        ("half", half),
        ("none", b"no image"),
        ("", &whole),
        ("/etc/passwd", b""),
    ];
    let mut client = server.connect();
    let reply = client.send("POST", "/predict", &[FORM], &form(files));
    assert_eq!(reply.status, 200);
    let json = reply.json();
    let answers = json["answers"].as_array().unwrap();
    assert_eq!(answers.len(), files.len());
    let mut alone = server.predict(&whole).json();
    assert_eq!(answers[3], alone);
    alone["path"] = json!("whole");
    assert_eq!(answers[0], alone);
    let detail = |i: usize| {
        assert_eq!(answers[i]["path"], files[i].0);
        assert_eq!(answers[i]["error"]["status"], 422);
        answers[i]["error"]["detail"].as_str().unwrap()
    };
    assert!(detail(1).starts_with("broken image: "));
    assert_eq!(detail(2), "not a JPEG, PNG, GIF, BMP or WebP image");
    assert_eq!(detail(4), detail(2));
    // Nothing can be said of any.
    let reply = client.send("POST", "/predict", &[FORM], &form([files[1], files[2]]));
    assert_eq!(reply.status, 422);
    assert_eq!(reply.json()["answers"].as_array().unwrap().len(), 2);
    let rejected = "headstart_images_total{outcome=\"rejected\"}";
    assert_eq!(server.metric(rejected), 5.0);
}

#[test]
fn it_says_what_it_is_and_what_it_did() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let server = Server::start(data, &run, &[]);
    let about = server.get("/").json();
    assert_eq!(about["model"], "head");
    assert_eq!(about["classes"], json!(["Cat", "Dog"]));
    assert_eq!(about["backbone"]["name"], "tiny");
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server.get("/healthz").json(), json!({"status": "ok"}));
    assert_eq!(server.get("/readyz").json(), json!({"status": "ready"}));

    let image = fs::read(data.join("set/Cat/00.png")).unwrap();
    assert_eq!(server.predict(&image).status, 200);
    server.predict(b"text").problem(422);
    let metrics = server.get("/metrics");
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(kind));
    let text = metrics.text();
    let run = about["run"].as_str().unwrap();
    for line in [
        &format!("headstart_info{{version=\"0.1.0\",run=\"{run}\"}} 1"),
        "headstart_requests_total{route=\"/\",code=\"200\"} 1",
        "headstart_requests_total{route=\"/predict\",code=\"200\"} 1",
        "headstart_requests_total{route=\"/predict\",code=\"422\"} 1",
        "headstart_images_total{outcome=\"predicted\"} 1",
        "headstart_images_total{outcome=\"rejected\"} 1",
        "headstart_images_total{outcome=\"failed\"} 0",
        "headstart_queue_images 0",
        "headstart_requests_in_flight 1", // this one
        "headstart_request_duration_seconds_count 2",
        "headstart_batch_images_bucket{le=\"1\"} 1",
        "headstart_batch_images_sum 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn the_openapi_document_says_which_methods_there_are() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let server = Server::start(data, &run, &[]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 6);
    let mut client = server.connect();
    for (path, methods) in paths {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let reply = client.send(method, path, &[], b"");
            let listed = methods.get(method.to_lowercase()).is_some();
            assert_eq!(reply.status != 405, listed, "{method} {path}");
            let code = reply.status.to_string();
            if listed {
                let responses = &methods[method.to_lowercase()]["responses"];
                assert!(responses.get(&code).is_some(), "{method} {path}: {code}");
            } else {
                let allowed = reply.header("allow").unwrap().split(',');
                let mut allowed: Vec<String> = allowed.map(str::to_lowercase).collect();
                allowed.retain(|method| method != "head");
                let listed: Vec<&String> = methods.as_object().unwrap().keys().collect();
                assert_eq!(allowed.iter().collect::<Vec<_>>(), listed);
            }
        }
    }
}

#[test]
fn a_signal_lets_it_answer_what_is_asked_and_end() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(data, &run, &[]);
        let image = fs::read(data.join("set/Dog/01.png")).unwrap();
        let expected = server.predict(&image).json();
        let (mut late, mut silent) = (server.connect(), server.connect());
        late.write(b"GET /readyz HTTP").unwrap();
        let (mut asking, mut idle) = (server.connect(), server.connect());
        assert_eq!(idle.send("GET", "/healthz", &[], b"").status, 200);
        let head = head("POST", "/predict", &[], image.len());
        asking.write(head.as_bytes()).unwrap();
        asking.write(&image[..9]).unwrap();
        server.wait_for("headstart_requests_in_flight", 2.0);
        server.wait_for("headstart_connections", 5.0);
        server.signal(signal);
        while server.accepts() {
            thread::yield_now();
        }
        assert_eq!(idle.rest(), b"");
        assert_eq!(silent.rest(), b"");
        late.write(b"/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let reply = late.reply().unwrap();
        assert_eq!(reply.problem(503), "this server is about to end");
        assert_eq!(late.rest(), b"");
        asking.write(&image[9..]).unwrap();
        let reply = asking.reply().unwrap();
        assert_eq!(reply.json(), expected);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let mut server = Server::start(data, &run, &[]);
    let mut asking = server.connect();
    asking
        .write(head("POST", "/predict", &[], 9).as_bytes())
        .unwrap();
    server.wait_for("headstart_requests_in_flight", 2.0);
    server.signal("TERM");
    while server.ended().is_none() {
        thread::sleep(std::time::Duration::from_millis(100));
        server.signal("TERM");
    }
    assert_eq!(server.wait().code(), Some(143));
}
