#!/usr/bin/env python3
"""Trains heads with the built binaries, exports them as ONNX models and runs those in Python's onnxruntime: the checker
accepts them, and images of any size get the probabilities of `head-trainer predict`.

Needs target/release/extractor and head-trainer (make build) and ONNX Runtime (make runtime). The environment is that of
test_read_store.py, in which it runs itself. `HEADSTART_EXTRACTOR` and `HEADSTART_HEAD_TRAINER` name other binaries. With
`HEADSTART_TEST_DATA` it takes real photos and backbones, without an untrained ResNet50 on the synthetic sample set.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from test_read_store import PYTHON, VENV, make_environment

if __name__ == "__main__" and Path(sys.prefix).resolve() != VENV.resolve():
    make_environment()
    os.execv(PYTHON, [PYTHON, *sys.argv])

import numpy as np
import onnx
import onnxruntime
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))
HEAD_TRAINER = Path(os.environ.get("HEADSTART_HEAD_TRAINER", ROOT / "target" / "release" / "head-trainer"))
TEST_DATA = os.environ.get("HEADSTART_TEST_DATA")
IMAGES = 20  # a class
TOLERANCE = 1e-5


class ExportedModel(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.data = Path(self.folder.name)
        (self.data / "runtime").symlink_to(ROOT / "data" / "runtime")

    def run_json(self, binary, *arguments):
        command = [binary, *arguments, "--json", "--quiet", "--data-dir", self.data]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def pictures(self):
        """Images as PNG files, which every decoder reads alike, of many sizes."""
        if TEST_DATA:
            for folder in sorted((Path(TEST_DATA) / "pets").iterdir()):
                (self.data / "set" / folder.name).mkdir(parents=True)
                for n, file in enumerate(sorted(folder.iterdir())[:IMAGES]):
                    with Image.open(file) as image:
                        size = (20 + 31 * (n % 7), 33 + 17 * (n % 5))
                        image.convert("RGB").resize(size).save(self.data / "set" / folder.name / f"{n:02}.png")
            return
        random = np.random.default_rng(0)
        for k, name in enumerate(["Cat", "Dog"]):
            (self.data / "set" / name).mkdir(parents=True)
            for n in range(IMAGES):
                pixels = random.integers(0, 256, (20 + 31 * (n % 7), 33 + 17 * (n % 5), 3), np.uint8)
                pixels[:, :, k] //= 2
                Image.fromarray(pixels).save(self.data / "set" / name / f"{n:02}.png")

    def backbones(self):
        if TEST_DATA:
            models = Path(TEST_DATA) / "models"
            return [models / "mobilenetv2_100.onnx", models / "resnet50_w1a2_i8_100_nhwc.onnx"]
        file = self.data / "resnet50.onnx"
        self.run_json(EXTRACTOR, "backbone", "seed", "--out", file)
        return [file]

    def test_probabilities_are_those_of_predict(self):
        self.pictures()
        for backbone in self.backbones():
            for dtype in ["f32", "f16"]:
                with self.subTest(backbone=backbone.name, dtype=dtype):
                    self.check(backbone, dtype)

    def check(self, backbone, dtype):
        images = self.data / "set"
        flags = ["--backbone", backbone, "--dtype", dtype]
        self.run_json(EXTRACTOR, "features", images, *flags)
        trained = self.run_json(HEAD_TRAINER, "train", images, *flags, "--standardize", "--threshold", "youden")[0]
        file = self.data / f"{backbone.stem}-{dtype}.onnx"
        self.run_json(HEAD_TRAINER, "export", trained["run"], "--onnx", file, "--license", "MIT")

        model = onnx.load(file)
        onnx.checker.check_model(model, full_check=True)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        labels = json.loads(metadata["headstart.labels"])
        self.assertEqual(labels, ["Cat", "Dog"])
        self.assertEqual(metadata["headstart.license"], "MIT")
        self.assertEqual(metadata["headstart.run"], trained["record"]["digest"])

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.assertEqual([i.name for i in session.get_inputs()], ["image"])
        self.assertEqual([o.name for o in session.get_outputs()], ["probabilities", "label"])
        predicted = self.run_json(HEAD_TRAINER, "predict", trained["run"], images)
        self.assertEqual(len(predicted), 2 * IMAGES)
        largest = 0.0
        sizes = set()
        for line in predicted:
            with Image.open(line["path"]) as image:
                pixels = np.asarray(image.convert("RGB"))[None]
            sizes.add(pixels.shape)
            probabilities, label = session.run(None, {"image": pixels})
            self.assertEqual(labels[label[0]], line["label"])
            largest = max(largest, abs(float(probabilities[0, label[0]]) - line["probability"]))
            together, _ = session.run(None, {"image": np.concatenate([pixels, pixels])})
            np.testing.assert_allclose(together, np.concatenate([probabilities] * 2), atol=TOLERANCE)
        print(f"{backbone.name} {dtype}: {len(sizes)} sizes, probabilities differ by {largest:.1e} at most")
        self.assertLessEqual(largest, TOLERANCE)


if __name__ == "__main__":
    unittest.main()
