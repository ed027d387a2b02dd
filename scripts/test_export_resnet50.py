#!/usr/bin/env python3
"""Runs scripts/export_resnet50.py for real, with random weights, and looks at what it leaves.

The first run makes the export's environment (minutes, and a download); later ones take about a minute.
`HEADSTART_EXPORT_VENV` names an environment folder other than the default. Standard library only; what needs Keras
or ONNX runs in the export's environment.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
SCRIPT = SCRIPTS / "export_resnet50.py"
VENV = Path(os.environ.get("HEADSTART_EXPORT_VENV", SCRIPTS.parent / ".venv" / "export"))

sys.path.insert(0, str(SCRIPTS))
import export_env  # noqa: E402
import export_resnet50  # noqa: E402

# What the export's own libraries see in the model file, as JSON.
INSPECT = """
import json, sys, numpy as np, onnx, onnxruntime
model = onnx.load(sys.argv[1])
side = int(sys.argv[2])
dims = lambda value: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
maps = session.run(["features"], {"input": np.random.default_rng(5).random((2, side, side, 3), np.float32)})[0]
print(json.dumps({
    "input": [model.graph.input[0].name, dims(model.graph.input[0])],
    "output": [model.graph.output[0].name, dims(model.graph.output[0])],
    "ir": model.ir_version, "opset": model.opset_import[0].version,
    "parameters": sum(int(np.prod(t.dims)) for t in model.graph.initializer),
    "metadata": {p.key: p.value for p in model.metadata_props},
    "shape": maps.shape, "dtype": str(maps.dtype), "mean": float(maps.mean()), "max": float(maps.max()),
}))
"""

# A weights file as a user would have saved it, with batch statistics and biases that are not Keras' initial ones.
SAVE_WEIGHTS = """
import os, sys
os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")
import keras, numpy as np, tensorflow as tf
rng = np.random.default_rng(3)
model = tf.keras.applications.ResNet50(include_top=False, weights=None, input_shape=(100, 100, 3))
for weight in model.weights:
    if weight.path.endswith(("bias", "beta", "moving_mean")):
        weight.assign(rng.normal(0, 0.1, weight.shape))
    elif weight.path.endswith(("gamma", "moving_variance")):
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
model.save_weights(sys.argv[1])  # the format of today
model.save(sys.argv[2])  # the older format, which the published weights have too
"""


def run(*arguments, venv=VENV):
    command = [sys.executable, str(SCRIPT), "--venv", str(venv), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def in_environment(code, *arguments):
    command = [str(VENV / "bin" / "python"), "-E", "-s", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def results(stdout):
    return dict(line.split(None, 1) for line in stdout.splitlines())


class Arguments(unittest.TestCase):
    """Refused before an environment is made: the folder given for it must stay absent."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def enterContext(self, manager):  # unittest has it from Python 3.11 on
        value = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return value

    def refused(self, code, words, *arguments):
        done = run("--out", self.folder / "m.onnx", *arguments, venv=self.folder / "venv")
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertFalse((self.folder / "venv").exists())
        self.assertFalse((self.folder / "m.onnx").exists())
        return done.stderr

    def test_bad_arguments_are_usage_errors(self):
        self.refused(2, "needs a seed", "--weights", "none")
        self.refused(2, "has no meaning", "--seed", "1")
        self.refused(2, "not between", "--weights", "none", "--seed", "-1")
        self.refused(2, "below 32", "--weights", "none", "--seed", "1", "--size", "31")
        self.refused(2, "neither imagenet, none, nor", "--weights", "absent.h5")
        self.refused(2, "ends in .onnx", "--out", "model.pb")
        self.refused(2, "unrecognized arguments", "--sede", "1")

    def test_help(self):
        done = run("--help", venv=self.folder / "venv")
        self.assertEqual(done.returncode, 0)
        self.assertIn("--weights", done.stdout)

    def test_a_file_that_is_no_hdf5(self):
        garbage = self.folder / "weights.h5"
        garbage.write_bytes(b"not weights at all" * 100)
        error = self.refused(1, "is not an HDF5 file", "--weights", garbage)
        self.assertEqual(len(error.splitlines()), 1)

    def test_the_published_name_with_other_bytes(self):
        wrong = self.folder / export_resnet50.PUBLISHED_NAME
        wrong.write_bytes(export_resnet50.HDF5_MAGIC + bytes(1000))
        self.refused(1, "expected 4d473c1dd8becc155b73f8504c6f6626", "--weights", wrong)

    def test_a_folder_that_is_not_ours_is_left_alone(self):
        theirs = self.folder / "theirs"
        theirs.mkdir()
        (theirs / "file").write_text("keep me")
        done = run("--out", self.folder / "m.onnx", "--weights", "none", "--seed", "1", venv=theirs)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is left alone", done.stderr)
        self.assertEqual([entry.name for entry in theirs.iterdir()], ["file"])


