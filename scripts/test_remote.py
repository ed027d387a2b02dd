#!/usr/bin/env python3
"""Runs the built binaries against a real S3 server (moto) on loopback: stores, images and indexes in a bucket, and a
server that fails, stalls, cuts answers off, loses them and restarts.

Needs target/release/extractor and head-trainer (make build) and ONNX Runtime (make runtime). The first run makes
.venv/remote. `HEADSTART_BIN` names another folder of binaries, `HEADSTART_REMOTE_VENV` another environment folder.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import moto_server
from faulty_proxy import CUT, DROP, ERROR, PASS, REFUSE, STALL, Proxy
from moto_server import PYTHON, REQUIREMENTS, VENV
from test_read_store import ROOT, make_environment

BIN = Path(os.environ.get("HEADSTART_BIN", ROOT / "target" / "release"))
EXTRACTOR, HEAD_TRAINER = BIN / "extractor", BIN / "head-trainer"
BUCKET = "pets"
PER_CLASS = 40
ROWS = 2 * PER_CLASS


def rows(folder):
    """Every row of a store: shape and digest of its features by id and view. A row that is there twice is an error."""
    import compare_stores  # which needs the environment

    found, twice = compare_stores.rows(folder)
    assert not twice, f"{twice} rows are there twice"
    return found


def object_gets(requests):
    return [path for method, path in requests if method == "GET" and "list-type" not in path]


class Remote(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = Path(holder.name)
        server = moto_server.Server()
        cls.addClassCleanup(server.stop)
        cls.proxy = Proxy(server.port).start()
        cls.addClassCleanup(cls.proxy.stop)
        import boto3

        cls.s3 = boto3.client(
            "s3", endpoint_url=server.url, region_name="us-east-1", aws_access_key_id="key",
            aws_secret_access_key="secret")
        cls.s3.create_bucket(Bucket=BUCKET)
        cls.images, cls.model = cls.folder / "PetImages", cls.folder / "model.onnx"
        cls.extractor("sample", cls.images, "--per-class", PER_CLASS)
        cls.extractor("backbone", "seed", "--size", "64", "--out", cls.model)
        cls.local = cls.features(cls.images, cls.folder / "features", cls.folder / "local")
        cls.expected = rows(cls.local["store"])
        assert len(cls.expected) == ROWS

    def setUp(self):
        self.proxy.reset()
        self.data = Path(tempfile.mkdtemp(dir=self.folder))
        self.store = f"s3://{BUCKET}/{self.data.name}/features"

    @classmethod
    def environment(cls, **more):
        env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        env.update(
            moto_server.KEYS, AWS_ENDPOINT_URL=cls.proxy.url, AWS_ALLOW_HTTP="true", NO_PROXY="127.0.0.1",
            HEADSTART_REMOTE_TIMEOUT_SECS="2", HEADSTART_REMOTE_RETRY_SECS="120")
        env.update(more)
        return env

    @classmethod
    def start(cls, *command, data=None, **env):
        command = [str(part) for part in command] + ["--json"]
        command += ["--data-dir", str(data or cls.folder / "local")]
        # The engine's library does not belong to a data folder of a test.
        runtime = ROOT / "data" / "runtime"
        if data and runtime.exists() and not (data / "runtime").exists():
            try:
                (data / "runtime").symlink_to(runtime.resolve())
            except FileExistsError:
                pass
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=cls.environment(**env))

    @classmethod
    def end(cls, process, code=0):
        out, err = process.communicate()
        if process.returncode != code:
            raise AssertionError(f"{process.args} exited {process.returncode}, not {code}: {err}")
        cls.stderr = err
        return json.loads(out) if out and code in (0, 3, 4, 5) else None

    @classmethod
    def extractor(cls, *args, code=0, **more):
        return cls.end(cls.start(EXTRACTOR, *args, **more), code)

    @classmethod
    def features_command(cls, images, store, *more):
        return [EXTRACTOR, "features", images, "--backbone", cls.model, "--store", store, "--batch-size", "8", "--ep",
                "cpu", *more]

    @classmethod
    def features(cls, images, store, data, *more, code=0, **env):
        data.mkdir(exist_ok=True)
        return cls.end(cls.start(*cls.features_command(images, store, *more), data=data, **env), code)

    def train(self, store, data, index=None, **env):
        index = index or self.local["index"]
        run = self.end(self.start(
            HEAD_TRAINER, "train", self.images, "--index", index, "--store", store, "--solver", "lbfgs", data=data,
            **env))
        record = json.loads((Path(run["run"]) / "run.json").read_text())
        return (Path(run["run"]) / "head.safetensors").read_bytes(), record["digest"]

    def objects(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def downloaded(self, url):
        """The rows of the store at `url`, read by another client."""
        prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
        folder = Path(tempfile.mkdtemp(dir=self.data))
        for key in self.objects(prefix):
            self.s3.download_file(BUCKET, key, str(folder / key.removeprefix(prefix)))
        return rows(folder)

    def parts(self):
        """The images in two folders, each class in both."""
        for part in [0, 1]:
            for number, image in enumerate(sorted(self.images.glob("*/*.jpg"))):
                if number % 2 == part:
                    target = self.data / f"part-{part}" / image.relative_to(self.images)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(image, target)
        return [self.data / "part-0", self.data / "part-1"]

    def outbox(self, data):
        return [path for path in data.glob("cache/*/outbox/*/*") if path.name != "store.json"]

    def test_two_parts_at_once_are_one_store(self):
        processes = [self.start(*self.features_command(part, self.store), data=self.data) for part in self.parts()]
        store = [self.end(process) for process in processes][0]["store"]
        self.assertTrue(store.startswith(self.store), store)
        self.assertEqual(self.outbox(self.data), [])
        self.assertEqual(self.downloaded(store), self.expected)
        inspection = self.extractor("store", "inspect", self.store, "--index", self.local["index"], data=self.data)
        self.assertEqual((inspection["rows"], inspection["duplicate_rows"]), (ROWS, 0))
        self.assertEqual(inspection["index"]["missing_rows"], 0)
        size = inspection["total"]["bytes"]

        # Elsewhere, everything is found there, and next to nothing is read.
        elsewhere = self.data / "elsewhere"
        self.proxy.reset()
        cached = self.features(self.images, self.store, elsewhere)
        self.assertEqual(cached["rows"], {"cached": ROWS, "new": 0})
        print(f"outlines of a store of {size} bytes: {self.proxy.body_bytes} bytes read", file=sys.stderr)
        self.assertLess(self.proxy.body_bytes, size // 20)
        self.proxy.reset()
        self.features(self.images, self.store, elsewhere)
        self.assertEqual(len(object_gets(self.proxy.requests)), 1, "store.json alone")

        # A head learns the same from there as from the folder.
        expected = self.train(self.local["store"], self.folder / "local")
        self.assertEqual(self.train(self.store, elsewhere), expected)
        self.proxy.reset()
        self.assertEqual(self.train(store, elsewhere), expected)
        self.assertLess(self.proxy.body_bytes, 10_000, "shards are brought in once")
        verified = self.extractor("store", "verify", self.store, data=elsewhere)
        self.assertEqual((verified["rows"], verified["damaged"]), (ROWS, []))
        self.proxy.stop()
        try:
            self.assertEqual(self.train(store, elsewhere, HEADSTART_REMOTE_RETRY_SECS="1"), expected)
            self.assertIn("going on with what was brought in before", self.stderr)
        finally:
            self.proxy.start()

    def test_a_server_that_fails_in_every_way_loses_and_doubles_nothing(self):
        def plan(method, path, number):
            if number % 3 == 1:
                return ERROR
            if number % 11 == 5:
                return STALL
            if method == "PUT" and number % 2:
                return DROP
            if method == "GET" and number % 4 == 2:
                return CUT
            return PASS

        self.proxy.reset(plan)
        restarts = []

        def restart():
            while len(self.objects(self.data.name)) < 4:
                time.sleep(0.02)
            self.proxy.stop()
            time.sleep(1.5)
            self.proxy.start()
            restarts.append(True)

        restarter = threading.Thread(target=restart)
        restarter.start()
        result = self.features(self.images, self.store, self.data, "--shard-bytes", "300000")
        restarter.join()
        self.assertEqual((result["rows"]["new"], restarts), (ROWS, [True]))
        self.assertEqual(self.downloaded(result["store"]), self.expected)
        elsewhere = self.data / "elsewhere"
        again = self.features(self.images, self.store, elsewhere)
        self.assertEqual(again["rows"], {"cached": ROWS, "new": 0})
        trained = self.train(self.store, elsewhere)
        self.assertEqual(trained, self.train(self.local["store"], self.folder / "local"))
        self.assertEqual({fate for fate, *_ in self.proxy.failed}, {ERROR, STALL, DROP, CUT})
        print(f"{len(self.proxy.failed)} of {len(self.proxy.requests)} requests failed", file=sys.stderr)

    def test_what_cannot_be_uploaded_is_kept_and_uploaded_first(self):
        state = {"puts": 0}

        def plan(method, path, number):
            if method == "PUT" and "shard-" in path:
                state["puts"] += 1
            return ERROR if state["puts"] > 2 else PASS

        self.proxy.reset(plan)
        self.features(self.images, self.store, self.data, "--shard-bytes", "300000", code=75,
                      HEADSTART_REMOTE_RETRY_SECS="1")
        self.assertIn("run the same command again", self.stderr)
        kept = [path.name for path in self.outbox(self.data)]
        self.assertGreater(len(kept), 0)
        self.proxy.reset()
        result = self.features(self.images, self.store, self.data)
        self.assertEqual(self.outbox(self.data), [])
        self.assertGreater(result["rows"]["cached"], 0)
        there = {Path(key).name for key in self.objects(self.data.name)}
        self.assertLessEqual(set(kept), there)
        self.assertEqual(self.downloaded(result["store"]), self.expected)

    def test_a_killed_run_is_gone_on_with(self):
        self.proxy.reset(lambda method, path, number: STALL if method == "PUT" and "shard-" in path else PASS)
        command = self.features_command(self.images, self.store, "--shard-bytes", "300000")
        process = self.start(*command, data=self.data)
        while not any(path.name.startswith("shard-") for path in self.outbox(self.data)):
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.proxy.reset()
        result = self.features(self.images, self.store, self.data)
        self.assertEqual(self.downloaded(result["store"]), self.expected)

    def test_nobody_listens(self):
        self.proxy.stop()
        try:
            self.features(self.images, self.store, self.data, code=75, HEADSTART_REMOTE_RETRY_SECS="1")
            self.assertIn("cannot list s3://", self.stderr)
        finally:
            self.proxy.start()

    def test_what_is_wrong_is_said(self):
        self.features(self.images, "s3://nobody/features", self.data, code=1)
        self.assertIn("there is no s3://nobody/features", self.stderr)
        self.proxy.reset(lambda *_: REFUSE)
        self.features(self.images, self.store, self.data, code=1)
        self.assertIn("AWS_ACCESS_KEY_ID", self.stderr)
        self.features(self.images, "s5://bucket/features", self.data, code=1)
        self.assertIn("s3://BUCKET/KEY", self.stderr)
        self.proxy.reset()
        self.end(self.start(HEAD_TRAINER, "train", "--index", self.local["index"], "--store", self.store,
                            data=self.data), code=1)
        self.assertIn("no feature store in s3://", self.stderr)
        self.extractor("store", "compact", self.store, code=1, data=self.data)
        self.assertIn("not rewritten in place", self.stderr)

    def upload_images(self):
        for image in self.images.glob("*/*.jpg"):
            key = f"{self.data.name}/PetImages/{image.relative_to(self.images)}"
            self.s3.upload_file(str(image), BUCKET, key)
        for name in ["Cat/.hidden.jpg", "readme.txt"]:
            self.s3.put_object(Bucket=BUCKET, Key=f"{self.data.name}/PetImages/{name}", Body=b"text")
        return f"s3://{BUCKET}/{self.data.name}/PetImages"

    def test_images_are_read_from_there(self):
        url = self.upload_images()
        time.sleep(3)  # what was just written may be written again within its time stamp
        features = self.features(url, self.data / "features", self.data)
        self.assertEqual(features["index_digest"], self.local["index_digest"])
        self.assertEqual(rows(features["store"]), self.expected)
        self.proxy.reset()
        again = self.features(url, self.data / "features", self.data)
        self.assertEqual(again["rows"], {"cached": ROWS, "new": 0})
        names = [Path(path).name for path in object_gets(self.proxy.requests)]
        self.assertEqual(names, ["readme.txt"], "of what is no image nothing is remembered")
        self.proxy.reset()
        # One image is another one now.
        first, second = sorted(self.images.glob("*/*.jpg"))[:2]
        key = f"{self.data.name}/PetImages/{first.relative_to(self.images)}"
        self.s3.upload_file(str(second), BUCKET, key)
        self.extractor("index", url, data=self.data)
        self.assertEqual(len(object_gets(self.proxy.requests)), 2, "the image and readme.txt")

    def test_parts_with_everything_there(self):
        """Two machines with nothing of their own: each reads its part of the images once, as the index says."""
        images = self.upload_images()
        index = f"{images}.arrow"
        self.extractor("index", images, "--index", index, data=self.data)
        self.proxy.reset()
        machines = [self.data / "one", self.data / "two"]
        for machine in machines:
            machine.mkdir()
        command = self.features_command(images, self.store, "--index", index)
        processes = [
            self.start(*command, data=machine, HEADSTART_SHARDS="2", JOB_COMPLETION_INDEX=str(number))
            for number, machine in enumerate(machines)
        ]
        done = [self.end(process) for process in processes]
        self.assertEqual([one["part"] for one in done], [{"number": 0, "of": 2}, {"number": 1, "of": 2}])
        self.assertEqual(sum(one["rows"]["new"] for one in done), ROWS)
        read = [path for path in object_gets(self.proxy.requests) if path.endswith(".jpg")]
        self.assertEqual((len(read), len(set(read))), (ROWS, ROWS))
        self.assertEqual(self.downloaded(done[0]["store"]), self.expected)
        # Without an index, too.
        self.proxy.reset()
        store = f"{self.store}-2"
        command = self.features_command(images, store, "--index", f"{images}-2.arrow")
        for number, machine in enumerate(machines):
            features = self.end(self.start(*command, "--shard", f"{number}/2", data=machine))
            self.assertIn(f"part-{number}-of-2", features["index"])
        self.assertEqual(self.downloaded(features["store"]), self.expected)

    def test_images_of_a_server_that_fails(self):
        url = self.upload_images()
        self.proxy.reset(lambda method, path, number: [ERROR, PASS, CUT, PASS, PASS, PASS, PASS][number % 7])
        features = self.features(url, self.data / "features", self.data)
        self.assertEqual(rows(features["store"]), self.expected)
        # One that fails for good skips no image: there is nothing to be said of them.
        shutil.rmtree(self.data / "features")
        gets = {"images": 0}

        def plan(method, path, number):
            gets["images"] += ".jpg" in path
            return ERROR if gets["images"] > ROWS + 20 else PASS

        self.proxy.reset(plan)
        self.extractor("index", url, data=self.data)
        self.features(url, self.data / "features", self.data, "--rehash", code=75, HEADSTART_REMOTE_RETRY_SECS="1")
        self.proxy.reset()
        features = self.features(url, self.data / "features", self.data)
        self.assertEqual(features["counts"]["rejected"], 0)
        self.assertEqual(rows(features["store"]), self.expected)

    def test_archives_and_parquet_are_brought_in(self):
        archive = shutil.make_archive(str(self.data / "pets"), "zip", self.images)
        self.s3.upload_file(archive, BUCKET, f"{self.data.name}/pets.zip")
        url = f"s3://{BUCKET}/{self.data.name}/pets.zip"
        index = self.extractor("index", url, data=self.data)
        self.assertEqual(index["digest"], self.local["index_digest"])
        self.proxy.reset()
        self.assertEqual(self.extractor("index", url, data=self.data)["digest"], index["digest"])
        self.assertEqual(object_gets(self.proxy.requests), [])
        self.s3.put_object(Bucket=BUCKET, Key=f"{self.data.name}/list.csv", Body=b"path,label\nCat/1.jpg,Cat\n")
        self.extractor("index", f"s3://{BUCKET}/{self.data.name}/list.csv", code=1, data=self.data)
        self.assertIn("not read from an object store", self.stderr)

    def test_an_index_lies_there(self):
        url = f"s3://{BUCKET}/{self.data.name}/pets.arrow"
        index = self.extractor("index", self.images, "--index", url, data=self.data)
        self.assertEqual((index["index"], index["digest"]), (url, self.local["index_digest"]))
        keys = {Path(key).name for key in self.objects(self.data.name)}
        self.assertIn("pets.arrow", keys)
        elsewhere = self.data / "elsewhere"
        elsewhere.mkdir()
        inspection = self.extractor("store", "inspect", self.local["store"], "--index", url, data=elsewhere)
        self.assertEqual(inspection["index"]["done"], ROWS)
        expected = self.train(self.local["store"], self.folder / "local")
        self.assertEqual(self.train(self.local["store"], elsewhere, url), expected)
        again = self.features(self.images, self.store, elsewhere, "--index", url)
        self.assertEqual(again["index"], url)
        missing = f"s3://{BUCKET}/{self.data.name}/none.arrow"
        self.end(self.start(HEAD_TRAINER, "train", "--index", missing, "--store", self.local["store"],
                            data=elsewhere), code=1)
        self.assertIn("there is no index s3://", self.stderr)

    def test_a_damaged_object_is_found(self):
        store = self.features(self.images, self.store, self.data)["store"]
        (key,) = [key for key in self.objects(self.data.name) if "shard-" in key]
        body = bytearray(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        body[len(body) // 2] ^= 1
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(body))
        self.end(self.start(HEAD_TRAINER, "train", "--index", self.local["index"], "--store", store, data=self.data),
                 code=1)
        self.assertIn("is damaged: ", self.stderr)
        self.extractor("store", "verify", store, data=self.data, code=5)
        self.s3.delete_object(Bucket=BUCKET, Key=key)
        again = self.features(self.images, self.store, self.data)
        self.assertEqual(again["rows"], {"cached": 0, "new": ROWS})
        self.assertEqual(self.downloaded(store), self.expected)


if __name__ == "__main__":
    make_environment(VENV, REQUIREMENTS)
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(PYTHON, [PYTHON, *sys.argv])
    unittest.main()
