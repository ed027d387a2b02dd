#!/usr/bin/env python3
"""Trains heads with the built binaries, writes their pages (`head-trainer export --web`), serves them on this machine and
gives them images in headless Chromium: the probabilities are those of `head-trainer predict`.

Needs target/release/extractor and head-trainer (make build), ONNX Runtime (make runtime) and Debian's `chromium`;
without that it says so and skips. The first run downloads ONNX Runtime's WebAssembly build (33 MB) into data/web.
`HEADSTART_CHROMIUM`, `HEADSTART_EXTRACTOR`, `HEADSTART_HEAD_TRAINER` and `HEADSTART_PICTURES` as in test_report.py; with
`HEADSTART_TEST_DATA` one head sits on MobileNetV2. Standard library only.
"""

import base64
import functools
import http.server
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
import threading
import unittest
import zlib
from pathlib import Path

from browser import CHROMIUM, Browser
from test_read_store import ROOT
from test_report import EXTRACTOR, HEAD_TRAINER, HOSTILE

TEST_DATA = os.environ.get("HEADSTART_TEST_DATA")
LOSSLESS = 1e-5
IMAGES = 12  # a class
ANSWER = '!document.getElementById("result").hidden || !document.getElementById("error").hidden'
READ = """(() => ({
  decision: document.getElementById("decision").textContent,
  why: document.getElementById("why").textContent,
  status: document.getElementById("status").textContent,
  error: document.getElementById("error").hidden ? "" : document.getElementById("error").textContent,
  note: document.getElementById("note").hidden ? "" : document.getElementById("note").textContent,
  size: [document.getElementById("image").width, document.getElementById("image").height],
  classes: Object.fromEntries([...document.querySelectorAll("#probabilities tr")].map((row) =>
    [row.querySelector("th").textContent, Number(row.querySelector("td").dataset.probability)])),
}))()"""
# What the page took the image for, in base64.
PIXELS = """(() => {
  const canvas = document.getElementById("image");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const parts = [];
  for (let at = 0; at < data.length; at += 4) parts.push(String.fromCharCode(data[at], data[at + 1], data[at + 2]));
  return btoa(parts.join(""));
})()"""
LOOK = """(() => ({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  title: document.title,
  heading: document.querySelector("h1").textContent,
  labels: document.getElementById("labels").textContent,
  facts: [...document.querySelectorAll("dt")].map((term) => term.textContent),
}))()"""


TURN = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # EXIF: orientation 6, a quarter turn