class PipErrors(unittest.TestCase):
    def explain(self, text):
        return export_env.explain_pip(text, Path("pip.log"))

    def test_offline(self):
        log = (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)'\n"
            "ERROR: Could not find a version that satisfies the requirement absl-py==2.5.1 (from versions: none)\n"
        )
        self.assertIn("cannot reach its package index", self.explain(log))

    def test_no_wheel(self):
        log = "ERROR: Could not find a version that satisfies the requirement tensorflow==2.21.0\nERROR: No match\n"
        self.assertIn("Could not find a version", self.explain(log))
        self.assertIn("wheels for Linux", self.explain(log))

    def test_another_file_than_pinned(self):
        self.assertIn("differs from the one pinned", self.explain("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"))


class Export(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.out = cls.folder / "deep" / "resnet50.onnx"
        cls.done = run("--weights", "none", "--seed", "1", "--out", cls.out)
        if cls.done.returncode != 0:
            cls.temporary.cleanup()
            raise AssertionError(cls.done.stderr)
        cls.seen = json.loads(in_environment(INSPECT, cls.out, 100))

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_model(self):
        seen = self.seen
        self.assertEqual(seen["input"], ["input", ["N", 100, 100, 3]])
        self.assertEqual(seen["output"], ["features", ["N", 4, 4, 2048]])
        self.assertEqual((seen["shape"], seen["dtype"]), ([2, 4, 4, 2048], "float32"))
        self.assertEqual((seen["ir"], seen["opset"]), (8, 17))
        self.assertEqual(seen["parameters"], 23_587_712)
        # White noise, which the calibration batch held among others: the maps are of order 1.
        self.assertTrue(0.1 < seen["mean"] < 10 and seen["max"] < 100, seen)

    def test_metadata_and_results(self):
        metadata, printed = self.seen["metadata"], results(self.done.stdout)
        self.assertEqual(metadata["weights"], "none seed 1")
        self.assertEqual(metadata["weights_sha256"], printed["weights_sha256"])
        self.assertEqual(metadata["parameters"], "23587712")
        self.assertEqual(metadata["preset"], "unit")
        self.assertTrue(metadata["source"].startswith("tf.keras.applications.ResNet50("))
        self.assertTrue(metadata["tensorflow_version"] and metadata["keras_version"])
        self.assertEqual(printed["model"], str(self.out))
        self.assertEqual(printed["sha256"], hashlib.sha256(self.out.read_bytes()).hexdigest())
        self.assertLess(float(printed["max_relative_error"]), 1e-4)

    def test_description(self):
        lines = self.out.with_suffix(".toml").read_text().splitlines()
        self.assertEqual(
            lines[:5],
            [
                'name = "resnet50"',
                'preset = "unit"',
                "input_size = [100, 100]",
                'feature_tensor = "features"',
                "trained = false",
            ],
        )
        self.assertEqual(len(lines), 6)
        self.assertTrue(lines[5].startswith('note = "') and "seed 1" in lines[5])

    def test_no_temporary_file_is_left(self):
        self.assertEqual(sorted(p.name for p in self.out.parent.iterdir()), ["resnet50.onnx", "resnet50.toml"])

    def test_same_seed_same_file_quietly(self):
        again = self.folder / "again.onnx"
        done = run("--weights", "none", "--seed", "1", "--out", again, "--quiet")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(results(done.stdout)["sha256"], results(self.done.stdout)["sha256"])

    def test_another_size_has_the_same_weights(self):
        other = self.folder / "other.onnx"
        done = run("--weights", "none", "--seed", "1", "--size", "64", "--out", other)
        self.assertEqual(done.returncode, 0, done.stderr)
        printed = results(done.stdout)
        self.assertEqual(printed["features"], "[N, 2, 2, 2048]")
        self.assertEqual(printed["weights_sha256"], results(self.done.stdout)["weights_sha256"])
        self.assertIn("input_size = [64, 64]", other.with_suffix(".toml").read_text())

    def test_weights_from_files_of_both_formats(self):
        today, older = self.folder / "w.weights.h5", self.folder / "w.h5"
        in_environment(SAVE_WEIGHTS, today, older)
        digests = set()
        for weights in (today, older):
            out = self.folder / "file.onnx"
            done = run("--weights", weights, "--out", out)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("assuming", done.stderr)
            digests.add(results(done.stdout)["weights_sha256"])
            description = out.with_suffix(".toml").read_text()
            self.assertIn('preset = "caffe"', description)
            self.assertIn("trained = true", description)
            self.assertIn(weights.name, description)
        self.assertEqual(len(digests), 1)

    def test_hdf5_that_is_no_resnet50_leaves_earlier_files(self):
        out, weights = self.folder / "kept.onnx", self.folder / "other.h5"
        out.write_bytes(b"earlier")
        in_environment("import h5py, sys; h5py.File(sys.argv[1], 'w')['x'] = [1.0]", weights)
        done = run("--weights", weights, "--out", out)
        self.assertEqual(done.returncode, 1)
        self.assertIn("does not fit ResNet50", done.stderr)
        self.assertEqual(out.read_bytes(), b"earlier")
        self.assertFalse(out.with_suffix(".toml").exists())
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name.endswith(".tmp")], [])


if __name__ == "__main__":
    unittest.main()
