#!/usr/bin/env python3
"""Checks the arithmetic, the tables and the arguments of scripts/bench_features.py on made-up seconds.

Needs no binary, no engine, no GPU and no environment; where .venv/bench has been made, PyTorch's tasks for a GPU run
on the processor. Standard library only.
"""

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))
import bench_features  # noqa: E402
import bench_features_ours  # noqa: E402
import bench_features_table as table  # noqa: E402
import bench_head  # noqa: E402

SETS = ["180x180", "500x375"]
IMAGES = 600
TWO = {"sessions": 2, "threads_each": 1}
VENV_PYTHON = bench_head.VENV / "bin" / "python"


def row(key, scope, set_name, secs, **more):
    return {"key": key, "name": f"the {key}", "scope": scope, "set": set_name, "secs": secs, **more}


def measured():
    """Rows whose medians are 6 s of ours, 5.7 s of the raw engine, 9 s of Keras."""
    return [
        row("ours", table.END_TO_END, SETS[0], [6.0, 5.0, 20.0], total_secs=[8.0, 6.0, 30.0],
            cached_secs=[0.04, 0.03, 0.05], peak_bytes=500_000_000, engine="engine 1", provider="CPU",
            arrangement=TWO),
        row("raw", table.ENGINE_ONLY, None, [5.7, 4.0, 19.0]),
        row("ours", table.END_TO_END, SETS[1], [7.0, 7.0, 7.0]),
        row("keras", table.END_TO_END, SETS[0], [9.0, 8.0, 30.0]),
        row("keras", table.END_TO_END, SETS[1], [10.0, 8.0, 12.0]),
        row("ours-openvino-bf16", table.END_TO_END, SETS[0], [3.0, 2.5, 3.5],
            least_cosine=0.99999, compared_with="ours"),
    ]


def measured_on_cuda():
    """Rows whose medians are 0.6 s of ours in fp32, 0.4 s in TF32, 0.5 s of PyTorch from the files."""
    return [
        row("ours-cuda-fp32", table.END_TO_END, SETS[0], [0.6, 0.5, 0.7], total_secs=[3.0, 2.0, 4.0],
            cached_secs=[0.02, 0.02, 0.03], peak_bytes=900_000_000, engine="engine 1", provider="CUDA"),
        row("torch cuda fp32", table.ENGINE_ONLY, None, [0.25, 0.2, 0.3]),
        row("ours-cuda-fp32", table.END_TO_END, SETS[1], [0.8, 0.8, 0.8]),
        row("ours-cuda-tf32", table.END_TO_END, SETS[0], [0.4, 0.4, 0.5],
            least_cosine=0.999999, compared_with="ours, CUDA fp32"),
        row("torch cuda files tf32", table.END_TO_END, SETS[0], [0.5, 0.4, 0.6]),
    ]


def result(device="cpu"):
    rows = table.finished(measured_on_cuda() if device == "cuda" else measured(), IMAGES, device)
    machine = {"processor": "P", "cores": 4, "vector_instructions": [], "memory_bytes": 8e9, "load_at_start": 0.1}
    return {
        "date": "2000-01-01T00:00:00+00:00",
        "machine": machine | {"gpu": "NVIDIA G, driver 580.1" if device == "cuda" else None},
        "versions": {"extractor": "1"},
        "settings": {"device": device, "rounds": 3, "images": IMAGES, "batch": 64, "threads": 2, "backbone": "b"},
        "rows": rows,
        "goals": table.goals(rows, SETS, device),
    }