def png(path, width, height, pixels, channels=3, turned=False):
    """Writes 8-bit samples, rows top to bottom, as a PNG file."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = width * channels
    lines = b"".join(b"\0" + pixels[y * row:(y + 1) * row] for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    # Another gamma than sRGB's, which colour management would act on and a decoder does not.
    body = chunk(b"IHDR", head) + chunk(b"gAMA", struct.pack(">I", 100_000)) + (chunk(b"eXIf", TURN) if turned else b"")
    body += chunk(b"IDAT", zlib.compress(lines))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


def turned(jpeg):
    """The same JPEG with a note that it is to be turned."""
    block = b"Exif\0\0" + TURN
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@unittest.skipUnless(CHROMIUM, "no chromium is installed (hint: apt-get install chromium)")
class WebPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.data = Path(folder.name)
        for cached in ["runtime", "web"]:
            (ROOT / "data" / cached).mkdir(parents=True, exist_ok=True)
            (cls.data / cached).symlink_to((ROOT / "data" / cached).resolve())
        cls.site = cls.data / "site"
        cls.jpegs()
        seeded = two = cls.data / "backbones" / "resnet50.onnx"
        cls.run_json(EXTRACTOR, "backbone", "seed", "--size", "64", "--out", seeded)
        if TEST_DATA:
            two = Path(shutil.copy(Path(TEST_DATA) / "models" / "mobilenetv2_100.onnx", seeded.parent))
            two.with_suffix(".toml").write_text('preset = "imagenet"\n')
        cls.runs = {
            "two": cls.made("two", ["Cat", "Dog"], two, "ignore", "--threshold", "youden", "--temperature"),
            "three": cls.made("three", [HOSTILE, "Dog", "חתול"], seeded, "apply"),
        }
        handler = functools.partial(Quiet, directory=cls.site)
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.server.server_close)
        cls.addClassCleanup(cls.server.shutdown)
        cls.origin = f"http://127.0.0.1:{cls.server.server_port}"
        cls.browser = Browser(loopback=True)
        cls.addClassCleanup(cls.browser.close)

    @classmethod
    def run_json(cls, binary, *arguments):
        command = [str(part) for part in [binary, *arguments, "--json", "--quiet", "--data-dir", cls.data]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{command} exited {done.returncode}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    @classmethod
    def jpegs(cls):
        """Photos, or drawings where there are none."""
        if TEST_DATA:
            files = sorted((Path(TEST_DATA) / "pets").glob("*/*.jpg"))[:: 60]
        else:
            cls.run_json(EXTRACTOR, "sample", cls.data / "sample", "--per-class", "6")
            files = sorted((cls.data / "sample").glob("*/*.jpg"))
        cls.photos = cls.data / "photos"
        cls.photos.mkdir()
        files = [file for file in files if b"Exif" not in file.read_bytes()[:1000]]  # may be turned already
        for n, file in enumerate(files[:4]):
            shutil.copy(file, cls.photos / f"{n}.jpg")
        png(cls.photos / "turned.png", 40, 30, bytes(range(240)) * 15, turned=True)
        (cls.photos / "turned.jpg").write_bytes(turned((cls.photos / "0.jpg").read_bytes()))

    @classmethod
    def made(cls, name, classes, backbone, exif, *flags):
        """A run on PNG files of many sizes in folders of these names, and its page."""
        draw = random.Random(0)
        images = cls.data / name
        for k, label in enumerate(classes):
            (images / label).mkdir(parents=True)
            for n in range(IMAGES):
                width, height = 20 + 31 * (n % 7), 33 + 17 * (n % 5)
                pixels = bytearray(draw.randbytes(width * height * 3))
                pixels[k::3] = bytes(width * height) if n % 3 else pixels[k::3]
                png(images / label / f"{n:02}.png", width, height, bytes(pixels))
        places = ["--store", cls.data / f"{name}-features", "--index", cls.data / f"{name}.arrow"]
        cls.run_json(EXTRACTOR, "features", images, "--backbone", backbone, "--exif", exif, *places)
        trained = cls.run_json(HEAD_TRAINER, "train", *places, "--standardize", *flags)[0]["run"]
        page = cls.site / name
        for _ in range(2):  # the second replaces the first
            written = cls.run_json(HEAD_TRAINER, "export", trained, "--web", page, "--license", "MIT")[0]
        assert Path(written["web"]).resolve() == page.resolve(), written
        return trained

    def predicted(self, name, path):
        line = self.run_json(HEAD_TRAINER, "predict", self.runs[name], path)[0]
        return line["label"], line["probability"]

    def open(self, name, width=1280, **how):
        self.browser.open(f"{self.origin}/{name}/", width, **how)

    def ready(self, name, width=1280, **how):
        self.open(name, width, **how)
        status = self.browser.wait_for(
            '!document.getElementById("error").hidden && document.getElementById("error").textContent || '
            'document.getElementById("status").textContent === "Ready" && "Ready"'
        )
        self.assertEqual(status, "Ready")

    def answer(self, path):
        self.browser.evaluate('document.getElementById("result").hidden = true')
        self.browser.evaluate('document.getElementById("error").hidden = true')
        self.browser.choose("#file", path)
        self.browser.wait_for(ANSWER)
        return self.browser.evaluate(READ)

    def nothing_went_wrong(self):
        spoken = [e for e in self.browser.events if e.get("method") in ["Log.entryAdded", "Page.javascriptDialogOpening"]]
        self.assertEqual(spoken, [])
        elsewhere = [u for u in self.browser.requests if not u.startswith((self.origin, "data:", "blob:"))]
        self.assertEqual(elsewhere, [])

    def test_lossless_images_get_the_probabilities_of_predict(self):
        for name in self.runs:
            self.ready(name)
            largest, count = 0.0, 0
            for path in sorted((self.data / name).glob("*/*.png"))[::3]:
                label, probability = self.predicted(name, path)
                got = self.answer(path)
                self.assertEqual((got["error"], got["note"], got["decision"]), ("", "", label), path)
                largest = max(largest, abs(got["classes"][label] - probability))
                self.assertAlmostEqual(sum(got["classes"].values()), 1, places=5)
                count += 1
            print(f"{name}: {count} PNG files, probabilities differ by {largest:.1e} at most")
            self.assertGreater(count, 5)
            self.assertLessEqual(largest, LOSSLESS)
            self.nothing_went_wrong()

    def test_jpegs_differ_by_the_decoders_alone_and_turn_as_the_run_says(self):
        for name in self.runs:
            self.ready(name)
            largest, sizes, decoders = 0.0, {}, []
            for path in sorted(self.photos.iterdir()):
                label, probability = self.predicted(name, path)
                got = self.answer(path)
                self.assertEqual(got["error"], "")
                decoders.append(abs(got["classes"][label] - probability))
                sizes[path.name] = got["size"]
                # What predict says of the browser's own pixels.
                png(self.data / "seen.png", *got["size"], base64.b64decode(self.browser.evaluate(PIXELS)))
                label, probability = self.predicted(name, self.data / "seen.png")
                self.assertEqual(got["decision"], label)
                largest = max(largest, abs(got["classes"][label] - probability))
            print(
                f"{name}: {len(sizes)} photos, probabilities differ by {largest:.1e} at most from the same pixels, "
                f"by {max(decoders):.1e} from this project's decoder"
            )
            self.assertLessEqual(largest, LOSSLESS)
            turn = -1 if name == "three" else 1
            self.assertEqual(sizes["turned.jpg"], sizes["0.jpg"][::turn])
            self.assertEqual(sizes["turned.png"], [40, 30][::turn])
            self.nothing_went_wrong()

    def test_a_dropped_image_is_classified(self):
        self.ready("two")
        path = sorted((self.data / "two").glob("*/*.png"))[4]
        chosen = self.answer(path)
        self.browser.evaluate('document.getElementById("result").hidden = true')
        content = base64.b64encode(path.read_bytes()).decode()
        self.browser.evaluate(f"""(() => {{
          const bytes = Uint8Array.from(atob("{content}"), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "dropped.png", {{ type: "image/png" }}));
          document.body.dispatchEvent(new DragEvent("drop", {{ bubbles: true, cancelable: true, dataTransfer }}));
        }})()""")
        self.browser.wait_for(ANSWER)
        self.assertEqual(self.browser.evaluate(READ)["classes"], chosen["classes"])
        self.assertIn("threshold", chosen["why"])

    def test_what_cannot_be_decoded_says_so_and_the_next_image_works(self):
        self.ready("two")
        bad = self.data / "bad.png"
        bad.write_bytes(b"no image")
        self.assertIn("bad.png cannot be decoded", self.answer(bad)["error"])
        clear = self.data / "clear.png"
        png(clear, 40, 30, bytes(range(240)) * 20, channels=4)
        got = self.answer(clear)
        self.assertEqual(got["error"], "")
        self.assertIn("transparent", got["note"])

    def test_the_page_says_what_the_model_is_in_both_themes_and_widths(self):
        grounds = set()
        for name, width, dark in [
            ("two", 390, False), ("two", 1280, True), ("three", 390, True), ("three", 1280, False)
        ]:
            self.ready(name, width, dark=dark)
            self.answer(sorted((self.data / name).glob("*/*.png"))[0])
            self.browser.evaluate('document.getElementById("about").open = true')
            look = self.browser.evaluate(LOOK)
            self.assertLessEqual(look["overflow"], 0)
            self.assertEqual(look["title"], look["heading"])
            self.assertIn("Dog", look["labels"])
            for fact in ["run", "license", "preset", "model_sha256"]:
                self.assertIn(fact, look["facts"])
            grounds.add((dark, look["ground"]))
            self.nothing_went_wrong()
            folder = os.environ.get("HEADSTART_PICTURES")
            if folder:
                theme = "dark" if dark else "light"
                self.browser.picture(Path(folder) / f"web-{name}-{width}-{theme}.png")
        self.assertEqual(grounds, {(False, "rgb(255, 255, 255)"), (True, "rgb(20, 23, 26)")})

    def test_the_keyboard_reaches_the_file_field_first(self):
        self.ready("two")
        self.browser.press("Tab")
        self.assertEqual(self.browser.evaluate("document.activeElement.id"), "file")
        self.browser.press("Tab")
        self.assertEqual(self.browser.evaluate("document.activeElement.tagName"), "SUMMARY")

    def test_opened_as_a_file_or_without_script_it_says_what_to_do(self):
        self.browser.open(self.site / "two" / "index.html", 1280)
        self.browser.wait_for('!document.getElementById("error").hidden')
        self.assertIn("python3 -m http.server", self.browser.evaluate(READ)["error"])
        self.open("two", script=False)
        self.assertIn("JavaScript", self.browser.evaluate("document.body.innerText"))

    def test_a_server_that_lacks_a_file_is_named(self):
        shutil.copytree(self.site / "two", self.site / "broken")
        self.addCleanup(shutil.rmtree, self.site / "broken")
        (self.site / "broken" / "model.onnx").unlink()
        self.open("broken")
        self.browser.wait_for('!document.getElementById("error").hidden')
        self.assertIn("model.onnx: the server says 404", self.browser.evaluate(READ)["error"])


if __name__ == "__main__":
    unittest.main()
