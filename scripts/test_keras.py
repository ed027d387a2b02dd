#!/usr/bin/env python3
"""Trains heads on Keras's ResNet50 (random weights), exports them as Keras models (`head-trainer export --keras`) and runs
what that writes with TensorFlow: the probabilities are those of `head-trainer predict`.

Needs target/release/extractor and head-trainer (make build) and ONNX Runtime (make runtime). The first run makes the
export's environment (minutes, and a download), which test_export_resnet50.py describes. `HEADSTART_EXTRACTOR` and
`HEADSTART_HEAD_TRAINER` name other binaries. Standard library only.
"""

import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from test_export_resnet50 import VENV
from test_export_resnet50 import run as export_resnet50
from test_report import EXTRACTOR, HEAD_TRAINER
from test_read_store import ROOT
from test_web import png

TOLERANCE = 2e-5
PRINTED = 1e-6  # the script prints six digits

# A saved model, opened by Keras alone.
REOPEN = """
import sys, numpy as np, tensorflow as tf
model = tf.keras.models.load_model(sys.argv[1])
print(model.output_shape[1], [type(layer).__name__ for layer in model.layers])
"""


class KerasModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.data = Path(folder.name)
        (cls.data / "runtime").symlink_to(ROOT / "data" / "runtime")
        cls.backbone = cls.data / "backbones" / "resnet50.onnx"
        done = export_resnet50("--weights", "none", "--seed", "1", "--size", "64", "--out", cls.backbone, "--quiet")
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        for k in range(3):  # stripes of three colours, of the input's own size: nothing is resized
            for n in range(12):
                row = bytearray(64 * 3)
                row[k::3] = bytes((x * (n + 2) * 3) % 256 for x in range(64))
                row[(k + 1) % 3::3] = bytes([20 * n]) * 64
                for name in ["two", "three"][k == 2:]:
                    label = cls.data / name / "abc"[k]
                    label.mkdir(parents=True, exist_ok=True)
                    png(label / f"{n:02}.png", 64, 64, bytes(row) * 64)

    def run_json(self, binary, *arguments):
        done = self.run_plainly(binary, *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run_plainly(self, *command):
        command = [str(part) for part in [*command, "--quiet", "--data-dir", self.data]]
        return subprocess.run(command, capture_output=True, text=True)

    def in_keras(self, *arguments):
        command = [str(part) for part in [VENV / "bin" / "python", "-E", "-s", *arguments]]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def trained(self, name, backbone, *flags, preset="unit"):
        """A run on images of that name, and the images."""
        images = self.data / name
        common = [images, "--backbone", backbone, "--preset", preset]
        self.run_json(EXTRACTOR, "features", *common)
        run = self.run_json(HEAD_TRAINER, "train", *common, *flags)[0]["run"]
        return run, sorted(images.glob("*/*.png"))

    def check(self, name, outputs, preset, *flags):
        run, images = self.trained(name, self.backbone, *flags, preset=preset)
        script = self.data / f"{name}.py"
        written = self.run_json(HEAD_TRAINER, "export", run, "--keras", script, "--license", "MIT")[0]
        self.assertEqual(Path(written["keras"]), script)
        saved = self.data / f"{name}.keras"
        first, *lines = self.in_keras(script, "--save", saved, *images).splitlines()
        checked = float(re.search(r"differ by (\S+) at most", first)[1])
        largest = 0.0
        predicted = self.run_json(HEAD_TRAINER, "predict", run, self.data / name)
        self.assertEqual(len(lines), len(images))
        by_path = {line["path"]: line for line in predicted}
        for line in lines:
            label, probability, path = line.split("\t")
            expected = by_path[path]
            self.assertEqual(label, expected["label"], path)
            largest = max(largest, abs(float(probability) - expected["probability"]))
        print(f"{name}: differ by {checked:.1e} on the reference images, {largest:.1e} on {len(lines)} files")
        self.assertLessEqual(max(checked, largest), TOLERANCE + PRINTED)
        count, layers = self.in_keras("-c", REOPEN, saved).split(None, 1)
        self.assertEqual(int(count), outputs)
        self.assertIn("'GlobalAveragePooling2D', 'Dense'", layers)

        # A weight that is not the exported one is noticed.
        weights = script.with_suffix(".safetensors")
        content = bytearray(weights.read_bytes())
        header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
        start, end = header["probabilities"]["data_offsets"]
        at = len(content) - end + start
        content[at:at + 4] = b"\x00\x00\x00\x40"  # 2.0
        weights.write_bytes(content)
        command = [str(VENV / "bin" / "python"), "-E", "-s", str(script)]
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 1)

    def test_two_classes_have_a_sigmoid(self):
        self.check("two", 1, "caffe", "--standardize", "--temperature", "--threshold", "youden")

    def test_three_classes_have_a_softmax(self):
        self.check("three", 3, "unit", "--standardize")

    def test_another_backbone_is_refused(self):
        other = self.data / "backbones" / "other.onnx"
        self.run_json(EXTRACTOR, "backbone", "seed", "--size", "64", "--out", other)
        run, _ = self.trained("two", other)
        script = self.data / "other.py"
        done = self.run_plainly(HEAD_TRAINER, "export", run, "--keras", script)
        self.assertEqual(done.returncode, 1)
        self.assertIn("export_resnet50.py", done.stderr)
        self.assertIn("hint", done.stderr)
        self.assertFalse(script.exists() or script.with_suffix(".safetensors").exists())


if __name__ == "__main__":
    unittest.main()