class Arithmetic(unittest.TestCase):
    def test_medians_and_spread(self):
        ours = table.finished(measured(), IMAGES)[0]
        self.assertEqual((ours["images_per_sec"], ours["low"], ours["high"]), (100.0, 30.0, 120.0))
        self.assertEqual(ours["median_total_secs"], 8.0)

    def test_ratios_are_to_the_same_files(self):
        ours, raw, large, _, _, _ = table.finished(measured(), IMAGES)
        self.assertAlmostEqual(ours["of_raw"], 0.95)
        self.assertAlmostEqual(ours["of_keras"], 1.5)
        self.assertAlmostEqual(large["of_keras"], 10 / 7)
        self.assertAlmostEqual(raw["of_keras"], 9 / 5.7)

    def test_goals(self):
        goals = {goal["name"]: goal for goal in result()["goals"]}
        self.assertEqual(len(goals), 8)
        raw = goals["ours / raw engine, 500x375 JPEGs"]
        self.assertAlmostEqual(raw["measured"], 5.7 / 7)
        self.assertIs(raw["reached"], False)
        keras = goals["ours / Keras end to end, 180x180 JPEGs"]
        self.assertIs(keras["reached"], True)
        self.assertEqual((keras["low"], keras["high"]), (1.5, 1.6))
        cached = goals["whole command, fully cached: times as fast as the first"]
        self.assertAlmostEqual(cached["measured"], 200.0)
        self.assertIs(goals["ours, OpenVINO bf16 / Keras end to end"]["reached"], True)
        self.assertIs(goals["ours, OpenVINO bf16: least cosine with fp32"]["reached"], True)
        self.assertIsNone(goals["ours, int8 / ours"]["reached"])

    def test_goals_on_cuda(self):
        speed, cached, cosine = result("cuda")["goals"]
        self.assertEqual(speed["name"], "ours, CUDA tf32 / PyTorch TF32 DataLoader end to end")
        self.assertAlmostEqual(speed["measured"], 1.25)
        self.assertEqual((speed["least"], speed["low"], speed["reached"]), (1, 1.0, True))
        self.assertAlmostEqual(cached["measured"], 150.0)
        self.assertEqual((cosine["least"], cosine["measured"], cosine["reached"]), (0.9999, 0.999999, True))
        alone = table.finished(measured_on_cuda()[:1], IMAGES, "cuda")
        self.assertEqual([goal["reached"] for goal in table.goals(alone, SETS[:1], "cuda")], [None, True, None])

    def test_on_cuda_the_ratio_is_to_pytorch_from_the_first_files(self):
        ratios = [row["of_torch_tf32"] for row in table.finished(measured_on_cuda(), IMAGES, "cuda")]
        for found, wanted in zip(ratios, [0.5 / 0.6, 2.0, None, 1.25, 1.0], strict=True):
            self.assertIsNone(found) if wanted is None else self.assertAlmostEqual(found, wanted)

    def test_the_raw_engine_is_the_faster_arrangement(self):
        split = row("raw-split", table.ENGINE_ONLY, None, [5.0, 4.0, 19.0])
        rows = table.finished([*measured(), split], IMAGES)
        self.assertAlmostEqual(rows[0]["of_raw"], 5 / 6)
        goals = {goal["name"]: goal for goal in table.goals(rows, SETS)}
        self.assertAlmostEqual(goals["ours / raw engine, 180x180 JPEGs"]["measured"], 5 / 6)

    def test_a_goal_at_its_bound_is_reached(self):
        for cached_secs, reached in [(0.08, True), (0.081, False)]:
            rows = measured()
            rows[0]["cached_secs"] = [cached_secs] * 3
            goals = table.goals(table.finished(rows, IMAGES), SETS)
            self.assertIs(next(goal for goal in goals if "cached" in goal["name"])["reached"], reached)

    def test_without_peers(self):
        rows = table.finished(measured()[:1], IMAGES)
        self.assertIsNone(rows[0]["of_raw"])
        goals = table.goals(rows, SETS[:1])
        self.assertEqual([goal["reached"] for goal in goals if goal["measured"] is not None], [True])
        self.assertTrue(table.plain(result() | {"rows": rows, "goals": goals}))

    def test_measured_rows_are_left_as_they_are(self):
        rows = measured()
        before = copy.deepcopy(rows)
        table.finished(rows, IMAGES)
        self.assertEqual(rows, before)


class Tables(unittest.TestCase):
    def test_plain(self):
        text = table.plain(result())
        self.assertIn("MISSED", text)
        self.assertIn("not measured", text)
        told = "whole command 8.00 s, again with all cached 0.040 s, peak memory 500 MB, on engine 1, CPU provider"
        told += ", 2 x 1 threads in the last round"
        self.assertIn(told, text)
        line = next(line for line in text.splitlines() if line.startswith("the keras") and "500x375" in line)
        self.assertEqual(line.split()[-2:], ["0.57", "1.00"])

    def test_markdown_has_a_cell_a_column(self):
        lines = [line for line in table.markdown(result()).splitlines() if line.startswith("|")]
        self.assertEqual(len(lines), 2 + len(measured()))
        self.assertEqual({line.count("|") for line in lines}, {len(table.head("cpu")) + 1})

    def test_on_cuda(self):
        lines = table.plain(result("cuda")).splitlines()
        self.assertEqual(lines[1], "GPU: NVIDIA G, driver 580.1")
        head = next(line for line in lines if "images/s" in line)
        self.assertTrue(head.endswith("lowest to highest  of PyTorch, TF32"), head)
        self.assertEqual(next(line for line in lines if line.startswith("the ours-cuda-tf32")).split()[-1], "1.25")
        rows = [line for line in table.markdown(result("cuda")).splitlines() if line.startswith("|")]
        self.assertEqual({line.count("|") for line in rows}, {len(table.head("cuda")) + 1})

    def test_on_the_cpu_no_gpu_is_told(self):
        self.assertNotIn("GPU", table.plain(result()))
        with mock.patch.object(bench_features, "gpus", side_effect=AssertionError):
            self.assertIsNone(bench_features.machine("cpu")["gpu"])

    def test_gpus(self):
        for code, told, wanted in [
            (0, "NVIDIA A, 580.1\nNVIDIA B, 580.1\n", "NVIDIA A, driver 580.1; NVIDIA B, driver 580.1"),
            (9, "NVIDIA-SMI has failed\n", None),
            (0, "", None),
        ]:
            done = subprocess.CompletedProcess([], code, told, "")
            with mock.patch.object(bench_features.subprocess, "run", return_value=done):
                self.assertEqual(bench_features.gpus(), wanted)
        with mock.patch.object(bench_features.subprocess, "run", side_effect=FileNotFoundError):
            self.assertIsNone(bench_features.gpus())

    def test_it_is_json(self):
        self.assertEqual(json.loads(json.dumps(result()))["rows"], result()["rows"])


