#!/usr/bin/env python3
"""Trains heads with the built binaries and reads their event files with the `tensorboard` package, as TensorBoard does.

Needs target/release/extractor and head-trainer (make build) and ONNX Runtime (make runtime). The environment is that of
test_read_store.py.
"""

import csv
import struct
import tempfile
import unittest
from pathlib import Path

from test_read_store import PYTHON, ROOT, make_environment, run

EXTRACTOR = ROOT / "target" / "release" / "extractor"
HEAD_TRAINER = ROOT / "target" / "release" / "head-trainer"

# Runs in the environment: what TensorBoard finds below a folder of runs: {run: {tag: [[step, value, time], ...]}}.
READ_EVENTS = """
import json, sys
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.scalar import metadata
from tensorboard.util import tensor_util
multiplexer = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance={"scalars": 0})
multiplexer.AddRunsFromDirectory(sys.argv[1])
multiplexer.Reload()
found = {}
for run in multiplexer.Runs():
    events = EventAccumulator(f"{sys.argv[1]}/{run}", size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    scalars = multiplexer.PluginRunToTagToContent(metadata.PLUGIN_NAME)[run]
    assert sorted(scalars) == sorted(tags), (scalars, tags)
    found[run] = {
        tag: [[e.step, tensor_util.make_ndarray(e.tensor_proto).item(), e.wall_time] for e in events.Tensors(tag)]
        for tag in tags
    }
print(json.dumps(found))
"""


def f32(text):
    """The nearest 32-bit number: what an event file holds."""
    return struct.unpack("<f", struct.pack("<f", float(text)))[0]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Events(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_environment()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        folder = Path(folder.name)
        run(EXTRACTOR, "sample", folder / "images", "--per-class", "20", "--json")
        model, index = folder / "model.onnx", folder / "index.arrow"
        run(EXTRACTOR, "backbone", "seed", "--size", "64", "--out", model, "--json")
        places = ["--store", folder / "features", "--index", index, "--json"]
        run(EXTRACTOR, "features", folder / "images", "--backbone", model, *places)

        def train(*flags):
            return Path(run(HEAD_TRAINER, "train", *places, "--runs", cls.runs, *flags)["run"])

        cls.runs = folder / "runs"
        cls.adam = train("--batch-size", "8", "--epochs", "3")
        cls.lbfgs = train("--solver", "lbfgs")
        cls.found = run(PYTHON, "-c", READ_EVENTS, cls.runs)

    def pairs(self, folder, side, tag):
        return [(step, value) for step, value, _ in self.found[f"{folder.name}/{side}"][tag]]

    def test_runs_and_tags_are_those_of_keras(self):
        keras = {
            "train": ["batch_accuracy", "batch_loss", "epoch_accuracy", "epoch_learning_rate", "epoch_loss"],
            "validation": [
                "epoch_accuracy", "epoch_loss", "evaluation_accuracy_vs_iterations", "evaluation_loss_vs_iterations",
            ],
        }
        self.assertEqual(
            sorted(self.found), sorted(f"{r.name}/{side}" for r in [self.adam, self.lbfgs] for side in keras)
        )
        for side, tags in keras.items():
            self.assertEqual(sorted(self.found[f"{self.adam.name}/{side}"]), tags)
            epoch = ["epoch_accuracy", "epoch_loss"]
            self.assertEqual(sorted(self.found[f"{self.lbfgs.name}/{side}"]), epoch)

    def test_steps_are_those_of_steps_csv(self):
        steps = rows(self.adam / "steps.csv")
        self.assertEqual(len(steps), 3 * 4)  # 32 training images in batches of 8
        for name in ["accuracy", "loss"]:
            expected = [(int(row["step"]), f32(row[f"running_{name}"])) for row in steps]
            self.assertEqual(self.pairs(self.adam, "train", f"batch_{name}"), expected)
        self.assertEqual(rows(self.lbfgs / "steps.csv"), [])

    def test_epochs_are_those_of_metrics_csv(self):
        for folder, count in [(self.adam, 3), (self.lbfgs, 1)]:
            epochs = rows(folder / "metrics.csv")
            self.assertEqual(len(epochs), count)
            for side in ["train", "validation"]:
                for name in ["accuracy", "loss"]:
                    expected = [(int(row["epoch"]) - 1, f32(row[f"{side}_{name}"])) for row in epochs]
                    self.assertEqual(self.pairs(folder, side, f"epoch_{name}"), expected)
        for name in ["accuracy", "loss"]:
            expected = [(4 * i, f32(r[f"validation_{name}"])) for i, r in enumerate(rows(self.adam / "metrics.csv"), 1)]
            self.assertEqual(self.pairs(self.adam, "validation", f"evaluation_{name}_vs_iterations"), expected)
        self.assertEqual(
            self.pairs(self.adam, "train", "epoch_learning_rate"), [(i, f32(0.001)) for i in range(3)]
        )

    def test_times_go_on_and_last_as_long_as_the_training(self):
        times = [time for _, _, time in self.found[f"{self.adam.name}/train"]["batch_loss"]]
        self.assertEqual(times, sorted(times))
        secs = sum(float(row["secs"]) for row in rows(self.adam / "metrics.csv"))
        self.assertLessEqual(times[-1] - times[0], secs + 1e-3)


if __name__ == "__main__":
    unittest.main()
