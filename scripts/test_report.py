#!/usr/bin/env python3
"""Trains heads with the built binaries, writes their report and opens it in headless Chromium: the figures are there and
can be read on a phone and on a desk, in both themes and on paper, and nothing is fetched.

Needs target/release/extractor and head-trainer (make build), ONNX Runtime (make runtime) and Debian's `chromium`;
without that it says so and skips. `HEADSTART_CHROMIUM` names another one, `HEADSTART_EXTRACTOR` and
`HEADSTART_HEAD_TRAINER` other binaries, `HEADSTART_PICTURES` a folder to keep pictures of the pages in. Standard
library only.
"""

import os
import tempfile
import unittest
from pathlib import Path

from browser import CHROMIUM, Browser
from test_read_store import ROOT, run

EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))
HEAD_TRAINER = Path(os.environ.get("HEADSTART_HEAD_TRAINER", ROOT / "target" / "release" / "head-trainer"))
HOSTILE = "<img src=x onerror=alert(1)>"
WIDTHS = [390, 1280]
LEAST_TEXT = 9  # CSS pixels

# What a page looks like, from outside.
MEASURE = """
(() => {
  const box = (element) => { const r = element.getBoundingClientRect(); return [r.width, r.height]; };
  const scale = (svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    figures: [...document.querySelectorAll("svg.figure")].map((svg) => ({
      name: svg.querySelector("title").id,
      box: box(svg),
      texts: [...svg.querySelectorAll("text")].map((text) => ({
        px: parseFloat(getComputedStyle(text).fontSize) * scale(svg),
        box: box(text),
        outside: (() => {
          const t = text.getBoundingClientRect(), s = svg.getBoundingClientRect();
          return Math.max(s.left - t.left, t.right - s.right, s.top - t.top, t.bottom - s.bottom);
        })(),
        text: text.textContent,
      })),
    })),
    small: [...document.querySelectorAll("body *")].filter((element) =>
      [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) &&
      !element.closest("svg") && parseFloat(getComputedStyle(element).fontSize) < 12
    ).map((element) => element.outerHTML.slice(0, 80)),
    images: [...document.images].map((image) => [image.src.split(",")[0], image.complete && image.naturalWidth > 0]),
    ground: getComputedStyle(document.body).backgroundColor,
    headings: [...document.querySelectorAll("h1,h2,h3,h4")].map((h) => Number(h.tagName[1])),
    unnamed: [...document.querySelectorAll("svg.figure")].filter((svg) =>
      svg.getAttribute("aria-labelledby").split(" ").some((id) => !document.getElementById(id).textContent)).length,
  };
})()
"""


@unittest.skipUnless(CHROMIUM, "no chromium is installed (hint: apt-get install chromium)")
class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.pages = {"two": cls.made("two", ["Cat", "Dog"]), "three": cls.made("three", [HOSTILE, "Dog", "חתול"])}
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    @classmethod
    def made(cls, name, classes):
        """A report of two runs on sample images in folders of these names."""
        folder = cls.folder / name
        images = folder / "images"
        run(EXTRACTOR, "sample", folder / "sample", "--per-class", "60", "--json")
        images.mkdir()
        made = sorted(path for path in (folder / "sample").iterdir() if path.is_dir())
        for source, to in zip(made, classes):
            source.rename(images / to)
        for to in classes[len(made):]:  # one more class: every third image of the others
            (images / to).mkdir()
            files = [path for other in classes[: len(made)] for path in sorted((images / other).iterdir())]
            for file in files[::3]:
                file.rename(images / to / f"{file.parent.name[:1].strip('<')}{file.name}")
        model, index = folder / "model.onnx", folder / "index.arrow"
        run(EXTRACTOR, "backbone", "seed", "--size", "64", "--out", model, "--json")
        places = ["--store", folder / "features", "--index", index, "--json"]
        run(EXTRACTOR, "features", images, "--backbone", model, *places)

        def train(*flags):
            return run(HEAD_TRAINER, "train", *places, "--runs", folder / "runs", *flags)["run"]

        runs = [train("--batch-size", "8", "--epochs", "5"), train("--solver", "lbfgs")]
        if name == "two":  # and the baseline
            pixels = ["--store", folder / "pixels", "--checkpoints", folder, "--size", "32x32", "--epochs", "2"]
            runs[1] = run(
                HEAD_TRAINER, "baseline", images, "--index", index, "--runs", folder / "runs", *pixels, "--json"
            )["run"]
        return Path(run(HEAD_TRAINER, "report", *runs, "--out", folder / "report.html", "--json")["report"])

    def open(self, name, width, **how):
        self.browser.open(self.pages[name], width, **how)
        fetched = [url for url in self.browser.requests if not url.startswith("data:")]
        self.assertEqual(fetched, [self.pages[name].resolve().as_uri()])
        spoken = [e for e in self.browser.events if e.get("method") in ["Log.entryAdded", "Page.javascriptDialogOpening"]]
        self.assertEqual(spoken, [])
        folder = os.environ.get("HEADSTART_PICTURES")
        if folder:
            theme = "dark" if how.get("dark") else "light"
            self.browser.picture(Path(folder) / f"{name}-{width}-{theme}.png")
        return self.browser.evaluate(MEASURE)

    def test_figures_are_there_and_can_be_read(self):
        for name in self.pages:
            for width in WIDTHS:
                with self.subTest(page=name, width=width):
                    found = self.open(name, width)
                    self.assertEqual(len(found["figures"]), 11)
                    self.assertLessEqual(found["overflow"], 0)
                    self.assertEqual(found["small"], [])
                    self.assertEqual(found["unnamed"], 0)
                    for figure in found["figures"]:
                        self.assertGreater(min(figure["box"]), 100, figure["name"])
                        self.assertGreater(len(figure["texts"]), 3, figure["name"])
                        for text in figure["texts"]:
                            where = (figure["name"], text["text"])
                            self.assertGreaterEqual(text["px"], LEAST_TEXT, where)
                            self.assertGreater(min(text["box"]), 0, where)
                            self.assertLessEqual(text["outside"], 2, where)

    def test_no_script_is_needed_and_none_runs(self):
        for name in self.pages:
            with_script, without = self.open(name, 1280), self.open(name, 1280, script=False)
            self.assertEqual(with_script, without)
            # No name has become an element, and every picture is in the page and shows.
            self.assertEqual({tuple(image) for image in without["images"]}, {("data:image/jpeg;base64", True)})

    def test_both_themes(self):
        grounds = [self.open("two", 390, dark=dark)["ground"] for dark in [False, True]]
        self.assertEqual(grounds, ["rgb(255, 255, 255)", "rgb(20, 23, 26)"])

    def test_headings_leave_no_level_out(self):
        headings = self.open("two", 1280)["headings"]
        self.assertEqual(headings[0], 1)
        self.assertEqual(headings.count(1), 1)
        for before, after in zip(headings, headings[1:]):
            self.assertLessEqual(after, before + 1)

    def test_it_prints(self):
        self.open("two", 1280)
        self.assertTrue(self.browser.pdf().startswith(b"%PDF-"))


if __name__ == "__main__":
    unittest.main()