class Arguments(unittest.TestCase):
    binary = ["--extractor", __file__]

    def refused(self, *arguments):
        told = io.StringIO()
        with contextlib.redirect_stderr(told), self.assertRaises(SystemExit) as ended:
            bench_features.parse([*self.binary, *arguments])
        self.assertEqual(ended.exception.code, 2)
        return told.getvalue()

    def test_peers(self):
        self.assertEqual(bench_features.parse([*self.binary, "--peers", ""]).peers, [])
        self.assertEqual(bench_features.parse(self.binary).peers, bench_features.LIBRARIES)
        self.assertIn("no jax", self.refused("--peers", "raw,jax"))

    def test_on_cuda(self):
        on_cuda = [*self.binary, "--device", "cuda"]
        self.assertEqual(bench_features.parse(on_cuda).peers, ["torch"])
        self.assertEqual(bench_features.parse([*on_cuda, "--peers", ""]).peers, [])
        told = self.refused(*on_cuda, "--peers", "torch,keras")
        self.assertIn("no keras with --device cuda (hint: some of torch)", told)
        self.assertIn("--int8 is for the CPU", self.refused(*on_cuda, "--int8", __file__))
        self.assertIn("invalid choice: 'rocm'", self.refused("--device", "rocm"))

    def test_another_python(self):
        self.assertIsNone(bench_features.parse(self.binary).bench_python)
        given = bench_features.parse([*self.binary, "--bench-python", os.path.relpath(sys.executable)]).bench_python
        self.assertEqual(given, Path.cwd() / os.path.relpath(sys.executable))
        self.assertIn("is not a program", self.refused("--bench-python", "nowhere/python"))

    def test_numbers_and_files(self):
        self.assertIn("--rounds must be at least 1", self.refused("--rounds", "0"))
        self.assertIn("is not a file", self.refused("--backbone", "nowhere.onnx"))
        self.assertIn("is not a folder", self.refused("--data", __file__))


class Fake:
    """A contestant of ours that computes nothing, or fails, or a peer."""

    def __init__(self, key, provider="CUDA", fails=False, tasks=()):
        self.key, self.name, self.provider, self.ready = key, f"the {key}", "cuda", {"tasks": tasks}
        self.told, self.fails, self.last = provider, fails, {"secs": 1.0}

    def once(self, _images, place=None):
        if self.fails:
            raise bench_features.BenchFailure(f"no {self.key}")
        new = place and not (place / "store").exists()
        if new:
            (place / "store").mkdir()
        counts = {"new": IMAGES if new else 0, "cached": 0 if new else IMAGES}
        common = {"provider": self.told, "engine": "engine 1", "store": f"store of {self.key}", "arrangement": TWO}
        return common | {"counts": counts, "extract_secs": 1.0, "secs": 2.0, "peak_bytes": 1}


