#!/usr/bin/env python3
"""Quantises a backbone with the built binary (`backbone quantize`), and looks at the result with onnx and onnxruntime.

Needs target/release/extractor (make build), ONNX Runtime (make runtime) and HEADSTART_TEST_DATA, without which it says so
and passes. The first run makes the quantiser's environment, .venv/quantize; `HEADSTART_QUANTIZE_VENV` names another
folder, `HEADSTART_EXTRACTOR` another binary. Standard library only; what needs onnx runs in that environment.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))
VENV = Path(os.environ.get("HEADSTART_QUANTIZE_VENV", ROOT / ".venv" / "quantize"))
TEST_DATA = Path(os.environ.get("HEADSTART_TEST_DATA", "/nonexistent"))
CALIBRATE = 64
JUDGE = 2000
MAX_LOSS_POINTS = 1.0
MIN_COSINE = 0.98  # of pooled features, on average

# What onnx and onnxruntime see in the model, as JSON.
INSPECT = """
import collections, json, sys, numpy as np, onnx, onnxruntime
from onnx import TensorProto
model = onnx.load(sys.argv[1])
onnx.checker.check_model(model, full_check=True)
graph = model.graph
dims = lambda value: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
tensors = {tensor.name: tensor for tensor in graph.initializer}
axis = lambda node: next((a.i for a in node.attribute if a.name == "axis"), 1)
of = {node.output[0]: node for node in graph.node}
weights, biases, activations = collections.Counter(), collections.Counter(), collections.Counter()
for node in graph.node:
    if node.op_type == "Conv":
        weight = of[node.input[1]]
        tensor, scale = tensors[weight.input[0]], tensors[weight.input[1]]
        zero = onnx.numpy_helper.to_array(tensors[weight.input[2]])
        per_channel = list(scale.dims) == [tensor.dims[0]] and axis(weight) == 0
        weights[f"{TensorProto.DataType.Name(tensor.data_type)} {per_channel} {not zero.any()}"] += 1
        biases[TensorProto.DataType.Name(tensors[of[node.input[2]].input[0]].data_type)] += 1
        activations[of[node.input[0]].op_type] += 1
    if node.op_type == "QuantizeLinear":
        zero = tensors[node.input[2]]
        activations[f"{TensorProto.DataType.Name(zero.data_type)} {len(zero.dims)}"] += 1
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shapes = [session.run(None, {"input": np.random.default_rng(1).normal(size=(n, 3, 100, 100)).astype(np.float32)})[0] for n in (1, 3)]
print(json.dumps({
    "input": [graph.input[0].name, graph.input[0].type.tensor_type.elem_type, dims(graph.input[0])],
    "output": [graph.output[0].name, graph.output[0].type.tensor_type.elem_type, dims(graph.output[0])],
    "weights": weights, "biases": biases, "activations": activations,
    "shapes": [[list(maps.shape), str(maps.dtype)] for maps in shapes],
    "metadata": {p.key: p.value for p in model.metadata_props},
    "domains": [opset.domain for opset in model.opset_import],
}))
"""


@unittest.skipUnless(TEST_DATA.is_dir(), "HEADSTART_TEST_DATA is not set")
class Quantize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = Path(holder.name)
        (cls.folder / "data").mkdir()
        (cls.folder / "data" / "runtime").symlink_to((ROOT / "data" / "runtime").resolve())
        cls.temporary = cls.folder / "tmp"
        cls.temporary.mkdir()
        cls.float = cls.folder / "mobilenetv2.onnx"
        cls.float.write_bytes((TEST_DATA / "models" / "mobilenetv2_100.onnx").read_bytes())
        cls.float.with_suffix(".toml").write_text('name = "mobilenetv2"\npreset = "imagenet"\nlicence = "Apache-2.0"\n')
        cls.int8 = cls.folder / "data" / "backbones" / "mobilenetv2-int8.onnx"
        done = cls.quantize("--calibrate", CALIBRATE, "--judge", JUDGE, "--split", TEST_DATA / "splits.csv")
        assert done.returncode == 0, done.stderr
        cls.result = json.loads(done.stdout)

    @classmethod
    def extractor(cls, *arguments):
        command = [EXTRACTOR, *arguments, "--json", "--quiet", "--data-dir", cls.folder / "data"]
        environment = {**os.environ, "TMPDIR": str(cls.temporary), "HEADSTART_QUANTIZE_VENV": str(VENV)}
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)

    @classmethod
    def quantize(cls, *flags, model=None):
        return cls.extractor("backbone", "quantize", model or cls.float, TEST_DATA / "pets", *flags)

    def refused(self, words, *flags, model=None):
        """Fails with these words and leaves nothing behind."""
        before = {path: path.stat().st_mtime_ns for path in self.int8.parent.iterdir()}
        done = self.quantize(*flags, model=model)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertRegex(done.stderr, words)
        self.assertEqual(len(done.stderr.splitlines()), 1)
        self.assertEqual({path: path.stat().st_mtime_ns for path in self.int8.parent.iterdir()}, before)
        self.nothing_temporary_is_left()

    def nothing_temporary_is_left(self):
        """`.ses` is what ONNX Runtime leaves in whatever process loads it."""
        self.assertEqual([path for path in self.temporary.iterdir() if path.name != ".ses"], [])

    def test_what_it_costs(self):
        result, heads = self.result, self.result["heads"]
        print(f"int8 costs {result['loss_points']:.2f} points (standard error {100 * heads['standard_error']:.2f}), "
              f"{result['images_per_sec']['ratio']:.2f} times as fast, cosine {result['cosine']['mean']:.4f}", file=sys.stderr)  # fmt: skip
        self.assertLessEqual(result["loss_points"], MAX_LOSS_POINTS)
        self.assertEqual(heads["images"], JUDGE)
        # 240 of 2,400 images are on the test side, which leaves enough for both.
        self.assertEqual((result["left_out"], result["calibrated_and_judged"]), (240, 0))
        self.assertTrue(all(0.88 < share < 0.97 for share in heads["accuracy"]), heads)
        self.assertAlmostEqual(result["loss_points"], 100 * (heads["accuracy"][0] - heads["accuracy"][1]), places=9)
        self.assertLess(heads["standard_error"], 0.006)
        self.assertGreater(result["cosine"]["mean"], MIN_COSINE)
        self.assertGreater(1, result["cosine"]["mean"])
        self.assertLess(result["size_bytes"]["int8"], result["size_bytes"]["float"] / 3)
        self.nothing_temporary_is_left()

    def test_types_and_shapes(self):
        done = subprocess.run([VENV / "bin" / "python", "-E", "-s", "-c", INSPECT, self.int8], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        seen = json.loads(done.stdout)
        self.assertEqual(seen["input"], ["input", 1, ["N", 3, 100, 100]])
        self.assertEqual(seen["output"], ["features", 1, ["N", 1280, 4, 4]])
        self.assertEqual(seen["shapes"], [[[n, 1280, 4, 4], "float32"] for n in (1, 3)])
        # Symmetric, a scale an output channel; and every convolution reads 8 bits.
        self.assertEqual(seen["weights"], {"INT8 True True": 52})
        self.assertEqual(seen["biases"], {"INT32": 52})
        self.assertEqual(set(seen["activations"]), {"DequantizeLinear", "UINT8 0"})
        self.assertEqual(seen["activations"]["DequantizeLinear"], 52)
        self.assertEqual(seen["domains"], [""])
        digest = hashlib.sha256(self.float.read_bytes()).hexdigest()
        self.assertEqual(seen["metadata"]["headstart.quantized_from"], digest)
        self.assertEqual(seen["metadata"]["headstart.preset"], "imagenet")

    def test_description(self):
        text = self.int8.with_suffix(".toml").read_text()
        for line in [
            'name = "mobilenetv2-int8"', 'preset = "imagenet"', 'licence = "Apache-2.0"', "input_size = [100, 100]",
            f'sha256 = "{hashlib.sha256(self.int8.read_bytes()).hexdigest()}"',
        ]:  # fmt: skip
            self.assertIn(line + "\n", text)
        self.assertIn(f"calibrated on {CALIBRATE} images, percentile 99.999", text)
        self.assertEqual(sorted(p.name for p in self.int8.parent.iterdir()), [self.int8.name, self.int8.stem + ".toml"])

    def test_features_run_on_it(self):
        stores = set()
        for model in [self.float, self.int8]:
            done = self.extractor("features", TEST_DATA / "pets", "--backbone", model, "--dtype", "f16")
            self.assertEqual(done.returncode, 0, done.stderr)
            result = json.loads(done.stdout)
            self.assertEqual((result["counts"]["new"], result["map_shape"]), (2400, [4, 4, 1280]))
            stores.add(result["store"])
        self.assertEqual(len(stores), 2)

    def test_a_loss_above_what_is_allowed(self):
        flags = ["--calibrate", 16, "--judge", 200, "--name", "other"]
        self.refused(r"int8 costs -?\d+\.\d\d points of head accuracy, more than --max-drop -100: float .* \(hint: ",
                     *flags, "--max-drop", -100)  # fmt: skip

    def test_the_same_again_is_the_same_file(self):
        flags = ["--calibrate", CALIBRATE, "--judge", 200, "--max-drop", 100, "--split", TEST_DATA / "splits.csv"]
        done = self.quantize(*flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["digest"], self.result["digest"])

    def test_another_file_is_not_replaced(self):
        self.refused("another backbone is there", "--calibrate", 16)

    def test_a_quantised_model_is_refused(self):
        model = self.folder / "w1a2.onnx"
        model.write_bytes((TEST_DATA / "models" / "resnet50_w1a2_i8_100_nhwc.onnx").read_bytes())
        self.refused(r"quantised already: its weights \w+ are whole numbers \(hint: ", "--preset", "unit", model=model)
        self.refused(r"quantised already: it has the node .* \(hint: ", model=self.int8)

    def test_without_python(self):
        self.refused(r"cannot start no-such-python \(hint: .* --python FILE\)", "--python", "no-such-python", "--name", "other")

    def test_a_folder_that_is_no_environment(self):
        theirs = self.folder / "theirs"
        theirs.mkdir()
        (theirs / "file").write_text("keep me")
        self.refused("is left alone", "--venv", theirs, "--name", "other")
        self.assertEqual((theirs / "file").read_text(), "keep me")


if __name__ == "__main__":
    unittest.main()