class OnCuda(unittest.TestCase):
    """What runs on a GPU, without one: the first contestant is not called "ours"."""

    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        told = contextlib.redirect_stderr(io.StringIO())
        told.__enter__()
        self.addCleanup(told.__exit__, None, None, None)

    def test_ours(self):
        options = types.SimpleNamespace(device="cuda", extractor="extractor", threads=2, ours_args="", int8=None)
        with mock.patch.object(bench_features_ours, "run") as run:
            ours = bench_features.contestants_of_ours(options, "b.onnx")
        run.assert_called_once_with("extractor", "runtime", "fetch", "--flavour", "cuda")
        told = [(one.key, one.name, one.flags[4:]) for one in ours]
        self.assertEqual(told, [
            ("ours-cuda-fp32", "ours, CUDA fp32", ["--ep", "cuda"]),
            ("ours-cuda-tf32", "ours, CUDA tf32", ["--ep", "cuda", "--precision", "tf32"]),
        ])

    def tried(self, *ours):
        with mock.patch.object(bench_features_ours, "run"):
            return bench_features.tried(ours, self.place, types.SimpleNamespace(extractor="extractor"))

    def test_the_first_must_work(self):
        first, second = Fake("ours-cuda-fp32"), Fake("ours-cuda-tf32", fails=True)
        working, told, left_out = self.tried(first, second)
        self.assertEqual((working, told["provider"]), ([first], "CUDA"))
        self.assertEqual(left_out, ["the ours-cuda-tf32: no ours-cuda-tf32"])
        with self.assertRaisesRegex(bench_features.BenchFailure, "no ours-cuda-tf32"):
            self.tried(second, first)
        with self.assertRaisesRegex(bench_features.BenchFailure, "--ep cuda` ran on CPU"):
            self.tried(Fake("ours-cuda-fp32", provider="CPU"), first)

    def test_rounds(self):
        options = types.SimpleNamespace(images=IMAGES, rounds=2)
        sets = [{"name": name, "folder": name} for name in SETS]
        ours = [Fake("ours-cuda-fp32"), Fake("ours-cuda-tf32")]
        peer = Fake("torch", tasks=["torch cuda fp32", "torch cuda files tf32"])
        with mock.patch.object(bench_features, "run", return_value='{"least_cosine": 0.5}') as run:
            rows = bench_features.Rounds(options, self.place, sets, ours, [peer]).go()
        run.assert_called_once()
        self.assertEqual(run.call_args.args[-2:], ("store of ours-cuda-fp32", "store of ours-cuda-tf32"))
        self.assertEqual([(row["key"], row["set"], len(row["secs"])) for row in rows], [
            ("ours-cuda-fp32", SETS[0], 2), ("torch cuda fp32", None, 2), ("ours-cuda-fp32", SETS[1], 2),
            ("ours-cuda-tf32", SETS[0], 2), ("torch cuda files tf32", SETS[0], 2),
        ])
        self.assertEqual([row["key"] for row in rows if "cached_secs" in row], ["ours-cuda-fp32"] * 2)
        self.assertEqual((rows[3]["least_cosine"], rows[3]["compared_with"]), (0.5, "the ours-cuda-fp32"))
        self.assertEqual(list(self.place.iterdir()), [])


# The processor stands in for the GPU; torch.cuda is never asked for one.
STAND_IN = """
import json, sys
import numpy as np, torch, torchvision
from pathlib import Path
import bench_features_torch

folder = Path(sys.argv[1])
(folder / "a").mkdir()
for n in range(5):
    pixels = torch.randint(0, 255, (3, 40, 50), dtype=torch.uint8)
    torchvision.io.write_jpeg(pixels, str(folder / "a" / f"{n}.jpg"))
torch.cuda.synchronize = lambda: None
pinned = []
torch.Tensor.pin_memory = lambda tensor: pinned.append(tensor) or tensor
torch.set_grad_enabled(False)
settings = {"threads": 1, "sets": [{"folder": str(folder)}]}
inputs = [np.zeros((size, 32, 32, 3), np.float32) for size in (3, 2)]
tasks = bench_features_torch.cuda_tasks(settings, inputs, device="cpu")
for name, task in tasks.items():
    del pinned[:]
    task(), task()
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == ("fp32" not in name), name
    assert [tuple(maps.shape) for maps in pinned] == [(3, 2048, 1, 1), (2, 2048, 1, 1)], name
    assert {maps.dtype for maps in pinned} == {torch.float16 if "fp16" in name else torch.float32}, name
print(json.dumps(list(tasks)))
"""


class PyTorch(unittest.TestCase):
    def served(self, *command, **environment):
        settings = json.dumps({"device": "cuda", "threads": 1, "folder": "."})
        command = [*command, bench_features.PEERS, "serve", "torch", settings]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)

    def test_without_pytorch(self):
        done = self.served(sys.executable, "-S")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"^error: \S+ lacks what torch needs: No module named 'torch' \(hint: .*\)\n$")

    @unittest.skipUnless(VENV_PYTHON.exists(), "no .venv/bench")
    def test_without_a_gpu(self):
        done = self.served(VENV_PYTHON, CUDA_VISIBLE_DEVICES="")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"^error: PyTorch \S+ of \S+ finds no CUDA device \(hint: .*\)\n$")

    @unittest.skipUnless(VENV_PYTHON.exists(), "no .venv/bench")
    def test_tasks_on_the_processor(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [VENV_PYTHON, "-W", "ignore", "-c", STAND_IN, folder]
            no_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
            done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS, env=no_gpu, timeout=600)
        self.assertEqual(done.returncode, 0, done.stderr)
        tasks = json.loads(done.stdout)
        self.assertEqual(tasks[1], table.TORCH_TF32)  # runs right beside ours in TF32
        self.assertEqual(set(tasks), {name for name in bench_features.NAMES if name.startswith("torch cuda")})


if __name__ == "__main__":
    unittest.main()
